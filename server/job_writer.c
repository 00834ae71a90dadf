/* job_writer.c - see job_writer.h: both sides. */
#include "server/job_writer.h"

#include "api/confined_wire.h"
#include "api/sandbox.h"
#include "engine/base/clock.h"
#include "engine/base/fd.h"
#include "engine/base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATH_BYTES = 4096, LOOK_MS = 200, PATIENCE_S = 120, SLOWEST_BYTES_PER_S = 4 << 20 };
#define REQUEST_BYTES ((size_t)256 << 20)
#define CHILD_MEMORY ((size_t)4 << 30)
#define SLACK ((uint64_t)256 << 20)

/* ---- what is asked of the child ------------------------------------------------------------- */

static void put_number(scd_buf *out, double number)
{
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    scd_wire_put_u64(out, bits);
}

static double get_number(scd_wire_in *in)
{
    uint64_t bits = scd_wire_get_u64(in);
    double number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

static void put_texts(scd_buf *out, const char *const *texts, size_t n)
{
    scd_wire_put_u64(out, n);
    for (size_t i = 0; i < n; i++)
        scd_wire_put_text(out, texts[i]);
}

static const char *const *get_texts(scd_wire_in *in, size_t *n, scd_arena *arena)
{
    *n = (size_t)scd_wire_get_u64(in);
    if (in->failed || *n > (size_t)(in->end - in->at))
        return NULL;
    const char **texts = scd_arena_alloc(arena, *n + 1, sizeof *texts);
    for (size_t i = 0; texts && i < *n; i++)
        texts[i] = scd_wire_get_text(in, arena);
    return texts;
}

/* A layer: which of its columns were found, which are left out, and what the others are of. */
static void put_values(scd_buf *out, const scd_results_spec *s)
{
    size_t n_genes = s->denoised ? s->plan->n_genes : 0;
    scd_wire_put_u64(out, s->denoised);
    scd_wire_put_u64(out, s->n_values);
    scd_wire_put_u64(out, s->plan->choice.kind);
    scd_wire_put_u64(out, n_genes);
    for (size_t i = 0; i < n_genes; i++)
        scd_wire_put_u64(out, (uint64_t)(s->values_of[i] + 1) << 1 | s->plan->left_out[i]);
}

static bool get_values(scd_wire_in *in, scd_results_spec *s, scd_file_plan *plan, size_t *n_genes,
                       scd_arena *arena)
{
    s->denoised = scd_wire_get_u64(in) != 0;
    s->n_values = (size_t)scd_wire_get_u64(in);
    plan->choice.kind =
        scd_wire_get_u64(in) == SCD_INPUT_COUNTS ? SCD_INPUT_COUNTS : SCD_INPUT_LOG1P_CP10K;
    *n_genes = (size_t)scd_wire_get_u64(in);
    if (in->failed || *n_genes > (size_t)(in->end - in->at))
        return false;
    int32_t *values_of = scd_arena_alloc(arena, *n_genes + 1, sizeof *values_of);
    bool *left_out = scd_arena_alloc(arena, *n_genes + 1, sizeof *left_out);
    if (!values_of || !left_out)
        return false;
    for (size_t i = 0; i < *n_genes; i++) {
        uint64_t both = scd_wire_get_u64(in), which = both >> 1;
        values_of[i] = which > s->n_values ? -1 : (int32_t)which - 1;
        left_out[i] = both & 1;
    }
    s->values_of = values_of;
    plan->left_out = left_out;
    return !in->failed;
}

/* A result that is a table, for an .h5ad: its columns. */
static void put_table(scd_buf *out, const scd_table *t)
{
    scd_wire_put_u64(out, t != NULL);
    if (!t)
        return;
    scd_wire_put_u64(out, t->n_rows);
    scd_wire_put_u64(out, t->n_columns);
    for (size_t i = 0; i < t->n_columns; i++) {
        const scd_table_column *c = &t->columns[i];
        scd_wire_put_text(out, c->name);
        scd_wire_put_u64(out, c->texts ? 0 : c->floats ? 1 : c->doubles ? 2 : c->wholes ? 3 : 4);
        if (c->texts)
            put_texts(out, c->texts, t->n_rows);
        else if (c->floats)
            scd_buf_append(out, c->floats, t->n_rows * sizeof *c->floats);
        else if (c->doubles)
            scd_buf_append(out, c->doubles, t->n_rows * sizeof *c->doubles);
        else if (c->wholes)
            scd_buf_append(out, c->wholes, t->n_rows * sizeof *c->wholes);
        else
            scd_buf_append(out, c->bools, t->n_rows * sizeof *c->bools);
    }
}

static void get_column(scd_wire_in *in, scd_table_column *c, size_t n, scd_arena *arena)
{
    size_t n_texts;
    c->name = scd_wire_get_text(in, arena);
    switch (scd_wire_get_u64(in)) {
    case 0:
        c->texts = get_texts(in, &n_texts, arena);
        in->failed = in->failed || !c->texts || n_texts != n;
        break;
    case 1:
        c->floats = scd_wire_get_array(in, n, sizeof *c->floats, arena);
        break;
    case 2:
        c->doubles = scd_wire_get_array(in, n, sizeof *c->doubles, arena);
        break;
    case 3:
        c->wholes = scd_wire_get_array(in, n, sizeof *c->wholes, arena);
        break;
    default:
        c->bools = scd_wire_get_array(in, n, sizeof *c->bools, arena);
    }
    in->failed = in->failed || !c->name;
}

static bool get_table(scd_wire_in *in, scd_results_spec *s, scd_table *t, scd_arena *arena)
{
    *t = (scd_table){0};
    if (!scd_wire_get_u64(in))
        return !in->failed;
    t->n_rows = (size_t)scd_wire_get_u64(in);
    t->n_columns = (size_t)scd_wire_get_u64(in);
    if (in->failed || t->n_columns > SCD_TABLE_COLUMNS)
        return false;
    for (size_t i = 0; i < t->n_columns && !in->failed; i++)
        get_column(in, &t->columns[i], t->n_rows, arena);
    s->table = t;
    return !in->failed;
}

static void put_request(const scd_job_writing *w, const char *input, const char *folder,
                        const char *path, scd_buf *out)
{
    const scd_results_spec *s = &w->spec;
    scd_wire_put_text(out, input);
    scd_wire_put_text(out, folder);
    scd_wire_put_text(out, path);
    scd_wire_put_text(out, s->plan->choice.matrix);
    scd_wire_put_u64(out, s->plan->n_cells);
    scd_wire_put_u64(out, s->plan->n_genes);
    scd_wire_put_u64(out, s->plan->n_stored);
    scd_wire_put_text(out, s->task);
    scd_wire_put_u64(out, s->overwrite);
    scd_wire_put_u64(out, s->embedding_width);
    put_texts(out, s->labels, s->n_labels);
    put_number(out, s->threshold);
    put_values(out, s);
    put_table(out, s->table);
    scd_wire_put_text(out, w->chunks);
    scd_wire_put_u64(out, w->row_bytes);
    scd_wire_put_u64(out, w->n_facts);
    for (size_t i = 0; i < w->n_facts; i++) {
        const scd_fact *f = &w->facts[i];
        scd_wire_put_text(out, f->key);
        scd_wire_put_u64(out, f->is_list ? 2 : f->is_number);
        scd_wire_put_text(out, f->text);
        put_texts(out, f->list, f->is_list ? f->n_list : 0);
        put_number(out, f->number);
    }
}

static bool get_facts(scd_wire_in *in, scd_job_writing *w, scd_arena *arena)
{
    w->n_facts = (size_t)scd_wire_get_u64(in);
    if (in->failed || w->n_facts > SCD_RUN_MAX_FACTS)
        return false;
    scd_fact *facts = scd_arena_zalloc(arena, w->n_facts + 1, sizeof *facts);
    for (size_t i = 0; facts && i < w->n_facts && !in->failed; i++) {
        facts[i].key = scd_wire_get_text(in, arena);
        uint64_t kind = scd_wire_get_u64(in);
        facts[i].is_list = kind == 2;
        facts[i].is_number = kind == 1;
        facts[i].text = scd_wire_get_text(in, arena);
        facts[i].list = get_texts(in, &facts[i].n_list, arena);
        facts[i].number = get_number(in);
    }
    w->facts = facts;
    return facts && !in->failed;
}

/* ---- the child ------------------------------------------------------------------------------ */

/* A result is as long as its input and what is added, twice over where records are written anew. */
static uint64_t longest_result(const char *input, const scd_job_writing *w)
{
    struct stat st = {0};
    stat(input, &st);
    const scd_results_spec *s = &w->spec;
    uint64_t a_cell = w->row_bytes + 64; /* a number of a layer: itself and where it stands */
    a_cell += s->denoised ? 12 * (uint64_t)s->plan->n_genes : 0;
    uint64_t table = s->table ? 64 * (uint64_t)s->table->n_rows * s->table->n_columns : 0;
    return 2 * (uint64_t)st.st_size + s->plan->n_cells * a_cell + table + SLACK;
}

static bool enter_sandbox(const char *input, const char *folder, const scd_job_writing *w)
{
    const scd_sandbox box = {.reads = {input, w->chunks},
                             .writes = folder,
                             .renames = true,
                             .memory_bytes = CHILD_MEMORY,
                             .file_bytes = longest_result(input, w)};
    signal(SIGXFSZ, SIG_IGN); /* an error of write is told better than a signal */
    return scd_sandbox_enter(&box);
}

/* folder NULL: it is only to be checked. */
static scd_code write_to(const char *input, const char *folder, scd_job_writing *w, scd_error *err)
{
    scd_results_spec *s = &w->spec;
    scd_cells_matrix matrix;
    if (!enter_sandbox(input, folder, w))
        return scd_fail(err, SCD_E_INTERNAL, "%s: the writer could not be confined: %s", input,
                        strerror(errno));
    scd_code code = scd_cells_open(input, &s->cells, err);
    if (!code)
        code = scd_cells_matrix_get(s->cells, s->plan->choice.matrix, &matrix, err);
    if (!code && (matrix.rows != s->plan->n_cells || matrix.cols != s->plan->n_genes))
        code = scd_fail(err, SCD_E_CORRUPT, "%s: it changed while it was worked on", input);
    if (!code)
        code = folder ? scd_job_write_here(w, err) : scd_results_check(s, err);
    scd_cells_close(s->cells);
    return code;
}

static scd_code write_it(scd_wire_in *in, scd_arena *arena, scd_error *err)
{
    scd_file_plan plan = {0};
    scd_job_writing w = {.spec.plan = &plan};
    scd_results_spec *s = &w.spec;
    size_t n_genes;
    scd_table table;
    const char *input = scd_wire_get_text(in, arena), *folder = scd_wire_get_text(in, arena);
    s->path = scd_wire_get_text(in, arena);
    plan.choice.matrix = scd_wire_get_text(in, arena);
    plan.n_cells = (size_t)scd_wire_get_u64(in);
    plan.n_genes = (size_t)scd_wire_get_u64(in);
    plan.n_stored = scd_wire_get_u64(in);
    s->task = scd_wire_get_text(in, arena);
    s->overwrite = scd_wire_get_u64(in) != 0;
    s->embedding_width = (size_t)scd_wire_get_u64(in);
    s->labels = get_texts(in, &s->n_labels, arena);
    s->threshold = get_number(in);
    bool has_values = get_values(in, s, &plan, &n_genes, arena) && get_table(in, s, &table, arena);
    w.chunks = scd_wire_get_text(in, arena);
    w.row_bytes = (size_t)scd_wire_get_u64(in);
    if (!has_values || !get_facts(in, &w, arena) || !input || !s->path || !s->task || !s->labels ||
        !w.chunks || !plan.choice.matrix || !plan.n_cells ||
        (s->denoised && plan.n_genes != n_genes))
        return scd_fail(err, SCD_E_INTERNAL, "job writer: a request that is none");
    return write_to(input, folder, &w, err);
}

bool scd_job_writer_main(int argc, char **argv, int *status)
{
    uint64_t n;
    scd_error err = {0};
    scd_arena arena;
    if (argc != 2 || strcmp(argv[1], SCD_JOB_WRITER_ARGUMENT) != 0)
        return false;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    *status = 1;
    if (!scd_read_all(SCD_WIRE_FD, &n, sizeof n) || n > REQUEST_BYTES)
        return true;
    scd_arena_init(&arena, CHILD_MEMORY);
    char *request = scd_arena_alloc(&arena, (size_t)n + 1, 1);
    if (!request || !scd_read_all(SCD_WIRE_FD, request, (size_t)n))
        return true;
    scd_wire_in in = {request, request + n, false};
    err.code = write_it(&in, &arena, &err);
    *status = scd_write_all(SCD_WIRE_FD, &err, sizeof err) ? 0 : 1;
    scd_arena_release(&arena);
    return true;
}

/* ---- the parent ----------------------------------------------------------------------------- */

static int64_t deadline_of(const char *input)
{
    struct stat st = {0};
    stat(input, &st);
    return scd_now_ns() + (PATIENCE_S + st.st_size / SLOWEST_BYTES_PER_S) * SCD_NS_PER_S;
}

/* Its whole answer. False: it ended or said less; it is too late (*late); or nobody wants it any
 * more (*unwanted). */
static bool hear(const scd_job_writing *w, int fd, int64_t deadline_ns, scd_error *said, bool *late,
                 bool *unwanted)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    for (size_t at = 0; at < sizeof *said;) {
        int ready = poll(&p, 1, LOOK_MS);
        *unwanted = w->is_unwanted && w->is_unwanted(w->arg);
        *late = ready <= 0 && scd_now_ns() > deadline_ns;
        if (*unwanted || *late)
            return false;
        if (ready <= 0)
            continue;
        ssize_t n = read(fd, (char *)said + at, sizeof *said - at);
        if (n == 0 || (n < 0 && errno != EINTR))
            return false;
        at += n > 0 ? (size_t)n : 0;
    }
    said->message[sizeof said->message - 1] = '\0';
    return true;
}

