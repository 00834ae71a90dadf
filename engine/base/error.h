/* error.h - one error code, one fixed-size error object.
 *
 * Every function that can fail takes `scd_error *err` last and returns the code; the message says
 * what is wrong and what to do about it. `err` may be NULL where only the code matters.
 *
 * Contract codes are part of a function's contract and handled by its direct caller; fault codes
 * travel up unchanged. api/problem.c is the one place that maps codes to HTTP statuses.
 *
 * Threads: an error object belongs to one thread at a time. Owns: nothing. */
#ifndef SCD_BASE_ERROR_H
#define SCD_BASE_ERROR_H

#include <stdarg.h>

typedef enum scd_code {
    SCD_OK = 0,
    /* contract */
    SCD_E_INVALID,   /* the input is wrong: the message names the part and the remedy */
    SCD_E_TOO_LARGE, /* over a published bound */
    SCD_E_BUSY,      /* no room now, try again later */
    SCD_E_NOT_FOUND, /* no such thing; the message names what there is */
    SCD_E_TIMEOUT,   /* the deadline passed */
    SCD_E_CANCELED,  /* the caller gave up, or we are shutting down */
    /* fault */
    SCD_E_NOMEM,
    SCD_E_IO,
    SCD_E_CORRUPT, /* a file or store that contradicts itself */
    SCD_E_DEVICE,  /* the compute device failed or is not there */
    SCD_E_INTERNAL
} scd_code;

typedef struct scd_error {
    scd_code code;
    char message[640];
} scd_error;

/* Fill *err (when not NULL) and return `code`, so that callers write `return scd_fail(...)`. */
scd_code scd_fail(scd_error *err, scd_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Put "prefix: " before the message that is already in *err; returns err->code. Without an err
 * there is no code to return: where the caller has it, it returns that. */
scd_code scd_fail_within(scd_error *err, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* The name of a code in lower case, for logs and metrics: "invalid", "busy", ... */
const char *scd_code_name(scd_code code);

#endif
