/* config.c - see config.h.
 *
 * One table holds every number of config.json with its default and its bounds; parse and check both
 * walk it, so that a configuration built from flags obeys the same bounds as one read from a file.
 * The bounds keep every product of two sizes times eight bytes far inside 64 bits. JSON is read
 * with cJSON, as is the header of a safetensors file: both are small and read once at start.
 *
 * Threads: any. Owns: nothing. */
#include "engine/model/config.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef enum { FIELD_SIZE, FIELD_ID, FIELD_REAL } field_kind;

typedef struct field {
    const char *key;
    field_kind kind;
    size_t offset; /* in scd_model_config */
    double initial, least, most;
} field;

#define AT(member) offsetof(scd_model_config, member)

enum { MAX_WIDTH = 1 << 16, MAX_FFN = 1 << 18, MAX_VOCAB = 1 << 24, MAX_GENES = 1 << 20 };

/* Defaults: the official checkpoint (SPEC section 1). */
static const field fields[] = {
    {"SCGPT_DIM", FIELD_SIZE, AT(d), 512, 1, MAX_WIDTH},
    {"HIDDEN_DIM", FIELD_SIZE, AT(hidden_dim), 512, 1, MAX_WIDTH},
    {"N_LAYERS", FIELD_SIZE, AT(n_layers), 12, 1, 1024},
    {"N_HEADS", FIELD_SIZE, AT(n_heads), 8, 1, 4096},
    {"D_HID", FIELD_SIZE, AT(ffn_dim), 2048, 1, MAX_FFN},
    {"VOCAB_SIZE", FIELD_SIZE, AT(vocab), 41818, 6, MAX_VOCAB}, /* one gene, five special ids */
    {"PAD_TOKEN_ID", FIELD_ID, AT(pad_id), 0, 0, MAX_VOCAB - 1},
    {"MASK_TOKEN_ID", FIELD_ID, AT(mask_id), 1, 0, MAX_VOCAB - 1},
    {"PAD_FILL_GENE_ID", FIELD_ID, AT(pad_fill_id), 41815, 0, MAX_VOCAB - 1},
    {"BOS_GENE_ID", FIELD_ID, AT(bos_id), 41816, 0, MAX_VOCAB - 1},
    {"EOS_GENE_ID", FIELD_ID, AT(eos_id), 41817, 0, MAX_VOCAB - 1},
    {"MAX_GENE_LEN", FIELD_SIZE, AT(max_gene_len), 1200, 1, MAX_GENES},
    {"ROPE_MAX_LEN", FIELD_SIZE, AT(rope_max_len), 41819, 2, 2.0 * MAX_VOCAB},
    {"ROPE_THETA", FIELD_REAL, AT(rope_theta), 10000, 1, 1e9},
    {"DROPOUT", FIELD_REAL, AT(dropout), 0.1, 0, 0.99},
};
enum { N_FIELDS = sizeof fields / sizeof fields[0] };

static void store(scd_model_config *config, const field *f, double value)
{
    char *at = (char *)config + f->offset;
    if (f->kind == FIELD_SIZE)
        *(size_t *)(void *)at = (size_t)value;
    else if (f->kind == FIELD_ID)
        *(int32_t *)(void *)at = (int32_t)value;
    else
        *(double *)(void *)at = value;
}

static double load(const scd_model_config *config, const field *f)
{
    const char *at = (const char *)config + f->offset;
    if (f->kind == FIELD_SIZE)
        return (double)*(const size_t *)(const void *)at;
    if (f->kind == FIELD_ID)
        return *(const int32_t *)(const void *)at;
    return *(const double *)(const void *)at;
}

static bool within(const field *f, double value)
{
    bool whole = f->kind == FIELD_REAL || value == floor(value);
    return value >= f->least && value <= f->most && whole; /* NaN fails the comparisons */
}

static scd_code refuse(const field *f, const char *given, scd_error *err)
{
    return scd_fail(err, SCD_E_INVALID,
                    "config.json: %s is %.48s, must be a %s from %.10g to %.10g", f->key, given,
                    f->kind == FIELD_REAL ? "number" : "whole number", f->least, f->most);
}

static scd_code refuse_json(const field *f, const cJSON *given, scd_error *err)
{
    char *text = cJSON_PrintUnformatted(given);
    refuse(f, text ? text : "something else", err);
    free(text);
    return SCD_E_INVALID;
}

/* *out = the member `key` of the object or NULL; a key given twice has no one meaning. */
static scd_code find_once(const cJSON *object, const char *key, const cJSON **out, scd_error *err)
{
    *out = NULL;
    const cJSON *item;
    cJSON_ArrayForEach(item, object)
    {
        if (strcmp(item->string, key))
            continue;
        if (*out)
            return scd_fail(err, SCD_E_INVALID, "config.json: %s is given twice", key);
        *out = item;
    }
    return SCD_OK;
}

static scd_code read_numbers(const cJSON *root, scd_model_config *out, scd_error *err)
{
    for (size_t i = 0; i < N_FIELDS; i++) {
        const field *f = &fields[i];
        const cJSON *item;
        if (find_once(root, f->key, &item, err))
            return SCD_E_INVALID;
        if (item && (!cJSON_IsNumber(item) || !within(f, item->valuedouble)))
            return refuse_json(f, item, err);
        store(out, f, item ? item->valuedouble : f->initial);
    }
    return SCD_OK;
}

