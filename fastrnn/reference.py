"""The NumPy reference: it defines every number that the kernels must reproduce.

Slow and plain on purpose. Per cell there is one pair of point functions, forward and backward of a single step without
its matrix products; one sequence forward and one sequence backward (back-propagation through time, Werbos, 1990) serve
all cells. The letters are T time steps, N batch, R rows of all steps, I input size, H hidden size, P projection size,
G gates; see `fastrnn.cells` for the equations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastrnn.cells import Cell, State, Weights
from fastrnn.cells.graph import sigmoid
from fastrnn.cells.language import Equations, WrittenCell
from fastrnn.cells.program import Kind, Operand
from fastrnn.narrow import outer
from fastrnn.parameters import Array
from fastrnn.steps import gradient_groups

__all__ = ["POINT_FUNCTIONS", "Tape", "backward", "describe", "forward", "gates", "sigmoid"]


def describe() -> str:
    """What this backend is, for `fastrnn.info`."""
    return "the reference, plain NumPy"


PRECISIONS = ("bfloat16", "int8")  # of weights, besides their dtypes; int8 is for inference, without a tape


Gates = tuple[Array, ...]  # what a step's backward needs besides the states, (N, H) each


# --- rnn_tanh: h = tanh(a_x + a_h)


def rnn_tanh_forward(a_x: Array, a_h: Array, state_prev: State) -> tuple[State, Gates]:
    """Return the state and what the backward needs: h itself."""
    h = np.tanh(a_x + a_h)
    return (h,), (h,)


def rnn_tanh_backward(gates: Gates, state_prev: State, state: State, dstate: State) -> tuple[Array, Array, State]:
    """Return da_x, da_h (N, G*H) and the part of the previous state's gradient that bypasses a_h."""
    (h,), (dh,) = gates, dstate
    da = dh * (1 - h * h)  # h = tanh(a)
    return da, da, (np.zeros_like(dh),)


# --- rnn_relu: h = max(a_x + a_h, 0)


def rnn_relu_forward(a_x: Array, a_h: Array, state_prev: State) -> tuple[State, Gates]:
    """As `rnn_tanh_forward`."""
    h = np.maximum(a_x + a_h, 0)
    return (h,), (h,)


def rnn_relu_backward(gates: Gates, state_prev: State, state: State, dstate: State) -> tuple[Array, Array, State]:
    """As `rnn_tanh_backward`."""
    (h,), (dh,) = gates, dstate
    da = np.where(h <= 0, 0, dh)  # h = max(a, 0); the derivative at 0 is 0, and where h is NaN 1, as in torch
    return da, da, (np.zeros_like(dh),)


# --- lstm: c = f * c_prev + i * g, h = o * tanh(c)


def lstm_forward(a_x: Array, a_h: Array, state_prev: State) -> tuple[State, Gates]:
    """Return (h, c) and the activated gates (i, f, g, o)."""
    a_i, a_f, a_g, a_o = np.split(a_x + a_h, 4, axis=1)
    _, c_prev = state_prev
    i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
    c = f * c_prev + i * g
    h = o * np.tanh(c)
    return (h, c), (i, f, g, o)


def lstm_backward(gates: Gates, state_prev: State, state: State, dstate: State) -> tuple[Array, Array, State]:
    """As `rnn_tanh_backward`; the cell state's gradient bypasses a_h entirely."""
    (i, f, g, o), (_, c_prev), (_, c), (dh, dc) = gates, state_prev, state, dstate
    tanh_c = np.tanh(c)
    dc = dc + dh * o * (1 - tanh_c * tanh_c)  # h = o * tanh(c)
    da_i = dc * g * i * (1 - i)  # c = f * c_prev + i * g,  i = sigmoid(a_i)
    da_f = dc * c_prev * f * (1 - f)  # f = sigmoid(a_f)
    da_g = dc * i * (1 - g * g)  # g = tanh(a_g)
    da_o = dh * tanh_c * o * (1 - o)  # o = sigmoid(a_o)
    da = np.concatenate([da_i, da_f, da_g, da_o], axis=1)
    return da, da, (np.zeros_like(dh), dc * f)  # c = f * c_prev + ...


