/* handle_ops.c - what operators and machines ask: /livez, /readyz, /metrics, /openapi.json. */
#include "api/openapi.h"
#include "engine/base/log.h"
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

/* Whoever asks finds out: a device that hangs says nothing. */
static bool device_answers(scd_daemon *d)
{
    bool silent = !scd_batcher_answers(d->batcher);
    if (atomic_exchange(&d->device_silent, silent) == silent)
        return !silent;
    if (silent)
        SCD_LOG(ERROR, "device_silent", "message",
                "no device has finished its batch within --device-timeout-s, and this server is no "
                "longer ready: if it does not come back, start the server again");
    else
        SCD_LOG(INFO, "device_answers", "message", "a device has come back");
    return !silent;
}

const char *scd_daemon_unready(scd_daemon *d)
{
    return atomic_load(&d->draining)      ? "the server is shutting down"
           : !atomic_load(&d->ready)      ? "the model is being loaded"
           : atomic_load(&d->device_lost) ? "the device that computes has failed"
           : !device_answers(d)           ? "the device that computes does not answer"
                                          : NULL;
}

void scd_handle_readyz(scd_daemon *d, scd_exchange *x)
{
    const char *why_not = scd_daemon_unready(d);
    if (why_not)
        scd_reply_problem(x, SCD_PROBLEM_UNAVAILABLE, "%s", why_not);
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

/* One family of samples, one of each device. */
static void write_device_family(const scd_daemon *d, scd_buf *out, const char *name,
                                const char *type, const char *help, const double *values, size_t n)
{
    scd_metrics_write_family(out, name, type, help);
    for (size_t i = 0; i < n; i++)
        scd_metrics_write_sample(out, name, "device", scd_engine_device_name(d->engine, i),
                                 values[i]);
}

static void write_devices(scd_daemon *d, scd_buf *out)
{
    scd_device_stats stats[SCD_DAEMON_MAX_DEVICES];
    double up[SCD_DAEMON_MAX_DEVICES], batches[SCD_DAEMON_MAX_DEVICES];
    double behind[SCD_DAEMON_MAX_DEVICES];
    double tokens[SCD_DAEMON_MAX_DEVICES], busy[SCD_DAEMON_MAX_DEVICES];
    size_t n = scd_batcher_devices(d->batcher, stats, SCD_DAEMON_MAX_DEVICES);
    for (size_t i = 0; i < n; i++) {
        up[i] = !stats[i].lost && stats[i].silent_s <= 0;
        batches[i] = (double)stats[i].batches;
        behind[i] = (double)stats[i].behind;
        tokens[i] = (double)stats[i].tokens;
        busy[i] = stats[i].busy_s;
    }
    write_device_family(d, out, "scdiva_device_up", "gauge",
                        "1: the device computes; 0: it has failed, or does not answer.", up, n);
    write_device_family(d, out, "scdiva_device_batches_total", "counter",
                        "Batches that the device computed.", batches, n);
    write_device_family(d, out, "scdiva_device_batches_behind_total", "counter",
                        "Batches that were put behind another while it was computed.", behind, n);
    write_device_family(d, out, "scdiva_device_tokens_total", "counter",
                        "Gene tokens that the device computed, in every pass.", tokens, n);
    write_device_family(d, out, "scdiva_device_busy_seconds_total", "counter",
                        "Time that the device spent on batches.", busy, n);
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
        write_devices(d, &body);
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
