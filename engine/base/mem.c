/* mem.c - see mem.h. */
#include "engine/base/mem.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static atomic_long fail_after = -1;

void scd_mem_fail_after(long n)
{
    atomic_store(&fail_after, n);
}

/* True when the test hook says that this allocation fails. */
static bool must_fail(void)
{
    if (atomic_load_explicit(&fail_after, memory_order_relaxed) < 0)
        return false;
    long left = atomic_fetch_sub(&fail_after, 1);
    return left <= 0; /* having reached zero it goes negative: only one allocation fails */
}

bool scd_size_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

void *scd_malloc(size_t count, size_t size)
{
    size_t bytes;
    if (!scd_size_mul(count, size, &bytes) || must_fail())
        return NULL;
    return malloc(bytes ? bytes : 1);
}

void *scd_calloc(size_t count, size_t size)
{
    size_t bytes;
    if (!scd_size_mul(count, size, &bytes) || must_fail())
        return NULL;
    return calloc(1, bytes ? bytes : 1);
}

void *scd_realloc(void *old, size_t count, size_t size)
{
    size_t bytes;
    if (!scd_size_mul(count, size, &bytes) || must_fail())
        return NULL;
    return realloc(old, bytes ? bytes : 1);
}

char *scd_strndup(const char *text, size_t n)
{
    char *copy = scd_malloc(n + 1, 1);
    if (!copy)
        return NULL;
    memcpy(copy, text, n);
    copy[n] = '\0';
    return copy;
}

char *scd_strdup(const char *text)
{
    return scd_strndup(text, strlen(text));
}

void *scd_malloc_aligned(size_t count, size_t size)
{
    size_t bytes;
    if (!scd_size_mul(count, size, &bytes) || bytes > SIZE_MAX - 64 || must_fail())
        return NULL;
    bytes = (bytes + 63) & ~(size_t)63;
    return aligned_alloc(64, bytes ? bytes : 64);
}
