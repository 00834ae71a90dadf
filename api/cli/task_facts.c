/* task_facts.c - provenance: what a result depends on, for uns["scdiva"] and for --json; task.h. */
#include "api/cli/task.h"

#include "api/json_write.h"

#include <stdio.h>
#include <string.h>

size_t cli_task_facts(const cli_task *task, const cli_model *model, const scd_file_plan *plan,
                      const cli_sums *sums, const char *input_sha256, const char *format,
                      scd_arena *arena, scd_fact facts[CLI_MAX_FACTS])
{
    const char *slash = strrchr(task->input, '/');
    const char *name = slash && slash[1] ? slash + 1 : task->input;
    const cli_head *head = &model->head;
    scd_run_about about = {.task = task->verb,
                           .model = model->name,
                           .model_digest = model->digest_hex,
                           .device = model->device,
                           .isa = model->isa,
                           .precision = model->precision,
                           .head = head->name,
                           .head_digest = head->digest_hex,
                           .threshold = task->has_threshold ? task->threshold : head->threshold,
                           .n_labels = head->n_labels,
                           .labels = head->labels,
                           .ontology_ids = head->ontology_ids,
                           .input = scd_arena_strndup(arena, name, strlen(name)),
                           .input_format = format,
                           .input_sha256 = input_sha256};
    return scd_run_facts(&about, plan, sums, facts);
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
