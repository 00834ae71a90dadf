/* corpus.c - the list of cells: files, what was chosen in each, and what is left out.
 *
 * Opening looks at every file once (matrix, gene names, barcodes) and keeps a record of it; later
 * only those whose blocks are being read are open. A cell's number is mapped to its row by counting
 * the rows that are left out before it, which are few.
 *
 * Threads: one at a time. Owns: records, the spool of barcodes, open files, until free. */
#include "engine/train/corpus_impl.h"

#include "engine/base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static scd_code no_memory(scd_error *err)
{
    return scd_fail(err, SCD_E_NOMEM, "corpus: out of memory");
}

/* ---- open files ------------------------------------------------------------------------------ */

static void close_one(scd_corpus *corpus)
{
    scd_corpus_file *victim = NULL;
    for (size_t i = 0; i < corpus->n_files; i++) {
        scd_corpus_file *f = &corpus->files[i];
        if (!f->handle)
            continue;
        if (!victim || (f->is_turned != victim->is_turned ? victim->is_turned
                                                          : f->last_use < victim->last_use))
            victim = f;
    }
    assert(victim);
    scd_cells_close(victim->handle);
    victim->handle = NULL;
    corpus->n_open--;
}

scd_code scd_corpus_handle(scd_corpus *corpus, size_t file, scd_cells **out, scd_error *err)
{
    scd_corpus_file *f = &corpus->files[file];
    if (!f->handle) {
        if (corpus->n_open == SCD_MAX_OPEN)
            close_one(corpus);
        scd_code code = scd_cells_open(f->path, &f->handle, err);
        if (code)
            return code;
        corpus->n_open++;
        /* n_rows is 0 only while the corpus is being opened. */
        size_t n_rows = f->n_rows ? scd_cells_frame_rows(f->handle, f->obs_frame) : 0;
        if (n_rows != f->n_rows)
            return scd_fail(err, SCD_E_CORRUPT,
                            "%s: has %zu cells now, had %zu: it was changed while it was used",
                            f->path, n_rows, f->n_rows);
    }
    f->last_use = ++corpus->n_uses;
    *out = f->handle;
    return SCD_OK;
}

/* ---- from cell to row ------------------------------------------------------------------------ */

size_t scd_corpus_file_of(const scd_corpus *corpus, size_t cell)
{
    size_t low = 0, high = corpus->n_files; /* the first file that begins behind the cell */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (corpus->files[middle].first <= cell)
            low = middle + 1;
        else
            high = middle;
    }
    return low - 1; /* of files that begin at the same cell all but the last have none */
}

/* Row r stands behind left_out[0..j) when r = k + j; left_out[j] - j never decreases. */
size_t scd_corpus_row_of(const scd_corpus_file *file, size_t k)
{
    size_t low = 0, high = file->n_rows - file->n_cells;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (file->left_out[middle] - middle <= k)
            low = middle + 1;
        else
            high = middle;
    }
    return k + low;
}

/* ---- opening --------------------------------------------------------------------------------- */

const char *scd_corpus_keep_text(scd_corpus *corpus, const char *text)
{
    return text ? scd_arena_strndup(&corpus->text, text, strlen(text)) : NULL;
}

/* The same file twice would weigh its cells double and put held-out ones into training. */
static scd_code identify(scd_corpus *corpus, size_t file, scd_error *err)
{
    scd_corpus_file *f = &corpus->files[file];
    struct stat info;
    if (stat(f->path, &info) < 0)
        return SCD_OK; /* opening it will say why */
    f->device = info.st_dev;
    f->inode = info.st_ino;
    for (size_t i = 0; i < file; i++)
        if (corpus->files[i].inode == f->inode && corpus->files[i].device == f->device)
            return scd_fail(err, SCD_E_INVALID, "%s: is given twice, the first time as %s", f->path,
                            corpus->files[i].path);
    return SCD_OK;
}

static scd_code choose(scd_corpus *corpus, size_t file, const scd_corpus_options *options,
                       scd_error *err)
{
    scd_corpus_file *f = &corpus->files[file];
    scd_cells *handle;
    scd_cells_choice choice;
    scd_cells_matrix matrix;
    scd_arena arena;
    scd_arena_init(&arena, SIZE_MAX / 2);
    scd_code code = scd_corpus_handle(corpus, file, &handle, err);
    if (!code && !scd_cells_n_obs(handle))
        code = scd_fail(err, SCD_E_INVALID, "%s: has no cells (obs is empty)", f->path);
    if (!code && scd_cells_n_obs(handle) > UINT32_MAX)
        code = scd_fail(err, SCD_E_TOO_LARGE, "%s: has %zu cells, at most 2^32 - 1 in one file",
                        f->path, scd_cells_n_obs(handle));
    if (!code)
        code = scd_cells_choose(handle, options->matrix, options->gene_column, NULL, &arena,
                                &choice, err);
    if (!code)
        code = scd_cells_matrix_get(handle, choice.matrix, &matrix, err);
    if (!code) {
        f->matrix = scd_corpus_keep_text(corpus, choice.matrix);
        f->frame = scd_corpus_keep_text(corpus, choice.frame);
        f->obs_frame = scd_corpus_keep_text(corpus, choice.obs_frame);
        f->gene_column = scd_corpus_keep_text(corpus, choice.gene_column);
        f->column_is_given = options->gene_column != NULL;
        f->why = scd_corpus_keep_text(corpus, choice.why);
        f->matrix_why = scd_corpus_keep_text(corpus, choice.matrix_why);
        f->kind = choice.kind;
        f->recoverable = choice.recoverable;
        f->normalised_to = choice.normalised_to;
        f->is_turned = matrix.encoding == SCD_CELLS_CSC || matrix.encoding == SCD_CELLS_TEXT;
        f->n_rows = matrix.rows;
        if (!f->matrix || !f->frame || !f->obs_frame || !f->why || !f->matrix_why ||
            !f->gene_column != !choice.gene_column)
            code = no_memory(err);
    }
    scd_arena_release(&arena);
    return code;
}

