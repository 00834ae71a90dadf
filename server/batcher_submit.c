/* batcher_submit.c - see batcher.h: from cells asked for to queued units, all or nothing.
 *
 * Single flight covers the cache look-up too: a unit enters the table before its creator asks the
 * cache, and leaves it after its result was stored. So a cell that was ever computed is either in
 * the table or in the store, and is never computed twice.
 *
 * Threads: any; `gate` protects everything that is shared. */
#include "server/batcher_impl.h"

#include "engine/base/buf.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What one submit holds between its two turns at the lock. */
typedef struct submission {
    scd_ticket *ticket;
    scd_unit **created; /* (n) new units, NULL where the cell was in flight already */
    float *found;       /* (n_created, widest) cached values that turned up meanwhile */
    size_t n, n_created, widest;
    bool *has_value; /* (n_created) */
} submission;

static void submission_release(submission *s)
{
    for (size_t i = 0; s->created && i < s->n; i++)
        scd_unit_free(s->created[i]);
    free(s->created);
    free(s->found);
    free(s->has_value);
    if (s->ticket)
        free(s->ticket->waiters);
    free(s->ticket);
}

/* Passes of one cell at most. */
static size_t passes_of(const scd_order *order)
{
    return order->course ? scd_course_passes_left(order->course) : 1;
}

static bool submission_init(submission *s, scd_batcher *b, const scd_ask *ask)
{
    *s = (submission){.n = ask->n};
    s->ticket = scd_calloc(1, sizeof *s->ticket);
    s->created = scd_calloc(ask->n, sizeof *s->created);
    s->has_value = scd_calloc(ask->n, sizeof *s->has_value);
    if (s->ticket)
        s->ticket->waiters = scd_calloc(ask->n, sizeof *s->ticket->waiters);
    bool ok = s->ticket && s->created && s->has_value && s->ticket->waiters;
    size_t rows = 0, most_passes = 1;
    for (size_t i = 0; ok && i < ask->n; i++) {
        scd_order *order = &ask->orders[i];
        s->created[i] =
            scd_unit_new(&order->key, order->cell, order->work ? *order->work : ask->work);
        ok = s->created[i] != NULL;
        size_t passes = passes_of(order);
        rows += (order->cell->n_tokens + 1) * passes;
        most_passes = passes > most_passes ? passes : most_passes;
        s->ticket->waiters[i] = (scd_waiter){.ticket = s->ticket, .order = order};
    }
    for (size_t i = 0; i < ask->n; i++) {
        if (ok) {
            s->created[i]->course = ask->orders[i].course;
            s->created[i]->identity = ask->identity;
        } else
            scd_course_free(ask->orders[i].course);
        ask->orders[i].course = NULL;
    }
    if (!ok) {
        submission_release(s);
        return false;
    }
    s->ticket->work = ask->work;
    s->ticket->rank = ask->bulk || rows > b->max_rows ? SCD_BULK
                      : most_passes > 1               ? SCD_STEPS
                                                      : SCD_INTERACTIVE;
    s->ticket->n_waiters = s->ticket->n_left = ask->n;
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
            scd_unit_move(b, u, s->ticket);
    }
}

/* Outside the lock: a result that was stored since the caller asked the cache. */
static void look_again(scd_batcher *b, submission *s)
{
    for (size_t i = 0; i < s->n_created; i++) {
        size_t width = scd_unit_width(b, s->created[i]);
        s->widest = width > s->widest ? width : s->widest;
    }
    s->found = scd_malloc(s->n_created, s->widest * sizeof *s->found);
    scd_buf value;
    scd_buf_init(&value, s->widest * sizeof *s->found);
    for (size_t i = 0; s->found && i < s->n_created; i++) {
        size_t bytes = scd_unit_width(b, s->created[i]) * sizeof *s->found;
        scd_buf_clear(&value);
        s->has_value[i] =
            scd_store_get(b->o.store, &s->created[i]->key, &value) && value.n_bytes == bytes;
        if (s->has_value[i])
            memcpy(s->found + i * s->widest, value.data, bytes);
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
    scd_ticket_fail(b, t, refusal->code, refusal->message, ended);
}

/* Under the lock: hand out what the cache had, queue the rest if there is room for all of it, else
 * refuse the ticket. Others may have joined its look-ups: they are judged by what they wait for. */
static void settle(scd_batcher *b, submission *s, scd_ticket **ended)
{
    scd_ticket *t = s->ticket;
    scd_outcome refusal;
    size_t need = 0;
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
            scd_unit_deliver(b, u, s->found + i * s->widest, true, ended);
            continue;
        }
        if (u->waiters &&
            (room || admit(b, u->cell.n_tokens, u->waiters->ticket->serial, &refusal))) {
            scd_batcher_count_in(b, u);
            scd_flight_queue(&b->flight, scd_unit_heir(u), u);
            continue;
        }
        while (u->waiters)
            refuse_ticket(b, u->waiters->ticket, &refusal, ended);
        scd_flight_remove(&b->flight, u);
        scd_unit_free(u);
    }
    t->submitting = false;
    scd_ticket_end_if_over(b, t, ended);
    scd_gate_wake(&b->gate);
}

scd_code scd_batcher_submit(scd_batcher *b, const scd_ask *ask, scd_error *err)
{
    submission s;
    if (!submission_init(&s, b, ask))
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu cells", ask->n);
    scd_ticket *t = s.ticket, *ended = NULL;
    scd_unit *spare = NULL;
    t->done = ask->done;
    t->arg = ask->arg;
    t->serial = ask->serial;
    t->submitted_ns = scd_now_ns();
    t->submitting = true;

    scd_gate_lock(&b->gate);
    scd_flight_add_ticket(&b->flight, t);
    enter(b, &s, &spare);
    scd_gate_unlock(&b->gate);

    look_again(b, &s);

    scd_gate_lock(&b->gate);
    settle(b, &s, &ended);
    scd_gate_unlock(&b->gate);

    scd_tickets_finish(ended);
    s.ticket = NULL; /* the table's now, or freed */
    submission_release(&s);
    while (spare) {
        scd_unit *next = spare->hash_next;
        scd_unit_free(spare);
        spare = next;
    }
    return SCD_OK;
}
