"""Layers on top of one another: directions, dropout between them, and checkpoints instead of a whole tape.

Arrays come validated. x is (T, N, I), or the rows (R, I) of sequences of different lengths (`fastrnn.steps`), or tokens
in their place. A stack of one direction is one chain of layers; of two, every layer is two chains, which write side by
side into y.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastrnn import ops
from fastrnn.cells import Cell, State, Weights
from fastrnn.extra import Beside
from fastrnn.parameters import Array
from fastrnn.steps import Ragged, cuts

__all__ = ["Dropout", "Layers", "Setting", "Tape", "forward", "infer", "trace"]

Layers = Sequence[Sequence[ops.LayerWeights]]  # by layer and direction
DStates = Sequence[tuple[Array | None, ...]]
Gradients = Sequence[Array | None]  # in the order of the fields of Weights
DExtra = Sequence[Array]


class Setting(NamedTuple):
    """What all layers of a call share. A tuple: a frozen dataclass takes four times as long to make."""

    backend: ModuleType
    cell: Cell
    num_threads: int
    batch_sizes: Array | None = None  # of sequences of different lengths
    extra: Sequence[Beside] = ()  # by layer and direction, what its cell is given beside x, if anything

    def extra_of(self, place: int) -> tuple[Array, ...]:
        """What the cell of a layer and direction is given beside x."""
        return self.extra[place].arrays() if self.extra else ()

    def y_shape(self, x: Array, h: Array) -> tuple[int, ...]:
        """The shape of a layer's y, of x and an initial h, which may have an axis of a group's members first."""
        leading = x.shape if x.dtype.kind != "f" else x.shape[:-1]
        return (*h.shape[:-2], *leading[-2 if self.batch_sizes is None else -1 :], h.shape[-1])

    def part(self, array: Array, rows: slice, axes: int = 1) -> Array:
        """Some steps, or rows where lengths differ, of an array that has so many axes behind them."""
        if array.ndim > axes + (2 if self.batch_sizes is None else 1):
            return array[:, rows]  # of the members of a group
        return array[rows]

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """A new array, on the backend's recycled memory if it has such."""
        return ops.empty(self.backend, shape, dtype)


@dataclass(frozen=True, slots=True)
class Dropout:
    """Inverted dropout: what is kept is divided by its share, so that inference needs nothing.

    Every layer but the first draws from a generator of its own, so that it does not matter into which parts the steps
    are cut.
    """

    p: float
    rngs: tuple[np.random.Generator, ...]  # (L - 1)

    def __call__(self, y: Array, layer: int) -> tuple[Array, Array]:
        """Return the input y of a layer with a random part of it set to zero, and which elements were kept."""
        kept: Array = np.greater_equal(self.rngs[layer - 1].random(y.shape, np.float32), self.p)
        return self.scale(y, kept), kept

    def scale(self, y: Array, kept: Array) -> Array:
        """The kept elements of y, scaled; of a gradient likewise."""
        result: Array = np.multiply(y, kept)
        result *= 1 / (1 - self.p) if self.p < 1 else 0
        return result

    def now(self) -> list[Any]:
        """The states of the generators."""
        return [rng.bit_generator.state for rng in self.rngs]

    def again(self, states: list[Any]) -> Dropout:
        """One that draws what this one drew from the given states on."""
        rngs = [np.random.Generator(type(rng.bit_generator)()) for rng in self.rngs]
        for rng, state in zip(rngs, states, strict=True):
            rng.bit_generator.state = state
        return Dropout(self.p, tuple(rngs))


def infer(
    setting: Setting, layers: Layers, x: Array, states: Sequence[State], stamp: int | None
) -> tuple[Array, list[State]]:
    """Run all layers for their outputs only.

    Parameters
    ----------
    setting, layers
        How and on what.
    x
        The input of the first layer.
    states
        The initial states by layer and direction, h (N, P) and c (N, H).
    stamp
        As in `fastrnn.ops.infer`.

    Returns
    -------
    tuple
        y (T, N, D*P), or its rows, and the final states.
    """
    backend, cell, num_threads, batch_sizes, beside = setting
    states_n = []
    for layer, directions in enumerate(layers):
        if len(directions) == 1:
            extra = beside[layer].arrays() if beside else ()
            x, state_n = ops.infer(
                backend, cell, x, states[layer], directions[0], stamp, num_threads, batch_sizes, extra=extra
            )
            states_n.append(state_n)
            continue
        y, halves = _halves(setting, x, states[2 * layer][0])
        for reverse, weights in enumerate(directions):
            state, extra = states[2 * layer + reverse], setting.extra_of(2 * layer + reverse)
            _, state_n = ops.infer(
                backend, cell, x, state, weights, stamp, num_threads, batch_sizes, reverse == 1, halves[reverse], extra
            )
            states_n.append(state_n)
        x = y
    return x, states_n


