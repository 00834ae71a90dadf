/* job_client.c - see job_client.h. */
#include "api/cli/job_client.h"

#include "api/cli/task.h"
#include "api/results.h"
#include "engine/base/clock.h"
#include "engine/model/file.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { PATH_BYTES = 256, MAX_ID_BYTES = 64, POLL_MS = 250 };
static const int64_t PATIENCE_NS = 5 * 60 * SCD_NS_PER_S;

const char *cli_text_of(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsString(item) ? item->valuestring : NULL;
}

double cli_number_of(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNumber(item) ? item->valuedouble : 0;
}

const cJSON *cli_object_of(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

bool cli_job_is_id(const char *id)
{
    size_t n = strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789_");
    return n && !id[n] && n < MAX_ID_BYTES;
}

scd_code cli_job_get(scd_client *client, const char *id, cJSON **job, scd_error *err)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "/v1/jobs/%.*s", MAX_ID_BYTES, id);
    scd_client_call call = {.method = "GET", .path = path, .stop = cli_is_interrupted};
    scd_code code = scd_client_do(client, &call, err);
    if (!code && !cli_text_of(call.answer, "state"))
        code = scd_fail(err, SCD_E_CORRUPT, "%s: the daemon's answer is no job", id);
    if (code)
        cJSON_Delete(call.answer);
    else
        *job = call.answer;
    return code;
}

static bool is_over(const cJSON *job)
{
    const char *state = cli_text_of(job, "state");
    return strcmp(state, "QUEUED") != 0 && strcmp(state, "RUNNING") != 0;
}

static void pause_ms(long ms)
{
    const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * SCD_NS_PER_MS};
    nanosleep(&t, NULL);
}

/* How far it is, once that is known. */
static void show(cli_progress *p, const cJSON *job, bool quiet)
{
    const cJSON *progress = cli_object_of(job, "progress");
    size_t total = (size_t)cli_number_of(progress, "cells");
    size_t done = (size_t)cli_number_of(progress, "cells_done");
    if (total && p->total != total)
        cli_progress_begin(p, total, quiet);
    if (p->total && done > p->done)
        cli_progress_add(p, done - p->done);
}

scd_code cli_job_wait(scd_client *client, const char *id, bool quiet, cJSON **job, scd_error *err)
{
    cli_progress progress = {.is_quiet = true};
    int64_t since_ns = scd_now_ns();
    scd_code code = SCD_OK;
    for (;;) {
        cJSON *now = NULL;
        code = cli_job_get(client, id, &now, err);
        if (!code) {
            since_ns = scd_now_ns();
            cJSON_Delete(*job);
            *job = now;
            show(&progress, now, quiet);
            if (is_over(now))
                break;
        } else if (code != SCD_E_IO || scd_now_ns() - since_ns > PATIENCE_NS) {
            break;
        }
        pause_ms(POLL_MS);
    }
    cli_progress_end(&progress);
    return code;
}

scd_code cli_job_judge(const cJSON *job, scd_error *err)
{
    const char *state = cli_text_of(job, "state"), *id = cli_text_of(job, "id");
    const char *detail = cli_text_of(cli_object_of(job, "error"), "detail");
    if (strcmp(state, "COMPLETE") == 0)
        return SCD_OK;
    if (strcmp(state, "CANCELED") == 0)
        return scd_fail(err, SCD_E_CANCELED, "%s was canceled", id);
    if (!is_over(job))
        return scd_fail(err, SCD_E_BUSY, "%s is not over: it is %s", id, state);
    return scd_fail(err, strcmp(state, "FAILED") == 0 ? SCD_E_INVALID : SCD_E_INTERNAL,
                    "%s: %s (%s)", id, detail ? detail : "no reason is known", state);
}

scd_code cli_job_end(scd_client *client, const char *id, cJSON **answer, scd_error *err)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "/v1/jobs/%.*s", MAX_ID_BYTES, id);
    scd_client_call call = {.method = "DELETE", .path = path, .once = true};
    scd_code code = scd_client_do(client, &call, err);
    if (answer && !code)
        *answer = call.answer;
    else
        cJSON_Delete(call.answer);
    return code;
}

/* ---- results -------------------------------------------------------------------------------- */

typedef struct fetching {
    scd_file_writer writer;
    scd_hasher *hasher;
    uint64_t n_bytes; /* that are here */
    scd_error err;
} fetching;

static bool keep(void *arg, const void *bytes, size_t n)
{
    fetching *f = arg;
    if (scd_file_writer_add(&f->writer, bytes, n, &f->err))
        return false;
    scd_hasher_add(f->hasher, bytes, n);
    f->n_bytes += n;
    return true;
}

static bool is_interrupted(void *arg)
{
    (void)arg;
    return cli_is_interrupted(NULL);
}

/* All bytes, from where it broke off where it did. */
static scd_code fetch_all(scd_client *client, const char *id, uint64_t n_bytes, fetching *f,
                          scd_error *err)
{
    char path[PATH_BYTES], range[64];
    int64_t since_ns = scd_now_ns();
    scd_code code = SCD_OK;
    snprintf(path, sizeof path, "/v1/jobs/%.*s/result", MAX_ID_BYTES, id);
    while (f->n_bytes < n_bytes) {
        uint64_t before = f->n_bytes;
        snprintf(range, sizeof range, "Range: bytes=%llu-", (unsigned long long)before);
        scd_client_call call = {.method = "GET",
                                .path = path,
                                .headers = {range},
                                .sink = keep,
                                .stop = is_interrupted,
                                .arg = f};
        code = scd_client_do(client, &call, err);
        cJSON_Delete(call.answer);
        if (f->err.code)
            return scd_fail(err, f->err.code, "%s", f->err.message);
        if (f->n_bytes > before)
            since_ns = scd_now_ns();
        if (code && (code != SCD_E_IO || scd_now_ns() - since_ns > PATIENCE_NS))
            return code;
        if (!code && f->n_bytes == before)
            return scd_fail(err, SCD_E_CORRUPT, "%s: its result ends before its end", id);
        if (code)
            pause_ms(POLL_MS);
    }
    return SCD_OK;
}

scd_code cli_job_fetch(scd_client *client, const cJSON *job, const char *output, bool overwrite,
                       scd_error *err)
{
    const cJSON *result = cli_object_of(job, "result");
    const char *sha256 = cli_text_of(result, "sha256"), *id = cli_text_of(job, "id");
    char hex[SCD_DIGEST_HEX];
    fetching f = {.hasher = scd_hasher_new()};
    if (!f.hasher)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    scd_code code = sha256 ? scd_results_check_free(output, overwrite, err)
                           : scd_fail(err, SCD_E_CORRUPT, "%s has no result", id);
    if (!code)
        code = scd_file_writer_open(&f.writer, output, err);
    if (code) {
        scd_hasher_free(f.hasher);
        return code;
    }
    code = fetch_all(client, id, (uint64_t)cli_number_of(result, "bytes"), &f, err);
    scd_digest digest = scd_hasher_finish(f.hasher);
    scd_digest_hex(&digest, hex);
    if (!code && strcmp(hex, sha256) != 0)
        code =
            scd_fail(err, SCD_E_CORRUPT, "%s: the result came as %s, and is %s", id, hex, sha256);
    if (!code)
        code = scd_file_writer_commit(&f.writer, err);
    else
        scd_file_writer_abandon(&f.writer);
    scd_hasher_free(f.hasher);
    return code;
}
