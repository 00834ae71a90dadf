/* train_gene_loss.cu - cross-entropy over the vocabulary without ever holding all logits.
 *
 * For ROWS rows at a time: tile after tile of the vocabulary cuBLASLt makes the logits, and a block
 * a row keeps the running maximum m and sum l of 2^(logit - m) (Milakov & Gimelshein 2018). Then,
 * where gradients are wanted, tile after tile again: the logits become
 * scale (2^(logit - lse) - onehot), and two products add them to dx and to dw's tile. Logits, m and
 * lse are in powers of two. A tile of logits is 16 MiB: it stays in the second-level cache. */
#include "engine/cuda/gpu.cuh"
#include "engine/cuda/train.h"

enum { THREADS = 256, WARPS = THREADS / SCD_WARP };
static const size_t ROWS = 2048, TILE = 2048;
#define LOG2_E 1.44269504f
#define LN_2 0.693147181f

/* Of the rows at hand, (ROWS) each. */
typedef struct row_state {
    float *m, *l, *target; /* target: its logit */
    float *logits;         /* (ROWS, TILE) */
    int32_t *best;
} row_state;

static size_t carve(char *base, size_t rows, size_t tile, row_state *s)
{
    size_t used = 0;
    s->m = (float *)scd_cuda_carve(base, &used, rows, sizeof(float));
    s->l = (float *)scd_cuda_carve(base, &used, rows, sizeof(float));
    s->target = (float *)scd_cuda_carve(base, &used, rows, sizeof(float));
    s->best = (int32_t *)scd_cuda_carve(base, &used, rows, sizeof(int32_t));
    s->logits = (float *)scd_cuda_carve(base, &used, rows * tile, sizeof(float));
    return used;
}

/* A value and where in the tile it stands. The place is a whole number below 2^24, so that a float
 * holds it: shuffles are of floats. */
typedef struct peak {
    float value, place;
} peak;

/* The larger one; of equals the first. */
SCD_DEVICE peak higher(peak a, peak b)
{
    bool second = b.value > a.value || (b.value == a.value && b.place < a.place);
    return second ? b : a;
}

SCD_DEVICE peak warp_peak(peak p)
{
    for (int mask = SCD_WARP / 2; mask; mask /= 2) {
        peak other;
        other.value = gpu_shfl_xor(p.value, mask);
        other.place = gpu_shfl_xor(p.place, mask);
        p = higher(p, other);
    }
    return p;
}

/* The peak of all threads of the block, for each of them. Shared: (WARPS) peaks. */
SCD_DEVICE peak block_peak(peak mine, peak *of_warps)
{
    mine = warp_peak(mine);
    if (threadIdx.x % SCD_WARP == 0)
        of_warps[threadIdx.x / SCD_WARP] = mine;
    gpu_sync_block();
    mine = of_warps[0];
    for (int w = 1; w < WARPS; w++)
        mine = higher(mine, of_warps[w]);
    return mine;
}

/* Row blockIdx.x takes in `n` logits from column `first` on. */
SCD_KERNEL take_in(const int32_t *targets, row_state s, size_t first, size_t n)
{
    peak *of_warps = (peak *)gpu_shared();
    float *sums = (float *)(of_warps + WARPS);
    size_t row = blockIdx.x, target = (size_t)targets[row];
    const float *x = s.logits + row * n;
    peak mine = {-INFINITY, 0.0f};
    for (size_t i = threadIdx.x; i < n; i += THREADS) {
        peak p = {x[i], (float)i};
        mine = higher(mine, p);
    }
    mine = block_peak(mine, of_warps);
    float before = first ? s.m[row] : -INFINITY, top = fmaxf(before, mine.value), sum = 0.0f;
    for (size_t i = threadIdx.x; i < n; i += THREADS)
        sum += gpu_exp2(x[i] - top);
    sum = gpu_warp_sum(sum);
    if (threadIdx.x % SCD_WARP == 0)
        sums[threadIdx.x / SCD_WARP] = sum;
    gpu_sync_block();
    if (threadIdx.x)
        return;
    float total = first ? s.l[row] * gpu_exp2(before - top) : 0.0f;
    for (int w = 0; w < WARPS; w++)
        total += sums[w];
    if (!first || mine.value > before)
        s.best[row] = (int32_t)(first + (size_t)mine.place);
    s.m[row] = top;
    s.l[row] = total;
    if (target >= first && target < first + n)
        s.target[row] = x[target - first];
}

/* The loss of each row; l becomes its lse. */
SCD_KERNEL end_rows(row_state s, size_t n, float *loss, int32_t *best)
{
    size_t row = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (row >= n)
        return;
    float lse = s.m[row] + log2f(s.l[row]);
    s.l[row] = lse;
    if (loss)
        loss[row] = LN_2 * (lse - s.target[row]);
    if (best)
        best[row] = s.best[row];
}

