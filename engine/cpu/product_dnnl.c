/* product_dnnl.c - see product_dnnl.h.
 *
 * oneDNN 2.6 without concurrent execution keeps scratch per building thread, so scratch is ours
 * ("user" mode); its memory objects carry a pointer, so that each thread has its own for x, y and
 * scratch, while those of weights are shared and never changed. */
#include "engine/cpu/product_dnnl.h"

#include "engine/base/mem.h"
#include "engine/base/rng.h"

#include <dnnl.h>
#include <stdlib.h>
#include <string.h>

const size_t scd_product_sizes[SCD_N_SIZES] = {64, 32, 16, 8};

typedef struct thread_args {
    dnnl_memory_t x, y, scratch;
} thread_args;

struct scd_product {
    struct scd_product *next;
    size_t m, n, k;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t primitive;
    dnnl_memory_desc_t weights; /* the same for all m */
    size_t scratch_bytes;
    bool row_exact;    /* has been looked at */
    thread_args *args; /* (threads) */
};

struct scd_dnnl {
    dnnl_engine_t engine;
    dnnl_stream_t *streams; /* (threads) */
    int threads;
    dnnl_data_type_t type;
    scd_product *products; /* list */
};

static scd_code fail(dnnl_status_t status, const char *what, scd_error *err)
{
    return scd_fail(err, status == dnnl_out_of_memory ? SCD_E_NOMEM : SCD_E_DEVICE,
                    "oneDNN cannot %s (status %d)", what, (int)status);
}

scd_code scd_dnnl_open(int threads, scd_precision precision, scd_dnnl **out, scd_error *err)
{
    *out = NULL;
    scd_dnnl *dnnl = scd_calloc(1, sizeof *dnnl);
    if (!dnnl)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    dnnl->threads = threads;
    dnnl->type = precision == SCD_PRECISION_BF16 ? dnnl_bf16 : dnnl_f32;
    dnnl->streams = scd_calloc((size_t)threads, sizeof(dnnl_stream_t));
    scd_code code = dnnl->streams ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "out of memory");
    dnnl_status_t status = dnnl_success;
    if (!code && (status = dnnl_engine_create(&dnnl->engine, dnnl_cpu, 0)))
        code = fail(status, "open the processor", err);
    for (int i = 0; i < threads && !code; i++)
        if ((status = dnnl_stream_create(&dnnl->streams[i], dnnl->engine, dnnl_stream_in_order)))
            code = fail(status, "make a stream", err);
    if (code) {
        scd_dnnl_close(dnnl);
        return code;
    }
    *out = dnnl;
    return SCD_OK;
}

static void product_free(scd_product *p, int threads)
{
    if (!p)
        return;
    for (int i = 0; p->args && i < threads; i++) {
        dnnl_memory_destroy(p->args[i].x);
        dnnl_memory_destroy(p->args[i].y);
        dnnl_memory_destroy(p->args[i].scratch);
    }
    free(p->args);
    dnnl_primitive_destroy(p->primitive);
    dnnl_primitive_desc_destroy(p->desc);
    free(p);
}

void scd_dnnl_close(scd_dnnl *dnnl)
{
    if (!dnnl)
        return;
    for (scd_product *p = dnnl->products, *next; p; p = next) {
        next = p->next;
        product_free(p, dnnl->threads);
    }
    for (int i = 0; dnnl->streams && i < dnnl->threads; i++)
        dnnl_stream_destroy(dnnl->streams[i]);
    free(dnnl->streams);
    dnnl_engine_destroy(dnnl->engine);
    free(dnnl);
}

