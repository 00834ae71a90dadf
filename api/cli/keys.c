/* keys.c - scdiva keys: the file of a daemon's API keys (api/auth.h): a new one, those there are,
 * one that is to work no more.
 *
 * The file is written anew beside itself and takes its place, so that whoever reads it reads all of
 * the old or all of the new one. A token is shown once; only its SHA-256 is kept. */
#include "api/auth.h"
#include "api/cli/cli.h"
#include "api/json_write.h"
#include "engine/base/fd.h"
#include "engine/base/hash.h"
#include "engine/base/mem.h"
#include "engine/model/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OUT_BYTES = 1 << 24, TOKEN_BYTES = 32, TOKEN_TEXT = 64, PATH_BYTES = 4096 };

typedef struct keys_options {
    const char *keys;
    bool json;
} keys_options;

size_t cli_keys_options(const cli_verb *verb, void *into, cli_option *t)
{
    keys_options *o = into;
    (void)verb;
    const cli_option all[] = {
        {"keys", 0, CLI_TEXT, &o->keys, "FILE", "the daemon's --keys ($SCDIVA_KEYS)", 0, 0, 0, 0},
        {"json", 0, CLI_FLAG, &o->json, NULL, "as JSON", 0, 0, 0, 0},
    };
    memcpy(t, all, sizeof all);
    return sizeof all / sizeof all[0];
}

/* ---- the file ---- */

/* All of it; "" where there is none. free() it. */
static scd_code read_text(const char *path, char **out, size_t *n, mode_t *mode, scd_error *err)
{
    struct stat st;
    int fd = -1;
    *mode = 0600;
    *n = 0;
    if (stat(path, &st) && errno == ENOENT) {
        *out = scd_strdup("");
        return *out ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "out of memory");
    }
    scd_code code = scd_file_open(path, &fd, n, err);
    if (!code)
        code = scd_file_read(fd, path, SCD_AUTH_MAX_FILE, out, n, err);
    if (!code)
        *mode = st.st_mode & 0777;
    if (fd >= 0)
        close(fd);
    return code;
}

/* The file as it is to be: refused where the daemon would not read it. */
static scd_code write_text(const char *path, const char *text, size_t n, mode_t mode, bool is_empty,
                           scd_error *err)
{
    char beside[PATH_BYTES];
    scd_auth *auth = NULL;
    if (snprintf(beside, sizeof beside, "%s.new", path) >= (int)sizeof beside)
        return scd_fail(err, SCD_E_INVALID, "%s: the path is too long", path);
    int fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EEXIST)
        return scd_fail(err, SCD_E_BUSY,
                        "%s is there: another scdiva keys is at work; where none is, remove it",
                        beside);
    if (fd < 0)
        return scd_fail(err, SCD_E_IO, "%s: %s", beside, strerror(errno));
    bool ok = scd_write_all(fd, text, n) && !fchmod(fd, mode) && !fsync(fd);
    int failed = errno;
    close(fd);
    scd_code code = ok ? SCD_OK : scd_fail(err, SCD_E_IO, "%s: %s", beside, strerror(failed));
    if (!code && !is_empty)
        code = scd_auth_open(beside, &auth, err);
    scd_auth_close(auth);
    if (!code && rename(beside, path))
        code = scd_fail(err, SCD_E_IO, "%s: %s", path, strerror(errno));
    if (code)
        unlink(beside);
    return code;
}

/* Is the line that key's: "<hash> NAME"? */
static bool is_line_of(const char *line, size_t n, const char *name)
{
    static const char blanks[] = " \t\r\n";
    size_t n_name = strlen(name);
    while (n && strchr(blanks, line[n - 1]))
        n--;
    return n > n_name && *line != '#' && strchr(blanks, line[n - n_name - 1]) &&
           memcmp(line + n - n_name, name, n_name) == 0;
}

