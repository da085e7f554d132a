"""Weights of fewer bits on kernels: the integers of the reference exactly, its floats to rounding, on every CPU."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from closed_pages import before_a_closed_page, needs_closed_pages
from problems import Problem, clean_environ, make, run_python
from tolerances import assert_close, assert_same_bits, tolerance
from watched import run_watched

from fastrnn import reference
from fastrnn.backends import load
from fastrnn.cells import CELLS, State, Weights
from fastrnn.narrow import NarrowWeight, as_bfloat16, as_int8, narrow
from fastrnn.parameters import Array

cython = pytest.mark.parametrize("backend", ["cython"], indirect=True)
cells = pytest.mark.parametrize("cell", list(CELLS))
precisions = pytest.mark.parametrize("precision", ["bfloat16", "int8"])

# N, I, H: remainders of I and H in an element, a vector, a panel; of N in a tile, and rows that are taken in pairs.
SIZES = [
    (1, 1, 1),
    (1, 5, 7),
    (1, 64, 130),
    (2, 4, 33),
    (3, 3, 64),
    (6, 9, 17),
    (7, 130, 65),
    (13, 2, 200),
    (53, 31, 48),
]


def infer(problem: Problem, weights: Any, backend: str = "cython", **options: Any) -> tuple[Array, State]:
    """y and the final state of narrow weights."""
    given = {"num_threads": 1, **problem.order, **options}
    y, state, tape = load(backend).forward(problem.cell, problem.x, problem.state, weights, tape=False, **given)
    assert tape is None
    return y, state


def assert_same_outcome(got: tuple[Array, State], want: tuple[Array, State], limit: float = 0) -> None:
    for name, array, right in zip(["y", "h_n", "c_n"], [got[0], *got[1]], [want[0], *want[1]], strict=False):
        assert_close(name, array, right, limit)


# ---- the definition


def test_bfloat16_is_the_nearest_to_even() -> None:
    rng = np.random.default_rng(0)
    a = (rng.standard_normal(10_000) * 2.0 ** rng.integers(-100, 100, 10_000)).astype(np.float32)
    halves = as_bfloat16(a)
    rounded, unit = NarrowWeight(halves).wide().astype(np.float64), 2.0 ** (np.floor(np.log2(np.abs(a))) - 7)
    assert (np.abs(rounded - a) <= unit / 2).all()
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8], np.float32)
    assert NarrowWeight(as_bfloat16(ties)).wide().tolist() == [1, 1 + 2**-6, -1]
    special = np.array([np.inf, -np.inf, np.nan, 0, 3.4e38], np.float32)
    want = np.array([np.inf, -np.inf, np.nan, 0, np.inf], np.float32)
    assert_same_bits("special", NarrowWeight(as_bfloat16(special)).wide(), want)
    quiet = np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(
        np.float32
    )  # whose upper halves alone are infinity and NaN
    assert np.isnan(NarrowWeight(as_bfloat16(quiet)).wide()).all()


def test_int8_is_within_half_a_scale() -> None:
    a = (np.random.default_rng(0).standard_normal((50, 37)) * 2.0 ** np.arange(-25, 25)[:, None]).astype(np.float32)
    integers, scales = as_int8(a)
    assert integers.dtype == np.int8
    assert scales.dtype == np.float32
    assert (np.abs(integers).max(axis=1) == 127).all()
    assert (np.abs(integers.astype(float) * scales[:, None] - a) <= scales[:, None] * 0.5001).all()


def test_int8_rows_that_do_not_count_or_are_not_finite() -> None:
    rows = np.array([[0, 0], [1e-38, -1e-39], [2.0**-100, 0], [3.4e38, -3.4e38], [np.inf, 1], [1, np.nan]], np.float32)
    integers, scales = as_int8(rows)
    assert integers.tolist() == [[0, 0], [0, 0], [127, 0], [127, -127], [0, 0], [0, 0]]
    assert (scales[:2] == 0).all()
    assert (scales[2:4] > 0).all()
    assert np.isnan(scales[4:]).all()


def test_products_are_those_of_what_the_numbers_stand_for() -> None:
    rng = np.random.default_rng(1)
    a, w = rng.standard_normal((5, 9)).astype(np.float32), rng.standard_normal((7, 9)).astype(np.float32)
    for precision in ("bfloat16", "int8"):
        weight: Any = narrow(Weights(w, w), precision).ih
        assert (weight.precision, weight.shape, weight.size) == (precision, w.shape, w.size)
        assert weight.nbytes == {"bfloat16": 2 * w.size, "int8": w.size + 4 * len(w)}[precision]
        left = NarrowWeight(*(as_int8(a) if precision == "int8" else (as_bfloat16(a),))).wide()
        assert_close("product", a @ weight.T, left.astype(float) @ weight.wide().T.astype(float), 1e-5)
        assert_same_bits("columns", weight.T[np.array([3, 0])], weight.wide()[:, [3, 0]].T)


# ---- the kernels


@cython
@cells
@precisions
@pytest.mark.parametrize("tokens", [False, True], ids=["dense", "tokens"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_step_equals_the_reference(
    backend: str, cell: str, precision: str, tokens: bool, bias: bool, size: tuple[int, int, int]
) -> None:
    """One step: in the next one a state that is rounded otherwise may round to another integer."""
    problem = make(cell, 1, *size, dtype="float32", tokens=tokens, bias=bias)
    weights = narrow(problem.weights, precision)
    want = infer(problem, weights, "numpy")
    assert_same_outcome(infer(problem, weights, backend), want, tolerance(want[0], "float32", sum(size[1:]) + 2))


@cython
@precisions
@pytest.mark.parametrize("size", [(1, 5, 20), (6, 70, 33)], ids=str)
def test_a_projected_step_equals_the_reference(backend: str, precision: str, size: tuple[int, int, int]) -> None:
    problem = make("lstm", 1, *size, dtype="float32", proj_size=13)
    weights = narrow(problem.weights, precision)
    want = infer(problem, weights, "numpy")
    assert_same_outcome(infer(problem, weights, backend), want, tolerance(want[0], "float32", sum(size[1:]) + 15))


@cython
@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 63, 64, 65, 1000])
@pytest.mark.parametrize("rows", [1, 2, 6, 17])
@pytest.mark.parametrize("kind", ["random", "largest", "opposite", "alternating"])
def test_sums_of_int8_are_exact(backend: str, columns: int, rows: int, kind: str) -> None:
    """Integers up to 127, whose scales are 1: a rectifier without biases gives their sums, which float32 holds."""
    rng = np.random.default_rng(columns)
    H = 21
    x, w = (rng.integers(-127, 128, shape).astype(np.float32) for shape in ((rows, columns), (H, columns)))
    if kind != "random":
        x[:], w[:] = 127, -127 if kind == "opposite" else 127
    if kind == "alternating":
        x[:, ::2] *= -1
        w[:, 1::3] *= -1
    x[:, 0] = w[:, 0] = 127
    w[H // 2 :] *= -1
    weights = narrow(Weights(w, np.zeros((H, H), np.float32)), "int8")
    y, _, _ = load(backend).forward(
        CELLS["rnn_relu"], x[None], (np.zeros((rows, H), np.float32),), weights, tape=False, num_threads=1
    )
    assert_same_bits("y", y[0], np.maximum(x.astype(np.int64) @ w.astype(np.int64).T, 0).astype(np.float32))


@cython
def test_rows_of_bfloat16_are_rounded_as_weights_are(backend: str) -> None:
    """Bit for bit, one number a row, which a weight of one hands on."""
    rng = np.random.default_rng(3)
    x = np.abs(rng.standard_normal(2_000) * 2.0 ** rng.integers(-60, 60, 2_000)).astype(np.float32)
    bits = x.view(np.uint32)
    bits[:500] = bits[:500] & 0xFFFF0000 | 0x8000  # ties
    bits[500:505] = [0x7F800000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F7FFFFF]
    one = np.ones((1, 1), np.float32)
    weights = narrow(Weights(one, one), "bfloat16")
    state = (np.zeros((len(x), 1), np.float32),)
    y, _, _ = load(backend).forward(CELLS["rnn_relu"], x[None, :, None], state, weights, tape=False, num_threads=1)
    assert_same_bits("y", y[0, :, 0], NarrowWeight(as_bfloat16(x)).wide())


@cython
def test_rows_of_int8_are_rounded_to_even(backend: str) -> None:
    """A row's largest is 127, so that its scale is one; the other number meets a weight of 127."""
    values = np.concatenate([np.arange(-126.5, 127, 0.5), np.linspace(-127, 127, 997)]).astype(np.float32)
    x = np.stack([np.full_like(values, 127), values], axis=1)
    w = np.array([[0, 127], [0, -127]], np.float32)
    weights, state = narrow(Weights(w, np.zeros((2, 2), np.float32)), "int8"), (np.zeros((len(x), 2), np.float32),)
    y, _, _ = load(backend).forward(CELLS["rnn_relu"], x[None], state, weights, tape=False, num_threads=1)
    assert_same_bits("y", y[0, :, 0] - y[0, :, 1], 127 * np.rint(values))


