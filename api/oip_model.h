/* oip_model.h - a model in the words of the Open Inference Protocol: its metadata, its
 * configuration in those of Triton, and the question for the list of models.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_API_OIP_MODEL_H
#define SCD_API_OIP_MODEL_H

#include "api/oip_tensor.h"

/* An output that a model has. */
typedef struct scd_oip_output_kind {
    const char *name;
    scd_oip_type type;
    size_t n_dims; /* the first is the number of cells */
    size_t width;  /* the second; 0: it varies */
} scd_oip_output_kind;

typedef struct scd_oip_property {
    const char *name, *value;
} scd_oip_property;

typedef struct scd_oip_model {
    const char *name, *version;
    size_t n_outputs;
    const scd_oip_output_kind *outputs;
    size_t n_properties;
    const scd_oip_property *properties;
} scd_oip_model;

/* The inputs are those that every model has (oip_request.h). */
void scd_oip_write_metadata(const scd_oip_model *model, scd_buf *out);
void scd_oip_write_config(const scd_oip_model *model, scd_buf *out);

/* The body of POST /v2/repository/index, which may be empty: are only models wanted that are
 * ready? */
scd_problem_kind scd_oip_index_decode(const char *body, size_t n, const scd_request_limits *limits,
                                      scd_arena *arena, bool *ready_only, scd_problem *problem);

#endif
