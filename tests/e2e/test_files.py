"""test_files.py - files in, files out: every format and generation through scdiva embed and
annotate, read again by h5py, by old and new anndata, and used by scanpy.
"""
import glob
import json
import os
import resource
import shutil
import signal
import subprocess
import time

import h5py
import numpy as np

import files
import harness
from files import data_path, nothing_else_changed, python, run, says, small, small_model
from harness import SLOW, Skip, clean_environment, scdiva, scratch

REAL_H5AD = ["kang_ifnb.h5ad", "pbmc_ifnb_9k.h5ad", "pbmc68k_reduced.h5ad",
             "perturbseq_k562_gbm.h5ad", "mouse_brain_1k.h5ad", "formats/anndata_v0.5.0.h5ad",
             "formats/anndata_v0.7.0.h5ad", "formats/anndata_v0.7.8.h5ad",
             "formats/cellxgene_valid.h5ad"]
REAL_TENX = ["formats/10x_v2.h5", "formats/10x_v3.h5", "formats/10x_v2_two_genomes.h5",
             "formats/10x_v2_mex", "formats/10x_v3_mex"]
SMALL_H5AD = ["good_csr.h5ad", "good_csc.h5ad", "good_dense.h5ad", "good_csr_int64.h5ad",
              "good_dense_big_endian.h5ad", "good_csr_lzf.h5ad", "columns.h5ad", "records.h5ad"]
SMALL_OTHER = ["tenx_v2.h5", "tenx_v3.h5", "mex_v2", "mex_v3", "mex_by_cells", "mex.zip",
               "mex.tar.gz", "cells.csv", "cells.csv.gz", "genes.csv", "genes_r.tsv"]

READ = """
import sys, json, anndata
out = {}
for path in sys.argv[1:]:
    a = anndata.read_h5ad(path)
    label = a.obs["scdiva_label"]
    out[path] = {"shape": a.shape, "width": a.obsm["X_scdiva"].shape[1],
                 "categories": list(label.cat.categories), "missing": int(label.isna().sum()),
                 "unknown": a.obs["scdiva_unknown"].dtype.name,
                 "probability": a.obs["scdiva_probability"].dtype.name,
                 "tasks": sorted(a.uns["scdiva"]),
                 "digest": str(a.uns["scdiva"]["embed"]["model_digest"]),
                 "columns": list(a.obs.columns)}
print(json.dumps(out))
"""

USE = """
import sys, json, anndata, scanpy as sc
out = {}
for path in sys.argv[1:]:
    a = anndata.read_h5ad(path)
    sc.pp.neighbors(a, use_rep="X_scdiva", n_neighbors=min(15, a.n_obs - 1))
    sc.tl.leiden(a, flavor="igraph", n_iterations=2, directed=False)
    sc.tl.umap(a, init_pos="random" if a.n_obs < 20 else "spectral")
    out[path] = [len(a.obs["leiden"].cat.categories), list(a.obsm["X_umap"].shape)]
print(json.dumps(out))
"""


def both(path, name, model, *flags):
    """The file embedded and annotated: two runs, one on top of the other."""
    first, second = scratch(name + ".1.h5ad"), scratch(name + ".2.h5ad")
    if not os.path.exists(second):
        run("embed", path, "-o", first, "--model", model, "-q", *flags)
        run("annotate", first, "-o", second, "--model", model, "-q")
    return first, second


def real(names):
    """[(input, output)] of real files; each by a model that knows its genes."""
    made = []
    for name in names:
        path = data_path(name)
        flags = ["--genome", "hg19_chr21"] if "two_genomes" in name else []
        made.append((path, both(path, name.replace("/", "_"),
                                files.model_of(files.genes_of(path)), *flags)[1]))
    return made


# ---- .h5ad ---------------------------------------------------------------------------------------

def test_real_h5ad_files_come_back_with_results_and_nothing_else_changed():
    for path, out in real(REAL_H5AD):
        nothing_else_changed(path, out)


def test_small_h5ad_files_come_back_with_results_and_nothing_else_changed():
    for name in SMALL_H5AD:
        first, second = both(small(name), name, small_model())
        nothing_else_changed(small(name), first)
        nothing_else_changed(first, second)
        nothing_else_changed(small(name), second)


