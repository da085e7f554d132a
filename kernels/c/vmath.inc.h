/* Elementary functions of a vector; NaN goes through.
 *
 * With n = round(a / ln 2) and r = a - n ln 2, |r| <= ln(2) / 2, exp(a) = 2^n exp(r), where
 *
 *   exp(r) = (Q + r) / (Q - r),  Q = r coth(r / 2) = 2 + r^2 / 6 - ...
 *
 * is a ratio of an even function that takes two coefficients in float and five in double (a relative error of 3e-9 and
 * 8e-19, by Remez exchange), and costs nothing, since sigmoid and tanh end in a division. The estimate of a reciprocal
 * with a Newton step in place of that would save 2 of 61 cycles of 16 LSTM cells with AVX-512, add 1 to the 25 of their
 * backward function, and cost accuracy. tests/exhaustive_ulp.py measures the error: at the most 2.8 ulp in float, 3.1 in
 * double.
 *
 * sigmoid and tanh are what the built-in cells consist of; the others are for cells that users write. All are branch-free,
 * but for sin and cos of large numbers. As denormal numbers are flushed to zero in the kernels, they count as zero here. */

#if REAL_BYTES == 4
#define MANTISSA_BITS 23
#define EXPONENT_BIAS 127
#define ROUNDING_SHIFT 0x1.8p23f /* adding it leaves round(a) in the low bits of the mantissa */
#define SIGMOID_LIMIT 88.0f      /* exp(88) is still finite, sigmoid(-88) below the normal numbers */
#define LN2 0.693147181f
static const REAL NAME(ln2)[] = {0.693359375f, -2.12194440e-4f}; /* the first times any n is exact */
static const REAL NAME(coth_series)[] = {1, 0.333332516f, -0.0221340937f};
#define EXP_LOWEST -104.0f /* exp rounds to 0 there, also where there are denormal numbers */
#define EXP_HIGHEST 89.0f  /* exp is infinite there */
#define SMALLEST_NORMAL 0x1p-126f
#define LARGEST 0x1.fffffep127f
#define TURNS_LIMIT 6400.0f /* below 2^12 quarters of a turn */
#define QUARTERS 0.636619772f /* of a turn, in 1 */
#define ROOT_OF_HALF 0.707106769f
#define ERF_LIMIT 4.0f      /* erf rounds to 1 there */
/* pi / 2: of the first three parts, of 12 bits, any product with an integer below 2^12 is exact; all are positive, so that
 * -0 stays -0 */
static const REAL NAME(quarter_turn)[] = {0x1.92p0f, 0x1.fb4p-12f, 0x1.444p-24f, 0x1.68c234p-39f};
/* By Remez exchange, with the largest relative error that each causes in its function: log((1 + s) / (1 - s)) / s - 2 by
 * s^2, from the second power on (8e-10); sin(a) / a (4e-9) and cos(a) (1e-10) by a^2, erf(a) / a (1e-9) by a^2; and
 * -log(1 - erf(1 + a)) by a (1e-9, of erf). */
static const REAL NAME(log_series)[] = {0.66666776f, 0.39977542f, 0.29871714f};
static const REAL NAME(sin_series)[] = {1, -0.16666655f, 0.008332176f, -0.00019516972f};
static const REAL NAME(cos_series)[] = {1, -0.5f, 0.041666646f, -0.0013887314f, 2.4432906e-5f};
static const REAL NAME(erf_series)[] = {
    1.1283791f, -0.37612626f, 0.112835854f, -0.026853815f, 0.0051883305f, -0.00080102024f, 7.85385e-5f};
static const REAL NAME(erfc_series)[] = {
    1.8496056f, 2.6389668f, 0.8431176f, 0.041503485f, -0.009895437f, 0.0018293663f, -0.0001863746f};
#else
#define MANTISSA_BITS 52
#define EXPONENT_BIAS 1023
#define ROUNDING_SHIFT 0x1.8p52
#define SIGMOID_LIMIT 709.0
#define LN2 0.693147180559945309
static const REAL NAME(ln2)[] = {6.93145751953125e-1, 1.42860682030941723212e-6};
static const REAL NAME(coth_series)[] = {
    1, 0.333333333333332046, -0.0222222222216135948, 0.00211640202298876292, -2.11633953599198733e-4,
    2.11873352684476783e-5};
#define EXP_LOWEST -746.0
#define EXP_HIGHEST 710.0
#define SMALLEST_NORMAL 0x1p-1022
#define LARGEST 0x1.fffffffffffffp1023
#define TURNS_LIMIT 5e7 /* 2^25, parts of 28 bits */
#define QUARTERS 0.636619772367581343
#define ROOT_OF_HALF 0.707106781186547524
#define ERF_LIMIT 6.0
static const REAL NAME(quarter_turn)[] = {
    0x1.921fb54p0, 0x1.10b461p-30, 0x1.a62633p-58, 0x1.45c06e0e68948p-86};
