//! The Backend trait as the family's router uses it: its start-up, batch shapes, and error after error.
//! `tests/replay.rs` has the whole of a router's life on each kind of model.

mod common;

use std::path::Path;

use bei_backend::{
    Backend, BackendError, Batch, BeiBackend, CallOptions, Embedding, ItemEmbedding, ModelType, Options,
    Pool, TokenBackend, TokenBatch, health_batch, start_up, warm_up_batch,
};
use common::{Tokens, family_batch, minilm, mock_options, tiny_folder};
use serde_json::{Value, json};

fn mock(over: Value) -> BeiBackend {
    BeiBackend::open(&mock_options(over)).unwrap()
}

/// A batch as the family's router makes it, of a model whose positions start at 0.
fn batch(items: &[&[u32]], raw: &[u32]) -> Batch {
    family_batch(items, raw, 0)
}

/// The router boxes backends as `dyn Backend + Send`.
fn boxed(backend: BeiBackend) -> Box<dyn Backend + Send> {
    Box::new(backend)
}

#[test]
fn the_warm_up_batch_is_the_familys() {
    let health = health_batch();
    assert_eq!((health.input_ids, health.position_ids), (vec![0], vec![0]));
    assert_eq!((health.cumulative_seq_lengths, health.pooled_indices), (vec![0, 1], vec![0]));

    let unpadded = warm_up_batch(false, 256, 1000, None);
    assert_eq!(unpadded.cumulative_seq_lengths, [0, 256, 512, 768, 1000]);
    assert_eq!((unpadded.max_length, unpadded.pooled_indices), (256, vec![0, 1, 2, 3]));
    assert_eq!((unpadded.position_ids[255], unpadded.position_ids[256]), (255, 0));
    assert_eq!(warm_up_batch(false, 256, 1000, Some(2)).cumulative_seq_lengths, [0, 256, 512]);
    assert_eq!(warm_up_batch(true, 256, 1000, None).cumulative_seq_lengths, [0, 256]);
    assert_eq!(warm_up_batch(true, 256, 100, None).cumulative_seq_lengths, [0, 100]);
}

#[test]
fn the_familys_start_up_succeeds() {
    for over in [json!({}), json!({"mock": {"padded": true}}), json!({"mock": {"kind": "classifier"}})] {
        let backend = mock(over);
        let model_type = backend.model_type().unwrap().clone();
        let backend = boxed(backend);
        start_up(&*backend, &model_type, 256, 16384, None).unwrap();
        backend.health().unwrap();
        assert_eq!(backend.max_batch_size(), None);
    }
}

#[test]
fn the_familys_start_up_succeeds_on_the_real_model() {
    let model_type = ModelType::Embedding(Pool::Mean);
    let backend = boxed(BeiBackend::new(Path::new(&minilm()), "float32", model_type.clone()).unwrap());
    assert!(!backend.is_padded());
    start_up(&*backend, &model_type, 256, 2048, None).unwrap();
    let answers = backend.embed(batch(&[&[101, 7592, 102], &[101, 7592, 102]], &[1])).unwrap();
    let (Embedding::Pooled(pooled), Embedding::All(rows)) = (&answers[&0], &answers[&1]) else {
        panic!("not of the kinds asked for: {answers:?}")
    };
    assert_eq!((pooled.len(), rows.len()), (384, 3));
    for k in 0..384 {
        let mean = rows.iter().map(|row| row[k]).sum::<f32>() / 3.0;
        assert!((mean - pooled[k]).abs() < 1e-5, "pooled vectors are not as the model made them");
    }
}

#[test]
fn a_model_of_another_type_does_not_start() {
    let folder = minilm();
    let error = BeiBackend::new(Path::new(&folder), "float32", ModelType::Classifier).map(drop).unwrap_err();
    assert!(matches!(&error, BackendError::Start(message) if message.contains("Classifier")), "{error}");
    let folder = tiny_folder("bert-token-classifier");
    let error = BeiBackend::new(&folder, "float32", ModelType::Classifier).map(drop).unwrap_err();
    assert!(
        matches!(&error, BackendError::Start(message) if message.contains("token classifier")),
        "{error}"
    );
}

