/* tsv.c - see tsv.h. */
#include "engine/model/tsv.h"

#include <string.h>

void scd_tsv_init(scd_tsv *tsv, const char *text, size_t n)
{
    *tsv = (scd_tsv){.at = text, .end = text + n};
    if (n >= 3 && !memcmp(text, "\xEF\xBB\xBF", 3))
        tsv->at += 3;
}

static void split(const char *at, const char *end, scd_tsv_field *fields, size_t max,
                  size_t *n_fields)
{
    for (*n_fields = 0;;) {
        const char *tab = memchr(at, '\t', (size_t)(end - at));
        const char *stop = tab ? tab : end;
        if (*n_fields < max)
            fields[*n_fields] = (scd_tsv_field){at, (size_t)(stop - at)};
        ++*n_fields;
        if (!tab)
            return;
        at = tab + 1;
    }
}

bool scd_tsv_next(scd_tsv *tsv, scd_tsv_field *fields, size_t max, size_t *n_fields)
{
    while (tsv->at < tsv->end) {
        const char *at = tsv->at;
        const char *newline = memchr(at, '\n', (size_t)(tsv->end - at));
        const char *stop = newline ? newline : tsv->end;
        tsv->at = newline ? newline + 1 : tsv->end;
        tsv->line++;
        if (stop > at && stop[-1] == '\r')
            stop--;
        if (stop == at)
            continue;
        split(at, stop, fields, max, n_fields);
        return true;
    }
    return false;
}

bool scd_tsv_is(scd_tsv_field field, const char *text)
{
    return field.n == strlen(text) && !memcmp(field.text, text, field.n);
}

bool scd_tsv_whole(scd_tsv_field field, int32_t most, int32_t *out)
{
    int64_t value = 0;
    for (size_t i = 0; i < field.n; i++) {
        int digit = field.text[i] - '0';
        if (digit < 0 || digit > 9)
            return false;
        value = value * 10 + digit;
        if (value > most)
            return false;
    }
    *out = (int32_t)value;
    return field.n > 0;
}
