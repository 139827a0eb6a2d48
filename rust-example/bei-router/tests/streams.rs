//! Streams whose clients do not read cost nobody else anything.

mod common;

use std::time::Duration;

use bei_proto::tei::v1::EmbedRequest;
use bei_proto::tei::v1::embed_client::EmbedClient;
use common::Server;
use futures_util::stream::{self, StreamExt};
use serde_json::json;
use tonic::transport::Endpoint;

fn requests(of: &str, n: usize) -> impl StreamExt<Item = EmbedRequest> + Send + use<> {
    let texts: Vec<String> = (0..n).map(|i| format!("{of} {i}")).collect();
    stream::iter(texts.into_iter().map(|inputs| EmbedRequest { inputs, ..EmbedRequest::default() }))
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
