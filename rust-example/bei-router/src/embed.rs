//! POST /embed, /embed_all and /embed_sparse.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

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

/// What /embed_all and /embed_sparse take.
#[derive(Deserialize)]
pub struct PlainRequest {
    inputs: Inputs,
    truncate: Option<bool>,
    #[serde(default)]
    truncation_direction: TruncationDirection,
    prompt_name: Option<String>,
}

impl PlainRequest {
    fn job(self, app: &App) -> Job {
        let options = EncodeOptions {
            truncate: self.truncate.unwrap_or(app.limits.auto_truncate),
            direction: self.truncation_direction,
            prompt_name: self.prompt_name,
        };
        Job { inputs: self.inputs, field: "inputs", options, finish: Finish::default() }
    }
}

/// The weight of one token id.
#[derive(Serialize)]
pub struct SparseValue {
    index: u32,
    value: f32,
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

/// One vector for each token of each input.
pub async fn embed_all(
    State(app): State<Arc<App>>,
    Body(request): Body<PlainRequest>,
) -> Result<Response, Failure> {
    let (vectors, timing) = app.token_vectors(request.job(&app)).await?;
    written(timing.headers(&app.compute_type), vectors).await
}

/// The weights above zero of each input, by token id.
pub async fn embed_sparse(
    State(app): State<Arc<App>>,
    Body(request): Body<PlainRequest>,
) -> Result<Response, Failure> {
    let (weights, timing) = app.sparse_weights(request.job(&app)).await?;
    let value = |(index, value)| SparseValue { index, value };
    let weights: Vec<Vec<SparseValue>> =
        weights.into_iter().map(|entries| entries.into_iter().map(value).collect()).collect();
    written(timing.headers(&app.compute_type), weights).await
}

/// A large reply. Vectors of the tokens of 32 long inputs make some 40 MB of JSON and keep a thread busy for half a second, which
/// must not be one of those that serve connections.
async fn written<T: Serialize + Send + 'static>(headers: HeaderMap, reply: T) -> Result<Response, Failure> {
    let written = tokio::task::spawn_blocking(move || (headers, Json(reply)).into_response()).await;
    written.map_err(|error| Failure::backend(format!("writing the reply failed: {error}")))
}
