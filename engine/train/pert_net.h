/* pert_net.h - the network of a perturbation head while it learns: the regressor that
 * engine/denoise/response.h runs.
 *
 *     x = [e; token + direction[dir] + feature]      e (H) the control cell, feature (d) the genes'
 *     y = W2 relu(W0 x + b0) + b2                    (G) residual of the change of every gene
 *
 * The MLP is class_head's; token and direction have gradients and AdamW moments beside it.
 *
 * Threads: the device's owner. Owns: its memory, until free. */
#ifndef SCD_TRAIN_PERT_NET_H
#define SCD_TRAIN_PERT_NET_H

#include "engine/denoise/response.h"
#include "engine/train/class_head.h"

typedef struct scd_pert_net scd_pert_net;

typedef struct scd_pert_shape {
    size_t hidden_dim, feature_dim, mlp_dim, n_genes;
    size_t max_samples; /* of one step */
} scd_pert_shape;

scd_code scd_pert_net_new(const scd_backend *backend, const scd_train_ops *ops, scd_device *device,
                          const scd_pert_shape *shape, scd_pert_net **out, scd_error *err);
void scd_pert_net_free(scd_pert_net *net);

/* As new for this seed: W0 random, token and direction small, W2 and b2 zero, so that it begins by
 * changing nothing; moments zero. */
scd_code scd_pert_net_reset(scd_pert_net *net, uint64_t seed, scd_error *err);

/* One sample: a control cell and a perturbation; borrowed. */
typedef struct scd_pert_sample {
    const float *embedding; /* (H) */
    const float *feature;   /* (d) */
    scd_direction direction;
} scd_pert_sample;

/* out (n, G) on the host. */
scd_code scd_pert_net_forward(scd_pert_net *net, const scd_pert_sample *samples, size_t n,
                              float *out, scd_error *err);
/* After forward of the same samples: the loss's gradient of `out`, (n, G) on the host, and one step
 * of AdamW; step->clip bounds the gradient's norm. SCD_E_INVALID: a gradient that is not finite. */
scd_code scd_pert_net_step(scd_pert_net *net, const scd_pert_sample *samples, size_t n,
                           const float *d_out, const scd_net_step *step, scd_error *err);

/* The parameters in the order of scd_head_own_tensors: W0, b0, W2, b2, token, direction. */
size_t scd_pert_net_n_params(const scd_pert_net *net);
scd_code scd_pert_net_export(scd_pert_net *net, float *params, scd_error *err);
/* The same as engine/denoise reads them, over params (n_params). */
scd_response_net scd_pert_net_view(const scd_pert_net *net, const float *params);

#endif
