/* job.h - one job as it is kept: who asked for what, how far it is, what came of it.
 *
 *   QUEUED     the file is being sent, or waits for its turn
 *   RUNNING    chunks are being computed; after a restart it goes on at the last one
 *   COMPLETE   the result is there
 *   FAILED     the file, or what was asked of it, is of no use: `detail` says why
 *   ERROR      our fault: `detail` says what is known
 *   CANCELED   by DELETE
 *
 * Threads: any; plain data, a copy each. Owns: `report`. */
#ifndef SCD_SERVER_JOB_H
#define SCD_SERVER_JOB_H

#include "api/job_query.h"

#include <stdint.h>

typedef enum scd_job_state {
    SCD_JOB_QUEUED,
    SCD_JOB_RUNNING,
    SCD_JOB_COMPLETE,
    SCD_JOB_FAILED,
    SCD_JOB_ERROR,
    SCD_JOB_CANCELED,
    SCD_N_JOB_STATES
} scd_job_state;

enum { SCD_JOB_ID_BYTES = 32, SCD_JOB_OWNER_BYTES = 65, SCD_JOB_KEY_BYTES = 256 };

typedef struct scd_job_record {
    char id[SCD_JOB_ID_BYTES];
    uint64_t serial;                 /* order of creation */
    uint64_t version;                /* grows with every change: the id of its events */
    char owner[SCD_JOB_OWNER_BYTES]; /* name of the API key, "" without keys */
    char idempotency_key[SCD_JOB_KEY_BYTES];
    scd_job_query query;
    scd_job_state state;
    int64_t created_ms, started_ms, finished_ms; /* 0: not yet */
    uint64_t upload_bytes, upload_length;        /* there, on disk; announced */
    bool uploaded;                               /* whole */
    char input_sha256[SCD_DIGEST_HEX];
    char model[SCD_JOB_NAME_BYTES], model_digest[SCD_DIGEST_HEX], head_digest[SCD_DIGEST_HEX];
    char run_key[SCD_DIGEST_HEX]; /* all that the bytes of chunks depend on but the file */
    uint64_t n_cells, n_done, row_bytes;
    uint32_t attempts; /* to work on it since its last chunk */
    uint64_t result_bytes;
    char result_sha256[SCD_DIGEST_HEX];
    char detail[640];
    char *report; /* JSON members: "decisions":[...],"warnings":[...]; NULL: none */
} scd_job_record;

const char *scd_job_state_name(scd_job_state state); /* "QUEUED" */
bool scd_job_state_parse(const char *name, scd_job_state *out);

static inline bool scd_job_is_over(const scd_job_record *job)
{
    return job->state > SCD_JOB_RUNNING;
}

/* A copy with a report of its own; false: out of memory, *to is empty. */
bool scd_job_copy(scd_job_record *to, const scd_job_record *from);
void scd_job_release(scd_job_record *job);

/* What it occupies on disk, file and chunks or result. */
uint64_t scd_job_disk_bytes(const scd_job_record *job);

/* A member ",\"name\":\"2026-01-31T12:00:00.000Z\"" of wall time; nothing for 0. */
void scd_job_write_time(scd_buf *out, const char *name, int64_t ms);
/* The job as JSON; rate in cells/s, 0: not known. */
void scd_job_write(const scd_job_record *job, double rate, int64_t expires_ms, scd_buf *out);

#endif
