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

/* The states other than h from c on, which is that of the first row and unit vector. */
INLINE void FN(place_states)(const fastrnn_layer *l, NAME(place) *places, const REAL *c, ptrdiff_t units) {
    for (int k = 1; k < l->program->states; k++)
        places[k] = (NAME(place)){(vec *)(c + (k - 1) * FN(unit_width)(l)), units > 1 ? 1 : FN(c_width)(l) / LANES};
}

/* h before the step, where the program reads it: of rows that lie h_row apart from h_prev on. */
INLINE void FN(place_h)(
    const fastrnn_layer *l, NAME(place) *places, vec *h, const REAL *h_prev, ptrdiff_t h_row, ptrdiff_t rows, ptrdiff_t q,
    ptrdiff_t units) {
    for (ptrdiff_t r = 0; l->program->reads_h && r < rows; r++)
        h[r] = vec_load_part(h_prev + r * h_row + q * LANES, FN(left)(l, q));
    for (ptrdiff_t u = 1; l->program->reads_h && u < units; u++)
        h[u] = vec_load_part(h_prev + (q + u) * LANES, FN(left)(l, q + u));
    places[FASTRNN_AT_BEFORE] = (NAME(place)){h, 1};
}

/* The sums of rows, or of unit vectors of one block, in acc, block by block `plane` rows apart. */
INLINE void FN(place_sums)(const fastrnn_layer *l, NAME(place) *places, vec (*acc)[4], ptrdiff_t plane) {
    for (int slot = 0; slot < 4 * l->program->blocks; slot++)
        places[FASTRNN_AT_SLOT + slot] = (NAME(place)){acc[slot / 4 * plane] + slot % 4, 4};
}

/* Rows n .. n + rows - 1 of a piece in the unit vector that begins with block b: from the sums acc, block by block `plane`
 * rows apart, to y (or u), c and Z. */
