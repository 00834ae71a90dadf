/* gene_svd.c - stub */
#include "engine/train/pretrain.h"
scd_code scd_gene_svd(scd_pretrain *run, float *embedding, scd_error *err)
{
    (void)run; (void)embedding; (void)err; return SCD_OK;
}
