//! Every error that the mock engine and hostile arguments can provoke, and the good call after it.

mod common;

use std::thread;
use std::time::{Duration, Instant};

use bei_backend::{CallOptions, CancelToken, Error, Model, Options, Status, Text, TokenBatch};
use common::{Tokens, faulty, minilm, mock, mock_options, mock_with_texts};
use serde_json::json;

fn embed(model: &Model, options: &CallOptions) -> Result<Vec<f32>, Error> {
    let tokens = Tokens::of(&[&[5, 6, 7]]);
    Ok(model.embed(&tokens.batch(), options)?.pooled(0)?.to_vec())
}

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until a run has begun.
fn wait_until_busy(model: &Model) {
    let start = Instant::now();
    while !model.metrics().unwrap().lines().any(|line| line == "bei_slots_busy 1") {
        assert!(start.elapsed() < PATIENCE, "no run has begun");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn options_that_are_wrong_are_refused() {
    let empty = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("empty-folder");
    std::fs::create_dir_all(&empty).unwrap();
    for (name, options, status, part) in [
        ("unknown key", mock_options(json!({"colour": "red"})), Status::InvalidArgument, "colour"),
        ("wrong type", mock_options(json!({"slots": "many"})), Status::InvalidArgument, "slots"),
        ("above the limit", mock_options(json!({"slots": 65})), Status::InvalidArgument, "slots"),
        ("no model", Options::new(""), Status::InvalidArgument, "model"),
        ("no folder", Options::new("/does/not/exist"), Status::Start, "/does/not/exist"),
        ("no model in it", Options::new(empty.to_str().unwrap()), Status::Start, "empty-folder"),
        ("NUL in the path", Options::new("a\0b"), Status::Start, "a"),
    ] {
        let error = Model::open(&options).map(drop).unwrap_err();
        assert_eq!(error.status, status, "{name}: {error}");
        assert!(error.message.contains(part), "{name}: {error}");
    }
}

#[test]
fn weights_that_are_missing_have_their_own_status() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-weights");
    std::fs::create_dir_all(&folder).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(std::path::Path::new(&minilm()).join(file), folder.join(file)).unwrap();
    }
    let error = Model::open(&Options::new(folder.to_str().unwrap())).map(drop).unwrap_err();
    assert_eq!(error.status, Status::WeightsNotFound, "{error}");
}

#[test]
fn batches_that_are_wrong_are_refused() {
    let model = mock(json!({}));
    let good = Tokens::of(&[&[1, 2], &[3]]);
    let batch = good.batch();
    for (name, batch, part) in [
        ("type ids of another length", TokenBatch { token_type_ids: Some(&[0]), ..batch }, "token_type_ids"),
        ("position ids of another length", TokenBatch { position_ids: Some(&[0]), ..batch }, "position_ids"),
        ("no lengths", TokenBatch { cumulative_seq_lengths: &[], ..batch }, "cumulative_seq_lengths"),
        ("falling", TokenBatch { cumulative_seq_lengths: &[0, 3, 2], ..batch }, "cumulative_seq_lengths"),
        ("first not 0", TokenBatch { cumulative_seq_lengths: &[1, 2, 3], ..batch }, "cumulative_seq_lengths"),
        ("last not T", TokenBatch { cumulative_seq_lengths: &[0, 2, 9], ..batch }, "cumulative_seq_lengths"),
        (
            "far too long",
            TokenBatch { cumulative_seq_lengths: &[0, u32::MAX, 3], ..batch },
            "cumulative_seq_lengths",
        ),
        ("index out of range", TokenBatch { pooled_indices: &[0, 2], ..batch }, "pooled_indices"),
        ("indices not ascending", TokenBatch { pooled_indices: &[1, 0], ..batch }, "pooled_indices"),
        ("index twice", TokenBatch { raw_indices: &[0, 0], ..batch }, "raw_indices"),
        ("wrong max_length", TokenBatch { max_length: 9, ..batch }, "max_length"),
    ] {
        let error = model.embed(&batch, &CallOptions::default()).map(drop).unwrap_err();
        assert_eq!(error.status, Status::InvalidArgument, "{name}: {error}");
        assert!(error.message.contains(part), "{name}: {error}");
    }
    let dimensions = CallOptions { dimensions: 385, ..CallOptions::default() };
    assert_eq!(embed(&model, &dimensions).unwrap_err().status, Status::InvalidArgument);
    let prompt = CallOptions { prompt_name: Some("nobody"), ..CallOptions::default() };
    let texts = mock_with_texts();
    let error = texts.embed_texts(&[Text::from("a")], &prompt).map(drop).unwrap_err();
    assert!(error.status == Status::InvalidArgument && error.message.contains("nobody"), "{error}");
    embed(&model, &CallOptions::default()).unwrap();
}

