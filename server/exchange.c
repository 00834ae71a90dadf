/* exchange.c - one request's way through libmicrohttpd (see http.h).
 *
 * libmicrohttpd calls the access handler again and again: with the headers, with each piece of the
 * body, at its end, and after a resume. scd_exchange_step is that call. */
#include "api/gunzip.h"
#include "api/problem.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "server/http_impl.h"
#include "server/reply.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Of a body that proves too large on the way, so much is read before we close. */
enum { MAX_DISCARD_BYTES = 64 << 20 };
/* Who holds no more than this does not count against the room for all together: the number of
 * connections bounds them well enough, and large uploads never lock single cells out. A compressed
 * body is inflated by an http thread as long as it is no larger. */
enum { SMALL_BYTES = 128 << 10 };
/* A body must arrive at this pace after a first grace, or its connection is closed; what is over
 * SMALL_BYTES, and takes room from others, faster: 64 MiB within 18 minutes. */
enum { BODY_GRACE_S = 20, SLOWEST_BYTES_PER_S = 4 << 10, SLOWEST_LARGE_BYTES_PER_S = 64 << 10 };

/* ---- accessors ------------------------------------------------------------------------------ */

uint64_t scd_exchange_id(const scd_exchange *x)
{
    return x->id;
}

const char *scd_exchange_request_id(const scd_exchange *x)
{
    return x->request_id;
}

const char *scd_exchange_method(const scd_exchange *x)
{
    return x->method;
}

bool scd_exchange_is_head(const scd_exchange *x)
{
    return x->is_head;
}

const char *scd_exchange_path(const scd_exchange *x)
{
    return x->path;
}

