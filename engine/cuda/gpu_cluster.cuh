/* gpu_cluster.cuh - what Hopper (sm_90a) alone has: pairs of blocks, barriers that count bytes,
 * bulk copies, and products of two tiles in shared memory. See gpu.cuh; the emulator's side is
 * tests/cuda_host/cluster.cc.
 *
 * SCD_LAUNCH_PAIRS launches a SCD_KERNEL_PAIRS kernel: blocks 2 i and 2 i + 1 along x run at the
 * same time, on neighbouring multiprocessors, and see each other's shared memory, of which a block
 * may have up to SCD_PAIRS_SHARED bytes. Names are PTX's. */
#ifndef SCD_CUDA_GPU_CLUSTER_CUH
#define SCD_CUDA_GPU_CLUSTER_CUH

#include "engine/cuda/gpu.cuh"

#define SCD_PAIRS_SHARED (227u << 10)

#ifndef SCD_CUDA_HOST

#define SCD_GRID_CONSTANT const __grid_constant__

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define SCD_KERNEL_PAIRS(threads)                                                                  \
    __global__ static void __cluster_dims__(2, 1, 1) __launch_bounds__(threads, 1)
#else
#define SCD_KERNEL_PAIRS(threads) __global__ static void
#endif

/* clang-format off */
#define SCD_LAUNCH_PAIRS(device, err, kernel, grid, block, shared, ...)                            \
    (scd_gpu_allow_shared((device)->gpu, (const void *)(kernel), (shared), (err))                  \
         ? SCD_E_DEVICE                                                                            \
         : ((kernel)<<<(grid), (block), (shared),                                                  \
                       (cudaStream_t)scd_gpu_stream((device)->gpu)>>>(__VA_ARGS__),                \
            scd_gpu_launched((device)->gpu, #kernel, (err))))
/* clang-format on */

typedef uint64_t gpu_mbarrier; /* in shared memory */

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SCD_HOPPER(...) __trap() /* code that is never chosen here */
#else
#define SCD_HOPPER(...) asm volatile(__VA_ARGS__)
#endif

SCD_DEVICE uint32_t gpu_shared_at(const void *shared)
{
    return (uint32_t)__cvta_generic_to_shared(shared);
}

/* 0 or 1: which of its pair this block is. */
SCD_DEVICE unsigned gpu_cluster_rank(void)
{
    unsigned rank = 0;
    SCD_HOPPER("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

/* Whole warps of both blocks; what was written before it is seen after it. */
SCD_DEVICE void gpu_cluster_sync(void)
{
    SCD_HOPPER("barrier.cluster.arrive.release.aligned;\n"
               "barrier.cluster.wait.acquire.aligned;"
               :
               :
               : "memory");
}

/* A phase ends when `arrivals` arrived and all bytes that were announced are here. */
SCD_DEVICE void gpu_mbarrier_init(gpu_mbarrier *b, unsigned arrivals)
{
    SCD_HOPPER("mbarrier.init.shared::cta.b64 [%0], %1;"
               :
               : "r"(gpu_shared_at(b)), "r"(arrivals)
               : "memory");
}

/* After the inits of this thread, before the barrier that tells the others. */
SCD_DEVICE void gpu_mbarrier_ready(void)
{
    SCD_HOPPER("fence.mbarrier_init.release.cluster;" : : : "memory");
}

/* Arrive at one of this block's, and announce bytes that copies will bring. */
SCD_DEVICE void gpu_mbarrier_expect(gpu_mbarrier *b, unsigned bytes)
{
    SCD_HOPPER("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
               :
               : "r"(gpu_shared_at(b)), "r"(bytes)
               : "memory");
}

/* Arrive at block `rank`'s barrier that lies where `b` lies here. What it orders are reads by
 * products that were waited for; to release writes to the other block as well (.release.cluster)
 * would cost a fence of all memory each time. */
SCD_DEVICE void gpu_mbarrier_arrive(gpu_mbarrier *b, unsigned rank)
{
    SCD_HOPPER("{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; "
               "mbarrier.arrive.shared::cluster.b64 _, [there]; }"
               :
               : "r"(gpu_shared_at(b)), "r"(rank)
               : "memory");
}

/* Until a phase of this parity is over: 0 for the first, then 1, 0, ..; before the first has ended
 * one of parity 1 counts as over. */
SCD_DEVICE void gpu_mbarrier_wait(gpu_mbarrier *b, unsigned parity)
{
    SCD_HOPPER("{ .reg .pred over; again: "
               "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1; "
               "@!over bra again; }"
               :
               : "r"(gpu_shared_at(b)), "r"(parity)
               : "memory");
}

/* One thread: the tile of 64 rows from `row` on and 64 columns from `col` on to this block's shared
 * memory, at a multiple of 1,024 and swizzled (scd_swizzled), and its SCD_TILE_BYTES to b. The map
 * is a kernel's SCD_GRID_CONSTANT argument. */
SCD_DEVICE void gpu_copy_tile(void *to, const scd_gpu_map *map, unsigned col, unsigned row,
                              gpu_mbarrier *b)
{
    SCD_HOPPER("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%2, %3}], [%4];"
               :
               : "r"(gpu_shared_at(to)), "l"(map), "r"(col), "r"(row), "r"(gpu_shared_at(b))
               : "memory");
}

/* The same to both blocks of the pair, at the same places, and to each one's own b. */
SCD_DEVICE void gpu_copy_tile_pair(void *to, const scd_gpu_map *map, unsigned col, unsigned row,
                                   gpu_mbarrier *b)
{
    SCD_HOPPER("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
               ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;"
               :
               : "r"(gpu_shared_at(to)), "l"(map), "r"(col), "r"(row), "r"(gpu_shared_at(b)),
                 "h"((uint16_t)3)
               : "memory");
}

#define SCD_64(x, mod) SCD_32(x, mod), SCD_32((x + 32), mod)

/* d (64, 128) of a warpgroup = [d +] a (64, 16) b (128, 16)^T: columns 16 step .. 16 step + 15 of
 * tiles (64, 64) and (128, 64) as gpu_copy_tile leaves them. Between
 * gpu_group_begin and gpu_group_wait_for nobody touches d or the tiles. */
SCD_DEVICE void gpu_group_mma_shared(float d[64], const void *a, const void *b, int step, bool add)
{
    uint64_t at_a = gpu_group_tile(a) + (uint64_t)(step * 2);
    uint64_t at_b = gpu_group_tile(b) + (uint64_t)(step * 2);
    SCD_HOPPER("{ .reg .pred adds; setp.ne.b32 adds, %66, 0; "
               "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
               "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
               "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
               "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
               "%64, %65, adds, 1, 1, 0, 0; }"
               : SCD_64(d, "+f")
               : "l"(at_a), "l"(at_b), "r"((int)add));
}

/* Until at most `left` groups of products are under way; at 0 d is ours again. */
template <int left> SCD_DEVICE void gpu_group_wait_for(float d[64])
{
    if (left)
        SCD_HOPPER("wgmma.wait_group.sync.aligned %0;" : : "n"(left) : "memory");
    else
        SCD_HOPPER("wgmma.wait_group.sync.aligned 0;" : SCD_64(d, "+f") : : "memory");
}

#endif
#endif
