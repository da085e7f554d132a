/* The phases of a layer for one cell, CELL, with products of split floats: see split.inc.h for how, fastrnn_cell in
 * kernels.h for what. Comes after layer.inc.h, shares its layouts of Z, c and bias and its point functions, and leaves to
 * it what is not worth splitting.
 *
 * split_panels: right tiles, in forward [block][slot][k-block], in backward [16 inputs][k-block of Z order].
 * Z order, as one product runs over it, is cut into "chunks" of a slot's 16 lanes, two to a k-block. */

#define BLOCKS_AT_ONCE 32   /* k-blocks after which sums go to memory: left tiles of a few row tiles stay in L2 */
#define ROWS_AT_ONCE 128    /* rows that share one pass over the weights of an input product or gradient */
#define GRADIENT_COLUMNS 16 /* tiles of 16 columns of x or h_prev that are split together, to stay in L2 */
#define GRADIENT_GROUP 8    /* blocks that share this splitting */
#define GRADIENT_K (FASTRNN_GRADIENT_ROWS / TILE_K)

INLINE ptrdiff_t FN(k_blocks)(ptrdiff_t columns) { return ceil_div(columns, TILE_K); }
INLINE ptrdiff_t FN(column_tiles)(ptrdiff_t columns) { return ceil_div(columns, TILE_SIDE); }
INLINE ptrdiff_t FN(chunks)(const fastrnn_layer *l) {
    return UNITS == 1 || IS_PROGRAM ? FN(slots_of)(l, FN(of_x)) : ceil_div(l->hidden, LANES);
}
/* Chunk i of a row of Z; NULL beyond the last one, and where a program's units are beyond H. */
INLINE const REAL *FN(chunk)(const fastrnn_layer *l, ptrdiff_t i, ptrdiff_t row) {
    if (i >= FN(chunks)(l)) return NULL;
    if (!IS_PROGRAM) return FN(z_at)(l, i / PANEL_SLOTS, row) + i % PANEL_SLOTS * LANES;
    const ptrdiff_t units = FN(group)(l), group = i / (units * l->program->x_slots), at = i % (units * l->program->x_slots);
    if (FN(left)(l, group * units + at % units) <= 0) return NULL;
    return FN(z_at)(l, group * FN(strands)(l) + at / 4, row) + at % 4 * LANES;
}
INLINE ptrdiff_t FN(z_blocks)(const fastrnn_layer *l) { return ceil_div(FN(chunks)(l), 2); }

static void FN(split_measure)(const fastrnn_layer *l, fastrnn_sizes *sizes) {
    const ptrdiff_t I = l->inputs, tiles = ROWS_AT_ONCE / TILE_SIDE;
    FN(measure)(l, sizes);
    if (l->split_x) {
        const ptrdiff_t sums = ROWS_AT_ONCE * NAME(sums_row)(I), left = tiles * BLOCKS_AT_ONCE * SPLIT_SIZE;
        sizes->split_forward = PANEL_SLOTS * FN(k_blocks)(I) * SPLIT_SIZE;
        sizes->split_backward = 4 * FN(z_blocks)(l) * SPLIT_SIZE;
        sizes->forward_scratch = tiles * FN(k_blocks)(I) * SPLIT_SIZE;
        if (sizes->backward_scratch < sums + left) sizes->backward_scratch = sums + left;
    }
    if (l->split_w) {
        const ptrdiff_t sums_row = NAME(sums_row)(FN(column_tiles)(I) * TILE_SIDE + l->outputs);
        const ptrdiff_t of_a_block = 4 * GRADIENT_K * SPLIT_SIZE + Z_WIDTH * (sums_row + (l->tokens ? I : 0));
        const ptrdiff_t scratch = GRADIENT_GROUP * of_a_block + GRADIENT_COLUMNS * GRADIENT_K * SPLIT_SIZE +
                                  (l->tokens ? FN(column_tiles)(I) * TILE_SIDE : 0);
        if (sizes->backward_scratch < scratch) sizes->backward_scratch = scratch;
    }
}

/* ---- forward ---- */

