/* batcher_impl.h - what batcher.c and batcher_submit.c share; nothing else includes it.
 *
 * Functions that take `ended` are called under the lock and chain tickets that are over to it by
 * hash_next; scd_tickets_finish calls their `done` outside of it.
 *
 * Threads: as batcher.h. */
#ifndef SCD_BATCHER_IMPL_H
#define SCD_BATCHER_IMPL_H

#include "engine/base/thread.h"
#include "server/admission.h"
#include "server/batcher.h"
#include "server/flight.h"

struct scd_batcher {
    scd_batcher_options o;
    scd_gate gate;
    scd_thread thread;
    scd_flight flight;
    bool stopping, draining;
    scd_admission admission;
    size_t max_rows, max_units; /* of a batch; constant */
    int64_t interactive_ns;     /* when interactive work was last in one */

    /* of batch-0 alone */
    scd_unit **picked; /* (max_units) */
    scd_step *steps;   /* (max_units) */
    float *results;    /* (max_units, the widest result of one pass) */
};

static inline size_t scd_batcher_width(const scd_batcher *b, scd_work work)
{
    return scd_engine_width(b->o.engine, work);
}

/* Floats of the unit's result. */
static inline size_t scd_unit_width(const scd_batcher *b, const scd_unit *u)
{
    return u->course ? scd_course_width(u->course) : scd_batcher_width(b, u->work);
}

/* The unit's tokens are admitted, and its passes; a pass was made: so much less work is left; the
 * unit is finished or given up. */
void scd_batcher_count_in(scd_batcher *b, scd_unit *u);
void scd_batcher_count_pass(scd_batcher *b, scd_unit *u);
void scd_batcher_count_out(scd_batcher *b, scd_unit *u);

void scd_unit_move(scd_batcher *b, scd_unit *u, scd_ticket *to);
/* The unit's result goes to everyone who waits; the unit leaves the table and is freed. */
void scd_unit_deliver(scd_batcher *b, scd_unit *u, const float *value, bool from_cache,
                      scd_ticket **ended);
/* Ends the ticket with this code; what it alone waited for leaves. */
void scd_ticket_fail(scd_batcher *b, scd_ticket *t, scd_code code, const char *message,
                     scd_ticket **ended);
void scd_ticket_end_if_over(scd_batcher *b, scd_ticket *t, scd_ticket **ended);
void scd_tickets_finish(scd_ticket *ended);

#endif
