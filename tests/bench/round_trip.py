#!/usr/bin/env python3
"""round_trip.py - every real file through scdiva and back: one table.

    tests/bench/round_trip.py [FILE...]      of ../shared/data, or $SCDIVA_DATA

Each file is embedded and then annotated by a small model that knows its genes; of what comes out:

  unchanged   everything that was in the .h5ad before is there as it was; of 10x files counts and
              names are those that scanpy reads
  anndata     versions that read it: Debian's python3-anndata, that of `make bench-quality`
  scanpy      neighbors, leiden and umap on obsm["X_scdiva"]: how many clusters

A column says what is wrong where something is; the exit status is 1 then.
"""
import os
import sys
import time

import common
import files
import harness
import test_files

EMPTY = "formats/anndata_v0.11.4.h5ad"  # names alone: it has to be refused, saying so
WIDTHS = (32, 8, 9, 22, 18, 0)
VERSION = "import anndata, json; print(json.dumps(anndata.__version__))"
SAME = """
import sys, json, os, anndata, scanpy as sc
path, out = sys.argv[1:]
mine = anndata.read_h5ad(out)
if os.path.isdir(path):
    theirs = sc.read_10x_mtx(path, gex_only=False, cache=False)
else:
    theirs = sc.read_10x_h5(path, genome="hg19_chr21" if "two_genomes" in path else None,
                            gex_only=False)
print(json.dumps({"shape": mine.shape == theirs.shape and (mine.X != theirs.X).nnz == 0,
                  "cells": list(mine.obs_names) == list(theirs.obs_names),
                  "genes": list(mine.var_names) == list(theirs.var_names) or
                  list(mine.var_names) == list(theirs.var["gene_ids"])}))
"""


def attempt(fn, *args):
    """What it returns, or the first line of what is wrong"""
    try:
        return fn(*args)
    except harness.Skip as why:
        return f"skipped: {why}"
    except Exception as e:  # every failure is an entry of the table
        return "WRONG: " + (str(e) or type(e).__name__).split("\n")[0][:60]


def unchanged(path, out):
    if path.endswith(".h5ad"):
        files.nothing_else_changed(path, out)
        return "yes"
    said = files.python("pypi", SAME, path, out)
    return "yes" if all(said.values()) else f"WRONG: {said}"


def read_by(out):
    return ", ".join(files.python(which, VERSION) for which in files.pythons()
                     if files.python(which, test_files.READ, out)[out]["tasks"])


def used_by_scanpy(out, n_cells):
    if n_cells < 4:
        return "too few cells for a map"
    clusters, umap = files.python("pypi", test_files.USE, out)[out]
    return f"{clusters} clusters" if umap[1] == 2 else "WRONG: no umap"


def refused(name):
    _, said = files.run("embed", files.data_path(name), "-o", harness.scratch("none.h5ad"),
                        "--model", files.small_model(), exit=1)
    return "refused: no matrix" if "no matrix at all" in said else f"WRONG: {said}"


def tell(*texts):
    print("  " + "".join(text.ljust(n) for text, n in zip(texts, WIDTHS)).rstrip(), flush=True)
    return texts


def main():
    names = sys.argv[1:] or [*test_files.REAL_H5AD, EMPTY, *test_files.REAL_TENX]
    common.head("real files there and back")
    rows = [tell("file", "cells", "seconds", "unchanged", "anndata", "scanpy")]
    for name in names:
        begin = time.monotonic()
        if name == EMPTY:
            rows.append(tell(name, "", "", attempt(refused, name), "", ""))
            continue
        made = attempt(test_files.real, [name])
        if isinstance(made, str):
            rows.append(tell(name, "", "", made, "", ""))
            continue
        (path, out), = made
        took = time.monotonic() - begin
        facts = attempt(files.python, "pypi", test_files.READ, out)
        cells = facts[out]["shape"][0] if isinstance(facts, dict) else 0
        rows.append(tell(name, str(cells or facts), f"{took:.1f}", attempt(unchanged, path, out),
                         attempt(read_by, out), attempt(used_by_scanpy, out, cells)))
    sys.exit(any("WRONG" in text for r in rows for text in r))


if __name__ == "__main__":
    main()
