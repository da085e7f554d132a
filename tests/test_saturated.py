"""Gates far from zero: values and gradients of every cell of the library stay numbers, in float32 too."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tolerances import assert_close

import fastrnn
from fastrnn.backends import BACKENDS, info, load
from fastrnn.cells import BESIDE, LIBRARY, WrittenCell, lstm_with, rnn_with
from fastrnn.cells.library.activations import ACTIVATIONS
from fastrnn.parameters import Array

T, N, H = 4, 6, 9
CELLS: dict[str, WrittenCell] = LIBRARY | BESIDE
CELLS |= {name: rnn_with(name) for name in ACTIVATIONS if name != "exponential"}  # which overflows by what it is
CELLS["clipped_lstm"] = lstm_with("hard_sigmoid", "softsign", "gelu", clip=50.0, peepholes=True)
RUNS_NUMBA = any(status.runs and status.name == "numba" for status in info().backends)
REFUSED = {name for name, cell in CELLS.items() if RUNS_NUMBA and load("numba").why_not_program(cell)}
PAIRS = [(backend, name) for backend in BACKENDS for name in CELLS if backend != "numba" or name not in REFUSED]


def run(cell: WrittenCell, backend: str, dtype: str, size: float | None, begin: float) -> dict[str, Array]:
    """Everything that forward and backward return, of gates that x sets one by one to 1 or far from it."""
    rng = np.random.default_rng(0)
    noise = 0.4 if cell.noise else None
    G = len(cell.gates_ih)
    module = fastrnn.Recurrent(cell, G * H, H, dtype=dtype, backend=backend, seed=0, noise=noise)
    module.parameters["weight_ih_l0"] = np.eye(G * H, dtype=dtype)
    if cell.parameters:
        module.parameters["unit_l0"] = rng.choice([-100, -1, 1, 100], (len(cell.parameters), H)).astype(dtype)
    sizes = [1.0, 30.0, 90.0, 1e4] if size is None else [size]
    x = (rng.choice([-1, 1], (T, N, G * H)) * rng.choice(sizes, (T, N, G * H))).astype(dtype)
    extra = {name: rng.choice([0.0, 1.0, 1e4], (T, N)).astype(dtype) for name in cell.extra} or None
    state = [(begin * rng.uniform(0.5, 1.5, (1, N, H))).astype(dtype) for _ in cell.states]
    y, state_n, tape = module.forward(x, state[0] if len(state) == 1 else tuple(state), extra=extra)
    dy, dstate = (rng.standard_normal((count, *y.shape[-2:])).astype(dtype) for count in (T, len(state)))
    dx, dstate_0, grads = module.backward(tape, dy, dstate[:1] if len(state) == 1 else tuple(dstate[:, None]))
    pairs = [(state_n, dstate_0)] if len(state) == 1 else zip(state_n, dstate_0, strict=True)
    found = {"y": y, "dx": dx} | grads
    for k, (value, gradient) in enumerate(pairs):
        found |= {f"state_{k}": value, f"dstate_{k}": gradient}
    return found


@pytest.mark.parametrize(("backend", "name"), PAIRS, indirect=["backend"])
def test_saturated_gates_have_numbers(backend: str, name: str) -> None:
    for size, begin in itertools.product((None, 100.0, 1e4), (0.0, 1.0)):
        got = run(CELLS[name], backend, "float32", size, begin)
        want = run(CELLS[name], "numpy", "float64", size, begin)
        for key, value in want.items():
            assert np.isfinite(value).all(), f"{key} of the reference at {size}, {begin}"
            # Of sums of 1e4 that cancel, float32 leaves 1e-3 of 1.
            assert_close(f"{key} at {size}, {begin}", got[key], value, 5e-3 * max(1.0, float(np.abs(value).max())))
