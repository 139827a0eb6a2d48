use std::path::Path;

use crate::batch::TokenBatch;
use crate::contract::{
    Backend, BackendError, Batch, Embedding, Embeddings, ModelType, Pool, Prediction, Predictions,
    TokenBackend, TokenPredictions,
};
use crate::error::{Error, Status};
use crate::info::Task;
use crate::model::Model;
use crate::options::{CallOptions, Options};

/// libbei.so as the family's [`Backend`]: raw outputs, as normalising and cutting to dimensions is the router's work there.
///
/// It has no limit on the items of a batch, because the library splits batches that are larger than an engine run.
#[derive(Debug)]
pub struct BeiBackend {
    model: Model,
    model_type: Option<ModelType>,
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
        match &backend.model_type {
            Some(found) if *found == model_type => Ok(backend),
            Some(found) => {
                Err(BackendError::Start(format!("the model in {folder} is {found:?}, not {model_type:?}")))
            }
            None => Err(BackendError::Start(format!(
                "the model in {folder} is a token classifier, not {model_type:?}; open it with BeiBackend::open"
            ))),
        }
    }

    /// Opens a model with all of the library's options. The model's own files say what type it is.
    pub fn open(options: &Options) -> Result<BeiBackend, Error> {
        let model = Model::open(options)?;
        let model_type = model.info().model_type();
        if model_type.is_none() && model.info().task != Some(Task::TokenClassifier) {
            let (task, pool) = (model.info().task, model.info().pool);
            return Err(Error::new(
                Status::Unsupported,
                format!(
                    "the Backend trait has no call for a model with task {task:?} and pooling {pool:?}; use Model"
                ),
            ));
        }
        Ok(BeiBackend { model, model_type })
    }

    /// The model, for the calls that the trait does not have.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What the model does; `None` for a token classifier, for which the family has no name: its call is
    /// [`TokenBackend::predict_tokens`].
    pub fn model_type(&self) -> Option<&ModelType> {
        self.model_type.as_ref()
    }

    /// As [`Backend::embed`], but each item succeeds or fails on its own, and the batch is borrowed. The index lists are
    /// disjoint here; a pooled item of a SPLADE model gets a vector of the vocabulary's size. Of `options`, normalising and
    /// dimensions do not count: the vectors are left as the model's pooling and dense modules made them.
    pub fn embed_items(
        &self,
        batch: &TokenBatch,
        options: &CallOptions,
    ) -> Result<Vec<Result<ItemEmbedding, Error>>, Error> {
        let splade = self.model_type == Some(ModelType::Embedding(Pool::Splade));
        let mut sparse = batch.sparse_indices.to_vec();
        let mut asked = *batch;
        if splade {
            sparse.extend_from_slice(batch.pooled_indices);
            sparse.sort_unstable();
            asked = TokenBatch { pooled_indices: &[], sparse_indices: &sparse, ..asked };
        }
        let raw = CallOptions { normalize: Some(false), dimensions: 0, ..options.clone() };
        let result = self.model.embed(&asked, &raw)?;
        let raw = is_in(batch.raw_indices, batch.len());
        let sparse = is_in(batch.sparse_indices, batch.len());
        let item = |i: usize| {
            if raw[i] {
                let rows = result.token_vectors(i)?;
                return Ok(ItemEmbedding::All(rows.iter().map(<[f32]>::to_vec).collect()));
            }
            if !splade && !sparse[i] {
                return Ok(ItemEmbedding::Pooled(result.pooled(i)?.to_vec()));
            }
            let (ids, weights) = result.sparse(i)?;
            let entries = ids.iter().copied().zip(weights.iter().copied());
            if sparse[i] {
                return Ok(ItemEmbedding::Sparse(entries.collect()));
            }
            let mut dense = vec![0.0; self.model.info().vocab_size];
            for (id, weight) in entries {
                if let Some(entry) = dense.get_mut(id as usize) {
                    *entry = weight;
                }
            }
            Ok(ItemEmbedding::Pooled(dense))
        };
        Ok((0..batch.len()).map(item).collect())
    }

    /// As [`Backend::predict`], but each item succeeds or fails on its own, and the batch is borrowed.
    pub fn predict_items(
        &self,
        batch: &TokenBatch,
        options: &CallOptions,
    ) -> Result<Vec<Result<Prediction, Error>>, Error> {
        let result = self.model.predict(batch, options)?;
        Ok((0..batch.len()).map(|i| result.pooled(i).map(<[f32]>::to_vec)).collect())
    }

    /// As [`Backend::embed`], with the batch borrowed, options of the call, and an error that has a status. In item order.
    pub fn embed_batch(&self, batch: &TokenBatch, options: &CallOptions) -> Result<Vec<Embedding>, Error> {
        let items = self.embed_items(batch, options)?;
        let width = match self.model_type {
            Some(ModelType::Embedding(Pool::Splade)) => self.model.info().vocab_size,
            _ => self.model.info().dimensions,
        };
        let items = items.into_iter().map(|item| item.and_then(Embedding::try_from)).collect();
        all_or_nothing(items, || Embedding::Pooled(vec![0.0; width]))
    }

    /// As [`Backend::predict`], with the batch borrowed, options of the call, and an error that has a status. In item order.
    pub fn predict_batch(&self, batch: &TokenBatch, options: &CallOptions) -> Result<Vec<Prediction>, Error> {
        let items = self.predict_items(batch, options)?;
        all_or_nothing(items, || vec![f32::NAN; self.model.info().labels])
    }

    /// As [`TokenBackend::predict_tokens`], but each item succeeds or fails on its own, and the batch is borrowed.
    pub fn predict_tokens_items(
        &self,
        batch: &TokenBatch,
        options: &CallOptions,
    ) -> Result<Vec<Result<Vec<Prediction>, Error>>, Error> {
        let every: Vec<u32> = (0..).take(batch.len()).collect();
        let asked = TokenBatch { pooled_indices: &[], raw_indices: &every, sparse_indices: &[], ..*batch };
        let result = self.model.predict_tokens(&asked, options)?;
        let rows = |i| Ok(result.token_vectors(i)?.iter().map(<[f32]>::to_vec).collect());
        Ok((0..batch.len()).map(rows).collect())
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

/// The answer to one item of [`BeiBackend::embed_items`]: the family's [`Embedding`], or what the trait has no name for.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemEmbedding {
    /// One vector.
    Pooled(Vec<f32>),
    /// One vector for each of the item's tokens that the model gives one.
    All(Vec<Vec<f32>>),
    /// Weights above zero by token id, ascending.
    Sparse(Vec<(u32, f32)>),
}

