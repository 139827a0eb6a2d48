#!/usr/bin/env python3
"""Pack what tests and benches need on a GPU machine without Go, Rust or network.

    scripts/pack_gpu.py [--output DIR] [--piece MIB] [--only work|libraries|plans]...

Three sets are written, so that what changes often travels alone, and plans only where they are wanted:
  work       test binaries, dist/ (libbei.so, bei, TensorRT's shims), testdata/, bench/ and run_tests.py
  libraries  TensorRT-RTX, ONNX Runtime with its CUDA provider, and the model all-MiniLM-L6-v2
  plans      TensorRT-RTX's plans of all cases in all precisions (minutes); the tests build what they miss
Each is a tar.gz in numbered folders below --output: one, or with --piece as many as keep each at most that large. Bring the
folders over in any order and run `sh NN/put [DIR]` (default DIR: $BEI_GPU or /tmp/bei-gpu) in each; the last of a set unpacks it.
Then `python3 DIR/run_tests.py` runs the tests.

It wants dist/ as `make build build_trt` leaves it and .deps/ as `make setup setup_tensorrt setup_gpu` do: `make pack_gpu` sees to
both. The test binaries are built here, with Go. Needs Python 3.9.
"""

import argparse
import contextlib
import gzip
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile

import run_tests

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Name of a test binary -> its package's folder.
TESTS = {"trt": "trt", "onnx": "backend/engine/onnx", "backend": "backend"}
# Tracked files that travel; of folders all that is tracked below them.
TRACKED = ["go.mod", "LICENSE", "include", "testdata", "bench", "trt/testdata", "trt/shim.h"]
# Our own builds. The kernels are of the same source as libbei.so, which takes no others.
KERNELS = ".deps/gpu/onnxruntime/bei_cuda.ptx"
WORK = ["dist/libbei.so", "dist/bei", "dist/libbei_trt_rtx1.so", "dist/libbei_trt_11.so", KERNELS]
LIBRARIES = [".deps/tensorrt/lib", ".deps/gpu/onnxruntime", ".deps/onnxruntime", ".deps/models/all-MiniLM-L6-v2"]
# Where libbei.so looks for libraries beside itself.
LINKS = {"dist/tensorrt": "../.deps/tensorrt/lib", "dist/onnxruntime-gpu": "../.deps/gpu/onnxruntime",
         "dist/libonnxruntime.so.1": "../.deps/onnxruntime/libonnxruntime.so.1"}
SETS = ["work", "libraries", "plans"]
PROGRESS_SECONDS = 10
PUT_BYTES = 4096  # room in a piece for its script, and more
PART = ".part-"  # scratch folders in the output
MTIME = 946684800  # of every member, so that the same content gives the same archive

PUT = """#!/bin/sh
# Piece {number} of {count} of the set "{set}". Usage: sh put [DIR]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
to=${{1:-${{BEI_GPU:-/tmp/bei-gpu}}}}
parts=$to/.parts
mkdir -p "$parts"
cp "$here"/{part} "$parts"/{part}.new
echo "{sha256}  $parts/{part}.new" | sha256sum -c - > /dev/null || {{ echo "{part} is damaged: bring it again" >&2; exit 1; }}
mv "$parts"/{part}.new "$parts"/{part}
missing=0
for part in {parts}; do [ -f "$parts/$part" ] || missing=$((missing + 1)); done
if [ $missing -gt 0 ]; then echo "{set}: piece {number} of {count} is here, $missing to come"; exit 0; fi
for part in {parts}; do cat "$parts/$part"; done | tar -xzf - -C "$to"
for part in {parts}; do rm "$parts/$part"; done
echo "{set} is complete in $to"
"""


class PackError(Exception):
    """What is missing and what the reader can do about it."""


def say(text):
    print(text, flush=True)


def files_below(root, path):
    """Paths of files, relative to root: of path itself or of all that lie below it."""
    full = os.path.join(root, path)
    if os.path.isfile(full):
        return [path]
    if not os.path.isdir(full):
        raise PackError(f"{path} is missing; fix: run `make pack_gpu`, which builds and fetches what is packed")
    found = [os.path.relpath(os.path.join(base, name), root) for base, _, names in os.walk(full, followlinks=True) for name in names]
    if not found:
        raise PackError(f"{path} is empty; fix: run `make pack_gpu`, which builds and fetches what is packed")
    return sorted(found)


