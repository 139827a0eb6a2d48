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
mod model;
mod options;
mod raw;
mod result;
mod warmup;

pub use backend::{BeiBackend, ItemEmbedding};
pub use batch::{Outputs, Span, Text, TokenBatch};
pub use contract::{
    Backend, BackendError, Batch, Embedding, Embeddings, ModelType, Pool, Prediction, Predictions,
};
pub use error::{Error, Status};
pub use ffi::{CancelToken, api_version, options_schema, set_log_handler, version};
pub use info::{Info, Task};
pub use model::Model;
pub use options::{Aggregation, CallOptions, LogLevel, Options, Priority, Side};
pub use result::{BatchResult, Entity, ItemOutputs, Rows, SpanVectors, Stats, TokenVectors, Tokens};
pub use warmup::{health_batch, start_up, warm_up_batch};
