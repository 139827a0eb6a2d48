//! Foreign bytes on every route: what is malformed gets a 4xx in the route's shape, and nothing ever a 5xx or a panic.

mod common;

use std::sync::OnceLock;

use bei_router::inputs::{Input, Inputs, Sequences, Texts};
use common::{Server, golden};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Routes with a body that they answer, as a model of that name takes them.
fn routes() -> Vec<(&'static str, &'static str, Value)> {
    let (embed, rerank) = (json!({"inputs": "a"}), json!({"query": "a", "texts": ["b"]}));
    let similarity =
        json!({"inputs": {"source_sentence": "a", "sentences": ["b"]}, "parameters": {"truncate": true}});
    vec![
        (
            "bert-mean",
            "/embed",
            json!({"inputs": ["a", [2, 3]], "truncate": true, "normalize": false, "dimensions": 3}),
        ),
        ("bert-mean", "/embed_all", embed.clone()),
        ("bge-m3", "/embed_sparse", embed.clone()),
        (
            "bert-mean",
            "/embed_outputs",
            json!({"inputs": ["a b"], "outputs": ["pooled", "tokens", "spans"], "spans": [[[0, 3]]]}),
        ),
        ("bert-mean", "/similarity", similarity),
        (
            "bert-mean",
            "/v1/embeddings",
            json!({"input": ["a"], "encoding_format": "base64", "model": "m", "user": "u"}),
        ),
        ("bert-mean", "/embeddings", json!({"input": ["a", [2, 3]]})),
        ("bert-mean", "/tokenize", json!({"inputs": ["a"], "add_special_tokens": false})),
        ("bert-mean", "/decode", json!({"ids": [[2, 3]], "skip_special_tokens": false})),
        ("bert-mean", "/", embed.clone()),
        ("bert-mean", "/invocations", embed.clone()),
        ("bert-mean", "/vertex", json!({"instances": [{"inputs": "a"}]})),
        ("bert-classifier", "/predict", json!({"inputs": [["a"], ["b", "c"]], "raw_scores": true})),
        ("roberta-entities", "/predict_tokens", json!({"inputs": [["a"]], "aggregation_strategy": "max"})),
        ("bert-reranker", "/rerank", rerank),
        ("bert-reranker", "/v1/rerank", json!({"query": "a", "documents": ["b", {"text": "c"}], "top_n": 1})),
        ("bert-reranker", "/v2/rerank", json!({"query": "a", "documents": ["b"], "return_documents": true})),
    ]
}

const MODELS: [&str; 5] = ["bert-mean", "bge-m3", "bert-classifier", "roberta-entities", "bert-reranker"];

async fn servers() -> Vec<(&'static str, Server)> {
    let mut servers = vec![];
    for model in MODELS {
        servers.push((model, golden(model, &[]).await.0));
    }
    servers
}

fn of<'a>(servers: &'a [(&str, Server)], model: &str) -> &'a Server {
    &servers.iter().find(|(name, _)| *name == model).unwrap().1
}

/// Checks an error's body; every route has one shape.
fn check_error(path: &str, status: u16, text: &str) {
    let answer: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("{path} {status}: {text}"));
    let mut keys: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort();
    let of_openai = path.starts_with("/v1") || path.starts_with("/v2") || path == "/embeddings";
    let expected = if of_openai { vec!["code", "message", "type"] } else { vec!["error", "error_type"] };
    assert_eq!(keys, expected, "{path} {status}: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_bodies_on_every_route() {
    let servers = servers().await;
    for (model, path, good) in routes() {
        let server = of(&servers, model);
        server.ask(path, good.clone()).await;
        let text = good.to_string();
        let deep = format!("{{\"inputs\": {}", "[".repeat(100_000));
        let cases: Vec<(&str, Vec<u8>, &[u16])> = vec![
            ("empty", vec![], &[400]),
            ("cut", text.as_bytes()[..text.len() - 1].to_vec(), &[400]),
            ("more after it", format!("{text} x").into_bytes(), &[400]),
            ("not JSON", b"inputs=a".to_vec(), &[400]),
            ("not UTF-8", text.replace('a', "\u{e9}").chars().map(|c| c as u8).collect(), &[400]),
            ("half a surrogate", text.replacen("\"a\"", "\"\\ud800\"", 1).into_bytes(), &[200, 400]),
            ("deep", deep.into_bytes(), &[400, 422]),
            ("null", b"null".to_vec(), &[422]),
            ("a list", b"[]".to_vec(), &[422]),
            ("a number", b"1e999".to_vec(), &[400, 422]),
            ("nothing in it", b"{}".to_vec(), &[422]),
        ];
        for (name, body, expected) in cases {
            let response = server.send(path, body).await;
            let status = response.status().as_u16();
            let text = response.text().await.unwrap();
            assert!(expected.contains(&status), "{name} on {path}: {status} {text}");
            if status != 200 {
                check_error(path, status, &text);
            }
        }
        for (field, _) in good.as_object().unwrap() {
            for wrong in [json!({"truncate": 1}), json!(-1.5), json!([[[[1]]]]), json!([null])] {
                let mut body = good.clone();
                body[field] = wrong;
                let response = server.send(path, body.to_string()).await;
                let status = response.status().as_u16();
                let text = response.text().await.unwrap();
                assert!(status == 422 || status == 400, "{path} {body}: {status} {text}");
                check_error(path, status, &text);
            }
            let twice = format!("{{\"{field}\": {}, {}", good[field], &text[1..]);
            assert_eq!(server.send(path, twice).await.status(), 422, "{field} twice on {path}");
        }
        for (header, value) in [("request-timeout-ms", "soon"), ("x-request-priority", "highest")] {
            if matches!(path, "/tokenize" | "/decode") {
                continue;
            }
            let request = server.client.post(server.url(path)).header(header, value).json(&good);
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 422, "{header} on {path}");
            check_error(path, 422, &response.text().await.unwrap());
        }
        let response = server.client.post(server.url(path)).body(text).send().await.unwrap();
        assert_eq!(response.status(), 415, "{path}");
        check_error(path, 415, &response.text().await.unwrap());
        server.ask(path, good).await;
    }
    for (_, server) in servers {
        server.stop().await;
    }
}