const char *scd_exchange_header(const scd_exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

const char *scd_exchange_body(const scd_exchange *x, size_t *n)
{
    *n = x->body.n_bytes;
    return x->body.data ? x->body.data : "";
}

int64_t scd_exchange_arrived_ns(const scd_exchange *x)
{
    return x->arrived_ns;
}

size_t scd_exchange_max_body(const scd_exchange *x)
{
    return x->http->o.max_body_bytes;
}

scd_exchange_note *scd_exchange_get_note(scd_exchange *x)
{
    return &x->note;
}

bool scd_exchange_answered(const scd_exchange *x)
{
    return x->answered;
}

unsigned scd_exchange_status(const scd_exchange *x)
{
    return x->status;
}

/* ---- birth and death ------------------------------------------------------------------------ */

/* Ours is kept short; the client's is taken when it is printable and not too long. */
static void choose_request_id(scd_exchange *x)
{
    const char *given = scd_exchange_header(x, "X-Request-Id");
    size_t n = given ? strlen(given) : 0;
    bool usable = n > 0 && n < sizeof x->request_id;
    for (size_t i = 0; usable && i < n; i++)
        usable = isalnum((unsigned char)given[i]) || strchr("-_.:/+=", given[i]);
    if (usable) {
        memcpy(x->request_id, given, n + 1);
        return;
    }
    uint32_t w[4];
    scd_rng_block(x->http->id_seed, 0, x->id, w);
    snprintf(x->request_id, sizeof x->request_id, "%08x%08x%08x%08x", w[0], w[1], w[2], w[3]);
}

scd_exchange *scd_exchange_new(scd_http *http, struct MHD_Connection *connection,
                               const char *method, const char *path)
{
    scd_exchange *x = scd_calloc(1, sizeof *x);
    if (!x)
        return NULL;
    x->http = http;
    x->connection = connection;
    x->arrived_ns = scd_now_ns();
    x->id = atomic_fetch_add(&http->last_id, 1) + 1;
    x->is_head = !strcmp(method, "HEAD");
    x->method = x->is_head ? "GET" : method;
    x->path = scd_strdup(path);
    if (!x->path) {
        free(x);
        return NULL;
    }
    scd_buf_init(&x->body, http->o.max_body_bytes);
    choose_request_id(x);
    return x;
}

/* The exchange holds n bytes now. False: with those of all others that is too much. */
static bool count_held(scd_exchange *x, size_t n)
{
    size_t counted = n > SMALL_BYTES ? n : 0, before = x->counted_bytes;
    x->counted_bytes = counted;
    /* Unsigned, so that a smaller count is added as what wraps around to it. */
    size_t all = atomic_fetch_add(&x->http->held_bytes, counted - before) + (counted - before);
    return counted <= before || all <= x->http->o.max_held_bytes || all == counted;
}

void scd_exchange_drop_body(scd_exchange *x)
{
    scd_buf_release(&x->body);
    count_held(x, x->kept_bytes);
}

bool scd_exchange_keep(scd_exchange *x, size_t n)
{
    x->kept_bytes = n;
    return count_held(x, x->body.n_bytes + n);
}

void scd_exchange_free(scd_exchange *x)
{
    if (x->phase == SCD_PHASE_HELD) { /* resumed, but the client's end came before the next step */
        x->phase = SCD_PHASE_DONE;
        x->resumed(x); /* whoever held it lets go of it */
    }
    count_held(x, 0);
    if (x->counted)
        atomic_fetch_sub(&x->http->answering, 1);
    scd_exchange_end_flows(x);
    scd_buf_release(&x->body);
    free(x->answer);
    free(x->path);
    free(x);
}

/* ---- answering ------------------------------------------------------------------------------ */

void scd_exchange_answer(scd_exchange *x, unsigned status, const char *content_type, scd_buf *body)
{
    static const char failed[] =
        "{\"type\":\"urn:scdiva:problem:internal\",\"title\":\"The server failed\","
        "\"status\":500,\"detail\":\"the answer did not fit in memory\",\"errors\":[]}";
    scd_buf substitute;
    if (body && body->failed) { /* such an answer is not sent in part */
        scd_buf_release(body);
        scd_buf_init(&substitute, sizeof failed);
        scd_buf_puts(&substitute, failed);
        body = &substitute;
        status = 500;
        content_type = "application/problem+json";
    }
    x->status = status;
    x->content_type = content_type;
    x->answer_bytes = body ? body->n_bytes : 0;
    x->answer = body ? scd_buf_take(body) : NULL;
    x->answered = true;
    scd_buf_release(&x->body);
    scd_exchange_keep(x, x->answer_bytes); /* too much or not: it is there */
}

void scd_exchange_set_header(scd_exchange *x, const char *name, const char *value)
{
    if (x->n_headers == SCD_MAX_HEADERS)
        return;
    x->headers[x->n_headers].name = name;
    snprintf(x->headers[x->n_headers].value, SCD_HEADER_BYTES, "%s", value);
    x->n_headers++;
}

void scd_exchange_finish(scd_exchange *x)
{
    if (!x->finished)
        x->http->o.finished(x->http->o.app, x);
    x->finished = true;
}

/* Counted before it is sent, so that who has the answer finds it counted. */
static enum MHD_Result send_answer(scd_exchange *x)
{
    scd_exchange_finish(x);
    bool flows = x->flow.read || x->has_file; /* a drain does not wait for these */
    if (flows && x->counted)
        atomic_fetch_sub(&x->http->answering, 1);
    x->counted = x->counted && !flows;
    struct MHD_Response *r = scd_exchange_response(x);
    if (!r)
        return MHD_NO;
    MHD_add_response_header(r, "X-Request-Id", x->request_id);
    if (x->content_type)
        MHD_add_response_header(r, "Content-Type", x->content_type);
    for (size_t i = 0; i < x->n_headers; i++)
        MHD_add_response_header(r, x->headers[i].name, x->headers[i].value);
    enum MHD_Result ok = MHD_queue_response(x->connection, x->status, r);
    MHD_destroy_response(r);
    return ok;
}

/* ---- the body ------------------------------------------------------------------------------- */

static void refuse_body(scd_exchange *x, scd_problem_kind kind)
{
    if (kind == SCD_PROBLEM_TOO_LARGE) {
        scd_reply_problem(x, kind, "the body is over %zu bytes: send fewer cells at a time",
                          x->http->o.max_body_bytes);
    } else {
        scd_problem problem;
        scd_no_room(x, &problem);
        scd_reply_with(x, &problem);
    }
}

/* Before any of it is read: is there room for a body of the announced length? It counts as it
 * arrives, for who announces much may send nothing. */
static void check_length(scd_exchange *x)
{
    const char *text = scd_exchange_header(x, "Content-Length");
    if (!text)
        return;
    size_t max = x->http->o.max_body_bytes, max_all = x->http->o.max_held_bytes;
    unsigned long long n = strtoull(text, NULL, 10);
    if (x->sink.take)
        return; /* it judges itself */
    if (n > max)
        scd_reply_problem(x, SCD_PROBLEM_TOO_LARGE,
                          "the body has %llu bytes, at most %zu are taken: send fewer cells at a "
                          "time",
                          n, max);
    else if (n > SMALL_BYTES && atomic_load(&x->http->held_bytes) + n > max_all)
        refuse_body(x, SCD_PROBLEM_OVERLOADED);
    else
        scd_buf_reserve(&x->body, n < SMALL_BYTES ? (size_t)n : SMALL_BYTES);
}

static bool too_slow(const scd_exchange *x, size_t n_bytes)
{
    size_t elapsed_s = (size_t)((scd_now_ns() - x->arrived_ns) / SCD_NS_PER_S);
    size_t small = n_bytes < SMALL_BYTES ? n_bytes : SMALL_BYTES;
    return elapsed_s > BODY_GRACE_S + small / SLOWEST_BYTES_PER_S +
                           (n_bytes - small) / SLOWEST_LARGE_BYTES_PER_S;
}

/* Keep a piece; false: close the connection. */
static bool take_piece(scd_exchange *x, const char *piece, size_t n)
{
    if (too_slow(x, x->body.n_bytes + x->sunk_bytes + x->discarded_bytes + n))
        return false;
    if (x->sink.take) {
        if (scd_exchange_pour(x, piece, n))
            return true;
    } else if (!x->body_problem) {
        if (n > x->body.max_bytes - x->body.n_bytes)
            x->body_problem = SCD_PROBLEM_TOO_LARGE;
        else if (!count_held(x, x->body.n_bytes + n) || !scd_buf_append(&x->body, piece, n))
            x->body_problem = SCD_PROBLEM_OVERLOADED;
        else
            return true;
        scd_exchange_drop_body(x);
    }
    x->discarded_bytes += n;
    return x->discarded_bytes <= MAX_DISCARD_BYTES;
}

/* ---- holding -------------------------------------------------------------------------------- */

scd_code scd_exchange_suspend(scd_exchange *x, int64_t deadline_ns, scd_exchange_resumed *resumed,
                              scd_error *err)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    scd_code code =
        scd_watch_add(x->http->o.watch, x->id, info ? info->connect_fd : -1, deadline_ns, err);
    if (code)
        return code;
    x->resumed = resumed;
    x->phase = SCD_PHASE_HELD;
    MHD_suspend_connection(x->connection);
    return SCD_OK;
}

