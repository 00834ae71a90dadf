"""labels.tsv of the bundled model: eight cell types, as probabilities, for three public data sets.

    config/models/pbmc/labels.py [DATA]     writes labels.tsv and exclude.tsv beside itself and
                                            prints the figures that labels.md quotes

DATA (default ../shared/data) holds kang_ifnb.h5ad, pbmc_ifnb_9k.h5ad and pbmc68k_reduced.h5ad.
The authors' labels contradict the reads of many cells, so a cell's label is put together anew from
three witnesses, each weighted by what it has proved to know (expectation maximisation):

- markers: reads of the genes in MARKERS, negative binomial with a rate for each type;
- context: every other gene, a ridge logistic regression on principal components whose answer for
  a cell comes from a fit that has not seen the cell;
- the authors' label, through a confusion matrix that is estimated like everything else.

It starts from the cells whose markers leave no doubt (SEEDS). Kang's two files are one study and
are solved together: the file with few genes learns CD4 from CD8 through the genes that both have.
numpy and h5py; deterministic; ten seconds.
"""
import os
import sys

import h5py
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.normpath(os.path.join(HERE, "..", "..", ".."))
DEMO = os.path.join(ROOT, "tests", "fixtures", "pbmc68k_demo_labels.tsv")
LABELS = ["B", "CD4 T", "CD8 T", "NK", "CD14 monocyte", "FCGR3A monocyte", "dendritic",
          "progenitor"]

# What is solved for is finer than what is written: a pDC is no cDC, and platelets and red cells
# must have somewhere to go. Each type: label (None: left out), lineage.
TYPES = {
    "B": ("B", "B"), "plasma": ("B", "B"),
    "CD4": ("CD4 T", "T"), "CD8 naive": ("CD8 T", "T"), "CD8 effector": ("CD8 T", "T"),
    "NK": ("NK", "T"),
    "CD14": ("CD14 monocyte", "myeloid"), "FCGR3A": ("FCGR3A monocyte", "myeloid"),
    "cDC": ("dendritic", "myeloid"), "pDC": ("dendritic", "pDC"),
    "progenitor": ("progenitor", "progenitor"),
    "platelet": (None, "platelet"), "red": (None, "red"),
}
NAMES = list(TYPES)
LINEAGES = sorted({lineage for _, lineage in TYPES.values()})

# P(the authors' label | type), 0.01 where nothing is said: estimates by the markers, held fixed,
# because estimated together with the rest they follow the rest's errors. In Kang's clusters naive
# CD8 cells went with CD4 cells; other clusters are not in that file. Zheng's labels are the nearest
# of ten bulk profiles.
SAYS = {
    "B cells": {"B": 0.97, "plasma": 0.9},
    "CD4 T cells": {"CD4": 0.96, "CD8 naive": 0.7, "CD8 effector": 0.1},
    "CD8 T cells": {"CD4": 0.03, "CD8 naive": 0.3, "CD8 effector": 0.9, "NK": 0.1},
    "CD14+ Monocytes": {"CD14": 0.92, "FCGR3A": 0.07, "cDC": 0.05},
    "FCGR3A+ Monocytes": {"CD14": 0.07, "FCGR3A": 0.92, "cDC": 0.02},
    "CD19+ B": {"B": 0.95, "plasma": 0.85},
    "CD34+": {"progenitor": 0.95},
    "CD56+ NK": {"NK": 0.65, "CD8 effector": 0.15},
    "CD4+/CD25 T Reg": {"CD4": 0.6, "CD8 naive": 0.05, "CD8 effector": 0.02},
    "CD4+/CD45RA+/CD25- Naive T": {"CD4": 0.07, "CD8 naive": 0.03, "B": 0.02, "plasma": 0.05},
    "CD4+/CD45RO+ Memory": {"CD4": 0.2, "CD8 naive": 0.03, "CD8 effector": 0.03},
    "CD8+ Cytotoxic T": {"CD4": 0.06, "CD8 naive": 0.15, "CD8 effector": 0.6, "NK": 0.25},
    "CD8+/CD45RA+ Naive Cytotoxic": {"CD4": 0.06, "CD8 naive": 0.7, "CD8 effector": 0.15},
    "Dendritic": {"cDC": 0.95, "pDC": 0.95, "FCGR3A": 0.2, "CD14": 0.2},
    "CD14+ Monocyte": {"CD14": 0.75, "FCGR3A": 0.75, "cDC": 0.04},
}

