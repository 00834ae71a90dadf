"""test_tasks.py - the tasks of whole files that have more to them than a row for each cell: impute,
through jobs, against what the routes of the API answer of the same cells; what is refused, and that
a kill changes no byte.
"""
import csv
import functools
import io
import json
import time

import h5py
import numpy as np

import files
import harness
import jobs
from files import data_path, scratch
from harness import SLOW, Daemon, check_problem
import test_perturb
from reference_lisi import apart, mixed
from test_denoise import GENES, masking_model, plain_model
from test_train import write_h5ad

N_CELLS = 30


# ---- files ---------------------------------------------------------------------------------------

@functools.cache
def counts():
    """(cells, genes) of GENES, each cell with some 20 of them; the last cell has none."""
    rng = np.random.default_rng(7)
    x = np.zeros((N_CELLS, len(GENES)), int)
    for row in x[:-1]:
        some = rng.choice(len(GENES), 20, replace=False)
        row[some] = rng.integers(1, 30, 20)
    return x


@functools.cache
def table():
    out = "," + ",".join(GENES) + "\n"
    for i, row in enumerate(counts()):
        out += f"cell{i}," + ",".join(map(str, row)) + "\n"
    return out.encode()


@functools.cache
def kang(n=100):
    """The path of every 15th cell of kang_ifnb.h5ad, n of them, with their donors and types."""
    path = scratch("kang.h5ad")
    with h5py.File(data_path("kang_ifnb.h5ad"), "r") as f, h5py.File(path, "w") as to:
        rows = np.arange(n) * 15
        genes = f["var"][f["var"].attrs["_index"]][:]
        obs = {}
        for name in ("cluster_id", "sample_id", "group_id"):
            column = f["obs"][name]
            words = column["categories"][:][column["codes"][:]]
            obs[name] = words[rows].astype(object)
        x = f["X"]
        if isinstance(x, h5py.Group):
            whole = dense(x)
        else:
            whole = x[:]
        files.h5ad_files.frame(to, "obs", [f"c{i}" for i in rows], obs)
        files.h5ad_files.frame(to, "var", [g.decode() for g in genes])
        to["X"] = whole[rows].astype(np.float32)
    return path


def read_table(body, separator=","):
    lines = list(csv.reader(io.StringIO(body.decode()), delimiter=separator))
    return lines[0], lines[1:]


def cells_of(rows):
    """The body of a request for these cells of the table."""
    x = counts()
    return [{"id": f"cell{i}", "genes": [GENES[g] for g in np.nonzero(x[i])[0]],
             "values": [int(v) for v in x[i][np.nonzero(x[i])[0]]]} for i in rows]


def values_seen(x):
    total = x.sum(1, keepdims=True).astype(float)
    return np.log1p(1e4 * x / np.where(total, total, 1)).astype(np.float32)


def daemon(make=masking_model):
    return harness.shared(make)


def job_of(d, body, query):
    return jobs.result(d, jobs.wait(d, jobs.start(d, body, query)))


# ---- impute --------------------------------------------------------------------------------------

def test_named_genes_are_imputed_as_the_route_does():
    asked = ["GENE3", "GENE40", "GENE41"]
    for make in (masking_model, plain_model):
        with Daemon(make()) as d:
            said = d.post("/v1/denoise", {"cells": cells_of(range(N_CELLS - 1)), "impute": asked})
            want = np.full((N_CELLS, len(asked)), np.nan, np.float32)
            for item in said.json()["data"]:
                for gene, value in zip(item["genes"], item["values"]):
                    want[item["index"], asked.index(gene)] = value
            query = "task=impute&genes=" + ",%20".join(asked)
            got = np.load(io.BytesIO(job_of(d, table(), query + "&format=npy")))
            assert np.array_equal(got, want, equal_nan=True), make
            head, lines = read_table(job_of(d, table(), query + "&format=csv"))
            assert head == ["barcode"] + asked and len(lines) == N_CELLS
            assert lines[-1] == ["cell29", "", "", ""]
            assert np.array_equal(np.array([line[1:] for line in lines[:-1]], np.float32),
                                  want[:-1])
            job = jobs.wait(d, jobs.start(d, table(), query + "&format=h5ad"))
            assert any("not trained" in w for w in job["warnings"]) == (make is plain_model), job
            with h5py.File(io.BytesIO(jobs.result(d, job)), "r") as f:
                layer = dense(f["layers/scdiva_denoised"])
                facts = {k: v[()] for k, v in f["uns/scdiva/impute"].items()}
            there = values_seen(counts())
            there[:, [GENES.index(g) for g in asked]] = want
            assert np.allclose(layer, there, rtol=1e-6, equal_nan=True)
            assert np.array_equal(layer[:, GENES.index("GENE40")], want[:, 1], equal_nan=True)
            assert facts["genes_imputed"] == 3
            assert list(facts["genes"]) == [g.encode() for g in asked]


