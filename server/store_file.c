/* store_file.c - see store_file.h. */
#include "server/store_file.h"

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIRST_PAUSE_NS (250 * SCD_NS_PER_MS)
#define LAST_PAUSE_NS (60 * SCD_NS_PER_S)
#define STEP_NS (20 * SCD_NS_PER_MS)      /* of eviction, between two commits */
#define NOTE_NS (60 * SCD_NS_PER_S)       /* between two log lines of one kind */
#define RECHECK_NS (60 * SCD_NS_PER_S)    /* between two checks */
#define READERS_NS (2 * SCD_NS_PER_S)     /* waiting for readers before files are moved */
#define REBUILD_NS (10 * SCD_NS_PER_S)    /* two rebuilds within this: pause first */
#define CHECK_BYTES (UINT64_C(256) << 20) /* larger files are checked after a crash only */

enum { EVICT_ROWS = 128, SHRINK_PAGES = 64 };

typedef enum note_kind { NOTE_OPEN, NOTE_WRITE, NOTE_SUSPICION, N_NOTES } note_kind;

struct scd_store_file {
    char *path, *lock_path;
    int lock_fd;
    size_t max_bytes;
    scd_readers *readers;
    void (*log)(void *arg, int level, const char *message);
    void *log_arg;
    int64_t noted_ns[N_NOTES]; /* 0: not yet */

    scd_db *db; /* NULL: no disk tier now */
    scd_file_status status;
    uint64_t base_entries;  /* counted when the file was opened */
    uint64_t settled_bytes; /* used after the last step; UINT64_MAX: there was none */
    bool counted, evicting;
    int64_t pause_ns, check_ns, rebuilt_ns;

    scd_gate gate; /* for what interrupt needs */
    bool has_gate, closing;
    scd_db_reader *checker;
};

__attribute__((format(printf, 3, 4))) static void say(scd_store_file *f, scd_log_level level,
                                                      const char *fmt, ...)
{
    char text[1024];
    if (!f->log)
        return;
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    f->log(f->log_arg, (int)level, text);
}

/* True at most once a minute for each kind. */
static bool may_note(scd_store_file *f, note_kind kind)
{
    int64_t now = scd_now_ns();
    if (f->noted_ns[kind] && now - f->noted_ns[kind] < NOTE_NS)
        return false;
    f->noted_ns[kind] = now;
    return true;
}

/* The disk tier cannot be used: leave it alone for a while. */
static void pause_writing(scd_store_file *f, note_kind kind, const scd_error *err)
{
    f->pause_ns = f->pause_ns ? 2 * f->pause_ns : FIRST_PAUSE_NS;
    if (f->pause_ns > LAST_PAUSE_NS)
        f->pause_ns = LAST_PAUSE_NS;
    f->status.quiet_until_ns = scd_now_ns() + f->pause_ns;
    if (may_note(f, kind))
        say(f, SCD_LOG_WARN, "cache on disk not usable now, results stay in memory: %s",
            err->message);
}

static scd_code take_lock(scd_store_file *f, scd_error *err)
{
    if (f->lock_fd >= 0)
        return SCD_OK;
    int fd = open(f->lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return scd_fail(err, SCD_E_IO, "%s: %s", f->lock_path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB)) {
        int why = errno;
        close(fd);
        if (why == EWOULDBLOCK)
            return scd_fail(err, SCD_E_BUSY,
                            "%s is held by another process: give each daemon a "
                            "data directory of its own",
                            f->lock_path);
        return scd_fail(err, SCD_E_IO, "%s: %s", f->lock_path, strerror(why));
    }
    f->lock_fd = fd;
    return SCD_OK;
}

static scd_code move_aside(scd_store_file *f, const char *why, scd_error *err)
{
    scd_code code = scd_db_move_aside(f->path, err);
    if (code)
        return code;
    f->status.rebuilds++;
    f->rebuilt_ns = scd_now_ns();
    say(f, SCD_LOG_WARN, "cache moved aside to %s.damaged and begun anew: %s", f->path, why);
    return SCD_OK;
}

/* Bytes in the log before anybody opens it: after a clean end there are none. */
static bool log_is_left(const char *path)
{
    char wal[4096];
    struct stat st;
    snprintf(wal, sizeof wal, "%s-wal", path);
    return !stat(wal, &st) && st.st_size > 0;
}

