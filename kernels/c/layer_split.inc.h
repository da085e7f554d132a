/* The phases of a layer for one cell, CELL, with products of split floats: see split.inc.h for how, fastrnn_cell in
 * kernels.h for what. Comes after layer.inc.h, shares its layouts of Z, c and bias and its point functions, and leaves to
 * it what is not worth splitting.
 *
 * split_panels  right tiles, forward: [block][x: slot, k-block][h: slot, k-block]; backward: [16 columns][k-block of Z order]
 * left          left tiles, forward: [t % 2][tile of batch rows][k-block of h]; backward: the same of Z order
 *
 * Z order, as one product runs over it, is cut into "chunks" of a slot's 16 lanes, two to a k-block. */

enum {
    FN(blocks_at_once) = 32,   /* k-blocks after which sums go to memory: left tiles of a few row tiles stay in L2 */
    FN(rows_at_once) = 128,    /* rows that share one pass over the weights of an input product or gradient */
    FN(gradient_rows) = 256,   /* rows whose products a weight gradient sums before its sums go to memory */
    FN(gradient_columns) = 16, /* tiles of 16 columns of x or h_prev that are split together, to stay in L2 */
    FN(gradient_group) = 8,    /* blocks that share this splitting */
};
#define BLOCKS_AT_ONCE FN(blocks_at_once)
#define ROWS_AT_ONCE FN(rows_at_once)
#define GRADIENT_ROWS FN(gradient_rows)
#define GRADIENT_COLUMNS FN(gradient_columns)
#define GRADIENT_GROUP FN(gradient_group)
#define GRADIENT_K (GRADIENT_ROWS / TILE_K)

INLINE ptrdiff_t FN(k_blocks)(ptrdiff_t columns) { return ceil_div(columns, TILE_K); }
INLINE ptrdiff_t FN(column_tiles)(ptrdiff_t columns) { return ceil_div(columns, TILE_SIDE); }
INLINE ptrdiff_t FN(chunks)(const fastrnn_layer *l) {
    return UNITS == 1 ? FN(blocks)(l) * PANEL_SLOTS : ceil_div(l->hidden, LANES);
}
INLINE ptrdiff_t FN(z_blocks)(const fastrnn_layer *l) { return ceil_div(FN(chunks)(l), 2); }

/* Elements of a block's right tiles for x */
INLINE ptrdiff_t FN(split_x_size)(const fastrnn_layer *l) {
    return l->split_x ? PANEL_SLOTS * FN(k_blocks)(l->inputs) * SPLIT_SIZE : 0;
}
/* Elements of the right tiles of 64 columns of a weight in Z order */
INLINE ptrdiff_t FN(split_z_size)(const fastrnn_layer *l) { return 4 * FN(z_blocks)(l) * SPLIT_SIZE; }

static void FN(split_measure)(const fastrnn_layer *l, ptrdiff_t rows, fastrnn_sizes *sizes) {
    const ptrdiff_t I = l->inputs, H = l->hidden, tiles = NAME(left_tiles)(rows), z_blocks = FN(z_blocks)(l);
    FN(measure)(l, rows, sizes);
    sizes->split_panel = FN(split_x_size)(l);
    if (l->split_x) {
        const ptrdiff_t at_once = NAME(left_tiles)(ROWS_AT_ONCE);
        sizes->split_input = FN(split_z_size)(l);
        sizes->forward_scratch = at_once * FN(k_blocks)(I) * SPLIT_SIZE;
        NAME(at_least)(
            &sizes->backward_scratch, ROWS_AT_ONCE * NAME(sums_row)(ceil_div(I, Z_WIDTH) * Z_WIDTH) + at_once * BLOCKS_AT_ONCE * SPLIT_SIZE);
    }
    if (l->split_h) {
        sizes->split_panel += PANEL_SLOTS * FN(k_blocks)(H) * SPLIT_SIZE;
        sizes->split_hidden = FN(split_z_size)(l);
        sizes->left_forward = 2 * tiles * FN(k_blocks)(H) * SPLIT_SIZE;
        sizes->left_backward = 2 * tiles * z_blocks * SPLIT_SIZE;
        NAME(at_least)(&sizes->backward_scratch, tiles * TILE_SIDE * NAME(sums_row)(ceil_div(H, Z_WIDTH) * Z_WIDTH));
    }
    if (l->split_w) {
        const ptrdiff_t sums_row = NAME(sums_row)(FN(column_tiles)(I) * TILE_SIDE + H);
        const ptrdiff_t of_a_block = 4 * GRADIENT_K * SPLIT_SIZE + Z_WIDTH * (sums_row + (l->tokens ? I : 0));
        NAME(at_least)(
            &sizes->backward_scratch, GRADIENT_GROUP * of_a_block + GRADIENT_COLUMNS * GRADIENT_K * SPLIT_SIZE);
    }
}

