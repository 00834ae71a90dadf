/* pool.h - the compute threads of one CPU device.
 *
 * A body runs once on every thread and takes its share from cursors, so that a slow core never
 * holds the others up; results must not depend on who takes what. Between bodies workers spin for
 * some microseconds and then sleep: a layer has three barriers, a daemon has idle minutes.
 *
 * Threads: one owner calls scd_pool_run and computes along; the pool owns the others. */
#ifndef SCD_CPU_POOL_H
#define SCD_CPU_POOL_H

#include "engine/base/error.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct scd_pool scd_pool;

/* `threads` counts the owner. give_way: workers run at nice 10, as the owner of a daemon does; else
 * at the priority of who calls this. SCD_E_NOMEM. */
scd_code scd_pool_new(int threads, bool give_way, scd_pool **out, scd_error *err);
void scd_pool_free(scd_pool *pool); /* NULL is fine */
int scd_pool_threads(const scd_pool *pool);

/* body(arg, thread) once for every thread 0 .. threads - 1; returns when all have returned. */
typedef void scd_pool_body(void *arg, int thread);
void scd_pool_run(scd_pool *pool, scd_pool_body *body, void *arg);

/* The calling thread wants no OpenMP threads: said before oneDNN builds or runs anything, because
 * what it builds, down to how it cuts sums, depends on the number it finds. scd_pool_run says it
 * for all threads of the pool. */
void scd_pool_no_openmp(void);

/* Work that threads take piece by piece. */
typedef struct scd_cursor {
    _Alignas(64) atomic_size_t next;
    char pad[64 - sizeof(atomic_size_t)]; /* nothing else on this cache line */
} scd_cursor;

static inline void scd_cursor_init(scd_cursor *cursor)
{
    atomic_init(&cursor->next, 0);
}

/* The next of n tasks, or n when there is none left. */
static inline size_t scd_cursor_take(scd_cursor *cursor, size_t n)
{
    size_t task = atomic_fetch_add_explicit(&cursor->next, 1, memory_order_relaxed);
    return task < n ? task : n;
}

#endif
