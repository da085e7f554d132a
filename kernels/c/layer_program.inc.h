/* What is a cell's own, where that is a program: how it sees the rows of a layer. Some rows of one unit vector share an
 * instruction, their registers stay in L1; or some unit vectors of a single row, where there is no other: `units` is how
 * many then, else 1. */
#define PROGRAM_ROWS 12
#define PROGRAM_UNITS 4

/* Constants, registers, and the cell's parameters of unit vectors q and on, which `unit` has room for. */
INLINE void FN(place_fixed)(
    const fastrnn_layer *l, NAME(place) *places, vec (*registers)[PROGRAM_ROWS], vec (*unit)[PROGRAM_UNITS], ptrdiff_t q,
    ptrdiff_t units) {
    const fastrnn_program *p = l->program;
    for (int i = 0; i < p->constant_count; i++)
        places[FASTRNN_AT_CONSTANT + i] = (NAME(place)){(vec *)p->constants + i, 0};
    for (int i = 0; i < p->registers; i++) places[FASTRNN_AT_REGISTER + i] = (NAME(place)){registers[i], 1};
    for (int i = 0; i < p->parameters; i++) {
        for (ptrdiff_t u = 0; u < units; u++)
            unit[i][u] = vec_load_part((const REAL *)l->unit + i * l->hidden + (q + u) * LANES, FN(left)(l, q + u));
        places[FASTRNN_AT_UNIT + i] = (NAME(place)){unit[i], units > 1};
    }
}

/* What is given beside x to rows n and on, of the step whose first row is `row`; `given` has room for it. */
INLINE void FN(place_extras)(
    const fastrnn_layer *l, NAME(place) *places, vec (*given)[PROGRAM_ROWS], ptrdiff_t row, ptrdiff_t n, ptrdiff_t rows,
    ptrdiff_t q, ptrdiff_t units) {
    for (int i = 0; i < l->program->extras; i++) {
        const fastrnn_extra extra = l->extras[i];
        const REAL *at = (const REAL *)extra.at + (extra.of_sequence ? n : row + n) * extra.width;
        const int alike = extra.width == 1; /* in all units */
        for (ptrdiff_t r = 0; r < rows; r++)
            given[i][r] = alike ? vec_splat(at[r]) : vec_load_part(at + r * extra.width + q * LANES, FN(left)(l, q));
        for (ptrdiff_t u = 1; u < units; u++)
            given[i][u] = alike ? given[i][0] : vec_load_part(at + (q + u) * LANES, FN(left)(l, q + u));
        places[FASTRNN_AT_EXTRA + i] = (NAME(place)){given[i], 1};
    }
}

/* The states other than h from c on, which is that of the first row and unit vector. */
INLINE void FN(place_states)(const fastrnn_layer *l, NAME(place) *places, const REAL *c, ptrdiff_t units) {
    for (int k = 1; k < l->program->states; k++)
        places[k] = (NAME(place)){(vec *)(c + (k - 1) * FN(unit_width)(l)), units > 1 ? 1 : FN(c_width)(l) / LANES};
}

/* h before the step, where the program reads it: of rows that lie h_row apart from h_prev on. */
INLINE void FN(place_h)(
    const fastrnn_layer *l, NAME(place) *places, vec *h, const REAL *h_prev, ptrdiff_t h_row, ptrdiff_t rows, ptrdiff_t q,
    ptrdiff_t units) {
    const int reads = l->program->reads_h || l->taken;
    for (ptrdiff_t r = 0; reads && r < rows; r++)
        h[r] = vec_load_part(h_prev + r * h_row + q * LANES, FN(left)(l, q));
    for (ptrdiff_t u = 1; reads && u < units; u++)
        h[u] = vec_load_part(h_prev + (q + u) * LANES, FN(left)(l, q + u));
    places[FASTRNN_AT_BEFORE] = (NAME(place)){h, 1};
}

