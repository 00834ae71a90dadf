/* gpu.cuh - the little of CUDA that kernels use, by names of our own.
 *
 * nvcc maps them to the device; -DSCD_CUDA_HOST maps them to the emulator in tests/cuda_host, where
 * the same kernels run on the CPU and their mistakes are found. Kernels use nothing else: no raw
 * <<<>>>, no static __shared__, no atomics.
 *
 * SCD_LAUNCH(device, err, kernel, blocks, threads, shared bytes, arguments...) is a scd_code; _2D
 * takes a dim3 of blocks. A grid of zero blocks is work of no rows, and fine. `block` is a multiple
 * of 32 and at most 512. What Hopper alone has is in gpu_cluster.cuh. */
#ifndef SCD_CUDA_GPU_CUH
#define SCD_CUDA_GPU_CUH

#include "engine/cuda/cuda.h"
#include "engine/cuda/index.h"

#include <math.h>

#define SCD_WARP 32 /* not an enum: C++ does not multiply two of them */

#ifdef SCD_CUDA_HOST
#include "tests/cuda_host/emulator.cuh"
#else

#define SCD_KERNEL __global__ static void
#define SCD_KERNEL_OF(threads) __global__ static void __launch_bounds__(threads)
/* So many blocks of it on one multiprocessor. */
#define SCD_KERNEL_BESIDE(threads, blocks) __global__ static void __launch_bounds__(threads, blocks)
#define SCD_DEVICE __device__ static __forceinline__
#define SCD_UNROLL _Pragma("unroll")

/* Shared memory of the block: as many bytes as the launch asked for, at a multiple of 1,024. */
extern __shared__ __align__(1024) unsigned char scd_shared_bytes[];
#define gpu_shared() ((void *)scd_shared_bytes)

#define gpu_sync_block() __syncthreads()
#define gpu_sync_warp() __syncwarp()
#define gpu_shfl_xor(x, mask) __shfl_xor_sync(0xffffffffu, (x), (mask))
#define gpu_of_first_lane(x) __shfl_sync(0xffffffffu, (uint32_t)(x), 0)
#define gpu_shfl_xor_bits(x, mask) __shfl_xor_sync(0xffffffffu, (uint32_t)(x), (mask))

/* The formatter takes <<< for three operators. */
/* clang-format off */
#define SCD_LAUNCH_2D(device, err, kernel, grid, block, shared, ...)                               \
    ((grid).x && (grid).y                                                                          \
         ? ((kernel)<<<(grid), (block), (shared),                                                  \
                       (cudaStream_t)scd_gpu_stream((device)->gpu)>>>(__VA_ARGS__),                \
            scd_gpu_launched((device)->gpu, #kernel, (err)))                                       \
         : SCD_OK)
/* clang-format on */

/* Two floats rounded to bf16, `lo` in the lower half. PTX ISA, cvt: "cvt.rn.bf16x2.f32 d, a, b"
 * puts a in the upper half. */
SCD_DEVICE uint32_t gpu_pack_bf16(float lo, float hi)
{
    uint32_t d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo));
    return d;
}

/* 2^x to some 22 bits, 0 for -infinity. PTX ISA, ex2.approx. */
SCD_DEVICE float gpu_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Four words to a multiple of 16 bytes of global memory, by one access: of a plain assignment the
 * compiler may make four. */
SCD_DEVICE void gpu_store_16(void *to, const uint32_t v[4])
{
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(__cvta_generic_to_global(to)), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
                 : "memory");
}

