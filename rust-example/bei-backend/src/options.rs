use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ffi::CancelToken;

/// Options of [`crate::Model::open`]: one JSON object. Its keys are those of [`crate::options_schema`]; the library refuses
/// unknown ones, and values of another type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Options(Map<String, Value>);

impl Options {
    /// Options for a model's folder, or its id on a hub; all else stays at its default.
    pub fn new(model: impl Into<String>) -> Options {
        Options(Map::new()).with("model", model.into())
    }

    /// Sets one key.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Options {
        self.0.insert(key.to_string(), value.into());
        self
    }

    /// Lays `over` upon these options, objects key by key.
    pub fn merge(&mut self, over: Map<String, Value>) {
        merge(&mut self.0, over);
    }
}

fn merge(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Object(base)), Value::Object(value)) => merge(base, value),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Options of one call: `bei_call_options`. What is `None` or default is left to the model and the init options.
#[derive(Clone, Debug, Default)]
pub struct CallOptions<'a> {
    /// Longest time from entry to return.
    pub timeout: Option<Duration>,
    /// Ends the call early when triggered.
    pub cancel: Option<&'a CancelToken>,
    /// A prompt of the model, put before each text.
    pub prompt_name: Option<&'a str>,
    /// Whether texts longer than the model takes are cut, or fail with [`crate::Status::TooLong`].
    pub truncate: Option<bool>,
    /// The side that is cut off.
    pub truncation_side: Option<Side>,
    /// Keeps the first numbers of pooled vectors only (Matryoshka); 0 keeps all.
    pub dimensions: u32,
    /// Whether pooled vectors are brought to length 1 (L2).
    pub normalize: Option<bool>,
    /// The call's class in the library's queue.
    pub priority: Priority,
    /// Whether `tokenize` adds the template's special tokens; default yes.
    pub add_special_tokens: Option<bool>,
    /// Whether `decode` leaves special tokens out; default yes.
    pub skip_special_tokens: Option<bool>,
    /// How `predict_tokens_texts` joins tokens to entities.
    pub aggregation: Aggregation,
    /// Whether runs may also hold items of other calls; default yes. A router that forms batches itself says no: a run that hangs or
    /// fails is then of one batch only.
    pub dynamic_batching: Option<bool>,
    /// Whether the engine may run a batch of tokens in the calling thread, on its stack; default no. That saves two switches of threads,
    /// but the call returns with its run, even where that never ends: it is for callers that watch their calls. No effect with a timeout
    /// or a cancel token.
    pub caller_runs: Option<bool>,
}

impl CallOptions<'_> {
    /// For a batch that a router has formed: it runs apart from other calls' items.
    pub fn formed() -> Self {
        CallOptions { dynamic_batching: Some(false), ..CallOptions::default() }
    }
}

/// A side of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The end.
    Right,
    /// The beginning.
    Left,
}

/// A class in the library's queue. Classes share the engine by weight, so that none starves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// Weight 1.
    Low,
    /// Weight 4.
    #[default]
    Normal,
    /// Weight 16.
    High,
}

/// How tokens are joined to entities, as transformers' pipeline does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Aggregation {
    /// Every token stands alone.
    #[default]
    None,
    /// Equal labels are joined.
    Simple,
    /// A word has the label of its first token.
    First,
    /// A word has the label of its tokens' mean score.
    Average,
    /// A word has the label of its best token.
    Max,
}

/// The level of a log line of the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// For developers.
    Debug,
    /// What happens.
    Info,
    /// Something is odd, and work goes on.
    Warn,
    /// Something failed.
    Error,
}
