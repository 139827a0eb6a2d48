//! A server in this process, on a port of its own, and short ways to ask it.
#![allow(dead_code)] // each test file uses a part

pub mod child;
pub mod held;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bei_router::{App, Args, End, StartError, serve};
use clap::Parser;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The folder of the real model. Its tokenizer serves the mock engine too.
pub fn minilm() -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../.deps/models/all-MiniLM-L6-v2");
    assert!(folder.join("config.json").is_file(), "{} is missing; run `make setup`", folder.display());
    folder.to_str().unwrap().to_string()
}

/// Flags for the mock engine. `mock` is its script. The warm-up is one run, so that the first request's is number 5.
pub fn mock_flags(mock: Value, more: &[&str]) -> Vec<String> {
    let options = json!({"mock": mock, "log": {"level": "off"}}).to_string();
    let model = minilm();
    let flags =
        ["--model-id", &model, "--engine", "mock", "--bei-options", &options, "--max-batch-tokens", "1024"];
    flags.iter().chain(more).map(|flag| flag.to_string()).collect()
}

pub fn args(flags: &[String]) -> Args {
    Args::parse_from(["bei-router".to_string()].iter().chain(flags))
}

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Server {
    pub address: SocketAddr,
    pub client: Client,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<End>>,
}

impl Server {
    pub async fn start(flags: &[String]) -> Server {
        Server::try_start(flags).await.unwrap()
    }

    pub async fn try_start(flags: &[String]) -> Result<Server, StartError> {
        let app: Arc<App> = App::start(args(flags)).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let stopped = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(app, listener, stopped));
        // What waits for a run that a test holds must fail, not wait for ever.
        let client = Client::builder().timeout(PATIENCE).build().unwrap();
        Ok(Server { address, client, stop, task })
    }

    /// The mock engine with `mock` for a script.
    pub async fn mock(mock: Value, more: &[&str]) -> Server {
        Server::start(&mock_flags(mock, more)).await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    pub async fn send(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        let request = self.client.post(self.url(path)).header("content-type", "application/json");
        request.body(body).send().await.unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        let response = self.send(path, body.to_string()).await;
        (response.status(), response.json().await.unwrap())
    }

    /// A request that must succeed.
    pub async fn ask(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.post(path, body.clone()).await;
        assert_eq!(status, 200, "{path} {body}: {answer}");
        answer
    }

    pub async fn embed(&self, inputs: Value) -> Vec<Vec<f32>> {
        vectors(&self.ask("/embed", json!({"inputs": inputs})).await)
    }

    /// One value of /metrics; 0 when it is not there.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let line =
            text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.map_or(0.0, |line| line[name.len()..].trim().parse().unwrap())
    }

    /// Waits until a metric has a value: one that it keeps until the test goes on.
    pub async fn wait_for(&self, name: &str, value: f64) {
        self.wait_until(name, |found| found == value).await;
    }

    /// Waits until a metric that grows has come to a value.
    pub async fn wait_for_at_least(&self, name: &str, value: f64) {
        self.wait_until(name, |found| found >= value).await;
    }

    async fn wait_until(&self, name: &str, fits: impl Fn(f64) -> bool) {
        let begin = Instant::now();
        loop {
            let found = self.metric(name).await;
            if fits(found) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{name} is {found}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Orders the server to stop, and waits until it has.
    pub async fn stop(self) -> End {
        let _ = self.stop.send(());
        self.task.await.unwrap().unwrap()
    }

    /// Waits until the server ends by itself.
    pub async fn end(self) -> End {
        self.task.await.unwrap().unwrap()
    }
}

pub fn vectors(answer: &Value) -> Vec<Vec<f32>> {
    serde_json::from_value(answer.clone()).unwrap()
}

pub fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|x| x * x).sum::<f32>().sqrt()
}

/// The tiny golden model `name` of testdata on the real engine, and what golden.json (or entities.json) says of it.
pub async fn golden(name: &str, more: &[&str]) -> (Server, Value) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models").join(name);
    let read = |file: &str| std::fs::read(folder.join(file)).ok();
    let text = read("entities.json").or_else(|| read("golden.json")).unwrap();
    let options = json!({"log": {"level": "error"}}).to_string();
    let folder = folder.to_str().unwrap();
    let flags = ["--model-id", folder, "--bei-options", &options].into_iter().chain(more.iter().copied());
    let flags: Vec<String> = flags.map(String::from).collect();
    (Server::start(&flags).await, serde_json::from_slice(&text).unwrap())
}

/// Whether numbers are as near as testdata/README.md lets other processors be.
pub fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 2e-5 * b.abs().max(1.0)
}

/// Compares JSON of numbers and lists.
pub fn assert_close(name: &str, found: &Value, golden: &Value) {
    match (found, golden) {
        (Value::Array(found), Value::Array(golden)) => {
            assert_eq!(found.len(), golden.len(), "{name}");
            for (i, (found, golden)) in found.iter().zip(golden).enumerate() {
                assert_close(&format!("{name}[{i}]"), found, golden);
            }
        }
        _ => {
            let numbers = (found.as_f64(), golden.as_f64());
            assert!(matches!(numbers, (Some(a), Some(b)) if close(a, b)), "{name}: {found} is not {golden}");
        }
    }
}

/// The golden items without a pair, with their pooled rows.
pub fn texts(golden: &Value) -> Vec<(Value, Value)> {
    let items = golden["items"].as_array().unwrap().iter().zip(golden["pooled"].as_array().unwrap());
    let plain = |item: &Value| item["pair"].is_null() && item["prompt_name"].is_null();
    items.filter(|(item, _)| plain(item)).map(|(item, row)| (item["text"].clone(), row.clone())).collect()
}

/// Requests to routes that the model is not for.
pub async fn refuses(server: &Server, requests: &[(&str, Value)]) {
    for (path, body) in requests {
        let (status, answer) = server.post(path, body.clone()).await;
        let kind = answer.get("error_type").unwrap_or(&answer["type"]);
        assert_eq!((status.as_u16(), kind), (424, &json!("Backend")), "{path}: {answer}");
    }
}
