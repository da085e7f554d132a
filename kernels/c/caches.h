/* What caches a core has, as the CPU or macOS say. */
#ifndef FASTRNN_CACHES_H
#define FASTRNN_CACHES_H

#include <stddef.h>

/* Bytes of the data cache of level 1, 2 or 3, and in `sharing` (OUT) how many logical CPUs have it in common; 0 and 1 where
 * there is none, and of all levels where nobody says. */
size_t fastrnn_cache(int level, int *sharing);

#endif
