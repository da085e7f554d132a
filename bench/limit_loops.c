/* The machine's limits are what these loops reach: fused multiply-adds that stay in registers, and reads of memory.
 *
 * Written once, compiled for every vector width in this one file; the widest that runs here is used, because a limit is
 * the machine's, whatever instruction set the kernels were told to use. The file is compiled with contraction, so that
 * a * b + c is one instruction where there is one. Results are returned so that nothing is optimised away.
 */
#include "limit_loops.h"

#if defined(__x86_64__)
#include "cpu.h"
#endif

/* More sums than latency times ports (4 * 2 on current machines), few enough for 16 registers. */
enum { SUMS = 12, READS = 8 };

#if defined(__x86_64__)
#define IN_REGISTER "+x"
#else
#define IN_REGISTER "+w"
#endif

#define MULTIPLY_ADD(isa, type, bytes, attribute)                                                                      \
    attribute static double multiply_add_##isa##_##type(ptrdiff_t rounds) {                                            \
        typedef type vector __attribute__((vector_size(bytes)));                                                       \
        vector sums[SUMS], a = (vector){0} + (type)0.5, b = (vector){0} + (type)1;                                     \
        for (int i = 0; i < SUMS; i++)                                                                                 \
            sums[i] = b * (type)i;                                                                                     \
        for (ptrdiff_t round = 0; round < rounds; round++) {                                                           \
            __asm__("" : IN_REGISTER(a), IN_REGISTER(b)); /* not known in advance: every round has to be computed */   \
            for (int i = 0; i < SUMS; i++)                                                                             \
                sums[i] = sums[i] * a + b;                                                                             \
        }                                                                                                              \
        for (int i = 1; i < SUMS; i++)                                                                                 \
            sums[0] += sums[i];                                                                                        \
        return (double)sums[0][0];                                                                                     \
    }

#define LOOPS(isa, bytes, attribute)                                                                                   \
    MULTIPLY_ADD(isa, float, bytes, attribute)                                                                         \
    MULTIPLY_ADD(isa, double, bytes, attribute)                                                                        \
    attribute static double read_##isa(const void *data, ptrdiff_t size) {                                             \
        typedef long long vector __attribute__((vector_size(bytes)));                                                  \
        vector sums[READS] = {{0}};                                                                                    \
        for (const vector *p = data, *end = p + size / bytes; p < end; p += READS)                                     \
            for (int i = 0; i < READS; i++)                                                                            \
                sums[i] += p[i];                                                                                       \
        for (int i = 1; i < READS; i++)                                                                                \
            sums[0] += sums[i];                                                                                        \
        return (double)sums[0][0];                                                                                     \
    }                                                                                                                  \
    static const fastrnn_loops loops_##isa = {bytes, SUMS, multiply_add_##isa##_float, multiply_add_##isa##_double,    \
                                              read_##isa};

LOOPS(baseline, 16, )
#if defined(__x86_64__)
LOOPS(avx2, 32, __attribute__((target("avx2,fma"))))
LOOPS(avx512, 64, __attribute__((target("avx512f,fma"))))
#endif

const fastrnn_loops *fastrnn_widest_loops(void) {
#if defined(__x86_64__)
    if (fastrnn_cpu_runs(CPU_AVX512F))
        return &loops_avx512;
    if (fastrnn_cpu_runs(CPU_AVX2))
        return &loops_avx2;
#endif
    return &loops_baseline;
}
