#!/usr/bin/env python3
"""Are batches gone from the embeddings, and types still there? scIB's figures, beside PCA and the
embeddings before.

    tests/bench/quality/integration.py --model config/models/pbmc \\
        --data ../shared/data/kang_ifnb.h5ad --data ../shared/data/pbmc68k_reduced.h5ad \\
        --truth config/models/pbmc/labels.tsv --out DIR -- --epochs 8 --seed 1

Runs `scdiva-train finetune integration` twice, without labels and with them (what follows -- goes
to both; --batch-column COLUMN, before it, else each file is a batch), embeds all cells with each
model by `scdiva-train eval`, and asks scib-metrics. Labels are given on half of each batch's cells
alone, drawn with seed 0; the second table is about the cells whose labels no method saw. Prints
tables; DIR gets table.txt and results.json. A model that is there is not trained again.
"""
import argparse
import json
import os
import subprocess
import sys
import warnings

os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np  # noqa: E402  (the environment comes first)

import inputs  # noqa: E402
from leave_one_out import ROOT, link_model  # noqa: E402

PCA_DIMENSIONS = 50
SHOWN = [("iLISI", "ilisi_knn"), ("kBET", "kbet_per_label"), ("BRAS", "bras"),
         ("PCR", "pcr_comparison"), ("graph", "graph_connectivity"), ("cLISI", "clisi_knn"),
         ("isolated", "isolated_labels"), ("NMI", "nmi_ari_cluster_labels_kmeans_nmi"),
         ("ARI", "nmi_ari_cluster_labels_kmeans_ari"), ("silhouette", "silhouette_label"),
         ("batch", "Batch correction"), ("bio", "Bio conservation"), ("0.4/0.6", "Total")]


def arguments():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("--model", required=True, help="a model directory; it is not written to")
    a.add_argument("--data", action="append", required=True)
    a.add_argument("--batch-column", help="of obs; absent: each file is a batch")
    a.add_argument("--truth", required=True, help="a table of labels, as finetune reads it")
    a.add_argument("--exclude")
    a.add_argument("--train", default=os.path.join(ROOT, "build", "scdiva-train"))
    a.add_argument("--out", required=True)
    argv = sys.argv[1:]
    cut = argv.index("--") if "--" in argv else len(argv)
    return a.parse_args(argv[:cut]), argv[cut + 1:]


def run(command):
    p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       check=False)
    if p.returncode:
        raise SystemExit("%s\n%s" % (" ".join(command), p.stdout))
    return p.stdout


def of_these_files(args):
    """--exclude without the rows of other files, which the trainer would not find"""
    names = {os.path.basename(path) for path in args.data}
    path = os.path.join(args.out, "exclude.tsv")
    with open(args.exclude, encoding="utf-8") as f, open(path, "w", encoding="utf-8") as out:
        out.writelines(line for line in f if "\t" not in line or line.split("\t")[0] in names)
    return path


def common(args):
    """Options that train and eval share: the same cells for both."""
    files = [x for path in args.data for x in ("--data", path)]
    return files + (["--exclude", args.exclude] if args.exclude else [])


def embed(args, model, out):
    """(cells of all files in order, H)"""
    run([args.train, "eval", "--model", model, *common(args), "--embeddings", out])
    return np.load(out)


def read_values(args):
    """Values of the cells that the trainer sees, files in order; the file is the batch where no
    column is."""
    left_out = set()
    if args.exclude:
        with open(args.exclude, encoding="utf-8") as f:
            left_out = {tuple(line.rstrip("\n").split("\t")[-2:]) for line in f
                        if line.strip() and not line.startswith("#")}
    read = []
    for path in args.data:
        v = inputs.read_h5ad(path, args.batch_column)
        if not args.batch_column:
            v.batch = np.array([os.path.basename(path)] * len(v.keys), object)
        keep = [i for i, key in enumerate(v.keys)
                if key not in left_out and (key[1],) not in left_out]
        read.append(inputs.Values([v.keys[i] for i in keep], v.genes, v.x[keep], v.batch[keep]))
    return inputs.together(read)


