/* runtime.h - what this backend asks of the CUDA runtime, in plain C.
 *
 * Two sides: runtime.c (a GPU) and tests/cuda_host/runtime_host.cc (the emulator of the tests).
 * Work is put on one stream and done in order; only the functions that say so wait for it. A second
 * stream has copies that go on beside the work.
 *
 * Threads: the owner; `enter` makes the device the calling thread's.
 * Errors:  SCD_E_NOMEM for memory, else SCD_E_DEVICE, with the name of the call that failed. */
#ifndef SCD_CUDA_RUNTIME_H
#define SCD_CUDA_RUNTIME_H

#ifdef __cplusplus
extern "C" {
#endif

#include "engine/base/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct scd_gpu scd_gpu;

typedef struct scd_gpu_facts {
    char name[64];
    int major, minor; /* compute capability */
    int processors; /* multiprocessors: what cuBLASLt chooses an algorithm by, besides the former */
    size_t memory_bytes;
} scd_gpu_facts;

/* Marks in the work; then marks in the copies beside it. */
enum { SCD_GPU_WORK_MARKS = 4, SCD_GPU_MARKS = 6 };

/* GPUs of this machine, 1 or more. SCD_E_DEVICE: no driver, or no GPU. */
scd_code scd_gpu_count(int *n, scd_error *err);

/* SCD_E_DEVICE: no driver, no GPU, no such index, or one that is too old. */
scd_code scd_gpu_open(int index, scd_gpu **out, scd_gpu_facts *facts, scd_error *err);
void scd_gpu_close(scd_gpu *gpu); /* NULL is fine */
scd_code scd_gpu_enter(scd_gpu *gpu, scd_error *err);

scd_code scd_gpu_alloc(scd_gpu *gpu, size_t bytes, void **out, scd_error *err);
void scd_gpu_free(scd_gpu *gpu, void *memory); /* waits for the work that uses it */
/* Pinned host memory, which kernels may write as well. */
scd_code scd_gpu_alloc_host(scd_gpu *gpu, size_t bytes, void **out, scd_error *err);
void scd_gpu_free_host(scd_gpu *gpu, void *memory);

/* The host side is pinned and must stay as it is until the copy is done. */
scd_code scd_gpu_copy_in(scd_gpu *gpu, void *device, const void *host, size_t bytes,
                         scd_error *err);
scd_code scd_gpu_copy_out(scd_gpu *gpu, void *host, const void *device, size_t bytes,
                          scd_error *err);

/* The same beside the work. They know nothing of it, nor it of them, but for what stands between:
 * work that is put from now on begins after the copies that were put before; copies that are put
 * from now on begin after that mark in the work. */
scd_code scd_gpu_copy_in_beside(scd_gpu *gpu, void *device, const void *host, size_t bytes,
                                scd_error *err);
scd_code scd_gpu_copy_out_beside(scd_gpu *gpu, void *host, const void *device, size_t bytes,
                                 scd_error *err);
scd_code scd_gpu_work_after_copies(scd_gpu *gpu, scd_error *err);
scd_code scd_gpu_copies_after(scd_gpu *gpu, int mark, scd_error *err);

/* Remember this place in the mark's stream; wait until it has come past it. A mark that was never
 * set is past. */
scd_code scd_gpu_mark(scd_gpu *gpu, int mark, scd_error *err);
scd_code scd_gpu_wait_mark(scd_gpu *gpu, int mark, scd_error *err);
scd_code scd_gpu_synchronize(scd_gpu *gpu, scd_error *err); /* both streams */

/* Between these launches and products are kept, not done, and become *out; after an error *out is
 * NULL. Copies, waits and memory may not stand between. */
scd_code scd_gpu_record(scd_gpu *gpu, scd_error *err);
scd_code scd_gpu_record_end(scd_gpu *gpu, void **out, scd_error *err);
scd_code scd_gpu_replay(scd_gpu *gpu, void *graph, scd_error *err);
void scd_gpu_graph_free(scd_gpu *gpu, void *graph); /* NULL is fine */

/* How bulk copies of Hopper find a tile of 64 x 64 in a matrix of bf16 (rows, cols): what lies
 * outside is 0. The matrix starts at a multiple of 16 bytes, cols is a multiple of 8. The map is
 * the device's business; it goes to a kernel by value. */
typedef struct scd_gpu_map {
    uint64_t of_the_device[16];
} __attribute__((aligned(64))) scd_gpu_map;

scd_code scd_gpu_map_rows(scd_gpu *gpu, const void *matrix, size_t rows, size_t cols,
                          scd_gpu_map *out, scd_error *err);

/* Before a launch with more shared memory than every kernel may have. */
scd_code scd_gpu_allow_shared(scd_gpu *gpu, const void *kernel, size_t bytes, scd_error *err);
/* After a launch: what became of it. */
scd_code scd_gpu_launched(scd_gpu *gpu, const char *kernel, scd_error *err);
void *scd_gpu_stream(scd_gpu *gpu); /* cudaStream_t */

#ifdef __cplusplus
}
#endif
#endif
