/* handle_job_webhooks.c - GET and POST /v1/jobs/{id}/webhooks: what a job's receiver was told and
 * what it said; telling it again, under the same id. */
#include "api/json_write.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "server/job_db.h"
#include "server/job_wait.h"
#include "server/reply.h"
#include "server/router.h"
#include "server/webhook.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_BYTES = 16 << 20 };

typedef struct asking {
    scd_job_change change;
    scd_daemon *d;
    scd_exchange *x;
    bool replays;
    size_t n;
    scd_job_db *db; /* in jobs-db */
    scd_error err;
    scd_buf out;
} asking;

static scd_code take_delivery(void *arg, scd_delivery *d)
{
    asking *a = arg;
    scd_code code = SCD_OK;
    if (a->replays) {
        d->done = d->given_up = false;
        d->attempts = 0;
        d->next_ms = scd_wall_ms();
        code = scd_job_db_save_delivery(a->db, d, &a->err);
    }
    scd_buf_puts(&a->out, a->n++ ? ",{\"id\":" : "{\"id\":");
    scd_json_text(&a->out, d->id);
    scd_buf_puts(&a->out, ",\"url\":");
    scd_json_text(&a->out, d->url);
    scd_buf_printf(&a->out, ",\"state\":\"%s\",\"attempts\":%d",
                   d->done       ? "delivered"
                   : d->given_up ? "given up"
                                 : "pending",
                   d->attempts);
    scd_job_write_time(&a->out, "created", d->created_ms);
    if (!d->done && !d->given_up)
        scd_job_write_time(&a->out, "next", d->next_ms);
    scd_buf_puts(&a->out, ",\"detail\":");
    scd_json_text(&a->out, d->why);
    scd_buf_putc(&a->out, '}');
    free(d->payload);
    return code;
}

static void visit(scd_job_change *change, scd_job_db *db)
{
    asking *a = change->arg;
    a->db = db;
    scd_buf_puts(&a->out, "{\"object\":\"list\",\"data\":[");
    scd_code code = scd_job_db_each_delivery(db, change->id, take_delivery, a, &a->err);
    scd_buf_puts(&a->out, "],\"log\":");
    if (!code)
        code = scd_job_db_write_attempts(db, change->id, &a->out, &a->err);
    scd_buf_putc(&a->out, '}');
    if (code)
        scd_problem_set(&change->problem, SCD_PROBLEM_STORAGE,
                        "the webhooks cannot be read: try again later");
    else if (a->replays && !a->n)
        scd_problem_set(&change->problem, SCD_PROBLEM_CONFLICT,
                        "nobody was to be told of this job, or it is not over");
}

static void on_done(scd_job_change *change)
{
    const asking *a = change->arg;
    scd_exchange_resume(a->x);
}

static void on_resumed(scd_exchange *x)
{
    asking *a = scd_exchange_get_note(x)->task;
    if (a->change.problem.kind) {
        scd_reply_with(x, &a->change.problem);
        scd_buf_release(&a->out);
    } else {
        if (a->replays)
            scd_webhooks_wake(scd_jobs_webhooks(a->d->jobs));
        scd_exchange_answer(x, a->replays ? 202 : 200, "application/json", &a->out);
    }
    free(a);
}

static void ask(scd_daemon *d, scd_exchange *x, bool replays)
{
    scd_job_record job;
    scd_error err = {0};
    if (!scd_job_of(d, x, &job, NULL))
        return;
    asking *a = scd_calloc(1, sizeof *a);
    if (a) {
        a->d = d;
        a->x = x;
        a->replays = replays;
        scd_buf_init(&a->out, MAX_BYTES);
        a->change = (scd_job_change){.visit = visit, .arg = a, .done = on_done};
        memcpy(a->change.id, job.id, sizeof job.id);
    }
    scd_job_release(&job);
    scd_exchange_get_note(x)->task = a;
    if (!a || scd_exchange_suspend(x, SCD_NEVER, on_resumed, &err)) {
        free(a);
        scd_reply_problem(x, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
        return;
    }
    scd_jobs_post(d->jobs, &a->change);
}

void scd_handle_job_webhooks(scd_daemon *d, scd_exchange *x)
{
    ask(d, x, false);
}

void scd_handle_job_webhooks_replay(scd_daemon *d, scd_exchange *x)
{
    if (scd_jobs_there(d, x) && !scd_jobs_send_webhooks(d->jobs))
        scd_reply_problem(x, SCD_PROBLEM_CONFLICT,
                          "this server sends no webhooks: it was started without --webhook-secret");
    else if (!scd_exchange_answered(x))
        ask(d, x, true);
}
