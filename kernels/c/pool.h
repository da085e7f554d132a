/* A small pool of threads for one call at a time.
 *
 * A caller acquires the pool, runs any number of tasks on it, and releases it. While one Python thread holds it, others
 * get no helpers and run alone; results do not depend on it. Workers wait briefly for the next task, then sleep. The pool
 * survives fork: the child starts with no workers. Denormals are flushed to zero inside tasks, in every thread. */
#ifndef FASTRNN_POOL_H
#define FASTRNN_POOL_H

typedef void fastrnn_task(void *context, int part);

/* Take the pool for up to `wanted` threads, the caller's included. Returns how many there are, at least 1. */
int fastrnn_pool_acquire(int wanted);

/* Run task(context, part) for every part < parts and return when all are done. Parts that no worker has started are done
 * by the caller, unless `together`: then each of them (no more than were acquired) has a thread of its own, so that
 * fastrnn_pool_barrier(parts) may be called inside. */
void fastrnn_pool_run(fastrnn_task *task, void *context, int parts, int together);

/* Wait inside a task until all its parts have come here. */
void fastrnn_pool_barrier(int parts);

void fastrnn_pool_release(void);

/* From here on run tasks on the threads of an OpenMP runtime that the process has already, given its GOMP_parallel and
 * omp_get_num_threads: its threads spin after their own work, and would share the CPUs with workers. Where it gives fewer
 * threads than parts, which have to run together, there are workers still, and so in a child after a fork. */
typedef void fastrnn_parallel(void (*function)(void *), void *data, unsigned threads, unsigned flags);
void fastrnn_pool_borrow(fastrnn_parallel *parallel, int (*team_size)(void));

#endif