static void FN(split_pack)(const fastrnn_layer *l, ptrdiff_t b0, ptrdiff_t b1) {
    const ptrdiff_t I = l->inputs, tile_size = FN(k_blocks)(I) * SPLIT_SIZE;
    FN(pack)(l, b0, b1);
    for (ptrdiff_t b = b0; l->split_x && !l->tokens && b < b1; b++)
        NAME(split_panel)(
            (REAL *)l->split_panels + b * PANEL_SLOTS * tile_size, tile_size, (const REAL *)l->panels + b * l->panel_stride,
            FN(feed_of_x)(l, b).width * LANES, I, FN(feed_of_x)(l, b).fed);
}

/* Z := bias + x weight_ih^T in block b, for tiles of split rows of x. The sums are made in Z itself. */
INLINE void FN(split_input_product)(
    const fastrnn_layer *l, ptrdiff_t b, ptrdiff_t row, ptrdiff_t rows, const REAL *x_tiles, ptrdiff_t height) {
    const ptrdiff_t tile_size = FN(k_blocks)(l->inputs) * SPLIT_SIZE;
    vec(*z)[4] = (vec(*)[4])FN(z_at)(l, b, row);
    if (IS_PROGRAM && !FN(is_fed)(l, b)) return;
    for (ptrdiff_t r = 0; r < rows; r++) memcpy(z[r], (const vec *)l->bias + 4 * b, sizeof(*z));
    const NAME(split_product) m = {
        .left = x_tiles, .left_tile = tile_size, .right = (const REAL *)l->split_panels + b * PANEL_SLOTS * tile_size,
        .right_tile = tile_size, .K = l->inputs, .sums = (REAL *)z, .sums_row = Z_WIDTH, .height = height};
    NAME(split_multiply)(&m, rows / height, FN(feed_of_x)(l, b).fed);
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
        NAME(split_rows)(tiles, tile_size, (const REAL *)l->x + row * I, I, rows);
        NAME(unit_acquire)(TILE_SIDE);
        for (ptrdiff_t b = b0; full && b < b1; b++) FN(split_input_product)(l, b, row, full, tiles, TILE_SIDE);
        if (rest) NAME(unit_acquire)(rest);
        for (ptrdiff_t b = b0; rest && b < b1; b++)
            FN(split_input_product)(l, b, row + full, rest, tiles + full / TILE_SIDE * tile_size, rest);
        NAME(unit_release)();
    }
}

/* ---- backward ---- */

static void FN(split_pack_input)(const fastrnn_layer *l, ptrdiff_t p0, ptrdiff_t p1) {
    const ptrdiff_t tile_size = FN(z_blocks)(l) * SPLIT_SIZE, panel_size = FN(slots_of)(l, FN(of_x)) * LANES * Z_WIDTH;
    FN(pack_input)(l, p0, p1);
    for (ptrdiff_t p = p0; l->split_x && p < p1; p++)
        NAME(split_panel)(
            (REAL *)l->split_panels + 4 * p * tile_size, tile_size, (const REAL *)l->panels_ih + p * panel_size, Z_WIDTH,
            FN(chunks)(l) * LANES, least(4, FN(column_tiles)(l->inputs) - 4 * p));
}

/* sums [slot of the block][16][sums_row] += Z^T left, for columns of x or h_prev, over a chunk of rows that lie split in
 * z_tiles [slot][k-block] and in right tiles [column tile][k-block]. Chunks are summed on their own first, which makes
 * errors a third at 3,200 rows. */
INLINE void FN(split_outer_product)(
    REAL *sums, ptrdiff_t sums_row, const REAL *z_tiles, int slots, const REAL *right, ptrdiff_t columns, ptrdiff_t rows) {
    enum { tile_size = GRADIENT_K * SPLIT_SIZE };
    for (ptrdiff_t j = 0; j < columns; j += 2) {
        const ptrdiff_t width = least(2, columns - j);
        vec chunk[4 * TILE_SIDE][2];
        memset(chunk, 0, sizeof(chunk));
        const NAME(split_product) m = {
            .left = z_tiles, .left_tile = tile_size, .right = right + j * tile_size, .right_tile = tile_size, .K = rows,
            .sums = (REAL *)chunk, .sums_row = 2 * LANES, .height = TILE_SIDE};
        NAME(split_multiply)(&m, slots, width);
        for (ptrdiff_t r = 0; r < slots * TILE_SIDE; r++)
            for (ptrdiff_t v = 0; v < width; v++) {
                REAL *sum = sums + r * sums_row + (j + v) * LANES;
                vec_store(sum, vec_load(sum) + chunk[r][v]);
            }
    }
}

