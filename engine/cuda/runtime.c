/* runtime.c - see runtime.h: the CUDA runtime, linked in statically, so that the object can be
 * loaded where there is no driver and say so. */
#include "engine/cuda/runtime.h"

#include "engine/base/mem.h"

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

struct scd_gpu {
    int index;
    cudaStream_t stream, beside;
    cudaEvent_t marks[SCD_GPU_MARKS];
    cudaEvent_t copied; /* beside, for the work to wait for: recorded anew for each wait */
    PFN_cuTensorMapEncodeTiled_v12000 encode; /* NULL until it is asked for */
};

static scd_code check(cudaError_t e, const char *call, scd_error *err)
{
    if (e == cudaSuccess)
        return SCD_OK;
    return scd_fail(err, e == cudaErrorMemoryAllocation ? SCD_E_NOMEM : SCD_E_DEVICE, "%s: %s",
                    call, cudaGetErrorString(e));
}

scd_code scd_gpu_count(int *n, scd_error *err)
{
    *n = 0;
    cudaError_t e = cudaGetDeviceCount(n);
    if (e == cudaErrorInsufficientDriver)
        return scd_fail(err, SCD_E_DEVICE,
                        "there is no NVIDIA driver on this machine, or one older than CUDA %d.%d",
                        CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    if (e == cudaErrorNoDevice || (e == cudaSuccess && *n == 0))
        return scd_fail(err, SCD_E_DEVICE, "no GPU answers");
    return check(e, "cudaGetDeviceCount", err);
}

static scd_code find(int index, scd_gpu_facts *facts, scd_error *err)
{
    int n;
    scd_code code = scd_gpu_count(&n, err);
    if (code)
        return code;
    if (index < 0 || index >= n)
        return scd_fail(err, SCD_E_DEVICE, "there is no GPU %d: this machine has %d, from 0", index,
                        n);
    struct cudaDeviceProp p;
    code = check(cudaGetDeviceProperties(&p, index), "cudaGetDeviceProperties", err);
    if (code)
        return code;
    if (p.major < 8)
        return scd_fail(err, SCD_E_DEVICE,
                        "GPU %d, %s, has compute capability %d.%d: at least 8.0 is needed", index,
                        p.name, p.major, p.minor);
    *facts = (scd_gpu_facts){.major = p.major,
                             .minor = p.minor,
                             .processors = p.multiProcessorCount,
                             .memory_bytes = p.totalGlobalMem};
    snprintf(facts->name, sizeof facts->name, "%.63s", p.name);
    return SCD_OK;
}

scd_code scd_gpu_open(int index, scd_gpu **out, scd_gpu_facts *facts, scd_error *err)
{
    *out = NULL;
    scd_code code = find(index, facts, err);
    if (code)
        return code;
    scd_gpu *gpu = scd_calloc(1, sizeof *gpu);
    if (!gpu)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    gpu->index = index;
    code = scd_gpu_enter(gpu, err);
    if (!code)
        code = check(cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking),
                     "cudaStreamCreateWithFlags", err);
    if (!code)
        code = check(cudaStreamCreateWithFlags(&gpu->beside, cudaStreamNonBlocking),
                     "cudaStreamCreateWithFlags", err);
    if (!code)
        code = check(cudaEventCreateWithFlags(&gpu->copied, cudaEventDisableTiming),
                     "cudaEventCreateWithFlags", err);
    for (int i = 0; i < SCD_GPU_MARKS && !code; i++)
        code = check(cudaEventCreateWithFlags(&gpu->marks[i], cudaEventDisableTiming),
                     "cudaEventCreateWithFlags", err);
    if (code) {
        scd_gpu_close(gpu);
        return code;
    }
    *out = gpu;
    return SCD_OK;
}

