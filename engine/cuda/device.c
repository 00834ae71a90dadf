/* device.c - the CUDA device: opening, memory, copies, and the table of operations.
 *
 * Copies go through pinned memory in two halves: while the device takes one, the host fills the
 * other. A half is filled again only when the mark set behind its last copy is past. A slot has
 * pinned memory of its own, since its copies go beside the work; what does not fit goes through the
 * halves, in order with it. */
#include "engine/base/mem.h"
#include "engine/cuda/train.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HALF_BYTES = 4 << 20, FAULT_BYTES = 64, PINNED_PIECES = 2 + 2 * SCD_SLOTS };
/* Marks 0 and 1 are of the halves; then a slot's batch is computed, its result copied. */
enum { DONE_MARK = 2, OUT_MARK = SCD_GPU_WORK_MARKS };
_Static_assert(DONE_MARK + SCD_SLOTS == SCD_GPU_WORK_MARKS, "marks in the work");
_Static_assert(OUT_MARK + SCD_SLOTS == SCD_GPU_MARKS, "marks beside it");

/* Tables are too short, or nobody's any more; so are graphs that read them. */
static void drop_ropes(scd_device *device)
{
    for (size_t i = 0; i < device->n_ropes; i++)
        scd_gpu_free(device->gpu, device->ropes[i].table);
    device->n_ropes = 0;
    device->epoch++;
}

static void cuda_close(scd_device *device)
{
    if (!device)
        return;
    if (device->gpu && scd_gpu_enter(device->gpu, NULL) == SCD_OK) {
        scd_gpu_synchronize(device->gpu, NULL);
        drop_ropes(device);
        scd_gpu_free(device->gpu, device->scratch);
        scd_gpu_free_host(device->gpu, device->pinned);
    }
    for (size_t i = 0; i < device->n_plans; i++)
        scd_gemm_plan_free(device->plans[i].plan);
    free(device->plans);
    free(device->ropes);
    scd_gene_order_release(&device->order);
    scd_gemm_close(device->gemm);
    scd_gpu_close(device->gpu);
    free(device);
}

/* SCDIVA_CUDA_KERNELS=next: also kernels that no GPU has shown right and faster yet (README.md). */
static scd_code kernels_wanted(bool *next, scd_error *err)
{
    const char *want = getenv("SCDIVA_CUDA_KERNELS");
    *next = want && !strcmp(want, "next");
    if (want && *want && !*next && strcmp(want, "measured") != 0)
        return scd_fail(err, SCD_E_INVALID, "SCDIVA_CUDA_KERNELS is \"%s\": measured or next",
                        want);
    return SCD_OK;
}

/* cuBLASLt chooses a shape's algorithm by the chip: cards of one architecture that differ in it may
 * differ in bits, so the identity names it. */
static void describe(scd_device *device, const scd_gpu_facts *facts, int index)
{
    scd_device_info *info = &device->info;
    device->processors = facts->processors;
    device->groups = SCD_CUDA_GROUPS && facts->major == 9;
    device->next = device->next && device->groups && device->bf16;
    info->precision = device->bf16 ? SCD_PRECISION_BF16 : SCD_PRECISION_FP32;
    info->act_bytes = device->act;
    snprintf(info->isa, sizeof info->isa, "sm_%d%d", facts->major, facts->minor);
    snprintf(info->name, sizeof info->name, "%s, GPU %d, %zu MiB", facts->name, index,
             facts->memory_bytes >> 20);
    snprintf(info->identity, sizeof info->identity, "cuda/%s/%s/k%d%s/%s/%s, %d SMs", info->isa,
             device->bf16 ? "bf16" : "fp32", SCD_CUDA_KERNEL_VERSION, device->next ? "next" : "",
             scd_gemm_version(device->gemm), facts->name, facts->processors);
}

static void share_out(scd_device *device, char *pinned)
{
    device->pinned = pinned;
    for (int i = 0; i < SCD_SLOTS; i++) {
        device->slots[i].in = pinned + (size_t)(2 + 2 * i) * HALF_BYTES;
        device->slots[i].out = device->slots[i].in + HALF_BYTES;
    }
    uint32_t *faults = (uint32_t *)(void *)(pinned + PINNED_PIECES * (size_t)HALF_BYTES);
    memset(faults, 0, FAULT_BYTES);
    device->fault = device->faults = faults;
}

