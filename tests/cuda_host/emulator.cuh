/* emulator.cuh - the device of engine/cuda/gpu.cuh, on the CPU: for tests alone.
 *
 * Clusters of blocks (mostly of one) run one after the other; their threads are fibers of one
 * thread, each of which runs until it must wait for others. That is the schedule that shows a
 * missing barrier best: the first thread is as far ahead as it can get. scd_emu_order turns the
 * order round, or leaves it to chance.
 *
 * What it finds: threads that wait at different places or leave others waiting; a launch with too
 * many threads or too much shared memory; reads of shared memory nobody wrote (it holds NaN); reads
 * of copies that were not waited for (they happen at the wait, or when nobody else can go on);
 * shared memory that is filled anew before the products of a warpgroup that read it were waited
 * for; with the address sanitizer every access past the end of shared or global memory. A fault
 * prints what and where, and aborts.
 *
 * Threads: any; one launch at a time (impl.h). */
#ifndef SCD_TESTS_EMULATOR_H
#define SCD_TESTS_EMULATOR_H

#include "engine/cuda/index.h"
#include "engine/cuda/runtime.h"
#include "tests/cuda_host/host.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <functional>
#include <tuple>

#define SCD_KERNEL static void
#define SCD_KERNEL_OF(threads) static void
#define SCD_KERNEL_BESIDE(threads, blocks) static void
#define SCD_KERNEL_PAIRS(threads) static void
#define SCD_GRID_CONSTANT const
#define SCD_DEVICE static inline
#define SCD_UNROLL

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim; /* of the fiber that runs */

/* A place in the source; all threads that wait together must wait at the same. */
struct scd_emu_place {
    const char *file;
    int line;
};
#define SCD_EMU_HERE (scd_emu_place{__FILE__, __LINE__})

void *scd_emu_shared(void);
void scd_emu_sync_block(scd_emu_place place);
/* All lanes of a warp arrive with their operands; the last to come computes for all of them. */
void scd_emu_warp(scd_emu_place place, void *mine, void (*all)(void *const lanes[32]));

/* Of a launch: threads and bytes of shared memory of a block, blocks of a cluster. */
struct scd_emu_block {
    unsigned threads;
    size_t shared;
    unsigned cluster;
    bool large; /* more shared memory was asked for */
};

typedef void (*scd_emu_thread)(void *arg);
void scd_emu_run(const char *kernel, dim3 grid, struct scd_emu_block block, scd_emu_thread body,
                 void *arg);

bool scd_emu_keep(std::function<void()> work);

/* Arguments are what they are now, also where the launch is recorded and done later. */
template <typename... P, typename... A>
void scd_emu_launch(const char *name, dim3 grid, scd_emu_block block, void (*kernel)(P...),
                    A... args)
{
    std::tuple<P...> given(static_cast<P>(args)...);
    auto work = [=]() mutable {
        auto body = [&]() { std::apply(kernel, given); };
        scd_emu_run(
            name, grid, block, [](void *arg) { (*static_cast<decltype(body) *>(arg))(); }, &body);
    };
    if (!scd_emu_keep(work))
        work();
}