/* ---- forward ---- */

static void FN(split_pack)(const fastrnn_layer *l, ptrdiff_t b0, ptrdiff_t b1) {
    enum { p_k = PANEL_SLOTS * LANES };
    const ptrdiff_t x_blocks = FN(k_blocks)(l->inputs), h_blocks = FN(k_blocks)(l->hidden);
    FN(pack)(l, b0, b1);
    for (ptrdiff_t b = b0; b < b1; b++) {
        const REAL *panel = (const REAL *)l->panels + b * l->panel_stride;
        REAL *tiles = (REAL *)l->split_panels + b * l->split_stride;
        if (l->split_x) NAME(split_panel)(tiles, x_blocks * SPLIT_SIZE, panel, p_k, l->inputs, FN(fed)(l, b));
        if (l->split_h)
            NAME(split_panel)(
                tiles + FN(split_x_size)(l), h_blocks * SPLIT_SIZE, panel + l->inputs * p_k, p_k, l->hidden, FN(fed)(l, b));
    }
}

/* sums += left tiles times those right ones of block b that begin at `at` and are K k's deep */
INLINE void FN(split_block_product)(
    const fastrnn_layer *l, ptrdiff_t b, REAL *sums, const REAL *left, ptrdiff_t tiles, ptrdiff_t height, ptrdiff_t K,
    ptrdiff_t at) {
    const ptrdiff_t tile_size = FN(k_blocks)(K) * SPLIT_SIZE;
    const NAME(split_product) m = {
        .left = left, .left_tile = tile_size, .right = (const REAL *)l->split_panels + b * l->split_stride + at,
        .right_tile = tile_size, .K = K, .sums = sums, .sums_row = Z_WIDTH, .height = height};
    NAME(split_multiply)(&m, tiles, FN(fed)(l, b));
}

static void FN(split_start)(const fastrnn_layer *l, ptrdiff_t n0, ptrdiff_t n1) {
    if (!l->split_h) return;
    NAME(split_rows)(
        l->left, FN(k_blocks)(l->hidden) * SPLIT_SIZE, NAME(left_height)(n1 - n0), (const REAL *)l->h_0 + n0 * l->hidden,
        l->hidden, n1 - n0);
}

/* Z := bias + x weight_ih^T in block b, for tiles of split rows of x. The sums are made in Z itself. */
INLINE void FN(split_input_product)(
    const fastrnn_layer *l, ptrdiff_t b, ptrdiff_t row, ptrdiff_t rows, const REAL *x_tiles, ptrdiff_t height) {
    vec(*z)[4] = (vec(*)[4])FN(z_at)(l, b, row);
    for (ptrdiff_t r = 0; r < rows; r++) memcpy(z[r], (const vec *)l->bias + 4 * b, sizeof(*z));
    FN(split_block_product)(l, b, (REAL *)z, x_tiles, rows / height, height, l->inputs, 0);
    for (ptrdiff_t r = 0; NAME(any_nan)((const REAL *)z, 4 * rows) && r < rows; r++)
        if (NAME(any_nan)((const REAL *)z[r], 4)) FN(input_product)(l, z + r, b, row + r, 1, 0, NULL, 0);
}

