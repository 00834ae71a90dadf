/* train_linear.cu - y = x w^T + b and its gradients: three products and a sum of columns.
 *
 * dw is a sum over all rows. Where its own shape gives the device too few blocks, the rows are cut
 * into pieces of equal length, products of one batch, and a shorter last one; their parts are added
 * in order. How it is cut follows from the shapes alone. */
#include "engine/cuda/gpu.cuh"
#include "engine/cuda/train.h"

enum {
    THREADS = 256,
    BLOCK = 128,       /* rows and columns of dw that a block of a product takes */
    WANTED = 128,      /* blocks: an H100 runs 132 at once */
    LEAST_PIECE = 512, /* rows of a piece of the sum */
};

/* y += b; a thread takes an element. */
SCD_KERNEL add_bias(float *y, const float *b, size_t n, size_t width)
{
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n)
        y[i] += b[i % width];
}

scd_code scd_t_cuda_linear(scd_device *device, const scd_t_linear *a, scd_error *err)
{
    size_t n = a->rows * a->out_dim;
    scd_gemm_f32 p = {};
    p.tb = true;
    p.m = a->rows;
    p.n = p.ldc = a->out_dim;
    p.k = p.lda = p.ldb = a->in_dim;
    p.a = a->x;
    p.b = a->w;
    p.c = a->y;
    p.alpha = 1.0f;
    p.batch = 1;
    if (!a->rows)
        return SCD_OK;
    scd_code code = scd_gpu_enter(device->gpu, err);
    if (!code)
        code = scd_gemm_f32_run(device->gemm, &p, err);
    if (!code && a->b)
        code = SCD_LAUNCH(device, err, add_bias, scd_ceil_div(n, THREADS), THREADS, 0, a->y, a->b,
                          n, a->out_dim);
    return code;
}

static scd_code back_x(scd_device *device, const scd_t_linear_back *a, scd_error *err)
{
    scd_gemm_f32 p = {};
    p.m = a->rows;
    p.n = p.ldb = p.ldc = a->in_dim;
    p.k = p.lda = a->out_dim;
    p.a = a->dy;
    p.b = a->w;
    p.c = a->dx;
    p.alpha = 1.0f;
    p.beta = a->dx_add ? 1.0f : 0.0f;
    p.batch = 1;
    return scd_gemm_f32_run(device->gemm, &p, err);
}

/* dw over the pieces of `rows` rows from `first` on, to `to` (batch, out, in). */
static scd_code some_of_w(scd_device *device, const scd_t_linear_back *a, size_t first, size_t rows,
                          size_t batch, bool add, float *to, scd_error *err)
{
    scd_gemm_f32 p = {};
    p.ta = true;
    p.m = p.lda = a->out_dim;
    p.n = p.ldb = p.ldc = a->in_dim;
    p.k = rows;
    p.a = a->dy + first * a->out_dim;
    p.b = a->x + first * a->in_dim;
    p.c = to;
    p.alpha = 1.0f;
    p.beta = add ? 1.0f : 0.0f;
    p.batch = batch;
    p.step_a = rows * a->out_dim;
    p.step_b = rows * a->in_dim;
    p.step_c = a->out_dim * a->in_dim;
    return scd_gemm_f32_run(device->gemm, &p, err);
}

static scd_code back_w(scd_device *device, const scd_t_linear_back *a, scd_error *err)
{
    size_t blocks = scd_ceil_div(a->out_dim, BLOCK) * scd_ceil_div(a->in_dim, BLOCK);
    size_t piece = scd_piece_rows(a->rows, blocks, WANTED, LEAST_PIECE);
    size_t whole = a->rows / piece, rest = a->rows % piece, n = a->out_dim * a->in_dim;
    if (piece == a->rows)
        return some_of_w(device, a, 0, piece, 1, true, a->dw, err);
    scd_code code = scd_cuda_scratch_want(device, (whole + 1) * n * sizeof(float), err);
    float *parts = (float *)(void *)device->scratch;
    if (!code)
        code = some_of_w(device, a, 0, piece, whole, false, parts, err);
    if (!code && rest)
        code = some_of_w(device, a, whole * piece, rest, 1, false, parts + whole * n, err);
    return code ? code : scd_cuda_add_parts(device, parts, whole + (rest > 0), n, n, a->dw, err);
}

/* parts (chunks, width): sums of the columns of a chunk of rows; a thread takes a column. */
SCD_KERNEL sum_columns(const float *x, size_t rows, size_t width, float *parts)
{
    size_t col = (size_t)blockIdx.x * THREADS + threadIdx.x;
    size_t first = (size_t)blockIdx.y * SCD_TRAIN_CHUNK;
    int n = scd_rows_left(first, SCD_TRAIN_CHUNK, rows);
    if (col >= width)
        return;
    float sum = 0.0f;
    x += first * width + col;
    for (int r = 0; r < n; r++)
        sum += x[(size_t)r * width];
    parts[blockIdx.y * width + col] = sum;
}

static scd_code back_b(scd_device *device, const scd_t_linear_back *a, scd_error *err)
{
    size_t chunks = scd_ceil_div(a->rows, SCD_TRAIN_CHUNK), width = a->out_dim;
    scd_code code = scd_cuda_scratch_want(device, chunks * width * sizeof(float), err);
    float *parts = (float *)(void *)device->scratch;
    dim3 grid((unsigned)scd_ceil_div(width, THREADS), (unsigned)chunks);
    if (!code)
        code =
            SCD_LAUNCH_2D(device, err, sum_columns, grid, THREADS, 0, a->dy, a->rows, width, parts);
    return code ? code : scd_cuda_add_parts(device, parts, chunks, width, width, a->db, err);
}

scd_code scd_t_cuda_linear_back(scd_device *device, const scd_t_linear_back *a, scd_error *err)
{
    if (!a->rows)
        return SCD_OK;
    scd_code code = scd_gpu_enter(device->gpu, err);
    if (!code && a->dw)
        code = back_w(device, a, err);
    if (!code && a->db)
        code = back_b(device, a, err);
    if (!code && a->dx)
        code = back_x(device, a, err);
    return code;
}
