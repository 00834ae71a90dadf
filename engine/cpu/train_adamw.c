/* train_adamw.c - the optimizer's step, and the norm that gradients are clipped by. */
#include "engine/cpu/train_impl.h"

#include <stddef.h>

enum { RUN = 1 << 14 }; /* floats of a task */

typedef struct job {
    const scd_train_kernels *kernels;
    const scd_t_adamw *a;
    const float *x;
    size_t n;
    double *sums; /* (tasks) */
} job;

static scd_code step(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const job *j = arg;
    j->kernels->adamw(j->a, task * RUN, scd_chunk_size(j->a->n, RUN, task));
    return SCD_OK;
}

scd_code scd_t_cpu_adamw(scd_device *device, const scd_t_adamw *args, scd_error *err)
{
    job j = {.kernels = scd_train_kernels_of(device->kernels), .a = args};
    return scd_train_run(device, scd_chunks(args->n, RUN), 0, step, &j, err);
}

static scd_code squares(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const job *j = arg;
    j->sums[task] = j->kernels->sum_squares(j->x + task * RUN, scd_chunk_size(j->n, RUN, task));
    return SCD_OK;
}

scd_code scd_t_cpu_sum_squares(scd_device *device, const float *x, size_t n, double *host_out,
                               scd_error *err)
{
    job j = {.kernels = scd_train_kernels_of(device->kernels), .x = x, .n = n};
    size_t tasks = scd_chunks(n, RUN);
    *host_out = 0;
    scd_code code = scd_scratch_want(&device->shared, 1, tasks * sizeof *j.sums, err);
    j.sums = device->shared.memory;
    if (!code)
        code = scd_train_run(device, tasks, 0, squares, &j, err);
    for (size_t i = 0; i < tasks && !code; i++)
        *host_out += j.sums[i];
    return code;
}
