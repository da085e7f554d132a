"""RNN, LSTM and GRU: layers on top of one another, with torch.nn's shapes, names and defaults. No arithmetic here."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastrnn import backends, explain, ops, stack, stack_tangent
from fastrnn.cells import CELLS, Cell, WrittenCell
from fastrnn.checks import (
    check_choice,
    check_dtype,
    check_flag,
    check_integer,
    check_positive,
    check_sequence,
    check_share,
    make_generator,
    shown,
)
from fastrnn.extra import Beside, Given, Masks, Random, as_rates, into_width
from fastrnn.groups import GroupWeights, Heads
from fastrnn.narrow import LONGEST_ROW, PRECISIONS
from fastrnn.parameters import Array, Parametrized, uniform
from fastrnn.rows import Entrance, Rows, parts_of
from fastrnn.stream import Stream

__all__ = ["GRU", "LSTM", "RNN", "Recurrent", "Tape"]


class _ExtraShapes(NamedTuple):
    """The shapes of what a call is given beside x."""

    run: tuple[int, ...]  # (T, N, H), or the rows that are run (R, H): of gradients by unit
    given: Sequence[tuple[int, ...]]  # as the caller has them


class Tape:
    """What a module's `forward` keeps for its `backward`; it serves once, as backward works in place on it.

    Attributes
    ----------
    dreset_state
        The gradient of the `reset_state` that forward was given, once backward has run; None if it was given none.
    dextra
        The gradients of what forward was given beside x, shaped like it, by name, once backward has run; None unless
        forward was asked for them.
    noise
        What forward has drawn for whole sequences, where a cell has such dropout or zoneout: the next call of forward
        takes it to go on with these sequences.
    """

    dreset_state: Any = None
    dextra: dict[str, Array] | None = None
    noise: Masks | None = None
    _extra: _ExtraShapes | None = None  # if forward was asked for their gradients

    def __init__(
        self,
        module: Parametrized,
        backend: ModuleType,
        x: Array,
        kept: Any,
        y_shape: tuple[int, ...],
        rows: Rows | None = None,
    ) -> None:
        self._module = module
        self._kept = kept  # of `stack` or, by a cell, of `ops`; None once used
        self._seen: Any = backend, x, ops.sample(backend, x)  # x, which `kept` refers to, and how it was
        self._y_shape = y_shape  # as the caller sees y
        self._rows: Any = rows  # the way back, of modules

    def __reduce__(self) -> Any:
        raise TypeError("a tape cannot be copied or pickled: it serves once, where forward made it; run forward again")

    def _check(self) -> None:
        """ValueError unless it is unused and x is as forward saw it."""
        seen = self._seen
        if seen is None:
            raise ValueError("tape was used before; expected a fresh one: backward works in place, run forward again")
        backend, x, before = seen
        if ops.sample(backend, x) != before:
            raise ValueError(
                "x was changed after forward; expected it as it was, for the tape refers to it: "
                "call backward before x is written to, or forward with x.copy()"
            )

    def _take(self) -> Any:
        """What is kept, for one thread and once."""
        kept, self._kept = self._kept, None
        if kept is None:
            raise ValueError("tape was used before, by another thread; expected a tape of its own for each")
        self._seen = None
        return kept


class TangentTape(Tape):
    """What `jvp` keeps for `backward_jvp`; it serves once."""


def check_tape(tape: Any, module: Parametrized, kind: type[Tape] = Tape) -> None:
    """TypeError or ValueError unless `tape` is one of this module's, of a kind, and has not been used."""
    source = "jvp" if kind is TangentTape else "forward"
    if not isinstance(tape, Tape):
        raise TypeError(f"tape is a {type(tape).__name__}; expected the tape that {source} returned")
    if type(tape) is not kind:
        other = "forward, for backward" if kind is TangentTape else "jvp, for backward_jvp"
        raise TypeError(f"tape is one of {other}; expected the tape that {source} returned")
    if tape._module is not module:
        raise ValueError(f"tape is another module's; expected one from this module's {source}")
    tape._check()


class Runnable(Parametrized):
    """What modules and cells share: a row of the table of cells, sizes, and what to run on."""

    _cell: Cell
    _DEFAULTS: Mapping[str, Any]  # by name, of the arguments that `repr` shows where they differ
    precision = "float32"  # of what was pickled before there were others, and of cells
    quantized = False
    _CACHES: tuple[str, ...]  # attributes that `_start_caches` sets
    _FIXED: frozenset[str] = frozenset({"input_size", "hidden_size", "bias", "dtype", "nonlinearity", "parameters"})

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to change what the parameters were made for; check what a call looks at."""
        if name in self._FIXED and (name in self.__dict__ or name == "parameters"):
            cls = type(self).__name__
            remedy = "write into its arrays" if name == "parameters" else f"make another module: {cls}(..., {name}=...)"
            raise AttributeError(f"{name} of a {cls} is fixed once it is made; {remedy}")
        if name in _CHECKS:
            value = _CHECKS[name](value)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        if name in self._FIXED or name in _CHECKS:
            raise AttributeError(f"{name} of a {type(self).__name__} cannot be deleted")
        object.__delattr__(self, name)

    def _configure(
        self, input_size: int, hidden_size: int, bias: bool, dtype: Any, backend: str | None, num_threads: int | None
    ) -> None:
        """Validate and keep the arguments that all have."""
        self.input_size = check_positive("input_size", input_size)
        self.hidden_size = check_positive("hidden_size", hidden_size)
        self.bias = check_flag("bias", bias)
        self.dtype = check_dtype(dtype)
        self.backend = backend
        self.num_threads = num_threads

    def _draw(self, shapes: Mapping[str, tuple[int, ...]], seed: Any) -> np.random.Generator:
        """Draw the parameters from torch.nn's distribution and return the generator; those of int8 become zero."""
        integers = [name for name in shapes if self.quantized and name.startswith(("weight_ih", "weight_hh"))]
        rng = self._declare(shapes, uniform(1 / math.sqrt(self.hidden_size)), seed, integers)
        self._start_caches()
        return rng

    def _start_caches(self) -> None:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name not in self._CACHES}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_caches()

    def __repr__(self) -> str:
        values = {name: getattr(self, name) for name in self._DEFAULTS} | {"dtype": self.dtype.name}
        options = [f", {name}={value!r}" for name, value in values.items() if value != self._DEFAULTS[name]]
        return f"{type(self).__name__}({self.input_size}, {self.hidden_size}{''.join(options)})"


# What an attribute is checked with that may be changed at any time.
_CHECKS: Mapping[str, Any] = {
    "backend": backends.check_backend,
    "num_threads": lambda n: None if n is None else check_positive("num_threads", n),
    "batch_first": lambda flag: check_flag("batch_first", flag),
}


