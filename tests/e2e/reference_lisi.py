"""reference_lisi.py - how well batches are mixed and labels kept apart, from the definition in
api/lisi.h; tests/bench/quality/test_metrics.py compares it with scib-metrics.
"""
import numpy as np


def lisi(x, kinds):
    """The median of the local inverse Simpson's index, from its definition."""
    x, kinds = np.asarray(x, np.float64), np.unique(kinds, return_inverse=True)[1]
    k = min(90, len(x))
    found = []
    for i in range(len(x)):
        distance = np.sqrt(((x - x[i]) ** 2).sum(1))
        distance[i] = np.inf
        near = np.argsort(distance, kind="stable")[:k - 1]
        d, low, high, beta = distance[near], -np.inf, np.inf, 1.0
        for _ in range(51):
            p = np.exp(-d * beta)
            total = p.sum()
            entropy = np.log(total) + beta * (d * p).sum() / total
            p /= total
            off = entropy - np.log(k // 3)
            if abs(off) < 1e-5:
                break
            if off > 0:
                low, beta = beta, beta * 2 if high == np.inf else (beta + high) / 2
            else:
                high, beta = beta, beta / 2 if low == -np.inf else (beta + low) / 2
        found.append(1 / (np.bincount(kinds[near], p) ** 2).sum())
    return np.median(found), kinds.max() + 1


def mixed(x, batch):
    median, n = lisi(x, batch)
    return (median - 1) / (n - 1)


def apart(x, label):
    median, n = lisi(x, label)
    return (n - median) / (n - 1)
