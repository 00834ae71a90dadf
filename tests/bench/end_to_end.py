#!/usr/bin/env python3
"""end_to_end.py - cells per second through HTTP against the bare engine, in the same run.

HTTP: --clients connections, each sending requests of --batch cells nobody sent before (cache off),
with the answer as JSON numbers, base64 and .npy; and by /v2, binary tensors both ways. Bare:
build/bench/bench_engine (BENCH_ENGINE names another), whose own report is printed too; it runs
before and after, since machines drift.
"""
import argparse
import http.client
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import threading
import time

import numpy as np

import common
import oip
from common import harness, row, spread

def v1(fields=None, headers=None):
    def request(cells, model):
        body = json.dumps({"cells": cells, **(fields or {})}).encode()
        return "/v1/embeddings", body, {"Content-Type": "application/json", **(headers or {})}
    return request


def v2(cells, model):
    genes = [g for c in cells for g in c["genes"]]
    values = np.concatenate([c["values"] for c in cells]).astype(np.float32)
    starts = np.cumsum([0] + [len(c["genes"]) for c in cells])
    body, headers = oip.pack({"genes": ("BYTES", genes), "values": ("FP32", values),
                              "indptr": ("INT64", starts)}, [("embedding", True)],
                             binary=("genes", "values", "indptr"))
    return f"/v2/models/{model}/infer", body, headers


MODES = {"json": v1(), "base64": v1({"encoding": "base64"}),
         "npy": v1(headers={"Accept": "application/x-npy"}), "/v2, binary": v2}


def measure(port, requests, clients):
    """seconds until all requests, sent by so many connections, are answered"""
    todo, lock = list(requests), threading.Lock()

    def client():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        while True:
            with lock:
                if not todo:
                    return
                path, body, headers = todo.pop()
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            response.read()
            assert response.status == 200, response.status

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return time.monotonic() - start


def bare_engine(precision):
    """{genes: cells per second}; empty where it is not built"""
    command = shlex.split(os.environ.get(
        "BENCH_ENGINE", os.path.join(harness.TOP, "build", "bench", "bench_engine")))
    if not shutil.which(command[0]):
        row("bare engine", "build/bench/bench_engine is not built")
        return {}
    done = subprocess.run(command + [harness.official_model(), "--precision", precision],
                          capture_output=True, text=True, env=harness.clean_environment())
    print("".join(f"    | {line}\n" for line in (done.stdout + done.stderr).splitlines()), end="")
    found = re.findall(r"^ *([\d,]+) genes +([\d.]+) cells/s", done.stdout, re.M)
    return {int(genes.replace(",", "")): float(rate) for genes, rate in found}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--lengths", default="1200,200")
    p.add_argument("--cells", type=int, default=64, help="of 1,200 genes; more of shorter ones")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--clients", type=int, default=4)
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--precision",
                   default="bf16" if harness.cpu_has("avx512_bf16") else "fp32")
    a = p.parse_args()
    common.head(f"end to end: {a.clients} clients, {a.batch} cells a request, {a.precision}")
    before, measured = bare_engine(a.precision), []
    for length in (int(n) for n in a.lengths.split(",")):
        n = a.cells * 1200 // length // a.batch * a.batch
        cells = common.official_cells(n, length)
        flags = ("--cache-mb", "0", "--precision", a.precision)
        with harness.Daemon(harness.official_model(), flags=flags) as d:
            model = d.get("/v1/models").json()["data"][0]["name"]
            for mode, make in MODES.items():
                requests = [make(cells[i:i + a.batch], model) for i in range(0, n, a.batch)]
                rates = [n / measure(d.port, requests, a.clients) for _ in range(a.runs)]
                measured.append((length, mode, rates))
    after = bare_engine(a.precision)
    for length, mode, rates in measured:
        bare = [b[length] for b in (before, after) if length in b]
        share = 100 * statistics.median(rates) * len(bare) / sum(bare) if bare else float("nan")
        row(f"{length} genes, {mode}", f"{spread(rates, ' cells/s', 2)}, {share:.0f} % of bare")


if __name__ == "__main__":
    main()
