/* confined_child.c - the confined reader itself: bounds, and requests until its parent has gone;
 * see confined.h.
 *
 * Threads: main, alone. Owns: the open file, until the process ends. */
#include "api/confined.h"
#include "api/confined_wire.h"
#include "api/sandbox.h"
#include "engine/base/fd.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { ARENA_SHARE = 2 };

static size_t memory_bytes; /* what the address space may hold */

/* ---- messages ---- */

static bool answer(scd_code code, const scd_error *err, scd_buf *out)
{
    if (!code && out->failed)
        code = SCD_E_TOO_LARGE;
    const char *message = !code ? NULL
                          : code == SCD_E_TOO_LARGE && out->failed
                              ? "more at once than its memory allows"
                              : err->message;
    scd_wire_head head = {(uint32_t)code, SCD_WIRE_MAGIC, message ? strlen(message) : out->n_bytes};
    return scd_write_all(SCD_WIRE_FD, &head, sizeof head) &&
           scd_write_all(SCD_WIRE_FD, message ? message : out->data, head.n_bytes);
}

/* ---- requests ---- */

static void put_frame(const scd_cells *cells, const char *frame, scd_buf *out)
{
    size_t n = scd_cells_n_columns(cells, frame);
    scd_wire_put_text(out, frame);
    scd_wire_put_u64(out, scd_cells_frame_rows(cells, frame));
    scd_wire_put_u64(out, n);
    for (size_t i = 0; i < n; i++)
        scd_wire_put_text(out, scd_cells_column_name(cells, frame, i));
}

static void put_matrix(const scd_cells *cells, size_t index, const char *frames[], size_t *n_frames,
                       scd_buf *out)
{
    scd_cells_matrix m = {0};
    scd_error fault = {0};
    const char *name = scd_cells_matrix_name(cells, index);
    scd_code code = scd_cells_matrix_get(cells, name, &m, &fault);
    scd_wire_put_text(out, name);
    scd_wire_put_u64(out, code);
    scd_wire_put_text(out, code ? fault.message : NULL);
    scd_wire_put_u64(out, m.encoding);
    scd_wire_put_u64(out, m.rows);
    scd_wire_put_u64(out, m.cols);
    scd_wire_put_u64(out, m.n_stored);
    scd_wire_put_u64(out, m.is_raw);
    scd_wire_put_text(out, m.obs_frame);
    scd_wire_put_text(out, m.var_frame);
    const char *both[] = {m.obs_frame, m.var_frame};
    for (size_t k = 0; k < 2; k++) {
        bool is_new = both[k] && *n_frames < SCD_WIRE_MAX_FRAMES;
        for (size_t i = 0; i < *n_frames && is_new; i++)
            is_new = strcmp(frames[i], both[k]) != 0;
        if (is_new)
            frames[(*n_frames)++] = both[k];
    }
}

/* Everything about the file that is small. */
static void put_snapshot(const scd_cells *cells, scd_buf *out)
{
    const char *frames[SCD_WIRE_MAX_FRAMES] = {"obs", "var", "raw/var"};
    size_t n_frames = 3, n = scd_cells_n_matrices(cells);
    scd_wire_put_text(out, scd_cells_format(cells));
    scd_wire_put_u64(out, scd_cells_n_obs(cells));
    scd_wire_put_u64(out, n);
    for (size_t i = 0; i < n; i++)
        put_matrix(cells, i, frames, &n_frames, out);
    scd_wire_put_u64(out, n_frames);
    for (size_t i = 0; i < n_frames; i++)
        put_frame(cells, frames[i], out);
}

static scd_code open_file(scd_wire_in *in, scd_arena *arena, scd_cells **cells, scd_buf *out,
                          scd_error *err)
{
    const char *path = scd_wire_get_text(in, arena);
    uint64_t memory = scd_wire_get_u64(in), file_bytes = scd_wire_get_u64(in);
    if (in->failed || !path || *cells)
        return scd_fail(err, SCD_E_INTERNAL, "confined reader: a request that is none");
    const char *folder = getenv("TMPDIR");
    const scd_sandbox box = {.reads = {path},
                             .writes = folder && folder[0] ? folder : "/tmp",
                             .memory_bytes = memory,
                             .file_bytes = file_bytes};
    memory_bytes = memory;
    if (!scd_sandbox_enter(&box))
        return scd_fail(err, SCD_E_INTERNAL, "%s: the reader could not be confined: %s", path,
                        strerror(errno));
    scd_code code = scd_cells_open(path, cells, err);
    if (!code)
        put_snapshot(*cells, out);
    return code;
}

