/* class_head.c - see class_head.h. */
#include "engine/train/class_head.h"

#include "engine/base/mem.h"
#include "engine/base/rng.h"

#include <math.h>
#include <stdlib.h>

enum { W0, B0, W2, B2 };
static const char *const names[SCD_CLASS_HEAD_TENSORS] = {"mlp.0.weight", "mlp.0.bias",
                                                          "mlp.2.weight", "mlp.2.bias"};

struct scd_class_head {
    const scd_backend *be;
    const scd_train_ops *ops;
    scd_device *device;
    scd_class_head_shape shape;
    size_t first[SCD_CLASS_HEAD_TENSORS], size[SCD_CLASS_HEAD_TENSORS], n_params;
    float *params, *grads, *m, *v; /* device (n_params) */
    float *activations;            /* device: what follows */
    float *hidden, *logits, *targets, *weights, *loss, *d_logits, *d_hidden, *d_latents;
    float *host; /* (max of n_params and max_cells): transfers */
};

static scd_code device_floats(scd_class_head *h, size_t n, float **out, scd_error *err)
{
    void *memory = NULL;
    size_t bytes;
    if (!scd_size_mul(n, sizeof(float), &bytes))
        return scd_fail(err, SCD_E_TOO_LARGE, "a head of %zu numbers", n);
    scd_code code = h->be->alloc(h->device, bytes, &memory, err);
    *out = memory;
    return code ? code : h->ops->zero(h->device, *out, n, err);
}

static scd_code allocate(scd_class_head *h, scd_error *err)
{
    size_t cells = h->shape.max_cells, k = h->shape.mlp_dim, c = h->shape.classes;
    float **params[] = {&h->params, &h->grads, &h->m, &h->v};
    scd_code code = SCD_OK;
    for (size_t i = 0; i < 4 && !code; i++)
        code = device_floats(h, h->n_params, params[i], err);
    if (!code)
        code = device_floats(h, cells * (2 * k + 3 * c + 2 + h->shape.hidden_dim), &h->activations,
                             err);
    if (code)
        return code;
    float *at = h->activations;
    const struct {
        float **piece;
        size_t n;
    } table[] = {{&h->hidden, cells * k},   {&h->d_hidden, cells * k},
                 {&h->logits, cells * c},   {&h->targets, cells * c},
                 {&h->d_logits, cells * c}, {&h->weights, cells},
                 {&h->loss, cells},         {&h->d_latents, cells * h->shape.hidden_dim}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        *table[i].piece = at;
        at += table[i].n;
    }
    h->host = scd_malloc(h->n_params > cells ? h->n_params : cells, sizeof *h->host);
    return h->host ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "out of memory for a head");
}

scd_code scd_class_head_new(const scd_backend *backend, const scd_train_ops *ops,
                            scd_device *device, const scd_class_head_shape *shape,
                            scd_class_head **out, scd_error *err)
{
    *out = NULL;
    scd_class_head *h = scd_calloc(1, sizeof *h);
    if (!h)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for a head");
    *h = (scd_class_head){.be = backend, .ops = ops, .device = device, .shape = *shape};
    h->size[W0] = shape->mlp_dim * shape->hidden_dim;
    h->size[B0] = shape->mlp_dim;
    h->size[W2] = shape->classes * shape->mlp_dim;
    h->size[B2] = shape->classes;
    for (size_t i = 0; i < SCD_CLASS_HEAD_TENSORS; i++) {
        h->first[i] = h->n_params;
        h->n_params += h->size[i];
    }
    scd_code code = allocate(h, err);
    if (code) {
        scd_class_head_free(h);
        return code;
    }
    *out = h;
    return SCD_OK;
}

void scd_class_head_free(scd_class_head *h)
{
    if (!h)
        return;
    float *blocks[] = {h->params, h->grads, h->m, h->v, h->activations};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        h->be->free(h->device, blocks[i]);
    free(h->host);
    free(h);
}