def test_results_in_an_h5ad_are_those_of_the_tables():
    model, path = small_model(), small("good_csr.h5ad")
    out = both(path, "good_csr.h5ad", model)[1]
    csv, npy, p = scratch("same.csv"), scratch("same.npy"), scratch("same.p.npy")
    run("annotate", path, "-o", csv, "--model", model, "-q", "--embeddings", "--overwrite")
    run("embed", path, "-o", npy, "--model", model, "-q", "--overwrite")
    run("annotate", path, "-o", p, "--model", model, "-q", "--overwrite")
    with h5py.File(out, "r") as f:
        x, g = f["obsm/X_scdiva"][:], f["obs/scdiva_label"]
        names = [c.decode() for c in f["obs/_index"][:]]
        labels = [g["categories"][c].decode() if c >= 0 else "" for c in g["codes"][:]]
        probability = f["obs/scdiva_probability"][:]
        unknown = f["obs/scdiva_unknown"][:]
    assert x.dtype == np.float32 and np.array_equal(x, np.load(npy), equal_nan=True)
    import csv as table
    with open(csv, newline="", encoding="utf-8") as f:
        rows = list(table.DictReader(f))
    assert [r["barcode"] for r in rows] == names
    assert [r["scdiva_label"] for r in rows] == labels
    assert [r["scdiva_unknown"] for r in rows] == [str(bool(u)).lower() for u in unknown]
    for row, e, q in zip(rows, x, probability):
        told = [np.float32(row[f"scdiva_{i + 1}"] or "nan") for i in range(32)]
        assert np.array_equal(np.array(told), e, equal_nan=True)
        assert np.array_equal(np.float32(row["scdiva_probability"] or "nan"), q, equal_nan=True)
    best = np.load(p).max(1)
    assert np.array_equal(best, probability, equal_nan=True)
    assert labels[2] == "" and np.isnan(x[2]).all() and unknown[2]  # the cell without counts


def test_the_same_file_gives_the_same_bytes():
    model = small_model()
    for name in ("columns.h5ad", "records.h5ad", "mex.zip"):
        outs = [scratch(f"again.{i}.h5ad") for i in range(2)]
        for out in outs:
            run("annotate", small(name), "-o", out, "--model", model, "-q", "--embeddings",
                "--overwrite")
        with open(outs[0], "rb") as a, open(outs[1], "rb") as b:
            assert a.read() == b.read(), name


# ---- other formats -------------------------------------------------------------------------------

def test_other_formats_become_an_h5ad_with_their_counts_and_names():
    for name in SMALL_OTHER:
        out = both(small(name), name, small_model())[1]
        with h5py.File(out, "r") as f:
            assert f.attrs["encoding-type"] == "anndata", name
            assert np.array_equal(files.h5ad_files.dense_of(f["X"]), files.h5ad_files.MATRIX), name
            assert [c.decode() for c in f["obs/_index"]] == files.h5ad_files.CELLS, name
            assert [g.decode() for g in f["var/_index"]] == files.h5ad_files.GENES, name
            if "tenx" in name or "mex" in name:
                assert [g.decode() for g in f["var/gene_ids"]] == [f"ENSG{i}" for i in range(5)]
            assert f["X/data"].dtype == np.float32


def test_every_format_gives_the_same_embeddings():
    model, want = small_model(), None
    for name in ["good_csr.h5ad", *SMALL_OTHER]:
        out = scratch("format.npy")
        run("embed", small(name), "-o", out, "--model", model, "-q", "--overwrite")
        got = np.load(out)
        want = got if want is None else want
        assert np.array_equal(want, got, equal_nan=True), name


def test_real_10x_files_become_h5ad_files():
    for path, out in real(REAL_TENX):
        with h5py.File(out, "r") as f:
            assert f["obsm/X_scdiva"].shape == (f["obs/_index"].shape[0], 32), path
            assert f["X/indptr"].shape[0] == f["obs/_index"].shape[0] + 1, path
    out = dict(real(REAL_TENX))
    a, b = (out[data_path("formats/10x_v3" + s)] for s in (".h5", "_mex"))
    with h5py.File(a, "r") as a, h5py.File(b, "r") as b:
        for part in ("X/data", "X/indices", "X/indptr", "obsm/X_scdiva"):
            assert np.array_equal(a[part][:], b[part][:], equal_nan=True), part


