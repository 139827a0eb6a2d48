use bei_backend::Task;
use bei_proto::tei::v1;
use tonic::{Request, Response, Status};

use crate::grpc::Services;

#[tonic::async_trait]
impl v1::info_server::Info for Services {
    async fn info(&self, _: Request<v1::InfoRequest>) -> Result<Response<v1::InfoResponse>, Status> {
        let (app, info) = (&self.app, self.app.model.info());
        let (limits, text) = (&app.limits, |key: &str| app.model_json[key].as_str().map(str::to_string));
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let model_type = match info.task {
            Some(Task::Classifier) if info.labels == 1 => v1::ModelType::Reranker,
            // The protocol has no name for a token classifier.
            Some(Task::Classifier | Task::TokenClassifier) => v1::ModelType::Classifier,
            _ => v1::ModelType::Embedding,
        };
        Ok(Response::new(v1::InfoResponse {
            version: env!("CARGO_PKG_VERSION").to_string(),
            sha: None,
            docker_label: None,
            model_id: app.model_id.clone(),
            model_sha: text("commit"),
            model_dtype: text("dtype").unwrap_or_default(),
            model_type: model_type.into(),
            max_concurrent_requests: number(limits.max_concurrent_requests),
            max_input_length: number(info.max_length),
            max_batch_tokens: number(limits.max_batch_tokens),
            max_batch_requests: limits.max_batch_requests.map(number),
            max_client_batch_size: number(limits.max_client_batch_size),
            tokenization_workers: number(limits.tokenization_workers),
        }))
    }
}
