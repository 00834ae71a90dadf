/* run.c - see run.h. */
#include "api/run.h"

#include <math.h>
#include <string.h>

enum { CELL_BYTES = 1 << 30 };

/* ---- cells ---- */

/* The values of a row without the columns that are left out, and their tokens. */
static size_t gather(const scd_file_plan *plan, const scd_cells_rows *rows, size_t row,
                     int32_t *tokens, double *values, uint32_t *genes)
{
    size_t n = 0;
    for (uint64_t i = rows->indptr[row]; i < rows->indptr[row + 1]; i++) {
        uint32_t gene = rows->indices[i];
        if (plan->left_out[gene])
            continue;
        tokens[n] = plan->tokens[gene];
        values[n] = rows->data[i];
        genes[n++] = gene;
    }
    return n;
}

scd_code scd_run_cell_make(const scd_served_model *model, const scd_file_plan *plan,
                           const scd_cells_rows *rows, size_t row, size_t first,
                           const uint8_t *wanted, scd_arena *arena, scd_cell *cell,
                           scd_run_cell *out, scd_error *err)
{
    size_t n = (size_t)(rows->indptr[row + 1] - rows->indptr[row]), bad = SIZE_MAX;
    scd_arena scratch;
    scd_arena_init(&scratch, CELL_BYTES);
    int32_t *tokens = scd_arena_alloc(&scratch, n, sizeof *tokens);
    double *values = scd_arena_alloc(&scratch, n, sizeof *values);
    uint32_t *genes = scd_arena_alloc(&scratch, n, sizeof *genes);
    scd_error why = {0};
    scd_code code = SCD_E_NOMEM;
    if (tokens && values && genes) {
        n = gather(plan, rows, row, tokens, values, genes);
        scd_cell_values in = {.n = n, .tokens = tokens, .values = values, .wanted = wanted};
        code = scd_cell_serialize(model->config, model->vocab, plan->choice.kind, &in, arena, cell,
                                  &bad, &why);
    }
    *out = (scd_run_cell){.is_answered = !code};
    if (!code) {
        out->n_tokens = cell->n_tokens;
        out->n_truncated = cell->genes_truncated;
        out->n_unused = cell->genes_unwanted;
        out->mapped = cell->mapped_counts;
        out->given = cell->given_counts;
    } else if (code == SCD_E_INVALID && bad == SIZE_MAX) {
        for (size_t i = 0; i < n; i++)
            out->given += plan->choice.kind == SCD_INPUT_COUNTS ? values[i] : expm1(values[i]);
        code = SCD_OK; /* nothing that the model knows: not answered */
    } else if (code == SCD_E_INVALID) {
        code = scd_fail(err, code, "%s, row %zu, gene \"%.80s\": %s", plan->choice.matrix,
                        first + row, plan->genes[genes[bad]], why.message);
    } else {
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for row %zu", first + row);
    }
    scd_arena_release(&scratch);
    return code;
}

/* ---- all of them ---- */

static size_t n_unanswered(const scd_run_sums *s)
{
    return s->n_cells - s->n_answered - s->n_outside;
}

scd_code scd_run_count(scd_run_sums *s, const scd_run_cell *cells, size_t n, size_t first,
                       bool fail_unanswered, const char *path, scd_error *err)
{
    for (size_t i = 0; i < n; i++) {
        const scd_run_cell *c = cells + i;
        s->n_cells++;
        s->n_outside += c->is_outside;
        if (c->is_outside)
            continue;
        s->n_tokens += c->n_tokens;
        s->n_truncated += c->n_truncated;
        s->n_unused += c->n_unused;
        s->n_truncated_cells += c->n_truncated > 0;
        s->mapped += c->mapped;
        s->given += c->given;
        if (c->is_answered) {
            s->n_answered++;
            s->n_poor += c->mapped < SCD_REFUSE_MAPPED * c->given;
            continue;
        }
        if (fail_unanswered)
            return scd_fail(err, SCD_E_INVALID,
                            "%s: row %zu has no known gene with a value above 0: leave the cell "
                            "out, or let such cells be skipped (on-error skip)",
                            path, first + i);
        if (n_unanswered(s) == 1)
            s->first_unanswered = first + i;
    }
    return SCD_OK;
}

