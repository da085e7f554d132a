"""Step by step: a stack of layers that keeps its state and takes the steps of a sequence as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from fastrnn import ops
from fastrnn.cells import Cell, State, Weights
from fastrnn.checks import Array, shown, take_array
from fastrnn.extra import named
from fastrnn.fits import check_weights

__all__ = ["Stream"]

Validate = Callable[..., Array]  # of x, out, and whether they are of many steps


class Stepper(Protocol):
    """What steps; `fastrnn.backends` says how it is made."""

    states: Sequence[State]  # of each layer, h (N, P) and c (N, H), written in place

    def step(self, x: Any, out: Any = None, extra: tuple[Array, ...] = ()) -> Array:
        """Take a step."""

    def steps(self, x: Any, out: Any = None, extra: tuple[Array, ...] = ()) -> Array:
        """Take the steps of x's first axis."""

    def load(self, weights: Sequence[Weights]) -> None:
        """Replace each layer's weights."""


class Stream:
    """The steps of N sequences one after the other; `module.stream` makes it.

    Steps are taken on the parameters, the backend and the number of threads as they were when it was made; `refresh`
    takes the parameters anew. It serves one thread at a time.

    Attributes
    ----------
    step
        ``step(x, out=None)`` takes one step and returns the last layer's outputs, y.

        x is (N, I) of the module's dtype, or (I,) in a stream without a batch; an integer array of one dimension less
        holds token indices. y is (N, P) or (P,), where P is H unless there is a projection: a new array, or `out`,
        which is contiguous, of y's shape and dtype, and may be x itself. With `out`, and x a contiguous array, a
        backend with a stepper of its own allocates nothing. TypeError and ValueError are raised as by `__call__` of the
        module, and leave the state as it was. A stream of a cell that is given values beside x takes
        ``step(x, out=None, *, extra)``, a dict of them by name, each (N,) or (N, H).
    steps
        ``steps(x, out=None)`` takes T steps at once, which gives the bits of one after the other in less time: x, y and
        values beside x have a first axis of T more, (T, N, I) and (T, N, P), and `step`'s rules hold. A backend with a
        stepper of its own keeps the memory that a block needs for the next ones.
    batch_size
        N, or None where arrays have no such axis.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> gru = fastrnn.GRU(10, 20, seed=0)
    >>> stream = gru.stream(batch_size=3)
    >>> x, y = np.ones((5, 3, 10), np.float32), np.empty((3, 20), np.float32)
    >>> for x_t in x:
    ...     y_t = stream.step(x_t, out=y)
    >>> y_t is y, bool((y == gru(x)[0][-1]).all())
    (True, True)
    >>> bool((stream.steps(x) == gru(np.concatenate([x, x]))[0][5:]).all())
    True
    >>> stream.reset([1])  # the second sequence starts anew
    >>> stream.state.shape, stream.state.any(axis=(0, 2)).tolist()
    ((1, 3, 20), [True, False, True])
    """

    batch_size: int | None
    step: Callable[..., Array]
    steps: Callable[..., Array]

    def __init__(
        self,
        backend: ModuleType,
        cell: Cell,
        layers: Sequence[ops.LayerWeights],
        batch_size: int | None,
        num_threads: int,
        extra: tuple[str, ...] = (),
    ) -> None:
        self._cell = cell
        self._layers = layers
        weights = self._arrays()
        self._sizes = [(*check_weights(cell, its), its.ih.dtype) for its in weights]
        (*_, P, dtype) = self._sizes[-1]
        validate = partial(_validate, batch_size, weights[0].ih.shape[1], P, dtype)
        make: Any = getattr(backend, "Stepper", None) or partial(_Stepper, backend)
        self._prepare = partial(ops.prepared, backend, cell)
        prepared = [self._prepare(its) for its in weights]
        self._stepper: Stepper = make(cell, prepared, batch_size, dtype, num_threads, validate)
        # Itself: a function around it would take a tenth of a small step.
        run = {"step": self._stepper.step, "steps": self._stepper.steps}
        if extra:
            run = {"step": partial(self._step_with, extra), "steps": partial(self._steps_with, extra)}
        self.__dict__ |= {"batch_size": batch_size, **run}

    def _arrays(self) -> list[Weights]:
        """Each layer's weights."""
        arrays = [
            layer.arrays() if layer.precision == "float32" else layer.ready(self._cell)[0] for layer in self._layers
        ]
        return [its.alone(self._cell) if isinstance(its, ops.Several) else its for its in arrays]

    def _step_with(self, names: tuple[str, ...], x: Any, out: Any = None, *, extra: Any = None) -> Array:
        """`step` of a cell that is given values beside x."""
        return self._stepper.step(x, out, self._take_extra(names, extra, ()))

    def _steps_with(self, names: tuple[str, ...], x: Any, out: Any = None, *, extra: Any = None) -> Array:
        """`steps` of a cell that is given values beside x."""
        steps = np.shape(x)[:1] if isinstance(x, np.ndarray) else ()  # what is no array is refused as x
        return self._stepper.steps(x, out, self._take_extra(names, extra, steps))

    def _take_extra(self, names: tuple[str, ...], extra: Any, steps: tuple[int, ...]) -> tuple[Array, ...]:
        """Copies of what is given beside x, (T * N, W)."""
        batch, N = ((), "") if self.batch_size is None else ((self.batch_size,), "N, ")
        axes, letters = (*steps, *batch), "T, " * len(steps) + N
        _, H, _, dtype = self._sizes[-1]
        given = []
        for what, value in named(self._cell.name, names, extra):
            array = take_array(what, value)
            if array.ndim == len(axes):
                array = array[..., None]
            shape = (*axes, 1 if array.shape[-1:] == (1,) else H)
            array = ops.as_real(what, array, dtype, shape, f"({letters.rstrip(' ')}) or ({letters}H)")
            given.append(array.reshape(-1, shape[-1]).copy())
        return tuple(given)

    def __repr__(self) -> str:
        sizes = f"batch_size={self.batch_size}, num_layers={len(self._layers)}"
        return f"<Stream of {self._cell.name}, {sizes}>"

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("batch_size", "step", "steps"):
            raise AttributeError(f"{name} of a stream is fixed; make another one: module.stream(batch_size)")
        object.__setattr__(self, name, value)

    def __reduce__(self) -> Any:
        raise TypeError("a stream cannot be copied or pickled: make one from the module and give it this one's state")

    @property
    def state(self) -> Any:
        """The state after the last step, a read-only copy of h (L, N, P), for LSTM of the tuple (h, c), c (L, N, H).

        Without a batch there is no N. Assigning to it, ``stream.state = state``, replaces the state, and raises
        TypeError or ValueError where a dtype or shape differs.
        """
        states = tuple([np.stack(layers) for layers in zip(*self._stepper.states, strict=True)])
        for state in states:
            state.flags.writeable = False  # what is written to a copy would be lost
        if self.batch_size is None:
            states = tuple([s[:, 0] for s in states])
        return states if len(states) > 1 else states[0]

    @state.setter
    def state(self, state: Any) -> None:
        per_layer = self._stepper.states
        batch = () if self.batch_size is None else (self.batch_size,)
        shapes = [(len(per_layer), *batch, kept.shape[1]) for kept in per_layer[0]]
        size = "P" if any(layer.names[Weights._fields.index("hr")] for layer in self._layers) else "H"
        letters = [f"(L, {'N, ' if batch else ''}{end})" for end in (size, *"H" * (len(shapes) - 1))]
        states = ops.as_states(self._cell.states, state, per_layer[0][0].dtype, shapes, letters)
        for layer, its in enumerate(per_layer):
            for kept, given in zip(its, states, strict=True):
                kept[...] = given[layer]

    def reset(self, rows: Any = None) -> None:
        """Set the state of some sequences to zero.

        Parameters
        ----------
        rows
            Which of the batch: indices, or a boolean mask (N,). None means all.

        Raises
        ------
        TypeError
            If `rows` holds neither integers nor booleans.
        ValueError
            If a mask is not (N,), an index not 0 <= row < N, or there is no batch.
        """
        chosen = slice(None) if rows is None else self._as_rows(rows)
        for its in self._stepper.states:
            for kept in its:
                kept[chosen] = 0

    def _as_rows(self, rows: Any) -> Array:
        """`rows` as a mask or indices; errors as `reset` says."""
        if self.batch_size is None:
            raise ValueError(f"rows is {shown(rows)}, but the stream has no batch; expected None")
        array = take_array("rows", rows)
        if array.dtype == bool:
            if array.shape != (self.batch_size,):
                raise ValueError(f"rows has shape {array.shape}; expected a mask (N,) = ({self.batch_size},)")
            return array
        if array.size == 0:
            return array.astype(np.intp)  # an empty list is one of float64
        if array.dtype.kind not in "iu":
            raise TypeError(f"rows has dtype {array.dtype}; expected integers or booleans")
        low, high = int(array.min()), int(array.max())
        if not 0 <= low <= high < self.batch_size:
            raise ValueError(
                f"rows holds {low if low < 0 else high}; expected 0 <= row < batch_size = {self.batch_size}"
            )
        return array.astype(np.intp)

    def refresh(self) -> None:
        """Take the module's parameters as they are now; the state stays."""
        weights = self._arrays()
        for its, sizes in zip(weights, self._sizes, strict=True):
            if (*check_weights(self._cell, its), its.ih.dtype) != sizes:
                raise ValueError("the parameters have other shapes or dtypes than when the stream was made")
        self._stepper.load([self._prepare(its) for its in weights])


