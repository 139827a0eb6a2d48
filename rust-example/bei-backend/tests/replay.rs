//! The life of a backend in the family's router, on every tiny model of testdata/models: health batch, warm-up batch, then
//! batches of items that want one vector or all token vectors, larger than a run of the engine. Answers are compared with those
//! of sentence-transformers and transformers.

mod common;

use bei_backend::{
    Backend, Batch, BeiBackend, Embedding, ModelType, Options, Pool, Status, Task, TokenBackend,
    health_batch, start_up, warm_up_batch,
};
use common::{family_batch, tiny_folder};
use serde_json::{Value, json};

/// The limits of a run are far below those of the batches.
fn open(name: &str, over: Value) -> Result<BeiBackend, bei_backend::Error> {
    let mut options = Options::new(tiny_folder(name).to_str().unwrap())
        .with("threads", 1)
        .with("max_tokens", 256)
        .with("max_sequences", 2)
        .with("log", json!({"level": "error"}));
    let Value::Object(over) = over else { panic!("not an object: {over}") };
    options.merge(over);
    BeiBackend::open(&options)
}

fn golden(name: &str) -> Option<Value> {
    let file = tiny_folder(name).join("golden.json");
    Some(serde_json::from_slice(&std::fs::read(file).ok()?).unwrap())
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn assert_close(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= 1e-3 * want.abs().max(1.0), "{what}: {got}, want {want}");
    }
}

/// The items of the golden file that a router could send: without prompts, whose length a batch does not tell. And their places.
fn items(golden: &Value) -> Vec<(usize, &Value)> {
    let all = golden["items"].as_array().unwrap().iter().enumerate();
    all.filter(|(_, item)| item["prompt_name"].is_null()).collect()
}

fn numbers(item: &Value, key: &str) -> Vec<u32> {
    item[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn batch(items: &[&Value], raw: &[u32]) -> Batch {
    let ids: Vec<Vec<u32>> = items.iter().map(|item| numbers(item, "input_ids")).collect();
    Batch {
        token_type_ids: items.iter().flat_map(|item| numbers(item, "token_type_ids")).collect(),
        position_ids: items.iter().flat_map(|item| numbers(item, "position_ids")).collect(),
        ..family_batch(&ids, raw, 0)
    }
}

fn replay(name: &str, golden: &Value, backend: &BeiBackend) {
    let info = *backend.model().info();
    let (places, items): (Vec<usize>, Vec<&Value>) = items(golden).into_iter().unzip();
    assert!(items.len() > info.max_sequences, "{name}: {} items", items.len());
    match backend.model_type() {
        Some(model_type) => {
            start_up(backend, model_type, info.max_length, 1000, None)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        None => {
            for batch in [health_batch(), warm_up_batch(backend.is_padded(), info.max_length, 1000, None)] {
                backend.predict_tokens(batch).unwrap_or_else(|error| panic!("{name}: {error}"));
            }
        }
    }
    backend.health().unwrap();
    assert_eq!(backend.max_batch_size(), None);

    let length = |i: usize| items[i]["input_ids"].as_array().unwrap().len();
    match backend.model_type() {
        Some(ModelType::Embedding(pool)) => {
            let raw: Vec<u32> = match pool {
                Pool::Splade => vec![],
                _ => (0..items.len() as u32).filter(|i| i % 3 == 1).collect(),
            };
            let answers = backend.embed(batch(&items, &raw)).unwrap();
            assert_eq!(answers.len(), items.len());
            for (i, place) in places.iter().enumerate() {
                match &answers[&i] {
                    Embedding::All(rows) => {
                        assert!(raw.contains(&(i as u32)));
                        // A model without a head for single tokens' vectors gives every token one.
                        assert!(rows.len() == length(i) || name == "bge-m3", "{name}, item {i}");
                        assert!(rows.iter().all(|row| row.len() == info.token_dimensions));
                    }
                    Embedding::Pooled(vector) => {
                        assert!(!raw.contains(&(i as u32)));
                        let want = floats(&golden["pooled"][place]);
                        assert_eq!(vector.len(), want.len());
                        let cosine = cosine(vector, &want);
                        assert!(cosine >= 0.999_9, "{name}, item {i}: cosine {cosine}");
                    }
                }
            }
        }
        Some(ModelType::Classifier) => {
            let answers = backend.predict(batch(&items, &[])).unwrap();
            assert_eq!(answers.len(), items.len());
            for (i, place) in places.iter().enumerate() {
                assert_close(&answers[&i], &floats(&golden["pooled"][place]), &format!("{name}, item {i}"));
            }
        }
        None => {
            let answers = backend.predict_tokens(batch(&items, &[])).unwrap();
            assert_eq!(answers.len(), items.len());
            for i in 0..items.len() {
                assert_eq!(answers[&i].len(), length(i), "{name}, item {i}");
                assert!(answers[&i].iter().all(|logits| logits.len() == info.labels));
            }
        }
    }
}

#[test]
fn every_model_lives_through_a_routers_start_up_and_mixed_batches() {
    let models = tiny_folder("bert-mean").parent().unwrap().read_dir().unwrap();
    let mut names: Vec<String> = models
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".py") && !name.starts_with("__"))
        .collect();
    names.sort();
    let (mut counts, mut refused) = (std::collections::BTreeMap::<String, usize>::new(), vec![]);
    for name in &names {
        let Some(golden) = golden(name) else { continue };
        // As TEI's flag: a masked-LM model is a SPLADE model where the caller says so.
        let masked_lm = ["ForMaskedLM", "ForPreTraining"].iter().any(|end| {
            golden["task"].as_str().is_some_and(|task| task.ends_with(end)) && golden["pooling"].is_null()
        });
        let over = if masked_lm { json!({"pooling": "splade"}) } else { json!({}) };
        match open(name, over) {
            Ok(backend) => {
                replay(name, &golden, &backend);
                let kind = backend.model_type().map_or("token classifier".to_string(), |t| format!("{t:?}"));
                *counts.entry(kind).or_default() += 1;
            }
            Err(error) if error.status == Status::Unsupported => refused.push(name.clone()),
            Err(error) => panic!("{name}: {error}"),
        }
    }
    println!("{counts:?}; without a name in the family: {refused:?}");
    let kinds: Vec<&str> = counts.keys().map(String::as_str).collect();
    assert_eq!(
        kinds,
        [
            "Classifier",
            "Embedding(Cls)",
            "Embedding(LastToken)",
            "Embedding(Mean)",
            "Embedding(Splade)",
            "token classifier"
        ]
    );
    assert!(counts.values().sum::<usize>() > 100, "{counts:?}");
}

#[test]
fn a_pooling_that_the_family_has_no_name_for_is_refused_with_its_reason() {
    let error = open("bert-max-sharded", json!({})).map(drop).unwrap_err();
    assert_eq!(error.status, Status::Unsupported);
    assert!(error.message.contains("pooling"), "{error}");
    // The family's router passes the pooling that it has found, or was given.
    let backend = open("bert-max-sharded", json!({"pooling": "mean"})).unwrap();
    assert_eq!(backend.model_type(), Some(&ModelType::Embedding(Pool::Mean)));
    assert_eq!(backend.model().info().task, Some(Task::Embedding));
}
