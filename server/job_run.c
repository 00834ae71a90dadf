/* job_run.c - see job_run.h: one job from its file to its result.
 *
 * Every start goes the same way: the file is opened by a process of its own, the plan made again,
 * and the chunks that are there are read against their digests; what cannot be trusted is computed
 * anew. So a kill at any moment costs the chunk under way, and changes no byte. */
#include "api/confined.h"
#include "api/json_write.h"
#include "api/models.h"
#include "api/text.h"
#include "engine/base/clock.h"
#include "engine/base/fd.h"
#include "engine/base/mem.h"
#include "server/job_run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_ATTEMPTS = 20, PLAN_BYTES = 1 << 28, REPORT_BYTES = 1 << 20, LABELS_BYTES = 1 << 18 };
#define MIB (UINT64_C(1) << 20)
static const int64_t PAUSE_NS = 15 * SCD_NS_PER_S;
enum { MAX_DOUBLINGS = 5 }; /* of the pause: in all some hours for somebody to make room */

/* ---- model and plan ------------------------------------------------------------------------- */

static scd_code choose_model(scd_job_way *w, scd_error *err)
{
    scd_problem problem = {0};
    scd_task *t = &w->task;
    t->query = &w->job.query;
    t->who.engine = w->jobs->o.engine;
    t->who.device = w->device;
    t->who.device_kind = w->device_kind;
    t->kind = scd_task_find(t->query->task);
    if (!t->kind)
        return scd_fail(err, SCD_E_INVALID, "\"%s\" is no task here", t->query->task);
    scd_models_choose_for(t->kind, t->query, w->job.model, &t->who, &problem);
    if (!problem.kind)
        scd_task_check(t->query, &t->who, &problem);
    return problem.kind ? scd_fail(err, SCD_E_INVALID, "%s", problem.detail) : SCD_OK;
}

static bool is_mouse(void *arg, const char *name)
{
    const scd_vocab *vocab = ((const scd_job_way *)arg)->task.who.model->vocab;
    return scd_vocab_is_human(vocab) && scd_vocab_looks_mouse(vocab, name, strlen(name));
}

static const char *or_null(const char *text)
{
    return *text ? text : NULL;
}

static scd_code make_plan(scd_job_way *w, scd_error *err)
{
    const scd_job_query *q = &w->job.query;
    const scd_served_model *model = w->task.who.model;
    w->book = scd_gene_book_of(model->vocab);
    scd_file_plan_options o = {.matrix = or_null(q->layer),
                               .gene_column = or_null(q->gene_column),
                               .genome = or_null(q->genome),
                               .force = q->force,
                               .book = &w->book,
                               .is_mouse = is_mouse,
                               .is_mouse_arg = w,
                               .model = model->name};
    if (*q->genes_in)
        o.matrix = strcmp(q->genes_in, "rows") == 0 ? SCD_CELLS_IN_COLUMNS : SCD_CELLS_IN_ROWS;
    scd_code code = scd_cells_plan(w->cells, &o, &w->arena, &w->plan, err);
    if (!code && !model->config->trained)
        scd_file_plan_warn(&w->plan, &w->arena,
                           "model \"%s\" has random weights: its answers mean nothing",
                           model->name);
    w->task.cells = w->cells;
    w->task.plan = &w->plan;
    w->task.arena = &w->arena;
    if (!code)
        code = scd_task_open(&w->task, err);
    w->row_bytes = (sizeof(scd_job_row) + w->task.row_floats * sizeof(float) + 7) / 8 * 8;
    return code ? code : scd_job_check_result(w, err);
}

static bool is_unwanted(void *arg)
{
    const scd_job_way *w = arg;
    return scd_job_is_unwanted(w->jobs, w->job.id);
}

