/* What is a cell's own, where that is a program: how it sees the rows of a layer. Some rows of one group of unit vectors
 * share an instruction, their registers stay in L1. */
#define PROGRAM_VECTORS 32

/* Unit vectors from q on that the group of q has and that are not beyond H. */
INLINE ptrdiff_t FN(units_from)(const fastrnn_layer *l, ptrdiff_t q) {
    const ptrdiff_t group = l->program->units;
    return least(group - q % group, ceil_div(FN(left)(l, q), LANES));
}

/* The place of rows that have `units` unit vectors each. */
INLINE NAME(place) FN(own_rows)(vec *rows, ptrdiff_t units) { return (NAME(place)){(REAL *)rows, units * LANES}; }

/* The sums of the parameters' gradients of batch rows n and on, where there are such. */
INLINE void FN(place_own)(const fastrnn_layer *l, NAME(place) *places, ptrdiff_t n, ptrdiff_t q) {
    const ptrdiff_t M = l->program->parameters, C = FN(unit_width)(l);
    for (int i = 0; l->own && i < M; i++)
        places[FASTRNN_AT_OWN + i] = (NAME(place)){(REAL *)l->own + (n * M + i) * C + q * LANES, M * C};
}

/* Whether arrays of H columns have whole vectors of `units` units from q on. */
INLINE int FN(are_whole)(const fastrnn_layer *l, ptrdiff_t q, ptrdiff_t units) { return FN(left)(l, q) >= units * LANES; }

/* Constants, registers, and the cell's parameters of `units` unit vectors from q on, which `unit` has room for. */
INLINE void FN(place_fixed)(
    const fastrnn_layer *l, NAME(place) *places, vec (*registers)[PROGRAM_VECTORS], vec (*unit)[FASTRNN_GROUP_UNITS],
    ptrdiff_t q, ptrdiff_t units) {
    const fastrnn_program *p = l->program;
    for (int i = 0; i < p->constant_count; i++)
        places[FASTRNN_AT_CONSTANT + i] = (NAME(place)){(REAL *)p->constants + i * p->units * LANES, 0};
    for (int i = 0; i < p->registers; i++) places[FASTRNN_AT_REGISTER + i] = FN(own_rows)(registers[i], units);
    for (int i = 0; i < p->parameters; i++) {
        for (ptrdiff_t u = 0; u < units; u++)
            unit[i][u] = vec_load_part((const REAL *)l->unit + i * l->hidden + (q + u) * LANES, FN(left)(l, q + u));
        places[FASTRNN_AT_UNIT + i] = (NAME(place)){(REAL *)unit[i], 0};
    }
}

/* What is given beside x to rows n and on, of the step whose first row is `row`; `given` is for what does not lie there in
 * whole vectors. */
INLINE void FN(place_extras)(
    const fastrnn_layer *l, NAME(place) *places, vec *given, ptrdiff_t row, ptrdiff_t n, ptrdiff_t rows,
    ptrdiff_t q, ptrdiff_t units) {
    for (int i = 0; i < l->program->extras; i++, given += rows * units) {
        const fastrnn_extra extra = l->extras[i];
        const REAL *at = (const REAL *)extra.at + (extra.of_sequence ? n : row + n) * extra.row;
        const int alike = extra.width == 1, whole = !alike && FN(are_whole)(l, q, units); /* alike: in all units */
        for (ptrdiff_t r = 0; !whole && r < rows; r++)
            for (ptrdiff_t u = 0; u < units; u++)
                given[r * units + u] = alike ? vec_splat(at[r * extra.row])
                                             : vec_load_part(at + r * extra.row + (q + u) * LANES, FN(left)(l, q + u));
        places[FASTRNN_AT_EXTRA + i] =
            whole ? (NAME(place)){(REAL *)at + q * LANES, extra.row} : FN(own_rows)(given, units);
    }
}

/* The states other than h from c on, which is that of the first row and unit vector. */
INLINE void FN(place_states)(const fastrnn_layer *l, NAME(place) *places, const REAL *c) {
    for (int k = 1; k < l->program->states; k++)
        places[k] = (NAME(place)){(REAL *)c + (k - 1) * FN(unit_width)(l), FN(c_width)(l)};
}

/* The place of rows of H columns, `row` apart from `at` on; what is `read` of parts of vectors is copied. */
static __attribute__((noinline)) NAME(place) FN(place_in)(
    const fastrnn_layer *l, int read, vec *copy, const REAL *at, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t q, ptrdiff_t units) {
    const int whole = FN(are_whole)(l, q, units);
    for (ptrdiff_t r = 0; !whole && read && r < rows; r++)
        for (ptrdiff_t u = 0; u < units; u++)
            copy[r * units + u] = vec_load_part(at + r * row + (q + u) * LANES, FN(left)(l, q + u));
    return whole ? (NAME(place)){(REAL *)at + q * LANES, row} : FN(own_rows)(copy, units);
}