/* The sums of rows, or of unit vectors of one block, in acc, block by block `plane` rows apart. */
INLINE void FN(place_sums)(const fastrnn_layer *l, NAME(place) *places, vec (*acc)[4], ptrdiff_t plane) {
    for (int slot = 0; slot < 4 * l->program->blocks; slot++)
        places[FASTRNN_AT_SLOT + slot] = (NAME(place)){acc[slot / 4 * plane] + slot % 4, 4};
}

/* l->taken of all rows of a piece in unit vector q: what the recurrent product takes, of h. */
static void FN(take_rows)(const fastrnn_layer *l, const FN(piece) *piece, ptrdiff_t q) {
    const fastrnn_program *p = l->program;
    NAME(place) places[FASTRNN_PLACES];
    vec registers[FASTRNN_REGISTERS][PROGRAM_ROWS], unit[FASTRNN_UNIT_SLOTS][PROGRAM_UNITS];
    vec h_prev[PROGRAM_ROWS], taken[PROGRAM_ROWS], given[FASTRNN_EXTRAS][PROGRAM_ROWS];
    FN(place_fixed)(l, places, registers, unit, q, 1);
    places[FASTRNN_AT_TAKEN] = (NAME(place)){taken, 1};
    for (ptrdiff_t n = piece->n0, count; n < piece->n1; n += count) {
        count = least(PROGRAM_ROWS, piece->n1 - n);
        FN(place_h)(l, places, h_prev, piece->h_prev + n * piece->h_row, piece->h_row, count, q, 1);
        FN(place_extras)(l, places, given, piece->row, n, count, q, 1);
        NAME(run_program)(p->take.instructions, p->take.count, places, count);
        for (ptrdiff_t r = 0; r < count; r++) /* which is this function's to write */
            vec_store_part((REAL *)piece->taken + (n + r) * piece->taken_row + q * LANES, taken[r], FN(left)(l, q));
    }
}

/* Rows n .. n + rows - 1 of a piece in the unit vector that begins with block b: from the sums acc, block by block `plane`
 * rows apart, to y (or u), c and Z. */
static void FN(finish)(
    const fastrnn_layer *l, vec (*acc)[4], ptrdiff_t plane, const FN(piece) *piece, ptrdiff_t b, ptrdiff_t n,
    ptrdiff_t rows, ptrdiff_t units) {
    const fastrnn_program *p = l->program;
    const ptrdiff_t q = b / p->blocks, at = q * LANES, c_row = FN(c_width)(l);
    NAME(place) places[FASTRNN_PLACES];
    vec registers[FASTRNN_REGISTERS][PROGRAM_ROWS], unit[FASTRNN_UNIT_SLOTS][PROGRAM_UNITS];
    vec h_prev[PROGRAM_ROWS], h[PROGRAM_ROWS], given[FASTRNN_EXTRAS][PROGRAM_ROWS];
    FN(place_fixed)(l, places, registers, unit, q, units);
    for (ptrdiff_t first = 0; first < rows; first += PROGRAM_ROWS) {
        const ptrdiff_t count = least(PROGRAM_ROWS, rows - first), c_at = (n + first) * c_row + at;
        FN(place_sums)(l, places, acc + first, plane);
        FN(place_states)(l, places + FASTRNN_AT_BEFORE, piece->c_prev + c_at, units);
        FN(place_states)(l, places + FASTRNN_AT_AFTER, piece->c + c_at, units);
        FN(place_h)(l, places, h_prev, piece->h_prev + (n + first) * piece->h_row, piece->h_row, count, q, units);
        FN(place_extras)(l, places, given, piece->row, n + first, count, q, units);
        places[FASTRNN_AT_AFTER] = (NAME(place)){h, 1};
        NAME(run_program)(p->forward.instructions, p->forward.count, places, units > 1 ? units : count);
        for (ptrdiff_t r = 0; r < count; r++)
            vec_store_part(piece->out + (n + first + r) * piece->out_row + at, h[r], FN(left)(l, q));
        for (ptrdiff_t u = 1; u < units; u++)
            vec_store_part(piece->out + n * piece->out_row + at + u * LANES, h[u], FN(left)(l, q + u));
    }
    for (int j = 0; l->keep && j < p->blocks; j++)
        memcpy(FN(z_at)(l, b + j, piece->row + n), acc + j * plane, (size_t)rows * sizeof(*acc));
    for (ptrdiff_t u = 1; l->keep && u < units; u++)
        memcpy(FN(z_at)(l, b + u, piece->row + n), acc + u, sizeof(*acc));
}

