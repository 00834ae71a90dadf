"""test_page.py - the web page: how it is served, that it is what it promises - nothing from
elsewhere, no markup out of data, routes and parameters that there are -, and that it works.
"""
import functools
import hashlib
import json
import os
import re
import signal

import harness
import jobs
import test_auth
from files import BUNDLED
from harness import Daemon, TOP, check_problem, shared as daemon
from page import browser

WEB = os.path.join(TOP, "api", "web")
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
         ".js": "text/javascript; charset=utf-8"}


def web(kind=""):
    """{name: text} of the page's files."""
    found = {}
    for name in sorted(os.listdir(WEB)):
        if name.endswith(tuple(TYPES)) and name.endswith(kind):
            with open(os.path.join(WEB, name), encoding="utf-8") as f:
                found[name] = f.read()
    return found


@functools.cache
def openapi():
    with open(os.path.join(TOP, "api", "openapi.json"), encoding="utf-8") as f:
        return json.load(f)


# ---- how it is served ----------------------------------------------------------------------------

def check_headers(answer, kind):
    assert answer.headers["Content-Type"] == TYPES[kind], answer
    assert answer.headers["X-Content-Type-Options"] == "nosniff", answer
    assert answer.headers["Referrer-Policy"] == "no-referrer", answer
    assert answer.headers["Cache-Control"] == "no-cache", answer
    policy = dict(part.strip().split(" ", 1)
                  for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy == {"default-src": "'none'", "script-src": "'self'", "style-src": "'self'",
                      "connect-src": "'self'", "base-uri": "'none'", "frame-ancestors": "'none'",
                      "form-action": "'none'", "require-trusted-types-for": "'script'",
                      "trusted-types": "'none'"}, answer


def test_every_file_is_served_as_it_is_with_a_strict_policy():
    d = daemon()
    for name, text in web().items():
        for path in ("/page/" + name, *(["/"] if name == "page.html" else [])):
            answer = d.get(path)
            assert answer.status == 200 and answer.body == text.encode(), path
            assert answer.headers["ETag"] == f'"{hashlib.sha256(answer.body).hexdigest()}"', answer
            check_headers(answer, os.path.splitext(name)[1])


def test_head_is_get_without_its_body():
    for path in ("/", "/page/page.js"):
        get, head = daemon().get(path), daemon().request("HEAD", path)
        assert head.status == 200 and head.body == b"", head
        for name in set(get.headers) - {"Date", "X-Request-Id"}:
            assert head.headers[name] == get.headers[name], name


def test_who_has_it_already_gets_304():
    for path in ("/", "/page/page.css"):
        etag = daemon().get(path).headers["ETag"]
        for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
            for method in ("GET", "HEAD"):
                answer = daemon().request(method, path, headers={"If-None-Match": known})
                assert answer.status == 304 and answer.body == b"", answer
                assert answer.headers["ETag"] == etag, answer
        assert daemon().get(path, {"If-None-Match": '"other"'}).status == 200


def test_other_methods_and_names_are_refused():
    for path in ("/", "/page/page.js"):
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            answer = daemon().request(method, path, b"")
            check_problem(answer, 405, "method-not-allowed")
            assert answer.headers["Allow"] == "GET, HEAD", answer
    for path in ("/page/", "/page/nothing.js", "/page/..", "/page/../openapi.json", "/page/page",
                 "/page.js", "/page/%2e%2e%2fpage.js", "/index.html"):
        check_problem(daemon().get(path), 404, "not-found")


def test_it_needs_no_key_where_data_does():
    with Daemon(harness.small_model(), flags=("--keys", test_auth.keys_file())) as d:
        for path in ("/", "/page/page.js"):
            assert d.get(path).status == 200
        check_problem(d.get("/v1/models"), 401, "unauthorized")


# ---- what it is made of --------------------------------------------------------------------------

def test_it_loads_nothing_from_elsewhere_and_holds_no_code_that_its_policy_refuses():
    for name, text in web().items():
        assert not re.search(r"\w+://|//\w+\.\w", text), f"{name} names another place"
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|"
                             r"new Function|srcdoc|DOMParser", text), name
    html = web(".html")["page.html"]
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)
    assert re.findall(r"<script[^>]*>(.*?)</script>", html, re.S) == [""], "a script in the page"


