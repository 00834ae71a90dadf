/* job_keys.c - keys in the audit: those that came, went or got another token since they were last
 * looked at, at a start and whenever the keys file was read again (jobs.h).
 *
 * What was known then stands in the database, a line "FINGERPRINT NAME" for each key, sorted by
 * name, and changes in the transaction that tells of the change. So a key that came and went while
 * no daemon ran is not seen, and all else is, once.
 *
 * Threads: jobs-db; main before it runs. */
#include "api/json_write.h"
#include "engine/base/mem.h"
#include "server/jobs_impl.h"

#include <stdlib.h>
#include <string.h>

enum { KNOWN_BYTES = 4 << 20, FIELD_BYTES = 4096 };

static scd_code add_line(scd_jobs *jobs, const char *event, const scd_auth_key *key,
                         const scd_auth_key *was, scd_error *err)
{
    scd_buf fields;
    scd_buf_init(&fields, FIELD_BYTES);
    scd_buf_puts(&fields, ",\"key\":");
    scd_json_text(&fields, key->name);
    scd_buf_printf(&fields, ",\"fingerprint\":\"%s\"", key->fingerprint);
    if (was)
        scd_buf_printf(&fields, ",\"fingerprint_before\":\"%s\"", was->fingerprint);
    scd_code code = fields.failed ? scd_fail(err, SCD_E_NOMEM, "out of memory for the audit")
                                  : scd_job_audit_add(jobs, event, NULL, fields.data, err);
    scd_buf_release(&fields);
    return code;
}

/* The next line of what was known; false: there is none. */
static bool next_known(char **at, scd_auth_key *out)
{
    char *line = *at, *end = strchr(line, '\n'), *name = strchr(line, ' ');
    if (!end || !name || name > end)
        return false;
    *out = (scd_auth_key){{0}, {0}};
    size_t n = (size_t)(end - name - 1), n_print = (size_t)(name - line);
    if (n >= sizeof out->name || n_print >= sizeof out->fingerprint)
        return false;
    memcpy(out->fingerprint, line, n_print);
    memcpy(out->name, name + 1, n);
    *at = end + 1;
    return true;
}

/* Two sorted lists, merged. */
static scd_code compare(scd_jobs *jobs, char *known, const scd_auth_key *keys, size_t n,
                        scd_error *err)
{
    scd_auth_key was;
    scd_code code = SCD_OK;
    bool more = next_known(&known, &was);
    for (size_t i = 0; (more || i < n) && !code;) {
        int order = !more ? 1 : i == n ? -1 : strcmp(was.name, keys[i].name);
        if (order < 0)
            code = add_line(jobs, "key.removed", &was, NULL, err);
        else if (order > 0)
            code = add_line(jobs, "key.added", &keys[i], NULL, err);
        else if (strcmp(was.fingerprint, keys[i].fingerprint) != 0)
            code = add_line(jobs, "key.changed", &keys[i], &was, err);
        i += order >= 0;
        if (order <= 0)
            more = next_known(&known, &was);
    }
    return code;
}

static scd_code keep(scd_jobs *jobs, const char *known, const scd_auth_key *keys, size_t n,
                     scd_error *err)
{
    scd_buf text;
    scd_buf_init(&text, KNOWN_BYTES - 1);
    for (size_t i = 0; i < n; i++)
        scd_buf_printf(&text, "%s %s\n", keys[i].fingerprint, keys[i].name);
    const char *now = text.data ? text.data : "";
    scd_code code = text.failed               ? scd_fail(err, SCD_E_NOMEM, "out of memory for keys")
                    : strcmp(now, known) == 0 ? SCD_OK
                                              : scd_job_db_set_meta(jobs->db, "keys", now, err);
    scd_buf_release(&text);
    return code;
}

scd_code scd_job_audit_keys(scd_jobs *jobs, scd_error *err)
{
    scd_auth_key *keys = NULL;
    size_t n = 0;
    char *known = scd_malloc(KNOWN_BYTES, 1);
    scd_code code = known ? scd_job_db_get_meta(jobs->db, "keys", known, KNOWN_BYTES, err)
                          : scd_fail(err, SCD_E_NOMEM, "out of memory for the keys");
    if (!code && jobs->o.auth)
        code = scd_auth_list(jobs->o.auth, &keys, &n, err);
    if (!code)
        code = compare(jobs, known, keys, n, err);
    if (!code)
        code = keep(jobs, known, keys, n, err);
    free(keys);
    free(known);
    return code;
}

/* ---- read again ----------------------------------------------------------------------------- */

typedef struct reading {
    scd_jobs *jobs;
    const char *failure;
} reading;

static void visit(scd_job_change *change, struct scd_job_db *db)
{
    const reading *r = change->arg;
    scd_error err = {0};
    scd_buf fields;
    (void)db;
    scd_buf_init(&fields, FIELD_BYTES);
    if (r->failure) {
        scd_buf_puts(&fields, ",\"why\":");
        scd_json_text(&fields, r->failure);
    }
    const char *event = r->failure ? "keys.not_read" : "keys.read";
    scd_code code = scd_job_audit_add(r->jobs, event, NULL, fields.data ? fields.data : "", &err);
    if (!code && !r->failure)
        code = scd_job_audit_keys(r->jobs, &err);
    scd_buf_release(&fields);
    if (code)
        scd_problem_set(&change->problem, SCD_PROBLEM_STORAGE, "%s", err.message);
}

void scd_jobs_keys_read(scd_jobs *jobs, const char *failure)
{
    reading r = {jobs, failure};
    scd_job_change change = {.visit = visit, .arg = &r};
    if (!scd_jobs_unavailable(jobs) && scd_jobs_apply(jobs, &change))
        scd_jobs_log(jobs, 3, "audit", NULL, change.problem.detail);
    scd_job_release(&change.job);
}
