/* AVX-512: 32 registers, so 24 accumulators, four weights and a broadcast. */
#include <immintrin.h>

#define ISA avx512
#define VECTOR_BYTES 64
#define TILE_ROWS 6

#define fma_f32 _mm512_fmadd_ps
#define max_f32 _mm512_max_ps
#define min_f32 _mm512_min_ps
#define fma_f64 _mm512_fmadd_pd
#define max_f64 _mm512_max_pd
#define min_f64 _mm512_min_pd