/* h before the step, where the program reads it: of rows that lie h_row apart from h_prev on. */
INLINE void FN(place_h)(
    const fastrnn_layer *l, NAME(place) *places, vec *h, const REAL *h_prev, ptrdiff_t h_row, ptrdiff_t rows, ptrdiff_t q,
    ptrdiff_t units) {
    places[FASTRNN_AT_BEFORE] = FN(place_in)(l, l->program->reads_h || l->taken, h, h_prev, h_row, rows, q, units);
}

/* The slots of unit vector q and those after it in its group, of rows in acc, block by block `plane` rows apart. */
INLINE void FN(place_slots)(
    const fastrnn_layer *l, NAME(place) *places, FN(row) *acc, ptrdiff_t plane, ptrdiff_t q) {
    const int units = l->program->units, slots = 4 * l->program->blocks / units;
    for (ptrdiff_t slot = 0, at = q % units; slot < slots; slot++, at += units)
        places[FASTRNN_AT_SLOT + slot] = (NAME(place)){(REAL *)(acc[at / 4 * plane] + at % 4), Z_WIDTH};
}

/* The place of what a program leaves in rows of H columns, `to` and on: `from` where it may not write whole vectors. */
INLINE NAME(place) FN(place_out)(
    const fastrnn_layer *l, REAL *to, ptrdiff_t to_row, vec *from, ptrdiff_t q, ptrdiff_t units) {
    return FN(are_whole)(l, q, units) ? (NAME(place)){to + q * LANES, to_row} : FN(own_rows)(from, units);
}
/* Then they go there from it. */
INLINE void FN(store_out)(
    const fastrnn_layer *l, REAL *to, ptrdiff_t to_row, const vec *from, ptrdiff_t rows, ptrdiff_t q, ptrdiff_t units) {
    for (ptrdiff_t r = 0; !FN(are_whole)(l, q, units) && r < rows; r++)
        for (ptrdiff_t u = 0; u < units; u++)
            vec_store_part(to + r * to_row + (q + u) * LANES, from[r * units + u], FN(left)(l, q + u));
}

/* Ask for rows of units q and on, `row` numbers apart, that a scan will read or write. Its steps are too short for memory to
 * keep up: with what the next step wants, training of ind_rnn at (1000, 8, 128, 128) takes 0.87 of the time (Zen 3). */
INLINE void FN(fetch)(const void *at, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t q, ptrdiff_t units) {
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t k = 0; k < units * LANES; k += 64 / REAL_BYTES)
            __builtin_prefetch((const REAL *)at + r * row + q * LANES + k, 0, 2);
}

/* Rows of Z in a block, likewise. */
INLINE void FN(fetch_block)(const fastrnn_layer *l, ptrdiff_t b, ptrdiff_t row, ptrdiff_t rows) {
    FN(fetch)(FN(z_at)(l, b, row), Z_WIDTH, rows, 0, 4);
}

/* What the step after that of row `row` and on of a scan writes; the sums are in the cache, from their projection. */
static __attribute__((noinline)) void FN(fetch_forward)(
    const fastrnn_layer *l, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t q, ptrdiff_t units) {
    const ptrdiff_t strands = l->program->blocks, b = q / l->program->units * strands;
    const ptrdiff_t ahead = row + (l->reverse ? -l->batch : l->batch);
    if (ahead < 0 || ahead + rows > l->rows) return;
    FN(fetch)((const REAL *)l->y + ahead * l->y_row, l->y_row, rows, q, units);
    for (ptrdiff_t j = 0; l->keep && j < strands; j++)
        if (!FN(feed_of_x)(l, b + j).fed) FN(fetch_block)(l, b + j, ahead, rows);
    __asm__ volatile(""); /* without which GCC leaves out calls of what has no effect that it knows of */
}

/* And what the step before it takes back. */
static __attribute__((noinline)) void FN(fetch_back)(
    const fastrnn_layer *l, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t q, ptrdiff_t units) {
    const ptrdiff_t strands = l->program->blocks, b = q / l->program->units * strands;
    const ptrdiff_t step = l->reverse ? l->batch : -l->batch, ahead = row + step, before = ahead + step;
    if (before < 0 || before + rows > l->rows) return;
    if (l->dy) FN(fetch)((const REAL *)l->dy + ahead * l->dy_row, l->dy_row, rows, q, units);
    FN(fetch)((const REAL *)l->y + before * l->y_row, l->y_row, rows, q, units);
    for (ptrdiff_t j = 0; j < strands; j++) FN(fetch_block)(l, b + j, ahead, rows);
    __asm__ volatile("");
}

