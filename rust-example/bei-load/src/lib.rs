//! A load generator for servers of the text-embeddings-inference family. It learns the answer to each of its inputs in calm, then
//! sends them under load, in a closed loop (so many connections) or an open one (so many requests a second, whatever the server
//! does), and compares every answer byte for byte. What comes out is counted: right, wrong, swapped, doubled and lost answers,
//! status codes, latencies, processor time and memory.
#![deny(unsafe_code)]

mod arrivals;
mod class;
mod connection;
pub mod mock;
mod plan;
mod process;
mod report;
mod run;
mod tally;

pub use class::{Class, Form, Span};
pub use connection::{Connection, Outcome, Target};
pub use plan::{Item, Plan, PlanError};
pub use process::{Processes, Sample};
pub use report::Report;
pub use run::{Load, Pace, run};
pub use tally::{ClassTally, Lost, Tally};