def check_nonlinearity(nonlinearity: Any) -> str:
    """Return "tanh" or "relu"; TypeError or ValueError for anything else."""
    return str(check_choice("nonlinearity", nonlinearity, ("tanh", "relu")))


class _Recurrent(Runnable):
    """Everything that RNN, LSTM and GRU share."""

    _CACHES = ("_weights", "_entrance", "_quiet", "_extra_names")
    _rates: tuple[float, ...] = ()  # of its cell's noise
    _random: Random | None = None  # where that comes from
    _quiet: Cell  # its cell in inference, without noise
    _extra_names: tuple[str, ...]  # what its cell is given beside x
    heads = 1  # into how many the recurrent product is cut
    _FIXED = Runnable._FIXED | {"num_layers", "dropout", "bidirectional", "directions", "proj_size", "quantized"}
    _DEFAULTS: Mapping[str, Any] = {
        "num_layers": 1,
        "bias": True,
        "batch_first": False,
        "dropout": 0.0,
        "bidirectional": False,
        "proj_size": 0,
        "dtype": "float32",
        "precision": "float32",
        "quantized": False,
        "backend": None,
        "num_threads": None,
    }

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        dtype: Any = "float32",
        precision: str = "float32",
        quantized: bool = False,
        seed: Any = None,
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        self._configure(input_size, hidden_size, bias, dtype, backend, num_threads)
        self.num_layers = check_positive("num_layers", num_layers)
        self.batch_first = batch_first
        self.dropout = check_share("dropout", dropout)
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                f"dropout={dropout} has no effect on one layer: it is between layers", UserWarning, stacklevel=3
            )
        self.bidirectional = check_flag("bidirectional", bidirectional)
        self.directions = 2 if self.bidirectional else 1
        self.proj_size = _check_projection(proj_size, self.hidden_size)
        self._output_size = self.proj_size or self.hidden_size  # P
        self.quantized = check_flag("quantized", quantized)
        self.precision = precision
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.num_layers):
            for reverse in range(self.directions):
                of_weights = self._shapes(layer)
                shapes |= {name: of_weights[field] for field, name in self._names(layer, reverse).items()}
        self._dropout: stack.Dropout | None = None
        self.seed_dropout(self._draw(shapes, seed))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "precision":
            value = self._check_precision(value)
        super().__setattr__(name, value)
        if name == "precision" and "_weights" in self.__dict__:
            self._start_caches()

    def _check_precision(self, precision: str) -> str:
        """Return it; TypeError or ValueError unless it is one that the module can have."""
        precision = str(check_choice("precision", precision, PRECISIONS))
        if self.quantized and precision != "int8":
            raise ValueError(f"precision is {precision!r} of a quantized module; expected 'int8', as its weights are")
        if precision == "float32":
            return precision
        if self._cell.program is not None:
            raise ValueError(
                f"precision is {precision!r}, but {self._cell.name} is a written cell; expected 'float32': LSTM, GRU "
                "and RNN have weights of fewer bits"
            )
        if self.dtype != np.float32:
            raise ValueError(f"precision is {precision!r} with dtype {self.dtype}; expected dtype='float32' for it")
        longest = max(self.input_size, self.directions * self._output_size)
        if precision == "int8" and longest > LONGEST_ROW:
            raise ValueError(f"precision is 'int8' with {longest} columns of a weight; expected at most {LONGEST_ROW}")
        return precision

    def seed_dropout(self, seed: Any) -> None:
        """Have dropout, and a cell's noise, draw from `seed` on, anything `numpy.random.default_rng` takes."""
        rng = make_generator(seed)
        if self.dropout and self.num_layers > 1:
            self._dropout = stack.Dropout(self.dropout, tuple(rng.spawn(self.num_layers - 1)))
        if any(self._rates) and isinstance(self._cell, WrittenCell):
            self._random = Random(self._cell, self._rates, self.num_layers * self.directions, rng.spawn(1)[0])

    def _shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """The shapes of a layer's weights, by field of `Weights`."""
        cell, H, size = self._cell, self.hidden_size, self._output_size
        of_x, of_h = len(cell.gates_ih) * H, len(cell.gates_hh) * H
        columns = self.input_size if layer == 0 else self.directions * size
        return {
            "ih": (of_x, columns),
            "hh": (of_h, size // self.heads),
            "bias_ih": (of_x,),
            "bias_hh": (of_h,),
            "hr": (size, H),
            "unit": (0 if cell.program is None else cell.program.units, H),
            "scale_ih": (of_x,),
            "scale_hh": (of_h,),
        }

    def _names(self, layer: int, reverse: int) -> dict[str, str]:
        """torch.nn's names of the parameters, by field of `Weights`, in torch.nn's order."""
        names = {"ih": "weight_ih", "hh": "weight_hh"}
        if self.bias:
            names |= {"bias_ih": "bias_ih", "bias_hh": "bias_hh"}
        if self.proj_size:
            names["hr"] = "weight_hr"
        program = self._cell.program
        if program is not None and not self._cell.gates_hh:
            names = {field: name for field, name in names.items() if field not in ("hh", "bias_hh")}
        if program is not None and program.units:
            names["unit"] = "unit"
        if self.quantized:
            names |= {"scale_ih": "scale_ih", "scale_hh": "scale_hh"}
        return {field: f"{name}{_suffix(layer, reverse)}" for field, name in names.items()}

    def _layer_weights(self, names: Mapping[str, str]) -> ops.LayerWeights:
        """Those of a layer and direction, whose names these are."""
        if self.heads > 1:
            return GroupWeights(self._parameters, names, Heads)
        return ops.LayerWeights(self._parameters, names, self.precision)

    def _start_caches(self) -> None:
        self._weights = [
            [self._layer_weights(self._names(layer, reverse)) for reverse in range(self.directions)]
            for layer in range(self.num_layers)
        ]
        self._quiet, self._extra_names = self._cell, ()
        if isinstance(self._cell, WrittenCell):
            self._quiet, self._extra_names = self._cell.without_noise(self._rates), self._cell.extra
        sizes = [self._output_size] + [self.hidden_size] * (len(self._cell.states) - 1)
        self._entrance = Entrance(
            self._cell, self.dtype, self.input_size, sizes, self.num_layers, self.directions, self.proj_size > 0
        )

    def __call__(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        masked: str = "zero",
        resets: Any = None,
        reset_state: Any = None,
        extra: Any = None,
    ) -> tuple[Array, Any]:
        """Run the sequence for its outputs only.

        Steps that lengths or a mask leave out are not computed, what x holds there does not matter, and the time goes
        with the number of the others.

        Parameters
        ----------
        x
            (T, N, I), or (N, T, I) with `batch_first`, or (T, I) for a single sequence, of the module's dtype.
            An integer array of one dimension less holds token indices: each stands for its one-hot row, and a column
            of weight_ih takes the place of the input product.
        state
            The initial state h_0, (L*D, N, P), where D is 2 if bidirectional and P is H unless there is a projection;
            for LSTM the tuple (h_0, c_0), c_0 (L*D, N, H). Without N for a single sequence. None means zeros.
        lengths
            (N,) ints from 0 to T in any order: how many of its steps each sequence really has. y is zero beyond them,
            and the final state is that of each last real step, where the reverse direction starts. None means T.
        mask
            (T, N) bools, with the axes of x: a step that is False is left out, in both directions, and the state stays
            as it is. None means that all are True.
        masked
            What y is at steps that the mask leaves out: "zero", or the "last" output before, which in the columns of
            the reverse direction is the one of a later step. Where the state has begun anew since, or no step has been
            run yet, that is zero, too.
        resets
            (T, N) bools, with the axes of x: before a step that is True, run or left out, the state begins anew. So
            nothing goes from one side of it to the other in the reverse direction, either, which begins anew as it
            passes on to the step before, if there is one. None means that none is True.
        reset_state
            What the state begins anew with: None for zeros, "initial" for `state`, or a state of its own for each
            sequence, shaped like `state`.
        extra
            What a cell of one's own is given beside x, a dict by name: each (T, N), one value for all units, or
            (T, N, H), with the axes of x and the module's dtype. All layers and directions are given the same.

        Returns
        -------
        tuple
            y, x's shape with D*P in place of I, and the final state, shaped like `state`. A sequence of no steps gives
            its initial state, or what it began anew with.

        Raises
        ------
        TypeError
            If a dtype differs, or an argument is not an array.
        ValueError
            If a shape differs, or a token or length is out of range.

        Examples
        --------
        >>> import numpy as np, fastrnn
        >>> gru = fastrnn.GRU(10, 20, seed=0)
        >>> x, resets = np.ones((5, 2, 10), np.float32), np.zeros((5, 2), bool)
        >>> resets[3, 0] = True  # in the first sequence an episode ends after three steps
        >>> y, h_n = gru(x, resets=resets)
        >>> bool((y[3:, 0] == y[:2, 0]).all()), bool((h_n[0] == y[-1]).all())
        (True, True)
        """
        x, states, rows = self._entrance.take(x, state, self.batch_first, lengths, mask, masked, resets, reset_state)
        setting = self._setting(x, rows, extra, training=False)
        stamp = self._stamp()  # before weights are taken: they count as held
        y, states_n = stack.infer(setting, self._weights, x, states, stamp)
        return rows.back(y, states_n, setting.empty)

    def forward(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        masked: str = "zero",
        resets: Any = None,
        reset_state: Any = None,
        extra: Any = None,
        extra_gradients: bool = False,
        noise: Masks | None = None,
        checkpoint_every: int | None = None,
    ) -> tuple[Array, Any, Tape]:
        """Run the sequence and keep what `backward` needs; with dropout between the layers, if the module has it.

        Parameters and errors are those of `__call__`, and

        Parameters
        ----------
        extra_gradients
            Whether backward is to find the gradients of `extra`, too, for `tape.dextra`. Cells may then keep more.
        noise
            Of a sequence that comes in pieces, the `noise` of the tape of the piece before: dropout and zoneout that
            are the same for a whole sequence go on with their masks. None draws new ones.
        checkpoint_every
            Keep the state every so many steps (at least: where sums over steps may be cut, about every 128 rows of
            them), and not everything of every step: backward then runs forward again piece by piece. For T steps the
            tape has T / k states and k steps instead of T, and the gradients the same bits. Bidirectional modules keep
            the outputs of their lower layers besides.

        Returns
        -------
        tuple
            y, the final state, and the tape. The tape refers to real x, y and the parameters without a copy: they must
            not change before `backward`. So y is read-only, and `backward` raises ValueError where it sees that x has
            changed (of a large x it looks at a sample). Tokens, lengths, masks, resets and states may: they are copied.
        """
        if checkpoint_every is not None:
            checkpoint_every = check_positive("checkpoint_every", checkpoint_every)
        x, states, rows = self._entrance.take(x, state, self.batch_first, lengths, mask, masked, resets, reset_state)
        if state is not None and rows.batch_sizes is None:
            states = [tuple([s.copy() for s in state_0]) for state_0 in states]  # the tape outlives the caller's arrays
        setting = self._setting(x, rows, extra, training=True)
        if extra_gradients is not False and check_flag("extra_gradients", extra_gradients) and not self._extra_names:
            raise ValueError("extra_gradients is True, but the module is given nothing beside x; expected False")
        masks = None
        if self._random is not None:
            setting, masks = self._draw_noise(self._random, setting, x, rows, noise)
        elif noise is not None:
            raise ValueError("noise is given, but the module has none that is the same for a sequence; expected None")
        if extra_gradients and isinstance(setting.cell, WrittenCell):
            setting = self._into_extra(setting, setting.cell)
        y, states_n, kept = stack.forward(setting, self._weights, x, states, self._dropout, checkpoint_every)
        y.flags.writeable = False
        y, state_n = rows.back(y, states_n, setting.empty)
        y.flags.writeable = False
        tape = Tape(self, setting.backend, x, kept, y.shape, rows)
        tape.noise = masks
        if extra_gradients:
            leading = x.shape[: 2 if rows.ragged is None else 1]
            given = [np.shape(extra[name]) for name in self._extra_names]
            tape._extra = _ExtraShapes((*leading, self.hidden_size), given)
        return y, state_n, tape

    def _into_extra(self, setting: stack.Setting, cell: WrittenCell) -> stack.Setting:
        """The same with the gradients of what the cell is given beside x."""
        backend, num_threads = ops.choose_for_cell(cell.into_extra, self.backend, self.num_threads)
        return setting._replace(backend=backend, cell=cell.into_extra, num_threads=num_threads)

    def _setting(self, x: Array, rows: Rows, extra: Any, *, training: bool) -> stack.Setting:
        """What all layers of a call without noise share."""
        if training:
            self._refuse_training()
        backend, num_threads = self._choose()
        if explain.WANTED and rows.batch_sizes is None:
            explain.say_once(self._explanation(x.shape[0], x.shape[1], tokens=x.dtype.kind != "f", training=training))
        setting = stack.Setting(backend, self._quiet, num_threads, rows.batch_sizes)
        names = self._extra_names
        if not names and extra is None:
            return setting
        given = self._entrance.take_extra(names, extra, x, rows, self.hidden_size)
        return setting._replace(extra=[Beside([*map(Given, given)])] * self.num_layers * self.directions)

    def _refuse_training(self) -> None:
        """ValueError unless the precision is one that `forward` with a tape has."""
        if self.precision == "int8":
            remedy = "the module that it was made of" if self.quantized else "module.precision = 'float32' for it"
            wanted = f"expected 'float32' or 'bfloat16' to train or trace: {remedy}"
            raise ValueError(f"precision is {self.precision!r}, which is for inference; {wanted}")

    def _draw_noise(
        self, random: Random, setting: stack.Setting, x: Array, rows: Rows, masks: Any
    ) -> tuple[stack.Setting, Masks]:
        """The same with noise, and what it has for whole sequences."""
        N, H, sequence = rows.steps_of(x)[1], self.hidden_size, None
        if masks is not None and not isinstance(masks, Masks):
            raise TypeError(f"noise is {shown(masks)}; expected None, or the noise of the tape of a call before")
        if masks is not None and masks.batch != N:
            raise ValueError(f"noise is of a batch of N = {masks.batch}; expected that of x, {N}")
        leading = x.shape[: 2 if rows.ragged is None else 1]
        if rows.ragged is not None:
            sequence = rows.ragged.sources[0] % N
        draws, drawn = random.draw((*leading, H), N, self.dtype, sequence, masks)
        values = setting.extra or [Beside([])] * len(draws)
        extra = [its.add(more) for its, more in zip(values, draws, strict=True)]
        return setting._replace(cell=self._cell, extra=extra), drawn

    def backward(
        self, tape: Tape, dy: Any = None, dstate: Any = None, *, of_x: bool = True
    ) -> tuple[Array | None, Any, dict[str, Array]]:
        """Back-propagate through time: the exact gradients of everything that went into `forward`.

        Parameters
        ----------
        tape
            From `forward` of this module; it serves once.
        dy
            The loss's gradient with respect to y, of y's shape; None means zero. What it holds where no step is run
            does not matter, unless y has the last output there: then it goes to the step of that output.
        dstate
            The loss's gradient with respect to the final state, shaped like it: dh_n, for LSTM (dh_n, dc_n), each of
            which may be None for zero.
        of_x
            Whether dx is wanted: a first layer's, whose x is data, need not be computed.

        Returns
        -------
        tuple
            dx (None for token input, or unless `of_x`), the gradient of the initial state, and a dict of the
            parameters' gradients under the names of `parameters`. If `forward` was given a `reset_state`, its gradient
            is added to that of the initial state where they are one, "initial", else it is `tape.dreset_state`, shaped
            like a state. If it was asked for `extra_gradients`, these are `tape.dextra`, by name.

        Raises
        ------
        ValueError
            If a shape differs, or the tape was used before or belongs to another module.
        TypeError
            If a dtype differs.
        """
        check_tape(tape, self)
        if of_x is not True:
            check_flag("of_x", of_x)
        rows = tape._rows
        dy, dstates, dstates_n = self._entrance.take_gradients(rows, tape._y_shape, dy, dstate)
        of_extra = tape._extra
        dextra = [] if of_extra is None else [np.zeros(of_extra.run, self.dtype) for _ in of_extra.given]
        options = {} if of_x and not dextra else {"of_x": of_x, "dextra": dextra}
        dx, dstates_0, dweights = tape._take().backward(dy, dstates, **options)
        grads: dict[str, Array] = {}
        for weights, of_weights in zip(itertools.chain(*self._weights), dweights, strict=True):
            grads |= weights.named(of_weights)
        dx, dstate_0, tape.dreset_state = rows.gradients_back(dx if of_x else None, dstates_0, dstates_n)
        if of_extra is not None:
            tape.dextra = {}
            for name, shape, by_unit in zip(self._extra_names, of_extra.given, dextra, strict=True):
                whole = rows.unpack(by_unit)
                width = shape[-1] if len(shape) == whole.ndim else 1
                tape.dextra[name] = into_width(whole, width).reshape(shape)
        return dx, dstate_0, grads

    def trace(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        reset_state: Any = None,
        extra: Any = None,
    ) -> dict[str, Array]:
        """Run the sequence as `forward` does, without dropout, and show every gate and every state of every step.

        Parameters and errors are those of `__call__`.

        Returns
        -------
        dict
            The gates and states of `fastrnn.cells` by name, layer and direction: i_l0, f_l0, g_l0, o_l0, h_l0, c_l0,
            i_l0_reverse, ... for LSTM; r_l0, z_l0, n_l0, h_l0, ... for GRU; h_l0, ... for RNN. Each is (T, N, H), or h
            with a projection (T, N, P), the axes in x's order. The values at t belong to x_t in both directions, those
            of steps that are not run are zero.

        Examples
        --------
        >>> import numpy as np, fastrnn
        >>> gru = fastrnn.GRU(10, 20, bidirectional=True, seed=0)
        >>> inside = gru.trace(np.zeros((5, 3, 10), np.float32))
        >>> list(inside)
        ['r_l0', 'z_l0', 'n_l0', 'h_l0', 'r_l0_reverse', 'z_l0_reverse', 'n_l0_reverse', 'h_l0_reverse']
        >>> inside["z_l0_reverse"].shape
        (5, 3, 20)
        """
        x, states, rows = self._entrance.take(x, state, self.batch_first, lengths, mask, "zero", resets, reset_state)
        setting = self._setting(x, rows, extra, training=True)
        inside: dict[str, Array] = {}
        for index, arrays in enumerate(stack.trace(setting, self._weights, x, states, rows.ragged)):
            layer, reverse = divmod(index, self.directions)
            inside |= {f"{name}{_suffix(layer, reverse)}": rows.form(array) for name, array in arrays.items()}
        return inside

    def stream(self, batch_size: int | None = 1) -> Stream:
        """Make an object that takes one step of each sequence at a time and keeps the state, zero at first.

        Parameters
        ----------
        batch_size
            N, how many sequences there are; None for a single one, whose arrays have no axis N.

        Returns
        -------
        Stream
            See `fastrnn.stream.Stream`: `step(x, out=None)`, `state`, `reset(rows=None)`, `refresh()`.

        Raises
        ------
        ValueError
            If the module is bidirectional, or `batch_size` less than 1.
        TypeError
            If `batch_size` is not an integer.
        """
        if self.bidirectional:
            raise ValueError("a bidirectional module has no stream: its reverse direction starts at the last step")
        if batch_size is not None:
            batch_size = check_positive("batch_size", batch_size)
        backend, num_threads = self._choose()
        layers = [layer for (layer,) in self._weights]
        return Stream(backend, self._quiet, layers, batch_size, num_threads, self._extra_names)

    def explain(self, shape: Sequence[int], *, tokens: bool = False, training: bool = False) -> str:
        """Say how a call on x of a shape would run here: what the backend chooses, how much work it is, what bounds it.

        With FASTRNN_EXPLAIN=1 in the environment every new kind of call says so on stderr.

        Parameters
        ----------
        shape
            Of x: (T, N, I), or (N, T, I) with `batch_first`, or (T, I); for tokens (T, N), (N, T) or (T,).
        tokens
            Whether x holds token indices.
        training
            Whether `forward` and `backward` are meant, not an inference call.

        Raises
        ------
        ValueError
            If no x can have this shape.
        """
        check_sequence("shape", shape, "a tuple of sizes")
        if check_flag("training", training):
            self._refuse_training()
        if len(shape) <= 3:
            shape = tuple([check_integer(f"shape[{axis}]", size) for axis, size in enumerate(shape)])
        sizes = list(shape)[: len(shape) if check_flag("tokens", tokens) else -1]
        if len(sizes) not in (1, 2) or min(shape) < 0 or not (tokens or shape[-1] == self.input_size):
            letters = "(T, N) or (T,) as tokens is True" if tokens else f"(T, N, I) or (T, I), I = {self.input_size}"
            raise ValueError(f"shape is {shown(tuple(shape))}; expected {letters}")
        steps, batch = sizes[::-1] if self.batch_first and len(sizes) == 2 else [*sizes, 1][:2]
        return self._explanation(steps, batch, tokens=tokens, training=training)

    def _choose(self) -> tuple[ModuleType, int]:
        """What a call runs on: the backend and the number of threads."""
        if self.precision != "float32":
            return ops.choose_for_precision(self.precision, self.backend, self.num_threads)
        return ops.choose(self.backend, self.num_threads)

    def _explanation(self, steps: int, batch: int, *, tokens: bool, training: bool) -> str:
        backend, num_threads = self._choose()
        kind = "training" if training else "inference"
        name = next(name for name, module in backends.BACKENDS.items() if module == backend.__name__)
        lines = [f"{self!r}, {kind}, T = {steps}, N = {batch}, backend {name}"]
        packed = self._stamp() is not None
        for layer, directions in enumerate(self._weights):
            lines += [f"layer {layer}"] if self.num_layers > 1 else []
            its = directions[0]
            weights = its.arrays() if self.precision == "float32" else its.ready(self._cell)[0]
            if isinstance(weights, ops.Several):
                lines.append(f"{weights.count(self._cell)} at once, each so:")
                weights = weights.first(self._cell)
            lines.append(
                explain.explain_layer(
                    backend,
                    self._cell if training and self._random is not None else self._quiet,
                    weights,
                    steps,
                    batch,
                    tokens=tokens and layer == 0,
                    training=training,
                    packed=packed,
                    num_threads=num_threads,
                )
            )
        if self.bidirectional:
            lines.append("each layer twice: the reverse direction runs alike, after the other")
        return "\n".join(lines)


def _suffix(layer: int, reverse: int) -> str:
    """What torch.nn ends the names of a layer's and direction's parameters in."""
    return f"_l{layer}{'_reverse' * reverse}"


def _check_projection(proj_size: Any, hidden_size: int) -> int:
    wanted = f"0 for none, or less than hidden_size = {hidden_size}"
    return check_integer("proj_size", proj_size, wanted, 0, hidden_size - 1)


def _check_heads(heads: Any, cell: WrittenCell, hidden_size: Any, proj_size: Any) -> int:
    """Return the number of heads; TypeError or ValueError unless the cell's layer can be cut into so many."""
    count: int = check_positive("heads", heads)
    if count == 1:
        return 1
    hidden_size = check_positive("hidden_size", hidden_size)
    if hidden_size % heads:
        raise ValueError(f"heads is {heads}; expected a divisor of hidden_size = {hidden_size}")
    if _check_projection(proj_size, hidden_size):
        raise ValueError(f"heads is {heads}, but proj_size {shown(proj_size)}, which mixes the heads; expected 1")
    if not cell.gates_hh:
        raise ValueError(f"heads is {heads}, but the cell {cell.name} has no recurrent product to be cut; expected 1")
    if cell.program is not None and cell.program.phases:
        raise ValueError(
            f"heads is {heads}, but the cell {cell.name} has a mean over all units of a row, which is of all heads; "
            "expected 1"
        )
    return count


class _BuiltIn(_Recurrent):
    """What RNN, LSTM and GRU share: derivatives beyond the first."""

    def jvp(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        x_tangent: Any = None,
        state_tangent: Any = None,
        parameter_tangents: Any = None,
    ) -> tuple[tuple[Array, Any], tuple[Array, Any], Tape]:
        """Run the sequence in forward mode: y, the final state, and their derivatives in a direction.

        The direction is made of the tangents of what goes in; those that are not given are zero. It is one pass through
        the sequence more than `forward`, whatever the number of parameters.

        Parameters
        ----------
        x, state, lengths
            As of `__call__`.
        x_tangent
            The tangent of x, of its shape; None for zero, and for tokens.
        state_tangent
            That of the initial state, shaped like it.
        parameter_tangents
            Those of parameters, a dict by their names; others are zero.

        Returns
        -------
        tuple
            (y, state_n), as of `forward`; (y_tangent, state_n_tangent), shaped like these; and a tape for
            `backward_jvp`, which refers to x and the parameters as that of `forward` does. Dropout is drawn as there.

        Raises
        ------
        TypeError
            If a dtype differs, or an argument is not an array.
        ValueError
            If a shape differs, or a parameter has another name.

        Examples
        --------
        >>> import numpy as np, fastrnn
        >>> rnn = fastrnn.RNN(3, 5, dtype="float64", seed=0)
        >>> x, x_tangent = np.ones((4, 2, 3)), np.full((4, 2, 3), 0.5)
        >>> (y, h_n), (y_tangent, h_n_tangent), tape = rnn.jvp(x, x_tangent=x_tangent)
        >>> difference = (rnn(x + 1e-6 * x_tangent)[0] - rnn(x - 1e-6 * x_tangent)[0]) / 2e-6
        >>> bool(np.abs(y_tangent - difference).max() < 1e-8)
        True
        """
        given = x
        x, states, rows = self._entrance.take(x, state, self.batch_first, lengths)
        if state_tangent is not None:
            names = parts_of("state_tangent", len(self._cell.states))
            self._entrance._as_states(names, state_tangent, rows.steps_of(x)[1], rows.batched, what="state_tangent")
        if x_tangent is not None:
            if x.dtype.kind != "f":
                raise ValueError("x_tangent is given, but x has tokens; expected None: they have no tangent")
            x_tangent = ops.as_real("x_tangent", x_tangent, self.dtype, np.shape(given), "x's shape")
        along, of_states, rows_along = self._entrance.take(
            given if x_tangent is None else x_tangent, state_tangent, self.batch_first, lengths
        )
        of_weights: dict[str, Array] = {}
        if parameter_tangents is not None and not isinstance(parameter_tangents, Mapping):
            wanted = "a dict of arrays by names of parameters, or None"
            raise TypeError(f"parameter_tangents is {shown(parameter_tangents)}; expected {wanted}")
        for name, value in (parameter_tangents or {}).items():
            if name not in self._parameters:
                raise ValueError(f"parameter_tangents has {shown(name)}; expected names of parameters")
            what, own = f"parameter_tangents[{name!r}]", self._parameters[name]
            of_weights[name] = ops.as_real(what, value, self.dtype, own.shape, "the parameter's shape")
        if self.precision == "bfloat16":
            raise ValueError(
                "precision is 'bfloat16', in which jvp does not run; expected 'float32' for it: module.precision = "
                "'float32'"
            )
        setting = self._setting(x, rows, None, training=True)
        tangents = (None if x_tangent is None else along, of_states, of_weights)
        states = [tuple(map(np.copy, its)) for its in states]  # the tape outlives the caller's arrays
        (y, states_n), (dot, dots_n), kept = stack_tangent.forward(
            setting, self._weights, x, states, tangents, self._dropout
        )
        y.flags.writeable = False
        outputs = rows.back(y, states_n, setting.empty)
        outputs[0].flags.writeable = False
        tape = TangentTape(self, setting.backend, x, kept, outputs[0].shape, rows)
        return outputs, rows_along.back(dot, dots_n, setting.empty), tape

    def backward_jvp(
        self, tape: Tape, dy: Any = None, dstate: Any = None, *, dy_tangent: Any = None, dstate_tangent: Any = None
    ) -> tuple[tuple[Array | None, Any, dict[str, Array]], tuple[Array | None, Any, dict[str, Array]]]:
        """Back-propagate through time, and take the tangent of that: Hessian-vector products, forward over reverse.

        Of a loss of y whose gradient is dy(y), give dy and, as `dy_tangent`, the product of the loss's own Hessian with
        y_tangent. Then the tangents that are returned are the products of the Hessian with the direction of `jvp`.

        Parameters
        ----------
        tape
            From `jvp` of this module; it serves once.
        dy, dstate
            As of `backward`.
        dy_tangent, dstate_tangent
            Their tangents, shaped like them; None for zero.

        Returns
        -------
        tuple
            What `backward` returns, (dx, dstate_0, grads), and the tangents of all of it, formed alike.

        Raises
        ------
        ValueError
            If a shape differs, or the tape was used before or belongs to another module.
        TypeError
            If a dtype differs, or the tape is not of `jvp`.

        Examples
        --------
        >>> import numpy as np, fastrnn
        >>> lstm = fastrnn.LSTM(3, 5, dtype="float64", seed=0)
        >>> x = np.random.default_rng(0).standard_normal((4, 2, 3))
        >>> direction = {name: np.ones_like(p) for name, p in lstm.parameters.items()}  # of the loss (y * y).sum() / 2
        >>> (y, _), (y_tangent, _), tape = lstm.jvp(x, parameter_tangents=direction)
        >>> (_, _, grads), (_, _, products) = lstm.backward_jvp(tape, dy=y, dy_tangent=y_tangent)
        >>> products["weight_hh_l0"].shape
        (20, 5)
        """
        check_tape(tape, self, TangentTape)
        rows, entrance, shape = tape._rows, self._entrance, tape._y_shape
        dy, dstates, dstates_n = entrance.take_gradients(rows, shape, dy, dstate)
        along, of_dstates, of_dstates_n = entrance.take_gradients(
            rows, shape, dy_tangent, dstate_tangent, tangents=True
        )
        found = []
        both = tape._take().backward(dy, dstates, along, of_dstates)
        for (dx, dstates_0, dweights), into in zip(both, (dstates_n, of_dstates_n), strict=True):
            grads: dict[str, Array] = {}
            for weights, of_weights in zip(itertools.chain(*self._weights), dweights, strict=True):
                grads |= weights.named(of_weights)
            dx, dstate_0, _ = rows.gradients_back(dx, dstates_0, into)
            found.append((dx, dstate_0, grads))
        return found[0], found[1]


class RNN(_BuiltIn):
    """An Elman RNN over one or more layers, torch.nn.RNN's arguments, shapes and weights::

        h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)

    or with max(0, .) in place of tanh.

    **Inputs.** T steps, N sequences, I = input_size, H = hidden_size, L = num_layers, D = 2 if bidirectional, else 1.

    - x, (T, N, I), or (N, T, I) with batch_first, or (T, I) for a single sequence; or integers, tokens, of one
      dimension less.
    - h_0, (L*D, N, H): the initial state, zeros unless given; without N for a single sequence.

    **Outputs.** y, (T, N, D*H) in the layout of x, the h of the last layer at every step; and the final state h_n,
    shaped like h_0.

    **Weights**, in `parameters` under torch.nn's names.

    - weight_ih_l0, weight_ih_l1, ...: (H, I), of the layers above (H, D*H).
    - weight_hh_l0, ...: (H, H), the recurrent weights.
    - bias_ih_l0, bias_hh_l0, ...: (H,) each, unless bias is False.
    - weight_ih_l0_reverse, ...: the same of the reverse direction, where there is one.

    Parameters
    ----------
    input_size, hidden_size
        I and H.
    num_layers
        L, how many layers stand on top of one another.
    nonlinearity
        "tanh" or "relu".
    bias
        Whether the layers have bias_ih and bias_hh.
    batch_first
        Whether x and y are (N, T, ...) instead of (T, N, ...). States never are.
    dropout
        The share of the outputs of every layer but the last that `forward` sets to zero, at random; the others are
        divided by 1 - dropout. Inference keeps all.
    bidirectional
        Whether each layer has a second direction, from the last step to the first; y holds both side by side.
    dtype
        float32 or float64, of the parameters and of everything that goes in and out.
    precision
        What products multiply: "float32", which stands for the dtype, "bfloat16", or in inference "int8", as
        docs/precision.md says; it may be set at any time.
    quantized
        Whether the parameters are int8 weights with their scales, as `fastrnn.quantize` makes them of another module's.
    seed
        Of the initial parameters and of dropout, anything `numpy.random.default_rng` takes; the parameters are drawn
        from torch.nn's distribution, U(-1/sqrt(H), 1/sqrt(H)).
    backend
        "cython", "numba" or "numpy"; None leaves the choice to `fastrnn.use_backend`.
    num_threads
        The most threads a call may use; None leaves it to `fastrnn.set_num_threads`. It changes no bit of any result.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> rnn = fastrnn.RNN(10, 20, seed=0)
    >>> y, h_n = rnn(np.zeros((5, 3, 10), np.float32))
    >>> y.shape, h_n.shape
    ((5, 3, 20), (1, 3, 20))
    """

    _DEFAULTS: Mapping[str, Any] = {"nonlinearity": None, **_Recurrent._DEFAULTS}  # always shown

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: Any = "float32",
        precision: str = "float32",
        quantized: bool = False,
        seed: Any = None,
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        self.nonlinearity = check_nonlinearity(nonlinearity)
        self._cell = CELLS[f"rnn_{nonlinearity}"]
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            dtype=dtype,
            precision=precision,
            quantized=quantized,
            seed=seed,
            backend=backend,
            num_threads=num_threads,
        )