def _halves(setting: Setting, x: Array, h: Array) -> tuple[Array, list[Array]]:
    """A new y of both directions, (..., 2*P), and where each direction writes."""
    *leading, P = setting.y_shape(x, h)
    y = setting.empty((*leading, 2 * P), h.dtype)
    return y, [y[..., :P], y[..., P:]]


def trace(
    setting: Setting, layers: Layers, x: Array, states: Sequence[State], ragged: Ragged | None
) -> list[dict[str, Array]]:
    """Run all layers and return what happens inside: by layer and direction, every gate and every state by its name.

    Parameters are those of `infer`, and if x is rows, what puts them into steps. h is (T, N, P) and everything else
    (T, N, H).
    """
    backend, cell, num_threads, batch_sizes, _ = setting
    output = cell.states[0]
    only_h = cell.gates == cell.states == (output,)  # which is y, and need not be copied
    found = []
    for layer, directions in enumerate(layers):
        both, halves = x, list[Array]()
        if len(directions) == 2:
            both, halves = _halves(setting, x, states[2 * layer][0])
        for reverse, weights in enumerate(directions):
            at, y = layer * len(directions) + reverse, halves[reverse] if halves else None
            h, _, tape = ops.forward(
                backend,
                cell,
                x,
                states[at],
                weights.learning(),
                num_threads,
                batch_sizes,
                reverse == 1,
                y,
                setting.extra_of(at),
            )
            if ragged is None:
                inside = {} if only_h else ops.gates(tape)
                inside = {name: rows.reshape(*h.shape[:2], rows.shape[1]) for name, rows in inside.items()}
                inside[output] = h
            else:
                inside = {} if only_h else ops.gates(tape, math.prod(ragged.shape), ragged.rows)
                inside = {name: ragged.finish(rows) for name, rows in inside.items()}
                inside[output] = ragged.unpack(h, setting.empty)
            found.append({name: inside[name] for name in dict.fromkeys((*cell.gates, *cell.states))})
        x = both if halves else h
    return found


class Tape(Protocol):
    """What `forward` keeps: it can differentiate the stack, once."""

    def backward(
        self, dy: Array | None, dstates: DStates, *, of_x: bool = True, dextra: DExtra = ()
    ) -> tuple[Array | None, list[State], list[Gradients]]:
        """Differentiate `forward`.

        Parameters
        ----------
        dy
            The gradient of y, or None for zero.
        dstates
            Those of the final states by layer and direction.
        of_x
            Whether dx is wanted; if not, it may be None.
        dextra
            INOUT to which the gradients of what all layers are given beside x are added, by unit, each (T, N, H) or
            (R, H), if the cell has them.

        Returns
        -------
        tuple
            dx (None for tokens), and by layer and direction the gradients of the initial states and of the weights.
        """


def forward(
    setting: Setting,
    layers: Layers,
    x: Array,
    states: Sequence[State],
    dropout: Dropout | None = None,
    checkpoint_every: int | None = None,
) -> tuple[Array, list[State], Tape]:
    """Run all layers and keep what is needed to differentiate them; as `infer`, and

    Parameters
    ----------
    dropout
        Between the layers, or None.
    checkpoint_every
        About how many steps lie between two kept states, from which backward runs forward again; None keeps all.
    """
    run = _forward_chain if checkpoint_every is None else _segmented(checkpoint_every)
    if len(layers[0]) == 1:
        return run(setting, [w.learning() for (w,) in layers], x, states, dropout)
    pairs, states_n = [], []
    for layer, directions in enumerate(layers):
        kept = None
        if layer and dropout is not None:
            x, kept = dropout(x, layer)
        y, halves = _halves(setting, x, states[2 * layer][0])
        chains = []
        for reverse, weights in enumerate(directions):
            at = 2 * layer + reverse
            its = setting._replace(extra=setting.extra[at : at + 1])
            _, (state_n,), chain = run(its, [weights.learning()], x, [states[at]], None, reverse == 1, halves[reverse])
            states_n.append(state_n)
            chains.append(chain)
        pairs.append(_Pair(chains, kept))
        x = y
    return x, states_n, _Pairs(pairs, dropout)


