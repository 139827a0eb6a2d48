"""Speed on a GPU: our engines beside torch eager and torch.compile, in one run and one table. `make bench_gpu` runs it.

    python3 bench/gpu/bench.py [--models bert-base] [--contenders trt-fp16,eager] [--rounds 5] [--json FILE]

It needs a built `bei` (dist/bei, or --bei) with the libraries of its engines, and torch, transformers and safetensors for the peers;
on a machine without Go, bring dist/ along. Model folders with seeded random weights are made in --work at first (models.py).

Each contender lives in processes of its own, which stay alive and take turns, round by round, in changing order. Before that
each runs every batch once: our engines build their plans and measure their shapes, one after another, then torch.compile
compiles, in half of the time at least. A contender that fails is a row that says why. Ours are measured as the library's embed call and
as the bare engine, one batch at a time and, for the largest batch, with two in flight. The vectors of all are compared with
torch's in fp32.

Targets are printed as pass or miss and change nothing: the exit status is 0 unless nothing could be measured. SIGTERM and Ctrl-C end
the rounds: what was measured by then is printed.
"""

from __future__ import annotations

import argparse
import array
import base64
import datetime
import json
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(1, str(HERE.parent))

import batches as token_batches  # noqa: E402 what follows lies in the folders above
import contenders  # noqa: E402
import models  # noqa: E402
import tables  # noqa: E402
from contender import CLOSE_SECONDS, cosines, progress  # noqa: E402

# Those of the targets come first: they are compiled first.
BATCHES = ["1x32", "mixed64", "32x512", "8x512", "8x128", "1x512", "128x128"]
PREPARE_SHARE = 0.7  # of the time of a model, at most
TORCH_SHARE = 0.5  # of that, at least
COMPILE_SHARE = 0.6  # of that, in which another shape may be begun
FIRST_ITERATIONS, LEAST_ITERATIONS, MOST_ITERATIONS = 5, 3, 100


def jobs_of(groups: list[contenders.Group], batch: str, in_flight_batches: list[str], number: int) -> list[tuple]:
    """What is measured of a batch in a round: contender, kind, batches in flight, batch. Each round begins with another one."""
    jobs = []
    for group in groups:
        if contenders.is_ours(group.name):
            flights = (1, tables.ADDED_IN_FLIGHT) if batch in in_flight_batches else (1,)
            jobs += [(group, kind, in_flight, batch) for in_flight in flights for kind in ("runtime", "engine")]
        else:
            jobs.append((group, "runtime", 1, batch))
    first = number % len(jobs)
    return jobs[first:] + jobs[:first]


def iterations(seconds: list[float], turn: float) -> int:
    """Calls that fill a turn, from what the turns before took."""
    if not seconds:
        return FIRST_ITERATIONS
    return min(max(round(turn / statistics.median(seconds)), LEAST_ITERATIONS), MOST_ITERATIONS)


def rounds(groups: list[contenders.Group], names: list[str], arguments: argparse.Namespace, deadline: float) -> tuple[dict, int, bool]:
    """Lets the contenders take turns. Returns seconds by tables.key, the number of whole rounds, and whether a signal has ended them."""
    seconds: dict[str, list[float]] = {}
    whole = 0
    try:
        for whole in range(arguments.rounds):
            progress(f"round {whole + 1} of {arguments.rounds}")
            for job in [job for batch in names for job in jobs_of(groups, batch, arguments.in_flight, whole)]:
                if time.monotonic() > deadline:
                    return seconds, whole, False
                take_turn(*job, arguments.turn, seconds)
    except KeyboardInterrupt:
        return seconds, whole, True
    return seconds, arguments.rounds, False


def take_turn(group: contenders.Group, kind: str, in_flight: int, batch: str, turn: float, seconds: dict[str, list[float]]) -> None:
    """One contender's calls with a batch; what they took goes into seconds."""
    if not group.works(batch):
        return
    name = tables.key(group.name, batch, kind, in_flight)
    job = {"batch": batch, "iterations": iterations(seconds.get(name, []), turn)}
    if contenders.is_ours(group.name):
        job |= {"kind": kind, "in_flight": in_flight}
    answer = group.ask(batch, job)
    if answer:
        seconds.setdefault(name, []).extend(answer["seconds"])


