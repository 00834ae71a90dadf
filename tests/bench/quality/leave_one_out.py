#!/usr/bin/env python3
"""Does a head know cells of a laboratory that it has not seen? One laboratory left out at a time.

    tests/bench/quality/leave_one_out.py --model DIR --labels labels.tsv --data ../shared/data \\
        --fold kang_ifnb.h5ad,pbmc_ifnb_9k.h5ad --fold pbmc68k_reduced.h5ad --out DIR -- \\
        --epochs 20 --sum-share 0.5

For each fold: `scdiva-train finetune annotation` on the files of the other folds (what follows --
goes to it), `scdiva-train eval` on the fold's own files, and run.py on what that writes, with
baselines that learn from the same cells. Files of one study belong in one fold. The backbone is
taken as it is: one that was pre-trained on the fold's cells has seen them, if not their labels.

Folders that are complete are not done again, so an interrupted run goes on where it was.
"""
import argparse
import json
import os
import subprocess
import sys

import inputs
import report

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.normpath(os.path.join(HERE, "..", "..", ".."))
SHOWN = [("cells", "cells"), ("accuracy", "accuracy"), ("macro-F1", "macro_f1"), ("ECE", "ece"),
         ("Brier", "brier")]


def arguments():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("--model", required=True, help="a model directory; it is not written to")
    a.add_argument("--labels", required=True, help="table with file, barcode, a column per label")
    a.add_argument("--data", required=True, help="folder of the files")
    a.add_argument("--fold", action="append", required=True, help="FILE,FILE: left out together")
    a.add_argument("--exclude", help="cells never trained on, as for finetune")
    a.add_argument("--only", default="", help="also score cells of these types alone: A,B,C")
    a.add_argument("--train-program",
                   default=os.environ.get("SCDIVA_TRAIN", os.path.join(ROOT, "build/scdiva-train")))
    a.add_argument("--out", required=True)
    argv = sys.argv[1:]
    more = argv[argv.index("--") + 1:] if "--" in argv else []
    args = a.parse_args(argv[:argv.index("--")] if "--" in argv else argv)
    args.folds = [f.split(",") for f in args.fold]
    if len(args.folds) < 2:
        a.error("at least two folds")
    return args, more


def link_model(model, to):
    """The model's files under another roof, so that heads made here stay here."""
    os.makedirs(os.path.join(to, "heads"), exist_ok=True)
    for name in ("config.json", "model.safetensors", "genes.tsv", "card.md"):
        source, link = os.path.abspath(os.path.join(model, name)), os.path.join(to, name)
        if os.path.exists(source) and not os.path.lexists(link):
            os.symlink(source, link)


def labels_of(path, files, to):
    """The rows of a table of labels that are about these files."""
    head, rows = inputs.table(path)
    mine = [r for r in rows if "file" not in head or r[head.index("file")] in files]
    if not mine:
        raise SystemExit("%s: no label for %s" % (path, ", ".join(files)))
    with open(to, "w", encoding="utf-8") as f:
        f.writelines("\t".join(r) + "\n" for r in [head] + mine)
    return to


def exclude_of(path, files, to):
    """--exclude with the lines about these files; the program refuses lines about others."""
    if not path:
        return []
    with open(path, encoding="utf-8") as f:
        mine = [line for line in f if "\t" not in line or line.split("\t")[0] in files]
    with open(to, "w", encoding="utf-8") as f:
        f.writelines(mine)
    return ["--exclude", to] if mine else []


def call(command, log):
    print("  " + " ".join(command[:4]) + " ...", flush=True)
    with open(log, "w", encoding="utf-8") as f:
        code = subprocess.run(command, stdout=f, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        with open(log, encoding="utf-8") as f:
            sys.stderr.write(f.read()[-2000:])
        raise SystemExit("%s failed with %d; %s has its words" % (command[0], code, log))


def one_fold(args, more, number):
    test = args.folds[number]
    train = [f for i, fold in enumerate(args.folds) if i != number for f in fold]
    out, model = os.path.join(args.out, "fold%d" % number), os.path.join(args.out, "model")
    os.makedirs(out, exist_ok=True)
    print("without %s" % ", ".join(test), flush=True)

    def data(files, option):
        return [x for f in files for x in (option, os.path.join(args.data, f))]

    head = "without%d" % number
    excluded = {n: exclude_of(args.exclude, files, os.path.join(out, n + "_exclude.tsv"))
                for n, files in (("train", train), ("test", test))}
    if not os.path.exists(os.path.join(model, "heads", head, "head.json")):
        call([args.train_program, "finetune", "annotation", "--model", model, "--name", head,
              "--labels", labels_of(args.labels, train, os.path.join(out, "train.tsv"))] +
             data(train, "--data") + excluded["train"] + more, os.path.join(out, "finetune.log"))
    predictions, embeddings = os.path.join(out, "predictions.tsv"), os.path.join(out, "cells.npy")
    if not (os.path.exists(predictions) and os.path.exists(embeddings)):
        call([args.train_program, "eval", "--model", model, "--head", head, "--labels",
              labels_of(args.labels, test, os.path.join(out, "test.tsv")), "--predictions",
              predictions, "--embeddings", embeddings] + data(test, "--data") + excluded["test"],
             os.path.join(out, "eval.json"))
    for where, only in (("all", ""), ("shared", args.only)):
        if where == "all" or only:
            call([sys.executable, os.path.join(HERE, "run.py"), "--predictions", predictions,
                  "--labels", args.labels, "--embeddings", embeddings, "--only", only,
                  "--out", os.path.join(out, where)] + data(test, "--h5ad") +
                 data(train, "--train-h5ad"), os.path.join(out, "quality.log"))
    return out


def main():
    args, more = arguments()
    link_model(args.model, os.path.join(args.out, "model"))
    rows = []
    for number, fold in enumerate(args.folds):
        out = one_fold(args, more, number)
        for where in ("all", "shared"):
            path = os.path.join(out, where, "results.json")
            if not os.path.exists(path):
                continue
            with open(path, encoding="utf-8") as f:
                for method, m in json.load(f)["annotation"].items():
                    rows.append(["%s, %s types: %s" % (", ".join(fold), where, method)] + [
                        str(m[k]) if k == "cells" else report.number(m.get(k)) for _, k in SHOWN])
    text = "\n".join(report.lines_of("each fold judged by a head that never saw it",
                                     ["fold"] + [n for n, _ in SHOWN], rows))
    with open(os.path.join(args.out, "table.txt"), "w", encoding="utf-8") as f:
        f.write(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
