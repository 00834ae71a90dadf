/* attention_group.cu - attention of heads of 64 on Hopper: attention_bf16.cu's sums by wgmma.
 *
 * A block is one head and 128 queries of a cell, 64 for each of two warpgroups, whose queries stay
 * in registers. Tiles of 64 keys and values go through three buffers of shared memory, swizzled:
 * while a tile is multiplied the next is on its way, and the products of P V go on beside the
 * next tile's Q K^T. One barrier a tile: a buffer is filled anew when every warpgroup has waited
 * for the products that read it. Two blocks share a multiprocessor, so that one warpgroup's softmax
 * runs beside another's products. */
#include "engine/cuda/attention_tile.cuh"

enum {
    GROUPS = 2,
    GROUP_THREADS = 4 * SCD_WARP,
    THREADS = GROUPS * GROUP_THREADS,
    DIM = 64,
    KEYS = 64,
    ROWS = 64, /* queries of a group */
    STAGES = 3,
    TILE_BYTES = KEYS * DIM * 2,
    PIECES = DIM / 8
};

/* What a thread copies: piece `piece` of rows `row`, row + EACH_ROWS, .. of every tile. */
enum { EACH_ROWS = THREADS / PIECES };

typedef struct stream {
    const uint16_t *k, *v; /* of the next tile's `row` */
    int row, left;         /* left: keys from the next tile's first on */
} stream;

/* Keys lie in the first half of a stage, values in the second. */
SCD_DEVICE unsigned char *buffer(int which, int stage)
{
    return (unsigned char *)gpu_shared() + (stage * 2 + which) * TILE_BYTES;
}

SCD_DEVICE int after(int stage)
{
    return stage + 1 < STAGES ? stage + 1 : 0;
}

SCD_DEVICE void start_tile(stream &s, const tile_args &a, int stage)
{
    int at = scd_swizzled(s.row, (int)threadIdx.x % PIECES);
    unsigned char *k = buffer(0, stage) + at, *v = buffer(1, stage) + at;
    SCD_UNROLL
    for (int r = 0; r < KEYS; r += EACH_ROWS) { /* a multiple of 8: the same swizzle */
        bool real = s.row + r < s.left;
        size_t from = real ? (size_t)r * a.width : 0;
        gpu_copy_async<16>(k + r * 128, real ? s.k + from : a.k, real ? 16 : 0);
        gpu_copy_async<16>(v + r * 128, real ? s.v + from : a.v, real ? 16 : 0);
    }
    s.k += KEYS * a.width;
    s.v += KEYS * a.width;
    s.left -= KEYS;
}

/* p (64, 64) = Q K^T of the tile in `stage`; what was under way before is done as well. */
SCD_DEVICE void take_scores(warp_state<DIM, 1> &s, int stage, float p[1][KEYS / 8][4])
{
    gpu_group_begin();
    gpu_group_mma_rows<true>(p[0][0], s.q[0][0], buffer(0, stage), 0);
    SCD_UNROLL
    for (int k = 1; k < DIM / 16; k++)
        gpu_group_mma_rows<false>(p[0][0], s.q[0][k], buffer(0, stage), k);
    gpu_group_commit();
    gpu_group_wait(p[0][0], s.o[0][0]);
}

/* O += softmax(p) V of the tile in `stage`, `left` keys of which exist; still under way at the end.
 */
SCD_DEVICE void take_values(warp_state<DIM, 1> &s, float scale, int stage, int left, int lane,
                            float p[1][KEYS / 8][4], uint32_t weights[KEYS / 16][4])
{
    mask_keys<1, KEYS>(p, left, lane);
    soften<DIM, 1, KEYS>(s, scale, p);
    SCD_UNROLL
    for (int n = 0; n < KEYS / 16; n++)
        weights_as_a(p[0], n, weights[n]);
    gpu_group_begin();
    SCD_UNROLL
    for (int n = 0; n < KEYS / 16; n++)
        gpu_group_mma_cols(s.o[0][0], weights[n], buffer(1, stage), n);
    gpu_group_commit();
}

/* Wait for the tile in `stage`, and start the one after it: the stage it goes to was used up by
 * every warpgroup when it came here. */
