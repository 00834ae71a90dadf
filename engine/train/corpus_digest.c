/* corpus_digest.c - what the cells are, in 32 bytes: a run that goes on must go on over the same.
 *
 * Of each file: how it is read, its shape and number of stored entries, which rows are left out,
 * the barcodes, what its columns are to the vocabulary, and values. Of a file of up to
 * SCD_DIGEST_ENTRIES stored entries all of them; of a larger one, where that would cost a pass over
 * terabytes, those of 4,096 rows in 64 places. There, other values elsewhere go unnoticed as long
 * as the number of stored entries stays the same: files that were replaced are noticed, single
 * values that were edited need not be.
 *
 * Values are hashed as they are read, not as they are stored: a copy, or the same matrix written
 * with other compression, is the same data.
 *
 * Threads: one at a time. Owns: one block during the call. */
#include "engine/train/corpus_impl.h"

#include <assert.h>

enum { PIECES = 64, PIECE_ROWS = 64 };

static scd_code add_rows(scd_corpus *corpus, size_t file, size_t first, size_t n,
                         scd_hasher *hasher, scd_error *err)
{
    scd_cells *handle;
    scd_cells_rows rows;
    scd_arena arena;
    scd_arena_init(&arena, SIZE_MAX / 2);
    scd_code code = scd_corpus_handle(corpus, file, &handle, err);
    if (!code)
        code =
            scd_cells_rows_read(handle, corpus->files[file].matrix, first, n, &arena, &rows, err);
    if (!code) {
        size_t entries = (size_t)rows.indptr[n];
        scd_hasher_add_field(hasher, rows.indptr, (n + 1) * sizeof *rows.indptr);
        scd_hasher_add_field(hasher, rows.indices, entries * sizeof *rows.indices);
        scd_hasher_add_field(hasher, rows.data, entries * sizeof *rows.data);
    }
    scd_arena_release(&arena);
    return code;
}

static scd_code add_values(scd_corpus *corpus, size_t file, bool all, scd_hasher *hasher,
                           scd_error *err)
{
    size_t n = corpus->files[file].n_rows;
    scd_code code = SCD_OK;
    if (all || n <= PIECES * PIECE_ROWS) {
        for (size_t at = 0; at < n && !code; at += PIECE_ROWS)
            code =
                add_rows(corpus, file, at, n - at < PIECE_ROWS ? n - at : PIECE_ROWS, hasher, err);
        return code;
    }
    for (size_t i = 0; i < PIECES && !code; i++) {
        size_t at = (size_t)((double)(n - PIECE_ROWS) * (double)i / (PIECES - 1));
        code = add_rows(corpus, file, at, PIECE_ROWS, hasher, err);
    }
    return code;
}

static scd_code add_barcodes(const scd_corpus *corpus, const scd_corpus_file *f, scd_hasher *hasher,
                             scd_error *err)
{
    const char *barcodes[SCD_MARK_ROWS];
    scd_code code = SCD_OK;
    for (size_t at = 0; at < f->n_rows && !code; at += SCD_MARK_ROWS) {
        size_t n = f->n_rows - at < SCD_MARK_ROWS ? f->n_rows - at : SCD_MARK_ROWS;
        scd_arena arena;
        scd_arena_init(&arena, SIZE_MAX / 2);
        code = scd_spool_get(&corpus->spool, f->marks, f->text_end, f->n_rows, at, n, &arena,
                             barcodes, err);
        for (size_t i = 0; i < n && !code; i++)
            scd_hasher_add_text(hasher, barcodes[i]);
        scd_arena_release(&arena);
    }
    return code;
}

static scd_code add_file(scd_corpus *corpus, size_t file, uint64_t max_entries, scd_hasher *hasher,
                         scd_error *err)
{
    const scd_corpus_file *f = &corpus->files[file];
    scd_cells *handle;
    scd_cells_matrix matrix = {0};
    scd_code code = scd_corpus_handle(corpus, file, &handle, err);
    if (!code)
        code = scd_cells_matrix_get(handle, f->matrix, &matrix, err);
    if (code)
        return code;
    const uint64_t shape[] = {f->n_rows,       f->n_cells, matrix.cols,
                              matrix.n_stored, f->kind,    f->recoverable};
    scd_hasher_add_field(hasher, shape, sizeof shape);
    scd_hasher_add_field(hasher, &f->normalised_to, sizeof f->normalised_to);
    scd_hasher_add_field(hasher, f->left_out, (f->n_rows - f->n_cells) * sizeof *f->left_out);
    scd_hasher_add_field(hasher, f->map->tokens, f->map->n_columns * sizeof *f->map->tokens);
    code = add_barcodes(corpus, f, hasher, err);
    return code ? code : add_values(corpus, file, matrix.n_stored <= max_entries, hasher, err);
}

scd_code scd_corpus_digest_up_to(scd_corpus *corpus, uint64_t max_entries, scd_digest *out,
                                 scd_error *err)
{
    assert(corpus->vocab);
    scd_hasher *hasher = scd_hasher_new();
    if (!hasher)
        return scd_fail(err, SCD_E_NOMEM, "corpus: out of memory for its digest");
    scd_code code = SCD_OK;
    for (size_t i = 0; i < corpus->n_files && !code; i++)
        code = add_file(corpus, i, max_entries, hasher, err);
    if (!code)
        *out = scd_hasher_finish(hasher);
    scd_hasher_free(hasher);
    return code;
}

scd_code scd_corpus_digest(scd_corpus *corpus, scd_digest *out, scd_error *err)
{
    return scd_corpus_digest_up_to(corpus, SCD_DIGEST_ENTRIES, out, err);
}