@cython
@cells
@precisions
@pytest.mark.parametrize("size", [(1, 5, 40), (1, 40, 200), (2, 4, 33), (7, 9, 65), (23, 70, 17)], ids=str)
def test_same_bits_however_the_work_is_cut(backend: str, cell: str, precision: str, size: tuple[int, int, int]) -> None:
    problem = make(cell, 7, *size, dtype="float32")
    weights, module = narrow(problem.weights, precision), load(backend)
    want = infer(problem, weights)
    packed = module.pack(problem.cell, weights, num_threads=2)
    assert_same_outcome(infer(problem, None, packed=packed), want)
    before = module._override(FLOPS_WORTH_A_THREAD=0)
    try_threads = [infer(problem, None, packed=packed, num_threads=n) for n in (1, 2, 3)]
    fused = module._override(ROWS_WORTH_FUSING=0, PAIRS=0)
    try_threads.append(infer(problem, None, packed=packed))
    module._override(**before, **fused)
    for got in try_threads:
        assert_same_outcome(got, want)
    state, ys = problem.state, []
    for x in problem.x:
        y, state, _ = module.forward(problem.cell, x[None], state, weights, tape=False, num_threads=1)
        ys.append(y)
    assert_same_outcome((np.concatenate(ys), state), want)
    one = problem.rows(slice(0, 1))
    one = one.with_inputs({name: np.ascontiguousarray(array) for name, array in one.inputs().items()})
    assert_same_bits("row", infer(one, weights)[0], np.ascontiguousarray(want[0][:, :1]))


