"""torch as a contender, in its own process, with the protocol of `bei bench --worker`: a JSON object a line on stdin and stdout.

    torch_worker.py eager|compile|compile-graphs|reference|peak FOLDER [--dtype float16] [--device cuda] [--compile-seconds 240]

eager           transformers' AutoModel with SDPA attention. A batch is padded to its longest, with a mask; without one where all
                lengths are equal, which is the faster form.
compile         the same, compiled for each shape. New shapes are refused when --compile-seconds are spent.
compile-graphs  that in mode reduce-overhead, which replays CUDA graphs.
reference       eager in fp32 without TF32: for {"vectors": BATCH}.
peak            no model: {"peak": 8192} answers the FLOP/s of a matrix product of that size.

A time is from token ids in host memory to normalised vectors in host memory, everything on the device done.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import pathlib
import statistics
import sys
import time

import batches

WARM_UPS = 2
COMPILE_MODES = {"compile": "default", "compile-graphs": "reduce-overhead"}


def load(folder: pathlib.Path, dtype: str, device: str):
    """transformers' model of the folder, ready to run."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(folder)
    # BERT's pooler is not part of embeddings by mean: it would be computed for nothing.
    options = {"add_pooling_layer": False} if config.model_type == "bert" else {}
    model = transformers.AutoModel.from_pretrained(folder, config=config, dtype=getattr(torch, dtype), attn_implementation="sdpa", **options)
    return model.to(device).eval()


class Contender:
    def __init__(self, kind: str, folder: pathlib.Path, dtype: str, device: str, compile_seconds: float):
        import torch
        import transformers

        self.torch, self.device, self.compile_seconds = torch, device, compile_seconds
        self.mode = COMPILE_MODES.get(kind)
        torch.set_grad_enabled(False)
        if self.mode:  # beyond the limit it would run uncompiled without a word
            torch._dynamo.config.recompile_limit = 256
            torch._dynamo.config.fail_on_recompile_limit_hit = True
        if kind == "reference":
            torch.set_float32_matmul_precision("highest")
        self.dtype = "float32" if kind == "reference" else dtype
        self.model = load(folder, self.dtype, device)
        self.vocab = self.model.config.vocab_size
        pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
        self.mean = pooling.get("pooling_mode_mean_tokens", False)
        self.cached: dict[str, tuple] = {}
        self.compiled: dict = {}  # functions, by batch
        self.spent = 0.0
        name = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
        self.ready = {
            "engine": "torch", "engine_version": torch.__version__, "device": device, "dtype": self.dtype, "gpu": name,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "cuda": torch.version.cuda},
        }  # fmt: skip

    def inputs(self, name: str) -> tuple:
        """Padded ids, the mask or None, and the lengths of a batch, in host memory."""
        if name not in self.cached:
            torch, sequences = self.torch, batches.sequences(name, self.vocab)
            lengths = torch.tensor([len(sequence) for sequence in sequences])
            longest = int(lengths.max())
            limit = self.model.config.max_position_embeddings
            if longest > limit:
                raise ValueError(f'batch "{name}": {longest} tokens; this model\'s limit is {limit} (max_position_embeddings)')
            ids = torch.zeros(len(sequences), longest, dtype=torch.long)
            mask = (torch.arange(longest) < lengths[:, None]).long()
            for row, sequence in zip(ids, sequences):
                row[: len(sequence)] = torch.tensor(sequence)
            self.cached[name] = (ids, None if bool(mask.all()) else mask, lengths)
        return self.cached[name]

    def forward(self, ids, mask, lengths):
        """Ids on the device to normalised vectors there, in float32."""
        torch = self.torch
        options = {} if self.model.config.model_type == "bert" else {"use_cache": False}
        hidden = self.model(input_ids=ids, attention_mask=mask, **options).last_hidden_state
        if not self.mean:
            pooled = hidden[torch.arange(ids.shape[0], device=ids.device), lengths - 1].float()
        elif mask is None:
            pooled = hidden.mean(1, dtype=torch.float32)
        else:
            pooled = (hidden * mask[:, :, None].to(hidden.dtype)).sum(1, dtype=torch.float32) / lengths[:, None]
        return torch.nn.functional.normalize(pooled, dim=1)

    def call(self, name: str, function):
        ids, mask, lengths = self.inputs(name)
        ids, lengths = ids.to(self.device), lengths.to(self.device)
        mask = None if mask is None else mask.to(self.device)
        return function(ids, mask, lengths).cpu()  # waits for the device

    def timed(self, name: str, function, calls: int) -> list[float]:
        seconds = []
        for i in range(WARM_UPS + calls):
            start = time.perf_counter()
            self.call(name, function)
            if i >= WARM_UPS:
                seconds.append(time.perf_counter() - start)
        return seconds

    def function(self, name: str):
        """What runs a batch, compiled where that is the contender."""
        if not self.mode:
            return self.forward
        if name not in self.compiled:
            if self.spent > self.compile_seconds:
                raise RuntimeError(f"not compiled: {self.spent:.0f} s went into the shapes before, the limit is {self.compile_seconds:.0f} s")
            start, function = time.perf_counter(), self.torch.compile(self.forward, mode=self.mode, dynamic=False)
            for _ in range(3):  # CUDA graphs are recorded in the second call
                self.call(name, function)
            self.spent += time.perf_counter() - start
            self.compiled[name] = function
        return self.compiled[name]

    def answer(self, job: dict) -> dict:
        if "prepare" in job:
            self.call(job["prepare"], self.function(job["prepare"]))
            return {"compile_seconds": self.spent}
        if "vectors" in job:
            rows = self.call(job["vectors"], self.function(job["vectors"]))
            return {"float32": base64.b64encode(rows.numpy().astype("<f4").tobytes()).decode(), "rows": len(rows)}
        name = job["batch"]
        return {"seconds": self.timed(name, self.function(name), job.get("iterations", 1)), "tokens": sum(batches.lengths(name))}


