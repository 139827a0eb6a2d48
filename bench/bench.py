"""Speed and memory of libbei.so beside sentence-transformers, on the real all-MiniLM-L6-v2. `make bench` runs it.

    python3 bench/bench.py [--rounds 5] [--json FILE]     both contenders; minutes. Makes .deps/venv-bench at first (3 GB)
    python3 bench/bench.py --no-peer                      ours alone, a minute: that it runs and prints

Each contender lives in its own process with the same processors and number of threads. Both stay alive and take turns, so that a
change in the machine's speed meets both, and the order changes from round to round; the processor time of whoever waits is
measured and printed. Medians are compared.

    texts      256 texts of 8 to 256 tokens in arrival order: bei_embed_texts, encode (which sorts them and takes batches of 32)
    batch      the same tokens as one token batch: bei_embed, beside the same encode
    latency    one text of 19 tokens
    memory     resident memory from before bei_init to after ten calls with all texts, against the size of the weights

Targets are printed as met or missed and change nothing: the exit status is 0 unless something failed to run.
"""

import argparse
import datetime
import hashlib
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
import venv

import report
import workload
from contender import Contender, cosines, progress

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
LATENCY_CALLS = 20


def worker(name: str, python: str, kind: str, settings: dict) -> Contender:
    return Contender(name, [python, str(HERE / "worker.py"), kind, json.dumps(settings)], {"OMP_NUM_THREADS": str(settings["threads"])})


class Idle:
    """Sums the time that others computed while one was measured."""

    def __init__(self, contenders: list[Contender]):
        self.contenders, self.busy, self.wall = contenders, 0.0, 0.0

    def ask(self, contender: Contender, **job) -> dict:
        time.sleep(0.2)  # threads that spin a moment after their work go to sleep
        others = [other for other in self.contenders if other is not contender]
        cpu, wall = sum(other.cpu_seconds() for other in others), time.perf_counter()
        answer = contender.ask(**job)
        self.busy += sum(other.cpu_seconds() for other in others) - cpu
        self.wall += time.perf_counter() - wall
        return answer

    def share(self) -> float:
        return self.busy / self.wall if self.wall else 0.0


def processors(threads: int) -> list[int]:
    """One allowed processor of each of the first physical cores, so that two threads do not share one core."""
    chosen, seen = [], set()
    for cpu in sorted(os.sched_getaffinity(0)):
        path = pathlib.Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        siblings = path.read_text().strip() if path.exists() else str(cpu)
        if siblings not in seen:
            seen.add(siblings)
            chosen.append(cpu)
    if len(chosen) < threads:
        chosen = sorted(os.sched_getaffinity(0))
    return chosen[:threads]


def peer_python() -> str:
    """The interpreter of .deps/venv-bench, made when it is missing or its requirements changed."""
    folder, requirements = ROOT / ".deps" / "venv-bench", HERE / "requirements.txt"
    pins = requirements.read_bytes() + (ROOT / "testdata" / "requirements.txt").read_bytes()
    stamp, wanted = folder / "requirements.sha256", hashlib.sha256(pins).hexdigest()
    python = folder / "bin" / "python"
    if not (python.exists() and stamp.exists() and stamp.read_text() == wanted):
        print(f"making {folder.relative_to(ROOT)} for the peer (torch and sentence-transformers, about 3 GB)", file=sys.stderr)
        try:
            venv.create(folder, with_pip=True, clear=True)
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{folder}: {error}; fix: apt-get install python3-venv") from None
        subprocess.run([python, "-m", "pip", "install", "--disable-pip-version-check", "-r", requirements], check=True, stdout=sys.stderr)
        stamp.write_text(wanted)
    return str(python)