def half_of(keys, batch):
    """The half of each batch whose labels are shown."""
    rng, shown = np.random.default_rng(0), np.zeros(len(keys), bool)
    for b in sorted(set(batch)):
        rows = np.flatnonzero(batch == b)
        shown[rng.permutation(rows)[:len(rows) // 2]] = True
    return shown


def labels_file(args, keys, shown):
    """The rows of --truth about the cells shown."""
    head, rows = inputs.table(args.truth)
    wanted = {k for k, s in zip(keys, shown) if s}
    path = os.path.join(args.out, "labels.tsv")
    kept = [r for r in rows if inputs.key_of(head, r) in wanted]
    used = [i for i, name in enumerate(head) if name in inputs.NOT_LABELS or
            sum(float(r[i]) > 0.5 for r in kept) > 1]
    with open(path, "w", encoding="utf-8") as f:
        for r in [head] + kept:
            if r is head or abs(sum(float(r[i]) for i in used
                                    if head[i] not in inputs.NOT_LABELS) - 1) < 1e-3:
                f.write("\t".join(r[i] for i in used) + "\n")
    return path


def pca(values):
    from sklearn.decomposition import PCA
    n = min(PCA_DIMENSIONS, min(values.x.shape) - 1)
    return PCA(n, random_state=0).fit_transform(values.x - values.x.mean(0))


def judge(representations, truth, batch):
    """{name: {measure: value}} by scib-metrics' own benchmark; PCA is what PCR compares with."""
    import anndata
    import pandas as pd
    from scib_metrics.benchmark import Benchmarker
    data = anndata.AnnData(np.zeros((len(truth), 1), np.float32),
                           obs=pd.DataFrame({"batch": pd.Categorical(batch.astype(str)),
                                             "label": pd.Categorical(truth.astype(str))},
                                            index=[str(i) for i in range(len(truth))]))
    for name, x in representations.items():
        data.obsm[name] = np.ascontiguousarray(x, np.float32)
    bench = Benchmarker(data, "batch", "label", list(representations), progress_bar=False,
                        pre_integrated_embedding_obsm_key="PCA")
    bench.benchmark()
    found = bench.get_results(min_max_scale=False, clean_names=False)
    return {name: {m: float(found.loc[name, m]) for _, m in SHOWN} for name in representations}


def lines(title, scores):
    yield "**%s**:" % title
    yield ""
    yield "| embeddings | " + " | ".join(s for s, _ in SHOWN) + " |"
    yield "|---" * (len(SHOWN) + 1) + "|"
    for name, found in scores.items():
        yield "| %s | %s |" % (name, " | ".join("%.3f" % found[m] for _, m in SHOWN))
    yield ""


def main():
    args, rest = arguments()
    os.makedirs(args.out, exist_ok=True)
    warnings.filterwarnings("ignore")
    if args.exclude:
        args.exclude = of_these_files(args)
    values = read_values(args)
    keys, batch = values.keys, values.batch
    base = os.path.join(args.out, "uncorrected")  # the encoder alone, which no head has changed
    link_model(args.model, base)
    before = embed(args, base, base + ".npy")
    if len(before) != len(keys):
        raise SystemExit("%d embeddings for %d cells" % (len(before), len(keys)))
    shown = half_of(keys, batch)
    columns = ["--batch-column", args.batch_column] if args.batch_column else []
    found = {"PCA": pca(values), "uncorrected": before}
    for name, more in (("without labels", []),
                       ("with labels", ["--labels", labels_file(args, keys, shown)])):
        model = os.path.join(args.out, name.replace(" ", "-"))
        if not os.path.exists(model):
            print(run([args.train, "finetune", "integration", "--model", args.model, "--out", model,
                       *common(args), *columns, *more, *rest]), flush=True)
        found[name] = embed(args, model, model + ".npy")
    truth = inputs.look_up(inputs.read_labels(args.truth)[0], keys)
    good = (truth != "") & np.all([np.isfinite(e).all(1) for e in found.values()], 0)
    results, text = {}, []
    for title, rows in (("all cells", good), ("cells whose labels were not shown", good & ~shown)):
        scores = judge({n: e[rows] for n, e in found.items()}, truth[rows], batch[rows])
        results[title] = {"cells": int(rows.sum()), "genes_of_pca": len(values.genes),
                          "scores": scores}
        text += lines("%s, %d" % (title[0].upper() + title[1:], rows.sum()), scores)
    with open(os.path.join(args.out, "results.json"), "w", encoding="utf-8") as f:
        json.dump(results, f, indent=1)
    with open(os.path.join(args.out, "table.txt"), "w", encoding="utf-8") as f:
        f.write("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
