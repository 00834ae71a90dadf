#!/usr/bin/env python3
"""job_large.py - one large file through a job: memory, how honest its progress is, and where the
time goes.

    tests/bench/job_large.py [--cells 200000] [--genes 30000] [--per-cell 1000] [--encoding csr|csc]
                             [--compression none|gzip|lzf] [--task annotate] [--format h5ad]
                             [--model config/models/pbmc | --tiny] [--keep FILE]

The file is made by rows, never whole in memory: int32 counts drawn from gene frequencies as uneven
as a cell's, in eight kinds of cells; the names are the model's genes and then some it does not
know. It is sent in parts (PATCH) and worked through by a daemon with the defaults. Sampled
meanwhile:

  memory    VmRSS and VmHWM of the daemon and of its confined children, reader and writer
  progress  "seconds_left" at shares of the cells against what it really took from there
  time      by the clock: opening and planning, chunks, result; of all of it the engine's share
            (scdiva_infer_seconds). And processor time by thread and child.

200,000 cells stored by cells are a file of 1.6 GB: a quarter of an hour on two cores at the bundled
model's size; --tiny takes its genes and next to no model, so that what is left is the file and all
that grows with it, in a minute or two. A machine that others use spoils the clock's figures;
processor time, memory and progress stay of use.
"""
import argparse
import glob
import hashlib
import os
import re
import threading
import time

import common
import h5py
import harness
import jobs
import models
import numpy as np
from common import row

PART_BYTES, BLOCK_CELLS, KINDS, MARKS = 64 << 20, 500, 8, (0.05, 0.1, 0.25, 0.5, 0.75, 0.9)
CHUNK = 1 << 17
TICKS = os.sysconf("SC_CLK_TCK")


# ---- the file ------------------------------------------------------------------------------------

def tiny_model(model):
    """The names of this model in one of no size: cells cost next to nothing."""
    names, n_known = gene_names(model, 1 << 20)
    path = harness.scratch("tiny")
    models.write_model(path, names[:n_known], MAX_GENE_LEN=1200, SCGPT_DIM=16, HIDDEN_DIM=16,
                       N_HEADS=1, N_LAYERS=1, D_HID=16)
    return path


def gene_names(model, n):
    """The model's symbols first, then names that nobody knows."""
    with open(os.path.join(model, "genes.tsv"), encoding="utf-8") as f:
        column = f.readline().rstrip("\n").split("\t").index("symbol")
        known = [line.rstrip("\n").split("\t")[column] for line in f]
    return (known + [f"NOVEL{i:06d}" for i in range(n)])[:n], min(n, len(known))


def kinds_of_cells(n_genes, n_known, rng):
    """Cumulative frequencies of the genes, (KINDS, n_genes): the known ones have most counts."""
    base = rng.lognormal(0, 1.6, n_genes)
    base[n_known:] *= 0.1
    weights = base * rng.lognormal(0, 0.7, (KINDS, n_genes))
    return np.cumsum(weights / weights.sum(1, keepdims=True), 1)


