/* product_group.cu - products on Hopper that end in what follows them: o_proj in the residual and
 * what the norm behind it needs, gate and up in that norm's scale and silu(gate) up, q and k in
 * RoPE.
 *
 * y (rows, n) = x (rows, k) w (n, k)^T, bf16 in, fp32 sums in order of k. A block keeps 128 rows of
 * w in shared memory for good - all k columns, so k is at most 512 - and lets the rows of x go by
 * in tiles of 64 x 64, through a ring of stages of two tiles that one thread fills with bulk
 * copies. Two blocks are a pair: they have the same rows of x and different rows of w, each copies
 * one tile of every stage to both, and so x is read from the second-level cache half as often.
 * Three warpgroups take the tiles of rows in turn, so that one multiplies while another finishes
 * what it has multiplied; a warpgroup begins when the one before has seen all of its tiles come in,
 * for a barrier of the ring tells a round from the next, and not from the one after that.
 *
 * What a row gives does not depend on its place: every sum is one chain of k / 16 products in a
 * register. A block's rows are dealt out by their number (groups of blocks take every groups-th
 * tile), which no bit depends on either.
 *
 * Not used unless device->next says so (README.md): no GPU has run it. */
#include "engine/cuda/gpu_cluster.cuh"

enum {
    ROWS = SCD_TILE_SIDE, /* of x, for a warpgroup */
    COLS = 128,           /* rows of w, for a block */
    GROUPS = 3,
    GROUP_THREADS = 4 * SCD_WARP,
    PRODUCER = GROUPS * 4, /* the warp that copies */
    THREADS = GROUPS * GROUP_THREADS + SCD_WARP,
    PAIR = 2,
    STAGES = 6,
    STAGE_BYTES = PAIR * SCD_TILE_BYTES,
    MAX_ACROSS = 8, /* tiles of k: 512 columns */
    MAX_SQUARES = MAX_ACROSS / 2
};

typedef struct stream_args {
    scd_gpu_map x, w;
    unsigned rows, row_tiles;    /* of x */
    unsigned across;             /* tiles of k, an even number */
    unsigned n_blocks;           /* of COLS columns; a block more may fill the last pair */
    unsigned first, each, apart; /* block i has tiles first + i each and `apart` further of w */
} stream_args;

/* ---- shared memory: w, the stages, the barriers ---- */

SCD_DEVICE unsigned char *weights_at(unsigned tile)
{
    return (unsigned char *)gpu_shared() + tile * (2 * SCD_TILE_BYTES);
}

SCD_DEVICE unsigned char *stage_at(const stream_args &s, unsigned slot)
{
    return weights_at(s.across) + slot * STAGE_BYTES;
}

/* What is in `slot` of x is here; and: both blocks have used it up. */
SCD_DEVICE gpu_mbarrier *full_at(const stream_args &s, unsigned slot)
{
    return (gpu_mbarrier *)(void *)stage_at(s, STAGES) + slot;
}

SCD_DEVICE gpu_mbarrier *empty_at(const stream_args &s, unsigned slot)
{
    return full_at(s, STAGES) + slot;
}

/* The weights of the i-th stage of a tile of rows are here. */
SCD_DEVICE gpu_mbarrier *weights_here(const stream_args &s, unsigned i)
{
    return full_at(s, 2 * STAGES + i);
}

/* Warpgroup `group` may begin its next tile of rows. */
SCD_DEVICE gpu_mbarrier *turn_of(const stream_args &s, unsigned group)
{
    return full_at(s, 2 * STAGES + MAX_ACROSS / PAIR + group);
}

static size_t shared_bytes(unsigned across)
{
    return across * (size_t)(2 * SCD_TILE_BYTES) + (size_t)(STAGES * STAGE_BYTES) +
           (2 * STAGES + MAX_ACROSS / PAIR + GROUPS) * sizeof(gpu_mbarrier);
}

/* Where x goes on in the ring, and the parity of that round. */
typedef struct ring {
    unsigned slot, parity;
} ring;

SCD_DEVICE void go_on(ring &r, unsigned by)
{
    for (r.slot += by; r.slot >= STAGES; r.slot -= STAGES)
        r.parity ^= 1;
}