# --- gru: h = n + z * (h_prev - n)


def gru_forward(a_x: Array, a_h: Array, state_prev: State) -> tuple[State, Gates]:
    """Return (h,) and (r, z, n, a_h.n): the recurrent n part is kept apart because r multiplies it."""
    x_r, x_z, x_n = np.split(a_x, 3, axis=1)
    h_r, h_z, h_n = np.split(a_h, 3, axis=1)
    (h_prev,) = state_prev
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    n = np.tanh(x_n + r * h_n)
    h = n + z * (h_prev - n)
    return (h,), (r, z, n, h_n)


def gru_backward(gates: Gates, state_prev: State, state: State, dstate: State) -> tuple[Array, Array, State]:
    """As `rnn_tanh_backward`; da_x and da_h differ in the n block, and dh * z bypasses a_h."""
    (r, z, n, h_n), (h_prev,), (dh,) = gates, state_prev, dstate
    da_n = dh * (1 - z) * (1 - n * n)  # h = n + z * (h_prev - n),  n = tanh(x_n + r * h_n)
    da_z = dh * (h_prev - n) * z * (1 - z)  # z = sigmoid(a_z)
    da_r = da_n * h_n * r * (1 - r)  # r = sigmoid(a_r)
    da_x = np.concatenate([da_r, da_z, da_n], axis=1)
    da_h = np.concatenate([da_r, da_z, da_n * r], axis=1)
    return da_x, da_h, (dh * z,)


PointForward = Callable[[Array, Array, State], tuple[State, Gates]]
PointBackward = Callable[[Gates, State, State, State], tuple[Array, Array, State]]

POINT_FUNCTIONS: dict[str, tuple[PointForward, PointBackward]] = {
    "rnn_tanh": (rnn_tanh_forward, rnn_tanh_backward),
    "rnn_relu": (rnn_relu_forward, rnn_relu_backward),
    "lstm": (lstm_forward, lstm_backward),
    "gru": (gru_forward, gru_backward),
}


# --- cells that a user wrote: the function itself, and its derivative


