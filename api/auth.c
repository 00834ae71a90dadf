/* auth.c - see auth.h.
 *
 * The token is hashed and the hash compared with every entry without an early way out, so that the
 * time of an answer tells nothing about which entry was near. */
#include "api/auth.h"

#include "engine/base/hash.h"
#include "engine/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
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

/* The file as it was once read. */
typedef struct ring {
    struct ring *before;
    key *keys;
    size_t n_keys, cap_keys;
    char warning[256]; /* empty: none */
} ring;

struct scd_auth {
    char *path;
    _Atomic(ring *) ring; /* of now; those before it are kept for the names borrowed from them */
};

/* The whole file, NUL-terminated, into *out (free it). */
static scd_code read_keys_file(const char *path, ring *r, char **out, scd_error *err)
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
        snprintf(r->warning, sizeof r->warning,
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

static scd_code add_key(ring *r, const key *k, const char *where, scd_error *err)
{
    for (size_t i = 0; i < r->n_keys; i++) {
        if (scd_digest_equal(&r->keys[i].token, &k->token))
            return scd_fail(err, SCD_E_INVALID,
                            "%s: the hash of '%s' is that of '%s': every name "
                            "needs a token of its own",
                            where, k->name, r->keys[i].name);
        if (!strcmp(r->keys[i].name, k->name))
            return scd_fail(err, SCD_E_INVALID, "%s: the name '%s' stands there twice", where,
                            k->name);
    }
    if (r->n_keys == r->cap_keys) {
        size_t cap = r->cap_keys ? 2 * r->cap_keys : 16;
        key *grown = scd_realloc(r->keys, cap, sizeof *grown);
        if (!grown)
            return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", where);
        r->keys = grown;
        r->cap_keys = cap;
    }
    r->keys[r->n_keys++] = *k;
    return SCD_OK;
}

/* One line without its line end: blank, comment, or a key. */
static scd_code parse_line(ring *r, char *line, const char *where, scd_error *err)
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
    return add_key(r, &k, where, err);
}

static void free_ring(ring *r)
{
    if (r)
        free(r->keys);
    free(r);
}

static scd_code read_ring(const char *path, ring **out, scd_error *err)
{
    char *text = NULL;
    char where[300];
    *out = NULL;
    ring *r = scd_calloc(1, sizeof *r);
    if (!r)
        return scd_fail(err, SCD_E_NOMEM, "keys file %s: out of memory", path);
    scd_code code = read_keys_file(path, r, &text, err);
    char *line = text;
    if (line && !strncmp(line, "\xEF\xBB\xBF", 3)) /* the byte order mark of Windows editors */
        line += 3;
    for (size_t number = 1; line && !code; number++) {
        char *end = strchr(line, '\n');
        if (end)
            *end = '\0';
        size_t n = strlen(line);
        if (n && line[n - 1] == '\r')
            line[n - 1] = '\0';
        snprintf(where, sizeof where, "keys file %.200s line %zu", path, number);
        code = parse_line(r, line, where, err);
        line = end ? end + 1 : NULL;
    }
    if (!code && !r->n_keys)
        code = scd_fail(err, SCD_E_INVALID,
                        "keys file %s: no key in it; nobody could use the daemon", path);
    free(text);
    if (code)
        free_ring(r);
    else
        *out = r;
    return code;
}

scd_code scd_auth_open(const char *path, scd_auth **out, scd_error *err)
{
    *out = NULL;
    ring *r = NULL;
    scd_auth *auth = scd_calloc(1, sizeof *auth);
    if (!auth || !(auth->path = scd_strdup(path))) {
        free(auth);
        return scd_fail(err, SCD_E_NOMEM, "keys file %s: out of memory", path);
    }
    scd_code code = read_ring(path, &r, err);
    atomic_init(&auth->ring, r);
    if (code)
        scd_auth_close(auth);
    else
        *out = auth;
    return code;
}

scd_code scd_auth_read_again(scd_auth *auth, scd_error *err)
{
    ring *r;
    scd_code code = read_ring(auth->path, &r, err);
    if (code)
        return code;
    r->before = atomic_load(&auth->ring);
    atomic_store(&auth->ring, r);
    return SCD_OK;
}

void scd_auth_close(scd_auth *auth)
{
    if (!auth)
        return;
    for (ring *r = atomic_load(&auth->ring), *before; r; r = before) {
        before = r->before;
        free_ring(r);
    }
    free(auth->path);
    free(auth);
}

const char *scd_auth_warning(const scd_auth *auth)
{
    const ring *r = atomic_load(&auth->ring);
    return r->warning[0] ? r->warning : NULL;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const scd_auth_key *)a)->name, ((const scd_auth_key *)b)->name);
}

scd_code scd_auth_list(const scd_auth *auth, scd_auth_key **out, size_t *n, scd_error *err)
{
    const ring *r = atomic_load(&auth->ring);
    scd_auth_key *list = scd_malloc(r->n_keys, sizeof *list);
    *out = list;
    *n = r->n_keys;
    if (!list)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the keys");
    for (size_t i = 0; i < r->n_keys; i++) {
        char hex[SCD_DIGEST_HEX];
        scd_digest digest = scd_digest_of(&r->keys[i].token, sizeof r->keys[i].token);
        scd_digest_hex(&digest, hex);
        snprintf(list[i].name, sizeof list[i].name, "%s", r->keys[i].name);
        snprintf(list[i].fingerprint, sizeof list[i].fingerprint, "%.*s", SCD_AUTH_FINGERPRINT,
                 hex);
    }
    qsort(list, r->n_keys, sizeof *list, by_name);
    return SCD_OK;
}

size_t scd_auth_count(const scd_auth *auth)
{
    const ring *r = atomic_load(&auth->ring);
    return r->n_keys;
}

const char *scd_auth_name(const scd_auth *auth, size_t index)
{
    const ring *r = atomic_load(&auth->ring);
    return r->keys[index].name;
}

const scd_digest *scd_auth_digest(const scd_auth *auth, size_t index)
{
    const ring *r = atomic_load(&auth->ring);
    return &r->keys[index].token;
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
    const ring *r = atomic_load(&auth->ring);
    for (size_t i = 0; i < r->n_keys; i++) {
        size_t mask = 0 - (size_t)scd_digest_equal(&r->keys[i].token, &digest);
        found |= mask & (i + 1);
    }
    return found ? r->keys[found - 1].name : NULL;
}
