/* job_writer.c - see job_writer.h: both sides. */
#include "server/job_writer.h"

#include "api/confined_wire.h"
#include "engine/base/clock.h"
#include "engine/base/fd.h"
#include "engine/base/mem.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATH_BYTES = 4096, LOOK_MS = 200, PATIENCE_S = 120, SLOWEST_BYTES_PER_S = 4 << 20 };
#define REQUEST_BYTES ((size_t)256 << 20)
#define CHILD_MEMORY ((rlim_t)8 << 30)

extern char **environ;

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

/* A layer: which of its columns were found. */
static void put_values(scd_buf *out, const scd_results_spec *s)
{
    size_t n_genes = s->denoised ? s->plan->n_genes : 0;
    scd_wire_put_u64(out, s->denoised);
    scd_wire_put_u64(out, s->n_values);
    scd_wire_put_u64(out, n_genes);
    for (size_t i = 0; i < n_genes; i++)
        scd_wire_put_u64(out, (uint64_t)(s->values_of[i] + 1));
}

static bool get_values(scd_wire_in *in, scd_results_spec *s, size_t *n_genes, scd_arena *arena)
{
    s->denoised = scd_wire_get_u64(in) != 0;
    s->n_values = (size_t)scd_wire_get_u64(in);
    *n_genes = (size_t)scd_wire_get_u64(in);
    if (in->failed || *n_genes > (size_t)(in->end - in->at))
        return false;
    int32_t *values_of = scd_arena_alloc(arena, *n_genes + 1, sizeof *values_of);
    for (size_t i = 0; values_of && i < *n_genes; i++) {
        uint64_t which = scd_wire_get_u64(in);
        values_of[i] = which > s->n_values ? -1 : (int32_t)which - 1;
    }
    s->values_of = values_of;
    return values_of && !in->failed;
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

static void put_request(const scd_job_writing *w, const char *input, const char *genome,
                        bool only_checks, scd_buf *out)
{
    const scd_results_spec *s = &w->spec;
    scd_wire_put_u64(out, only_checks);
    scd_wire_put_text(out, input);
    scd_wire_put_text(out, s->plan->choice.matrix);
    scd_wire_put_text(out, s->plan->choice.gene_column);
    scd_wire_put_text(out, genome);
    scd_wire_put_text(out, s->path);
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

static scd_code write_it(scd_wire_in *in, scd_arena *arena, scd_error *err)
{
    scd_file_plan plan;
    scd_job_writing w = {.spec.plan = &plan};
    scd_results_spec *s = &w.spec;
    bool only_checks = scd_wire_get_u64(in) != 0;
    size_t n_genes;
    scd_table table;
    const char *input = scd_wire_get_text(in, arena);
    scd_file_plan_options o = {.force = true, .matrix = scd_wire_get_text(in, arena)};
    o.gene_column = scd_wire_get_text(in, arena);
    o.gene_column = o.gene_column ? o.gene_column : "index";
    o.genome = scd_wire_get_text(in, arena);
    s->path = scd_wire_get_text(in, arena);
    s->task = scd_wire_get_text(in, arena);
    s->overwrite = scd_wire_get_u64(in) != 0;
    s->embedding_width = (size_t)scd_wire_get_u64(in);
    s->labels = get_texts(in, &s->n_labels, arena);
    s->threshold = get_number(in);
    bool has_values = get_values(in, s, &n_genes, arena) && get_table(in, s, &table, arena);
    w.chunks = scd_wire_get_text(in, arena);
    w.row_bytes = (size_t)scd_wire_get_u64(in);
    if (!has_values || !get_facts(in, &w, arena) || !input || !s->path || !s->task || !s->labels ||
        !w.chunks)
        return scd_fail(err, SCD_E_INTERNAL, "job writer: a request that is none");
    scd_code code = scd_cells_open(input, &s->cells, err);
    if (!code)
        code = scd_cells_plan(s->cells, &o, arena, &plan, err);
    if (!code && s->denoised && plan.n_genes != n_genes)
        code =
            scd_fail(err, SCD_E_INTERNAL, "job writer: %zu genes, not %zu", plan.n_genes, n_genes);
    if (!code)
        code = only_checks ? scd_results_check(s, err) : scd_job_write_here(&w, err);
    scd_cells_close(s->cells);
    return code;
}

bool scd_job_writer_main(int argc, char **argv, int *status)
{
    uint64_t n;
    scd_error err = {0};
    scd_arena arena;
    if (argc != 2 || strcmp(argv[1], SCD_JOB_WRITER_ARGUMENT) != 0)
        return false;
    const struct rlimit no_core = {0, 0}, memory = {CHILD_MEMORY, CHILD_MEMORY};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    setrlimit(RLIMIT_CORE, &no_core);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* their shadow needs more */
    setrlimit(RLIMIT_AS, &memory);
#endif
    (void)memory;
    *status = 1;
    if (!scd_read_all(SCD_WIRE_FD, &n, sizeof n) || n > REQUEST_BYTES)
        return true;
    scd_arena_init(&arena, (size_t)CHILD_MEMORY);
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

static scd_code start(pid_t *child, int *fd, scd_error *err)
{
    char program[PATH_BYTES];
    char *argv[] = {program, SCD_JOB_WRITER_ARGUMENT, NULL};
    int ends[2];
    posix_spawn_file_actions_t actions;
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    program[n > 0 ? n : 0] = '\0';
    if (n <= 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        return scd_fail(err, SCD_E_INTERNAL, "no writer of results: %s", strerror(errno));
    int failed = posix_spawn_file_actions_init(&actions);
    if (!failed) {
        failed = posix_spawn_file_actions_adddup2(&actions, ends[1], SCD_WIRE_FD);
        if (!failed)
            failed = posix_spawn(child, program, &actions, NULL, argv, environ);
        posix_spawn_file_actions_destroy(&actions);
    }
    close(ends[1]);
    *fd = ends[0];
    if (failed)
        close(ends[0]);
    return failed ? scd_fail(err, SCD_E_INTERNAL, "no writer of results: %s", strerror(failed))
                  : SCD_OK;
}

static int64_t deadline_of(const char *input)
{
    struct stat st = {0};
    stat(input, &st);
    return scd_now_ns() + (PATIENCE_S + st.st_size / SLOWEST_BYTES_PER_S) * SCD_NS_PER_S;
}

/* Until it says something or ends. False: it is too late, or nobody wants it any more (*unwanted).
 */
static bool wait_for(const scd_job_writing *w, int fd, int64_t deadline_ns, bool *unwanted)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    for (;;) {
        int n = poll(&p, 1, LOOK_MS);
        *unwanted = w->is_unwanted && w->is_unwanted(w->arg);
        if (*unwanted || (n <= 0 && scd_now_ns() > deadline_ns))
            return false;
        if (n > 0)
            return true;
    }
}

/* What scd_file_writer had begun when its process was killed. */
static void forget_half(const char *path, pid_t child)
{
    char half[PATH_BYTES];
    int n = snprintf(half, sizeof half, "%s.%ld.tmp", path, (long)child);
    if (n > 0 && (size_t)n < sizeof half)
        unlink(half);
}

scd_code scd_job_write_apart(const scd_job_writing *w, const char *input, const char *genome,
                             bool only_checks, scd_error *err)
{
    scd_buf request;
    scd_error said = {0};
    pid_t child = 0;
    int fd = -1, status = 0;
    bool unwanted = false;
    scd_buf_init(&request, REQUEST_BYTES);
    put_request(w, input, genome, only_checks, &request);
    if (request.failed) {
        scd_buf_release(&request);
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the result");
    }
    scd_code code = start(&child, &fd, err);
    if (code) {
        scd_buf_release(&request);
        return code;
    }
    uint64_t n = request.n_bytes;
    bool in_time = scd_write_all(fd, &n, sizeof n) && scd_write_all(fd, request.data, n) &&
                   wait_for(w, fd, deadline_of(input), &unwanted);
    bool answered = in_time && scd_read_all(fd, &said, sizeof said);
    close(fd);
    if (!answered && !in_time)
        kill(child, SIGKILL);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    scd_buf_release(&request);
    if (!answered)
        forget_half(w->spec.path, child);
    said.message[sizeof said.message - 1] = '\0';
    if (unwanted)
        return scd_fail(err, SCD_E_CANCELED, "not wanted any more");
    if (!in_time && !WIFEXITED(status))
        return scd_fail(err, SCD_E_CORRUPT,
                        "%s: adding the results to it took longer than to any file of its size: it "
                        "is damaged, or made to do that",
                        input);
    if (!answered)
        return scd_fail(err, SCD_E_CORRUPT,
                        "%s: adding the results to it crashed the writer (%s): it is damaged, or "
                        "made to do that",
                        input, WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "it ended");
    return said.code > SCD_E_INTERNAL ? scd_fail(err, SCD_E_INTERNAL, "job writer: no answer")
           : said.code                ? scd_fail(err, said.code, "%s", said.message)
                                      : SCD_OK;
}