static void FN(finish)(
    const fastrnn_layer *l, vec (*acc)[4], ptrdiff_t plane, const FN(piece) *piece, ptrdiff_t b, ptrdiff_t n,
    ptrdiff_t rows, ptrdiff_t units) {
    const fastrnn_program *p = l->program;
    const ptrdiff_t q = b / p->blocks, at = q * LANES, c_row = FN(c_width)(l);
    NAME(place) places[FASTRNN_PLACES];
    vec registers[FASTRNN_REGISTERS][PROGRAM_ROWS], unit[FASTRNN_PARAMETERS][PROGRAM_UNITS];
    vec h_prev[PROGRAM_ROWS], h[PROGRAM_ROWS];
    FN(place_fixed)(l, places, registers, unit, q, units);
    for (ptrdiff_t first = 0; first < rows; first += PROGRAM_ROWS) {
        const ptrdiff_t count = least(PROGRAM_ROWS, rows - first), c_at = (n + first) * c_row + at;
        FN(place_sums)(l, places, acc + first, plane);
        FN(place_states)(l, places + FASTRNN_AT_BEFORE, piece->c_prev + c_at, units);
        FN(place_states)(l, places + FASTRNN_AT_AFTER, piece->c + c_at, units);
        FN(place_h)(l, places, h_prev, piece->h_prev + (n + first) * piece->h_row, piece->h_row, count, q, units);
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
    if (p->phase_count) { /* which begin once all units of the row have come as far */
        for (int j = 0; j < ceil_div(p->slots, 4); j++)
            memcpy(FN(z_at)(l, b + j, piece->row + n), acc + j * plane, (size_t)rows * sizeof(*acc));
        return;
    }
    if (!p->m_slots) {
        FN(finish)(l, acc, plane, piece, b, n, rows, 1);
        return;
    }
    const ptrdiff_t q = b / p->blocks, at = q * LANES, left = FN(left)(l, q), H = l->hidden;
    REAL *m_at = (REAL *)l->m + (l->keep ? piece->row + n : n) * H + at;
    NAME(place) places[FASTRNN_PLACES];
    vec registers[FASTRNN_REGISTERS][PROGRAM_ROWS], unit[FASTRNN_PARAMETERS][PROGRAM_UNITS];
    vec h_prev[PROGRAM_ROWS], m[PROGRAM_ROWS];
    FN(place_fixed)(l, places, registers, unit, q, 1);
    places[FASTRNN_AT_MIDDLE] = (NAME(place)){m, 1};
    for (ptrdiff_t first = 0; first < rows; first += PROGRAM_ROWS) {
        const ptrdiff_t count = least(PROGRAM_ROWS, rows - first);
        FN(place_sums)(l, places, acc + first, plane);
        FN(place_states)(l, places + FASTRNN_AT_BEFORE, piece->c_prev + (n + first) * FN(c_width)(l) + at, 1);
        FN(place_h)(l, places, h_prev, piece->h_prev + (n + first) * piece->h_row, piece->h_row, count, q, 1);
        NAME(run_program)(p->middle.instructions, p->middle.count, places, count);
        for (ptrdiff_t r = 0; r < count; r++) vec_store_part(m_at + (first + r) * H, m[r], left);
    }
    for (int j = 0; j < p->blocks; j++)
        memcpy(FN(z_at)(l, b + j, piece->row + n), acc + j * plane, (size_t)rows * sizeof(*acc));
}

/* The states, before and after, of up to `rows` rows of a step, n and on, in unit vectors q and on. Returns of how many:
 * those that follow rows of the step before and those that begin with the initial state are looked at apart. */
INLINE ptrdiff_t FN(place_before)(
    const fastrnn_layer *l, NAME(place) *places, vec *h, const FN(moment) *m, ptrdiff_t n, ptrdiff_t rows, ptrdiff_t q,
    ptrdiff_t units) {
    const int follows = n < m->carried;
    const ptrdiff_t count = least(PROGRAM_ROWS, follows ? least(rows, m->carried - n) : rows);
    const ptrdiff_t c_at = n * FN(c_width)(l) + q * LANES, h_row = follows ? l->y_row : l->outputs;
    FN(place_states)(l, places + FASTRNN_AT_BEFORE, (follows ? m->c_before : (const REAL *)l->c) + c_at, units);
    FN(place_states)(l, places + FASTRNN_AT_AFTER, m->c + c_at, units);
    FN(place_h)(l, places, h, (follows ? m->y_before : (const REAL *)l->h_0) + n * h_row, h_row, count, q, units);
    return count;
}

/* The same, and the tape. */
INLINE ptrdiff_t FN(place_tape)(
    const fastrnn_layer *l, NAME(place) *places, vec *h, const FN(moment) *m, ptrdiff_t n, ptrdiff_t rows, ptrdiff_t q,
    ptrdiff_t units) {
    const int blocks = l->program->blocks;
    for (int slot = 0; slot < 4 * blocks; slot++)
        places[FASTRNN_AT_SLOT + slot] = (NAME(place)){
            (vec *)FN(z_at)(l, q * blocks + slot / 4, m->row + n) + slot % 4,
            units > 1 ? blocks * l->z_stride / LANES : 4};
    return FN(place_before)(l, places, h, m, n, rows, q, units);
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
    vec registers[FASTRNN_REGISTERS][PROGRAM_ROWS], unit[FASTRNN_PARAMETERS][PROGRAM_UNITS], h_prev[PROGRAM_ROWS];
    FN(place_fixed)(l, places, registers, unit, q, units);
    for (ptrdiff_t r = 0; dm && r < rows; r++)
        dh[4 * r] = vec_load_part((const REAL *)l->dh + (m->row + n + r) * l->outputs + q * LANES, end);
    for (ptrdiff_t r = 0; code == &p->middle_back && r < rows; r++)
        vec_store_part((REAL *)l->dh + (m->row + n + r) * l->outputs + q * LANES, dh[4 * r], end);
    for (ptrdiff_t first = 0, count; first < rows; first += count) {
        vec *carry = (vec *)l->carry + (n + first) * (FN(carry_width)(l) / LANES) + q;
        count = FN(place_tape)(l, places, h_prev, m, n + first, rows - first, q, units);
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

/* ---- programs in phases ---- */

/* What phases of some rows work on. */
typedef struct {
    NAME(place) places[FASTRNN_PLACES];
    vec registers[FASTRNN_REGISTERS][PROGRAM_ROWS];
    vec h_prev[PROGRAM_ROWS], h[PROGRAM_ROWS]; /* of a unit vector; in backward h is the gradient */
    vec values[FASTRNN_ROW_VALUES][PROGRAM_ROWS], sums[FASTRNN_SUMS][PROGRAM_ROWS];
} FN(phases);

/* What is at the same place in all phases, and how far rows lie apart where that is not. */
INLINE void FN(place_phases)(const fastrnn_layer *l, FN(phases) *w) {
    const fastrnn_program *p = l->program;
    for (int i = 0; i < p->constant_count; i++)
        w->places[FASTRNN_AT_CONSTANT + i] = (NAME(place)){(vec *)p->constants + i, 0};
    for (int i = 0; i < p->registers; i++) w->places[FASTRNN_AT_REGISTER + i] = (NAME(place)){w->registers[i], 1};
    for (int k = 0; k < FASTRNN_ROW_VALUES; k++) w->places[FASTRNN_AT_ROW + k] = (NAME(place)){w->values[k], 1};
    for (int j = 0; j < FASTRNN_SUMS; j++) w->places[FASTRNN_AT_SUM + j] = (NAME(place)){w->sums[j], 1};
    for (int i = 0; i < p->parameters; i++) w->places[FASTRNN_AT_UNIT + i].row = 0;
    for (int slot = 0; slot < 4 * p->blocks; slot++) w->places[FASTRNN_AT_SLOT + slot].row = 4;
}

/* Slots and parameters of unit vector q, slots of rows from one on. */
INLINE void FN(place_units)(const fastrnn_layer *l, FN(phases) *w, ptrdiff_t row, ptrdiff_t q) {
    const fastrnn_program *p = l->program;
    const ptrdiff_t V = ceil_div(l->hidden, LANES);
    for (int j = 0; j < p->blocks; j++)
        for (int slot = 0; slot < 4; slot++)
            w->places[FASTRNN_AT_SLOT + 4 * j + slot].at = (vec *)FN(z_at)(l, q * p->blocks + j, row) + slot;
    for (int i = 0; i < p->parameters; i++) w->places[FASTRNN_AT_UNIT + i].at = (vec *)l->units + i * V + q;
}

/* A row's values that backward sees as well. */
INLINE REAL *FN(row_values_at)(const fastrnn_layer *l, ptrdiff_t row) {
    return (REAL *)l->z + FN(blocks)(l) * l->z_stride + (row - l->z_row) * l->program->row_values;
}

/* The sum of all lanes, in one order. */
INLINE REAL FN(sum_of_lanes)(vec a) {
    REAL lanes[LANES];
    memcpy(lanes, &a, sizeof(a));
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
}

/* From the sums of the phase before to the row's values; sums := 0 */
INLINE void FN(begin_phase)(const fastrnn_layer *l, FN(phases) *w, const fastrnn_phase *phase, ptrdiff_t rows, int sums) {
    for (int j = 0; j < phase->mean_count; j++)
        for (ptrdiff_t r = 0; r < rows; r++)
            w->values[phase->means[j]][r] = vec_splat(FN(sum_of_lanes)(w->sums[j][r]) / (REAL)l->hidden);
    NAME(run_program)(phase->of_row.instructions, phase->of_row.count, w->places, rows);
    memset(w->sums, 0, (size_t)sums * sizeof(*w->sums));
}

/* The phase's program on unit vector q. Each lane of a sum is one chain, of units L apart, whatever rows share the loop;
 * lanes beyond H leave it as it was. */
INLINE void FN(run_phase)(
    const fastrnn_layer *l, FN(phases) *w, const fastrnn_phase *phase, ptrdiff_t q, ptrdiff_t rows, int sums) {
    const ptrdiff_t left = FN(left)(l, q);
    vec before[FASTRNN_SUMS][PROGRAM_ROWS];
    if (left < LANES) memcpy(before, w->sums, (size_t)sums * sizeof(*before));
    NAME(run_program)(phase->of_units.instructions, phase->of_units.count, w->places, rows);
    for (int j = 0; left < LANES && j < sums; j++)
        for (ptrdiff_t r = 0; r < rows; r++) {
            memcpy(&before[j][r], &w->sums[j][r], (size_t)left * sizeof(REAL));
            w->sums[j][r] = before[j][r];
        }
}

static void FN(step_phases)(const fastrnn_layer *l, ptrdiff_t s, ptrdiff_t n0, ptrdiff_t n1) {
    const fastrnn_program *p = l->program;
    const fastrnn_phase *end = p->phases + p->phase_count;
    FN(piece) pieces[2];
    const int count = FN(cut_step)(l, s, n0, n1, pieces);
    FN(phases) w;
    FN(place_phases)(l, &w);
    w.places[FASTRNN_AT_AFTER] = (NAME(place)){w.h, 1};
    for (const FN(piece) *piece = pieces; piece < pieces + count; piece++)
        for (ptrdiff_t n = piece->n0; n < piece->n1; n += PROGRAM_ROWS) {
            const ptrdiff_t rows = least(PROGRAM_ROWS, piece->n1 - n), row = piece->row + n;
            for (const fastrnn_phase *phase = p->phases; phase < end; phase++) {
                const int sums = phase + 1 < end ? phase[1].mean_count : 0;
                FN(begin_phase)(l, &w, phase, rows, sums);
                for (ptrdiff_t q = 0; q < ceil_div(l->hidden, LANES); q++) {
                    const ptrdiff_t at = q * LANES, c_at = n * FN(c_width)(l) + at;
                    FN(place_units)(l, &w, row, q);
                    FN(place_states)(l, w.places + FASTRNN_AT_BEFORE, piece->c_prev + c_at, 1);
                    FN(place_states)(l, w.places + FASTRNN_AT_AFTER, piece->c + c_at, 1);
                    FN(place_h)(l, w.places, w.h_prev, piece->h_prev + n * piece->h_row, piece->h_row, rows, q, 1);
                    FN(run_phase)(l, &w, phase, q, rows, sums);
                    for (ptrdiff_t r = 0; phase->ends && r < rows; r++)
                        vec_store_part(piece->out + (n + r) * piece->out_row + at, w.h[r], FN(left)(l, q));
                }
            }
            for (ptrdiff_t r = 0; l->keep && r < rows; r++) {
                REAL *values = FN(row_values_at)(l, row + r);
                for (int k = 0; k < p->row_values; k++) values[k] = w.values[k][r][0];
            }
        }
}

static void FN(step_back_phases)(const fastrnn_layer *l, ptrdiff_t s, ptrdiff_t n0, ptrdiff_t n1) {
    const fastrnn_program *p = l->program;
    const fastrnn_phase *end = p->phases_back + p->phase_back_count;
    const FN(moment) m = FN(moment_of)(l, s);
    const ptrdiff_t V = ceil_div(l->hidden, LANES), M = p->parameters, d_row = l->u ? l->hidden : l->outputs;
    const REAL *d = l->u ? (const REAL *)l->du : (const REAL *)l->dh + m.row * d_row;
    FN(phases) w;
    FN(place_phases)(l, &w);
    w.places[FASTRNN_AT_GRADIENT] = (NAME(place)){w.h, 1};
    n1 = least(n1, fastrnn_step_count(l, s));
    for (ptrdiff_t n = n0, rows; n < n1; n += rows) {
        rows = least(PROGRAM_ROWS, n < m.carried ? least(n1, m.carried) - n : n1 - n); /* as many as place_tape takes */
        for (ptrdiff_t r = 0; r < rows; r++) {
            const REAL *values = FN(row_values_at)(l, m.row + n + r);
            for (int k = 0; k < p->row_values; k++) w.values[k][r] = vec_splat(values[k]);
        }
        for (const fastrnn_phase *phase = p->phases_back; phase < end; phase++) {
            const int sums = phase + 1 < end ? phase[1].mean_count : 0;
            FN(begin_phase)(l, &w, phase, rows, sums);
            for (ptrdiff_t q = 0; q < V; q++) {
                const ptrdiff_t left = FN(left)(l, q);
                vec *carry = (vec *)l->carry + n * (FN(carry_width)(l) / LANES) + q;
                FN(place_units)(l, &w, m.row + n, q);
                FN(place_before)(l, w.places, w.h_prev, &m, n, rows, q, 1);
                for (int k = 1; k < p->states; k++)
                    w.places[FASTRNN_AT_GRADIENT + k] = (NAME(place)){carry + k * V, FN(carry_width)(l) / LANES};
                for (int i = 0; i < M; i++)
                    w.places[FASTRNN_AT_OWN + i] = (NAME(place)){(vec *)l->own + (n * M + i) * V + q, M * V};
                for (ptrdiff_t r = 0; r < rows; r++) w.h[r] = vec_load_part(d + (n + r) * d_row + q * LANES, left);
                FN(run_phase)(l, &w, phase, q, rows, sums);
                for (ptrdiff_t r = 0; p->reads_h && phase->ends && r < rows; r++) carry[r * p->states * V] = w.h[r];
                /* Lanes beyond H must be zero, whatever they held: the products run over them. */
                for (int slot = 0; phase + 1 == end && left < LANES && slot < p->slots; slot++)
                    for (ptrdiff_t r = 0; r < rows; r++) {
                        vec *z = w.places[FASTRNN_AT_SLOT + slot].at + 4 * r;
                        *z = vec_load_part((const REAL *)z, left);
                    }
            }
        }
    }
}

static void FN(own_gradients)(const fastrnn_layer *l, ptrdiff_t q0, ptrdiff_t q1) {
    const ptrdiff_t V = ceil_div(l->hidden, LANES), M = l->program->parameters;
    for (ptrdiff_t i = 0; i < M; i++)
        for (ptrdiff_t q = q0; q < q1; q++) {
            REAL *dunit = (REAL *)l->dunit + i * l->hidden + q * LANES;
            vec sum = {0};
            for (ptrdiff_t n = 0; n < l->batch; n++) {
                vec *own = (vec *)l->own + (n * M + i) * V + q;
                sum += *own;
                *own = (vec){0};
            }
            vec_store_part(dunit, vec_load_part(dunit, FN(left)(l, q)) + sum, FN(left)(l, q));
        }
}

static void FN(read_tape)(
    const fastrnn_layer *l, void *gates, void *c, ptrdiff_t rows, const intptr_t *to, ptrdiff_t row0, ptrdiff_t row1) {
    const fastrnn_program *p = l->program;
    NAME(place) places[FASTRNN_PLACES];
    vec registers[FASTRNN_REGISTERS][PROGRAM_ROWS], unit[FASTRNN_PARAMETERS][PROGRAM_UNITS], h_prev[PROGRAM_ROWS];
    vec shown[FASTRNN_UNIT_SLOTS][PROGRAM_ROWS];
    vec values[FASTRNN_ROW_VALUES][PROGRAM_ROWS];
    for (int g = 0; g < p->gates; g++) places[FASTRNN_AT_SHOWN + g] = (NAME(place)){shown[g], 1};
    for (int k = 0; k < p->row_values; k++) places[FASTRNN_AT_ROW + k] = (NAME(place)){values[k], 1};
    for (ptrdiff_t s = 0; s < l->steps; s++) {
        const FN(moment) m = FN(moment_of)(l, s);
        const ptrdiff_t n1 = least(fastrnn_step_count(l, s), row1 - m.row);
        for (ptrdiff_t n = most(0, row0 - m.row), count = 0; n < n1; n += count)
            for (ptrdiff_t q = 0; q < ceil_div(l->hidden, LANES); q++) {
                const ptrdiff_t left = FN(left)(l, q);
                FN(place_fixed)(l, places, registers, unit, q, 1);
                count = FN(place_tape)(l, places, h_prev, &m, n, n1 - n, q, 1);
                for (ptrdiff_t r = 0; p->row_values && r < count; r++)
                    for (int k = 0; k < p->row_values; k++)
                        values[k][r] = vec_splat(FN(row_values_at)(l, m.row + n + r)[k]);
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
