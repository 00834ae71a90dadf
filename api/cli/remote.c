/* remote.c - a task of a file as a job of a daemon: sent, waited for, fetched, forgotten there; see
 * task.h.
 *
 * The job's Idempotency-Key is made of all that its result depends on. So whoever was cut off -
 * killed, or by the network - and runs the same line again finds the job and goes on with it: with
 * the bytes that are missing there, the cells that are left, or the result. Ctrl-C is otherwise: it
 * ends the job. */
#include "api/cli/job_client.h"
#include "api/cli/task.h"

#include "api/json_write.h"
#include "api/mex.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/model/file.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PART_BYTES = 8 << 20, QUERY_BYTES = 1 << 16, OUT_BYTES = 1 << 26, MAX_AGAIN = 1000 };
static const int64_t PATIENCE_NS = 5 * 60 * SCD_NS_PER_S;

typedef struct remote {
    const cli_task *o;
    scd_client *client;
    int fd; /* of the input */
    size_t n_bytes;
    char sha256[SCD_DIGEST_HEX];
    scd_buf query;
    cJSON *job;
    char id[64]; /* "": there is no job yet */
} remote;

/* ---- the job -------------------------------------------------------------------------------- */

/* A folder of MEX files becomes one file, which goes when it is closed. */
static scd_code pack_folder(remote *r, scd_error *err)
{
    struct stat st;
    const char *folder = getenv("TMPDIR");
    folder = folder && *folder ? folder : "/tmp";
    r->fd = open(folder, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    if (r->fd < 0)
        return scd_fail(err, SCD_E_IO, "%s ($TMPDIR): %s", folder, strerror(errno));
    scd_code code = scd_mex_pack(r->o->input, r->fd, err);
    if (!code && fstat(r->fd, &st))
        code = scd_fail(err, SCD_E_IO, "%s ($TMPDIR): %s", folder, strerror(errno));
    if (!code)
        r->n_bytes = (size_t)st.st_size;
    return code;
}

static scd_code open_input(remote *r, scd_error *err)
{
    struct stat st;
    const char *path = r->o->input;
    bool is_folder = !stat(path, &st) && S_ISDIR(st.st_mode);
    scd_code code = is_folder ? pack_folder(r, err) : scd_file_open(path, &r->fd, &r->n_bytes, err);
    scd_hasher *hasher = code ? NULL : scd_hasher_new();
    if (!code && !r->n_bytes)
        code = scd_fail(err, SCD_E_INVALID, "%s: is empty", path);
    if (!code)
        code = hasher ? scd_hasher_add_file(hasher, r->fd, path, err)
                      : scd_fail(err, SCD_E_NOMEM, "out of memory");
    if (!code) {
        scd_digest digest = scd_hasher_finish(hasher);
        scd_digest_hex(&digest, r->sha256);
    }
    scd_hasher_free(hasher);
    return code;
}

/* What the daemon serves under the model's name, now; "" where it has none of that name. */
static scd_code model_digest(const remote *r, char digest[SCD_DIGEST_HEX], scd_error *err)
{
    cJSON *answer = NULL;
    const cJSON *model;
    const char *wanted = r->o->model;
    scd_code code = scd_client_ask(r->client, "/v1/models", NULL, &answer, err);
    digest[0] = '\0';
    cJSON_ArrayForEach(model, cli_object_of(answer, "data"))
    {
        const char *name = cli_text_of(model, "name"), *is = cli_text_of(model, "digest");
        if (!digest[0] && name && is && (!wanted || strcmp(name, wanted) == 0))
            snprintf(digest, SCD_DIGEST_HEX, "%s", is);
    }
    cJSON_Delete(answer);
    return code;
}

static scd_code make_query(remote *r, scd_error *err)
{
    scd_job_query q = r->o->query;
    scd_problem problem = {0};
    if (r->o->model)
        scd_job_query_set(&q, "model", r->o->model, &problem);
    memcpy(q.sha256, r->sha256, sizeof q.sha256);
    scd_buf_puts(&r->query, "/v1/jobs?");
    scd_job_query_write(&q, &r->query);
    if (problem.kind)
        return scd_fail(err, SCD_E_INVALID, "--model: %s", problem.errors[0].detail);
    return r->query.failed ? scd_fail(err, SCD_E_NOMEM, "out of memory") : SCD_OK;
}

static scd_code make_key(const remote *r, const char *digest, int again, char hex[SCD_DIGEST_HEX],
                         scd_error *err)
{
    scd_hasher *hasher = scd_hasher_new();
    if (!hasher)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    uint64_t numbers[2] = {(uint64_t)again, r->n_bytes};
    scd_hasher_add_text(hasher, "scdiva 1");
    scd_hasher_add_text(hasher, r->query.data);
    scd_hasher_add_text(hasher, digest);
    scd_hasher_add(hasher, numbers, sizeof numbers);
    scd_digest key = scd_hasher_finish(hasher);
    scd_digest_hex(&key, hex);
    scd_hasher_free(hasher);
    return SCD_OK;
}

static bool is_in(const cJSON *job, const char *state)
{
    const char *is = cli_text_of(job, "state");
    return is && strcmp(is, state) == 0;
}

static scd_code post(remote *r, const char *key, scd_error *err)
{
    char length[64], idempotency[96];
    snprintf(length, sizeof length, "Upload-Length: %zu", r->n_bytes);
    snprintf(idempotency, sizeof idempotency, "Idempotency-Key: %s", key);
    scd_client_call call = {
        .method = "POST",
        .path = r->query.data,
        .headers = {"Content-Type: application/octet-stream", length, idempotency},
        .stop = cli_is_interrupted};
    scd_code code = scd_client_do(r->client, &call, err);
    const char *id = code ? NULL : cli_text_of(call.answer, "id");
    if (!code && (!id || !cli_job_is_id(id) || !cli_text_of(call.answer, "state")))
        code = scd_fail(err, SCD_E_CORRUPT, "the daemon's answer is no job");
    if (code) {
        cJSON_Delete(call.answer);
        return code;
    }
    cJSON_Delete(r->job);
    r->job = call.answer;
    snprintf(r->id, sizeof r->id, "%s", id);
    return SCD_OK;
}

/* A new job, or the one that an earlier run began and nobody ended. */
static scd_code begin(remote *r, scd_error *err)
{
    char digest[SCD_DIGEST_HEX], key[SCD_DIGEST_HEX];
    scd_code code = model_digest(r, digest, err);
    for (int again = 0; again < MAX_AGAIN && !code; again++) {
        code = make_key(r, digest, again, key, err);
        if (!code)
            code = post(r, key, err);
        if (code || is_in(r->job, "QUEUED") || is_in(r->job, "RUNNING") ||
            is_in(r->job, "COMPLETE"))
            return code;
        r->id[0] = '\0'; /* that one ended badly, some time ago */
    }
    return code ? code : scd_fail(err, SCD_E_INVALID, "this job failed %d times", (int)MAX_AGAIN);
}

/* ---- the file ------------------------------------------------------------------------------- */

static scd_code send_part(remote *r, uint64_t offset, char *part, scd_error *err)
{
    char path[128], header[64];
    size_t n = r->n_bytes - (size_t)offset < PART_BYTES ? r->n_bytes - (size_t)offset : PART_BYTES;
    for (size_t at = 0; at < n;) {
        ssize_t got = pread(r->fd, part + at, n - at, (off_t)(offset + at));
        if (got <= 0)
            return scd_fail(err, SCD_E_INVALID, "%s: became shorter while it was sent",
                            r->o->input);
        at += (size_t)got;
    }
    snprintf(path, sizeof path, "/v1/jobs/%s", r->id);
    snprintf(header, sizeof header, "Upload-Offset: %llu", (unsigned long long)offset);
    scd_client_call call = {.method = "PATCH",
                            .path = path,
                            .headers = {"Content-Type: application/octet-stream", header},
                            .body = part,
                            .n_bytes = n,
                            .once = true,
                            .stop = cli_is_interrupted};
    scd_code code = scd_client_do(r->client, &call, err);
    bool may_pass = call.status == 409; /* the part that broke off is still held there */
    if (!code) {
        cJSON_Delete(r->job);
        r->job = call.answer;
    } else {
        cJSON_Delete(call.answer);
    }
    return code && may_pass ? SCD_E_IO : code;
}

static scd_code send_file(remote *r, scd_error *err)
{
    const struct timespec pause = {.tv_nsec = 250 * SCD_NS_PER_MS};
    int64_t since_ns = scd_now_ns();
    scd_code code = SCD_OK;
    char *part = scd_malloc(PART_BYTES, 1);
    if (!part)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    while (!code && is_in(r->job, "QUEUED")) {
        const cJSON *upload = cli_object_of(r->job, "upload");
        uint64_t offset = (uint64_t)cli_number_of(upload, "offset");
        if (cJSON_IsTrue(cli_object_of(upload, "complete")) || offset >= r->n_bytes)
            break;
        code = send_part(r, offset, part, err);
        if (!code)
            since_ns = scd_now_ns();
        if (code != SCD_E_IO || scd_now_ns() - since_ns > PATIENCE_NS)
            continue;
        nanosleep(&pause, NULL);
        cJSON *now = NULL;
        code = cli_job_get(r->client, r->id, &now, err);
        if (!code) {
            cJSON_Delete(r->job);
            r->job = now;
        }
        code = code == SCD_E_IO ? SCD_OK : code;
    }
    free(part);
    return code;
}

/* ---- the end -------------------------------------------------------------------------------- */

static void print_list(const char *kind, const cJSON *list)
{
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        const char *text = cJSON_GetStringValue(item);
        if (text)
            cli_print_notes(kind, &text, 1);
    }
}

