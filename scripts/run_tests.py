#!/usr/bin/env python3
"""Run the packed test binaries on a GPU machine, in parallel processes, and report.

    run_tests.py [--only trt,onnx,backend] [--run REGEX] [--jobs N] [--timeout SECONDS] [--seconds SECONDS] [--split BINARY/TEST=NAME,...]
                 [--keep REGEX] [--json FILE] [--no-gpu]

scripts/pack_gpu.py puts it at the root of what it packs. Each top-level test runs in a process of its own, and those of SPLIT in
several: one for each of the named subtests and one for all others, so that none is left out; those of PARTS in several again, each with
a part of the models. Those of ALONE, which measure time or memory or need several GPUs, run one after another when all others are done,
with all GPUs; the others are dealt among the GPUs, of which each sees one, unless CUDA_VISIBLE_DEVICES is set. The variables
BEI_GPU_TESTS (the number of GPUs that a process sees), NVIDIA_TF32_OVERRIDE=0, BEI_ROOT, BEI_DIST, BEI_TRT_SHIM_DIR,
BEI_TENSORRT_LIB, BEI_ONNXRUNTIME_CPU_LIB and LD_LIBRARY_PATH are set, the last with the folders of CUDA and cuDNN
beside this Python's torch, and BEI_TEST_PLANS where plans were packed; values that are set already win. The results go to --json
(default: results.json beside this file), which is written anew as each process ends, also before a signal (SIGINT, SIGTERM, SIGHUP) ends
this one and the tests that run:

    {"seconds": .., "counts": {"pass": ..}, "tests": [{"binary", "name", "status", "seconds", "output"}, ...]}

status is pass, fail, skip, or lost for a test that began and never ended, because its process died or ran out of time. output, the last
lines, is there for all but passes, and for those whose name --keep matches (default: GPU|CUDA). Exit status: 0 if all passed or were
skipped, 1 otherwise. Needs Python 3.9.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TAIL = 60  # lines of output that are kept
WORST = ["lost", "fail", "pass", "skip"]  # of a test that ran in several processes

# Long tests: names of subtests that get a process each. One that does not exist costs a process that runs nothing.
SPLIT = {
    "onnx": {
        "TestCUDA": ["float32", "float16", "bfloat16"],
        "TestCUDAForms": ["PackedMultiHeadAttention", "PagedAttention", "GroupQueryAttention", "MultiHeadAttention", "products"],
        "TestEmulatedCUDA": ["GroupQueryAttention", "MultiHeadAttention", "products"],
    },
    "trt": {
        "TestGPU": ["float32", "float16", "bfloat16"],
    },
}

# Tests over many models, and among how many processes these are dealt.
PARTS = {"trt": {"TestGPU": 10, "TestGPUFloat8": 10}, "onnx": {"TestCUDA": 5}}

# Tests that measure time or memory, or need several GPUs.
ALONE = re.compile(r"SteadyState|Idle|Resident|Allocations|ReleasesEverything|Replays|Replicas")

EVENT = re.compile(r"^=== (?:RUN|PAUSE|CONT|NAME) *(\S*)$")  # NAME without one: what follows is no test's
RESULT = re.compile(r"^ *--- (PASS|FAIL|SKIP): (\S+) \((\d+(?:\.\d+)?)s\)$")

RUNNING = set()  # processes of tests
STARTING = threading.Lock()  # held while one is started and put there

Shard = collections.namedtuple("Shard", "binary run skip part", defaults=("",))  # the patterns of -test.run and -test.skip; BEI_TEST_PART


def shards_of(binary, tests, split, parts):
    """The processes for these top-level tests; every subtest belongs to exactly one, or to one for each part of its models."""
    for test in tests:
        names = split.get(test, [])
        shards = [Shard(binary, f"^{test}$/^{re.escape(name)}$", "") for name in names]
        shards.append(Shard(binary, f"^{test}$", f"^{test}$/^({'|'.join(map(re.escape, names))})$" if names else ""))
        count = parts.get(test, 1)
        for shard in shards:
            yield from (shard._replace(part=f"{k}/{count}") for k in range(count)) if count > 1 else (shard,)


def parse(text):
    """Results of `-test.v=test2json` output: {name: (status, seconds, lines)}; and the lines that belong to no test."""
    results, lines, rest = {}, collections.defaultdict(list), []
    current = None
    # A mark precedes each line of the test framework, which may follow other output that has not ended its line.
    for line in re.sub("\n?\x16", "\n", text).lstrip("\n").splitlines():
        event, result = EVENT.match(line), RESULT.match(line)
        if event:
            current = event.group(1) or None
            if current:
                results.setdefault(current, ("lost", 0.0))
        elif result:
            status, current, seconds = result.groups()
            results[current] = (status.lower(), float(seconds))
        elif line in ("PASS", "FAIL") or line.startswith("exit status "):
            current = None
        else:
            (rest if current is None else lines[current]).append(line)
    return {name: (*result, lines[name]) for name, result in results.items()}, rest


def records(shard, text, code, seconds, keep="(?!)"):
    """A record of each test of a process that printed text and ended with this code (None: it ran out of time)."""
    results, rest = parse(text)
    found = []
    for name, (status, took, lines) in results.items():
        found.append({"binary": shard.binary, "name": name, "status": status, "seconds": took})
        if status != "pass" or re.search(keep, name) and lines:
            # What a dying process prints last says why its tests are lost.
            found[-1]["output"] = "\n".join((lines if status != "lost" else text.splitlines())[-TAIL:])
    if code != 0 and not any(record["status"] in ("fail", "lost") for record in found):
        why = "ran out of time" if code is None else f"ended with status {code}"
        found.append({"binary": shard.binary, "name": shard.run, "status": "lost", "seconds": seconds,
                      "output": f"the process {why}\n" + "\n".join(text.splitlines()[-TAIL:])})
    return found


def merge(found):
    """One record for each test: a parent of subtests runs in several processes."""
    merged = {}
    for record in found:
        key = record["binary"], record["name"]
        old = merged.get(key)
        if old is None:
            merged[key] = dict(record)
            continue
        worse = min(old, record, key=lambda r: WORST.index(r["status"]))
        merged[key] = {**worse, "seconds": round(old["seconds"] + record["seconds"], 3)}
    return list(merged.values())


def library_folders(site_packages):
    """Folders of CUDA's and cuDNN's libraries in a Python's folder of packages, as torch depends on them."""
    found = []
    nvidia = os.path.join(site_packages, "nvidia")
    for name in sorted(os.listdir(nvidia)) if os.path.isdir(nvidia) else []:
        folder = os.path.join(nvidia, name, "lib")
        if os.path.isdir(folder):
            found.append(folder)
    return found