/* l->taken of all rows of a piece in the group that begins with unit vector q: what the recurrent product takes, of h. */
static void FN(take_rows)(const fastrnn_layer *l, const FN(piece) *piece, ptrdiff_t q) {
    const fastrnn_program *p = l->program;
    const ptrdiff_t units = FN(units_from)(l, q);
    NAME(place) places[FASTRNN_PLACES];
    vec registers[FASTRNN_REGISTERS][PROGRAM_VECTORS], unit[FASTRNN_PARAMETERS][FASTRNN_GROUP_UNITS];
    vec h_prev[PROGRAM_VECTORS], taken[PROGRAM_VECTORS], given[FASTRNN_EXTRAS][PROGRAM_VECTORS];
    FN(place_fixed)(l, places, registers, unit, q, units);
    for (ptrdiff_t n = piece->n0, count; n < piece->n1; n += count) {
        REAL *const out = (REAL *)piece->taken + n * piece->taken_row; /* which is this function's to write */
        count = least(PROGRAM_VECTORS / units, piece->n1 - n);
        FN(place_h)(l, places, h_prev, piece->h_prev + n * piece->h_row, piece->h_row, count, q, units);
        FN(place_extras)(l, places, *given, piece->row, n, count, q, units);
        places[FASTRNN_AT_TAKEN] = FN(place_out)(l, out, piece->taken_row, taken, q, units);
        NAME(run_program)(p->take.instructions, p->take.count, places, count, units);
        FN(store_out)(l, out, piece->taken_row, taken, count, q, units);
    }
}

/* Rows n .. n + rows - 1 of a piece in the group that begins with block b: from the sums acc, block by block `plane` rows
 * apart, to y (or u), c, and the tape in the sums' place. */
static void FN(finish)(
    const fastrnn_layer *l, FN(row) *acc, ptrdiff_t plane, const FN(piece) *piece, ptrdiff_t b, ptrdiff_t n, ptrdiff_t rows) {
    const fastrnn_program *p = l->program;
    const ptrdiff_t q = b / p->blocks * p->units, units = FN(units_from)(l, q), c_row = FN(c_width)(l);
    NAME(place) places[FASTRNN_PLACES];
    vec registers[FASTRNN_REGISTERS][PROGRAM_VECTORS], unit[FASTRNN_UNIT_SLOTS][FASTRNN_GROUP_UNITS];
    vec h_prev[PROGRAM_VECTORS], h[PROGRAM_VECTORS], given[FASTRNN_EXTRAS][PROGRAM_VECTORS];
    FN(place_fixed)(l, places, registers, unit, q, units);
    for (ptrdiff_t first = 0, count; first < rows; first += count) {
        const ptrdiff_t c_at = (n + first) * c_row + q * LANES;
        REAL *const out = piece->out + (n + first) * piece->out_row;
        count = least(PROGRAM_VECTORS / units, rows - first);
        FN(place_slots)(l, places, acc + first, plane, q);
        FN(place_states)(l, places + FASTRNN_AT_BEFORE, piece->c_prev + c_at);
        FN(place_states)(l, places + FASTRNN_AT_AFTER, piece->c + c_at);
        FN(place_h)(l, places, h_prev, piece->h_prev + (n + first) * piece->h_row, piece->h_row, count, q, units);
        FN(place_extras)(l, places, *given, piece->row, n + first, count, q, units);
        places[FASTRNN_AT_AFTER] = FN(place_out)(l, out, piece->out_row, h, q, units);
        if (fastrnn_is_scan(p)) FN(fetch_forward)(l, piece->row + n + first, count, q, units);
        NAME(run_program)(p->forward.instructions, p->forward.count, places, count, units);
        FN(store_out)(l, out, piece->out_row, h, count, q, units);
    }
}

/* The same where m comes first: from the sums to m. */
static void FN(activate)(
    const fastrnn_layer *l, FN(row) *acc, ptrdiff_t plane, const FN(piece) *piece, ptrdiff_t b, ptrdiff_t n, ptrdiff_t rows) {
    const fastrnn_program *p = l->program;
    if (FN(has_phases)(l)) return; /* which begin once all units of the row have come as far, from the sums in Z */
    if (!p->m_slots) {
        FN(finish)(l, acc, plane, piece, b, n, rows);
        return;
    }
    const ptrdiff_t q = b / p->blocks * p->units, units = FN(units_from)(l, q), H = l->hidden;
    REAL *m_at = (REAL *)l->m + (l->keep ? piece->row + n : n) * H;
    NAME(place) places[FASTRNN_PLACES];
    vec registers[FASTRNN_REGISTERS][PROGRAM_VECTORS], unit[FASTRNN_UNIT_SLOTS][FASTRNN_GROUP_UNITS];
    vec h_prev[PROGRAM_VECTORS], m[PROGRAM_VECTORS], given[FASTRNN_EXTRAS][PROGRAM_VECTORS];
    FN(place_fixed)(l, places, registers, unit, q, units);
    for (ptrdiff_t first = 0, count; first < rows; first += count) {
        count = least(PROGRAM_VECTORS / units, rows - first);
        FN(place_slots)(l, places, acc + first, plane, q);
        FN(place_states)(l, places + FASTRNN_AT_BEFORE, piece->c_prev + (n + first) * FN(c_width)(l) + q * LANES);
        FN(place_h)(l, places, h_prev, piece->h_prev + (n + first) * piece->h_row, piece->h_row, count, q, units);
        FN(place_extras)(l, places, *given, piece->row, n + first, count, q, units);
        places[FASTRNN_AT_MIDDLE] = FN(place_out)(l, m_at + first * H, H, m, q, units);
        NAME(run_program)(p->middle.instructions, p->middle.count, places, count, units);
        FN(store_out)(l, m_at + first * H, H, m, count, q, units);
    }
}

