"""Validate arrays once, pick a backend, call it: the only caller of the kernels."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from fastrnn.backends import asked_for, load, resolve
from fastrnn.cells import Cell, State, Weights, WrittenCell
from fastrnn.checks import Array, take_array, to_dtype
from fastrnn.errors import BackendError
from fastrnn.fits import check_call, check_gradients, check_weights, layout
from fastrnn.narrow import NarrowWeight, narrow
from fastrnn.threads import allowed_threads

__all__ = [
    "LayerWeights",
    "Several",
    "SeveralTape",
    "Tape",
    "adam",
    "are_ready",
    "as_input",
    "as_lengths",
    "as_real",
    "as_states",
    "as_tokens",
    "backward",
    "begin_gradients",
    "choose",
    "choose_for_cell",
    "choose_for_precision",
    "empty",
    "end_gradients",
    "forward",
    "gates",
    "infer",
    "is_tokens",
    "keep",
    "keeps",
    "kept_sizes",
    "multiply",
    "prepared",
    "recall",
    "run",
    "run_group",
    "run_packed",
    "sample",
    "scatter_add",
    "softmax",
    "sums_backward",
]


def is_tokens(x: Array) -> bool:
    """Whether x holds token indices (integers) rather than real input."""
    return x.dtype.kind in "iu"


def are_ready(values: Sequence[Any], dtype: np.dtype[Any], shape: tuple[int, ...], free: int = 0) -> bool:
    """Whether `as_real` would return each value as it is: all that most calls need to know, at a third of the cost.

    False also for some that it would (read-only ones): it is for `as_real` to find out, and to say what is wrong.
    """
    for value in values:
        if (
            type(value) is not np.ndarray
            or value.dtype is not dtype
            or value.shape[free:] != shape
            or not value.flags.carray
        ):
            return False
    return True


def as_real(name: str, value: Any, dtype: np.dtype[Any], shape: tuple[int, ...], letters: str, free: int = 0) -> Array:
    """Return `value` as a C-contiguous, aligned, native array of `dtype` and `shape`; a copy only where needed.

    Before the axes in `shape` there are `free` ones of any size. `letters` names the expected shape in errors.

    Raises
    ------
    TypeError
        If the dtype differs (in more than byte order).
    ValueError
        If the shape differs.
    """
    array = value if type(value) is np.ndarray else take_array(name, value)
    given = array.dtype
    if given is not dtype and given.newbyteorder("=") != dtype:
        raise TypeError(f"{name} has dtype {given}; expected {dtype}{_other_dtype(name, value, dtype)}")
    if array.shape[free:] != shape:
        raise ValueError(f"{name} has shape {array.shape}; expected {letters} = {_listed(['any'] * free, shape)}")
    flags = array.flags
    if flags.c_contiguous and flags.aligned and given.isnative:
        return array
    return np.require(array, dtype, ["C", "A"])


def _other_dtype(name: str, value: Any, dtype: np.dtype[Any]) -> str:
    """The remedy where a module is given floats of another dtype than its own."""
    remedy, given = to_dtype(name, value, dtype), np.asarray(value).dtype
    if remedy and given in (np.float32, np.float64):
        remedy += f", or dtype='{given}' for the module"
    return remedy


def as_tokens(name: str, tokens: Array, limit: int, letters: str) -> Array:
    """Return a contiguous copy of `tokens`, intp; ValueError unless 0 <= token < limit, which `letters` names."""
    own = np.array(tokens, order="C")  # before the look: kernels trust what was seen, and others may write to the array
    if own.size and not 0 <= (low := int(own.min())) <= (high := int(own.max())) < limit:
        raise ValueError(
            f"{name} holds the token {low if low < 0 else high}; expected 0 <= token < {letters} = {limit}"
        )
    return np.require(own, np.intp, ["C", "A"])


def as_input(
    x: Any,
    dtype: np.dtype[Any],
    input_size: int,
    leading: tuple[str, ...],
    *,
    time_major: bool = True,
    padded: bool = False,
) -> tuple[Array, bool]:
    """Validate the input of a module or cell.

    Parameters
    ----------
    x
        Real input or token indices, with or without the axis N.
    dtype, input_size
        Of real input.
    leading
        The letters of the axes before I, N among them.
    time_major
        Whether time is the first axis, if there are two; else they are swapped.
    padded
        Whether to leave tokens to be looked at by `as_tokens`, once those in the padding are gone.

    Returns
    -------
    tuple
        x with an axis N, the axis before I or the last of tokens, and whether it came with it.

    Raises
    ------
    TypeError, ValueError
        If x is no such input.
    """
    given, x = x, take_array("x", x)
    tokens = is_tokens(x)
    batched = x.ndim == len(leading) + (not tokens)
    if not batched and x.ndim != len(leading) - 1 + (not tokens):
        shapes = (_shape(leading, tokens), _shape(tuple(letter for letter in leading if letter != "N"), tokens))
        wanted = " or ".join(shapes) + ("" if tokens else f", I = {input_size}")
        kind = "token indices" if tokens else "real input"
        raise ValueError(f"x has shape {x.shape}; expected {wanted} for {kind} (dtype {x.dtype})")
    if not tokens and x.shape[-1] != input_size:
        letters = _shape(leading if batched else tuple(letter for letter in leading if letter != "N"), tokens)
        wanted = _listed(["any"] * (x.ndim - 1), [input_size])
        raise ValueError(f"x has shape {x.shape}; expected {letters} = {wanted}")
    if batched and not time_major:
        x = x.swapaxes(0, 1)
    if tokens:
        x = x if padded else as_tokens("x", x, input_size, "input_size")
        return x if batched else x[..., None], batched
    if x.dtype.newbyteorder("=") != dtype:
        as_real("x", given, dtype, (input_size,), "I", free=x.ndim - 1)  # which says what is wrong
    x = as_real("x", x, dtype, (input_size,), "I", free=x.ndim - 1)
    return x if batched else x[..., None, :], batched


def _shape(leading: tuple[str, ...], tokens: bool) -> str:
    """A shape in letters: (T, N, I); of tokens (T,)."""
    return _listed(leading, () if tokens else ("I",))


def _listed(*parts: Sequence[str | int]) -> str:
    """What a tuple of all parts looks like, without quotes."""
    items = [str(item) for part in parts for item in part]
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


def as_lengths(lengths: Any, batch: int, steps: int) -> Array:
    """Return `lengths` as (N,) ints; TypeError or ValueError unless they are, and 0 <= length <= T."""
    array = np.array(take_array("lengths", lengths))  # as in `as_tokens`
    if array.size and array.dtype.kind not in "iu":  # an empty list is one of float64
        raise TypeError(f"lengths has dtype {array.dtype}; expected integers")
    if array.shape != (batch,):
        raise ValueError(f"lengths has shape {array.shape}; expected (N,) = ({batch},)")
    if batch and not 0 <= (low := int(array.min())) <= (high := int(array.max())) <= steps:
        raise ValueError(f"lengths holds {low if low < 0 else high}; expected 0 <= length <= T = {steps}")
    return array.astype(np.intp)


def as_states(
    names: Sequence[str],
    values: Any,
    dtype: np.dtype[Any],
    shapes: Sequence[tuple[int, ...]],
    letters: Sequence[str],
    *,
    optional: bool = False,
    what: str = "the state",
) -> tuple[Any, ...]:
    """Return the states `values`, one array or a tuple as `names` says, as a tuple of validated arrays.

    A state that is `optional` may be None. `what` is what errors call all of them.
    """
    if len(names) == 1:
        if isinstance(values, (tuple, list)) and _are_two_states(values, shapes[0]):
            raise ValueError(
                f"{names[0]} has shape {(2, *shapes[0])}; expected {letters[0]} = {shapes[0]}: use {names[0]} "
                "alone in place of the tuple of two, for only an LSTM has a cell state"
            )
        values = (values,)
    elif not isinstance(values, (tuple, list)) or len(values) != len(names):
        none = "None" if optional else f"np.zeros({shapes[1]}, {dtype.name!r})"
        raise TypeError(
            f"{what} is {_describe(values)}; expected a tuple ({', '.join(names)}): use "
            f"({', '.join([names[0], *[none] * (len(names) - 1)])}) where there is no {' or '.join(names[1:])}"
        )
    if shapes[0] == shapes[-1] and are_ready(values, dtype, shapes[0]):
        return tuple(values)
    states = []
    for i, value in enumerate(values):
        states.append(None if optional and value is None else as_real(names[i], value, dtype, shapes[i], letters[i]))
    return tuple(states)


def _are_two_states(values: Sequence[Any], shape: tuple[int, ...]) -> bool:
    return len(values) == 2 and all(isinstance(each, np.ndarray) and each.shape == shape for each in values)


def _describe(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def sample(backend: ModuleType, x: Array) -> Any:
    """What tells real x from other values in its place: some 64 of them, or all of fewer; the same for all tokens."""
    if hasattr(backend, "sample"):
        return backend.sample(x)
    if x.dtype.kind != "f":
        return None
    return (x if x.size <= _SAMPLED else x.take(_places(x.size))).tobytes()


_SAMPLED = 64


@functools.lru_cache(256)
def _places(size: int) -> Array:
    """Which elements of so many a sample has: at multiples of the golden ratio, which meet every column of x."""
    places: Array = (np.arange(1, _SAMPLED + 1) * 0.6180339887498949 % 1 * size).astype(np.intp)
    return places


def choose(backend: str | None, num_threads: int | None) -> tuple[ModuleType, int]:
    """What a call runs on: the backend and the number of threads, given those that its module asks for, if any."""
    return resolve(backend), num_threads or allowed_threads()


def choose_for_cell(cell: Cell, backend: str | None, num_threads: int | None) -> tuple[ModuleType, int]:
    """As `choose`, for a cell: NumPy where a backend that nobody asked for does not run the program of a written one.

    Raises
    ------
    BackendError
        If the one that was asked for does not.
    """
    module, threads = choose(backend, num_threads)
    reason = module.why_not_program(cell) if cell.program and hasattr(module, "why_not_program") else None
    if reason:
        wanted = backend or asked_for()
        if wanted:
            raise BackendError(
                f"the {wanted} backend does not run {cell.name}: {reason}; expected another for it: backend='cython', "
                "or None to let fastrnn choose"
            )
        module = load("numpy")
    return module, threads


def choose_for_precision(precision: str, backend: str | None, num_threads: int | None) -> tuple[ModuleType, int]:
    """As `choose`, for weights of fewer bits: NumPy where a backend that nobody asked for has none.

    Raises
    ------
    BackendError
        If the one that was asked for has none.
    """
    module, threads = choose(backend, num_threads)
    if precision not in getattr(module, "PRECISIONS", ()):
        wanted = backend or asked_for()
        if wanted:
            raise BackendError(
                f"the {wanted} backend has no precision {precision!r}; expected another for it: backend='cython', or "
                "None to let fastrnn choose"
            )
        module = load("numpy")
    return module, threads


@dataclass(slots=True)
class Tape:
    """The tape of one layer in one direction, with the backend that can read it. Backward overwrites it in place."""

    cell: Cell
    backend: ModuleType
    kept: Any  # None once used
    num_threads: int
    given: Sequence[Array | None] = ()  # what a backend that does not look itself relies on in backward
    layout: tuple[Any, ...] = ()  # of these in forward
    weights: tuple[Weights, Weights] | None = None  # and what the backend was given in their place, where that differs


_REAL = frozenset({np.dtype(np.float32), np.dtype(np.float64)})


def prepared(backend: ModuleType, cell: Cell, weights: Weights) -> Weights:
    """The weights as a backend takes them: with what programs see in place of the cell's own parameters.

    Those of the reference are the parameters themselves.
    """
    if weights.unit is None or not _is_prepared(backend, cell) or not isinstance(cell, WrittenCell):
        return weights
    unit = weights.unit
    if (
        not isinstance(unit, np.ndarray)
        or unit.ndim < 2
        or unit.shape[-2] != len(cell.parameters)
        or unit.dtype not in _REAL
        or not (unit.flags.c_contiguous and unit.flags.aligned)
    ):
        check_weights(cell, weights)  # which says what is wrong; of the rest the backend sees that it fits
    return weights._replace(unit=cell.prepare(unit, getattr(backend, "run_on_arrays", None)))


def _is_prepared(backend: ModuleType, cell: Cell) -> bool:
    """Whether a backend takes something else in place of a cell's own parameters."""
    return isinstance(cell, WrittenCell) and cell._equations.prepared is not None and hasattr(backend, "TAKES_PREPARED")


