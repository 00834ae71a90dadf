"""Figures of an annotation and of an embedding, by scikit-learn and scib-metrics.

What these libraries lack is here in a few lines: ECE, the multi-class Brier score, coverage against
accuracy. test_metrics.py holds all of them to cases worked out by hand.
"""
import numpy as np
from sklearn import metrics as sk
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

BINS = 15
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)


def reliability(confidence, right, bins=BINS):
    """[(mean confidence, accuracy, share of cells)] of the bins of equal width that hold cells."""
    index = np.clip(np.ceil(np.asarray(confidence) * bins).astype(int) - 1, 0, bins - 1)
    return [(float(confidence[index == b].mean()), float(right[index == b].mean()),
             float((index == b).mean())) for b in range(bins) if (index == b).any()]


def ece(confidence, right, bins=BINS):
    """Expected calibration error: sum over bins of share x |accuracy - mean confidence|."""
    return float(sum(n * abs(a - c) for c, a, n in reliability(confidence, right, bins)))


def brier(probability, truth_index):
    """Mean over cells of sum over labels (p - [label is true])^2, from 0 to 2."""
    wanted = np.eye(probability.shape[1])[truth_index]
    return float(((probability - wanted) ** 2).sum(1).mean())


def coverage_curve(confidence, right):
    """(coverage, accuracy) of the most confident cells, for every number of them. Cells of one
    confidence come in together."""
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    last = np.append(np.flatnonzero(np.diff(sorted_confidence)), len(order) - 1)
    kept = last + 1
    return kept / len(order), np.cumsum(right[order])[last] / kept


def accuracy_at(coverage, accuracy, wanted):
    """The accuracy at the least coverage that is at least the wanted one."""
    return float(accuracy[np.searchsorted(coverage, wanted - 1e-12)])


def annotation(truth, labels, probability, unseen=()):
    """All figures of one table of predictions. Cells with a truth among the labels (and not unseen)
    are scored; the others are what a novel type looks like. NaN rows (no known gene) are wrong."""
    truth = np.asarray(truth, dtype=object)
    labels = list(labels)
    column = {label: i for i, label in enumerate(labels)}
    empty = np.isnan(probability).any(1)
    p = np.where(empty[:, None], 1.0 / len(labels), probability)
    known = np.array([t in column and t not in unseen for t in truth])
    novel = np.array([bool(t) for t in truth]) & ~known
    out = {"cells": int(known.sum()), "cells_without_prediction": int((empty & known).sum())}
    if known.any():
        out.update(scored(truth[known], labels, p[known], empty[known]))
    if known.any() and novel.any():
        doubt = 1 - p.max(1)
        out["unseen"] = {"auroc": auroc(doubt, novel, known)}
        for kind in sorted(set(truth[novel])):
            mine = novel & (truth == kind)
            out["unseen"]["auroc of " + kind] = auroc(doubt, mine, known)
            out["unseen"]["cells of " + kind] = int(mine.sum())
    return out


def auroc(score, positive, negative):
    keep = positive | negative
    return float(sk.roc_auc_score(positive[keep], score[keep]))


def scored(truth, labels, p, empty):
    index = np.array([labels.index(t) for t in truth])
    best = p.argmax(1)
    right = (best == index) & ~empty
    confidence = p.max(1)
    present = sorted(set(truth), key=labels.index)
    said = np.array(labels, dtype=object)[best]
    said[empty] = "(none)"
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        truth.astype(str), said.astype(str), labels=present, zero_division=0)
    coverage, accuracy = coverage_curve(confidence, right)
    area = float(np.sum(np.diff(coverage, prepend=0) * (1 - accuracy)))
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(np.mean(recall)),
        "macro_f1": float(np.mean(f1)),
        "ece": ece(confidence, right),
        "brier": brier(p, index),
        "risk_area": area,
        "accuracy_at_coverage": {"%g" % c: accuracy_at(coverage, accuracy, c) for c in COVERAGES},
        "classes": {label: {"precision": float(precision[i]), "recall": float(recall[i]),
                            "f1": float(f1[i]), "cells": int(support[i])}
                    for i, label in enumerate(present)},
        "confusion": {"truth": present, "said": labels,
                      "cells": [[int(((truth == t) & (said == s)).sum()) for s in labels]
                                for t in present]},
        "reliability": reliability(confidence, right),
        "coverage_curve": [coverage.tolist(), accuracy.tolist()],
    }


def knn_accuracy(x, truth, neighbours=15, folds=5):
    """Accuracy of the vote of the nearest cells (Euclidean) of the other folds; None where a type
    has fewer cells than folds."""
    counts = np.unique(truth, return_counts=True)[1]
    if counts.min() < folds:
        return None
    said = cross_val_predict(KNeighborsClassifier(min(neighbours, len(truth) // 2)), x, truth,
                             cv=StratifiedKFold(folds, shuffle=True, random_state=0))
    return float((said == truth).mean())


def embedding(x, truth, batch=None):
    """scIB's figures of one representation, 1 the best of each; batch figures where there are
    several batches."""
    import scib_metrics as scib
    x = np.ascontiguousarray(x, np.float32)
    truth = np.asarray(truth).astype(str)
    codes = np.unique(truth, return_inverse=True)[1]
    distances, indices = NearestNeighbors(n_neighbors=min(15, len(x))).fit(x).kneighbors(x)
    neighbours = scib.nearest_neighbors.NeighborsResults(indices=indices, distances=distances)
    clusters = scib.nmi_ari_cluster_labels_kmeans(x, codes)
    out = {
        "knn_accuracy": knn_accuracy(x, truth),
        "nmi": float(clusters["nmi"]),
        "ari": float(clusters["ari"]),
        "silhouette_label": float(scib.silhouette_label(x, codes)),
        "graph_connectivity": float(scib.graph_connectivity(neighbours, codes)),
    }
    if batch is not None and len(set(batch)) > 1:
        out["silhouette_batch"] = float(scib.silhouette_batch(
            x, codes, np.unique(np.asarray(batch).astype(str), return_inverse=True)[1]))
    return out
