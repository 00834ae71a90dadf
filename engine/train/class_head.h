/* class_head.h - a head's MLP while it learns: logits = W2 relu(W0 e + b0) + b2. Classes are the
 * labels of an annotation head; or the genes of a regressor, whose loss is the caller's.
 *
 * Names and shapes are those of engine/denoise/head.h. Parameters, gradients and AdamW's moments
 * are one device allocation each.
 *
 * Threads: the device's owner. Owns: its memory on the device, until free. */
#ifndef SCD_TRAIN_CLASS_HEAD_H
#define SCD_TRAIN_CLASS_HEAD_H

#include "engine/train/net.h"

typedef struct scd_class_head scd_class_head;

typedef struct scd_class_head_shape {
    size_t hidden_dim, mlp_dim, classes;
    size_t max_cells; /* of one micro-batch */
} scd_class_head_shape;

scd_code scd_class_head_new(const scd_backend *backend, const scd_train_ops *ops,
                            scd_device *device, const scd_class_head_shape *shape,
                            scd_class_head **out, scd_error *err);
void scd_class_head_free(scd_class_head *head);

/* Uniform in +-1/sqrt(fan in), biases 0. */
scd_code scd_class_head_randomize(scd_class_head *head, uint64_t seed, scd_error *err);
scd_code scd_class_head_load(scd_class_head *head, const scd_safetensors *tensors, scd_error *err);

/* The head's four tensors in the order of its parameters; entries' dtype is left at F32. */
enum { SCD_CLASS_HEAD_TENSORS = 4 };
void scd_class_head_entries(const scd_class_head *head,
                            scd_tensor_entry entries[SCD_CLASS_HEAD_TENSORS]);

/* Logits of n cells from their [LAT] states on the device; host_logits (n, classes), may be NULL.
 */
scd_code scd_class_head_forward(scd_class_head *head, const float *latents, size_t n,
                                float *host_logits, scd_error *err);

/* After forward of the same cells: host targets (n, classes) and weights (n). Adds the gradient of
 * scale * sum of weight * cross-entropy to the parameters' and leaves that of the [LAT] states on
 * the device: *d_latents (n, hidden), until the next call. *loss: the sum, without scale. */
scd_code scd_class_head_loss(scd_class_head *head, const float *latents, size_t n,
                             const float *targets, const float *weights, float scale, double *loss,
                             const float **d_latents, scd_error *err);

/* After forward of the same cells, with a loss of the caller's own: its gradient of the logits on
 * the host, (n, classes). Adds the parameters' gradients and leaves *d_latents as above. */
scd_code scd_class_head_backward(scd_class_head *head, const float *latents, size_t n,
                                 const float *d_logits, const float **d_latents, scd_error *err);

scd_code scd_class_head_zero_grads(scd_class_head *head, scd_error *err);
/* The squares of the gradients, for the norm that net and head share. */
scd_code scd_class_head_squares(scd_class_head *head, double *out, scd_error *err);
/* AdamW with the net's step; `scale` from scd_net_update. Biases are not decayed. */
scd_code scd_class_head_update(scd_class_head *head, const scd_net_step *step, float scale,
                               scd_error *err);

size_t scd_class_head_n_params(const scd_class_head *head);
scd_code scd_class_head_export(scd_class_head *head, float *params, float *m, float *v,
                               scd_error *err); /* each (n_params) or NULL */
scd_code scd_class_head_import(scd_class_head *head, const float *params, const float *m,
                               const float *v, scd_error *err); /* m, v may be NULL: left alone */

#endif
