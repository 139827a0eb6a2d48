//! The contract between router and backend of the text-embeddings-inference family, name for name (its
//! `backends/core`), so that a router of that family takes [`crate::BeiBackend`] as it is.

use std::fmt;

use nohash_hasher::IntMap;
use serde::{Deserialize, Serialize};

/// How token vectors become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// The first token's.
    Cls,
    /// The mean of all tokens'.
    Mean,
    /// Vocabulary weights of a masked language model: `max(log(1 + relu(logits)))` over the tokens.
    Splade,
    /// The last token's.
    LastToken,
}

impl Pool {
    /// The value of the library's option "pooling".
    pub fn option(self) -> &'static str {
        match self {
            Pool::Cls => "cls",
            Pool::Mean => "mean",
            Pool::Splade => "splade",
            Pool::LastToken => "lasttoken",
        }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pool::Cls => "cls",
            Pool::Mean => "mean",
            Pool::Splade => "splade",
            Pool::LastToken => "last_token",
        })
    }
}

/// What a model does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelType {
    /// Class logits.
    Classifier,
    /// Vectors.
    Embedding(Pool),
}

/// A batch of token sequences, packed without padding. n = `cumulative_seq_lengths.len() - 1`.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Token ids, `[T]`.
    pub input_ids: Vec<u32>,
    /// Token type ids, `[T]`.
    pub token_type_ids: Vec<u32>,
    /// Position ids, `[T]`.
    pub position_ids: Vec<u32>,
    /// `[n + 1]`: first 0, last T, never falling.
    pub cumulative_seq_lengths: Vec<u32>,
    /// Tokens of the longest item.
    pub max_length: u32,
    /// Items that want one vector, ascending.
    pub pooled_indices: Vec<u32>,
    /// Items that want every token's vector, ascending.
    pub raw_indices: Vec<u32>,
}

impl Batch {
    /// The number of items, n.
    pub fn len(&self) -> usize {
        self.cumulative_seq_lengths.len().saturating_sub(1)
    }

    /// Whether the batch has no item.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The answer to one item of `embed`.
#[derive(Clone, Debug, PartialEq)]
pub enum Embedding {
    /// One vector.
    Pooled(Vec<f32>),
    /// One vector for each of the item's tokens, special ones included.
    All(Vec<Vec<f32>>),
}

/// Item index to embedding. Every item of the batch is there, of the kind that was asked for.
pub type Embeddings = IntMap<usize, Embedding>;

/// The answer to one item of `predict`: raw logits, one for each label.
pub type Prediction = Vec<f32>;

/// Item index to logits. Every item of the batch is there.
pub type Predictions = IntMap<usize, Prediction>;

/// Why a backend failed. It concerns the whole batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// No engine can be used here.
    #[error("No backend found")]
    NoBackend,
    /// The model could not be opened.
    #[error("Could not start backend: {0}")]
    Start(String),
    /// A batch failed.
    #[error("{0}")]
    Inference(String),
    /// The engine or device is lost.
    #[error("Backend is unhealthy")]
    Unhealthy,
    /// A weights file or tensor is missing.
    #[error("Weights not found: {0}")]
    WeightsNotFound(String),
}

/// A backend: what a router of the family calls, from one thread at a time.
pub trait Backend {
    /// Whether the backend works; cheap.
    fn health(&self) -> Result<(), BackendError>;

    /// The most items of a batch, if there is such a limit.
    fn max_batch_size(&self) -> Option<usize> {
        None
    }

    /// Whether a batch costs items times longest, not the sum of tokens.
    fn is_padded(&self) -> bool;

    /// Computes embeddings: raw outputs, neither normalised nor cut, as that is the router's work.
    fn embed(&self, batch: Batch) -> Result<Embeddings, BackendError>;

    /// Computes class logits.
    fn predict(&self, batch: Batch) -> Result<Predictions, BackendError>;
}

/// Item index to the raw logits of each of the item's tokens, special ones included. Every item of the batch is there.
pub type TokenPredictions = IntMap<usize, Vec<Prediction>>;

/// What a backend of a token classifier does besides: the family's trait has no call for it. Health and warm-up go through it
/// as those of a classifier go through [`Backend::predict`].
pub trait TokenBackend: Backend {
    /// Computes class logits of every token of every item; the index lists of the batch do not matter.
    fn predict_tokens(&self, batch: Batch) -> Result<TokenPredictions, BackendError>;
}
