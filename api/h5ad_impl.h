/* h5ad_impl.h - what the parts of the reader of HDF5 share: libhdf5 at arm's length.
 *
 * Reads what anndata wrote since 0.5: X, layers and raw/X as dense, CSR or CSC with any integer
 * index type and any number type; obs and var as 0.1.0/0.2.0 data frames, as compound datasets
 * before that, categoricals old and new, nullable columns. Format: https://anndata.readthedocs.io
 * (file format specification). And 10x Genomics' counts (h5ad_tenx.c).
 *
 * A block is read in time proportional to its entries for dense and CSR; CSC is turned once,
 * through a temporary file, when its first block is read. libhdf5 serves one call at a time,
 * however it was built: calls of all open files hold one lock.
 *
 * Everything that comes from the file passes here once: links that leave the file, storage that is
 * not in it, filters that are missing and sizes that it cannot hold are refused before anything is
 * allocated for them.
 *
 * Threads: the functions below that touch the library take its lock themselves; the lock is
 * recursive, so that an operation of many steps may hold it throughout. Owns: see each function. */
#ifndef SCD_API_H5AD_IMPL_H
#define SCD_API_H5AD_IMPL_H

#include "api/bands.h"
#include "api/cells_impl.h"

#include <hdf5.h>

enum {
    SCD_H5_PATH_BYTES = 1024,
    SCD_H5_MAX_COLUMNS = 20000,
    SCD_H5_MAX_MATRICES = 1000,
    SCD_H5_MAX_GENOMES = 16,
    SCD_H5_BATCH = 1 << 16 /* elements read at a time where the result is not the buffer itself */
};

/* One data set, or one member of a compound one; zeros: none. */
typedef struct scd_h5_data {
    char path[SCD_H5_PATH_BYTES]; /* for messages: with the member */
    hid_t dset, type;             /* type: of the elements, in the file */
    char *member;                 /* NULL: the whole element */
    H5T_class_t class;
    int rank; /* 1 or 2 */
    hsize_t dims[2];
    size_t element_bytes;
} scd_h5_data;

typedef struct scd_h5_frame {
    char *name;    /* "obs", "var", "raw/var"; of several genomes "NAME/obs"; NULL: not there */
    char *path;    /* in the file: "raw/var" may be "raw.var" */
    bool compound; /* one data set of records (anndata < 0.7) instead of a group of columns */
    char *index;   /* the column of names */
    size_t rows;
    char **columns;
    char **stored; /* (n_columns) their names in the file; NULL: the same */
    size_t n_columns;
} scd_h5_frame;

typedef struct scd_h5_matrix {
    scd_cells_matrix facts;
    char *name, *path;                 /* path: in the file; "raw/X" may be "raw.X" */
    size_t obs, var;                   /* its frames */
    scd_error fault;                   /* code not OK: why this matrix cannot be read */
    scd_h5_data data, indices, indptr; /* dense: data alone */
    scd_bands *bands;                  /* CSC: once turned */
} scd_h5_matrix;

enum { SCD_H5_OBS, SCD_H5_VAR, SCD_H5_RAW_VAR, SCD_H5_N_FRAMES = 2 * SCD_H5_MAX_GENOMES };

typedef struct scd_h5ad {
    char *path;
    const char *format; /* as scd_cells_format */
    hid_t id, links;    /* the file; how links are followed */
    hsize_t file_bytes;
    scd_h5_frame frames[SCD_H5_N_FRAMES]; /* name NULL: not there */
    scd_h5_matrix *matrices;
    size_t n_matrices;
} scd_h5ad;

/* ---- h5ad_lib.c ---- */
void scd_h5_enter(void);
void scd_h5_leave(void);