class Written(NamedTuple):
    """The point functions of a written cell on one layer's weights, whose products go into them."""

    cell: Cell
    weights: Weights
    extra: tuple[Array, ...] = ()  # (N, 1) or (N, H), what the rows of a step are given beside x

    def at(self, step: slice, extra: tuple[Array, ...]) -> Written:
        """The same at a step, given the extras of all of them, (R, W), or by sequence (N, W)."""
        assert self.cell.program is not None
        rows = step.stop - step.start
        return self._replace(
            extra=tuple(
                [
                    array[:rows] if of_sequence else array[step]
                    for array, of_sequence in zip(extra, self.cell.program.extras, strict=True)
                ]
            )
        )

    @property
    def units(self) -> int:
        """H, how many hidden units there are."""
        return len(self.weights.ih) // len(self.cell.gates_ih)

    def rows(self, weight: Array, gate: str) -> Array:
        """The rows of a gate in weight_hh or bias_hh."""
        at = self.cell.gates_hh.index(gate) * self.units
        return weight[at : at + self.units]

    def blocks(self, a: Array, gates: tuple[str, ...]) -> dict[str, Array]:
        """(N, G*H) by gate."""
        return {gate: a[:, k * self.units : (k + 1) * self.units] for k, gate in enumerate(gates)}

    def forward(self, a_x: Array, a_h: Array, state_prev: State) -> tuple[State, Gates]:
        """As `rnn_tanh_forward`; keeps the sums in the order of their slots, and the middle value if there is one."""
        equations = equations_of(self.cell)
        x, h = self.blocks(a_x, self.cell.gates_ih), self.blocks(a_h, self.cell.gates_hh)
        sums: dict[str, Array] = {}
        for name in equations.slots:
            gate, _, part = name.partition(".")
            of_x, of_h = part != "h" and gate not in equations.h_only, part != "x" and gate not in equations.x_only
            if name in equations.of_middle:
                sums[name] = x[gate] if of_x else np.zeros_like(h[gate])
            else:
                sums[name] = x[gate] + h[gate] if of_x and of_h else x[gate] if of_x else h[gate]
        middle: list[Array] = []

        def product(name: str, value: Array) -> Array:
            value = np.broadcast_to(value, (len(a_x), self.units)).astype(a_x.dtype)
            middle[:] = [value]
            assert self.weights.hh is not None
            gate = name.removesuffix(".h")
            bias = 0 if self.weights.bias_hh is None else self.rows(self.weights.bias_hh, gate)
            added: Array = value @ self.rows(self.weights.hh, gate).T + bias
            whole[name] = sums[name] + added
            return added

        whole = dict(sums)
        before = dict(zip(self.cell.states, state_prev, strict=True))
        state = equations.run(sums, before, self.weights.unit, product, self.extra)
        state = tuple([np.broadcast_to(s, (len(a_x), self.units)).astype(a_x.dtype) for s in state])
        return state, (*whole.values(), *middle)

    def known(self, gates: Gates, state_prev: State) -> dict[Operand, Array]:
        """What the leaves of the equations are in a step."""
        known: dict[Operand, Array] = dict(
            zip([Operand(Kind.SLOT, slot) for slot in range(len(equations_of(self.cell).slots))], gates, strict=False)
        )
        known |= {Operand(Kind.BEFORE, k): s for k, s in enumerate(state_prev)}
        if self.weights.unit is not None:
            known |= {Operand(Kind.UNIT, m): p for m, p in enumerate(self.weights.unit)}
        known |= {Operand(Kind.EXTRA, k): e for k, e in enumerate(self.extra)}
        return known

    def taken(self, h: Array) -> Array:
        """What the recurrent product takes, of h before the step."""
        taken = equations_of(self.cell).taken
        if taken is None:
            return h
        (value,) = equations_of(self.cell).values([taken], self.known((), (h,)))
        return np.broadcast_to(value, h.shape).astype(h.dtype)

    def take_back(self, dtaken: Array, h: Array) -> tuple[Array, list[Array]]:
        """The gradient of h from that of what the product took, and by row what is added to those in `beside`."""
        equations = equations_of(self.cell)
        if equations.taken is None:
            return dtaken, []
        known = self.known((), (h,)) | {Operand(Kind.TAKEN, 0): dtaken}
        operands = [Operand(Kind.BEFORE, 0), *self.beside]
        there = [operand for operand in operands if operand in equations.taken_gradients]
        found = dict(zip(there, equations.values([equations.taken_gradients[o] for o in there], known), strict=True))
        dh, *others = [np.broadcast_to(found.get(o, 0), h.shape).astype(h.dtype) for o in operands]
        return dh, others

    @property
    def of_middle(self) -> list[str]:
        """The gates whose recurrent product takes the middle value."""
        return [name.removesuffix(".h") for name in equations_of(self.cell).of_middle]

    @property
    def beside(self) -> list[Operand]:
        """What has a gradient of each row and unit, the cell's own parameters and then extras, if asked for."""
        assert self.cell.program is not None
        units = [Operand(Kind.UNIT, m) for m in range(self.cell.program.units)]
        return units + [Operand(Kind.EXTRA, k) for k in range(self.cell.program.into_extras)]

    def shown(self, gates: Gates, state_prev: State) -> Gates:
        """What `trace` shows of each gate."""
        return tuple(equations_of(self.cell).values(equations_of(self.cell).shown, self.known(gates, state_prev)))

    def backward(
        self, gates: Gates, state_prev: State, state: State, dstate: State
    ) -> tuple[Array, Array, State, Array | None, Array | None]:
        """As `rnn_tanh_backward`; and the gradients of what is in `beside` by row (N, B, H), and m's (N, Q*H)."""
        equations = equations_of(self.cell)
        known = self.known(gates, state_prev) | {Operand(Kind.GRADIENT, k): d for k, d in enumerate(dstate)}

        def of(operands: list[Operand]) -> list[Array]:
            there = [operand for operand in operands if operand in equations.gradients]
            found = dict(zip(there, equations.values([equations.gradients[o] for o in there], known), strict=True))
            shape, dtype = dstate[-1].shape, dstate[0].dtype
            return [np.broadcast_to(found.get(o, 0), shape).astype(dtype) for o in operands]

        into_m = of(equations.middle_slots)
        if into_m:
            assert self.weights.hh is not None
            products = [d @ self.rows(self.weights.hh, g) for d, g in zip(into_m, self.of_middle, strict=True)]
            known[Operand(Kind.MIDDLE, 0)] = np.sum(products, axis=0)
        others = [name for name in equations.slots if name not in equations.of_middle]
        sums = dict(zip(others, of([Operand(Kind.SLOT, equations.slots[name]) for name in others]), strict=True))
        sums |= zip(equations.of_middle, into_m, strict=True)
        zero = np.zeros_like(dstate[-1])
        da_x = [sums.get(gate, sums.get(f"{gate}.x", zero)) for gate in self.cell.gates_ih]
        da_h = [
            zero if gate in self.of_middle else sums.get(gate, sums.get(f"{gate}.h", zero))
            for gate in self.cell.gates_hh
        ]
        bypass = tuple(of([Operand(Kind.BEFORE, k) for k in range(len(state_prev))]))
        own = of(self.beside)
        return (
            np.concatenate(da_x, axis=1),
            np.concatenate(da_h, axis=1) if da_h else np.empty((len(zero), 0), zero.dtype),
            bypass,
            np.stack(own, axis=1) if own else None,
            np.concatenate(into_m, axis=1) if into_m else None,
        )


