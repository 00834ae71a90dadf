/* answer.c - see answer.h. */
#include "api/answer.h"

#include "api/json_write.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "base64 answers are little-endian");

static void key_uint(scd_buf *out, const char *key, size_t value)
{
    scd_buf_puts(out, key);
    scd_json_uint(out, value);
}

void scd_answer_model(scd_buf *out, const char *name, const char *digest_hex)
{
    scd_buf_puts(out, "{\"name\":");
    scd_json_text(out, name);
    scd_buf_puts(out, ",\"digest\":");
    scd_json_text(out, digest_hex);
    scd_buf_putc(out, '}');
}

void scd_answer_warnings(scd_buf *out, const scd_warning *warnings, size_t n)
{
    scd_buf_putc(out, '[');
    for (size_t i = 0; i < n; i++) {
        scd_buf_puts(out, i ? ",{\"code\":" : "{\"code\":");
        scd_json_text(out, warnings[i].code);
        scd_buf_puts(out, ",\"detail\":");
        scd_json_text(out, warnings[i].detail);
        scd_buf_putc(out, '}');
    }
    scd_buf_putc(out, ']');
}

bool scd_encoding_parse(scd_text text, scd_encoding *out)
{
    *out = scd_text_is(text, "base64") ? SCD_ENCODING_BASE64 : SCD_ENCODING_FLOAT;
    return *out == SCD_ENCODING_BASE64 || scd_text_is(text, "float");
}

void scd_answer_begin(scd_answer *answer, scd_buf *out, scd_encoding encoding,
                      const char *model_name, const char *digest_hex)
{
    *answer = (scd_answer){.out = out, .encoding = encoding};
    scd_buf_puts(out, "{\"object\":\"list\",\"model\":");
    scd_answer_model(out, model_name, digest_hex);
    scd_buf_puts(out, ",\"data\":[");
}

static void begin_item(scd_answer *answer, size_t index, scd_text id)
{
    scd_buf *out = answer->out;
    key_uint(out, answer->n_items++ ? ",{\"index\":" : "{\"index\":", index);
    scd_buf_puts(out, ",\"id\":");
    if (id.n)
        scd_json_string(out, id.data, id.n);
    else
        scd_buf_puts(out, "null");
}

void scd_answer_item_write(scd_answer *answer, const scd_answer_item *item)
{
    scd_buf *out = answer->out;
    begin_item(answer, item->index, item->id);
    key_uint(out, ",\"tokens\":", item->tokens);
    key_uint(out, ",\"genes_known\":", item->genes_known);
    key_uint(out, ",\"genes_unknown\":", item->genes_unknown);
    key_uint(out, ",\"genes_truncated\":", item->genes_truncated);
    scd_buf_puts(out, ",\"cache\":");
    scd_json_text(out, item->cache);
    scd_buf_puts(out, ",\"embedding\":");
    if (answer->encoding == SCD_ENCODING_BASE64) {
        scd_buf_putc(out, '"');
        scd_base64(out, item->embedding, item->dim * sizeof item->embedding[0]);
        scd_buf_putc(out, '"');
    } else {
        scd_json_floats(out, item->embedding, item->dim);
    }
    scd_buf_putc(out, '}');
}

void scd_answer_error_write(scd_answer *answer, const scd_answer_error *error)
{
    scd_buf *out = answer->out;
    begin_item(answer, error->index, error->id);
    scd_buf_puts(out, ",\"error\":{\"type\":\"urn:scdiva:problem:");
    scd_buf_puts(out, scd_problem_name(error->kind));
    scd_buf_puts(out, "\",\"detail\":");
    scd_json_text(out, error->detail);
    if (error->pointer) {
        scd_buf_puts(out, ",\"pointer\":");
        scd_json_text(out, error->pointer);
    }
    scd_buf_puts(out, "}}");
}

static void raw_member(scd_buf *out, const char *key, scd_text json)
{
    if (!json.n)
        return;
    scd_buf_puts(out, key);
    scd_buf_append(out, json.data, json.n);
}

void scd_answer_end(scd_answer *answer, const scd_answer_end_args *args)
{
    scd_buf *out = answer->out;
    key_uint(out, "],\"usage\":{\"cells\":", args->cells);
    key_uint(out, ",\"tokens\":", args->tokens);
    key_uint(out, ",\"cached\":", args->cached);
    scd_buf_puts(out, "},\"warnings\":");
    scd_answer_warnings(out, args->warnings, args->n_warnings);
    raw_member(out, ",\"sample_id\":", args->sample_id);
    raw_member(out, ",\"external_ids\":", args->external_ids);
    scd_buf_putc(out, '}');
}
