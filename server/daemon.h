/* daemon.h - the running daemon: every part, built and stopped in one visible order.
 *
 * Threads of the daemon: main (signals), http-N, prep-0, watch, batch-N, store, jobs-db, job-N,
 * webhook.
 * Parts are constant once `ready` is set; before that only the routes that need none are served. */
#ifndef SCD_DAEMON_H
#define SCD_DAEMON_H

#include "api/request.h"
#include "config/config.h"
#include "engine/engine.h"
#include "api/auth.h"
#include "server/batcher.h"
#include "server/crew.h"
#include "server/http.h"
#include "server/jobs.h"
#include "server/memo.h"
#include "server/metrics.h"
#include "server/store.h"
#include "server/watch.h"

#include <stdatomic.h>

enum { SCD_DAEMON_MAX_DEVICES = SCD_CONFIG_MAX_NUMBERS + 1 }; /* and the CPU */

typedef struct scd_daemon {
    const scd_config *config;
    scd_request_limits limits;
    scd_auth *auth; /* NULL: no keys are used */
    scd_metrics *metrics;
    scd_watch *watch;
    scd_crew *crew;
    scd_http *http;
    scd_engine *engine;
    scd_store *store;
    scd_memo *memo;
    scd_batcher *batcher;
    scd_jobs *jobs;
    atomic_bool ready, draining;
    atomic_bool device_silent; /* as it was last logged */
    atomic_bool device_lost; /* no device is left: cached answers alone are served until the CPU has
                                taken over, where it may */
} scd_daemon;

/* Everything up to ready. Logs what it does; the error says why it could not. */
scd_code scd_daemon_start(scd_daemon *daemon, const scd_config *config, scd_error *err);

/* The keys file once more, on record in the audit; needs one. */
void scd_daemon_read_keys(scd_daemon *daemon);

/* Stop taking work, finish what is in flight within the configured time, flush, stop every part.
 * Also after a start that failed half way. False: a device that does not answer holds a thread, and
 * what it may use was not freed: the process is to exit without further ado. */
bool scd_daemon_stop(scd_daemon *daemon);

#endif