def equations_of(cell: Cell) -> Equations:
    """What a written cell says."""
    assert isinstance(cell, WrittenCell)
    return cell._equations


class Tape(NamedTuple):
    """What `forward` keeps for `backward`."""

    x: Array  # (R, I), or (R,) token indices: the rows of all steps
    shape: tuple[int, ...]  # of x as it was given
    weights: Weights
    steps: list[slice]  # the rows of each step, in the order in which it was taken
    state_n: State
    states: list[tuple[State, State]]  # before and after each step, of its rows
    gates: list[Gates]
    extra: tuple[Array, ...]


def forward(
    cell: Cell,
    x: Array,
    state: State,
    weights: Weights,
    *,
    tape: bool = True,
    num_threads: int = 1,
    batch_sizes: Array | None = None,
    reverse: bool = False,
    y: Array | None = None,
    extra: tuple[Array, ...] = (),
) -> tuple[Array, State, Tape | None]:
    """Run a cell over a sequence.

    Parameters
    ----------
    cell
        A row of `fastrnn.cells.CELLS`.
    x
        (T, N, I), or integer token indices (T, N), which stand for their one-hot rows. With `batch_sizes` (R, I) or
        (R,), the rows of all steps one after another.
    state
        The initial states, h (N, P) and c (N, H), in the order of `cell.states`.
    weights
        The layer's parameters; weight_ih and weight_hh may be of fewer bits, as `fastrnn.narrow` says.
    tape
        Whether to keep what `backward` needs.
    num_threads
        Part of the signature every backend shares; NumPy's matrix products choose their own threads.
    batch_sizes
        How many of the batch's first rows each step has, (T,), not increasing; None: all of them. The others keep their
        states.
    reverse
        Whether to start at the last step and to end at the first.
    y
        OUT where to write the outputs: contiguous in its last axis, rows evenly apart. None makes a new array.
    extra
        What a written cell is given beside x, each (R, 1) or (R, H), or by sequence (N, 1) or (N, H), as its program
        says. Nobody else may write to them as long as there is a tape.

    Returns
    -------
    tuple
        y (T, N, P) or (R, P), the final states, and the tape or None.
    """
    written = None if cell.program is None else Written(cell, weights)
    point_forward = POINT_FUNCTIONS[cell.name][0] if written is None else written.forward
    bias_ih, bias_hh = (0, 0) if weights.bias_ih is None else (weights.bias_ih, weights.bias_hh)
    steps = _steps(len(x) if batch_sizes is None else batch_sizes, len(state[0]), reverse)
    tokens = x.dtype.kind == "i"
    features = () if tokens else x.shape[-1:]
    rows = x.reshape(-1, *features)
    a_x = np.empty((len(rows), len(weights.ih)), weights.ih.dtype)
    for group in _groups(steps):
        a_x[group] = (weights.ih.T[rows[group]] if tokens else rows[group] @ weights.ih.T) + bias_ih
    if y is None:
        y = np.empty((*x.shape[: x.ndim - len(features)], state[0].shape[1]), weights.ih.dtype)
    h_of_rows = y.reshape(-1, y.shape[-1])
    state = tuple(s.copy() for s in state)
    states, gates = [], []
    for step in steps:
        before = tuple(s[: step.stop - step.start].copy() for s in state)
        taken = before[0]
        if written is not None:
            written = written.at(step, extra)
            point_forward, taken = written.forward, written.taken(before[0])
        a_h = np.empty((len(taken), 0), taken.dtype) if weights.hh is None else taken @ weights.hh.T + bias_hh
        after, step_gates = point_forward(a_x[step], a_h, before)
        h = after[0] if weights.hr is None else after[0] @ weights.hr.T
        h_of_rows[step] = h
        for whole, part in zip(state, (h, *after[1:]), strict=True):
            whole[: len(part)] = part
        if tape:
            states.append((before, after))
            gates.append(step_gates)
    return y, state, Tape(rows, x.shape, weights, steps, state, states, gates, extra) if tape else None