def begin_gradients(backend: ModuleType, cell: Cell, weights: Weights) -> Weights:
    """Zeros to which `backward` adds the gradients of a layer's weights, piece by piece; then comes `end_gradients`."""
    taken = prepared(backend, cell, weights)
    return Weights._make([None if w is None else np.zeros(w.shape, w.dtype) for w in taken])


def end_gradients(
    backend: ModuleType, cell: Cell, weights: Weights, dweights: Weights, taken: Weights | None = None
) -> Weights:
    """The gradients of the weights, from those of what the backend has `taken`, if that is still there."""
    if not _is_prepared(backend, cell) or not isinstance(cell, WrittenCell) or weights.unit is None:
        return dweights
    assert dweights.unit is not None
    seen = None if taken is None else taken.unit
    run = getattr(backend, "run_on_arrays", None)
    return dweights._replace(unit=cell.prepare_back(weights.unit, dweights.unit, seen, run))


class Several(Weights):
    """The weights of several layers of one shape, which say themselves how they run: see `fastrnn.groups`."""

    __slots__ = ()

    def run(
        self,
        backend: ModuleType,
        cell: Cell,
        x: Array,
        state: State,
        num_threads: int,
        batch_sizes: Array | None = None,
        reverse: bool = False,
        y: Array | None = None,
        extra: tuple[Array, ...] = (),
    ) -> tuple[Array, State]:
        """As the function of that name."""
        raise NotImplementedError

    def forward(
        self,
        backend: ModuleType,
        cell: Cell,
        x: Array,
        state: State,
        num_threads: int,
        batch_sizes: Array | None = None,
        reverse: bool = False,
        y: Array | None = None,
        extra: tuple[Array, ...] = (),
    ) -> tuple[Array, State, Any]:
        """As the function of that name; the tape is a `SeveralTape`."""
        raise NotImplementedError

    def count(self, cell: Cell) -> int:
        """How many layers there are."""
        raise NotImplementedError

    def first(self, cell: Cell) -> Weights:
        """The weights of the first of them."""
        raise NotImplementedError

    def alone(self, cell: Cell) -> Weights:
        """The weights of one layer that does what all of them do."""
        raise NotImplementedError


