/* job_chunk.c - see job_run.h: chunks of cells through the batcher, kept one after the other.
 *
 * Two are under way: while the batcher computes one, the rows of the next are read and serialized,
 * and the one before is written, synced and committed. Where a chunk ends changes no byte of any
 * result, for a cell's bits depend on the cell alone. What all workers ask for at a time is a part
 * of the queue, so that others find room in it. */
#include "api/cache_key.h"
#include "engine/base/clock.h"
#include "engine/base/fd.h"
#include "engine/base/mem.h"
#include "server/job_run.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    QUEUE_SHARE = 8, /* a chunk is an eighth of the queue */
    MAX_ROWS = 1024,
    MAX_ENTRIES = 1 << 20,
    CHUNK_BYTES = 1 << 29,
    ROWS_BYTES = 64 << 20,
    MAX_PAUSE_S = 10
};
static const int64_t LOOK_NS = 100 * SCD_NS_PER_MS;

/* What is asked of the batcher together: cells of one kind of work. */
typedef struct asking {
    scd_work work;
    scd_order *orders;       /* (n) */
    scd_task_order **wanted; /* (n) what they are about */
    size_t n;
    uint64_t serial;
    bool over;
    scd_outcome outcome;
    scd_gate *gate;
} asking;

typedef struct chunk {
    scd_arena arena;
    size_t first, n;     /* cells */
    char *rows;          /* (n, row_bytes) as in the file */
    scd_task_chunk task; /* all its orders */
    asking *asks;        /* (n_asks) */
    size_t n_asks;
} chunk;

typedef struct computing {
    scd_job_way *w;
    scd_hasher *hasher;
    scd_gate gate; /* asks are over */
    chunk chunks[2];
    int64_t since_ns; /* the first chunk was begun */
    size_t n_since;   /* cells kept since then */
} computing;

scd_run_cell scd_job_row_cell(const scd_job_row *row)
{
    return (scd_run_cell){.is_answered = row->answered == 1,
                          .is_outside = row->answered == 2,
                          .n_tokens = (size_t)row->n_tokens,
                          .n_truncated = (size_t)row->n_truncated,
                          .n_unused = (size_t)row->n_unused,
                          .mapped = row->mapped,
                          .given = row->given};
}

static scd_code no_memory(scd_error *err)
{
    return scd_fail(err, SCD_E_NOMEM, "out of memory for a chunk of cells");
}

/* ---- from rows to orders -------------------------------------------------------------------- */

static size_t tokens_at_a_time(const scd_job_way *w)
{
    size_t share = (size_t)w->jobs->o.config->max_queue_tokens / QUEUE_SHARE;
    size_t longest = w->task.who.model->config->max_gene_len;
    return share > longest ? share : longest;
}

static size_t rows_at_a_time(const scd_job_way *w)
{
    double usual = w->plan.values_per_cell + 1,
           longest = (double)w->task.who.model->config->max_gene_len + 1;
    double n = (double)tokens_at_a_time(w) / (usual < longest ? usual : longest);
    double stored = (double)w->plan.n_stored / (double)w->plan.n_cells + 1;
    double by_entries = MAX_ENTRIES / stored, by_bytes = ROWS_BYTES / (double)w->row_bytes;
    n = n < by_entries ? n : by_entries;
    n = n < by_bytes ? n : by_bytes;
    return n < 1 ? 1 : n > MAX_ROWS ? MAX_ROWS : (size_t)n;
}

static scd_order order_of(const computing *p, const scd_task_order *o)
{
    const scd_task *t = &p->w->task;
    const scd_head_info *head = t->works[o->work].head;
    char parameters[SCD_PLAN_TEXT] = "";
    const scd_served_model *model = scd_engine_model(t->who.engine, t->works[o->work].model);
    scd_cache_scope scope = {.model = model->digest,
                             .task = t->cache_tasks[o->work],
                             .parameters = parameters,
                             .identity = t->who.device->identity};
    if (head)
        scope.head = head->digest;
    if (o->plan)
        scd_cache_plan_text(o->plan, t->who.model->config, o->cell.n_tokens, parameters);
    return (scd_order){
        .cell = &o->cell, .key = scd_cache_key(p->hasher, &scope, &o->cell), .out = o->out};
}

