/* The phases of a layer for one cell, CELL, with weights of fewer bits, NARROW: see narrow.inc.h. Comes after layer.inc.h
 * and has its layouts of Z, c and bias, its pieces of steps and its point functions. Only for inference. */
#define NARROW_FN(name) PASTE(OF_CELL(name), NARROW)
INLINE NARROWED(scales) *NARROW_FN(scales_at)(const fastrnn_layer *l, ptrdiff_t b, int of_h) {
    return (NARROWED(scales) *)l->scales + 2 * b + of_h;
}
INLINE int32_t *NARROW_FN(panel_at)(const fastrnn_layer *l, ptrdiff_t b, int of_h) {
    return (int32_t *)l->panels + b * l->panel_stride + (of_h ? NARROWED(elements)(l->inputs) * PANEL_SLOTS * LANES : 0);
}

static void NARROW_FN(measure)(const fastrnn_layer *l, fastrnn_sizes *sizes) {
    memset(sizes, 0, sizeof(*sizes));
    sizes->panel = (NARROWED(elements)(l->inputs) + NARROWED(elements)(l->outputs)) * PANEL_SLOTS * LANES;
    sizes->scales = 2 * sizeof(NARROWED(scales)) / sizeof(REAL);
    sizes->left_row = NARROWED(left_row)(l->inputs) + NARROWED(left_row)(l->outputs) + 2;
}

/* A block's panel and scales := its rows of a weight (G*H, columns) */
INLINE void NARROW_FN(pack_block)(
    const fastrnn_layer *l, ptrdiff_t b, int of_h, const NARROWED(weight) *w, const REAL *scale, FN(feed) feed,
    ptrdiff_t columns) {
    enum { together = NARROWED(together) };
    const ptrdiff_t p_k = PANEL_SLOTS * LANES;
    int32_t *panel = NARROW_FN(panel_at)(l, b, of_h);
    NARROWED(scales) *scales = NARROW_FN(scales_at)(l, b, of_h);
    memset(panel, 0, (size_t)(NARROWED(elements)(columns) * p_k) * sizeof(*panel));
    memset(scales, 0, sizeof(*scales));
    for (int slot = 0; slot < feed.fed; slot++) {
        ptrdiff_t lanes;
        const ptrdiff_t row = FN(weight_row)(l, b, slot, feed.gates[slot], &lanes);
        for (ptrdiff_t lane = 0; lane < lanes; lane++) {
            const NARROWED(weight) *from = w + (row + lane) * columns;
            int32_t *to = panel + slot * LANES + lane;
            ptrdiff_t k = 0;
            for (; k + together <= columns; k += together, to += p_k) memcpy(to, from + k, sizeof(*to));
            memcpy(to, from + k, (size_t)(columns - k) * sizeof(*from));
            NARROWED(pack_scale)(scales, slot, lane, from, columns, scale, row + lane);
        }
    }
}

static void NARROW_FN(pack)(const fastrnn_layer *l, ptrdiff_t b0, ptrdiff_t b1) {
    for (ptrdiff_t b = b0; b < b1; b++) {
        NARROW_FN(pack_block)(l, b, 0, l->weight_ih, l->scale_ih, FN(feed_of_x)(l, b), l->inputs);
        NARROW_FN(pack_block)(l, b, 1, l->weight_hh, l->scale_hh, FN(feed_of_h)(l, b), l->outputs);
        FN(pack_bias)(l, (vec *)l->bias + 4 * b, b);
    }
}

/* acc[r] += the product of left rows r and on with block b, or of one row with `count` blocks, acc[0] and acc[1]; `tile`
 * and `next` as in a product. */
