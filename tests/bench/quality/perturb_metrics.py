"""What is said of predicted responses: figures as cell-eval and Systema define them.

cell-eval (Arc Institute) computes Pearson delta, MSE and the discrimination score itself
(`of_cell_eval`); the rest is here, over pseudobulks. delta: predicted or measured pseudobulk minus
the controls' mean, (perturbations, genes). Every function gives one number a perturbation; None
where it has no meaning (a constant prediction has no correlation).
"""
import numpy as np
from scipy import stats

TOP = 20


def pearson(a, b):
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-9 and b.std() > 1e-9 else None


def pearson_delta(predicted, measured):
    """Against the controls: the reference of most papers."""
    return [pearson(p, m) for p, m in zip(predicted, measured)]


def pearson_centroid(predicted, measured, centroid):
    """Against the mean of perturbed cells (Systema, Vinas Torne et al. 2025): what is particular to
    this perturbation. centroid (genes): delta of the mean over training perturbations."""
    return [pearson(p - centroid, m - centroid) for p, m in zip(predicted, measured)]


def mse(predicted, measured):
    return [float(((p - m) ** 2).mean()) for p, m in zip(predicted, measured)]


def top(delta, k):
    return np.argsort(-np.abs(delta), kind="stable")[:k]


def top_pearson(predicted, measured, k=TOP):
    """Correlation over the k genes that change most."""
    return [pearson(p[top(m, k)], m[top(m, k)]) for p, m in zip(predicted, measured)]


def overlap(predicted, measured, k=TOP):
    """Share of the k genes that change most which are among the k predicted to."""
    return [len(set(top(p, k)) & set(top(m, k))) / k if np.abs(p).max() > 0 else 0.0
            for p, m in zip(predicted, measured)]


def direction_match(predicted, measured, significant):
    """Share of the genes that changed whose sign is right; significant: bool (perturbations, genes)
    """
    return [float((np.sign(p[s]) == np.sign(m[s])).mean()) if s.any() else None
            for p, m, s in zip(predicted, measured, significant)]


def centroid_accuracy(predicted, measured):
    """Share of the other perturbations whose measured centroid is farther from the prediction than
    the right one is (Systema). 0.5: by chance."""
    out = []
    for i, p in enumerate(predicted):
        d = np.linalg.norm(measured - p, axis=1)
        out.append(float((np.delete(d, i) > d[i]).mean()) if len(measured) > 1 else None)
    return out


def changed(perturbed, control, level=0.05):
    """Genes whose mean differs: Welch's t over cells, Benjamini-Hochberg. (genes) bool"""
    with np.errstate(invalid="ignore", divide="ignore"):
        p = stats.ttest_ind(perturbed, control, equal_var=False).pvalue
    return stats.false_discovery_control(np.where(np.isnan(p), 1, p)) < level


def duplicate(cells, control, rng):
    """Two halves of a perturbation's cells, as if one predicted the other: delta of each. The
    ceiling of a prediction that knows the perturbation and is measured as coarsely."""
    order = rng.permutation(len(cells))
    half = len(cells) // 2
    return (cells[order[:half]].mean(0) - control, cells[order[half:]].mean(0) - control)


def mean(values):
    """Over those with a meaning; None: none has."""
    values = [v for v in values if v is not None]
    return float(np.mean(values)) if values else None


def all_of(predicted, measured, centroid, significant):
    """{figure: mean over perturbations}; predicted, measured (perturbations, genes) deltas"""
    return {"pearson_delta": mean(pearson_delta(predicted, measured)),
            "pearson_centroid": mean(pearson_centroid(predicted, measured, centroid)),
            "mse": mean(mse(predicted, measured)),
            "top20_pearson": mean(top_pearson(predicted, measured)),
            "overlap_at_20": mean(overlap(predicted, measured)),
            "overlap_at_50": mean(overlap(predicted, measured, 50)),
            "direction_match": mean(direction_match(predicted, measured, significant)),
            "centroid_accuracy": mean(centroid_accuracy(predicted, measured))}


def of_cell_eval(predicted, cells, names, control, genes):
    """{figure: mean} by cell-eval itself: predicted (perturbations, genes) expression, cells:
    measured cells of each, names of both, control cells."""
    import anndata as ad
    import pandas as pd
    from cell_eval import metrics
    from cell_eval._types import PerturbationAnndataPair

    def annotated(rows, labels):
        obs = pd.DataFrame({"condition": pd.Categorical(labels)},
                           index=["c%d" % i for i in range(len(labels))])
        return ad.AnnData(np.concatenate(rows).astype(np.float32), obs=obs,
                          var=pd.DataFrame(index=genes))
    real = annotated([control, *cells], sum(([n] * len(c) for n, c in zip(names, cells)),
                                            ["control"] * len(control)))
    pred = annotated([control, predicted], ["control"] * len(control) + list(names))
    pair = PerturbationAnndataPair(real=real, pred=pred, pert_col="condition",
                                   control_pert="control")
    out = {}
    for name, function in (("pearson_delta", metrics._anndata.pearson_delta),
                           ("mse", metrics._anndata.mse),
                           ("discrimination_l1", metrics._anndata.discrimination_score)):
        values = function(pair)
        out[name] = mean([None if np.isnan(v) else v for v in values.values()])
    return out
