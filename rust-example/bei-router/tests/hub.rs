//! A model by its id on a hub: the program itself against a stand-in hub, and then without one.

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use common::vectors;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const ID: &str = "org/bert-mean";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_right";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models/bert-mean")
}

/// A file of the hub: its content and its SHA-256.
struct File {
    content: Vec<u8>,
    hash: String,
}

type Files = Arc<HashMap<String, File>>;

fn files() -> Files {
    let names = [
        "config.json",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let names = names.into_iter().chain(["1_Pooling/config.json", "model.safetensors"]);
    let read = |name: &str| {
        let output = Command::new("sha256sum").arg(folder().join(name)).output().unwrap();
        let hash = String::from_utf8(output.stdout).unwrap()[..64].to_string();
        (name.to_string(), File { content: std::fs::read(folder().join(name)).unwrap(), hash })
    };
    Arc::new(names.map(read).collect())
}

/// Answers as the hub does for a private model whose files are all in large file storage.
async fn answer(State(files): State<Files>, request: Request) -> Response {
    let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if token != Some(&format!("Bearer {TOKEN}")) {
        let headers = [("x-error-code", "RepoNotFound"), ("x-error-message", "Repository not found")];
        return (StatusCode::UNAUTHORIZED, headers).into_response();
    }
    let path = request.uri().path();
    if path == format!("/api/models/{ID}/revision/main") {
        let siblings: Vec<Value> = files.keys().map(|name| json!({"rfilename": name})).collect();
        return axum::Json(json!({"id": ID, "sha": COMMIT, "siblings": siblings})).into_response();
    }
    let name = path.strip_prefix(&format!("/{ID}/resolve/{COMMIT}/"));
    let Some(file) = name.and_then(|name| files.get(name)) else {
        return (StatusCode::NOT_FOUND, [("x-error-code", "EntryNotFound")]).into_response();
    };
    let body = if request.method() == Method::HEAD { vec![] } else { file.content.clone() };
    let headers = [
        ("x-repo-commit", COMMIT.to_string()),
        ("x-linked-etag", format!("\"{}\"", file.hash)),
        ("x-linked-size", file.content.len().to_string()),
    ];
    (headers, body).into_response()
}

async fn start_hub() -> (SocketAddr, JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let hub = Router::new().fallback(answer).with_state(files());
    (address, tokio::spawn(async move { axum::serve(listener, hub).await.unwrap() }))
}

fn program(hub: SocketAddr, home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bei-router"));
    for variable in
        ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HOSTNAME"]
    {
        command.env_remove(variable);
    }
    command.stderr(Stdio::piped()).env("HF_ENDPOINT", format!("http://{hub}")).env("HF_HOME", home);
    command.args(["--model-id", ID, "--port", "0", "--hostname", "127.0.0.1"]);
    command
}

/// A running server, which ends with it.
struct Running {
    child: Child,
    address: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(mut command: Command) -> Running {
        let mut running = Running { child: command.spawn().unwrap(), address: String::new() };
        let mut seen = String::new();
        for line in BufReader::new(running.child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some((_, rest)) = line.split_once("ready on ") {
                running.address = rest.split(';').next().unwrap().to_string();
                assert!(!seen.contains(TOKEN), "the token is logged:\n{seen}");
                return running;
            }
            seen += &format!("{line}\n");
        }
        panic!("it did not start:\n{seen}");
    }

    async fn embed(&self) -> Vec<Vec<f32>> {
        let request = reqwest::Client::new().post(format!("http://{}/embed", self.address));
        let answer = request.json(&json!({"inputs": ["one text", "another"]})).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        vectors(&answer.json().await.unwrap())
    }

    async fn info(&self) -> Value {
        reqwest::get(format!("http://{}/info", self.address)).await.unwrap().json().await.unwrap()
    }
}

fn refused(mut command: Command) -> String {
    let output = command.output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(66), "{log}");
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_fetched_once_and_then_served_offline() {
    let home = std::env::temp_dir().join(format!("bei-router-hub-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&home);
    let (address, hub) = start_hub().await;

    let stranger = tokio::task::spawn_blocking({
        let command = program(address, &home);
        move || refused(command)
    });
    let log = stranger.await.unwrap();
    assert!(log.contains("there is no such model, or it is private"), "{log}");
    assert!(log.contains(ID) && log.contains("HF_TOKEN"), "{log}");

    let mut command = program(address, &home);
    command.args(["--hf-token", TOKEN, "--revision", "main"]);
    let first = tokio::task::spawn_blocking(|| Running::start(command)).await.unwrap();
    let mut command = program(address, &home);
    command.args(["--model-id", folder().to_str().unwrap()]);
    let want = tokio::task::spawn_blocking(|| Running::start(command)).await.unwrap().embed().await;
    assert_eq!(first.embed().await, want);
    let info = first.info().await;
    assert_eq!((&info["model_id"], &info["served_model_name"]), (&json!(ID), &json!(ID)));
    assert_eq!(info["model_sha"], COMMIT);
    drop(first);

    hub.abort();
    let _ = hub.await;
    let mut command = program(address, &home);
    command.env("HF_HUB_OFFLINE", "1");
    let offline = tokio::task::spawn_blocking(|| Running::start(command)).await.unwrap();
    assert_eq!(offline.embed().await, want);

    let mut command = program(address, &home);
    let elsewhere = home.join("elsewhere");
    command.env("HF_HUB_OFFLINE", "1").args(["--huggingface-hub-cache", elsewhere.to_str().unwrap()]);
    let log = tokio::task::spawn_blocking(|| refused(command)).await.unwrap();
    assert!(log.contains("elsewhere") && log.contains("HF_HUB_OFFLINE"), "{log}");
    std::fs::remove_dir_all(&home).unwrap();
}
