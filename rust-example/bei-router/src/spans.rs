//! Spans of requests, for traces. Without an exporter none is made.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::{HeaderMap, Method, StatusCode};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::timing::Timing;

/// The target of all spans here; others', such as those of HTTP/2, are not exported.
pub const TARGET: &str = "bei_router::spans";

/// Longest time that the last spans may take at the end.
const FLUSH: Duration = Duration::from_secs(3);

static ON: AtomicBool = AtomicBool::new(false);

/// Whether spans are exported.
pub fn on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// What exports spans; dropping it sends the last ones.
pub struct Exporter(SdkTracerProvider);

impl Exporter {
    /// Exports over OTLP/gRPC to `endpoint`, such as http://localhost:4317. Must be called within the runtime. The sampler is that of
    /// the variable OTEL_TRACES_SAMPLER, or, by default, the caller's decision, and always where there is none.
    pub fn new(endpoint: &str, service: &str) -> Result<Exporter, String> {
        if !endpoint.starts_with("http://") {
            return Err(format!(
                "--otlp-endpoint is {endpoint:?}; it must begin with http://, as http://localhost:4317"
            ));
        }
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build()
            .map_err(|error| format!("--otlp-endpoint is {endpoint:?}: {error}"))?;
        let resource = Resource::builder().with_service_name(service.to_string()).build();
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        ON.store(true, Ordering::Relaxed);
        Ok(Exporter(provider))
    }

    /// What makes spans.
    pub fn provider(&self) -> &SdkTracerProvider {
        &self.0
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH) {
            tracing::warn!("the last spans were not exported: {error}");
        }
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

/// The span of a request. It continues the trace of the header traceparent.
pub fn request(method: &Method, path: &str, id: &str, headers: &HeaderMap) -> Span {
    // What nobody serves can have any path, and a name is for all requests of a kind.
    let name = if path.len() <= 64 { format!("{method} {path}") } else { method.to_string() };
    let span = tracing::info_span!(
        target: TARGET, "request",
        otel.name = name, otel.kind = "server", otel.status_code = Empty,
        http.request.method = %method, url.path = path, http.response.status_code = Empty,
        request_id = id, tokens = Empty,
        total_time = Empty, tokenization_time = Empty, queue_time = Empty, inference_time = Empty,
    );
    if headers.contains_key("traceparent") {
        let parent = TraceContextPropagator::new().extract(&Headers(headers));
        // An error says that the span is disabled.
        let _ = span.set_parent(parent);
    }
    span
}

/// Puts what a request cost into its span, under the family's names.
pub fn record(timing: &Timing) {
    let span = Span::current();
    span.record("tokens", timing.tokens);
    for (name, time) in [
        ("total_time", timing.start.elapsed()),
        ("tokenization_time", timing.tokenization),
        ("queue_time", timing.queue),
        ("inference_time", timing.inference),
    ] {
        span.record(name, tracing::field::debug(time));
    }
}

/// Puts the outcome into a request's span.
pub fn answered(span: &Span, status: StatusCode, failed: bool) {
    span.record("http.response.status_code", status.as_u16());
    if failed || status.is_server_error() || status == StatusCode::FAILED_DEPENDENCY {
        span.record("otel.status_code", "ERROR");
    }
}
