/* answer.c - see answer.h. */
#include "api/answer.h"

#include "api/json_write.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

void scd_answer_begin(scd_answer *answer, scd_buf *out, const scd_answer_begin_args *args)
{
    *answer = (scd_answer){.out = out};
    scd_buf_puts(out, "{\"object\":\"list\",\"model\":");
    scd_answer_model(out, args->model_name, args->model_digest_hex);
    if (args->head) {
        scd_buf_puts(out, ",\"head\":{\"name\":");
        scd_json_text(out, args->head->name);
        scd_buf_puts(out, ",\"digest\":");
        scd_json_text(out, args->head->digest_hex);
        if (!isnan(args->head->threshold)) {
            scd_buf_puts(out, ",\"threshold\":");
            scd_json_double(out, args->head->threshold);
        }
        scd_buf_putc(out, '}');
    }
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

void scd_answer_item_begin(scd_answer *answer, const scd_answer_item *item)
{
    scd_buf *out = answer->out;
    begin_item(answer, item->index, item->id);
    key_uint(out, ",\"tokens\":", item->tokens);
    key_uint(out, ",\"genes_known\":", item->genes_known);
    key_uint(out, ",\"genes_unknown\":", item->genes_unknown);
    key_uint(out, ",\"genes_truncated\":", item->genes_truncated);
    if (item->leaves_out)
        key_uint(out, ",\"genes_unused\":", item->genes_unused);
    scd_buf_puts(out, ",\"cache\":");
    scd_json_text(out, item->cache);
}

void scd_answer_item_end(scd_answer *answer)
{
    scd_buf_putc(answer->out, '}');
}

void scd_answer_embedding(scd_answer *answer, scd_encoding encoding, const float *values, size_t n)
{
    scd_buf *out = answer->out;
    scd_buf_puts(out, ",\"embedding\":");
    if (encoding == SCD_ENCODING_BASE64) {
        scd_buf_putc(out, '"');
        scd_base64(out, values, n * sizeof values[0]);
        scd_buf_putc(out, '"');
    } else {
        scd_json_floats(out, values, n);
    }
}

static int by_order(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Floats that are not negative compare as their bits do, so one number holds what decides: the
 * complement of the bits above, the index below. */
void scd_annotation_sort(const scd_annotation *a)
{
    for (size_t i = 0; i < a->n_labels; i++) {
        uint32_t bits;
        memcpy(&bits, &a->probabilities[i], sizeof bits);
        a->order[i] = (uint64_t)~bits << 32 | i;
    }
    qsort(a->order, a->n_labels, sizeof a->order[0], by_order);
    for (size_t i = 0; i < a->n_labels; i++)
        a->order[i] &= UINT32_MAX;
}

/* In float32, so that it agrees with what a reader of the two decimals sees. */
bool scd_annotation_is_unknown(const scd_annotation *a)
{
    return a->probabilities[a->order[0]] < (float)a->threshold;
}

void scd_answer_annotation(scd_answer *answer, const scd_annotation *a)
{
    scd_buf *out = answer->out;
    scd_annotation_sort(a);
    const scd_head_label *best = &a->labels[a->order[0]];
    float p = a->probabilities[a->order[0]];
    key_uint(out, ",\"genes_unused\":", a->genes_unused);
    scd_buf_puts(out, ",\"label\":");
    scd_json_text(out, best->label);
    scd_buf_puts(out, ",\"ontology_id\":");
    if (best->ontology_id)
        scd_json_text(out, best->ontology_id);
    else
        scd_buf_puts(out, "null");
    scd_buf_puts(out, ",\"probability\":");
    scd_json_float(out, p);
    scd_buf_puts(out, scd_annotation_is_unknown(a) ? ",\"unknown\":true" : ",\"unknown\":false");
    scd_buf_puts(out, ",\"top\":[");
    for (size_t k = 0; k < a->top_k; k++) {
        scd_buf_puts(out, k ? ",{\"label\":" : "{\"label\":");
        scd_json_text(out, a->labels[a->order[k]].label);
        scd_buf_puts(out, ",\"probability\":");
        scd_json_float(out, a->probabilities[a->order[k]]);
        scd_buf_putc(out, '}');
    }
    scd_buf_putc(out, ']');
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
    scd_buf_putc(out, ']');
    if (args->write_more)
        args->write_more(out, args->more_arg);
    key_uint(out, ",\"usage\":{\"cells\":", args->cells);
    key_uint(out, ",\"tokens\":", args->tokens);
    key_uint(out, ",\"cached\":", args->cached);
    scd_buf_puts(out, "},\"warnings\":");
    scd_answer_warnings(out, args->warnings, args->n_warnings);
    raw_member(out, ",\"sample_id\":", args->sample_id);
    raw_member(out, ",\"external_ids\":", args->external_ids);
    scd_buf_putc(out, '}');
}
