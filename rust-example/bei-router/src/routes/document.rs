//! GET /api-doc/openapi.json and /docs: the routes' document, made of the code, and a page that shows it without a network.

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{IntoParams, IntoResponses, Modify, OpenApi, ToSchema};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::failure::ErrorType;

/// What all routes share.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "bei-router",
        description = "Embeddings, classes and rankings over libbei.so, with the routes of text-embeddings-inference.\n\n\
            Replies of models carry x-compute-type, x-compute-time, x-total-time, x-tokenization-time, x-queue-time, \
            x-inference-time (milliseconds), x-compute-characters and x-compute-tokens.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    security((), ("key" = [])),
    modifiers(&Key),
    paths(live, ready, live_alias, ready_alias)
)]
pub struct Document;

macro_rules! front {
    ($(#[$about:meta])* $name:ident $path:literal) => {
        $(#[$about])*
        #[utoipa::path(get, path = $path, tag = "Server",
            responses((status = 200, description = "It is", body = serde_json::Value), (status = 503, description = "It is not", body = ErrorBody)))]
        #[expect(dead_code, reason = "for the document; the front answers")]
        fn $name() {}
    };
}
front!(
    /// Whether the process lives: also while the model is being opened.
    live "/health/live"
);
front!(
    /// Whether requests are answered.
    ready "/health/ready"
);
front!(
    /// As /health/live.
    live_alias "/v1/health/live"
);
front!(
    /// As /health/ready.
    ready_alias "/v1/health/ready"
);

struct Key;

impl Modify for Key {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let description = "Where the server was started with --api-key.";
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description)).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("key", SecurityScheme::Http(bearer));
    }
}

/// Headers that requests to a model may carry.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "for the document; work::Context reads them")]
pub struct ContextHeaders {
    /// Milliseconds after which the answer is of no use any more.
    #[param(rename = "Request-Timeout-Ms")]
    timeout: Option<u64>,
    /// When the answer is of no use any more: milliseconds since 1970.
    #[param(rename = "Request-Deadline-Ms")]
    deadline: Option<u64>,
    /// low, normal or high.
    #[param(rename = "X-Request-Priority")]
    priority: Option<String>,
}

/// The body of an error.
#[derive(Serialize, ToSchema)]
pub struct ErrorBody {
    /// What is wrong, and how to make it right.
    pub error: String,
    pub error_type: ErrorType,
}

/// The body of an error of OpenAI's, Cohere's and Jina's routes.
#[derive(Serialize, ToSchema)]
pub struct OpenAiErrorBody {
    /// What is wrong, and how to make it right.
    pub message: String,
    /// The status.
    pub code: u16,
    pub r#type: ErrorType,
}

/// Errors of the family's routes.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "for the document; failure::Failure writes them")]
pub enum Errors {
    /// Empty: there is nothing in it. Validation: the body is no JSON.
    #[response(status = 400)]
    Empty(#[to_schema] ErrorBody),
    /// No key, or a wrong one; without a body
    #[response(status = 401)]
    Key,
    /// The body is larger than payload_limit
    #[response(status = 413)]
    Payload(#[to_schema] ErrorBody),
    /// The content type is not application/json
    #[response(status = 415)]
    ContentType(#[to_schema] ErrorBody),
    /// Validation: the request is wrong. Tokenizer: a text cannot be tokenized.
    #[response(status = 422)]
    Validation(#[to_schema] ErrorBody),
    /// Backend: the model failed, or cannot do this
    #[response(status = 424)]
    Backend(#[to_schema] ErrorBody),
    /// Overloaded: too much is under way; Retry-After tells when to come again
    #[response(status = 429)]
    Overloaded(#[to_schema] ErrorBody),
    /// Unhealthy: the engine is lost, or the server is stopping
    #[response(status = 503)]
    Unhealthy(#[to_schema] ErrorBody),
}

/// Errors of OpenAI's, Cohere's and Jina's routes.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "for the document; failure::OpenAiFailure writes them")]
pub enum OpenAiErrors {
    /// Empty: there is nothing in it. Validation: the body is no JSON.
    #[response(status = 400)]
    Empty(#[to_schema] OpenAiErrorBody),
    /// No key, or a wrong one; with a body of /v1/rerank and /v2/rerank, without one elsewhere
    #[response(status = 401)]
    Key,
    /// The body is larger than payload_limit
    #[response(status = 413)]
    Payload(#[to_schema] OpenAiErrorBody),
    /// The content type is not application/json
    #[response(status = 415)]
    ContentType(#[to_schema] OpenAiErrorBody),
    /// Validation: the request is wrong. Tokenizer: a text cannot be tokenized.
    #[response(status = 422)]
    Validation(#[to_schema] OpenAiErrorBody),
    /// Backend: the model failed, or cannot do this
    #[response(status = 424)]
    Backend(#[to_schema] OpenAiErrorBody),
    /// Overloaded: too much is under way; Retry-After tells when to come again
    #[response(status = 429)]
    Overloaded(#[to_schema] OpenAiErrorBody),
    /// Unhealthy: the engine is lost, or the server is stopping
    #[response(status = 503)]
    Unhealthy(#[to_schema] OpenAiErrorBody),
}

/// The document of these routes.
#[utoipa::path(get, path = "/api-doc/openapi.json", tag = "Server", responses((status = 200, description = "The document", body = serde_json::Value)))]
pub async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], super::document())
}

/// The page, with everything that it needs in this program.
pub fn page() -> SwaggerUi {
    SwaggerUi::new("/docs").config(Config::from("/api-doc/openapi.json").try_it_out_enabled(true))
}
