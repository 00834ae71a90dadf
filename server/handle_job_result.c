/* handle_job_result.c - GET /v1/jobs/{id}/result: the file, or a range of it (RFC 9110).
 *
 * Bytes leave when the audit has it that they do: where that cannot be written, they stay. */
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "server/job_wait.h"
#include "server/reply.h"
#include "server/router.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

typedef enum range_kind { WHOLE, PART, OUTSIDE } range_kind;

static bool digits(const char **at, uint64_t *out)
{
    const char *start = *at;
    for (*out = 0; **at >= '0' && **at <= '9' && *at - start < 18; ++*at)
        *out = *out * 10 + (uint64_t)(**at - '0');
    return *at > start;
}

/* One range; of several, or of what is none, the whole is sent, as RFC 9110 allows. */
static range_kind read_range(const char *text, uint64_t n, uint64_t *first, uint64_t *count)
{
    uint64_t from, to = UINT64_MAX;
    *first = 0;
    *count = n;
    if (!text || strncasecmp(text, "bytes=", 6))
        return WHOLE;
    text += 6;
    if (*text == '-') { /* the last ones */
        text++;
        if (!digits(&text, &from) || *text)
            return WHOLE;
        *count = from < n ? from : n;
        *first = n - *count;
        return *count ? PART : OUTSIDE;
    }
    if (!digits(&text, &from) || *text++ != '-' || (*text && (!digits(&text, &to) || *text)) ||
        to < from)
        return WHOLE;
    if (from >= n)
        return OUTSIDE;
    *first = from;
    *count = (to < n - 1 ? to : n - 1) - from + 1;
    return PART;
}

static void set_name(scd_exchange *x, const scd_job_record *job)
{
    char text[600], stem[SCD_JOB_NAME_BYTES];
    snprintf(stem, sizeof stem, "%s", *job->query.filename ? job->query.filename : job->id);
    char *dot = strrchr(stem, '.');
    if (dot && dot > stem)
        *dot = '\0';
    for (char *c = stem; *c; c++) /* what a header cannot say plainly */
        *c = *c < ' ' || *c > '~' || strchr("\"\\%;", *c) ? '_' : *c;
    snprintf(text, sizeof text, "attachment; filename=\"%s.scdiva.%s\"", stem, job->query.format);
    scd_exchange_set_header(x, "Content-Disposition", text);
}

/* One answer with bytes of a result, waiting for the audit. */
typedef struct sending {
    scd_job_change change; /* first */
    scd_daemon *d;
    scd_exchange *x;
    char actor[SCD_JOB_OWNER_BYTES];
    unsigned status;
    const char *type;
    int fd;
    uint64_t first, count;
} sending;

static void on_recorded(scd_job_change *change)
{
    sending *s = (sending *)change;
    if (!change->problem.kind)
        scd_jobs_read_recorded(s->d->jobs, change->id);
    scd_exchange_resume(s->x);
}

/* http-N */
static void on_resumed(scd_exchange *x)
{
    sending *s = scd_exchange_get_note(x)->task;
    if (s->change.problem.kind) {
        close(s->fd);
        scd_reply_with(x, &s->change.problem);
    } else {
        scd_exchange_answer_file(x, s->status, s->type, s->fd, s->first, s->count);
    }
    scd_job_release(&s->change.job);
    free(s);
}

static bool is_on_record(const scd_daemon *d, const scd_exchange *x, const scd_job_record *job)
{
    return scd_exchange_is_head(x) || !scd_jobs_read_is_new(d->jobs, job->id);
}

