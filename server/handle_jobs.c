/* handle_jobs.c - /v1/jobs but for its uploads (upload.c) and results (handle_job_result.c): what
 * there is, how far it is, and its end. */
#include "api/json_write.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "server/job_wait.h"
#include "server/reply.h"
#include "server/router.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_LIMIT = 20, MAX_LIMIT = 100, MAX_LIST_BYTES = 512 << 20, MAX_EVENT_BYTES = 4 << 20 };

/* ---- the list ------------------------------------------------------------------------------- */

static bool read_page(scd_exchange *x, scd_jobs_page *page, scd_problem *problem)
{
    const char *limit = scd_exchange_query(x, "limit"), *state = scd_exchange_query(x, "state");
    const char *after = scd_exchange_query(x, "after");
    scd_job_state wanted;
    char *end = NULL;
    page->limit = limit ? strtoul(limit, &end, 10) : DEFAULT_LIMIT;
    if (limit && (*end || *limit < '0' || *limit > '9' || !page->limit || page->limit > MAX_LIMIT))
        scd_problem_add(problem, "/limit",
                        "must be a number from 1 to %d (a parameter of the query)", MAX_LIMIT);
    if (state && scd_job_state_parse(state, &wanted))
        page->state = (int)wanted;
    else if (state)
        scd_problem_add(problem, "/state",
                        "must be QUEUED, RUNNING, COMPLETE, FAILED, ERROR or CANCELED (a parameter "
                        "of the query)");
    page->after_id = after ? after : "";
    return !problem->kind;
}

void scd_handle_jobs_list(scd_daemon *d, scd_exchange *x)
{
    scd_problem problem = {0};
    scd_jobs_page page = {.owner = scd_job_owner(d, x), .state = -1};
    scd_buf out;
    if (!scd_jobs_there(d, x))
        return;
    scd_buf_init(&out, MAX_LIST_BYTES);
    if (!read_page(x, &page, &problem)) {
        scd_reply_with(x, &problem);
    } else if (!scd_jobs_list(d->jobs, &page, &out)) {
        scd_buf_release(&out);
        scd_reply_problem(x, SCD_PROBLEM_NOT_FOUND, "there is no job \"%.40s\" to go on after",
                          page.after_id);
    } else {
        scd_reply_json(x, &out);
    }
}

/* ---- one ------------------------------------------------------------------------------------ */

/* http-N, after the wait */
static void on_waited(scd_exchange *x)
{
    scd_job_wait *wait = scd_exchange_get_note(x)->task;
    scd_job_record job;
    double rate = 0;
    scd_job_wait_end(wait);
    scd_exchange_set_header(x, "Preference-Applied", "wait");
    if (scd_job_of(wait->d, x, &job, &rate)) {
        scd_job_reply(wait->d, x, 200, &job, rate);
        scd_job_release(&job);
    }
    free(wait);
}