void scd_exchange_resume(scd_exchange *x)
{
    scd_watch_remove(x->http->o.watch, x->id);
    MHD_resume_connection(x->connection);
}

void scd_exchange_abandon(scd_exchange *x)
{
    x->abandoned = true;
}

/* prep-0. A client that has left meanwhile wants nothing any more. */
static void run_work(scd_job *job)
{
    scd_exchange *x = (scd_exchange *)job;
    if (scd_watch_check(x->http->o.watch, x->id))
        scd_exchange_abandon(x);
    else
        x->work(x);
    scd_exchange_resume(x);
}

static void hand_over(scd_exchange *x, scd_exchange_work *work, scd_exchange_resumed *resumed)
{
    scd_error err = {0};
    x->work = work;
    x->job.run = run_work;
    if (scd_exchange_suspend(x, SCD_NEVER, resumed, &err))
        scd_reply_problem(x, SCD_PROBLEM_INTERNAL, "%s", err.message);
    else
        scd_crew_post(x->http->o.crew, &x->job);
}

static void answered_by_work(scd_exchange *x)
{
    (void)x;
}

void scd_exchange_hand_over(scd_exchange *x, scd_exchange_work *work)
{
    hand_over(x, work, answered_by_work);
}

/* ---- compressed bodies ----------------------------------------------------------------------- */

/* http-N, also as the end of a connection whose body was being inflated. */
static void handle_unless_answered(scd_exchange *x)
{
    if (!x->answered && !x->abandoned && !x->finished)
        x->http->o.handle(x->http->o.app, x);
}

