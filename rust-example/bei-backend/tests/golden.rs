//! The safe crate on the real model, from 64 threads, against vectors of sentence-transformers (testdata/minilm), and on tiny
//! classifiers against transformers (testdata/models).

mod common;

use std::path::Path;

use bei_backend::{Aggregation, CallOptions, Error, Model, Options, Side, Status, Text};
use serde_json::{Value, json};

fn read(file: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/minilm").join(file)).unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Embeds the texts in one call and compares each vector.
fn check(model: &Model, texts: &[String], golden: &[Vec<f32>], chosen: &[usize]) {
    let picked: Vec<Text> = chosen.iter().map(|&i| Text::from(texts[i].as_str())).collect();
    let result = model.embed_texts(&picked, &CallOptions::default()).unwrap();
    for (k, &i) in chosen.iter().enumerate() {
        let cosine = cosine(result.pooled(k).unwrap(), &golden[i]);
        assert!(cosine >= 0.999_999, "text {i}: cosine {cosine}");
    }
}

#[test]
fn vectors_are_those_of_sentence_transformers() {
    let texts: Vec<Value> = serde_json::from_slice(&read("texts.json")).unwrap();
    let texts: Vec<String> = texts.iter().map(|text| text["text"].as_str().unwrap().to_string()).collect();
    let floats: Vec<f32> =
        read("embeddings.f32").chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let golden: Vec<Vec<f32>> = floats.chunks(384).map(<[f32]>::to_vec).collect();
    assert_eq!((texts.len(), golden.len()), (60, 60));
    let model = Model::open(&Options::new(common::minilm()).with("log", json!({"level": "error"}))).unwrap();

    for i in 0..texts.len() {
        check(&model, &texts, &golden, &[i]);
    }
    // 7 is prime to 60: every text once, in another order.
    let shuffled: Vec<usize> = (0..60).map(|i| i * 7 % 60).collect();
    check(&model, &texts, &golden, &shuffled);
    std::thread::scope(|scope| {
        for thread in 0..64 {
            let (model, texts, golden, shuffled) = (&model, &texts, &golden, &shuffled);
            scope.spawn(move || {
                check(model, texts, golden, &shuffled[thread % 50..thread % 50 + 1 + thread % 8])
            });
        }
    });
}

/// A folder of testdata/models, opened, and what one of its files holds.
fn tiny(name: &str, file: &str) -> (Model, Value) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models").join(name);
    let golden = serde_json::from_slice(&std::fs::read(folder.join(file)).unwrap()).unwrap();
    let options =
        Options::new(folder.to_str().unwrap()).with("threads", 1).with("log", json!({"level": "error"}));
    (Model::open(&options).unwrap(), golden)
}

#[test]
fn logits_of_classifiers_are_those_of_transformers() {
    for name in
        ["roberta-classifier", "deberta-reranker", "llama-classifier", "gemma2-classifier", "qwen3-reranker"]
    {
        let (model, golden) = tiny(name, "golden.json");
        for (item, want) in
            golden["items"].as_array().unwrap().iter().zip(golden["pooled"].as_array().unwrap())
        {
            let text = Text {
                pair: item["pair"].as_str().map(str::as_bytes),
                ..Text::from(item["text"].as_str().unwrap())
            };
            let options = CallOptions { prompt_name: item["prompt_name"].as_str(), ..CallOptions::default() };
            let result = model.predict_texts(&[text], &options).unwrap();
            let want: Vec<f64> = want.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            assert_eq!(result.pooled(0).unwrap().len(), want.len());
            for (&got, want) in result.pooled(0).unwrap().iter().zip(want) {
                assert!((f64::from(got) - want).abs() < 1e-4, "{name}, {item}: {got}, want {want}");
            }
        }
    }
}

#[test]
fn entities_are_those_of_transformers() {
    let aggregations = [
        ("none", Aggregation::None),
        ("simple", Aggregation::Simple),
        ("first", Aggregation::First),
        ("average", Aggregation::Average),
        ("max", Aggregation::Max),
    ];
    for name in ["bert-entities", "roberta-entities", "xlm-roberta-entities"] {
        let (model, golden) = tiny(name, "entities.json");
        let info = model.info_json().unwrap();
        for (item, (key, aggregation)) in
            golden["items"].as_array().unwrap().iter().flat_map(|item| aggregations.map(|a| (item, a)))
        {
            let side = if item["side"] == "left" { Side::Left } else { Side::Right };
            let options = CallOptions { truncation_side: Some(side), aggregation, ..CallOptions::default() };
            let text = Text::from(item["text"].as_str().unwrap());
            let result = model.predict_tokens_texts(&[text], &options).unwrap();
            let (entities, want) = (result.entities(0).unwrap(), item[key].as_array().unwrap());
            assert_eq!(entities.len(), want.len(), "{name}, {key}: {item}");
            let names =
                if aggregation == Aggregation::None { &info["labels"] } else { &info["entity_groups"] };
            for (entity, want) in entities.iter().zip(want) {
                let got = json!([names[entity.label as usize], want[1], entity.start, entity.end]);
                assert_eq!(
                    got.as_array().unwrap()[..],
                    want.as_array().unwrap()[..4],
                    "{name}, {key}: {item}"
                );
                assert!((f64::from(entity.score) - want[1].as_f64().unwrap()).abs() < 1e-4);
            }
            let tokens = result.tokens(0).unwrap();
            assert_eq!(json!(tokens.ids), item["input_ids"]);
            assert_eq!(result.token_vectors(0).unwrap().len(), tokens.len());
        }
        let pair = Text { pair: Some(b"b"), ..Text::from("a") };
        let error = model.predict_tokens_texts(&[pair], &CallOptions::default()).map(drop).unwrap_err();
        assert!(matches!(error, Error { status: Status::InvalidArgument, .. }), "{error}");
    }
}
