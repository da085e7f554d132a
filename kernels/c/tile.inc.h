/* The register tile that every product runs on: a template over the elements of its factors and the type of its sums.
 *
 *   TILED(name)             what names here become
 *   ELEMENT                 of both factors: a number, or some that are multiplied at once (narrow.inc.h)
 *   RIGHT, LOAD(p)          a vector of elements, one of each lane
 *   SPREAD(a)               a vector of an element of the left factor
 *   SUM                     a vector of sums
 *   DOT(left, right, sum)   sum + left * right */

/* One product: sum over s < segments, k < K of a[r * a_row + s * a_segment + k * a_k] * p[(s * K + k) * p_k + v * L ..]
 * for row r and vector v. `next` is what will be read after p: it is fetched into L2 on the way, a line per k, so that the
 * first row tiles bring in what the next product needs; next_size is 0 where that does not pay. */
typedef struct {
    const ELEMENT *a; /* left factor, one element at a time */
    ptrdiff_t a_row, a_k, a_segment;
    const ELEMENT *p; /* right factor, vectors of consecutive elements */
    ptrdiff_t p_k;
    ptrdiff_t K, segments;
    const ELEMENT *next;
    ptrdiff_t next_size;
} TILED(product);

/* acc[i][v] += the product's row r + i, for i < rows and v < vectors.
 * Every sum is one chain with k ascending: its bits depend on no blocking. */
typedef void TILED(tile)(SUM (*acc)[4], const TILED(product) *m, ptrdiff_t r, const ELEMENT *ahead, ptrdiff_t ahead_k);

INLINE void TILED(tile_body)(
    const int rows, const int vectors, SUM (*acc)[4], const TILED(product) *m, ptrdiff_t r, const ELEMENT *ahead,
    ptrdiff_t ahead_k) {
    const ptrdiff_t a_row = m->a_row, a_k = m->a_k, p_k = m->p_k, K = m->K;
    const ELEMENT *p = m->p;
    SUM sum[TILE_ROWS][4];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[i][v] = acc[i][v];
    for (ptrdiff_t s = 0; s < m->segments; s++) {
        const ELEMENT *a = m->a + r * a_row + s * m->a_segment;
        for (ptrdiff_t k = 0; k < K; k++) {
            RIGHT right[4];
            __builtin_prefetch(ahead, 0, 2);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) right[v] = LOAD(p + v * LANES);
#pragma GCC unroll 8
            for (int i = 0; i < rows; i++) {
                const RIGHT left = SPREAD(a[i * a_row]);
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++) sum[i][v] = DOT(left, right[v], sum[i][v]);
            }
            a += a_k;
            p += p_k;
            ahead += ahead_k;
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) acc[i][v] = sum[i][v];
}

#define TILE(rows, vectors)                                                                                       \
    static void TILED(tile_##rows##x##vectors)(                                                                   \
        SUM (*acc)[4], const TILED(product) *m, ptrdiff_t r, const ELEMENT *ahead, ptrdiff_t ahead_k) {           \
        TILED(tile_body)(rows, vectors, acc, m, r, ahead, ahead_k);                                               \
    }
#define TILES(rows) TILE(rows, 1) TILE(rows, 2) TILE(rows, 3) TILE(rows, 4)
#define TILE_NAMES(rows) \
    {TILED(tile_##rows##x1), TILED(tile_##rows##x2), TILED(tile_##rows##x3), TILED(tile_##rows##x4)}
TILES(1)
TILES(2)
TILES(3)
#if TILE_ROWS == 6
TILES(4)
TILES(5)
TILES(6)
#endif

/* By rows - 1 and vectors - 1. */
static TILED(tile) *const TILED(tiles)[TILE_ROWS][4] = {
    TILE_NAMES(1),
    TILE_NAMES(2),
    TILE_NAMES(3),
#if TILE_ROWS == 6
    TILE_NAMES(4),
    TILE_NAMES(5),
    TILE_NAMES(6),
#endif
};
#undef TILE
#undef TILES
#undef TILE_NAMES

/* acc[i] += the product's row r + i, i < rows <= TILE_ROWS; `tile` counts the tiles that use the same right factor. */
INLINE void TILED(accumulate_tile)(
    int vectors, ptrdiff_t rows, SUM (*acc)[4], const TILED(product) *m, ptrdiff_t r, ptrdiff_t tile) {
    enum { line = 64 / sizeof(ELEMENT) };
    const ptrdiff_t at = tile * m->K * m->segments * line;
    const int fetch = at < m->next_size;
    TILED(tiles)[rows - 1][vectors - 1](acc, m, r, fetch ? m->next + at : m->a, fetch ? line : 0);
}

/* acc[r] += the product's row r, for any number of rows. */
INLINE void TILED(accumulate)(int vectors, ptrdiff_t rows, SUM (*acc)[4], const TILED(product) *m) {
    for (ptrdiff_t tile = 0; tile < NAME(tile_count)(rows); tile++) {
        const ptrdiff_t r = NAME(tile_start)(rows, tile), height = NAME(tile_start)(rows, tile + 1) - r;
        TILED(accumulate_tile)(vectors, height, acc + r, m, r, tile);
    }
}

/* acc[j] += the product of its first row with right factor j = 0, 1, which lie p_block apart, as the tile would do it.
 * One block of one row is four chains at the most, each of a step per 4 cycles, where two units need eight: two blocks at
 * once make a sequence of N = 1 1.03 to 1.35 times as fast. More blocks, read side by side, are slower where the weights
 * come from L2 (gru, H = 256: 0.95 with four), and so is fetching ahead into L1 (lstm: 0.95). */
INLINE void TILED(accumulate_pair)(const int vectors, SUM (*acc)[4], const TILED(product) *m, ptrdiff_t p_block) {
    const ELEMENT *p = m->p;
    SUM sum[2][4];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) sum[0][v] = acc[0][v], sum[1][v] = acc[1][v];
    for (ptrdiff_t k = 0; k < m->K; k++, p += m->p_k) {
        const RIGHT left = SPREAD(m->a[k * m->a_k]);
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sum[j][v] = DOT(left, LOAD(p + j * p_block + v * LANES), sum[j][v]);
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) acc[0][v] = sum[0][v], acc[1][v] = sum[1][v];
}

#undef TILED
#undef ELEMENT
#undef RIGHT
#undef LOAD
#undef SPREAD
#undef SUM
#undef DOT
