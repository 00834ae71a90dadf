/* gene_head.c - see gene_head.h. */
#include "engine/train/gene_head.h"

#include "engine/base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct scd_gene_head {
    const scd_backend *be;
    const scd_train_ops *ops;
    scd_device *device;
    scd_gene_term term; /* of host: weight (vocab, classes), behind it bias (classes) */
    size_t n_params;
    float *grads;                   /* (n_params) host: of this step */
    float *w, *m, *v, *g;           /* device (n_params) */
    double *logits, *probabilities; /* (classes) of one cell */
};

static scd_code device_floats(scd_gene_head *h, float **out, scd_error *err)
{
    void *memory = NULL;
    scd_code code = h->be->alloc(h->device, h->n_params * sizeof(float), &memory, err);
    *out = memory;
    return code ? code : h->ops->zero(h->device, *out, h->n_params, err);
}

scd_code scd_gene_head_new(const scd_backend *backend, const scd_train_ops *ops, scd_device *device,
                           size_t vocab, size_t classes, scd_gene_head **out, scd_error *err)
{
    *out = NULL;
    scd_gene_head *h = scd_calloc(1, sizeof *h);
    if (!h)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for a head");
    h->be = backend;
    h->ops = ops;
    h->device = device;
    h->term = (scd_gene_term){.vocab = vocab, .classes = classes};
    scd_code code = SCD_OK;
    size_t bytes;
    if (!scd_size_mul(vocab + 1, classes, &h->n_params) ||
        !scd_size_mul(h->n_params, sizeof(float), &bytes))
        code = scd_fail(err, SCD_E_TOO_LARGE, "%zu genes of %zu labels", vocab, classes);
    if (!code && (!(h->term.weight = scd_calloc(h->n_params, sizeof(float))) ||
                  !(h->grads = scd_calloc(h->n_params, sizeof(float))) ||
                  !(h->logits = scd_malloc(classes, sizeof *h->logits)) ||
                  !(h->probabilities = scd_malloc(classes, sizeof *h->probabilities))))
        code =
            scd_fail(err, SCD_E_NOMEM, "out of memory for %zu genes of %zu labels", vocab, classes);
    float **blocks[] = {&h->w, &h->m, &h->v, &h->g};
    for (size_t i = 0; i < 4 && !code; i++)
        code = device_floats(h, blocks[i], err);
    if (code) {
        scd_gene_head_free(h);
        return code;
    }
    h->term.bias = h->term.weight + vocab * classes;
    *out = h;
    return SCD_OK;
}

void scd_gene_head_free(scd_gene_head *h)
{
    if (!h)
        return;
    float *blocks[] = {h->w, h->m, h->v, h->g};
    for (size_t i = 0; i < 4; i++)
        h->be->free(h->device, blocks[i]);
    free(h->term.weight);
    free(h->grads);
    free(h->logits);
    free(h->probabilities);
    free(h);
}

scd_code scd_gene_head_load(scd_gene_head *h, const scd_safetensors *tensors, scd_error *err)
{
    scd_gene_term from;
    scd_code code = scd_gene_term_load(tensors, h->term.vocab, h->term.classes, &from, err);
    if (code)
        return code;
    memcpy(h->term.weight, from.weight, h->term.vocab * h->term.classes * sizeof(float));
    memcpy(h->term.bias, from.bias, h->term.classes * sizeof(float));
    scd_gene_term_release(&from);
    return h->be->upload(h->device, h->w, h->term.weight, h->n_params * sizeof(float), err);
}

void scd_gene_head_entries(const scd_gene_head *h, scd_tensor_entry entries[SCD_GENE_HEAD_TENSORS])
{
    entries[0] = (scd_tensor_entry){SCD_GENE_TERM_WEIGHT, SCD_F32, h->term.vocab, h->term.classes};
    entries[1] = (scd_tensor_entry){SCD_GENE_TERM_BIAS, SCD_F32, h->term.classes, 0};
}

/* ---- cells: row cu_rows[c] is [LAT], the tokens follow ----------------------------------------
 */

void scd_gene_head_join(scd_gene_head *h, const scd_net_batch *b, float *logits)
{
    for (size_t c = 0; c < b->n_cells; c++) {
        size_t first = b->cu_rows[c] + 1, n = b->cu_rows[c + 1] - first;
        scd_gene_term_join(&h->term, b->ids + first, b->values + first, n, h->logits,
                           logits + c * h->term.classes);
    }
}

