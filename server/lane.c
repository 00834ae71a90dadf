/* lane.c - see batcher_impl.h: what the thread batch-N does for its device. It fills a batch, takes
 * every cell of it one pass further, hands out what is finished and queues the rest again.
 *
 * A device that fails is not asked for more, for a GPU's errors stay: what its batch held is queued
 * again, in front, and another device's lane takes it. A cell that was there when two devices
 * failed may well be the reason, and is given up. The last lane goes on: on the CPU where the
 * daemon was told so, or else to fail what comes, in words of its own. A device that only does not
 * answer - a call into a driver that hangs cannot be ended - is silent: others are asked for what
 * is queued and for what it holds, once, but for courses; and it serves again if it comes back.
 *
 * Threads: batch-N runs scd_lane_run; `gate` protects everything but the engine and the arrays that
 *          are the lane's own. */
#include "server/batcher_impl.h"

#include "engine/base/clock.h"
#include "engine/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MOST_LOSSES = 2,
    AHEAD = 4, /* a batch is put behind another for this share of a full one: what bulk gets */
};

/* ---- a batch -------------------------------------------------------------------------------- */

/* An interactive cell that comes waits for the batch that has begun: where such cells come, batches
 * of patient work take about so long; where none came for a while, as long as is good for them. */
static const double SHORT_S = 0.003, LONG_S = 0.05;
static const int64_t QUIET_NS = SCD_NS_PER_S;

/* Under the lock. */
static bool is_quiet(const scd_batcher *b, int64_t now)
{
    return now - b->interactive_ns >= QUIET_NS;
}

/* Under the lock: rows of patient work that take so long at the measured rate, but no fewer than
 * are worth a batch on this device. */
static size_t patient_rows(const scd_lane *l, int64_t now)
{
    const scd_batcher *b = l->batcher;
    double rate = scd_admission_rate(&b->admission) / (double)b->n_lanes_left;
    double rows = rate * (is_quiet(b, now) ? LONG_S : SHORT_S);
    size_t least = scd_engine_good_rows_at(b->o.engine, l->device);
    least = least < l->max_rows ? least : l->max_rows;
    return rows < (double)least ? least : rows < (double)l->max_rows ? (size_t)rows : l->max_rows;
}

/* Under the lock. */
static void free_load(scd_lane *l, scd_load *load)
{
    l->batcher->running_tokens -= load->tokens;
    load->n = load->tokens = 0;
}

/* Under the lock: the next batch, if there is one. */
static bool pick(scd_lane *l, scd_load *load)
{
    scd_batcher *b = l->batcher;
    size_t took[SCD_N_CLASSES], rows = 0;
    int64_t now = scd_now_ns();
    const scd_pick_room room = {l->max_units, l->max_rows, patient_rows(l, now)};
    load->n = scd_flight_pick(&b->flight, &room, load->picked, took);
    for (scd_class k = 0; k < SCD_N_CLASSES; k++)
        rows += took[k];
    if (took[SCD_INTERACTIVE])
        b->interactive_ns = now;
    load->tokens = rows - load->n;
    b->running_tokens += load->tokens;
    if (load->n && !l->busy_ns)
        l->busy_ns = now;
    for (size_t i = 0; i < load->n; i++)
        for (scd_waiter *w = load->picked[i]->waiters; w; w = w->next)
            if (!w->ticket->started_ns) {
                w->ticket->started_ns = now;
                scd_metrics_observe(b->o.metrics, SCD_HIST_QUEUE_SECONDS,
                                    (double)(now - w->ticket->submitted_ns) * 1e-9);
            }
    return load->n > 0;
}

/* Under the lock: behind a batch comes another only where enough waits for it and no lane is idle:
 * what is picked later has more company, and is not behind two. Patient work is not put there while
 * interactive cells come, which would wait for both. */
