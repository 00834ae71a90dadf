/* metrics.c - see metrics.h.
 *
 * Sums of histograms are integers (nanoseconds, or the unit itself), because an atomic addition of
 * integers is one instruction and one of doubles is a loop. _count is the sum of the buckets that
 * the scrape read, so that it never disagrees with le="+Inf".
 *
 * Format: prometheus.io/docs/instrumenting/exposition_formats, text format 0.0.4. */
#include "server/metrics.h"

#include "engine/base/clock.h"
#include "engine/base/mem.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_BOUNDS = 21, FIRST_STATUS = 100, N_STATUS = 500 };

typedef struct scale {
    size_t n_bounds;
    double unit; /* what one step of the integer sum is worth */
    double bounds[MAX_BOUNDS];
} scale;

static const scale SECONDS = {19,
                              1e-9,
                              {1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25,
                               0.5, 1, 2.5, 5, 10, 25, 50, 100}};
static const scale POWERS = {21, 1, {1,     2,     4,     8,      16,     32,     64,
                                     128,   256,   512,   1024,   2048,   4096,   8192,
                                     16384, 32768, 65536, 131072, 262144, 524288, 1048576}};

typedef struct series {
    const char *name, *help;
    const scale *scale; /* of a histogram */
} series;

static const series counters[] = {
#define COUNTER(id, name, help) {name, help, NULL},
#define GAUGE(id, name, help)
#define HISTOGRAM(id, name, scale, help)
#define REJECTED(id, reason)
#include "server/metrics.def"
};

static const series gauges[] = {
#define COUNTER(id, name, help)
#define GAUGE(id, name, help) {name, help, NULL},
#define HISTOGRAM(id, name, scale, help)
#define REJECTED(id, reason)
#include "server/metrics.def"
};

static const series hists[] = {
#define COUNTER(id, name, help)
#define GAUGE(id, name, help)
#define HISTOGRAM(id, name, scale, help) {name, help, &scale},
#define REJECTED(id, reason)
#include "server/metrics.def"
};

static const char *const reasons[] = {
#define COUNTER(id, name, help)
#define GAUGE(id, name, help)
#define HISTOGRAM(id, name, scale, help)
#define REJECTED(id, reason) reason,
#include "server/metrics.def"
};

static const char request_seconds[] = "scdiva_request_seconds";

typedef struct histogram {
    atomic_uint_least64_t
        buckets[MAX_BOUNDS + 1]; /* not cumulative; the last is past every bound */
    atomic_uint_least64_t sum;   /* in units of the scale */
} histogram;

typedef struct route_series {
    char *name;
    atomic_uint_least64_t by_status[N_STATUS];
    histogram seconds;
} route_series;

typedef struct model_info {
    char *name, *digest, *device, *precision;
} model_info;

struct scd_metrics {
    atomic_uint_least64_t counters[SCD_N_COUNTERS];
    atomic_int_least64_t gauges[SCD_N_GAUGES];
    atomic_uint_least64_t rejected[SCD_N_REJECTED];
    histogram hists[SCD_N_HISTS];
    route_series *routes;
    size_t n_routes;
    model_info models[SCD_METRICS_MODELS];
    atomic_size_t first_model; /* those before it are forgotten */
    atomic_size_t n_models;    /* published after the entry is complete */
    double start_seconds;      /* of the process, since 1970 */
};

/* The start of this process: field 22 of /proc/self/stat, in clock ticks since the machine's
 * start; now, where that cannot be read. */
static double process_start_seconds(void)
{
    double now = (double)scd_wall_ms() / 1000;
    char text[1024];
    FILE *f = fopen("/proc/self/stat", "re");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f)
        fclose(f);
    text[n] = '\0';
    const char *at = strrchr(text, ')'); /* the end of field 2, which may hold anything */
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    struct timespec up;
    if (!at || clock_gettime(CLOCK_BOOTTIME, &up))
        return now;
    double started = strtod(at, NULL) / (double)sysconf(_SC_CLK_TCK);
    return now - ((double)up.tv_sec + 1e-9 * (double)up.tv_nsec - started);
}

