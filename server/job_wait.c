/* job_wait.c - see job_wait.h. */
#include "server/job_wait.h"

#include "engine/base/clock.h"
#include "server/reply.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_WAIT_S = 30, MAX_WAIT_S = 600, MAX_JOB_BYTES = 4 << 20 };

int scd_job_wait_seconds(const scd_exchange *x)
{
    const char *prefer = scd_exchange_header(x, "Prefer");
    const char *wait = prefer ? strstr(prefer, "wait") : NULL;
    if (!wait || (wait > prefer && !strchr(" ,;", wait[-1])))
        return 0;
    wait += strlen("wait");
    if (*wait != '=')
        return *wait && !strchr(" ,;", *wait) ? 0 : DEFAULT_WAIT_S;
    long seconds = strtol(wait + 1, NULL, 10);
    return seconds < 0 ? 0 : seconds > MAX_WAIT_S ? MAX_WAIT_S : (int)seconds;
}

/* Under the listeners' lock. */
static void wake(scd_job_listener *l)
{
    scd_job_wait *w = (scd_job_wait *)l;
    scd_job_record job;
    if (w->resumed)
        return;
    bool over = l->expired || scd_jobs_stopping(w->d->jobs);
    if (!over && scd_jobs_get(w->d->jobs, l->id, NULL, &job, NULL)) {
        over = scd_job_is_over(&job);
        scd_job_release(&job);
    } else {
        over = true;
    }
    w->resumed = over;
    if (over)
        scd_exchange_resume(w->x);
}

void scd_job_wait_start(scd_job_wait *w, scd_daemon *d, scd_exchange *x, const char *id,
                        int seconds)
{
    uint64_t exchange = scd_exchange_id(x);
    scd_watch *watch = d->watch;
    w->d = d;
    w->x = x;
    w->started = true;
    w->listener.wake = wake;
    w->listener.exchange = exchange;
    snprintf(w->listener.id, sizeof w->listener.id, "%s", id);
    scd_watch_set_deadline(watch, exchange, scd_now_ns() + seconds * SCD_NS_PER_S);
    scd_jobs_listen(d->jobs, &w->listener);
    scd_watch_check(watch, exchange); /* it may have left before anybody listened */
}

void scd_job_wait_end(scd_job_wait *w)
{
    if (w->started)
        scd_jobs_unlisten(w->d->jobs, &w->listener);
    w->started = false;
}

/* ---- answers -------------------------------------------------------------------------------- */

const char *scd_job_owner(const scd_daemon *d, scd_exchange *x)
{
    return d->auth ? scd_exchange_get_note(x)->key : NULL;
}

bool scd_jobs_there(scd_daemon *d, scd_exchange *x)
{
    const char *why = scd_jobs_unavailable(d->jobs);
    if (why)
        scd_reply_problem(x, SCD_PROBLEM_UNAVAILABLE,
                          "jobs are not to be had here at the moment: "
                          "the server's log says why");
    return !why;
}

void scd_job_id_of(scd_exchange *x, char id[SCD_JOB_ID_BYTES])
{
    const char *path = scd_exchange_path(x) + strlen("/v1/jobs/");
    size_t n = strcspn(path, "/");
    n = n < SCD_JOB_ID_BYTES ? n : 0;
    memcpy(id, path, n);
    id[n] = '\0';
}

bool scd_job_of(scd_daemon *d, scd_exchange *x, scd_job_record *out, double *rate)
{
    char id[SCD_JOB_ID_BYTES];
    scd_job_id_of(x, id);
    if (!scd_jobs_there(d, x))
        return false;
    if (scd_jobs_get(d->jobs, id, scd_job_owner(d, x), out, rate))
        return true;
    scd_reply_problem(x, SCD_PROBLEM_NOT_FOUND,
                      "there is no such job: it may have expired; GET /v1/jobs lists those there "
                      "are");
    return false;
}

void scd_job_reply(scd_daemon *d, scd_exchange *x, unsigned status, const scd_job_record *job,
                   double rate)
{
    scd_buf out;
    char text[32];
    scd_buf_init(&out, MAX_JOB_BYTES);
    scd_jobs_write(d->jobs, job, rate, &out);
    snprintf(text, sizeof text, "%llu", (unsigned long long)job->upload_bytes);
    scd_exchange_set_header(x, "Upload-Offset", text);
    scd_exchange_answer(x, status, "application/json", &out);
}
