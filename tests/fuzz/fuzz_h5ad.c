/* fuzz_h5ad.c - any bytes as an .h5ad file: refused with a message, or every matrix, column and
 * choice in it can be read (or refused) in bounded memory.
 *
 * Mutations are those of h5_mutate.h.
 *
 * Threads: one. */
#include "api/cells_choose.h"
#include "tests/fuzz/h5_mutate.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

static void check(scd_code code, const scd_error *err)
{
    if (code && (err->code != code || !memchr(err->message, '\0', sizeof err->message)))
        abort();
}

static void read_matrices(scd_cells *file, scd_arena *arena)
{
    for (size_t i = 0; i < scd_cells_n_matrices(file) && i < 8; i++) {
        const char *name = scd_cells_matrix_name(file, i);
        scd_cells_matrix m;
        scd_cells_rows rows;
        scd_error err;
        scd_code code = scd_cells_matrix_get(file, name, &m, &err);
        if (!code)
            code = scd_cells_rows_read(file, name, m.rows / 2, m.rows - m.rows / 2, arena, &rows,
                                       &err);
        check(code, &err);
        if (code)
            continue;
        for (size_t row = 0; row < rows.n; row++)
            for (uint64_t at = rows.indptr[row]; at < rows.indptr[row + 1]; at++)
                if (rows.indices[at] >= m.cols || rows.data[at] == 0 ||
                    (at > rows.indptr[row] && rows.indices[at] <= rows.indices[at - 1]))
                    abort();
    }
}

static void read_columns(scd_cells *file, const char *frame, scd_arena *arena)
{
    size_t n = scd_cells_n_columns(file, frame), n_text;
    for (size_t i = 0; i <= n && i < 16; i++) {
        const char *column = i < n ? scd_cells_column_name(file, frame, i) : NULL;
        const char *const *text = NULL;
        scd_cells_categories c;
        scd_error err;
        scd_code code = scd_cells_column_text(file, frame, column, arena, &text, &n_text, &err);
        check(code, &err);
        size_t bytes = 0;
        for (size_t k = 0; !code && k < n_text; k++)
            bytes += text[k] ? strlen(text[k]) : 0;
        code = scd_cells_column_categories(file, frame, column, arena, &c, &err);
        check(code, &err);
        for (size_t k = 0; !code && k < c.n; k++)
            if (c.codes[k] < -1 || c.codes[k] >= (int32_t)c.n_categories || bytes > SIZE_MAX / 2)
                abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    scd_cells *file = NULL;
    scd_cells_choice choice;
    scd_error err;
    scd_arena arena;
    scd_arena_init(&arena, 64 << 20);
    scd_code code = scd_cells_open_image(data, size, "fuzz", &file, &err);
    check(code, &err);
    if (!code) {
        read_columns(file, "obs", &arena);
        read_columns(file, "var", &arena);
        read_columns(file, "raw/var", &arena);
        read_matrices(file, &arena);
        check(scd_cells_choose(file, NULL, NULL, NULL, &arena, &choice, &err), &err);
    }
    scd_cells_close(file);
    scd_arena_release(&arena);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return scd_h5_mutate(data, size, max, seed);
}