class SeveralTape:
    """The tape of such layers."""

    __slots__ = ()

    def backward(
        self,
        dy: Array | None,
        dstate: tuple[Array | None, ...],
        dx: Array | None = None,
        dweights: Weights | None = None,
        rows: int | None = None,
        of_x: bool = True,
        dextra: tuple[Array, ...] = (),
        of_weights: bool = True,
    ) -> tuple[Array | None, State, Sequence[Array | None]]:
        """As the function of that name."""
        raise NotImplementedError

    def sums_backward(
        self, dy: Array | None, dstate: tuple[Array | None, ...], dx: Array | None = None, of_x: bool = True
    ) -> tuple[Array | None, State, Sequence[Array], Sequence[Array]]:
        """As the function of that name."""
        raise NotImplementedError

    def gates(self, rows: int | None = None, to: Array | None = None) -> dict[str, Array]:
        """As the function of that name."""
        raise NotImplementedError


class LayerWeights:
    """The weights of one layer in one direction: by name among a module's parameters, and as a backend packed them.

    What was packed is kept as long as the stamp it was packed under is the same; see `Parametrized._stamp`.
    """

    def __init__(self, parameters: Mapping[str, Array], names: Mapping[str, str], precision: str = "float32") -> None:
        """Take the names of parameters by the fields of Weights that there are; of int8 ones the scales' besides.

        `precision` is one of `fastrnn.narrow.PRECISIONS`.
        """
        self.names = [names.get(field, "") for field in Weights._fields]
        self.precision = precision
        self._scales = [names[field] for field in ("scale_ih", "scale_hh") if field in names]
        self._parameters = parameters  # not the arrays: a reference to one would count as held
        # backend, stamp, packed weights, their I, H and P
        self._kept: tuple[ModuleType | None, int | None, Any, tuple[int, int, int]] = (None, None, None, (0, 0, 0))

    def arrays(self) -> Weights:
        """The live parameter arrays; they count as held for as long as the result is."""
        parameters = self._parameters
        return Weights(*[parameters[name] if name else None for name in self.names])  # type: ignore[arg-type]

    def learning(self) -> Weights:
        """The weights as a forward with a tape takes them: the live arrays, or what rounds these to bfloat16."""
        weights = self.arrays()
        return weights if self.precision == "float32" else narrow(weights, self.precision)

    def ready(self, cell: Cell) -> tuple[Weights, tuple[int, int, int]]:
        """The weights as inference takes them, views or narrowed, and their I, H and P; ValueError if they misfit."""
        weights = Weights._make(_views(self.arrays()))  # as in `_fitting`
        if self._scales:
            scales = _views([self._parameters[name] for name in self._scales])
            integers: list[Any] = [weights.ih, weights.hh]
            narrowed: Any = [NarrowWeight(*its) for its in zip(integers, scales, strict=True)]
            weights = weights._replace(ih=narrowed[0], hh=narrowed[1])
        sizes = check_weights(cell, weights)
        if self.precision != "float32" and not self._scales:
            weights = narrow(weights, self.precision)
        return weights, sizes

    def named(self, gradients: Sequence[Array | None]) -> dict[str, Array]:
        """The gradients, in the order of the fields of Weights, by their parameters' names."""
        return {name: gradient for name, gradient in zip(self.names, gradients, strict=True) if gradient is not None}

    def packed(
        self, backend: ModuleType, cell: Cell, stamp: int | None, num_threads: int
    ) -> tuple[Any, tuple[int, int, int]]:
        """The weights as a backend that has `pack` packed them, packed anew if need be, and their I, H and P."""
        by, under, packed, sizes = self._kept  # read, and below written, at once: other threads do so too
        if by is not backend or under != stamp:
            weights, sizes = self.ready(cell)
            packed = backend.pack(cell, prepared(backend, cell, weights), num_threads=num_threads)
            if stamp is not None:
                self._kept = backend, stamp, packed, sizes
        return packed, sizes

    def infer(
        self,
        backend: ModuleType,
        cell: Cell,
        x: Array,
        state: State,
        stamp: int | None,
        num_threads: int,
        batch_sizes: Array | None,
        reverse: bool,
        y: Array | None,
        extra: tuple[Array, ...],
    ) -> tuple[Array, State]:
        """`infer` of those that are of several layers."""
        raise NotImplementedError