static void FN(split_project)(const fastrnn_layer *l, ptrdiff_t b0, ptrdiff_t b1, ptrdiff_t row0, ptrdiff_t row1) {
    if (!l->split_x) {
        FN(project)(l, b0, b1, row0, row1);
        return;
    }
    const ptrdiff_t I = l->inputs, tile_size = FN(k_blocks)(I) * SPLIT_SIZE;
    REAL *const tiles = l->scratch;
    for (ptrdiff_t row = row0, rows; row < row1; row += rows) {
        rows = least(ROWS_AT_ONCE, row1 - row);
        /* No tile may reach beyond its rows of Z: the rest that does not fill one has tiles of its own height. */
        const ptrdiff_t rest = rows % TILE_SIDE, full = rows - rest;
        NAME(split_rows)(tiles, tile_size, TILE_SIDE, (const REAL *)l->x + row * I, I, rows);
        NAME(unit_acquire)(TILE_SIDE);
        for (ptrdiff_t b = b0; full && b < b1; b++) FN(split_input_product)(l, b, row, full, tiles, TILE_SIDE);
        if (rest) NAME(unit_acquire)(rest);
        for (ptrdiff_t b = b0; rest && b < b1; b++)
            FN(split_input_product)(l, b, row + full, rest, tiles + full / TILE_SIDE * tile_size, rest);
        NAME(unit_release)();
    }
}

/* acc := the input's part of the sums of batch rows n .. n + rows - 1 */
INLINE void FN(start_sums)(const fastrnn_layer *l, vec (*acc)[4], ptrdiff_t t, ptrdiff_t b, ptrdiff_t n, ptrdiff_t rows) {
    const ptrdiff_t row = t * l->batch + n;
    if (l->projected)
        memcpy(acc, FN(z_at)(l, b, row), (size_t)rows * sizeof(*acc));
    else
        for (ptrdiff_t r = 0; r < rows; r += TILE_ROWS)
            FN(input_product)(l, acc + r, b, row + r, least(TILE_ROWS, rows - r), 0, NULL, 0);
}

static void FN(split_step)(
    const fastrnn_layer *l, ptrdiff_t t, ptrdiff_t b0, ptrdiff_t b1, ptrdiff_t n0, ptrdiff_t n1) {
    if (!l->split_h) {
        FN(step)(l, t, b0, b1, n0, n1);
        return;
    }
    const ptrdiff_t N = l->batch, H = l->hidden, blocks = FN(k_blocks)(H), tile_size = blocks * SPLIT_SIZE;
    const ptrdiff_t tiles = NAME(left_tiles)(n1 - n0), height = NAME(left_height)(n1 - n0);
    const REAL *h_prev = t ? (const REAL *)l->y + (t - 1) * N * H : l->h_0;
    const REAL *h_tiles = (const REAL *)l->left + t % 2 * tiles * tile_size;
    REAL *const next_tiles = (REAL *)l->left + (t + 1) % 2 * tiles * tile_size;
    NAME(unit_acquire)(height);
    for (ptrdiff_t i = 0; i < b1 - b0; i++) {
        const ptrdiff_t b = t % 2 ? b1 - 1 - i : b0 + i; /* turns as FN(step) does */
        const REAL *panel = (const REAL *)l->panels + b * l->panel_stride + l->inputs * PANEL_SLOTS * LANES;
        for (ptrdiff_t tile = 0; tile < tiles; tile += 2) {
            const ptrdiff_t n = n0 + tile * height, rows = least(2 * height, n1 - n);
            vec acc[2 * TILE_SIDE][4];
            FN(start_sums)(l, acc, t, b, n, rows);
            FN(split_block_product)(
                l, b, (REAL *)(*acc + HIDDEN_SLOT), h_tiles + tile * tile_size, least(2, tiles - tile), height, H,
                FN(split_x_size)(l));
            for (ptrdiff_t r = 0; NAME(any_nan)((const REAL *)acc, 4 * rows) && r < rows; r++)
                if (NAME(any_nan)((const REAL *)acc[r], 4)) {
                    const NAME(product) m = {
                        .a = h_prev + (n + r) * H, .a_k = 1, .p = panel, .p_k = PANEL_SLOTS * LANES, .K = H, .segments = 1};
                    FN(start_sums)(l, acc + r, t, b, n + r, 1);
                    NAME(accumulate_tile)(FN(fed)(l, b), 1, (vec(*)[4])(acc[r] + HIDDEN_SLOT), &m, 0, 0);
                }
            FN(activate)(l, acc, t, b, n, rows);
            for (ptrdiff_t r = 0; r < rows; r++)
                for (int u = 0; u < (UNITS == 1 ? 1 : FN(fed)(l, b)); u++) {
                    const ptrdiff_t q = b * UNITS + u;
                    const REAL *h = (const REAL *)l->y + (t * N + n + r) * H + q * LANES;
                    NAME(split_left)(
                        next_tiles + (tile + r / height) * tile_size + q / 2 * SPLIT_SIZE, r % height, q % 2,
                        vec_load_part(h, FN(left)(l, q)));
                }
        }
    }
    NAME(unit_release)();
}

