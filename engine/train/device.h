/* device.h - the device a verb computes on: --device auto|cpu|cuda[:N], as the daemon takes it.
 *
 * Threads: main. */
#ifndef SCD_TRAIN_DEVICE_H
#define SCD_TRAIN_DEVICE_H

#include "engine/backend/registry.h"
#include "engine/backend/train_ops.h"

#include <stddef.h>

#define SCD_TRAIN_DEVICE_HELP "auto, cpu or cuda[:N]; auto: the GPU where there is one"

/* Opens it in fp32, in which models learn, and says on standard error in one line what it is and
 * why, unless it is the CPU and nobody asked for a device. `name` NULL: auto. threads: of the CPU,
 * 0: one per core. SCD_E_INVALID: no such name; SCD_E_DEVICE: named and not there. */
scd_code scd_train_device_open(const char *name, size_t threads, const scd_backend **backend,
                               scd_device **device, scd_error *err);

#endif