scd_code scd_metrics_new(const char *const *routes, size_t n_routes, scd_metrics **out,
                         scd_error *err)
{
    *out = NULL;
    scd_metrics *m = scd_calloc(1, sizeof *m);
    if (!m)
        goto oom;
    m->routes = scd_calloc(n_routes, sizeof *m->routes);
    if (!m->routes)
        goto oom;
    m->n_routes = n_routes;
    for (size_t i = 0; i < n_routes; i++)
        if (!(m->routes[i].name = scd_strdup(routes[i])))
            goto oom;
    m->start_seconds = process_start_seconds();
    *out = m;
    return SCD_OK;
oom:
    scd_metrics_free(m);
    return scd_fail(err, SCD_E_NOMEM, "out of memory for the metrics");
}

static void release_model(model_info *model)
{
    free(model->precision);
    free(model->device);
    free(model->digest);
    free(model->name);
    *model = (model_info){0};
}

void scd_metrics_free(scd_metrics *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < SCD_METRICS_MODELS; i++)
        release_model(&m->models[i]);
    for (size_t i = 0; i < m->n_routes; i++)
        free(m->routes[i].name);
    free(m->routes);
    free(m);
}

static void add(atomic_uint_least64_t *to, uint64_t n)
{
    atomic_fetch_add_explicit(to, n, memory_order_relaxed);
}

static uint64_t load(const atomic_uint_least64_t *from)
{
    return atomic_load_explicit(from, memory_order_relaxed);
}

static void observe(histogram *h, const scale *s, double value)
{
    if (!(value >= 0)) /* also not a number: a clock that went wrong must not spoil the sum */
        value = 0;
    size_t i = 0;
    while (i < s->n_bounds && value > s->bounds[i])
        i++;
    add(&h->buckets[i], 1);
    double steps = value / s->unit;
    add(&h->sum, steps < 9e18 ? (uint64_t)(steps + 0.5) : 0);
}

void scd_metrics_request(scd_metrics *m, size_t route, unsigned status, double seconds)
{
    if (route >= m->n_routes)
        return;
    if (status < FIRST_STATUS || status >= FIRST_STATUS + N_STATUS)
        status = 500;
    add(&m->routes[route].by_status[status - FIRST_STATUS], 1);
    observe(&m->routes[route].seconds, &SECONDS, seconds);
}

void scd_metrics_add(scd_metrics *m, scd_counter counter, uint64_t n)
{
    assert(counter < SCD_N_COUNTERS);
    add(&m->counters[counter], n);
}

uint64_t scd_metrics_get(const scd_metrics *m, scd_counter counter)
{
    assert(counter < SCD_N_COUNTERS);
    return load(&m->counters[counter]);
}

void scd_metrics_set(scd_metrics *m, scd_gauge_id gauge, int64_t value)
{
    assert(gauge < SCD_N_GAUGES);
    atomic_store_explicit(&m->gauges[gauge], value, memory_order_relaxed);
}

void scd_metrics_observe(scd_metrics *m, scd_hist which, double value)
{
    assert(which < SCD_N_HISTS);
    observe(&m->hists[which], hists[which].scale, value);
}

void scd_metrics_rejected(scd_metrics *m, scd_rejected reason)
{
    assert(reason < SCD_N_REJECTED);
    add(&m->rejected[reason], 1);
}

scd_code scd_metrics_model(scd_metrics *m, const char *name, const char *digest, const char *device,
                           const char *precision, scd_error *err)
{
    size_t n = atomic_load(&m->n_models);
    if (n == SCD_METRICS_MODELS)
        return scd_fail(err, SCD_E_TOO_LARGE, "at most %d models", SCD_METRICS_MODELS);
    model_info *model = &m->models[n];
    model->name = scd_strdup(name);
    model->digest = scd_strdup(digest);
    model->device = scd_strdup(device);
    model->precision = scd_strdup(precision);
    if (!model->name || !model->digest || !model->device || !model->precision) {
        release_model(model);
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the metrics");
    }
    atomic_store_explicit(&m->n_models, n + 1, memory_order_release);
    return SCD_OK;
}

