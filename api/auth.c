/* auth.c - see auth.h.
 *
 * The token is hashed and the hash compared with every entry without an early way out, so that the
 * time of an answer tells nothing about which entry was near. */
#include "api/auth.h"

#include "engine/base/hash.h"
#include "engine/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct key {
    scd_digest token;
    char name[SCD_AUTH_MAX_NAME + 1];
} key;

struct scd_auth {
    key *keys;
    size_t n_keys, cap_keys;
    char warning[256]; /* empty: none */
};

/* The whole file, NUL-terminated, into *out (free it). */
static scd_code read_keys_file(const char *path, scd_auth *auth, char **out, scd_error *err)
{
    char *text = NULL;
    struct stat st;
    scd_code code = SCD_OK;
    size_t n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        code = scd_fail(err, SCD_E_IO, "keys file %s: %s", path, strerror(errno));
        goto done;
    }
    if (st.st_mode & (S_IROTH | S_IWOTH | S_IWGRP))
        snprintf(auth->warning, sizeof auth->warning,
                 "keys file %.120s has mode %03o: others can %s it; chmod 600 it", path,
                 (unsigned)st.st_mode & 0777U,
                 st.st_mode & (S_IWOTH | S_IWGRP) ? "change" : "read");
    text = scd_malloc(SCD_AUTH_MAX_FILE + 2, 1);
    if (!text) {
        code = scd_fail(err, SCD_E_NOMEM, "keys file %s: out of memory", path);
        goto done;
    }
    for (ssize_t got; n <= SCD_AUTH_MAX_FILE; n += (size_t)got) {
        do
            got = read(fd, text + n, SCD_AUTH_MAX_FILE + 1 - n);
        while (got < 0 && errno == EINTR);
        if (got < 0)
            code = scd_fail(err, SCD_E_IO, "keys file %s: %s", path, strerror(errno));
        if (got <= 0)
            break;
    }
    if (!code && n > SCD_AUTH_MAX_FILE)
        code = scd_fail(err, SCD_E_INVALID, "keys file %s: larger than %d bytes", path,
                        (int)SCD_AUTH_MAX_FILE);
    if (!code && memchr(text, '\0', n))
        code = scd_fail(err, SCD_E_INVALID, "keys file %s: not a text file", path);
    text[n] = '\0';
done:
    if (fd >= 0)
        close(fd);
    if (code) {
        free(text);
        text = NULL;
    }
    *out = text;
    return code;
}

static bool name_is_good(const char *name, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (name[i] <= ' ' || name[i] > '~' || name[i] == '"' || name[i] == '\\')
            return false;
    return n > 0 && n <= SCD_AUTH_MAX_NAME;
}

bool scd_auth_is_name(const char *name)
{
    return name_is_good(name, strlen(name));
}

static scd_code add_key(scd_auth *auth, const key *k, const char *where, scd_error *err)
{
    for (size_t i = 0; i < auth->n_keys; i++) {
        if (scd_digest_equal(&auth->keys[i].token, &k->token))
            return scd_fail(err, SCD_E_INVALID,
                            "%s: the hash of '%s' is that of '%s': every name "
                            "needs a token of its own",
                            where, k->name, auth->keys[i].name);
        if (!strcmp(auth->keys[i].name, k->name))
            return scd_fail(err, SCD_E_INVALID, "%s: the name '%s' stands there twice", where,
                            k->name);
    }
    if (auth->n_keys == auth->cap_keys) {
        size_t cap = auth->cap_keys ? 2 * auth->cap_keys : 16;
        key *grown = scd_realloc(auth->keys, cap, sizeof *grown);
        if (!grown)
            return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", where);
        auth->keys = grown;
        auth->cap_keys = cap;
    }
    auth->keys[auth->n_keys++] = *k;
    return SCD_OK;
}

