//! Clients that are slow, silent, or ask for much: what each may take, and that others are served meanwhile.

mod common;

use std::time::{Duration, Instant};

use bei_proto::tei::v1::EmbedRequest;
use bei_proto::tei::v1::embed_client::EmbedClient;
use common::child::{address, lines, program, signal, wait, wait_for};
use common::{Server, mock_flags};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};

/// Longer than a machine stalls.
const LONG: Duration = Duration::from_secs(60);

fn head(path: &str, length: usize, more: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{more}\r\n"
    )
}

/// Reads one reply with a content-length: its status and its body.
async fn reply(client: &mut TcpStream) -> (u16, String) {
    let read = async {
        let mut text = Vec::new();
        loop {
            assert!(
                client.read_buf(&mut text).await.unwrap() > 0,
                "closed: {}",
                String::from_utf8_lossy(&text)
            );
            let so_far = String::from_utf8_lossy(&text).into_owned();
            let Some((head, body)) = so_far.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if body.len() >= length.parse().unwrap() {
                return (head[9..12].parse().unwrap(), body.to_string());
            }
        }
    };
    timeout(LONG, read).await.unwrap()
}

/// A file that a run of the mock engine waits for, and the fault.
fn held(name: &str, run: u32) -> (std::path::PathBuf, Value) {
    let file =
        std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&file);
    let fault = json!({"kind": "slow", "until_file": file, "from": run, "count": 1});
    (file, json!({"faults": [fault]}))
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_that_nobody_reads_are_bounded() {
    let server = Server::mock(json!({}), &["--max-replies-mib", "16"]).await;
    let inputs = json!({"inputs": vec![[7]; 8000]}); // some 36 MB of JSON, more than a connection's buffers hold
    for (path, large) in [("/embed", inputs.clone()), ("/vertex", json!({"instances": [inputs]}))] {
        let body = large.to_string();
        let mut client = TcpStream::connect(server.address).await.unwrap();
        client.write_all((head(path, body.len(), "") + &body).as_bytes()).await.unwrap();
        client.read_exact(&mut [0; 100]).await.unwrap();

        let refused = server.send(path, body.clone()).await;
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()["retry-after"]),
            (429, &"1".parse().unwrap())
        );
        let error = refused.json::<Value>().await.unwrap()["error"].as_str().unwrap().to_string();
        assert!(error.ends_with("too many large replies are being sent"), "{error}");
        server.embed(json!("small")).await;
        drop(client);
        let start = Instant::now();
        while server.send(path, body.clone()).await.error_for_status().is_err() {
            assert!(start.elapsed() < LONG, "its room is not given back");
        }
    }
    server.stop().await;
}

