//! The program from its first second to its last: health, readiness, exit codes, the drain, ids and lines of the log.

mod common;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use common::child::{address, lines, program, signal, wait, wait_for};
use common::held::Held;
use common::mock_flags;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

fn flags(mock: Value, more: &[&str]) -> Vec<String> {
    mock_flags(mock, &[&["--port", "0", "--hostname", "127.0.0.1"], more].concat())
}

async fn get(address: &str, path: &str) -> (StatusCode, Value) {
    let response = reqwest::get(format!("http://{address}{path}")).await.unwrap();
    let status = response.status();
    (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or(Value::Null))
}

async fn embed(address: &str) -> reqwest::Result<reqwest::Response> {
    Client::new().post(format!("http://{address}/embed")).json(&json!({"inputs": "a"})).send().await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_lives_at_once_and_is_ready_when_it_is_warm() {
    let held = Held::new();
    let slow = json!({"faults": [held.fault("slow", 3)]});
    let mut child = program().args(flags(slow, &["--prometheus-port", "0"])).spawn().unwrap();
    let mut log = lines(&mut child);
    let metrics = address(&wait_for(&mut log, "metrics on "), "metrics on ");
    let server = address(&wait_for(&mut log, "listening on "), "listening on ");
    for path in ["/health/live", "/v1/health/live"] {
        assert_eq!(get(&server, path).await, (StatusCode::OK, json!({"status": "live"})));
    }
    for path in
        ["/health", "/", "/ping", "/health/ready", "/v1/health/ready", "/info", "/metrics", "/no/route"]
    {
        let (status, body) = get(&server, path).await;
        assert_eq!(status, 503, "{path}");
        assert_eq!(
            (&body["status"], &body["error_type"]),
            (&json!("starting"), &json!("Unhealthy")),
            "{path}: {body}"
        );
        assert!(!body["stage"].as_str().unwrap().is_empty());
    }
    let refused = embed(&server).await.unwrap();
    assert_eq!(
        (refused.status(), &refused.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
    );
    assert_eq!(get(&metrics, "/metrics").await.0, 503);
    while !wait_for(&mut log, "starting for ").contains("warming up") {}

    held.release();
    wait_for(&mut log, "ready on ");
    for path in ["/health", "/", "/ping"] {
        assert_eq!(get(&server, path).await, (StatusCode::OK, Value::Null), "{path}");
    }
    for path in ["/health/ready", "/v1/health/ready"] {
        assert_eq!(get(&server, path).await, (StatusCode::OK, json!({"status": "ready"})));
    }
    assert_eq!(embed(&server).await.unwrap().status(), 200);
    assert_eq!(get(&metrics, "/metrics").await.0, 200);
    assert_eq!(get(&metrics, "/embed").await.0, 404);
    signal(&child, "TERM");
    assert_eq!(wait(child), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_start() {
    let slow = json!({"faults": [{"kind": "slow", "delay_ms": 60000, "from": 1, "count": 1}]});
    let mut child = program().args(flags(slow, &[])).spawn().unwrap();
    let mut log = lines(&mut child);
    wait_for(&mut log, "listening on ");
    signal(&child, "TERM");
    assert_eq!(wait(child), 0);
}

#[test]
fn each_cause_of_a_failed_start_has_its_exit_code_and_says_the_fix() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port().to_string();
    let tiny = damaged_model();
    let failing = |run: u32| json!({"faults": [{"kind": "error", "from": run}]});
    let own = |flags: &[&str]| -> Vec<String> { flags.iter().map(|flag| flag.to_string()).collect() };
    for (flags, code, part) in [
        (own(&["--model-id", "/does/not/exist", "--port", "0"]), 66, "it must be a folder with config.json"),
        (
            own(&["--model-id", tiny.to_str().unwrap(), "--engine", "onnxruntime", "--port", "0"]),
            65,
            "parity failed in 2 places",
        ),
        (own(&["--model-id", "x", "--port", "0", "--hostname", "no host"]), 71, "no host"),
        (own(&["--model-id", "x", "--port", &port, "--hostname", "127.0.0.1"]), 71, "choose another --port"),
        (
            mock_flags(json!({}), &["--port", "0", "--prometheus-port", &port, "--hostname", "127.0.0.1"]),
            71,
            "choose another --prometheus-port",
        ),
        (
            mock_flags(json!({}), &["--port", "0", "--max-concurrent-requests", "0"]),
            2,
            "--max-concurrent-requests is 0",
        ),
        (
            mock_flags(json!({}), &["--port", "0", "--otlp-endpoint", "localhost:4317"]),
            2,
            "it must begin with http://",
        ),
        (mock_flags(failing(1), &["--port", "0"]), 66, "warm-up"),
        (mock_flags(failing(3), &["--port", "0"]), 70, "the warm-up failed"),
        (own(&["--model-id", tiny.to_str().unwrap(), "--engine", "tensorrt", "--port", "0"]), 69, "TensorRT"),
    ] {
        let output = program().args(&flags).env("BEI_TENSORRT_LIB", "/does/not/exist").output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {log}");
        assert!(log.contains(part), "{flags:?}: {log}");
    }
    std::fs::remove_dir_all(tiny).unwrap();
}

/// A tiny model with a manifest of other outputs.
fn damaged_model() -> std::path::PathBuf {
    let from = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models/bert-mean");
    let to = std::env::temp_dir().join(format!("bei-router-starting-{}", std::process::id()));
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        } else {
            let folder = to.join(entry.file_name());
            std::fs::create_dir_all(&folder).unwrap();
            for inner in std::fs::read_dir(entry.path()).unwrap() {
                let inner = inner.unwrap();
                std::fs::copy(inner.path(), folder.join(inner.file_name())).unwrap();
            }
        }
    }
    let zeros = "A".repeat(320); // 60 of them
    let manifest = json!({"format": "bei-manifest", "version": 1, "model": {"type": "embedding", "output": "pooled", "width": 60},
        "items": [{"text": "a", "reference": zeros}]});
    std::fs::write(to.join("bei-manifest.json"), manifest.to_string()).unwrap();
    to
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_taken_out_before_it_stops_to_listen() {
    let mut child = program().args(flags(json!({}), &["--shutdown-delay-ms", "6000"])).spawn().unwrap();
    let mut log = lines(&mut child);
    let server = address(&wait_for(&mut log, "ready on "), "ready on ");
    let start = Instant::now();
    signal(&child, "TERM");
    wait_for(&mut log, "SIGTERM");
    while get(&server, "/health").await.0 == 200 {}
    for path in ["/health", "/health/ready"] {
        let (status, body) = get(&server, path).await;
        assert_eq!(
            (status, &body["status"]),
            (StatusCode::SERVICE_UNAVAILABLE, &json!("stopping")),
            "{path}"
        );
    }
    assert_eq!(get(&server, "/health/live").await.0, 200);
    assert_eq!(embed(&server).await.unwrap().status(), 200);
    assert_eq!(wait(child), 0);
    assert!(start.elapsed() >= Duration::from_millis(6000));
    assert!(embed(&server).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_has_a_limit() {
    let hung = json!({"faults": [{"kind": "hung", "from": 5, "count": 1}]});
    let mut child = program().args(flags(hung, &["--shutdown-timeout-ms", "300"])).spawn().unwrap();
    let mut log = lines(&mut child);
    let server = address(&wait_for(&mut log, "ready on "), "ready on ");
    let asked = server.clone();
    let answer = tokio::spawn(async move { embed(&asked).await });
    loop {
        let metrics = reqwest::get(format!("http://{server}/metrics")).await.unwrap().text().await.unwrap();
        if metrics.contains("te_embed_count 1") {
            break;
        }
    }
    let start = Instant::now();
    signal(&child, "TERM");
    wait_for(&mut log, "still under way after 300ms");
    assert_eq!(wait(child), 0);
    // By itself the run ends after a minute.
    assert!(start.elapsed() < Duration::from_secs(30));
    drop(answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_have_ids_and_lines() {
    let bad = json!({"faults": [{"kind": "nan", "token_id": 7592}]}); // "hello"
    let mut child = program().args(flags(bad, &["--access-log", "--json-output"])).spawn().unwrap();
    let mut log = lines(&mut child);
    let server = address(&wait_for(&mut log, "ready on "), "ready on ");
    let ask = |id: &'static str, input: &'static str| {
        let request = Client::new().post(format!("http://{server}/embed")).json(&json!({"inputs": input}));
        if id.is_empty() { request } else { request.header("x-request-id", id) }
    };
    let response = ask("mine-1", "a").send().await.unwrap();
    assert_eq!(response.headers()["x-request-id"], "mine-1");
    let line: Value = serde_json::from_str(&wait_for(&mut log, "mine-1")).unwrap();
    let fields = &line["fields"];
    assert_eq!((&line["target"], &line["level"]), (&json!("access"), &json!("INFO")));
    assert_eq!(
        (&fields["method"], &fields["path"], &fields["status"]),
        (&json!("POST"), &json!("/embed"), &json!(200))
    );
    assert_eq!(fields["tokens"], 3);
    assert!(fields["total_ms"].is_number() && fields["inference_ms"].is_number(), "{line}");

    let response = ask("mine-2", "hello").send().await.unwrap();
    assert_eq!(response.status(), 424);
    let line: Value = serde_json::from_str(&wait_for(&mut log, "mine-2")).unwrap();
    assert_eq!((&line["level"], &line["fields"]["status"]), (&json!("ERROR"), &json!(424)));
    assert!(line["fields"]["message"].as_str().unwrap().contains("NaN"), "{line}");

    let made = ask("", "a").send().await.unwrap().headers()["x-request-id"].to_str().unwrap().to_string();
    assert_eq!(made.len(), 32);
    let refused = ask("mine-3", "").send().await.unwrap();
    assert_eq!(
        (refused.status(), &refused.headers()["x-request-id"]),
        (StatusCode::BAD_REQUEST, &"mine-3".parse().unwrap())
    );
    wait_for(&mut log, "mine-3");
    signal(&child, "TERM");
    let rest: Vec<String> = log.map(Result::unwrap).collect();
    assert!(rest.iter().all(|line| !line.contains("mine-")), "{rest:?}");
    assert_eq!(wait(child), 0);
}
