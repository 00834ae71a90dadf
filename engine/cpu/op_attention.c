/* op_attention.c - tasks of attention: one head of one cell, and some of its queries.
 *
 * A head's keys and values are packed by each task that uses them, which costs some two percent of
 * a whole head. So a head is cut into pieces only where there are too few heads for the threads. */
#include "engine/cpu/cpu.h"

enum { TASKS_PER_THREAD = 4, LEAST_QUERIES = 96 };

typedef struct job {
    scd_device *device;
    const scd_attention_args *a;
    size_t pieces; /* of every head */
    scd_cursor cursor;
} job;

static void run_task(const job *j, size_t task, void *scratch)
{
    const scd_attention_args *a = j->a;
    size_t piece = task % j->pieces, head = task / j->pieces % a->n_heads;
    size_t cell = task / j->pieces / a->n_heads;
    size_t q0 = a->host_cu_q[cell], n_q = a->host_cu_q[cell + 1] - q0;
    size_t k0 = a->host_cu_k[cell], dim = a->hidden_dim / a->n_heads;
    size_t first = n_q * piece / j->pieces, end = n_q * (piece + 1) / j->pieces;
    size_t act = j->device->kernels->act_bytes, ld = a->hidden_dim;
    if (first == end)
        return;
    scd_attention_task t = {
        .q = (const char *)a->q + ((q0 + first) * ld + head * dim) * act,
        .k = (const char *)a->k + (k0 * ld + head * dim) * act,
        .v = (const char *)a->v + (k0 * ld + head * dim) * act,
        .out = (char *)a->out + ((q0 + first) * ld + head * dim) * act,
        .ld = ld,
        .n_q = end - first,
        .n_k = a->host_cu_k[cell + 1] - k0,
        .head_dim = dim,
        .scratch = scratch,
    };
    j->device->kernels->attention(&t);
}

static void body(void *arg, int thread)
{
    job *j = arg;
    size_t n = j->a->n_cells * j->a->n_heads * j->pieces;
    for (size_t task; (task = scd_cursor_take(&j->cursor, n)) < n;)
        run_task(j, task, j->device->scratch[thread].memory);
}

scd_code scd_cpu_attention(scd_device *device, const scd_attention_args *args, scd_error *err)
{
    size_t dim = args->hidden_dim / args->n_heads, most = 0, longest = 0;
    for (size_t c = 0; c < args->n_cells; c++) {
        size_t n_q = args->host_cu_q[c + 1] - args->host_cu_q[c];
        size_t n_k = args->host_cu_k[c + 1] - args->host_cu_k[c];
        most = n_q > most ? n_q : most;
        longest = n_k > longest ? n_k : longest;
    }
    if (longest > device->max_rows)
        return scd_fail(err, SCD_E_INVALID, "a cell of %zu rows: reserved are %zu", longest,
                        device->max_rows);
    if (dim > SCD_MAX_HEAD_DIM || dim % 2 || dim * args->n_heads != args->hidden_dim)
        return scd_fail(err, SCD_E_INVALID, "%zu heads in %zu: a head is even and at most %d wide",
                        args->n_heads, args->hidden_dim, (int)SCD_MAX_HEAD_DIM);
    job j = {.device = device, .a = args, .pieces = 1};
    size_t heads = args->n_cells * args->n_heads;
    size_t enough = TASKS_PER_THREAD * (size_t)device->threads;
    if (device->threads > 1 && heads < enough)
        while (j.pieces * heads < enough && most / (j.pieces + 1) >= LEAST_QUERIES)
            j.pieces++;
    scd_cursor_init(&j.cursor);
    scd_pool_run(device->pool, body, &j);
    return SCD_OK;
}
