/* reply.h - the usual answers: JSON documents and problems.
 *
 * Threads: as scd_exchange_answer. */
#ifndef SCD_REPLY_H
#define SCD_REPLY_H

#include "api/problem.h"
#include "server/http.h"

/* 200 with the document in *json, which is taken. */
void scd_reply_json(scd_exchange *x, scd_buf *json);

/* A problem document of this kind; the second form has errors and a Retry-After. */
void scd_reply_problem(scd_exchange *x, scd_problem_kind kind, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void scd_reply_with(scd_exchange *x, const scd_problem *problem);

/* Make *problem OVERLOADED because too much memory is held for others. When there will be room
 * nobody knows: Retry-After is 1 to 4 s by the exchange, so that not all come back at once. */
void scd_no_room(const scd_exchange *x, scd_problem *problem);

#endif
