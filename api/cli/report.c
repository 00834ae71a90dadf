/* report.c - what went wrong and what was found, for people and for programs; see cli.h. */
#include "api/cli/cli.h"

#include "api/json_write.h"

#include <stdio.h>

int cli_print(scd_buf *out, int status)
{
    bool ok = !out->failed;
    if (ok && out->n_bytes)
        ok = fwrite(out->data, 1, out->n_bytes, stdout) == out->n_bytes && fflush(stdout) == 0;
    scd_buf_release(out);
    if (ok)
        return status;
    perror("scdiva: standard output");
    return CLI_FAILED;
}

int cli_fail(const scd_error *err, bool json)
{
    scd_buf out;
    fprintf(stderr, "scdiva: %s\n", err->message);
    if (!json)
        return CLI_FAILED;
    scd_buf_init(&out, 1 << 16);
    scd_buf_printf(&out, "{\"error\":{\"code\":\"%s\",\"message\":", scd_code_name(err->code));
    scd_json_text(&out, err->message);
    scd_buf_puts(&out, "}}\n");
    return cli_print(&out, CLI_FAILED);
}

void cli_print_notes(const char *kind, const char *const *notes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        fprintf(stderr, "%s: %s\n", kind, notes[i]);
}

void cli_json_texts(scd_buf *out, const char *key, const char *const *texts, size_t n)
{
    scd_buf_printf(out, ",\"%s\":[", key);
    for (size_t i = 0; i < n; i++) {
        scd_buf_puts(out, i ? "," : "");
        scd_json_text(out, texts[i]);
    }
    scd_buf_putc(out, ']');
}

void cli_json_text(scd_buf *out, const char *key, const char *text)
{
    scd_buf_printf(out, ",\"%s\":", key);
    if (text)
        scd_json_text(out, text);
    else
        scd_buf_puts(out, "null");
}
