#include "simd_avx2.h"

#include "isa.inc.h"
