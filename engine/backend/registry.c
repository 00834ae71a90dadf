/* registry.c - see registry.h. */
#include "engine/backend/registry.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char cuda_object[] = "scdiva_cuda.so";
static const char cuda_symbol[] = "scd_backend_cuda";

scd_code scd_backend_check(const scd_backend *backend, scd_error *err)
{
    if (backend->abi != SCD_BACKEND_ABI || backend->size != sizeof *backend)
        return scd_fail(err, SCD_E_DEVICE,
                        "backend %s is for table version %u of %u bytes, this program has version "
                        "%u of %zu bytes: install both from one release",
                        backend->name ? backend->name : "?", backend->abi, backend->size,
                        SCD_BACKEND_ABI, sizeof *backend);
    return SCD_OK;
}

/* The object beside the running program; never from the working directory or a search path. */
static const scd_backend *load_cuda(scd_error *err)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - sizeof cuda_object - 1);
    char *slash = n > 0 ? memrchr(path, '/', (size_t)n) : NULL;
    if (!slash) {
        scd_fail(err, SCD_E_DEVICE, "cannot tell where this program lies, so not where %s does",
                 cuda_object);
        return NULL;
    }
    memcpy(slash + 1, cuda_object, sizeof cuda_object);
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const scd_backend *table = object ? dlsym(object, cuda_symbol) : NULL;
    if (!table) {
        scd_fail(err, SCD_E_DEVICE, "no CUDA backend: %s", dlerror());
        return NULL;
    }
    return scd_backend_check(table, err) ? NULL : table;
}

scd_code scd_backend_choose(scd_device_choice choice, const scd_backend **out, char *why, size_t n,
                            scd_error *err)
{
    scd_error cuda_error = {0};
    const scd_backend *cuda = choice == SCD_DEVICE_CPU ? NULL : load_cuda(&cuda_error);
    if (choice == SCD_DEVICE_CUDA && !cuda)
        return scd_fail(err, SCD_E_DEVICE, "--device cuda: %s", cuda_error.message);
    *out = cuda ? cuda : &scd_backend_cpu;
    if (choice == SCD_DEVICE_CPU)
        snprintf(why, n, "cpu: asked for");
    else
        snprintf(why, n, cuda ? "cuda: found" : "cpu: %s", cuda_error.message);
    return scd_backend_check(*out, err);
}