static void wait_for(scd_daemon *d, scd_exchange *x, const char *id, int seconds)
{
    scd_error err = {0};
    scd_job_wait *wait = scd_calloc(1, sizeof *wait);
    scd_exchange_get_note(x)->task = wait;
    if (!wait || scd_exchange_suspend(x, SCD_NEVER, on_waited, &err)) {
        free(wait);
        scd_reply_problem(x, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
        return;
    }
    scd_job_wait_start(wait, d, x, id, seconds);
}

void scd_handle_job(scd_daemon *d, scd_exchange *x)
{
    scd_job_record job;
    double rate = 0;
    int seconds = scd_job_wait_seconds(x);
    if (!scd_job_of(d, x, &job, &rate))
        return;
    if (seconds && !scd_job_is_over(&job))
        wait_for(d, x, job.id, seconds);
    else
        scd_job_reply(d, x, 200, &job, rate);
    scd_job_release(&job);
}

/* ---- canceling, deleting -------------------------------------------------------------------- */

typedef struct ending {
    scd_job_change change;
    scd_daemon *d;
    scd_exchange *x;
    char actor[SCD_JOB_OWNER_BYTES];
} ending;

static scd_problem_kind cancel_or_delete(scd_job_change *change, scd_job_record *job,
                                         scd_problem *problem)
{
    (void)problem;
    change->deletes = scd_job_is_over(job);
    if (!change->deletes) {
        job->state = SCD_JOB_CANCELED;
        change->drops_chunks = true;
    }
    return SCD_PROBLEM_NONE;
}

static void on_ended(scd_job_change *change)
{
    const ending *e = change->arg;
    scd_exchange_resume(e->x);
}

static void on_end_resumed(scd_exchange *x)
{
    ending *e = scd_exchange_get_note(x)->task;
    scd_buf out;
    if (e->change.problem.kind) {
        scd_reply_with(x, &e->change.problem);
    } else if (e->change.deletes) {
        scd_buf_init(&out, MAX_EVENT_BYTES);
        scd_buf_printf(&out, "{\"object\":\"job\",\"id\":\"%s\",\"deleted\":true}", e->change.id);
        scd_reply_json(x, &out);
    } else {
        scd_job_reply(e->d, x, 200, &e->change.job, 0);
    }
    scd_job_release(&e->change.job);
    free(e);
}

void scd_handle_job_delete(scd_daemon *d, scd_exchange *x)
{
    scd_job_record job;
    scd_error err = {0};
    const char *key = scd_exchange_get_note(x)->key;
    if (!scd_job_of(d, x, &job, NULL))
        return;
    ending *e = scd_calloc(1, sizeof *e);
    if (e) {
        e->d = d;
        e->x = x;
        snprintf(e->actor, sizeof e->actor, "%s", key ? key : "");
        e->change = (scd_job_change){.actor = e->actor,
                                     .mutate = cancel_or_delete,
                                     .frees = true,
                                     .arg = e,
                                     .done = on_ended};
        memcpy(e->change.id, job.id, sizeof job.id);
    }
    scd_job_release(&job);
    scd_exchange_get_note(x)->task = e;
    if (!e || scd_exchange_suspend(x, SCD_NEVER, on_end_resumed, &err)) {
        free(e);
        scd_reply_problem(x, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
        return;
    }
    scd_jobs_post(d->jobs, &e->change);
}

/* ---- events --------------------------------------------------------------------------------- */

/* A stream of a job's states. Each event is the job as it is, so that one that was missed is made
 * up for by the next; its id is the job's version. Read in an http thread, woken from others. */
typedef struct stream {
    scd_job_listener listener; /* first */
    scd_daemon *d;
    scd_exchange *x;
    uint64_t told; /* version */
    scd_job_state state;
    bool any, over;
    atomic_bool woken;
    scd_buf out; /* not yet sent, from `sent` on */
    size_t sent;
} stream;

static void wake_stream(scd_job_listener *l)
{
    stream *s = (stream *)l;
    atomic_store(&s->woken, true);
    scd_exchange_wake_flow(s->x);
}

static void put_event(stream *s)
{
    scd_job_record job;
    double rate = 0;
    if (!scd_jobs_get(s->d->jobs, s->listener.id, NULL, &job, &rate)) {
        scd_buf_puts(&s->out, "event: deleted\ndata: {}\n\n");
        s->over = true;
        return;
    }
    if (job.version != s->told) {
        bool is_state = !s->any || job.state != s->state;
        scd_buf_printf(&s->out, "id: %llu\nevent: %s\ndata: ", (unsigned long long)job.version,
                       is_state ? "state" : "progress");
        scd_jobs_write(s->d->jobs, &job, rate, &s->out);
        scd_buf_puts(&s->out, "\n\n");
        s->any = true;
        s->told = job.version;
        s->state = job.state;
        s->over = scd_job_is_over(&job);
    } else {
        scd_buf_puts(&s->out, ": still here\n\n");
    }
    scd_job_release(&job);
}

static ssize_t read_stream(void *arg, char *out, size_t max)
{
    stream *s = arg;
    if (s->sent == s->out.n_bytes) {
        scd_buf_clear(&s->out);
        s->sent = 0;
        if (s->over || s->out.failed || scd_jobs_stopping(s->d->jobs))
            return -1;
        if (!atomic_exchange(&s->woken, false))
            return 0;
        put_event(s);
    }
    size_t n = s->out.n_bytes - s->sent;
    n = n < max ? n : max;
    memcpy(out, s->out.data + s->sent, n);
    s->sent += n;
    return (ssize_t)n;
}

static void end_stream(void *arg)
{
    stream *s = arg;
    scd_jobs_unlisten(s->d->jobs, &s->listener);
    scd_buf_release(&s->out);
    free(s);
}

void scd_handle_job_events(scd_daemon *d, scd_exchange *x)
{
    scd_job_record job;
    const char *last = scd_exchange_header(x, "Last-Event-ID");
    if (!scd_job_of(d, x, &job, NULL))
        return;
    uint64_t told = last ? strtoull(last, NULL, 10) : 0;
    bool over = scd_job_is_over(&job) && told == job.version;
    stream *s = over ? NULL : scd_calloc(1, sizeof *s);
    if (s) {
        s->d = d;
        s->x = x;
        s->told = told;
        s->listener.wake = wake_stream;
        memcpy(s->listener.id, job.id, sizeof job.id);
        scd_buf_init(&s->out, MAX_EVENT_BYTES);
        const scd_flow flow = {read_stream, end_stream, s};
        scd_exchange_set_header(x, "Cache-Control", "no-store");
        scd_exchange_answer_flow(x, "text/event-stream; charset=utf-8", &flow);
        scd_jobs_listen(d->jobs, &s->listener);
    } else if (over) {
        scd_exchange_answer(x, 204, NULL, NULL); /* nothing more comes: do not ask again */
    } else {
        scd_reply_problem(x, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
    }
    scd_job_release(&job);
}