/* The next line of text (n), with its end; false: there is none. */
static bool next_line(const char *text, size_t n, size_t *at, const char **line, size_t *length)
{
    if (*at >= n)
        return false;
    const char *end = memchr(text + *at, '\n', n - *at);
    *line = text + *at;
    *length = end ? (size_t)(end + 1 - *line) : n - *at;
    *at += *length;
    return true;
}

static bool has_key(const char *text, size_t n, const char *name)
{
    const char *line;
    size_t at = 0, length;
    while (next_line(text, n, &at, &line, &length))
        if (is_line_of(line, length, name))
            return true;
    return false;
}

/* ---- what can be done ---- */

static bool make_token(char token[TOKEN_TEXT])
{
    static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    unsigned char bytes[TOKEN_BYTES];
    size_t n = 0;
    memcpy(token, "scd_", 4);
    while (n < TOKEN_BYTES + 11) { /* 43 of 62 signs: 256 bits */
        if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes)
            return false;
        for (size_t i = 0; i < sizeof bytes && n < TOKEN_BYTES + 11; i++)
            if (bytes[i] < 248) /* as often each sign */
                token[4 + n++] = digits[bytes[i] % 62];
    }
    token[4 + n] = '\0';
    return true;
}

static int make(const keys_options *o, const char *name)
{
    char token[TOKEN_TEXT], hex[SCD_DIGEST_HEX], *text = NULL;
    scd_error err = {0};
    scd_buf out;
    size_t n;
    mode_t mode;
    if (!make_token(token)) {
        scd_fail(&err, SCD_E_IO, "no random numbers: %s", strerror(errno));
        return cli_fail(&err, o->json);
    }
    scd_digest digest = scd_digest_of(token, strlen(token));
    scd_digest_hex(&digest, hex);
    scd_buf_init(&out, SCD_AUTH_MAX_FILE + SCD_AUTH_MAX_NAME + SCD_DIGEST_HEX + 16);
    scd_code code = scd_auth_is_name(name)
                        ? read_text(o->keys, &text, &n, &mode, &err)
                        : scd_fail(&err, SCD_E_INVALID,
                                   "\"%.80s\": a name has 1 to %d printable ASCII "
                                   "characters, no blanks, quotes, backslashes",
                                   name, (int)SCD_AUTH_MAX_NAME);
    if (!code && has_key(text, n, name))
        code = scd_fail(&err, SCD_E_INVALID, "%s: there is a key \"%s\" already", o->keys, name);
    if (!code) {
        scd_buf_append(&out, text, n);
        if (n && text[n - 1] != '\n')
            scd_buf_putc(&out, '\n');
        scd_buf_printf(&out, "%s %s\n", hex, name);
        code = out.failed ? scd_fail(&err, SCD_E_TOO_LARGE, "%s: has no room for more", o->keys)
                          : write_text(o->keys, out.data, out.n_bytes, mode, false, &err);
    }
    free(text);
    scd_buf_release(&out);
    if (code)
        return cli_fail(&err, o->json);
    scd_buf_init(&out, OUT_BYTES);
    if (o->json) {
        scd_buf_puts(&out, "{\"name\":");
        scd_json_text(&out, name);
        scd_buf_printf(&out, ",\"token\":\"%s\",\"sha256\":\"%s\"}\n", token, hex);
    } else {
        fprintf(stderr,
                "the token of \"%s\", shown this once; a daemon takes it when it reads the file "
                "again (SIGHUP, or a start):\n",
                name);
        scd_buf_printf(&out, "%s\n", token);
    }
    return cli_print(&out, CLI_OK);
}