static scd_code open_all(scd_job_way *w, scd_error *err)
{
    w->chunks = scd_jobs_path(w->jobs, w->job.id, "chunks");
    w->input = scd_jobs_path(w->jobs, w->job.id, "input");
    w->output = scd_jobs_path(w->jobs, w->job.id, w->job.query.format);
    /* What is not stored by cells is turned through a file: so much of it a real file may need. */
    const scd_confinement limits = {
        .file_bytes = 16 * w->job.upload_bytes + 4096 * MIB, .is_unwanted = is_unwanted, .arg = w};
    scd_code code = SCD_OK;
    if (!w->chunks || !w->input || !w->output)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory");
    if (!code && access(w->input, F_OK) && errno == ENOENT) /* no waiting brings it back */
        code = scd_fail(err, SCD_E_INTERNAL,
                        "%s has vanished from the server's disk: send it again", w->input);
    if (!code && (w->fd = open(w->chunks, O_RDWR | O_CREAT | O_CLOEXEC, 0600)) < 0)
        code = scd_fail(err, SCD_E_IO, "chunks cannot be opened: %s", strerror(errno));
    if (!code)
        code = choose_model(w, err);
    if (!code)
        code = scd_cells_open_confined(w->input, &limits, &w->cells, err);
    if (!code)
        code = make_plan(w, err);
    return code;
}

/* ---- going on where it stopped -------------------------------------------------------------- */

static const char *head_digest(const scd_job_way *w)
{
    return w->task.who.head ? w->task.who.head->digest_hex : "";
}

/* All that the bytes of the chunks depend on. */
static scd_code make_run_key(const scd_job_way *w, char hex[SCD_DIGEST_HEX], scd_error *err)
{
    scd_buf query;
    scd_hasher *hasher = scd_hasher_new();
    scd_buf_init(&query, REPORT_BYTES);
    scd_job_query_write(&w->job.query, &query);
    scd_code code = hasher && !query.failed ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "out of memory");
    if (!code) {
        scd_hasher_add_text(hasher, "chunks 1");
        scd_hasher_add_text(hasher, query.data);
        scd_hasher_add_text(hasher, w->job.input_sha256);
        scd_hasher_add_text(hasher, w->task.who.model->digest_hex);
        scd_hasher_add_text(hasher, head_digest(w));
        scd_hasher_add_text(hasher, w->task.who.device->identity);
        scd_digest digest = scd_hasher_finish(hasher);
        scd_digest_hex(&digest, hex);
    }
    scd_hasher_free(hasher);
    scd_buf_release(&query);
    return code;
}

/* Walks over the kept chunks. */
typedef struct check {
    scd_job_way *w;
    uint64_t n_good; /* cells */
    char *bytes;
    size_t cap;
} check;

static scd_code check_chunk(void *arg, uint64_t first, uint64_t n, const scd_digest *digest)
{
    check *c = arg;
    scd_job_way *w = c->w;
    if (first != c->n_good || first + n > w->job.n_done || n > SIZE_MAX / w->row_bytes)
        return SCD_OK; /* not one of those that count */
    size_t n_bytes = (size_t)n * w->row_bytes;
    char *bytes = n_bytes > c->cap ? scd_realloc(c->bytes, n_bytes, 1) : c->bytes;
    if (!bytes)
        return SCD_E_NOMEM;
    c->bytes = bytes;
    c->cap = n_bytes > c->cap ? n_bytes : c->cap;
    if (!scd_pread_all(w->fd, bytes, n_bytes, first * w->row_bytes))
        return SCD_OK;
    scd_digest is = scd_digest_of(bytes, n_bytes);
    if (!scd_digest_equal(&is, digest))
        return SCD_OK;
    for (uint64_t row = 0; row < n; row++) {
        scd_run_cell cell = scd_job_row_cell((const scd_job_row *)(bytes + row * w->row_bytes));
        scd_run_count(&w->sums, &cell, 1, (size_t)(first + row), false, w->input, NULL);
    }
    c->n_good = first + n;
    return SCD_OK;
}

typedef struct beginning {
    scd_job_way *w;
    char run_key[SCD_DIGEST_HEX];
} beginning;

