/* confined.c - the parent's side of a confined reader: a format like any other; see confined.h. */
#include "api/confined.h"

#include "api/cells_impl.h"
#include "api/confined_wire.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_MATRICES = 1100, MAX_COLUMNS = 20000, LOOK_MS = 200 };
#define MAX_MEMORY_BYTES ((uint64_t)8 << 30)
#define MIN_MEMORY_BYTES ((uint64_t)2 << 30)
#define SNAPSHOT_BYTES ((size_t)64 << 20)

typedef struct known_matrix {
    scd_cells_matrix facts;
    scd_error fault;
} known_matrix;

typedef struct known_frame {
    const char *name;
    size_t rows, n_columns;
    const char *const *columns;
} known_frame;

typedef struct confined {
    const char *path, *format;
    scd_arena arena; /* of the snapshot */
    pid_t child;
    int fd; /* -1: the child has gone */
    int64_t patience_ns;
    bool (*is_unwanted)(void *arg); /* NULL: it is wanted to the end */
    void *arg;
    size_t n_obs, n_matrices, n_frames;
    known_matrix *matrices;
    known_frame *frames;
} confined;

/* ---- the child ---- */

static int end_child(confined *c)
{
    int status = 0;
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    if (c->child > 0) {
        kill(c->child, SIGKILL);
        while (waitpid(c->child, &status, 0) < 0 && errno == EINTR)
            ;
    }
    c->child = 0;
    return status;
}

typedef enum silence { ENDED, TOO_LONG, UNWANTED } silence;

static scd_code lost(confined *c, silence why, scd_error *err)
{
    int status = end_child(c); /* of one that ended by itself: how */
    if (why == UNWANTED)
        return scd_fail(err, SCD_E_CANCELED, "%s: not wanted any more", c->path);
    if (why == TOO_LONG)
        return scd_fail(err, SCD_E_CORRUPT,
                        "%s: reading it took more than %.0f s, longer than a file of its size can: "
                        "it is damaged, or made to do that",
                        c->path, (double)c->patience_ns * 1e-9);
    if (WIFSIGNALED(status))
        return scd_fail(err, SCD_E_CORRUPT,
                        "%s: reading it crashed the reader (%s): it is damaged, or made to do that",
                        c->path, strsignal(WTERMSIG(status)));
    return scd_fail(err, SCD_E_CORRUPT, "%s: its reader ended (exit status %d)", c->path,
                    WEXITSTATUS(status));
}

/* ---- messages ---- */

static bool send_all(confined *c, const void *bytes, size_t n)
{
    for (const char *at = bytes; n;) {
        ssize_t put = send(c->fd, at, n, MSG_NOSIGNAL);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return false;
        at += put;
        n -= (size_t)put;
    }
    return true;
}