@cython
@cells
@precisions
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("tokens", [False, True], ids=["dense", "tokens"])
def test_lengths_and_direction(backend: str, cell: str, precision: str, reverse: bool, tokens: bool) -> None:
    """Row by row what the sequence alone gives, turned around by hand."""
    problem = make(cell, 6, 9, 11, 37, dtype="float32", ragged=True, reverse=reverse, tokens=tokens)
    weights = narrow(problem.weights, precision)
    y, state = infer(problem, weights)
    starts = np.concatenate([[0], np.cumsum(problem.batch_sizes)])[:-1]
    for n in range(9):
        at = [int(start + n) for start, count in zip(starts, problem.batch_sizes, strict=True) if count > n]
        order = at[::-1] if reverse else at
        state_0 = tuple([s[n : n + 1] for s in problem.state])
        its_y, its_state, _ = load(backend).forward(
            problem.cell, problem.x[order][:, None], state_0, weights, tape=False, num_threads=1
        )
        assert_same_bits(f"y of {n}", y[order], its_y[:, 0])
        for got, right in zip(state, its_state, strict=True):
            assert_same_bits(f"state of {n}", got[n], right[0])


@cython
@cells
@precisions
@pytest.mark.parametrize("size", [(0, 3, 4, 5), (4, 0, 3, 5), (0, 0, 2, 3)], ids=str)
def test_nothing_to_do(backend: str, cell: str, precision: str, size: tuple[int, int, int, int]) -> None:
    problem = make(cell, *size, dtype="float32")
    y, state = infer(problem, narrow(problem.weights, precision))
    assert y.shape == (size[0], size[1], size[3])
    assert_same_bits("h_n", state[0], problem.state[0])


