/* job_ledger.c - the thread `jobs-db`: every change of a job, one after the other (jobs.h).
 *
 * A change is made on a copy, written with all that goes with it - chunk, line of the audit,
 * webhook - in one transaction, and shown when that is on disk. What ends a job's life on disk
 * comes after the commit: a crash in between leaves a file that the next start removes.
 *
 * Threads: jobs-db, and those that post. */
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "server/jobs_impl.h"
#include "server/webhook.h"

#include <stdlib.h>
#include <string.h>

static const int64_t TICK_NS = 2 * SCD_NS_PER_S, HEARTBEAT_NS = 10 * SCD_NS_PER_S;
#define UPLOAD_PATIENCE_MS INT64_C(86400000) /* for a file that is not sent on */

/* ---- posting -------------------------------------------------------------------------------- */

void scd_jobs_post(scd_jobs *jobs, scd_job_change *c)
{
    scd_gate_lock(&jobs->gate);
    bool refused = jobs->closing || !jobs->ledger.running;
    if (!refused) {
        c->next = NULL;
        *jobs->last = c;
        jobs->last = &c->next;
        scd_gate_wake(&jobs->gate);
    }
    scd_gate_unlock(&jobs->gate);
    if (refused) {
        scd_problem_set(&c->problem, SCD_PROBLEM_UNAVAILABLE, "the server is shutting down");
        c->done(c);
    }
}

typedef struct waiter {
    scd_jobs *jobs;
    void *arg; /* the caller's */
    scd_job_mutate *mutate;
    void (*visit)(scd_job_change *change, struct scd_job_db *db);
    bool over;
} waiter;

static scd_problem_kind mutate_for(scd_job_change *c, scd_job_record *job, scd_problem *problem)
{
    waiter *w = c->arg;
    c->arg = w->arg;
    scd_problem_kind kind = w->mutate(c, job, problem);
    c->arg = w;
    return kind;
}

static void visit_for(scd_job_change *c, struct scd_job_db *db)
{
    waiter *w = c->arg;
    c->arg = w->arg;
    w->visit(c, db);
    c->arg = w;
}

static void on_applied(scd_job_change *c)
{
    waiter *w = c->arg;
    scd_gate_lock(&w->jobs->gate);
    w->over = true;
    scd_gate_wake(&w->jobs->gate);
    scd_gate_unlock(&w->jobs->gate);
}

scd_problem_kind scd_jobs_apply(scd_jobs *jobs, scd_job_change *c)
{
    waiter w = {jobs, c->arg, c->mutate, c->visit, false};
    c->mutate = c->mutate ? mutate_for : NULL;
    c->visit = c->visit ? visit_for : NULL;
    c->arg = &w;
    c->done = on_applied;
    scd_jobs_post(jobs, c);
    scd_gate_lock(&jobs->gate);
    while (!w.over)
        scd_gate_wait(&jobs->gate, SCD_NEVER); /* jobs-db ends when nothing is left to be made */
    scd_gate_unlock(&jobs->gate);
    c->arg = w.arg;
    c->mutate = w.mutate;
    c->visit = w.visit;
    return c->problem.kind;
}

/* ---- making a change ------------------------------------------------------------------------ */

static scd_code write_change(scd_jobs *jobs, const scd_job_change *c, const scd_job_record *was,
                             scd_error *err)
{
    scd_job_db *db = jobs->db;
    scd_audit_state before = jobs->audit.state;
    scd_code code = scd_job_db_begin(db, err);
    if (code)
        return code;
    code = c->deletes ? scd_job_db_delete(db, c->id, err) : scd_job_db_save(db, &c->job, err);
    if (!code && c->drops_chunks)
        code = scd_job_db_drop_chunks(db, c->id, err);
    if (!code && c->adds_chunk)
        code = scd_job_db_add_chunk(db, c->id, c->first, c->n, &c->digest, err);
    if (!code)
        code = scd_job_audit_change(jobs, c, was, err);
    if (!code && was && !scd_job_is_over(was) && scd_job_is_over(&c->job) && !c->deletes)
        code = scd_webhooks_add(jobs, &c->job, err);
    if (!code)
        code = scd_job_db_commit(db, err);
    if (code) {
        scd_job_db_rollback(db);
        jobs->audit.state = before;
    }
    return code;
}

