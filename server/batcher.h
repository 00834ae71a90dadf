/* batcher.h - from cells that somebody waits for to batches on the device.
 *
 * A request's cells that the cache did not have are submitted together, all or nothing (a ticket).
 * Identical cells in flight are one unit of work with several waiters. The thread `batch-0` alone
 * owns the engine: it fills a batch from all tickets in turn (flight.h says who goes first; what
 * patient work fills is short where interactive cells come), takes each cell of it one pass
 * further, and stores and hands out what is finished; a ticket's `done` is called when its last
 * cell is there. A cell on a course of many passes goes back to the front of its ticket's queue,
 * unless nobody waits for it any more: whoever is finished, canceled or late leaves between two
 * passes, and its place is filled at once.
 *
 * Threads: submit and cancel from any thread; `done` is called exactly once for an accepted ticket,
 *          from batch-0 or from the canceling thread, with no lock held.
 * Owns:    copies of the cells it must compute. Results are written to the caller's memory, which
 *          must live until `done` was called. */
#ifndef SCD_BATCHER_H
#define SCD_BATCHER_H

#include "engine/engine.h"
#include "server/metrics.h"
#include "server/store.h"

typedef struct scd_batcher scd_batcher;

typedef enum scd_source { SCD_SOURCE_MISS, SCD_SOURCE_HIT, SCD_SOURCE_COALESCED } scd_source;

/* One cell asked for. */
typedef struct scd_order {
    const scd_cell *cell; /* borrowed until submit returns */
    scd_course *course;   /* its way through many passes, of which submit takes charge whatever it
                             answers, and leaves NULL; or NULL: one pass */
    scd_digest key;
    float *out; /* (scd_engine_width of the work, or scd_course_width) written before `done` */
    scd_source source; /* written before `done` */
} scd_order;

typedef struct scd_outcome scd_outcome;
typedef void scd_ticket_done(void *arg, const scd_outcome *outcome);

/* What is asked for together. */
typedef struct scd_ask {
    scd_work work;
    scd_order *orders; /* (n) must live until `done` was called */
    size_t n;
    uint64_t serial; /* the caller's name for the ticket, unique in the process */
    bool bulk;       /* behind interactive work even where it is little */
    scd_ticket_done *done;
    void *arg;
} scd_ask;

/* How a ticket ended. */
struct scd_outcome {
    scd_code code;     /* OK; refused: BUSY, TOO_LARGE; given up: TIMEOUT, CANCELED; or a fault */
    int retry_after_s; /* BUSY: when to come back (admission.h) */
    double queue_s, infer_s; /* until the first batch began; from then to the end */
    char message[256];
};

typedef struct scd_batcher_options {
    scd_engine *engine;
    scd_store *store;
    scd_metrics *metrics;
    size_t max_queue_tokens;
    void (*log)(void *arg, const scd_error *err); /* a batch failed; may be NULL */
    void *log_arg;
} scd_batcher_options;

scd_code scd_batcher_open(const scd_batcher_options *options, scd_batcher **out, scd_error *err);
/* End the thread, cancel what is left and refuse what comes. */
void scd_batcher_stop(scd_batcher *batcher);
/* Stops, then frees: nobody may call here any more. NULL is fine. */
void scd_batcher_close(scd_batcher *batcher);

/* Measure the rate with one small batch per model and head and touch every page; before the first
 * submit. */
scd_code scd_batcher_warm_up(scd_batcher *batcher, scd_error *err);

/* Ask for work on cells; what takes more than one batch is bulk by itself. SCD_OK: `done` comes,
 * with whatever outcome - a refusal too, and possibly before this returns. SCD_E_NOMEM: nothing
 * happened.
 */
scd_code scd_batcher_submit(scd_batcher *batcher, const scd_ask *ask, scd_error *err);

/* Give up a ticket: its cells leave the queue unless somebody else waits for them, and `done` is
 * called with `code` (TIMEOUT or CANCELED) before this returns. Nothing when it is over already. */
void scd_batcher_cancel(scd_batcher *batcher, uint64_t serial, scd_code code);

/* Refuse new tickets, then wait until none is left; false at the deadline. */
bool scd_batcher_drain(scd_batcher *batcher, int64_t deadline_ns);

/* Tokens admitted and not yet answered; tokens per second as measured, each pass counted. */
size_t scd_batcher_queued(scd_batcher *batcher);
double scd_batcher_rate(scd_batcher *batcher);

#endif
