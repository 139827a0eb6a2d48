//! BEI-Runtime for Rust: embeddings and class scores from `libbei.so`, safely.
//!
//! Two layers, for two kinds of programs:
//!
//! - [`Model`] is the library as it is: texts or token batches in, a [`BatchResult`] out, in which each item succeeded or
//!   failed on its own. One bad item costs nobody else.
//! - [`BeiBackend`] is the library as the [`Backend`] trait of the text-embeddings-inference family, with that family's
//!   [`Batch`], [`Embeddings`] and [`BackendError`]. There one error fails the whole batch;
//!   [`BeiBackend::embed_items`] stands beside it for routers that answer each item by itself.
//!
//! # The family's contract, item by item
//!
//! | Item | Here |
//! |---|---|
//! | `Backend`: `health`, `max_batch_size`, `is_padded`, `embed`, `predict` | the same names and signatures; boxed as `dyn Backend + Send`, and also [`Sync`] |
//! | `Batch`, `ModelType`, `Pool`, `Embedding`, `Embeddings`, `Predictions`, `BackendError` | the same fields, variants, texts and maps; errors are [`Clone`] |
//! | construction from model path, dtype and model type | [`BeiBackend::new`]; a model that is of another type is [`BackendError::Start`]. Dense modules are found in the folder, so that there are no paths of them to pass |
//! | `max_batch_size` | `None`: a batch of any size is split into runs of the engine, so that a warm-up batch which respects no limit passes |
//! | batches of zeros with positions from 0, also where a model's positions start later | computed as they are given |
//! | pooled and raw items in one batch | one pass computes both; an item's rows are its tokens', special ones included |
//! | index lists | have to be ascending; an item that is in no list, or an index without an item, is an error that names it |
//! | normalising, cutting to `dimensions`, softmax, label names, sorting | the router's |
//! | one error fails the batch | yes, and its text names the item. [`BeiBackend::embed_items`] and [`BeiBackend::predict_items`] answer item by item |
//!
//! On purpose it differs from the family's own backends in this:
//!
//! - Calls may overlap: any thread may call at any time. A router that makes one call after another loses only speed.
//! - Nothing panics, whatever the batch. A failed call leaves the backend as good as before; only a lost engine stays
//!   [`BackendError::Unhealthy`].
//! - `health` tells a lost or hung engine from a working one, in microseconds.
//! - A result with NaN or infinity is an error ([`BackendError::Inference`]), never a vector.
//! - An item without tokens, which the family's routers send where ids decode to nothing, is answered and harms no other: zeros
//!   as pooled vector, no token vectors, and logits of NaN, which the router answers with an error to that one caller.
//! - A token classifier opens too: [`TokenBackend::predict_tokens`] stands beside the trait, which has no call for it.
//!
//! `include/bei.h` is the manual for what the calls mean; the items here name the function they stand for.
//!
//! # Threads
//!
//! Every type is [`Send`] and [`Sync`]: the library allows any call on any thread, handles are integers that it checks,
//! and results are never written after they were made. Calls block; async programs make them on blocking threads.
//!
//! # Caveats
//!
//! The library lives in the process until it exits, and after `fork()` without `exec()` it answers
//! [`Status::Forked`] only.
#![deny(unsafe_code, clippy::unwrap_used, clippy::expect_used)]

mod backend;
mod batch;
mod contract;
mod error;
#[allow(unsafe_code)]
mod ffi;
mod info;
#[allow(unsafe_code)]
mod memory;
mod model;
mod options;
mod raw;
mod result;
#[allow(unsafe_code)]
mod signals;
mod warmup;

pub use backend::{BeiBackend, ItemEmbedding};
pub use batch::{Outputs, Span, Text, TokenBatch};
pub use contract::{
    Backend, BackendError, Batch, Embedding, Embeddings, ModelType, Pool, Prediction, Predictions,
    TokenBackend, TokenPredictions,
};
pub use error::{Error, Status};
pub use ffi::{CancelToken, api_version, options_schema, set_log_handler, version};
pub use info::{Info, Task};
pub use memory::{Allocator, allocator, trim};
pub use model::Model;
pub use options::{Aggregation, CallOptions, LogLevel, Options, Priority, Side};
pub use result::{BatchResult, Entity, ItemOutputs, Rows, SpanVectors, Stats, TokenVectors, Tokens};
pub use signals::run_on_signal_stack;
pub use warmup::{health_batch, start_up, warm_up_batch};
