"""Whatever a call chooses for speed, it computes the same bits: with each choice forced, and on memory full of NaN."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from calls import Call, kinds, module_of, train
from problems import Problem, make, run
from tolerances import Outcome, assert_same_bits

import fastrnn
from fastrnn import ops, stack
from fastrnn.backends import BACKENDS, load
from fastrnn.cells import CELLS, LIBRARY

cython = pytest.mark.parametrize("backend", ["cython"], indirect=True)
kernels = pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "numpy"], indirect=True)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])

ALWAYS = 1 << 40
# The numbers of kernels/sequence.pyx that force a choice.
SWITCHES = {
    "weights packed as each step goes": {"STEPS_NOT_WORTH_PACKING": ALWAYS, "STEPS_NOT_WORTH_PACKING_LARGE": ALWAYS},
    "weights packed first": {"STEPS_NOT_WORTH_PACKING": 0, "STEPS_NOT_WORTH_PACKING_LARGE": 0},
    "units shared": {"ROWS_WORTH_A_THREAD": ALWAYS, "ROWS_WORTH_LARGE_WEIGHTS": ALWAYS},
    "batch shared": {"ROWS_WORTH_A_THREAD": 0, "ROWS_WORTH_LARGE_WEIGHTS": 0},
    "batch shared, input projected": {"ROWS_WORTH_A_THREAD": 0, "ROWS_WORTH_FUSING": ALWAYS},
    "input projected": {"ROWS_WORTH_FUSING": ALWAYS},
    "input projected step by step": {"ROWS_WORTH_FUSING": ALWAYS, "PROJECTION_BYTES": 0},
    "input taken in with h": {"ROWS_WORTH_FUSING": 0},
    "gradients of a few rows as of many": {"FEW_ROWS": 0},
    "rows without pairs of blocks": {"PAIRS": False, "ROW_VECTORS": 0},
    "rows step by step": {"ROW_VECTORS": 0},
    "rows at once, input projected": {"ROW_INPUTS": 0, "ROW_BYTES": 0},
    "rows at once, of many units, input taken in": {"ROW_VECTORS": ALWAYS, "ROW_INPUTS": ALWAYS},
    "panels fetched ahead, gradients summed up block by block": {"FETCH_BYTES": 0, "GRADIENT_BYTES": 0},
    "all weights large, no panel fetched ahead": {"LARGE_BYTES": 0, "FETCH_BYTES": ALWAYS},
}
SHAPES = [(5, 1, 3, 130), (2, 53, 5, 17), (9, 37, 33, 65), (1, 7, 4, 33), (7, 2, 16, 200), (6, 1, 40, 21)]
ORDERS: list[dict[str, Any]] = [{}, {"tokens": True}, {"ragged": True, "reverse": True}, {"proj_size": 35}]
ORDERS += [{"ragged": True, "proj_size": 3, "bias": False}]
PROBLEMS = [(cell, order) for cell in CELLS for order in ORDERS if cell == "lstm" or "proj_size" not in order]
problems = pytest.mark.parametrize(
    ("cell", "order"), PROBLEMS, ids=lambda of: of if isinstance(of, str) else "-".join(map(str, of)) or "plain"
)


@contextmanager
def overridden(**values: int) -> Iterator[None]:
    """Force choices of the C kernels' driver, and let all threads take part in whatever small work."""
    module = load("cython")
    before = module._override(FLOPS_WORTH_A_THREAD=0, **values)
    try:
        yield
    finally:
        module._override(**before)


def infer(backend: str, problem: Problem, num_threads: int, packed: bool) -> Outcome:
    """What a call without a tape gives, on weights packed before or not."""
    module = load(backend)
    options = {"packed": module.pack(problem.cell, problem.weights, num_threads=num_threads)} if packed else {}
    given = problem.cell, problem.x, problem.state, problem.weights
    y, state_n, _ = module.forward(*given, tape=False, num_threads=num_threads, **problem.order, **options)
    return {"y": y} | dict(zip(problem.cell.states, state_n, strict=True))


def shapes_of(order: dict[str, Any]) -> list[tuple[int, int, int, int]]:
    """The shapes in which there is a projection to fewer columns, if there is to be one."""
    return [shape for shape in SHAPES if order.get("proj_size", 0) < shape[3]]


@cython
@problems
@dtypes
@pytest.mark.parametrize("switch", SWITCHES)
def test_same_bits_with_a_choice_forced(
    backend: str, cell: str, order: dict[str, Any], dtype: str, switch: str
) -> None:
    if switch.startswith("gradients") and os.environ.get("FASTRNN_ISA") == "amx":
        pytest.skip("all gradients but those of a few rows are of split floats then")
    for shape in shapes_of(order):
        problem = make(cell, *shape, dtype=dtype, **order)
        want, inferred = run(backend, problem), infer(backend, problem, 1, False)
        for num_threads in (1, 3):
            with overridden(**SWITCHES[switch]):
                got = run(backend, problem, num_threads=num_threads)
                others = [infer(backend, problem, num_threads, packed) for packed in (False, True)]
            for name, array in got.items():
                assert_same_bits(f"{name} of {num_threads} threads at {shape}", array, want[name])
            for other in others:
                for name, array in other.items():
                    assert_same_bits(f"inferred {name} of {num_threads} threads at {shape}", array, inferred[name])


