"""test_oip.py - /v2, the Open Inference Protocol: what KServe's and Triton's clients rely on, that
its results are those of /v1 to the byte, and that no length a client sends is believed.
"""
import gzip
import json
import os

import numpy as np

import harness
import models
import oip
from harness import Daemon, Skip, check_problem
from oip import HEADER, pack, unpack

FP32 = ("--precision", "fp32")
LABELS = [{"label": "B", "ontology_id": "CL:0000236"}, {"label": "CD4 T", "ontology_id": None},
          "CD8 T", {"label": "NK \"bright\"", "ontology_id": "CL:0000938"}, "m\u00e9gakaryocyte"]
INFER = "/v2/models/headed/infer"
LOG1P = {"input": "log1p_cp10k"}


def headed():
    """The small model with one annotation head. A path."""
    path = harness.scratch("headed")
    if not os.path.exists(path):
        models.write_model(path, harness.demo_body()["genes"], MAX_GENE_LEN=300)
        models.write_head(path, "coarse", LABELS, seed=3)
    return path


def daemon():
    return harness.shared(headed, FP32)


def csr(n=40):
    """The real cells as tensors of a CSR matrix."""
    body = harness.demo_body()
    m = body["matrix"]
    last = m["indptr"][n]
    return {"genes": ("BYTES", body["genes"]), "indptr": ("INT64", m["indptr"][:n + 1]),
            "indices": ("INT32", m["indices"][:last]), "values": ("FP32", m["data"][:last])}


def dense(n=40):
    t = csr(n)
    indptr, indices, values = (t[k][1] for k in ("indptr", "indices", "values"))
    matrix = np.zeros((n, len(t["genes"][1])), np.float32)
    for c in range(n):
        row = slice(indptr[c], indptr[c + 1])
        matrix[c, indices[row]] = values[row]
    return {"genes": t["genes"], "matrix": ("FP32", matrix)}


def own_genes(n=40):
    t = csr(n)
    names = t["genes"][1]
    return {"genes": ("BYTES", [names[i] for i in t["indices"][1]]), "indptr": t["indptr"],
            "values": t["values"]}


def infer(d, inputs, outputs=(), binary=(), path=INFER, headers=None, parameters=None, **fields):
    """An inference that must succeed: (tensors, the rest of the answer)."""
    body, own = pack(inputs, outputs, binary, parameters={**LOG1P, **(parameters or {})}, **fields)
    answer = d.post(path, body, {**own, **(headers or {})})
    assert answer.status == 200, answer
    return unpack(answer)


def refused(d, body, headers, status, name, detail, pointer=None, path=INFER):
    problem = check_problem(d.post(path, body, headers), status, name, pointer, detail)
    assert problem["error"] == problem["detail"], problem
    return problem


def v1(d, route, n=40, **fields):
    answer = d.post("/v1/" + route, harness.demo_request(n, **fields))
    assert answer.status == 200, answer
    return answer


# ---- health and metadata -------------------------------------------------------------------------

def test_the_server_and_its_model_say_that_they_are_ready():
    d = daemon()
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/headed/ready",
                 "/v2/models/headed/versions/1/ready"):
        answer = d.get(path)
        assert answer.status == 200 and answer.json().get("ready", answer.json().get("live")), path
        assert d.request("HEAD", path).status == 200
    for path in ("/v2", "/v2/"):
        about = d.get(path).json()
        assert about["name"] and about["version"], about
        assert "binary_tensor_data" in about["extensions"], about
    index = d.post("/v2/repository/index", b"").json()
    assert index == [{"name": "headed", "version": "1", "state": "READY", "reason": ""}]


