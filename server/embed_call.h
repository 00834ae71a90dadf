/* embed_call.h - one request for embeddings on its way through the daemon.
 *
 *     handle_embeddings.c   the flow: which thread does which step
 *     embed_prepare.c       body -> request -> cells -> keys -> what the cache has
 *     embed_answer.c        vectors -> JSON or .npy
 *
 * A request may wait long for its cells, so what it was read from - the body, names, values - goes
 * as soon as the cells are serialized, and what stays counts (scd_exchange_keep).
 *
 * Threads: one at a time; it moves from an http thread (or prep-0 for much work) to the batcher and
 *          back.
 * Owns:    its arenas; all else that hangs on it lives there or in the exchange. */
#ifndef SCD_EMBED_CALL_H
#define SCD_EMBED_CALL_H

#include "api/answer.h"
#include "server/daemon.h"

enum { SCD_MAX_WARNINGS = 8 };

typedef struct scd_embed_cell {
    scd_text id;
    scd_cell cell;
    scd_digest key;
    scd_source source;
    bool bad; /* answered with an error in its place (on_error: skip) */
    const char *detail, *pointer;
    scd_problem_kind kind;
    float *vector; /* (HIDDEN_DIM) */
} scd_embed_cell;

typedef struct scd_embed_call {
    scd_job job; /* first: prep-0 gets this */
    scd_daemon *d;
    scd_exchange *x;
    uint64_t id; /* of the exchange; names the batcher's ticket */
    bool large;  /* much work: prepared and printed by prep-0 */
    bool as_npy;
    bool want_memo;
    scd_digest memo_key;

    scd_arena input; /* the decoded request, until it is prepared */
    scd_arena arena; /* the rest */
    scd_request request;
    bool decoded;        /* request must be released */
    int64_t deadline_ns; /* from the arrival of the headers; SCD_NEVER: none was asked for */
    scd_encoding encoding;
    size_t model_index;
    const scd_served_model *model;
    scd_embed_cell *cells; /* (request.n_cells) */
    float *vectors;        /* (request.n_cells, HIDDEN_DIM) */
    scd_order *orders;     /* (n_orders) the cells that the cache did not have */
    size_t n_orders, n_hits;
    size_t n_warnings;
    scd_warning warnings[SCD_MAX_WARNINGS];

    scd_problem problem; /* kind NONE: all is well */
    scd_outcome outcome;
    double cache_s;
} scd_embed_call;

/* Decode the body, as far as what is asked for. False: call->problem is set. */
bool scd_embed_decode(scd_embed_call *call);

/* Resolve, serialize, look up; lets go of the body. False: call->problem is set. */
bool scd_embed_prepare(scd_embed_call *call);

/* The decoded request goes, if there is one. */
void scd_embed_drop_input(scd_embed_call *call);

/* About what the answer will have. */
size_t scd_embed_answer_bytes(const scd_embed_call *call);

/* Answer the exchange: the list, the matrix, or the problem. */
void scd_embed_answer(scd_embed_call *call);

#endif
