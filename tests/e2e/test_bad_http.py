"""test_bad_http.py - whatever a client does on the wire, it harms nobody but itself."""
import gzip
import json
import os
import select
import socket
import time

import harness
from harness import (Daemon, HEAD, check_good as good, check_problem, raw, receive,
                     shared as daemon)

A, B = harness.demo_body()["genes"][:2]
MB = 1024 * 1024


def cell(values, genes=(A, B), **fields):
    return {"genes": list(genes), "values": values, **fields}


def small_daemon():
    """Bodies up to 1 MiB"""
    return daemon(flags=("--max-body-mb", "1"))


# ---- bodies --------------------------------------------------------------------------------------

def test_a_body_over_the_limit_is_refused_from_its_headers_alone():
    d = daemon()
    for expect in (b"", b"Expect: 100-continue\r\n"):
        for length in (b"100000000000", b"9223372036854775807"):
            got = raw(d, HEAD + expect + b"Content-Length: " + length + b"\r\n\r\n")
            assert got.startswith(b"HTTP/1.1 413"), got
            assert b"application/problem+json" in got and b"urn:scdiva:problem:too-large" in got
        got = raw(d, HEAD + expect + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n")
        assert got[9:12] in (b"413", b"400"), got  # may be turned away before our handler
    good(d)


def test_expect_100_continue_within_the_limit_is_answered_and_served():
    d = daemon()
    body = json.dumps({"cells": [cell([1, 2])]}).encode()
    with d.socket() as s:
        s.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert receive(s).startswith(b"HTTP/1.1 100")
        s.sendall(body)
        assert receive(s).startswith(b"HTTP/1.1 200")


def test_a_body_a_little_over_the_limit_gets_413_though_it_is_being_sent():
    d = small_daemon()
    for extra in (1, 3 * MB):
        body = b" " * (MB + extra)
        check_problem(d.post("/v1/embeddings", body), 413, "too-large", detail="1048576|1 MiB")
    good(d)


def test_curl_gets_its_413_for_a_body_over_the_limit():
    d = small_daemon()
    path = os.path.join(harness.scratch(), "body")
    with open(path, "wb") as f:
        f.write(b" " * 3 * MB)
    for expect in ((), ("-H", "Expect:")):
        out = d.curl("/v1/embeddings", "-H", "Content-Type: application/json", *expect,
                     "--data-binary", "@" + path)
        assert json.loads(out)["status"] == 413, out
    good(d)


CHUNK = b"10000\r\n" + b" " * 65536 + b"\r\n"


def test_a_chunked_upload_over_the_limit_gets_413():
    d = small_daemon()
    with d.socket(10 * harness.SLOW) as s:
        s.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK * 20 + b"0\r\n\r\n")
        got = receive(s)
    assert got.startswith(b"HTTP/1.1 413") and b"too-large" in got, got
    good(d)


def test_a_chunked_upload_without_end_takes_no_memory_and_is_cut_off():
    d = small_daemon()
    before, sent = d.status_kb("VmHWM"), 0
    with d.socket(10 * harness.SLOW) as s:
        try:
            s.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            while sent < 200 * MB and not select.select([s], [], [], 0)[0]:
                s.sendall(CHUNK)
                sent += 65536
        except ConnectionError:
            pass  # cut off
    grown = d.status_kb("VmHWM") - before
    assert grown < 16 * 1024, f"grew by {grown} kB"
    good(d)
    assert sent < 200 * MB, f"{sent // MB} MiB were swallowed where 1 MiB is allowed"


def test_a_chunked_upload_within_the_limit_is_served():
    d = small_daemon()
    body = json.dumps({"cells": [cell([1, 2])]}).encode()
    with d.socket() as s:
        s.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for i in range(0, len(body), 7):
            part = body[i:i + 7]
            s.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        s.sendall(b"0\r\n\r\n")
        got = receive(s)
    assert got.startswith(b"HTTP/1.1 200"), got


GZIP = {"Content-Encoding": "gzip"}


def test_a_gzip_bomb_gets_413_and_takes_no_memory():
    d = small_daemon()
    bomb = gzip.compress(b" " * (400 * MB), 9)
    assert len(bomb) < MB
    before = d.status_kb("VmHWM")
    check_problem(d.post("/v1/embeddings", bomb, GZIP), 413, "too-large")
    grown = d.status_kb("VmHWM") - before
    assert grown < 32 * 1024, f"grew by {grown} kB"
    good(d)