/* ---- the thread that copies ---- */

SCD_DEVICE void copy_in(const stream_args &s)
{
    unsigned rank = gpu_cluster_rank();
    unsigned block = blockIdx.x < s.n_blocks ? blockIdx.x : s.n_blocks - 1;
    unsigned w = (s.first + block * s.each) * SCD_TILE_SIDE, up = s.apart * SCD_TILE_SIDE;
    ring at = {};
    for (unsigned tile = blockIdx.y; tile < s.row_tiles; tile += gridDim.y)
        for (unsigned k = 0; k < s.across; k += PAIR, go_on(at, 1)) {
            if (tile == blockIdx.y) {
                gpu_mbarrier_expect(weights_here(s, k / PAIR), 2 * STAGE_BYTES);
                for (unsigned i = 0; i < 2 * PAIR; i++)
                    gpu_copy_tile(weights_at(k + i / 2) + i % 2 * SCD_TILE_BYTES, &s.w,
                                  (k + i / 2) * SCD_TILE_SIDE, w + i % 2 * up,
                                  weights_here(s, k / PAIR));
            }
            gpu_mbarrier_wait(empty_at(s, at.slot), at.parity ^ 1);
            gpu_mbarrier_expect(full_at(s, at.slot), STAGE_BYTES);
            gpu_copy_tile_pair(stage_at(s, at.slot) + rank * SCD_TILE_BYTES, &s.x,
                               (k + rank) * SCD_TILE_SIDE, tile * ROWS, full_at(s, at.slot));
        }
}

/* ---- a warpgroup ---- */

/* This warp has used the slot up. */
SCD_DEVICE void leave(const stream_args &s, unsigned slot)
{
    unsigned lane = threadIdx.x % SCD_WARP;
    if (lane < PAIR)
        gpu_mbarrier_arrive(empty_at(s, slot), lane);
}

/* d (64, 128) = a tile of rows of x times this block's rows of w; then it is `next`'s turn. */
SCD_DEVICE void multiply(const stream_args &s, ring &at, unsigned next, float d[64])
{
    unsigned last = 0;
    for (unsigned k = 0; k < s.across; k += PAIR) {
        gpu_mbarrier_wait(weights_here(s, k / PAIR), 0); /* once and for all */
        gpu_mbarrier_wait(full_at(s, at.slot), at.parity);
        gpu_group_begin();
        SCD_UNROLL
        for (int i = 0; i < PAIR; i++)
            SCD_UNROLL
        for (int step = 0; step < SCD_TILE_SIDE / 16; step++)
            gpu_group_mma_shared(d, stage_at(s, at.slot) + i * SCD_TILE_BYTES,
                                 weights_at(k + (unsigned)i), step, k || i || step);
        gpu_group_commit();
        if (k) {
            gpu_group_wait_for<1>(d);
            leave(s, last);
        }
        last = at.slot;
        go_on(at, 1);
    }
    if (threadIdx.x % SCD_WARP == 0)
        gpu_mbarrier_arrive(turn_of(s, next), gpu_cluster_rank());
    gpu_group_wait_for<0>(d);
    leave(s, last);
}

/* Four lanes hold two columns of each of four blocks of eight columns in v: after this a lane holds
 * the eight columns of block lane % 4, in order. */
SCD_DEVICE void turn_quad(uint32_t v[4])
{
    unsigned lane = threadIdx.x;
    SCD_UNROLL
    for (int far = 2; far > 0; far /= 2)
        SCD_UNROLL
    for (int i = 0; i < 4; i++)
        if (!(i & far)) {
            bool upper = lane & (unsigned)far;
            uint32_t got = gpu_shfl_xor_bits(upper ? v[i] : v[i + far], far);
            v[i] = upper ? got : v[i];
            v[i + far] = upper ? v[i + far] : got;
        }
}

/* Row of fragments u, two columns of each of eight blocks, to 64 columns at `out`. */
SCD_DEVICE void store_row(uint32_t u[8], uint16_t *out, bool real)
{
    SCD_UNROLL
    for (int i = 0; i < 8; i += 4) {
        turn_quad(u + i);
        if (real)
            gpu_store_16(out + i * 8 + threadIdx.x % 4 * 8, u + i);
    }
}

