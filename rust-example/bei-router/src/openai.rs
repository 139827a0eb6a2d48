//! POST /v1/embeddings, in the shape of OpenAI's API.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::body::OpenAiBody;
use crate::failure::OpenAiFailure;
use crate::inference::{Finish, Job};
use crate::inputs::Inputs;
use crate::tokenizer::EncodeOptions;

#[derive(Deserialize)]
pub struct EmbeddingsRequest {
    input: Inputs,
    model: Option<String>,
    #[serde(default)]
    encoding_format: EncodingFormat,
    dimensions: Option<usize>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EncodingFormat {
    #[default]
    Float,
    Base64,
}

#[derive(Serialize)]
pub struct EmbeddingsReply {
    object: &'static str,
    data: Vec<EmbeddingData>,
    model: String,
    usage: Usage,
}

#[derive(Serialize)]
struct EmbeddingData {
    object: &'static str,
    embedding: Encoded,
    index: usize,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Encoded {
    Float(Vec<f32>),
    /// Little-endian 32-bit floats.
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// One normalised vector for each input.
pub async fn embeddings(
    State(app): State<Arc<App>>,
    OpenAiBody(request): OpenAiBody<EmbeddingsRequest>,
) -> Result<(HeaderMap, Json<EmbeddingsReply>), OpenAiFailure> {
    if let Some(model) = request.model.filter(|model| *model != app.served_model_name) {
        tracing::debug!("a request names the model {model:?}; this server has {:?}", app.served_model_name);
    }
    let options = EncodeOptions { truncate: app.limits.auto_truncate, ..EncodeOptions::default() };
    let finish = Finish { dimensions: request.dimensions, normalize: true };
    let job = Job { inputs: request.input, field: "input", options, finish };
    let (vectors, timing) = app.vectors(job).await?;
    let data = vectors.into_iter().enumerate().map(|(index, vector)| EmbeddingData {
        object: "embedding",
        embedding: encode(vector, request.encoding_format),
        index,
    });
    let reply = EmbeddingsReply {
        object: "list",
        data: data.collect(),
        model: app.served_model_name.clone(),
        usage: Usage { prompt_tokens: timing.tokens, total_tokens: timing.tokens },
    };
    Ok((timing.headers(&app.compute_type), Json(reply)))
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
