/* batcher.c - see batcher.h: how tickets end, and the batcher's own life; lane.c has the batches.
 *
 * Threads: `gate` protects everything but the engine and what is a lane's own. */
#include "server/batcher_impl.h"

#include "engine/base/clock.h"
#include "engine/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- how tickets end: under the lock they are chained by hash_next, outside it finished --------
 */

void scd_tickets_finish(scd_ticket *ended)
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

void scd_ticket_end_if_over(scd_batcher *b, scd_ticket *t, scd_ticket **ended)
{
    if (t->submitting || (t->n_left && !t->outcome.code))
        return;
    scd_flight_remove_ticket(&b->flight, t);
    t->hash_next = *ended;
    *ended = t;
    if (!b->flight.n_tickets)
        scd_gate_wake(&b->gate); /* drain waits for this */
}

static void show_queued(const scd_batcher *b)
{
    scd_metrics_set(b->o.metrics, SCD_GAUGE_QUEUE_TOKENS, (int64_t)b->admission.queued_tokens);
}

static void set_work(scd_batcher *b, scd_unit *u, size_t passes)
{
    b->admission.work_tokens -= u->work_tokens;
    u->work_tokens = passes * u->cell.n_tokens;
    b->admission.work_tokens += u->work_tokens;
}

void scd_batcher_count_in(scd_batcher *b, scd_unit *u)
{
    b->admission.queued_tokens += u->cell.n_tokens;
    set_work(b, u, u->course ? scd_course_passes_left(u->course) : 1);
    show_queued(b);
}

void scd_batcher_count_pass(scd_batcher *b, scd_unit *u)
{
    set_work(b, u, u->course ? scd_course_passes_left(u->course) : 0);
}

void scd_batcher_count_out(scd_batcher *b, scd_unit *u)
{
    set_work(b, u, 0);
    b->admission.queued_tokens -= u->cell.n_tokens;
    show_queued(b);
}

void scd_unit_drop(scd_batcher *b, scd_unit *u)
{
    if (!u->left_behind) {
        scd_batcher_count_out(b, u);
        scd_flight_remove(&b->flight, u);
    }
    scd_unit_free(u);
}

void scd_unit_move(scd_batcher *b, scd_unit *u, scd_ticket *to)
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
            scd_unit_move(b, u, scd_unit_heir(u));
        else
            scd_unit_drop(b, u);
    }
}

void scd_ticket_fail(scd_batcher *b, scd_ticket *t, scd_code code, const char *message,
                     scd_ticket **ended)
{
    if (t->outcome.code)
        return;
    t->outcome.code = code;
    snprintf(t->outcome.message, sizeof t->outcome.message, "%.255s", message);
    abandon(b, t);
    scd_ticket_end_if_over(b, t, ended);
}

void scd_unit_deliver(scd_batcher *b, scd_unit *u, const float *value, bool from_cache,
                      scd_ticket **ended)
{
    size_t bytes = scd_unit_width(b, u) * sizeof *value;
    for (scd_waiter *w = u->waiters, *next; w; w = next) {
        next = w->next;
        memcpy(w->order->out, value, bytes);
        if (from_cache)
            w->order->source = SCD_SOURCE_HIT;
        w->unit = NULL;
        w->ticket->n_left--;
        scd_ticket_end_if_over(b, w->ticket, ended);
    }
    scd_flight_remove(&b->flight, u);
    scd_unit_free(u);
}

void scd_unit_fail(scd_batcher *b, scd_unit *u, scd_code code, const char *message,
                   scd_ticket **ended)
{
    while (u->waiters)
        scd_ticket_fail(b, u->waiters->ticket, code, message, ended);
    scd_unit_drop(b, u);
}

void scd_batcher_cancel(scd_batcher *b, uint64_t serial, scd_code code)
{
    scd_ticket *ended = NULL;
    scd_gate_lock(&b->gate);
    scd_ticket *t = scd_flight_find_ticket(&b->flight, serial);
    if (t)
        scd_ticket_fail(b, t, code,
                        code == SCD_E_TIMEOUT ? "the deadline passed before the result was there"
                                              : "the request was given up",
                        &ended);
    scd_gate_unlock(&b->gate);
    scd_tickets_finish(ended);
}

