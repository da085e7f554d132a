/* Which instruction sets were built and which of them run here. Compiled for the baseline, as all that calls cpuid. */
#define _GNU_SOURCE /* syscall */
#include "kernels.h"

typedef const fastrnn_kernels *const table[FASTRNN_PRECISIONS];

#if defined(__x86_64__) || defined(_M_X64)
#include "cpu.h"
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

extern table fastrnn_table_baseline, fastrnn_table_avx2, fastrnn_table_avx512, fastrnn_table_avx512_vnni,
    fastrnn_table_avx512_bf16, fastrnn_table_amx;

const char *const fastrnn_isa_names[] = {"baseline", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx", NULL};
static table *const tables[] = {
    &fastrnn_table_baseline,    &fastrnn_table_avx2,        &fastrnn_table_avx512,
    &fastrnn_table_avx512_vnni, &fastrnn_table_avx512_bf16, &fastrnn_table_amx};

/* The matrix unit's registers are large, so that Linux wants to be asked before a process uses them. */
static int may_use_tiles(void) {
#if defined(FASTRNN_EMULATED_TILES)
    return 1;
#elif defined(__linux__)
    enum { request_permission = 0x1023, tile_data = 18 };
    unsigned a, b, c, d;
    const unsigned bf16 = 1u << 22, tile = 1u << 24;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & bf16) && (d & tile) &&
           syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return 0;
#endif
}

int fastrnn_isa_runs(int isa) {
    switch (isa) {
    case 0:
        return 1;
    case 1:
        return fastrnn_cpu_runs(CPU_AVX2);
    case 2:
        return fastrnn_cpu_runs(CPU_AVX512F | CPU_AVX512DQ | CPU_AVX512BW | CPU_AVX512VL);
    case 3:
        return fastrnn_isa_runs(2) && fastrnn_cpu_has_vnni();
    case 4:
        return fastrnn_isa_runs(2) && fastrnn_cpu_has_bf16();
    case 5:
        return fastrnn_isa_runs(2) && may_use_tiles();
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

/* An instruction set that adds nothing to a precision has no table for it. Not all that are lower need run here: AMX may be
 * emulated, and a CPU may have BF16 without VNNI. */
int fastrnn_isa_of(int isa, int precision) {
    static signed char runs[sizeof(tables) / sizeof(*tables)]; /* 1 or -1 once it is known: asking takes microseconds */
    for (;; isa--) {
        if (!(*tables[isa])[precision]) continue;
        const signed char known = __atomic_load_n(&runs[isa], __ATOMIC_RELAXED);
        const signed char its = known ? known : fastrnn_isa_runs(isa) ? 1 : -1;
        __atomic_store_n(&runs[isa], its, __ATOMIC_RELAXED);
        if (its > 0) return isa;
    }
}

const fastrnn_kernels *fastrnn_kernel_table(int isa, int precision) {
    return (*tables[fastrnn_isa_of(isa, precision)])[precision];
}
