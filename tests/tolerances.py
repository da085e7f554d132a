"""The one table of tolerances, and the comparison that uses it.

Derivation. Write eps for the spacing of the dtype at 1. A sum of L products in any order has an error of about
eps * sqrt(L) times the size of the terms (rounding errors are independent enough to add up like a random walk; the
worst case, eps * L, is not met). Weights are drawn so that an error made in one step does not grow in later ones
(`problems.make`): the steps add up in the same way, and L counts every addition on the longest path to an element:

    y, h_n, c_n               T * (I + H + 2)    the two products and biases of every step
    dx, dh_0, dc_0            + T * G * H        the product with the transposed weights of every step
    gradients of the weights  + T * N            the sum over steps and rows

The size of the terms is max(1, max|want|): inputs and incoming gradients are O(1), and an element that is smaller is so
because terms cancelled. With eps * sqrt(L) * size as the unit, the point functions contribute the rest: a sigmoid or
tanh of 5 ulp, and products of up to four of them in a gate gradient, whose error 1 - s carries over. On thousands of
random problems NumPy's reference in float32 stayed below 0.6 units of itself in float64, and the kernels below 1.1.
A wrong formula is off by some 1e4 units in float32.

Measured beside that: the largest errors of the C kernels (AMX and AVX-512) and of PyTorch 2.13 in float32 against the
float64 reference, on the problems of `problems.make` over the benchmarks' grid (python tests/accuracy.py). 1e-7 times
the errors at T 100, N 32, I = H = 128, the larger of the outputs of a row; and ours over PyTorch's on all 13 shapes, as
geometric mean and largest (of H = 1024, or of a single step). Each element is one chain of additions here, where
PyTorch adds up blocks. On Numba the mean over all is 0.9, 1.4 and 1.4 on the shapes of tests/test_accuracy.py.

                    LSTM                     GRU                      RNN
    y, h_n, c_n     11 / 11    1.0 (2.1)     9.8 / 11   1.4 (2.4)     20 / 15    1.4 (2.4)
    dx, dh_0, dc_0  4.1 / 5.4  1.4 (4.3)     8.1 / 7.6  1.3 (2.4)     9.7 / 7.6  1.4 (2.5)
    dweights        240 / 410  0.9 (1.5)     210 / 360  1.0 (3.6)     550 / 570  1.2 (3.1)
    dbiases         130 / 510  0.5 (1.3)     170 / 120  1.4 (3.4)     320 / 250  1.5 (3.2)
    all                        0.9                      1.3                      1.4
"""

from __future__ import annotations

import numpy as np

from fastrnn.parameters import Array

UNITS = {"float32": 2.0, "float64": 2.0}  # per dtype: the largest error, in eps * sqrt(L) * max(1, max|want|)

Outcome = dict[str, Array]  # every output and gradient of one run, by name


def tolerance(want: Array, dtype: str, length: int) -> float:
    """The largest error allowed in any element of `want`, of sums of `length` terms computed in `dtype`."""
    finite = np.abs(want[np.isfinite(want)])
    return UNITS[dtype] * float(np.finfo(dtype).eps) * max(length, 1) ** 0.5 * float(finite.max(initial=1.0))


def assert_close(name: str, got: Array, want: Array, limit: float) -> None:
    """Every element within `limit`; infinities and NaN in the same places."""
    assert got.shape == want.shape, f"{name} has shape {got.shape}; expected {want.shape}"
    with np.errstate(invalid="ignore"):
        error = np.abs(got.astype(want.dtype) - want)
    error[(got == want) | (np.isnan(got) & np.isnan(want))] = 0  # equal infinities differ by NaN
    error[np.isnan(error)] = np.inf
    if error.size and error.max() > limit:
        worst = tuple(int(i) for i in np.unravel_index(error.argmax(), error.shape))
        count = np.count_nonzero(error > limit)
        raise AssertionError(
            f"{name}{list(worst)} is {got[worst]!r}; expected {want[worst]!r}, "
            f"off by {error[worst]:.3g} > {limit:.3g}, as are {count} of {error.size} elements"
        )


def assert_same_bits(name: str, got: Array, want: Array) -> None:
    """Every element `==`; NaN equals NaN."""
    assert got.dtype == want.dtype, f"{name} has dtype {got.dtype}; expected {want.dtype}"
    assert_close(name, got, want, 0.0)