static bool may_be_behind(const scd_lane *l)
{
    const scd_batcher *b = l->batcher;
    return !b->stopping && !b->n_idle && scd_engine_device_overlaps(b->o.engine, l->device) &&
           b->admission.queued_tokens >= b->running_tokens + l->max_rows / AHEAD &&
           (b->flight.ring[SCD_INTERACTIVE] || is_quiet(b, scd_now_ns()));
}

/* ---- a device that is silent ---------------------------------------------------------------- */

static void tell(const scd_lane *l, scd_device_event event, size_t n_left, const scd_error *err)
{
    const scd_batcher_options *o = &l->batcher->o;
    if (o->on_device)
        o->on_device(o->arg, event, l->device, n_left, err);
}

/* Under the lock: who waits for the unit waits for a copy of it now, in front of the queue; the
 * device keeps the unit. Nothing where memory is out. */
static void take_over_unit(scd_batcher *b, scd_unit *u)
{
    scd_unit *copy = u->waiters ? scd_unit_new(&u->key, &u->cell, u->work) : NULL;
    if (u->waiters && !copy)
        return;
    scd_batcher_count_out(b, u);
    scd_flight_remove(&b->flight, u);
    u->left_behind = true;
    if (!copy)
        return;
    copy->identity = u->identity;
    copy->n_losses = u->n_losses + 1;
    copy->waiters = u->waiters;
    u->waiters = NULL;
    for (scd_waiter *w = copy->waiters; w; w = w->next)
        w->unit = copy;
    scd_flight_insert(&b->flight, copy);
    scd_batcher_count_in(b, copy);
    scd_flight_queue_again(&b->flight, scd_unit_heir(copy), copy);
}

/* Under the lock. A course is on its way there and nowhere else; a cell with which a second device
 * fell silent may well be the reason. */
static void take_over_load(scd_batcher *b, const scd_load *load)
{
    for (size_t i = load->n; i-- > 0;) {
        scd_unit *u = load->picked[i];
        if (!u->left_behind && !u->course && u->n_losses + 1 < MOST_LOSSES)
            take_over_unit(b, u);
    }
}

/* Under the lock, which it lets go to tell: what silent devices have is this lane's and others'. */
static void take_over(scd_lane *l)
{
    scd_batcher *b = l->batcher;
    for (size_t i = 0; i < b->n_lanes; i++) {
        scd_lane *other = &b->lanes[i];
        if (other == l || other->is_left || scd_lane_silent_s(other, scd_now_ns()) <= 0)
            continue;
        other->is_left = true;
        for (int slot = 0; slot < SCD_SLOTS; slot++)
            take_over_load(b, &other->loads[slot]);
        scd_gate_wake(&b->gate);
        scd_gate_unlock(&b->gate);
        tell(other, SCD_DEVICE_SILENT, 0, NULL);
        scd_gate_lock(&b->gate);
    }
}

/* Where there are others, whether they have fallen silent is looked at now and then. */
static int64_t next_look(const scd_batcher *b)
{
    bool looks = b->n_lanes > 1 && b->o.device_timeout_s > 0;
    return looks ? scd_now_ns() + SCD_NS_PER_S : SCD_NEVER;
}

/* ---- the next batch ------------------------------------------------------------------------- */

