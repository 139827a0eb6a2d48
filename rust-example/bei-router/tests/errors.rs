//! Bad requests and failing engines: the status and body of each, and the good request after it.

mod common;

use common::Server;
use serde_json::{Value, json};

async fn check(server: &Server, name: &str, path: &str, body: Vec<u8>, status: u16, kind: &str, part: &str) {
    let response = server.send(path, body).await;
    let (found, text) = (response.status(), response.text().await.unwrap());
    let start: String = text.chars().take(400).collect();
    assert_eq!(found.as_u16(), status, "{name} on {path}: {start}");
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{name} on {path}: {start}"));
    let (message, found) = match path {
        "/v1/embeddings" => {
            assert_eq!(answer["code"], status, "{name} on {path}: {start}");
            (&answer["message"], &answer["type"])
        }
        _ => (&answer["error"], &answer["error_type"]),
    };
    assert_eq!(found, kind, "{name} on {path}: {start}");
    assert!(message.as_str().unwrap().contains(part), "{name} on {path}: {part:?} is not in {start}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_wrong() {
    let server = Server::mock(json!({}), &[]).await;
    for path in ["/embed", "/embed_all", "/tokenize", "/decode", "/v1/embeddings"] {
        for (name, body, status, part) in [
            ("not JSON", &b"{\"inputs\": "[..], 400, "EOF"),
            ("empty", b"", 400, "EOF"),
            (
                "not UTF-8",
                b"{\"inputs\": \"a\xff\", \"input\": \"a\xff\", \"ids\": \"a\xff\"}",
                400,
                "unicode",
            ),
            (
                "half a surrogate",
                b"{\"inputs\": \"\\ud800\", \"input\": \"\\ud800\", \"ids\": \"\\ud800\"}",
                400,
                "hex escape",
            ),
            ("a list", b"[]", 422, "expected struct"),
            ("no field", b"{}", 422, "missing field"),
            ("a number", b"{\"inputs\": 1, \"input\": 1, \"ids\": 1}", 422, "a number"),
            ("null", b"{\"inputs\": null, \"input\": null, \"ids\": null}", 422, "expected a text"),
            ("an object", b"{\"inputs\": {}, \"input\": {}, \"ids\": {}}", 422, "expected a text"),
            ("negative id", b"{\"inputs\": [-1], \"input\": [-1], \"ids\": [-1]}", 422, "below 0"),
            (
                "huge id",
                b"{\"inputs\": [4294967296], \"input\": [4294967296], \"ids\": [4294967296]}",
                422,
                "above 4294967295",
            ),
            ("fraction", b"{\"inputs\": [0.5], \"input\": [0.5], \"ids\": [0.5]}", 422, "0.5"),
            (
                "id among texts",
                b"{\"inputs\": [\"a\", 1], \"input\": [\"a\", 1], \"ids\": [\"a\", 1]}",
                422,
                "[1] is the number 1",
            ),
            (
                "text among ids",
                b"{\"inputs\": [[1, \"a\"]], \"input\": [[1, \"a\"]], \"ids\": [[1, \"a\"]]}",
                422,
                "[0][1] is a text",
            ),
            (
                "too deep",
                b"{\"inputs\": [[[1]]], \"input\": [[[1]]], \"ids\": [[[1]]]}",
                422,
                "[0][0] is a list",
            ),
        ] {
            check(&server, name, path, body.to_vec(), status, "Validation", part).await;
        }
        let hostile = [b"{\"inputs\": ".to_vec(), b"[".repeat(100_000)].concat();
        let response = server.send(path, hostile).await;
        assert!(response.status() == 400 || response.status() == 422, "deep nesting on {path}");
        let none = server.client.post(server.url(path)).body("{\"inputs\": \"a\"}").send().await.unwrap();
        assert_eq!(none.status(), 415, "no content type on {path}");
    }
    server.embed(json!("good")).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_are_wrong() {
    let server =
        Server::mock(json!({}), &["--auto-truncate", "false", "--max-client-batch-size", "32"]).await;
    let many = vec!["a"; 100_000];
    let (long, ids) = ("word ".repeat(300), vec![5; 257]);
    for (name, path, body, status, kind, part) in [
        ("no text", "/embed", json!({"inputs": ""}), 400, "Empty", "inputs: "),
        ("no text in a list", "/embed", json!({"inputs": ["a", ""]}), 400, "Empty", "inputs[1]: "),
        ("no inputs", "/embed", json!({"inputs": []}), 400, "Empty", "inputs is empty"),
        ("no ids", "/embed", json!({"inputs": [[]]}), 400, "Empty", "inputs[0]: "),
        ("NUL", "/embed", json!({"inputs": ["a", "b\u{0}c"]}), 422, "Tokenizer", "inputs[1]: "),
        (
            "too many",
            "/embed",
            json!({"inputs": vec!["a"; 33]}),
            422,
            "Validation",
            "batch size 33 > maximum allowed batch size 32",
        ),
        ("far too many", "/embed", json!({"inputs": many}), 422, "Validation", "batch size 100000 > maximum"),
        (
            "too long",
            "/embed",
            json!({"inputs": ["a", long]}),
            422,
            "Validation",
            "inputs[1]: 302 tokens are more than the limit of 256",
        ),
        ("too many ids", "/embed", json!({"inputs": ids}), 422, "Validation", "257"),
        (
            "too many ids, cut",
            "/embed",
            json!({"inputs": ids, "truncate": true}),
            422,
            "Validation",
            "not truncated",
        ),
        (
            "id out of range",
            "/embed",
            json!({"inputs": [[1], [2, 30522]]}),
            422,
            "Validation",
            "inputs[1]: token id 30522 at position 1",
        ),
        (
            "dimensions 0",
            "/embed",
            json!({"inputs": "a", "dimensions": 0}),
            422,
            "Validation",
            "dimensions is 0; it can be 1 to 384",
        ),
        (
            "dimensions 385",
            "/embed",
            json!({"inputs": "a", "dimensions": 385}),
            422,
            "Validation",
            "dimensions is 385",
        ),
        (
            "dimensions -1",
            "/embed",
            json!({"inputs": "a", "dimensions": -1}),
            422,
            "Validation",
            "dimensions",
        ),
        (
            "unknown prompt",
            "/embed",
            json!({"inputs": "a", "prompt_name": "nobody"}),
            422,
            "Validation",
            "nobody",
        ),
        (
            "prompt for ids",
            "/embed",
            json!({"inputs": [1], "prompt_name": "query"}),
            422,
            "Validation",
            "prompt_name",
        ),
        (
            "truncate a text",
            "/embed",
            json!({"inputs": "a", "truncate": "yes"}),
            422,
            "Validation",
            "truncate",
        ),
        (
            "direction",
            "/embed",
            json!({"inputs": "a", "truncation_direction": "Up"}),
            422,
            "Validation",
            "Up",
        ),
        ("too long", "/embed_all", json!({"inputs": long}), 422, "Validation", "inputs: 302 tokens"),
        ("no text", "/embed_all", json!({"inputs": [""]}), 400, "Empty", "inputs[0]: "),
        ("no text", "/v1/embeddings", json!({"input": [""]}), 400, "Empty", "input[0]: "),
        ("too long", "/v1/embeddings", json!({"input": long}), 422, "Validation", "input: 302 tokens"),
        (
            "dimensions 0",
            "/v1/embeddings",
            json!({"input": "a", "dimensions": 0}),
            422,
            "Validation",
            "dimensions",
        ),
        (
            "format",
            "/v1/embeddings",
            json!({"input": "a", "encoding_format": "int8"}),
            422,
            "Validation",
            "int8",
        ),
        ("no text", "/tokenize", json!({"inputs": ["a", ""]}), 400, "Empty", "inputs[1]: "),
        (
            "ids",
            "/tokenize",
            json!({"inputs": [[1]]}),
            422,
            "Validation",
            "inputs[0]: token ids; expected a text",
        ),
        ("NUL", "/tokenize", json!({"inputs": "\u{0}"}), 422, "Tokenizer", "inputs: "),
        (
            "unknown prompt",
            "/tokenize",
            json!({"inputs": "a", "prompt_name": "nobody"}),
            422,
            "Validation",
            "nobody",
        ),
        ("too many", "/tokenize", json!({"inputs": vec!["a"; 33]}), 422, "Validation", "batch size 33"),
        ("texts", "/decode", json!({"ids": ["a"]}), 422, "Validation", "ids[0]: a text; expected token ids"),
        ("none", "/decode", json!({"ids": []}), 400, "Empty", "ids is empty"),
        ("too many", "/decode", json!({"ids": vec![[1]; 33]}), 422, "Validation", "batch size 33"),
    ] {
        check(&server, name, path, body.to_string().into_bytes(), status, kind, part).await;
    }
    let truncated = json!({"inputs": long, "truncate": true});
    assert_eq!(server.post("/embed", truncated).await.0, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_and_methods_that_are_not_there() {
    let server = Server::mock(json!({}), &[]).await;
    let (status, answer) = server.post("/embedd", json!({"inputs": "a"})).await;
    assert_eq!((status.as_u16(), &answer["error_type"]), (404, &json!("Validation")));
    assert_eq!(answer["error"], "there is no route POST /embedd");
    let response = server.get("/embed").await;
    assert_eq!((response.status().as_u16(), &response.headers()["allow"]), (405, &"POST".parse().unwrap()));
    assert_eq!(response.json::<Value>().await.unwrap()["error"], "/embed does not take the method GET");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies() {
    let server = Server::mock(json!({}), &[]).await;
    let body = json!({"inputs": "word ".repeat(2_000_000)}).to_string().into_bytes();
    for path in ["/embed", "/v1/embeddings"] {
        check(&server, "10 MB", path, body.clone(), 413, "Validation", "the limit of 2000000 bytes").await;
    }
    server.embed(json!("good")).await;
    server.stop().await;

    let server = Server::mock(json!({}), &["--payload-limit", "20000000", "--auto-truncate", "false"]).await;
    check(&server, "10 MB", "/embed", body, 422, "Validation", "inputs: ").await;
    server.embed(json!("good")).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_item_costs_nobody_else() {
    // hello = 7592, world = 2088
    let faults = json!([{"kind": "nan", "token_id": 7592}, {"kind": "bad_item", "token_id": 2088}]);
    let server = Server::mock(json!({"faults": faults, "run_us": 20000}), &[]).await;
    let good = server.embed(json!("good")).await;
    let (nan, failed, others) = tokio::join!(
        server.post("/embed", json!({"inputs": ["good", "hello"]})),
        server.post("/embed_all", json!({"inputs": "world"})),
        server.embed(json!(["good", "good"])),
    );
    for ((status, answer), name) in [(nan, "inputs[1]: "), (failed, "inputs: ")] {
        assert_eq!((status.as_u16(), &answer["error_type"]), (424, &json!("Backend")), "{answer}");
        assert!(answer["error"].as_str().unwrap().starts_with(name), "{answer}");
    }
    assert_eq!(others, [good[0].clone(), good[0].clone()]);
    let (status, answer) = server.post("/embed_all", json!({"inputs": "hello"})).await;
    assert_eq!(status, 424, "NaN among token vectors: {answer}");
    assert_eq!(server.embed(json!("good")).await, good);
    assert_eq!(server.get("/health").await.status(), 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_engine_is_unhealthy() {
    let server = Server::mock(json!({"faults": [{"kind": "lost", "from": 7, "count": 1}]}), &[]).await;
    for _ in 0..8 {
        let (status, answer) = server.post("/embed", json!({"inputs": "a"})).await;
        if status != 200 {
            assert_eq!((status.as_u16(), &answer["error_type"]), (503, &json!("Unhealthy")), "{answer}");
        }
    }
    let response = server.get("/health").await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.json::<Value>().await.unwrap()["error_type"], "Unhealthy");
    assert_eq!(server.get("/metrics").await.status(), 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_looks_deeper_after_a_failed_batch() {
    // world = 2088
    let server = Server::mock(json!({"faults": [{"kind": "bad_item", "token_id": 2088}]}), &[]).await;
    assert_eq!(server.post("/embed", json!({"inputs": "world"})).await.0, 424);
    assert_eq!(server.get("/health").await.status(), 200);
    assert_eq!(server.get("/health").await.status(), 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_classifier_does_not_embed() {
    let server = Server::mock(json!({"kind": "classifier"}), &["--model-id", &classifier_folder(2)]).await;
    let (status, answer) = server.post("/embed", json!({"inputs": "a"})).await;
    assert_eq!((status.as_u16(), &answer["error_type"]), (424, &json!("Backend")), "{answer}");
    assert_eq!(server.ask("/decode", json!({"ids": [7592]})).await, json!(["hello"]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nan_is_never_a_success() {
    // hello = 7592
    let faults = json!([{"kind": "nan", "token_id": 7592}]);
    let check = async |server: &Server, requests: &[(&str, Value, &str)]| {
        for (path, body, part) in requests {
            let (status, answer) = server.post(path, body.clone()).await;
            let message = answer.get("error").unwrap_or(&answer["message"]).as_str().unwrap();
            assert_eq!(status, 424, "{path}: {answer}");
            assert!(message.starts_with(part), "{path}: {answer}");
        }
    };
    let server = Server::mock(json!({"faults": faults}), &[]).await;
    check(
        &server,
        &[
            ("/embed", json!({"inputs": ["good", "hello"]}), "inputs[1]: "),
            ("/embed_all", json!({"inputs": "hello"}), "inputs: "),
            ("/embed_outputs", json!({"inputs": ["hello"], "outputs": ["pooled", "tokens"]}), "inputs[0]: "),
            ("/v1/embeddings", json!({"input": "hello"}), "input: "),
            (
                "/similarity",
                json!({"inputs": {"source_sentence": "good", "sentences": ["hello"]}}),
                "inputs.sentences[0]: ",
            ),
            (
                "/vertex",
                json!({"instances": [{"inputs": "good"}, {"inputs": "hello"}]}),
                "instances[1]: inputs: ",
            ),
        ],
    )
    .await;
    server.stop().await;
    let classifier = json!({"kind": "classifier", "labels": 2, "faults": faults});
    let server = Server::mock(classifier, &["--model-id", &classifier_folder(2)]).await;
    check(&server, &[("/predict", json!({"inputs": [["good"], ["good", "hello"]]}), "inputs[1]: ")]).await;
    server.ask("/predict", json!({"inputs": [["good"], ["good", "better"]]})).await;
    server.stop().await;
    let reranker = json!({"kind": "classifier", "labels": 1, "faults": faults});
    let server = Server::mock(reranker, &["--model-id", &classifier_folder(1)]).await;
    check(
        &server,
        &[
            ("/rerank", json!({"query": "a", "texts": ["good", "hello"]}), "texts[1]: "),
            ("/v1/rerank", json!({"query": "a", "documents": ["good", "hello"]}), "documents[1]: "),
        ],
    )
    .await;
    server.ask("/rerank", json!({"query": "a", "texts": ["good"]})).await;
    server.stop().await;
}

/// The real model's files with a configuration that makes it a classifier; the mock engine needs no weights.
fn classifier_folder(labels: usize) -> String {
    let (from, to) = (common::minilm(), format!("{}/classifier-{labels}", env!("CARGO_TARGET_TMPDIR")));
    std::fs::create_dir_all(&to).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(format!("{from}/{file}"), format!("{to}/{file}")).unwrap();
    }
    let text = std::fs::read_to_string(format!("{from}/config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["architectures"] = json!(["BertForSequenceClassification"]);
    let names = (0..labels).map(|i| (i.to_string(), json!(format!("label {i}"))));
    config["id2label"] = Value::Object(names.collect());
    config["label2id"] = (0..labels).map(|i| (format!("label {i}"), json!(i))).collect();
    std::fs::write(format!("{to}/config.json"), config.to_string()).unwrap();
    to
}
