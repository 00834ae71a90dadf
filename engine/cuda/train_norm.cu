/* train_norm.cu - RMSNorm, and LayerNorm with ReLU: forward and backward.
 *
 * Along a row a warp works; the gradients of weights are sums of columns over chunks of rows, where
 * a thread takes a column, and their parts are added in order. */
#include "engine/cuda/gpu.cuh"
#include "engine/cuda/train.h"

enum { WARPS = 8, THREADS = WARPS * SCD_WARP };
#define EPS 1e-5f

/* The row of this warp; false: there is none. */
SCD_DEVICE bool my_row(size_t rows, size_t *row)
{
    *row = (size_t)blockIdx.x * WARPS + threadIdx.x / SCD_WARP;
    return *row < rows;
}

SCD_KERNEL rms_rows(scd_t_rms_norm a)
{
    size_t row, lane = threadIdx.x % SCD_WARP;
    if (!my_row(a.rows, &row))
        return;
    const float *x = a.x + row * a.width;
    float square = 0.0f;
    for (size_t i = lane; i < a.width; i += SCD_WARP)
        square += x[i] * x[i];
    float rstd = 1.0f / sqrtf(gpu_warp_sum(square) / (float)a.width + EPS);
    for (size_t i = lane; i < a.width; i += SCD_WARP)
        a.y[row * a.width + i] = x[i] * rstd * a.w[i];
    if (lane == 0)
        a.rstd[row] = rstd;
}

/* With g = dy w and s = mean(g x): dx += rstd g - rstd^3 s x. */
SCD_KERNEL rms_dx(scd_t_rms_norm_back a)
{
    size_t row, lane = threadIdx.x % SCD_WARP;
    if (!my_row(a.rows, &row))
        return;
    const float *x = a.x + row * a.width, *dy = a.dy + row * a.width;
    float *dx = a.dx + row * a.width, rstd = a.rstd[row], sum = 0.0f;
    for (size_t i = lane; i < a.width; i += SCD_WARP)
        sum += dy[i] * a.w[i] * x[i];
    float back = rstd * rstd * rstd * (gpu_warp_sum(sum) / (float)a.width);
    for (size_t i = lane; i < a.width; i += SCD_WARP)
        dx[i] += rstd * dy[i] * a.w[i] - back * x[i];
}

/* parts (chunks, width): dw of a chunk of rows, dy x rstd. */
SCD_KERNEL rms_dw(scd_t_rms_norm_back a, float *parts)
{
    size_t col = (size_t)blockIdx.x * THREADS + threadIdx.x;
    size_t first = (size_t)blockIdx.y * SCD_TRAIN_CHUNK;
    int n = scd_rows_left(first, SCD_TRAIN_CHUNK, a.rows);
    if (col >= a.width)
        return;
    float sum = 0.0f;
    for (size_t r = first; r < first + (size_t)n; r++)
        sum += a.dy[r * a.width + col] * a.x[r * a.width + col] * a.rstd[r];
    parts[blockIdx.y * a.width + col] = sum;
}

/* Blocks for sums of columns over chunks of rows. */
static dim3 columns(size_t rows, size_t width)
{
    return dim3((unsigned)scd_ceil_div(width, THREADS),
                (unsigned)scd_ceil_div(rows, SCD_TRAIN_CHUNK));
}

scd_code scd_t_cuda_rms_norm(scd_device *device, const scd_t_rms_norm *args, scd_error *err)
{
    scd_code code = scd_gpu_enter(device->gpu, err);
    return code ? code
                : SCD_LAUNCH(device, err, rms_rows, scd_ceil_div(args->rows, WARPS), THREADS, 0,
                             *args);
}

scd_code scd_t_cuda_rms_norm_back(scd_device *device, const scd_t_rms_norm_back *args,
                                  scd_error *err)
{
    size_t chunks = scd_ceil_div(args->rows, SCD_TRAIN_CHUNK), width = args->width;
    dim3 grid = columns(args->rows, width);
    scd_code code = scd_gpu_enter(device->gpu, err);
    if (!code)
        code = SCD_LAUNCH(device, err, rms_dx, scd_ceil_div(args->rows, WARPS), THREADS, 0, *args);
    if (code || !args->dw)
        return code;
    code = scd_cuda_scratch_want(device, chunks * width * sizeof(float), err);
    float *parts = (float *)(void *)device->scratch;
    if (!code)
        code = SCD_LAUNCH_2D(device, err, rms_dw, grid, THREADS, 0, *args, parts);
    return code ? code : scd_cuda_add_parts(device, parts, chunks, width, width, args->dw, err);
}

/* ---- LayerNorm and ReLU -------------------------------------------------------------------- */