/* ---- what follows a product: `row` is that of this half of the thread's fragments ----
 *
 * What a row needs besides its sums is asked for before they are made: it is there when they are.
 */

typedef struct row_facts {
    float squares; /* of what is still to be normed */
    unsigned pos;
} row_facts;

typedef struct added_args {
    float *h; /* (rows, width) */
    unsigned width, blocks;
    const float *norm; /* (width) */
    uint16_t *x;       /* (rows, width): h norm */
    float *squares;    /* (rows, blocks): sums of h^2 over a block's columns */
} added_args;

SCD_DEVICE row_facts ask(const added_args &, unsigned, bool)
{
    return row_facts{};
}

/* h += d, and what the norm that follows needs: its scale is found by whoever reads x. */
SCD_DEVICE void finish(const added_args &a, const row_facts &, const float d[64], int half,
                       unsigned row, bool real)
{
    unsigned col = blockIdx.x * COLS + threadIdx.x % 4 * 2;
    size_t at = (size_t)row * a.width + col;
    float sum = 0.0f;
    SCD_UNROLL
    for (int part = 0; part < 2; part++) {
        uint32_t u[8];
        SCD_UNROLL
        for (int j = 0; j < 8; j++) {
            int off = part * 64 + j * 8;
            const float *add = d + part * 32 + 4 * j + 2 * half;
            float h[2] = {}, norm[2];
            gpu_load_pack<2>(a.norm + col + off, norm);
            if (real)
                gpu_load_pack<2>(a.h + at + off, h);
            h[0] += add[0];
            h[1] += add[1];
            if (real)
                gpu_store_pack<2>(a.h + at + off, h);
            sum += h[0] * h[0] + h[1] * h[1];
            u[j] = gpu_pack_bf16(h[0] * norm[0], h[1] * norm[1]);
        }
        store_row(u, a.x + (size_t)row * a.width + blockIdx.x * COLS + part * 64, real);
    }
    sum += gpu_shfl_xor(sum, 1);
    sum += gpu_shfl_xor(sum, 2);
    if (real && threadIdx.x % 4 == 0)
        a.squares[(size_t)row * a.blocks + blockIdx.x] = sum;
}

typedef struct gated_args {
    uint16_t *mid; /* (rows, width) */
    unsigned width;
    const float *squares; /* (rows, blocks): of n columns */
    unsigned blocks, n;
} gated_args;

/* x / (1 + e^-x) */
SCD_DEVICE float silu(float x)
{
    return x * gpu_reciprocal(1.0f + gpu_exp2(x * -1.44269504f)); /* log2 e */
}

SCD_DEVICE row_facts ask(const gated_args &a, unsigned row, bool real)
{
    const float *of = a.squares + (size_t)row * a.blocks;
    row_facts facts = {};
    SCD_UNROLL
    for (unsigned i = 0; i < MAX_SQUARES; i++)
        facts.squares += real && i < a.blocks ? of[i] : 0.0f;
    return facts;
}

/* Columns 0 .. 63 of d are gate's, the others up's, both of rows that are still to be normed. */
SCD_DEVICE void finish(const gated_args &a, const row_facts &facts, const float d[64], int half,
                       unsigned row, bool real)
{
    float scale = 1.0f / sqrtf(facts.squares / (float)a.n + 1e-5f);
    uint32_t u[8];
    SCD_UNROLL
    for (int j = 0; j < 8; j++) {
        const float *gate = d + 4 * j + 2 * half, *up = gate + 32;
        u[j] = gpu_pack_bf16(silu(gate[0] * scale) * (up[0] * scale),
                             silu(gate[1] * scale) * (up[1] * scale));
    }
    store_row(u, a.mid + (size_t)row * a.width + blockIdx.x * 64, real);
}

typedef struct turned_args {
    uint16_t *q, *k, *v;  /* (rows, width) */
    unsigned width, each; /* each: blocks of a part */
    unsigned first;       /* block 0 of the grid */
    const uint32_t *pos;  /* (rows); NULL: all 0 */
    const float *rope;    /* (rope_rows, 64): cosines, then sines */
    unsigned rope_rows;
    volatile uint32_t *fault;
} turned_args;

