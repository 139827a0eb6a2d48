//! An HTTP and gRPC server for embeddings over libbei.so, with the routes, services, flags and error shapes of
//! text-embeddings-inference.
//!
//! A request goes through: body ([`mod@inputs`]), admission, tokenizing (by the library, on blocking threads), the scheduler
//! (batches under a token budget, formed only when the library has a free slot), and back to its handler, which cuts and
//! normalises. Before all that stands the front, which has the listener from the first second on: ids, spans, health, and 503
//! while the model is not open. [`App`] holds what the routes share; [`run`] is the program's life, [`serve`] a server's in
//! another program.
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
mod connections;
mod encode;
mod exit;
mod failure;
mod finish;
mod front;
mod grpc;
mod inference;
pub mod inputs;
mod labels;
mod lifecycle;
pub mod logging;
mod memory;
mod metrics;
mod program;
mod reply;
mod request_id;
mod routes;
mod scheduler;
mod server;
mod serving;
#[allow(unsafe_code)]
mod signals;
mod spans;
mod timing;
mod tokenizer;
mod warmup;
mod work;

pub use app::{App, StartError};
pub use args::Args;
pub use exit::{Exit, exit_code};
pub use program::run;
pub use scheduler::End;
pub use server::serve;
pub use serving::ServingArgs;
pub use signals::stop_signal;