/* The tape, the states and what is beside x of up to `rows` rows of a step, n and on, in unit vectors q and on. Returns of
 * how many: those that follow rows of the step before and those that begin with the initial state are looked at apart.
 * h has room for a copy of h before the step, and behind it, if the program reads that, after it. */
INLINE ptrdiff_t FN(place_tape)(
    const fastrnn_layer *l, NAME(place) *places, vec *h, vec *given, const FN(moment) *m, ptrdiff_t n, ptrdiff_t rows,
    ptrdiff_t q, ptrdiff_t units) {
    const int follows = n < m->carried;
    const ptrdiff_t count = follows ? least(rows, m->carried - n) : rows;
    const ptrdiff_t c_at = n * FN(c_width)(l) + q * LANES, h_row = follows ? l->y_row : l->outputs;
    const ptrdiff_t b = q / l->program->units * l->program->blocks;
    FN(place_slots)(l, places, (FN(row) *)FN(z_at)(l, b, m->row + n), l->z_stride / Z_WIDTH, q);
    FN(place_states)(l, places + FASTRNN_AT_BEFORE, (follows ? m->c_before : (const REAL *)l->c) + c_at);
    FN(place_states)(l, places + FASTRNN_AT_AFTER, m->c + c_at);
    FN(place_h)(l, places, h, (follows ? m->y_before : (const REAL *)l->h_0) + n * h_row, h_row, count, q, units);
    if (l->program->reads_y) {
        const ptrdiff_t row = l->u ? l->hidden : l->y_row;
        const REAL *const at = (const REAL *)(l->u ? l->u : l->y) + (m->row + n) * row;
        places[FASTRNN_AT_AFTER] = FN(place_in)(l, 1, h + count * units, at, row, count, q, units);
    }
    FN(place_extras)(l, places, given, m->row, n, count, q, units);
    for (int i = 0; l->into_extras && i < l->program->into_extras; i++) {
        const ptrdiff_t C = FN(unit_width)(l);
        REAL *const row = (REAL *)l->into_extras + (i * l->rows + m->row + n) * C;
        places[FASTRNN_AT_INTO_EXTRA + i] = (NAME(place)){row + q * LANES, C};
    }
    return count;
}

/* Z of a step's rows n and on, in the group that begins with unit vector q: from the tape to the gradients of the sums and
 * of the cell's parameters, given those of the states in carry, or, in place of that of h, of u, and that of m: [row][4]. */
static void FN(run_back)(
    const fastrnn_layer *l, const fastrnn_code *code, const FN(moment) *m, ptrdiff_t n, ptrdiff_t q, vec *du, vec *dm,
    ptrdiff_t rows) {
    const fastrnn_program *p = l->program;
    const ptrdiff_t units = FN(units_from)(l, q), end = FN(left)(l, q + units - 1); /* lanes of the last vector */
    const ptrdiff_t carry_row = FN(carry_width)(l);
    NAME(place) places[FASTRNN_PLACES];
    vec registers[FASTRNN_REGISTERS][PROGRAM_VECTORS], unit[FASTRNN_UNIT_SLOTS][FASTRNN_GROUP_UNITS];
    vec h[2 * PROGRAM_VECTORS], given[FASTRNN_EXTRAS][PROGRAM_VECTORS];
    vec of_extras[FASTRNN_EXTRAS][PROGRAM_VECTORS];
    const int gradients = l->dextras ? p->into_extras : 0;
    FN(place_fixed)(l, places, registers, unit, q, units);
    for (ptrdiff_t first = 0, count; first < rows; first += count) {
        REAL *const carry = (REAL *)l->carry + (n + first) * carry_row + q * LANES;
        count = FN(place_tape)(
            l, places, h, *given, m, n + first, least(PROGRAM_VECTORS / units, rows - first), q, units);
        FN(place_own)(l, places, n + first, q);
        places[FASTRNN_AT_MIDDLE] = FN(own_rows)(dm + 4 * first, 4);
        for (int k = 0; k < p->states; k++)
            places[FASTRNN_AT_GRADIENT + k] = (NAME(place)){carry + k * FN(unit_width)(l), carry_row};
        if (du) places[FASTRNN_AT_GRADIENT] = FN(own_rows)(du + 4 * first, 4);
        for (int i = 0; i < gradients; i++) {
            const fastrnn_extra to = l->dextras[i];
            places[FASTRNN_AT_INTO_EXTRA + i] = FN(place_out)(
                l, (REAL *)to.at + (m->row + n + first) * to.row, to.row, of_extras[i], q, units);
        }
        if (fastrnn_is_scan(p)) FN(fetch_back)(l, m->row + n + first, count, q, units);
        NAME(run_program)(code->instructions, code->count, places, count, units);
        for (int i = 0; i < gradients; i++) {
            const fastrnn_extra to = l->dextras[i];
            FN(store_out)(l, (REAL *)to.at + (m->row + n + first) * to.row, to.row, of_extras[i], count, q, units);
        }
        /* Lanes beyond H must be zero, whatever they held: the products run over them. Those that m feeds are so when its
         * gradient is there, and other threads read them. */
        for (int slot = 0; end < LANES && slot < p->slots; slot++)
            for (ptrdiff_t r = 0; r < count && !(dm && slot >= p->m_first && slot < p->m_first + p->m_slots); r++) {
                REAL *const last = places[FASTRNN_AT_SLOT + slot].at + r * Z_WIDTH + (units - 1) * LANES;
                vec_store(last, vec_load_part(last, end));
            }
    }
}