def measure(arguments: argparse.Namespace, settings: dict) -> dict:
    """Runs everything and returns the numbers that the table and the JSON file are made of."""
    progress(f"memory: a fresh process, {settings['memory_calls']} calls with {settings['texts']} texts")
    fresh = worker("memory", sys.executable, "memory", settings)
    try:
        memory = fresh.reply()
    finally:
        fresh.close()

    progress("starting the contenders")
    contenders = {"bei": worker("bei", sys.executable, "bei", settings)}
    try:
        if not arguments.no_peer:
            contenders["peer"] = worker("peer", arguments.peer_python or peer_python(), "peer", settings)
        ready = {name: contender.reply() for name, contender in contenders.items()}
        counts = {name: (answer["tokens"], answer["latency_tokens"]) for name, answer in ready.items()}
        expected = (workload.make(settings["model"], settings["texts"]).tokens, workload.LATENCY_TOKENS)
        for name, count in counts.items():
            if count != expected:
                raise RuntimeError(f"{name} counts {count} tokens in the texts and in the latency text, want {expected}")
        vectors = {name: contender.ask(job="vectors")["float32"] for name, contender in contenders.items()}
        batch_vectors = contenders["bei"].ask(job="vectors", path="batch")["float32"]
        agreement = {"bei texts / bei batch": min(cosines(vectors["bei"], batch_vectors, settings["texts"]))}
        if "peer" in vectors:
            agreement["bei texts / peer"] = min(cosines(vectors["bei"], vectors["peer"], settings["texts"]))

        idle = Idle(list(contenders.values()))
        jobs = [("bei", "texts"), ("bei", "batch"), *([("peer", "texts")] if "peer" in contenders else [])]
        seconds: dict[str, list[float]] = {}
        for i in range(arguments.rounds):
            progress(f"round {i + 1} of {arguments.rounds}")
            for k in range(len(jobs)):
                name, job = jobs[(i + k) % len(jobs)]
                seconds.setdefault(f"{name} {job}", []).append(idle.ask(contenders[name], job=job)["seconds"])
            for name in list(contenders)[:: -1 if i % 2 else 1]:
                answer = idle.ask(contenders[name], job="latency", calls=LATENCY_CALLS)
                seconds.setdefault(f"{name} latency", []).extend(answer["seconds"])
    finally:
        for contender in contenders.values():
            contender.close()
    tokens, latency_tokens = expected
    return {
        "tokens": tokens,
        "latency_tokens": latency_tokens,
        "seconds": seconds,
        "medians": {name: statistics.median(values) for name, values in seconds.items()},
        "memory": memory,
        "min_cosine": agreement,
        "idle_cpu_share": idle.share(),
        "versions": {key: value for answer in ready.values() for key, value in answer["versions"].items()},
    }


def conditions(settings: dict, rounds: int) -> dict:
    info = pathlib.Path("/proc/cpuinfo").read_text()
    names = {line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")}
    flags = next((line.split() for line in info.splitlines() if line.startswith("flags")), [])
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": ", ".join(sorted(names)) or platform.machine(),
        "cpu_features": [name for name in ("avx2", "fma", "avx512f", "avx512_vnni", "amx_tile") if name in flags],
        "cpus": os.cpu_count(),
        "cpus_used": settings["cpus"],
        "threads": settings["threads"],
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "kernel": platform.release(),
        "texts": settings["texts"],
        "rounds": rounds,
        "memory_calls": settings["memory_calls"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=ROOT / ".deps/models/all-MiniLM-L6-v2", type=pathlib.Path, help="the model's folder")
    parser.add_argument("--library", default=ROOT / "dist/libbei.so", type=pathlib.Path, help="libbei.so")
    parser.add_argument("--rounds", type=int, help="times that each job runs (default 5, with --no-peer 2)")
    parser.add_argument("--texts", type=int, help="texts of the throughput jobs (default 256, with --no-peer 64)")
    parser.add_argument("--threads", type=int, default=2, help="threads and processors of each contender (default 2)")
    parser.add_argument("--no-peer", action="store_true", help="run libbei.so alone, in a minute")
    parser.add_argument("--peer-python", help="an interpreter that has bench/requirements.txt, in place of .deps/venv-bench")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write all numbers there as well")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (2 if arguments.no_peer else 5)
    for path, fix in ((arguments.model, "make setup"), (arguments.library, "make build")):
        if not path.exists():
            parser.error(f"{path} is missing: run `{fix}` first")
    settings = {
        "model": str(arguments.model.resolve()),
        "library": str(arguments.library.resolve()),
        "threads": arguments.threads,
        "cpus": processors(arguments.threads),
        "texts": arguments.texts or (64 if arguments.no_peer else 256),
        "memory_calls": 10,
    }
    result = {"conditions": conditions(settings, arguments.rounds)}
    try:
        result |= measure(arguments, settings)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    result["weights_bytes"] = sum(file.stat().st_size for file in arguments.model.glob("*.safetensors"))
    result["targets"] = report.targets(result)
    print(report.markdown(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
