/* device.c - see device.h. */
#include "engine/train/device.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DIGITS = 3 };

/* "cuda" or "cuda:N"; false: neither. */
static bool is_cuda(const char *name, int *index)
{
    *index = 0;
    if (strncmp(name, "cuda", 4) != 0)
        return false;
    name += 4;
    if (!*name)
        return true;
    size_t n = strlen(name + 1);
    if (*name != ':' || !n || n > MAX_DIGITS)
        return false;
    for (const char *c = name + 1; *c; c++)
        if (!isdigit((unsigned char)*c))
            return false;
    *index = atoi(name + 1);
    return true;
}

scd_code scd_train_device_open(const char *name, size_t threads, const scd_backend **backend,
                               scd_device **device, scd_error *err)
{
    scd_device_options options = {.precision = SCD_PRECISION_FP32, .threads = (int)threads};
    scd_device_choice choice = SCD_DEVICE_AUTO;
    char why[512];
    *device = NULL;
    if (name && !strcmp(name, "cpu"))
        choice = SCD_DEVICE_CPU;
    else if (name && is_cuda(name, &options.index))
        choice = SCD_DEVICE_CUDA;
    else if (name && strcmp(name, "auto") != 0)
        return scd_fail(err, SCD_E_INVALID, "--device %s: must be auto, cpu or cuda[:N]", name);
    scd_code code = scd_backend_open(choice, &options, backend, device, why, sizeof why, err);
    if (!code && (name || *backend != &scd_backend_cpu))
        fprintf(stderr, "computing on %s (%s)\n", (*backend)->info(*device)->name, why);
    return code;
}