/* Rows n and on of step s in the group that begins with unit vector q: from the gradient of what the recurrent product took
 * to that of h, INOUT [row][4]; adds to those of parameters, which the step's backward program has left. */
static void FN(take_back)(
    const fastrnn_layer *l, ptrdiff_t s, ptrdiff_t n, ptrdiff_t q, vec *dtaken, ptrdiff_t rows) {
    const fastrnn_code *code = &l->program->take_back;
    const FN(moment) m = FN(moment_of)(l, s);
    const ptrdiff_t units = FN(units_from)(l, q);
    NAME(place) places[FASTRNN_PLACES];
    vec registers[FASTRNN_REGISTERS][PROGRAM_VECTORS], unit[FASTRNN_PARAMETERS][FASTRNN_GROUP_UNITS];
    vec h[2 * PROGRAM_VECTORS], given[FASTRNN_EXTRAS][PROGRAM_VECTORS];
    FN(place_fixed)(l, places, registers, unit, q, units);
    for (ptrdiff_t first = 0, count; first < rows; first += count) {
        count = FN(place_tape)(
            l, places, h, *given, &m, n + first, least(PROGRAM_VECTORS / units, rows - first), q, units);
        places[FASTRNN_AT_TAKEN] = FN(own_rows)(dtaken + 4 * first, 4);
        FN(place_own)(l, places, n + first, q);
        NAME(run_program)(code->instructions, code->count, places, count, units);
    }
}

/* With m only as far as the gradients of the sums that it feeds. */
INLINE void FN(gates_back)(
    const fastrnn_layer *l, const FN(moment) *m, ptrdiff_t n, ptrdiff_t q, vec *du, ptrdiff_t rows) {
    FN(run_back)(l, l->program->m_slots ? &l->program->middle_back : &l->program->backward, m, n, q, du, NULL, rows);
}
/* And the rest, given the gradient of m. */
INLINE void FN(middle_back)(
    const fastrnn_layer *l, const FN(moment) *m, ptrdiff_t n, ptrdiff_t q, vec *dm, ptrdiff_t rows) {
    FN(run_back)(l, &l->program->backward, m, n, q, NULL, dm, rows);
}

/* ---- programs in phases ---- */

/* Vectors of rows and units that go through a phase's instruction together: 4 KB of each value. To begin an instruction takes
 * as long as some 20 vectors of it, so that with 2 KB training of layer_norm_lstm takes 1.02 times as long, with half a KB 1.1
 * and with a quarter 1.25 (AVX2). */
#define PHASE_VECTORS (4096 / VECTOR_BYTES)

/* What phases of some rows work on, one group of unit vectors at a time. Values lie end to end, for as many rows as there are:
 * with 4 KB from one to the next all would share the same few lines of L1. */
typedef struct {
    NAME(place) places[FASTRNN_PLACES], row_places[FASTRNN_PLACES]; /* of programs on units, and on values of rows alone */
    vec h_prev[PHASE_VECTORS], h[PHASE_VECTORS]; /* h: after the step; in backward the gradient of u, where there is one */
    ptrdiff_t vectors, row_vectors; /* of a value of units, and of one of rows */
    vec *registers, *sums, *before; /* before: what sums were before a program */
    vec *splats, *values;           /* the values of rows that the phase's units read; all, a lane for each row */
    vec *given;
} FN(phases);

/* Rows that are taken at once, of so many, which may be none. */
INLINE ptrdiff_t FN(phase_rows)(const fastrnn_program *p, ptrdiff_t rows) {
    return most(1, least(PHASE_VECTORS / p->units, rows));
}

/* Vectors of all that whose size depends on the program, for so many rows. */
INLINE ptrdiff_t FN(phase_room)(const fastrnn_program *p, const fastrnn_phases *phases, ptrdiff_t rows) {
    ptrdiff_t reads = 0;
    for (int i = 0; i < phases->count; i++) reads = most(reads, phases->first[i].read_count);
    return (p->registers + 2 * p->sums + reads + p->extras) * rows * p->units + p->all_row_values * ceil_div(rows, LANES);
}

