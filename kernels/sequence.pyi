from typing import Any

from fastrnn.cells import Cell, State, Weights
from fastrnn.parameters import Array

class Packed: ...
class Tape: ...

def why_not_runnable() -> str | None: ...
def describe() -> str: ...
def pack(cell: Cell, weights: Weights, *, num_threads: int = 1) -> Packed: ...
def forward(
    cell: Cell,
    x: Array,
    state: State,
    weights: Weights,
    *,
    tape: bool = True,
    num_threads: int = 1,
    packed: Packed | None = None,
) -> tuple[Array, State, Tape | None]: ...
def backward(
    cell: Cell, tape: Tape, dy: Array | None, dstate: tuple[Array | None, ...], *, num_threads: int = 1
) -> tuple[Array | None, State, tuple[Array, Array, Array | None, Array | None]]: ...
