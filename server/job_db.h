/* job_db.h - the database of the jobs: jobs.db in the data directory.
 *
 * Unlike the cache it is never thrown away: a damaged or foreign file is an error for a person to
 * look at. Every commit is synced to disk before it returns.
 *
 * Codes: SCD_E_CORRUPT damaged, foreign or newer; SCD_E_IO cannot be used now; SCD_E_NOMEM.
 *
 * Threads: one at a time. Owns: its connection. */
#ifndef SCD_JOB_DB_H
#define SCD_JOB_DB_H

#include "server/job.h"

typedef struct scd_job_db scd_job_db;

scd_code scd_job_db_open(const char *path, scd_job_db **out, scd_error *err);
void scd_job_db_close(scd_job_db *db); /* NULL is fine */

/* One transaction: begin, any number of the others, commit. Any failure: roll back. */
scd_code scd_job_db_begin(scd_job_db *db, scd_error *err);
scd_code scd_job_db_commit(scd_job_db *db, scd_error *err);
void scd_job_db_rollback(scd_job_db *db);

/* ---- jobs ---- */
scd_code scd_job_db_save(scd_job_db *db, const scd_job_record *job, scd_error *err);
/* With its chunks. */
scd_code scd_job_db_delete(scd_job_db *db, const char *id, scd_error *err);
/* Every job in order of creation; each gets a copy of its own, which `fn` takes. */
scd_code scd_job_db_each(scd_job_db *db, scd_code (*fn)(void *arg, scd_job_record *job), void *arg,
                         scd_error *err);

/* ---- chunks: results of cells [first, first + n), by the SHA-256 of their bytes ---- */
scd_code scd_job_db_add_chunk(scd_job_db *db, const char *id, uint64_t first, uint64_t n,
                              const scd_digest *digest, scd_error *err);
scd_code scd_job_db_drop_chunks(scd_job_db *db, const char *id, scd_error *err);
/* The chunks from `first` on, in order. */
scd_code scd_job_db_each_chunk(scd_job_db *db, const char *id,
                               scd_code (*fn)(void *arg, uint64_t first, uint64_t n,
                                              const scd_digest *digest),
                               void *arg, scd_error *err);

/* ---- lines of the audit that are not in its file yet ---- */
scd_code scd_job_db_add_line(scd_job_db *db, uint64_t seq, const char *line, scd_error *err);
scd_code scd_job_db_drop_lines(scd_job_db *db, uint64_t up_to, scd_error *err);
scd_code scd_job_db_each_line(scd_job_db *db,
                              scd_code (*fn)(void *arg, uint64_t seq, const char *line), void *arg,
                              scd_error *err);

/* ---- webhooks ---- */
typedef struct scd_delivery {
    int64_t row; /* 0: new */
    char id[72]; /* webhook-id: the same at every attempt */
    char job[SCD_JOB_ID_BYTES], owner[SCD_JOB_OWNER_BYTES];
    char url[SCD_JOB_URL_BYTES];
    char *payload;
    int attempts, status; /* status: of the last answer, 0: none came */
    bool done, given_up;  /* delivered; no more attempts */
    int64_t created_ms, next_ms, last_ms;
    char why[256]; /* of the last failure */
} scd_delivery;

scd_code scd_job_db_save_delivery(scd_job_db *db, const scd_delivery *d, scd_error *err);
/* Those not yet over (job NULL), or all of a job; `fn` takes the payload. */
scd_code scd_job_db_each_delivery(scd_job_db *db, const char *job,
                                  scd_code (*fn)(void *arg, scd_delivery *d), void *arg,
                                  scd_error *err);

/* One attempt at it, for the log; as JSON, of all deliveries of a job: "[{...},...]". */
scd_code scd_job_db_add_attempt(scd_job_db *db, const scd_delivery *d, scd_error *err);
scd_code scd_job_db_write_attempts(scd_job_db *db, const char *job, scd_buf *out, scd_error *err);

/* ---- what else is to be remembered ---- */
scd_code scd_job_db_set_meta(scd_job_db *db, const char *name, const char *value, scd_error *err);
/* "" where there is none. */
scd_code scd_job_db_get_meta(scd_job_db *db, const char *name, char *out, size_t cap,
                             scd_error *err);

#endif