/* In jobs-db: what is kept of the job is good, or forgotten; it runs. */
static scd_problem_kind begin(scd_job_change *change, scd_job_record *job, scd_problem *problem)
{
    beginning *b = change->arg;
    scd_job_way *w = b->w;
    check c = {.w = w};
    if (scd_job_is_over(job))
        return scd_problem_set(problem, SCD_PROBLEM_CONFLICT, "the job is over");
    bool is_same = !strcmp(job->run_key, b->run_key) && job->row_bytes == w->row_bytes;
    scd_code code = SCD_OK;
    if (is_same && job->n_done)
        code = scd_job_db_each_chunk(w->jobs->db, job->id, check_chunk, &c, NULL);
    free(c.bytes);
    if (code)
        return scd_problem_set(problem, SCD_PROBLEM_INTERNAL, "the chunks cannot be read");
    if (c.n_good != job->n_done) { /* another model or device, or damage: from the start */
        change->drops_chunks = true;
        w->sums = (scd_run_sums){0};
        job->n_done = 0;
    }
    job->state = SCD_JOB_RUNNING;
    job->started_ms = job->started_ms ? job->started_ms : scd_wall_ms();
    memcpy(job->run_key, b->run_key, sizeof job->run_key);
    snprintf(job->model_digest, sizeof job->model_digest, "%s", w->task.who.model->digest_hex);
    snprintf(job->head_digest, sizeof job->head_digest, "%s", head_digest(w));
    job->row_bytes = w->row_bytes;
    job->n_cells = w->plan.n_cells;
    return SCD_PROBLEM_NONE;
}

static scd_code apply(scd_job_way *w, scd_job_change *change, scd_error *err)
{
    memcpy(change->id, w->job.id, sizeof change->id);
    scd_problem_kind kind = scd_jobs_apply(w->jobs, change);
    if (!kind)
        w->job.n_done = change->job.n_done;
    scd_job_release(&change->job);
    if (!kind)
        return SCD_OK;
    bool unwanted = kind == SCD_PROBLEM_CONFLICT || kind == SCD_PROBLEM_NOT_FOUND;
    return scd_fail(err, unwanted ? SCD_E_CANCELED : SCD_E_BUSY, "%s", change->problem.detail);
}

static scd_code begin_run(scd_job_way *w, scd_error *err)
{
    beginning b = {.w = w};
    scd_job_change change = {.mutate = begin, .arg = &b};
    scd_code code = make_run_key(w, b.run_key, err);
    return code ? code : apply(w, &change, err);
}

/* Room for what the chunks will be. What never fits is the user's to change; the rest may pass. */
static scd_code reserve(scd_job_way *w, scd_error *err)
{
    const scd_config *c = w->jobs->o.config;
    scd_problem problem = {0};
    uint64_t left = w->plan.n_cells - w->job.n_done, most = (uint64_t)c->job_key_disk_mb * MIB;
    most = most < (uint64_t)c->job_disk_mb * MIB ? most : (uint64_t)c->job_disk_mb * MIB;
    if (left > UINT64_MAX / w->row_bytes || left * w->row_bytes > most)
        return scd_fail(err, SCD_E_TOO_LARGE,
                        "what is kept of %zu cells while they are computed is %zu bytes each, more "
                        "than the %llu MiB that are allowed: ask for less of each cell, or send "
                        "fewer cells at a time",
                        w->plan.n_cells, w->row_bytes, (unsigned long long)(most / MIB));
    if (!scd_jobs_reserve(w->jobs, w->job.owner, left * w->row_bytes, false, &problem))
        return scd_fail(err, SCD_E_BUSY, "%s", problem.detail);
    w->reserved = left * w->row_bytes;
    return SCD_OK;
}

/* Before anything that may crash: a file that takes the daemon down each time ends some day. */
static scd_problem_kind count_attempt(scd_job_change *change, scd_job_record *job,
                                      scd_problem *problem)
{
    (void)change;
    if (scd_job_is_over(job))
        return scd_problem_set(problem, SCD_PROBLEM_CONFLICT, "the job is over");
    job->state = SCD_JOB_RUNNING;
    job->attempts++;
    return SCD_PROBLEM_NONE;
}

