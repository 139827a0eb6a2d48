use std::path::Path;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, UNIX_EPOCH};

use axum::http::HeaderValue;
use bei_backend::{Error, Info, Model, Options, Task};
use serde_json::Value;
use tokio::sync::{Mutex, watch};

use crate::access::Access;
use crate::args::Args;
use crate::failure::Failure;
use crate::grpc;
use crate::labels::Labels;
use crate::lifecycle::progress;
use crate::metrics::Metrics;
use crate::reply::Replies;
use crate::scheduler::{self, Budget, Cost, Lane, Scheduler, Spill};
use crate::tokenizer::{EncodeOptions, Tokenizer, TruncationDirection};
use crate::warmup::{check_parity, warm_up};

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The library could not open the model.
    #[error("cannot open the model {model:?}: {error}")]
    Open {
        /// As it was asked for.
        model: String,
        /// What the library says.
        error: Error,
    },
    /// The model does not have what the server needs.
    #[error("cannot serve the model {model:?}: {reason}")]
    Model {
        /// As it was asked for.
        model: String,
        /// What is missing.
        reason: String,
    },
    /// The flags contradict each other, or the model.
    #[error("{0}")]
    Flags(String),
    /// The health batch or the warm-up failed.
    #[error("the warm-up failed: {0}")]
    WarmUp(#[from] Error),
    /// A defect of this program.
    #[error("{0}")]
    Internal(String),
}

/// Limits of requests and batches.
#[derive(Clone, Debug)]
pub struct Limits {
    pub max_concurrent_requests: usize,
    pub max_batch_tokens: usize,
    pub max_batch_requests: Option<usize>,
    pub max_client_batch_size: usize,
    pub auto_truncate: bool,
    pub tokenization_workers: usize,
    pub payload_limit: usize,
    pub body_timeout: Duration,
    pub idle_timeout: Duration,
    pub max_reply_numbers: usize,
    pub scheduler: scheduler::Limits,
}

/// What the routes share: the open model, the queue before it, and the limits.
pub struct App {
    pub(crate) model: Arc<Model>,
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// The model on the second engine.
    pub(crate) spill_model: Option<Arc<Model>>,
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) metrics: Metrics,
    pub(crate) replies: Replies,
    /// Held by the one deep health check.
    pub(crate) health_turn: Mutex<()>,
    /// Messages of one gRPC stream that are under way at once.
    pub(crate) parallel_stream_requests: usize,
    /// Whether the server has been told to stop.
    pub(crate) stopping: watch::Sender<bool>,
    pub(crate) limits: Limits,
    pub(crate) access: Access,
    pub(crate) model_id: String,
    pub(crate) served_model_name: String,
    /// Everything that the library tells of the model.
    pub(crate) model_json: Value,
    /// The constant of the header x-compute-type: what runs the model, and where.
    pub(crate) compute_type: HeaderValue,
    /// Of a classifier or token classifier.
    pub(crate) labels: Labels,
    /// When the model was opened: seconds since 1970.
    pub(crate) created: u64,
}

impl App {
    /// Opens the model, checks the flags against it, and warms it up as the family's router does.
    pub async fn start(args: Args) -> Result<Arc<App>, StartError> {
        let start = tokio::task::spawn_blocking(move || App::start_blocking(&args)).await;
        start.map_err(|error| StartError::Internal(format!("the start failed: {error}")))?
    }

