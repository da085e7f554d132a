#include "simd_amx.h"

#include "isa.inc.h"
