/* op_qkv.c - RMSNorm, the products q, k, v and RoPE, one row tile at a time. */
#include "engine/cpu/cpu.h"

#include <math.h>

typedef struct job {
    scd_device *device;
    const scd_qkv_args *a;
    scd_tiles tiles;
} job;

typedef struct space {
    void *x;  /* (tile, H) act: normed rows */
    float *y; /* (tile, wide) */
} space;

static size_t carve(char *base, size_t hidden_dim, space *s)
{
    size_t used = 0;
    s->x = scd_carve(base, &used, SCD_TILE_ROWS * hidden_dim, sizeof(float));
    s->y = scd_carve(base, &used, SCD_TILE_ROWS * (hidden_dim + 16), sizeof(float));
    return used;
}

size_t scd_qkv_scratch(size_t hidden_dim)
{
    space s;
    return carve(NULL, hidden_dim, &s);
}

/* Cosines and sines of every position below `rows`, in float64: angle = pos theta^(-2 i / dim). */
void scd_rope_fill(scd_device *device, size_t rows, size_t dim, double theta)
{
    if (device->rope_dim != dim || device->rope_theta != theta)
        device->rope_rows = 0;
    device->rope_dim = dim;
    device->rope_theta = theta;
    for (size_t i = 0; i < dim / 2; i++) {
        double frequency = pow(theta, -2.0 * (double)i / (double)dim);
        for (size_t pos = device->rope_rows; pos < rows; pos++) {
            device->rope[pos * dim + i] = (float)cos((double)pos * frequency);
            device->rope[pos * dim + dim / 2 + i] = (float)sin((double)pos * frequency);
        }
    }
    device->rope_rows = rows > device->rope_rows ? rows : device->rope_rows;
}

/* Rows y of one part to their place in the output. */
static void put_rows(const job *j, unsigned part, const float *y, size_t wide, size_t first,
                     size_t n)
{
    const scd_qkv_args *a = j->a;
    const scd_kernels *kernels = j->device->kernels;
    char *out = part == SCD_PART_Q ? a->q : part == SCD_PART_K ? a->k : a->v;
    size_t row_bytes = a->hidden_dim * kernels->act_bytes, dim = a->hidden_dim / a->n_heads;
    for (size_t r = first; r < first + n; r++, y += wide) {
        if (part == SCD_PART_V)
            kernels->store(y, a->hidden_dim, out + r * row_bytes);
        else
            kernels->rope(y, j->device->rope + (a->pos ? a->pos[r] : 0) * dim, a->n_heads, dim,
                          out + r * row_bytes);
    }
}

static scd_code tile(job *j, int thread, const space *s, size_t first, size_t n)
{
    const scd_qkv_args *a = j->a;
    const scd_kernels *kernels = j->device->kernels;
    for (size_t r = 0; r < n; r++)
        kernels->norm(a->h + (first + r) * a->hidden_dim, a->norm, a->hidden_dim,
                      (char *)s->x + r * a->hidden_dim * kernels->act_bytes);
    for (unsigned i = 0; i < 3; i++) {
        if (!(a->parts & (1u << i)))
            continue;
        scd_code code = scd_product_part(j->device, thread, a->wqkv, i, s->x, n, s->y);
        if (code)
            return code;
        put_rows(j, 1u << i, s->y, a->wqkv->wide, first, n);
    }
    return SCD_OK;
}

static void body(void *arg, int thread)
{
    job *j = arg;
    space s;
    carve(j->device->scratch[thread].memory, j->a->hidden_dim, &s);
    for (size_t first, n; scd_tiles_take(&j->tiles, &first, &n);) {
        scd_code code = tile(j, thread, &s, first, n);
        if (code)
            atomic_store(&j->tiles.failed, (int)code);
    }
}

scd_code scd_cpu_qkv(scd_device *device, const scd_qkv_args *args, scd_error *err)
{
    size_t dim = args->hidden_dim / args->n_heads, top = 0;
    for (size_t r = 0; args->pos && r < args->rows; r++)
        top = args->pos[r] > top ? args->pos[r] : top;
    if (args->rows > device->max_rows || top >= device->max_rows)
        return scd_fail(err, SCD_E_INVALID, "%zu rows up to position %zu: reserved are %zu",
                        args->rows, top, device->max_rows);
    if (dim > SCD_MAX_HEAD_DIM || dim % 2 || dim * args->n_heads != args->hidden_dim)
        return scd_fail(err, SCD_E_INVALID, "%zu heads in %zu: a head is even and at most %d wide",
                        args->n_heads, args->hidden_dim, (int)SCD_MAX_HEAD_DIM);
    scd_rope_fill(device, top + 1, dim, args->rope_theta > 0 ? args->rope_theta : 10000.0);
    job j = {.device = device, .a = args};
    scd_tiles_init(&j.tiles, args->rows, device->threads);
    scd_pool_run(device->pool, body, &j);
    return scd_tiles_end(&j.tiles, err);
}
