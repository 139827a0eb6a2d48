//! POST /rerank, and the scores behind it, which other shapes share.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use bei_backend::Task;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::body::Body;
use crate::failure::Failure;
use crate::inference::Job;
use crate::inputs::{Input, Inputs};
use crate::reply;
use crate::routes::document::{ContextHeaders, Errors};
use crate::timing::Timing;
use crate::tokenizer::{EncodeOptions, TruncationDirection};
use crate::work::Context;

/// What /rerank takes.
#[derive(Deserialize, ToSchema)]
pub struct RerankRequest {
    /// What is sought.
    pub query: String,
    /// Among which texts.
    pub texts: Vec<String>,
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
    /// Gives the texts back.
    #[serde(default)]
    pub return_text: bool,
}

/// A text's place in the request, and its score.
#[derive(Serialize, ToSchema)]
pub struct Rank {
    pub index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    pub score: f32,
}

/// Texts to be ranked.
pub struct Ranking {
    pub query: String,
    pub texts: Vec<String>,
    /// The body's field that holds the texts, for messages.
    pub field: &'static str,
    pub options: EncodeOptions,
    pub raw: bool,
    /// Whether the ranks carry their texts.
    pub keep: bool,
}

impl App {
    /// The texts by falling score; equal scores in the texts' order.
    pub async fn ranks(&self, ranking: Ranking, context: Context) -> Result<(Vec<Rank>, Timing), Failure> {
        let Ranking { query, texts, field, options, raw, keep } = ranking;
        let kept = if keep { texts.clone() } else { vec![] };
        if !texts.is_empty() {
            self.check_reranker()?;
        }
        let items = texts.into_iter().map(|text| Input::Pair(query.clone(), text)).collect();
        let inputs = Inputs { items, single: false };
        let (scores, timing) = self.scores(Job::new(inputs, field, options), raw, context).await?;
        let mut texts = kept.into_iter();
        let rank = |(index, scores): (usize, Vec<f32>)| {
            let score = scores.first().copied().ok_or_else(crate::inference::unexpected)?;
            Ok(Rank { index, text: texts.next(), score })
        };
        let mut ranks = scores.into_iter().enumerate().map(rank).collect::<Result<Vec<_>, Failure>>()?;
        by_score(&mut ranks);
        Ok((ranks, timing))
    }

    /// A classifier of several labels ranks nothing. (What is no classifier is refused where scores are computed.)
    pub fn check_reranker(&self) -> Result<(), Failure> {
        let info = self.model.info();
        if info.task != Some(Task::Classifier) || info.labels == 1 {
            return Ok(());
        }
        let failure = Failure::model_type(format!(
            "the model is no reranker: it has {} labels, and a reranker has one",
            info.labels
        ));
        self.metrics.request(false);
        self.metrics.failure(&failure);
        Err(failure)
    }
}

/// By falling score; equal scores stay in their order.
pub fn by_score(ranks: &mut [Rank]) {
    ranks.sort_by(|a, b| b.score.total_cmp(&a.score));
}

/// The texts by falling score: how well each answers the query.
#[utoipa::path(post, path = "/rerank", tag = "Ranking", params(ContextHeaders),
    request_body(content = RerankRequest, example = json!({
        "query": "What is Deep Learning?", "texts": ["Deep Learning is not...", "Deep learning is..."], "return_text": true})),
    responses((status = 200, description = "The best first", body = Vec<Rank>), Errors))]
pub async fn rerank(
    State(app): State<Arc<App>>,
    context: Result<Context, Failure>,
    Body(request): Body<RerankRequest>,
) -> Result<Response, Failure> {
    let ranking = Ranking {
        query: request.query,
        texts: request.texts,
        field: "texts",
        options: app.encode_options(request.truncate, request.truncation_direction, request.prompt_name),
        raw: request.raw_scores,
        keep: request.return_text,
    };
    let (ranks, timing) = app.ranks(ranking, context?).await?;
    let numbers = 4 * ranks.len();
    reply::json(&app, timing.headers(&app.compute_type), ranks, numbers).await
}
