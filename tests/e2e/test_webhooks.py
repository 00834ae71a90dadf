"""test_webhooks.py - the end of a job is told as Standard Webhooks has it: signed, again until it
is heard, across restarts, and never to an address inside.
"""
import base64
import hashlib
import hmac
import http.server
import json
import os
import socket
import threading
import time

import harness
import jobs
from harness import Daemon, SLOW, check_problem, refused

KEY = b"0123456789abcdef0123456789abcdef"


def secret_file(text=None):
    path = harness.scratch("webhook.secret")
    with open(path, "w", encoding="utf-8") as f:
        f.write(text or "whsec_" + base64.b64encode(KEY).decode() + "\n")
    return path


class Receiver:
    """Answers with the statuses given, the last one for ever; keeps what came."""

    def __init__(self, *statuses):
        got, lock = [], threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    status = statuses[min(len(got), len(statuses) - 1)]
                    got.append((dict(self.headers), body))
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.got = got
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?a=b"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait(self, n, timeout=30 * SLOW):
        end = time.monotonic() + timeout
        while len(self.got) < n:
            assert time.monotonic() < end, f"{len(self.got)} of {n} came"
            time.sleep(0.05)
        return self.got

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def query(url):
    from urllib.parse import quote
    return "task=embed&format=csv&webhook=" + quote(url, safe="")


def check_signature(headers, body):
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == "v1," + mac, headers
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 600 * SLOW, headers


def log_of(d, job):
    answer = d.get(f"/v1/jobs/{job['id']}/webhooks")
    assert answer.status == 200, answer
    return answer.json()


def wait_state(d, job, state, timeout=30 * SLOW):
    end = time.monotonic() + timeout
    while True:
        log = log_of(d, job)
        if log["data"] and log["data"][0]["state"] == state:
            return log
        assert time.monotonic() < end, log
        time.sleep(0.05)


FLAGS = ("--webhook-private", "--webhook-secret")


def test_the_end_of_a_job_is_told_and_signed():
    with Receiver(204) as r, Daemon(harness.small_model(), flags=FLAGS + (secret_file(),)) as d:
        job = jobs.wait(d, jobs.start(d, jobs.table(3), query(r.url)))
        headers, body = r.wait(1)[0]
        headers = {k.lower(): v for k, v in headers.items()}
        check_signature(headers, body)
        told = json.loads(body)
        assert told["type"] == "job.completed" and told["data"]["id"] == job["id"], told
        assert told["data"]["result"]["sha256"] == job["result"]["sha256"], told
        log = wait_state(d, job, "delivered")
        assert log["log"][0]["status"] == 204 and log["data"][0]["id"] == headers["webhook-id"]
        bad = jobs.wait(d, jobs.start(d, b"a,b", query(r.url)), "FAILED")
        assert json.loads(r.wait(2)[1][1])["type"] == "job.failed", bad
        again = d.request("POST", f"/v1/jobs/{job['id']}/webhooks")
        assert again.status == 202, again
        replayed = {k.lower(): v for k, v in r.wait(3)[2][0].items()}
        assert replayed["webhook-id"] == headers["webhook-id"], replayed
        check_signature(replayed, r.got[2][1])
        none = jobs.wait(d, jobs.start(d, jobs.table(2)))
        check_problem(d.request("POST", f"/v1/jobs/{none['id']}/webhooks"), 409, "conflict")


def test_what_is_not_heard_is_told_again_after_a_restart_too():
    data = harness.scratch()
    flags = FLAGS + (secret_file(),)
    with Receiver(500, 302, 200) as r:
        d = Daemon(harness.small_model(), flags=flags, data=data)
        try:
            job = jobs.wait(d, jobs.start(d, jobs.table(3), query(r.url)))
            r.wait(1)
            wait_state(d, job, "pending")
        finally:
            d.kill()
        with Daemon(harness.small_model(), flags=flags, data=data) as d:
            r.wait(2)  # after 5 s
            end = time.monotonic() + 30 * SLOW
            while len(log_of(d, job)["log"]) < 2:
                assert time.monotonic() < end
                time.sleep(0.1)
            log = log_of(d, job)
            assert "redirects" in log["log"][1]["detail"], log
            assert log["data"][0]["state"] == "pending" and len(r.got) == 2, log
            d.request("POST", f"/v1/jobs/{job['id']}/webhooks")
            wait_state(d, job, "delivered")
            ids = {{k.lower(): v for k, v in h.items()}["webhook-id"] for h, _ in r.got}
            assert len(ids) == 1, ids


