"""test_jobs.py - files in, results out through /v1/jobs: uploads, states, events, results, what is
refused, and that nothing accepted is lost.
"""
import collections
import csv
import gzip
import hashlib
import io
import json
import os
import time

import numpy as np

import files
import harness
import jobs
import models
import test_webhooks
from harness import Daemon, SLOW, check_problem, shared as daemon


# ---- the way of a job ----------------------------------------------------------------------------

def test_a_job_gives_the_bytes_of_scdiva_in_every_format():
    body, path = jobs.table(), harness.scratch("cells.csv")
    with open(path, "wb") as f:
        f.write(body)
    for kind, type_ in (("csv", "text/csv"), ("tsv", "text/tab-separated-values"),
                        ("npy", "application/x-npy"), ("h5ad", "application/x-hdf5")):
        job = jobs.start(daemon(), body, f"task=embed&format={kind}&filename=cells.csv")
        job = jobs.wait(daemon(), job)
        assert job["progress"] == {"cells": 40, "cells_done": 40, "fraction": 1}, job
        assert any("40 rows looked at" in text for text in job["decisions"]), job
        answer = daemon().get(f"/v1/jobs/{job['id']}/result")
        assert answer.headers["Content-Type"].startswith(type_), answer.headers
        assert f'filename="cells.scdiva.{kind}"' in answer.headers["Content-Disposition"]
        want = jobs.in_process(harness.small_model(), path, harness.scratch("want." + kind))
        assert answer.body == want, kind


def test_annotation_gives_the_bytes_of_scdiva_too():
    path = files.small("good_csr.h5ad")
    with open(path, "rb") as f:
        body = f.read()
    with Daemon(files.small_model()) as d:
        for kind in ("csv", "h5ad"):
            query = f"task=annotate&format={kind}&filename=good_csr.h5ad"
            job = jobs.wait(d, jobs.start(d, body, query))
            want = jobs.in_process(files.small_model(), path, harness.scratch("want2." + kind),
                                   "annotate")
            assert jobs.result(d, job) == want, kind


def test_an_annotation_counts_the_labels_of_its_result():
    path, genes = harness.scratch("labelled"), harness.demo_body()["genes"]
    models.write_model(path, genes, MAX_GENE_LEN=300)
    models.write_head(path, "some", ["A", 'B, "x"', "C"], seed=3)
    body = jobs.table(60) + b"nothing," + b"0," * (len(genes) - 1) + b"0\n"
    with Daemon(path) as d:
        for threshold in (0, 0.5, 1):
            query = f"task=annotate&format=csv&threshold={threshold}"
            job = jobs.wait(d, jobs.start(d, body, query))
            rows = list(csv.DictReader(io.StringIO(jobs.result(d, job).decode())))
            want = collections.Counter(r["scdiva_label"] for r in rows if r["scdiva_label"])
            unknown = collections.Counter(r["scdiva_label"] for r in rows
                                          if r["scdiva_unknown"] == "true")
            assert len(want) > 1 and sum(want.values()) == 60, want
            assert {c["label"]: c["cells"] for c in job["labels"]} == want, job
            assert {c["label"]: c["unknown"] for c in job["labels"]} == \
                {label: unknown[label] for label in want}, job
        assert "labels" not in jobs.wait(d, jobs.start(d, body, "task=embed&format=csv"))


def test_curl_sends_a_form():
    path = harness.scratch("form.csv")
    with open(path, "wb") as f:
        f.write(jobs.table(5))
    out = daemon().curl("/v1/jobs?task=embed&format=csv", "-F", f"file=@{path}", "-H",
                        "Prefer: wait=60")
    job = json.loads(out)
    assert job["state"] == "COMPLETE" and job["filename"] == "form.csv", job
    assert jobs.result(daemon(), job).count(b"\n") == 6


def test_prefer_wait_holds_the_answer_until_the_job_is_over():
    answer = jobs.post(daemon(), jobs.table(3), headers={"Prefer": "wait=60"})
    assert answer.status == 200 and answer.json()["state"] == "COMPLETE", answer
    assert answer.headers["Preference-Applied"] == "wait", answer
    job = jobs.start(daemon(), jobs.table(4))
    waited = jobs.get(daemon(), job, {"Prefer": "wait=60"})
    assert waited["state"] == "COMPLETE", waited