static scd_code attach(scd_store_file *f, scd_error *err)
{
    scd_code code = take_lock(f, err);
    if (code)
        return code;
    bool unclean = log_is_left(f->path);
    code = scd_db_open(f->path, &f->db, err);
    if (code == SCD_E_CORRUPT) {
        scd_error why = *err;
        code = move_aside(f, why.message, err);
        if (!code)
            code = scd_db_open(f->path, &f->db, err);
    }
    scd_db_usage usage = {0};
    if (!code && (code = scd_db_get_usage(f->db, &usage, err))) {
        scd_db_close(f->db, false);
        f->db = NULL;
    }
    if (code)
        return code;
    f->counted = f->evicting = false;
    f->settled_bytes = UINT64_MAX;
    f->base_entries = 0;
    f->status.bytes = usage.used_bytes;
    f->status.quiet_until_ns = 0;
    bool check = unclean || usage.file_bytes <= CHECK_BYTES;
    f->check_ns = check ? scd_now_ns() : SCD_NEVER;
    scd_readers_open_all(f->readers);
    return SCD_OK;
}

static void detach(scd_store_file *f, bool leave)
{
    scd_readers_close_all(f->readers, scd_now_ns() + READERS_NS);
    scd_db_close(f->db, leave);
    f->db = NULL;
    f->status.entries = f->status.bytes = 0;
}

static void rebuild(scd_store_file *f, const char *why)
{
    scd_error err;
    bool again = f->rebuilt_ns && scd_now_ns() - f->rebuilt_ns < REBUILD_NS;
    detach(f, true);
    scd_code code = move_aside(f, why, &err);
    if (!code && again)
        code = scd_fail(&err, SCD_E_IO, "damaged twice within seconds");
    if (!code)
        code = attach(f, &err);
    if (code)
        pause_writing(f, NOTE_OPEN, &err);
}

/* What a failed operation on the attached file means. */
static void handle_failure(scd_store_file *f, scd_code code, const scd_error *err)
{
    if (code == SCD_E_CORRUPT)
        rebuild(f, err->message);
    else
        pause_writing(f, NOTE_WRITE, err);
}

static scd_code make_dirs(const char *dir, scd_error *err)
{
    char path[4096];
    size_t n = strlen(dir);
    if (!n || n >= sizeof path - 64) /* room for the names of the files */
        return scd_fail(err, SCD_E_IO, "data directory: its name must have 1 to %zu bytes",
                        sizeof path - 65);
    memcpy(path, dir, n + 1);
    for (char *at = path + 1;; at++) {
        if (*at && *at != '/')
            continue;
        char kept = *at;
        *at = '\0';
        if (mkdir(path, 0700) && errno != EEXIST) {
            int why = errno;
            struct stat st; /* a parent may be there although we may not make it */
            if (stat(path, &st) || !S_ISDIR(st.st_mode))
                return scd_fail(err, SCD_E_IO, "data directory %s: cannot make %s: %s", dir, path,
                                strerror(why));
        }
        if (!(*at = kept))
            break;
    }
    struct stat st;
    if (stat(dir, &st) || !S_ISDIR(st.st_mode))
        return scd_fail(err, SCD_E_IO, "data directory %s: not a directory", dir);
    return SCD_OK;
}

char *scd_store_file_path(const char *dir)
{
    size_t n = strlen(dir);
    static const char name[] = "/cache.db";
    char *path = scd_malloc(n + sizeof name, 1);
    if (path) {
        memcpy(path, dir, n);
        memcpy(path + n, name, sizeof name);
    }
    return path;
}

scd_code scd_store_file_open(const scd_file_options *options, scd_store_file **out, scd_error *err)
{
    *out = NULL;
    scd_error why;
    scd_code code = make_dirs(options->dir, err);
    if (code)
        return code;
    scd_store_file *f = scd_calloc(1, sizeof *f);
    if (!f)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the cache");
    f->lock_fd = -1;
    f->max_bytes = options->max_bytes;
    f->readers = options->readers;
    f->log = options->log;
    f->log_arg = options->log_arg;
    f->check_ns = SCD_NEVER;
    f->path = scd_store_file_path(options->dir);
    if (f->path && (f->lock_path = scd_malloc(strlen(f->path) + sizeof ".lock", 1)))
        strcat(strcpy(f->lock_path, f->path), ".lock");
    if (!f->lock_path)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for the cache");
    if (!code && !(code = scd_gate_init(&f->gate, err)))
        f->has_gate = true;
    if (code)
        goto done;

    scd_code attached = attach(f, &why);
    if (attached == SCD_E_NOMEM) {
        code = scd_fail(err, SCD_E_NOMEM, "%s", why.message);
        goto done;
    }
    if (attached)
        pause_writing(f, NOTE_OPEN, &why);
    *out = f;
    f = NULL;
done:
    scd_store_file_close(f);
    return code;
}