static int report(const remote *r, double seconds)
{
    const cli_task *o = r->o;
    scd_buf out;
    scd_buf_init(&out, OUT_BYTES);
    if (o->json) {
        char *job = cJSON_PrintUnformatted(r->job);
        scd_buf_puts(&out, "{\"output\":");
        scd_json_text(&out, o->output);
        cli_json_text(&out, "task", o->verb);
        cli_json_text(&out, "input_sha256", r->sha256);
        cli_json_text(&out, "model", cli_text_of(cli_object_of(r->job, "model"), "name"));
        cli_json_text(&out, "model_digest", cli_text_of(cli_object_of(r->job, "model"), "digest"));
        scd_buf_puts(&out, ",\"seconds\":");
        scd_json_double(&out, seconds);
        scd_buf_printf(&out, ",\"job\":%s}\n", job ? job : "null");
        free(job);
    } else if (!o->quiet) {
        scd_buf_printf(&out, "%s: %.0f cells by model %s of %s, %.1f s\n", o->output,
                       cli_number_of(cli_object_of(r->job, "progress"), "cells"),
                       cli_text_of(cli_object_of(r->job, "model"), "name"),
                       scd_client_url(r->client), seconds);
    }
    return cli_print(&out, CLI_OK);
}

/* Ctrl-C: nothing of it is left there. */
static void cancel(remote *r)
{
    scd_error ignored;
    if (!r->id[0])
        return;
    if (!cli_job_end(r->client, r->id, NULL, &ignored) &&
        !cli_job_end(r->client, r->id, NULL, &ignored))
        fprintf(stderr, "scdiva: %s was canceled\n", r->id);
    else
        fprintf(stderr, "scdiva: %s could not be canceled: it goes on there\n", r->id);
}