def test_what_is_not_gzip_though_it_says_so_is_400():
    ok = gzip.compress(json.dumps({"cells": [cell([1, 2])]}).encode())
    for body in (b"", b"plainly not", ok[:-9], ok[:20], ok[:-1] + bytes([ok[-1] ^ 1]),
                 ok[:-6] + bytes([ok[-6] ^ 1]) + ok[-5:]):
        check_problem(daemon().post("/v1/embeddings", body, GZIP), 400, "bad-request")
        good(daemon())


def test_an_encoding_or_type_we_do_not_speak_is_415():
    body = {"cells": [cell([1, 2])]}
    for headers in ({"Content-Encoding": "br"}, {"Content-Encoding": "zstd"},
                    {"Content-Type": "text/plain"}, {"Content-Type": "application/xml"},
                    {"Content-Type": "application/x-www-form-urlencoded"},
                    {"Content-Type": "application/jsonx"}):
        check_problem(daemon().post("/v1/embeddings", body, headers), 415, "unsupported-media-type")
    for kind in ("application/json; charset=utf-8", "application/json;charset=UTF-8",
                 "APPLICATION/JSON"):
        assert daemon().post("/v1/embeddings", body, {"Content-Type": kind}).status == 200, kind
    good(daemon())


# ---- routes --------------------------------------------------------------------------------------

def test_a_wrong_method_is_405_and_names_the_right_ones():
    d = daemon()
    for method, path, allow in (
            ("GET", "/v1/embeddings", "POST"), ("PUT", "/v1/embeddings", "POST"),
            ("DELETE", "/v1/embeddings", "POST"), ("POST", "/livez", "GET"),
            ("POST", "/v1/models", "GET"), ("GET", "/v1/genes", "POST"),
            ("PATCH", "/metrics", "GET"), ("BREW", "/readyz", "GET")):
        answer = d.request(method, path, b"{}" if method != "GET" else None)
        check_problem(answer, 405, "method-not-allowed")
        assert allow in [m.strip() for m in answer.headers["Allow"].split(",")], answer
    good(d)


def test_an_unknown_route_is_404():
    d = daemon()
    for path in ("/nope", "/v1", "/v1/", "/v1/embedding", "/v1/embeddings/", "/v1/embeddings/x",
                 "//v1/embeddings", "/v1/../livez", "/%00", "/livez%00", "/livez%00x",
                 "/v1/embeddings%00/x", "/" + "a" * 2000):
        check_problem(d.post(path, {}), 404, "not-found")
    answer = d.post("/v1/jobs?task=embed%00x&format=csv", b"x", {"Content-Type": "text/csv"})
    check_problem(answer, 422, "invalid", "/task", 'embed%00x.* is no task')
    good(d)


def test_an_unknown_model_is_404_and_names_those_there_are():
    body = {"cells": [cell([1, 2])], "model": "nonesuch"}
    problem = check_problem(daemon().post("/v1/embeddings", body), 404, "not-found")
    assert "nonesuch" in problem["detail"] and "small" in problem["detail"], problem
    check_problem(daemon().get("/v1/models/nonesuch"), 404, "not-found", detail="small")


# ---- clients that misbehave ----------------------------------------------------------------------

def test_what_is_not_http_is_turned_away():
    d = daemon()
    for noise in (b"\0" * 1000, b"hello\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00" * 50,
                  HEAD + b"Content-Length: -5\r\n\r\n", HEAD + b"Content-Length: five\r\n\r\n",
                  b"GET /livez HTTP/9.9\r\n\r\n", HEAD + b"Transfer-Encoding: x\r\n\r\nabc"):
        try:
            with d.socket(2 * harness.SLOW) as s:
                s.sendall(noise)
                got = s.recv(4096)
        except (ConnectionError, socket.timeout):
            got = b""
        assert got[9:12] in (b"", b"400", b"405", b"411", b"413", b"501", b"505"), (noise, got)
    good(d)


def test_headers_without_end_are_bounded():
    d = daemon()
    before = d.status_kb("VmRSS")
    for line in (b"X-Filler: " + b"a" * 1000 + b"\r\n", b"a" * 1010):
        with d.socket(5 * harness.SLOW) as s:
            try:
                s.sendall(b"GET /livez HTTP/1.1\r\n")
                for _ in range(20_000):
                    s.sendall(line)
                    if select.select([s], [], [], 0)[0]:
                        break
                else:
                    raise AssertionError("20 MB of headers were swallowed")
            except ConnectionError:
                pass  # turned away is what we want
    assert d.status_kb("VmRSS") - before < 16 * 1024
    good(d)


