"""Keys, pages of other origins, request ids, the document and its page."""

import re

import httpx
import jsonschema
import openapi_spec_validator
import pytest

from conftest import KEY, ORIGIN
from test_shapes import REPLIES

BEARER = {"authorization": f"Bearer {KEY}"}
OPEN = {("get", path) for path in ("/", "/health", "/ping", "/health/live", "/health/ready", "/v1/health/live", "/v1/health/ready")}


@pytest.fixture(scope="module")
def document(minilm):
    return minilm.http.get("/api-doc/openapi.json").json()


def test_the_document_is_valid(document):
    openapi_spec_validator.validate(document)
    assert document["openapi"].startswith("3.1")


def test_the_document_has_every_route(document):
    operations = {(method, path) for path, item in document["paths"].items() for method in item}
    assert operations == {
        *(("post", path) for path in ("/", "/embed", "/embed_all", "/embed_sparse", "/embed_outputs", "/similarity", "/predict", "/predict_tokens",
                                      "/rerank", "/v1/rerank", "/v2/rerank", "/v1/embeddings", "/embeddings", "/tokenize", "/decode", "/invocations",
                                      "/vertex")),
        *(("get", path) for path in ("/info", "/metrics", "/v1/models", "/v1/models/{id}", "/api-doc/openapi.json")), *OPEN}


def test_replies_are_as_the_document_says(start, document):
    for name, path, body, _ in REPLIES:
        operation = document["paths"][path]["post"]
        content = operation["requestBody"]["content"]["application/json"]["schema"]
        headers = BEARER if name == "opened" else {}
        reply = start(name).http.post(path, json=body, headers=headers)
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        for instance, wanted in ((body, content), (reply.json(), schema)):
            jsonschema.Draft202012Validator({**wanted, "components": document["components"]}).validate(instance)
    schema = document["paths"]["/info"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    for name in ("minilm", "classifier", "reranker", "splade", "entities"):
        info = start(name).http.get("/info").json()
        jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(info)


def test_the_page_needs_nothing_from_elsewhere(minilm):
    pending, seen = ["/docs/"], {}
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        reply = minilm.http.get(path)
        assert reply.status_code == 200, path
        seen[path] = reply.text
        if reply.headers["content-type"].startswith("text/html"):
            pending += [str(httpx.URL(path).join(found)) for found in re.findall(r'(?:src|href)="([^"]+)"', reply.text)]
    assert any(path.endswith(".js") for path in seen) and any(path.endswith(".css") for path in seen)
    assert all(path.startswith("/") for path in seen)
    assert any("/api-doc/openapi.json" in text for text in seen.values())
    assert minilm.http.get("/docs", follow_redirects=True).text == seen["/docs/"]


def test_a_key_guards_all_but_health(guarded, document):
    for path, item in document["paths"].items():
        for method in item:
            url = path.replace("{id}", "any")
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}, {"authorization": KEY}):
                reply = guarded.http.request(method, url, headers=headers)
                assert (reply.status_code == 401) == ((method, path) not in OPEN), (method, path)
                if reply.status_code == 401 and path not in ("/v1/rerank", "/v2/rerank"):
                    assert reply.content == b""
            assert guarded.http.request(method, url, headers=BEARER).status_code != 401
    assert guarded.http.get("/docs/").status_code == 401
    assert guarded.http.post("/embed", json={"inputs": "a"}, headers={"authorization": "bearer other"}).status_code == 200


def test_metrics_and_docs_are_opened_on_purpose(opened):
    for path in ("/metrics", "/docs/", "/api-doc/openapi.json"):
        assert opened.http.get(path).status_code == 200
    assert opened.http.get("/info").status_code == 401


def test_pages_of_one_origin_may_ask(guarded, minilm):
    def preflight(server, origin):
        return server.http.options("/v1/embeddings", headers={
            "origin": origin, "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,request-timeout-ms"})

    reply = preflight(guarded, ORIGIN)
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert "POST" in reply.headers["access-control-allow-methods"]
    allowed = reply.headers["access-control-allow-headers"].replace(" ", "").split(",")
    assert {"authorization", "content-type", "request-timeout-ms", "request-deadline-ms", "x-request-priority", "x-request-id"} <= set(allowed)
    assert "access-control-allow-origin" not in preflight(guarded, "https://others.example").headers
    reply = guarded.http.post("/embed", json={"inputs": "a"}, headers={**BEARER, "origin": ORIGIN})
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert reply.headers["access-control-expose-headers"] == "*"
    # Without the flag no page may ask.
    assert "access-control-allow-origin" not in preflight(minilm, ORIGIN).headers


@pytest.mark.parametrize("method, path, body, status", [
    ("POST", "/embed", {"inputs": "a"}, 200), ("POST", "/v1/embeddings", {"input": ""}, 400), ("GET", "/health", None, 200),
    ("GET", "/nowhere", None, 404), ("POST", "/rerank", {"query": "a", "texts": ["b"]}, 424)])
def test_request_ids_are_echoed_or_made(minilm, method, path, body, status):
    def ask(**headers):
        reply = minilm.http.request(method, path, json=body, headers=headers)
        assert reply.status_code == status
        return reply.headers

    assert ask(**{"x-request-id": "mine-2"})["x-request-id"] == "mine-2"
    headers = ask(**{"x-baseten-customer-request-id": "theirs"})
    assert headers["x-request-id"] == headers["x-baseten-customer-request-id"] == "theirs"
    made = {ask()["x-request-id"], ask()["x-request-id"], ask(**{"x-request-id": "with spaces"})["x-request-id"], ask(**{"x-request-id": "x" * 129})["x-request-id"]}
    assert len(made) == 4 and all(re.fullmatch("[0-9a-f]{32}", each) for each in made)
    assert minilm.http.request(method, path, json=body, headers=BEARER | {"x-request-id": "a" * 128}).headers["x-request-id"] == "a" * 128
