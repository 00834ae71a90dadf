/* job_worker.c - the threads `job-N`: whose job is next (jobs.h).
 *
 * The oldest job whose file is there goes first, but of those keys of whose jobs the fewest are
 * being worked on, so that one key's hundred files do not keep another's only one waiting. */
#include "engine/base/clock.h"
#include "server/jobs_impl.h"

#include <stdio.h>
#include <string.h>

static size_t n_running_of(const scd_jobs *jobs, const char *owner)
{
    size_t n = 0;
    for (const scd_job_entry *e = jobs->entries; e; e = e->next)
        n += e->running && !strcmp(e->job.owner, owner);
    return n;
}

/* Under the gate. What was being worked on when the daemon stopped goes on like what was not. */
static scd_job_entry *pick(const scd_jobs *jobs)
{
    scd_job_entry *best = NULL;
    size_t best_n = 0;
    int64_t now_ns = scd_now_ns();
    for (scd_job_entry *e = jobs->entries; e; e = e->next) { /* the newest first */
        if (e->running || !e->job.uploaded || scd_job_is_over(&e->job) || e->not_before_ns > now_ns)
            continue;
        size_t n = n_running_of(jobs, e->job.owner);
        if (!best || n <= best_n) {
            best = e;
            best_n = n;
        }
    }
    return best;
}

static void *work(void *arg)
{
    scd_jobs *jobs = arg;
    for (;;) {
        char id[SCD_JOB_ID_BYTES];
        scd_job_entry *e = NULL;
        scd_gate_lock(&jobs->gate);
        while (!scd_jobs_stopping(jobs) && !(e = pick(jobs)))
            scd_gate_wait(&jobs->gate, scd_now_ns() + SCD_NS_PER_S);
        if (e && !scd_jobs_stopping(jobs)) {
            e->running = true;
            memcpy(id, e->job.id, sizeof id);
        } else {
            e = NULL;
        }
        scd_gate_unlock(&jobs->gate);
        if (!e)
            return NULL;
        int64_t pause_ns = scd_job_run(jobs, id);
        scd_gate_lock(&jobs->gate);
        if ((e = scd_jobs_find(jobs, id))) {
            e->running = false;
            e->rate = 0;
            e->not_before_ns = scd_now_ns() + pause_ns;
        }
        scd_gate_unlock(&jobs->gate);
    }
}

scd_code scd_jobs_start_workers(scd_jobs *jobs, scd_error *err)
{
    scd_code code = SCD_OK;
    for (int i = 0; i < SCD_JOB_WORKERS && !code; i++) {
        char name[16];
        snprintf(name, sizeof name, "job-%d", i);
        code = scd_thread_start(&jobs->workers[i], name, work, jobs, err);
    }
    return code;
}

void scd_jobs_join_workers(scd_jobs *jobs)
{
    for (int i = 0; i < SCD_JOB_WORKERS; i++)
        scd_thread_join(&jobs->workers[i]);
}

bool scd_job_is_unwanted(scd_jobs *jobs, const char *id)
{
    scd_gate_lock(&jobs->gate);
    const scd_job_entry *e = scd_jobs_find(jobs, id);
    bool unwanted = !e || scd_job_is_over(&e->job);
    scd_gate_unlock(&jobs->gate);
    return unwanted || scd_jobs_stopping(jobs);
}

void scd_job_set_rate(scd_jobs *jobs, const char *id, double rate)
{
    scd_gate_lock(&jobs->gate);
    scd_job_entry *e = scd_jobs_find(jobs, id);
    if (e)
        e->rate = rate;
    scd_gate_unlock(&jobs->gate);
}
