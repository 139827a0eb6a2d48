"""OpenAI's client, unmodified."""

import concurrent.futures
import time

import httpx2
import numpy
import openai
import pytest

import golden
from conftest import KEY


def client(server, key="none", hooks=None, **options):
    http_client = openai.DefaultHttpxClient(trust_env=False, event_hooks=hooks)
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, http_client=http_client, **options)


def test_embeddings_are_those_of_sentence_transformers(minilm):
    texts, unit, _ = golden.minilm()
    # By itself the client asks for base64.
    for more, texts, unit in (({}, texts, unit), ({"encoding_format": "float"}, texts[:20], unit[:20])):
        reply = client(minilm).embeddings.create(model="all-MiniLM-L6-v2", input=texts, **more)
        golden.same_directions([each.embedding for each in reply.data], unit)
        assert [each.index for each in reply.data] == list(range(len(texts)))
        assert (reply.object, reply.model, reply.data[0].object) == ("list", "all-MiniLM-L6-v2", "embedding")
        assert reply.usage.prompt_tokens == reply.usage.total_tokens > 400


def test_base64_and_floats_are_equal_to_the_bit(minilm):
    ask = client(minilm).embeddings.create
    first, second = (ask(model="any", input="a cat", **more).data[0].embedding for more in ({}, {"encoding_format": "float"}))
    assert numpy.array_equal(numpy.float32(first), numpy.float32(second))


def test_dimensions_users_and_token_ids(minilm):
    texts, unit, _ = golden.minilm()
    ask = client(minilm).embeddings.create
    reply = ask(model="any", input=texts[0], dimensions=8, user="me")
    golden.same_directions([reply.data[0].embedding], unit[:1, :8])
    ids = [token["id"] for token in minilm.ask("/tokenize", {"inputs": texts[0]})[0]]
    assert len(ids) == 12
    for tokens in (ids, [ids]):
        golden.same_directions([ask(model="any", input=tokens).data[0].embedding], unit[:1])


def test_our_own_fields_and_headers_go_with_it(prompts):
    expected = golden.read("bert-prompts-new-files")
    item, row = next((item, row) for item, row in zip(expected["items"], expected["pooled"]) if item["prompt_name"] == "document")
    reply = client(prompts).embeddings.with_raw_response.create(
        model="any", input=item["text"], extra_body={"prompt_name": "document"},
        extra_headers={"request-timeout-ms": "60000", "x-request-priority": "high", "x-request-id": "mine-1"})
    golden.same_directions([reply.parse().data[0].embedding], [row])
    assert reply.headers["x-request-id"] == reply.parse()._request_id == "mine-1"
    assert int(reply.headers["x-compute-tokens"]) == reply.parse().usage.total_tokens


def test_many_at_once(minilm):
    texts, unit, _ = golden.minilm()
    shared = client(minilm)

    def ask(i):
        golden.same_directions([shared.embeddings.create(model="any", input=texts[i]).data[0].embedding], unit[i:i + 1])

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        list(threads.map(ask, range(32)))


def test_models(limited):
    listed = client(limited).models.list()
    assert [(model.id, model.object) for model in listed] == [("mini", "model")]
    assert client(limited).models.retrieve("mini").id == "mini"
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client(limited).models.retrieve("another")


def test_keys(guarded):
    expected = golden.read("bert-mean")
    _, texts, rows = zip(*golden.items(expected))
    reply = client(guarded, KEY).embeddings.create(model="any", input=texts)
    golden.same_directions([each.embedding for each in reply.data], rows)
    with pytest.raises(openai.AuthenticationError) as raised:
        client(guarded, "wrong").embeddings.create(model="any", input="a")
    assert raised.value.status_code == 401


@pytest.mark.parametrize("name, body, error, kind, part", [
    ("minilm", {"input": ""}, openai.BadRequestError, "Empty", "input: "),
    ("minilm", {"input": []}, openai.BadRequestError, "Empty", "input is empty"),
    ("minilm", {"input": "a", "dimensions": 385}, openai.UnprocessableEntityError, "Validation", "dimensions is 385"),
    ("limited", {"input": ["a"] * 5}, openai.UnprocessableEntityError, "Validation", "batch size 5"),
    ("limited", {"input": "a" * 30000}, openai.APIStatusError, "Validation", "payload_limit"),
    ("reranker", {"input": "a"}, openai.APIStatusError, "Backend", ""),
    ("faulty", {"input": ["good", "hello"]}, openai.APIStatusError, "Backend", "input[1]: "),
])
def test_errors_are_typed(start, name, body, error, kind, part):
    with pytest.raises(error) as raised:
        client(start(name), max_retries=0).embeddings.create(model="any", **body)
    assert raised.value.body["message"].startswith(part) or part in raised.value.body["message"]
    assert raised.value.body["code"] == raised.value.status_code
    assert raised.value.type == raised.value.body["type"] == kind


def test_the_client_comes_again_when_it_is_told_to(slow):
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        first = threads.submit(client(slow).embeddings.create, model="any", input="openai first")
        slow.wait_for("bei_router_inputs_under_way", 1)
        with pytest.raises(openai.RateLimitError) as raised:
            client(slow, max_retries=0).embeddings.create(model="any", input="openai second")
        wait = int(raised.value.response.headers["retry-after"])
        assert wait >= 1 and raised.value.type == "Overloaded"
        sent, answered = [], []

        def note(reply):
            answered.append((time.monotonic(), reply))
            slow.release()
            assert first.result().data

        hooks = {"request": [lambda _: sent.append(time.monotonic())], "response": [note]}
        assert client(slow, hooks=hooks, max_retries=5).embeddings.create(model="any", input="openai third").data
        assert [reply.status_code for _, reply in answered] == [429, 200]
        refused, reply = answered[0]
        assert sent[1] - refused >= int(reply.headers["retry-after"]) >= 1


def test_a_deadline_that_cannot_be_met_is_told_at_once(slow):
    with pytest.raises(openai.RateLimitError):
        client(slow, max_retries=0).embeddings.create(model="any", input="late", extra_headers={"request-timeout-ms": "20"})


def test_a_client_that_gives_up_leaves_the_server_well(slow):
    with pytest.raises(openai.APITimeoutError):
        client(slow, max_retries=0, timeout=httpx2.Timeout(0.4)).embeddings.create(model="any", input="given up")
    slow.release()
    assert client(slow, max_retries=5).embeddings.create(model="any", input="after it").data