def test_a_model_describes_its_tensors():
    d = daemon()
    about = d.get("/v2/models/headed").json()
    assert about == d.get("/v2/models/headed/versions/1").json()
    assert about["name"] == "headed" and about["versions"] == ["1"] and about["platform"]
    assert about["properties"]["digest"] == models.digest(headed())
    inputs = {t["name"]: (t["datatype"], t["shape"]) for t in about["inputs"]}
    outputs = {t["name"]: (t["datatype"], t["shape"]) for t in about["outputs"]}
    assert inputs["genes"] == ("BYTES", [-1]) and inputs["matrix"] == ("FP32", [-1, -1])
    assert outputs["embedding"] == ("FP32", [-1, 48]) and outputs["label"] == ("BYTES", [-1])
    config = d.get("/v2/models/headed/config").json()
    assert [t["name"] for t in config["input"]] == list(inputs), config
    assert {t["name"] for t in config["input"] if not t["optional"]} == {"genes"}, config
    got, _ = infer(d, dense(3))
    assert {n: (t.ndim, n) for n, t in got.items()} == \
        {n: (len(shape), n) for n, (_, shape) in outputs.items()}


def test_a_model_without_heads_has_no_labels():
    with Daemon(harness.small_model(), flags=FP32) as d:
        names = [t["name"] for t in d.get("/v2/models/small").json()["outputs"]]
        assert "embedding" in names and "label" not in names, names
        got, about = infer(d, dense(2), path="/v2/models/small/infer")
        assert list(got) == names and "head" not in about["parameters"], about
        body, headers = pack(dense(2), ["label"], parameters=LOG1P)
        refused(d, body, headers, 422, "invalid", "has no output .{1,2}label", "/outputs/0/name",
                "/v2/models/small/infer")


def test_unknown_models_versions_and_routes_are_404_in_both_languages():
    d = daemon()
    for path in ("/v2/models/nope", "/v2/models/headed/versions/2", "/v2/models/nope/ready",
                 "/v2/nothing"):
        problem = check_problem(d.get(path), 404, "not-found")
        assert problem["error"] == problem["detail"], problem
    body, headers = pack(dense(1), parameters=LOG1P)
    refused(d, body, headers, 404, "not-found", "headed", path="/v2/models/nope/infer")
    assert "error" not in check_problem(d.get("/v1/models/nope"), 404, "not-found")


# ---- inference -----------------------------------------------------------------------------------

def test_every_form_gives_the_bytes_of_v1():
    with Daemon(headed(), flags=FP32) as d:
        whole = {"genes", "matrix", "indptr", "indices", "values"}
        first, _ = infer(d, dense(), [("embedding", True)], whole)
        want = v1(d, "embeddings", encoding="base64").embeddings()
        assert first["embedding"].tobytes() == want.tobytes()
        for inputs in (dense(), csr(), own_genes()):
            for binary in ((), ("genes",), whole - {"genes"}, whole):
                for out in (False, True):
                    got, about = infer(d, inputs, [("embedding", out)], binary)
                    assert got["embedding"].tobytes() == want.tobytes(), (list(inputs), binary)
                    assert about["parameters"]["cached"] == 40, about


def test_labels_are_those_of_v1():
    d = daemon()
    got, about = infer(d, csr(), parameters={"top_k": 2}, id="r1")
    answer = v1(d, "annotations", top_k=2).json()
    assert about["id"] == "r1" and about["model_name"] == "headed" and about["model_version"] == "1"
    assert about["parameters"]["head_digest"] == answer["head"]["digest"]
    assert about["parameters"]["threshold"] == answer["head"]["threshold"]
    assert about["parameters"]["model_digest"] == answer["model"]["digest"]
    items = answer["data"]
    for name in ("label", "unknown", "tokens", "genes_known", "genes_unknown", "genes_truncated",
                 "genes_unused"):
        assert got[name].tolist() == [item[name] for item in items], name
    assert got["ontology_id"].tolist() == [item["ontology_id"] or "" for item in items]
    assert got["probability"].tolist() == [np.float32(i["probability"]) for i in items]
    assert got["top_labels"].tolist() == [[t["label"] for t in i["top"]] for i in items]
    assert got["top_probabilities"].shape == (40, 2)
    assert got["embedding"].tobytes() == v1(d, "embeddings").embeddings().tobytes()


