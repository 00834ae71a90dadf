/* http_impl.h - the body of an exchange, shared by http.c (listening) and exchange.c (one request).
 * Included by these two only. */
#ifndef SCD_HTTP_IMPL_H
#define SCD_HTTP_IMPL_H

#include "api/problem.h"
#include "server/http.h"

#include <microhttpd.h>
#include <stdatomic.h>

enum { SCD_MAX_HEADERS = 12, SCD_HEADER_BYTES = 640, SCD_REQUEST_ID_BYTES = 129 };

struct scd_http {
    scd_http_options o;
    struct MHD_Daemon *mhd;
    scd_watch *door; /* every connection, while it is open: see on_connection */
    atomic_uint_fast64_t last_connection;
    int listen_fd;
    bool quiesced;
    char url[96];
    atomic_size_t held_bytes; /* by exchanges that hold much */
    atomic_size_t answering;  /* exchanges whose body is here and whose answer is not yet sent */
    atomic_uint_fast64_t last_id;
    uint64_t id_seed; /* of the request ids that we make */
};

typedef enum scd_exchange_phase {
    SCD_PHASE_NEW,
    SCD_PHASE_BODY, /* reading it */
    SCD_PHASE_HELD, /* suspended; the next step comes after a resume */
    SCD_PHASE_DONE
} scd_exchange_phase;

struct scd_exchange {
    scd_job job; /* first: prep-0 gets this */
    scd_exchange_work *work;
    scd_http *http;
    struct MHD_Connection *connection;
    uint64_t id;
    char request_id[SCD_REQUEST_ID_BYTES];
    const char *method;
    bool is_head;
    char *path;
    scd_buf body;
    size_t kept_bytes;    /* beside the body: by the handler, then the answer */
    size_t counted_bytes; /* in http->held_bytes */
    int64_t arrived_ns;
    scd_exchange_phase phase;
    bool answered, finished, abandoned;
    bool counted;                  /* in http->answering */
    scd_problem_kind body_problem; /* not NONE: the rest is read, thrown away, and this answered */
    size_t discarded_bytes;
    scd_exchange_resumed *resumed;
    unsigned status;
    const char *content_type;
    char *answer;
    size_t answer_bytes;
    scd_sink sink;                  /* take NULL: the body goes to memory */
    struct MHD_PostProcessor *form; /* of a multipart body */
    uint64_t sunk_bytes;
    bool sink_closed, form_is_cut;
    scd_flow flow; /* read NULL: the answer is in memory, or in a file */
    bool has_file;
    int file_fd;
    uint64_t file_offset, file_bytes;
    size_t n_headers;
    struct {
        const char *name;
        char value[SCD_HEADER_BYTES];
    } headers[SCD_MAX_HEADERS];
    scd_exchange_note note;
};

scd_exchange *scd_exchange_new(scd_http *http, struct MHD_Connection *connection,
                               const char *method, const char *path);
void scd_exchange_free(scd_exchange *x);

/* Tell the layers above that it is over, the first time. */
void scd_exchange_finish(scd_exchange *x);

/* ---- exchange_flow.c ---- */
/* A piece of the body goes to the sink; false: it takes no more. */
bool scd_exchange_pour(scd_exchange *x, const char *piece, size_t n);
void scd_exchange_pour_end(scd_exchange *x);                 /* the body is whole */
struct MHD_Response *scd_exchange_response(scd_exchange *x); /* NULL: out of memory */
void scd_exchange_end_flows(scd_exchange *x);

/* One call of libmicrohttpd's access handler for this exchange. */
enum MHD_Result scd_exchange_step(scd_exchange *x, const char *upload, size_t *upload_bytes);

#endif
