/* pert_net.c - see pert_net.h. */
#include "engine/train/pert_net.h"

#include "engine/base/mem.h"
#include "engine/base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TOKEN_STREAM = 0x50455254, N_VECTORS = 1 + SCD_N_DIRECTIONS };

struct scd_pert_net {
    const scd_backend *be;
    const scd_train_ops *ops;
    scd_device *device;
    scd_pert_shape shape;
    scd_class_head *mlp;
    float *x;                       /* device (max_samples, H + d) */
    float *vectors, *grads, *m, *v; /* device (N_VECTORS, d): token, directions */
    float *host_x;                  /* (max_samples, H + d) */
    float *host_vectors;            /* (N_VECTORS, d) */
    float *host_params;             /* (n_params of the MLP) */
};

static scd_code device_floats(scd_pert_net *p, size_t rows, size_t cols, float **out,
                              scd_error *err)
{
    size_t bytes;
    void *memory = NULL;
    if (!scd_size_mul(rows, cols, &bytes) || !scd_size_mul(bytes, sizeof(float), &bytes))
        return scd_fail(err, SCD_E_TOO_LARGE, "%zu rows of %zu numbers", rows, cols);
    scd_code code = p->be->alloc(p->device, bytes, &memory, err);
    *out = memory;
    return code;
}

scd_code scd_pert_net_new(const scd_backend *backend, const scd_train_ops *ops, scd_device *device,
                          const scd_pert_shape *shape, scd_pert_net **out, scd_error *err)
{
    *out = NULL;
    scd_pert_net *p = scd_calloc(1, sizeof *p);
    if (!p)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for a network");
    *p = (scd_pert_net){.be = backend, .ops = ops, .device = device, .shape = *shape};
    size_t width = shape->hidden_dim + shape->feature_dim, d = shape->feature_dim;
    const scd_class_head_shape mlp = {width, shape->mlp_dim, shape->n_genes, shape->max_samples};
    float **vectors[] = {&p->vectors, &p->grads, &p->m, &p->v};
    scd_code code = scd_class_head_new(backend, ops, device, &mlp, &p->mlp, err);
    if (!code)
        code = device_floats(p, shape->max_samples, width, &p->x, err);
    for (size_t i = 0; i < 4 && !code; i++)
        code = device_floats(p, N_VECTORS, d, vectors[i], err);
    p->host_x = scd_malloc(shape->max_samples * width, sizeof *p->host_x);
    p->host_vectors = scd_malloc(N_VECTORS * d, sizeof *p->host_vectors);
    if (!code)
        p->host_params = scd_malloc(scd_class_head_n_params(p->mlp), sizeof *p->host_params);
    if (!code && (!p->host_x || !p->host_vectors || !p->host_params))
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for a network");
    if (code) {
        scd_pert_net_free(p);
        return code;
    }
    *out = p;
    return SCD_OK;
}

void scd_pert_net_free(scd_pert_net *p)
{
    if (!p)
        return;
    float *blocks[] = {p->x, p->vectors, p->grads, p->m, p->v};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        p->be->free(p->device, blocks[i]);
    scd_class_head_free(p->mlp);
    free(p->host_params);
    free(p->host_vectors);
    free(p->host_x);
    free(p);
}

scd_code scd_pert_net_reset(scd_pert_net *p, uint64_t seed, scd_error *err)
{
    size_t n = scd_class_head_n_params(p->mlp), d = p->shape.feature_dim, k = p->shape.mlp_dim;
    size_t first = k * (p->shape.hidden_dim + d) + k; /* W2 and b2 follow W0 and b0 */
    float *params = p->host_params, *zero = scd_calloc(n, sizeof *zero);
    scd_code code = zero ? scd_class_head_randomize(p->mlp, seed, err)
                         : scd_fail(err, SCD_E_NOMEM, "out of memory for a network");
    if (!code)
        code = scd_class_head_export(p->mlp, params, NULL, NULL, err);
    if (!code) {
        memset(params + first, 0, (n - first) * sizeof *params);
        code = scd_class_head_import(p->mlp, params, zero, zero, err);
    }
    for (size_t i = 0; i < N_VECTORS * d; i++)
        p->host_vectors[i] = scd_rng_normal(seed, TOKEN_STREAM, i) / (float)sqrt((double)d);
    if (!code)
        code = p->be->upload(p->device, p->vectors, p->host_vectors, N_VECTORS * d * sizeof(float),
                             err);
    if (!code)
        code = p->ops->zero(p->device, p->m, N_VECTORS * d, err);
    if (!code)
        code = p->ops->zero(p->device, p->v, N_VECTORS * d, err);
    free(zero);
    return code;
}

/* host_x = the inputs of the samples; host_vectors are those of the device. */
static void fill_inputs(scd_pert_net *p, const scd_pert_sample *samples, size_t n)
{
    size_t h = p->shape.hidden_dim, d = p->shape.feature_dim;
    for (size_t i = 0; i < n; i++) {
        float *x = p->host_x + i * (h + d);
        const float *direction = p->host_vectors + (1 + (size_t)samples[i].direction) * d;
        memcpy(x, samples[i].embedding, h * sizeof *x);
        for (size_t k = 0; k < d; k++)
            x[h + k] = p->host_vectors[k] + direction[k] + samples[i].feature[k];
    }
}