static int list(const keys_options *o)
{
    scd_auth *auth = NULL;
    scd_error err = {0};
    scd_buf out;
    if (scd_auth_open(o->keys, &auth, &err))
        return cli_fail(&err, o->json);
    if (scd_auth_warning(auth))
        fprintf(stderr, "warning: %s\n", scd_auth_warning(auth));
    scd_buf_init(&out, OUT_BYTES);
    scd_buf_puts(&out, o->json ? "{\"data\":[" : "");
    for (size_t i = 0; i < scd_auth_count(auth); i++) {
        char hex[SCD_DIGEST_HEX];
        scd_digest_hex(scd_auth_digest(auth, i), hex);
        if (o->json) {
            scd_buf_puts(&out, i ? ",{\"name\":" : "{\"name\":");
            scd_json_text(&out, scd_auth_name(auth, i));
            scd_buf_printf(&out, ",\"sha256\":\"%s\"}", hex);
        } else {
            scd_buf_printf(&out, "%.12s  %s\n", hex, scd_auth_name(auth, i));
        }
    }
    scd_buf_puts(&out, o->json ? "]}\n" : "");
    scd_auth_close(auth);
    return cli_print(&out, CLI_OK);
}

/* Every other line stays as it is. */
static scd_code remove_lines(const char *text, size_t n, const char *name, scd_buf *out,
                             size_t *n_removed)
{
    const char *line;
    size_t at = 0, length;
    while (next_line(text, n, &at, &line, &length))
        if (is_line_of(line, length, name))
            ++*n_removed;
        else
            scd_buf_append(out, line, length);
    return out->failed ? SCD_E_NOMEM : SCD_OK;
}

static int take_away(const keys_options *o, const char *name)
{
    char *text = NULL;
    scd_error err = {0};
    scd_auth *auth = NULL;
    scd_buf out;
    size_t n = 0, n_removed = 0, n_keys = 0;
    mode_t mode;
    scd_buf_init(&out, SCD_AUTH_MAX_FILE + 1);
    scd_code code = scd_auth_open(o->keys, &auth, &err);
    if (!code)
        code = read_text(o->keys, &text, &n, &mode, &err);
    if (!code) {
        n_keys = scd_auth_count(auth);
        code = remove_lines(text, n, name, &out, &n_removed);
        if (code)
            scd_fail(&err, code, "out of memory");
    }
    if (!code && !n_removed)
        code = scd_fail(&err, SCD_E_NOT_FOUND, "%s: there is no key \"%.80s\"", o->keys, name);
    if (!code)
        code = write_text(o->keys, out.data ? out.data : "", out.n_bytes, mode, n_keys == n_removed,
                          &err);
    scd_auth_close(auth);
    scd_buf_release(&out);
    free(text);
    if (code)
        return cli_fail(&err, o->json);
    scd_buf_init(&out, OUT_BYTES);
    if (o->json) {
        scd_buf_puts(&out, "{\"name\":");
        scd_json_text(&out, name);
        scd_buf_puts(&out, ",\"revoked\":true}\n");
    } else {
        scd_buf_printf(&out,
                       "\"%s\" is revoked: a daemon refuses it once it has read the file again "
                       "(SIGHUP, or a start)%s\n",
                       name,
                       n_keys == n_removed ? ", but does not start with a file without a key" : "");
    }
    return cli_print(&out, CLI_OK);
}

int cli_keys(const cli_verb *verb, int argc, char **argv)
{
    static const char *const names[] = {"make", "list", "revoke"};
    keys_options o = {0};
    cli_option table[CLI_MAX_OPTIONS];
    const char *name = NULL;
    cli_verb part;
    int which = cli_part(verb, argc, argv, names, 3, &part);
    if (which == CLI_PART_NONE)
        return CLI_USAGE;
    part.input = which == 0 || which == 2 ? "NAME" : NULL;
    int skip = which == CLI_PART_HELP ? 0 : 1;
    int status = cli_args_read(which == CLI_PART_HELP ? verb : &part, table,
                               cli_keys_options(verb, &o, table), argc - skip, argv + skip, &name);
    if (status)
        return status < 0 ? CLI_OK : status;
    o.keys = o.keys ? o.keys : getenv("SCDIVA_KEYS");
    if (!o.keys)
        return cli_usage(&part, "--keys FILE is missing");
    return which == 0 ? make(&o, name) : which == 1 ? list(&o) : take_away(&o, name);
}
