/* router.c - see router.h. */
#include "server/router.h"

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "server/reply.h"
#include "server/upload.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { OPEN, KEYED };

typedef struct route {
    const char *method, *path, *name;
    int access;
    void (*handle)(scd_daemon *d, scd_exchange *x);
} route;

#define SCD_ROUTE(method, path, name, access) {method, path, #name, access, scd_handle_##name},
static const route routes[] = {
#include "api/routes.def"
};
#undef SCD_ROUTE
#define SCD_ROUTE(method, path, name, access) #name,
static const char *const names[] = {
#include "api/routes.def"
    "other"};
#undef SCD_ROUTE
enum { N_ROUTES = sizeof routes / sizeof routes[0] };

const char *const *scd_router_names(size_t *n)
{
    *n = N_ROUTES + 1;
    return names;
}

/* A '*' stands for one segment that is not empty. */
static bool path_matches(const char *pattern, const char *path)
{
    for (; *pattern && *path; pattern++)
        if (*pattern != '*') {
            if (*pattern != *path++)
                return false;
        } else {
            size_t n = strcspn(path, "/");
            if (!n)
                return false;
            path += n;
        }
    return !*pattern && !*path;
}

/* The path as routes name it: the page and its own files are one; some clients write "/v2/". */
static const char *path_of(const scd_exchange *x)
{
    const char *path = scd_exchange_path(x);
    if (!strncmp(path, SCD_PAGE_FILES, strlen(SCD_PAGE_FILES)))
        return "/";
    return strcmp(path, "/v2/") ? path : "/v2";
}

/* The route of this exchange, or NULL with 404 or 405 answered. */
static const route *find_route(scd_exchange *x)
{
    const char *path = path_of(x), *method = scd_exchange_method(x);
    char allow[80] = "";
    for (size_t i = 0; i < N_ROUTES; i++) {
        if (!path_matches(routes[i].path, path))
            continue;
        if (!strcmp(routes[i].method, method)) {
            scd_exchange_get_note(x)->route = i;
            return &routes[i];
        }
        size_t n = strlen(allow);
        snprintf(allow + n, sizeof allow - n, "%s%s", n ? ", " : "", routes[i].method);
        if (!strcmp(routes[i].method, "GET")) {
            n = strlen(allow);
            snprintf(allow + n, sizeof allow - n, ", HEAD");
        }
    }
    if (*allow) {
        scd_exchange_set_header(x, "Allow", allow);
        scd_reply_problem(x, SCD_PROBLEM_METHOD, "%.16s is not served here, only %s", method,
                          allow);
    } else {
        scd_reply_problem(x, SCD_PROBLEM_NOT_FOUND,
                          "nothing is served at \"%.200s\": GET /openapi.json lists every route",
                          path);
    }
    return NULL;
}

static bool authorised(scd_daemon *d, scd_exchange *x)
{
    if (!d->auth)
        return true;
    const char *header = scd_exchange_header(x, "Authorization");
    scd_exchange_get_note(x)->key = scd_auth_check(d->auth, header);
    if (scd_exchange_get_note(x)->key)
        return true;
    scd_metrics_rejected(d->metrics, SCD_REJECTED_UNAUTHORIZED);
    scd_reply_problem(x, SCD_PROBLEM_UNAUTHORIZED, "%s",
                      header ? "the bearer token is not known here"
                             : "this server needs a key: send \"Authorization: Bearer TOKEN\"");
    return false;
}

static bool needs_model(const route *r)
{
    return r->access == KEYED && r->handle != scd_handle_metrics;
}

static bool available(scd_daemon *d, scd_exchange *x)
{
    bool draining = atomic_load(&d->draining);
    if (atomic_load(&d->ready) && !draining)
        return true;
    scd_exchange_set_header(x, "Retry-After", draining ? "5" : "1");
    if (draining) {
        scd_exchange_set_header(x, "Connection", "close");
        scd_metrics_rejected(d->metrics, SCD_REJECTED_DRAINING);
    }
    scd_reply_problem(x, SCD_PROBLEM_UNAVAILABLE,
                      draining ? "the server is shutting down" : "the model is being loaded");
    return false;
}

