/* store_db.h - the database file of the store: one connection that writes, some that read.
 *
 * Codes: SCD_E_CORRUPT where the file is damaged, foreign, or of a newer schema, so that it has to
 * be moved aside; SCD_E_IO where it cannot be used now (full, read-only, busy); SCD_E_NOMEM.
 *
 * Threads: a connection belongs to one thread at a time; only interrupt comes from others.
 * Owns:    its connection. */
#ifndef SCD_STORE_DB_H
#define SCD_STORE_DB_H

#include "engine/base/buf.h"
#include "engine/base/hash.h"

#include <stdint.h>

#define SCD_DB_SCHEMA 2 /* PRAGMA user_version of the files this program writes */

typedef struct scd_db scd_db;               /* the writer */
typedef struct scd_db_reader scd_db_reader; /* a reader */

/* ---- the writer --------------------------------------------------------------------------------
 */

/* Makes the file where there is none, and brings an older schema up to date. */
scd_code scd_db_open(const char *path, scd_db **out, scd_error *err);

/* leave: do not touch the files any more (they are about to be moved aside). NULL is fine. */
void scd_db_close(scd_db *db, bool leave);

/* One transaction: begin, any number of the three, commit. Any failure: roll back. */
scd_code scd_db_begin(scd_db *db, scd_error *err);
scd_code scd_db_put(scd_db *db, const scd_digest *key, const void *bytes, size_t n,
                    int64_t last_used_ms, scd_error *err);
scd_code scd_db_touch(scd_db *db, const scd_digest *key, int64_t last_used_ms, scd_error *err);
scd_code scd_db_delete(scd_db *db, const scd_digest *key, scd_error *err);
scd_code scd_db_commit(scd_db *db, scd_error *err);
void scd_db_rollback(scd_db *db);

/* Delete up to n entries, the least recently used first; a transaction of its own. */
scd_code scd_db_evict(scd_db *db, int n, size_t *n_deleted, scd_error *err);

/* Give up to n free pages back to the file system. */
scd_code scd_db_shrink(scd_db *db, int n, scd_error *err);
scd_code scd_db_checkpoint(scd_db *db, scd_error *err); /* write the log back, where no reader is */

typedef struct scd_db_usage {
    uint64_t used_bytes; /* pages in use */
    uint64_t file_bytes; /* all pages */
} scd_db_usage;

scd_code scd_db_get_usage(scd_db *db, scd_db_usage *out, scd_error *err);
scd_code scd_db_count(scd_db *db, uint64_t *n_entries, scd_error *err); /* reads an index */
int64_t scd_db_entries_added(const scd_db *db); /* committed by this connection, less deleted */

/* Rename the file (and its log) to path.damaged, in the place of an older one. */
scd_code scd_db_move_aside(const char *path, scd_error *err);

/* ---- a reader ----------------------------------------------------------------------------------
 */

typedef enum scd_db_result {
    SCD_DB_HIT,
    SCD_DB_MISS,
    SCD_DB_BAD_ENTRY,  /* there, but its checksum says that it is not what was written */
    SCD_DB_DAMAGED,    /* the file has to be moved aside */
    SCD_DB_UNAVAILABLE /* it could not be read this time */
} scd_db_result;

scd_db_result scd_db_reader_open(const char *path, scd_db_reader **out);
void scd_db_reader_close(scd_db_reader *reader); /* NULL is fine */

/* HIT: the value is appended to *value. Nothing is appended otherwise. */
scd_db_result scd_db_reader_get(scd_db_reader *reader, const scd_digest *key, scd_buf *value,
                                int64_t *last_used_ms);

/* Walk through the whole file: SCD_E_CANCELED where interrupted. Between prepare and the end of the
 * check, interrupt may be called from any thread and is never missed. */
scd_code scd_db_reader_prepare_check(scd_db_reader *reader, scd_error *err);
scd_code scd_db_reader_check(scd_db_reader *reader, scd_error *err);
void scd_db_reader_interrupt(scd_db_reader *reader);

#endif