scd_code scd_run_judge(const scd_run_sums *s, scd_file_plan *plan, scd_arena *arena, bool force,
                       const char *path, const char *model, size_t max_gene_len, const char *head,
                       scd_error *err)
{
    double share = s->given > 0 ? s->mapped / s->given : 0;
    if (!s->n_answered)
        return scd_fail(err, SCD_E_INVALID, "%s: no cell has a known gene with a value above 0",
                        path);
    if (share < SCD_REFUSE_MAPPED && !force)
        return scd_fail(err, SCD_E_INVALID,
                        "%s: only %.1f %% of the counts are of genes that model \"%s\" knows: "
                        "check the gene names, or use force",
                        path, 100 * share, model);
    if (n_unanswered(s))
        scd_file_plan_warn(
            plan, arena,
            "%zu cells have no known gene with a value above 0 and are not answered, the "
            "first is row %zu",
            n_unanswered(s), s->first_unanswered);
    if (s->n_poor)
        scd_file_plan_warn(
            plan, arena, "%zu cells have less than half of their counts on known genes", s->n_poor);
    if (s->n_truncated_cells)
        scd_file_plan_warn(
            plan, arena,
            "%zu cells have more than %zu known genes: the last ones of their order were "
            "left out",
            s->n_truncated_cells, max_gene_len);
    double expressed = (double)(s->n_tokens + s->n_unused);
    if (head && (double)s->n_unused > (1 - SCD_WARN_MAPPED) * expressed)
        scd_file_plan_warn(plan, arena,
                           "%.1f %% of the expressed genes were left out: the training data of "
                           "head \"%.80s\" did not measure them",
                           100 * (double)s->n_unused / expressed, head);
    return SCD_OK;
}

/* ---- facts ---- */

typedef struct writer {
    scd_fact *facts;
    size_t n;
} writer;

static void put_text(writer *w, const char *key, const char *text)
{
    if (text && w->n < SCD_RUN_MAX_FACTS)
        w->facts[w->n++] = (scd_fact){.key = key, .text = text};
}

static void put_number(writer *w, const char *key, double number)
{
    if (isfinite(number) && w->n < SCD_RUN_MAX_FACTS)
        w->facts[w->n++] = (scd_fact){.key = key, .number = number, .is_number = true};
}

static void put_list(writer *w, const char *key, const char *const *list, size_t n)
{
    if (w->n < SCD_RUN_MAX_FACTS)
        w->facts[w->n++] = (scd_fact){.key = key, .list = list, .n_list = n, .is_list = true};
}

static void put_head(writer *w, const scd_run_about *about)
{
    if (!about->head)
        return;
    put_text(w, "head", about->head);
    put_text(w, "head_digest", about->head_digest);
    if (!about->n_labels)
        return;
    put_number(w, "threshold", about->threshold);
    put_list(w, "labels", about->labels, about->n_labels);
    put_list(w, "ontology_ids", about->ontology_ids, about->n_labels);
}

size_t scd_run_facts(const scd_run_about *about, const scd_file_plan *plan,
                     const scd_run_sums *sums, scd_fact facts[SCD_RUN_MAX_FACTS])
{
    writer w = {facts, 0};
    const scd_cells_choice *c = &plan->choice;
    put_text(&w, "software", "scdivad " SCD_VERSION);
    put_text(&w, "task", about->task);
    put_text(&w, "model", about->model);
    put_text(&w, "model_digest", about->model_digest);
    put_head(&w, about);
    for (size_t i = 0; i < about->n_facts && w.n < SCD_RUN_MAX_FACTS; i++)
        w.facts[w.n++] = about->facts[i];
    put_text(&w, "device", about->device);
    put_text(&w, "isa", about->isa);
    put_text(&w, "precision", about->precision);
    put_number(&w, "seed", 0); /* nothing here is drawn */
    put_text(&w, "input", about->input);
    put_text(&w, "input_format", about->input_format);
    put_text(&w, "input_sha256", about->input_sha256);
    put_text(&w, "matrix", c->matrix);
    put_text(&w, "values", c->kind == SCD_INPUT_COUNTS ? "counts" : "log1p_cp10k");
    put_text(&w, "gene_column", c->gene_column ? c->gene_column : "index");
    put_number(&w, "genes_known", (double)plan->n_known);
    put_number(&w, "genes_unknown", (double)plan->n_unknown);
    put_number(&w, "genes_ambiguous", (double)plan->n_ambiguous);
    put_number(&w, "genes_left_out", (double)plan->n_left_out);
    put_number(&w, "cells", (double)sums->n_cells);
    put_number(&w, "cells_unanswered", (double)n_unanswered(sums));
    if (sums->n_outside)
        put_number(&w, "cells_outside", (double)sums->n_outside);
    put_number(&w, "cells_under_half_mapped", (double)sums->n_poor);
    put_number(&w, "tokens", (double)sums->n_tokens);
    put_number(&w, "genes_truncated", (double)sums->n_truncated);
    put_number(&w, "genes_unused", (double)sums->n_unused);
    put_number(&w, "counts_mapped", sums->given > 0 ? sums->mapped / sums->given : NAN);
    put_list(&w, "decisions", plan->decisions, plan->n_decisions);
    put_list(&w, "warnings", plan->warnings, plan->n_warnings);
    return w.n;
}