def test_a_slow_client_is_served_and_holds_nobody_up():
    d = daemon()
    body = json.dumps({"cells": [cell([1, 2])]}).encode()
    stalled = [d.socket() for _ in range(20)]
    for i, s in enumerate(stalled):
        s.sendall((HEAD + b"Content-Length: 5000\r\n\r\n{")[:20 + 12 * i])
    with d.socket() as s:
        request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
        for i in range(len(request)):
            s.sendall(request[i:i + 1])
            if i % 20 == 0:
                assert d.get("/livez").status == 200
                time.sleep(0.01)
        assert receive(s).startswith(b"HTTP/1.1 200")
    for s in stalled:
        s.close()
    good(d)


def test_clients_that_announce_much_and_send_nothing_lock_nobody_out():
    with Daemon(harness.small_model()) as d:
        held = [d.socket() for _ in range(40)]
        for s in held:
            s.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (64 * MB))
        time.sleep(0.2)
        good(d)
        for s in held:
            s.close()


def test_many_uploads_at_once_do_not_take_all_memory():
    if harness.SLOW > 1:
        raise harness.Skip("sanitizers keep what was freed, and the wait for it is long")
    with Daemon(harness.small_model()) as d:
        held, piece = [d.socket() for _ in range(30)], b" " * (60 * MB)
        for s in held:
            s.settimeout(5 * harness.SLOW)
            try:
                s.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (64 * MB) + piece)
            except OSError:
                pass  # refused, or not read any further: what we want
        grown = d.status_kb("VmRSS") // 1024
        assert grown < 1000, f"{grown} MiB for uploads that are not even complete"
        for s in held:
            s.close()
        end = time.monotonic() + 40 * harness.SLOW
        while d.status_kb("VmRSS") > 200 * 1024 and not d.keeps_freed_memory():
            assert time.monotonic() < end, "the memory does not come back"
            time.sleep(0.1)
        good(d)


def test_a_request_cut_in_the_middle_leaves_nothing_behind():
    d = daemon()
    request = HEAD + b"Content-Length: 100\r\n\r\n" + b'{"cells": [{"genes": ["' + A.encode()
    for n in range(0, len(request), 9):
        with d.socket() as s:
            s.sendall(request[:n])
    good(d)
    assert d.metric("scdiva_queue_tokens") == 0


def test_pipelined_requests_are_answered_in_order():
    d = daemon()
    body = json.dumps({"cells": [cell([1, 2])]}).encode()
    with d.socket() as s:
        s.sendall((HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body) * 3
                  + b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        got = b""
        while chunk := s.recv(65536):
            got += chunk
    assert got.count(b"HTTP/1.1 200") == 4, got


def leave(d, how, n=150):
    """Ask for a lot of work and go; the cells that were computed though nobody waited."""
    body = json.dumps({"cells": harness.slow_cells(n), "encoding": "base64"}).encode()
    before = d.metric("scdiva_engine_cells_total")
    s = d.socket()
    s.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    d.wait_metric("scdiva_queue_tokens", lambda tokens: tokens > 0)
    how(s)
    d.wait_metric("scdiva_queue_tokens", lambda tokens: tokens == 0, timeout=4 * harness.SLOW)
    s.close()
    computed = d.metric("scdiva_engine_cells_total") - before
    assert computed < n, "everything was computed for nobody"
    d.check_alive()
    return computed


def test_the_work_of_a_client_that_shut_its_side_is_dropped():
    with Daemon(harness.slow_model(), flags=("--precision", "fp32", "--threads", "1")) as d:
        leave(d, lambda s: s.shutdown(socket.SHUT_WR))


def test_the_work_of_a_client_that_closed_or_reset_is_dropped():
    with Daemon(harness.slow_model(), flags=("--precision", "fp32", "--threads", "1")) as d:
        leave(d, lambda s: s.close())
        linger_zero = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")

        def reset(s):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_zero)
            s.close()
        leave(d, reset)


def test_work_that_somebody_else_waits_for_stays_when_one_client_leaves():
    with Daemon(harness.slow_model(), flags=("--precision", "fp32", "--threads", "1")) as d:
        cells = harness.slow_cells(12)
        body = json.dumps({"cells": cells, "encoding": "base64"}).encode()
        s = d.socket()
        s.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        d.wait_metric("scdiva_queue_tokens", lambda tokens: tokens > 0)
        t = d.socket()
        t.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.1)
        s.close()
        got = receive(t)
        t.close()
        assert got.startswith(b"HTTP/1.1 200"), got[:300]
