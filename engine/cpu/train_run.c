/* train_run.c - tasks of the training operations on the pool, and their memory (train_impl.h). */
#include "engine/cpu/train_impl.h"

typedef struct job {
    scd_device *device;
    scd_train_task *task;
    void *arg;
    size_t n;
    scd_cursor cursor;
    atomic_int failed; /* scd_code of a task that failed */
} job;

static void body(void *arg, int thread)
{
    job *j = arg;
    for (size_t i; (i = scd_cursor_take(&j->cursor, j->n)) < j->n;) {
        scd_code code = j->task(j->arg, i, j->device->scratch[thread].memory);
        if (code)
            atomic_store(&j->failed, (int)code);
    }
}

scd_code scd_train_run(scd_device *device, size_t n, size_t scratch_bytes, scd_train_task *task,
                       void *arg, scd_error *err)
{
    scd_code code = scd_scratch_want(device->scratch, device->threads, scratch_bytes, err);
    if (code || !n)
        return code;
    job j = {.device = device, .task = task, .arg = arg, .n = n};
    scd_cursor_init(&j.cursor);
    atomic_init(&j.failed, SCD_OK);
    if (n == 1) { /* nothing to share out: the others may sleep on */
        scd_pool_no_openmp();
        body(&j, 0);
    } else {
        scd_pool_run(device->pool, body, &j);
    }
    code = (scd_code)atomic_load(&j.failed);
    return code ? scd_fail(err, code, "a product failed in oneDNN") : SCD_OK;
}

scd_code scd_train_shared(scd_device *device, size_t floats, float **out, scd_error *err)
{
    *out = NULL;
    scd_code code = scd_scratch_want(&device->shared, 1, floats * sizeof **out, err);
    if (!code)
        *out = device->shared.memory;
    return code;
}

void scd_train_add_parts(const scd_device *device, const float *parts, size_t n, size_t stride,
                         size_t width, float *dst)
{
    const scd_train_kernels *kernels = scd_train_kernels_of(device->kernels);
    for (size_t i = 0; i < n; i++)
        kernels->add(dst, parts + i * stride, width);
}