T3 = ["CD3D", "CD3E", "CD3G"]
BCELL = ["MS4A1", "CD79A", "CD79B", "CD19", "BANK1"]
MYELOID = ["LYZ", "CST3", "FCN1", "AIF1", "S100A8", "S100A9", "LST1"]
CYTOTOXIC = ["GNLY", "NKG7", "PRF1", "GZMB", "GZMH", "FGFBP2"]
KILLER = ["KLRD1", "KLRF1", "KLRC1", "NCAM1", "FCGR3A", "TYROBP", "FCER1G"]
CD8 = ["CD8A", "CD8B"]
CD4 = ["CD4", "CD40LG"]
FCGR3A = ["FCGR3A", "MS4A7", "VMO1", "CDKN1C", "C1QA", "C1QB"]
CD14 = ["CD14", "S100A8", "S100A12", "VCAN"]
CDC = ["FCER1A", "CLEC10A", "CLEC9A", "CD1C"]
MHC = ["HLA-DRA", "HLA-DQA1", "HLA-DPB1", "HLA-DPA1", "CD74"]
PDC = ["LILRA4", "IL3RA", "SERPINF1", "TCF4", "PLD4", "ITM2C", "GZMB"]
PLASMA = ["MZB1", "IGJ", "TNFRSF17", "POU2AF1"]
PROGENITOR = ["CD34", "PRSS57", "CYTL1", "SPINK2", "KIT"]
PLATELET = ["PF4", "PPBP", "GNG11", "SDPR"]
RED = ["HBA1", "HBA2", "HBB", "ALAS2"]
MARKERS = sorted(set(T3 + BCELL + MYELOID + CYTOTOXIC + KILLER + CD8 + CD4 + FCGR3A + CD14 + CDC +
                     PDC + PLASMA + PROGENITOR + PLATELET + RED + ["HLA-DQA1"]))

# What a type does not express: reads there are free RNA, at the rate that B cells and myeloid cells
# show. Without this bound the CD8 cells that pass for CD4 teach that CD4 cells express CD8.
SILENT = {"CD4": CD8, "CD8 naive": CD4[1:], "CD8 effector": CD4[1:], "NK": T3 + ["CD8B", "CD40LG"]}
OTHERS = ["B", "CD14", "FCGR3A"]

# A cell seeds a type when the files' authors do not object and, for each of its rules (genes,
# least, most), the reads of these genes are within bounds.
MANY = 10 ** 9
NO_T, NO_B, NO_MYELOID = (T3, 0, 1), (BCELL, 0, 1), (MYELOID, 0, 2)
SEEDS = {
    "B": [(BCELL, 2, MANY), NO_T, NO_MYELOID, (PLASMA, 0, 1)],
    "plasma": [(PLASMA, 3, MANY), NO_T, NO_MYELOID],
    "CD4": [(T3, 2, MANY), (CD8, 0, 0), (CYTOTOXIC, 0, 0), (FCGR3A, 0, 0), NO_B, NO_MYELOID],
    "CD8 naive": [(CD8, 1, MANY), (T3, 1, MANY), (CD4, 0, 0), (CYTOTOXIC, 0, 1), NO_B, NO_MYELOID],
    "CD8 effector": [(CD8, 1, MANY), (T3, 1, MANY), (CD4, 0, 0), (CYTOTOXIC, 3, MANY), NO_B,
                     NO_MYELOID],
    "NK": [(CYTOTOXIC, 4, MANY), (KILLER, 1, MANY), (T3, 0, 0), (CD8, 0, 0), (CD4, 0, 0), NO_B,
           NO_MYELOID],
    "CD14": [(CD14, 2, MANY), (FCGR3A, 0, 1), (CDC, 0, 0), NO_T, NO_B],
    "FCGR3A": [(FCGR3A, 3, MANY), (CD14, 0, 1), (CDC, 0, 0), NO_T, NO_B, (MYELOID, 1, MANY)],
    "cDC": [(CDC, 1, MANY), (MHC, 4, MANY), (FCGR3A, 0, 1), (["CD14"], 0, 0), NO_T, NO_B],
    "pDC": [(PDC, 4, MANY), (["SERPINF1", "LILRA4", "PLD4"], 1, MANY), (CD14 + CDC, 0, 0), NO_T,
            (["MS4A1", "CD79A"], 0, 0), (["LYZ"], 0, 1)],
    "progenitor": [(PROGENITOR, 3, MANY), NO_T, (["LYZ"], 0, 1)],
    "platelet": [(PLATELET, 3, MANY), NO_B],
    "red": [(RED, 5, MANY), NO_B],
}