/// Whether the server closes a connection, reading what it still says.
async fn is_closed(mut client: TcpStream) -> bool {
    let rest = async {
        let mut buffer = [0; 1024];
        while client.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    };
    timeout(LONG, rest).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_ask_for_nothing_are_closed() {
    let (file, script) = held("idle", 5);
    let server = Server::mock(script, &["--idle-timeout-ms", "1500"]).await;
    let body = r#"{"inputs": "a"}"#;
    let mut working = TcpStream::connect(server.address).await.unwrap();
    working.write_all((head("/embed", body.len(), "") + body).as_bytes()).await.unwrap();
    for start in
        ["", "PRI * HTTP/2", "POST /embed HTTP/1.1\r\nhost:", "GET /health/live HTTP/1.1\r\nhost: h\r\n\r\n"]
    {
        let mut client = TcpStream::connect(server.address).await.unwrap();
        client.write_all(start.as_bytes()).await.unwrap();
        assert!(is_closed(client).await, "{start:?}");
    }
    // Work may take longer.
    std::fs::write(&file, "").unwrap();
    assert_eq!(reply(&mut working).await.0, 200);
    assert!(is_closed(working).await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_head_does_not_keep_a_server_from_ending() {
    let server = Server::mock(json!({}), &[]).await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    client.write_all(b"POST /embed HTTP/1.1\r\nhost:").await.unwrap();
    sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    server.stop().await;
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_drip_are_given_up() {
    let server = Server::mock(json!({}), &["--body-timeout-ms", "1500"]).await;
    let client = TcpStream::connect(server.address).await.unwrap();
    let (mut read, mut write) = client.into_split();
    write.write_all(head("/embed", 100_000, "connection: close\r\n").as_bytes()).await.unwrap();
    let drip = tokio::spawn(async move {
        while write.write_all(b" ").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    });
    let mut text = [0; 12];
    timeout(LONG, read.read_exact(&mut text)).await.unwrap().unwrap();
    assert_eq!(std::str::from_utf8(&text).unwrap(), "HTTP/1.1 408");
    drop(read);
    timeout(LONG, drip).await.unwrap().unwrap();
    server.stop().await;
}

/// Sends a request slowly, which is refused for its headers or the server's state, and one more on the same connection.
async fn upload_twice(address: &str, path: &str, more: &str, status: u16, after: u16) {
    let body = format!(r#"{{"inputs": "{}"}}"#, "a ".repeat(400_000));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(head(path, body.len(), more).as_bytes()).await.unwrap();
    for part in body.as_bytes().chunks(body.len() / 3) {
        sleep(Duration::from_millis(100)).await;
        client.write_all(part).await.unwrap();
    }
    assert_eq!(reply(&mut client).await.0, status, "{path}");
    let small = r#"{"inputs": "a"}"#;
    client.write_all((head("/embed", small.len(), "") + small).as_bytes()).await.unwrap();
    assert_eq!(reply(&mut client).await.0, after, "{path}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_refused_is_read_first() {
    let server = Server::mock(json!({}), &[]).await;
    let wrong = "x-request-priority: highest\r\n";
    for path in [
        "/embed",
        "/embed_all",
        "/embed_sparse",
        "/embed_outputs",
        "/similarity",
        "/predict",
        "/predict_tokens",
        "/rerank",
        "/v1/rerank",
        "/v1/embeddings",
        "/",
        "/invocations",
        "/vertex",
    ] {
        upload_twice(&server.address.to_string(), path, wrong, 422, 200).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_too_early_is_read_first() {
    let (file, script) = held("start", 3);
    let mut child =
        program().args(mock_flags(script, &["--port", "0", "--hostname", "127.0.0.1"])).spawn().unwrap();
    let mut log = lines(&mut child);
    let starting = address(&wait_for(&mut log, "listening on "), "listening on ");
    upload_twice(&starting, "/embed", "", 503, 503).await;
    std::fs::write(&file, "").unwrap();
    wait_for(&mut log, "ready on ");
    signal(&child, "TERM");
    assert_eq!(wait(child), 0);
}

async fn channel(url: String) -> Channel {
    Endpoint::from_shared(url).unwrap().connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_error_quotes_is_cut() {
    let server = Server::mock(json!({}), &[]).await;
    let name = "é".repeat(10_000);
    let request = json!({"inputs": "a", "prompt_name": name});
    let (status, answer) = server.post("/embed", request).await;
    let message = answer["error"].as_str().unwrap();
    assert!(status == 422 && message.contains('é') && message.len() <= 2000, "{status} {}", message.len());
    let mut client = EmbedClient::new(channel(server.url("")).await);
    let request =
        EmbedRequest { inputs: "a".to_string(), prompt_name: Some(name), ..EmbedRequest::default() };
    let status = client.embed(request).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (tonic::Code::InvalidArgument, message));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_over_grpc_are_logged() {
    let bad = json!({"faults": [{"kind": "nan", "token_id": 7592}]}); // "hello"
    let more = ["--port", "0", "--hostname", "127.0.0.1", "--json-output"];
    let mut child = program().args(mock_flags(bad, &more)).spawn().unwrap();
    let mut log = lines(&mut child);
    let server = address(&wait_for(&mut log, "ready on "), "ready on ");
    let mut client = EmbedClient::new(channel(format!("http://{server}")).await);
    for (input, id, code) in
        [("", "mine-1", tonic::Code::InvalidArgument), ("hello", "mine-2", tonic::Code::FailedPrecondition)]
    {
        let mut request =
            tonic::Request::new(EmbedRequest { inputs: input.to_string(), ..EmbedRequest::default() });
        request.metadata_mut().insert("x-request-id", id.parse().unwrap());
        assert_eq!(client.embed(request).await.unwrap_err().code(), code);
    }
    drop(client);
    signal(&child, "TERM");
    let line: Value = serde_json::from_str(&wait_for(&mut log, "mine-")).unwrap();
    let fields = &line["fields"];
    assert_eq!((&line["level"], &fields["request_id"]), (&json!("ERROR"), &json!("mine-2")));
    assert!(fields["message"].as_str().unwrap().contains("inputs: "), "{line}");
    assert_eq!(wait(child), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_texts_is_tokenized() {
    let server = Server::mock(json!({"dimensions": 2}), &[]).await;
    let n = 70_000;
    let mut texts = vec![json!("a"); n];
    let tokens = server.ask("/tokenize", json!({"inputs": texts})).await;
    assert_eq!(tokens.as_array().unwrap().len(), n);
    assert_eq!(tokens[n - 1], tokens[0]);
    let outputs = server.ask("/embed_outputs", json!({"inputs": texts, "outputs": ["tokens"]})).await;
    assert_eq!(outputs.as_array().unwrap().len(), n);
    assert_eq!(outputs[n - 1], outputs[0]);
    let ids = server.ask("/decode", json!({"ids": vec![[7592]; n]})).await;
    assert_eq!((ids.as_array().unwrap().len(), &ids[n - 1]), (n, &json!("hello")));

    texts[n - 1] = json!("");
    for (path, body) in [
        ("/tokenize", json!({"inputs": texts})),
        ("/embed_outputs", json!({"inputs": texts, "outputs": ["tokens"]})),
    ] {
        let (status, answer) = server.post(path, body).await;
        let error = answer["error"].as_str().unwrap();
        assert!(status == 400 && error.starts_with("inputs[69999]: "), "{path}: {error}");
    }
    server.stop().await;
}
