#!/usr/bin/env python3
"""end_to_end.py - cells per second through HTTP against the bare engine, in the same run.

HTTP: --clients connections, each sending requests of --batch cells nobody sent before (cache off),
with the answer as JSON numbers, base64 and .npy. Bare: build/bench_engine where it was built
(BENCH_ENGINE names another command), whose own report is printed as it is.
"""
import argparse
import http.client
import json
import os
import shlex
import shutil
import subprocess
import threading
import time

import common
from common import harness, row, spread

MODES = {"json": ({}, {}), "base64": ({"encoding": "base64"}, {}),
         "npy": ({}, {"Accept": "application/x-npy"})}


def measure(port, bodies, headers, clients):
    """cells per second of all bodies, sent by so many connections"""
    todo, lock, headers = list(bodies), threading.Lock(), {
        "Content-Type": "application/json", **headers}

    def client():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        while True:
            with lock:
                if not todo:
                    return
                body = todo.pop()
            connection.request("POST", "/v1/embeddings", body, headers)
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


def bare_engine():
    command = shlex.split(os.environ.get(
        "BENCH_ENGINE", os.path.join(harness.TOP, "build", "bench_engine")))
    if not shutil.which(command[0]):
        row("bare engine", "build/bench_engine is not built")
        return
    done = subprocess.run(command + [harness.official_model()], capture_output=True, text=True,
                          env=harness.clean_environment())
    print("".join(f"    | {line}\n" for line in (done.stdout + done.stderr).splitlines()), end="")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--lengths", default="1200,200")
    p.add_argument("--cells", type=int, default=64, help="of 1,200 genes; more of shorter ones")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--clients", type=int, default=4)
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--precision", default="auto")
    a = p.parse_args()
    common.head(f"end to end: {a.clients} clients, {a.batch} cells a request, {a.precision}")
    bare_engine()
    for length in (int(n) for n in a.lengths.split(",")):
        n = a.cells * 1200 // length // a.batch * a.batch
        cells = common.official_cells(n, length)
        flags = ("--cache-mb", "0", "--precision", a.precision)
        with harness.Daemon(harness.official_model(), flags=flags) as d:
            for mode, (fields, headers) in MODES.items():
                bodies = [json.dumps({"cells": cells[i:i + a.batch], **fields}).encode()
                          for i in range(0, n, a.batch)]
                rates = [n / measure(d.port, bodies, headers, a.clients) for _ in range(a.runs)]
                row(f"{length} genes, {mode}", spread(rates, " cells/s", 2))


if __name__ == "__main__":
    main()
