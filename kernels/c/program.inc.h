/* The interpreter of a cell's elementwise programs: see fastrnn/cells/program.py for what they are.
 *
 * An instruction is one loop over rows and unit vectors, so that what it costs to find that loop is shared by them, and the
 * CPU works on several at once, as far as it looks ahead. From some six vectors on this takes as long as point functions
 * that are compiled for the cell (0.91 to 1.12 of an LSTM's time with AVX-512), for a single one 1.7 times as long. */

/* Where a value is. */
typedef struct {
    REAL *at;      /* of row 0; its unit vectors follow one another */
    ptrdiff_t row; /* from row to row: 0 for what all rows have in common */
} NAME(place);

/* The instruction's loop: an operand that `value` does not name is dead code. */
#define FOR_ROWS(value)                                                                          \
    for (ptrdiff_t row = 0; row < rows; row++)                                                   \
        for (ptrdiff_t u = 0; u < units; u++) {                                                  \
            const vec a = vec_load(a_at + row * a_row + u * LANES);                              \
            const vec b = vec_load(b_at + row * b_row + u * LANES);                              \
            const vec c = vec_load(c_at + row * c_row + u * LANES);                              \
            (void)b, (void)c, vec_store(out + row * out_row + u * LANES, value);                 \
        }                                                                                        \
    break

/* The same where another instruction on d, e and, of three operands, c takes the place of an operand: what it makes stays in
 * the CPU's registers. */
#define FOR_ROWS_OF_TWO(value)                                                                   \
    {                                                                                            \
        const REAL *const d_at = places[code->d].at, *const e_at = places[code->e].at;           \
        const ptrdiff_t d_row = places[code->d].row, e_row = places[code->e].row;                \
        for (ptrdiff_t row = 0; row < rows; row++)                                               \
            for (ptrdiff_t u = 0; u < units; u++) {                                              \
                const vec a = vec_load(a_at + row * a_row + u * LANES);                          \
                const vec b = vec_load(b_at + row * b_row + u * LANES);                          \
                const vec c = vec_load(c_at + row * c_row + u * LANES);                          \
                const vec d = vec_load(d_at + row * d_row + u * LANES);                          \
                const vec e = vec_load(e_at + row * e_row + u * LANES);                          \
                (void)a, (void)b, (void)c, vec_store(out + row * out_row + u * LANES, value);    \
            }                                                                                    \
    }                                                                                            \
    break

/* out := op(a, b, c) for `units` unit vectors of `rows` rows, instruction after instruction. A vector's operands are read
 * before it is written; out may be the place of an operand. */