def write_archive(target, files, links, level):
    """Write a tar.gz of files {name in the archive: path} and symbolic links {name: target}; equal contents give equal bytes."""
    with open(target, "wb") as raw, gzip.GzipFile("", "wb", level, raw, mtime=0) as packed, \
            tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in sorted([*files, *links]):
            member = tarfile.TarInfo(name)
            member.mtime = MTIME
            if name in links:
                member.type, member.linkname = tarfile.SYMTYPE, links[name]
                archive.addfile(member)
                continue
            state = os.stat(files[name])
            member.size, member.mode = state.st_size, 0o755 if state.st_mode & 0o100 else 0o644
            with open(files[name], "rb") as file:
                archive.addfile(member, file)


def cut(archive, piece):
    """Sizes of an archive's pieces: as few as keep each at most piece bytes, or one where piece is None."""
    size = os.path.getsize(archive)
    if piece is None:
        return [size]
    step = piece - PUT_BYTES
    return [min(step, size - begin) for begin in range(0, size, step)]


def write_pieces(archive, name, output, first, piece):
    """Cut the archive into folders output/NN, numbered from first, each with its script; returns the folders."""
    digest = hashlib.sha256()
    with open(archive, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    sizes = cut(archive, piece)
    # Named by the content, so that pieces of different packs never mix.
    parts = [f"{name}-{digest.hexdigest()[:12]}.{number:03d}" for number in range(len(sizes))]
    folders = []
    with open(archive, "rb") as file:
        for number, (part, size) in enumerate(zip(parts, sizes)):
            folder = os.path.join(output, f"{first + number:02d}")
            os.makedirs(folder)
            data = file.read(size)
            with open(os.path.join(folder, part), "wb") as out:
                out.write(data)
            with open(os.path.join(folder, "put"), "w", encoding="utf-8") as out:
                out.write(PUT.format(number=number + 1, count=len(parts), set=name, part=part, parts=" ".join(parts),
                                     sha256=hashlib.sha256(data).hexdigest()))
            folders.append(folder)
    return folders


def tracked(paths):
    done = subprocess.run(["git", "ls-files", "-z", "--", *paths], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return [path for path in done.stdout.split("\0") if path and os.path.isfile(os.path.join(ROOT, path))]


def build_test(name, scratch):
    """Build a test binary, unless it is there; its path."""
    path = os.path.join(scratch, name + ".test")
    if not os.path.exists(path):
        say(f"go test -c ./{TESTS[name]}")
        environment = {"CGO_CFLAGS": "-g -O2 -Wno-deprecated-declarations", **os.environ}  # as the Makefile has it
        subprocess.run([*shlex.split(os.environ.get("GO", "go")), "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", path, "./" + TESTS[name]],
                       cwd=ROOT, env=environment, check=True)
    return path


def work_files(scratch):
    files = {path: os.path.join(ROOT, path) for path in tracked(TRACKED)}
    for path in WORK + [path for path in ["dist/libbei_trt_10.so"] if os.path.exists(os.path.join(ROOT, path))]:
        files.update({name: os.path.join(ROOT, name) for name in files_below(ROOT, path)})
    files.update({f"tests/{name}.test": build_test(name, scratch) for name in TESTS})
    files["run_tests.py"] = os.path.join(ROOT, "scripts", "run_tests.py")
    files["tests/tests.json"] = os.path.join(scratch, "tests.json")
    with open(files["tests/tests.json"], "w", encoding="utf-8") as file:
        json.dump(TESTS, file)
    # A package's tests run in its folder, which exists only where it has files.
    keep = os.path.join(scratch, "keep")
    with open(keep, "w", encoding="utf-8"):
        pass
    files.update({folder + "/.keep": keep for folder in TESTS.values()})
    return files


def library_files():
    # Without what work brings: an older pack of the libraries would put an older one of it in its place.
    return {name: os.path.join(ROOT, name) for path in LIBRARIES for name in files_below(ROOT, path) if name not in WORK}


def plan_files(scratch):
    """Build the plans of the tests that need a GPU, in a process for each CPU; {name in the archive: path}."""
    binary, folder, count = build_test("trt", scratch), os.path.join(scratch, "plans"), os.cpu_count() or 1
    os.makedirs(folder)
    # Only what lies here: of another library's plans the tests have no use.
    given = {name: value for name, value in os.environ.items() if not name.startswith("BEI_")}
    variables = run_tests.environment({**given, "BEI_TEST_PLANS": folder}, gpu=False, root=ROOT)
    with contextlib.ExitStack() as stack:
        builders = []
        for part in range(count):
            log = stack.enter_context(open(os.path.join(scratch, f"plans-{part}.log"), "w+", encoding="utf-8", errors="replace"))
            builder = subprocess.Popen([binary, "-test.run=^TestPrebuild$", "-test.timeout=0"], cwd=os.path.join(ROOT, TESTS["trt"]),
                                       env={**variables, "BEI_TEST_PART": f"{part}/{count}"}, stdout=log, stderr=subprocess.STDOUT)
            builders.append((builder, log))
            stack.callback(builder.wait)
            stack.callback(builder.kill)  # where another fails, or Ctrl-C
        for builder, log in builders:
            while True:
                try:
                    status = builder.wait(PROGRESS_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    say(f"building plans: {sum(name.endswith('.plan') for name in os.listdir(folder))} so far")
            if status != 0:
                log.seek(0)
                raise PackError("the plans could not be built:\n" + "".join(log.readlines()[-20:]))
    return {f"plans/{name}": os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".plan")}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", default=os.path.join(ROOT, "dist", "gpu"),
                        help="folder of the packs, emptied first (default: dist/gpu)")
    parser.add_argument("--piece", type=int, metavar="MIB", help="cut into pieces of at most so many MiB (default: one for each set)")
    parser.add_argument("--only", choices=SETS, action="append", help="pack this set only, or these: it may be repeated")
    parser.add_argument("--level", type=int, default=6, choices=range(1, 10), metavar="1-9", help="compression (default: 6)")
    options = parser.parse_args()
    if options.piece is not None and options.piece < 1:
        parser.error(f"--piece {options.piece}: the least is 1 MiB")
    return options


def clear(output):
    """Empty the folder of an earlier pack; one that holds anything else is left alone."""
    if not os.path.isdir(output):
        return
    for name in os.listdir(output):
        folder = os.path.join(output, name)
        if name.startswith(PART):  # of a run that was killed
            continue
        if not (name.isdigit() and os.path.isfile(os.path.join(folder, "put"))):
            raise PackError(f"{output} holds {name}, which is no piece of a pack; fix: name another --output")
    shutil.rmtree(output)


def pack(options):
    if platform.machine() != "x86_64":
        raise PackError(f"the GPU libraries are for x86-64 only, and this machine is {platform.machine()}")
    output = os.path.abspath(options.output)
    clear(output)
    os.makedirs(output)
    piece = options.piece and options.piece << 20
    number = 0
    with tempfile.TemporaryDirectory(dir=output, prefix=PART) as scratch:
        collect = {"work": lambda: work_files(scratch), "libraries": library_files, "plans": lambda: plan_files(scratch)}
        for name in SETS:
            if options.only and name not in options.only:
                continue
            archive = os.path.join(scratch, "archive")
            files, links = collect[name](), LINKS if name == "work" else {}
            say(f"packing {name}: {len(files)} files, {sum(os.path.getsize(path) for path in files.values()) / 1e6:.0f} MB")
            write_archive(archive, files, links, options.level)
            folders = write_pieces(archive, name, output, number, piece)
            number += len(folders)
            for folder in folders:
                size = sum(os.path.getsize(os.path.join(folder, entry)) for entry in os.listdir(folder))
                say(f"  sh {os.path.relpath(folder)}/put   {size / (1 << 20):.1f} MiB of {name}")
    say("on the GPU machine: `sh NN/put` for each, then `python3 /tmp/bei-gpu/run_tests.py`")


def main():
    options = arguments()
    try:
        pack(options)
    except PackError as error:
        raise SystemExit(f"pack_gpu: {error}") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"pack_gpu: `{' '.join(error.cmd)}` failed with exit status {error.returncode}; its output is above") from None


if __name__ == "__main__":
    sys.exit(main())
