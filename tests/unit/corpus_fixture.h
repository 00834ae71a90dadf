/* corpus_fixture.h - the small h5ad files of tests/fixtures/make_corpus.py in a folder of their
 * own, made once for a test program, and short ways to open them.
 *
 * Threads: main. Owns: the folder, from corpus_set_up to corpus_tear_down. */
#ifndef SCD_TESTS_CORPUS_FIXTURE_H
#define SCD_TESTS_CORPUS_FIXTURE_H

#include "engine/base/mem.h"
#include "engine/train/corpus.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char corpus_dir[64];

static inline int corpus_set_up(void **state)
{
    char command[256];
    const char *python = access("/usr/bin/python3", X_OK) == 0 ? "/usr/bin/python3" : "python3";
    (void)state;
    strcpy(corpus_dir, "/tmp/scdiva-corpus-XXXXXX");
    if (!mkdtemp(corpus_dir))
        return -1;
    snprintf(command, sizeof command, "%s tests/fixtures/make_corpus.py %s", python, corpus_dir);
    return system(command);
}

static inline int corpus_tear_down(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", corpus_dir);
    return system(command);
}

/* A path in the folder, without or with a suffix of its own; 8 of them live at once. */
static inline const char *corpus_path(const char *name)
{
    static char paths[8][160];
    static size_t next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s%s", corpus_dir, name, strchr(name, '.') ? "" : ".h5ad");
    return path;
}

/* Opens up to four files; `exclude` may be NULL. */
static inline scd_code corpus_try(const char *const names[4], const char *exclude, scd_corpus **out,
                                  scd_error *err)
{
    const char *paths[4];
    size_t n = 0;
    while (n < 4 && names[n]) {
        paths[n] = corpus_path(names[n]);
        n++;
    }
    scd_corpus_options options = {.paths = paths, .n_paths = n, .exclude = exclude};
    *err = (scd_error){0};
    return scd_corpus_open(&options, out, err);
}

static inline scd_corpus *corpus_of(const char *const names[4], const char *exclude)
{
    scd_error err;
    scd_corpus *corpus = NULL;
    scd_code code = corpus_try(names, exclude, &corpus, &err);
    if (code)
        print_message("%s\n", err.message);
    assert_int_equal(code, SCD_OK);
    return corpus;
}

#define CORPUS(...) corpus_of((const char *const[4]){__VA_ARGS__}, NULL)

/* The vocabulary of the corpus's own union, completed by `table` where there is one. */
static inline scd_vocab *corpus_own_vocab(scd_corpus *corpus, const char *table)
{
    scd_error err;
    scd_corpus_genes genes;
    scd_vocab *vocab = NULL;
    scd_code code = scd_corpus_union(corpus, NULL, 0, table, &genes, &err);
    if (code)
        print_message("%s\n", err.message);
    assert_int_equal(code, SCD_OK);
    scd_model_config config = {.vocab = genes.vocab,
                               .pad_id = 0,
                               .mask_id = 1,
                               .pad_fill_id = (int32_t)genes.vocab - 3,
                               .bos_id = (int32_t)genes.vocab - 2,
                               .eos_id = (int32_t)genes.vocab - 1};
    code = scd_vocab_parse(genes.tsv, genes.n_bytes, &config, &vocab, &err);
    if (code)
        print_message("%s\n", err.message);
    assert_int_equal(code, SCD_OK);
    free(genes.tsv);
    return vocab;
}

static inline scd_vocab *corpus_bound(scd_corpus *corpus)
{
    scd_error err;
    scd_vocab *vocab = corpus_own_vocab(corpus, NULL);
    scd_code code = scd_corpus_bind(corpus, vocab, 0.5, &err);
    if (code)
        print_message("%s\n", err.message);
    assert_int_equal(code, SCD_OK);
    return vocab;
}

#endif
