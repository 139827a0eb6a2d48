"""huggingface_hub's InferenceClient, unmodified."""

import numpy
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

import golden
from conftest import KEY


def client(server, token="none"):
    return InferenceClient(model=server.url, token=token, timeout=60)


def test_feature_extraction(minilm):
    texts, unit, pooled = golden.minilm()
    found = client(minilm).feature_extraction(texts)
    assert found.dtype == numpy.float32
    golden.same_directions(found, unit)
    assert client(minilm).feature_extraction(texts[0]).shape == (1, 384)
    golden.same_directions(client(minilm).feature_extraction(texts[:4], normalize=False), pooled[:4])
    golden.same_directions(client(minilm).feature_extraction(texts[:4], dimensions=32), unit[:4, :32])


def test_feature_extraction_by_the_route(minilm):
    texts, unit, _ = golden.minilm()
    golden.same_directions(client(minilm).feature_extraction(texts[:4], model=f"{minilm.url}/embed"), unit[:4])


def test_truncation(limited):
    ask = client(limited).feature_extraction
    long = "start " + "word " * 300 + "end"
    for side in ("left", "right"):
        assert ask(long, truncate=True, truncation_direction=side).shape == (1, 384)
    assert (ask(long, truncate=True, truncation_direction="left") != ask(long, truncate=True)).any()
    with pytest.raises(HfHubHTTPError, match="302 tokens|304 tokens") as raised:
        ask(long)
    assert raised.value.response.status_code == 422


def test_prompts(prompts):
    expected = golden.read("bert-prompts-new-files")
    for item, row in zip(expected["items"], expected["pooled"]):
        if item["pair"] is None:
            golden.same_directions(client(prompts).feature_extraction(item["text"], prompt_name=item["prompt_name"]), [row])


def test_sentence_similarity(minilm):
    texts, unit, _ = golden.minilm()
    golden.same_numbers(client(minilm).sentence_similarity(texts[0], other_sentences=texts[1:9]), unit[1:9] @ unit[0])


def test_text_classification(classifier):
    expected = golden.read("bert-classifier")
    for _, text, logits in golden.items(expected):
        for function, scores in ((None, golden.softmax(logits)), ("softmax", golden.softmax(logits)), ("none", logits),
                                 ("sigmoid", golden.sigmoid(logits))):
            found = client(classifier).text_classification(text, function_to_apply=function)
            best_first = sorted(zip(scores, expected["labels"]), reverse=True)
            assert [each.label for each in found] == [label for _, label in best_first]
            golden.same_numbers([each.score for each in found], [score for score, _ in best_first])
        assert len(client(classifier).text_classification(text, top_k=1)) == 1


def test_token_classification(entities):
    items = [item for item in golden.read("bert-entities", "entities.json")["items"] if item["side"] == "right"]
    for strategy in ("none", "simple", "first", "average", "max"):
        for item in items:
            found = client(entities).token_classification(item["text"], aggregation_strategy=strategy)
            wanted = [each for each in item[strategy] if each[0] != "O"]
            names = [each.entity if strategy == "none" else each.entity_group for each in found]
            assert [(name, each.start, each.end) for name, each in zip(names, found)] == [(name, *place[:2]) for name, _, *place in wanted]
            assert len(found) == len(wanted)
            assert [each.word for each in found] == [item["text"][each.start:each.end] for each in found]
            golden.same_numbers([each.score for each in found], [score for _, score, *_ in wanted])
    text = items[0]["text"]
    assert client(entities).token_classification(text) == client(entities).token_classification(text, aggregation_strategy="simple")
    without = client(entities).token_classification(text, aggregation_strategy="simple", ignore_labels=["LOC", "O"])
    assert {each.entity_group for each in without} == {"PER"}
    with pytest.raises(HfHubHTTPError, match="stride"):
        client(entities).token_classification(text, stride=2)


def test_keys(guarded):
    expected = golden.read("bert-mean")
    _, texts, rows = zip(*golden.items(expected))
    golden.same_directions(client(guarded, KEY).feature_extraction(list(texts)), rows)
    with pytest.raises(HfHubHTTPError) as raised:
        client(guarded, "wrong").feature_extraction("a")
    assert raised.value.response.status_code == 401


@pytest.mark.parametrize("name, text, status", [("minilm", "", 400), ("minilm", "a\0", 422), ("limited", "a" * 30000, 413), ("faulty", "hello", 424)])
def test_errors_tell_their_status(start, name, text, status):
    with pytest.raises(HfHubHTTPError) as raised:
        client(start(name)).feature_extraction(text)
    assert raised.value.response.status_code == status
