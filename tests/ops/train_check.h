/* train_check.h - what the tests of training operations share: results on the device held against
 * the float64 twin, and gradients against central differences of it.
 *
 * The scalar that is differentiated is sum(dy * y) with random dy, so that an operation's backward
 * pass given dy must return its gradient. */
#ifndef SCD_TESTS_TRAIN_CHECK_H
#define SCD_TESTS_TRAIN_CHECK_H

#include "engine/backend/train_ops.h"
#include "tests/ops/fixture.h"

void train_ok(scd_code code, const scd_error *err);

/* got, on the device, against want: the largest error over the largest element is below
 * TRAIN_TOLERANCE. fp32 has 6e-8; sums here have at most some thousand terms and the longest chain
 * is three products. */
#define TRAIN_TOLERANCE 1e-5
void train_same(fixture *f, const char *what, const double *want, const float *got, size_t n);
/* The same of floats that were fetched already. */
void train_same_host(const fixture *f, const char *what, const double *want, const float *got,
                     size_t n);
/* n floats at two places of the device have the same bits. */
void train_equal(fixture *f, const float *a, const float *b, size_t n);

/* sum a_i b_i */
double train_dot(const double *a, const double *b, size_t n);

/* The scalar as a function of the float64 arrays that ctx knows. */
typedef double train_scalar(void *ctx);

/* got (n, on the device) must be before (n; NULL: zeros) + d scalar / d x, looked at in up to 64
 * elements spread over x. The differences' own error is about 1e-7 (rounding, 1e-16 over the step
 * of 1e-6, in sums of some hundred; a longer step would meet ReLU's corners), so fp32's 1e-5 is
 * what is left. */
void train_gradient(fixture *f, const char *what, train_scalar *scalar, void *ctx, const array *x,
                    const float *before, const float *got);

#endif