def test_addresses_inside_are_not_connected_to():
    with Receiver(200) as r, Daemon(harness.small_model(),
                                    flags=("--webhook-secret", secret_file())) as d:
        port = r.url.split(":")[2].split("/")[0]
        for host in ("127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "0.0.0.0",
                     "[::ffff:127.0.0.1]"):
            job = jobs.wait(d, jobs.start(d, jobs.table(2), query(f"http://{host}:{port}/")))
            end = time.monotonic() + 30 * SLOW
            while not log_of(d, job)["log"]:
                assert time.monotonic() < end
                time.sleep(0.05)
            log = log_of(d, job)
            assert log["log"][0]["status"] == 0, log
        assert r.got == [], r.got


class Hanging:
    """Takes connections and says nothing, or (endless) never comes to an end of it."""

    def __init__(self, endless=b""):
        self.server, self.endless, self.held = socket.create_server(("127.0.0.1", 0)), endless, []
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}/"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                self.held.append(self.server.accept()[0])
            except OSError:
                return
            if self.endless:
                threading.Thread(target=self.talk, args=(self.held[-1],), daemon=True).start()

    def talk(self, s):
        try:
            s.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n")
            while True:
                s.sendall(self.endless)
        except OSError:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for s in (self.server, *self.held):
            s.close()


def test_receivers_that_hang_hold_up_neither_others_nor_a_stop():
    with Hanging() as mute, Receiver(200) as good:
        with Daemon(harness.small_model(), flags=FLAGS + (secret_file(),)) as d:
            for _ in range(6):
                jobs.wait(d, jobs.start(d, jobs.table(2), query(mute.url)))
            end = time.monotonic() + 30 * SLOW
            while len(mute.held) < 2:
                assert time.monotonic() < end
                time.sleep(0.05)
            begin = time.monotonic()
            job = jobs.wait(d, jobs.start(d, jobs.table(2), query(good.url)))
            wait_state(d, job, "delivered")
            assert time.monotonic() - begin < 10 * SLOW  # one that hangs takes 15 s
            assert len(mute.held) == 2  # of one host, so many at once
            begin = time.monotonic()
        assert time.monotonic() - begin < 10 * SLOW


def test_answers_without_end_are_cut_off():
    with Hanging(b"X-More: " + b"x" * 900 + b"\r\n") as headers, \
            Hanging(b"\r\n400\r\n" + b"x" * 1024 + b"\r\n" * 2) as body:
        with Daemon(harness.small_model(), flags=FLAGS + (secret_file(),)) as d:
            before = d.status_kb("VmHWM")
            for url in (headers.url, body.url):
                job = jobs.wait(d, jobs.start(d, jobs.table(2), query(url)))
                end = time.monotonic() + 60 * SLOW
                while not (log := log_of(d, job)["log"]):
                    assert time.monotonic() < end
                    time.sleep(0.1)
            assert d.status_kb("VmHWM") - before < 64 << 10, log


def test_a_receiver_that_is_gone_is_not_asked_again():
    with Receiver(410) as r, Daemon(harness.small_model(), flags=FLAGS + (secret_file(),)) as d:
        job = jobs.wait(d, jobs.start(d, jobs.table(2), query(r.url)))
        wait_state(d, job, "given up")
        assert len(r.got) == 1


def test_a_secret_that_is_none_is_refused_at_the_start():
    for text in ("hello", "whsec_", "whsec_!!!!", "whsec_" + base64.b64encode(b"short").decode()):
        said = refused(["--model", harness.small_model(), "--data", harness.scratch(), "--listen",
                        "127.0.0.1:0", "--webhook-secret", secret_file(text)])
        assert "whsec_" in said, said
    said = refused(["--model", harness.small_model(), "--data", harness.scratch(), "--listen",
                    "127.0.0.1:0", "--webhook-secret", "/no/such/file"])
    assert "/no/such/file" in said, said