    fn start_blocking(args: &Args) -> Result<Arc<App>, StartError> {
        args.check().map_err(StartError::Flags)?;
        let (limits, access) = (limits(args)?, Access::new(args)?);
        let parallel_stream_requests =
            grpc::parallel(std::env::var("GRPC_MAX_PARALLEL_STREAM_REQUESTS").ok().as_deref())?;
        let model = open(args, &limits)?;
        let refused =
            |reason: &str| StartError::Model { model: args.model_id.clone(), reason: reason.to_string() };
        let info = *model.info();
        if !info.has_tokenizer {
            return Err(refused("it has no tokenizer.json, so that no text could be read"));
        }
        let model_json = model.info_json().map_err(|error| refused(&error.message))?;
        let (longest, budget) = (info.max_length, budget(&info, &limits));
        // No batch of this server is larger than its budget, or than the one longest input.
        let tokens = budget.tokens.max(longest);
        tracing::info!("warming up with {tokens} tokens");
        progress::note("warming up");
        let cost = warm_up(&model, tokens, budget)?;

        let name = |key: &str| model_json[key].as_str().unwrap_or_default();
        let folder = match &model_json["commit"] {
            Value::Null => {
                Path::new(&args.model_id).file_name().map(|name| name.to_string_lossy().into_owned())
            }
            _ => None, // a model of a hub goes by its id
        };
        let labels =
            if info.task == Some(Task::TokenClassifier) { info.token_dimensions } else { info.labels };
        let internal = |error: &dyn std::fmt::Display| StartError::Internal(error.to_string());
        let metrics = Metrics::new(longest).map_err(|error| internal(&error))?;
        let model = Arc::new(model);
        let lane = |name, model: &Arc<Model>, budget, cost| {
            let slots = model.info().slots;
            Lane::new(name, Box::new(model.clone()), budget, slots, cost, metrics.capacity.lane(name))
        };
        let mut lanes = vec![lane("main", &model, budget, cost)];
        let mut spill_model = None;
        if let Some(options) = args.spill_options() {
            let (second, budget, cost) = open_spill(args, &options, &limits, &model)?;
            let second = Arc::new(second);
            lanes.push(lane("spill", &second, budget, cost));
            spill_model = Some(second);
        }
        let scheduler = Scheduler::start(lanes, limits.scheduler, metrics.capacity.clone())
            .map_err(|error| internal(&error))?;
        Ok(Arc::new(App {
            tokenizer: Arc::new(Tokenizer::new(model.clone(), limits.tokenization_workers)),
            spill_model,
            scheduler,
            metrics,
            replies: Replies::new(args.max_replies_mib),
            health_turn: Mutex::new(()),
            stopping: watch::Sender::new(false),
            parallel_stream_requests,
            access,
            model_id: args.model_id.clone(),
            served_model_name: args
                .served_model_name
                .clone()
                .or(folder)
                .unwrap_or_else(|| args.model_id.clone()),
            compute_type: HeaderValue::try_from(format!("{}+{}", name("device"), name("engine")))
                .map_err(|error| StartError::Internal(error.to_string()))?,
            labels: Labels::new(&model_json, labels),
            created: UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
            model,
            limits,
            model_json,
        }))
    }

    /// Whether requests must carry a key.
    pub fn has_api_key(&self) -> bool {
        self.access.keys.is_some()
    }

    /// The text of a prompt, or of the default prompt. Unknown names are left to the library to refuse.
    pub(crate) fn prompt(&self, name: Option<&str>) -> &str {
        let prompt = match name {
            Some(name) => &self.model_json["prompts"][name],
            None => &self.model_json["default_prompt"],
        };
        prompt.as_str().unwrap_or_default()
    }

    /// How a request's texts are tokenized; `truncate` is the server's choice where the request does not say.
    pub(crate) fn encode_options(
        &self,
        truncate: Option<bool>,
        direction: TruncationDirection,
        prompt_name: Option<String>,
    ) -> EncodeOptions {
        EncodeOptions { truncate: truncate.unwrap_or(self.limits.auto_truncate), direction, prompt_name }
    }

    /// Checks the field `dimensions` of a request.
    pub(crate) fn check_dimensions(&self, dimensions: Option<usize>) -> Result<(), Failure> {
        let limit = self.model.info().dimensions;
        match dimensions {
            Some(dimensions) if dimensions == 0 || (limit > 0 && dimensions > limit) => {
                Err(Failure::validation(format!("dimensions is {dimensions}; it can be 1 to {limit}")))
            }
            _ => Ok(()),
        }
    }
}

