"""Cohere's clients, unmodified: rerank in both versions of its API."""

import cohere
import httpx
import pytest
from cohere.core.api_error import ApiError

import golden
from conftest import KEY, SERVERS

VERSIONS = (cohere.Client, cohere.ClientV2)


def client(version, server, key="none"):
    return version(api_key=key, base_url=server.url, httpx_client=httpx.Client(trust_env=False, timeout=60))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["reranker", "decoder_reranker"])
def test_rankings_are_those_of_transformers(start, name, version):
    server = start(name)
    for _, (query, text), (logit,) in golden.items(golden.read(SERVERS[name][1]), pairs=True):
        reply = client(version, server).rerank(model="any", query=query, documents=[text, "a dog"])
        found = {result.index: result.relevance_score for result in reply.results}
        golden.same_numbers(found[0], golden.sigmoid(logit))
        scores = [result.relevance_score for result in reply.results]
        assert len(found) == 2 and scores == sorted(scores, reverse=True)
        assert reply.id and reply.meta.billed_units.search_units == 1
        assert reply.meta.api_version.version == ("1" if version is cohere.Client else "2")
        assert reply.meta.tokens.input_tokens > 0


def test_the_best_of_them(reranker):
    documents = ["a dog", "It is near the river", "b", "the old market"]
    every = client(cohere.ClientV2, reranker).rerank(model="any", query="Where is the station?", documents=documents)
    best = client(cohere.ClientV2, reranker).rerank(model="any", query="Where is the station?", documents=documents, top_n=2,
                                                    max_tokens_per_doc=4096)
    assert [(each.index, each.relevance_score) for each in best.results] == [(each.index, each.relevance_score) for each in every.results[:2]]


def test_documents_come_back(reranker):
    documents = ["a dog", {"text": "It is near the river"}]
    reply = client(cohere.Client, reranker).rerank(model="any", query="Where?", documents=documents, return_documents=True)
    assert {each.index: each.document.text for each in reply.results} == {0: "a dog", 1: "It is near the river"}
    reply = client(cohere.Client, reranker).rerank(model="any", query="Where?", documents=documents)
    assert [each.document for each in reply.results] == [None, None]


@pytest.mark.parametrize("version", VERSIONS)
def test_keys(guarded_reranker, version):
    assert client(version, guarded_reranker, KEY).rerank(model="any", query="a", documents=["b"]).results
    with pytest.raises(cohere.UnauthorizedError) as raised:
        client(version, guarded_reranker, "wrong").rerank(model="any", query="a", documents=["b"])
    assert raised.value.body["code"] == 401


@pytest.mark.parametrize("version", VERSIONS)
def test_errors_are_typed(reranker, minilm, version):
    ask = client(version, reranker).rerank
    with pytest.raises(cohere.BadRequestError) as raised:
        ask(model="any", query="a", documents=[])
    assert raised.value.body["message"] == "documents is empty"
    with pytest.raises(cohere.UnprocessableEntityError) as raised:
        ask(model="any", query="a", documents=["b"], top_n=0)
    assert raised.value.body["type"] == "Validation"
    with pytest.raises(ApiError) as raised:
        client(version, minilm).rerank(model="any", query="a", documents=["b"])
    assert (raised.value.status_code, raised.value.body["type"]) == (424, "Backend")
