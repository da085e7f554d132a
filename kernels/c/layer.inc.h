/* The phases of a layer for one cell, CELL: see fastrnn_cell in kernels.h for what each of them does. */
#define OF_CELL(name) PASTE(CELL, name)
#define FN(name) NAME(OF_CELL(name))

#define IS_PROGRAM OF_CELL(IS_PROGRAM)

enum {
    FN(units) = OF_CELL(UNITS),                /* unit vectors of a block, or of a group of blocks */
    FN(planes) = IS_PROGRAM ? FASTRNN_GROUP_BLOCKS : 1, /* blocks of a group, at the most */
    FN(slots) = 4 / OF_CELL(UNITS),            /* slots of a unit vector */
    FN(panel_slots) = OF_CELL(PANEL_SLOTS),    /* slots one product feeds */
    FN(hidden_slot) = OF_CELL(HIDDEN_SLOT),    /* the first the recurrent product feeds */
};
#define UNITS FN(units)
#define SLOTS FN(slots)
#define PANEL_SLOTS FN(panel_slots)
#define HIDDEN_SLOT FN(hidden_slot)
#define Z_WIDTH (4 * LANES)
#define UNPACKED_ROWS 48          /* rows that share one packing on the go; their sums stay in L1 */
#define HAS_C OF_CELL(HAS_C)
#define READS_H OF_CELL(READS_H)

typedef vec FN(row)[4]; /* of a block */

static const int FN(x_gates)[4] = OF_CELL(X_GATES), FN(h_gates)[4] = OF_CELL(H_GATES);

/* Blocks that have their unit vectors in common, and how many these are. */
INLINE int FN(strands)(const fastrnn_layer *l) { return IS_PROGRAM ? l->program->blocks : 1; }
INLINE int FN(group)(const fastrnn_layer *l) { return IS_PROGRAM ? l->program->units : UNITS; }
INLINE ptrdiff_t FN(groups)(const fastrnn_layer *l) { return ceil_div(l->hidden, FN(group)(l) * LANES); }
INLINE ptrdiff_t FN(blocks)(const fastrnn_layer *l) { return FN(groups)(l) * FN(strands)(l); }
/* Columns of m: none without it */
INLINE ptrdiff_t FN(m_columns)(const fastrnn_layer *l) { return IS_PROGRAM && l->program->m_slots ? l->hidden : 0; }
/* Blocks whose weight gradients are summed together */
INLINE ptrdiff_t FN(gradient_blocks)(const fastrnn_layer *l) {
    const ptrdiff_t fit = l->gradient_bytes / (REAL_BYTES * (l->inputs + l->outputs + FN(m_columns)(l)) * Z_WIDTH);
    return fit < 1 ? 1 : least(fit, FN(blocks)(l));
}
/* Hidden units in unit vector q and beyond: what the part loads and stores of q may touch. */
INLINE ptrdiff_t FN(left)(const fastrnn_layer *l, ptrdiff_t q) { return l->hidden - q * LANES; }
/* Slots of block b that one product feeds: fewer only where a block of several unit vectors ends beyond H. */
INLINE int FN(fed)(const fastrnn_layer *l, ptrdiff_t b) {
    return UNITS == 1 ? PANEL_SLOTS : (int)least(4, ceil_div(l->hidden - b * 4 * LANES, LANES));
}

/* One of the products, of x, h or m, as it feeds block b: `width` slots in its panels, from slot `first` of the block on, the gates
 * of these, and how many of them are there. */
typedef struct {
    int width, first, fed;
    const int *gates;
} FN(feed);

/* That of a product which feeds slots start .. end - 1 of a program; gates are of the first of them on. */
INLINE FN(feed) FN(feed_between)(const fastrnn_layer *l, ptrdiff_t b, int start, int end, const int *gates) {
    const int units = FN(group)(l), at = 4 * (int)(b % FN(strands)(l)); /* of the block in the group */
    const int first = (int)most(at, start * units), width = (int)most(0, least(at + 4, end * units) - first);
    /* Of four units those beyond H are not there; of fewer all are: see `units_of` in sequence.pyx. */
    const int fed = units == 4 ? (int)least(width, ceil_div(l->hidden - b / FN(strands)(l) * 4 * LANES, LANES)) : width;
    return width ? (FN(feed)){width, first - at, fed, gates + first - start * units} : (FN(feed)){0};
}
INLINE FN(feed) FN(feed_of_x)(const fastrnn_layer *l, ptrdiff_t b) {
    if (!IS_PROGRAM) return (FN(feed)){PANEL_SLOTS, 0, FN(fed)(l, b), FN(x_gates)};
    return FN(feed_between)(l, b, 0, l->program->x_slots, l->program->x_gates);
}
INLINE FN(feed) FN(feed_of_m)(const fastrnn_layer *l, ptrdiff_t b) {
    if (!IS_PROGRAM) return (FN(feed)){0};
    const fastrnn_program *p = l->program;
    return FN(feed_between)(l, b, p->m_first, p->m_first + p->m_slots, p->m_gates);
}
INLINE FN(feed) FN(feed_of_h)(const fastrnn_layer *l, ptrdiff_t b) {
    if (!IS_PROGRAM) return (FN(feed)){PANEL_SLOTS, HIDDEN_SLOT, FN(fed)(l, b), FN(h_gates)};
    const fastrnn_program *p = l->program;
    return FN(feed_between)(l, b, p->h_first, p->h_first + p->h_slots, p->h_gates);
}
/* Whether two blocks are fed alike. */
INLINE int FN(alike)(FN(feed) a, FN(feed) b) { return a.width == b.width && a.first == b.first && a.fed == b.fed; }
enum { FN(of_x), FN(of_h), FN(of_m) };
INLINE FN(feed) FN(feed_of)(const fastrnn_layer *l, ptrdiff_t b, const int of) {
    return of == FN(of_x) ? FN(feed_of_x)(l, b) : of == FN(of_h) ? FN(feed_of_h)(l, b) : FN(feed_of_m)(l, b);
}
/* Slots of all blocks that a product feeds: what a row of Z order has in it */
INLINE ptrdiff_t FN(slots_of)(const fastrnn_layer *l, const int of) {
    if (!IS_PROGRAM) return of == FN(of_m) ? 0 : FN(blocks)(l) * PANEL_SLOTS;
    const fastrnn_program *p = l->program;
    return FN(groups)(l) * p->units * (of == FN(of_x) ? p->x_slots : of == FN(of_h) ? p->h_slots : p->m_slots);
}

/* Row of weight_ih or weight_hh at lane 0 of a slot, and how many lanes from there on are real. */
INLINE ptrdiff_t FN(weight_row)(const fastrnn_layer *l, ptrdiff_t b, int slot, int gate, ptrdiff_t *lanes) {
    const ptrdiff_t q = b / FN(strands)(l) * FN(group)(l) + slot % FN(group)(l);
    *lanes = least(LANES, FN(left)(l, q));
    return gate * l->hidden + q * LANES;
}
INLINE REAL *FN(z_at)(const fastrnn_layer *l, ptrdiff_t b, ptrdiff_t row) {
    return (REAL *)l->z + b * l->z_stride + (row - l->z_row) * Z_WIDTH;
}
INLINE ptrdiff_t FN(unit_width)(const fastrnn_layer *l) { return ceil_div(l->hidden, LANES) * LANES; }
INLINE ptrdiff_t FN(c_width)(const fastrnn_layer *l) {
    return FN(unit_width)(l) * (IS_PROGRAM ? l->program->states - 1 : 1);
}
INLINE int FN(has_phases)(const fastrnn_layer *l) { return IS_PROGRAM && l->program->phases.count; }
INLINE ptrdiff_t FN(carry_width)(const fastrnn_layer *l) {
    return FN(unit_width)(l) * (IS_PROGRAM ? l->program->states + (l->program->phases_middle.count > 0) : 1);
}
INLINE int FN(has_c)(const fastrnn_layer *l) { return IS_PROGRAM ? l->program->states > 1 : HAS_C; }
INLINE int FN(takes)(const fastrnn_layer *l) { return IS_PROGRAM && l->taken; } /* whether h goes through a program first */
INLINE int FN(reads_h)(const fastrnn_layer *l) { return IS_PROGRAM ? l->program->reads_h : READS_H; }

static void FN(measure)(const fastrnn_layer *l, fastrnn_sizes *sizes) {
    memset(sizes, 0, sizeof(*sizes));
    const ptrdiff_t M = FN(m_columns)(l);
    sizes->panel = (l->inputs + l->outputs + M) * PANEL_SLOTS * LANES;
    sizes->hidden_panels = ceil_div(l->outputs, Z_WIDTH);
    sizes->input_panels = ceil_div(l->inputs, Z_WIDTH);
    sizes->backward_panel = LANES * Z_WIDTH *
                            most(FN(slots_of)(l, FN(of_x)), most(FN(slots_of)(l, FN(of_h)), FN(slots_of)(l, FN(of_m))));
    sizes->gradient_blocks = FN(gradient_blocks)(l);
    sizes->backward_scratch =
        sizes->gradient_blocks * (l->inputs + l->outputs + M + 1) * Z_WIDTH +
        (NAME(tile_count)(l->inputs) + NAME(tile_count)(l->outputs) + NAME(tile_count)(M)) * LEFT_TILE;
}

/* Rows n0 .. n1 - 1 of a step that all follow rows of the step before, or all begin with the initial state. Pointers
 * belong to n = 0. */
