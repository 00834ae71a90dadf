/* mem.h - allocation whose sizes cannot overflow, and that tests can make fail.
 *
 * Every allocation of the project goes through these, so that a test can fail the N-th one
 * (scd_mem_fail_after) and see that the caller reports SCD_E_NOMEM and leaks nothing.
 *
 * Threads: any. Owns: nothing; free what you get with free(). */
#ifndef SCD_BASE_MEM_H
#define SCD_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>

/* *out = a * b, or false on overflow. */
bool scd_size_mul(size_t a, size_t b, size_t *out);

/* count * size bytes, NULL when that overflows or memory is out. Zero-filled for calloc. */
void *scd_malloc(size_t count, size_t size);
void *scd_calloc(size_t count, size_t size);
void *scd_realloc(void *old, size_t count, size_t size);
char *scd_strndup(const char *text, size_t n);
char *scd_strdup(const char *text);

/* 64-byte aligned, for vector loads; size is rounded up. Free with free(). */
void *scd_malloc_aligned(size_t count, size_t size);

/* Test hook: let the next n allocations succeed and fail the one after. Negative: never fail. */
void scd_mem_fail_after(long n);

#endif