/* The same where m comes first: from the sums to m and Z. */
static void FN(activate)(
    const fastrnn_layer *l, vec (*acc)[4], ptrdiff_t plane, const FN(piece) *piece, ptrdiff_t b, ptrdiff_t n,
    ptrdiff_t rows) {
    const fastrnn_program *p = l->program;
    if (!p->m_slots) {
        FN(finish)(l, acc, plane, piece, b, n, rows, 1);
        return;
    }
    const ptrdiff_t q = b / p->blocks, at = q * LANES, left = FN(left)(l, q), H = l->hidden;
    REAL *m_at = (REAL *)l->m + (l->keep ? piece->row + n : n) * H + at;
    NAME(place) places[FASTRNN_PLACES];
    vec registers[FASTRNN_REGISTERS][PROGRAM_ROWS], unit[FASTRNN_UNIT_SLOTS][PROGRAM_UNITS];
    vec h_prev[PROGRAM_ROWS], m[PROGRAM_ROWS], given[FASTRNN_EXTRAS][PROGRAM_ROWS];
    FN(place_fixed)(l, places, registers, unit, q, 1);
    places[FASTRNN_AT_MIDDLE] = (NAME(place)){m, 1};
    for (ptrdiff_t first = 0; first < rows; first += PROGRAM_ROWS) {
        const ptrdiff_t count = least(PROGRAM_ROWS, rows - first);
        FN(place_sums)(l, places, acc + first, plane);
        FN(place_states)(l, places + FASTRNN_AT_BEFORE, piece->c_prev + (n + first) * FN(c_width)(l) + at, 1);
        FN(place_h)(l, places, h_prev, piece->h_prev + (n + first) * piece->h_row, piece->h_row, count, q, 1);
        FN(place_extras)(l, places, given, piece->row, n + first, count, q, 1);
        NAME(run_program)(p->middle.instructions, p->middle.count, places, count);
        for (ptrdiff_t r = 0; r < count; r++) vec_store_part(m_at + (first + r) * H, m[r], left);
    }
    for (int j = 0; j < p->blocks; j++)
        memcpy(FN(z_at)(l, b + j, piece->row + n), acc + j * plane, (size_t)rows * sizeof(*acc));
}

/* The tape, the states and the extras of up to `rows` rows of a step, n and on, in unit vectors q and on. Returns of how many: those
 * that follow rows of the step before and those that begin with the initial state are looked at apart. */
INLINE ptrdiff_t FN(place_tape)(
    const fastrnn_layer *l, NAME(place) *places, vec *h, vec (*given)[PROGRAM_ROWS], const FN(moment) *m, ptrdiff_t n,
    ptrdiff_t rows, ptrdiff_t q, ptrdiff_t units) {
    const int blocks = l->program->blocks;
    const int follows = n < m->carried;
    const ptrdiff_t count = least(PROGRAM_ROWS, follows ? least(rows, m->carried - n) : rows);
    const ptrdiff_t c_at = n * FN(c_width)(l) + q * LANES, h_row = follows ? l->y_row : l->outputs;
    for (int slot = 0; slot < 4 * blocks; slot++)
        places[FASTRNN_AT_SLOT + slot] = (NAME(place)){
            (vec *)FN(z_at)(l, q * blocks + slot / 4, m->row + n) + slot % 4,
            units > 1 ? blocks * l->z_stride / LANES : 4};
    FN(place_states)(l, places + FASTRNN_AT_BEFORE, (follows ? m->c_before : (const REAL *)l->c) + c_at, units);
    FN(place_states)(l, places + FASTRNN_AT_AFTER, m->c + c_at, units);
    FN(place_h)(l, places, h, (follows ? m->y_before : (const REAL *)l->h_0) + n * h_row, h_row, count, q, units);
    FN(place_extras)(l, places, given, m->row, n, count, q, units);
    return count;
}

