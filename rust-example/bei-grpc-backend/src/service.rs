//! The calls of embedding.v1.

use std::sync::Arc;

use bei_backend::{BeiBackend, CallOptions, CancelToken, Embedding, Error, Status, TokenBatch};
use bei_proto::embedding::v1;
use bei_proto::embedding::v1::embedding_service_server::EmbeddingService;
use tokio::sync::Semaphore;
use tonic::{Request, Response};

/// The library behind the protocol. As many calls as the engine has slots are in the library; the others wait in order.
#[derive(Debug)]
pub struct Service {
    backend: Arc<BeiBackend>,
    slots: Arc<Semaphore>,
}

impl Service {
    pub fn new(backend: Arc<BeiBackend>) -> Service {
        let slots = Arc::new(Semaphore::new(backend.model().info().slots.max(1)));
        Service { backend, slots }
    }

    /// Runs `call` on a blocking thread. When the caller goes, or its deadline passes, the call is cancelled in the library.
    async fn run<T: Send + 'static>(
        &self,
        request: Request<v1::EmbedRequest>,
        call: fn(&BeiBackend, &TokenBatch, &CallOptions) -> Result<Vec<T>, Error>,
    ) -> Result<Vec<T>, tonic::Status> {
        let request = request.into_inner();
        let permit = self.slots.clone().acquire_owned().await;
        let cancel = Arc::new(CancelToken::new().map_err(status)?);
        let _cancelled_when_dropped = TriggerOnDrop(cancel.clone());
        let backend = self.backend.clone();
        let called = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let every: Vec<u32> = (0..).take(request.cu_seq_lengths.len().saturating_sub(1)).collect();
            let options = CallOptions { cancel: Some(&cancel), ..CallOptions::formed() };
            call(&backend, &batch(&request, &every), &options)
        });
        match called.await {
            Ok(answer) => answer.map_err(status),
            Err(error) => Err(tonic::Status::internal(format!("a defect of bei-grpc-backend: {error}"))),
        }
    }
}

struct TriggerOnDrop(Arc<CancelToken>);

impl Drop for TriggerOnDrop {
    fn drop(&mut self) {
        // After the call's end it does nothing.
        let _ = self.0.trigger();
    }
}

/// The family always sends type ids and position ids; where there are none, they are the library's defaults.
fn batch<'a>(request: &'a v1::EmbedRequest, every: &'a [u32]) -> TokenBatch<'a> {
    let given = |ids: &'a [u32]| (!ids.is_empty() || request.input_ids.is_empty()).then_some(ids);
    TokenBatch {
        input_ids: &request.input_ids,
        token_type_ids: given(&request.token_type_ids),
        position_ids: given(&request.position_ids),
        cumulative_seq_lengths: &request.cu_seq_lengths,
        pooled_indices: every,
        max_length: request.max_length,
        ..TokenBatch::default()
    }
}

/// The family's client reads the message alone; the code is for others.
fn status(error: Error) -> tonic::Status {
    let code = match error.status {
        Status::InvalidArgument
        | Status::BufferTooSmall
        | Status::Empty
        | Status::TooLong
        | Status::TokenOutOfRange => tonic::Code::InvalidArgument,
        Status::Unsupported => tonic::Code::FailedPrecondition,
        Status::Overloaded => tonic::Code::ResourceExhausted,
        Status::Timeout => tonic::Code::DeadlineExceeded,
        Status::Cancelled => tonic::Code::Cancelled,
        Status::Unhealthy | Status::ShutDown | Status::InvalidHandle | Status::Forked => {
            tonic::Code::Unavailable
        }
        _ => tonic::Code::Internal,
    };
    tonic::Status::new(code, error.message)
}

#[tonic::async_trait]
impl EmbeddingService for Service {
    async fn embed(
        &self,
        request: Request<v1::EmbedRequest>,
    ) -> Result<Response<v1::EmbedResponse>, tonic::Status> {
        let vectors = self.run(request, BeiBackend::embed_batch).await?;
        let embedding = |vector| match vector {
            Embedding::Pooled(values) => Ok(v1::Embedding { values }),
            Embedding::All(_) => Err(tonic::Status::internal("token vectors that nobody asked for")),
        };
        let embeddings = vectors.into_iter().map(embedding).collect::<Result<_, _>>()?;
        Ok(Response::new(v1::EmbedResponse { embeddings }))
    }

    async fn predict(
        &self,
        request: Request<v1::EmbedRequest>,
    ) -> Result<Response<v1::PredictResponse>, tonic::Status> {
        let logits = self.run(request, BeiBackend::predict_batch).await?;
        let scores = logits.into_iter().map(|values| v1::Score { values }).collect();
        Ok(Response::new(v1::PredictResponse { scores }))
    }

    async fn health(
        &self,
        _: Request<v1::HealthRequest>,
    ) -> Result<Response<v1::HealthResponse>, tonic::Status> {
        self.backend.model().health(false, &CallOptions::default()).map_err(status)?;
        Ok(Response::new(v1::HealthResponse {}))
    }
}