#[test]
fn items_that_are_wrong_fail_alone() {
    let model = mock(json!({}));
    let long = vec![1; 257];
    let tokens = Tokens::of(&[&[1], &[], &[30522], &long, &[2]]);
    let batch = TokenBatch { pooled_indices: &[0, 1, 2, 3], ..tokens.batch() };
    let result = model.embed(&batch, &CallOptions::default()).unwrap();
    let statuses: Vec<_> = (0..5).map(|i| result.item(i).err().map(|error| error.status)).collect();
    let wrong = [Status::Empty, Status::TokenOutOfRange, Status::TooLong, Status::InvalidArgument];
    assert_eq!(statuses, [None, Some(wrong[0]), Some(wrong[1]), Some(wrong[2]), Some(wrong[3])]);
    let error = result.pooled(3).unwrap_err();
    assert!(error.message.contains("257") && error.message.contains("256"), "{error}");
    assert!(!error.message.starts_with("item"), "{error}");
}

#[test]
fn texts_that_are_wrong_fail_alone() {
    let model = mock_with_texts();
    let bytes = |text| Text { text, ..Text::from("") };
    let long = "word ".repeat(300);
    let texts = [bytes(b"good"), bytes(b""), bytes(b"a\xffb"), bytes(b"a\0b"), Text::from(long.as_str())];
    let options = CallOptions { truncate: Some(false), ..CallOptions::default() };
    let result = model.embed_texts(&texts, &options).unwrap();
    let statuses: Vec<_> = (0..5).map(|i| result.pooled(i).err().map(|error| error.status)).collect();
    let wrong = [Status::Empty, Status::InvalidUtf8, Status::NulByte, Status::TooLong];
    assert_eq!(statuses, [None, Some(wrong[0]), Some(wrong[1]), Some(wrong[2]), Some(wrong[3])]);
    assert!(result.item(2).unwrap_err().message.contains('1'), "the byte's offset is missing");
}

#[test]
fn a_failed_run_is_an_error_and_the_next_one_works() {
    for (fault, status) in [
        // Runs 1 and 2 are the library's warm-up.
        (json!({"kind": "error", "from": 3, "count": 1}), Status::Inference),
        (json!({"kind": "panic", "from": 3, "count": 1}), Status::Internal),
        (json!({"kind": "bad_item", "token_id": 9}), Status::Inference),
        (json!({"kind": "nan", "token_id": 9}), Status::NonFinite),
    ] {
        let model = faulty(json!([fault]));
        let tokens = Tokens::of(&[&[9]]);
        let result = model.embed(&tokens.batch(), &CallOptions::default());
        let error = result.and_then(|result| result.pooled(0).map(drop)).unwrap_err();
        assert_eq!(error.status, status, "{fault}: {error}");
        embed(&model, &CallOptions::default()).unwrap();
    }
}

#[test]
fn one_bad_item_costs_the_others_nothing() {
    let model = faulty(json!([{"kind": "nan", "token_id": 9}, {"kind": "bad_item", "token_id": 8}]));
    let tokens = Tokens::of(&[&[1], &[9], &[2], &[8], &[3]]);
    let result = model.embed(&tokens.batch(), &CallOptions::default()).unwrap();
    let statuses: Vec<_> = (0..5).map(|i| result.pooled(i).err().map(|error| error.status)).collect();
    assert_eq!(statuses, [None, Some(Status::NonFinite), None, Some(Status::Inference), None]);
}

