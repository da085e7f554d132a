"""Cells: the table of built-in ones, and the language in which all others are written."""

from fastrnn.cells.language import WrittenCell, cell
from fastrnn.cells.table import CELLS, Cell, State, Weights

__all__ = ["CELLS", "Cell", "State", "Weights"]
