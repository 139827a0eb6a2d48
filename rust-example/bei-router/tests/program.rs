//! The program itself: its start, its flags and its end.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Command;

use common::child::{program, wait, wait_for};
use common::held::Held;
use common::mock_flags;
use serde_json::json;

/// Waits until the server has taken its first input.
async fn until_admitted(address: &str) {
    loop {
        let metrics = reqwest::get(format!("http://{address}/metrics")).await.unwrap();
        if metrics.text().await.unwrap().contains("te_embed_count 1") {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_it_after_the_work() {
    for signal in ["TERM", "INT"] {
        let held = Held::new();
        let slow = json!({"faults": [held.fault("slow", 5)]});
        let flags = mock_flags(slow, &["--port", "0", "--hostname", "127.0.0.1", "--json-output"]);
        let mut child = program().args(flags).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = wait_for(&mut lines, "ready on");
        assert!(serde_json::from_str::<serde_json::Value>(&ready).is_ok(), "not JSON: {ready}");
        let address = ready.split("ready on ").nth(1).unwrap().split(';').next().unwrap();
        let client = reqwest::Client::new();
        let request = client.post(format!("http://{address}/embed")).json(&json!({"inputs": "a"}));
        let answer = tokio::spawn(async move { request.send().await.unwrap().status() });
        until_admitted(address).await;
        let sent =
            Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        wait_for(&mut lines, &format!("SIG{signal}"));
        held.release();
        assert_eq!(answer.await.unwrap(), 200);
        wait_for(&mut lines, "stopped");
        assert_eq!(wait(child), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let hung = json!({"faults": [{"kind": "hung", "from": 5, "count": 1}]});
    let flags = mock_flags(hung, &["--port", "0", "--hostname", "127.0.0.1"]);
    let mut child = program().args(flags).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = wait_for(&mut lines, "ready on");
    let address = ready.split("ready on ").nth(1).unwrap().split(';').next().unwrap();
    let request =
        reqwest::Client::new().post(format!("http://{address}/embed")).json(&json!({"inputs": "a"}));
    let answer = tokio::spawn(request.send());
    until_admitted(address).await;
    for part in ["a second signal", "ending at once"] {
        Command::new("kill").arg(child.id().to_string()).status().unwrap();
        wait_for(&mut lines, part);
    }
    assert_eq!(wait(child), 130);
    assert!(answer.await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_familys_variables_are_used_or_said_to_have_no_meaning() {
    let flags =
        mock_flags(json!({}), &["--hostname", "127.0.0.1", "--uds-path", "/tmp/x", "--hf-api-token", "t"]);
    let variables = [
        ("AIP_HTTP_PORT", "0"),
        ("AIP_PREDICT_ROUTE", "/v1/endpoints/7:predict"),
        ("AIP_HEALTH_ROUTE", "/alive"),
        ("TASK", "sentence-similarity"),
        ("USE_FLASH_ATTENTION", "True"),
        ("API_KEY", "one,two"),
    ];
    let mut child = program().args(flags).envs(variables).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    for part in [
        "--hf-api-token is the old name",
        "--uds-path has no meaning",
        "USE_FLASH_ATTENTION=True has no meaning",
    ] {
        wait_for(&mut lines, part);
    }
    let ready = wait_for(&mut lines, "ready on");
    let address = ready.split("ready on ").nth(1).unwrap().split(';').next().unwrap();
    let client = reqwest::Client::new();
    assert_eq!(client.get(format!("http://{address}/alive")).send().await.unwrap().status(), 200);
    let ask = async |path: &str, body: serde_json::Value| {
        let request = client.post(format!("http://{address}{path}")).bearer_auth("two").json(&body);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.json::<serde_json::Value>().await.unwrap()
    };
    let body = json!({"inputs": {"source_sentence": "a", "sentences": ["a", "b"]}});
    let answer = ask("/", body.clone()).await;
    assert!((answer[0].as_f64().unwrap() - 1.0).abs() < 1e-6, "{answer}");
    let answers = ask("/v1/endpoints/7:predict", json!({"instances": [body]})).await;
    assert_eq!(answers["predictions"][0], answer);
    let unguarded = client.post(format!("http://{address}/v1/endpoints/7:predict")).send().await.unwrap();
    assert_eq!(unguarded.status(), 401);
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert_eq!(wait(child), 0);
}

#[test]
fn variables_that_cannot_be_used_are_refused() {
    for (name, value, part) in [
        ("DENSE_PATH", "2_Dense", "modules.json"),
        ("AIP_HTTP_PORT", "http", "AIP_HTTP_PORT"),
        ("AIP_PREDICT_ROUTE", "/embed", "AIP_PREDICT_ROUTE"),
        ("CORS_ALLOW_ORIGIN", "example.com", "--cors-allow-origin"),
    ] {
        let flags = mock_flags(json!({}), &["--hostname", "127.0.0.1"]);
        let output = program().args(flags).env(name, value).output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}: {log}");
        assert!(log.contains(part), "{name}: {log}");
    }
}

#[test]
fn what_is_wrong_with_the_flags_exits_with_2_and_says_why() {
    for (flags, part) in [
        (vec!["--port", "0"], "--model-id"),
        (vec!["--model-id", "x", "--bei-options", "[]"], "not a JSON object"),
        (vec!["--model-id", "x", "--bei-options", r#"{"model": "y"}"#], "--model-id"),
        (vec!["--model-id", "x", "--api-key", ""], "--api-key"),
        (vec!["--model-id", "x", "--pooling", "sum"], "last-token"),
        (
            vec!["--model-id", "x", "--default-prompt", "a", "--default-prompt-name", "b"],
            "cannot be used with",
        ),
    ] {
        let output = program().args(&flags).output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {log}");
        assert!(log.contains(part), "{flags:?}: {log}");
    }
    let output = program().args(["--model-id", "x"]).env("LOG_LEVEL", "loud=loud").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("LOG_LEVEL"));
}

#[test]
fn flags_are_environment_variables_too() {
    let output = program()
        .env("MODEL_ID", "/named/by/environment")
        .env("PORT", "0")
        .env("AUTO_TRUNCATE", "false")
        .env("HOSTNAME", "0123456789ab")
        .output()
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(66), "{log}");
    assert!(log.contains("/named/by/environment"), "{log}");
}
