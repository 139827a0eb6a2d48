"""Replies of every route: their keys in the family's order, their types and headers, and nothing else."""

import json

import pytest

TIMES = ("x-compute-time", "x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time")
RANK = {"index": "int", "score": "float"}
RANK_WITH_TEXT = {"index": "int", "text": "str", "score": "float"}
PREDICTION = {"score": "float", "label": "str"}
TOKEN = {"id": "int", "text": "str", "special": "bool", "start": "int", "stop": "int"}
SPECIAL = {**TOKEN, "start": "null", "stop": "null"}
TOKENS = [[SPECIAL, TOKEN]]
SPARSE = {"index": "int", "value": "float"}
USAGE = {"prompt_tokens": "int", "total_tokens": "int"}


def openai(embedding):
    return {"object": "str", "data": [{"object": "str", "embedding": embedding, "index": "int"}], "model": "str", "usage": USAGE}


def ranking(**more):
    return {"id": "str", "object": "str", "model": "str", "results": [{"index": "int", "relevance_score": "float", **more}],
            "meta": {"api_version": {"version": "str"}, "billed_units": {"search_units": "int"},
                     "tokens": {"input_tokens": "int", "output_tokens": "int"}}, "usage": USAGE}


def entity(*labels):
    return {"token": "str", "token_id": "int", "start": "int", "end": "int", "results": dict.fromkeys(labels, "float")}


VECTORS, MATRICES = [["float"]], [[["float"]]]
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
SIMILAR = {"inputs": {"source_sentence": "a cat", "sentences": ["the cat", "rain"]}, "parameters": {"truncate": True}}
RANKED = {"query": "Where is the station?", "texts": ["It is near the river", "a dog"]}
DOCUMENTS = {"model": "any", "query": "Where is the station?", "documents": ["It is near the river", "a dog"]}

# Server, path, body, and the reply as `shape` writes it.
REPLIES = [
    ("minilm", "/embed", {"inputs": "a cat"}, VECTORS),
    ("minilm", "/embed", {"inputs": ["a cat", "rain"], "truncate": True, "truncation_direction": "Left", "normalize": False}, VECTORS),
    ("minilm", "/embed", {"inputs": [101, 7592, 102]}, VECTORS),
    ("minilm", "/embed", {"inputs": [[101, 7592, 102], [101, 102]], "dimensions": 5}, VECTORS),
    ("minilm", "/embed_all", {"inputs": "a cat"}, MATRICES),
    ("minilm", "/embed_all", {"inputs": ["a cat", "rain"]}, MATRICES),
    ("minilm", "/", {"inputs": "a cat"}, VECTORS),
    ("minilm", "/invocations", {"inputs": ["a cat"]}, VECTORS),
    ("minilm", "/vertex", {"instances": [{"inputs": "a cat"}, {"inputs": ["rain", "a"]}]}, {"predictions": [VECTORS]}),
    ("minilm", "/similarity", SIMILAR, ["float"]),
    ("minilm", "/", SIMILAR, ["float"]),
    ("opened", "/", SIMILAR, ["float"]),
    ("minilm", "/v1/embeddings", {"input": "a cat", "model": "any", "user": "me"}, openai(["float"])),
    ("minilm", "/v1/embeddings", {"input": ["a cat", "rain"], "encoding_format": "base64", "dimensions": 8}, openai("str")),
    ("minilm", "/embeddings", {"input": [[101, 102]], "encoding_format": "float"}, openai(["float"])),
    ("minilm", "/tokenize", {"inputs": "a cat"}, TOKENS),
    ("minilm", "/tokenize", {"inputs": ["a cat"], "add_special_tokens": False}, [[TOKEN]]),
    ("minilm", "/decode", {"ids": [101, 7592, 102]}, ["str"]),
    ("minilm", "/decode", {"ids": [[101, 7592, 102]], "skip_special_tokens": False}, ["str"]),
    ("prompts", "/embed", {"inputs": ["a cat"], "prompt_name": "document"}, VECTORS),
    ("prompts", "/embed_outputs", {"inputs": ["a cat"], "outputs": ["pooled", "tokens", "spans"], "spans": [[[0, 1]]],
                                   "prompt_name": "document"},
     [{"pooled": ["float"], "tokens": [{**SPECIAL, "vector": ["float"]}, {**TOKEN, "vector": ["float"]}],
       "spans": [{"start": "int", "end": "int", "vector": ["float"]}]}]),
    ("splade", "/embed_sparse", {"inputs": "a cat"}, [[SPARSE]]),
    ("splade", "/embed_sparse", {"inputs": ["a cat", "rain"]}, [[SPARSE]]),
    ("splade", "/", {"inputs": "a cat"}, [[SPARSE]]),
    ("bge_m3", "/embed_outputs", {"inputs": "a cat", "outputs": ["pooled", "sparse"]}, [{"pooled": ["float"], "sparse": [SPARSE]}]),
    ("classifier", "/predict", {"inputs": "a"}, [PREDICTION]),
    ("classifier", "/predict", {"inputs": ["a", "b"], "raw_scores": True}, [PREDICTION]),
    ("classifier", "/predict", {"inputs": [["a"], ["a", "b"]]}, [[PREDICTION]]),
    ("classifier", "/", {"inputs": "a"}, [PREDICTION]),
    ("classifier", "/invocations", {"inputs": [["a"]]}, [[PREDICTION]]),
    ("classifier", "/vertex", {"instances": [{"inputs": "a"}]}, {"predictions": [[PREDICTION]]}),
    ("reranker", "/rerank", {**RANKED, "truncate": True, "raw_scores": True}, [RANK]),
    ("reranker", "/rerank", {**RANKED, "return_text": True}, [RANK_WITH_TEXT]),
    ("reranker", "/", RANKED, [RANK]),
    ("reranker", "/predict", {"inputs": ["a", "b"]}, [PREDICTION]),
    ("reranker", "/v1/rerank", {**DOCUMENTS, "return_documents": True}, ranking(document={"text": "str"})),
    ("reranker", "/v2/rerank", {**DOCUMENTS, "top_n": 1}, ranking()),
    ("entities", "/predict_tokens", {"inputs": [["the station"]], "raw_scores": True}, [[entity(*LABELS)]]),
    ("entities", "/", {"inputs": ["the station"]}, [[entity(*LABELS)]]),
]


