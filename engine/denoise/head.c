/* head.c - see head.h.
 *
 * Both files are opened once each, and what is parsed, mapped and hashed is what those descriptors
 * show. A head is a small file of somebody's training run: whatever is wrong with it is said with
 * the file, the key or the tensor, and nothing is guessed. */
#include "engine/denoise/head_impl.h"

#include "engine/base/mem.h"
#include "engine/denoise/gene_term.h"
#include "engine/model/file.h"
#include "engine/model/safetensors_impl.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FORMAT = 1, JSON_MAX_BYTES = 1 << 24, MAX_LABELS = 1 << 16, CHUNK = 1024 };

/* ---- head.json ------------------------------------------------------------------------------- */

/* A key given twice has no one meaning. */
scd_code scd_head_find(const char *path, const cJSON *object, const char *key, const cJSON **out,
                       scd_error *err)
{
    *out = NULL;
    const cJSON *item;
    cJSON_ArrayForEach(item, object)
    {
        if (strcmp(item->string, key))
            continue;
        if (*out)
            return scd_fail(err, SCD_E_INVALID, "%s: %s is given twice", path, key);
        *out = item;
    }
    return SCD_OK;
}

static scd_code read_task(scd_head *head, const char *path, scd_error *err)
{
    const cJSON *task, *format;
    if (scd_head_find(path, head->json, "task", &task, err) ||
        scd_head_find(path, head->json, "format", &format, err))
        return SCD_E_INVALID;
    const char *text = cJSON_GetStringValue(task);
    if (!text || (strcmp(text, "annotation") && strcmp(text, "perturbation")))
        return scd_fail(err, SCD_E_INVALID,
                        "%s: task is %.48s, must be \"annotation\" or \"perturbation\"", path,
                        text ? text : "no string");
    if (!cJSON_IsNumber(format) || format->valuedouble != FORMAT)
        return scd_fail(err, SCD_E_INVALID, "%s: format must be %d", path, FORMAT);
    head->info.task = text;
    return SCD_OK;
}

static scd_code read_number(const scd_head *head, const char *path, const char *key, double least,
                            double most, double *out, scd_error *err)
{
    const cJSON *item;
    if (scd_head_find(path, head->json, key, &item, err))
        return SCD_E_INVALID;
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= least && item->valuedouble <= most))
        return scd_fail(err, SCD_E_INVALID, "%s: %s must be a number from %g to %g", path, key,
                        least, most);
    *out = item->valuedouble;
    return SCD_OK;
}

/* What head.json says of cells held out: nothing has to be there, but what is there has to make
 * sense, for it is published. */
static scd_code read_held_out(scd_head *head, const char *path, scd_error *err)
{
    scd_head_scores *s = &head->info.held_out;
    const struct {
        const char *key;
        double most, *out;
    } fields[] = {{"cells", 1e15, &s->cells},
                  {"accuracy", 1, &s->accuracy},
                  {"balanced_accuracy", 1, &s->balanced_accuracy},
                  {"macro_f1", 1, &s->macro_f1},
                  {"ece", 1, &s->ece}};
    const cJSON *evaluation, *held_out = NULL, *item;
    if (scd_head_find(path, head->json, "evaluation", &evaluation, err) ||
        scd_head_find(path, evaluation, "held_out", &held_out, err))
        return SCD_E_INVALID;
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        *fields[i].out = NAN;
        if (scd_head_find(path, held_out, fields[i].key, &item, err))
            return SCD_E_INVALID;
        if (!item || cJSON_IsNull(item))
            continue;
        if (!cJSON_IsNumber(item) ||
            !(item->valuedouble >= 0 && item->valuedouble <= fields[i].most))
            return scd_fail(err, SCD_E_INVALID,
                            "%s: evaluation.held_out.%s must be a number from 0 to %g", path,
                            fields[i].key, fields[i].most);
        *fields[i].out = item->valuedouble;
    }
    return SCD_OK;
}

static scd_code read_model_digest(scd_head *head, const char *path, scd_error *err)
{
    const cJSON *item;
    scd_digest digest;
    if (scd_head_find(path, head->json, "model_digest", &item, err))
        return SCD_E_INVALID;
    const char *text = cJSON_GetStringValue(item);
    if (!text || !scd_digest_parse(text, &digest))
        return scd_fail(err, SCD_E_INVALID,
                        "%s: model_digest must be the 64 hex digits of the model's digest", path);
    scd_digest_hex(&digest, head->info.model_digest_hex);
    return SCD_OK;
}

