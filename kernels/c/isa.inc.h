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

/* Which weights of fewer bits there are kernels for. */
#if defined(NARROW_ONLY)
#define NARROW_I8 (NARROW_ONLY == 8)
#define NARROW_BF16 (NARROW_ONLY == 16)
#else
#define NARROW_I8 1
#define NARROW_BF16 1
#endif
#define NARROWED(name) PASTE(name, NARROW)

#define PRECISION f32
#define REAL float
#define REAL_INT int32_t
#define REAL_BYTES 4
#include "precision.inc.h"
#undef PRECISION
#undef REAL
#undef REAL_INT
#undef REAL_BYTES

#ifdef NARROW_ONLY /* only float can be narrowed */
#define DOUBLE NULL
#else
#define PRECISION f64
#define REAL double
#define REAL_INT int64_t
#define REAL_BYTES 8
#include "precision.inc.h"
#define DOUBLE &kernels_f64
#endif

#ifdef NARROW_ONLY
#define FLOAT NULL
#else
#define FLOAT &kernels_f32
#endif
#if NARROW_BF16
#define BFLOAT16 &kernels_bf16
#else
#define BFLOAT16 NULL
#endif
#if NARROW_I8
#define INT8 &kernels_i8
#else
#define INT8 NULL
#endif

/* All that this object exports. */
const fastrnn_kernels *const PASTE(fastrnn_table, ISA)[FASTRNN_PRECISIONS] = {FLOAT, DOUBLE, BFLOAT16, INT8};
#ifdef MATRIX_UNIT
const fastrnn_kernels *const PASTE(fastrnn_table, MATRIX_UNIT)[FASTRNN_PRECISIONS] = {&kernels_split};
#endif