SCD_DEVICE void next_tile(stream &in, const tile_args &a, int stage)
{
    gpu_copy_wait<0>();
    gpu_group_fence();
    gpu_sync_block();
    if (in.left > 0)
        start_tile(in, a, after(stage));
    gpu_copy_commit();
}

SCD_DEVICE void take_tiles(warp_state<DIM, 1> &s, stream &in, const tile_args &a, int keys,
                           int lane)
{
    float p[1][KEYS / 8][4];
    uint32_t weights[KEYS / 16][4];
    for (int stage = 0; keys > 0; keys -= KEYS, stage = after(stage)) {
        next_tile(in, a, stage);
        take_scores(s, stage, p);
        take_values(s, a.scale, stage, keys, lane, p, weights);
    }
}

/* The same half a tile later: values are taken when the next tile is here, before its scores. */
SCD_DEVICE void take_tiles_late(warp_state<DIM, 1> &s, stream &in, const tile_args &a, int keys,
                                int lane)
{
    float p[1][KEYS / 8][4];
    uint32_t weights[KEYS / 16][4];
    int stage = 0;
    if (keys <= 0)
        return;
    next_tile(in, a, stage);
    take_scores(s, stage, p);
    for (; keys > KEYS; keys -= KEYS) {
        next_tile(in, a, after(stage));
        take_values(s, a.scale, stage, KEYS, lane, p, weights);
        stage = after(stage);
        take_scores(s, stage, p);
    }
    take_values(s, a.scale, stage, keys, lane, p, weights);
}

/* behind: the second warpgroup is half a tile late, so that its softmax runs beside the first one's
 * products, and the other way round. */
template <bool behind> SCD_KERNEL_BESIDE(THREADS, 2) attention_group(tile_args a)
{
    scd_query_tile at = scd_query_tile_at(blockIdx.x, a.tiles);
    size_t first = a.cu_q[at.cell] + at.tile * (GROUPS * ROWS), end = a.cu_q[at.cell + 1];
    size_t k0 = a.cu_k[at.cell], head = blockIdx.y * (size_t)DIM;
    if (first >= end)
        return; /* the whole block */
    int keys = (int)(a.cu_k[at.cell + 1] - k0), row = (int)threadIdx.x / PIECES;
    size_t from = (k0 + (size_t)row) * a.width + head + threadIdx.x % PIECES * 8;
    stream in = {a.k + from, a.v + from, row, keys};
    start_tile(in, a, 0);
    gpu_copy_commit();
    int lane = (int)threadIdx.x % SCD_WARP, group = (int)threadIdx.x / GROUP_THREADS;
    bool busy = scd_rows_left(first + (size_t)(group * ROWS), ROWS, end) > 0;
    first += threadIdx.x / SCD_WARP * 16; /* of this warp */
    int rows = scd_rows_left(first, 16, end);
    warp_state<DIM, 1> s;
    load_queries<DIM, 1>(s, a.q + first * a.width + head, a, rows, lane);
    if (!busy)
        for (int stage = 0; keys > 0; keys -= KEYS, stage = after(stage))
            next_tile(in, a, stage);
    else if (behind && group == 1)
        take_tiles_late(s, in, a, keys, lane);
    else
        take_tiles(s, in, a, keys, lane);
    float none[32] = {};
    gpu_copy_wait<0>();
    gpu_group_wait(s.o[0][0], none);
    if (rows > 0)
        store_outputs<DIM, 1>(s, a.out + first * a.width + head, a, rows, lane);
}

scd_code scd_cuda_attention_group(scd_device *device, const scd_attention_args *args,
                                  const tile_args *given, size_t most, scd_error *err)
{
    tile_args a = *given;
    a.tiles = scd_ceil_div(most, GROUPS * ROWS);
    dim3 grid((unsigned)(args->n_cells * a.tiles), (unsigned)args->n_heads);
    void (*kernel)(tile_args) = device->next ? attention_group<true> : attention_group<false>;
    return SCD_LAUNCH_2D(device, err, kernel, grid, THREADS, (size_t)(STAGES * 2 * TILE_BYTES), a);
}