def dense(group):
    n, m = group.attrs["shape"]
    out = np.zeros((n, m), np.float32)
    for i in range(n):
        at = slice(group["indptr"][i], group["indptr"][i + 1])
        out[i, group["indices"][at]] = group["data"][at]
    return out


def test_without_names_every_gene_of_the_file_is_imputed_from_the_others():
    d = daemon()
    got = np.load(io.BytesIO(job_of(d, table(), "task=impute&format=npy")))
    assert got.shape == (N_CELLS, len(GENES)) and np.isfinite(got[:-1]).all()
    assert np.isnan(got[-1]).all() and (got[:-1] >= 0).all()
    there = values_seen(counts())
    assert not np.array_equal(got[:-1], there[:-1])
    job = jobs.wait(d, jobs.start(d, table(), "task=impute&format=h5ad"))
    with h5py.File(io.BytesIO(jobs.result(d, job)), "r") as f:
        assert np.array_equal(dense(f["layers/scdiva_denoised"]), got, equal_nan=True)


def test_real_cells_keep_all_else_and_gain_a_layer():
    path = kang()
    with open(path, "rb") as f, Daemon(files.BUNDLED) as d:
        body = f.read()
        job = jobs.wait(d, jobs.start(d, body, "task=impute&format=h5ad&genes=CD3D,LYZ,NKG7"))
        out = scratch("kang.out.h5ad")
        with open(out, "wb") as g:
            g.write(jobs.result(d, job))
    with h5py.File(out, "r") as f, h5py.File(path, "r") as was:
        layer = dense(f["layers/scdiva_denoised"])
        names = [n.decode().split("_")[0] for n in was["var/_index"][:]]
        assert np.array_equal(f["X"][:], was["X"][:])
        imputed = layer[:, [names.index(g) for g in ("CD3D", "LYZ", "NKG7")]]
        assert np.isfinite(imputed).all() and imputed.std(0).min() > 0.01


def test_what_cannot_be_imputed_is_refused_before_the_file_is_sent():
    d = daemon()
    for query, pointer, detail in (
            ("genes=GENE3,NOBODY", "/genes", "NOBODY.* is no gene of the model"),
            ("genes=GENE3,,GENE4", "/genes", "item 2 is empty"),
            ("genes=GENE3,GENE3", "/genes", "given twice"),
            ("genes=" + ",".join(["GENE3"] * 900), "/genes", "4095"),
            ("pooling=some", "/pooling", "visible or clean"),
            ("head=x", "/head", "annotate"), ("threshold=0.5", "/threshold", "annotate alone")):
        answer = jobs.post(d, b"x", "task=impute&format=csv&" + query)
        check_problem(answer, 422, "invalid", pointer, detail)
    check_problem(jobs.post(d, b"x", "task=embed&format=csv&genes=GENE3"), 422, "invalid", "/genes",
                  "impute alone")
    narrow = ("," + ",".join(GENES[:50]) + "\n" + "".join(
        f"c{i}," + ",".join(map(str, row[:50] + 1)) + "\n" for i, row in enumerate(counts()[:3])))
    job = jobs.start(d, narrow.encode(), "task=impute&format=h5ad&genes=GENE60")
    job = jobs.wait(d, job, "FAILED")
    assert "GENE60" in job["error"]["detail"] and ".csv" in job["error"]["detail"], job
    jobs.wait(d, jobs.start(d, narrow.encode(), "task=impute&format=csv&genes=GENE60"))


