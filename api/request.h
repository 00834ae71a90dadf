/* request.h - a request body becomes cells: the two forms of SPEC section 5, decoded and checked.
 *
 * Decoding is strict JSON (RFC 8259), UTF-8, with bounds on nesting and counts. Number and name
 * arrays go through a scanner of our own (json_scan.h); everything else through cJSON.
 * Shape errors are found here (types, lengths, duplicate ids, CSR structure); what a value means
 * (NaN, negative, mouse genes) is judged by engine/model when the cell is serialized.
 *
 * Members known here: model, input, timeout_ms, on_error, force, sample_id, external_ids, cells,
 * genes, matrix, ids, totals. Every other one goes to `task`, where the handler takes its own
 * fields and warns about leftovers. Members of a cell or of the matrix that nobody knows are
 * refused: a typo there would silently lose data.
 *
 * Threads: any, one request at a time each.
 * Owns:    nothing; everything lives in the caller's arena or points into the body, which must
 *          outlive the request. */
#ifndef SCD_API_REQUEST_H
#define SCD_API_REQUEST_H

#include "api/problem.h"
#include "api/text.h"
#include "engine/base/arena.h"
#include "engine/model/serialize.h"

struct cJSON;

enum {
    SCD_REQUEST_MAX_MEMBERS = 64,         /* at the top level */
    SCD_REQUEST_MAX_TASK_BYTES = 1 << 20, /* of JSON that goes through cJSON, which needs 40 times
                                             as much memory */
    SCD_REQUEST_MAX_TIMEOUT_MS = 24 * 3600 * 1000
};

typedef struct scd_request_limits {
    size_t max_cells;          /* cells in one request */
    size_t max_genes_per_cell; /* inputs of one cell, and of a shared gene list */
    size_t max_depth;          /* JSON nesting, at most 256 */
    size_t max_name_bytes;     /* one gene name or id */
} scd_request_limits;

typedef struct scd_cell_input {
    scd_text id;             /* n == 0: none given */
    size_t n;                /* inputs */
    const scd_text *genes;   /* (n) own names; NULL in the matrix form */
    const uint32_t *columns; /* (n) matrix form: index into shared_genes; NULL otherwise */
    const double *values;    /* (n) NaN: none was given, where the route allows it */
    double total;            /* 0: not given */
    /* With skip_errors a cell can be here although its content is wrong; without, such a cell is a
     * problem. NULL: nothing is wrong; otherwise n is 0. */
    const char *fault;
    const char *fault_pointer;   /* JSON pointer to what is wrong: "/cells/3/values" */
    scd_problem_kind fault_kind; /* INVALID or TOO_LARGE */
} scd_cell_input;

/* Where cells and values stand in a body of tensors (oip_request.h), as JSON pointers. */
typedef struct scd_request_places {
    const char *cells, *values; /* NULL: in a body of /v1 */
    size_t cell_step; /* elements of `cells` from one cell to the next; 0: it is the only */
    bool is_dense;    /* a cell's values stand from c * cell_step on, by their columns;
                         else all cells' one after the other */
} scd_request_places;

typedef struct scd_request {
    size_t n_cells;
    scd_cell_input *cells;
    bool is_matrix;
    size_t n_shared_genes;
    const scd_text *shared_genes; /* matrix form; also "genes" alone where no cells are required */

    scd_request_places places;

    scd_text model; /* n == 0: the default model */
    scd_input_kind input;
    int64_t timeout_ms; /* 0: none given */
    bool skip_errors;   /* "on_error": "skip" */
    bool force;
    bool cells_required;   /* in: true where the route needs cells */
    bool values_optional;  /* in: a value may be null, and a cell's "values" be left out */
    scd_text sample_id;    /* raw JSON, echoed as it is; n == 0: none */
    scd_text external_ids; /* raw JSON array, echoed; checked to be an array of n_cells */
    struct cJSON *task;    /* every other top-level member, as one object: the task's own
                              fields; cJSON_Delete it. Never NULL after SCD_PROBLEM_NONE. */
} scd_request;

/* Decode n bytes; of *out the fields called "in" alone are read. SCD_PROBLEM_NONE: *out is filled.
 * Otherwise *problem is, with JSON pointers: malformed JSON names line, column and what was
 * expected; wrong types and lengths are INVALID; counts past the limits, and an arena that is too
 * small, TOO_LARGE. */
scd_problem_kind scd_request_decode(const char *body, size_t n, const scd_request_limits *limits,
                                    scd_arena *arena, scd_request *out, scd_problem *problem);
void scd_request_release(scd_request *request);

#endif
