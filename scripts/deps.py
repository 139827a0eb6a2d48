#!/usr/bin/env python3
"""Fetch and build what deps.json pins into .deps/.

    scripts/deps.py runtime|lint|tensorrt|kernels|gpu

Wheels come through pip, Go modules through go and crates through cargo, so the machine's own index and proxy settings apply. Every artefact is
checked against its pin, written under a temporary name and renamed, and recorded in .deps/stamps; a second run does nothing
and an interrupted one continues with the first unfinished artefact. Nothing is written outside .deps/ and the caches of pip,
go and cargo. Needs Python 3.9, and on the path what an artefact's kind asks for; a missing program is named with its fix.
"""

import base64
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DEPS = os.path.join(ROOT, ".deps")
PART = ".part-"  # scratch folders in DEPS

# Program -> (how to ask its version, oldest that works, how to get it).
PROGRAMS = {
    "pip": ([sys.executable, "-m", "pip", "--version"], (20, 3), "apt-get install python3-pip"),
    "go": (["go", "version"], (1, 21), "install Go 1.26 or newer and put its bin folder on PATH"),
    "cargo": (["cargo", "--version"], (1, 88), "install Rust 1.88 or newer with rustup (Debian's own package is older)"),
    "cc": ([*os.environ.get("CC", "cc").split(), "--version"], None, "apt-get install gcc libc6-dev"),
    "ar": (["ar", "--version"], None, "apt-get install binutils"),
}


class SetupError(Exception):
    """What went wrong and what the reader can do about it."""


def say(text):
    print(text, flush=True)


def require(*programs):
    for name in programs:
        command, oldest, fix = PROGRAMS[name]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        except OSError:
            raise SetupError(f"{name} is not on PATH; fix: {fix}") from None
        if done.returncode != 0:
            raise SetupError(f"{name} does not run ({' '.join(command)}: {done.stderr.strip()}); fix: {fix}")
        found = re.search(r"(\d+)\.(\d+)", done.stdout)
        if oldest and (found is None or tuple(map(int, found.groups())) < oldest):
            raise SetupError(f"{name} is too old ({done.stdout.strip()}); fix: {fix}")


def run(command, **kwargs):
    done = subprocess.run(command, **kwargs)
    if done.returncode != 0:
        raise SetupError(f"`{' '.join(command)}` failed with exit status {done.returncode}; its output is above")
    return done


def persist(download):
    """What download returns. It has three attempts: networks fail for moments."""
    for pause in (5, 20):
        try:
            return download()
        except SetupError as error:
            say(f"  {error}; once more in {pause} s")
            time.sleep(pause)
    return download()


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def check_sha256(path, expected, what):
    actual = sha256_of(path)
    if actual != expected:
        raise SetupError(f"{what}: sha256 is {actual}, pinned is {expected}; the download is damaged or was replaced")


def install(source, relative, executable=False):
    """Move a finished file to .deps/<relative>; readers see the old file or the new one, never a part."""
    target = os.path.join(DEPS, relative)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.chmod(source, 0o755 if executable else 0o644)
    os.replace(source, target)


# ---- the kinds of artefact; each gets its entry of deps.json and a scratch folder on the file system of .deps ----


def pinned_wheel(artefact):
    wheels = artefact["wheels"]
    wheel = wheels.get("any") or wheels.get(platform.machine())
    if wheel is None:
        raise SetupError(f"{artefact['name']}: no wheel is pinned for {platform.machine()}; pinned: {', '.join(wheels)}")
    return wheel


def fetch_wheel(artefact, scratch, config):
    require("pip")
    wheel = pinned_wheel(artefact)
    say(f"  wheel {artefact['package']}=={artefact['version']}, {wheel['size'] / 1e6:.1f} MB")
    requirements = os.path.join(scratch, "requirements.txt")
    with open(requirements, "w", encoding="utf-8") as file:
        file.write(f"{artefact['package']}=={artefact['version']} --hash=sha256:{wheel['sha256']}\n")
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
               "--require-hashes", "--requirement", requirements, "--dest", scratch]
    if "platform" in wheel:
        command += ["--platform", wheel["platform"]]
    if "abi" in wheel:
        # One build of the wheel is pinned, whichever Python runs this: only its shared library is used.
        command += ["--python-version", wheel.get("python", config["wheel_python"]), "--implementation", "cp", "--abi", wheel["abi"]]
    persist(lambda: run(command))
    files = [name for name in os.listdir(scratch) if name.endswith(".whl")]
    if len(files) != 1:
        raise SetupError(f"{artefact['name']}: pip left {files}, expected one wheel")
    path = os.path.join(scratch, files[0])
    check_sha256(path, wheel["sha256"], files[0])
    with zipfile.ZipFile(path) as archive:
        for entry in artefact["extract"]:
            extract_wheel_entry(archive, entry, scratch)


