/* store_memory.c - see store_memory.h.
 *
 * Keys are SHA-256 digests, hence their first bytes serve as hash. Each shard is a chained hash
 * table with a list by recency that holds every entry but the pending ones. Victims are freed after
 * the mutex is released. */
#include "server/store_memory.h"

#include "engine/base/mem.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_SHARDS = 8,
    MALLOC_BYTES = 16,  /* what malloc keeps beside a block, about */
    BUCKET_SHARE = 512, /* bytes of the tier for one bucket: small entries share some */
    MIN_BUCKETS = 64
};

typedef struct shard {
    _Alignas(64) pthread_mutex_t mutex; /* a cache line of its own */
    scd_cached **buckets;
    scd_cached *newest, *oldest;
    size_t n_entries, n_bytes;
} shard;

struct scd_memtier {
    shard shards[N_SHARDS];
    size_t n_ready;   /* shards that were made */
    size_t n_buckets; /* of one shard, a power of two */
    size_t max_bytes; /* of one shard */
};

scd_cached *scd_cached_new(const scd_digest *key, const void *bytes, size_t n, int64_t now_ms)
{
    if (n > SIZE_MAX - sizeof(scd_cached))
        return NULL;
    scd_cached *entry = scd_malloc(sizeof *entry + n, 1);
    if (!entry)
        return NULL;
    memset(entry, 0, sizeof *entry);
    entry->key = *key;
    entry->n_bytes = n;
    entry->last_used_ms = now_ms;
    atomic_init(&entry->state, SCD_CACHED_LOOSE);
    atomic_init(&entry->references, 1);
    if (n)
        memcpy(entry->bytes, bytes, n);
    return entry;
}

void scd_cached_retain(scd_cached *entry)
{
    atomic_fetch_add_explicit(&entry->references, 1, memory_order_relaxed);
}

void scd_cached_release(scd_cached *entry)
{
    if (entry && atomic_fetch_sub_explicit(&entry->references, 1, memory_order_acq_rel) == 1)
        free(entry);
}

size_t scd_cached_cost(const scd_cached *entry)
{
    return entry->n_bytes + sizeof *entry + MALLOC_BYTES;
}

scd_memtier *scd_memtier_new(size_t max_bytes)
{
    scd_memtier *tier = scd_malloc_aligned(1, sizeof *tier);
    if (!tier)
        return NULL;
    memset(tier, 0, sizeof *tier);
    tier->max_bytes = max_bytes / N_SHARDS;
    tier->n_buckets = MIN_BUCKETS;
    while (tier->n_buckets < tier->max_bytes / BUCKET_SHARE)
        tier->n_buckets *= 2;
    for (; tier->n_ready < N_SHARDS; tier->n_ready++) {
        shard *s = &tier->shards[tier->n_ready];
        s->buckets = scd_calloc(tier->n_buckets, sizeof *s->buckets);
        if (!s->buckets || pthread_mutex_init(&s->mutex, NULL)) {
            free(s->buckets);
            scd_memtier_free(tier);
            return NULL;
        }
    }
    return tier;
}

void scd_memtier_free(scd_memtier *tier)
{
    if (!tier)
        return;
    for (size_t i = 0; i < tier->n_ready; i++) {
        shard *s = &tier->shards[i];
        for (size_t b = 0; b < tier->n_buckets; b++)
            for (scd_cached *entry = s->buckets[b], *next; entry; entry = next) {
                next = entry->chain;
                scd_cached_release(entry);
            }
        free(s->buckets);
        pthread_mutex_destroy(&s->mutex);
    }
    free(tier);
}

static uint64_t hash_of(const scd_digest *key)
{
    uint64_t h;
    memcpy(&h, key->bytes, sizeof h);
    return h;
}

static shard *shard_of(scd_memtier *tier, const scd_digest *key)
{
    return &tier->shards[hash_of(key) % N_SHARDS];
}

/* The link that points to the entry of `key`, or to the NULL at the end of its chain. */
static scd_cached **find(scd_memtier *tier, shard *s, const scd_digest *key)
{
    scd_cached **link = &s->buckets[hash_of(key) / N_SHARDS & (tier->n_buckets - 1)];
    while (*link && memcmp((*link)->key.bytes, key->bytes, SCD_DIGEST_BYTES) != 0)
        link = &(*link)->chain;
    return link;
}

