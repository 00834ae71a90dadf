/* oip_tensor.h - tensors of the Open Inference Protocol: their datatypes, what a request says of
 * one, and its elements as numbers or texts.
 *
 * Threads: one at a time. Owns: nothing; elements live in the decoder's arena or the body. */
#ifndef SCD_API_OIP_TENSOR_H
#define SCD_API_OIP_TENSOR_H

#include "api/request_parts.h"

typedef enum scd_oip_type {
    SCD_OIP_BOOL,
    SCD_OIP_UINT8,
    SCD_OIP_UINT16,
    SCD_OIP_UINT32,
    SCD_OIP_UINT64,
    SCD_OIP_INT8,
    SCD_OIP_INT16,
    SCD_OIP_INT32,
    SCD_OIP_INT64,
    SCD_OIP_FP16,
    SCD_OIP_BF16,
    SCD_OIP_FP32,
    SCD_OIP_FP64,
    SCD_OIP_BYTES,
    SCD_N_OIP_TYPES
} scd_oip_type;

const char *scd_oip_type_name(scd_oip_type type); /* "FP32" */
size_t scd_oip_type_bytes(scd_oip_type type);     /* of one element; 0: each has its own length */
bool scd_oip_type_parse(scd_text name, scd_oip_type *out);

enum { SCD_OIP_MAX_DIMS = 8, SCD_OIP_LENGTH_BYTES = 4 /* in front of a binary text */ };

typedef struct scd_oip_tensor {
    scd_text name;
    scd_oip_type type;
    size_t n_dims, dims[SCD_OIP_MAX_DIMS];
    size_t n; /* elements: the product of dims */
    bool is_binary;
    size_t n_binary;   /* bytes announced */
    scd_text data;     /* the bytes, or the JSON array */
    char at[32];       /* where it stands in the request: "/inputs/3" */
    char at_data[40];  /* "/inputs/3/data" */
    char at_shape[40]; /* "/inputs/3/shape" */
} scd_oip_tensor;

/* The elements, at most `max`, in row-major order: numbers of whichever datatype holds any, or
 * texts of valid UTF-8 within the decoder's limit of a name. After a fault *out is NULL. False: the
 * decoder has stopped.
 */
bool scd_oip_numbers(scd_decoder *decoder, const scd_oip_tensor *tensor, size_t max,
                     const double **out, scd_fault *fault);
bool scd_oip_texts(scd_decoder *decoder, const scd_oip_tensor *tensor, size_t max,
                   const scd_text **out, scd_fault *fault);

/* n numbers of a binary tensor from element `first` on. */
void scd_oip_convert(const scd_oip_tensor *tensor, size_t first, size_t n, double *out);

#endif
