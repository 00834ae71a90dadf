#!/usr/bin/env python3
"""Cells made by POST /v1/generate against real ones: E-distance and marginals.

    generate.py --h5ad FILE [--model DIR] [--cells 200] [--temperatures 0.5,1] [--out DIR]

As many cells are made as there are test cells, with the lengths of training cells. E-distance
(Szekely & Rizzo 2013, as scPerturb uses it): 2 E|X - Y| - E|X - X'| - E|Y - Y'| over 50 principal
components of the real training cells; 0 for one distribution. Marginals: correlation over genes of
mean value and of the share of cells that express it, and how alike the made cells are among
themselves (mean distance of pairs over the real cells': below 1 they are too uniform). Beside it:
  training cells    as many real ones: what chance leaves of the E-distance
  shuffled genes    each gene drawn on its own from the training cells: marginals, no structure
"""
import numpy as np
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

import diffusion as d


def mean_pair(a):
    n = len(a)
    return cdist(a, a).sum() / (n * (n - 1))


def e_distance(a, b):
    """Unbiased: a cell is not compared with itself"""
    return float(2 * cdist(a, b).mean() - mean_pair(a) - mean_pair(b))


def figures(made, real, pca):
    a, b = pca.transform(made), pca.transform(real)
    return {"e_distance": e_distance(a, b),
            "mean_pearson": d.correlation("pearson", made.mean(0), real.mean(0)),
            "detection_pearson": d.correlation("pearson", (made > 0).mean(0), (real > 0).mean(0)),
            "genes_never_made": int(((made > 0).sum(0)[(real > 0).any(0)] == 0).sum()),
            "spread": float(mean_pair(a) / mean_pair(b)),
            "value_mean": float(made[made > 0].mean())}


def generated(cells, daemon, n, lengths, **fields):
    out = np.zeros((n, len(cells.genes)))
    column = {g: j for j, g in enumerate(cells.genes)}
    for first in range(0, n, 20):
        body = {"n": min(20, n - first), "length": lengths, "candidates": cells.genes,
                "seed": 1000 + first, **fields}
        for i, item in enumerate(d.post(daemon, "/v1/generate", body)["data"]):
            for gene, value in zip(item["genes"], item["values"]):
                out[first + i, column[gene]] = value
    return out


def main():
    args = d.arguments(__doc__, temperatures=(str, "0.5,1", "of the sampler"),
                       steps=(str, "16,64", "fixed schedules"))
    rng = np.random.default_rng(args.seed)
    rows = {}
    with d.start(args) as daemon:
        cells = d.Cells(args, daemon)
        cells.describe(args)
        real, train = cells.x[cells.test], cells.train
        most = daemon.get("/v1/models").json()["data"][0]["max_gene_len"]
        lengths = [int(n) for n in np.minimum((train > 0).sum(1), most) if n][:10000]
        pca = PCA(min(50, len(train) - 1, len(real)), random_state=0).fit(train)
        n = len(real)
        rows["training cells"] = figures(train[rng.choice(len(train), n)], real, pca)
        shuffled = np.stack([rng.permutation(c)[:n] if len(c) >= n else rng.choice(c, n)
                             for c in train.T], 1)
        rows["shuffled genes"] = figures(shuffled, real, pca)
        for t in map(float, args.temperatures.split(",")):
            for s in map(int, args.steps.split(",")):
                made = generated(cells, daemon, n, lengths, temperature=t, steps=s)
                rows["temperature %g, %d steps" % (t, s)] = figures(made, real, pca)
    d.print_table(rows, "cells")
    d.save(args, "generate", {"rows": rows})


if __name__ == "__main__":
    main()
