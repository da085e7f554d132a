/* Several steps of a single sequence at once, for a layer of few units: what takes time there is not to multiply but to
 * wait. From the bias to the gates sums stay in registers, h and c where one step after the other finds whole vectors of
 * them; y is written beside. Chains, and so bits, are those of FN(step). */

/* The sums of whole blocks, and of one that is half empty, += an element of x or h times its row of their panels. */
INLINE void FN(add_k)(
    vec (*sum)[4], half_vec *half_sum, REAL left, const REAL *p, ptrdiff_t stride, const int whole, const int halves,
    const int fed) {
    const vec a = vec_splat(left);
#pragma GCC unroll 3
    for (int j = 0; j < whole + halves; j++)
#pragma GCC unroll 4
        for (int slot = 0; slot < fed; slot++) {
            const REAL *from = p + j * stride + slot * LANES;
            if (j < whole)
                sum[j][slot] = vec_fma(a, vec_load(from), sum[j][slot]);
            else
                half_sum[slot] = half_fma(low_half(a), half_load(from), half_sum[slot]);
        }
}

/* Units of whole blocks from b on, and of one that is half empty: h_new and c, given h. Each has `fed` slots to which a
 * product goes. */
INLINE void FN(row_of_blocks)(
    const fastrnn_layer *l, ptrdiff_t row, const vec *h, vec *h_new, vec *c, ptrdiff_t b, const int whole, const int halves,
    const int fed) {
    const ptrdiff_t I = l->inputs, P = l->outputs, stride = l->panel_stride;
    const REAL *p = (const REAL *)l->panels + b * stride, *left = (const REAL *)h;
    vec sum[3][4]; /* one more than there are, as the compiler does not know that a product ends with slot 3 */
    half_vec half_sum[8]; /* likewise */
#pragma GCC unroll 3
    for (int j = 0; j < whole + halves; j++)
#pragma GCC unroll 4
        for (int slot = 0; slot < 4; slot++) {
            const REAL *from = l->projected ? FN(z_at)(l, b + j, row) + slot * LANES
                                            : (const REAL *)l->bias + (4 * (b + j) + slot) * LANES;
            if (j < whole)
                sum[j][slot] = vec_load(from);
            else
                half_sum[slot] = half_load(from);
        }
    if (l->tokens) {
        const REAL *column = p + l->tokens[row] * PANEL_SLOTS * LANES;
#pragma GCC unroll 3
        for (int j = 0; j < whole + halves; j++)
#pragma GCC unroll 4
            for (int slot = 0; slot < fed; slot++) {
                const REAL *from = column + j * stride + slot * LANES;
                if (j < whole)
                    sum[j][slot] += vec_load(from);
                else
                    half_sum[slot] += half_load(from);
            }
    } else if (!l->projected) {
        const REAL *x = (const REAL *)l->x + row * I, *at = p;
        for (ptrdiff_t k = 0; k < I; k++, at += PANEL_SLOTS * LANES)
            FN(add_k)(sum, half_sum, x[k], at, stride, whole, halves, fed);
    }
    p += I * PANEL_SLOTS * LANES;
    for (ptrdiff_t k = 0; k < P; k++, p += PANEL_SLOTS * LANES)
        FN(add_k)((vec(*)[4])(*sum + HIDDEN_SLOT), half_sum + HIDDEN_SLOT, left[k], p, stride, whole, halves, fed);
#pragma GCC unroll 2
    for (int j = 0; j < whole; j++)
#pragma GCC unroll 4
        for (int u = 0; u < (UNITS == 1 ? 1 : fed); u++) {
            const ptrdiff_t q = (b + j) * UNITS + u;
            FN(gates)(sum[j] + u * SLOTS, c + q);
            h_new[q] = FN(output)(sum[j] + u * SLOTS, c[q], h[q]);
        }
    if (halves) {
        const ptrdiff_t q = b + whole;
        half_vec *half_c = (half_vec *)(c + q);
        HALF(gates)(half_sum, half_c);
        *(half_vec *)(h_new + q) = HALF(output)(half_sum, *half_c, *(const half_vec *)(h + q));
    }
}