void scd_class_head_entries(const scd_class_head *h,
                            scd_tensor_entry entries[SCD_CLASS_HEAD_TENSORS])
{
    entries[W0] = (scd_tensor_entry){names[W0], SCD_F32, h->shape.mlp_dim, h->shape.hidden_dim};
    entries[B0] = (scd_tensor_entry){names[B0], SCD_F32, h->shape.mlp_dim, 0};
    entries[W2] = (scd_tensor_entry){names[W2], SCD_F32, h->shape.classes, h->shape.mlp_dim};
    entries[B2] = (scd_tensor_entry){names[B2], SCD_F32, h->shape.classes, 0};
}

scd_code scd_class_head_randomize(scd_class_head *h, uint64_t seed, scd_error *err)
{
    const size_t fan_in[] = {h->shape.hidden_dim, 0, h->shape.mlp_dim, 0};
    for (size_t t = 0; t < SCD_CLASS_HEAD_TENSORS; t++)
        for (size_t i = 0; i < h->size[t]; i++)
            h->host[h->first[t] + i] =
                fan_in[t]
                    ? (2 * scd_rng_uniform(seed, 0x48454144 + t, i) - 1) / sqrtf((float)fan_in[t])
                    : 0;
    return h->be->upload(h->device, h->params, h->host, h->n_params * sizeof(float), err);
}

scd_code scd_class_head_load(scd_class_head *h, const scd_safetensors *tensors, scd_error *err)
{
    scd_tensor_entry entries[SCD_CLASS_HEAD_TENSORS];
    scd_class_head_entries(h, entries);
    for (size_t t = 0; t < SCD_CLASS_HEAD_TENSORS; t++) {
        scd_tensor tensor;
        scd_code code =
            scd_safetensors_get(tensors, names[t], entries[t].rows, entries[t].cols, &tensor, err);
        if (code)
            return code;
        scd_tensor_to_f32(&tensor, 0, h->size[t], h->host + h->first[t]);
    }
    return h->be->upload(h->device, h->params, h->host, h->n_params * sizeof(float), err);
}

scd_code scd_class_head_forward(scd_class_head *h, const float *latents, size_t n,
                                float *host_logits, scd_error *err)
{
    size_t k = h->shape.mlp_dim, c = h->shape.classes;
    if (n > h->shape.max_cells)
        return scd_fail(err, SCD_E_TOO_LARGE, "%zu cells, the head has room for %zu", n,
                        h->shape.max_cells);
    scd_t_linear in = {n,        h->shape.hidden_dim,      k,
                       latents,  h->params + h->first[W0], h->params + h->first[B0],
                       h->hidden};
    scd_t_linear out = {
        n, k, c, h->hidden, h->params + h->first[W2], h->params + h->first[B2], h->logits};
    scd_code code = h->ops->linear(h->device, &in, err);
    if (!code)
        code = h->ops->relu(h->device, h->hidden, n * k, err);
    if (!code)
        code = h->ops->linear(h->device, &out, err);
    if (!code && host_logits)
        code = h->be->download(h->device, host_logits, h->logits, n * c * sizeof(float), err);
    return code;
}

/* d_logits -> gradients of all parameters and d_latents. */
static scd_code backward(scd_class_head *h, const float *latents, size_t n, scd_error *err)
{
    size_t k = h->shape.mlp_dim;
    scd_t_linear_back out = {.rows = n,
                             .in_dim = k,
                             .out_dim = h->shape.classes,
                             .x = h->hidden,
                             .w = h->params + h->first[W2],
                             .dy = h->d_logits,
                             .dx = h->d_hidden,
                             .dw = h->grads + h->first[W2],
                             .db = h->grads + h->first[B2]};
    scd_t_linear_back in = {.rows = n,
                            .in_dim = h->shape.hidden_dim,
                            .out_dim = k,
                            .x = latents,
                            .w = h->params + h->first[W0],
                            .dy = h->d_hidden,
                            .dx = h->d_latents,
                            .dw = h->grads + h->first[W0],
                            .db = h->grads + h->first[B0]};
    scd_code code = h->ops->linear_back(h->device, &out, err);
    if (!code)
        code = h->ops->relu_back(h->device, h->hidden, n * k, h->d_hidden, err);
    return code ? code : h->ops->linear_back(h->device, &in, err);
}

