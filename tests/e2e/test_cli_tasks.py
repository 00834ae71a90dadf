"""test_cli_tasks.py - scdiva's tasks of whole files, in process and as jobs of a daemon: the same
bytes; what is used wrongly; what Ctrl-C, a kill and a restart leave.
"""
import json
import os
import signal
import subprocess
import time

import numpy as np

import files
import harness
import jobs
import test_perturb
from files import run, says, scratch
from harness import SLOW, Daemon, clean_environment, scdiva
from test_denoise import masking_model
from test_tasks import kang, table


def content(path):
    with open(path, "rb") as f:
        return f.read()


def cells():
    path = scratch("cells.csv")
    with open(path, "wb") as f:
        f.write(table())
    return path


def server(d):
    return f"http://127.0.0.1:{d.port}"


def here_and_there(d, model, verb, path, suffix, *options):
    """The bytes of both, which are to be the same."""
    outs = [scratch(f"{way}.{suffix}") for way in ("here", "there")]
    for out, where in zip(outs, (("--model", model), ("--server", server(d)))):
        run(verb, path, "-o", out, *where, *options, "-q", "--overwrite")
    here, there = map(content, outs)
    assert here == there, (verb, path, suffix, options)
    return here


# ---- the same bytes ------------------------------------------------------------------------------

def test_every_task_gives_the_same_bytes_in_process_and_as_a_job():
    path, model = cells(), masking_model()
    with Daemon(model) as d:
        for verb, suffixes, *options in (
                ("embed", ("h5ad", "csv", "npy")),
                ("integrate", ("h5ad", "tsv", "npy")),
                ("impute", ("h5ad", "csv", "npy")),
                ("impute", ("h5ad", "npy"), "--genes", "GENE3,GENE41", "--pooling", "clean"),
                ("grn", ("h5ad", "csv"), "--regulators", "GENE3,GENE40", "--top-k", "7", "--layers",
                 "0,2", "--heads", "1")):
            for suffix in suffixes:
                assert here_and_there(d, model, verb, path, suffix, *options)
        assert d.get("/v1/jobs").json()["data"] == []  # nothing is left there
        job = jobs.start(d, table(), "task=impute&format=csv&genes=GENE3&filename=cells.csv")
        out = scratch("job.csv")
        run("impute", path, "-o", out, "--model", model, "--genes", "GENE3", "-q")
        assert jobs.result(d, jobs.wait(d, job)) == content(out)


def test_perturbations_of_a_file_with_other_cells_too():
    model = test_perturb.trained()
    with Daemon(model) as d:
        for suffix in ("h5ad", "csv", "npy"):
            here_and_there(d, model, "perturb", test_perturb.data(), suffix, "--perturbations",
                           "GENE30,GENE30+GENE31", "--control-column", "condition", "--control",
                           "non-targeting", "--context", "line_a", "--direction", "activation")
        names = scratch("names.txt")
        with open(names, "w", encoding="utf-8") as f:
            f.write("GENE30\nGENE30+GENE31\n")
        here = here_and_there(d, model, "perturb", test_perturb.data(), "csv", "--perturbations",
                              "@" + names, "--top-genes", "4")
        assert here.count(b"\n") == 9


def test_real_cells_through_every_task():
    path = kang()
    with open(path, "rb"), Daemon(files.BUNDLED) as d:
        for verb, *options in (
                ("embed",), ("annotate",), ("integrate", "--batch-column", "group_id",
                                            "--label-column", "cluster_id"),
                ("impute", "--genes", "CD3D,LYZ"), ("grn", "--regulators", "STAT1")):
            here_and_there(d, files.BUNDLED, verb, path, "h5ad", *options)
        out = scratch("integrated.h5ad")
        _, notes = run("integrate", path, "-o", out, "--server", server(d), "--batch-column",
                       "group_id")
        says(notes, "note: embedding: iLISI", "note: expression: iLISI")
        report = json.loads(run("integrate", path, "-o", out, "--model", files.BUNDLED, "--json",
                                "--batch-column", "group_id", "--overwrite")[0])
        assert 0 < report["ilisi"] < 1 and report["cells_compared"] == 100, report
        report = json.loads(run("embed", path, "-o", out, "--server", server(d), "--json",
                                "--overwrite")[0])
        assert report["job"]["state"] == "COMPLETE" and len(report["model_digest"]) == 64, report
        run("perturb", path, "-o", scratch("p.csv"), "--model", files.BUNDLED, "--perturbations",
            "KLF1", "--head", "perturbation", "--force")


