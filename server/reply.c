/* reply.c - see reply.h. */
#include "server/reply.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_PROBLEM_BYTES = 64 << 10 };

void scd_reply_json(scd_exchange *x, scd_buf *json)
{
    scd_exchange_answer(x, 200, "application/json", json);
}

void scd_reply_with(scd_exchange *x, const scd_problem *problem)
{
    scd_buf body;
    scd_buf_init(&body, MAX_PROBLEM_BYTES);
    bool oip = !strncmp(scd_exchange_path(x), "/v2", 3);
    (oip ? scd_problem_write_oip : scd_problem_write)(problem, scd_exchange_request_id(x), &body);
    if (problem->retry_after_s > 0) {
        char seconds[16];
        snprintf(seconds, sizeof seconds, "%d", problem->retry_after_s);
        scd_exchange_set_header(x, "Retry-After", seconds);
    }
    if (problem->kind == SCD_PROBLEM_UNAUTHORIZED)
        scd_exchange_set_header(x, "WWW-Authenticate", "Bearer");
    scd_exchange_get_note(x)->problem = scd_problem_name(problem->kind);
    scd_exchange_answer(x, (unsigned)scd_problem_status(problem->kind), "application/problem+json",
                        &body);
}

void scd_reply_problem(scd_exchange *x, scd_problem_kind kind, const char *fmt, ...)
{
    char detail[640];
    va_list args;
    va_start(args, fmt);
    vsnprintf(detail, sizeof detail, fmt, args);
    va_end(args);
    scd_problem problem;
    scd_problem_set(&problem, kind, "%s", detail);
    scd_reply_with(x, &problem);
}

void scd_no_room(const scd_exchange *x, scd_problem *problem)
{
    int seconds = 1 + (int)(scd_exchange_id(x) % 4);
    scd_problem_set(problem, SCD_PROBLEM_OVERLOADED,
                    "too much is being held for other requests: try again in %d s", seconds);
    problem->retry_after_s = seconds;
}
