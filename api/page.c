/* page.c - see page.h. The assembler includes the files as they are; built from the top level. */
#include "api/page.h"

#include <string.h>

#define HTML "text/html; charset=utf-8"
#define CSS "text/css; charset=utf-8"
#define JS "text/javascript; charset=utf-8"

#define FILES(FILE)                                                                                \
    FILE(page_html, "page.html", HTML)                                                             \
    FILE(page_css, "page.css", CSS)                                                                \
    FILE(page_js, "page.js", JS)                                                                   \
    FILE(api_js, "api.js", JS)                                                                     \
    FILE(cell_js, "cell.js", JS)                                                                   \
    FILE(chart_js, "chart.js", JS)                                                                 \
    FILE(dom_js, "dom.js", JS)                                                                     \
    FILE(example_js, "example.js", JS)                                                             \
    FILE(jobs_js, "jobs.js", JS)                                                                   \
    FILE(server_js, "server.js", JS)                                                               \
    FILE(start_js, "start.js", JS)                                                                 \
    FILE(tasks_js, "tasks.js", JS)                                                                 \
    FILE(upload_js, "upload.js", JS)

#define EMBED(symbol, name, type)                                                                  \
    __asm__(".section .rodata\n"                                                                   \
            ".global scd_" #symbol "\n"                                                            \
            ".global scd_" #symbol "_end\n"                                                        \
            "scd_" #symbol ":\n"                                                                   \
            ".incbin \"api/web/" name "\"\n"                                                       \
            "scd_" #symbol "_end:\n"                                                               \
            ".byte 0\n"                                                                            \
            ".text\n");                                                                            \
    extern const char scd_##symbol[], scd_##symbol##_end[];
FILES(EMBED)

#define ROW(symbol, name, type) {name, type, scd_##symbol, scd_##symbol##_end},
static const scd_page_file files[] = {FILES(ROW)};
enum { N_FILES = sizeof files / sizeof files[0] };

const scd_page_file *scd_page_at(size_t i)
{
    return i < N_FILES ? &files[i] : NULL;
}

const scd_page_file *scd_page_find(const char *name)
{
    for (size_t i = 0; i < N_FILES; i++)
        if (!strcmp(files[i].name, name))
            return &files[i];
    return NULL;
}
