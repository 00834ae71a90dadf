/* device.c - the CPU device: opening, memory, and the table of operations.
 *
 * "Device memory" is host memory here; upload and download copy within it. A table from a file is
 * borrowed, so `free` must know it from memory of `alloc`. */
#include "engine/backend/train_ops.h"
#include "engine/base/mem.h"
#include "engine/cpu/cores.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/product_dnnl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_THREADS = 512 };

static void scratch_free(scd_scratch *blocks, int n)
{
    for (int i = 0; blocks && i < n; i++)
        free(blocks[i].memory);
    free(blocks);
}

static void cpu_close(scd_device *device)
{
    if (!device)
        return;
    free(device->tables);
    free(device->rope);
    scratch_free(device->scratch, device->threads);
    scratch_free(device->library, device->threads);
    free(device->shared.memory);
    scd_dnnl_close(device->dnnl);
    scd_pool_free(device->pool);
    free(device);
}

static const scd_kernels *kernels_for(scd_isa isa)
{
    switch (isa) {
#if defined(__x86_64__)
    case SCD_ISA_AVX512_BF16:
        return &scd_kernels_avx512bf16;
    case SCD_ISA_AVX512:
        return &scd_kernels_avx512;
    case SCD_ISA_AVX2:
        return &scd_kernels_avx2;
#endif
    default:
        return &scd_kernels_generic;
    }
}

/* bf16 needs avx512_bf16; fp32 there is computed with the kernels of plain avx512. */
static scd_code choose(const scd_device_options *options, scd_isa *isa, scd_precision *precision,
                       scd_error *err)
{
    scd_code code = scd_isa_detect(isa, err);
    if (code)
        return code;
    *precision = options->precision;
    if (*precision == SCD_PRECISION_BF16 && *isa < SCD_ISA_AVX512_BF16)
        return scd_fail(err, SCD_E_DEVICE,
                        "this processor does not multiply bf16 in hardware (it has %s): use "
                        "precision fp32 or auto",
                        scd_isa_name(*isa));
    if (*precision == SCD_PRECISION_AUTO)
        *precision = *isa == SCD_ISA_AVX512_BF16 ? SCD_PRECISION_BF16 : SCD_PRECISION_FP32;
    if (*precision == SCD_PRECISION_FP32 && *isa == SCD_ISA_AVX512_BF16)
        *isa = SCD_ISA_AVX512;
    return SCD_OK;
}

static void describe(scd_device *device, scd_isa isa, scd_precision precision)
{
    scd_device_info *info = &device->info;
    char processor[64], library[48];
    scd_isa_processor(processor, sizeof processor);
    scd_isa_library(library, sizeof library);
    info->precision = precision;
    info->act_bytes = device->kernels->act_bytes;
    snprintf(info->isa, sizeof info->isa, "%s", scd_isa_name(isa));
    snprintf(info->name, sizeof info->name, "%s, %d thread%s", processor, device->threads,
             device->threads == 1 ? "" : "s");
    snprintf(info->identity, sizeof info->identity, "cpu/%s/%s/k%d/%s%s", info->isa,
             precision == SCD_PRECISION_BF16 ? "bf16" : "fp32", SCD_CPU_KERNEL_VERSION,
             device->dnnl ? "onednn-" : "own", device->dnnl ? library : "");
}

static scd_code cpu_open(const scd_device_options *options, scd_device **out, scd_error *err)
{
    *out = NULL;
    scd_isa isa;
    scd_precision precision;
    scd_code code = choose(options, &isa, &precision, err);
    if (code)
        return code;
    if (options->threads < 0 || options->threads > MAX_THREADS)
        return scd_fail(err, SCD_E_INVALID, "%d threads: 0 (one per core) to %d", options->threads,
                        (int)MAX_THREADS);
    scd_device *device = scd_calloc(1, sizeof *device);
    if (!device)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    int cores = scd_cores();
    device->threads = options->threads      ? options->threads
                      : cores < MAX_THREADS ? cores
                                            : MAX_THREADS;
    device->kernels = kernels_for(isa);
    device->scratch = scd_calloc((size_t)device->threads, sizeof *device->scratch);
    device->library = scd_calloc((size_t)device->threads, sizeof *device->library);
    if (!device->scratch || !device->library)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory");
    if (!code)
        code = scd_pool_new(device->threads, options->give_way, &device->pool, err);
    if (!code && !device->kernels->product)
        code = scd_dnnl_open(device->threads, precision, &device->dnnl, err);
    if (code) {
        cpu_close(device);
        return code;
    }
    describe(device, isa, precision);
    *out = device;
    return SCD_OK;
}

