/* h5ad_tenx.c - 10x Genomics' molecule counts in HDF5 behind the reader of .h5ad files.
 *
 *   version 3   group matrix: barcodes, data, indices, indptr, shape; features/id, name,
 *               feature_type, genome
 *   version 2   a group for each genome: barcodes, data, indices, indptr, shape; genes, gene_names
 *
 * The matrix is stored as features x barcodes by columns, which is ours by rows: nothing has to be
 * turned. Columns get the names that scanpy gives them (gene_ids, feature_types, genome). */
#include "api/h5ad_impl.h"

#include "engine/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_GROUPS = 1000 };

static bool has_counts(const scd_h5ad *file, const char *group)
{
    static const char *const parts[] = {"barcodes", "data", "indices", "indptr", "shape"};
    if (scd_h5_kind(file, group) != H5I_GROUP)
        return false;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (!scd_h5_has(file, group, parts[i]))
            return false;
    return true;
}

/* The data set "shape" holds features and barcodes. */
static scd_code check_shape(const scd_h5ad *file, const char *group, const scd_h5_frame *obs,
                            const scd_h5_frame *var, scd_error *err)
{
    char path[SCD_H5_PATH_BYTES];
    scd_h5_data data;
    int64_t shape[2] = {-1, -1};
    if (!scd_h5_join(path, group, "shape"))
        return scd_h5_fail(file, group, SCD_E_INVALID, err, "a name is too long");
    scd_code code = scd_h5_data_open(file, path, NULL, &data, err);
    if (code)
        return code;
    if (data.rank != 1 || data.dims[0] != 2)
        code = scd_h5_fail(file, path, SCD_E_CORRUPT, err, "must hold two numbers");
    else
        code = scd_h5_read(file, &data, SCD_H5_INT64, 0, 2, shape, err);
    scd_h5_data_close(&data);
    if (!code && ((uint64_t)shape[0] != var->rows || (uint64_t)shape[1] != obs->rows))
        code = scd_h5_fail(file, path, SCD_E_CORRUPT, err,
                           "%lld x %lld, but there are %zu features and %zu barcodes",
                           (long long)shape[0], (long long)shape[1], var->rows, obs->rows);
    return code;
}

/* Frames `at` and `at` + 1 and the matrix between them. */
static scd_code add_group(scd_h5ad *file, const char *group, const char *matrix, size_t at,
                          const char *obs_name, const char *var_name, scd_error *err)
{
    static const scd_h5_column_name v2[] = {{"gene_ids", "genes"}};
    static const scd_h5_column_name v3[] = {
        {"gene_ids", "id"}, {"feature_types", "feature_type"}, {"genome", "genome"}};
    char features[SCD_H5_PATH_BYTES];
    bool is_v3 = scd_h5_has(file, group, "features");
    if (!scd_h5_join(features, group, "features"))
        return scd_h5_fail(file, group, SCD_E_INVALID, err, "a name is too long");
    const char *names = is_v3                                   ? "name"
                        : scd_h5_has(file, group, "gene_names") ? "gene_names"
                                                                : "genes";
    file->format = is_v3 ? "10x h5 v3" : "10x h5 v2";
    scd_code code =
        scd_h5_frame_make(file, obs_name, group, "barcodes", NULL, 0, file->frames + at, err);
    if (!code)
        code = is_v3 ? scd_h5_frame_make(file, var_name, features, names, v3, 3,
                                         file->frames + at + 1, err)
                     : scd_h5_frame_make(file, var_name, group, names, v2, 1, file->frames + at + 1,
                                         err);
    if (!code)
        code = check_shape(file, group, file->frames + at, file->frames + at + 1, err);
    return code ? code : scd_h5_matrix_add_tenx(file, matrix, group, at, at + 1, err);
}

static scd_code add_genomes(scd_h5ad *file, char *const *groups, size_t n, scd_error *err)
{
    char obs[SCD_H5_PATH_BYTES], var[SCD_H5_PATH_BYTES];
    size_t n_genomes = 0, at = 0;
    for (size_t i = 0; i < n; i++)
        n_genomes += has_counts(file, groups[i]);
    if (n_genomes > SCD_H5_MAX_GENOMES)
        return scd_h5_fail(file, NULL, SCD_E_INVALID, err, "%zu genomes, at most %d are read",
                           n_genomes, SCD_H5_MAX_GENOMES);
    scd_code code = SCD_OK;
    for (size_t i = 0; i < n && !code; i++) {
        if (!has_counts(file, groups[i]))
            continue;
        if (!scd_h5_join(obs, groups[i], "obs") || !scd_h5_join(var, groups[i], "var"))
            return scd_h5_fail(file, groups[i], SCD_E_INVALID, err, "a name is too long");
        code = add_group(file, groups[i], groups[i], at, n_genomes > 1 ? obs : "obs",
                         n_genomes > 1 ? var : "var", err);
        at += 2;
    }
    return code;
}

scd_code scd_h5_tenx_open(scd_h5ad *file, bool *found, scd_error *err)
{
    char **groups = NULL;
    size_t n = 0;
    *found = false;
    if (scd_h5_there(file, "obs") || scd_h5_there(file, "var"))
        return SCD_OK;
    if (has_counts(file, "matrix")) {
        *found = true;
        return add_group(file, "matrix", "matrix", 0, "obs", "var", err);
    }
    scd_code code = scd_h5_names(file, "/", MAX_GROUPS, &groups, &n, err);
    for (size_t i = 0; i < n && !code; i++)
        *found = *found || has_counts(file, groups[i]);
    if (!code && *found)
        code = add_genomes(file, groups, n, err);
    scd_h5_names_free(groups, n);
    return code;
}