class Peak:
    """The chip's dense peak: a large matrix product."""

    def __init__(self, dtype: str, device: str):
        import torch

        self.torch, self.dtype, self.device = torch, getattr(torch, dtype), device
        self.ready = {"engine": "torch", "engine_version": torch.__version__, "device": device, "dtype": dtype}

    def answer(self, job: dict) -> dict:
        torch, n = self.torch, job["peak"]
        wait = torch.cuda.synchronize if self.device.startswith("cuda") else lambda: None
        a, b = (torch.randn(n, n, dtype=self.dtype, device=self.device) for _ in range(2))
        seconds = []
        for _ in range(5):
            wait()
            start = time.perf_counter()
            for _ in range(10):
                a @ b
            wait()
            seconds.append((time.perf_counter() - start) / 10)
        return {"flops": 2 * n**3 / statistics.median(seconds[1:])}


def main() -> int:
    # Answers go to the real stdout; whatever a library prints goes to stderr.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("eager", *COMPILE_MODES, "reference", "peak"))
    parser.add_argument("folder", type=pathlib.Path, nargs="?", help="the model's folder")
    parser.add_argument("--dtype", default="float16", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile-seconds", type=float, default=240, help="time for compiling all shapes (default %(default)s)")
    arguments = parser.parse_args()

    def say(message: dict) -> None:
        print(json.dumps(message), file=out, flush=True)

    try:
        if arguments.kind == "peak":
            contender = Peak(arguments.dtype, arguments.device)
        elif arguments.folder is None:
            parser.error("the model's folder is missing")
        else:
            contender = Contender(arguments.kind, arguments.folder, arguments.dtype, arguments.device, arguments.compile_seconds)
    except Exception as error:  # whatever it is, the other program reads it here only
        say({"error": f"{type(error).__name__}: {error}"})
        if isinstance(error, ImportError):  # says all
            return 1
        raise
    say({"ready": contender.ready})
    for line in sys.stdin:
        try:
            answer = contender.answer(json.loads(line))
        except Exception as error:  # one shape that fails must not end the others
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        say(answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