# ---- readers that nobody here wrote --------------------------------------------------------------

def check_read(which, outs):
    for path, said in python(which, READ, *outs).items():
        assert said["width"] == 32 and said["unknown"] == "bool", (path, said)
        assert said["probability"] == "float32" and said["tasks"] == ["annotate", "embed"], said
        assert set(said["categories"]) <= set(files.LABELS), said
        assert said["columns"][-3:] == ["scdiva_label", "scdiva_probability", "scdiva_unknown"]
        assert len(said["digest"]) == 64, said


def small_outs():
    # columns.h5ad has what anndata itself would not write
    return [both(small(n), n, small_model())[1] for n in SMALL_H5AD + SMALL_OTHER
            if n != "columns.h5ad"]


def test_anndata_of_debian_reads_every_file():
    check_read("system", small_outs())
    check_read("system", [out for _, out in real(REAL_H5AD + REAL_TENX)])


def test_anndata_of_pypi_reads_every_file():
    check_read("pypi", small_outs())
    check_read("pypi", [out for _, out in real(REAL_H5AD + REAL_TENX)])


def check_scanpy(names):
    """neighbors, leiden and umap on X_scdiva, as the manual has it."""
    outs = [out for _, out in real(names) if "cellxgene" not in out]  # two cells have no map
    said = python("pypi", USE, *outs)
    for out in outs:
        clusters, shape = said[out]
        assert clusters >= 1 and shape[1] == 2, (out, said[out])


def test_scanpy_works_with_the_embeddings_of_new_h5ad_files():
    check_scanpy(REAL_H5AD[:3])


def test_scanpy_works_with_the_embeddings_of_large_h5ad_files():
    check_scanpy(REAL_H5AD[3:5])


def test_scanpy_works_with_the_embeddings_of_old_h5ad_files():
    check_scanpy(REAL_H5AD[5:])


def test_scanpy_works_with_the_embeddings_of_10x_files():
    check_scanpy(REAL_TENX)


# ---- what is in the way --------------------------------------------------------------------------

def test_nothing_is_overwritten_unless_asked():
    model, path = small_model(), small("good_csr.h5ad")
    out = os.path.join(scratch(), "there.tsv")
    run("annotate", path, "-o", out, "--model", model, "-q")
    with open(out, "rb") as f:
        before = f.read()
    _, said = run("embed", path, "-o", out, "--model", model, exit=1)
    says(said, "there.tsv", "is there already", "--overwrite")
    with open(out, "rb") as f:
        assert f.read() == before
    run("embed", path, "-o", out, "--model", model, "-q", "--overwrite")
    with open(out, "rb") as f:
        assert f.read() != before


def test_results_in_the_input_are_in_the_way_and_can_be_replaced():
    model = small_model()
    for name in ("good_csr.h5ad", "records.h5ad", "columns.h5ad"):
        done = both(small(name), name, model)[1]
        out = scratch("replaced.h5ad")
        _, said = run("annotate", done, "-o", out, "--model", model, exit=1)
        says(said, 'obs["scdiva_label"] is there already', "--overwrite")
        _, said = run("embed", done, "-o", out, "--model", model, exit=1)
        says(said, 'obsm["X_scdiva"] is there already')
        assert not os.path.exists(out)
        run("annotate", done, "-o", out, "--model", model, "-q", "--overwrite", "--embeddings",
            "--threshold", "1")
        nothing_else_changed(small(name), out)
        with h5py.File(out, "r") as f:
            assert f["uns/scdiva/annotate/threshold"][()] == 1, name
        os.remove(out)


def test_a_file_can_be_its_own_output():
    path = files.copy(small("good_csr.h5ad"), "itself.h5ad")
    _, said = run("embed", path, "-o", path, "--model", small_model(), exit=1)
    says(said, "is there already")
    run("embed", path, "-o", path, "--model", small_model(), "-q", "--overwrite")
    nothing_else_changed(small("good_csr.h5ad"), path)


def left_behind(path):
    folder, name = os.path.split(path)
    return [f for f in os.listdir(folder) if f.startswith(name)]


