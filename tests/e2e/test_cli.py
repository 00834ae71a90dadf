"""test_cli.py - scdiva itself: exit codes, JSON, what is judged about a file, and a daemon in place
of a model.
"""
import hashlib
import json
import os
import re
import subprocess

import h5py
import numpy as np

import files
import harness
from files import data_path, run, says, small, small_model
from harness import Daemon, clean_environment, scdiva, scratch


def table(name, x, genes, cells=None):
    path = scratch(name)
    with open(path, "w", encoding="utf-8") as f:
        f.write("," + ",".join(genes) + "\n")
        for i, row in enumerate(x):
            f.write((cells[i] if cells else f"c{i}") + "," + ",".join(f"{v:g}" for v in row) + "\n")
    return path


# ---- used wrongly --------------------------------------------------------------------------------

def test_help_and_version_are_there():
    said, _ = run("--help")
    says(said, "embed", "annotate", "perturb", "integrate", "impute", "grn", "inspect", "validate",
         "models", "audit", "completion")
    assert re.match(r"scdiva \d+\.\d+", run("--version")[0])
    for verb in ("embed", "annotate", "perturb", "integrate", "impute", "grn", "inspect",
                 "validate", "jobs", "keys", "models", "audit", "completion"):
        says(run(verb, "--help")[0], "usage: scdiva " + verb)


def test_wrong_use_is_2_and_says_what_is_missing():
    path, model = small("good_csr.h5ad"), small_model()
    for args, word in (((), "usage"), (("grow",), "no verb 'grow'"), (("embed",), "INPUT"),
                       (("embed", path), "-o OUTPUT is missing"),
                       (("embed", path, "-o", "x.pdf", "--model", model), ".h5ad, .csv, .tsv"),
                       (("embed", path, "-o", "x.csv"), "--model DIR or --server URL"),
                       (("embed", path, "-o", "x.csv", "--modle", "m"), "--modle"),
                       (("embed", path, "more", "-o", "x.csv"), "'more'"),
                       (("embed", path, "-o", "x.csv", "--device", "tpu"), "auto|cpu|cuda"),
                       (("annotate", path, "-o", "x.csv", "--threshold", "2"), "from 0 to 1"),
                       (("annotate", path, "-o", "x.csv", "--threads", "1.5"), "whole number"),
                       (("models",), "--model DIR or --server URL"),
                       (("completion", "tcsh"), "bash, zsh and fish")):
        _, said = run(*args, exit=2)
        says(said, word)


def test_the_manual_and_the_completions_know_every_option():
    with open(os.path.join(harness.TOP, "api", "cli", "scdiva.1"), encoding="utf-8") as f:
        manual = f.read().replace("\\-", "-")
    bash = run("completion", "bash")[0]
    for verb in ("embed", "annotate", "perturb", "integrate", "impute", "grn", "inspect",
                 "validate", "models", "jobs", "keys"):
        for option in set(re.findall(r"--[a-z-]+", run(verb, "--help")[0])) - {"--help"}:
            assert option in manual, option
            assert option in re.search(rf"^    {verb}\) (.*)$", bash, re.M)[1], option
            assert f"-l {option[2:]}" in run("completion", "fish")[0], option
    subprocess.run(["bash", "-n"], input=bash, text=True, check=True)


# ---- inspect, validate ---------------------------------------------------------------------------

def inspect(path, *flags, exit=0, verb="inspect"):
    return json.loads(run(verb, path, "--json", *flags, exit=exit)[0])


def test_inspect_tells_what_would_be_used_and_why():
    said = inspect(small("choose_layer.h5ad"), "--model", small_model())
    assert said["usable"] and said["matrix"] == "layers/counts" and said["values"] == "counts"
    assert [m["name"] for m in said["matrices"]] == ["X", "raw/X", "layers/counts", "layers/other"]
    assert said["genes_known"] == 5 and said["counts_mapped"] == 1 and said["cells"] == 6
    assert said["rungs"] == {"symbol": 5} and said["decisions"] and not said["warnings"]
    assert said["estimate"]["memory_bytes"] > 0
    said = inspect(small("choose_layer.h5ad"), "--model", small_model(), "--layer", "other")
    assert said["matrix"] == "layers/other"
    said = inspect(small("choose_layer.h5ad"), "--model", small_model(), "--layer", "X", exit=1)
    says(said["reason"], "X is scaled", "use", "layers/counts (counts)")


