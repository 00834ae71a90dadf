/* attention_bf16.cu - attention on the tensor cores: bf16 in, fp32 scores, sums and softmax.
 *
 * The shape of FlashAttention-2 (Dao, arXiv 2307.08691). A block is one head and 64 M queries of a
 * cell, 16 M for each of four warps, whose queries stay in registers. Keys and values come in tiles
 * of N through two buffers, the next one on its way (cp.async) while this one is multiplied:
 *
 *   S (16 M, N) = Q K^T;  P = 2^(scale (S - top));  O += P V, shrunk first where the top is raised
 *
 * P never leaves its registers: two neighbouring C fragments of S are an A fragment of P (index.h).
 * Heads of any even width up to D are computed as D, with zeros beyond; keys past the cell's last
 * are zeros that the mask takes out. Tiles start at the cell's first key and query, so that the
 * bits of a query depend on its cell alone. */
#include "engine/cuda/attention_tile.cuh"

enum { WARPS = 4, THREADS = WARPS * SCD_WARP, PAD = 8 };

/* A tile of keys or values, (N, D) with rows D + PAD apart: eight rows of 16 bytes then lie in
 * different banks. */
template <int D, int N> SCD_DEVICE uint16_t *buffer(int which, int stage)
{
    return (uint16_t *)gpu_shared() + (stage * 2 + which) * N * (D + PAD);
}

template <int D, int N> static size_t shared_bytes(void)
{
    return 4 * N * (D + PAD) * sizeof(uint16_t);
}

/* Start the copy of `rows` rows of a head, `dim` wide; zeros fill the tile. */
template <int D, int N, int bytes>
SCD_DEVICE void copy_tile(const uint16_t *from, size_t width, int dim, int rows, uint16_t *to)
{
    const int each = bytes / 2, pieces = D / each;
    for (int i = (int)threadIdx.x; i < N * pieces; i += THREADS) {
        int r = i / pieces, c = i % pieces * each;
        bool real = r < rows && c < dim;
        gpu_copy_async<bytes>(to + r * (D + PAD) + c, real ? from + (size_t)r * width + c : from,
                              real ? bytes : 0);
    }
}

template <int D, int N>
SCD_DEVICE void start_tile(const tile_args &a, size_t head, size_t k0, size_t n_k, int tile)
{
    size_t first = (size_t)tile * N, at = (k0 + first) * a.width + head;
    int rows = scd_rows_left(first, N, n_k), stage = tile & 1;
    uint16_t *k = buffer<D, N>(0, stage), *v = buffer<D, N>(1, stage);
    if (a.wide) {
        copy_tile<D, N, 16>(a.k + at, a.width, a.dim, rows, k);
        copy_tile<D, N, 16>(a.v + at, a.width, a.dim, rows, v);
    } else {
        copy_tile<D, N, 4>(a.k + at, a.width, a.dim, rows, k);
        copy_tile<D, N, 4>(a.v + at, a.width, a.dim, rows, v);
    }
}

/* p = Q K^T, -infinity for keys from `left` on. */
template <int D, int M, int N>
SCD_DEVICE void scores(const warp_state<D, M> &s, const uint16_t *keys, int left, int lane,
                       float p[M][N / 8][4])
{
    SCD_UNROLL
    for (int m = 0; m < M; m++)
        SCD_UNROLL
    for (int n = 0; n < N / 8; n++)
        p[m][n][0] = p[m][n][1] = p[m][n][2] = p[m][n][3] = 0.0f;
    SCD_UNROLL
    for (int k = 0; k < D / 16; k++)
        SCD_UNROLL
    for (int n = 0; n < N / 16; n++) {
        uint32_t b[4];
        gpu_ldmatrix(b, keys + (n * 16 + scd_ldm_key_row(lane)) * (D + PAD) + k * 16 +
                            scd_ldm_key_col(lane));
        SCD_UNROLL
        for (int m = 0; m < M; m++) {
            gpu_mma_bf16(p[m][2 * n], s.q[m][k], b[0], b[1]);
            gpu_mma_bf16(p[m][2 * n + 1], s.q[m][k], b[2], b[3]);
        }
    }
    mask_keys<M, N>(p, left, lane);
}

