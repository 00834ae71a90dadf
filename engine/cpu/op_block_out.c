/* op_block_out.c - the second half of a block: o_proj and residual, RMSNorm, the gated MLP and
 * residual. A row tile goes through all of it without leaving its core's cache; gate and up are
 * computed panel by panel, so that their fp32 columns never exist all at once. */
#include "engine/cpu/cpu.h"

#include <string.h>

typedef struct job {
    scd_device *device;
    const scd_block_out_args *a;
    scd_tiles tiles;
} job;

typedef struct space {
    void *x;          /* (tile, H) act: attention's rows padded to a tile, then normed rows */
    void *mid;        /* (tile, F) act: silu(gate) up */
    float *y;         /* (tile, H rounded up) */
    float *gate, *up; /* (tile, panel) */
} space;

static size_t carve(char *base, size_t hidden_dim, size_t ffn_dim, size_t panel, space *s)
{
    size_t used = 0;
    s->x = scd_carve(base, &used, SCD_TILE_ROWS * hidden_dim, sizeof(float));
    s->mid = scd_carve(base, &used, SCD_TILE_ROWS * ffn_dim, sizeof(float));
    s->y = scd_carve(base, &used, SCD_TILE_ROWS * (hidden_dim + 16), sizeof(float));
    s->gate = scd_carve(base, &used, SCD_TILE_ROWS * panel, sizeof(float));
    s->up = scd_carve(base, &used, SCD_TILE_ROWS * panel, sizeof(float));
    return used;
}

size_t scd_block_out_scratch(size_t hidden_dim, size_t ffn_dim)
{
    space s;
    return carve(NULL, hidden_dim, ffn_dim, ffn_dim + 16, &s);
}

static scd_code gated_mlp(job *j, int thread, const space *s, size_t n)
{
    const scd_block_out_args *a = j->a;
    const scd_kernels *kernels = j->device->kernels;
    const scd_matrix *w = a->wgate_up;
    size_t act = kernels->act_bytes;
    for (size_t p = 0; p < w->n_panels; p++) {
        scd_code code = scd_product_panel(j->device, thread, w, 0, p, s->x, n, s->gate);
        if (!code)
            code = scd_product_panel(j->device, thread, w, 1, p, s->x, n, s->up);
        if (code)
            return code;
        size_t first = p * w->panel, wide = scd_matrix_panel(w, 0, p)->n;
        size_t cols = a->ffn_dim - first < wide ? a->ffn_dim - first : wide;
        for (size_t r = 0; r < n; r++)
            kernels->silu_mul(s->gate + r * wide, s->up + r * wide, cols,
                              (char *)s->mid + (r * a->ffn_dim + first) * act);
    }
    return scd_product_part(j->device, thread, a->wdown, 0, s->mid, n, s->y);
}

static scd_code tile(job *j, int thread, const space *s, size_t first, size_t n)
{
    const scd_block_out_args *a = j->a;
    const scd_kernels *kernels = j->device->kernels;
    size_t width = a->hidden_dim, act = kernels->act_bytes;
    const void *att = (const char *)a->att + first * width * act;
    if (scd_tile_padded(j->device, n) > a->rows - first) /* a product reads whole tiles */
        att = memcpy(s->x, att, n * width * act);
    scd_code code = scd_product_part(j->device, thread, a->wo, 0, att, n, s->y);
    if (code)
        return code;
    float *h = a->h + first * width;
    for (size_t r = 0; r < n; r++)
        kernels->add_norm(h + r * width, s->y + r * a->wo->wide, a->norm2, width,
                          (char *)s->x + r * width * act);
    code = gated_mlp(j, thread, s, n);
    if (code)
        return code;
    for (size_t r = 0; r < n; r++)
        kernels->add(h + r * width, s->y + r * a->wdown->wide, width, h + r * width);
    return SCD_OK;
}

static void body(void *arg, int thread)
{
    job *j = arg;
    space s;
    carve(j->device->scratch[thread].memory, j->a->hidden_dim, j->a->ffn_dim, j->a->wgate_up->panel,
          &s);
    for (size_t first, n; scd_tiles_take(&j->tiles, &first, &n);) {
        scd_code code = tile(j, thread, &s, first, n);
        if (code)
            atomic_store(&j->tiles.failed, (int)code);
    }
}

scd_code scd_cpu_block_out(scd_device *device, const scd_block_out_args *args, scd_error *err)
{
    job j = {.device = device, .a = args};
    scd_tiles_init(&j.tiles, args->rows, device->threads);
    scd_pool_run(device->pool, body, &j);
    return scd_tiles_end(&j.tiles, err);
}
