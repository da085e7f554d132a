/* Memory of the kernels' buffers and results: what is given back serves the next call of about the same size.
 *
 * Fresh memory comes as pages that the system has to zero one by one, and memory given back to it has to vanish from the
 * address translation of every CPU that ran a worker. At a training step of (50, 64, 32, 32) on two threads that was
 * a third of the time.
 */
#ifndef FASTRNN_MEMORY_H
#define FASTRNN_MEMORY_H

#include <stddef.h>

enum { FASTRNN_LINE = 64 };                    /* every block begins at a cache line */
enum { FASTRNN_RECYCLED = 64 * 1024 };         /* bytes from which a block is kept; the C library keeps smaller ones */
enum { FASTRNN_KEPT = 64 * 1024 * 1024 };      /* bytes that are kept at the most, all blocks together */

/* To be called before anything else, when the library is loaded. */
void fastrnn_memory_watch_forks(void);

/* Uninitialised memory, or NULL. Any thread may call any of these. */
void *fastrnn_take(size_t size);
/* At least `size` bytes that begin with what `block` held, which is given back; NULL, and `block` as it was, if there is
 * no memory. */
void *fastrnn_retake(void *block, size_t size);
void fastrnn_give(void *block);

#endif
