//! Large requests leave room for others, and find it themselves.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
async fn the_parts_of_a_request_share_its_numbers() {
    let server = Server::mock(json!({}), &["--max-reply-numbers", "1000"]).await;
    let instance = json!({"inputs": [[1000], [2000]]}); // 768 numbers
    server.ask("/vertex", json!({"instances": [instance]})).await;
    let (status, answer) = server.post("/vertex", json!({"instances": [instance, instance]})).await;
    assert_eq!((status.as_u16(), &answer["error_type"]), (422, &json!("Validation")), "{answer}");
    assert!(
        answer["error"].as_str().unwrap().contains("would hold 1536 numbers, and may hold 1000"),
        "{answer}"
    );
    let texts = json!({"inputs": ["a", "b"], "outputs": ["pooled", "spans"], "spans": [[[0, 1]], [[0, 1]]]});
    assert_eq!(server.post("/embed_outputs", texts).await.0, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_request_find_room_beside_others() {
    let server =
        Arc::new(Server::mock(json!({"run_us": 1000.0}), &["--max-concurrent-requests", "16"]).await);
    let stop = Arc::new(AtomicBool::new(false));
    let others: Vec<_> = (0..12)
        .map(|i| {
            let (server, stop) = (server.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    server.embed(json!([[100 + i]])).await;
                }
            })
        })
        .collect();
    for round in 0..20 {
        let instances = json!([{"inputs": format!("{round} a")}, {"inputs": format!("{round} b")}]);
        server.ask("/vertex", json!({"instances": instances})).await;
    }
    stop.store(true, Ordering::Relaxed);
    for other in others {
        other.await.unwrap();
    }
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
