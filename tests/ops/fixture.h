/* fixture.h - what the operation tests share: the devices to test, random arrays in float and
 * float64, activations in the device's type.
 *
 * A device is an instruction set of the CPU, or CUDA in either precision: on the emulator of
 * tests/cuda_host in `make test`, on a GPU in `make test-gpu`. Tests are written for memory of the
 * device (fixture_place, fixture_room, fixture_fetch), which on the CPU is plain memory.
 *
 * Arrays are separate heap blocks of their exact size, so that the address sanitizer sees a read or
 * write past the end. Everything allocated here is freed by fixture_release. */
#ifndef SCD_TESTS_FIXTURE_H
#define SCD_TESTS_FIXTURE_H

#include "engine/backend/backend.h"

#include <stdbool.h>
#include <stddef.h>

enum { N_CONFIGS = 4, N_DEVICES = 8, MAX_BLOCKS = 2048 };

typedef struct fixture {
    const scd_backend *be;
    scd_device *device;
    const scd_device_info *info;
    bool bf16;
    double tolerance; /* largest error over largest element that an operation may have */
    void *blocks[MAX_BLOCKS];
    size_t n_blocks;
    scd_matrix *matrices[MAX_BLOCKS];
    size_t n_matrices;
    void *placed[MAX_BLOCKS]; /* on the device */
    size_t n_placed;
} fixture;

/* Config i: generic, avx2 and avx512 in fp32, avx512_bf16 in bf16; from N_CONFIGS on CUDA in fp32
 * and bf16, in bf16 as on Hopper where the device is the emulator, and there with the kernels
 * that come next. False where the machine, or this build, lacks it. SCDIVA_TEST_DEVICES=cpu or cuda
 * leaves the other out; CUDA that is not there is a failure then. */
bool fixture_open(fixture *f, size_t config, int threads);
/* check(f) on every device there is, with two threads; a failure where there is none. */
void fixture_on_every_device(void (*check)(fixture *f));
/* Device 0 of another backend. False where there is none, and *err says why. */
bool fixture_open_on(fixture *f, const scd_backend *be, scd_precision precision, double tolerance,
                     scd_error *err);
void fixture_release(fixture *f);
void fixture_ok(scd_code code, const scd_error *err); /* fails with the error's message */
bool fixture_on_cpu(const fixture *f);
/* The emulator of a GPU takes minutes for what others do at once. */
bool fixture_is_slow(const fixture *f);

/* n random numbers of this spread; the float64 copy holds exactly the same values. */
typedef struct array {
    float *f;
    double *d;
    size_t n;
} array;

array fixture_random(fixture *f, uint64_t seed, size_t n, double spread);
void *fixture_block(fixture *f, size_t bytes); /* filled with 0xff: NaN in every type */
void *fixture_act(fixture *f, array *a);       /* as act; a->d becomes what act holds */
double *fixture_from_act(fixture *f, const void *act, size_t n);
double *fixture_from_float(fixture *f, const float *x, size_t n);
double *fixture_doubles(fixture *f, size_t n);
scd_matrix *fixture_matrix(fixture *f, const array *parts, size_t n_parts, size_t rows,
                           size_t cols);

/* Host memory copied to the device, device memory that holds NaN, and back to a host block. */
void *fixture_place(fixture *f, const void *host, size_t bytes);
void *fixture_room(fixture *f, size_t bytes);
void *fixture_fetch(fixture *f, const void *device, size_t bytes);
double *fixture_fetch_act(fixture *f, const void *device, size_t n);
float *fixture_place_array(fixture *f, array a); /* its floats */
float *fixture_room_floats(fixture *f, size_t n);

/* Largest |got - want| over largest |want|; NaN counts as infinite. */
double fixture_error(const double *want, const double *got, size_t n);

#endif
