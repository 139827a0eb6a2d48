#!/usr/bin/env python3
"""Run every Go fuzz target, one after the other, sharing the given seconds evenly.

    scripts/fuzz.py SECONDS

A failing input is left by go test under the package's testdata/fuzz, to be committed as a regression test.
"""

import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LEAST_SECONDS = 2


def targets():
    """(package, function) of every fuzz target."""
    listing = subprocess.run(["go", "test", "-json", "-list", "^Fuzz", "./..."], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                             check=False)
    events = [json.loads(line) for line in listing.stdout.splitlines() if line.startswith("{")]
    if listing.returncode != 0:
        sys.stdout.write("".join(event.get("Output", "") for event in events))
        raise SystemExit("fuzz: the packages do not build")
    return [(event["Package"], event["Output"].strip()) for event in events if event.get("Output", "").startswith("Fuzz")]


def passes(command):
    """Runs go test -fuzz. It also fails, now and then, when the time ends in the middle of an input: that is no failure of the target, which
    would leave the input in a file."""
    lines = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            lines.append(line.strip())
    if process.returncode == 0:
        return True
    ended = "context deadline exceeded" in lines and not any(line.startswith(("Failing input written", "panic", "fatal error")) for line in lines)
    if ended:
        print("fuzz: the time was over in the middle of an input; none failed", flush=True)
    return ended


def main():
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        raise SystemExit("usage: fuzz.py SECONDS")
    found = targets()
    if not found:
        raise SystemExit("fuzz: no fuzz target found")
    each = max(LEAST_SECONDS, int(sys.argv[1]) // len(found))
    for package, function in found:
        command = ["go", "test", package, "-run", "^$", "-fuzz", f"^{function}$", "-fuzztime", f"{each}s",
                   # Coverage of concurrent code varies from run to run: minimising it would take all the time.
                   "-fuzzminimizetime", "10x"]
        if not passes(command):
            raise SystemExit(f"fuzz: {function} of {package} failed")
    print(f"fuzz: {len(found)} targets, {each} s each, no failure")


if __name__ == "__main__":
    main()
