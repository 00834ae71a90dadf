"""What a compiler does not check: layers, third-party homes, sizes, and documents that agree.

    tests/lint/lint.py        exits 1 and lists every breach as file:line: what

Rules:
- a file includes its own layer and those that stand before it;
- each library is used in its home alone;
- files up to 600 lines, functions up to 70, lines up to 100 columns;
- no unfinished marks; every folder has its README; headers have guards;
- the sample configuration and the functions named in README.md's tour are those of the code.
"""
import os
import re
import subprocess
import sys

MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_COLUMNS = 600, 70, 100

# What each layer may include, itself left out.
BELOW = {
    "engine/base": [],
    "config": ["engine/base"],
    "engine/backend": ["engine/base"],
    "engine/cpu": ["engine/base", "engine/backend"],
    "engine/cuda": ["engine/base", "engine/backend"],
    "engine/model": ["engine/base", "engine/backend"],
    "engine/denoise": ["engine/base", "engine/backend", "engine/model"],
    "engine": ["engine/base", "engine/backend", "engine/model", "engine/denoise"],
    "engine/train": ["engine/base", "engine/backend", "engine/model", "engine/denoise", "engine",
                     "api"],
    "api": ["engine/base", "engine/backend", "engine/model", "engine/denoise", "engine"],
    "server": ["engine/base", "engine/backend", "engine/model", "engine/denoise", "engine", "api",
               "config"],
}

# Header prefix -> places (files or folders) that may use it.
HOMES = {
    "microhttpd.h": ["server/http.c", "server/exchange.c", "server/http_impl.h"],
    "sqlite3.h": ["server/store", "server/job"],
    "cjson/": ["api/", "engine/model/config.c", "engine/model/safetensors", "engine/denoise/head",
               "engine/train/"],
    "hdf5": ["api/"],
    "oneapi/": ["engine/cpu/"],
    "dnnl": ["engine/cpu/"],
    "omp.h": ["engine/cpu/"],
    "openssl/": ["engine/base/hash.c"],
    "zlib.h": ["api/"],
    "archive": ["api/mex_files.c", "api/mex_pack.c"],
    "seccomp.h": ["api/sandbox.c"],
    "ini.h": ["config/"],
    "curl/": ["api/", "server/"],
    "cuda": ["engine/cuda/"],
    "cublas": ["engine/cuda/"],
}

FOLDERS = ["api", "config", "docker", "engine", "engine/backend", "engine/base", "engine/cpu",
           "engine/cuda", "engine/denoise", "engine/model", "engine/train", "server", "tests"]

breaches = []


def breach(path, line, what):
    breaches.append("%s:%d: %s" % (path, line, what))


def tracked(*patterns):
    out = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", *patterns],
                         capture_output=True, text=True, check=True).stdout
    return [p for p in out.split("\n") if p and os.path.exists(p)]


def layer_of(path):
    folder = os.path.dirname(path)
    while folder and folder not in BELOW:
        folder = os.path.dirname(folder)
    return folder


def check_includes(path, lines):
    layer = layer_of(path)
    for number, line in enumerate(lines, 1):
        m = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
        if not m:
            continue
        quote, target = m.groups()
        if quote == "<":
            for prefix, homes in ({} if path.startswith("tests/") else HOMES).items():
                if target.startswith(prefix) and not path.startswith(tuple(homes)):
                    breach(path, number, "<%s> is used in %s alone" % (target, ", ".join(homes)))
        elif layer and target.endswith((".h", ".cuh", ".def")):
            other = layer_of(target)
            if other and other != layer and other not in BELOW[layer]:
                breach(path, number, "%s may not include %s" % (layer, other))
            if not os.path.exists(target):
                breach(path, number, "includes are written from the top level: %s" % target)


def check_sizes(path, lines):
    if len(lines) > MAX_FILE_LINES:
        breach(path, len(lines), "%d lines, at most %d" % (len(lines), MAX_FILE_LINES))
    start = None
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_COLUMNS and not path.endswith((".md", ".json")):
            breach(path, number, "%d columns, at most %d" % (len(line), MAX_COLUMNS))
        if path.endswith((".c", ".cu", ".cuh", ".cc")):
            if line == "{":
                start = number
            elif line == "}" and start:
                if number - start - 1 > MAX_FUNCTION_LINES:
                    breach(path, start, "a function of %d lines, at most %d" %
                           (number - start - 1, MAX_FUNCTION_LINES))
                start = None


def check_marks(path, lines):
    for number, line in enumerate(lines, 1):
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line):
            breach(path, number, "an unfinished mark: do it, or open an issue")
        if line != line.rstrip():
            breach(path, number, "white space at the end")


def check_header(path, lines):
    text = "\n".join(lines)
    if not text.startswith("/*"):
        breach(path, 1, "the file does not begin by saying what it is")
    if path.endswith((".h", ".cuh")) and not re.search(r"#ifndef SCD_\w+\n#define SCD_\w+", text) \
            and not path.endswith("_body.h"):
        breach(path, 1, "no include guard")


def check_readme():
    text = open("README.md", encoding="utf-8").read()
    code = "\n".join(open(p, encoding="utf-8").read() for p in tracked("*.c", "*.cu"))
    tour = text.split("## One request", 1)
    if len(tour) != 2:
        breach("README.md", 1, "the tour of one request is missing")
        return
    for name in sorted(set(re.findall(r"`(scd_\w+)`", tour[1].split("\n## ")[0]))):
        if not re.search(r"^[\w *]*\b%s\(" % name, code, re.M):
            breach("README.md", 1, "the tour names %s, which does not exist" % name)


def check_sample():
    keys = re.findall(r'^SCD_\w+\(\w+, "([\w-]+)"', open("config/config.def").read(), re.M)
    sample = re.findall(r"^# ([\w-]+) =", open("config/scdivad.conf").read(), re.M)
    if keys != sample:
        breach("config/scdivad.conf", 1, "not what scdivad --print-config prints: its keys differ "
               "from config.def in %s" % sorted(set(keys) ^ set(sample)))


def main():
    for path in tracked("*.c", "*.h", "*.cu", "*.cuh", "*.cc", "*.def", "*.py", "*.sh", "*.js",
                        "*.css", "*.html"):
        lines = open(path, encoding="utf-8").read().split("\n")
        lines = lines[:-1] if lines and not lines[-1] else lines
        check_sizes(path, lines)
        if path != "tests/lint/lint.py":
            check_marks(path, lines)
        if path.endswith((".c", ".h", ".cu", ".cuh", ".cc", ".def")):
            check_header(path, lines)
            check_includes(path, lines)
        elif path.endswith((".js", ".css")):
            check_header(path, lines)
    for folder in FOLDERS:
        if not os.path.exists(os.path.join(folder, "README.md")):
            breach(folder, 1, "no README.md")
    check_readme()
    check_sample()
    for b in breaches:
        print(b)
    print("lint: %s" % ("%d breaches" % len(breaches) if breaches else "clean"))
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
