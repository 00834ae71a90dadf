/* job.c - see job.h. */
#include "server/job.h"

#include "api/json_write.h"
#include "engine/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const names[SCD_N_JOB_STATES] = {"QUEUED", "RUNNING", "COMPLETE",
                                                    "FAILED", "ERROR",   "CANCELED"};

const char *scd_job_state_name(scd_job_state state)
{
    return names[state];
}

bool scd_job_state_parse(const char *name, scd_job_state *out)
{
    for (int i = 0; i < SCD_N_JOB_STATES; i++)
        if (!strcmp(names[i], name)) {
            *out = (scd_job_state)i;
            return true;
        }
    return false;
}

bool scd_job_copy(scd_job_record *to, const scd_job_record *from)
{
    *to = *from;
    to->report = from->report ? scd_strdup(from->report) : NULL;
    bool ok = to->report || !from->report;
    if (!ok)
        *to = (scd_job_record){0};
    return ok;
}

void scd_job_release(scd_job_record *job)
{
    free(job->report);
    *job = (scd_job_record){0};
}

uint64_t scd_job_disk_bytes(const scd_job_record *job)
{
    return scd_job_is_over(job) ? job->result_bytes
                                : job->upload_bytes + job->n_done * job->row_bytes;
}

/* ---- JSON ----------------------------------------------------------------------------------- */

static void put_text(scd_buf *out, const char *name, const char *text)
{
    if (!*text)
        return;
    scd_buf_printf(out, ",\"%s\":", name);
    scd_json_text(out, text);
}

void scd_job_write_time(scd_buf *out, const char *name, int64_t ms)
{
    char text[40];
    struct tm tm;
    time_t s = (time_t)(ms / 1000);
    if (!ms || !gmtime_r(&s, &tm))
        return;
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    scd_buf_printf(out, ",\"%s\":\"%s.%03dZ\"", name, text, (int)(ms % 1000));
}

static void put_progress(const scd_job_record *job, double rate, scd_buf *out)
{
    double fraction = job->state == SCD_JOB_COMPLETE ? 1
                      : job->n_cells                 ? (double)job->n_done / (double)job->n_cells
                                                     : 0;
    scd_buf_printf(out, ",\"progress\":{\"cells\":%llu,\"cells_done\":%llu,\"fraction\":",
                   (unsigned long long)job->n_cells, (unsigned long long)job->n_done);
    scd_json_double(out, fraction);
    if (job->state == SCD_JOB_RUNNING && rate > 0) {
        scd_buf_puts(out, ",\"cells_per_second\":");
        scd_json_double(out, rate);
        scd_buf_puts(out, ",\"seconds_left\":");
        scd_json_double(out, (double)(job->n_cells - job->n_done) / rate);
    }
    scd_buf_putc(out, '}');
}

static void put_upload(const scd_job_record *job, scd_buf *out)
{
    scd_buf_printf(out, ",\"upload\":{\"offset\":%llu", (unsigned long long)job->upload_bytes);
    if (job->upload_length)
        scd_buf_printf(out, ",\"length\":%llu", (unsigned long long)job->upload_length);
    scd_buf_printf(out, ",\"complete\":%s", job->uploaded ? "true" : "false");
    put_text(out, "sha256", job->input_sha256);
    scd_buf_putc(out, '}');
}

static void put_outcome(const scd_job_record *job, scd_buf *out)
{
    if (job->state == SCD_JOB_COMPLETE) {
        scd_buf_printf(out, ",\"result\":{\"url\":\"/v1/jobs/%s/result\",\"bytes\":%llu", job->id,
                       (unsigned long long)job->result_bytes);
        put_text(out, "sha256", job->result_sha256);
        scd_buf_putc(out, '}');
    }
    if (job->state == SCD_JOB_FAILED || job->state == SCD_JOB_ERROR) {
        scd_buf_printf(out, ",\"error\":{\"type\":\"urn:scdiva:problem:%s\"",
                       job->state == SCD_JOB_FAILED ? "invalid" : "internal");
        put_text(out, "detail", job->detail);
        scd_buf_putc(out, '}');
    }
    if (job->report)
        scd_buf_printf(out, ",%s", job->report);
}

void scd_job_write(const scd_job_record *job, double rate, int64_t expires_ms, scd_buf *out)
{
    scd_buf_printf(out, "{\"object\":\"job\",\"id\":\"%s\",\"state\":\"%s\",\"version\":%llu",
                   job->id, names[job->state], (unsigned long long)job->version);
    put_text(out, "task", job->query.task);
    put_text(out, "format", job->query.format);
    put_text(out, "filename", job->query.filename);
    scd_buf_puts(out, ",\"model\":{\"name\":");
    scd_json_text(out, job->model);
    put_text(out, "digest", job->model_digest);
    put_text(out, "head_digest", job->head_digest);
    scd_buf_putc(out, '}');
    scd_job_query_put(&job->query, out);
    put_text(out, "owner", job->owner);
    scd_job_write_time(out, "created", job->created_ms);
    scd_job_write_time(out, "started", job->started_ms);
    scd_job_write_time(out, "finished", job->finished_ms);
    scd_job_write_time(out, "expires", expires_ms);
    put_upload(job, out);
    put_progress(job, rate, out);
    put_outcome(job, out);
    scd_buf_putc(out, '}');
}
