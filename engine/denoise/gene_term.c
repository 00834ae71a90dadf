/* gene_term.c - see gene_term.h. */
#include "engine/denoise/gene_term.h"

#include "engine/base/mem.h"

#include <math.h>
#include <stdlib.h>

scd_code scd_gene_term_load(const scd_safetensors *tensors, size_t vocab, size_t classes,
                            scd_gene_term *out, scd_error *err)
{
    scd_tensor weight, bias;
    size_t n;
    *out = (scd_gene_term){.vocab = vocab, .classes = classes};
    scd_code code =
        scd_safetensors_get(tensors, SCD_GENE_TERM_WEIGHT, vocab, classes, &weight, err);
    if (!code)
        code = scd_safetensors_get(tensors, SCD_GENE_TERM_BIAS, classes, 0, &bias, err);
    if (code)
        return code;
    if (!scd_size_mul(vocab, classes, &n) || !(out->weight = scd_malloc(n, sizeof(float))) ||
        !(out->bias = scd_malloc(classes, sizeof(float)))) {
        scd_gene_term_release(out);
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu genes of %zu labels", vocab,
                        classes);
    }
    scd_tensor_to_f32(&weight, 0, n, out->weight);
    scd_tensor_to_f32(&bias, 0, classes, out->bias);
    return SCD_OK;
}

void scd_gene_term_release(scd_gene_term *t)
{
    free(t->weight);
    free(t->bias);
    t->weight = t->bias = NULL;
}

double scd_gene_term_scale(const float *values, size_t n)
{
    double squares = 0;
    for (size_t i = 0; i < n; i++)
        squares += (double)values[i] * (double)values[i];
    return squares > 0 ? 1 / sqrt(squares) : 0;
}

void scd_gene_term_logits(const scd_gene_term *t, const int32_t *ids, const float *values, size_t n,
                          double *out)
{
    size_t classes = t->classes;
    double scale = scd_gene_term_scale(values, n);
    for (size_t k = 0; k < classes; k++)
        out[k] = (double)t->bias[k];
    for (size_t i = 0; i < n; i++) {
        const float *row = t->weight + (size_t)ids[i] * classes;
        double u = (double)values[i] * scale;
        for (size_t k = 0; k < classes; k++)
            out[k] += u * (double)row[k];
    }
}

void scd_gene_term_join(const scd_gene_term *t, const int32_t *ids, const float *values, size_t n,
                        double *scratch, float *logits)
{
    scd_gene_term_logits(t, ids, values, n, scratch);
    for (size_t k = 0; k < t->classes; k++)
        logits[k] = (float)(((double)logits[k] + scratch[k]) / 2);
}