/* What is at the same place in all phases. */
INLINE void FN(place_phases)(const fastrnn_layer *l, FN(phases) *w, vec *room, ptrdiff_t rows) {
    const fastrnn_program *p = l->program;
    const ptrdiff_t vectors = rows * p->units;
    w->vectors = vectors, w->row_vectors = ceil_div(rows, LANES);
    w->registers = room, room += p->registers * vectors;
    w->sums = room, room += p->sums * vectors;
    w->before = room, room += p->sums * vectors;
    w->given = room, room += p->extras * vectors;
    w->values = room, room += p->all_row_values * w->row_vectors;
    w->splats = room;
    for (int i = 0; i < p->constant_count; i++)
        w->places[FASTRNN_AT_CONSTANT + i] = w->row_places[FASTRNN_AT_CONSTANT + i] =
            (NAME(place)){(REAL *)p->constants + i * p->units * LANES, 0};
    for (int i = 0; i < p->registers; i++) {
        w->places[FASTRNN_AT_REGISTER + i] = FN(own_rows)(w->registers + i * vectors, p->units);
        w->row_places[FASTRNN_AT_REGISTER + i] = FN(own_rows)(w->registers + i * vectors, 1);
    }
    for (int k = 0; k < p->all_row_values; k++)
        w->row_places[FASTRNN_AT_ROW + k] = FN(own_rows)(w->values + k * w->row_vectors, 1);
    for (int j = 0; j < p->sums; j++) w->places[FASTRNN_AT_SUM + j] = FN(own_rows)(w->sums + j * vectors, p->units);
}

/* The parameters of unit vectors q and on. */
INLINE void FN(place_parameters)(const fastrnn_layer *l, FN(phases) *w, ptrdiff_t q) {
    for (int i = 0; i < l->program->parameters; i++)
        w->places[FASTRNN_AT_UNIT + i] = (NAME(place)){(REAL *)l->units + i * FN(unit_width)(l) + q * LANES, 0};
}

/* The gradient of m in batch row n. */
INLINE REAL *FN(dm_at)(const fastrnn_layer *l, ptrdiff_t n) {
    return (REAL *)l->carry + n * FN(carry_width)(l) + l->program->states * FN(unit_width)(l);
}

/* A row's values that backward sees as well; unless they are kept the rows are a step's, which has a product to wait for. */
INLINE REAL *FN(row_values_at)(const fastrnn_layer *l, ptrdiff_t row) {
    return (REAL *)l->z + FN(blocks)(l) * l->z_stride + row * l->program->row_values;
}

/* They := those of some rows. */
INLINE void FN(keep_values)(const fastrnn_layer *l, const FN(phases) *w, ptrdiff_t row, ptrdiff_t rows) {
    const int count = l->program->row_values;
    for (ptrdiff_t r = 0; r < rows; r++)
        for (int k = 0; k < count; k++)
            FN(row_values_at)(l, row + r)[k] = ((const REAL *)(w->values + k * w->row_vectors))[r];
}

/* The inverse */
INLINE void FN(recall_values)(const fastrnn_layer *l, const FN(phases) *w, ptrdiff_t row, ptrdiff_t rows) {
    for (int k = 0; k < l->program->row_values; k++) {
        vec *const values = w->values + k * w->row_vectors;
        memset(values, 0, (size_t)w->row_vectors * sizeof(*values));
        for (ptrdiff_t r = 0; r < rows; r++) ((REAL *)values)[r] = FN(row_values_at)(l, row + r)[k];
    }
}

/* The sum of all lanes of some vectors, in one order. */
INLINE REAL FN(sum_of_lanes)(const vec *a, ptrdiff_t units) {
    vec sum = *a;
    for (ptrdiff_t u = 1; u < units; u++) sum += a[u];
    REAL lanes[LANES];
    memcpy(lanes, &sum, sizeof(sum));
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
}

/* From the sums of the phase before to the row's values; sums := 0 */
INLINE void FN(begin_phase)(const fastrnn_layer *l, FN(phases) *w, const fastrnn_phase *phase, ptrdiff_t rows, int sums) {
    const ptrdiff_t group = l->program->units, vectors = ceil_div(rows, LANES);
    for (int j = 0; j < phase->mean_count; j++) {
        vec *const mean = w->values + phase->means[j] * w->row_vectors;
        memset(mean, 0, (size_t)vectors * sizeof(*mean));
        for (ptrdiff_t r = 0; r < rows; r++)
            ((REAL *)mean)[r] = FN(sum_of_lanes)(w->sums + j * w->vectors + r * group, group) / (REAL)l->hidden;
    }
    NAME(run_program)(phase->of_row.instructions, phase->of_row.count, w->row_places, vectors, 1);
    for (int k = 0; k < phase->read_count; k++) {
        const REAL *const values = (const REAL *)(w->values + phase->reads[k] * w->row_vectors);
        vec *const splats = w->splats + k * w->vectors;
        w->places[FASTRNN_AT_ROW + phase->reads[k]] = FN(own_rows)(splats, group);
        for (ptrdiff_t r = 0; r < rows; r++)
            for (ptrdiff_t u = 0; u < group; u++) splats[r * group + u] = vec_splat(values[r]);
    }
    for (int j = 0; j < sums; j++) memset(w->sums + j * w->vectors, 0, (size_t)(rows * group) * sizeof(vec));
}

