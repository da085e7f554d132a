#include "simd_baseline.h"

#include "isa.inc.h"