#define SCD_LAUNCH_2D(device, err, kernel, grid, block, shared, ...)                               \
    (scd_emu_launch(#kernel, (grid), scd_emu_block{(block), (shared), 1, false}, (kernel),         \
                    __VA_ARGS__),                                                                  \
     scd_gpu_launched((device)->gpu, #kernel, (err)))
#define SCD_LAUNCH_PAIRS(device, err, kernel, grid, block, shared, ...)                            \
    (scd_gpu_allow_shared((device)->gpu, NULL, (shared), (err))                                    \
         ? SCD_E_DEVICE                                                                            \
         : (scd_emu_launch(#kernel, (grid), scd_emu_block{(block), (shared), 2, true}, (kernel),   \
                           __VA_ARGS__),                                                           \
            scd_gpu_launched((device)->gpu, #kernel, (err))))

#define gpu_shared() scd_emu_shared()
#define gpu_sync_block() scd_emu_sync_block(SCD_EMU_HERE)
#define gpu_sync_warp() scd_emu_warp(SCD_EMU_HERE, NULL, NULL)
#define gpu_shfl_xor(x, mask) scd_emu_shfl_xor(SCD_EMU_HERE, (x), (mask))
/* The value is the same in all lanes; the compiler may not know. */
#define gpu_of_first_lane(x) ((uint32_t)(x))
#define gpu_shfl_xor_bits(x, mask) scd_emu_shfl_xor_bits(SCD_EMU_HERE, (x), (mask))
#define gpu_mma_bf16(c, a, b0, b1) scd_emu_mma(SCD_EMU_HERE, (c), (a), (b0), (b1))
#define gpu_ldmatrix(r, row) scd_emu_ldmatrix(SCD_EMU_HERE, (r), (row), false)
#define gpu_ldmatrix_trans(r, row) scd_emu_ldmatrix(SCD_EMU_HERE, (r), (row), true)

float scd_emu_shfl_xor(scd_emu_place place, float x, int mask);
uint32_t scd_emu_shfl_xor_bits(scd_emu_place place, uint32_t x, int mask);
void scd_emu_mma(scd_emu_place place, float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1);
void scd_emu_ldmatrix(scd_emu_place place, uint32_t r[4], const uint16_t *row, bool transposed);
/* d (64, 64) of a warpgroup += a b: 16 rows of each warp, and b in a swizzled tile, of which `k`
 * are columns or, transposed, rows. Done at once: a wait that is missing is not found. */
void scd_emu_group_mma(scd_emu_place place, float *d, const uint32_t a[4], const void *tile,
                       int step, bool rows_are_n, bool first);
void scd_emu_store_16(void *to, const uint32_t v[4]);
void scd_emu_group_commit(void);
void scd_emu_group_wait(int left);
void scd_emu_copy_async(void *shared, const void *global, int size, int real);
void scd_emu_copy_commit(void);
void scd_emu_copy_wait(int left);

template <bool first>
void gpu_group_mma_rows(float *d, const uint32_t a[4], const void *tile, int step)
{
    scd_emu_group_mma(SCD_EMU_HERE, d, a, tile, step, true, first);
}

static inline void gpu_group_mma_cols(float *d, const uint32_t a[4], const void *tile, int step)
{
    scd_emu_group_mma(SCD_EMU_HERE, d, a, tile, step, false, false);
}

static inline void gpu_group_begin(void)
{
    gpu_sync_warp(); /* .aligned */
}

static inline void gpu_group_commit(void)
{
    scd_emu_group_commit();
}

static inline void gpu_group_wait(float *, float *)
{
}

static inline void gpu_group_fence(void)
{
}

/* ---- what blocks of a cluster do together, and products that are done when they are waited for
 * ----
 */

typedef struct scd_emu_mbarrier {
    uint8_t ready, phase, arrivals, pending;
    int32_t bytes; /* still to come */
} gpu_mbarrier;

unsigned scd_emu_rank(void);
void scd_emu_sync_cluster(scd_emu_place place);
void scd_emu_mbarrier_init(gpu_mbarrier *b, unsigned arrivals);
void scd_emu_mbarrier_arrive(gpu_mbarrier *b, unsigned rank, int32_t bytes);
void scd_emu_mbarrier_wait(scd_emu_place place, gpu_mbarrier *b, unsigned parity);
void scd_emu_copy_tile(void *shared, const scd_gpu_map *map, unsigned col, unsigned row,
                       gpu_mbarrier *b, unsigned blocks);
void scd_emu_group_product(float *d, const void *a, const void *b, int step, bool add);

#define gpu_cluster_rank() scd_emu_rank()
#define gpu_cluster_sync() scd_emu_sync_cluster(SCD_EMU_HERE)
#define gpu_mbarrier_init(b, arrivals) scd_emu_mbarrier_init((b), (arrivals))
#define gpu_mbarrier_ready()
#define gpu_mbarrier_expect(b, bytes) scd_emu_mbarrier_arrive((b), scd_emu_rank(), (int32_t)(bytes))
#define gpu_mbarrier_arrive(b, rank) scd_emu_mbarrier_arrive((b), (rank), 0)
#define gpu_mbarrier_wait(b, parity) scd_emu_mbarrier_wait(SCD_EMU_HERE, (b), (parity))
#define gpu_copy_tile(to, map, col, row, b)                                                        \
    scd_emu_copy_tile((to), (map), (col), (row), (b), 1u << scd_emu_rank())
#define gpu_copy_tile_pair(to, map, col, row, b)                                                   \
    scd_emu_copy_tile((to), (map), (col), (row), (b), 3u)
#define gpu_group_mma_shared(d, a, b, step, add) scd_emu_group_product((d), (a), (b), (step), (add))

template <int left> void gpu_group_wait_for(float *)
{
    gpu_sync_warp();
    scd_emu_group_wait(left);
    gpu_sync_warp();
}

template <int size> void gpu_copy_async(void *shared, const void *global, int real)
{
    scd_emu_copy_async(shared, global, size, real);
}

static inline void gpu_copy_commit(void)
{
    scd_emu_copy_commit();
}

template <int left> void gpu_copy_wait(void)
{
    scd_emu_copy_wait(left);
}

static inline uint32_t gpu_pack_bf16(float lo, float hi)
{
    return (uint32_t)scd_f32_to_bf16(hi) << 16 | scd_f32_to_bf16(lo);
}

static inline void gpu_store_16(void *to, const uint32_t v[4])
{
    scd_emu_store_16(to, v);
}

static inline float gpu_reciprocal(float x)
{
    return 1.0f / x;
}

static inline float gpu_exp2(float x)
{
    return exp2f(x);
}

#endif
