/* oip_answer.h - the answer to an inference request of the Open Inference Protocol: tensors as
 * JSON, as binary data behind it, or some of each.
 *
 * Threads: one at a time. Owns: nothing. */
#ifndef SCD_API_OIP_ANSWER_H
#define SCD_API_OIP_ANSWER_H

#include "api/answer.h"
#include "api/oip_tensor.h"

/* An output. Its elements are what the datatype says: float (FP32), int64_t (INT64), bool (BOOL),
 * scd_text (BYTES); no other one is written. */
typedef struct scd_oip_result {
    const char *name;
    scd_oip_type type;
    size_t n_dims, dims[2];
    const void *elements;
    bool is_binary;
} scd_oip_result;

/* A parameter of the answer: a text, or a number. */
typedef struct scd_oip_parameter {
    const char *name, *text; /* text NULL: a number */
    double number;
} scd_oip_parameter;

typedef struct scd_oip_answer {
    const char *model_name, *model_version;
    scd_text id; /* n == 0: left out */
    size_t n_parameters;
    const scd_oip_parameter *parameters;
    size_t n_results;
    const scd_oip_result *results;
} scd_oip_answer;

/* Returns how long the JSON is where binary data follows it, else 0. NaN becomes null in JSON. */
size_t scd_oip_write(const scd_oip_answer *answer, scd_buf *out);

/* One line for each warning: "code: detail". */
void scd_oip_warnings(scd_buf *out, const scd_warning *warnings, size_t n);

#endif