def test_inspect_says_0_1_or_2():
    model = small_model()
    for name, exit, word in (("good_csr.h5ad", 0, None), ("choose_scaled.h5ad", 1, "scaled"),
                             ("choose_cpm.h5ad", 1, "neither counts"),
                             ("choose_nan.h5ad", 1, "nan"), ("good_no_cells.h5ad", 1, "no cells"),
                             ("good_empty.h5ad", 1, "zero"), ("bad_not_anndata.h5ad", 2, "AnnData"),
                             ("bad_empty.h5ad", 2, "empty"), ("bad_cut.zip", 2, "zip"),
                             ("nowhere.h5ad", 2, "No such file"),
                             ("bad_external_link.h5ad", 1, "link to another file")):
        said = inspect(small(name), "--model", model, exit=exit)
        assert said["usable"] == (exit == 0), said
        assert word is None or word in said["reason"], said
        text, err = run("inspect", small(name), "--model", model, exit=exit)
        assert exit == 0 or said["reason"] in err, (text, err)


def test_inspect_finds_the_bundled_model():
    said = inspect(small("good_csr.h5ad"))
    assert said["model"] == "pbmc" and said["genes_known"] == 5, said


def test_mouse_genes_are_refused_by_name():
    genes = ["ENSMUSG%011d" % i for i in range(5)]
    path = table("mouse.csv", np.ones((4, 5)), genes)
    says(inspect(path, exit=1)["reason"], "5 of 5 gene names are mouse identifiers")
    path = table("mouse2.csv", np.ones((4, 5)), ["Cd3d", "Lyz", "Nkg7", "Ms4a1", "Ppbp"])
    says(inspect(path, exit=1)["reason"], "mouse identifiers")
    _, said = run("embed", path, "-o", scratch("mouse.npy"), "--model", files.BUNDLED, "--force",
                  exit=1)
    says(said, "mouse identifiers")
    says(inspect(data_path("mouse_brain_1k.h5ad"), exit=1)["reason"], "mouse identifiers")


def test_little_that_maps_warns_and_less_is_refused_unless_forced():
    model, genes = small_model(), files.h5ad_files.GENES
    for known, warns, refused in ((9, False, False), (7, True, False), (4, True, True)):
        x = np.full((3, 10), 1.0)
        path = table("mapped.csv", x, (genes * 2)[:known] + [f"NO{i}" for i in range(10 - known)])
        out = scratch("mapped.npy")
        said = inspect(path, "--model", model, exit=1 if refused else 0)
        assert abs(said["counts_mapped"] - known / 10) < 1e-9, said
        if refused:
            says(said["reason"], f"only {known}0.0 %", "NO0", "--force")
            run("embed", path, "-o", out, "--model", model, "--overwrite", exit=1)
        flags = ["--force"] if refused else []
        report = json.loads(run("embed", path, "-o", out, "--model", model, "--overwrite", "--json",
                                *flags)[0])
        assert any("only" in w for w in report["warnings"]) == warns, report


def test_validate_reads_every_row():
    x = np.zeros((3000, 5), "f4")
    x[:, 1] = 2
    for row, value, word in ((1234, 0.5, "fraction"), (1234, -1, "negative"),
                             (1234, np.nan, "not finite")):
        y = x.copy()
        y[row, 3] = value
        path = scratch("late.h5ad")
        with h5py.File(path, "w") as f:
            files.h5ad_files.frame(f, "obs", [f"c{i // 2}" for i in range(3000)])
            files.h5ad_files.frame(f, "var", files.h5ad_files.GENES)
            f["X"] = y
        assert inspect(path, "--model", small_model())["usable"]
        said = inspect(path, "--model", small_model(), exit=1, verb="validate")
        says(said["problems"][0], "row 1234", "MS4A1", word)
        says(" ".join(said["warnings"]), "3000 names of cells, 1500 of them different")
        out = scratch("late.npy")
        _, err = run("embed", path, "-o", out, "--model", small_model(), exit=1)
        says(err, "row 1234", "MS4A1")
        assert not os.path.exists(out)