ROUNDS = 5        # of expectation and maximisation
FOLDS = 5
COMPONENTS = 30
RIDGE = 3.0       # of the context's regression, on components of unit variance
TEMPER = 0.5      # of what the context says between kinds of T cell and NK
DOUBLET = 0.002   # probability of that many reads of another lineage
MIN_GENES = 100   # expressed, for a cell to be of use
MIN_SEEDS = 2     # a type with fewer is not in that study
DISPERSION = 2.0  # r of the negative binomial
CAP = 2.5         # no single gene's reads change odds by more than exp(CAP)
PRIOR_CELLS = 2   # of average cells in every type's rate of a marker


class Set:
    """One file: counts (cells, genes), names, what the authors said, and the batch of each cell."""

    def __init__(self, name, barcodes, genes, counts, author, batch, group):
        self.name, self.barcodes, self.genes, self.counts = name, barcodes, genes, counts
        self.author, self.batch, self.group = author, batch, group
        self.column = {gene: i for i, gene in enumerate(genes)}

    def reads(self, genes):
        return self.counts[:, [self.column[g] for g in genes if g in self.column]]


def strings(dataset):
    return np.array([s.decode() if isinstance(s, bytes) else s for s in dataset[:]], dtype=object)


def categories(group):
    return strings(group["categories"])[group["codes"][:]]


def dense(group, n_genes):
    indptr, indices, data = group["indptr"][:], group["indices"][:], group["data"][:]
    out = np.zeros((len(indptr) - 1, n_genes), np.float32)
    out[np.repeat(np.arange(len(out)), np.diff(indptr)), indices] = data
    return out


def read_sets(data):
    def open_set(name):
        return h5py.File(os.path.join(data, name + ".h5ad"), "r")

    with open_set("kang_ifnb") as f:
        genes = np.array([g.split("_ENSG")[0] for g in strings(f["var/_index"])], dtype=object)
        sample, condition = categories(f["obs/sample_id"]), categories(f["obs/group_id"])
        kang = Set("kang_ifnb.h5ad", strings(f["obs/_index"]), genes, dense(f["X"], len(genes)),
                   categories(f["obs/cluster_id"]), condition, "kang " + sample)
    with open_set("pbmc_ifnb_9k") as f:
        genes, condition = strings(f["var/_index"]), categories(f["obs/condition"])
        nine = Set("pbmc_ifnb_9k.h5ad", strings(f["obs/_index"]), genes, dense(f["X"], len(genes)),
                   np.full(len(condition), "", dtype=object), condition, "ifnb " + condition)
    with open_set("pbmc68k_reduced") as f:
        genes, log1p = strings(f["raw/var/index"]), dense(f["raw/X"], len(f["raw/var/index"]))
        cp10k = np.expm1(log1p.astype(np.float64))
        one = np.where(cp10k > 0, cp10k, np.inf).min(axis=1, keepdims=True)  # the value of one read
        zheng = Set("pbmc68k_reduced.h5ad", strings(f["obs/index"]), genes,
                    np.rint(cp10k / one).astype(np.float32), categories(f["obs/bulk_labels"]),
                    np.full(len(log1p), "zheng", dtype=object),
                    np.full(len(log1p), "zheng donor A", dtype=object))
    return kang, nine, zheng


