/* daemon.c - see daemon.h. */
#include "server/daemon.h"

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "server/router.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MIB = 1 << 20,
    HELD_TOGETHER = 4, /* times the largest body: what all open requests may hold */
    MAX_MEMO_BYTES = 32 * MIB,
    MAX_GENES_PER_CELL = 200000,
    MAX_JSON_DEPTH = 32,
    MAX_NAME_BYTES = 256,
    MAX_HTTP_THREADS = 4,
    LAST_ANSWERS_S = 5, /* after the drain: for answers on their way to slow clients */
    ON_LOSS_CPU = 1,    /* of "fail|cpu" */
};

static void log_store(void *arg, int level, const char *message)
{
    (void)arg;
    scd_log((scd_log_level)level, "store", "message", message, NULL);
}

static void log_http(void *arg, const char *message)
{
    (void)arg;
    SCD_LOG(DEBUG, "http", "message", message);
}

static void log_device(const scd_daemon *d, size_t device, const char *why)
{
    const scd_device_info *info = scd_engine_device_at(d->engine, device);
    SCD_LOG(INFO, "device", "kind", scd_engine_device_kind(d->engine), "device",
            scd_engine_device_name(d->engine, device), "name", info->name, "isa", info->isa,
            "precision", scd_precision_name(info->precision), "why", why);
}

static void log_batch(void *arg, const scd_error *err)
{
    (void)arg;
    SCD_LOG(ERROR, "batch_failed", "code", scd_code_name(err->code), "message", err->message);
}

/* For scdiva_model_info: what computes now. */
static scd_code count_models(scd_daemon *d, scd_error *err)
{
    const char *precision = scd_precision_name(scd_engine_device(d->engine)->precision);
    scd_code code = SCD_OK;
    scd_metrics_forget_models(d->metrics);
    for (size_t i = 0; i < scd_engine_n_models(d->engine) && !code; i++) {
        const scd_served_model *m = scd_engine_model(d->engine, i);
        code = scd_metrics_model(d->metrics, m->name, m->digest_hex,
                                 scd_engine_device_kind(d->engine), precision, err);
    }
    return code;
}

/* A driver may hang; a CPU is only slow, and a slow one may need minutes for a batch. */
static double device_timeout_s(const scd_daemon *d)
{
    bool is_cpu = !strcmp(scd_engine_device_kind(d->engine), "cpu");
    return is_cpu ? 0 : (double)d->config->device_timeout_s;
}

static bool moves_to_cpu(const scd_daemon *d)
{
    return d->config->on_device_loss == ON_LOSS_CPU;
}

/* A device that failed once - a GPU's errors stay - is not asked for more. Where it was the last,
 * whoever looks at readyz sends its requests elsewhere, and a supervisor may start us again. */
static void device_failed(scd_daemon *d, const char *name, size_t n_left)
{
    char left[24];
    snprintf(left, sizeof left, "%zu", n_left);
    if (n_left)
        SCD_LOG(ERROR, "device_lost", "device", name, "left", left, "message",
                "a device has failed: the others go on, with its work");
    else if (!atomic_exchange(&d->device_lost, true))
        SCD_LOG(ERROR, "device_lost", "device", name, "left", left, "message",
                moves_to_cpu(d)
                    ? "the last device has failed"
                    : "the last device has failed and this server is no longer ready: start it "
                      "again, on the CPU (--device cpu, or --on-device-loss cpu) if the device "
                      "does not come back");
}

static void on_device(void *arg, scd_device_event event, size_t device, size_t n_left,
                      const scd_error *err)
{
    scd_daemon *d = arg;
    const char *name = scd_engine_device_name(d->engine, device);
    switch (event) {
    case SCD_DEVICE_FAILED:
        device_failed(d, name, n_left);
        break;
    case SCD_DEVICE_SILENT:
        SCD_LOG(ERROR, "device_silent", "device", name, "message",
                "a device has not finished its batch within --device-timeout-s: the others go on, "
                "with its work");
        break;
    case SCD_DEVICE_MOVES:
        SCD_LOG(WARN, "device_moves", "message", "the models are being loaded on the CPU");
        break;
    case SCD_DEVICE_STAYS:
        SCD_LOG(ERROR, "device_stays", "code", scd_code_name(err->code), "message", err->message,
                "consequence", "this server is no longer ready");
        break;
    case SCD_DEVICE_MOVED:
        if (count_models(d, NULL))
            SCD_LOG(WARN, "metrics", "message",
                    "scdiva_model_info could not be brought up to date");
        atomic_store(&d->device_lost, false);
        log_device(d, device, "the GPUs have failed, and --on-device-loss is cpu");
        break;
    }
}

/* A client has left, or its deadline has passed. */
static void on_watch_event(void *arg, uint64_t id, scd_code code)
{
    scd_daemon *d = arg;
    if (!atomic_load(&d->ready))
        return;
    scd_batcher_cancel(d->batcher, id, code);
    scd_jobs_expire_exchange(d->jobs, id);
}

