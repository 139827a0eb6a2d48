//! What every request passes first: its id, its span, the health of a server that may not have its model yet, and its line in the log.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Json;
use axum::extract::Request;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tonic::{Code, Status};
use tower_service::Service;
use tracing::Instrument;

use crate::body;
use crate::failure::Told;
use crate::lifecycle::{Lifecycle, NotReady};
use crate::request_id::RequestId;
use crate::spans;

/// Routes that tell whether the process lives. They are the front's: there is nothing to live for without it.
const LIVE: [&str; 2] = ["/health/live", "/v1/health/live"];
/// Routes that tell whether requests are answered: the model is open, warm, held to its manifest, and the last batch went well.
const READY: [&str; 2] = ["/health/ready", "/v1/health/ready"];
/// The family's, which mean the same.
const HEALTH: [&str; 3] = ["/health", "/ping", "/"];

macro_rules! access {
    ($level:expr, $id:expr, $method:expr, $uri:expr, $response:expr, $start:expr) => {
        tracing::event!(
            target: "access", $level,
            request_id = $id.text(), method = %$method, path = $uri.path(), status = $response.status().as_u16(),
            tokens = header($response.headers(), "x-compute-tokens"),
            total_ms = milliseconds($start),
            tokenization_ms = header($response.headers(), "x-tokenization-time"),
            queue_ms = header($response.headers(), "x-queue-time"),
            inference_ms = header($response.headers(), "x-inference-time"),
        )
    };
}
/// Answers requests from the first second on.
#[derive(Clone)]
pub struct Front {
    lifecycle: Arc<Lifecycle>,
    /// Lines of answered requests are at info, not debug.
    access_log: bool,
    /// The variable AIP_HEALTH_ROUTE.
    health_route: Option<Arc<str>>,
}

impl Front {
    pub fn new(lifecycle: Arc<Lifecycle>, access_log: bool) -> Front {
        let health_route = std::env::var("AIP_HEALTH_ROUTE").ok().map(Arc::from);
        Front { lifecycle, access_log, health_route }
    }

    async fn answer(&self, request: Request) -> Response {
        let (path, reads) = (request.uri().path(), matches!(*request.method(), Method::GET | Method::HEAD));
        if reads && LIVE.contains(&path) {
            return Json(json!({"status": "live"})).into_response();
        }
        let ready = READY.contains(&path);
        let health = reads && (ready || HEALTH.contains(&path) || self.health_route.as_deref() == Some(path));
        let Some(routes) = self.lifecycle.routes() else {
            // What is uploaded would else be cut off, and many clients would not see why.
            body::forget(request).await;
            return self.refuse(NotReady::Starting);
        };
        match self.lifecycle.not_ready() {
            Some(why) if health => return self.refuse(why),
            _ if reads && ready => return self.ready(routes.clone(), request).await,
            _ => {}
        }
        let Ok(response) = routes.clone().call(request).await;
        response
    }

    /// As /health, with a body.
    async fn ready(&self, mut routes: axum::Router, mut request: Request) -> Response {
        *request.uri_mut() = Uri::from_static("/health");
        let Ok(response) = routes.call(request).await;
        if response.status() != StatusCode::OK {
            return response;
        }
        Json(json!({"status": "ready"})).into_response()
    }

    fn refuse(&self, why: NotReady) -> Response {
        let mut response =
            (StatusCode::SERVICE_UNAVAILABLE, Json(self.lifecycle.refusal(why))).into_response();
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        response
    }

    /// One line for each request: at error where the server is at fault, at debug, or info by flag, otherwise.
    fn log(&self, id: &RequestId, method: &Method, uri: &Uri, response: &Response, start: Instant) {
        let status = response.status();
        if let Some(error) = fault(response) {
            tracing::error!(
                request_id = id.text(), %method, path = uri.path(), status = status.as_u16(),
                total_ms = milliseconds(start), "{error}"
            );
        } else if self.access_log {
            access!(tracing::Level::INFO, id, method, uri, response, start);
        } else if tracing::enabled!(target: "access", tracing::Level::DEBUG) {
            access!(tracing::Level::DEBUG, id, method, uri, response, start);
        }
    }
}

/// What the server or the model failed with. A gRPC call that failed has the status 200 and, unless it was a stream that had begun, its
/// own in a header.
fn fault(response: &Response) -> Option<String> {
    if let Some(Told(error)) = response.extensions().get() {
        return Some(error.clone());
    }
    let status = Status::from_header_map(response.headers())?;
    let server = matches!(
        status.code(),
        Code::Unknown | Code::FailedPrecondition | Code::Internal | Code::Unavailable
    );
    server.then(|| status.message().to_string())
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_micros() as f64 / 1000.0
}

/// A number that a route has put into its reply's headers.
fn header(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

impl Service<Request> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let front = self.clone();
        Box::pin(async move {
            let start = Instant::now();
            let id = RequestId::of(request.headers());
            let (method, uri) = (request.method().clone(), request.uri().clone());
            let mut response = if spans::on() {
                let span = spans::request(&method, uri.path(), id.text(), request.headers());
                let response = front.answer(request).instrument(span.clone()).await;
                spans::answered(&span, response.status(), fault(&response).is_some());
                response
            } else {
                front.answer(request).await
            };
            front.log(&id, &method, &uri, &response, start);
            id.echo(response.headers_mut());
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;
    use crate::grpc::messages::status;

    #[test]
    fn faults_of_the_server_are_told_whatever_the_protocol() {
        for (failure, faulty) in [
            (Failure::backend("défaut"), true),
            (Failure::unhealthy("défaut"), true),
            (Failure::validation("défaut"), false),
            (Failure::overloaded("défaut"), false),
        ] {
            let expected = faulty.then(|| failure.message.clone());
            assert_eq!(fault(&status(failure.clone()).into_http()), expected);
            assert_eq!(fault(&failure.into_response()), expected);
        }
        assert_eq!(fault(&StatusCode::NOT_FOUND.into_response()), None);
    }
}
