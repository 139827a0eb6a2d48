//! Faults of the engine: only the culprit's caller gets an error, health and metrics say so, and the server recovers or ends.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bei_router::End;
use common::held::Held;
use common::{PATIENCE, Server, minilm};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// A server with the mock engine and options of the library.
async fn serve(mut options: Value, more: &[&str]) -> Arc<Server> {
    options["log"] = json!({"level": "off"});
    let (options, model) = (options.to_string(), minilm());
    let flags = ["--model-id", &model, "--engine", "mock", "--bei-options", &options];
    let flags: Vec<String> = flags.iter().chain(more).map(|flag| flag.to_string()).collect();
    Arc::new(Server::start(&flags).await)
}

/// A server whose engine has faults. Its start takes runs 1 to 4.
async fn faulty(faults: Value, slots: usize, more: &[&str]) -> Arc<Server> {
    serve(json!({"mock": {"faults": faults}, "slots": slots}), more).await
}

/// How a server ends that a request brings down. The answer may not come any more.
async fn end_of(server: Arc<Server>) -> End {
    let request = server.client.post(server.url("/embed")).json(&json!({"inputs": "a"}));
    let _ = request.send().await;
    tokio::time::timeout(PATIENCE, Arc::into_inner(server).unwrap().end()).await.unwrap()
}

async fn health(server: &Server) -> u16 {
    server.get("/health").await.status().as_u16()
}

