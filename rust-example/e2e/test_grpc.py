"""Python's gRPC client against tei.v1, on the port of the HTTP routes: stubs made of the .proto file, or none but reflection."""

import time

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import golden
from conftest import KEY, SERVERS, channel

SERVICES = ("Info", "Embed", "Predict", "Rerank", "Tokenize")


@pytest.fixture(scope="session")
def tei(stubs):
    import tei_pb2
    return tei_pb2


@pytest.fixture(scope="session")
def stub(stubs, start):
    """Gives the stub of a service at the server of a name."""
    import tei_pb2_grpc
    channels = {}

    def of(name, service):
        if name not in channels:
            channels[name] = channel(start(name).address)
        return getattr(tei_pb2_grpc, f"{service}Stub")(channels[name])

    yield of
    for each in channels.values():
        each.close()


def refused(code, part, call, *arguments, **more):
    with pytest.raises(grpc.RpcError) as raised:
        reply = call(*arguments, **more)
        if not hasattr(reply, "DESCRIPTOR"):
            list(reply)
    assert raised.value.code() == code, raised.value
    assert part in raised.value.details()


def test_info(tei, stub):
    info = stub("minilm", "Info").Info(tei.InfoRequest())
    assert (info.model_dtype, info.model_type, info.max_input_length) == ("float32", tei.MODEL_TYPE_EMBEDDING, 256)
    assert (info.max_concurrent_requests, info.max_batch_tokens, info.HasField("model_sha")) == (512, 16384, False)
    assert stub("classifier", "Info").Info(tei.InfoRequest()).model_type == tei.MODEL_TYPE_CLASSIFIER
    assert stub("reranker", "Info").Info(tei.InfoRequest()).model_type == tei.MODEL_TYPE_RERANKER


def test_embed(tei, stub, minilm):
    texts, unit, pooled = golden.minilm()
    ask = stub("minilm", "Embed").Embed
    replies = [ask(tei.EmbedRequest(inputs=text, truncate=True)) for text in texts[::4]]
    golden.same_directions([reply.embeddings for reply in replies], unit[::4])
    golden.same_directions([ask(tei.EmbedRequest(inputs=texts[0], normalize=False)).embeddings], pooled[:1])
    golden.same_directions([ask(tei.EmbedRequest(inputs=texts[0], dimensions=8)).embeddings], unit[:1, :8])
    cost = replies[0].metadata
    assert (cost.compute_chars, cost.compute_tokens) == (len(texts[0]), 12)
    assert cost.total_time_ns >= cost.inference_time_ns > 0


def test_streams_answer_in_order(tei, stub):
    texts, unit, _ = golden.minilm()
    requests = (tei.EmbedRequest(inputs=text, truncate=True) for text in texts)
    found = [reply.embeddings for reply in stub("minilm", "Embed").EmbedStream(requests)]
    golden.same_directions(found, unit)


def test_a_stream_is_answered_before_it_ends(tei, stub):
    replies = []

    def requests():
        for i in range(4):
            yield tei.EmbedRequest(inputs=f"text {i}")
            # The next request is sent when the answer to this one has come.
            deadline = time.monotonic() + 20
            while len(replies) <= i:
                assert time.monotonic() < deadline
                time.sleep(0.01)

    for reply in stub("minilm", "Embed").EmbedStream(requests()):
        replies.append(reply)
    assert len(replies) == 4


def test_token_vectors_and_weights(tei, stub):
    texts, unit, _ = golden.minilm()
    for reply, vector in zip(stub("minilm", "Embed").EmbedAllStream(tei.EmbedAllRequest(inputs=text) for text in texts[:4]), unit):
        rows = [each.embeddings for each in reply.token_embeddings]
        golden.same_directions([[sum(column) / len(rows) for column in zip(*rows)]], [vector])
    _, texts, rows = zip(*golden.items(golden.read("distilbert-splade")))
    for reply, row in zip(stub("splade", "Embed").EmbedSparseStream(tei.EmbedSparseRequest(inputs=text, truncate=True) for text in texts), rows):
        found = {each.index: each.value for each in reply.sparse_embeddings}
        golden.same_numbers([found.get(i, 0) for i in range(len(row))], row)


def test_predict(tei, stub):
    expected = golden.read("bert-classifier")
    service = stub("classifier", "Predict")
    for _, text, logits in golden.items(expected):
        found = service.Predict(tei.PredictRequest(inputs=text, truncate=True)).predictions
        by_label = dict(zip(expected["labels"], golden.softmax(logits)))
        golden.same_numbers([each.score for each in found], [by_label[each.label] for each in found])
    _, pairs, rows = zip(*golden.items(expected, pairs=True))
    requests = (tei.PredictPairRequest(inputs=pair, truncate=True, raw_scores=True) for pair in pairs)
    for reply, row in zip(service.PredictPairStream(requests), rows, strict=True):
        golden.same_numbers(sorted(each.score for each in reply.predictions), sorted(row))


