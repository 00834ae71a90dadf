/* batcher_fixture.h - calls as requests make them: orders with keys, a place for the outcome, and a
 * count of how often `done` came. */
#ifndef SCD_TESTS_BATCHER_FIXTURE_H
#define SCD_TESTS_BATCHER_FIXTURE_H

#include "server/batcher.h"
#include "tests/unit/fake_store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

enum { CALL_DIM = 32, CALL_ORDERS = 64, CALL_TOKENS = 20, WAIT_S = 60 };

/* Wakes whoever waits for an outcome; guards every call's n_done and outcome. */
static scd_gate done_gate;

typedef struct call {
    uint64_t serial;
    size_t n;
    scd_work work;
    bool bulk;
    const char *identity;
    int32_t ids[CALL_ORDERS][CALL_TOKENS];
    float values[CALL_ORDERS][CALL_TOKENS];
    scd_cell cells[CALL_ORDERS];
    scd_order orders[CALL_ORDERS];
    float out[CALL_ORDERS][CALL_DIM];
    int n_done;
    scd_outcome outcome;
    scd_batcher *batcher; /* where a thread of its own submits it */
} call;

static scd_metrics *metrics;
static uint64_t last_serial;
static uint32_t last_key;

/* The cell that `key` stands for: `tokens` genes with values that follow from the key. */
static void call_add(call *c, uint32_t key, size_t tokens)
{
    size_t i = c->n++;
    assert_true(i < CALL_ORDERS && tokens <= CALL_TOKENS);
    for (size_t k = 0; k < tokens; k++) {
        c->ids[i][k] = (int32_t)(2 + (key + k) % 45);
        c->values[i][k] = 1.0f + (float)((key * 7 + k) % 13);
    }
    c->cells[i] = (scd_cell){.n_tokens = tokens, .ids = c->ids[i], .values = c->values[i]};
    c->orders[i] =
        (scd_order){.cell = &c->cells[i], .key = scd_digest_of(&key, sizeof key), .out = c->out[i]};
}

/* A call for n cells that nobody asked for before, of `tokens` tokens each. */
static call *call_new(size_t n, size_t tokens)
{
    call *c = calloc(1, sizeof *c);
    c->serial = ++last_serial;
    for (size_t i = 0; i < n; i++)
        call_add(c, ++last_key, tokens);
    return c;
}

static call *call_of_key(uint32_t key, size_t tokens)
{
    call *c = call_new(0, 0);
    call_add(c, key, tokens);
    return c;
}

static void call_done(void *arg, const scd_outcome *outcome)
{
    call *c = arg;
    scd_gate_lock(&done_gate);
    c->n_done++;
    c->outcome = *outcome;
    scd_gate_wake(&done_gate);
    scd_gate_unlock(&done_gate);
}

static scd_ask call_ask(call *c)
{
    return (scd_ask){.work = c->work,
                     .orders = c->orders,
                     .n = c->n,
                     .serial = c->serial,
                     .bulk = c->bulk,
                     .identity = c->identity,
                     .done = call_done,
                     .arg = c};
}

static void call_submit(scd_batcher *b, call *c)
{
    scd_error err = {0};
    const scd_ask ask = call_ask(c);
    if (scd_batcher_submit(b, &ask, &err))
        fail_msg("%s", err.message);
}

static int call_n_done(const call *c)
{
    scd_gate_lock(&done_gate);
    int n = c->n_done;
    scd_gate_unlock(&done_gate);
    return n;
}

/* Until `done` came; then the code it came with. */
static scd_code call_wait(call *c)
{
    int64_t deadline = scd_now_ns() + WAIT_S * SCD_NS_PER_S;
    bool in_time = true;
    scd_gate_lock(&done_gate);
    while (in_time && !c->n_done)
        in_time = scd_gate_wait(&done_gate, deadline);
    scd_code code = c->outcome.code;
    int n = c->n_done;
    scd_gate_unlock(&done_gate);
    if (n != 1)
        fail_msg("done came %d times", n);
    return code;
}

/* The call is over: done came once, no more. */
static void call_free(call *c)
{
    assert_int_equal(call_n_done(c), 1);
    free(c);
}

static uint64_t computed(void)
{
    return scd_metrics_get(metrics, SCD_COUNTER_ENGINE_CELLS);
}

#endif