def test_the_list_has_the_newest_first_and_pages():
    with Daemon(harness.small_model()) as d:
        ids = [jobs.start(d, jobs.table(2, seed=i))["id"] for i in range(5)]
        page = d.get("/v1/jobs?limit=3").json()
        assert [job["id"] for job in page["data"]] == ids[:1:-1] and page["has_more"], page
        rest = d.get(f"/v1/jobs?limit=3&after={page['data'][-1]['id']}").json()
        assert [job["id"] for job in rest["data"]] == ids[1::-1] and not rest["has_more"], rest
        for id_ in ids:
            jobs.wait(d, {"id": id_})
        assert len(d.get("/v1/jobs?state=COMPLETE").json()["data"]) == 5
        assert d.get("/v1/jobs?state=FAILED").json()["data"] == []
        assert d.metric("scdiva_jobs", state="COMPLETE") == 5
        check_problem(d.get("/v1/jobs?state=DONE&limit=0"), 422, "invalid", "/state")
        check_problem(d.get("/v1/jobs?after=job_none"), 404, "not-found")


# ---- uploads -------------------------------------------------------------------------------------

def test_a_file_may_come_in_parts_and_after_a_break():
    body = jobs.table(30)
    half = len(body) // 2
    job = jobs.start(daemon(), body[:100], headers={"Upload-Length": str(len(body))})
    assert job["upload"] == {"offset": 100, "length": len(body), "complete": False}, job
    answer = jobs.part(daemon(), job, body[100:half], 100)
    assert answer.status == 202 and answer.headers["Upload-Offset"] == str(half), answer
    jobs.part(daemon(), job, body[half:half + 500], half, whole=len(body) - half)
    end = time.monotonic() + 20 * SLOW
    while True:  # what came of the broken one is kept
        head = daemon().request("HEAD", f"/v1/jobs/{job['id']}")
        offset = int(head.headers["Upload-Offset"])
        if offset == half + 500:
            break
        assert time.monotonic() < end and offset == half, head
        time.sleep(0.05)
    wrong = jobs.part(daemon(), job, b"x", 7)
    check_problem(wrong, 409, "conflict", detail="go on from there")
    assert wrong.headers["Upload-Offset"] == str(offset), wrong
    assert jobs.part(daemon(), job, body[offset:], offset).status == 202
    job = jobs.wait(daemon(), job)
    assert job["upload"]["sha256"] == hashlib.sha256(body).hexdigest(), job
    check_problem(jobs.part(daemon(), job, b"x", len(body)), 409, "conflict")


def test_a_file_in_parts_goes_on_after_a_restart():
    body, data = jobs.table(30), harness.scratch()
    cuts = [0, 1000, 1000, 2500, len(body)]  # a part may be empty
    with Daemon(harness.small_model(), data=data) as d:
        job = jobs.start(d, b"", headers={"Upload-Length": str(len(body))})
        for at, end in zip(cuts[:3], cuts[1:]):
            assert jobs.part(d, job, body[at:end], at).status == 202
    with Daemon(harness.small_model(), data=data) as d:
        for at, end in zip(cuts[3:], cuts[4:]):
            assert jobs.part(d, job, body[at:end], at).status == 202
        assert jobs.wait(d, job)["upload"]["sha256"] == hashlib.sha256(body).hexdigest()


def test_the_sha256_is_checked():
    body = jobs.table(3)
    right, wrong = hashlib.sha256(body).hexdigest(), "0" * 64
    jobs.start(daemon(), body, f"task=embed&format=csv&sha256={right.upper()}")
    query = f"task=embed&format=csv&sha256={wrong}"
    check_problem(jobs.post(daemon(), body, query), 422, "invalid", detail="send it again")
    job = jobs.start(daemon(), b"", query, {"Upload-Length": str(len(body))})
    check_problem(jobs.part(daemon(), job, body, 0), 422, "invalid", detail="SHA-256")
    assert jobs.get(daemon(), job)["state"] == "FAILED"


