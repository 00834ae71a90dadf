/* memo.c - see memo.h. One lock: a get copies a few kilobytes under it, which takes less time than
 * waking a sleeper. */
#include "server/memo.h"

#include "engine/base/mem.h"
#include "engine/base/thread.h"

#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 4096, ENTRY_OVERHEAD = 128 };

typedef struct entry {
    struct entry *hash_next;
    struct entry *newer, *older;
    scd_digest key;
    scd_memo_info info;
    size_t n;
    char answer[];
} entry;

struct scd_memo {
    scd_gate gate;
    size_t bytes, max_bytes;
    entry *newest, *oldest;
    entry *buckets[BUCKETS];
};

static entry **find(scd_memo *m, const scd_digest *key)
{
    uint64_t h;
    memcpy(&h, key->bytes, sizeof h);
    entry **at = &m->buckets[h % BUCKETS];
    while (*at && memcmp(&(*at)->key, key, sizeof *key))
        at = &(*at)->hash_next;
    return at;
}

static void unlink_entry(scd_memo *m, entry *e)
{
    *(e->newer ? &e->newer->older : &m->newest) = e->older;
    *(e->older ? &e->older->newer : &m->oldest) = e->newer;
}

static void push_newest(scd_memo *m, entry *e)
{
    e->newer = NULL;
    e->older = m->newest;
    *(m->newest ? &m->newest->newer : &m->oldest) = e;
    m->newest = e;
}

static void evict_oldest(scd_memo *m)
{
    entry *e = m->oldest;
    unlink_entry(m, e);
    *find(m, &e->key) = e->hash_next;
    m->bytes -= e->n + ENTRY_OVERHEAD;
    free(e);
}

scd_code scd_memo_open(size_t max_bytes, scd_memo **out, scd_error *err)
{
    *out = NULL;
    scd_memo *m = scd_calloc(1, sizeof *m);
    if (!m)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    m->max_bytes = max_bytes;
    scd_code code = scd_gate_init(&m->gate, err);
    if (code) {
        free(m);
        return code;
    }
    *out = m;
    return SCD_OK;
}

void scd_memo_close(scd_memo *m)
{
    if (!m)
        return;
    while (m->oldest)
        evict_oldest(m);
    scd_gate_release(&m->gate);
    free(m);
}

bool scd_memo_get(scd_memo *m, const scd_digest *key, scd_buf *out, scd_memo_info *info)
{
    if (!m->max_bytes)
        return false;
    scd_gate_lock(&m->gate);
    entry *e = *find(m, key);
    bool hit = e && scd_buf_append(out, e->answer, e->n);
    if (hit) {
        *info = e->info;
        unlink_entry(m, e);
        push_newest(m, e);
    }
    scd_gate_unlock(&m->gate);
    return hit;
}

void scd_memo_put(scd_memo *m, const scd_digest *key, const scd_memo_info *info, const void *answer,
                  size_t n)
{
    if (n > m->max_bytes / 8)
        return;
    entry *e = scd_malloc(1, sizeof *e + n);
    if (!e)
        return;
    *e = (entry){.key = *key, .info = *info, .n = n};
    memcpy(e->answer, answer, n);
    scd_gate_lock(&m->gate);
    entry **at = find(m, key);
    if (*at) { /* somebody was quicker with the same bytes */
        free(e);
    } else {
        *at = e;
        push_newest(m, e);
        m->bytes += n + ENTRY_OVERHEAD;
        while (m->bytes > m->max_bytes)
            evict_oldest(m);
    }
    scd_gate_unlock(&m->gate);
}
