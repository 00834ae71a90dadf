/* upload.c - see upload.h. */
#include "server/upload.h"

#include "api/gunzip.h"
#include "api/models.h"
#include "engine/base/clock.h"
#include "engine/base/fd.h"
#include "engine/base/mem.h"
#include "engine/model/file.h"
#include "server/job_wait.h"
#include "server/reply.h"
#include "server/router.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <unistd.h>

#define RESERVE_BYTES ((uint64_t)64 << 20) /* at a time, where no length is announced */
#define WRITEBACK_BYTES ((uint64_t)8 << 20)

typedef struct upload {
    scd_job_change change;
    scd_job_wait wait;
    scd_daemon *d;
    scd_exchange *x;
    char actor[SCD_JOB_OWNER_BYTES], owner[SCD_JOB_OWNER_BYTES];
    scd_job_record job; /* of a POST: the new one; of a PATCH: as it was */
    bool is_new, is_form, met_file;
    bool created, claimed; /* the file, which goes unless it is kept; the right to add to it */
    bool handed;           /* jobs-db has it, and the exchange waits */
    bool kept;             /* the job has the bytes */
    bool replayed, mismatch;
    int fd, wait_s;
    uint64_t offset, start, reserved, synced;
    scd_hasher *hasher;      /* of the first `offset` bytes; NULL: of a PATCH after a start */
    scd_gunzip_stream *gzip; /* NULL: the body is the file as it is */
    scd_problem problem;
} upload;

/* ---- the end of it -------------------------------------------------------------------------- */

/* Room and right are others' again before the client hears of it, for it may go on at once. */
static void let_go(upload *u)
{
    scd_jobs_unreserve(u->d->jobs, u->owner, u->reserved);
    u->reserved = 0;
    if (u->hasher && u->kept && !u->change.job.uploaded) {
        scd_jobs_leave_hasher(u->d->jobs, u->change.id, u->hasher, u->offset);
        u->hasher = NULL;
    }
    if (u->claimed)
        scd_jobs_release_upload(u->d->jobs, u->change.id);
    u->claimed = false;
}

static void upload_free(upload *u)
{
    if (u->fd >= 0)
        close(u->fd);
    let_go(u);
    if (u->created && !u->kept)
        scd_jobs_unlink(u->d->jobs, u->change.id, "input");
    scd_gunzip_free(u->gzip);
    scd_hasher_free(u->hasher);
    scd_job_release(&u->change.job);
    scd_job_release(&u->job);
    free(u);
}

/* ---- bytes ---------------------------------------------------------------------------------- */

static bool reserve(upload *u, uint64_t n)
{
    if (!scd_jobs_reserve(u->d->jobs, u->owner, n, u->is_new, &u->problem))
        return false;
    u->reserved += n;
    return true;
}

static bool write_bytes(upload *u, const char *bytes, size_t n)
{
    if (!scd_pwrite_all(u->fd, bytes, n, u->offset)) {
        scd_problem_set(&u->problem, SCD_PROBLEM_STORAGE,
                        "the file cannot be written: %s; try again later", strerror(errno));
        return false;
    }
    if (u->hasher)
        scd_hasher_add(u->hasher, bytes, n);
    u->offset += n;
    if (u->offset - u->synced > WRITEBACK_BYTES) { /* so that little is left for the sync */
        sync_file_range(u->fd, (off_t)u->synced, (off_t)(u->offset - u->synced),
                        SYNC_FILE_RANGE_WRITE);
        u->synced = u->offset;
    }
    return true;
}

static bool begin_part(upload *u, const char *part, const char *filename)
{
    if (strcmp(part, "file"))
        scd_problem_add(&u->problem, "",
                        "the form has a part \"%.80s\": it is to have one, "
                        "\"file\"; what else is said goes into the query",
                        part);
    else if (u->met_file)
        scd_problem_add(&u->problem, "", "the form has several files: a job has one");
    u->met_file = true;
    if (!u->problem.kind && filename && !*u->job.query.filename) {
        scd_job_query_set(&u->job.query, "filename", filename, &u->problem);
        scd_job_query_check(&u->job.query, &u->problem);
    }
    return !u->problem.kind;
}