def test_a_body_may_be_gzip_encoded_within_the_bound_of_what_it_holds():
    body, packed = jobs.table(20), {"Content-Encoding": "gzip"}
    plain = jobs.wait(daemon(), jobs.start(daemon(), body))
    for sent in (gzip.compress(body), gzip.compress(body[:999]) + gzip.compress(body[999:])):
        job = jobs.wait(daemon(), jobs.start(daemon(), sent, headers=packed))
        assert job["upload"]["sha256"] == hashlib.sha256(body).hexdigest(), job
        assert jobs.result(daemon(), job) == jobs.result(daemon(), plain)
    with Daemon(harness.small_model(), flags=("--job-upload-mb", "2")) as d:
        check_problem(jobs.post(d, gzip.compress(b"x" * (3 << 20)), headers=packed), 413,
                      "too-large")
        jobs.wait_no_input(d)


def test_an_idempotency_key_gives_the_same_job_again():
    body = jobs.table(3)
    key = {"Idempotency-Key": "k 1"}
    first = jobs.start(daemon(), body, headers=key)
    again = jobs.post(daemon(), body, headers=key)
    assert again.status == 202 and again.json()["id"] == first["id"], again
    check_problem(jobs.post(daemon(), jobs.table(4), headers=key), 422, "invalid", detail="new key")
    other = jobs.post(daemon(), body, "task=embed&format=tsv", key)
    check_problem(other, 422, "invalid", detail=first["id"])
    length = {"Idempotency-Key": "k 2", "Upload-Length": str(len(body))}
    begun = jobs.start(daemon(), b"", headers=length)
    assert jobs.start(daemon(), b"", headers=length)["id"] == begun["id"]


def test_what_a_broken_post_sent_is_forgotten():
    with Daemon(harness.small_model()) as d:
        with d.socket() as s:
            s.sendall(b"POST /v1/jobs?task=embed&format=csv HTTP/1.1\r\nHost: x\r\n"
                      b"Content-Length: 1000\r\n\r\nhalf of it")
            time.sleep(0.3)
            assert any(n.endswith(".input") for n in os.listdir(os.path.join(d.data, "jobs")))
        jobs.wait_no_input(d)
        assert d.get("/v1/jobs").json()["data"] == []


# ---- events and results --------------------------------------------------------------------------

def test_events_tell_of_states_and_progress_and_end_with_the_job():
    genes = [f"GENE{i}" for i in range(2000)]
    with Daemon(harness.slow_model(), flags=("--max-queue-tokens", "4800")) as d:
        job = jobs.start(d, jobs.table(8, genes=genes, length=600))
        seen = jobs.events(d, job)
        assert seen[-1][0] == "state" and seen[-1][2]["state"] == "COMPLETE", seen[-1]
        assert any(kind == "progress" for kind, _, _ in seen), [s[:2] for s in seen]
        ids = [id_ for _, id_, _ in seen]
        assert ids == sorted(set(ids)), ids
        done = [data["progress"]["cells_done"] for _, _, data in seen]
        assert done == sorted(done) and done[-1] == 8, done
        again = jobs.events(d, job, last=ids[0])
        assert [s[1] for s in again] == [ids[-1]], again
        known = d.get(f"/v1/jobs/{job['id']}/events", {"Last-Event-ID": str(ids[-1])})
        assert known.status == 204, known


