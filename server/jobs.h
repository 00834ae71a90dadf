/* jobs.h - files of cells worked through: kept on disk from the moment they are accepted.
 *
 *   DIR/jobs.db          what there is to do and how far it is (job_db.h)
 *   DIR/jobs/ID.input    the file, until the job is over
 *   DIR/jobs/ID.chunks   results of the cells done so far
 *   DIR/jobs/ID.FORMAT   the result
 *   DIR/jobs/tmp         of the readers of files
 *   DIR/jobs/all.ballast room on a full disk (job_ballast.c)
 *   DIR/audit.jsonl      who did what (api/audit.h)
 *
 * What is in memory here is what is committed there: every change is made by the thread `jobs-db`,
 * which writes it first and shows it afterwards. Threads `job-N` compute (job_worker.c), at bulk
 * priority; `webhook` tells others (webhook.h). One daemon at a time uses a directory.
 *
 * Threads: any but for open, stop and close. Owns: the files above. */
#ifndef SCD_JOBS_H
#define SCD_JOBS_H

#include "api/problem.h"
#include "config/config.h"
#include "api/auth.h"
#include "server/batcher.h"
#include "server/http.h"
#include "server/job.h"

typedef struct scd_jobs scd_jobs;
struct scd_job_db;

typedef struct scd_jobs_options {
    const scd_config *config;
    scd_engine *engine;
    scd_batcher *batcher;
    scd_store *store;
    scd_auth *auth; /* for the audit: which keys there are; may be NULL */
    void (*log)(void *arg, int level, const char *event, const char *job, const char *message);
    void *log_arg;
} scd_jobs_options;

/* In the data directory: $TMPDIR of the readers of jobs' files, where main was given none. */
#define SCD_JOBS_SCRATCH "jobs/tmp"

/* Where the directory cannot be used - another daemon has it, or its database is damaged - jobs are
 * unavailable and all else is served: *out is there, and scd_jobs_unavailable says why. */
scd_code scd_jobs_open(const scd_jobs_options *options, scd_jobs **out, scd_error *err);
/* Workers end with the chunk that they have; who waits is answered, and who listens, too. */
void scd_jobs_stop(scd_jobs *jobs);
void scd_jobs_close(scd_jobs *jobs); /* stops, then frees; NULL is fine */

const char *scd_jobs_unavailable(const scd_jobs *jobs); /* NULL: all is well */
bool scd_jobs_send_webhooks(const scd_jobs *jobs);
struct scd_webhooks *scd_jobs_webhooks(scd_jobs *jobs); /* NULL: none are sent */

/* ---- changes -------------------------------------------------------------------------------- */

typedef struct scd_job_change scd_job_change;

/* In jobs-db, on a copy of what is kept. Anything but NONE, with *problem filled: no change. */
typedef scd_problem_kind scd_job_mutate(scd_job_change *change, scd_job_record *job,
                                        scd_problem *problem);

struct scd_job_change {
    scd_job_change *next;
    /* From the caller: */
    char id[SCD_JOB_ID_BYTES];
    const char *actor;      /* name of the key; "": nobody's; NULL: the daemon itself */
    scd_job_mutate *mutate; /* may be NULL */
    /* Instead of a change: whatever is to be done with the database, in a transaction that a
     * problem undoes. May be NULL. */
    void (*visit)(scd_job_change *change, struct scd_job_db *db);
    void *arg;             /* for mutate, visit and done */
    bool creates, deletes; /* creates: `job` is the new record */
    bool drops_chunks;     /* those there were */
    bool frees;            /* it makes room: on a full disk it comes before what does not */
    bool adds_chunk;
    uint64_t first, n;
    scd_digest digest;
    void (*done)(scd_job_change *change); /* in jobs-db */
    /* To the caller: */
    scd_job_record job; /* as it is now; scd_job_release it */
    scd_problem problem;
};

void scd_jobs_post(scd_jobs *jobs, scd_job_change *change);
/* The same, and wait. Not from jobs-db. */
scd_problem_kind scd_jobs_apply(scd_jobs *jobs, scd_job_change *change);

