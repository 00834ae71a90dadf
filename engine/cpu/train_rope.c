/* train_rope.c - RoPE in place, both ways: a rotation's gradient is the rotation back. */
#include "engine/cpu/train_impl.h"

typedef struct job {
    const scd_t_rope *a;
    const scd_train_kernels *kernels;
    const float *table; /* (positions, dim): cosines, then sines */
} job;

static scd_code rotate(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const job *j = arg;
    const scd_t_rope *a = j->a;
    size_t first = task * SCD_CHUNK_ROWS, n = scd_chunk_size(a->rows, SCD_CHUNK_ROWS, task);
    size_t dim = a->hidden_dim / a->n_heads;
    for (size_t r = first; r < first + n; r++)
        j->kernels->rope(a->x + r * a->stride, j->table + a->pos[r] * dim, a->inverse ? -1 : 1,
                         a->n_heads, dim);
    return SCD_OK;
}

scd_code scd_t_cpu_rope(scd_device *device, const scd_t_rope *args, scd_error *err)
{
    size_t dim = args->hidden_dim / args->n_heads, top = 0;
    for (size_t r = 0; r < args->rows; r++)
        top = args->pos[r] > top ? args->pos[r] : top;
    scd_code code = scd_rope_want(device, (top + 1) * dim, err);
    if (code)
        return code;
    scd_rope_fill(device, top + 1, dim, args->theta > 0 ? args->theta : 10000.0);
    job j = {args, scd_train_kernels_of(device->kernels), device->rope};
    return scd_train_run(device, scd_chunks(args->rows, SCD_CHUNK_ROWS), 0, rotate, &j, err);
}
