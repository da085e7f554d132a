"""What is measured: named cases, and how much work each one is.

Letters as everywhere: T steps, N batch, I input size, H hidden size, G gates. A case is measured in two kinds of work,
`inference` (y and the final state) and `training` (forward and backward, gradients of everything).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np

from fastrnn.cells import CELLS
from fastrnn.parameters import Array

__all__ = ["ALL", "KINDS", "SETS", "Case", "Kind", "select"]

Kind = Literal["inference", "training"]
KINDS: tuple[Kind, ...] = ("inference", "training")
TABLE_NAMES = {"lstm": "lstm", "gru": "gru", "rnn": "rnn_tanh"}  # a case's cell -> its row in fastrnn.cells.CELLS


@dataclass(frozen=True)
class Case:
    """One problem: a module and the input it gets."""

    cell: Literal["lstm", "gru", "rnn"]
    T: int
    N: int
    I: int
    H: int
    dtype: Literal["float32", "float64"] = "float32"
    num_layers: int = 1
    bidirectional: bool = False
    ragged: bool = False  # sequences of different lengths

    @property
    def name(self) -> str:
        """What the case is called on the command line and in results: lstm-100-32-128-128 is T, N, I, H."""
        parts = [self.cell, *map(str, (self.T, self.N, self.I, self.H))]
        parts += [self.dtype] if self.dtype != "float32" else []
        parts += [f"{self.num_layers}layers"] if self.num_layers > 1 else []
        parts += ["bidirectional"] if self.bidirectional else []
        parts += ["ragged"] if self.ragged else []
        return "-".join(parts)

    @property
    def directions(self) -> int:
        """1, or 2 when bidirectional."""
        return 2 if self.bidirectional else 1

    @property
    def gates(self) -> int:
        """G, the gate blocks of a weight matrix."""
        return len(CELLS[TABLE_NAMES[self.cell]].gates)

    @property
    def states(self) -> tuple[str, ...]:
        """What is carried from step to step: h, for lstm h and c."""
        return CELLS[TABLE_NAMES[self.cell]].states

    def lengths(self) -> Array | None:
        """The length of each sequence, (N,) ints of T/2 .. T with T among them; None when all have T steps."""
        if not self.ragged:
            return None
        lengths = np.random.default_rng(self.N).integers(self.T // 2, self.T + 1, self.N)
        lengths[self.N // 2] = self.T
        return lengths

    def real_rows(self) -> int:
        """Rows (t, n) within the lengths: what has to be computed."""
        lengths = self.lengths()
        return self.T * self.N if lengths is None else int(lengths.sum())

    def weights(self) -> Iterable[tuple[int, int]]:
        """(rows, columns) of weight_ih and weight_hh, for every layer and direction."""
        rows = self.gates * self.H
        for layer in range(self.num_layers):
            inputs = self.I if layer == 0 else self.H * self.directions
            for _ in range(self.directions):
                yield rows, inputs
                yield rows, self.H

    def flops(self, kind: str) -> int:
        """Floating-point operations of the matrix products, two per multiply-add; activations are not counted.

        Training is three times inference: every product of the forward has two in the backward, one for the gradient
        of its input and one for that of its weights.
        """
        products = sum(rows * columns for rows, columns in self.weights())
        return 2 * self.real_rows() * products * (3 if kind == "training" else 1)

    def reread_bytes(self) -> int:
        """Bytes of one layer's and direction's recurrent weights, which every time step needs again."""
        return self.gates * self.H * self.H * np.dtype(self.dtype).itemsize

    def rereads(self, kind: str) -> int:
        """How often recurrent weights are read: once per step, layer and direction, in training also backwards."""
        return self.T * self.num_layers * self.directions * (2 if kind == "training" else 1)

    def streamed_bytes(self, kind: str) -> int:
        """Bytes that any implementation reads or writes once: input weights, x and y; in training their gradients too.

        The tape is not counted: what has to be on it is an implementation's choice.
        """
        inputs = [rows * columns for rows, columns in self.weights()][::2]
        rows = self.real_rows()
        elements = sum(inputs) + rows * self.I + rows * self.H * self.directions
        if kind == "training":
            elements += sum(inputs) + rows * self.I + rows * self.H * self.directions
            elements += sum(r * c for r, c in self.weights())  # the weights' gradients
        return elements * np.dtype(self.dtype).itemsize


# (T, N, I, H): single steps, single sequences, and batches from small to large.
GRID = (
    (1, 1, 64, 64),
    (50, 1, 64, 64),
    (100, 1, 128, 256),
    (150, 1, 87, 400),
    (50, 32, 1, 32),
    (50, 64, 32, 32),
    (100, 32, 64, 64),
    (25, 32, 64, 128),
    (100, 32, 128, 128),
    (100, 64, 256, 256),
    (50, 64, 512, 512),
    (35, 20, 650, 650),
    (50, 128, 1024, 1024),
)
QUICK = ((1, 1, 64, 64), (50, 1, 64, 64), (50, 64, 32, 32), (100, 32, 128, 128), (100, 64, 256, 256))
SMALLER = ((50, 1, 64, 64), (50, 64, 32, 32), (100, 32, 128, 128), (50, 64, 512, 512))
VARIANT = ((50, 1, 64, 64), (100, 32, 64, 64), (100, 32, 256, 256))
LONG = ((100, 8, 64, 64), (1_000, 8, 64, 64), (10_000, 8, 64, 64))
SMOKE = ((1, 1, 8, 8), (7, 5, 9, 17), (20, 16, 32, 32))


def _every_cell(shapes: Sequence[tuple[int, int, int, int]], **options: object) -> tuple[Case, ...]:
    return tuple(replace(Case(cell, *shape), **options) for shape in shapes for cell in TABLE_NAMES)  # type: ignore[arg-type]


SETS: dict[str, tuple[Case, ...]] = {
    "quick": _every_cell(QUICK),
    "grid": _every_cell(GRID),
    "float64": _every_cell(SMALLER, dtype="float64"),
    "layers": _every_cell(VARIANT, num_layers=2),
    "bidirectional": _every_cell(VARIANT, bidirectional=True),
    "ragged": _every_cell(VARIANT[1:], ragged=True),
    "long": _every_cell(LONG),
    "smoke": _every_cell(SMOKE),
}
ALL: dict[str, Case] = {case.name: case for cases in SETS.values() for case in cases}


def select(patterns: Iterable[str]) -> list[Case]:
    """Return the cases that sets ("grid"), names, or patterns of names ("lstm-*-64") stand for, each of them once.

    Raises
    ------
    ValueError
        If nothing matches a pattern.
    """
    chosen: dict[str, Case] = {}
    for pattern in patterns:
        cases = SETS.get(pattern) or [case for name, case in ALL.items() if fnmatchcase(name, pattern)]
        if not cases:
            close = get_close_matches(pattern, [*SETS, *ALL], n=3) or SETS
            raise ValueError(f"no case is called {pattern!r}; expected a set, a name or a pattern: {', '.join(close)}")
        chosen |= {case.name: case for case in cases}
    return list(chosen.values())
