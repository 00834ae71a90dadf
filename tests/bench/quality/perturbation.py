#!/usr/bin/env python3
"""Does a perturbation head know perturbations that it has not seen? Some left out at a time.

    tests/bench/quality/perturbation.py --model config/models/pbmc \\
        --h5ad ../shared/data/perturbseq_k562_gbm.h5ad --out DIR -- \\
        --context-column cell_type --direction-column perturbation_type --seed 1

For each part of the perturbations: `scdiva-train finetune perturbation` without their cells, in any
context (what follows -- goes to it), the daemon on what that made, and POST /v1/perturbations with
the control cells of each context. The answers and the baselines beside them are judged against the
cells that were left out, by cell-eval's and Systema's figures (perturb_metrics.py), with the
ceiling that two halves of the same cells set. Prints a table; DIR gets table.txt and results.json.
A part that is complete is not done again.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import time
import urllib.request

os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np  # noqa: E402  (the environment comes first)
import scanpy as sc  # noqa: E402

import perturb_metrics as metrics  # noqa: E402
import report  # noqa: E402
from leave_one_out import ROOT, link_model  # noqa: E402

BASELINES = ["no_change", "mean", "additive", "ridge", "nearest", "effects"]
SHOWN = [("Pearson delta", "pearson_delta"), ("to centroid", "pearson_centroid"), ("MSE", "mse"),
         ("top 20", "top20_pearson"), ("overlap 20", "overlap_at_20"),
         ("overlap 50", "overlap_at_50"), ("direction", "direction_match"),
         ("centroid acc.", "centroid_accuracy"), ("discrim. L1", "discrimination_l1")]


def arguments():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("--model", required=True, help="a model directory; it is not written to")
    a.add_argument("--h5ad", required=True, help="the screen; X: ln(1 + counts per 10,000)")
    a.add_argument("--parts", type=int, default=5)
    a.add_argument("--condition-column", default="condition")
    a.add_argument("--control", default="control")
    a.add_argument("--context-column", default="cell_type")
    a.add_argument("--programs", default=os.path.join(ROOT, "build"))
    a.add_argument("--out", required=True)
    argv = sys.argv[1:]
    cut = argv.index("--") if "--" in argv else len(argv)
    return a.parse_args(argv[:cut]), argv[cut + 1:]


class Screen:
    def __init__(self, args):
        data = sc.read_h5ad(args.h5ad)
        self.x = np.asarray(data.X.todense() if hasattr(data.X, "todense") else data.X, float)
        self.genes, self.barcodes = list(data.var_names), list(data.obs_names)
        self.condition = np.array(data.obs[args.condition_column].astype(str))
        self.context = np.array(data.obs[args.context_column].astype(str))
        self.control = args.control

    def cells(self, context, condition):
        return self.x[(self.context == context) & (self.condition == condition)]

    def perturbations(self, context=None):
        own = self.condition[self.context == context] if context else self.condition
        return sorted(set(own) - {self.control})


def request(x, genes, perturbations):
    at = np.nonzero(x)
    return {"input": "log1p_cp10k", "genes": genes, "top_genes": 0,
            "matrix": {"format": "csr", "indptr": [0, *np.cumsum((x > 0).sum(1)).tolist()],
                       "indices": at[1].tolist(), "data": x[at].tolist()},
            "perturbations": perturbations}


def serve(args, model, log):
    """(process, url) of a daemon that is ready"""
    with open(log, "wb") as f:
        daemon = subprocess.Popen([os.path.join(args.programs, "scdivad"), "--model", model,
                                   "--listen", "127.0.0.1:0", "--data", model + ".data"],
                                  stdout=f, stderr=subprocess.STDOUT)
    for _ in range(600):
        time.sleep(0.1)
        with open(log, encoding="utf-8") as f:
            found = re.search(r"INFO ready .*url=(\S+)", f.read())
        if found:
            return daemon, found[1]
        if daemon.poll() is not None:
            break
    raise SystemExit("%s: the daemon did not start" % log)


def ask(url, screen, context, names):
    """{method: (perturbations, genes) deltas}"""
    body = request(screen.cells(context, screen.control), screen.genes,
                   [n.split("+") for n in names])
    query = urllib.request.Request(url + "/v1/perturbations", json.dumps(body).encode(),
                                   {"Content-Type": "application/json"})
    with urllib.request.urlopen(query) as answer:
        items = json.load(answer)["data"]
    place = {g: i for i, g in enumerate(screen.genes)}
    out = {m: np.zeros((len(names), len(screen.genes))) for m in BASELINES + ["model"]}
    for i, item in enumerate(items):
        if item["context"]["name"] != context or item["in_training"]["combination"]:
            raise SystemExit("%s was answered from %s" % (names[i], item["context"]))
        columns = [place[g] for g in item["delta"]["genes"]]
        out["model"][i, columns] = item["delta"]["values"]
        for name in BASELINES:
            out[name][i, columns] = item["baselines"][name]["values"]
    return out


def run_part(args, more, screen, part, left_out):
    """{context: (names, {method: deltas})} for the perturbations left out"""
    folder = os.path.join(args.out, "part%d" % part)
    link_model(args.model, folder)
    exclude = os.path.join(folder, "exclude.tsv")
    with open(exclude, "w", encoding="utf-8") as f:
        f.writelines("%s\t%s\n" % (os.path.basename(args.h5ad), b) for b, c in
                     zip(screen.barcodes, screen.condition) if c in left_out)
    if not os.path.exists(os.path.join(folder, "heads/perturbation/head.json")):
        with open(os.path.join(folder, "train.log"), "w", encoding="utf-8") as log:
            subprocess.run([os.path.join(args.programs, "scdiva-train"), "finetune", "perturbation",
                            "--model", folder, "--data", args.h5ad, "--exclude", exclude,
                            "--condition-column", args.condition_column, "--control", args.control,
                            *more], stdout=log, stderr=subprocess.STDOUT, check=True)
    daemon, url = serve(args, folder, os.path.join(folder, "daemon.log"))
    try:
        out = {}
        for context in sorted(set(screen.context)):
            names = [p for p in screen.perturbations(context) if p in left_out]
            if names:
                out[context] = (names, ask(url, screen, context, names))
        return out
    finally:
        daemon.terminate()
        daemon.wait()


def halves(screen, context, names, own_controls, rng):
    """Deltas of two halves of each perturbation's cells, against all controls or half of them
    each."""
    control = screen.cells(context, screen.control)
    order = rng.permutation(len(control))
    half = len(control) // 2
    bases = [control[order[:half]], control[order[half:]]] if own_controls else [control, control]
    pairs = [metrics.duplicate(screen.cells(context, n), 0, rng) for n in names]
    return [np.array([p[k] for p in pairs]) - bases[k].mean(0) for k in range(2)]


def judge(screen, context, answers):
    """{method: figures} over all perturbations of the context, each answered when left out"""
    names = [n for part in answers for n in part[0]]
    control = screen.cells(context, screen.control)
    base = control.mean(0)
    cells = [screen.cells(context, n) for n in names]
    measured = np.array([c.mean(0) for c in cells]) - base
    significant = np.array([metrics.changed(c, control) for c in cells])
    centroid = measured.mean(0)
    out = {"perturbations": names, "genes_changed": significant.sum(1).tolist(), "methods": {}}
    for method in BASELINES + ["model"]:
        predicted = np.concatenate([part[1][method] for part in answers])
        figures = metrics.all_of(predicted, measured, centroid, significant)
        theirs = metrics.of_cell_eval(predicted + base, cells, names, control, screen.genes)
        figures["discrimination_l1"] = theirs["discrimination_l1"]
        figures["cell_eval"] = theirs
        figures["each"] = {"pearson_delta": metrics.pearson_delta(predicted, measured),
                           "mse": metrics.mse(predicted, measured)}
        out["methods"][method] = figures
    for row, own in (("half of the cells", False), ("half, own controls", True)):
        a, b = halves(screen, context, names, own, np.random.default_rng(0))
        out["methods"][row] = metrics.all_of(a, b, b.mean(0), significant)
    return out


def table(results):
    lines = []
    for context, r in results["contexts"].items():
        rows = [[m] + ["-" if f.get(k) is None else ("%.5f" if k == "mse" else "%.3f") % f[k]
                       for _, k in SHOWN] for m, f in r["methods"].items()]
        title = "%s: %d perturbations, each answered by a head that had not seen it" % (
            context, len(r["perturbations"]))
        lines += report.lines_of(title, [""] + [n for n, _ in SHOWN], rows)
    return "\n".join(lines)


def main():
    args, more = arguments()
    screen = Screen(args)
    os.makedirs(args.out, exist_ok=True)
    everything = screen.perturbations()
    order = np.random.default_rng(1).permutation(len(everything))
    answers = {}
    for part in range(args.parts):
        left_out = {everything[i] for i in order[part::args.parts]}
        for context, found in run_part(args, more, screen, part, left_out).items():
            answers.setdefault(context, []).append(found)
        print("part %d of %d" % (part + 1, args.parts), flush=True)
    results = {"model": args.model, "h5ad": os.path.basename(args.h5ad), "parts": args.parts,
               "finetune": more,
               "contexts": {c: judge(screen, c, a) for c, a in sorted(answers.items())}}
    text = table(results)
    for name, content in (("results.json", json.dumps(results, indent=1) + "\n"),
                          ("table.txt", text + "\n")):
        with open(os.path.join(args.out, name), "w", encoding="utf-8") as f:
            f.write(content)
    print(text)


if __name__ == "__main__":
    main()
