"""The family's backend protocol, embedding.v1, over a Unix socket: bei-grpc-backend as the family's router starts and calls it."""

import itertools
import signal
import subprocess
import time

import grpc
import pytest

import golden
from conftest import BACKEND, ROOT, TESTDATA, channel

READY_SECONDS = 60


class Backend:
    def __init__(self, folder, pool, socket):
        self.socket = socket
        command = [BACKEND, folder, "--dtype", "float32", "--uds-path", socket, "--logger-level", "INFO", "--json-output", "--pool", pool]
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)

    def wait(self):
        deadline = time.monotonic() + READY_SECONDS
        while not self.socket.exists():
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        return channel(f"unix:{self.socket}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=30)
        return self.process.returncode


@pytest.fixture(scope="module")
def connect(stubs, tmp_path_factory):
    """Gives the stub of a backend for a model. All must end well in the end."""
    import embedding_pb2_grpc
    started = {}

    def of(folder, pool):
        if folder not in started:
            backend = Backend(folder, pool, tmp_path_factory.mktemp("socket") / "s")
            started[folder] = (backend, backend.wait())
        return embedding_pb2_grpc.EmbeddingServiceStub(started[folder][1])

    yield of
    for _, connection in started.values():
        connection.close()
    assert [backend.stop() for backend, _ in started.values()] == [0] * len(started)
    assert not any(backend.socket.exists() for backend, _ in started.values())


@pytest.fixture
def embedding(stubs):
    import embedding_pb2
    return embedding_pb2


def batch(embedding, items):
    """The items' tokens as one request."""
    joined = {field: [number for item in items for number in item[field]] for field in ("input_ids", "token_type_ids", "position_ids")}
    lengths = [len(item["input_ids"]) for item in items]
    return embedding.EmbedRequest(**joined, cu_seq_lengths=[0, *itertools.accumulate(lengths)], max_length=max(lengths))


def test_embed(connect, embedding):
    expected = golden.read("bert-mean")
    stub = connect(TESTDATA / "models" / "bert-mean", "mean")
    stub.Health(embedding.HealthRequest())
    items = expected["items"] + expected["token_items"]
    reply = stub.Embed(batch(embedding, items))
    golden.same_directions([each.values for each in reply.embeddings], expected["pooled"])
    for item, row in zip(items[:4], expected["pooled"]):
        golden.same_directions([stub.Embed(batch(embedding, [item])).embeddings[0].values], [row])


def test_minilm(connect, embedding, minilm):
    texts, _, pooled = golden.minilm()
    tokens = minilm.ask("/tokenize", {"inputs": texts[:20]})
    ids = [[token["id"] for token in each] for each in tokens]
    items = [{"input_ids": each, "token_type_ids": [0] * len(each), "position_ids": list(range(len(each)))} for each in ids]
    stub = connect(ROOT / ".deps" / "models" / "all-MiniLM-L6-v2", "mean")
    golden.same_directions([each.values for each in stub.Embed(batch(embedding, items)).embeddings], pooled[:20])


def test_predict(connect, embedding):
    expected = golden.read("bert-classifier")
    stub = connect(TESTDATA / "models" / "bert-classifier", "cls")
    reply = stub.Predict(batch(embedding, expected["items"] + expected["token_items"]))
    golden.same_numbers([each.values for each in reply.scores], expected["pooled"])
    with pytest.raises(grpc.RpcError):
        stub.Embed(batch(embedding, expected["items"]))


def test_wrong_batches_are_refused(connect, embedding):
    stub = connect(TESTDATA / "models" / "bert-mean", "mean")
    good = batch(embedding, golden.read("bert-mean")["items"][:2])
    for field, numbers in (("cu_seq_lengths", [0, 5, 3]), ("input_ids", [10**9] * len(good.input_ids)), ("token_type_ids", [0])):
        wrong = embedding.EmbedRequest()
        wrong.CopyFrom(good)
        del getattr(wrong, field)[:]
        getattr(wrong, field).extend(numbers)
        with pytest.raises(grpc.RpcError) as raised:
            stub.Embed(wrong)
        assert raised.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INTERNAL)
        assert raised.value.details()
        assert len(stub.Embed(good).embeddings) == 2
