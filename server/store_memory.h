/* store_memory.h - the memory tier of the store: recent entries, and those not yet on disk.
 *
 * An entry is counted by references, so that its bytes are copied and written without a lock. A
 * pending entry cannot be evicted: until its commit it is the only copy.
 *
 * Threads: any; a tier is split into shards, each with a mutex of its own.
 * Owns:    one reference of every entry in it. */
#ifndef SCD_STORE_MEMORY_H
#define SCD_STORE_MEMORY_H

#include "engine/base/hash.h"

#include <stdatomic.h>
#include <stdint.h>

typedef enum scd_cached_state {
    SCD_CACHED_LOOSE,   /* in memory only, nobody will write it */
    SCD_CACHED_PENDING, /* on its way to disk */
    SCD_CACHED_DURABLE  /* committed, or read from disk */
} scd_cached_state;

typedef struct scd_cached {
    scd_digest key;
    size_t n_bytes;
    int64_t last_used_ms;           /* wall time, coarse; changes under the shard's mutex */
    atomic_int state;               /* scd_cached_state */
    struct scd_cached *next_queued; /* the writer's */
    uint64_t sequence;              /* the writer's */
    atomic_uint references;
    bool linked; /* the tier's, like the rest */
    struct scd_cached *chain, *newer, *older;
    unsigned char bytes[];
} scd_cached;

typedef struct scd_memtier scd_memtier;

/* A copy of n bytes under `key`, loose, with one reference for the caller; NULL: out of memory. */
scd_cached *scd_cached_new(const scd_digest *key, const void *bytes, size_t n, int64_t now_ms);
void scd_cached_retain(scd_cached *entry);
void scd_cached_release(scd_cached *entry);      /* NULL is fine */
size_t scd_cached_cost(const scd_cached *entry); /* bytes of memory it takes */

scd_memtier *scd_memtier_new(size_t max_bytes); /* NULL: out of memory */
void scd_memtier_free(scd_memtier *tier);

/* A reference to the entry of `key`, or NULL. *stale (may be NULL) becomes true where a durable
 * entry was last marked as used longer than `touch_ms` ago; it is marked now. */
scd_cached *scd_memtier_get(scd_memtier *tier, const scd_digest *key, int64_t now_ms,
                            int64_t touch_ms, bool *stale);

/* Puts the entry in the place of whatever has its key, or, without
 * `replace`, only where there is nothing; then evicts what no longer fits. */
void scd_memtier_put(scd_memtier *tier, scd_cached *entry, bool replace);

/* The entry is no longer pending; from now on it may be evicted. */
void scd_memtier_settle(scd_memtier *tier, scd_cached *entry, scd_cached_state state);

void scd_memtier_usage(scd_memtier *tier, uint64_t *n_entries, uint64_t *n_bytes);

#endif