static scd_code read_label(const char *path, const cJSON *item, size_t index, scd_head_label *out,
                           scd_error *err)
{
    const cJSON *label = NULL, *ontology_id = NULL;
    if (cJSON_IsObject(item) && (scd_head_find(path, item, "label", &label, err) ||
                                 scd_head_find(path, item, "ontology_id", &ontology_id, err)))
        return SCD_E_INVALID;
    out->label = cJSON_GetStringValue(label);
    out->ontology_id = cJSON_GetStringValue(ontology_id);
    if (!out->label || !*out->label)
        return scd_fail(err, SCD_E_INVALID,
                        "%s: labels[%zu] must be an object with a \"label\" that is not empty",
                        path, index);
    if (ontology_id && !cJSON_IsNull(ontology_id) && !out->ontology_id)
        return scd_fail(err, SCD_E_INVALID, "%s: ontology_id of label \"%.80s\" must be a string",
                        path, out->label);
    if (strlen(out->label) > SCD_HEAD_MAX_LABEL_BYTES ||
        (out->ontology_id && strlen(out->ontology_id) > SCD_HEAD_MAX_LABEL_BYTES))
        return scd_fail(err, SCD_E_INVALID,
                        "%s: label and ontology_id of labels[%zu] may have %d bytes each", path,
                        index, SCD_HEAD_MAX_LABEL_BYTES);
    return SCD_OK;
}

static int by_label(const void *a, const void *b)
{
    return strcmp(((const scd_head_label *)a)->label, ((const scd_head_label *)b)->label);
}

static scd_code check_unique(const scd_head *head, const char *path, scd_error *err)
{
    size_t n = head->info.n_labels;
    scd_head_label *sorted = scd_malloc(n, sizeof *sorted);
    if (!sorted)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    memcpy(sorted, head->labels, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_label);
    scd_code code = SCD_OK;
    for (size_t i = 1; i < n && !code; i++)
        if (!by_label(&sorted[i - 1], &sorted[i]))
            code = scd_fail(err, SCD_E_INVALID, "%s: label \"%.80s\" is given twice", path,
                            sorted[i].label);
    free(sorted);
    return code;
}

static scd_code read_labels(scd_head *head, const char *path, scd_error *err)
{
    const cJSON *array, *item;
    if (scd_head_find(path, head->json, "labels", &array, err))
        return SCD_E_INVALID;
    int n = cJSON_IsArray(array) ? cJSON_GetArraySize(array) : 0;
    if (n < 2 || n > MAX_LABELS)
        return scd_fail(err, SCD_E_INVALID, "%s: labels must be an array of 2 to %d objects", path,
                        MAX_LABELS);
    head->labels = scd_calloc((size_t)n, sizeof *head->labels);
    if (!head->labels)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    cJSON_ArrayForEach(item, array)
    {
        size_t i = head->info.n_labels++;
        if (read_label(path, item, i, &head->labels[i], err))
            return SCD_E_INVALID;
    }
    head->info.labels = head->labels;
    return check_unique(head, path, err);
}

static scd_code read_json(scd_head *head, const char *path, const char *json, size_t n,
                          scd_error *err)
{
    const char *end = NULL;
    head->json = cJSON_ParseWithLengthOpts(json, n, &end, 0);
    if (head->json)
        end += strspn(end, " \t\r\n"); /* the file is followed by a NUL */
    if (!head->json || end != json + n)
        return scd_fail(err, SCD_E_INVALID, "%s: not valid JSON near byte %zu", path,
                        end ? (size_t)(end - json) : 0);
    if (!cJSON_IsObject(head->json))
        return scd_fail(err, SCD_E_INVALID, "%s: must be a JSON object", path);
    scd_code code = read_task(head, path, err);
    bool is_perturb = !code && !strcmp(head->info.task, "perturbation");
    if (!code && !is_perturb)
        code = read_number(head, path, "temperature", 1e-3, 1e3, &head->info.temperature, err);
    if (!code && !is_perturb)
        code = read_number(head, path, "threshold", 0, 1, &head->info.threshold, err);
    if (!code && !is_perturb)
        code = read_held_out(head, path, err);
    if (!code)
        code = read_model_digest(head, path, err);
    if (code)
        return code;
    return is_perturb ? scd_head_read_perturb(head, path, err) : read_labels(head, path, err);
}

