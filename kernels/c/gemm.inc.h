/* Products of numbers on the register tile, and the packing of its panels. */

/* Cut `count` rows into the fewest tiles, of heights that differ by one at most (32 rows: 5, 5, 6, 5, 5, 6). */
INLINE ptrdiff_t NAME(tile_count)(ptrdiff_t count) { return ceil_div(count, TILE_ROWS); }
INLINE ptrdiff_t NAME(tile_start)(ptrdiff_t count, ptrdiff_t tile) { return count * tile / NAME(tile_count)(count); }

#define TILED NAME
#define ELEMENT REAL
#define RIGHT vec
#define LOAD vec_load
#define SPREAD vec_splat
#define SUM vec
#define DOT vec_fma
#include "tile.inc.h"

/* left[tile][r][LEFT_WIDTH] := the columns of rows r that a tile takes, so that it reads one line after the other. A few
 * rows go through all tiles before the next ones do: with all rows of a tile first, lines that 4096 bytes lie between
 * (columns = 1024) pushed each other out of L1 before the next tile came for the rest of them, a fifth of a training
 * step. For the same reason tiles are a line more apart than their rows need. */
#define LEFT_WIDTH (TILE_ROWS > 4 ? 8 : 4)
#define LEFT_TILE (FASTRNN_GRADIENT_ROWS * LEFT_WIDTH + 64 / REAL_BYTES)
static void NAME(pack_left)(REAL *left, const REAL *const *a, ptrdiff_t columns, ptrdiff_t rows) {
    enum { few = 8 };
    for (ptrdiff_t r0 = 0; r0 < rows; r0 += few)
        for (ptrdiff_t tile = 0; tile < NAME(tile_count)(columns); tile++) {
            const ptrdiff_t k = NAME(tile_start)(columns, tile), height = NAME(tile_start)(columns, tile + 1) - k;
            REAL *out = left + tile * LEFT_TILE;
            const int whole = k + LEFT_WIDTH <= columns; /* then a copy of fixed length stays in the row */
            for (ptrdiff_t r = r0; r < least(r0 + few, rows); r++)
                if (whole)
                    memcpy(out + r * LEFT_WIDTH, a[r] + k, LEFT_WIDTH * sizeof(REAL));
                else
                    memcpy(out + r * LEFT_WIDTH, a[r] + k, (size_t)height * sizeof(REAL));
        }
}

/* A transposition works on vectors of up to 32 bytes, gathered from pieces of 16 bytes of rows PIECE apart. */
#if VECTOR_BYTES == 16
#define GATHERED_BYTES 16
#define GATHER(a, row) (*(const NAME(piece) *)(a))
#else
#define GATHERED_BYTES 32
#define GATHER(a, row) NAME(gather)(a, (a) + (row))
#endif
#define GATHERED (GATHERED_BYTES / REAL_BYTES)
#define PIECE (16 / REAL_BYTES)
typedef REAL NAME(piece) __attribute__((vector_size(16), may_alias, aligned(REAL_BYTES)));
typedef REAL NAME(gathered) __attribute__((vector_size(GATHERED_BYTES), may_alias, aligned(REAL_BYTES)));

/* Of each piece of x and y the lower or the upper half, in turn: lane by lane, or (PAIRS) two lanes by two. */
#if GATHERED == 2
#define LOW(x, y) __builtin_shufflevector(x, y, 0, 2)
#define HIGH(x, y) __builtin_shufflevector(x, y, 1, 3)
#elif REAL_BYTES == 8
#define LOW(x, y) __builtin_shufflevector(x, y, 0, 4, 2, 6)
#define HIGH(x, y) __builtin_shufflevector(x, y, 1, 5, 3, 7)
#elif GATHERED == 4
#define LOW(x, y) __builtin_shufflevector(x, y, 0, 4, 1, 5)
#define HIGH(x, y) __builtin_shufflevector(x, y, 2, 6, 3, 7)
#define LOW_PAIRS(x, y) __builtin_shufflevector(x, y, 0, 1, 4, 5)
#define HIGH_PAIRS(x, y) __builtin_shufflevector(x, y, 2, 3, 6, 7)
#else
#define LOW(x, y) __builtin_shufflevector(x, y, 0, 8, 1, 9, 4, 12, 5, 13)
#define HIGH(x, y) __builtin_shufflevector(x, y, 2, 10, 3, 11, 6, 14, 7, 15)
#define LOW_PAIRS(x, y) __builtin_shufflevector(x, y, 0, 1, 8, 9, 4, 5, 12, 13)
#define HIGH_PAIRS(x, y) __builtin_shufflevector(x, y, 2, 3, 10, 11, 6, 7, 14, 15)
#endif

/* out[k * out_row + r] := a[r * a_row + k] for L x L elements; out may not overlap a. The loads gather pieces of several
 * rows and the shuffles stay within the pieces. Interleaving whole vectors instead took 1.7 times as long to pack
 * I = H = 64 to 128 with AVX2, as long with AVX-512; from H = 256 on memory bounds both. */