static scd_code run(remote *r, scd_error *err)
{
    const cli_task *o = r->o;
    scd_error ignored;
    scd_code code = scd_results_check_free(o->output, o->overwrite, err);
    if (!code)
        code = open_input(r, err);
    if (!code)
        code = make_query(r, err);
    if (!code)
        code = scd_client_open(o->server, o->key_file, &r->client, err);
    if (!code)
        code = begin(r, err);
    if (!code)
        code = send_file(r, err);
    if (!code)
        code = cli_job_wait(r->client, r->id, o->quiet, &r->job, err);
    if (!code && !o->quiet) {
        print_list("note", cli_object_of(r->job, "decisions"));
        print_list("warning", cli_object_of(r->job, "warnings"));
    }
    if (!code)
        code = cli_job_judge(r->job, err);
    if (!code)
        code = cli_job_fetch(r->client, r->job, o->output, o->overwrite, err);
    if (!code)
        cli_job_end(r->client, r->id, NULL, &ignored); /* what is not forgotten expires there */
    return code;
}

int cli_run_remote(const cli_task *o)
{
    remote r = {.o = o, .fd = -1};
    scd_error err = {0};
    int64_t start = scd_now_ns();
    scd_buf_init(&r.query, QUERY_BYTES);
    scd_code code = run(&r, &err);
    if (code == SCD_E_CANCELED && cli_is_interrupted(NULL))
        cancel(&r);
    int status = code ? cli_fail(&err, o->json) : report(&r, (double)(scd_now_ns() - start) * 1e-9);
    cJSON_Delete(r.job);
    scd_client_close(r.client);
    scd_buf_release(&r.query);
    if (r.fd >= 0)
        close(r.fd);
    return status;
}
