/* handle_oip.c - the Open Inference Protocol but for inference: health, metadata, configuration and
 * the list of models. */
#include "api/json_write.h"
#include "api/models.h"
#include "server/oip_call.h"
#include "server/reply.h"
#include "server/router.h"

#include <string.h>

enum { MAX_BYTES = 1 << 20 };

const scd_oip_output_kind scd_oip_outputs[SCD_N_OUTPUTS] = {
    [SCD_OUT_EMBEDDING] = {"embedding", SCD_OIP_FP32, 2, 0},
    [SCD_OUT_LABEL] = {"label", SCD_OIP_BYTES, 1, 0},
    [SCD_OUT_ONTOLOGY_ID] = {"ontology_id", SCD_OIP_BYTES, 1, 0},
    [SCD_OUT_PROBABILITY] = {"probability", SCD_OIP_FP32, 1, 0},
    [SCD_OUT_UNKNOWN] = {"unknown", SCD_OIP_BOOL, 1, 0},
    [SCD_OUT_TOP_LABELS] = {"top_labels", SCD_OIP_BYTES, 2, 0},
    [SCD_OUT_TOP_PROBABILITIES] = {"top_probabilities", SCD_OIP_FP32, 2, 0},
    [SCD_OUT_TOKENS] = {"tokens", SCD_OIP_INT64, 1, 0},
    [SCD_OUT_GENES_KNOWN] = {"genes_known", SCD_OIP_INT64, 1, 0},
    [SCD_OUT_GENES_UNKNOWN] = {"genes_unknown", SCD_OIP_INT64, 1, 0},
    [SCD_OUT_GENES_TRUNCATED] = {"genes_truncated", SCD_OIP_INT64, 1, 0},
    [SCD_OUT_GENES_UNUSED] = {"genes_unused", SCD_OIP_INT64, 1, 0},
    [SCD_OUT_ERROR] = {"error", SCD_OIP_BYTES, 1, 0},
};

bool scd_oip_annotates(const scd_served_model *model)
{
    for (size_t i = 0; i < model->n_heads; i++)
        if (!strcmp(model->heads[i]->task, "annotation"))
            return true;
    return false;
}

/* The segment behind `before`, which the text starts with; else none. */
static scd_text segment_behind(const char *text, const char *before)
{
    size_t n = strlen(before);
    if (strncmp(text, before, n))
        return (scd_text){text, 0};
    return (scd_text){text + n, strcspn(text + n, "/")};
}

const scd_served_model *scd_oip_find_model(scd_daemon *d, scd_exchange *x, scd_text *name)
{
    size_t index;
    scd_problem problem;
    *name = segment_behind(scd_exchange_path(x), "/v2/models/");
    scd_text version = segment_behind(name->data + name->n, "/versions/");
    const scd_served_model *m = scd_models_choose(d->engine, *name, &index, &problem);
    if (!m) {
        scd_reply_with(x, &problem);
        return NULL;
    }
    if (!version.n || scd_text_is(version, SCD_OIP_VERSION))
        return m;
    scd_reply_problem(x, SCD_PROBLEM_NOT_FOUND,
                      "model \"%.80s\" has no version \"%.*s\": there is \"" SCD_OIP_VERSION "\"",
                      m->name, (int)scd_utf8_cut(version.data, version.n < 40 ? version.n : 40),
                      version.data);
    return NULL;
}

/* ---- the server ------------------------------------------------------------------------------ */

static void reply_text(scd_exchange *x, const char *json)
{
    scd_buf out;
    scd_buf_init(&out, MAX_BYTES);
    scd_buf_puts(&out, json);
    scd_reply_json(x, &out);
}

void scd_handle_v2_server(scd_daemon *d, scd_exchange *x)
{
    (void)d;
    reply_text(x, "{\"name\":\"scdivad\",\"version\":\"" SCD_VERSION
                  "\",\"extensions\":[\"binary_tensor_data\",\"model_configuration\"]}");
}

void scd_handle_v2_live(scd_daemon *d, scd_exchange *x)
{
    (void)d;
    reply_text(x, "{\"live\":true}");
}

/* The protocol's text calls the member of this answer "live", its servers "ready". */
void scd_handle_v2_ready(scd_daemon *d, scd_exchange *x)
{
    const char *why_not = scd_daemon_unready(d);
    if (why_not)
        scd_reply_problem(x, SCD_PROBLEM_UNAVAILABLE, "%s", why_not);
    else
        reply_text(x, "{\"live\":true,\"ready\":true}");
}

