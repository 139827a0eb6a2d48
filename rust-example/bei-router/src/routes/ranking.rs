//! POST /v1/rerank and /v2/rerank, in the shape of Cohere's and Jina's APIs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::response::Response;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::body::OpenAiBody;
use crate::failure::{Failure, OpenAiFailure};
use crate::reply;
use crate::routes::document::{ContextHeaders, OpenAiErrors};
use crate::routes::openai::{Usage, note_model, usage};
use crate::routes::rerank::Ranking;
use crate::tokenizer::TruncationDirection;
use crate::work::Context;

/// What /v1/rerank and /v2/rerank take: the fields of Cohere's and Jina's APIs.
#[derive(Deserialize, ToSchema)]
pub struct RankingRequest {
    /// Any name is taken: there is one model.
    pub model: Option<String>,
    /// What is sought.
    pub query: String,
    /// Among which texts: strings, or objects with the field text.
    pub documents: Vec<Document>,
    /// How many of the best are told; default: all.
    #[schema(minimum = 1)]
    pub top_n: Option<usize>,
    /// Gives the documents back.
    #[serde(default)]
    pub return_documents: Option<bool>,
    /// Not Cohere's: whether inputs that are too long are cut; default: the server's auto_truncate.
    pub truncate: Option<bool>,
    /// Not Cohere's: name of the model's prompt that is the instruction in a decoder reranker's template.
    pub prompt_name: Option<String>,
    /// Refused: a document is its text.
    #[schema(value_type = Option<Vec<String>>, deprecated)]
    pub rank_fields: Option<IgnoredAny>,
    /// Taken where it cuts nothing that fits into the model; documents are never cut shorter.
    pub max_tokens_per_doc: Option<usize>,
    /// Taken where it is 1: a document that is too long is cut, not split.
    pub max_chunks_per_doc: Option<usize>,
}

