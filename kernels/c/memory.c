#define _GNU_SOURCE
#include "memory.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "system.h"

enum { HUGE_PAGE = 2 * 1024 * 1024, SPARES = 16 };

/* A block is a line that holds its size, and `size` bytes after it; both lie in what the C library gave. */
typedef struct {
    size_t size;
    void *whole;
} header;

static struct {
    system_mutex held; /* tried only: who does not get it does without spares */
    header *spares[SPARES];
    int oldest;
    size_t kept;
} memory = {.held = SYSTEM_MUTEX};

/* A fork waits for whoever is in here: else the child would do without spares for ever. */
static void before_fork(void) { system_lock(&memory.held); }
static void after_fork(void) { system_unlock(&memory.held); }

void fastrnn_memory_watch_forks(void) {
    static _Atomic int watched;
    if (!atomic_exchange(&watched, 1)) system_at_fork(before_fork, after_fork, after_fork);
}

static header *header_of(void *block) { return (header *)((char *)block - FASTRNN_LINE); }
static void *block_of(header *h) { return (char *)h + FASTRNN_LINE; }

/* A spare of `size` to twice as many bytes, or NULL. */
static header *take_spare(size_t size) {
    header *found = NULL;
    if (size < FASTRNN_RECYCLED || !system_try_lock(&memory.held)) return NULL;
    for (int i = 0; i < SPARES && !found; i++) {
        header *spare = memory.spares[i];
        if (spare && size <= spare->size && spare->size / 2 <= size) {
            found = spare;
            memory.spares[i] = NULL;
            memory.kept -= spare->size;
        }
    }
    system_unlock(&memory.held);
    return found;
}

/* Keep a block in place of the oldest spare, and of more if that is too much; 0 if it cannot be kept. */
static int keep_spare(header *h) {
    if (h->size < FASTRNN_RECYCLED || h->size > FASTRNN_KEPT || !system_try_lock(&memory.held)) return 0;
    header *dropped[SPARES];
    int drops = 0;
    for (int i = memory.oldest; drops == 0 || memory.kept + h->size > FASTRNN_KEPT; i = (i + 1) % SPARES) {
        dropped[drops++] = memory.spares[i];
        if (memory.spares[i]) memory.kept -= memory.spares[i]->size;
        memory.spares[i] = NULL;
    }
    memory.spares[memory.oldest] = h;
    memory.oldest = (memory.oldest + 1) % SPARES;
    memory.kept += h->size;
    system_unlock(&memory.held);
    while (drops) system_give_aligned(dropped[--drops]); /* spares are large: each is what the C library gave */
    return 1;
}

void *fastrnn_take(size_t size) {
    header *h = take_spare(size);
    if (h) return block_of(h);
    if (size < FASTRNN_RECYCLED) { /* aligned here: aligned_alloc takes ten times as long as malloc */
        void *whole = malloc(size + 2 * FASTRNN_LINE);
        if (!whole) return NULL;
        h = (header *)(((uintptr_t)whole + FASTRNN_LINE - 1) / FASTRNN_LINE * FASTRNN_LINE);
        *h = (header){size, whole};
        return block_of(h);
    }
    const size_t alignment = size >= 2 * HUGE_PAGE ? HUGE_PAGE : FASTRNN_LINE;
    if (size > SIZE_MAX - FASTRNN_LINE - alignment) return NULL;
    const size_t whole = (size + FASTRNN_LINE + alignment - 1) / alignment * alignment;
    h = system_take_aligned(alignment, whole);
    if (!h) return NULL;
    if (alignment == HUGE_PAGE) system_ask_for_huge_pages(h, whole);
    *h = (header){whole - FASTRNN_LINE, h};
    return block_of(h);
}

void *fastrnn_retake(void *block, size_t size) {
    if (!block) return fastrnn_take(size);
    const size_t before = header_of(block)->size;
    if (size <= before) return block;
    void *larger = fastrnn_take(size);
    if (larger) {
        memcpy(larger, block, before);
        fastrnn_give(block);
    }
    return larger;
}

void fastrnn_give(void *block) {
    if (!block || keep_spare(header_of(block))) return;
    if (header_of(block)->size < FASTRNN_RECYCLED)
        free(header_of(block)->whole);
    else
        system_give_aligned(header_of(block)->whole);
}
