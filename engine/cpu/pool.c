/* pool.c - see pool.h.
 *
 * One generation counter announces work, one counter of threads still busy ends it. Both are waited
 * for by spinning first and by futex then; a wake-up is a system call only when somebody sleeps.
 *
 * oneDNN as Debian builds it would start OpenMP threads of its own: every thread that computes says
 * that it wants none, because all parallelism is here. */
#include "engine/cpu/pool.h"

#include "engine/base/mem.h"
#include "engine/base/thread.h"

#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From libgomp; its header is not installed for every compiler. */
extern void omp_set_num_threads(int n);

enum { SPINS = 4000 }; /* about 40 microseconds of `pause` */

/* A 32-bit word that threads wait on. */
typedef struct word {
    _Alignas(64) atomic_uint value;
    atomic_int sleepers;
} word;

typedef struct worker {
    scd_thread thread;
    scd_pool *pool;
    int index;
} worker;

struct scd_pool {
    word generation; /* counts up with every run */
    word busy;       /* workers that have not finished this one */
    scd_pool_body *body;
    void *arg;
    bool stop;
    int threads;
    bool give_way; /* workers run at a lower priority */
    worker *workers; /* (threads - 1) */
};

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void word_wake(word *w)
{
    if (atomic_load(&w->sleepers) > 0)
        syscall(SYS_futex, &w->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Returns once the value is no longer `old`. */
static unsigned word_wait(word *w, unsigned old)
{
    for (int i = 0; i < SPINS; i++) {
        unsigned now = atomic_load_explicit(&w->value, memory_order_acquire);
        if (now != old)
            return now;
        relax();
    }
    /* The sleeper count goes up before the value is read again by the kernel, and the waker changes
     * the value before it reads the count: one of the two always sees the other. */
    atomic_fetch_add(&w->sleepers, 1);
    unsigned now;
    while ((now = atomic_load(&w->value)) == old)
        syscall(SYS_futex, &w->value, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&w->sleepers, 1);
    return now;
}

void scd_pool_no_openmp(void)
{
    omp_set_num_threads(1);
}

static void *worker_main(void *arg)
{
    worker *me = arg;
    scd_pool *pool = me->pool;
    scd_pool_no_openmp();
    if (pool->give_way)
        scd_thread_give_way();
    for (unsigned seen = 0;;) {
        seen = word_wait(&pool->generation, seen);
        if (pool->stop)
            return NULL;
        pool->body(pool->arg, me->index);
        if (atomic_fetch_sub(&pool->busy.value, 1) == 1)
            word_wake(&pool->busy);
    }
}

scd_code scd_pool_new(int threads, bool give_way, scd_pool **out, scd_error *err)
{
    *out = NULL;
    scd_pool *pool = scd_malloc_aligned(1, sizeof *pool);
    if (!pool)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the thread pool");
    *pool = (scd_pool){.threads = 1, .give_way = give_way};
    omp_set_num_threads(1); /* weights are packed by the thread that opens, before any run */
    pool->workers = scd_calloc((size_t)threads, sizeof *pool->workers);
    scd_code code =
        pool->workers ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "out of memory for the thread pool");
    for (int i = 1; i < threads && !code; i++) {
        worker *w = &pool->workers[i - 1];
        *w = (worker){.pool = pool, .index = i};
        char name[24];
        snprintf(name, sizeof name, "compute-%d", i);
        code = scd_thread_start(&w->thread, name, worker_main, w, err);
        if (!code)
            pool->threads++;
    }
    if (code) {
        scd_pool_free(pool);
        return code;
    }
    *out = pool;
    return SCD_OK;
}

void scd_pool_free(scd_pool *pool)
{
    if (!pool)
        return;
    pool->stop = true;
    atomic_fetch_add(&pool->generation.value, 1);
    word_wake(&pool->generation);
    for (int i = 0; i + 1 < pool->threads; i++)
        scd_thread_join(&pool->workers[i].thread);
    free(pool->workers);
    free(pool);
}

int scd_pool_threads(const scd_pool *pool)
{
    return pool->threads;
}

void scd_pool_run(scd_pool *pool, scd_pool_body *body, void *arg)
{
    scd_pool_no_openmp(); /* the owner may be another thread than last time */
    if (pool->threads > 1) {
        pool->body = body;
        pool->arg = arg;
        atomic_store(&pool->busy.value, (unsigned)pool->threads - 1);
        atomic_fetch_add(&pool->generation.value, 1);
        word_wake(&pool->generation);
    }
    body(arg, 0);
    for (unsigned left; (left = atomic_load(&pool->busy.value)) > 0;)
        word_wait(&pool->busy, left);
}