# ---- runs ----------------------------------------------------------------------------------------

def test_a_report_says_what_was_done():
    path, out = small("good_csr.h5ad"), scratch("report.h5ad")
    said = json.loads(run("annotate", path, "-o", out, "--model", small_model(), "--json")[0])
    assert said["output"] == out and said["task"] == "annotate" and said["cells"] == 6, said
    assert said["cells_unanswered"] == 1 and said["head"] == "made", said
    assert len(said["model_digest"]) == len(said["input_sha256"]) == 64
    with h5py.File(out, "r") as f:
        facts = f["uns/scdiva/annotate"]
        assert facts["input_sha256"][()].decode() == said["input_sha256"]
        assert facts["threshold"][()] == said["threshold"]
        assert [x.decode() for x in facts["labels"]] == files.LABELS
        assert any(b"not answered" in w for w in facts["warnings"])


def test_a_cell_without_known_genes_is_left_unanswered_or_stops_the_run():
    _, said = run("embed", small("good_csr.h5ad"), "-o", scratch("none.npy"), "--model",
                  small_model())
    says(said, "1 cells have no known gene", "row 2")
    _, said = run("embed", small("good_csr.h5ad"), "-o", scratch("fail.npy"), "--model",
                  small_model(), "--on-error", "fail", exit=1)
    says(said, "row 2 has no known gene")
    assert not os.path.exists(scratch("fail.npy"))


def test_features_that_are_no_genes_and_other_genomes_are_left_out():
    path = scratch("features.h5")
    m = np.array([[3, 1, 50, 2], [1, 0, 70, 9]])
    with h5py.File(path, "w") as f:
        g = f.create_group("matrix")
        g["data"], g["indices"] = m[m > 0], np.nonzero(m)[1]
        g["indptr"], g["shape"] = np.array([0, 4, 7]), np.array([4, 2])
        g["barcodes"] = np.array([b"a", b"b"])
        g["features/id"] = np.array([b"hg_1", b"hg_2", b"ab", b"mm_1"])
        g["features/name"] = np.array([b"hg_CD3D", b"hg_LYZ", b"CD3", b"mm___Lyz2"])
        g["features/feature_type"] = np.array([b"Gene Expression"] * 2 + [b"Antibody Capture",
                                                                          b"Gene Expression"])
        g["features/genome"] = np.array([b"hg", b"hg", b"", b"mm"])
    plain = table("plain.csv", m[:, [0, 1]], ["CD3D", "LYZ"], ["a", "b"])
    outs = [scratch("features.npy"), scratch("plain.npy")]
    said = json.loads(run("embed", path, "-o", outs[0], "--model", small_model(), "--genome", "hg",
                          "--json")[0])
    assert said["genes_left_out"] == 2 and said["genes_known"] == 2, said
    says(" ".join(said["decisions"]), "Gene Expression", "other genomes than hg", "genome in front")
    run("embed", plain, "-o", outs[1], "--model", small_model(), "-q")
    assert np.array_equal(np.load(outs[0]), np.load(outs[1]))
    _, err = run("embed", path, "-o", outs[0], "--model", small_model(), "--genome", "rat",
                 "--overwrite", exit=1)
    says(err, 'no genome "rat"')


def test_a_quiet_run_says_nothing_and_a_usual_one_what_was_decided():
    args = ("embed", small("good_csr.h5ad"), "-o", scratch("quiet.npy"), "--model", small_model(),
            "--overwrite")
    assert run(*args, "-q") == ("", "")
    out, err = run(*args)
    says(err, "note: X holds counts", "note: 5 genes known")
    says(out, "quiet.npy: 6 cells")


def test_a_place_that_cannot_be_written_is_named_as_it_was_given():
    out = os.path.join(scratch("nowhere"), "x.csv")
    err = run("embed", small("good_csr.h5ad"), "-o", out, "--model", small_model(), exit=1)[1]
    says(err, f"{out}: cannot write: No such file")


def test_heads_that_are_not_there_are_named():
    args = ("annotate", small("good_csr.h5ad"), "-o", scratch("head.csv"), "--model", small_model())
    says(run(*args, "--head", "other", exit=1)[1], '"other"', '"made"')


# ---- through a daemon ----------------------------------------------------------------------------

