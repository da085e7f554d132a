/* Several steps of a single sequence at once, for a layer of few units: what takes time there is not to multiply but to
 * wait. From the bias to the gates sums stay in registers, h and c where one step after the other finds whole vectors of
 * them; y is written beside. Chains, and so bits, are those of FN(step). */

/* The units of `count` blocks from b on: h_new and c, given h. Each has `fed` slots to which a product goes. */
INLINE void FN(row_of_blocks)(
    const fastrnn_layer *l, ptrdiff_t row, const vec *h, vec *h_new, vec *c, ptrdiff_t b, const int count, const int fed) {
    const ptrdiff_t I = l->inputs, P = l->outputs, stride = l->panel_stride;
    const REAL *p = (const REAL *)l->panels + b * stride, *left = (const REAL *)h;
    vec sum[2][4];
#pragma GCC unroll 2
    for (int j = 0; j < count; j++)
#pragma GCC unroll 4
        for (int slot = 0; slot < 4; slot++)
            sum[j][slot] = l->projected ? vec_load(FN(z_at)(l, b + j, row) + slot * LANES)
                                        : ((const vec *)l->bias)[4 * (b + j) + slot];
    if (l->tokens) {
        const REAL *column = p + l->tokens[row] * PANEL_SLOTS * LANES;
#pragma GCC unroll 2
        for (int j = 0; j < count; j++)
#pragma GCC unroll 4
            for (int slot = 0; slot < fed; slot++) sum[j][slot] += vec_load(column + j * stride + slot * LANES);
    } else if (!l->projected) {
        const REAL *x = (const REAL *)l->x + row * I, *at = p;
        for (ptrdiff_t k = 0; k < I; k++, at += PANEL_SLOTS * LANES) {
            const vec x_k = vec_splat(x[k]);
#pragma GCC unroll 2
            for (int j = 0; j < count; j++)
#pragma GCC unroll 4
                for (int slot = 0; slot < fed; slot++)
                    sum[j][slot] = vec_fma(x_k, vec_load(at + j * stride + slot * LANES), sum[j][slot]);
        }
    }
    p += I * PANEL_SLOTS * LANES;
    for (ptrdiff_t k = 0; k < P; k++, p += PANEL_SLOTS * LANES) {
        const vec h_k = vec_splat(left[k]);
#pragma GCC unroll 2
        for (int j = 0; j < count; j++)
#pragma GCC unroll 4
            for (int slot = HIDDEN_SLOT; slot < HIDDEN_SLOT + fed; slot++)
                sum[j][slot] = vec_fma(h_k, vec_load(p + j * stride + (slot - HIDDEN_SLOT) * LANES), sum[j][slot]);
    }
#pragma GCC unroll 2
    for (int j = 0; j < count; j++)
#pragma GCC unroll 4
        for (int u = 0; u < (UNITS == 1 ? 1 : fed); u++) {
            const ptrdiff_t q = (b + j) * UNITS + u;
            FN(gates)(sum[j] + u * SLOTS, c + q);
            h_new[q] = FN(output)(sum[j] + u * SLOTS, c[q], h[q]);
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
    for (ptrdiff_t s = s0, now = 0; s < s1; s++, now = !now) {
        const ptrdiff_t row = fastrnn_step_row(l, s);
        for (ptrdiff_t m = 0; m < count; m++) {
            const vec *before = h[m][now];
            vec *after = h[m][!now];
            for (ptrdiff_t i = 0; i < groups; i++) {
                const ptrdiff_t b = 2 * (fastrnn_goes_back(l, s) ? groups - 1 - i : i);
                if (b + 2 <= full)
                    FN(row_of_blocks)(layers[m], row, before, after, c[m], b, 2, PANEL_SLOTS);
                else {
                    if (b < full) FN(row_of_blocks)(layers[m], row, before, after, c[m], b, 1, PANEL_SLOTS);
                    if (rest == 1) FN(row_of_blocks)(layers[m], row, before, after, c[m], full, 1, 1);
                    if (rest == 2) FN(row_of_blocks)(layers[m], row, before, after, c[m], full, 1, 2);
                    if (rest == 3) FN(row_of_blocks)(layers[m], row, before, after, c[m], full, 1, 3);
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
