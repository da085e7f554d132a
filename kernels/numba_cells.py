"""The cells, one vector of units at a time: `fastrnn.reference`'s point functions, forward and backward side by side.

A row of the tape's block (see `numba_sequence`) holds a cell's gates in `slots` vectors, at `z`, `z + W`, ...: the sums
a = a_x + a_h on entry to a forward function, the activated gates after it, the gradients of the sums after the backward
function, in place. Gradients of the lanes behind `count`, which stand for no unit, are set to zero.

==========  ===========================  ======================================
cell        slots                        behind the backward function
==========  ===========================  ======================================
rnn_*       one vector of h per unit     da
lstm        i, f, g, o                   da_i, da_f, da_g, da_o
gru         n (its a_x part), r, z,      da_n, da_r, da_z, r * da_n: the first
            a_h.n                        three are da_x, the last three da_h
==========  ===========================  ======================================
"""

from __future__ import annotations

from fastrnn.cells import CELLS
from fastrnn.kernels.numba_math import sigmoid, tanh
from fastrnn.kernels.numba_options import inlined
from fastrnn.kernels.numba_vector import first, fma, load, load_part, maximum, store, width, zero_unless_positive

__all__ = ["CELL_IDS", "GRU", "LSTM", "PROGRAM", "RNN_RELU", "RNN_TANH", "point_backward", "point_forward"]

RNN_TANH, RNN_RELU, LSTM, GRU, PROGRAM = range(5)  # the last one is a written cell: see `numba_program`
CELL_IDS = {"rnn_tanh": RNN_TANH, "rnn_relu": RNN_RELU, "lstm": LSTM, "gru": GRU}
assert CELL_IDS.keys() == CELLS.keys()


# --- rnn_tanh, rnn_relu: h = tanh(a) or max(a, 0)


@inlined
def _rnn_forward(relu, z):
    a = load(z)
    h = maximum(a, 0.0) if relu else tanh(a)
    store(z, h)
    return h


@inlined
def _rnn_backward(relu, z, dh, count):
    h = load(z)
    # h = max(a, 0), whose derivative at 0 is 0, or h = tanh(a)
    da = zero_unless_positive(h, dh) if relu else dh * fma(h, 0.0 - h, 1.0)
    store(z, first(da, count))


# --- lstm: c = f * c_prev + i * g, h = o * tanh(c)


@inlined
def _lstm_forward(z, c_prev, c):
    W = width(z)
    i, f, g, o = sigmoid(load(z)), sigmoid(load(z + W)), tanh(load(z + 2 * W)), sigmoid(load(z + 3 * W))
    store(z, i)
    store(z + W, f)
    store(z + 2 * W, g)
    store(z + 3 * W, o)
    c_new = fma(f, load(c_prev), i * g)
    store(c, c_new)
    return o * tanh(c_new)


@inlined
def _lstm_backward(z, c_prev, c, dh, carry, count):
    W = width(z)
    i, f, g, o = load(z), load(z + W), load(z + 2 * W), load(z + 3 * W)
    tanh_c = tanh(load(c))
    dc_new = fma(dh * o, fma(tanh_c, 0.0 - tanh_c, 1.0), load(carry))  # h = o * tanh(c)
    store(z, first(dc_new * g * (i * (1.0 - i)), count))  # c = f * c_prev + i * g,  i = sigmoid(a_i)
    store(z + W, first(dc_new * load(c_prev) * (f * (1.0 - f)), count))  # f = sigmoid(a_f)
    store(z + 2 * W, first(dc_new * i * fma(g, 0.0 - g, 1.0), count))  # g = tanh(a_g)
    store(z + 3 * W, first(dh * tanh_c * (o * (1.0 - o)), count))  # o = sigmoid(a_o)
    store(carry, dc_new * f)  # c = f * c_prev + ...


# --- gru: h = n + z * (h_prev - n)


@inlined
def _gru_forward(z, h_prev):
    W = width(z)
    r, u = sigmoid(load(z + W)), sigmoid(load(z + 2 * W))
    n = tanh(fma(r, load(z + 3 * W), load(z)))
    store(z, n)
    store(z + W, r)
    store(z + 2 * W, u)
    return fma(u, h_prev - n, n)


@inlined
def _gru_backward(z, h_prev, dh, carry, count):
    W = width(z)
    n, r, u, h_n = load(z), load(z + W), load(z + 2 * W), load(z + 3 * W)
    da_n = dh * (1.0 - u) * fma(n, 0.0 - n, 1.0)  # h = n + u * (h_prev - n),  n = tanh(x_n + r * h_n)
    store(z, first(da_n, count))
    store(z + W, first(da_n * h_n * (r * (1.0 - r)), count))  # r = sigmoid(a_r)
    store(z + 2 * W, first(dh * (h_prev - n) * (u * (1.0 - u)), count))  # u = sigmoid(a_z)
    store(z + 3 * W, first(da_n * r, count))  # n = tanh(x_n + r * h_n)
    store(carry, dh * u)  # h = ... + u * h_prev


# --- the cell's row


@inlined
def point_forward(cell, z, c_prev, c, h_prev, count):
    """Activate the sums of one row and W units; return h.

    Parameters
    ----------
    cell
        One of `CELL_IDS`.
    z
        INOUT the first slot: sums in, gates out.
    c_prev, c
        IN and OUT (W,) the cell state before and after the step; may be one place. LSTM only.
    h_prev, count
        IN (count,) the state before the step, without padding. GRU only.
    """
    if cell == LSTM:
        return _lstm_forward(z, c_prev, c)
    if cell == GRU:
        return _gru_forward(z, load_part(h_prev, count))
    return _rnn_forward(cell == RNN_RELU, z)


@inlined
def point_backward(cell, z, c_prev, c, h_prev, count, dh, carry):
    """Differentiate `point_forward`.

    Parameters
    ----------
    z
        INOUT the first slot: gates in, gradients of the sums out.
    c_prev, c, h_prev, count
        IN, as in `point_forward`.
    dh
        The gradient of h, a vector.
    carry
        INOUT (W,) LSTM: the gradient of c in, of c_prev out. GRU: OUT the part of h_prev's that bypasses a_h.
    """
    if cell == LSTM:
        _lstm_backward(z, c_prev, c, dh, carry, count)
    elif cell == GRU:
        _gru_backward(z, load_part(h_prev, count), dh, carry, count)
    else:
        _rnn_backward(cell == RNN_RELU, z, dh, count)
