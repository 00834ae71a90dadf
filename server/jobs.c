/* jobs.c - see jobs.h: what there is, in memory; opening and closing. */
#include "server/jobs.h"

#include "api/sandbox.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "server/job_writer.h"
#include "server/jobs_impl.h"
#include "server/webhook.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)
#define MS_PER_HOUR INT64_C(3600000)

/* ---- looking -------------------------------------------------------------------------------- */

scd_job_entry *scd_jobs_find(scd_jobs *jobs, const char *id)
{
    scd_job_entry *e = jobs->entries;
    while (e && strcmp(e->job.id, id))
        e = e->next;
    return e;
}

void scd_jobs_free_entry(scd_job_entry *e)
{
    if (!e)
        return;
    scd_hasher_free(e->hasher);
    scd_job_release(&e->job);
    free(e);
}

static bool is_of(const scd_job_record *job, const char *owner)
{
    return !owner || !strcmp(job->owner, owner);
}

bool scd_jobs_get(scd_jobs *jobs, const char *id, const char *owner, scd_job_record *out,
                  double *rate)
{
    scd_gate_lock(&jobs->gate);
    const scd_job_entry *e = scd_jobs_find(jobs, id);
    bool ok = e && is_of(&e->job, owner) && scd_job_copy(out, &e->job);
    if (ok && rate)
        *rate = e->rate;
    scd_gate_unlock(&jobs->gate);
    return ok;
}

bool scd_jobs_find_key(scd_jobs *jobs, const char *owner, const char *key, scd_job_record *out)
{
    bool found = false;
    scd_gate_lock(&jobs->gate);
    for (const scd_job_entry *e = jobs->entries; e && !found; e = e->next)
        found = !strcmp(e->job.idempotency_key, key) && !strcmp(e->job.owner, owner) &&
                scd_job_copy(out, &e->job);
    scd_gate_unlock(&jobs->gate);
    return found;
}

int64_t scd_jobs_expire_ms(const scd_jobs *jobs, const scd_job_record *job)
{
    int64_t kept_ms = jobs->o.config->job_keep_h * MS_PER_HOUR;
    return scd_job_is_over(job) ? job->finished_ms + kept_ms : 0;
}

void scd_jobs_write(scd_jobs *jobs, const scd_job_record *job, double rate, scd_buf *out)
{
    scd_job_write(job, rate, scd_jobs_expire_ms(jobs, job), out);
}

bool scd_jobs_list(scd_jobs *jobs, const scd_jobs_page *page, scd_buf *out)
{
    size_t n = 0;
    bool more = false;
    scd_gate_lock(&jobs->gate);
    const scd_job_entry *e = jobs->entries;
    if (*page->after_id) {
        e = scd_jobs_find(jobs, page->after_id);
        if (!e || !is_of(&e->job, page->owner)) {
            scd_gate_unlock(&jobs->gate);
            return false;
        }
        e = e->next;
    }
    scd_buf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (; e && !more; e = e->next) {
        if (!is_of(&e->job, page->owner) ||
            (page->state >= 0 && e->job.state != (scd_job_state)page->state))
            continue;
        more = n == page->limit;
        if (more)
            break;
        if (n++)
            scd_buf_putc(out, ',');
        scd_jobs_write(jobs, &e->job, e->rate, out);
    }
    scd_gate_unlock(&jobs->gate);
    scd_buf_printf(out, "],\"has_more\":%s}", more ? "true" : "false");
    return true;
}

void scd_jobs_count(scd_jobs *jobs, size_t counts[SCD_N_JOB_STATES])
{
    memset(counts, 0, SCD_N_JOB_STATES * sizeof *counts);
    scd_gate_lock(&jobs->gate);
    for (const scd_job_entry *e = jobs->entries; e; e = e->next)
        counts[e->job.state]++;
    scd_gate_unlock(&jobs->gate);
}

/* ---- disk ----------------------------------------------------------------------------------- */

char *scd_jobs_path(const scd_jobs *jobs, const char *id, const char *what)
{
    size_t n = strlen(jobs->dir) + SCD_JOB_ID_BYTES + 16;
    char *path = scd_malloc(n, 1);
    if (path)
        snprintf(path, n, "%s/%s.%s", jobs->dir, id, what);
    return path;
}