class LSTM(_BuiltIn):
    """A long short-term memory over one or more layers, torch.nn.LSTM's arguments, shapes and weights::

        i_t = sigmoid(W_ii x_t + b_ii + W_hi h_{t-1} + b_hi)
        f_t = sigmoid(W_if x_t + b_if + W_hf h_{t-1} + b_hf)
        g_t = tanh(W_ig x_t + b_ig + W_hg h_{t-1} + b_hg)
        o_t = sigmoid(W_io x_t + b_io + W_ho h_{t-1} + b_ho)
        c_t = f_t * c_{t-1} + i_t * g_t
        h_t = o_t * tanh(c_t)

    With a projection h_t = W_hr (o_t * tanh(c_t)).

    **Inputs.** T steps, N sequences, I = input_size, H = hidden_size, L = num_layers, D = 2 if bidirectional, else 1,
    P = proj_size or, without one, H.

    - x, (T, N, I), or (N, T, I) with batch_first, or (T, I) for a single sequence; or integers, tokens, of one
      dimension less.
    - h_0, (L*D, N, P), and c_0, (L*D, N, H), as a tuple: the initial state, zeros unless given; without N for a single
      sequence.

    **Outputs.** y, (T, N, D*P) in the layout of x, the h of the last layer at every step; and the final state
    (h_n, c_n), shaped like the initial one.

    **Weights**, in `parameters` under torch.nn's names.

    - weight_ih_l0, weight_ih_l1, ...: (4*H, I), of the layers above (4*H, D*P), in blocks of H rows for the
      gates i, f, g, o.
    - weight_hh_l0, ...: (4*H, P), the same blocks.
    - bias_ih_l0, bias_hh_l0, ...: (4*H,) each, unless bias is False.
    - weight_hr_l0, ...: (P, H), where there is a projection.
    - weight_ih_l0_reverse, ...: the same of the reverse direction, where there is one.

    Parameters
    ----------
    input_size, hidden_size
        I and H.
    num_layers
        L, how many layers stand on top of one another.
    bias
        Whether the layers have bias_ih and bias_hh.
    batch_first
        Whether x and y are (N, T, ...) instead of (T, N, ...). States never are.
    dropout
        The share of the outputs of every layer but the last that `forward` sets to zero, at random; the others are
        divided by 1 - dropout. Inference keeps all.
    bidirectional
        Whether each layer has a second direction, from the last step to the first; y holds both side by side.
    proj_size
        P, less than H: h is projected to so many columns by weight_hr. 0 means no projection.
    dtype
        float32 or float64, of the parameters and of everything that goes in and out.
    precision
        What products multiply: "float32", which stands for the dtype, "bfloat16", or in inference "int8", as
        docs/precision.md says; it may be set at any time.
    quantized
        Whether the parameters are int8 weights with their scales, as `fastrnn.quantize` makes them of another module's.
    seed
        Of the initial parameters and of dropout, anything `numpy.random.default_rng` takes; the parameters are drawn
        from torch.nn's distribution, U(-1/sqrt(H), 1/sqrt(H)).
    backend
        "cython", "numba" or "numpy"; None leaves the choice to `fastrnn.use_backend`.
    num_threads
        The most threads a call may use; None leaves it to `fastrnn.set_num_threads`. It changes no bit of any result.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> lstm = fastrnn.LSTM(10, 20, num_layers=2, seed=0)
    >>> x = np.zeros((5, 3, 10), np.float32)
    >>> y, (h_n, c_n), tape = lstm.forward(x)
    >>> dx, (dh_0, dc_0), grads = lstm.backward(tape, dy=np.ones_like(y))
    >>> dx.shape, dc_0.shape, grads["weight_hh_l1"].shape
    ((5, 3, 10), (2, 3, 20), (80, 20))
    """

    _cell = CELLS["lstm"]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        dtype: Any = "float32",
        precision: str = "float32",
        quantized: bool = False,
        seed: Any = None,
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            dtype=dtype,
            precision=precision,
            quantized=quantized,
            seed=seed,
            backend=backend,
            num_threads=num_threads,
        )