#[test]
fn a_lost_engine_is_unhealthy() {
    let model = faulty(json!([{"kind": "lost", "from": 3, "count": 1}]));
    model.health(false, &CallOptions::default()).unwrap();
    assert_eq!(embed(&model, &CallOptions::default()).unwrap_err().status, Status::Unhealthy);
    for deep in [false, true] {
        let error = model.health(deep, &CallOptions::default()).unwrap_err();
        assert_eq!(error.status, Status::Unhealthy, "deep {deep}: {error}");
    }
}

#[test]
fn calls_end_at_their_timeout() {
    let model = faulty(json!([{"kind": "hung", "from": 3, "count": 1}]));
    let start = Instant::now();
    let options = CallOptions { timeout: Some(Duration::from_millis(100)), ..CallOptions::default() };
    let mut status = embed(&model, &options).unwrap_err().status;
    // On a machine that stalls the time may end before the run begins.
    while status == Status::Overloaded && start.elapsed() < PATIENCE {
        status = embed(&model, &options).unwrap_err().status;
    }
    assert_eq!(status, Status::Timeout);
    // The slot is still taken. Time that is over at the start is a timeout, time that ends in the queue an overload: with a
    // microsecond it may be either.
    let none = CallOptions { timeout: Some(Duration::ZERO), ..CallOptions::default() };
    let status = embed(&model, &none).unwrap_err().status;
    assert!(matches!(status, Status::Timeout | Status::Overloaded), "{status:?}");
}

#[test]
fn calls_end_when_cancelled() {
    let model = faulty(json!([{"kind": "hung", "from": 3, "count": 1}]));
    let token = CancelToken::new().unwrap();
    thread::scope(|scope| {
        let call =
            scope.spawn(|| embed(&model, &CallOptions { cancel: Some(&token), ..CallOptions::default() }));
        wait_until_busy(&model);
        token.trigger().unwrap();
        assert_eq!(call.join().unwrap().unwrap_err().status, Status::Cancelled);
    });
    token.trigger().unwrap();
    let options = CallOptions { cancel: Some(&token), ..CallOptions::default() };
    assert_eq!(embed(&model, &options).unwrap_err().status, Status::Cancelled);
}

#[test]
fn shutting_down_ends_calls_under_way() {
    let model = faulty(json!([{"kind": "hung", "from": 3, "count": 1}]));
    thread::scope(|scope| {
        let call = scope.spawn(|| embed(&model, &CallOptions::default()));
        wait_until_busy(&model);
        assert_eq!(model.shutdown(Duration::from_millis(50)).unwrap_err().status, Status::Timeout);
        assert_eq!(call.join().unwrap().unwrap_err().status, Status::ShutDown);
    });
    assert_eq!(embed(&model, &CallOptions::default()).unwrap_err().status, Status::InvalidHandle);
    assert_eq!(model.shutdown(Duration::ZERO).unwrap_err().status, Status::InvalidHandle);
    assert_eq!(model.metrics().unwrap_err().status, Status::InvalidHandle);
}

#[test]
fn calls_for_another_kind_of_model_are_unsupported() {
    let (model, tokens) = (mock(json!({})), Tokens::of(&[&[1]]));
    let raw = TokenBatch { pooled_indices: &[], raw_indices: &[0], ..tokens.batch() };
    let options = CallOptions::default();
    for (name, result) in [
        ("predict", model.predict(&tokens.batch(), &options)),
        ("predict_tokens", model.predict_tokens(&raw, &options)),
        ("embed_texts", model.embed_texts(&[Text::from("no tokenizer")], &options)),
        ("tokenize", model.tokenize(&[Text::from("no tokenizer")], &options)),
        ("decode", model.decode(&[1], &[0, 1], &options)),
        ("embed", mock(json!({"mock": {"kind": "classifier"}})).embed(&tokens.batch(), &options)),
    ] {
        let error = result.map(drop).unwrap_err();
        assert_eq!(error.status, Status::Unsupported, "{name}: {error}");
    }
    assert_eq!(model.decode(&[1], &[], &options).map(drop).unwrap_err().status, Status::InvalidArgument);
}