/* Bytes of the file. */
static bool keep_bytes(void *arg, const char *bytes, size_t n)
{
    upload *u = arg;
    uint64_t have = u->offset - u->start, max = (uint64_t)u->d->config->job_upload_mb << 20;
    if (u->job.upload_length && n > u->job.upload_length - u->offset)
        scd_problem_set(&u->problem, SCD_PROBLEM_INVALID,
                        "more bytes than the Upload-Length of %" PRIu64, u->job.upload_length);
    else if (n > max - u->offset)
        scd_problem_set(&u->problem, SCD_PROBLEM_TOO_LARGE,
                        "the file is over %" PRIu64 " bytes, the most that a job takes here", max);
    else if (have + n <= u->reserved || reserve(u, n > RESERVE_BYTES ? n : RESERVE_BYTES))
        return write_bytes(u, bytes, n);
    return false;
}

/* http-N */
static bool take(void *arg, const char *part, const char *filename, const char *bytes, size_t n)
{
    upload *u = arg;
    bool damaged = false;
    if (u->problem.kind)
        return false;
    if (part && !bytes)
        return begin_part(u, part, filename);
    if (!u->gzip)
        return keep_bytes(u, bytes, n);
    bool ok = scd_gunzip_feed(u->gzip, bytes, n, keep_bytes, u, &damaged);
    if (damaged)
        scd_problem_set(&u->problem, SCD_PROBLEM_BAD_REQUEST, "the gzip body is damaged, or none");
    return ok;
}

/* ---- in jobs-db ----------------------------------------------------------------------------- */

static scd_code digest_of(upload *u, char hex[SCD_DIGEST_HEX])
{
    scd_code code = SCD_OK;
    if (!u->hasher) { /* of several requests, with a start in between */
        u->hasher = scd_hasher_new();
        code = u->hasher ? scd_hasher_add_file(u->hasher, u->fd, "the file", NULL) : SCD_E_NOMEM;
    }
    if (code)
        return code;
    scd_digest digest = scd_hasher_finish(u->hasher);
    scd_digest_hex(&digest, hex);
    return SCD_OK;
}

/* The job that this one is again, or why it is not. */
static scd_problem_kind replay(upload *u, scd_job_record *job, scd_problem *problem)
{
    scd_job_record found;
    scd_buf was, is;
    if (!*job->idempotency_key ||
        !scd_jobs_find_key(u->d->jobs, job->owner, job->idempotency_key, &found))
        return SCD_PROBLEM_NONE;
    scd_buf_init(&was, SIZE_MAX / 2);
    scd_buf_init(&is, SIZE_MAX / 2);
    scd_job_query_write(&found.query, &was);
    scd_job_query_write(&job->query, &is);
    bool same = was.data && is.data && !strcmp(was.data, is.data) &&
                found.upload_length == job->upload_length;
    if (found.uploaded && job->uploaded)
        same = same && !strcmp(found.input_sha256, job->input_sha256);
    else
        same = same && !u->offset; /* a beginning, without bytes: Upload-Offset says how to go on */
    scd_buf_release(&was);
    scd_buf_release(&is);
    u->replayed = same;
    scd_problem_kind kind =
        same ? scd_problem_set(problem, SCD_PROBLEM_CONFLICT, "a replay")
             : scd_problem_set(problem, SCD_PROBLEM_INVALID,
                               "Idempotency-Key \"%.80s\" was used for another job (%s): its "
                               "parameters or its file differ; use a new key",
                               job->idempotency_key, found.id);
    scd_job_release(&u->job);
    u->job = found;
    return kind;
}