/* The phase's program on `units` unit vectors from q on. Each lane of each of a group's unit vectors is one chain of a sum,
 * from the first group to the last, whatever rows share the loop; lanes beyond H leave it as it was. */
INLINE void FN(run_phase)(
    const fastrnn_layer *l, FN(phases) *w, const fastrnn_phase *phase, ptrdiff_t q, ptrdiff_t units, ptrdiff_t rows,
    int sums) {
    const ptrdiff_t left = FN(left)(l, q + units - 1), group = l->program->units;
    for (int j = 0; left < LANES && j < sums; j++)
        for (ptrdiff_t r = 0; r < rows; r++)
            w->before[j * w->vectors + r] = w->sums[j * w->vectors + r * group + units - 1];
    NAME(run_program)(phase->of_units.instructions, phase->of_units.count, w->places, rows, units);
    for (int j = 0; left < LANES && j < sums; j++)
        for (ptrdiff_t r = 0; r < rows; r++) {
            vec *const sum = w->sums + j * w->vectors + r * group + units - 1;
            vec *const before = w->before + j * w->vectors + r;
            memcpy(before, sum, (size_t)left * sizeof(REAL));
            *sum = *before;
        }
}

static void FN(step_phases)(const fastrnn_layer *l, ptrdiff_t s, int to_m, ptrdiff_t n0, ptrdiff_t n1) {
    const fastrnn_program *p = l->program;
    const fastrnn_phases *phases = to_m ? &p->phases_middle : &p->phases;
    const fastrnn_phase *end = phases->first + phases->count;
    const ptrdiff_t at_once = FN(phase_rows)(p, n1 - n0);
    FN(piece) pieces[2];
    const int count = FN(cut_step)(l, s, n0, n1, pieces);
    vec room[FN(phase_room)(p, phases, at_once)];
    FN(phases) w;
    FN(place_phases)(l, &w, room, at_once);
    for (const FN(piece) *piece = pieces; piece < pieces + count; piece++)
        for (ptrdiff_t n = piece->n0; n < piece->n1; n += at_once) {
            const ptrdiff_t rows = least(at_once, piece->n1 - n), row = piece->row + n, kept = l->keep ? row : n;
            const ptrdiff_t out_row = to_m ? l->hidden : piece->out_row;
            REAL *const out = to_m ? (REAL *)l->m + kept * out_row : piece->out + n * out_row;
            if (l->m && !to_m) FN(recall_values)(l, &w, kept, rows);
            for (const fastrnn_phase *phase = phases->first; phase < end; phase++) {
                const int sums = phase + 1 < end ? phase[1].mean_count : 0;
                FN(begin_phase)(l, &w, phase, rows, sums);
                for (ptrdiff_t q = 0, units; q < ceil_div(l->hidden, LANES); q += units) {
                    const ptrdiff_t b = q / p->units * p->blocks, c_at = n * FN(c_width)(l) + q * LANES;
                    units = FN(units_from)(l, q);
                    FN(place_parameters)(l, &w, q);
                    FN(place_slots)(l, w.places, (FN(row) *)FN(z_at)(l, b, row), l->z_stride / Z_WIDTH, q);
                    FN(place_states)(l, w.places + FASTRNN_AT_BEFORE, piece->c_prev + c_at);
                    FN(place_states)(l, w.places + FASTRNN_AT_AFTER, piece->c + c_at);
                    FN(place_h)(l, w.places, w.h_prev, piece->h_prev + n * piece->h_row, piece->h_row, rows, q, units);
                    FN(place_extras)(l, w.places, w.given, piece->row, n, rows, q, units);
                    w.places[to_m ? FASTRNN_AT_MIDDLE : FASTRNN_AT_AFTER] = FN(place_out)(l, out, out_row, w.h, q, units);
                    FN(run_phase)(l, &w, phase, q, units, rows, sums);
                    if (phase + 1 == end) FN(store_out)(l, out, out_row, w.h, rows, q, units);
                }
            }
            if (l->keep || to_m) FN(keep_values)(l, &w, kept, rows);
        }
}