def test_what_is_asked_for_is_what_is_computed():
    with Daemon(headed(), flags=FP32) as d:
        computed = lambda: d.metric("scdiva_engine_cells_total")
        before = computed()  # warming up
        got, about = infer(d, csr(5), ["tokens", "genes_unknown"])
        assert computed() == before and list(got) == ["tokens", "genes_unknown"], about
        infer(d, csr(5), ["embedding"])
        assert computed() == before + 5
        infer(d, csr(5), ["probability", "label"])
        assert computed() == before + 10
        _, about = infer(d, csr(6), ["label", "embedding"])
        assert computed() == before + 12 and about["parameters"]["cached"] == 5, about
        assert d.metric("scdiva_requests_total", route="v2_infer", code="200") == 4


def test_a_repeated_body_is_answered_from_memory_with_its_header():
    second = harness.scratch("headed_too")
    models.write_model(second, harness.demo_body()["genes"], seed=8, MAX_GENE_LEN=300)
    models.write_head(second, "coarse", LABELS, seed=4)
    with Daemon(headed(), second, flags=FP32) as d:
        body, headers = pack(csr(3), [("label", True), "probability"], ("values",),
                             parameters=LOG1P)
        answers = [d.post(INFER, body, headers) for _ in range(4)]
        for answer in answers[1:]:
            assert answer.headers[HEADER] == answers[1].headers[HEADER], answer
            assert answer.body == answers[1].body
        assert unpack(answers[0])[0]["label"].tolist() == unpack(answers[3])[0]["label"].tolist()
        other = unpack(d.post("/v2/models/headed_too/infer", body, headers))
        assert other[1]["model_name"] == "headed_too", other
        shorter = {**headers, HEADER: str(int(headers[HEADER]) - 1)}
        refused(d, body, shorter, 400, "malformed-json", "line 1")
        same = d.post("/v2/models/headed/versions/1/infer", body, headers)
        assert unpack(same)[0]["probability"].tolist() == \
            unpack(answers[0])[0]["probability"].tolist()


def test_heads_are_chosen_and_named():
    path = harness.scratch("two_heads")
    models.write_model(path, harness.demo_body()["genes"], MAX_GENE_LEN=300)
    models.write_head(path, "one", ["x", "y"], seed=4)
    models.write_head(path, "two", LABELS, seed=5)
    with Daemon(path, flags=FP32) as d:
        route = "/v2/models/two_heads/infer"
        got, about = infer(d, csr(2), ["label"], path=route, parameters={"head": "one"})
        assert about["parameters"]["head"] == "one" and set(got["label"]) <= {"x", "y"}, about
        body, headers = pack(csr(2), parameters=LOG1P)
        refused(d, body, headers, 422, "invalid", "one.*two", "/parameters/head", route)
        got, about = infer(d, csr(2), ["embedding"], path=route, parameters={"head": "one"})
        assert "\"head\" is not known here" in about["parameters"]["warnings"], about
        for parameters, status, name, detail in (
                ({"head": "three"}, 404, "not-found", "one"),
                ({"head": 3}, 422, "invalid", "/parameters/head"),
                ({"head": "one", "top_k": 3}, 422, "invalid", "has 2 labels"),
                ({"head": "one", "threshold": 2}, 422, "invalid", "from 0")):
            body, headers = pack(csr(2), ["label"], parameters={**LOG1P, **parameters})
            refused(d, body, headers, status, name, detail, path=route)


