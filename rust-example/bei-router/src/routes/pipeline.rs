//! Bodies of the hub's pipelines for classifiers, which `POST /` and /invocations take too: texts, and an object of parameters. It is what
//! huggingface_hub's InferenceClient sends, and how it wants its answers.

use std::sync::Arc;

use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::code_points::CodePoints;
use crate::failure::Failure;
use crate::finish::{probabilities, sigmoid, softmax};
use crate::inference::Job;
use crate::inputs::Texts;
use crate::reply;
use crate::routes::entities::{AggregationStrategy, with_prompt};
use crate::tokenizer::TruncationDirection;
use crate::work::{Context, Entities};

/// What no entity is of, by convention.
const OUTSIDE: &str = "O";

/// A text classification of the hub's pipelines.
#[derive(Deserialize, ToSchema)]
pub struct ClassificationRequest {
    /// A text, or a list of texts.
    pub inputs: Texts,
    pub parameters: ClassificationParameters,
}

#[derive(Deserialize, ToSchema)]
pub struct ClassificationParameters {
    /// What makes scores of logits; default: as /predict.
    pub function_to_apply: Option<Function>,
    /// How many of the best labels are told; default: all.
    #[schema(minimum = 1)]
    pub top_k: Option<usize>,
}

/// What makes scores of logits.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    Sigmoid,
    Softmax,
    None,
}

/// A label and its score, the highest first.
#[derive(Serialize, ToSchema)]
pub struct Class {
    #[schema(value_type = String)]
    label: Arc<str>,
    score: f32,
}

/// A token classification of the hub's pipelines.
#[derive(Deserialize, ToSchema)]
pub struct TokenClassificationRequest {
    /// A text, or a list of texts.
    pub inputs: Texts,
    pub parameters: TokenClassificationParameters,
}

#[derive(Deserialize, ToSchema)]
pub struct TokenClassificationParameters {
    /// How tokens are joined to entities; default: simple.
    pub aggregation_strategy: Option<AggregationStrategy>,
    /// Labels and groups that are left out, O among them; default: O alone.
    pub ignore_labels: Option<Vec<String>>,
    /// Refused: texts are cut at the model's limit, not split.
    #[schema(deprecated)]
    pub stride: Option<usize>,
}

/// An entity, or with the strategy none a token.
#[derive(Serialize, ToSchema)]
pub struct NamedEntity {
    /// Of a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    entity: Option<Arc<str>>,
    /// Of an entity.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    entity_group: Option<Arc<str>>,
    score: f32,
    /// Of a token: its place among all tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
    /// Its part of the text.
    word: String,
    /// First Unicode code point.
    start: u32,
    /// One past the last.
    end: u32,
}

/// The labels of each text, as a list of lists also for one.
pub async fn classify(
    app: &App,
    context: Context,
    request: ClassificationRequest,
) -> Result<Response, Failure> {
    let ClassificationRequest { inputs: Texts(inputs), parameters } = request;
    if parameters.top_k == Some(0) {
        return Err(Failure::validation("parameters.top_k is 0; it can be 1 or more"));
    }
    let options = app.encode_options(None, TruncationDirection::Right, None);
    let (items, timing) = app.scores(Job::new(inputs, "inputs", options), true, context).await?;
    let classes = |mut scores: Vec<f32>| -> Vec<Class> {
        match parameters.function_to_apply {
            None => probabilities(&mut scores),
            Some(Function::Softmax) => softmax(&mut scores),
            Some(Function::Sigmoid) => scores.iter_mut().for_each(|score| *score = sigmoid(*score)),
            Some(Function::None) => {}
        }
        let named = |(score, label)| Class { label, score };
        let best = parameters.top_k.unwrap_or(usize::MAX);
        app.by_score(scores).into_iter().take(best).map(named).collect()
    };
    let reply: Vec<Vec<Class>> = items.into_iter().map(classes).collect();
    let numbers = reply.iter().map(|classes| 4 * classes.len()).sum();
    reply::json(app, timing.headers(&app.compute_type), reply, numbers).await
}

/// The entities of one text, or for each of several a list of them.
pub async fn name_entities(
    app: &App,
    context: Context,
    request: TokenClassificationRequest,
) -> Result<Response, Failure> {
    let TokenClassificationRequest { inputs: Texts(inputs), parameters } = request;
    if parameters.stride.is_some() {
        return Err(Failure::validation(
            "parameters.stride is not served: texts are cut at the model's limit; leave it out, and split longer texts before",
        ));
    }
    let ignored = parameters.ignore_labels.unwrap_or_else(|| vec![OUTSIDE.to_string()]);
    if !ignored.iter().any(|label| label == OUTSIDE) {
        return Err(Failure::validation(format!(
            "parameters.ignore_labels is {ignored:?}; it must hold \"O\", which is never told: /predict_tokens has the scores of all labels"
        )));
    }
    let strategy = parameters.aggregation_strategy.unwrap_or(AggregationStrategy::Simple);
    let (single, texts) = (inputs.single, with_prompt(app, &inputs));
    let options = app.encode_options(None, TruncationDirection::Right, None);
    let (items, timing) = app.entities(Job::new(inputs, "inputs", options), strategy.into(), context).await?;
    let item = |(entities, text): (Entities, String)| named(app, &entities, &text, strategy, &ignored);
    let mut reply: Vec<Vec<NamedEntity>> = items.into_iter().zip(texts).map(item).collect();
    let numbers = reply.iter().map(|entities| 8 * entities.len()).sum();
    let headers = timing.headers(&app.compute_type);
    match (single, reply.pop()) {
        (true, Some(only)) => reply::json(app, headers, only, numbers).await,
        (_, last) => {
            reply.extend(last);
            reply::json(app, headers, reply, numbers).await
        }
    }
}

fn named(
    app: &App,
    entities: &Entities,
    text: &str,
    strategy: AggregationStrategy,
    ignored: &[String],
) -> Vec<NamedEntity> {
    let (places, alone) = (CodePoints::new(text), strategy == AggregationStrategy::None);
    let entity = |entity: &bei_backend::Entity| {
        let label = entity.label as usize;
        let name = if alone { app.labels.label(label) } else { app.labels.group(label) };
        NamedEntity {
            entity: alone.then(|| name.clone()),
            entity_group: (!alone).then_some(name),
            score: entity.score,
            index: alone.then_some(entity.token),
            word: places.part(entity.start, entity.end).unwrap_or_default().to_string(),
            start: entity.start,
            end: entity.end,
        }
    };
    let told = |entity: &NamedEntity| {
        let name = entity.entity.as_ref().or(entity.entity_group.as_ref());
        name.is_some_and(|name| ignored.iter().all(|label| **label != **name))
    };
    entities.entities.iter().map(entity).filter(told).collect()
}
