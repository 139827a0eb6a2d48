//! POST /predict: classes of texts and pairs.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::body::Body;
use crate::failure::Failure;
use crate::inference::Job;
use crate::inputs::Sequences;
use crate::reply;
use crate::routes::document::{ContextHeaders, Errors};
use crate::tokenizer::TruncationDirection;
use crate::work::Context;

/// What /predict takes.
#[derive(Deserialize, ToSchema)]
pub struct PredictRequest {
    /// A text; a pair as a list of two texts; or a batch as a list of lists of one or two texts.
    pub inputs: Sequences,
    /// Whether inputs that are too long are cut; default: the server's auto_truncate.
    pub truncate: Option<bool>,
    /// The side that is cut off.
    #[serde(default)]
    pub truncation_direction: TruncationDirection,
    /// Name of the model's prompt that is put before texts, or is the instruction in a decoder reranker's template.
    pub prompt_name: Option<String>,
    /// Gives logits in place of probabilities.
    #[serde(default)]
    pub raw_scores: bool,
}

/// A label and its score.
#[derive(Serialize, ToSchema)]
pub struct Prediction {
    /// A probability (softmax over the labels, or the sigmoid of the only one), or a logit.
    pub score: f32,
    /// As the model's configuration names it.
    #[schema(value_type = String)]
    pub label: Arc<str>,
}

/// A list for one input, and a list of lists for a batch.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum PredictReply {
    Single(Vec<Prediction>),
    Batch(Vec<Vec<Prediction>>),
}

/// The labels' scores of each input, the highest first.
#[utoipa::path(post, path = "/predict", tag = "Classification", params(ContextHeaders),
    request_body(content = PredictRequest, examples(
        ("text" = (value = json!({"inputs": "I like you."}))),
        ("pair" = (value = json!({"inputs": ["What is Deep Learning?", "Deep Learning is not..."], "raw_scores": true}))),
        ("batch" = (value = json!({"inputs": [["I like you."], ["I hate", "pineapples"]]}))),
    )),
    responses((status = 200, description = "Of one input its labels, or of a batch a list of them", body = PredictReply), Errors))]
pub async fn predict(
    State(app): State<Arc<App>>,
    context: Result<Context, Failure>,
    Body(request): Body<PredictRequest>,
) -> Result<Response, Failure> {
    let Sequences(inputs) = request.inputs;
    let (single, raw) = (inputs.single, request.raw_scores);
    let options = app.encode_options(request.truncate, request.truncation_direction, request.prompt_name);
    let (scores, timing) = app.scores(Job::new(inputs, "inputs", options), raw, context?).await?;
    let numbers = scores.iter().map(|scores| 4 * scores.len()).sum();
    let named = |(score, label)| Prediction { score, label };
    let mut predictions: Vec<Vec<Prediction>> =
        scores.into_iter().map(|scores| app.by_score(scores).into_iter().map(named).collect()).collect();
    let reply = match (single, predictions.pop()) {
        (true, Some(only)) => PredictReply::Single(only),
        (_, last) => {
            predictions.extend(last);
            PredictReply::Batch(predictions)
        }
    };
    reply::json(&app, timing.headers(&app.compute_type), reply, numbers).await
}

impl App {
    /// Labels by falling score; equal scores in the labels' order.
    pub(crate) fn by_score(&self, scores: Vec<f32>) -> Vec<(f32, Arc<str>)> {
        let named = |(i, score)| (score, self.labels.label(i));
        let mut labels: Vec<(f32, Arc<str>)> = scores.into_iter().enumerate().map(named).collect();
        labels.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        labels
    }
}
