/* A vector of VECTOR_BYTES, its loads and stores; and what counts of them are rounded with. */

typedef REAL vec __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef REAL_INT vint __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef REAL NAME(loose) __attribute__((vector_size(VECTOR_BYTES), may_alias, aligned(REAL_BYTES)));

INLINE vec vec_splat(REAL a) { return a - (vec){0}; }
INLINE vec vec_load(const REAL *p) { return *(const NAME(loose) *)p; }
INLINE void vec_store(REAL *p, vec a) { *(NAME(loose) *)p = a; }

/* The first `count` lanes, the others zero; count may be beyond either end. Nothing past them is touched. */
INLINE vec vec_load_part(const REAL *p, ptrdiff_t count) {
    if (count >= LANES) return vec_load(p);
    vec a = {0};
    if (count > 0) memcpy(&a, p, (size_t)count * sizeof(REAL));
    return a;
}
INLINE void vec_store_part(REAL *p, vec a, ptrdiff_t count) {
    if (count >= LANES)
        vec_store(p, a);
    else if (count > 0)
        memcpy(p, &a, (size_t)count * sizeof(REAL));
}

INLINE ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }
INLINE ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
INLINE ptrdiff_t most(ptrdiff_t a, ptrdiff_t b) { return a < b ? b : a; }