static scd_code cuda_open(const scd_device_options *options, scd_device **out, scd_error *err)
{
    *out = NULL;
    scd_gpu_facts facts;
    scd_device *device = scd_calloc(1, sizeof *device);
    if (!device)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    /* every GPU that is opened multiplies bf16 in hardware */
    device->bf16 = options->precision != SCD_PRECISION_FP32;
    device->act = device->bf16 ? 2 : 4;
    void *pinned = NULL;
    scd_code code = kernels_wanted(&device->next, err);
    if (!code)
        code = scd_gpu_open(options->index, &device->gpu, &facts, err);
    if (!code)
        code = scd_gpu_alloc_host(device->gpu, PINNED_PIECES * (size_t)HALF_BYTES + FAULT_BYTES,
                                  &pinned, err);
    if (!code) {
        share_out(device, pinned);
        code = scd_gemm_open(device->gpu, &device->gemm, err);
    }
    if (code) {
        cuda_close(device);
        return code;
    }
    describe(device, &facts, options->index);
    *out = device;
    return SCD_OK;
}

static scd_code cuda_count(int *n, scd_error *err)
{
    return scd_gpu_count(n, err);
}

static const scd_device_info *cuda_info(const scd_device *device)
{
    return &device->info;
}

/* ---- memory -------------------------------------------------------------------------------- */

scd_code scd_cuda_scratch_want(scd_device *device, size_t bytes, scd_error *err)
{
    if (bytes <= device->scratch_bytes)
        return SCD_OK;
    void *memory;
    scd_code code = scd_gpu_alloc(device->gpu, bytes, &memory, err);
    if (code)
        return code;
    scd_gpu_free(device->gpu, device->scratch);
    device->scratch = memory;
    device->scratch_bytes = bytes;
    device->epoch++;
    return SCD_OK;
}

static scd_code cuda_reserve(scd_device *device, size_t rows, size_t hidden_dim, size_t ffn_dim,
                             size_t d, scd_error *err)
{
    rows = rows > device->max_rows ? rows : device->max_rows;
    size_t most = 0;
    const size_t wants[] = {
        scd_cuda_embed_scratch(rows, d, hidden_dim, device->act),
        scd_cuda_qkv_scratch(rows, hidden_dim, device->act),
        scd_cuda_block_out_scratch(rows, hidden_dim, ffn_dim, device->act),
    };
    for (size_t i = 0; i < sizeof wants / sizeof wants[0]; i++)
        most = wants[i] > most ? wants[i] : most;
    scd_code code = scd_gpu_enter(device->gpu, err);
    if (!code)
        code = scd_cuda_scratch_want(device, most, err);
    if (code)
        return code;
    if (rows > device->max_rows)
        drop_ropes(device);
    device->max_rows = rows;
    return SCD_OK;
}

scd_code scd_cuda_rope_add(scd_device *device, size_t dim, double theta, float **table,
                           scd_error *err)
{
    scd_rope *more = scd_realloc(device->ropes, device->n_ropes + 1, sizeof *more);
    if (!more)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    device->ropes = more;
    void *memory;
    scd_code code =
        scd_gpu_alloc(device->gpu, device->max_rows * dim * sizeof(float), &memory, err);
    if (code)
        return code;
    *table = memory;
    device->ropes[device->n_ropes++] = (scd_rope){dim, theta, *table};
    return SCD_OK;
}

scd_code scd_cuda_check_rows(const scd_device *device, size_t rows, scd_error *err)
{
    if (rows > device->max_rows)
        return scd_fail(err, SCD_E_INVALID, "%zu rows: reserved are %zu", rows, device->max_rows);
    return SCD_OK;
}

scd_code scd_cuda_check_heads(size_t hidden_dim, size_t n_heads, scd_error *err)
{
    size_t dim = hidden_dim / n_heads;
    if (dim > SCD_CUDA_MAX_HEAD || dim < 2 || dim % 2 || dim * n_heads != hidden_dim)
        return scd_fail(err, SCD_E_INVALID, "%zu heads in %zu: a head is even and at most %d wide",
                        n_heads, hidden_dim, (int)SCD_CUDA_MAX_HEAD);
    return SCD_OK;
}

static scd_code cuda_alloc(scd_device *device, size_t bytes, void **out, scd_error *err)
{
    scd_code code = scd_gpu_enter(device->gpu, err);
    return code ? code : scd_gpu_alloc(device->gpu, bytes, out, err);
}

