"""test_auth.py - with --keys nobody gets in without a bearer token whose hash is in the file."""
import hashlib
import os

import harness
from harness import Daemon, check_problem, refused

TOKEN = "correct-horse-battery-staple"
OTHER = "dGhlIG90aGVy+/=="


def keys_file(content=None):
    path = os.path.join(harness.scratch(), "keys")
    if content is None:
        content = "# who may come in\n\n" + "".join(
            f"{hashlib.sha256(t.encode()).hexdigest()} {name}\n"
            for t, name in ((TOKEN, "portal"), (OTHER, "lims")))
    with open(path, "w", encoding="utf-8") as f:
        f.write(content)
    os.chmod(path, 0o600)
    return path


_flags = []


def daemon():
    if not _flags:
        _flags.extend(["--keys", keys_file()])
    return harness.shared(flags=_flags)


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def test_a_right_token_is_let_in():
    for token in (TOKEN, OTHER):
        answer = daemon().post("/v1/embeddings", harness.demo_request(1), bearer(token))
        assert answer.status == 200, answer
    lower = {"authorization": f"bearer {TOKEN}"}
    assert daemon().post("/v1/embeddings", harness.demo_request(1), lower).status == 200


def test_no_token_or_a_wrong_one_is_401_and_says_how():
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    for headers in ({}, bearer("wrong"), bearer(""), bearer(TOKEN + "x"), bearer(TOKEN[:-1]),
                    bearer(digest), bearer("a" * 4000), {"Authorization": TOKEN},
                    {"Authorization": f"Basic {TOKEN}"}, {"Authorization": ""}):
        answer = daemon().post("/v1/embeddings", harness.demo_request(1), headers)
        check_problem(answer, 401, "unauthorized")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer"), answer


def test_every_route_but_the_probes_is_behind_the_door():
    d = daemon()
    for path in ("/v1/models", "/v1/models/small"):
        check_problem(d.get(path), 401, "unauthorized")
        assert d.get(path, bearer(TOKEN)).status == 200
    check_problem(d.post("/v1/genes", {"genes": ["LYZ"]}), 401, "unauthorized")
    for path in ("/livez", "/readyz"):
        assert d.get(path).status == 200, path


def test_an_upload_without_a_token_is_refused_before_it_is_read():
    d = daemon()
    got = harness.raw(d, harness.HEAD + b"Content-Length: 60000000\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 401"), got
    d.check_alive()


def test_neither_tokens_nor_expression_values_reach_the_log():
    values = [1234567, 7654321]
    flags = (*daemon_flags(), "--log-level", "debug")
    with Daemon(harness.small_model(), flags=flags) as d:
        genes = harness.demo_body()["genes"][:2]
        body = {"cells": [{"genes": genes, "values": values}]}
        assert d.post("/v1/embeddings", body, bearer(TOKEN)).status == 200
        d.post("/v1/embeddings", body, bearer("a-wrong-secret"))
        body["cells"][0]["values"] = [1234567, -7654321]
        d.post("/v1/embeddings", body, bearer(TOKEN))
    log = d.log()
    for secret in (TOKEN, "a-wrong-secret", "1234567", "7654321"):
        assert secret not in log, f"{secret} is in the log"


def daemon_flags():
    daemon()
    return _flags


def test_keys_allow_a_bind_outside_loopback():
    with Daemon(harness.small_model(), flags=("--listen", "0.0.0.0:0", *daemon_flags())) as d:
        check_problem(d.get("/v1/models"), 401, "unauthorized")
        assert d.get("/v1/models", bearer(TOKEN)).status == 200


def test_a_bad_keys_file_is_refused_with_its_line():
    digest = hashlib.sha256(b"x").hexdigest()
    for content in ("", "# nothing\n", f"# one\n{digest[:-1]} short\n", f"# one\n{digest}\n",
                    f"{digest} a\n{digest} b\n", "# one\nplaintext-token name\n"):
        path = keys_file(content)
        said = refused(("--model", harness.small_model(), "--listen", "127.0.0.1:0", "--data",
                        harness.scratch(), "--keys", path))
        assert path in said, said
        assert "plaintext-token" not in said, "a token must not be printed"
    assert "/nonexistent" in refused(("--model", harness.small_model(), "--listen", "127.0.0.1:0",
                                      "--keys", "/nonexistent", "--data", harness.scratch()))
