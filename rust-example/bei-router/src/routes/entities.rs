//! POST /predict_tokens: labels of tokens, and the entities that they make.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use bei_backend::Aggregation;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use crate::app::App;
use crate::body::Body;
use crate::code_points::CodePoints;
use crate::failure::Failure;
use crate::finish::softmax;
use crate::inference::Job;
use crate::inputs::{Input, Inputs, Texts};
use crate::reply;
use crate::routes::document::{ContextHeaders, Errors};
use crate::tokenizer::TruncationDirection;
use crate::work::{Context, Entities};

/// What /predict_tokens takes.
#[derive(Deserialize, ToSchema)]
pub struct PredictTokensRequest {
    /// A text, a list of texts, or a list of lists of one text.
    pub inputs: Texts,
    /// Whether texts that are too long are cut; default: the server's auto_truncate.
    pub truncate: Option<bool>,
    /// The side that is cut off.
    #[serde(default)]
    pub truncation_direction: TruncationDirection,
    /// Gives logits in place of probabilities; without an aggregation only.
    #[serde(default)]
    pub raw_scores: bool,
    /// How tokens are joined to entities.
    #[serde(default)]
    pub aggregation_strategy: AggregationStrategy,
}

/// As transformers' pipeline joins tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AggregationStrategy {
    /// Each token stands alone, with the scores of all labels.
    #[default]
    None,
    /// Tokens of one tag are joined.
    Simple,
    /// Words of one tag are joined; a word's label is that of its first token.
    First,
    /// As first; a word's label is that of the mean of its tokens' scores.
    Average,
    /// As first; a word's label is that of its token with the highest score.
    Max,
}

impl From<AggregationStrategy> for Aggregation {
    fn from(strategy: AggregationStrategy) -> Aggregation {
        match strategy {
            AggregationStrategy::None => Aggregation::None,
            AggregationStrategy::Simple => Aggregation::Simple,
            AggregationStrategy::First => Aggregation::First,
            AggregationStrategy::Average => Aggregation::Average,
            AggregationStrategy::Max => Aggregation::Max,
        }
    }
}

/// A token, or an entity.
#[derive(Serialize, ToSchema)]
pub struct TokenPrediction {
    /// Its part of the text.
    token: String,
    /// 0 for an entity.
    token_id: u32,
    /// First Unicode code point.
    start: u32,
    /// One past the last.
    end: u32,
    /// Score by label: of all labels, or of the entity's.
    #[schema(value_type = std::collections::HashMap<String, f32>)]
    results: Scores,
}

/// Scores in the labels' order.
struct Scores(Vec<(Arc<str>, f32)>);

impl Serialize for Scores {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (label, score) in &self.0 {
            map.serialize_entry(&**label, score)?;
        }
        map.end()
    }
}

/// The tokens of each text with the scores of their labels, or its entities. Special tokens are left out.
#[utoipa::path(post, path = "/predict_tokens", tag = "Classification", params(ContextHeaders),
    request_body(content = PredictTokensRequest, examples(
        ("tokens" = (value = json!({"inputs": [["John lives in Berlin."]]}))),
        ("entities" = (value = json!({"inputs": ["John lives in Berlin."], "aggregation_strategy": "simple"}))),
    )),
    responses((status = 200, description = "For each text its tokens or entities", body = Vec<Vec<TokenPrediction>>), Errors))]
pub async fn predict_tokens(
    State(app): State<Arc<App>>,
    context: Result<Context, Failure>,
    Body(request): Body<PredictTokensRequest>,
) -> Result<Response, Failure> {
    let (raw, strategy) = (request.raw_scores, request.aggregation_strategy);
    if raw && strategy != AggregationStrategy::None {
        return Err(Failure::validation(
            "raw_scores needs aggregation_strategy none: the score of an entity is a mean of probabilities",
        ));
    }
    let Texts(inputs) = request.inputs;
    let texts = with_prompt(&app, &inputs);
    let options = app.encode_options(request.truncate, request.truncation_direction, None);
    let job = Job::new(inputs, "inputs", options);
    let (items, timing) = app.entities(job, strategy.into(), context?).await?;
    let item = |(entities, text): (Entities, String)| match strategy {
        AggregationStrategy::None => tokens(&app, entities, &text, raw),
        _ => joined(&app, &entities, &text),
    };
    let reply: Vec<Vec<TokenPrediction>> = items.into_iter().zip(texts).map(item).collect();
    let numbers = reply.iter().flatten().map(|token| 8 + 3 * token.results.0.len()).sum();
    reply::json(&app, timing.headers(&app.compute_type), reply, numbers).await
}

/// The texts that places of tokens are counted in.
pub fn with_prompt(app: &App, inputs: &Inputs) -> Vec<String> {
    let prompt = app.prompt(None);
    let text = |input: &Input| match input {
        Input::Text(text) => format!("{prompt}{text}"),
        _ => prompt.to_string(),
    };
    inputs.items.iter().map(text).collect()
}

fn tokens(app: &App, mut entities: Entities, text: &str, raw: bool) -> Vec<TokenPrediction> {
    let places = CodePoints::new(text);
    let columns = entities.logits.columns.max(1);
    let rows = entities.logits.data.chunks_exact_mut(columns);
    let token = |(piece, scores): (crate::work::Piece, &mut [f32])| {
        if !raw {
            softmax(scores);
        }
        let named = |(i, &score): (usize, &f32)| (app.labels.label(i), score);
        TokenPrediction {
            token: places.part(piece.start, piece.end).map_or(piece.text, str::to_string),
            token_id: piece.id,
            start: piece.start,
            end: piece.end,
            results: Scores(scores.iter().enumerate().map(named).collect()),
        }
    };
    entities.tokens.into_iter().zip(rows).filter(|(piece, _)| !piece.special).map(token).collect()
}

fn joined(app: &App, entities: &Entities, text: &str) -> Vec<TokenPrediction> {
    let places = CodePoints::new(text);
    let entity = |entity: &bei_backend::Entity| TokenPrediction {
        token: places.part(entity.start, entity.end).unwrap_or_default().to_string(),
        token_id: 0,
        start: entity.start,
        end: entity.end,
        results: Scores(vec![(app.labels.group(entity.label as usize), entity.score)]),
    };
    entities.entities.iter().map(entity).collect()
}