static void log_jobs(void *arg, int level, const char *event, const char *job, const char *message)
{
    (void)arg;
    scd_log((scd_log_level)level, event, "message", message, job ? "job" : NULL, job, NULL);
}

static int http_threads(const scd_config *c)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (c->http_threads)
        return (int)c->http_threads;
    return cores < 2 ? 2 : cores > MAX_HTTP_THREADS ? MAX_HTTP_THREADS : (int)cores;
}

/* Who may come in: before anything listens. */
static scd_code guard_door(scd_daemon *d, scd_address *address, scd_error *err)
{
    const scd_config *c = d->config;
    scd_code code = scd_address_resolve(c->listen, address, err);
    if (!code && *c->keys)
        code = scd_auth_open(c->keys, &d->auth, err);
    if (!code && !address->loopback && !d->auth && !c->insecure)
        code = scd_fail(err, SCD_E_INVALID,
                        "--listen %s can be reached from other machines and no --keys are given: "
                        "add --keys FILE, or --insecure if everyone may use this server",
                        c->listen);
    if (!code && d->auth && scd_auth_warning(d->auth))
        SCD_LOG(WARN, "keys", "message", scd_auth_warning(d->auth));
    return code;
}

static scd_code open_http(scd_daemon *d, const scd_address *address, scd_error *err)
{
    const scd_config *c = d->config;
    size_t max_body = (size_t)c->max_body_mb * MIB;
    scd_http_options o = {.address = address,
                          .threads = http_threads(c),
                          .max_connections = (size_t)c->max_connections,
                          .max_body_bytes = max_body,
                          .max_held_bytes = HELD_TOGETHER * max_body,
                          .watch = d->watch,
                          .crew = d->crew,
                          .app = d,
                          .begin = scd_router_begin,
                          .handle = scd_router_handle,
                          .finished = scd_router_finished,
                          .log = log_http};
    scd_code code = scd_http_open(&o, &d->http, err);
    if (code)
        return code;
    SCD_LOG(INFO, "listening", "url", scd_http_url(d->http), "version", SCD_VERSION);
    if (c->log_level > SCD_LOG_INFO) { /* port 0 prints what it picked, however quiet the log is */
        printf("listening on %s\n", scd_http_url(d->http));
        fflush(stdout);
    }
    return SCD_OK;
}

/* Numbers of GPUs: those that were named, or of all there are; 0: none is. */
static scd_code choose_gpus(const scd_config *c, int *all, size_t most, const int **out, size_t *n,
                            scd_error *err)
{
    int found = 0;
    *out = c->device.numbers;
    *n = c->device.n;
    scd_code code = c->device.all ? scd_backend_count_gpus(&found, err) : SCD_OK;
    if (code || !c->device.all)
        return code;
    if ((size_t)found > most)
        return scd_fail(err, SCD_E_INVALID, "--device cuda:all: %d GPUs, at most %zu", found, most);
    for (int i = 0; i < found; i++)
        all[i] = i;
    *out = all;
    *n = (size_t)found;
    return SCD_OK;
}

static scd_code open_engine(scd_daemon *d, scd_error *err)
{
    const scd_config *c = d->config;
    int all[SCD_CONFIG_MAX_NUMBERS];
    scd_engine_options o = {.device = (scd_device_choice)c->device.choice,
                            .precision = (scd_precision)c->precision,
                            .threads = (int)c->threads,
                            .max_batch_tokens = (size_t)c->max_batch_tokens,
                            .model_dirs = (const char *const *)c->models.items,
                            .n_models = c->models.n};
    scd_code code = choose_gpus(c, all, SCD_CONFIG_MAX_NUMBERS, &o.gpus, &o.n_gpus, err);
    if (!code)
        code = scd_engine_open(&o, &d->engine, err);
    if (code)
        return code;
    for (size_t i = 0; i < scd_engine_n_devices(d->engine); i++)
        log_device(d, i, scd_engine_why(d->engine));
    for (size_t i = 0; i < scd_engine_n_models(d->engine); i++) {
        const scd_served_model *m = scd_engine_model(d->engine, i);
        SCD_LOG(INFO, "model", "name", m->name, "digest", m->digest_hex, "parameters",
                scd_log_num((double)m->n_params));
        if (!m->config->trained)
            SCD_LOG(WARN, "untrained", "name", m->name, "message",
                    "this model has random weights: its answers mean nothing");
    }
    return count_models(d, err);
}

static scd_code open_caches(scd_daemon *d, scd_error *err)
{
    const scd_config *c = d->config;
    size_t cache_bytes = (size_t)c->cache_mb * MIB;
    scd_store_options o = {.dir = c->data, .max_bytes = cache_bytes, .log = log_store};
    scd_code code = scd_store_open(&o, &d->store, err);
    size_t memo_bytes = cache_bytes / 16 < MAX_MEMO_BYTES ? cache_bytes / 16 : MAX_MEMO_BYTES;
    return code ? code : scd_memo_open(memo_bytes, &d->memo, err);
}