def _validate(
    batch_size: int | None,
    input_size: int,
    output_size: int,
    dtype: np.dtype[Any],
    x: Any,
    out: Any,
    many: bool = False,
) -> Array:
    """Return x as a contiguous array or intp tokens of the shape that a step takes, or many, if out is one to write to.

    Raises TypeError or ValueError otherwise.
    """
    batch, N = ((), "") if batch_size is None else ((batch_size,), "N, ")
    given = take_array("x", x)
    if many:
        if given.ndim == 0:
            raise ValueError(f"x has shape (); expected steps, (T, {N}I), or (T, {N.rstrip()}) for token indices")
        batch, N = (len(given), *batch), f"T, {N}"
    if not ops.is_tokens(given):
        given = ops.as_real("x", given, dtype, (*batch, input_size), f"({N}I)" if N else "(I,)")
    elif given.shape == batch:
        given = ops.as_tokens("x", given, input_size, "input_size")
    else:
        wanted = f"({N.rstrip()}) = {batch}" if N else "()"
        raise ValueError(f"x has shape {given.shape}; expected {wanted} for token indices (dtype {given.dtype})")
    if out is not None:
        if not isinstance(out, np.ndarray):
            raise TypeError(f"out is a {type(out).__name__}; expected an array")
        if out.dtype != dtype:
            raise TypeError(f"out has dtype {out.dtype}; expected {dtype}")
        shape = (*batch, output_size)
        if out.shape != shape:
            raise ValueError(f"out has shape {out.shape}; expected {f'({N}P)' if N else '(P,)'} = {shape}")
        if not out.flags.carray:
            raise ValueError("out is read-only, not contiguous or not aligned; expected an array that can be written")
    return given


