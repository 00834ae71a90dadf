/* store_db.c - see store_db.h.
 *
 * A table with rowid and an index over the keys, in pages of 16 KiB, is what measured best for
 * values of 2 KB (2.4 KB of file per entry): rows go in at the end, only the small index is written
 * at random. WITHOUT ROWID cost 7 times the time to write, pages of 4 KiB 1.7 times the file.
 *
 * The file is never mapped into memory: a mapped file that somebody truncates kills the process. */
#include "server/store_db.h"

#include "engine/base/mem.h"
#include "server/store_sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BUSY_MS = 1000, APPLICATION_ID = 0x53434456 /* "SCDV" */ };

/* Applied in order to a file of schema i to make it schema i + 1; a new file starts at 0. Steps
 * that were once released do not change. */
static const char *const migrations[SCD_DB_SCHEMA] = {
    "CREATE TABLE entries(id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE,"
    "    checksum INTEGER NOT NULL, last_used INTEGER NOT NULL, value BLOB NOT NULL);"
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;"
    "INSERT INTO meta VALUES('created', strftime('%Y-%m-%dT%H:%M:%SZ', 'now'));",
    "CREATE INDEX entries_by_use ON entries(last_used);"};

enum {
    BEGIN,
    COMMIT,
    ROLLBACK,
    INSERT,
    UPDATE,
    TOUCH,
    DELETE,
    EVICT,
    COUNT,
    PAGES,
    FREE_PAGES,
    N_STATEMENTS
};

static const char *const statements[N_STATEMENTS] = {
    [BEGIN] = "BEGIN IMMEDIATE",
    [COMMIT] = "COMMIT",
    [ROLLBACK] = "ROLLBACK",
    [INSERT] = "INSERT INTO entries(key, checksum, last_used, value) VALUES(?1, ?2, ?3, ?4)",
    [UPDATE] = "UPDATE entries SET checksum = ?2, last_used = ?3, value = ?4 WHERE key = ?1",
    [TOUCH] = "UPDATE entries SET last_used = max(last_used, ?2) WHERE key = ?1",
    [DELETE] = "DELETE FROM entries WHERE key = ?1",
    [EVICT] =
        "DELETE FROM entries WHERE id IN (SELECT id FROM entries ORDER BY last_used LIMIT ?1)",
    [COUNT] = "SELECT count(*) FROM entries",
    [PAGES] = "PRAGMA page_count",
    [FREE_PAGES] = "PRAGMA freelist_count",
};

struct scd_db {
    sqlite3 *handle;
    sqlite3_stmt *statements[N_STATEMENTS];
    scd_hasher *hasher;
    int64_t page_bytes;
    int64_t added, added_in_transaction;
};

scd_code scd_sqlite_fail(sqlite3 *handle, int rc, const char *what, scd_error *err)
{
    const char *why = handle ? sqlite3_errmsg(handle) : sqlite3_errstr(rc);
    scd_code code = SCD_E_IO;
    switch (rc & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_ERROR: /* no such table or column: our schema is not there */
    case SQLITE_MISMATCH:
    case SQLITE_FORMAT:
        code = SCD_E_CORRUPT;
        break;
    case SQLITE_NOMEM:
        code = SCD_E_NOMEM;
        break;
    case SQLITE_INTERRUPT:
        code = SCD_E_CANCELED;
        break;
    default:
        if (rc == SQLITE_READONLY_DBMOVED) /* somebody removed the file under us */
            code = SCD_E_CORRUPT;
    }
    return scd_fail(err, code, "%s: %s (sqlite %d)", what, why, rc);
}

int64_t scd_sqlite_checksum(scd_hasher *hasher, const scd_digest *key, const void *bytes, size_t n)
{
    scd_hasher_add(hasher, key->bytes, SCD_DIGEST_BYTES);
    scd_hasher_add(hasher, bytes, n);
    scd_digest digest = scd_hasher_finish(hasher);
    int64_t checksum;
    memcpy(&checksum, digest.bytes, sizeof checksum);
    return checksum;
}

