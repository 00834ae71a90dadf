/* results_h5ad.c - results into an .h5ad: a copy of the input with them added, or a new file.
 *
 * The copy is made byte for byte and then opened for writing: libhdf5 changes nothing that it is
 * not asked to. What is added looks as the rest of its surroundings does: a data frame of anndata
 * 0.7 gets a column as 0.7 wrote it, one of records gets members.
 *
 * Old files may keep obsm as records; the embedding then waits in a data set of its own until the
 * end. */
#include "api/results_impl.h"

#include "engine/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { COPY_BYTES = 1 << 20 };

static const char waiting[] = "scdiva.waiting";

/* ---- what is in the way ---- */

static scd_code taken(const scd_h5ad *file, const char *where, const char *key, scd_error *err)
{
    return scd_h5_fail(file, NULL, SCD_E_INVALID, err,
                       "%s[\"%s\"] is there already (--overwrite replaces it)", where, key);
}

/* A member of a group, or of records. */
static scd_code check_key(const scd_h5ad *file, const char *where, const char *key, scd_error *err)
{
    scd_h5_data data;
    if (scd_h5_kind(file, where) != H5I_DATASET)
        return scd_h5_has(file, where, key) ? taken(file, where, key, err) : SCD_OK;
    scd_code code = scd_h5_data_open(file, where, NULL, &data, err);
    if (code)
        return code;
    scd_h5_enter();
    bool is_there = data.class == H5T_COMPOUND && H5Tget_member_index(data.type, key) >= 0;
    scd_h5_leave();
    scd_h5_data_close(&data);
    return is_there ? taken(file, where, key, err) : SCD_OK;
}

/* What is written into has to be a part of this file, and of a kind that can be added to: a group,
 * or, where old files have them, records. */
static scd_code check_place(const scd_h5ad *file, const char *where, bool may_be_records,
                            scd_error *err)
{
    scd_h5_data data;
    H5I_type_t kind = scd_h5_kind(file, where);
    if (kind == H5I_GROUP || !scd_h5_there(file, where))
        return SCD_OK;
    if (kind == H5I_BADID)
        return scd_h5_fail_library(file, where, "cannot be added to", err);
    scd_code code = may_be_records && kind == H5I_DATASET
                        ? scd_h5_data_open(file, where, NULL, &data, err)
                        : scd_h5_fail(file, where, SCD_E_INVALID, err, "is no group to add to");
    if (code)
        return code;
    bool is_records = data.class == H5T_COMPOUND && data.rank == 1;
    scd_h5_data_close(&data);
    return is_records ? SCD_OK
                      : scd_h5_fail(file, where, SCD_E_INVALID, err,
                                    "is neither a group nor records to add to");
}

static scd_code check_all(const scd_h5ad *file, const scd_results_spec *s, scd_error *err)
{
    static const char ours[] = "uns/" SCD_UNS_KEY;
    static const char *const places[] = {"obs", "obsm", "uns", "layers", "obs/__categories", ours};
    scd_code code = SCD_OK;
    for (size_t i = 0; i < sizeof places / sizeof places[0] && !code; i++)
        code = check_place(file, places[i], i < 2, err);
    if (s->overwrite || code)
        return code;
    if (s->embedding_width)
        code = check_key(file, "obsm", SCD_OBSM_KEY, err);
    for (size_t i = 0; i < 3 && s->n_labels && !code; i++)
        code = check_key(file, "obs", scd_obs_keys[i], err);
    if (!code && s->denoised)
        code = check_key(file, "layers", SCD_LAYER_KEY, err);
    if (!code)
        code = check_key(file, "uns/" SCD_UNS_KEY, s->task, err);
    return code;
}

static bool input_is_h5ad(const scd_results_spec *s)
{
    return strcmp(scd_cells_format(s->cells), "h5ad") == 0;
}

/* A layer has var's genes. */
static scd_code check_layer(const scd_results_spec *s, scd_error *err)
{
    size_t n_var = scd_cells_frame_rows(s->cells, "var");
    if (!s->denoised || n_var == s->plan->n_genes)
        return SCD_OK;
    return scd_fail(err, SCD_E_INVALID,
                    "%s: %s has %zu genes, var %zu: layers[\"%s\"] has to have those of var; use X "
                    "or a layer (--layer)",
                    s->path, s->plan->choice.matrix, s->plan->n_genes, n_var, SCD_LAYER_KEY);
}