@cython
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("H", [3, 7, 8, 12, 16, 17, 20, 24, 36, 40, 45, 56, 93, 190])
def test_rows_at_once_are_those_step_by_step(backend: str, H: int, dtype: str) -> None:
    """Also in the columns of their direction, and where the last units fill half a vector or less."""
    rng = np.random.default_rng(0)
    tokens, x = rng.integers(0, 3, (9, 1)), rng.standard_normal((9, 1, 3)).astype(dtype)
    for kind in (fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN):
        module = kind(3, H, num_layers=2, bidirectional=True, dtype=dtype, backend=backend, seed=0)
        state = rng.standard_normal((4, 1, H)).astype(dtype)
        for given in (x, tokens):
            for start in (None, (state, state[::-1].copy()) if kind is fastrnn.LSTM else state):
                with overridden(ROW_VECTORS=0):
                    want, want_n = module(given, start)
                got, got_n = module(given, start)
                assert_same_bits("y", got, want)
                assert_same_bits("state_n", np.array(got_n), np.array(want_n))


@cython
@pytest.mark.parametrize("cell", ["min_gru", "layer_norm_lstm", "reset_before_gru"])
def test_written_cells_do_not_depend_on_caches(backend: str, cell: str) -> None:
    rng = np.random.default_rng(0)
    module = fastrnn.Recurrent(LIBRARY[cell], 5, 72, seed=0, backend=backend)
    x, dy = rng.standard_normal((9, 7, 5), "float32"), rng.standard_normal((9, 7, 72), "float32")
    found = []
    for numbers in ({}, {"GRADIENT_BYTES": 0, "FETCH_BYTES": 0}, {"PROJECTION_BYTES": 0, "LARGE_BYTES": 0}):
        with overridden(**numbers):
            y, _, tape = module.forward(x)
            dx, _, gradients = module.backward(tape, dy)
        found.append({"y": y, "dx": dx} | gradients)
    for others in found[1:]:
        for name, array in others.items():
            assert_same_bits(name, array, found[0][name])


@cython
def test_few_rows_are_no_more_than_the_kernels_have_room_for(backend: str) -> None:
    problem = make("lstm", 1, 19, 5, 400, dtype="float32")
    want = run(backend, problem)
    with overridden(FEW_ROWS=ALWAYS):
        got = run(backend, problem)
    for name, array in got.items():
        assert_same_bits(name, array, want[name])


# What memory held before


def fill_memory(value: float) -> None:
    """Let the memory that the next calls get hold a value: what is free for reuse, large and small."""
    new_array = getattr(load("cython"), "new_array", np.empty)
    sizes = [1 << k for k in range(14, 23)] + [3 << k for k in range(13, 22)]
    large = [new_array((size,), np.dtype("float32")) for size in sizes]  # in bytes 64 KB and more
    small = [np.empty(size, np.float32) for size in (*range(8, 2048, 8), *range(2048, 16384, 256)) for _ in range(3)]
    for array in large + small:
        array.fill(value)


@kernels
@problems
@dtypes
def test_nothing_depends_on_what_memory_held(backend: str, cell: str, order: dict[str, Any], dtype: str) -> None:
    for shape in [*shapes_of(order), (6, 40, 130, 200), (40, 5, 3, 37)]:
        problem = make(cell, *shape, dtype=dtype, **order)
        fill_memory(0)
        want = run(backend, problem)
        for num_threads in (1, 2):
            fill_memory(np.nan)
            for name, array in run(backend, problem, num_threads=num_threads).items():
                assert_same_bits(f"{name} at {shape}", array, want[name])


@kernels
@kinds
def test_modules_do_not_depend_on_what_memory_held(backend: str, kind: str) -> None:
    call = Call(kind, 30, 17, 9, 40, 2, bidirectional=True, ragged=True, dtype="float32")
    module, given = module_of(call, backend=backend), call.given()
    fill_memory(0)
    want = train(module, given)
    for every in (None, 4):
        fill_memory(np.nan)
        for name, array in train(module, given, every).items():
            assert_same_bits(name, array, want[name])


# What is kept between calls, and told to a backend


def test_packed_weights_belong_to_the_backend_that_packed_them() -> None:
    weights = ops.LayerWeights({"w": np.zeros((9, 3)), "v": np.zeros((9, 3))}, {"ih": "w", "hh": "v"})
    one, other = (SimpleNamespace(pack=lambda *_, by=name, **__: [by]) for name in ("one", "other"))
    for backend, by in ((one, "one"), (one, "one"), (other, "other"), (one, "one")):
        assert weights.packed(backend, CELLS["gru"], 1, 1) == ([by], (3, 3, 3))
    first, _ = weights.packed(one, CELLS["gru"], 1, 1)
    assert weights.packed(one, CELLS["gru"], 1, 1)[0] is first
    assert weights.packed(one, CELLS["gru"], 2, 1)[0] is not first


@pytest.mark.parametrize("ragged", [False, True])
def test_every_segment_of_a_checkpoint_is_told_how_many_rows_there_are(
    monkeypatch: pytest.MonkeyPatch, ragged: bool
) -> None:
    """Which products of a gradient are split is a matter of all rows: by its own a segment would choose otherwise."""
    told: list[Any] = []

    def backward(tape: Any, dy: Any, dstate: Any, dx: Any, dweights: Any, rows: int | None, *others: Any) -> Any:
        told.append(rows)
        return differentiate(tape, dy, dstate, dx, dweights, rows, *others)

    differentiate = ops.backward
    monkeypatch.setattr(stack.ops, "backward", backward)
    call = Call("gru", 20, 30, 3, 5, 2, ragged=ragged)
    train(module_of(call, backend="numpy"), call.given(), 2)
    assert len(told) > 4
    assert set(told) == {int(call.lengths.sum()) if ragged else 600}
