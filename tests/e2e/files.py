"""files.py - what the tests of files and of the command line share: scdiva itself, models for any
genes, and the comparison of an .h5ad with what it was made of.
"""
import functools
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys

import h5py
import numpy as np

import harness
from harness import SLOW, Skip, clean_environment, scdiva, scdiva_train, scratch
from test_eval import add_head

sys.path.insert(0, os.path.join(harness.TOP, "tests", "unit"))
import h5ad_files  # noqa: E402

BUNDLED = os.path.join(harness.TOP, "config", "models", "pbmc")
LABELS = ["B", "NK", "T cell, \"naive\""]


def data_path(name):
    folder = os.environ.get("SCDIVA_DATA", os.path.join(harness.TOP, "..", "shared", "data"))
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        raise Skip("../shared/data is not there")
    return path


def run(*args, exit=0, env=None, timeout=100 * SLOW, **options):
    """scdiva ARGS: (standard output, standard error) of a run that ends with `exit`."""
    p = subprocess.run(scdiva() + list(args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, text=True, timeout=timeout, cwd=scratch(),
                       env=clean_environment(env), check=False, **options)
    assert p.returncode == exit, f"exit {p.returncode}, not {exit}: {args}\n{p.stdout}{p.stderr}"
    assert "Sanitizer" not in p.stderr and "runtime error" not in p.stderr, p.stderr
    return p.stdout, p.stderr


def says(text, *parts):
    for part in parts:
        assert part in text, f"'{part}' is not in: {text}"


# ---- models --------------------------------------------------------------------------------------

@functools.cache
def model_of(genes):
    """A random model of 32 numbers a cell that knows these genes, with a head of LABELS."""
    name = "files." + hashlib.sha256("\n".join(genes).encode()).hexdigest()[:12]
    table, out = scratch(name + ".tsv"), scratch(name)
    with open(table, "w", encoding="utf-8") as f:
        f.write("token_id\tsymbol\n" + "".join(f"{i + 2}\t{g}\n" for i, g in enumerate(genes)))
    subprocess.run(scdiva_train() + ["init", "--out", out, "--genes", table, "--hidden", "32",
                                     "--dim", "32", "--layers", "1", "--heads", "2", "--ffn", "48",
                                     "--max-genes", "600", "--seed", "3"],
                   check=True, stdout=subprocess.DEVNULL, env=clean_environment())
    models, _ = run("models", "--model", out, "--json")
    digest = json.loads(models)["data"][0]["digest"]
    return add_head(out, LABELS, digest)


def genes_of(path):
    """Unique names of the genes of an .h5ad or of 10x Genomics' formats."""
    if os.path.isdir(path):
        new = os.path.join(path, "features.tsv.gz")
        opened = gzip.open(new, "rt") if os.path.exists(new) else open(
            os.path.join(path, "genes.tsv"), encoding="utf-8")
        with opened as f:
            names = [line.rstrip("\n").split("\t")[1] for line in f]
        return tuple(dict.fromkeys(names))
    with h5py.File(path, "r") as f:
        for where in ("raw/var", "raw.var", "var", "matrix/features", "hg19_chr21"):
            if where not in f:
                continue
            g = f[where]
            if isinstance(g, h5py.Dataset):
                names = g["index"]
            elif "_index" in g.attrs:
                names = g[g.attrs["_index"]][:]
                if names[0] in (b"0", "0"):
                    names = g["ensembl_id"][:]
            else:
                names = g["name" if "name" in g else "gene_names"][:]
            names = [n.decode() if isinstance(n, bytes) else n for n in names]
            return tuple(dict.fromkeys(names))
    raise AssertionError(path)


@functools.cache
def small_inputs():
    """A folder with the files of tests/unit/h5ad_files.py: 6 cells x 5 genes."""
    out = scratch()
    subprocess.run([sys.executable, os.path.join(harness.TOP, "tests", "unit", "h5ad_files.py"),
                    "make", out], check=True)
    return out


def small(name):
    return os.path.join(small_inputs(), name)


def small_model():
    return model_of(tuple(h5ad_files.GENES))


def copy(path, name):
    """The file under a name of its own, to be changed."""
    to = scratch(name)
    shutil.copyfile(path, to)
    return to


# ---- comparing -----------------------------------------------------------------------------------

ADDED = ("obsm/X_scdiva", "obs/scdiva_label", "obs/scdiva_probability", "obs/scdiva_unknown",
         "obs/__categories/scdiva_label", "uns/scdiva", "uns/scdiva_label_categories")


def is_added(name):
    return any(name == a or name.startswith(a + "/") for a in ADDED)


def attributes(item):
    out = {}
    for key in item.attrs:
        if key == "column-order":
            continue
        try:
            value = item.attrs[key]
        except TypeError:
            continue  # h5py cannot read an empty one of PyTables
        out[key] = str(value) if isinstance(value, h5py.Reference) else np.asarray(value).tolist()
    return out


def same_values(a, b, where):
    if a.dtype.names and a.dtype != b.dtype:  # records that got members
        assert a.dtype.names == b.dtype.names[:len(a.dtype.names)], where
        for name in a.dtype.names:
            assert a.dtype[name] == b.dtype[name], (where, name)
            assert np.asarray(a[name]).tobytes() == np.asarray(b[name]).tobytes(), (where, name)
        return
    assert a.dtype == b.dtype and a.shape == b.shape, where
    if a.dtype.hasobject or a.dtype.kind == "O":
        assert str(a[()]) == str(b[()]) and np.all(a[()] == b[()]), where
    else:
        assert a[()].tobytes() == b[()].tobytes(), where


def nothing_else_changed(before, after):
    """All of `before` is in `after` bit for bit; `after` holds no more than results besides."""
    with h5py.File(before, "r") as a, h5py.File(after, "r") as b:
        names, more = set(), set()
        a.visit(names.add)
        b.visit(more.add)
        assert names <= more, names - more
        new = {n for n in more - names if not is_added(n)}
        assert not new - {"obsm", "uns", "obs/__categories"}, new
        assert attributes(a) == attributes(b)
        for name in names:
            x, y = a[name], b[name]
            assert attributes(x) == attributes(y), name
            if isinstance(x, h5py.Dataset):
                same_values(x, y, name)
            elif "column-order" in x.attrs:
                old, now = list(x.attrs["column-order"]), list(y.attrs["column-order"])
                assert now[:len(old)] == old, (name, old, now)
                assert all(str(c).startswith("scdiva_") for c in now[len(old):]), (name, now)


# ---- readers that nobody here wrote --------------------------------------------------------------

@functools.cache
def pythons():
    """{name: interpreter} of those that have anndata: Debian's, that of `make bench-quality`."""
    found = {}
    for name, path in (("system", "/usr/bin/python3"),
                       ("pypi", os.path.join(harness.TOP, "build", "quality", "bin", "python"))):
        path = os.environ.get("SCDIVA_PYTHON_" + name.upper(), path)
        if os.path.exists(path) and subprocess.run(
                [path, "-W", "ignore", "-c", "import anndata"], check=False,
                stderr=subprocess.DEVNULL, timeout=60 * SLOW).returncode == 0:
            found[name] = path
    return found


def python(which, script, *args):
    """What a script prints there, as JSON; Skip where anndata is not installed."""
    if which not in pythons():
        raise Skip("no anndata: python3-anndata, or make bench-quality")
    p = subprocess.run([pythons()[which], "-W", "ignore", "-c", script, *args], text=True,
                       check=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       timeout=110 * SLOW)
    assert p.returncode == 0, f"{which}: {args}: {p.stderr[-3000:]}"
    return json.loads(p.stdout.strip().split("\n")[-1])
