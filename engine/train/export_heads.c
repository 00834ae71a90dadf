/* export_heads.c - the heads of an exported model.
 *
 * A head names the digest of its model, and is run on no other. Its tensors are copied as they are;
 * head.json gets the new digest, since the exported model is the same one in other digits, and
 * keeps the old one as "trained_on". */
#include "engine/base/mem.h"
#include "engine/denoise/head.h"
#include "engine/model/file.h"
#include "engine/train/export.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_JSON = 1 << 24 };

static const char *name_of(const char *dir)
{
    return strrchr(dir, '/') + 1;
}

/* ---- which ----------------------------------------------------------------------------------- */

static bool is_wanted(const scd_export *run, const char *name)
{
    for (size_t i = 0; i < run->head_names.n; i++)
        if (!strcmp(run->head_names.items[i], name))
            return true;
    return !run->head_names.n;
}

/* Every --head is one of them. */
static scd_code check_names(const scd_export *run, char **dirs, size_t n, scd_error *err)
{
    for (size_t i = 0; i < run->head_names.n; i++) {
        char there[300] = "";
        size_t k = 0, at = 0;
        while (k < n && strcmp(name_of(dirs[k]), run->head_names.items[i]) != 0)
            k++;
        if (k < n)
            continue;
        for (k = 0; k < n && at < sizeof there; k++)
            at += (size_t)snprintf(there + at, sizeof there - at, "%s%s", k ? ", " : "",
                                   name_of(dirs[k]));
        return scd_fail(err, SCD_E_NOT_FOUND, "--head %.80s: %.200s has %s%s",
                        run->head_names.items[i], run->from, n ? "" : "no head", there);
    }
    return SCD_OK;
}

static scd_code check_head(const scd_export *run, const char *dir, scd_error *err)
{
    char digest[SCD_DIGEST_HEX];
    scd_head *head = NULL;
    scd_code code = scd_head_open(dir, scd_model_get_config(run->model), &head, err);
    if (code)
        return code;
    scd_digest_hex(&run->old_digest, digest);
    if (strcmp(scd_head_get_info(head)->model_digest_hex, digest) != 0)
        code = scd_fail(err, SCD_E_INVALID,
                        "%s: belongs to another model (digest %.12s..., this one is %.12s...); "
                        "leave it out by --head or --no-heads",
                        dir, scd_head_get_info(head)->model_digest_hex, digest);
    scd_head_close(head);
    return code;
}

scd_code scd_export_choose_heads(scd_export *run, scd_error *err)
{
    char **dirs = NULL;
    size_t n = 0;
    if (run->no_heads)
        return SCD_OK;
    scd_code code = scd_heads_find(run->from, &dirs, &n, err);
    if (code)
        return code;
    run->heads = dirs;
    run->n_heads = n;
    if ((code = check_names(run, dirs, n, err)))
        return code;
    run->n_heads = 0;
    for (size_t i = 0; i < n; i++) {
        if (is_wanted(run, name_of(dirs[i])))
            dirs[run->n_heads++] = dirs[i];
        else
            free(dirs[i]);
    }
    for (size_t i = 0; i < run->n_heads && !code; i++)
        code = check_head(run, dirs[i], err);
    return code;
}

/* ---- into the stage -------------------------------------------------------------------------- */

/* False: out of memory. */
static bool bind(cJSON *json, const char *old, const char *new)
{
    if (!cJSON_HasObjectItem(json, "trained_on") &&
        !cJSON_AddStringToObject(json, "trained_on", old))
        return false;
    return cJSON_SetValuestring(cJSON_GetObjectItemCaseSensitive(json, "model_digest"), new);
}

static scd_code write_json(const scd_export *run, const char *dir, const char *to, scd_error *err)
{
    char path[SCD_EXPORT_PATH + 300], old[SCD_DIGEST_HEX], new[SCD_DIGEST_HEX];
    char *text = NULL, *printed = NULL;
    size_t n;
    int fd;
    snprintf(path, sizeof path, "%s/head.json", dir);
    scd_code code = scd_file_open(path, &fd, &n, err);
    if (code)
        return code;
    code = scd_file_read(fd, path, MAX_JSON, &text, &n, err);
    close(fd);
    if (code)
        return code;
    scd_digest_hex(&run->old_digest, old);
    scd_digest_hex(&run->new_digest, new);
    cJSON *json = cJSON_ParseWithLength(text, n); /* was opened as a head before: it is sound */
    if (json && bind(json, old, new))
        printed = cJSON_Print(json);
    code = printed ? scd_file_write(to, printed, strlen(printed), err)
                   : scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    cJSON_free(printed);
    cJSON_Delete(json);
    free(text);
    return code;
}

static scd_code make_folder(const char *path, scd_error *err)
{
    if (mkdir(path, 0777) < 0)
        return scd_fail(err, SCD_E_IO, "%s: cannot make the folder: %s", path, strerror(errno));
    return SCD_OK;
}

static scd_code write_head(scd_export *run, const char *dir, scd_error *err)
{
    const char *name = name_of(dir);
    char path[SCD_EXPORT_PATH + 300], file[300];
    scd_head *head = NULL;
    bool same = scd_digest_equal(&run->old_digest, &run->new_digest);
    if (strlen(name) > 255)
        return scd_fail(err, SCD_E_INVALID, "%s: the name is too long", dir);
    snprintf(path, sizeof path, "%s/heads/%s", run->stage, name);
    scd_code code = make_folder(path, err);
    snprintf(file, sizeof file, "heads/%s/head.safetensors", name);
    if (!code)
        code = scd_export_copy(run, file, err);
    snprintf(file, sizeof file, "heads/%s/head.json", name);
    snprintf(path, sizeof path, "%s/%s", run->stage, file);
    if (!code)
        code = same ? scd_export_copy(run, file, err) : write_json(run, dir, path, err);
    snprintf(path, sizeof path, "%s/heads/%s", run->stage, name);
    if (!code)
        code = scd_head_open(path, scd_model_get_config(run->model), &head, err);
    scd_head_close(head);
    return code;
}

scd_code scd_export_heads(scd_export *run, scd_error *err)
{
    char path[SCD_EXPORT_PATH + 32];
    snprintf(path, sizeof path, "%s/heads", run->stage);
    scd_code code = run->n_heads ? make_folder(path, err) : SCD_OK;
    for (size_t i = 0; i < run->n_heads && !code; i++)
        code = write_head(run, run->heads[i], err);
    return code;
}
