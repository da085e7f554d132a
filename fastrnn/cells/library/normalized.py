"""Cells that normalize their sums and states over the units of a row."""

from __future__ import annotations

from typing import Any

from fastrnn.cells.language import cell
from fastrnn.cells.norms import layer_norm, rms_norm
from fastrnn.cells.operations import sigmoid, tanh

__all__ = [
    "gatewise_layer_norm_lstm",
    "layer_norm_gru",
    "layer_norm_lstm",
    "layer_norm_reset_before_gru",
    "rms_norm_lstm",
]

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
    """LSTM with layer normalization (Ba, Kiros and Hinton, 2016): of x's sums, h's, and c before the output.

    A gate has one bias where the paper adds up three, so that haste's LayerNormLSTM is this cell with bias=False.
    """
    x = layer_norm((a.i.x, a.f.x, a.g.x, a.o.x), (p.gain_i_x, p.gain_f_x, p.gain_g_x, p.gain_o_x))
    h = layer_norm((a.i.h, a.f.h, a.g.h, a.o.h), (p.gain_i_h, p.gain_f_h, p.gain_g_h, p.gain_o_h))
    i, f = sigmoid(p.bias_i + x[0] + h[0]), sigmoid(p.bias_f + x[1] + h[1])
    g, o = tanh(p.bias_g + x[2] + h[2]), sigmoid(p.bias_o + x[3] + h[3])
    c = f * prev.c + i * g
    return o * tanh(layer_norm(c, p.gain_c, p.bias_c)), c


@cell(
    gates="i f g o",
    states="h c",
    parameters=dict.fromkeys([f"gain_{g}" for g in _GATES], 1.0)
    | dict.fromkeys([f"bias_{g}" for g in _GATES], 0.0)
    | {"gain_c": 1.0, "bias_c": 0.0},
)
def gatewise_layer_norm_lstm(a: Any, prev: Any, p: Any) -> Any:
    """LSTM that normalizes each gate's sum on its own, and the new c: tf.contrib's LayerNormBasicLSTMCell.

    TensorFlow adds 1 to bias_f, and to the variance 1e-12.
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
    """GRU with layer normalization of x's sums and of h's (Ba, Kiros and Hinton, 2016), in haste's form."""
    x = layer_norm((a.r.x, a.z.x, a.n.x), (p.gain_r_x, p.gain_z_x, p.gain_n_x))
    h = layer_norm((a.r.h, a.z.h, a.n.h), (p.gain_r_h, p.gain_z_h, p.gain_n_h))
    r, z = sigmoid(p.bias_r + x[0] + h[0]), sigmoid(p.bias_z + x[1] + h[1])
    n = tanh(p.bias_n + x[2] + r * (p.bias_n_h + h[2]))
    return n + z * (prev.h - n)


@cell(
    gates="r z n",
    apart="r z n",
    parameters=dict.fromkeys([f"gain_{g}_{of}" for of in "xh" for g in "rzn"], 1.0)
    | dict.fromkeys([f"bias_{g}" for g in "rzn"], 0.0),
)
def layer_norm_reset_before_gru(a: Any, prev: Any, p: Any) -> Any:
    """GRU with the reset before the recurrent product (Cho et al., 2014) and layer normalization (Ba et al., 2016).

    Of x's sums, of h's, and of the product that the candidate has of the reset h.
    """
    x = layer_norm((a.r.x, a.z.x, a.n.x), (p.gain_r_x, p.gain_z_x, p.gain_n_x))
    h = layer_norm((a.r.h, a.z.h), (p.gain_r_h, p.gain_z_h))
    r, z = sigmoid(p.bias_r + x[0] + h[0]), sigmoid(p.bias_z + x[1] + h[1])
    n = tanh(p.bias_n + x[2] + layer_norm(a.n.h(r * prev.h), p.gain_n_h))
    return n + z * (prev.h - n)


@cell(gates="i f g o", states="h c", parameters=dict.fromkeys([f"gain_{g}" for g in (*_GATES, "c")], 1.0))
def rms_norm_lstm(a: Any, prev: Any, p: Any) -> Any:
    """LSTM with each gate's sum, and c before the output, scaled to a mean square of 1 (Zhang and Sennrich, 2019)."""
    i, f = sigmoid(rms_norm(a.i, p.gain_i)), sigmoid(rms_norm(a.f, p.gain_f))
    g, o = tanh(rms_norm(a.g, p.gain_g)), sigmoid(rms_norm(a.o, p.gain_o))
    c = f * prev.c + i * g
    return o * tanh(rms_norm(c, p.gain_c)), c
