/* results_layer.c - layers["scdiva_denoised"]: values that were found among those that were there;
 * see results.h. */
#include "api/results.h"

#include <math.h>
#include <string.h>

static double total_of(const scd_file_plan *plan, const scd_cells_rows *rows, size_t row)
{
    double total = 0;
    for (uint64_t i = rows->indptr[row]; i < rows->indptr[row + 1]; i++)
        total += plan->left_out[rows->indices[i]] ? 0 : rows->data[i];
    return total;
}

/* One cell, all of its columns: (n_genes). */
static void fill_row(const scd_results_spec *s, const float *values, const scd_cells_rows *rows,
                     size_t row, float *line)
{
    const scd_file_plan *plan = s->plan;
    double total = total_of(plan, rows, row);
    memset(line, 0, plan->n_genes * sizeof *line);
    for (uint64_t i = rows->indptr[row]; i < rows->indptr[row + 1]; i++) {
        uint32_t gene = rows->indices[i];
        if (!plan->left_out[gene])
            line[gene] = plan->choice.kind == SCD_INPUT_COUNTS
                             ? (float)log1p(1e4 * rows->data[i] / total)
                             : (float)rows->data[i];
    }
    for (size_t gene = 0; gene < plan->n_genes; gene++)
        if (s->values_of[gene] >= 0)
            line[gene] = values[s->values_of[gene]];
}

scd_code scd_results_layer(const scd_results_spec *s, const void *values, size_t stride,
                           const scd_cells_rows *input, scd_arena *arena, scd_cells_rows *out,
                           scd_error *err)
{
    size_t n_genes = s->plan->n_genes, n = 0;
    float *line = scd_arena_alloc(arena, n_genes + 1, sizeof *line);
    uint64_t *indptr = scd_arena_zalloc(arena, input->n + 1, sizeof *indptr);
    size_t most = n_genes ? SIZE_MAX / n_genes : 0; /* rows that can be counted */
    bool fits = input->n <= most;
    uint32_t *indices =
        fits ? scd_arena_alloc(arena, input->n * n_genes + 1, sizeof *indices) : NULL;
    double *data = fits ? scd_arena_alloc(arena, input->n * n_genes + 1, sizeof *data) : NULL;
    if (!line || !indptr || !indices || !data)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for a layer of %zu genes", n_genes);
    for (size_t row = 0; row < input->n; row++) {
        const char *at = (const char *)values + row * stride;
        fill_row(s, (const float *)(const void *)at, input, row, line);
        for (size_t gene = 0; gene < n_genes; gene++)
            if (line[gene] != 0) {
                indices[n] = (uint32_t)gene;
                data[n++] = (double)line[gene];
            }
        indptr[row + 1] = n;
    }
    *out = (scd_cells_rows){.n = input->n, .indptr = indptr, .indices = indices, .data = data};
    return SCD_OK;
}
