"""What drivers of benchmarks share: contenders in processes of their own, and the comparison of their vectors."""

from __future__ import annotations

import array
import base64
import datetime
import json
import math
import os
import pathlib
import select
import subprocess
import sys

TICK = os.sysconf("SC_CLK_TCK")
CLOSE_SECONDS = 20  # for a worker to end by itself
REPLY_SECONDS = 900  # more than any job takes on a slow machine; a hung contender must not hang the run


class Contender:
    """A worker process and the pipe to it: a JSON object a line each way."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str] | None = None):
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | (environment or {})
        )

    def reply(self, seconds: float = REPLY_SECONDS) -> dict:
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            raise RuntimeError(f"{self.name}: no answer within {seconds:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: the worker ended with status {self.process.wait()}; its message is above")
        return json.loads(line)

    def tell(self, **job) -> None:
        try:
            self.process.stdin.write(json.dumps(job).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(f"{self.name}: the worker ended with status {self.process.wait()}; its message is above") from None

    def ask(self, **job) -> dict:
        self.tell(**job)
        return self.reply()

    def cpu_seconds(self) -> float:
        """User and system time of the process so far, all threads (proc(5), fields 14 and 15 of stat)."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended with a job unread
        try:
            self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def cosines(a: str, b: str, rows: int) -> list[float]:
    """Cosine of each row of two base64 float32 matrices."""
    x, y = (array.array("f", base64.b64decode(text)) for text in (a, b))
    if len(x) != len(y) or len(x) % rows:
        raise RuntimeError(f"vectors: {len(x)} and {len(y)} numbers for {rows} texts")
    width, result = len(x) // rows, []
    for i in range(0, len(x), width):
        p, q = x[i : i + width], y[i : i + width]
        dot = sum(map(float.__mul__, p, q))
        result.append(dot / math.sqrt(sum(v * v for v in p) * sum(v * v for v in q)))
    return result


def progress(text: str) -> None:
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)
