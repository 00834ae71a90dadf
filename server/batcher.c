/* batcher.c - see batcher.h.
 *
 * Single flight covers the cache look-up too: a unit enters the table before its creator asks the
 * cache, and leaves it after its result was stored. So a cell that was ever computed is either in
 * the table or in the store, and is never computed twice.
 *
 * Threads: batch-0 runs run_batches(); `gate` protects everything but the engine and the arrays
 *          that are batch-0's own. */
#include "server/batcher.h"

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "server/admission.h"
#include "server/flight.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct scd_batcher {
    scd_batcher_options o;
    scd_gate gate;
    scd_thread thread;
    scd_flight flight;
    bool stopping, draining;
    scd_admission admission;
    size_t max_rows, max_units; /* of a batch; constant */

    /* of batch-0 alone */
    scd_unit **picked;      /* (max_units) */
    const scd_cell **cells; /* (max_units) */
    float *results;         /* (max_units, the widest result) */
};

static size_t width_of(const scd_batcher *b, scd_work work)
{
    return scd_engine_width(b->o.engine, work);
}

/* ---- how tickets end: under the lock they are chained by hash_next, outside it finished --------
 */

static void finish_all(scd_ticket *ended)
{
    while (ended) {
        scd_ticket *t = ended;
        ended = t->hash_next;
        int64_t now = scd_now_ns(), start = t->started_ns ? t->started_ns : now;
        t->outcome.queue_s = (double)(start - t->submitted_ns) * 1e-9;
        t->outcome.infer_s = (double)(now - start) * 1e-9;
        t->done(t->arg, &t->outcome);
        free(t->waiters);
        free(t);
    }
}

static void end_if_over(scd_batcher *b, scd_ticket *t, scd_ticket **ended)
{
    if (t->submitting || (t->n_left && !t->outcome.code))
        return;
    scd_flight_remove_ticket(&b->flight, t);
    t->hash_next = *ended;
    *ended = t;
    if (!b->flight.n_tickets)
        scd_gate_wake(&b->gate); /* drain waits for this */
}

static void count_queued(scd_batcher *b, size_t tokens, bool add)
{
    size_t *queued = &b->admission.queued_tokens;
    *queued = add ? *queued + tokens : *queued - tokens;
    scd_metrics_set(b->o.metrics, SCD_GAUGE_QUEUE_TOKENS, (int64_t)*queued);
}

static void drop_queued(scd_batcher *b, scd_unit *u)
{
    count_queued(b, u->cell.n_tokens, false);
    scd_flight_remove(&b->flight, u);
    free(u);
}

static void move_queued(scd_batcher *b, scd_unit *u, scd_ticket *to)
{
    scd_flight_unqueue(&b->flight, u);
    scd_flight_queue(&b->flight, to, u);
}

/* The ticket waits no more. Its queued units move to others who wait for them, or leave. */
static void abandon(scd_batcher *b, scd_ticket *t)
{
    /* Units list their waiters newest first: leaving in that order finds each at once, however
     * often the ticket asked for one cell. */
    for (size_t i = t->n_waiters; i-- > 0;)
        if (t->waiters[i].unit)
            scd_unit_leave(&t->waiters[i]);
    while (t->first) {
        scd_unit *u = t->first;
        if (u->waiters)
            move_queued(b, u, scd_unit_heir(u));
        else
            drop_queued(b, u);
    }
}

static void fail_ticket(scd_batcher *b, scd_ticket *t, scd_code code, const char *message,
                        scd_ticket **ended)
{
    if (t->outcome.code)
        return;
    t->outcome.code = code;
    snprintf(t->outcome.message, sizeof t->outcome.message, "%.255s", message);
    abandon(b, t);
    end_if_over(b, t, ended);
}

/* The unit's result goes to everyone who waits; the unit leaves the table and is freed. */
static void deliver(scd_batcher *b, scd_unit *u, const float *value, bool from_cache,
                    scd_ticket **ended)
{
    size_t bytes = width_of(b, u->work) * sizeof *value;
    for (scd_waiter *w = u->waiters, *next; w; w = next) {
        next = w->next;
        memcpy(w->order->out, value, bytes);
        if (from_cache)
            w->order->source = SCD_SOURCE_HIT;
        w->unit = NULL;
        w->ticket->n_left--;
        end_if_over(b, w->ticket, ended);
    }
    scd_flight_remove(&b->flight, u);
    free(u);
}

