"""test_audit.py - the record of who did what: jobs, downloads and keys are in its chain, and scdiva
sees where it was tampered with.
"""
import hashlib
import json
import os
import signal
import time

import files
import harness
import jobs
from harness import Daemon, SLOW


def events(data):
    return [line["event"] for line in jobs.audit(data)]


def test_the_audit_names_what_happened_and_scdiva_follows_it():
    with Daemon(harness.small_model()) as d:
        job = jobs.wait(d, jobs.start(d, jobs.table(2)))
        d.request("DELETE", f"/v1/jobs/{job['id']}")
        path = os.path.join(d.data, "audit.jsonl")
        lines = jobs.audit(d.data)
        assert [l["event"] for l in lines] == ["server.started", "job.accepted", "job.started",
                                               "job.completed", "job.deleted"], lines
        done = lines[3]
        assert done["input_sha256"] == hashlib.sha256(jobs.table(2)).hexdigest(), done
        assert done["output_sha256"] == job["result"]["sha256"], done
        assert done["model_digest"] == job["model"]["digest"], done
        assert done["software"].startswith("scdivad ") and "task=embed" in done["parameters"]
        out, _ = files.run("audit", "verify", path)
        files.says(out, "5 lines", lines[-1]["hash"])
        with open(path, "rb") as f:
            text = f.read()
        with open(path, "wb") as f:
            f.write(text.replace(b"job.deleted", b"job.expired"))
        _, said = files.run("audit", "verify", path, exit=1)
        files.says(said, "line 5", "not what was written")
        files.run("audit", "proof", path, exit=2)
        with open(path, "wb") as f:
            f.write(text)


def test_a_line_that_a_crash_cut_is_completed():
    data = harness.scratch()
    with Daemon(harness.small_model(), data=data) as d:
        jobs.wait(d, jobs.start(d, jobs.table(2)))
    path = os.path.join(data, "audit.jsonl")
    with open(path, "ab") as f:
        f.write(b'{"seq":5,"time":"20')
    with Daemon(harness.small_model(), data=data):
        assert [l["event"] for l in jobs.audit(data)][-1] == "server.started"
    with open(path, "rb") as f:
        text = f.read()
    with open(path, "wb") as f:  # two lines are cut off
        f.write(b"".join(line + b"\n" for line in text.splitlines()[:-2]))
    with Daemon(harness.small_model(), data=data) as d:
        assert "missing" in d.log(), d.log()
    _, said = files.run("audit", "verify", path, exit=1)
    files.says(said, "lines are missing")


def test_a_download_is_on_record_before_its_first_byte():
    with Daemon(harness.small_model()) as d:
        job = jobs.wait(d, jobs.start(d, jobs.table(4)))
        path = f"/v1/jobs/{job['id']}/result"
        etag = {"If-None-Match": f'"{job["result"]["sha256"]}"'}
        for answer, status in ((d.request("HEAD", path), 200), (d.get(path, etag), 304),
                               (d.get(path, {"Range": "bytes=99999-"}), 416)):
            assert answer.status == status, answer
        assert "result.downloaded" not in events(d.data)  # no byte of it has left
        assert d.get(path, {"Range": "bytes=0-3"}).status == 206
        line = jobs.audit(d.data)[-1]
        assert line["event"] == "result.downloaded" and line["job"] == job["id"], line
        assert line["output_sha256"] == job["result"]["sha256"], line
        assert line["input_sha256"] == job["upload"]["sha256"], line
        assert line["actor"] == "anonymous" and line["format"] == "csv", line
        jobs.result(d, job)  # the rest of it is the same download
        assert events(d.data).count("result.downloaded") == 1
        other = jobs.wait(d, jobs.start(d, jobs.table(5)))
        jobs.result(d, other)
        assert events(d.data).count("result.downloaded") == 2


def keys_file(path, tokens):
    with open(path + ".new", "w", encoding="utf-8") as f:
        for name, token in tokens.items():
            f.write(f"{hashlib.sha256(token.encode()).hexdigest()} {name}\n")
    os.chmod(path + ".new", 0o600)
    os.replace(path + ".new", path)


def of_keys(data):
    return [(line["event"], line["key"]) for line in jobs.audit(data)
            if line["event"].startswith("key.")]


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def read_again(d, event):
    """SIGHUP, until it is on record"""
    before = events(d.data).count(event)
    d.process.send_signal(signal.SIGHUP)
    end = time.monotonic() + 20 * SLOW
    while events(d.data).count(event) == before:
        assert time.monotonic() < end, d.log()
        time.sleep(0.02)


