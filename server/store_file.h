/* store_file.h - the database file over its life: locked, opened, written, kept to its size,
 * checked, and replaced when it is damaged. Used by the store's writer alone.
 *
 * What cannot be done now (disk full, directory read-only, file held by another process) is logged
 * and tried again after a pause that grows from a quarter of a second to a minute.
 *
 * Threads: the thread `store` (and open and close, before and after it); interrupt from any.
 * Owns:    cache.db* in the directory, under the lock cache.db.lock. */
#ifndef SCD_STORE_FILE_H
#define SCD_STORE_FILE_H

#include "server/store_memory.h"
#include "server/store_readers.h"

typedef struct scd_store_file scd_store_file;

typedef struct scd_touch {
    scd_digest key;
    int64_t now_ms;
} scd_touch;

/* One transaction; entries are chained by next_queued. */
typedef struct scd_batch {
    const scd_cached *first;
    const scd_touch *touches;
    const scd_digest *bad; /* to be deleted, before the entries are written */
    size_t n_touches, n_bad;
} scd_batch;

typedef struct scd_file_status {
    int64_t quiet_until_ns; /* writing is pointless before that; 0: it works */
    int64_t next_step_ns;   /* when scd_store_file_step wants to be called; SCD_NEVER: not */
    uint64_t entries, bytes, evicted, rebuilds, write_errors;
} scd_file_status;

typedef struct scd_file_options {
    const char *dir;
    size_t max_bytes;
    scd_readers *readers; /* borrowed; opened and closed as the file comes and goes */
    void (*log)(void *arg, int level, const char *message);
    void *log_arg;
} scd_file_options;

/* The path of the database in `dir`, free() it; NULL: out of memory. */
char *scd_store_file_path(const char *dir);

/* SCD_E_IO only where the directory is not there and cannot be made. */
scd_code scd_store_file_open(const scd_file_options *options, scd_store_file **out, scd_error *err);
void scd_store_file_close(scd_store_file *file); /* NULL is fine */

bool scd_store_file_write(scd_store_file *file, const scd_batch *batch); /* true: committed */

/* A reader of this generation of the pool found the file damaged: replace it, once. */
void scd_store_file_report_damage(scd_store_file *file, uint64_t generation);
void scd_store_file_report_suspicion(scd_store_file *file); /* check it soon */

/* Some milliseconds of whatever is due: opening again, evicting, shrinking; and the check of the
 * whole file, which takes longer, where `idle` says that nobody waits. */
void scd_store_file_step(scd_store_file *file, bool idle);
void scd_store_file_interrupt(scd_store_file *file, bool for_good); /* ends a running check */

void scd_store_file_get_status(const scd_store_file *file, scd_file_status *out);

#endif
