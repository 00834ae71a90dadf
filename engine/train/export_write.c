/* export_write.c - the files of an exported model, but its heads.
 *
 * Every value goes through float32, which holds those of all three dtypes: the same dtype gives the
 * same bytes, a wider one the same numbers, a narrower one the nearest, ties to even. */
#include "engine/base/mem.h"
#include "engine/model/dtype.h"
#include "engine/model/file.h"
#include "engine/train/export.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_TEXT = 1 << 28, CHUNK_BYTES = 1 << 20 };

const char *scd_export_dtype_text(scd_dtype dtype)
{
    static const char *const names[] = {[SCD_F32] = "F32", [SCD_F16] = "F16", [SCD_BF16] = "BF16"};
    return names[dtype];
}

void scd_export_had_text(const scd_export *run, char out[32])
{
    const char *between = "";
    size_t at = 0;
    for (size_t i = 0; i < SCD_EXPORT_DTYPES; i++) {
        if (!run->had[i])
            continue;
        at += (size_t)snprintf(out + at, 32 - at, "%s%s", between,
                               scd_export_dtype_text((scd_dtype)i));
        between = " and ";
    }
}

/* ---- model.safetensors ----------------------------------------------------------------------- */

typedef struct weights {
    scd_export *run;
    scd_tensor_entry *entries;
    scd_tensor *tensors;
    size_t n, room;
    bool overflows; /* the first value that the dtype cannot hold: */
    size_t entry, element;
    float value;
} weights;

static scd_code add_tensor(void *arg, const scd_tensor_entry *entry, scd_error *err)
{
    weights *w = arg;
    if (w->n == w->room) {
        size_t room = w->room ? 2 * w->room : 128;
        scd_tensor_entry *entries = scd_realloc(w->entries, room, sizeof *entries);
        w->entries = entries ? entries : w->entries;
        scd_tensor *tensors = entries ? scd_realloc(w->tensors, room, sizeof *tensors) : NULL;
        if (!tensors)
            return scd_fail(err, SCD_E_NOMEM, "out of memory for the list of tensors");
        w->tensors = tensors;
        w->room = room;
    }
    scd_tensor *t = &w->tensors[w->n];
    scd_code code = scd_safetensors_get(scd_model_tensors(w->run->model), entry->name, entry->rows,
                                        entry->cols, t, err);
    if (code)
        return code;
    scd_tensor_entry *e = &w->entries[w->n];
    *e = *entry;
    e->dtype = w->run->dtype == SCD_EXPORT_KEPT ? t->dtype : (scd_dtype)w->run->dtype;
    if (!(e->name = scd_strdup(entry->name)))
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the list of tensors");
    w->n++;
    w->run->had[t->dtype] = true;
    w->run->is_converted = w->run->is_converted || e->dtype != t->dtype;
    return SCD_OK;
}

static float rounded(scd_dtype dtype, float value)
{
    if (dtype == SCD_BF16)
        return scd_f32_of_bf16(scd_bf16_of_f32(value));
    return dtype == SCD_F16 ? scd_f32_of_f16(scd_f16_of_f32(value)) : value;
}

static void fill(void *arg, size_t entry, size_t first, size_t n, float *out)
{
    weights *w = arg;
    scd_dtype dtype = w->entries[entry].dtype;
    scd_tensor_to_f32(&w->tensors[entry], first, n, out);
    for (size_t i = 0; i < n && dtype != w->tensors[entry].dtype; i++) {
        float value = rounded(dtype, out[i]);
        double change = fabs((double)out[i] - (double)value);
        if (isfinite(out[i]) && !isfinite(value) && !w->overflows) {
            w->overflows = true;
            w->entry = entry;
            w->element = first + i;
            w->value = out[i];
        }
        w->run->max_change = change > w->run->max_change ? change : w->run->max_change;
    }
}

static scd_code convert(weights *w, scd_error *err)
{
    const scd_export *run = w->run;
    char path[SCD_EXPORT_PATH + 32];
    snprintf(path, sizeof path, "%s/model.safetensors", run->stage);
    scd_code code = scd_safetensors_write(path, w->entries, w->n, fill, w, err);
    if (code || !w->overflows)
        return code;
    return scd_fail(err, SCD_E_INVALID,
                    "%s: tensor %s holds %g at element %zu, which is too large for %s%s", run->from,
                    w->entries[w->entry].name, (double)w->value, w->element,
                    scd_export_dtype_text(w->entries[w->entry].dtype),
                    run->dtype == SCD_F16 ? "; bf16 has the range of f32" : "");
}

