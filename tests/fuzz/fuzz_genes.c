/* fuzz_genes.c - any bytes as genes.tsv: refused with a message, or a vocabulary that is true to
 * itself - every symbol and Ensembl id it shows leads back to its token.
 *
 * Threads: one. */
#include "engine/model/vocab.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const scd_vocab *vocab, const scd_model_config *config, const char *text,
                  size_t size)
{
    size_t n_genes = 0;
    scd_rung rung;
    for (int32_t id = 0; id < (int32_t)config->vocab; id++) {
        const char *symbol = scd_vocab_symbol(vocab, id), *ensembl = scd_vocab_ensembl(vocab, id);
        float h = scd_vocab_entropy(vocab, id);
        n_genes += symbol != NULL;
        if (symbol && scd_vocab_resolve(vocab, symbol, strlen(symbol), &rung) != id)
            abort();
        if (ensembl && scd_vocab_resolve(vocab, ensembl, strlen(ensembl), &rung) != id)
            abort();
        if (!(h >= 0 && h < 1.1f) || (symbol && scd_model_is_special(config, id)))
            abort();
    }
    if (n_genes != scd_vocab_n_genes(vocab))
        abort();
    /* Anything may be asked for: here, every line of the input. */
    for (const char *at = text, *end = text + size; at < end;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((stop ? stop : end) - at);
        int32_t id = scd_vocab_resolve(vocab, at, n, &rung);
        if ((id < 0) != (rung >= SCD_RUNG_AMBIGUOUS) || id >= (int32_t)config->vocab)
            abort();
        scd_vocab_looks_mouse(vocab, at, n);
        at += n + 1;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const scd_model_config config = {
        .vocab = 100, .mask_id = 1, .pad_fill_id = 97, .bos_id = 98, .eos_id = 99};
    scd_vocab *vocab = NULL;
    scd_error err;
    char *text = malloc(size + !size);
    if (!text)
        return 0;
    if (size)
        memcpy(text, data, size);
    if (!scd_vocab_parse(text, size, &config, &vocab, &err)) {
        check(vocab, &config, text, size);
        scd_vocab_free(vocab);
    }
    free(text);
    return 0;
}