def test_a_result_has_ranges_and_an_etag():
    job = jobs.wait(daemon(), jobs.start(daemon(), jobs.table(6)))
    path = f"/v1/jobs/{job['id']}/result"
    whole = daemon().get(path)
    body, etag = whole.body, whole.headers["ETag"]
    assert etag == f'"{job["result"]["sha256"]}"' and whole.headers["Accept-Ranges"] == "bytes"
    assert whole.headers["X-Content-Type-Options"] == "nosniff", whole
    for asked, want in (("bytes=0-9", body[:10]), ("bytes=5-", body[5:]), ("bytes=-7", body[-7:]),
                        ("bytes=3-99999999", body[3:])):
        answer = daemon().get(path, {"Range": asked})
        assert answer.status == 206 and answer.body == want, (asked, answer)
        assert answer.headers["Content-Range"].endswith(f"/{len(body)}"), answer
    for asked in ("bytes=0-1,4-5", "lines=1-2", "bytes=9-3", "bytes=x"):
        answer = daemon().get(path, {"Range": asked})
        assert answer.status == 200 and answer.body == body, (asked, answer)
    outside = daemon().get(path, {"Range": f"bytes={len(body)}-"})
    check_problem(outside, 416, "range")
    assert outside.headers["Content-Range"] == f"bytes */{len(body)}"
    assert daemon().get(path, {"If-None-Match": etag}).status == 304
    stale = daemon().get(path, {"Range": "bytes=0-9", "If-Range": '"other"'})
    assert stale.status == 200 and stale.body == body, stale
    head = daemon().request("HEAD", path)
    assert head.status == 200 and int(head.headers["Content-Length"]) == len(body), head


def test_a_job_can_be_canceled_and_forgotten():
    genes = [f"GENE{i}" for i in range(2000)]
    with Daemon(harness.slow_model(), flags=("--max-queue-tokens", "4800")) as d:
        job = jobs.start(d, jobs.table(200, genes=genes, length=600))
        check_problem(d.get(f"/v1/jobs/{job['id']}/result"), 409, "conflict", detail="no result")
        answer = d.request("DELETE", f"/v1/jobs/{job['id']}")
        assert answer.status == 200 and answer.json()["state"] == "CANCELED", answer
        check_problem(d.get(f"/v1/jobs/{job['id']}/result"), 409, "conflict")
        d.wait_metric("scdiva_queue_tokens", lambda tokens: tokens == 0)
        left = [n for n in os.listdir(os.path.join(d.data, "jobs")) if job["id"] in n]
        assert left == [], left
        gone = d.request("DELETE", f"/v1/jobs/{job['id']}")
        assert gone.status == 200 and gone.json()["deleted"] is True, gone
        check_problem(d.get(f"/v1/jobs/{job['id']}"), 404, "not-found")
        check_problem(d.request("DELETE", f"/v1/jobs/{job['id']}"), 404, "not-found")
        d.embed({"cells": harness.slow_cells(1, length=20)})


# ---- what is refused -----------------------------------------------------------------------------

def test_parameters_are_judged_before_the_file_is_sent():
    for query, pointer, detail in (
            ("format=csv", "/task", "embed, annotate"), ("task=embed", "/format", "h5ad"),
            ("task=fly&format=csv", "/task", "no task"),
            ("task=embed&format=xls", "/format", "cannot be written"),
            ("task=embed&format=csv&threshold=2", "/threshold", "0"),
            ("task=embed&format=csv&head=x", "/head", "annotate, perturb alone"),
            ("task=embed&format=csv&forse=true", "/forse", "not known"),
            ("task=embed&format=csv&force=1", "/force", "true"),
            ("task=embed&format=csv&layer=X&genes_in=rows", "/genes_in", "one of them"),
            ("task=embed&format=csv&sha256=12", "/sha256", "64 hex"),
            ("task=embed&format=csv&filename=" + "x" * 300, "/filename", "255"),
            ("task=embed&format=csv&filename=%FF", "/filename", "UTF-8"),
            ("task=embed&format=csv&webhook=ftp://x", "/webhook", "https://"),
            ("task=embed&format=csv&webhook=https://x.org", "/webhook", "--webhook-secret"),
            ("task=annotate&format=csv", "/model", "no annotation head")):
        check_problem(jobs.post(daemon(), b"x", query), 422, "invalid", pointer, detail)
    missing = jobs.post(daemon(), b"x", "task=embed&format=csv&model=none")
    check_problem(missing, 404, "not-found", detail="small")


