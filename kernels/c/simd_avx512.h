/* AVX-512: 32 registers, so 24 accumulators, four weights and a broadcast. */
#include <immintrin.h>

#define ISA avx512
#define VECTOR_BYTES 64
#define TILE_ROWS 6

#define fma_f32 _mm512_fmadd_ps
#define max_f32 _mm512_max_ps
#define min_f32 _mm512_min_ps
#define sqrt_f32 _mm512_sqrt_ps
#define fma_f64 _mm512_fmadd_pd
#define max_f64 _mm512_max_pd
#define min_f64 _mm512_min_pd
#define sqrt_f64 _mm512_sqrt_pd

/* 16 bytes from a and 16 from b; the compiler makes a shuffle across lanes of what is a load here. */
#define gather_f32(a, b) _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a)), _mm_loadu_ps(b), 1)
#define gather_f64(a, b) _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(a)), _mm_loadu_pd(b), 1)

/* sum + the four products of each lane's bytes. Two at a time must fit 16 bits, and do, as no byte is -128. */
#define I8_OFFSET 0
#define dot_i8(left, right, sum)                                                                                \
    ((sum) + (vint)_mm512_madd_epi16(                                                                           \
                 _mm512_maddubs_epi16(                                                                          \
                     _mm512_abs_epi8((__m512i)(left)),                                                          \
                     _mm512_mask_sub_epi8(                                                                      \
                         (__m512i)(right), _mm512_movepi8_mask((__m512i)(left)), _mm512_setzero_si512(),        \
                         (__m512i)(right))),                                                                    \
                 _mm512_set1_epi16(1)))

/* Half a vector, and the lower one of a whole: see half.inc.h */
#define HALF_BYTES 32
#define low_half_f32 _mm512_castps512_ps256
#define half_fma_f32 _mm256_fmadd_ps
#define half_max_f32 _mm256_max_ps
#define half_min_f32 _mm256_min_ps
#define half_sqrt_f32 _mm256_sqrt_ps
#define low_half_f64 _mm512_castpd512_pd256
#define half_fma_f64 _mm256_fmadd_pd
#define half_max_f64 _mm256_max_pd
#define half_min_f64 _mm256_min_pd
#define half_sqrt_f64 _mm256_sqrt_pd
