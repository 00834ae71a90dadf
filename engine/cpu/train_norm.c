/* train_norm.c - RMSNorm, and LayerNorm with ReLU: forward and backward by chunks of rows. The
 * gradients of weights are partial sums of each chunk, added in order. */
#include "engine/cpu/train_impl.h"

typedef struct job {
    const void *a;
    const scd_train_kernels *kernels;
    float *parts; /* (chunks, width), or (chunks, 2 width): dw, db */
} job;

static scd_code rms_forward(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const job *j = arg;
    const scd_t_rms_norm *a = j->a;
    size_t first = task * SCD_CHUNK_ROWS, n = scd_chunk_size(a->rows, SCD_CHUNK_ROWS, task);
    for (size_t r = first; r < first + n; r++)
        a->rstd[r] = j->kernels->rms_norm(a->x + r * a->width, a->w, a->width, a->y + r * a->width);
    return SCD_OK;
}

scd_code scd_t_cpu_rms_norm(scd_device *device, const scd_t_rms_norm *args, scd_error *err)
{
    job j = {.a = args, .kernels = scd_train_kernels_of(device->kernels)};
    return scd_train_run(device, scd_chunks(args->rows, SCD_CHUNK_ROWS), 0, rms_forward, &j, err);
}

static scd_code rms_backward(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const job *j = arg;
    const scd_t_rms_norm_back *a = j->a;
    size_t first = task * SCD_CHUNK_ROWS, n = scd_chunk_size(a->rows, SCD_CHUNK_ROWS, task);
    float *dw = a->dw ? j->parts + task * a->width : NULL;
    if (dw)
        memset(dw, 0, a->width * sizeof *dw);
    for (size_t r = first; r < first + n; r++)
        j->kernels->rms_norm_back(a->x + r * a->width, a->w, a->rstd[r], a->dy + r * a->width,
                                  a->width, a->dx + r * a->width, dw);
    return SCD_OK;
}

scd_code scd_t_cpu_rms_norm_back(scd_device *device, const scd_t_rms_norm_back *args,
                                 scd_error *err)
{
    job j = {.a = args, .kernels = scd_train_kernels_of(device->kernels)};
    size_t chunks = scd_chunks(args->rows, SCD_CHUNK_ROWS);
    scd_code code = scd_train_shared(device, args->dw ? chunks * args->width : 0, &j.parts, err);
    if (!code)
        code = scd_train_run(device, chunks, 0, rms_backward, &j, err);
    if (!code && args->dw)
        scd_train_add_parts(device, j.parts, chunks, args->width, args->width, args->dw);
    return code;
}

static scd_code layer_forward(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const job *j = arg;
    const scd_t_norm_relu *a = j->a;
    size_t first = task * SCD_CHUNK_ROWS, n = scd_chunk_size(a->rows, SCD_CHUNK_ROWS, task);
    for (size_t r = first; r < first + n; r++)
        j->kernels->norm_relu(a->x + r * a->width, a->w, a->b, a->width, a->y + r * a->width,
                              &a->mean[r], &a->rstd[r]);
    return SCD_OK;
}

scd_code scd_t_cpu_norm_relu(scd_device *device, const scd_t_norm_relu *args, scd_error *err)
{
    job j = {.a = args, .kernels = scd_train_kernels_of(device->kernels)};
    return scd_train_run(device, scd_chunks(args->rows, SCD_CHUNK_ROWS), 0, layer_forward, &j, err);
}

static scd_code layer_backward(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const job *j = arg;
    const scd_t_norm_relu_back *a = j->a;
    size_t first = task * SCD_CHUNK_ROWS, n = scd_chunk_size(a->rows, SCD_CHUNK_ROWS, task);
    float *dw = j->parts + task * 2 * a->width, *db = dw + a->width;
    memset(dw, 0, 2 * a->width * sizeof *dw);
    for (size_t r = first; r < first + n; r++)
        j->kernels->norm_relu_back(a->x + r * a->width, a->w, a->y + r * a->width, a->mean[r],
                                   a->rstd[r], a->dy + r * a->width, a->width, a->dx + r * a->width,
                                   dw, db);
    return SCD_OK;
}

scd_code scd_t_cpu_norm_relu_back(scd_device *device, const scd_t_norm_relu_back *args,
                                  scd_error *err)
{
    job j = {.a = args, .kernels = scd_train_kernels_of(device->kernels)};
    size_t chunks = scd_chunks(args->rows, SCD_CHUNK_ROWS), width = args->width;
    scd_code code = scd_train_shared(device, chunks * 2 * width, &j.parts, err);
    if (!code)
        code = scd_train_run(device, chunks, 0, layer_backward, &j, err);
    if (!code && args->dw)
        scd_train_add_parts(device, j.parts, chunks, 2 * width, width, args->dw);
    if (!code && args->db)
        scd_train_add_parts(device, j.parts + width, chunks, 2 * width, width, args->db);
    return code;
}
