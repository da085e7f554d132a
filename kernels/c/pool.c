#define _GNU_SOURCE
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__x86_64__)
#include <xmmintrin.h>
#define RELAX() _mm_pause()
/* Bits 15 and 6 of MXCSR: flush results, take operands, as zero. Shrinking gradients otherwise cost 50x. */
typedef unsigned control_word;
static control_word flush_denormals(void) {
    const control_word before = _mm_getcsr();
    _mm_setcsr(before | 0x8040);
    return before;
}
static void restore_denormals(control_word before) { _mm_setcsr(before); }
#else
#define RELAX() __asm__ volatile("yield")
typedef uint64_t control_word;
static control_word flush_denormals(void) {
    control_word before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | (UINT64_C(1) << 24)));
    return before;
}
static void restore_denormals(control_word before) { __asm__ volatile("msr fpcr, %0" : : "r"(before)); }
#endif

enum {
    MAX_WORKERS = 255,
    SPINS = 2000,        /* about 50 us of pauses; waking a sleeping worker costs 40-240 us */
    SOON = 2000 * 1000, /* ns of a pause between calls that is worth waiting out, as in a loop of training */
};

static struct {
    pthread_mutex_t held; /* by the acquiring caller */
    int workers;
    fastrnn_parallel *parallel; /* of an OpenMP runtime, or NULL */
    int (*team_size)(void);

    /* The current task. ticket is generation << 32 | parts << 16 | next part, so that a worker that wakes late can
     * neither take a part of a task that is over nor mistake the next task for it. */
    fastrnn_task *task;
    void *context;
    _Atomic int caller, caller_cpu; /* the thread that has the task done, and where it runs */
    _Atomic uint64_t ticket;
    _Atomic int unfinished;

    pthread_mutex_t sleeping;
    pthread_cond_t wake;
    _Atomic int sleepers;

