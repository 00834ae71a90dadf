/* metrics.h - what the daemon counts, and the Prometheus text of /metrics.
 *
 * The series stand in metrics.def. Counting is one relaxed atomic addition: no lock, no allocation,
 * no label made on the way; the text is put together when somebody asks for it. A scrape may see
 * one series a moment later than another, but no histogram contradicts itself.
 *
 * Threads: new, free and scd_metrics_model one at a time; everything else from any thread.
 * Owns:    its series and copies of the names given. */
#ifndef SCD_METRICS_H
#define SCD_METRICS_H

#include "engine/base/buf.h"
#include "engine/base/error.h"
#include "server/store.h"

#include <stdint.h>

#define SCD_METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

typedef enum scd_counter {
#define COUNTER(id, name, help) SCD_COUNTER_##id,
#define GAUGE(id, name, help)
#define HISTOGRAM(id, name, scale, help)
#define REJECTED(id, reason)
#include "server/metrics.def"
    SCD_N_COUNTERS
} scd_counter;

typedef enum scd_gauge_id {
#define COUNTER(id, name, help)
#define GAUGE(id, name, help) SCD_GAUGE_##id,
#define HISTOGRAM(id, name, scale, help)
#define REJECTED(id, reason)
#include "server/metrics.def"
    SCD_N_GAUGES
} scd_gauge_id;

typedef enum scd_hist {
#define COUNTER(id, name, help)
#define GAUGE(id, name, help)
#define HISTOGRAM(id, name, scale, help) SCD_HIST_##id,
#define REJECTED(id, reason)
#include "server/metrics.def"
    SCD_N_HISTS
} scd_hist;

typedef enum scd_rejected {
#define COUNTER(id, name, help)
#define GAUGE(id, name, help)
#define HISTOGRAM(id, name, scale, help)
#define REJECTED(id, reason) SCD_REJECTED_##id,
#include "server/metrics.def"
    SCD_N_REJECTED
} scd_rejected;

typedef struct scd_metrics scd_metrics;

/* routes: the values of the label "route"; scd_metrics_request takes an index into them. */
scd_code scd_metrics_new(const char *const *routes, size_t n_routes, scd_metrics **out,
                         scd_error *err);
void scd_metrics_free(scd_metrics *m); /* NULL is fine */

/* One finished request: scdiva_requests_total{route,code} and scdiva_request_seconds{route}. A
 * status outside 100..599 counts as 500, a route past the end is not counted. */
void scd_metrics_request(scd_metrics *m, size_t route, unsigned status, double seconds);

void scd_metrics_add(scd_metrics *m, scd_counter counter, uint64_t n);
uint64_t scd_metrics_get(const scd_metrics *m, scd_counter counter);
void scd_metrics_set(scd_metrics *m, scd_gauge_id gauge, int64_t value);
void scd_metrics_observe(scd_metrics *m, scd_hist hist, double value); /* seconds, tokens, cells */
void scd_metrics_rejected(scd_metrics *m, scd_rejected reason);

/* A model that is served, for scdiva_model_info; at most SCD_METRICS_MODELS (SCD_E_TOO_LARGE) in
 * the life of *m. Forgotten ones are not written any more. */
#define SCD_METRICS_MODELS 128
scd_code scd_metrics_model(scd_metrics *m, const char *name, const char *digest, const char *device,
                           const char *precision, scd_error *err);
void scd_metrics_forget_models(scd_metrics *m);

/* Append the text of every series to *out; look at out->failed afterwards. */
void scd_metrics_write(const scd_metrics *m, scd_buf *out);

/* For what others count: the lines of one family ("counter" or "gauge"), then one sample, with one
 * label or none (label NULL). Append them after scd_metrics_write. */
void scd_metrics_write_family(scd_buf *out, const char *name, const char *type, const char *help);
void scd_metrics_write_sample(scd_buf *out, const char *name, const char *label,
                              const char *label_value, double value);
void scd_metrics_write_store(scd_buf *out, const scd_store_stats *stats);

#endif
