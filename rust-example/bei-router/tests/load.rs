//! Many clients at once: batching, overload, clients that leave, and a server that stops while busy.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::held::Held;
use common::{PATIENCE, Server};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// An engine that holds the first request's run, so that what comes meanwhile waits.
async fn slow(more: &[&str]) -> (Server, Held) {
    let held = Held::new();
    (Server::mock(json!({"faults": [held.fault("slow", 5)]}), more).await, held)
}

#[tokio::test(flavor = "multi_thread")]
async fn late_arrivals_join_the_next_batch() {
    let (server, held) = slow(&[]).await;
    let server = Arc::new(server);
    let mut clients = JoinSet::new();
    for i in 0..10 {
        let busy = server.clone();
        clients.spawn(async move { busy.embed(json!(format!("text {i}"))).await });
        if i == 0 {
            server.wait_for("te_batch_next_size_count", 1.0).await;
        }
    }
    server.wait_for("te_queue_size", 9.0).await;
    held.release();
    clients.join_all().await;
    assert_eq!(server.metric("te_batch_next_size_count").await, 2.0);
    assert_eq!(server.metric("te_batch_next_size_sum").await, 10.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_refuses_whole_requests() {
    let (server, held) = slow(&["--max-concurrent-requests", "4"]).await;
    let server = Arc::new(server);
    let busy = server.clone();
    let first = tokio::spawn(async move { busy.embed(json!(["a", "b", "c", "d"])).await });
    server.wait_for("te_batch_next_size_count", 1.0).await;
    for inputs in [json!("e"), json!(["a", "b", "c", "d"])] {
        let (status, answer) = server.post("/embed", json!({"inputs": inputs})).await;
        assert_eq!((status.as_u16(), &answer["error_type"]), (429, &json!("Overloaded")), "{answer}");
        assert!(answer["error"].as_str().unwrap().contains("limit of 4"), "{answer}");
    }
    let (status, answer) = server.post("/v1/embeddings", json!({"input": ["a", "b"]})).await;
    assert_eq!((status.as_u16(), &answer["type"]), (429, &json!("Overloaded")));
    held.release();
    assert_eq!(first.await.unwrap().len(), 4);
    assert_eq!(server.metric("te_request_failure{err=\"overloaded\"}").await, 3.0);
    // A request of any size is let in while there is room.
    assert_eq!(server.embed(json!(vec!["a"; 30])).await.len(), 30);
}

/// A small body can ask for an answer that memory would not hold.
#[tokio::test(flavor = "multi_thread")]
async fn answers_are_bounded() {
    let server = Server::mock(json!({"dimensions": 65536}), &[]).await;
    let inputs = |n: usize| vec![json!([7]); n];
    let (status, answer) = server.post("/embed", json!({"inputs": inputs(1025)})).await;
    assert_eq!((status.as_u16(), &answer["error_type"]), (422, &json!("Validation")), "{answer}");
    let error = answer["error"].as_str().unwrap();
    assert!(
        error.contains("the answers would hold 67174400 numbers, and may hold 16777216 (max_reply_numbers)"),
        "{error}"
    );
    assert_eq!(server.embed(json!(inputs(3))).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_of_clients_that_left_are_not_computed() {
    let (server, held) = slow(&["--max-concurrent-requests", "8"]).await;
    let server = Arc::new(server);
    let busy = server.clone();
    let first = tokio::spawn(async move { busy.embed(json!("a")).await });
    server.wait_for("te_batch_next_size_count", 1.0).await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    let body = r#"{"inputs": ["b", "c"]}"#;
    let request = format!(
        "POST /embed HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(request.as_bytes()).await.unwrap();
    server.wait_for("te_queue_size", 2.0).await;
    drop(client);
    server.wait_for("te_request_failure{err=\"dropped\"}", 2.0).await;
    held.release();
    first.await.unwrap();
    assert_eq!(server.metric("te_batch_next_size_sum").await, 1.0);
    // All permits have come back.
    assert_eq!(server.embed(json!(["a", "b", "c", "d", "e", "f", "g", "h"])).await.len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_load_answers_what_single_requests_do() {
    let options = json!({"slots": 2, "mock": {"us_per_token": 2}, "log": {"level": "off"}}).to_string();
    let server = Arc::new(Server::mock(json!({}), &["--bei-options", &options]).await);
    let text = |i: usize| "some words of a text ".repeat(i % 7 + 1) + &i.to_string();
    let requests: Vec<(&str, Value)> = (0..40)
        .map(|i| match i % 5 {
            0 => ("/embed", json!({"inputs": text(i)})),
            1 => ("/embed", json!({"inputs": [text(i), text(i + 1)], "normalize": false})),
            2 => ("/embed_all", json!({"inputs": [text(i), [5, 6, 7]]})),
            3 => ("/v1/embeddings", json!({"input": text(i), "dimensions": i})),
            _ => ("/embed", json!({"inputs": text(i), "dimensions": 7, "truncate": true})),
        })
        .collect();
    let mut alone = Vec::new();
    for (path, body) in &requests {
        alone.push(server.ask(path, body.clone()).await);
    }
    let mut clients = JoinSet::new();
    for round in 0..4 {
        for (i, (path, body)) in requests.iter().enumerate() {
            let (server, path, body) = (server.clone(), *path, body.clone());
            clients.spawn(async move { (round, i, server.ask(path, body).await) });
        }
    }
    for (round, i, answer) in clients.join_all().await {
        assert_eq!(answer, alone[i], "round {round}, request {i}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_answers_what_is_under_way() {
    let (server, held) = slow(&[]).await;
    let (address, client) = (server.address, server.client.clone());
    let mut clients = JoinSet::new();
    for i in 0..6 {
        let request =
            client.post(server.url("/embed")).json(&json!({"inputs": [format!("text {i}"), "more"]}));
        clients.spawn(async move { request.send().await.unwrap().status() });
    }
    server.wait_for("te_embed_count", 12.0).await;
    let (stopped, begin) = (tokio::spawn(server.stop()), Instant::now());
    while TcpStream::connect(address).await.is_ok() {
        assert!(begin.elapsed() < PATIENCE, "the server still listens");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    held.release();
    stopped.await.unwrap();
    let statuses = clients.join_all().await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_does_not_keep_the_server() {
    let server = Server::mock(json!({}), &[]).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /health HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    tokio::time::timeout(Duration::from_secs(10), server.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_unknown_length_has_the_same_limit() {
    let server = Server::mock(json!({}), &["--payload-limit", "100"]).await;
    for (size, status) in [(10, "200"), (1000, "413")] {
        let body = json!({"inputs": "a".repeat(size)}).to_string();
        let mut client = TcpStream::connect(server.address).await.unwrap();
        let head = "POST /embed HTTP/1.1\r\nhost: h\r\ncontent-type: application/json; charset=utf-8\r\n\
                    connection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        let request = format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{size}: {answer}");
    }
    server.stop().await;
}
