#!/usr/bin/env python3
"""Check that a built shared library keeps what its header promises about linking: libbei.so of include/bei.h, and
libbei_trt_<flavour>.so of trt/shim.h.

    scripts/check_library.py LIBRARY HEADER

Exported are exactly the functions of the header; needed are only the C library, the maths library and the loader; nothing is
undefined; the library loads under RTLD_NOW, is never unloaded, and has its file's name as SONAME. Needs readelf (binutils).
"""

import os
import re
import subprocess
import sys

NEEDED = re.compile(r"lib(c|m|dl|pthread)\.so\.\d+|ld-linux-[\w-]+\.so\.\d+")
# Weak by convention: the C runtime's start files test for them, and what libstdc++ has for transactional memory.
OPTIONAL = re.compile(r"_ITM_\w+|_ZGTt\w+|__gmon_start__|__cxa_finalize|__cxa_pure_virtual")


def readelf(*arguments):
    return subprocess.run(["readelf", "-W", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def symbols(library):
    """(exported names, undefined names that no library version provides)."""
    exported, undefined = set(), set()
    for line in readelf("--dyn-syms", library).splitlines():
        fields = line.split()
        if len(fields) < 8 or not fields[0].endswith(":") or not fields[0][:-1].isdigit():
            continue
        binding, section, name = fields[4], fields[6], fields[7]
        if section != "UND":
            exported.add(name)
        elif "@" not in name and not (binding == "WEAK" and OPTIONAL.fullmatch(name)):
            undefined.add(name)
    return exported, undefined


def declared(header):
    """Names of the functions that the header declares."""
    with open(header, encoding="utf-8") as file:
        text = re.sub(r"/\*.*?\*/|//[^\n]*|^\s*#[^\n]*(\\\n[^\n]*)*", "", file.read(), flags=re.DOTALL | re.MULTILINE)
    return set(re.findall(r"\b(bei_\w+)\s*\([^;{}]*\)\s*;", text)) - set(re.findall(r"typedef[^;]*\(\s*\*\s*(bei_\w+)", text))


def problems(library, header):
    exported, undefined = symbols(library)
    wanted = declared(header)
    for name in sorted(exported - wanted):
        yield f"exports {name}, which {header} does not declare"
    for name in sorted(wanted - exported):
        yield f"does not export {name}, which {header} declares"
    for name in sorted(undefined):
        yield f"leaves {name} undefined"
    dynamic = readelf("--dynamic", library)
    soname = os.path.basename(library)
    for name in re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic):
        if not NEEDED.fullmatch(name):
            yield f"needs {name}"
    for what, pattern in {
        f"SONAME {soname}": rf"\(SONAME\).*\[{re.escape(soname)}\]",
        "the flag NODELETE": r"\(FLAGS_1\).*NODELETE",
        "the flag NOW": r"\(FLAGS_1\).*NOW",
    }.items():
        if not re.search(pattern, dynamic):
            yield f"lacks {what}"
    if "(TEXTREL)" in dynamic:
        yield "has text relocations"
    if re.search(r"GNU_STACK.*\bRWE\b", readelf("--segments", library)):
        yield "asks for an executable stack"


def main():
    if len(sys.argv) != 3:
        raise SystemExit("usage: check_library.py LIBRARY HEADER")
    library, header = sys.argv[1:]
    found = list(problems(library, header))
    load = [sys.executable, "-c", "import ctypes, os, sys; ctypes.CDLL(sys.argv[1], os.RTLD_NOW)", library]
    if subprocess.run(load, check=False).returncode != 0:
        found.append("does not load under RTLD_NOW")
    if found:
        raise SystemExit("\n".join(f"{library} {problem}" for problem in found))


if __name__ == "__main__":
    main()