void scd_store_file_close(scd_store_file *f)
{
    if (!f)
        return;
    if (f->db)
        detach(f, false);
    if (f->has_gate)
        scd_gate_release(&f->gate);
    if (f->lock_fd >= 0)
        close(f->lock_fd); /* the file stays: removing it would race with the next one's lock */
    free(f->lock_path);
    free(f->path);
    free(f);
}

static scd_code write_batch(scd_store_file *f, const scd_batch *batch, scd_error *err)
{
    scd_code code = scd_db_begin(f->db, err);
    for (size_t i = 0; !code && i < batch->n_bad; i++)
        code = scd_db_delete(f->db, &batch->bad[i], err);
    for (const scd_cached *e = batch->first; !code && e; e = e->next_queued)
        code = scd_db_put(f->db, &e->key, e->bytes, e->n_bytes, e->last_used_ms, err);
    for (size_t i = 0; !code && i < batch->n_touches; i++)
        code = scd_db_touch(f->db, &batch->touches[i].key, batch->touches[i].now_ms, err);
    if (!code)
        code = scd_db_commit(f->db, err);
    if (code)
        scd_db_rollback(f->db);
    return code;
}

static void attach_again(scd_store_file *f)
{
    scd_error err;
    if (scd_now_ns() < f->status.quiet_until_ns)
        return;
    if (attach(f, &err))
        pause_writing(f, NOTE_OPEN, &err);
    else
        say(f, SCD_LOG_INFO, "cache on disk is usable again");
}

bool scd_store_file_write(scd_store_file *f, const scd_batch *batch)
{
    scd_error err;
    scd_code code = SCD_E_IO;
    if (!batch->first && !batch->n_touches && !batch->n_bad)
        return true;
    if (!f->db)
        attach_again(f);
    if (f->db) {
        code = write_batch(f, batch, &err);
        if (code)
            handle_failure(f, code, &err);
        if (code == SCD_E_CORRUPT && f->db) /* the new file has not seen this group */
            code = write_batch(f, batch, &err);
    }
    if (code) {
        f->status.write_errors++;
        return false;
    }
    f->pause_ns = 0;
    f->status.quiet_until_ns = 0;
    return true;
}

void scd_store_file_report_damage(scd_store_file *f, uint64_t generation)
{
    if (f->db && generation == scd_readers_generation(f->readers))
        rebuild(f, "a reader found it damaged or gone");
}

void scd_store_file_report_suspicion(scd_store_file *f)
{
    int64_t soon = scd_now_ns();
    if (f->noted_ns[NOTE_SUSPICION] && soon - f->noted_ns[NOTE_SUSPICION] < RECHECK_NS)
        soon = f->noted_ns[NOTE_SUSPICION] + RECHECK_NS;
    if (soon < f->check_ns)
        f->check_ns = soon;
    if (may_note(f, NOTE_SUSPICION))
        say(f, SCD_LOG_WARN,
            "%s has entries with a wrong checksum or that cannot be read: they are not served, and "
            "the file is going to be checked",
            f->path);
}

/* Down to 90 % of the bound, for a few milliseconds at a time, and at least down to where the last
 * step ended: on the slowest disk the file is over its bound by one group, not by one more each
 * time. */
static scd_code evict(scd_store_file *f, scd_db_usage *usage, scd_error *err)
{
    int64_t stop_ns = scd_now_ns() + STEP_NS;
    uint64_t enough = f->settled_bytes > f->max_bytes ? f->settled_bytes : f->max_bytes;
    scd_code code = SCD_OK;
    while (f->evicting && !code && (scd_now_ns() < stop_ns || usage->used_bytes > enough)) {
        size_t n = 0;
        code = scd_db_evict(f->db, EVICT_ROWS, &n, err);
        f->status.evicted += n;
        if (!code)
            code = scd_db_get_usage(f->db, usage, err);
        if (!n || usage->used_bytes <= f->max_bytes / 10 * 9)
            f->evicting = false;
    }
    return code;
}

