"""Run every test program and add the counts up.

Lint is one test, unit and operation tests are cmocka programs, fuzz corpora are replayed, the
end-to-end tests are tests/e2e/run.py. The last line is `N passed, N failed, N skipped`.

    tests/run.py --build build [--sanitizer address|thread] [--valgrind]
"""
import argparse
import glob
import os
import re
import subprocess
import sys
import time

VALGRIND = ["valgrind", "-q", "--error-exitcode=99", "--leak-check=full",
            "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite",
            "--suppressions=tests/valgrind.supp"]
# Programs that valgrind is not given, and why.
NOT_UNDER_VALGRIND = {
    "test_cpu_exact": "takes an hour there; test_ops and test_cpu_kernels run the same kernels",
    "test_cuda_device": "fibers: valgrind loses track of their stacks",
    "test_cuda_emulator": "fibers: valgrind loses track of their stacks",
    "test_cuda_exact": "fibers: valgrind loses track of their stacks",
    "test_cuda_model": "fibers: valgrind loses track of their stacks",
    "test_cuda_train": "fibers: valgrind loses track of their stacks",
    "test_sandbox": "valgrind knows neither Landlock nor seccomp",
    "test_train_exact": "takes an hour there; the other test_train_* run the same kernels",
}


def run(command, env):
    """(exit code, all output) of a command."""
    p = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True, errors="replace", check=False)
    return p.returncode, p.stdout


def cmocka_counts(output, code):
    """(passed, failed, skipped) of one cmocka program; a crash counts as one failure."""
    def total(word):
        return sum(int(n) for n in re.findall(r"\[\s*%s\s*\] (\d+) test" % word, output))
    passed, failed, skipped = total("PASSED"), total("FAILED"), total("SKIPPED")
    if code and not failed:
        failed = 1
    return passed, failed, skipped


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--build", default="build")
    args.add_argument("--sanitizer", default="")
    args.add_argument("--valgrind", action="store_true")
    args = args.parse_args()

    env = dict(os.environ)
    env["UBSAN_OPTIONS"] = "print_stacktrace=1"
    # libgomp's own threads never run here, but oneDNN's code generator confuses both tools.
    env["TSAN_OPTIONS"] = "suppressions=%s:second_deadlock_stack=1" % os.path.abspath(
        "tests/tsan.supp")
    env["ASAN_OPTIONS"] = "detect_leaks=1"
    env["LSAN_OPTIONS"] = "suppressions=%s:print_suppressions=0" % os.path.abspath(
        "tests/lsan.supp")
    env["SCDIVAD"] = os.path.abspath(os.path.join(args.build, "scdivad"))
    env["SCDIVA"] = os.path.abspath(os.path.join(args.build, "scdiva"))
    env["SCDIVA_TRAIN"] = os.path.abspath(os.path.join(args.build, "scdiva-train"))
    if args.sanitizer or args.valgrind:
        env["SCDIVA_TEST_SLOW"] = "1"
    if args.valgrind:
        env["SCDIVA_TEST_DEVICES"] = "cpu"

    tool = VALGRIND if args.valgrind else []
    code, output = run([sys.executable, "tests/lint/lint.py"], env)
    passed, failed, skipped = int(code == 0), int(code != 0), 0
    print(output, end="", flush=True)
    for path in sorted(glob.glob(os.path.join(args.build, "tests", "test_*"))):
        name, start = os.path.basename(path), time.monotonic()
        if args.valgrind and name in NOT_UNDER_VALGRIND:
            skipped += 1
            print("%-28s skipped: %s" % (name, NOT_UNDER_VALGRIND[name]), flush=True)
            continue
        code, output = run(tool + [path], env)
        p, f, s = cmocka_counts(output, code)
        passed, failed, skipped = passed + p, failed + f, skipped + s
        print("%-28s %3d passed %2d failed %2d skipped  %6.1f s" %
              (name, p, f, s, time.monotonic() - start), flush=True)
        if f:
            print(output)

    for path in sorted(glob.glob(os.path.join(args.build, "fuzz", "fuzz_*"))):
        name = os.path.basename(path)
        inputs = sorted(glob.glob("tests/fuzz/corpus/%s/*" % name[len("fuzz_"):]))
        code, output = run(tool + [path] + inputs, env)
        passed, failed = passed + (code == 0), failed + (code != 0)
        print("%-28s %d inputs, %s" % (name, len(inputs), "ok" if code == 0 else "FAILED"),
              flush=True)
        if code:
            print(output)

    if not args.valgrind:
        p = subprocess.Popen([sys.executable, "tests/e2e/run.py"], env=env, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        last = ""
        for line in p.stdout:
            if re.match(r"\d+ passed, \d+ failed", line):
                last = line
            else:
                print(line, end="", flush=True)
        p.wait()
        counts = [int(n) for n in re.findall(r"\d+", last)] or [0, 1, 0]
        passed, failed, skipped = passed + counts[0], failed + counts[1], skipped + counts[2]

    print("%d passed, %d failed, %d skipped" % (passed, failed, skipped))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
