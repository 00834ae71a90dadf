"""test_bad_input.py - whatever a body says, the answer names what is wrong and where."""
import json
import time

import harness
from harness import check_good as good, check_problem, shared as daemon

GENES = harness.demo_body()["genes"]
A, B, C = GENES[:3]


def cell(values, genes=(A, B), **fields):
    return {"genes": list(genes), "values": values, **fields}


def refuse(body, pointer=None, detail=None, status=422, name="invalid"):
    problem = check_problem(daemon().post("/v1/embeddings", body), status, name, pointer, detail)
    good(daemon())
    return problem


def refuse_cell(bad, pointer, detail=None, **fields):
    """As the second of two cells, so that pointers must count."""
    refuse({"cells": [cell([1, 2]), bad], **fields}, "/cells/1" + pointer, detail)


# ---- JSON ----------------------------------------------------------------------------------------

def test_malformed_json_is_400_with_line_and_column():
    problem = refuse(b'{"cells":\n [{"genes": ["A",], "values": [1]}]}', status=400,
                     name="malformed-json")
    assert "line 2" in problem["detail"] and "column" in problem["detail"], problem


def test_every_way_of_not_being_json_is_400():
    ok = json.dumps({"cells": [cell([1, 2])]})
    bad = [b"", b" ", b"{", b"null x", b"{'cells': 1}", ok[:-1].encode(), ok.encode() + b"}",
           ok.encode() + b"\0", ok.replace("1", "01").encode(), ok.replace("1", "+1").encode(),
           ok.replace("1", ".5").encode(), ok.replace("1", "1.").encode(),
           ok.replace("1", "0x1").encode(), ok.replace("1", "NaN").encode(),
           ok.replace("1", "Infinity").encode(), ok.replace("1", "-Infinity").encode(),
           ok.replace("1", "nan").encode(), ok.replace("1", "1e").encode(),
           ok.replace("[1", "[,1").encode(), ok.replace("2]", "2,]").encode(),
           ok.replace(A, A + "\\x").encode(), ok.replace(A, A + "\t").encode(),
           ok.replace(A, A + "\\u12").encode(), b"// comment\n" + ok.encode(), b"\xff" * 100]
    for body in bad:
        refuse(body, status=400, name="malformed-json")


def test_invalid_utf_8_is_400():
    ok = json.dumps({"cells": [cell([1, 2])], "sample_id": "S"}).encode()
    for place in (A.encode(), b"S"):
        for sequence in (b"\xff", b"\xc0\x80", b"\xe2\x82", b"\xed\xa0\x80", b"\xf5\x80\x80\x80"):
            refuse(ok.replace(b'"' + place + b'"', b'"' + place + sequence + b'"'), status=400,
                   name="malformed-json")


def test_deep_nesting_is_400_wherever_it_stands():
    ok = json.dumps({"cells": [cell([1, 2])]})
    for n in (300, 100_000, 2_000_000):
        refuse(b"[" * n, status=400, name="malformed-json")
        refuse(b'{"a":' * n + b"1" + b"}" * n, status=400, name="malformed-json")
        nested = f'{ok[:-1]},"sample_id":{"[" * n}{"]" * n}}}'
        refuse(nested.encode(), status=400, name="malformed-json", detail="nest|deep|depth")


def test_a_nul_inside_a_name_does_not_cut_it():
    refuse({"cells": [cell([1], [A + "\0x"])]})


def test_wrong_types_are_422_with_a_pointer():
    for body, pointer in (
            ([], ""), (5, ""), ("text", ""), (None, ""), ({}, ".*"),
            ({"cells": 5}, "/cells"), ({"cells": {}}, "/cells"), ({"cells": [5]}, "/cells/0"),
            ({"cells": [None]}, "/cells/0"),
            ({"cells": [{"values": [1]}]}, "/cells/0(/genes)?"),
            ({"cells": [{"genes": [A]}]}, "/cells/0(/values)?"),
            ({"cells": [cell("12")]}, "/cells/0/values"),
            ({"cells": [{"genes": A, "values": [1]}]}, "/cells/0/genes"),
            ({"cells": [cell([1, 2], [A, 7])]}, "/cells/0/genes/1"),
            ({"cells": [cell([1, 2], [A, None])]}, "/cells/0/genes/1"),
            ({"cells": [cell([1, "2"])]}, "/cells/0/values/1"),
            ({"cells": [cell([1, None])]}, "/cells/0/values/1"),
            ({"cells": [cell([1, True])]}, "/cells/0/values/1"),
            ({"cells": [cell([1, [2]])]}, "/cells/0/values/1"),
            ({"cells": [cell([1, 2], total="9")]}, "/cells/0/total"),
            ({"cells": [cell([1, 2])], "input": "tpm"}, "/input"),
            ({"cells": [cell([1, 2])], "input": 1}, "/input"),
            ({"cells": [cell([1, 2])], "timeout_ms": "soon"}, "/timeout_ms"),
            ({"cells": [cell([1, 2])], "timeout_ms": -1}, "/timeout_ms"),
            ({"cells": [cell([1, 2])], "on_error": "retry"}, "/on_error"),
            ({"cells": [cell([1, 2])], "force": "yes"}, "/force"),
            ({"cells": [cell([1, 2])], "encoding": "hex"}, "/encoding"),
            ({"cells": [cell([1, 2])], "model": 3}, "/model"),
            ({"cells": [cell([1, 2])], "external_ids": "x"}, "/external_ids"),
            ({"cells": [cell([1, 2])], "external_ids": ["a", "b"]}, "/external_ids")):
        refuse(body, pointer)