static void fail_unit(scd_batcher *b, scd_unit *u, scd_code code, const char *message,
                      scd_ticket **ended)
{
    while (u->waiters)
        fail_ticket(b, u->waiters->ticket, code, message, ended);
    scd_flight_remove(&b->flight, u);
    free(u);
}

/* ---- submit --------------------------------------------------------------------------------- */

/* What one submit holds between its two turns at the lock. */
typedef struct submission {
    scd_ticket *ticket;
    scd_unit **created; /* (n) new units, NULL where the cell was in flight already */
    float *found;       /* (n_created, width) cached values that turned up meanwhile */
    size_t n, n_created;
    bool *has_value; /* (n_created) */
} submission;

static void submission_release(submission *s)
{
    for (size_t i = 0; s->created && i < s->n; i++)
        free(s->created[i]);
    free(s->created);
    free(s->found);
    free(s->has_value);
    if (s->ticket)
        free(s->ticket->waiters);
    free(s->ticket);
}

static bool submission_init(submission *s, scd_batcher *b, scd_work work, scd_order *orders,
                            size_t n)
{
    *s = (submission){.n = n};
    s->ticket = scd_calloc(1, sizeof *s->ticket);
    s->created = scd_calloc(n, sizeof *s->created);
    s->has_value = scd_calloc(n, sizeof *s->has_value);
    if (s->ticket)
        s->ticket->waiters = scd_calloc(n, sizeof *s->ticket->waiters);
    bool ok = s->ticket && s->created && s->has_value && s->ticket->waiters;
    size_t rows = 0;
    for (size_t i = 0; ok && i < n; i++) {
        s->created[i] = scd_unit_new(&orders[i].key, orders[i].cell, work);
        ok = s->created[i] != NULL;
        rows += orders[i].cell->n_tokens + 1;
        s->ticket->waiters[i] = (scd_waiter){.ticket = s->ticket, .order = &orders[i]};
    }
    if (!ok) {
        submission_release(s);
        return false;
    }
    s->ticket->work = work;
    s->ticket->rank = rows > b->max_rows ? SCD_BULK : SCD_INTERACTIVE;
    s->ticket->n_waiters = s->ticket->n_left = n;
    return true;
}

/* Under the lock: join what is in flight, enter the rest into the table as look-ups. Created units
 * move to the front of s->created. */
static void enter(scd_batcher *b, submission *s, scd_unit **spare)
{
    for (size_t i = 0; i < s->n; i++) {
        scd_waiter *w = &s->ticket->waiters[i];
        scd_unit *mine = s->created[i];
        scd_unit *u = scd_flight_find(&b->flight, &mine->key);
        w->order->source = u ? SCD_SOURCE_COALESCED : SCD_SOURCE_MISS;
        s->created[i] = NULL;
        if (u) {
            mine->hash_next = *spare;
            *spare = mine;
        } else {
            u = mine;
            scd_flight_insert(&b->flight, u);
            s->created[s->n_created++] = u;
        }
        scd_unit_wait(u, w);
        /* A single cell does not wait behind a bulk request that has it too. */
        if (u->owner && s->ticket->rank < u->owner->rank)
            move_queued(b, u, s->ticket);
    }
}

/* Outside the lock: a result that was stored since the caller asked the cache. */
static void look_again(scd_batcher *b, submission *s)
{
    size_t width = width_of(b, s->ticket->work), bytes = width * sizeof(float);
    s->found = scd_malloc(s->n_created, bytes);
    scd_buf value;
    scd_buf_init(&value, bytes);
    for (size_t i = 0; s->found && i < s->n_created; i++) {
        scd_buf_clear(&value);
        s->has_value[i] =
            scd_store_get(b->o.store, &s->created[i]->key, &value) && value.n_bytes == bytes;
        if (s->has_value[i])
            memcpy(s->found + i * width, value.data, bytes);
    }
    scd_buf_release(&value);
}

/* Under the lock: is there room for the `need` tokens of request `serial`? Fills *refusal where
 * there is not. */