def extract_wheel_entry(archive, entry, scratch):
    """Copy one member, or with a trailing slash every member below it."""
    source, target = entry["from"], entry["to"]
    members = [name for name in archive.namelist() if name == source or (source.endswith("/") and name.startswith(source))]
    members = [name for name in members if not name.endswith("/")]
    if not members:
        raise SetupError(f"{archive.filename}: has no {source}")
    for name in members:
        relative = target + name[len(source):]
        if os.path.isabs(relative) or ".." in relative.split("/"):
            raise SetupError(f"{archive.filename}: member {name!r} leaves its folder")
        part = os.path.join(scratch, "member")
        with archive.open(name) as reader, open(part, "wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
        install(part, relative, entry.get("executable", False))


def fetch_crate(artefact, scratch, config):
    """Extract files of a crate's source, which cargo fetches into its own cache for a scratch project that depends on it."""
    require("cargo")
    name = f"{artefact['package']} {artefact['version']}"
    say(f"  crate {name}")
    os.mkdir(os.path.join(scratch, "src"))
    for path, text in {"src/lib.rs": "", "Cargo.toml": CRATE_MANIFEST.format(**artefact)}.items():
        with open(os.path.join(scratch, path), "w", encoding="utf-8") as file:
            file.write(text)
    # One target's dependencies: cargo fetches those of the crate too, though only its own files are used.
    target = f"{platform.machine()}-unknown-linux-gnu"
    persist(lambda: run(["cargo", "fetch", "--quiet", "--target", target], cwd=scratch))
    with open(os.path.join(scratch, "Cargo.lock"), encoding="utf-8") as file:
        check_crate(artefact, file.read())
    done = run(["cargo", "metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", target], cwd=scratch,
               stdout=subprocess.PIPE, text=True)
    folders = [os.path.dirname(package["manifest_path"]) for package in json.loads(done.stdout)["packages"]
               if package["name"] == artefact["package"]]
    if len(folders) != 1:
        raise SetupError(f"{name}: cargo names {len(folders)} folders of it, expected one")
    for entry in artefact["extract"]:
        extract_folder_entry(folders[0], entry, scratch)


# The table of a workspace keeps cargo from looking for one in the folders above.
CRATE_MANIFEST = """[package]
name = "fetch"
version = "0.0.0"
edition = "2021"

[dependencies]
{package} = "={version}"

[workspace]
"""


def check_crate(artefact, lock):
    """Compare the checksum in the text of Cargo.lock, which cargo has verified, with the pin."""
    blocks = [block for block in lock.split("[[package]]") if f'name = "{artefact["package"]}"\n' in block]
    found = [match.group(1) for match in (re.search(r'^checksum = "([0-9a-f]+)"$', block, re.MULTILINE) for block in blocks) if match]
    if found != [artefact["sha256"]]:
        raise SetupError(f"{artefact['package']} {artefact['version']}: sha256 in Cargo.lock is {', '.join(found) or 'missing'}, "
                         f"pinned is {artefact['sha256']}; the download was replaced")


def extract_folder_entry(folder, entry, scratch):
    """Copy one file of a folder, or with a trailing slash every file below it."""
    source = os.path.join(folder, entry["from"])
    if entry["from"].endswith("/"):
        files = [os.path.join(base, name) for base, _, names in os.walk(source) for name in names]
    else:
        files = [source] if os.path.isfile(source) else []
    if not files:
        raise SetupError(f"{os.path.basename(folder)}: has no {entry['from']}")
    for path in files:
        part = os.path.join(scratch, "member")
        shutil.copyfile(path, part)
        install(part, entry["to"] + path[len(source):])


def go_environment(**extra):
    # Outside every module and workspace, so that no go.mod or go.sum is read or changed and no user flag interferes.
    return {**os.environ, "GOFLAGS": "", "GOWORK": "off", "GO111MODULE": "on", **extra}


def go_module(artefact, scratch):
    """Download the module at its pin and return its folder in the module cache."""
    require("go")
    version = required_version(artefact["module"])
    if version not in (None, artefact["version"]):
        raise SetupError(f"{artefact['module']}: deps.json pins {artefact['version']}, go.mod requires {version}; make them equal")
    name = f"{artefact['module']}@{artefact['version']}"
    say(f"  Go module {name}")
    module = persist(lambda: download_go_module(name, scratch))
    if module["Sum"] != artefact["sum"]:
        raise SetupError(f"{name}: checksum is {module['Sum']}, pinned is {artefact['sum']}")
    return module["Dir"]


def download_go_module(name, scratch):
    """What go says of the module that it has downloaded."""
    done = subprocess.run(["go", "mod", "download", "-json", name], cwd=scratch, env=go_environment(),
                          stdout=subprocess.PIPE, text=True)
    try:
        module = json.loads(done.stdout)
    except ValueError:
        raise SetupError(f"go mod download {name} failed; its output is above") from None
    if done.returncode != 0:
        raise SetupError(f"go mod download {name}: {module.get('Error')}")
    return module


def required_version(module):
    """Version of the module that go.mod requires, or None."""
    try:
        with open(os.path.join(ROOT, "go.mod"), encoding="utf-8") as file:
            found = re.search(r"^(?:require)?\s+" + re.escape(module) + r"\s+(v\S+)", file.read(), re.MULTILINE)
    except FileNotFoundError:
        return None
    return found and found.group(1)


def fetch_go_module(artefact, scratch, config):
    folder = go_module(artefact, scratch)
    for entry in artefact["extract"]:
        part = os.path.join(scratch, "member")
        shutil.copyfile(os.path.join(folder, entry["from"]), part)
        check_sha256(part, entry["sha256"], entry["from"])
        install(part, entry["to"])


def build_go_tool(artefact, scratch, config):
    go_module(artefact, scratch)
    package = f"{artefact['module']}/{artefact['package']}@{artefact['version']}"
    say(f"  go install {package}")
    # It downloads what the module requires.
    persist(lambda: run(["go", "install", package], cwd=scratch, env=go_environment(GOBIN=scratch, CGO_ENABLED="0")))
    install(os.path.join(scratch, os.path.basename(artefact["to"])), artefact["to"], executable=True)


def build_nvml(artefact, scratch, config):
    require("cc", "ar")
    header = os.path.join(go_module(artefact, scratch), artefact["header"])
    source, unit, archive = (os.path.join(scratch, name) for name in ("nvml_forward.c", "nvml_forward.o", "archive.a"))
    run([sys.executable, os.path.join(ROOT, artefact["recipe"][0]), header, source])
    run([*os.environ.get("CC", "cc").split(), "-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror",
         "-Wno-deprecated-declarations", "-I", os.path.dirname(header), "-c", "-o", unit, source])
    run(["ar", "rcsD", archive, unit])
    install(archive, artefact["to"])


def build_ptx(artefact, scratch, config):
    target = os.path.join(scratch, os.path.basename(artefact["to"]))
    source, script = (os.path.join(ROOT, path) for path in artefact["recipe"])
    run([sys.executable, script, "--nvrtc", os.path.join(DEPS, artefact["compiler"]), source, target])
    install(target, artefact["to"])


def build_tokenizers(artefact, scratch, config):
    """Build libtokenizers.a from the Go module's own Rust source.

    Its manifest takes tiktoken-rs from a git repository; the replacement takes the release from the crate registry. It also
    leaves out the crate's training code, which is the only C++ in it: the library then needs no C++ runtime.
    """
    require("cargo", "cc", "ar")
    folder = go_module(artefact, scratch)
    build = os.path.join(DEPS, "build", "tokenizers")  # kept when interrupted, so that cargo continues
    shutil.copytree(folder, build, dirs_exist_ok=True, copy_function=copy_writable, ignore=shutil.ignore_patterns("test"))
    manifest = os.path.join(build, "Cargo.toml")
    with open(manifest, encoding="utf-8") as file:
        text = file.read()
    for old, new in artefact["replace"].items():
        if text.count(old) != 1:
            raise SetupError(f"{artefact['module']}: Cargo.toml has {text.count(old)} lines {old!r}, expected one")
        text = text.replace(old, new)
    with open(manifest, "w", encoding="utf-8") as file:
        file.write(text)
    copy_writable(os.path.join(ROOT, artefact["recipe"][0]), os.path.join(build, "Cargo.lock"))
    target = os.path.join(build, "target")
    machine = f"{platform.machine()}-unknown-linux-gnu"
    persist(lambda: run(["cargo", "fetch", "--quiet", "--locked", "--target", machine, "--manifest-path", manifest], cwd=build))
    say("  cargo build --release (two to four minutes on two cores)")
    run(["cargo", "build", "--release", "--locked", "--lib", "--target-dir", target, "--manifest-path", manifest], cwd=build)
    install(os.path.join(target, "release", "libtokenizers.a"), artefact["to"])
    # The Go binding asks the linker for libstdc++, which nothing uses: an empty archive answers, so that neither g++ is
    # needed to build nor libstdc++.so to run.
    empty = os.path.join(scratch, "libstdc++.a")
    run(["ar", "rcD", empty])
    install(empty, os.path.join(os.path.dirname(artefact["to"]), "libstdc++.a"))
    shutil.rmtree(build)


def copy_writable(source, target):
    # The module cache is read-only; cargo compares modification times.
    if os.path.exists(target):
        os.remove(target)
    shutil.copy2(source, target)
    os.chmod(target, 0o644)
    return target


KINDS = {"wheel": fetch_wheel, "crate": fetch_crate, "gomodule": fetch_go_module, "gotool": build_go_tool, "nvml": build_nvml,
         "ptx": build_ptx, "tokenizers": build_tokenizers}


# ---- stamps ----


def pin_of(artefact):
    """Digest of all that decides the artefact's content: its entry, the machine, and the files of its recipe."""
    digest = hashlib.sha256(json.dumps([artefact, platform.machine()], sort_keys=True).encode())
    for path in artefact.get("recipe", []):
        digest.update(sha256_of(os.path.join(ROOT, path)).encode())
    return base64.b16encode(digest.digest()).decode().lower()


def outputs_of(artefact):
    return [artefact["to"]] if "to" in artefact else [entry["to"] for entry in artefact["extract"]]


def is_done(artefact, stamp, pin):
    try:
        with open(stamp, encoding="utf-8") as file:
            recorded = file.read().strip()
    except FileNotFoundError:
        return False
    return recorded == pin and all(os.path.exists(os.path.join(DEPS, path)) for path in outputs_of(artefact))


def fetch(artefact, label, config):
    stamp = os.path.join(DEPS, "stamps", artefact["name"])
    pin = pin_of(artefact)
    if is_done(artefact, stamp, pin):
        return
    say(f"[{label}] {artefact['name']} {artefact['version']}")
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(dir=DEPS, prefix=PART) as scratch:
        KINDS[artefact["kind"]](artefact, scratch, config)
        part = os.path.join(scratch, "stamp")
        with open(part, "w", encoding="utf-8") as file:
            file.write(pin + "\n")
        install(part, os.path.join("stamps", artefact["name"]))
    say(f"  done in {time.monotonic() - begin:.1f} s")


def check_machine(group, config):
    if sys.version_info < (3, 9):
        raise SetupError(f"Python {platform.python_version()} is too old; fix: run with Python 3.9 or newer")
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise SetupError(f"{sys.platform} on {platform.machine()} is not supported; supported: Linux on x86_64 and aarch64")
    if platform.libc_ver()[0] != "glibc":
        raise SetupError("this C library is not glibc, which ONNX Runtime's library needs; use Debian, Ubuntu or the like")
    only = config.get("x86_64_only", {}).get(group)
    if only and platform.machine() != "x86_64":
        raise SetupError(f"group {group}: {only} are for x86-64 only, and this machine is {platform.machine()}; "
                         "fix: build and test this part on x86-64. `make setup` and `make build` need none of it")


def main():
    with open(os.path.join(ROOT, "deps.json"), encoding="utf-8") as file:
        config = json.load(file)
    groups = sorted({artefact["group"] for artefact in config["artefacts"]})
    if len(sys.argv) != 2 or sys.argv[1] not in groups:
        raise SystemExit(f"usage: deps.py {'|'.join(groups)}")
    try:
        check_machine(sys.argv[1], config)
        os.makedirs(DEPS, exist_ok=True)
        with open(os.path.join(DEPS, "lock"), "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second `make` waits instead of fetching the same again
            for name in os.listdir(DEPS):
                if name.startswith(PART):  # of a run that was killed; the lock says that nobody uses it
                    shutil.rmtree(os.path.join(DEPS, name))
            chosen = [artefact for artefact in config["artefacts"] if artefact["group"] == sys.argv[1]]
            for number, artefact in enumerate(chosen, start=1):
                fetch(artefact, f"{number}/{len(chosen)}", config)
    except SetupError as error:
        raise SystemExit(f"deps: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("deps: interrupted; run it again to continue") from None


if __name__ == "__main__":
    main()
