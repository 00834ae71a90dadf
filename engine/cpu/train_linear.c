/* train_linear.c - y = x w^T + b and its gradients.
 *
 * y and dx are cut into chunks of rows. dw is a sum over all rows: its tasks are blocks of its own
 * rows, and where that makes too few of them also pieces of the sum, which land in parts that are
 * added in order. How it is cut follows from the shapes alone. */
#include "engine/cpu/train_impl.h"

typedef struct forward {
    const scd_t_linear *a;
    const scd_kernels *kernels;
} forward;

static scd_code forward_rows(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const forward *f = arg;
    const scd_t_linear *a = f->a;
    size_t first = task * SCD_GEMM_ROWS, n = scd_chunk_size(a->rows, SCD_GEMM_ROWS, task);
    float *y = a->y + first * a->out_dim;
    scd_code code = scd_gemm_nt(n, a->out_dim, a->in_dim, 1, a->x + first * a->in_dim, a->in_dim,
                                a->w, a->in_dim, 0, y, a->out_dim);
    for (size_t r = 0; a->b && !code && r < n; r++)
        f->kernels->add(y + r * a->out_dim, a->b, a->out_dim, y + r * a->out_dim);
    return code;
}

scd_code scd_t_cpu_linear(scd_device *device, const scd_t_linear *args, scd_error *err)
{
    forward f = {.a = args, .kernels = device->kernels};
    return scd_train_run(device, scd_chunks(args->rows, SCD_GEMM_ROWS), 0, forward_rows, &f, err);
}

enum {
    BLOCK = 128,       /* rows of dw in a task */
    WANTED_TASKS = 8,  /* of dw, before the sum is cut */
    LEAST_PIECE = 512, /* rows of a piece of the sum */
};

typedef struct backward {
    const scd_t_linear_back *a;
    const scd_train_kernels *kernels;
    size_t blocks, pieces, piece; /* of dw; rows of a piece */
    size_t n_dw, n_dx, n_db;      /* tasks */
    float *parts;                 /* (pieces, out, in), where there are several */
    float *sums;                  /* (n_db, out) */
} backward;

static scd_code dw_task(const backward *b, size_t task)
{
    const scd_t_linear_back *a = b->a;
    size_t out = task % b->blocks * BLOCK,
           n_out = scd_chunk_size(a->out_dim, BLOCK, task % b->blocks);
    size_t piece = task / b->blocks, first = piece * b->piece;
    size_t n = scd_chunk_size(a->rows, b->piece, piece);
    const float *dy = a->dy + first * a->out_dim + out, *x = a->x + first * a->in_dim;
    if (b->pieces == 1)
        return scd_gemm_tn(n_out, a->in_dim, n, 1, dy, a->out_dim, x, a->in_dim, 1,
                           a->dw + out * a->in_dim, a->in_dim);
    float *part = b->parts + (piece * a->out_dim + out) * a->in_dim;
    return scd_gemm_tn(n_out, a->in_dim, n, 1, dy, a->out_dim, x, a->in_dim, 0, part, a->in_dim);
}

static scd_code dx_task(const backward *b, size_t task)
{
    const scd_t_linear_back *a = b->a;
    size_t first = task * SCD_GEMM_ROWS, n = scd_chunk_size(a->rows, SCD_GEMM_ROWS, task);
    return scd_gemm_nn(n, a->in_dim, a->out_dim, 1, a->dy + first * a->out_dim, a->out_dim, a->w,
                       a->in_dim, a->dx_add ? 1 : 0, a->dx + first * a->in_dim, a->in_dim);
}

static void db_task(const backward *b, size_t task)
{
    const scd_t_linear_back *a = b->a;
    size_t first = task * SCD_GEMM_ROWS, n = scd_chunk_size(a->rows, SCD_GEMM_ROWS, task);
    float *sums = b->sums + task * a->out_dim;
    memset(sums, 0, a->out_dim * sizeof *sums);
    for (size_t r = first; r < first + n; r++)
        b->kernels->add(sums, a->dy + r * a->out_dim, a->out_dim);
}

static scd_code backward_task(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const backward *b = arg;
    if (task < b->n_dw)
        return dw_task(b, task);
    if (task - b->n_dw < b->n_dx)
        return dx_task(b, task - b->n_dw);
    db_task(b, task - b->n_dw - b->n_dx);
    return SCD_OK;
}

static scd_code add_parts_task(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const backward *b = arg;
    const scd_t_linear_back *a = b->a;
    size_t at = task * BLOCK * a->in_dim, n = scd_chunk_size(a->out_dim, BLOCK, task) * a->in_dim;
    for (size_t i = 0; i < b->pieces; i++)
        b->kernels->add(a->dw + at, b->parts + i * a->out_dim * a->in_dim + at, n);
    return SCD_OK;
}

/* Pieces of the sum over rows: as many as there are too few blocks, but none too short. */
static void cut(backward *b)
{
    const scd_t_linear_back *a = b->a;
    size_t most = a->rows / LEAST_PIECE, wanted;
    b->blocks = scd_chunks(a->out_dim, BLOCK);
    wanted = scd_chunks(WANTED_TASKS, b->blocks);
    b->pieces = wanted < most ? wanted : most ? most : 1;
    b->piece = scd_chunks(a->rows, b->pieces);
    b->pieces = scd_chunks(a->rows, b->piece);
}

scd_code scd_t_cpu_linear_back(scd_device *device, const scd_t_linear_back *args, scd_error *err)
{
    if (!args->rows)
        return SCD_OK;
    backward b = {.a = args, .kernels = scd_train_kernels_of(device->kernels)};
    size_t chunks = scd_chunks(args->rows, SCD_GEMM_ROWS), floats;
    cut(&b);
    b.n_dw = args->dw ? b.blocks * b.pieces : 0;
    b.n_dx = args->dx ? chunks : 0;
    b.n_db = args->db ? chunks : 0;
    floats = args->dw && b.pieces > 1 ? b.pieces * args->out_dim * args->in_dim : 0;
    scd_code code = scd_train_shared(device, floats + b.n_db * args->out_dim, &b.parts, err);
    b.sums = floats ? b.parts + floats : b.parts;
    if (!code)
        code = scd_train_run(device, b.n_dw + b.n_dx + b.n_db, 0, backward_task, &b, err);
    if (!code && floats)
        code = scd_train_run(device, b.blocks, 0, add_parts_task, &b, err);
    if (!code && args->db)
        scd_train_add_parts(device, b.sums, b.n_db, args->out_dim, args->out_dim, args->db);
    return code;
}
