/* fuzz_cells.c - any bytes as a file of cells, of whatever format they look like: refused with a
 * message, or every matrix and column in it can be read in bounded memory, and a plan be made.
 *
 * Tables, archives and 10x Genomics' files; fuzz_h5ad.c has AnnData alone. HDF5 is read from memory
 * and changed by the library (h5_mutate.h): libhdf5 looks for a file by its name, which a memfd has
 * not, and does not stand up to any bytes whatever. All else is a memfd, and changed byte by byte.
 *
 * Threads: one. */
#include "api/cells_plan.h"
#include "tests/fuzz/h5_mutate.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

static bool is_hdf5(const uint8_t *data, size_t size)
{
    return size >= 8 && memcmp(data, "\x89HDF\r\n\x1a\n", 8) == 0;
}

static void check(scd_code code, const scd_error *err)
{
    if (code && (err->code != code || !memchr(err->message, '\0', sizeof err->message)))
        abort();
}

static void read_matrix(scd_cells *cells, const char *name, scd_arena *arena)
{
    scd_cells_matrix m;
    scd_cells_rows rows;
    scd_error err;
    scd_code code = scd_cells_matrix_get(cells, name, &m, &err);
    if (!code)
        code =
            scd_cells_rows_read(cells, name, m.rows / 2, m.rows - m.rows / 2, arena, &rows, &err);
    check(code, &err);
    for (size_t row = 0; !code && row < rows.n; row++)
        for (uint64_t at = rows.indptr[row]; at < rows.indptr[row + 1]; at++)
            if (rows.indices[at] >= m.cols || rows.data[at] == 0 ||
                (at > rows.indptr[row] && rows.indices[at] <= rows.indices[at - 1]))
                abort();
    for (size_t f = 0; !code && f < 2; f++) {
        const char *frame = f ? m.var_frame : m.obs_frame;
        const char *const *text;
        scd_cells_categories c;
        size_t n, n_columns = scd_cells_n_columns(cells, frame);
        for (size_t i = 0; i <= n_columns && i < 8; i++) {
            const char *column = i < n_columns ? scd_cells_column_name(cells, frame, i) : NULL;
            check(scd_cells_column_text(cells, frame, column, arena, &text, &n, &err), &err);
            check(scd_cells_column_categories(cells, frame, column, arena, &c, &err), &err);
        }
    }
}

/* *fd: where the bytes lie, -1: in memory. */
static scd_code open_bytes(const uint8_t *data, size_t size, int *fd, scd_cells **cells,
                           scd_error *err)
{
    char path[64];
    *fd = -1;
    if (is_hdf5(data, size))
        return scd_cells_open_image(data, size, "fuzz", cells, err);
    *fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (*fd < 0 || write(*fd, data, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", *fd);
    return scd_cells_open(path, cells, err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fd;
    scd_cells *cells = NULL;
    scd_file_plan_options options = {0};
    scd_file_plan plan;
    scd_error err;
    scd_arena arena;
    scd_arena_init(&arena, 64 << 20);
    scd_code code = open_bytes(data, size, &fd, &cells, &err);
    check(code, &err);
    for (size_t i = 0; !code && i < scd_cells_n_matrices(cells) && i < 4; i++)
        read_matrix(cells, scd_cells_matrix_name(cells, i), &arena);
    if (!code)
        check(scd_cells_plan(cells, &options, &arena, &plan, &err), &err);
    scd_cells_close(cells);
    scd_arena_release(&arena);
    if (fd >= 0)
        close(fd);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return is_hdf5(data, size) ? scd_h5_mutate(data, size, max, seed)
                               : LLVMFuzzerMutate(data, size, max);
}