def environment(given, gpu, root=HERE):
    """The variables for the tests, whose files lie below root."""
    dist = os.path.join(root, "dist")
    variables = {
        "BEI_ROOT": root, "BEI_DIST": dist, "BEI_TRT_SHIM_DIR": dist,
        "BEI_ONNXRUNTIME_CPU_LIB": os.path.join(root, ".deps", "onnxruntime", "libonnxruntime.so.1"),
        "BEI_TENSORRT_LIB": os.path.join(root, ".deps", "tensorrt", "lib", "libtensorrt_rtx.so.1"),
    }
    plans = os.path.join(root, "plans")
    if os.path.isdir(plans):
        variables["BEI_TEST_PLANS"] = plans
    if gpu:
        variables["BEI_GPU_TESTS"] = str(max(len(machine()), 1))
        variables["NVIDIA_TF32_OVERRIDE"] = "0"  # float32 means float32: TensorRT-RTX multiplies in TF32 otherwise
    variables.update(given)
    folders = [folder for folder in given.get("LD_LIBRARY_PATH", "").split(":") if folder]
    torch = importlib.util.find_spec("torch")
    if torch is not None and torch.origin:
        folders += library_folders(os.path.dirname(os.path.dirname(torch.origin)))
    folders += [folder for folder in ("/usr/local/cuda/lib64",) if os.path.isdir(folder)]
    variables["LD_LIBRARY_PATH"] = ":".join(folders)
    return variables


def dealt(variables, number, gpus):
    """The variables for process number of those that run side by side."""
    if gpus < 2 or "CUDA_VISIBLE_DEVICES" in variables or "BEI_GPU_TESTS" not in variables:
        return variables
    return {**variables, "CUDA_VISIBLE_DEVICES": str(number % gpus), "BEI_GPU_TESTS": "1"}


def list_tests(binary, folder, variables):
    done = subprocess.run([binary, "-test.list", "^Test"], cwd=folder, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line.startswith("Test")]


def end(number, _frame):
    """Handle a signal: no test outlives this process, to hold the GPU or to disturb what is measured next."""
    STARTING.acquire()  # for good: no test begins any more
    for process in list(RUNNING):
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.killpg(process.pid, signal.SIGKILL)
    os._exit(128 + number)


def run_shard(shard, folder, variables, timeout, deadline, keep):
    """The records of a shard, which ends after timeout seconds, or at the deadline."""
    if time.monotonic() >= deadline:
        return [{"binary": shard.binary, "name": shard.run, "status": "lost", "seconds": 0.0, "output": "the time was over before it began"}]
    command = [os.path.join(HERE, "tests", shard.binary + ".test"), "-test.v=test2json", "-test.count=1", "-test.timeout=0",
               f"-test.run={shard.run}"]
    if shard.skip:
        command.append(f"-test.skip={shard.skip}")
    begin = time.monotonic()
    if shard.part:
        variables = {**variables, "BEI_TEST_PART": shard.part}
    timeout = max(1, min(timeout, deadline - begin))
    # A session of its own: what the test starts ends with it.
    with STARTING:
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   start_new_session=True)
        RUNNING.add(process)
    with process:
        try:
            out, _ = process.communicate(timeout=timeout)
            code = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, _ = process.communicate()
            code = None
        finally:
            RUNNING.discard(process)
    return records(shard, out.decode("utf-8", "replace"), code, time.monotonic() - begin, keep)


