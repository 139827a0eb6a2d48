//! The seam between routes and core: what a route wants computed, and what it gets. Routes of every protocol turn a request
//! into [`Work`] items and a [`Context`], ask for an [admission](crate::app::App::admit) before they spend anything on it, and call
//! [`App::compute`](crate::app::App::compute).

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use bei_backend::{Aggregation, Entity, Info, ItemOutputs, Outputs, Priority, Rows, Span};

use crate::failure::Failure;
use crate::tokenizer::EncodeOptions;

/// What is computed of an input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Want {
    /// A pooled vector, token vectors, sparse weights: any union of [`Outputs::POOLED`], [`Outputs::TOKEN_VECTORS`] and
    /// [`Outputs::SPARSE`], from one pass.
    Embed(Outputs),
    /// Raw logits of a classifier or reranker.
    Logits,
    /// Named spans of a token classifier. Needs a text: the library joins tokens to entities.
    Entities(Aggregation),
    /// A vector for each span (late chunking). Needs a text.
    Spans(Vec<Span>),
}

/// What an input is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Payload {
    /// Token ids, special ones included.
    Tokens {
        /// At least one, each below the vocabulary's size.
        ids: Vec<u32>,
        /// One for each id; `None`: all zero.
        type_ids: Option<Vec<u32>>,
    },
    /// A text that the library tokenizes in the call itself.
    Text {
        /// Without its prompt.
        text: String,
        /// Shared by the inputs of a request.
        options: Arc<EncodeOptions>,
        /// Tokens that it has, prompt and special ones included; more than the model takes where it will be cut.
        tokens: usize,
    },
}

/// One input, as the queue takes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Work {
    pub want: Want,
    pub payload: Payload,
}

impl Work {
    /// An input of token ids.
    pub fn tokens(want: Want, ids: Vec<u32>, type_ids: Option<Vec<u32>>) -> Work {
        Work { want, payload: Payload::Tokens { ids, type_ids } }
    }

    /// An input that the library tokenizes.
    pub fn text(want: Want, text: String, options: Arc<EncodeOptions>, tokens: usize) -> Work {
        Work { want, payload: Payload::Text { text, options, tokens } }
    }

    /// Its length, which is its cost.
    pub fn length(&self) -> usize {
        match &self.payload {
            Payload::Tokens { ids, .. } => ids.len(),
            Payload::Text { tokens, .. } => *tokens,
        }
    }

    /// The most numbers that its answer can hold, but for sparse weights, of which there are few.
    pub fn numbers(&self, info: &Info) -> usize {
        match &self.want {
            Want::Embed(outputs) => {
                let pooled = if outputs.contains(Outputs::POOLED) { info.dimensions } else { 0 };
                let tokens = if outputs.contains(Outputs::TOKEN_VECTORS) { info.token_dimensions } else { 0 };
                pooled + tokens.saturating_mul(self.length())
            }
            Want::Logits => info.labels,
            Want::Entities(_) => info.token_dimensions.saturating_mul(self.length()),
            Want::Spans(spans) => info.dimensions.saturating_mul(spans.len()),
        }
    }
}

/// What holds for all inputs of a request. As an extractor it reads the request's headers.
#[derive(Clone, Debug)]
pub struct Context {
    /// When the request arrived.
    pub arrival: Instant,
    /// The header X-Request-Priority: low, normal or high.
    pub priority: Priority,
    /// The earlier of Request-Timeout-Ms (counted from arrival) and Request-Deadline-Ms (Unix time).
    pub deadline: Option<Instant>,
    /// Whether the request has one input that is not in a list.
    pub single: bool,
    /// Whether the request waits where there is too much under way, in place of being refused.
    pub waits: bool,
    /// Shared by the parts of a request that has several: numbers in their answers so far.
    pub numbers: Option<Arc<AtomicUsize>>,
}

impl Default for Context {
    /// A request that arrives now and asks for nothing special.
    fn default() -> Context {
        Context {
            arrival: Instant::now(),
            priority: Priority::Normal,
            deadline: None,
            single: false,
            waits: false,
            numbers: None,
        }
    }
}

