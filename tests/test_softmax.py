"""The softmax of rows, on whatever a backend has for it: values, extremes, instruction sets, the same bits anyhow."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from problems import run_python

import fastrnn
from fastrnn import ops
from fastrnn.backends import BACKENDS, load
from fastrnn.parameters import Array

backends = pytest.mark.parametrize("backend", list(BACKENDS), indirect=True)
SHAPES = [(1, 1), (4, 1), (1, 5), (3, 15), (2, 16), (5, 17), (40, 27), (3, 100), (2, 1000)]


def assert_softmax(z: Array, scale: float = 0.25) -> None:
    p, top, total = ops.softmax(z, scale)
    assert p.dtype == top.dtype == total.dtype == z.dtype
    below = (z - z.max(axis=1, keepdims=True)).astype(np.longdouble)  # rounded as every backend must
    e = np.exp(below)
    e[below < np.log(np.finfo(z.dtype).tiny)] = 0  # too small for a normal number
    few = 8 * np.finfo(z.dtype).eps
    np.testing.assert_array_equal(top, z.max(axis=1))
    np.testing.assert_allclose(total, e.sum(axis=1).astype(z.dtype), few)
    want = (scale * e / e.sum(axis=1, keepdims=True)).astype(z.dtype)
    np.testing.assert_allclose(p, want, few, np.finfo(z.dtype).tiny)


@backends
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 30, 1000])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_numpy(backend: str, dtype: str, size: float, shape: tuple[int, int]) -> None:
    z = (np.random.default_rng(0).standard_normal(shape) * size).astype(dtype)
    z.flags.writeable = False
    with fastrnn.use_backend(backend):
        assert_softmax(z)


@backends
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extremes(backend: str, dtype: str) -> None:
    z = np.array([[0, -np.inf, 3e38, 1], [np.nan, 1, 2, 3], [-3e38, -3e38, -3e38, -3e38]], dtype)
    with fastrnn.use_backend(backend), np.errstate(invalid="ignore", under="ignore"):
        p, _, total = ops.softmax(z, 1.0)
    np.testing.assert_array_equal(p[[0, 2]], [[0, 0, 1, 0], [0.25, 0.25, 0.25, 0.25]])
    assert np.isnan(p[1]).all()
    np.testing.assert_array_equal(total, [1, np.nan, 4])


@pytest.mark.parametrize("backend", ["cython"], indirect=True)
def test_same_bits_for_any_number_of_threads_and_rows(backend: str, restored: None) -> None:
    z = np.random.default_rng(1).standard_normal((5001, 27), dtype=np.float32)
    alone = ops.softmax(z, 1.0)
    for threads in (1, 2, 3):
        fastrnn.set_num_threads(threads)
        for rows in (slice(None), slice(77, 78), slice(13, 60)):
            for got, want in zip(ops.softmax(z[rows], 1.0), alone, strict=True):
                np.testing.assert_array_equal(got, want[rows])


@pytest.mark.parametrize("backend", ["cython"], indirect=True)
@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(backend: str, level: str, tmp_path: Path) -> None:
    state = re.search(rf"\b{level}: ([^,;]*)", load(backend).describe())
    if state is None or state[1] not in ("runs", "used"):
        pytest.skip(f"{level} is {'not of this machine' if state is None else state[1]}")
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_softmax import SHAPES, assert_softmax
import fastrnn, numpy as np
fastrnn.use_backend({backend!r})
assert "{level}: used" in str(fastrnn.info())
for shape in SHAPES:
    for dtype in ("float32", "float64"):
        assert_softmax((np.random.default_rng(0).standard_normal(shape) * 30).astype(dtype))
print("equal")
"""
    result = run_python(code, tmp_path, FASTRNN_ISA=level)
    assert result.stdout == "equal\n", result.stderr