def test_what_it_loads_is_there():
    names = set(web())
    loaded = re.findall(r'(?:src|href)="page/([^"]+)"', web(".html")["page.html"])
    for text in web(".js").values():
        loaded += re.findall(r'from\s+"\./([^"]+)"', text)
    assert set(loaded) | {"page.html"} == names, "a file that is missing, or that nobody loads"


def test_what_the_scripts_look_for_stands_in_the_page():
    html = web(".html")["page.html"]
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    for name, text in web(".js").items():
        wanted = set(re.findall(r'byId\("([^"]+)"\)', text))
        wanted |= set(re.findall(r'into\("([^"]+)"', text))
        assert wanted <= set(ids), (name, wanted - set(ids))
    for label in re.findall(r'<label for="([^"]+)"', html):
        assert label in ids, label


def test_the_scripts_ask_for_routes_that_there_are():
    paths = {re.sub(r"\{\w+\}", "*", path) for path in openapi()["paths"]}
    asked = set()
    for text in web(".js").values():
        text = text.replace("${pathOf(row.job)}", "v1/jobs/*").replace("jobs/ID", "jobs/*")
        text = re.sub(r"\$\{encodeURIComponent\([\w.]+\)\}", "*", text)
        asked |= set(re.findall(r'["`]((?:v1|metrics|readyz|livez)\b[^"`?]*)', text))
    asked |= set(re.findall(r'href="([^"#]+)"', web(".html")["page.html"])) - {"page/page.css"}
    assert {"v1/jobs/*", "v1/jobs/*/events", "v1/jobs/*/result", "v1/annotations"} <= asked, asked
    for path in asked:
        assert "/" + path in paths, f"{path} is no route"


def test_its_fields_are_the_parameters_of_a_job():
    text = web(".js")["tasks.js"]
    fields = set(re.findall(r'^\s*\["(\w+)", "[^"]*", "', text, re.M))
    there = {p["name"]: p for p in openapi()["paths"]["/v1/jobs"]["post"]["parameters"]
             if p.get("in") == "query"}
    elsewhere = {"task", "format", "model", "filename", "sha256", "webhook"}
    assert fields == set(there) - elsewhere, fields ^ (set(there) - elsewhere)
    tasks = dict(re.findall(r"^    (\w+): \{\n        title: .*?formats: (\w+),", text, re.M))
    assert set(tasks) == set(there["task"]["schema"]["enum"]), tasks
    for task, formats in tasks.items():
        listed = json.loads(re.search(rf"\b{formats} = (\[.*?\])", text)[1])
        for kind in there["format"]["schema"]["enum"]:
            answer = daemon().request("POST", f"/v1/jobs?task={task}&format={kind}", b"x",
                                      {"Content-Type": "text/csv"})
            problem = answer.json() if answer.status == 422 else {"errors": []}
            refused = any(e["pointer"] == "/format" for e in problem["errors"])
            assert refused == (kind not in listed), (task, kind, answer)


# ---- in a browser --------------------------------------------------------------------------------

def cells_file(name="cells.csv"):
    """The forty cells of the demo, as a table."""
    body, path = harness.demo_body(), harness.scratch(name)
    with open(path, "w", encoding="utf-8") as f:
        f.write("cell," + ",".join(body["genes"]) + "\n")
        for cell in harness.demo_cells():
            of = dict(zip(cell["genes"], cell["values"]))
            f.write(cell["id"] + "," + ",".join(str(of.get(g, 0)) for g in body["genes"]) + "\n")
    return path


def made_file(name, *table):
    path = harness.scratch(name)
    with open(path, "wb") as f:
        f.write(jobs.table(*table))
    return path


def send(page, path, task, kind, **fields):
    page.wait("#task", "Name cell types")  # the models are known
    page.choose("#task", task)
    page.choose("#format", kind)
    for name, value in fields.items():
        page.type(f"#field-{name}", value)
    page.one("#file").send_keys(path)
    page.click("#start")