/* False: *why. */
static bool receive_all(confined *c, void *out, size_t n, int64_t deadline, silence *why)
{
    for (char *at = out; n;) {
        int64_t left_ms = (deadline - scd_now_ns()) / SCD_NS_PER_MS;
        struct pollfd p = {.fd = c->fd, .events = POLLIN};
        *why = c->is_unwanted && c->is_unwanted(c->arg) ? UNWANTED
               : left_ms <= 0                           ? TOO_LONG
                                                        : ENDED;
        if (*why)
            return false;
        int ready = poll(&p, 1, left_ms > LOOK_MS ? LOOK_MS : (int)left_ms);
        if (ready == 0 || (ready < 0 && errno == EINTR))
            continue;
        ssize_t got = ready < 0 ? -1 : recv(c->fd, at, n, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        at += got;
        n -= (size_t)got;
    }
    return true;
}

/* One request and its answer, free(*body); SCD_E_... as the child says, or what became of it. */
static scd_code ask(confined *c, scd_wire_op op, const scd_buf *request, size_t max_bytes,
                    char **body, size_t *n, scd_error *err)
{
    scd_wire_head head = {op, SCD_WIRE_MAGIC, request->n_bytes};
    int64_t deadline = scd_now_ns() + c->patience_ns;
    silence why = ENDED;
    *body = NULL;
    if (c->fd < 0)
        return scd_fail(err, SCD_E_CORRUPT, "%s: its reader has gone", c->path);
    if (request->failed || request->n_bytes > SCD_WIRE_MAX_REQUEST)
        return scd_fail(err, SCD_E_INVALID, "%s: a name that is too long", c->path);
    if (!send_all(c, &head, sizeof head) || !send_all(c, request->data, request->n_bytes) ||
        !receive_all(c, &head, sizeof head, deadline, &why))
        return lost(c, why, err);
    if (head.magic != SCD_WIRE_MAGIC || head.n_bytes > max_bytes || head.what > SCD_E_INTERNAL) {
        end_child(c);
        bool is_answer = head.magic == SCD_WIRE_MAGIC && head.what <= SCD_E_INTERNAL;
        return scd_fail(err, is_answer ? SCD_E_TOO_LARGE : SCD_E_CORRUPT, "%s: %s", c->path,
                        is_answer ? "it holds more at once than is taken of a file"
                                  : "its reader answers nonsense");
    }
    if (!(*body = scd_malloc(head.n_bytes + 1, 1))) {
        end_child(c);
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", c->path);
    }
    if (!receive_all(c, *body, head.n_bytes, deadline, &why)) {
        free(*body);
        *body = NULL;
        return lost(c, why, err);
    }
    (*body)[head.n_bytes] = '\0';
    *n = head.n_bytes;
    if (!head.what)
        return SCD_OK;
    /* Its memory is bound: where that is not enough it never will be. */
    scd_code said = head.what == SCD_E_NOMEM ? SCD_E_TOO_LARGE : (scd_code)head.what;
    scd_code code = scd_fail(err, said, "%.600s", *body);
    free(*body);
    *body = NULL;
    return code;
}

static scd_code nonsense(confined *c, scd_error *err)
{
    end_child(c);
    return scd_fail(err, SCD_E_CORRUPT,
                    "%s: its reader answers nonsense, or more than the memory "
                    "allowed for it",
                    c->path);
}

/* n texts are more than the arena may hold, whatever they say. */
static scd_code too_many(const confined *c, const scd_arena *arena, uint64_t n, scd_error *err)
{
    enum { LEAST_BYTES = sizeof(char *) + 8 }; /* of one */
    if (n <= (arena->max_bytes - arena->used_bytes) / LEAST_BYTES)
        return SCD_OK;
    return scd_fail(err, SCD_E_TOO_LARGE, "%s: %llu names, more than are taken of a file", c->path,
                    (unsigned long long)n);
}

/* ---- opening ---- */

static void get_matrix(confined *c, scd_wire_in *in, known_matrix *m)
{
    m->facts.name = scd_wire_get_text(in, &c->arena);
    uint64_t code = scd_wire_get_u64(in);
    const char *fault = scd_wire_get_text(in, &c->arena);
    uint64_t encoding = scd_wire_get_u64(in);
    m->facts.rows = scd_wire_get_u64(in);
    m->facts.cols = scd_wire_get_u64(in);
    m->facts.n_stored = scd_wire_get_u64(in);
    m->facts.is_raw = scd_wire_get_u64(in) != 0;
    m->facts.obs_frame = scd_wire_get_text(in, &c->arena);
    m->facts.var_frame = scd_wire_get_text(in, &c->arena);
    m->facts.encoding = (scd_cells_encoding)encoding;
    if (code)
        scd_fail(&m->fault, code <= SCD_E_INTERNAL ? (scd_code)code : SCD_E_CORRUPT, "%.600s",
                 fault ? fault : "");
    in->failed = in->failed || !m->facts.name || encoding > SCD_CELLS_TEXT ||
                 m->facts.cols > UINT32_MAX || m->facts.rows > SIZE_MAX / 16 ||
                 (!code && (!m->facts.obs_frame || !m->facts.var_frame));
}

static void get_frame(confined *c, scd_wire_in *in, known_frame *f)
{
    f->name = scd_wire_get_text(in, &c->arena);
    f->rows = scd_wire_get_u64(in);
    f->n_columns = scd_wire_get_u64(in);
    in->failed = in->failed || !f->name || f->n_columns > MAX_COLUMNS;
    const char **columns =
        in->failed ? NULL : scd_arena_alloc(&c->arena, f->n_columns + 1, sizeof *columns);
    in->failed = in->failed || !columns;
    for (size_t i = 0; !in->failed && i < f->n_columns; i++)
        in->failed = !(columns[i] = scd_wire_get_text(in, &c->arena)) || in->failed;
    f->columns = columns;
}

static bool get_snapshot(confined *c, scd_wire_in *in)
{
    c->format = scd_wire_get_text(in, &c->arena);
    c->n_obs = scd_wire_get_u64(in);
    c->n_matrices = scd_wire_get_u64(in);
    if (in->failed || !c->format || c->n_matrices > MAX_MATRICES)
        return false;
    c->matrices = scd_arena_zalloc(&c->arena, c->n_matrices + 1, sizeof *c->matrices);
    for (size_t i = 0; c->matrices && !in->failed && i < c->n_matrices; i++)
        get_matrix(c, in, c->matrices + i);
    c->n_frames = scd_wire_get_u64(in);
    if (!c->matrices || in->failed || c->n_frames > SCD_WIRE_MAX_FRAMES)
        return false;
    c->frames = scd_arena_zalloc(&c->arena, c->n_frames + 1, sizeof *c->frames);
    for (size_t i = 0; c->frames && !in->failed && i < c->n_frames; i++)
        get_frame(c, in, c->frames + i);
    return c->frames && !in->failed && in->at == in->end;
}

static void close_cells(void *self)
{
    confined *c = self;
    end_child(c);
    scd_arena_release(&c->arena);
    free(c);
}

/* Half of the machine's, within bounds. */
static uint64_t usual_memory(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    uint64_t half = pages > 0 && page_bytes > 0 ? (uint64_t)pages * (uint64_t)page_bytes / 2 : 0;
    return half > MAX_MEMORY_BYTES   ? MAX_MEMORY_BYTES
           : half < MIN_MEMORY_BYTES ? MIN_MEMORY_BYTES
                                     : half;
}

static scd_code open_there(confined *c, const scd_confinement *limits, scd_error *err)
{
    scd_confinement l = limits ? *limits : (scd_confinement){0};
    struct stat facts = {0};
    scd_buf request;
    char *body = NULL;
    size_t n = 0;
    stat(c->path, &facts);
    double seconds = l.seconds > 0 ? l.seconds : 60,
           rate = l.mb_per_second > 0 ? l.mb_per_second : 0.5;
    c->is_unwanted = l.is_unwanted;
    c->arg = l.arg;
    c->patience_ns = (int64_t)((seconds + (double)facts.st_size / 1e6 / rate) * 1e9);
    scd_code code = scd_wire_start(SCD_CONFINED_ARGUMENT, &c->child, &c->fd, err);
    if (code)
        return scd_fail_within(err, "%s", c->path);
    scd_buf_init(&request, SCD_WIRE_MAX_REQUEST);
    scd_wire_put_text(&request, c->path);
    scd_wire_put_u64(&request, l.memory_bytes ? l.memory_bytes : usual_memory());
    scd_wire_put_u64(&request, l.file_bytes);
    code = ask(c, SCD_WIRE_OPEN, &request, SNAPSHOT_BYTES, &body, &n, err);
    scd_buf_release(&request);
    scd_wire_in in = {body, body + n, false};
    if (!code && !get_snapshot(c, &in))
        code = nonsense(c, err);
    free(body);
    return code;
}

/* ---- as cells ---- */

static const char *path_of(const void *self)
{
    const confined *c = self;
    return c->path;
}

static const char *format_of(const void *self)
{
    const confined *c = self;
    return c->format;
}

static size_t n_obs_of(const void *self)
{
    const confined *c = self;
    return c->n_obs;
}

static size_t n_matrices_of(const void *self)
{
    const confined *c = self;
    return c->n_matrices;
}

static const char *matrix_name_of(const void *self, size_t index)
{
    const confined *c = self;
    return index < c->n_matrices ? c->matrices[index].facts.name : NULL;
}

static scd_code matrix_of(const void *self, const char *name, scd_cells_matrix *out, scd_error *err)
{
    const confined *c = self;
    char list[300] = "";
    for (size_t i = 0; i < c->n_matrices; i++) {
        const known_matrix *m = c->matrices + i;
        size_t at = strlen(list);
        snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", m->facts.name);
        if (strcmp(m->facts.name, name) != 0)
            continue;
        *out = m->facts;
        if (m->fault.code && err)
            *err = m->fault;
        return m->fault.code;
    }
    return scd_fail(err, SCD_E_NOT_FOUND, "%s: no matrix \"%s\"; there are: %s", c->path, name,
                    c->n_matrices ? list : "none");
}

/* Rows as they have to be, whatever the child says. */
static bool check_rows(const scd_cells_rows *rows, uint64_t n_entries, size_t n_cols)
{
    if (rows->indptr[0] != 0 || rows->indptr[rows->n] != n_entries)
        return false;
    for (size_t row = 0; row < rows->n; row++) {
        uint64_t from = rows->indptr[row], to = rows->indptr[row + 1];
        if (from > to || to > n_entries)
            return false;
        for (uint64_t i = from; i < to; i++)
            if (rows->indices[i] >= n_cols ||
                (i > from && rows->indices[i] <= rows->indices[i - 1]))
                return false;
    }
    return true;
}

static scd_code rows_of(void *self, const char *matrix, size_t first, size_t n, scd_arena *arena,
                        scd_cells_rows *out, scd_error *err)
{
    confined *c = self;
    scd_cells_matrix facts;
    scd_buf request;
    char *body = NULL;
    size_t n_bytes = 0;
    scd_code code = matrix_of(self, matrix, &facts, err);
    if (code)
        return code;
    scd_buf_init(&request, SCD_WIRE_MAX_REQUEST);
    scd_wire_put_text(&request, matrix);
    scd_wire_put_u64(&request, first);
    scd_wire_put_u64(&request, n);
    code =
        ask(c, SCD_WIRE_ROWS, &request, arena->max_bytes - arena->used_bytes, &body, &n_bytes, err);
    scd_buf_release(&request);
    if (code)
        return code;
    scd_wire_in in = {body, body + n_bytes, false};
    uint64_t n_got = scd_wire_get_u64(&in), n_entries = scd_wire_get_u64(&in);
    out->n = n;
    out->indptr =
        n_got == n ? scd_wire_get_array(&in, n_got + 1, sizeof *out->indptr, arena) : NULL;
    out->indices = scd_wire_get_array(&in, n_entries, sizeof *out->indices, arena);
    out->data = scd_wire_get_array(&in, n_entries, sizeof *out->data, arena);
    if (in.failed || !out->indptr || in.at != in.end || !check_rows(out, n_entries, facts.cols))
        code = nonsense(c, err);
    free(body);
    return code;
}

static const known_frame *find_frame(const confined *c, const char *name)
{
    for (size_t i = 0; i < c->n_frames; i++)
        if (strcmp(c->frames[i].name, name) == 0)
            return c->frames + i;
    return NULL;
}

static size_t n_columns_of(const void *self, const char *frame)
{
    const known_frame *f = find_frame(self, frame);
    return f ? f->n_columns : 0;
}

static const char *column_name_of(const void *self, const char *frame, size_t index)
{
    const known_frame *f = find_frame(self, frame);
    return f && index < f->n_columns ? f->columns[index] : NULL;
}

static size_t frame_rows_of(const void *self, const char *frame)
{
    const known_frame *f = find_frame(self, frame);
    return f ? f->rows : 0;
}

static scd_code ask_column(confined *c, scd_wire_op op, const char *frame, const char *column,
                           const scd_arena *arena, char **body, size_t *n, scd_error *err)
{
    scd_buf request;
    scd_buf_init(&request, SCD_WIRE_MAX_REQUEST);
    scd_wire_put_text(&request, frame);
    scd_wire_put_text(&request, column);
    scd_code code = ask(c, op, &request, arena->max_bytes - arena->used_bytes, body, n, err);
    scd_buf_release(&request);
    return code;
}

static const char **get_texts(scd_wire_in *in, uint64_t n, scd_arena *arena)
{
    size_t left = in->failed ? 0 : (size_t)(in->end - in->at);
    const char **texts =
        n > left / sizeof(uint32_t) ? NULL : scd_arena_alloc(arena, n + 1, sizeof *texts);
    for (uint64_t i = 0; texts && i < n && !in->failed; i++)
        texts[i] = scd_wire_get_text(in, arena);
    return texts && !in->failed && in->at == in->end ? texts : NULL;
}

static scd_code text_of(void *self, const char *frame, const char *column, scd_arena *arena,
                        const char *const **out, size_t *n, scd_error *err)
{
    confined *c = self;
    char *body = NULL;
    size_t n_bytes = 0;
    scd_code code = ask_column(c, SCD_WIRE_TEXT, frame, column, arena, &body, &n_bytes, err);
    if (code)
        return code;
    scd_wire_in in = {body, body + n_bytes, false};
    *n = scd_wire_get_u64(&in);
    code = too_many(c, arena, *n, err);
    *out = code ? NULL : get_texts(&in, *n, arena);
    if (!code && (!*out || *n != frame_rows_of(self, frame)))
        code = nonsense(c, err);
    free(body);
    return code;
}

static scd_code categories_of(void *self, const char *frame, const char *column, scd_arena *arena,
                              scd_cells_categories *out, scd_error *err)
{
    confined *c = self;
    char *body = NULL;
    size_t n_bytes = 0;
    scd_code code = ask_column(c, SCD_WIRE_CATEGORIES, frame, column, arena, &body, &n_bytes, err);
    if (code)
        return code;
    scd_wire_in in = {body, body + n_bytes, false};
    out->n = scd_wire_get_u64(&in);
    out->n_categories = scd_wire_get_u64(&in);
    out->codes = scd_wire_get_array(&in, out->n, sizeof *out->codes, arena);
    out->categories = get_texts(&in, out->n_categories, arena);
    bool ok = out->codes && out->categories && out->n == frame_rows_of(self, frame);
    for (size_t i = 0; ok && i < out->n; i++)
        ok =
            out->codes[i] >= -1 && (out->codes[i] < 0 || (size_t)out->codes[i] < out->n_categories);
    for (size_t i = 0; ok && i < out->n_categories; i++)
        ok = out->categories[i] != NULL;
    if (!ok)
        code = nonsense(c, err);
    free(body);
    return code;
}

static const scd_cells_format_ops ops = {
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

scd_code scd_cells_open_confined(const char *path, const scd_confinement *limits, scd_cells **out,
                                 scd_error *err)
{
    confined *c = scd_calloc(1, sizeof *c);
    scd_cells *cells = c ? scd_calloc(1, sizeof *cells) : NULL;
    if (c) {
        c->fd = -1;
        scd_arena_init(&c->arena, SNAPSHOT_BYTES * 2);
        c->path = scd_arena_strndup(&c->arena, path, strlen(path));
    }
    scd_code code = cells && c->path ? open_there(c, limits, err)
                                     : scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    if (code) {
        free(cells);
        if (c)
            close_cells(c);
        return code;
    }
    *cells = (scd_cells){&ops, c};
    *out = cells;
    return SCD_OK;
}