void scd_handle_v2_index(scd_daemon *d, scd_exchange *x)
{
    enum { ARENA_BYTES = 1 << 20 };
    size_t n;
    const char *body = scd_exchange_body(x, &n), *why_not = scd_daemon_unready(d);
    bool ready_only;
    scd_problem problem;
    scd_arena arena;
    scd_arena_init(&arena, ARENA_BYTES);
    if (scd_oip_index_decode(body, n, &d->limits, &arena, &ready_only, &problem)) {
        scd_reply_with(x, &problem);
        scd_arena_release(&arena);
        return;
    }
    scd_arena_release(&arena);
    scd_buf out;
    scd_buf_init(&out, MAX_BYTES);
    scd_buf_putc(&out, '[');
    for (size_t i = 0; i < scd_engine_n_models(d->engine) && !(ready_only && why_not); i++) {
        scd_buf_puts(&out, i ? ",{\"name\":" : "{\"name\":");
        scd_json_text(&out, scd_engine_model(d->engine, i)->name);
        scd_buf_printf(&out, ",\"version\":\"" SCD_OIP_VERSION "\",\"state\":\"%s\",\"reason\":",
                       why_not ? "UNAVAILABLE" : "READY");
        scd_json_text(&out, why_not ? why_not : "");
        scd_buf_putc(&out, '}');
    }
    scd_buf_putc(&out, ']');
    scd_reply_json(x, &out);
}

/* ---- one model ------------------------------------------------------------------------------ */

static void reply_model(scd_daemon *d, scd_exchange *x,
                        void (*write)(const scd_oip_model *model, scd_buf *out))
{
    scd_text name;
    const scd_served_model *m = scd_oip_find_model(d, x, &name);
    if (!m)
        return;
    scd_oip_output_kind outputs[SCD_N_OUTPUTS];
    size_t n = 0;
    for (int id = 0; id < SCD_N_OUTPUTS; id++)
        if (!scd_oip_is_annotation((scd_oip_output_id)id) || scd_oip_annotates(m))
            outputs[n++] = scd_oip_outputs[id];
    outputs[0].width = m->config->hidden_dim;
    const scd_oip_property properties[] = {
        {"digest", m->digest_hex},
        {"device", scd_engine_device_kind(d->engine)},
        {"precision", scd_precision_name(scd_engine_device(d->engine)->precision)},
        {"trained", m->config->trained ? "true" : "false"},
    };
    const scd_oip_model model = {.name = m->name,
                                 .version = SCD_OIP_VERSION,
                                 .n_outputs = n,
                                 .outputs = outputs,
                                 .n_properties = sizeof properties / sizeof properties[0],
                                 .properties = properties};
    scd_buf out;
    scd_buf_init(&out, MAX_BYTES);
    write(&model, &out);
    scd_reply_json(x, &out);
}

void scd_handle_v2_model(scd_daemon *d, scd_exchange *x)
{
    reply_model(d, x, scd_oip_write_metadata);
}

void scd_handle_v2_model_version(scd_daemon *d, scd_exchange *x)
{
    scd_handle_v2_model(d, x);
}

void scd_handle_v2_config(scd_daemon *d, scd_exchange *x)
{
    reply_model(d, x, scd_oip_write_config);
}

void scd_handle_v2_config_version(scd_daemon *d, scd_exchange *x)
{
    scd_handle_v2_config(d, x);
}

void scd_handle_v2_model_ready(scd_daemon *d, scd_exchange *x)
{
    scd_text name;
    const scd_served_model *m = scd_oip_find_model(d, x, &name);
    const char *why_not = scd_daemon_unready(d);
    if (!m)
        return;
    if (why_not) {
        scd_reply_problem(x, SCD_PROBLEM_UNAVAILABLE, "%s", why_not);
        return;
    }
    scd_buf out;
    scd_buf_init(&out, MAX_BYTES);
    scd_buf_puts(&out, "{\"name\":");
    scd_json_text(&out, m->name);
    scd_buf_puts(&out, ",\"ready\":true}");
    scd_reply_json(x, &out);
}

void scd_handle_v2_model_version_ready(scd_daemon *d, scd_exchange *x)
{
    scd_handle_v2_model_ready(d, x);
}
