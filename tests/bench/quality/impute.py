#!/usr/bin/env python3
"""Values held out of each cell and found again by POST /v1/denoise, beside baselines.

    impute.py --h5ad FILE [--model DIR] [--fraction 0.1] [--clean] [--out DIR]

Of each test cell a tenth of the expressed genes, and as many of those that were measured and are 0,
are held out. Three ways to ask the model:
  appended    the genes are taken out of the cell: nothing of their values is left. The fair one.
  in place    they stay where their values put them and the values are hidden: the place in the
              order still tells the rank, so zeros are not asked
  clean       as appended, with [LAT] pooled from everything (--clean): for comparison alone, it
              LEAKS where hidden values are in the cell
Baselines: the gene's mean over the training cells, the mean of the ten nearest of them by what is
visible, and one number for every gene: the mean of what is visible.
"""
import numpy as np

import diffusion as d


def main():
    args = d.arguments(__doc__, fraction=(float, 0.1, "of the expressed genes of a cell"),
                       clean=(int, 0, "1: also with clean pooling, which leaks"))
    rng = np.random.default_rng(args.seed)
    found = {}
    with d.start(args) as daemon:
        cells = d.Cells(args, daemon)
        cells.describe(args)
        mean = cells.train.mean(0)
        for row in cells.test:
            x = cells.x[row]
            expressed, zero = np.flatnonzero(x > 0), np.flatnonzero(x == 0)
            n = max(1, round(args.fraction * len(expressed)))
            nonzero = rng.choice(expressed, n, replace=False)
            asked = np.concatenate([nonzero, rng.choice(zero, min(n, len(zero)), replace=False)])
            seen = x.copy()
            seen[asked] = 0

            def add(method, genes, values):
                truth, got = found.setdefault(method, ([], []))
                truth.extend(x[genes])
                got.extend(values)

            def ask(method, genes, cell, **fields):
                names = [cells.genes[j] for j in genes]
                item = d.post(daemon, "/v1/denoise", {"cells": [cell], "impute": names,
                                                      **fields})["data"][0]
                value = dict(zip(item["genes"], item["values"]))
                add(method, genes, [value[g] for g in names])

            ask("model, appended", asked, cells.cell(row, set(asked)))
            ask("model, in place", nonzero, cells.cell(row))
            if args.clean:
                ask("model, in place, clean (LEAKS)", nonzero, cells.cell(row), pooling="clean")
            near = d.nearest(cells.train, seen)
            add("gene mean", asked, mean[asked])
            add("kNN", asked, near[asked])
            add("cell mean", asked, np.full(len(asked), seen[seen > 0].mean()))
            add("gene mean, non-zeros", nonzero, mean[nonzero])
            add("kNN, non-zeros", nonzero, near[nonzero])
    rows = {m: {"n": len(t), **d.value_scores(t, f)} for m, (t, f) in found.items()}
    d.print_table(rows)
    d.save(args, "impute", {"methods": rows})


if __name__ == "__main__":
    main()
