/* grn_fields.h - the task's own fields of POST /v1/grn, out of scd_request.task.
 *
 * What they mean for a model - which genes, how many layers and heads it has - is judged where the
 * model is known.
 *
 * Threads: any. Owns: nothing; lists live in the caller's arena, names point into the request. */
#ifndef SCD_API_GRN_FIELDS_H
#define SCD_API_GRN_FIELDS_H

#include "api/denoise_fields.h"

enum { SCD_MAX_REGULATORS = 32, SCD_GRN_TOP_K = 20 };

typedef struct scd_numbers {
    size_t *numbers; /* (n) */
    size_t n;
} scd_numbers;

typedef struct scd_grn_fields {
    scd_names regulators;      /* 1 to SCD_MAX_REGULATORS */
    size_t top_k;              /* SCD_GRN_TOP_K where none is given */
    scd_numbers layers, heads; /* from 0; n == 0: all */
    const char *unknown;       /* first member that nobody knows, borrowed; or NULL */
} scd_grn_fields;

scd_problem_kind scd_grn_fields_decode(const scd_request *request, scd_arena *arena,
                                       scd_grn_fields *out, scd_problem *problem);

#endif
