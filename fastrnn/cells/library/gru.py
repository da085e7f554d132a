"""Cells with gates and no memory but their output h: variants of the GRU."""

from __future__ import annotations

from typing import Any

from fastrnn.cells.language import cell
from fastrnn.cells.operations import hard_sigmoid, relu, sigmoid, tanh

__all__ = ["atr", "brc", "hard_gru", "li_gru", "mgu", "nbrc", "reset_before_gru", "star", "ugrnn"]


@cell(gates="r z n", states="h")
def reset_before_gru(a: Any, prev: Any) -> Any:
    """GRU with the reset before the recurrent product (Cho et al., 2014): ONNX', and Keras' without reset_after."""
    r, z = sigmoid(a.r), sigmoid(a.z)
    n = tanh(a.n(r * prev.h))
    return n + z * (prev.h - n)


@cell(gates="f n", states="h")
def mgu(a: Any, prev: Any) -> Any:
    """Minimal gated unit (Zhou et al., 2016): one gate forgets and resets."""
    f = sigmoid(a.f)
    n = tanh(a.n(f * prev.h))
    return prev.h + f * (n - prev.h)


@cell(gates="r z n", states="h", apart="n")
def hard_gru(a: Any, prev: Any) -> Any:
    """torch.nn's GRU with gates that are straight lines between 0 and 1: max(min(a/5 + 1/2, 1), 0)."""
    r, z = hard_sigmoid(a.r, 0.2), hard_sigmoid(a.z, 0.2)
    n = tanh(a.n.x + r * a.n.h)
    return n + z * (prev.h - n)


@cell(gates="z n", states="h")
def li_gru(a: Any, prev: Any) -> Any:
    """Light GRU (Ravanelli et al., 2018), without its batch normalization: no reset gate, and a ramp."""
    z, n = sigmoid(a.z), relu(a.n)
    return n + z * (prev.h - n)


@cell(gates="g n", states="h")
def ugrnn(a: Any, prev: Any) -> Any:
    """Update gate RNN (Collins, Sohl-Dickstein and Sussillo, 2017)."""
    g, n = sigmoid(a.g), tanh(a.n)
    return n + g * (prev.h - n)


@cell(gates="a c n", states="h", parameters="w_a w_c", from_x="a c n")
def brc(a: Any, prev: Any, p: Any) -> Any:
    """Bistable recurrent cell (Vecoven, Ernst and Drion, 2021): units see themselves alone, and may latch: a > 1."""
    feedback = 1.0 + tanh(a.a + p.w_a * prev.h)
    c = sigmoid(a.c + p.w_c * prev.h)
    n = tanh(a.n + feedback * prev.h)
    return n + c * (prev.h - n)


@cell(gates="a c n", states="h", from_x="n")
def nbrc(a: Any, prev: Any) -> Any:
    """Recurrently neuromodulated bistable cell (Vecoven, Ernst and Drion, 2021): gates see all units."""
    feedback, c = 1.0 + tanh(a.a), sigmoid(a.c)
    n = tanh(a.n + feedback * prev.h)
    return n + c * (prev.h - n)


@cell(gates="k n", states="h", from_x="n")
def star(a: Any, prev: Any) -> Any:
    """Stackable recurrent cell (Turkoglu et al., 2021): gradients of one size through many layers."""
    k, n = sigmoid(a.k), tanh(a.n)
    return tanh(prev.h + k * (n - prev.h))


@cell(gates="p", states="h", apart="p")
def atr(a: Any, prev: Any) -> Any:
    """Addition-subtraction twin-gated network (Zhang et al., 2018): both gates from the same two products."""
    p, q = a.p.x, a.p.h
    i, f = sigmoid(p + q), sigmoid(p - q)
    return i * p + f * prev.h
