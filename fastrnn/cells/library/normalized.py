"""Cells that normalize their sums and states over the units of a row."""

from __future__ import annotations

from typing import Any

from fastrnn.cells.language import cell
from fastrnn.cells.norms import layer_norm, rms_norm
from fastrnn.cells.operations import sigmoid, tanh

__all__ = ["layer_norm_gru", "layer_norm_lstm", "norm_per_gate_lstm", "rms_norm_lstm"]

_GATES = ("i", "f", "g", "o")


@cell(
    gates="i f g o",
    states="h c",
    apart="i f g o",
    parameters=dict.fromkeys([f"gain_{g}_{of}" for of in "xh" for g in _GATES], 1.0)
    | dict.fromkeys([f"bias_{g}" for g in _GATES], 0.0)
    | {"gain_c": 1.0, "bias_c": 0.0},
)
def layer_norm_lstm(a: Any, prev: Any, p: Any) -> Any:
    """LSTM with layer normalization (Ba, Kiros and Hinton, 2016): of x's four sums, of h's, and of c before the output.

    The biases of the two sums come to one, of each gate; haste's LayerNormLSTM is this cell, and has no others: bias=False.
    """
    x = layer_norm((a.i.x, a.f.x, a.g.x, a.o.x), (p.gain_i_x, p.gain_f_x, p.gain_g_x, p.gain_o_x))
    h = layer_norm((a.i.h, a.f.h, a.g.h, a.o.h), (p.gain_i_h, p.gain_f_h, p.gain_g_h, p.gain_o_h))
    i, f = sigmoid(x[0] + h[0] + p.bias_i), sigmoid(x[1] + h[1] + p.bias_f)
    g, o = tanh(x[2] + h[2] + p.bias_g), sigmoid(x[3] + h[3] + p.bias_o)
    c = f * prev.c + i * g
    return o * tanh(layer_norm(c, p.gain_c, p.bias_c)), c


@cell(
    gates="i f g o",
    states="h c",
    parameters=dict.fromkeys([f"gain_{g}" for g in _GATES], 1.0)
    | dict.fromkeys([f"bias_{g}" for g in _GATES], 0.0)
    | {"gain_c": 1.0, "bias_c": 0.0},
)
def norm_per_gate_lstm(a: Any, prev: Any, p: Any) -> Any:
    """LSTM that normalizes the sum of each gate on its own, and c, which it keeps as it is (tf.contrib's LayerNormBasicLSTMCell).

    There the new c is what is normalized; here, as in the paper, only what goes into the output.
    """
    i = sigmoid(layer_norm(a.i, p.gain_i, p.bias_i))
    f = sigmoid(layer_norm(a.f, p.gain_f, p.bias_f))
    g = tanh(layer_norm(a.g, p.gain_g, p.bias_g))
    o = sigmoid(layer_norm(a.o, p.gain_o, p.bias_o))
    c = layer_norm(f * prev.c + i * g, p.gain_c, p.bias_c)
    return o * tanh(c), c


@cell(
    gates="r z n",
    apart="r z n",
    parameters=dict.fromkeys([f"gain_{g}_{of}" for of in "xh" for g in "rzn"], 1.0)
    | dict.fromkeys([f"bias_{g}" for g in ("r", "z", "n", "n_h")], 0.0),
)
def layer_norm_gru(a: Any, prev: Any, p: Any) -> Any:
    """GRU with layer normalization of x's three sums and of h's (Ba, Kiros and Hinton, 2016), torch.nn's and haste's form."""
    x = layer_norm((a.r.x, a.z.x, a.n.x), (p.gain_r_x, p.gain_z_x, p.gain_n_x))
    h = layer_norm((a.r.h, a.z.h, a.n.h), (p.gain_r_h, p.gain_z_h, p.gain_n_h))
    r, z = sigmoid(x[0] + h[0] + p.bias_r), sigmoid(x[1] + h[1] + p.bias_z)
    n = tanh(x[2] + p.bias_n + r * (h[2] + p.bias_n_h))
    return n + z * (prev.h - n)


@cell(gates="i f g o", states="h c", parameters=dict.fromkeys([f"gain_{g}" for g in (*_GATES, "c")], 1.0))
def rms_norm_lstm(a: Any, prev: Any, p: Any) -> Any:
    """LSTM whose sums are scaled to a mean square of 1, each gate's on its own (Zhang and Sennrich, 2019), and c as well."""
    i, f = sigmoid(rms_norm(a.i, p.gain_i)), sigmoid(rms_norm(a.f, p.gain_f))
    g, o = tanh(rms_norm(a.g, p.gain_g)), sigmoid(rms_norm(a.o, p.gain_o))
    c = f * prev.c + i * g
    return o * tanh(rms_norm(c, p.gain_c)), c