static scd_problem_kind keep(scd_job_change *change, scd_job_record *job, scd_problem *problem)
{
    upload *u = change->arg;
    if (!u->is_new && (job->state != SCD_JOB_QUEUED || job->uploaded))
        return scd_problem_set(problem, SCD_PROBLEM_CONFLICT, "the job takes no more of its file");
    job->upload_bytes = u->offset;
    job->uploaded = job->upload_length ? u->offset == job->upload_length : u->is_new;
    if (fdatasync(u->fd) || (u->is_new && !scd_jobs_sync_dir(u->d->jobs)))
        return scd_problem_set(problem, SCD_PROBLEM_STORAGE,
                               "the file cannot be synced to disk: try again later");
    if (job->uploaded && digest_of(u, job->input_sha256))
        return scd_problem_set(problem, SCD_PROBLEM_STORAGE, "the file cannot be read again");
    bool mismatch =
        job->uploaded && *job->query.sha256 && strcmp(job->query.sha256, job->input_sha256);
    if (mismatch && u->is_new)
        return scd_problem_set(problem, SCD_PROBLEM_INVALID,
                               "the file that came has SHA-256 %s, not the one announced: send it "
                               "again",
                               job->input_sha256);
    if (mismatch) { /* its other bytes are here already, and one of them is wrong */
        u->mismatch = true;
        job->state = SCD_JOB_FAILED;
        snprintf(job->detail, sizeof job->detail,
                 "the file that came has SHA-256 %s, not the one announced", job->input_sha256);
    }
    return u->is_new ? replay(u, job, problem) : SCD_PROBLEM_NONE;
}

/* Of a PATCH whose client left: what came is kept, and nobody is told. */
static void on_kept_alone(scd_job_change *change)
{
    upload *u = change->arg;
    u->kept = !change->problem.kind;
    upload_free(u);
}

static void on_kept(scd_job_change *change)
{
    upload *u = change->arg;
    u->kept = !change->problem.kind;
    u->problem = change->problem;
    let_go(u);
    bool waits = u->wait_s && (u->kept || u->replayed) && !u->mismatch;
    const char *id = u->replayed ? u->job.id : change->id;
    if (waits)
        scd_job_wait_start(&u->wait, u->d, u->x, id, u->wait_s);
    else
        scd_exchange_resume(u->x);
}

/* ---- the exchange --------------------------------------------------------------------------- */

/* It is over. */
static void on_end(void *arg)
{
    upload *u = arg;
    bool has_more = !u->is_new && !u->handed && u->offset > u->start;
    scd_job_wait_end(&u->wait);
    if (!has_more) {
        upload_free(u);
        return;
    }
    u->change.done = on_kept_alone;
    scd_jobs_post(u->d->jobs, &u->change);
}

static void reply_job(upload *u, const char *id)
{
    scd_job_record job;
    double rate = 0;
    char location[64];
    if (!scd_jobs_get(u->d->jobs, id, NULL, &job, &rate)) {
        scd_reply_problem(u->x, SCD_PROBLEM_NOT_FOUND, "the job was deleted meanwhile");
        return;
    }
    snprintf(location, sizeof location, "/v1/jobs/%s", id);
    scd_exchange_set_header(u->x, "Location", location);
    if (u->replayed)
        scd_exchange_set_header(u->x, "Idempotency-Replayed", "true");
    if (u->wait_s)
        scd_exchange_set_header(u->x, "Preference-Applied", "wait");
    scd_job_reply(u->d, u->x, u->wait_s && scd_job_is_over(&job) ? 200 : 202, &job, rate);
    scd_job_release(&job);
}

/* http-N, after the resume */
static void on_resumed(scd_exchange *x)
{
    upload *u = scd_exchange_get_note(x)->task;
    scd_job_wait_end(&u->wait);
    if (u->mismatch)
        scd_reply_problem(x, SCD_PROBLEM_INVALID, "%s: send it again as a new job",
                          u->change.job.detail);
    else if (u->kept || u->replayed)
        reply_job(u, u->replayed ? u->job.id : u->change.id);
    else
        scd_reply_with(x, &u->problem);
}