/// JSON of any shape, often of texts and numbers as bodies hold them.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..400u32).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "[a-z ]{0,40}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let key = prop_oneof!["inputs|input|text|spans|truncate|query|documents", "[a-z]{1,6}"];
        prop_oneof![
            3 => prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            1 => prop::collection::btree_map(key, inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn ids(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

fn input(value: &Value) -> Option<Input> {
    value.as_str().map(|text| Input::Text(text.to_string())).or_else(|| ids(value).map(Input::Ids))
}

/// What inputs are, said a second time and slowly.
fn inputs(value: &Value) -> Option<Vec<Input>> {
    match value {
        Value::String(text) => Some(vec![Input::Text(text.clone())]),
        Value::Array(items) if !items.is_empty() && items[0].is_number() => {
            Some(vec![Input::Ids(ids(value)?)])
        }
        Value::Array(items) => items.iter().map(input).collect(),
        _ => None,
    }
}

fn sequence(value: &Value) -> Option<Input> {
    let texts: Vec<&str> = value.as_array()?.iter().map(Value::as_str).collect::<Option<_>>()?;
    match texts[..] {
        [text] => Some(Input::Text(text.to_string())),
        [text, pair] => Some(Input::Pair(text.to_string(), pair.to_string())),
        _ => None,
    }
}

fn sequences(value: &Value) -> Option<Vec<Input>> {
    match value {
        Value::String(text) => Some(vec![Input::Text(text.clone())]),
        Value::Array(items) if items.is_empty() => Some(vec![]),
        Value::Array(items) if items[0].is_string() => Some(vec![sequence(value)?]),
        Value::Array(items) => items.iter().map(sequence).collect(),
        _ => None,
    }
}

fn texts(value: &Value) -> Option<Vec<Input>> {
    let text = |value: &Value| Some(Input::Text(value.as_str()?.to_string()));
    match value {
        Value::String(_) => Some(vec![text(value)?]),
        Value::Array(items) if items.iter().all(Value::is_string) => items.iter().map(text).collect(),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_array().filter(|list| list.len() == 1).and_then(|list| text(&list[0])))
            .collect(),
        _ => None,
    }
}

proptest! {
    #![proptest_config(Config { cases: 3000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn bodies_are_read_as_their_shapes_say(value in any_json()) {
        let text = value.to_string();
        prop_assert_eq!(serde_json::from_str::<Inputs>(&text).ok().map(|inputs| inputs.items), inputs(&value));
        prop_assert_eq!(serde_json::from_str::<Sequences>(&text).ok().map(|s| s.0.items), sequences(&value));
        prop_assert_eq!(serde_json::from_str::<Texts>(&text).ok().map(|texts| texts.0.items), texts(&value));
    }

    #[test]
    fn bytes_of_any_kind_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = serde_json::from_slice::<Inputs>(&bytes);
        let _ = serde_json::from_slice::<Sequences>(&bytes);
        let _ = serde_json::from_slice::<Texts>(&bytes);
    }
}

#[test]
fn no_body_is_a_server_error() {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Runtime::new().unwrap());
    let servers = runtime.block_on(servers());
    let routes = routes();
    let mut runner = TestRunner::new(Config { cases: 600, failure_persistence: None, ..Config::default() });
    let case = (
        0..routes.len(),
        any::<prop::sample::Index>(),
        any_json(),
        any::<prop::sample::Index>(),
        any::<u8>(),
    );
    let result = runner.run(&case, |(route, field, value, place, byte)| {
        let (model, path, good) = &routes[route];
        let (server, mut body) = (of(&servers, model), good.clone());
        let field = field.get(&body.as_object().unwrap().keys().cloned().collect::<Vec<_>>()).clone();
        body[&field] = value;
        let mut damaged = good.to_string().into_bytes();
        let place = place.index(damaged.len());
        damaged[place] = byte;
        for body in [body.to_string().into_bytes(), damaged] {
            let (status, text) = runtime.block_on(async {
                let response = server.send(path, body.clone()).await;
                (response.status().as_u16(), response.text().await.unwrap())
            });
            prop_assert!(
                status == 200 || (400..430).contains(&status),
                "{} {:?}: {} {}",
                path,
                body,
                status,
                text
            );
            if status != 200 {
                check_error(path, status, &text);
            }
        }
        Ok(())
    });
    result.unwrap();
    for (_, server) in servers {
        runtime.block_on(server.stop());
    }
}