/* Columns first and on of all blocks' sums := what the gradient dw (G*H, columns) of x or h_prev holds */
INLINE void FN(split_pack_gradient)(
    const fastrnn_layer *l, REAL *sums, ptrdiff_t sums_row, const REAL *dw, ptrdiff_t columns, ptrdiff_t b, FN(feed) feed) {
    for (int slot = 0; slot < feed.fed; slot++) {
        ptrdiff_t lanes;
        const ptrdiff_t row = FN(weight_row)(l, b, slot, feed.gates[slot], &lanes);
        for (ptrdiff_t lane = 0; lane < lanes; lane++)
            memcpy(
                sums + ((feed.first + slot) * TILE_SIDE + lane) * sums_row, dw + (row + lane) * columns,
                (size_t)columns * sizeof(REAL));
    }
}

/* The inverse; with a NULL for dw, whether there is a NaN among them. */
INLINE int FN(split_unpack_gradient)(
    const fastrnn_layer *l, const REAL *sums, ptrdiff_t sums_row, REAL *dw, ptrdiff_t columns, ptrdiff_t b, FN(feed) feed) {
    int spoilt = 0;
    for (int slot = 0; slot < feed.fed; slot++) {
        ptrdiff_t lanes;
        const ptrdiff_t row = FN(weight_row)(l, b, slot, feed.gates[slot], &lanes);
        for (ptrdiff_t lane = 0; lane < lanes; lane++) {
            const REAL *its = sums + ((feed.first + slot) * TILE_SIDE + lane) * sums_row;
            if (dw)
                memcpy(dw + (row + lane) * columns, its, (size_t)columns * sizeof(REAL));
            else
                spoilt |= NAME(any_nan)(its, FN(column_tiles)(columns));
        }
    }
    return spoilt;
}

