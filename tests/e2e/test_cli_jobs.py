"""test_cli_jobs.py - scdiva jobs and scdiva keys: what a daemon does with files, who may ask it."""
import hashlib
import json
import os
import subprocess

import harness
import jobs
from files import run, says, scratch
from harness import Daemon
from test_cli_tasks import FLAGS, content, server


# ---- jobs ----------------------------------------------------------------------------------------

def ask(d, *args, exit=0, **more):
    return run("jobs", args[0], *args[1:], "--server", server(d), exit=exit, **more)


def test_jobs_are_listed_shown_waited_for_and_fetched():
    with Daemon(harness.small_model()) as d:
        assert ask(d, "list") == ("", "")
        ids = [jobs.start(d, jobs.table(3, seed=i))["id"] for i in range(4)]
        said, notes = ask(d, "wait", ids[0])
        says(said, ids[0], "COMPLETE", "3 of 3", "note: ", "SHA-256")
        for id_ in ids:
            job = json.loads(ask(d, "wait", id_, "--json", "-q")[0])
            assert job["state"] == "COMPLETE" and job["id"] == id_
        said, notes = ask(d, "list", "--limit", "3")
        assert [line.split()[0] for line in said.splitlines()] == ids[:0:-1], said
        says(notes, "--limit")
        assert len(json.loads(ask(d, "list", "--json", "--limit", "1000")[0])) == 4
        assert ask(d, "list", "--state", "FAILED")[0] == ""
        says(ask(d, "show", ids[2])[0], ids[2], "embed", "model: small")
        out = scratch("fetched.csv")
        ask(d, "result", ids[1], "-o", out)
        assert content(out) == jobs.result(d, jobs.get(d, {"id": ids[1]}))
        says(ask(d, "result", ids[1], "-o", out, exit=1)[1], "is there already")
        assert ask(d, "result", ids[1], "-o", out, "--overwrite", "-q") == ("", "")


def test_more_jobs_than_a_page_are_all_listed():
    with Daemon(harness.small_model()) as d:
        for i in range(103):
            jobs.start(d, b"half", headers={"Upload-Length": "8"})
        listed = json.loads(ask(d, "list", "--json", "--limit", "102")[0])
        assert len({job["id"] for job in listed}) == 102


def test_what_is_under_way_is_canceled_and_what_is_over_forgotten():
    genes = [f"GENE{i}" for i in range(2000)]
    with Daemon(harness.slow_model(), flags=FLAGS) as d:
        long = jobs.start(d, jobs.table(200, genes=genes, length=400))["id"]
        says(ask(d, "result", long, "-o", scratch("no.csv"), exit=1)[1], "is not over")
        says(ask(d, "cancel", long)[0], "is canceled")
        says(ask(d, "cancel", long, exit=1)[1], "is over: it is CANCELED", "jobs delete")
        says(ask(d, "wait", long, exit=1)[1], "was canceled")
        says(ask(d, "delete", long)[0], "is forgotten")
        says(ask(d, "show", long, exit=1)[1], "404")
        long = jobs.start(d, jobs.table(200, genes=genes, length=400))["id"]
        assert json.loads(ask(d, "delete", long, "--json")[0])["deleted"] is True
        assert d.get("/v1/jobs").json()["data"] == []
        bad = jobs.start(d, b"no table")["id"]
        said, err = ask(d, "wait", bad, exit=1)
        says(said, "FAILED", "error: ")
        says(err, "FAILED")


def test_wrong_use_of_jobs_is_told():
    for args, word in (((), "list|show|wait"), (("list",), "--server URL is missing"),
                       (("go",), "what to do is missing"),
                       (("show", "--server", "http://x"), "ID is missing"),
                       (("show", "../x", "--server", "http://x"), "no job's id"),
                       (("result", "job_x", "--server", "http://x"), "-o FILE is missing"),
                       (("list", "--state", "DONE", "--server", "http://x"), "STATE"),
                       (("list", "--limit", "0", "--server", "http://x"), "from 1")):
        says(run("jobs", *args, exit=2)[1], word)
    says(run("jobs", "list", "--server", "http://127.0.0.1:9", exit=1)[1], "127.0.0.1:9")


