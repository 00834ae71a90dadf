/* labels.h - what the cells of a corpus are: hard labels from an obs column, or soft ones from a
 * table.
 *
 * A table is tab-separated with a header: `barcode`, optionally `file` (the file's name without
 * directory) and `group` (donor, sample: what a split must not tear apart), and one column per
 * label with its probability. Cells that are not in it have no label and are not used.
 *
 * Labels to learn (scd_labels_from_*) are given out only when a head with them can be opened
 * (engine/denoise/head.c): 2 to SCD_SCORES_MAX_CLASSES of them, distinct, of 1 to 256 bytes of
 * UTF-8, each with at least two cells. Labels to compare with (scd_labels_truth_*) may be one, or
 * rare.
 *
 * Threads: any. Owns: everything, until release. */
#ifndef SCD_TRAIN_LABELS_H
#define SCD_TRAIN_LABELS_H

#include "engine/train/corpus.h"

typedef struct scd_labels {
    size_t n_cells, n_classes, n_groups;
    char **names;       /* (n_classes) */
    char **ontology;    /* (n_classes), NULL where none was given */
    float *targets;     /* (n_cells, n_classes): rows sum to 1, or are 0 without a label */
    int32_t *best;      /* (n_cells) most probable class, -1 without a label */
    int32_t *groups;    /* (n_cells), -1: none */
    char **group_names; /* (n_groups) */
    size_t n_other_files, n_left_out; /* rows of the table that were passed over: of files that are
                                         not given; about cells that --exclude leaves out */
} scd_labels;

/* A table may be for more than these cells: rows about files that are not given, or about cells
 * that the corpus leaves out, are passed over and counted. ontology_path (or NULL): a table
 * "label<TAB>ontology_id" without header. SCD_E_INVALID names path and line: a barcode that is not
 * in the file that the row names (without a column `file`: in none); a cell given twice; a row that
 * does not sum to 1; no row about any cell; an ontology id for what is no column of the table, or a
 * second one for a label; a label with fewer than two cells. */
scd_code scd_labels_from_table(scd_corpus *corpus, const char *path, const char *ontology_path,
                               scd_labels *out, scd_error *err);

/* Classes in alphabetical order. ontology_column and group_column may be NULL. Cells with a missing
 * value have no label. SCD_E_NOT_FOUND: no file has the column; SCD_E_INVALID: no cell has a
 * value, fewer than two labels, a label with one cell, or two ontology ids for one label. */
scd_code scd_labels_from_column(scd_corpus *corpus, const char *column, const char *ontology_column,
                                const char *group_column, scd_labels *out, scd_error *err);

/* The truth about cells that are not learned from: the same, with any number of labels from one,
 * and of cells from one for each. */
scd_code scd_labels_truth_from_table(scd_corpus *corpus, const char *path, scd_labels *out,
                                     scd_error *err);
scd_code scd_labels_truth_from_column(scd_corpus *corpus, const char *column, scd_labels *out,
                                      scd_error *err);

void scd_labels_release(scd_labels *labels);

/* The index of a label, SIZE_MAX when there is none of that name. */
size_t scd_labels_find(const scd_labels *labels, const char *name);

#endif
