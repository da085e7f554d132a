#if defined(__x86_64__) /* nothing in the other half of a universal object */
#include "simd_avx512.h"

#define MATRIX_UNIT amx /* of these kernels, with products of split floats where CPUs have one */

#include "isa.inc.h"
#endif