impl Context {
    /// The context of the next request of a stream: it arrives now, and the deadline is the stream's.
    pub fn again(&self) -> Context {
        Context { arrival: Instant::now(), ..self.clone() }
    }

    /// What the headers of a request, or gRPC metadata, ask for.
    pub fn from_headers(headers: &HeaderMap) -> Result<Context, Failure> {
        let mut context = Context::default();
        if let Some(timeout) = milliseconds(headers, "request-timeout-ms")? {
            context.deadline = context.arrival.checked_add(timeout);
        }
        if let Some(at) = milliseconds(headers, "request-deadline-ms")? {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            // One that has passed already is met by nothing; far ones are as good as none.
            if let Some(deadline) = context.arrival.checked_add(at.saturating_sub(now)) {
                context.deadline = Some(context.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
            }
        }
        if let Some(value) = headers.get("x-request-priority") {
            context.priority = match value.to_str().unwrap_or_default().to_ascii_lowercase().as_str() {
                "low" => Priority::Low,
                "normal" => Priority::Normal,
                "high" => Priority::High,
                _ => {
                    return Err(Failure::validation(format!(
                        "the header x-request-priority is {value:?}; it can be low, normal or high"
                    )));
                }
            };
        }
        Ok(context)
    }
}

/// The value of a header that holds milliseconds.
fn milliseconds(headers: &HeaderMap, name: &str) -> Result<Option<Duration>, Failure> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match value.to_str().ok().and_then(|text| text.trim().parse().ok()) {
        Some(number) => Ok(Some(Duration::from_millis(number))),
        None => Err(Failure::validation(format!(
            "the header {name} is {value:?}; it must be a whole number of milliseconds, 0 to {}",
            u64::MAX
        ))),
    }
}

impl<S: Sync> FromRequestParts<S> for Context {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Context, Failure> {
        Context::from_headers(&parts.headers)
    }
}

/// A token of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    pub id: u32,
    /// The vocabulary's spelling.
    pub text: String,
    /// Added by the template, not from the text.
    pub special: bool,
    /// First Unicode code point in prompt + text.
    pub start: u32,
    /// One past the last; 0 and 0 for special tokens.
    pub end: u32,
}

/// What a token classifier says of a text.
#[derive(Clone, Debug)]
pub struct Entities {
    /// In text order.
    pub entities: Vec<Entity>,
    /// All tokens.
    pub tokens: Vec<Piece>,
    /// Raw logits of each token: as many columns as there are labels.
    pub logits: Rows,
}

/// What was computed of one input.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Of [`Want::Embed`]: exactly the outputs that were wanted, raw (not normalised, all dimensions).
    Embedding(ItemOutputs),
    /// Of [`Want::Logits`].
    Logits(Vec<f32>),
    /// Of [`Want::Entities`].
    Entities(Entities),
    /// Of [`Want::Spans`]: a row for each span, raw.
    Spans(Rows),
}

/// The answer to one input. Identical inputs that are under way at once share an outcome.
#[derive(Clone, Debug)]
pub struct Answer {
    pub outcome: Arc<Outcome>,
    /// From the queue's door to the start of its run.
    pub queue: Duration,
    /// Its run.
    pub inference: Duration,
}

impl Answer {
    /// The outcome as the caller's own. It is copied only where another input shares it.
    pub fn into_outcome(self) -> Outcome {
        Arc::unwrap_or_clone(self.outcome)
    }
}

/// Why a request failed.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The input that it is about; `None`: the request as a whole.
    pub item: Option<usize>,
    pub failure: Failure,
}

impl Refusal {
    /// The failure with the input's name before it.
    pub fn named(self, name: impl Fn(usize) -> String) -> Failure {
        match self.item {
            Some(i) => self.failure.of(&name(i)),
            None => self.failure,
        }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        Refusal { item: None, failure }
    }
}