#[test]
fn every_item_gets_the_kind_that_it_asked_for() {
    let backend = boxed(mock(json!({})));
    let answers = backend.embed(batch(&[&[1, 2], &[3], &[4, 5, 6], &[7]], &[1, 2])).unwrap();
    let shape = |i: usize| match &answers[&i] {
        Embedding::Pooled(vector) => (0, vector.len()),
        Embedding::All(rows) => (rows.len(), rows[0].len()),
    };
    assert_eq!((0..4).map(shape).collect::<Vec<_>>(), [(0, 384), (1, 384), (3, 384), (0, 384)]);
}

#[test]
fn a_batch_above_the_engines_limits_is_split_inside() {
    let backend = mock(json!({"max_tokens": 256, "max_sequences": 4}));
    let long = vec![7; 200];
    let items: Vec<&[u32]> = (0..50).map(|i| if i % 2 == 0 { &long[..] } else { &long[..3] }).collect();
    let answers = backend.embed(batch(&items, &[])).unwrap();
    assert_eq!(answers.len(), 50);
    assert_eq!(answers[&0], answers[&48]);
    assert_eq!(answers[&1], answers[&49]);
    assert_ne!(answers[&0], answers[&1]);
}

#[test]
fn one_error_fails_the_batch_and_the_next_batch_works() {
    let faults = json!([{"kind": "nan", "token_id": 9}, {"kind": "bad_item", "token_id": 8}]);
    let backend = boxed(mock(json!({"mock": {"faults": faults}})));
    let long = vec![1; 300];
    let out_of_range = batch(&[&[1], &[40000]], &[]);
    let too_long = batch(&[&long, &[1]], &[]);
    let wrong_max_length = Batch { max_length: 7, ..batch(&[&[1]], &[]) };
    let wrong_lengths = Batch { cumulative_seq_lengths: vec![0, 2, 1], ..batch(&[&[1], &[2]], &[]) };
    let short_types = Batch { token_type_ids: vec![], ..batch(&[&[1]], &[]) };
    for (name, wrong, part) in [
        ("NaN", batch(&[&[1], &[9]], &[]), "item 1: "),
        ("NaN in token vectors", batch(&[&[1], &[9]], &[1]), "item 1: "),
        ("failing run", batch(&[&[8], &[1]], &[]), "item 0: "),
        ("out of range", out_of_range, "item 1: "),
        ("too long", too_long, "item 0: "),
        ("wrong max_length", wrong_max_length, "max_length"),
        ("wrong lengths", wrong_lengths, "cumulative_seq_lengths"),
        ("no type ids", short_types, "token_type_ids"),
    ] {
        let error = backend.embed(wrong).unwrap_err();
        assert!(matches!(&error, BackendError::Inference(text) if text.contains(part)), "{name}: {error}");
        assert_eq!(backend.embed(batch(&[&[1], &[2]], &[])).unwrap().len(), 2, "after {name}");
    }
    assert!(matches!(backend.predict(batch(&[&[1]], &[])), Err(BackendError::Inference(_))));
    backend.health().unwrap();
}

#[test]
fn a_lost_engine_is_unhealthy() {
    let backend = mock(json!({"mock": {"faults": [{"kind": "lost", "from": 3, "count": 1}]}}));
    assert_eq!(backend.embed(batch(&[&[1]], &[])).unwrap_err(), BackendError::Unhealthy);
    assert_eq!(backend.health().unwrap_err(), BackendError::Unhealthy);
}

#[test]
fn classifiers_predict() {
    let backend = mock(json!({"mock": {"kind": "classifier", "labels": 3}}));
    assert_eq!(backend.model_type(), Some(&ModelType::Classifier));
    let predictions = backend.predict(batch(&[&[1, 2], &[3]], &[])).unwrap();
    assert_eq!((predictions.len(), predictions[&0].len(), predictions[&1].len()), (2, 3, 3));
    assert!(matches!(backend.predict(batch(&[&[1]], &[0])), Err(BackendError::Inference(_))));
}