/* ---- the end -------------------------------------------------------------------------------- */

static void put_notes(scd_buf *out, const char *name, const char *const *notes, size_t n)
{
    scd_buf_printf(out, "%s\"%s\":[", out->n_bytes ? "," : "", name);
    for (size_t i = 0; i < n; i++) {
        if (i)
            scd_buf_putc(out, ',');
        scd_json_text(out, notes[i]);
    }
    scd_buf_putc(out, ']');
}

/* Where they are too many to be listed with every job, the result has them all the same. */
static void put_labels(scd_buf *out, const scd_task *task)
{
    scd_buf labels;
    scd_buf_init(&labels, LABELS_BYTES);
    if (scd_task_write_labels(task, &labels) && !labels.failed) {
        scd_buf_puts(out, ",\"labels\":");
        scd_buf_append(out, labels.data, labels.n_bytes);
    }
    scd_buf_release(&labels);
}

typedef struct ending {
    scd_job_state state;
    const char *detail, *report;
    scd_digest digest;
    uint64_t n_bytes;
} ending;

static scd_problem_kind end(scd_job_change *change, scd_job_record *job, scd_problem *problem)
{
    const ending *e = change->arg;
    if (scd_job_is_over(job))
        return scd_problem_set(problem, SCD_PROBLEM_CONFLICT, "the job is over");
    free(job->report);
    job->report = e->report && *e->report ? scd_strdup(e->report) : NULL;
    job->state = e->state;
    change->drops_chunks = true;
    if (e->state == SCD_JOB_COMPLETE) {
        scd_digest_hex(&e->digest, job->result_sha256);
        job->result_bytes = e->n_bytes;
    } else {
        snprintf(job->detail, sizeof job->detail, "%s", e->detail);
    }
    return SCD_PROBLEM_NONE;
}

static scd_code finish(scd_job_way *w, ending *e, scd_error *err)
{
    scd_job_change change = {.mutate = end, .arg = e};
    scd_buf report;
    scd_buf_init(&report, REPORT_BYTES);
    put_notes(&report, "decisions", w->plan.decisions, w->plan.n_decisions);
    put_notes(&report, "warnings", w->plan.warnings, w->plan.n_warnings);
    if (e->state == SCD_JOB_COMPLETE)
        put_labels(&report, &w->task);
    e->report = report.failed ? NULL : report.data;
    scd_code code = apply(w, &change, err);
    scd_buf_release(&report);
    return code;
}

/* "--gene-column" of the command line is gene_column here: its end, or NULL where there is none. */
static const char *option_at(const char *at)
{
    if (strncmp(at, "--", 2) || at[2] < 'a' || at[2] > 'z')
        return NULL;
    return at + 2 + strspn(at + 2, "abcdefghijklmnopqrstuvwxyz-");
}

/* Users know their file by its name, not by where we keep it, and parameters by theirs. */
static void tell(const scd_job_way *w, const char *message, char out[640])
{
    const char *paths[] = {w->input, w->output}, *name = w->job.query.filename;
    const char *names[] = {*name ? name : "the file", "the result"};
    scd_buf text;
    scd_buf_init(&text, REPORT_BYTES);
    while (*message) {
        const char *end = option_at(message);
        size_t which = 0, n = 0;
        for (; which < 2 && !n; which++)
            if (paths[which] && !strncmp(message, paths[which], strlen(paths[which])))
                n = strlen(paths[which]);
        if (n)
            scd_buf_puts(&text, names[which - 1]);
        for (const char *c = message + 2; !n && end && c < end; c++)
            scd_buf_putc(&text, *c == '-' ? '_' : *c);
        if (!n && !end)
            scd_buf_putc(&text, *message);
        message += n ? n : end ? (size_t)(end - message) : 1;
    }
    size_t n = text.n_bytes < 640 ? text.n_bytes : scd_utf8_cut(text.data, 639);
    memcpy(out, text.data ? text.data : "", n);
    out[n] = '\0';
    scd_buf_release(&text);
}