def draw(cells, cumulative, depth, rng):
    """Columns and counts of so many cells, sorted by cell: (columns, counts, entries a cell)"""
    n_genes = cumulative.shape[1]
    depths = np.maximum(rng.lognormal(np.log(depth), 0.35, cells).astype(int), 10)
    kinds = rng.integers(0, KINDS, cells)
    genes = np.empty(depths.sum(), np.int64)
    cell_of = np.repeat(np.arange(cells), depths)
    for kind in range(KINDS):
        mine = kinds[cell_of] == kind
        genes[mine] = np.searchsorted(cumulative[kind], rng.random(mine.sum()))
    np.minimum(genes, n_genes - 1, out=genes)
    keys, counts = np.unique(cell_of * n_genes + genes, return_counts=True)
    return keys % n_genes, counts, np.bincount(keys // n_genes, minlength=cells)


def depth_for(per_cell, cumulative, rng):
    """Counts a cell at which so many genes are met, about."""
    low, high = per_cell, per_cell * 50
    while high - low > per_cell / 50:
        depth = (low + high) // 2
        met = draw(64, cumulative, depth, rng)[2].mean()
        low, high = (depth, high) if met < per_cell else (low, depth)
    return low


def frame(f, name, index, columns):
    group = f.create_group(name)
    group.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0",
                        "_index": "_index"})
    group.attrs.create("column-order", np.array(list(columns), object), dtype=h5py.string_dtype())
    for key, values in {"_index": index, **columns}.items():
        data = group.create_dataset(key, data=values,
                                    dtype=h5py.string_dtype() if key == "_index" else None)
        data.attrs.update({"encoding-type": "string-array" if key == "_index" else "array",
                           "encoding-version": "0.2.0"})


def turn(x, n_genes, entries, options):
    """X again by genes: a share of the genes at a time, so that it is never whole in memory."""
    indptr = np.zeros(n_genes + 1, np.int64)
    for at in range(0, entries, CHUNK):
        indptr[1:] += np.bincount(x["indices"][at:at + CHUNK], minlength=n_genes)
    indptr = np.cumsum(indptr)
    starts = x["indptr"][:]
    data, indices = [], []
    turned = {name: x.create_dataset("t." + name, (entries,), np.int32, chunks=(CHUNK,), **options)
              for name in ("data", "indices")}
    step = max(1, int(n_genes * min(1, 2e7 / max(entries, 1))))
    for first in range(0, n_genes, step):
        data, indices, genes = [], [], []
        for at in range(0, entries, 32 * CHUNK):
            columns = x["indices"][at:at + 32 * CHUNK]
            mine = np.nonzero((columns >= first) & (columns < first + step))[0]
            genes.append(columns[mine])
            data.append(x["data"][at:at + 32 * CHUNK][mine])
            indices.append(np.searchsorted(starts, mine + at, "right") - 1)
        order = np.argsort(np.concatenate(genes), kind="stable")
        span = slice(indptr[first], indptr[min(first + step, n_genes)])
        turned["data"][span] = np.concatenate(data)[order]
        turned["indices"][span] = np.concatenate(indices)[order]
    for name in ("data", "indices", "indptr"):
        del x[name]
    x.move("t.data", "data")
    x.move("t.indices", "indices")
    x.create_dataset("indptr", data=indptr)
    x.attrs["encoding-type"] = "csc_matrix"


def make_file(path, a, rng):
    """Entries stored"""
    names, n_known = gene_names(a.model, a.genes)
    cumulative = kinds_of_cells(a.genes, n_known, rng)
    depth = depth_for(a.per_cell, cumulative, rng)
    options = {} if a.compression == "none" else {"compression": a.compression}
    with h5py.File(path, "w") as f:
        f.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        x = f.create_group("X")
        x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0",
                        "shape": np.array([a.cells, a.genes])})
        data, indices = (x.create_dataset(name, (0,), np.int32, chunks=(CHUNK,), maxshape=(None,),
                                          **options) for name in ("data", "indices"))
        indptr = np.zeros(a.cells + 1, np.int64)
        for first in range(0, a.cells, BLOCK_CELLS):
            n = min(BLOCK_CELLS, a.cells - first)
            columns, counts, entries = draw(n, cumulative, depth, rng)
            at, end = len(data), len(data) + len(counts)
            for dataset, values in ((data, counts), (indices, columns)):
                dataset.resize((end,))
                dataset[at:end] = values
            indptr[first + 1:first + n + 1] = at + np.cumsum(entries)
        x.create_dataset("indptr", data=indptr)
        if a.encoding == "csc":
            turn(x, a.genes, int(indptr[-1]), options)
        frame(f, "obs", np.array([f"CELL{i:08d}-1" for i in range(a.cells)], object),
              {"batch": rng.integers(0, 20, a.cells), "n_counts": rng.random(a.cells)})
        frame(f, "var", np.array(names, object), {"mean": rng.random(a.genes)})
    return int(indptr[-1])


