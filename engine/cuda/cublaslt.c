/* cublaslt.c - see cublaslt.h. */
#include "engine/cuda/cublaslt.h"

#include <dlfcn.h>
#include <string.h>

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
static const char object[] = "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR);

scd_code scd_cublaslt_load(const scd_cublaslt **out, scd_error *err)
{
    static scd_cublaslt table;
    void *library = dlopen(object, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return scd_fail(err, SCD_E_DEVICE, "there is a GPU but no cuBLASLt (install cuBLAS %d): %s",
                        CUBLAS_VER_MAJOR, dlerror());
    const struct {
        const char *name;
        void *place;
    } wanted[] = {
#define X(name) {"cublasLt" #name, &table.name},
        SCD_CUBLASLT_FUNCTIONS(X)
#undef X
    };
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        void *function = dlsym(library, wanted[i].name);
        if (!function)
            return scd_fail(err, SCD_E_DEVICE, "%s has no %s", object, wanted[i].name);
        memcpy(wanted[i].place, &function, sizeof function); /* POSIX: the same representation */
    }
    *out = &table;
    return SCD_OK;
}