/* p (classes) = softmax(logits); the logarithm of what it was divided by. */
static double softmax(const double *logits, size_t classes, double *p)
{
    double most = logits[0], sum = 0;
    for (size_t k = 1; k < classes; k++)
        most = logits[k] > most ? logits[k] : most;
    for (size_t k = 0; k < classes; k++)
        sum += p[k] = exp(logits[k] - most);
    for (size_t k = 0; k < classes; k++)
        p[k] /= sum;
    return most + log(sum);
}

double scd_gene_head_loss(scd_gene_head *h, const scd_net_batch *b, const float *targets,
                          const float *weights, float scale)
{
    size_t classes = h->term.classes;
    double loss = 0, *p = h->probabilities;
    float *bias = h->grads + h->term.vocab * classes;
    for (size_t c = 0; c < b->n_cells; c++) {
        size_t first = b->cu_rows[c] + 1, n = b->cu_rows[c + 1] - first;
        const float *values = b->values + first, *t = targets + c * classes;
        scd_gene_term_logits(&h->term, b->ids + first, values, n, h->logits);
        double log_sum = softmax(h->logits, classes, p), u = scd_gene_term_scale(values, n);
        for (size_t k = 0; k < classes; k++) {
            loss += (double)weights[c] * (double)t[k] * (log_sum - h->logits[k]);
            p[k] = (double)scale * (double)weights[c] * (p[k] - (double)t[k]);
            bias[k] += (float)p[k];
        }
        for (size_t i = 0; i < n; i++) {
            float *row = h->grads + (size_t)b->ids[first + i] * classes;
            for (size_t k = 0; k < classes; k++)
                row[k] += (float)(p[k] * u * (double)values[i]);
        }
    }
    return loss;
}

/* ---- parameters ------------------------------------------------------------------------------ */

scd_code scd_gene_head_update(scd_gene_head *h, const scd_net_step *step, scd_error *err)
{
    const size_t sizes[] = {h->term.vocab * h->term.classes, h->term.classes};
    size_t bytes = h->n_params * sizeof(float), at = 0;
    scd_code code = h->be->upload(h->device, h->g, h->grads, bytes, err);
    for (size_t t = 0; t < SCD_GENE_HEAD_TENSORS && !code; t++) {
        scd_t_adamw args = {.n = sizes[t],
                            .w = h->w + at,
                            .m = h->m + at,
                            .v = h->v + at,
                            .g = h->g + at,
                            .lr = step->lr,
                            .beta1 = step->beta1,
                            .beta2 = step->beta2,
                            .eps = step->eps,
                            .decay = t ? 0 : step->decay,
                            .grad_scale = 1,
                            .bias1 = (float)(1 - pow((double)step->beta1, (double)step->step)),
                            .bias2 = (float)(1 - pow((double)step->beta2, (double)step->step))};
        code = h->ops->adamw(h->device, &args, err);
        at += sizes[t];
    }
    memset(h->grads, 0, bytes);
    return code ? code : h->be->download(h->device, h->term.weight, h->w, bytes, err);
}

size_t scd_gene_head_n_params(const scd_gene_head *h)
{
    return h->n_params;
}

scd_code scd_gene_head_export(scd_gene_head *h, float *params, float *m, float *v, scd_error *err)
{
    float *to[] = {params, m, v}, *from[] = {h->w, h->m, h->v};
    scd_code code = SCD_OK;
    for (size_t i = 0; i < 3 && !code; i++)
        if (to[i])
            code = h->be->download(h->device, to[i], from[i], h->n_params * sizeof(float), err);
    return code;
}

scd_code scd_gene_head_import(scd_gene_head *h, const float *params, const float *m, const float *v,
                              scd_error *err)
{
    const float *from[] = {params, m, v};
    float *to[] = {h->w, h->m, h->v};
    size_t bytes = h->n_params * sizeof(float);
    scd_code code = SCD_OK;
    for (size_t i = 0; i < 3 && !code; i++)
        if (from[i])
            code = h->be->upload(h->device, to[i], from[i], bytes, err);
    if (!code && params)
        memcpy(h->term.weight, params, bytes);
    return code;
}