/* Z of a step's rows n and on, units q * L and on: from the tape to the gradients of the sums and of the cell's
 * parameters, given those of h, or of u, and of m: INOUT [row][4]. */
static void FN(run_back)(
    const fastrnn_layer *l, const fastrnn_code *code, const FN(moment) *m, ptrdiff_t n, ptrdiff_t q, vec *dh, vec *dm,
    ptrdiff_t rows, ptrdiff_t units) {
    const fastrnn_program *p = l->program;
    const ptrdiff_t C = FN(unit_width)(l) / LANES, carry_row = units > 1 ? 1 : FN(carry_width)(l) / LANES;
    const ptrdiff_t d_row = units > 1 ? 1 : 4, end = FN(left)(l, q + units - 1); /* lanes of the last vector */
    NAME(place) places[FASTRNN_PLACES];
    vec registers[FASTRNN_REGISTERS][PROGRAM_ROWS], unit[FASTRNN_UNIT_SLOTS][PROGRAM_UNITS], h_prev[PROGRAM_ROWS];
    vec given[FASTRNN_EXTRAS][PROGRAM_ROWS];
    FN(place_fixed)(l, places, registers, unit, q, units);
    for (ptrdiff_t r = 0; dm && r < rows; r++)
        dh[4 * r] = vec_load_part((const REAL *)l->dh + (m->row + n + r) * l->outputs + q * LANES, end);
    for (ptrdiff_t r = 0; code == &p->middle_back && r < rows; r++)
        vec_store_part((REAL *)l->dh + (m->row + n + r) * l->outputs + q * LANES, dh[4 * r], end);
    for (ptrdiff_t first = 0, count; first < rows; first += count) {
        vec *carry = (vec *)l->carry + (n + first) * (FN(carry_width)(l) / LANES) + q;
        count = FN(place_tape)(l, places, h_prev, given, m, n + first, rows - first, q, units);
        const ptrdiff_t values = units > 1 ? units : count;
        places[FASTRNN_AT_GRADIENT] = (NAME(place)){dh + 4 * first, d_row};
        places[FASTRNN_AT_MIDDLE] = (NAME(place)){dm + 4 * first, d_row};
        for (int k = 1; k < p->states; k++)
            places[FASTRNN_AT_GRADIENT + k] = (NAME(place)){carry + k * C, carry_row};
        NAME(run_program)(code->instructions, code->count, places, values);
        for (ptrdiff_t r = 0; p->reads_h && code == &p->backward && r < values; r++)
            carry[r * carry_row] = dh[4 * first + r * d_row];
        /* Lanes beyond H must be zero, whatever they held: the products run over them. */
        for (int slot = 0; end < LANES && slot < p->slots; slot++)
            for (ptrdiff_t r = units - 1; r < values; r++) {
                const NAME(place) place = places[FASTRNN_AT_SLOT + slot];
                place.at[r * place.row] = vec_load_part((const REAL *)(place.at + r * place.row), end);
            }
    }
}

/* Rows n and on of step s in unit vector q: from the gradient of what the recurrent product took to that of h, INOUT
 * [row][4]; adds to those of parameters, which the step's backward program has left. */