def shape(value):
    """The types of a reply: of a list the different ones of its elements, in their order."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        shapes = [json.dumps(shape(each)) for each in value]
        return [json.loads(each) for each in dict.fromkeys(shapes)]
    return "null" if value is None else type(value).__name__


def same_shape(found, expected):
    # As text, so that the order of keys counts.
    assert json.dumps(shape(found)) == json.dumps(expected)


@pytest.mark.parametrize("name, path, body, expected", REPLIES, ids=[f"{name} {path}" for name, path, _, _ in REPLIES])
def test_replies(start, name, path, body, expected):
    server = start(name)
    key = {"authorization": "Bearer a-key"} if name == "opened" else {}
    reply = server.http.post(path, json=body, headers=key)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/json"
    same_shape(reply.json(), expected)
    if path in ("/tokenize", "/decode", "/vertex"):
        return
    assert reply.headers["x-compute-type"] == "cpu+onnxruntime"
    for name in (*TIMES, "x-compute-tokens", "x-compute-characters"):
        assert int(reply.headers[name]) >= 0
    assert int(reply.headers["x-compute-tokens"]) > 0


def test_entities_have_their_label_alone(entities):
    for each in entities.ask("/predict_tokens", {"inputs": ["Where is the station?"], "aggregation_strategy": "simple"})[0]:
        assert list(each) == ["token", "token_id", "start", "end", "results"]
        assert each["token_id"] == 0 and len(each["results"]) == 1


def test_costs_are_told(minilm):
    reply = minilm.http.post("/embed", json={"inputs": ["Hello", "wörld"]})
    assert (reply.headers["x-compute-characters"], reply.headers["x-compute-tokens"]) == ("10", "6")
    answer = minilm.ask("/v1/embeddings", {"input": ["Hello", "wörld"]})
    assert answer["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    assert (answer["object"], answer["model"]) == ("list", "all-MiniLM-L6-v2")
    assert [(each["object"], each["index"]) for each in answer["data"]] == [("embedding", 0), ("embedding", 1)]


INFO = {"model_id": "str", "model_sha": "null", "model_dtype": "str", "served_model_name": "str",
        "model_type": {"embedding": {"pooling": "str"}}, "max_concurrent_requests": "int", "max_input_length": "int",
        "max_batch_tokens": "int", "max_batch_requests": "null", "max_client_batch_size": "int", "auto_truncate": "bool",
        "tokenization_workers": "int", "version": "str", "sha": "null", "docker_label": "null"}
OURS = {"library_version": "str", "engine": "str", "slots": "int", "dimensions": "int"}


def test_info(minilm, limited, classifier, reranker, splade):
    info = minilm.http.get("/info").json()
    same_shape(info, {**INFO, **OURS})
    assert (info["model_dtype"], info["max_input_length"], info["max_batch_tokens"]) == ("float32", 256, 16384)
    assert (info["max_concurrent_requests"], info["auto_truncate"]) == (512, True)
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    info = limited.http.get("/info").json()
    assert (info["auto_truncate"], info["max_client_batch_size"], info["served_model_name"]) == (False, 4, "mini")
    assert classifier.http.get("/info").json()["model_type"] == {
        "classifier": {"id2label": {"0": "negative", "1": "positive"}, "label2id": {"negative": 0, "positive": 1}}}
    assert list(reranker.http.get("/info").json()["model_type"]) == ["reranker"]
    assert splade.http.get("/info").json()["model_type"] == {"embedding": {"pooling": "splade"}}


@pytest.mark.parametrize("path", ["/health", "/", "/ping"])
def test_health_is_empty(minilm, path):
    reply = minilm.http.get(path)
    assert (reply.status_code, reply.content) == (200, b"")


@pytest.mark.parametrize("path", ["/health/live", "/v1/health/live", "/health/ready", "/v1/health/ready"])
def test_live_and_ready(minilm, path):
    reply = minilm.http.get(path)
    assert (reply.status_code, reply.json()) == (200, {"status": path.rpartition("/")[2]})


def test_models(limited):
    listed = limited.http.get("/v1/models").json()
    card = {"id": "str", "object": "str", "created": "int", "owned_by": "str", "max_model_len": "int"}
    same_shape(listed, {"object": "str", "data": [card]})
    assert limited.http.get("/v1/models/mini").json() == listed["data"][0]
    reply = limited.http.get("/v1/models/another")
    assert reply.status_code == 404 and "another" in reply.json()["message"]