/// A document to be ranked: a string, or an object with the field text.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Document {
    Text(String),
    Object(DocumentText),
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Document, D::Error> {
        deserializer.deserialize_any(DocumentVisitor)
    }
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a text, or an object with the field text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Document, E> {
        Ok(Document::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Document, E> {
        Ok(Document::Text(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Document, A::Error> {
        DocumentText::deserialize(MapAccessDeserializer::new(access)).map(Document::Object)
    }
}

/// A document as an object.
#[derive(Deserialize, Serialize, ToSchema)]
pub struct DocumentText {
    pub text: String,
}

/// What /v1/rerank and /v2/rerank answer: what Cohere's and Jina's clients read.
#[derive(Serialize, ToSchema)]
pub struct RankingReply {
    /// Of the reply.
    id: String,
    #[schema(example = "list")]
    object: &'static str,
    model: String,
    /// The best first.
    results: Vec<RankingResult>,
    /// Cohere's.
    meta: Meta,
    /// Jina's.
    usage: Usage,
}

#[derive(Serialize, ToSchema)]
pub struct RankingResult {
    /// Place in documents.
    index: usize,
    /// From 0 to 1.
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<DocumentText>,
}

#[derive(Serialize, ToSchema)]
pub struct Meta {
    api_version: ApiVersion,
    billed_units: BilledUnits,
    tokens: Tokens,
}

#[derive(Serialize, ToSchema)]
pub struct ApiVersion {
    #[schema(example = "2")]
    version: &'static str,
}

#[derive(Serialize, ToSchema)]
pub struct BilledUnits {
    search_units: u32,
}

#[derive(Serialize, ToSchema)]
pub struct Tokens {
    input_tokens: usize,
    output_tokens: usize,
}

impl RankingRequest {
    fn check(&self, longest: usize) -> Result<(), Failure> {
        if self.rank_fields.is_some() {
            return Err(Failure::validation(
                "rank_fields is not served: a document is its text; join the fields that count into it",
            ));
        }
        if self.top_n == Some(0) {
            return Err(Failure::validation("top_n is 0; it can be 1 or more"));
        }
        if let Some(most) = self.max_tokens_per_doc.filter(|&most| most < longest) {
            return Err(Failure::validation(format!(
                "max_tokens_per_doc is {most}; documents are cut at the model's limit of {longest} tokens, query included: leave \
                 it out, or cut them before"
            )));
        }
        if let Some(chunks) = self.max_chunks_per_doc.filter(|&chunks| chunks != 1) {
            return Err(Failure::validation(format!(
                "max_chunks_per_doc is {chunks}; it can be 1, as documents are not split: send parts as documents of their own"
            )));
        }
        Ok(())
    }
}

/// Replies of this process, for their ids.
static REPLIES: AtomicU64 = AtomicU64::new(0);

async fn ranked(
    app: Arc<App>,
    context: Context,
    request: RankingRequest,
    version: &'static str,
) -> Result<Response, OpenAiFailure> {
    request.check(app.model.info().max_length)?;
    note_model(&app, request.model.as_deref());
    let text = |document| match document {
        Document::Text(text) | Document::Object(DocumentText { text }) => text,
    };
    let ranking = Ranking {
        query: request.query,
        texts: request.documents.into_iter().map(text).collect(),
        field: "documents",
        options: app.encode_options(request.truncate, TruncationDirection::Right, request.prompt_name),
        raw: false,
        keep: request.return_documents.unwrap_or(false),
    };
    let (mut ranks, timing) = app.ranks(ranking, context).await?;
    ranks.truncate(request.top_n.unwrap_or(usize::MAX));
    let result = |rank: crate::routes::rerank::Rank| RankingResult {
        index: rank.index,
        relevance_score: rank.score,
        document: rank.text.map(|text| DocumentText { text }),
    };
    let reply = RankingReply {
        id: format!("rerank-{:x}-{:x}", app.created, REPLIES.fetch_add(1, Ordering::Relaxed)),
        object: "list",
        model: app.served_model_name.clone(),
        results: ranks.into_iter().map(result).collect(),
        meta: Meta {
            api_version: ApiVersion { version },
            billed_units: BilledUnits { search_units: 1 },
            tokens: Tokens { input_tokens: timing.tokens, output_tokens: 0 },
        },
        usage: usage(timing.tokens),
    };
    let numbers = 4 * reply.results.len();
    Ok(reply::json(&app, timing.headers(&app.compute_type), reply, numbers).await?)
}

/// The documents by falling score, in the shape of Cohere's and Jina's APIs.
#[utoipa::path(post, path = "/v1/rerank", tag = "Ranking", params(ContextHeaders),
    request_body(content = RankingRequest, example = json!({
        "model": "reranker", "query": "What is Deep Learning?", "documents": ["Deep Learning is not...", {"text": "Deep learning is..."}],
        "top_n": 1, "return_documents": true})),
    responses((status = 200, description = "The best first", body = RankingReply), OpenAiErrors))]
pub async fn rerank_v1(
    State(app): State<Arc<App>>,
    context: Result<Context, Failure>,
    OpenAiBody(request): OpenAiBody<RankingRequest>,
) -> Result<Response, OpenAiFailure> {
    ranked(app, context?, request, "1").await
}

/// As /v1/rerank: Cohere's second version.
#[utoipa::path(post, path = "/v2/rerank", tag = "Ranking", params(ContextHeaders),
    request_body(content = RankingRequest, example = json!({
        "model": "reranker", "query": "What is Deep Learning?", "documents": ["Deep Learning is not...", "Deep learning is..."]})),
    responses((status = 200, description = "The best first", body = RankingReply), OpenAiErrors))]
pub async fn rerank_v2(
    State(app): State<Arc<App>>,
    context: Result<Context, Failure>,
    OpenAiBody(request): OpenAiBody<RankingRequest>,
) -> Result<Response, OpenAiFailure> {
    ranked(app, context?, request, "2").await
}