SCD_KERNEL layer_rows(scd_t_norm_relu a)
{
    size_t row, lane = threadIdx.x % SCD_WARP;
    if (!my_row(a.rows, &row))
        return;
    const float *x = a.x + row * a.width;
    float sum = 0.0f, square = 0.0f;
    for (size_t i = lane; i < a.width; i += SCD_WARP)
        sum += x[i];
    float mean = gpu_warp_sum(sum) / (float)a.width;
    for (size_t i = lane; i < a.width; i += SCD_WARP)
        square += (x[i] - mean) * (x[i] - mean);
    float rstd = 1.0f / sqrtf(gpu_warp_sum(square) / (float)a.width + EPS);
    for (size_t i = lane; i < a.width; i += SCD_WARP)
        a.y[row * a.width + i] = fmaxf((x[i] - mean) * rstd * a.w[i] + a.b[i], 0.0f);
    if (lane == 0) {
        a.mean[row] = mean;
        a.rstd[row] = rstd;
    }
}

/* What comes through the ReLU, and the normed x, at one place. */
SCD_DEVICE void layer_at(const scd_t_norm_relu_back &a, size_t row, size_t i, float *e, float *c)
{
    size_t at = row * a.width + i;
    *e = a.y[at] > 0.0f ? a.dy[at] : 0.0f;
    *c = (a.x[at] - a.mean[row]) * a.rstd[row];
}

/* With e = dy where y > 0, c the normed x, g = e w: dx = rstd (g - mean(g) - c mean(g c)). */
SCD_KERNEL layer_dx(scd_t_norm_relu_back a)
{
    size_t row, lane = threadIdx.x % SCD_WARP;
    if (!my_row(a.rows, &row))
        return;
    float sum_g = 0.0f, sum_gc = 0.0f, e, c;
    for (size_t i = lane; i < a.width; i += SCD_WARP) {
        layer_at(a, row, i, &e, &c);
        sum_g += e * a.w[i];
        sum_gc += e * a.w[i] * c;
    }
    float mean_g = gpu_warp_sum(sum_g) / (float)a.width;
    float mean_gc = gpu_warp_sum(sum_gc) / (float)a.width;
    for (size_t i = lane; i < a.width; i += SCD_WARP) {
        layer_at(a, row, i, &e, &c);
        a.dx[row * a.width + i] = a.rstd[row] * (e * a.w[i] - mean_g - c * mean_gc);
    }
}

/* parts (chunks, 2 width): dw = e c, then db = e, of a chunk of rows. */
SCD_KERNEL layer_dw(scd_t_norm_relu_back a, float *parts)
{
    size_t col = (size_t)blockIdx.x * THREADS + threadIdx.x;
    size_t first = (size_t)blockIdx.y * SCD_TRAIN_CHUNK;
    int n = scd_rows_left(first, SCD_TRAIN_CHUNK, a.rows);
    if (col >= a.width)
        return;
    float dw = 0.0f, db = 0.0f, e, c;
    for (size_t r = first; r < first + (size_t)n; r++) {
        layer_at(a, r, col, &e, &c);
        dw += e * c;
        db += e;
    }
    parts[blockIdx.y * 2 * a.width + col] = dw;
    parts[(blockIdx.y * 2 + 1) * a.width + col] = db;
}

scd_code scd_t_cuda_norm_relu(scd_device *device, const scd_t_norm_relu *args, scd_error *err)
{
    scd_code code = scd_gpu_enter(device->gpu, err);
    return code ? code
                : SCD_LAUNCH(device, err, layer_rows, scd_ceil_div(args->rows, WARPS), THREADS, 0,
                             *args);
}

scd_code scd_t_cuda_norm_relu_back(scd_device *device, const scd_t_norm_relu_back *args,
                                   scd_error *err)
{
    size_t chunks = scd_ceil_div(args->rows, SCD_TRAIN_CHUNK), width = args->width;
    dim3 grid = columns(args->rows, width);
    scd_code code = scd_gpu_enter(device->gpu, err);
    if (!code)
        code =
            SCD_LAUNCH(device, err, layer_dx, scd_ceil_div(args->rows, WARPS), THREADS, 0, *args);
    if (!code)
        code = scd_cuda_scratch_want(device, 2 * chunks * width * sizeof(float), err);
    float *parts = (float *)(void *)device->scratch;
    if (!code)
        code = SCD_LAUNCH_2D(device, err, layer_dw, grid, THREADS, 0, *args, parts);
    if (!code && args->dw)
        code = scd_cuda_add_parts(device, parts, chunks, 2 * width, width, args->dw, err);
    if (!code && args->db)
        code = scd_cuda_add_parts(device, parts + width, chunks, 2 * width, width, args->db, err);
    return code;
}
