"""The cells that are measured: the built-in ones, two of them written in the language, and the library."""

from __future__ import annotations

from typing import Any

from fastrnn.cells import CELLS, LIBRARY, Cell, cell, sigmoid, tanh

__all__ = ["BUILT_IN", "MEASURED", "built_in_like", "written_gru", "written_lstm"]


@cell(gates="i f g o", states="h c")
def written_lstm(a: Any, prev: Any) -> Any:
    """The built-in LSTM, as a user would write it."""
    c = sigmoid(a.f) * prev.c + sigmoid(a.i) * tanh(a.g)
    return sigmoid(a.o) * tanh(c), c


@cell(gates="r z n", apart="n")
def written_gru(a: Any, prev: Any) -> Any:
    """The built-in GRU, as a user would write it."""
    r, z = sigmoid(a.r), sigmoid(a.z)
    n = tanh(a.n.x + r * a.n.h)
    return (1 - z) * n + z * prev.h


# By the name that a case gives them.
BUILT_IN: dict[str, Cell] = {"lstm": CELLS["lstm"], "gru": CELLS["gru"], "rnn": CELLS["rnn_tanh"]}
MEASURED: dict[str, Cell] = BUILT_IN | {each.name: each for each in (written_lstm, written_gru)} | LIBRARY


def built_in_like(name: str) -> str | None:
    """The built-in cell that a written one is a variant of, with products of the same sizes: lstm of peephole_lstm."""
    family = name.rpartition("_")[2]
    if family == name or family not in BUILT_IN or MEASURED[name].gates_hh != BUILT_IN[family].gates_hh:
        return None
    return family