@dataclass(slots=True)
class _Pair:
    """A layer of two directions."""

    chains: list[_Chain | _Segments]
    kept: Array | None  # what dropout kept of its input


@dataclass(slots=True)
class _Pairs:
    """The tape of layers of two directions."""

    pairs: list[_Pair]
    dropout: Dropout | None

    def backward(
        self, dy: Array | None, dstates: DStates, *, of_x: bool = True, dextra: DExtra = ()
    ) -> tuple[Array | None, list[State], list[Gradients]]:
        """As `Tape` says."""
        dstates_0: list[State] = []
        dweights: list[Gradients] = []
        while self.pairs:
            pair = self.pairs.pop()
            dx: Array | None = None
            of_states, of_weights = [], []
            for reverse, chain in enumerate(pair.chains):
                at, its_dy = 2 * len(self.pairs) + reverse, dy
                if dy is not None:
                    P = dy.shape[-1] // 2
                    its_dy = dy[..., reverse * P : (reverse + 1) * P]
                dx, its_dstates_0, its_dweights = chain.backward(
                    its_dy, dstates[at : at + 1], dx, of_x=of_x or len(self.pairs) > 0, dextra=dextra
                )
                of_states += its_dstates_0
                of_weights += its_dweights
            dstates_0 = of_states + dstates_0
            dweights = of_weights + dweights
            dy = dx
            if pair.kept is not None and self.dropout is not None and dx is not None:
                dy = self.dropout.scale(dx, pair.kept)
        return dy, dstates_0, dweights


@dataclass(slots=True)
class _Chain:
    """The tapes of layers that run one above the other in one direction."""

    tapes: list[ops.Tape]
    kept: list[Array | None]  # what dropout kept of each layer's input
    dropout: Dropout | None

    def backward(
        self,
        dy: Array | None,
        dstates: DStates,
        dx: Array | None = None,
        dweights: Sequence[Weights] | None = None,
        rows: int | None = None,
        *,
        of_x: bool = True,
        dextra: DExtra = (),
    ) -> tuple[Array | None, list[State], list[Gradients]]:
        """As `Tape` says; dx, dweights and rows as in `fastrnn.reference.backward`."""
        dstates_0, gradients = [], []
        dextra_of_rows = tuple([d.reshape(-1, d.shape[-1]) for d in dextra]) if dextra else ()
        while self.tapes:
            tape, layer = self.tapes.pop(), len(self.tapes)
            its_dx = dx if layer == 0 else None
            its_dweights = None if dweights is None else dweights[layer]
            dy, dstate_0, of_weights = ops.backward(
                tape, dy, dstates[layer], its_dx, its_dweights, rows, of_x or layer > 0, dextra_of_rows
            )
            kept = self.kept[layer]
            if kept is not None and self.dropout is not None and dy is not None:
                dy = self.dropout.scale(dy, kept)
            dstates_0.append(dstate_0)
            gradients.append(of_weights)
        return dy, dstates_0[::-1], gradients[::-1]


def _forward_chain(
    setting: Setting,
    weights: Sequence[Weights],
    x: Array,
    states: Sequence[State],
    dropout: Dropout | None,
    reverse: bool = False,
    y: Array | None = None,
) -> tuple[Array, list[State], _Chain]:
    """Run layers one above the other; y, if given, is where the last of them writes."""
    states_n, tapes, all_kept = [], [], []
    backend, cell, num_threads, batch_sizes, _ = setting
    last = len(weights) - 1
    for layer, its_weights in enumerate(weights):
        kept = None
        if layer and dropout is not None:
            x, kept = dropout(x, layer)
        out = y if layer == last else None
        x, state_n, tape = ops.forward(
            backend,
            cell,
            x,
            states[layer],
            its_weights,
            num_threads,
            batch_sizes,
            reverse,
            out,
            setting.extra_of(layer),
        )
        states_n.append(state_n)
        tapes.append(tape)
        all_kept.append(kept)
    return x, states_n, _Chain(tapes, all_kept, dropout)


