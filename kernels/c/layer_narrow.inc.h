/* The phases of a layer for one cell, CELL, with weights of fewer bits, NARROW: see narrow.inc.h. Comes after layer.inc.h
 * and has its layouts of Z, c and bias, its pieces of steps and its point functions. Backward is for bf16 alone: there the
 * rows of Z, which stay floats, are narrowed as left and right factors as they are needed. */
#define NARROW_FN(name) PASTE(OF_CELL(name), NARROW)
INLINE NARROWED(scales) *NARROW_FN(scales_at)(const fastrnn_layer *l, ptrdiff_t b, int of_h) {
    return (NARROWED(scales) *)l->scales + 2 * b + of_h;
}
INLINE int32_t *NARROW_FN(panel_at)(const fastrnn_layer *l, ptrdiff_t b, int of_h) {
    return (int32_t *)l->panels + b * l->panel_stride + (of_h ? NARROWED(elements)(l->inputs) * PANEL_SLOTS * LANES : 0);
}

#define NARROW_Z_WIDTH (Z_WIDTH / 2) /* elements of a row of Z in a block, as left factors of bf16 */

static void NARROW_FN(measure)(const fastrnn_layer *l, fastrnn_sizes *sizes) {
    FN(measure)(l, sizes);
    sizes->panel = (NARROWED(elements)(l->inputs) + NARROWED(elements)(l->outputs)) * PANEL_SLOTS * LANES;
    sizes->scales = 2 * sizeof(NARROWED(scales)) / sizeof(REAL);
    sizes->left_row = NARROWED(left_row)(l->inputs) + NARROWED(left_row)(l->outputs) + 2;
#if NARROW_BITS == 16
    sizes->backward_panel /= NARROWED(together);
    const ptrdiff_t left_of_z = most(l->batch, FN(dx_rows)) * FN(blocks)(l) * NARROW_Z_WIDTH;
    sizes->backward_scratch = most(sizes->backward_scratch, left_of_z);
#endif
}