def twins(kang, nine):
    """Pairs (row of kang, row of nine) of one and the same cell: condition and barcode agree."""
    rows = {"%s_%s" % (c, b): i for i, (c, b) in enumerate(zip(kang.batch, kang.barcodes))}
    pairs = [(rows[b], j) for j, b in enumerate(nine.barcodes) if b in rows]
    shared = [g for g in kang.genes if g in nine.column]
    a = kang.reads(shared)[[i for i, _ in pairs]]
    b = nine.reads(shared)[[j for _, j in pairs]]
    if not np.array_equal(a, b):
        raise SystemExit("cells of one barcode differ between the two files of Kang's study")
    return pairs


# ---- the three witnesses -----------------------------------------------------------------

def seeds(part):
    """(cells, types) of 0 and 1; all 0 where the markers leave a doubt or the authors object."""
    out = np.zeros((len(part.barcodes), len(NAMES)))
    for t, name in enumerate(NAMES):
        hit = np.array([a == "" or SAYS[a].get(name, 0) >= 0.15 for a in part.author])
        for genes, least, most in SEEDS[name]:
            reads = part.reads(genes).sum(1)
            hit &= (reads >= least) & (reads <= most)
        out[:, t] = hit
    return out * (out.sum(1, keepdims=True) == 1)


def marker_evidence(parts, belief):
    """Log likelihood of the marker reads, (cells, types); each type's rates come from belief."""
    shared = [g for g in parts[0].genes if all(g in p.column for p in parts)]
    size = np.concatenate([p.reads(shared).sum(1, dtype=np.float64) for p in parts])
    worth = PRIOR_CELLS * np.median(size)
    out = np.zeros_like(belief)
    for gene in MARKERS:
        has = np.concatenate([np.full(len(p.barcodes), gene in p.column) for p in parts])
        if not has.any():
            continue
        k = np.concatenate([p.reads([gene])[:, 0] for p in parts if gene in p.column])
        k, n, w = k.astype(np.float64), size[has], belief[has]
        mean = k.sum() / n.sum()
        rate = (k @ w + mean * worth) / (n @ w + worth)
        # Free RNA of the rate that the lowest lineages show is in every droplet.
        silent = [t for t, name in enumerate(NAMES) if gene in SILENT.get(name, [])]
        free = w[:, [t for t, name in enumerate(NAMES) if name in OTHERS]]
        ambient = (k @ free).sum() / max((n @ free).sum(), 1.0) if free.shape[1] else 0.0
        rate[silent] = np.minimum(rate[silent], 2 * ambient)
        rate = np.maximum(rate, 0.02 * mean)
        against = log_nb(k, n * mean)
        for t in range(len(NAMES)):
            out[has, t] += np.clip(log_nb(k, n * rate[t]) - against, -CAP, CAP)
    return out


def log_nb(k, mean):
    return k * np.log(mean / (DISPERSION + mean)) - DISPERSION * np.log1p(mean / DISPERSION)


def author_evidence(author):
    """Log likelihood of the authors' labels, (cells, types)."""
    out = np.zeros((len(author), len(NAMES)))
    for value in set(author) - {""}:
        out[author == value] = np.log([SAYS[value].get(name, 0.01) for name in NAMES])
    return out


def components(parts, genes):
    """Principal components of log1p values, each batch centred on its own mean."""
    x = np.concatenate([part.reads(genes) for part in parts])
    x = np.log1p(x * (1000.0 / np.maximum(x.sum(1, keepdims=True), 1)))
    batch = np.concatenate([part.batch for part in parts])
    for one in sorted(set(batch)):
        x[batch == one] -= x[batch == one].mean(0)
    x = np.clip(x / (x.std(0) + 0.1), -5, 5)
    _, vectors = np.linalg.eigh((x.T @ x).astype(np.float64))
    scores = x @ vectors[:, ::-1][:, :COMPONENTS]
    return scores / scores.std(0)


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def regression(x, target, weight):
    """Ridge multinomial logistic regression on soft targets; gradient steps with momentum."""
    x1 = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    w = np.zeros((x1.shape[1], target.shape[1]))
    speed, total = np.zeros_like(w), weight.sum()
    step = 4.0 / (np.linalg.eigvalsh((x1.T * weight) @ x1 / total)[-1] + 4 * RIDGE / total)
    keep = np.ones((x1.shape[1], 1))
    keep[-1] = 0  # the offset is not shrunk
    for _ in range(150):
        ahead = w + 0.9 * speed
        slope = x1.T @ (weight[:, None] * (softmax(x1 @ ahead) - target)) + RIDGE * keep * ahead
        new = ahead - 0.5 * step * slope / total
        speed, w = new - w, new
    return w