def test_bodies_that_are_no_file_are_refused():
    good = "task=embed&format=csv"
    check_problem(jobs.post(daemon(), b"", good), 422, "invalid", detail="empty")
    check_problem(jobs.post(daemon(), b"{}", good, {"Content-Type": "application/json"}), 415,
                  "unsupported-media-type", detail="octet-stream")
    check_problem(jobs.post(daemon(), b"x", good, {"Content-Encoding": "br"}), 415,
                  "unsupported-media-type")
    packed = {"Content-Encoding": "gzip"}
    check_problem(jobs.post(daemon(), b"x" * 100, good, packed), 400, "bad-request", detail="none")
    whole = gzip.compress(jobs.table(3))
    check_problem(jobs.post(daemon(), whole[:-5], good, packed), 400, "bad-request", detail="cut")
    check_problem(jobs.post(daemon(), whole + b"x" * 20, good, packed), 400, "bad-request")
    length = {**packed, "Upload-Length": "5"}
    check_problem(jobs.post(daemon(), whole, good, length), 415, "unsupported-media-type")
    check_problem(jobs.post(daemon(), b"x", good, {"Upload-Length": "many"}), 400, "bad-request")
    more = jobs.post(daemon(), b"1234", good, {"Upload-Length": "3"})
    assert more.status in (413, 422), more
    def form(*names, end=b"--boundary--\r\n"):
        body = b"".join(b'--boundary\r\nContent-Disposition: form-data; name="' + name +
                        b'"; filename="a"\r\n\r\n' + b"x" * 500 + b"\r\n" for name in names) + end
        return jobs.post(daemon(), body, good,
                         {"Content-Type": "multipart/form-data; boundary=boundary"})

    for names, detail in (((b"other",), "other"), ((b"file", b"more"), "more"), ((), "no part"),
                          ((b"file", b"file"), "several files")):
        check_problem(form(*names), 422, "invalid", detail=detail)
    check_problem(form(b"file", end=b""), 422, "invalid", detail="closing boundary")
    check_problem(jobs.post(daemon(), b"x", good, {"Content-Type": "multipart/form-data"}), 422,
                  "invalid", detail="no part")
    harness.check_good(daemon())


def test_results_that_a_file_holds_already_are_not_replaced_unasked():
    with open(files.small("good_csr.h5ad"), "rb") as f:
        body = f.read()
    with Daemon(files.small_model()) as d:
        query = "task=embed&format=h5ad&filename=a.h5ad"
        once = jobs.result(d, jobs.wait(d, jobs.start(d, body, query)))
        job = jobs.wait(d, jobs.start(d, once, query), "FAILED")
        said = job["error"]["detail"]
        assert "X_scdiva" in said and "a.h5ad" in said and "(overwrite replaces it)" in said, job
        assert job["progress"]["cells_done"] == 0, job
        jobs.wait(d, jobs.start(d, once, query + "&overwrite=true"))


def test_disk_has_bounds():
    flags = ("--job-upload-mb", "2", "--job-key-disk-mb", "3", "--job-disk-mb", "3")
    with Daemon(harness.small_model(), flags=flags) as d:
        big = jobs.post(d, b"x" * (3 << 20))
        assert big.status == 413, big
        check_problem(jobs.post(d, b"", headers={"Upload-Length": str(3 << 20)}), 413, "too-large")
        jobs.start(d, b"", headers={"Upload-Length": str(2 << 20)})
        job = jobs.start(d, b"x" * (1 << 20), headers={"Upload-Length": str(2 << 20)})
        assert jobs.part(d, job, b"x" * 500000, 1 << 20).status == 202
        other = {"Upload-Length": str(2 << 20)}
        full = jobs.post(d, b"", headers=other)
        check_problem(full, 507, "insufficient-storage", detail="DELETE")
        d.request("DELETE", f"/v1/jobs/{job['id']}")
        jobs.start(d, b"x" * (1 << 20), headers=other)
    with Daemon(harness.small_model(), flags=("--max-jobs", "2")) as d:
        first = jobs.start(d, jobs.table(2))
        jobs.start(d, b"", headers={"Upload-Length": "5"})
        check_problem(jobs.post(d, jobs.table(2)), 507, "insufficient-storage", detail="2 jobs")
        d.request("DELETE", f"/v1/jobs/{jobs.wait(d, first)['id']}")
        jobs.start(d, jobs.table(2))


