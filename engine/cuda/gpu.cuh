/* gpu.cuh - the little of CUDA that kernels use, by names of our own.
 *
 * nvcc maps them to the device; -DSCD_CUDA_HOST maps them to the emulator in tests/cuda_host, where
 * the same kernels run on the CPU and their mistakes are found. Kernels use nothing else: no raw
 * <<<>>>, no static __shared__, no atomics.
 *
 * SCD_LAUNCH(device, err, kernel, blocks, threads, shared bytes, arguments...) is a scd_code; _2D
 * takes a dim3 of blocks. A grid of zero blocks is work of no rows, and fine. `block` is a multiple
 * of 32 and at most 256. */
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
#define SCD_DEVICE __device__ static __forceinline__
#define SCD_UNROLL _Pragma("unroll")

/* Shared memory of the block: as many bytes as the launch asked for, 16-byte aligned. */
extern __shared__ __align__(16) unsigned char scd_shared_bytes[];
#define gpu_shared() ((void *)scd_shared_bytes)

#define gpu_sync_block() __syncthreads()
#define gpu_sync_warp() __syncwarp()
#define gpu_shfl_xor(x, mask) __shfl_xor_sync(0xffffffffu, (x), (mask))

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