static scd_code cpu_count(int *n, scd_error *err)
{
    (void)err;
    *n = 1;
    return SCD_OK;
}

static const scd_device_info *cpu_info(const scd_device *device)
{
    return &device->info;
}

scd_code scd_scratch_want(scd_scratch *blocks, int n, size_t bytes, scd_error *err)
{
    for (int i = 0; i < n; i++) {
        scd_scratch *s = &blocks[i];
        if (s->bytes >= bytes)
            continue;
        void *memory = scd_malloc_aligned(bytes, 1);
        if (!memory)
            return scd_fail(err, SCD_E_NOMEM, "out of memory: %zu bytes of scratch", bytes);
        free(s->memory);
        *s = (scd_scratch){memory, bytes};
    }
    return SCD_OK;
}

scd_code scd_rope_want(scd_device *device, size_t floats, scd_error *err)
{
    if (floats <= device->rope_floats)
        return SCD_OK;
    float *rope = scd_malloc_aligned(floats, sizeof *rope);
    if (!rope)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu floats of positions", floats);
    free(device->rope);
    device->rope = rope;
    device->rope_floats = floats;
    device->rope_rows = 0;
    return SCD_OK;
}

static scd_code cpu_reserve(scd_device *device, size_t rows, size_t hidden_dim, size_t ffn_dim,
                            size_t d, scd_error *err)
{
    rows = rows > device->max_rows ? rows : device->max_rows;
    size_t head = hidden_dim < SCD_MAX_HEAD_DIM ? hidden_dim : SCD_MAX_HEAD_DIM;
    const size_t wants[] = {
        scd_embed_scratch(d, hidden_dim),           scd_qkv_scratch(hidden_dim),
        scd_block_out_scratch(hidden_dim, ffn_dim), device->kernels->attention_scratch(rows, head),
        scd_attention_weights_scratch(rows, head),
    };
    for (size_t i = 0; i < sizeof wants / sizeof wants[0]; i++) {
        scd_code code = scd_scratch_want(device->scratch, device->threads, wants[i], err);
        if (code)
            return code;
    }
    scd_code code = scd_rope_want(device, rows * head, err);
    if (!code)
        device->max_rows = rows;
    return code;
}

static scd_code cpu_alloc(scd_device *device, size_t bytes, void **out, scd_error *err)
{
    (void)device;
    *out = scd_malloc_aligned(bytes, 1);
    if (!*out)
        return scd_fail(err, SCD_E_NOMEM, "out of memory: %zu bytes", bytes);
    scd_huge_pages(*out, bytes);
    return SCD_OK;
}

static void cpu_free(scd_device *device, void *memory)
{
    for (size_t i = 0; i < device->n_tables; i++)
        if (device->tables[i] == memory) {
            device->tables[i] = device->tables[--device->n_tables];
            return;
        }
    free(memory);
}

static scd_code cpu_copy(scd_device *device, void *dst, const void *src, size_t bytes,
                         scd_error *err)
{
    (void)device;
    (void)err;
    memcpy(dst, src, bytes);
    return SCD_OK;
}

static scd_code cpu_table_load(scd_device *device, const scd_tensor *tensor, void **out,
                               scd_error *err)
{
    *out = NULL;
    const void **tables = scd_realloc(device->tables, device->n_tables + 1, sizeof *device->tables);
    if (!tables)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    device->tables = tables;
    device->tables[device->n_tables++] = tensor->data;
    memcpy(out, &tensor->data, sizeof *out); /* the handle has no const; nobody writes through it */
    return SCD_OK;
}

static scd_code cpu_synchronize(scd_device *device, scd_error *err)
{
    (void)device;
    (void)err;
    return SCD_OK;
}

const scd_backend scd_backend_cpu = {
    .abi = SCD_BACKEND_ABI,
    .size = sizeof(scd_backend),
    .name = "cpu",
    .count = cpu_count,
    .open = cpu_open,
    .close = cpu_close,
    .info = cpu_info,
    .reserve = cpu_reserve,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = cpu_copy,
    .download = cpu_copy,
    .table_load = cpu_table_load,
    .matrix_pack = scd_cpu_matrix_pack,
    .matrix_free = scd_cpu_matrix_free,
    .embed = scd_cpu_embed,
    .qkv = scd_cpu_qkv,
    .attention = scd_cpu_attention,
    .block_out = scd_cpu_block_out,
    .linear = scd_cpu_linear,
    .attention_weights = scd_cpu_attention_weights,
    .gene_pick = scd_cpu_gene_pick,
    .gather_rows = scd_cpu_gather_rows,
    .rms_norm = scd_cpu_rms_norm,
    .synchronize = cpu_synchronize,
    .train = &scd_train_ops_cpu,
};