/* For mutate of a new job: the one that the owner made under the same Idempotency-Key. */
bool scd_jobs_find_key(scd_jobs *jobs, const char *owner, const char *key, scd_job_record *out);

/* ---- looking -------------------------------------------------------------------------------- */

/* A copy of the job, if it is this owner's (NULL: anybody's); scd_job_release it. */
bool scd_jobs_get(scd_jobs *jobs, const char *id, const char *owner, scd_job_record *out,
                  double *rate);
int64_t scd_jobs_expire_ms(const scd_jobs *jobs, const scd_job_record *job); /* 0: not yet known */
void scd_jobs_write(scd_jobs *jobs, const scd_job_record *job, double rate, scd_buf *out);

typedef struct scd_jobs_page {
    const char *owner;    /* NULL: all */
    int state;            /* -1: any */
    const char *after_id; /* "": from the newest on */
    size_t limit;
} scd_jobs_page;
/* A JSON list of jobs, the newest first. False: no job after_id. */
bool scd_jobs_list(scd_jobs *jobs, const scd_jobs_page *page, scd_buf *out);
void scd_jobs_count(scd_jobs *jobs, size_t counts[SCD_N_JOB_STATES]);

/* ---- the audit ------------------------------------------------------------------------------ */

/* The keys file was read again, or (failure: why) could not be. Waits; not from jobs-db. */
void scd_jobs_keys_read(scd_jobs *jobs, const char *failure);
/* Is it on record that this result was sent, as of the last minute? So that a download in parts is
 * a few lines. */
bool scd_jobs_read_is_new(scd_jobs *jobs, const char *id);
/* It is about to be: posts the change, which has its actor and done. Without a problem it is on
 * disk when done is called, which tells by read_recorded. */
void scd_jobs_record_read(scd_jobs *jobs, const scd_job_record *job, scd_job_change *change);
void scd_jobs_read_recorded(scd_jobs *jobs, const char *id);

/* ---- disk ----------------------------------------------------------------------------------- */

/* free() it; what: "input", "chunks", or a format. */
char *scd_jobs_path(const scd_jobs *jobs, const char *id, const char *what);
bool scd_jobs_sync_dir(const scd_jobs *jobs); /* names in it are durable */
void scd_jobs_unlink(const scd_jobs *jobs, const char *id, const char *what);
/* n more bytes for this owner, beside what jobs have and what is reserved, and room for one more
 * job where it is_new. False: *problem. */
bool scd_jobs_reserve(scd_jobs *jobs, const char *owner, uint64_t n, bool is_new,
                      scd_problem *problem);
void scd_jobs_unreserve(scd_jobs *jobs, const char *owner, uint64_t n);
/* One exchange at a time sends a job's file. *hasher is of its first `offset` bytes, from here on
 * the caller's; NULL where that is not known, as after a start. */
bool scd_jobs_claim_upload(scd_jobs *jobs, const char *id, uint64_t offset, scd_hasher **hasher);
/* For the next part: the hasher of the first `offset` bytes, which is taken; or NULL. */
void scd_jobs_leave_hasher(scd_jobs *jobs, const char *id, scd_hasher *hasher, uint64_t offset);
void scd_jobs_release_upload(scd_jobs *jobs, const char *id);

/* ---- waiting -------------------------------------------------------------------------------- */

/* Whoever wants to know of changes of a job. `wake` is called, without a lock that a change needs,
 * at every change of it, every ten seconds, and at a stop; calls nothing back. */
typedef struct scd_job_listener {
    struct scd_job_listener *next;
    char id[SCD_JOB_ID_BYTES];
    uint64_t exchange; /* whose client may leave, or deadline pass: `expired`; 0: none */
    bool expired;
    void (*wake)(struct scd_job_listener *listener);
} scd_job_listener;
void scd_jobs_listen(scd_jobs *jobs, scd_job_listener *listener);
/* No wake comes after this. */
void scd_jobs_unlisten(scd_jobs *jobs, scd_job_listener *listener);
void scd_jobs_expire_exchange(scd_jobs *jobs, uint64_t exchange);
bool scd_jobs_stopping(scd_jobs *jobs);

#endif
