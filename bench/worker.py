"""A contender in its own process: reads one JSON job a line from stdin, answers with one JSON object a line on stdout.

    worker.py bei|memory|peer SETTINGS      SETTINGS: a JSON object with model, texts, threads, library

bei and peer stay alive between jobs: {"job": "texts"} -> seconds; {"job": "batch"} (bei) -> seconds; {"job": "latency",
"calls": n} -> n seconds; {"job": "vectors"} -> base64 of the float32 rows. memory answers once and ends.
"""

import base64
import json
import os
import pathlib
import sys
import time

import workload


class Bei:
    def __init__(self, settings: dict):
        import libbei

        self.libbei = libbei
        self.work = workload.make(settings["model"], settings["texts"])
        self.library = libbei.Library(settings["library"])
        self.backend = self.library.open({"model": settings["model"], "threads": settings["threads"]})
        self.texts = self.backend.text_arguments(self.work.texts)
        self.latency_text = self.backend.text_arguments([self.work.latency_text])
        self.packed = self.backend.batch_arguments(self.work.sequences)
        self.pooled = self.backend.buffer(len(self.texts))

    def ready(self) -> dict:
        info = self.backend.info_json()
        engine = info.get("engine")
        return {
            "versions": {"libbei": self.library.version(), "engine": engine if isinstance(engine, str) else json.dumps(engine)},
            "tokens": self.backend.count_tokens(self.texts),
            "latency_tokens": self.backend.count_tokens(self.latency_text),
        }

    def run_texts(self) -> None:
        self.backend.embed_texts(self.texts, self.pooled)

    def run_batch(self) -> None:
        self.backend.embed(self.packed, self.pooled)

    def run_latency(self) -> None:
        self.backend.embed_texts(self.latency_text, self.pooled)

    def vectors(self, job: dict) -> bytes:
        self.run_batch() if job.get("path") == "batch" else self.run_texts()
        return self.libbei.float32(self.pooled)


class Peer:
    """sentence-transformers' encode with its defaults: batches of 32, sorted by length."""

    def __init__(self, settings: dict):
        os.environ["HF_HUB_OFFLINE"] = "1"
        import sentence_transformers
        import torch
        import transformers

        torch.set_num_threads(settings["threads"])
        torch.set_num_interop_threads(1)
        self.work = workload.make(settings["model"], settings["texts"])
        self.model = sentence_transformers.SentenceTransformer(settings["model"], device="cpu", model_kwargs={"dtype": torch.float32})
        self.versions = {
            "sentence-transformers": sentence_transformers.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        }

    def ready(self) -> dict:
        *texts, last = (len(ids) for ids in self.model.tokenizer([*self.work.texts, self.work.latency_text])["input_ids"])
        return {"versions": self.versions, "tokens": sum(texts), "latency_tokens": last}

    def run_texts(self) -> None:
        self.rows = self.model.encode(self.work.texts, show_progress_bar=False)

    def run_latency(self) -> None:
        self.model.encode(self.work.latency_text, show_progress_bar=False)

    def vectors(self, job: dict) -> bytes:
        self.run_texts()
        return self.rows.astype("<f4").tobytes()


def timed(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def answer(contender: Bei | Peer, job: dict) -> dict:
    match job["job"]:
        case "texts":
            return {"seconds": timed(contender.run_texts)}
        case "batch":
            return {"seconds": timed(contender.run_batch)}
        case "latency":
            for _ in range(3):  # the caches belonged to the other contender
                contender.run_latency()
            return {"seconds": [timed(contender.run_latency) for _ in range(job["calls"])]}
        case "vectors":
            return {"float32": base64.b64encode(contender.vectors(job)).decode()}
    raise ValueError(f"job {job['job']!r}: want texts, batch, latency or vectors")


def resident_bytes(key: str) -> int:
    """VmRSS (now) or VmHWM (highest so far) of this process."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def memory(settings: dict) -> dict:
    """Resident memory before the model is opened, after warm-up, and after ten calls that embed all texts."""
    import libbei

    work = workload.make(settings["model"], settings["texts"])
    library = libbei.Library(settings["library"])
    before = resident_bytes("VmRSS")
    backend = library.open({"model": settings["model"], "threads": settings["threads"]})
    opened = resident_bytes("VmRSS")
    texts, pooled = backend.text_arguments(work.texts), backend.buffer(len(work.texts))
    for _ in range(settings["memory_calls"]):
        backend.embed_texts(texts, pooled)
    after = resident_bytes("VmRSS")
    return {"before": before, "opened": opened, "after": after, "highest": resident_bytes("VmHWM")}


def main() -> None:
    # Answers go to the real stdout; whatever a library prints goes to stderr.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    kind, settings = sys.argv[1], json.loads(sys.argv[2])
    os.sched_setaffinity(0, settings["cpus"])

    def say(message: dict) -> None:
        print(json.dumps(message), file=out, flush=True)

    if kind == "memory":
        say(memory(settings))
        return
    contender = {"bei": Bei, "peer": Peer}[kind](settings)
    say(contender.ready())
    for line in sys.stdin:
        say(answer(contender, json.loads(line)))


if __name__ == "__main__":
    main()
