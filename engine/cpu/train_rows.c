/* train_rows.c - rows by index, and the plain operations on n floats. */
#include "engine/cpu/train_impl.h"

enum { RUN = 1 << 15 }; /* floats of a task */

typedef struct rows_job {
    const scd_t_rows *a;
    const scd_train_kernels *kernels;
} rows_job;

static scd_code get(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const scd_t_rows *a = ((const rows_job *)arg)->a;
    size_t first = task * SCD_CHUNK_ROWS, n = scd_chunk_size(a->n, SCD_CHUNK_ROWS, task);
    for (size_t i = first; i < first + n; i++)
        memcpy(a->dst + i * a->width, a->src + a->index[i] * a->width, a->width * sizeof *a->dst);
    return SCD_OK;
}

scd_code scd_t_cpu_rows_get(scd_device *device, const scd_t_rows *args, scd_error *err)
{
    rows_job j = {.a = args};
    return scd_train_run(device, scd_chunks(args->n, SCD_CHUNK_ROWS), 0, get, &j, err);
}

/* No index stands twice, so tasks do not meet. */
static scd_code add_rows(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const rows_job *j = arg;
    const scd_t_rows *a = j->a;
    size_t first = task * SCD_CHUNK_ROWS, n = scd_chunk_size(a->n, SCD_CHUNK_ROWS, task);
    for (size_t i = first; i < first + n; i++)
        j->kernels->add(a->dst + a->index[i] * a->width, a->src + i * a->width, a->width);
    return SCD_OK;
}

scd_code scd_t_cpu_rows_add(scd_device *device, const scd_t_rows *args, scd_error *err)
{
    rows_job j = {args, scd_train_kernels_of(device->kernels)};
    return scd_train_run(device, scd_chunks(args->n, SCD_CHUNK_ROWS), 0, add_rows, &j, err);
}

typedef struct run_job {
    const scd_train_kernels *kernels;
    size_t n;
    const float *x;
    float *y;
} run_job;

static scd_code copy_run(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const run_job *j = arg;
    memcpy(j->y + task * RUN, j->x + task * RUN, scd_chunk_size(j->n, RUN, task) * sizeof *j->y);
    return SCD_OK;
}

static scd_code add_run(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const run_job *j = arg;
    j->kernels->add(j->y + task * RUN, j->x + task * RUN, scd_chunk_size(j->n, RUN, task));
    return SCD_OK;
}

static scd_code zero_run(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const run_job *j = arg;
    memset(j->y + task * RUN, 0, scd_chunk_size(j->n, RUN, task) * sizeof *j->y);
    return SCD_OK;
}

static scd_code relu_run(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const run_job *j = arg;
    j->kernels->relu(j->y + task * RUN, scd_chunk_size(j->n, RUN, task));
    return SCD_OK;
}

static scd_code relu_back_run(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const run_job *j = arg;
    j->kernels->relu_back(j->x + task * RUN, j->y + task * RUN, scd_chunk_size(j->n, RUN, task));
    return SCD_OK;
}

static scd_code runs(scd_device *device, scd_train_task *task, const float *x, size_t n, float *y,
                     scd_error *err)
{
    run_job j = {scd_train_kernels_of(device->kernels), n, x, y};
    return scd_train_run(device, scd_chunks(n, RUN), 0, task, &j, err);
}

scd_code scd_t_cpu_copy(scd_device *device, const float *x, size_t n, float *y, scd_error *err)
{
    return runs(device, copy_run, x, n, y, err);
}

scd_code scd_t_cpu_add(scd_device *device, const float *x, size_t n, float *y, scd_error *err)
{
    return runs(device, add_run, x, n, y, err);
}

scd_code scd_t_cpu_zero(scd_device *device, float *y, size_t n, scd_error *err)
{
    return runs(device, zero_run, NULL, n, y, err);
}

scd_code scd_t_cpu_relu(scd_device *device, float *y, size_t n, scd_error *err)
{
    return runs(device, relu_run, NULL, n, y, err);
}

scd_code scd_t_cpu_relu_back(scd_device *device, const float *y, size_t n, float *dy,
                             scd_error *err)
{
    return runs(device, relu_back_run, y, n, dy, err);
}
