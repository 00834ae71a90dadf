/* op_linear.c - the general product for heads, and the two row-wise helpers.
 *
 * A head can be 41,818 columns wide: each task is a row tile with all panels in turn, so that its
 * input is converted once and its fp32 output of one panel stays in cache until the bias is in. */
#include "engine/cpu/cpu.h"

#include <string.h>

typedef struct job {
    scd_device *device;
    const scd_linear_args *a;
    scd_tiles tiles;
} job;

typedef struct space {
    void *x;  /* (tile, in) act */
    float *y; /* (tile, panel) */
} space;

static size_t carve(char *base, const scd_matrix *m, space *s)
{
    size_t used = 0;
    s->x = scd_carve(base, &used, SCD_TILE_ROWS * m->cols, sizeof(float));
    s->y = scd_carve(base, &used, SCD_TILE_ROWS * m->panel, sizeof(float));
    return used;
}

size_t scd_linear_scratch(const scd_matrix *matrix)
{
    space s;
    return carve(NULL, matrix, &s);
}

static scd_code tile(job *j, int thread, const space *s, size_t first, size_t n)
{
    const scd_linear_args *a = j->a;
    const scd_kernels *kernels = j->device->kernels;
    for (size_t r = 0; r < n; r++)
        kernels->store(a->x + (first + r) * a->in_dim, a->in_dim,
                       (char *)s->x + r * a->in_dim * kernels->act_bytes);
    for (size_t p = 0; p < a->w->n_panels; p++) {
        scd_code code = scd_product_panel(j->device, thread, a->w, 0, p, s->x, n, s->y);
        if (code)
            return code;
        size_t at = p * a->w->panel, wide = scd_matrix_panel(a->w, 0, p)->n;
        size_t cols = a->out_dim - at < wide ? a->out_dim - at : wide;
        for (size_t r = 0; r < n; r++)
            kernels->bias(s->y + r * wide, a->bias ? a->bias + at : NULL, a->relu, cols,
                          a->y + (first + r) * a->out_dim + at);
    }
    return SCD_OK;
}

static void body(void *arg, int thread)
{
    job *j = arg;
    space s;
    carve(j->device->scratch[thread].memory, j->a->w, &s);
    for (size_t first, n; scd_tiles_take(&j->tiles, &first, &n);) {
        scd_code code = tile(j, thread, &s, first, n);
        if (code)
            atomic_store(&j->tiles.failed, (int)code);
    }
}

scd_code scd_cpu_linear(scd_device *device, const scd_linear_args *args, scd_error *err)
{
    if (args->w->n_parts != 1 || args->w->cols != args->in_dim ||
        args->w->part_rows != args->out_dim)
        return scd_fail(err, SCD_E_INVALID, "linear: the matrix is %zu x %zu, not %zu x %zu",
                        args->w->n_parts * args->w->part_rows, args->w->cols, args->out_dim,
                        args->in_dim);
    job j = {.device = device, .a = args};
    scd_tiles_init(&j.tiles, args->rows, device->threads);
    scd_pool_run(device->pool, body, &j);
    return scd_tiles_end(&j.tiles, err);
}

scd_code scd_cpu_gather_rows(scd_device *device, const float *src, const uint32_t *index, size_t n,
                             size_t width, float *dst, scd_error *err)
{
    (void)device;
    (void)err;
    for (size_t i = 0; i < n; i++)
        memcpy(dst + i * width, src + index[i] * width, width * sizeof *dst);
    return SCD_OK;
}

scd_code scd_cpu_rms_norm(scd_device *device, const float *h, const float *weight, size_t rows,
                          size_t width, float *out, scd_error *err)
{
    (void)err;
    for (size_t r = 0; r < rows; r++)
        device->kernels->norm_f32(h + r * width, weight, width, out + r * width);
    return SCD_OK;
}
