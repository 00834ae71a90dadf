#!/usr/bin/env python3
"""run.py - runs the test_* functions of the test_*.py files beside it, one line each.

    run.py [WORD...]      only tests whose "file: name" contains one of the words

Ends with `N passed, N failed, N skipped`; exit status 1 when one failed.
"""
import glob
import importlib
import os
import signal
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402  (the path comes first)

LIMIT_S = 120 * harness.SLOW


def too_long(*_):
    raise AssertionError(f"still running after {LIMIT_S} s")


def run(function):
    """("ok" | "FAIL" | "skip", reason)"""
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LIMIT_S)
    try:
        function()
        return "ok", ""
    except harness.Skip as why:
        return "skip", str(why)
    except Exception:  # every failure of a test is a line, never the end of the run
        return "FAIL", traceback.format_exc()
    finally:
        signal.alarm(0)


def tests_of(module):
    """(name, function) in the order of the file; the last one stops the shared daemons."""
    for name, value in list(vars(module).items()):
        if name.startswith("test_") and callable(value):
            yield name[5:].replace("_", " "), value


def main():
    words, counts = sys.argv[1:], {"ok": 0, "FAIL": 0, "skip": 0}
    for program in (harness.scdivad, harness.scdiva, harness.scdiva_train):
        program()  # ends the run where it is not built
    for path in sorted(glob.glob(os.path.join(harness.HERE, "test_*.py"))):
        topic = os.path.basename(path)[5:-3]
        module = importlib.import_module("test_" + topic)
        chosen = [(n, f) for n, f in tests_of(module)
                  if not words or any(w in f"{topic}: {n}" for w in words)]
        if chosen:
            chosen.append(("every daemon of this file stops with exit 0", harness.stop_shared))
        for name, function in chosen:
            start = time.monotonic()
            result, reason = run(function)
            counts[result] += 1
            took = f" ({time.monotonic() - start:.1f} s)" if time.monotonic() - start > 1 else ""
            short = f": {reason}" if result == "skip" else ""
            print(f"{result:4} e2e {topic}: {name}{short}{took}", flush=True)
            if result == "FAIL":
                print("".join("      " + line + "\n" for line in reason.splitlines()), flush=True)
    print(f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['skip']} skipped")
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())
