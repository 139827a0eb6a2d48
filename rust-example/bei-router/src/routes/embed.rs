//! POST /embed, /embed_all and /embed_sparse.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::body::Body;
use crate::failure::Failure;
use crate::finish::Finish;
use crate::inference::Job;
use crate::inputs::Inputs;
use crate::reply::{self, RowLists};
use crate::routes::document::{ContextHeaders, Errors};
use crate::tokenizer::TruncationDirection;
use crate::work::Context;

/// What /embed takes.
#[derive(Deserialize, ToSchema)]
pub struct EmbedRequest {
    /// A text, a list of token ids, or a list of these.
    pub inputs: Inputs,
    /// Whether inputs that are too long are cut; default: the server's auto_truncate.
    pub truncate: Option<bool>,
    /// The side that is cut off.
    #[serde(default)]
    pub truncation_direction: TruncationDirection,
    /// Name of the model's prompt that is put before the texts.
    pub prompt_name: Option<String>,
    /// Whether vectors are brought to length 1.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub normalize: bool,
    /// Keeps the first numbers of each vector only (Matryoshka).
    #[schema(minimum = 1)]
    pub dimensions: Option<usize>,
}

/// What /embed_all and /embed_sparse take.
#[derive(Deserialize, ToSchema)]
pub struct PlainRequest {
    /// A text, a list of token ids, or a list of these.
    pub inputs: Inputs,
    /// Whether inputs that are too long are cut; default: the server's auto_truncate.
    pub truncate: Option<bool>,
    /// The side that is cut off.
    #[serde(default)]
    pub truncation_direction: TruncationDirection,
    /// Name of the model's prompt that is put before the texts.
    pub prompt_name: Option<String>,
}

impl PlainRequest {
    fn job(self, app: &App) -> Job {
        let options = app.encode_options(self.truncate, self.truncation_direction, self.prompt_name);
        Job::new(self.inputs, "inputs", options)
    }
}

/// The weight of one token id.
#[derive(Serialize, ToSchema)]
pub struct SparseValue {
    /// Token id.
    pub index: u32,
    /// Its weight, above zero.
    pub value: f32,
}

/// Weights by ascending token id.
pub fn sparse_values(weights: Vec<(u32, f32)>) -> Vec<SparseValue> {
    weights.into_iter().map(|(index, value)| SparseValue { index, value }).collect()
}

pub(super) fn yes() -> bool {
    true
}

/// One vector for each input.
#[utoipa::path(post, path = "/embed", tag = "Embedding", params(ContextHeaders),
    request_body(content = EmbedRequest, examples(
        ("one" = (value = json!({"inputs": "What is Deep Learning?"}))),
        ("several" = (value = json!({"inputs": ["What is", "Deep Learning?"], "normalize": true, "truncate": true}))),
        ("token ids" = (value = json!({"inputs": [[2, 5, 3], [2, 7, 8, 3]], "dimensions": 8}))),
    )),
    responses((status = 200, description = "A list of vectors, also for one input", body = Vec<Vec<f32>>), Errors))]
pub async fn embed(
    State(app): State<Arc<App>>,
    context: Result<Context, Failure>,
    Body(request): Body<EmbedRequest>,
) -> Result<Response, Failure> {
    let options = app.encode_options(request.truncate, request.truncation_direction, request.prompt_name);
    let finish = Finish { dimensions: request.dimensions, normalize: request.normalize };
    let job = Job::new(request.inputs, "inputs", options);
    let (vectors, timing) = app.vectors(job, finish, context?).await?;
    let numbers = vectors.iter().map(Vec::len).sum();
    reply::json(&app, timing.headers(&app.compute_type), vectors, numbers).await
}

/// One vector for each token of each input.
#[utoipa::path(post, path = "/embed_all", tag = "Embedding", params(ContextHeaders),
    request_body(content = PlainRequest, example = json!({"inputs": ["What is", "Deep Learning?"]})),
    responses((status = 200, description = "For each input a list of vectors", body = Vec<Vec<Vec<f32>>>), Errors))]
pub async fn embed_all(
    State(app): State<Arc<App>>,
    context: Result<Context, Failure>,
    Body(request): Body<PlainRequest>,
) -> Result<Response, Failure> {
    let (vectors, timing) = app.token_vectors(request.job(&app), context?).await?;
    let numbers = vectors.iter().map(|rows| rows.data.len()).sum();
    let lists: Vec<RowLists> = vectors.into_iter().map(RowLists).collect();
    reply::json(&app, timing.headers(&app.compute_type), lists, numbers).await
}

/// The weights above zero of each input, by token id (SPLADE, bge-m3).
#[utoipa::path(post, path = "/embed_sparse", tag = "Embedding", params(ContextHeaders),
    request_body(content = PlainRequest, example = json!({"inputs": "What is Deep Learning?"})),
    responses((status = 200, description = "For each input its weights", body = Vec<Vec<SparseValue>>), Errors))]
pub async fn embed_sparse(
    State(app): State<Arc<App>>,
    context: Result<Context, Failure>,
    Body(request): Body<PlainRequest>,
) -> Result<Response, Failure> {
    let (weights, timing) = app.sparse_weights(request.job(&app), context?).await?;
    let numbers = weights.iter().map(|weights| 3 * weights.len()).sum();
    let weights: Vec<Vec<SparseValue>> = weights.into_iter().map(sparse_values).collect();
    reply::json(&app, timing.headers(&app.compute_type), weights, numbers).await
}
