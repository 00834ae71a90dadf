/* audit.c - see audit.h. */
#include "api/audit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char begins[] = "{\"seq\":", prev_member[] = ",\"prev\":\"",
                  hash_member[] = ",\"hash\":\"";

void scd_audit_seal(scd_buf *line, const char *prev, char hash[SCD_DIGEST_HEX])
{
    scd_buf_printf(line, "%s%s\"", prev_member, prev);
    scd_digest digest = scd_digest_of(line->data ? line->data : "", line->n_bytes);
    scd_digest_hex(&digest, hash);
    scd_buf_printf(line, "%s%s\"}", hash_member, hash);
}

scd_code scd_audit_check(const char *line, size_t n, scd_audit_state *state, scd_error *err)
{
    enum { HEX = SCD_DIGEST_HEX - 1 };
    size_t n_begins = sizeof begins - 1, n_prev = sizeof prev_member - 1,
           n_hash = sizeof hash_member - 1, n_end = n_hash + HEX + 2;
    char said[SCD_DIGEST_HEX], is[SCD_DIGEST_HEX];
    if (n < n_begins + n_prev + HEX + 1 + n_end || strncmp(line, begins, n_begins) ||
        strncmp(line + n - n_end, hash_member, n_hash) || strncmp(line + n - 2, "\"}", 2))
        return scd_fail(err, SCD_E_CORRUPT, "is no line of an audit");
    const char *prev = line + n - n_end - 1 - HEX;
    memcpy(said, line + n - 2 - HEX, HEX);
    said[HEX] = '\0';
    scd_digest digest = scd_digest_of(line, n - n_end);
    scd_digest_hex(&digest, is);
    if (strcmp(said, is))
        return scd_fail(err, SCD_E_CORRUPT, "is not what was written: its hash is %s, not %s", is,
                        said);
    uint64_t seq = strtoull(line + n_begins, NULL, 10);
    if (seq != state->seq + 1)
        return scd_fail(err, SCD_E_CORRUPT, "has number %llu after %llu: lines are missing",
                        (unsigned long long)seq, (unsigned long long)state->seq);
    if (strncmp(prev - n_prev, prev_member, n_prev) || strncmp(prev, state->hash, HEX))
        return scd_fail(err, SCD_E_CORRUPT, "does not follow the line before it");
    *state = (scd_audit_state){.seq = seq};
    memcpy(state->hash, said, sizeof said);
    return SCD_OK;
}

scd_code scd_audit_verify(const char *path, scd_audit_state *out, scd_error *err)
{
    char *line = NULL;
    size_t cap = 0, number = 0;
    scd_code code = SCD_OK;
    *out = (scd_audit_state){0, SCD_AUDIT_NO_HASH};
    FILE *f = fopen(path, "re");
    if (!f)
        return scd_fail(err, SCD_E_IO, "%s: %s", path, strerror(errno));
    for (ssize_t n; !code && (n = getline(&line, &cap, f)) > 0;) {
        number++;
        if (line[n - 1] != '\n')
            code = scd_fail(err, SCD_E_CORRUPT,
                            "is cut short (a daemon that was killed completes it when it starts)");
        else
            code = scd_audit_check(line, (size_t)n - 1, out, err);
        if (code)
            scd_fail_within(err, "%s, line %zu", path, number);
    }
    if (!code && ferror(f))
        code = scd_fail(err, SCD_E_IO, "%s: %s", path, strerror(errno));
    free(line);
    fclose(f);
    return code;
}