INLINE void NARROW_FN(add_product)(
    const fastrnn_layer *l, FN(row) *acc, ptrdiff_t b, const int of_h, const int count, const NARROWED(left) *left,
    ptrdiff_t r, ptrdiff_t rows, ptrdiff_t tile, const int32_t *next) {
    enum { p_k = PANEL_SLOTS * LANES };
    const int first = of_h ? HIDDEN_SLOT : 0, fed = FN(fed)(l, b);
    const ptrdiff_t K = NARROWED(elements)(of_h ? l->outputs : l->inputs);
    const NARROWED(scales) *scales = NARROW_FN(scales_at)(l, b, of_h);
    const NARROWED(product) m = {
        .a = left->rows + r * left->stride, .a_row = left->stride, .a_k = 1, .p = NARROW_FN(panel_at)(l, b, of_h),
        .p_k = p_k, .K = K, .segments = 1, .next = next, .next_size = next ? K * p_k : 0};
    NARROWED(sum) room[TILE_ROWS][4], (*sums)[4] = room;
    if (!NARROWED(has_scales)) sums = (NARROWED(sum)(*)[4])(*acc + first);
    for (ptrdiff_t i = 0; NARROWED(has_scales) && i < rows; i++)
        for (int slot = 0; slot < fed; slot++) sums[i][slot] = scales[count > 1 ? 2 * i : 0].start[slot];
    if (count > 1)
        NARROWED(accumulate_pair)(PANEL_SLOTS, sums, &m, l->panel_stride);
    else
        NARROWED(accumulate_tile)(fed, rows, sums, &m, 0, tile);
    for (ptrdiff_t i = 0; NARROWED(has_scales) && i < rows; i++)
        for (int slot = 0; slot < fed; slot++)
            acc[i][first + slot] = NARROWED(finish)(
                sums[i][slot], left->scales[count > 1 ? r : r + i], scales[count > 1 ? 2 * i : 0].scale[slot],
                acc[i][first + slot]);
}

/* acc := bias, with the columns of tokens */
INLINE void NARROW_FN(begin)(const fastrnn_layer *l, FN(row) *acc, ptrdiff_t b, ptrdiff_t row, ptrdiff_t rows) {
    const NARROWED(scales) *scales = NARROW_FN(scales_at)(l, b, 0);
    for (ptrdiff_t r = 0; r < rows; r++) {
        memcpy(acc[r], (const vec *)l->bias + 4 * b, sizeof(acc[r]));
        for (int slot = 0; l->tokens && slot < FN(fed)(l, b); slot++) {
            const ptrdiff_t token = l->tokens[row + r];
            const int32_t *at = NARROW_FN(panel_at)(l, b, 0) + token / NARROWED(together) * PANEL_SLOTS * LANES;
            acc[r][slot] += NARROWED(column)(NARROWED(load)(at + slot * LANES), token, scales->scale[slot]);
        }
    }
}

static void NARROW_FN(project)(const fastrnn_layer *l, ptrdiff_t b0, ptrdiff_t b1, ptrdiff_t row0, ptrdiff_t row1) {
    enum { at_once = FASTRNN_LEFT_ROWS };
    const ptrdiff_t I = l->inputs;
    for (ptrdiff_t first = row0; first < row1; first += at_once) {
        const ptrdiff_t count = least(at_once, row1 - first);
        int32_t *room = l->scratch;
        const NARROWED(left) x = NARROWED(narrow_rows)(
            room, (REAL *)(room + at_once * NARROWED(left_row)(I)), (const REAL *)l->x + first * I, I, I, count);
        for (ptrdiff_t b = b0; b < b1; b++)
            for (ptrdiff_t tile = 0; tile < NAME(tile_count)(count); tile++) {
                const ptrdiff_t r = NAME(tile_start)(count, tile), rows = NAME(tile_start)(count, tile + 1) - r;
                FN(row) *z = (FN(row) *)FN(z_at)(l, b, first + r);
                NARROW_FN(begin)(l, z, b, first + r, rows);
                NARROW_FN(add_product)(l, z, b, 0, 1, &x, r, rows, tile, NULL);
            }
    }
}