SCD_DEVICE row_facts ask(const turned_args &a, unsigned row, bool real)
{
    return row_facts{0.0f, real && a.pos ? a.pos[row] : 0};
}

/* d is two heads of 64; column i of a head turns with column i + 32. */
SCD_DEVICE void finish(const turned_args &a, const row_facts &facts, const float d[64], int half,
                       unsigned row, bool real)
{
    unsigned block = a.first + blockIdx.x;
    unsigned part = block < a.each ? 0 : block < 2 * a.each ? 1 : 2;
    uint16_t *out = (part == 0   ? a.q
                     : part == 1 ? a.k
                                 : a.v) +
                    (size_t)row * a.width + (block - part * a.each) * COLS;
    float c[4][2] = {}, s[4][2] = {};
    if (part < 2) {
        unsigned pos = facts.pos;
        if (pos >= a.rope_rows) {
            *a.fault = SCD_FAULT_POS;
            pos = 0;
        }
        const float *turn = a.rope + (size_t)pos * 64 + threadIdx.x % 4 * 2;
        SCD_UNROLL
        for (int j = 0; j < 4; j++) {
            gpu_load_pack<2>(turn + j * 8, c[j]);
            gpu_load_pack<2>(turn + 32 + j * 8, s[j]);
        }
    }
    SCD_UNROLL
    for (int head = 0; head < 2; head++) {
        uint32_t u[8];
        SCD_UNROLL
        for (int j = 0; j < 4; j++) {
            const float *x = d + head * 32 + 4 * j + 2 * half, *y = x + 16;
            float x0 = x[0], x1 = x[1], y0 = y[0], y1 = y[1];
            if (part < 2) {
                x0 = x[0] * c[j][0] - y[0] * s[j][0];
                x1 = x[1] * c[j][1] - y[1] * s[j][1];
                y0 = y[0] * c[j][0] + x[0] * s[j][0];
                y1 = y[1] * c[j][1] + x[1] * s[j][1];
            }
            u[j] = gpu_pack_bf16(x0, x1);
            u[j + 4] = gpu_pack_bf16(y0, y1);
        }
        store_row(u, out + head * 64, real);
    }
}

/* ---- the kernel ---- */

template <typename E> SCD_DEVICE void take_rows(const stream_args &s, const E &e)
{
    unsigned group = gpu_of_first_lane(threadIdx.x / GROUP_THREADS);
    int lane = (int)threadIdx.x % SCD_WARP, warp = (int)threadIdx.x / SCD_WARP % 4;
    ring at = {};
    unsigned round = group ? 0 : 1; /* nobody gives the first warpgroup its first turn */
    go_on(at, group * s.across / PAIR);
    for (unsigned tile = blockIdx.y + group * gridDim.y; tile < s.row_tiles;
         tile += GROUPS * gridDim.y, go_on(at, (GROUPS - 1) * s.across / PAIR)) {
        unsigned row = tile * ROWS + (unsigned)(warp * 16 + scd_frag_c_row(lane, 0));
        row_facts facts[2] = {ask(e, row, row < s.rows), ask(e, row + 8, row + 8 < s.rows)};
        float d[64];
        gpu_mbarrier_wait(turn_of(s, group), round);
        round ^= 1;
        multiply(s, at, group + 1 < GROUPS ? group + 1 : 0, d);
        if (blockIdx.x >= s.n_blocks)
            continue;
        SCD_UNROLL
        for (int half = 0; half < 2; half++, row += 8)
            finish(e, facts[half], d, half, row, row < s.rows);
    }
}