bool scd_jobs_sync_dir(const scd_jobs *jobs)
{
    int fd = open(jobs->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && !fsync(fd);
    if (fd >= 0)
        close(fd);
    return ok;
}

void scd_jobs_unlink(const scd_jobs *jobs, const char *id, const char *what)
{
    char *path = scd_jobs_path(jobs, id, what);
    if (path)
        unlink(path);
    free(path);
}

static scd_reservation *reservation_of(scd_jobs *jobs, const char *owner)
{
    scd_reservation *r = jobs->reservations;
    while (r && strcmp(r->owner, owner))
        r = r->next;
    if (!r && (r = scd_calloc(1, sizeof *r))) {
        snprintf(r->owner, sizeof r->owner, "%s", owner);
        r->next = jobs->reservations;
        jobs->reservations = r;
    }
    return r;
}

bool scd_jobs_reserve(scd_jobs *jobs, const char *owner, uint64_t n, bool is_new,
                      scd_problem *problem)
{
    const scd_config *c = jobs->o.config;
    uint64_t all = n, own = n, max_all = (uint64_t)c->job_disk_mb * MIB,
             max_own = (uint64_t)c->job_key_disk_mb * MIB;
    int64_t n_jobs = 0;
    scd_gate_lock(&jobs->gate);
    for (const scd_job_entry *e = jobs->entries; e; e = e->next) {
        n_jobs++;
        all += scd_job_disk_bytes(&e->job);
        own += strcmp(e->job.owner, owner) ? 0 : scd_job_disk_bytes(&e->job);
    }
    for (const scd_reservation *r = jobs->reservations; r; r = r->next) {
        all += r->bytes;
        own += strcmp(r->owner, owner) ? 0 : r->bytes;
    }
    bool fits = all <= max_all && own <= max_own, ok = fits && (!is_new || n_jobs < c->max_jobs);
    scd_reservation *r = ok ? reservation_of(jobs, owner) : NULL;
    if (r)
        r->bytes += n;
    scd_gate_unlock(&jobs->gate);
    if (!ok && fits)
        scd_problem_set(problem, SCD_PROBLEM_STORAGE,
                        "%lld jobs are kept, the most that this server keeps: DELETE jobs whose "
                        "results you have",
                        (long long)n_jobs);
    else if (!ok)
        scd_problem_set(problem, SCD_PROBLEM_STORAGE,
                        "%s jobs would take %llu MiB of disk, at most %llu are allowed: DELETE "
                        "jobs whose results you have",
                        own > max_own ? "your" : "all",
                        (unsigned long long)((own > max_own ? own : all) / MIB),
                        (unsigned long long)((own > max_own ? max_own : max_all) / MIB));
    else if (!r)
        scd_problem_set(problem, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
    return ok && r;
}

void scd_jobs_unreserve(scd_jobs *jobs, const char *owner, uint64_t n)
{
    scd_gate_lock(&jobs->gate);
    scd_reservation *r = jobs->reservations;
    while (r && strcmp(r->owner, owner))
        r = r->next;
    if (r)
        r->bytes -= n < r->bytes ? n : r->bytes;
    scd_gate_unlock(&jobs->gate);
}

bool scd_jobs_claim_upload(scd_jobs *jobs, const char *id, uint64_t offset, scd_hasher **hasher)
{
    *hasher = NULL;
    scd_gate_lock(&jobs->gate);
    scd_job_entry *e = scd_jobs_find(jobs, id);
    bool ok = e && !e->uploading;
    if (ok) {
        e->uploading = true;
        if (e->hashed == offset) {
            *hasher = e->hasher;
            e->hasher = NULL;
        }
    }
    scd_gate_unlock(&jobs->gate);
    return ok;
}

void scd_jobs_leave_hasher(scd_jobs *jobs, const char *id, scd_hasher *hasher, uint64_t offset)
{
    scd_gate_lock(&jobs->gate);
    scd_job_entry *e = scd_jobs_find(jobs, id);
    scd_hasher *old = e ? e->hasher : hasher;
    if (e) {
        e->hasher = hasher;
        e->hashed = offset;
    }
    scd_gate_unlock(&jobs->gate);
    scd_hasher_free(old);
}

void scd_jobs_release_upload(scd_jobs *jobs, const char *id)
{
    scd_gate_lock(&jobs->gate);
    scd_job_entry *e = scd_jobs_find(jobs, id);
    if (e)
        e->uploading = false;
    scd_gate_unlock(&jobs->gate);
}

/* ---- waiting -------------------------------------------------------------------------------- */

void scd_jobs_listen(scd_jobs *jobs, scd_job_listener *l)
{
    scd_gate_lock(&jobs->ears);
    l->next = jobs->listeners;
    jobs->listeners = l;
    l->wake(l); /* what happened before it listened */
    scd_gate_unlock(&jobs->ears);
}

void scd_jobs_unlisten(scd_jobs *jobs, scd_job_listener *l)
{
    scd_gate_lock(&jobs->ears);
    scd_job_listener **at = &jobs->listeners;
    while (*at && *at != l)
        at = &(*at)->next;
    if (*at)
        *at = l->next;
    scd_gate_unlock(&jobs->ears);
}

void scd_jobs_wake(scd_jobs *jobs, const char *id)
{
    scd_gate_lock(&jobs->ears);
    for (scd_job_listener *l = jobs->listeners; l; l = l->next)
        if (!id || !strcmp(l->id, id))
            l->wake(l);
    scd_gate_unlock(&jobs->ears);
}

void scd_jobs_expire_exchange(scd_jobs *jobs, uint64_t exchange)
{
    scd_gate_lock(&jobs->ears);
    for (scd_job_listener *l = jobs->listeners; l; l = l->next)
        if (l->exchange == exchange) {
            l->expired = true;
            l->wake(l);
        }
    scd_gate_unlock(&jobs->ears);
}

bool scd_jobs_stopping(scd_jobs *jobs)
{
    return atomic_load(&jobs->stopping);
}

void scd_jobs_log(scd_jobs *jobs, int level, const char *event, const char *id, const char *what)
{
    if (jobs->o.log)
        jobs->o.log(jobs->o.log_arg, level, event, id, what);
}

/* ---- opening -------------------------------------------------------------------------------- */

static scd_code make_dir(const char *path, scd_error *err)
{
    return !mkdir(path, 0700) || errno == EEXIST
               ? SCD_OK
               : scd_fail(err, SCD_E_IO, "cannot make %s: %s", path, strerror(errno));
}

/* One daemon at a time. */
static scd_code lock_dir(scd_jobs *jobs, scd_error *err)
{
    char *path = scd_jobs_path(jobs, "all", "lock");
    if (!path)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    jobs->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    scd_code code = SCD_OK;
    if (jobs->lock_fd < 0)
        code = scd_fail(err, SCD_E_IO, "%s: %s", path, strerror(errno));
    else if (flock(jobs->lock_fd, LOCK_EX | LOCK_NB))
        code = scd_fail(err, SCD_E_IO, "%s: another scdivad works on the jobs of this directory",
                        path);
    free(path);
    return code;
}

/* What was RUNNING goes on. */
static scd_code add_entry(void *arg, scd_job_record *job)
{
    scd_jobs *jobs = arg;
    scd_job_entry *e = scd_calloc(1, sizeof *e);
    if (!e) {
        scd_job_release(job);
        return SCD_E_NOMEM;
    }
    e->job = *job;
    e->next = jobs->entries;
    jobs->entries = e;
    jobs->last_serial = job->serial;
    return SCD_OK;
}

static void forget_folder(const scd_jobs *jobs, const char *name)
{
    size_t n = strlen(jobs->dir) + strlen(name) + 2;
    char *path = scd_malloc(n, 1);
    if (!path)
        return;
    snprintf(path, n, "%s/%s", jobs->dir, name);
    scd_job_writer_forget(path);
    free(path);
}

/* Files of jobs that were never accepted, or are no more; and what came after the last accepted
 * byte of a file. */
static void tidy_files(scd_jobs *jobs)
{
    DIR *dir = opendir(jobs->dir);
    for (const struct dirent *d; dir && (d = readdir(dir));) {
        char id[SCD_JOB_ID_BYTES];
        size_t n = strcspn(d->d_name, ".");
        if (strncmp(d->d_name, "job_", 4) || n >= sizeof id)
            continue;
        memcpy(id, d->d_name, n);
        id[n] = '\0';
        const scd_job_entry *e = scd_jobs_find(jobs, id);
        bool is_input = !strcmp(d->d_name + n, ".input");
        bool is_work = is_input || strstr(d->d_name, ".chunks");
        if (strstr(d->d_name, SCD_JOB_WRITER_FOLDER))
            forget_folder(jobs, d->d_name);
        else if (!e || strstr(d->d_name, ".tmp") || (scd_job_is_over(&e->job) && is_work))
            unlinkat(dirfd(dir), d->d_name, 0);
        else if (is_input && !e->job.uploaded) {
            char *path = scd_jobs_path(jobs, id, "input");
            if (path && truncate(path, (off_t)e->job.upload_bytes))
                scd_jobs_log(jobs, 2, "job_file", id,
                             "its file cannot be cut to what was accepted");
            free(path);
        }
    }
    if (dir)
        closedir(dir);
}

/* Where readers turn what is not stored by cells: theirs alone, and empty. */
static scd_code make_scratch(scd_jobs *jobs, scd_error *err)
{
    size_t n = strlen(jobs->dir) + sizeof SCD_JOBS_SCRATCH;
    char *path = scd_malloc(n, 1);
    if (!path)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the jobs");
    snprintf(path, n, "%s%s", jobs->dir, strrchr(SCD_JOBS_SCRATCH, '/'));
    scd_code code = make_dir(path, err);
    DIR *dir = code ? NULL : opendir(path);
    for (const struct dirent *d; dir && (d = readdir(dir));)
        unlinkat(dirfd(dir), d->d_name, 0);
    if (dir)
        closedir(dir);
    free(path);
    return code;
}

static scd_code open_files(scd_jobs *jobs, scd_error *err)
{
    const char *data = jobs->o.config->data;
    size_t n = strlen(data) + 16;
    char *path = scd_malloc(n, 1);
    jobs->dir = scd_malloc(n, 1);
    jobs->audit.path = scd_malloc(n, 1);
    if (!path || !jobs->dir || !jobs->audit.path) {
        free(path);
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the jobs");
    }
    snprintf(path, n, "%s/jobs.db", data);
    snprintf(jobs->dir, n, "%s/jobs", data);
    snprintf(jobs->audit.path, n, "%s/audit.jsonl", data);
    scd_code code = make_dir(data, err);
    if (!code)
        code = make_dir(jobs->dir, err);
    if (!code)
        code = lock_dir(jobs, err);
    if (!code)
        code = scd_job_db_open(path, &jobs->db, err);
    if (!code && (code = scd_job_db_each(jobs->db, add_entry, jobs, err)) == SCD_E_NOMEM)
        scd_fail(err, code, "out of memory for the jobs");
    if (!code)
        tidy_files(jobs);
    if (!code)
        code = make_scratch(jobs, err);
    free(path);
    return code;
}

static scd_code start(scd_jobs *jobs, scd_error *err)
{
    scd_code code = scd_jobs_start_ledger(jobs, err);
    if (!code && !scd_sandbox_has_files())
        scd_jobs_log(
            jobs, 2, "sandbox", NULL,
            "no Landlock here (a kernel before 5.13, or a container that forbids it): what "
            "reads files of jobs may open others' too");
    if (!code && (code = scd_webhooks_open(jobs, jobs->o.config, &jobs->webhooks, err)))
        jobs->is_misconfigured = true;
    return code ? code : scd_jobs_start_workers(jobs, err);
}

scd_code scd_jobs_open(const scd_jobs_options *options, scd_jobs **out, scd_error *err)
{
    *out = NULL;
    scd_jobs *jobs = scd_calloc(1, sizeof *jobs);
    if (!jobs)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the jobs");
    jobs->o = *options;
    jobs->lock_fd = jobs->audit.fd = -1;
    jobs->last = &jobs->first;
    /* Names of the batcher's tickets beside those of exchanges, which count from 1. */
    atomic_init(&jobs->last_ticket, (uint64_t)1 << 62);
    scd_code code = scd_gate_init(&jobs->gate, err);
    if (!code && (code = scd_gate_init(&jobs->ears, err)))
        scd_gate_release(&jobs->gate);
    if (code) {
        free(jobs);
        return code;
    }
    scd_error why = {0};
    code = open_files(jobs, &why);
    if (!code)
        code = start(jobs, &why);
    if (code) {
        scd_jobs_stop(jobs);
        if (jobs->is_misconfigured) {
            scd_jobs_close(jobs);
            return scd_fail(err, code, "%s", why.message);
        }
        snprintf(jobs->unavailable, sizeof jobs->unavailable, "%s", why.message);
        scd_jobs_log(jobs, 3, "jobs_unavailable", NULL, why.message);
    }
    *out = jobs;
    return SCD_OK;
}

const char *scd_jobs_unavailable(const scd_jobs *jobs)
{
    return *jobs->unavailable ? jobs->unavailable : NULL;
}

bool scd_jobs_send_webhooks(const scd_jobs *jobs)
{
    return jobs->webhooks != NULL;
}

struct scd_webhooks *scd_jobs_webhooks(scd_jobs *jobs)
{
    return jobs->webhooks;
}

void scd_jobs_stop(scd_jobs *jobs)
{
    if (atomic_exchange(&jobs->stopping, true))
        return;
    scd_gate_lock(&jobs->gate);
    scd_gate_wake(&jobs->gate);
    scd_gate_unlock(&jobs->gate);
    scd_jobs_wake(jobs, NULL);
    scd_jobs_join_workers(jobs);
    scd_webhooks_stop(jobs->webhooks);
}

void scd_jobs_close(scd_jobs *jobs)
{
    if (!jobs)
        return;
    scd_jobs_stop(jobs);
    scd_jobs_end_ledger(jobs);
    scd_webhooks_close(jobs->webhooks);
    scd_job_audit_close(jobs);
    scd_job_db_close(jobs->db);
    for (scd_job_entry *e = jobs->entries, *next; e; e = next) {
        next = e->next;
        scd_jobs_free_entry(e);
    }
    for (scd_reservation *r = jobs->reservations, *next; r; r = next) {
        next = r->next;
        free(r);
    }
    if (jobs->lock_fd >= 0)
        close(jobs->lock_fd);
    free(jobs->audit.path);
    free(jobs->dir);
    scd_gate_release(&jobs->ears);
    scd_gate_release(&jobs->gate);
    free(jobs);
}
