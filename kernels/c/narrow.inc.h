/* Products of weights of fewer bits, NARROW: i8, int8 with a scale for each row, or bf16, bfloat16. Some of them, along k,
 * share the 32 bits of an element, and so do those of the left factor, which is made of a row of floats first; the tile is
 * that of floats. What the numbers are is defined in fastrnn/narrow.py.
 *
 * i8: elements are four k's, sums integers, the same ones whatever the instructions. Where these want the left factor
 * without a sign it lies I8_OFFSET higher, and sums begin with what is too much. bf16: elements are two k's, sums floats:
 * of the two products, which are exact, the one of the odd k is added first, as vdpbf16ps does. Weights come as float, and are
 * rounded as they are packed. */
#if NARROW_BITS == 8
typedef int8_t NARROWED(weight);
typedef vint NARROWED(sum);
#else
typedef REAL NARROWED(weight); /* rounded as they are packed */
typedef vec NARROWED(sum);
typedef int16_t NARROWED(halves) __attribute__((vector_size(VECTOR_BYTES / 2), may_alias, aligned(2)));
#ifndef dot_bf16
#define ODD(a) ((vec)((a) & (int32_t)0xffff0000))
#define EVEN(a) ((vec)((a) << 16))
#define dot_bf16(left, right, sum) vec_fma(EVEN(left), EVEN(right), vec_fma(ODD(left), ODD(right), sum))
/* a as bfloat16, in the upper halves of the lanes, above anything: rounded to nearest, to even; NaN stays NaN. */
INLINE vint NARROWED(upper)(vec a) {
    const vint bits = (vint)a, nan = (bits & INT32_MAX) > 0x7f800000, number = bits & ~nan;
    const vint rounded = number + 0x7fff + (number >> 16 & 1);
    return (rounded & ~nan) | ((bits | 0x400000) & nan);
}
#define halves_bf16(a) __builtin_convertvector(NARROWED(upper)(a) >> 16, NARROWED(halves))
#define pairs_bf16(even, odd) \
    ((NARROWED(upper)(even) >> 16 & 0xffff) | (NARROWED(upper)(odd) & (int32_t)0xffff0000))
#endif
#endif

enum {
    NARROWED(together) = 32 / NARROW_BITS,     /* weights of an element */
    NARROWED(has_scales) = NARROW_BITS == 8, /* else sums begin with what they are added to */
};
INLINE ptrdiff_t NARROWED(elements)(ptrdiff_t K) { return ceil_div(K, NARROWED(together)); }
/* Elements of a row of a left factor: whole cache lines */
INLINE ptrdiff_t NARROWED(left_row)(ptrdiff_t K) { return ceil_div(NARROWED(elements)(K), 16) * 16; }

INLINE vint NARROWED(spread)(int32_t a) { return a - (vint){0}; }
INLINE vint NARROWED(load)(const int32_t *p) {
    typedef int32_t loose __attribute__((vector_size(VECTOR_BYTES), may_alias, aligned(4)));
    return (vint)*(const loose *)p;
}

#define TILED NARROWED
#define ELEMENT int32_t
#define RIGHT vint
#define LOAD NARROWED(load)
#define SPREAD NARROWED(spread)
#define SUM NARROWED(sum)
#define DOT NARROWED(dot)
#include "tile.inc.h"

#if NARROW_BITS == 8
/* left := the row a as int8, and its scale: 0 where nothing in it counts, NaN where not all of it is finite. */
static REAL NARROWED(narrow_row)(int32_t *left, const REAL *a, ptrdiff_t K) {
    typedef int8_t bytes __attribute__((vector_size(LANES), may_alias, aligned(1)));
    const REAL least_top = 0x1p-100f, shift = 0x1.8p23f; /* a sum with `shift` has an integer in its lowest bits */
    vint tops = {0};                                     /* of absolute values, whose bits are in order, NaN the last */
    int32_t top = 0, shift_bits;
    REAL largest;
    for (ptrdiff_t k = 0; k < K; k += LANES) {
        const vint bits = (vint)vec_load_part(a + k, K - k) & INT32_MAX, above = bits > tops;
        tops = (bits & above) | (tops & ~above);
    }
    for (int lane = 0; lane < LANES; lane++) top = tops[lane] > top ? tops[lane] : top;
    memcpy(&largest, &top, sizeof(top));
    memcpy(&shift_bits, &shift, sizeof(shift));
    if (top >= 0x7f800000 || largest < least_top) {
        memset(left, I8_OFFSET, (size_t)NARROWED(left_row)(K) * sizeof(*left));
        return top >= 0x7f800000 ? NAN : 0;
    }
    const vec by = vec_splat(127 / largest);
    for (ptrdiff_t k = 0; k < NARROWED(left_row)(K) * NARROWED(together); k += LANES) {
        const vint q = (vint)(vec_load_part(a + k, K - k) * by + vec_splat(shift)) - (shift_bits - I8_OFFSET);
        *(bytes *)((int8_t *)left + k) = __builtin_convertvector(q, bytes);
    }
    return largest / 127;
}
#else
/* left := the row a as bfloat16 */
static REAL NARROWED(narrow_row)(int32_t *left, const REAL *a, ptrdiff_t K) {
    for (ptrdiff_t k = 0; k < NARROWED(left_row)(K) * NARROWED(together); k += LANES)
        *(NARROWED(halves) *)((int16_t *)left + k) = halves_bf16(vec_load_part(a + k, K - k));
    return 1;
}
#endif