def compare(groups: list[contenders.Group], folder: pathlib.Path, arguments: argparse.Namespace) -> tuple[dict, str, float | None]:
    """Each contender's agreement with the reference, a tuple of the least cosine, and the least when the mean of the reference's vectors
    is taken off first, or why there is none; what the reference is; and the greatest cosine of two of its different sequences."""
    agreements, errors = {}, {}
    vectors = {group.name: ask_vectors(group, arguments.vectors, errors) for group in groups}
    jobs = [{"vectors": batch} for batch in arguments.vectors]
    try:
        answers = contenders.once("reference", [str(folder), "--device", arguments.device], arguments.prepare_seconds, jobs)
        reference, what = dict(zip(arguments.vectors, answers)), "torch in fp32"
    except contenders.FAULTS as error:
        first = max(vectors, key=lambda name: len(vectors[name]))  # the first of those that have most
        reference, what = vectors[first], f"{tables.label(first)}, since there is no other ({error})"
    for name, answers in vectors.items():
        common = [batch for batch in answers if batch in reference]
        try:
            pairs = [agreement(answers[batch], reference[batch]) for batch in common]
            agreements[name] = [min(pair[i] for pair in pairs) for i in range(2)] if pairs else errors.get(name, "none of the batches")
        except (RuntimeError, ZeroDivisionError) as error:
            agreements[name] = str(error)
    return agreements, what, max((alike(answer) for answer in reference.values() if answer["rows"] > 1), default=None)


def ask_vectors(group: contenders.Group, names: list[str], errors: dict[str, str]) -> dict[str, dict]:
    """A contender's vectors of each batch that it has. torch.compile is asked for batches that it has compiled only."""
    answers = {}
    for batch in names:
        worker = next((worker for name, worker in group.workers.items() if group.works(name)), None)
        if group.name in contenders.COMPILED:
            worker = group.workers[batch] if group.works(batch) else None
        if worker is None:
            errors[group.name] = next(iter(group.failures.values()), f"it has compiled none of {', '.join(names)}")
            continue
        try:
            worker.tell(vectors=batch)
            answer = worker.reply(contenders.ANSWER_SECONDS)
            if "error" in answer:
                raise RuntimeError(answer["error"])
            answers[batch] = answer
        except contenders.FAULTS as error:
            errors[group.name] = str(error)
    return answers


def agreement(answer: dict, reference: dict) -> tuple[float, float]:
    """The least cosine of the rows of two answers, plain, and without the mean of the reference's rows: vectors of random
    weights are much alike, so that only the latter tells right from wrong."""
    rows = reference["rows"]
    plain = min(cosines(answer["float32"], reference["float32"], rows))
    if rows == 1:
        return plain, plain
    values = array.array("f", base64.b64decode(reference["float32"]))
    width = len(values) // rows
    mean = [sum(values[k::width]) / rows for k in range(width)]

    def centred(text: str) -> str:
        values = array.array("f", base64.b64decode(text))
        return base64.b64encode(array.array("f", (value - mean[i % width] for i, value in enumerate(values))).tobytes()).decode()

    return plain, min(cosines(centred(answer["float32"]), centred(reference["float32"]), rows))


def alike(answer: dict) -> float:
    """The greatest cosine of two neighbouring rows of vectors."""
    data = base64.b64decode(answer["float32"])
    row = len(data) // answer["rows"]
    return max(cosines(answer["float32"], base64.b64encode(data[row:] + data[:row]).decode(), answer["rows"]))


