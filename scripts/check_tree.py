#!/usr/bin/env python3
"""Check the rules of the tracked files that no other linter knows.

Source files stay under 500 lines (the header: 600) and tracked files under 16 MiB in all; nothing names a package registry's host or a folder of one
machine; no unfinished work is announced; Python files compile.
"""

import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SOURCES = (".go", ".c", ".cpp", ".h", ".rs", ".py", ".sh")
MAX_LINES = 500
HEADER, HEADER_LINES = "include/bei.h", 600  # the one public header is its own manual, and cannot be cut
MAX_BYTES = 16 << 20
# Written in pieces, so that this file does not match itself.
FORBIDDEN = [
    (re.compile("|".join(["py" + r"pi\.org", "python" + r"hosted\.org", "crates" + r"\.io/api", "static" + r"\.crates\.io",
                          "proxy" + r"\.golang\.org", "registry" + r"\.npmjs\.org", "deb" + r"\.debian\.org"])),
     "names the host of a package registry"),
    (re.compile(r"(?<![\w.$})])/" + r"(work|root|home/\w+)/"), "names a folder of one machine"),
    (re.compile(r"\b(" + "TO" + "DO|FIX" + "ME|X" + r"XX)\b"), "announces unfinished work"),
]


def problems(path):
    full = os.path.join(ROOT, path)
    with open(full, "rb") as file:
        data = file.read()
    if b"\0" in data[:8192] or path.startswith("testdata/"):
        return
    lines = data.decode("utf-8", "replace").splitlines()
    limit = HEADER_LINES if path == HEADER else MAX_LINES
    if path.endswith(SOURCES) and len(lines) > limit:
        yield f"{path}: {len(lines)} lines, limit {limit}"
    for number, line in enumerate(lines, start=1):
        for pattern, text in FORBIDDEN:
            if pattern.search(line):
                yield f"{path}:{number}: {text}: {line.strip()[:100]}"
    if path.endswith(".py"):
        try:
            compile(data, path, "exec")
        except SyntaxError as error:
            yield f"{path}:{error.lineno}: {error.msg}"


def main():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    tracked = [path for path in listing.split("\0") if path and os.path.isfile(os.path.join(ROOT, path))]
    found = [problem for path in tracked for problem in problems(path)]
    total = sum(os.path.getsize(os.path.join(ROOT, path)) for path in tracked)
    if total > MAX_BYTES:
        found.append(f"tracked files: {total} bytes in all, limit {MAX_BYTES}")
    if found:
        raise SystemExit("\n".join(found))


if __name__ == "__main__":
    main()