/* ---- backward ---- */

/* Right tiles of 64 columns := panel p of panels_hh or panels_ih */
INLINE void FN(split_columns)(const fastrnn_layer *l, const void *panels, ptrdiff_t columns, ptrdiff_t p0, ptrdiff_t p1) {
    const ptrdiff_t K = FN(chunks)(l) * LANES, panel_size = FN(blocks)(l) * PANEL_SLOTS * LANES * Z_WIDTH;
    for (ptrdiff_t p = p0; p < p1; p++)
        NAME(split_panel)(
            (REAL *)l->split_panels + p * FN(split_z_size)(l), FN(z_blocks)(l) * SPLIT_SIZE,
            (const REAL *)panels + p * panel_size, Z_WIDTH, K, least(4, ceil_div(columns - p * Z_WIDTH, LANES)));
}

static void FN(split_pack_hidden)(const fastrnn_layer *l, ptrdiff_t p0, ptrdiff_t p1) {
    FN(pack_hidden)(l, p0, p1);
    if (l->split_h) FN(split_columns)(l, l->panels_hh, l->hidden, p0, p1);
}

static void FN(split_pack_input)(const fastrnn_layer *l, ptrdiff_t p0, ptrdiff_t p1) {
    FN(pack_input)(l, p0, p1);
    if (l->split_x) FN(split_columns)(l, l->panels_ih, l->inputs, p0, p1);
}

/* sums += left tiles, of `blocks` k-blocks of Z order from block k on, times the same of panels p0 .. p1-1, of `columns` */
INLINE void FN(split_z_product)(
    const fastrnn_layer *l, REAL *sums, ptrdiff_t sums_row, const REAL *left, ptrdiff_t left_tile, ptrdiff_t tiles,
    ptrdiff_t height, ptrdiff_t k, ptrdiff_t blocks, ptrdiff_t columns, ptrdiff_t p0, ptrdiff_t p1) {
    const NAME(split_product) m = {
        .left = left, .left_tile = left_tile,
        .right = (const REAL *)l->split_panels + p0 * FN(split_z_size)(l) + k * SPLIT_SIZE,
        .right_tile = FN(z_blocks)(l) * SPLIT_SIZE, .K = blocks * TILE_K, .sums = sums, .sums_row = sums_row,
        .height = height};
    NAME(split_multiply)(&m, tiles, least(4 * p1, FN(column_tiles)(columns)) - 4 * p0);
}

/* Vector q of a row of Z, from slot `slot` on, times panels_hh or panels_ih, as a chain of multiply-adds */
INLINE vec FN(mended_z_product)(
    const fastrnn_layer *l, ptrdiff_t row, int slot, const void *panels, const void *w, const int gates[4],
    ptrdiff_t columns, ptrdiff_t q) {
    vec acc[1][4] = {{{0}}};
    FN(z_product)(l, 4, acc, row, 1, slot, panels, w, gates, columns, q / 4);
    return acc[0][q % 4];
}

/* Part `chunk` of a row of left tiles := lanes of Z, from slot `slot` on */
INLINE void FN(split_chunk)(
    const fastrnn_layer *l, REAL *tile, ptrdiff_t tile_row, ptrdiff_t chunk, ptrdiff_t row, int slot) {
    const int real = chunk < FN(chunks)(l); /* else the other half of the last k-block */
    const vec *z = (const vec *)FN(z_at)(l, chunk / PANEL_SLOTS, row) + slot + chunk % PANEL_SLOTS;
    NAME(split_left)(tile, tile_row, chunk % 2, real ? *z : (vec){0});
}