def test_jobs_are_seen_by_their_key_alone():
    tokens = {"one": "token-of-one", "two": "token-of-two"}
    keys = harness.scratch("job.keys")
    with open(keys, "w", encoding="utf-8") as f:
        for name, token in tokens.items():
            f.write(f"{hashlib.sha256(token.encode()).hexdigest()} {name}\n")
    os.chmod(keys, 0o600)
    one, two = ({"Authorization": f"Bearer {t}"} for t in tokens.values())
    with Daemon(harness.small_model(), flags=("--keys", keys)) as d:
        check_problem(jobs.post(d, jobs.table(2)), 401, "unauthorized")
        job = jobs.wait(d, jobs.start(d, jobs.table(2), headers=one), headers=one)
        assert job["owner"] == "one", job
        for path in ("", "/result", "/events", "/webhooks"):
            check_problem(d.get(f"/v1/jobs/{job['id']}{path}", two), 404, "not-found")
        check_problem(d.request("DELETE", f"/v1/jobs/{job['id']}", None, two), 404, "not-found")
        assert d.get("/v1/jobs", two).json()["data"] == []
        lines = jobs.audit(d.data)
        assert [l["actor"] for l in lines if l["event"] == "job.accepted"] == ["one"], lines
        assert lines[0]["keys"] == ["one", "two"], lines[0]
        assert "token-of" not in json.dumps(lines)


# ---- nothing is lost -----------------------------------------------------------------------------

def crash_rounds(kills, n_cells=40, seed=0, tell=lambda text: None):
    """Jobs under SIGKILL at random moments: their bytes, the audit, and what a receiver of webhooks
    is told. (jobs, starts that went on in the middle, webhooks that came)"""
    genes = [f"GENE{i}" for i in range(2000)]
    body = jobs.table(n_cells, genes=genes, length=400)
    flags = ("--cache-mb", "0", "--max-queue-tokens", "9600")
    with Daemon(harness.slow_model(), flags=flags) as d:
        begin = time.monotonic()
        want = jobs.result(d, jobs.wait(d, jobs.start(d, body), timeout=600 * SLOW))
        took = time.monotonic() - begin
    rng = np.random.default_rng(seed)
    data, job, n_jobs, resumed = harness.scratch(), None, 0, 0
    with test_webhooks.Receiver(200) as receiver:
        flags += test_webhooks.FLAGS + (test_webhooks.secret_file(),)
        query = test_webhooks.query(receiver.url)
        for i in range(kills):
            d = Daemon(harness.slow_model(), flags=flags, data=data)
            if job is None:
                n_jobs += 1
                job = jobs.start(d, body, query, {"Idempotency-Key": f"job {n_jobs}"})
            before = jobs.get(d, job)
            resumed += before["progress"]["cells_done"] > 0 and before["state"] == "RUNNING"
            time.sleep(float(rng.uniform(0, took / 3)))
            state = jobs.get(d, job)
            d.kill()
            tell(f"kill {i + 1}: {state['state']}, {state['progress']['cells_done']} of {n_cells}")
            if state["state"] == "COMPLETE":
                job = None
        with Daemon(harness.slow_model(), flags=flags, data=data) as d:
            ids, page = [], {"has_more": True, "data": [{"id": ""}]}
            while page["has_more"]:
                page = d.get(f"/v1/jobs?after={page['data'][-1]['id']}").json()
                for job in page["data"]:
                    job = jobs.wait(d, job, timeout=600 * SLOW)
                    assert jobs.result(d, job) == want, job["id"]
                    test_webhooks.wait_state(d, job, "delivered")
                    ids.append(job["id"])
            assert len(ids) == len(set(ids)) == n_jobs, ids
        heard = {}
        for headers, sent in receiver.got:
            id_ = {k.lower(): v for k, v in headers.items()}["webhook-id"]
            heard.setdefault(id_, sent)
            assert heard[id_] == sent, id_
        assert len(heard) == n_jobs, (len(heard), n_jobs)
    lines = jobs.audit(data)
    for event in ("job.accepted", "job.completed"):
        said = [line["job"] for line in lines if line["event"] == event]
        assert sorted(said) == sorted(ids), (event, said)
    return n_jobs, resumed, len(receiver.got)


def test_a_kill_at_any_moment_changes_no_byte():
    assert crash_rounds(4)[0] >= 1