def test_another_model_is_compared_in_process_as_on_a_server():
    path, model = cells(), masking_model()
    other = harness.scratch("other.model")
    files.shutil.copytree(model, other)
    body = content(path).decode().split("\n")
    batched = scratch("batched.h5ad")
    x = np.array([line.split(",")[1:] for line in body[1:-1]], np.float32)
    with files.h5py.File(batched, "w") as f:
        files.h5ad_files.frame(f, "obs", [f"c{i}" for i in range(len(x))],
                               {"lab": np.array(["a", "b"] * 15, dtype=object)})
        files.h5ad_files.frame(f, "var", body[0].split(",")[1:])
        f["X"] = x
    with Daemon(model, other) as d:
        outs = [scratch("one.h5ad"), scratch("two.h5ad")]
        args = ("integrate", batched, "-q", "--batch-column", "lab")
        run(*args, "-o", outs[0], "--model", model, "--uncorrected", other)
        run(*args, "-o", outs[1], "--server", server(d), "--uncorrected", os.path.basename(other))
        assert content(outs[0]) == content(outs[1])
    _, said = run(*args, "-o", scratch("three.h5ad"), "--model", model, "--uncorrected",
                  os.path.join(model, "."), exit=1)
    says(said, "two models are called")


def test_a_folder_goes_there_as_one_file():
    model, folder = files.small_model(), files.small("mex_v3")
    with Daemon(model) as d:
        outs = [scratch("folder.csv"), scratch("folder2.csv")]
        run("embed", folder, "-o", outs[0], "--model", model, "-q")
        run("embed", folder, "-o", outs[1], "--server", server(d), "-q")
        assert content(outs[0]) == content(outs[1])


# ---- used wrongly --------------------------------------------------------------------------------

def test_wrong_use_names_the_option():
    path, model = cells(), masking_model()
    for args, exit, word in (
            (("grn", path, "-o", "x.csv", "--model", model), 2, "--regulators is missing"),
            (("grn", path, "-o", "x.npy", "--model", model, "--regulators", "GENE3"), 2,
             "--format"),
            (("perturb", path, "-o", "x.csv", "--model", model), 2, "--perturbations is missing"),
            (("impute", path, "-o", "x.csv", "--model", model, "--genes", "GENE3,,"), 2,
             "--genes"),
            (("impute", path, "-o", "x.csv", "--model", model, "--genes", "@nowhere"), 2,
             "nowhere"),
            (("impute", path, "-o", "x.csv", "--model", model, "--pooling", "x"), 2,
             "visible|clean"),
            (("impute", path, "-o", "x.csv", "--model", model, "--head", "x"), 2, "--head"),
            (("integrate", path, "-o", "x.csv", "--model", model, "--label-column", "x"), 2,
             "--label-column needs"),
            (("perturb", path, "-o", "x.csv", "--model", model, "--perturbations", "A", "--control",
              "c"), 2, "--control needs"),
            (("grn", path, "-o", "x.csv", "--model", model, "--regulators", "GENE3", "--top-k",
              "0"), 2, "--top-k must be"),
            (("impute", path, "-o", "x.csv", "--model", model, "--genes", "NOBODY"), 1,
             "--genes \"NOBODY\" is no gene of the model"),
            (("grn", path, "-o", "x.csv", "--model", model, "--regulators", "GENE3", "--layers",
              "9"), 1, "0 to 2"),
            (("perturb", path, "-o", "x.csv", "--model", model, "--perturbations", "A"), 1,
             "no perturbation head"),
            (("integrate", path, "-o", "x.csv", "--model", model, "--batch-column", "x"), 1, "x")):
        says(run(*args, exit=exit)[1], word)
        assert not os.path.exists(scratch("x.csv")), args