static scd_code read_bool(const cJSON *root, const char *key, bool initial, bool *out,
                          scd_error *err)
{
    const cJSON *item;
    if (find_once(root, key, &item, err))
        return SCD_E_INVALID;
    if (item && !cJSON_IsBool(item))
        return scd_fail(err, SCD_E_INVALID, "config.json: %s must be true or false", key);
    *out = item ? cJSON_IsTrue(item) : initial;
    return SCD_OK;
}

static scd_code read_pooling(const cJSON *root, bool *latent_visible, scd_error *err)
{
    const cJSON *item;
    if (find_once(root, "latent_pooling", &item, err))
        return SCD_E_INVALID;
    const char *text = cJSON_GetStringValue(item);
    *latent_visible = text && !strcmp(text, "visible");
    if (item && (!text || (!*latent_visible && strcmp(text, "clean"))))
        return scd_fail(err, SCD_E_INVALID,
                        "config.json: latent_pooling is %.48s, must be \"clean\" or \"visible\"",
                        text ? text : "not a string");
    return SCD_OK;
}

static bool only_space(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
        at++;
    return at == end;
}

scd_code scd_model_config_parse(const char *json, size_t n, scd_model_config *out, scd_error *err)
{
    *out = (scd_model_config){0};
    const char *end = NULL;
    cJSON *root = cJSON_ParseWithLengthOpts(json, n, &end, 0);
    scd_code code = SCD_OK;
    if (!root || !only_space(end, json + n)) {
        size_t at = end ? (size_t)(end - json) : 0;
        code = scd_fail(err, SCD_E_INVALID, "config.json: not valid JSON near byte %zu", at);
        goto done;
    }
    if (!cJSON_IsObject(root)) {
        code = scd_fail(err, SCD_E_INVALID, "config.json: must be a JSON object");
        goto done;
    }
    if ((code = read_numbers(root, out, err)) ||
        (code = read_pooling(root, &out->latent_visible, err)) ||
        (code = read_bool(root, "value_masking", false, &out->value_masking, err)) ||
        (code = read_bool(root, "trained", true, &out->trained, err)))
        goto done;
    out->head_dim = out->hidden_dim / out->n_heads; /* the check looks at the remainder */
done:
    cJSON_Delete(root);
    return code;
}

static scd_code check_heads(const scd_model_config *c, scd_error *err)
{
    if (c->hidden_dim % c->n_heads)
        return scd_fail(err, SCD_E_INVALID,
                        "config.json: HIDDEN_DIM %zu is not divisible by N_HEADS %zu",
                        c->hidden_dim, c->n_heads);
    size_t head_dim = c->hidden_dim / c->n_heads;
    if (head_dim < 16 || head_dim > 128 || head_dim % 2)
        return scd_fail(err, SCD_E_INVALID,
                        "config.json: HIDDEN_DIM / N_HEADS is %zu, must be even and from 16 to 128",
                        head_dim);
    if (c->head_dim != head_dim)
        return scd_fail(err, SCD_E_INVALID, "head_dim is %zu, must be HIDDEN_DIM / N_HEADS = %zu",
                        c->head_dim, head_dim);
    return SCD_OK;
}

static scd_code check_special_ids(const scd_model_config *c, scd_error *err)
{
    const field *seen[5];
    size_t n_seen = 0;
    for (size_t i = 0; i < N_FIELDS; i++) {
        const field *f = &fields[i];
        if (f->kind != FIELD_ID)
            continue;
        int32_t id = (int32_t)load(c, f);
        if ((size_t)id >= c->vocab)
            return scd_fail(err, SCD_E_INVALID,
                            "config.json: %s is %d, must be below VOCAB_SIZE %zu", f->key, id,
                            c->vocab);
        for (size_t j = 0; j < n_seen; j++)
            if ((int32_t)load(c, seen[j]) == id)
                return scd_fail(err, SCD_E_INVALID,
                                "config.json: %s and %s are both %d, must differ", seen[j]->key,
                                f->key, id);
        seen[n_seen++] = f;
    }
    return SCD_OK;
}

scd_code scd_model_config_check(const scd_model_config *config, scd_error *err)
{
    for (size_t i = 0; i < N_FIELDS; i++) {
        double value = load(config, &fields[i]);
        if (!within(&fields[i], value)) {
            cJSON number = {.type = cJSON_Number, .valuedouble = value, .valueint = 0};
            return refuse_json(&fields[i], &number, err);
        }
    }
    scd_code code = check_heads(config, err);
    if (!code)
        code = check_special_ids(config, err);
    if (!code && config->rope_max_len < config->max_gene_len + 1)
        code = scd_fail(err, SCD_E_INVALID,
                        "config.json: ROPE_MAX_LEN is %zu, must be at least MAX_GENE_LEN + 1 = %zu",
                        config->rope_max_len, config->max_gene_len + 1);
    return code;
}

bool scd_model_is_special(const scd_model_config *config, int32_t id)
{
    return id == config->pad_id || id == config->mask_id || id == config->pad_fill_id ||
           id == config->bos_id || id == config->eos_id;
}
