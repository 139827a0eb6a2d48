//! POST /similarity: the cosine of a sentence and others.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::body::Body;
use crate::failure::Failure;
use crate::finish::{Finish, cosine};
use crate::inference::Job;
use crate::inputs::{Input, Inputs};
use crate::reply;
use crate::routes::document::{ContextHeaders, Errors};
use crate::tokenizer::TruncationDirection;
use crate::work::Context;

/// What /similarity takes.
#[derive(Deserialize, ToSchema)]
pub struct SimilarityRequest {
    pub inputs: SimilarityInputs,
    #[serde(default)]
    pub parameters: Option<SimilarityParameters>,
}

/// The sentences that are compared.
#[derive(Deserialize, ToSchema)]
pub struct SimilarityInputs {
    /// The sentence that all others are compared with.
    pub source_sentence: String,
    /// The others.
    pub sentences: Vec<String>,
}

/// How texts are tokenized.
#[derive(Default, Deserialize, ToSchema)]
pub struct SimilarityParameters {
    /// Whether texts that are too long are cut; default: the server's auto_truncate.
    pub truncate: Option<bool>,
    /// The side that is cut off.
    #[serde(default)]
    pub truncation_direction: TruncationDirection,
    /// Name of the model's prompt that is put before the texts.
    pub prompt_name: Option<String>,
}

/// The cosine of the source sentence and each of the others.
#[utoipa::path(post, path = "/similarity", tag = "Embedding", params(ContextHeaders),
    request_body(content = SimilarityRequest, example = json!({"inputs": {
        "source_sentence": "What is Deep Learning?", "sentences": ["What is Machine Learning?", "It rains."]}})),
    responses((status = 200, description = "For each sentence its cosine", body = Vec<f32>), Errors))]
pub async fn similarity(
    State(app): State<Arc<App>>,
    context: Result<Context, Failure>,
    Body(request): Body<SimilarityRequest>,
) -> Result<Response, Failure> {
    let SimilarityInputs { source_sentence, sentences } = request.inputs;
    if sentences.is_empty() {
        return Err(Failure::empty("inputs.sentences is empty"));
    }
    let parameters = request.parameters.unwrap_or_default();
    let options =
        app.encode_options(parameters.truncate, parameters.truncation_direction, parameters.prompt_name);
    let items = std::iter::once(source_sentence).chain(sentences).map(Input::Text).collect();
    let job = Job {
        first: Some("inputs.source_sentence"),
        ..Job::new(Inputs { items, single: false }, "inputs.sentences", options)
    };
    let (vectors, timing) = app.vectors(job, Finish::default(), context?).await?;
    let (source, others) = vectors.split_first().ok_or_else(crate::inference::unexpected)?;
    let cosine = |(i, other): (usize, &Vec<f32>)| {
        let none =
            || Failure::backend("a vector of zeros has no cosine").of(&format!("inputs.sentences[{i}]"));
        cosine(source, other).ok_or_else(none)
    };
    let reply = others.iter().enumerate().map(cosine).collect::<Result<Vec<f32>, _>>()?;
    let numbers = reply.len();
    reply::json(&app, timing.headers(&app.compute_type), reply, numbers).await
}