# ---- checkpoints

Run = Callable[..., tuple[Array, list[State], Any]]


@dataclass(frozen=True, slots=True)
class _Segment:
    """Consecutive steps of a chain, and what is needed to run them again."""

    rows: slice  # of x and y: steps, or rows where lengths differ
    batch_sizes: Array | None
    states: list[State]
    random: list[Any]  # the states of dropout's generators


@dataclass(slots=True)
class _Segments:
    """A chain without tapes: backward runs each segment again, from the last to the first."""

    setting: Setting
    weights: Sequence[Weights]
    x: Array
    y_shape: tuple[int, ...]
    reverse: bool
    segments: list[_Segment]
    dropout: Dropout | None

    def backward(
        self,
        dy: Array | None,
        dstates: DStates,
        dx: Array | None = None,
        *,
        of_x: bool = True,
        dextra: DExtra = (),
    ) -> tuple[Array | None, list[State], list[Gradients]]:
        """As `_Chain.backward`, with the same bits."""
        x = self.x
        if dx is None and x.dtype.kind == "f" and of_x:
            dx = np.zeros_like(x)
        backend, cell = self.setting.backend, self.setting.cell
        dweights = [ops.begin_gradients(backend, cell, its) for its in self.weights]
        part_of, axes = self.setting.part, int(x.dtype.kind == "f")
        rows = int(np.prod(self.y_shape[-3 if self.setting.batch_sizes is None else -2 : -1]))
        dstates_0: Any = dstates
        for segment in reversed(self.segments):
            extra = [its.of(segment.rows) for its in self.setting.extra]
            part = self.setting._replace(batch_sizes=segment.batch_sizes, extra=extra)
            dropout = None if self.dropout is None else self.dropout.again(segment.random)
            _, _, chain = _forward_chain(
                part, self.weights, part_of(x, segment.rows, axes), segment.states, dropout, self.reverse, None
            )
            its_dy = None if dy is None else part_of(dy, segment.rows)
            its_dx = None if dx is None else part_of(dx, segment.rows)
            its_dextra = [d[segment.rows] for d in dextra]
            _, dstates_0, _ = chain.backward(its_dy, dstates_0, its_dx, dweights, rows, of_x=of_x, dextra=its_dextra)
        both = zip(self.weights, dweights, strict=True)
        return dx, dstates_0, [ops.end_gradients(backend, cell, its, gradients) for its, gradients in both]


def _segmented(every: int) -> Run:
    """`_forward_chain` with checkpoints."""

    def run(
        setting: Setting,
        weights: Sequence[Weights],
        x: Array,
        states: list[State],
        dropout: Dropout | None,
        reverse: bool = False,
        y: Array | None = None,
    ) -> tuple[Array, list[State], _Chain | _Segments]:
        batch_sizes = setting.batch_sizes
        axes = int(x.dtype.kind == "f")
        counts = batch_sizes.tolist() if batch_sizes is not None else [states[0][0].shape[-2]] * x.shape[-2 - axes]
        steps = len(counts)
        if steps == 0:
            return _forward_chain(setting, weights, x, states, dropout, reverse, y)
        if y is None:
            y = setting.empty(setting.y_shape(x, states[-1][0]), weights[-1].ih.dtype)
        segments = []
        for first, last in cuts(counts[::-1] if reverse else counts, every):
            first, last = (steps - last, steps - first) if reverse else (first, last)
            its_sizes, rows = None, slice(first, last)
            if batch_sizes is not None:
                its_sizes = batch_sizes[first:last]
                rows = slice(sum(counts[:first]), sum(counts[:last]))
            random = [] if dropout is None else dropout.now()
            segments.append(_Segment(rows, its_sizes, states, random))
            part = setting._replace(batch_sizes=its_sizes, extra=[its.of(rows) for its in setting.extra])
            its_x, its_y = setting.part(x, rows, axes), setting.part(y, rows)
            _, states, _ = _forward_chain(part, weights, its_x, states, dropout, reverse, its_y)
        return y, states, _Segments(setting, weights, x, y.shape, reverse, segments, dropout)

    return run
