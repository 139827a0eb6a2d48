//! Every route on the mock engine: what good requests are answered.

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{Server, length, minilm, mock_flags, vectors};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn embed_answers_a_list_of_vectors() {
    let server = Server::mock(json!({}), &[]).await;
    let single = server.embed(json!("Hello, world")).await;
    assert_eq!((single.len(), single[0].len()), (1, 384));
    assert!((length(&single[0]) - 1.0).abs() < 1e-5);

    let batch = server.embed(json!(["Hello, world", "another", "Hello, world"])).await;
    assert_eq!((batch.len(), &batch[0], &batch[2]), (3, &single[0], &single[0]));
    assert_ne!(batch[1], single[0]);

    let tokens = server.ask("/tokenize", json!({"inputs": "Hello, world"})).await;
    let ids: Vec<u64> =
        tokens[0].as_array().unwrap().iter().map(|token| token["id"].as_u64().unwrap()).collect();
    assert_eq!(server.embed(json!(ids)).await, single);
    assert_eq!(server.embed(json!(["another", ids, [1, 2]])).await[1], single[0]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embed_cuts_then_normalises() {
    let server = Server::mock(json!({}), &[]).await;
    let ask = async |body: Value| vectors(&server.ask("/embed", body).await).remove(0);
    let plain = ask(json!({"inputs": "a", "normalize": false})).await;
    let cut = ask(json!({"inputs": "a", "normalize": false, "dimensions": 5})).await;
    let unit = ask(json!({"inputs": "a", "dimensions": 5})).await;
    assert_eq!(plain[..5], cut);
    assert!((length(&plain) - 1.0).abs() > 1e-3);
    assert!((length(&unit) - 1.0).abs() < 1e-6);
    assert!((unit[0] * length(&cut) - cut[0]).abs() < 1e-6);
    assert_eq!(ask(json!({"inputs": "a", "dimensions": 384, "normalize": false})).await, plain);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_tell_what_they_cost() {
    let server = Server::mock(json!({}), &[]).await;
    for (path, body) in [
        ("/embed", json!({"inputs": ["Hello", "wörld"]})),
        ("/embed_all", json!({"inputs": ["Hello", "wörld"]})),
        ("/v1/embeddings", json!({"input": ["Hello", "wörld"]})),
    ] {
        let response = server.send(path, body.to_string()).await;
        assert_eq!(response.status(), 200);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_string();
        assert_eq!(header("x-compute-type"), "cpu+mock");
        assert_eq!(header("x-compute-characters"), "10");
        assert_eq!(header("x-compute-tokens"), "6");
        for name in ["compute", "total", "tokenization", "queue", "inference"] {
            header(&format!("x-{name}-time")).parse::<u64>().unwrap();
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embed_all_answers_a_vector_for_each_token() {
    let server = Server::mock(json!({}), &[]).await;
    let answer = server.ask("/embed_all", json!({"inputs": ["Hello, world", "a"]})).await;
    let tokens = server.ask("/tokenize", json!({"inputs": ["Hello, world", "a"]})).await;
    for i in 0..2 {
        assert_eq!(answer[i].as_array().unwrap().len(), tokens[i].as_array().unwrap().len());
        assert!(vectors(&answer[i]).iter().all(|vector| vector.len() == 384));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_embeddings_come_as_floats_or_base64() {
    let server = Server::mock(json!({}), &["--served-model-name", "mini"]).await;
    let expected = server.embed(json!(["Hello", "world"])).await;
    let answer = server.ask("/v1/embeddings", json!({"input": ["Hello", "world"], "model": "other"})).await;
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("mini")));
    assert_eq!(answer["usage"], json!({"prompt_tokens": 6, "total_tokens": 6}));
    for (i, expected) in expected.iter().enumerate() {
        let data = &answer["data"][i];
        assert_eq!((&data["object"], &data["index"]), (&json!("embedding"), &json!(i)));
        assert_eq!(*expected, serde_json::from_value::<Vec<f32>>(data["embedding"].clone()).unwrap());
    }

    let body = json!({"input": "Hello", "encoding_format": "base64", "dimensions": 4, "user": "someone"});
    let answer = server.ask("/embeddings", body).await;
    let bytes = STANDARD.decode(answer["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let floats: Vec<f32> = bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    assert_eq!((floats.len(), (length(&floats) * 1e4).round()), (4, 1e4));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_show_their_part_of_the_text() {
    let server = Server::mock(json!({}), &[]).await;
    let answer = server.ask("/tokenize", json!({"inputs": ["Ünïcode 🙂!", "b"]})).await;
    let tokens = answer[0].as_array().unwrap();
    let special = json!({"id": 101, "text": "[CLS]", "special": true, "start": null, "stop": null});
    assert_eq!(tokens[0], special);
    for token in &tokens[1..tokens.len() - 1] {
        let (start, stop) = (token["start"].as_u64().unwrap(), token["stop"].as_u64().unwrap());
        let part: String = "Ünïcode 🙂!".chars().skip(start as usize).take((stop - start) as usize).collect();
        assert_eq!(token["text"], json!(part));
    }
    assert_eq!(tokens[tokens.len() - 2]["text"], "!");

    let bare = server.ask("/tokenize", json!({"inputs": "b", "add_special_tokens": false})).await;
    assert_eq!(bare[0].as_array().unwrap().len(), 1);
    let long = server.ask("/tokenize", json!({"inputs": "word ".repeat(1000)})).await;
    assert_eq!(long[0].as_array().unwrap().len(), 1002);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_decoded() {
    let server = Server::mock(json!({}), &[]).await;
    let ids = [101, 7592, 2088, 102];
    assert_eq!(server.ask("/decode", json!({"ids": ids})).await, json!(["hello world"]));
    let body = json!({"ids": [ids, [2088]], "skip_special_tokens": false});
    assert_eq!(server.ask("/decode", body).await, json!(["[CLS] hello world [SEP]", "world"]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn info_health_and_metrics() {
    let server = Server::mock(json!({}), &[]).await;
    let info: Value = server.get("/info").await.json().await.unwrap();
    for (field, value) in [
        ("model_type", json!({"embedding": {"pooling": "mean"}})),
        ("served_model_name", json!("all-MiniLM-L6-v2")),
        ("max_concurrent_requests", json!(512)),
        ("max_input_length", json!(256)),
        ("max_batch_tokens", json!(1024)),
        ("max_batch_requests", json!(null)),
        ("max_client_batch_size", json!(u32::MAX)), // no limit
        ("auto_truncate", json!(true)),
        ("model_dtype", json!("float32")),
        ("engine", json!("mock")),
        ("slots", json!(1)),
    ] {
        assert_eq!(info[field], value, "{field}");
    }
    for path in ["/", "/health", "/ping"] {
        let response = server.get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.text().await.unwrap(), "", "{path}");
    }
    server.embed(json!(["a", "b"])).await;
    server.embed(json!("c")).await;
    let text = server.get("/metrics").await.text().await.unwrap();
    for line in [
        "te_request_count{method=\"batch\"} 1",
        "te_request_success{method=\"single\"} 1",
        "te_embed_count 3",
        "te_embed_success 3",
        "te_request_duration_count 2",
        "te_request_input_length_count 3",
        "te_batch_next_size_sum 3",
        "te_batch_next_tokens_sum 9",
        "te_queue_size 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(text.lines().any(|line| line.starts_with("bei_")), "the library's metrics are missing");
    assert_eq!(server.get("/nothing").await.status(), 404);
    assert_eq!(server.get("/embed").await.status(), 405);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_prompt_stands_before_texts() {
    let server = Server::mock(json!({}), &[]).await;
    let prompted = Server::mock(json!({}), &["--default-prompt", "query: "]).await;
    assert_eq!(prompted.embed(json!("hello")).await, server.embed(json!("query: hello")).await);
    let tokens = prompted.ask("/tokenize", json!({"inputs": "hello"})).await;
    assert_eq!(tokens, server.ask("/tokenize", json!({"inputs": "query: hello"})).await);
    assert_eq!(tokens[0][3]["text"], "hello");
    server.stop().await;
    prompted.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_texts_are_cut_on_the_side_asked_for() {
    let server = Server::mock(json!({}), &[]).await;
    let words = |first: &str, last: &str| format!("{first} {}{last}", "word ".repeat(300));
    let ask = async |text: String, direction: &str| {
        let body = json!({"inputs": text, "truncate": true, "truncation_direction": direction});
        server.ask("/embed", body).await
    };
    let right = ask(words("one", "two"), "Right").await;
    assert_eq!(right, ask(words("one", "three"), "right").await);
    assert_ne!(right, ask(words("four", "two"), "Right").await);
    let left = ask(words("one", "two"), "Left").await;
    assert_eq!(left, ask(words("four", "two"), "left").await);
    assert_ne!(left, right);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_input_is_longer_than_a_batch() {
    let server = Server::mock(json!({}), &["--max-batch-tokens", "128"]).await;
    let info: Value = server.get("/info").await.json().await.unwrap();
    assert_eq!(info["max_input_length"], 128);
    server.embed(json!("word ".repeat(300))).await;
    server.stop().await;

    let flags = mock_flags(json!({}), &["--max-batch-tokens", "128", "--auto-truncate", "false"]);
    let error = Server::try_start(&flags).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("--max-batch-tokens is 128"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    let model = minilm();
    for (flags, part) in [
        (vec!["--model-id", "/does/not/exist"], "/does/not/exist"),
        (vec!["--model-id", "", "--engine", "mock"], "tokenizer"),
        (
            vec!["--model-id", &model, "--engine", "mock", "--max-concurrent-requests", "0"],
            "--max-concurrent-requests",
        ),
        (vec!["--model-id", &model, "--engine", "mock", "--bei-options", r#"{"colour": 1}"#], "colour"),
        (vec!["--model-id", &model, "--engine", "mock", "--default-prompt-name", "nobody"], "nobody"),
        (
            vec![
                "--model-id",
                &model,
                "--engine",
                "mock",
                "--bei-options",
                r#"{"mock": {"faults": [{"kind": "nan"}]}}"#,
            ],
            "NaN",
        ),
    ] {
        let flags: Vec<String> = flags.into_iter().map(String::from).collect();
        let error = Server::try_start(&flags).await.map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(part), "{flags:?}: {error}");
    }
}

/// A tiny model of testdata on ONNX Runtime, and its golden.json.
async fn tiny(name: &str) -> (Server, Value) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models").join(name);
    let golden = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
    let options = json!({"log": {"level": "off"}}).to_string();
    let flags =
        ["--model-id", folder.to_str().unwrap(), "--engine", "onnxruntime", "--bei-options", &options];
    (Server::start(&flags.map(str::to_string)).await, golden)
}

/// Weights of the first text of a model's golden.json, through the route.
async fn sparse_of(name: &str, weights: impl Fn(&Value) -> Vec<(u64, f64)>) {
    let (server, golden) = tiny(name).await;
    let text = golden["items"][0]["text"].clone();
    let answer = server.ask("/embed_sparse", json!({"inputs": [text, "a", text]})).await;
    assert_eq!(answer[0], answer[2]);
    let (found, wanted) = (answer[0].as_array().unwrap(), weights(&golden));
    assert_eq!(found.len(), wanted.len());
    for (entry, (id, weight)) in found.iter().zip(wanted) {
        assert_eq!(entry["index"], json!(id));
        assert!((entry["value"].as_f64().unwrap() - weight).abs() < 1e-4, "{entry}: {weight}");
    }
    server.ask("/embed", json!({"inputs": text})).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embed_sparse_answers_weights_by_token_id() {
    sparse_of("distilbert-splade", |golden| {
        let row = golden["pooled"][0].as_array().unwrap();
        (0..).zip(row.iter().map(|w| w.as_f64().unwrap())).filter(|&(_, weight)| weight > 0.0).collect()
    })
    .await;
    sparse_of("bge-m3", |golden| {
        let row = golden["sparse"][0].as_object().unwrap();
        let mut weights: Vec<(u64, f64)> =
            row.iter().map(|(id, w)| (id.parse().unwrap(), w.as_f64().unwrap())).collect();
        weights.sort_by_key(|&(id, _)| id);
        weights
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_sparse_embeddings_says_so() {
    let (server, _) = tiny("bert-mean").await;
    let (status, answer) = server.post("/embed_sparse", json!({"inputs": "a"})).await;
    assert_eq!((status.as_u16(), &answer["error"]), (424, &json!("the model computes no sparse embeddings")));
    server.stop().await;
}
