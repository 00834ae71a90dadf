/* audit.c - scdiva audit verify FILE: is a daemon's record whole and unchanged?
 *
 * Threads: main. Owns: nothing. */
#include "api/audit.h"
#include "api/cli/cli.h"

#include <string.h>

enum { OUT_BYTES = 1 << 16 };

typedef struct audit_options {
    bool json;
} audit_options;

size_t cli_audit_options(const cli_verb *verb, void *into, cli_option *t)
{
    (void)verb;
    audit_options *o = into;
    t[0] = (cli_option){"json", 0, CLI_FLAG, &o->json, NULL, "as JSON", 0, 0, 0, 0};
    return 1;
}

int cli_audit(const cli_verb *verb, int argc, char **argv)
{
    static const char *const names[] = {"verify"};
    audit_options o = {0};
    cli_option table[CLI_MAX_OPTIONS];
    const char *path;
    scd_error err = {0};
    scd_audit_state state;
    scd_buf out;
    cli_verb part;
    int which = cli_part(verb, argc, argv, names, 1, &part);
    if (which == CLI_PART_NONE)
        return CLI_USAGE;
    part.input = "FILE";
    int skip = which == CLI_PART_HELP ? 0 : 1;
    int status = cli_args_read(which == CLI_PART_HELP ? verb : &part, table,
                               cli_audit_options(verb, &o, table), argc - skip, argv + skip, &path);
    if (status)
        return status < 0 ? CLI_OK : status;
    if (scd_audit_verify(path, &state, &err))
        return cli_fail(&err, o.json);
    scd_buf_init(&out, OUT_BYTES);
    if (o.json)
        scd_buf_printf(&out, "{\"lines\":%llu,\"hash\":\"%s\"}\n", (unsigned long long)state.seq,
                       state.hash);
    else
        scd_buf_printf(&out,
                       "%llu lines, each follows the one before it; the last hash is %s: compare "
                       "it with one that you noted, for lines cut off at the end leave no gap\n",
                       (unsigned long long)state.seq, state.hash);
    return cli_print(&out, CLI_OK);
}