def test_a_daemon_gives_the_same_bytes():
    model = small_model()
    with Daemon(model) as d:
        server = f"http://127.0.0.1:{d.port}"
        for name in ("good_csr.h5ad", "choose_raw_log.h5ad", "records.h5ad", "mex.zip",
                     "tenx_v3.h5", "genes.csv"):
            for verb in ("embed", "annotate"):
                for suffix in ("h5ad", "csv", "npy"):
                    outs = [scratch(f"{way}.{suffix}") for way in ("here", "there")]
                    for out, where in zip(outs, (("--model", model), ("--server", server))):
                        run(verb, small(name), "-o", out, *where, "-q", "--overwrite")
                    with open(outs[0], "rb") as a, open(outs[1], "rb") as b:
                        assert a.read() == b.read(), (name, verb, suffix)
        said = json.loads(run("models", "--server", server, "--json")[0])
        assert said["data"][0]["name"] == os.path.basename(model)
        here = json.loads(run("models", "--model", model, "--json")[0])
        assert here["data"][0]["heads"] == said["data"][0]["heads"]
        assert inspect(small("good_csr.h5ad"), "--server", server)["genes_known"] == 5
        path = table("mouse3.csv", np.ones((4, 3)), ["Cd3d", "Lyz", "Nkg7"])
        says(inspect(path, "--server", server, exit=1)["reason"], "mouse identifiers")


def test_a_large_file_goes_there_in_chunks():
    rng = np.random.default_rng(2)
    x = rng.poisson(2, (700, 5)) + np.eye(1, 5)
    path = table("chunks.csv", x, files.h5ad_files.GENES)
    with Daemon(small_model(), flags=["--max-cells", "100"]) as d:
        outs = [scratch("whole.npy"), scratch("chunks.npy")]
        run("embed", path, "-o", outs[0], "--model", small_model(), "-q")
        run("embed", path, "-o", outs[1], "--server", f"http://127.0.0.1:{d.port}", "-q")
        assert np.array_equal(np.load(outs[0]), np.load(outs[1]))


def test_a_daemon_that_is_not_there_or_says_no_is_told():
    args = ("embed", small("good_csr.h5ad"), "-o", scratch("no.csv"))
    says(run(*args, "--server", "http://127.0.0.1:9", exit=1)[1], "127.0.0.1:9")
    says(run(*args, "--server", "ftp://x", exit=1)[1], "http://")
    with Daemon(small_model()) as d:
        server = f"http://127.0.0.1:{d.port}"
        says(run(*args, "--server", server, "--model", "other", exit=1)[1], 'no model "other"')
        says(run(*args, "--server", server + "/nothing", exit=1)[1], "404")


def test_a_key_opens_a_daemon_that_asks_for_one():
    path, model = small("good_csr.h5ad"), small_model()
    keys = scratch("keys")
    token = "k" * 40
    with open(keys, "w", encoding="utf-8") as f:
        f.write(f"{hashlib.sha256(token.encode()).hexdigest()} tester\n")
    os.chmod(keys, 0o600)
    key_file = scratch("key")
    with open(key_file, "w", encoding="utf-8") as f:
        f.write(token + "\n")
    with Daemon(model, flags=["--keys", keys]) as d:
        args = ("embed", path, "-o", scratch("key.npy"), "--server", f"http://127.0.0.1:{d.port}",
                "--overwrite")
        says(run(*args, exit=1)[1], "401", "--key-file FILE or $SCDIVA_API_KEY")
        run(*args, "-q", "--key-file", key_file)
        run(*args, "-q", env={"SCDIVA_API_KEY": token})


def test_signals_and_pipes_are_no_crash():
    p = subprocess.Popen(scdiva() + ["inspect", small("good_csr.h5ad")], stdout=subprocess.PIPE,
                         env=clean_environment())
    p.stdout.close()
    p.wait(60 * harness.SLOW)
    with open("/dev/full", "w", encoding="utf-8") as full:
        p = subprocess.run(scdiva() + ["inspect", small("good_csr.h5ad")], stdout=full, text=True,
                           stderr=subprocess.PIPE, env=clean_environment(), check=False)
    assert p.returncode == 1 and "standard output" in p.stderr, p
