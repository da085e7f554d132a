/* A small pool of threads for one call at a time.
 *
 * A caller acquires the pool, runs any number of tasks on it, and releases it. While one Python thread holds it, others
 * get no helpers and run alone; results do not depend on it. Workers wait briefly for the next task, then sleep. The pool
 * survives fork: the child starts with no workers. Denormals are flushed to zero inside tasks, in every thread.
 *
 * A call watches for what is to stop it, a signal: its thread looks about every 50 ms, wherever it is, in a task or
 * waiting for those of others, and leaves word in `stop`. Tasks ask now and then whether they are to stop, and then return
 * with their work half done; those that run together leave at a barrier, which tells all the same. */
#ifndef FASTRNN_POOL_H
#define FASTRNN_POOL_H

#include <stdint.h>

enum { FASTRNN_MOST_THREADS = 256 };

typedef struct fastrnn_watch {
    _Atomic int stop;
    int (*look)(void); /* whether to stop, asked in the calling thread; NULL if nothing can stop the call */
    const void *caller; /* the rest is the calling thread's */
    int64_t due;
    uint64_t control; /* how it treats denormals */
    int forks;
} fastrnn_watch;

/* Begin a call. */
void fastrnn_watch_start(fastrnn_watch *watch, int (*look)(void));
/* Whether the call is to stop. It takes some 30 ns in the calling thread, which looks if it is time to. */
int fastrnn_stopped(fastrnn_watch *watch);
/* The same without a look. */
int fastrnn_stopping(const fastrnn_watch *watch);

typedef void fastrnn_task(void *context, int part);

/* To be called before anything else, when the library is loaded. */
void fastrnn_pool_watch_forks(void);

/* Take the pool for up to `wanted` threads, the caller's included. Returns how many there are, at least 1. */
int fastrnn_pool_acquire(int wanted);

/* Run task(context, part) for every part < parts and return when all are done; if the call is to stop, none. Parts that
 * no worker has started are done by the caller, unless `together`: then each of them (no more than were acquired) has a
 * thread of its own, so that fastrnn_pool_barrier(parts, watch) may be called inside. */
void fastrnn_pool_run(fastrnn_task *task, void *context, int parts, int together, fastrnn_watch *watch);

/* Wait inside a task until all its parts have come here. Returns whether they are to stop, the same to all. */
int fastrnn_pool_barrier(int parts, fastrnn_watch *watch);

void fastrnn_pool_release(void);

/* From here on run tasks on the threads of an OpenMP runtime that the process has already, given its GOMP_parallel and
 * omp_get_num_threads: its threads spin after their own work, and would share the CPUs with workers. Where it gives fewer
 * threads than parts, which have to run together, there are workers still, and so in a child after a fork, which borrows
 * nothing: the runtime's threads are not in it. */
typedef void fastrnn_parallel(void (*function)(void *), void *data, unsigned threads, unsigned flags);
void fastrnn_pool_borrow(fastrnn_parallel *parallel, int (*team_size)(void));

#endif
