"""jobs.py - what the tests of jobs share: files of cells, requests, waiting, the audit."""
import hashlib
import http.client
import io
import json
import os
import subprocess
import time

import numpy as np

import harness
from harness import SLOW

OVER = ("COMPLETE", "FAILED", "ERROR", "CANCELED")


def table(n=40, seed=1, genes=None, length=None):
    """A .csv of n cells in rows: counts of small_model's genes, or of those given."""
    genes = genes or harness.demo_body()["genes"]
    rng = np.random.default_rng(seed)
    out = io.StringIO()
    out.write("," + ",".join(genes) + "\n")
    for i in range(n):
        row = np.zeros(len(genes), int)
        some = rng.choice(len(genes), length or 50, replace=False)
        row[some] = rng.integers(1, 20, len(some))
        out.write(f"cell{i}," + ",".join(map(str, row)) + "\n")
    return out.getvalue().encode()


def table_of(counts):
    """A .csv of these counts (cells, genes) of GENE0, GENE1, .."""
    lines = [",".join([""] + [f"GENE{i}" for i in range(counts.shape[1])])]
    lines += [f"cell{i}," + ",".join(map(str, row)) for i, row in enumerate(counts)]
    return ("\n".join(lines) + "\n").encode()


def post(d, body, query="task=embed&format=csv", headers=None, **more):
    return d.request("POST", "/v1/jobs?" + query, body,
                     {"Content-Type": "text/csv", **(headers or {}), **more})


def start(d, body, query="task=embed&format=csv", headers=None):
    """A job that must be accepted: its JSON."""
    answer = post(d, body, query, headers)
    assert answer.status == 202, answer
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}", answer
    assert job["state"] in ("QUEUED", "RUNNING", "COMPLETE"), job
    return job


def get(d, job, headers=None):
    answer = d.get(f"/v1/jobs/{job['id']}", headers)
    assert answer.status == 200, answer
    return answer.json()


def wait(d, job, state="COMPLETE", timeout=60 * SLOW, headers=None):
    end = time.monotonic() + timeout
    while True:
        job = get(d, job, headers)
        if job["state"] in OVER:
            assert job["state"] == state, job
            return job
        assert time.monotonic() < end, job
        time.sleep(0.05)


def wait_no_input(d):
    """What is not kept goes when its exchange is over."""
    end = time.monotonic() + 20 * SLOW
    while any(n.endswith(".input") for n in os.listdir(os.path.join(d.data, "jobs"))):
        assert time.monotonic() < end
        time.sleep(0.05)


def result(d, job, headers=None):
    answer = d.get(f"/v1/jobs/{job['id']}/result", headers)
    assert answer.status == 200, answer
    assert hashlib.sha256(answer.body).hexdigest() == job["result"]["sha256"], job
    return answer.body


def part(d, job, bytes_, offset, whole=None):
    """PATCH; with `whole` announced and fewer bytes sent, the client breaks off."""
    if whole is None:
        return d.request("PATCH", f"/v1/jobs/{job['id']}", bytes_,
                         {"Content-Type": "application/octet-stream",
                          "Upload-Offset": str(offset)})
    with d.socket() as s:
        s.sendall((f"PATCH /v1/jobs/{job['id']} HTTP/1.1\r\nHost: x\r\nUpload-Offset: {offset}\r\n"
                   f"Content-Length: {whole}\r\n\r\n").encode() + bytes_)
        time.sleep(0.3)
    return None


def audit(data):
    """The lines of the audit, after their chain was followed."""
    lines, before = [], "0" * 64
    with open(os.path.join(data, "audit.jsonl"), "rb") as f:
        for i, line in enumerate(f.read().splitlines()):
            said = json.loads(line)
            assert said["seq"] == i + 1 and said["prev"] == before, line
            body = line[:line.rindex(b',"hash":"')]
            assert hashlib.sha256(body).hexdigest() == said["hash"], line
            before = said["hash"]
            lines.append(said)
    return lines


def in_process(model, path, output, verb="embed"):
    """What scdiva writes of the same file: bytes."""
    subprocess.run(harness.scdiva() + [verb, path, "-o", output, "--model", model, "--quiet",
                                       "--overwrite"],
                   check=True, env=harness.clean_environment(), timeout=100 * SLOW)
    with open(output, "rb") as f:
        return f.read()


def events(d, job, last=None, timeout=60 * SLOW):
    """[(event, id, data)] until the stream ends."""
    connection = http.client.HTTPConnection("127.0.0.1", d.port, timeout=timeout)
    connection.request("GET", f"/v1/jobs/{job['id']}/events", None,
                       {"Last-Event-ID": str(last)} if last is not None else {})
    response = connection.getresponse()
    assert response.status == 200, response.status
    assert response.headers["Content-Type"].startswith("text/event-stream")
    found = []
    for block in response.read().decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n")
                      if ": " in line and not line.startswith(":"))
        if "data" in fields:
            found.append((fields["event"], int(fields["id"]), json.loads(fields["data"])))
    connection.close()
    return found
