//! Traces, as a collector gets them.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::child::{address, lines, program, signal, wait, wait_for};
use common::mock_flags;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::trace::v1::Span;
use reqwest::Client;
use serde_json::json;
use tokio::sync::mpsc;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// Hands on what is exported.
struct Collector(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let _ = self.0.send(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collector() -> (SocketAddr, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Collector(sender)));
    tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
    (address, receiver)
}

fn attribute(span: &Span, key: &str) -> String {
    let value = span.attributes.iter().find(|attribute| attribute.key == key);
    match value.and_then(|attribute| attribute.value.clone()).and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Serves some requests and returns the spans that were exported, and the name of their service.
async fn exported(sampler: Option<&str>) -> Vec<Span> {
    let (endpoint, mut requests) = collector().await;
    let endpoint = format!("http://{endpoint}");
    let more = [
        "--port",
        "0",
        "--hostname",
        "127.0.0.1",
        "--otlp-endpoint",
        &endpoint,
        "--otlp-service-name",
        "mine",
    ];
    let bad = json!({"faults": [{"kind": "nan", "token_id": 7592}]}); // "hello"
    let mut command = program();
    command.args(mock_flags(bad, &more)).env_remove("OTEL_TRACES_SAMPLER");
    if let Some(sampler) = sampler {
        command.env("OTEL_TRACES_SAMPLER", sampler);
    }
    let mut child = command.spawn().unwrap();
    let mut log = lines(&mut child);
    let server = address(&wait_for(&mut log, "ready on "), "ready on ");
    for (input, id, traceparent) in [
        ("a", "sampled", format!("00-{TRACE}-{PARENT}-01")),
        ("a", "not-sampled", format!("00-{TRACE}-{PARENT}-00")),
        ("a", "alone", String::new()),
        ("hello", "failed", String::new()),
    ] {
        let mut request =
            Client::new().post(format!("http://{server}/embed")).json(&json!({"inputs": input}));
        request = request.header("x-request-id", id);
        if !traceparent.is_empty() {
            request = request.header("traceparent", traceparent);
        }
        request.send().await.unwrap();
    }
    signal(&child, "TERM");
    wait_for(&mut log, "stopped");
    assert_eq!(wait(child), 0);
    let mut spans = Vec::new();
    while let Ok(Some(request)) = tokio::time::timeout(Duration::from_millis(300), requests.recv()).await {
        for resource in request.resource_spans {
            let of = resource.resource.unwrap();
            let service = of.attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
            assert!(format!("{service:?}").contains("mine"));
            spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    spans.retain(|span| !attribute(span, "request_id").contains("None"));
    spans
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_in_its_callers_trace() {
    let spans = exported(None).await;
    let of = |id: &str| spans.iter().find(|span| attribute(span, "request_id") == id);
    assert_eq!(spans.len(), 3, "{spans:?}");
    assert!(of("not-sampled").is_none());
    let span = of("sampled").unwrap();
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_string(), PARENT.to_string()));
    assert_eq!(span.name, "POST /embed");
    assert_eq!(attribute(span, "http.response.status_code"), "200");
    assert_eq!(attribute(span, "tokens"), "3");
    for time in ["total_time", "tokenization_time", "queue_time", "inference_time"] {
        assert!(attribute(span, time).ends_with('s'), "{time}: {span:?}");
    }
    let alone = of("alone").unwrap();
    assert!(alone.parent_span_id.is_empty() && hex(&alone.trace_id) != TRACE);
    let failed = of("failed").unwrap();
    assert_eq!(
        (failed.status.as_ref().unwrap().code, attribute(failed, "http.response.status_code")),
        (2, "424".to_string())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sampler_is_the_environments() {
    assert!(exported(Some("always_off")).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_costs_nothing_but_a_line() {
    let more = ["--port", "0", "--hostname", "127.0.0.1", "--otlp-endpoint", "http://127.0.0.1:9"];
    let mut child = program().args(mock_flags(json!({}), &more)).spawn().unwrap();
    let mut log = lines(&mut child);
    let server = address(&wait_for(&mut log, "ready on "), "ready on ");
    let request = Client::new().post(format!("http://{server}/embed")).json(&json!({"inputs": "a"}));
    assert_eq!(request.send().await.unwrap().status(), 200);
    signal(&child, "TERM");
    assert_eq!(wait(child), 0);
}