class GRU(_BuiltIn):
    """A gated recurrent unit over one or more layers, torch.nn.GRU's arguments, shapes and weights::

        r_t = sigmoid(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)
        z_t = sigmoid(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)
        n_t = tanh(W_in x_t + b_in + r_t * (W_hn h_{t-1} + b_hn))
        h_t = n_t + z_t * (h_{t-1} - n_t)

    The reset gate r multiplies the recurrent product, as in torch.nn, cuDNN and Keras' ``reset_after=True``.

    **Inputs.** T steps, N sequences, I = input_size, H = hidden_size, L = num_layers, D = 2 if bidirectional, else 1.

    - x, (T, N, I), or (N, T, I) with batch_first, or (T, I) for a single sequence; or integers, tokens, of one
      dimension less.
    - h_0, (L*D, N, H): the initial state, zeros unless given; without N for a single sequence.

    **Outputs.** y, (T, N, D*H) in the layout of x, the h of the last layer at every step; and the final state h_n,
    shaped like h_0.

    **Weights**, in `parameters` under torch.nn's names.

    - weight_ih_l0, weight_ih_l1, ...: (3*H, I), of the layers above (3*H, D*H), in blocks of H rows for the
      gates r, z, n.
    - weight_hh_l0, ...: (3*H, H), the same blocks.
    - bias_ih_l0, bias_hh_l0, ...: (3*H,) each, unless bias is False.
    - weight_ih_l0_reverse, ...: the same of the reverse direction, where there is one.

    Parameters
    ----------
    input_size, hidden_size
        I and H.
    num_layers
        L, how many layers stand on top of one another.
    bias
        Whether the layers have bias_ih and bias_hh.
    batch_first
        Whether x and y are (N, T, ...) instead of (T, N, ...). States never are.
    dropout
        The share of the outputs of every layer but the last that `forward` sets to zero, at random; the others are
        divided by 1 - dropout. Inference keeps all.
    bidirectional
        Whether each layer has a second direction, from the last step to the first; y holds both side by side.
    dtype
        float32 or float64, of the parameters and of everything that goes in and out.
    precision
        What products multiply: "float32", which stands for the dtype, "bfloat16", or in inference "int8", as
        docs/precision.md says; it may be set at any time.
    quantized
        Whether the parameters are int8 weights with their scales, as `fastrnn.quantize` makes them of another module's.
    seed
        Of the initial parameters and of dropout, anything `numpy.random.default_rng` takes; the parameters are drawn
        from torch.nn's distribution, U(-1/sqrt(H), 1/sqrt(H)).
    backend
        "cython", "numba" or "numpy"; None leaves the choice to `fastrnn.use_backend`.
    num_threads
        The most threads a call may use; None leaves it to `fastrnn.set_num_threads`. It changes no bit of any result.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> gru = fastrnn.GRU(10, 20, batch_first=True, seed=0)
    >>> y, h_n = gru(np.zeros((3, 5, 10), np.float32))
    >>> y.shape, h_n.shape
    ((3, 5, 20), (1, 3, 20))
    """

    _cell = CELLS["gru"]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: Any = "float32",
        precision: str = "float32",
        quantized: bool = False,
        seed: Any = None,
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            dtype=dtype,
            precision=precision,
            quantized=quantized,
            seed=seed,
            backend=backend,
            num_threads=num_threads,
        )


