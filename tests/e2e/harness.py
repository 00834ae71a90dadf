"""harness.py - starts the real daemon on a free loopback port and talks to it as strangers would.

SCDIVAD and SCDIVA_TRAIN name other binaries (a sanitizer build; `valgrind ... build/scdivad`
works too), SCDIVA_TEST_SLOW=1 multiplies every time limit. The daemons' own SCDIVA_* variables are
hidden from them, so that a test sees only what it sets.
"""
import atexit
import base64
import collections
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np

import models
import reference

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
FIXTURES = os.path.join(TOP, "tests", "fixtures")
SLOW = 10 if os.environ.get("SCDIVA_TEST_SLOW") == "1" else 1
START_S, STOP_S, REQUEST_S = 20 * SLOW, 30 * SLOW, 60 * SLOW


class Skip(Exception):
    """Raised by a test that cannot run here; says why."""


# ---- programs and places -------------------------------------------------------------------------

def program(variable, default):
    command = shlex.split(os.environ.get(variable, os.path.join(TOP, default)))
    if shutil.which(command[0]) is None:
        sys.exit(f"{command[0]} is not there: build it first (make)")
    return command


def scdivad():
    return program("SCDIVAD", "build/scdivad")


def scdiva():
    return program("SCDIVA", "build/scdiva")


def scdiva_train():
    return program("SCDIVA_TRAIN", "build/scdiva-train")


def clean_environment(extra=None):
    env = {k: v for k, v in os.environ.items()
           if not k.startswith("SCDIVA") or k == "SCDIVA_CUDA_KERNELS"}
    return {**env, **(extra or {})}


_scratch = []


def scratch(name=None):
    """A folder that lives as long as this run; with a name, the path of a new entry in it."""
    if not _scratch:
        _scratch.append(tempfile.mkdtemp(prefix="scdiva-e2e-"))
        atexit.register(shutil.rmtree, _scratch[0], True)
    return os.path.join(_scratch[0], name) if name else tempfile.mkdtemp(dir=_scratch[0])


def cpu_has(flag):
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        return re.search(rf"^flags.*\b{flag}\b", f.read(), re.M) is not None


# ---- models --------------------------------------------------------------------------------------

def demo_body():
    with open(os.path.join(FIXTURES, "pbmc68k_demo.json"), encoding="utf-8") as f:
        return json.load(f)


def demo_cells(n=40):
    """The real cells in the form {"id", "genes", "values"}."""
    body = demo_body()
    return [{"id": id_, "genes": genes, "values": values}
            for id_, (genes, values, _) in zip(body["ids"][:n], reference.cells_of(body)[:n])]


def demo_request(n=40, **fields):
    return {"input": "log1p_cp10k", "cells": demo_cells(n), **fields}


def small_model():
    """The model of most tests: odd sizes, the 765 genes of the real cells. A path."""
    path = scratch("small")
    if not os.path.exists(path):
        models.write_model(path, demo_body()["genes"], MAX_GENE_LEN=300)
    return path


def slow_model():
    """Big enough that a full cell takes a good part of a tenth of a second. A path."""
    path = scratch("slow")
    if not os.path.exists(path):
        models.write_model(path, [f"GENE{i}" for i in range(2000)], MAX_GENE_LEN=1200,
                           SCGPT_DIM=256, HIDDEN_DIM=256, N_HEADS=4, N_LAYERS=6, D_HID=1024)
    return path


def slow_cells(n, seed=1, length=1200):
    """n different cells for slow_model"""
    rng = np.random.default_rng(seed)
    return [{"genes": [f"GENE{g}" for g in rng.choice(2000, length, replace=False)],
             "values": rng.integers(1, 40, length).tolist()} for _ in range(n)]


def official_model():
    """The official sizes with random weights, made by `scdiva-train init`. A path."""
    path = scratch("official")
    if not os.path.exists(path):
        subprocess.run(scdiva_train() + ["init", "--out", path, "--preset", "official"], check=True,
                       stdout=subprocess.DEVNULL, timeout=120 * SLOW, env=clean_environment())
    return path


# ---- answers -------------------------------------------------------------------------------------