/* logits = scale (2^(logit - lse) - onehot); a block takes a row. */
SCD_KERNEL turn_back(const int32_t *targets, row_state s, size_t first, size_t n, float scale)
{
    size_t row = blockIdx.x, target = (size_t)targets[row];
    float *x = s.logits + row * n, lse = s.l[row];
    for (size_t i = threadIdx.x; i < n; i += THREADS) {
        float p = gpu_exp2(x[i] - lse);
        x[i] = scale * (first + i == target ? p - 1.0f : p);
    }
}

/* The rows at hand: `n` of them from `row` on. */
typedef struct job {
    scd_device *device;
    const scd_t_gene_loss *a;
    row_state s;
    size_t row, n;
} job;

static scd_code make_logits(const job *j, size_t first, size_t cols, scd_error *err)
{
    size_t width = j->a->hidden_dim;
    scd_gemm_f32 p = {};
    p.tb = true;
    p.m = j->n;
    p.n = p.ldc = cols;
    p.k = p.lda = p.ldb = width;
    p.a = j->a->x + j->row * width;
    p.b = j->a->w + first * width;
    p.c = j->s.logits;
    p.alpha = LOG2_E;
    p.batch = 1;
    return scd_gemm_f32_run(j->device->gemm, &p, err);
}

static scd_code add_dx(const job *j, size_t first, size_t cols, scd_error *err)
{
    size_t width = j->a->hidden_dim;
    scd_gemm_f32 p = {};
    p.m = j->n;
    p.n = p.ldb = p.ldc = width;
    p.k = p.lda = cols;
    p.a = j->s.logits;
    p.b = j->a->w + first * width;
    p.c = j->a->dx + j->row * width;
    p.alpha = 1.0f;
    p.beta = first ? 1.0f : 0.0f;
    p.batch = 1;
    return scd_gemm_f32_run(j->device->gemm, &p, err);
}

static scd_code add_dw(const job *j, size_t first, size_t cols, scd_error *err)
{
    size_t width = j->a->hidden_dim;
    scd_gemm_f32 p = {};
    p.ta = true;
    p.m = p.lda = cols;
    p.n = p.ldb = p.ldc = width;
    p.k = j->n;
    p.a = j->s.logits;
    p.b = j->a->x + j->row * width;
    p.c = j->a->dw + first * width;
    p.alpha = p.beta = 1.0f;
    p.batch = 1;
    return scd_gemm_f32_run(j->device->gemm, &p, err);
}

static scd_code forward(const job *j, scd_error *err)
{
    const scd_t_gene_loss *a = j->a;
    size_t shared = WARPS * (sizeof(peak) + sizeof(float));
    scd_code code = SCD_OK;
    for (size_t first = 0; first < a->vocab && !code; first += TILE) {
        size_t cols = a->vocab - first < TILE ? a->vocab - first : TILE;
        code = make_logits(j, first, cols, err);
        if (!code)
            code = SCD_LAUNCH(j->device, err, take_in, j->n, THREADS, shared, a->targets + j->row,
                              j->s, first, cols);
    }
    return code ? code
                : SCD_LAUNCH(j->device, err, end_rows, scd_ceil_div(j->n, THREADS), THREADS, 0,
                             j->s, j->n, a->loss ? a->loss + j->row : NULL,
                             a->best ? a->best + j->row : NULL);
}

static scd_code backward(const job *j, scd_error *err)
{
    const scd_t_gene_loss *a = j->a;
    scd_code code = SCD_OK;
    for (size_t first = 0; first < a->vocab && !code; first += TILE) {
        size_t cols = a->vocab - first < TILE ? a->vocab - first : TILE;
        code = make_logits(j, first, cols, err);
        if (!code)
            code = SCD_LAUNCH(j->device, err, turn_back, j->n, THREADS, 0, a->targets + j->row,
                              j->s, first, cols, a->scale);
        if (!code && a->dx)
            code = add_dx(j, first, cols, err);
        if (!code && a->dw)
            code = add_dw(j, first, cols, err);
    }
    return code;
}

scd_code scd_t_cuda_gene_loss(scd_device *device, const scd_t_gene_loss *args, scd_error *err)
{
    size_t rows = args->n < ROWS ? args->n : ROWS, tile = args->vocab < TILE ? args->vocab : TILE;
    job j = {};
    j.device = device;
    j.a = args;
    scd_code code = scd_gpu_enter(device->gpu, err);
    if (!code)
        code = scd_cuda_scratch_want(device, carve(NULL, rows, tile, &j.s), err);
    carve(device->scratch, rows, tile, &j.s);
    for (j.row = 0; j.row < args->n && !code; j.row += ROWS) {
        j.n = args->n - j.row < ROWS ? args->n - j.row : ROWS;
        code = forward(&j, err);
        if (!code && (args->dx || args->dw))
            code = backward(&j, err);
    }
    return code;
}
