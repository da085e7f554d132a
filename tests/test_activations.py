"""sigmoid and tanh of the C kernels: a few ulp everywhere, exact at the ends, on every instruction set."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from exhaustive_ulp import FUNCTIONS, LIMIT, instruction_sets, sample, worst_of

from fastrnn.backends import load

pytestmark = pytest.mark.parametrize("backend", ["cython"], indirect=True)
functions = pytest.mark.parametrize("name", FUNCTIONS)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


@functions
@dtypes
def test_few_ulp(backend: str, name: str, dtype: str, require: Callable[[bool, str], None]) -> None:
    require(dtype == "float32" or np.finfo(np.longdouble).nmant > 60, "long double has no more bits than double here")
    worst = worst_of(name, sample(dtype, 250 if dtype == "float32" else 20))
    assert all(its.error <= LIMIT[dtype] for its in worst.values()), worst
    assert max(its.error for its in worst.values()) > 1, "so small an error was not measured"


@functions
@dtypes
def test_exact_at_the_ends(backend: str, name: str, dtype: str) -> None:
    tiny = float(np.finfo(dtype).smallest_normal)
    a = np.array([0.0, -0.0, tiny, -tiny, 40, -40, -750, 1e30, -1e30, np.inf, -np.inf, np.nan], dtype)
    want = {
        "sigmoid": [0.5, 0.5, 0.5, 0.5, 1, 1 / (1 + np.exp(40)), 0, 1, 0, 1, 0, np.nan],
        "tanh": [0.0, -0.0, tiny, -tiny, 1, -1, -1, 1, -1, 1, -1, np.nan],
    }
    for isa in instruction_sets():
        got = load(backend).activation(name, a, isa)
        np.testing.assert_allclose(got, np.array(want[name], dtype), rtol=3 * np.finfo(dtype).eps, atol=0, err_msg=isa)
        assert got[10] == (0 if name == "sigmoid" else -1)
        assert np.signbit(got[1]) == (name == "tanh")


@functions
@dtypes
def test_an_element_depends_on_no_other(backend: str, name: str, dtype: str) -> None:
    a = np.random.default_rng(0).permutation(sample(dtype, 1))[:4000]
    for isa in instruction_sets():
        together = load(backend).activation(name, a, isa)
        alone = [load(backend).activation(name, a[i : i + 1], isa)[0] for i in range(a.size)]
        np.testing.assert_array_equal(together, np.array(alone))
