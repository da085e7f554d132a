/* What caches a core has: x86-64 CPUs say it themselves, those of Apple let macOS say it. Linux on others says it in files, which
 * fastrnn/machine.py reads. */
#include "caches.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>

size_t fastrnn_cache(int level, int *sharing) {
    static const unsigned leaves[] = {4, 0x8000001d}; /* Intel's and AMD's: the other one is empty */
    enum { instructions = 2, most = 16 };
    unsigned a, b, c, d;
    *sharing = 1;
    for (int leaf = 0; leaf < 2; leaf++)
        for (unsigned i = 0; i < most && __get_cpuid_count(leaves[leaf], i, &a, &b, &c, &d) && (a & 31); i++) {
            if ((a & 31) == instructions || (int)(a >> 5 & 7) != level) continue;
            *sharing = (int)(a >> 14 & 0xfff) + 1;
            return ((size_t)c + 1) * ((b >> 22) + 1) * ((b >> 12 & 0x3ff) + 1) * ((b & 0xfff) + 1); /* sets, ways, lines */
        }
    return 0;
}

#elif defined(__APPLE__)
#include <stdint.h>
#include <sys/sysctl.h>

/* A number that macOS knows of the fast cores, or 0. */
static size_t known(const char *name) {
    int64_t value = 0; /* of 4 or 8 bytes */
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value > 0 ? (size_t)value : 0;
}

size_t fastrnn_cache(int level, int *sharing) {
    static const char *const names[] = {
        "hw.perflevel0.l1dcachesize", "hw.perflevel0.l2cachesize", "hw.perflevel0.l3cachesize"};
    const size_t cpus = level == 2 ? known("hw.perflevel0.cpusperl2") : 1;
    *sharing = cpus ? (int)cpus : 1;
    return known(names[level - 1]);
}

#else

size_t fastrnn_cache(int level, int *sharing) {
    (void)level;
    *sharing = 1;
    return 0;
}

#endif
