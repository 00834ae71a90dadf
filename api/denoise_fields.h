/* denoise_fields.h - the task's own fields of POST /v1/denoise and /v1/generate, out of
 * scd_request.task.
 *
 * What they mean for a model - which genes it has, how many tokens a cell may have - is judged
 * where the model is known.
 *
 * Threads: any. Owns: nothing; lists live in the caller's arena, names point into the request. */
#ifndef SCD_API_DENOISE_FIELDS_H
#define SCD_API_DENOISE_FIELDS_H

#include "api/request.h"
#include "engine/denoise/course.h"

enum { SCD_MAX_LENGTHS = 10000 }; /* of the list that "length" may be */

typedef struct scd_names {
    scd_text *names; /* (n) */
    size_t n;
    bool given;
} scd_names;

/* How hidden tokens become genes: the same on both routes. */
typedef struct scd_sampling_fields {
    size_t steps;         /* 0: none given */
    bool has_temperature; /* else 0 */
    float temperature, confidence;
    bool refresh;
    bool has_pooling, clean;
    scd_names candidates;
} scd_sampling_fields;

typedef struct scd_denoise_fields {
    double fraction; /* of the tokens, above 0 and below 1; 0: none given */
    uint64_t seed;
    scd_names mask, impute; /* of mask.genes; exactly one of fraction, mask and impute is given */
    scd_sampling_fields sampling;
    bool has_per_gene, per_gene; /* "gene_scores" */
    const char *unknown; /* first member that nobody knows, borrowed from the request; or NULL */
} scd_denoise_fields;

typedef struct scd_generate_fields {
    size_t n; /* 1 where none is given */
    uint64_t seed;
    size_t *lengths; /* (n_lengths) one, or those to draw from; NULL: none given */
    size_t n_lengths;
    double *values; /* (n_values) of the visible genes, null as NaN; NULL: none given */
    size_t n_values;
    scd_sampling_fields sampling;
    const char *unknown;
} scd_generate_fields;

/* Otherwise *problem says which fields and what they may be; TOO_LARGE: out of memory. */
scd_problem_kind scd_denoise_fields_decode(const scd_request *request, scd_arena *arena,
                                           scd_denoise_fields *out, scd_problem *problem);
scd_problem_kind scd_generate_fields_decode(const scd_request *request, scd_arena *arena,
                                            scd_generate_fields *out, scd_problem *problem);

/* An array of at least one gene name, none empty. `pointer` says where it stands. */
void scd_names_read(const struct cJSON *value, const char *pointer, scd_arena *arena,
                    scd_names *out, scd_problem *problem);

#endif
