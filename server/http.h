/* http.h - the only user of libmicrohttpd: listening, reading bodies within bounds, answering, and
 * holding a connection while its request is computed.
 *
 * A request is an exchange. Its life, each step in one of the threads http-N:
 *   begin     headers are here: route, authorise, bound the body; may answer at once
 *   handle    the body is here (decompressed): answers, or suspends and hands the work elsewhere
 *   resumed   after scd_exchange_resume: answers
 *   finished  the answer is about to be sent, or the client is gone: log and count, once
 *
 * Threads: accessors and answers from the thread that has the exchange: an http thread in a
 *          callback; after scd_exchange_suspend, whoever was handed it, until it calls
 *          scd_exchange_resume. Suspend first, publish second.
 * Owns:    connections, bodies and answers. */
#ifndef SCD_HTTP_H
#define SCD_HTTP_H

#include "engine/base/buf.h"
#include "engine/base/error.h"
#include "server/crew.h"
#include "server/watch.h"

#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

typedef struct scd_http scd_http;
typedef struct scd_exchange scd_exchange;

/* Where to listen: resolved once, so that what was judged is what is bound. */
typedef struct scd_address {
    struct sockaddr_storage socket;
    socklen_t n_bytes;
    bool loopback; /* reached from this machine only */
    char text[280];
} scd_address;

/* From ADDR:PORT, [v6]:PORT or NAME:PORT. SCD_E_INVALID: is no such thing, or has no address. */
scd_code scd_address_resolve(const char *listen, scd_address *out, scd_error *err);

typedef struct scd_http_options {
    const scd_address *address; /* read by open only */
    int threads;
    size_t max_connections;
    size_t max_body_bytes; /* of one request, decompressed */
    size_t max_held_bytes; /* of all bodies, and what is kept of them, and answers together */
    scd_watch *watch;
    scd_crew *crew;
    void *app;
    void (*begin)(void *app, scd_exchange *x);
    void (*handle)(void *app, scd_exchange *x);
    void (*finished)(void *app, scd_exchange *x);
    void (*log)(void *app, const char *message); /* what libmicrohttpd has to say; may be NULL */
} scd_http_options;

/* Binds and starts to serve. SCD_E_IO: the address cannot be bound. */
scd_code scd_http_open(const scd_http_options *options, scd_http **out, scd_error *err);
/* "http://127.0.0.1:8080", with the port that was really bound. */
const char *scd_http_url(const scd_http *http);
/* Accept no more connections; those that are there go on. */
void scd_http_quiesce(scd_http *http);
/* Wait until every request that arrived whole has got its answer; false at the deadline. */
bool scd_http_wait_idle(scd_http *http, int64_t deadline_ns);
/* Every suspended exchange must have been resumed. NULL is fine. */
void scd_http_close(scd_http *http);

/* ---- the request ---- */
uint64_t scd_exchange_id(const scd_exchange *x);            /* unique in the process, from 1 */
const char *scd_exchange_request_id(const scd_exchange *x); /* X-Request-Id, given or made */
const char *scd_exchange_method(const scd_exchange *x);     /* HEAD comes as GET, ... */
bool scd_exchange_is_head(const scd_exchange *x);           /* ... and this tells them apart */
const char *scd_exchange_path(const scd_exchange *x);
const char *scd_exchange_header(const scd_exchange *x, const char *name); /* NULL: absent */
const char *scd_exchange_body(const scd_exchange *x, size_t *n);
int64_t scd_exchange_arrived_ns(const scd_exchange *x);
size_t scd_exchange_max_body(const scd_exchange *x);

/* What the layers above keep with an exchange; http does not look at it. */
typedef struct scd_exchange_note {
    size_t route;        /* index into routes.def, or one past the end */
    const char *key;     /* name of the API key, NULL: none */
    size_t cells;        /* for the log */
    const char *problem; /* name of the problem answered, NULL: none */
    void *task;          /* of the handler, while suspended */
} scd_exchange_note;
scd_exchange_note *scd_exchange_get_note(scd_exchange *x);