impl TryFrom<ItemEmbedding> for Embedding {
    type Error = Error;

    fn try_from(item: ItemEmbedding) -> Result<Embedding, Error> {
        match item {
            ItemEmbedding::Pooled(vector) => Ok(Embedding::Pooled(vector)),
            ItemEmbedding::All(rows) => Ok(Embedding::All(rows)),
            ItemEmbedding::Sparse(_) => {
                Err(Error::new(Status::Internal, "sparse weights that nobody asked for".to_string()))
            }
        }
    }
}

impl Backend for BeiBackend {
    fn health(&self) -> Result<(), BackendError> {
        Ok(self.model.health(false, &CallOptions::default())?)
    }

    fn is_padded(&self) -> bool {
        self.model.info().is_padded
    }

    fn embed(&self, batch: Batch) -> Result<Embeddings, BackendError> {
        Ok(by_index(self.embed_batch(&TokenBatch::from(&batch), &CallOptions::formed())?))
    }

    fn predict(&self, batch: Batch) -> Result<Predictions, BackendError> {
        Ok(by_index(self.predict_batch(&TokenBatch::from(&batch), &CallOptions::formed())?))
    }
}

impl TokenBackend for BeiBackend {
    fn predict_tokens(&self, batch: Batch) -> Result<TokenPredictions, BackendError> {
        let items = self.predict_tokens_items(&TokenBatch::from(&batch), &CallOptions::formed())?;
        Ok(by_index(all_or_nothing(items, Vec::new)?))
    }
}

fn by_index<T, M: FromIterator<(usize, T)>>(items: Vec<T>) -> M {
    items.into_iter().enumerate().collect()
}

/// The family's rule: one failed item fails its batch. The error names the item. An item without tokens is none of those:
/// the family's routers send some, together with others' items, so that it has an answer, `empty`.
fn all_or_nothing<T>(items: Vec<Result<T, Error>>, empty: impl Fn() -> T) -> Result<Vec<T>, Error> {
    let named = |(i, item): (usize, Result<T, Error>)| match item {
        Ok(value) => Ok(value),
        Err(Error { status: Status::Empty, .. }) => Ok(empty()),
        Err(Error { status, message }) => Err(Error { status, message: format!("item {i}: {message}") }),
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