void scd_metrics_forget_models(scd_metrics *m)
{
    atomic_store(&m->first_model, atomic_load(&m->n_models));
}

/* ---- the text ----------------------------------------------------------------------------------
 */

static void write_label(scd_buf *out, const char *label, const char *value)
{
    scd_buf_printf(out, "%s=\"", label);
    for (const char *c = value; *c; c++) {
        if (*c == '\n')
            scd_buf_puts(out, "\\n");
        else if (*c == '"' || *c == '\\')
            scd_buf_append(out, (char[]){'\\', *c}, 2);
        else
            scd_buf_putc(out, *c);
    }
    scd_buf_putc(out, '"');
}

/* Whole numbers in full (a double holds them up to 2^53), others with every digit that matters. */
static void write_value(scd_buf *out, double value)
{
    if (fabs(value) < 9007199254740992.0 && value == floor(value))
        scd_buf_printf(out, " %.0f\n", value);
    else
        scd_buf_printf(out, " %.17g\n", value);
}

void scd_metrics_write_family(scd_buf *out, const char *name, const char *type, const char *help)
{
    scd_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void scd_metrics_write_sample(scd_buf *out, const char *name, const char *label,
                              const char *label_value, double value)
{
    scd_buf_puts(out, name);
    if (label) {
        scd_buf_putc(out, '{');
        write_label(out, label, label_value);
        scd_buf_putc(out, '}');
    }
    write_value(out, value);
}

static void write_one(scd_buf *out, const char *name, const char *type, const char *help,
                      double value)
{
    scd_metrics_write_family(out, name, type, help);
    scd_metrics_write_sample(out, name, NULL, NULL, value);
}

/* route: the label's value, or NULL for a histogram without labels. */
static void write_hist(scd_buf *out, const char *name, const scale *s, const histogram *h,
                       const char *route)
{
    uint64_t sum = load(&h->sum), count = 0;
    for (size_t i = 0; i <= s->n_bounds; i++) {
        count += load(&h->buckets[i]);
        scd_buf_printf(out, "%s_bucket{", name);
        if (route) {
            write_label(out, "route", route);
            scd_buf_putc(out, ',');
        }
        if (i < s->n_bounds)
            scd_buf_printf(out, "le=\"%.10g\"", s->bounds[i]);
        else
            scd_buf_puts(out, "le=\"+Inf\"");
        scd_buf_printf(out, "} %llu\n", (unsigned long long)count);
    }
    char part[96];
    const char *label = route ? "route" : NULL;
    snprintf(part, sizeof part, "%s_sum", name);
    scd_metrics_write_sample(out, part, label, route, (double)sum * s->unit);
    snprintf(part, sizeof part, "%s_count", name);
    scd_metrics_write_sample(out, part, label, route, (double)count);
}

static void write_routes(const scd_metrics *m, scd_buf *out)
{
    static const char requests[] = "scdiva_requests_total";
    scd_metrics_write_family(out, requests, "counter", "Requests by route and HTTP status.");
    for (size_t r = 0; r < m->n_routes; r++)
        for (unsigned i = 0; i < N_STATUS; i++) {
            uint64_t n = load(&m->routes[r].by_status[i]);
            if (!n)
                continue;
            scd_buf_printf(out, "%s{", requests);
            write_label(out, "route", m->routes[r].name);
            scd_buf_printf(out, ",code=\"%u\"} %llu\n", FIRST_STATUS + i, (unsigned long long)n);
        }
    scd_metrics_write_family(out, request_seconds, "histogram",
                             "Time from a request's head to the end of its answer.");
    for (size_t r = 0; r < m->n_routes; r++)
        write_hist(out, request_seconds, &SECONDS, &m->routes[r].seconds, m->routes[r].name);
}

static void write_models(const scd_metrics *m, scd_buf *out)
{
    static const char name[] = "scdiva_model_info";
    scd_metrics_write_family(out, name, "gauge", "Always 1; the labels describe a served model.");
    size_t n = atomic_load_explicit(&m->n_models, memory_order_acquire);
    for (size_t i = atomic_load(&m->first_model); i < n; i++) {
        scd_buf_printf(out, "%s{", name);
        write_label(out, "name", m->models[i].name);
        scd_buf_putc(out, ',');
        write_label(out, "digest", m->models[i].digest);
        scd_buf_putc(out, ',');
        write_label(out, "device", m->models[i].device);
        scd_buf_putc(out, ',');
        write_label(out, "precision", m->models[i].precision);
        scd_buf_puts(out, "} 1\n");
    }
}

static void write_process(const scd_metrics *m, scd_buf *out)
{
    unsigned long size_pages = 0, resident_pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f) {
        if (fscanf(f, "%lu %lu", &size_pages, &resident_pages) != 2)
            resident_pages = 0;
        fclose(f);
    }
    if (resident_pages)
        write_one(out, "process_resident_memory_bytes", "gauge", "Resident memory in bytes.",
                  (double)resident_pages * (double)sysconf(_SC_PAGESIZE));
    struct timespec cpu;
    if (!clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu))
        write_one(out, "process_cpu_seconds_total", "counter", "User and system CPU time spent.",
                  (double)cpu.tv_sec + 1e-9 * (double)cpu.tv_nsec);
    write_one(out, "process_start_time_seconds", "gauge",
              "Start time of the process since 1970 in seconds.", m->start_seconds);
    scd_metrics_write_family(out, "scdiva_build_info", "gauge", "Always 1.");
    scd_metrics_write_sample(out, "scdiva_build_info", "version", SCD_VERSION, 1);
}

