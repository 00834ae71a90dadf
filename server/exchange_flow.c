/* exchange_flow.c - see http.h: bodies that go elsewhere than to memory, and answers that come from
 * elsewhere: a file, or somebody who has something to say now and then. */
#include "server/http_impl.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FORM_BYTES = 64 << 10, FLOW_BYTES = 16 << 10 };

/* ---- the query ------------------------------------------------------------------------------ */

const char *scd_exchange_query(const scd_exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_GET_ARGUMENT_KIND, name);
}

typedef struct visit {
    scd_exchange_visit *fn;
    void *arg;
} visit;

static enum MHD_Result visit_one(void *cls, enum MHD_ValueKind kind, const char *name,
                                 const char *value)
{
    const visit *v = cls;
    (void)kind;
    v->fn(v->arg, name, value ? value : "");
    return MHD_YES;
}

void scd_exchange_each_query(const scd_exchange *x, scd_exchange_visit *fn, void *arg)
{
    visit v = {fn, arg};
    MHD_get_connection_values(x->connection, MHD_GET_ARGUMENT_KIND, visit_one, &v);
}

/* ---- bodies --------------------------------------------------------------------------------- */

static enum MHD_Result take_part(void *cls, enum MHD_ValueKind kind, const char *name,
                                 const char *filename, const char *type, const char *encoding,
                                 const char *bytes, uint64_t offset, size_t n)
{
    scd_exchange *x = cls;
    (void)kind;
    (void)type;
    (void)encoding;
    x->sunk_bytes += n;
    if (!offset && !x->sink.take(x->sink.arg, name ? name : "", filename, NULL, 0))
        return MHD_NO;
    return x->sunk_bytes <= x->sink.max_bytes &&
                   x->sink.take(x->sink.arg, name ? name : "", filename, bytes, n)
               ? MHD_YES
               : MHD_NO;
}

void scd_exchange_set_sink(scd_exchange *x, const scd_sink *sink)
{
    x->sink = *sink;
    if (sink->multipart)
        x->form = MHD_create_post_processor(x->connection, FORM_BYTES, take_part, x);
    if (sink->multipart && !x->form)
        x->sink_closed = true; /* no boundary in the header: `handle` finds nothing taken */
}

bool scd_exchange_pour(scd_exchange *x, const char *piece, size_t n)
{
    if (x->sink_closed)
        return false;
    bool ok;
    if (x->form) {
        ok = MHD_post_process(x->form, piece, n) == MHD_YES;
    } else {
        x->sunk_bytes += n;
        ok = x->sunk_bytes <= x->sink.max_bytes && x->sink.take(x->sink.arg, NULL, NULL, piece, n);
    }
    x->sink_closed = !ok;
    return ok;
}

void scd_exchange_pour_end(scd_exchange *x)
{
    if (x->form && MHD_destroy_post_processor(x->form) != MHD_YES)
        x->form_is_cut = true; /* the last part may still have been in it */
    x->form = NULL;
}

bool scd_exchange_sink_over(const scd_exchange *x)
{
    return x->sunk_bytes > x->sink.max_bytes;
}

bool scd_exchange_form_is_cut(const scd_exchange *x)
{
    return x->form_is_cut;
}

void scd_exchange_end_flows(scd_exchange *x)
{
    scd_exchange_pour_end(x);
    if (x->sink.end)
        x->sink.end(x->sink.arg);
    if (x->flow.end)
        x->flow.end(x->flow.arg);
    if (x->has_file)
        close(x->file_fd);
}

/* ---- answers -------------------------------------------------------------------------------- */

void scd_exchange_answer_file(scd_exchange *x, unsigned status, const char *content_type, int fd,
                              uint64_t offset, uint64_t n)
{
    scd_exchange_answer(x, status, content_type, NULL);
    x->has_file = true;
    x->file_fd = fd;
    x->file_offset = offset;
    x->file_bytes = n;
}

void scd_exchange_answer_flow(scd_exchange *x, const char *content_type, const scd_flow *flow)
{
    scd_exchange_answer(x, 200, content_type, NULL);
    x->flow = *flow;
}

void scd_exchange_wake_flow(scd_exchange *x)
{
    MHD_resume_connection(x->connection);
}

/* A wake that comes between read's "nothing now" and the suspension is not lost: libmicrohttpd
 * takes a resume before a suspend for one that undoes it. */
static ssize_t read_flow(void *cls, uint64_t position, char *out, size_t max)
{
    scd_exchange *x = cls;
    (void)position;
    ssize_t n = x->flow.read(x->flow.arg, out, max);
    if (!n)
        MHD_suspend_connection(x->connection);
    return n >= 0 ? n : MHD_CONTENT_READER_END_OF_STREAM;
}

struct MHD_Response *scd_exchange_response(scd_exchange *x)
{
    struct MHD_Response *r;
    if (x->flow.read) {
        r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, FLOW_BYTES, read_flow, x, NULL);
    } else if (x->has_file) {
        r = MHD_create_response_from_fd_at_offset64(x->file_bytes, x->file_fd, x->file_offset);
        if (r)
            x->has_file = false; /* the response closes it */
    } else {
        r = x->answer
                ? MHD_create_response_from_buffer(x->answer_bytes, x->answer, MHD_RESPMEM_MUST_FREE)
                : MHD_create_response_from_buffer(0, "", MHD_RESPMEM_PERSISTENT);
        if (r)
            x->answer = NULL;
    }
    return r;
}