/* The next batch, waited for unless the lane has one; false: none now, or never again. */
static bool next_batch(scd_lane *l, scd_load *load, bool has_one)
{
    scd_batcher *b = l->batcher;
    bool found = false;
    scd_gate_lock(&b->gate);
    take_over(l);
    if (has_one)
        found = may_be_behind(l) && pick(l, load);
    else
        while (!b->stopping && !(found = pick(l, load))) {
            b->n_idle++;
            scd_gate_wait(&b->gate, next_look(b));
            b->n_idle--;
            take_over(l);
        }
    scd_gate_unlock(&b->gate);
    return found;
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

static const float *result_of(const scd_load *load, size_t i)
{
    size_t width;
    const scd_unit *u = load->picked[i];
    return u->course ? scd_course_result(u->course, &width) : load->steps[i].out;
}

/* False: the unit's key names another identity than that of the lane's device. */
static bool is_of_device(const scd_lane *l, const scd_unit *u)
{
    const scd_device_info *info = scd_engine_device_at(l->batcher->o.engine, l->device);
    return !u->identity || !strcmp(u->identity, info->identity);
}

/* The finished ones go to the cache. How many there are. */
static size_t store_finished(scd_lane *l, const scd_load *load, bool computed)
{
    scd_batcher *b = l->batcher;
    size_t finished = 0;
    for (size_t i = 0; i < load->n; i++) {
        const scd_unit *u = load->picked[i];
        if (!is_finished(u, computed))
            continue;
        if (is_of_device(l, u))
            scd_store_put(b->o.store, &u->key, result_of(load, i),
                          scd_unit_width(b, u) * sizeof(float));
        finished++;
    }
    return finished;
}

/* Under the lock: what is finished is handed out; what is left of the load moves up. */
static void hand_out(scd_lane *l, scd_load *load, bool computed, scd_ticket **ended)
{
    scd_batcher *b = l->batcher;
    size_t left = 0;
    for (size_t i = 0; i < load->n; i++) {
        scd_unit *u = load->picked[i];
        if (u->left_behind) {
            scd_unit_drop(b, u);
            continue;
        }
        if (computed || u->course)
            scd_batcher_count_pass(b, u);
        if (!is_finished(u, computed)) {
            load->picked[left++] = u;
            continue;
        }
        scd_batcher_count_out(b, u);
        for (scd_waiter *w = u->waiters; w && !is_of_device(l, u); w = w->next)
            w->ticket->outcome.moved = true;
        scd_unit_deliver(b, u, result_of(load, i), false, ended);
    }
    load->n = left;
}

/* Under the lock: what is left of the load stands in its old order again, in front, unless nobody
 * waits for it any more. */
static void queue_again(scd_lane *l, scd_load *load)
{
    scd_batcher *b = l->batcher;
    for (size_t i = load->n; i-- > 0;) {
        scd_unit *u = load->picked[i];
        if (u->waiters)
            scd_flight_queue_again(&b->flight, scd_unit_heir(u), u);
        else
            scd_unit_drop(b, u);
    }
    if (load->n)
        scd_gate_wake(&b->gate); /* for other lanes */
    free_load(l, load);
}

static void fail_all(scd_lane *l, scd_load *load, const scd_error *err, scd_ticket **ended)
{
    for (size_t i = 0; i < load->n; i++)
        scd_unit_fail(l->batcher, load->picked[i], err->code, err->message, ended);
    free_load(l, load);
}

/* ---- a device that fails -------------------------------------------------------------------- */

/* Under the lock: what fails with a second device goes no further. */
static void fail_repeated(scd_lane *l, scd_load *load, const scd_error *err, scd_ticket **ended)
{
    size_t left = 0;
    for (size_t i = 0; i < load->n; i++) {
        scd_unit *u = load->picked[i];
        if (++u->n_losses >= MOST_LOSSES)
            scd_unit_fail(l->batcher, u, err->code, err->message, ended);
        else
            load->picked[left++] = u;
    }
    load->n = left;
}

/* Under the lock: courses that began on a device of another identity, queued or of the load, would
 * come to an end that neither device knows. */
static void fail_begun(scd_lane *l, scd_load *load, scd_ticket **ended)
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
    for (size_t i = 0; i < load->n; i++) {
        scd_unit *u = load->picked[i];
        if (u->course && scd_course_has_begun(u->course))
            scd_unit_fail(b, u, SCD_E_DEVICE, message, ended);
        else
            load->picked[left++] = u;
    }
    load->n = left;
}

/* The last device has failed with the load on it. True: the lane has the CPU now, and it is queued.
 */
