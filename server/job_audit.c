/* job_audit.c - the record of jobs and keys: audit.jsonl in the data directory (api/audit.h).
 *
 * A line is made in the transaction of what it tells of, waits in the database, and goes to the
 * file after the commit; the start adds what a crash kept from it. So each event stands there once,
 * whenever the power fails. Where the file ends earlier than the database remembers, somebody cut
 * it: that is logged, and the chain shows the gap.
 *
 * Threads: jobs-db; main before it runs. */
#include "api/json_write.h"
#include "engine/base/clock.h"
#include "engine/base/fd.h"
#include "engine/base/mem.h"
#include "api/auth.h"
#include "server/jobs_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINE_BYTES = 1 << 17, MAX_KEYS_TOLD = 200, READ_MS = 60000 };

/* ---- making lines --------------------------------------------------------------------------- */

static void put_text(scd_buf *out, const char *name, const char *text)
{
    if (!text || !*text)
        return;
    scd_buf_printf(out, ",\"%s\":", name);
    scd_json_text(out, text);
}

scd_code scd_job_audit_add(scd_jobs *jobs, const char *event, const char *actor, const char *fields,
                           scd_error *err)
{
    scd_job_audit *a = &jobs->audit;
    scd_audit_state next = {.seq = a->state.seq + 1};
    char text[128];
    scd_buf line;
    scd_buf_init(&line, LINE_BYTES);
    scd_buf_printf(&line, "{\"seq\":%llu", (unsigned long long)next.seq);
    scd_job_write_time(&line, "time", scd_wall_ms());
    put_text(&line, "event", event);
    scd_buf_puts(&line, ",\"actor\":");
    scd_json_text(&line, !actor ? "scdivad" : *actor ? actor : "anonymous");
    put_text(&line, "software", "scdivad " SCD_VERSION);
    scd_buf_puts(&line, fields);
    scd_audit_seal(&line, a->state.hash, next.hash);
    scd_code code = line.failed ? scd_fail(err, SCD_E_NOMEM, "out of memory for the audit")
                                : scd_job_db_add_line(jobs->db, next.seq, line.data, err);
    snprintf(text, sizeof text, "%llu %s", (unsigned long long)next.seq, next.hash);
    if (!code)
        code = scd_job_db_set_meta(jobs->db, "audit", text, err);
    if (!code)
        a->state = next;
    scd_buf_release(&line);
    return code;
}

static const char *event_of(const scd_job_change *c, const scd_job_record *was)
{
    const scd_job_record *is = &c->job;
    if (c->deletes)
        return c->actor ? "job.deleted" : "job.expired";
    if (!was)
        return is->uploaded ? "job.accepted" : "job.upload_begun";
    if (!was->uploaded && is->uploaded)
        return "job.accepted";
    if (was->state == is->state)
        return NULL; /* progress */
    switch (is->state) {
    case SCD_JOB_RUNNING:
        return "job.started";
    case SCD_JOB_COMPLETE:
        return "job.completed";
    case SCD_JOB_FAILED:
        return "job.failed";
    case SCD_JOB_ERROR:
        return "job.error";
    case SCD_JOB_CANCELED:
        return "job.canceled";
    default:
        return NULL;
    }
}

scd_code scd_job_audit_change(scd_jobs *jobs, const scd_job_change *c, const scd_job_record *was,
                              scd_error *err)
{
    const scd_job_record *j = &c->job;
    const char *event = event_of(c, was);
    scd_buf fields, query;
    if (!event)
        return SCD_OK;
    scd_buf_init(&fields, LINE_BYTES / 2);
    scd_buf_init(&query, LINE_BYTES / 4);
    scd_job_query_write(&j->query, &query);
    put_text(&fields, "job", j->id);
    put_text(&fields, "owner", j->owner);
    put_text(&fields, "state", scd_job_state_name(j->state));
    put_text(&fields, "parameters", query.data);
    scd_buf_puts(&fields, ",\"seed\":0");
    put_text(&fields, "input_sha256", j->input_sha256);
    put_text(&fields, "output_sha256", j->result_sha256);
    put_text(&fields, "model", j->model);
    put_text(&fields, "model_digest", j->model_digest);
    put_text(&fields, "head_digest", j->head_digest);
    scd_code code = fields.failed || query.failed
                        ? scd_fail(err, SCD_E_NOMEM, "out of memory for the audit")
                        : scd_job_audit_add(jobs, event, c->actor, fields.data, err);
    scd_buf_release(&query);
    scd_buf_release(&fields);
    return code;
}