scd_code scd_class_head_loss(scd_class_head *h, const float *latents, size_t n,
                             const float *targets, const float *weights, float scale, double *loss,
                             const float **d_latents, scd_error *err)
{
    size_t c = h->shape.classes;
    scd_t_class_loss args = {n, c, h->logits, h->targets, h->weights, scale, h->loss, h->d_logits};
    *loss = 0;
    *d_latents = h->d_latents;
    scd_code code = h->be->upload(h->device, h->targets, targets, n * c * sizeof(float), err);
    if (!code)
        code = h->be->upload(h->device, h->weights, weights, n * sizeof(float), err);
    if (!code)
        code = h->ops->class_loss(h->device, &args, err);
    if (!code)
        code = h->be->download(h->device, h->host, h->loss, n * sizeof(float), err);
    for (size_t i = 0; i < n && !code; i++)
        *loss += (double)h->host[i];
    return code ? code : backward(h, latents, n, err);
}

scd_code scd_class_head_backward(scd_class_head *h, const float *latents, size_t n,
                                 const float *d_logits, const float **d_latents, scd_error *err)
{
    size_t bytes = n * h->shape.classes * sizeof(float);
    *d_latents = h->d_latents;
    scd_code code = h->be->upload(h->device, h->d_logits, d_logits, bytes, err);
    return code ? code : backward(h, latents, n, err);
}

scd_code scd_class_head_zero_grads(scd_class_head *h, scd_error *err)
{
    return h->ops->zero(h->device, h->grads, h->n_params, err);
}

scd_code scd_class_head_squares(scd_class_head *h, double *out, scd_error *err)
{
    return h->ops->sum_squares(h->device, h->grads, h->n_params, out, err);
}

scd_code scd_class_head_update(scd_class_head *h, const scd_net_step *step, float scale,
                               scd_error *err)
{
    scd_code code = SCD_OK;
    for (size_t t = 0; t < SCD_CLASS_HEAD_TENSORS && !code; t++) {
        size_t at = h->first[t];
        scd_t_adamw args = {.n = h->size[t],
                            .w = h->params + at,
                            .m = h->m + at,
                            .v = h->v + at,
                            .g = h->grads + at,
                            .lr = step->lr,
                            .beta1 = step->beta1,
                            .beta2 = step->beta2,
                            .eps = step->eps,
                            .decay = t == W0 || t == W2 ? step->decay : 0,
                            .grad_scale = scale,
                            .bias1 = (float)(1 - pow((double)step->beta1, (double)step->step)),
                            .bias2 = (float)(1 - pow((double)step->beta2, (double)step->step))};
        code = h->ops->adamw(h->device, &args, err);
    }
    return code;
}

size_t scd_class_head_n_params(const scd_class_head *h)
{
    return h->n_params;
}

scd_code scd_class_head_export(scd_class_head *h, float *params, float *m, float *v, scd_error *err)
{
    float *to[] = {params, m, v}, *from[] = {h->params, h->m, h->v};
    scd_code code = SCD_OK;
    for (size_t i = 0; i < 3 && !code; i++)
        if (to[i])
            code = h->be->download(h->device, to[i], from[i], h->n_params * sizeof(float), err);
    return code;
}

scd_code scd_class_head_import(scd_class_head *h, const float *params, const float *m,
                               const float *v, scd_error *err)
{
    const float *from[] = {params, m, v};
    float *to[] = {h->params, h->m, h->v};
    scd_code code = SCD_OK;
    for (size_t i = 0; i < 3 && !code; i++)
        if (from[i])
            code = h->be->upload(h->device, to[i], from[i], h->n_params * sizeof(float), err);
    return code;
}