# ---- keys ----------------------------------------------------------------------------------------

def test_a_key_that_was_made_opens_the_daemon_until_it_is_revoked():
    path = scratch("made.keys")
    token, said = run("keys", "make", "lab", "--keys", path)
    says(said, '"lab"', "this once")
    token = token.strip()
    assert os.stat(path).st_mode & 0o777 == 0o600
    with open(path, encoding="utf-8") as f:
        assert f.read() == f"{hashlib.sha256(token.encode()).hexdigest()} lab\n"
    other = json.loads(run("keys", "make", "web", "--json", env={"SCDIVA_KEYS": path})[0])
    assert other["token"] != token and len(other["token"]) > 40
    said = run("keys", "list", "--keys", path)[0]
    assert [line.split()[1] for line in said.splitlines()] == ["lab", "web"]
    with Daemon(harness.small_model(), flags=["--keys", path]) as d:
        job = jobs.start(d, jobs.table(3), headers={"Authorization": f"Bearer {token}"})["id"]
        mine = {"SCDIVA_API_KEY": token}
        says(ask(d, "wait", job, env=mine)[0], "COMPLETE")
        says(ask(d, "show", job, env={"SCDIVA_API_KEY": other["token"]}, exit=1)[1], "404")
        says(ask(d, "show", job, exit=1)[1], "401")
    with open(path, "a", encoding="utf-8") as f:
        f.write("# kept as it is\n")
    says(run("keys", "revoke", "lab", "--keys", path)[0], "revoked")
    with open(path, encoding="utf-8") as f:
        assert f.read() == f"{other['sha256']} web\n# kept as it is\n"
    with Daemon(harness.small_model(), flags=["--keys", path]) as d:
        says(run("models", "--server", server(d), env=mine, exit=1)[1], "401")
    says(run("keys", "revoke", "web", "--keys", path)[0], "without a key")
    says(run("keys", "list", "--keys", path, exit=1)[1], "no key in it")
    run("keys", "make", "again", "--keys", path)


def test_wrong_use_of_keys_changes_nothing():
    path = scratch("wrong.keys")
    run("keys", "make", "lab", "--keys", path)
    before = content(path)
    for args, exit, word in ((("make", "lab"), 1, "already"), (("make", "a b"), 1, "no blanks"),
                             (("make", "x\n" + "0" * 64 + " y"), 1, "no blanks"),
                             (("make", "x" * 65), 1, "1 to 64"), (("make",), 2, "NAME is missing"),
                             (("revoke", "web"), 1, 'no key "web"'), (("give",), 2, "make|list"),
                             (("list", "x"), 2, "one argument too many")):
        says(run("keys", *args, "--keys", path, exit=exit)[1], word)
        assert content(path) == before and not os.path.exists(path + ".new"), args
    says(run("keys", "list", exit=2)[1], "--keys FILE is missing")
    with open(path + ".new", "w", encoding="utf-8") as f:
        f.write("")
    says(run("keys", "make", "web", "--keys", path, exit=1)[1], "is at work")
    assert content(path) == before
    says(run("keys", "list", "--keys", scratch("nowhere.keys"), exit=1)[1], "nowhere.keys")


def test_parts_of_verbs_are_completed():
    script = run("completion", "bash")[0]
    words = subprocess.run(["bash", "-c", script + """
COMP_WORDS=(scdiva jobs ca); COMP_CWORD=2; _scdiva; echo "${COMPREPLY[@]}"
COMP_WORDS=(scdiva keys ''); COMP_CWORD=2; _scdiva; echo "${COMPREPLY[@]}"
COMP_WORDS=(scdiva jobs wait --ser); COMP_CWORD=3; _scdiva; echo "${COMPREPLY[@]}"
COMP_WORDS=(scdiva grn --reg); COMP_CWORD=2; _scdiva; echo "${COMPREPLY[@]}"
"""], capture_output=True, text=True, check=True).stdout.splitlines()
    assert words == ["cancel", "make list revoke", "--server", "--regulators"], words