# ---- grn -----------------------------------------------------------------------------------------

GRN = ["regulator", "target", "weight", "sign", "effect", "coexpression", "cells"]


def frame_of(f, task):
    """uns["scdiva"][task]["table"]: {column: values}, texts as str"""
    table = f[f"uns/scdiva/{task}/table"]
    assert table.attrs["encoding-type"] == "dataframe", dict(table.attrs)
    columns = {name: table[name][:] for name in table.attrs["column-order"]}
    assert len(table["_index"]) == len(next(iter(columns.values())))
    return {name: [v.decode() for v in c] if c.dtype == object else c
            for name, c in columns.items()}


def test_associations_are_those_of_the_route():
    for make in (masking_model, plain_model):
        with Daemon(make()) as d:
            asked = {"regulators": ["GENE3", "GENE40", "GENE41"], "top_k": 12, "layers": [0, 2]}
            said = d.post("/v1/grn", {"cells": cells_of(range(N_CELLS - 1)), **asked}).json()
            query = "task=grn&regulators=GENE3,GENE40,GENE41&top_k=12&layers=0,2"
            head, lines = read_table(job_of(d, table(), query + "&format=csv"))
            assert head == GRN and len(lines) == len(said["data"]) == 36, (head, len(lines))
            for item, line in zip(said["data"], lines):
                line = dict(zip(head, line))
                for key in GRN[:2]:
                    assert item[key] == line[key], (item, line)
                for key in GRN[2:]:
                    assert (item[key] is None and not line[key]) or \
                        item[key] == float(line[key]), (key, item, line)
            with h5py.File(io.BytesIO(job_of(d, table(), query + "&format=h5ad")), "r") as f:
                columns = frame_of(f, "grn")
                assert f["X"].attrs["shape"][0] == N_CELLS
            for key in GRN:
                assert [str(v) for v in columns[key]] == [line[GRN.index(key)] for line in lines] \
                    or np.allclose(columns[key], [float(x[GRN.index(key)] or "nan")
                                                  for x in lines], equal_nan=True), key


def test_real_cells_have_associations():
    with open(kang(), "rb") as f, Daemon(files.BUNDLED) as d:
        body = f.read()
        query = "task=grn&regulators=STAT1,IRF7&top_k=500"
        job = jobs.wait(d, jobs.start(d, body, query + "&format=h5ad"))
        assert job["progress"]["cells_done"] == 100, job
        with h5py.File(io.BytesIO(jobs.result(d, job)), "r") as f:
            columns = frame_of(f, "grn")
            assert b"no cause" in f["uns/scdiva/grn/meaning"][()]
            assert list(f["uns/scdiva/grn/parameters"]) == [b"regulators=STAT1,IRF7", b"top_k=500"]
        assert set(columns["regulator"]) == {"STAT1", "IRF7"}
        together = dict(zip(columns["target"], columns["coexpression"]))
        assert together["ISG15"] > 0.3, together["ISG15"]  # interferon's own genes


def test_what_has_no_associations_is_refused():
    d = daemon()
    for query, pointer, detail in (
            ("", "/regulators", "missing: the genes"),
            ("&regulators=NOBODY", "/regulators", "no gene of the model"),
            ("&regulators=" + ",".join(GENES[:33]), "/regulators", "at most 32"),
            ("&regulators=GENE3&layers=7", "/layers", "0 to 2"),
            ("&regulators=GENE3&heads=1,x", "/heads", "0 to 2"),
            ("&regulators=GENE3&top_k=0", "/top_k", "from 1"),
            ("&regulators=GENE3&genes=GENE3", "/genes", "different tasks")):
        answer = jobs.post(d, b"x", "task=grn&format=csv" + query)
        check_problem(answer, 422, "invalid", pointer, detail)
    check_problem(jobs.post(d, b"x", "task=grn&format=npy&regulators=GENE3"), 422, "invalid",
                  "/format", "cannot hold")
    absent = [g for g in GENES if not counts()[:3, GENES.index(g)].any()]
    some = "\n".join(table().decode().split("\n")[:4]).encode()
    job = jobs.wait(d, jobs.start(d, some, "task=grn&format=csv&regulators=" + absent[0]), "FAILED")
    assert "expressed in any cell" in job["error"]["detail"], job
    there = GENES[np.nonzero(counts()[0])[0][0]]
    job = jobs.start(d, some, f"task=grn&format=csv&regulators={there},{absent[0]}")
    assert any(absent[0] in w for w in jobs.wait(d, job)["warnings"])


