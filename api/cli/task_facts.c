/* task_facts.c - provenance: what a result depends on, for uns["scdiva"] and for --json; task.h. */
#include "api/cli/task.h"

#include "api/json_write.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct writer {
    scd_fact *facts;
    size_t n;
} writer;

static void put_text(writer *w, const char *key, const char *text)
{
    if (text && w->n < CLI_MAX_FACTS)
        w->facts[w->n++] = (scd_fact){.key = key, .text = text};
}

static void put_number(writer *w, const char *key, double number)
{
    if (isfinite(number) && w->n < CLI_MAX_FACTS)
        w->facts[w->n++] = (scd_fact){.key = key, .number = number, .is_number = true};
}

static void put_list(writer *w, const char *key, const char *const *list, size_t n)
{
    if (w->n < CLI_MAX_FACTS)
        w->facts[w->n++] = (scd_fact){.key = key, .list = list, .n_list = n, .is_list = true};
}

static void put_head(writer *w, const cli_task *task, const cli_head *head)
{
    if (!head->name)
        return;
    put_text(w, "head", head->name);
    put_text(w, "head_digest", head->digest_hex);
    put_number(w, "threshold", task->has_threshold ? task->threshold : head->threshold);
    put_list(w, "labels", head->labels, head->n_labels);
    put_list(w, "ontology_ids", head->ontology_ids, head->n_labels);
}

size_t cli_task_facts(const cli_task *task, const cli_model *model, const scd_file_plan *plan,
                      const cli_sums *sums, const char *input_sha256, const char *format,
                      scd_arena *arena, scd_fact facts[CLI_MAX_FACTS])
{
    writer w = {facts, 0};
    const char *slash = strrchr(task->input, '/');
    const char *name = slash && slash[1] ? slash + 1 : task->input;
    const scd_cells_choice *c = &plan->choice;
    put_text(&w, "software", "scdivad " SCD_VERSION);
    put_text(&w, "task", task->verb);
    put_text(&w, "model", model->name);
    put_text(&w, "model_digest", model->digest_hex);
    put_head(&w, task, &model->head);
    put_text(&w, "device", model->device);
    put_text(&w, "isa", model->isa);
    put_text(&w, "precision", model->precision);
    put_number(&w, "seed", 0); /* nothing here is drawn */
    put_text(&w, "input", scd_arena_strndup(arena, name, strlen(name)));
    put_text(&w, "input_format", format);
    put_text(&w, "input_sha256", input_sha256);
    put_text(&w, "matrix", c->matrix);
    put_text(&w, "values", c->kind == SCD_INPUT_COUNTS ? "counts" : "log1p_cp10k");
    put_text(&w, "gene_column", c->gene_column ? c->gene_column : "index");
    put_number(&w, "genes_known", (double)plan->n_known);
    put_number(&w, "genes_unknown", (double)plan->n_unknown);
    put_number(&w, "genes_ambiguous", (double)plan->n_ambiguous);
    put_number(&w, "genes_left_out", (double)plan->n_left_out);
    put_number(&w, "cells", (double)sums->n_cells);
    put_number(&w, "cells_unanswered", (double)(sums->n_cells - sums->n_answered));
    put_number(&w, "cells_under_half_mapped", (double)sums->n_poor);
    put_number(&w, "tokens", (double)sums->n_tokens);
    put_number(&w, "genes_truncated", (double)sums->n_truncated);
    put_number(&w, "genes_unused", (double)sums->n_unused);
    put_number(&w, "counts_mapped", sums->given > 0 ? sums->mapped / sums->given : NAN);
    put_list(&w, "decisions", plan->decisions, plan->n_decisions);
    put_list(&w, "warnings", plan->warnings, plan->n_warnings);
    return w.n;
}

static void print_json(const cli_task *task, const scd_fact *facts, size_t n, const cli_sums *sums,
                       scd_buf *out)
{
    scd_buf_puts(out, "{\"output\":");
    scd_json_text(out, task->output);
    for (size_t i = 0; i < n; i++) {
        const scd_fact *f = facts + i;
        if (f->is_list) {
            cli_json_texts(out, f->key, f->list, f->n_list);
        } else if (f->is_number) {
            scd_buf_printf(out, ",\"%s\":", f->key);
            scd_json_double(out, f->number);
        } else {
            cli_json_text(out, f->key, f->text);
        }
    }
    scd_buf_puts(out, ",\"seconds\":");
    scd_json_double(out, sums->seconds);
    scd_buf_puts(out, "}\n");
}

int cli_task_report(const cli_task *task, const cli_model *model, const scd_fact *facts, size_t n,
                    const cli_sums *sums)
{
    scd_buf out;
    scd_buf_init(&out, 1 << 26);
    if (task->json)
        print_json(task, facts, n, sums, &out);
    else if (!task->quiet)
        scd_buf_printf(&out, "%s: %zu cells by model %s, %.1f %% of the counts mapped, %.1f s\n",
                       task->output, sums->n_cells, model->name, 100 * sums->mapped / sums->given,
                       sums->seconds);
    return cli_print(&out, CLI_OK);
}