def test_keys_that_come_change_and_go_are_on_record_and_take_effect_at_once():
    keys, data = harness.scratch("audit.keys"), harness.scratch()
    flags = ("--keys", keys)
    keys_file(keys, {"one": "token-1", "two": "token-2"})
    with Daemon(harness.small_model(), flags=flags, data=data) as d:
        assert of_keys(data) == [("key.added", "one"), ("key.added", "two")]
        assert d.get("/v1/jobs", bearer("token-2")).status == 200
        job = jobs.start(d, jobs.table(2), headers=bearer("token-2"))
        job = jobs.wait(d, job, headers=bearer("token-2"))
        keys_file(keys, {"one": "token-1-new", "three": "token-3"})
        read_again(d, "keys.read")
        assert of_keys(data)[2:] == [("key.changed", "one"), ("key.added", "three"),
                                     ("key.removed", "two")]
        changed = next(l for l in jobs.audit(data) if l["event"] == "key.changed")
        assert changed["fingerprint"] != changed["fingerprint_before"], changed
        for token, status in (("token-1", 401), ("token-1-new", 200), ("token-2", 401),
                              ("token-3", 200)):
            assert d.get("/v1/jobs", bearer(token)).status == status, token
        assert d.get(f"/v1/jobs/{job['id']}", bearer("token-3")).status == 404
        with open(keys, "w", encoding="utf-8") as f:
            f.write("what is this\n")
        read_again(d, "keys.not_read")
        assert "line 1" in jobs.audit(data)[-1]["why"], jobs.audit(data)[-1]
        assert d.get("/v1/jobs", bearer("token-3")).status == 200  # all is as it was
        said = json.dumps(jobs.audit(data))
        for _ in range(20):  # one after the other, while it is asked
            d.process.send_signal(signal.SIGHUP)
            assert d.get("/v1/jobs", bearer("token-3")).status == 200
        for token in ("token-1", "token-1-new", "token-2", "token-3"):
            assert token not in said
            assert hashlib.sha256(token.encode()).hexdigest() not in said
    keys_file(keys, {"three": "token-3"})
    n = len(of_keys(data))
    with Daemon(harness.small_model(), flags=flags, data=data):
        assert of_keys(data)[n:] == [("key.removed", "one")]  # while no daemon ran
    with Daemon(harness.small_model(), data=data):
        assert of_keys(data)[n + 1:] == [("key.removed", "three")]
        files.run("audit", "verify", os.path.join(data, "audit.jsonl"))


def test_thousands_of_keys_are_no_trouble_to_the_audit():
    keys = harness.scratch("many.keys")
    keys_file(keys, {f"key-of-a-user-with-a-long-name-{i:06d}": f"t{i}" for i in range(3000)})
    with Daemon(harness.small_model(), flags=("--keys", keys)) as d:
        lines = jobs.audit(d.data)
        assert lines[0]["n_keys"] == 3000 and len(lines) == 3001, lines[0]
        assert jobs.post(d, jobs.table(2), headers=bearer("t7")).status == 202


def test_whatever_is_done_to_the_record_is_seen():
    with Daemon(harness.small_model()) as d:
        for i in range(3):
            jobs.result(d, jobs.wait(d, jobs.start(d, jobs.table(2, seed=i))))
        path = os.path.join(d.data, "audit.jsonl")
        with open(path, "rb") as f:
            lines = f.read().splitlines(True)
    copy = harness.scratch("tampered.jsonl")

    def verify(changed, says, exit=1):
        with open(copy, "wb") as f:
            f.write(b"".join(changed))
        said = files.run("audit", "verify", copy, exit=exit)
        files.says("".join(said), says)

    def resealed(i, old, new):
        """A line that was changed and given a hash that fits"""
        body = lines[i][:lines[i].rindex(b',"hash":"')].replace(old, new)
        return body + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'

    verify(lines, f"{len(lines)} lines", exit=0)
    for i in range(len(lines)):
        verify([*lines[:i], lines[i].replace(b'"actor":"', b'"actor":"x'), *lines[i + 1:]],
               f"line {i + 1}")
        if i < len(lines) - 1:  # the last one may be cut off: who remembers the hash sees that
            verify([*lines[:i], *lines[i + 1:]], f"line {i + 1}")
            verify([*lines[:i], resealed(i, b'"actor":"', b'"actor":"x'), *lines[i + 1:]],
                   f"line {i + 2}")
        verify([*lines[:i + 1], lines[i], *lines[i + 1:]], f"line {i + 2}")
    verify([lines[1], lines[0], *lines[2:]], "line 1")
    verify([*lines[:-1], lines[-1][:-1]], "cut short")
    verify([*lines, b"\n"], f"line {len(lines) + 1}")
    verify([*lines[:2], b"\0" * 4096 + b"\n", *lines[2:]], "line 3")
    verify([b"\xff" * (1 << 20)], "line 1")
    verify([lines[0].replace(b"\n", b"\r\n"), *lines[1:]], "line 1")
