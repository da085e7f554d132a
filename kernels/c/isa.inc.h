/* Everything for one instruction set, in both precisions. The including file has set up simd_<isa>.h. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"
#include "steps.h"

#define PASTE2(a, b) a##_##b
#define PASTE(a, b) PASTE2(a, b)
#define INLINE static inline __attribute__((always_inline))

#define PRECISION f32
#define REAL float
#define REAL_INT int32_t
#define REAL_BYTES 4
#include "precision.inc.h"
#undef PRECISION
#undef REAL
#undef REAL_INT
#undef REAL_BYTES

#ifdef SPLIT /* only float can be split */
#define DOUBLE NULL
#else
#define PRECISION f64
#define REAL double
#define REAL_INT int64_t
#define REAL_BYTES 8
#include "precision.inc.h"
#define DOUBLE &kernels_f64
#endif

/* The one name this object exports. */
const fastrnn_kernels *const PASTE(fastrnn_table, ISA)[FASTRNN_PRECISIONS] = {&kernels_f32, DOUBLE};
