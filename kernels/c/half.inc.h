/* Vectors of half as many lanes, with their math and the cells' point functions: NAME(half_<name>). Where the CPU runs a
 * whole one in two turns, what is left of few units takes half the time in them; bits are the same. */
#if HALF_BYTES
#pragma push_macro("VECTOR_BYTES")
#pragma push_macro("NAME")
#undef VECTOR_BYTES
#undef NAME
#define VECTOR_BYTES HALF_BYTES
#define NAME(name) PASTE(half_##name, PRECISION)
#include "vector.inc.h"
#include "vmath.inc.h"
#include "cells.inc.h"
#pragma pop_macro("NAME")
#pragma pop_macro("VECTOR_BYTES")
#define HALF(name) NAME(PASTE(half, OF_CELL(name))) /* a function of the cell that FN is of */
#endif

#define half_vec NAME(half_vec)
#define half_load NAME(half_load)
#define half_fma NAME(half_fma)
#define low_half NAME(low_half)

#if !HALF_BYTES /* whole ones stand in for them, and no block takes these */
#define HALF FN
typedef vec half_vec;
INLINE vec half_load(const REAL *p) { return vec_load(p); }
INLINE vec half_fma(vec a, vec b, vec c) { return vec_fma(a, b, c); }
INLINE vec low_half(vec a) { return a; }
#endif