def infer(
    backend: ModuleType,
    cell: Cell,
    x: Array,
    state: State,
    weights: LayerWeights,
    stamp: int | None,
    num_threads: int,
    batch_sizes: Array | None = None,
    reverse: bool = False,
    y: Array | None = None,
    extra: tuple[Array, ...] = (),
) -> tuple[Array, State]:
    """Run one layer for its outputs only, on packed weights if they cannot have changed since the call before.

    `batch_sizes`, `reverse`, `y` and `extra` are those of `fastrnn.reference.forward`.
    """
    if type(weights) is not LayerWeights:
        return weights.infer(backend, cell, x, state, stamp, num_threads, batch_sizes, reverse, y, extra)
    packs = hasattr(backend, "pack")
    if (stamp is None or not packs) and weights.precision == "float32":
        return run(backend, cell, x, state, weights.arrays(), num_threads, batch_sizes, reverse, y, extra)
    if not packs:
        return run(backend, cell, x, state, weights.ready(cell)[0], num_threads, batch_sizes, reverse, y, extra)
    packed, sizes = weights.packed(backend, cell, stamp, num_threads)
    return run_packed(backend, cell, x, state, packed, sizes, num_threads, batch_sizes, reverse, y, extra)


def run_packed(
    backend: ModuleType,
    cell: Cell,
    x: Array,
    state: State,
    packed: Any,
    sizes: tuple[int, int, int],
    num_threads: int,
    batch_sizes: Array | None = None,
    reverse: bool = False,
    y: Array | None = None,
    extra: tuple[Array, ...] = (),
) -> tuple[Array, State]:
    """`run`, of weights that the backend has packed, whose I, H and P are `sizes`."""
    if not hasattr(backend, "LOOKS_ITSELF"):
        x, state = x.view(), tuple([s.view() for s in state])  # as in `_fitting`
        check_call(cell, x, state, sizes, state[0].dtype, batch_sizes, extra)
    y, state_n, _ = backend.forward(
        cell,
        x,
        state,
        None,
        tape=False,
        num_threads=num_threads,
        batch_sizes=batch_sizes,
        reverse=reverse,
        y=y,
        packed=packed,
        extra=extra,
    )
    return y, state_n


