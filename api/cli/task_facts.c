/* task_facts.c - what a run in this process tells: provenance as JSON, or a line; see task.h. */
#include "api/cli/task.h"

#include "api/json_write.h"

static void print_json(const cli_task *task, const scd_fact *facts, size_t n,
                       const scd_run_sums *sums, scd_buf *out)
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

int cli_task_report(const cli_task *task, const scd_task *run, const scd_fact *facts, size_t n,
                    const scd_run_sums *sums)
{
    scd_buf out;
    scd_buf_init(&out, 1 << 26);
    if (task->json)
        print_json(task, facts, n, sums, &out);
    else if (!task->quiet)
        scd_buf_printf(&out, "%s: %zu cells by model %s, %.1f %% of the counts mapped, %.1f s\n",
                       task->output, sums->n_cells - sums->n_outside, run->who.model->name,
                       100 * sums->mapped / sums->given, sums->seconds);
    return cli_print(&out, CLI_OK);
}
