//! The safe crate on the real model, from 64 threads, against vectors of sentence-transformers (testdata/minilm).

mod common;

use std::path::Path;

use bei_backend::{CallOptions, Model, Options, Text};
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
