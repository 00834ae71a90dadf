#!/usr/bin/env python3
"""Do the associations of POST /v1/grn hold outside the cells that they were computed on?

    associations.py --h5ad FILE --other FILE [--model DIR] [--cells 100] [--out DIR]

Two things that the cells of --h5ad do not know:
  partners        genes of one protein complex or one response, by their names (FAMILIES below): do
                  a gene's partners come before the genes of other families? AUROC, 0.5 is chance;
                  families count alike, whatever the number of their genes
  another study   co-expression in --other, of the genes that both files measure: Spearman
                  correlation with it, and how many of its strongest 20 targets are among the
                  method's strongest 20
each a mean over families or regulators, with its standard error. What is ranked:
  attention, size of effect  the two sides of /v1/grn (weight, effect)
  size of co-expression      Pearson's r over the same cells, as /v1/grn gives it
  how often                  in how many of the regulator's cells the target is expressed: what a
                             ranking can do that knows nothing of the pair. Attention is summed over
                             cells, so that it has this within it
  attention a cell           attention over how often: what is left
"another study, signed" asks whether the sign is right: effect and co-expression as they are.

The screens in perturbseq_k562_gbm.h5ad would be the better judge, and cannot be: of the genes that
they perturbed the file measures one.
"""
import os
import re

import numpy as np
from scipy import stats

import diffusion as d
import inputs

MAX_REGULATORS, TOP = 32, 20

FAMILIES = {
    "ribosome": r"RP[LS]\d+[AXYL]?\d*",
    "proteasome": r"PSM[ABCDEFG]\d+",
    "MHC class I": r"HLA-[ABCEFG]|B2M|TAP[12]|TAPBP",
    "MHC class II": r"HLA-D\w+|CD74",
    "respiration": r"NDUF\w+|COX\d\w*|UQC\w+|ATP5\w+",
    "chaperones": r"HSP\w+|DNAJ\w+|CCT\d\w*|CALR|PDIA\d",
    "cytoskeleton": r"ACT[BG]\d?|TUB[AB]\w+|ARPC\w+|TMSB\w+|CFL1|PFN1",
    "cytotoxicity": r"GZM[ABHKM]|PRF1|GNLY|NKG7|CST7|KLR\w+|FGFBP2",
    "T cell receptor": r"CD3[DEG]|CD247|TRA[CT]\w*|LCK|LAT|ZAP70|CD2|CD27|IL7R",
    "B cell receptor": r"CD79[AB]|MS4A1|IG[HKL]\w+|BLNK|CD19|VPREB3",
    "interferon": r"ISG\d+|IFI\w+|MX[12]|OAS\w+|IRF7|STAT[12]|LY6E|RSAD2|EPSTI1|XAF1|HERC5",
    "myeloid": r"S100A\d+|LYZ|FCN1|CST3|CTS[A-Z]|TYROBP|FCER1G|AIF1|VCAN|SERPINA1",
    "metallothioneins": r"MT[12][A-Z]",
}


def family_of(gene):
    return next((f for f, pattern in FAMILIES.items() if re.fullmatch(pattern, gene)), None)


def choose(groups, rng):
    """At most as many as a request may name, of each group in turn"""
    groups = [list(rng.permutation(g)) for g in groups]
    turns = [g[i] for i in range(MAX_REGULATORS) for g in groups if i < len(g)]
    return np.sort(turns[:MAX_REGULATORS])


def ask(daemon, cells, regulators, genes):
    """{method: (regulators, genes)}, NaN on the regulator itself; 0 where the two never meet"""
    answer = d.post(daemon, "/v1/grn", {"cells": [cells.cell(row) for row in cells.test],
                                        "regulators": [cells.genes[r] for r in regulators],
                                        "top_k": len(cells.genes)})
    place = {g: i for i, g in enumerate(genes)}
    row_of = {cells.genes[r]: i for i, r in enumerate(regulators)}
    x = cells.x[cells.test] > 0
    out = {m: np.zeros((len(regulators), len(genes))) for m in ("weight", "effect", "co", "often")}
    for item in answer["data"]:
        if item["target"] not in place:
            continue
        at = row_of[item["regulator"]], place[item["target"]]
        own = x[:, regulators[at[0]]].sum()
        out["weight"][at], out["effect"][at] = item["weight"], item["effect"]
        out["co"][at], out["often"][at] = item["coexpression"] or 0, item["cells"] / own
    for r in regulators:
        if cells.genes[r] in place:
            for scores in out.values():
                scores[row_of[cells.genes[r]], place[cells.genes[r]]] = np.nan
    often = np.where(out["often"] > 0, out["often"], 1)
    return {"attention": out["weight"], "size of effect": np.abs(out["effect"]),
            "size of co-expression": np.abs(out["co"]), "how often": out["often"],
            "attention a cell": out["weight"] / often, "effect": out["effect"],
            "co-expression": out["co"]}