def check_download(d, page, headers=None):
    """What the browser keeps is the result of the only job, under the name that it is given."""
    job, = d.get("/v1/jobs", headers).json()["data"]
    answer = d.get(job["result"]["url"], headers)
    name, body = page.downloaded()
    assert body == answer.body, name
    assert name.endswith(".scdiva." + job["format"]), name


def test_a_browser_sends_a_file_and_shows_its_labels():
    with Daemon(BUNDLED) as d, browser() as page:
        page.open(d)
        page.wait("#state", "ready")
        page.wait("#models", "accuracy 0.938")
        send(page, cells_file("<img src=x onerror=alert(1)>.csv"), "annotate", "csv")
        page.wait("#jobs .state", "done")
        shown = page.text("#jobs")
        assert "<img src=x onerror=alert(1)>.csv" in shown, shown
        labels, = [job["labels"] for job in d.get("/v1/jobs").json()["data"]]
        page.wait("#jobs caption", f"of {sum(c['cells'] for c in labels)} cells unknown")
        for c in labels:
            assert f"{c['label']} {c['cells']} {c['unknown']}" in shown.replace("\n", " "), shown
        page.click("#jobs a.button")
        check_download(d, page)
        page.wait("#live-jobs", "1 done")
        mouse = [f"ENSMUSG{i:011}" for i in range(60)]
        send(page, made_file("mouse.csv", 5, 1, mouse), "embed", "npy")
        page.wait("#jobs li:first-child .problem", "mouse identifiers")
        send(page, cells_file(), "grn", "csv", regulators="SPI1, NOPE")
        page.wait("#file-problem", '"NOPE" is no gene of the model')


def test_a_browser_names_a_cell():
    with Daemon(BUNDLED) as d, browser() as page:
        page.open(d)
        page.wait("#state", "ready")
        page.wait("#models", "Head annotation")
        page.click("#cell-example")
        assert page.wait("#cell-answer", "probability").startswith("B (CL:0000236)")
        page.type("#cell-genes", "CD3D 3\nLYZ many\n")
        page.click("#cell-ask")
        page.wait("#cell-problem", "line 2")
        page.choose("#cell-input", "counts")
        page.type("#cell-genes", "CD3D 2.5")
        page.click("#cell-ask")
        page.wait("#cell-problem", "/cells/0/values/0")


def test_a_browser_is_asked_for_the_key_and_keeps_it_for_the_tab():
    with Daemon(BUNDLED, flags=("--keys", test_auth.keys_file())) as d, browser() as page:
        page.open(d)
        page.wait("#key-panel", "A key is needed")
        assert not page.text("#file-form"), "without a key there is nothing to see"
        for key, says in (("wrong", "not accepted"), (test_auth.TOKEN, None)):
            page.type("#key", key)
            page.click("#key-form button")
            if says:
                page.wait("#key-why", says)
        send(page, cells_file(), "annotate", "h5ad")
        page.wait("#jobs .state", "done")
        page.click("#jobs button")
        check_download(d, page, test_auth.bearer(test_auth.TOKEN))
        assert "$SCDIVA_API_KEY" in page.one("#file-curl").get_attribute("textContent")
        assert test_auth.TOKEN not in page.driver.page_source
        assert page.driver.execute_script("return localStorage.length") == 0
        page.driver.refresh()
        page.wait("#jobs .state", "done")
        page.click("#forget-key")
        page.wait("#key-panel", "A key is needed")
        assert not page.all("#jobs li")


def test_a_browser_goes_on_when_the_server_comes_back():
    d = Daemon(BUNDLED, flags=("--threads", "1"))
    try:
        with browser() as page:
            page.open(d)
            page.wait("#state", "ready")
            send(page, made_file("many.csv", 200), "impute", "csv")
            page.wait("#jobs .state", "running")
            d.process.send_signal(signal.SIGKILL)
            d.process.wait()
            page.wait("#state", "does not answer")
            again = Daemon(BUNDLED, data=d.data, flags=("--listen", f"127.0.0.1:{d.port}"))
            with again:
                page.wait("#state", "ready")
                page.wait("#jobs .state", "done")
    finally:
        d.kill()