void scd_metrics_write(const scd_metrics *m, scd_buf *out)
{
    static const char rejected[] = "scdiva_rejected_total";
    write_routes(m, out);
    for (size_t i = 0; i < SCD_N_HISTS; i++) {
        scd_metrics_write_family(out, hists[i].name, "histogram", hists[i].help);
        write_hist(out, hists[i].name, hists[i].scale, &m->hists[i], NULL);
    }
    for (size_t i = 0; i < SCD_N_COUNTERS; i++)
        write_one(out, counters[i].name, "counter", counters[i].help,
                  (double)load(&m->counters[i]));
    for (size_t i = 0; i < SCD_N_GAUGES; i++)
        write_one(out, gauges[i].name, "gauge", gauges[i].help,
                  (double)atomic_load_explicit(&m->gauges[i], memory_order_relaxed));
    scd_metrics_write_family(out, rejected, "counter", "Requests turned away, by reason.");
    for (size_t i = 0; i < SCD_N_REJECTED; i++)
        scd_metrics_write_sample(out, rejected, "reason", reasons[i],
                                 (double)load(&m->rejected[i]));
    write_models(m, out);
    write_process(m, out);
}

void scd_metrics_write_store(scd_buf *out, const scd_store_stats *stats)
{
    static const char entries[] = "scdiva_store_entries", bytes[] = "scdiva_store_bytes";
    scd_metrics_write_family(out, entries, "gauge", "Entries in the result cache, by tier.");
    scd_metrics_write_sample(out, entries, "tier", "disk", (double)stats->entries);
    scd_metrics_write_sample(out, entries, "tier", "memory", (double)stats->memory_entries);
    scd_metrics_write_family(out, bytes, "gauge", "Bytes in the result cache, by tier.");
    scd_metrics_write_sample(out, bytes, "tier", "disk", (double)stats->bytes);
    scd_metrics_write_sample(out, bytes, "tier", "memory", (double)stats->memory_bytes);
    write_one(out, "scdiva_store_pending", "gauge", "Entries accepted and not yet on disk.",
              (double)stats->pending);
    write_one(out, "scdiva_store_evicted_total", "counter", "Entries removed to keep the bound.",
              (double)stats->evicted);
    write_one(out, "scdiva_store_rejected_checksum_total", "counter",
              "Entries not served because their checksum was wrong.",
              (double)stats->rejected_checksum);
    write_one(out, "scdiva_store_rebuilds_total", "counter",
              "Times a damaged or foreign database was moved aside.", (double)stats->rebuilds);
    write_one(out, "scdiva_store_write_errors_total", "counter",
              "Groups of entries that could not be written to disk.", (double)stats->write_errors);
}
