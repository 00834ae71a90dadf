#!/usr/bin/env python3
"""How much of a left-out laboratory's score is luck, and what do fewer genes cost?

    tests/bench/quality/seeds.py --model DIR --labels labels.tsv --data ../shared/data \\
        --train kang_ifnb.h5ad,pbmc_ifnb_9k.h5ad --test pbmc68k_reduced.h5ad --seeds 0,1,2,3,4 \\
        --only "B,CD4 T,CD8 T" --out DIR -- --epochs 12

One head for each seed, trained on the same files (what follows -- goes to finetune), asked about
the test file as it is and about variants of it: its counts, whose total is that of its own genes
alone, and a half and a quarter of its genes, drawn once, as counts too. Each answer also by its
halves: the network alone (a copy of the head without genes.*) and the linear term alone (a copy
whose network says nothing). Beside them logistic regression on the genes that the variant and any
training file have. Figures are accuracy / macro-F1 over the types of --only.

Folders that are complete are not done again.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys

import numpy as np

import baselines
import inputs
import leave_one_out
import metrics
import report

VARIANTS = [("as it is", None), ("counts", 1.0), ("half of the genes", 0.5), ("a quarter", 0.25)]
HALVES = ["both", "network", "linear"]


def arguments():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("--model", required=True)
    a.add_argument("--labels", required=True)
    a.add_argument("--data", required=True)
    a.add_argument("--train", required=True, help="FILE,FILE in --data")
    a.add_argument("--test", required=True, help="FILE in --data, whose counts can be recovered")
    a.add_argument("--seeds", default="0,1,2")
    a.add_argument("--only", default="", help="types that are scored: A,B,C; all otherwise")
    a.add_argument("--exclude")
    a.add_argument("--train-program", default=os.environ.get(
        "SCDIVA_TRAIN", os.path.join(leave_one_out.ROOT, "build/scdiva-train")))
    a.add_argument("--out", required=True)
    argv = sys.argv[1:]
    more = argv[argv.index("--") + 1:] if "--" in argv else []
    args = a.parse_args(argv[:argv.index("--")] if "--" in argv else argv)
    args.train, args.seeds = args.train.split(","), [int(s) for s in args.seeds.split(",")]
    args.only = [t.strip() for t in args.only.split(",") if t.strip()]
    return args, more


# ---- the test file with other genes --------------------------------------------------------------

def counts_of(x):
    """Counts of log1p values: expm1 of each is a multiple of its row's least one."""
    y = np.expm1(np.asarray(x, np.float64))
    least = np.where(y > 0, y, np.inf).min(1, keepdims=True)
    counts = np.rint(y / least)
    if not np.allclose(counts * least, y, rtol=0.05):
        raise SystemExit("the test file's counts cannot be recovered")
    return counts.astype(np.float32)


def write_variant(source, share, path):
    """The file with this share of its genes, as counts; cells that keep none stay, empty."""
    import anndata
    data = anndata.read_h5ad(source)
    x = data.raw.X if data.raw is not None else data.X
    names = data.raw.var_names if data.raw is not None else data.var_names
    x = np.asarray(x.todense() if hasattr(x, "todense") else x)
    x = x if np.array_equal(x, np.rint(x)) else counts_of(x)
    keep = np.sort(np.random.default_rng(3).permutation(x.shape[1])[:round(share * x.shape[1])])
    out = anndata.AnnData(x[:, keep], obs=data.obs[[]])
    out.var_names = names[keep]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    out.write_h5ad(path)


def variants(args):
    """[(name, path)]; every path ends in the test file's name, by which labels find its cells."""
    source, found = os.path.join(args.data, args.test), []
    for number, (name, share) in enumerate(VARIANTS):
        path = source
        if share is not None:
            path = os.path.join(args.out, "variant%d" % number, args.test)
            if not os.path.exists(path):
                write_variant(source, share, path)
        found.append((name, path))
    return found


# ---- halves of a head ----------------------------------------------------------------------------

def read_safetensors(path):
    with open(path, "rb") as f:
        raw = f.read()
    n = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:8 + n]), raw[8 + n:]


def write_safetensors(path, header, data):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + data)


