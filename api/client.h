/* client.h - requests to a daemon, through libcurl: JSON there, JSON back.
 *
 * A daemon that is full (429) or not ready (503) is asked again after the time that it names, for
 * some minutes; a connection that could not be made or broke is tried again a few times: requests
 * here change nothing. Problem documents become messages: the detail and the first place.
 *
 * Threads: one at a time. Owns: the connection, until close. Errors: SCD_E_IO not reachable,
 * SCD_E_INVALID and SCD_E_NOT_FOUND what the daemon says of the request, SCD_E_BUSY still full,
 * SCD_E_CORRUPT an answer that is none. */
#ifndef SCD_API_CLIENT_H
#define SCD_API_CLIENT_H

#include "engine/base/buf.h"
#include "engine/base/error.h"

struct cJSON;

typedef struct scd_client scd_client;

/* key_file holds a bearer token on its first line; NULL: the variable SCDIVA_API_KEY, if any. */
scd_code scd_client_open(const char *url, const char *key_file, scd_client **out, scd_error *err);
void scd_client_close(scd_client *client); /* NULL is fine */

/* body NULL: GET, else POST. cJSON_Delete(*out). */
scd_code scd_client_ask(scd_client *client, const char *path, const scd_buf *body,
                        struct cJSON **out, scd_error *err);

#endif