def test_a_daemon_that_says_no_is_told_and_nothing_is_left():
    path, model = cells(), masking_model()
    with Daemon(model) as d:
        args = ("impute", path, "-o", scratch("no.csv"), "--server", server(d))
        says(run(*args, "--genes", "NOBODY", exit=1)[1], "/genes", "no gene of the model")
        says(run(*args, "--model", "none", exit=1)[1], 'no model "none"')
        empty = scratch()
        says(run("embed", empty, *args[2:], exit=1)[1], "a folder without matrix.mtx")
        empty = scratch("empty.csv")
        with open(empty, "w", encoding="utf-8") as f:
            f.write("")
        says(run("embed", empty, *args[2:], exit=1)[1], "empty")
        bad = scratch("bad.csv")
        with open(bad, "w", encoding="utf-8") as f:
            f.write(",A,B\nc,1,2\n")
        says(run("embed", bad, *args[2:], exit=1)[1], "FAILED")
        there = scratch("there.csv")
        with open(there, "w", encoding="utf-8") as f:
            f.write("mine")
        says(run("embed", path, "-o", there, *args[4:], exit=1)[1], "is there already")
        assert content(there) == b"mine" and not os.path.exists(scratch("no.csv"))


# ---- interrupted ---------------------------------------------------------------------------------

FLAGS = ("--cache-mb", "0", "--max-queue-tokens", "9600")


def slow_cells(n=60):
    path = scratch("slow.csv")
    with open(path, "wb") as f:
        f.write(jobs.table(n, genes=[f"GENE{i}" for i in range(2000)], length=400))
    return path


def begin(d, path, out):
    """A run that is under way: the process, once its job has computed some cells."""
    p = subprocess.Popen(scdiva() + ["embed", path, "-o", out, "--server", server(d)],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         env=clean_environment())
    end = time.monotonic() + 60 * SLOW
    while True:
        listed = d.get("/v1/jobs").json()["data"]
        if listed and listed[0]["progress"]["cells_done"]:
            return p, listed[0]
        assert time.monotonic() < end and p.poll() is None, listed
        time.sleep(0.02)


def test_ctrl_c_ends_the_job_and_leaves_nothing():
    path, out = slow_cells(), scratch("interrupted.npy")
    with Daemon(harness.slow_model(), flags=FLAGS) as d:
        p, _ = begin(d, path, out)
        p.send_signal(signal.SIGINT)
        _, said = p.communicate(timeout=60 * SLOW)
        assert p.returncode == 1, said
        says(said, "interrupted", "was canceled")
        assert d.get("/v1/jobs").json()["data"] == [] and not os.path.exists(out)
        assert [n for n in os.listdir(os.path.dirname(out)) if "interrupted" in n] == []
        d.wait_metric("scdiva_queue_tokens", lambda tokens: tokens == 0)


def test_ctrl_c_in_process_leaves_nothing():
    out = scratch("interrupted2.npy")
    p = subprocess.Popen(scdiva() + ["embed", slow_cells(300), "-o", out, "--model",
                                     harness.slow_model(), "--threads", "1"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         env=clean_environment())
    time.sleep(2 * SLOW)
    p.send_signal(signal.SIGINT)
    _, said = p.communicate(timeout=60 * SLOW)
    if p.returncode:  # a fast machine was done by then
        says(said, "interrupted; nothing was written")
        assert [n for n in os.listdir(os.path.dirname(out)) if "interrupted2" in n] == []


def test_a_run_that_was_killed_goes_on_where_it_was():
    path, out = slow_cells(), scratch("killed.npy")
    with Daemon(harness.slow_model(), flags=FLAGS) as d:
        p, job = begin(d, path, out)
        p.kill()
        p.wait()
        report = json.loads(run("embed", path, "-o", out, "--server", server(d), "--json")[0])
        assert report["job"]["id"] == job["id"], (report, job)
        assert d.get("/v1/jobs").json()["data"] == []
    want = scratch("killed.want.npy")
    run("embed", path, "-o", want, "--model", harness.slow_model(), "-q")
    assert content(out) == content(want)


def test_a_daemon_that_restarts_meanwhile_is_waited_for():
    path, out, data = slow_cells(), scratch("restart.npy"), harness.scratch()
    d = Daemon(harness.slow_model(), flags=FLAGS, data=data)
    try:
        p, job = begin(d, path, out)
        port = d.port
        d.kill()
        flags = [*FLAGS, "--listen", f"127.0.0.1:{port}"]
        with Daemon(harness.slow_model(), flags=flags, data=data):
            _, said = p.communicate(timeout=100 * SLOW)
            assert p.returncode == 0, (said, job)
        assert np.load(out).shape[0] == 60
    finally:
        d.kill()