typedef struct {
    ptrdiff_t n0, n1, row; /* the row of n = 0 */
    const REAL *h_prev, *c_prev, *taken; /* taken: what the recurrent product takes, h_prev or what is made of it */
    ptrdiff_t h_row, taken_row, out_row;
    REAL *out, *c; /* y, or u where that is projected to y */
} FN(piece);

/* Step s's rows among n0 .. n1 - 1, in as few pieces as there are: 0 to 2. */
INLINE int FN(cut_step)(const fastrnn_layer *l, ptrdiff_t s, ptrdiff_t n0, ptrdiff_t n1, FN(piece) pieces[2]) {
    const ptrdiff_t carried = fastrnn_carried(l, s), row = fastrnn_step_row(l, s), C = FN(c_width)(l);
    const ptrdiff_t row_before = s ? fastrnn_step_row(l, s - 1) : 0, N = l->batch;
    FN(piece) piece = {.row = row, .out_row = l->u ? l->hidden : l->y_row};
    int count = 0;
    piece.out = l->u ? (REAL *)l->u + (l->keep ? row * l->hidden : 0) : (REAL *)l->y + row * l->y_row;
    piece.c = FN(has_c)(l) ? (REAL *)l->c + (l->keep ? (N + row) * C : 0) : NULL;
    for (int follows = 1; follows >= 0; follows--) {
        piece.n0 = follows ? n0 : most(n0, carried);
        piece.n1 = least(n1, follows ? carried : fastrnn_step_count(l, s));
        piece.h_prev = follows ? (const REAL *)l->y + row_before * l->y_row : l->h_0;
        piece.h_row = follows ? l->y_row : l->outputs;
        piece.c_prev = FN(has_c)(l) ? (REAL *)l->c + (l->keep && follows ? (N + row_before) * C : 0) : NULL;
        piece.taken = FN(takes)(l) ? (const REAL *)l->taken + (l->keep ? row * l->hidden : 0) : piece.h_prev;
        piece.taken_row = FN(takes)(l) ? l->hidden : piece.h_row;
        if (piece.n0 < piece.n1) pieces[count++] = piece;
    }
    return count;
}

/* A step in backward, where all its rows look things up. Pointers belong to n = 0. */
typedef struct {
    ptrdiff_t row, carried;                /* carried: how many rows follow rows of the step before */
    const REAL *y_before, *c_before, *c; /* of those; c_0 and h_0 of the others */
} FN(moment);

INLINE FN(moment) FN(moment_of)(const fastrnn_layer *l, ptrdiff_t s) {
    const ptrdiff_t row = fastrnn_step_row(l, s), carried = fastrnn_carried(l, s), C = FN(c_width)(l);
    const ptrdiff_t before = carried ? fastrnn_step_row(l, s - 1) : 0;
    return (FN(moment)){
        .row = row, .carried = carried, .y_before = (const REAL *)l->y + before * l->y_row,
        .c_before = (const REAL *)l->c + (l->batch + before) * C, .c = (const REAL *)l->c + (l->batch + row) * C};
}

/* rows[i] := what h was before row first + i, as the recurrent product took it */
INLINE void FN(rows_before)(const fastrnn_layer *l, const REAL **rows, ptrdiff_t first, ptrdiff_t count) {
    const ptrdiff_t N = l->batch, P = l->outputs;
    const REAL *y = l->y, *h_0 = l->h_0;
    if (FN(takes)(l)) {
        for (ptrdiff_t i = 0; i < count; i++) rows[i] = (const REAL *)l->taken + (first + i) * l->hidden;
        return;
    }
    if (!l->offsets) {
        for (ptrdiff_t i = 0; i < count; i++) {
            const ptrdiff_t row = first + i, start = l->reverse ? row - (l->rows - N) : row; /* n, of the first step */
            const ptrdiff_t before = l->reverse ? row + N : row - N;
            rows[i] = start >= 0 && start < N ? h_0 + start * P : y + before * l->y_row;
        }
        return;
    }
    ptrdiff_t low = 0, high = l->steps; /* offsets[low] <= first < offsets[high] */
    while (high - low > 1) {
        const ptrdiff_t middle = (low + high) / 2;
        if (l->offsets[middle] <= first)
            low = middle;
        else
            high = middle;
    }
    for (ptrdiff_t i = 0, t = low; i < count; i++) {
        while (first + i >= l->offsets[t + 1]) t++;
        const ptrdiff_t s = l->reverse ? l->steps - 1 - t : t, n = first + i - l->offsets[t];
        rows[i] = n < fastrnn_carried(l, s) ? y + (fastrnn_step_row(l, s - 1) + n) * l->y_row : h_0 + n * P;
    }
}

/* ---- what is a cell's own ---- */

#if IS_PROGRAM
#include "layer_program.inc.h"
#else
/* Rows n .. n + rows - 1 of a piece in block b: from the sums acc to y (or u), c and Z. */
INLINE void FN(activate)(
    const fastrnn_layer *l, vec (*acc)[4], ptrdiff_t plane, const FN(piece) *piece, ptrdiff_t b, ptrdiff_t n,
    ptrdiff_t rows) {
    const ptrdiff_t C = FN(c_width)(l), c_at = n * C + b * LANES; /* UNITS is 1 with c */
    const int units = UNITS == 1 ? 1 : FN(fed)(l, b);
    for (ptrdiff_t r = 0; r < rows; r++)
        for (int u = 0; u < units; u++) {
            vec c_r = HAS_C ? vec_load(piece->c_prev + c_at + r * C) : (vec){0};
            FN(gates)(acc[r] + u * SLOTS, &c_r);
            if (HAS_C) vec_store(piece->c + c_at + r * C, c_r);
        }
    for (ptrdiff_t r = 0; r < rows; r++)
        for (int u = 0; u < units; u++) {
            const ptrdiff_t q = b * UNITS + u, left = FN(left)(l, q), at = q * LANES;
            const vec c_r = HAS_C ? vec_load(piece->c + c_at + r * C) : (vec){0};
            const vec h_prev =
                READS_H ? vec_load_part(piece->h_prev + (n + r) * piece->h_row + at, left) : (vec){0};
            vec_store_part(piece->out + (n + r) * piece->out_row + at, FN(output)(acc[r] + u * SLOTS, c_r, h_prev), left);
        }
    if (l->keep) memcpy(FN(z_at)(l, b, piece->row + n), acc, (size_t)rows * sizeof(*acc));
}

/* Z of a step's row n, units q * L and on: from the gates to the gradients of their sums, given that of h, or of u. */
INLINE void FN(gates_back)(
    const fastrnn_layer *l, const FN(moment) *m, ptrdiff_t n, ptrdiff_t q, vec *dh, ptrdiff_t rows) {
    const ptrdiff_t left = FN(left)(l, q), at = q * LANES, c_at = n * FN(c_width)(l) + at;
    const int follows = n < m->carried;
    const REAL *h_prev = follows ? m->y_before + n * l->y_row : (const REAL *)l->h_0 + n * l->outputs;
    const REAL *c_prev = follows ? m->c_before : (const REAL *)l->c;
    vec *carry = (vec *)((REAL *)l->carry + c_at);
    vec *z_at = (vec *)FN(z_at)(l, q / UNITS, m->row + n) + q % UNITS * SLOTS;
    vec z[SLOTS];
    for (int slot = 0; slot < SLOTS; slot++) z[slot] = z_at[slot];
    FN(backward)(
        z, carry, *dh, READS_H ? vec_load_part(h_prev + at, left) : (vec){0}, HAS_C ? vec_load(c_prev + c_at) : (vec){0},
        HAS_C ? vec_load(m->c + c_at) : (vec){0});
    /* Lanes beyond H must be zero, whatever they held: the products run over them. */
    for (int slot = 0; slot < SLOTS; slot++) z_at[slot] = vec_load_part((const REAL *)&z[slot], left);
}

static void FN(read_tape)(
    const fastrnn_layer *l, void *gates, void *c, ptrdiff_t rows, const intptr_t *to, ptrdiff_t row0, ptrdiff_t row1) {
    enum { at_once = 16 }; /* rows that are gathered from all blocks before the next ones */
    const ptrdiff_t H = l->hidden, C = FN(c_width)(l);
    for (ptrdiff_t low = row0; low < row1; low += at_once)
        for (ptrdiff_t b = 0; b < FN(blocks)(l); b++)
            for (int slot = 0; slot < FN(fed)(l, b); slot++) {
                ptrdiff_t lanes;
                const ptrdiff_t at = FN(weight_row)(l, b, slot, FN(x_gates)[slot], &lanes), unit = at % H;
                REAL *out = (REAL *)gates + at / H * rows * H + unit;
                for (ptrdiff_t row = low; row < least(low + at_once, row1); row++)
                    vec_store_part(out + (to ? to[row] : row) * H, vec_load(FN(z_at)(l, b, row) + slot * LANES), lanes);
            }
    for (ptrdiff_t row = row0; HAS_C && row < row1; row++)
        memcpy((REAL *)c + (to ? to[row] : row) * H, (const REAL *)l->c + (l->batch + row) * C, (size_t)H * sizeof(REAL));
}
#endif

/* ---- forward ---- */

/* panel[k - k0][slot][L] := columns k0 .. k1-1 of a weight (G*H, columns), for block b */
INLINE void FN(pack_block)(
    const fastrnn_layer *l, REAL *panel, const REAL *w, FN(feed) feed, ptrdiff_t columns, ptrdiff_t b, ptrdiff_t k0,
    ptrdiff_t k1) {
    for (int slot = 0; slot < feed.fed; slot++) {
        ptrdiff_t lanes;
        const REAL *rows = w + FN(weight_row)(l, b, slot, feed.gates[slot], &lanes) * columns;
        NAME(pack_slot)(panel + slot * LANES, feed.width * LANES, rows + k0, columns, k1 - k0, lanes);
    }
}