def send(d, path, query):
    """In parts, as a client does that may be cut off; the job as it is then."""
    size, digest = os.path.getsize(path), hashlib.sha256()
    job = jobs.start(d, b"", query, {"Upload-Length": str(size)})
    with open(path, "rb") as f:
        while part := f.read(PART_BYTES):
            digest.update(part)
            answer = jobs.part(d, job, part, f.tell() - len(part))
            assert answer.status == 202, answer
    job = jobs.get(d, job)
    assert job["upload"]["sha256"] == digest.hexdigest(), job
    return job


# ---- looking -------------------------------------------------------------------------------------

def status_mb(pid, field):
    with open(f"/proc/{pid}/status", encoding="utf-8") as f:
        found = re.search(rf"^{field}:\s+(\d+)", f.read(), re.M)
    return int(found[1]) / 1024 if found else 0.0


def cpu_s(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Watcher(threading.Thread):
    """Memory and processor time of the daemon, its threads and its children, several times a
    second."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.stopping = pid, False
        self.peak, self.cpu = {}, {}  # by what it is; of children by (what, pid)

    def see(self, what, pid):
        now = {field: status_mb(pid, field) for field in ("VmRSS", "VmHWM", "RssAnon")}
        before = self.peak.get(what, {})
        self.peak[what] = {k: max(v, before.get(k, 0)) for k, v in now.items()}

    def threads(self):
        seen = {}
        for task in glob.glob(f"/proc/{self.pid}/task/*"):
            try:
                with open(task + "/comm", encoding="utf-8") as f:
                    name = re.sub(r"-\d+$", "", f.read().strip())
                with open(task + "/schedstat", encoding="utf-8") as f:
                    seen[name] = seen.get(name, 0) + int(f.read().split()[0]) * 1e-9
            except OSError:
                pass
        return seen

    def look(self):
        self.see("daemon", self.pid)
        self.cpu.update(self.threads())
        for tasks in glob.glob(f"/proc/{self.pid}/task/*/children"):
            with open(tasks, encoding="utf-8") as f:
                children = f.read().split()
            for child in children:
                try:
                    with open(f"/proc/{child}/cmdline", "rb") as f:
                        what = f.read().split(b"\0")[1].decode().lstrip("-")
                    self.see(what, child)
                    self.cpu[what, child] = cpu_s(child)
                except (OSError, IndexError):
                    pass

    def run(self):
        while not self.stopping:
            try:
                self.look()
            except OSError:
                pass
            time.sleep(0.2)

    def seconds(self, *names):
        return sum(s for key, s in self.cpu.items()
                   if (key if isinstance(key, str) else key[0]) in names)


def follow(d, job):
    """[(clock, cells done, seconds left)] until it is over, and the job then"""
    seen = []
    while True:
        job = jobs.get(d, job)
        progress = job["progress"]
        seen.append((time.monotonic(), progress["cells_done"], progress.get("seconds_left")))
        if job["state"] in jobs.OVER:
            assert job["state"] == "COMPLETE", job
            return seen, job
        time.sleep(0.2)


# ---- telling -------------------------------------------------------------------------------------

def tell_progress(seen, n_cells):
    over = seen[-1][0]
    for mark in MARKS:
        at = next((s for s in seen if s[1] >= mark * n_cells and s[2] is not None), None)
        if at:
            row(f"at {100 * at[1] / n_cells:.0f} % of the cells",
                f"{at[2]:.0f} s left said, {over - at[0]:.0f} s it took")


def tell_time(seen, n_cells, infer_s, begin):
    first = next((s[0] for s in seen if s[1] > 0), seen[-1][0])
    last = next((s[0] for s in seen if s[1] == n_cells), seen[-1][0])
    whole = seen[-1][0] - begin
    row("by the clock", f"{whole:.1f} s: to the first chunk {first - begin:.1f}, chunks "
        f"{last - first:.1f}, result {seen[-1][0] - last:.1f}")
    row("the engine's share", f"{infer_s:.1f} s, {100 * infer_s / whole:.1f} % of it")


def tell_cpu(watcher):
    engine = watcher.seconds("batch", "compute")
    parts = {"engine": engine, "reader": watcher.seconds("confined-reader"),
             "job threads": watcher.seconds("job"), "jobs-db": watcher.seconds("jobs-db"),
             "cache": watcher.seconds("store"), "writer": watcher.seconds("job-writer"),
             "http": watcher.seconds("MHD-worker")}
    whole = sum(parts.values())
    row("processor time", ", ".join(f"{name} {s:.1f} s ({100 * s / whole:.1f} %)"
                                    for name, s in parts.items()))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--cells", type=int, default=200000)
    p.add_argument("--genes", type=int, default=30000)
    p.add_argument("--per-cell", type=int, default=1000)
    p.add_argument("--encoding", choices=("csr", "csc"), default="csr")
    p.add_argument("--compression", choices=("none", "gzip", "lzf"), default="none")
    p.add_argument("--task", default="annotate")
    p.add_argument("--format", default="h5ad")
    p.add_argument("--model", default=os.path.join(harness.TOP, "config", "models", "pbmc"))
    p.add_argument("--tiny", action="store_true", help="a model of no size; implies --task embed")
    p.add_argument("--keep", metavar="FILE", help="make the file there, or take the one there is")
    a = p.parse_args()
    a.task = "embed" if a.tiny else a.task
    common.head(f"a job of {a.cells} cells x {a.genes} genes, {a.encoding}, {a.compression}, "
                f"{a.task} into {a.format}" + (", a model of no size" if a.tiny else ""))
    path = a.keep or harness.scratch("large.h5ad")
    if not os.path.exists(path):
        begin = time.monotonic()
        entries = make_file(path, a, np.random.default_rng(1))
        row("the file", f"{entries} entries, {entries / a.cells:.0f} a cell, "
            f"{os.path.getsize(path) / 2**20:.0f} MiB, made in {time.monotonic() - begin:.0f} s")
    query = f"task={a.task}&format={a.format}&filename=large.h5ad"
    with harness.Daemon(tiny_model(a.model) if a.tiny else a.model) as d:
        idle = d.status_kb("VmRSS") / 1024
        watcher = Watcher(d.process.pid)
        watcher.start()
        begin = time.monotonic()
        job = send(d, path, query)
        row("sent", f"in {time.monotonic() - begin:.1f} s")
        begin = time.monotonic()
        seen, job = follow(d, job)
        infer_s = d.metric("scdiva_infer_seconds_sum")
        watcher.stopping = True
        watcher.join()
        row("result", f"{job['result']['bytes'] / 2**20:.0f} MiB, "
            f"{a.cells / (seen[-1][0] - begin):.0f} cells/s over all; "
            f"{'; '.join(job['warnings']) or 'no warnings'}")
        row("VmRSS when ready", f"{idle:.0f} MiB")
        for what, peak in sorted(watcher.peak.items()):
            row(f"{what} at most", ", ".join(f"{k} {v:.0f} MiB" for k, v in peak.items()))
        tell_progress(seen, a.cells)
        tell_time(seen, a.cells, infer_s, begin)
        tell_cpu(watcher)
        sizes = [f"{name} {os.path.getsize(path) / 1024:.0f}" for path in
                 sorted(glob.glob(os.path.join(d.data, "*"))) if os.path.isfile(path)
                 for name in [os.path.basename(path)]]
        row("files beside, KiB", ", ".join(sizes))


if __name__ == "__main__":
    main()
