/* oip_request.h - the body of an inference request of the Open Inference Protocol (KServe's V2)
 * becomes cells.
 *
 * A body is a JSON object that names input tensors and the outputs that are wanted. The elements of
 * a tensor stand in its "data", or - the binary tensor extension of Triton - behind the JSON, one
 * tensor after the other, little-endian, a text as four bytes of length and its bytes; how long the
 * JSON is says the header Inference-Header-Content-Length. Tensors of both kinds may be mixed.
 *
 * The tensors that cells are made of, n of them, over g names:
 *
 *     genes    BYTES (g)       names of the columns; without `indices` one for each value
 *     matrix   FP32 (n, g)     dense; zeros are no values
 *     values   FP32 (entries)  or sparse: rows of a CSR matrix, one after the other,
 *     indices  INT32 (entries)   with the column of each value, or without: genes then has one
 *     indptr   INT64 (n + 1)     name for each value; where rows begin; without: one cell
 *     totals   FP64 (n)        counts of the whole cell, where not all are given
 *
 * Numbers may have any datatype that holds numbers.
 *
 * Nothing that a client says about a length is believed: shapes, sizes and lengths are checked
 * against each other and the body before anything is read or allocated by them. What contradicts
 * the body's own framing is BAD_REQUEST, other contents INVALID. Elements of binary tensors are
 * pointed at as if they stood in "data", flat.
 *
 * Threads: any, one request at a time each.
 * Owns:    nothing; everything lives in the caller's arena or points into the body. */
#ifndef SCD_API_OIP_REQUEST_H
#define SCD_API_OIP_REQUEST_H

#include "api/oip_tensor.h"
#include "api/request.h"

enum { SCD_OIP_MAX_INPUTS = 16, SCD_OIP_MAX_OUTPUTS = 64 };

typedef struct scd_oip_body {
    const char *bytes; /* (n) */
    size_t n;
    size_t n_json;   /* at the front */
    bool has_length; /* the client said n_json */
} scd_oip_body;

/* An output that is wanted. */
typedef struct scd_oip_output {
    scd_text name;
    bool has_binary, is_binary; /* "binary_data" */
} scd_oip_output;

typedef struct scd_oip_request {
    scd_text id; /* n == 0: none given */
    bool names_outputs;
    size_t n_outputs;
    scd_oip_output outputs[SCD_OIP_MAX_OUTPUTS];
    bool binary_output;  /* "binary_data_output": where an output does not say */
    const char *unknown; /* first member or parameter that nobody knows, for a warning; or NULL */
} scd_oip_request;

/* The header Inference-Header-Content-Length (NULL: absent) of a body of n bytes. */
scd_problem_kind scd_oip_frame(const char *header, const char *bytes, size_t n, scd_oip_body *out,
                               scd_problem *problem);

/* Into *out and *cells; cells->task holds the request's parameters that are not known here, for the
 * task. Release *cells as after scd_request_decode. SCD_PROBLEM_NONE, or *problem says what is
 * wrong. */
scd_problem_kind scd_oip_decode(const scd_oip_body *body, const scd_request_limits *limits,
                                scd_arena *arena, scd_oip_request *out, scd_request *cells,
                                scd_problem *problem);

/* The first of the request's parameters that are the task's; NULL: none. */
const char *scd_oip_first_parameter(const scd_request *cells);

#endif