scd_code scd_results_h5ad_check(const scd_results_spec *s, scd_error *err)
{
    scd_h5ad file = {.id = H5I_INVALID_HID};
    if (!input_is_h5ad(s))
        return SCD_OK;
    if (check_layer(s, err))
        return SCD_E_INVALID;
    file.path = scd_strdup(scd_cells_path(s->cells));
    if (!file.path)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", s->path);
    scd_code code = scd_h5_file_open(&file, NULL, 0, err);
    if (!code)
        code = check_all(&file, s, err);
    scd_h5_file_close(&file);
    free(file.path);
    return code;
}

/* ---- the copy ---- */

static scd_code copy_input(scd_results *r, scd_error *err)
{
    const char *path = scd_cells_path(r->spec.cells);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    scd_hasher *hasher = scd_hasher_new();
    char *bytes = scd_malloc(COPY_BYTES, 1);
    scd_code code = SCD_OK;
    if (!hasher || !bytes)
        code = scd_fail(err, SCD_E_NOMEM, "%s: out of memory", r->spec.path);
    else if (fd < 0)
        code = scd_fail(err, SCD_E_IO, "%s: cannot be opened: %s", path, strerror(errno));
    while (!code) {
        ssize_t n = read(fd, bytes, COPY_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            code = scd_fail(err, SCD_E_IO, "%s: cannot be read: %s", path, strerror(errno));
        if (n <= 0)
            break;
        scd_hasher_add(hasher, bytes, (size_t)n);
        code = scd_file_writer_add(&r->writer, bytes, (size_t)n, err);
    }
    if (!code)
        r->input_digest = scd_hasher_finish(hasher);
    if (fd >= 0)
        close(fd);
    free(bytes);
    scd_hasher_free(hasher);
    return code;
}

/* ---- groups ---- */

/* New groups say what they are where the file does. */
static scd_h5_encoding dict_of(const scd_h5ad *file)
{
    return scd_h5_has_attr(file, "/", "encoding-type") ? scd_h5_dict : scd_h5_no_encoding;
}

static scd_code need_group(scd_results *r, const char *path, scd_h5_encoding encoding,
                           scd_error *err)
{
    if (scd_h5_there(&r->file, path))
        return scd_h5_kind(&r->file, path) == H5I_GROUP
                   ? SCD_OK
                   : scd_h5_fail(&r->file, path, SCD_E_INVALID, err, "is no group to add to");
    return scd_h5_put_group(&r->file, path, encoding, err);
}

static bool obsm_is_records(const scd_results *r)
{
    return scd_h5_kind(&r->file, "obsm") == H5I_DATASET;
}

static scd_code begin_embedding(scd_results *r, scd_error *err)
{
    scd_code code = SCD_OK;
    r->embedding_path = obsm_is_records(r) ? waiting : "obsm/" SCD_OBSM_KEY;
    if (!obsm_is_records(r))
        code = need_group(r, "obsm", dict_of(&r->file), err);
    if (!code)
        code = scd_h5_remove(&r->file, r->embedding_path, err);
    if (!code)
        code = scd_h5_begin_rows(&r->file, r->embedding_path, r->spec.plan->n_cells,
                                 r->spec.embedding_width, &r->embedding, err);
    return code;
}

static scd_code begin_denoised(scd_results *r, scd_error *err)
{
    static const char path[] = "layers/" SCD_LAYER_KEY;
    const scd_file_plan *p = r->spec.plan;
    scd_code code = need_group(r, "layers", dict_of(&r->file), err);
    if (!code)
        code = scd_h5_remove(&r->file, path, err);
    if (!code) /* as many entries as the shape allows */
        code = scd_h5_begin_csr(&r->file, path, p->n_cells, p->n_genes,
                                (uint64_t)p->n_cells * p->n_genes, false, &r->denoised, err);
    r->denoised_open = !code;
    return code;
}

scd_code scd_results_h5ad_begin(scd_results *r, scd_error *err)
{
    scd_code code = SCD_OK;
    r->is_new = !input_is_h5ad(&r->spec);
    if (!r->is_new)
        code = copy_input(r, err);
    if (!code)
        code = scd_h5_write_open(&r->file, r->writer.temporary, r->is_new, err);
    if (!code && r->is_new)
        code = scd_results_new_begin(r, err);
    if (!code && r->spec.embedding_width)
        code = begin_embedding(r, err);
    if (!code && r->spec.denoised)
        code = begin_denoised(r, err);
    return code;
}

scd_code scd_results_h5ad_add(scd_results *r, const scd_results_block *b, scd_error *err)
{
    scd_code code = SCD_OK;
    if (r->embedding > 0)
        code = scd_h5_add_rows(&r->file, r->embedding_path, r->embedding, r->n_done, b->n,
                               r->spec.embedding_width, b->embeddings, err);
    if (!code && r->counts_open)
        code = scd_h5_add_csr(&r->file, &r->counts, b->rows, err);
    if (!code && r->denoised_open)
        code = scd_h5_add_csr(&r->file, &r->denoised, b->denoised, err);
    return code;
}

/* ---- the end ---- */

static scd_code end_embedding(scd_results *r, scd_error *err)
{
    if (r->embedding <= 0)
        return SCD_OK;
    scd_code code = SCD_OK;
    scd_h5_enter();
    if (r->embedding_path == waiting) {
        hsize_t width = r->spec.embedding_width;
        hid_t type = H5Tarray_create2(H5T_IEEE_F32LE, 1, &width);
        scd_h5_member member = {.name = SCD_OBSM_KEY, .type = type, .dset = r->embedding};
        code = type < 0 ? scd_h5_write_failed(&r->file, "obsm", err)
                        : scd_h5_add_members(&r->file, "obsm", &member, 1, err);
        if (type >= 0)
            H5Tclose(type);
    }
    H5Dclose(r->embedding);
    r->embedding = H5I_INVALID_HID;
    if (!code && r->embedding_path == waiting)
        code = scd_h5_remove(&r->file, waiting, err);
    scd_h5_leave();
    return code;
}

static scd_code put_fact(scd_results *r, const char *group, const scd_fact *fact, scd_error *err)
{
    char path[SCD_H5_PATH_BYTES];
    if (!scd_h5_join(path, group, fact->key))
        return scd_h5_fail(&r->file, group, SCD_E_INVALID, err, "a name is too long");
    if (fact->is_list)
        return scd_h5_put_texts(&r->file, path, fact->list, fact->n_list, scd_h5_texts, err);
    if (!fact->is_number)
        return scd_h5_put_text(&r->file, path, fact->text ? fact->text : "", err);
    if (fact->number == floor(fact->number) && fabs(fact->number) < 1e15)
        return scd_h5_put_int(&r->file, path, (int64_t)fact->number, err);
    return scd_h5_put_double(&r->file, path, fact->number, err);
}

static scd_code put_facts(scd_results *r, const scd_fact *facts, size_t n, scd_error *err)
{
    char group[SCD_H5_PATH_BYTES];
    snprintf(group, sizeof group, "uns/" SCD_UNS_KEY "/%s", r->spec.task);
    scd_code code = need_group(r, "uns", dict_of(&r->file), err);
    if (!code)
        code = need_group(r, "uns/" SCD_UNS_KEY, scd_h5_dict, err);
    if (!code)
        code = scd_h5_remove(&r->file, group, err);
    if (!code)
        code = scd_h5_put_group(&r->file, group, scd_h5_dict, err);
    for (size_t i = 0; i < n && !code; i++)
        code = put_fact(r, group, facts + i, err);
    return code || !r->spec.table ? code : scd_results_table_frame(r, group, err);
}

scd_code scd_results_h5ad_end(scd_results *r, const scd_fact *facts, size_t n, scd_error *err)
{
    scd_code code = end_embedding(r, err);
    scd_h5_close_csr(&r->counts);
    scd_h5_close_csr(&r->denoised);
    if (!code && r->spec.n_labels)
        code = scd_results_add_obs(r, err);
    if (!code)
        code = put_facts(r, facts, n, err);
    scd_code closed = scd_h5_write_close(&r->file, code ? NULL : err);
    return code ? code : closed;
}