def run(
    backend: ModuleType,
    cell: Cell,
    x: Array,
    state: State,
    weights: Weights,
    num_threads: int,
    batch_sizes: Array | None = None,
    reverse: bool = False,
    y: Array | None = None,
    extra: tuple[Array, ...] = (),
) -> tuple[Array, State]:
    """Run one layer for its outputs only: `fastrnn.reference.forward` on a backend."""
    if isinstance(weights, Several):
        return weights.run(backend, cell, x, state, num_threads, batch_sizes, reverse, y, extra)
    x, state, weights = _fitting(backend, cell, x, state, weights, batch_sizes, extra)
    y, state_n, _ = backend.forward(
        cell,
        x,
        state,
        prepared(backend, cell, weights),
        tape=False,
        num_threads=num_threads,
        batch_sizes=batch_sizes,
        reverse=reverse,
        y=y,
        extra=extra,
    )
    return y, state_n


def _fitting(
    backend: ModuleType,
    cell: Cell,
    x: Array,
    state: State,
    weights: Weights,
    batch_sizes: Array | None,
    extra: tuple[Array, ...] = (),
) -> tuple[Array, State, Weights]:
    """x, the state and the weights, seen to fit one another if the backend does not do so itself.

    Then they are views: another thread may give the caller's array another shape or dtype after the look.
    """
    if hasattr(backend, "LOOKS_ITSELF"):
        return x, state, weights
    x, state, weights = x.view(), tuple([s.view() for s in state]), Weights._make(_views(weights))
    check_call(cell, x, state, check_weights(cell, weights), weights.ih.dtype, batch_sizes, extra)
    return x, state, weights


