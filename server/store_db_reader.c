/* store_db_reader.c - the reading half of store_db.h.
 *
 * A reader is opened read-only, so that nothing it does, closing included, can change the files,
 * not even files that have taken the place of those it knew. */
#include "server/store_db.h"

#include "engine/base/mem.h"
#include "server/store_sqlite.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BUSY_MS = 50 };

struct scd_db_reader {
    sqlite3 *handle;
    sqlite3_stmt *get;
    sqlite3_stmt *held; /* a statement kept running during a check, see prepare_check */
    scd_hasher *hasher;
    atomic_bool interrupted;
};

static scd_db_result result_of(int rc)
{
    switch (scd_sqlite_fail(NULL, rc, "", NULL)) {
    case SCD_E_CORRUPT:
        return SCD_DB_DAMAGED;
    default:
        return SCD_DB_UNAVAILABLE;
    }
}

scd_db_result scd_db_reader_open(const char *path, scd_db_reader **out)
{
    static const char sql[] = "SELECT checksum, last_used, value FROM entries WHERE key = ?1";
    *out = NULL;
    scd_db_reader *reader = scd_calloc(1, sizeof *reader);
    if (!reader || !(reader->hasher = scd_hasher_new())) {
        free(reader);
        return SCD_DB_UNAVAILABLE;
    }
    int rc =
        sqlite3_open_v2(path, &reader->handle, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL);
    if (!rc) {
        sqlite3_extended_result_codes(reader->handle, 1);
        sqlite3_busy_timeout(reader->handle, BUSY_MS);
        sqlite3_db_config(reader->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
        rc = sqlite3_exec(reader->handle,
                          "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;"
                          "PRAGMA mmap_size = 0; PRAGMA cache_size = -1024;",
                          NULL, NULL, NULL);
    }
    if (!rc)
        rc = sqlite3_prepare_v3(reader->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &reader->get,
                                NULL);
    if (!rc) {
        *out = reader;
        return SCD_DB_HIT;
    }
    scd_db_result result = result_of(rc);
    if ((rc & 0xff) == SQLITE_CANTOPEN && access(path, F_OK) && errno == ENOENT)
        result = SCD_DB_DAMAGED; /* somebody removed it; the writer still writes to nowhere */
    scd_db_reader_close(reader);
    return result;
}

void scd_db_reader_close(scd_db_reader *reader)
{
    if (!reader)
        return;
    sqlite3_finalize(reader->held);
    sqlite3_finalize(reader->get);
    sqlite3_close(reader->handle);
    scd_hasher_free(reader->hasher);
    free(reader);
}

/* The row that `get` stands on, verified, to *value. */
static scd_db_result take_row(scd_db_reader *reader, const scd_digest *key, scd_buf *value,
                              int64_t *last_used_ms)
{
    sqlite3_stmt *stmt = reader->get;
    const void *bytes = sqlite3_column_blob(stmt, 2);
    size_t n = (size_t)sqlite3_column_bytes(stmt, 2);
    if (!bytes) { /* empty, or out of memory */
        if (sqlite3_errcode(reader->handle) == SQLITE_NOMEM)
            return SCD_DB_UNAVAILABLE;
        bytes = "";
    }
    int64_t checksum = scd_sqlite_checksum(reader->hasher, key, bytes, n);
    if (sqlite3_column_int64(stmt, 0) != checksum)
        return SCD_DB_BAD_ENTRY;
    *last_used_ms = sqlite3_column_int64(stmt, 1);
    return scd_buf_append(value, bytes, n) ? SCD_DB_HIT : SCD_DB_UNAVAILABLE;
}

scd_db_result scd_db_reader_get(scd_db_reader *reader, const scd_digest *key, scd_buf *value,
                                int64_t *last_used_ms)
{
    scd_db_result result = SCD_DB_MISS;
    sqlite3_bind_blob(reader->get, 1, key->bytes, SCD_DIGEST_BYTES, SQLITE_STATIC);
    int rc = sqlite3_step(reader->get);
    if (rc == SQLITE_ROW)
        result = take_row(reader, key, value, last_used_ms);
    else if (rc != SQLITE_DONE)
        result = result_of(rc);
    sqlite3_reset(reader->get); /* also ends the read transaction */
    return result;
}

/* An interrupt is forgotten when a statement starts and no other runs: one that came just before
 * the check would be lost. A statement that has begun and is not at its end keeps it. */
scd_code scd_db_reader_prepare_check(scd_db_reader *reader, scd_error *err)
{
    int rc =
        sqlite3_prepare_v2(reader->handle, "SELECT 1 UNION ALL SELECT 2", -1, &reader->held, NULL);
    if (!rc)
        rc = sqlite3_step(reader->held);
    return rc == SQLITE_ROW ? SCD_OK : scd_sqlite_fail(reader->handle, rc, "check", err);
}

scd_code scd_db_reader_check(scd_db_reader *reader, scd_error *err)
{
    sqlite3_stmt *stmt = NULL;
    static const char sql[] = "PRAGMA quick_check(1)";
    scd_code code = SCD_OK;
    const char *text = NULL;
    int rc = sqlite3_prepare_v2(reader->handle, sql, -1, &stmt, NULL);
    if (!rc && (rc = sqlite3_step(stmt)) == SQLITE_ROW)
        text = (const char *)sqlite3_column_text(stmt, 0);
    if (atomic_load(&reader->interrupted)) /* half a check reports pages that it never reached */
        code = scd_fail(err, SCD_E_CANCELED, "the check was interrupted");
    else if (!text)
        code = scd_sqlite_fail(reader->handle, rc, sql, err);
    else if (strcmp(text, "ok") != 0)
        code = scd_fail(err, SCD_E_CORRUPT, "%.300s", text);
    sqlite3_finalize(stmt);
    return code;
}

void scd_db_reader_interrupt(scd_db_reader *reader)
{
    atomic_store(&reader->interrupted, true);
    sqlite3_interrupt(reader->handle);
}