/* ---- downloads ------------------------------------------------------------------------------ */

static void visit_read(scd_job_change *change, struct scd_job_db *db)
{
    scd_jobs *jobs = change->arg;
    const scd_job_record *j = &change->job;
    scd_error err = {0};
    scd_buf fields;
    (void)db;
    scd_buf_init(&fields, LINE_BYTES / 2);
    put_text(&fields, "job", j->id);
    put_text(&fields, "owner", j->owner);
    put_text(&fields, "format", j->query.format);
    put_text(&fields, "input_sha256", j->input_sha256);
    put_text(&fields, "output_sha256", j->result_sha256);
    if (fields.failed ||
        scd_job_audit_add(jobs, "result.downloaded", change->actor, fields.data, &err))
        scd_problem_set(&change->problem, SCD_PROBLEM_STORAGE,
                        "the download could not be put on record: try again later");
    scd_buf_release(&fields);
}

void scd_jobs_read_recorded(scd_jobs *jobs, const char *id)
{
    scd_gate_lock(&jobs->gate);
    scd_job_entry *e = scd_jobs_find(jobs, id);
    if (e)
        e->read_ms = scd_wall_ms();
    scd_gate_unlock(&jobs->gate);
}

bool scd_jobs_read_is_new(scd_jobs *jobs, const char *id)
{
    scd_gate_lock(&jobs->gate);
    const scd_job_entry *e = scd_jobs_find(jobs, id);
    int64_t since_ms = e && e->read_ms ? scd_wall_ms() - e->read_ms : READ_MS;
    scd_gate_unlock(&jobs->gate);
    return since_ms < 0 || since_ms >= READ_MS;
}