static scd_code execute(scd_db *db, const char *sql, scd_error *err)
{
    int rc = sqlite3_exec(db->handle, sql, NULL, NULL, NULL);
    return rc ? scd_sqlite_fail(db->handle, rc, sql, err) : SCD_OK;
}

/* Run a bound statement to its end; *number (may be NULL) is the first column of its last row. */
static scd_code run(scd_db *db, int which, int64_t *number, scd_error *err)
{
    sqlite3_stmt *stmt = db->statements[which];
    int rc;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW)
        if (number)
            *number = sqlite3_column_int64(stmt, 0);
    scd_code code = SCD_OK;
    if (rc != SQLITE_DONE)
        code = scd_sqlite_fail(db->handle, rc, statements[which], err);
    sqlite3_reset(stmt);
    return code;
}

/* One number from a statement that is not kept. */
static scd_code ask(scd_db *db, const char *sql, int64_t *number, scd_error *err)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db->handle, sql, -1, &stmt, NULL);
    if (!rc)
        rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
        *number = sqlite3_column_int64(stmt, 0);
    scd_code code = SCD_OK;
    if (rc != SQLITE_ROW)
        code = scd_sqlite_fail(db->handle, rc, sql, err);
    sqlite3_finalize(stmt);
    return code;
}

static scd_code use_wal(scd_db *db, scd_error *err)
{
    sqlite3_stmt *stmt = NULL;
    static const char sql[] = "PRAGMA journal_mode = WAL";
    scd_code code = SCD_OK;
    int rc = sqlite3_prepare_v2(db->handle, sql, -1, &stmt, NULL);
    if (!rc)
        rc = sqlite3_step(stmt);
    if (rc != SQLITE_ROW)
        code = scd_sqlite_fail(db->handle, rc, sql, err);
    else if (strcmp((const char *)sqlite3_column_text(stmt, 0), "wal") != 0)
        code = scd_fail(err, SCD_E_IO, "a write-ahead log is not possible on this file system");
    sqlite3_finalize(stmt);
    return code;
}

/* Page size and auto_vacuum only take effect on a new file, before the write-ahead log. A log of 8
 * MiB is written back, and truncated to that when it once grew larger. */
