/* text_cells.c - see text_cells.h. */
#include "api/text_cells.h"

#include "api/text.h"
#include "engine/base/mem.h"

#include <stdlib.h>
#include <string.h>

static scd_code no_memory(const scd_text_cells *cells, scd_error *err)
{
    return scd_fail(err, SCD_E_NOMEM, "%s: out of memory, or more than the caller allows for it",
                    cells->path);
}

scd_code scd_text_cells_new(const char *path, const char *format, scd_text_cells **out,
                            scd_error *err)
{
    scd_text_cells *cells = scd_calloc(1, sizeof *cells);
    if (!cells || !(cells->path = scd_strdup(path))) {
        free(cells);
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    }
    cells->format = format;
    scd_arena_init(&cells->arena, SCD_TEXT_NAMES_BYTES);
    scd_code code = scd_entries_new(path, &cells->entries, err);
    if (code) {
        scd_text_cells_free(cells);
        return code;
    }
    *out = cells;
    return SCD_OK;
}

void scd_text_cells_free(scd_text_cells *cells)
{
    if (!cells)
        return;
    for (size_t i = 0; i < 2; i++) {
        scd_text_frame *f = cells->frames + i;
        free(f->index.at);
        for (size_t k = 0; k < SCD_TEXT_MAX_COLUMNS; k++)
            free(f->columns[k].at);
    }
    scd_entries_free(cells->entries);
    scd_arena_release(&cells->arena);
    free(cells->path);
    free(cells);
}

scd_code scd_text_names_add(scd_text_cells *cells, scd_text_names *names, const char *text,
                            size_t n, const char *where, scd_error *err)
{
    for (size_t at = 0; at < n;) {
        size_t length = text[at] ? scd_utf8_length(text + at, n - at) : 0;
        if (length == 0)
            return scd_fail(err, SCD_E_INVALID, "%s: %s: name %zu is not UTF-8", cells->path, where,
                            names->n + 1);
        at += length;
    }
    if (names->n == names->cap) {
        size_t cap = names->cap ? names->cap * 2 : 1024;
        const char **at = scd_realloc(names->at, cap, sizeof *at);
        if (!at)
            return no_memory(cells, err);
        names->at = at;
        names->cap = cap;
    }
    const char *copy = scd_arena_strndup(&cells->arena, text, n);
    if (!copy)
        return no_memory(cells, err);
    names->at[names->n++] = copy;
    return SCD_OK;
}

/* ---- as cells ---- */

static void close_cells(void *self)
{
    scd_text_cells_free(self);
}

static const char *path_of(const void *self)
{
    const scd_text_cells *cells = self;
    return cells->path;
}

static const char *format_of(const void *self)
{
    const scd_text_cells *cells = self;
    return cells->format;
}

static size_t n_obs_of(const void *self)
{
    const scd_text_cells *cells = self;
    return cells->frames[cells->matrices[0].obs].index.n;
}

static size_t n_matrices_of(const void *self)
{
    const scd_text_cells *cells = self;
    return cells->n_matrices;
}

static const char *matrix_name_of(const void *self, size_t index)
{
    const scd_text_cells *cells = self;
    return index < cells->n_matrices ? cells->matrices[index].name : NULL;
}

static const scd_text_matrix *find_matrix(const scd_text_cells *cells, const char *name,
                                          scd_error *err)
{
    for (size_t i = 0; i < cells->n_matrices; i++)
        if (strcmp(cells->matrices[i].name, name) == 0)
            return cells->matrices + i;
    scd_fail(err, SCD_E_NOT_FOUND, "%s: no matrix \"%s\"; there are: %s%s%s", cells->path, name,
             cells->matrices[0].name, cells->n_matrices > 1 ? ", " : "",
             cells->n_matrices > 1 ? cells->matrices[1].name : "");
    return NULL;
}