void scd_jobs_record_read(scd_jobs *jobs, const scd_job_record *job, scd_job_change *change)
{
    memcpy(change->id, job->id, sizeof change->id);
    change->visit = visit_read;
    change->arg = jobs;
    if (scd_job_copy(&change->job, job)) {
        scd_jobs_post(jobs, change);
    } else {
        scd_problem_set(&change->problem, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
        change->done(change);
    }
}

/* ---- the file ------------------------------------------------------------------------------- */

/* A line that was written in part is taken back, so that the next try begins at a line's start. */
static scd_code append_line(void *arg, uint64_t seq, const char *line)
{
    scd_job_audit *a = arg;
    struct stat st;
    if (seq <= a->written)
        return SCD_OK;
    size_t n = strlen(line);
    char *whole = scd_malloc(n + 2, 1);
    if (!whole)
        return SCD_E_NOMEM;
    memcpy(whole, line, n);
    whole[n] = '\n';
    bool ok = !fstat(a->fd, &st) && scd_write_all(a->fd, whole, n + 1);
    if (!ok && ftruncate(a->fd, st.st_size))
        ok = false;
    free(whole);
    if (ok)
        a->written = seq;
    return ok ? SCD_OK : SCD_E_IO;
}

void scd_job_audit_flush(scd_jobs *jobs)
{
    scd_job_audit *a = &jobs->audit;
    scd_error err = {0};
    if (a->written == a->state.seq)
        return;
    scd_code code = scd_job_db_each_line(jobs->db, append_line, a, &err);
    bool ok = !code && !fdatasync(a->fd);
    if (ok)
        scd_job_db_drop_lines(jobs->db, a->written, NULL);
    else if (!a->failed)
        scd_jobs_log(jobs, 3, "audit", NULL,
                     "its file cannot be written; lines are kept in the database until it can");
    a->failed = !ok;
}

/* The last whole line; what stands behind it goes. */
static scd_code read_end(scd_job_audit *a, scd_audit_state *out, scd_error *err)
{
    struct stat st;
    *out = (scd_audit_state){0, SCD_AUDIT_NO_HASH};
    if (fstat(a->fd, &st))
        return scd_fail(err, SCD_E_IO, "%s: %s", a->path, strerror(errno));
    size_t n = st.st_size < 2 * LINE_BYTES ? (size_t)st.st_size : 2 * LINE_BYTES;
    char *end = scd_malloc(n + 1, 1);
    if (!end)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the audit");
    ssize_t got = pread(a->fd, end, n, st.st_size - (off_t)n);
    scd_code code =
        got == (ssize_t)n ? SCD_OK : scd_fail(err, SCD_E_IO, "%s: %s", a->path, strerror(errno));
    size_t n_whole = code ? 0 : n;
    while (n_whole && end[n_whole - 1] != '\n')
        n_whole--;
    if (!code && n_whole < n && ftruncate(a->fd, st.st_size - (off_t)(n - n_whole)))
        code = scd_fail(err, SCD_E_IO, "%s: %s", a->path, strerror(errno));
    size_t start = n_whole ? n_whole - 1 : 0;
    while (start && end[start - 1] != '\n')
        start--;
    if (!code && n_whole) {
        out->seq = strtoull(end + start + strlen("{\"seq\":"), NULL, 10);
        size_t n_line = n_whole - 1 - start;
        if (n_line > SCD_DIGEST_HEX + 2)
            memcpy(out->hash, end + start + n_line - 2 - (SCD_DIGEST_HEX - 1), SCD_DIGEST_HEX - 1);
    }
    free(end);
    return code;
}

/* Their names, or, of many, how many: each has a line of its own when it comes and goes. */
static scd_code put_keys(const scd_jobs *jobs, scd_buf *fields, scd_error *err)
{
    scd_auth_key *keys = NULL;
    size_t n = 0;
    scd_code code = jobs->o.auth ? scd_auth_list(jobs->o.auth, &keys, &n, err) : SCD_OK;
    scd_buf_printf(fields, ",\"n_keys\":%zu", n);
    if (n <= MAX_KEYS_TOLD) {
        scd_buf_puts(fields, ",\"keys\":[");
        for (size_t i = 0; i < n; i++) {
            scd_buf_puts(fields, i ? "," : "");
            scd_json_text(fields, keys[i].name);
        }
        scd_buf_puts(fields, "]");
    }
    free(keys);
    return code;
}

/* Who may come in, as of this start. */
static scd_code add_start(scd_jobs *jobs, scd_error *err)
{
    scd_buf fields;
    scd_buf_init(&fields, LINE_BYTES / 2);
    for (size_t i = 0; i < scd_engine_n_models(jobs->o.engine); i++) {
        const scd_served_model *m = scd_engine_model(jobs->o.engine, i);
        scd_buf_puts(&fields, i ? "," : ",\"models\":[");
        scd_buf_puts(&fields, "{\"name\":");
        scd_json_text(&fields, m->name);
        scd_buf_printf(&fields, ",\"digest\":\"%s\"}", m->digest_hex);
    }
    scd_buf_puts(&fields, "]");
    scd_code code = put_keys(jobs, &fields, err);
    if (!code)
        code = fields.failed ? scd_fail(err, SCD_E_NOMEM, "out of memory for the audit")
                             : scd_job_audit_add(jobs, "server.started", NULL, fields.data, err);
    scd_buf_release(&fields);
    return code ? code : scd_job_audit_keys(jobs, err);
}

scd_code scd_job_audit_open(scd_jobs *jobs, scd_error *err)
{
    scd_job_audit *a = &jobs->audit;
    char remembered[128];
    scd_audit_state in_file;
    a->fd = open(a->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (a->fd < 0)
        return scd_fail(err, SCD_E_IO, "%s: %s", a->path, strerror(errno));
    scd_code code = read_end(a, &in_file, err);
    if (!code)
        code = scd_job_db_get_meta(jobs->db, "audit", remembered, sizeof remembered, err);
    if (code)
        return code;
    char *hash = strchr(remembered, ' ');
    a->state =
        (scd_audit_state){*remembered ? strtoull(remembered, NULL, 10) : 0, SCD_AUDIT_NO_HASH};
    if (hash && strlen(hash + 1) == SCD_DIGEST_HEX - 1)
        memcpy(a->state.hash, hash + 1, SCD_DIGEST_HEX);
    if (in_file.seq > a->state.seq) /* the database is an older copy */
        a->state = in_file;
    a->written = in_file.seq;
    scd_job_audit_flush(jobs);
    if (a->written != a->state.seq) {
        scd_jobs_log(jobs, 3, "audit", NULL,
                     "lines at the end of its file are missing: somebody cut it, or it was lost");
        a->written = a->state.seq;
    }
    code = scd_job_db_begin(jobs->db, err);
    if (!code)
        code = add_start(jobs, err);
    if (!code)
        code = scd_job_db_commit(jobs->db, err);
    if (!code)
        scd_job_audit_flush(jobs);
    return code;
}

void scd_job_audit_close(scd_jobs *jobs)
{
    if (jobs->audit.fd >= 0)
        close(jobs->audit.fd);
}
