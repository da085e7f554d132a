/* AVX2 with FMA: 16 registers, so a tile of three rows of four vectors. */
#include <immintrin.h>

#define ISA avx2
#define VECTOR_BYTES 32
#define TILE_ROWS 3

#define fma_f32 _mm256_fmadd_ps
#define max_f32 _mm256_max_ps
#define min_f32 _mm256_min_ps
#define fma_f64 _mm256_fmadd_pd
#define max_f64 _mm256_max_pd
#define min_f64 _mm256_min_pd
