//! POST /embed and /embed_all.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use crate::app::App;
use crate::body::Body;
use crate::failure::Failure;
use crate::inference::{Finish, Job};
use crate::inputs::Inputs;
use crate::tokenizer::{EncodeOptions, TruncationDirection};

#[derive(Deserialize)]
pub struct EmbedRequest {
    inputs: Inputs,
    truncate: Option<bool>,
    #[serde(default)]
    truncation_direction: TruncationDirection,
    prompt_name: Option<String>,
    #[serde(default = "yes")]
    normalize: bool,
    dimensions: Option<usize>,
}

#[derive(Deserialize)]
pub struct EmbedAllRequest {
    inputs: Inputs,
    truncate: Option<bool>,
    #[serde(default)]
    truncation_direction: TruncationDirection,
    prompt_name: Option<String>,
}

fn yes() -> bool {
    true
}

/// One vector for each input.
pub async fn embed(
    State(app): State<Arc<App>>,
    Body(request): Body<EmbedRequest>,
) -> Result<(HeaderMap, Json<Vec<Vec<f32>>>), Failure> {
    let options = EncodeOptions {
        truncate: request.truncate.unwrap_or(app.limits.auto_truncate),
        direction: request.truncation_direction,
        prompt_name: request.prompt_name,
    };
    let finish = Finish { dimensions: request.dimensions, normalize: request.normalize };
    let job = Job { inputs: request.inputs, field: "inputs", options, finish };
    let (vectors, timing) = app.vectors(job).await?;
    Ok((timing.headers(&app.compute_type), Json(vectors)))
}

/// One vector for each token of each input. 32 long inputs make some 40 MB of JSON and keep a thread busy for half a second,
/// which must not be one of those that serve connections.
pub async fn embed_all(
    State(app): State<Arc<App>>,
    Body(request): Body<EmbedAllRequest>,
) -> Result<Response, Failure> {
    let options = EncodeOptions {
        truncate: request.truncate.unwrap_or(app.limits.auto_truncate),
        direction: request.truncation_direction,
        prompt_name: request.prompt_name,
    };
    let job = Job { inputs: request.inputs, field: "inputs", options, finish: Finish::default() };
    let (vectors, timing) = app.token_vectors(job).await?;
    let headers = timing.headers(&app.compute_type);
    let written = tokio::task::spawn_blocking(move || (headers, Json(vectors)).into_response()).await;
    written.map_err(|error| Failure::backend(format!("writing the reply failed: {error}")))
}
