"""The NumPy reference: it defines every number that the kernels must reproduce.

Slow and plain on purpose. Per cell there is one pair of point functions, forward and backward of a single step without
its matrix products; one sequence forward and one sequence backward (back-propagation through time, Werbos, 1990) serve
all cells. The letters are T time steps, N batch, I input size, H hidden size, G gates; see `fastrnn.cells` for the
equations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastrnn.cells import Cell, State, Weights
from fastrnn.parameters import Array

__all__ = ["POINT_FUNCTIONS", "Tape", "backward", "describe", "forward", "sigmoid"]


def describe() -> str:
    """What this backend is, for `fastrnn.info`."""
    return "the reference, plain NumPy"


Gates = tuple[Array, ...]  # what a step's backward needs besides the states, (N, H) each


def sigmoid(a: Array) -> Array:
    """1 / (1 + exp(-a)), without overflow for any a."""
    e = np.exp(-np.abs(a))
    result: Array = np.where(a >= 0, 1, e) / (1 + e)
    return result


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
    da = np.where(h > 0, dh, 0)  # h = max(a, 0); the derivative at 0 is 0, as in torch
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


class Tape(NamedTuple):
    """What `forward` keeps for `backward`."""

    x: Array  # (T, N, I), or (T, N) token indices
    weights: Weights
    states: list[State]  # T + 1 of them, the initial one first
    gates: list[Gates]  # T of them


def forward(
    cell: Cell, x: Array, state: State, weights: Weights, *, tape: bool = True, num_threads: int = 1
) -> tuple[Array, State, Tape | None]:
    """Run a cell over a sequence.

    Parameters
    ----------
    cell
        A row of `fastrnn.cells.CELLS`.
    x
        (T, N, I), or integer token indices (T, N), which stand for their one-hot rows.
    state
        The initial states, (N, H) each, in the order of `cell.states`.
    weights
        The layer's parameters.
    tape
        Whether to keep what `backward` needs.
    num_threads
        Part of the signature every backend shares; NumPy's matrix products choose their own threads.

    Returns
    -------
    tuple
        y (T, N, H), the final states, and the tape or None.
    """
    point_forward, _ = POINT_FUNCTIONS[cell.name]
    bias_ih, bias_hh = (0, 0) if weights.bias_ih is None else (weights.bias_ih, weights.bias_hh)
    rows = weights.ih.T[x] if x.ndim == 2 else x @ weights.ih.T  # (T, N, G*H)
    a_x = rows + bias_ih
    states, gates = [state], []
    y = np.empty((*x.shape[:2], weights.hh.shape[1]), weights.hh.dtype)
    for t in range(len(x)):
        a_h = states[-1][0] @ weights.hh.T + bias_hh
        state, step_gates = point_forward(a_x[t], a_h, states[-1])
        y[t] = state[0]
        if tape:
            states.append(state)
            gates.append(step_gates)
        else:
            states = [state]
    final = tuple(s.copy() for s in states[-1])
    return y, final, Tape(x, weights, states, gates) if tape else None


def backward(
    cell: Cell, tape: Tape, dy: Array | None, dstate: tuple[Array | None, ...], *, num_threads: int = 1
) -> tuple[Array | None, State, Weights]:
    """Differentiate `forward`: the exact gradients, by back-propagation through time.

    Parameters
    ----------
    cell, tape
        As given to and returned by `forward`.
    dy
        The loss's gradient with respect to y, (T, N, H), or None for zero.
    dstate
        The loss's gradients with respect to the final states, (N, H) each or None for zero.
    num_threads
        As in `forward`.

    Returns
    -------
    tuple
        dx (T, N, I) or None for token input, the gradients of the initial states, and those of the weights.
    """
    _, point_backward = POINT_FUNCTIONS[cell.name]
    x, weights, states, gates = tape
    h_0 = states[0][0]
    da_x = np.empty((*x.shape[:2], weights.hh.shape[0]), weights.hh.dtype)
    da_h = np.empty_like(da_x)
    carried: State = tuple(np.zeros_like(h_0) if d is None else d for d in dstate)
    for t in reversed(range(len(x))):
        if dy is not None:
            carried = (carried[0] + dy[t], *carried[1:])
        da_x[t], da_h[t], bypass = point_backward(gates[t], states[t], states[t + 1], carried)
        carried = (bypass[0] + da_h[t] @ weights.hh, *bypass[1:])  # a_h = h_prev @ hh.T
    h_prev = np.array([state[0] for state in states[:-1]], h_0.dtype).reshape(len(x), *h_0.shape)
    if x.ndim == 2:
        dx = None
        dw_ih = np.zeros_like(weights.ih)
        np.add.at(dw_ih.T, x, da_x)  # a_x = ih[:, token]
    else:
        dx = da_x @ weights.ih  # a_x = x @ ih.T
        dw_ih = np.tensordot(da_x, x, axes=((0, 1), (0, 1)))
    dw_hh = np.tensordot(da_h, h_prev, axes=((0, 1), (0, 1)))
    has_bias = weights.bias_ih is not None
    db_ih, db_hh = (da_x.sum((0, 1)), da_h.sum((0, 1))) if has_bias else (None, None)
    return dx, tuple(d.copy() for d in carried), Weights(dw_ih, dw_hh, db_ih, db_hh)
