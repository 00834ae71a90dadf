/* store.c - see store.h.
 *
 * A get looks into memory, then on disk; a put goes into memory at once and to the writer's queue.
 * An entry is marked as used at most every ten minutes, so that hits do not write.
 *
 * Threads: see store.h. Owns: the memory tier and the writer. */
#include "server/store.h"

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "server/store_memory.h"
#include "server/store_writer.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MEMORY_SHARE 8 /* of max_bytes */
#define MEMORY_MAX ((size_t)64 << 20)
#define PENDING_MIN ((size_t)4 << 20) /* a small cache must still take the burst of one request */
#define TOUCH_MS INT64_C(600000)

struct scd_store {
    scd_memtier *memory; /* NULL: no cache at all */
    scd_writer *writer;  /* NULL: no disk tier */
};

scd_code scd_store_open(const scd_store_options *options, scd_store **out, scd_error *err)
{
    *out = NULL;
    scd_code code = SCD_OK;
    scd_store *store = scd_calloc(1, sizeof *store);
    if (!store)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the cache");
    size_t memory_bytes = options->max_bytes / MEMORY_SHARE;
    if (memory_bytes > MEMORY_MAX)
        memory_bytes = MEMORY_MAX;
    if (options->max_bytes && !(store->memory = scd_memtier_new(memory_bytes))) {
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for the cache");
        goto done;
    }
    if (options->max_bytes && options->dir) {
        scd_writer_options writer = {
            .dir = options->dir,
            .max_bytes = options->max_bytes,
            .max_pending_bytes = memory_bytes / 2 > PENDING_MIN ? memory_bytes / 2 : PENDING_MIN,
            .memory = store->memory,
            .log = options->log,
            .log_arg = options->log_arg};
        code = scd_writer_open(&writer, &store->writer, err);
        if (code)
            goto done;
    }
    *out = store;
    store = NULL;
done:
    scd_store_close(store);
    return code;
}

void scd_store_close(scd_store *store)
{
    if (!store)
        return;
    scd_writer_close(store->writer);
    scd_memtier_free(store->memory);
    free(store);
}

/* Wall time to some milliseconds, which is cheaper than to the nanosecond. */
static int64_t coarse_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME_COARSE, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / SCD_NS_PER_MS;
}

static bool get_from_memory(scd_store *store, const scd_digest *key, int64_t now_ms, scd_buf *value)
{
    bool stale = false;
    scd_cached *entry = scd_memtier_get(store->memory, key, now_ms, TOUCH_MS, &stale);
    if (!entry)
        return false;
    bool hit = scd_buf_append(value, entry->bytes, entry->n_bytes);
    scd_cached_release(entry);
    if (stale && store->writer)
        scd_writer_touch(store->writer, key, now_ms);
    return hit;
}

static bool get_from_disk(scd_store *store, const scd_digest *key, int64_t now_ms, scd_buf *value)
{
    size_t start = value->n_bytes;
    int64_t last_used_ms;
    if (!store->writer || !scd_writer_get(store->writer, key, value, &last_used_ms))
        return false;
    if (now_ms - last_used_ms > TOUCH_MS) {
        scd_writer_touch(store->writer, key, now_ms);
        last_used_ms = now_ms;
    }
    size_t n = value->n_bytes - start;
    scd_cached *entry = scd_cached_new(key, n ? value->data + start : "", n, last_used_ms);
    if (entry) {
        atomic_store(&entry->state, SCD_CACHED_DURABLE);
        scd_memtier_put(store->memory, entry, false);
        scd_cached_release(entry);
    }
    return true;
}

bool scd_store_get(scd_store *store, const scd_digest *key, scd_buf *value)
{
    if (!store->memory || value->failed)
        return false;
    int64_t now_ms = coarse_ms();
    bool hit = get_from_memory(store, key, now_ms, value) ||
               (!value->failed && get_from_disk(store, key, now_ms, value));
    if (!hit) /* no room for this value: a miss, and the caller's buffer is as it was */
        value->failed = false;
    return hit;
}

void scd_store_put(scd_store *store, const scd_digest *key, const void *value, size_t n)
{
    if (!store->memory)
        return;
    int64_t now_ms = coarse_ms();
    scd_cached *known = scd_memtier_get(store->memory, key, now_ms, TOUCH_MS, NULL);
    bool kept = known && known->n_bytes == n && (!n || !memcmp(known->bytes, value, n)) &&
                atomic_load(&known->state) != SCD_CACHED_LOOSE;
    scd_cached_release(known);
    if (kept)
        return;
    scd_cached *entry = scd_cached_new(key, value, n, now_ms);
    if (!entry)
        return;
    if (store->writer)
        scd_writer_push(store->writer, entry);
    scd_memtier_put(store->memory, entry, true);
    scd_cached_release(entry);
}

bool scd_store_flush(scd_store *store, int64_t deadline_ns)
{
    return !store->writer || scd_writer_flush(store->writer, deadline_ns);
}

void scd_store_get_stats(scd_store *store, scd_store_stats *out)
{
    memset(out, 0, sizeof *out);
    if (store->writer)
        scd_writer_get_stats(store->writer, out);
    if (store->memory)
        scd_memtier_usage(store->memory, &out->memory_entries, &out->memory_bytes);
}