static scd_code matrix_of(const void *self, const char *name, scd_cells_matrix *out, scd_error *err)
{
    const scd_text_cells *cells = self;
    const scd_text_matrix *m = find_matrix(cells, name, err);
    if (!m)
        return SCD_E_NOT_FOUND;
    *out = (scd_cells_matrix){.name = m->name,
                              .encoding = SCD_CELLS_TEXT,
                              .rows = cells->frames[m->obs].index.n,
                              .cols = cells->frames[m->var].index.n,
                              .n_stored = scd_entries_n(cells->entries),
                              .obs_frame = cells->frames[m->obs].name,
                              .var_frame = cells->frames[m->var].name};
    return SCD_OK;
}

static scd_code rows_of(void *self, const char *matrix, size_t first, size_t n, scd_arena *arena,
                        scd_cells_rows *out, scd_error *err)
{
    scd_text_cells *cells = self;
    const scd_text_matrix *m = find_matrix(cells, matrix, err);
    if (!m)
        return SCD_E_NOT_FOUND;
    return scd_entries_read(cells->entries, m->by_columns, first, n, arena, out, err);
}

static const scd_text_frame *find_frame(const scd_text_cells *cells, const char *name)
{
    for (size_t i = 0; i < 2; i++)
        if (strcmp(cells->frames[i].name, name) == 0)
            return cells->frames + i;
    return NULL;
}

static size_t n_columns_of(const void *self, const char *frame)
{
    const scd_text_frame *f = find_frame(self, frame);
    return f ? f->n_columns : 0;
}

static const char *column_name_of(const void *self, const char *frame, size_t index)
{
    const scd_text_frame *f = find_frame(self, frame);
    return f && index < f->n_columns ? f->column_names[index] : NULL;
}

static size_t frame_rows_of(const void *self, const char *frame)
{
    const scd_text_frame *f = find_frame(self, frame);
    return f ? f->index.n : 0;
}

static scd_code text_of(void *self, const char *frame, const char *column, scd_arena *arena,
                        const char *const **out, size_t *n, scd_error *err)
{
    const scd_text_cells *cells = self;
    const scd_text_frame *f = find_frame(cells, frame);
    if (!f)
        return scd_fail(err, SCD_E_NOT_FOUND, "%s: no data frame \"%s\"", cells->path, frame);
    const scd_text_names *names = column ? NULL : &f->index;
    for (size_t i = 0; i < f->n_columns && !names; i++)
        if (strcmp(f->column_names[i], column) == 0)
            names = f->columns + i;
    if (!names)
        return scd_fail(err, SCD_E_NOT_FOUND, "%s: %s: no column \"%s\"; there are: index%s%s%s%s",
                        cells->path, frame, column, f->n_columns > 0 ? ", " : "",
                        f->n_columns > 0 ? f->column_names[0] : "", f->n_columns > 1 ? ", " : "",
                        f->n_columns > 1 ? f->column_names[1] : "");
    const char **copy = scd_arena_alloc(arena, names->n + 1, sizeof *copy);
    if (!copy)
        return no_memory(cells, err);
    for (size_t i = 0; i < names->n; i++) {
        copy[i] = scd_arena_strndup(arena, names->at[i], strlen(names->at[i]));
        if (!copy[i])
            return no_memory(cells, err);
    }
    *out = copy;
    *n = names->n;
    return SCD_OK;
}

static scd_code categories_of(void *self, const char *frame, const char *column, scd_arena *arena,
                              scd_cells_categories *out, scd_error *err)
{
    const char *const *text;
    size_t n;
    scd_code code = text_of(self, frame, column, arena, &text, &n, err);
    if (!code && !scd_cells_intern(text, n, arena, out))
        code = no_memory(self, err);
    return code;
}

const scd_cells_format_ops scd_text_cells_ops = {
    .close = close_cells,
    .path = path_of,
    .format = format_of,
    .n_obs = n_obs_of,
    .n_matrices = n_matrices_of,
    .matrix_name = matrix_name_of,
    .matrix_get = matrix_of,
    .rows_read = rows_of,
    .n_columns = n_columns_of,
    .column_name = column_name_of,
    .frame_rows = frame_rows_of,
    .column_text = text_of,
    .column_categories = categories_of,
};
