/* job_wait.h - an exchange that waits for a job to be over ("Prefer: wait"), and what all answers
 * about jobs have in common.
 *
 * Threads: http-N, but for start, which may also come from jobs-db. Owns: nothing. */
#ifndef SCD_JOB_WAIT_H
#define SCD_JOB_WAIT_H

#include "server/daemon.h"

typedef struct scd_job_wait {
    scd_job_listener listener; /* first */
    scd_daemon *d;
    scd_exchange *x;
    bool started, resumed;
} scd_job_wait;

/* Seconds that the client would wait for (Prefer: wait, or wait=N); 0: it would not. */
int scd_job_wait_seconds(const scd_exchange *x);

/* The exchange is suspended: it is resumed when the job is over, the time has passed, the client
 * has left or the daemon stops. Nothing of the exchange may be touched afterwards. */
void scd_job_wait_start(scd_job_wait *wait, scd_daemon *d, scd_exchange *x, const char *id,
                        int seconds);
void scd_job_wait_end(scd_job_wait *wait); /* after the resume */

/* The name of the key that asks: whose jobs it may see. NULL: all, for there are no keys. */
const char *scd_job_owner(const scd_daemon *d, scd_exchange *x);
/* False: 503 was answered. */
bool scd_jobs_there(scd_daemon *d, scd_exchange *x);
/* The {id} of /v1/jobs/{id}...; "" where it is none. */
void scd_job_id_of(scd_exchange *x, char id[SCD_JOB_ID_BYTES]);
/* The job that is asked for; false: 404 was answered. scd_job_release it. */
bool scd_job_of(scd_daemon *d, scd_exchange *x, scd_job_record *out, double *rate);
/* The job's JSON. */
void scd_job_reply(scd_daemon *d, scd_exchange *x, unsigned status, const scd_job_record *job,
                   double rate);

#endif
