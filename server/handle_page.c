/* handle_page.c - GET /, and the files of its page below /page/, from memory.
 *
 * The page holds no data, so it is served without a key: what it shows it asks the API for, with
 * the key that its user types in. It may load its own files alone, run no other script, and write
 * no markup (require-trusted-types-for), so that a gene, a file name or a label stays text. */
#include "api/page.h"
#include "engine/base/hash.h"
#include "server/reply.h"
#include "server/router.h"

#include <stdio.h>
#include <string.h>

static const char policy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'";

static void answer_file(scd_exchange *x, const scd_page_file *file)
{
    char etag[SCD_DIGEST_HEX + 2], hex[SCD_DIGEST_HEX];
    const char *known = scd_exchange_header(x, "If-None-Match");
    size_t n = (size_t)(file->end - file->bytes);
    scd_digest digest = scd_digest_of(file->bytes, n); /* a few kilobytes */
    scd_digest_hex(&digest, hex);
    snprintf(etag, sizeof etag, "\"%s\"", hex);
    scd_exchange_set_header(x, "ETag", etag);
    scd_exchange_set_header(x, "Cache-Control", "no-cache"); /* asked for again, answered by 304 */
    scd_exchange_set_header(x, "Content-Security-Policy", policy);
    scd_exchange_set_header(x, "X-Content-Type-Options", "nosniff");
    scd_exchange_set_header(x, "Referrer-Policy", "no-referrer");
    if (known && (strstr(known, etag) || !strcmp(known, "*"))) {
        scd_exchange_answer(x, 304, NULL, NULL);
        return;
    }
    scd_buf body;
    scd_buf_init(&body, n);
    scd_buf_append(&body, file->bytes, n);
    scd_exchange_answer(x, 200, file->type, &body);
}

void scd_handle_page(scd_daemon *d, scd_exchange *x)
{
    (void)d;
    const char *path = scd_exchange_path(x);
    const char *name = strcmp(path, "/") ? path + strlen(SCD_PAGE_FILES) : "page.html";
    const scd_page_file *file = scd_page_find(name);
    if (file)
        answer_file(x, file);
    else
        scd_reply_problem(x, SCD_PROBLEM_NOT_FOUND, "the page has no file \"%.80s\"", name);
}
