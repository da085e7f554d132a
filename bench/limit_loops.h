/* Loops that run at the machine's limits; see limit_loops.c. */
#ifndef FASTRNN_LIMIT_LOOPS_H
#define FASTRNN_LIMIT_LOOPS_H

#include <stddef.h>

enum { FASTRNN_LOOPS_ALIGNMENT = 64, FASTRNN_LOOPS_READ = 512 }; /* bytes: of the data; of a round of reading */

typedef struct {
    int vector_bytes;
    ptrdiff_t sums; /* vectors that one round multiplies and adds to */
    double (*multiply_add_float)(ptrdiff_t rounds);
    double (*multiply_add_double)(ptrdiff_t rounds);
    /* data is aligned, its size a multiple of FASTRNN_LOOPS_READ */
    double (*read)(const void *data, ptrdiff_t bytes);
} fastrnn_loops;

/* The loops of the widest vectors that this machine has. */
const fastrnn_loops *fastrnn_widest_loops(void);

#endif
