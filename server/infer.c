/* infer.c - a request whose cells are computed (infer_call.h): which thread does which step.
 *
 *   http-N    body seen before? answer. Else prepare; all in the cache? answer. Else suspend.
 *   batch-0   computes; done() resumes the exchange
 *   http-N    answers
 *
 * Much work - a large body, or many cells in a small one - would hold up the thread's other
 * connections while it is prepared and its answer printed, so prep-0 does both. */
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "server/infer_call.h"
#include "server/reply.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LARGE_BODY_BYTES = 48 << 10, /* two whole cells: some 0.5 ms */
    MANY_CELLS = 64,             /* to look up and to print: some 1 ms */
    FEW_HEAVY_CELLS = 2,
    MAX_MEMO_BODY_BYTES = 1 << 20,
    ARENA_TIMES_BODY = 24, /* "A",1, is five bytes and becomes a name, a value and a token */
    INPUT_EXTRA_BYTES = 16 << 20,
    ARENA_EXTRA_BYTES = 64 << 20,
};

static void call_free(scd_infer_call *call)
{
    scd_infer_drop_orders(call);
    if (call->beside)
        scd_infer_drop_beside(call->beside);
    scd_infer_drop_input(call);
    scd_arena_release(&call->arena);
    free(call);
}

static scd_infer_call *call_of(scd_exchange *x)
{
    return scd_exchange_get_note(x)->task;
}

/* http-N, after a resume: answer unless prep-0 did; then the call's way ends. */
static void on_resumed(scd_exchange *x)
{
    scd_infer_call *call = call_of(x);
    if (call->outcome.code == SCD_E_CANCELED && !atomic_load(&call->d->draining))
        scd_exchange_abandon(x);
    else if (!scd_exchange_answered(x))
        scd_infer_answer(call);
    call_free(call);
}

static void run_answer(scd_job *job)
{
    scd_infer_call *call = (scd_infer_call *)job;
    if (call->outcome.code != SCD_E_CANCELED || atomic_load(&call->d->draining))
        scd_infer_answer(call);
    scd_exchange_resume(call->x);
}

/* batch-0, or whoever gave the ticket up. */
static void on_done(void *arg, const scd_outcome *outcome)
{
    scd_infer_call *call = arg;
    call->outcome = *outcome;
    if (call->large) {
        call->job.run = run_answer;
        scd_crew_post(call->d->crew, &call->job);
    } else {
        scd_exchange_resume(call->x);
    }
}

/* The exchange is suspended; `done` will come. Nothing of the call may be touched afterwards, for
 * it may be over already. */
static void submit(scd_infer_call *call)
{
    scd_watch *watch = call->d->watch;
    uint64_t id = call->id;
    scd_error err = {0};
    const scd_ask ask = {.work = call->work,
                         .orders = call->orders,
                         .n = call->n_orders,
                         .serial = id,
                         .identity = call->device->identity,
                         .done = on_done,
                         .arg = call};
    scd_code code = scd_batcher_submit(call->d->batcher, &ask, &err);
    if (code) {
        scd_outcome outcome = {.code = code};
        snprintf(outcome.message, sizeof outcome.message, "%.255s", err.message);
        on_done(call, &outcome);
        return;
    }
    scd_watch_check(watch, id); /* the client may have left before there was a ticket to give up */
}

/* prep-0: much work. A client that has left meanwhile wants nothing any more. */
static void run_prepare(scd_job *job)
{
    scd_infer_call *call = (scd_infer_call *)job;
    bool gone = scd_watch_check(call->d->watch, call->id);
    if (gone)
        call->outcome = (scd_outcome){.code = SCD_E_CANCELED, .message = "the client has left"};
    bool go_on = !gone && (call->decoded || scd_infer_decode(call)) && scd_infer_prepare(call);
    if (!go_on || !call->n_orders) {
        run_answer(job);
        return;
    }
    scd_watch_set_deadline(call->d->watch, call->id, call->deadline_ns);
    submit(call);
}

