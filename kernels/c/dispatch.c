/* Which instruction sets were built and which of them run here. Compiled for the baseline: no other file calls cpuid. */
#include "kernels.h"

typedef const fastrnn_kernels *const table[FASTRNN_PRECISIONS];

#if defined(__x86_64__) || defined(_M_X64)
extern table fastrnn_table_baseline, fastrnn_table_avx2, fastrnn_table_avx512;

const char *const fastrnn_isa_names[] = {"baseline", "avx2", "avx512", NULL};
static table *const tables[] = {&fastrnn_table_baseline, &fastrnn_table_avx2, &fastrnn_table_avx512};

/* __builtin_cpu_supports asks xgetbv too: the operating system must save the wide registers. */
int fastrnn_isa_runs(int isa) {
    __builtin_cpu_init();
    switch (isa) {
    case 0:
        return 1;
    case 1:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case 2:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    default:
        return 0;
    }
}
#else
extern table fastrnn_table_neon;

const char *const fastrnn_isa_names[] = {"neon", NULL};
static table *const tables[] = {&fastrnn_table_neon};

int fastrnn_isa_runs(int isa) { return isa == 0; }
#endif

const fastrnn_kernels *fastrnn_kernel_table(int isa, int precision) { return (*tables[isa])[precision]; }