static void cuda_free(scd_device *device, void *memory)
{
    if (scd_gpu_enter(device->gpu, NULL) == SCD_OK)
        scd_gpu_free(device->gpu, memory);
}

/* ---- copies -------------------------------------------------------------------------------- */

/* What the kernels that are done found wrong; it is told once. */
static scd_code take_fault(volatile uint32_t *noted, scd_error *err)
{
    uint32_t fault = *noted;
    *noted = 0;
    if (fault == SCD_FAULT_ID)
        return scd_fail(err, SCD_E_INVALID, "a gene id of the batch is outside the vocabulary");
    if (fault == SCD_FAULT_SET)
        return scd_fail(err, SCD_E_INVALID, "a row asks for a set of genes that is not there");
    if (fault)
        return scd_fail(err, SCD_E_INVALID, "a position of the batch is beyond what was reserved");
    return SCD_OK;
}

static scd_code cuda_synchronize(scd_device *device, scd_error *err)
{
    scd_code code = scd_gpu_enter(device->gpu, err);
    if (!code)
        code = scd_gpu_synchronize(device->gpu, err);
    return code ? code : take_fault(device->fault, err);
}

/* The half to use next, free to be filled. */
static scd_code next_half(scd_device *device, char **out, scd_error *err)
{
    device->half ^= 1;
    *out = device->pinned + (size_t)device->half * HALF_BYTES;
    return scd_gpu_wait_mark(device->gpu, device->half, err);
}

scd_code scd_cuda_upload(scd_device *device, void *dst, const void *src, size_t bytes,
                         scd_error *err)
{
    scd_code code = scd_gpu_enter(device->gpu, err);
    for (size_t at = 0, n; at < bytes && !code; at += n) {
        char *half;
        n = bytes - at < HALF_BYTES ? bytes - at : HALF_BYTES;
        code = next_half(device, &half, err);
        if (code)
            break;
        memcpy(half, (const char *)src + at, n);
        code = scd_gpu_copy_in(device->gpu, (char *)dst + at, half, n, err);
        if (!code)
            code = scd_gpu_mark(device->gpu, device->half, err);
    }
    return code;
}

scd_code scd_cuda_download(scd_device *device, void *dst, const void *src, size_t bytes,
                           scd_error *err)
{
    scd_code code = scd_gpu_enter(device->gpu, err);
    for (size_t at = 0, n; at < bytes && !code; at += n) {
        char *half;
        n = bytes - at < HALF_BYTES ? bytes - at : HALF_BYTES;
        code = next_half(device, &half, err);
        if (!code)
            code = scd_gpu_copy_out(device->gpu, half, (const char *)src + at, n, err);
        if (!code)
            code = scd_gpu_synchronize(device->gpu, err);
        if (!code)
            memcpy((char *)dst + at, half, n);
    }
    return code ? code : take_fault(device->fault, err);
}

/* ---- slots --------------------------------------------------------------------------------- */

static scd_code cuda_slot_begin(scd_device *device, int slot, void *dst, const void *src,
                                size_t bytes, scd_error *err)
{
    scd_code code = scd_gpu_enter(device->gpu, err);
    if (!code && bytes > HALF_BYTES) {
        code = scd_cuda_upload(device, dst, src, bytes, err);
    } else if (!code) {
        memcpy(device->slots[slot].in, src, bytes); /* its last copy is past: it was collected */
        code = scd_gpu_copy_in_beside(device->gpu, dst, device->slots[slot].in, bytes, err);
        if (!code)
            code = scd_gpu_work_after_copies(device->gpu, err);
    }
    device->fault = code ? device->faults : device->faults + 1 + slot;
    *device->fault = 0;
    return code;
}

/* Its copy is put when it is asked for: before that it would hold up those of the next batch. */
static scd_code cuda_slot_end(scd_device *device, int slot, const void *src, size_t bytes,
                              scd_error *err)
{
    scd_cuda_slot *s = &device->slots[slot];
    device->fault = device->faults;
    s->result = src;
    s->bytes = bytes;
    scd_code code = scd_gpu_enter(device->gpu, err);
    return code ? code : scd_gpu_mark(device->gpu, DONE_MARK + slot, err);
}

