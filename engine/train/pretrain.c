/* pretrain.c - scdiva-train pretrain: the run from its first step, or its checkpoint, to a model.
 *
 * Threads: main; the device's own threads compute. Owns: the run. */
#include "engine/train/pretrain.h"

#include "engine/base/clock.h"
#include "engine/train/schedule.h"
#include "engine/train/train.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LOG_STEPS = 10 }; /* steps between two rows of the log */

static const char *const columns[] = {"epoch",       "lr",           "loss",        "gene_loss",
                                      "value_loss",  "accuracy",     "gradient",    "tokens_s",
                                      "accuracy_15", "mse_15",       "accuracy_50", "mse_50",
                                      "accuracy_90", "mse_90",       "frequent_15", "gene_mean_15",
                                      "frequent_50", "gene_mean_50", "frequent_90", "gene_mean_90"};
enum { N_COLUMNS = sizeof columns / sizeof columns[0], N_TRAIN_COLUMNS = 8 };

/* ---- the log --------------------------------------------------------------------------------- */

static double ratio(double sum, double n)
{
    return n > 0 ? sum / n : NAN;
}

/* One row: the steps since the last one where there are any, the evaluation where there is one. */
static scd_code log_row(scd_pretrain *run, const scd_pretrain_score *scores, scd_error *err)
{
    double row[N_COLUMNS];
    scd_pretrain_sums *w = &run->window;
    for (size_t i = 0; i < N_COLUMNS; i++)
        row[i] = NAN;
    row[0] = (double)run->drawn / (double)run->n_train;
    if (w->n_steps > 0) {
        row[1] = scd_schedule_lr(run->o.lr, run->step, run->warmup_steps, run->n_steps);
        row[3] = ratio(w->gene, w->n_gene);
        row[4] = ratio(w->value, w->n_value);
        row[2] = row[3] + run->o.value_weight * row[4];
        row[5] = ratio(w->n_right, w->n_gene);
        row[6] = w->norm / w->n_steps;
        row[7] = scd_progress_tokens_per_s(run->progress);
    }
    for (size_t r = 0; scores && r < SCD_PRETRAIN_RATES; r++) {
        row[N_TRAIN_COLUMNS + 2 * r] = scores[r].accuracy;
        row[N_TRAIN_COLUMNS + 2 * r + 1] = scores[r].mse;
        row[N_TRAIN_COLUMNS + 2 * SCD_PRETRAIN_RATES + 2 * r] = scores[r].base_accuracy;
        row[N_TRAIN_COLUMNS + 2 * SCD_PRETRAIN_RATES + 2 * r + 1] = scores[r].base_mse;
    }
    *w = (scd_pretrain_sums){0};
    return scd_progress_log(run->progress, run->step, row, err);
}

static scd_code evaluate(scd_pretrain *run, scd_pretrain_score *scores, scd_error *err)
{
    scd_code code = scd_pretrain_eval(run, scores, err);
    if (code || (code = log_row(run, scores, err)))
        return code;
    scd_progress_say(run->progress,
                     "step %llu: held out, 15/50/90 %% hidden: genes %.3f %.3f %.3f, value MSE "
                     "%.3f %.3f %.3f",
                     (unsigned long long)run->step, scores[0].accuracy, scores[1].accuracy,
                     scores[2].accuracy, scores[0].mse, scores[1].mse, scores[2].mse);
    return SCD_OK;
}

static void show(scd_pretrain *run, const scd_pretrain_sums *s)
{
    char text[120];
    snprintf(text, sizeof text, "gene %.3f value %.3f named %.3f", ratio(s->gene, s->n_gene),
             ratio(s->value, s->n_value), ratio(s->n_right, s->n_gene));
    scd_progress_step(run->progress, run->step, (size_t)s->n_tokens, text);
}

static void add_sums(scd_pretrain_sums *to, const scd_pretrain_sums *s)
{
    to->gene += s->gene;
    to->value += s->value;
    to->norm += s->norm;
    to->n_gene += s->n_gene;
    to->n_value += s->n_value;
    to->n_right += s->n_right;
    to->n_steps += s->n_steps;
    to->n_tokens += s->n_tokens;
}

/* ---- the run --------------------------------------------------------------------------------- */