class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def embeddings(self):
        """(cells, h) float32, from either encoding"""
        rows = []
        for item in self.json()["data"]:
            e = item["embedding"]
            if isinstance(e, str):
                rows.append(np.frombuffer(base64.b64decode(e, validate=True), "<f4"))
            else:
                rows.append(np.array(e, np.float64).astype(np.float32))
        return np.stack(rows)

    def __repr__(self):
        return f"<{self.status} {dict(self.headers)} {self.body[:600]!r}>"


def check_problem(answer, status, name, pointer=None, detail=None):
    """The answer is this RFC 9457 problem; its pointers and its text match the patterns."""
    assert answer.status == status, f"expected {status} {name}, got {answer}"
    assert answer.headers["Content-Type"].split(";")[0] == "application/problem+json", answer
    problem = answer.json()
    assert problem["type"] == f"urn:scdiva:problem:{name}", answer
    assert problem["status"] == status, answer
    assert problem["title"] and problem["detail"], answer
    if pointer is not None:
        pointers = [e["pointer"] for e in problem["errors"]]
        found = any(re.fullmatch(pointer, p) for p in pointers)
        assert found, f"no {pointer} among {pointers}: {answer}"
        assert all(e["detail"] for e in problem["errors"]), answer
    if detail is not None:
        assert re.search(detail, json.dumps(problem), re.I), f"{detail!r} is not in {answer}"
    return problem


# ---- raw sockets ---------------------------------------------------------------------------------

HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def raw(d, data, timeout=10 * SLOW):
    """Send bytes; the response"""
    with d.socket(timeout) as s:
        s.sendall(data)
        return receive(s)


def receive(s):
    """One response: headers and the body they announce"""
    got = b""
    while True:
        head, separator, body = got.partition(b"\r\n\r\n")
        if separator:
            length = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n")
                      if line.startswith(b"content-length:")]
            if head.startswith(b"HTTP/1.1 100") or (length and len(body) >= length[0]):
                return got
        chunk = s.recv(65536)
        if not chunk:
            return got
        got += chunk


def check_good(d):
    """The daemon is there and still answers a correct request to small_model."""
    d.check_alive()
    d.embed({"cells": [{"genes": demo_body()["genes"][:2], "values": [1, 2]}]})


# ---- the daemon ----------------------------------------------------------------------------------

