/* job_client.h - a daemon's jobs, from outside: asked about, waited for, fetched, ended.
 *
 * What takes long goes on where it stopped when the connection breaks or the daemon restarts, for
 * some minutes.
 *
 * Threads: main. Owns: nothing. Errors: as api/client.h; SCD_E_CANCELED where somebody pressed
 * Ctrl-C. */
#ifndef SCD_CLI_JOB_CLIENT_H
#define SCD_CLI_JOB_CLIENT_H

#include "api/client.h"

#include <stdint.h>

struct cJSON;

/* A job's id, as it can stand in a path; false: it is none. */
bool cli_job_is_id(const char *id);

/* cJSON_Delete(*job). */
scd_code cli_job_get(scd_client *client, const char *id, struct cJSON **job, scd_error *err);
/* The same when it is over; *job (may be NULL on entry) is replaced each time. */
scd_code cli_job_wait(scd_client *client, const char *id, bool quiet, struct cJSON **job,
                      scd_error *err);
/* What ended otherwise than well becomes an error with the server's words. */
scd_code cli_job_judge(const struct cJSON *job, scd_error *err);
/* Its result into a file that appears whole, checked against the job's SHA-256. */
scd_code cli_job_fetch(scd_client *client, const struct cJSON *job, const char *output,
                       bool overwrite, scd_error *err);
/* What is under way is canceled, what is over is forgotten. Not interrupted. */
scd_code cli_job_end(scd_client *client, const char *id, struct cJSON **answer, scd_error *err);

/* ---- JSON ---- */
const char *cli_text_of(const struct cJSON *object, const char *key); /* NULL: none */
double cli_number_of(const struct cJSON *object, const char *key);    /* 0: none */
const struct cJSON *cli_object_of(const struct cJSON *object, const char *key);

#endif
