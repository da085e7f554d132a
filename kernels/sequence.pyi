from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np

from fastrnn.cells import Cell, State, Weights
from fastrnn.cells.program import ArrayProgram
from fastrnn.machine import Caches
from fastrnn.parameters import Array

PRECISIONS: tuple[str, ...]
MULTIPLIES_BFLOAT16: bool
LEAVES_DX: bool
LEAVES_DWEIGHTS: bool
LOOKS_ITSELF: bool
RUNS_GROUPS: bool
TAKES_KEPT: bool
TAKES_PREPARED: bool
RUN_PREPARED: Any
CACHES: Caches
LANES: int

@final
class Brief: ...

class Packed: ...
class Tape: ...

def why_not_runnable() -> str | None: ...
def describe() -> str: ...
def pack(cell: Cell, weights: Weights, *, num_threads: int = 1, members: int = 0) -> Packed: ...
def forward(
    cell: Cell,
    x: Array,
    state: State,
    weights: Weights | None,
    *,
    tape: bool = True,
    num_threads: int = 1,
    packed: Packed | None = None,
    batch_sizes: Array | None = None,
    reverse: bool = False,
    y: Array | None = None,
    extra: tuple[Array, ...] = (),
    kept: tuple[Array, ...] = (),
    members: int = 0,
    shared: bool = False,
) -> tuple[Array, State, Tape | None]: ...
def prepare(cell: Cell, x: Array, state: State, weights: Weights) -> Brief | None: ...
def backward(
    cell: Cell,
    tape: Tape,
    dy: Array | None,
    dstate: tuple[Array | None, ...],
    *,
    num_threads: int = 1,
    dx: Array | None = None,
    dweights: Weights | None = None,
    rows: int | None = None,
    of_x: bool = True,
    dextra: tuple[Array, ...] = (),
    dextra_add: bool = True,
    of_weights: bool = True,
) -> tuple[Array | None, State, tuple[Array, Array, Array | None, Array | None, Array | None]]: ...
def gates(
    cell: Cell, tape: Tape, *, num_threads: int = 1, rows: int | None = None, to: Array | None = None
) -> tuple[Array, ...]: ...
def keep(tape: Tape) -> tuple[Array, ...]: ...
def kept_sizes(
    cell: Cell, steps: int, batch: int, rows: int, hidden: int, proj_size: int, dtype: np.dtype[Any]
) -> tuple[int, ...]: ...
def recall(
    cell: Cell,
    x: Array,
    state: State,
    weights: Weights,
    y: Array,
    kept: tuple[Array, ...],
    *,
    batch_sizes: Array | None = None,
    reverse: bool = False,
    extra: tuple[Array, ...] = (),
) -> Tape: ...

class Stepper:
    states: list[State]
    def __init__(
        self,
        cell: Cell,
        weights: Sequence[Weights],
        batch_size: int | None,
        dtype: np.dtype[Any],
        num_threads: int,
        validate: Callable[..., Array],
    ) -> None: ...
    def step(self, x: Any, out: Any = None, extra: tuple[Array, ...] = ()) -> Array: ...
    def steps(self, x: Any, out: Any = None, extra: tuple[Array, ...] = ()) -> Array: ...
    def load(self, weights: Sequence[Weights]) -> None: ...

def sample(x: Array) -> int: ...
def new_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array: ...
def explain(
    cell: Cell, weights: Weights, steps: int, batch: int, *, tokens: bool, tape: bool, packed: bool, num_threads: int
) -> dict[str, str]: ...
def borrow_threads(parallel: int, team_size: int) -> None: ...
def softmax(z: Array, scale: float, *, num_threads: int = 1) -> tuple[Array, Array, Array]: ...
def scatter_add(rows: Array, tokens: Array, count: int) -> Array: ...
def adam(
    p: Array,
    grad: Array,
    mean: Array,
    square: Array,
    *,
    beta1: float,
    beta2: float,
    correction: float,
    eps: float,
    rate: float,
    kept: float,
) -> bool: ...
def multiply(
    a: Array,
    b: Array,
    bias: Array | None = None,
    *,
    num_threads: int = 1,
    out: Array | None = None,
    add: bool = False,
) -> Array: ...

TWO_AT_ONCE: dict[tuple[int, int, int], int]  # operations that are one instruction, for tests

def with_two_at_once(instructions: Sequence[Any]) -> list[tuple[Any, ...]]: ...
def run_on_arrays(program: ArrayProgram, *arrays: Array) -> Array: ...
def activation(name: str, a: Array, isa: str, b: Array | None = None, c: Array | None = None) -> Array: ...
def _override(**values: int) -> dict[str, int]: ...
def _numbers() -> dict[str, int]: ...
