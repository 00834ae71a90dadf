/* client.h - requests to a daemon, through libcurl: JSON there, JSON back, files both ways.
 *
 * A daemon that is full (429) or not ready (503) is asked again after the time that it names, for
 * some minutes; a connection that could not be made or broke is tried again a few times, where
 * asking twice does no harm. Problem documents become messages: the detail and the first place.
 *
 * Threads: one at a time. Owns: the connection, until close. Errors: SCD_E_IO not reachable,
 * SCD_E_INVALID and SCD_E_NOT_FOUND what the daemon says of the request, SCD_E_BUSY still full,
 * SCD_E_CORRUPT an answer that is none, SCD_E_CANCELED stopped by the caller. */
#ifndef SCD_API_CLIENT_H
#define SCD_API_CLIENT_H

#include "engine/base/buf.h"
#include "engine/base/error.h"

#include <stdbool.h>

struct cJSON;

typedef struct scd_client scd_client;

/* key_file holds a bearer token on its first line; NULL: the variable SCDIVA_API_KEY, if any. */
scd_code scd_client_open(const char *url, const char *key_file, scd_client **out, scd_error *err);
void scd_client_close(scd_client *client); /* NULL is fine */

const char *scd_client_url(const scd_client *client); /* without a slash at its end */

enum { SCD_CLIENT_MAX_HEADERS = 6 };

typedef struct scd_client_call {
    const char *method, *path;                   /* path with its query */
    const char *headers[SCD_CLIENT_MAX_HEADERS]; /* "Name: value"; NULL ends them */
    const void *body;                            /* (n_bytes) */
    size_t n_bytes;
    bool once; /* asking again may do harm: a connection that breaks is an error at once */
    /* Where the bytes of a 2xx answer go; NULL: they are JSON. False: it is an error of its own. */
    bool (*sink)(void *arg, const void *bytes, size_t n);
    bool (*stop)(void *arg); /* looked at again and again; NULL: never */
    void *arg;               /* of both */
    /* Of the answer: */
    long status;          /* 0: there was none */
    struct cJSON *answer; /* cJSON_Delete it; NULL: none, or not JSON */
} scd_client_call;

/* SCD_OK for a 2xx answer. */
scd_code scd_client_do(scd_client *client, scd_client_call *call, scd_error *err);

/* body NULL: GET, else POST. cJSON_Delete(*out). */
scd_code scd_client_ask(scd_client *client, const char *path, const scd_buf *body,
                        struct cJSON **out, scd_error *err);

#endif
