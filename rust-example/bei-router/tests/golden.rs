//! The real model over HTTP, against vectors of sentence-transformers (testdata/minilm).

mod common;

use std::path::{Path, PathBuf};

use common::{Server, minilm, vectors};
use serde_json::{Value, json};

fn testdata(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/minilm").join(file)
}

fn texts() -> Vec<String> {
    let texts: Vec<Value> = serde_json::from_slice(&std::fs::read(testdata("texts.json")).unwrap()).unwrap();
    texts.iter().map(|text| text["text"].as_str().unwrap().to_string()).collect()
}

fn golden(file: &str) -> Vec<Vec<f32>> {
    let bytes = std::fs::read(testdata(file)).unwrap();
    let floats: Vec<f32> = bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    floats.chunks(384).map(<[f32]>::to_vec).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn check(name: &str, found: &[Vec<f32>], golden: &[Vec<f32>]) {
    assert_eq!(found.len(), golden.len());
    for (i, (found, golden)) in found.iter().zip(golden).enumerate() {
        let cosine = cosine(found, golden);
        assert!(cosine >= 0.999_999, "{name}, text {i}: cosine {cosine}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_are_those_of_sentence_transformers() {
    let flags = ["--model-id", &minilm(), "--max-batch-tokens", "2048", "--max-client-batch-size", "64"];
    let server = Server::start(&flags.map(String::from)).await;
    let (texts, golden, pooled) = (texts(), golden("embeddings.f32"), golden("pooled.f32"));
    assert_eq!((texts.len(), golden.len()), (60, 60));

    let mut alone = vec![];
    for text in &texts {
        alone.extend(server.embed(json!(text)).await);
    }
    check("alone", &alone, &golden);
    let batched = server.embed(json!(texts)).await;
    check("batched", &batched, &golden);
    let reversed: Vec<&String> = texts.iter().rev().collect();
    let mut found = server.embed(json!(reversed)).await;
    found.reverse();
    check("reversed", &found, &golden);
    let body = json!({"inputs": texts, "normalize": false});
    check("not normalised", &vectors(&server.ask("/embed", body).await), &pooled);

    let answer = server.ask("/v1/embeddings", json!({"input": texts})).await;
    let data = answer["data"].as_array().unwrap().iter().map(|item| item["embedding"].clone());
    check("OpenAI", &vectors(&Value::Array(data.collect())), &golden);

    // 64 requests at once, each with its own part of the texts.
    let requests = (0..64).map(|request| {
        let (server, golden, first) = (&server, &golden, request % 53);
        let part = json!(texts[first..first + 1 + request % 8]);
        async move { check("at once", &server.embed(part).await, &golden[first..first + 1 + request % 8]) }
    });
    futures_util::future::join_all(requests).await;

    // The mean of the token vectors is the vector, as this model pools by the mean.
    for i in [0, 3, 7] {
        let rows = vectors(&server.ask("/embed_all", json!({"inputs": texts[i]})).await[0]);
        let mean: Vec<f32> =
            (0..384).map(|k| rows.iter().map(|row| row[k]).sum::<f32>() / rows.len() as f32).collect();
        check("mean of tokens", &[mean], &golden[i..=i]);
    }
    server.stop().await;
}
