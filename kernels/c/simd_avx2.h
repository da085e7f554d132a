/* AVX2 with FMA: 16 registers, so a tile of three rows of four vectors. */
#include <immintrin.h>

#define ISA avx2
#define VECTOR_BYTES 32
#define HALF_BYTES 0 /* halves would save nothing: see half.inc.h */
#define TILE_ROWS 3

#define fma_f32 _mm256_fmadd_ps
#define max_f32 _mm256_max_ps
#define min_f32 _mm256_min_ps
#define sqrt_f32 _mm256_sqrt_ps
#define fma_f64 _mm256_fmadd_pd
#define max_f64 _mm256_max_pd
#define min_f64 _mm256_min_pd
#define sqrt_f64 _mm256_sqrt_pd

/* 16 bytes from a and 16 from b; the compiler makes a shuffle across lanes of what is a load here. */
#define gather_f32(a, b) _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a)), _mm_loadu_ps(b), 1)
#define gather_f64(a, b) _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(a)), _mm_loadu_pd(b), 1)

/* sum + the four products of each lane's bytes. Two at a time must fit 16 bits, and do, as no byte is -128. */
#define I8_OFFSET 0
#define dot_i8(left, right, sum)                                                                             \
    ((sum) + (vint)_mm256_madd_epi16(                                                                        \
                 _mm256_maddubs_epi16(                                                                       \
                     _mm256_abs_epi8((__m256i)(left)), _mm256_sign_epi8((__m256i)(right), (__m256i)(left))), \
                 _mm256_set1_epi16(1)))
