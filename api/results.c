/* results.c - see results.h: the kinds of files, tables and .npy; .h5ad is results_h5ad.c's. */
#include "api/results_impl.h"

#include "api/float_text.h"
#include "api/npy.h"
#include "engine/base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { TEXT_BYTES = 1 << 28, NAMES_BYTES = 1 << 29 };

const char *const scd_obs_keys[3] = {"scdiva_label", "scdiva_probability", "scdiva_unknown"};

/* ---- which kind ---- */

static scd_results_kind kind_of(const char *path)
{
    static const struct {
        const char *suffix;
        scd_results_kind kind;
    } all[] = {{".h5ad", SCD_RESULTS_H5AD},
               {".csv", SCD_RESULTS_CSV},
               {".tsv", SCD_RESULTS_TSV},
               {".npy", SCD_RESULTS_NPY}};
    size_t n = strlen(path);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        size_t n_suffix = strlen(all[i].suffix);
        if (n > n_suffix && strcmp(path + n - n_suffix, all[i].suffix) == 0)
            return all[i].kind;
    }
    return SCD_RESULTS_UNKNOWN;
}

scd_code scd_results_check_path(const char *path, scd_error *err)
{
    if (kind_of(path) != SCD_RESULTS_UNKNOWN)
        return SCD_OK;
    return scd_fail(err, SCD_E_INVALID,
                    "%s: the suffix says how to write it: .h5ad, .csv, .tsv or .npy", path);
}

bool scd_results_is_h5ad(const char *path)
{
    return kind_of(path) == SCD_RESULTS_H5AD;
}

static scd_code no_memory(const scd_results *r, scd_error *err)
{
    return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", r->spec.path);
}

/* ---- tables ---- */

/* RFC 4180: quotes around what would be taken apart. */
void scd_results_put_field(scd_results *r, const char *text)
{
    char separator = r->kind == SCD_RESULTS_TSV ? '\t' : ',';
    if (!strchr(text, separator) && !strpbrk(text, "\"\r\n")) {
        scd_buf_puts(&r->text, text);
        return;
    }
    scd_buf_putc(&r->text, '"');
    for (; *text; text++) {
        if (*text == '"')
            scd_buf_putc(&r->text, '"');
        scd_buf_putc(&r->text, *text);
    }
    scd_buf_putc(&r->text, '"');
}

void scd_results_put_separator(scd_results *r)
{
    scd_buf_putc(&r->text, r->kind == SCD_RESULTS_TSV ? '\t' : ',');
}

/* An empty field where there is no number. */
void scd_results_put_float(scd_results *r, float value)
{
    char *at = scd_buf_reserve(&r->text, SCD_FLOAT_TEXT_BYTES);
    if (at && isfinite(value))
        scd_buf_commit(&r->text, scd_float_text(value, at));
}

scd_code scd_results_flush_text(scd_results *r, scd_error *err)
{
    if (r->text.failed)
        return no_memory(r, err);
    scd_code code = scd_file_writer_add(&r->writer, r->text.data, r->text.n_bytes, err);
    scd_buf_clear(&r->text);
    return code;
}

static scd_code begin_table(scd_results *r, scd_error *err)
{
    const scd_results_spec *s = &r->spec;
    size_t n;
    if (s->table)
        return SCD_OK;
    scd_code code = scd_cells_column_text(s->cells, s->plan->choice.obs_frame, NULL,
                                          &r->names_arena, &r->names, &n, err);
    if (code)
        return code;
    scd_buf_puts(&r->text, "barcode");
    for (size_t i = 0; i < 3 && s->n_labels; i++) {
        scd_results_put_separator(r);
        scd_buf_puts(&r->text, scd_obs_keys[i]);
    }
    for (size_t i = 0; i < s->embedding_width; i++) {
        scd_results_put_separator(r);
        if (s->columns)
            scd_results_put_field(r, s->columns[i]);
        else
            scd_buf_printf(&r->text, "scdiva_%zu", i + 1);
    }
    scd_buf_putc(&r->text, '\n');
    return scd_results_flush_text(r, err);
}

