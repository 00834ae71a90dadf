/* perturb_write.c - the files of a perturbation head (engine/denoise/head.h). What was measured is
 * written in float32; the network and what it sees of the stored controls in the dtype asked for.
 */
#include "api/json_write.h"
#include "engine/base/mem.h"
#include "engine/model/file.h"
#include "engine/train/finetune_perturb.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- head.json ------------------------------------------------------------------------------- */

static void put_number(scd_buf *out, const char *key, double value)
{
    scd_buf_printf(out, "\"%s\":", key);
    scd_json_double(out, value);
}

static void put_genes(scd_buf *out, const scd_perturb_run *run)
{
    const scd_vocab *vocab = scd_model_vocab(run->model);
    scd_head_put_genes(out, run->study.measured, run->c.config->vocab);
    scd_buf_puts(out, "  \"readout\": [");
    for (size_t g = 0; g < run->study.s.n_genes; g++) {
        scd_buf_puts(out, g ? "," : "");
        scd_json_text(out, scd_vocab_symbol(vocab, run->study.tokens[g]));
    }
    scd_buf_puts(out, "],\n  \"targets\": [");
    for (size_t t = 0; t < run->study.s.n_targets; t++) {
        scd_buf_puts(out, t ? "," : "");
        scd_json_text(out, run->study.targets[t]);
    }
    scd_buf_puts(out, "],\n");
}

static void put_contexts(scd_buf *out, const scd_perturb_run *run)
{
    scd_buf_puts(out, "  \"contexts\": [");
    for (size_t c = 0; c < run->study.s.n_contexts; c++) {
        const scd_study_context *context = &run->study.contexts[c];
        scd_buf_puts(out, c ? ",\n               {\"name\":" : "{\"name\":");
        scd_json_text(out, context->name);
        scd_buf_printf(out, ",\"direction\":\"%s\",\"cells\":%zu,\"controls\":%zu,",
                       scd_direction_name(context->direction), context->n_stored,
                       context->n_controls);
        const scd_fit_settings *f = &run->fit.settings[c];
        put_number(out, "power", f->power);
        scd_buf_puts(out, ",");
        put_number(out, "gate", run->gates[c]);
        scd_buf_puts(out, ",");
        put_number(out, "misfit", f->misfit);
        scd_buf_puts(out, ",");
        put_number(out, "mean_shrunk_by", f->shrink);
        scd_buf_puts(out, ",");
        put_number(out, "mean_weight_power", f->weight);
        scd_buf_puts(out, "}");
    }
    scd_buf_puts(out, "],\n");
}

static void put_conditions(scd_buf *out, const scd_perturb_run *run)
{
    scd_buf_puts(out, "  \"conditions\": [");
    for (size_t i = 0; i < run->study.s.n_conditions; i++) {
        const scd_response_condition *c = &run->study.conditions[i];
        scd_buf_printf(out, "%s{\"context\":%u,\"targets\":[", i ? ",\n                 " : "",
                       c->context);
        for (size_t k = 0; k < c->n_targets; k++)
            scd_buf_printf(out, "%s%u", k ? "," : "", c->targets[k]);
        scd_buf_printf(out, "],\"cells\":%u}", c->n_cells);
    }
    scd_buf_puts(out, "],\n");
}

static void put_score(scd_buf *out, const char *name, const scd_response_score *s)
{
    scd_buf_printf(out, "\"%s\":{\"perturbations\":%zu,", name, s->n);
    put_number(out, "pearson_delta", s->pearson);
    scd_buf_puts(out, ",");
    put_number(out, "mse", s->mse);
    scd_buf_puts(out, ",");
    put_number(out, "overlap_at_20", s->overlap);
    scd_buf_puts(out, ",");
    put_number(out, "direction_match", s->direction);
    scd_buf_puts(out, "}");
}

static const char *score_name(size_t k)
{
    return k == SCD_SCORE_MODEL ? "model" : scd_baseline_name((scd_baseline)k);
}

static void put_evaluation(scd_buf *out, const scd_perturb_run *run)
{
    scd_buf_puts(out,
                 "  \"evaluation\": {\n    \"protocol\": \"each perturbation left out of all "
                 "contexts, everything fitted without it; the network's epoch and gates chosen "
                 "on the same folds\",\n");
    scd_buf_printf(out, "    \"epoch\": %zu,\n    \"contexts\": [", run->best_epoch);
    for (size_t c = 0; c < run->study.s.n_contexts; c++) {
        scd_buf_puts(out, c ? ",\n      {\"name\":" : "\n      {\"name\":");
        scd_json_text(out, run->study.contexts[c].name);
        for (size_t k = 0; k < SCD_N_SCORES; k++) {
            scd_buf_puts(out, ",\n       ");
            put_score(out, score_name(k), &run->scores[c * SCD_N_SCORES + k]);
        }
        scd_buf_puts(out, "}");
    }
    scd_buf_puts(out, "]\n  },\n");
}