static bool admit(scd_batcher *b, size_t need, uint64_t serial, scd_outcome *refusal)
{
    scd_admission *a = &b->admission;
    *refusal = (scd_outcome){0};
    if (b->draining || b->stopping) {
        refusal->code = SCD_E_CANCELED;
        snprintf(refusal->message, sizeof refusal->message, "the server is shutting down");
    } else if (need > a->max_tokens) {
        refusal->code = SCD_E_TOO_LARGE;
        snprintf(refusal->message, sizeof refusal->message,
                 "the request needs %zu tokens computed, the queue holds at most %zu: send fewer "
                 "cells at a time",
                 need, a->max_tokens);
    } else if (!scd_admission_has_room(a, need)) {
        refusal->code = SCD_E_BUSY;
        refusal->retry_after_s = scd_admission_turn_away(a, need, serial, scd_now_ns());
        snprintf(refusal->message, sizeof refusal->message,
                 "the queue is full (%zu of %zu tokens): try again in %d s", a->queued_tokens,
                 a->max_tokens, refusal->retry_after_s);
    }
    return refusal->code == SCD_OK;
}

static void refuse_ticket(scd_batcher *b, scd_ticket *t, const scd_outcome *refusal,
                          scd_ticket **ended)
{
    if (!t->outcome.code)
        t->outcome.retry_after_s = refusal->retry_after_s;
    fail_ticket(b, t, refusal->code, refusal->message, ended);
}

/* Under the lock: hand out what the cache had, queue the rest if there is room for all of it, else
 * refuse the ticket. Others may have joined its look-ups: they are judged by what they wait for. */
static void settle(scd_batcher *b, submission *s, scd_ticket **ended)
{
    scd_ticket *t = s->ticket;
    scd_outcome refusal;
    size_t width = width_of(b, t->work), need = 0;
    for (size_t i = 0; i < s->n_created; i++)
        if (!s->has_value[i] && s->created[i]->waiters)
            need += s->created[i]->cell.n_tokens;
    bool room = !need || admit(b, need, t->serial, &refusal);
    if (!room)
        refuse_ticket(b, t, &refusal, ended);
    for (size_t i = 0; i < s->n_created; i++) {
        scd_unit *u = s->created[i];
        s->created[i] = NULL;
        if (s->has_value[i]) {
            deliver(b, u, s->found + i * width, true, ended);
            continue;
        }
        if (u->waiters &&
            (room || admit(b, u->cell.n_tokens, u->waiters->ticket->serial, &refusal))) {
            count_queued(b, u->cell.n_tokens, true);
            scd_flight_queue(&b->flight, scd_unit_heir(u), u);
            continue;
        }
        while (u->waiters)
            refuse_ticket(b, u->waiters->ticket, &refusal, ended);
        scd_flight_remove(&b->flight, u);
        free(u);
    }
    t->submitting = false;
    end_if_over(b, t, ended);
    scd_gate_wake(&b->gate);
}

scd_code scd_batcher_submit(scd_batcher *b, scd_work work, scd_order *orders, size_t n,
                            uint64_t serial, scd_ticket_done *done, void *arg, scd_error *err)
{
    submission s;
    if (!submission_init(&s, b, work, orders, n))
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu cells", n);
    scd_ticket *t = s.ticket, *ended = NULL;
    scd_unit *spare = NULL;
    t->done = done;
    t->arg = arg;
    t->submitted_ns = scd_now_ns();
    t->submitting = true;

    scd_gate_lock(&b->gate);
    t->serial = serial;
    scd_flight_add_ticket(&b->flight, t);
    enter(b, &s, &spare);
    scd_gate_unlock(&b->gate);

    look_again(b, &s);

    scd_gate_lock(&b->gate);
    settle(b, &s, &ended);
    scd_gate_unlock(&b->gate);

    finish_all(ended);
    s.ticket = NULL; /* the table's now, or freed */
    submission_release(&s);
    while (spare) {
        scd_unit *next = spare->hash_next;
        free(spare);
        spare = next;
    }
    return SCD_OK;
}

void scd_batcher_cancel(scd_batcher *b, uint64_t serial, scd_code code)
{
    scd_ticket *ended = NULL;
    scd_gate_lock(&b->gate);
    scd_ticket *t = scd_flight_find_ticket(&b->flight, serial);
    if (t)
        fail_ticket(b, t, code,
                    code == SCD_E_TIMEOUT ? "the deadline passed before the result was there"
                                          : "the request was given up",
                    &ended);
    scd_gate_unlock(&b->gate);
    finish_all(ended);
}

/* ---- batch-0 -------------------------------------------------------------------------------- */

