/* problem.h - RFC 9457 problem documents: what went wrong, in a form that programs can act on.
 *
 * The one place where error codes become HTTP statuses. `type` values are stable contracts:
 * "urn:scdiva:problem:" followed by the kind's name.
 *
 * Threads: one at a time. Owns: nothing; plain data with fixed bounds. */
#ifndef SCD_API_PROBLEM_H
#define SCD_API_PROBLEM_H

#include "engine/base/buf.h"
#include "engine/base/error.h"

typedef enum scd_problem_kind {
    SCD_PROBLEM_NONE,
    SCD_PROBLEM_MALFORMED_JSON,  /* 400: also invalid UTF-8, nested past the limit */
    SCD_PROBLEM_BAD_REQUEST,     /* 400: headers, gzip stream, query */
    SCD_PROBLEM_UNAUTHORIZED,    /* 401 */
    SCD_PROBLEM_FORBIDDEN,       /* 403 */
    SCD_PROBLEM_NOT_FOUND,       /* 404 */
    SCD_PROBLEM_METHOD,          /* 405 */
    SCD_PROBLEM_CONFLICT,        /* 409: not in this state */
    SCD_PROBLEM_LENGTH_REQUIRED, /* 411 */
    SCD_PROBLEM_TOO_LARGE,       /* 413 */
    SCD_PROBLEM_MEDIA_TYPE,      /* 415 */
    SCD_PROBLEM_RANGE,           /* 416 */
    SCD_PROBLEM_INVALID,         /* 422 */
    SCD_PROBLEM_OVERLOADED,      /* 429, with Retry-After */
    SCD_PROBLEM_INTERNAL,        /* 500 */
    SCD_PROBLEM_UNAVAILABLE,     /* 503 */
    SCD_PROBLEM_DEADLINE,        /* 504 */
    SCD_PROBLEM_STORAGE,         /* 507: no room on disk, or none left for this key */
    SCD_N_PROBLEMS
} scd_problem_kind;

enum { SCD_PROBLEM_MAX_ERRORS = 16 };

typedef struct scd_problem_error {
    char pointer[128]; /* JSON pointer into the request body, "" for the whole */
    char detail[256];
} scd_problem_error;

typedef struct scd_problem {
    scd_problem_kind kind;
    char detail[640]; /* what is wrong and what to do */
    size_t n_errors;  /* kept; more may have been seen */
    size_t n_seen;
    scd_problem_error errors[SCD_PROBLEM_MAX_ERRORS];
    int retry_after_s; /* > 0: becomes the Retry-After header */
} scd_problem;

int scd_problem_status(scd_problem_kind kind);
const char *scd_problem_name(scd_problem_kind kind);  /* "malformed-json": end of its type */
const char *scd_problem_title(scd_problem_kind kind); /* "The request body is not valid JSON" */
scd_problem_kind scd_problem_of_code(scd_code code);

/* Make *problem one of `kind` with this detail, without errors. Returns `kind`. */
scd_problem_kind scd_problem_set(scd_problem *problem, scd_problem_kind kind, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* From an engine error: kind by its code, detail from its message (a fault's inner message is for
 * the log; the client is told that it is ours). */
scd_problem_kind scd_problem_from_error(scd_problem *problem, const scd_error *err);
/* One more entry of "errors"; beyond the maximum it is only counted. The first sets kind INVALID
 * and gives "pointer: detail" where the problem has no detail. */
void scd_problem_add(scd_problem *problem, const char *pointer, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The application/problem+json document. `instance` is the request id, may be NULL. */
void scd_problem_write(const scd_problem *problem, const char *instance, scd_buf *out);
/* The same with the detail once more as "error", the one member that clients of the Open Inference
 * Protocol read. */
void scd_problem_write_oip(const scd_problem *problem, const char *instance, scd_buf *out);
/* What the errors point at stands within `base`, a JSON pointer of at most 20 bytes. */
void scd_problem_within(scd_problem *problem, const char *base);

#endif
