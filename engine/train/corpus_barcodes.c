/* corpus_barcodes.c - see corpus_barcodes.h. */
#include "engine/train/corpus_barcodes.h"

#include "engine/train/corpus_impl.h"

enum { BLOCK_ROWS = 16 * SCD_MARK_ROWS };

static scd_code add_file(const scd_corpus *corpus, size_t file, scd_arena *arena,
                         scd_corpus_barcode *out, scd_error *err)
{
    const scd_corpus_file *f = &corpus->files[file];
    const char *texts[BLOCK_ROWS];
    size_t n_out = 0, n_all_out = f->n_rows - f->n_cells;
    for (size_t first = 0; first < f->n_rows; first += BLOCK_ROWS) {
        size_t n = f->n_rows - first < BLOCK_ROWS ? f->n_rows - first : BLOCK_ROWS;
        scd_code code = scd_spool_get(&corpus->spool, f->marks, f->text_end, f->n_rows, first, n,
                                      arena, texts, err);
        if (code)
            return code;
        for (size_t i = 0; i < n; i++) {
            size_t row = first + i;
            bool is_out = n_out < n_all_out && f->left_out[n_out] == row;
            out[row] = (scd_corpus_barcode){.text = texts[i],
                                            .file = (uint32_t)file,
                                            .cell = is_out ? SIZE_MAX : f->first + row - n_out};
            n_out += is_out;
        }
    }
    return SCD_OK;
}

scd_code scd_corpus_barcodes(scd_corpus *corpus, scd_arena *arena, scd_corpus_barcode **out,
                             size_t *n, scd_error *err)
{
    size_t at = 0;
    scd_code code = SCD_OK;
    *n = 0;
    for (size_t f = 0; f < corpus->n_files; f++)
        *n += corpus->files[f].n_rows;
    *out = scd_arena_alloc(arena, *n, sizeof **out);
    if (!*out)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu barcodes", *n);
    for (size_t f = 0; f < corpus->n_files && !code; f++) {
        code = add_file(corpus, f, arena, *out + at, err);
        at += corpus->files[f].n_rows;
    }
    return code;
}