/* What has been decided is sent; fd is taken. */
static void send_part(scd_daemon *d, scd_exchange *x, const scd_job_record *job, sending plan)
{
    const char *key = scd_exchange_get_note(x)->key;
    scd_error err = {0};
    if (is_on_record(d, x, job)) {
        scd_exchange_answer_file(x, plan.status, plan.type, plan.fd, plan.first, plan.count);
        return;
    }
    sending *s = scd_calloc(1, sizeof *s);
    scd_exchange_get_note(x)->task = s;
    if (!s || scd_exchange_suspend(x, SCD_NEVER, on_resumed, &err)) {
        free(s);
        close(plan.fd);
        scd_reply_problem(x, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
        return;
    }
    *s = plan;
    s->d = d;
    s->x = x;
    snprintf(s->actor, sizeof s->actor, "%s", key ? key : "");
    s->change = (scd_job_change){.actor = s->actor, .done = on_recorded};
    scd_jobs_record_read(d->jobs, job, &s->change);
}

static void send_range(scd_daemon *d, scd_exchange *x, const scd_job_record *job, int fd,
                       uint64_t n)
{
    char etag[SCD_DIGEST_HEX + 2], text[96];
    uint64_t first, count;
    const char *known = scd_exchange_header(x, "If-None-Match");
    const char *only_if = scd_exchange_header(x, "If-Range");
    snprintf(etag, sizeof etag, "\"%s\"", job->result_sha256);
    scd_exchange_set_header(x, "ETag", etag);
    scd_exchange_set_header(x, "Accept-Ranges", "bytes");
    scd_exchange_set_header(x, "Cache-Control", "private, no-transform");
    /* Names in it are a stranger's, and the web page has our address: it is never a script. */
    scd_exchange_set_header(x, "X-Content-Type-Options", "nosniff");
    if (known && (strstr(known, etag) || !strcmp(known, "*"))) {
        close(fd);
        scd_exchange_answer(x, 304, NULL, NULL);
        return;
    }
    const char *range = scd_exchange_header(x, "Range");
    range_kind kind =
        read_range(only_if && strcmp(only_if, etag) ? NULL : range, n, &first, &count);
    if (kind == OUTSIDE) {
        close(fd);
        snprintf(text, sizeof text, "bytes */%" PRIu64, n);
        scd_exchange_set_header(x, "Content-Range", text);
        scd_reply_problem(x, SCD_PROBLEM_RANGE, "the result has %" PRIu64 " bytes", n);
        return;
    }
    if (kind == PART) {
        snprintf(text, sizeof text, "bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64, first,
                 first + count - 1, n);
        scd_exchange_set_header(x, "Content-Range", text);
    }
    set_name(x, job);
    send_part(d, x, job,
              (sending){.status = kind == PART ? 206 : 200,
                        .type = scd_job_result_type(job->query.format),
                        .fd = fd,
                        .first = first,
                        .count = count});
}

void scd_handle_job_result(scd_daemon *d, scd_exchange *x)
{
    scd_job_record job;
    struct stat st;
    if (!scd_job_of(d, x, &job, NULL))
        return;
    char *path =
        job.state == SCD_JOB_COMPLETE ? scd_jobs_path(d->jobs, job.id, job.query.format) : NULL;
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (!scd_job_is_over(&job))
        scd_reply_problem(x, SCD_PROBLEM_CONFLICT,
                          "the job is %s and has no result yet: GET /v1/jobs/%s tells how far it "
                          "is, and its events when it is over",
                          scd_job_state_name(job.state), job.id);
    else if (job.state != SCD_JOB_COMPLETE)
        scd_reply_problem(x, SCD_PROBLEM_CONFLICT, "the job is %s and has no result%s%s",
                          scd_job_state_name(job.state), *job.detail ? ": " : "", job.detail);
    else if (fd < 0 || fstat(fd, &st) || (uint64_t)st.st_size != job.result_bytes)
        scd_reply_problem(x, SCD_PROBLEM_INTERNAL, "the result's file is not what was written");
    else {
        send_range(d, x, &job, fd, (uint64_t)st.st_size);
        fd = -1;
    }
    if (fd >= 0)
        close(fd);
    free(path);
    scd_job_release(&job);
}