static void NARROW_FN(step)(
    const fastrnn_layer *l, ptrdiff_t s, ptrdiff_t b0, ptrdiff_t b1, ptrdiff_t n0, ptrdiff_t n1) {
    const ptrdiff_t I = l->inputs, P = l->outputs, N = l->batch;
    const int back = fastrnn_goes_back(l, s), with_x = !l->projected && !l->tokens;
    const int fetch = (b1 - b0) * l->panel_stride * REAL_BYTES > FETCH_BYTES;
    int32_t *const x_room = l->scratch, *const h_room = x_room + N * NARROWED(left_row)(I);
    REAL *const x_scales = (REAL *)(h_room + N * NARROWED(left_row)(P)), *const h_scales = x_scales + N;
    FN(piece) pieces[2];
    const int count = FN(cut_step)(l, s, n0, n1, pieces);
    NARROWED(left) x = {0}, h[2];
    for (int i = 0; i < count; i++) {
        const FN(piece) *piece = pieces + i;
        const ptrdiff_t n = piece->n0, rows = piece->n1 - n;
        h[i] = NARROWED(narrow_rows)(
            h_room + n * NARROWED(left_row)(P), h_scales + n, piece->h_prev + n * piece->h_row, piece->h_row, P, rows);
        if (with_x)
            x = NARROWED(narrow_rows)(
                x_room + n * NARROWED(left_row)(I), x_scales + n, (const REAL *)l->x + (piece->row + n) * I, I, I, rows);
    }
    x.rows = x_room, x.scales = x_scales; /* of n = 0 */
    const int single = l->pairs && count == 1 && pieces[0].n1 - pieces[0].n0 == 1; /* a row, which takes two blocks at once */
    for (ptrdiff_t i = 0, together; i < b1 - b0; i += together) {
        const ptrdiff_t left = b1 - b0 - i;
        together = single && left > 1 && FN(fed)(l, back ? b1 - i - 1 : b0 + i + 1) == PANEL_SLOTS ? 2 : 1;
        const ptrdiff_t b = back ? b1 - i - together : b0 + i, after = back ? b - 1 : b + 1;
        for (int k = 0; k < count; k++) {
            const FN(piece) *piece = pieces + k;
            const ptrdiff_t height = piece->n1 - piece->n0;
            for (ptrdiff_t tile = 0; tile < NAME(tile_count)(height); tile++) {
                const ptrdiff_t r = NAME(tile_start)(height, tile), n = piece->n0 + r, row = piece->row + n;
                const ptrdiff_t rows = together == 2 ? 2 : NAME(tile_start)(height, tile + 1) - r;
                const int fetch_next = fetch && left > together;
                const int32_t *next_x = fetch_next ? NARROW_FN(panel_at)(l, after, 0) : NULL;
                const int32_t *next_h = fetch_next ? NARROW_FN(panel_at)(l, after, 1) : NULL;
                FN(row) acc[TILE_ROWS];
                for (ptrdiff_t j = 0; j < together; j++) {
                    const ptrdiff_t its = together == 2 ? 1 : rows;
                    if (l->projected)
                        memcpy(acc + j, FN(z_at)(l, b + j, row), (size_t)its * sizeof(*acc));
                    else
                        NARROW_FN(begin)(l, acc + j, b + j, row, its);
                }
                if (together == 2) {
                    if (with_x) NARROW_FN(add_product)(l, acc, b, 0, 2, &x, n, 2, 0, NULL);
                    NARROW_FN(add_product)(l, acc, b, 1, 2, h + k, r, 2, 0, NULL);
                    for (ptrdiff_t j = 0; j < 2; j++) FN(activate)(l, acc + j, 1, piece, b + j, n, 1);
                } else {
                    if (with_x) NARROW_FN(add_product)(l, acc, b, 0, 1, &x, n, rows, tile, next_x);
                    NARROW_FN(add_product)(l, acc, b, 1, 1, h + k, r, rows, tile, next_h);
                    FN(activate)(l, acc, TILE_ROWS, piece, b, n, rows);
                }
            }
        }
    }
}

#undef NARROW_FN