def test_bad_cells_fail_the_request_or_are_skipped():
    d = daemon()
    inputs = dense(4)
    matrix = inputs["matrix"][1]
    matrix[1, 7], matrix[3] = np.nan, 0
    body, headers = pack(inputs, ["embedding"], ("matrix",), parameters=LOG1P)
    columns = matrix.shape[1]
    problem = refused(d, body, headers, 422, "invalid", "cell 1: value 7 is NaN",
                      f"/inputs/1/data/{columns + 7}")
    assert f"/inputs/1/data/{3 * columns}" in [e["pointer"] for e in problem["errors"]], problem
    got, about = infer(d, inputs, binary=("matrix",), parameters={"on_error": "skip"})
    assert [bool(e) for e in got["error"]] == [False, True, False, True], got["error"]
    assert np.isnan(got["embedding"][[1, 3]]).all() and np.isfinite(got["embedding"][[0, 2]]).all()
    assert got["label"][[1, 3]].tolist() == ["", ""] and np.isnan(got["probability"][1])
    assert about["parameters"]["cells"] == 2 and "cells-skipped" in about["parameters"]["warnings"]
    want = v1(d, "embeddings").embeddings()
    assert got["embedding"][[0, 2]].tobytes() == want[[0, 2]].tobytes()


def test_totals_genes_and_fractions_mean_what_they_mean_in_v1():
    d = daemon()
    genes = harness.demo_body()["genes"][:3]
    cell = {"genes": genes + ["NOT_A_GENE"], "values": [2, 5, 1, 2], "total": 90}
    want = d.embed({"cells": [cell]})
    inputs = {"genes": ("BYTES", cell["genes"]), "values": ("INT32", cell["values"]),
              "totals": ("FP64", [90])}
    got, about = infer(d, inputs, parameters={"input": "counts"})
    assert got["embedding"].tobytes() == want.embeddings().tobytes()
    assert got["genes_unknown"].tolist() == [1] and about["parameters"]["genes_unknown"] == 1
    inputs["values"] = ("FP32", [1.5, 1, 1, 1])
    body, headers = pack(inputs)
    refused(d, body, headers, 422, "invalid", "whole number", "/inputs/1/data/0")


def test_compressed_bodies_and_the_client_s_own_request_id():
    d = daemon()
    body, headers = pack(dense(3), [("embedding", True)], ("genes", "matrix"), parameters=LOG1P)
    headers.update({"Content-Encoding": "gzip", "X-Request-Id": "lims-7"})
    answer = d.post(INFER, gzip.compress(body), headers)
    assert answer.status == 200 and answer.headers["X-Request-Id"] == "lims-7", answer
    assert "infer;dur=" in answer.headers["Server-Timing"]
    assert unpack(answer)[0]["embedding"].shape == (3, 48)


def test_deadlines_and_admission_are_those_of_v1():
    cells = harness.slow_cells(30)
    inputs = {"genes": ("BYTES", sum((c["genes"] for c in cells), [])),
              "values": ("FP32", sum((c["values"] for c in cells), [])),
              "indptr": ("INT64", [1200 * i for i in range(31)])}
    route, wanted = "/v2/models/slow/infer", ["embedding"]
    with Daemon(harness.slow_model(), flags=FP32 + ("--max-queue-tokens", "24000")) as d:
        body, headers = pack(inputs, wanted)
        refused(d, body, headers, 413, "too-large", "36000", path=route)
        few = {"genes": ("BYTES", inputs["genes"][1][:12000]), "indptr": ("INT64", inputs[
            "indptr"][1][:11]), "values": ("FP32", inputs["values"][1][:12000])}
        for parameters in ({"timeout": 1000}, {"timeout_ms": 1}):
            body, headers = pack(few, wanted, parameters=parameters)
            refused(d, body, headers, 504, "deadline-exceeded", "", path=route)


