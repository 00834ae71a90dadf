/* store.h - the result cache: exact, per cell, durable, and never in the way.
 *
 * Two tiers. Memory: recent entries plus everything not yet on disk. Disk: SQLite in WAL mode,
 * written by one thread (`store`) in grouped commits, read by any thread on a connection of its
 * own. Every entry carries a checksum over key and value, verified at each read. A store that fails
 * or turns out damaged is rebuilt in the background, never served: a broken cache is a miss.
 *
 * Threads: every function but open and close from any thread; `store` is the only writer.
 * Owns:    the files cache.db* in the data directory. */
#ifndef SCD_STORE_H
#define SCD_STORE_H

#include "engine/base/buf.h"
#include "engine/base/hash.h"

#include <stdint.h>

typedef struct scd_store scd_store;

typedef struct scd_store_options {
    const char *dir;  /* data directory, made if missing; NULL: memory tier only */
    size_t max_bytes; /* bound of the disk tier (values and keys); the memory tier gets 1/8, at
                         most 64 MiB. 0: no cache at all, every get misses */
    void (*log)(void *arg, int level, const char *message); /* may be NULL; levels as in log.h */
    void *log_arg;
} scd_store_options;

typedef struct scd_store_stats {
    uint64_t entries, bytes; /* on disk */
    uint64_t memory_entries, memory_bytes;
    uint64_t pending; /* accepted, not yet committed */
    uint64_t evicted, rejected_checksum, rebuilds, write_errors;
    uint64_t dropped; /* kept in memory only: too much was pending, or the disk was out of order */
} scd_store_stats;

/* Fails only where the directory cannot be used at all (SCD_E_IO: says why); a damaged or foreign
 * database is moved aside and rebuilt. */
scd_code scd_store_open(const scd_store_options *options, scd_store **out, scd_error *err);

/* Commits what is pending, then closes. NULL is fine. */
void scd_store_close(scd_store *store);

/* Append the value of `key` to *value: true for a hit. A failure of any kind is a miss. */
bool scd_store_get(scd_store *store, const scd_digest *key, scd_buf *value);

/* Copy n bytes under `key`; returned at once, committed soon. Visible to get immediately. Under
 * memory pressure the entry may be dropped: it is a cache. */
void scd_store_put(scd_store *store, const scd_digest *key, const void *value, size_t n);

/* Wait until everything put before this call is on disk, or the deadline. */
bool scd_store_flush(scd_store *store, int64_t deadline_ns);

void scd_store_get_stats(scd_store *store, scd_store_stats *out);

#endif
