#!/bin/sh
# Make the bundled model again: pre-training, the annotation head, the perturbation head. Half an
# hour on two cores at most; the same data and program give the same bytes on a CPU. The first two
# steps go on where they were stopped; the third takes a minute and starts again. A step whose
# result is there is left out.
#
#     config/models/pbmc/train.sh DATA_DIR OUT_DIR [BUILD_DIR]
set -eu

data=$1 out=$2 train=${3:-build}/scdiva-train
here=$(dirname "$0")
set -- --data "$data/kang_ifnb.h5ad" --data "$data/pbmc_ifnb_9k.h5ad" \
       --data "$data/pbmc68k_reduced.h5ad" --exclude "$here/exclude.tsv"

if [ ! -f "$out/model.safetensors" ]; then
    "$train" pretrain --device cpu "$@" --data "$data/perturbseq_k562_gbm.h5ad" \
        --extra-genes-column perturbation --gene-table "$data/genes/gencode_v48_human.csv.gz" \
        --init-embedding svd --value-only-share 0.1 --panel-share 0.3 --thin-share 0.2 \
        --max-tokens 320 --epochs 16 --seed 1 --eval-cells 128 --dtype bf16 --out "$out"
fi
if [ ! -f "$out/heads/annotation/head.json" ]; then
    "$train" finetune annotation --device cpu --model "$out" "$@" --labels "$here/labels.tsv" \
        --ontology "$here/ontology.tsv" --split cell --epochs 20 --patience 0 --average 0.5 \
        --class-weight 0.25 --sum-share 0.5 --gene-sigma 0.3 --panel-share 0.8 --panel-min 0.02 \
        --panel-top 0.7 --panel-total 0.5 --subset-share 0.4 --subset-min 0.2 --max-tokens 320 \
        --smoothing 0.05 --precision 0.95 --calibrate-copies 0
fi
if [ ! -f "$out/heads/perturbation/head.json" ]; then
    "$train" finetune perturbation --device cpu --model "$out" \
        --data "$data/perturbseq_k562_gbm.h5ad" \
        --context-column cell_type --direction-column perturbation_type --seed 1
fi
