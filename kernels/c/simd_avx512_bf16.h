/* AVX-512 with BF16: products of two bfloat16 at once. */
#include "simd_avx512.h"

#undef ISA
#define ISA avx512_bf16
#define NARROW_ONLY 16
#define dot_bf16(left, right, sum) \
    ((vec)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)(__m512i)(left), (__m512bh)(__m512i)(right)))