# ---- perturb -------------------------------------------------------------------------------------

BASELINES = test_perturb.BASELINES
PERTURB = ["perturbation", "gene", "in_training", "control", "delta", "expression",
           "spread"] + BASELINES


def screen_file():
    """The screen of test_perturb.py, with all of its cells."""
    with open(test_perturb.data(), "rb") as f:
        return f.read()


def test_perturbations_are_those_of_the_route():
    asked = [["GENE30"], ["GENE30", "GENE31"], ["GENE36"]]
    said = "GENE30,GENE30%2BGENE31,GENE36"
    x = test_perturb.cells("line_a")
    with Daemon(test_perturb.trained()) as d:
        want = d.post("/v1/perturbations", test_perturb.body(x, asked)).json()
        query = f"task=perturb&perturbations={said}&filename=screen.h5ad"
        lines = "\n".join(f"c{i}," + ",".join(f"{v:g}" for v in row) for i, row in enumerate(x))
        genes = [f"GENE{i}" for i in range(x.shape[1])]
        controls = ("," + ",".join(genes) + "\n" + lines + "\n").encode()
        head, rows = read_table(job_of(d, controls, query + "&format=csv"))
        assert head == PERTURB, head
        at = 0
        for item in want["data"]:
            readout = item["delta"]["genes"]
            mine = [dict(zip(head, row)) for row in rows[at:at + len(readout)]]
            at += len(readout)
            assert [m["gene"] for m in mine] == readout
            assert {m["perturbation"] for m in mine} == {item["id"]}
            for key, series in [(k, item[k]) for k in ("delta", "expression", "spread")] + \
                    list(item["baselines"].items()):
                assert [float(m[key]) for m in mine] == series["values"], (item["id"], key)
            assert {m["in_training"] for m in mine} == \
                {str(item["in_training"]["combination"]).lower()}
        assert at == len(rows)
        matrix = np.load(io.BytesIO(job_of(d, controls, query + "&format=npy")))
        assert np.array_equal(matrix, np.array([i["delta"]["values"] for i in want["data"]], "f4"))
        top = read_table(job_of(d, controls, query + "&format=tsv&top_genes=5"), "\t")[1]
        assert len(top) == 15
        deltas = np.abs(np.array([line[4] for line in top[:5]], np.float32))
        assert (np.diff(deltas) <= 0).all() and deltas[0] == np.abs(matrix[0]).max()


def test_controls_are_chosen_by_a_column_and_others_are_left_alone():
    with Daemon(test_perturb.trained()) as d:
        query = ("task=perturb&format=h5ad&perturbations=GENE30+GENE31&control_column=condition"
                 "&control=non-targeting&context=line_a&filename=screen.h5ad")
        job = jobs.wait(d, jobs.start(d, screen_file(), query))
        with h5py.File(io.BytesIO(jobs.result(d, job)), "r") as f:
            columns = frame_of(f, "perturb")
            facts = {k: v[()] for k, v in f["uns/scdiva/perturb"].items() if k != "table"}
        assert set(columns["perturbation"]) == {"GENE30+GENE31"}
        x, obs = test_perturb.screen()
        n = sum(c == "non-targeting" for c in obs["condition"])
        assert facts["controls"] == n and facts["cells_outside"] == len(x) - n
        assert facts["cells_unanswered"] == 0 and facts["context"] == b"line_a"
        assert any(t.startswith(b"model: pearson_delta") for t in facts["evaluation"])
        assert d.metric("scdiva_engine_cells_total") <= n
        job = jobs.start(d, screen_file(), query.replace("=non-targeting", "=nobody"))
        detail = jobs.wait(d, job, "FAILED")["error"]["detail"]
        assert '"non-targeting"' in detail and "condition" in detail, detail
        job = jobs.start(d, screen_file(), query.replace("=condition", "=nothing"))
        assert "nothing" in jobs.wait(d, job, "FAILED")["error"]["detail"]


