/* jobs_impl.h - what the parts of the jobs share: jobs.c (what there is), job_ledger.c (changes),
 * job_audit.c (the record), job_worker.c (who computes). Included by job*.c and webhook.c only.
 *
 * Threads: `gate` protects entries and reservations, `ears` the listeners; what else there is
 * belongs to one thread. */
#ifndef SCD_JOBS_IMPL_H
#define SCD_JOBS_IMPL_H

#include "api/audit.h"
#include "engine/base/thread.h"
#include "server/job_db.h"
#include "server/jobs.h"

#include <stdatomic.h>

typedef struct scd_job_entry {
    struct scd_job_entry *next; /* older */
    scd_job_record job;
    bool uploading, running; /* an exchange, a worker has it */
    scd_hasher *hasher; /* of the first `hashed` bytes of its file, between two parts; or NULL */
    uint64_t hashed;
    double rate;           /* cells/s; 0: not known */
    int64_t read_ms;       /* a download of its result was last put on record; 0: none was */
    int64_t not_before_ns; /* is taken up again */
} scd_job_entry;

typedef struct scd_reservation {
    struct scd_reservation *next;
    char owner[SCD_JOB_OWNER_BYTES];
    uint64_t bytes;
} scd_reservation;

/* The audit's file; of jobs-db alone. */
typedef struct scd_job_audit {
    char *path;
    int fd;                /* -1: not open */
    scd_audit_state state; /* of the last line made */
    uint64_t written;      /* seq of the last line in the file */
    bool failed;           /* was told of */
} scd_job_audit;

enum { SCD_JOB_WORKERS = 2 };

struct scd_jobs {
    scd_jobs_options o;
    char *dir; /* of the files */
    int lock_fd;
    bool is_misconfigured; /* so that the daemon does not start */
    char unavailable[700];
    scd_gate gate;
    scd_job_entry *entries; /* the newest first */
    scd_reservation *reservations;
    uint64_t last_serial;
    scd_job_change *first, **last; /* to be made */
    atomic_bool stopping;          /* workers and listeners */
    bool closing;                  /* jobs-db, when nothing is left to be made */
    scd_gate ears;
    scd_job_listener *listeners;
    scd_thread ledger, workers[SCD_JOB_WORKERS];
    scd_job_db *db; /* of jobs-db once it runs */
    scd_job_audit audit;
    struct scd_webhooks *webhooks; /* NULL: none are sent */
    atomic_uint_fast64_t last_ticket;
};

/* Under the gate; NULL: there is none. */
scd_job_entry *scd_jobs_find(scd_jobs *jobs, const char *id);
void scd_jobs_free_entry(scd_job_entry *entry); /* NULL is fine */
void scd_jobs_log(scd_jobs *jobs, int level, const char *event, const char *id, const char *what);
void scd_jobs_wake(scd_jobs *jobs, const char *id); /* its listeners; NULL: all */

/* ---- job_ledger.c ---- */
scd_code scd_jobs_start_ledger(scd_jobs *jobs, scd_error *err);
void scd_jobs_end_ledger(scd_jobs *jobs);

/* ---- job_ballast.c: in jobs-db ---- */
void scd_job_ballast_keep(scd_jobs *jobs);
bool scd_job_ballast_drop(scd_jobs *jobs); /* false: there was none */

/* ---- job_audit.c: in jobs-db ---- */
/* The file, whole; lines that a crash kept from it are added. */
scd_code scd_job_audit_open(scd_jobs *jobs, scd_error *err);
void scd_job_audit_close(scd_jobs *jobs);
/* In a transaction: one more line. fields: JSON members ",\"x\":...", or "". */
scd_code scd_job_audit_add(scd_jobs *jobs, const char *event, const char *actor, const char *fields,
                           scd_error *err);
/* What a change did to a job, in the same transaction. was NULL: it is new. */
scd_code scd_job_audit_change(scd_jobs *jobs, const scd_job_change *change,
                              const scd_job_record *was, scd_error *err);
/* In a transaction: which keys came, went or changed since the last time (job_keys.c). */
scd_code scd_job_audit_keys(scd_jobs *jobs, scd_error *err);
/* After the commit: lines go to the file. What cannot be written now is tried again. */
void scd_job_audit_flush(scd_jobs *jobs);

/* ---- job_worker.c ---- */
scd_code scd_jobs_start_workers(scd_jobs *jobs, scd_error *err);
void scd_jobs_join_workers(scd_jobs *jobs);

/* ---- job_run.c: one job, from its file to its result, in a worker ---- */
/* How long it is to be left alone where it is not over, for then something is out of order. */
int64_t scd_job_run(scd_jobs *jobs, const char *id);
void scd_job_set_rate(scd_jobs *jobs, const char *id, double rate);
/* Is it to stop: canceled, deleted, or all are to? */
bool scd_job_is_unwanted(scd_jobs *jobs, const char *id);

#endif
