/* fuzz_head.c - any bytes as head.json: refused with a message, or a head that can be asked.
 *
 * Threads: one. */
#include "engine/denoise/head_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Every number points at something, every name is one. */
static void ask_perturb(const scd_perturb_info *p)
{
    size_t n_cells = 0;
    for (size_t i = 0; i < p->n_genes; i++)
        if (!*p->genes[i])
            abort();
    for (size_t c = 0; c < p->n_contexts; c++) {
        if (p->contexts[c].first_cell != n_cells || !(p->contexts[c].gate <= 1))
            abort();
        n_cells += p->contexts[c].n_cells;
    }
    for (size_t i = 0; i < p->n_conditions; i++) {
        const scd_response_condition *c = &p->conditions[i];
        if (c->context >= p->n_contexts || !c->n_targets || c->n_targets > SCD_MAX_TARGETS)
            abort();
        for (size_t k = 0; k < c->n_targets; k++)
            if (c->targets[k] >= p->n_targets)
                abort();
    }
    if (n_cells != p->n_cells)
        abort();
}

static void ask(const scd_head *head)
{
    const scd_head_info *info = scd_head_get_info(head);
    if (info->perturb) {
        ask_perturb(info->perturb);
        return;
    }
    float *logits = malloc(info->n_labels * sizeof *logits);
    double *p = malloc(info->n_labels * sizeof *p), sum = 0;
    if (!logits || !p || info->n_labels < 2)
        abort();
    for (size_t i = 0; i < info->n_labels; i++) {
        if (!info->labels[i].label || !*info->labels[i].label ||
            strlen(info->labels[i].label) > SCD_HEAD_MAX_LABEL_BYTES)
            abort();
        logits[i] = (float)i;
    }
    scd_head_probabilities(head, logits, p);
    for (size_t i = 0; i < info->n_labels; i++)
        sum += p[i];
    if (!(fabs(sum - 1) < 1e-9) || !(info->threshold >= 0 && info->threshold <= 1) ||
        strlen(info->model_digest_hex) != 64)
        abort();
    free(p);
    free(logits);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    scd_head *head;
    scd_error err = {0};
    char *text = malloc(size + 1);
    if (!text)
        return 0;
    if (size)
        memcpy(text, data, size);
    text[size] = '\0';
    scd_code code = scd_head_parse(text, size, "head.json", &head, &err);
    if (code && !err.message[0])
        abort();
    if (!code)
        ask(head);
    scd_head_close(head);
    free(text);
    return 0;
}