def split_head(heads, name):
    """Copies of the head: NAME-network without its linear half, NAME-linear whose network's last
    layer is zero. False: it has no linear half."""
    folder = os.path.join(heads, name)
    header, data = read_safetensors(os.path.join(folder, "head.safetensors"))
    if "genes.weight" not in header:
        return False
    for half in ("network", "linear"):
        to = "%s-%s" % (folder, half)
        shutil.copytree(folder, to, dirs_exist_ok=True)
        new, parts, at = {}, [], 0
        for tensor, about in header.items():
            if tensor == "__metadata__" or (half == "network" and tensor.startswith("genes.")):
                continue
            first, end = about["data_offsets"]
            part = data[first:end]
            if half == "linear" and tensor.startswith("mlp.2."):
                part = bytes(len(part))
            new[tensor] = {**about, "data_offsets": [at, at + len(part)]}
            parts.append(part)
            at += len(part)
        write_safetensors(os.path.join(to, "head.safetensors"), new, b"".join(parts))
    return True


# ---- runs ----------------------------------------------------------------------------------------

def train(args, more, seed, model):
    name = "seed%d" % seed
    if os.path.exists(os.path.join(model, "heads", name, "head.json")):
        return name
    labels = leave_one_out.labels_of(args.labels, args.train, os.path.join(args.out, "train.tsv"))
    leave_one_out.call(
        [args.train_program, "finetune", "annotation", "--model", model, "--name", name, "--labels",
         labels, "--seed", str(seed)] +
        [x for f in args.train for x in ("--data", os.path.join(args.data, f))] +
        leave_one_out.exclude_of(args.exclude, args.train, os.path.join(args.out, "ex.tsv")) + more,
        os.path.join(args.out, name + ".log"))
    return name


def score(args, keys, labels, probability):
    table, _ = inputs.read_labels(args.labels)
    truth = inputs.look_up(table, keys)
    rows = np.isin(truth, args.only) if args.only else truth != ""
    found = metrics.annotation(truth[rows], labels, probability[rows])
    return "%.3f / %.3f" % (found["accuracy"], found["macro_f1"]), found


def ask(args, model, head, path, number):
    out = os.path.join(args.out, "%s.variant%d.tsv" % (head, number))
    if not os.path.exists(out):
        log = os.path.join(args.out, "eval.log")
        command = [args.train_program, "eval", "--model", model, "--head", head, "--data", path,
                   "--predictions", out + ".new"]
        with open(log, "w", encoding="utf-8") as f:
            if subprocess.run(command, stdout=f, stderr=f, check=False).returncode:
                raise SystemExit("eval failed: %s has its words" % log)
        os.rename(out + ".new", out)
    cells = inputs.read_predictions(out)
    return score(args, cells.keys, cells.labels, cells.probability)


def regression(args, path):
    """Logistic regression across laboratories, as the tables of run.py have it."""
    table, _ = inputs.read_labels(args.labels)
    test = inputs.read_h5ad(path)
    files = [inputs.read_h5ad(os.path.join(args.data, f)) for f in args.train]
    measured = set().union(*(f.genes for f in files))
    genes = [g for g in dict.fromkeys(test.genes) if g in measured]
    keys = [k for f in files for k in f.keys]
    truth = inputs.look_up(table, keys)
    learn = inputs.stacked(files, genes)[truth != ""]
    labels = sorted(set(truth) - {""})
    found = baselines.classify(learn, truth[truth != ""], inputs.stacked([test], genes), labels)
    return score(args, test.keys, labels, found)[0]


def main():
    args, more = arguments()
    model = os.path.join(args.out, "model")
    leave_one_out.link_model(args.model, model)
    files = variants(args)
    rows, all_found = [], {}
    for seed in args.seeds:
        name = train(args, more, seed, model)
        halves = HALVES if split_head(os.path.join(model, "heads"), name) else HALVES[:1]
        for half in halves:
            head = name if half == "both" else "%s-%s" % (name, half)
            cells = [ask(args, model, head, path, n) for n, (_, path) in enumerate(files)]
            rows.append([str(seed), half] + [text for text, _ in cells])
            for (variant, _), (_, found) in zip(files, cells):
                all_found.setdefault((half, variant), []).append(found)
    for half in HALVES:
        if (half, files[0][0]) in all_found:
            rows.append(["mean", half] + [
                "%.3f / %.3f" % tuple(np.mean([f[k] for f in all_found[half, v]])
                                      for k in ("accuracy", "macro_f1")) for v, _ in files])
    rows.append(["", "logistic regression"] + [regression(args, path) for _, path in files])
    text = "\n".join(report.lines_of("accuracy / macro-F1, %s left out" % args.test,
                                     ["seed", "answer"] + [v for v, _ in files], rows))
    with open(os.path.join(args.out, "table.txt"), "w", encoding="utf-8") as f:
        f.write(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
