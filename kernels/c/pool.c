#define _GNU_SOURCE
#include "pool.h"

#include <stdatomic.h>
#include <stdint.h>

#include "system.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#define RELAX() _mm_pause()
/* Bits 15 and 6 of MXCSR: flush results, take operands, as zero. Shrinking gradients otherwise cost 50x. */
typedef unsigned control_word;
enum { FLUSH = 0x8040 };
static control_word get_control(void) { return _mm_getcsr(); }
static void set_control(control_word word) { _mm_setcsr(word); }
#else
#define RELAX() __asm__ volatile("yield")
typedef uint64_t control_word;
enum { FLUSH = 1 << 24 };
static control_word get_control(void) {
    control_word word;
    __asm__ volatile("mrs %0, fpcr" : "=r"(word));
    return word;
}
static void set_control(control_word word) { __asm__ volatile("msr fpcr, %0" : : "r"(word)); }
#endif

enum {
    SPINS = 2000,        /* about 50 us of pauses; waking a sleeping worker costs 40-240 us */
    SOON = 2000 * 1000, /* ns of a pause between calls that is worth waiting out, as in a loop of training */
    LOOKS = 50 * 1000 * 1000, /* ns from one look for a signal to the next */
};

static struct {
    _Atomic int held; /* by the acquiring caller */
    int workers;
    _Atomic int spins; /* turns of a wait before it yields */
    _Atomic int forks; /* between the process that loaded this and this one */
    fastrnn_parallel *parallel; /* of an OpenMP runtime, or NULL */
    int (*team_size)(void);
    _Atomic(fastrnn_parallel *) lent; /* the same for the next to acquire: it may be lent during a call */
    int (*_Atomic lent_size)(void);

    /* The current task. ticket is generation << 32 | parts << 16 | next part, so that a worker that wakes late can
     * neither take a part of a task that is over nor mistake the next task for it. */
    fastrnn_task *task;
    void *context;
    _Atomic int caller, caller_cpu; /* the thread that has the task done, and where it runs */
    _Atomic uint64_t ticket;
    _Atomic int unfinished;

    system_mutex sleeping;
    system_condition wake;
    _Atomic int sleepers;

    _Atomic int arrived;
    _Atomic unsigned barrier;
    _Atomic int leave; /* what the last barrier has found: whether the call is to stop */
} pool = {.spins = SPINS, .sleeping = SYSTEM_MUTEX, .wake = SYSTEM_CONDITION};

static _Thread_local int own_id; /* of a calling thread, for the system; 0 if not asked yet */

/* One turn of a wait: spin at first, then let others run, for there may be fewer CPUs than threads. Whether it did. */
static int wait_a_little(int *turns) {
    if (++*turns < atomic_load_explicit(&pool.spins, memory_order_relaxed)) {
        RELAX();
        return 0;
    }
    system_yield();
    return 1;
}

void fastrnn_watch_start(fastrnn_watch *watch, int (*look)(void)) {
    *watch = (fastrnn_watch){
        .look = look, .caller = &own_id, .control = get_control(), .forks = atomic_load(&pool.forks)};
}

int fastrnn_stopping(const fastrnn_watch *watch) { return atomic_load_explicit(&watch->stop, memory_order_relaxed); }

int fastrnn_stopped(fastrnn_watch *watch) {
    if (!watch->look || watch->caller != &own_id || fastrnn_stopping(watch)) return fastrnn_stopping(watch);
    const int64_t now = system_nanoseconds();
    if (watch->due == 0) watch->due = now + LOOKS;
    if (now < watch->due) return 0;
    const control_word of_task = get_control();
    set_control((control_word)watch->control); /* a signal's handler may compute */
    if (watch->look() || watch->forks != atomic_load(&pool.forks)) atomic_store(&watch->stop, 1);
    set_control(of_task);
    /* Where another thread keeps the interpreter busy, a look takes long. */
    const int64_t after = system_nanoseconds(), longer = 20 * (after - now);
    watch->due = after + LOOKS + (longer < LOOKS ? longer : LOOKS);
    return fastrnn_stopping(watch);
}

static void do_task(fastrnn_task *task, void *context, int part) {
    const control_word before = get_control();
    set_control(before | FLUSH);
    task(context, part);
    set_control(before);
}

static int next_part(uint64_t ticket) { return (int)(ticket & 0xffff); }
static int part_count(uint64_t ticket) { return (int)(ticket >> 16 & 0xffff); }

/* Take and do one part of the current task; 0 if none is left. */
static int do_part(void) {
    uint64_t ticket = atomic_load(&pool.ticket);
    do {
        if (next_part(ticket) >= part_count(ticket)) return 0;
    } while (!atomic_compare_exchange_weak(&pool.ticket, &ticket, ticket + 1));
    do_task(pool.task, pool.context, next_part(ticket));
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
    system_leave_cpu(atomic_load(&pool.caller_cpu), atomic_load(&pool.caller));
}

static void note_caller(void) {
    if (own_id == 0) own_id = system_thread_id();
    atomic_store(&pool.caller, own_id);
    atomic_store(&pool.caller_cpu, system_cpu());
}

/* A worker sleeps when it has waited for SPINS turns, but if the last pause was a short one it yields to others, and
 * looks, until this one is longer: a training step of (64, 32, 27, 50) with all around it takes 0.88 of the time. */