/* Steps of `count` layers of one shape: while one waits for what its step depends on, the CPU finds work in the next. */
INLINE void FN(steps_in_turns)(const fastrnn_layer *const *layers, const ptrdiff_t count, ptrdiff_t s0, ptrdiff_t s1) {
    const fastrnn_layer *const l = layers[0];
    const ptrdiff_t H = l->hidden, vectors = ceil_div(H, LANES), blocks = FN(blocks)(l);
    const int rest = UNITS == 1 ? 0 : (int)(vectors % UNITS); /* vectors of a last block that is not full */
    vec h[FASTRNN_ROWS_IN_TURNS][2][FASTRNN_ROW_VECTORS], c[FASTRNN_ROWS_IN_TURNS][FASTRNN_ROW_VECTORS];
    for (ptrdiff_t m = 0; m < count; m++) {
        const REAL *before =
            s0 ? (const REAL *)layers[m]->y + fastrnn_step_row(l, s0 - 1) * l->y_row : layers[m]->h_0;
        for (ptrdiff_t q = 0; q < vectors; q++) {
            h[m][0][q] = vec_load_part(before + q * LANES, FN(left)(l, q));
            c[m][q] = HAS_C ? vec_load((const REAL *)layers[m]->c + q * LANES) : (vec){0};
        }
    }
    const ptrdiff_t full = blocks - (rest > 0), groups = full / 2 + 1; /* pairs of full ones, and what is left, if anything */
    const int tail = UNITS == 1 && FN(left)(l, full - 1) <= HALF_BYTES / REAL_BYTES; /* whether the last one is half empty */
    for (ptrdiff_t s = s0, now = 0; s < s1; s++, now = !now) {
        const ptrdiff_t row = fastrnn_step_row(l, s);
        for (ptrdiff_t m = 0; m < count; m++) {
            const vec *before = h[m][now];
            vec *after = h[m][!now];
            for (ptrdiff_t i = 0; i < groups; i++) {
                const ptrdiff_t b = 2 * (fastrnn_goes_back(l, s) ? groups - 1 - i : i);
                const ptrdiff_t there = least(2, full - b), half_one = tail && there > 0 && b + there == full;
                if (there - half_one == 2)
                    FN(row_of_blocks)(layers[m], row, before, after, c[m], b, 2, 0, PANEL_SLOTS);
                else if (there == 2)
                    FN(row_of_blocks)(layers[m], row, before, after, c[m], b, 1, 1, PANEL_SLOTS);
                else if (half_one)
                    FN(row_of_blocks)(layers[m], row, before, after, c[m], b, 0, 1, PANEL_SLOTS);
                else {
                    if (there == 1) FN(row_of_blocks)(layers[m], row, before, after, c[m], b, 1, 0, PANEL_SLOTS);
                    if (rest == 1) FN(row_of_blocks)(layers[m], row, before, after, c[m], full, 1, 0, 1);
                    if (rest == 2) FN(row_of_blocks)(layers[m], row, before, after, c[m], full, 1, 0, 2);
                    if (rest == 3) FN(row_of_blocks)(layers[m], row, before, after, c[m], full, 1, 0, 3);
                }
            }
            REAL *y = (REAL *)layers[m]->y + row * l->y_row;
            /* Whole vectors where a later step overwrites what is too much */
            const int overwritten = !l->reverse && l->y_row == H && row * H + vectors * LANES <= l->rows * H;
            for (ptrdiff_t q = 0; q < vectors; q++)
                vec_store_part(y + q * LANES, after[q], overwritten ? LANES : FN(left)(l, q));
        }
    }
    for (ptrdiff_t m = 0; m < count; m++)
        for (ptrdiff_t q = 0; HAS_C && q < vectors; q++) vec_store((REAL *)layers[m]->c + q * LANES, c[m][q]);
}

static void FN(steps_of_row)(const fastrnn_layer *l, ptrdiff_t s0, ptrdiff_t s1) {
    FN(steps_in_turns)(&l, 1, s0, s1);
}

static void FN(steps_of_rows)(const fastrnn_layer *const *layers, ptrdiff_t count, ptrdiff_t s0, ptrdiff_t s1) {
    FN(steps_in_turns)(layers, count, s0, s1);
}