INLINE void NAME(interpret)(
    const fastrnn_instruction *code, ptrdiff_t count, const NAME(place) *places, ptrdiff_t rows, const ptrdiff_t units) {
    const vec one = vec_splat(1), sign = vec_splat(-(REAL)0);
    for (const fastrnn_instruction *end = code + count; code < end; code++) {
        REAL *const out = places[code->out].at;
        const REAL *const a_at = places[code->a].at, *const b_at = places[code->b].at, *const c_at = places[code->c].at;
        const ptrdiff_t out_row = places[code->out].row, a_row = places[code->a].row, b_row = places[code->b].row,
                        c_row = places[code->c].row;
        switch (code->op) {
        case FASTRNN_COPY: FOR_ROWS(a);
        case FASTRNN_ADD: FOR_ROWS(a + b);
        case FASTRNN_SUB: FOR_ROWS(a - b);
        case FASTRNN_MUL: FOR_ROWS(a * b);
        case FASTRNN_DIV: FOR_ROWS(a / b);
        case FASTRNN_FMA: FOR_ROWS(vec_fma(a, b, c));
        case FASTRNN_FNMA: FOR_ROWS(vec_fma((vec)((vint)a ^ (vint)sign), b, c));
        case FASTRNN_NEG: FOR_ROWS((vec)((vint)a ^ (vint)sign));
        case FASTRNN_ABS: FOR_ROWS(vec_abs(a));
        /* b last: its NaN survives; all bits set are a NaN too */
        case FASTRNN_MIN: FOR_ROWS((vec)((vint)vec_min(a, b) | (vint)(a != a)));
        case FASTRNN_MAX: FOR_ROWS((vec)((vint)vec_max(a, b) | (vint)(a != a)));
        case FASTRNN_SQRT: FOR_ROWS(vec_sqrt(a));
        case FASTRNN_EXP: FOR_ROWS(NAME(exp)(a));
        case FASTRNN_EXPM1: FOR_ROWS(NAME(expm1)(a));
        case FASTRNN_LOG: FOR_ROWS(NAME(log)(a));
        case FASTRNN_LOG1P: FOR_ROWS(NAME(log1p)(a));
        case FASTRNN_SIN: FOR_ROWS(NAME(sin)(a));
        case FASTRNN_COS: FOR_ROWS(NAME(cos)(a));
        case FASTRNN_ERF: FOR_ROWS(NAME(erf)(a));
        case FASTRNN_SIGMOID: FOR_ROWS(vec_sigmoid(a));
        case FASTRNN_TANH: FOR_ROWS(vec_tanh(a));
        case FASTRNN_RELU: FOR_ROWS(vec_max(vec_splat(0), a)); /* a last: a NaN survives */
        case FASTRNN_LESS: FOR_ROWS((vec)(a < b));
        case FASTRNN_LESS_EQUAL: FOR_ROWS((vec)(a <= b));
        case FASTRNN_EQUAL: FOR_ROWS((vec)(a == b));
        case FASTRNN_SELECT: FOR_ROWS(vec_select(a, b, c));
        case FASTRNN_LERP: FOR_ROWS(vec_fma(a, b - c, c));
        case FASTRNN_SIGMOID_BACK: FOR_ROWS(a * (b * (one - b)));
        case FASTRNN_TANH_BACK: FOR_ROWS(a * (one - b * b));
        case FASTRNN_ADD_ADD: FOR_ROWS_OF_TWO((d + e) + b);
        case FASTRNN_SUB_MUL: FOR_ROWS_OF_TWO((d - e) * b);
        case FASTRNN_MUL_MUL: FOR_ROWS_OF_TWO((d * e) * b);
        case FASTRNN_MUL_FMA: FOR_ROWS_OF_TWO(vec_fma(d * e, b, c));
        case FASTRNN_MUL_FNMA: FOR_ROWS_OF_TWO(vec_fma((vec)((vint)(d * e) ^ (vint)sign), b, c));
        case FASTRNN_MUL_SIGMOID_BACK: FOR_ROWS_OF_TWO((d * e) * (b * (one - b)));
        case FASTRNN_MUL_TANH_BACK: FOR_ROWS_OF_TWO((d * e) * (one - b * b));
        case FASTRNN_FMA_ADD: FOR_ROWS_OF_TWO(vec_fma(d, e, c) + b);
        case FASTRNN_FMA_SIGMOID: FOR_ROWS_OF_TWO(vec_sigmoid(vec_fma(d, e, c)));
        case FASTRNN_FMA_TANH: FOR_ROWS_OF_TWO(vec_tanh(vec_fma(d, e, c)));
        case FASTRNN_ADDED_MUL: FOR_ROWS_OF_TWO(vec_fma(a, b, d * e));
        case FASTRNN_ADDED_FMA: FOR_ROWS_OF_TWO(vec_fma(a, b, vec_fma(d, e, c)));
        case FASTRNN_ADDED_FNMA: FOR_ROWS_OF_TWO(vec_fma(a, b, vec_fma((vec)((vint)d ^ (vint)sign), e, c)));
        }
    }
}
#undef FOR_ROWS
#undef FOR_ROWS_OF_TWO

/* The same for whole groups, of four, which is worth compiling apart. */
static void NAME(run_group)(
    const fastrnn_instruction *code, ptrdiff_t count, const NAME(place) *places, ptrdiff_t rows) {
    NAME(interpret)(code, count, places, rows, 4);
}
static void NAME(run_program)(
    const fastrnn_instruction *code, ptrdiff_t count, const NAME(place) *places, ptrdiff_t rows, ptrdiff_t units) {
    if (units == 4)
        NAME(run_group)(code, count, places, rows);
    else
        NAME(interpret)(code, count, places, rows, units);
}

/* The same on arrays: see kernels.h. */
static void NAME(evaluate)(const fastrnn_code *code, void *places, ptrdiff_t count, ptrdiff_t vectors) {
    NAME(place) at[count];
    for (ptrdiff_t k = 0; k < count; k++) at[k] = (NAME(place)){(REAL *)places + k * vectors * LANES, LANES};
    NAME(run_program)(code->instructions, code->count, at, vectors, 1);
}