static void FN(split_weight_gradients)(const fastrnn_layer *l, ptrdiff_t b0, ptrdiff_t b1) {
    if (!l->split_w) {
        FN(weight_gradients)(l, b0, b1);
        return;
    }
    const ptrdiff_t I = l->inputs, P = FN(slots_of)(l, FN(of_h)) ? l->outputs : 0;
    const ptrdiff_t x_width = l->tokens ? 0 : FN(column_tiles)(I) * TILE_SIDE;
    const ptrdiff_t sums_row = NAME(sums_row)(x_width + P), block_size = Z_WIDTH * sums_row;
    REAL *const z_tiles = l->scratch;
    REAL *const right = z_tiles + GRADIENT_GROUP * 4 * GRADIENT_K * SPLIT_SIZE;
    REAL *const sums = right + GRADIENT_COLUMNS * GRADIENT_K * SPLIT_SIZE;
    vec(*const token_sums)[4] = (vec(*)[4])(sums + GRADIENT_GROUP * block_size);
    int32_t *const first_same = (int32_t *)(token_sums + GRADIENT_GROUP * I); /* by token, of which there are I */
    for (ptrdiff_t first = b0, last; first < b1; first = last) {
        last = least(first + GRADIENT_GROUP, b1);
        memset(sums, 0, (size_t)((last - first) * block_size) * sizeof(REAL));
        if (l->tokens) memset(token_sums, 0, (size_t)((last - first) * I) * sizeof(*token_sums));
        for (ptrdiff_t b = first; l->dweight_add && b < last; b++) {
            REAL *block = sums + (b - first) * block_size;
            if (l->tokens)
                FN(pack_gradient)(l, (REAL *)token_sums[(b - first) * I], l->dweight_ih, I, b, FN(feed_of_x)(l, b));
            else
                FN(split_pack_gradient)(l, block, sums_row, l->dweight_ih, I, b, FN(feed_of_x)(l, b));
            FN(split_pack_gradient)(l, block + x_width, sums_row, l->dweight_hh, P, b, FN(feed_of_h)(l, b));
        }
        for (ptrdiff_t i = 0; i < l->chunk_count; i++) {
            const ptrdiff_t row = l->chunks[2 * i], count = l->chunks[2 * i + 1], blocks = FN(k_blocks)(count);
            const REAL *h_prev[FASTRNN_GRADIENT_ROWS];
            FN(rows_before)(l, h_prev, row, count);
            if (i % FASTRNN_CHUNKS_TO_LOOK == 0) { /* the handler of a signal may use the unit as well */
                NAME(unit_release)();
                if (fastrnn_stopped(l->watch)) return;
                NAME(unit_acquire)(TILE_SIDE);
            }
            for (ptrdiff_t b = first; b < last; b++)
                for (int slot = 0; slot < 4 && FN(is_fed)(l, b); slot++)
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
            if (l->tokens) {
                unsigned char next_same[FASTRNN_GRADIENT_ROWS];
                FN(link_tokens)(l->tokens + row, count, first_same, next_same);
                for (ptrdiff_t b = first; b < last; b++)
                    FN(token_sums)(l, token_sums + (b - first) * I, first_same, next_same, b, row, count);
            }
            for (int part = l->tokens ? 1 : 0; part < 2; part++) { /* x, then h_prev */
                const ptrdiff_t columns = part ? P : I;
                for (ptrdiff_t at = 0; at < columns; at += GRADIENT_COLUMNS * TILE_SIDE) {
                    const ptrdiff_t width = least(GRADIENT_COLUMNS * TILE_SIDE, columns - at);
                    for (ptrdiff_t k = 0; k < blocks; k++) {
                        const REAL *of_rows[TILE_K] = {NULL};
                        for (ptrdiff_t r = k * TILE_K; r < least((k + 1) * TILE_K, count); r++)
                            of_rows[r % TILE_K] = at + (part ? h_prev[r] : (const REAL *)l->x + (row + r) * I);
                        NAME(split_row_pairs)(right + k * SPLIT_SIZE, GRADIENT_K * SPLIT_SIZE, of_rows, width);
                    }
                    for (ptrdiff_t b = first; b < last; b++) {
                        const FN(feed) feed = FN(feed_of)(l, b, part ? FN(of_h) : FN(of_x));
                        if (IS_PROGRAM && !feed.fed) continue;
                        FN(split_outer_product)(
                            sums + (b - first) * block_size + feed.first * TILE_SIDE * sums_row + part * x_width + at,
                            sums_row, z_tiles + ((b - first) * 4 + feed.first) * GRADIENT_K * SPLIT_SIZE, feed.fed, right,
                            FN(column_tiles)(width), count);
                    }
                }
            }
        }
        NAME(unit_release)();
        int spoilt = 0;
        for (ptrdiff_t b = first; b < last; b++) {
            const REAL *block = sums + (b - first) * block_size;
            if (!l->tokens) spoilt |= FN(split_unpack_gradient)(l, block, sums_row, NULL, I, b, FN(feed_of_x)(l, b));
            spoilt |= FN(split_unpack_gradient)(l, block + x_width, sums_row, NULL, P, b, FN(feed_of_h)(l, b));
        }
        for (ptrdiff_t b = first; !spoilt && b < last; b++) {
            const REAL *block = sums + (b - first) * block_size;
            if (l->tokens)
                FN(unpack_gradient)(l, l->dweight_ih, (REAL *)token_sums[(b - first) * I], I, b, FN(feed_of_x)(l, b));
            else
                FN(split_unpack_gradient)(l, block, sums_row, l->dweight_ih, I, b, FN(feed_of_x)(l, b));
            FN(split_unpack_gradient)(l, block + x_width, sums_row, l->dweight_hh, P, b, FN(feed_of_h)(l, b));
            vec biases[4];
            if (!FN(has_biases)(l, b)) continue;
            FN(begin_biases)(l, b, biases);
            for (ptrdiff_t i = 0; i < l->chunk_count; i++) {
                if (i % FASTRNN_CHUNKS_TO_LOOK == 0 && i && fastrnn_stopped(l->watch)) return;
                FN(add_biases)(l, b, biases, l->chunks[2 * i], l->chunks[2 * i + 1]);
            }
            FN(end_biases)(l, b, biases);
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
    const ptrdiff_t I = l->inputs, blocks = FN(z_blocks)(l), sums_row = NAME(sums_row)(I), columns = FN(column_tiles)(I);
    REAL *const left = l->scratch, *const sums = left + ROWS_AT_ONCE / TILE_SIDE * left_tile;
    for (ptrdiff_t row = row0, rows; row < row1; row += rows) {
        rows = least(ROWS_AT_ONCE, row1 - row);
        if (fastrnn_stopped(l->watch)) return;
        NAME(unit_acquire)(TILE_SIDE); /* for these rows only: the handler of a signal may use the unit as well */
        memset(sums, 0, (size_t)(rows * sums_row) * sizeof(REAL));
        for (ptrdiff_t k = 0, count; k < blocks; k += count) {
            count = least(BLOCKS_AT_ONCE, blocks - k);
            const REAL *z[2 * BLOCKS_AT_ONCE];
            for (ptrdiff_t chunk = 0; chunk < 2 * count; chunk++) z[chunk] = FN(chunk)(l, 2 * k + chunk, row);
            for (ptrdiff_t r = 0; r < rows; r++)
                for (ptrdiff_t chunk = 0; chunk < 2 * count; chunk++)
                    NAME(split_left)(
                        left + r / TILE_SIDE * left_tile + chunk / 2 * SPLIT_SIZE, r % TILE_SIDE, chunk % 2,
                        z[chunk] ? vec_load(z[chunk] + r * Z_WIDTH) : (vec){0});
            const NAME(split_product) m = {
                .left = left, .left_tile = left_tile, .right = (const REAL *)l->split_panels + k * SPLIT_SIZE,
                .right_tile = blocks * SPLIT_SIZE, .K = count * TILE_K, .sums = sums, .sums_row = sums_row,
                .height = TILE_SIDE};
            NAME(split_multiply)(&m, NAME(left_tiles)(rows), columns);
        }
        for (ptrdiff_t r = 0; r < rows; r++)
            for (ptrdiff_t q = 0; q < columns; q++) {
                REAL *dx = (REAL *)l->dx + (row + r) * I + q * LANES;
                const REAL *sum = sums + r * sums_row + q * LANES;
                vec acc[1][4] = {{{0}}};
                if (NAME(any_nan)(sum, 1)) {
                    FN(z_product)(l, NULL, 4, acc, row + r, 1, FN(of_x), q / 4);
                    sum = (const REAL *)&acc[0][q % 4];
                }
                vec total = vec_load(sum);
                if (l->dx_add) total += vec_load_part(dx, I - q * LANES);
                vec_store_part(dx, total, I - q * LANES);
            }
        NAME(unit_release)();
    }
}

#undef BLOCKS_AT_ONCE
#undef ROWS_AT_ONCE
#undef GRADIENT_COLUMNS
#undef GRADIENT_GROUP
#undef GRADIENT_K

#define SPLIT_CELL_ROW(cell)                                                                                      \
    {                                                                                                             \
        .block_units = NAME(cell##_units) * LANES, .measure = NAME(cell##_PRODUCTS(split_measure)),               \
        .pack = NAME(cell##_PRODUCTS(split_pack)), .project = NAME(cell##_PRODUCTS(split_project)),               \
        .step = NAME(cell##_step),                                                                                \
        .steps_of_row = cell##_OF_ROW(steps_of_row),                                                              \
        .steps_of_rows = cell##_OF_ROW(steps_of_rows),                                                            \
        .step_take = cell##_MIDDLE(step_take), .step_middle = cell##_MIDDLE(step_middle),                         \
        .step_back_middle = cell##_MIDDLE(step_back_middle), .step_phases = cell##_MIDDLE(step_phases),           \
        .step_back_phases = cell##_MIDDLE(step_back_phases), .own_gradients = cell##_MIDDLE(own_gradients),       \
        .read_tape = NAME(cell##_PRODUCTS(read_tape)),                                                            \
        .pack_hidden = NAME(cell##_PRODUCTS(pack_hidden)), .pack_input = NAME(cell##_PRODUCTS(split_pack_input)), \
        .step_back = NAME(cell##_step_back), .step_back_gates = NAME(cell##_step_back_gates),                     \
        .weight_gradients = NAME(cell##_PRODUCTS(split_weight_gradients)),                                        \
        .input_gradient = NAME(cell##_PRODUCTS(split_input_gradient)),                                            \
    }