static scd_code add_lines(scd_results *r, const scd_results_block *block, scd_error *err)
{
    const scd_results_spec *s = &r->spec;
    for (size_t i = 0; i < block->n && !s->table; i++) {
        size_t cell = r->n_done + i;
        scd_results_put_field(r, r->names[cell] ? r->names[cell] : "");
        if (s->n_labels) {
            int32_t code = r->said.codes[cell];
            scd_results_put_separator(r);
            scd_results_put_field(r, code < 0 ? "" : s->labels[code]);
            scd_results_put_separator(r);
            scd_results_put_float(r, r->said.probabilities[cell]);
            scd_results_put_separator(r);
            scd_buf_puts(&r->text, r->said.unknown[cell] ? "true" : "false");
        }
        for (size_t k = 0; k < s->embedding_width; k++) {
            scd_results_put_separator(r);
            scd_results_put_float(r, block->embeddings[i * s->embedding_width + k]);
        }
        scd_buf_putc(&r->text, '\n');
    }
    return scd_results_flush_text(r, err);
}

/* ---- .npy ---- */

static scd_code begin_npy(scd_results *r, scd_error *err)
{
    const scd_results_spec *s = &r->spec;
    if (s->table)
        return SCD_OK;
    if (s->embedding_width && s->n_labels)
        return scd_fail(err, SCD_E_INVALID,
                        "%s: a .npy file holds one matrix: embeddings or probabilities", s->path);
    scd_npy_header(&r->text, s->plan->n_cells, s->n_labels ? s->n_labels : s->embedding_width);
    return scd_results_flush_text(r, err);
}

static scd_code add_npy(scd_results *r, const scd_results_block *block, scd_error *err)
{
    const scd_results_spec *s = &r->spec;
    size_t width = s->n_labels ? s->n_labels : s->embedding_width;
    if (s->table)
        return SCD_OK;
    const float *values = s->n_labels ? block->probabilities : block->embeddings;
    return scd_file_writer_add(&r->writer, values, block->n * width * sizeof *values, err);
}

/* ---- what is said of a cell ---- */

static scd_code reserve_said(scd_results *r, scd_error *err)
{
    size_t n = r->spec.plan->n_cells;
    if (!r->spec.n_labels)
        return SCD_OK;
    r->said.codes = scd_malloc(n, sizeof *r->said.codes);
    r->said.probabilities = scd_malloc(n, sizeof *r->said.probabilities);
    r->said.unknown = scd_malloc(n, sizeof *r->said.unknown);
    return r->said.codes && r->said.probabilities && r->said.unknown ? SCD_OK : no_memory(r, err);
}

size_t scd_best_label(const float *p, size_t n)
{
    size_t best = 0;
    for (size_t k = 1; k < n; k++)
        best = p[k] > p[best] ? k : best;
    return n && isfinite(p[best]) ? best : SIZE_MAX;
}

static void say(scd_results *r, const scd_results_block *block)
{
    size_t n = r->spec.n_labels;
    for (size_t i = 0; i < block->n && n; i++) {
        const float *p = block->probabilities + i * n;
        size_t best = scd_best_label(p, n), cell = r->n_done + i;
        bool is_answer = best != SIZE_MAX;
        r->said.codes[cell] = is_answer ? (int32_t)best : -1;
        r->said.probabilities[cell] = is_answer ? p[best] : NAN;
        r->said.unknown[cell] = !is_answer || (double)p[best] < r->spec.threshold;
    }
}

/* ---- the whole ---- */

