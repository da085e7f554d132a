"""Elementary functions of a vector: a few ulp everywhere; NaN stays NaN, nothing overflows that need not.

Write y = n log(2) + r with an integer n and |r| <= log(2) / 2. Then, with the even function Q = r coth(r / 2),

    exp(y) = 2^n exp(r)      exp(r) = (Q + r) / (Q - r)

and since a division ends sigmoid and tanh anyway, Q is all that has to be approximated. c/vmath.inc.h says where the
coefficients come from and how large their errors are. Sigmoid and tanh are what the built-in cells consist of; the
others are for written cells. Denormal numbers, which kernels flush, count as zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from numba.extending import overload

from fastrnn.kernels.numba_options import inlined
from fastrnn.kernels.numba_vector import (
    absolute,
    all_set,
    choose,
    copysign,
    each_lane,
    exponent,
    fma,
    less,
    less_equal,
    maximum,
    minimum,
    negative,
    polynomial,
    power_of_two,
    turned,
)

__all__ = ["cos", "erf", "exp", "expm1", "log", "log1p", "sigmoid", "sin", "tanh"]


def _coth_series(*coefficients: float) -> Any:
    """Q as a function of r^2, from the coefficients of r coth(r)."""
    return polynomial(*[c * 0.5 ** (2 * i - 1) for i, c in enumerate((1.0, *coefficients))])


_SINGLE = SimpleNamespace(
    mantissa_bits=23,
    bias=127,
    shift=1.5 * 2**23,  # adding it leaves the rounded number in the low bits of the mantissa
    ln2=(0.693359375, math.log(2) - 0.693359375),  # the first times any n is exact
    sigmoid_ends=(-87.5, 88.3),  # 2^n from 0 or a tiny number to 2^127
    exp_ends=(-104.0, 89.0),  # exp is 0 below, infinite above
    smallest=2.0**-126,
    largest=(2 - 2.0**-23) * 2.0**127,
    root_of_half=0.707106769084930419921875,
    turns=6400.0,  # below 2^12 quarters of a turn
    # pi / 2: of the first parts any product with such a number of quarters is exact
    quarter_turn=tuple(map(float.fromhex, ("0x1.92p0", "0x1.fb4p-12", "0x1.444p-24", "0x1.68c234p-39"))),
    erf_end=4.0,
    coth=_coth_series(0.333332516, -0.0221340937),
    log=polynomial(0.66666776, 0.39977542, 0.29871714),
    sine=polynomial(1.0, -0.16666655, 0.008332176, -0.00019516972),
    cosine=polynomial(1.0, -0.5, 0.041666646, -0.0013887314, 2.4432906e-5),
    erf=polynomial(1.1283791, -0.37612626, 0.112835854, -0.026853815, 0.0051883305, -0.00080102024, 7.85385e-5),
    erfc=polynomial(1.8496056, 2.6389668, 0.8431176, 0.041503485, -0.009895437, 0.0018293663, -0.0001863746),
)
_DOUBLE = SimpleNamespace(
    mantissa_bits=52,
    bias=1023,
    shift=1.5 * 2**52,
    ln2=(0.693145751953125, 1.42860682030941723212e-6),
    sigmoid_ends=(-708.5, 709.4),
    exp_ends=(-746.0, 710.0),
    smallest=2.0**-1022,
    largest=(2 - 2.0**-52) * 2.0**1023,
    root_of_half=0.707106781186547524,
    turns=5e7,
    quarter_turn=tuple(
        map(float.fromhex, ("0x1.921fb54p0", "0x1.10b461p-30", "0x1.a62633p-58", "0x1.45c06e0e68948p-86"))
    ),
    erf_end=6.0,
    coth=_coth_series(
        0.333333333333332046, -0.0222222222216135948, 0.00211640202298876292, -2.11633953599198733e-4,
        2.11873352684476783e-5,
    ),
    log=polynomial(
        0.6666666666666734, 0.3999999999941555, 0.2857142874220522, 0.22222198589971837, 0.1818356357752053,
        0.15314066362849832, 0.14795824023619422,
    ),
    sine=polynomial(
        1.0, -0.16666666666666632, 0.008333333333322384, -0.00019841269829780957, 2.7557313681458947e-6,
        -2.5050756307353947e-8, 1.5896681864444867e-10,
    ),
    cosine=polynomial(
        1.0, -0.5, 0.041666666666666595, -0.001388888888887298, 2.4801587288801055e-5, -2.7557314164118804e-7,
        2.0875698713018107e-9, -1.1358423189099565e-11,
    ),
    erf=polynomial(
        1.1283791670955126, -0.3761263890318352, 0.112837916709442, -0.026866170643113415, 0.005223977606130842,
        -0.0008548325929766244, 0.0001205529358693695, -1.4924712439534814e-5, 1.6447132699786621e-6,
        -1.6206318752969208e-7, 1.3710988704190523e-8, -7.779462971761597e-10,
    ),
    erfc=polynomial(
        1.8496055099332485, 2.638967514234732, 0.8431072563618517, 0.04156109797271023, -0.010033824605816572,
        0.0019778975201874796, -0.00023730116347177112, -2.6339034574915735e-5, 2.728274040852279e-5,
        -9.789302422855495e-6, 2.2526969582640484e-6, -2.952035960734969e-7, -8.73477575279966e-9,
        1.4101082186210295e-8, -3.250740944640618e-9, 3.6855664232014855e-10, -1.7704612092565573e-11,
    ),
)  # fmt: skip


def _for_each_dtype(make: Callable[[Any], Callable[..., Any]]) -> Callable[..., Any]:
    """The function of a vector, or of two, that `make` makes of the constants of a dtype."""
    functions = {32: make(_SINGLE), 64: make(_DOUBLE)}
    if functions[32].__code__.co_argcount == 1:

        def function(a: Any) -> Any:
            raise NotImplementedError("runs in compiled code only")

        @overload(function, jit_options={"forceinline": True})
        def of_one(a):
            return functions[a.dtype.bitwidth]
    else:

        def function(a: Any, b: Any) -> Any:  # type: ignore[misc]
            raise NotImplementedError("runs in compiled code only")

        @overload(function, jit_options={"forceinline": True})
        def of_two(a, b):
            return functions[a.dtype.bitwidth]

    return function


# --- sigmoid and tanh


@_for_each_dtype
def _split_exp(of):
    """Return 2^n, Q and r."""
    magic, (low, high), coth = of.shift + of.bias, of.sigmoid_ends, of.coth
    log2_e, (ln2_high, ln2_low) = 1 / math.log(2), of.ln2

    def split_exp(a):
        a = minimum(maximum(a, low), high)
        shifted = fma(a, log2_e, magic)  # holds n and the bias, the exponent of 2^n, in its low bits
        n = shifted - magic
        r = fma(n, -ln2_low, fma(n, -ln2_high, a))
        return power_of_two(shifted), coth(r * r), r

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


# --- exp and log


@_for_each_dtype
def _wide_exp(of):
    """Return Q, r and two integers whose sum is n, of a that is at least b: 2^n may be infinite where exp(a) is not."""
    shift, (_, high), coth = of.shift, of.exp_ends, of.coth
    log2_e, (ln2_high, ln2_low) = 1 / math.log(2), of.ln2

    def wide_exp(a, b):
        a = minimum(maximum(a, b), high)
        n = fma(a, log2_e, shift) - shift
        r = fma(n, -ln2_low, fma(n, -ln2_high, a))
        half = fma(n, 0.5, shift) - shift
        return coth(r * r), r, half, n - half

    return wide_exp


@_for_each_dtype
def exp(of):
    """exp(a)."""
    low, magic = of.exp_ends[0], of.shift + of.bias

    def exp_of(a):
        q, r, half, rest = _wide_exp(a, low)
        return (q + r) / (q - r) * power_of_two(half + magic) * power_of_two(rest + magic)

    return exp_of


@_for_each_dtype
def expm1(of):
    """exp(a) - 1 = 2^n (exp(r) - 1) + (2^n - 1), where exp(r) - 1 = 2 r / (Q - r), with the sign of a."""
    low, magic = float(-of.mantissa_bits), of.shift + of.bias  # -1 there

    def expm1_of(a):
        q, r, half, rest = _wide_exp(a, low)
        power = power_of_two(rest + magic)
        part = fma(power, (r + r) / (q - r), power - power_of_two(magic - half))
        return copysign(part * power_of_two(half + magic), a)

    return expm1_of


@_for_each_dtype
def _log_plus(of):
    """log(a) + b for a b that is small against a.

    a = 2^n (1 + f) with 1 + f between the roots of 1/2 and 2, and of s = f / (2 + f) log(1 + f) = s (2 + R), made as
    f - (f^2 / 2 - s (f^2 / 2 + R)), whose first term is exact.
    """
    shift, lowest, series, (ln2_high, ln2_low) = of.shift, of.root_of_half, of.log, of.ln2
    smallest, largest, nan, infinity = of.smallest, of.largest, math.nan, math.inf

    def log_plus(a, b):
        n, fraction = exponent(a, lowest, shift)
        f = fraction - 1.0
        s = f / (f + 2.0)
        square = s * s
        hump = f * 0.5 * f
        low = fma(s, fma(square, series(square), hump), fma(n, ln2_low, b))
        value = fma(n, ln2_high, f - (hump - low))
        not_above_0 = choose(less(a, 0.0), nan, -infinity)
        return choose(less(a, smallest), not_above_0, choose(less_equal(a, largest), value, a))

    return log_plus


@inlined
def log(a):
    """log(a)."""
    return _log_plus(a, 0.0)


@inlined
def log1p(a):
    """log(1 + a) = log(u) + (1 + a - u) / u with u = 1 + a rounded; what rounding took is exact. With the sign of a."""
    u = a + 1.0
    t = u - 1.0
    lost = (a - t) + (1.0 - (u - t))
    return copysign(_log_plus(u, lost / u), a)


# --- sin and cos


@_for_each_dtype
def _sin_turned(of):
    """sin(a + b pi / 2), b 0 or 1: of a = n pi / 2 + r, |r| <= pi / 4, the sine or cosine of r, or what is opposite.

    Numbers so large that this does not give r are left to the C library.
    """
    shift, turns, sine, cosine = of.shift, of.turns, of.sine, of.cosine
    first, second, third, fourth = of.quarter_turn
    quarters = 2 / math.pi

    def sin_turned(a, b):
        inside = less_equal(absolute(a), turns)
        shifted = fma(a, quarters, shift)
        n = shifted - shift
        r = fma(n, -fourth, fma(n, -third, fma(n, -second, fma(n, -first, a))))
        square = r * r
        value = turned(shifted, b, r * sine(square), cosine(square))
        if not all_set(inside):
            value = choose(inside, value, _cos_of_large(a) if b else _sin_of_large(a))
        return value

    return sin_turned


_sin_of_large, _cos_of_large = each_lane("sin"), each_lane("cos")


@inlined
def sin(a):
    """sin(a)."""
    return _sin_turned(a, 0)


@inlined
def cos(a):
    """cos(a)."""
    return _sin_turned(a, 1)


# --- erf


@_for_each_dtype
def erf(of):
    """A power series up to 1; beyond 1 - exp(-b) with another, b."""
    near, far, end = of.erf, of.erfc, of.erf_end

    def erf_of(a):
        size = absolute(a)
        scale, q, r = _split_exp(negative(far(minimum(size, end) - 1.0)))
        outer = 1.0 - scale * ((q + r) / (q - r))
        return choose(less(size, 1.0), a * near(a * a), copysign(outer, a))

    return erf_of
