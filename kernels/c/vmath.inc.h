/* sigmoid, tanh and exp of a vector, branch-free; NaN goes through; and the softmax of rows.
 *
 * With n = round(a / ln 2) and r = a - n ln 2, |r| <= ln(2) / 2, exp(a) = 2^n exp(r), where
 *
 *   exp(r) = (Q + r) / (Q - r),  Q = r coth(r / 2) = 2 + r^2 / 6 - ...
 *
 * is a ratio of an even function that takes two coefficients in float and five in double (a relative error of 3e-9 and
 * 8e-19, by Remez exchange), and costs nothing, since sigmoid and tanh end in a division. The estimate of a reciprocal
 * with a Newton step in place of that would save 2 of 61 cycles of 16 LSTM cells with AVX-512, add 1 to the 25 of their
 * backward function, and cost accuracy. tests/exhaustive_ulp.py measures the error: at the most 2.8 ulp in float, 3.1 in
 * double. */

#if REAL_BYTES == 4
#define MANTISSA_BITS 23
#define EXPONENT_BIAS 127
#define ROUNDING_SHIFT 0x1.8p23f /* adding it leaves round(a) in the low bits of the mantissa */
#define SIGMOID_LIMIT 88.0f      /* exp(88) is still finite, sigmoid(-88) below the normal numbers */
#define LN2 0.693147181f
static const REAL NAME(ln2)[] = {0.693359375f, -2.12194440e-4f}; /* the first times any n is exact */
static const REAL NAME(coth_series)[] = {1, 0.333332516f, -0.0221340937f};
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

/* The lanes of a joined, in a tree. */
INLINE REAL NAME(sum_of_lanes)(vec a) {
    REAL lanes[LANES];
    vec_store(lanes, a);
#pragma GCC unroll 8
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
}
INLINE REAL NAME(max_of_lanes)(vec a) {
    REAL lanes[LANES];
    vec_store(lanes, a);
#pragma GCC unroll 8
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] = lanes[i] < lanes[i + half] ? lanes[i + half] : lanes[i];
    return lanes[0];
}

/* p[row] := scale softmax(z[row]), top[row] := max(z[row]), total[row] := sum(exp(z[row] - top[row])), of rows (n, columns)
 * that follow one another; each sum has one order. The last vector of a row reaches into the rows after it, which are
 * written later; where there are none left it is done in parts, which takes twice as long. */
static void NAME(softmax)(
    void *p, void *top, void *total, const void *z, ptrdiff_t columns, double scale, ptrdiff_t row0, ptrdiff_t row1) {
    const ptrdiff_t body = (ceil_div(columns, LANES) - 1) * LANES, rest = columns - body;
    vint inside = {0};
    for (int lane = 0; lane < rest; lane++) inside[lane] = -1;
    for (ptrdiff_t row = row0; row < row1; row++) {
        const REAL *in = (const REAL *)z + row * columns;
        REAL *out = (REAL *)p + row * columns;
        const int whole = row * columns + body + LANES <= row1 * columns;
        const vec first = vec_splat(in[0]);
        vec highest = first, sum = {0}, last = first;
        if (whole)
            last = (vec)(((vint)vec_load(in + body) & inside) | ((vint)first & ~inside));
        else
            memcpy(&last, in + body, (size_t)rest * sizeof(REAL));
        for (ptrdiff_t c = 0; c < body; c += LANES) highest = vec_max(highest, vec_load(in + c));
        const REAL most_likely = NAME(max_of_lanes)(vec_max(highest, last));
        const vec origin = vec_splat(most_likely);
        for (ptrdiff_t c = 0; c < body; c += LANES) {
            const vec e = NAME(exp_below_0)(vec_load(in + c) - origin);
            vec_store(out + c, e);
            sum += e;
        }
        last = (vec)((vint)NAME(exp_below_0)(last - origin) & inside);
        const REAL all = NAME(sum_of_lanes)(sum + last);
        const vec factor = vec_splat((REAL)(scale / (double)all));
        for (ptrdiff_t c = 0; c < body; c += LANES) vec_store(out + c, factor * vec_load(out + c));
        if (whole)
            vec_store(out + body, factor * last);
        else
            vec_store_part(out + body, factor * last, rest);
        ((REAL *)top)[row] = most_likely;
        ((REAL *)total)[row] = all;
    }
}

#undef MANTISSA_BITS
#undef EXPONENT_BIAS
#undef ROUNDING_SHIFT
#undef SIGMOID_LIMIT
#undef LN2
