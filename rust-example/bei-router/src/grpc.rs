//! tei.v1, the family's gRPC services, on the port of the HTTP routes. They share with those everything but the shapes of messages.

mod embed;
mod health;
mod info;
pub mod messages;
mod predict;
mod rerank;
mod stream;
mod tokenize;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse;
use bei_proto::tei;
use bei_proto::tei::v1::embed_server::EmbedServer;
use bei_proto::tei::v1::info_server::InfoServer;
use bei_proto::tei::v1::predict_server::PredictServer;
use bei_proto::tei::v1::rerank_server::RerankServer;
use bei_proto::tei::v1::tokenize_server::TokenizeServer;
use tonic::Status;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tower_http::catch_panic::CatchPanicLayer;

use crate::app::{App, StartError};
use crate::auth::Keys;

/// The services behind one type.
#[derive(Clone)]
pub struct Services {
    app: Arc<App>,
    /// Messages of one stream that are under way at once.
    parallel: usize,
}

/// What the variable GRPC_MAX_PARALLEL_STREAM_REQUESTS may hold: messages of one stream that are under way at once.
pub fn parallel(variable: Option<&str>) -> Result<usize, StartError> {
    match variable.map(str::parse) {
        None => Ok(1024),
        Some(Ok(number)) if number > 0 => Ok(number),
        _ => Err(StartError::Flags(format!(
            "GRPC_MAX_PARALLEL_STREAM_REQUESTS is {:?}; it must be a whole number from 1 (default: 1024)",
            variable.unwrap_or_default()
        ))),
    }
}

/// The routes of all services. Health and reflection need no key.
pub fn routes(app: &Arc<App>) -> Router {
    let services = Services { app: app.clone(), parallel: app.parallel_stream_requests };
    // A message is what a body is elsewhere.
    let limit = app.limits.payload_limit;
    macro_rules! service {
        ($server:ident) => {
            $server::new(services.clone())
                .max_decoding_message_size(limit)
                .max_encoding_message_size(usize::MAX)
        };
    }
    let mut guarded = add(Router::new(), service!(InfoServer));
    guarded = add(guarded, service!(EmbedServer));
    guarded = add(guarded, service!(PredictServer));
    guarded = add(guarded, service!(RerankServer));
    guarded = add(guarded, service!(TokenizeServer));
    if let Some(keys) = &app.access.keys {
        guarded = guarded.route_layer(from_fn_with_state(keys.clone(), require));
    }
    let reflected = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(tei::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let mut open = add(Router::new(), health::service(app));
    // Descriptors that this program was built with: they are sound, as a test shows.
    if let (Ok(v1), Ok(v1alpha)) = (reflected().build_v1(), reflected().build_v1alpha()) {
        open = add(add(open, v1), v1alpha);
    }
    guarded.merge(open).layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
        Status::internal("a defect of the server; its log tells more").into_http::<Body>()
    }))
}

fn add<S, B>(router: Router, service: S) -> Router
where
    S: Service<Request, Response = Response<B>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
    Response<B>: IntoResponse,
    B: 'static,
{
    router.route_service(&format!("/{}/{{*method}}", S::NAME), service)
}

/// As for the HTTP routes, said as gRPC says it.
async fn require(State(keys): State<Arc<Keys>>, request: Request, next: Next) -> Response<Body> {
    if keys.allow(request.headers()) {
        return next.run(request).await;
    }
    let message = "the metadata has no authorization: Bearer KEY with a key of this server";
    Status::unauthenticated(message).into_http()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_is_a_number_or_an_error() {
        assert_eq!(parallel(None).unwrap(), 1024);
        assert_eq!(parallel(Some("7")).unwrap(), 7);
        for wrong in ["", "0", "-1", "many"] {
            assert!(
                parallel(Some(wrong)).unwrap_err().to_string().contains("GRPC_MAX_PARALLEL_STREAM_REQUESTS")
            );
        }
    }
}