/* The chunk's orders into asks, each of one kind of work and not too large for the queue. */
static scd_code make_asks(computing *p, chunk *c, scd_error *err)
{
    size_t most = tokens_at_a_time(p->w), n = c->task.n_orders;
    c->asks = scd_arena_zalloc(&c->arena, n + 1, sizeof *c->asks);
    scd_order *orders = scd_arena_alloc(&c->arena, n + 1, sizeof *orders);
    scd_task_order **wanted = scd_arena_alloc(&c->arena, n + 1, sizeof *wanted);
    if (!c->asks || !orders || !wanted)
        return no_memory(err);
    for (size_t work = 0; work < p->w->task.n_works; work++) {
        asking *a = NULL;
        size_t n_tokens = 0;
        for (scd_task_order *o = c->task.first; o; o = o->next) {
            if (o->work != work)
                continue;
            if (!a || n_tokens + o->n_tokens > most) {
                a = &c->asks[c->n_asks++];
                *a = (asking){.work = p->w->task.works[work],
                              .orders = orders,
                              .wanted = wanted,
                              .gate = &p->gate,
                              .over = true};
                n_tokens = 0;
            }
            n_tokens += o->n_tokens;
            *orders++ = order_of(p, o);
            *wanted++ = o;
            a->n++;
        }
    }
    return SCD_OK;
}

/* The next cells from `first` on, at most what is asked for at a time; n 0: none are left. */
static scd_code prepare(computing *p, chunk *c, size_t first, scd_error *err)
{
    scd_job_way *w = p->w;
    scd_cells_rows rows;
    size_t left = w->plan.n_cells - first, most = rows_at_a_time(w), row = 0;
    scd_arena_release(&c->arena);
    scd_arena_init(&c->arena, CHUNK_BYTES);
    scd_task_chunk_init(&c->task, &c->arena);
    c->n_asks = 0;
    c->first = first;
    c->n = left < most ? left : most;
    if (!c->n)
        return SCD_OK;
    c->rows = scd_arena_zalloc(&c->arena, c->n, w->row_bytes);
    scd_code code = c->rows ? SCD_OK : no_memory(err);
    if (!code)
        code = scd_cells_rows_read(w->cells, w->plan.choice.matrix, first, c->n, &c->arena, &rows,
                                   err);
    for (; row < c->n && !code && (!row || c->task.n_tokens < tokens_at_a_time(w)); row++) {
        scd_run_cell said = {0};
        scd_job_row *out = (scd_job_row *)(c->rows + row * w->row_bytes);
        code = scd_task_add(&w->task, &rows, row, first, (float *)(out + 1), &c->task, &said, err);
        *out = (scd_job_row){said.is_outside ? 2 : said.is_answered,
                             said.n_tokens,
                             said.n_truncated,
                             said.n_unused,
                             said.mapped,
                             said.given};
    }
    c->n = row; /* the rest is read again, as the next chunk */
    return code ? code : make_asks(p, c, err);
}

/* ---- the batcher ---------------------------------------------------------------------------- */

static void on_done(void *arg, const scd_outcome *outcome)
{
    asking *a = arg;
    scd_gate *gate = a->gate;
    scd_gate_lock(gate);
    a->outcome = *outcome;
    a->over = true;
    scd_gate_wake(gate);
    scd_gate_unlock(gate);
}

/* A cell on its way through many passes belongs to the batcher once it is asked for. */
static scd_code make_courses(computing *p, asking *a, scd_error *err)
{
    const scd_model_config *config = p->w->task.who.model->config;
    scd_code code = SCD_OK;
    for (size_t i = 0; i < a->n && !code; i++)
        if (a->wanted[i]->plan)
            code = scd_course_new(a->wanted[i]->plan, config, &a->wanted[i]->cell,
                                  &a->orders[i].course, err);
    for (size_t i = 0; i < a->n && code; i++) {
        scd_course_free(a->orders[i].course);
        a->orders[i].course = NULL;
    }
    return code;
}

