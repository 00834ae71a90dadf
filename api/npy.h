/* npy.h - the .npy format, version 1.0 (numpy NEP 1): a (rows, cols) float32 C-order matrix.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_API_NPY_H
#define SCD_API_NPY_H

#include "engine/base/buf.h"

/* The header alone; rows * cols little-endian float32 follow it. */
void scd_npy_header(scd_buf *out, size_t rows, size_t cols);

#endif
