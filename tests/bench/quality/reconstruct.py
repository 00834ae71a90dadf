#!/usr/bin/env python3
"""A share of each cell's tokens hidden and found again by POST /v1/denoise: how well, and in how
many forward passes.

    reconstruct.py --h5ad FILE [--model DIR] [--fractions 0.15,0.5] [--out DIR]

Gene and value are hidden in place, as in the paper: the place in the order is known. First table:
fixed steps against thresholds of confidence, quality beside the mean number of passes. The rank
figures (l_dist, bleu, rank_spearman) compare the orders of the hidden genes and of those found, as
the paper compares rankings; gene_recall counts a hidden gene that was named anywhere. Baselines are
told which genes are hidden, and stand for the values alone.
"""
import numpy as np

import diffusion as d

NAMES = ("pearson", "spearman", "mae_nonzero", "gene_accuracy", "gene_recall", "l_dist", "bleu",
         "rank_spearman")


def mean_of(items, name):
    values = [i["scores"][name] for i in items if i["scores"][name] is not None]
    return float(np.mean(values)) if values else float("nan")


def main():
    args = d.arguments(__doc__, fractions=(str, "0.15,0.5", "shares hidden"),
                       steps=(str, "1,2,4,8,16,32", "fixed schedules"),
                       confidence=(str, "0.05,0.1,0.2,0.4", "thresholds, at most 64 passes"),
                       clean=(int, 0, "1: also with clean pooling, which leaks"))
    schedules = [("%s fixed" % s, {"steps": int(s)}) for s in args.steps.split(",")]
    schedules += [("confidence %s" % c, {"steps": 64, "confidence": float(c)})
                  for c in args.confidence.split(",") if c]
    if args.clean:
        schedules.append(("8 fixed, clean (LEAKS)", {"steps": 8, "pooling": "clean"}))
    result = {}
    with d.start(args) as daemon:
        cells = d.Cells(args, daemon)
        cells.describe(args)
        mean = cells.train.mean(0)
        column = {g: j for j, g in enumerate(cells.genes)}
        for fraction in map(float, args.fractions.split(",")):
            rows, truth, by_mean, by_knn = {}, [], [], []
            for name, fields in schedules:
                items = []
                for first in range(0, len(cells.test), 20):
                    body = {"cells": [cells.cell(r) for r in cells.test[first:first + 20]],
                            "mask": {"fraction": fraction, "seed": args.seed},
                            "gene_scores": not rows, **fields}
                    items += d.post(daemon, "/v1/denoise", body)["data"]
                rows[name] = {"passes": float(np.mean([i["passes"] for i in items])),
                              **{n: mean_of(items, n) for n in NAMES}}
            # the same tokens as the model was asked for: the mask depends on seed and cell alone
            for row in cells.test:
                cell = cells.cell(row)
                hidden = hidden_genes(daemon, cell, fraction, args.seed)
                seen = cells.x[row].copy()
                at = [column[g] for g in hidden]
                seen[at] = 0
                truth.append(cells.x[row, at])
                by_mean.append(mean[at])
                by_knn.append(d.nearest(cells.train, seen)[at])
            for name, got in (("gene mean (told the genes)", by_mean),
                              ("kNN (told the genes)", by_knn)):
                rows[name] = {"passes": 0.0, **per_cell(truth, got)}
            print("%g of the tokens hidden" % fraction)
            d.print_table(rows, "schedule")
            result[str(fraction)] = rows
    d.save(args, "reconstruct", {"fractions": result})


def hidden_genes(daemon, cell, fraction, seed):
    """Which tokens the mask hides: with them alone as candidates they must all be named, so a
    request with every gene of the cell as candidate, one step, names exactly the hidden ones."""
    body = {"cells": [cell], "mask": {"fraction": fraction, "seed": seed}, "steps": 1,
            "candidates": cell["genes"]}
    return d.post(daemon, "/v1/denoise", body)["data"][0]["genes"]


def per_cell(truth, got):
    scores = [d.value_scores(t, g) for t, g in zip(truth, got)]
    return {n: float(np.nanmean([s[n] for s in scores]))
            for n in ("pearson", "spearman", "mae_nonzero")}


if __name__ == "__main__":
    main()