static scd_code read_rows(scd_wire_in *in, scd_arena *arena, scd_cells *cells, scd_buf *out,
                          scd_error *err)
{
    scd_cells_rows rows;
    const char *matrix = scd_wire_get_text(in, arena);
    uint64_t first = scd_wire_get_u64(in), n = scd_wire_get_u64(in);
    if (in->failed || !matrix || !cells)
        return scd_fail(err, SCD_E_INTERNAL, "confined reader: a request that is none");
    scd_code code = scd_cells_rows_read(cells, matrix, first, n, arena, &rows, err);
    if (code)
        return code;
    uint64_t n_entries = rows.indptr[rows.n];
    scd_wire_put_u64(out, rows.n);
    scd_wire_put_u64(out, n_entries);
    scd_buf_append(out, rows.indptr, (rows.n + 1) * sizeof *rows.indptr);
    scd_buf_append(out, rows.indices, n_entries * sizeof *rows.indices);
    scd_buf_append(out, rows.data, n_entries * sizeof *rows.data);
    return SCD_OK;
}

static scd_code read_column(scd_wire_in *in, scd_arena *arena, scd_cells *cells, bool categories,
                            scd_buf *out, scd_error *err)
{
    const char *frame = scd_wire_get_text(in, arena), *column = scd_wire_get_text(in, arena);
    const char *const *text;
    scd_cells_categories c;
    size_t n;
    if (in->failed || !frame || !cells)
        return scd_fail(err, SCD_E_INTERNAL, "confined reader: a request that is none");
    scd_code code = categories ? scd_cells_column_categories(cells, frame, column, arena, &c, err)
                               : scd_cells_column_text(cells, frame, column, arena, &text, &n, err);
    if (code)
        return code;
    scd_wire_put_u64(out, categories ? c.n : n);
    if (categories) {
        scd_wire_put_u64(out, c.n_categories);
        scd_buf_append(out, c.codes, c.n * sizeof *c.codes);
        text = c.categories;
        n = c.n_categories;
    }
    for (size_t i = 0; i < n; i++)
        scd_wire_put_text(out, text[i]);
    return SCD_OK;
}

static bool serve_one(scd_cells **cells)
{
    static char request[SCD_WIRE_MAX_REQUEST];
    scd_wire_head head;
    scd_error err = {0};
    scd_arena arena;
    scd_buf out;
    if (!scd_read_all(SCD_WIRE_FD, &head, sizeof head) || head.magic != SCD_WIRE_MAGIC ||
        head.n_bytes > sizeof request || !scd_read_all(SCD_WIRE_FD, request, head.n_bytes))
        return false;
    scd_wire_in in = {request, request + head.n_bytes, false};
    size_t most = memory_bytes ? memory_bytes / ARENA_SHARE : SCD_WIRE_MAX_REQUEST;
    scd_arena_init(&arena, most);
    scd_buf_init(&out, SCD_WIRE_MAX_ANSWER);
    scd_code code =
        head.what == SCD_WIRE_OPEN ? open_file(&in, &arena, cells, &out, &err)
        : head.what == SCD_WIRE_ROWS
            ? read_rows(&in, &arena, *cells, &out, &err)
            : read_column(&in, &arena, *cells, head.what == SCD_WIRE_CATEGORIES, &out, &err);
    bool ok = answer(code, &err, &out);
    scd_buf_release(&out);
    scd_arena_release(&arena);
    return ok;
}

bool scd_confined_main(int argc, char **argv, int *status)
{
    scd_cells *cells = NULL;
    if (argc != 2 || strcmp(argv[1], SCD_CONFINED_ARGUMENT) != 0)
        return false;
    signal(SIGINT, SIG_IGN); /* a terminal sends it to all: the parent decides */
    signal(SIGTERM, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (serve_one(&cells))
        ;
    *status = 0;
    return true;
}