/* c->job becomes the copy that is changed; false: *problem. */
static bool prepare(scd_jobs *jobs, scd_job_change *c, scd_job_record *was)
{
    if (!c->creates) {
        scd_gate_lock(&jobs->gate);
        const scd_job_entry *e = scd_jobs_find(jobs, c->id);
        bool ok = e && scd_job_copy(was, &e->job) && scd_job_copy(&c->job, &e->job);
        scd_gate_unlock(&jobs->gate);
        if (!ok) {
            scd_problem_set(&c->problem, e ? SCD_PROBLEM_UNAVAILABLE : SCD_PROBLEM_NOT_FOUND,
                            e ? "out of memory: try again" : "there is no job \"%.40s\"", c->id);
            return false;
        }
    }
    if (c->mutate && c->mutate(c, &c->job, &c->problem))
        return false;
    c->job.version++;
    if (c->creates)
        c->job.serial = jobs->last_serial + 1;
    if (scd_job_is_over(&c->job) && !c->job.finished_ms)
        c->job.finished_ms = scd_wall_ms();
    return true;
}

/* Under the gate; e is NULL where it is new. False: out of memory, before anything was written. */
static bool show(scd_jobs *jobs, scd_job_change *c, scd_job_entry *spare)
{
    scd_job_entry **at = &jobs->entries;
    while (*at && strcmp((*at)->job.id, c->id))
        at = &(*at)->next;
    scd_job_record shown;
    if (c->deletes) {
        scd_job_entry *e = *at;
        *at = e->next;
        scd_jobs_free_entry(e);
        return true;
    }
    if (!scd_job_copy(&shown, &c->job))
        return false;
    if (c->creates) {
        spare->job = shown;
        spare->next = jobs->entries;
        jobs->entries = spare;
        jobs->last_serial = c->job.serial;
    } else {
        scd_job_release(&(*at)->job);
        (*at)->job = shown;
    }
    return true;
}

static void remove_files(scd_jobs *jobs, const scd_job_change *c)
{
    if (!scd_job_is_over(&c->job) && !c->deletes)
        return;
    scd_jobs_unlink(jobs, c->id, "input");
    scd_jobs_unlink(jobs, c->id, "chunks");
    if (c->deletes || c->job.state != SCD_JOB_COMPLETE)
        scd_jobs_unlink(jobs, c->id, c->job.query.format);
}

static void make_visit(scd_jobs *jobs, scd_job_change *c)
{
    scd_error err = {0};
    scd_audit_state before = jobs->audit.state;
    scd_code code = scd_job_db_begin(jobs->db, &err);
    if (!code) {
        c->visit(c, jobs->db);
        code = c->problem.kind ? SCD_OK : scd_job_db_commit(jobs->db, &err);
        if (code || c->problem.kind) {
            scd_job_db_rollback(jobs->db);
            jobs->audit.state = before;
        }
    }
    if (code)
        scd_problem_set(&c->problem, SCD_PROBLEM_STORAGE, "%s", err.message);
    scd_job_audit_flush(jobs);
    c->done(c);
}