/* Rows of a left factor, `stride` elements apart, and the scale of each */
typedef struct {
    const int32_t *rows;
    const REAL *scales;
    ptrdiff_t stride;
} NARROWED(left);

/* `count` rows of `columns` floats, a_row apart, in memory of so many rows and scales */
INLINE NARROWED(left) NARROWED(narrow_rows)(
    int32_t *rows, REAL *scales, const REAL *a, ptrdiff_t a_row, ptrdiff_t columns, ptrdiff_t count) {
    const ptrdiff_t stride = NARROWED(left_row)(columns);
    for (ptrdiff_t r = 0; r < count; r++) scales[r] = NARROWED(narrow_row)(rows + r * stride, a + r * a_row, columns);
    return (NARROWED(left)){rows, scales, stride};
}

/* What goes with a product of a block: by slot and lane, the scale of the weights, and what sums begin with. */
typedef struct {
    vec scale[4];
    NARROWED(sum) start[4];
} NARROWED(scales);

/* A slot of a panel, p_k from element to element, := `lanes` rows of K weights; of int8 what else goes with them, too, where
 * panel and scales are zeros. */
#if NARROW_BITS == 8
INLINE void NARROWED(pack_rows)(
    int32_t *panel, ptrdiff_t p_k, NARROWED(scales) *scales, int slot, const NARROWED(weight) *w, const REAL *scale,
    ptrdiff_t K, ptrdiff_t lanes) {
    enum { together = NARROWED(together) };
    for (ptrdiff_t lane = 0; lane < lanes; lane++, w += K) {
        int32_t *to = panel + lane, sum = 0;
        ptrdiff_t k = 0;
        for (; k + together <= K; k += together, to += p_k) memcpy(to, w + k, sizeof(*to));
        memcpy(to, w + k, (size_t)(K - k) * sizeof(*w));
        for (k = 0; k < K; k++) sum += w[k];
        scales->scale[slot][lane] = scale[lane];
        scales->start[slot][lane] = -I8_OFFSET * sum;
    }
}
#else
INLINE void NARROWED(pack_rows)(
    int32_t *panel, ptrdiff_t p_k, NARROWED(scales) *scales, int slot, const NARROWED(weight) *w, const REAL *scale,
    ptrdiff_t K, ptrdiff_t lanes) {
    enum { elements = 64, columns = elements * NARROWED(together) }; /* at once, of all lanes: they stay in L1 */
    int32_t rows[LANES][elements];
    for (ptrdiff_t k = 0; k < K; k += columns, panel += elements * p_k) {
        const ptrdiff_t count = least(columns, K - k);
        for (ptrdiff_t lane = 0; lane < lanes; lane++) NARROWED(narrow_row)(rows[lane], w + lane * K + k, count);
        NAME(pack_slot)((REAL *)panel, p_k, (const REAL *)rows, elements, NARROWED(elements)(count), lanes);
    }
}
#endif

/* a + the product whose sum this is */
INLINE vec NARROWED(finish)(NARROWED(sum) sum, REAL left_scale, vec scale, vec a) {
    return vec_fma(__builtin_convertvector(sum, vec) * vec_splat(left_scale), scale, a);
}

/* Column k of a panel, whose element of it this is */
INLINE vec NARROWED(column)(vint elements, ptrdiff_t k, vec scale) {
#if NARROW_BITS == 8
    return __builtin_convertvector(elements << (24 - 8 * (int)(k % 4)) >> 24, vec) * scale;
#else
    return (vec)(elements << (k % 2 ? 0 : 16) & (int32_t)0xffff0000);
#endif
}