def test_both_forms_at_once_are_refused():
    refuse({**harness.demo_body(), "cells": [cell([1, 2])]})


# ---- shape ---------------------------------------------------------------------------------------

def test_lengths_that_do_not_match_are_refused():
    refuse_cell(cell([1, 2, 3]), "(/values|/genes)?", "3|2")
    refuse_cell(cell([1]), "(/values|/genes)?")
    refuse({"cells": []}, "/cells", "no cell|empty|at least one")


def test_a_broken_matrix_is_refused_with_its_place():
    ok = {"genes": [A, B, C], "ids": ["x", "y"], "totals": [10, 10],
          "matrix": {"format": "csr", "indptr": [0, 2, 3], "indices": [0, 2, 1],
                     "data": [1, 2, 3]}}
    daemon().embed(ok)

    def broken(pointer, matrix=None, **fields):
        refuse({**ok, **fields, "matrix": {**ok["matrix"], **(matrix or {})}}, pointer)

    broken("/matrix/indptr(/0)?", {"indptr": [1, 2, 3]})
    broken("/matrix/indptr(/[12])?", {"indptr": [0, 3, 2]})
    broken("/matrix/(indptr|indices|data)(/2)?", {"indptr": [0, 2, 4]})
    broken("/matrix/(indptr|indices|data)(/2)?", {"indptr": [0, 1, 2]})
    broken("/matrix/indptr(/1)?", {"indptr": [0, -1, 3]})
    broken("/matrix/indptr(/1)?", {"indptr": [0, 1.5, 3]})
    broken("/matrix/indptr", {"indptr": []})
    broken("/matrix/indices/1", {"indices": [0, 3, 1]})
    broken("/matrix/indices/1", {"indices": [0, -1, 1]})
    broken("/matrix/indices/1", {"indices": [0, 1e300, 1]})
    broken("/matrix/(data|indices)", {"data": [1, 2]})
    broken("/matrix/(data|indices)", {"indices": [1, 2]})
    broken("/matrix/data/2", {"data": [1, 2, -3]})
    broken("/matrix/format", {"format": "coo"})
    broken("/ids", ids=["x"])
    broken("/ids/1", ids=["x", "x"])
    broken("/totals", totals=[10])
    broken("/totals/1", totals=[10, -1])
    refuse({k: v for k, v in ok.items() if k != "genes"}, ".*")
    refuse({**ok, "matrix": [1]}, "/matrix")


def test_the_same_id_twice_is_refused():
    cells = [cell([1, 2], id="x"), cell([3, 4], id="y"), cell([1, 2], id="x")]
    refuse({"cells": cells}, "/cells/2/id", "x")


def test_a_million_genes_in_one_cell_are_refused_quickly():
    d, n = daemon(), 1_000_000
    names = [f"G{i}" for i in range(n - 1)] + [A]
    body = json.dumps({"cells": [{"genes": names, "values": [1] * n}]}).encode()
    start = time.monotonic()
    answer = d.post("/v1/embeddings", body)
    took = time.monotonic() - start
    assert answer.status in (413, 422), answer
    check_problem(answer, answer.status, {413: "too-large", 422: "invalid"}[answer.status])
    assert took < 5 * harness.SLOW, f"{took:.1f} s"
    good(d)


# ---- values --------------------------------------------------------------------------------------

def test_values_that_are_no_counts_are_refused_with_their_place():
    refuse_cell(cell([3, -1]), "/values/1", "negative")
    refuse_cell(cell([3, 1.5]), "/values/1", "fraction|whole|integer")
    refuse({"cells": [cell([1, 2]), cell([3, 0.1])]}, "/cells/1/values/1", "log1p_cp10k")
    for value in (b"1e999", b"-1e999"):  # grammatical JSON, yet no number that we can hold
        refuse(b'{"cells": [{"genes": ["%s"], "values": [%s]}]}' % (A.encode(), value),
               "/cells/0/values/0")