/* ---- the answer ---- */
/* Takes body's bytes (which may be NULL: empty). content_type is a constant string. The body of the
 * request goes. */
void scd_exchange_answer(scd_exchange *x, unsigned status, const char *content_type, scd_buf *body);
/* A header of the answer; name is a constant string, value is copied (up to 255 bytes). */
void scd_exchange_set_header(scd_exchange *x, const char *name, const char *value);
bool scd_exchange_answered(const scd_exchange *x);
unsigned scd_exchange_status(const scd_exchange *x); /* 0: never answered, 499: the client left */

/* ---- holding ---- */
typedef void scd_exchange_resumed(scd_exchange *x);
/* Hold the connection, and watch for its client leaving and for the deadline (scd_watch events
 * under scd_exchange_id). `resumed` is called after scd_exchange_resume. */
scd_code scd_exchange_suspend(scd_exchange *x, int64_t deadline_ns, scd_exchange_resumed *resumed,
                              scd_error *err);
/* Any thread; the exchange must not be touched afterwards. */
void scd_exchange_resume(scd_exchange *x);
/* In `resumed`: close the connection without an answer, because the client has left. */
void scd_exchange_abandon(scd_exchange *x);

/* ---- much work, much memory ---- */
typedef void scd_exchange_work(scd_exchange *x);
/* Suspend, let prep-0 run `work`, which answers, and resume: for what would hold up the other
 * connections of an http thread. Where that cannot be, the exchange is answered with a problem. */
void scd_exchange_hand_over(scd_exchange *x, scd_exchange_work *work);
/* Let go of the body; nothing may point into it any more. */
void scd_exchange_drop_body(scd_exchange *x);
/* n bytes are kept for this exchange beside its body, until it is answered. False: with what all
 * others hold that is too much, so answer SCD_PROBLEM_OVERLOADED. Who holds all there is gets it,
 * however much. Little is not counted, so that large requests never lock single cells out. */
bool scd_exchange_keep(scd_exchange *x, size_t n);

/* ---- too large for memory ---- */
const char *scd_exchange_query(const scd_exchange *x, const char *name); /* NULL: absent */
typedef void scd_exchange_visit(void *arg, const char *name, const char *value);
void scd_exchange_each_query(const scd_exchange *x, scd_exchange_visit *fn, void *arg);

/* Where a body goes piece by piece, in an http thread. */
typedef struct scd_sink {
    /* False: no more of it is wanted; the rest is thrown away, and `handle` comes all the same.
     * part, filename: of a multipart body, each part of which begins with no bytes; else NULL. */
    bool (*take)(void *arg, const char *part, const char *filename, const char *bytes, size_t n);
    void (*end)(void *arg); /* once, when the exchange is over, whatever became of it */
    void *arg;
    uint64_t max_bytes;
    bool multipart; /* take the parts of a form, not its bytes */
} scd_sink;
/* In `begin` alone. Such bodies are neither kept, nor counted, nor decompressed. */
void scd_exchange_set_sink(scd_exchange *x, const scd_sink *sink);
bool scd_exchange_sink_over(const scd_exchange *x);   /* it was more than max_bytes */
bool scd_exchange_form_is_cut(const scd_exchange *x); /* a form without its end */

/* n bytes of the file from offset; fd is taken. A drain does not wait until they are sent. */
void scd_exchange_answer_file(scd_exchange *x, unsigned status, const char *content_type, int fd,
                              uint64_t offset, uint64_t n);

/* An answer that comes as it happens, in an http thread. */
typedef struct scd_flow {
    /* Bytes into out; 0: nothing now, until scd_exchange_wake_flow; negative: the end. */
    ssize_t (*read)(void *arg, char *out, size_t max);
    void (*end)(void *arg); /* once: x is not to be woken any more */
    void *arg;
} scd_flow;
void scd_exchange_answer_flow(scd_exchange *x, const char *content_type, const scd_flow *flow);
/* Any thread, until flow.end was called. Calls nothing back. */
void scd_exchange_wake_flow(scd_exchange *x);

#endif