/* The descriptions of x (m, k), W (k, n) in whatever layout or in that of `like`, y (m, n). */
static dnnl_status_t describe(scd_dnnl *dnnl, scd_product *p, const scd_product *like,
                              dnnl_memory_desc_t *x, dnnl_memory_desc_t *y)
{
    dnnl_dims_t xd = {(dnnl_dim_t)p->m, (dnnl_dim_t)p->k},
                yd = {(dnnl_dim_t)p->m, (dnnl_dim_t)p->n};
    dnnl_dims_t wd = {(dnnl_dim_t)p->k, (dnnl_dim_t)p->n};
    dnnl_memory_desc_t w;
    dnnl_matmul_desc_t op;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_status_t s = dnnl_memory_desc_init_by_tag(x, 2, xd, dnnl->type, dnnl_ab);
    if (!s)
        s = dnnl_memory_desc_init_by_tag(y, 2, yd, dnnl_f32, dnnl_ab);
    if (!s)
        s = dnnl_memory_desc_init_by_tag(&w, 2, wd, dnnl->type, dnnl_format_tag_any);
    if (!s)
        s = dnnl_matmul_desc_init(&op, x, like ? &like->weights : &w, NULL, y);
    if (!s)
        s = dnnl_primitive_attr_create(&attr);
    if (!s)
        s = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (!s)
        s = dnnl_primitive_desc_create(&p->desc, &op, attr, dnnl->engine, NULL);
    dnnl_primitive_attr_destroy(attr);
    return s;
}

static scd_code product_new(scd_dnnl *dnnl, scd_product key, const scd_product *like,
                            scd_product **out, scd_error *err)
{
    scd_product *p = scd_malloc(1, sizeof *p);
    if (!p)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    *p = key;
    dnnl_memory_desc_t x, y;
    const dnnl_memory_desc_t *scratch = NULL;
    dnnl_status_t s = describe(dnnl, p, like, &x, &y);
    if (!s) {
        p->weights = *dnnl_primitive_desc_query_md(p->desc, dnnl_query_weights_md, 0);
        scratch = dnnl_primitive_desc_query_md(p->desc, dnnl_query_scratchpad_md, 0);
        p->scratch_bytes = dnnl_memory_desc_get_size(scratch);
        s = dnnl_primitive_create(&p->primitive, p->desc);
    }
    if (!s && !(p->args = scd_calloc((size_t)dnnl->threads, sizeof *p->args)))
        s = dnnl_out_of_memory;
    for (int i = 0; i < dnnl->threads && !s; i++) {
        thread_args *a = &p->args[i];
        s = dnnl_memory_create(&a->x, &x, dnnl->engine, DNNL_MEMORY_NONE);
        if (!s)
            s = dnnl_memory_create(&a->y, &y, dnnl->engine, DNNL_MEMORY_NONE);
        if (!s)
            s = dnnl_memory_create(&a->scratch, scratch, dnnl->engine, DNNL_MEMORY_NONE);
    }
    if (s) {
        product_free(p, dnnl->threads);
        return fail(s, "build a product", err);
    }
    *out = p;
    return SCD_OK;
}

scd_code scd_dnnl_build(scd_dnnl *dnnl, size_t n, size_t k, scd_product *out[SCD_N_SIZES],
                        scd_error *err)
{
    for (size_t i = 0; i < SCD_N_SIZES; i++) {
        scd_product key = {.m = scd_product_sizes[i], .n = n, .k = k}, *p = dnnl->products;
        const scd_product *like = NULL; /* all that share weights share their layout */
        for (; p && (p->m != key.m || p->n != n || p->k != k); p = p->next)
            like = p->n == n && p->k == k ? p : like;
        if (!p) {
            scd_code code = product_new(dnnl, key, like, &p, err);
            if (code)
                return code;
            p->next = dnnl->products;
            dnnl->products = p;
        }
        out[i] = p;
    }
    return SCD_OK;
}

size_t scd_product_weight_bytes(const scd_product *product)
{
    return dnnl_memory_desc_get_size(&product->weights);
}

size_t scd_dnnl_scratch(const scd_dnnl *dnnl)
{
    size_t most = 0;
    for (const scd_product *p = dnnl->products; p; p = p->next)
        most = p->scratch_bytes > most ? p->scratch_bytes : most;
    return most;
}

