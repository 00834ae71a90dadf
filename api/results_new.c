/* results_new.c - a new .h5ad for cells that came in another format: names and counts.
 *
 * X holds the matrix that was used, in CSR; obs the names of the cells, var those of the genes and
 * whatever columns the input had beside them (gene_ids, feature_types, genome). */
#include "api/results_impl.h"

#include "engine/base/mem.h"

#include <string.h>

enum { NAMES_BYTES = 1 << 29 };

static scd_code put_column(scd_results *r, const char *to, const char *name, const char *frame,
                           const char *column, scd_error *err)
{
    char path[SCD_H5_PATH_BYTES];
    const char *const *text;
    size_t n;
    scd_arena arena;
    if (!scd_h5_join(path, to, name))
        return scd_h5_fail(&r->file, to, SCD_E_INVALID, err, "a name is too long");
    scd_arena_init(&arena, NAMES_BYTES);
    scd_code code = scd_cells_column_text(r->spec.cells, frame, column, &arena, &text, &n, err);
    const char **whole = code ? NULL : scd_arena_alloc(&arena, n + 1, sizeof *whole);
    if (!code && !whole)
        code = scd_h5_no_memory(&r->file, path, err);
    for (size_t i = 0; i < n && !code; i++)
        whole[i] = text[i] ? text[i] : ""; /* R reads no missing text */
    if (!code)
        code = scd_h5_put_texts(&r->file, path, whole, n, scd_h5_texts, err);
    scd_arena_release(&arena);
    return code;
}

static scd_code put_frame(scd_results *r, const char *to, const char *frame, scd_error *err)
{
    const char *columns[SCD_H5_N_FRAMES];
    size_t n = scd_cells_n_columns(r->spec.cells, frame);
    n = n < SCD_H5_N_FRAMES ? n : SCD_H5_N_FRAMES;
    scd_code code = scd_h5_put_group(&r->file, to, scd_h5_dataframe, err);
    if (!code)
        code = scd_h5_put_attr_text(&r->file, to, "_index", "_index", err);
    if (!code)
        code = put_column(r, to, "_index", frame, NULL, err);
    for (size_t i = 0; i < n && !code; i++) {
        columns[i] = scd_cells_column_name(r->spec.cells, frame, i);
        code = put_column(r, to, columns[i], frame, columns[i], err);
    }
    return code ? code : scd_h5_put_attr_texts(&r->file, to, "column-order", columns, n, err);
}

scd_code scd_results_new_begin(scd_results *r, scd_error *err)
{
    static const char *const groups[] = {"layers", "obsm", "obsp", "uns", "varm", "varp"};
    const scd_file_plan *p = r->spec.plan;
    scd_code code = scd_h5_put_attr_text(&r->file, "/", "encoding-type", "anndata", err);
    if (!code)
        code = scd_h5_put_attr_text(&r->file, "/", "encoding-version", "0.1.0", err);
    for (size_t i = 0; i < sizeof groups / sizeof groups[0] && !code; i++)
        code = scd_h5_put_group(&r->file, groups[i], scd_h5_dict, err);
    if (!code)
        code = put_frame(r, "obs", p->choice.obs_frame, err);
    if (!code)
        code = put_frame(r, "var", p->choice.frame, err);
    if (!code)
        code = scd_h5_begin_csr(&r->file, "X", p->n_cells, p->n_genes, p->n_stored,
                                p->choice.kind != SCD_INPUT_COUNTS, &r->counts, err);
    r->counts_open = !code;
    return code;
}