/* bias[slot] := the sum of the biases that go into a slot of block b */
INLINE void FN(pack_bias)(const fastrnn_layer *l, vec bias[4], ptrdiff_t b) {
    const FN(feed) x = FN(feed_of_x)(l, b), h = FN(feed_of_h)(l, b), m = FN(feed_of_m)(l, b);
    ptrdiff_t lanes;
    for (int slot = 0; slot < 4; slot++) bias[slot] = (vec){0};
    for (int slot = 0; l->bias_ih && slot < x.fed; slot++) {
        const ptrdiff_t row = FN(weight_row)(l, b, slot, x.gates[slot], &lanes);
        bias[slot] += vec_load_part((const REAL *)l->bias_ih + row, lanes);
    }
    for (int slot = 0; l->bias_hh && slot < h.fed; slot++) {
        const ptrdiff_t row = FN(weight_row)(l, b, slot, h.gates[slot], &lanes);
        bias[slot + h.first] += vec_load_part((const REAL *)l->bias_hh + row, lanes);
    }
    for (int slot = 0; l->bias_hh && slot < m.fed; slot++) {
        const ptrdiff_t row = FN(weight_row)(l, b, slot, m.gates[slot], &lanes);
        bias[slot + m.first] += vec_load_part((const REAL *)l->bias_hh + row, lanes);
    }
}

static void FN(pack)(const fastrnn_layer *l, ptrdiff_t b0, ptrdiff_t b1) {
    for (ptrdiff_t b = b0; b < b1; b++) {
        REAL *panel = (REAL *)l->panels + b * l->panel_stride;
        const FN(feed) x = FN(feed_of_x)(l, b), h = FN(feed_of_h)(l, b);
        FN(pack_block)(l, panel, l->weight_ih, x, l->inputs, b, 0, l->inputs);
        panel += l->inputs * x.width * LANES;
        FN(pack_block)(l, panel, l->weight_hh, h, l->outputs, b, 0, l->outputs);
        if (FN(m_columns)(l)) {
            panel += l->outputs * h.width * LANES;
            FN(pack_block)(l, panel, l->weight_hh, FN(feed_of_m)(l, b), l->hidden, b, 0, l->hidden);
        }
        FN(pack_bias)(l, (vec *)l->bias + 4 * b, b);
    }
}

/* Whether block b has sums; if not, only a program writes to it. */
INLINE int FN(is_fed)(const fastrnn_layer *l, ptrdiff_t b) {
    return !IS_PROGRAM || FN(feed_of_x)(l, b).fed || FN(feed_of_h)(l, b).fed || FN(feed_of_m)(l, b).fed;
}

/* acc := bias + x weight_ih^T for rows row .. row + rows - 1 of block b; `tile` and `next` as in a product */
INLINE void FN(input_product)(
    const fastrnn_layer *l, vec (*acc)[4], ptrdiff_t b, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t tile,
    const REAL *next, ptrdiff_t next_size) {
    const FN(feed) feed = FN(feed_of_x)(l, b);
    const int fed = feed.fed;
    const ptrdiff_t p_k = feed.width * LANES;
    const REAL *panel = (const REAL *)l->panels + b * l->panel_stride;
    const vec *bias = (const vec *)l->bias + 4 * b;
    if (IS_PROGRAM && !fed && !FN(is_fed)(l, b)) return;
    for (ptrdiff_t r = 0; r < rows; r++)
        for (int slot = 0; slot < 4; slot++) acc[r][slot] = bias[slot];
    if (IS_PROGRAM && !fed) return;
    if (l->tokens) {
        for (ptrdiff_t r = 0; r < rows; r++) {
            const REAL *column = panel + l->tokens[row + r] * p_k;
#ifdef SPLIT /* as for a one-hot row */
            for (int slot = 0; slot < fed && l->split_x; slot++)
                acc[r][slot] = NAME(add_split)(acc[r][slot], vec_load(column + slot * LANES));
            if (l->split_x) continue;
#endif
            for (int slot = 0; slot < fed; slot++) acc[r][slot] += vec_load(column + slot * LANES);
        }
    } else {
        const NAME(product) m = {
            .a = (const REAL *)l->x + row * l->inputs, .a_row = l->inputs, .a_k = 1, .p = panel, .p_k = p_k,
            .K = l->inputs, .segments = 1, .next = next, .next_size = next_size};
        NAME(accumulate_tile)(fed, rows, acc, &m, 0, tile);
    }
}

/* acc += a weight^T for a block whose weights nobody has packed: a chunk of k at a time, which stays in L1. */
INLINE void FN(unpacked_product)(
    const fastrnn_layer *l, vec (*acc)[4], ptrdiff_t rows, const REAL *a, ptrdiff_t a_row, const REAL *w, FN(feed) feed,
    ptrdiff_t columns, ptrdiff_t b) {
    enum { chunk = 4 * LANES };
    vec panel[chunk * PANEL_SLOTS];
    if (IS_PROGRAM && !feed.fed) return;
    for (ptrdiff_t k = 0, end; k < columns; k = end) {
        end = least(k + chunk, columns);
        FN(pack_block)(l, (REAL *)panel, w, feed, columns, b, k, end);
        const NAME(product) m = {
            .a = a + k, .a_row = a_row, .a_k = 1, .p = (const REAL *)panel, .p_k = feed.width * LANES, .K = end - k,
            .segments = 1};
        NAME(accumulate)(feed.fed, rows, acc, &m);
    }
}

/* acc := bias + x weight_ih^T, likewise unpacked */
INLINE void FN(unpacked_input_product)(
    const fastrnn_layer *l, vec (*acc)[4], ptrdiff_t b, ptrdiff_t row, ptrdiff_t rows) {
    const ptrdiff_t I = l->inputs;
    const FN(feed) feed = FN(feed_of_x)(l, b);
    vec bias[4];
    if (IS_PROGRAM && !FN(is_fed)(l, b)) return;
    FN(pack_bias)(l, bias, b);
    for (ptrdiff_t r = 0; r < rows; r++) {
        memcpy(acc[r], bias, sizeof(bias));
        for (int slot = 0; l->tokens && slot < feed.fed; slot++) {
            ptrdiff_t lanes;
            const ptrdiff_t weight_row = FN(weight_row)(l, b, slot, feed.gates[slot], &lanes);
            const REAL *w = (const REAL *)l->weight_ih + weight_row * I + l->tokens[row + r];
            for (ptrdiff_t lane = 0; lane < lanes; lane++) acc[r][slot][lane] += w[lane * I];
        }
    }
    if (!l->tokens)
        FN(unpacked_product)(l, acc, rows, (const REAL *)l->x + row * I, I, l->weight_ih, feed, I, b);
}

static void FN(project)(const fastrnn_layer *l, ptrdiff_t b0, ptrdiff_t b1, ptrdiff_t row0, ptrdiff_t row1) {
    const ptrdiff_t at_once = l->panels ? TILE_ROWS : UNPACKED_ROWS;
    for (ptrdiff_t b = b0; b < b1; b++)
        for (ptrdiff_t row = row0; row < row1 && FN(is_fed)(l, b); row += at_once) {
            const ptrdiff_t rows = least(at_once, row1 - row);
            vec(*z)[4] = (vec(*)[4])FN(z_at)(l, b, row);
            const REAL *next = l->x ? (const REAL *)l->x + (row + rows) * l->inputs : NULL; /* which are to be fetched */
            if (l->panels)
                FN(input_product)(l, z, b, row, rows, 0, next, next && row + rows < row1);
            else
                FN(unpacked_input_product)(l, z, b, row, rows);
        }
}

/* Where the sums of a group's rows are made, block by block `plane` rows apart: of programs in Z, if there is one, of others,
 * which copy them there, in `room`. */
INLINE FN(row) *FN(sums_at)(const fastrnn_layer *l, ptrdiff_t b, ptrdiff_t row, FN(row) *room, ptrdiff_t *plane) {
    if (!IS_PROGRAM || !l->z) return room;
    *plane = l->z_stride / Z_WIDTH;
    return (FN(row) *)FN(z_at)(l, b, row);
}

INLINE void FN(step_unpacked)(const fastrnn_layer *l, const FN(piece) *piece, ptrdiff_t b0, ptrdiff_t b1) {
    const int strands = FN(strands)(l);
    enum { rows_of_room = (IS_PROGRAM ? 4 : 1) * UNPACKED_ROWS };
    const ptrdiff_t at_once = IS_PROGRAM ? least(UNPACKED_ROWS, rows_of_room / strands) : UNPACKED_ROWS;
    for (ptrdiff_t b = b0; b < b1; b += strands)
        for (ptrdiff_t n = piece->n0; n < piece->n1; n += at_once) {
            const ptrdiff_t rows = least(at_once, piece->n1 - n), row = piece->row + n;
            FN(row) room[rows_of_room];
            ptrdiff_t plane = at_once;
            FN(row) *const acc = FN(sums_at)(l, b, row, room, &plane);
            for (int j = 0; j < strands; j++) {
                const FN(feed) feed = FN(feed_of_h)(l, b + j);
                FN(row) *const sums = acc + j * plane;
                if (!l->projected)
                    FN(unpacked_input_product)(l, sums, b + j, row, rows);
                else if (!IS_PROGRAM)
                    memcpy(sums, FN(z_at)(l, b, row), (size_t)rows * sizeof(*sums));
                FN(unpacked_product)(
                    l, (FN(row) *)(*sums + feed.first), rows, piece->taken + n * piece->taken_row, piece->taken_row,
                    l->weight_hh, feed, l->outputs, b + j);
            }
            FN(activate)(l, acc, plane, piece, b, n, rows);
        }
}