static void FN(split_step_back)(
    const fastrnn_layer *l, ptrdiff_t t, ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t n0, ptrdiff_t n1) {
    if (!l->split_h) {
        FN(step_back)(l, t, p0, p1, n0, n1);
        return;
    }
    const ptrdiff_t tiles = NAME(left_tiles)(n1 - n0), height = NAME(left_height)(n1 - n0), N = l->batch;
    const ptrdiff_t blocks = FN(z_blocks)(l), tile_size = blocks * SPLIT_SIZE, sums_row = NAME(sums_row)((p1 - p0) * Z_WIDTH);
    const ptrdiff_t q0 = 4 * p0, q1 = least(4 * p1, ceil_div(l->hidden, LANES));
    const REAL *z_tiles = (const REAL *)l->left + (t + 1) % 2 * tiles * tile_size;
    const ptrdiff_t unit_chunks = PANEL_SLOTS / UNITS;
    REAL *const next_tiles = (REAL *)l->left + (t + 2) % 2 * tiles * tile_size, *const sums = l->scratch;
    memset(sums, 0, (size_t)(tiles * height * sums_row) * sizeof(REAL));
    if (t < l->steps - 1) {
        NAME(unit_acquire)(height);
        for (ptrdiff_t k = 0; k < blocks; k += BLOCKS_AT_ONCE)
            FN(split_z_product)(
                l, sums, sums_row, z_tiles + k * SPLIT_SIZE, tile_size, tiles, height, k, least(BLOCKS_AT_ONCE, blocks - k),
                l->hidden, p0, p1);
        NAME(unit_release)();
    }
    for (ptrdiff_t n = n0; n < n1; n++)
        for (ptrdiff_t q = q0; q < q1; q++) {
            vec sum = vec_load(sums + (n - n0) * sums_row + (q - q0) * LANES);
            if (NAME(any_nan)((const REAL *)&sum, 1))
                sum = FN(mended_z_product)(
                    l, (t + 1) * N + n, HIDDEN_SLOT, l->panels_hh, l->weight_hh, FN(h_gates), l->hidden, q);
            FN(point_gradient)(l, t, n, q, FN(given_dh)(l, t, n, q) + sum);
            for (ptrdiff_t chunk = q * unit_chunks; t >= 0 && chunk < (q + 1) * unit_chunks; chunk++)
                FN(split_chunk)(
                    l, next_tiles + (n - n0) / height * tile_size + chunk / 2 * SPLIT_SIZE, (n - n0) % height, chunk,
                    t * N + n, HIDDEN_SLOT);
        }
}

/* Row `row` of what stands before the rows of y: h_prev of every step */
INLINE const REAL *FN(h_prev_row)(const fastrnn_layer *l, ptrdiff_t row) {
    return row < l->batch ? (const REAL *)l->h_0 + row * l->hidden : (const REAL *)l->y + (row - l->batch) * l->hidden;
}

/* sums [slot of the block][16][sums_row] += Z^T left, for columns of x or h_prev, over a chunk of rows that lie split in
 * z_tiles [slot][k-block] and in right tiles [column tile][k-block] */
INLINE void FN(split_outer_product)(
    REAL *sums, ptrdiff_t sums_row, const REAL *z_tiles, int slots, const REAL *right, ptrdiff_t columns, ptrdiff_t rows) {
    const NAME(split_product) m = {
        .left = z_tiles, .left_tile = GRADIENT_K * SPLIT_SIZE, .right = right, .right_tile = GRADIENT_K * SPLIT_SIZE,
        .K = rows, .sums = sums, .sums_row = sums_row, .height = TILE_SIDE};
    NAME(split_multiply)(&m, slots, columns);
}