static scd_code cuda_slot_collect(scd_device *device, int slot, void *dst, scd_error *err)
{
    const scd_cuda_slot *s = &device->slots[slot];
    scd_code code = scd_gpu_enter(device->gpu, err);
    if (!code && s->bytes > HALF_BYTES) {
        code = scd_cuda_download(device, dst, s->result, s->bytes, err);
        return code ? code : take_fault(device->faults + 1 + slot, err);
    }
    if (!code)
        code = scd_gpu_copies_after(device->gpu, DONE_MARK + slot, err);
    if (!code)
        code = scd_gpu_copy_out_beside(device->gpu, s->out, s->result, s->bytes, err);
    if (!code)
        code = scd_gpu_mark(device->gpu, OUT_MARK + slot, err);
    if (!code)
        code = scd_gpu_wait_mark(device->gpu, OUT_MARK + slot, err);
    if (!code)
        memcpy(dst, s->out, s->bytes);
    return code ? code : take_fault(device->faults + 1 + slot, err);
}

/* ---- graphs -------------------------------------------------------------------------------- */

static scd_code cuda_record(scd_device *device, scd_error *err)
{
    scd_code code = scd_gpu_enter(device->gpu, err);
    return code ? code : scd_gpu_record(device->gpu, err);
}

static scd_code cuda_record_end(scd_device *device, scd_graph **out, scd_error *err)
{
    void *work = NULL;
    *out = NULL;
    scd_code code = scd_gpu_record_end(device->gpu, &work, err);
    scd_graph *graph = code ? NULL : scd_calloc(1, sizeof *graph);
    if (!code && !graph)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory");
    if (code) {
        scd_gpu_graph_free(device->gpu, work);
        return code;
    }
    *graph = (scd_graph){work, device->epoch};
    *out = graph;
    return SCD_OK;
}

static scd_code cuda_replay(scd_device *device, const scd_graph *graph, scd_error *err)
{
    if (graph->epoch != device->epoch)
        return scd_fail(err, SCD_E_NOT_FOUND, "the device's memory has moved");
    scd_code code = scd_gpu_enter(device->gpu, err);
    return code ? code : scd_gpu_replay(device->gpu, graph->work, err);
}

static void cuda_graph_free(scd_device *device, scd_graph *graph)
{
    if (graph && scd_gpu_enter(device->gpu, NULL) == SCD_OK)
        scd_gpu_graph_free(device->gpu, graph->work);
    free(graph);
}

static scd_code cuda_table_load(scd_device *device, const scd_tensor *tensor, void **out,
                                scd_error *err)
{
    size_t n, bytes;
    *out = NULL;
    if (!scd_size_mul(tensor->rows, tensor->cols, &n) ||
        !scd_size_mul(n, scd_dtype_bytes(tensor->dtype), &bytes))
        return scd_fail(err, SCD_E_INVALID, "a table of %zu x %zu", tensor->rows, tensor->cols);
    scd_code code = cuda_alloc(device, bytes, out, err);
    if (!code)
        code = scd_cuda_upload(device, *out, tensor->data, bytes, err);
    if (code) {
        cuda_free(device, *out);
        *out = NULL;
    }
    return code;
}

extern const scd_backend scd_backend_cuda;
const scd_backend scd_backend_cuda = {
    .abi = SCD_BACKEND_ABI,
    .size = sizeof(scd_backend),
    .name = "cuda",
    .count = cuda_count,
    .open = cuda_open,
    .close = cuda_close,
    .info = cuda_info,
    .reserve = cuda_reserve,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .upload = scd_cuda_upload,
    .download = scd_cuda_download,
    .table_load = cuda_table_load,
    .matrix_pack = scd_cuda_matrix_pack,
    .matrix_free = scd_cuda_matrix_free,
    .embed = scd_cuda_embed,
    .qkv = scd_cuda_qkv,
    .attention = scd_cuda_attention,
    .block_out = scd_cuda_block_out,
    .linear = scd_cuda_linear,
    .attention_weights = scd_cuda_attention_weights,
    .gene_pick = scd_cuda_gene_pick,
    .gather_rows = scd_cuda_gather_rows,
    .rms_norm = scd_cuda_rms_norm,
    .synchronize = cuda_synchronize,
    .record = cuda_record,
    .record_end = cuda_record_end,
    .replay = cuda_replay,
    .graph_free = cuda_graph_free,
    .slot_begin = cuda_slot_begin,
    .slot_end = cuda_slot_end,
    .slot_collect = cuda_slot_collect,
    .train = &scd_train_ops_cuda,
};
