/* train.h - what the files of the training operations (train_*.cu) share.
 *
 * Everything is fp32, whatever the precision of the device. Products go to cuBLASLt; sums over rows
 * are cut into chunks of SCD_TRAIN_CHUNK rows, whose parts are added in order by
 * scd_cuda_add_parts: how work is cut follows from the shapes alone, so that the same arguments
 * give the same bits.
 *
 * Scratch is the device's one block (cuda.h), carved anew by every operation; it grows where an
 * operation first meets a larger shape and never after.
 *
 * Threads: the owner. */
#ifndef SCD_CUDA_TRAIN_H
#define SCD_CUDA_TRAIN_H

#include "engine/backend/train_ops.h"
#include "engine/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SCD_TRAIN_CHUNK = 128 };

/* dst (width) += each of n rows of `parts` that are `stride` floats apart, in order. */
scd_code scd_cuda_add_parts(scd_device *device, const float *parts, size_t n, size_t stride,
                            size_t width, float *dst, scd_error *err);

/* ---- the operations, see train_ops.h ---- */

scd_code scd_t_cuda_linear(scd_device *, const scd_t_linear *, scd_error *);
scd_code scd_t_cuda_linear_back(scd_device *, const scd_t_linear_back *, scd_error *);
scd_code scd_t_cuda_rms_norm(scd_device *, const scd_t_rms_norm *, scd_error *);
scd_code scd_t_cuda_rms_norm_back(scd_device *, const scd_t_rms_norm_back *, scd_error *);
scd_code scd_t_cuda_norm_relu(scd_device *, const scd_t_norm_relu *, scd_error *);
scd_code scd_t_cuda_norm_relu_back(scd_device *, const scd_t_norm_relu_back *, scd_error *);
scd_code scd_t_cuda_rope(scd_device *, const scd_t_rope *, scd_error *);
scd_code scd_t_cuda_attention(scd_device *, const scd_t_attention *, scd_error *);
scd_code scd_t_cuda_attention_back(scd_device *, const scd_t_attention_back *, scd_error *);
scd_code scd_t_cuda_swiglu(scd_device *, const scd_t_swiglu *, scd_error *);
scd_code scd_t_cuda_swiglu_back(scd_device *, const scd_t_swiglu_back *, scd_error *);
scd_code scd_t_cuda_value_in(scd_device *, const scd_t_value_in *, scd_error *);
scd_code scd_t_cuda_value_in_back(scd_device *, const scd_t_value_in_back *, scd_error *);
scd_code scd_t_cuda_embed(scd_device *, const scd_t_embed *, scd_error *);
scd_code scd_t_cuda_embed_back(scd_device *, const scd_t_embed_back *, scd_error *);
scd_code scd_t_cuda_rows_get(scd_device *, const scd_t_rows *, scd_error *);
scd_code scd_t_cuda_rows_add(scd_device *, const scd_t_rows *, scd_error *);
scd_code scd_t_cuda_gene_loss(scd_device *, const scd_t_gene_loss *, scd_error *);
scd_code scd_t_cuda_class_loss(scd_device *, const scd_t_class_loss *, scd_error *);
scd_code scd_t_cuda_copy(scd_device *, const float *x, size_t n, float *y, scd_error *);
scd_code scd_t_cuda_add(scd_device *, const float *x, size_t n, float *y, scd_error *);
scd_code scd_t_cuda_zero(scd_device *, float *y, size_t n, scd_error *);
scd_code scd_t_cuda_relu(scd_device *, float *y, size_t n, scd_error *);
scd_code scd_t_cuda_relu_back(scd_device *, const float *y, size_t n, float *dy, scd_error *);
scd_code scd_t_cuda_sum_squares(scd_device *, const float *x, size_t n, double *host_out,
                                scd_error *);
scd_code scd_t_cuda_adamw(scd_device *, const scd_t_adamw *, scd_error *);

#ifdef __cplusplus
}
#endif
#endif
