"""Dense products, on whatever a backend has for them: values, layouts, and the same bits for any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from tolerances import assert_close, tolerance

from fastrnn import ops
from fastrnn.backends import BACKENDS
from fastrnn.parameters import Array

SHAPES = [
    (1, 1, 1),
    (0, 3, 4),
    (3, 0, 4),
    (3, 4, 0),
    (5, 7, 3),
    (13, 16, 17),
    (33, 65, 64),
    (300, 129, 70),
    (64, 600, 33),
]


def laid_out(rng: np.random.Generator, rows: int, columns: int, transposed: bool, dtype: str) -> Array:
    array = rng.standard_normal((columns, rows) if transposed else (rows, columns)).astype(dtype)
    array.flags.writeable = False
    return array.T if transposed else array


@pytest.mark.parametrize("backend", list(BACKENDS), indirect=True)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["x W^T", "dy W", "dy^T x"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_product_equals_numpy_in_float64(
    backend: str, dtype: str, layout: str, bias: bool, shape: tuple[int, int, int]
) -> None:
    rng = np.random.default_rng(0)
    rows, k, columns = shape
    a = laid_out(rng, rows, k, layout == "dy^T x", dtype)
    b = laid_out(rng, k, columns, layout == "x W^T", dtype)
    offset = rng.standard_normal(columns).astype(dtype) if bias else None
    got = ops.multiply(a, b, offset, backend=backend, num_threads=1)
    want = a.astype("float64") @ b.astype("float64") + (0 if offset is None else offset)
    assert got.dtype == dtype
    assert_close("product", got, want, tolerance(want, dtype, k + 1))


@pytest.mark.parametrize("backend", ["cython"], indirect=True)
@pytest.mark.parametrize("num_threads", [2, 3, 5])
def test_same_bits_for_any_number_of_threads_and_rows(backend: str, num_threads: int) -> None:
    rng = np.random.default_rng(1)
    a, b = laid_out(rng, 501, 200, False, "float32"), laid_out(rng, 200, 150, True, "float32")
    alone = ops.multiply(a, b, backend=backend, num_threads=1)
    np.testing.assert_array_equal(ops.multiply(a, b, backend=backend, num_threads=num_threads), alone)
    np.testing.assert_array_equal(ops.multiply(a[77:78], b, backend=backend, num_threads=num_threads), alone[77:78])
