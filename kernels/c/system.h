/* What the pool and the memory want from the operating system, once for POSIX and once for Windows.
 *
 * Windows has no fork and no signals that arrive in a thread. Only Linux says on which CPU a thread runs and moves it at
 * once: elsewhere system_cpu_count is 0, for "unknown", and system_leave_cpu does nothing. */
#ifndef FASTRNN_SYSTEM_H
#define FASTRNN_SYSTEM_H

#include <stdint.h>
#include <stdlib.h>

typedef void system_function(void);

/* Bytes of a thread's stack. Written cells with means take up to 1 MB of it; musl would give 128 KB. */
enum { SYSTEM_STACK = 4 << 20 };

#if defined(_WIN32)

#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>

#include <malloc.h>
#include <process.h>

typedef SRWLOCK system_mutex;
typedef CONDITION_VARIABLE system_condition;
#define SYSTEM_MUTEX SRWLOCK_INIT
#define SYSTEM_CONDITION CONDITION_VARIABLE_INIT

static inline void system_lock(system_mutex *mutex) { AcquireSRWLockExclusive(mutex); }
static inline int system_try_lock(system_mutex *mutex) { return TryAcquireSRWLockExclusive(mutex); }
static inline void system_unlock(system_mutex *mutex) { ReleaseSRWLockExclusive(mutex); }
static inline void system_wait(system_condition *condition, system_mutex *mutex) {
    SleepConditionVariableSRW(condition, mutex, INFINITE, 0);
}
static inline void system_wake_all(system_condition *condition) { WakeAllConditionVariable(condition); }

static inline unsigned __stdcall system_in_thread(void *function) {
    ((system_function *)function)();
    return 0;
}
static inline int system_start_thread(system_function *function) {
    const uintptr_t thread = _beginthreadex(
        NULL, SYSTEM_STACK, system_in_thread, (void *)function, STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    return thread && CloseHandle((HANDLE)thread);
}

static inline void system_yield(void) { SwitchToThread(); }
static inline int64_t system_nanoseconds(void) {
    LARGE_INTEGER now, rate; /* of ticks, some 10 million a second: as nanoseconds they would overflow in 15 minutes */
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&rate);
    return now.QuadPart / rate.QuadPart * 1000000000 + now.QuadPart % rate.QuadPart * 1000000000 / rate.QuadPart;
}

static inline void system_at_fork(system_function *before, system_function *in_parent, system_function *in_child) {
    (void)before, (void)in_parent, (void)in_child;
}
static inline void system_renew(system_mutex *mutex, system_condition *condition) { (void)mutex, (void)condition; }

static inline void *system_take_aligned(size_t alignment, size_t size) { return _aligned_malloc(size, alignment); }
static inline void system_give_aligned(void *block) { _aligned_free(block); }

#else

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

typedef pthread_mutex_t system_mutex;
typedef pthread_cond_t system_condition;
#define SYSTEM_MUTEX PTHREAD_MUTEX_INITIALIZER
#define SYSTEM_CONDITION PTHREAD_COND_INITIALIZER

static inline void system_lock(system_mutex *mutex) { pthread_mutex_lock(mutex); }
static inline int system_try_lock(system_mutex *mutex) { return pthread_mutex_trylock(mutex) == 0; }
static inline void system_unlock(system_mutex *mutex) { pthread_mutex_unlock(mutex); }
static inline void system_wait(system_condition *condition, system_mutex *mutex) { pthread_cond_wait(condition, mutex); }
static inline void system_wake_all(system_condition *condition) { pthread_cond_broadcast(condition); }

static inline void *system_in_thread(void *function) {
    ((system_function *)function)();
    return NULL;
}
/* Start a thread that nobody waits for. Returns whether there is one. */
static inline int system_start_thread(system_function *function) {
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all, before;
    if (pthread_attr_init(&attributes)) return 0;
    pthread_attr_setstacksize(&attributes, SYSTEM_STACK);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before); /* signals belong to the interpreter's threads */
    const int started = pthread_create(&thread, &attributes, system_in_thread, (void *)function) == 0;
    pthread_attr_destroy(&attributes);
    if (started) pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

static inline void system_yield(void) { sched_yield(); }
static inline int64_t system_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline void system_at_fork(system_function *before, system_function *in_parent, system_function *in_child) {
    pthread_atfork(before, in_parent, in_child);
}
/* For a child, where a thread that is not there may hold them. */
static inline void system_renew(system_mutex *mutex, system_condition *condition) {
    pthread_mutex_init(mutex, NULL);
    pthread_cond_init(condition, NULL);
}

static inline void *system_take_aligned(size_t alignment, size_t size) { return aligned_alloc(alignment, size); }
static inline void system_give_aligned(void *block) { free(block); }

#endif

#if defined(__linux__)

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static inline int system_thread_id(void) { return (int)syscall(SYS_gettid); }
static inline int system_cpu(void) { return sched_getcpu(); }
/* How many CPUs the calling thread may run on. */
static inline int system_cpu_count(void) {
    cpu_set_t cpus;
    return sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 0;
}
/* If the calling thread is on `cpu`, have it run on others that thread `of` may use, where there are any. */
static inline void system_leave_cpu(int cpu, int of) {
    cpu_set_t cpus;
    if (sched_getcpu() != cpu || sched_getaffinity(of, sizeof cpus, &cpus) != 0) return;
    CPU_CLR(cpu, &cpus);
    if (CPU_COUNT(&cpus) > 0) sched_setaffinity(0, sizeof cpus, &cpus);
}
static inline void system_ask_for_huge_pages(void *block, size_t size) { madvise(block, size, MADV_HUGEPAGE); }

#else

static inline int system_thread_id(void) { return 1; }
static inline int system_cpu(void) { return 0; }
static inline int system_cpu_count(void) { return 0; }
static inline void system_leave_cpu(int cpu, int of) { (void)cpu, (void)of; }
static inline void system_ask_for_huge_pages(void *block, size_t size) { (void)block, (void)size; }

#endif

#endif