static void make_change(scd_jobs *jobs, scd_job_change *c)
{
    if (c->visit) {
        make_visit(jobs, c);
        return;
    }
    scd_job_record was = {0};
    scd_error err = {0};
    scd_job_entry *spare = c->creates ? scd_calloc(1, sizeof *spare) : NULL;
    if (c->creates && !spare)
        scd_problem_set(&c->problem, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
    else if (prepare(jobs, c, &was)) {
        scd_code code = write_change(jobs, c, c->creates ? NULL : &was, &err);
        if (code == SCD_E_IO && c->frees && scd_job_ballast_drop(jobs))
            code = write_change(jobs, c, &was, &err);
        if (code) {
            scd_jobs_log(jobs, 3, "job_not_kept", c->id, err.message);
            scd_problem_set(&c->problem,
                            code == SCD_E_IO ? SCD_PROBLEM_STORAGE : SCD_PROBLEM_INTERNAL,
                            "the job could not be kept on disk: try again later");
        } else {
            scd_gate_lock(&jobs->gate);
            if (!show(jobs, c, spare))
                scd_jobs_log(jobs, 3, "job_not_shown", c->id, "out of memory: restart the server");
            else if (c->creates)
                spare = NULL;
            scd_gate_wake(&jobs->gate);
            scd_gate_unlock(&jobs->gate);
            remove_files(jobs, c);
            scd_job_audit_flush(jobs);
            scd_jobs_wake(jobs, c->id);
        }
    }
    free(spare);
    scd_job_release(&was);
    c->done(c);
}

/* ---- what is due ---------------------------------------------------------------------------- */

static bool is_due(const scd_jobs *jobs, const scd_job_entry *e, int64_t now_ms)
{
    int64_t expires_ms = scd_jobs_expire_ms(jobs, &e->job);
    if (expires_ms)
        return now_ms > expires_ms;
    return !e->job.uploaded && !e->uploading && now_ms > e->job.created_ms + UPLOAD_PATIENCE_MS;
}

static void ignore(scd_job_change *c)
{
    scd_job_release(&c->job);
}

/* Results that were kept long enough, and files that nobody sent on. */
static void expire(scd_jobs *jobs)
{
    for (bool more = true; more;) {
        scd_job_change c = {.deletes = true, .frees = true, .done = ignore};
        scd_gate_lock(&jobs->gate);
        const scd_job_entry *e = jobs->entries;
        while (e && !is_due(jobs, e, scd_wall_ms()))
            e = e->next;
        more = e != NULL;
        if (more)
            memcpy(c.id, e->job.id, sizeof c.id);
        scd_gate_unlock(&jobs->gate);
        if (more)
            make_change(jobs, &c);
        more = more && !c.problem.kind;
    }
}

static void *run(void *arg)
{
    scd_jobs *jobs = arg;
    int64_t tick_ns = scd_now_ns(), beat_ns = tick_ns;
    for (bool over = false; !over;) {
        scd_gate_lock(&jobs->gate);
        while (!jobs->first && !jobs->closing && scd_gate_wait(&jobs->gate, tick_ns))
            ;
        scd_job_change *c = jobs->first;
        if (c && !(jobs->first = c->next))
            jobs->last = &jobs->first;
        over = !c && jobs->closing;
        scd_gate_unlock(&jobs->gate);
        if (c)
            make_change(jobs, c);
        int64_t now_ns = scd_now_ns();
        if (now_ns >= tick_ns && !over) {
            expire(jobs);
            scd_job_audit_flush(jobs);
            scd_job_ballast_keep(jobs);
            tick_ns = now_ns + TICK_NS;
        }
        if (now_ns >= beat_ns) {
            scd_jobs_wake(jobs, NULL);
            beat_ns = now_ns + HEARTBEAT_NS;
        }
    }
    return NULL;
}

scd_code scd_jobs_start_ledger(scd_jobs *jobs, scd_error *err)
{
    scd_code code = scd_job_audit_open(jobs, err);
    scd_job_ballast_keep(jobs);
    return code ? code : scd_thread_start(&jobs->ledger, "jobs-db", run, jobs, err);
}

void scd_jobs_end_ledger(scd_jobs *jobs)
{
    scd_gate_lock(&jobs->gate);
    jobs->closing = true;
    scd_gate_wake(&jobs->gate);
    scd_gate_unlock(&jobs->gate);
    scd_thread_join(&jobs->ledger);
}