@cython
@cells
@precisions
@pytest.mark.parametrize("spoilt", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(backend: str, cell: str, precision: str, spoilt: float) -> None:
    problem = make(cell, 4, 8, 9, 33, dtype="float32")
    weights = narrow(problem.weights, precision)
    want = infer(problem, weights)[0]
    problem.x[1, 3, 4] = spoilt
    with np.errstate(invalid="ignore"):
        right = infer(problem, weights, "numpy")[0]
    y = infer(problem, weights)[0]
    others = np.arange(8) != 3
    assert_same_bits("others", y[:, others], want[:, others])
    assert_same_bits("before", y[0], want[0])
    assert np.isnan(right[1, 3]).any() or np.isinf(spoilt)
    assert (np.isnan(y[1, 3]) == np.isnan(right[1, 3])).all()


@cython
@precisions
@pytest.mark.parametrize("scale", [0, 1e-44, 1e-39, 1e-30, 1e30, 3e38])
def test_small_and_large_numbers(backend: str, precision: str, scale: float) -> None:
    """Zeros, denormals, and what is near overflow: as the reference, where denormals are zero or their sums are."""
    problem = make("gru", 1, 7, 12, 18, dtype="float32")
    problem.x[0, :4] = (problem.x[0, :4].astype(float) / 2 * scale).astype(np.float32)
    weights = narrow(problem.weights, precision)
    with np.errstate(over="ignore"):
        want = infer(problem, weights, "numpy")
    assert np.isfinite(want[0]).all()
    assert_same_outcome(infer(problem, weights), want, 3e-6)


@cython
@cells
@precisions
def test_errors_are_those_of_so_many_bits(backend: str, cell: str, precision: str) -> None:
    problem = make(cell, 30, 5, 40, 64, dtype="float32")
    exact = reference.forward(problem.cell, problem.x, problem.state, problem.weights, tape=False)[0]
    error = np.abs(infer(problem, narrow(problem.weights, precision))[0] - exact)
    of = exact if cell == "rnn_relu" else np.ones(1)
    most = {"bfloat16": 0.02, "int8": 0.06}[precision] * float(np.abs(of).max())
    assert most / 500 < error.max() < most


@cython
@precisions
def test_misfits_are_refused(backend: str, precision: str) -> None:
    problem = make("lstm", 3, 2, 4, 5, dtype="float32")
    module, weights = load(backend), narrow(problem.weights, precision)
    cell = problem.cell
    wrong: list[Any] = [
        weights._replace(hh=problem.weights.hh),
        weights._replace(hh=NarrowWeight(weights.hh.values[:, :-1].copy(), weights.hh.scale)),
        weights._replace(ih=NarrowWeight(weights.ih.values.astype(np.int16), weights.ih.scale)),
        weights._replace(ih=NarrowWeight(weights.ih.values[::2], weights.ih.scale)),
        weights._replace(bias_ih=weights.bias_ih[:-1]),
        weights._replace(hr=np.zeros((2, 5), np.float32)),
    ]
    if precision == "int8":
        wrong.append(weights._replace(ih=NarrowWeight(weights.ih.values, weights.ih.scale[:-1])))
    for each in wrong:
        with pytest.raises(ValueError, match=r"fit one another|fewer bits"):
            module.pack(cell, each)


@needs_closed_pages
@cython
@cells
@precisions
def test_nothing_is_read_beyond_an_array(backend: str, cell: str, precision: str) -> None:
    for size in [(2, 1, 1, 1), (3, 3, 5, 17), (1, 7, 64, 65), (4, 2, 9, 6)]:
        problem = make(cell, *size, dtype="float32")
        weights: Any = narrow(problem.weights, precision)
        closed = [
            NarrowWeight(before_a_closed_page(w.values), None if w.scale is None else before_a_closed_page(w.scale))
            for w in (weights.ih, weights.hh)
        ]
        x, state = before_a_closed_page(problem.x), tuple([before_a_closed_page(s) for s in problem.state])
        its = weights._replace(ih=closed[0], hh=closed[1])
        y, _, _ = load(backend).forward(problem.cell, x, state, its, tape=False, num_threads=1)
        assert_same_bits("y", y, infer(problem, weights)[0])


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx"])
@cython
def test_again_on_every_instruction_set(backend: str, level: str, tmp_path: Path) -> None:
    state = re.search(rf"\b{level}: ([^,;]*)", load(backend).describe())
    if state is None or state[1] != "runs":
        pytest.skip(f"{level} is {'not of this machine' if state is None else state[1]}")
    code = f"from fastrnn.backends import load; print(load({backend!r}).describe())"
    assert f"{level}: used" in run_python(code, tmp_path, FASTRNN_ISA=level).stdout
    settings = ["-q", "-p", "no:cacheprovider", "-c", Path(__file__).parents[1] / "pyproject.toml"]
    files = [__file__, str(Path(__file__).with_name("test_narrow_training.py"))]
    command = [sys.executable, "-m", "pytest", *settings, "-k", "not again and not no_bias", *files]
    environ = clean_environ(FASTRNN_REQUIRE_ALL="1", FASTRNN_ISA=level)
    result = run_watched(command, 400, cwd=tmp_path, env=environ)
    assert result.returncode == 0, result.stdout
