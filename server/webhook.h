/* webhook.h - telling others that a job is over, as Standard Webhooks has it
 * (standardwebhooks.com).
 *
 *   webhook-id          the same at every attempt: a receiver that keeps it sees each event once
 *   webhook-timestamp   seconds since 1970, of the attempt
 *   webhook-signature   "v1," and the base64 of HMAC-SHA256 over "id.timestamp.body"
 *
 * 2xx is success and 410 the end; all else is tried again after 5 s, 5 min, 30 min, 2, 5, 10, 14,
 * 20 and 24 h, restarts or not. Redirects are not followed. An address that is not public is not
 * connected to, whatever name it hides behind: it is judged when the socket is made, after DNS.
 * Eight are told at once, two of a host and four of a key, so that receivers that hang hold up
 * themselves.
 *
 * Threads: `webhook`; add in jobs-db. Owns: the thread, and what it has read of the database. */
#ifndef SCD_WEBHOOK_H
#define SCD_WEBHOOK_H

#include "config/config.h"
#include "server/jobs.h"

#include <sys/socket.h>

typedef struct scd_webhooks scd_webhooks;

/* *out NULL: no secret is configured, and none are sent. SCD_E_IO, SCD_E_INVALID: its file. */
scd_code scd_webhooks_open(scd_jobs *jobs, const scd_config *config, scd_webhooks **out,
                           scd_error *err);
void scd_webhooks_stop(scd_webhooks *w); /* NULL is fine */
void scd_webhooks_close(scd_webhooks *w);

/* In the transaction that ends the job: it is to be told, if that was asked for. */
scd_code scd_webhooks_add(scd_jobs *jobs, const scd_job_record *job, scd_error *err);
/* There is something to send. */
void scd_webhooks_wake(scd_webhooks *w);

/* Is this an address of the public internet? */
bool scd_webhook_is_public(const struct sockaddr *address);
/* "whsec_" and base64 of 24 to 64 bytes; how many, 0: it is none. */
size_t scd_webhook_read_secret(const char *text, unsigned char out[64]);
/* "v1,..." of a message. */
void scd_webhook_sign(const unsigned char *secret, size_t n_secret, const char *id, int64_t time_s,
                      const char *body, char out[64]);

#endif
