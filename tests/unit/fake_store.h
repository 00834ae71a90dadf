/* fake_store.h - a store in memory whose look-ups and writes a test can hold up.
 *
 * It takes the place of server/store.c in the test's program. Holding a look-up shows what happens
 * between a request's two turns at the batcher's lock; holding a write keeps a batch running after
 * it was computed.
 *
 * Threads: any. */
#ifndef SCD_TESTS_FAKE_STORE_H
#define SCD_TESTS_FAKE_STORE_H

#include "engine/base/clock.h"
#include "engine/base/thread.h"
#include "server/store.h"

#include <string.h>

enum { FAKE_ENTRIES = 4096, FAKE_BYTES = 256 };

struct scd_store {
    scd_gate gate;
    bool hold_gets, hold_puts;
    size_t held_gets, held_puts; /* how many threads are being held */
    size_t n;
    struct {
        scd_digest key;
        size_t n_bytes;
        char bytes[FAKE_BYTES];
    } entries[FAKE_ENTRIES];
};

static scd_store store;

/* Under the gate: the entry of this key, or one past the last. */
static size_t fake_find(const scd_digest *key)
{
    size_t i = 0;
    while (i < store.n && memcmp(&store.entries[i].key, key, sizeof *key))
        i++;
    return i;
}

bool scd_store_get(scd_store *s, const scd_digest *key, scd_buf *value)
{
    scd_gate_lock(&s->gate);
    s->held_gets++;
    scd_gate_wake(&s->gate);
    while (s->hold_gets)
        scd_gate_wait(&s->gate, SCD_NEVER);
    s->held_gets--;
    size_t i = fake_find(key);
    bool hit = i < s->n && scd_buf_append(value, s->entries[i].bytes, s->entries[i].n_bytes);
    scd_gate_unlock(&s->gate);
    return hit;
}

static void fake_put(const scd_digest *key, const void *value, size_t n)
{
    size_t i = fake_find(key);
    if (i == store.n)
        store.n++;
    store.entries[i].key = *key;
    store.entries[i].n_bytes = n;
    memcpy(store.entries[i].bytes, value, n);
}

void scd_store_put(scd_store *s, const scd_digest *key, const void *value, size_t n)
{
    scd_gate_lock(&s->gate);
    s->held_puts++;
    scd_gate_wake(&s->gate);
    while (s->hold_puts)
        scd_gate_wait(&s->gate, SCD_NEVER);
    s->held_puts--;
    fake_put(key, value, n);
    scd_gate_unlock(&s->gate);
}

static inline bool fake_has(const scd_digest *key)
{
    scd_gate_lock(&store.gate);
    bool has = fake_find(key) < store.n;
    scd_gate_unlock(&store.gate);
    return has;
}

static void fake_hold(bool gets, bool puts)
{
    scd_gate_lock(&store.gate);
    store.hold_gets = gets;
    store.hold_puts = puts;
    scd_gate_wake(&store.gate);
    scd_gate_unlock(&store.gate);
}

/* Until n threads are held in look-ups (or, for puts, in writes). */
static bool fake_wait_held(size_t gets, size_t puts)
{
    int64_t deadline = scd_now_ns() + 60 * SCD_NS_PER_S;
    bool in_time = true;
    scd_gate_lock(&store.gate);
    while (in_time && (store.held_gets < gets || store.held_puts < puts))
        in_time = scd_gate_wait(&store.gate, deadline);
    scd_gate_unlock(&store.gate);
    return in_time;
}

#endif