static bool move_to_cpu(scd_lane *l, scd_load *load)
{
    scd_batcher *b = l->batcher;
    scd_error err = {0};
    scd_ticket *ended = NULL;
    if (!b->o.move_to_cpu || b->moved)
        return false;
    scd_gate_lock(&b->gate);
    b->moved = true; /* or tried to: once */
    scd_gate_unlock(&b->gate);
    tell(l, SCD_DEVICE_MOVES, 0, NULL);
    if (scd_engine_move_to_cpu(b->o.engine, &err)) {
        tell(l, SCD_DEVICE_STAYS, 0, &err);
        return false;
    }
    scd_gate_lock(&b->gate);
    l->device = scd_engine_n_devices(b->o.engine) - 1;
    size_t rows = scd_engine_max_rows_at(b->o.engine, l->device);
    l->max_rows = rows < l->max_rows ? rows : l->max_rows;
    fail_begun(l, load, &ended);
    queue_again(l, load);
    scd_gate_unlock(&b->gate);
    scd_tickets_finish(ended);
    tell(l, SCD_DEVICE_MOVED, 1, NULL);
    return true;
}

/* The lane's device has failed with the load on it, and perhaps one behind, which had no part in
 * it.
 */
static void lose_device(scd_lane *l, scd_load *load, scd_load *behind, const scd_error *err)
{
    scd_batcher *b = l->batcher;
    scd_ticket *ended = NULL;
    scd_gate_lock(&b->gate);
    b->devices[l->device].lost = true;
    l->over = b->n_lanes_left > 1;
    b->n_lanes_left -= l->over;
    size_t n_left = l->over ? b->n_lanes_left : 0;
    if (behind)
        queue_again(l, behind);
    l->busy_ns = 0;
    scd_gate_unlock(&b->gate);
    tell(l, SCD_DEVICE_FAILED, n_left, err);
    if (!l->over && move_to_cpu(l, load))
        return;
    scd_gate_lock(&b->gate);
    if (l->over) {
        fail_repeated(l, load, err, &ended);
        queue_again(l, load);
    } else {
        fail_all(l, load, err, &ended);
    }
    scd_gate_unlock(&b->gate);
    scd_tickets_finish(ended);
}

/* ---- the thread ----------------------------------------------------------------------------- */

static void count_device(scd_lane *l, bool behind, size_t tokens, double seconds)
{
    scd_device_stats *s = &l->batcher->devices[l->device];
    s->batches++;
    s->behind += behind;
    s->tokens += tokens;
    s->busy_s += seconds;
}

static void lay_out(const scd_lane *l, scd_load *load)
{
    load->work = load->picked[0]->work;
    size_t width = scd_batcher_width(l->batcher, load->work);
    for (size_t i = 0; i < load->n; i++) {
        scd_unit *u = load->picked[i];
        load->steps[i] = (scd_step){&u->cell, u->course, load->results + i * width};
    }
    load->start_ns = scd_now_ns();
}

/* The load was computed, or was not: err has the code. `behind` is on the device, or NULL; false:
 * it is not any more. */
static bool end_batch(scd_lane *l, scd_load *load, scd_load *behind, const scd_error *err)
{
    scd_batcher *b = l->batcher;
    bool computed = !err->code;
    int64_t now = scd_now_ns(), start = load->start_ns > l->free_ns ? load->start_ns : l->free_ns;
    double seconds = (double)(now - start) * 1e-9; /* of the device: not those behind another */
    size_t finished = store_finished(l, load, computed), tokens = load->tokens;
    l->free_ns = now;
    if (computed)
        count_batch(b, load->n, finished, tokens, seconds);
    else if (b->o.log)
        b->o.log(b->o.arg, err);

    scd_ticket *ended = NULL;
    scd_gate_lock(&b->gate);
    l->busy_ns = behind ? now : 0;
    l->is_left = false;
    if (computed) {
        count_device(l, load->behind, tokens, seconds);
        scd_admission_measure(&b->admission, tokens, seconds / (double)b->n_lanes_left);
    }
    hand_out(l, load, computed, &ended);
    if (computed)
        queue_again(l, load);
    else if (err->code != SCD_E_DEVICE)
        fail_all(l, load, err, &ended);
    scd_gate_unlock(&b->gate);
    scd_tickets_finish(ended);
    if (err->code == SCD_E_DEVICE)
        lose_device(l, load, behind, err);
    return err->code != SCD_E_DEVICE;
}