void scd_job_writer_forget(const char *folder)
{
    DIR *dir = opendir(folder);
    for (const struct dirent *d; dir && (d = readdir(dir));)
        unlinkat(dirfd(dir), d->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir(folder);
}

/* Where the child wrote is the result's place for everybody else. */
static void name_result(char *message, size_t cap, const char *folder, const char *path)
{
    char rest[sizeof((scd_error *)0)->message];
    char *at = *folder ? strstr(message, folder) : NULL;
    if (!at)
        return;
    const char *end = at + strlen(folder);
    snprintf(rest, sizeof rest, "%s", end + strcspn(end, ": "));
    snprintf(at, cap - (size_t)(at - message), "%s%s", path, rest);
}

/* One child: asked, heard, ended. */
static scd_code ask_child(const scd_job_writing *w, const char *input, const scd_buf *request,
                          scd_error *said, scd_error *err)
{
    pid_t child = 0;
    int fd = -1, status = 0;
    bool late = false, unwanted = false;
    scd_code code = scd_wire_start(SCD_JOB_WRITER_ARGUMENT, &child, &fd, err);
    if (code)
        return code;
    uint64_t n = request->n_bytes;
    bool answered = scd_write_all(fd, &n, sizeof n) && scd_write_all(fd, request->data, n) &&
                    hear(w, fd, deadline_of(input), said, &late, &unwanted);
    close(fd);
    kill(child, SIGKILL); /* where it has ended by itself, that is what the status tells */
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (answered)
        return SCD_OK;
    if (unwanted)
        return scd_fail(err, SCD_E_CANCELED, "not wanted any more");
    if (late)
        return scd_fail(err, SCD_E_CORRUPT,
                        "%s: adding the results to it took longer than to any file of its size: it "
                        "is damaged, or made to do that",
                        input);
    return scd_fail(err, SCD_E_CORRUPT,
                    "%s: adding the results to it crashed the writer (%s): it is damaged, or "
                    "made to do that",
                    input, WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "it ended");
}

static scd_code take_result(const char *from, const char *to, scd_error *err)
{
    struct stat st;
    if (lstat(from, &st) || !S_ISREG(st.st_mode))
        return scd_fail(err, SCD_E_INTERNAL, "%s: the writer left no result", to);
    return rename(from, to) ? scd_fail(err, SCD_E_IO, "%s: %s", to, strerror(errno)) : SCD_OK;
}

scd_code scd_job_write_apart(const scd_job_writing *w, const char *input, bool only_checks,
                             scd_error *err)
{
    scd_buf request;
    scd_error said = {0};
    char folder[PATH_BYTES] = "", path[PATH_BYTES];
    int n =
        only_checks ? 0 : snprintf(folder, sizeof folder, "%s" SCD_JOB_WRITER_FOLDER, w->spec.path);
    int n_path = snprintf(path, sizeof path, "%s%s", only_checks ? w->spec.path : folder,
                          only_checks ? "" : "/result.h5ad");
    if (n < 0 || n_path < 0 || (size_t)n_path >= sizeof path)
        return scd_fail(err, SCD_E_IO, "%s: its path is too long", w->spec.path);
    if (!only_checks)
        scd_job_writer_forget(folder); /* of a crash */
    if (!only_checks && mkdir(folder, 0700))
        return scd_fail(err, SCD_E_IO, "%s: %s", w->spec.path, strerror(errno));
    scd_buf_init(&request, REQUEST_BYTES);
    put_request(w, input, only_checks ? NULL : folder, path, &request);
    scd_code code = request.failed ? scd_fail(err, SCD_E_NOMEM, "out of memory for the result")
                                   : ask_child(w, input, &request, &said, err);
    scd_buf_release(&request);
    if (!code && said.code > SCD_E_INTERNAL)
        code = scd_fail(err, SCD_E_INTERNAL, "job writer: no answer");
    else if (!code && said.code) {
        name_result(said.message, sizeof said.message, folder, w->spec.path);
        code = scd_fail(err, said.code, "%s", said.message);
    }
    if (!code && !only_checks)
        code = take_result(path, w->spec.path, err);
    if (!only_checks)
        scd_job_writer_forget(folder);
    return code;
}