    _Atomic int arrived;
    _Atomic unsigned barrier;
} pool = {.held = PTHREAD_MUTEX_INITIALIZER, .sleeping = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static _Thread_local int own_id; /* of a calling thread, for the system; 0 if not asked yet */

/* One turn of a wait: spin at first, then let others run, for there may be fewer CPUs than threads. */
static void wait_a_little(int *turns) {
    if (++*turns < SPINS)
        RELAX();
    else
        sched_yield();
}

static int next_part(uint64_t ticket) { return (int)(ticket & 0xffff); }
static int part_count(uint64_t ticket) { return (int)(ticket >> 16 & 0xffff); }

/* Take and do one part of the current task; 0 if none is left. */
static int do_part(void) {
    uint64_t ticket = atomic_load(&pool.ticket);
    do {
        if (next_part(ticket) >= part_count(ticket)) return 0;
    } while (!atomic_compare_exchange_weak(&pool.ticket, &ticket, ticket + 1));
    const control_word before = flush_denormals();
    pool.task(pool.context, next_part(ticket));
    restore_denormals(before);
    atomic_fetch_sub(&pool.unfinished, 1);
    return 1;
}

static int has_part(void) {
    const uint64_t ticket = atomic_load(&pool.ticket);
    return next_part(ticket) < part_count(ticket);
}

/* Leave the caller's CPU to the caller. Where another library's threads spin after their work, the system wakes a worker
 * there and may leave it there for tens of milliseconds although other CPUs have become idle: 1.6 times the time of a
 * training step of (50, 64, 32, 32) on two threads. */
static void leave_callers_cpu(void) {
#if defined(__linux__)
    const int cpu = atomic_load(&pool.caller_cpu);
    cpu_set_t cpus;
    if (sched_getcpu() != cpu || sched_getaffinity(atomic_load(&pool.caller), sizeof cpus, &cpus) != 0) return;
    CPU_CLR(cpu, &cpus);
    if (CPU_COUNT(&cpus) > 0) sched_setaffinity(0, sizeof cpus, &cpus);
#endif
}

static void note_caller(void) {
#if defined(__linux__)
    if (own_id == 0) own_id = (int)syscall(SYS_gettid);
    atomic_store(&pool.caller, own_id);
    atomic_store(&pool.caller_cpu, sched_getcpu());
#endif
}

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* A worker sleeps when it has waited for SPINS turns, but if the last pause was a short one it yields to others, and
 * looks, until this one is longer: a training step of (64, 32, 27, 50) with all around it takes 0.88 of the time. */
static void *work(void *unused) {
    (void)unused;
    int turns = 0, keen = 0;
    for (int64_t idle_since = nanoseconds();;) {
        if (has_part()) leave_callers_cpu();
        if (do_part()) {
            turns = 0;
            idle_since = nanoseconds();
        } else if (turns < SPINS || (keen && nanoseconds() - idle_since < SOON)) {
            wait_a_little(&turns);
        } else {
            pthread_mutex_lock(&pool.sleeping);
            atomic_fetch_add(&pool.sleepers, 1); /* before the look: the caller looks for sleepers after its ticket */
            while (!has_part()) pthread_cond_wait(&pool.wake, &pool.sleeping);
            atomic_fetch_sub(&pool.sleepers, 1);
            pthread_mutex_unlock(&pool.sleeping);
            keen = nanoseconds() - idle_since < SOON;
            leave_callers_cpu(); /* also when all parts are done by now: to spin there would keep the caller from its CPU */
            turns = 0;
        }
    }
    return NULL;
}

static void start_afresh_in_child(void) {
    pthread_mutex_init(&pool.held, NULL);
    pthread_mutex_init(&pool.sleeping, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pool.workers = 0;
    pool.parallel = NULL; /* an OpenMP runtime that had threads hangs in a child */
    atomic_store(&pool.ticket, 0);
    atomic_store(&pool.unfinished, 0);
    atomic_store(&pool.sleepers, 0);
    atomic_store(&pool.arrived, 0);
    own_id = 0;
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, start_afresh_in_child); }

static void start_worker(void) {
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before); /* signals belong to the interpreter's threads */
    if (pthread_create(&thread, NULL, work, NULL) == 0) {
        pthread_detach(thread);
        pool.workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int fastrnn_pool_acquire(int wanted) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    if (wanted <= 1 || pthread_mutex_trylock(&pool.held) != 0) return 1;
    if (wanted > MAX_WORKERS + 1) wanted = MAX_WORKERS + 1;
    for (int missing = wanted - 1 - pool.workers; missing > 0; missing--) start_worker();
    if (pool.workers == 0) {
        pthread_mutex_unlock(&pool.held);
        return 1;
    }
    return pool.workers + 1 < wanted ? pool.workers + 1 : wanted;
}

void fastrnn_pool_release(void) { pthread_mutex_unlock(&pool.held); }

void fastrnn_pool_borrow(fastrnn_parallel *parallel, int (*team_size)(void)) {
    pthread_mutex_lock(&pool.held);
    pool.parallel = parallel;
    pool.team_size = team_size;
    pthread_mutex_unlock(&pool.held);
}

/* What each thread of an OpenMP team does: as many parts as there are, or if they are to run together one. */
static void work_in_team(void *parts_together) {
    const int parts = *(const int *)parts_together;
    if (pool.team_size() < parts) return;
    while (do_part() && !parts) {}
}

void fastrnn_pool_run(fastrnn_task *task, void *context, int parts, int together) {
    if (parts == 1) { /* also without the pool */
        const control_word before = flush_denormals();
        task(context, 0);
        restore_denormals(before);
        return;
    }
    pool.task = task;
    pool.context = context;
    note_caller();
    atomic_store(&pool.unfinished, parts);
    const uint64_t generation = (atomic_load(&pool.ticket) >> 32) + 1;
    atomic_store(&pool.ticket, generation << 32 | (uint64_t)parts << 16);
    if (pool.parallel) {
        int parts_together = together ? parts : 0;
        pool.parallel(work_in_team, &parts_together, (unsigned)parts, 0);
    }
    if (has_part() && atomic_load(&pool.sleepers) > 0) {
        pthread_mutex_lock(&pool.sleeping);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.sleeping);
    }
    while (do_part() && !together) {}
    for (int turns = 0; atomic_load(&pool.unfinished) > 0;) wait_a_little(&turns);
}

void fastrnn_pool_barrier(int parts) {
    if (parts == 1) return;
    const unsigned before = atomic_load(&pool.barrier);
    if (atomic_fetch_add(&pool.arrived, 1) + 1 == parts) {
        atomic_store(&pool.arrived, 0);
        atomic_fetch_add(&pool.barrier, 1);
    } else {
        for (int turns = 0; atomic_load(&pool.barrier) == before;) wait_a_little(&turns);
    }
}
