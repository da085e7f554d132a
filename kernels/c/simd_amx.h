/* AVX-512 vectors, and products of split floats on the matrix unit. */
#include "simd_avx512.h"

#undef ISA
#define ISA amx
#define SPLIT