def prepare(groups: dict[str, contenders.Group], folder: pathlib.Path, arguments: argparse.Namespace, settings: dict, seconds: float) -> None:
    """Fills groups with the contenders, ready. Ours open one after another, since they measure shapes as they open, which decides how they
    run; then torch's side by side, for whom a share of the time is kept."""
    end = time.monotonic() + seconds

    def prepare_one(name: str, seconds: float) -> None:
        begin = time.monotonic()
        groups[name].prepare(seconds)
        progress(f"{name}: prepared in {time.monotonic() - begin:.0f} s, {len(groups[name].failures)} of {len(arguments.batches)} batches failed")

    ours = [name for name in arguments.contenders if contenders.is_ours(name)]
    theirs = [name for name in arguments.contenders if not contenders.is_ours(name)]
    for name in ours:
        groups[name] = contenders.make(name, folder, arguments.batches, settings)
        prepare_one(name, end - (TORCH_SHARE * seconds if theirs else 0) - time.monotonic())
    settings = settings | {"compile_seconds": min(arguments.compile_seconds, COMPILE_SHARE * (end - time.monotonic()))}
    groups |= {name: contenders.make(name, folder, arguments.batches, settings) for name in theirs}
    threads = [threading.Thread(target=prepare_one, args=(name, end - time.monotonic())) for name in theirs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def close(groups: list[contenders.Group], hurry: bool) -> None:
    """Ends the workers, in a hurry those that are at work as well. No signal disturbs it."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for group in groups:
            group.close(0 if hurry else CLOSE_SECONDS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def make_folder(shape: str, arguments: argparse.Namespace, fp8: bool) -> pathlib.Path:
    """The model's folder, made where it is missing."""
    folder = arguments.work / shape
    if (folder / "model.safetensors").exists() and (not fp8 or (folder / "bei-fp8.json").exists()):
        return folder
    progress(f"{shape}: writing {folder}")
    command = [sys.executable, str(HERE / "models.py"), shape, str(folder), "--device", arguments.device, *(["--fp8"] if fp8 else [])]
    if subprocess.run(command, stdout=sys.stderr).returncode != 0:
        if not (folder / "model.safetensors").exists():
            raise RuntimeError(f"{folder} could not be made; the message is above")
        progress(f"{shape}: no bei-fp8.json; an engine in FP8 will say that it lacks it")
    return folder


def measure(shape: str, arguments: argparse.Namespace, deadline: float) -> dict:
    """Everything about one model."""
    config = models.SHAPES[shape]
    dtype = "float32" if arguments.device == "cpu" else models.HALF[config["model_type"]]
    names = arguments.batches
    result = {
        "shape": shape, "model_type": config["model_type"], "dtype": dtype,
        "batches": {name: {"tokens": sum(sizes), "flops": models.flops(config, sizes)} for name in names for sizes in [token_batches.lengths(name)]},
    }  # fmt: skip
    folder = make_folder(shape, arguments, any("float8" in arguments.flags.get(name, contenders.BEI.get(name, "")) for name in arguments.contenders))
    settings = {
        "bei": str(arguments.bei), "flags": arguments.flags, "device": arguments.device, "dtype": dtype,
        "compile_processes": arguments.compile_processes,
    }  # fmt: skip
    try:
        options = ["--dtype", dtype, "--device", arguments.device]
        [peak] = contenders.once("peak", options, arguments.prepare_seconds, [{"peak": arguments.peak}])
        result |= {"peak_flops": peak["flops"], "peak_error": ""}
    except contenders.FAULTS as error:
        result |= {"peak_flops": None, "peak_error": f"not measured: {error}"}
    limit = min(arguments.prepare_seconds, PREPARE_SHARE * max(deadline - time.monotonic(), 1))
    made, ended = {}, True
    try:
        progress(f"{shape}: preparing {', '.join(arguments.contenders)} ({limit:.0f} s at most)")
        prepare(made, folder, arguments, settings, limit)
        groups = [made[name] for name in arguments.contenders]
        for group in groups:
            for batch, why in group.failures.items():
                progress(f"{group.name} {batch}: {why}")
        agreements, reference, likeness = compare(groups, folder, arguments)
        seconds, whole, ended = rounds(groups, names, arguments, deadline)
    finally:
        close(list(made.values()), hurry=ended)
    return result | {
        "seconds": seconds, "rounds": whole, "ended": ended, "reference": reference, "alike": likeness,
        "contenders": {
            group.name: {
                "ready": group.ready, "failures": group.failures, "agreement": agreements[group.name], "command": group.command,
            }
            for group in groups
        },
    }  # fmt: skip


def gpu() -> str:
    """Name, driver and limits of the first GPU."""
    query = "name,driver_version,memory.total,clocks.max.sm,power.limit"
    try:
        run = subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        return f"no GPU known ({error})"
    fields = [field.strip() for field in run.stdout.splitlines()[0].split(",")]
    return "{}, driver {}, {}, SM clock to {}, power to {}".format(*fields)


def conditions(arguments: argparse.Namespace) -> dict:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "gpu": gpu(), "cpu": ", ".join(sorted(names)) or platform.machine(), "cpus": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0], "python": platform.python_version(), "kernel": platform.release(), "peak": arguments.peak,
    }  # fmt: skip


