"""What the server answers is what sentence-transformers and transformers make of the same texts."""

import concurrent.futures

import numpy
import pytest

import golden
from conftest import SERVERS


def test_minilm_alone_and_in_batches(minilm):
    texts, unit, pooled = golden.minilm()
    golden.same_directions([minilm.ask("/embed", {"inputs": text})[0] for text in texts[::3]], unit[::3])
    golden.same_directions(minilm.ask("/embed", {"inputs": texts[::-1]})[::-1], unit)
    raw = minilm.ask("/embed", {"inputs": texts, "normalize": False})
    golden.same_directions(raw, pooled)
    golden.same_numbers(numpy.linalg.norm(raw, axis=1), numpy.linalg.norm(pooled, axis=1))
    data = minilm.ask("/v1/embeddings", {"input": texts})["data"]
    golden.same_directions([each["embedding"] for each in data], unit)


def test_minilm_when_many_ask_at_once(minilm):
    texts, unit, _ = golden.minilm()

    def ask(request):
        some = slice(request % 50, request % 50 + 1 + request % 8)
        golden.same_directions(minilm.ask("/embed", {"inputs": texts[some]}), unit[some])

    with concurrent.futures.ThreadPoolExecutor(32) as threads:
        list(threads.map(ask, range(40)))


def test_dimensions_are_cut_then_normalised(minilm):
    texts, unit, _ = golden.minilm()
    found = minilm.ask("/embed", {"inputs": texts[:3], "dimensions": 16})
    golden.same_directions(found, unit[:3, :16])
    golden.same_numbers(numpy.linalg.norm(found, axis=1), [1, 1, 1])


def test_similarity_is_the_cosine(minilm):
    texts, unit, _ = golden.minilm()
    body = {"inputs": {"source_sentence": texts[0], "sentences": texts[1:9]}}
    golden.same_numbers(minilm.ask("/similarity", body), unit[1:9] @ unit[0])


def test_token_vectors(minilm):
    texts, unit, _ = golden.minilm()
    for rows, vector in zip(minilm.ask("/embed_all", {"inputs": texts[:4]}), unit):
        golden.same_directions([numpy.mean(rows, axis=0)], [vector])


@pytest.mark.parametrize("name", ["guarded", "prompts", "bge_m3"])
def test_tiny_embedders(start, name):
    expected = golden.read(SERVERS[name][1])
    server, key = start(name), {"authorization": "Bearer a-key"}
    _, texts, rows = zip(*golden.items(expected))
    golden.same_directions(server.ask("/embed", {"inputs": texts}, **key), rows)


def test_named_prompts(prompts):
    expected = golden.read("bert-prompts-new-files")
    named = [(item, row) for item, row in zip(expected["items"], expected["pooled"]) if item["prompt_name"]]
    assert named
    for item, row in named:
        body = {"inputs": item["text"], "prompt_name": item["prompt_name"]}
        golden.same_directions(prompts.ask("/embed", body), [row])
        golden.same_directions([prompts.ask("/v1/embeddings", {"input": item["text"], "prompt_name": item["prompt_name"]})["data"][0]
                                ["embedding"]], [row])


def test_sparse_weights(splade, bge_m3):
    expected = golden.read("distilbert-splade")
    for _, text, row in golden.items(expected):
        found = numpy.zeros(len(row))
        for each in splade.ask("/embed_sparse", {"inputs": text})[0]:
            found[each["index"]] = each["value"]
        golden.same_numbers(found, row)
    expected = golden.read("bge-m3")
    for i, text, _ in golden.items(expected):
        found = bge_m3.ask("/embed_sparse", {"inputs": text})[0]
        assert [str(each["index"]) for each in found] == list(expected["sparse"][i])
        golden.same_numbers([each["value"] for each in found], list(expected["sparse"][i].values()))


def test_spans(prompts):
    expected = golden.read("bert-prompts-new-files")
    items = [item for item in expected["items"] if item["pair"] is None]
    for item, spans in zip(items, expected["spans"], strict=True):
        body = {"inputs": item["text"], "outputs": ["spans"], "spans": [[span[:2] for span in spans]], "prompt_name": item["prompt_name"]}
        answer = prompts.ask("/embed_outputs", body)[0]
        for found, (start, end, row) in zip(answer["spans"], spans, strict=True):
            assert (found["start"], found["end"]) == (start, end)
            golden.same_directions([found["vector"]], [row])


def test_classes(classifier):
    expected = golden.read("bert-classifier")
    for pairs in (False, True):
        for _, inputs, logits in golden.items(expected, pairs):
            for raw, scores in ((True, logits), (False, golden.softmax(logits))):
                found = classifier.ask("/predict", {"inputs": inputs, "raw_scores": raw})
                by_label = dict(zip(expected["labels"], scores))
                assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)
                golden.same_numbers([each["score"] for each in found], [by_label[each["label"]] for each in found])


@pytest.mark.parametrize("name", ["reranker", "decoder_reranker"])
def test_rankings(start, name):
    server, expected = start(name), golden.read(SERVERS[name][1])
    pairs = list(golden.items(expected, pairs=True))
    assert pairs
    for _, (query, text), (logit,) in pairs:
        golden.same_numbers(server.ask("/rerank", {"query": query, "texts": [text], "raw_scores": True})[0]["score"], logit)
        found = server.ask("/v2/rerank", {"query": query, "documents": [text]})["results"][0]["relevance_score"]
        golden.same_numbers(found, golden.sigmoid(logit))


def test_entities(entities):
    items = golden.read("bert-entities", "entities.json")["items"]
    for strategy in ("simple", "first", "average", "max"):
        for item in items:
            body = {"inputs": [[item["text"]]], "truncate": True, "truncation_direction": item["side"].capitalize(),
                    "aggregation_strategy": strategy}
            found = entities.ask("/predict_tokens", body)[0]
            assert len(found) == len(item[strategy])
            for each, (group, score, start, end) in zip(found, item[strategy]):
                assert (list(each["results"]), each["start"], each["end"]) == ([group], start, end)
                golden.same_numbers(each["results"][group], score)