scd_code scd_product_pack(scd_dnnl *dnnl, const scd_product *product, const float *rows,
                          void *weights, void **handle, scd_error *err)
{
    *handle = NULL;
    dnnl_memory_desc_t plain;
    dnnl_memory_t from = NULL, to = NULL;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_t reorder = NULL;
    dnnl_dims_t dims = {(dnnl_dim_t)product->k, (dnnl_dim_t)product->n};
    dnnl_status_t s = dnnl_memory_desc_init_by_tag(&plain, 2, dims, dnnl_f32, dnnl_ba);
    union {
        const float *in;
        void *out;
    } source = {rows}; /* oneDNN's memory objects know no const; a reorder does not write here */
    if (!s)
        s = dnnl_memory_create(&from, &plain, dnnl->engine, source.out);
    if (!s)
        s = dnnl_memory_create(&to, &product->weights, dnnl->engine, weights);
    if (!s)
        s = dnnl_reorder_primitive_desc_create(&desc, &plain, dnnl->engine, &product->weights,
                                               dnnl->engine, NULL);
    if (!s)
        s = dnnl_primitive_create(&reorder, desc);
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    if (!s)
        s = dnnl_primitive_execute(reorder, dnnl->streams[0], 2, args);
    if (!s)
        s = dnnl_stream_wait(dnnl->streams[0]);
    dnnl_primitive_destroy(reorder);
    dnnl_primitive_desc_destroy(desc);
    dnnl_memory_destroy(from);
    if (s) {
        dnnl_memory_destroy(to);
        return fail(s, "pack a matrix", err);
    }
    *handle = to;
    return SCD_OK;
}

void scd_product_unpack(void *handle)
{
    dnnl_memory_destroy(handle);
}

scd_code scd_product_run(scd_dnnl *dnnl, const scd_product *product, int thread, const void *handle,
                         const void *x, float *y, void *scratch)
{
    thread_args *a = &product->args[thread];
    union {
        const void *in;
        void *out;
    } source = {x}, weights = {handle};
    dnnl_status_t s = dnnl_memory_set_data_handle(a->x, source.out);
    if (!s)
        s = dnnl_memory_set_data_handle(a->y, y);
    if (!s)
        s = dnnl_memory_set_data_handle(a->scratch, scratch);
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, a->x},
                              {DNNL_ARG_WEIGHTS, weights.out},
                              {DNNL_ARG_DST, a->y},
                              {DNNL_ARG_SCRATCHPAD, a->scratch}};
    if (!s)
        s = dnnl_primitive_execute(product->primitive, dnnl->streams[thread], 4, args);
    return s ? SCD_E_DEVICE : SCD_OK;
}

bool scd_product_row_exact(scd_dnnl *dnnl, scd_product *const built[SCD_N_SIZES],
                           const void *handle, void *space, void *scratch)
{
    scd_product *big = built[0];
    if (big->row_exact)
        return true;
    size_t act_bytes = dnnl->type == dnnl_bf16 ? 2 : 4, row_bytes = big->k * act_bytes;
    char *x = space;
    float *y = (float *)(void *)(x + ((big->m * row_bytes + 63) & ~(size_t)63));
    float *part = y + big->m * big->n;
    /* Rows 8.. repeat rows 0..7 in turn: one input at every place of the tile. */
    for (size_t i = 0; i < 8 * big->k; i++) {
        float v = scd_rng_normal(1, 0, i);
        uint32_t bits;
        memcpy(&bits, &v, 4);
        memcpy(x + i * act_bytes, (char *)&bits + 4 - act_bytes, act_bytes);
    }
    for (size_t r = 8; r < big->m; r++)
        memcpy(x + r * row_bytes, x + (r * 5 % 8) * row_bytes, row_bytes);
    if (scd_product_run(dnnl, big, 0, handle, x, y, scratch))
        return false;
    bool same = true;
    for (size_t r = 8; r < big->m && same; r++)
        same = !memcmp(y + r * big->n, y + (r * 5 % 8) * big->n, big->n * sizeof *y);
    for (size_t i = 1; i < SCD_N_SIZES && same; i++) {
        if (scd_product_run(dnnl, built[i], 0, handle, x, part, scratch))
            return false;
        for (size_t r = 0; r < built[i]->m && same; r++)
            same = !memcmp(y + r * big->n, part + r * big->n, big->n * sizeof *y);
    }
    big->row_exact = same;
    return same;
}