def test_sigterm_keeps_what_was_computed():
    genes = [f"GENE{i}" for i in range(2000)]
    body = jobs.table(60, genes=genes, length=400)
    flags = ("--cache-mb", "0", "--max-queue-tokens", "9600")
    data = harness.scratch()
    d = Daemon(harness.slow_model(), flags=flags, data=data)
    try:
        job = jobs.start(d, body)
        end = time.monotonic() + 60 * SLOW
        while jobs.get(d, job)["progress"]["cells_done"] == 0:
            assert time.monotonic() < end
            time.sleep(0.02)
        begin = time.monotonic()
        d.stop()
        assert time.monotonic() - begin < 10 * SLOW
    finally:
        d.kill()
    with Daemon(harness.slow_model(), flags=flags, data=data) as d:
        assert jobs.get(d, job)["progress"]["cells_done"] > 0
        jobs.wait(d, job, timeout=100 * SLOW)


def test_who_listens_or_waits_does_not_hold_up_a_stop():
    d = Daemon(harness.small_model())
    try:
        job = jobs.start(d, b"half", headers={"Upload-Length": "8"})
        with d.socket() as listening, d.socket() as waiting:
            for s, path, more in ((listening, "/events", ""),
                                  (waiting, "", "Prefer: wait=300\r\n")):
                s.sendall(f"GET /v1/jobs/{job['id']}{path} HTTP/1.1\r\nHost: x\r\n{more}\r\n"
                          .encode())
            said = b""
            while b"event: state" not in said:
                said += listening.recv(65536)
            time.sleep(0.2)
            begin = time.monotonic()
            d.stop()
            assert time.monotonic() - begin < 5 * SLOW
            assert b'"QUEUED"' in waiting.recv(65536)
            rest = b"".join(iter(lambda: listening.recv(65536), b""))
            assert rest.endswith(b"0\r\n\r\n") or not rest, rest
    finally:
        d.kill()


def test_chunks_that_were_damaged_are_computed_again():
    genes = [f"GENE{i}" for i in range(2000)]
    body = jobs.table(20, genes=genes, length=400)
    flags = ("--cache-mb", "0", "--max-queue-tokens", "9600")
    with Daemon(harness.slow_model(), flags=flags) as d:
        want = jobs.result(d, jobs.wait(d, jobs.start(d, body), timeout=100 * SLOW))
    data = harness.scratch()
    d = Daemon(harness.slow_model(), flags=flags, data=data)
    job = jobs.start(d, body)
    end = time.monotonic() + 60 * SLOW
    while jobs.get(d, job)["progress"]["cells_done"] == 0:
        assert time.monotonic() < end
        time.sleep(0.01)
    d.kill()
    path = os.path.join(data, "jobs", job["id"] + ".chunks")
    with open(path, "r+b") as f:
        f.seek(60)
        f.write(b"\xff\x00\xff")
    with Daemon(harness.slow_model(), flags=flags, data=data) as d:
        assert jobs.result(d, jobs.wait(d, job, timeout=100 * SLOW)) == want


def test_two_daemons_do_not_share_a_directory_and_the_second_says_so():
    with Daemon(harness.small_model()) as first, Daemon(harness.small_model(),
                                                        data=first.data) as second:
        check_problem(jobs.post(second, jobs.table(2)), 503, "unavailable", detail="log")
        assert "another scdivad" in second.log()
        harness.check_good(second)
        jobs.wait(first, jobs.start(first, jobs.table(2)))


def test_a_damaged_database_is_left_alone_and_all_else_is_served():
    data = harness.scratch()
    with Daemon(harness.small_model(), data=data) as d:
        jobs.wait(d, jobs.start(d, jobs.table(2)))
    path = os.path.join(data, "jobs.db")
    with open(path, "r+b") as f:
        f.write(b"this is no database" * 20)
    with open(path, "rb") as f:
        bytes_ = f.read()
    with Daemon(harness.small_model(), data=data) as d:
        check_problem(d.get("/v1/jobs"), 503, "unavailable")
        harness.check_good(d)
    with open(path, "rb") as f:
        assert f.read() == bytes_
