/* cells_plan.c - see cells_plan.h. */
#include "api/cells_plan.h"

#include "engine/base/buf.h"
#include "engine/base/mem.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { PIECES = 10, SAMPLE_BYTES = 1 << 29, EXAMPLES = 5 };

typedef struct planner {
    scd_cells *cells;
    const scd_file_plan_options *o;
    scd_arena *arena;
    scd_file_plan *plan;
} planner;

static scd_code no_memory(const planner *p, scd_error *err)
{
    return scd_fail(err, SCD_E_NOMEM, "%s: out of memory, or more than the caller allows for it",
                    scd_cells_path(p->cells));
}

/* ---- notes ---- */

static void note(const char *notes[SCD_PLAN_MAX_NOTES], size_t *n, scd_arena *arena,
                 const char *fmt, va_list args)
{
    char text[2048];
    if (*n == SCD_PLAN_MAX_NOTES)
        return;
    vsnprintf(text, sizeof text, fmt, args);
    const char *copy = scd_arena_strndup(arena, text, strlen(text));
    if (copy)
        notes[(*n)++] = copy;
}

static void decide(planner *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void decide(planner *p, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    note(p->plan->decisions, &p->plan->n_decisions, p->arena, fmt, args);
    va_end(args);
}

void scd_file_plan_warn(scd_file_plan *plan, scd_arena *arena, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    note(plan->warnings, &plan->n_warnings, arena, fmt, args);
    va_end(args);
}

/* ---- columns ---- */

/* A column of the matrix's frame; *out NULL: it has none of this name. */
static scd_code column(const planner *p, const char *name, const char *const **out, scd_error *err)
{
    const char *frame = p->plan->choice.frame;
    size_t n = scd_cells_n_columns(p->cells, frame), n_text;
    *out = NULL;
    for (size_t i = 0; i < n; i++)
        if (strcmp(scd_cells_column_name(p->cells, frame, i), name) == 0)
            return scd_cells_column_text(p->cells, frame, name, p->arena, out, &n_text, err);
    return SCD_OK;
}

/* Columns whose entry is not `wanted` are left out. */
static size_t leave_out(bool *left_out, const char *const *entries, size_t n, const char *wanted)
{
    size_t n_out = 0;
    for (size_t i = 0; i < n; i++) {
        bool is_out = !entries[i] || strcmp(entries[i], wanted) != 0;
        n_out += is_out && !left_out[i];
        left_out[i] = left_out[i] || is_out;
    }
    return n_out;
}

static size_t count_equal(const char *const *entries, size_t n, const char *wanted)
{
    size_t n_equal = 0;
    for (size_t i = 0; i < n; i++)
        n_equal += entries[i] && strcmp(entries[i], wanted) == 0;
    return n_equal;
}

static scd_code choose_features(planner *p, bool *left_out, scd_error *err)
{
    static const char wanted[] = "Gene Expression";
    const char *const *types;
    size_t n = p->plan->n_genes;
    scd_code code = column(p, "feature_types", &types, err);
    if (code || !types || !count_equal(types, n, wanted))
        return code; /* what it holds says something else */
    size_t n_out = leave_out(left_out, types, n, wanted);
    if (n_out)
        decide(p, "%zu of %zu features are not of the type \"%s\" and are left out", n_out, n,
               wanted);
    p->plan->n_left_out += n_out;
    return SCD_OK;
}

static scd_code choose_genome(planner *p, bool *left_out, scd_error *err)
{
    const char *const *genomes, *wanted = p->o->genome;
    size_t n = p->plan->n_genes;
    if (!wanted || strcmp(wanted, p->plan->choice.matrix) == 0)
        return SCD_OK; /* all, or a matrix of its own */
    scd_code code = column(p, "genome", &genomes, err);
    if (code)
        return code;
    if (!genomes || !count_equal(genomes, n, wanted))
        return scd_fail(err, SCD_E_NOT_FOUND, "%s: no genome \"%s\"%s%s", scd_cells_path(p->cells),
                        wanted, genomes && n && genomes[0] ? "; the first one is " : "",
                        genomes && n && genomes[0] ? genomes[0] : "");
    size_t n_out = leave_out(left_out, genomes, n, wanted);
    decide(p, "%zu of %zu features are of other genomes than %s and are left out", n_out, n,
           wanted);
    p->plan->n_left_out += n_out;
    return SCD_OK;
}

static scd_code read_names(planner *p, const char ***out, scd_error *err)
{
    const scd_cells_choice *c = &p->plan->choice;
    const char *const *text;
    size_t n, n_prefixed;
    scd_code code = scd_cells_gene_names(p->cells, c->frame, c->gene_column, p->arena, &text, &n,
                                         &n_prefixed, err);
    if (code)
        return code;
    const char **names = scd_arena_alloc(p->arena, n + 1, sizeof *names);
    if (!names)
        return no_memory(p, err);
    for (size_t i = 0; i < n; i++)
        names[i] = text[i] ? text[i] : "";
    if (n_prefixed)
        decide(p, "%zu names have their genome in front (\"GENOME_NAME\"): it is left out of them",
               n_prefixed);
    *out = names;
    return SCD_OK;
}

/* ---- tokens ---- */

static bool is_mouse(const planner *p, const char *name)
{
    return p->o->is_mouse ? p->o->is_mouse(p->o->is_mouse_arg, name)
                          : strncmp(name, "ENSMUSG", 7) == 0;
}

static scd_code list_examples(planner *p, const char *const *names, scd_error *err)
{
    scd_buf text;
    size_t n = 0;
    scd_buf_init(&text, 4096);
    for (size_t i = 0; i < p->plan->n_genes && n < EXAMPLES; i++)
        if (p->plan->tokens[i] < 0 && !p->plan->left_out[i] && names[i][0])
            scd_buf_printf(&text, "%s%.60s", n++ ? ", " : "", names[i]);
    p->plan->unknown_examples =
        n && !text.failed ? scd_arena_strndup(p->arena, text.data, text.n_bytes) : "";
    scd_buf_release(&text);
    return p->plan->unknown_examples ? SCD_OK : no_memory(p, err);
}

static scd_code refuse_genes(const planner *p, size_t n_mouse, scd_error *err)
{
    const scd_file_plan *plan = p->plan;
    size_t n = plan->n_genes - plan->n_left_out;
    const char *path = scd_cells_path(p->cells), *model = p->o->model ? p->o->model : "";
    if (n_mouse * 2 > n)
        return scd_fail(err, SCD_E_INVALID,
                        "%s: %zu of %zu gene names are mouse identifiers and model \"%s\" knows "
                        "human genes: map them to their human orthologs first",
                        path, n_mouse, n, model);
    if (!plan->n_known)
        return scd_fail(err, SCD_E_INVALID,
                        "%s: model \"%s\" knows none of the %zu genes of %s[%s] (%s): name the "
                        "column of gene symbols or Ensembl ids (--gene-column)",
                        path, model, n, plan->choice.frame,
                        plan->choice.gene_column ? plan->choice.gene_column : "index",
                        plan->unknown_examples);
    return SCD_OK;
}

static scd_code resolve(planner *p, const char *const *names, scd_error *err)
{
    scd_file_plan *plan = p->plan;
    size_t n = plan->n_genes, n_mouse = 0;
    int32_t *tokens = scd_arena_alloc(p->arena, n, sizeof *tokens);
    scd_rung *rungs = scd_arena_alloc(p->arena, n, sizeof *rungs);
    if (!tokens || !rungs)
        return no_memory(p, err);
    scd_code code = p->o->book->resolve(p->o->book->arg, names, n, tokens, rungs, err);
    if (code)
        return code;
    plan->tokens = tokens;
    for (size_t i = 0; i < n; i++) {
        if (plan->left_out[i]) {
            tokens[i] = -1;
            continue;
        }
        plan->rungs[rungs[i]]++;
        plan->n_known += tokens[i] >= 0;
        plan->n_ambiguous += rungs[i] == SCD_RUNG_AMBIGUOUS;
        plan->n_unknown += tokens[i] < 0 && rungs[i] != SCD_RUNG_AMBIGUOUS;
        n_mouse += tokens[i] < 0 && names[i][0] && is_mouse(p, names[i]);
    }
    code = list_examples(p, names, err);
    return code ? code : refuse_genes(p, n_mouse, err);
}

/* ---- how much maps ---- */

typedef struct tally {
    double mapped, given;
    size_t n_values;
} tally;

static void tally_row(const scd_file_plan *plan, const scd_cells_rows *rows, size_t row, tally *t)
{
    for (uint64_t i = rows->indptr[row]; i < rows->indptr[row + 1]; i++) {
        uint32_t gene = rows->indices[i];
        double count = plan->choice.kind == SCD_INPUT_COUNTS ? rows->data[i] : expm1(rows->data[i]);
        if (plan->left_out[gene])
            continue;
        bool is_known = !plan->tokens || plan->tokens[gene] >= 0;
        t->given += count;
        t->mapped += is_known ? count : 0;
        t->n_values += is_known && count > 0;
    }
}

static scd_code sample_piece(planner *p, size_t first, size_t n, tally *all, scd_error *err)
{
    scd_arena arena;
    scd_cells_rows rows;
    scd_arena_init(&arena, SAMPLE_BYTES);
    scd_code code =
        scd_cells_rows_read(p->cells, p->plan->choice.matrix, first, n, &arena, &rows, err);
    for (size_t row = 0; row < n && !code; row++) {
        tally one = {0};
        tally_row(p->plan, &rows, row, &one);
        p->plan->n_poor += one.given > 0 && one.mapped < SCD_REFUSE_MAPPED * one.given;
        all->mapped += one.mapped;
        all->given += one.given;
        all->n_values += one.n_values;
    }
    scd_arena_release(&arena);
    return code;
}

static scd_code sample(planner *p, scd_error *err)
{
    scd_file_plan *plan = p->plan;
    tally all = {0};
    size_t n = plan->n_cells, piece = SCD_PLAN_SAMPLE_ROWS / PIECES;
    scd_code code = SCD_OK;
    bool whole = n <= SCD_PLAN_SAMPLE_ROWS;
    for (size_t i = 0; i < PIECES && !code; i++) {
        size_t first = whole ? i * piece : (n - piece) / (PIECES - 1) * i;
        size_t some = first >= n ? 0 : n - first < piece ? n - first : piece;
        code = some ? sample_piece(p, first, some, &all, err) : SCD_OK;
        plan->n_sampled += some;
    }
    plan->mapped_share = all.given > 0 ? all.mapped / all.given : NAN;
    plan->values_per_cell = plan->n_sampled ? (double)all.n_values / (double)plan->n_sampled : 0;
    return code;
}

static scd_code judge(planner *p, scd_error *err)
{
    scd_file_plan *plan = p->plan;
    const char *path = scd_cells_path(p->cells), *model = p->o->model ? p->o->model : "";
    double percent = 100 * plan->mapped_share;
    if (isnan(percent))
        return scd_fail(err, SCD_E_INVALID, "%s: no counts at all in the %zu rows looked at", path,
                        plan->n_sampled);
    if (plan->mapped_share < SCD_REFUSE_MAPPED && !p->o->force)
        return scd_fail(err, SCD_E_INVALID,
                        "%s: only %.1f %% of the counts are of genes that model \"%s\" knows (not "
                        "known: %s): check the gene names, or use --force",
                        path, percent, model, plan->unknown_examples);
    if (plan->mapped_share < SCD_WARN_MAPPED)
        scd_file_plan_warn(plan, p->arena,
                           "only %.1f %% of the counts are of genes that model \"%s\" knows",
                           percent, model);
    return SCD_OK;
}

/* ---- the whole ---- */

static void tell_choice(planner *p)
{
    const scd_cells_choice *c = &p->plan->choice;
    decide(p, "%s", c->matrix_why);
    decide(p, "genes from %s[%s]", c->frame, c->gene_column ? c->gene_column : "index");
    if (c->kind == SCD_INPUT_LOG1P_CP10K && fabs(c->normalised_to - 1e4) > 500)
        scd_file_plan_warn(
            p->plan, p->arena,
            "%s was normalised to %.0f counts a cell, not to 10000 as the model expects: "
            "its values are taken as they are, counts would be better",
            c->matrix, c->normalised_to);
}

scd_code scd_cells_plan(scd_cells *cells, const scd_file_plan_options *options, scd_arena *arena,
                        scd_file_plan *out, scd_error *err)
{
    planner p = {cells, options, arena, out};
    scd_cells_matrix facts;
    const char **names = NULL;
    *out = (scd_file_plan){.mapped_share = NAN, .unknown_examples = ""};
    const char *matrix = options->matrix;
    for (size_t i = 0; !matrix && options->genome && i < scd_cells_n_matrices(cells); i++)
        if (strcmp(scd_cells_matrix_name(cells, i), options->genome) == 0)
            matrix = options->genome;
    scd_code code = scd_cells_choose(cells, matrix, options->gene_column, options->book, arena,
                                     &out->choice, err);
    if (!code)
        code = scd_cells_matrix_get(cells, out->choice.matrix, &facts, err);
    if (code)
        return code;
    out->n_cells = facts.rows;
    out->n_genes = facts.cols;
    out->n_stored = facts.n_stored;
    tell_choice(&p);
    bool *left_out = scd_arena_zalloc(arena, facts.cols + 1, sizeof *left_out);
    if (!left_out)
        return no_memory(&p, err);
    out->left_out = left_out;
    if (!facts.rows)
        return scd_fail(err, SCD_E_INVALID, "%s: no cells in it", scd_cells_path(cells));
    if ((code = read_names(&p, &names, err)) || (code = choose_features(&p, left_out, err)) ||
        (code = choose_genome(&p, left_out, err)))
        return code;
    out->genes = names;
    if (options->book && (code = resolve(&p, names, err)))
        return code;
    if (options->book)
        decide(&p, "%zu genes known, %zu unknown, %zu ambiguous", out->n_known, out->n_unknown,
               out->n_ambiguous);
    code = sample(&p, err);
    return code || !options->book ? code : judge(&p, err);
}