/* ---- life ----------------------------------------------------------------------------------- */

static size_t widest_result(const scd_batcher *b)
{
    size_t widest = 0;
    for (size_t m = 0; m < scd_engine_n_models(b->o.engine); m++) {
        const scd_served_model *model = scd_engine_model(b->o.engine, m);
        for (size_t h = 0; h <= model->n_heads; h++) {
            size_t width = scd_batcher_width(
                b, (scd_work){.model = m, .head = h ? model->heads[h - 1] : NULL});
            widest = width > widest ? width : widest;
        }
    }
    return widest;
}

/* One for each device, and room to count for the CPU that may come. */
static scd_code open_lanes(scd_batcher *b, scd_error *err)
{
    size_t n = scd_engine_n_devices(b->o.engine), widest = widest_result(b);
    scd_code code = SCD_OK;
    b->max_rows = scd_engine_max_rows(b->o.engine);
    b->lanes = scd_calloc(n, sizeof *b->lanes);
    b->devices = scd_calloc(n + 1, sizeof *b->devices);
    if (!b->lanes || !b->devices)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu devices", n);
    b->n_lanes = b->n_lanes_left = n;
    for (size_t i = 0; i < n && !code; i++)
        code = scd_lane_init(&b->lanes[i], b, i, widest, err);
    return code;
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
    code = open_lanes(b, err);
    if (!code)
        code = scd_flight_init(&b->flight, err);
    for (size_t i = 0; i < b->n_lanes && !code; i++) {
        char name[16];
        snprintf(name, sizeof name, "batch-%u", (unsigned)i % 1000);
        code = scd_thread_start(&b->lanes[i].thread, name, scd_lane_run, &b->lanes[i], err);
    }
    if (code) {
        scd_batcher_close(b);
        return code;
    }
    *out = b;
    return SCD_OK;
}

/* Under the lock: the lane's thread comes to its end; false: a silent device has it. */
static bool await_end(scd_batcher *b, const scd_lane *l)
{
    while (l->thread.running && !l->ended) {
        int64_t now = scd_now_ns();
        if (scd_lane_silent_s(l, now) > 0)
            return false;
        scd_gate_wait(&b->gate, now + SCD_NS_PER_S);
    }
    return true;
}

bool scd_batcher_stop(scd_batcher *b)
{
    scd_ticket *ended = NULL;
    bool all = true;
    scd_gate_lock(&b->gate);
    b->stopping = true;
    scd_gate_wake(&b->gate);
    for (size_t i = 0; i < b->n_lanes; i++) {
        bool ends = await_end(b, &b->lanes[i]);
        scd_gate_unlock(&b->gate);
        if (ends)
            scd_thread_join(&b->lanes[i].thread);
        all = all && ends;
        scd_gate_lock(&b->gate);
    }
    /* A ticket that is still being submitted stays in the table: its submitter ends it. */
    for (size_t i = 0; b->flight.tickets && i < SCD_FLIGHT_BUCKETS; i++)
        for (scd_ticket *t = b->flight.tickets[i], *next; t; t = next) {
            next = t->hash_next;
            scd_ticket_fail(b, t, SCD_E_CANCELED, "the server is shutting down", &ended);
        }
    scd_gate_unlock(&b->gate);
    scd_tickets_finish(ended);
    return all;
}

void scd_batcher_close(scd_batcher *b)
{
    if (!b)
        return;
    scd_batcher_stop(b);
    scd_flight_release(&b->flight);
    scd_gate_release(&b->gate);
    for (size_t i = 0; i < b->n_lanes; i++)
        scd_lane_release(&b->lanes[i]);
    free(b->devices);
    free(b->lanes);
    free(b);
}

/* One kind of work on a short cell: twice, for the first touches every page and the second is
 * timed. With a course, every token is hidden. */