void scd_gpu_close(scd_gpu *gpu)
{
    if (!gpu)
        return;
    for (int i = 0; i < SCD_GPU_MARKS; i++)
        if (gpu->marks[i])
            cudaEventDestroy(gpu->marks[i]);
    if (gpu->copied)
        cudaEventDestroy(gpu->copied);
    if (gpu->beside)
        cudaStreamDestroy(gpu->beside);
    if (gpu->stream)
        cudaStreamDestroy(gpu->stream);
    free(gpu);
}

scd_code scd_gpu_enter(scd_gpu *gpu, scd_error *err)
{
    return check(cudaSetDevice(gpu->index), "cudaSetDevice", err);
}

scd_code scd_gpu_alloc(scd_gpu *gpu, size_t bytes, void **out, scd_error *err)
{
    (void)gpu;
    *out = NULL;
    cudaError_t e = cudaMalloc(out, bytes ? bytes : 1);
    if (e == cudaSuccess)
        return SCD_OK;
    *out = NULL;
    (void)cudaGetLastError(); /* or the next launch would be blamed for it */
    if (e != cudaErrorMemoryAllocation)
        return check(e, "cudaMalloc", err);
    return scd_fail(err, SCD_E_NOMEM, "the GPU has no room for %zu bytes", bytes);
}

void scd_gpu_free(scd_gpu *gpu, void *memory)
{
    if (memory) {
        cudaStreamSynchronize(gpu->stream);
        cudaStreamSynchronize(gpu->beside);
        cudaFree(memory);
    }
}

scd_code scd_gpu_alloc_host(scd_gpu *gpu, size_t bytes, void **out, scd_error *err)
{
    (void)gpu;
    *out = NULL;
    return check(cudaHostAlloc(out, bytes, cudaHostAllocPortable | cudaHostAllocMapped),
                 "cudaHostAlloc", err);
}

void scd_gpu_free_host(scd_gpu *gpu, void *memory)
{
    (void)gpu;
    if (memory)
        cudaFreeHost(memory);
}

scd_code scd_gpu_copy_in(scd_gpu *gpu, void *device, const void *host, size_t bytes, scd_error *err)
{
    return check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, gpu->stream),
                 "cudaMemcpyAsync to the device", err);
}

scd_code scd_gpu_copy_out(scd_gpu *gpu, void *host, const void *device, size_t bytes,
                          scd_error *err)
{
    return check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, gpu->stream),
                 "cudaMemcpyAsync from the device", err);
}

scd_code scd_gpu_copy_in_beside(scd_gpu *gpu, void *device, const void *host, size_t bytes,
                                scd_error *err)
{
    return check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, gpu->beside),
                 "cudaMemcpyAsync to the device", err);
}

scd_code scd_gpu_copy_out_beside(scd_gpu *gpu, void *host, const void *device, size_t bytes,
                                 scd_error *err)
{
    return check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, gpu->beside),
                 "cudaMemcpyAsync from the device", err);
}

scd_code scd_gpu_work_after_copies(scd_gpu *gpu, scd_error *err)
{
    scd_code code = check(cudaEventRecord(gpu->copied, gpu->beside), "cudaEventRecord", err);
    return code ? code
                : check(cudaStreamWaitEvent(gpu->stream, gpu->copied, 0), "cudaStreamWaitEvent",
                        err);
}

scd_code scd_gpu_copies_after(scd_gpu *gpu, int mark, scd_error *err)
{
    return check(cudaStreamWaitEvent(gpu->beside, gpu->marks[mark], 0), "cudaStreamWaitEvent", err);
}

scd_code scd_gpu_mark(scd_gpu *gpu, int mark, scd_error *err)
{
    cudaStream_t of = mark < SCD_GPU_WORK_MARKS ? gpu->stream : gpu->beside;
    return check(cudaEventRecord(gpu->marks[mark], of), "cudaEventRecord", err);
}

scd_code scd_gpu_wait_mark(scd_gpu *gpu, int mark, scd_error *err)
{
    return check(cudaEventSynchronize(gpu->marks[mark]), "cudaEventSynchronize", err);
}