/* Errors of 1e-18, 3e-18, 6e-20, 7e-18 and 3e-17 */
static const REAL NAME(log_series)[] = {
    0.6666666666666734, 0.3999999999941555, 0.2857142874220522, 0.22222198589971837, 0.1818356357752053,
    0.15314066362849832, 0.14795824023619422};
static const REAL NAME(sin_series)[] = {
    1, -0.16666666666666632, 0.008333333333322384, -0.00019841269829780957, 2.7557313681458947e-6,
    -2.5050756307353947e-8, 1.5896681864444867e-10};
static const REAL NAME(cos_series)[] = {
    1, -0.5, 0.041666666666666595, -0.001388888888887298, 2.4801587288801055e-5, -2.7557314164118804e-7,
    2.0875698713018107e-9, -1.1358423189099565e-11};
static const REAL NAME(erf_series)[] = {
    1.1283791670955126, -0.3761263890318352, 0.112837916709442, -0.026866170643113415, 0.005223977606130842,
    -0.0008548325929766244, 0.0001205529358693695, -1.4924712439534814e-5, 1.6447132699786621e-6,
    -1.6206318752969208e-7, 1.3710988704190523e-8, -7.779462971761597e-10};
static const REAL NAME(erfc_series)[] = {
    1.8496055099332485, 2.638967514234732, 0.8431072563618517, 0.04156109797271023, -0.010033824605816572,
    0.0019778975201874796, -0.00023730116347177112, -2.6339034574915735e-5, 2.728274040852279e-5,
    -9.789302422855495e-6, 2.2526969582640484e-6, -2.952035960734969e-7, -8.73477575279966e-9, 1.4101082186210295e-8,
    -3.250740944640618e-9, 3.6855664232014855e-10, -1.7704612092565573e-11};
#endif

/* r coth(p r) for |p r| <= ln(2) / 4; p is a constant */
INLINE vec NAME(r_coth)(vec r, REAL p) {
    enum { degree = sizeof(NAME(coth_series)) / sizeof(REAL) - 1 };
    const vec square = r * r;
    REAL scale = 1 / p; /* p^(2 i - 1) */
#pragma GCC unroll 16
    for (int i = 0; i < degree; i++) scale *= p * p;
    vec sum = vec_splat(scale * NAME(coth_series)[degree]);
#pragma GCC unroll 16
    for (int i = degree - 1; i >= 0; i--) {
        scale /= p * p;
        sum = vec_fma(sum, square, vec_splat(scale * NAME(coth_series)[i]));
    }
    return sum;
}

/* 1 / (1 + exp(-a)) */
INLINE vec NAME(sigmoid)(vec a) {
    a = vec_min(vec_splat(SIGMOID_LIMIT), vec_max(vec_splat(-SIGMOID_LIMIT), a)); /* a last: a NaN survives both */
    const vec shift = vec_splat(ROUNDING_SHIFT + EXPONENT_BIAS), shifted = vec_fma(a, vec_splat(-1 / LN2), shift);
    const vec n = shifted - shift, two_to_n = (vec)((vint)shifted << MANTISSA_BITS);
    const vec r = vec_fma(n, vec_splat(NAME(ln2)[1]), vec_fma(n, vec_splat(NAME(ln2)[0]), a)); /* -a = n ln 2 - r */
    const vec Q = NAME(r_coth)(r, (REAL)0.5), up = Q + r, down = Q - r;
    return up / vec_fma(two_to_n, down, up);
}

/* (exp(2a) - 1) / (exp(2a) + 1) of |a|, with the sign of a. Of 2a = n ln 2 + 2r and m = (2^n - 1) / 2 it is
 * (m (Q + r) + r) / (m (Q + r) + Q) with Q = r coth(r), whose numerator adds what has one sign: nothing cancels. One
 * constant for ln 2 is enough, as an error in r counts less and less where n grows. */
INLINE vec NAME(tanh)(vec a) {
    const vint sign = (vint)a & (vint)vec_splat(-(REAL)0);
    a = vec_min(vec_splat(32 * LN2), (vec)((vint)a ^ sign)); /* where r is 0, n a power of 2, and the ratio 1 */
    const vec shift = vec_splat(ROUNDING_SHIFT + (EXPONENT_BIAS - 1)), shifted = vec_fma(a, vec_splat(2 / LN2), shift);
    const vec n = shifted - shift, m = (vec)((vint)shifted << MANTISSA_BITS) - vec_splat((REAL)0.5);
    const vec r = vec_fma(n, vec_splat(-LN2 / 2), a);
    const vec Q = NAME(r_coth)(r, 1), up = Q + r;
    return (vec)((vint)(vec_fma(m, up, r) / vec_fma(m, up, Q)) | sign);
}
#define vec_sigmoid NAME(sigmoid)
#define vec_tanh NAME(tanh)

