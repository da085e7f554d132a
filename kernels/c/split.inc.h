/* Products of floats on the CPU's matrix unit (AMX), which multiplies bfloat16 and sums in float.
 *
 * A float is the exact sum of three bfloat16 of 8 significant bits, high + middle + low. Of the nine products of such
 * pieces six are summed; the others are below 2^-24 of the whole, as is half a unit in the last place. The unit sums 32
 * products before it rounds into an element, so that errors are smaller than those of a chain of multiply-adds (a third
 * to a half at K = 64 to 1024), at 1.7 to 2.2 times its rate.
 *
 * Every element is the sum over k-blocks of 32, ascending, of the six products in one order: its bits depend on no
 * blocking. An infinity has no pieces (its middle is infinity - infinity): elements that it reaches become NaN, and the
 * caller computes those anew.
 *
 * A tile has 16 rows of 64 bytes; a split tile is three, high, middle, low. A left one holds up to 16 rows of 32 k's, a
 * right one 16 pairs of k's by 16 columns. */

enum { TILE_K = 32, TILE_SIDE = 16, TILE_BYTES = 1024, SPLIT_SIZE = 3 * TILE_BYTES / REAL_BYTES };
#define HIGH_HALF ((int32_t)0xffff0000)

#ifdef FASTRNN_EMULATED_TILES
#include "emulated_tiles.h"
#else
/* Inline assembly needs no compiler that knows the instructions, only an assembler of 2020 or later. */
#define UNIT_CONFIGURE(tiles) __asm__ volatile("ldtilecfg %0" ::"m"(tiles))
#define UNIT_RELEASE() __asm__ volatile("tilerelease" :::)
#define UNIT_LOAD(tile, at, row) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(at), "r"((row) * (ptrdiff_t)REAL_BYTES) : "memory")
#define UNIT_STORE(tile, at, row) \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(at), "r"((row) * (ptrdiff_t)REAL_BYTES) : "memory")
#define UNIT_MULTIPLY(out, left, right) \
    __asm__ volatile("tdpbf16ps %%tmm" #right ", %%tmm" #left ", %%tmm" #out :::)
#endif

/* Make the unit ready for left tiles of so many rows. Every phase does it first and releases the unit last: a thread that
 * holds tiles is slow to switch. */
static void NAME(unit_acquire)(ptrdiff_t height) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } tiles = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        tiles.row_bytes[tile] = 64;
        tiles.rows[tile] = (uint8_t)(tile < 6 ? height : TILE_SIDE); /* four of sums, two left, two right */
    }
    UNIT_CONFIGURE(tiles);
}
static void NAME(unit_release)(void) { UNIT_RELEASE(); }

/* Left tiles that hold so many rows; the last one is perhaps not full. */
INLINE ptrdiff_t NAME(left_tiles)(ptrdiff_t rows) { return ceil_div(rows, TILE_SIDE); }

/* Elements from row to row of sums of so many columns: no multiple of 4096 bytes, whose rows would share cache sets */
INLINE ptrdiff_t NAME(sums_row)(ptrdiff_t columns) { return ceil_div(columns, TILE_SIDE) * TILE_SIDE + TILE_SIDE; }

/* ---- splitting */

/* a = high + middle + low; each in the upper half of its lanes, with anything below */
INLINE void NAME(split)(vec a, vint pieces[3]) {
    pieces[0] = (vint)a & HIGH_HALF; /* cut, not rounded, so that NaN stays NaN */
    const vec rest = a - (vec)pieces[0];
    pieces[1] = ((vint)rest + 0x8000) & HIGH_HALF; /* rounded, so that the products left out are of either sign */
    pieces[2] = (vint)(rest - (vec)pieces[1]);
}

/* Columns `half` * 16 and on of a row of a left tile := a */
INLINE void NAME(split_left)(REAL *tile, ptrdiff_t row, ptrdiff_t half, vec a) {
    typedef int16_t narrow __attribute__((vector_size(VECTOR_BYTES / 2), may_alias));
    vint pieces[3];
    NAME(split)(a, pieces);
    for (int i = 0; i < 3; i++)
        *(narrow *)((char *)tile + i * TILE_BYTES + row * 64 + half * 32) = __builtin_convertvector(pieces[i] >> 16, narrow);
}

/* Row `pair` of a right tile := two rows of the right factor */
INLINE void NAME(split_right)(REAL *tile, ptrdiff_t pair, vec even, vec odd) {
    vint evens[3], odds[3];
    NAME(split)(even, evens);
    NAME(split)(odd, odds);
    for (int i = 0; i < 3; i++)
        *(vint *)((char *)tile + i * TILE_BYTES + pair * 64) =
            (evens[i] >> 16 & 0xffff) | (odds[i] & HIGH_HALF);
}