def _views(arrays: Sequence[Any]) -> list[Any]:
    return [None if array is None else array.view() for array in arrays]


def forward(
    backend: ModuleType,
    cell: Cell,
    x: Array,
    state: State,
    weights: Weights,
    num_threads: int,
    batch_sizes: Array | None = None,
    reverse: bool = False,
    y: Array | None = None,
    extra: tuple[Array, ...] = (),
    kept: Sequence[Array] = (),
) -> tuple[Array, State, Tape]:
    """Run one layer and keep a tape: `fastrnn.reference.forward` on a backend.

    What `keep` is to return may be put into the first part of the arrays in `kept`: whoever gives these looks.
    """
    if isinstance(weights, Several):
        return weights.forward(backend, cell, x, state, num_threads, batch_sizes, reverse, y, extra)
    given = (x, *state, *weights)
    room = {"kept": tuple(kept)} if kept and hasattr(backend, "TAKES_KEPT") else {}
    x, state, weights = _fitting(backend, cell, x, state, weights, batch_sizes, extra)
    taken = weights if cell.program is None else prepared(backend, cell, weights)
    y, state_n, tape = backend.forward(
        cell,
        x,
        state,
        taken,
        tape=True,
        num_threads=num_threads,
        batch_sizes=batch_sizes,
        reverse=reverse,
        y=y,
        extra=extra,
        **room,
    )
    its = Tape(cell, backend, tape, num_threads)
    if x is not given[0]:
        its.given, its.layout = (y, *given), layout(y, x, *state, *weights)
    if taken is not weights:
        its.weights = weights, taken
    return y, state_n, its


def backward(
    tape: Tape | SeveralTape,
    dy: Array | None,
    dstate: tuple[Array | None, ...],
    dx: Array | None = None,
    dweights: Weights | None = None,
    rows: int | None = None,
    of_x: bool = True,
    dextra: tuple[Array, ...] = (),
    dextra_add: bool = True,
    of_weights: bool = True,
) -> tuple[Array | None, State, Sequence[Array | None]]:
    """Differentiate one layer: `fastrnn.reference.backward` on the backend that ran its forward.

    The gradients of the weights come in the order of the fields of Weights. That of x need not be there unless `of_x`;
    those of the weights may be any numbers unless `of_weights`. `dweights` is of `begin_gradients`.
    """
    if isinstance(tape, SeveralTape):
        return tape.backward(dy, dstate, dx, dweights, rows, of_x, dextra, of_weights)
    if tape.given and layout(*tape.given) != tape.layout:
        raise ValueError("x, y or a parameter has been given other memory, or another shape or dtype, since forward")
    if tape.given:
        dy, dstate = None if dy is None else dy.view(), tuple(_views(dstate))  # as in `_fitting`
        check_gradients(dy, dstate, tape.layout[0], tape.layout[2:])
    kept, tape.kept = tape.kept, None
    options: dict[str, Any] = {} if of_x or not hasattr(tape.backend, "LEAVES_DX") else {"of_x": False}
    if not of_weights and hasattr(tape.backend, "LEAVES_DWEIGHTS"):
        options["of_weights"] = False
    if dextra:
        options |= {"dextra": dextra, "dextra_add": dextra_add}
    dx, dstate_0, gradients = tape.backend.backward(
        tape.cell, kept, dy, dstate, num_threads=tape.num_threads, dx=dx, dweights=dweights, rows=rows, **options
    )
    if dweights is None and tape.weights is not None:
        weights, taken = tape.weights
        gradients = end_gradients(tape.backend, tape.cell, weights, Weights._make(gradients), taken)
    return dx, dstate_0, gradients


