/* flight.h - what is in flight: tickets (requests), units (cells to compute), who waits for which,
 * and in which order the units are computed.
 *
 * A unit is one pass of one cell at a time. It lives in the table from the moment somebody asks
 * for its key until its result was handed out, or until it is left behind on a silent device. It
 * is queued under one ticket, its owner; when the owner goes and others wait, it moves to one of
 * those.
 *
 * Threads: none of its own; the batcher's lock protects all of it. Owns: units and tickets. */
#ifndef SCD_FLIGHT_H
#define SCD_FLIGHT_H

#include "server/batcher.h"

typedef enum scd_unit_state {
    SCD_UNIT_LOOKUP, /* its creator is asking the cache, and alone may free it */
    SCD_UNIT_QUEUED,
    SCD_UNIT_RUNNING
} scd_unit_state;

typedef struct scd_ticket scd_ticket;
typedef struct scd_unit scd_unit;

/* One order that waits for one unit. */
typedef struct scd_waiter {
    struct scd_waiter *next; /* of the unit */
    scd_ticket *ticket;
    scd_unit *unit; /* NULL once answered */
    scd_order *order;
} scd_waiter;

struct scd_unit {
    scd_unit *hash_next;
    scd_unit *next, *prev; /* in its owner's queue */
    scd_digest key;
    scd_unit_state state;
    scd_ticket *owner; /* NULL unless queued */
    scd_waiter *waiters;
    scd_work work;
    const char *identity; /* of its key's device; NULL: of whichever computes it */
    unsigned n_losses;    /* devices that failed or fell silent with it */
    bool left_behind;     /* on a silent device: out of the table, and nobody's */
    scd_course *course;   /* NULL: one pass */
    size_t rows;          /* of its next pass */
    size_t work_tokens;   /* counted for it in the admission */
    scd_cell cell;        /* arrays behind the struct, in the same allocation */
};

/* Who goes first. All but the first are patient. */
typedef enum scd_class {
    SCD_INTERACTIVE, /* few cells, one pass */
    SCD_STEPS,       /* few cells on courses of several passes */
    SCD_BULK,
    SCD_N_CLASSES
} scd_class;

struct scd_ticket {
    scd_ticket *hash_next;
    scd_ticket *ready_next, *ready_prev; /* in its class's ring while it has queued units */
    bool ready;
    uint64_t serial;
    scd_work work;
    scd_class rank;
    scd_unit *first, *last;   /* queued units in order */
    scd_waiter *waiters;      /* (n_waiters) one per order */
    size_t n_waiters, n_left; /* orders without an answer */
    bool submitting;          /* submit still holds it: it cannot end yet */
    scd_ticket_done *done;
    void *arg;
    int64_t submitted_ns, started_ns; /* started: 0 until its first unit runs */
    scd_outcome outcome;
};

enum { SCD_FLIGHT_BUCKETS = 1 << 14 };

typedef struct scd_flight {
    scd_unit **units;     /* (SCD_FLIGHT_BUCKETS) by key */
    scd_ticket **tickets; /* (SCD_FLIGHT_BUCKETS) by serial */
    size_t n_tickets;
    scd_ticket *ring[SCD_N_CLASSES]; /* whose turn it is */
    size_t patient_credit;           /* rows that patient work may take before interactive work */
    size_t bulk_credit;              /* ... and bulk before steps */
} scd_flight;

scd_code scd_flight_init(scd_flight *flight, scd_error *err);
void scd_flight_release(scd_flight *flight); /* must be empty */

/* A unit with a copy of the cell, not yet in the table; NULL: out of memory. Free takes its course
 * along. */
scd_unit *scd_unit_new(const scd_digest *key, const scd_cell *cell, scd_work work);
void scd_unit_free(scd_unit *unit); /* NULL is fine */
scd_unit *scd_flight_find(const scd_flight *flight, const scd_digest *key);
void scd_flight_insert(scd_flight *flight, scd_unit *unit);
void scd_flight_remove(scd_flight *flight, scd_unit *unit); /* also from its owner's queue */

void scd_flight_add_ticket(scd_flight *flight, scd_ticket *ticket);
void scd_flight_remove_ticket(scd_flight *flight, scd_ticket *ticket);
scd_ticket *scd_flight_find_ticket(const scd_flight *flight, uint64_t serial);

void scd_unit_wait(scd_unit *unit, scd_waiter *waiter);
void scd_unit_leave(scd_waiter *waiter);
/* Whose queue a unit belongs in: of the waiters whose class goes first, the one that has waited
 * longest. NULL: nobody waits. */
scd_ticket *scd_unit_heir(const scd_unit *unit);

/* Put a unit at the end of the ticket's queue, or back to its front for the next pass / take it
 * out.
 */
void scd_flight_queue(scd_flight *flight, scd_ticket *ticket, scd_unit *unit);
void scd_flight_queue_again(scd_flight *flight, scd_ticket *ticket, scd_unit *unit);
void scd_flight_unqueue(scd_flight *flight, scd_unit *unit);

/* What a batch may hold. */
typedef struct scd_pick_room {
    size_t max_units, max_rows;
    size_t patient_rows; /* to which patient work may fill it, for an interactive cell that comes
                            next waits as long as this batch takes; at most max_rows */
} scd_pick_room;

/* Choose the next batch, of one kind of work: interactive work, then patient work in the order of
 * its classes. Of what interactive and patient work compute together a quarter is left to the
 * latter, and of that a quarter to bulk. A single cell always fits. Chosen units leave their queues
 * and are RUNNING. Returns how many; took: rows of each class. */
size_t scd_flight_pick(scd_flight *flight, const scd_pick_room *room, scd_unit **out,
                       size_t took[SCD_N_CLASSES]);

#endif