/* Under the lock: the next batch, or 0 when stopping. */
static size_t next_batch(scd_batcher *b)
{
    while (!b->stopping) {
        size_t rows;
        size_t n = scd_flight_pick(&b->flight, b->max_rows, b->picked, b->max_units, &rows);
        if (n) {
            int64_t now = scd_now_ns();
            for (size_t i = 0; i < n; i++)
                for (scd_waiter *w = b->picked[i]->waiters; w; w = w->next)
                    if (!w->ticket->started_ns) {
                        w->ticket->started_ns = now;
                        scd_metrics_observe(b->o.metrics, SCD_HIST_QUEUE_SECONDS,
                                            (double)(now - w->ticket->submitted_ns) * 1e-9);
                    }
            return n;
        }
        scd_gate_wait(&b->gate, SCD_NEVER);
    }
    return 0;
}

static void count_batch(scd_batcher *b, size_t n, size_t tokens, double seconds)
{
    scd_metrics_add(b->o.metrics, SCD_COUNTER_ENGINE_CELLS, n);
    scd_metrics_add(b->o.metrics, SCD_COUNTER_ENGINE_TOKENS, tokens);
    scd_metrics_observe(b->o.metrics, SCD_HIST_INFER_SECONDS, seconds);
    scd_metrics_observe(b->o.metrics, SCD_HIST_BATCH_TOKENS, (double)tokens);
    scd_metrics_observe(b->o.metrics, SCD_HIST_BATCH_CELLS, (double)n);
}

/* Compute the n picked units, store and hand out the results. */
static void run_batch(scd_batcher *b, size_t n)
{
    scd_work work = b->picked[0]->work;
    size_t width = width_of(b, work), tokens = 0;
    for (size_t i = 0; i < n; i++) {
        b->cells[i] = &b->picked[i]->cell;
        tokens += b->picked[i]->cell.n_tokens;
    }
    scd_error err = {0};
    int64_t start = scd_now_ns();
    scd_code code = scd_engine_compute(b->o.engine, work, b->cells, n, b->results, &err);
    double seconds = (double)(scd_now_ns() - start) * 1e-9;
    for (size_t i = 0; i < n && !code; i++)
        scd_store_put(b->o.store, &b->picked[i]->key, b->results + i * width,
                      width * sizeof(float));
    if (code && b->o.log)
        b->o.log(b->o.log_arg, &err);
    if (!code)
        count_batch(b, n, tokens, seconds);

    scd_ticket *ended = NULL;
    scd_gate_lock(&b->gate);
    count_queued(b, tokens, false);
    if (!code)
        scd_admission_measure(&b->admission, tokens, seconds);
    for (size_t i = 0; i < n; i++) {
        if (code)
            fail_unit(b, b->picked[i], code, err.message, &ended);
        else
            deliver(b, b->picked[i], b->results + i * width, false, &ended);
    }
    scd_gate_unlock(&b->gate);
    finish_all(ended);
}

static void *run_batches(void *arg)
{
    scd_batcher *b = arg;
    scd_thread_give_way(); /* to http-N: probes are answered while the cores compute */
    for (;;) {
        scd_gate_lock(&b->gate);
        size_t n = next_batch(b);
        scd_gate_unlock(&b->gate);
        if (!n)
            return NULL;
        run_batch(b, n);
    }
}

/* ---- life ----------------------------------------------------------------------------------- */

static size_t widest_result(const scd_batcher *b)
{
    size_t widest = 0;
    for (size_t m = 0; m < scd_engine_n_models(b->o.engine); m++) {
        const scd_served_model *model = scd_engine_model(b->o.engine, m);
        for (size_t h = 0; h <= model->n_heads; h++) {
            size_t width =
                width_of(b, (scd_work){.model = m, .head = h ? model->heads[h - 1] : NULL});
            widest = width > widest ? width : widest;
        }
    }
    return widest;
}

