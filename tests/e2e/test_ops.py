"""test_ops.py - what operators and clients rely on: probes, metrics, headers, models, genes."""
import http.client
import json
import os
import re
import signal
import threading
import time

import harness
import models
import reference
from harness import Daemon, check_problem, shared as daemon


# ---- probes --------------------------------------------------------------------------------------

def test_livez_and_readyz_answer_200_to_get_and_head():
    for path in ("/livez", "/readyz"):
        assert daemon().get(path).status == 200
        head = daemon().request("HEAD", path)
        assert head.status == 200 and head.body == b"", head


def test_while_draining_readyz_is_503_and_work_in_flight_is_finished():
    d = Daemon(harness.slow_model(), flags=("--precision", "fp32", "--threads", "1"))
    try:
        results, statuses, refusals = [], set(), []
        cells = harness.slow_cells(max(20 // harness.SLOW, 2))  # within the drain's 30 s
        body = {"cells": cells, "encoding": "base64"}
        client = threading.Thread(target=lambda: results.append(d.post("/v1/embeddings", body)))
        client.start()
        d.wait_metric("scdiva_queue_tokens", lambda tokens: tokens > 0)
        d.process.send_signal(signal.SIGTERM)
        while client.is_alive():
            try:
                answer = d.get("/readyz")
                statuses.add(answer.status)
                if answer.status == 503 and not refusals:
                    check_problem(answer, 503, "unavailable")
                    more = {"cells": harness.slow_cells(1, seed=2)}
                    refusals.append(d.post("/v1/embeddings", more))
                    assert d.get("/livez").status == 200
            except ConnectionError:
                break  # it has gone between two questions
            time.sleep(0.02)
        client.join()
        assert 503 in statuses, statuses
        check_problem(refusals[0], 503, "unavailable")
        assert results and results[0].status == 200, results
        assert d.process.wait(harness.STOP_S) == 0, d.log()
    finally:
        d.kill()


def test_sigint_stops_as_sigterm_does():
    d = Daemon(harness.small_model())
    d.process.send_signal(signal.SIGINT)
    assert d.process.wait(harness.STOP_S) == 0


def test_an_idle_daemon_stops_within_two_seconds_even_with_open_connections():
    d = Daemon(harness.small_model())
    held = [d.socket() for _ in range(5)]
    held[0].sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
    start = time.monotonic()
    d.stop()
    took = time.monotonic() - start
    for s in held:
        s.close()
    assert took < 2 * harness.SLOW, f"{took:.1f} s"


# ---- metrics -------------------------------------------------------------------------------------

def test_the_metrics_have_their_names_and_types():
    d = daemon()
    d.embed(harness.demo_request(2))
    d.get("/nope")
    text = d.get("/metrics").body.decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    want = {"scdiva_requests_total": "counter", "scdiva_request_seconds": "histogram",
            "scdiva_queue_seconds": "histogram", "scdiva_infer_seconds": "histogram",
            "scdiva_queue_tokens": "gauge", "scdiva_batch_tokens": "histogram",
            "scdiva_batch_cells": "histogram", "scdiva_engine_cells_total": "counter",
            "scdiva_engine_tokens_total": "counter", "scdiva_cache_hits_total": "counter",
            "scdiva_cache_misses_total": "counter", "scdiva_cache_coalesced_total": "counter",
            "scdiva_rejected_total": "counter", "scdiva_model_info": "gauge"}
    assert want.items() <= types.items(), {k: types.get(k) for k in want}
    for name in types:
        assert f"# HELP {name} " in text, name
        assert name.startswith(("scdiva_", "process_")), name  # process_*: Prometheus's own custom


def test_requests_are_counted_by_route_and_code():
    d = daemon()
    route = {"route": "embeddings"}
    before = d.metrics()
    d.embed(harness.demo_request(1))
    d.post("/v1/embeddings", b"{")
    d.get("/some/made-up/path?with=query")

    def grown(name, **labels):
        return d.metric(name, **labels) - harness.sum_samples(before, name, labels)

    assert grown("scdiva_requests_total", code="200", **route) == 1
    assert grown("scdiva_requests_total", code="400", **route) == 1
    assert grown("scdiva_requests_total", code="404") == 1
    assert grown("scdiva_request_seconds_count", **route) == 2
    assert "made-up" not in d.get("/metrics").body.decode(), "paths must not become labels"


def test_histograms_add_up():
    d = daemon()
    d.embed(harness.demo_request(3))
    samples = d.metrics()
    for (name, labels), value in samples.items():
        if not name.endswith("_bucket"):
            continue
        rest = tuple(l for l in labels if l[0] != "le")
        total = samples[(name[:-7] + "_count", rest)]
        assert value <= total, (name, labels)
        if dict(labels)["le"] == "+Inf":
            assert value == total, (name, labels)


def test_model_info_names_digest_device_and_precision():
    d = daemon()
    digest = d.embed(harness.demo_request(1)).json()["model"]["digest"]
    found = [dict(labels) for (name, labels) in d.metrics() if name == "scdiva_model_info"]
    assert len(found) == 1 and found[0]["name"] == "small", found
    assert found[0]["digest"] in digest or digest in found[0]["digest"], found
    assert found[0]["device"] and found[0]["precision"] in ("fp32", "bf16"), found


def test_cells_tokens_hits_and_misses_are_counted():
    with Daemon(harness.small_model()) as d:
        before = {k: d.metric(k) for k in (
            "scdiva_engine_cells_total", "scdiva_engine_tokens_total", "scdiva_cache_hits_total",
            "scdiva_cache_misses_total")}
        first = d.embed(harness.demo_request(6)).json()
        d.embed(harness.demo_request(9))
        grown = {k: d.metric(k) - v for k, v in before.items()}
        tokens = sum(i["tokens"] for i in d.embed(harness.demo_request(9)).json()["data"])
        assert first["usage"]["cells"] == 6, first["usage"]
        assert grown["scdiva_engine_cells_total"] == 9, grown
        assert grown["scdiva_engine_tokens_total"] == tokens, (grown, tokens)
        assert grown["scdiva_cache_hits_total"] == 6, grown
        assert grown["scdiva_cache_misses_total"] == 9, grown


# ---- headers -------------------------------------------------------------------------------------

def test_the_request_id_is_echoed_or_made():
    d = daemon()
    given = d.post("/v1/embeddings", harness.demo_request(1), {"X-Request-Id": "abc-123"})
    assert given.headers["X-Request-Id"] == "abc-123", given
    made = [d.get("/livez").headers["X-Request-Id"] for _ in range(2)]
    assert made[0] and made[0] != made[1], made
    problem = d.post("/v1/embeddings", b"{", {"X-Request-Id": "abc-124"})
    assert problem.headers["X-Request-Id"] == "abc-124", problem
    assert "abc-124" in problem.json().get("instance", ""), problem
    odd = d.get("/livez", {"X-Request-Id": "a" * 5000 + "\t<script>"})
    assert odd.status in (200, 400, 413, 414, 431), odd
    assert "<script>" not in odd.headers.get("X-Request-Id", ""), odd


def test_server_timing_says_where_the_time_went():
    with Daemon(harness.small_model()) as d:
        miss = d.embed(harness.demo_request(2)).headers["Server-Timing"]
        hit = d.embed(harness.demo_request(2)).headers["Server-Timing"]
    for value in (miss, hit):
        for part in value.split(","):
            assert re.fullmatch(r'\s*[a-z]+(;(dur=[0-9.]+|desc="[^"]*"))*\s*', part), value
    assert "queue" in miss and "infer" in miss, miss
    assert "cache" in hit, hit


def test_what_the_client_sent_along_is_echoed():
    answer = daemon().embed(harness.demo_request(2, sample_id="S 1/ü", external_ids=["a", 7]))
    body = answer.json()
    assert body["sample_id"] == "S 1/ü" and body["external_ids"] == ["a", 7], body
    assert body["object"] == "list" and body["warnings"] == [], body
    assert [i["id"] for i in body["data"]] == harness.demo_body()["ids"][:2], body


def test_ids_of_any_text_come_back_as_they_were():
    ids = ["plain", " space ", "quote\"back\\slash/", "tab\tnew\nline", "ümläut", "日本語",
           "\U0001f9ec", "\x7f", "\u2028", "a" * 200]
    cells = [{**c, "id": i} for c, i in zip(harness.demo_cells(len(ids)), ids)]
    data = daemon().embed(harness.demo_request(cells=cells)).json()["data"]
    assert [item["id"] for item in data] == ids, data


def test_curl_gets_along_with_it():
    fixture = os.path.join(harness.FIXTURES, "pbmc68k_demo.json")
    out = daemon().curl("/v1/embeddings", "-H", "Content-Type: application/json",
                        "--data-binary", "@" + fixture)
    assert len(json.loads(out)["data"]) == 40
    assert daemon().curl("/livez", "-f") is not None


def test_one_connection_serves_many_requests():
    connection = http.client.HTTPConnection("127.0.0.1", daemon().port, timeout=harness.REQUEST_S)
    for i in range(20):
        body = json.dumps(harness.demo_request(1)) if i % 2 else b"{"
        connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        assert response.status == (200 if i % 2 else 400)
        assert connection.sock is not None, "the connection was closed"
    connection.close()


# ---- models, genes, openapi ----------------------------------------------------------------------

def test_models_lists_every_model_with_digest_and_limits():
    other = models.write_model(harness.scratch("second"), ["A", "B"], seed=2)
    with Daemon(harness.small_model(), other) as d:
        listing = d.get("/v1/models").json()
        text = json.dumps(listing)
        names = [m.get("name", m.get("id")) for m in listing["data"]]
        assert names == ["small", "second"], names
        assert "limits" in text, listing
        for name in names:
            one = d.get(f"/v1/models/{name}").json()
            assert re.search(r"[0-9a-f]{64}", json.dumps(one)), one


def rung_model():
    rows = [{"symbol": "LYZ", "ensembl_id": "ENSG00000090382", "aliases": "LZM|TWICE"},
            {"symbol": "CD3D", "ensembl_id": "ENSG00000167286", "aliases": "T3D|TWICE|LYZ"},
            {"symbol": "OLDNAME", "ensembl_id": "ENSG00000000001", "aliases": ""},
            {"symbol": "H2AZ1", "ensembl_id": "ENSG00000164032", "aliases": "OLDNAME|H2AFZ"},
            {"symbol": "AC079767.4", "ensembl_id": "ENSG00000000002"},
            {"symbol": "NKX2_5", "ensembl_id": ""}]
    return models.write_model(harness.scratch("rungs"), rows)


RUNGS = {"LYZ": (2, "symbol"), "ENSG00000090382": (2, "ensembl_id"),
         "ENSG00000090382.11": (2, "versioned"), "LYZ_ENSG00000090382": (2, "composite"),
         "LZM": (2, "alias"), "T3D": (3, "alias"), "TWICE": (None, "ambiguous"),
         "OLDNAME": (4, "symbol"), "H2AFZ": (5, "alias"), "AC079767.4": (6, "symbol"),
         "NKX2_5": (7, "symbol"), "NOSUCH": (None, "unknown"), "lyz": (None, "unknown"),
         "ENSG00000099999": (None, "unknown"), "ENSG00000099999.1": (None, "unknown"),
         "": (None, "unknown"), "AC079767": (None, "unknown")}


def test_genes_resolve_by_the_first_rung_that_knows_them():
    path = rung_model()
    with Daemon(path) as d:
        answer = d.post("/v1/genes", {"genes": list(RUNGS)})
        assert answer.status == 200, answer
        items = answer.json()["data"]
    genes = reference.Genes(path + "/genes.tsv")
    assert len(items) == len(RUNGS), answer
    for item, (name, (token, rung)) in zip(items, RUNGS.items()):
        assert genes.resolve(name) == (token, rung), f"the reference: {genes.resolve(name)}"
        assert item["rung"] == rung, f"{name}: {item}"
        assert item.get("token") == token, f"{name}: {item}"


def test_the_openapi_document_is_served_and_every_path_in_it_answers():
    d = daemon()
    answer = d.get("/openapi.json")
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("application/json")
    document = answer.json()
    assert document["openapi"].startswith("3.1"), document["openapi"]
    assert "/v1/embeddings" in document["paths"] and "/livez" in document["paths"]
    job = d.request("POST", "/v1/jobs?task=embed&format=csv", b"x", {"Content-Type": "text/csv"})
    for path, methods in document["paths"].items():
        concrete = path.replace("{name}", "small").replace("{version}", "1")
        concrete = concrete.replace("{id}", job.json()["id"])
        for method in methods:
            if method in ("get", "post"):
                body = {} if method == "post" else None
                got = d.post(concrete, body) if method == "post" else d.get(concrete)
                assert got.status not in (404, 405, 500, 501), f"{method} {concrete}: {got}"
    references = re.findall(r'"\$ref": ?"(#[^"]*)"', answer.body.decode())
    for reference_ in set(references):
        at = document
        for step in reference_[2:].split("/"):
            at = at[step.replace("~1", "/").replace("~0", "~")]


def test_openapi_names_what_embeddings_may_answer():
    d = daemon()
    document = d.get("/openapi.json").json()
    responses = document["paths"]["/v1/embeddings"]["post"]["responses"]
    assert {"200", "400", "413", "422", "429"} <= set(responses), responses