scd_code scd_export_weights(scd_export *run, scd_error *err)
{
    weights w = {.run = run};
    scd_code code = scd_model_each_tensor(scd_model_get_config(run->model), add_tensor, &w, err);
    if (!code && run->is_converted) {
        run->n_unused = scd_safetensors_count(scd_model_tensors(run->model)) - w.n;
        code = convert(&w, err);
    } else if (!code) {
        code = scd_export_copy(run, "model.safetensors", err);
    }
    for (size_t i = 0; i < w.n; i++)
        free((char *)(uintptr_t)w.entries[i].name);
    free(w.entries);
    free(w.tensors);
    return code;
}

/* ---- texts ----------------------------------------------------------------------------------- */

static scd_code read_text(const scd_export *run, const char *name, char **out, size_t *n,
                          scd_error *err)
{
    char path[SCD_EXPORT_PATH + 32];
    int fd;
    *out = NULL;
    snprintf(path, sizeof path, "%s/%s", run->from, name);
    scd_code code = scd_file_open(path, &fd, n, err);
    if (code)
        return code;
    code = scd_file_read(fd, path, MAX_TEXT, out, n, err);
    close(fd);
    return code;
}

static scd_code write_text(const scd_export *run, const char *name, const char *text, size_t n,
                           scd_error *err)
{
    char path[SCD_EXPORT_PATH + 32];
    snprintf(path, sizeof path, "%s/%s", run->stage, name);
    return scd_file_write(path, text, n, err);
}

/* A name for the same dtype in the words of `old`, as people write them; NULL where `old` is none
 * of them. */
