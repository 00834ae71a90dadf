/* store_writer.h - the thread `store`: everything that changes the database happens here.
 *
 * Entries are queued and committed in groups: when the queue has been idle for 20 ms, when 512 have
 * come together, or when the first has waited for 200 ms. Between groups the thread evicts, gives
 * pages back, checks the file, moves a damaged one aside, and tries again what did not work.
 *
 * Threads: open and close one at a time, the others from any thread.
 * Owns:    cache.db* in the data directory, under the lock cache.db.lock. */
#ifndef SCD_STORE_WRITER_H
#define SCD_STORE_WRITER_H

#include "server/store.h"
#include "server/store_memory.h"
#include "server/store_readers.h"

typedef struct scd_writer scd_writer;

typedef struct scd_writer_options {
    const char *dir;          /* made if missing */
    size_t max_bytes;         /* of the database file */
    size_t max_pending_bytes; /* memory of what waits for its commit; beyond it nothing is queued */
    scd_memtier *memory;      /* borrowed; entries are settled there */
    void (*log)(void *arg, int level, const char *message);
    void *log_arg;
} scd_writer_options;

/* SCD_E_IO only where the directory cannot be there; a database that cannot be used now is tried
 * again later, with pauses up to a minute. */
scd_code scd_writer_open(const scd_writer_options *options, scd_writer **out, scd_error *err);
void scd_writer_close(scd_writer *w); /* commits what is queued; NULL is fine */

/* Queue an entry that no other thread knows yet; it becomes pending. It stays loose where the queue
 * is full or the disk is out of order. */
void scd_writer_push(scd_writer *w, scd_cached *entry);

/* The disk tier's part of a get; the writer learns of what went wrong. */
bool scd_writer_get(scd_writer *w, const scd_digest *key, scd_buf *value, int64_t *last_used_ms);

/* The entry was used: its place in the order of eviction moves, some seconds later. */
void scd_writer_touch(scd_writer *w, const scd_digest *key, int64_t now_ms);

bool scd_writer_flush(scd_writer *w, int64_t deadline_ns);
void scd_writer_get_stats(scd_writer *w, scd_store_stats *out); /* all but the memory tier's */

#endif
