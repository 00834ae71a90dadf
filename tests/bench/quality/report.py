"""results.json, a table for people and plots, of what run.py measured."""
import json
import os

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)
import numpy as np  # noqa: E402

ANNOTATION = [("accuracy", "accuracy"), ("balanced", "balanced_accuracy"),
              ("macro-F1", "macro_f1"), ("ECE", "ece"), ("Brier", "brier"),
              ("risk area", "risk_area")]
EMBEDDING = [("kNN", "knn_accuracy"), ("NMI", "nmi"), ("ARI", "ari"),
             ("silhouette", "silhouette_label"), ("by batch", "silhouette_batch"),
             ("connected", "graph_connectivity")]


def number(value):
    return "-" if value is None else "%.3f" % value


def lines_of(title, head, rows):
    """A text table: the first column to the left, the others to the right."""
    cells = [head] + rows
    width = [max(len(row[i]) for row in cells) for i in range(len(head))]
    out = [title]
    for row in cells:
        out.append("  " + row[0].ljust(width[0]) + "".join(
            "  " + row[i].rjust(width[i]) for i in range(1, len(head))))
    return out + [""]


def text_table(results):
    out = []
    methods = results.get("annotation", {})
    if methods:
        head = ["annotation"] + [n for n, _ in ANNOTATION] + ["at 90 %", "AUROC unseen"]
        rows = [[name] + [number(m.get(k)) for _, k in ANNOTATION] +
                [number(m.get("accuracy_at_coverage", {}).get("0.9")),
                 number(m.get("unseen", {}).get("auroc"))] for name, m in methods.items()]
        first = next(iter(methods.values()))
        out += lines_of("%d cells with a known type; logistic regression (LR) learned %s" % (
            first["cells"], results["baselines_learned"]), head, rows)
        if "classes" in first:
            out += classes_table(methods)
            out += confusion_table(first["confusion"])
    if results.get("embedding"):
        rows = [[name] + [number(m.get(k)) for _, k in EMBEDDING]
                for name, m in results["embedding"].items()]
        out += lines_of("representations, %d cells (1 is best)" % results["embedding_cells"],
                        ["embedding"] + [n for n, _ in EMBEDDING], rows)
    return "\n".join(out)


def classes_table(methods):
    first = next(iter(methods.values()))
    rows = [[label, str(c["cells"]), number(c["precision"]), number(c["recall"])] +
            [number(m["classes"][label]["f1"]) for m in methods.values()]
            for label, c in first["classes"].items()]
    return lines_of("by type: precision and recall of the first method, F1 of all",
                    ["type", "cells", "precision", "recall"] + list(methods), rows)


def confusion_table(confusion):
    rows = [[t] + [str(n) for n in row] for t, row in zip(confusion["truth"], confusion["cells"])]
    return lines_of("truth (rows) against the first method", ["truth"] + confusion["said"], rows)


def save(figure, out, name):
    figure.tight_layout()
    figure.savefig(os.path.join(out, name), dpi=120)
    plt.close(figure)


def plot_curves(methods, out):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.5))
    left.plot([0, 1], [0, 1], color="0.8")
    for name, m in methods.items():
        bins = np.array(m["reliability"])
        left.plot(bins[:, 0], bins[:, 1], marker=".", label="%s (ECE %.3f)" % (name, m["ece"]))
        right.plot(*m["coverage_curve"], label=name)
    left.set(xlabel="confidence", ylabel="accuracy", title="reliability, 15 bins")
    right.set(xlabel="coverage", ylabel="accuracy of the cells kept", title="abstention")
    left.legend(fontsize=7)
    save(figure, out, "calibration.png")


def plot_confusion(name, confusion, out):
    counts = np.array(confusion["cells"], float)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, ax = plt.subplots(figsize=(1.5 + 0.7 * len(confusion["said"]),
                                       1.5 + 0.6 * len(confusion["truth"])))
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), n in np.ndenumerate(counts):
        ax.text(j, i, "%d" % n, ha="center", va="center", fontsize=7,
                color="white" if share[i, j] > 0.5 else "black")
    ax.set_xticks(range(len(confusion["said"])), confusion["said"], rotation=45, ha="right")
    ax.set_yticks(range(len(confusion["truth"])), confusion["truth"])
    ax.set(xlabel=name, ylabel="truth")
    save(figure, out, "confusion.png")


def plot_bars(methods, key, labels, out, file):
    figure, ax = plt.subplots(figsize=(2 + 1.1 * len(labels), 4))
    wide = 0.8 / len(methods)
    for i, (name, m) in enumerate(methods.items()):
        ax.bar(np.arange(len(labels)) + i * wide, [key(m, label) or 0 for label in labels], wide,
               label=name)
    ax.set_xticks(np.arange(len(labels)) + 0.4 - wide / 2, labels, rotation=30, ha="right")
    ax.set_ylim(0, 1)
    ax.legend(fontsize=7)
    save(figure, out, file)


def write(results, out):
    os.makedirs(out, exist_ok=True)
    text = text_table(results)
    for name, content in (("results.json", json.dumps(results, indent=1) + "\n"),
                          ("table.txt", text + "\n")):
        path = os.path.join(out, name)
        with open(path + ".part", "w", encoding="utf-8") as f:
            f.write(content)
        os.replace(path + ".part", path)
    methods = {n: m for n, m in results.get("annotation", {}).items() if "classes" in m}
    if methods:
        first = next(iter(methods))
        plot_curves(methods, out)
        plot_confusion(first, methods[first]["confusion"], out)
        plot_bars(methods, lambda m, c: m["classes"][c]["f1"], list(methods[first]["classes"]),
                  out, "f1.png")
    if results.get("embedding"):
        names = dict((n, k) for n, k in EMBEDDING)
        plot_bars(results["embedding"], lambda m, c: m.get(names[c]), list(names), out,
                  "embedding.png")
    return text