fn limits(args: &Args) -> Result<Limits, StartError> {
    let processors = available_parallelism().map_or(1, |n| n.get());
    let limits = Limits {
        max_concurrent_requests: args.max_concurrent_requests,
        max_batch_tokens: args.max_batch_tokens,
        max_batch_requests: args.max_batch_requests,
        max_client_batch_size: args.max_client_batch_size.unwrap_or(u32::MAX as usize),
        auto_truncate: args.auto_truncate,
        tokenization_workers: args.tokenization_workers.unwrap_or((processors - 1).clamp(1, 64)),
        payload_limit: args.payload_limit,
        body_timeout: Duration::from_millis(args.body_timeout_ms),
        idle_timeout: Duration::from_millis(args.idle_timeout_ms),
        max_reply_numbers: args.max_reply_numbers,
        scheduler: scheduler::Limits {
            max_concurrent_requests: args.max_concurrent_requests,
            max_queue_wait: Duration::from_millis(args.max_queue_wait_ms),
            engine_timeout: Duration::from_millis(args.engine_timeout_ms),
            unhealthy_exit: (args.unhealthy_exit_ms > 0)
                .then(|| Duration::from_millis(args.unhealthy_exit_ms)),
            spill: Spill {
                max_tokens: args.spill_max_tokens,
                wait: Duration::from_millis(args.spill_wait_ms),
            },
        },
    };
    let day = 24 * 60 * 60 * 1000;
    for (flag, value, least) in [
        ("max-queue-wait-ms", args.max_queue_wait_ms, 1),
        ("engine-timeout-ms", args.engine_timeout_ms, 1),
        ("unhealthy-exit-ms", args.unhealthy_exit_ms, 0),
        ("spill-wait-ms", args.spill_wait_ms, 0),
        ("body-timeout-ms", args.body_timeout_ms, 1),
        ("idle-timeout-ms", args.idle_timeout_ms, 1),
    ] {
        if !(least..=day).contains(&value) {
            return Err(StartError::Flags(format!("--{flag} is {value}; it can be {least} to {day}")));
        }
    }
    for (flag, value) in [
        ("max-concurrent-requests", limits.max_concurrent_requests),
        ("max-batch-tokens", limits.max_batch_tokens),
        ("max-batch-requests", limits.max_batch_requests.unwrap_or(1)),
        ("max-client-batch-size", limits.max_client_batch_size),
        ("tokenization-workers", limits.tokenization_workers),
        ("payload-limit", limits.payload_limit),
        ("spill-max-tokens", args.spill_max_tokens),
        ("max-reply-numbers", args.max_reply_numbers),
        ("max-replies-mib", args.max_replies_mib),
    ] {
        let most = u32::MAX as usize;
        if value == 0 || value > most {
            return Err(StartError::Flags(format!("--{flag} is {value}; it can be 1 to {most}")));
        }
    }
    Ok(limits)
}

/// Opens the model so that each of its inputs fits into a batch.
fn open(args: &Args, limits: &Limits) -> Result<Model, StartError> {
    let opened = |options| {
        Model::open(&options).map_err(|error| StartError::Open { model: args.model_id.clone(), error })
    };
    let model = opened(args.options())?;
    let (longest, most) = (model.info().max_length, limits.max_batch_tokens);
    if longest <= most {
        return Ok(model);
    }
    if !limits.auto_truncate {
        return Err(StartError::Flags(format!(
            "the model takes inputs of {longest} tokens, and --max-batch-tokens is {most}, so that the longest would never be \
             computed; raise it to {longest}, or set --auto-truncate"
        )));
    }
    tracing::warn!("inputs are cut to {most} tokens (--max-batch-tokens), where the model takes {longest}");
    // The library's max_length can only be told when it opens.
    drop(model);
    opened(args.options().with("max_length", most))
}

/// A batch is one engine run at its fastest: more would make late arrivals wait without a gain, as the library would split it.
fn budget(info: &Info, limits: &Limits) -> Budget {
    let engine = if info.best_tokens > 0 { info.best_tokens } else { info.max_tokens };
    Budget {
        tokens: engine.clamp(1, limits.max_batch_tokens),
        inputs: limits.max_batch_requests.unwrap_or(usize::MAX).min(info.max_sequences.max(1)),
        padded: info.is_padded,
    }
}

/// Opens the model on the second engine, and checks that it computes what the first one does.
fn open_spill(
    args: &Args,
    options: &Options,
    limits: &Limits,
    first: &Model,
) -> Result<(Model, Budget, Cost), StartError> {
    let options = options.clone().with("max_length", first.info().max_length);
    let model =
        Model::open(&options).map_err(|error| StartError::Open { model: args.model_id.clone(), error })?;
    let budget = budget(model.info(), limits);
    let cost = warm_up(&model, budget.tokens.max(model.info().max_length), budget)?;
    check_parity(first, &model).map_err(|reason| {
        StartError::Flags(format!(
            "--spill-engine {}: {reason}",
            args.spill_engine.as_deref().unwrap_or_default()
        ))
    })?;
    Ok((model, budget, cost))
}