#if IS_PROGRAM
/* A step of a single batch row: two blocks at once that are alike, of one group, or of two where groups are blocks. */
INLINE void FN(step_row)(const fastrnn_layer *l, ptrdiff_t s, const FN(piece) *piece, ptrdiff_t b0, ptrdiff_t b1) {
    const int strands = FN(strands)(l);
    const ptrdiff_t n = piece->n0, row = piece->row + n, at_once = most(2, strands), turns = ceil_div(b1 - b0, at_once);
    for (ptrdiff_t i = 0; i < turns; i++) {
        const ptrdiff_t b = b0 + at_once * (fastrnn_goes_back(l, s) ? turns - 1 - i : i), count = least(at_once, b1 - b);
        FN(row) room[FN(planes)];
        ptrdiff_t plane = 1;
        FN(row) *const acc = FN(sums_at)(l, b, row, room, &plane);
        for (ptrdiff_t j = 0; !l->projected && j < count; j++)
            FN(input_product)(l, acc + j * plane, b + j, row, 1, 0, NULL, 0);
        for (ptrdiff_t j = 0, alike; j < count; j += alike) {
            const FN(feed) feed = FN(feed_of_h)(l, b + j), next = FN(feed_of_h)(l, b + least(j + 1, count - 1));
            const int x_width = FN(feed_of_x)(l, b + j).width;
            const NAME(product) m = {
                .a = piece->taken + n * piece->taken_row, .a_k = 1,
                .p = (const REAL *)l->panels + (b + j) * l->panel_stride + l->inputs * x_width * LANES,
                .p_k = feed.width * LANES, .K = l->outputs, .segments = 1};
            vec sums[3][4]; /* one more than there are, as the compiler does not know that first + fed <= 4 */
            FN(row) *const fed_by_h = (FN(row) *)(*sums + feed.first);
            alike = j + 1 < count && FN(alike)(feed, next) && x_width == FN(feed_of_x)(l, b + j + 1).width ? 2 : 1;
            if (!feed.fed) continue;
            for (ptrdiff_t k = 0; k < alike; k++) memcpy(sums[k], acc[(j + k) * plane], sizeof(*sums));
            if (alike == 1)
                NAME(accumulate_tile)(feed.fed, 1, fed_by_h, &m, 0, 0);
            else if (feed.fed == 4)
                NAME(accumulate_pair)(4, fed_by_h, &m, l->panel_stride);
            else if (feed.fed == 3)
                NAME(accumulate_pair)(3, fed_by_h, &m, l->panel_stride);
            else if (feed.fed == 2)
                NAME(accumulate_pair)(2, fed_by_h, &m, l->panel_stride);
            else
                NAME(accumulate_pair)(1, fed_by_h, &m, l->panel_stride);
            for (ptrdiff_t k = 0; k < alike; k++) memcpy(acc[(j + k) * plane], sums[k], sizeof(*sums));
        }
        for (ptrdiff_t j = 0; j < count; j += strands) FN(activate)(l, acc + j * plane, plane, piece, b + j, n, 1);
    }
}
#else
/* A step of a single batch row: two blocks at once, save for one that is left over. */
INLINE void FN(step_row)(const fastrnn_layer *l, ptrdiff_t s, const FN(piece) *piece, ptrdiff_t b0, ptrdiff_t b1) {
    const ptrdiff_t n = piece->n0, row = piece->row + n, groups = ceil_div(b1 - b0, 2);
    for (ptrdiff_t i = 0; i < groups; i++) {
        const ptrdiff_t b = b0 + 2 * (fastrnn_goes_back(l, s) ? groups - 1 - i : i), count = least(2, b1 - b);
        const NAME(product) m = {
            .a = piece->taken + n * piece->taken_row, .a_k = 1,
            .p = (const REAL *)l->panels + b * l->panel_stride + l->inputs * PANEL_SLOTS * LANES,
            .p_k = PANEL_SLOTS * LANES, .K = l->outputs, .segments = 1};
        vec acc[3][4]; /* one more than there are, as the compiler does not know that first + fed <= 4 */
        vec(*fed_by_h)[4] = (vec(*)[4])(*acc + HIDDEN_SLOT);
        for (ptrdiff_t j = 0; j < count; j++)
            if (l->projected)
                memcpy(acc[j], FN(z_at)(l, b + j, row), sizeof(acc[j]));
            else
                FN(input_product)(l, acc + j, b + j, row, 1, 0, NULL, 0);
        if (count == 2 && FN(fed)(l, b + 1) == PANEL_SLOTS)
            NAME(accumulate_pair)(PANEL_SLOTS, fed_by_h, &m, l->panel_stride);
        else
            for (ptrdiff_t j = 0; j < count; j++) {
                NAME(product) one = m;
                one.p += j * l->panel_stride;
                NAME(accumulate_tile)(FN(fed)(l, b + j), 1, fed_by_h + j, &one, 0, 0);
            }
        for (ptrdiff_t j = 0; j < count; j++) FN(activate)(l, acc + j, 1, piece, b + j, n, 1);
    }
}
#endif

static void FN(step)(
    const fastrnn_layer *l, ptrdiff_t s, ptrdiff_t b0, ptrdiff_t b1, ptrdiff_t n0, ptrdiff_t n1) {
    const int strands = FN(strands)(l);
    FN(piece) pieces[2];
    const int count = FN(cut_step)(l, s, n0, n1, pieces);
#if IS_PROGRAM
    if (l->projected && fastrnn_is_scan(l->program)) { /* then Z holds all of the sums */
        for (ptrdiff_t b = b0; b < b1; b += strands)
            for (const FN(piece) *piece = pieces; piece < pieces + count; piece++) {
                FN(row) *const z = (FN(row) *)FN(z_at)(l, b, piece->row + piece->n0);
                FN(finish)(l, z, l->z_stride / Z_WIDTH, piece, b, piece->n0, piece->n1 - piece->n0);
            }
        return;
    }
#endif
    if (!l->panels || (l->pairs && count == 1 && pieces[0].n1 - pieces[0].n0 == 1)) {
        for (int i = 0; i < count; i++)
            if (l->panels)
                FN(step_row)(l, s, pieces + i, b0, b1);
            else
                FN(step_unpacked)(l, pieces + i, b0, b1);
        return;
    }
    const ptrdiff_t P = l->outputs, I = l->tokens || l->projected ? 0 : l->inputs, groups = (b1 - b0) / strands;
    const int back = fastrnn_goes_back(l, s);
    const int fetch = (b1 - b0) * (I + P) * PANEL_SLOTS * LANES * REAL_BYTES > l->fetch_bytes;
    for (ptrdiff_t i = 0; i < groups; i++) {
        const ptrdiff_t b = back ? b1 - (i + 1) * strands : b0 + i * strands, after = back ? b - strands : b + strands;
        const int fetch_next = fetch && i < groups - 1;
        for (const FN(piece) *piece = pieces; piece < pieces + count; piece++) {
            const ptrdiff_t height = piece->n1 - piece->n0;
            for (ptrdiff_t tile = 0; tile < NAME(tile_count)(height); tile++) {
                const ptrdiff_t n = piece->n0 + NAME(tile_start)(height, tile), row = piece->row + n;
                const ptrdiff_t rows = piece->n0 + NAME(tile_start)(height, tile + 1) - n;
                FN(row) room[FN(planes) * TILE_ROWS];
                ptrdiff_t plane = TILE_ROWS;
                FN(row) *const acc = FN(sums_at)(l, b, row, room, &plane);
                for (int j = 0; j < strands; j++) {
                    FN(row) *const sums = acc + j * plane;
                    const FN(feed) feed = FN(feed_of_h)(l, b + j);
                    const ptrdiff_t p_k = feed.width * LANES, x_k = FN(feed_of_x)(l, b + j).width * LANES;
                    const REAL *next = (const REAL *)l->panels + (after + j) * l->panel_stride;
                    const NAME(product) m = {
                        .a = piece->taken + n * piece->taken_row, .a_row = piece->taken_row, .a_k = 1,
                        .p = (const REAL *)l->panels + (b + j) * l->panel_stride + l->inputs * x_k, .p_k = p_k, .K = P,
                        .segments = 1, .next = next + l->inputs * x_k, .next_size = fetch_next ? P * p_k : 0};
                    if (!l->projected)
                        FN(input_product)(l, sums, b + j, row, rows, tile, next, fetch_next ? I * x_k : 0);
                    else if (!IS_PROGRAM)
                        memcpy(sums, FN(z_at)(l, b, row), (size_t)rows * sizeof(*sums));
                    if (!IS_PROGRAM || feed.fed)
                        NAME(accumulate_tile)(feed.fed, rows, (FN(row) *)(*sums + feed.first), &m, 0, tile);
                }
                FN(activate)(l, acc, plane, piece, b, n, rows);
            }
        }
    }
}

#if IS_PROGRAM
static void FN(step_take)(
    const fastrnn_layer *l, ptrdiff_t s, ptrdiff_t b0, ptrdiff_t b1, ptrdiff_t n0, ptrdiff_t n1) {
    FN(piece) pieces[2];
    const int count = FN(cut_step)(l, s, n0, n1, pieces), strands = FN(strands)(l);
    for (ptrdiff_t b = b0; b < b1; b += strands)
        for (int i = 0; i < count; i++) FN(take_rows)(l, pieces + i, b / strands * FN(group)(l));
}

