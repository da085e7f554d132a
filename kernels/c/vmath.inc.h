/* exp, sigmoid and tanh of a vector, branch-free. NaN goes through; the sign of a zero may be lost.
 *
 * With n = round(a / ln 2) and r = a - n ln 2, |r| <= ln(2) / 2, expm1(r) = r + r^2 P(r) with P the minimax polynomial
 * that makes its relative error even (Remez exchange; 1.3e-8 in float, 1.8e-17 in double), and
 * expm1(a) = 2^n expm1(r) + (2^n - 1), which keeps full accuracy near 0. */

#if REAL_BYTES == 4
#define MANTISSA_BITS 23
#define EXPONENT_BIAS 127
#define ROUNDING_SHIFT 0x1.8p23f /* adding it leaves round(a) in the low bits of the mantissa */
#define SIGMOID_LIMIT 88.0f      /* exp(88) is still finite */
#define TANH_LIMIT 9.5f          /* tanh rounds to 1 from 9.02 on */
static const REAL NAME(expm1_poly)[] = {0.500000006f, 0.16666542f, 0.0416662791f, 0.00836671065f, 0.00139466704f};
static const REAL NAME(ln2)[] = {0.693359375f, -2.12194440e-4f}; /* the first times any n is exact */
#else
#define MANTISSA_BITS 52
#define EXPONENT_BIAS 1023
#define ROUNDING_SHIFT 0x1.8p52
#define SIGMOID_LIMIT 709.0
#define TANH_LIMIT 20.0
static const REAL NAME(expm1_poly)[] = {
    0.500000000000000566,   0.166666666666666864,   0.0416666666665721992,   0.00833333333331431323,  0.00138888889328777124,
    0.000198412699037194877, 0.0000248015038133958934, 2.75572272746804896e-6, 2.76265895289023097e-7, 2.51147052845339318e-8};
static const REAL NAME(ln2)[] = {6.93145751953125e-1, 1.42860682030941723212e-6};
#endif

INLINE vec NAME(clamp)(vec a, REAL limit) {
    return vec_min(vec_splat(limit), vec_max(vec_splat(-limit), a)); /* a last: a NaN survives both */
}

/* expm1(r) and 2^n of a = n ln 2 + r */
INLINE vec NAME(expm1_reduced)(vec a, vec *two_to_n) {
    const vec shifted = vec_fma(a, vec_splat((REAL)1.44269504088896340736), vec_splat(ROUNDING_SHIFT));
    const vec n = shifted - vec_splat(ROUNDING_SHIFT);
    vec r = vec_fma(n, vec_splat(-NAME(ln2)[0]), a);
    r = vec_fma(n, vec_splat(-NAME(ln2)[1]), r);
    enum { degree = sizeof(NAME(expm1_poly)) / sizeof(REAL) - 1 };
    vec p = vec_splat(NAME(expm1_poly)[degree]);
#pragma GCC unroll 16
    for (int i = degree - 1; i >= 0; i--) p = vec_fma(p, r, vec_splat(NAME(expm1_poly)[i]));
    *two_to_n = (vec)(((vint)shifted + EXPONENT_BIAS) << MANTISSA_BITS);
    return vec_fma(r * r, p, r);
}

/* 1 / (1 + exp(-a)) */
INLINE vec NAME(sigmoid)(vec a) {
    vec two_to_n;
    const vec e = NAME(expm1_reduced)(-NAME(clamp)(a, SIGMOID_LIMIT), &two_to_n);
    const vec one = vec_splat(1);
    return one / (one + vec_fma(two_to_n, e, two_to_n));
}

/* expm1(2a) / (expm1(2a) + 2) */
INLINE vec NAME(tanh)(vec a) {
    vec two_to_n;
    const vec clamped = NAME(clamp)(a, TANH_LIMIT);
    const vec e = NAME(expm1_reduced)(clamped + clamped, &two_to_n);
    const vec t = vec_fma(two_to_n, e, two_to_n - vec_splat(1));
    return t / (t + vec_splat(2));
}
#define vec_sigmoid NAME(sigmoid)
#define vec_tanh NAME(tanh)

#undef MANTISSA_BITS
#undef EXPONENT_BIAS
#undef ROUNDING_SHIFT
#undef SIGMOID_LIMIT
#undef TANH_LIMIT