class _Stepper:
    """The stepper of backends without one."""

    def __init__(
        self,
        backend: ModuleType,
        cell: Cell,
        weights: Sequence[Weights],
        batch_size: int | None,
        dtype: np.dtype[Any],
        num_threads: int,
        validate: Validate,
    ) -> None:
        rows = 1 if batch_size is None else batch_size
        self._backend, self._cell, self._batched, self._validate = backend, cell, batch_size is not None, validate
        self._num_threads = num_threads
        sizes = [check_weights(cell, w, prepared=hasattr(backend, "TAKES_PREPARED")) for w in weights]
        others = len(cell.states) - 1
        self.states = [tuple([np.zeros((rows, size), dtype) for size in (P, *[H] * others)]) for _, H, P in sizes]
        self.load(weights)

    def load(self, weights: Sequence[Weights]) -> None:
        """Keep copies of the weights, packed if the backend can do that."""
        self._weights: list[tuple[Weights | None, dict[str, Any]]] = []
        for each in weights:
            if hasattr(self._backend, "pack"):
                packed = self._backend.pack(self._cell, each, num_threads=self._num_threads)
                self._weights.append((None, {"packed": packed}))
            else:
                self._weights.append((Weights._make(None if w is None else w.copy() for w in each), {}))

    def step(self, x: Any, out: Any = None, extra: tuple[Array, ...] = ()) -> Array:
        """Take a step: `forward` of T = 1."""
        y = self._run(self._validate(x, out)[None], extra)[0]
        return self._give(y, out)

    def steps(self, x: Any, out: Any = None, extra: tuple[Array, ...] = ()) -> Array:
        """Take many."""
        return self._give(self._run(self._validate(x, out, True), extra), out)

    def _give(self, y: Array, out: Any) -> Array:
        if out is None:
            return y
        out[...] = y
        result: Array = out
        return result

    def _run(self, rows: Array, extra: tuple[Array, ...]) -> Array:
        """`forward` of all layers, on steps of x."""
        beside = {"extra": extra} if extra else {}
        if not self._batched:
            rows = rows[:, None]
        for (weights, packed), state in zip(self._weights, self.states, strict=True):
            rows, state_n, _ = self._backend.forward(
                self._cell, rows, state, weights, tape=False, num_threads=self._num_threads, **packed, **beside
            )
            for kept, new in zip(state, state_n, strict=True):
                kept[...] = new
        return rows if self._batched else rows[:, 0]