static scd_code keep_size(scd_store_file *f, scd_error *err)
{
    scd_db_usage usage = {0};
    scd_code code = scd_db_get_usage(f->db, &usage, err);
    if (!code && usage.used_bytes > f->max_bytes)
        f->evicting = true;
    if (!code && f->evicting)
        code = evict(f, &usage, err);
    bool shrinks = usage.file_bytes > f->max_bytes && usage.file_bytes > usage.used_bytes;
    if (!code && !f->evicting && shrinks) {
        uint64_t before = usage.file_bytes;
        code = scd_db_shrink(f->db, SHRINK_PAGES, err);
        if (!code)
            code = scd_db_get_usage(f->db, &usage, err);
        if (usage.file_bytes >= before) /* a file without auto_vacuum: its free pages are reused */
            shrinks = false;
        bool small = usage.file_bytes <= f->max_bytes || usage.file_bytes == usage.used_bytes;
        if (!code && (small || !shrinks)) /* until the log is written back the file is long */
            code = scd_db_checkpoint(f->db, err);
        shrinks = shrinks && !small;
    }
    f->status.next_step_ns = f->evicting || (shrinks && !code) ? scd_now_ns() : SCD_NEVER;
    f->status.bytes = usage.used_bytes;
    if (!code)
        f->settled_bytes = usage.used_bytes;
    return code;
}

static void check(scd_store_file *f)
{
    scd_error err;
    scd_db_reader *reader = NULL;
    scd_db_result opened = scd_db_reader_open(f->path, &reader);
    if (opened == SCD_DB_DAMAGED) {
        rebuild(f, "not readable");
        return;
    }
    f->check_ns = SCD_NEVER;
    if (!reader || scd_db_reader_prepare_check(reader, &err))
        goto done;
    scd_gate_lock(&f->gate);
    f->checker = reader;
    bool closing = f->closing;
    scd_gate_unlock(&f->gate);
    scd_code code = closing ? SCD_OK : scd_db_reader_check(reader, &err);
    scd_gate_lock(&f->gate);
    f->checker = NULL;
    scd_gate_unlock(&f->gate);
    if (code == SCD_E_CORRUPT) {
        scd_db_reader_close(reader);
        rebuild(f, err.message);
        return;
    }
    if (code)
        f->check_ns = scd_now_ns() + RECHECK_NS;
done:
    scd_db_reader_close(reader);
}

void scd_store_file_step(scd_store_file *f, bool idle)
{
    scd_error err;
    int64_t now = scd_now_ns();
    scd_code code = SCD_OK;
    f->status.next_step_ns = SCD_NEVER;
    if (!f->db)
        attach_again(f);
    if (f->db && now >= f->status.quiet_until_ns) {
        f->status.quiet_until_ns = 0; /* the next group tries it */
        if (!f->counted && !(code = scd_db_count(f->db, &f->base_entries, &err))) {
            f->counted = true;
            f->base_entries -= (uint64_t)scd_db_entries_added(f->db);
        }
        if (!code)
            code = keep_size(f, &err);
        if (code)
            handle_failure(f, code, &err);
    }
    if (f->db && idle && scd_now_ns() >= f->check_ns)
        check(f);
    if (f->db)
        f->status.entries = f->base_entries + (uint64_t)scd_db_entries_added(f->db);
    if (f->db && f->check_ns < f->status.next_step_ns)
        f->status.next_step_ns = f->check_ns;
    if (f->status.quiet_until_ns && (!f->db || f->status.next_step_ns < f->status.quiet_until_ns))
        f->status.next_step_ns = f->status.quiet_until_ns;
}

void scd_store_file_interrupt(scd_store_file *f, bool for_good)
{
    scd_gate_lock(&f->gate);
    f->closing = f->closing || for_good;
    if (f->checker)
        scd_db_reader_interrupt(f->checker); /* sets a flag; the gate keeps the reader open */
    scd_gate_unlock(&f->gate);
}

void scd_store_file_get_status(const scd_store_file *f, scd_file_status *out)
{
    *out = f->status;
}
