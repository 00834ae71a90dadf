/* handle_ops.c - what operators and machines ask: /livez, /readyz, /metrics, /openapi.json. */
#include "api/openapi.h"
#include "server/reply.h"
#include "server/router.h"

enum { MAX_SMALL_BYTES = 4096, MAX_METRICS_BYTES = 4 << 20 };

static void reply_text(scd_exchange *x, unsigned status, const char *text)
{
    scd_buf body;
    scd_buf_init(&body, MAX_SMALL_BYTES);
    scd_buf_puts(&body, text);
    scd_exchange_answer(x, status, "text/plain; charset=utf-8", &body);
}

void scd_handle_livez(scd_daemon *d, scd_exchange *x)
{
    (void)d;
    reply_text(x, 200, "ok\n");
}

void scd_handle_readyz(scd_daemon *d, scd_exchange *x)
{
    if (atomic_load(&d->draining))
        scd_reply_problem(x, SCD_PROBLEM_UNAVAILABLE, "the server is shutting down");
    else if (!atomic_load(&d->ready))
        scd_reply_problem(x, SCD_PROBLEM_UNAVAILABLE, "the model is being loaded");
    else if (atomic_load(&d->device_lost))
        scd_reply_problem(x, SCD_PROBLEM_UNAVAILABLE, "the device that computes has failed");
    else
        reply_text(x, 200, "ready\n");
}

static void write_jobs(scd_daemon *d, scd_buf *out)
{
    static const char name[] = "scdiva_jobs";
    size_t counts[SCD_N_JOB_STATES];
    scd_jobs_count(d->jobs, counts);
    scd_metrics_write_family(out, name, "gauge", "Jobs that are kept, by state.");
    for (int i = 0; i < SCD_N_JOB_STATES; i++)
        scd_metrics_write_sample(out, name, "state", scd_job_state_name((scd_job_state)i),
                                 (double)counts[i]);
}

void scd_handle_metrics(scd_daemon *d, scd_exchange *x)
{
    scd_buf body;
    scd_buf_init(&body, MAX_METRICS_BYTES);
    scd_metrics_write(d->metrics, &body);
    if (atomic_load(&d->ready)) {
        scd_store_stats stats;
        scd_store_get_stats(d->store, &stats);
        scd_metrics_write_store(&body, &stats);
        scd_metrics_write_family(&body, "scdiva_engine_tokens_per_second", "gauge",
                                 "Tokens per second as measured over recent batches.");
        scd_metrics_write_sample(&body, "scdiva_engine_tokens_per_second", NULL, NULL,
                                 scd_batcher_rate(d->batcher));
        write_jobs(d, &body);
    }
    scd_exchange_answer(x, 200, SCD_METRICS_TYPE, &body);
}

void scd_handle_openapi(scd_daemon *d, scd_exchange *x)
{
    (void)d;
    scd_buf body;
    size_t n = (size_t)(scd_openapi_json_end - scd_openapi_json);
    scd_buf_init(&body, n);
    scd_buf_append(&body, scd_openapi_json, n);
    scd_reply_json(x, &body);
}
