/* eval.h - what the files of the verb eval share.
 *
 * Threads: the device's owner. */
#ifndef SCD_TRAIN_EVAL_H
#define SCD_TRAIN_EVAL_H

#include "engine/train/classify.h"

enum { SCD_EVAL_RATES = 3 };
extern const double scd_eval_rates[SCD_EVAL_RATES]; /* shares of the tokens hidden */

/* What the model says of hidden genes and values: means over all hidden tokens of all cells. */
typedef struct scd_eval_loss {
    size_t n;         /* hidden tokens */
    double gene_loss; /* cross-entropy, nats */
    double accuracy;  /* the likeliest gene is the right one */
    double value_mse;
} scd_eval_loss;

/* With the classifier's backbone as it is; every token is hidden with probability `rate`, the same
 * ones each time. Cells without known genes are passed over. SCD_E_INVALID: nothing was hidden. */
scd_code scd_eval_losses(scd_classifier *classifier, scd_corpus *corpus, double rate,
                         scd_eval_loss *out, scd_error *err);

#endif