static void FN(step_middle)(
    const fastrnn_layer *l, ptrdiff_t s, ptrdiff_t b0, ptrdiff_t b1, ptrdiff_t n0, ptrdiff_t n1) {
    const ptrdiff_t H = l->hidden, strands = FN(strands)(l), at_once = l->panels ? TILE_ROWS : UNPACKED_ROWS;
    FN(piece) pieces[2];
    const int count = FN(cut_step)(l, s, n0, n1, pieces);
    for (ptrdiff_t b = b0; b < b1; b += strands)
        for (const FN(piece) *piece = pieces; piece < pieces + count; piece++)
            for (ptrdiff_t n = piece->n0; n < piece->n1; n += at_once) {
                const ptrdiff_t rows = least(at_once, piece->n1 - n), row = piece->row + n;
                const REAL *m = (const REAL *)l->m + (l->keep ? row : n) * H;
                FN(row) *const acc = (FN(row) *)FN(z_at)(l, b, row);
                const ptrdiff_t plane = l->z_stride / Z_WIDTH;
                for (int j = 0; j < strands; j++) {
                    const FN(feed) feed = FN(feed_of_m)(l, b + j);
                    FN(row) *const sums = (FN(row) *)(acc[j * plane] + feed.first);
                    if (!l->panels)
                        FN(unpacked_product)(l, sums, rows, m, H, l->weight_hh, feed, H, b + j);
                    else if (feed.fed) {
                        const ptrdiff_t before = l->inputs * FN(feed_of_x)(l, b + j).width +
                                                 l->outputs * FN(feed_of_h)(l, b + j).width;
                        const NAME(product) product = {
                            .a = m, .a_row = H, .a_k = 1,
                            .p = (const REAL *)l->panels + (b + j) * l->panel_stride + before * LANES,
                            .p_k = feed.width * LANES, .K = H, .segments = 1};
                        NAME(accumulate_tile)(feed.fed, rows, sums, &product, 0, 0);
                    }
                }
                if (!FN(has_phases)(l)) FN(finish)(l, acc, plane, piece, b, n, rows);
            }
}
#endif

/* ---- backward ---- */

/* panels[p][Z order][4 * L] := rows of a weight (G*H, columns) in Z order, columns p * 4 * L and on, zero-padded. */
INLINE void FN(pack_columns)(
    const fastrnn_layer *l, REAL *panels, const REAL *w, const int of, ptrdiff_t columns, ptrdiff_t p0, ptrdiff_t p1) {
    REAL *panel = panels + p0 * FN(slots_of)(l, of) * LANES * Z_WIDTH;
    for (ptrdiff_t p = p0; p < p1; p++)
        for (ptrdiff_t b = 0; b < FN(blocks)(l); b++) {
            const FN(feed) feed = FN(feed_of)(l, b, of);
            for (int slot = 0; slot < feed.width; slot++) {
                ptrdiff_t lanes;
                const ptrdiff_t row = FN(weight_row)(l, b, slot, feed.gates[slot], &lanes);
                for (ptrdiff_t lane = 0; lane < LANES; lane++, panel += Z_WIDTH)
                    for (int v = 0; v < 4; v++) {
                        const ptrdiff_t column = (4 * p + v) * LANES;
                        const ptrdiff_t count = lane < lanes ? columns - column : 0;
                        vec_store(panel + v * LANES, vec_load_part(w + (row + lane) * columns + column, count));
                    }
            }
        }
}

static void FN(pack_hidden)(const fastrnn_layer *l, ptrdiff_t p0, ptrdiff_t p1) {
    FN(pack_columns)(l, l->panels_hh, l->weight_hh, FN(of_h), l->outputs, p0, p1);
    if (FN(m_columns)(l)) FN(pack_columns)(l, l->panels_m, l->weight_hh, FN(of_m), l->hidden, p0, p1);
}

static void FN(pack_input)(const fastrnn_layer *l, ptrdiff_t p0, ptrdiff_t p1) {
    FN(pack_columns)(l, l->panels_ih, l->weight_ih, FN(of_x), l->inputs, p0, p1);
}

/* acc += rows row .. row + rows - 1 of Z, where x, h or m feeds them, times columns p * 4 * L and on of a weight
 * (G*H, columns); `left`: what is known of these rows besides, if anything. */
typedef void FN(times)(
    const fastrnn_layer *l, const void *left, int vectors, vec (*acc)[4], ptrdiff_t row, ptrdiff_t rows, int of, ptrdiff_t p);

/* This on floats. Whole panels may be read in place, one that reaches beyond `columns` is always packed: see
 * FN(pack_columns). */
static void FN(z_product)(
    const fastrnn_layer *l, const void *left, int vectors, vec (*acc)[4], ptrdiff_t row, ptrdiff_t rows, int of,
    ptrdiff_t p) {
    const ptrdiff_t blocks = FN(blocks)(l), panel_size = FN(slots_of)(l, of) * LANES * Z_WIDTH;
    const ptrdiff_t columns = of == FN(of_x) ? l->inputs : of == FN(of_h) ? l->outputs : l->hidden;
    const REAL *panels = of == FN(of_x) ? l->panels_ih : of == FN(of_h) ? l->panels_hh : l->panels_m;
    const REAL *w = of == FN(of_x) ? l->weight_ih : l->weight_hh;
    NAME(product) m = {.a_row = Z_WIDTH, .a_k = 1, .segments = 1};
    if (l->few_rows && (p + 1) * Z_WIDTH <= columns) {
        m.p_k = columns;
        for (ptrdiff_t b = 0; b < blocks; b++) {
            const FN(feed) feed = FN(feed_of)(l, b, of);
            for (int s = 0; s < feed.fed; s++) {
                m.p = w + FN(weight_row)(l, b, s, feed.gates[s], &m.K) * columns + p * Z_WIDTH;
                m.a = FN(z_at)(l, b, row) + (feed.first + s) * LANES;
                NAME(accumulate)(4, rows, acc, &m);
            }
        }
        return;
    }
    const REAL *panels_end = panels + ceil_div(columns, Z_WIDTH) * panel_size;
    const int fetch = (panels_end - panels) * REAL_BYTES > l->fetch_bytes;
    m.a_segment = l->z_stride;
    m.p_k = Z_WIDTH;
    m.p = panels + p * panel_size;
    for (ptrdiff_t b = 0, end; b < blocks; b = end) {
        const FN(feed) feed = FN(feed_of)(l, b, of);
        const ptrdiff_t width = feed.width * LANES, chunk = width > 128 || !width ? 1 : 128 / width;
        end = least(b + chunk, blocks); /* blocks of 128 k's: the panel's part stays in L1 */
        if (IS_PROGRAM) {
            for (ptrdiff_t next = b + 1; next < end; next++) /* whole ones that are fed alike */
                if (feed.fed < feed.width || !FN(alike)(feed, FN(feed_of)(l, next, of))) end = next;
        } else if (end == blocks && b < end - 1 && FN(fed)(l, end - 1) < PANEL_SLOTS)
            end--; /* a shorter block on its own */
        if (IS_PROGRAM && !width) continue;
        m.a = FN(z_at)(l, b, row) + feed.first * LANES;
        m.K = feed.fed * LANES;
        m.segments = end - b;
        m.next = m.p + (end - b) * width * Z_WIDTH;
        m.next_size = fetch ? least(chunk * width * Z_WIDTH, panels_end - m.next) : 0;
        NAME(accumulate)(vectors, rows, acc, &m);
        m.p = m.next;
    }
}

INLINE void FN(step_back_by)(
    const fastrnn_layer *l, ptrdiff_t s, ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t n0, ptrdiff_t n1, FN(times) *times,
    const void *left_of_z) {
    enum { at_once = 48 }; /* rows whose accumulators stay in L1 over the chunks of k */
    const ptrdiff_t P = l->outputs, C = FN(carry_width)(l);
    const ptrdiff_t here = fastrnn_step_count(l, s), after = fastrnn_step_count(l, s + 1);
    const ptrdiff_t row_after = after ? fastrnn_step_row(l, s + 1) : 0;
    const FN(moment) now = here ? FN(moment_of)(l, s) : (FN(moment)){0};
    n1 = least(n1, most(here, after));
    for (ptrdiff_t p = p0; p < p1; p++) {
        const int vectors = (int)least(4, ceil_div(P - p * Z_WIDTH, LANES));
        for (ptrdiff_t n = n0; n < n1; n += at_once) {
            const ptrdiff_t rows = least(at_once, n1 - n), going_on = most(0, least(rows, after - n));
            vec acc[at_once][4];
            for (ptrdiff_t r = 0; r < rows; r++)
                for (int v = 0; v < vectors; v++) acc[r][v] = (vec){0};
            if (going_on && !(IS_PROGRAM && fastrnn_is_scan(l->program)))
                times(l, left_of_z, vectors, acc, row_after + n, going_on, FN(of_h), p);
#if IS_PROGRAM
            if (l->taken && going_on) FN(take_back)(l, s + 1, n, 4 * p, *acc, going_on);
#endif
            for (ptrdiff_t r = 0; r < rows; r++)
                for (int v = 0; v < vectors; v++) {
                    const ptrdiff_t q = 4 * p + v, left = P - q * LANES, at = q * LANES;
                    if (r >= going_on && l->dh_n)
                        acc[r][v] = vec_load_part((const REAL *)l->dh_n + (n + r) * P + at, left);
                    if (FN(reads_h)(l)) acc[r][v] += *(vec *)((REAL *)l->carry + (n + r) * C + at);
                    if (n + r >= here) { /* the step after began with the initial state */
                        vec_store_part((REAL *)l->dh_0 + (n + r) * P + at, acc[r][v], left);
                        continue;
                    }
                    if (l->dy) acc[r][v] += vec_load_part((const REAL *)l->dy + (now.row + n + r) * l->dy_row + at, left);
                    if (l->u)
                        vec_store_part((REAL *)l->dh + (now.row + n + r) * P + at, acc[r][v], left);
                    else if (IS_PROGRAM)
                        *(vec *)((REAL *)l->carry + (n + r) * C + at) = acc[r][v];
                    else
                        FN(gates_back)(l, &now, n + r, q, acc[r] + v, 1);
                }
            if (IS_PROGRAM && !l->u && !FN(has_phases)(l)) FN(gates_back)(l, &now, n, 4 * p, NULL, least(rows, here - n));
        }
    }
}