static bool is_users(scd_code code)
{
    return code == SCD_E_INVALID || code == SCD_E_CORRUPT || code == SCD_E_NOT_FOUND ||
           code == SCD_E_TOO_LARGE;
}

/* Full disks and full queues pass; what does not is the job's end. */
static int64_t give_up(scd_job_way *w, scd_code code, const char *message)
{
    char detail[640];
    scd_error err = {0};
    if (code == SCD_E_CANCELED)
        return 0;
    tell(w, message, detail);
    bool passes = (code == SCD_E_BUSY || code == SCD_E_TIMEOUT || code == SCD_E_IO ||
                   code == SCD_E_NOMEM || code == SCD_E_DEVICE) &&
                  w->job.attempts < MAX_ATTEMPTS;
    scd_jobs_log(w->jobs,
                 passes           ? 2
                 : is_users(code) ? 1
                                  : 3,
                 passes ? "job_pauses" : "job_failed", w->job.id, message);
    if (passes)
        return PAUSE_NS << (w->job.attempts > MAX_DOUBLINGS ? MAX_DOUBLINGS : w->job.attempts - 1);
    ending e = {.state = is_users(code) ? SCD_JOB_FAILED : SCD_JOB_ERROR, .detail = detail};
    return finish(w, &e, &err) == SCD_E_BUSY ? PAUSE_NS : 0;
}

static scd_code run_all(scd_job_way *w, scd_error *err)
{
    const scd_task_model *who = &w->task.who;
    ending e = {.state = SCD_JOB_COMPLETE};
    scd_code code = open_all(w, err);
    if (!code)
        code = begin_run(w, err);
    if (!code)
        code = reserve(w, err);
    if (!code)
        code = scd_job_compute(w, err);
    if (!code)
        code = scd_run_judge(&w->sums, &w->plan, &w->arena, w->job.query.force, w->input,
                             who->model->name, who->model->config->max_gene_len,
                             who->head ? who->head->name : NULL, err);
    if (!code && scd_task_folds(&w->task))
        code = scd_job_fold(w, err);
    if (!code)
        code = scd_job_write_result(w, &e.digest, &e.n_bytes, err);
    if (!code)
        code = finish(w, &e, err);
    if (code == SCD_E_CANCELED && scd_job_is_unwanted(w->jobs, w->job.id) &&
        !scd_jobs_stopping(w->jobs) && w->output)
        unlink(w->output);
    return code;
}

int64_t scd_job_run(scd_jobs *jobs, const char *id)
{
    scd_job_way w = {.jobs = jobs,
                     .device = scd_engine_device(jobs->o.engine),
                     .device_kind = scd_engine_device_kind(jobs->o.engine),
                     .fd = -1};
    scd_error err = {0};
    int64_t pause_ns = 0;
    scd_job_change change = {.mutate = count_attempt};
    if (!scd_batcher_answers(jobs->o.batcher)) /* attempts are few, and a start may be near */
        return PAUSE_NS;
    if (!scd_jobs_get(jobs, id, NULL, &w.job, NULL))
        return PAUSE_NS;
    scd_arena_init(&w.arena, PLAN_BYTES);
    bool too_often = w.job.attempts >= MAX_ATTEMPTS;
    scd_code code = apply(&w, &change, &err);
    w.job.attempts++;
    if (!code && too_often)
        code = scd_fail(&err, SCD_E_INTERNAL,
                        "%d attempts to work on it ended without a chunk of results: the server "
                        "may have been stopped, or brought down by the file",
                        MAX_ATTEMPTS);
    if (!code)
        code = run_all(&w, &err);
    if (code)
        pause_ns = give_up(&w, code, err.message);
    else
        scd_jobs_log(jobs, 1, "job_complete", id, w.job.query.task);
    scd_jobs_unreserve(jobs, w.job.owner, w.reserved);
    scd_cells_close(w.cells);
    if (w.fd >= 0)
        close(w.fd);
    scd_arena_release(&w.arena);
    free(w.output);
    free(w.chunks);
    free(w.input);
    scd_job_release(&w.job);
    return pause_ns;
}
