"""Which cell a model has: a built-in one or one of the library by name, or a user's own; and how files say so."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from fastrnn import GRU, LSTM, RNN
from fastrnn.cells import WrittenCell
from fastrnn.checks import check_choice, shown
from fastrnn.modules import Recurrent, Runnable

__all__ = [
    "CELLS",
    "cell_name",
    "check_cell_name",
    "describe_cell",
    "make_layers",
    "name_of",
    "restore_cell",
    "written",
]

CELLS: dict[str, type[LSTM] | type[GRU] | type[RNN]] = {"lstm": LSTM, "gru": GRU, "rnn": RNN}


def _library() -> Mapping[str, WrittenCell]:
    """The cells of `fastrnn.cells` by name; they are defined, which takes a while, when they are first asked for."""
    library: Mapping[str, WrittenCell] = import_module("fastrnn.cells.library").LIBRARY
    return library


def cell_name(cell: Any) -> Any:
    """Return the name of a cell of the library; anything else as it is."""
    return cell.name if isinstance(cell, WrittenCell) and _library().get(cell.name) is cell else cell


def check_cell_name(cell: Any) -> str | WrittenCell:
    """Return a name of a built-in cell or of one of the library, or a user's cell; TypeError or ValueError else."""
    if isinstance(cell, WrittenCell):
        named: str | WrittenCell = cell_name(cell)
        return named
    if isinstance(cell, str) and cell in CELLS:
        return cell
    return check_choice("cell", cell, [*CELLS, *_library()])


def written(cell: str | WrittenCell) -> WrittenCell:
    """Return the cell that is not built in, by its name or as it is; KeyError if there is none."""
    return _library()[cell] if isinstance(cell, str) else cell


def make_layers(
    cell: str | WrittenCell, input_size: int, hidden_size: int, num_layers: int, **options: Any
) -> RNN | LSTM | GRU | Recurrent:
    """Return layers of a cell, as `check_cell_name` gives it."""
    if isinstance(cell, str) and cell in CELLS:
        return CELLS[cell](input_size, hidden_size, num_layers, **options)
    return Recurrent(written(cell), input_size, hidden_size, num_layers, **options)


def name_of(rnn: Runnable) -> str | WrittenCell:
    """Return the cell of layers: its name, or a user's own."""
    cell: str | WrittenCell = cell_name(rnn.cell) if isinstance(rnn, Recurrent) else type(rnn).__name__.lower()
    return cell


def describe_cell(cell: str | WrittenCell) -> str | dict[str, str]:
    """Return what a file says of a cell: its name, and of a user's own that it is one, for code is not saved."""
    return cell if isinstance(cell, str) else {"own": cell.name}


def restore_cell(described: Any, given: Any) -> str | WrittenCell:
    """Return the cell that a file describes; a user's own must be `given` again.

    Raises
    ------
    TypeError, ValueError
        If the description is none, or the cell is a user's own and is not given, or another one is.
    """
    given = cell_name(given)
    if isinstance(described, str):
        if given is not None and given != described:
            raise ValueError(f"its cell is {shown(described)}; expected no other, but cell is {shown(given)}")
        return check_cell_name(described)
    if not isinstance(described, Mapping) or not isinstance(name := described.get("own"), str):
        raise TypeError(f"its cell is {shown(described)}; expected a name")
    if given is None:
        raise ValueError(
            f"its cell {shown(name)} is its author's own, and files hold no code; expected the cell again: cell={name}"
        )
    if not isinstance(given, WrittenCell) or given.name != name:
        raise ValueError(f"its cell is {shown(name)}, its author's own; expected that one, but cell is {shown(given)}")
    return given