def test_what_cannot_be_perturbed_is_refused_before_the_file_is_sent():
    with Daemon(test_perturb.trained()) as d:
        for query, pointer, detail in (
                ("", "/perturbations", "missing: the genes to perturb"),
                ("&perturbations=GENE30%2B", "/perturbations/0", "behind its last"),
                ("&perturbations=GENE30,%2BGENE31", "/perturbations/1", "beside a"),
                ("&perturbations=GENE30%2BGENE30", "/perturbations/0/1", "same gene"),
                ("&perturbations=" + "%2B".join(f"G{i}" for i in range(17)), "/perturbations/0",
                 "too many"),
                ("&perturbations=" + ",".join(f"G{i}" for i in range(257)), "/perturbations",
                 "at most 256"),
                ("&perturbations=GENE30&context=mars", "/context", "line_a"),
                ("&perturbations=GENE30&direction=up", "/direction", "activation or knockdown"),
                ("&perturbations=GENE30&control=x", "/control", "control_column"),
                ("&perturbations=GENE30&threshold=0.5", "/threshold", "annotate alone")):
            answer = jobs.post(d, b"x", "task=perturb&format=csv" + query)
            check_problem(answer, 422, "invalid", pointer, detail)
        answer = jobs.post(d, b"x", "task=perturb&format=csv&perturbations=GENE30&head=none")
        check_problem(answer, 404, "not-found", detail="perturbation")
        job = jobs.wait(d, jobs.start(d, screen_file(), "task=perturb&format=csv&"
                                      "perturbations=GENE30%2BNOBODY"))
        assert any("NOBODY" in w for w in job["warnings"]), job
    check_problem(jobs.post(daemon(), b"x", "task=perturb&format=csv&perturbations=GENE30"), 422,
                  "invalid", "/model", "no perturbation head")


# ---- integrate -----------------------------------------------------------------------------------

def test_mixing_is_reported_beside_what_was_not_corrected():
    path = kang()
    with h5py.File(path, "r") as f:
        batch, label = f["obs/group_id"][:], f["obs/cluster_id"][:]
        x = values_seen(f["X"][:])
        known = [name.decode().split("_")[0] for name in f["var/_index"][:]]
    other = files.model_of(tuple(dict.fromkeys(known)))
    with open(path, "rb") as f, Daemon(files.BUNDLED, other) as d:
        body = f.read()
        query = ("task=integrate&format=h5ad&batch_column=group_id&label_column=cluster_id"
                 f"&uncorrected={other.split('/')[-1]}")
        job = jobs.wait(d, jobs.start(d, body, query))
        with h5py.File(io.BytesIO(jobs.result(d, job)), "r") as f:
            embedding = f["obsm/X_scdiva"][:]
            facts = {k: v[()] for k, v in f["uns/scdiva/integrate"].items()}
        plain = np.load(io.BytesIO(job_of(d, body, "task=embed&format=npy")))
        uncorrected = np.load(io.BytesIO(job_of(d, body, "task=embed&format=npy&model="
                                                + other.split("/")[-1])))
    assert np.array_equal(embedding, plain)
    with open(f"{files.BUNDLED}/genes.tsv", encoding="utf-8") as f:
        symbols = {line.split("\t")[1] for line in f}
    genes = np.array([g in symbols for g in known])
    for key, space in (("", embedding), ("_uncorrected", uncorrected),
                       ("_expression", x[:, genes])):
        assert abs(facts["ilisi" + key] - mixed(space, batch)) < 2e-3, (key, facts)
        assert abs(facts["clisi" + key] - apart(space, label)) < 2e-3, (key, facts)
    assert facts["cells_compared"] == 100 and 0 < facts["ilisi"] < 1, facts
    assert sum("iLISI" in text and "2 batches" in text for text in job["decisions"]) == 3, job


