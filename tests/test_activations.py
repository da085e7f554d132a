"""The operations of cell programs in the kernels: a few ulp everywhere, exact at the ends, on every ISA."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from exhaustive_ulp import FUNCTIONS, limit_of, operations, sample, worst_of

from fastrnn.cells.program import Op
from fastrnn.parameters import Array

pytestmark = pytest.mark.parametrize("backend", ["cython", "numba"], indirect=True)
functions = pytest.mark.parametrize("name", FUNCTIONS)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])

# What is right to the last bit. A NaN's sign and payload do not count.
EXACT: dict[str, Callable[[Array, Array, Array], Array]] = {
    "copy": lambda a, b, c: a,
    "add": lambda a, b, c: a + b,
    "sub": lambda a, b, c: a - b,
    "mul": lambda a, b, c: a * b,
    "div": lambda a, b, c: a / b,
    "neg": lambda a, b, c: -a,
    "abs": lambda a, b, c: np.abs(a),
    "min": lambda a, b, c: np.minimum(a, b),
    "max": lambda a, b, c: np.maximum(a, b),
    "sqrt": lambda a, b, c: np.sqrt(a),
    "relu": lambda a, b, c: np.maximum(a, 0),
    "sigmoid_back": lambda a, b, c: a * (b * (1 - b)),
    "tanh_back": lambda a, b, c: a * (1 - b * b),
}
MASKS: dict[str, Callable[[Array, Array], Array]] = {"less": np.less, "less_equal": np.less_equal, "equal": np.equal}
# The product and what is added to it, of a, b and c.
FUSED: dict[str, Callable[[Array, Array, Array], tuple[Array, Array]]] = {
    "fma": lambda a, b, c: (a * b, c),
    "fnma": lambda a, b, c: (-a * b, c),
    "lerp": lambda a, b, c: (a * (b - c), c),
}


def operands(dtype: str) -> tuple[Array, Array, Array]:
    """All triples of special values, and random ones."""
    special = np.array([0, -0.0, 1, -1, 0.5, np.inf, -np.inf, np.nan], dtype)
    drawn = np.random.default_rng(0).standard_normal((3, 500)).astype(dtype)
    grids = np.meshgrid(special, special, special)
    a, b, c = (np.concatenate([grid.ravel(), values]) for grid, values in zip(grids, drawn, strict=True))
    return a, b, c


def test_every_operation_is_tested(backend: str) -> None:
    assert {op.name.lower() for op in Op} == {*EXACT, *MASKS, *FUSED, "select", *FUNCTIONS}


@functions
@dtypes
def test_few_ulp(backend: str, name: str, dtype: str, require: Callable[[bool, str], None]) -> None:
    require(dtype == "float32" or np.finfo(np.longdouble).nmant > 60, "long double has no more bits than double here")
    worst, limit = worst_of(name, sample(dtype, 250 if dtype == "float32" else 20), backend), limit_of(name, dtype)
    assert all(its.error <= limit for its in worst.values()), worst
    assert max(its.error for its in worst.values()) > limit / 3, "so small an error was not measured"


@functions
@dtypes
def test_exact_at_the_ends(backend: str, name: str, dtype: str) -> None:
    zeros, ends = {"sigmoid": 0.5, "exp": 1, "log": -np.inf, "cos": 1}, [np.inf, -np.inf]
    at_ends = {
        "sigmoid": [1, 0],
        "tanh": [1, -1],
        "exp": [np.inf, 0],
        "expm1": [np.inf, -1],
        "log": [np.inf, np.nan],
        "log1p": [np.inf, np.nan],
        "sin": [np.nan, np.nan],
        "cos": [np.nan, np.nan],
        "erf": [1, -1],
        "sqrt": [np.inf, np.nan],
    }[name]
    for isa, operation in operations(backend).items():
        got = operation(name, np.array([0.0, -0.0, *ends, np.nan], dtype))
        zero = [zeros.get(name, 0.0), zeros.get(name, -0.0)]
        np.testing.assert_array_equal(got, np.array([*zero, *at_ends, np.nan], dtype), err_msg=isa)
        np.testing.assert_array_equal(np.signbit(got[:2]), np.signbit(zero), err_msg=isa)


@dtypes
@pytest.mark.parametrize(
    ("name", "a", "want"), [("log", 1, 0), ("log", -1, np.nan), ("log1p", -1, -np.inf), ("log1p", -2, np.nan)]
)
def test_exact_within(backend: str, name: str, a: float, want: float, dtype: str) -> None:
    for isa, operation in operations(backend).items():
        np.testing.assert_array_equal(operation(name, np.array([a], dtype)), want, err_msg=isa)


@functions
@dtypes
def test_an_element_depends_on_no_other(backend: str, name: str, dtype: str) -> None:
    a = np.random.default_rng(0).permutation(sample(dtype, 1))[:4000]
    for operation in operations(backend).values():
        together = operation(name, a)
        alone = [operation(name, a[i : i + 1])[0] for i in range(a.size)]
        np.testing.assert_array_equal(together, np.array(alone))


@pytest.mark.parametrize("name", EXACT)
@dtypes
def test_exact_operations(backend: str, name: str, dtype: str) -> None:
    a, b, c = operands(dtype)
    with np.errstate(all="ignore"):
        want = EXACT[name](a, b, c)
    for isa, operation in operations(backend).items():
        np.testing.assert_array_equal(operation(name, a, b, c), want, err_msg=isa)


@pytest.mark.parametrize("name", MASKS)
@dtypes
def test_masks_have_all_bits_or_none_and_select_by_them(backend: str, name: str, dtype: str) -> None:
    a, b, c = operands(dtype)
    want = MASKS[name](a, b)
    for isa, operation in operations(backend).items():
        mask = operation(name, a, b, c)
        bits = mask.view(f"i{mask.itemsize}")
        np.testing.assert_array_equal(bits, np.where(want, -1, 0), err_msg=isa)
        selected = operation("select", mask, b, c)
        np.testing.assert_array_equal(selected, np.where(want, b, c), err_msg=isa)


@pytest.mark.parametrize("name", FUSED)
@dtypes
def test_sums_with_a_product(backend: str, name: str, dtype: str) -> None:
    a, b, c = operands(dtype)
    with np.errstate(all="ignore"):
        product, added = FUSED[name](a, b, c)
        want, bound = product + added, 2 * np.finfo(dtype).eps * (np.abs(product) + np.abs(added))
        for isa, operation in operations(backend).items():
            got = operation(name, a, b, c)
            finite = np.isfinite(want)
            np.testing.assert_array_equal(got[~finite], want[~finite], err_msg=isa)
            assert np.all(np.abs(got - want)[finite] <= bound[finite]), isa


@pytest.mark.parametrize("name", ["fma", "fnma"])
@dtypes
def test_a_product_is_rounded_once_where_the_machine_can(backend: str, name: str, dtype: str) -> None:
    info = np.finfo(dtype)
    tiny = np.ldexp(np.arange(1, 20), -(info.nmant // 2) - 6).astype(dtype)
    a, b = 1 + tiny, 1 - tiny  # whose product is 1 - tiny^2
    c = -np.ones_like(a) if name == "fma" else np.ones_like(a)
    want = -tiny * tiny if name == "fma" else tiny * tiny
    for isa, operation in operations(backend).items():
        got = operation(name, a, b, c)
        np.testing.assert_array_equal(got, want if isa != "baseline" else a * b + c if name == "fma" else c - a * b)