def words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    known = ", ".join([*contenders.BEI, *contenders.TORCH])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", type=words, default=["bert-base", "qwen3-0.6b"], help=f"shapes, of {', '.join(models.SHAPES)} (default: bert-base,qwen3-0.6b)")
    add("--contenders", type=words, default=contenders.DEFAULT, help=f"of {known} (default: {','.join(contenders.DEFAULT)})")
    add("--add", action="append", default=[], metavar="NAME=FLAGS", help="another contender of ours: flags of `bei bench`; may be repeated")
    add("--batches", type=words, default=BATCHES, help=f"as `bei bench` names them (default: {','.join(BATCHES)})")
    add("--in-flight", type=words, default=[tables.LARGE_BATCH], metavar="BATCHES", help="batches also measured with two in flight (default: %(default)s)")
    add("--rounds", type=int, default=5, help="times that all take turns (default %(default)s)")
    add("--turn", type=float, default=0.25, help="seconds of a turn, about (default %(default)s)")
    add("--seconds", type=float, default=1500, help="time for everything; models share it, and rounds end with it (default %(default)s)")
    add("--prepare-seconds", type=float, default=480, help="time for plans and compilers of a model (default %(default)s)")
    add("--compile-seconds", type=float, default=200, help="time in which torch.compile may begin with another shape (default %(default)s)")
    add("--compile-processes", type=int, default=len(BATCHES), help="processes that share the shapes of torch.compile (default %(default)s)")
    add("--vectors", type=words, default=["mixed8:16-256", "8x128"], metavar="BATCHES", help="whose vectors are compared, torch.compile's "
        "of measured batches only (default: mixed8:16-256,8x128)")
    add("--peak", type=int, default=8192, help="rows of the matrices whose product is the peak (default %(default)s)")
    add("--device", default="cuda", help="of torch: cuda or cpu (default %(default)s)")
    add("--bei", type=pathlib.Path, default=ROOT / "dist" / "bei", help="the program (default: dist/bei)")
    add("--work", type=pathlib.Path, default=ROOT / ".deps" / "bench-gpu", help="folder of the model folders (default: .deps/bench-gpu)")
    add("--json", type=pathlib.Path, metavar="FILE", help="write all numbers there as well")
    arguments = parser.parse_args(argv)
    arguments.flags = {}
    for text in arguments.add:
        name, equals, flags = text.partition("=")
        if not equals or not name or name in contenders.TORCH:
            parser.error(f"--add {text!r}: it is NAME=FLAGS, such as trt-2=--engine tensorrt --dtype float16")
        arguments.flags[name] = flags
    arguments.contenders = list(dict.fromkeys([*arguments.contenders, *arguments.flags]))
    for name in arguments.contenders:
        if name not in {*contenders.BEI, *contenders.TORCH, *arguments.flags}:
            parser.error(f"contender {name!r} is unknown; known: {known}")
    for name in arguments.models:
        if name not in models.SHAPES:
            parser.error(f"model {name!r} is unknown; known: {', '.join(models.SHAPES)}")
    if not all((arguments.models, arguments.contenders, arguments.batches, arguments.vectors)) or arguments.rounds < 1 or arguments.compile_processes < 1:
        parser.error("it needs at least one model, contender, batch, batch of vectors, round and process")
    try:
        for name in [*arguments.batches, *arguments.in_flight, *arguments.vectors]:
            token_batches.lengths(name)
    except ValueError as error:
        parser.error(str(error))
    if any(contenders.is_ours(name) for name in arguments.contenders) and not arguments.bei.exists():
        parser.error(f"{arguments.bei} is missing: run `make build` first, or bring dist/ from a machine where that ran")
    return arguments


def main() -> int:
    arguments = parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    end = time.monotonic() + arguments.seconds
    result = {"conditions": conditions(arguments), "models": [], "failed": {}}
    ended = False
    for i, shape in enumerate(arguments.models):
        now = time.monotonic()
        try:
            result["models"].append(measure(shape, arguments, now + max(end - now, 0) / (len(arguments.models) - i)))
            ended = result["models"][-1]["ended"]
        except (RuntimeError, OSError) as error:
            progress(f"{shape}: {error}")
            result["failed"][shape] = str(error)
        except KeyboardInterrupt:
            result["failed"][shape], ended = "ended by a signal before it was measured", True
        result["targets"] = tables.targets(result)
        if arguments.json:  # after each model, so that an end by force leaves something
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        if ended:
            progress("ended by a signal")
            break
    print(tables.markdown(result))
    return 0 if any(model["seconds"] for model in result["models"]) else 1


if __name__ == "__main__":
    sys.exit(main())