def parse_split(texts):
    """{binary: {test: names}} of SPLIT and of arguments binary/TEST=NAME,... ."""
    split = {binary: dict(tests) for binary, tests in SPLIT.items()}
    for text in texts:
        found = re.fullmatch(r"(\w+)/(\w+)=([^,]+(?:,[^,]+)*)", text)
        if not found:
            raise SystemExit(f"run_tests: --split {text!r}: write it as trt/TestName=float32,float16")
        split.setdefault(found.group(1), {})[found.group(2)] = found.group(3).split(",")
    return split


def machine():
    """The GPUs, as nvidia-smi names them."""
    try:
        done = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def write_json(path, report):
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
    os.replace(path + ".new", path)


def summary(report):
    """The report as lines for a reader."""
    by_binary = collections.defaultdict(collections.Counter)
    for record in report["tests"]:
        by_binary[record["binary"]][record["status"]] += 1
    for record in report["tests"]:
        if record["status"] in ("fail", "lost"):
            yield f"--- {record['status']}: {record['binary']} {record['name']} ({record['seconds']:.1f} s)"
            yield from ("    " + line for line in record["output"].splitlines()[-25:])
    reasons = collections.Counter(record["output"].strip() for record in report["tests"] if record["status"] == "skip")
    for reason, count in reasons.most_common():
        yield f"skipped, {count}: {reason or 'no reason given'}"
    for binary, counts in by_binary.items():
        yield f"{binary}: " + ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    yield f"{len(report['tests'])} tests in {report['seconds']:.0f} s on {', '.join(report['gpus']) or 'no GPU'}"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", metavar="NAMES", help="test binaries, with commas between them (default: all)")
    parser.add_argument("--run", default="", metavar="REGEX", help="top-level tests whose name it matches (default: all)")
    parser.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1), metavar="N",
                        help="processes at a time (default: CPUs, up to 8)")
    parser.add_argument("--timeout", type=int, default=900, metavar="SECONDS", help="limit for a process (default: 900)")
    parser.add_argument("--seconds", type=int, default=3600, metavar="SECONDS",
                        help="limit for everything: what has not ended by then is lost (default: 3600)")
    parser.add_argument("--split", action="append", default=[], metavar="BINARY/TEST=NAME,...", help="subtests that get a process each")
    parser.add_argument("--keep", default="GPU|CUDA", metavar="REGEX",
                        help="names of passing tests whose output is kept (default: GPU|CUDA)")
    parser.add_argument("--json", default=os.path.join(HERE, "results.json"), metavar="FILE", help="results (default: results.json)")
    parser.add_argument("--no-gpu", action="store_true", help="do not set BEI_GPU_TESTS: run what needs no GPU")
    return parser.parse_args()


def main():
    options = arguments()
    with open(os.path.join(HERE, "tests", "tests.json"), encoding="utf-8") as file:
        folders = {name: os.path.join(HERE, folder) for name, folder in json.load(file).items()}
    chosen = options.only.split(",") if options.only else list(folders)
    unknown = [name for name in chosen if name not in folders]
    if unknown:
        raise SystemExit(f"run_tests: no test binary {', '.join(unknown)}; there are {', '.join(folders)}")
    split, variables = parse_split(options.split), environment(dict(os.environ), not options.no_gpu)
    begin, shards = time.monotonic(), []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    for name in chosen:
        tests = list_tests(os.path.join(HERE, "tests", name + ".test"), folders[name], variables)
        shards += shards_of(name, [test for test in tests if re.search(options.run, test)], split.get(name, {}), PARTS.get(name, {}))
    if not shards:
        raise SystemExit(f"run_tests: no test matches --run {options.run!r}")
    shards.sort(key=lambda shard: "/" not in shard.run)  # the long ones first
    found, gpus, deadline = [], machine(), begin + options.seconds

    def run(shard, given):
        return run_shard(shard, folders[shard.binary], given, options.timeout, deadline, options.keep)

    def report_of(found):
        tests = merge(found)
        return {"gpus": gpus, "seconds": round(time.monotonic() - begin, 1),
                "counts": dict(collections.Counter(record["status"] for record in tests)), "tests": tests}

    for alone, jobs in ((False, max(1, options.jobs)), (True, 1)):
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            turn = [shard for shard in shards if bool(ALONE.search(shard.run)) == alone]
            running = [pool.submit(run, shard, variables if alone else dealt(variables, k, len(gpus))) for k, shard in enumerate(turn)]
            for done in concurrent.futures.as_completed(running):
                found += done.result()
                write_json(options.json, report_of(found))  # what is known survives whatever ends this process
    report = report_of(found)
    print("\n".join(summary(report)))
    print(f"results: {options.json}")
    return 1 if report["counts"].get("fail") or report["counts"].get("lost") else 0


if __name__ == "__main__":
    sys.exit(main())
