/* op_attention_weights.c - the weights of attention themselves, for some keys.
 *
 * A task is up to TILE rows of a cell, all heads in turn, so that what is added to an element is
 * added in one order. Keys of a head become float once a task. */
#include "engine/cpu/cpu.h"

#include "engine/cpu/train_kernels.h"

#include <math.h>

enum { TILE = 64 };

typedef struct job {
    scd_device *device;
    const scd_attention_weights_args *a;
    const scd_train_kernels *rows;
    scd_cursor cursor;
    size_t n_tasks;
} job;

typedef struct space {
    float *k;      /* (rows, D) */
    float *q;      /* (D) */
    float *scores; /* (rows) */
} space;

static size_t carve(char *base, size_t rows, size_t dim, space *s)
{
    size_t used = 0;
    s->k = scd_carve(base, &used, rows * dim, sizeof(float));
    s->q = scd_carve(base, &used, dim, sizeof(float));
    s->scores = scd_carve(base, &used, rows, sizeof(float));
    return used;
}

size_t scd_attention_weights_scratch(size_t rows, size_t head_dim)
{
    space s;
    return carve(NULL, rows, head_dim, &s);
}

static size_t rows_of(const scd_attention_weights_args *a, size_t cell)
{
    return a->host_cu_rows[cell + 1] - a->host_cu_rows[cell];
}

static size_t tiles_of(const scd_attention_weights_args *a, size_t cell)
{
    return (rows_of(a, cell) + TILE - 1) / TILE;
}

/* Head columns of one row as float. */
static void load(const job *j, const void *from, size_t row, size_t head, size_t dim, float *to)
{
    const scd_kernels *kernels = j->device->kernels;
    size_t at = row * j->a->hidden_dim + head * dim;
    kernels->to_f32((const char *)from + at * kernels->act_bytes,
                    kernels->act_bytes == 2 ? SCD_BF16 : SCD_F32, dim, to);
}

/* One head for rows [first, first + n) of the cell; out: (rows, n_keys) of the cell. */
static void add_head(const job *j, const space *s, size_t cell, size_t head, size_t first, size_t n,
                     float share, float *out)
{
    const scd_attention_weights_args *a = j->a;
    size_t dim = a->hidden_dim / a->n_heads, base = a->host_cu_rows[cell], rows = rows_of(a, cell);
    size_t n_keys = a->cu_keys[cell + 1] - a->cu_keys[cell];
    const uint32_t *keys = a->keys + a->cu_keys[cell];
    float scale = SCD_LOG2_E / sqrtf((float)dim);
    for (size_t k = 0; k < rows; k++)
        load(j, a->k, base + k, head, dim, s->k + k * dim);
    for (size_t r = first; r < first + n; r++) {
        load(j, a->q, base + r, head, dim, s->q);
        for (size_t k = 0; k < rows; k++)
            s->scores[k] = scale * j->rows->dot(s->q, s->k + k * dim, dim);
        float sum = j->rows->exp2_sum(s->scores, j->rows->top(s->scores, rows), rows);
        for (size_t i = 0; i < n_keys; i++)
            out[r * n_keys + i] += share * (s->scores[keys[i]] / sum);
    }
}

static void run_task(const job *j, const space *s, size_t task)
{
    const scd_attention_weights_args *a = j->a;
    size_t cell = 0, n_used = 0;
    float *out = a->out;
    for (; task >= tiles_of(a, cell); cell++) {
        task -= tiles_of(a, cell);
        out += rows_of(a, cell) * (a->cu_keys[cell + 1] - a->cu_keys[cell]);
    }
    size_t first = task * TILE, left = rows_of(a, cell) - first, n = left < TILE ? left : TILE;
    for (size_t head = 0; head < a->n_heads; head++)
        n_used += a->use_heads[head] != 0;
    for (size_t head = 0; head < a->n_heads; head++)
        if (a->use_heads[head])
            add_head(j, s, cell, head, first, n, 1.0f / (float)n_used, out);
}

static void body(void *arg, int thread)
{
    job *j = arg;
    space s;
    carve(j->device->scratch[thread].memory, j->device->max_rows, j->a->hidden_dim / j->a->n_heads,
          &s);
    for (size_t task; (task = scd_cursor_take(&j->cursor, j->n_tasks)) < j->n_tasks;)
        run_task(j, &s, task);
}

scd_code scd_cpu_attention_weights(scd_device *device, const scd_attention_weights_args *args,
                                   scd_error *err)
{
    size_t dim = args->hidden_dim / args->n_heads;
    job j = {.device = device, .a = args, .rows = scd_train_kernels_of(device->kernels)};
    if (dim > SCD_MAX_HEAD_DIM || dim * args->n_heads != args->hidden_dim)
        return scd_fail(err, SCD_E_INVALID, "%zu heads in %zu: a head is at most %d wide",
                        args->n_heads, args->hidden_dim, (int)SCD_MAX_HEAD_DIM);
    for (size_t c = 0; c < args->n_cells; c++) {
        if (rows_of(args, c) > device->max_rows)
            return scd_fail(err, SCD_E_INVALID, "%zu rows: reserved are %zu", rows_of(args, c),
                            device->max_rows);
        for (size_t i = args->cu_keys[c]; i < args->cu_keys[c + 1]; i++)
            if (args->keys[i] >= rows_of(args, c))
                return scd_fail(err, SCD_E_INVALID, "key %u of %zu rows", args->keys[i],
                                rows_of(args, c));
        j.n_tasks += tiles_of(args, c);
    }
    scd_cursor_init(&j.cursor);
    scd_pool_run(device->pool, body, &j);
    return SCD_OK;
}