scd_code scd_head_parse(const char *json, size_t n, const char *path, scd_head **out,
                        scd_error *err)
{
    *out = NULL;
    scd_head *head = scd_calloc(1, sizeof *head);
    if (!head)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    scd_code code = read_json(head, path, json, n, err);
    if (code) {
        scd_head_close(head);
        return code;
    }
    *out = head;
    return SCD_OK;
}

/* ---- head.safetensors ------------------------------------------------------------------------ */

/* The tensor is there with its shape, and holds numbers. */
static scd_code check_finite(const scd_head *head, const char *path, const char *name, size_t rows,
                             size_t cols, scd_error *err)
{
    scd_tensor t;
    float chunk[CHUNK];
    scd_code code = scd_safetensors_get(head->tensors, name, rows, cols, &t, err);
    size_t total = code ? 0 : t.rows * t.cols;
    for (size_t first = 0; first < total; first += CHUNK) {
        size_t n = total - first < CHUNK ? total - first : CHUNK;
        scd_tensor_to_f32(&t, first, n, chunk);
        for (size_t i = 0; i < n; i++)
            if (!isfinite(chunk[i]))
                return scd_fail(err, SCD_E_CORRUPT, "%s: tensor %s holds %g at element %zu", path,
                                name, (double)chunk[i], first + i);
    }
    return code;
}

size_t scd_head_own_tensors(const scd_head_info *info, const scd_model_config *config,
                            scd_tensor_entry out[SCD_HEAD_MAX_TENSORS])
{
    const scd_perturb_info *p = info->perturb;
    size_t k = info->mlp_dim, h = config->hidden_dim, d = config->d;
    size_t width = p ? h + d : h, answers = p ? p->n_genes : info->n_labels;
    const size_t c = p ? p->n_contexts : 0;
    const scd_tensor_entry all[SCD_HEAD_MAX_TENSORS] = {
        [SCD_HEAD_W0] = {"mlp.0.weight", SCD_F32, k, width},
        [SCD_HEAD_B0] = {"mlp.0.bias", SCD_F32, k, 0},
        [SCD_HEAD_W2] = {"mlp.2.weight", SCD_F32, answers, k},
        [SCD_HEAD_B2] = {"mlp.2.bias", SCD_F32, answers, 0},
        [SCD_HEAD_TOKEN] = {"pert.token", SCD_F32, d, 0},
        [SCD_HEAD_DIRECTION] = {"pert.direction", SCD_F32, SCD_N_DIRECTIONS, d},
        [SCD_HEAD_CONTROL_MEAN] = {"control.mean", SCD_F32, c, answers},
        [SCD_HEAD_CONTROL_SD] = {"control.sd", SCD_F32, c, answers},
        [SCD_HEAD_CONTROL_EMBEDDINGS] = {"control.embeddings", SCD_F32, p ? p->n_cells : 0, h},
        [SCD_HEAD_DELTAS] = {"deltas", SCD_F32, p ? p->n_conditions : 0, answers},
        [SCD_HEAD_EFFECTS_MEAN] = {"effects.mean", SCD_F32, c, answers},
        [SCD_HEAD_EFFECTS_TARGETS] = {"effects.targets", SCD_F32, p ? c * p->n_targets : 0,
                                      answers},
        [SCD_HEAD_RIDGE] = {"ridge.weight", SCD_F32, p ? p->n_conditions : 0, answers},
    };
    memcpy(out, all, sizeof all);
    return p ? SCD_HEAD_MAX_TENSORS : SCD_HEAD_B2 + 1;
}

/* The linear half of an annotation head, where it has one: two more tensors of its own. */
static void add_gene_term(scd_head *head, size_t vocab, scd_tensor_entry *own, size_t *n)
{
    size_t c = head->info.n_labels;
    bool weight = scd_safetensors_has(head->tensors, SCD_GENE_TERM_WEIGHT, NULL);
    bool bias = scd_safetensors_has(head->tensors, SCD_GENE_TERM_BIAS, NULL);
    head->info.has_gene_term = !head->info.perturb && (weight || bias);
    if (!head->info.has_gene_term)
        return;
    own[(*n)++] = (scd_tensor_entry){SCD_GENE_TERM_WEIGHT, SCD_F32, vocab, c};
    own[(*n)++] = (scd_tensor_entry){SCD_GENE_TERM_BIAS, SCD_F32, c, 0};
}