/* One line without its line end: blank, comment, or a key. */
static scd_code parse_line(scd_auth *auth, char *line, const char *where, scd_error *err)
{
    static const char blanks[] = " \t";
    char *hex = line + strspn(line, blanks);
    if (!*hex || *hex == '#')
        return SCD_OK;
    size_t n_hex = strcspn(hex, blanks);
    char *name = hex + n_hex;
    name += strspn(name, blanks);
    size_t n_name = strlen(name);
    while (n_name && strchr(blanks, name[n_name - 1]))
        n_name--;

    key k;
    memset(&k, 0, sizeof k);
    hex[n_hex] = '\0'; /* where the line ends after the hash, this is the NUL already there */
    if (n_hex != SCD_DIGEST_HEX - 1 || !scd_digest_parse(hex, &k.token))
        return scd_fail(err, SCD_E_INVALID,
                        "%s: expected '<sha256 of the token, 64 hex digits> <name>'", where);
    if (!name_is_good(name, n_name))
        return scd_fail(err, SCD_E_INVALID,
                        "%s: the name must be 1 to %d printable ASCII "
                        "characters without blanks, quotes and backslashes",
                        where, (int)SCD_AUTH_MAX_NAME);
    memcpy(k.name, name, n_name);
    return add_key(auth, &k, where, err);
}

scd_code scd_auth_open(const char *path, scd_auth **out, scd_error *err)
{
    char *text = NULL;
    char where[300];
    *out = NULL;
    scd_auth *auth = scd_calloc(1, sizeof *auth);
    if (!auth)
        return scd_fail(err, SCD_E_NOMEM, "keys file %s: out of memory", path);
    scd_code code = read_keys_file(path, auth, &text, err);
    if (code)
        goto done;

    char *line = text;
    if (!strncmp(line, "\xEF\xBB\xBF", 3)) /* the byte order mark of Windows editors */
        line += 3;
    for (size_t number = 1; line && !code; number++) {
        char *end = strchr(line, '\n');
        if (end)
            *end = '\0';
        size_t n = strlen(line);
        if (n && line[n - 1] == '\r')
            line[n - 1] = '\0';
        snprintf(where, sizeof where, "keys file %.200s line %zu", path, number);
        code = parse_line(auth, line, where, err);
        line = end ? end + 1 : NULL;
    }
    if (!code && !auth->n_keys)
        code = scd_fail(err, SCD_E_INVALID,
                        "keys file %s: no key in it; nobody could use the daemon", path);
    if (code)
        goto done;
    *out = auth;
    auth = NULL;
done:
    free(text);
    scd_auth_close(auth);
    return code;
}

void scd_auth_close(scd_auth *auth)
{
    if (!auth)
        return;
    free(auth->keys);
    free(auth);
}

const char *scd_auth_warning(const scd_auth *auth)
{
    return auth->warning[0] ? auth->warning : NULL;
}

size_t scd_auth_count(const scd_auth *auth)
{
    return auth->n_keys;
}

const char *scd_auth_name(const scd_auth *auth, size_t index)
{
    return auth->keys[index].name;
}

const scd_digest *scd_auth_digest(const scd_auth *auth, size_t index)
{
    return &auth->keys[index].token;
}

/* The token of "Bearer TOKEN" and its length; NULL when the header is anything else. */
static const char *bearer_token(const char *header, size_t *n)
{
    static const char scheme[] = "Bearer";
    if (!header || strncasecmp(header, scheme, sizeof scheme - 1))
        return NULL;
    const char *token = header + sizeof scheme - 1;
    size_t n_blanks = strspn(token, " \t");
    if (!n_blanks)
        return NULL;
    token += n_blanks;
    for (*n = 0; token[*n] > ' ' && token[*n] <= '~'; (*n)++)
        if (*n == SCD_AUTH_MAX_TOKEN)
            return NULL;
    const char *rest = token + *n;
    rest += strspn(rest, " \t");
    return *n && !*rest ? token : NULL;
}

const char *scd_auth_check(const scd_auth *auth, const char *authorization_header)
{
    size_t n;
    const char *token = bearer_token(authorization_header, &n);
    if (!token)
        return NULL;
    scd_digest digest = scd_digest_of(token, n);
    size_t found = 0; /* index + 1 */
    for (size_t i = 0; i < auth->n_keys; i++) {
        size_t mask = 0 - (size_t)scd_digest_equal(&auth->keys[i].token, &digest);
        found |= mask & (i + 1);
    }
    return found ? auth->keys[found - 1].name : NULL;
}