static scd_code submit(computing *p, asking *a, scd_error *err)
{
    scd_jobs *jobs = p->w->jobs;
    scd_code code = make_courses(p, a, err);
    if (code)
        return code;
    a->serial = atomic_fetch_add(&jobs->last_ticket, 1);
    a->over = false;
    const scd_ask ask = {.work = a->work,
                         .orders = a->orders,
                         .n = a->n,
                         .serial = a->serial,
                         .bulk = true,
                         .identity = p->w->device->identity,
                         .done = on_done,
                         .arg = a};
    code = scd_batcher_submit(jobs->o.batcher, &ask, err);
    if (code) /* else it may be over already, and is on_done's to say so */
        a->over = true;
    return code;
}

static bool is_over(computing *p, const asking *a)
{
    scd_gate_lock(&p->gate);
    bool over = a->over;
    scd_gate_unlock(&p->gate);
    return over;
}

/* Until it is over; where nobody wants it any more it is given up. */
static void wait_over(computing *p, asking *a)
{
    scd_jobs *jobs = p->w->jobs;
    scd_gate_lock(&p->gate);
    while (!a->over) {
        scd_gate_wait(&p->gate, scd_now_ns() + LOOK_NS);
        bool over = a->over;
        scd_gate_unlock(&p->gate);
        if (!over && scd_job_is_unwanted(jobs, p->w->job.id))
            scd_batcher_cancel(jobs->o.batcher, a->serial, SCD_E_CANCELED);
        scd_gate_lock(&p->gate);
    }
    scd_gate_unlock(&p->gate);
}

static void sleep_unless_unwanted(computing *p, int seconds)
{
    int64_t end_ns = scd_now_ns() + seconds * SCD_NS_PER_S;
    while (scd_now_ns() < end_ns && !scd_job_is_unwanted(p->w->jobs, p->w->job.id))
        usleep(100000);
}

/* The results of an ask; a full queue is asked again when it says that there will be room. */
static scd_code finish_ask(computing *p, asking *a, scd_error *err)
{
    for (;;) {
        wait_over(p, a);
        if (!a->outcome.code && a->outcome.moved)
            return scd_fail(err, SCD_E_DEVICE,
                            "the device failed and another kind goes on: the job begins again, "
                            "for its results are one device's");
        if (!a->outcome.code)
            return SCD_OK;
        if (a->outcome.code != SCD_E_BUSY)
            return scd_fail(err, a->outcome.code, "%s", a->outcome.message);
        if (scd_job_is_unwanted(p->w->jobs, p->w->job.id))
            return scd_fail(err, SCD_E_CANCELED, "not wanted any more");
        int s = a->outcome.retry_after_s;
        sleep_unless_unwanted(p, s < 1 ? 1 : s > MAX_PAUSE_S ? MAX_PAUSE_S : s);
        scd_code code = submit(p, a, err);
        if (code)
            return code;
    }
}

static scd_code begin_chunk(computing *p, chunk *c, scd_error *err)
{
    scd_code code = SCD_OK;
    for (size_t i = 0; i < c->n_asks && !code; i++)
        code = submit(p, &c->asks[i], err);
    return code;
}

static scd_code finish_chunk(computing *p, chunk *c, scd_error *err)
{
    scd_code code = SCD_OK;
    for (size_t i = 0; i < c->n_asks && !code; i++)
        code = finish_ask(p, &c->asks[i], err);
    for (const scd_task_order *o = c->task.first; o && !code; o = o->next)
        scd_task_take(&p->w->task, o);
    return code;
}

/* ---- keeping -------------------------------------------------------------------------------- */

static scd_problem_kind move_on(scd_job_change *change, scd_job_record *job, scd_problem *problem)
{
    if (job->state != SCD_JOB_RUNNING || job->n_done != change->first)
        return scd_problem_set(problem, SCD_PROBLEM_CONFLICT, "the job is not running");
    job->n_done = change->first + change->n;
    job->attempts = 0;
    return SCD_PROBLEM_NONE;
}

static scd_code write_rows(scd_job_way *w, const chunk *c, scd_error *err)
{
    if (scd_pwrite_all(w->fd, c->rows, c->n * w->row_bytes, c->first * w->row_bytes) &&
        !fdatasync(w->fd))
        return SCD_OK;
    return scd_fail(err, SCD_E_IO, "chunks cannot be kept: %s", strerror(errno));
}

