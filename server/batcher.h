/* batcher.h - from cells that somebody waits for to batches on the device.
 *
 * A request's cells that the cache did not have are submitted together, all or nothing (a ticket).
 * Identical cells in flight are one unit of work with several waiters. Each device of the engine
 * has a thread, `batch-N`, that alone owns it: whichever is free fills a batch from all tickets in
 * turn (flight.h says who goes first; what patient work fills is short where interactive cells
 * come), takes each cell of it one pass further, and stores and hands out what is finished; a
 * ticket's `done` is called when its last cell is there. A cell on a course of many passes goes
 * back to the front of its ticket's queue, unless nobody waits for it any more: whoever is
 * finished, canceled or late leaves between two passes, and its place is filled at once.
 *
 * What a device that fails had on it is computed again by the others, and so is what a silent one
 * has, but for courses, which are its own on their way. With the last device, its
 * batch fails and so does what comes; or, where that was asked for, the CPU goes on: with what is
 * one pass, and with courses that have not begun. Results whose keys name another device's identity
 * than that which computed them are handed out (scd_outcome.moved) and not stored.
 *
 * Threads: submit and cancel from any thread; `done` is called exactly once for an accepted ticket,
 *          from batch-N or from the canceling thread, with no lock held.
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
    const scd_work *work; /* where it is not the ask's; NULL: it is. Orders of equal work stand
                             together, for a batch has one work */
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
    uint64_t serial;      /* the caller's name for the ticket, unique in the process */
    bool bulk;            /* behind interactive work even where it is little */
    const char *identity; /* of the device that the orders' keys name (scd_device_info), valid as
                             long as the engine; NULL: of whichever computes */
    scd_ticket_done *done;
    void *arg;
} scd_ask;

/* How a ticket ended. */
struct scd_outcome {
    scd_code code;     /* OK; refused: BUSY, TOO_LARGE; given up: TIMEOUT, CANCELED; or a fault */
    int retry_after_s; /* BUSY: when to come back (admission.h) */
    double queue_s, infer_s; /* until the first batch began; from then to the end */
    bool moved; /* some of it was computed by a device of another identity than the keys name */
    char message[256];
};

/* What happens to the engine's devices, in the words of `on_device`. */
typedef enum scd_device_event {
    SCD_DEVICE_FAILED, /* it is not asked for more; n_left others go on. 0: it was the last, and
                          what comes fails, but for the next two */
    SCD_DEVICE_SILENT, /* it does not answer: others have taken over what they can */
    SCD_DEVICE_MOVES,  /* the models are being loaded on the CPU */
    SCD_DEVICE_MOVED,  /* the CPU, this device, goes on */
    SCD_DEVICE_STAYS   /* the CPU cannot: err says why */
} scd_device_event;

typedef struct scd_device_stats {
    bool lost;
    double silent_s; /* more than 0: it has been at its batch for so long, which is too long */
    uint64_t batches, tokens;
    uint64_t behind; /* of the batches, begun while another was computed */
    double busy_s;   /* in batches */
} scd_device_stats;

typedef struct scd_batcher_options {
    scd_engine *engine;
    scd_store *store;
    scd_metrics *metrics;
    size_t max_queue_tokens;
    bool move_to_cpu;        /* when the last GPU has failed */
    double device_timeout_s; /* a device that is at a batch for longer is silent, but
                                for the CPU that was moved to; 0: never */
    void (*log)(void *arg, const scd_error *err); /* a batch failed; may be NULL */
    /* From batch-N, with no lock held; err: why, or NULL. May be NULL. */
    void (*on_device)(void *arg, scd_device_event event, size_t device, size_t n_left,
                      const scd_error *err);
    void *arg; /* of both */
} scd_batcher_options;

scd_code scd_batcher_open(const scd_batcher_options *options, scd_batcher **out, scd_error *err);
/* End the threads, cancel what is left and refuse what comes. False: a silent device has one of
 * them, which does not end. Then nothing may be freed that it may use: the process can only exit.
 */
bool scd_batcher_stop(scd_batcher *batcher);
/* Stops, then frees: nobody may call here any more. NULL is fine. */
void scd_batcher_close(scd_batcher *batcher);

/* Measure the rate with one small batch per device, model and head and touch every page; before the
 * first submit. */
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
/* There is a device that has neither failed nor fallen silent. */
bool scd_batcher_answers(scd_batcher *batcher);
/* Of the engine's devices, `most` at most, in its order. How many. */
size_t scd_batcher_devices(scd_batcher *batcher, scd_device_stats *out, size_t most);

#endif