static const char *same_words(const char *old, scd_dtype dtype)
{
    static const char *const words[][SCD_EXPORT_DTYPES] = {
        {[SCD_F32] = "f32", [SCD_F16] = "f16", [SCD_BF16] = "bf16"},
        {[SCD_F32] = "F32", [SCD_F16] = "F16", [SCD_BF16] = "BF16"},
        {[SCD_F32] = "fp32", [SCD_F16] = "fp16", [SCD_BF16] = "bf16"},
        {[SCD_F32] = "float32", [SCD_F16] = "float16", [SCD_BF16] = "bfloat16"},
        {[SCD_F32] = "torch.float32", [SCD_F16] = "torch.float16", [SCD_BF16] = "torch.bfloat16"}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        for (size_t k = 0; k < SCD_EXPORT_DTYPES; k++)
            if (!strcmp(old, words[i][k]))
                return words[i][dtype];
    return NULL;
}

/* config.json byte for byte, unless it names the dtype of the weights and that is another now. */
static scd_code write_config(scd_export *run, scd_error *err)
{
    static const char *const keys[] = {"dtype", "torch_dtype"};
    size_t n = 0;
    char *text = NULL, *printed = NULL;
    scd_code code = read_text(run, "config.json", &text, &n, err);
    if (code)
        return code;
    cJSON *json = run->dtype == SCD_EXPORT_KEPT ? NULL : cJSON_ParseWithLength(text, n);
    for (size_t i = 0; json && i < sizeof keys / sizeof keys[0]; i++) {
        cJSON *item = cJSON_GetObjectItemCaseSensitive(json, keys[i]);
        const char *old = cJSON_GetStringValue(item);
        const char *now = old ? same_words(old, (scd_dtype)run->dtype) : NULL;
        if (now && strcmp(now, old) != 0)
            run->config_changed = cJSON_SetValuestring(item, now) != NULL;
    }
    if (run->config_changed && !(printed = cJSON_Print(json)))
        code = scd_fail(err, SCD_E_NOMEM, "config.json: out of memory");
    if (!code)
        code = write_text(run, "config.json", printed ? printed : text,
                          printed ? strlen(printed) : n, err);
    cJSON_free(printed);
    cJSON_Delete(json);
    free(text);
    return code;
}

static void tell_export(const scd_export *run, scd_buf *out)
{
    char had[32] = "", digest[SCD_DIGEST_HEX];
    scd_export_had_text(run, had);
    scd_digest_hex(&run->old_digest, digest);
    scd_buf_printf(out,
                   "\n## Export\n\nMade with scdiva-train export %s from the model of digest\n"
                   "%s.\n",
                   SCD_VERSION, digest);
    if (!run->is_converted)
        scd_buf_printf(out, "The weights (%s) are what they were.\n", had);
    else if (run->max_change > 0)
        scd_buf_printf(out,
                       "The weights were converted from %s to %s, each to the nearest value that "
                       "there is; the\nlargest change is %.3g. What is measured above was measured "
                       "before.\n",
                       had, scd_export_dtype_text((scd_dtype)run->dtype), run->max_change);
    else
        scd_buf_printf(out, "The weights were converted from %s to %s, which changed no value.\n",
                       had, scd_export_dtype_text((scd_dtype)run->dtype));
    for (size_t i = 0; i < run->n_heads; i++)
        scd_buf_printf(out, "%s%s%s", i ? ", " : "Heads: ", strrchr(run->heads[i], '/') + 1,
                       i + 1 < run->n_heads ? "" : ", as they were trained on that model.\n");
}

static scd_code write_card(const scd_export *run, scd_error *err)
{
    char path[SCD_EXPORT_PATH + 32], *text = NULL;
    size_t n = 0;
    scd_code code = SCD_OK;
    scd_buf out;
    scd_buf_init(&out, MAX_TEXT + (1 << 20));
    snprintf(path, sizeof path, "%s/card.md", run->from);
    if (!access(path, F_OK))
        code = read_text(run, "card.md", &text, &n, err);
    if (text)
        scd_buf_append(&out, text, n);
    else
        scd_buf_printf(&out, "# %s\n", scd_model_name(run->model));
    if (n && text[n - 1] != '\n')
        scd_buf_putc(&out, '\n');
    tell_export(run, &out);
    if (!code && out.failed)
        code = scd_fail(err, SCD_E_NOMEM, "card.md: out of memory");
    if (!code)
        code = write_text(run, "card.md", out.data, out.n_bytes, err);
    scd_buf_release(&out);
    free(text);
    return code;
}

scd_code scd_export_texts(scd_export *run, scd_error *err)
{
    scd_code code = write_config(run, err);
    if (!code)
        code = scd_export_copy(run, "genes.tsv", err);
    char path[SCD_EXPORT_PATH + 32];
    snprintf(path, sizeof path, "%s/lengths.tsv", run->from);
    run->has_lengths = !access(path, F_OK);
    if (!code && run->has_lengths)
        code = scd_export_copy(run, "lengths.tsv", err);
    return code ? code : write_card(run, err);
}

/* ---- copies ---------------------------------------------------------------------------------- */

scd_code scd_export_copy(const scd_export *run, const char *name, scd_error *err)
{
    char from[SCD_EXPORT_PATH + 300], to[SCD_EXPORT_PATH + 300];
    scd_file_writer writer = {.fd = -1};
    size_t size;
    int fd;
    snprintf(from, sizeof from, "%s/%s", run->from, name);
    snprintf(to, sizeof to, "%s/%s", run->stage, name);
    scd_code code = scd_file_open(from, &fd, &size, err);
    if (code)
        return code;
    char *chunk = scd_malloc(CHUNK_BYTES, 1);
    if (!chunk)
        code = scd_fail(err, SCD_E_NOMEM, "%s: out of memory", to);
    if (!code)
        code = scd_file_writer_open(&writer, to, err);
    for (size_t at = 0; at < size && !code;) {
        size_t n = size - at < CHUNK_BYTES ? size - at : CHUNK_BYTES;
        ssize_t got = pread(fd, chunk, n, (off_t)at);
        if (got <= 0)
            code = scd_fail(err, SCD_E_IO, "%s: cannot read it whole", from);
        else if (!(code = scd_file_writer_add(&writer, chunk, (size_t)got, err)))
            at += (size_t)got;
    }
    if (!code)
        code = scd_file_writer_commit(&writer, err);
    scd_file_writer_abandon(&writer);
    free(chunk);
    close(fd);
    return code;
}
