/* batcher_impl.h - what batcher.c, batcher_submit.c and lane.c share; nothing else includes it.
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

/* A batch: picked, computed, handed out. */
typedef struct scd_load {
    scd_unit **picked; /* (max_units of the lane) */
    scd_step *steps;   /* likewise */
    float *results;    /* (max_units, the widest result of one pass) */
    size_t n, tokens;  /* 0: it is free */
    scd_work work;
    bool behind; /* another, which the device was computing when this was begun */
    int64_t start_ns;
} scd_load;

/* A device's thread, and its batches: one that is computed, and one that may be put behind it. */
typedef struct scd_lane {
    scd_batcher *batcher;
    scd_thread thread;

    /* batch-N's own, which also main may use before the first submit */
    size_t device; /* the engine's; it becomes the CPU's where that takes over */
    bool over;     /* the device failed, and others go on */
    size_t max_rows, max_units;
    scd_load loads[SCD_SLOTS]; /* by slot */
    int64_t free_ns;           /* when the device had computed the last batch */

    /* under the gate */
    int64_t busy_ns; /* since when the device is at its batch; 0: it has none */
    bool is_left;    /* silent, and what it had was taken over; until that batch ends */
    bool ended;      /* the thread comes to its end */
} scd_lane;

struct scd_batcher {
    scd_batcher_options o;
    scd_gate gate;
    scd_flight flight;
    bool stopping, draining;
    scd_admission admission;
    size_t running_tokens; /* in batches */
    size_t max_rows;       /* of a batch at the start: what needs more is bulk */
    size_t n_lanes, n_lanes_left, n_idle;
    scd_lane *lanes;           /* (n_lanes) one for each device */
    scd_device_stats *devices; /* (n_lanes + 1) */
    bool moved;                /* of the last lane alone: it went to the CPU, or could not */
    int64_t interactive_ns;    /* when interactive work was last in a batch */
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

/* Nobody waits for the unit; or all who do are failed, and it goes. */
void scd_unit_drop(scd_batcher *b, scd_unit *u);
void scd_unit_fail(scd_batcher *b, scd_unit *u, scd_code code, const char *message,
                   scd_ticket **ended);
void scd_unit_move(scd_batcher *b, scd_unit *u, scd_ticket *to);
/* The unit's result goes to everyone who waits; the unit leaves the table and is freed. */
void scd_unit_deliver(scd_batcher *b, scd_unit *u, const float *value, bool from_cache,
                      scd_ticket **ended);
/* Ends the ticket with this code; what it alone waited for leaves. */
void scd_ticket_fail(scd_batcher *b, scd_ticket *t, scd_code code, const char *message,
                     scd_ticket **ended);
void scd_ticket_end_if_over(scd_batcher *b, scd_ticket *t, scd_ticket **ended);
void scd_tickets_finish(scd_ticket *ended);

/* ---- lane.c ---- */

/* For that device's batches; widest: floats of the widest result of one pass. Release also after an
 * error. */
scd_code scd_lane_init(scd_lane *lane, scd_batcher *b, size_t device, size_t widest,
                       scd_error *err);
void scd_lane_release(scd_lane *lane);
/* Under the lock: seconds that the device has been at its batch where that is too long, else 0. */
double scd_lane_silent_s(const scd_lane *lane, int64_t now);
void *scd_lane_run(void *lane); /* batch-N */

#endif
