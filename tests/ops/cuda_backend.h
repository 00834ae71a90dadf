/* cuda_backend.h - the backend that the CUDA tests test: on the emulator, or on a GPU.
 *
 * Threads: one. Owns: nothing. */
#ifndef SCD_TESTS_CUDA_BACKEND_H
#define SCD_TESTS_CUDA_BACKEND_H

#include "tests/ops/fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

extern const scd_backend scd_backend_cuda;

/* fp32: the promise of the specification. bf16 has 8 bits: every product rounds both inputs by up
 * to 2^-9, what stands between two products of an operation is rounded once more, and three
 * products follow one another in the longest. */
static inline void cuda_open(fixture *f, int bf16)
{
    scd_error err;
    if (!fixture_open_on(f, &scd_backend_cuda, bf16 ? SCD_PRECISION_BF16 : SCD_PRECISION_FP32,
                         bf16 ? 2e-2 : 1e-4, &err))
        fail_msg("%s", err.message);
}

/* False, and one line that says why, where there is no device to test. */
static inline int cuda_there(void)
{
    fixture f;
    scd_error err;
    if (!fixture_open_on(&f, &scd_backend_cuda, SCD_PRECISION_AUTO, 0, &err)) {
        printf("no GPU to test on: %s\n", err.message);
        return 0;
    }
    printf("on %s, %s\n", f.info->name, f.info->identity);
    fixture_release(&f);
    return 1;
}

#endif
