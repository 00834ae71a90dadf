/* oip_answer.c - see oip_answer.h. */
#include "api/oip_answer.h"

#include "api/json_write.h"

#include <string.h>

static size_t count(const scd_oip_result *r)
{
    size_t n = 1;
    for (size_t i = 0; i < r->n_dims; i++)
        n *= r->dims[i]; /* of what is in memory */
    return n;
}

static size_t binary_bytes(const scd_oip_result *r)
{
    size_t n = count(r), bytes = n * scd_oip_type_bytes(r->type);
    const scd_text *texts = r->elements;
    for (size_t i = 0; r->type == SCD_OIP_BYTES && i < n; i++)
        bytes += SCD_OIP_LENGTH_BYTES + texts[i].n;
    return bytes;
}

static void write_binary(const scd_oip_result *r, scd_buf *out)
{
    size_t n = count(r);
    if (r->type != SCD_OIP_BYTES) {
        scd_buf_append(out, r->elements, n * scd_oip_type_bytes(r->type));
        return;
    }
    const scd_text *texts = r->elements;
    for (size_t i = 0; i < n; i++) {
        uint32_t length = (uint32_t)texts[i].n;
        scd_buf_append(out, &length, sizeof length);
        scd_buf_append(out, texts[i].data, texts[i].n);
    }
}

static void write_element(const scd_oip_result *r, size_t i, scd_buf *out)
{
    if (r->type == SCD_OIP_BYTES) {
        const scd_text *text = (const scd_text *)r->elements + i;
        scd_json_string(out, text->data, text->n);
    } else if (r->type == SCD_OIP_BOOL) {
        scd_buf_puts(out, ((const bool *)r->elements)[i] ? "true" : "false");
    } else {
        scd_buf_printf(out, "%lld", (long long)((const int64_t *)r->elements)[i]);
    }
}

static void write_data(const scd_oip_result *r, scd_buf *out)
{
    size_t n = count(r);
    if (r->type == SCD_OIP_FP32) {
        scd_json_floats(out, r->elements, n);
        return;
    }
    scd_buf_putc(out, '[');
    for (size_t i = 0; i < n; i++) {
        if (i)
            scd_buf_putc(out, ',');
        write_element(r, i, out);
    }
    scd_buf_putc(out, ']');
}

static void write_result(const scd_oip_result *r, scd_buf *out)
{
    scd_buf_puts(out, "{\"name\":");
    scd_json_text(out, r->name);
    scd_buf_printf(out, ",\"datatype\":\"%s\",\"shape\":[", scd_oip_type_name(r->type));
    for (size_t i = 0; i < r->n_dims; i++)
        scd_buf_printf(out, "%s%zu", i ? "," : "", r->dims[i]);
    if (r->is_binary) {
        scd_buf_printf(out, "],\"parameters\":{\"binary_data_size\":%zu}", binary_bytes(r));
    } else {
        scd_buf_puts(out, "],\"data\":");
        write_data(r, out);
    }
    scd_buf_putc(out, '}');
}

static void write_parameters(const scd_oip_answer *a, scd_buf *out)
{
    scd_buf_puts(out, ",\"parameters\":{");
    for (size_t i = 0; i < a->n_parameters; i++) {
        const scd_oip_parameter *p = &a->parameters[i];
        if (i)
            scd_buf_putc(out, ',');
        scd_json_text(out, p->name);
        scd_buf_putc(out, ':');
        if (p->text)
            scd_json_text(out, p->text);
        else
            scd_json_double(out, p->number);
    }
    scd_buf_putc(out, '}');
}

size_t scd_oip_write(const scd_oip_answer *a, scd_buf *out)
{
    bool any_binary = false;
    scd_buf_puts(out, "{\"model_name\":");
    scd_json_text(out, a->model_name);
    scd_buf_puts(out, ",\"model_version\":");
    scd_json_text(out, a->model_version);
    if (a->id.n) {
        scd_buf_puts(out, ",\"id\":");
        scd_json_string(out, a->id.data, a->id.n);
    }
    write_parameters(a, out);
    scd_buf_puts(out, ",\"outputs\":[");
    for (size_t i = 0; i < a->n_results; i++) {
        if (i)
            scd_buf_putc(out, ',');
        write_result(&a->results[i], out);
        any_binary |= a->results[i].is_binary;
    }
    scd_buf_puts(out, "]}");
    size_t n_json = out->n_bytes;
    for (size_t i = 0; i < a->n_results; i++)
        if (a->results[i].is_binary)
            write_binary(&a->results[i], out);
    return any_binary ? n_json : 0;
}

void scd_oip_warnings(scd_buf *out, const scd_warning *warnings, size_t n)
{
    for (size_t i = 0; i < n; i++)
        scd_buf_printf(out, "%s%s: %s", i ? "\n" : "", warnings[i].code, warnings[i].detail);
}