static scd_code open_batcher(scd_daemon *d, scd_error *err)
{
    scd_batcher_options o = {.engine = d->engine,
                             .store = d->store,
                             .metrics = d->metrics,
                             .max_queue_tokens = (size_t)d->config->max_queue_tokens,
                             .move_to_cpu = moves_to_cpu(d),
                             .device_timeout_s = device_timeout_s(d),
                             .log = log_batch,
                             .on_device = on_device,
                             .arg = d};
    scd_code code = scd_batcher_open(&o, &d->batcher, err);
    return code ? code : scd_batcher_warm_up(d->batcher, err);
}

static scd_code open_jobs(scd_daemon *d, scd_error *err)
{
    scd_jobs_options o = {.config = d->config,
                          .engine = d->engine,
                          .batcher = d->batcher,
                          .store = d->store,
                          .auth = d->auth,
                          .log = log_jobs};
    return scd_jobs_open(&o, &d->jobs, err);
}

scd_code scd_daemon_start(scd_daemon *d, const scd_config *config, scd_error *err)
{
    *d = (scd_daemon){.config = config};
    d->limits = (scd_request_limits){.max_cells = (size_t)config->max_cells,
                                     .max_genes_per_cell = MAX_GENES_PER_CELL,
                                     .max_depth = MAX_JSON_DEPTH,
                                     .max_name_bytes = MAX_NAME_BYTES};
    if (!config->models.n)
        return scd_fail(err, SCD_E_INVALID,
                        "no model: give --model DIR (scdiva-train init makes one to try with)");
    size_t n_routes;
    const char *const *routes = scd_router_names(&n_routes);
    int64_t start = scd_now_ns();
    scd_address address;
    scd_code code = guard_door(d, &address, err);
    if (!code)
        code = scd_metrics_new(routes, n_routes, &d->metrics, err);
    if (!code)
        code = scd_watch_open(on_watch_event, d, 0, &d->watch, err);
    if (!code)
        code = scd_crew_open(&d->crew, err);
    if (!code)
        code =
            open_http(d, &address, err); /* probes are answered while the model is being loaded */
    if (!code)
        code = open_engine(d, err);
    if (!code)
        code = open_caches(d, err);
    if (!code)
        code = open_batcher(d, err);
    if (!code)
        code = open_jobs(d, err);
    if (code)
        return code;
    atomic_store(&d->ready, true);
    SCD_LOG(INFO, "ready", "seconds", scd_log_num((double)(scd_now_ns() - start) * 1e-9), "url",
            scd_http_url(d->http));
    return SCD_OK;
}

void scd_daemon_read_keys(scd_daemon *d)
{
    scd_error err = {0};
    scd_auth_key *keys = NULL;
    size_t n = 0;
    scd_code code = scd_auth_read_again(d->auth, &err);
    if (code)
        SCD_LOG(ERROR, "keys", "message", err.message, "kept", "the keys are as they were");
    else if (!scd_auth_list(d->auth, &keys, &n, &err))
        SCD_LOG(INFO, "keys", "message", "read again", "n", scd_log_num((double)n));
    if (!code && scd_auth_warning(d->auth))
        SCD_LOG(WARN, "keys", "message", scd_auth_warning(d->auth));
    free(keys);
    scd_jobs_keys_read(d->jobs, code ? err.message : NULL);
}

bool scd_daemon_stop(scd_daemon *d)
{
    bool stopped = true;
    atomic_store(&d->draining, true);
    int64_t deadline = scd_now_ns() + (int64_t)d->config->drain_s * SCD_NS_PER_S;
    if (d->jobs) /* what they have computed is kept; they go on at the next start */
        scd_jobs_stop(d->jobs);
    if (d->http) /* whole requests, also those whose cells the batcher does not know yet */
        scd_http_wait_idle(d->http, deadline);
    if (d->batcher) {
        if (!scd_batcher_drain(d->batcher, deadline))
            SCD_LOG(WARN, "drain", "message", "work in flight was cut off at the deadline");
        stopped = scd_batcher_stop(d->batcher);
    }
    if (d->http) {
        scd_http_quiesce(d->http);
        scd_http_wait_idle(d->http, scd_now_ns() + LAST_ANSWERS_S * SCD_NS_PER_S);
    }
    if (d->crew)
        scd_crew_stop(d->crew);
    scd_http_close(d->http);
    scd_jobs_close(d->jobs);
    scd_crew_close(d->crew);
    scd_watch_close(d->watch);
    if (!stopped) {
        if (!scd_store_flush(d->store, scd_now_ns() + LAST_ANSWERS_S * SCD_NS_PER_S))
            SCD_LOG(WARN, "store", "message", "not all results were written to the cache");
        return false;
    }
    scd_batcher_close(d->batcher);
    scd_memo_close(d->memo);
    scd_store_close(d->store);
    scd_engine_close(d->engine);
    scd_metrics_free(d->metrics);
    scd_auth_close(d->auth);
    return true;
}