static bool checkpoint_is_due(const scd_pretrain *run, int64_t saved_ns)
{
    const scd_pretrain_options *o = &run->o;
    if (o->checkpoint_steps && run->step % o->checkpoint_steps == 0)
        return true;
    return o->checkpoint_seconds > 0 &&
           (double)(scd_now_ns() - saved_ns) > o->checkpoint_seconds * 1e9;
}

/* SCD_E_CANCELED: stopped on request, with a checkpoint. */
static scd_code steps(scd_pretrain *run, scd_pretrain_score *scores, scd_error *err)
{
    int64_t saved_ns = scd_now_ns();
    scd_code code = SCD_OK;
    while (run->step < run->n_steps) {
        scd_pretrain_sums sums = {0};
        if ((code = scd_pretrain_step(run, &sums, err)))
            return code;
        add_sums(&run->window, &sums);
        show(run, &sums);
        bool last = run->step == run->n_steps;
        if (run->n_eval && (last || run->step % run->o.eval_every == 0))
            code = evaluate(run, scores, err);
        else if (last || run->step % LOG_STEPS == 0)
            code = log_row(run, NULL, err);
        if (code)
            return code;
        bool stop = scd_stop_asked();
        if (last || stop || checkpoint_is_due(run, saved_ns)) {
            if ((code = scd_pretrain_save(run, err)))
                return code;
            saved_ns = scd_now_ns();
        }
        if (stop && !last)
            return scd_fail(err, SCD_E_CANCELED,
                            "stopped after step %llu of %llu; the same command goes on from there",
                            (unsigned long long)run->step, (unsigned long long)run->n_steps);
    }
    return SCD_OK;
}

static void print_scores(const scd_pretrain *run, const scd_pretrain_score *scores)
{
    printf("%s: %zu parameters, %llu steps, %zu training cells\n", run->o.out,
           scd_net_n_params(run->net), (unsigned long long)run->n_steps, run->n_train);
    if (!run->n_eval)
        return;
    printf("held out (%zu cells)  gene named  most frequent gene  value MSE  gene mean\n",
           run->n_eval);
    for (size_t r = 0; r < SCD_PRETRAIN_RATES; r++)
        printf("  %2.0f %% hidden        %10.4f  %18.4f  %9.4f  %9.4f\n",
               100 * scd_pretrain_rates[r], scores[r].accuracy, scores[r].base_accuracy,
               scores[r].mse, scores[r].base_mse);
}

static scd_code train(scd_pretrain *run, scd_error *err)
{
    scd_pretrain_score scores[SCD_PRETRAIN_RATES] = {{0}};
    char csv[4200];
    snprintf(csv, sizeof csv, "%s/train.csv", run->o.out);
    bool resumed = run->step > 0, complete = run->step == run->n_steps;
    scd_code code = scd_progress_new("pretrain", run->n_steps, run->step, csv, columns, N_COLUMNS,
                                     &run->progress, err);
    if (code)
        return code;
    scd_stop_on_signals();
    if (resumed)
        scd_progress_say(run->progress, "resumed at step %llu of %llu",
                         (unsigned long long)run->step, (unsigned long long)run->n_steps);
    else if (run->n_eval && (code = evaluate(run, scores, err)))
        return code;
    if ((code = steps(run, scores, err)))
        return code;
    if (complete && run->n_eval && (code = scd_pretrain_eval(run, scores, err)))
        return code;
    if ((code = scd_pretrain_write_model(run, scores, err)))
        return code;
    scd_progress_free(run->progress);
    run->progress = NULL;
    print_scores(run, scores);
    return SCD_OK;
}

int scd_train_pretrain(int argc, char **argv)
{
    scd_pretrain run = {.dir_lock = -1};
    scd_error err = {0};
    int rc = scd_pretrain_read_options(&run, argc, argv);
    if (!rc) {
        scd_code code = scd_pretrain_set_up(&run, &err);
        if (!code)
            code = train(&run, &err);
        rc = code ? SCD_EXIT_FAILED : SCD_EXIT_OK;
    }
    scd_pretrain_release(&run);
    if (rc > 0 && err.code)
        fprintf(stderr, "scdiva-train pretrain: %s\n", err.message);
    return rc < 0 ? SCD_EXIT_OK : rc;
}