static bool judge_body(upload *u)
{
    if (u->problem.kind)
        return false;
    if (scd_exchange_sink_over(u->x))
        scd_problem_set(&u->problem, SCD_PROBLEM_TOO_LARGE,
                        "the file is over %" PRIi64 " MiB, the most that a job takes here",
                        u->d->config->job_upload_mb);
    else if (u->gzip && !scd_gunzip_is_whole(u->gzip))
        scd_problem_set(&u->problem, SCD_PROBLEM_BAD_REQUEST, "the gzip body is cut off");
    else if (u->is_form && !u->met_file)
        scd_problem_add(&u->problem, "", "the form has no part \"file\"");
    else if (u->is_form && scd_exchange_form_is_cut(u->x))
        scd_problem_add(&u->problem, "", "the form ends before its closing boundary");
    else if (u->is_new && !u->offset && !u->job.upload_length)
        scd_problem_add(&u->problem, "", "the body is empty: it is to be the file");
    return !u->problem.kind;
}

/* The body is here. */
static void hand_over(scd_daemon *d, scd_exchange *x)
{
    upload *u = scd_exchange_get_note(x)->task;
    scd_error err = {0};
    if (!u) {
        scd_reply_problem(x, SCD_PROBLEM_INTERNAL, "the body was not taken");
        return;
    }
    if (!judge_body(u)) {
        scd_reply_with(x, &u->problem);
        return;
    }
    (void)d;
    if (u->is_new && !scd_job_copy(&u->change.job, &u->job))
        scd_reply_problem(x, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
    else if (scd_exchange_suspend(x, SCD_NEVER, on_resumed, &err))
        scd_reply_problem(x, SCD_PROBLEM_INTERNAL, "%s", err.message);
    else {
        u->handed = true;
        u->change.done = on_kept;
        scd_jobs_post(u->d->jobs, &u->change);
    }
}

void scd_handle_jobs_create(scd_daemon *d, scd_exchange *x)
{
    hand_over(d, x);
}

void scd_handle_job_append(scd_daemon *d, scd_exchange *x)
{
    hand_over(d, x);
}

/* ---- the headers ---------------------------------------------------------------------------- */

/* A header that is a number; false: it is there and is none. */
static bool read_number(scd_exchange *x, const char *name, bool *given, uint64_t *out)
{
    const char *text = scd_exchange_header(x, name);
    char *end;
    *given = text != NULL;
    *out = 0;
    if (!text)
        return true;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && !errno && *out < (uint64_t)1 << 62;
}

static bool takes_type(scd_exchange *x, upload *u)
{
    const char *type = scd_exchange_header(x, "Content-Type");
    const char *encoding = scd_exchange_header(x, "Content-Encoding");
    bool appends = !u->is_new && type &&
                   (!strcasecmp(type, "application/partial-upload") ||
                    !strcasecmp(type, "application/offset+octet-stream"));
    if (type && !appends && (!scd_job_takes_type(type, &u->is_form) || (u->is_form && !u->is_new)))
        scd_problem_set(&u->problem, SCD_PROBLEM_MEDIA_TYPE,
                        "Content-Type is \"%.80s\": a file comes as application/octet-stream, "
                        "application/x-hdf5, application/zip, application/gzip, text/csv, "
                        "text/tab-separated-values or multipart/form-data (curl: -H 'Content-Type: "
                        "application/octet-stream')",
                        type);
    else if (!encoding || !*encoding || !strcasecmp(encoding, "identity"))
        return true;
    else if ((strcasecmp(encoding, "gzip") && strcasecmp(encoding, "x-gzip")) || u->is_form ||
             !u->is_new || scd_exchange_header(x, "Upload-Length"))
        scd_problem_set(
            &u->problem, SCD_PROBLEM_MEDIA_TYPE,
            "Content-Encoding \"%.40s\": gzip is taken, of a whole file that is a plain "
            "body; parts of a file and forms come as they are",
            encoding);
    else if (!(u->gzip = scd_gunzip_new()))
        scd_problem_set(&u->problem, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
    return !u->problem.kind;
}

static void set_parameter(void *arg, const char *name, const char *value)
{
    upload *u = arg;
    scd_job_query_set(&u->job.query, name, value, &u->problem);
}

static bool choose_model(upload *u)
{
    const scd_job_query *q = &u->job.query;
    scd_task_model who = {.engine = u->d->engine};
    scd_models_choose_for(scd_task_find(q->task), q, q->model, &who, &u->problem);
    if (u->problem.kind)
        return false;
    snprintf(u->job.model, sizeof u->job.model, "%s", who.model->name);
    snprintf(u->job.model_digest, sizeof u->job.model_digest, "%s", who.model->digest_hex);
    if (who.head)
        snprintf(u->job.head_digest, sizeof u->job.head_digest, "%s", who.head->digest_hex);
    scd_task_check(q, &who, &u->problem);
    return !u->problem.kind;
}

static bool make_id(char id[SCD_JOB_ID_BYTES])
{
    static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";
    unsigned char random[20];
    if (getrandom(random, sizeof random, 0) != sizeof random)
        return false;
    memcpy(id, "job_", 4);
    for (size_t i = 0; i < sizeof random; i++)
        id[4 + i] = digits[random[i] % 32];
    id[4 + sizeof random] = '\0';
    return true;
}

static bool read_post(upload *u)
{
    scd_exchange *x = u->x;
    bool given;
    const char *key = scd_exchange_header(x, "Idempotency-Key");
    const char *name = scd_exchange_header(x, "Content-Disposition");
    scd_exchange_each_query(x, set_parameter, u);
    if (name && !*u->job.query.filename && (name = strstr(name, "filename=\""))) {
        char text[SCD_JOB_NAME_BYTES];
        snprintf(text, sizeof text, "%.*s", (int)strcspn(name + 10, "\""), name + 10);
        scd_job_query_set(&u->job.query, "filename", text, &u->problem);
    }
    scd_job_query_check(&u->job.query, &u->problem);
    if (key && (!*key || strlen(key) >= sizeof u->job.idempotency_key))
        scd_problem_set(&u->problem, SCD_PROBLEM_BAD_REQUEST,
                        "Idempotency-Key has to have 1 to %zu bytes",
                        sizeof u->job.idempotency_key - 1);
    else if (key)
        snprintf(u->job.idempotency_key, sizeof u->job.idempotency_key, "%s", key);
    if (!u->problem.kind && !read_number(x, "Upload-Length", &given, &u->job.upload_length))
        scd_problem_set(&u->problem, SCD_PROBLEM_BAD_REQUEST, "Upload-Length is no number");
    if (!u->problem.kind && given && u->is_form)
        scd_problem_set(&u->problem, SCD_PROBLEM_BAD_REQUEST,
                        "a form is sent at once: Upload-Length goes with a plain body");
    if (!u->problem.kind && *u->job.query.webhook && !scd_jobs_send_webhooks(u->d->jobs))
        scd_problem_add(&u->problem, "/webhook",
                        "this server sends none: it was started without --webhook-secret");
    return !u->problem.kind && choose_model(u);
}

static bool read_patch(upload *u)
{
    scd_exchange *x = u->x;
    bool given;
    uint64_t offset;
    char text[32];
    if (!scd_job_of(u->d, x, &u->job, NULL)) {
        u->job = (scd_job_record){0};
        return false;
    }
    if (!read_number(x, "Upload-Offset", &given, &offset) || !given)
        scd_problem_set(&u->problem, SCD_PROBLEM_BAD_REQUEST,
                        "Upload-Offset has to say where these bytes begin: HEAD /v1/jobs/{id} "
                        "tells how many there are");
    else if (u->job.state != SCD_JOB_QUEUED || u->job.uploaded)
        scd_problem_set(&u->problem, SCD_PROBLEM_CONFLICT,
                        "the job's file is whole: there is nothing to add");
    else if (offset != u->job.upload_bytes) {
        snprintf(text, sizeof text, "%" PRIu64, u->job.upload_bytes);
        scd_exchange_set_header(x, "Upload-Offset", text);
        scd_problem_set(&u->problem, SCD_PROBLEM_CONFLICT,
                        "Upload-Offset is %" PRIu64 ", and %s bytes are here: go on from there",
                        offset, text);
    } else {
        u->claimed = scd_jobs_claim_upload(u->d->jobs, u->job.id, offset, &u->hasher);
        if (!u->claimed)
            scd_problem_set(&u->problem, SCD_PROBLEM_CONFLICT,
                            "another request is sending this file: wait until it is over");
    }
    memcpy(u->change.id, u->job.id, sizeof u->change.id);
    u->start = u->offset = u->synced = offset;
    return !u->problem.kind;
}

static bool check_size(upload *u)
{
    bool given;
    uint64_t n, max = (uint64_t)u->d->config->job_upload_mb << 20;
    uint64_t all = u->job.upload_length;
    read_number(u->x, "Content-Length", &given, &n);
    if (n > all)
        all = n;
    if (all > max)
        scd_problem_set(&u->problem, SCD_PROBLEM_TOO_LARGE,
                        "the file has %" PRIu64 " bytes, at most %" PRIu64 " are taken", all, max);
    uint64_t more = all > u->start ? all - u->start : 0;
    return !u->problem.kind && reserve(u, more); /* of none, too: is there room for a job? */
}

static bool open_file(upload *u)
{
    char *path;
    if (u->is_new && !make_id(u->job.id)) {
        scd_problem_set(&u->problem, SCD_PROBLEM_INTERNAL, "no random numbers");
        return false;
    }
    path = scd_jobs_path(u->d->jobs, u->job.id, "input");
    if (path)
        u->fd = open(path, O_RDWR | O_CLOEXEC | (u->is_new ? O_CREAT | O_EXCL : 0), 0600);
    if (u->fd < 0)
        scd_problem_set(&u->problem, SCD_PROBLEM_STORAGE, "the file cannot be kept: %s",
                        path ? strerror(errno) : "out of memory");
    free(path);
    u->created = u->is_new && u->fd >= 0;
    memcpy(u->change.id, u->job.id, sizeof u->change.id);
    return u->fd >= 0;
}

void scd_upload_begin(scd_daemon *d, scd_exchange *x)
{
    const char *key = scd_exchange_get_note(x)->key;
    if (!scd_jobs_there(d, x))
        return;
    upload *u = scd_calloc(1, sizeof *u);
    if (!u) {
        scd_reply_problem(x, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
        return;
    }
    u->d = d;
    u->x = x;
    u->fd = -1;
    u->is_new = !strcmp(scd_exchange_method(x), "POST");
    u->wait_s = scd_job_wait_seconds(x);
    u->job.created_ms = scd_wall_ms();
    snprintf(u->owner, sizeof u->owner, "%s", key ? key : "");
    snprintf(u->actor, sizeof u->actor, "%s", u->owner);
    snprintf(u->job.owner, sizeof u->job.owner, "%s", u->owner);
    u->change.actor = u->actor;
    u->change.creates = u->is_new;
    u->change.mutate = keep;
    u->change.arg = u;
    bool ok = takes_type(x, u) && (u->is_new ? read_post(u) : read_patch(u));
    ok = ok && check_size(u) && open_file(u);
    if (ok && u->is_new && !(u->hasher = scd_hasher_new()))
        ok = false;
    if (ok) {
        const scd_sink sink = {.take = take,
                               .end = on_end,
                               .arg = u,
                               .max_bytes = ((uint64_t)d->config->job_upload_mb << 20) - u->start,
                               .multipart = u->is_form};
        scd_exchange_get_note(x)->task = u;
        scd_exchange_set_sink(x, &sink);
        return;
    }
    if (!scd_exchange_answered(x)) {
        if (!u->problem.kind)
            scd_problem_set(&u->problem, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
        scd_reply_with(x, &u->problem);
    }
    upload_free(u);
}