scd_code scd_h5_fail(const scd_h5ad *file, const char *object, scd_code code, scd_error *err,
                     const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* SCD_E_CORRUPT with what the library said last; SCD_E_INVALID where it was a link out of the file.
 * Any call of the library forgets what went wrong before: what cleans up first calls note, which
 * keeps it. */
void scd_h5_note(void);
scd_code scd_h5_fail_library(const scd_h5ad *file, const char *object, const char *what,
                             scd_error *err);
scd_code scd_h5_no_memory(const scd_h5ad *file, const char *object, scd_error *err);

/* How links are followed: not out of the file. H5Pclose it. */
hid_t scd_h5_links(void);
/* Opens the file itself, or an image of one in memory that the caller keeps (image NULL: path). */
scd_code scd_h5_file_open(scd_h5ad *file, const void *image, size_t n_bytes, scd_error *err);
void scd_h5_file_close(scd_h5ad *file);

/* "a/b"; false: too long. */
bool scd_h5_join(char out[SCD_H5_PATH_BYTES], const char *a, const char *b);
/* H5I_GROUP, H5I_DATASET, H5I_DATATYPE; H5I_BADID: no such object (or none that may be opened). */
H5I_type_t scd_h5_kind(const scd_h5ad *file, const char *path);
bool scd_h5_there(const scd_h5ad *file, const char *path); /* a link, whatever it leads to */
bool scd_h5_has(const scd_h5ad *file, const char *group, const char *name);
bool scd_h5_has_attr(const scd_h5ad *file, const char *path, const char *name);
/* A text attribute, free() it; *out NULL: not there, or no text. */
scd_code scd_h5_attr_text(const scd_h5ad *file, const char *path, const char *name, char **out,
                          scd_error *err);
/* An attribute of n whole numbers; *found false: not there, or something else. */
scd_code scd_h5_attr_sizes(const scd_h5ad *file, const char *path, const char *name, hsize_t *out,
                           size_t n, bool *found, scd_error *err);
/* The names in a group, sorted; free() each and the array. */
scd_code scd_h5_names(const scd_h5ad *file, const char *group, size_t max, char ***out, size_t *n,
                      scd_error *err);
void scd_h5_names_free(char **names, size_t n);

/* ---- h5ad_data.c, h5ad_strings.c ---- */
scd_code scd_h5_data_open(const scd_h5ad *file, const char *path, const char *member,
                          scd_h5_data *out, scd_error *err);
void scd_h5_data_close(scd_h5_data *data);
/* SCD_E_CORRUPT where the file is too small to hold all of its elements. */
scd_code scd_h5_data_bounded(const scd_h5ad *file, const scd_h5_data *data, scd_error *err);

typedef enum scd_h5_as { SCD_H5_INT64, SCD_H5_UINT64, SCD_H5_DOUBLE } scd_h5_as;
/* Elements (of rank 2: rows) [first, first + n), 8 bytes each. */
scd_code scd_h5_read(const scd_h5ad *file, const scd_h5_data *data, scd_h5_as as, hsize_t first,
                     hsize_t n, void *out, scd_error *err);
/* The same with a memory type and transfer list of the caller's, inside the lock. */
herr_t scd_h5_slab(const scd_h5_data *data, hid_t inner, hid_t transfer, hsize_t first, hsize_t n,
                   void *out);
/* Strings [first, first + n), valid UTF-8, in the arena. */
scd_code scd_h5_read_strings(const scd_h5ad *file, const scd_h5_data *data, hsize_t first, size_t n,
                             scd_arena *arena, const char **out, scd_error *err);
bool scd_h5_is_bool(const scd_h5_data *data); /* an enum of FALSE and TRUE, as h5py writes it */
bool scd_h5_is_number(const scd_h5_data *data);

/* ---- h5ad_frame.c ---- */
/* *frame->name stays NULL where the file has no such frame. */
scd_code scd_h5_frame_open(const scd_h5ad *file, const char *name, const char *path,
                           scd_h5_frame *frame, scd_error *err);
/* A frame of text columns that lie in the group `path` under names of their own; those that are not
 * there are left out. */
typedef struct scd_h5_column_name {
    const char *name, *stored;
} scd_h5_column_name;
scd_code scd_h5_frame_make(const scd_h5ad *file, const char *name, const char *path,
                           const char *index, const scd_h5_column_name *columns, size_t n,
                           scd_h5_frame *frame, scd_error *err);
void scd_h5_frame_close(scd_h5_frame *frame);

/* ---- h5ad_column.c, h5ad_rows.c: of scd_h5_cells_ops ---- */
scd_code scd_h5_column_text(void *self, const char *frame, const char *column, scd_arena *arena,
                            const char *const **out, size_t *n, scd_error *err);
scd_code scd_h5_column_categories(void *self, const char *frame, const char *column,
                                  scd_arena *arena, scd_cells_categories *out, scd_error *err);
scd_code scd_h5_rows_read(void *self, const char *matrix, size_t first, size_t n, scd_arena *arena,
                          scd_cells_rows *out, scd_error *err);
/* How many elements the array-like object at `path` has: a data set, a categorical, a nullable. */
scd_code scd_h5_length(const scd_h5ad *file, const char *path, const char *member, size_t *n,
                       scd_error *err);

/* ---- h5ad_tenx.c ---- */
/* *found false: the file has no group of 10x Genomics' molecule counts. */
scd_code scd_h5_tenx_open(scd_h5ad *file, bool *found, scd_error *err);

/* ---- h5ad_matrix.c ---- */
/* Adds a sparse matrix by cells whose shape is known; data, indices and indptr are in `path`. */
scd_code scd_h5_matrix_add_tenx(scd_h5ad *file, const char *name, const char *path, size_t obs,
                                size_t var, scd_error *err);
scd_code scd_h5_matrices_open(scd_h5ad *file, scd_error *err);
void scd_h5_matrices_close(scd_h5ad *file);

/* ---- h5ad_rows.c ---- */
/* Columns [first, first + n) of the entries' indices, checked to be below `bound`. */
scd_code scd_h5_indices(const scd_h5ad *file, const scd_h5_matrix *m, uint64_t first, uint64_t n,
                        size_t bound, uint32_t *out, scd_error *err);
/* indptr[first ... first + n] as it stands in the file, checked. */
scd_code scd_h5_indptr(const scd_h5ad *file, const scd_h5_matrix *m, size_t first, size_t n,
                       uint64_t *out, scd_error *err);

/* ---- h5ad_csc.c ---- */
scd_code scd_h5_csc_read(const scd_h5ad *file, scd_h5_matrix *m, size_t first, size_t n,
                         scd_arena *arena, scd_cells_rows *out, scd_error *err);

/* ---- h5ad_lzf.c ---- */
void scd_h5_lzf_register(void);

/* ---- h5ad_file.c ---- */
scd_code scd_h5_matrix_find(const scd_h5ad *file, const char *name, scd_h5_matrix **out,
                            scd_error *err);
const scd_h5_frame *scd_h5_frame_find(const scd_h5ad *file, const char *name); /* NULL: none */

#endif
