"""Cells with dropout and zoneout inside."""

from __future__ import annotations

from typing import Any

from fastrnn.cells.language import cell
from fastrnn.cells.operations import sigmoid, tanh

__all__ = ["gal_gru", "gal_lstm", "semeniuta_gru", "semeniuta_lstm", "zoneout_gru", "zoneout_lstm"]


@cell(gates="i f g o", states="h c", dropout={"drop": "sequence"})
def gal_lstm(a: Any, prev: Any, e: Any) -> Any:
    """LSTM with the same dropout of h at all steps (Gal and Ghahramani, 2016, weights tied).

    Each gate has a mask of its own in Keras' recurrent_dropout. The dropout of its input, which the paper has too, is a
    layer's before.
    """
    h = e.drop(prev.h)
    i, f, g, o = sigmoid(a.i(h)), sigmoid(a.f(h)), tanh(a.g(h)), sigmoid(a.o(h))
    c = f * prev.c + i * g
    return o * tanh(c), c


@cell(gates="r z n", states="h", apart="n", dropout={"drop": "sequence"})
def gal_gru(a: Any, prev: Any, e: Any) -> Any:
    """GRU whose product takes h with the same dropout at all steps (Gal and Ghahramani, 2016); reset after it."""
    h = e.drop(prev.h)
    r, z = sigmoid(a.r(h)), sigmoid(a.z(h))
    n = tanh(a.n.x + r * a.n.h(h))
    return (1 - z) * n + z * prev.h


@cell(gates="i f g o", states="h c", dropout="drop")
def semeniuta_lstm(a: Any, prev: Any, e: Any) -> Any:
    """LSTM with dropout of its candidate, drawn at each step (Semeniuta et al., 2016): the memory loses nothing."""
    i, f, g, o = sigmoid(a.i), sigmoid(a.f), tanh(a.g), sigmoid(a.o)
    c = f * prev.c + i * e.drop(g)
    return o * tanh(c), c


@cell(gates="r z n", states="h", apart="n", dropout="drop")
def semeniuta_gru(a: Any, prev: Any, e: Any) -> Any:
    """GRU with dropout of its candidate, drawn at each step (Semeniuta et al., 2016); reset after the product."""
    r, z = sigmoid(a.r), sigmoid(a.z)
    n = tanh(a.n.x + r * a.n.h)
    return (1 - z) * e.drop(n) + z * prev.h


@cell(gates="i f g o", states="h c", zoneout="zone_h zone_c")
def zoneout_lstm(a: Any, prev: Any, e: Any) -> Any:
    """LSTM some of whose units keep their state and output, drawn at each step (zoneout; Krueger et al., 2017)."""
    i, f, g, o = sigmoid(a.i), sigmoid(a.f), tanh(a.g), sigmoid(a.o)
    c = f * prev.c + i * g
    return e.zone_h(o * tanh(c), prev.h), e.zone_c(c, prev.c)


@cell(gates="r z n", states="h", apart="n", zoneout="zone")
def zoneout_gru(a: Any, prev: Any, e: Any) -> Any:
    """GRU some of whose units keep their state, drawn at each step (Krueger et al., 2017); reset after the product."""
    r, z = sigmoid(a.r), sigmoid(a.z)
    n = tanh(a.n.x + r * a.n.h)
    return e.zone((1 - z) * n + z * prev.h, prev.h)
