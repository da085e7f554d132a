#if defined(__x86_64__) /* nothing in the other half of a universal object */
#include "simd_avx512_vnni.h"

#include "isa.inc.h"
#endif