static void FN(step_back)(
    const fastrnn_layer *l, ptrdiff_t s, ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t n0, ptrdiff_t n1) {
    FN(step_back_by)(l, s, p0, p1, n0, n1, FN(z_product), NULL);
}

#if IS_PROGRAM
static void FN(step_back_middle)(
    const fastrnn_layer *l, ptrdiff_t s, ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t n0, ptrdiff_t n1) {
    enum { at_once = 48 };
    const FN(moment) now = FN(moment_of)(l, s);
    n1 = least(n1, fastrnn_step_count(l, s));
    for (ptrdiff_t p = p0; p < p1; p++) {
        const int vectors = (int)least(4, ceil_div(l->hidden - p * Z_WIDTH, LANES));
        for (ptrdiff_t n = n0; n < n1; n += at_once) {
            const ptrdiff_t rows = least(at_once, n1 - n);
            vec dm[at_once][4] = {{{0}}};
            FN(z_product)(l, NULL, vectors, dm, now.row + n, rows, FN(of_m), p);
            if (!FN(has_phases)(l)) FN(middle_back)(l, &now, n, 4 * p, *dm, rows);
            for (ptrdiff_t r = 0; FN(has_phases)(l) && r < rows; r++)
                memcpy(FN(dm_at)(l, n + r) + p * Z_WIDTH, dm[r], (size_t)vectors * sizeof(vec));
        }
    }
}
#endif

static void FN(step_back_gates)(
    const fastrnn_layer *l, ptrdiff_t s, ptrdiff_t b0, ptrdiff_t b1, ptrdiff_t n0, ptrdiff_t n1) {
    const FN(moment) now = FN(moment_of)(l, s);
    n1 = least(n1, fastrnn_step_count(l, s));
    const ptrdiff_t group = FN(group)(l), strands = FN(strands)(l), vectors = IS_PROGRAM ? group : 1; /* at once */
    const ptrdiff_t q1 = least(b1 * group / strands, ceil_div(l->hidden, LANES));
    enum { at_once = IS_PROGRAM ? TILE_ROWS : 1 };
    for (ptrdiff_t n = n0; n < n1; n += at_once)
        for (ptrdiff_t q = b0 * group / strands; q < q1; q += vectors) {
            const ptrdiff_t rows = least(at_once, n1 - n);
            FN(row) du[at_once] = {{{0}}};
            for (ptrdiff_t r = 0; r < rows; r++)
                for (ptrdiff_t v = 0; v < vectors; v++)
                    du[r][v] = vec_load_part(
                        (const REAL *)l->du + (n + r) * l->hidden + (q + v) * LANES, FN(left)(l, q + v));
            FN(gates_back)(l, &now, n, q, *du, rows);
        }
}

/* The products that gradients of weights are sums of, over rows of a chunk:
 *
 *   pack(left, rows, columns, count)    left := so many rows of x, h_prev or m, as `multiply` takes them
 *   turn(l, b, row, count, room)        the rows of Z in block b, likewise: Z itself, or what is made of it in `room`
 *   multiply(sums, left, tile, z, slots, height, count)    sums += the product of left's columns in a tile with slots of Z */
typedef struct {
    void (*pack)(REAL *left, const REAL *const *rows, ptrdiff_t columns, ptrdiff_t count);
    const REAL *(*turn)(const fastrnn_layer *l, ptrdiff_t b, ptrdiff_t row, ptrdiff_t count, REAL *room);
    void (*multiply)(
        vec (*sums)[4], const REAL *left, ptrdiff_t tile, const REAL *z, int slots, ptrdiff_t height, ptrdiff_t count);
} FN(outer);

static const REAL *FN(turn)(const fastrnn_layer *l, ptrdiff_t b, ptrdiff_t row, ptrdiff_t count, REAL *room) {
    return FN(z_at)(l, b, row);
}

static void FN(outer_multiply)(
    vec (*sums)[4], const REAL *left, ptrdiff_t tile, const REAL *z, int slots, ptrdiff_t height, ptrdiff_t count) {
    const NAME(product) m = {
        .a = left + tile * LEFT_TILE, .a_row = 1, .a_k = LEFT_WIDTH, .p = z, .p_k = Z_WIDTH, .K = count, .segments = 1};
    NAME(accumulate_tile)(slots, height, sums, &m, 0, 0);
}

/* sums[k] += the sum of left[row][k] * z[row] over rows of a chunk, for k < columns. Sums of chunks keep the error of many
 * rows small: with one chain over all of them it was 3 to 9 times PyTorch's. */
INLINE void FN(outer_product)(
    const FN(outer) *by, vec (*sums)[4], ptrdiff_t columns, const REAL *left, const REAL *z, FN(feed) feed, ptrdiff_t rows,
    int first) {
    if (IS_PROGRAM && !feed.fed) return;
    z += feed.first * LANES;
    for (ptrdiff_t tile = 0; tile < NAME(tile_count)(columns); tile++) {
        const ptrdiff_t k = NAME(tile_start)(columns, tile), height = NAME(tile_start)(columns, tile + 1) - k;
        if (first) { /* the sums are zero still */
            by->multiply(sums + k, left, tile, z, feed.fed, height, rows);
            continue;
        }
        vec chunk[TILE_ROWS][4] = {{{0}}};
        by->multiply(chunk, left, tile, z, feed.fed, height, rows);
        for (ptrdiff_t i = 0; i < height; i++)
            for (int s = 0; s < feed.fed; s++) sums[k + i][s] += chunk[i][s];
    }
}

/* Link a chunk's rows of equal tokens: first[token] is the first of them, next[row] the one after row, or 0. `first`
 * may hold anything on entry. */
INLINE void FN(link_tokens)(const intptr_t *tokens, ptrdiff_t rows, int32_t *first, unsigned char *next) {
    for (ptrdiff_t r = rows - 1; r >= 0; r--) {
        const ptrdiff_t later = first[tokens[r]];
        next[r] = later > r && later < rows && tokens[later] == tokens[r] ? (unsigned char)later : 0;
        first[tokens[r]] = (int32_t)r;
    }
}

/* outer_product for rows of x that are one-hot, and for the same bits: one sum per token and chunk. */
INLINE void FN(token_sums)(
    const fastrnn_layer *l, vec (*sums)[4], const int32_t *first, const unsigned char *next, ptrdiff_t b, ptrdiff_t row,
    ptrdiff_t rows) {
    const intptr_t *tokens = l->tokens + row;
    const int fed = FN(feed_of_x)(l, b).fed;
    for (ptrdiff_t r = 0; r < rows; r++) {
        if (first[tokens[r]] != r) continue;
        vec chunk[4] = {{0}}, *sum = sums[tokens[r]];
        ptrdiff_t same = r;
        do {
            const vec *z = (const vec *)FN(z_at)(l, b, row + same);
            for (int slot = 0; slot < fed; slot++) chunk[slot] += z[slot];
            same = next[same];
        } while (same);
        for (int slot = 0; slot < fed; slot++) sum[slot] += chunk[slot];
    }
}

/* dw[lane] := sum of z[row][lane] * left[row] over a few rows, for the real lanes of a slot */
INLINE void FN(few_outer_products)(
    REAL *dw, ptrdiff_t columns, const REAL *const *left, const REAL *z, ptrdiff_t rows, ptrdiff_t lanes) {
    for (ptrdiff_t lane = 0; lane < lanes; lane++, dw += columns)
        for (ptrdiff_t k = 0; k < columns; k += LANES) {
            vec sum = {0};
            for (ptrdiff_t r = 0; r < rows; r++)
                sum = vec_fma(vec_splat(z[r * Z_WIDTH + lane]), vec_load_part(left[r] + k, columns - k), sum);
            vec_store_part(dw + k, sum, columns - k);
        }
}

INLINE vec FN(few_sum)(const REAL *z, ptrdiff_t rows) {
    vec sum = {0};
    for (ptrdiff_t r = 0; r < rows; r++) sum += vec_load(z + r * Z_WIDTH);
    return sum;
}

/* Where in `unit` (M, H) the parameter is whose gradient a slot of block b holds; NULL if it holds none. */
INLINE REAL *FN(unit_at)(const fastrnn_layer *l, void *unit, ptrdiff_t b, int slot, ptrdiff_t *lanes) {
    const ptrdiff_t at = 4 * (b % FN(strands)(l)) + slot, q = b / FN(strands)(l) * FN(group)(l) + at % FN(group)(l);
    const ptrdiff_t m = at / FN(group)(l) - (IS_PROGRAM ? l->program->slots : 0);
    *lanes = FN(left)(l, q);
    const int its = IS_PROGRAM && !l->program->adds_up && m >= 0 && m < l->program->parameters && *lanes > 0;
    return its ? (REAL *)unit + m * l->hidden + q * LANES : NULL;
}

