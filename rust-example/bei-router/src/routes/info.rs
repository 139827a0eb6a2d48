//! GET /info.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use bei_backend::{Pool, Task};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::app::App;
use crate::labels::LabelMaps;

/// What /info answers: the family's fields in its order, then the library's.
#[derive(Serialize, ToSchema)]
pub struct Info {
    #[schema(example = "sentence-transformers/all-MiniLM-L6-v2")]
    model_id: String,
    /// The commit of a model of the hub.
    #[schema(value_type = Option<String>)]
    model_sha: Value,
    #[schema(value_type = String, example = "float32")]
    model_dtype: Value,
    served_model_name: String,
    model_type: Option<ModelType>,
    max_concurrent_requests: usize,
    /// Tokens that an input can have.
    max_input_length: usize,
    max_batch_tokens: usize,
    max_batch_requests: Option<usize>,
    max_client_batch_size: usize,
    auto_truncate: bool,
    tokenization_workers: usize,
    version: &'static str,
    sha: Option<String>,
    docker_label: Option<String>,
    library_version: String,
    #[schema(value_type = String, example = "onnxruntime")]
    engine: Value,
    /// Batches that are computed at once.
    slots: usize,
    /// Of a vector.
    dimensions: usize,
}

/// What the model is for.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelType {
    Embedding {
        #[schema(value_type = Option<String>, example = "mean")]
        pooling: Option<Pool>,
    },
    Classifier(LabelMaps),
    Reranker(LabelMaps),
    TokenClassifier(LabelMaps),
}

/// What the server is: the family's fields, and the library's version, engine and slots.
#[utoipa::path(get, path = "/info", tag = "Server", responses((status = 200, description = "Model, limits and versions", body = Info)))]
pub async fn info(State(app): State<Arc<App>>) -> Json<Info> {
    let (limits, model, info) = (&app.limits, &app.model_json, app.model.info());
    let model_type = info.task.map(|task| match task {
        Task::Embedding => ModelType::Embedding { pooling: info.pool },
        Task::Classifier if info.labels == 1 => ModelType::Reranker(app.labels.maps()),
        Task::Classifier => ModelType::Classifier(app.labels.maps()),
        Task::TokenClassifier => ModelType::TokenClassifier(app.labels.maps()),
    });
    Json(Info {
        model_id: app.model_id.clone(),
        model_sha: model["commit"].clone(),
        model_dtype: model["dtype"].clone(),
        served_model_name: app.served_model_name.clone(),
        model_type,
        max_concurrent_requests: limits.max_concurrent_requests,
        max_input_length: info.max_length,
        max_batch_tokens: limits.max_batch_tokens,
        max_batch_requests: limits.max_batch_requests,
        max_client_batch_size: limits.max_client_batch_size,
        auto_truncate: limits.auto_truncate,
        tokenization_workers: limits.tokenization_workers,
        version: env!("CARGO_PKG_VERSION"),
        sha: None,
        docker_label: None,
        library_version: bei_backend::version().to_string(),
        engine: model["engine"].clone(),
        slots: info.slots,
        dimensions: info.dimensions,
    })
}
