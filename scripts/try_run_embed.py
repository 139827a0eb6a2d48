#!/usr/bin/env python3
"""Try the main command as a reader of the README would: `make run_embed`, the curl line it prints, Ctrl-C.

    scripts/try_run_embed.py [SECONDS]

Fails unless the printed line answers one vector of 384 finite numbers and the command ends soon after Ctrl-C. SECONDS is the
limit for the command to become ready, a cold build included (default 3000).
"""

import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STOP_SECONDS = 30


def read_lines(stream, lines):
    for line in stream:
        sys.stdout.write(line)
        sys.stdout.flush()
        lines.put(line.strip())
    lines.put(None)


def printed_curl_line(lines, seconds):
    deadline = time.monotonic() + seconds
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise SystemExit(f"try_run_embed: no curl line within {seconds} s") from None
        if line is None:
            raise SystemExit("try_run_embed: `make run_embed` ended before it was ready")
        if line.startswith("curl "):
            return line


def check_answer(command):
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, text=True, check=False)
    try:
        vectors = json.loads(done.stdout)
        good = len(vectors) == 1 and len(vectors[0]) == 384 and all(math.isfinite(value) for value in vectors[0])
    except (ValueError, TypeError):
        good = False
    if done.returncode != 0 or not good:
        raise SystemExit(f"try_run_embed: {command}\nexit status {done.returncode}, answer: {done.stdout[:300]}")
    print(f"try_run_embed: one vector of {len(vectors[0])}, norm {math.hypot(*vectors[0]):.6f}", flush=True)


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) == 2 else 3000.0
    # A session of its own, so that one signal to the group is what Ctrl-C at a terminal is.
    make = subprocess.Popen(["make", "--no-print-directory", "run_embed"], cwd=ROOT, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, start_new_session=True)
    lines = queue.Queue()
    threading.Thread(target=read_lines, args=(make.stdout, lines), daemon=True).start()
    try:
        check_answer(printed_curl_line(lines, seconds))
    finally:
        if make.poll() is None:
            os.killpg(make.pid, signal.SIGINT)
        try:
            make.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(make.pid, signal.SIGKILL)
            raise SystemExit(f"try_run_embed: still running {STOP_SECONDS} s after Ctrl-C") from None


if __name__ == "__main__":
    main()
