/* file.h - whole files in, and files that appear complete or not at all.
 *
 * Threads: one per writer. Owns: a writer owns its temporary file until commit or abandon. */
#ifndef SCD_MODEL_FILE_H
#define SCD_MODEL_FILE_H

#include "engine/base/error.h"

#include <stddef.h>

/* Read-only; SCD_E_IO names the path, *out is -1 then. Refuses what is no regular file. */
scd_code scd_file_open(const char *path, int *out, size_t *n_bytes, scd_error *err);

/* All bytes of an open file and a NUL after them; free() them. SCD_E_TOO_LARGE over `max`. */
scd_code scd_file_read(int fd, const char *path, size_t max, char **out, size_t *n, scd_error *err);

/* The last component of a directory's path, of what "." and ".." stand for; `fallback` where there
 * is none. free() it. */
scd_code scd_file_dir_name(const char *dir, const char *fallback, char **out, scd_error *err);

/* Bytes go to a temporary file beside `path`; commit makes them durable (fsync of file and
 * directory) and moves them into place, abandon removes them. Abandon after commit does nothing. */
typedef struct scd_file_writer {
    int fd;
    char *path, *temporary;
} scd_file_writer;

scd_code scd_file_writer_open(scd_file_writer *writer, const char *path, scd_error *err);
scd_code scd_file_writer_add(scd_file_writer *writer, const void *bytes, size_t n, scd_error *err);
scd_code scd_file_writer_commit(scd_file_writer *writer, scd_error *err);
void scd_file_writer_abandon(scd_file_writer *writer);

/* The three in one. */
scd_code scd_file_write(const char *path, const void *bytes, size_t n, scd_error *err);

#endif