/* O += P V */
template <int D, int M, int N>
SCD_DEVICE void gather_values(warp_state<D, M> &s, const uint16_t *values, int lane,
                              const float p[M][N / 8][4])
{
    SCD_UNROLL
    for (int n = 0; n < N / 16; n++) {
        uint32_t a[M][4];
        SCD_UNROLL
        for (int m = 0; m < M; m++)
            weights_as_a(p[m], n, a[m]);
        SCD_UNROLL
        for (int d = 0; d < D / 16; d++) {
            uint32_t b[4];
            gpu_ldmatrix_trans(b, values + (n * 16 + scd_ldm_value_row(lane)) * (D + PAD) + d * 16 +
                                      scd_ldm_value_col(lane));
            SCD_UNROLL
            for (int m = 0; m < M; m++) {
                gpu_mma_bf16(s.o[m][2 * d], a[m], b[0], b[1]);
                gpu_mma_bf16(s.o[m][2 * d + 1], a[m], b[2], b[3]);
            }
        }
    }
}

template <int D, int M, int N> SCD_KERNEL_OF(THREADS) attention_tile(tile_args a)
{
    scd_query_tile at = scd_query_tile_at(blockIdx.x, a.tiles);
    size_t first = a.cu_q[at.cell] + at.tile * (WARPS * 16 * M), end = a.cu_q[at.cell + 1];
    size_t k0 = a.cu_k[at.cell], n_k = a.cu_k[at.cell + 1] - k0, head = blockIdx.y * (size_t)a.dim;
    if (first >= end)
        return; /* the whole block */
    int lane = (int)threadIdx.x % SCD_WARP, tiles = (int)scd_ceil_div(n_k, N);
    first += threadIdx.x / SCD_WARP * (16 * M); /* of this warp */
    int rows = scd_rows_left(first, 16 * M, end);
    warp_state<D, M> s;
    load_queries<D, M>(s, a.q + first * a.width + head, a, rows, lane);
    start_tile<D, N>(a, head, k0, n_k, 0);
    gpu_copy_commit();
    for (int t = 0; t < tiles; t++) {
        if (t + 1 < tiles)
            start_tile<D, N>(a, head, k0, n_k, t + 1);
        gpu_copy_commit();
        gpu_copy_wait<1>(); /* all but the newest group: tile t is here */
        gpu_sync_block();
        if (rows > 0) {
            float p[M][N / 8][4];
            scores<D, M, N>(s, buffer<D, N>(0, t & 1), scd_rows_left((size_t)t * N, N, n_k), lane,
                            p);
            soften<D, M, N>(s, a.scale, p);
            gather_values<D, M, N>(s, buffer<D, N>(1, t & 1), lane, p);
        }
        gpu_sync_block(); /* its buffer may be filled again */
    }
    gpu_copy_wait<0>();
    if (rows > 0)
        store_outputs<D, M>(s, a.out + first * a.width + head, a, rows, lane);
}

template <int D, int M, int N>
static scd_code launch(scd_device *device, const scd_attention_args *args, size_t most,
                       tile_args *a, scd_error *err)
{
    void (*kernel)(tile_args) = attention_tile<D, M, N>;
    a->tiles = scd_ceil_div(most, WARPS * 16 * M);
    dim3 grid((unsigned)(args->n_cells * a->tiles), (unsigned)args->n_heads);
    size_t shared = shared_bytes<D, N>();
    return SCD_LAUNCH_2D(device, err, kernel, grid, THREADS, shared, *a);
}

scd_code scd_cuda_attention_bf16(scd_device *device, const scd_attention_args *args, size_t most,
                                 scd_error *err)
{
    tile_args a = {};
    a.cu_q = args->cu_q;
    a.cu_k = args->cu_k;
    a.q = (const uint16_t *)args->q;
    a.k = (const uint16_t *)args->k;
    a.v = (const uint16_t *)args->v;
    a.out = (uint16_t *)args->out;
    a.width = args->hidden_dim;
    a.dim = (int)(args->hidden_dim / args->n_heads);
    a.wide = a.dim % 8 == 0;
    a.scale = (float)(M_LOG2E / sqrt((double)a.dim));
    if (!scd_cuda_aligned(a.q) || !scd_cuda_aligned(a.k) || !scd_cuda_aligned(a.v) ||
        !scd_cuda_aligned(a.out))
        return scd_fail(err, SCD_E_INVALID, "attention: rows lie at no multiple of 16 bytes");
    if (device->groups && a.dim == 64 && a.wide)
        return scd_cuda_attention_group(device, args, &a, most, err);
    if (a.dim <= 16)
        return launch<16, 2, 64>(device, args, most, &a, err);
    if (a.dim <= 32)
        return launch<32, 2, 64>(device, args, most, &a, err);
    if (a.dim <= 64)
        return launch<64, 2, 64>(device, args, most, &a, err);
    if (a.dim <= 96)
        return launch<96, 1, 32>(device, args, most, &a, err);
    return launch<128, 1, 32>(device, args, most, &a, err);
}