def run_group(
    backend: ModuleType,
    cell: Cell,
    x: Array,
    state: State,
    weights: Weights | None,
    num_threads: int,
    members: int,
    shared: bool,
    batch_sizes: Array | None = None,
    reverse: bool = False,
    y: Array | None = None,
    extra: tuple[Array, ...] = (),
    packed: Any = None,
    tape: bool = False,
) -> tuple[Array, State, Tape | None]:
    """`run`, or with a `tape` `forward`, of several layers of one shape, on a backend that `RUNS_GROUPS`.

    Arrays have an axis of them first, all but an x that is `shared`; in `extra` those of three axes have it. `packed`
    may be there in place of `weights`. `backward` takes the tape, and gives dx an axis of members too.
    """
    taken = weights if weights is None else prepared(backend, cell, weights)
    y, state_n, kept = backend.forward(
        cell,
        x,
        state,
        taken,
        tape=tape,
        num_threads=num_threads,
        packed=packed,
        batch_sizes=batch_sizes,
        reverse=reverse,
        y=y,
        extra=extra,
        members=members,
        shared=shared,
    )
    if not tape:
        return y, state_n, None
    its = Tape(cell, backend, kept, num_threads)
    if weights is not None and taken is not None and taken is not weights:
        its.weights = weights, taken
    return y, state_n, its


def sums_backward(
    tape: Tape | SeveralTape,
    dy: Array | None,
    dstate: tuple[Array | None, ...],
    dx: Array | None = None,
    of_x: bool = True,
) -> tuple[Array | None, State, Sequence[Array], Sequence[Array]]:
    """Differentiate one layer of a cell in `CELLS` up to its sums: dx, dstate_0, da_x and da_h.

    da_x and da_h, (R, H) of each gate, are the gradients of the products of x and of the state before, the same where
    these are added. The gradients of weight_ih and weight_hh are products of them, the biases' their sums over rows: of
    any rows that one wants them of. The backend is one that `keeps` its tapes, where they are in place of the gates
    afterwards.
    """
    if isinstance(tape, SeveralTape):
        return tape.sums_backward(dy, dstate, dx, of_x)
    cell, kept = tape.cell, tape.kept
    r = None if cell.additive else gates(tape)["r"]
    dx, dstate_0, _ = backward(tape, dy, dstate, dx, of_x=of_x, of_weights=False)
    da_x = tape.backend.gates(cell, kept, num_threads=tape.num_threads)[: len(cell.gates)]
    if r is None:
        return dx, dstate_0, da_x, da_x
    return dx, dstate_0, da_x, (*da_x[:2], np.multiply(da_x[2], r, out=r))  # a_n = a_x.n + r * a_h.n


def keeps(backend: ModuleType) -> bool:
    """Whether a backend takes tapes apart: whether it has `keep`, `recall` and `kept_sizes`."""
    return hasattr(backend, "keep")


def keep(tape: Tape) -> tuple[Array, ...]:
    """What a tape owns besides what went into `forward` and y, as 1-D arrays of the weights' dtype, without a copy."""
    arrays: tuple[Array, ...] = tape.backend.keep(tape.kept)
    return arrays


def recall(
    backend: ModuleType,
    cell: Cell,
    x: Array,
    state: State,
    weights: Weights,
    y: Array,
    kept: Sequence[Array],
    num_threads: int,
    batch_sizes: Array | None = None,
    reverse: bool = False,
    extra: tuple[Array, ...] = (),
) -> Tape:
    """The tape again whose forward took and gave these arrays, from what `keep` returned."""
    x, state, weights = _fitting(backend, cell, x, state, weights, batch_sizes, extra)
    if not hasattr(backend, "LOOKS_ITSELF"):
        sizes = (len(x) if batch_sizes is None else len(batch_sizes), len(state[0]), y[..., 0].size, state[-1].shape[1])
        wanted = kept_sizes(backend, cell, (*sizes, 0 if weights.hr is None else y.shape[-1]), weights.ih.dtype)
        if [(k.dtype, k.shape) for k in kept] != [(weights.ih.dtype, (size,)) for size in wanted]:
            raise ValueError(f"the tape has arrays of {[k.size for k in kept]} elements; expected {list(wanted)}")
    taken = prepared(backend, cell, weights)
    recalled = backend.recall(
        cell, x, state, taken, y, tuple(kept), batch_sizes=batch_sizes, reverse=reverse, extra=extra
    )
    return Tape(cell, backend, recalled, num_threads, weights=None if taken is weights else (weights, taken))


