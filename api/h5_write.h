/* h5_write.h - pieces of an AnnData written with libhdf5: groups, attributes, arrays, text.
 *
 * What is written has no times in it and is the same for the same content. Encodings are those of
 * anndata's file format (https://anndata.readthedocs.io), 0.7.0 and 0.8.0 of it; text is UTF-8 of
 * variable length, booleans are the enum that h5py makes. Only gzip is used to compress.
 *
 * A scd_h5ad whose id is a file open for writing stands for the file; the library's lock is taken
 * by each function.
 *
 * Threads: any, one call at a time for each file. Owns: nothing; ids that are handed out are the
 * caller's. Errors: SCD_E_IO names file and object. */
#ifndef SCD_API_H5_WRITE_H
#define SCD_API_H5_WRITE_H

#include "api/h5ad_impl.h"

/* What anndata is told about an object; kind NULL: nothing, as before 0.8. */
typedef struct scd_h5_encoding {
    const char *kind, *version;
} scd_h5_encoding;
extern const scd_h5_encoding scd_h5_dataframe, scd_h5_dict, scd_h5_array, scd_h5_texts, scd_h5_text,
    scd_h5_number, scd_h5_no_encoding;

scd_code scd_h5_write_failed(const scd_h5ad *file, const char *object, scd_error *err);

/* Open an .h5ad for adding to it, or (is_new) an empty one. */
scd_code scd_h5_write_open(scd_h5ad *file, const char *path, bool is_new, scd_error *err);
/* All that was written reaches the file; SCD_E_IO where it does not. Nothing when it is not open.
 */
scd_code scd_h5_write_close(scd_h5ad *file, scd_error *err);

scd_code scd_h5_put_attr_text(scd_h5ad *file, const char *object, const char *name,
                              const char *text, scd_error *err);
/* An attribute that is there is replaced. */
scd_code scd_h5_put_attr_texts(scd_h5ad *file, const char *object, const char *name,
                               const char *const *texts, size_t n, scd_error *err);
scd_code scd_h5_put_attr_shape(scd_h5ad *file, const char *object, const uint64_t shape[2],
                               scd_error *err);
scd_code scd_h5_put_attr_bool(scd_h5ad *file, const char *object, const char *name, bool value,
                              scd_error *err);

scd_code scd_h5_put_group(scd_h5ad *file, const char *path, scd_h5_encoding encoding,
                          scd_error *err);
scd_code scd_h5_put_texts(scd_h5ad *file, const char *path, const char *const *texts, size_t n,
                          scd_h5_encoding encoding, scd_error *err);
scd_code scd_h5_put_text(scd_h5ad *file, const char *path, const char *text, scd_error *err);
scd_code scd_h5_put_double(scd_h5ad *file, const char *path, double value, scd_error *err);
scd_code scd_h5_put_int(scd_h5ad *file, const char *path, int64_t value, scd_error *err);
scd_code scd_h5_put_floats(scd_h5ad *file, const char *path, const float *values, size_t n,
                           scd_h5_encoding encoding, scd_error *err);
scd_code scd_h5_put_doubles(scd_h5ad *file, const char *path, const double *values, size_t n,
                            scd_h5_encoding encoding, scd_error *err);
scd_code scd_h5_put_ints(scd_h5ad *file, const char *path, const int64_t *values, size_t n,
                         scd_h5_encoding encoding, scd_error *err);
scd_code scd_h5_put_bools(scd_h5ad *file, const char *path, const uint8_t *values, size_t n,
                          scd_h5_encoding encoding, scd_error *err);
/* In the smallest signed type that holds n_categories, as pandas does. */
scd_code scd_h5_put_codes(scd_h5ad *file, const char *path, const int32_t *codes, size_t n,
                          size_t n_categories, scd_h5_encoding encoding, scd_error *err);
hid_t scd_h5_codes_type(size_t n_categories); /* H5T_STD_I8LE, ...: not to be closed */
hid_t scd_h5_bool_type(void);                 /* H5Tclose it */
hid_t scd_h5_text_type(void);                 /* H5Tclose it */

/* ---- arrays that are written row by row ---- */

/* (n_rows, n_cols) float32, stored plainly; *out: H5Dclose it. */
scd_code scd_h5_begin_rows(scd_h5ad *file, const char *path, size_t n_rows, size_t n_cols,
                           hid_t *out, scd_error *err);
scd_code scd_h5_add_rows(scd_h5ad *file, const char *path, hid_t dset, size_t first, size_t n,
                         size_t n_cols, const float *values, scd_error *err);

/* A CSR matrix, values as float32 or float64, packed with gzip. */
typedef struct scd_h5_csr {
    const char *path;
    hid_t data, indices, indptr;
    uint64_t n_rows, n_stored;
    bool is_double, is_wide; /* float64; indices and indptr of 64 bits */
} scd_h5_csr;
scd_code scd_h5_begin_csr(scd_h5ad *file, const char *path, uint64_t n_rows, uint64_t n_cols,
                          uint64_t n_expected, bool is_double, scd_h5_csr *out, scd_error *err);
/* float32 that cannot hold a value is SCD_E_INVALID. */
scd_code scd_h5_add_csr(scd_h5ad *file, scd_h5_csr *csr, const scd_cells_rows *rows,
                        scd_error *err);
void scd_h5_close_csr(scd_h5_csr *csr);

/* ---- links ---- */
scd_code scd_h5_remove(scd_h5ad *file, const char *path, scd_error *err); /* nothing if not there */
scd_code scd_h5_move(scd_h5ad *file, const char *from, const char *to, scd_error *err);

#endif
