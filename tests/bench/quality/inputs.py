"""What the evaluation reads: predictions, labels, embeddings and expression values.

Formats are in README.md. Everything is matched by (file, barcode); where a table has no column
`file`, by barcode alone.
"""
import csv
import os

import numpy as np

NOT_LABELS = {"file", "barcode", "truth", "group", "predicted", "confidence", "threshold"}


class Cells:
    """Rows of a predictions table: keys, truth ("" where unknown), probabilities (n, labels)."""

    def __init__(self, keys, truth, labels, probability):
        self.keys, self.truth = keys, np.asarray(truth, dtype=object)
        self.labels, self.probability = list(labels), np.asarray(probability, float)

    def at(self, rows):
        return Cells([self.keys[i] for i in rows], self.truth[rows], self.labels,
                     self.probability[rows])


def table(path):
    with open(path, newline="", encoding="utf-8") as f:
        rows = list(csv.reader(f, delimiter="\t"))
    if not rows or "barcode" not in rows[0]:
        raise SystemExit("%s: no header with a column `barcode`" % path)
    head = rows[0]
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(head):
            raise SystemExit("%s, line %d: %d columns, the header has %d" % (path, number, len(row),
                                                                            len(head)))
    return head, rows[1:]


def key_of(head, row):
    return (row[head.index("file")] if "file" in head else "", row[head.index("barcode")])


def read_predictions(path):
    head, rows = table(path)
    columns = [i for i, name in enumerate(head) if name not in NOT_LABELS]
    if not columns:
        raise SystemExit("%s: no column of probabilities" % path)
    probability = np.array([[float(row[i]) if row[i] else np.nan for i in columns]
                            for row in rows]).reshape(len(rows), len(columns))
    given = probability[~np.isnan(probability).any(1)]
    if (given < 0).any() or (abs(given.sum(1) - 1) > 0.01).any():
        raise SystemExit("%s: rows of probabilities that do not sum to 1" % path)
    truth = [row[head.index("truth")] if "truth" in head else "" for row in rows]
    return Cells([key_of(head, row) for row in rows], truth, [head[i] for i in columns],
                 probability)


def read_labels(path, sure=0.5):
    """{key: label} from a table with a column `truth` or `label`, or of soft labels (the best one,
    where it has at least `sure`), and {key: group}."""
    head, rows = table(path)
    hard = next((name for name in ("truth", "label") if name in head), None)
    columns = [i for i, name in enumerate(head) if name not in NOT_LABELS and name != "label"]
    label, group = {}, {}
    for row in rows:
        key = key_of(head, row)
        if "group" in head:
            group[key] = row[head.index("group")]
        if hard:
            label[key] = row[head.index(hard)]
            continue
        best = max(columns, key=lambda i: float(row[i]))
        if float(row[best]) >= sure:
            label[key] = head[best]
    return label, group


def look_up(table_of, keys, default=""):
    """Values for keys, the file's name ignored where either side has none."""
    by_barcode = {}
    for (file, barcode), value in table_of.items():
        by_barcode.setdefault(barcode, set()).add((file, value))
    out = []
    for file, barcode in keys:
        if (file, barcode) in table_of:
            out.append(table_of[(file, barcode)])
            continue
        found = [v for f, v in by_barcode.get(barcode, ()) if not f or not file]
        out.append(found[0] if len(found) == 1 else default)
    return np.array(out, dtype=object)


class Values:
    """log1p values of one h5ad file: (cells, genes), keys, gene symbols, and one obs column."""

    def __init__(self, keys, genes, x, batch):
        self.keys, self.genes, self.x, self.batch = keys, list(genes), x, batch


def read_h5ad(path, batch_column=None):
    """Counts become log1p of counts per 10,000; log1p values stay. Scaled matrices are passed over:
    the order is layers["counts"], raw.X, X."""
    import anndata
    data = anndata.read_h5ad(path)
    choices = []
    if "counts" in data.layers:
        choices.append((data.layers["counts"], data.var_names))
    if data.raw is not None:
        choices.append((data.raw.X, data.raw.var_names))
    choices.append((data.X, data.var_names))
    for x, names in choices:
        x = np.asarray(x.todense() if hasattr(x, "todense") else x, np.float32)
        if x.min() >= 0:
            break
    else:
        raise SystemExit("%s: every matrix has negative values" % path)
    if np.array_equal(x, np.rint(x)):
        x = np.log1p(x * (1e4 / np.maximum(x.sum(1, keepdims=True), 1)))
    elif x.max() > np.log1p(1e4) + 0.01:
        raise SystemExit("%s: neither counts nor log1p of counts per 10,000" % path)
    if batch_column and batch_column not in data.obs:
        raise SystemExit("%s: obs has no column %s" % (path, batch_column))
    batch = np.asarray(data.obs[batch_column].astype(str), dtype=object) if batch_column else None
    name = os.path.basename(path)
    genes = [str(g).split("_ENSG")[0] for g in names]
    return Values([(name, str(b)) for b in data.obs_names], genes, x, batch)


def together(values):
    """Several files as one, over the genes that all of them have."""
    sets = [set(v.genes) for v in values]
    seen, genes = set(), []
    for gene in values[0].genes:
        if gene not in seen and all(gene in s for s in sets):
            genes.append(gene)
        seen.add(gene)
    if not genes:
        raise SystemExit("no gene is in all of the files")
    return Values([k for v in values for k in v.keys], genes, stacked(values, genes),
                  np.concatenate([v.batch for v in values]) if all(v.batch is not None
                                                                  for v in values) else None)


def stacked(values, genes):
    """The values of these genes, 0 where a file did not measure one, as a model sees it too."""
    out = np.zeros((sum(len(v.keys) for v in values), len(genes)), np.float32)
    first = 0
    for v in values:
        column = {}
        for i, gene in enumerate(v.genes):
            column.setdefault(gene, i)
        have = [i for i, gene in enumerate(genes) if gene in column]
        out[first:first + len(v.keys), have] = v.x[:, [column[genes[i]] for i in have]]
        first += len(v.keys)
    return out


def rows_of(keys, wanted):
    """Row of each wanted key, -1 where it is absent."""
    at = {}
    for i, (file, barcode) in enumerate(keys):
        at.setdefault(("", barcode), i)
        at[(file, barcode)] = i
    bare = all(not file for file, _ in keys)
    return np.array([at.get(("", k[1]) if bare else k, -1) for k in wanted], int)
