/* registry.h - which backend computes: chosen by name, or by what the machine has.
 *
 * The CPU backend is linked in. The CUDA one is an object beside the program (scdiva_cuda.so),
 * loaded only where it is there and a GPU answers.
 *
 * Threads: main, at start. Owns: loaded objects, for the life of the process. */
#ifndef SCD_BACKEND_REGISTRY_H
#define SCD_BACKEND_REGISTRY_H

#include "engine/backend/backend.h"

typedef enum scd_device_choice {
    SCD_DEVICE_AUTO,
    SCD_DEVICE_CPU,
    SCD_DEVICE_CUDA
} scd_device_choice;

/* Choose and open the device. Left to itself it takes CUDA, and the CPU where CUDA is not there or
 * cannot be used, for whatever reason; `why` (n bytes) gets one line for the log that says it.
 * SCD_E_DEVICE: CUDA by name, and there is none; the message says what was looked for. */
scd_code scd_backend_open(scd_device_choice choice, const scd_device_options *options,
                          const scd_backend **backend, scd_device **device, char *why, size_t n,
                          scd_error *err);

/* *n: the GPUs of this machine, 1 or more. SCD_E_DEVICE: there is none; the message says what was
 * looked for. */
scd_code scd_backend_count_gpus(int *n, scd_error *err);

/* SCD_E_DEVICE when the table was built for another version of backend.h. */
scd_code scd_backend_check(const scd_backend *backend, scd_error *err);

#endif
