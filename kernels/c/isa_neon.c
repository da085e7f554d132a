#include "simd_neon.h"

#include "isa.inc.h"
