/* The softmax of rows. */

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
