/* slab.c - see slab.h. */
#include "engine/cpu/slab.h"

#include "engine/base/mem.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#define SLAB_BYTES ((size_t)64 << 20) /* address space; pages appear when touched */
#define HUGE_BYTES ((size_t)2 << 20)

struct scd_slab {
    struct scd_slab *next;
    char *memory;
    size_t bytes, used, live; /* live: pieces not given back */
};

void scd_huge_pages(void *memory, size_t bytes)
{
    uintptr_t first = ((uintptr_t)memory + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
    uintptr_t end = ((uintptr_t)memory + bytes) / HUGE_BYTES * HUGE_BYTES;
    if (first < end)
        (void)madvise((char *)memory + (first - (uintptr_t)memory), end - first, MADV_HUGEPAGE);
}

static scd_slab *slab_new(size_t bytes)
{
    scd_slab *slab = scd_calloc(1, sizeof *slab);
    if (!slab)
        return NULL;
    slab->bytes = bytes < SLAB_BYTES ? SLAB_BYTES : bytes;
    slab->memory = scd_malloc_aligned(slab->bytes, 1);
    if (!slab->memory) {
        free(slab);
        return NULL;
    }
    scd_huge_pages(slab->memory, slab->bytes);
    return slab;
}

void *scd_slab_take(scd_slab **list, size_t bytes, scd_slab **from)
{
    bytes = (bytes + 63) & ~(size_t)63;
    scd_slab *slab = *list;
    if (!slab || slab->bytes - slab->used < bytes) {
        slab = slab_new(bytes);
        if (!slab)
            return NULL;
        slab->next = *list;
        *list = slab;
    }
    void *piece = slab->memory + slab->used;
    slab->used += bytes;
    slab->live++;
    *from = slab;
    return piece;
}

void scd_slab_give(scd_slab **list, scd_slab *from)
{
    if (!from || --from->live)
        return;
    while (*list != from)
        list = &(*list)->next;
    *list = from->next;
    free(from->memory);
    free(from);
}
