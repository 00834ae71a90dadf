/* main.c - scdiva-train: the verbs that make, train and measure models.
 *
 * A program of its own, never linked into the daemon. Each verb is one line of the table and one
 * file; main only finds it.
 *
 * Threads: main. Owns: nothing. */
#include "engine/train/train.h"

#include <stdio.h>
#include <string.h>

typedef struct verb {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} verb;

static const verb verbs[] = {
    {"init", scd_train_init, "make a model directory with random weights"},
    {"pretrain", scd_train_pretrain, "pre-train a model on h5ad files"},
    {"finetune", scd_train_finetune, "train a task head on labelled cells"},
    {"eval", scd_train_eval, "measure a head on labelled cells; write predictions, embeddings"},
    {"export", scd_train_export, "write a model in another dtype, its heads along"},
};
enum { N_VERBS = sizeof verbs / sizeof verbs[0] };

static void print_help(FILE *to)
{
    fputs("usage: scdiva-train VERB [OPTIONS]\n\n", to);
    for (size_t i = 0; i < N_VERBS; i++)
        fprintf(to, "  %-10s %s\n", verbs[i].name, verbs[i].summary);
    fputs("\n  scdiva-train VERB --help   the options of a verb\n"
          "  scdiva-train --version\n\n"
          "Exit status: 0 done, 1 failed, 2 used wrongly.\n",
          to);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return SCD_EXIT_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        print_help(stdout);
        return SCD_EXIT_OK;
    }
    if (!strcmp(argv[1], "--version")) {
        puts("scdiva-train " SCD_VERSION);
        return SCD_EXIT_OK;
    }
    for (size_t i = 0; i < N_VERBS; i++)
        if (!strcmp(argv[1], verbs[i].name))
            return verbs[i].run(argc - 1, argv + 1);
    fprintf(stderr, "scdiva-train: no verb '%s'; scdiva-train --help lists them\n", argv[1]);
    return SCD_EXIT_USAGE;
}