/* sum + a, added in the order in which a product of a with one would be */
INLINE vec NAME(add_split)(vec sum, vec a) {
    vint pieces[3];
    NAME(split)(a, pieces);
    return ((sum + (vec)pieces[1]) + (vec)pieces[2]) + (vec)pieces[0];
}

/* Left tiles [tile][k-block] := rows of a, tile_size apart */
static void NAME(split_rows)(REAL *tiles, ptrdiff_t tile_size, const REAL *a, ptrdiff_t columns, ptrdiff_t rows) {
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t k = 0; k < ceil_div(columns, TILE_K) * TILE_K; k += LANES)
            NAME(split_left)(
                tiles + r / TILE_SIDE * tile_size + k / TILE_K * SPLIT_SIZE, r % TILE_SIDE, k / LANES % 2,
                vec_load_part(a + r * columns + k, columns - k));
}

/* Right tiles, tile_size apart, := so many columns of 32 rows; NULL is a row of zeros. Four tiles at a time, so that
 * reading goes along the rows for a while, and writing along the tiles. */
static void NAME(split_row_pairs)(
    REAL *tiles, ptrdiff_t tile_size, const REAL *const rows[TILE_K], ptrdiff_t columns) {
    for (ptrdiff_t c = 0; c < columns; c += 4 * LANES)
        for (ptrdiff_t k = 0; k < TILE_K; k += 2)
            for (ptrdiff_t v = c; v < least(columns, c + 4 * LANES); v += LANES)
                NAME(split_right)(
                    tiles + v / LANES * tile_size, k / 2, rows[k] ? vec_load_part(rows[k] + v, columns - v) : (vec){0},
                    rows[k + 1] ? vec_load_part(rows[k + 1] + v, columns - v) : (vec){0});
}

/* Right tiles [vector][k-block], tile_size from vector to vector, := a panel [k][vector][16] of K k's, p_k from k to k */
static void NAME(split_panel)(
    REAL *tiles, ptrdiff_t tile_size, const REAL *panel, ptrdiff_t p_k, ptrdiff_t K, ptrdiff_t vectors) {
    for (ptrdiff_t k = 0; k < ceil_div(K, TILE_K) * TILE_K; k += 2) {
        REAL *tile = tiles + k / TILE_K * SPLIT_SIZE;
        const REAL *even = panel + k * p_k, *odd = even + p_k;
        for (ptrdiff_t v = 0; v < vectors; v++, tile += tile_size, even += LANES, odd += LANES)
            NAME(split_right)(
                tile, k % TILE_K / 2, k < K ? vec_load(even) : (vec){0}, k + 1 < K ? vec_load(odd) : (vec){0});
    }
}

/* Whether any of `count` vectors holds a NaN */
INLINE int NAME(any_nan)(const REAL *a, ptrdiff_t count) {
    __mmask16 found = 0;
    for (ptrdiff_t i = 0; i < count; i++) {
        const __m512 v = _mm512_loadu_ps(a + i * LANES);
        found |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    }
    return found != 0;
}

/* ---- multiplying */

/* sums += left right, in tiles: left tile (i, k) lies at left + i * left_tile + k * SPLIT_SIZE, right tile (k, j) likewise,
 * sums (i, j) at sums + i * height * sums_row + j * 16, with sums_row elements from row to row. */
typedef struct {
    const REAL *left, *right;
    ptrdiff_t left_tile, right_tile;
    ptrdiff_t K;
    REAL *sums;
    ptrdiff_t sums_row, height;
} NAME(split_product);

/* The tiles (i .. i + rows - 1, j .. j + columns - 1), four at the most. The products of a k-block, from the left and the
 * right piece: low high, middle high, middle middle, high middle, high low, high high. */
