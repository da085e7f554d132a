"""Cells: the table of built-in ones; the language in which others are written, with its operations; and a library.

The operations (`sigmoid`, `tanh`, `where`, ...) work on what a cell's equations are made of, and on NumPy arrays. The
cells of the library (`peephole_lstm`, `min_gru`, ...) are defined when they are first asked for; by name ``LIBRARY``
has those that take x alone, and ``BESIDE`` those that are given more, or have dropout or zoneout. `lstm_with`,
`gru_with` and `rnn_with` make cells with other activations.
"""

from importlib import import_module
from typing import Any

from fastrnn.cells.language import WrittenCell, cell
from fastrnn.cells.operations import (
    absolute,
    clip,
    cos,
    elu,
    erf,
    exp,
    expm1,
    gelu,
    hard_sigmoid,
    hard_tanh,
    leaky_relu,
    log,
    log1p,
    maximum,
    minimum,
    reciprocal,
    relu,
    selu,
    sigmoid,
    silu,
    sin,
    softplus,
    softsign,
    sqrt,
    square,
    tanh,
    where,
)
from fastrnn.cells.table import CELLS, Cell, State, Weights

__all__ = [
    "CELLS",
    "Cell",
    "State",
    "Weights",
    "WrittenCell",
    "absolute",
    "cell",
    "clip",
    "cos",
    "elu",
    "erf",
    "exp",
    "expm1",
    "gelu",
    "hard_sigmoid",
    "hard_tanh",
    "leaky_relu",
    "log",
    "log1p",
    "maximum",
    "minimum",
    "reciprocal",
    "relu",
    "selu",
    "sigmoid",
    "silu",
    "sin",
    "softplus",
    "softsign",
    "sqrt",
    "square",
    "tanh",
    "where",
]


def __getattr__(name: str) -> Any:
    """A cell of the library, all of them, or what makes more."""
    if not name.startswith("_"):
        library = import_module("fastrnn.cells.library")
        if name in library.__all__:
            return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *import_module("fastrnn.cells.library").__all__])
