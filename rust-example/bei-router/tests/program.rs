//! The program itself: its start, its flags and its end.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::mock_flags;
use serde_json::json;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bei-router"));
    command.stderr(Stdio::piped()).env_remove("HOSTNAME");
    command
}

/// Reads log lines until one holds `part`, and returns it.
fn wait_for(lines: &mut impl Iterator<Item = std::io::Result<String>>, part: &str) -> String {
    let mut seen = String::new();
    for line in lines {
        let line = line.unwrap();
        if line.contains(part) {
            return line;
        }
        seen += &format!("{line}\n");
    }
    panic!("{part:?} was not logged:\n{seen}");
}

fn wait(mut child: Child) -> i32 {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().expect("ended by a signal");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    panic!("the program did not end");
}

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
    let slow = json!({"faults": [{"kind": "slow", "delay_ms": 1000, "from": 5, "count": 1}]});
    for signal in ["TERM", "INT"] {
        let flags = mock_flags(slow.clone(), &["--port", "0", "--hostname", "127.0.0.1", "--json-output"]);
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
        assert_eq!(answer.await.unwrap(), 200);
        wait_for(&mut lines, &format!("SIG{signal}"));
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

#[test]
fn what_cannot_start_exits_with_1_and_says_why() {
    for (flags, part) in [
        (vec!["--model-id", "/does/not/exist", "--port", "0"], "/does/not/exist"),
        (vec!["--model-id", "x", "--port", "0", "--hostname", "no host"], "no host"),
    ] {
        let output = program().args(&flags).output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{flags:?}: {log}");
        assert!(log.contains(part), "{flags:?}: {log}");
    }
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
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("/named/by/environment"), "{log}");
}