def recall_linear(
    backend: ModuleType,
    cell: Cell,
    x: Array,
    state: State,
    weights: Weights,
    y: Array,
    u: Array | None,
    num_threads: int,
    batch_sizes: Array | None = None,
    reverse: bool = False,
    extra: tuple[Array, ...] = (),
) -> Tape:
    """The tape of a written cell whose backward reads values beside x alone, without its forward.

    y is what was h, and u (R, H) before its projection, if there is one: what gradients of weights are made with.
    """
    if not hasattr(backend, "kept_sizes"):
        return Tape(
            cell, backend, backend.recall(cell, x, state, weights, y, u, batch_sizes, reverse, extra), num_threads
        )
    H, slots = len(weights.ih) // len(cell.gates_ih), 0 if cell.program is None else cell.program.slots
    sizes = (len(x) if batch_sizes is None else len(batch_sizes), len(state[0]), y[..., 0].size, H)
    wanted = kept_sizes(backend, cell, (*sizes, 0 if weights.hr is None else y.shape[-1]), weights.ih.dtype)
    kept = [empty(backend, (size,), weights.ih.dtype) for size in wanted]
    if slots % 4:  # products run over slots that nobody writes to, times zero
        kept[0].fill(0)
    if u is not None:
        kept[-1] = u.reshape(-1)
    return recall(backend, cell, x, state, weights, y, kept, num_threads, batch_sizes, reverse, extra)


def kept_sizes(backend: ModuleType, cell: Cell, sizes: Sequence[int], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """How many elements each array has that `keep` returns; `sizes` are T, N, R, H and P, or 0 for no projection."""
    steps, batch, rows, hidden, proj_size = sizes
    kept: tuple[int, ...] = backend.kept_sizes(cell, steps, batch, rows, hidden, proj_size, dtype)
    return kept


def gates(tape: Tape | SeveralTape, rows: int | None = None, to: Array | None = None) -> dict[str, Array]:
    """Every gate and every state but h of a tape that has not been used, by their names; `fastrnn.reference.gates`."""
    if isinstance(tape, SeveralTape):
        return tape.gates(rows, to)
    names = (*tape.cell.gates, *tape.cell.states[1:])
    found = tape.backend.gates(tape.cell, tape.kept, num_threads=tape.num_threads, rows=rows, to=to)
    return dict(zip(names, found, strict=True))


def empty(backend: ModuleType, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A new array, on a backend's recycled memory if it has such."""
    array: Array = getattr(backend, "new_array", np.empty)(shape, dtype)
    return array


def multiply(
    a: Array, b: Array, bias: Array | None = None, *, backend: str | None = None, num_threads: int | None = None
) -> Array:
    """Return a @ b + bias for (R, K), (K, C) and (C,) arrays; each of a and b is contiguous or the transpose of such.

    A backend with kernels of its own for it keeps NumPy's BLAS, and the threads that it leaves spinning, out of a
    training loop, and sums every element in one order whatever the number of threads.
    """
    module, threads = choose(backend, num_threads)
    if hasattr(module, "multiply"):
        product: Array = module.multiply(a, b, bias, num_threads=threads)
        return product
    return a @ b if bias is None else a @ b + bias


def scatter_add(rows: Array, tokens: Array, count: int) -> Array:
    """Return (count, E) with the sum of the rows (R, E) of each of the tokens (R,), in order; both are contiguous.

    A backend with a kernel of its own for it takes 17 us for 2048 characters of 65 x 64, where a product with one-hot
    rows takes 184, numpy.add.at 1025; and 0.7 ms for 3200 words of 10,000 x 256, where the loop below takes 2.9.
    """
    module, _ = choose(None, None)
    if hasattr(module, "scatter_add"):
        sums: Array = module.scatter_add(rows, tokens, count)
        return sums
    sums = np.zeros((count, rows.shape[1]), rows.dtype)
    for token, row in zip(tokens.tolist(), rows, strict=True):
        sums[token] += row
    return sums


def adam(p: Array, grad: Array, mean: Array, square: Array, **by: float) -> bool:
    """Take a step of Adam in one pass, where a backend has that and the arrays are as it takes them; else do nothing.

    For `by` see the Cython backend's function of the same name.
    """
    module, _ = choose(None, None)
    return bool(hasattr(module, "adam") and module.adam(p, grad, mean, square, **by))


def softmax(z: Array, scale: float) -> tuple[Array, Array, Array]:
    """Return scale * softmax(z) of the rows of a contiguous z (n, C), their maxima (n,), and sums of exp(z - max) (n,).

    A backend with a kernel of its own for it does in one go what takes NumPy six.
    """
    module, threads = choose(None, None)
    if hasattr(module, "softmax"):
        found: tuple[Array, Array, Array] = module.softmax(z, scale, num_threads=threads)
        return found
    top = z.max(axis=1)
    p = np.exp(z - top[:, None])
    total = p.sum(axis=1)
    p *= (scale / total)[:, None]
    return p, top, total