static scd_code keep(computing *p, const chunk *c, scd_error *err)
{
    scd_job_way *w = p->w;
    scd_code code = write_rows(w, c, err);
    for (size_t row = 0; row < c->n && !code; row++) {
        const scd_job_row *out = (const scd_job_row *)(c->rows + row * w->row_bytes);
        scd_run_cell cell = scd_job_row_cell(out);
        code = scd_run_count(&w->sums, &cell, 1, c->first + row, w->job.query.fail_on_error,
                             w->input, err);
    }
    if (code)
        return code;
    scd_job_change change = {.mutate = move_on,
                             .adds_chunk = true,
                             .first = c->first,
                             .n = c->n,
                             .digest = scd_digest_of(c->rows, c->n * w->row_bytes)};
    memcpy(change.id, w->job.id, sizeof change.id);
    scd_problem_kind kind = scd_jobs_apply(w->jobs, &change);
    scd_job_release(&change.job);
    if (kind)
        return scd_fail(err,
                        kind == SCD_PROBLEM_CONFLICT || kind == SCD_PROBLEM_NOT_FOUND
                            ? SCD_E_CANCELED
                            : SCD_E_IO,
                        "%s", change.problem.detail);
    w->job.n_done = c->first + c->n;
    uint64_t n_bytes = (uint64_t)c->n * w->row_bytes; /* are counted as the job's now */
    scd_jobs_unreserve(w->jobs, w->job.owner, n_bytes);
    w->reserved -= n_bytes < w->reserved ? n_bytes : w->reserved;
    p->n_since += c->n;
    double s = (double)(scd_now_ns() - p->since_ns) * 1e-9;
    scd_job_set_rate(w->jobs, w->job.id, s > 0 ? (double)p->n_since / s : 0);
    return SCD_OK;
}

/* ---- all ------------------------------------------------------------------------------------ */

static scd_code compute_all(computing *p, scd_error *err)
{
    chunk *now = &p->chunks[0], *next = &p->chunks[1];
    p->since_ns = scd_now_ns();
    scd_code code = prepare(p, now, p->w->job.n_done, err);
    if (!code)
        code = begin_chunk(p, now, err);
    while (now->n && !code) {
        if (scd_job_is_unwanted(p->w->jobs, p->w->job.id))
            return scd_fail(err, SCD_E_CANCELED, "not wanted any more");
        scd_error next_err = {0}; /* what is wrong with later cells comes after these are kept */
        scd_code next_code = prepare(p, next, now->first + now->n, &next_err);
        code = finish_chunk(p, now, err);
        if (!code && !next_code)
            next_code = begin_chunk(p, next, &next_err);
        if (!code)
            code = keep(p, now, err);
        if (!code && next_code)
            code = scd_fail(err, next_code, "%s", next_err.message);
        chunk *done = now;
        now = next;
        next = done;
    }
    return code;
}

scd_code scd_job_compute(scd_job_way *w, scd_error *err)
{
    computing p = {.w = w};
    scd_code code = scd_gate_init(&p.gate, err);
    if (code)
        return code;
    for (size_t i = 0; i < 2; i++)
        scd_arena_init(&p.chunks[i].arena, CHUNK_BYTES);
    p.hasher = scd_hasher_new();
    code = p.hasher ? compute_all(&p, err) : no_memory(err);
    for (size_t i = 0; i < 2; i++) /* their memory is the batcher's until then */
        for (size_t k = 0; k < p.chunks[i].n_asks; k++)
            if (!is_over(&p, &p.chunks[i].asks[k])) {
                scd_batcher_cancel(w->jobs->o.batcher, p.chunks[i].asks[k].serial, SCD_E_CANCELED);
                wait_over(&p, &p.chunks[i].asks[k]);
            }
    for (size_t i = 0; i < 2; i++)
        scd_arena_release(&p.chunks[i].arena);
    scd_hasher_free(p.hasher);
    scd_gate_release(&p.gate);
    return code;
}
