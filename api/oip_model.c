/* oip_model.c - see oip_model.h. */
#include "api/oip_model.h"

#include "api/json_write.h"
#include "api/oip_cells.h"

#include <string.h>

static const char platform[] = "scdiva_safetensors", backend[] = "scdiva";

/* -1 where a dimension varies. */
static void put_dims(const char *member, size_t n, size_t width, scd_buf *out)
{
    scd_buf_printf(out, ",\"%s\":[-1", member);
    if (n == 2 && width)
        scd_buf_printf(out, ",%zu", width);
    else if (n == 2)
        scd_buf_puts(out, ",-1");
    scd_buf_putc(out, ']');
}

static void put_tensor(bool first, const char *name, scd_oip_type type, scd_buf *out)
{
    scd_buf_puts(out, first ? "{\"name\":" : ",{\"name\":");
    scd_json_text(out, name);
    scd_buf_printf(out, ",\"datatype\":\"%s\"", scd_oip_type_name(type));
}

void scd_oip_write_metadata(const scd_oip_model *model, scd_buf *out)
{
    size_t n;
    const scd_oip_input_kind *inputs = scd_oip_input_kinds(&n);
    scd_buf_puts(out, "{\"name\":");
    scd_json_text(out, model->name);
    scd_buf_printf(out, ",\"versions\":[\"%s\"],\"platform\":\"%s\",\"inputs\":[", model->version,
                   platform);
    for (size_t i = 0; i < n; i++) {
        put_tensor(!i, inputs[i].name, inputs[i].type, out);
        put_dims("shape", inputs[i].n_dims, 0, out);
        scd_buf_putc(out, '}');
    }
    scd_buf_puts(out, "],\"outputs\":[");
    for (size_t i = 0; i < model->n_outputs; i++) {
        const scd_oip_output_kind *o = &model->outputs[i];
        put_tensor(!i, o->name, o->type, out);
        put_dims("shape", o->n_dims, o->width, out);
        scd_buf_putc(out, '}');
    }
    scd_buf_puts(out, "],\"properties\":{");
    for (size_t i = 0; i < model->n_properties; i++) {
        if (i)
            scd_buf_putc(out, ',');
        scd_json_text(out, model->properties[i].name);
        scd_buf_putc(out, ':');
        scd_json_text(out, model->properties[i].value);
    }
    scd_buf_puts(out, "}}");
}

static void put_configured(bool first, const char *name, scd_oip_type type, scd_buf *out)
{
    scd_buf_puts(out, first ? "{\"name\":" : ",{\"name\":");
    scd_json_text(out, name);
    scd_buf_printf(out, ",\"data_type\":\"TYPE_%s\"",
                   type == SCD_OIP_BYTES ? "STRING" : scd_oip_type_name(type));
}

void scd_oip_write_config(const scd_oip_model *model, scd_buf *out)
{
    size_t n;
    const scd_oip_input_kind *inputs = scd_oip_input_kinds(&n);
    scd_buf_puts(out, "{\"name\":");
    scd_json_text(out, model->name);
    scd_buf_printf(out, ",\"platform\":\"%s\",\"backend\":\"%s\",\"max_batch_size\":0,\"input\":[",
                   platform, backend);
    for (size_t i = 0; i < n; i++) {
        put_configured(!i, inputs[i].name, inputs[i].type, out);
        put_dims("dims", inputs[i].n_dims, 0, out);
        scd_buf_printf(out, ",\"optional\":%s}", inputs[i].optional ? "true" : "false");
    }
    scd_buf_puts(out, "],\"output\":[");
    for (size_t i = 0; i < model->n_outputs; i++) {
        const scd_oip_output_kind *o = &model->outputs[i];
        put_configured(!i, o->name, o->type, out);
        put_dims("dims", o->n_dims, o->width, out);
        scd_buf_putc(out, '}');
    }
    scd_buf_puts(out, "]}");
}

static bool read_index(scd_decoder *d, bool *ready_only)
{
    scd_text key;
    if (!scd_read_start(d))
        return false;
    for (size_t i = 0; scd_scan_member(&d->scan, i, d->arena, &key); i++) {
        scd_fault fault = {0};
        scd_place place = {"", SCD_NO_INDEX, NULL, SCD_NO_INDEX};
        bool ok;
        if (scd_text_is(key, "ready")) {
            place.member = "ready";
            ok = scd_read_bool(d, &place, ready_only, &fault);
        } else {
            scd_fault_unknown_member(&fault, &place, key, "ready");
            ok = scd_scan_skip(&d->scan, NULL);
        }
        if (!ok)
            return false;
        scd_problem_add_fault(d->problem, &fault);
    }
    return scd_scan_end(&d->scan);
}

scd_problem_kind scd_oip_index_decode(const char *body, size_t n, const scd_request_limits *limits,
                                      scd_arena *arena, bool *ready_only, scd_problem *problem)
{
    scd_decoder d;
    *ready_only = false;
    scd_decoder_init(&d, body, n, limits, arena, problem);
    if (n && !read_index(&d, ready_only))
        scd_decoder_stopped(&d);
    scd_decoder_release(&d);
    return problem->kind;
}
