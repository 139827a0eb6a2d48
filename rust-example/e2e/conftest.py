"""Servers for the tests: the built programs as child processes, started when a test first asks for one, shared by all tests of a run."""

import pathlib
import subprocess
import sys
import tempfile
import time

import grpc
import httpx
import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from served import ROUTER, Router  # noqa: E402

TESTDATA = ROOT / "testdata"
PROTOS = HERE.parent / "bei-proto" / "proto"
BACKEND = pathlib.Path(ROUTER).with_name("bei-grpc-backend")
KEY = "a-key"
ORIGIN = "https://pages.example"
# The slow server's runs last until this file is there.
_folder = tempfile.TemporaryDirectory(prefix="bei-slow-")
RELEASED = pathlib.Path(_folder.name, "released")
PATIENCE = 60  # seconds that a test waits for what must come
# Where the mock engine gives an error of its own.
FAULTS = [{"kind": "nan", "token_id": 7592}, {"kind": "bad_item", "token_id": 2088}]  # hello, world

# By name: the script of the mock engine (None: the real one), the folder in testdata/models (None: all-MiniLM-L6-v2), flags.
SERVERS = {
    "minilm": (None, None, []),
    "limited": (None, None, ["--auto-truncate", "false", "--max-client-batch-size", "4", "--payload-limit", "20000",
                             "--served-model-name", "mini"]),
    "guarded": (None, "bert-mean", ["--api-key", f"other,{KEY}", "--cors-allow-origin", ORIGIN]),
    "opened": (None, "bert-mean", ["--api-key", KEY, "--open-metrics", "--open-docs", "--task", "sentence-similarity"]),
    "guarded_reranker": (None, "bert-reranker", ["--api-key", KEY]),
    "prompts": (None, "bert-prompts-new-files", []),
    "classifier": (None, "bert-classifier", []),
    "reranker": (None, "bert-reranker", []),
    "entities": (None, "bert-entities", []),
    "splade": (None, "distilbert-splade", ["--pooling", "splade"]),
    "bge_m3": (None, "bge-m3", []),
    "decoder_reranker": (None, "qwen3-reranker", []),
    "faulty": ({"faults": FAULTS}, None, ["--max-batch-tokens", "1024"]),
    # One request at a time, and a second one is too many.
    "slow": ({"faults": [{"kind": "slow", "until_file": str(RELEASED)}]}, None, ["--max-batch-tokens", "1024", "--max-concurrent-requests", "1"]),
}


def channel(address):
    """A connection that knows nothing of proxies. What Python's client takes for the authority of a Unix socket, its path with % signs, is no
    authority to HTTP/2 servers in Rust: it is told another."""
    authority = [("grpc.default_authority", "localhost")] if address.startswith("unix:") else []
    return grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0), *authority])


class Server(Router):
    """A router, and an HTTP client of its own that knows nothing of proxies."""

    def __init__(self, name):
        mock, model, flags = SERVERS[name]
        folder = {} if model is None else {"model": str(TESTDATA / "models" / model)}
        super().__init__(mock, *flags, **folder)
        self.name = name
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=PATIENCE)

    @property
    def address(self):
        """Host and port, as gRPC wants them."""
        return self.url.removeprefix("http://")

    def ask(self, path, body, **headers):
        """The JSON of a POST that must succeed."""
        reply = self.http.post(path, json=body, headers=headers)
        assert reply.status_code == 200, (path, reply.status_code, reply.text[:400])
        return reply.json()

    def metric(self, name):
        """The sum over all labels."""
        return sum(value for key, value in self.metrics().items() if key.partition("{")[0] == name)

    def wait_for(self, name, value):
        deadline = time.monotonic() + PATIENCE
        while (found := self.metric(name)) != value:
            assert time.monotonic() < deadline, f"{name} is {found}, not {value}"
            time.sleep(0.02)

    def release(self):
        """Lets the slow server's runs end."""
        RELEASED.touch()

    def hold(self):
        """Lets the slow server end what is under way - a run goes on when its client has gone - and hold the next runs."""
        self.release()
        self.wait_for("bei_router_inputs_under_way", 0)
        self.wait_for("bei_router_slots_in_use", 0)
        RELEASED.unlink()


@pytest.fixture(scope="session")
def start():
    """Gives the server of a name. All are told to stop in the end, and must end well."""
    servers = {}

    def named(name):
        if name not in servers:
            servers[name] = Server(name).__enter__()
        return servers[name]

    yield named
    for server in servers.values():
        server.http.close()
        server.process.terminate()
    ended = {name: server.ended(30) for name, server in servers.items()}
    for server in servers.values():
        server.kill()
    bad = {name: (status, servers[name].log_text()[-2000:]) for name, status in ended.items() if status != 0}
    assert not bad, f"exit status after SIGTERM: {bad}"


def _fixture(name):
    @pytest.fixture(scope="session", name=name)
    def server(start):
        return start(name)

    return server


for _name in SERVERS.keys() - {"slow"}:
    globals()[f"server_{_name}"] = _fixture(_name)


@pytest.fixture
def slow(start):
    """The slow server, which holds the next runs."""
    RELEASED.touch()  # its start has runs too
    server = start("slow")
    server.hold()
    yield server
    server.release()


@pytest.fixture(scope="session")
def stubs():
    """The folder of Python's modules of the protocols, made of the .proto files, on the path from now on."""
    with tempfile.TemporaryDirectory(prefix="bei-stubs-") as folder:
        protos = sorted(PROTOS.glob("*.proto"))
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
        subprocess.run([*command, *map(str, protos)], check=True)
        sys.path.insert(0, folder)
        yield folder
        sys.path.remove(folder)