/* Spool the barcodes; note the rows that are left out. */
static scd_code list_cells(scd_corpus *corpus, size_t file, scd_exclude *exclude, scd_error *err)
{
    scd_corpus_file *f = &corpus->files[file];
    scd_cells *handle;
    const char *const *barcodes;
    size_t n, n_out = 0;
    scd_arena arena;
    scd_arena_init(&arena, SIZE_MAX / 2);
    scd_code code = scd_corpus_handle(corpus, file, &handle, err);
    if (!code)
        code = scd_cells_column_text(handle, f->obs_frame, NULL, &arena, &barcodes, &n, err);
    if (code)
        goto done;
    if (n != f->n_rows) {
        code = scd_fail(err, SCD_E_CORRUPT, "%s: the index of obs names %zu cells, %s has %zu rows",
                        f->path, n, f->matrix, f->n_rows);
        goto done;
    }
    f->marks = scd_calloc(n / SCD_MARK_ROWS + 1, sizeof *f->marks);
    f->left_out = scd_calloc(n, sizeof *f->left_out);
    if (!f->marks || !f->left_out) {
        code = no_memory(err);
        goto done;
    }
    for (size_t i = 0; i < n; i++)
        if (barcodes[i] && scd_exclude_has(exclude, f->path, barcodes[i]))
            f->left_out[n_out++] = (uint32_t)i;
    uint32_t *shorter = scd_realloc(f->left_out, n_out, sizeof *shorter);
    f->left_out = shorter ? shorter : f->left_out;
    f->first = corpus->n_cells;
    f->n_cells = n - n_out;
    corpus->n_cells += f->n_cells;
    code = scd_spool_add(&corpus->spool, barcodes, n, f->marks, err);
    f->text_end = corpus->spool.n_bytes;
done:
    scd_arena_release(&arena);
    return code;
}

static scd_code add_files(scd_corpus *corpus, const scd_corpus_options *options,
                          scd_exclude *exclude, scd_error *err)
{
    for (size_t i = 0; i < options->n_paths; i++) {
        scd_corpus_file *f = &corpus->files[i];
        f->path = scd_corpus_keep_text(corpus, options->paths[i]);
        if (!f->path)
            return no_memory(err);
        const char *slash = strrchr(f->path, '/');
        f->name = slash ? slash + 1 : f->path;
        corpus->n_files = i + 1;
        scd_code code = identify(corpus, i, err);
        if (!code)
            code = choose(corpus, i, options, err);
        if (!code)
            code = list_cells(corpus, i, exclude, err);
        if (code)
            return code;
    }
    scd_code code = scd_exclude_check(exclude, err);
    if (!code && !corpus->n_cells)
        code = scd_fail(err, SCD_E_INVALID, "%s leaves out every cell of %zu %s", options->exclude,
                        corpus->n_files, corpus->n_files == 1 ? "file" : "files");
    return code;
}

scd_code scd_corpus_open(const scd_corpus_options *options, scd_corpus **out, scd_error *err)
{
    scd_exclude *exclude = NULL;
    scd_code code = SCD_OK;
    *out = NULL;
    if (!options->n_paths)
        return scd_fail(err, SCD_E_INVALID, "no h5ad file given");
    scd_corpus *corpus = scd_calloc(1, sizeof *corpus);
    if (!corpus)
        return no_memory(err);
    scd_arena_init(&corpus->text, SIZE_MAX / 2);
    corpus->spool.fd = -1;
    corpus->files = scd_calloc(options->n_paths, sizeof *corpus->files);
    if (!corpus->files)
        code = no_memory(err);
    if (!code)
        code = scd_spool_open(&corpus->spool, err);
    if (!code && options->exclude)
        code = scd_exclude_read(options->exclude, &exclude, err);
    if (!code && exclude)
        code = scd_exclude_check_files(exclude, options->paths, options->n_paths, err);
    if (!code)
        code = add_files(corpus, options, exclude, err);
    scd_exclude_free(exclude);
    if (code) {
        scd_corpus_free(corpus);
        return code;
    }
    *out = corpus;
    return SCD_OK;
}

void scd_corpus_free(scd_corpus *corpus)
{
    if (!corpus)
        return;
    scd_corpus_unbind(corpus);
    for (size_t i = 0; i < corpus->n_files; i++) {
        scd_cells_close(corpus->files[i].handle);
        free(corpus->files[i].left_out);
        free(corpus->files[i].marks);
    }
    scd_spool_close(&corpus->spool);
    free(corpus->files);
    scd_arena_release(&corpus->text);
    free(corpus);
}

/* ---- what there is --------------------------------------------------------------------------- */

size_t scd_corpus_n_files(const scd_corpus *corpus)
{
    return corpus->n_files;
}

const char *scd_corpus_file_name(const scd_corpus *corpus, size_t file)
{
    return corpus->files[file].name;
}

const char *scd_corpus_why(const scd_corpus *corpus, size_t file)
{
    return corpus->files[file].why;
}

size_t scd_corpus_n_cells(const scd_corpus *corpus)
{
    return corpus->n_cells;
}
