/* lane.c - see batcher_impl.h: what the thread batch-N does for its device. It fills a batch, takes
 * every cell of it one pass further, hands out what is finished and queues the rest again.
 *
 * A device that fails is not asked for more, for a GPU's errors stay: what its batch held is queued
 * again, in front, and another device's lane takes it. A cell that was there when two devices
 * failed may well be the reason, and is given up. The last lane goes on: on the CPU where the
 * daemon was told so, or else to fail what comes, in words of its own.
 *
 * Threads: batch-N runs scd_lane_run; `gate` protects everything but the engine and the arrays that
 *          are the lane's own. */
#include "server/batcher_impl.h"

#include "engine/base/clock.h"
#include "engine/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_LOSSES = 2 };

/* ---- a batch -------------------------------------------------------------------------------- */

/* Under the lock: the next batch, or 0 when stopping. */
static size_t next_batch(scd_lane *l)
{
    scd_batcher *b = l->batcher;
    while (!b->stopping) {
        size_t rows;
        size_t n = scd_flight_pick(&b->flight, l->max_rows, l->picked, l->max_units, &rows);
        if (n) {
            int64_t now = scd_now_ns();
            for (size_t i = 0; i < n; i++)
                for (scd_waiter *w = l->picked[i]->waiters; w; w = w->next)
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

/* `computed`: the batch did not fail. A course that was done before it did is finished. */
static bool is_finished(const scd_unit *u, bool computed)
{
    return u->course ? !scd_course_passes_left(u->course) : computed;
}

static const float *result_of(const scd_lane *l, size_t i)
{
    size_t width;
    return l->picked[i]->course ? scd_course_result(l->picked[i]->course, &width) : l->steps[i].out;
}

/* False: the unit's key names another identity than that of the lane's device. */
static bool is_of_device(const scd_lane *l, const scd_unit *u)
{
    const scd_device_info *info = scd_engine_device_at(l->batcher->o.engine, l->device);
    return !u->identity || !strcmp(u->identity, info->identity);
}

/* The finished ones of n picked units go to the cache. How many are finished. */
static size_t store_finished(scd_lane *l, size_t n, bool computed)
{
    scd_batcher *b = l->batcher;
    size_t finished = 0;
    for (size_t i = 0; i < n; i++) {
        const scd_unit *u = l->picked[i];
        if (!is_finished(u, computed))
            continue;
        if (is_of_device(l, u))
            scd_store_put(b->o.store, &u->key, result_of(l, i),
                          scd_unit_width(b, u) * sizeof(float));
        finished++;
    }
    return finished;
}

/* Under the lock: what is finished of n picked units is handed out. How many are left: they have
 * moved up. */
static size_t hand_out(scd_lane *l, size_t n, bool computed, scd_ticket **ended)
{
    scd_batcher *b = l->batcher;
    size_t left = 0;
    for (size_t i = 0; i < n; i++) {
        scd_unit *u = l->picked[i];
        if (computed || u->course)
            scd_batcher_count_pass(b, u);
        if (!is_finished(u, computed)) {
            l->picked[left++] = u;
            continue;
        }
        scd_batcher_count_out(b, u);
        for (scd_waiter *w = u->waiters; w && !is_of_device(l, u); w = w->next)
            w->ticket->outcome.moved = true;
        scd_unit_deliver(b, u, result_of(l, i), false, ended);
    }
    return left;
}

/* Under the lock: n picked units stand in their old order again, in front, unless nobody waits for
 * one any more. */
static void queue_again(scd_lane *l, size_t n)
{
    scd_batcher *b = l->batcher;
    for (size_t i = n; i-- > 0;) {
        scd_unit *u = l->picked[i];
        if (u->waiters)
            scd_flight_queue_again(&b->flight, scd_unit_heir(u), u);
        else
            scd_unit_drop(b, u);
    }
    if (n)
        scd_gate_wake(&b->gate); /* for other lanes */
}

static void fail_all(scd_lane *l, size_t n, const scd_error *err, scd_ticket **ended)
{
    for (size_t i = 0; i < n; i++)
        scd_unit_fail(l->batcher, l->picked[i], err->code, err->message, ended);
}

/* ---- a device that fails -------------------------------------------------------------------- */

static void tell(const scd_lane *l, scd_device_event event, size_t n_left, const scd_error *err)
{
    const scd_batcher_options *o = &l->batcher->o;
    if (o->on_device)
        o->on_device(o->arg, event, l->device, n_left, err);
}

/* Under the lock: what fails with a second device goes no further. How many are left. */
static size_t fail_repeated(scd_lane *l, size_t n, const scd_error *err, scd_ticket **ended)
{
    size_t left = 0;
    for (size_t i = 0; i < n; i++) {
        scd_unit *u = l->picked[i];
        if (++u->n_losses >= MOST_LOSSES)
            scd_unit_fail(l->batcher, u, err->code, err->message, ended);
        else
            l->picked[left++] = u;
    }
    return left;
}

/* Under the lock: courses that began on a device of another identity would come to an end that
 * neither device knows. How many of the n picked units are left. */
static size_t fail_begun(scd_lane *l, size_t n, scd_ticket **ended)
{
    static const char message[] =
        "the device failed on the way, and the CPU would not go on alike: "
        "send the request again";
    scd_batcher *b = l->batcher;
    size_t left = 0;
    for (size_t i = 0; i < SCD_FLIGHT_BUCKETS; i++)
        for (scd_unit *u = b->flight.units[i]; u;) {
            bool lost = u->state == SCD_UNIT_QUEUED && u->course &&
                        scd_course_has_begun(u->course) && !is_of_device(l, u);
            if (lost)
                scd_unit_fail(b, u, SCD_E_DEVICE, message, ended);
            u = lost ? b->flight.units[i] : u->hash_next; /* others may have gone with it */
        }
    for (size_t i = 0; i < n; i++) {
        scd_unit *u = l->picked[i];
        if (u->course && scd_course_has_begun(u->course))
            scd_unit_fail(b, u, SCD_E_DEVICE, message, ended);
        else
            l->picked[left++] = u;
    }
    return left;
}

/* The last device has failed with n units on it. True: the lane has the CPU now, and they are
 * queued. */
static bool move_to_cpu(scd_lane *l, size_t n)
{
    scd_batcher *b = l->batcher;
    scd_error err = {0};
    scd_ticket *ended = NULL;
    if (!b->o.move_to_cpu || b->moved)
        return false;
    b->moved = true; /* or tried to: once */
    tell(l, SCD_DEVICE_MOVES, 0, NULL);
    if (scd_engine_move_to_cpu(b->o.engine, &err)) {
        tell(l, SCD_DEVICE_STAYS, 0, &err);
        return false;
    }
    scd_gate_lock(&b->gate);
    l->device = scd_engine_n_devices(b->o.engine) - 1;
    size_t rows = scd_engine_max_rows_at(b->o.engine, l->device);
    l->max_rows = rows < l->max_rows ? rows : l->max_rows;
    queue_again(l, fail_begun(l, n, &ended));
    scd_gate_unlock(&b->gate);
    scd_tickets_finish(ended);
    tell(l, SCD_DEVICE_MOVED, 1, NULL);
    return true;
}

/* The lane's device has failed with n units on it. */
static void lose_device(scd_lane *l, size_t n, const scd_error *err)
{
    scd_batcher *b = l->batcher;
    scd_ticket *ended = NULL;
    scd_gate_lock(&b->gate);
    b->devices[l->device].lost = true;
    l->over = b->n_lanes_left > 1;
    b->n_lanes_left -= l->over;
    size_t n_left = l->over ? b->n_lanes_left : 0;
    scd_gate_unlock(&b->gate);
    tell(l, SCD_DEVICE_FAILED, n_left, err);
    if (!l->over && move_to_cpu(l, n))
        return;
    scd_gate_lock(&b->gate);
    if (l->over)
        queue_again(l, fail_repeated(l, n, err, &ended));
    else
        fail_all(l, n, err, &ended);
    scd_gate_unlock(&b->gate);
    scd_tickets_finish(ended);
}

/* ---- the thread ----------------------------------------------------------------------------- */

static void count_device(scd_lane *l, size_t tokens, double seconds)
{
    scd_device_stats *s = &l->batcher->devices[l->device];
    s->batches++;
    s->tokens += tokens;
    s->busy_s += seconds;
}

/* One pass for each of the n picked units. */
static void run_batch(scd_lane *l, size_t n)
{
    scd_batcher *b = l->batcher;
    scd_work work = l->picked[0]->work;
    size_t width = scd_batcher_width(b, work), tokens = 0;
    for (size_t i = 0; i < n; i++) {
        scd_unit *u = l->picked[i];
        l->steps[i] = (scd_step){&u->cell, u->course, l->results + i * width};
        tokens += u->cell.n_tokens;
    }
    scd_error err = {0};
    int64_t start = scd_now_ns();
    scd_code code = scd_engine_step_on(b->o.engine, l->device, work, l->steps, n, &err);
    double seconds = (double)(scd_now_ns() - start) * 1e-9;
    size_t finished = store_finished(l, n, !code);
    if (!code)
        count_batch(b, n, finished, tokens, seconds);
    else if (b->o.log)
        b->o.log(b->o.arg, &err);

    scd_ticket *ended = NULL;
    scd_gate_lock(&b->gate);
    if (!code) {
        count_device(l, tokens, seconds);
        scd_admission_measure(&b->admission, tokens, seconds / (double)b->n_lanes_left);
    }
    size_t left = hand_out(l, n, !code, &ended);
    if (!code)
        queue_again(l, left);
    else if (code != SCD_E_DEVICE)
        fail_all(l, left, &err, &ended);
    scd_gate_unlock(&b->gate);
    scd_tickets_finish(ended);
    if (code == SCD_E_DEVICE)
        lose_device(l, left, &err);
}

void *scd_lane_run(void *arg)
{
    scd_lane *l = arg;
    scd_batcher *b = l->batcher;
    scd_thread_give_way(); /* to http-N: probes are answered while the cores compute */
    while (!l->over) {
        scd_gate_lock(&b->gate);
        size_t n = next_batch(l);
        scd_gate_unlock(&b->gate);
        if (!n)
            return NULL;
        run_batch(l, n);
    }
    return NULL;
}

scd_code scd_lane_init(scd_lane *l, scd_batcher *b, size_t device, size_t widest, scd_error *err)
{
    l->batcher = b;
    l->device = device;
    l->max_rows = scd_engine_max_rows_at(b->o.engine, device);
    l->max_units = l->max_rows / 2;
    l->picked = scd_calloc(l->max_units, sizeof *l->picked);
    l->steps = scd_calloc(l->max_units, sizeof *l->steps);
    l->results = scd_malloc(l->max_units * widest, sizeof *l->results);
    if (!l->picked || !l->steps || !l->results)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for batches of %zu tokens", l->max_rows);
    return SCD_OK;
}

void scd_lane_release(scd_lane *l)
{
    free(l->results);
    free(l->steps);
    free(l->picked);
}
