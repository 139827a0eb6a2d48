//! Streams whose clients do not read cost nobody else anything.

mod common;

use std::time::Duration;

use bei_proto::tei::v1::embed_client::EmbedClient;
use bei_proto::tei::v1::{EmbedAllRequest, EmbedRequest};
use common::Server;
use futures_util::stream::{self, StreamExt};
use serde_json::json;
use tonic::transport::Endpoint;

fn requests(of: &str, n: usize) -> impl StreamExt<Item = EmbedRequest> + Send + use<> {
    let texts: Vec<String> = (0..n).map(|i| format!("{of} {i}")).collect();
    stream::iter(texts.into_iter().map(|inputs| EmbedRequest { inputs, ..EmbedRequest::default() }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_read_is_computed_up_to_a_limit() {
    let server = Server::mock(json!({}), &[]).await;
    let endpoint = Endpoint::from_shared(server.url("")).unwrap();
    let mut embed = EmbedClient::new(endpoint.connect().await.unwrap());
    // Each answer has 200 vectors of 384 numbers: 0.3 MB.
    let all =
        |request: EmbedRequest| EmbedAllRequest { inputs: request.inputs, ..EmbedAllRequest::default() };
    let unread = embed.embed_all_stream(requests(&"word ".repeat(200), 400).map(all)).await.unwrap();
    server.wait_for_at_least("bei_router_items_total", 100.0).await;
    server.wait_for("bei_router_inputs_under_way", 0.0).await;
    for round in 0..20 {
        assert_eq!(server.embed(json!(format!("{round}"))).await.len(), 1);
    }
    let computed = server.metric("bei_router_items_total").await;
    assert!(computed < 300.0, "{computed}: 64 MiB are some 220 answers");
    let answers = unread.into_inner().collect::<Vec<_>>().await;
    assert_eq!(answers.into_iter().filter(Result::is_ok).count(), 400, "once it is read, all come");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_read_holds_nobody_back() {
    let server = Server::mock(json!({}), &["--max-concurrent-requests", "16"]).await;
    let mut unread = Vec::new();
    for client in 0..4 {
        // Room for no whole answer.
        let endpoint = Endpoint::from_shared(server.url("")).unwrap().initial_stream_window_size(512);
        let mut embed = EmbedClient::new(endpoint.connect().await.unwrap());
        unread.push(embed.embed_stream(requests(&format!("unread {client}"), 200)).await.unwrap());
    }
    let channel = Endpoint::from_shared(server.url("")).unwrap().connect().await.unwrap();
    for round in 0..20 {
        let mut embed = EmbedClient::new(channel.clone());
        let answers = embed.embed_stream(requests(&format!("read {round}"), 20));
        let answers = async { answers.await.unwrap().into_inner().collect::<Vec<_>>().await };
        let answers = tokio::time::timeout(Duration::from_secs(60), answers).await.unwrap();
        assert_eq!(answers.into_iter().filter(Result::is_ok).count(), 20);
    }
    server.wait_for("bei_router_inputs_under_way", 0.0).await;
    assert_eq!(server.embed(json!("a")).await.len(), 1);
    drop(unread);
}
