//! POST /v1/embeddings, in the shape of OpenAI's API, and GET /v1/models.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::body::OpenAiBody;
use crate::failure::{Failure, OpenAiFailure};
use crate::finish::Finish;
use crate::inference::Job;
use crate::inputs::Inputs;
use crate::reply;
use crate::routes::document::{ContextHeaders, OpenAiErrors};
use crate::tokenizer::TruncationDirection;
use crate::work::Context;

/// What /v1/embeddings takes: OpenAI's fields, and two more.
#[derive(Deserialize, ToSchema)]
pub struct EmbeddingsRequest {
    /// A text, a list of token ids, or a list of these.
    pub input: Inputs,
    /// Any name is taken: there is one model.
    pub model: Option<String>,
    /// Taken, and not used.
    #[serde(rename = "user")]
    pub _user: Option<String>,
    /// float, or base64: of little-endian 32-bit floats.
    #[serde(default)]
    pub encoding_format: EncodingFormat,
    /// Keeps the first numbers of each vector only (Matryoshka).
    #[schema(minimum = 1)]
    pub dimensions: Option<usize>,
    /// Not OpenAI's: name of the model's prompt that is put before the texts.
    pub prompt_name: Option<String>,
    /// Not OpenAI's: whether inputs that are too long are cut; default: the server's auto_truncate.
    pub truncate: Option<bool>,
}

/// How vectors are written.
#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EncodingFormat {
    #[default]
    Float,
    Base64,
}

/// What /v1/embeddings answers.
#[derive(Serialize, ToSchema)]
pub struct EmbeddingsReply {
    #[schema(example = "list")]
    object: &'static str,
    data: Vec<EmbeddingData>,
    model: String,
    usage: Usage,
}

#[derive(Serialize, ToSchema)]
pub struct EmbeddingData {
    #[schema(example = "embedding")]
    object: &'static str,
    embedding: Encoded,
    index: usize,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Encoded {
    Float(Vec<f32>),
    /// Little-endian 32-bit floats.
    Base64(String),
}

/// Tokens of the request.
#[derive(Serialize, ToSchema)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub total_tokens: usize,
}

/// Of all tokens nothing is generated.
pub fn usage(tokens: usize) -> Usage {
    Usage { prompt_tokens: tokens, total_tokens: tokens }
}

/// A request that names another model is served all the same: there is one.
pub fn note_model(app: &App, model: Option<&str>) {
    if let Some(model) = model.filter(|model| *model != app.served_model_name) {
        tracing::debug!("a request names the model {model:?}; this server has {:?}", app.served_model_name);
    }
}

/// One normalised vector for each input, in the shape of OpenAI's API.
#[utoipa::path(post, path = "/v1/embeddings", tag = "OpenAI", params(ContextHeaders),
    request_body(content = EmbeddingsRequest, examples(
        ("floats" = (value = json!({"input": ["What is", "Deep Learning?"], "model": "text-embeddings"}))),
        ("base64" = (value = json!({"input": "What is Deep Learning?", "encoding_format": "base64", "dimensions": 8,
            "user": "me"}))),
    )),
    responses((status = 200, description = "The vectors", body = EmbeddingsReply), OpenAiErrors))]
pub async fn embeddings(
    State(app): State<Arc<App>>,
    context: Result<Context, Failure>,
    OpenAiBody(request): OpenAiBody<EmbeddingsRequest>,
) -> Result<Response, OpenAiFailure> {
    note_model(&app, request.model.as_deref());
    let options = app.encode_options(request.truncate, TruncationDirection::Right, request.prompt_name);
    let finish = Finish { dimensions: request.dimensions, normalize: true };
    let job = Job::new(request.input, "input", options);
    let (vectors, timing) = app.vectors(job, finish, context?).await?;
    let numbers = vectors.iter().map(Vec::len).sum();
    let data = vectors.into_iter().enumerate().map(|(index, vector)| EmbeddingData {
        object: "embedding",
        embedding: encode(vector, request.encoding_format),
        index,
    });
    let reply = EmbeddingsReply {
        object: "list",
        data: data.collect(),
        model: app.served_model_name.clone(),
        usage: usage(timing.tokens),
    };
    Ok(reply::json(&app, timing.headers(&app.compute_type), reply, numbers).await?)
}

/// The same under its older name.
#[utoipa::path(post, path = "/embeddings", tag = "OpenAI", params(ContextHeaders),
    request_body(content = EmbeddingsRequest, example = json!({"input": "What is Deep Learning?"})),
    responses((status = 200, description = "The vectors", body = EmbeddingsReply), OpenAiErrors))]
pub async fn embeddings_alias(
    state: State<Arc<App>>,
    context: Result<Context, Failure>,
    body: OpenAiBody<EmbeddingsRequest>,
) -> Result<Response, OpenAiFailure> {
    embeddings(state, context, body).await
}

fn encode(vector: Vec<f32>, format: EncodingFormat) -> Encoded {
    match format {
        EncodingFormat::Float => Encoded::Float(vector),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            Encoded::Base64(STANDARD.encode(bytes))
        }
    }
}

/// What is told of the model.
#[derive(Serialize, ToSchema)]
pub struct ModelCard {
    id: String,
    #[schema(example = "model")]
    object: &'static str,
    /// When it was opened: seconds since 1970.
    created: u64,
    #[schema(example = "bei")]
    owned_by: &'static str,
    /// Tokens that an input can have.
    max_model_len: usize,
}

/// The models of the server: one.
#[derive(Serialize, ToSchema)]
pub struct ModelList {
    #[schema(example = "list")]
    object: &'static str,
    data: Vec<ModelCard>,
}

fn card(app: &App) -> ModelCard {
    ModelCard {
        id: app.served_model_name.clone(),
        object: "model",
        created: app.created,
        owned_by: "bei",
        max_model_len: app.model.info().max_length,
    }
}

/// The model that is served, as a list of one.
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", responses((status = 200, description = "A list of one", body = ModelList), OpenAiErrors))]
pub async fn models(State(app): State<Arc<App>>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: vec![card(&app)] })
}

/// The model that is served, by its name.
#[utoipa::path(get, path = "/v1/models/{*id}", tag = "OpenAI", params(("id" = String, Path, description = "May hold slashes")),
    responses((status = 200, description = "The model", body = ModelCard), (status = 404, description = "Another name"), OpenAiErrors))]
pub async fn model(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<ModelCard>, OpenAiFailure> {
    if id == app.served_model_name || id == app.model_id {
        return Ok(Json(card(&app)));
    }
    let message = format!("there is no model {id:?}; this server has {:?}", app.served_model_name);
    Err(OpenAiFailure(Failure::body(StatusCode::NOT_FOUND, message)))
}
