#if defined(__aarch64__) /* nothing in the other half of a universal object */
#include "simd_neon.h"

#include "isa.inc.h"
#endif