/* 1 / x to some 23 bits. PTX ISA, rcp.approx. */
SCD_DEVICE float gpu_reciprocal(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* c (16, 8) += a (16, 16) b (16, 8), bf16 in, fp32 out. PTX ISA, "Multiply-and-Accumulate
 * Instruction: mma", shape m16n8k16; fragments as in index.h. */
SCD_DEVICE void gpu_mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Four 8 x 8 matrices of 16-bit elements from shared memory; each lane names one row of 16 bytes.
 * PTX ISA, "Warp-level matrix load instruction: ldmatrix". */
SCD_DEVICE void gpu_ldmatrix(uint32_t r[4], const uint16_t *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

SCD_DEVICE void gpu_ldmatrix_trans(uint32_t r[4], const uint16_t *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* Start a copy of `size` bytes (4 or 16, both sides aligned to it) from global to shared memory,
 * the first `real` of them from there and the others zero. PTX ISA, cp.async. */
template <int size> SCD_DEVICE void gpu_copy_async(void *shared, const void *global, int real)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    if (size == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                     :
                     : "r"(at), "l"(global), "r"(real)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                     :
                     : "r"(at), "l"(global), "r"(real)
                     : "memory");
}

/* Copies started since the last commit become a group; wait until at most `left` are on their way.
 */
SCD_DEVICE void gpu_copy_commit(void)
{
    asm volatile("cp.async.commit_group;" : : : "memory");
}

template <int left> SCD_DEVICE void gpu_copy_wait(void)
{
    asm volatile("cp.async.wait_group %0;" : : "n"(left) : "memory");
}

/* ---- a warpgroup's products (sm_90a): four warps, 16 rows each ----
 *
 * d (64, 64) += a (64, 16) b (16, 64): a and d in fragments as above, each warp's 16 rows its own,
 * b in shared memory, a tile of 128-byte rows swizzled as scd_swizzled() says, at a multiple of
 * 1,024. PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions". Between begin and wait the
 * registers belong to the instruction: nobody touches d or a. */

#define SCD_32(x, mod)                                                                             \
    mod(x[0]), mod(x[1]), mod(x[2]), mod(x[3]), mod(x[4]), mod(x[5]), mod(x[6]), mod(x[7]),        \
        mod(x[8]), mod(x[9]), mod(x[10]), mod(x[11]), mod(x[12]), mod(x[13]), mod(x[14]),          \
        mod(x[15]), mod(x[16]), mod(x[17]), mod(x[18]), mod(x[19]), mod(x[20]), mod(x[21]),        \
        mod(x[22]), mod(x[23]), mod(x[24]), mod(x[25]), mod(x[26]), mod(x[27]), mod(x[28]),        \
        mod(x[29]), mod(x[30]), mod(x[31])
#define SCD_WGMMA(trans_b)                                                                         \
    "{ .reg .pred adds; setp.ne.b32 adds, %37, 0; "                                                \
    "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "                                        \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                      \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "            \
    "{%32, %33, %34, %35}, %36, adds, 1, 1, " trans_b "; }"

/* "Matrix-descriptor": address, 1,024 bytes from eight rows to the next, 128-byte swizzle. */
SCD_DEVICE uint64_t gpu_group_tile(const void *shared)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    return (uint64_t)1 << 62 | (uint64_t)(1024 / 16) << 32 | (uint64_t)1 << 16 |
           (at & 0x3ffff) / 16;
}

SCD_DEVICE void gpu_group_begin(void)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.fence.sync.aligned;" : : : "memory");
#endif
}

/* Columns 16 step .. 16 step + 15 of a tile (64 keys, 64 dims): b^T. first: d is overwritten. */
template <bool first>
SCD_DEVICE void gpu_group_mma_rows(float d[32], const uint32_t a[4], const void *tile, int step)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    uint64_t b = gpu_group_tile(tile) + (uint64_t)(step * 32 / 16);
    if (first)
        asm volatile(SCD_WGMMA("0")
                     : SCD_32(d, "=f")
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(0));
    else
        asm volatile(SCD_WGMMA("0")
                     : SCD_32(d, "+f")
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
#else
    (void)d, (void)a, (void)tile, (void)step;
    __trap(); /* code that is never chosen here */
#endif
}