static bool suspend(scd_infer_call *call, int64_t deadline_ns)
{
    scd_error err = {0};
    scd_exchange_get_note(call->x)->task = call;
    if (!scd_exchange_suspend(call->x, deadline_ns, on_resumed, &err))
        return true;
    scd_reply_problem(call->x, SCD_PROBLEM_INTERNAL, "%s", err.message);
    call_free(call);
    return false;
}

static void hand_over(scd_infer_call *call)
{
    call->large = true;
    call->job.run = run_prepare;
    if (suspend(call, SCD_NEVER))
        scd_crew_post(call->d->crew, &call->job);
}

/* Was this very body answered before, all from the cache? */
static bool answer_from_memo(scd_daemon *d, scd_exchange *x, scd_infer_call *call, const char *body,
                             size_t n)
{
    if (!d->config->cache_mb || n > MAX_MEMO_BODY_BYTES)
        return false;
    char scope = call->as_npy ? 'n' : call->task->by_path ? 'p' : 'j';
    scd_hasher *hasher = scd_hasher_new();
    if (!hasher)
        return false;
    int64_t start = scd_now_ns();
    scd_hasher_add_text(hasher, call->device->identity);
    scd_hasher_add_text(hasher, call->task->name);
    scd_hasher_add(hasher, &scope, 1);
    if (call->task->by_path) {
        const char *n_json = scd_exchange_header(x, SCD_OIP_HEADER);
        scd_hasher_add_text(hasher, scd_exchange_path(x));
        scd_hasher_add_text(hasher, n_json ? n_json : "");
    }
    scd_hasher_add(hasher, body, n);
    call->memo_key = scd_hasher_finish(hasher);
    call->want_memo = true;
    scd_hasher_free(hasher);
    scd_buf out;
    scd_memo_info info;
    scd_buf_init(&out, SIZE_MAX / 2);
    bool found = scd_memo_get(d->memo, &call->memo_key, &out, &info);
    if (!found || (info.timeout_ms &&
                   start >= scd_exchange_arrived_ns(x) + info.timeout_ms * SCD_NS_PER_MS)) {
        scd_buf_release(&out);
        return false;
    }
    char timing[80];
    snprintf(timing, sizeof timing, "queue;dur=0, infer;dur=0, cache;dur=%.3f",
             (double)(scd_now_ns() - start) * 1e-6);
    scd_exchange_set_header(x, "Server-Timing", timing);
    scd_infer_set_json_length(x, &info);
    scd_exchange_get_note(x)->cells = info.cells;
    scd_metrics_add(d->metrics, SCD_COUNTER_CACHE_HITS, info.cells);
    scd_exchange_answer(x, 200, info.content_type, &out);
    return true;
}

void scd_infer(const scd_infer_task *task, scd_daemon *d, scd_exchange *x)
{
    size_t n;
    const char *body = scd_exchange_body(x, &n);
    const char *accept = scd_exchange_header(x, "Accept");
    scd_infer_call *call = scd_calloc(1, sizeof *call);
    if (!call) {
        scd_reply_problem(x, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
        return;
    }
    call->task = task;
    call->d = d;
    call->device = scd_engine_device(d->engine);
    call->x = x;
    call->id = scd_exchange_id(x);
    call->as_npy = task->has_npy && accept && strstr(accept, "application/x-npy");
    call->deadline_ns = SCD_NEVER;
    scd_arena_init(&call->input, ARENA_TIMES_BODY * n + INPUT_EXTRA_BYTES);
    scd_arena_init(&call->arena, ARENA_TIMES_BODY * n + ARENA_EXTRA_BYTES);
    if (answer_from_memo(d, x, call, body, n)) {
        call_free(call);
    } else if (n > LARGE_BODY_BYTES) {
        hand_over(call);
    } else if (scd_infer_decode(call) &&
               (call->large ||
                call->request.n_cells > (task->heavy ? FEW_HEAVY_CELLS : MANY_CELLS))) {
        hand_over(call);
    } else if (call->problem.kind || !scd_infer_prepare(call) || !call->n_orders) {
        scd_infer_answer(call);
        call_free(call);
    } else if (suspend(call, call->deadline_ns)) {
        submit(call);
    }
}