scd_code scd_pert_net_forward(scd_pert_net *p, const scd_pert_sample *samples, size_t n, float *out,
                              scd_error *err)
{
    size_t width = p->shape.hidden_dim + p->shape.feature_dim;
    if (n > p->shape.max_samples)
        return scd_fail(err, SCD_E_TOO_LARGE, "%zu samples, the network has room for %zu", n,
                        p->shape.max_samples);
    fill_inputs(p, samples, n);
    scd_code code = p->be->upload(p->device, p->x, p->host_x, n * width * sizeof(float), err);
    return code ? code : scd_class_head_forward(p->mlp, p->x, n, out, err);
}

/* Sums of the inputs' gradients over the samples of each vector, to the device. */
static scd_code vector_gradients(scd_pert_net *p, const scd_pert_sample *samples, size_t n,
                                 const float *d_x, scd_error *err)
{
    size_t h = p->shape.hidden_dim, d = p->shape.feature_dim, width = h + d;
    float *sums = p->host_params; /* larger than N_VECTORS d: it has W0 */
    scd_code code = p->be->download(p->device, p->host_x, d_x, n * width * sizeof(float), err);
    memset(sums, 0, N_VECTORS * d * sizeof *sums);
    for (size_t i = 0; i < n && !code; i++)
        for (size_t k = 0; k < d; k++) {
            float g = p->host_x[i * width + h + k];
            sums[k] += g;
            sums[(1 + (size_t)samples[i].direction) * d + k] += g;
        }
    return code ? code
                : p->be->upload(p->device, p->grads, sums, N_VECTORS * d * sizeof(float), err);
}

static scd_code update_vectors(scd_pert_net *p, const scd_net_step *step, float scale,
                               scd_error *err)
{
    size_t n = N_VECTORS * p->shape.feature_dim;
    const scd_t_adamw args = {.n = n,
                              .w = p->vectors,
                              .m = p->m,
                              .v = p->v,
                              .g = p->grads,
                              .lr = step->lr,
                              .beta1 = step->beta1,
                              .beta2 = step->beta2,
                              .eps = step->eps,
                              .grad_scale = scale,
                              .bias1 = (float)(1 - pow((double)step->beta1, (double)step->step)),
                              .bias2 = (float)(1 - pow((double)step->beta2, (double)step->step))};
    scd_code code = p->ops->adamw(p->device, &args, err);
    return code ? code
                : p->be->download(p->device, p->host_vectors, p->vectors, n * sizeof(float), err);
}

scd_code scd_pert_net_step(scd_pert_net *p, const scd_pert_sample *samples, size_t n,
                           const float *d_out, const scd_net_step *step, scd_error *err)
{
    const float *d_x = NULL;
    double mlp = 0, vectors = 0;
    float scale = 1;
    scd_code code = scd_class_head_zero_grads(p->mlp, err);
    if (!code)
        code = scd_class_head_backward(p->mlp, p->x, n, d_out, &d_x, err);
    if (!code)
        code = vector_gradients(p, samples, n, d_x, err);
    if (!code)
        code = scd_class_head_squares(p->mlp, &mlp, err);
    if (!code)
        code = p->ops->sum_squares(p->device, p->grads, N_VECTORS * p->shape.feature_dim, &vectors,
                                   err);
    double norm = sqrt(mlp + vectors);
    if (!code && !isfinite(norm))
        return scd_fail(err, SCD_E_INVALID, "the gradient's norm is %g at step %llu", norm,
                        (unsigned long long)step->step);
    if (step->clip > 0 && norm > (double)step->clip)
        scale = (float)((double)step->clip / norm);
    if (!code)
        code = scd_class_head_update(p->mlp, step, scale, err);
    return code ? code : update_vectors(p, step, scale, err);
}

size_t scd_pert_net_n_params(const scd_pert_net *p)
{
    return scd_class_head_n_params(p->mlp) + N_VECTORS * p->shape.feature_dim;
}

scd_code scd_pert_net_export(scd_pert_net *p, float *params, scd_error *err)
{
    memcpy(params + scd_class_head_n_params(p->mlp), p->host_vectors,
           N_VECTORS * p->shape.feature_dim * sizeof *params);
    return scd_class_head_export(p->mlp, params, NULL, NULL, err);
}

scd_response_net scd_pert_net_view(const scd_pert_net *p, const float *params)
{
    size_t h = p->shape.hidden_dim, d = p->shape.feature_dim, k = p->shape.mlp_dim;
    scd_response_net out = {
        .hidden_dim = h, .feature_dim = d, .mlp_dim = k, .n_genes = p->shape.n_genes};
    out.w0 = params;
    out.b0 = out.w0 + k * (h + d);
    out.w2 = out.b0 + k;
    out.b2 = out.w2 + p->shape.n_genes * k;
    out.token = out.b2 + p->shape.n_genes;
    out.direction = out.token + d;
    return out;
}
