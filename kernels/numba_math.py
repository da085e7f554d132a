"""exp, sigmoid and tanh of a vector: branch-free, a few ulp everywhere; NaN stays NaN, nothing overflows.

Write y = n log(2) + r with an integer n and |r| <= log(2) / 2. Then

    exp(y) = 2^n exp(r)      expm1(y) = 2^n expm1(r) + (2^n - 1)      expm1(r) = r + r^2 (1/2! + r/3! + r^2/4! + ...)

and expm1 keeps its relative accuracy near 0, where 1 - exp(y) would lose all of it.
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
    """Return 2^n and expm1(r)."""
    raise NotImplementedError("runs in compiled code only")


@overload(_split_exp, jit_options={"forceinline": True})
def _split_exp_overload(y: Any) -> Callable[..., Any]:
    if y.dtype.bitwidth == 32:
        magic = 1.5 * 2**23 + 127  # y / log(2) + magic holds n + 127, the biased exponent of 2^n, in its low bits
        low, high = -87.5, 88.3  # 2^n from 0 or a tiny number to 2^127
        ln2_high, ln2_low = 0.693359375, math.log(2) - 0.693359375  # n * ln2_high is exact
        inverse_factorials = tuple(1 / math.factorial(k) for k in range(7, 1, -1))
    else:
        magic = 1.5 * 2**52 + 1023
        low, high = -708.5, 709.4
        ln2_high = 0.693145751953125
        ln2_low = 1.42860682030941723212e-6
        inverse_factorials = tuple(1 / math.factorial(k) for k in range(13, 1, -1))
    leading, others = inverse_factorials[0], inverse_factorials[1:]
    log2_e = 1 / math.log(2)

    def split_exp(y: Any) -> Any:
        y = minimum(maximum(y, low), high)
        shifted = fma(y, log2_e, magic)
        n = shifted - magic
        r = fma(n, -ln2_low, fma(n, -ln2_high, y))
        series = fma(r, leading, others[0])
        for coefficient in others[1:]:
            series = fma(series, r, coefficient)
        return power_of_two(shifted), fma(series * r, r, r)

    return split_exp


@inlined
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    scale, expm1_r = _split_exp(0.0 - x)
    return 1.0 / (1.0 + fma(scale, expm1_r, scale))


@inlined
def tanh(x):
    """-t / (2 + t) with t = expm1(-2 |x|), and the sign of x."""
    scale, expm1_r = _split_exp(absolute(x) * -2.0)
    t = fma(scale, expm1_r, scale - 1.0)
    return copysign(t / (2.0 + t), x)