/* A block's panel and scales := its rows of a weight (G*H, columns) */
INLINE void NARROW_FN(pack_block)(
    const fastrnn_layer *l, ptrdiff_t b, int of_h, const NARROWED(weight) *w, const REAL *scale, FN(feed) feed,
    ptrdiff_t columns) {
    const ptrdiff_t p_k = PANEL_SLOTS * LANES;
    int32_t *panel = NARROW_FN(panel_at)(l, b, of_h);
    NARROWED(scales) *scales = NARROW_FN(scales_at)(l, b, of_h);
    if (NARROWED(has_scales)) memset(panel, 0, (size_t)(NARROWED(elements)(columns) * p_k) * sizeof(*panel));
    memset(scales, 0, sizeof(*scales));
    for (int slot = 0; slot < feed.fed; slot++) {
        ptrdiff_t lanes;
        const ptrdiff_t row = FN(weight_row)(l, b, slot, feed.gates[slot], &lanes);
        NARROWED(pack_rows)(panel + slot * LANES, p_k, scales, slot, w + row * columns, scale + row, columns, lanes);
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
    const int fetch = (b1 - b0) * l->panel_stride * REAL_BYTES > l->fetch_bytes;
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

#if NARROW_BITS == 16
/* ---- backward ---- */

/* panels[p][Z order, two at once][4 * L] := rows of a weight (G*H, columns) in Z order, columns p * 4 * L and on, zero-padded */
INLINE void NARROW_FN(pack_columns)(
    const fastrnn_layer *l, int32_t *panels, const REAL *w, const int of, ptrdiff_t columns, ptrdiff_t p0, ptrdiff_t p1) {
    int32_t *panel = panels + p0 * FN(slots_of)(l, of) * (LANES / 2) * Z_WIDTH;
    for (ptrdiff_t p = p0; p < p1; p++)
        for (ptrdiff_t b = 0; b < FN(blocks)(l); b++) {
            const FN(feed) feed = FN(feed_of)(l, b, of);
            for (int slot = 0; slot < feed.width; slot++) {
                ptrdiff_t lanes;
                const ptrdiff_t row = FN(weight_row)(l, b, slot, feed.gates[slot], &lanes);
                for (ptrdiff_t lane = 0; lane < LANES; lane += 2, panel += Z_WIDTH) {
                    const REAL *even = w + (row + lane) * columns + p * Z_WIDTH, *odd = even + columns;
                    const ptrdiff_t left = columns - p * Z_WIDTH;
                    for (int v = 0; v < 4; v++) {
                        const vint both = pairs_bf16(
                            vec_load_part(even + v * LANES, lane < lanes ? left - v * LANES : 0),
                            vec_load_part(odd + v * LANES, lane + 1 < lanes ? left - v * LANES : 0));
                        vec_store((REAL *)panel + v * LANES, (vec)both);
                    }
                }
            }
        }
}

static void NARROW_FN(pack_hidden)(const fastrnn_layer *l, ptrdiff_t p0, ptrdiff_t p1) {
    NARROW_FN(pack_columns)(l, l->panels_hh, l->weight_hh, FN(of_h), l->outputs, p0, p1);
}

static void NARROW_FN(pack_input)(const fastrnn_layer *l, ptrdiff_t p0, ptrdiff_t p1) {
    NARROW_FN(pack_columns)(l, l->panels_ih, l->weight_ih, FN(of_x), l->inputs, p0, p1);
}

/* Rows of Z from row `first` on as left factors: [block][row][NARROW_Z_WIDTH], blocks `stride` apart */
typedef struct {
    const int32_t *rows;
    ptrdiff_t first, stride;
} NARROW_FN(left_of_z);

/* `count` of them, made in the thread's scratch memory */
INLINE NARROW_FN(left_of_z) NARROW_FN(narrow_z)(const fastrnn_layer *l, ptrdiff_t row, ptrdiff_t count) {
    int32_t *const room = l->scratch;
    for (ptrdiff_t b = 0; b < FN(blocks)(l); b++)
        for (ptrdiff_t v = 0; v < 4 * count; v++)
            *(NARROWED(halves) *)(room + (4 * b * count + v) * (LANES / 2)) =
                halves_bf16(vec_load(FN(z_at)(l, b, row) + v * LANES));
    return (NARROW_FN(left_of_z)){room, row, count * NARROW_Z_WIDTH};
}

static void NARROW_FN(z_product)(
    const fastrnn_layer *l, const void *left, int vectors, vec (*acc)[4], ptrdiff_t row, ptrdiff_t rows, int of,
    ptrdiff_t p) {
    const NARROW_FN(left_of_z) *z = left;
    const ptrdiff_t blocks = FN(blocks)(l), width = PANEL_SLOTS * (LANES / 2), panel_size = blocks * width * Z_WIDTH;
    const ptrdiff_t columns = of == FN(of_x) ? l->inputs : l->outputs, chunk = width > 128 ? 1 : 128 / width;
    const int32_t *panels = of == FN(of_x) ? l->panels_ih : l->panels_hh;
    const int32_t *panels_end = panels + ceil_div(columns, Z_WIDTH) * panel_size;
    const int fetch = (panels_end - panels) * REAL_BYTES > l->fetch_bytes;
    NARROWED(product) m = {
        .a_row = NARROW_Z_WIDTH, .a_k = 1, .a_segment = z->stride, .p = panels + p * panel_size, .p_k = Z_WIDTH};
    for (ptrdiff_t b = 0, end; b < blocks; b = end) {
        const FN(feed) feed = FN(feed_of)(l, b, of);
        end = least(b + chunk, blocks); /* the panel's part stays in L1, as of floats */
        if (end == blocks && b < end - 1 && FN(fed)(l, end - 1) < PANEL_SLOTS) end--; /* a shorter block on its own */
        m.a = z->rows + b * z->stride + (row - z->first) * NARROW_Z_WIDTH + feed.first * (LANES / 2);
        m.K = feed.fed * (LANES / 2);
        m.segments = end - b;
        m.next = m.p + (end - b) * width * Z_WIDTH;
        m.next_size = fetch ? least(chunk * width * Z_WIDTH, panels_end - m.next) : 0;
        NARROWED(accumulate)(vectors, rows, acc, &m);
        m.p = m.next;
    }
}

static void NARROW_FN(step_back)(
    const fastrnn_layer *l, ptrdiff_t s, ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t n0, ptrdiff_t n1) {
    const ptrdiff_t count = least(n1, fastrnn_step_count(l, s + 1)) - n0;
    NARROW_FN(left_of_z) z = {0};
    if (count > 0) z = NARROW_FN(narrow_z)(l, fastrnn_step_row(l, s + 1) + n0, count);
    FN(step_back_by)(l, s, p0, p1, n0, n1, NARROW_FN(z_product), &z);
}

static void NARROW_FN(input_gradient)(const fastrnn_layer *l, ptrdiff_t row0, ptrdiff_t row1) {
    enum { at_once = FN(dx_rows) };
    for (ptrdiff_t row = row0; row < row1; row += at_once) {
        if (row % (8 * at_once) < at_once && fastrnn_stopped(l->watch)) return;
        const ptrdiff_t count = least(at_once, row1 - row);
        const NARROW_FN(left_of_z) z = NARROW_FN(narrow_z)(l, row, count);
        FN(input_gradient_by)(l, row, count, NARROW_FN(z_product), &z);
    }
}

/* FN(outer): rows by two, the second one of the last two zeros if there is none */
static void NARROW_FN(pack_left)(REAL *left, const REAL *const *rows, ptrdiff_t columns, ptrdiff_t count) {
    enum { few = 8 }; /* pairs that go through all tiles before the next ones do: see gemm.inc.h */
    const ptrdiff_t pairs = ceil_div(count, 2);
    for (ptrdiff_t first = 0; first < pairs; first += few)
        for (ptrdiff_t tile = 0; tile < NAME(tile_count)(columns); tile++)
            for (ptrdiff_t r = first; r < least(first + few, pairs); r++)
                for (ptrdiff_t i = 0; i < LEFT_WIDTH; i += LANES) {
                    const ptrdiff_t k = NAME(tile_start)(columns, tile) + i;
                    const vec odd = 2 * r + 1 < count ? vec_load_part(rows[2 * r + 1] + k, columns - k) : (vec){0};
                    const vint both = pairs_bf16(vec_load_part(rows[2 * r] + k, columns - k), odd);
                    memcpy(left + tile * LEFT_TILE + r * LEFT_WIDTH + i, &both, least(LANES, LEFT_WIDTH) * sizeof(REAL));
                }
}

static const REAL *NARROW_FN(turn)(const fastrnn_layer *l, ptrdiff_t b, ptrdiff_t row, ptrdiff_t count, REAL *room) {
    for (ptrdiff_t r = 0; r < count; r += 2)
        for (int slot = 0; slot < 4; slot++) {
            const REAL *even = FN(z_at)(l, b, row + r) + slot * LANES;
            const vint both = pairs_bf16(vec_load(even), r + 1 < count ? vec_load(even + Z_WIDTH) : (vec){0});
            vec_store(room + (2 * r + slot) * LANES, (vec)both);
        }
    return room;
}

static void NARROW_FN(outer_multiply)(
    vec (*sums)[4], const REAL *left, ptrdiff_t tile, const REAL *z, int slots, ptrdiff_t height, ptrdiff_t count) {
    const NARROWED(product) m = {
        .a = (const int32_t *)left + tile * LEFT_TILE, .a_row = 1, .a_k = LEFT_WIDTH, .p = (const int32_t *)z,
        .p_k = Z_WIDTH, .K = ceil_div(count, 2), .segments = 1};
    NARROWED(accumulate_tile)(slots, height, sums, &m, 0, 0);
}

static void NARROW_FN(weight_gradients)(const fastrnn_layer *l, ptrdiff_t b0, ptrdiff_t b1) {
    static const FN(outer) pairs = {
        .pack = NARROW_FN(pack_left), .turn = NARROW_FN(turn), .multiply = NARROW_FN(outer_multiply)};
    FN(weight_gradients_by)(l, b0, b1, &pairs);
}
#endif

#undef NARROW_Z_WIDTH
#undef NARROW_FN