def test_a_full_disk_leaves_nothing_and_is_named():
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))

    for verb, name, suffix in (("embed", "good_csr.h5ad", "h5ad"), ("embed", "mex.zip", "h5ad"),
                               ("annotate", "records.h5ad", "h5ad")):
        out = scratch("full." + suffix)
        _, said = run(verb, small(name), "-o", out, "--model", small_model(), exit=1,
                      preexec_fn=limit)
        says(said, "full." + suffix)
        assert not left_behind(out), left_behind(out)
    _, said = run("embed", small("mex.zip"), "-o", "/nowhere/x.h5ad", "--model", small_model(),
                  exit=1)
    says(said, "/nowhere/x.h5ad")


def test_a_run_that_is_interrupted_leaves_nothing():
    x = np.random.default_rng(1).poisson(1, (20000, 5)).astype("f4") + np.eye(1, 5, dtype="f4")
    path, out = scratch("long.h5ad"), scratch("long.out.h5ad")
    with h5py.File(path, "w") as f:
        files.h5ad_files.frame(f, "obs", [f"c{i}" for i in range(len(x))])
        files.h5ad_files.frame(f, "var", files.h5ad_files.GENES)
        f["X"] = x
    p = subprocess.Popen(scdiva() + ["embed", path, "-o", out, "--model", small_model()],
                         stderr=subprocess.PIPE, text=True, env=clean_environment(),
                         start_new_session=True)
    end = time.monotonic() + 20 * SLOW
    while not left_behind(out) and time.monotonic() < end and p.poll() is None:
        time.sleep(0.001)
    os.killpg(p.pid, signal.SIGINT)  # as a terminal does
    _, said = p.communicate(timeout=60 * SLOW)
    if p.returncode == 0:
        raise Skip("it was over before the signal came")
    assert p.returncode == 1, (p.returncode, said)
    says(said, "interrupted")
    assert not left_behind(out), left_behind(out)


# ---- bad input -----------------------------------------------------------------------------------

def test_bad_files_are_unreadable_and_never_crash_or_hang():
    model = small_model()
    for path in sorted(glob.glob(os.path.join(files.small_inputs(), "bad_*"))):
        p = subprocess.run(scdiva() + ["validate", path, "--model", model, "--json"], text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                           timeout=30 * SLOW, env=clean_environment())
        assert p.returncode in (0, 1, 2), (path, p.returncode, p.stderr)
        said = json.loads(p.stdout)
        assert said["usable"] == (p.returncode == 0), (path, said)
        assert p.returncode == 0 or os.path.basename(path) in said["reason"], said
        # what is broken elsewhere is no reason to refuse a sound X; else it is
        if p.returncode == 0:
            run("embed", path, "-o", scratch("bad.npy"), "--model", model, "-q", "--overwrite")


def test_a_file_cut_off_anywhere_is_unreadable():
    model, whole = small_model(), small("good_csr.h5ad")
    with open(whole, "rb") as f:
        data = f.read()
    for n in range(0, len(data), max(1, len(data) // 12)):
        path = scratch("cut.h5ad")
        with open(path, "wb") as f:
            f.write(data[:n])
        out, _ = run("inspect", path, "--model", model, "--json", exit=2)
        assert json.loads(out)["reason"].count("cut.h5ad"), out


def test_links_out_of_the_file_are_not_followed_when_results_are_written():
    target = files.copy(small("good_csr.h5ad"), "target.h5ad")
    for place in ("uns", "obsm"):
        path, out = files.copy(small("good_csr.h5ad"), f"link.{place}.h5ad"), scratch("link.h5ad")
        with h5py.File(path, "r+") as f:
            f[place] = h5py.ExternalLink(target, "/obs")
        with open(target, "rb") as f:
            before = f.read()
        _, said = run("embed", path, "-o", out, "--model", small_model(), exit=1)
        says(said, place, "a link to another file")
        with open(target, "rb") as f:
            assert f.read() == before
        assert not left_behind(out)


def test_an_input_that_vanishes_is_named():
    path = files.copy(small("good_csr.h5ad"), "gone.h5ad")
    os.remove(path)
    _, said = run("embed", path, "-o", scratch("gone.npy"), "--model", small_model(), exit=1)
    says(said, "gone.h5ad", "No such file")
    shutil.rmtree(scratch("gone"), ignore_errors=True)
