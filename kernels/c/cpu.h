/* Which vector instructions of x86-64 the CPU has and the operating system saves the registers of. Asked here by cpuid and
 * xgetbv: __builtin_cpu_supports needs a library of the compiler's that is not linked everywhere, as on Windows. */
#ifndef FASTRNN_CPU_H
#define FASTRNN_CPU_H

#include <cpuid.h>

/* Bits of cpuid's leaf 7, register b. */
#define CPU_AVX2 (1u << 5)
#define CPU_AVX512F (1u << 16)
#define CPU_AVX512DQ (1u << 17)
#define CPU_AVX512BW (1u << 30)
#define CPU_AVX512VL (1u << 31)

/* Whether FMA and all of these instructions run here. */
static inline int fastrnn_cpu_runs(unsigned features) {
    const unsigned fma = 1u << 12, xgetbv = 1u << 27; /* of leaf 1, register c */
    const unsigned registers = 0x6, wide_registers = 0xe6; /* of 16 and 32 bytes; masks and 64 bytes too */
    unsigned a, b, c, d, saved, upper;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & (fma | xgetbv)) != (fma | xgetbv)) return 0;
    __asm__ volatile("xgetbv" : "=a"(saved), "=d"(upper) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & features) != features) return 0;
#if defined(__APPLE__)
    const unsigned wanted = registers; /* it saves the wide ones from when a thread first uses them */
    (void)wide_registers;
#else
    const unsigned wanted = features & CPU_AVX512F ? wide_registers : registers;
#endif
    return (saved & wanted) == wanted;
}

/* What there may be besides AVX-512, whose registers it uses. */
static inline int fastrnn_cpu_has_vnni(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & 1u << 11);
}
static inline int fastrnn_cpu_has_bf16(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5);
}

#endif
