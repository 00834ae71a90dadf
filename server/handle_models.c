/* handle_models.c - GET /v1/models and /v1/models/{name}: what is served, within which limits. */
#include "api/head_json.h"
#include "api/json_write.h"
#include "api/models.h"
#include "api/perturb_fields.h"
#include "server/reply.h"
#include "server/router.h"

#include <string.h>

enum { MAX_BYTES = 1 << 28 }; /* heads may have thousands of labels */

static void put_number(scd_buf *out, const char *name, size_t value)
{
    scd_buf_printf(out, ",\"%s\":%zu", name, value);
}

static void put_bool(scd_buf *out, const char *name, bool value)
{
    scd_buf_printf(out, ",\"%s\":%s", name, value ? "true" : "false");
}

static void write_limits(const scd_daemon *d, scd_buf *out)
{
    scd_buf_printf(out, "{\"max_body_bytes\":%zu", (size_t)d->config->max_body_mb << 20);
    put_number(out, "max_cells", d->limits.max_cells);
    put_number(out, "max_genes_per_cell", d->limits.max_genes_per_cell);
    put_number(out, "max_json_depth", d->limits.max_depth);
    put_number(out, "max_perturbations", SCD_MAX_PERTURBATIONS);
    put_number(out, "max_genes_per_perturbation", SCD_MAX_TARGETS);
    put_number(out, "max_name_bytes", d->limits.max_name_bytes);
    put_number(out, "max_queue_tokens", (size_t)d->config->max_queue_tokens);
    put_number(out, "max_batch_tokens", scd_engine_max_rows(d->engine));
    put_number(out, "max_steps", SCD_MAX_STEPS);
    put_number(out, "max_job_file_bytes", (size_t)d->config->job_upload_mb << 20);
    put_number(out, "max_jobs", (size_t)d->config->max_jobs);
    scd_buf_putc(out, '}');
}

static bool has_head(const scd_served_model *m, const char *task)
{
    for (size_t i = 0; i < m->n_heads; i++)
        if (!strcmp(m->heads[i]->task, task))
            return true;
    return false;
}

static void write_heads(const scd_daemon *d, const scd_served_model *m, scd_buf *out)
{
    scd_buf_puts(out, ",\"tasks\":[\"embed\"");
    if (scd_engine_denoises(d->engine))
        scd_buf_puts(out, ",\"denoise\",\"impute\",\"generate\"");
    if (scd_engine_associates(d->engine))
        scd_buf_puts(out, ",\"grn\"");
    if (has_head(m, "annotation"))
        scd_buf_puts(out, ",\"annotate\"");
    if (has_head(m, "perturbation"))
        scd_buf_puts(out, ",\"perturb\"");
    scd_buf_puts(out, "],\"heads\":[");
    for (size_t i = 0; i < m->n_heads; i++) {
        if (i)
            scd_buf_putc(out, ',');
        scd_json_head(out, m->heads[i]);
    }
    scd_buf_putc(out, ']');
}

/* Every device that was opened, those that failed among them. */
static void write_devices(const scd_daemon *d, scd_buf *out)
{
    scd_device_stats stats[SCD_DAEMON_MAX_DEVICES];
    size_t n = scd_batcher_devices(d->batcher, stats, SCD_DAEMON_MAX_DEVICES);
    scd_buf_puts(out, ",\"devices\":[");
    for (size_t i = 0; i < n; i++) {
        scd_buf_printf(out, "%s{\"device\":\"%s\",\"name\":", i ? "," : "",
                       scd_engine_device_name(d->engine, i));
        scd_json_text(out, scd_engine_device_at(d->engine, i)->name);
        scd_buf_printf(out, ",\"state\":\"%s\"}",
                       stats[i].lost           ? "lost"
                       : stats[i].silent_s > 0 ? "silent"
                                               : "serving");
    }
    scd_buf_putc(out, ']');
}

static void write_model(const scd_daemon *d, const scd_served_model *m, scd_buf *out)
{
    const scd_model_config *c = m->config;
    const scd_device_info *device = scd_engine_device(d->engine);
    scd_buf_puts(out, "{\"object\":\"model\",\"name\":");
    scd_json_text(out, m->name);
    scd_buf_printf(out, ",\"digest\":\"%s\"", m->digest_hex);
    put_bool(out, "trained", c->trained);
    scd_buf_printf(out, ",\"latent_pooling\":\"%s\"", c->latent_visible ? "visible" : "clean");
    put_number(out, "parameters", m->n_params);
    put_number(out, "hidden_dim", c->hidden_dim);
    put_number(out, "scgpt_dim", c->d);
    put_number(out, "n_layers", c->n_layers);
    put_number(out, "n_heads", c->n_heads);
    put_number(out, "d_hid", c->ffn_dim);
    put_number(out, "vocab_size", c->vocab);
    put_number(out, "genes", scd_vocab_n_genes(m->vocab));
    put_number(out, "max_gene_len", c->max_gene_len);
    put_bool(out, "value_masking", c->value_masking);
    put_bool(out, "entropies", scd_vocab_has_entropies(m->vocab));
    scd_buf_puts(out, ",\"device\":");
    scd_json_text(out, scd_engine_device_kind(d->engine));
    scd_buf_puts(out, ",\"device_name\":");
    scd_json_text(out, device->name);
    scd_buf_puts(out, ",\"isa\":");
    scd_json_text(out, device->isa);
    scd_buf_printf(out, ",\"precision\":\"%s\"", scd_precision_name(device->precision));
    write_devices(d, out);
    write_heads(d, m, out);
    scd_buf_puts(out, ",\"limits\":");
    write_limits(d, out);
    scd_buf_putc(out, '}');
}

void scd_handle_models(scd_daemon *d, scd_exchange *x)
{
    scd_buf out;
    scd_buf_init(&out, MAX_BYTES);
    scd_buf_puts(&out, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < scd_engine_n_models(d->engine); i++) {
        if (i)
            scd_buf_putc(&out, ',');
        write_model(d, scd_engine_model(d->engine, i), &out);
    }
    scd_buf_puts(&out, "],\"limits\":");
    write_limits(d, &out);
    scd_buf_puts(&out, "}");
    scd_reply_json(x, &out);
}

void scd_handle_model(scd_daemon *d, scd_exchange *x)
{
    const char *name = scd_exchange_path(x) + strlen("/v1/models/");
    size_t index;
    scd_problem problem;
    const scd_served_model *m =
        scd_models_choose(d->engine, (scd_text){name, strlen(name)}, &index, &problem);
    if (!m) {
        scd_reply_with(x, &problem);
        return;
    }
    scd_buf out;
    scd_buf_init(&out, MAX_BYTES);
    write_model(d, m, &out);
    scd_reply_json(x, &out);
}
