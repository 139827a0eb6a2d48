//! The routes of embedding models beyond /embed, on the tiny golden models and the real engine.

mod common;

use common::{assert_close, close, golden, refuses, texts};
use serde_json::{Value, json};

fn weights(answer: &Value) -> Vec<(u64, f64)> {
    let pair = |entry: &Value| (entry["index"].as_u64().unwrap(), entry["value"].as_f64().unwrap());
    answer.as_array().unwrap().iter().map(pair).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_splade_model_gives_weights() {
    let (server, golden) = golden("bert-masked-lm", &["--pooling", "splade"]).await;
    let texts = texts(&golden);
    let inputs: Vec<&Value> = texts.iter().map(|(text, _)| text).collect();
    let answer = server.ask("/embed_sparse", json!({"inputs": inputs})).await;
    for (i, (_, row)) in texts.iter().enumerate() {
        let found = weights(&answer[i]);
        let row: Vec<f64> = serde_json::from_value(row.clone()).unwrap();
        let expected: Vec<(usize, f64)> = row.iter().copied().enumerate().filter(|(_, x)| *x > 0.0).collect();
        assert_eq!(found.len(), expected.len());
        for ((index, value), (k, weight)) in found.into_iter().zip(expected) {
            assert!(index as usize == k && close(value, weight), "{i}: {k}");
        }
    }
    assert_eq!(server.ask("/", json!({"inputs": inputs})).await, answer);
    let dense = server.ask("/embed", json!({"inputs": inputs, "normalize": false})).await;
    assert_close("dense", &dense, &json!(texts.iter().map(|(_, row)| row).collect::<Vec<_>>()));
    refuses(
        &server,
        &[("/embed_all", json!({"inputs": "a"})), ("/rerank", json!({"query": "a", "texts": ["b"]}))],
    )
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_gives_several_outputs() {
    let (server, golden) = golden("bge-m3", &[]).await;
    let texts = texts(&golden);
    let inputs: Vec<&Value> = texts.iter().map(|(text, _)| text).collect();
    let body = json!({"inputs": inputs, "outputs": ["pooled", "sparse", "tokens"]});
    let answer = server.ask("/embed_outputs", body).await;
    let embedded = server.ask("/embed", json!({"inputs": inputs})).await;
    let sparse = server.ask("/embed_sparse", json!({"inputs": inputs})).await;
    let all = server.ask("/embed_all", json!({"inputs": inputs})).await;
    for (i, (text, row)) in texts.iter().enumerate() {
        let item = &answer[i];
        assert_close("pooled", &item["pooled"], row);
        assert_close("/embed", &embedded[i], row);
        assert_eq!(item["sparse"], sparse[i]);
        let expected = golden["sparse"][i].as_object().unwrap();
        let found = weights(&sparse[i]);
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().all(|(id, value)| close(*value, expected[&id.to_string()].as_f64().unwrap())));
        assert_close("colbert", &all[i], &golden["colbert"][i]);
        let tokens = item["tokens"].as_array().unwrap();
        assert_eq!(tokens.len(), all[i].as_array().unwrap().len() + 1);
        assert!(tokens[0]["vector"].is_null() && tokens[0]["special"] == true);
        for (token, vector) in tokens[1..].iter().zip(all[i].as_array().unwrap()) {
            assert_eq!(token["vector"], *vector);
            let Some(start) = token["start"].as_u64() else { continue };
            let length = token["stop"].as_u64().unwrap() - start;
            let part = text.as_str().unwrap().chars().skip(start as usize).take(length as usize);
            assert_eq!(token["text"], json!(part.collect::<String>()));
        }
    }
    refuses(
        &server,
        &[("/embed_outputs", json!({"inputs": "a", "outputs": ["spans"], "spans": [[[0, 1]]]}))],
    )
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_have_vectors_of_one_pass_over_their_text() {
    let (server, golden) = golden("roberta-mean", &[]).await;
    let (spans, texts) = (golden["spans"].as_array().unwrap(), texts(&golden));
    assert_eq!(spans.len(), texts.len());
    for (spans, (text, row)) in spans.iter().zip(texts) {
        let spans = spans.as_array().unwrap();
        if spans.is_empty() {
            continue;
        }
        let places: Vec<Value> = spans.iter().map(|span| json!([span[0], span[1]])).collect();
        let body = json!({"inputs": text, "outputs": ["pooled", "spans"], "spans": [places]});
        let answer = server.ask("/embed_outputs", body).await;
        assert_close("pooled", &answer[0]["pooled"], &row);
        for (found, expected) in answer[0]["spans"].as_array().unwrap().iter().zip(spans) {
            assert_eq!((&found["start"], &found["end"]), (&expected[0], &expected[1]));
            assert_close("span", &found["vector"], &expected[2]);
        }
    }
    for (name, body, status, part) in [
        ("no outputs", json!({"inputs": "a", "outputs": []}), 400, "outputs is empty"),
        ("unknown", json!({"inputs": "a", "outputs": ["all"]}), 422, "outputs[0]"),
        ("no spans", json!({"inputs": "a", "outputs": ["spans"]}), 422, "spans has 0 lists"),
        (
            "spans alone",
            json!({"inputs": "a", "outputs": ["pooled"], "spans": [[[0, 1]]]}),
            422,
            "spans are given",
        ),
        ("no span", json!({"inputs": "a", "outputs": ["spans"], "spans": [[]]}), 422, "inputs"),
        ("beyond", json!({"inputs": "a", "outputs": ["spans"], "spans": [[[0, 9]]]}), 422, "inputs"),
        ("backwards", json!({"inputs": "ab", "outputs": ["spans"], "spans": [[[1, 0]]]}), 422, "inputs"),
        ("no sparse", json!({"inputs": "ab", "outputs": ["sparse"]}), 424, "sparse"),
        (
            "dimensions",
            json!({"inputs": "ab", "outputs": ["pooled"], "dimensions": 999}),
            422,
            "dimensions is 999",
        ),
    ] {
        let (found, answer) = server.post("/embed_outputs", body).await;
        assert_eq!(found, status, "{name}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(part), "{name}: {answer}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_stand_before_texts_on_every_route() {
    let (server, golden) = golden("bert-prompts-new-files", &[]).await;
    for (i, item) in golden["items"].as_array().unwrap().iter().enumerate() {
        let (text, name) = (&item["text"], &item["prompt_name"]);
        if !item["pair"].is_null() {
            continue;
        }
        let row = &golden["pooled"][i];
        let body = json!({"inputs": text, "prompt_name": name});
        assert_close("/embed", &server.ask("/embed", body).await[0], row);
        let body = json!({"input": text, "prompt_name": name, "truncate": true});
        assert_close("OpenAI", &server.ask("/v1/embeddings", body).await["data"][0]["embedding"], row);
        let body = json!({"inputs": text, "prompt_name": name, "outputs": ["tokens", "pooled"]});
        let answer = server.ask("/embed_outputs", body).await;
        assert_close("outputs", &answer[0]["pooled"], row);
        for token in answer[0]["tokens"].as_array().unwrap() {
            let Some(start) = token["start"].as_u64() else { continue };
            let length = token["stop"].as_u64().unwrap() - start;
            let part: String =
                text.as_str().unwrap().chars().skip(start as usize).take(length as usize).collect();
            assert_eq!(token["text"], json!(part), "{token}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn similarity_is_the_cosine() {
    let (server, golden) = golden("bert-mean", &["--max-client-batch-size", "32"]).await;
    let texts = texts(&golden);
    let inputs = json!({"source_sentence": texts[0].0, "sentences": [texts[3].0, texts[0].0, texts[5].0]});
    let answer = server.ask("/similarity", json!({"inputs": inputs, "parameters": {"truncate": true}})).await;
    let rows: Vec<Vec<f64>> =
        texts.iter().map(|(_, row)| serde_json::from_value(row.clone()).unwrap()).collect();
    for (k, i) in [3, 0, 5].into_iter().enumerate() {
        let cosine: f64 = rows[0].iter().zip(&rows[i]).map(|(a, b)| a * b).sum();
        assert!(close(answer[k].as_f64().unwrap(), cosine), "{answer}");
    }
    assert_eq!(server.ask("/similarity", json!({"inputs": inputs})).await, answer);
    assert_eq!(server.ask("/", json!({"inputs": inputs})).await, answer, "told by its body");
    for (body, status, part) in [
        (json!({"inputs": {"source_sentence": "a", "sentences": []}}), 400, "inputs.sentences is empty"),
        (json!({"inputs": {"source_sentence": "", "sentences": ["a"]}}), 400, "inputs.source_sentence: "),
        (json!({"inputs": {"source_sentence": "a", "sentences": ["a", ""]}}), 400, "inputs.sentences[1]: "),
        (json!({"inputs": {"source_sentence": "a", "sentences": vec!["b"; 32]}}), 422, "batch size 33"),
        (json!({"inputs": {"sentences": ["a"]}}), 422, "source_sentence"),
    ] {
        let (found, answer) = server.post("/similarity", body).await;
        assert_eq!(found, status, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(part), "{answer}");
    }
    server.stop().await;

    let (server, _) = common::golden("bert-mean", &["--task", "sentence-similarity"]).await;
    assert_eq!(server.ask("/", json!({"inputs": inputs})).await, answer);
    assert_eq!(
        server.ask("/vertex", json!({"instances": [{"inputs": inputs}]})).await["predictions"][0],
        answer
    );
    server.stop().await;
}