static bool is_listed(const shard *s, const scd_cached *entry)
{
    return entry->newer || entry->older || s->newest == entry;
}

static void list_add(shard *s, scd_cached *entry)
{
    entry->older = s->newest;
    entry->newer = NULL;
    if (s->newest)
        s->newest->newer = entry;
    else
        s->oldest = entry;
    s->newest = entry;
}

static void list_remove(shard *s, scd_cached *entry)
{
    if (entry->newer)
        entry->newer->older = entry->older;
    else
        s->newest = entry->older;
    if (entry->older)
        entry->older->newer = entry->newer;
    else
        s->oldest = entry->newer;
    entry->newer = entry->older = NULL;
}

/* Takes *link out of the shard and puts it before *victims, which the caller releases. */
static void unlink_entry(shard *s, scd_cached **link, scd_cached **victims)
{
    scd_cached *entry = *link;
    if (is_listed(s, entry))
        list_remove(s, entry);
    *link = entry->chain;
    entry->linked = false;
    s->n_entries--;
    s->n_bytes -= scd_cached_cost(entry);
    entry->chain = *victims;
    *victims = entry;
}

static void evict(scd_memtier *tier, shard *s, scd_cached **victims)
{
    while (s->n_bytes > tier->max_bytes && s->oldest)
        unlink_entry(s, find(tier, s, &s->oldest->key), victims);
}

static void release_all(scd_cached *victims)
{
    for (scd_cached *next; victims; victims = next) {
        next = victims->chain;
        scd_cached_release(victims);
    }
}

scd_cached *scd_memtier_get(scd_memtier *tier, const scd_digest *key, int64_t now_ms,
                            int64_t touch_ms, bool *stale)
{
    shard *s = shard_of(tier, key);
    pthread_mutex_lock(&s->mutex);
    scd_cached *entry = *find(tier, s, key);
    if (entry) {
        scd_cached_retain(entry);
        if (is_listed(s, entry) && s->newest != entry) {
            list_remove(s, entry);
            list_add(s, entry);
        }
        if (stale && now_ms - entry->last_used_ms > touch_ms &&
            atomic_load_explicit(&entry->state, memory_order_relaxed) == SCD_CACHED_DURABLE) {
            entry->last_used_ms = now_ms;
            *stale = true;
        }
    }
    pthread_mutex_unlock(&s->mutex);
    return entry;
}

void scd_memtier_put(scd_memtier *tier, scd_cached *entry, bool replace)
{
    scd_cached *victims = NULL;
    shard *s = shard_of(tier, &entry->key);
    pthread_mutex_lock(&s->mutex);
    scd_cached **link = find(tier, s, &entry->key);
    if (*link && replace) {
        unlink_entry(s, link, &victims);
        link = find(tier, s, &entry->key);
    }
    if (!*link) {
        scd_cached_retain(entry);
        *link = entry;
        entry->linked = true;
        s->n_entries++;
        s->n_bytes += scd_cached_cost(entry);
        if (atomic_load(&entry->state) != SCD_CACHED_PENDING)
            list_add(s, entry);
        evict(tier, s, &victims);
    }
    pthread_mutex_unlock(&s->mutex);
    release_all(victims);
}

void scd_memtier_settle(scd_memtier *tier, scd_cached *entry, scd_cached_state state)
{
    scd_cached *victims = NULL;
    shard *s = shard_of(tier, &entry->key);
    pthread_mutex_lock(&s->mutex);
    atomic_store(&entry->state, (int)state);
    if (entry->linked && !is_listed(s, entry))
        list_add(s, entry);
    evict(tier, s, &victims);
    pthread_mutex_unlock(&s->mutex);
    release_all(victims);
}

void scd_memtier_usage(scd_memtier *tier, uint64_t *n_entries, uint64_t *n_bytes)
{
    *n_entries = *n_bytes = 0;
    for (size_t i = 0; i < N_SHARDS; i++) {
        shard *s = &tier->shards[i];
        pthread_mutex_lock(&s->mutex);
        *n_entries += s->n_entries;
        *n_bytes += s->n_bytes;
        pthread_mutex_unlock(&s->mutex);
    }
}
