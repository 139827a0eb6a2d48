//! The HTTP routes. What a route takes and answers stands beside its handler, and the document is made of that.

mod default;
pub(crate) mod document;
mod embed;
mod entities;
mod info;
mod openai;
mod outputs;
mod pipeline;
mod predict;
mod ranking;
pub(crate) mod rerank;
mod similarity;
pub(crate) mod status;
pub(crate) mod text;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::auth;
use crate::body;
use crate::failure::Failure;
use crate::grpc;

type Routes = OpenApiRouter<Arc<App>>;

/// Routes that need a key where there is one.
fn guarded() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(embed::embed))
        .routes(routes!(embed::embed_all))
        .routes(routes!(embed::embed_sparse))
        .routes(routes!(outputs::embed_outputs))
        .routes(routes!(similarity::similarity))
        .routes(routes!(predict::predict))
        .routes(routes!(entities::predict_tokens))
        .routes(routes!(rerank::rerank))
        .routes(routes!(ranking::rerank_v1))
        .routes(routes!(ranking::rerank_v2))
        .routes(routes!(openai::embeddings))
        .routes(routes!(openai::embeddings_alias))
        .routes(routes!(openai::models))
        .routes(routes!(openai::model))
        .routes(routes!(text::tokenize))
        .routes(routes!(text::decode))
        .routes(routes!(default::default_route))
        .routes(routes!(default::invocations))
        .routes(routes!(default::vertex))
        .routes(routes!(info::info))
}

fn metrics() -> Routes {
    OpenApiRouter::new().routes(routes!(status::metrics))
}

fn docs() -> Routes {
    OpenApiRouter::new().routes(routes!(document::openapi))
}

/// Routes that never need a key.
fn open() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(status::health))
        .routes(routes!(status::root))
        .routes(routes!(status::ping))
}

/// The document of all routes, in JSON.
fn document() -> Bytes {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    let make = || {
        let all = OpenApiRouter::with_openapi(document::Document::openapi());
        let all: Routes = all.merge(guarded()).merge(metrics()).merge(docs()).merge(open());
        let mut document = all.into_openapi();
        // A star is how this router writes a part that may hold slashes.
        let paths = std::mem::take(&mut document.paths.paths);
        document.paths.paths =
            paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
        Bytes::from(document.to_json().unwrap_or_default())
    };
    DOCUMENT.get_or_init(make).clone()
}

/// All routes, and the gRPC services.
pub fn routes(app: Arc<App>) -> Router {
    let access = &app.access;
    let (mut needs_key, mut needs_none) = (Router::from(guarded()), Router::from(open()));
    if let Some(path) = &access.predict_route {
        needs_key = needs_key.route(path, post(default::vertex));
    }
    if let Some(path) = &access.health_route {
        needs_none = needs_none.route(path, get(status::health));
    }
    let pages = Router::from(docs()).merge(document::page());
    for (router, is_open) in [(Router::from(metrics()), access.open_metrics), (pages, access.open_docs)] {
        match is_open {
            true => needs_none = needs_none.merge(router),
            false => needs_key = needs_key.merge(router),
        }
    }
    if let Some(keys) = &access.keys {
        needs_key = needs_key.route_layer(from_fn_with_state(keys.clone(), auth::require));
    }
    let mut all = needs_none
        .merge(needs_key)
        .fallback(async |method: Method, uri: Uri, request: Request| {
            body::forget(request).await;
            Failure::body(StatusCode::NOT_FOUND, format!("there is no route {method} {}", uri.path()))
        })
        .method_not_allowed_fallback(async |method: Method, uri: Uri, request: Request| {
            body::forget(request).await;
            let message = format!("{} does not take the method {method}", uri.path());
            Failure::body(StatusCode::METHOD_NOT_ALLOWED, message)
        })
        .layer(CatchPanicLayer::custom(|_| {
            Failure::backend("a defect of the server; its log tells more").into_response()
        }));
    if let Some(cors) = &access.cors {
        all = all.layer(cors.clone());
    }
    // The gRPC services have paths of their own, and say themselves what is wrong with a call.
    let services = grpc::routes(&app);
    all.with_state(app).merge(services)
}

/// Paths that a server has anyway, which another name for one of them must not take.
pub fn paths() -> Vec<String> {
    let all: Routes = guarded().merge(metrics()).merge(docs()).merge(open());
    let mut paths: Vec<String> = all.into_openapi().paths.paths.into_keys().collect();
    paths.push("/docs".to_string());
    paths
}
