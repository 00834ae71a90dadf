"""What the evaluations of imputation, reconstruction, generation and associations share: cells, a
daemon, baselines and figures.

Test cells are those of --h5ad that the table --test names (the model's exclude.tsv: never trained
on); where it names none of this file, every cell is one, and the table printed says so. Baselines
learn from the file's other cells.
"""
import argparse
import json
import os
import sys

import numpy as np
from scipy import stats

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(HERE)), "e2e"))

import harness  # noqa: E402  (the paths come first)
import inputs  # noqa: E402

NEIGHBOURS = 10


def arguments(doc, **more):
    parser = argparse.ArgumentParser(description=doc,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="config/models/pbmc")
    parser.add_argument("--h5ad", required=True)
    parser.add_argument("--test", help="test cells: file, barcode; default MODEL/exclude.tsv")
    parser.add_argument("--cells", type=int, default=200, help="test cells at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", help="folder for results.json")
    for name, (kind, default, text) in more.items():
        parser.add_argument("--" + name.replace("_", "-"), type=kind, default=default, help=text)
    return parser.parse_args()


class Cells:
    """x (cells, genes) log1p values of genes that the model knows; rows `test` and `train`."""

    def __init__(self, args, daemon):
        values = inputs.read_h5ad(args.h5ad)
        known = daemon.post("/v1/genes", {"genes": values.genes}).json()["data"]
        seen, keep, self.genes = set(), [], []
        for i, gene in enumerate(known):
            if gene["token"] is not None and gene["token"] not in seen:
                seen.add(gene["token"])
                keep.append(i)
                self.genes.append(gene["symbol"])
        self.x = values.x[:, keep]
        keys = [tuple(k) for k in values.keys]
        table = args.test or os.path.join(args.model, "exclude.tsv")
        named = set()
        if os.path.exists(table):
            with open(table, encoding="utf-8") as f:
                named = {tuple(line.rstrip("\n").split("\t")) for line in f}
        rng = np.random.default_rng(args.seed)
        enough = (self.x > 0).sum(1) >= 20
        left_out = np.array([k in named for k in keys]) & enough
        self.held_out = bool(left_out.any())
        test = np.flatnonzero(left_out if self.held_out else enough)
        self.test = np.sort(rng.permutation(test)[:args.cells])
        others = np.ones(len(keys), bool)
        others[left_out if self.held_out else self.test] = False
        self.train = self.x[others]

    def describe(self, args):
        trained = "never trained on" if self.held_out else "NOT held out of pre-training"
        print(f"{os.path.basename(args.h5ad)}: {len(self.test)} test cells ({trained}), "
              f"{len(self.train)} for the baselines, {len(self.genes)} genes, "
              f"model {args.model}\n")

    def cell(self, row, without=()):
        """A request's cell: what is expressed, some genes left out"""
        shown = [j for j in np.flatnonzero(self.x[row]) if j not in without]
        return {"genes": [self.genes[j] for j in shown],
                "values": [float(v) for v in self.x[row, shown]]}


def start(args):
    return harness.Daemon(args.model, flags=["--cache-mb", "0"])


def post(daemon, path, body):
    answer = daemon.post(path, {"input": "log1p_cp10k", **body}, timeout=600)
    if answer.status != 200:
        sys.exit(f"{path}: {answer}")
    return answer.json()


def nearest(train, seen):
    """(genes) mean of the ten training cells nearest to what is seen, by cosine"""
    norm = np.linalg.norm(train, axis=1)
    likeness = train @ seen / np.where(norm > 0, norm, 1)
    return train[np.argsort(-likeness)[:NEIGHBOURS]].mean(0)


def correlation(kind, a, b):
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float({"pearson": stats.pearsonr, "spearman": stats.spearmanr}[kind](a, b)[0])


def value_scores(truth, found):
    """Of all held-out values together"""
    truth, found = np.asarray(truth, float), np.asarray(found, float)
    error, positive = np.abs(truth - found), truth > 0
    return {"pearson": correlation("pearson", truth, found),
            "spearman": correlation("spearman", truth, found),
            "pearson_nonzero": correlation("pearson", truth[positive], found[positive]),
            "mae_nonzero": float(error[positive].mean()) if positive.any() else float("nan"),
            "mae_zero": float(error[~positive].mean()) if (~positive).any() else float("nan")}


def print_table(rows, first="method"):
    """{name: {figure: value}}"""
    columns = list(next(iter(rows.values())))
    print("| " + " | ".join([first] + columns) + " |")
    print("|" + "---|" * (len(columns) + 1))
    for name, figures in rows.items():
        cells = ["" if figures.get(c) is None else
                 f"{figures[c]:.3f}" if isinstance(figures[c], float) else str(figures[c])
                 for c in columns]
        print("| " + " | ".join([name] + cells) + " |")
    print()


def save(args, name, result):
    if args.out:
        os.makedirs(args.out, exist_ok=True)
        with open(os.path.join(args.out, name + ".json"), "w", encoding="utf-8") as f:
            json.dump({"arguments": vars(args), **result}, f, indent=1)