/* exp(a) for a <= 0; 0 where that is below the normal numbers */
INLINE vec NAME(exp_below_0)(vec a) {
    a = vec_max(vec_splat(-SIGMOID_LIMIT), a);
    const vec shift = vec_splat(ROUNDING_SHIFT + EXPONENT_BIAS), shifted = vec_fma(a, vec_splat(1 / LN2), shift);
    const vec n = shifted - shift, two_to_n = (vec)((vint)shifted << MANTISSA_BITS);
    const vec r = vec_fma(n, vec_splat(-NAME(ln2)[1]), vec_fma(n, vec_splat(-NAME(ln2)[0]), a)); /* a = n ln 2 + r */
    const vec Q = NAME(r_coth)(r, (REAL)0.5);
    return two_to_n * ((Q + r) / (Q - r));
}

/* b where mask is set, else c */
INLINE vec NAME(select)(vint mask, vec b, vec c) { return (vec)((mask & (vint)b) | (~mask & (vint)c)); }
#define vec_select(mask, b, c) NAME(select)((vint)(mask), b, c)

/* The sign of a, as a bit; |a| */
INLINE vint NAME(sign)(vec a) { return (vint)a & (vint)vec_splat(-(REAL)0); }
INLINE vec NAME(abs)(vec a) { return (vec)((vint)a ^ NAME(sign)(a)); }
#define vec_sign NAME(sign)
#define vec_abs NAME(abs)

/* c[0] + c[1] x + ... + c[degree] x^degree */
INLINE vec NAME(polynomial)(vec x, const REAL *c, int degree) {
    vec sum = vec_splat(c[degree]);
#pragma GCC unroll 32
    for (int i = degree - 1; i >= 0; i--) sum = vec_fma(sum, x, vec_splat(c[i]));
    return sum;
}
#define SERIES(name, x) NAME(polynomial)(x, NAME(name), sizeof(NAME(name)) / sizeof(REAL) - 1)

/* 2^n of an integer n from -EXPONENT_BIAS, where it is 0, to EXPONENT_BIAS */
INLINE vec NAME(two_to)(vec n) { return (vec)((vint)(n + vec_splat(ROUNDING_SHIFT + EXPONENT_BIAS)) << MANTISSA_BITS); }

/* An integer near n / 2 */
INLINE vec NAME(half_of)(vec n) {
    const vec shift = vec_splat(ROUNDING_SHIFT);
    return vec_fma(n, vec_splat((REAL)0.5), shift) - shift;
}

/* r and n of a = n ln 2 + r */
INLINE vec NAME(reduce_exp)(vec a, vec *n) {
    const vec shift = vec_splat(ROUNDING_SHIFT);
    *n = vec_fma(a, vec_splat(1 / LN2), shift) - shift;
    return vec_fma(*n, vec_splat(-NAME(ln2)[1]), vec_fma(*n, vec_splat(-NAME(ln2)[0]), a));
}

/* exp(a) with 2^n as a product of two, as that may be infinite or denormal where exp(a) is not */
INLINE vec NAME(exp)(vec a) {
    vec n;
    a = vec_min(vec_splat(EXP_HIGHEST), vec_max(vec_splat(EXP_LOWEST), a));
    const vec r = NAME(reduce_exp)(a, &n), Q = NAME(r_coth)(r, (REAL)0.5), half = NAME(half_of)(n);
    return (Q + r) / (Q - r) * NAME(two_to)(half) * NAME(two_to)(n - half);
}

/* exp(a) - 1 = 2^n (exp(r) - 1) + (2^n - 1), likewise, where exp(r) - 1 = 2 r / (Q - r); with the sign of a */
INLINE vec NAME(expm1)(vec a) {
    const vint sign = vec_sign(a);
    vec n;
    a = vec_min(vec_splat(EXP_HIGHEST), vec_max(vec_splat(-MANTISSA_BITS), a)); /* -1 there */
    const vec r = NAME(reduce_exp)(a, &n), Q = NAME(r_coth)(r, (REAL)0.5), half = NAME(half_of)(n);
    const vec power = NAME(two_to)(n - half), one = NAME(two_to)(-half); /* both to be taken times 2^half */
    return (vec)((vint)(vec_fma(power, (r + r) / (Q - r), power - one) * NAME(two_to)(half)) | sign);
}

/* log(a) + rest, for a rest that is small against a. a = 2^n (1 + f) with 1 + f between the roots of 1/2 and 2, and of
 * s = f / (2 + f) log(1 + f) = log((1 + s) / (1 - s)) = s (2 + R), made as f - (f^2 / 2 - s (f^2 / 2 + R)), whose first term
 * is exact. */
