/* train_swiglu.c - silu(gate) * up, forward and backward by chunks of rows. */
#include "engine/cpu/train_impl.h"

typedef struct job {
    const void *a;
    const scd_train_kernels *kernels;
} job;

static scd_code forward(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const job *j = arg;
    const scd_t_swiglu *a = j->a;
    size_t first = task * SCD_CHUNK_ROWS, n = scd_chunk_size(a->rows, SCD_CHUNK_ROWS, task);
    for (size_t r = first; r < first + n; r++) {
        const float *gate = a->gate_up + r * 2 * a->ffn_dim;
        j->kernels->swiglu(gate, gate + a->ffn_dim, a->ffn_dim, a->y + r * a->ffn_dim);
    }
    return SCD_OK;
}

scd_code scd_t_cpu_swiglu(scd_device *device, const scd_t_swiglu *args, scd_error *err)
{
    job j = {args, scd_train_kernels_of(device->kernels)};
    return scd_train_run(device, scd_chunks(args->rows, SCD_CHUNK_ROWS), 0, forward, &j, err);
}

static scd_code backward(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const job *j = arg;
    const scd_t_swiglu_back *a = j->a;
    size_t first = task * SCD_CHUNK_ROWS, n = scd_chunk_size(a->rows, SCD_CHUNK_ROWS, task);
    for (size_t r = first; r < first + n; r++) {
        const float *gate = a->gate_up + r * 2 * a->ffn_dim;
        float *dgate = a->dgate_up + r * 2 * a->ffn_dim;
        j->kernels->swiglu_back(gate, gate + a->ffn_dim, a->dy + r * a->ffn_dim, a->ffn_dim, dgate,
                                dgate + a->ffn_dim);
    }
    return SCD_OK;
}

scd_code scd_t_cpu_swiglu_back(scd_device *device, const scd_t_swiglu_back *args, scd_error *err)
{
    job j = {args, scd_train_kernels_of(device->kernels)};
    return scd_train_run(device, scd_chunks(args->rows, SCD_CHUNK_ROWS), 0, backward, &j, err);
}
