/* batcher.h - from cells that somebody waits for to batches on the device.
 *
 * A request's cells that the cache did not have are submitted together, all or nothing (a ticket).
 * Identical cells in flight are one unit of work with several waiters. The thread `batch-0` alone
 * owns the engine: it fills a batch from all tickets in turn, interactive before bulk (bulk keeps a
 * quarter), computes it, stores every result and calls each ticket's `done` when its last cell is
 * there.
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
    scd_digest key;
    float *out;        /* (scd_engine_width of the work) written before `done` */
    scd_source source; /* written before `done` */
} scd_order;

/* How a ticket ended. */
typedef struct scd_outcome {
    scd_code code;     /* OK; refused: BUSY, TOO_LARGE; given up: TIMEOUT, CANCELED; or a fault */
    int retry_after_s; /* BUSY: when to come back (admission.h) */
    double queue_s, infer_s; /* until the first batch began; from then to the end */
    char message[256];
} scd_outcome;

typedef void scd_ticket_done(void *arg, const scd_outcome *outcome);

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

/* Ask for this work on n cells. `serial` is the caller's name for the ticket, unique in the
 * process, by which it can be canceled. SCD_OK: `done` comes, with whatever outcome - a refusal
 * too, and possibly before this returns. SCD_E_NOMEM: nothing happened. */
scd_code scd_batcher_submit(scd_batcher *batcher, scd_work work, scd_order *orders, size_t n,
                            uint64_t serial, scd_ticket_done *done, void *arg, scd_error *err);

/* Give up a ticket: its cells leave the queue unless somebody else waits for them, and `done` is
 * called with `code` (TIMEOUT or CANCELED) before this returns. Nothing when it is over already. */
void scd_batcher_cancel(scd_batcher *batcher, uint64_t serial, scd_code code);

/* Refuse new tickets, then wait until none is left; false at the deadline. */
bool scd_batcher_drain(scd_batcher *batcher, int64_t deadline_ns);

/* Tokens admitted and not yet computed, and tokens per second as measured. */
size_t scd_batcher_queued(scd_batcher *batcher);
double scd_batcher_rate(scd_batcher *batcher);

#endif
