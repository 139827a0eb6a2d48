"""A router as a child process, and the load generator against it: what soak.py, faults.py, bench/router.py and rust-example/e2e share."""

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROUTER = os.path.join(os.environ.get("BEI_DIST", os.path.join(ROOT, "dist")), "bei-router")
LOAD = os.path.join(ROOT, "rust-example", "target", "release", "bei-load")
MODEL = os.path.join(ROOT, ".deps", "models", "all-MiniLM-L6-v2")
DIMENSIONS = 384  # the mock engine's own
READY_SECONDS = 60

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Router:
    """A router; `options` are the library's, `mock` is the script of the mock engine (None: the real engine)."""

    def __init__(self, mock, *flags, binary=ROUTER, model=MODEL, options=None, variables=None):
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log", prefix="bei-router-")
        engine = [] if mock is None else ["--engine", "mock"]
        options = {"log": {"level": "error"}, **({} if mock is None else {"mock": mock}), **(options or {})}
        command = [binary, "--model-id", model, *engine, "--bei-options", json.dumps(options), "--hostname", "127.0.0.1",
                   "--port", self.url.rpartition(":")[2], *flags]
        # Variables of the router's flags would change what is measured.
        environment = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LD_LIBRARY_PATH", "TMPDIR")}
        environment.update(variables or {})
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=environment)

    @property
    def pid(self):
        return self.process.pid

    def __enter__(self):
        deadline = time.monotonic() + READY_SECONDS
        while self.get("/health")[0] != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise SystemExit(f"the router did not start:\n{self.log_text()}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def stop(self, seconds=40):
        """SIGTERM; the exit status, or None when it did not end in time."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.ended(seconds)

    def ended(self, seconds):
        """The exit status, or None when it does not end in time."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def log_text(self):
        with open(self.log.name, encoding="utf-8", errors="replace") as log:
            return log.read()

    def get(self, path, timeout=10):
        """Status and text of a GET; status 0 where nobody answers."""
        return self.send(urllib.request.Request(self.url + path), timeout)

    def post(self, path, body, headers=None, timeout=30):
        headers = {"content-type": "application/json", **(headers or {})}
        return self.send(urllib.request.Request(self.url + path, json.dumps(body).encode(), headers), timeout)

    @staticmethod
    def send(request, timeout):
        try:
            with _opener.open(request, timeout=timeout) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def metrics(self):
        """All samples of /metrics by name with labels."""
        text = self.get("/metrics")[1]
        return {name: float(value) for name, value in re.findall(r"^([^#\s]\S*(?:\{.*\})?) (\S+)$", text, re.M)}

    def load(self, *flags, classes, seconds, server=True):
        """Runs bei-load against this router: its report."""
        with tempfile.NamedTemporaryFile("r", suffix=".json") as report:
            command = [LOAD, "--url", self.url, "--seconds", str(seconds), "--json", report.name, "--mock", str(DIMENSIONS),
                       *(["--pid", str(self.pid)] if server else []), *map(str, flags)]
            for each in classes:
                command += ["--class", ",".join(f"{key}={value}" for key, value in each.items())]
            done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode not in (0, 1):
                raise SystemExit(f"bei-load failed:\n{done.stdout}\nthe router's log:\n{self.log_text()}")
            return {**json.load(report), "table": done.stdout}
