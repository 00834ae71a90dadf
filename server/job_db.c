/* job_db.c - see job_db.h.
 *
 * Few writes, each of which matters: synchronous = FULL. What was asked for is kept as the text of
 * the query, which the same reader takes that the request went through. */
#include "server/job_db.h"

#include "api/json_write.h"
#include "engine/base/mem.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BUSY_MS = 5000, APPLICATION_ID = 0x5343444A /* "SCDJ" */, SCHEMA = 1, QUERY_BYTES = 32768 };

/* Applied in order; steps that were once released do not change. */
static const char *const migrations[SCHEMA] = {
    "CREATE TABLE jobs(id TEXT PRIMARY KEY, serial INTEGER UNIQUE, version INTEGER, owner TEXT,"
    "    key TEXT, query TEXT, state TEXT, created INTEGER, started INTEGER, finished INTEGER,"
    "    upload_bytes INTEGER, upload_length INTEGER, uploaded INTEGER, input_sha256 TEXT,"
    "    model TEXT, model_digest TEXT, head_digest TEXT, run_key TEXT, n_cells INTEGER,"
    "    n_done INTEGER, row_bytes INTEGER, result_bytes INTEGER, result_sha256 TEXT, detail TEXT,"
    "    report TEXT, attempts INTEGER);"
    "CREATE TABLE chunks(job TEXT, first INTEGER, n INTEGER, digest BLOB,"
    "    PRIMARY KEY(job, first)) WITHOUT ROWID;"
    "CREATE TABLE lines(seq INTEGER PRIMARY KEY, line TEXT);"
    "CREATE TABLE deliveries(row INTEGER PRIMARY KEY, id TEXT, job TEXT, owner TEXT, url TEXT,"
    "    payload TEXT, attempts INTEGER, status INTEGER, done INTEGER, given_up INTEGER,"
    "    created INTEGER, next INTEGER, last INTEGER, why TEXT);"
    "CREATE INDEX deliveries_by_job ON deliveries(job);"
    "CREATE TABLE attempts(job TEXT, id TEXT, time INTEGER, status INTEGER, why TEXT);"
    "CREATE INDEX attempts_by_job ON attempts(job);"
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;"};

struct scd_job_db {
    sqlite3 *handle;
};

/* ---- statements ----------------------------------------------------------------------------- */

static scd_code failed(scd_job_db *db, int rc, const char *what, scd_error *err)
{
    int kind = rc & 0xff;
    scd_code code = kind == SQLITE_NOMEM ? SCD_E_NOMEM
                    : kind == SQLITE_CORRUPT || kind == SQLITE_NOTADB || kind == SQLITE_ERROR ||
                            kind == SQLITE_MISMATCH || kind == SQLITE_FORMAT
                        ? SCD_E_CORRUPT
                        : SCD_E_IO;
    return scd_fail(err, code, "jobs.db: %.40s: %s (sqlite %d)", what,
                    db->handle ? sqlite3_errmsg(db->handle) : sqlite3_errstr(rc), rc);
}

static scd_code execute(scd_job_db *db, const char *sql, scd_error *err)
{
    int rc = sqlite3_exec(db->handle, sql, NULL, NULL, NULL);
    return rc ? failed(db, rc, sql, err) : SCD_OK;
}

/* A statement with its values bound: 't' text (NULL: null), 'i' int64_t, 'b' pointer and size_t. */
static scd_code prepare(scd_job_db *db, sqlite3_stmt **out, const char *sql, scd_error *err,
                        const char *types, va_list values)
{
    int rc = sqlite3_prepare_v2(db->handle, sql, -1, out, NULL);
    for (int i = 1; *types && !rc; types++, i++)
        if (*types == 't') {
            rc = sqlite3_bind_text(*out, i, va_arg(values, const char *), -1, SQLITE_STATIC);
        } else if (*types == 'i') {
            rc = sqlite3_bind_int64(*out, i, va_arg(values, int64_t));
        } else {
            const void *bytes = va_arg(values, const void *);
            rc = sqlite3_bind_blob(*out, i, bytes, (int)va_arg(values, size_t), SQLITE_STATIC);
        }
    if (!rc)
        return SCD_OK;
    scd_code code = failed(db, rc, sql, err);
    sqlite3_finalize(*out);
    *out = NULL;
    return code;
}

/* Run to its end. */
static scd_code run(scd_job_db *db, scd_error *err, const char *sql, const char *types, ...)
{
    sqlite3_stmt *stmt = NULL;
    va_list values;
    va_start(values, types);
    scd_code code = prepare(db, &stmt, sql, err, types, values);
    va_end(values);
    if (code)
        return code;
    int rc;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW)
        ;
    if (rc != SQLITE_DONE)
        code = failed(db, rc, sql, err);
    sqlite3_finalize(stmt);
    return code;
}

