#if defined(__x86_64__) /* nothing in the other half of a universal object */
#include "simd_amx.h"

#include "isa.inc.h"
#endif