def mean_and_error(values):
    values = np.asarray(values)[np.isfinite(values)]
    return "%.3f ± %.3f" % (values.mean(), values.std(ddof=1) / np.sqrt(len(values)))


def auroc(score, positive):
    ranks = stats.rankdata(score)
    n, m = positive.sum(), (~positive).sum()
    return (ranks[positive].sum() - n * (n + 1) / 2) / (n * m)


def partners(daemon, cells, rng):
    x = cells.x[cells.test] > 0
    family = np.array([family_of(g) or "" for g in cells.genes])
    common = (x.mean(0) >= 0.1) & (family != "")
    members = [np.flatnonzero(common & (family == f)) for f in FAMILIES]
    regulators = choose([m for m in members if len(m) > 3], rng)
    genes = [g for g, c in zip(cells.genes, common) if c]
    scores = ask(daemon, cells, regulators, genes)
    shown, families = family[common], sorted(set(family[regulators]))
    found = {m: {f: [] for f in families} for m in scores if m not in ("effect", "co-expression")}
    for i, r in enumerate(regulators):
        for m, of_family in found.items():
            ok = np.isfinite(scores[m][i])
            of_family[family[r]].append(auroc(scores[m][i][ok], (shown == family[r])[ok]))
    found = {m: [np.mean(v) for v in of_family.values()] for m, of_family in found.items()}
    print("%d regulators of %d families (%s), %d genes of families expressed in a tenth of the "
          "cells\n" % (len(regulators), len(families), ", ".join(families), len(genes)))
    rows = {m: {"AUROC of partners": mean_and_error(v)} for m, v in found.items()}
    d.print_table(rows, "ranked by")
    return rows


def another_study(daemon, cells, args, rng):
    other = inputs.read_h5ad(args.other)
    column = {g: i for i, g in enumerate(other.genes)}
    x, common = cells.x[cells.test] > 0, []
    for i, g in enumerate(cells.genes):
        y = other.x[:, column[g]] if g in column else np.zeros(1)
        if x[:, i].mean() >= 0.1 and (y > 0).mean() >= 0.05 and y.std() > 0:
            common.append(i)
    genes = [cells.genes[i] for i in common]
    regulators = choose([common], rng)
    scores = ask(daemon, cells, regulators, genes)
    there = np.corrcoef(other.x[:, [column[g] for g in genes]].T)
    found = {m: ([], []) for m in scores}
    for i, r in enumerate(regulators):
        truth = there[genes.index(cells.genes[r])]
        for m, (rho, top) in found.items():
            ok = np.isfinite(scores[m][i])
            want = truth[ok] if m in ("effect", "co-expression") else np.abs(truth[ok])
            rho.append(stats.spearmanr(scores[m][i][ok], want)[0])
            best = [set(np.argsort(-v, kind="stable")[:TOP]) for v in (scores[m][i][ok], want)]
            top.append(len(best[0] & best[1]) / TOP)
    chance = TOP / (len(genes) - 1)
    print("%d regulators, %d genes of both, co-expression over %d cells of %s; overlap by chance "
          "%.3f\n" % (len(regulators), len(genes), len(other.x), os.path.basename(args.other),
                      chance))
    rows = {m + (", signed" if m in ("effect", "co-expression") else ""):
            {"Spearman": mean_and_error(rho), "overlap of 20": mean_and_error(top)}
            for m, (rho, top) in found.items()}
    d.print_table(rows, "ranked by")
    return {"chance": chance, **rows}


def main():
    args = d.arguments(__doc__, other=(str, None, "a file of another study"))
    with d.start(args) as daemon:
        cells = d.Cells(args, daemon)
        cells.describe(args)
        result = {"partners": partners(daemon, cells, np.random.default_rng(args.seed))}
        if args.other:
            result["another study"] = another_study(daemon, cells, args,
                                                    np.random.default_rng(args.seed + 1))
    d.save(args, "associations", result)


if __name__ == "__main__":
    main()
