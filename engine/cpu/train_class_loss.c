/* train_class_loss.c - softmax cross-entropy with soft targets over a head's few classes, in
 * float64 inside a row: there are too few elements for speed to matter. */
#include "engine/cpu/train_impl.h"

#include <math.h>

static void row(const scd_t_class_loss *a, size_t r)
{
    const float *logits = a->logits + r * a->classes, *target = a->targets + r * a->classes;
    double top = -INFINITY, total = 0, loss = 0, weight = (double)a->weight[r];
    for (size_t k = 0; k < a->classes; k++)
        top = fmax(top, (double)logits[k]);
    for (size_t k = 0; k < a->classes; k++)
        total += exp((double)logits[k] - top);
    for (size_t k = 0; k < a->classes; k++)
        if (target[k] > 0)
            loss += (double)target[k] * (top + log(total) - (double)logits[k]);
    if (a->loss)
        a->loss[r] = (float)(weight * loss);
    for (size_t k = 0; a->dlogits && k < a->classes; k++) {
        double p = exp((double)logits[k] - top) / total;
        a->dlogits[r * a->classes + k] =
            (float)((double)a->scale * weight * (p - (double)target[k]));
    }
}

static scd_code chunk(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const scd_t_class_loss *a = arg;
    size_t first = task * SCD_CHUNK_ROWS, n = scd_chunk_size(a->n, SCD_CHUNK_ROWS, task);
    for (size_t r = first; r < first + n; r++)
        row(a, r);
    return SCD_OK;
}

scd_code scd_t_cpu_class_loss(scd_device *device, const scd_t_class_loss *args, scd_error *err)
{
    scd_t_class_loss a = *args;
    return scd_train_run(device, scd_chunks(a.n, SCD_CHUNK_ROWS), 0, chunk, &a, err);
}
