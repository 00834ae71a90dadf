/* matrix.c - weights packed for products, and products by tile (see cpu.h).
 *
 * A part's columns (rows of the file's tensor) are cut into panels of PANEL, so that a product's
 * output stays in a core's cache. Packed weights are the only copy, and lie in the slabs of the
 * device.
 */
#include "engine/cpu/cpu.h"

#include "engine/base/mem.h"
#include "engine/cpu/product_dnnl.h"

#include <stdlib.h>
#include <string.h>

enum { PANEL = 512, PANEL_STEP = 16 };
#define BOUNCE_BYTES (SCD_TILE_ROWS * (size_t)PANEL * sizeof(float))

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

size_t scd_tile_padded(const scd_device *device, size_t m)
{
    return device->kernels->product ? m : scd_tile_round(m);
}

static scd_code check_parts(const scd_tensor *parts, size_t n_parts, scd_error *err)
{
    if (n_parts < 1 || n_parts > 3)
        return scd_fail(err, SCD_E_INVALID, "a matrix has 1 to 3 parts, not %zu", n_parts);
    for (size_t i = 0; i < n_parts; i++)
        if (parts[i].rows != parts[0].rows || parts[i].cols != parts[0].cols || !parts[i].rows ||
            !parts[i].cols)
            return scd_fail(err, SCD_E_INVALID, "parts of a matrix differ: %zu x %zu and %zu x %zu",
                            parts[0].rows, parts[0].cols, parts[i].rows, parts[i].cols);
    return SCD_OK;
}

/* Columns of panel i of a part, padded. */
static size_t panel_cols(const scd_matrix *m, size_t i)
{
    return i + 1 < m->n_panels ? m->panel : m->wide - i * m->panel;
}

static bool is_last(const scd_matrix *m, size_t panel)
{
    return panel + 1 == m->n_panels;
}

static scd_code build_products(scd_device *device, scd_matrix *m, scd_error *err)
{
    scd_code code = SCD_OK;
    for (size_t last = 0; last < 2 && !code; last++)
        code = scd_dnnl_build(device->dnnl, panel_cols(m, last ? m->n_panels - 1 : 0), m->cols,
                              m->built[last], err);
    return code;
}

static size_t panel_bytes(const scd_device *device, const scd_matrix *m, size_t i)
{
    size_t bytes = panel_cols(m, i) * m->cols * sizeof(float);
    if (device->dnnl)
        bytes = scd_product_weight_bytes(m->built[is_last(m, i)][0]);
    return round_up(bytes, 64);
}

/* The own kernels' layout: panels of (k, cols). */
static void pack_own(const float *rows, size_t n, size_t k, size_t cols, float *out)
{
    for (size_t first = 0; first < n; first += cols)
        for (size_t i = 0; i < k; i++)
            for (size_t j = 0; j < cols; j++)
                *out++ = rows[(first + j) * k + i];
}

/* Panel i of a part through `rows`, (panel, cols) fp32. */
static scd_code pack_panel(scd_device *device, scd_matrix *m, const scd_tensor *part, size_t i,
                           scd_panel *panel, float *rows, scd_error *err)
{
    size_t first = i * m->panel, n = panel->n, real = part->rows - first;
    real = real < n ? real : n;
    device->kernels->to_f32((const char *)part->data +
                                first * m->cols * scd_dtype_bytes(part->dtype),
                            part->dtype, real * m->cols, rows);
    memset(rows + real * m->cols, 0, (n - real) * m->cols * sizeof *rows);
    if (device->dnnl)
        return scd_product_pack(device->dnnl, m->built[is_last(m, i)][0], rows, panel->weights,
                                &panel->handle, err);
    pack_own(rows, n, m->cols, device->kernels->product_cols, panel->weights);
    return SCD_OK;
}

static scd_code allocate(scd_device *device, scd_matrix *m, scd_error *err)
{
    size_t total = 0;
    for (size_t i = 0; i < m->n_panels; i++)
        total += panel_bytes(device, m, i);
    m->panels = scd_calloc(m->n_parts * m->n_panels, sizeof *m->panels);
    char *at = scd_slab_take(&device->slabs, m->n_parts * total, &m->slab);
    if (!m->panels || !at)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for a matrix of %zu x %zu",
                        m->n_parts * m->part_rows, m->cols);
    for (size_t i = 0; i < m->n_parts * m->n_panels; i++) {
        m->panels[i].weights = at;
        m->panels[i].n = panel_cols(m, i % m->n_panels);
        at += panel_bytes(device, m, i % m->n_panels);
    }
    return SCD_OK;
}

/* Scratch of every thread: a panel's output (see scd_product_part), then what oneDNN asks for. */
static scd_code want_scratch(scd_device *device, const scd_matrix *m, scd_error *err)
{
    scd_code code = scd_scratch_want(device->scratch, device->threads, scd_linear_scratch(m), err);
    if (!code)
        code = scd_scratch_want(device->scratch, device->threads, scd_gene_pick_scratch(m), err);
    if (!code && device->dnnl)
        code = scd_scratch_want(device->library, device->threads,
                                BOUNCE_BYTES + scd_dnnl_scratch(device->dnnl), err);
    return code;
}

