#!/usr/bin/env python3
"""The whole evaluation of one set of cells: annotation and embedding, beside their baselines.

    tests/bench/quality/run.py --predictions P.tsv --h5ad TEST.h5ad --labels LABELS.tsv \\
        --train-h5ad TRAIN.h5ad --embeddings E.npy --batch-column donor --out DIR

P.tsv and E.npy are what `scdiva-train eval --predictions P.tsv --embeddings E.npy` writes
(README.md has the formats). Without --train-h5ad the baselines are cross-validated within the
test cells.
Prints the table; DIR gets table.txt, results.json and plots.
"""
import argparse
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402  (the environment comes first)

import baselines  # noqa: E402
import inputs  # noqa: E402
import metrics  # noqa: E402
import report  # noqa: E402


def arguments():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("--predictions", required=True, help="table: barcode, truth, a column per label")
    a.add_argument("--labels", help="table of truths, hard or soft; stands above column truth")
    a.add_argument("--embeddings", help=".npy, the rows of the predictions in their order")
    a.add_argument("--h5ad", action="append", default=[], help="the cells' values, for baselines")
    a.add_argument("--train-h5ad", action="append", default=[],
                   help="cells that baselines learn from, labelled by --labels")
    a.add_argument("--batch-column", help="of obs in the files of --h5ad")
    a.add_argument("--only", default="", help="score cells of these types alone: A,B,C")
    a.add_argument("--unseen", default="", help="labels left out of training: A,B,C")
    a.add_argument("--name", default="scdiva", help="of the method in tables")
    a.add_argument("--out", required=True, help="folder for results")
    return a.parse_args()


def truth_of(args, cells):
    truth = cells.truth
    labels = {}
    if args.labels:
        labels, _ = inputs.read_labels(args.labels)
        truth = inputs.look_up(labels, cells.keys)
    if not (truth != "").any():
        raise SystemExit("%s: no cell has a truth; give --labels" % args.predictions)
    return truth, labels


def learned(args, cells, truth, labels):
    """({baseline: probabilities}, how they learned, the test cells' values or None)"""
    if not args.h5ad:
        return {}, "nowhere: no --h5ad", None
    test = inputs.together([inputs.read_h5ad(p, args.batch_column) for p in args.h5ad])
    rows = inputs.rows_of(test.keys, cells.keys)
    if (rows < 0).any():
        raise SystemExit("%d of %d predicted cells, the first %s, are not in %s" % (
            (rows < 0).sum(), len(rows), cells.keys[int(np.argmax(rows < 0))][1],
            ", ".join(args.h5ad)))
    test = inputs.Values(cells.keys, test.genes, test.x[rows],
                         test.batch[rows] if test.batch is not None else None)
    unseen = set(filter(None, args.unseen.split(",")))
    seen = [n for n in cells.labels if n not in unseen]
    if not args.train_h5ad:
        teach = np.where(np.isin(truth.astype(str), seen), truth, "")
        found = baselines.within(test.x, teach, cells.labels)
        return found, "within these cells, five folds", test
    train = [inputs.read_h5ad(p) for p in args.train_h5ad]
    measured = set().union(*(v.genes for v in train))
    genes = [g for g in dict.fromkeys(test.genes) if g in measured]
    keys, mine = [k for v in train for k in v.keys], set(cells.keys)
    known = inputs.look_up(labels, keys)
    use = np.array([k in seen and key not in mine for k, key in zip(known, keys)])
    if len(set(known[use])) < 2:
        raise SystemExit("--train-h5ad: fewer than two types among its labelled cells")
    if not genes:
        raise SystemExit("--train-h5ad: no gene of the test cells is in these files")
    found = baselines.across(inputs.stacked(train, genes)[use], known[use],
                             inputs.stacked([test], genes), cells.labels)
    return found, "from %d other cells, %d genes" % (use.sum(), len(genes)), test


def representations(args, cells, truth, test):
    """{name: (cells, dimensions)} of cells with a truth and an embedding; their truth; batch"""
    own = np.load(args.embeddings)
    if own.ndim != 2 or len(own) != len(cells.keys):
        raise SystemExit("%s: shape %s, but %d predictions" % (args.embeddings, own.shape,
                                                               len(cells.keys)))
    counts = {t: (truth == t).sum() for t in set(truth)}
    use = np.isfinite(own).all(1) & np.array([t != "" and counts[t] > 1 for t in truth])
    found = {args.name: own[use]}
    if test is not None:
        for name in baselines.NAMES[1:]:
            found[name] = baselines.represent(name, test.x[use])[0]
    batch = test.batch[use] if test is not None and test.batch is not None else None
    return found, truth[use], batch


def main():
    args = arguments()
    cells = inputs.read_predictions(args.predictions)
    truth, labels = truth_of(args, cells)
    unseen = [n for n in args.unseen.split(",") if n]
    if args.only:
        keep = np.isin(truth.astype(str), args.only.split(",") + unseen)
        truth = np.where(keep, truth, "")
    found, how, test = learned(args, cells, truth, labels)
    if not args.train_h5ad and found:  # the model on the cells that the baselines were judged on
        judged = np.isfinite(next(iter(found.values()))).all(1) | np.isin(truth.astype(str), unseen)
        found = {k: np.where(judged[:, None], v, np.nan) for k, v in found.items()}
    results = {"predictions": args.predictions, "baselines_learned": how, "annotation": {}}
    for name, p in [(args.name, cells.probability)] + [
            ("LR, " + n, p) for n, p in found.items()]:
        results["annotation"][name] = metrics.annotation(truth, cells.labels, p, unseen)
    if args.embeddings:
        spaces, kinds, batch = representations(args, cells, truth, test)
        results["embedding_cells"] = len(kinds)
        results["embedding"] = {n: metrics.embedding(x, kinds, batch) for n, x in spaces.items()}
    print(report.write(results, args.out))


if __name__ == "__main__":
    main()
