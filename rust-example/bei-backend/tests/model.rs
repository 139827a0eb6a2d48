//! Model on the mock engine: what the calls give.

mod common;

use std::sync::Mutex;
use std::thread;

use bei_backend::{
    CallOptions, LogLevel, Model, Outputs, Side, Task, Text, TokenBatch, api_version, options_schema,
    set_log_handler, version,
};
use common::{Tokens, mock, mock_with_texts};
use serde_json::{Value, json};

fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|x| x * x).sum::<f32>().sqrt()
}

#[test]
fn the_library_tells_its_versions_and_options() {
    assert_eq!(api_version(), 1);
    assert!(version().starts_with(|c: char| c.is_ascii_digit()), "{}", version());
    let schema: Value = serde_json::from_str(options_schema()).unwrap();
    assert!(schema["properties"]["model"].is_object());
}

#[test]
fn info_tells_shapes_and_limits() {
    let model = mock(json!({"slots": 3, "mock": {"dimensions": 8, "max_length": 64}}));
    let info = model.info();
    assert_eq!((info.task, info.dimensions, info.max_length), (Some(Task::Embedding), 8, 64));
    assert_eq!((info.slots, info.is_padded, info.has_tokenizer), (3, false, false));
    assert_eq!(model.info_json().unwrap()["engine"], "mock");
    assert!(model.metrics().unwrap().contains("\nbei_"));
    model.health(false, &CallOptions::default()).unwrap();
    model.health(true, &CallOptions::default()).unwrap();
}

#[test]
fn one_forward_pass_serves_pooled_and_token_vectors() {
    let model = mock(json!({}));
    let tokens = Tokens::of(&[&[5, 6, 7], &[8, 9], &[5, 6, 7]]);
    let batch = TokenBatch { pooled_indices: &[0, 2], raw_indices: &[1, 2], ..tokens.batch() };
    let result = model.embed(&batch, &CallOptions::default()).unwrap();
    assert_eq!(result.len(), 3);
    assert_eq!(result.pooled(0).unwrap(), result.pooled(2).unwrap());
    assert!(length(result.pooled(0).unwrap()) > 0.9);
    let rows = result.token_vectors(1).unwrap();
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row.len() == 384));
    assert_eq!(result.token_vectors(2).unwrap().iter().count(), 3);
    assert!(result.pooled(1).unwrap_err().message.contains("did not ask"));
    assert!(result.token_vectors(0).unwrap_err().message.contains("did not ask"));
    assert!(result.pooled(3).unwrap_err().message.contains("3"));
    let stats = result.stats().unwrap();
    assert_eq!((stats.tokens, stats.runs), (8, 1));
}

#[test]
fn sparse_weights_come_with_their_token_ids() {
    let model = mock(json!({}));
    let tokens = Tokens::of(&[&[9, 4, 9]]);
    let batch = TokenBatch { pooled_indices: &[], sparse_indices: &[0], ..tokens.batch() };
    let result = model.embed(&batch, &CallOptions::default()).unwrap();
    let (ids, weights) = result.sparse(0).unwrap();
    assert_eq!((ids, weights.len()), (&[4, 9][..], 2));
}

#[test]
fn dimensions_and_normalize_are_the_calls_choice() {
    let model = mock(json!({}));
    let tokens = Tokens::of(&[&[5, 6, 7]]);
    let embed = |dimensions, normalize| {
        let options = CallOptions { dimensions, normalize: Some(normalize), ..CallOptions::default() };
        model.embed(&tokens.batch(), &options).unwrap().pooled(0).unwrap().to_vec()
    };
    let (plain, cut, unit) = (embed(0, false), embed(5, false), embed(5, true));
    assert_eq!(plain[..5], cut);
    assert!((length(&unit) - 1.0).abs() < 1e-5);
    assert!((unit[0] * length(&cut) - cut[0]).abs() < 1e-5);
}

#[test]
fn an_empty_batch_and_an_item_without_tokens() {
    let model = mock(json!({}));
    let empty = TokenBatch { cumulative_seq_lengths: &[0], ..TokenBatch::default() };
    assert!(model.embed(&empty, &CallOptions::default()).unwrap().is_empty());
    let batch = TokenBatch {
        input_ids: &[5],
        cumulative_seq_lengths: &[0, 0, 1],
        pooled_indices: &[1],
        raw_indices: &[0],
        ..TokenBatch::default()
    };
    let result = model.embed(&batch, &CallOptions::default()).unwrap();
    assert!(result.token_vectors(0).unwrap().is_empty());
    assert!(result.pooled(1).is_ok());
}

#[test]
fn classifiers_give_logits() {
    let model = mock(json!({"mock": {"kind": "classifier", "labels": 3}}));
    assert_eq!((model.info().task, model.info().labels), (Some(Task::Classifier), 3));
    let tokens = Tokens::of(&[&[5, 6], &[7]]);
    let result = model.predict(&tokens.batch(), &CallOptions::default()).unwrap();
    assert_eq!((result.pooled(0).unwrap().len(), result.pooled(1).unwrap().len()), (3, 3));

    let model = mock(json!({"mock": {"kind": "token_classifier", "labels": 5}}));
    let batch = TokenBatch { pooled_indices: &[], raw_indices: &[0, 1], ..tokens.batch() };
    let result = model.predict_tokens(&batch, &CallOptions::default()).unwrap();
    assert_eq!(result.token_vectors(0).unwrap().iter().map(<[f32]>::len).collect::<Vec<_>>(), [5, 5]);
}