def context_evidence(x, belief, fold):
    """Log probability of each type from the context, by a fit that left the cell out."""
    out = np.zeros_like(belief)
    sure = belief.max(1)
    weight = np.where(sure > 0.5, sure, 0) ** 2
    for f in range(FOLDS):
        learn = (fold != f) & (weight > 0)
        w = regression(x[learn], belief[learn], weight[learn])
        mine = fold == f
        x1 = np.concatenate([x[mine], np.ones((mine.sum(), 1))], axis=1)
        out[mine] = np.log(softmax(x1 @ w) + 1e-6)
    return out


def doublets(part, belief):
    """Cells with more reads of a second lineage's genes than free RNA explains."""
    size = part.counts.sum(1, dtype=np.float64)
    groups = [n in ("B", "plasma") for n in NAMES], [TYPES[n][1] == "T" for n in NAMES], [
        TYPES[n][1] == "myeloid" for n in NAMES]
    out = np.zeros(len(size), bool)
    for mine, genes in zip(groups, (BCELL[:2] + BCELL[3:], T3 + ["NKG7"], MYELOID)):
        k = part.reads(genes).sum(1, dtype=np.float64)
        outside = belief @ np.array(mine, float) < 0.5
        mean = size * k[outside].sum() / size[outside].sum()
        out |= (k >= 3) & (tail(k, mean) < DOUBLET) & outside
    return out & (belief[:, NAMES.index("progenitor")] < 0.5)


def tail(k, mean):
    """P(K >= k) for Poisson K."""
    out, term = np.ones(len(k)), np.exp(-mean)
    for i in range(int(k.max())):
        out = np.where(k > i, out - term, out)
        term = term * mean / (i + 1)
    return np.maximum(out, 0)


def tempered(context):
    """The context is sure of itself between naive CD4 and CD8 cells, where it knows little."""
    t = np.array([TYPES[n][1] == "T" for n in NAMES])
    out = context.copy()
    whole = np.log(np.exp(context[:, t]).sum(1, keepdims=True))
    out[:, t] = whole + np.log(softmax(TEMPER * context[:, t]))
    return out


def solve(parts, fold):
    """Belief in each type, one array for each part of a study."""
    genes = [g for g in parts[0].genes if all(g in p.column for p in parts) and g not in MARKERS]
    x = components(parts, genes)
    ends = np.cumsum([len(p.barcodes) for p in parts])[:-1]
    belief = np.concatenate([seeds(p) for p in parts])
    start = belief.copy()
    # No read proves a CD4 cell as the lack of CD8 does not: these seeds only start.
    start[:, NAMES.index("CD4")] = 0
    firm = start.any(1, keepdims=True)
    said = np.concatenate([author_evidence(p.author) for p in parts])
    possible = np.where(belief.sum(0) >= MIN_SEEDS, 0, -np.inf)
    mixed = np.zeros(len(belief), bool)
    for _ in range(ROUNDS):
        belief = np.where(firm, start, belief) * ~mixed[:, None]
        context = context_evidence(x, belief, fold)
        belief = softmax(tempered(context) + marker_evidence(parts, belief) + said + possible)
        mixed = np.concatenate([doublets(p, b) for p, b in zip(parts, np.split(belief, ends))])
    return np.split(belief, ends), np.split(mixed, ends)


# ---- what is written ---------------------------------------------------------------------

def merged(belief):
    """(cells, labels) that sum to 1, and the share of belief that no label has."""
    out = np.stack([belief[:, [i for i, n in enumerate(NAMES) if TYPES[n][0] == label]].sum(1)
                    for label in LABELS], axis=1)
    lost = 1 - out.sum(1)
    return out / np.maximum(out.sum(1, keepdims=True), 1e-9), lost


