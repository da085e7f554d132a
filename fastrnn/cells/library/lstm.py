"""Cells with a memory c beside the output h: variants of the LSTM."""

from __future__ import annotations

from typing import Any

from fastrnn.cells.language import cell
from fastrnn.cells.operations import exp, hard_sigmoid, maximum, sigmoid, softplus, tanh, where

__all__ = ["coupled_lstm", "hard_lstm", "janet", "peephole_lstm", "ran", "slstm"]


@cell(gates="i f g o", states="h c", parameters="p_i p_f p_o")
def peephole_lstm(a: Any, prev: Any, p: Any) -> Any:
    """LSTM whose gates see the memory (Gers, Schraudolph and Schmidhuber, 2002)."""
    i, f = sigmoid(a.i + p.p_i * prev.c), sigmoid(a.f + p.p_f * prev.c)
    g = tanh(a.g)
    c = f * prev.c + i * g
    o = sigmoid(a.o + p.p_o * c)
    return o * tanh(c), c


@cell(gates="f g o", states="h c")
def coupled_lstm(a: Any, prev: Any) -> Any:
    """LSTM that takes in what it forgets, i = 1 - f: CIFG (Greff et al., 2017)."""
    f, g, o = sigmoid(a.f), tanh(a.g), sigmoid(a.o)
    c = g + f * (prev.c - g)
    return o * tanh(c), c


@cell(gates="i f g o", states="h c")
def hard_lstm(a: Any, prev: Any) -> Any:
    """LSTM with gates that are straight lines between 0 and 1, as Keras had them first: max(min(a/5 + 1/2, 1), 0)."""
    i, f, g, o = hard_sigmoid(a.i, 0.2), hard_sigmoid(a.f, 0.2), tanh(a.g), hard_sigmoid(a.o, 0.2)
    c = f * prev.c + i * g
    return o * tanh(c), c


@cell(gates="f g", states="h")
def janet(a: Any, prev: Any) -> Any:
    """LSTM with a forget gate alone, which takes in more than it forgets (van der Westhuizen and Lasenby, 2018)."""
    f, i = sigmoid(a.f), sigmoid(1.0 - a.f)  # 1 - sigmoid(a_f - beta), beta = 1
    g = tanh(a.g)
    return f * prev.h + i * g


@cell(gates="i f g", states="h c", from_x="g")
def ran(a: Any, prev: Any) -> Any:
    """Recurrent additive network (Lee, Levy and Zettlemoyer, 2017): c is a weighted sum of projected inputs."""
    i, f, g = sigmoid(a.i), sigmoid(a.f), a.g
    c = f * prev.c + i * g
    return tanh(c), c


@cell(gates="i f g o", states="h c n m")
def slstm(a: Any, prev: Any) -> Any:
    """The scalar LSTM of xLSTM (Beck et al., 2024): exponential gates, a normalizer n, and a stabilizer m.

    The paper cuts its recurrent product into heads: `heads=4` of `fastrnn.Recurrent`.

    The gates are exp(a_i) and sigmoid(a_f), both divided by exp(m): the output does not depend on m but in rounding.
    Where n is zero it begins, with c of zero too, and m is a_i, as in the authors' code: any other m may be so large
    that the input gate rounds to zero, and h is 0 / 0.
    """
    # log of the forget gate, and of what m divides by
    kept = where(prev.n == 0, a.i, prev.m - softplus(-a.f))
    m = maximum(kept, a.i)
    i, f = exp(a.i - m), exp(kept - m)
    g, o = tanh(a.g), sigmoid(a.o)
    c = f * prev.c + i * g
    n = f * prev.n + i
    return o * (c / n), c, n, m