static void fetch(scd_lane *l, int slot, scd_error *err)
{
    scd_engine_fetch(l->batcher->o.engine, l->device, slot, err);
}

/* While the device computes one load, the lane picks the next, puts it behind, and hands out the
 * first when it is there. What cannot be put behind - courses, or anything on a CPU - is computed
 * alone. */
void *scd_lane_run(void *arg)
{
    scd_lane *l = arg;
    scd_engine *engine = l->batcher->o.engine;
    scd_load *under_way = NULL;
    scd_thread_give_way(); /* to http-N: probes are answered while the cores compute */
    while (!l->over) {
        int slot = under_way == &l->loads[0] ? 1 : 0;
        scd_load *next = &l->loads[slot];
        scd_error err = {0}, next_err = {0};
        bool found = next_batch(l, next, under_way != NULL);
        if (!found && !under_way)
            break;
        if (found)
            lay_out(l, next);
        bool overlaps =
            found && scd_engine_overlaps(engine, l->device, next->work, next->steps, next->n);
        if (overlaps)
            scd_engine_begin(engine, l->device, slot, next->work, next->steps, next->n, &next_err);
        bool begun = overlaps && !next_err.code;
        next->behind = begun && under_way;
        if (under_way) {
            fetch(l, 1 - slot, &err);
            if (!end_batch(l, under_way, found ? next : NULL, &err))
                found = begun = false;
        }
        under_way = begun ? next : NULL;
        if (found && !overlaps)
            scd_engine_step_on(engine, l->device, next->work, next->steps, next->n, &next_err);
        if (found && !begun)
            end_batch(l, next, NULL, &next_err);
    }
    scd_gate_lock(&l->batcher->gate);
    l->ended = true;
    scd_gate_wake(&l->batcher->gate);
    scd_gate_unlock(&l->batcher->gate);
    return NULL;
}

double scd_lane_silent_s(const scd_lane *l, int64_t now)
{
    double limit = l->batcher->moved ? 0 : l->batcher->o.device_timeout_s;
    double s = (double)(now - l->busy_ns) * 1e-9;
    return l->busy_ns && limit > 0 && s > limit ? s : 0;
}

scd_code scd_lane_init(scd_lane *l, scd_batcher *b, size_t device, size_t widest, scd_error *err)
{
    l->batcher = b;
    l->device = device;
    l->max_rows = scd_engine_max_rows_at(b->o.engine, device);
    l->max_units = l->max_rows / 2;
    size_t n = scd_engine_device_overlaps(b->o.engine, device) ? SCD_SLOTS : 1;
    for (size_t i = 0; i < n; i++) {
        scd_load *load = &l->loads[i];
        load->picked = scd_calloc(l->max_units, sizeof(scd_unit *));
        load->steps = scd_calloc(l->max_units, sizeof *load->steps);
        load->results = scd_malloc(l->max_units * widest, sizeof *load->results);
        if (!load->picked || !load->steps || !load->results)
            return scd_fail(err, SCD_E_NOMEM, "out of memory for batches of %zu tokens",
                            l->max_rows);
    }
    return SCD_OK;
}

void scd_lane_release(scd_lane *l)
{
    for (int i = 0; i < SCD_SLOTS; i++) {
        free(l->loads[i].results);
        free(l->loads[i].steps);
        free(l->loads[i].picked);
    }
}