/* Promise 1 of the specification rests on this: look, do not believe. */
static scd_code check_exact(scd_device *device, scd_matrix *m, scd_error *err)
{
    size_t floats = SCD_TILE_ROWS * (m->cols + 2 * m->panel) + 16;
    void *space = scd_malloc_aligned(floats, sizeof(float));
    if (!space)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    bool exact = true;
    for (size_t last = 0; last < 2 && exact; last++)
        exact = scd_product_row_exact(device->dnnl, m->built[last],
                                      m->panels[last ? m->n_panels - 1 : 0].handle, space,
                                      (char *)device->library[0].memory + BOUNCE_BYTES);
    free(space);
    return exact ? SCD_OK
                 : scd_fail(err, SCD_E_DEVICE,
                            "oneDNN's products on this processor depend on a row's place in its "
                            "batch (%zu x %zu): set ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 or "
                            "SCDIVA_ISA=avx2",
                            m->part_rows, m->cols);
}

/* op_linear.c adds the bias to a panel in cache: every use is served alike. */
scd_code scd_cpu_matrix_pack(scd_device *device, const scd_tensor *parts, size_t n_parts,
                             unsigned uses, scd_matrix **out, scd_error *err)
{
    (void)uses;
    *out = NULL;
    scd_pool_no_openmp();
    scd_code code = check_parts(parts, n_parts, err);
    if (code)
        return code;
    float *rows = NULL;
    scd_matrix *m = scd_calloc(1, sizeof *m);
    if (!m)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    m->n_parts = n_parts;
    m->part_rows = parts[0].rows;
    m->cols = parts[0].cols;
    m->wide = round_up(m->part_rows, PANEL_STEP);
    m->panel = m->wide < PANEL ? m->wide : PANEL;
    m->n_panels = (m->wide + m->panel - 1) / m->panel;
    if (device->dnnl)
        code = build_products(device, m, err);
    if (!code)
        code = allocate(device, m, err);
    if (!code && !(rows = scd_malloc_aligned(m->panel * m->cols, sizeof *rows)))
        code = scd_fail(err, SCD_E_NOMEM, "out of memory");
    for (size_t i = 0; i < n_parts * m->n_panels && !code; i++)
        code = pack_panel(device, m, &parts[i / m->n_panels], i % m->n_panels, &m->panels[i], rows,
                          err);
    if (!code)
        code = want_scratch(device, m, err);
    if (!code && device->dnnl)
        code = check_exact(device, m, err);
    free(rows);
    if (code) {
        scd_cpu_matrix_free(device, m);
        return code;
    }
    *out = m;
    return SCD_OK;
}

void scd_cpu_matrix_free(scd_device *device, scd_matrix *m)
{
    if (!m)
        return;
    for (size_t i = 0; device->dnnl && m->panels && i < m->n_parts * m->n_panels; i++)
        scd_product_unpack(m->panels[i].handle);
    free(m->panels);
    scd_slab_give(&device->slabs, m->slab);
    free(m);
}

scd_code scd_product_panel(scd_device *device, int thread, const scd_matrix *matrix, size_t part,
                           size_t panel, const void *x, size_t m, float *y)
{
    const scd_panel *p = scd_matrix_panel(matrix, part, panel);
    if (!device->dnnl) {
        device->kernels->product(x, m, matrix->cols, p->weights, p->n, y, p->n);
        return SCD_OK;
    }
    struct scd_product *const *built = matrix->built[is_last(matrix, panel)];
    void *scratch = (char *)device->library[thread].memory + BOUNCE_BYTES;
    size_t x_row = matrix->cols * device->kernels->act_bytes, rows = scd_tile_round(m);
    for (size_t i = 0, r = 0; r < rows; r += scd_product_sizes[i]) {
        while (scd_product_sizes[i] > rows - r)
            i++;
        scd_code code = scd_product_run(device->dnnl, built[i], thread, p->handle,
                                        (const char *)x + r * x_row, y + r * p->n, scratch);
        if (code)
            return code;
    }
    return SCD_OK;
}

/* oneDNN's fast products write dense rows only, so panels of a wider part are copied together. */
static scd_code part_by_panels(scd_device *device, int thread, const scd_matrix *matrix,
                               size_t part, const void *x, size_t m, float *y)
{
    for (size_t i = 0; i < matrix->n_panels; i++) {
        float *bounce = device->library[thread].memory;
        size_t n = scd_matrix_panel(matrix, part, i)->n;
        scd_code code = scd_product_panel(device, thread, matrix, part, i, x, m, bounce);
        if (code)
            return code;
        for (size_t r = 0; r < m; r++)
            memcpy(y + r * matrix->wide + i * matrix->panel, bounce + r * n, n * sizeof *y);
    }
    return SCD_OK;
}

scd_code scd_product_part(scd_device *device, int thread, const scd_matrix *matrix, size_t part,
                          const void *x, size_t m, float *y)
{
    if (matrix->n_panels == 1)
        return scd_product_panel(device, thread, matrix, part, 0, x, m, y);
    if (device->dnnl)
        return part_by_panels(device, thread, matrix, part, x, m, y);
    for (size_t i = 0; i < matrix->n_panels; i++) {
        const scd_panel *p = scd_matrix_panel(matrix, part, i);
        device->kernels->product(x, m, matrix->cols, p->weights, p->n, y + i * matrix->panel,
                                 matrix->wide);
    }
    return SCD_OK;
}
