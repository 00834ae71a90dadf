/* arena.c - see arena.h. Blocks double from 4 KiB to 1 MiB; larger requests get their own. */
#include "engine/base/arena.h"

#include "engine/base/mem.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MIN_BLOCK_BYTES = 4096, MAX_BLOCK_BYTES = 1 << 20, ALIGN = 16 };

struct scd_arena_block {
    struct scd_arena_block *next;
    size_t used, size;
    _Alignas(ALIGN) unsigned char bytes[];
};

void scd_arena_init(scd_arena *arena, size_t max_bytes)
{
    *arena = (scd_arena){.max_bytes = max_bytes};
}

void scd_arena_release(scd_arena *arena)
{
    for (struct scd_arena_block *b = arena->head, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    arena->head = NULL;
    arena->used_bytes = 0;
}

static struct scd_arena_block *grow(scd_arena *arena, size_t need)
{
    size_t size = arena->head ? arena->head->size * 2 : MIN_BLOCK_BYTES;
    if (size > MAX_BLOCK_BYTES)
        size = MAX_BLOCK_BYTES;
    if (size < need)
        size = need;
    struct scd_arena_block *b = scd_malloc(1, sizeof *b + size);
    if (!b)
        return NULL;
    b->used = 0;
    b->size = size;
    b->next = arena->head;
    arena->head = b;
    return b;
}

void *scd_arena_alloc(scd_arena *arena, size_t count, size_t size)
{
    size_t bytes;
    if (!scd_size_mul(count, size, &bytes) || bytes > SIZE_MAX - ALIGN - sizeof *arena->head)
        return NULL; /* no room to round up, or for the head of a block */
    bytes = (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (bytes > arena->max_bytes - arena->used_bytes)
        return NULL;
    struct scd_arena_block *b = arena->head;
    if (!b || b->size - b->used < bytes)
        b = grow(arena, bytes);
    if (!b)
        return NULL;
    void *at = b->bytes + b->used;
    b->used += bytes;
    arena->used_bytes += bytes;
    return at;
}

void *scd_arena_zalloc(scd_arena *arena, size_t count, size_t size)
{
    void *at = scd_arena_alloc(arena, count, size);
    if (at)
        memset(at, 0, count * size);
    return at;
}

char *scd_arena_strndup(scd_arena *arena, const char *text, size_t n)
{
    char *copy = scd_arena_alloc(arena, n + 1, 1);
    if (!copy)
        return NULL;
    memcpy(copy, text, n);
    copy[n] = '\0';
    return copy;
}