INLINE void NAME(split_tiles)(
    const int rows, const int columns, const NAME(split_product) *m, ptrdiff_t i, ptrdiff_t j) {
    enum { piece = TILE_BYTES / REAL_BYTES, line = 64 / REAL_BYTES };
    const REAL *a = m->left + i * m->left_tile, *b = m->right + j * m->right_tile;
    const ptrdiff_t blocks = ceil_div(m->K, TILE_K), a_tile = m->left_tile, b_tile = m->right_tile, sums_row = m->sums_row;
    REAL *sums = m->sums + i * m->height * sums_row + j * TILE_SIDE, *below = sums + m->height * sums_row;
    if (rows == 2) {
        UNIT_LOAD(0, sums, sums_row);
        UNIT_LOAD(2, below, sums_row);
        if (columns == 2) {
            UNIT_LOAD(1, sums + TILE_SIDE, sums_row);
            UNIT_LOAD(3, below + TILE_SIDE, sums_row);
        }
#define LEFT(p)                        \
    UNIT_LOAD(4, a + p * piece, line); \
    UNIT_LOAD(5, a + a_tile + p * piece, line)
#define RIGHT(p)                       \
    UNIT_LOAD(6, b + p * piece, line); \
    if (columns == 2) UNIT_LOAD(7, b + b_tile + p * piece, line)
#define MULTIPLY                                \
    UNIT_MULTIPLY(0, 4, 6);                     \
    if (columns == 2) { UNIT_MULTIPLY(1, 4, 7); } \
    UNIT_MULTIPLY(2, 5, 6);                     \
    if (columns == 2) UNIT_MULTIPLY(3, 5, 7)
        for (ptrdiff_t k = 0; k < blocks; k++, a += SPLIT_SIZE, b += SPLIT_SIZE) {
            LEFT(2);
            RIGHT(0);
            MULTIPLY;
            LEFT(1);
            MULTIPLY;
            RIGHT(1);
            MULTIPLY;
            LEFT(0);
            MULTIPLY;
            RIGHT(2);
            MULTIPLY;
            RIGHT(0);
            MULTIPLY;
        }
#undef LEFT
#undef RIGHT
#undef MULTIPLY
        UNIT_STORE(0, sums, sums_row);
        UNIT_STORE(2, below, sums_row);
        if (columns == 2) {
            UNIT_STORE(1, sums + TILE_SIDE, sums_row);
            UNIT_STORE(3, below + TILE_SIDE, sums_row);
        }
    } else {
        UNIT_LOAD(0, sums, sums_row);
        if (columns > 1) UNIT_LOAD(1, sums + TILE_SIDE, sums_row);
        if (columns > 2) UNIT_LOAD(2, sums + 2 * TILE_SIDE, sums_row);
        if (columns > 3) UNIT_LOAD(3, sums + 3 * TILE_SIDE, sums_row);
/* column's sums += left pieces in tiles 4 and 5, as far as wanted, times its right piece p */
#define COLUMN(column, p, right, with_4, with_5)                   \
    if (columns > column) {                                        \
        UNIT_LOAD(right, b + column * b_tile + p * piece, line);   \
        if (with_5) UNIT_MULTIPLY(column, 5, right);               \
        if (with_4) UNIT_MULTIPLY(column, 4, right);               \
    }
#define COLUMNS(p, with_4, with_5)   \
    COLUMN(0, p, 6, with_4, with_5) \
    COLUMN(1, p, 7, with_4, with_5) \
    COLUMN(2, p, 6, with_4, with_5) \
    COLUMN(3, p, 7, with_4, with_5)
        for (ptrdiff_t k = 0; k < blocks; k++, a += SPLIT_SIZE, b += SPLIT_SIZE) {
            UNIT_LOAD(5, a + 2 * piece, line);
            UNIT_LOAD(4, a + piece, line);
            COLUMNS(0, 1, 1) /* low high, middle high */
            UNIT_LOAD(5, a + piece, line);
            UNIT_LOAD(4, a, line);
            COLUMNS(1, 1, 1) /* middle middle, high middle */
            COLUMNS(2, 1, 0) /* high low */
            COLUMNS(0, 1, 0) /* high high */
        }
#undef COLUMN
#undef COLUMNS
        UNIT_STORE(0, sums, sums_row);
        if (columns > 1) UNIT_STORE(1, sums + TILE_SIDE, sums_row);
        if (columns > 2) UNIT_STORE(2, sums + 2 * TILE_SIDE, sums_row);
        if (columns > 3) UNIT_STORE(3, sums + 3 * TILE_SIDE, sums_row);
    }
}

/* All of `rows` by `columns` tiles, two by two; a row of tiles that is left over four at a time. */
static void NAME(split_multiply)(const NAME(split_product) *m, ptrdiff_t rows, ptrdiff_t columns) {
    for (ptrdiff_t j = 0; j < columns && m->K; j += 2)
        for (ptrdiff_t i = 0; i + 1 < rows; i += 2)
            if (j + 1 < columns)
                NAME(split_tiles)(2, 2, m, i, j);
            else
                NAME(split_tiles)(2, 1, m, i, j);
    for (ptrdiff_t j = 0; rows % 2 && j < columns && m->K; j += 4) switch (least(4, columns - j)) {
            case 1: NAME(split_tiles)(1, 1, m, rows - 1, j); break;
            case 2: NAME(split_tiles)(1, 2, m, rows - 1, j); break;
            case 3: NAME(split_tiles)(1, 3, m, rows - 1, j); break;
            default: NAME(split_tiles)(1, 4, m, rows - 1, j);
        }
}
#undef UNIT_CONFIGURE
#undef UNIT_RELEASE
#undef UNIT_LOAD
#undef UNIT_STORE
#undef UNIT_MULTIPLY
