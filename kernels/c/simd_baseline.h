/* x86-64 as it always was: SSE2, without a fused multiply-add. */
#include <emmintrin.h>

#define ISA baseline
#define VECTOR_BYTES 16
#define HALF_BYTES 0 /* halves would save nothing: see half.inc.h */
#define TILE_ROWS 3

#define fma_f32(a, b, c) ((a) * (b) + (c))
#define max_f32 _mm_max_ps
#define min_f32 _mm_min_ps
#define sqrt_f32 _mm_sqrt_ps
#define fma_f64(a, b, c) ((a) * (b) + (c))
#define max_f64 _mm_max_pd
#define min_f64 _mm_min_pd
#define sqrt_f64 _mm_sqrt_pd

/* sum + the four products of each lane's bytes: of those at even and at odd places, in 16 bits each */
#define I8_OFFSET 0
#define even_bytes(a) _mm_srai_epi16(_mm_slli_epi16((__m128i)(a), 8), 8)
#define odd_bytes(a) _mm_srai_epi16((__m128i)(a), 8)
#define dot_i8(left, right, sum)                                                \
    ((sum) + (vint)_mm_madd_epi16(even_bytes(left), even_bytes(right)) +        \
     (vint)_mm_madd_epi16(odd_bytes(left), odd_bytes(right)))
