//! The routes of classifiers, rerankers and token classifiers, on the tiny golden models and the real engine.

mod common;

use common::{Server, assert_close, close, golden, refuses};
use serde_json::{Value, json};

fn pairs(golden: &Value) -> Vec<(Value, Value, Value)> {
    let items = golden["items"].as_array().unwrap().iter().zip(golden["pooled"].as_array().unwrap());
    let pair = |item: &Value| !item["pair"].is_null() && item["prompt_name"].is_null();
    let pairs = items.filter(|(item, _)| pair(item));
    pairs.map(|(item, row)| (item["text"].clone(), item["pair"].clone(), row[0].clone())).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_classifier_sorts_its_labels() {
    let (server, golden) = golden("bert-classifier", &[]).await;
    let labels: Vec<&str> =
        golden["labels"].as_array().unwrap().iter().map(|label| label.as_str().unwrap()).collect();
    let all: Vec<Value> = (golden["items"].as_array().unwrap().iter())
        .map(|item| match &item["pair"] {
            Value::Null => json!([item["text"]]),
            pair => json!([item["text"], pair]),
        })
        .collect();
    for raw in [true, false] {
        let answer = server.ask("/predict", json!({"inputs": all, "raw_scores": raw})).await;
        assert_eq!(answer.as_array().unwrap().len(), all.len());
        for (i, predictions) in answer.as_array().unwrap().iter().enumerate() {
            let logits: Vec<f64> = serde_json::from_value(golden["pooled"][i].clone()).unwrap();
            let sum: f64 = logits.iter().map(|x| x.exp()).sum();
            let scores: Vec<f64> =
                predictions.as_array().unwrap().iter().map(|p| p["score"].as_f64().unwrap()).collect();
            assert!(scores.is_sorted_by(|a, b| a >= b), "{predictions}");
            for prediction in predictions.as_array().unwrap() {
                let k = labels.iter().position(|label| prediction["label"] == *label).unwrap();
                let expected = if raw { logits[k] } else { logits[k].exp() / sum };
                assert!(close(prediction["score"].as_f64().unwrap(), expected), "{i}: {predictions}");
            }
        }
    }
    let single = server.ask("/predict", json!({"inputs": golden["items"][0]["text"]})).await;
    assert_eq!((single.as_array().unwrap().len(), single[0]["label"].is_string()), (2, true));
    assert_eq!(server.ask("/", json!({"inputs": golden["items"][0]["text"]})).await, single);
    assert_eq!(server.ask("/invocations", json!({"inputs": golden["items"][0]["text"]})).await, single);
    let instances = json!({"instances": [{"inputs": golden["items"][0]["text"]}, {"inputs": [["a"]]}]});
    let answer = server.ask("/vertex", instances).await;
    assert_eq!(
        (&answer["predictions"][0], answer["predictions"][1][0].as_array().unwrap().len()),
        (&single, 2)
    );

    let info: Value = server.get("/info").await.json().await.unwrap();
    assert_eq!(info["model_type"]["classifier"]["id2label"], json!({"0": "negative", "1": "positive"}));
    assert_eq!(server.metric("te_predict_success").await, (2 * all.len() + 5) as f64);
    assert_eq!(server.metric("te_embed_count").await, 0.0);
    refuses(
        &server,
        &[
            ("/embed", json!({"inputs": "a"})),
            ("/embed_all", json!({"inputs": "a"})),
            ("/embed_sparse", json!({"inputs": "a"})),
            ("/similarity", json!({"inputs": {"source_sentence": "a", "sentences": ["b"]}})),
            ("/v1/embeddings", json!({"input": "a"})),
            ("/rerank", json!({"query": "a", "texts": ["b"]})),
            ("/v1/rerank", json!({"query": "a", "documents": ["b"]})),
            ("/predict_tokens", json!({"inputs": "a"})),
            ("/embed_outputs", json!({"inputs": "a", "outputs": ["pooled"]})),
            ("/embed_outputs", json!({"inputs": "a", "outputs": ["spans"], "spans": [[[0, 1]]]})),
        ],
    )
    .await;
    server.stop().await;
}

async fn ranks(server: &Server, golden: &Value) {
    for (query, text, logit) in pairs(golden) {
        let body = json!({"query": query, "texts": [text], "raw_scores": true});
        let answer = server.ask("/rerank", body).await;
        assert_close("raw", &answer[0]["score"], &logit);
        assert_eq!((&answer[0]["index"], answer[0].get("text")), (&json!(0), None));
        let body = json!({"inputs": [query, text], "raw_scores": true});
        assert_close("predict", &server.ask("/predict", body).await[0]["score"], &logit);
    }
    let (query, first, logit) = pairs(golden).remove(0);
    let (texts, score) = (json!(["a", first, "b b b"]), sigmoid(logit.as_f64().unwrap()));
    let body = json!({"query": query, "texts": texts, "return_text": true});
    let answer = server.ask("/rerank", body).await;
    let ranks = answer.as_array().unwrap();
    assert!(ranks.is_sorted_by(|a, b| a["score"].as_f64() >= b["score"].as_f64()), "{answer}");
    for rank in ranks {
        assert_eq!(rank["text"], texts[rank["index"].as_u64().unwrap() as usize]);
    }
    let found = ranks.iter().find(|rank| rank["index"] == 1).unwrap();
    assert!(close(found["score"].as_f64().unwrap(), score), "{answer} {score}");
    let plain = server.ask("/", json!({"query": query, "texts": texts})).await;
    assert_eq!(plain[0]["score"], ranks[0]["score"]);

    for (path, version) in [("/v1/rerank", "1"), ("/v2/rerank", "2")] {
        let documents = json!(["a", {"text": first, "more": 1}, "b b b"]);
        let body = json!({"model": "m", "query": query, "documents": documents, "top_n": 2, "return_documents": true});
        let answer = server.ask(path, body).await;
        let results = answer["results"].as_array().unwrap();
        assert_eq!(results.len(), 2, "{answer}");
        for (result, rank) in results.iter().zip(ranks) {
            assert_eq!((&result["index"], &result["relevance_score"]), (&rank["index"], &rank["score"]));
            assert_eq!(result["document"], json!({"text": rank["text"]}));
        }
        assert_eq!(answer["meta"]["api_version"]["version"], version);
        assert!(
            answer["id"].is_string() && answer["usage"]["total_tokens"].as_u64().unwrap() > 3,
            "{answer}"
        );
        let body = json!({"query": query, "documents": [first]});
        assert!(server.ask(path, body).await["results"][0].get("document").is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reranker_sorts_texts() {
    let (server, golden) = golden("bert-reranker", &["--max-client-batch-size", "32"]).await;
    ranks(&server, &golden).await;
    let info: Value = server.get("/info").await.json().await.unwrap();
    assert_eq!(info["model_type"]["reranker"]["label2id"], json!({"LABEL_0": 0}));
    for (name, path, body, status, kind, part) in [
        ("no texts", "/rerank", json!({"query": "a", "texts": []}), 400, "Empty", "texts is empty"),
        (
            "no documents",
            "/v1/rerank",
            json!({"query": "a", "documents": []}),
            400,
            "Empty",
            "documents is empty",
        ),
        ("too many", "/rerank", json!({"query": "a", "texts": vec!["b"; 33]}), 422, "Validation", "33"),
        ("NUL", "/rerank", json!({"query": "a", "texts": ["b", "c\u{0}"]}), 422, "Tokenizer", "texts[1]"),
        (
            "rank_fields",
            "/v1/rerank",
            json!({"query": "a", "documents": ["b"], "rank_fields": ["x"]}),
            422,
            "Validation",
            "rank_fields is not served",
        ),
        (
            "top_n",
            "/v2/rerank",
            json!({"query": "a", "documents": ["b"], "top_n": 0}),
            422,
            "Validation",
            "top_n",
        ),
        (
            "short documents",
            "/v2/rerank",
            json!({"query": "a", "documents": ["b"], "max_tokens_per_doc": 5}),
            422,
            "Validation",
            "max_tokens_per_doc is 5",
        ),
        (
            "chunks",
            "/v1/rerank",
            json!({"query": "a", "documents": ["b"], "max_chunks_per_doc": 10}),
            422,
            "Validation",
            "max_chunks_per_doc is 10",
        ),
        (
            "document without text",
            "/v1/rerank",
            json!({"query": "a", "documents": [{"title": "b"}]}),
            422,
            "Validation",
            "text",
        ),
        (
            "document",
            "/v1/rerank",
            json!({"query": "a", "documents": [1]}),
            422,
            "Validation",
            "documents[0]",
        ),
        ("no query", "/rerank", json!({"texts": ["b"]}), 422, "Validation", "query"),
    ] {
        let (found, answer) = server.post(path, body).await;
        let message = answer.get("error").unwrap_or(&answer["message"]).as_str().unwrap();
        let found_kind = answer.get("error_type").unwrap_or(&answer["type"]);
        assert_eq!((found.as_u16(), found_kind), (status, &json!(kind)), "{name}: {answer}");
        assert!(message.contains(part), "{name}: {answer}");
    }
    let body = json!({"query": "a", "documents": ["b"], "max_tokens_per_doc": 4096, "max_chunks_per_doc": 1});
    server.ask("/v2/rerank", body).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decoder_reranker_has_its_template() {
    let (server, golden) = golden("qwen3-reranker", &[]).await;
    ranks(&server, &golden).await;
    let items = golden["items"].as_array().unwrap();
    for (i, item) in items.iter().enumerate().filter(|(_, item)| !item["prompt_name"].is_null()) {
        let body = json!({"query": item["text"], "texts": [item["pair"]], "raw_scores": true,
            "prompt_name": item["prompt_name"]});
        let answer = server.ask("/rerank", body).await;
        assert_close("instruction", &answer[0]["score"], &golden["pooled"][i][0]);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_classifier_names_entities() {
    let (server, golden) = golden("roberta-entities", &[]).await;
    for item in golden["items"].as_array().unwrap() {
        let ask = async |strategy: &str| {
            let direction = if item["side"] == "left" { "Left" } else { "Right" };
            let body = json!({"inputs": [[item["text"]]], "aggregation_strategy": strategy,
                "truncation_direction": direction});
            server.ask("/predict_tokens", body).await[0].clone()
        };
        let text: Vec<char> = item["text"].as_str().unwrap().chars().collect();
        let tokens = ask("none").await;
        let ids: Vec<u64> = serde_json::from_value(item["input_ids"].clone()).unwrap();
        let found: Vec<u64> =
            tokens.as_array().unwrap().iter().map(|token| token["token_id"].as_u64().unwrap()).collect();
        assert_eq!(found, ids[1..ids.len() - 1]);
        for expected in item["none"].as_array().unwrap() {
            let token = &tokens[expected[4].as_u64().unwrap() as usize - 1];
            assert_eq!((&token["start"], &token["end"]), (&expected[2], &expected[3]));
            let results = token["results"].as_object().unwrap();
            assert_close("score", &results[expected[0].as_str().unwrap()], &expected[1]);
            assert!(close(results.values().map(|x| x.as_f64().unwrap()).sum(), 1.0) && results.len() == 5);
        }
        for strategy in ["simple", "first", "average", "max"] {
            let entities = ask(strategy).await;
            let expected = item[strategy].as_array().unwrap();
            assert_eq!(entities.as_array().unwrap().len(), expected.len(), "{strategy}: {entities}");
            for (entity, expected) in entities.as_array().unwrap().iter().zip(expected) {
                assert_eq!((&entity["start"], &entity["end"]), (&expected[2], &expected[3]));
                assert_close(strategy, &entity["results"][expected[0].as_str().unwrap()], &expected[1]);
                assert_eq!(entity["token_id"], 0);
                let (start, end) = (expected[2].as_u64().unwrap(), expected[3].as_u64().unwrap());
                let part: String = text[start as usize..end as usize].iter().collect();
                assert_eq!(entity["token"], json!(part));
            }
        }
    }
    let plain = server.ask("/predict_tokens", json!({"inputs": "a b", "raw_scores": true})).await;
    assert_eq!(server.ask("/", json!({"inputs": ["a b"], "raw_scores": true})).await, plain);
    let scores = plain[0][0]["results"].as_object().unwrap().values().map(|x| x.as_f64().unwrap());
    assert!(!close(scores.sum(), 1.0), "{plain}");
    for (body, status) in [
        (json!({"inputs": "a", "raw_scores": true, "aggregation_strategy": "simple"}), 422),
        (json!({"inputs": "a", "aggregation_strategy": "best"}), 422),
        (json!({"inputs": [["a", "b"]]}), 422),
        (json!({"inputs": [["a"], "b"]}), 422),
        (json!({"inputs": []}), 400),
        (json!({"inputs": ""}), 400),
    ] {
        let (found, answer) = server.post("/predict_tokens", body).await;
        assert_eq!(found, status, "{answer}");
    }
    refuses(&server, &[("/embed", json!({"inputs": "a"})), ("/predict", json!({"inputs": "a"}))]).await;
    server.stop().await;
}
