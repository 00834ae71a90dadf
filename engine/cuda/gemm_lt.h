/* gemm_lt.h - what gemm_lt.c (weights) and gemm_f32_lt.c (training) share of cuBLASLt.
 *
 * Threads: the owner. */
#ifndef SCD_CUDA_GEMM_LT_H
#define SCD_CUDA_GEMM_LT_H

#include "engine/cuda/cublaslt.h"
#include "engine/cuda/gemm.h"

#define SCD_LT_WORKSPACE_BYTES ((size_t)32 << 20) /* what NVIDIA recommends for Hopper */

typedef struct scd_lt_f32 scd_lt_f32; /* gemm_f32_lt.c: descriptors and chosen algorithms */

struct scd_gemm_lib {
    const scd_cublaslt *lt;
    scd_gpu *gpu;
    cublasLtHandle_t handle;
    void *workspace;
    scd_lt_f32 *f32; /* NULL until the first product of training */
    char version[40];
};

scd_code scd_lt_check(const scd_cublaslt *lt, cublasStatus_t status, const char *call,
                      scd_error *err);
/* SCD_LT(Create, &handle) calls cublasLtCreate(&handle) through the table `lt`. */
#define SCD_LT(name, ...) scd_lt_check(lt, lt->name(__VA_ARGS__), #name, err)

/* True where the algorithm adds each sum up in one piece. */
bool scd_lt_whole_sums(const scd_cublaslt *lt, const cublasLtMatmulAlgo_t *algo);

void scd_lt_f32_free(scd_gemm_lib *lib);

#endif
