/* product_dnnl.h - oneDNN's products: the only file pair that calls it.
 *
 * A product is built once for (m, n, k) and used by all matrices of that shape; weights are in
 * oneDNN's blocked layout, one copy.
 *
 * Threads: building: the owner. Running: any thread of the pool, each with its own index. */
#ifndef SCD_CPU_PRODUCT_DNNL_H
#define SCD_CPU_PRODUCT_DNNL_H

#include "engine/cpu/cpu.h"

typedef struct scd_product scd_product;

scd_code scd_dnnl_open(int threads, scd_precision precision, scd_dnnl **out, scd_error *err);
void scd_dnnl_close(scd_dnnl *dnnl);

/* Built for every size: y (m, n) = x (m, k) W^T, W n x k. */
scd_code scd_dnnl_build(scd_dnnl *dnnl, size_t n, size_t k, scd_product *out[SCD_N_SIZES],
                        scd_error *err);
size_t scd_product_weight_bytes(const scd_product *product);
/* The most scratch that any product built so far needs. */
size_t scd_dnnl_scratch(const scd_dnnl *dnnl);

/* Write rows (n, k) fp32 as packed weights into `weights`; *handle names them in runs. */
scd_code scd_product_pack(scd_dnnl *dnnl, const scd_product *product, const float *rows,
                          void *weights, void **handle, scd_error *err);
void scd_product_unpack(void *handle);

scd_code scd_product_run(scd_dnnl *dnnl, const scd_product *product, int thread, const void *handle,
                         const void *x, float *y, void *scratch);

/* Is a row's result the same in every tile size and place? `weights` packed as above, `space` has
 * room for 64 rows of x and 128 of y. */
bool scd_product_row_exact(scd_dnnl *dnnl, scd_product *const built[SCD_N_SIZES],
                           const void *handle, void *space, void *scratch);

#endif