def test_keys_guard_models_and_leave_probes_open():
    keys = harness.scratch("oip.keys")
    made = harness.subprocess.run(harness.scdiva() + ["keys", "make", "me", "--keys", keys],
                                  check=True, capture_output=True, text=True,
                                  env=harness.clean_environment())
    token = [w for w in made.stdout.split() if len(w) > 30][0]
    with Daemon(headed(), flags=FP32 + ("--keys", keys)) as d:
        for path in ("/v2", "/v2/health/live", "/v2/health/ready"):
            assert d.get(path).status == 200, path
        body, headers = pack(csr(1), ["label"], parameters=LOG1P)
        problem = refused(d, body, headers, 401, "unauthorized", "Bearer")
        assert problem["error"]
        check_problem(d.get("/v2/models/headed"), 401, "unauthorized")
        check_problem(d.post("/v2/repository/index", b""), 401, "unauthorized")
        mine = {"Authorization": "Bearer " + token}
        assert d.post(INFER, body, {**headers, **mine}).status == 200
        assert d.get("/v2/models/headed", mine).status == 200


# ---- what a stranger may send --------------------------------------------------------------------

def test_lengths_that_lie_are_refused():
    d = daemon()
    body, headers = pack(dense(2), ["embedding"], ("genes", "matrix"), parameters=LOG1P)
    n = int(headers[HEADER])
    assert d.post(INFER, body, headers).status == 200
    for length in ("x", "-1", "1e3", "", "0x10", str(len(body) + 1), "9" * 40, str(2**64 + n)):
        refused(d, body, {**headers, HEADER: length}, 400, "bad-request", HEADER)
    for length in (0, 1, n - 1):
        refused(d, body, {**headers, HEADER: str(length)}, 400, "malformed-json", "line 1")
    refused(d, body, {**headers, HEADER: str(n + 1)}, 400, "malformed-json", "nothing after")
    refused(d, body[:-1], headers, 400, "bad-request", "left for it",
            "/inputs/1/parameters/binary_data_size")
    refused(d, body + b"x", headers, 400, "bad-request", "1 bytes behind the JSON and the binary")
    without = {k: v for k, v in headers.items() if k != HEADER}
    for cut in (body, body[:n]):
        refused(d, cut, without, 400, "bad-request", "needs the header",
                "/inputs/0/parameters/binary_data_size")
    refused(d, body[:n], {**headers, HEADER: str(n)}, 400, "bad-request", "has 0 left")


def mutated(change, tail=b""):
    """A small good request, changed; its body and headers."""
    request = {"inputs": [{"name": "genes", "shape": [2], "datatype": "BYTES",
                           "data": harness.demo_body()["genes"][:2]},
                          {"name": "matrix", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}],
               "outputs": [{"name": "embedding"}]}
    change(request)
    head = json.dumps(request).encode()
    return head + tail, {HEADER: str(len(head))}