static void work(void) {
    int turns = 0, keen = 0;
    for (int64_t idle_since = system_nanoseconds();;) {
        if (has_part()) leave_callers_cpu();
        if (do_part()) {
            turns = 0;
            idle_since = system_nanoseconds();
        } else if (turns < atomic_load_explicit(&pool.spins, memory_order_relaxed) ||
                   (keen && system_nanoseconds() - idle_since < SOON)) {
            wait_a_little(&turns);
        } else {
            system_lock(&pool.sleeping);
            atomic_fetch_add(&pool.sleepers, 1); /* before the look: the caller looks for sleepers after its ticket */
            while (!has_part()) system_wait(&pool.wake, &pool.sleeping);
            atomic_fetch_sub(&pool.sleepers, 1);
            system_unlock(&pool.sleeping);
            keen = system_nanoseconds() - idle_since < SOON;
            leave_callers_cpu(); /* also when all parts are done by now: to spin there would keep the caller from its CPU */
            turns = 0;
        }
    }
}

static void start_afresh_in_child(void) {
    system_renew(&pool.sleeping, &pool.wake);
    pool.workers = 0;
    atomic_store(&pool.lent, NULL); /* an OpenMP runtime that had threads hangs in a child */
    atomic_store(&pool.held, 0);
    atomic_store(&pool.ticket, 0);
    atomic_store(&pool.unfinished, 0);
    atomic_store(&pool.sleepers, 0);
    atomic_store(&pool.arrived, 0);
    atomic_fetch_add(&pool.forks, 1);
    own_id = 0;
}

void fastrnn_pool_watch_forks(void) {
    static _Atomic int watched;
    if (!atomic_exchange(&watched, 1)) system_at_fork(NULL, NULL, start_afresh_in_child);
}

/* Threads that are more than the CPUs do not spin: they would wait for those that they keep from running. */
static void choose_spins(int threads) {
    const int cpus = system_cpu_count();
    atomic_store_explicit(&pool.spins, cpus && cpus < threads ? 0 : SPINS, memory_order_relaxed);
}

int fastrnn_pool_acquire(int wanted) {
    if (wanted <= 1 || atomic_exchange(&pool.held, 1)) return 1;
    if (wanted > FASTRNN_MOST_THREADS) wanted = FASTRNN_MOST_THREADS;
    pool.parallel = atomic_load(&pool.lent);
    pool.team_size = atomic_load(&pool.lent_size);
    choose_spins(wanted);
    for (int missing = wanted - 1 - pool.workers; missing > 0; missing--) pool.workers += system_start_thread(work);
    if (pool.workers == 0) {
        fastrnn_pool_release();
        return 1;
    }
    return pool.workers + 1 < wanted ? pool.workers + 1 : wanted;
}

void fastrnn_pool_release(void) { atomic_store(&pool.held, 0); }

void fastrnn_pool_borrow(fastrnn_parallel *parallel, int (*team_size)(void)) {
    if (atomic_load(&pool.forks)) return; /* the runtime's threads may be the parent's */
    atomic_store(&pool.lent_size, team_size);
    atomic_store(&pool.lent, parallel);
}

static void wait_for_all(fastrnn_watch *watch) {
    for (int turns = 0; atomic_load(&pool.unfinished) > 0;)
        if (wait_a_little(&turns)) fastrnn_stopped(watch);
}

typedef struct {
    int together; /* parts that are to run together, or 0 */
    fastrnn_watch *watch;
} team_work;

/* What each thread of an OpenMP team does: as many parts as there are, or if they are to run together one. */
static void work_in_team(void *context) {
    const team_work *its = context;
    if (pool.team_size() < its->together) return;
    while (do_part() && !its->together) {}
    if (its->watch->caller == &own_id) wait_for_all(its->watch); /* here: OpenMP's own wait looks for no signal */
}

void fastrnn_pool_run(fastrnn_task *task, void *context, int parts, int together, fastrnn_watch *watch) {
    if (fastrnn_stopping(watch)) return;
    if (parts == 1) { /* also without the pool */
        do_task(task, context, 0);
        return;
    }
    pool.task = task;
    pool.context = context;
    note_caller();
    atomic_store(&pool.unfinished, parts);
    const uint64_t generation = (atomic_load(&pool.ticket) >> 32) + 1;
    atomic_store(&pool.ticket, generation << 32 | (uint64_t)parts << 16);
    if (pool.parallel) {
        team_work its = {together ? parts : 0, watch};
        pool.parallel(work_in_team, &its, (unsigned)parts, 0);
    }
    if (has_part() && atomic_load(&pool.sleepers) > 0) {
        system_lock(&pool.sleeping);
        system_wake_all(&pool.wake);
        system_unlock(&pool.sleeping);
    }
    while (do_part() && !together) {}
    wait_for_all(watch);
}

int fastrnn_pool_barrier(int parts, fastrnn_watch *watch) {
    if (parts == 1) return fastrnn_stopping(watch);
    const unsigned before = atomic_load(&pool.barrier);
    if (atomic_fetch_add(&pool.arrived, 1) + 1 == parts) {
        const int leave = fastrnn_stopping(watch);
        atomic_store(&pool.arrived, 0);
        atomic_store(&pool.leave, leave);
        atomic_fetch_add(&pool.barrier, 1);
        return leave;
    }
    for (int turns = 0; atomic_load(&pool.barrier) == before;)
        if (wait_a_little(&turns)) {
            fastrnn_stopped(watch);
            if (watch->forks != atomic_load(&pool.forks)) return 1; /* the others are not in this process */
        }
    return atomic_load(&pool.leave);
}