template <typename E>
SCD_KERNEL_PAIRS(THREADS)
stream_rows(SCD_GRID_CONSTANT stream_args s, SCD_GRID_CONSTANT E e)
{
    if (threadIdx.x == 0) {
        for (unsigned i = 0; i < STAGES; i++) {
            gpu_mbarrier_init(full_at(s, i), 1);
            gpu_mbarrier_init(empty_at(s, i), 4 * PAIR); /* the warps that have it */
        }
        for (unsigned i = 0; i < s.across / PAIR; i++)
            gpu_mbarrier_init(weights_here(s, i), 1);
        for (unsigned i = 0; i < GROUPS; i++)
            gpu_mbarrier_init(turn_of(s, i), 4);
        gpu_mbarrier_ready();
    }
    gpu_cluster_sync();
    if (threadIdx.x / SCD_WARP < PRODUCER)
        take_rows(s, e);
    else if (threadIdx.x % SCD_WARP == 0)
        copy_in(s);
    gpu_sync_warp();
    gpu_cluster_sync(); /* the other block may still copy to this one, and count here */
}

/* ---- from the host ---- */

bool scd_cuda_streams(const scd_device *device, size_t part_rows, size_t cols)
{
    return device->next && part_rows % SCD_TILE_SIDE == 0 &&
           cols % (SCD_TILE_SIDE * (size_t)PAIR) == 0 && cols / SCD_TILE_SIDE <= MAX_ACROSS;
}

template <typename E>
static scd_code stream(scd_device *device, stream_args *s, const scd_matrix *w, const void *x,
                       size_t rows, const E &e, scd_error *err)
{
    if (!rows)
        return SCD_OK;
    scd_code code = scd_gpu_map_rows(device->gpu, x, rows, w->cols, &s->x, err);
    if (code)
        return code;
    s->w = w->map;
    s->rows = (unsigned)rows;
    s->row_tiles = (unsigned)scd_ceil_div(rows, ROWS);
    s->across = (unsigned)(w->cols / SCD_TILE_SIDE);
    unsigned blocks = (s->n_blocks + PAIR - 1) / PAIR * PAIR;
    unsigned groups = (unsigned)device->processors / blocks;
    groups = groups > s->row_tiles ? s->row_tiles : groups;
    return SCD_LAUNCH_PAIRS(device, err, stream_rows<E>, dim3(blocks, groups ? groups : 1), THREADS,
                            shared_bytes(s->across), *s, e);
}

/* Consecutive rows of w, from tile `first` on. */
static stream_args in_order(unsigned first, unsigned n_blocks)
{
    stream_args s = {};
    s.n_blocks = n_blocks;
    s.first = first;
    s.each = 2;
    s.apart = 1;
    return s;
}

scd_code scd_cuda_stream_out(scd_device *device, const scd_block_out_args *args, void *x,
                             float *squares, void *mid, scd_error *err)
{
    unsigned width = (unsigned)args->hidden_dim, ffn_dim = (unsigned)args->ffn_dim;
    unsigned blocks = (unsigned)scd_cuda_squares(width);
    stream_args s = in_order(0, blocks);
    added_args added = {args->h, width, blocks, args->norm2, (uint16_t *)x, squares};
    scd_code code = stream(device, &s, args->wo, args->att, args->rows, added, err);
    if (code)
        return code;
    s.n_blocks = ffn_dim / SCD_TILE_SIDE;
    s.each = 1;
    s.apart = s.n_blocks;
    gated_args gated = {(uint16_t *)mid, ffn_dim, squares, blocks, width};
    return stream(device, &s, args->wgate_up, x, args->rows, gated, err);
}

scd_code scd_cuda_stream_turned(scd_device *device, const scd_qkv_args *args, const void *x,
                                const float *rope, scd_error *err)
{
    const scd_matrix *w = args->wqkv;
    turned_args e = {};
    e.q = (uint16_t *)args->q;
    e.k = (uint16_t *)args->k;
    e.v = (uint16_t *)args->v;
    e.width = (unsigned)w->part_rows;
    e.each = e.width / COLS;
    e.pos = args->pos;
    e.rope = rope;
    e.rope_rows = (unsigned)device->max_rows;
    e.fault = device->fault;
    scd_code code = SCD_OK;
    for (unsigned first = 0, parts; first < 3 && !code; first += parts) { /* runs of parts */
        for (parts = 0; first + parts < 3 && args->parts >> (first + parts) & 1; parts++)
            ;
        e.first = first * e.each;
        stream_args s = in_order(2 * e.first, parts * e.each);
        if (parts)
            code = stream(device, &s, w, x, args->rows, e, err);
        parts += !parts;
    }
    return code;
}
