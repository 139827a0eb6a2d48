//! Sparse weights, token vectors and vectors of spans by tiny models, against the numbers of their golden.json.

mod common;

use std::path::PathBuf;

use bei_backend::{CallOptions, Model, Options, Outputs, Span, Status, Text};
use serde_json::{Value, json};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models").join(name)
}

fn open(name: &str) -> (Model, Value) {
    let options = Options::new(folder(name).to_str().unwrap())
        .with("engine", "onnxruntime")
        .with("log", json!({"level": "error"}));
    let golden = std::fs::read(folder(name).join("golden.json")).unwrap();
    (Model::open(&options).unwrap(), serde_json::from_slice(&golden).unwrap())
}

fn floats(list: &Value) -> Vec<f32> {
    serde_json::from_value(list.clone()).unwrap()
}

fn close(found: &[f32], wanted: &[f32], bound: f32) {
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((found - wanted).abs() <= bound, "{found} instead of {wanted}");
    }
}

#[test]
fn bge_m3_gives_dense_sparse_and_token_vectors() {
    let (model, golden) = open("bge-m3");
    let outputs = Outputs::POOLED | Outputs::SPARSE | Outputs::TOKEN_VECTORS;
    let items = golden["items"].as_array().unwrap();
    let texts: Vec<Text> = items
        .iter()
        .map(|item| Text {
            text: item["text"].as_str().unwrap().as_bytes(),
            pair: item["pair"].as_str().map(str::as_bytes),
            outputs,
        })
        .collect();
    let result = model.embed_texts(&texts, &CallOptions::default()).unwrap();
    for i in 0..texts.len() {
        close(result.pooled(i).unwrap(), &floats(&golden["pooled"][i]), 2e-5);
        let (ids, weights) = result.sparse(i).unwrap();
        let wanted = golden["sparse"][i].as_object().unwrap();
        assert_eq!(ids.len(), wanted.len());
        assert!(ids.is_sorted());
        for (id, weight) in ids.iter().zip(weights) {
            close(&[*weight], &[wanted[&id.to_string()].as_f64().unwrap() as f32], 1e-4);
        }
        let rows = result.token_vectors(i).unwrap();
        assert_eq!(rows.len(), golden["colbert"][i].as_array().unwrap().len());
        for (row, wanted) in rows.iter().zip(golden["colbert"][i].as_array().unwrap()) {
            close(row, &floats(wanted), 2e-5);
        }
    }
}

#[test]
fn splade_gives_what_is_above_zero() {
    let (model, golden) = open("distilbert-splade");
    let text = golden["items"][0]["text"].as_str().unwrap();
    let text = Text { outputs: Outputs::SPARSE, ..Text::from(text) };
    let result = model.embed_texts(&[text], &CallOptions::default()).unwrap();
    let (ids, weights) = result.sparse(0).unwrap();
    let wanted: Vec<(u32, f32)> =
        (0..).zip(floats(&golden["pooled"][0])).filter(|&(_, weight)| weight > 0.0).collect();
    assert_eq!(ids, wanted.iter().map(|&(id, _)| id).collect::<Vec<_>>());
    close(weights, &wanted.iter().map(|&(_, weight)| weight).collect::<Vec<_>>(), 1e-4);
}

#[test]
fn spans_are_pooled_from_one_pass() {
    let (model, golden) = open("xlm-roberta-cls");
    let items: Vec<&Value> =
        golden["items"].as_array().unwrap().iter().filter(|item| item["pair"].is_null()).collect();
    let (mut texts, mut spans, mut cumulative) = (vec![], vec![], vec![0]);
    for (item, of_text) in items.iter().zip(golden["spans"].as_array().unwrap()) {
        texts.push(Text::from(item["text"].as_str().unwrap()));
        for span in of_text.as_array().unwrap() {
            let at = |i: usize| span[i].as_u64().unwrap() as u32;
            spans.push(Span { start: at(0), end: at(1) });
        }
        cumulative.push(spans.len() as u32);
    }
    let options = CallOptions::default();
    let result = model.embed_spans(&texts, &spans, &cumulative, &options).unwrap();
    for (i, of_text) in golden["spans"].as_array().unwrap().iter().enumerate() {
        let vectors = result.text(i).unwrap();
        assert_eq!(vectors.len(), of_text.as_array().unwrap().len());
        for (vector, span) in vectors.iter().zip(of_text.as_array().unwrap()) {
            close(vector, &floats(&span[2]), 2e-5);
        }
    }
    assert!(result.stats().unwrap().runs >= 1);

    let beyond = [Span { start: 0, end: 3 }, Span { start: 2, end: 999 }];
    let result = model.embed_spans(&texts[..2], &beyond, &[0, 1, 2], &options).unwrap();
    assert_eq!(result.text(0).unwrap().len(), 1);
    let error = result.text(1).unwrap_err();
    assert_eq!(error.status, Status::InvalidArgument);
    assert!(error.message.contains("[2, 999), but the text has 1 code points"), "{error}");
    assert!(result.text(2).is_err());
    let error = model.embed_spans(&texts[..2], &beyond, &[0, 2], &options).unwrap_err();
    assert!(error.message.contains("2 texts need 3"), "{error}");
}