scd_code scd_results_check_free(const char *path, bool overwrite, scd_error *err)
{
    struct stat facts;
    if (stat(path, &facts))
        return SCD_OK;
    if (!S_ISREG(facts.st_mode))
        return scd_fail(err, SCD_E_INVALID, "%s: is there and is no file", path);
    return overwrite ? SCD_OK
                     : scd_fail(err, SCD_E_INVALID,
                                "%s: is there already (--overwrite replaces it)", path);
}

scd_code scd_results_check(const scd_results_spec *spec, scd_error *err)
{
    scd_code code = scd_results_check_path(spec->path, err);
    if (!code)
        code = scd_results_check_free(spec->path, spec->overwrite, err);
    return code || kind_of(spec->path) != SCD_RESULTS_H5AD ? code
                                                           : scd_results_h5ad_check(spec, err);
}

scd_code scd_results_open(const scd_results_spec *spec, scd_results **out, scd_error *err)
{
    scd_code code = scd_results_check(spec, err);
    if (code)
        return code;
    scd_results *r = scd_calloc(1, sizeof *r);
    if (!r)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", spec->path);
    r->spec = *spec;
    r->kind = kind_of(spec->path);
    r->embedding = H5I_INVALID_HID;
    scd_arena_init(&r->names_arena, NAMES_BYTES);
    scd_buf_init(&r->text, TEXT_BYTES);
    code = scd_file_writer_open(&r->writer, spec->path, err);
    r->writer_open = !code;
    if (!code)
        code = reserve_said(r, err);
    if (!code)
        code = r->kind == SCD_RESULTS_H5AD  ? scd_results_h5ad_begin(r, err)
               : r->kind == SCD_RESULTS_NPY ? begin_npy(r, err)
                                            : begin_table(r, err);
    if (code)
        scd_results_free(r);
    else
        *out = r;
    return code;
}

const scd_digest *scd_results_input_digest(const scd_results *r)
{
    return r->kind == SCD_RESULTS_H5AD && !r->is_new ? &r->input_digest : NULL;
}

scd_code scd_results_add(scd_results *r, const scd_results_block *block, scd_error *err)
{
    if (block->n > r->spec.plan->n_cells - r->n_done)
        return scd_fail(err, SCD_E_INTERNAL, "%s: more cells than were announced", r->spec.path);
    say(r, block);
    scd_code code = r->kind == SCD_RESULTS_H5AD  ? scd_results_h5ad_add(r, block, err)
                    : r->kind == SCD_RESULTS_NPY ? add_npy(r, block, err)
                                                 : add_lines(r, block, err);
    r->n_done += block->n;
    return code;
}

scd_code scd_results_commit(scd_results *r, const scd_fact *facts, size_t n, scd_error *err)
{
    if (r->n_done != r->spec.plan->n_cells)
        return scd_fail(err, SCD_E_INTERNAL, "%s: fewer cells than were announced", r->spec.path);
    bool is_table = r->spec.table != NULL;
    scd_code code = r->kind == SCD_RESULTS_H5AD ? scd_results_h5ad_end(r, facts, n, err)
                    : is_table && r->kind == SCD_RESULTS_NPY ? scd_results_table_npy(r, err)
                    : is_table                               ? scd_results_table_lines(r, err)
                                                             : SCD_OK;
    if (code)
        return code;
    r->writer_open = false;
    return scd_file_writer_commit(&r->writer, err);
}

void scd_results_free(scd_results *r)
{
    if (!r)
        return;
    scd_h5_close_csr(&r->counts);
    scd_h5_close_csr(&r->denoised);
    if (r->embedding > 0) {
        scd_h5_enter();
        H5Dclose(r->embedding);
        scd_h5_leave();
    }
    scd_h5_write_close(&r->file, NULL);
    if (r->writer_open)
        scd_file_writer_abandon(&r->writer);
    scd_buf_release(&r->text);
    scd_arena_release(&r->names_arena);
    free(r->said.unknown);
    free(r->said.probabilities);
    free(r->said.codes);
    free(r);
}