static void FN(split_weight_gradients)(const fastrnn_layer *l, ptrdiff_t b0, ptrdiff_t b1) {
    if (!l->split_w) {
        FN(weight_gradients)(l, b0, b1);
        return;
    }
    const ptrdiff_t I = l->inputs, H = l->hidden, rows = l->steps * l->batch;
    const ptrdiff_t x_width = l->tokens ? 0 : FN(column_tiles)(I) * TILE_SIDE;
    const ptrdiff_t sums_row = NAME(sums_row)(x_width + H), block_size = Z_WIDTH * sums_row;
    REAL *const z_tiles = l->scratch;
    REAL *const right = z_tiles + GRADIENT_GROUP * 4 * GRADIENT_K * SPLIT_SIZE;
    REAL *const sums = right + GRADIENT_COLUMNS * GRADIENT_K * SPLIT_SIZE;
    vec(*const token_sums)[4] = (vec(*)[4])(sums + GRADIENT_GROUP * block_size);
    for (ptrdiff_t first = b0, last; first < b1; first = last) {
        last = least(first + GRADIENT_GROUP, b1);
        memset(sums, 0, (size_t)((last - first) * block_size) * sizeof(REAL));
        if (l->tokens) memset(token_sums, 0, (size_t)((last - first) * I) * sizeof(*token_sums));
        NAME(unit_acquire)(TILE_SIDE);
        for (ptrdiff_t row = 0, count; row < rows; row += count) {
            count = least(GRADIENT_ROWS, rows - row);
            const ptrdiff_t blocks = FN(k_blocks)(count);
            for (ptrdiff_t b = first; b < last; b++)
                for (int slot = 0; slot < 4; slot++)
                    for (ptrdiff_t k = 0; k < 2 * blocks; k++) {
                        const REAL *z = FN(z_at)(l, b, row + k * LANES) + slot * LANES;
                        vec turned[LANES];
                        if (count - k * LANES >= LANES)
                            NAME(transpose)((REAL *)turned, LANES, z, Z_WIDTH);
                        else
                            NAME(transpose_part)((REAL *)turned, LANES, z, Z_WIDTH, count - k * LANES, LANES, 1);
                        REAL *tile = z_tiles + (((b - first) * 4 + slot) * GRADIENT_K + k / 2) * SPLIT_SIZE;
                        for (ptrdiff_t lane = 0; lane < LANES; lane++) NAME(split_left)(tile, lane, k % 2, turned[lane]);
                    }
            for (ptrdiff_t b = first; l->tokens && b < last; b++)
                FN(token_gradients)(l, token_sums + (b - first) * I, b, row, row + count);
            for (int part = l->tokens ? 1 : 0; part < 2; part++) { /* x, then h_prev */
                const ptrdiff_t columns = part ? H : I;
                for (ptrdiff_t at = 0; at < columns; at += GRADIENT_COLUMNS * TILE_SIDE) {
                    const ptrdiff_t width = least(GRADIENT_COLUMNS * TILE_SIDE, columns - at);
                    for (ptrdiff_t k = 0; k < blocks; k++) {
                        const REAL *of_rows[TILE_K] = {NULL};
                        for (ptrdiff_t r = k * TILE_K; r < least((k + 1) * TILE_K, count); r++)
                            of_rows[r % TILE_K] = part ? FN(h_prev_row)(l, row + r) : (const REAL *)l->x + (row + r) * I;
                        for (ptrdiff_t j = 0; j < FN(column_tiles)(width); j++)
                            NAME(split_row_pairs)(
                                right + (j * GRADIENT_K + k) * SPLIT_SIZE, of_rows, at + j * TILE_SIDE,
                                columns - at - j * TILE_SIDE);
                    }
                    for (ptrdiff_t b = first; b < last; b++) {
                        const int slot = part ? HIDDEN_SLOT : 0;
                        FN(split_outer_product)(
                            sums + (b - first) * block_size + slot * TILE_SIDE * sums_row + part * x_width + at, sums_row,
                            z_tiles + ((b - first) * 4 + slot) * GRADIENT_K * SPLIT_SIZE, FN(fed)(l, b), right,
                            FN(column_tiles)(width), count);
                    }
                }
            }
        }
        NAME(unit_release)();
        int spoilt = 0;
        for (ptrdiff_t b = first; b < last; b++) {
            const REAL *block = sums + (b - first) * block_size;
            if (l->tokens) FN(unpack_gradient)(l, l->dweight_ih, (REAL *)token_sums[(b - first) * I], I, b, FN(x_gates));
            for (int slot = 0; slot < FN(fed)(l, b); slot++) {
                ptrdiff_t lanes;
                const ptrdiff_t x_row = FN(weight_row)(l, b, slot, FN(x_gates)[slot], &lanes);
                const ptrdiff_t h_row = FN(weight_row)(l, b, slot, FN(h_gates)[slot], &lanes);
                for (ptrdiff_t lane = 0; lane < lanes; lane++) {
                    const REAL *x_sums = block + (slot * TILE_SIDE + lane) * sums_row;
                    const REAL *h_sums = x_sums + HIDDEN_SLOT * TILE_SIDE * sums_row + x_width;
                    if (!l->tokens) memcpy((REAL *)l->dweight_ih + (x_row + lane) * I, x_sums, (size_t)I * sizeof(REAL));
                    memcpy((REAL *)l->dweight_hh + (h_row + lane) * H, h_sums, (size_t)H * sizeof(REAL));
                    spoilt |= NAME(any_nan)(x_sums, x_width / TILE_SIDE);
                    spoilt |= NAME(any_nan)(h_sums, FN(column_tiles)(H));
                }
            }
            FN(bias_gradients)(l, b);
        }
        if (spoilt) FN(weight_gradients)(l, first, last);
    }
}

