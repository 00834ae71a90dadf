/* cublaslt.h - cuBLASLt, loaded when a GPU has answered and not before.
 *
 * The library is half a gigabyte; a daemon that falls back to the CPU should not map it, and one on
 * a machine without it should say so in its own words.
 *
 * Threads: main, at start. Owns: the loaded library, for the life of the process. */
#ifndef SCD_CUDA_CUBLASLT_H
#define SCD_CUDA_CUBLASLT_H

#include "engine/base/error.h"

#include <cublasLt.h>

/* What is used of it; entry `name` has the type of cublasLt<name>. */
#define SCD_CUBLASLT_FUNCTIONS(X)                                                                  \
    X(Create)                                                                                      \
    X(Destroy)                                                                                     \
    X(GetVersion)                                                                                  \
    X(GetStatusName)                                                                               \
    X(Matmul)                                                                                      \
    X(MatmulAlgoCheck)                                                                             \
    X(MatmulAlgoConfigGetAttribute)                                                                \
    X(MatmulAlgoGetHeuristic)                                                                      \
    X(MatmulDescCreate)                                                                            \
    X(MatmulDescDestroy)                                                                           \
    X(MatmulDescSetAttribute)                                                                      \
    X(MatmulPreferenceCreate)                                                                      \
    X(MatmulPreferenceDestroy)                                                                     \
    X(MatmulPreferenceSetAttribute)                                                                \
    X(MatrixLayoutCreate)                                                                          \
    X(MatrixLayoutDestroy)                                                                         \
    X(MatrixLayoutSetAttribute)

typedef struct scd_cublaslt {
#define X(name) __typeof__(cublasLt##name) *name;
    SCD_CUBLASLT_FUNCTIONS(X)
#undef X
} scd_cublaslt;

/* SCD_E_DEVICE: it cannot be loaded; the message says why. */
scd_code scd_cublaslt_load(const scd_cublaslt **out, scd_error *err);

#endif