static void FN(few_weight_gradients)(const fastrnn_layer *l, ptrdiff_t b0, ptrdiff_t b1) {
    const ptrdiff_t I = l->inputs, P = l->outputs, M = FN(m_columns)(l), rows = l->rows;
    const REAL *x[FASTRNN_FEW_ROWS], *h_prev[FASTRNN_FEW_ROWS], *middle[FASTRNN_FEW_ROWS];
    for (ptrdiff_t r = 0; M && r < rows; r++) middle[r] = (const REAL *)l->m + r * M;
    for (ptrdiff_t r = 0; !l->tokens && r < rows; r++) x[r] = (const REAL *)l->x + r * I;
    FN(rows_before)(l, h_prev, 0, rows);
    for (ptrdiff_t b = b0; b < b1 && !fastrnn_stopped(l->watch); b++) {
        const FN(feed) of_x = FN(feed_of_x)(l, b), of_h = FN(feed_of_h)(l, b), of_m = FN(feed_of_m)(l, b);
        ptrdiff_t lanes;
        for (int slot = 0; slot < of_x.fed; slot++) {
            const ptrdiff_t to = FN(weight_row)(l, b, slot, of_x.gates[slot], &lanes);
            const REAL *z = FN(z_at)(l, b, 0) + slot * LANES;
            REAL *dw = (REAL *)l->dweight_ih + to * I;
            if (l->tokens) {
                memset(dw, 0, (size_t)(lanes * I) * sizeof(REAL));
                for (ptrdiff_t r = 0; r < rows; r++)
                    for (ptrdiff_t lane = 0; lane < lanes; lane++) dw[lane * I + l->tokens[r]] += z[r * Z_WIDTH + lane];
            } else {
                FN(few_outer_products)(dw, I, x, z, rows, lanes);
            }
            if (l->dbias_ih) vec_store_part((REAL *)l->dbias_ih + to, FN(few_sum)(z, rows), lanes);
        }
        for (int slot = 0; slot < of_h.fed; slot++) {
            const ptrdiff_t to = FN(weight_row)(l, b, slot, of_h.gates[slot], &lanes);
            const REAL *z = FN(z_at)(l, b, 0) + (of_h.first + slot) * LANES;
            FN(few_outer_products)((REAL *)l->dweight_hh + to * P, P, h_prev, z, rows, lanes);
            if (l->dbias_hh) vec_store_part((REAL *)l->dbias_hh + to, FN(few_sum)(z, rows), lanes);
        }
        for (int slot = 0; slot < of_m.fed; slot++) {
            const ptrdiff_t to = FN(weight_row)(l, b, slot, of_m.gates[slot], &lanes);
            const REAL *z = FN(z_at)(l, b, 0) + (of_m.first + slot) * LANES;
            FN(few_outer_products)((REAL *)l->dweight_hh + to * M, M, middle, z, rows, lanes);
            if (l->dbias_hh) vec_store_part((REAL *)l->dbias_hh + to, FN(few_sum)(z, rows), lanes);
        }
        for (int slot = 0; IS_PROGRAM && slot < 4; slot++) {
            REAL *dunit = FN(unit_at)(l, l->dunit, b, slot, &lanes);
            if (dunit) vec_store_part(dunit, FN(few_sum)(FN(z_at)(l, b, 0) + slot * LANES, rows), lanes);
        }
    }
}

/* The rows of block b in dw (G*H, columns) := sums [column][slot][L] */
INLINE void FN(unpack_gradient)(
    const fastrnn_layer *l, REAL *dw, const REAL *sums, ptrdiff_t columns, ptrdiff_t b, FN(feed) feed) {
    for (int slot = 0; slot < feed.fed; slot++) {
        ptrdiff_t lanes;
        const ptrdiff_t row = FN(weight_row)(l, b, slot, feed.gates[slot], &lanes);
        NAME(unpack_slot)(dw + row * columns, columns, lanes, sums + slot * LANES, Z_WIDTH);
    }
}

/* The inverse: sums := the rows of block b in dw */
INLINE void FN(pack_gradient)(
    const fastrnn_layer *l, REAL *sums, const REAL *dw, ptrdiff_t columns, ptrdiff_t b, FN(feed) feed) {
    for (int slot = 0; slot < feed.fed; slot++) {
        ptrdiff_t lanes;
        const ptrdiff_t row = FN(weight_row)(l, b, slot, feed.gates[slot], &lanes);
        NAME(pack_slot)(sums + slot * LANES, Z_WIDTH, dw + row * columns, columns, columns, lanes);
    }
}

/* Whether sums over the rows of block b are a gradient: not of what the tape keeps besides. */
INLINE int FN(has_biases)(const fastrnn_layer *l, ptrdiff_t b) {
    ptrdiff_t lanes;
    if (!l->dbias_ih && !(IS_PROGRAM && l->dunit && !l->program->adds_up)) return 0;
    return !IS_PROGRAM || FN(is_fed)(l, b) || FN(unit_at)(l, l->dunit, b, 0, &lanes);
}

/* sums := the gradients of block b's biases and parameters that are there already */
static void FN(begin_biases)(const fastrnn_layer *l, ptrdiff_t b, vec *sums) {
    const FN(feed) x = FN(feed_of_x)(l, b), h = FN(feed_of_h)(l, b), m = FN(feed_of_m)(l, b);
    ptrdiff_t lanes;
    memset(sums, 0, 4 * sizeof(*sums));
    /* of a slot that both products feed the two are the same */
    for (int slot = 0; l->dweight_add && l->dbias_ih && slot < x.fed; slot++) {
        const ptrdiff_t row = FN(weight_row)(l, b, slot, x.gates[slot], &lanes);
        sums[slot] = vec_load_part((const REAL *)l->dbias_ih + row, lanes);
    }
    for (int slot = 0; l->dweight_add && l->dbias_hh && slot < h.fed; slot++) {
        const ptrdiff_t row = FN(weight_row)(l, b, slot, h.gates[slot], &lanes);
        sums[slot + h.first] = vec_load_part((const REAL *)l->dbias_hh + row, lanes);
    }
    for (int slot = 0; l->dweight_add && l->dbias_hh && slot < m.fed; slot++) {
        const ptrdiff_t row = FN(weight_row)(l, b, slot, m.gates[slot], &lanes);
        sums[slot + m.first] = vec_load_part((const REAL *)l->dbias_hh + row, lanes);
    }
    for (int slot = 0; IS_PROGRAM && l->dweight_add && slot < 4; slot++) {
        const REAL *dunit = FN(unit_at)(l, l->dunit, b, slot, &lanes);
        if (dunit) sums[slot] = vec_load_part(dunit, lanes);
    }
}

/* sums += the sum of Z's rows in block b, of a chunk */
INLINE void FN(add_biases)(const fastrnn_layer *l, ptrdiff_t b, vec *sums, ptrdiff_t row, ptrdiff_t rows) {
    vec chunk[4] = {{0}};
    for (ptrdiff_t r = row; r < row + rows; r++)
        for (int slot = 0; slot < 4; slot++) chunk[slot] += ((const vec *)FN(z_at)(l, b, r))[slot];
    for (int slot = 0; slot < 4; slot++) sums[slot] += chunk[slot];
}

static void FN(end_biases)(const fastrnn_layer *l, ptrdiff_t b, const vec *sums) {
    const FN(feed) x = FN(feed_of_x)(l, b), h = FN(feed_of_h)(l, b), m = FN(feed_of_m)(l, b);
    ptrdiff_t lanes;
    for (int slot = 0; l->dbias_ih && slot < x.fed; slot++) {
        const ptrdiff_t row = FN(weight_row)(l, b, slot, x.gates[slot], &lanes);
        vec_store_part((REAL *)l->dbias_ih + row, sums[slot], lanes);
    }
    for (int slot = 0; l->dbias_hh && slot < h.fed; slot++) {
        const ptrdiff_t row = FN(weight_row)(l, b, slot, h.gates[slot], &lanes);
        vec_store_part((REAL *)l->dbias_hh + row, sums[slot + h.first], lanes);
    }
    for (int slot = 0; l->dbias_hh && slot < m.fed; slot++) {
        const ptrdiff_t row = FN(weight_row)(l, b, slot, m.gates[slot], &lanes);
        vec_store_part((REAL *)l->dbias_hh + row, sums[slot + m.first], lanes);
    }
    for (int slot = 0; IS_PROGRAM && slot < 4; slot++) {
        REAL *dunit = FN(unit_at)(l, l->dunit, b, slot, &lanes);
        if (dunit) vec_store_part(dunit, sums[slot], lanes);
    }
}