#[test]
fn an_item_without_tokens_is_answered_and_harms_no_other() {
    let backend = mock(json!({"mock": {"dimensions": 4}}));
    let alone = backend.embed(batch(&[&[5, 6]], &[])).unwrap();
    let answers = backend.embed(batch(&[&[], &[5, 6], &[], &[]], &[2])).unwrap();
    assert_eq!(answers.len(), 4);
    assert_eq!(answers[&0], Embedding::Pooled(vec![0.0; 4]));
    assert_eq!(answers[&1], alone[&0]);
    assert_eq!(answers[&2], Embedding::All(vec![]));
    assert_eq!(backend.embed(batch(&[&[]], &[])).unwrap()[&0], Embedding::Pooled(vec![0.0; 4]));
    assert!(
        backend.embed_items(&TokenBatch::from(&batch(&[&[]], &[])), &CallOptions::default()).unwrap()[0]
            .is_err()
    );

    let splade = BeiBackend::open(
        &Options::new(tiny_folder("distilbert-splade").to_str().unwrap()).with("pooling", "splade"),
    )
    .unwrap();
    let Embedding::Pooled(zeros) = &splade.embed(batch(&[&[], &[5]], &[])).unwrap()[&0] else { panic!() };
    assert_eq!(zeros.len(), splade.model().info().vocab_size);

    let classifier = mock(json!({"mock": {"kind": "classifier", "labels": 3}}));
    let logits = classifier.predict(batch(&[&[5], &[]], &[])).unwrap();
    assert!(logits[&0].iter().all(|x| x.is_finite()));
    assert_eq!(logits[&1].len(), 3);
    assert!(
        logits[&1].iter().all(|x| x.is_nan()),
        "the family answers NaN with an error to its caller alone"
    );

    let tokens = mock(json!({"mock": {"kind": "token_classifier", "labels": 5}}));
    assert!(tokens.predict_tokens(batch(&[&[], &[5]], &[])).unwrap()[&0].is_empty());
}

#[test]
fn token_classifiers_predict_tokens_beside_the_trait() {
    let backend = mock(json!({"mock": {"kind": "token_classifier", "labels": 5,
        "faults": [{"kind": "nan", "token_id": 9}]}}));
    assert_eq!(backend.model_type(), None);
    let boxed: Box<dyn TokenBackend + Send> = Box::new(backend);
    for start in [health_batch(), warm_up_batch(boxed.is_padded(), 256, 1000, None)] {
        assert!(boxed.predict_tokens(start).unwrap()[&0].iter().all(|row| row.len() == 5));
    }
    let answers = boxed.predict_tokens(batch(&[&[1, 2, 3], &[4]], &[])).unwrap();
    assert_eq!((answers[&0].len(), answers[&1].len(), answers[&1][0].len()), (3, 1, 5));
    let as_raw = boxed.predict_tokens(batch(&[&[1, 2, 3], &[4]], &[0, 1])).unwrap();
    assert_eq!(answers, as_raw);
    let error = boxed.predict_tokens(batch(&[&[1], &[9]], &[])).unwrap_err();
    assert!(matches!(&error, BackendError::Inference(text) if text.contains("item 1: ")), "{error}");
    assert!(matches!(boxed.embed(batch(&[&[1]], &[])), Err(BackendError::Inference(_))));
    assert!(matches!(boxed.predict(batch(&[&[1]], &[])), Err(BackendError::Inference(_))));
    boxed.health().unwrap();
}

#[test]
fn errors_and_answers_are_shared_between_threads_and_callers() {
    const fn shared<T: Clone + Send + Sync + 'static>() {}
    shared::<BackendError>();
    shared::<Embedding>();
    shared::<ModelType>();
    const fn sent<T: Send + 'static>() {}
    sent::<Box<dyn Backend + Send>>();
    for (error, text) in [
        (BackendError::NoBackend, "No backend found"),
        (BackendError::Start("x".into()), "Could not start backend: x"),
        (BackendError::Inference("x".into()), "x"),
        (BackendError::Unhealthy, "Backend is unhealthy"),
        (BackendError::WeightsNotFound("x".into()), "Weights not found: x"),
    ] {
        assert_eq!(error.clone().to_string(), text);
    }
}

#[test]
fn items_fail_alone_beside_the_trait() {
    let backend = mock(json!({"mock": {"faults": [{"kind": "nan", "token_id": 9}]}}));
    let tokens = Tokens::of(&[&[1], &[9], &[2]]);
    let mixed = TokenBatch { pooled_indices: &[0, 1], raw_indices: &[2], ..tokens.batch() };
    let items = backend.embed_items(&mixed, &CallOptions::default()).unwrap();
    assert!(matches!(items[0], Ok(ItemEmbedding::Pooled(_))));
    assert!(items[1].is_err());
    assert!(matches!(&items[2], Ok(ItemEmbedding::All(rows)) if rows.len() == 1));
}
