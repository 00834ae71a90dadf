/* tiny_model.h - a model directory made by scdiva-train init, for tests that need an engine.
 *
 * The trainer is a program, not a layer with an archive: its files are compiled in. One thread
 * makes and removes; the directory is the test's alone. */
#ifndef SCD_TESTS_TINY_MODEL_H
#define SCD_TESTS_TINY_MODEL_H

#include "engine/train/init.c"
#include "engine/train/init_genes.c"
#include "engine/train/init_weights.c"

#include <fcntl.h>

enum { TINY_DIM = 32, TINY_MAX_GENES = 20, TINY_VOCAB = 50, TINY_FIRST_GENE = 2 };

typedef struct tiny_model {
    char root[32], dir[40];
} tiny_model;

/* Runs `init` silently; 0 where it succeeded. */
static int tiny_model_make(tiny_model *m, const char *name, const char *seed)
{
    strcpy(m->root, "/tmp/scdiva-tiny-XXXXXX");
    if (!mkdtemp(m->root))
        return -1;
    snprintf(m->dir, sizeof m->dir, "%s/%.6s", m->root, name);
    const char *const words[] = {"init", "--out",       m->dir, "--hidden",     "32", "--dim",
                                 "24",   "--layers",    "2",    "--heads",      "2",  "--ffn",
                                 "48",   "--max-genes", "20",   "--vocab-size", "50", "--seed",
                                 seed};
    enum { N = sizeof words / sizeof words[0] };
    char *argv[N + 1] = {NULL};
    for (size_t i = 0; i < N; i++)
        argv[i] = strdup(words[i]);
    fflush(stdout);
    int out = dup(1), nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, 1);
    int rc = scd_train_init(N, argv);
    fflush(stdout);
    dup2(out, 1);
    close(out);
    close(nowhere);
    for (size_t i = 0; i < N; i++)
        free(argv[i]);
    return rc;
}

static void tiny_model_remove(const tiny_model *m)
{
    const char *const files[] = {"config.json", "model.safetensors", "genes.tsv", "card.md"};
    char path[64];
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", m->dir, files[i]);
        unlink(path);
    }
    rmdir(m->dir);
    rmdir(m->root);
}

#endif
