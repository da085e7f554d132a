"""Cells whose gates see the input alone: the products of all steps are one, and what is left is a scan of vectors."""

from __future__ import annotations

from typing import Any

from fastrnn.cells.language import cell
from fastrnn.cells.operations import expm1, sigmoid, softplus, sqrt, tanh

__all__ = ["gilr", "min_gru", "min_lstm", "qrnn", "rg_lru", "sru"]


@cell(gates="z n", states="h", from_x="z n")
def min_gru(a: Any, prev: Any) -> Any:
    """Minimal GRU that could be trained in parallel (Feng et al., 2024)."""
    z, n = sigmoid(a.z), a.n
    return prev.h + z * (n - prev.h)


@cell(gates="f i n", states="h", from_x="f i n")
def min_lstm(a: Any, prev: Any) -> Any:
    """Minimal LSTM that could be trained in parallel (Feng et al., 2024): its two gates share 1.

    Where both are shut, so far that floats have no numbers for it, h stays.
    """
    f, i, n = sigmoid(a.f), sigmoid(a.i), a.n
    return prev.h + i / (f + i + 1e-30) * (n - prev.h)  # 1e-30 changes no sum but of gates that are shut: no 0 / 0


@cell(gates="u f r s", states="h c", parameters="v_f v_r", from_x="u f r s")
def sru(a: Any, prev: Any, p: Any) -> Any:
    """Simple recurrent unit (Lei et al., 2018); its highway takes a product of x, s, so that sizes may differ."""
    f, r = sigmoid(a.f + p.v_f * prev.c), sigmoid(a.r + p.v_r * prev.c)
    c = a.u + f * (prev.c - a.u)
    return a.s + r * (c - a.s), c


@cell(gates="z f o", states="h c", from_x="z f o")
def qrnn(a: Any, prev: Any) -> Any:
    """Quasi-recurrent network (Bradbury et al., 2017), fo-pooling over a convolution of width 1."""
    z, f, o = tanh(a.z), sigmoid(a.f), sigmoid(a.o)
    c = z + f * (prev.c - z)
    return o * c, c


@cell(gates="g n", states="h", from_x="g n")
def gilr(a: Any, prev: Any) -> Any:
    """Gated impulse linear recurrence (Martin and Cundy, 2018)."""
    g, n = sigmoid(a.g), tanh(a.n)
    return n + g * (prev.h - n)


@cell(gates="r i n", states="h", parameters={"decay": 0.5}, from_x="r i n")
def rg_lru(a: Any, prev: Any, p: Any) -> Any:
    """Real-gated linear recurrent unit of Griffin (De et al., 2024); x enters by a product, n: sizes may differ.

    h is kept by a factor k = exp(-8 softplus(decay) r), and what enters is scaled by sqrt(1 - k * k).
    """
    r, i = sigmoid(a.r), sigmoid(a.i)
    lost = expm1(-8.0 * softplus(p.decay) * r)  # k - 1, exact where k is close to 1
    # 1 - k * k; where that is 0 the root's slope is infinite, and its gradient would be NaN. No other sum changes.
    squared = 1e-36 - lost * (2.0 + lost)
    return prev.h + lost * prev.h + sqrt(squared) * (i * a.n)
