/* store_writer.c - see store_writer.h.
 *
 * Threads: what stands below the gate in the struct is shared and changes under it, the rest
 * belongs to `store`. The gate is not held while SQLite works. */
#include "server/store_writer.h"

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "server/store_file.h"

#include <stdlib.h>
#include <string.h>

enum { GROUP_ENTRIES = 512, MAX_TOUCHES = 1024, MAX_BAD = 64 };

#define IDLE_NS (20 * SCD_NS_PER_MS)
#define GROUP_NS (200 * SCD_NS_PER_MS)
#define TOUCH_NS (5 * SCD_NS_PER_S)

/* What came from other threads besides entries; one is filled while the other is worked on. */
typedef struct news {
    scd_touch touches[MAX_TOUCHES];
    scd_digest bad[MAX_BAD];
    size_t n_touches, n_bad;
    bool suspicious, damaged;
    uint64_t damaged_generation;
} news;

struct scd_writer {
    scd_memtier *memory;
    scd_readers *readers;
    scd_store_file *file;
    size_t max_pending_bytes;
    scd_thread thread;
    bool has_gate;
    news *taken;
    atomic_int_least64_t quiet_until_ns; /* entries are not queued before that */

    scd_gate gate;
    scd_cached *first, *last; /* the queue */
    size_t n_queued;
    size_t n_pending, pending_bytes; /* queued, or being committed */
    uint64_t queued_sequence, done_sequence;
    uint64_t flush_wanted, flush_done; /* tickets */
    uint64_t flush_sequence;           /* what the last ticket waits for */
    int64_t first_ns, last_ns;         /* when the oldest and the newest entry were queued */
    int64_t touch_due_ns, step_ns;
    bool closing;
    news *news;
    scd_store_stats stats;
};

/* One turn of the thread. */
typedef struct group {
    scd_cached *first;
    size_t n_entries, n_bytes;
    uint64_t flush_ticket, flush_sequence;
    uint64_t last_sequence;
    bool idle; /* nothing was left in the queue */
} group;

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* With the gate locked: when there will be something to do. */
static int64_t due_ns(const scd_writer *w)
{
    bool now = w->closing || w->n_queued >= GROUP_ENTRIES || w->flush_wanted != w->flush_done ||
               w->news->damaged || w->news->suspicious;
    if (now)
        return 0;
    int64_t due = w->step_ns;
    if (w->n_queued)
        due = earlier(due, earlier(w->first_ns + GROUP_NS, w->last_ns + IDLE_NS));
    if (w->news->n_touches)
        due = earlier(due, w->touch_due_ns);
    return due;
}

/* Waits for work and takes it. False: closing, and all is done. */
static bool collect(scd_writer *w, group *g)
{
    memset(g, 0, sizeof *g);
    scd_gate_lock(&w->gate);
    for (int64_t due; (due = due_ns(w)) > scd_now_ns();)
        scd_gate_wait(&w->gate, due); /* SCD_NEVER: close wakes us */
    if (w->closing && !w->n_queued) {
        scd_gate_unlock(&w->gate);
        return false;
    }
    g->first = w->first;
    g->flush_ticket = w->flush_wanted;
    g->flush_sequence = w->flush_sequence;
    scd_cached *last = NULL;
    while (w->first && g->n_entries < GROUP_ENTRIES) {
        last = w->first;
        w->first = last->next_queued;
        g->n_entries++;
        g->n_bytes += scd_cached_cost(last);
        g->last_sequence = last->sequence;
    }
    if (last)
        last->next_queued = NULL;
    if (!w->first)
        w->last = NULL;
    w->n_queued -= g->n_entries;
    g->idle = !w->n_queued && !w->closing;
    news *swap = w->news;
    w->news = w->taken;
    w->taken = swap;
    scd_gate_unlock(&w->gate);
    return true;
}

/* Gives the group's entries back to the memory tier and tells who waits. */
static void finish(scd_writer *w, group *g, bool committed)
{
    for (scd_cached *e = g->first, *next; e; e = next) {
        next = e->next_queued;
        scd_memtier_settle(w->memory, e, committed ? SCD_CACHED_DURABLE : SCD_CACHED_LOOSE);
        scd_cached_release(e);
    }
    scd_file_status status;
    scd_store_file_get_status(w->file, &status);
    atomic_store(&w->quiet_until_ns, status.quiet_until_ns);
    scd_gate_lock(&w->gate);
    w->n_pending -= g->n_entries;
    w->pending_bytes -= g->n_bytes;
    if (g->n_entries)
        w->done_sequence = g->last_sequence;
    if (!committed)
        w->stats.dropped += g->n_entries;
    if (w->done_sequence >= g->flush_sequence)
        w->flush_done = g->flush_ticket;
    w->step_ns = status.next_step_ns;
    w->stats.entries = status.entries;
    w->stats.bytes = status.bytes;
    w->stats.evicted = status.evicted;
    w->stats.rebuilds = status.rebuilds;
    w->stats.write_errors = status.write_errors;
    scd_gate_unlock(&w->gate);
    scd_gate_wake(&w->gate);
}

static void *store_main(void *arg)
{
    scd_writer *w = arg;
    group g;
    while (collect(w, &g)) {
        news *n = w->taken;
        if (n->damaged)
            scd_store_file_report_damage(w->file, n->damaged_generation);
        if (n->suspicious)
            scd_store_file_report_suspicion(w->file);
        scd_batch batch = {.first = g.first,
                           .touches = n->touches,
                           .n_touches = n->n_touches,
                           .bad = n->bad,
                           .n_bad = n->n_bad};
        bool committed = scd_store_file_write(w->file, &batch);
        n->n_touches = n->n_bad = 0;
        n->damaged = n->suspicious = false;
        scd_store_file_step(w->file, g.idle);
        finish(w, &g, committed);
    }
    return NULL;
}

