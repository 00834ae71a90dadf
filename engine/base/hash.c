/* hash.c - see hash.h. */
#include "engine/base/hash.h"

#include "engine/base/mem.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct scd_hasher {
    EVP_MD_CTX *ctx;
    EVP_MD *sha256; /* fetched once: EVP_sha256() would look it up in the provider at every init */
};

scd_hasher *scd_hasher_new(void)
{
    scd_hasher *h = scd_calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->ctx = EVP_MD_CTX_new();
    h->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    if (!h->ctx || !h->sha256 || EVP_DigestInit_ex(h->ctx, h->sha256, NULL) != 1) {
        scd_hasher_free(h);
        return NULL;
    }
    return h;
}

void scd_hasher_free(scd_hasher *h)
{
    if (!h)
        return;
    EVP_MD_CTX_free(h->ctx);
    EVP_MD_free(h->sha256);
    free(h);
}

void scd_hasher_add(scd_hasher *h, const void *bytes, size_t n)
{
    EVP_DigestUpdate(h->ctx, bytes, n);
}

void scd_hasher_add_field(scd_hasher *h, const void *bytes, size_t n)
{
    uint64_t length = n;
    scd_hasher_add(h, &length, sizeof length);
    scd_hasher_add(h, bytes, n);
}

void scd_hasher_add_text(scd_hasher *h, const char *text)
{
    scd_hasher_add_field(h, text, strlen(text));
}

scd_digest scd_hasher_finish(scd_hasher *h)
{
    scd_digest d;
    EVP_DigestFinal_ex(h->ctx, d.bytes, NULL);
    EVP_DigestInit_ex(h->ctx, h->sha256, NULL);
    return d;
}

scd_code scd_hasher_add_file(scd_hasher *h, int fd, const char *name, scd_error *err)
{
    enum { BLOCK = 1 << 18 };
    unsigned char *block = scd_malloc(BLOCK, 1);
    if (!block)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory while hashing", name);
    scd_code code = SCD_OK;
    for (off_t at = 0;;) {
        ssize_t n = pread(fd, block, BLOCK, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            code = scd_fail(err, SCD_E_IO, "%s: cannot read: %s", name, strerror(errno));
        if (n <= 0)
            break;
        scd_hasher_add(h, block, (size_t)n);
        at += n;
    }
    free(block);
    return code;
}

scd_digest scd_digest_of(const void *bytes, size_t n)
{
    scd_digest d;
    EVP_Digest(bytes, n, d.bytes, NULL, EVP_sha256(), NULL);
    return d;
}

scd_digest scd_hmac_of(const void *key, size_t n_key, const void *bytes, size_t n)
{
    scd_digest d;
    HMAC(EVP_sha256(), key, (int)n_key, bytes, n, d.bytes, NULL);
    return d;
}

size_t scd_base64_read(const char *text, unsigned char *out, size_t cap)
{
    enum { MAX = 4096 };
    unsigned char plain[MAX / 4 * 3];
    size_t n = strlen(text),
           n_pad = n > 1 ? (size_t)(text[n - 1] == '=') + (text[n - 2] == '=') : 0;
    if (!n || n % 4 || n > MAX || strcspn(text, " \t\r\n") != n ||
        EVP_DecodeBlock(plain, (const unsigned char *)text, (int)n) != (int)(n / 4 * 3) ||
        n / 4 * 3 - n_pad > cap)
        return SIZE_MAX;
    memcpy(out, plain, n / 4 * 3 - n_pad);
    return n / 4 * 3 - n_pad;
}

void scd_digest_hex(const scd_digest *digest, char out[SCD_DIGEST_HEX])
{
    static const char hex[] = "0123456789abcdef";
    for (size_t i = 0; i < SCD_DIGEST_BYTES; i++) {
        out[2 * i] = hex[digest->bytes[i] >> 4];
        out[2 * i + 1] = hex[digest->bytes[i] & 15];
    }
    out[2 * SCD_DIGEST_BYTES] = '\0';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool scd_digest_parse(const char *hex, scd_digest *out)
{
    for (size_t i = 0; i < SCD_DIGEST_BYTES; i++) {
        int high = hex_value(hex[2 * i]);
        int low = high < 0 ? -1 : hex_value(hex[2 * i + 1]);
        if (low < 0)
            return false;
        out->bytes[i] = (uint8_t)(high << 4 | low);
    }
    return hex[2 * SCD_DIGEST_BYTES] == '\0';
}

bool scd_digest_equal(const scd_digest *a, const scd_digest *b)
{
    return CRYPTO_memcmp(a->bytes, b->bytes, SCD_DIGEST_BYTES) == 0;
}
