/* AVX-512 with VNNI: products of four bytes at once, of which the left ones have no sign. */
#include "simd_avx512.h"

#undef ISA
#define ISA avx512_vnni
#define NARROW_ONLY 8
#undef dot_i8
#undef I8_OFFSET
#define I8_OFFSET 128
#define dot_i8(left, right, sum) ((vint)_mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(left), (__m512i)(right)))