def test_values_that_are_no_log1p_are_refused_with_their_place():
    refuse_cell(cell([1.5, -0.5]), "/values/1", "negative|scaled", input="log1p_cp10k")
    refuse_cell(cell([1.5, 9.22]), "/values/1", "9.21|10.?000|1e4|log1p", input="log1p_cp10k")
    daemon().embed({"cells": [cell([1.5, 9.2103])], "input": "log1p_cp10k"})


def test_scaled_data_are_refused_whichever_input_they_claim_to_be():
    scaled = cell([-0.34, 1.2, 10.0], [A, B, C])
    for kind in ("counts", "log1p_cp10k"):
        refuse({"cells": [scaled], "input": kind}, "/cells/0/values/.*")


def test_a_total_below_its_counts_is_refused():
    refuse_cell(cell([3, 4], total=6), "(/total)?", "total")
    refuse_cell(cell([3, 4], total=-6), "/total")
    daemon().embed({"cells": [cell([3, 4], total=7)]})


def test_a_cell_without_a_positive_value_is_refused():
    refuse_cell(cell([0, 0]), ".*", "positive|zero|empty|no ")
    refuse_cell(cell([], []), ".*")


# ---- genes ---------------------------------------------------------------------------------------

def test_a_cell_without_a_known_gene_is_refused():
    refuse_cell(cell([1, 2], ["NOSUCH1", "NOSUCH2"]), ".*", "known")


def test_mouse_genes_on_a_human_model_are_refused_as_such():
    titles = [g.capitalize() for g in GENES if g.isalpha()][:60]
    refuse({"cells": [cell([1] * 60, titles)]}, detail="mouse")
    ids = [f"ENSMUSG{i:011d}" for i in range(60)]
    refuse({"cells": [cell([1] * 60, ids)]}, detail="mouse")


def mapped(fraction):
    """100 counts, of which this share is on known genes"""
    known = round(100 * fraction)
    return cell([known, 100 - known], [A, "NOSUCH"])


def warnings(body):
    return daemon().embed(body).json()["warnings"]


def test_a_mapped_share_under_80_percent_is_warned_about():
    assert warnings({"cells": [mapped(1.0), mapped(0.9)]}) == []
    assert warnings({"cells": [mapped(0.80), mapped(0.80)]}) == []
    assert warnings({"cells": [mapped(0.79), mapped(0.79)]}) != []
    assert warnings({"cells": [mapped(0.5), mapped(0.5)]}) != []
    assert warnings({"cells": [mapped(0.7)]}) != []


def test_a_mapped_share_under_50_percent_is_refused_unless_forced():
    body = {"cells": [mapped(0.4), mapped(0.5)]}
    refuse(body, detail="50|45|force")
    assert warnings({**body, "force": True}) != []


def test_a_single_cell_under_50_percent_is_answered_with_a_warning():
    assert warnings({"cells": [mapped(0.2)]}) != []
    assert warnings({"cells": [mapped(1.0)] * 9 + [mapped(0.2)]}) != []


def test_unknown_genes_are_counted_not_hidden():
    item = daemon().embed({"cells": [cell([5, 1, 1], [A, "NOSUCH1", "NOSUCH2"])]}).json()["data"][0]
    assert (item["genes_known"], item["genes_unknown"], item["tokens"]) == (1, 2, 1), item


# ---- skipping bad cells --------------------------------------------------------------------------

def test_on_error_skip_puts_an_error_in_the_place_of_each_bad_cell():
    cells = [cell([1, 2], id="a"), cell([1, -2], id="b"), cell([3, 4], id="c"),
             cell([1, 1], ["NO1", "NO2"], id="d"), cell([5, 6], id="e")]
    data = daemon().embed({"cells": cells, "on_error": "skip", "force": True}).json()["data"]
    assert [item["index"] for item in data] == [0, 1, 2, 3, 4], data
    assert [item["id"] for item in data] == ["a", "b", "c", "d", "e"], data
    assert [("error" in item) for item in data] == [False, True, False, True, False], data
    assert [("embedding" in item) for item in data] == [True, False, True, False, True], data
    assert "negative" in json.dumps(data[1]["error"]), data[1]
    alone = daemon().embed({"cells": [cells[4]]}).json()["data"][0]
    assert alone["embedding"] == data[4]["embedding"]


def test_without_on_error_every_bad_cell_is_named_at_once():
    cells = [cell([1, -2]), cell([1, 2]), cell([0.5, 1])]
    problem = refuse({"cells": cells}, "/cells/0/values/1")
    assert len(problem["errors"]) == 2, problem
    assert problem["errors"][1]["pointer"] == "/cells/2/values/0", problem