static void FN(split_input_gradient)(const fastrnn_layer *l, ptrdiff_t row0, ptrdiff_t row1) {
    if (!l->split_x) {
        FN(input_gradient)(l, row0, row1);
        return;
    }
    enum { left_tile = BLOCKS_AT_ONCE * SPLIT_SIZE };
    const ptrdiff_t I = l->inputs, blocks = FN(z_blocks)(l), sums_row = NAME(sums_row)(ceil_div(I, Z_WIDTH) * Z_WIDTH);
    REAL *const left = l->scratch, *const sums = left + NAME(left_tiles)(ROWS_AT_ONCE) * left_tile;
    NAME(unit_acquire)(TILE_SIDE);
    for (ptrdiff_t row = row0, rows; row < row1; row += rows) {
        rows = least(ROWS_AT_ONCE, row1 - row);
        memset(sums, 0, (size_t)(ROWS_AT_ONCE * sums_row) * sizeof(REAL));
        for (ptrdiff_t k = 0; k < blocks; k += BLOCKS_AT_ONCE) {
            const ptrdiff_t count = least(BLOCKS_AT_ONCE, blocks - k);
            for (ptrdiff_t r = 0; r < rows; r++)
                for (ptrdiff_t chunk = 2 * k; chunk < 2 * (k + count); chunk++)
                    FN(split_chunk)(
                        l, left + r / TILE_SIDE * left_tile + (chunk / 2 - k) * SPLIT_SIZE, r % TILE_SIDE, chunk, row + r, 0);
            FN(split_z_product)(
                l, sums, sums_row, left, left_tile, NAME(left_tiles)(rows), TILE_SIDE, k, count, I, 0,
                ceil_div(I, Z_WIDTH));
        }
        for (ptrdiff_t r = 0; r < rows; r++)
            for (ptrdiff_t k = 0; k < I; k += LANES) {
                vec dx = vec_load(sums + r * sums_row + k);
                if (NAME(any_nan)((const REAL *)&dx, 1))
                    dx = FN(mended_z_product)(l, row + r, 0, l->panels_ih, l->weight_ih, FN(x_gates), I, k / LANES);
                vec_store_part((REAL *)l->dx + (row + r) * I + k, dx, I - k);
            }
    }
    NAME(unit_release)();
}

#undef BLOCKS_AT_ONCE
#undef ROWS_AT_ONCE
#undef GRADIENT_ROWS
#undef GRADIENT_COLUMNS
#undef GRADIENT_GROUP
#undef GRADIENT_K

#define SPLIT_CELL_ROW(cell)                                                                                           \
    {                                                                                                                  \
        .block_units = NAME(cell##_units) * LANES, .measure = NAME(cell##_split_measure),                              \
        .pack = NAME(cell##_split_pack), .start = NAME(cell##_split_start), .project = NAME(cell##_split_project),     \
        .step = NAME(cell##_split_step), .pack_hidden = NAME(cell##_split_pack_hidden),                                \
        .pack_input = NAME(cell##_split_pack_input), .step_back = NAME(cell##_split_step_back),                        \
        .weight_gradients = NAME(cell##_split_weight_gradients), .input_gradient = NAME(cell##_split_input_gradient), \
    }