@pytest.mark.parametrize("name", ["reranker", "decoder_reranker"])
def test_rerank(tei, stub, name):
    for _, (query, text), (logit,) in golden.items(golden.read(SERVERS[name][1]), pairs=True):
        reply = stub(name, "Rerank").Rerank(tei.RerankRequest(query=query, texts=["a dog", text], truncate=True, return_text=True))
        found = {rank.text: rank for rank in reply.ranks}
        golden.same_numbers(found[text].score, golden.sigmoid(logit))
        assert found[text].index == 1
        assert reply.ranks[0].score >= reply.ranks[1].score
        streamed = stub(name, "Rerank").RerankStream(
            tei.RerankStreamRequest(query=query, text=each, truncate=True, return_text=True) for each in ("a dog", text))
        assert list(streamed.ranks) == list(reply.ranks)


def test_tokenize(tei, stub):
    service = stub("minilm", "Tokenize")
    found = service.Tokenize(tei.EncodeRequest(inputs="Hello, world", add_special_tokens=True)).tokens
    assert [(each.id, each.special) for each in found] == [(101, True), (7592, False), (1010, False), (2088, False), (102, True)]
    assert (found[1].text, found[1].start, found[1].stop, found[0].HasField("start")) == ("Hello", 0, 5, False)
    assert service.Decode(tei.DecodeRequest(ids=[101, 7592, 102], skip_special_tokens=True)).text == "hello"


def test_codes(tei, stub):
    embed = stub("minilm", "Embed").Embed
    refused(grpc.StatusCode.INVALID_ARGUMENT, "inputs", embed, tei.EmbedRequest(inputs=""))
    refused(grpc.StatusCode.INVALID_ARGUMENT, "302 tokens", embed, tei.EmbedRequest(inputs="word " * 300))
    refused(grpc.StatusCode.INVALID_ARGUMENT, "dimensions is 385", embed, tei.EmbedRequest(inputs="a", dimensions=385))
    refused(grpc.StatusCode.FAILED_PRECONDITION, "", embed, tei.EmbedRequest(inputs="a\0"))
    refused(grpc.StatusCode.FAILED_PRECONDITION, "classifier", stub("minilm", "Predict").Predict, tei.PredictRequest(inputs="a"))
    refused(grpc.StatusCode.FAILED_PRECONDITION, "", stub("faulty", "Embed").Embed, tei.EmbedRequest(inputs="hello"))
    refused(grpc.StatusCode.INVALID_ARGUMENT, "", stub("minilm", "Embed").EmbedStream,
            iter([tei.EmbedRequest(inputs="a"), tei.EmbedRequest(inputs="")]))


def test_deadlines(tei, stub, slow):
    refused(grpc.StatusCode.DEADLINE_EXCEEDED, "", stub("slow", "Embed").Embed, tei.EmbedRequest(inputs="in vain"), timeout=0.2)


def test_too_much_at_once(tei, stub, slow):
    first = stub("slow", "Embed").Embed.future(tei.EmbedRequest(inputs="grpc first"))
    slow.wait_for("bei_router_inputs_under_way", 1)
    refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "", stub("slow", "Embed").Embed, tei.EmbedRequest(inputs="grpc second"))
    # Streams wait.
    requests = slow.metric("te_request_count")
    streamed = stub("slow", "Embed").EmbedStream(iter([tei.EmbedRequest(inputs="grpc third")]))
    slow.wait_for("te_request_count", requests + 1)
    slow.release()
    assert len(list(streamed)) == 1 and first.result().embeddings


def test_keys(tei, stub):
    embed = stub("guarded", "Embed").Embed
    for metadata in ((), (("authorization", "Bearer wrong"),)):
        refused(grpc.StatusCode.UNAUTHENTICATED, "authorization: Bearer KEY", embed, tei.EmbedRequest(inputs="a"), metadata=metadata)
    assert len(embed(tei.EmbedRequest(inputs="a"), metadata=(("authorization", f"Bearer {KEY}"),)).embeddings) == 60


def test_health_of_each_service(start):
    with channel(start("guarded").address) as connection:
        check = health_pb2_grpc.HealthStub(connection).Check
        deadline = time.monotonic() + 10
        while check(health_pb2.HealthCheckRequest()).status != health_pb2.HealthCheckResponse.SERVING:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for service, serving in {"Info": 1, "Embed": 1, "Tokenize": 1, "Predict": 2, "Rerank": 2}.items():
            assert check(health_pb2.HealthCheckRequest(service=f"tei.v1.{service}")).status == serving, service
        refused(grpc.StatusCode.NOT_FOUND, "", check, health_pb2.HealthCheckRequest(service="nobody"))
        watched = health_pb2_grpc.HealthStub(connection).Watch(health_pb2.HealthCheckRequest(service="tei.v1.Embed"))
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        watched.cancel()


def test_reflection_is_enough_for_a_client(start):
    with channel(start("minilm").address) as connection:
        database = ProtoReflectionDescriptorDatabase(connection)
        assert {f"tei.v1.{service}" for service in SERVICES} | {"grpc.health.v1.Health"} <= set(database.get_services())
        pool = descriptor_pool.DescriptorPool(database)
        method = pool.FindServiceByName("tei.v1.Embed").FindMethodByName("Embed")
        request, reply = (message_factory.GetMessageClass(each) for each in (method.input_type, method.output_type))
        call = connection.unary_unary("/tei.v1.Embed/Embed", request.SerializeToString, reply.FromString)
        texts, unit, _ = golden.minilm()
        golden.same_directions([call(request(inputs=texts[0])).embeddings], unit[:1])