def test_what_cannot_be_integrated_is_refused():
    d = daemon()
    for query, status, pointer, detail in (
            ("&label_column=x", 422, "/label_column", "needs batch_column"),
            ("&uncorrected=x", 422, "/uncorrected", "needs batch_column"),
            ("&batch_column=x&uncorrected=x", 404, None, 'no model .*x.* here'),
            ("&control=x", 422, "/control", "perturb alone")):
        answer = jobs.post(d, b"x", "task=integrate&format=csv" + query)
        check_problem(answer, status, "invalid" if status == 422 else "not-found", pointer, detail)
    job = jobs.wait(d, jobs.start(d, table(), "task=integrate&format=csv&batch_column=x"), "FAILED")
    assert '"x"' in job["error"]["detail"] or "[x]" in job["error"]["detail"], job
    with open(kang(), "rb") as f, Daemon(files.BUNDLED) as d:
        query = "task=integrate&format=h5ad&batch_column=one"
        body = f.read()
        path = scratch("one.h5ad")
        with open(path, "wb") as g:
            g.write(body)
        with h5py.File(path, "r+") as g:
            g["obs"].create_dataset("one", data=np.array(["a"] * 100, dtype=object),
                                    dtype=files.h5ad_files.TEXT)
            g["obs"].attrs["column-order"] = np.append(g["obs"].attrs["column-order"], "one")
        with open(path, "rb") as g:
            job = jobs.wait(d, jobs.start(d, g.read(), query))
        assert any("1 batches" in w for w in job["warnings"]), job


# ---- whatever happens ----------------------------------------------------------------------------

def test_what_would_not_fit_on_the_disk_fails_before_it_is_computed():
    body = jobs.table(100, genes=GENES, length=40)
    query = "task=grn&format=csv&regulators=" + ",".join(GENES[:32])
    with Daemon(masking_model(), flags=("--job-key-disk-mb", "1")) as d:
        job = jobs.wait(d, jobs.start(d, body, query), "FAILED")
        assert "ask for less of each cell" in job["error"]["detail"], job
        assert job["progress"]["cells_done"] == 0, job
        for _ in range(3):  # what was reserved is given back
            jobs.wait(d, jobs.start(d, body, "task=grn&format=csv&regulators=GENE1,GENE2"))


def two_batches(n):
    """n cells of slow_model's genes in an .h5ad, in two batches."""
    rng = np.random.default_rng(8)
    x = rng.poisson(0.08, (n, 2000))
    path = write_h5ad("two.h5ad", x, obs={"batch": [f"b{i % 2}" for i in range(n)]})
    with open(path, "rb") as f:
        return f.read()


def many_controls(n):
    x = test_perturb.cells("line_a")
    rng = np.random.default_rng(9)
    return jobs.table_of(rng.poisson(x.mean(0) + 0.1, (n, x.shape[1])))


def test_a_kill_changes_no_byte_of_any_task():
    """kill -9 while chunks are being computed: the job ends as if nothing had been."""
    genes = [f"GENE{i}" for i in range(2000)]
    few = jobs.table(24, genes=genes, length=150)
    flags = ("--cache-mb", "0", "--max-queue-tokens", "9600")
    for model, body, query in (
            (harness.slow_model(), few, "task=impute&format=csv&genes=GENE1,GENE2,GENE3"),
            (harness.slow_model(), few, "task=grn&format=tsv&regulators=GENE1,GENE2"),
            (harness.slow_model(), two_batches(150),
             "task=integrate&format=h5ad&batch_column=batch&filename=two.h5ad"),
            (test_perturb.trained(), many_controls(6000),
             "task=perturb&format=csv&perturbations=GENE30,GENE31")):
        with Daemon(model, flags=flags) as d:
            want = job_of(d, body, query)
        data = harness.scratch()
        d = Daemon(model, flags=flags, data=data)
        job = jobs.start(d, body, query)
        end = time.monotonic() + 60 * SLOW
        while not jobs.get(d, job)["progress"]["cells_done"]:
            assert time.monotonic() < end
            time.sleep(0.01)
        d.kill()
        with Daemon(model, flags=flags, data=data) as d:
            before = jobs.get(d, job)
            got = jobs.result(d, jobs.wait(d, job, timeout=100 * SLOW))
        assert before["progress"]["cells_done"] > 0 and got == want, (query, json.dumps(before))
