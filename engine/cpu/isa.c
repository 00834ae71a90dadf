/* isa.c - see isa.h. */
#include "engine/cpu/isa.h"

#include <dnnl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {
    [SCD_ISA_GENERIC] = "generic",
    [SCD_ISA_AVX2] = "avx2",
    [SCD_ISA_AVX512] = "avx512",
    [SCD_ISA_AVX512_BF16] = "avx512_bf16",
};

const char *scd_isa_name(scd_isa isa)
{
    return names[isa];
}

static scd_isa of_processor(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return SCD_ISA_GENERIC;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return SCD_ISA_AVX2;
    return __builtin_cpu_supports("avx512bf16") ? SCD_ISA_AVX512_BF16 : SCD_ISA_AVX512;
#else
    return SCD_ISA_GENERIC;
#endif
}

/* oneDNN's enum is a set of feature bits: a set that contains another can do all of it. */
static bool library_has(dnnl_cpu_isa_t isa)
{
    return ((unsigned)dnnl_get_effective_cpu_isa() & (unsigned)isa) == (unsigned)isa;
}

scd_code scd_isa_detect(scd_isa *out, scd_error *err)
{
    scd_isa isa = of_processor();
    if (isa > SCD_ISA_AVX512 && !library_has(dnnl_cpu_isa_avx512_core_bf16))
        isa = SCD_ISA_AVX512;
    if (isa > SCD_ISA_AVX2 && !library_has(dnnl_cpu_isa_avx512_core))
        isa = SCD_ISA_AVX2;
    const char *want = getenv("SCDIVA_ISA");
    if (want && *want) {
        size_t i = 0;
        while (i < sizeof names / sizeof names[0] && strcmp(want, names[i]))
            i++;
        if (i == sizeof names / sizeof names[0])
            return scd_fail(err, SCD_E_INVALID,
                            "SCDIVA_ISA is \"%s\"; it may be generic, avx2, avx512 or avx512_bf16",
                            want);
        if ((scd_isa)i < isa)
            isa = (scd_isa)i;
    }
    *out = isa;
    return SCD_OK;
}

void scd_isa_library(char *out, size_t n)
{
    const dnnl_version_t *v = dnnl_version();
    const char *isa = "other";
    switch (dnnl_get_effective_cpu_isa()) {
    case dnnl_cpu_isa_avx512_core_amx:
        isa = "avx512_core_amx";
        break;
    case dnnl_cpu_isa_avx512_core_bf16:
        isa = "avx512_core_bf16";
        break;
    case dnnl_cpu_isa_avx512_core_vnni:
        isa = "avx512_core_vnni";
        break;
    case dnnl_cpu_isa_avx512_core:
        isa = "avx512_core";
        break;
    case dnnl_cpu_isa_avx2:
        isa = "avx2";
        break;
    default:
        break;
    }
    snprintf(out, n, "%d.%d.%d-%s", v->major, v->minor, v->patch, isa);
}

void scd_isa_processor(char *out, size_t n)
{
    snprintf(out, n, "cpu");
    FILE *f = fopen("/proc/cpuinfo", "re");
    if (!f)
        return;
    for (char line[256]; fgets(line, sizeof line, f);) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon)
            continue;
        colon += 1 + (colon[1] == ' ');
        colon[strcspn(colon, "\n")] = '\0';
        snprintf(out, n, "%s", colon);
        break;
    }
    fclose(f);
}
