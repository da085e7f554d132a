/* AVX-512 with BF16: products of two bfloat16 at once, and the rounding to them. */
#include "simd_avx512.h"

#undef ISA
#define ISA avx512_bf16
#define NARROW_ONLY 16
#define dot_bf16(left, right, sum) \
    ((vec)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)(__m512i)(left), (__m512bh)(__m512i)(right)))
/* The numbers as bfloat16: rounded to nearest, to even; NaN stays NaN. */
#define halves_bf16(a) ((NARROWED(halves))_mm512_cvtneps_pbh((__m512)(a)))
/* The same of two vectors, side by side in each lane */
#define pairs_bf16(even, odd)                                                                                 \
    ((vint)_mm512_permutexvar_epi16(                                                                          \
        _mm512_set_epi16(                                                                                     \
            31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, \
            18, 2, 17, 1, 16, 0),                                                                             \
        (__m512i)_mm512_cvtne2ps_pbh((__m512)(odd), (__m512)(even))))