/* `take` for every row, until one fails. */
static scd_code each(scd_job_db *db, scd_error *err,
                     scd_code (*take)(sqlite3_stmt *stmt, void *arg, scd_error *err), void *arg,
                     const char *sql, const char *types, ...)
{
    sqlite3_stmt *stmt = NULL;
    va_list values;
    va_start(values, types);
    scd_code code = prepare(db, &stmt, sql, err, types, values);
    va_end(values);
    if (code)
        return code;
    int rc;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW && !code)
        code = take(stmt, arg, err);
    if (!code && rc != SQLITE_DONE)
        code = failed(db, rc, sql, err);
    sqlite3_finalize(stmt);
    return code;
}

static scd_code take_number(sqlite3_stmt *stmt, void *arg, scd_error *err)
{
    (void)err;
    *(int64_t *)arg = sqlite3_column_int64(stmt, 0);
    return SCD_OK;
}

/* ---- opening -------------------------------------------------------------------------------- */

static scd_code migrate(scd_job_db *db, scd_error *err)
{
    int64_t version = 0, id = 0, n = 0;
    scd_code code = each(db, err, take_number, &version, "PRAGMA user_version", "");
    if (!code)
        code = each(db, err, take_number, &id, "PRAGMA application_id", "");
    if (!code)
        code = each(db, err, take_number, &n, "SELECT count(*) FROM sqlite_schema", "");
    if (code)
        return code;
    if ((n && id != APPLICATION_ID) || version < 0)
        return scd_fail(err, SCD_E_CORRUPT, "jobs.db: a database of some other program");
    if (version > SCHEMA)
        return scd_fail(err, SCD_E_CORRUPT,
                        "jobs.db: its schema %lld is newer than %d, the one known here: use the "
                        "newer program",
                        (long long)version, SCHEMA);
    for (; version < SCHEMA && !code; version++) {
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
    return code;
}

static scd_code check(sqlite3_stmt *stmt, void *arg, scd_error *err)
{
    (void)arg;
    const char *said = (const char *)sqlite3_column_text(stmt, 0);
    return said && !strcmp(said, "ok")
               ? SCD_OK
               : scd_fail(err, SCD_E_CORRUPT, "jobs.db: damaged: %.200s", said ? said : "");
}

scd_code scd_job_db_open(const char *path, scd_job_db **out, scd_error *err)
{
    *out = NULL;
    scd_job_db *db = scd_calloc(1, sizeof *db);
    if (!db)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the jobs");
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
    int rc = sqlite3_open_v2(
        path, &db->handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    scd_code code = rc ? failed(db, rc, path, err) : SCD_OK;
    if (!code) {
        sqlite3_extended_result_codes(db->handle, 1);
        sqlite3_busy_timeout(db->handle, BUSY_MS);
        sqlite3_db_config(db->handle, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
        code = execute(db,
                       "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;"
                       "PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY;"
                       "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;",
                       err);
    }
    if (!code)
        code = migrate(db, err);
    if (!code)
        code = each(db, err, check, NULL, "PRAGMA quick_check(1)", "");
    if (code)
        scd_job_db_close(db);
    else
        *out = db;
    return code;
}

void scd_job_db_close(scd_job_db *db)
{
    if (!db)
        return;
    sqlite3_close(db->handle);
    free(db);
}

scd_code scd_job_db_begin(scd_job_db *db, scd_error *err)
{
    return execute(db, "BEGIN IMMEDIATE", err);
}

scd_code scd_job_db_commit(scd_job_db *db, scd_error *err)
{
    return execute(db, "COMMIT", err);
}

void scd_job_db_rollback(scd_job_db *db)
{
    sqlite3_exec(db->handle, "ROLLBACK", NULL, NULL, NULL);
}

/* ---- jobs ----------------------------------------------------------------------------------- */

scd_code scd_job_db_save(scd_job_db *db, const scd_job_record *j, scd_error *err)
{
    scd_buf query;
    scd_buf_init(&query, QUERY_BYTES);
    scd_job_query_write(&j->query, &query);
    scd_code code =
        query.failed
            ? scd_fail(err, SCD_E_NOMEM, "out of memory for a job")
            : run(db, err,
                  "INSERT OR REPLACE INTO jobs VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,"
                  "?,?,?,?)",
                  "tiittttiiiiiittttt"
                  "iiiittti",
                  j->id, (int64_t)j->serial, (int64_t)j->version, j->owner, j->idempotency_key,
                  query.data ? query.data : "", scd_job_state_name(j->state), j->created_ms,
                  j->started_ms, j->finished_ms, (int64_t)j->upload_bytes,
                  (int64_t)j->upload_length, (int64_t)j->uploaded, j->input_sha256, j->model,
                  j->model_digest, j->head_digest, j->run_key, (int64_t)j->n_cells,
                  (int64_t)j->n_done, (int64_t)j->row_bytes, (int64_t)j->result_bytes,
                  j->result_sha256, j->detail, j->report, (int64_t)j->attempts);
    scd_buf_release(&query);
    return code;
}

scd_code scd_job_db_delete(scd_job_db *db, const char *id, scd_error *err)
{
    static const char *const gone[] = {"DELETE FROM jobs WHERE id = ?",
                                       "DELETE FROM deliveries WHERE job = ?",
                                       "DELETE FROM attempts WHERE job = ?"};
    scd_code code = scd_job_db_drop_chunks(db, id, err);
    for (size_t i = 0; i < sizeof gone / sizeof gone[0] && !code; i++)
        code = run(db, err, gone[i], "t", id);
    return code;
}

static bool copy_text(sqlite3_stmt *stmt, int column, char *out, size_t cap)
{
    const char *text = (const char *)sqlite3_column_text(stmt, column);
    size_t n = text ? strlen(text) : 0;
    if (n >= cap)
        return false;
    memcpy(out, text ? text : "", n + 1);
    return true;
}
#define COPY(column, field) copy_text(stmt, column, (field), sizeof(field))

typedef struct job_visit {
    scd_code (*fn)(void *arg, scd_job_record *job);
    void *arg;
} job_visit;

static scd_code take_job(sqlite3_stmt *stmt, void *arg, scd_error *err)
{
    job_visit *v = arg;
    scd_job_record j = {0};
    char state[16];
    const char *query = (const char *)sqlite3_column_text(stmt, 5);
    const char *report = (const char *)sqlite3_column_text(stmt, 24);
    bool ok = COPY(0, j.id) && COPY(3, j.owner) && COPY(4, j.idempotency_key) && query &&
              scd_job_query_read(&j.query, query) && COPY(6, state) &&
              scd_job_state_parse(state, &j.state) && COPY(13, j.input_sha256) &&
              COPY(14, j.model) && COPY(15, j.model_digest) && COPY(16, j.head_digest) &&
              COPY(17, j.run_key) && COPY(22, j.result_sha256) && COPY(23, j.detail);
    if (!ok)
        return scd_fail(err, SCD_E_CORRUPT, "jobs.db: job \"%.40s\" cannot be read",
                        (const char *)sqlite3_column_text(stmt, 0));
    uint64_t *const numbers[] = {&j.n_cells, &j.n_done, &j.row_bytes, &j.result_bytes};
    for (int i = 0; i < 4; i++)
        *numbers[i] = (uint64_t)sqlite3_column_int64(stmt, 18 + i);
    j.serial = (uint64_t)sqlite3_column_int64(stmt, 1);
    j.version = (uint64_t)sqlite3_column_int64(stmt, 2);
    j.created_ms = sqlite3_column_int64(stmt, 7);
    j.started_ms = sqlite3_column_int64(stmt, 8);
    j.finished_ms = sqlite3_column_int64(stmt, 9);
    j.upload_bytes = (uint64_t)sqlite3_column_int64(stmt, 10);
    j.upload_length = (uint64_t)sqlite3_column_int64(stmt, 11);
    j.attempts = (uint32_t)sqlite3_column_int64(stmt, 25);
    j.uploaded = sqlite3_column_int64(stmt, 12) != 0;
    if (report && !(j.report = scd_strdup(report)))
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the jobs");
    return v->fn(v->arg, &j);
}

scd_code scd_job_db_each(scd_job_db *db, scd_code (*fn)(void *arg, scd_job_record *job), void *arg,
                         scd_error *err)
{
    job_visit v = {fn, arg};
    return each(db, err, take_job, &v, "SELECT * FROM jobs ORDER BY serial", "");
}

/* ---- chunks --------------------------------------------------------------------------------- */

scd_code scd_job_db_add_chunk(scd_job_db *db, const char *id, uint64_t first, uint64_t n,
                              const scd_digest *digest, scd_error *err)
{
    return run(db, err, "INSERT OR REPLACE INTO chunks VALUES(?,?,?,?)", "tiib", id, (int64_t)first,
               (int64_t)n, digest->bytes, sizeof digest->bytes);
}

scd_code scd_job_db_drop_chunks(scd_job_db *db, const char *id, scd_error *err)
{
    return run(db, err, "DELETE FROM chunks WHERE job = ?", "t", id);
}

typedef struct chunk_visit {
    scd_code (*fn)(void *arg, uint64_t first, uint64_t n, const scd_digest *digest);
    void *arg;
} chunk_visit;

static scd_code take_chunk(sqlite3_stmt *stmt, void *arg, scd_error *err)
{
    chunk_visit *v = arg;
    scd_digest digest;
    if (sqlite3_column_bytes(stmt, 2) != (int)sizeof digest.bytes)
        return scd_fail(err, SCD_E_CORRUPT, "jobs.db: a chunk without its digest");
    memcpy(digest.bytes, sqlite3_column_blob(stmt, 2), sizeof digest.bytes);
    return v->fn(v->arg, (uint64_t)sqlite3_column_int64(stmt, 0),
                 (uint64_t)sqlite3_column_int64(stmt, 1), &digest);
}

scd_code scd_job_db_each_chunk(scd_job_db *db, const char *id,
                               scd_code (*fn)(void *arg, uint64_t first, uint64_t n,
                                              const scd_digest *digest),
                               void *arg, scd_error *err)
{
    chunk_visit v = {fn, arg};
    return each(db, err, take_chunk, &v,
                "SELECT first, n, digest FROM chunks WHERE job = ? ORDER BY first", "t", id);
}

/* ---- the audit's lines, and notes ----------------------------------------------------------- */

scd_code scd_job_db_add_line(scd_job_db *db, uint64_t seq, const char *line, scd_error *err)
{
    return run(db, err, "INSERT INTO lines VALUES(?,?)", "it", (int64_t)seq, line);
}

scd_code scd_job_db_drop_lines(scd_job_db *db, uint64_t up_to, scd_error *err)
{
    return run(db, err, "DELETE FROM lines WHERE seq <= ?", "i", (int64_t)up_to);
}

typedef struct line_visit {
    scd_code (*fn)(void *arg, uint64_t seq, const char *line);
    void *arg;
} line_visit;

static scd_code take_line(sqlite3_stmt *stmt, void *arg, scd_error *err)
{
    line_visit *v = arg;
    const char *line = (const char *)sqlite3_column_text(stmt, 1);
    return line ? v->fn(v->arg, (uint64_t)sqlite3_column_int64(stmt, 0), line)
                : scd_fail(err, SCD_E_CORRUPT, "jobs.db: an empty line");
}

scd_code scd_job_db_each_line(scd_job_db *db,
                              scd_code (*fn)(void *arg, uint64_t seq, const char *line), void *arg,
                              scd_error *err)
{
    line_visit v = {fn, arg};
    return each(db, err, take_line, &v, "SELECT seq, line FROM lines ORDER BY seq", "");
}

scd_code scd_job_db_set_meta(scd_job_db *db, const char *name, const char *value, scd_error *err)
{
    return run(db, err, "INSERT OR REPLACE INTO meta VALUES(?,?)", "tt", name, value);
}

typedef struct note {
    char *out;
    size_t cap;
} note;

static scd_code take_note(sqlite3_stmt *stmt, void *arg, scd_error *err)
{
    note *n = arg;
    return copy_text(stmt, 0, n->out, n->cap)
               ? SCD_OK
               : scd_fail(err, SCD_E_CORRUPT, "jobs.db: a note that is too long");
}

scd_code scd_job_db_get_meta(scd_job_db *db, const char *name, char *out, size_t cap,
                             scd_error *err)
{
    note n = {out, cap};
    *out = '\0';
    return each(db, err, take_note, &n, "SELECT value FROM meta WHERE name = ?", "t", name);
}

/* ---- webhooks ------------------------------------------------------------------------------- */

scd_code scd_job_db_save_delivery(scd_job_db *db, const scd_delivery *d, scd_error *err)
{
    if (!d->row)
        return run(db, err, "INSERT INTO deliveries VALUES(NULL,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                   "tttttiiiiiiit", d->id, d->job, d->owner, d->url, d->payload,
                   (int64_t)d->attempts, (int64_t)d->status, (int64_t)d->done, (int64_t)d->given_up,
                   d->created_ms, d->next_ms, d->last_ms, d->why);
    return run(db, err,
               "UPDATE deliveries SET attempts=?, status=?, done=?, given_up=?, next=?, last=?, "
               "why=? WHERE row=?",
               "iiiiiiti", (int64_t)d->attempts, (int64_t)d->status, (int64_t)d->done,
               (int64_t)d->given_up, d->next_ms, d->last_ms, d->why, d->row);
}

typedef struct delivery_visit {
    scd_code (*fn)(void *arg, scd_delivery *d);
    void *arg;
} delivery_visit;

static scd_code take_delivery(sqlite3_stmt *stmt, void *arg, scd_error *err)
{
    delivery_visit *v = arg;
    scd_delivery d = {.row = sqlite3_column_int64(stmt, 0)};
    const char *payload = (const char *)sqlite3_column_text(stmt, 5);
    if (!COPY(1, d.id) || !COPY(2, d.job) || !COPY(3, d.owner) || !COPY(4, d.url) ||
        !COPY(13, d.why) || !payload)
        return scd_fail(err, SCD_E_CORRUPT, "jobs.db: a webhook that cannot be read");
    d.attempts = sqlite3_column_int(stmt, 6);
    d.status = sqlite3_column_int(stmt, 7);
    d.done = sqlite3_column_int(stmt, 8) != 0;
    d.given_up = sqlite3_column_int(stmt, 9) != 0;
    d.created_ms = sqlite3_column_int64(stmt, 10);
    d.next_ms = sqlite3_column_int64(stmt, 11);
    d.last_ms = sqlite3_column_int64(stmt, 12);
    if (!(d.payload = scd_strdup(payload)))
        return scd_fail(err, SCD_E_NOMEM, "out of memory for a webhook");
    return v->fn(v->arg, &d);
}

scd_code scd_job_db_each_delivery(scd_job_db *db, const char *job,
                                  scd_code (*fn)(void *arg, scd_delivery *d), void *arg,
                                  scd_error *err)
{
    delivery_visit v = {fn, arg};
    return job ? each(db, err, take_delivery, &v,
                      "SELECT * FROM deliveries WHERE job = ? ORDER BY row", "t", job)
               : each(db, err, take_delivery, &v,
                      "SELECT * FROM deliveries WHERE NOT done AND NOT given_up ORDER BY next", "");
}

scd_code scd_job_db_add_attempt(scd_job_db *db, const scd_delivery *d, scd_error *err)
{
    return run(db, err, "INSERT INTO attempts VALUES(?,?,?,?,?)", "ttiit", d->job, d->id,
               d->last_ms, (int64_t)d->status, d->why);
}

static scd_code take_attempt(sqlite3_stmt *stmt, void *arg, scd_error *err)
{
    scd_buf *out = arg;
    const char *id = (const char *)sqlite3_column_text(stmt, 0);
    const char *why = (const char *)sqlite3_column_text(stmt, 3);
    (void)err;
    scd_buf_puts(out, out->data[out->n_bytes - 1] == '[' ? "{\"id\":" : ",{\"id\":");
    scd_json_text(out, id ? id : "");
    scd_job_write_time(out, "time", sqlite3_column_int64(stmt, 1));
    scd_buf_printf(out, ",\"status\":%d,\"detail\":", sqlite3_column_int(stmt, 2));
    scd_json_text(out, why ? why : "");
    scd_buf_putc(out, '}');
    return SCD_OK;
}

scd_code scd_job_db_write_attempts(scd_job_db *db, const char *job, scd_buf *out, scd_error *err)
{
    scd_buf_putc(out, '[');
    scd_code code =
        each(db, err, take_attempt, out,
             "SELECT id, time, status, why FROM attempts WHERE job = ? ORDER BY rowid", "t", job);
    scd_buf_putc(out, ']');
    return code;
}