def thousandths(row):
    """Whole thousandths that sum to 1000, the largest remainders rounded up."""
    scaled = np.floor(row * 1000 + 1e-9).astype(int)
    short = 1000 - scaled.sum()
    scaled[np.argsort(scaled - row * 1000, kind="stable")[:short]] += 1
    return scaled


def lineage_doubt(belief):
    by_lineage = np.stack([belief[:, [i for i, n in enumerate(NAMES) if TYPES[n][1] == one]].sum(1)
                           for one in LINEAGES], axis=1)
    return 1 - by_lineage.max(1)


def out_of_use(part, belief, mixed, excluded):
    """Reason for leaving each cell out, or "". excluded: {(file, barcode): reason}"""
    _, lost = merged(belief)
    reason = np.full(len(mixed), "", dtype=object)
    reason[lineage_doubt(belief) > 0.25] = "lineage doubtful"
    reason[mixed] = "two lineages"
    reason[lost > 0.5] = "platelet or red cell"
    reason[(part.counts > 0).sum(1) < MIN_GENES] = "under %d genes" % MIN_GENES
    for i, barcode in enumerate(part.barcodes):
        reason[i] = excluded.get((part.name, barcode), reason[i])
    return reason


def write(path, lines):
    with open(path + ".part", "w", encoding="utf-8") as f:
        f.writelines(line + "\n" for line in lines)
    os.replace(path + ".part", path)


def main():
    data = sys.argv[1] if len(sys.argv) > 1 else os.environ.get(
        "SCDIVA_DATA", os.path.join(ROOT, "..", "shared", "data"))
    with open(DEMO, encoding="utf-8") as f:
        demo = {line.split("\t")[0] for line in f.readlines()[1:]}
    kang, nine, zheng = read_sets(data)
    pairs = twins(kang, nine)

    fold = np.concatenate([np.arange(len(kang.barcodes)), np.arange(len(nine.barcodes))]) % FOLDS
    for i, j in pairs:  # one cell, one fold
        fold[len(kang.barcodes) + j] = fold[i]
    beliefs, mixed = solve([kang, nine], fold)
    alone = solve([zheng], np.arange(len(zheng.barcodes)) % FOLDS)
    beliefs, mixed = beliefs + alone[0], mixed + alone[1]

    # Of a cell that is in both of Kang's files the richer view stays: no split can tear it apart.
    excluded = {(kang.name, kang.barcodes[i]): "in both files" for i, _ in pairs}
    excluded.update(((zheng.name, b), "demo") for b in zheng.barcodes if b in demo)

    lines = ["\t".join(["file", "barcode"] + LABELS + ["group"])]
    for part, belief, doubles in zip((kang, nine, zheng), beliefs, mixed):
        reason = out_of_use(part, belief, doubles, excluded)
        probability, _ = merged(belief)
        for i in np.flatnonzero(reason == ""):
            digits = ["%g" % (n / 1000) for n in thousandths(probability[i])]
            lines.append("\t".join([part.name, part.barcodes[i]] + digits + [part.group[i]]))
        tell(part, probability, reason)
    write(os.path.join(HERE, "labels.tsv"), lines)
    write(os.path.join(HERE, "exclude.tsv"), ["%s\t%s" % key for key in excluded])


def tell(part, probability, reason):
    """Old label against new, and what was left out."""
    best = np.array(LABELS, dtype=object)[probability.argmax(1)]
    best[reason != ""] = reason[reason != ""]
    soft = (reason == "") & (probability.max(1) < 0.9)
    print("%s: %d cells, %d labelled, %d of these softly (below 0.9)" % (
        part.name, len(best), (reason == "").sum(), soft.sum()))
    for author in sorted(set(part.author)):
        now = best[part.author == author]
        counts = sorted(((int((now == n).sum()), n) for n in set(now)), reverse=True)
        print("  %-30s %s" % (author or "(none)", ", ".join("%s %d" % (n, c) for c, n in counts)))


if __name__ == "__main__":
    main()