def _steps(batch_sizes: Array | int, batch: int, reverse: bool) -> list[slice]:
    """The rows of each step in the order in which they are taken; of an int, that many steps have the whole batch."""
    counts = np.full(batch_sizes, batch) if isinstance(batch_sizes, int) else batch_sizes
    ends = np.cumsum(counts)
    steps = [slice(int(end - count), int(end)) for end, count in zip(ends, counts, strict=True)]
    return steps[::-1] if reverse else steps


def _groups(steps: list[slice]) -> list[slice]:
    """The rows of each of `gradient_groups`. NumPy's products have the same bits for the same rows at once only."""
    groups = []
    for first, last in gradient_groups([step.stop - step.start for step in steps]):
        ends = steps[first], steps[last - 1]
        groups.append(slice(min(step.start for step in ends), max(step.stop for step in ends)))
    return groups


def backward(
    cell: Cell,
    tape: Tape,
    dy: Array | None,
    dstate: tuple[Array | None, ...],
    *,
    num_threads: int = 1,
    dx: Array | None = None,
    dweights: Weights | None = None,
    rows: int | None = None,
    dextra: tuple[Array, ...] = (),
    dextra_add: bool = True,
) -> tuple[Array | None, State, Weights]:
    """Differentiate `forward`: the exact gradients, by back-propagation through time.

    Parameters
    ----------
    cell, tape
        As given to and returned by `forward`.
    dy
        The loss's gradient with respect to y, of its shape, its last axis contiguous, or None for zero.
    dstate
        The loss's gradients with respect to the final states, of their shapes, or None for zero.
    num_threads
        As in `forward`.
    dx
        INOUT to which the gradient of x is added, (T, N, I) or (R, I). None makes a new array; none for tokens.
    dweights
        INOUT the same for the weights: what later steps of the sequence have given, see `fastrnn.steps`.
    rows
        How many rows the whole sequence has of which this is a part; None: this is all of it. Backends choose by it how
        they sum.
    dextra
        INOUT to which the gradients of extras are added, by unit where they are one value for all, each (R, H), of as
        many as the cell's program says.
    dextra_add
        Whether to add; else they are written, and may be what the cell was given, where its backward reads none of it.

    Returns
    -------
    tuple
        dx, or None for token input, the gradients of the initial states, and those of the weights.
    """
    weights = tape.weights
    written = None if cell.program is None else Written(cell, weights)
    dy_of_rows = None if dy is None else dy.reshape(-1, dy.shape[-1])
    carried = tuple(np.zeros_like(s) if d is None else d.copy() for s, d in zip(tape.state_n, dstate, strict=True))
    da_x = np.empty((len(tape.x), weights.ih.shape[0]), weights.ih.dtype)
    da_h = np.zeros((len(tape.x), 0 if weights.hh is None else len(weights.hh)), weights.ih.dtype)
    da_m, d_own = da_h[:, :0], np.empty(0)  # of a written cell; d_own: of what is beside the sums
    dh_of_rows = np.empty((len(tape.x), tape.state_n[0].shape[1]), weights.ih.dtype)
    for step, (before, after), gates in reversed(list(zip(tape.steps, tape.states, tape.gates, strict=True))):
        dh, *others = (d[: step.stop - step.start] for d in carried)
        dh_of_rows[step] = dh if dy_of_rows is None else dh + dy_of_rows[step]
        du = dh_of_rows[step] if weights.hr is None else dh_of_rows[step] @ weights.hr  # h = u @ hr.T
        if written is None:
            da_x[step], da_h[step], bypass = POINT_FUNCTIONS[cell.name][1](gates, before, after, (du, *others))
        else:
            written = written.at(step, tape.extra)
            da_x[step], da_h[step], bypass, own, into_m = written.backward(gates, before, after, (du, *others))
            if own is not None:
                d_own = d_own if d_own.size else np.empty((len(tape.x), *own.shape[1:]), own.dtype)
                d_own[step] = own
            if into_m is not None:
                da_m = da_m if da_m.size else np.empty((len(tape.x), into_m.shape[1]), into_m.dtype)
                da_m[step] = into_m
        into_h = np.zeros_like(dh) if weights.hh is None else da_h[step] @ weights.hh  # a_h = h_prev @ hh.T
        if written is not None:
            into_h, more = written.take_back(into_h, before[0])
            for at, part in enumerate(more):
                d_own[step, at] += part
        dh[...] = into_h if weights.hr is not None else bypass[0] + into_h
        for whole, part in zip(others, bypass[1:], strict=True):
            whole[...] = part
    if dweights is None:
        dweights = Weights._make(None if w is None else np.zeros(w.shape, w.dtype) for w in weights)
    if dx is None and tape.x.dtype.kind == "f":
        dx = np.zeros(tape.shape, weights.ih.dtype)
    h_prev = np.empty_like(dh_of_rows)  # as the recurrent product took it
    u = np.empty((len(tape.x), weights.ih.shape[0] // len(cell.gates_ih)), weights.ih.dtype)
    m = np.empty_like(u)  # what a second recurrent product takes
    for step, (before, after), gates in zip(tape.steps, tape.states, tape.gates, strict=True):
        h_prev[step], u[step] = before[0], after[0]
        if written is not None:
            h_prev[step] = written.at(step, tape.extra).taken(before[0])
        if da_m.size:
            m[step] = gates[-1]
    for group in _groups(tape.steps):
        if dx is None:
            np.add.at(dweights.ih.T, tape.x[group], da_x[group])  # a_x = ih[:, token]
        else:
            dx.reshape(-1, dx.shape[-1])[group] += da_x[group] @ weights.ih  # a_x = x @ ih.T
            dweights.ih[...] += outer(weights.ih, da_x[group], tape.x[group])
        if dweights.hh is not None:
            dweights.hh[...] += outer(weights.hh, da_h[group], h_prev[group])  # a_h = h_prev @ hh.T
        if dweights.hr is not None:
            dweights.hr[...] += dh_of_rows[group].T @ u[group]  # h = u @ hr.T
        if dweights.bias_ih is not None:
            dweights.bias_ih[...] += da_x[group].sum(0)
        if dweights.bias_hh is not None:
            dweights.bias_hh[...] += da_h[group].sum(0)
        if dweights.unit is not None:
            dweights.unit[...] += d_own[group, : len(dweights.unit)].sum(0)
        for k, gate in enumerate(written.of_middle if da_m.size and written is not None else ()):
            H, of_gate = u.shape[1], da_m[group, k * u.shape[1] : (k + 1) * u.shape[1]]
            at = cell.gates_hh.index(gate) * H
            assert dweights.hh is not None
            dweights.hh[at : at + H] += of_gate.T @ m[group]  # a = m @ hh.T
            if dweights.bias_hh is not None:
                dweights.bias_hh[at : at + H] += of_gate.sum(0)
    for k, gradient in enumerate(dextra if d_own.size else ()):
        gradient[...] = gradient + d_own[:, k - len(dextra)] if dextra_add else d_own[:, k - len(dextra)]
    return dx, carried, dweights


def recall(
    cell: Cell,
    x: Array,
    state: State,
    weights: Weights,
    y: Array,
    u: Array | None,
    batch_sizes: Array | None,
    reverse: bool,
    extra: tuple[Array, ...],
) -> Tape:
    """The tape of a written cell whose backward reads values beside x alone: see `fastrnn.ops.recall_linear`."""
    steps = _steps(len(x) if batch_sizes is None else batch_sizes, len(state[0]), reverse)
    rows, h_of_rows = x.reshape(-1, *(x.shape[-1:] if x.dtype.kind == "f" else ())), y.reshape(-1, y.shape[-1])
    h, others = state[0].copy(), state[1:]
    states, gates = [], []
    for step in steps:
        count = step.stop - step.start
        rest = tuple([s[:count] for s in others])
        states.append(((h[:count].copy(), *rest), (h_of_rows[step] if u is None else u[step], *rest)))
        h[:count] = h_of_rows[step]
        zeros = np.zeros((count, len(weights.ih) // len(cell.gates_ih)), weights.ih.dtype)
        gates.append((zeros,) * len(equations_of(cell).slots))
    return Tape(rows, x.shape, weights, steps, state, states, gates, extra)


def gates(
    cell: Cell, tape: Tape, *, num_threads: int = 1, rows: int | None = None, to: Array | None = None
) -> tuple[Array, ...]:
    """Return every gate in the order of `cell.gates`, and every state after the first, of all rows.

    Parameters
    ----------
    cell, tape
        As given to and returned by `forward`.
    num_threads
        As in `forward`.
    rows, to
        How many rows the results have, and to which of them each row of the tape goes, (R,) intp; the others are left
        as the memory was. None: R, in order.

    Returns
    -------
    tuple
        Of arrays (rows, H).
    """
    names, ih = len(cell.gates), tape.weights.ih
    shape = (len(tape.x) if rows is None else rows, len(ih) // len(cell.gates_ih))
    found = [np.empty(shape, ih.dtype) for _ in (*cell.gates, *cell.states[1:])]
    for step, (before, after), step_gates in zip(tape.steps, tape.states, tape.gates, strict=True):
        if isinstance(cell, WrittenCell):
            step_gates = Written(cell, tape.weights).at(step, tape.extra).shown(step_gates, before)
        for whole, part in zip(found, (*step_gates[:names], *after[1:]), strict=True):
            whole[step if to is None else to[step]] = part
    return tuple(found)