#[test]
fn texts_give_what_their_tokens_give() {
    let model = mock_with_texts();
    let text = Text { outputs: Outputs::POOLED | Outputs::TOKENS, ..Text::from("Hello, Wörld 🙂") };
    let result = model.embed_texts(&[text, text], &CallOptions::default()).unwrap();
    let tokens = result.tokens(0).unwrap();
    assert_eq!(tokens.special.first(), Some(&1));
    assert_eq!(tokens.piece(0), "[CLS]");
    assert_eq!((tokens.starts[1], tokens.ends[1]), (0, 5));
    let packed = Tokens::of(&[tokens.ids]);
    let of_tokens = model.embed(&packed.batch(), &CallOptions::default()).unwrap();
    assert_eq!(of_tokens.pooled(0).unwrap(), result.pooled(1).unwrap());

    let only_tokens = [Text { outputs: Outputs::TOKEN_VECTORS, ..text }];
    let result = model.embed_texts(&only_tokens, &CallOptions::default()).unwrap();
    assert_eq!(result.token_vectors(0).unwrap().len(), tokens.len());
    assert!(result.pooled(0).is_err());
}

#[test]
fn texts_are_tokenized_and_decoded() {
    let model = mock_with_texts();
    let texts = [Text::from("one two three"), Text { pair: Some(b"four"), ..Text::from("five") }];
    let result = model.tokenize(&texts, &CallOptions::default()).unwrap();
    let (single, pair) = (result.tokens(0).unwrap(), result.tokens(1).unwrap());
    assert_eq!((single.len(), pair.len(), pair.type_ids.last()), (5, 5, Some(&1)));

    let ids = [single.ids, pair.ids].concat();
    let lengths = [0, single.len() as u32, ids.len() as u32];
    let decode = |skip_special_tokens| {
        let options = CallOptions { skip_special_tokens, ..CallOptions::default() };
        let result = model.decode(&ids, &lengths, &options).unwrap();
        [result.text(0).unwrap().into_owned(), result.text(1).unwrap().into_owned()]
    };
    assert_eq!(decode(None), ["one two three", "five four"]);
    assert_eq!(decode(Some(false))[0], "[CLS] one two three [SEP]");

    let options = CallOptions { add_special_tokens: Some(false), ..CallOptions::default() };
    assert_eq!(model.tokenize(&texts[..1], &options).unwrap().tokens(0).unwrap().len(), 3);
}

#[test]
fn long_texts_are_cut_on_the_side_asked_for() {
    let model = mock_with_texts();
    let text = format!("first {}last", "word ".repeat(400));
    let cut = |side| {
        let options =
            CallOptions { truncate: Some(true), truncation_side: Some(side), ..CallOptions::default() };
        let result = model.tokenize(&[Text::from(text.as_str())], &options).unwrap();
        let tokens = result.tokens(0).unwrap();
        let piece = |k| tokens.piece(k).into_owned();
        (tokens.len(), piece(1), piece(tokens.len() - 2))
    };
    assert_eq!(cut(Side::Right), (256, "first".to_string(), "word".to_string()));
    assert_eq!(cut(Side::Left), (256, "word".to_string(), "last".to_string()));
}

#[test]
fn two_models_do_not_disturb_each_other() {
    let (a, b) = (mock(json!({"mock": {"dimensions": 4}})), mock(json!({"mock": {"dimensions": 6}})));
    let tokens = Tokens::of(&[&[1, 2]]);
    let size = |model: &Model| {
        model.embed(&tokens.batch(), &CallOptions::default()).unwrap().pooled(0).unwrap().len()
    };
    assert_eq!((size(&a), size(&b)), (4, 6));
    drop(a);
    assert_eq!(size(&b), 6);
}

#[test]
fn many_threads_get_what_one_gets() {
    let model = mock(json!({"slots": 4}));
    let item = |k: u32| (0..k % 40 + 1).map(|t| 100 + k + t).collect::<Vec<u32>>();
    let embed = |k: u32| {
        let item = item(k);
        let tokens = Tokens::of(&[&item, &[1]]);
        model.embed(&tokens.batch(), &CallOptions::default()).unwrap().pooled(0).unwrap().to_vec()
    };
    let alone: Vec<Vec<f32>> = (0..64).map(embed).collect();
    thread::scope(|scope| {
        for k in 0..64u32 {
            let (alone, embed) = (&alone, &embed);
            scope.spawn(move || {
                for round in 0..5 {
                    let k = (k + round) % 64;
                    assert_eq!(embed(k), alone[k as usize]);
                }
            });
        }
    });
}

#[test]
fn a_result_outlives_its_model_and_moves_between_threads() {
    let model = mock(json!({}));
    let tokens = Tokens::of(&[&[1, 2, 3]]);
    let batch = TokenBatch { raw_indices: &[0], ..tokens.batch() };
    let result = model.embed(&batch, &CallOptions::default()).unwrap();
    drop(model);
    let rows = thread::spawn(move || result.token_vectors(0).unwrap().len()).join().unwrap();
    assert_eq!(rows, 3);
}

static LINES: Mutex<Vec<(LogLevel, String)>> = Mutex::new(Vec::new());

#[test]
fn log_lines_come_to_the_handler() {
    set_log_handler(Some(|level, line| {
        LINES.lock().unwrap().push((level, line.to_string()));
        panic!("a panic of the handler must not reach the library");
    }))
    .unwrap();
    drop(mock(json!({"log": {"level": "debug"}})));
    for _ in 0..200 {
        if !LINES.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).is_empty() {
            break;
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
    set_log_handler(None).unwrap();
    let lines = LINES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (_, line) = lines.first().expect("no log line came");
    assert!(serde_json::from_str::<Value>(line).unwrap().is_object(), "{line}");
}