/// Sends requests at once, and returns status and body of each.
async fn all(server: &Arc<Server>, bodies: Vec<Value>) -> Vec<(u16, Value)> {
    let mut clients = JoinSet::new();
    for (i, body) in bodies.into_iter().enumerate() {
        let server = server.clone();
        clients.spawn(async move {
            let (status, answer) = server.post("/embed", body).await;
            (i, status.as_u16(), answer)
        });
    }
    let mut answers = clients.join_all().await;
    answers.sort_by_key(|&(i, ..)| i);
    answers.into_iter().map(|(_, status, answer)| (status, answer)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_culprit_of_a_batch_fails() {
    for (kind, status, part) in [("bad_item", 424, "token 666"), ("nan", 424, "NaN")] {
        // The first request's run is held, so that the others wait and make one batch.
        let held = Held::new();
        let faults = json!([held.fault("slow", 5), {"kind": kind, "token_id": 666}]);
        let server = faulty(faults, 1, &[]).await;
        let busy = server.clone();
        let first = tokio::spawn(async move { busy.embed(json!([[7]])).await });
        server.wait_for("te_batch_next_size_count", 1.0).await;
        let bodies = (0..16).map(|i| json!({"inputs": if i == 5 { [101, 666] } else { [101, 700 + i] }}));
        let release = async {
            server.wait_for("te_queue_size", 16.0).await;
            held.release();
        };
        let (answers, ()) = tokio::join!(all(&server, bodies.collect()), release);
        first.await.unwrap();
        assert_eq!(server.metric("te_batch_next_size_count").await, 2.0, "{kind}");
        for (i, (got, answer)) in answers.iter().enumerate() {
            if i == 5 {
                assert_eq!((*got, &answer["error_type"]), (status, &json!("Backend")), "{kind}: {answer}");
                assert!(answer["error"].as_str().unwrap().contains(part), "{kind}: {answer}");
            } else {
                assert_eq!(*got, 200, "{kind} {i}: {answer}");
            }
        }
        assert_eq!(server.metric("te_request_failure{err=\"inference\"}").await, 1.0, "{kind}");
        assert_eq!(server.metric("bei_router_lane_healthy{lane=\"main\"}").await, 1.0, "{kind}");
        assert_eq!(health(&server).await, 200, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_run_and_a_panic_cost_nobody_else() {
    for kind in ["error", "panic"] {
        let server = faulty(json!([{"kind": kind, "from": 5, "count": 1}]), 1, &[]).await;
        let (status, answer) = server.post("/embed", json!({"inputs": "a"})).await;
        assert_eq!((status.as_u16(), &answer["error_type"]), (424, &json!("Backend")), "{kind}: {answer}");
        assert_eq!(server.embed(json!("a")).await.len(), 1, "{kind}");
        assert_eq!(health(&server).await, 200, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_call_is_given_up_and_its_slot_comes_back() {
    // The library lets go of a hung run later than any stall lasts, and of a stuck one never.
    for (kind, limit) in [("hung", 6000), ("stuck", 600_000)] {
        let held = Held::new();
        let fault = match kind {
            "stuck" => held.fault(kind, 5),
            _ => json!({"kind": kind, "from": 5, "count": 1}),
        };
        let options = json!({"mock": {"faults": [fault]}, "slots": 2, "run_timeout_ms": limit});
        let server = serve(options, &["--engine-timeout-ms", "300"]).await;
        let (status, answer) = server.post("/embed", json!({"inputs": "a"})).await;
        assert_eq!((status.as_u16(), &answer["error_type"]), (503, &json!("Unhealthy")), "{kind}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains("engine_timeout_ms"), "{kind}: {answer}");
        assert_eq!(server.metric("bei_router_hung_calls_total").await, 1.0, "{kind}");
        if kind == "stuck" {
            assert_eq!(health(&server).await, 503);
            for (name, value) in [
                ("bei_router_lane_healthy{lane=\"main\"}", 0.0),
                ("bei_router_slots_in_use{lane=\"main\"}", 1.0),
            ] {
                assert_eq!(server.metric(name).await, value, "{name}");
            }
        }
        // The other slot serves.
        assert_eq!(server.embed(json!("b")).await.len(), 1, "{kind}");
        held.release();
        server.wait_for("bei_router_lane_healthy{lane=\"main\"}", 1.0).await;
        assert_eq!(server.metric("bei_router_slots_in_use{lane=\"main\"}").await, 0.0, "{kind}");
        assert_eq!(health(&server).await, 200, "{kind}");
        assert_eq!(server.embed(json!("a")).await.len(), 1, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_hangs_those_who_wait_are_told_and_the_server_ends() {
    let options = json!({"mock": {"faults": [{"kind": "hung", "from": 5}]}, "run_timeout_ms": 600_000});
    let server = serve(options.clone(), &["--engine-timeout-ms", "300", "--unhealthy-exit-ms", "0"]).await;
    let answers = all(&server, (0..8).map(|i| json!({"inputs": [[100 + i]]})).collect()).await;
    for (status, answer) in answers {
        assert_eq!((status, &answer["error_type"]), (503, &json!("Unhealthy")), "{answer}");
    }
    let server = serve(options, &["--engine-timeout-ms", "300", "--unhealthy-exit-ms", "300"]).await;
    assert_eq!(end_of(server).await, End::Hung);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_engine_is_told_and_ends_the_server() {
    let lost = json!([{"kind": "lost", "from": 5}]);
    let server = faulty(lost.clone(), 1, &["--unhealthy-exit-ms", "0"]).await;
    let answers = all(&server, (0..4).map(|i| json!({"inputs": [[100 + i], [200 + i]]})).collect()).await;
    for (status, answer) in answers {
        assert_eq!((status, &answer["error_type"]), (503, &json!("Unhealthy")), "{answer}");
        assert!(answer["error"].as_str().unwrap().contains("lost"), "{answer}");
    }
    assert_eq!(health(&server).await, 503);
    assert_eq!(server.metric("bei_router_lane_healthy{lane=\"main\"}").await, 0.0);
    assert!(server.metric("bei_router_requeued_total").await >= 1.0);
    let server = faulty(lost, 1, &["--unhealthy-exit-ms", "300"]).await;
    assert_eq!(end_of(server).await, End::Lost);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_slots_work_at_once() {
    let held = Held::new();
    let server = faulty(json!([held.fault("slow", 5), held.fault("slow", 6)]), 2, &[]).await;
    let one = server.clone();
    let first = tokio::spawn(async move { one.embed(json!([[7]])).await });
    server.wait_for("bei_router_slots_in_use{lane=\"main\"}", 1.0).await;
    let two = server.clone();
    let second = tokio::spawn(async move { two.embed(json!([[8]])).await });
    server.wait_for("bei_router_slots_in_use{lane=\"main\"}", 2.0).await;
    // The router's slots are the library's.
    server.wait_for("bei_slots_busy", 2.0).await;
    held.release();
    assert_eq!((first.await.unwrap().len(), second.await.unwrap().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_are_kept_also_while_no_slot_is_free() {
    let held = Held::new();
    let server = faulty(json!([held.fault("slow", 5)]), 1, &[]).await;
    let busy = server.clone();
    let first = tokio::spawn(async move { busy.embed(json!([[7]])).await });
    server.wait_for("te_batch_next_size_count", 1.0).await;
    let ask = async |name: &str, value: String| {
        let request = server.client.post(server.url("/embed")).header(name, value);
        let response = request.json(&json!({"inputs": [[8], [9]]})).send().await.unwrap();
        let retry = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_string());
        (response.status().as_u16(), retry, response.json::<Value>().await.unwrap())
    };
    let soon = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() + 200;
    for (name, value) in [
        ("request-timeout-ms", "200".to_string()),
        ("request-deadline-ms", soon.to_string()),
        ("request-timeout-ms", "0".to_string()),
        ("request-deadline-ms", "1000".to_string()),
    ] {
        let (status, retry, answer) = ask(name, value).await;
        assert_eq!((status, &answer["error_type"]), (429, &json!("Overloaded")), "{name}: {answer}");
        assert!(retry.is_some_and(|retry| retry.parse::<u64>().unwrap() >= 1), "{name}");
    }
    for (name, value, part) in [
        ("request-timeout-ms", "soon", "request-timeout-ms"),
        ("request-deadline-ms", "-1", "request-deadline-ms"),
        ("x-request-priority", "urgent", "low, normal or high"),
    ] {
        let (status, _, answer) = ask(name, value.to_string()).await;
        assert_eq!(status, 422, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(part), "{answer}");
    }
    held.release();
    first.await.unwrap();
    assert_eq!(ask("request-timeout-ms", "60000".to_string()).await.0, 200);
    let shed: f64 = server.metric("bei_router_shed_total{cause=\"expired\"}").await
        + server.metric("bei_router_shed_total{cause=\"deadline\"}").await;
    assert_eq!(shed, 8.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_long_a_queue_refuses_and_says_when_to_come_again() {
    // The first batch is held, and the one after that of high priority.
    let (first_run, third_run) = (Held::new(), Held::new());
    let faults = [first_run.fault("slow", 5), third_run.fault("slow", 7)];
    let options = json!({"mock": {"us_per_token": 1000, "faults": faults}, "best_tokens": 100});
    let begin = Instant::now();
    let server = serve(options, &["--max-queue-wait-ms", "500"]).await;
    let started = begin.elapsed().as_secs_f64();
    // Two seconds of work of different inputs.
    let many: Vec<Value> = (0..20).map(|i| json!(vec![200 + i; 100])).collect();
    let busy = server.clone();
    let first = tokio::spawn(async move { busy.embed(json!(many)).await.len() });
    server.wait_for("te_queue_size", 19.0).await;
    let predicted = "bei_router_predicted_wait_seconds{lane=\"main\"}";
    // It stands still when the first run has taken what was predicted of it.
    let (mut before, mut wait) = (f64::INFINITY, server.metric(predicted).await);
    while wait < before {
        tokio::time::sleep(Duration::from_millis(20)).await;
        (before, wait) = (wait, server.metric(predicted).await);
    }
    // What the warm-up has taught, which no stall makes less, and no more than it took for each batch.
    assert!((1.9..20.0 * started).contains(&wait), "{wait}");
    let low = server.client.post(server.url("/embed")).header("x-request-priority", "low");
    let response = low.json(&json!({"inputs": vec![300; 100]})).send().await.unwrap();
    let retry: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(retry, wait.ceil() as u64);
    // One of high priority goes before what waits.
    let high = server.client.post(server.url("/embed")).header("x-request-priority", "high");
    let high = tokio::spawn(high.json(&json!({"inputs": "a"})).send());
    server.wait_for("te_queue_size", 20.0).await;
    first_run.release();
    assert_eq!(high.await.unwrap().unwrap().status(), 200);
    assert!(server.metric("te_batch_next_size_count").await <= 3.0);
    third_run.release();
    assert_eq!(first.await.unwrap(), 20);
    assert_eq!(server.metric("bei_router_shed_total{cause=\"wait\"}").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_inputs_are_computed_once() {
    let held = Held::new();
    let server = faulty(json!([held.fault("slow", 5)]), 1, &[]).await;
    let bodies = (0..10).map(|_| json!({"inputs": [[5, 6], [7], [5, 6]]})).collect();
    let release = async {
        server.wait_for("bei_router_items_total", 30.0).await;
        held.release();
    };
    let (answers, ()) = tokio::join!(all(&server, bodies), release);
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer.0 == 200));
    assert_eq!(answers[0].1[0], answers[0].1[2]);
    assert_eq!(server.metric("bei_router_items_total").await, 30.0);
    assert_eq!(server.metric("te_batch_next_size_sum").await, 2.0);
    assert_eq!(server.metric("bei_router_dedupe_hits_total").await, 28.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_engine_spills_short_requests() {
    // The comparison of the engines is run 5, the first request's run 6.
    let held = Held::new();
    let options =
        json!({"mock": {"us_per_token": 1000, "faults": [held.fault("slow", 7)]}, "best_tokens": 100});
    let fast = json!({"mock": {"us_per_token": 0}}).to_string();
    let flags = [
        "--spill-engine",
        "mock",
        "--spill-options",
        &fast,
        "--spill-max-tokens",
        "16",
        "--spill-wait-ms",
        "50",
    ];
    let server = serve(options, &flags).await;
    let alone = server.embed(json!([[5, 6, 7]])).await;
    assert_eq!(server.metric("bei_router_spilled_total").await, 0.0);
    let busy = server.clone();
    let many: Vec<Value> = (0..10).map(|i| json!(vec![200 + i; 100])).collect();
    let first = tokio::spawn(async move { busy.embed(json!(many)).await.len() });
    server.wait_for("te_queue_size", 9.0).await;
    assert_eq!(server.embed(json!([[5, 6, 7]])).await, alone);
    assert_eq!(server.metric("bei_router_spilled_total").await, 1.0);
    held.release();
    assert_eq!(first.await.unwrap(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_engine_leaves_its_work_to_the_second_one() {
    // The comparison of the engines is run 5 of the first one.
    let lost = json!({"mock": {"faults": [{"kind": "lost", "from": 6}]}});
    let fine = json!({"mock": {"faults": []}}).to_string();
    let server = serve(lost, &["--spill-engine", "mock", "--spill-options", &fine]).await;
    for i in 0..3 {
        assert_eq!(server.embed(json!([[5 + i]])).await.len(), 1);
    }
    assert_eq!(server.metric("bei_router_lane_healthy{lane=\"main\"}").await, 0.0);
    assert_eq!(server.metric("bei_router_lane_healthy{lane=\"spill\"}").await, 1.0);
    assert_eq!(server.metric("bei_router_requeued_total").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_that_differ_are_refused() {
    let model = minilm();
    let flags = ["--model-id", &model, "--engine", "mock", "--spill-engine", "onnxruntime", "--port", "0"];
    let flags: Vec<String> = flags.iter().map(|flag| flag.to_string()).collect();
    let error = Server::try_start(&flags).await.err().unwrap().to_string();
    assert!(error.contains("--spill-engine") && error.contains("cosine"), "{error}");
}
