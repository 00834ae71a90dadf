/* train_class_loss.cu - softmax cross-entropy with soft targets over a head's few classes; a thread
 * takes a row, in float64: there are too few elements for speed to matter. */
#include "engine/cuda/gpu.cuh"
#include "engine/cuda/train.h"

enum { THREADS = 32 };

SCD_KERNEL class_rows(scd_t_class_loss a)
{
    size_t row = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (row >= a.n)
        return;
    const float *logits = a.logits + row * a.classes, *target = a.targets + row * a.classes;
    double top = -INFINITY, total = 0, loss = 0, weight = (double)a.weight[row];
    for (size_t k = 0; k < a.classes; k++)
        top = fmax(top, (double)logits[k]);
    for (size_t k = 0; k < a.classes; k++)
        total += exp((double)logits[k] - top);
    for (size_t k = 0; k < a.classes; k++)
        if (target[k] > 0)
            loss += (double)target[k] * (top + log(total) - (double)logits[k]);
    if (a.loss)
        a.loss[row] = (float)(weight * loss);
    for (size_t k = 0; a.dlogits && k < a.classes; k++) {
        double p = exp((double)logits[k] - top) / total;
        a.dlogits[row * a.classes + k] =
            (float)((double)a.scale * weight * (p - (double)target[k]));
    }
}

scd_code scd_t_cuda_class_loss(scd_device *device, const scd_t_class_loss *args, scd_error *err)
{
    scd_code code = scd_gpu_enter(device->gpu, err);
    return code ? code
                : SCD_LAUNCH(device, err, class_rows, scd_ceil_div(args->n, THREADS), THREADS, 0,
                             *args);
}