class Daemon:
    """with Daemon(model) as d: d.post(...). Leaving stops it and asserts a clean exit."""

    def __init__(self, *model_dirs, flags=(), env=None, data=None, command=None, ready=True):
        self.data = data or scratch()
        self.log_path = os.path.join(scratch(), "log")
        self.args = (command or scdivad()) + ["--listen", "127.0.0.1:0", "--data", self.data]
        for path in model_dirs:
            self.args += ["--model", path]
        self.args += list(flags)
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(self.args, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=subprocess.STDOUT, env=clean_environment(env),
                                            cwd=TOP)
        try:
            self.port = self._wait_for_port()
            if ready:
                self.wait_ready()
        except BaseException:
            self.kill()
            raise

    def _wait_for_port(self):
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            found = re.search(r"http://[0-9.\[\]:a-z]+:(\d+)", self.log())
            if found:
                return int(found[1])
            if self.process.poll() is not None:
                break
            time.sleep(0.005)
        raise AssertionError(f"no address printed, exit {self.process.poll()}:\n{self.log()}")

    def wait_ready(self):
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            try:
                if self.get("/readyz").status == 200:
                    return
            except ConnectionError:
                if self.process.poll() is not None:
                    break
            time.sleep(0.005)
        raise AssertionError(f"not ready, exit {self.process.poll()}:\n{self.log()}")

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    # -- requests --

    def request(self, method, path, body=None, headers=None, timeout=REQUEST_S):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            try:
                connection.request(method, path, body, headers or {})
            except BrokenPipeError:
                pass  # refused while we were still sending; the answer says why (as urllib3 does)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path, headers=None):
        return self.request("GET", path, None, headers)

    def post(self, path, body, headers=None, timeout=REQUEST_S):
        """body: bytes as they are, or anything that JSON can say"""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **(headers or {})}
        return self.request("POST", path, body, headers, timeout)

    def embed(self, body, headers=None):
        """POST /v1/embeddings that must succeed"""
        answer = self.post("/v1/embeddings", body, headers)
        assert answer.status == 200, answer
        return answer

    def curl(self, path, *args):
        """curl's standard output; fails as curl fails"""
        command = ["curl", "-sS", "--max-time", str(REQUEST_S), *args,
                   f"http://127.0.0.1:{self.port}{path}"]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def socket(self, timeout=REQUEST_S):
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def metrics(self):
        """{sample as it is written, labels sorted: value}"""
        return parse_metrics(self.get("/metrics").body.decode())

    def metric(self, name, **labels):
        """The sum over the samples of this name that carry these labels; 0 where there is none."""
        return sum_samples(self.metrics(), name, labels)

    def wait_metric(self, name, reached, timeout=30 * SLOW, **labels):
        """Poll until reached(value); the value."""
        end = time.monotonic() + timeout
        while True:
            value = self.metric(name, **labels)
            if reached(value):
                return value
            assert time.monotonic() < end, f"{name}{labels} stayed at {value}"
            time.sleep(0.01)

    def check_alive(self):
        assert self.process.poll() is None, f"died with {self.process.returncode}:\n{self.log()}"
        assert self.get("/livez").status == 200

    def status_kb(self, field):
        """A figure of /proc/PID/status: VmRSS, VmHWM, Threads"""
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as f:
            return int(re.search(rf"^{field}:\s+(\d+)", f.read(), re.M)[1])

    def busy_s(self, thread):
        """Processor time of all threads of this name"""
        total, tasks = 0, f"/proc/{self.process.pid}/task"
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/comm", encoding="utf-8") as f:
                named = f.read().strip() == thread
            if named:
                with open(f"{tasks}/{task}/schedstat", encoding="utf-8") as f:
                    total += int(f.read().split()[0])
        return total * 1e-9

    def keeps_freed_memory(self):
        """The address sanitizer holds it in quarantine, valgrind in its own heap."""
        with open(f"/proc/{self.process.pid}/exe", "rb") as f:
            return re.search(b"__asan_init|valgrind", f.read()) is not None

    def is_sanitized(self):
        """Its children are not confined then."""
        with open(f"/proc/{self.process.pid}/exe", "rb") as f:
            return re.search(b"__asan_init|__tsan_init", f.read()) is not None

    # -- the end --

    def stop(self):
        """SIGTERM; asserts exit 0"""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still there {STOP_S} s after SIGTERM:\n{self.log()[-4000:]}")
        assert code == 0, f"exit {code} after SIGTERM:\n{self.log()[-8000:]}"

    def kill(self):
        """SIGKILL; nothing when it has gone already"""
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        if kind is None:
            if self.process.poll() is None:
                self.stop()
            else:
                raise AssertionError(f"died with {self.process.returncode}:\n{self.log()[-8000:]}")
        elif self.process.poll() is None:
            self.kill()
            print(f"      log of the daemon:\n{self.log()[-3000:]}")
        return False


_shared = {}


def shared(make_model=small_model, flags=()):
    """One daemon for all tests of a file that ask for the same; run.py stops them after it."""
    key = (make_model, tuple(flags))
    if key not in _shared or _shared[key].process.poll() is not None:
        _shared[key] = Daemon(make_model(), flags=flags)
    return _shared[key]


def stop_shared():
    while _shared:
        daemon = _shared.popitem()[1]
        if daemon.process.poll() is not None:
            raise AssertionError(f"died with {daemon.process.returncode}:\n{daemon.log()[-8000:]}")
        daemon.stop()


def refused(flags, env=None, timeout=START_S, command=None):
    """Run the daemon with flags that it must refuse: exit code is not 0; what it printed."""
    done = subprocess.run((command or scdivad()) + list(flags), stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=scratch(),
                          timeout=timeout, env=clean_environment(env))
    assert done.returncode > 0, f"exit {done.returncode}: {done.stdout}"
    assert "Sanitizer" not in done.stdout and "runtime error" not in done.stdout, done.stdout
    return done.stdout


def sum_samples(samples, name, labels):
    return sum(value for (sample, have), value in samples.items()
               if sample == name and labels.items() <= dict(have).items())


def parse_metrics(text):
    """Prometheus text -> {(name, ((label, value), ...)): float}; every line must parse."""
    samples = collections.OrderedDict()
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        found = re.fullmatch(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)', line)
        assert found, f"not a Prometheus sample: {line!r}"
        labels = re.findall(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"', found[2] or "")
        key = (found[1], tuple(sorted(labels)))
        assert key not in samples, f"twice: {line!r}"
        samples[key] = float(found[3])
    return samples