scd_code scd_gpu_synchronize(scd_gpu *gpu, scd_error *err)
{
    scd_code code = check(cudaStreamSynchronize(gpu->stream), "cudaStreamSynchronize", err);
    return code ? code : check(cudaStreamSynchronize(gpu->beside), "cudaStreamSynchronize", err);
}

/* Only this thread's calls are held to what a capture allows: other devices' owners go on. */
scd_code scd_gpu_record(scd_gpu *gpu, scd_error *err)
{
    return check(cudaStreamBeginCapture(gpu->stream, cudaStreamCaptureModeThreadLocal),
                 "cudaStreamBeginCapture", err);
}

scd_code scd_gpu_record_end(scd_gpu *gpu, void **out, scd_error *err)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t ready = NULL;
    *out = NULL;
    scd_code code = check(cudaStreamEndCapture(gpu->stream, &graph), "cudaStreamEndCapture", err);
    if (!code)
        code = check(cudaGraphInstantiate(&ready, graph, 0), "cudaGraphInstantiate", err);
    if (graph)
        cudaGraphDestroy(graph);
    if (!code)
        *out = ready;
    else
        (void)cudaGetLastError(); /* or the next launch would be blamed for it */
    return code;
}

scd_code scd_gpu_replay(scd_gpu *gpu, void *graph, scd_error *err)
{
    return check(cudaGraphLaunch((cudaGraphExec_t)graph, gpu->stream), "cudaGraphLaunch", err);
}

void scd_gpu_graph_free(scd_gpu *gpu, void *graph)
{
    if (graph) {
        cudaStreamSynchronize(gpu->stream);
        cudaGraphExecDestroy((cudaGraphExec_t)graph);
    }
}

_Static_assert(sizeof(scd_gpu_map) == sizeof(CUtensorMap), "a map is the driver's");

/* The driver's encoder: this object is not linked with the driver. */
static scd_code find_encoder(scd_gpu *gpu, scd_error *err)
{
    if (gpu->encode)
        return SCD_OK;
    void *found = NULL;
    enum cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
    cudaError_t e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                                     cudaEnableDefault, &result);
#else
    cudaError_t e =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
    scd_code code = check(e, "cudaGetDriverEntryPoint", err);
    if (!code && (result != cudaDriverEntryPointSuccess || !found))
        code = scd_fail(err, SCD_E_DEVICE, "the driver has no cuTensorMapEncodeTiled");
    gpu->encode = code ? NULL : (PFN_cuTensorMapEncodeTiled_v12000)found;
    return code;
}

scd_code scd_gpu_map_rows(scd_gpu *gpu, const void *matrix, size_t rows, size_t cols,
                          scd_gpu_map *out, scd_error *err)
{
    scd_code code = find_encoder(gpu, err);
    if (code)
        return code;
    const cuuint64_t sizes[2] = {cols, rows}, step[1] = {cols * 2};
    const cuuint32_t tile[2] = {64, 64}, every[2] = {1, 1};
    CUresult e = gpu->encode((CUtensorMap *)(void *)out, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
                             (void *)(uintptr_t)matrix, sizes, step, tile, every,
                             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return e == CUDA_SUCCESS
               ? SCD_OK
               : scd_fail(err, SCD_E_DEVICE, "cuTensorMapEncodeTiled of %zu x %zu: error %d", rows,
                          cols, (int)e);
}

scd_code scd_gpu_allow_shared(scd_gpu *gpu, const void *kernel, size_t bytes, scd_error *err)
{
    (void)gpu;
    cudaError_t e =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (e)
        (void)cudaGetLastError(); /* or the next launch would be blamed for it */
    return check(e, "cudaFuncSetAttribute", err);
}

scd_code scd_gpu_launched(scd_gpu *gpu, const char *kernel, scd_error *err)
{
    (void)gpu;
    return check(cudaGetLastError(), kernel, err);
}

void *scd_gpu_stream(scd_gpu *gpu)
{
    return gpu->stream;
}
