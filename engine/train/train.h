/* train.h - the verbs of scdiva-train and the parts they share.
 *
 * A verb gets its own arguments (argv[0] is the verb), prints what it did, and returns the exit
 * status of the program.
 *
 * Threads: main only, unless a part says otherwise. */
#ifndef SCD_TRAIN_H
#define SCD_TRAIN_H

#include "engine/model/safetensors.h"
#include "engine/model/vocab.h"

enum { SCD_EXIT_OK = 0, SCD_EXIT_FAILED = 1, SCD_EXIT_USAGE = 2 };

int scd_train_init(int argc, char **argv);
int scd_train_pretrain(int argc, char **argv);
int scd_train_finetune(int argc, char **argv);
int scd_train_eval(int argc, char **argv);
int scd_train_export(int argc, char **argv);

/* init_genes.c: the text of a genes.tsv and the size of its vocabulary, special ids included. */
typedef struct scd_init_genes {
    char *tsv; /* free() it */
    size_t n, vocab;
} scd_init_genes;

/* A vocabulary of `vocab` ids with made-up genes from 2 to vocab - 4: GENE00002, ENSG99000000002.
 */
scd_code scd_init_genes_make(size_t vocab, scd_init_genes *out, scd_error *err);

/* A table with at least the column symbol, in genes.tsv form: token_id is kept where it is given,
 * else counted from 2 in file order. SCD_E_INVALID names path and line. */
scd_code scd_init_genes_read(const char *path, scd_init_genes *out, scd_error *err);

/* init_weights.c: write random weights for `config`. Same arguments, same bytes. */
scd_code scd_init_weights(const char *path, const scd_model_config *config, scd_dtype dtype,
                          uint64_t seed, size_t *n_params, scd_error *err);

#endif