INLINE vec NAME(log_plus)(vec a, vec rest) {
    const vec half = vec_splat((REAL)0.5), shift = vec_splat(ROUNDING_SHIFT);
    const vint exponent = ((vint)a - (vint)vec_splat(ROOT_OF_HALF)) >> MANTISSA_BITS;
    const vec n = (vec)((vint)shift + exponent) - shift;
    const vec f = (vec)((vint)a - (exponent << MANTISSA_BITS)) - vec_splat(1), s = f / (f + vec_splat(2));
    const vec square = s * s, hump = half * f * f, R = square * SERIES(log_series, square);
    const vec low = vec_fma(s, hump + R, vec_fma(n, vec_splat(NAME(ln2)[1]), rest));
    const vec value = vec_fma(n, vec_splat(NAME(ln2)[0]), f - (hump - low));
    const vec not_above_0 = vec_select(a < vec_splat(0), vec_splat(NAN), vec_splat(-INFINITY));
    return vec_select(a < vec_splat(SMALLEST_NORMAL), not_above_0, vec_select(a <= vec_splat(LARGEST), value, a));
}
INLINE vec NAME(log)(vec a) { return NAME(log_plus)(a, vec_splat(0)); }

/* log(1 + a) = log(u) + (1 + a - u) / u with u = 1 + a rounded; what rounding took is exact. With the sign of a. */
INLINE vec NAME(log1p)(vec a) {
    const vec one = vec_splat(1), u = one + a, t = u - one, lost = (a - t) + (one - (u - t));
    return (vec)((vint)NAME(log_plus)(u, lost / u) | vec_sign(a));
}

/* Whether all lanes of a mask are set */
INLINE int NAME(all_set)(vint mask) {
    REAL_INT lanes[LANES], all = -1;
    memcpy(lanes, &mask, sizeof(lanes));
    for (int lane = 0; lane < LANES; lane++) all &= lanes[lane];
    return all != 0;
}

/* sin(a + quarters pi / 2), one number after the other */
static __attribute__((noinline)) vec NAME(sin_of_large)(vec a, int quarters) {
    for (int lane = 0; lane < LANES; lane++) a[lane] = (REAL)(quarters ? cos((double)a[lane]) : sin((double)a[lane]));
    return a;
}

/* sin(a + quarters pi / 2), quarters 0 or 1: of a = n pi / 2 + r, |r| <= pi / 4, the sine or cosine of r, or what is
 * opposite to it. Numbers so large that this does not give r are left to the C library: n has half the bits of a number, so
 * that its products with the parts of pi / 2 are exact. */
INLINE vec NAME(sin_turned)(vec a, int quarters) {
    const vint inside = (vint)(vec_abs(a) <= vec_splat(TURNS_LIMIT));
    const vec shift = vec_splat(ROUNDING_SHIFT), shifted = vec_fma(a, vec_splat(QUARTERS), shift), n = shifted - shift;
    const vint turned = (vint)shifted + quarters, odd = -(turned & 1);
    vec r = a;
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) r = vec_fma(n, vec_splat(-NAME(quarter_turn)[i]), r);
    const vec square = r * r, sine = r * SERIES(sin_series, square), cosine = SERIES(cos_series, square);
    const vec value = (vec)((vint)vec_select(odd, cosine, sine) ^ ((turned & 2) << (8 * REAL_BYTES - 2)));
    return NAME(all_set)(inside) ? value : vec_select(inside, value, NAME(sin_of_large)(a, quarters));
}
INLINE vec NAME(sin)(vec a) { return NAME(sin_turned)(a, 0); }
INLINE vec NAME(cos)(vec a) { return NAME(sin_turned)(a, 1); }

/* erf(a): a power series up to 1, and 1 - exp(-q) with another, q, beyond */
INLINE vec NAME(erf)(vec a) {
    const vec size = vec_abs(a), one = vec_splat(1), inner = a * SERIES(erf_series, a * a);
    const vec q = SERIES(erfc_series, vec_min(vec_splat(ERF_LIMIT), size) - one);
    const vec outer = one - NAME(exp_below_0)(-q);
    return vec_select(size < one, inner, (vec)((vint)outer | vec_sign(a)));
}

#undef MANTISSA_BITS
#undef EXPONENT_BIAS
#undef ROUNDING_SHIFT
#undef SIGMOID_LIMIT
#undef LN2
#undef EXP_LOWEST
#undef EXP_HIGHEST
#undef SMALLEST_NORMAL
#undef LARGEST
#undef TURNS_LIMIT
#undef QUARTERS
#undef ROOT_OF_HALF
#undef ERF_LIMIT
#undef SERIES