INLINE void NAME(transpose)(REAL *out, ptrdiff_t out_row, const REAL *a, ptrdiff_t a_row) {
#pragma GCC unroll 1
    for (int top = 0; top < LANES; top += GATHERED)
#pragma GCC unroll 1
        for (int left = 0; left < LANES; left += PIECE) {
            NAME(gathered) x[PIECE];
#pragma GCC unroll 4
            for (int r = 0; r < PIECE; r++) x[r] = GATHER(a + (top + r) * a_row + left, PIECE * a_row);
#if PIECE == 2
            const NAME(gathered) columns[PIECE] = {LOW(x[0], x[1]), HIGH(x[0], x[1])};
#else
            const NAME(gathered) low_01 = LOW(x[0], x[1]), high_01 = HIGH(x[0], x[1]);
            const NAME(gathered) low_23 = LOW(x[2], x[3]), high_23 = HIGH(x[2], x[3]);
            const NAME(gathered) columns[PIECE] = {
                LOW_PAIRS(low_01, low_23), HIGH_PAIRS(low_01, low_23), LOW_PAIRS(high_01, high_23),
                HIGH_PAIRS(high_01, high_23)};
#endif
#pragma GCC unroll 4
            for (int k = 0; k < PIECE; k++) *(NAME(gathered) *)(out + (left + k) * out_row + top) = columns[k];
        }
}
#undef GATHERED_BYTES
#undef GATHERED
#undef GATHER
#undef PIECE
#undef LOW
#undef HIGH
#undef LOW_PAIRS
#undef HIGH_PAIRS

/* out[k * out_row + r] := a[r * a_row + k] for r < rows and k < columns, both up to L; further r up to L become zero
 * where `fill`, and are not written where not. */
static void NAME(transpose_part)(
    REAL *out, ptrdiff_t out_row, const REAL *a, ptrdiff_t a_row, ptrdiff_t rows, ptrdiff_t columns, int fill) {
    vec in[LANES], turned[LANES];
    for (int r = 0; r < LANES; r++) in[r] = r < rows ? vec_load_part(a + r * a_row, columns) : (vec){0};
    NAME(transpose)((REAL *)turned, LANES, (const REAL *)in, LANES);
    for (int k = 0; k < least(LANES, columns); k++) vec_store_part(out + k * out_row, turned[k], fill ? LANES : rows);
}

/* panel[k * panel_k + lane] := w[lane * w_row + k] for k < K; lanes from `rows` on become zero. Like the inverse a function
 * of its own: inlined where there are a dozen callers they are 90 KB of AVX-512's code. */
static __attribute__((noinline)) void NAME(pack_slot)(
    REAL *panel, ptrdiff_t panel_k, const REAL *w, ptrdiff_t w_row, ptrdiff_t K, ptrdiff_t rows) {
    ptrdiff_t k = 0;
    for (; rows >= LANES && k + LANES <= K; k += LANES) NAME(transpose)(panel + k * panel_k, panel_k, w + k, w_row);
    for (; k < K; k += LANES) NAME(transpose_part)(panel + k * panel_k, panel_k, w + k, w_row, rows, K - k, 1);
}

/* w[lane * K + k] := panel[k * panel_k + lane], the inverse. */
static __attribute__((noinline)) void NAME(unpack_slot)(
    REAL *w, ptrdiff_t K, ptrdiff_t rows, const REAL *panel, ptrdiff_t panel_k) {
    ptrdiff_t k = 0;
    for (; rows >= LANES && k + LANES <= K; k += LANES) NAME(transpose)(w + k, K, panel + k * panel_k, panel_k);
    for (; k < K; k += LANES) NAME(transpose_part)(w + k, K, panel + k * panel_k, panel_k, K - k, rows, 0);
}

/* Panel p of b: columns p * 4 * L and on, zero-padded. */
static void NAME(pack_right)(const fastrnn_product *m, ptrdiff_t p0, ptrdiff_t p1) {
    for (ptrdiff_t p = p0; p < p1; p++)
        for (int v = 0; v < 4; v++) {
            const ptrdiff_t column = (4 * p + v) * LANES, left = m->columns - column;
            const REAL *b = (const REAL *)m->b + column * m->b_column;
            REAL *panel = (REAL *)m->panels + p * m->K * 4 * LANES + v * LANES;
            if (m->b_column == 1)
                for (ptrdiff_t k = 0; k < m->K; k++)
                    vec_store(panel + k * 4 * LANES, vec_load_part(b + k * m->b_k, left));
            else
                NAME(pack_slot)(panel, 4 * LANES, b, m->b_column, m->K, left);
        }
}

static void NAME(multiply)(
    const fastrnn_product *m, ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t row0, ptrdiff_t row1) {
    enum { at_once = 48, chunk = 256 }; /* rows whose sums, and k's whose part of the panel, stay in the cache */
    for (ptrdiff_t p = p0; p < p1; p++) {
        const ptrdiff_t left = m->columns - p * 4 * LANES;
        const int vectors = (int)least(4, ceil_div(left, LANES));
        for (ptrdiff_t row = row0; row < row1; row += at_once) {
            const ptrdiff_t rows = least(at_once, row1 - row);
            vec sums[at_once][4];
            for (ptrdiff_t r = 0; r < rows; r++)
                for (int v = 0; v < vectors; v++) {
                    const REAL *bias = (const REAL *)m->bias + (4 * p + v) * LANES;
                    sums[r][v] = m->bias ? vec_load_part(bias, left - v * LANES) : (vec){0};
                }
            for (ptrdiff_t k = 0; k < m->K; k += chunk) {
                const NAME(product) part = {
                    .a = (const REAL *)m->a + row * m->a_row + k * m->a_k, .a_row = m->a_row, .a_k = m->a_k,
                    .p = (const REAL *)m->panels + (p * m->K + k) * 4 * LANES, .p_k = 4 * LANES,
                    .K = least(chunk, m->K - k), .segments = 1};
                NAME(accumulate)(vectors, rows, sums, &part);
            }
            REAL *out = (REAL *)m->out + row * m->out_row + p * 4 * LANES;
            for (ptrdiff_t r = 0; r < rows; r++)
                for (int v = 0; v < vectors; v++) {
                    REAL *at = out + r * m->out_row + v * LANES;
                    if (m->add) sums[r][v] += vec_load_part(at, left - v * LANES);
                    vec_store_part(at, sums[r][v], left - v * LANES);
                }
        }
    }
}
