//! An HTTP and gRPC server for embeddings over libbei.so, with the routes, services, flags and error shapes of
//! text-embeddings-inference.
//!
//! A request goes through: body ([`mod@inputs`]), admission, tokenizing (by the library, on blocking threads), the scheduler
//! (batches under a token budget, formed only when the library has a free slot), and back to its handler, which cuts and normalises. [`App`] holds what the routes share; [`serve`] runs them until told to stop.
#![deny(unsafe_code, clippy::unwrap_used, clippy::expect_used)]

mod access;
mod app;
mod args;
mod auth;
mod body;
mod call;
mod capacity;
mod code_points;
mod compute;
mod encode;
mod failure;
mod finish;
mod grpc;
mod inference;
pub mod inputs;
mod labels;
pub mod logging;
mod metrics;
mod reply;
mod routes;
mod scheduler;
mod server;
#[allow(unsafe_code)]
mod signals;
mod timing;
mod tokenizer;
mod warmup;
mod work;

pub use app::{App, StartError};
pub use args::Args;
pub use scheduler::End;
pub use server::serve;
pub use signals::stop_signal;