class Recurrent(_Recurrent):
    """Layers of any cell: one that `fastrnn.cell` has made, or one of `fastrnn.cells`.

    All that `LSTM` has is here too: layers, directions, lengths, tokens, dropout, projection, `trace`, `stream`,
    checkpoints. The weights are torch.nn's, with the blocks of the cell's gates: weight_ih_l0 (G*H, I) and bias_ih_l0
    of those that x feeds, weight_hh_l0 (G*H, P) and bias_hh_l0 of those that h feeds, if there are any; and unit_l0
    (M, H), the cell's own parameters in their order. The state is h alone, or a tuple in the order of the cell's
    states.

    Parameters
    ----------
    cell
        From `fastrnn.cell`.
    input_size, hidden_size, num_layers
        I, H and L.
    bias
        Whether the layers have bias_ih and bias_hh.
    batch_first
        Whether x and y are (N, T, ...) instead of (T, N, ...). States never are.
    dropout
        The share of the outputs of every layer but the last that `forward` sets to zero, at random; the others are
        divided by 1 - dropout. Inference keeps all.
    bidirectional
        Whether each layer has a second direction, from the last step to the first; y holds both side by side.
    proj_size
        P, less than H: the output is projected to so many columns by weight_hr, for cells whose equations do not read
        it. 0 means no projection.
    heads
        K, a divisor of H: the recurrent product is cut into K blocks, as in xLSTM. A head is H/K units, whose gates are
        fed by x and by the h of that head alone: weight_hh_l0 is (G*H, H/K), where row g*H + u has the weights of unit
        u in its head. The product takes 1/K of the time, and the heads run in one call of the kernels.
    noise
        Of a cell with dropout or zoneout of its own: how often that strikes, from 0 to 1, for all of it or a dict by
        name. `forward` draws it, by layer and direction; inference and `trace` have none.
    dtype
        float32 or float64, of the parameters and of everything that goes in and out.
    seed
        Of the initial parameters, of dropout and of noise, anything `numpy.random.default_rng` takes. Parameters are
        drawn from U(-1/sqrt(H), 1/sqrt(H)), as torch.nn's, but for those to which the cell gives a value.
    backend
        "cython", "numba" or "numpy"; None leaves the choice to `fastrnn.use_backend`.
    num_threads
        The most threads a call may use; None leaves it to `fastrnn.set_num_threads`. It changes no bit of any result.

    Raises
    ------
    TypeError
        If `cell` is none, or another argument of a wrong type.
    ValueError
        If a size is wrong, or the cell cannot have a projection, or heads.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> from fastrnn.cells import tanh
    >>> @fastrnn.cell(gates="n", parameters={"rate": 0.5})
    ... def leaky(a, prev, p):
    ...     return prev.h + p.rate * (tanh(a.n) - prev.h)
    >>> rnn = fastrnn.Recurrent(leaky, input_size=8, hidden_size=32, seed=0)
    >>> y, h_n = rnn(np.zeros((100, 16, 8), np.float32))
    >>> y.shape, h_n.shape, list(rnn.parameters)
    ((100, 16, 32), (1, 16, 32), ['weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0', 'unit_l0'])
    """

    _FIXED = _Recurrent._FIXED | {"cell", "noise", "heads"}
    _DEFAULTS: Mapping[str, Any] = {**_Recurrent._DEFAULTS, "noise": None, "heads": 1}

    def __init__(
        self,
        cell: WrittenCell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        heads: int = 1,
        noise: Any = None,
        dtype: Any = "float32",
        seed: Any = None,
        backend: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        if not isinstance(cell, WrittenCell) or cell.program is None:
            raise TypeError(
                f"cell is {shown(cell)}; expected one that fastrnn.cell has made, or one of fastrnn.cells; "
                "fastrnn.LSTM, GRU and RNN have cells of their own"
            )
        self.cell = self._cell = cell
        self._rates = as_rates(cell, noise)
        self.noise = dict(zip(cell.noise, self._rates, strict=True)) or None
        reads_h = cell.program.reads_h or cell.program.m_gates or cell.program.take
        if isinstance(proj_size, (int, np.integer)) and proj_size and reads_h:
            raise ValueError(
                f"proj_size is {shown(proj_size)}, but the equations of {cell.name} read its output "
                f"prev.{cell.states[0]}, of H columns; expected 0"
            )
        self.heads = _check_heads(heads, cell, hidden_size, proj_size)
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            dtype=dtype,
            seed=seed,
            backend=backend,
            num_threads=num_threads,
        )
        for name, values in self._parameters.items():
            if name.startswith("unit"):
                for row, initial in zip(values, cell.parameters.values(), strict=True):
                    if initial is not None:
                        row[...] = initial

    def _choose(self) -> tuple[ModuleType, int]:
        """As of other modules, among the backends that run the cell's program."""
        return ops.choose_for_cell(self.cell, self.backend, self.num_threads)

    def __repr__(self) -> str:
        return super().__repr__().replace("(", f"({self.cell.name}, ", 1)