scd_code scd_batcher_open(const scd_batcher_options *options, scd_batcher **out, scd_error *err)
{
    *out = NULL;
    scd_batcher *b = scd_calloc(1, sizeof *b);
    if (!b)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    b->o = *options;
    b->admission.max_tokens = options->max_queue_tokens;
    scd_code code = scd_gate_init(&b->gate, err);
    if (code) {
        free(b);
        return code;
    }
    size_t widest = widest_result(b);
    b->max_rows = scd_engine_max_rows(b->o.engine);
    b->max_units = b->max_rows / 2;
    b->picked = scd_calloc(b->max_units, sizeof *b->picked);
    b->cells = scd_calloc(b->max_units, sizeof *b->cells);
    b->results = scd_malloc(b->max_units * widest, sizeof *b->results);
    if (!b->picked || !b->cells || !b->results)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for batches of %zu tokens", b->max_rows);
    if (!code)
        code = scd_flight_init(&b->flight, err);
    if (!code)
        code = scd_thread_start(&b->thread, "batch-0", run_batches, b, err);
    if (code) {
        scd_batcher_close(b);
        return code;
    }
    *out = b;
    return SCD_OK;
}

void scd_batcher_stop(scd_batcher *b)
{
    scd_ticket *ended = NULL;
    scd_gate_lock(&b->gate);
    b->stopping = true;
    scd_gate_wake(&b->gate);
    scd_gate_unlock(&b->gate);
    scd_thread_join(&b->thread);
    scd_gate_lock(&b->gate);
    /* A ticket that is still being submitted stays in the table: its submitter ends it. */
    for (size_t i = 0; b->flight.tickets && i < SCD_FLIGHT_BUCKETS; i++)
        for (scd_ticket *t = b->flight.tickets[i], *next; t; t = next) {
            next = t->hash_next;
            fail_ticket(b, t, SCD_E_CANCELED, "the server is shutting down", &ended);
        }
    scd_gate_unlock(&b->gate);
    finish_all(ended);
}

void scd_batcher_close(scd_batcher *b)
{
    if (!b)
        return;
    scd_batcher_stop(b);
    scd_flight_release(&b->flight);
    scd_gate_release(&b->gate);
    free(b->results);
    free(b->cells);
    free(b->picked);
    free(b);
}

/* One kind of work on a short cell: twice, for the first touches every page and the second is
 * timed. */
static scd_code warm_up(scd_batcher *b, scd_work work, scd_error *err)
{
    enum { TOKENS = 64 };
    int32_t ids[TOKENS];
    float values[TOKENS];
    const scd_model_config *c = scd_engine_model(b->o.engine, work.model)->config;
    size_t n = 0;
    for (int32_t id = 0; (size_t)id < c->vocab && n < TOKENS && n < c->max_gene_len; id++)
        if (!scd_model_is_special(c, id)) {
            ids[n] = id;
            values[n++] = 1.0f;
        }
    scd_cell cell = {.n_tokens = n, .ids = ids, .values = values};
    const scd_cell *cells = &cell;
    int64_t start = 0;
    scd_code code = SCD_OK;
    for (int run = 0; run < 2 && !code; run++) {
        start = scd_now_ns();
        code = scd_engine_compute(b->o.engine, work, &cells, 1, b->results, err);
    }
    scd_gate_lock(&b->gate);
    scd_admission_measure(&b->admission, n, (double)(scd_now_ns() - start) * 1e-9);
    scd_gate_unlock(&b->gate);
    return code;
}

scd_code scd_batcher_warm_up(scd_batcher *b, scd_error *err)
{
    scd_code code = SCD_OK;
    for (size_t m = 0; m < scd_engine_n_models(b->o.engine) && !code; m++) {
        const scd_served_model *model = scd_engine_model(b->o.engine, m);
        for (size_t h = 0; h <= model->n_heads && !code; h++)
            code = warm_up(b, (scd_work){.model = m, .head = h ? model->heads[h - 1] : NULL}, err);
    }
    return code;
}

bool scd_batcher_drain(scd_batcher *b, int64_t deadline_ns)
{
    scd_gate_lock(&b->gate);
    b->draining = true;
    while (b->flight.n_tickets && scd_gate_wait(&b->gate, deadline_ns))
        ;
    bool empty = !b->flight.n_tickets;
    scd_gate_unlock(&b->gate);
    return empty;
}

size_t scd_batcher_queued(scd_batcher *b)
{
    scd_gate_lock(&b->gate);
    size_t tokens = b->admission.queued_tokens;
    scd_gate_unlock(&b->gate);
    return tokens;
}

double scd_batcher_rate(scd_batcher *b)
{
    scd_gate_lock(&b->gate);
    double r = scd_admission_rate(&b->admission);
    scd_gate_unlock(&b->gate);
    return r;
}
