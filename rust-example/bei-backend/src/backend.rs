use std::path::Path;

use crate::batch::TokenBatch;
use crate::contract::{
    Backend, BackendError, Batch, Embedding, Embeddings, ModelType, Pool, Prediction, Predictions,
};
use crate::error::{Error, Status};
use crate::model::Model;
use crate::options::{CallOptions, Options};
use crate::result::BatchResult;

/// libbei.so as the family's [`Backend`]: raw outputs, as normalising and cutting to dimensions is the router's work there.
///
/// It has no limit on the items of a batch, because the library splits batches that are larger than an engine run.
#[derive(Debug)]
pub struct BeiBackend {
    model: Model,
    model_type: ModelType,
}

/// The vectors are left as the model's pooling and dense modules made them.
fn raw_outputs() -> CallOptions<'static> {
    CallOptions { normalize: Some(false), ..CallOptions::default() }
}

impl BeiBackend {
    /// Opens the model in `model_path` as the family's `init_backend` does. `dtype` is the computation's: "float32",
    /// "float16" and so on. A model that is not of `model_type` is an error.
    pub fn new(model_path: &Path, dtype: &str, model_type: ModelType) -> Result<BeiBackend, BackendError> {
        let folder = model_path.to_str().ok_or_else(|| {
            BackendError::Start(format!("the model's path {} is not UTF-8", model_path.display()))
        })?;
        let mut options = Options::new(folder).with("dtype", dtype);
        if let ModelType::Embedding(pool) = &model_type {
            options = options.with("pooling", pool.option());
        }
        let backend = BeiBackend::open(&options)?;
        if backend.model_type != model_type {
            let found = &backend.model_type;
            return Err(BackendError::Start(format!(
                "the model in {folder} is {found:?}, not {model_type:?}"
            )));
        }
        Ok(backend)
    }

    /// Opens a model with all of the library's options. The model's own files say what type it is.
    pub fn open(options: &Options) -> Result<BeiBackend, Error> {
        let model = Model::open(options)?;
        let Some(model_type) = model.info().model_type() else {
            let (task, pool) = (model.info().task, model.info().pool);
            return Err(Error::new(
                Status::Unsupported,
                format!("the Backend trait has no call for a model with task {task:?} and pooling {pool:?}"),
            ));
        };
        Ok(BeiBackend { model, model_type })
    }

    /// The model, for the calls that the trait does not have.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What the model does.
    pub fn model_type(&self) -> &ModelType {
        &self.model_type
    }

    /// As [`Backend::embed`], but each item succeeds or fails on its own, and the batch is borrowed. `pooled_indices` and
    /// `raw_indices` are disjoint here; a pooled item of a SPLADE model gets a vector of the vocabulary's size.
    pub fn embed_items(&self, batch: &TokenBatch) -> Result<Vec<Result<Embedding, Error>>, Error> {
        if self.model_type != ModelType::Embedding(Pool::Splade) {
            let result = self.model.embed(batch, &raw_outputs())?;
            let raw = is_in(batch.raw_indices, batch.len());
            return Ok((0..batch.len()).map(|i| embedding(&result, i, raw[i])).collect());
        }
        let batch = TokenBatch { pooled_indices: &[], sparse_indices: batch.pooled_indices, ..*batch };
        let result = self.model.embed(&batch, &raw_outputs())?;
        let raw = is_in(batch.raw_indices, batch.len());
        let item = |i: usize| {
            if raw[i] {
                return embedding(&result, i, true);
            }
            let (ids, weights) = result.sparse(i)?;
            let mut dense = vec![0.0; self.model.info().vocab_size];
            for (&id, &weight) in ids.iter().zip(weights) {
                if let Some(entry) = dense.get_mut(id as usize) {
                    *entry = weight;
                }
            }
            Ok(Embedding::Pooled(dense))
        };
        Ok((0..batch.len()).map(item).collect())
    }

    /// As [`Backend::predict`], but each item succeeds or fails on its own, and the batch is borrowed.
    pub fn predict_items(&self, batch: &TokenBatch) -> Result<Vec<Result<Prediction, Error>>, Error> {
        let result = self.model.predict(batch, &CallOptions::default())?;
        Ok((0..batch.len()).map(|i| result.pooled(i).map(<[f32]>::to_vec)).collect())
    }
}

fn is_in(indices: &[u32], n: usize) -> Vec<bool> {
    let mut flags = vec![false; n];
    for &i in indices {
        if let Some(flag) = flags.get_mut(i as usize) {
            *flag = true;
        }
    }
    flags
}

fn embedding(result: &BatchResult, i: usize, raw: bool) -> Result<Embedding, Error> {
    if raw {
        return Ok(Embedding::All(result.token_vectors(i)?.iter().map(<[f32]>::to_vec).collect()));
    }
    Ok(Embedding::Pooled(result.pooled(i)?.to_vec()))
}

impl Backend for BeiBackend {
    fn health(&self) -> Result<(), BackendError> {
        Ok(self.model.health(false, &CallOptions::default())?)
    }

    fn is_padded(&self) -> bool {
        self.model.info().is_padded
    }

    fn embed(&self, batch: Batch) -> Result<Embeddings, BackendError> {
        all_or_nothing(self.embed_items(&TokenBatch::from(&batch))?)
    }

    fn predict(&self, batch: Batch) -> Result<Predictions, BackendError> {
        all_or_nothing(self.predict_items(&TokenBatch::from(&batch))?)
    }
}

/// The family's rule: one failed item fails its batch. The error names the item.
fn all_or_nothing<T, M: FromIterator<(usize, T)>>(items: Vec<Result<T, Error>>) -> Result<M, BackendError> {
    let named = |(i, item): (usize, Result<T, Error>)| match item {
        Ok(value) => Ok((i, value)),
        Err(Error { status, message }) => {
            Err(BackendError::from(Error { status, message: format!("item {i}: {message}") }))
        }
    };
    items.into_iter().enumerate().map(named).collect()
}

impl From<Error> for BackendError {
    fn from(error: Error) -> BackendError {
        match error.status {
            Status::NoBackend => BackendError::NoBackend,
            Status::Start => BackendError::Start(error.message),
            Status::WeightsNotFound => BackendError::WeightsNotFound(error.message),
            Status::Unhealthy | Status::ShutDown | Status::InvalidHandle | Status::Forked => {
                BackendError::Unhealthy
            }
            _ => BackendError::Inference(error.message),
        }
    }
}
