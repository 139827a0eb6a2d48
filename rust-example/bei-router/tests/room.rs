//! Large requests leave room for others, and find it themselves.

mod common;

use std::sync::Arc;

use common::Server;
use serde_json::{Value, json};

/// Lists of one token each, no two alike.
fn ids(from: u32, n: u32) -> Value {
    json!((from..from + n).map(|id| [id]).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_batch_leaves_room_for_others() {
    let release = std::env::temp_dir().join(format!("bei-room-{}", std::process::id()));
    let held = json!([{"kind": "slow", "until_file": release, "from": 5}]);
    let server = Arc::new(Server::mock(json!({"faults": held}), &[]).await);
    let mut asked = Vec::new();
    for (from, n, under_way) in [(1000, 2000, 2000.0), (5000, 1, 2001.0)] {
        let asking = server.clone();
        asked.push(tokio::spawn(async move { asking.embed(ids(from, n)).await.len() }));
        server.wait_for("bei_router_inputs_under_way", under_way).await;
    }
    std::fs::write(&release, "").unwrap();
    let mut answered = Vec::new();
    for asked in asked {
        answered.push(asked.await.unwrap());
    }
    std::fs::remove_file(&release).unwrap();
    assert_eq!(answered, [2000, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_request_wait_for_each_other() {
    let server = Server::mock(json!({"run_us": 1000.0}), &["--max-concurrent-requests", "4"]).await;
    let texts: Vec<String> = (0..40).map(|i| format!("text {i}")).collect();
    let spans = vec![[[0, 4]]; texts.len()];
    let outputs = json!({"inputs": texts, "outputs": ["pooled", "spans"], "spans": spans});
    assert_eq!(server.ask("/embed_outputs", outputs).await.as_array().unwrap().len(), 40);
    let instances: Vec<Value> = texts.iter().map(|text| json!({"inputs": text})).collect();
    let answer = server.ask("/vertex", json!({"instances": instances})).await;
    assert_eq!(answer["predictions"].as_array().unwrap().len(), 40);
}
