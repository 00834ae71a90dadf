/* genes_request.h - the body of POST /v1/genes: names whose resolution is asked for.
 *
 *     {"genes": ["CD3D", ...], "values": [2, ...], "input": "counts", "model": "tiny"}
 *
 * Only "genes" is required; "values" belong to the names one by one and let the answer say which
 * fraction of the counts is mapped. Members that nobody knows are refused.
 *
 * Threads: any, one request at a time each.
 * Owns:    nothing; everything lives in the caller's arena or points into the body, which must
 *          outlive the request. */
#ifndef SCD_API_GENES_REQUEST_H
#define SCD_API_GENES_REQUEST_H

#include "api/request.h"

typedef struct scd_genes_request {
    size_t n;
    const scd_text *genes; /* (n) */
    const double *values;  /* (n), NULL: none given */
    scd_input_kind input;  /* what the values are */
    scd_text model;        /* n == 0: the default model */
} scd_genes_request;

/* At most limits->max_genes_per_cell names. Otherwise as scd_request_decode. */
scd_problem_kind scd_genes_request_decode(const char *body, size_t n,
                                          const scd_request_limits *limits, scd_arena *arena,
                                          scd_genes_request *out, scd_problem *problem);

#endif
