/* net.h - the model while it learns: parameters, gradients, and one pass forward and back.
 *
 * Parameters, gradients and AdamW's moments are one device allocation each, carved by
 * scd_model_each_tensor's list in file order, fp32. Activations are kept for the backward pass in
 * another, sized for max_rows rows. The forward pass computes what engine/model/forward.c computes,
 * in fp32, by the operations of train_ops.h; tests hold the two together.
 *
 * One micro-batch: forward, losses (each adds gradients at the final states), backward. Several of
 * them accumulate; then update.
 *
 * Threads: the device's owner. Owns: everything on the device until free. */
#ifndef SCD_TRAIN_NET_H
#define SCD_TRAIN_NET_H

#include "engine/backend/train_ops.h"
#include "engine/model/model.h"

typedef struct scd_net scd_net;

typedef struct scd_net_options {
    size_t max_rows; /* rows (tokens + cells) of one micro-batch */
} scd_net_options;

scd_code scd_net_new(const scd_backend *backend, const scd_train_ops *ops, scd_device *device,
                     const scd_model_config *config, const scd_net_options *options, scd_net **out,
                     scd_error *err);
void scd_net_free(scd_net *net);
const scd_model_config *scd_net_config(const scd_net *net);

/* All parameters in file order, one array on the device each; n of them. */
size_t scd_net_n_params(const scd_net *net);
float *scd_net_params(scd_net *net);
float *scd_net_grads(scd_net *net);
/* Where tensor `name` begins in them, and its size; SCD_E_NOT_FOUND. */
scd_code scd_net_tensor(const scd_net *net, const char *name, size_t *first, size_t *n,
                        scd_error *err);

/* Parameters from an opened model (any dtype), or random as `init` writes them for this seed. */
scd_code scd_net_load(scd_net *net, const scd_safetensors *tensors, scd_error *err);
scd_code scd_net_randomize(scd_net *net, uint64_t seed, scd_error *err);
/* Write model.safetensors at `path` (temporary file, fsync, rename). */
scd_code scd_net_save(scd_net *net, const char *path, scd_dtype dtype, scd_error *err);

/* A micro-batch on the host, cells packed: rows [LAT], token 1, ..., as in backend.h. */
typedef struct scd_net_batch {
    size_t n_cells, n_rows;
    const uint32_t *cu_rows; /* (C + 1) */
    const int32_t *ids;      /* (R) true genes; -1 in [LAT] rows */
    const float *values;     /* (R) values the model sees (corrupted); 0 in [LAT] rows */
    const uint8_t *hidden;   /* (R) SCD_HIDE_* bits */
    const uint32_t *pos;     /* (R) */

    /* Pre-training targets: rows of M, in row order. */
    size_t n_masked;             /* rows with a value target */
    const uint32_t *masked;      /* (n_masked) row numbers, ascending */
    const float *targets;        /* (n_masked) clean values */
    size_t n_gene_masked;        /* some or all of them, ascending: rows with a gene target too */
    const uint32_t *gene_masked; /* (n_gene_masked) row numbers */
    const int32_t *gene_targets; /* (n_gene_masked) */
} scd_net_batch;

/* Final-norm states of [LAT] and of the masked rows (o_proj and MLP of the last layer are computed
 * for these alone); kept on the device until the next call. `use_latent` 0: the ablation without
 * [LAT]: z is the zero vector and no gradient flows into the latent encoder. SCD_E_INVALID names
 * what does not fit in the batch; SCD_E_TOO_LARGE: more than max_rows rows. */
scd_code scd_net_forward(scd_net *net, const scd_net_batch *batch, int use_latent, scd_error *err);

/* [LAT] states (C, H) to host memory, after forward. */
scd_code scd_net_latents(scd_net *net, float *host_out, scd_error *err);

/* What the pre-training objective says of the batch after forward: sums over M (not means). */
typedef struct scd_net_loss {
    double gene_sum, value_sum;      /* sums of cross-entropy and of squared error */
    size_t n_gene, n_value, n_right; /* n_right: argmax is the gene */
} scd_net_loss;

/* Losses and, where a scale is not 0, gradients of gene_scale * gene_sum + value_scale * value_sum:
 * those of gene_head and value_head are added to the parameters' gradients, those of the final
 * states wait for scd_net_backward. Predicted values and genes are left in scd_net_get_predictions.
 */
scd_code scd_net_pretrain_loss(scd_net *net, float gene_scale, float value_scale, scd_net_loss *out,
                               scd_error *err);

/* Host copies of the last pretrain_loss: value (n_masked), gene and its loss (n_gene_masked). */
typedef struct scd_net_predictions {
    const float *value;
    const int32_t *gene;
    const float *gene_loss;
} scd_net_predictions;
scd_code scd_net_get_predictions(scd_net *net, scd_net_predictions *out, scd_error *err);

/* The [LAT] states on the device (C, H), after forward; and a head's gradient of them, d_latents
 * (C, H) on the device, added to what waits for scd_net_backward. */
const float *scd_net_device_latents(const scd_net *net);
scd_code scd_net_latent_gradient(scd_net *net, const float *d_latents, scd_error *err);

/* From the gradients that wait at the final states to those of the parameters ("+="): first_layer 0
 * trains everything; k > 0 only layers k, k + 1, ... and the final norm. Once for each forward. */
scd_code scd_net_backward(scd_net *net, size_t first_layer, scd_error *err);

scd_code scd_net_zero_grads(scd_net *net, scd_error *err);

/* The optimizer's state lies with the parameters (moments m and v). */
typedef struct scd_net_step {
    uint64_t step; /* 1, 2, ...: AdamW's bias correction */
    float lr, beta1, beta2, eps, decay;
    float clip;           /* largest norm of the gradient; 0: no clipping */
    size_t first_layer;   /* as in scd_net_backward: what is frozen does not move */
    double extra_squares; /* squares of gradients that others hold (a head's): part of the norm */
} scd_net_step;
/* *norm: the gradient's norm before clipping; *scale what others must multiply theirs by. Norms,
 * biases and embeddings (genes and masks) are not decayed. SCD_E_INVALID: a gradient that is not
 * finite (*norm says so too); nothing has moved then. */
scd_code scd_net_update(scd_net *net, const scd_net_step *step, double *norm, float *scale,
                        scd_error *err);

/* For checkpoints: params, m, v as three arrays of n_params on the host; NULL: left alone. */
scd_code scd_net_export_state(scd_net *net, float *params, float *m, float *v, scd_error *err);
scd_code scd_net_import_state(scd_net *net, const float *params, const float *m, const float *v,
                              scd_error *err);

#endif