static bool is_type(const char *type, const char *wanted)
{
    size_t n = strlen(wanted);
    return !strncasecmp(type, wanted, n) && (!type[n] || strchr("; \t", type[n]));
}

/* What a POST brings is JSON, which binary tensors may follow. */
static bool takes_type(scd_exchange *x, const route *r)
{
    const char *type = scd_exchange_header(x, "Content-Type");
    bool tensors = r->handle == scd_handle_v2_infer || r->handle == scd_handle_v2_infer_version;
    static const char json[] = "application/json", binary[] = "application/octet-stream";
    if (!type || is_type(type, json) || (tensors && is_type(type, binary)))
        return true;
    scd_exchange_set_header(x, "Accept-Post",
                            tensors ? "application/json, application/octet-stream" : json);
    scd_reply_problem(x, SCD_PROBLEM_MEDIA_TYPE,
                      "Content-Type is \"%.80s\", must be application/json (curl: -H "
                      "'Content-Type: application/json')%s",
                      type, tensors ? " or, with binary tensors, application/octet-stream" : "");
    return false;
}

void scd_router_begin(void *daemon, scd_exchange *x)
{
    scd_daemon *d = daemon;
    scd_exchange_get_note(x)->route = N_ROUTES;
    const route *r = find_route(x);
    if (!r)
        return;
    if (r->access == KEYED && !authorised(d, x))
        return;
    if (needs_model(r) && !available(d, x))
        return;
    if (r->handle == scd_handle_jobs_create || r->handle == scd_handle_job_append)
        scd_upload_begin(d, x); /* a file, which goes to disk as it comes */
    else if (!strcmp(r->method, "POST"))
        takes_type(x, r);
}

/* The body may have taken its time: what is whole only after the drain began comes too late. Here,
 * where http counts the exchange as being answered, the question cannot miss the drain's start. */
void scd_router_handle(void *daemon, scd_exchange *x)
{
    scd_daemon *d = daemon;
    const route *r = &routes[scd_exchange_get_note(x)->route];
    if (!needs_model(r) || available(d, x))
        r->handle(d, x);
}

/* Each refusal counts once, however it came about. */
static void count_refusal(scd_daemon *d, unsigned status)
{
    if (status == 413)
        scd_metrics_rejected(d->metrics, SCD_REJECTED_TOO_LARGE);
    else if (status == 429)
        scd_metrics_rejected(d->metrics, SCD_REJECTED_QUEUE_FULL);
    else if (status == 504)
        scd_metrics_rejected(d->metrics, SCD_REJECTED_DEADLINE);
}

void scd_router_finished(void *daemon, scd_exchange *x)
{
    scd_daemon *d = daemon;
    const scd_exchange_note *note = scd_exchange_get_note(x);
    double seconds = (double)(scd_now_ns() - scd_exchange_arrived_ns(x)) * 1e-9;
    unsigned status = scd_exchange_status(x);
    scd_metrics_request(d->metrics, note->route, status, seconds);
    count_refusal(d, status);
    bool quiet = note->route < N_ROUTES && routes[note->route].access == OPEN && status < 400;
    char code[16], ms[32], cells[24];
    snprintf(code, sizeof code, "%u", status);
    snprintf(ms, sizeof ms, "%.3f", seconds * 1e3);
    snprintf(cells, sizeof cells, "%zu", note->cells);
    scd_log(quiet ? SCD_LOG_DEBUG : SCD_LOG_INFO, "request", "request_id",
            scd_exchange_request_id(x), "method", scd_exchange_method(x), "path",
            scd_exchange_path(x), "status", code, "ms", ms, "cells", cells,
            note->key ? "key" : NULL, note->key, NULL);
}
