"""The contenders of the GPU benchmark: a name, the worker processes behind it, and what failed."""

from __future__ import annotations

import pathlib
import shlex
import sys
import threading
import time

import batches as token_batches
from contender import Contender

HERE = pathlib.Path(__file__).resolve().parent

# Flags of `bei bench` by name; the others are kinds of torch_worker.py.
BEI = {
    "trt-fp16": "--engine tensorrt --device cuda --dtype float16",
    "trt-fp8": "--engine tensorrt --device cuda --dtype float8",
    "ort-cuda": "--engine onnxruntime --device cuda --dtype float16",
    "ort-cpu": "--engine onnxruntime --device cpu",
    "mock": """--engine mock --options '{"mock": {"max_length": 512, "us_per_token": 0.1}}'""",
}
COMPILED = ("compile", "compile-graphs")
TORCH = ("eager", *COMPILED)
DEFAULT = ["trt-fp16", "trt-fp8", "ort-cuda", *TORCH]
GRAPH_TOKENS = 4096  # of torch's CUDA graphs: with more the host is never what limits
LABELS = {
    "trt-fp16": "TensorRT fp16",
    "trt-fp8": "TensorRT fp8",
    "ort-cuda": "ONNX Runtime CUDA fp16",
    "ort-cpu": "ONNX Runtime CPU",
    "mock": "mock",
    "eager": "torch eager",
    "compile": "torch.compile",
    "compile-graphs": "torch.compile, reduce-overhead",
}

# What a worker that is lost, or no worker of ours, raises.
FAULTS = (RuntimeError, OSError, ValueError, KeyError)
ANSWER_SECONDS = 120  # more than any turn takes


def is_ours(name: str) -> bool:
    return name not in TORCH


class Group:
    """A contender. Its batches are dealt to one or more processes, since torch.compile takes long and can be done side by side."""

    def __init__(self, name: str, command: list[str], batches: list[str], processes: int = 1):
        self.name, self.command = name, command
        self.dealt = [batches[i::processes] for i in range(min(processes, len(batches)))]
        self.workers: dict[str, Contender] = {}  # by batch
        self.processes: list[Contender] = []
        self.failures: dict[str, str] = {}  # why, by batch
        self.ready: dict = {}

    def prepare(self, seconds: float) -> None:
        """Starts the processes and lets each run its batches once, for as long as that. What fails is in failures."""
        deadline = time.monotonic() + seconds
        threads = [threading.Thread(target=self.prepare_process, args=(batches, deadline)) for batches in self.dealt]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def prepare_process(self, batches: list[str], deadline: float) -> None:
        worker = None

        def reply() -> dict:
            return worker.reply(max(deadline - time.monotonic(), 1))

        try:
            worker = Contender(self.name, self.command)
            self.processes.append(worker)
            answer = reply()
            if "error" in answer:
                raise RuntimeError(answer["error"])
            self.ready = answer["ready"]
            for batch in batches:
                worker.tell(**({"batch": batch, "iterations": 1} if is_ours(self.name) else {"prepare": batch}))
                answer = reply()
                if "error" in answer:
                    self.failures[batch] = answer["error"]
                self.workers[batch] = worker
        except FAULTS as error:
            self.lose(batches, str(error), worker)

    def lose(self, batches: list[str], why: str, worker: Contender | None) -> None:
        for batch in batches:
            self.failures.setdefault(batch, why.removeprefix(f"{self.name}: "))
        if worker is not None:
            worker.process.kill()

    def works(self, batch: str) -> bool:
        return batch in self.workers and batch not in self.failures

    def ask(self, batch: str, job: dict) -> dict | None:
        """The answer to a job with a batch; None: it failed, now and for good."""
        worker = self.workers[batch]
        try:
            worker.tell(**job)
            answer = worker.reply(ANSWER_SECONDS)
        except FAULTS as error:
            self.lose([other for other, theirs in self.workers.items() if theirs is worker], str(error), worker)
            return None
        if "error" in answer:
            self.failures[batch] = answer["error"]
            return None
        return answer

    def close(self, seconds: float) -> None:
        for worker in self.processes:
            worker.close(seconds)


def make(name: str, folder: pathlib.Path, batches: list[str], settings: dict) -> Group:
    """The contender of that name for the model in folder. settings: bei (the program), flags (by name, added ones), device, dtype (of
    torch), compile_processes, compile_seconds."""
    flags = settings["flags"].get(name, BEI.get(name))
    if flags is not None:
        return Group(name, [settings["bei"], "bench", str(folder), "--worker", *shlex.split(flags)], batches)
    options = ["--dtype", settings["dtype"], "--device", settings["device"], "--compile-seconds", str(settings["compile_seconds"])]
    command = [sys.executable, str(HERE / "torch_worker.py"), name, str(folder), *options]
    small = [batch for batch in batches if name != "compile-graphs" or padded_tokens(batch) <= GRAPH_TOKENS]
    group = Group(name, command, small, settings["compile_processes"] if name in COMPILED else 1)
    for batch in batches:
        if batch not in small:
            group.failures[batch] = f"CUDA graphs are compared up to {GRAPH_TOKENS} padded tokens"
    return group


def padded_tokens(batch: str) -> int:
    lengths = token_batches.lengths(batch)
    return len(lengths) * max(lengths)


def once(kind: str, arguments: list[str], seconds: float, jobs: list[dict]) -> list[dict]:
    """Starts a torch_worker.py of another kind, asks it for jobs and ends it."""
    worker = Contender(kind, [sys.executable, str(HERE / "torch_worker.py"), kind, *arguments])
    try:
        answers = [worker.reply(seconds)]
        for job in jobs:
            if "error" not in answers[-1]:
                worker.tell(**job)
                answers.append(worker.reply(seconds))
        if "error" in answers[-1]:
            raise RuntimeError(f"{kind}: {answers[-1]['error']}")
        return answers[1:]
    finally:
        worker.close()
