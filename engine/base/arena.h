/* arena.h - memory of one request: many small allocations, one release.
 *
 * Threads: one at a time; a request's arena moves with the request.
 * Owns:    its blocks, and everything handed out until scd_arena_release. */
#ifndef SCD_BASE_ARENA_H
#define SCD_BASE_ARENA_H

#include <stddef.h>

typedef struct scd_arena {
    struct scd_arena_block *head;
    size_t used_bytes; /* handed out so far, padding included */
    size_t max_bytes;  /* an arena has its maximum at birth */
} scd_arena;

void scd_arena_init(scd_arena *arena, size_t max_bytes);
void scd_arena_release(scd_arena *arena);

/* count * size bytes, 16-byte aligned, not cleared; NULL past the maximum or out of memory. */
void *scd_arena_alloc(scd_arena *arena, size_t count, size_t size);
void *scd_arena_zalloc(scd_arena *arena, size_t count, size_t size);

/* A NUL-terminated copy of n bytes. */
char *scd_arena_strndup(scd_arena *arena, const char *text, size_t n);

#endif