scd_code scd_writer_open(const scd_writer_options *options, scd_writer **out, scd_error *err)
{
    *out = NULL;
    char *path = NULL;
    scd_code code = SCD_OK;
    scd_writer *w = scd_calloc(1, sizeof *w);
    if (!w || !(w->news = scd_calloc(1, sizeof *w->news)) ||
        !(w->taken = scd_calloc(1, sizeof *w->taken)) ||
        !(path = scd_store_file_path(options->dir))) {
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for the cache");
        goto done;
    }
    w->memory = options->memory;
    w->max_pending_bytes = options->max_pending_bytes;
    code = scd_gate_init(&w->gate, err);
    if (code)
        goto done;
    w->has_gate = true;
    code = scd_readers_new(path, &w->readers, err);
    if (code)
        goto done;
    scd_file_options file = {.dir = options->dir,
                             .max_bytes = options->max_bytes,
                             .readers = w->readers,
                             .log = options->log,
                             .log_arg = options->log_arg};
    code = scd_store_file_open(&file, &w->file, err);
    if (code)
        goto done;
    scd_file_status status;
    scd_store_file_get_status(w->file, &status);
    atomic_store(&w->quiet_until_ns, status.quiet_until_ns);
    code = scd_thread_start(&w->thread, "store", store_main, w, err); /* its first step is due */
    if (code)
        goto done;
    *out = w;
    w = NULL;
done:
    free(path);
    scd_writer_close(w);
    return code;
}

void scd_writer_close(scd_writer *w)
{
    if (!w)
        return;
    if (w->thread.running) {
        scd_gate_lock(&w->gate);
        w->closing = true;
        scd_gate_unlock(&w->gate);
        scd_gate_wake(&w->gate);
        scd_store_file_interrupt(w->file, true);
        scd_thread_join(&w->thread);
    }
    scd_store_file_close(w->file);
    scd_readers_free(w->readers);
    if (w->has_gate)
        scd_gate_release(&w->gate);
    free(w->taken);
    free(w->news);
    free(w);
}

void scd_writer_push(scd_writer *w, scd_cached *entry)
{
    size_t bytes = scd_cached_cost(entry);
    int64_t now = scd_now_ns();
    scd_gate_lock(&w->gate);
    if (w->closing || now < atomic_load(&w->quiet_until_ns) || bytes > w->max_pending_bytes ||
        w->pending_bytes > w->max_pending_bytes - bytes) {
        w->stats.dropped++;
        scd_gate_unlock(&w->gate);
        return;
    }
    scd_cached_retain(entry);
    atomic_store(&entry->state, SCD_CACHED_PENDING);
    entry->sequence = ++w->queued_sequence;
    if (w->last)
        w->last->next_queued = entry;
    else
        w->first = entry;
    w->last = entry;
    w->last_ns = now;
    if (!w->n_queued++)
        w->first_ns = now;
    w->n_pending++;
    w->pending_bytes += bytes;
    bool wake = w->n_queued == 1 || w->n_queued == GROUP_ENTRIES;
    bool crowded = w->pending_bytes > w->max_pending_bytes / 2;
    scd_gate_unlock(&w->gate);
    if (wake)
        scd_gate_wake(&w->gate);
    if (crowded) /* the thread may be in a long check of the file */
        scd_store_file_interrupt(w->file, false);
}

bool scd_writer_get(scd_writer *w, const scd_digest *key, scd_buf *value, int64_t *last_used_ms)
{
    uint64_t generation;
    scd_db_result result = scd_readers_get(w->readers, key, value, last_used_ms, &generation);
    if (result != SCD_DB_BAD_ENTRY && result != SCD_DB_DAMAGED)
        return result == SCD_DB_HIT;
    scd_gate_lock(&w->gate);
    news *n = w->news;
    if (result == SCD_DB_BAD_ENTRY) {
        w->stats.rejected_checksum++;
        n->suspicious = true;
        if (n->n_bad < MAX_BAD)
            n->bad[n->n_bad++] = *key;
    } else {
        n->damaged = true;
        n->damaged_generation = generation;
    }
    scd_gate_unlock(&w->gate);
    scd_gate_wake(&w->gate);
    return false;
}

void scd_writer_touch(scd_writer *w, const scd_digest *key, int64_t now_ms)
{
    bool wake = false;
    scd_gate_lock(&w->gate);
    news *n = w->news;
    if (!n->n_touches) {
        w->touch_due_ns = scd_now_ns() + TOUCH_NS;
        wake = true;
    }
    if (n->n_touches < MAX_TOUCHES) /* beyond that the order of eviction is a little off */
        n->touches[n->n_touches++] = (scd_touch){.key = *key, .now_ms = now_ms};
    scd_gate_unlock(&w->gate);
    if (wake)
        scd_gate_wake(&w->gate);
}

bool scd_writer_flush(scd_writer *w, int64_t deadline_ns)
{
    scd_gate_lock(&w->gate);
    uint64_t ticket = ++w->flush_wanted, dropped = w->stats.dropped;
    w->flush_sequence = w->queued_sequence;
    scd_gate_wake(&w->gate);
    while (w->flush_done < ticket && scd_gate_wait(&w->gate, deadline_ns))
        continue;
    bool done = w->flush_done >= ticket && w->stats.dropped == dropped;
    scd_gate_unlock(&w->gate);
    return done && !atomic_load(&w->quiet_until_ns);
}

void scd_writer_get_stats(scd_writer *w, scd_store_stats *out)
{
    scd_gate_lock(&w->gate);
    *out = w->stats;
    out->pending = w->n_pending;
    scd_gate_unlock(&w->gate);
}
