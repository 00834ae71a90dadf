/* head_json.c - see head_json.h. */
#include "api/head_json.h"

#include "api/json_write.h"

#include <math.h>

static void put_number(scd_buf *out, const char *key, double value)
{
    scd_buf_puts(out, key);
    scd_json_double(out, value);
}

void scd_json_response_score(scd_buf *out, const scd_response_score *s)
{
    scd_buf_printf(out, "{\"perturbations\":%zu", s->n);
    put_number(out, ",\"pearson_delta\":", s->pearson);
    put_number(out, ",\"mse\":", s->mse);
    put_number(out, ",\"overlap_at_20\":", s->overlap);
    put_number(out, ",\"direction_match\":", s->direction);
    scd_buf_putc(out, '}');
}

/* How the head did on cells held out; null where head.json does not say. */
static void write_held_out(const scd_head_scores *s, scd_buf *out)
{
    if (isnan(s->cells) && isnan(s->accuracy)) {
        scd_buf_puts(out, ",\"evaluation\":null");
        return;
    }
    put_number(out, ",\"evaluation\":{\"cells\":", s->cells);
    put_number(out, ",\"accuracy\":", s->accuracy);
    put_number(out, ",\"balanced_accuracy\":", s->balanced_accuracy);
    put_number(out, ",\"macro_f1\":", s->macro_f1);
    put_number(out, ",\"ece\":", s->ece);
    scd_buf_putc(out, '}');
}

/* A context's: the model's, then every baseline's. */
static void write_scores(const scd_perturb_context *c, scd_buf *out)
{
    scd_buf_puts(out, ",\"evaluation\":{\"model\":");
    scd_json_response_score(out, &c->scores[SCD_SCORE_MODEL]);
    for (int b = 0; b < SCD_N_BASELINES; b++) {
        scd_buf_printf(out, ",\"%s\":", scd_baseline_name((scd_baseline)b));
        scd_json_response_score(out, &c->scores[b]);
    }
    scd_buf_putc(out, '}');
}

static void write_labels(const scd_head_info *h, scd_buf *out)
{
    scd_buf_puts(out, ",\"temperature\":");
    scd_json_double(out, h->temperature);
    scd_buf_puts(out, ",\"threshold\":");
    scd_json_double(out, h->threshold);
    write_held_out(&h->held_out, out);
    scd_buf_puts(out, ",\"labels\":[");
    for (size_t i = 0; i < h->n_labels; i++) {
        scd_buf_puts(out, i ? ",{\"label\":" : "{\"label\":");
        scd_json_text(out, h->labels[i].label);
        scd_buf_puts(out, ",\"ontology_id\":");
        if (h->labels[i].ontology_id)
            scd_json_text(out, h->labels[i].ontology_id);
        else
            scd_buf_puts(out, "null");
        scd_buf_putc(out, '}');
    }
    scd_buf_putc(out, ']');
}

/* The combinations that were studied in a context, each as an array of genes. */
static void write_conditions(const scd_perturb_info *p, size_t context, scd_buf *out)
{
    bool any = false;
    scd_buf_puts(out, ",\"perturbations\":[");
    for (size_t i = 0; i < p->n_conditions; i++) {
        if (p->conditions[i].context != context)
            continue;
        scd_buf_puts(out, any ? ",[" : "[");
        for (size_t k = 0; k < p->conditions[i].n_targets; k++) {
            if (k)
                scd_buf_putc(out, ',');
            scd_json_text(out, p->targets[p->conditions[i].targets[k]]);
        }
        scd_buf_putc(out, ']');
        any = true;
    }
    scd_buf_putc(out, ']');
}

static void write_contexts(const scd_perturb_info *p, scd_buf *out)
{
    scd_buf_printf(out, ",\"readout_genes\":%zu,\"contexts\":[", p->n_genes);
    for (size_t c = 0; c < p->n_contexts; c++) {
        scd_buf_puts(out, c ? ",{\"name\":" : "{\"name\":");
        scd_json_text(out, p->contexts[c].name);
        scd_buf_printf(
            out, ",\"direction\":\"%s\",\"gate\":", scd_direction_name(p->contexts[c].direction));
        scd_json_double(out, p->contexts[c].gate);
        scd_buf_printf(out, ",\"stored_controls\":%zu", p->contexts[c].n_cells);
        write_conditions(p, c, out);
        write_scores(&p->contexts[c], out);
        scd_buf_putc(out, '}');
    }
    scd_buf_putc(out, ']');
}

void scd_json_head(scd_buf *out, const scd_head_info *h)
{
    scd_buf_puts(out, "{\"name\":");
    scd_json_text(out, h->name);
    scd_buf_puts(out, ",\"task\":");
    scd_json_text(out, h->task);
    scd_buf_printf(out, ",\"digest\":\"%s\",\"backbone\":%s", h->digest_hex,
                   h->has_backbone ? "true" : "false");
    if (h->genes)
        scd_buf_printf(out, ",\"genes\":%zu", h->n_genes);
    else
        scd_buf_puts(out, ",\"genes\":null");
    if (h->perturb)
        write_contexts(h->perturb, out);
    else
        write_labels(h, out);
    scd_buf_putc(out, '}');
}
