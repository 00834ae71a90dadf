"""What every figure is set beside: the same cells under representations anyone can make.

- all genes: log1p values of the genes that the test cells' files and any training file measure,
  0 where a training file lacks one (better than only the genes that all files share);
- 2,000 HVGs: the most variable of them (scanpy, flavour seurat, on the training cells);
- PCA-50: principal components, fitted on the training cells;
- random projection: 50 Gaussian directions.

An annotation is logistic regression on each. It learns from other files where they are given
(across laboratories, the real question), else by cross-validation within the file, which is a
ceiling: that classifier has seen this laboratory's cells.
"""
import warnings

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.random_projection import GaussianRandomProjection

COMPONENTS, HVGS, SEED = 50, 2000, 0
NAMES = ("all genes", "2,000 HVGs", "PCA-50", "random projection")


def variable_genes(x, n=HVGS):
    import anndata
    import scanpy
    if x.shape[1] <= n:
        return np.arange(x.shape[1])
    data = anndata.AnnData(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scanpy.pp.highly_variable_genes(data, n_top_genes=n, flavor="seurat")
    return np.flatnonzero(data.var["highly_variable"].to_numpy())


def represent(name, learn, *others):
    """The representation fitted on `learn`, of `learn` and of the others."""
    if name == "all genes":
        return (learn,) + others
    if name == "2,000 HVGs":
        genes = variable_genes(learn)
        return tuple(x[:, genes] for x in (learn,) + others)
    n = min(COMPONENTS, learn.shape[1], len(learn) - 1)
    fit = (PCA(n, random_state=SEED) if name == "PCA-50"
           else GaussianRandomProjection(n, random_state=SEED)).fit(learn)
    return tuple(np.asarray(fit.transform(x), np.float32) for x in (learn,) + others)


def classify(x, truth, test, labels):
    """Probabilities of `labels` for the cells of `test`; 0 for labels that training lacks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = LogisticRegression(max_iter=500).fit(x, np.asarray(truth).astype(str))
    out = np.zeros((len(test), len(labels)))
    for i, label in enumerate(fit.classes_):
        if label in labels:
            out[:, labels.index(label)] = fit.predict_proba(test)[:, i]
    return out / np.maximum(out.sum(1, keepdims=True), 1e-12)


def across(learn, truth, test, labels):
    """{baseline: probabilities of the test cells}, learned from other cells."""
    out = {}
    for name in NAMES:
        x, y = represent(name, learn, test)
        out[name] = classify(x, truth, y, labels)
    return out


def within(x, truth, labels, folds=5):
    """{baseline: probabilities}, each cell's by a fit that left it out. Cells without a truth, or
    of a type with fewer cells than folds, teach nothing and keep NaN."""
    names, counts = np.unique(truth[truth != ""].astype(str), return_counts=True)
    usable = np.isin(truth.astype(str), [n for n, c in zip(names, counts) if c >= folds])
    rows = np.flatnonzero(usable)
    out = {name: np.full((len(x), len(labels)), np.nan) for name in NAMES}
    if len(set(truth[rows])) < 2:
        return {}
    split = StratifiedKFold(folds, shuffle=True, random_state=SEED)
    for learn, test in split.split(rows, truth[rows].astype(str)):
        found = across(x[rows[learn]], truth[rows[learn]], x[rows[test]], labels)
        for name in NAMES:
            out[name][rows[test]] = found[name]
    return out