/* The body becomes what it holds, up to max_bytes. */
static scd_code inflate_body(scd_exchange *x, size_t max_bytes, scd_error *err)
{
    scd_buf plain;
    scd_buf_init(&plain, max_bytes);
    scd_code code = scd_gunzip(x->body.data, x->body.n_bytes, &plain, err);
    if (code) {
        scd_buf_release(&plain);
        return code;
    }
    scd_buf_release(&x->body);
    x->body = plain;
    x->body.max_bytes = x->http->o.max_body_bytes;
    if (!count_held(x, plain.n_bytes))
        refuse_body(x, SCD_PROBLEM_OVERLOADED);
    return SCD_OK;
}

static void refuse_inflation(scd_exchange *x, scd_code code, const scd_error *err)
{
    scd_reply_problem(x,
                      code == SCD_E_INVALID ? SCD_PROBLEM_BAD_REQUEST : scd_problem_of_code(code),
                      "%s", err->message);
}

/* prep-0 */
static void inflate_large(scd_exchange *x)
{
    scd_error err = {0};
    scd_code code = inflate_body(x, x->http->o.max_body_bytes, &err);
    if (code)
        refuse_inflation(x, code, &err);
}

/* What a few kB inflate to is not known before: an http thread tries with little room, and hands
 * over what needs more. */
static void decompress(scd_exchange *x)
{
    const char *encoding = scd_exchange_header(x, "Content-Encoding");
    if (!encoding || !*encoding || !strcasecmp(encoding, "identity"))
        return;
    if (strcasecmp(encoding, "gzip") && strcasecmp(encoding, "x-gzip")) {
        scd_exchange_set_header(x, "Accept-Encoding", "gzip");
        scd_reply_problem(x, SCD_PROBLEM_MEDIA_TYPE,
                          "Content-Encoding \"%.40s\" is not understood: send gzip or nothing",
                          encoding);
        return;
    }
    size_t max = x->http->o.max_body_bytes;
    scd_error err = {0};
    scd_code code = SCD_E_TOO_LARGE;
    if (x->body.n_bytes <= SMALL_BYTES)
        code = inflate_body(x, max < SMALL_BYTES ? max : SMALL_BYTES, &err);
    if (code == SCD_E_TOO_LARGE && max > SMALL_BYTES)
        hand_over(x, inflate_large, handle_unless_answered);
    else if (code)
        refuse_inflation(x, code, &err);
}

/* ---- the steps ------------------------------------------------------------------------------ */

static void body_complete(scd_exchange *x)
{
    if (x->body_problem)
        refuse_body(x, x->body_problem);
    else if (x->sink.take)
        scd_exchange_pour_end(x);
    else
        decompress(x);
    if (x->phase == SCD_PHASE_DONE) /* else it is being inflated */
        handle_unless_answered(x);
}

/* After a callback that should have answered or suspended. */
static enum MHD_Result go_on(scd_exchange *x)
{
    if (x->phase == SCD_PHASE_HELD)
        return MHD_YES;
    if (x->abandoned) {
        x->status = 499;
        return MHD_NO;
    }
    if (!x->answered)
        scd_reply_problem(x, SCD_PROBLEM_INTERNAL, "no answer was made");
    return send_answer(x);
}

enum MHD_Result scd_exchange_step(scd_exchange *x, const char *upload, size_t *upload_bytes)
{
    switch (x->phase) {
    case SCD_PHASE_NEW:
        x->phase = SCD_PHASE_BODY;
        x->http->o.begin(x->http->o.app, x);
        if (!x->answered)
            check_length(x);
        return x->answered ? send_answer(x) : MHD_YES;
    case SCD_PHASE_BODY:
        if (*upload_bytes) {
            bool ok = take_piece(x, upload, *upload_bytes);
            *upload_bytes = 0;
            return ok ? MHD_YES : MHD_NO;
        }
        x->phase = SCD_PHASE_DONE;
        x->counted = true;
        atomic_fetch_add(&x->http->answering, 1);
        body_complete(x);
        return go_on(x);
    case SCD_PHASE_HELD:
        x->phase = SCD_PHASE_DONE;
        x->resumed(x);
        return go_on(x);
    case SCD_PHASE_DONE:
        break;
    }
    return MHD_NO;
}
