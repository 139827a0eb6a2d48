"""What is refused, with which status and body, at which limit; and that the next request is answered."""

import concurrent.futures
import http.client
import socket
import time

import pytest

LONG = "word " * 300
JSON = {"content-type": "application/json"}
OPENAI_SHAPED = ("/v1/", "/v2/", "/embeddings")

# Server, path, body, status, type, part of the message.
REFUSED = [
    ("minilm", "/embed", {"inputs": ""}, 400, "Empty", "inputs: "),
    ("minilm", "/embed", {"inputs": ["a", ""]}, 400, "Empty", "inputs[1]: "),
    ("minilm", "/embed", {"inputs": []}, 400, "Empty", "inputs is empty"),
    ("minilm", "/v1/embeddings", {"input": ""}, 400, "Empty", "input: "),
    ("minilm", "/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400, "Empty", "inputs.sentences is empty"),
    ("minilm", "/vertex", {"instances": []}, 400, "Empty", "instances is empty"),
    ("minilm", "/decode", {"ids": []}, 400, "Empty", "ids is empty"),
    ("reranker", "/rerank", {"query": "a", "texts": []}, 400, "Empty", "texts is empty"),
    ("reranker", "/v1/rerank", {"query": "a", "documents": []}, 400, "Empty", "documents is empty"),
    ("minilm", "/embed", {}, 422, "Validation", "missing field `inputs`"),
    ("minilm", "/embed", {"inputs": 1}, 422, "Validation", "a number"),
    ("minilm", "/embed", {"inputs": [["a"]]}, 422, "Validation", "[0][0] is a text"),
    ("minilm", "/embed", {"inputs": [-1]}, 422, "Validation", "below 0"),
    ("minilm", "/embed", {"inputs": [30522]}, 422, "Validation", "token id 30522"),
    ("minilm", "/embed", {"inputs": "a", "dimensions": 0}, 422, "Validation", "dimensions is 0; it can be 1 to 384"),
    ("minilm", "/v1/embeddings", {"input": "a", "dimensions": 385}, 422, "Validation", "dimensions is 385"),
    ("minilm", "/embed", {"inputs": "a", "prompt_name": "nobody"}, 422, "Validation", "nobody"),
    ("minilm", "/embed", {"inputs": "a", "truncation_direction": "Up"}, 422, "Validation", "Up"),
    ("minilm", "/v1/embeddings", {"input": "a", "encoding_format": "int8"}, 422, "Validation", "int8"),
    ("minilm", "/embed", {"inputs": "a\0b"}, 422, "Tokenizer", "inputs: "),
    ("minilm", "/tokenize", {"inputs": "\0"}, 422, "Tokenizer", "inputs: "),
    ("classifier", "/predict", {"inputs": ["a", "b", "c"]}, 422, "Validation", "a list of 3 texts"),
    ("reranker", "/v2/rerank", {"query": "a", "documents": ["b"], "top_n": 0}, 422, "Validation", "top_n is 0"),
    ("entities", "/predict_tokens", {"inputs": "a", "aggregation_strategy": "best"}, 422, "Validation", "best"),
    ("limited", "/embed", {"inputs": ["a"] * 5}, 422, "Validation", "batch size 5 > maximum allowed batch size 4"),
    ("limited", "/v1/embeddings", {"input": ["a"] * 5}, 422, "Validation", "batch size 5 > maximum allowed batch size 4"),
    ("limited", "/embed", {"inputs": LONG}, 422, "Validation", "302 tokens are more than the limit of 256"),
    ("limited", "/v1/embeddings", {"input": LONG}, 422, "Validation", "302 tokens"),
    ("limited", "/embed", {"inputs": "a" * 20000}, 413, "Validation", "the limit of 20000 bytes"),
    ("limited", "/v1/embeddings", {"input": "a" * 20000}, 413, "Validation", "the limit of 20000 bytes"),
    ("minilm", "/predict", {"inputs": "a"}, 424, "Backend", ""),
    ("minilm", "/rerank", {"query": "a", "texts": ["b"]}, 424, "Backend", ""),
    ("minilm", "/v2/rerank", {"query": "a", "documents": ["b"]}, 424, "Backend", ""),
    ("minilm", "/embed_sparse", {"inputs": "a"}, 424, "Backend", ""),
    ("minilm", "/predict_tokens", {"inputs": "a"}, 424, "Backend", ""),
    ("splade", "/embed_all", {"inputs": "a"}, 424, "Backend", ""),
    ("classifier", "/embed", {"inputs": "a"}, 424, "Backend", ""),
    ("classifier", "/rerank", {"query": "a", "texts": ["b"]}, 424, "Backend", "2 labels"),
    ("reranker", "/v1/embeddings", {"input": "a"}, 424, "Backend", ""),
    ("faulty", "/embed", {"inputs": ["good", "hello"]}, 424, "Backend", "inputs[1]: "),
    ("faulty", "/v1/embeddings", {"input": "world"}, 424, "Backend", "input: "),
    ("minilm", "/nowhere", {}, 404, "Validation", "there is no route POST /nowhere"),
    ("minilm", "/info", {}, 405, "Validation", "does not take the method POST"),
]


def check(reply, path, status, kind, part):
    assert reply.status_code == status, reply.text[:400]
    assert reply.headers["content-type"] == "application/json"
    answer = reply.json()
    if path.startswith(OPENAI_SHAPED):
        assert list(answer) == ["message", "code", "type"]
        assert (answer["code"], answer["type"]) == (status, kind)
        assert part in answer["message"]
    else:
        assert list(answer) == ["error", "error_type"]
        assert answer["error_type"] == kind
        assert part in answer["error"]


IDS = [f"{name} {path} {status} {part}"[:60] for name, path, _, status, _, part in REFUSED]


@pytest.mark.parametrize("name, path, body, status, kind, part", REFUSED, ids=IDS)
def test_refused(start, name, path, body, status, kind, part):
    check(start(name).http.post(path, json=body), path, status, kind, part)


@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings", "/v2/rerank", "/", "/vertex"])
def test_bodies_that_are_no_json(minilm, path):
    post = minilm.http.post
    check(post(path, content=b'{"inputs": ', headers=JSON), path, 400, "Validation", "EOF")
    check(post(path, content=b"", headers=JSON), path, 400, "Validation", "EOF")
    check(post(path, content=b"\xff", headers=JSON), path, 400, "Validation", "")
    check(post(path, content=b'{"inputs": "a"}'), path, 415, "Validation", "Content-Type: application/json")


def test_a_refusal_leaves_the_connection_open(guarded):
    """Bodies are sent after their headers here, and nobody reads them: the next request must find the connection as it was."""
    with socket.create_connection(guarded.address.split(":"), timeout=20) as connection:
        for path, status in (("/embed", 401), ("/nowhere", 404), ("/ping", 405), ("/embed", 401)):
            connection.sendall(f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n".encode())
            time.sleep(0.1)
            connection.sendall(b"{}")
            reply = http.client.HTTPResponse(connection)
            reply.begin()
            assert reply.status == status
            reply.read()


def test_the_method_that_is_taken_is_told(minilm):
    reply = minilm.http.get("/embed")
    check(reply, "/embed", 405, "Validation", "/embed does not take the method GET")
    assert reply.headers["allow"] == "POST"


def test_a_body_at_the_limit_is_taken(limited):
    frame = b'{"inputs": [101, 102]%s}'
    body = frame % (b" " * (20000 - len(frame) + 2))
    assert len(body) == 20000
    assert limited.http.post("/embed", content=body, headers=JSON).status_code == 200
    check(limited.http.post("/embed", content=body + b" ", headers=JSON), "/embed", 413, "Validation", "20000 bytes")


def test_an_input_is_cut_where_the_request_says_so(limited):
    right = limited.ask("/embed", {"inputs": "start " + LONG + "end", "truncate": True})
    left = limited.ask("/embed", {"inputs": "start " + LONG + "end", "truncate": True, "truncation_direction": "Left"})
    assert right == limited.ask("/embed", {"inputs": "start " + "word " * 253})
    assert left == limited.ask("/embed", {"inputs": "word " * 253 + "end"})


def test_only_the_culprit_fails(faulty):
    with concurrent.futures.ThreadPoolExecutor(12) as threads:
        replies = list(threads.map(lambda text: faulty.http.post("/embed", json={"inputs": text}), ["good", "hello", "fine", "world"] * 3))
    assert [reply.status_code for reply in replies] == [200, 424, 200, 424] * 3
    assert faulty.http.get("/health").status_code == 200


def test_too_much_at_once_is_told_when_to_come_again(slow):
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        first = threads.submit(slow.http.post, "/embed", json={"inputs": "first"})
        slow.wait_for("bei_router_inputs_under_way", 1)
        for path, body in (("/embed", {"inputs": "second"}), ("/v1/embeddings", {"input": "second"})):
            reply = slow.http.post(path, json=body)
            check(reply, path, 429, "Overloaded", "")
            assert 1 <= int(reply.headers["retry-after"]) <= 10
        assert slow.http.post("/tokenize", json={"inputs": "needs no permit"}).status_code == 200
        slow.release()
        assert first.result().status_code == 200


def test_deadlines(slow, minilm):
    milliseconds = int(time.time() * 1000)
    for headers in ({"request-timeout-ms": "50"}, {"request-deadline-ms": str(milliseconds + 50)}, {"request-deadline-ms": "1"}):
        slow.hold()
        reply = slow.http.post("/embed", json={"inputs": str(headers)}, headers=headers)
        check(reply, "/embed", 429, "Overloaded", "the request's deadline")
    for headers in ({"request-timeout-ms": "60000"}, {"request-deadline-ms": str(milliseconds + 60_000)}, {"x-request-priority": "high"},
                    {"x-request-priority": "low", "request-timeout-ms": "60000"}):
        assert minilm.http.post("/embed", json={"inputs": "a"}, headers=headers).status_code == 200
    for headers in ({"request-timeout-ms": "soon"}, {"request-deadline-ms": "-1"}, {"x-request-priority": "urgent"}):
        for path, body in (("/embed", {"inputs": "a"}), ("/v1/embeddings", {"input": "a"})):
            reply = minilm.http.post(path, json=body, headers=headers)
            check(reply, path, 422, "Validation", next(iter(headers.values())))
