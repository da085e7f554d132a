"""What is measured: named cases, and how much work each one is.

Letters as everywhere: T steps, N batch, I input size, H hidden size, P projection size, G gates. A case is measured in
two kinds of work, `inference` (y and the final state) and `training` (forward and backward, gradients of everything).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np

from fastrnn.bench.cells import BUILT_IN, MEASURED, built_in_like
from fastrnn.cells import LIBRARY
from fastrnn.parameters import Array

__all__ = ["ALL", "KINDS", "SETS", "Case", "Kind", "select"]

Kind = Literal["inference", "training"]
KINDS: tuple[Kind, ...] = ("inference", "training")


@dataclass(frozen=True)
class Case:
    """One problem: a module and the input it gets."""

    cell: str  # a name of fastrnn.bench.cells.MEASURED
    T: int
    N: int
    I: int
    H: int
    dtype: Literal["float32", "float64"] = "float32"
    num_layers: int = 1
    bidirectional: bool = False
    ragged: bool = False  # sequences of different lengths
    proj_size: int = 0  # of lstm; 0 is none
    precision: Literal["float32", "bfloat16", "int8"] = "float32"  # of the products; the first is the dtype

    @property
    def name(self) -> str:
        """What the case is called on the command line and in results: lstm-100-32-128-128 is T, N, I, H."""
        parts = [self.cell, *map(str, (self.T, self.N, self.I, self.H))]
        parts += [self.dtype] if self.dtype != "float32" else []
        parts += [f"{self.num_layers}layers"] if self.num_layers > 1 else []
        parts += ["bidirectional"] if self.bidirectional else []
        parts += ["ragged"] if self.ragged else []
        parts += [f"projection{self.proj_size}"] if self.proj_size else []
        parts += [self.precision] if self.narrow else []
        return "-".join(parts)

    @property
    def narrow(self) -> bool:
        """Whether weights have fewer bits than their dtype."""
        return self.precision != "float32"

    @property
    def weight_bytes(self) -> int:
        """Of each weight."""
        return {"float32": np.dtype(self.dtype).itemsize, "bfloat16": 2, "int8": 1}[self.precision]

    @property
    def directions(self) -> int:
        """1, or 2 when bidirectional."""
        return 2 if self.bidirectional else 1

    @property
    def outputs(self) -> int:
        """P, the columns of h: H unless there is a projection."""
        return self.proj_size or self.H

    @property
    def definition(self) -> Any:
        """The cell itself, a `Cell`, and a `WrittenCell` where it is `written`."""
        return MEASURED[self.cell]

    @property
    def written(self) -> bool:
        """Whether the cell is written in the language."""
        return self.cell not in BUILT_IN

    @property
    def gates(self) -> int:
        """G, how many gates there are."""
        return len(self.definition.gates)

    @property
    def states(self) -> tuple[str, ...]:
        """What is carried from step to step: h, for lstm h and c."""
        return tuple(self.definition.states)

    def most(self, kind: str) -> float | None:
        """How many times as long as its yardstick a written cell may take; None where nothing is asked of it.

        Yardsticks are the built-in cell that it is a variant of, and for a scan, its matrix products alone.
        """
        shape, training = (self.T, self.N, self.I, self.H), kind == "training"
        if self.cell in ("written_lstm", "written_gru"):
            return 1.5 if self.N == 1 else 1.15 if self.N >= 8 and self.H >= 64 else None
        if built_in_like(self.cell):
            return 1.25 if training and shape == VARIANT_OF else None
        return 1.3 if training and shape == SCAN and not self.definition.gates_hh else None

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

    def input_weights(self) -> list[int]:
        """How many elements weight_ih has, for every layer and direction."""
        columns = [self.I] + [self.outputs * self.directions] * (self.num_layers - 1)
        rows = len(self.definition.gates_ih) * self.H
        return [rows * inputs for inputs in columns for _ in range(self.directions)]

    def recurrent_weights(self) -> int:
        """How many elements weight_hh and weight_hr of a layer and direction have."""
        return len(self.definition.gates_hh) * self.H * self.outputs + self.proj_size * self.H

    def weights(self) -> int:
        """How many elements all weights have."""
        return sum(self.input_weights()) + self.num_layers * self.directions * self.recurrent_weights()

    def flops(self, kind: str) -> int:
        """Floating-point operations of the matrix products, two per multiply-add; activations are not counted.

        Training is three times inference: every product of the forward has two in the backward, one for the gradient
        of its input and one for that of its weights.
        """
        return 2 * self.real_rows() * self.weights() * (3 if kind == "training" else 1)

    def reread_bytes(self) -> int:
        """Bytes of one layer's and direction's recurrent weights, which every time step needs again."""
        return self.recurrent_weights() * self.weight_bytes

    def rereads(self, kind: str) -> int:
        """How often recurrent weights are read: once per step, layer and direction, in training also backwards."""
        return self.T * self.num_layers * self.directions * (2 if kind == "training" else 1)

    def streamed_bytes(self, kind: str) -> int:
        """Bytes that any implementation reads or writes once: input weights, x and y; in training their gradients too.

        The tape is not counted: what has to be on it is an implementation's choice.
        """
        elements = self.real_rows() * (self.I + self.outputs * self.directions)
        if kind == "training":
            elements += elements + sum(self.input_weights()) + self.weights()  # the weights' gradients
        return elements * np.dtype(self.dtype).itemsize + sum(self.input_weights()) * self.weight_bytes


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
NARROW = (
    *((1, 1, 128, 128), (1, 1, 512, 512), (100, 1, 128, 128), (100, 1, 256, 256), (100, 1, 512, 512)),
    *((50, 16, 256, 256), (100, 32, 128, 128), (50, 64, 512, 512), (20, 64, 1024, 1024)),
)
SMALLER = ((50, 1, 64, 64), (50, 64, 32, 32), (100, 32, 128, 128), (50, 64, 512, 512))
VARIANT = ((50, 1, 64, 64), (100, 32, 64, 64), (100, 32, 256, 256))
STEPS = ((1, 1, 64, 64), (1, 1, 256, 256), (1, 16, 128, 128))
LONG = ((100, 8, 64, 64), (1_000, 8, 64, 64), (10_000, 8, 64, 64))
SMOKE = ((1, 1, 8, 8), (7, 5, 9, 17), (20, 16, 32, 32))
SMOKE_CELLS = ("written_gru", "peephole_lstm", "reset_before_gru", "min_gru")  # a kind of product each
VARIANT_OF = (100, 32, 128, 128)  # of written cells that are variants of built-in ones
WRITTEN = ((1, 1, 64, 64), (50, 1, 64, 64), VARIANT_OF, (100, 64, 256, 256))
SCAN = (1_000, 8, 128, 128)  # of cells without a recurrent product


def _every_cell(
    shapes: Sequence[tuple[int, int, int, int]], cells: Iterable[str] = BUILT_IN, **options: object
) -> tuple[Case, ...]:
    return tuple(replace(Case(cell, *shape), **options) for shape in shapes for cell in cells)  # type: ignore[arg-type]


def _beside_yardsticks() -> tuple[Case, ...]:
    """Written cells where something else that fastrnn or the machine does says how fast they should be."""
    variants = [name for name in LIBRARY if built_in_like(name)]
    scans = [name for name, cell in LIBRARY.items() if not cell.gates_hh]
    return (
        *_every_cell(WRITTEN, ("written_lstm", "written_gru")),
        *_every_cell((VARIANT_OF,), variants),
        *_every_cell((SCAN,), scans),
    )


SETS: dict[str, tuple[Case, ...]] = {
    "quick": _every_cell(QUICK),
    "grid": _every_cell(GRID),
    "float64": _every_cell(SMALLER, dtype="float64"),
    "layers": _every_cell(VARIANT, num_layers=2),
    "bidirectional": _every_cell(VARIANT, bidirectional=True),
    "ragged": _every_cell(VARIANT[1:], ragged=True),
    "projection": tuple(Case("lstm", *shape, proj_size=shape[-1] // 2) for shape in VARIANT),
    "int8": _every_cell(NARROW, precision="int8"),
    "bfloat16": _every_cell(NARROW, precision="bfloat16"),
    "step": _every_cell(STEPS),
    "long": _every_cell(LONG),
    "cells": _every_cell(QUICK, LIBRARY),
    "yardsticks": _beside_yardsticks(),
    "smoke": _every_cell(SMOKE) + _every_cell(SMOKE[1:2], SMOKE_CELLS),
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
