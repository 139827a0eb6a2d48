//! What the tests of this crate share: the mock engine and the real model.
#![allow(dead_code)] // each test file uses a part

use std::path::PathBuf;

use bei_backend::{Batch, Model, Options, TokenBatch};
use serde_json::{Value, json};

/// The folder of the real model. Its tokenizer serves the mock engine too.
pub fn minilm() -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../.deps/models/all-MiniLM-L6-v2");
    assert!(folder.join("config.json").is_file(), "{} is missing; run `make setup`", folder.display());
    folder.to_str().unwrap().to_string()
}

/// The folder of a tiny model of testdata/models.
pub fn tiny_folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models").join(name);
    assert!(folder.join("config.json").is_file(), "{} is missing", folder.display());
    folder
}

/// A batch as the family's router makes it: type ids zero, position ids from `offset`, index lists disjoint.
pub fn family_batch<T: AsRef<[u32]>>(items: &[T], raw: &[u32], offset: u32) -> Batch {
    let mut batch = Batch { cumulative_seq_lengths: vec![0], raw_indices: raw.to_vec(), ..Batch::default() };
    for (i, item) in (0..).zip(items) {
        let item = item.as_ref();
        batch.input_ids.extend_from_slice(item);
        batch.token_type_ids.resize(batch.input_ids.len(), 0);
        batch.position_ids.extend((offset..).take(item.len()));
        batch.cumulative_seq_lengths.push(batch.input_ids.len() as u32);
        batch.max_length = batch.max_length.max(item.len() as u32);
        if !raw.contains(&i) {
            batch.pooled_indices.push(i);
        }
    }
    batch
}

/// Options for the mock engine; `over` is laid upon them.
pub fn mock_options(over: Value) -> Options {
    let mut options = Options::new("").with("engine", "mock").with("log", json!({"level": "error"}));
    let Value::Object(over) = over else { panic!("not an object: {over}") };
    options.merge(over);
    options
}

pub fn mock(over: Value) -> Model {
    Model::open(&mock_options(over)).unwrap()
}

/// The mock engine with faults, in the words of the schema.
pub fn faulty(faults: Value) -> Model {
    mock(json!({"mock": {"faults": faults}}))
}

/// The mock engine with the real tokenizer.
pub fn mock_with_texts() -> Model {
    mock(json!({"model": minilm()}))
}

/// A batch of pooled items that owns its numbers.
pub struct Tokens {
    ids: Vec<u32>,
    lengths: Vec<u32>,
    pooled: Vec<u32>,
}

impl Tokens {
    pub fn of(items: &[&[u32]]) -> Tokens {
        let mut tokens = Tokens { ids: vec![], lengths: vec![0], pooled: (0..items.len() as u32).collect() };
        for item in items {
            tokens.ids.extend_from_slice(item);
            tokens.lengths.push(tokens.ids.len() as u32);
        }
        tokens
    }

    pub fn batch(&self) -> TokenBatch<'_> {
        TokenBatch {
            input_ids: &self.ids,
            cumulative_seq_lengths: &self.lengths,
            pooled_indices: &self.pooled,
            ..TokenBatch::default()
        }
    }
}
