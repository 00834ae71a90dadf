/* answer_perturb.c - see answer_perturb.h. */
#include "api/answer_perturb.h"

#include "api/head_json.h"
#include "api/json_write.h"

#include <math.h>

static void put_series(scd_buf *out, const scd_perturb_info *info, const float *values)
{
    scd_buf_puts(out, "{\"genes\":[");
    for (size_t g = 0; g < info->n_genes; g++) {
        if (g)
            scd_buf_putc(out, ',');
        scd_json_text(out, info->genes[g]);
    }
    scd_buf_puts(out, "],\"values\":");
    scd_json_floats(out, values, info->n_genes);
}

/* Up to n genes that go up (sign 1) or down (sign -1), the largest change first. */
static void put_top(scd_buf *out, const char *key, const scd_answer_perturbation *p, float sign)
{
    size_t n = 0;
    scd_buf_puts(out, key);
    for (size_t i = 0; i < p->info->n_genes && n < p->top_genes; i++) {
        float delta = p->predicted->delta[p->order[i]];
        if (!(delta * sign > 0))
            continue;
        scd_buf_puts(out, n++ ? ",{\"gene\":" : "{\"gene\":");
        scd_json_text(out, p->info->genes[p->order[i]]);
        scd_buf_puts(out, ",\"delta\":");
        scd_json_float(out, delta);
        scd_buf_putc(out, '}');
    }
    scd_buf_putc(out, ']');
}

static void put_question(scd_buf *out, const scd_answer_perturbation *p)
{
    const scd_perturb_context *c = &p->info->contexts[p->context];
    scd_buf_puts(out, ",\"perturbation\":[");
    for (size_t i = 0; i < p->asked->n; i++) {
        if (i)
            scd_buf_putc(out, ',');
        scd_json_string(out, p->asked->names[i].data, p->asked->names[i].n);
    }
    scd_buf_printf(
        out, "],\"direction\":\"%s\",\"context\":{\"name\":", scd_direction_name(c->direction));
    scd_json_text(out, c->name);
    scd_buf_puts(out, ",\"correlation\":");
    if (isnan(p->correlation))
        scd_buf_puts(out, "null");
    else
        scd_json_double(out, p->correlation);
    scd_buf_printf(out, "},\"controls\":{\"source\":\"%s\",\"cells\":%zu,\"anchor\":",
                   isnan(p->correlation) ? "stored" : "request", p->n_controls);
    scd_json_double(out, p->anchor);
    scd_buf_putc(out, '}');
}

static void put_training(scd_buf *out, const scd_answer_perturbation *p)
{
    scd_buf_printf(out, ",\"in_training\":{\"combination\":%s,\"genes\":{",
                   p->predicted->in_training ? "true" : "false");
    for (size_t i = 0; i < p->asked->n; i++) {
        if (i)
            scd_buf_putc(out, ',');
        scd_json_string(out, p->asked->names[i].data, p->asked->names[i].n);
        scd_buf_puts(out, p->seen[i] ? ":true" : ":false");
    }
    scd_buf_puts(out, "}},\"genes_not_in_vocabulary\":[");
    bool any = false;
    for (size_t i = 0; i < p->asked->n; i++) {
        if (p->known[i])
            continue;
        if (any)
            scd_buf_putc(out, ',');
        scd_json_string(out, p->asked->names[i].data, p->asked->names[i].n);
        any = true;
    }
    scd_buf_putc(out, ']');
}

void scd_answer_perturbation_write(scd_answer *answer, const scd_answer_perturbation *p)
{
    scd_buf *out = answer->out;
    const scd_perturb_context *c = &p->info->contexts[p->context];
    put_question(out, p);
    put_training(out, p);
    scd_buf_puts(out, ",\"delta\":");
    put_series(out, p->info, p->predicted->delta);
    for (size_t g = 0; g < p->info->n_genes; g++)
        p->expression[g] = p->control[g] + p->predicted->delta[g];
    scd_buf_puts(out, "},\"expression\":");
    put_series(out, p->info, p->expression);
    scd_buf_puts(out, "},\"spread\":");
    put_series(out, p->info, p->sd);
    scd_buf_putc(out, '}');
    scd_response_top(p->predicted->delta, p->info->n_genes, p->order);
    put_top(out, ",\"top_up\":[", p, 1);
    put_top(out, ",\"top_down\":[", p, -1);
    scd_buf_puts(out, ",\"gate\":");
    scd_json_double(out, (double)p->predicted->gate);
    scd_buf_puts(out, ",\"evaluation\":");
    scd_json_response_score(out, &c->scores[SCD_SCORE_MODEL]);
    scd_buf_puts(out, ",\"baselines\":{");
    for (int b = 0; b < SCD_N_BASELINES; b++) {
        scd_buf_printf(out, "%s\"%s\":", b ? "," : "", scd_baseline_name((scd_baseline)b));
        put_series(out, p->info, p->predicted->baselines[b]);
        scd_buf_puts(out, ",\"evaluation\":");
        scd_json_response_score(out, &c->scores[b]);
        scd_buf_putc(out, '}');
    }
    scd_buf_putc(out, '}');
}

size_t scd_answer_perturbation_most(const scd_perturb_info *info)
{
    enum { SERIES = 3 + SCD_N_BASELINES, NUMBER = 20, ESCAPED = 6, AROUND = 16 };
    size_t name = ESCAPED * SCD_HEAD_MAX_LABEL_BYTES + AROUND, longest = 0;
    for (size_t g = 0; g < info->n_genes; g++) {
        size_t n = ESCAPED * strlen(info->genes[g]) + AROUND;
        longest += n < name ? n : name;
    }
    return SERIES * (longest + info->n_genes * NUMBER) + longest + info->n_genes * 2 * NUMBER;
}