static scd_code configure(scd_db *db, scd_error *err)
{
    sqlite3_extended_result_codes(db->handle, 1);
    sqlite3_busy_timeout(db->handle, BUSY_MS);
    sqlite3_db_config(db->handle, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    scd_code code = execute(db,
                            "PRAGMA trusted_schema = OFF;"
                            "PRAGMA cell_size_check = ON;"
                            "PRAGMA mmap_size = 0;"
                            "PRAGMA temp_store = MEMORY;"
                            "PRAGMA cache_size = -8192;"
                            "PRAGMA page_size = 16384;"
                            "PRAGMA auto_vacuum = INCREMENTAL;",
                            err);
    if (!code)
        code = use_wal(db, err);
    if (!code)
        code = execute(db,
                       "PRAGMA synchronous = NORMAL;"
                       "PRAGMA wal_autocheckpoint = 512;"
                       "PRAGMA journal_size_limit = 8388608;",
                       err);
    return code;
}

static scd_code migrate(scd_db *db, scd_error *err)
{
    int64_t version, id, n_objects;
    scd_code code = ask(db, "PRAGMA user_version", &version, err);
    if (!code)
        code = ask(db, "PRAGMA application_id", &id, err);
    if (!code)
        code = ask(db, "SELECT count(*) FROM sqlite_schema", &n_objects, err);
    if (code)
        return code;
    if (version > SCD_DB_SCHEMA && id == APPLICATION_ID)
        return scd_fail(err, SCD_E_CORRUPT, "its schema %lld is newer than %d, the one known here",
                        (long long)version, SCD_DB_SCHEMA);
    bool is_new = !version && !id && !n_objects;
    if (!is_new && (version < 1 || version > SCD_DB_SCHEMA || id != APPLICATION_ID))
        return scd_fail(err, SCD_E_CORRUPT, "a database of some other program");
    for (; !code && version < SCD_DB_SCHEMA; version++) {
        char stamp[96];
        snprintf(stamp, sizeof stamp, "PRAGMA application_id = %d; PRAGMA user_version = %lld;",
                 APPLICATION_ID, (long long)version + 1);
        code = execute(db, "BEGIN IMMEDIATE", err);
        if (!code)
            code = execute(db, migrations[version], err);
        if (!code)
            code = execute(db, stamp, err);
        if (!code)
            code = execute(db, "COMMIT", err);
    }
    return code; /* an open transaction ends with the connection */
}

scd_code scd_db_open(const char *path, scd_db **out, scd_error *err)
{
    *out = NULL;
    scd_db *db = scd_calloc(1, sizeof *db);
    if (!db || !(db->hasher = scd_hasher_new())) {
        free(db);
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the cache database");
    }
    /* Results describe people's cells: nobody else reads them. SQLite would make it 0644. */
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    int rc = sqlite3_open_v2(path, &db->handle, flags, NULL);
    scd_code code = rc ? scd_sqlite_fail(db->handle, rc, "open", err) : SCD_OK;
    if (!code)
        code = configure(db, err);
    if (!code)
        code = migrate(db, err);
    for (int i = 0; !code && i < N_STATEMENTS; i++) {
        rc = sqlite3_prepare_v3(db->handle, statements[i], -1, SQLITE_PREPARE_PERSISTENT,
                                &db->statements[i], NULL);
        if (rc)
            code = scd_sqlite_fail(db->handle, rc, statements[i], err);
    }
    if (!code)
        code = ask(db, "PRAGMA page_size", &db->page_bytes, err);
    if (code) {
        scd_db_close(db, code == SCD_E_CORRUPT);
        return code;
    }
    *out = db;
    return SCD_OK;
}

void scd_db_close(scd_db *db, bool leave)
{
    if (!db)
        return;
    for (int i = 0; i < N_STATEMENTS; i++)
        sqlite3_finalize(db->statements[i]);
    if (db->handle && leave)
        sqlite3_db_config(db->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_close(db->handle);
    scd_hasher_free(db->hasher);
    free(db);
}

scd_code scd_db_begin(scd_db *db, scd_error *err)
{
    db->added_in_transaction = 0;
    return run(db, BEGIN, NULL, err);
}

scd_code scd_db_commit(scd_db *db, scd_error *err)
{
    scd_code code = run(db, COMMIT, NULL, err);
    if (!code)
        db->added += db->added_in_transaction;
    return code;
}

void scd_db_rollback(scd_db *db)
{
    if (!sqlite3_get_autocommit(db->handle))
        run(db, ROLLBACK, NULL, NULL);
}

static void bind_key(sqlite3_stmt *stmt, const scd_digest *key)
{
    sqlite3_bind_blob(stmt, 1, key->bytes, SCD_DIGEST_BYTES, SQLITE_STATIC);
}

/* INSERT or UPDATE. Values are bound without a copy; they are unbound again before returning. */
static int store_value(scd_db *db, int which, const scd_digest *key, int64_t checksum,
                       int64_t last_used_ms, const void *bytes, size_t n)
{
    sqlite3_stmt *stmt = db->statements[which];
    bind_key(stmt, key);
    sqlite3_bind_int64(stmt, 2, checksum);
    sqlite3_bind_int64(stmt, 3, last_used_ms);
    int rc = sqlite3_bind_blob64(stmt, 4, n ? bytes : "", n, SQLITE_STATIC);
    if (!rc)
        rc = sqlite3_step(stmt);
    sqlite3_reset(stmt);
    sqlite3_clear_bindings(stmt);
    return rc;
}

scd_code scd_db_put(scd_db *db, const scd_digest *key, const void *bytes, size_t n,
                    int64_t last_used_ms, scd_error *err)
{
    int64_t checksum = scd_sqlite_checksum(db->hasher, key, bytes, n);
    int rc = store_value(db, INSERT, key, checksum, last_used_ms, bytes, n);
    if (rc == SQLITE_DONE) {
        db->added_in_transaction++;
        return SCD_OK;
    }
    if ((rc & 0xff) == SQLITE_CONSTRAINT) /* the key is there: rare, a put follows a miss */
        rc = store_value(db, UPDATE, key, checksum, last_used_ms, bytes, n);
    if (rc == SQLITE_TOOBIG || rc == SQLITE_DONE)
        return SCD_OK; /* no entry of this size can ever be kept: a miss */
    return scd_sqlite_fail(db->handle, rc, "put", err);
}

scd_code scd_db_touch(scd_db *db, const scd_digest *key, int64_t last_used_ms, scd_error *err)
{
    bind_key(db->statements[TOUCH], key);
    sqlite3_bind_int64(db->statements[TOUCH], 2, last_used_ms);
    return run(db, TOUCH, NULL, err);
}

scd_code scd_db_delete(scd_db *db, const scd_digest *key, scd_error *err)
{
    bind_key(db->statements[DELETE], key);
    scd_code code = run(db, DELETE, NULL, err);
    if (!code)
        db->added_in_transaction -= sqlite3_changes(db->handle);
    return code;
}

scd_code scd_db_evict(scd_db *db, int n, size_t *n_deleted, scd_error *err)
{
    sqlite3_bind_int(db->statements[EVICT], 1, n);
    scd_code code = run(db, EVICT, NULL, err);
    *n_deleted = code ? 0 : (size_t)sqlite3_changes(db->handle);
    db->added -= (int64_t)*n_deleted;
    return code;
}

scd_code scd_db_shrink(scd_db *db, int n, scd_error *err)
{
    char sql[64];
    snprintf(sql, sizeof sql, "PRAGMA incremental_vacuum(%d)", n);
    return execute(db, sql, err);
}

scd_code scd_db_checkpoint(scd_db *db, scd_error *err)
{
    return execute(db, "PRAGMA wal_checkpoint(PASSIVE)", err);
}

scd_code scd_db_get_usage(scd_db *db, scd_db_usage *out, scd_error *err)
{
    int64_t pages = 0, free_pages = 0;
    scd_code code = run(db, PAGES, &pages, err);
    if (!code)
        code = run(db, FREE_PAGES, &free_pages, err);
    if (pages < free_pages)
        pages = free_pages;
    out->file_bytes = (uint64_t)(pages * db->page_bytes);
    out->used_bytes = (uint64_t)((pages - free_pages) * db->page_bytes);
    return code;
}

scd_code scd_db_count(scd_db *db, uint64_t *n_entries, scd_error *err)
{
    int64_t n = 0;
    scd_code code = run(db, COUNT, &n, err);
    *n_entries = (uint64_t)n;
    return code;
}

int64_t scd_db_entries_added(const scd_db *db)
{
    return db->added;
}

static scd_code rename_part(const char *path, const char *part, scd_error *err)
{
    char from[4096], to[4096];
    snprintf(from, sizeof from, "%s%s", path, part);
    snprintf(to, sizeof to, "%s.damaged%s", path, part);
    if (!rename(from, to))
        return SCD_OK;
    if (errno == ENOENT) /* no such part now: an older damaged one would not belong to the rest */
        return unlink(to) && errno != ENOENT ? SCD_E_IO : SCD_OK;
    if (!unlink(from))
        return SCD_OK;
    return scd_fail(err, SCD_E_IO, "cannot move %s aside: %s", from, strerror(errno));
}

scd_code scd_db_move_aside(const char *path, scd_error *err)
{
    char shm[4096];
    snprintf(shm, sizeof shm, "%s-shm", path);
    unlink(shm); /* only ever an index of the log */
    scd_code code = rename_part(path, "", err);
    if (!code)
        code = rename_part(path, "-wal", err);
    return code;
}