static void FN(step_back_phases)(const fastrnn_layer *l, ptrdiff_t s, int to_m, ptrdiff_t n0, ptrdiff_t n1) {
    const fastrnn_program *p = l->program;
    const fastrnn_phases *phases = to_m ? &p->phases_middle_back : &p->phases_back;
    const fastrnn_phase *end = phases->first + phases->count;
    const FN(moment) m = FN(moment_of)(l, s);
    const ptrdiff_t C = FN(unit_width)(l), H = l->hidden, carry_row = FN(carry_width)(l);
    const ptrdiff_t at_once = FN(phase_rows)(p, n1 - n0);
    vec room[FN(phase_room)(p, phases, at_once)];
    FN(phases) w;
    FN(place_phases)(l, &w, room, at_once);
    n1 = least(n1, fastrnn_step_count(l, s));
    for (ptrdiff_t n = n0, rows; n < n1; n += rows) {
        rows = least(at_once, n < m.carried ? least(n1, m.carried) - n : n1 - n); /* as many as place_tape takes */
        FN(recall_values)(l, &w, m.row + n, rows);
        for (const fastrnn_phase *phase = phases->first; phase < end; phase++) {
            const int sums = phase + 1 < end ? phase[1].mean_count : 0;
            FN(begin_phase)(l, &w, phase, rows, sums);
            for (ptrdiff_t q = 0, units; q < C / LANES; q += units) {
                REAL *const carry = (REAL *)l->carry + n * carry_row + q * LANES;
                units = FN(units_from)(l, q);
                const ptrdiff_t left = FN(left)(l, q + units - 1); /* lanes of the last vector */
                FN(place_parameters)(l, &w, q);
                FN(place_tape)(l, w.places, w.h_prev, w.given, &m, n, rows, q, units);
                for (int k = 0; k < p->states; k++)
                    w.places[FASTRNN_AT_GRADIENT + k] = (NAME(place)){carry + k * C, carry_row};
                FN(place_own)(l, w.places, n, q);
                if (l->m) w.places[FASTRNN_AT_MIDDLE] = (NAME(place)){FN(dm_at)(l, n) + q * LANES, carry_row};
                if (l->u) {
                    for (ptrdiff_t r = 0; r < rows; r++)
                        for (ptrdiff_t u = 0; u < units; u++)
                            w.h[r * units + u] =
                                vec_load_part((const REAL *)l->du + (n + r) * H + (q + u) * LANES, FN(left)(l, q + u));
                    w.places[FASTRNN_AT_GRADIENT] = FN(own_rows)(w.h, units);
                }
                FN(run_phase)(l, &w, phase, q, units, rows, sums);
                /* Lanes beyond H must be zero, whatever they held: the products run over them. */
                for (int slot = 0; phase + 1 == end && left < LANES && slot < p->slots; slot++)
                    for (ptrdiff_t r = 0; r < rows; r++) {
                        REAL *const last = w.places[FASTRNN_AT_SLOT + slot].at + r * Z_WIDTH + (units - 1) * LANES;
                        vec_store(last, vec_load_part(last, left));
                    }
            }
        }
        if (to_m) FN(keep_values)(l, &w, m.row + n, rows);
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
    vec registers[FASTRNN_REGISTERS][PROGRAM_VECTORS], unit[FASTRNN_PARAMETERS][FASTRNN_GROUP_UNITS];
    vec h[2 * PROGRAM_VECTORS], shown[FASTRNN_UNIT_SLOTS][PROGRAM_VECTORS], given[FASTRNN_EXTRAS][PROGRAM_VECTORS];
    vec values[FASTRNN_ROW_VALUES][PROGRAM_VECTORS];
    for (int g = 0; g < p->gates; g++) places[FASTRNN_AT_SHOWN + g] = FN(own_rows)(shown[g], 1);
    for (int k = 0; k < p->row_values; k++) places[FASTRNN_AT_ROW + k] = FN(own_rows)(values[k], 1);
    for (ptrdiff_t s = 0; s < l->steps; s++) {
        const FN(moment) m = FN(moment_of)(l, s);
        const ptrdiff_t n1 = least(fastrnn_step_count(l, s), row1 - m.row);
        for (ptrdiff_t n = most(0, row0 - m.row), count = 0; n < n1; n += count)
            for (ptrdiff_t q = 0; q < ceil_div(l->hidden, LANES); q++) {
                const ptrdiff_t left = FN(left)(l, q);
                FN(place_fixed)(l, places, registers, unit, q, 1);
                count = FN(place_tape)(l, places, h, *given, &m, n, least(PROGRAM_VECTORS, n1 - n), q, 1);
                for (ptrdiff_t r = 0; p->row_values && r < count; r++)
                    for (int k = 0; k < p->row_values; k++)
                        values[k][r] = vec_splat(FN(row_values_at)(l, m.row + n + r)[k]);
                NAME(run_program)(p->inside.instructions, p->inside.count, places, count, 1);
                for (ptrdiff_t r = 0; r < count; r++) {
                    const ptrdiff_t row = to ? to[m.row + n + r] : m.row + n + r, at = row * l->hidden + q * LANES;
                    for (int g = 0; g < p->gates; g++)
                        vec_store_part((REAL *)gates + g * rows * l->hidden + at, shown[g][r], left);
                    for (int k = 1; k < p->states; k++) {
                        const NAME(place) state = places[FASTRNN_AT_AFTER + k];
                        vec_store_part((REAL *)c + (k - 1) * rows * l->hidden + at, vec_load(state.at + r * state.row), left);
                    }
                }
            }
    }
}
#undef PROGRAM_VECTORS
#undef PHASE_VECTORS
