/* train_impl.h - what the files of the training operations (train_*.c) share.
 *
 * An operation is one or two passes of the pool. A pass is a number of tasks that follows from the
 * shapes alone - chunks of rows, blocks of weights, heads of cells - and every task computes its
 * output from first to last, or a partial sum that is added in the order of tasks afterwards. So a
 * result has the same bits on any number of threads.
 *
 * Everything is fp32, whatever the precision of the device.
 *
 * Threads: the owner calls the operations; tasks run on the pool. */
#ifndef SCD_CPU_TRAIN_IMPL_H
#define SCD_CPU_TRAIN_IMPL_H

#include "engine/backend/train_ops.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/train_gemm.h"
#include "engine/cpu/train_kernels.h"

#include <string.h>

/* Rows of a chunk: of products, and of everything that goes along rows. */
enum { SCD_GEMM_ROWS = 256, SCD_CHUNK_ROWS = 128 };

static inline size_t scd_chunks(size_t n, size_t chunk)
{
    return (n + chunk - 1) / chunk;
}

/* Rows (or columns) of chunk `i`: from i * chunk on. */
static inline size_t scd_chunk_size(size_t n, size_t chunk, size_t i)
{
    return n - i * chunk < chunk ? n - i * chunk : chunk;
}

/* Task `task` with a thread's scratch, 64-byte aligned. */
typedef scd_code scd_train_task(void *arg, size_t task, void *scratch);

/* Runs n tasks on the pool, taken in order, each with scratch of at least this size. The first
 * failure is reported; SCD_E_NOMEM for scratch. */
scd_code scd_train_run(scd_device *device, size_t n, size_t scratch_bytes, scd_train_task *task,
                       void *arg, scd_error *err);

/* `floats` of memory that all tasks share, the same until the next call. SCD_E_NOMEM. */
scd_code scd_train_shared(scd_device *device, size_t floats, float **out, scd_error *err);

/* dst (width) += each of n rows of `parts` that are `stride` floats apart, in order. */
void scd_train_add_parts(const scd_device *device, const float *parts, size_t n, size_t stride,
                         size_t width, float *dst);

/* ---- the operations, see train_ops.h ---- */

scd_code scd_t_cpu_linear(scd_device *, const scd_t_linear *, scd_error *);
scd_code scd_t_cpu_linear_back(scd_device *, const scd_t_linear_back *, scd_error *);
scd_code scd_t_cpu_rms_norm(scd_device *, const scd_t_rms_norm *, scd_error *);
scd_code scd_t_cpu_rms_norm_back(scd_device *, const scd_t_rms_norm_back *, scd_error *);
scd_code scd_t_cpu_norm_relu(scd_device *, const scd_t_norm_relu *, scd_error *);
scd_code scd_t_cpu_norm_relu_back(scd_device *, const scd_t_norm_relu_back *, scd_error *);
scd_code scd_t_cpu_rope(scd_device *, const scd_t_rope *, scd_error *);
scd_code scd_t_cpu_attention(scd_device *, const scd_t_attention *, scd_error *);
scd_code scd_t_cpu_attention_back(scd_device *, const scd_t_attention_back *, scd_error *);
scd_code scd_t_cpu_swiglu(scd_device *, const scd_t_swiglu *, scd_error *);
scd_code scd_t_cpu_swiglu_back(scd_device *, const scd_t_swiglu_back *, scd_error *);
scd_code scd_t_cpu_value_in(scd_device *, const scd_t_value_in *, scd_error *);
scd_code scd_t_cpu_value_in_back(scd_device *, const scd_t_value_in_back *, scd_error *);
scd_code scd_t_cpu_embed(scd_device *, const scd_t_embed *, scd_error *);
scd_code scd_t_cpu_embed_back(scd_device *, const scd_t_embed_back *, scd_error *);
scd_code scd_t_cpu_rows_get(scd_device *, const scd_t_rows *, scd_error *);
scd_code scd_t_cpu_rows_add(scd_device *, const scd_t_rows *, scd_error *);
scd_code scd_t_cpu_gene_loss(scd_device *, const scd_t_gene_loss *, scd_error *);
scd_code scd_t_cpu_class_loss(scd_device *, const scd_t_class_loss *, scd_error *);
scd_code scd_t_cpu_copy(scd_device *, const float *x, size_t n, float *y, scd_error *);
scd_code scd_t_cpu_add(scd_device *, const float *x, size_t n, float *y, scd_error *);
scd_code scd_t_cpu_zero(scd_device *, float *y, size_t n, scd_error *);
scd_code scd_t_cpu_relu(scd_device *, float *y, size_t n, scd_error *);
scd_code scd_t_cpu_relu_back(scd_device *, const float *y, size_t n, float *dy, scd_error *);
scd_code scd_t_cpu_sum_squares(scd_device *, const float *x, size_t n, double *out, scd_error *);
scd_code scd_t_cpu_adamw(scd_device *, const scd_t_adamw *, scd_error *);

#endif
