#!/usr/bin/env python3
"""What pre-training's parts are worth: [LAT] and the order of the genes, each left out in turn.

    tests/bench/quality/ablations.py --data ../shared/data/a.h5ad --data ../shared/data/b.h5ad \\
        --out build/ablations [--jobs 2] -- --exclude FILE

Six small models (2 layers of 64) on the same cells with the same seed and steps: the
serializations entropy-normalised, expression and random, each with [LAT] (pooled over what is
visible) and without; a seventh pools everything, as the official weights were trained, which gives
away what is hidden. What follows -- goes to each `scdiva-train pretrain`.

Prints a table of the held-out cells at the end; DIR gets it as table.txt, the curves as curves.csv
and curves.png. A run that was stopped goes on where it was; one that is complete is not done again.
"""
import argparse
import concurrent.futures
import csv
import os
import subprocess
import sys

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)

import report  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.normpath(os.path.join(HERE, "..", "..", ".."))
RUNS = [("%s order, %s" % (order, "[LAT]" if latent else "no [LAT]"),
         ["--order", order] + ([] if latent else ["--no-latent"]))
        for order in ("entropy", "expression", "random") for latent in (True, False)]
RUNS.append(("entropy order, [LAT] sees all", ["--order", "entropy", "--pooling", "clean"]))
SIZE = ["--hidden", "64", "--layers", "2", "--heads", "4", "--ffn", "256"]
RATES = ("15", "50", "90")


def arguments():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("--data", action="append", required=True, help="an .h5ad file; several times")
    a.add_argument("--out", required=True)
    a.add_argument("--steps", type=int, default=2000, help="of each run")
    a.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    a.add_argument("--train-program",
                   default=os.environ.get("SCDIVA_TRAIN", os.path.join(ROOT, "build/scdiva-train")))
    argv = sys.argv[1:]
    cut = argv.index("--") if "--" in argv else len(argv)
    return a.parse_args(argv[:cut]), argv[cut + 1:]


def folder_of(name):
    return "".join(c if c.isalnum() else "_" for c in name)


def one_run(args, more, name, options):
    """The rows of its train.csv that have figures of held-out cells."""
    out = os.path.join(args.out, folder_of(name))
    os.makedirs(out, exist_ok=True)
    if not os.path.exists(os.path.join(out, "model.safetensors")):
        command = [args.train_program, "pretrain", "--out", out, "--steps", str(args.steps),
                   "--threads", "1", "--eval-cells", "512"] + SIZE + options + more
        command += [x for path in args.data for x in ("--data", path)]
        with open(os.path.join(out, "pretrain.log"), "a", encoding="utf-8") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT,
                                  check=False).returncode
        if code:
            raise SystemExit("%s: pretrain ended with %d; %s has its words" %
                             (name, code, log.name))
    with open(os.path.join(out, "train.csv"), encoding="utf-8", newline="") as f:
        rows = [r for r in csv.DictReader(f) if r.get("accuracy_15")]
    print("%s: done" % name, flush=True)
    return rows


def figures(row, at):
    """(genes named, mean squared error) at a rate; `at` names the model's or a guess's columns."""
    return [float(row["%s_%s" % (at[k], rate)]) for k in (0, 1) for rate in RATES]


def table(curves):
    head = (["held-out cells"] + ["named %s %%" % r for r in RATES] +
            ["MSE %s %%" % r for r in RATES])
    rows = [[name] + ["%.4f" % x for x in figures(c[-1], ("accuracy", "mse"))]
            for name, c in curves.items()]
    last = next(iter(curves.values()))[-1]
    rows.append(["most frequent gene, gene mean"] +
                ["%.4f" % x for x in figures(last, ("frequent", "gene_mean"))])
    return "\n".join(report.lines_of("after %s steps" % last["step"], head, rows))


def plot(curves, out):
    figure, axes = plt.subplots(2, len(RATES), figsize=(12, 6.5), sharex=True)
    for column, rate in enumerate(RATES):
        for row, (key, guess) in enumerate((("accuracy", "frequent"), ("mse", "gene_mean"))):
            ax = axes[row][column]
            for name, c in curves.items():
                ax.plot([int(r["step"]) for r in c], [float(r["%s_%s" % (key, rate)]) for r in c],
                        "--" if "no [LAT]" in name else "-", label=name)
            last = next(iter(curves.values()))[-1]
            ax.axhline(float(last["%s_%s" % (guess, rate)]), color="0.6", ls=":", label="guess")
            ax.set_title("%s, %s %% hidden" % (("genes named", "value MSE")[row], rate), fontsize=9)
    axes[1][0].set_xlabel("step")
    axes[0][0].legend(fontsize=6)
    report.save(figure, out, "curves.png")


def write_csv(curves, path):
    columns = ["step"] + ["%s_%s" % (k, r) for r in RATES
                          for k in ("accuracy", "mse", "frequent", "gene_mean")]
    with open(path, "w", encoding="utf-8", newline="") as f:
        w = csv.writer(f)
        w.writerow(["run"] + columns)
        w.writerows([name] + [row[c] for c in columns] for name, c in curves.items() for row in c)


def main():
    args, more = arguments()
    os.makedirs(args.out, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(lambda run: one_run(args, more, *run), RUNS))
    curves = {name: c for (name, _), c in zip(RUNS, rows)}
    write_csv(curves, os.path.join(args.out, "curves.csv"))
    plot(curves, args.out)
    text = table(curves)
    with open(os.path.join(args.out, "table.txt"), "w", encoding="utf-8") as f:
        f.write(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