static void FN(take_back)(
    const fastrnn_layer *l, ptrdiff_t s, ptrdiff_t n, ptrdiff_t q, vec *dtaken, ptrdiff_t rows) {
    const fastrnn_code *code = &l->program->take_back;
    const FN(moment) m = FN(moment_of)(l, s);
    NAME(place) places[FASTRNN_PLACES];
    vec registers[FASTRNN_REGISTERS][PROGRAM_ROWS], unit[FASTRNN_UNIT_SLOTS][PROGRAM_UNITS], h_prev[PROGRAM_ROWS];
    vec given[FASTRNN_EXTRAS][PROGRAM_ROWS];
    FN(place_fixed)(l, places, registers, unit, q, 1);
    for (ptrdiff_t first = 0, count; first < rows; first += count) {
        count = FN(place_tape)(l, places, h_prev, given, &m, n + first, rows - first, q, 1);
        places[FASTRNN_AT_TAKEN] = (NAME(place)){dtaken + 4 * first, 4};
        NAME(run_program)(code->instructions, code->count, places, count);
    }
}

/* With m only as far as the gradients of the sums that it feeds; l->dh keeps that of h. */
INLINE void FN(gates_back)(
    const fastrnn_layer *l, const FN(moment) *m, ptrdiff_t n, ptrdiff_t q, vec *dh, ptrdiff_t rows) {
    FN(run_back)(l, l->program->m_slots ? &l->program->middle_back : &l->program->backward, m, n, q, dh, NULL, rows, 1);
}
/* And the rest, given the gradient of m. */
INLINE void FN(middle_back)(
    const fastrnn_layer *l, const FN(moment) *m, ptrdiff_t n, ptrdiff_t q, vec *dm, ptrdiff_t rows) {
    vec dh[48][4];
    FN(run_back)(l, &l->program->backward, m, n, q, *dh, dm, rows, 1);
}

static void FN(read_tape)(
    const fastrnn_layer *l, void *gates, void *c, ptrdiff_t rows, const intptr_t *to, ptrdiff_t row0, ptrdiff_t row1) {
    const fastrnn_program *p = l->program;
    NAME(place) places[FASTRNN_PLACES];
    vec registers[FASTRNN_REGISTERS][PROGRAM_ROWS], unit[FASTRNN_UNIT_SLOTS][PROGRAM_UNITS], h_prev[PROGRAM_ROWS];
    vec shown[FASTRNN_UNIT_SLOTS][PROGRAM_ROWS], given[FASTRNN_EXTRAS][PROGRAM_ROWS];
    for (int g = 0; g < p->gates; g++) places[FASTRNN_AT_SHOWN + g] = (NAME(place)){shown[g], 1};
    for (ptrdiff_t s = 0; s < l->steps; s++) {
        const FN(moment) m = FN(moment_of)(l, s);
        const ptrdiff_t n1 = least(fastrnn_step_count(l, s), row1 - m.row);
        for (ptrdiff_t n = most(0, row0 - m.row), count = 0; n < n1; n += count)
            for (ptrdiff_t q = 0; q < ceil_div(l->hidden, LANES); q++) {
                const ptrdiff_t left = FN(left)(l, q);
                FN(place_fixed)(l, places, registers, unit, q, 1);
                count = FN(place_tape)(l, places, h_prev, given, &m, n, n1 - n, q, 1);
                NAME(run_program)(p->inside.instructions, p->inside.count, places, count);
                for (ptrdiff_t r = 0; r < count; r++) {
                    const ptrdiff_t row = to ? to[m.row + n + r] : m.row + n + r, at = row * l->hidden + q * LANES;
                    for (int g = 0; g < p->gates; g++)
                        vec_store_part((REAL *)gates + g * rows * l->hidden + at, shown[g][r], left);
                    for (int k = 1; k < p->states; k++) {
                        const NAME(place) state = places[FASTRNN_AT_AFTER + k];
                        vec_store_part((REAL *)c + (k - 1) * rows * l->hidden + at, state.at[r * state.row], left);
                    }
                }
            }
    }
}
#undef PROGRAM_ROWS
#undef PROGRAM_UNITS
