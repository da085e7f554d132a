#include "simd_avx512.h"

#include "isa.inc.h"
