/* Which rows belong to a step. Steps are counted in the order in which forward takes them; the rows of x, y and Z lie in
 * the order of time. Of sequences that differ in length, the longest first, those that a step has are the first of the
 * batch, so that row n of a step follows row n of the step before, or the initial state. */
#ifndef FASTRNN_STEPS_H
#define FASTRNN_STEPS_H

#include "kernels.h"

/* The row of n = 0. */
static inline ptrdiff_t fastrnn_step_row(const fastrnn_layer *l, ptrdiff_t s) {
    const ptrdiff_t t = l->reverse ? l->steps - 1 - s : s;
    return l->offsets ? l->offsets[t] : t * l->batch;
}

/* How many rows step s has: none before the first and after the last step. */
static inline ptrdiff_t fastrnn_step_count(const fastrnn_layer *l, ptrdiff_t s) {
    if (s < 0 || s >= l->steps) return 0;
    if (!l->offsets) return l->batch;
    const ptrdiff_t t = l->reverse ? l->steps - 1 - s : s;
    return l->offsets[t + 1] - l->offsets[t];
}

/* How many rows of step s follow a row of the step before; the others begin with the initial state. */
static inline ptrdiff_t fastrnn_carried(const fastrnn_layer *l, ptrdiff_t s) {
    const ptrdiff_t here = fastrnn_step_count(l, s), before = fastrnn_step_count(l, s - 1);
    return here < before ? here : before;
}

#endif