static scd_code write_json(const scd_perturb_run *run, const char *path, scd_error *err)
{
    scd_buf out;
    scd_buf_init(&out, (size_t)1 << 24); /* what is read of a head.json, at most */
    scd_buf_puts(&out, "{\n  \"task\": \"perturbation\",\n  \"format\": 1,\n");
    put_contexts(&out, run);
    put_evaluation(&out, run);
    put_genes(&out, run);
    put_conditions(&out, run);
    scd_buf_printf(&out, "  \"model_digest\": \"%s\",\n  \"recipe\": ", run->model_digest);
    scd_json_text(&out, run->recipe);
    scd_buf_puts(&out, "\n}\n");
    scd_code code = out.failed ? scd_fail(err, SCD_E_TOO_LARGE,
                                          "%s: more than 16 MiB of genes and conditions", path)
                               : scd_file_write(path, out.data, out.n_bytes, err);
    scd_buf_release(&out);
    return code;
}

/* ---- head.safetensors ------------------------------------------------------------------------ */

static void fill(void *arg, size_t entry, size_t first, size_t n, float *out)
{
    const float *const *data = arg;
    memcpy(out, data[entry] + first, n * sizeof *out);
}

static scd_code write_tensors(const scd_perturb_run *run, const char *path, scd_error *err)
{
    const scd_study *s = &run->study.s;
    const scd_perturb_info perturb = {.n_genes = s->n_genes,
                                      .n_targets = s->n_targets,
                                      .n_contexts = s->n_contexts,
                                      .n_conditions = s->n_conditions,
                                      .n_cells = run->study.n_stored};
    const scd_head_info info = {.perturb = &perturb, .mlp_dim = run->o->mlp_dim};
    const scd_response *r = &run->fit.response;
    const scd_response_net net = scd_pert_net_view(run->net, run->params);
    const float *data[SCD_HEAD_MAX_TENSORS] = {
        [SCD_HEAD_W0] = net.w0,
        [SCD_HEAD_B0] = net.b0,
        [SCD_HEAD_W2] = net.w2,
        [SCD_HEAD_B2] = net.b2,
        [SCD_HEAD_TOKEN] = net.token,
        [SCD_HEAD_DIRECTION] = net.direction,
        [SCD_HEAD_CONTROL_MEAN] = run->study.control_mean,
        [SCD_HEAD_CONTROL_SD] = run->study.control_sd,
        [SCD_HEAD_CONTROL_EMBEDDINGS] = run->embeddings,
        [SCD_HEAD_DELTAS] = r->deltas,
        [SCD_HEAD_EFFECTS_MEAN] = r->effect_mean,
        [SCD_HEAD_EFFECTS_TARGETS] = r->effects,
        [SCD_HEAD_RIDGE] = r->ridge,
    };
    scd_tensor_entry entries[SCD_HEAD_MAX_TENSORS];
    size_t n = scd_head_own_tensors(&info, run->c.config, entries);
    for (size_t i = 0; i < n; i++)
        if (i <= SCD_HEAD_DIRECTION || i == SCD_HEAD_CONTROL_EMBEDDINGS)
            entries[i].dtype = !strcmp(run->o->dtype, "bf16") ? SCD_BF16 : SCD_F32;
    return scd_safetensors_write(path, entries, n, fill, data, err);
}

/* ---- the end of a run ------------------------------------------------------------------------ */

static void report(const scd_perturb_run *run)
{
    for (size_t c = 0; c < run->study.s.n_contexts; c++) {
        const scd_response_score *scores = &run->scores[c * SCD_N_SCORES];
        printf("%s, %s, %zu perturbations left out in turn; gate of the network %.2f\n",
               run->study.contexts[c].name, scd_direction_name(run->study.contexts[c].direction),
               scores[0].n, run->gates[c]);
        printf("  %-10s %13s %10s %13s %15s\n", "", "Pearson delta", "MSE", "overlap at 20",
               "direction match");
        for (size_t k = 0; k < SCD_N_SCORES; k++)
            printf("  %-10s %13.4f %10.6f %13.4f %15.4f\n", score_name(k), scores[k].pearson,
                   scores[k].mse, scores[k].overlap, scores[k].direction);
    }
    printf("%s\n", run->dir.final);
}

scd_code scd_perturb_write(scd_perturb_run *run, scd_error *err)
{
    char json[4096], weights[4096];
    snprintf(json, sizeof json, "%s/head.json", run->dir.hidden);
    snprintf(weights, sizeof weights, "%s/head.safetensors", run->dir.hidden);
    scd_code code = write_tensors(run, weights, err);
    if (!code)
        code = write_json(run, json, err);
    if (!code)
        code = scd_head_dir_publish(&run->dir, NULL, err);
    if (!code)
        report(run);
    return code;
}