INLINE void FN(weight_gradients_by)(const fastrnn_layer *l, ptrdiff_t b0, ptrdiff_t b1, const FN(outer) *by) {
    const ptrdiff_t I = l->inputs, P = l->outputs, M = FN(m_columns)(l);
    const ptrdiff_t biases = I + P + M, columns = biases + 1; /* of sums: those of biases are the last */
    const ptrdiff_t together = FN(gradient_blocks)(l);
    vec(*const sums)[4] = l->scratch;
    REAL *const x_left = (REAL *)(sums + together * columns);
    REAL *const h_left = x_left + NAME(tile_count)(I) * LEFT_TILE;
    REAL *const m_left = h_left + NAME(tile_count)(P) * LEFT_TILE;
    int32_t *const first_same = (int32_t *)x_left; /* by token, of which there are I */
    unsigned char next_same[FASTRNN_GRADIENT_ROWS];
    if (l->tokens) memset(first_same, 0, (size_t)I * sizeof(*first_same));
    for (ptrdiff_t first = b0, last; first < b1; first = last) {
        last = least(first + together, b1);
        for (ptrdiff_t b = first; l->chunk_start == 0 && b < last; b++) {
            memset(sums + (b - first) * columns, 0, (size_t)columns * sizeof(*sums));
            if (FN(has_biases)(l, b)) FN(begin_biases)(l, b, sums[(b - first) * columns + biases]);
            if (!l->dweight_add) continue;
            REAL *x_sums = (REAL *)(sums + (b - first) * columns);
            FN(pack_gradient)(l, x_sums, l->dweight_ih, I, b, FN(feed_of_x)(l, b));
            FN(pack_gradient)(l, x_sums + I * Z_WIDTH, l->dweight_hh, P, b, FN(feed_of_h)(l, b));
            if (M) FN(pack_gradient)(l, x_sums + (I + P) * Z_WIDTH, l->dweight_hh, M, b, FN(feed_of_m)(l, b));
        }
        for (ptrdiff_t i = l->chunk_start; i < l->chunk_end; i++) {
            const ptrdiff_t row = l->chunks[2 * i], rows = l->chunks[2 * i + 1];
            const int from_zero = i == 0 && !l->dweight_add;
            if (i % FASTRNN_CHUNKS_TO_LOOK == 0 && fastrnn_stopped(l->watch)) return;
            const REAL *left[FASTRNN_GRADIENT_ROWS];
            if (l->tokens) {
                FN(link_tokens)(l->tokens + row, rows, first_same, next_same);
            } else {
                for (ptrdiff_t r = 0; r < rows; r++) left[r] = (const REAL *)l->x + (row + r) * I;
                by->pack(x_left, left, I, rows);
            }
            if (FN(slots_of)(l, FN(of_h))) {
                FN(rows_before)(l, left, row, rows);
                by->pack(h_left, left, P, rows);
            }
            if (M) {
                for (ptrdiff_t r = 0; r < rows; r++) left[r] = (const REAL *)l->m + (row + r) * M;
                by->pack(m_left, left, M, rows);
            }
            for (ptrdiff_t b = first; b < last; b++) {
                vec(*x_sums)[4] = sums + (b - first) * columns, room[FASTRNN_GRADIENT_ROWS / 2][4];
                const REAL *z = by->turn(l, b, row, rows, (REAL *)room);
                if (l->tokens)
                    FN(token_sums)(l, x_sums, first_same, next_same, b, row, rows);
                else
                    FN(outer_product)(by, x_sums, I, x_left, z, FN(feed_of_x)(l, b), rows, from_zero);
                FN(outer_product)(by, x_sums + I, P, h_left, z, FN(feed_of_h)(l, b), rows, from_zero);
                if (M) FN(outer_product)(by, x_sums + I + P, M, m_left, z, FN(feed_of_m)(l, b), rows, from_zero);
                if (FN(has_biases)(l, b)) FN(add_biases)(l, b, x_sums[biases], row, rows); /* of Z that is in cache */
            }
        }
        for (ptrdiff_t b = first; l->chunk_end == l->chunk_count && b < last; b++) {
            const REAL *x_sums = (const REAL *)(sums + (b - first) * columns);
            FN(unpack_gradient)(l, l->dweight_ih, x_sums, I, b, FN(feed_of_x)(l, b));
            FN(unpack_gradient)(l, l->dweight_hh, x_sums + I * Z_WIDTH, P, b, FN(feed_of_h)(l, b));
            if (M) FN(unpack_gradient)(l, l->dweight_hh, x_sums + (I + P) * Z_WIDTH, M, b, FN(feed_of_m)(l, b));
            if (FN(has_biases)(l, b)) FN(end_biases)(l, b, sums[(b - first) * columns + biases]);
        }
    }
}

static void FN(weight_gradients)(const fastrnn_layer *l, ptrdiff_t b0, ptrdiff_t b1) {
    static const FN(outer) floats = {.pack = NAME(pack_left), .turn = FN(turn), .multiply = FN(outer_multiply)};
    if (l->few_rows)
        FN(few_weight_gradients)(l, b0, b1);
    else
        FN(weight_gradients_by)(l, b0, b1, &floats);
}

enum { FN(dx_rows) = 96 }; /* whose gradients are made at once */

/* dx of up to so many rows */
INLINE void FN(input_gradient_by)(
    const fastrnn_layer *l, ptrdiff_t row, ptrdiff_t rows, FN(times) *times, const void *left_of_z) {
    for (ptrdiff_t p = 0; p < ceil_div(l->inputs, 4 * LANES); p++) {
        const int vectors = (int)least(4, ceil_div(l->inputs - p * 4 * LANES, LANES));
        vec acc[FN(dx_rows)][4];
        for (ptrdiff_t r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++) acc[r][v] = (vec){0};
        times(l, left_of_z, vectors, acc, row, rows, FN(of_x), p);
        for (ptrdiff_t r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++) {
                const ptrdiff_t column = (4 * p + v) * LANES;
                REAL *dx = (REAL *)l->dx + (row + r) * l->inputs + column;
                if (l->dx_add) acc[r][v] += vec_load_part(dx, l->inputs - column);
                vec_store_part(dx, acc[r][v], l->inputs - column);
            }
    }
}

static void FN(input_gradient)(const fastrnn_layer *l, ptrdiff_t row0, ptrdiff_t row1) {
    enum { at_once = FN(dx_rows) };
    for (ptrdiff_t row = row0; row < row1; row += at_once) {
        if (row % (8 * at_once) < at_once && fastrnn_stopped(l->watch)) return;
        FN(input_gradient_by)(l, row, least(at_once, row1 - row), FN(z_product), NULL);
    }
}

#if !IS_PROGRAM
#include "layer_row.inc.h"
#endif

#if !IS_PROGRAM && REAL_BYTES == 4 && NARROW_BF16
#define NARROW bf16
#define NARROW_BITS 16
#include "layer_narrow.inc.h"
#undef NARROW
#undef NARROW_BITS
#endif
#if !IS_PROGRAM && REAL_BYTES == 4 && NARROW_I8
#define NARROW i8
#define NARROW_BITS 8
#include "layer_narrow.inc.h"
#undef NARROW
#undef NARROW_BITS
#endif
/* Of weights of fewer bits: what inference needs */
#define NARROW_PHASES(cell, narrow)                                                                   \
    .block_units = NAME(cell##_units) * LANES, .measure = PASTE(cell##_PRODUCTS(measure), narrow),    \
    .pack = PASTE(cell##_PRODUCTS(pack), narrow), .project = PASTE(cell##_PRODUCTS(project), narrow), \
    .step = PASTE(cell##_step, narrow)
#define I8_CELL_ROW(cell) {NARROW_PHASES(cell, i8)}
/* and training */
#define BF16_CELL_ROW(cell)                                                       \
    {                                                                             \
        NARROW_PHASES(cell, bf16), .read_tape = NAME(cell##_PRODUCTS(read_tape)), \
        .pack_hidden = PASTE(cell##_PRODUCTS(pack_hidden), bf16),                 \
        .pack_input = PASTE(cell##_PRODUCTS(pack_input), bf16),                   \
        .step_back = PASTE(cell##_step_back, bf16),                               \
        .step_back_gates = NAME(cell##_step_back_gates),                          \
        .weight_gradients = PASTE(cell##_PRODUCTS(weight_gradients), bf16),       \
        .input_gradient = PASTE(cell##_PRODUCTS(input_gradient), bf16),           \
    }

#ifdef SPLIT
#include "layer_split.inc.h"
#endif
#define CELL_ROW(cell)                                                                                             \
    {                                                                                                              \
        .block_units = NAME(cell##_units) * LANES, .measure = NAME(cell##_PRODUCTS(measure)),                      \
        .pack = NAME(cell##_PRODUCTS(pack)), .project = NAME(cell##_PRODUCTS(project)), .step = NAME(cell##_step), \
        .steps_of_row = cell##_OF_ROW(steps_of_row),                                                               \
        .steps_of_rows = cell##_OF_ROW(steps_of_rows),                                                             \
        .step_take = cell##_MIDDLE(step_take), .step_middle = cell##_MIDDLE(step_middle),                          \
        .step_back_middle = cell##_MIDDLE(step_back_middle), .step_phases = cell##_MIDDLE(step_phases),            \
        .step_back_phases = cell##_MIDDLE(step_back_phases),                                                       \
        .own_gradients = cell##_MIDDLE(own_gradients),                                                             \
        .read_tape = NAME(cell##_PRODUCTS(read_tape)),                                                             \
        .pack_hidden = NAME(cell##_PRODUCTS(pack_hidden)), .pack_input = NAME(cell##_PRODUCTS(pack_input)),        \
        .step_back = NAME(cell##_step_back), .step_back_gates = NAME(cell##_step_back_gates),                      \
        .weight_gradients = NAME(cell##_PRODUCTS(weight_gradients)),                                               \
        .input_gradient = NAME(cell##_PRODUCTS(input_gradient)),                                                   \
    }

#undef OF_CELL
#undef IS_PROGRAM
#undef FN
#undef UNITS
#undef SLOTS
#undef PANEL_SLOTS
#undef HIDDEN_SLOT
#undef Z_WIDTH
#undef UNPACKED_ROWS
#undef HAS_C
#undef READS_H
