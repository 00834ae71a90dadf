/* store_readers.c - see store_readers.h.
 *
 * There are as many connections as there were gets at the same time, up to a bound beyond which a
 * get is a miss. No lock is held while a connection is opened, used or closed. */
#include "server/store_readers.h"

#include "engine/base/mem.h"
#include "engine/base/thread.h"

#include <stdlib.h>

enum { MAX_READERS = 64 };

struct scd_readers {
    scd_gate gate;
    char *path;
    bool open;
    uint64_t generation; /* grows at each close_all */
    size_t n_out;        /* in use */
    size_t n_idle;
    scd_db_reader *idle[MAX_READERS];
};

scd_code scd_readers_new(const char *path, scd_readers **out, scd_error *err)
{
    *out = NULL;
    scd_readers *r = scd_calloc(1, sizeof *r);
    char *copy = scd_strdup(path);
    if (!r || !copy) {
        free(copy);
        free(r);
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the cache");
    }
    r->path = copy;
    scd_code code = scd_gate_init(&r->gate, err);
    if (code) {
        free(copy);
        free(r);
        return code;
    }
    *out = r;
    return SCD_OK;
}

void scd_readers_free(scd_readers *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < r->n_idle; i++)
        scd_db_reader_close(r->idle[i]);
    scd_gate_release(&r->gate);
    free(r->path);
    free(r);
}

void scd_readers_open_all(scd_readers *r)
{
    scd_gate_lock(&r->gate);
    r->open = true;
    scd_gate_unlock(&r->gate);
}

void scd_readers_close_all(scd_readers *r, int64_t deadline_ns)
{
    scd_db_reader *closing[MAX_READERS];
    scd_gate_lock(&r->gate);
    r->open = false;
    r->generation++;
    while (r->n_out && scd_gate_wait(&r->gate, deadline_ns))
        continue;
    size_t n = r->n_idle;
    for (size_t i = 0; i < n; i++)
        closing[i] = r->idle[i];
    r->n_idle = 0;
    scd_gate_unlock(&r->gate);
    for (size_t i = 0; i < n; i++)
        scd_db_reader_close(closing[i]);
}

/* True: this thread may use a connection, *reader, or open one where that is NULL. */
static bool take(scd_readers *r, scd_db_reader **reader, uint64_t *generation)
{
    *reader = NULL;
    scd_gate_lock(&r->gate);
    *generation = r->generation;
    bool ok = r->open && r->n_out < MAX_READERS;
    if (ok) {
        r->n_out++;
        if (r->n_idle)
            *reader = r->idle[--r->n_idle];
    }
    scd_gate_unlock(&r->gate);
    return ok;
}

/* reader: NULL where it could not be opened or must not be used again. */
static void give(scd_readers *r, scd_db_reader *reader, uint64_t generation)
{
    scd_gate_lock(&r->gate);
    r->n_out--;
    if (reader && r->open && generation == r->generation) {
        r->idle[r->n_idle++] = reader;
        reader = NULL;
    }
    bool wake = !r->n_out && !r->open;
    scd_gate_unlock(&r->gate);
    if (wake)
        scd_gate_wake(&r->gate);
    scd_db_reader_close(reader);
}

scd_db_result scd_readers_get(scd_readers *r, const scd_digest *key, scd_buf *value,
                              int64_t *last_used_ms, uint64_t *generation)
{
    scd_db_reader *reader;
    if (!take(r, &reader, generation))
        return SCD_DB_MISS;
    scd_db_result result = SCD_DB_HIT;
    if (!reader)
        result = scd_db_reader_open(r->path, &reader);
    if (reader)
        result = scd_db_reader_get(reader, key, value, last_used_ms);
    if (result == SCD_DB_DAMAGED || result == SCD_DB_UNAVAILABLE) {
        scd_db_reader_close(reader);
        reader = NULL;
    }
    give(r, reader, *generation);
    return result;
}

uint64_t scd_readers_generation(scd_readers *r)
{
    scd_gate_lock(&r->gate);
    uint64_t generation = r->generation;
    scd_gate_unlock(&r->gate);
    return generation;
}