/* Rows 16 step .. 16 step + 15 of a tile (64 keys, 64 dims): b. */
SCD_DEVICE void gpu_group_mma_cols(float d[32], const uint32_t a[4], const void *tile, int step)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    uint64_t b = gpu_group_tile(tile) + (uint64_t)(step * 16 * 128 / 16);
    asm volatile(SCD_WGMMA("1")
                 : SCD_32(d, "+f")
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
#else
    (void)d, (void)a, (void)tile, (void)step;
    __trap(); /* code that is never chosen here */
#endif
}

SCD_DEVICE void gpu_group_commit(void)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.commit_group.sync.aligned;" : : : "memory");
#endif
}

/* Until no product is under way: d and e, the accumulators of two kinds of them, are ours again. */
SCD_DEVICE void gpu_group_wait(float d[32], float e[32])
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.wait_group.sync.aligned 0;" : SCD_32(d, "+f") : : "memory");
    asm volatile("" : SCD_32(e, "+f") : : "memory");
#else
    (void)d, (void)e;
#endif
}

/* Shared memory written by this thread may be read by a warpgroup's products after the next
 * barrier. PTX ISA, "Async proxy". */
SCD_DEVICE void gpu_group_fence(void)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
#endif
}

#endif

#define SCD_LAUNCH(device, err, kernel, grid, block, shared, ...)                                  \
    SCD_LAUNCH_2D(device, err, kernel, dim3((unsigned)(grid)), block, shared, __VA_ARGS__)

/* ---- built from the above, the same in both worlds ---- */

/* All lanes get the sum; the order is fixed: lanes 16 apart first. */
SCD_DEVICE float gpu_warp_sum(float x)
{
    for (int mask = SCD_WARP / 2; mask; mask /= 2)
        x += gpu_shfl_xor(x, mask);
    return x;
}

SCD_DEVICE float gpu_warp_max(float x)
{
    for (int mask = SCD_WARP / 2; mask; mask /= 2)
        x = fmaxf(x, gpu_shfl_xor(x, mask));
    return x;
}

/* An activation is a float or the 16 bits of a bf16. */
SCD_DEVICE float gpu_load(const float *x)
{
    return *x;
}

SCD_DEVICE float gpu_load(const uint16_t *x)
{
    return scd_bf16_to_f32(*x);
}

SCD_DEVICE void gpu_store(float *x, float value)
{
    *x = value;
}

SCD_DEVICE void gpu_store(uint16_t *x, float value)
{
    *x = (uint16_t)gpu_pack_bf16(value, 0.0f);
}

/* W neighbours at once, which lie at a multiple of their size: one access where that is up to 16
 * bytes. SCD_WIDE(T) activations are 16 bytes. */
#define SCD_WIDE(T) (16 / sizeof(T))

template <typename T, size_t W> struct gpu_pack {
    alignas(sizeof(T) * W) T v[W];
};

template <size_t W, typename T> SCD_DEVICE void gpu_load_pack(const T *x, float out[W])
{
    gpu_pack<T, W> p = *(const gpu_pack<T, W> *)(const void *)x;
    SCD_UNROLL
    for (size_t i = 0; i < W; i++)
        out[i] = gpu_load(&p.v[i]);
}

/* W floats, four at once where W is a multiple of 4. */
template <size_t W> SCD_DEVICE void gpu_load_floats(const float *x, float out[W])
{
    const size_t each = W % 4 ? 1 : 4;
    SCD_UNROLL
    for (size_t i = 0; i < W; i += each)
        gpu_load_pack<each>(x + i, out + i);
}

template <size_t W, typename T> SCD_DEVICE void gpu_store_pack(T *x, const float in[W])
{
    gpu_pack<T, W> p;
    SCD_UNROLL
    for (size_t i = 0; i < W; i++)
        gpu_store(&p.v[i], in[i]);
    *(gpu_pack<T, W> *)(void *)x = p;
}

#endif
