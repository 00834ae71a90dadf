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
static scd_code find_cuda(char path[static 4096], scd_error *err)
{
    ssize_t n = readlink("/proc/self/exe", path, 4096 - sizeof cuda_object - 1);
    char *slash = n > 0 ? memrchr(path, '/', (size_t)n) : NULL;
    if (!slash)
        return scd_fail(err, SCD_E_DEVICE,
                        "cannot tell where this program lies, so not where %s does", cuda_object);
    memcpy(slash + 1, cuda_object, sizeof cuda_object);
    if (access(path, F_OK))
        return scd_fail(err, SCD_E_DEVICE,
                        "no CUDA backend: there is no %s beside this program (make builds it where "
                        "nvcc is)",
                        cuda_object);
    return SCD_OK;
}

static scd_code load_cuda(const scd_backend **out, scd_error *err)
{
    char path[4096];
    scd_code code = find_cuda(path, err);
    if (code)
        return code;
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const scd_backend *table = object ? dlsym(object, cuda_symbol) : NULL;
    if (!table) {
        const char *reason = dlerror();
        return scd_fail(err, SCD_E_DEVICE, "the CUDA backend cannot be loaded: %s",
                        reason ? reason : path);
    }
    *out = table;
    return scd_backend_check(table, err);
}

static void say_found(const scd_backend *backend, char *why, size_t n)
{
    int found = 1;
    if (!backend->count(&found, NULL) && found > 1)
        snprintf(why, n, "there is a GPU, the first of %d", found);
    else
        snprintf(why, n, "there is a GPU");
}

scd_code scd_backend_open(scd_device_choice choice, const scd_device_options *options,
                          const scd_backend **backend, scd_device **device, char *why, size_t n,
                          scd_error *err)
{
    scd_error cuda_error = {0};
    snprintf(why, n, "asked for");
    if (choice != SCD_DEVICE_CPU) {
        scd_code code = load_cuda(backend, &cuda_error);
        if (!code)
            code = (*backend)->open(options, device, &cuda_error);
        if (!code && choice == SCD_DEVICE_AUTO)
            say_found(*backend, why, n);
        if (!code)
            return SCD_OK;
        if (choice == SCD_DEVICE_CUDA)
            return scd_fail(err, code, "--device cuda: %s", cuda_error.message);
        snprintf(why, n, "%s", cuda_error.message);
        why[strcspn(why, "\n")] = '\0'; /* a loader may say more than a line */
    }
    *backend = &scd_backend_cpu;
    scd_code code = scd_backend_check(*backend, err);
    return code ? code : (*backend)->open(options, device, err);
}

scd_code scd_backend_count_gpus(int *n, scd_error *err)
{
    const scd_backend *backend;
    scd_error cuda_error = {0};
    *n = 0;
    scd_code code = load_cuda(&backend, &cuda_error);
    if (!code)
        code = backend->count(n, &cuda_error);
    return code ? scd_fail(err, code, "--device cuda: %s", cuda_error.message) : SCD_OK;
}
