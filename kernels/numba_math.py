"""sigmoid and tanh of a vector: branch-free, a few ulp everywhere; NaN stays NaN, nothing overflows.

Write y = n log(2) + r with an integer n and |r| <= log(2) / 2. Then, with the even function Q = r coth(r / 2),

    exp(y) = 2^n exp(r)      exp(r) = (Q + r) / (Q - r)

and since a division ends both functions anyway, Q is all that has to be approximated (see c/vmath.inc.h).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numba.extending import overload

from fastrnn.kernels.numba_options import inlined
from fastrnn.kernels.numba_vector import absolute, copysign, fma, maximum, minimum, power_of_two

__all__ = ["sigmoid", "tanh"]


def _split_exp(y: Any) -> Any:
    """Return 2^n, Q and r."""
    raise NotImplementedError("runs in compiled code only")


@overload(_split_exp, jit_options={"forceinline": True})
def _split_exp_overload(y: Any) -> Callable[..., Any]:
    if y.dtype.bitwidth == 32:
        magic = 1.5 * 2**23 + 127  # y / log(2) + magic holds n + 127, the biased exponent of 2^n, in its low bits
        low, high = -87.5, 88.3  # 2^n from 0 or a tiny number to 2^127
        ln2_high, ln2_low = 0.693359375, math.log(2) - 0.693359375  # n * ln2_high is exact
        coefficients = (-0.0221340937, 0.333332516)  # of r coth(r), but for the 1
    else:
        magic = 1.5 * 2**52 + 1023
        low, high = -708.5, 709.4
        ln2_high = 0.693145751953125
        ln2_low = 1.42860682030941723212e-6
        coefficients = (
            2.11873352684476783e-5, -2.11633953599198733e-4, 0.00211640202298876292, -0.0222222222216135948,
            0.333333333333332046,
        )  # fmt: skip
    degree = len(coefficients)
    leading, *others = [c * 0.5 ** (2 * (degree - i) - 1) for i, c in enumerate(coefficients)] + [2.0]
    others = tuple(others)
    log2_e = 1 / math.log(2)

    def split_exp(y: Any) -> Any:
        y = minimum(maximum(y, low), high)
        shifted = fma(y, log2_e, magic)
        n = shifted - magic
        r = fma(n, -ln2_low, fma(n, -ln2_high, y))
        square = r * r
        series = fma(square, leading, others[0])
        for coefficient in others[1:]:
            series = fma(series, square, coefficient)
        return power_of_two(shifted), series, r

    return split_exp


@inlined
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    scale, q, r = _split_exp(0.0 - x)
    return (q - r) / fma(scale, q + r, q - r)


@inlined
def tanh(x):
    """(e - 1) / (e + 1) with e = exp(2 |x|), of which nothing cancels in this form, and the sign of x."""
    scale, q, r = _split_exp(absolute(x) * 2.0)
    m = fma(scale, 0.5, -0.5)
    return copysign(fma(m, q + r, r) / fma(m, q + r, q), x)