static scd_code check_own(scd_head *head, const char *path, const scd_model_config *config,
                          scd_tensor_entry own[SCD_HEAD_MAX_TENSORS], size_t *n, scd_error *err)
{
    size_t k = 0;
    bool there = scd_safetensors_has(head->tensors, "mlp.0.weight", &k);
    head->info.mlp_dim = k;
    *n = scd_head_own_tensors(&head->info, config, own);
    if (!there)
        return scd_fail(err, SCD_E_CORRUPT, "%s: tensor mlp.0.weight of shape [K, %zu] is missing",
                        path, own[0].cols);
    if (!k)
        return scd_fail(err, SCD_E_CORRUPT, "%s: tensor mlp.0.weight has no rows", path);
    add_gene_term(head, config->vocab, own, n);
    scd_code code = SCD_OK;
    for (size_t i = 0; i < *n && !code; i++)
        code = check_finite(head, path, own[i].name, own[i].rows, own[i].cols, err);
    return code;
}

typedef struct backbone {
    const scd_safetensors *tensors;
    const char *looked_up; /* NULL: check and count all */
    size_t n_found;
    bool known;
} backbone;

static scd_code check_backbone(void *arg, const scd_tensor_entry *entry, scd_error *err)
{
    backbone *b = arg;
    scd_tensor t;
    if (b->looked_up) {
        b->known = b->known || !strcmp(b->looked_up, entry->name);
        return SCD_OK;
    }
    if (!scd_safetensors_has(b->tensors, entry->name, NULL))
        return SCD_OK;
    b->n_found++;
    return scd_safetensors_get(b->tensors, entry->name, entry->rows, entry->cols, &t, err);
}

static bool is_own(const char *name, const scd_tensor_entry *own, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(own[i].name, name))
            return true;
    return false;
}

static scd_code check_tensors(scd_head *head, const char *path, const scd_model_config *config,
                              scd_error *err)
{
    scd_tensor_entry own[SCD_HEAD_MAX_TENSORS];
    size_t n_own = 0;
    scd_code code = check_own(head, path, config, own, &n_own, err);
    backbone all = {.tensors = head->tensors};
    if (!code)
        code = scd_model_each_tensor(config, check_backbone, &all, err);
    if (code)
        return code;
    head->info.has_backbone = all.n_found > 0;
    if (scd_safetensors_count(head->tensors) == all.n_found + n_own)
        return SCD_OK;
    for (size_t i = 0; i < scd_safetensors_count(head->tensors); i++) {
        const char *name = scd_safetensors_name(head->tensors, i);
        backbone one = {.looked_up = name};
        scd_model_each_tensor(config, check_backbone, &one, NULL);
        if (!one.known && !is_own(name, own, n_own))
            return scd_fail(err, SCD_E_CORRUPT,
                            "%s: tensor %.80s is neither the head's nor one of the model's", path,
                            name);
    }
    return SCD_OK;
}

/* ---- open and close -------------------------------------------------------------------------- */

static char *join(const char *dir, const char *file)
{
    size_t room = strlen(dir) + strlen(file) + 2;
    char *path = scd_malloc(room, 1);
    if (path)
        snprintf(path, room, "%s/%s", dir, file);
    return path;
}

static scd_code digest_files(scd_head *head, const char *json, size_t n, int fd, const char *path,
                             scd_error *err)
{
    scd_hasher *hasher = scd_hasher_new();
    if (!hasher)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory while hashing", path);
    scd_hasher_add(hasher, json, n);
    scd_code code = scd_hasher_add_file(hasher, fd, path, err);
    if (!code)
        head->info.digest = scd_hasher_finish(hasher);
    scd_digest_hex(&head->info.digest, head->info.digest_hex);
    scd_hasher_free(hasher);
    return code;
}