def test_shapes_types_and_names_that_make_no_sense_are_refused():
    d = daemon()
    assert d.post(INFER, *mutated(lambda r: None)).status == 200

    def set_matrix(**members):
        return lambda r: r["inputs"][1].update(members)

    def binary(n, **members):
        def change(r):
            del r["inputs"][1]["data"]
            r["inputs"][1].update(members, parameters={"binary_data_size": n})
        return change

    def again(r):
        r["inputs"].append(r["inputs"][1])

    huge = 2**32
    cases = [
        (set_matrix(shape=[huge, huge]), b"", "can be counted"),
        (set_matrix(shape=[2**53, 2]), b"", "cells"),
        (set_matrix(shape=[2**60, 2]), b"", "whole number"),
        (set_matrix(shape=[-1, 2]), b"", "whole number from 0"),
        (set_matrix(shape=[-1, -2]), b"", "whole number from 0"),
        (set_matrix(shape=[0, 2], data=[]), b"", "no cells"),
        (set_matrix(shape=[1] * 9), b"", "9 dimensions"),
        (set_matrix(shape="12"), b"", "must be an array"),
        (set_matrix(shape=[[1], 2]), b"", "must be a number"),
        (set_matrix(datatype="FP128"), b"", "no datatype"),
        (set_matrix(datatype=None), b"", "must be a string"),
        (set_matrix(datatype="BOOL"), b"", "not BOOL"),
        (set_matrix(data=[[[[[[1]]]]]]), b"", "must be a number"),
        (set_matrix(data={"a": 1}), b"", "must be an array"),
        (set_matrix(data=[1, 2, 3]), b"", "has 3 elements, the shape says 2"),
        (set_matrix(name="cells"), b"", "no input"),
        (set_matrix(name=""), b"", "no input"),
        (again, b"", "is input 1 already"),
        (binary(8, shape=[1, 2]), b"12345678", "NaN|whole number|a count"),
        (binary(4), b"1234", "is 4, but the shape says 2 elements of 4"),
        (binary(2**53), b"1234", "left for it"),
        (binary(0, shape=[0, 2]), b"", "no cells"),
        (binary(0, shape=[2**40, 2]), b"", "cells|but the shape says"),
        (lambda r: r.update(inputs=[]), b"", "genes"),
        (lambda r: r.update(inputs=[{}] * 20), b"", "20 errors"),
        (lambda r: r.update(outputs=[{"name": "embedding"}] * 2), b"", "output 0 already"),
        (lambda r: r.update(outputs=[{"name": str(i)} for i in range(70)]), b"", "no output|64"),
        (lambda r: r.update(parameters={"binary_data_output": 1}), b"", "must be a boolean"),
        (lambda r: r["inputs"][0].update(data=["\u0000", "b" * 2000]), b"", "more than"),
    ]
    for change, tail, detail in cases:
        answer = d.post(INFER, *mutated(change, tail))
        assert answer.status in (400, 413, 422), (detail, answer)
        problem = check_problem(answer, answer.status, answer.json()["type"].split(":")[-1],
                                detail=detail)
        assert problem["error"] == problem["detail"], problem
    deep = b'{"inputs":' + b"[" * 100000
    refused(d, deep, {}, 400, "malformed-json", "nesting")
    d.check_alive()
    assert d.post(INFER, *mutated(lambda r: None)).status == 200


def test_only_json_and_bytes_are_taken():
    d = daemon()
    body, _ = pack(dense(1), ["embedding"], parameters=LOG1P)
    for kind in ("application/json", "application/octet-stream", "application/json; charset=utf-8"):
        assert d.post(INFER, body, {"Content-Type": kind}).status == 200, kind
    refused(d, body, {"Content-Type": "text/plain"}, 415, "unsupported-media-type", "octet-stream")
    check_problem(d.post("/v1/embeddings", body, {"Content-Type": "application/octet-stream"}), 415,
                  "unsupported-media-type")


# ---- a client that nobody here wrote -------------------------------------------------------------

def test_triton_s_own_client_is_served():
    try:
        import tritonclient.http as triton
    except ImportError:
        raise Skip("tritonclient is not installed (pip install 'tritonclient[http]')")
    d = daemon()
    client = triton.InferenceServerClient(f"127.0.0.1:{d.port}")
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("headed", "1") and not client.is_model_ready("nope")
    assert client.get_model_metadata("headed")["name"] == "headed"
    assert client.get_model_config("headed")["max_batch_size"] == 0
    assert client.get_model_repository_index()[0]["state"] == "READY"
    want = v1(d, "embeddings").embeddings()

    def tensor(name, datatype, array, binary):
        array = np.asarray(array, object if datatype == "BYTES" else oip.TYPES[datatype])
        t = triton.InferInput(name, list(array.shape), datatype)
        t.set_data_from_numpy(array, binary_data=binary)
        return t

    for inputs in (dense(), csr(), own_genes()):
        for binary in (True, False):
            tensors = [tensor(name, kind, array, binary) for name, (kind, array) in inputs.items()]
            got = client.infer("headed", tensors, parameters=LOG1P)
            assert got.as_numpy("embedding").tobytes() == want.tobytes()
            assert len(got.as_numpy("label")) == 40
    try:
        client.infer("headed", [tensor("genes", "BYTES", ["A"], True)])
    except triton.InferenceServerException as error:
        assert "matrix" in error.message(), error
    else:
        raise AssertionError("half a request was taken")