static scd_code warm_up(scd_lane *l, scd_work work, bool with_course, scd_error *err)
{
    enum { TOKENS = 64 };
    scd_batcher *b = l->batcher;
    int32_t ids[TOKENS];
    float values[TOKENS];
    uint8_t hidden[TOKENS];
    const scd_model_config *c = scd_engine_model(b->o.engine, work.model)->config;
    size_t n = 0;
    for (int32_t id = 0; (size_t)id < c->vocab && n < TOKENS && n < c->max_gene_len; id++)
        if (!scd_model_is_special(c, id)) {
            ids[n] = id;
            hidden[n] = 1;
            values[n++] = 1.0f;
        }
    scd_cell cell = {.n_tokens = n, .ids = ids, .values = values};
    scd_plan plan = {.kind = SCD_PLAN_SAMPLE, .hidden = hidden, .steps = 1};
    int64_t start = 0;
    scd_code code = SCD_OK;
    for (int run = 0; run < 2 && !code; run++) {
        scd_step step = {.cell = &cell, .out = l->loads[0].results};
        if (with_course)
            code = scd_course_new(&plan, c, &cell, &step.course, err);
        start = scd_now_ns();
        if (!code)
            code = scd_engine_step_on(b->o.engine, l->device, work, &step, 1, err);
        scd_course_free(step.course);
    }
    scd_gate_lock(&b->gate);
    scd_admission_measure(&b->admission, n,
                          (double)(scd_now_ns() - start) * 1e-9 / (double)b->n_lanes);
    scd_gate_unlock(&b->gate);
    return code;
}

static scd_code warm_up_lane(scd_lane *l, scd_error *err)
{
    scd_engine *engine = l->batcher->o.engine;
    scd_code code = SCD_OK;
    for (size_t m = 0; m < scd_engine_n_models(engine) && !code; m++) {
        const scd_served_model *model = scd_engine_model(engine, m);
        if (scd_engine_denoises(engine))
            code = warm_up(l, (scd_work){.model = m}, true, err);
        for (size_t h = 0; h <= model->n_heads && !code; h++) {
            scd_work work = {.model = m, .head = h ? model->heads[h - 1] : NULL};
            code = warm_up(l, work, false, err);
        }
    }
    if (code && l->batcher->n_lanes > 1)
        scd_fail_within(err, "%s", scd_engine_device_name(engine, l->device));
    return code;
}

scd_code scd_batcher_warm_up(scd_batcher *b, scd_error *err)
{
    scd_code code = SCD_OK;
    for (size_t i = 0; i < b->n_lanes && !code; i++)
        code = warm_up_lane(&b->lanes[i], err);
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

/* Under the lock: what is told of a device, as it is now. */
static scd_device_stats stats_of(const scd_batcher *b, size_t device, int64_t now)
{
    scd_device_stats stats = b->devices[device];
    for (size_t i = 0; i < b->n_lanes; i++)
        if (b->lanes[i].device == device)
            stats.silent_s = scd_lane_silent_s(&b->lanes[i], now);
    return stats;
}

bool scd_batcher_answers(scd_batcher *b)
{
    bool some = false;
    int64_t now = scd_now_ns();
    scd_gate_lock(&b->gate);
    for (size_t i = 0; i < scd_engine_n_devices(b->o.engine) && !some; i++) {
        scd_device_stats stats = stats_of(b, i, now);
        some = !stats.lost && stats.silent_s <= 0;
    }
    scd_gate_unlock(&b->gate);
    return some;
}

size_t scd_batcher_devices(scd_batcher *b, scd_device_stats *out, size_t most)
{
    int64_t now = scd_now_ns();
    scd_gate_lock(&b->gate);
    size_t n = scd_engine_n_devices(b->o.engine);
    n = n < most ? n : most;
    for (size_t i = 0; i < n; i++)
        out[i] = stats_of(b, i, now);
    scd_gate_unlock(&b->gate);
    return n;
}