static scd_code read_files(const char *json_path, const char *weights_path,
                           const scd_model_config *config, scd_head **out, scd_error *err)
{
    int json_fd = -1, weights_fd = -1;
    size_t n = 0, n_json = 0, n_weights = 0;
    char *json = NULL;
    scd_head *head = NULL;
    scd_code code;
    if ((code = scd_file_open(json_path, &json_fd, &n, err)) ||
        (code = scd_file_open(weights_path, &weights_fd, &n_weights, err)) ||
        (code = scd_file_read(json_fd, json_path, JSON_MAX_BYTES, &json, &n_json, err)) ||
        (code = scd_head_parse(json, n_json, json_path, &head, err)) ||
        (code = scd_head_read_genes(head->json, json_path, config->vocab, &head->genes,
                                    &head->info.n_genes, err)) ||
        (code = scd_safetensors_map(weights_fd, n_weights, weights_path, &head->tensors, err)) ||
        (code = check_tensors(head, weights_path, config, err)) ||
        (code = digest_files(head, json, n_json, weights_fd, weights_path, err)))
        goto done;
    head->info.genes = head->genes;
    *out = head;
    head = NULL;
done:
    scd_head_close(head);
    free(json);
    if (weights_fd >= 0)
        close(weights_fd);
    if (json_fd >= 0)
        close(json_fd);
    return code;
}

scd_code scd_head_open(const char *dir, const scd_model_config *config, scd_head **out,
                       scd_error *err)
{
    *out = NULL;
    char *name = NULL, *json_path = join(dir, "head.json");
    char *weights_path = join(dir, "head.safetensors");
    scd_code code = SCD_OK;
    if (!json_path || !weights_path)
        code = scd_fail(err, SCD_E_NOMEM, "%s: out of memory", dir);
    if (!code)
        code = scd_file_dir_name(dir, "head", &name, err);
    if (!code)
        code = read_files(json_path, weights_path, config, out, err);
    if (!code) {
        (*out)->info.name = (*out)->name = name;
        name = NULL;
    }
    free(name);
    free(weights_path);
    free(json_path);
    return code;
}

void scd_head_close(scd_head *head)
{
    if (!head)
        return;
    scd_safetensors_close(head->tensors);
    free(head->conditions);
    free(head->contexts);
    free(head->names);
    free(head->labels);
    free(head->genes);
    cJSON_Delete(head->json);
    free(head->name);
    free(head);
}

const scd_head_info *scd_head_get_info(const scd_head *head)
{
    return &head->info;
}

const scd_safetensors *scd_head_tensors(const scd_head *head)
{
    return head->tensors;
}

void scd_head_probabilities(const scd_head *head, const float *logits, double *out)
{
    size_t n = head->info.n_labels;
    double most = (double)logits[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        most = (double)logits[i] > most ? (double)logits[i] : most;
    for (size_t i = 0; i < n; i++)
        sum += out[i] = exp(((double)logits[i] - most) / head->info.temperature);
    for (size_t i = 0; i < n; i++)
        out[i] /= sum;
}

/* ---- which there are ------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool is_directory(const char *path)
{
    struct stat info;
    return !stat(path, &info) && S_ISDIR(info.st_mode);
}

/* Adds the entry where it is a directory; SCD_E_NOMEM. */
static scd_code add_entry(const char *folder, const char *name, char ***dirs, size_t *n,
                          scd_error *err)
{
    char *path = join(folder, name);
    if (path && !is_directory(path)) {
        free(path);
        return SCD_OK;
    }
    char **grown = path ? scd_realloc(*dirs, *n + 1, sizeof *grown) : NULL;
    if (!grown) {
        free(path);
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", folder);
    }
    *dirs = grown;
    grown[(*n)++] = path;
    return SCD_OK;
}

scd_code scd_heads_find(const char *model_dir, char ***dirs, size_t *n, scd_error *err)
{
    *dirs = NULL;
    *n = 0;
    char *folder = join(model_dir, "heads");
    if (!folder)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", model_dir);
    scd_code code = SCD_OK;
    DIR *dir = opendir(folder);
    if (!dir && errno != ENOENT)
        code = scd_fail(err, SCD_E_IO, "%s: cannot read the folder: %s", folder, strerror(errno));
    for (struct dirent *entry; dir && !code && (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            code = add_entry(folder, entry->d_name, dirs, n, err);
    if (dir)
        closedir(dir);
    free(folder);
    if (code) {
        scd_heads_forget(*dirs, *n);
        *dirs = NULL;
        *n = 0;
        return code;
    }
    if (*n)
        qsort(*dirs, *n, sizeof **dirs, by_name);
    return SCD_OK;
}

void scd_heads_forget(char **dirs, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(dirs[i]);
    free(dirs);
}
