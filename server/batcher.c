/* batcher.c - see batcher.h.
 *
 * How tickets end, and what batch-0 does: fill a batch, take every cell of it one pass further,
 * hand out what is finished and queue the rest again.
 *
 * Threads: batch-0 runs run_batches(); `gate` protects everything but the engine and the arrays
 *          that are batch-0's own. */
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

static void drop(scd_batcher *b, scd_unit *u)
{
    scd_batcher_count_out(b, u);
    scd_flight_remove(&b->flight, u);
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
            drop(b, u);
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

static void fail_unit(scd_batcher *b, scd_unit *u, scd_code code, const char *message,
                      scd_ticket **ended)
{
    while (u->waiters)
        scd_ticket_fail(b, u->waiters->ticket, code, message, ended);
    drop(b, u);
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

/* ---- batch-0 -------------------------------------------------------------------------------- */

/* An interactive cell that comes waits for the batch that has begun: where such cells come, batches
 * of patient work take about so long; where none came for a while, as long as is good for them. */
static const double SHORT_S = 0.003, LONG_S = 0.05;
static const int64_t QUIET_NS = SCD_NS_PER_S;

/* Rows of patient work that take so long at the measured rate, but no fewer than are worth a batch
 * on this device. */
static size_t patient_rows(const scd_batcher *b, int64_t now)
{
    double seconds = now - b->interactive_ns < QUIET_NS ? SHORT_S : LONG_S;
    double rows = scd_admission_rate(&b->admission) * seconds;
    size_t least = scd_engine_good_rows(b->o.engine);
    return rows < (double)least ? least : rows < (double)b->max_rows ? (size_t)rows : b->max_rows;
}

/* Under the lock: the next batch, or 0 when stopping. */
static size_t next_batch(scd_batcher *b)
{
    while (!b->stopping) {
        int64_t now = scd_now_ns();
        scd_pick_room room = {b->max_units, b->max_rows, patient_rows(b, now)};
        size_t took[SCD_N_CLASSES];
        size_t n = scd_flight_pick(&b->flight, &room, b->picked, took);
        if (n) {
            if (took[SCD_INTERACTIVE])
                b->interactive_ns = now;
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

/* Cells count when they are finished, tokens with every pass. */
static void count_batch(scd_batcher *b, size_t n, size_t finished, size_t tokens, double seconds)
{
    scd_metrics_add(b->o.metrics, SCD_COUNTER_ENGINE_CELLS, finished);
    scd_metrics_add(b->o.metrics, SCD_COUNTER_ENGINE_TOKENS, tokens);
    scd_metrics_observe(b->o.metrics, SCD_HIST_INFER_SECONDS, seconds);
    scd_metrics_observe(b->o.metrics, SCD_HIST_BATCH_TOKENS, (double)tokens);
    scd_metrics_observe(b->o.metrics, SCD_HIST_BATCH_CELLS, (double)n);
}

static bool is_finished(const scd_unit *u)
{
    return !u->course || !scd_course_passes_left(u->course);
}

static const float *result_of(const scd_batcher *b, size_t i)
{
    size_t width;
    return b->picked[i]->course ? scd_course_result(b->picked[i]->course, &width) : b->steps[i].out;
}

/* The finished ones of n picked units go to the cache. How many. */
static size_t store_finished(scd_batcher *b, size_t n)
{
    size_t finished = 0;
    for (size_t i = 0; i < n; i++) {
        const scd_unit *u = b->picked[i];
        if (!is_finished(u))
            continue;
        scd_store_put(b->o.store, &u->key, result_of(b, i), scd_unit_width(b, u) * sizeof(float));
        finished++;
    }
    return finished;
}

/* Under the lock: what is finished is handed out; the rest stands in its old order again, in front,
 * unless nobody waits for it any more. */
static void settle_passes(scd_batcher *b, size_t n, scd_ticket **ended)
{
    for (size_t i = 0; i < n; i++) {
        scd_unit *u = b->picked[i];
        scd_batcher_count_pass(b, u);
        if (!is_finished(u))
            continue;
        scd_batcher_count_out(b, u);
        scd_unit_deliver(b, u, result_of(b, i), false, ended);
        b->picked[i] = NULL;
    }
    for (size_t i = n; i-- > 0;) {
        scd_unit *u = b->picked[i];
        if (u && u->waiters)
            scd_flight_queue_again(&b->flight, scd_unit_heir(u), u);
        else if (u)
            drop(b, u);
    }
}

/* One pass for each of the n picked units. */
static void run_batch(scd_batcher *b, size_t n)
{
    scd_work work = b->picked[0]->work;
    size_t width = scd_batcher_width(b, work), tokens = 0;
    for (size_t i = 0; i < n; i++) {
        scd_unit *u = b->picked[i];
        b->steps[i] = (scd_step){&u->cell, u->course, b->results + i * width};
        tokens += u->cell.n_tokens;
    }
    scd_error err = {0};
    int64_t start = scd_now_ns();
    scd_code code = scd_engine_step(b->o.engine, work, b->steps, n, &err);
    double seconds = (double)(scd_now_ns() - start) * 1e-9;
    if (!code)
        count_batch(b, n, store_finished(b, n), tokens, seconds);
    else if (b->o.log)
        b->o.log(b->o.log_arg, &err);

    scd_ticket *ended = NULL;
    scd_gate_lock(&b->gate);
    if (!code)
        scd_admission_measure(&b->admission, tokens, seconds);
    if (!code)
        settle_passes(b, n, &ended);
    for (size_t i = 0; code && i < n; i++)
        fail_unit(b, b->picked[i], code, err.message, &ended);
    scd_gate_unlock(&b->gate);
    scd_tickets_finish(ended);
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
            size_t width = scd_batcher_width(
                b, (scd_work){.model = m, .head = h ? model->heads[h - 1] : NULL});
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
    b->steps = scd_calloc(b->max_units, sizeof *b->steps);
    b->results = scd_malloc(b->max_units * widest, sizeof *b->results);
    if (!b->picked || !b->steps || !b->results)
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
            scd_ticket_fail(b, t, SCD_E_CANCELED, "the server is shutting down", &ended);
        }
    scd_gate_unlock(&b->gate);
    scd_tickets_finish(ended);
}

void scd_batcher_close(scd_batcher *b)
{
    if (!b)
        return;
    scd_batcher_stop(b);
    scd_flight_release(&b->flight);
    scd_gate_release(&b->gate);
    free(b->results);
    free(b->steps);
    free(b->picked);
    free(b);
}

/* One kind of work on a short cell: twice, for the first touches every page and the second is
 * timed. With a course, every token is hidden. */
static scd_code warm_up(scd_batcher *b, scd_work work, bool with_course, scd_error *err)
{
    enum { TOKENS = 64 };
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
        scd_step step = {.cell = &cell, .out = b->results};
        if (with_course)
            code = scd_course_new(&plan, c, &cell, &step.course, err);
        start = scd_now_ns();
        if (!code)
            code = scd_engine_step(b->o.engine, work, &step, 1, err);
        scd_course_free(step.course);
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
        if (scd_engine_denoises(b->o.engine))
            code = warm_up(b, (scd_work){.model = m}, true, err);
        for (size_t h = 0; h <= model->n_heads && !code; h++) {
            scd_work work = {.model = m, .head = h ? model->heads[h - 1] : NULL};
            code = warm_up(b, work, false, err);
        }
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
