use std::net::IpAddr;

use bei_backend::{Options, Pool};
use clap::builder::NonEmptyStringValueParser;
use clap::{ArgAction, Parser, ValueEnum};
use serde_json::{Map, Value, json};

use crate::serving::ServingArgs;

const AFTER_HELP: &str = "\
Examples:
  A model of the hub, and a first request:
    bei-router --model-id sentence-transformers/all-MiniLM-L6-v2 --port 8080
    curl localhost:8080/embed -H 'Content-Type: application/json' -d '{\"inputs\": \"Hello\"}'
  A model's folder, nothing fetched, a key, and a web page of another origin that may ask:
    HF_HUB_OFFLINE=1 bei-router --model-id ./my-model --api-key \"$KEY\" --cors-allow-origin https://example.com
  A reranker, and its answer in Cohere's and Jina's shape:
    bei-router --model-id BAAI/bge-reranker-base
    curl localhost:3000/v1/rerank -H 'Content-Type: application/json' -d '{\"query\": \"What?\", \"documents\": [\"This\", \"That\"]}'
  Routes, bodies and examples: open /docs in a browser, or read /api-doc/openapi.json. It works without a network.
  gRPC on the same port, without TLS: tei.v1, grpc.health.v1 and server reflection:
    grpcurl -plaintext -d '{\"inputs\": \"Hello\"}' localhost:3000 tei.v1.Embed/Embed

Variables without a flag:
  LOG_LEVEL      What is logged: error, warn, info (default), debug, or targets such as info,libbei=debug.
  HOSTNAME       The address to listen on, only where it is an IP address: shells and containers set it to the machine's name.
  GRPC_MAX_PARALLEL_STREAM_REQUESTS
                 Messages of one gRPC stream that are under way at once; default: 1024.
  AIP_HTTP_PORT, AIP_PREDICT_ROUTE, AIP_HEALTH_ROUTE
                 As Vertex AI sets them: the port where --port is not given, and more names for /vertex and /health.
  HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT and others of huggingface_hub count for models of the hub.

Flags and variables of text-embeddings-inference that are refused, or have no meaning here, say so at the start.
Headers of requests:
  Request-Timeout-Ms, Request-Deadline-Ms
                 Until when an answer is wanted: from arrival, and in Unix time. What cannot be met is answered 429.
  X-Request-Priority
                 low, normal (default) or high.

Exit codes: 0 told to stop; 2 a wrong flag; 65 the outputs are not those of bei-manifest.json; 66 the model cannot be opened or served;
69 there is no engine, or it or its device was lost for --unhealthy-exit-ms; 70 the warm-up failed; 71 cannot listen; 75 a call of the
engine has not come back for that long; 130 ended at once; 1 anything else.
SIGINT and SIGTERM let the server finish what is under way; a second one ends it at once.";

/// Serves embeddings, classes and rankings over HTTP with libbei.so. Flags and environment variables are those of
/// text-embeddings-inference.
#[derive(Clone, Debug, Parser)]
#[command(name = "bei-router", version, args_override_self = true, after_help = AFTER_HELP, next_help_heading = "Model")]
pub struct Args {
    /// Folder of the model (config.json, model.safetensors, tokenizer.json and the files of sentence-transformers), or, where
    /// there is no such folder, its id on the Hugging Face hub.
    #[arg(long, env)]
    pub model_id: String,

    /// Branch, tag or commit of a model of the hub; default: main.
    #[arg(long, env)]
    pub revision: Option<String>,

    /// Token for private and gated models of the hub; default: the variable HF_TOKEN, or the token file of a login.
    #[arg(long)]
    pub hf_token: Option<String>,

    /// The old name of --hf-token.
    #[arg(long, env, hide = true, hide_env_values = true, conflicts_with = "hf_token")]
    pub hf_api_token: Option<String>,

    /// Folder where models of the hub are kept; default: the variable HF_HUB_CACHE or HUGGINGFACE_HUB_CACHE, or hub in HF_HOME.
    #[arg(long)]
    pub huggingface_hub_cache: Option<String>,

    /// Name of the model in replies; default: the name of its folder, or its id.
    #[arg(long, env)]
    pub served_model_name: Option<String>,

    /// Number format of the computation, such as float32; default: the library's choice.
    #[arg(long, env)]
    pub dtype: Option<String>,

    /// How token vectors become one vector; default: as the model's files say.
    #[arg(long, env)]
    pub pooling: Option<Pooling>,

    /// Refused: the dense modules are those that modules.json of the model names.
    #[arg(long, env, hide = true)]
    pub dense_path: Option<String>,

    /// Engine of the library: auto, onnxruntime, tensorrt or mock; default: the library's choice.
    #[arg(long, env = "BEI_ENGINE")]
    pub engine: Option<String>,

    /// More options of the library, one JSON object laid upon those that the flags make. `bei info --schema` lists them.
    #[arg(long, env, value_parser = parse_object)]
    pub bei_options: Option<Map<String, Value>>,

    /// Has no meaning: the engine runs in this process, and there is no backend behind a socket.
    #[arg(long, env, hide = true)]
    pub uds_path: Option<String>,

    /// Threads that tokenize requests of more than 2048 bytes of text; the others are tokenized where they are read. Default: all
    /// processors but one.
    #[arg(long, env, help_heading = "Limits")]
    pub tokenization_workers: Option<usize>,

    /// Inputs under way at which no further request is let in, but answered 429. A request counts for a quarter of it at most (32 where that
    /// is less), and the last one that is let in may go over it, so that one of any size is let in some time. What waits
    /// where there is no room, gRPC streams and the further parts of a request, takes half of it at most.
    #[arg(long, env, default_value_t = 512, help_heading = "Limits")]
    pub max_concurrent_requests: usize,

    /// Longest time, in milliseconds, that a request may have to wait for its first batch, as predicted from what waits and what batches
    /// take; requests above it are answered 429, with a Retry-After of when the queue will be empty.
    #[arg(long, env, default_value_t = 30_000, help_heading = "Limits")]
    pub max_queue_wait_ms: u64,

    /// Time, in milliseconds, after which a call of the engine is given up: its inputs are answered 503, and its slot is lost until it comes
    /// back. Must be above what the largest batch takes.
    #[arg(long, env, default_value_t = 60_000, help_heading = "Limits")]
    pub engine_timeout_ms: u64,

    /// Time, in milliseconds, after which the program exits when /health has been 503 all the while: the engine is lost (exit code 69) or a
    /// call has not come back (75). Whoever runs it starts it anew; 0: never.
    #[arg(long, env, default_value_t = 60_000, help_heading = "Limits")]
    pub unhealthy_exit_ms: u64,

    /// A second engine of the library, such as onnxruntime on the CPU beside a GPU, that takes short requests while the first one is busy,
    /// and all while it is lost. Its vectors must be equal to the first one's within a cosine of 0.999, which is checked at the start.
    #[arg(long, env, help_heading = "Spill-over")]
    pub spill_engine: Option<String>,

    /// Options of the library for --spill-engine, one JSON object laid upon those of the first engine.
    #[arg(long, env, value_parser = parse_object, requires = "spill_engine", help_heading = "Spill-over")]
    pub spill_options: Option<Map<String, Value>>,

    /// Most tokens of a request that goes to --spill-engine.
    #[arg(long, env, default_value_t = 128, help_heading = "Spill-over")]
    pub spill_max_tokens: usize,

    /// Predicted wait, in milliseconds, for the first engine above which requests go to --spill-engine.
    #[arg(long, env, default_value_t = 100, help_heading = "Spill-over")]
    pub spill_wait_ms: u64,

    /// Most tokens of a batch.
    #[arg(long, env, default_value_t = 16384, help_heading = "Limits")]
    pub max_batch_tokens: usize,

    /// Most inputs of a batch; default and upper limit: the engine's.
    #[arg(long, env, help_heading = "Limits")]
    pub max_batch_requests: Option<usize>,

    /// Most inputs of a request; default: as many as its body can hold, since large ones are split into batches.
    #[arg(long, env, help_heading = "Limits")]
    pub max_client_batch_size: Option<usize>,

    /// Most bytes of a request's body.
    #[arg(long, env, default_value_t = 2_000_000, help_heading = "Limits")]
    pub payload_limit: usize,

    /// Longest time, in milliseconds, that a request's body may take from its head to its last byte; 408 then, as after 30 s of silence. (Not
    /// for gRPC, whose streams may be long.)
    #[arg(long, env, default_value_t = 120_000, help_heading = "Limits")]
    pub body_timeout_ms: u64,

    /// Longest time, in milliseconds, that a connection may be open without a whole head of a request; also between the requests of an
    /// HTTP/1.1 connection, so it must be longer than load balancers keep idle connections.
    #[arg(long, env, default_value_t = 120_000, help_heading = "Limits")]
    pub idle_timeout_ms: u64,

    /// Most numbers in the answers to one request. As JSON each takes some 13 bytes.
    #[arg(long, env, default_value_t = 16 << 20, help_heading = "Limits")]
    pub max_reply_numbers: usize,

    /// Most memory, in MiB, of replies over HTTP that their clients have not read yet; requests with large replies are answered 429 then.
    /// (A gRPC stream stands still where its client has not read 64 MiB.)
    #[arg(long, env, default_value_t = 2048, help_heading = "Limits")]
    pub max_replies_mib: usize,

    /// Whether inputs longer than the model takes are cut, where the request does not say.
    #[arg(long, env, action = ArgAction::Set, default_value_t = true, num_args = 0..=1, default_missing_value = "true",
        help_heading = "Texts")]
    pub auto_truncate: bool,

    /// Name of the model's prompt that is put before texts, where the request names none.
    #[arg(long, env, conflicts_with = "default_prompt", help_heading = "Texts")]
    pub default_prompt_name: Option<String>,

    /// Prompt that is put before texts, where the request names none.
    #[arg(long, env, help_heading = "Texts")]
    pub default_prompt: Option<String>,

    /// What `POST /`, /invocations and /vertex do on an embedding model: with sentence-similarity they are /similarity, with
    /// anything else /embed (/embed_sparse on a sparse model). Other models have one route that fits.
    #[arg(long, env, help_heading = "Server")]
    pub task: Option<String>,

    /// Address to listen on; default: the variable HOSTNAME if it is an IP address, or 0.0.0.0.
    #[arg(long, help_heading = "Server")]
    pub hostname: Option<String>,

    /// Port to listen on; default: the variable AIP_HTTP_PORT, or 3000.
    #[arg(long, short, env, help_heading = "Server")]
    pub port: Option<u16>,

    /// Requests must carry `Authorization: Bearer KEY`, except those for health. Several keys are separated by commas.
    #[arg(long, env, hide_env_values = true, value_delimiter = ',', value_parser = NonEmptyStringValueParser::new(),
        help_heading = "Server")]
    pub api_key: Vec<String>,

    /// Answers /metrics without a key.
    #[arg(long, env, help_heading = "Server")]
    pub open_metrics: bool,

    /// Answers /docs and /api-doc/openapi.json without a key.
    #[arg(long, env, help_heading = "Server")]
    pub open_docs: bool,

    /// Origins whose web pages may ask, as `https://example.com`, separated by commas; * allows all. Default: none.
    #[arg(long, env, value_delimiter = ',', help_heading = "Server")]
    pub cors_allow_origin: Vec<String>,

    /// Writes logs as JSON.
    #[arg(long, env, help_heading = "Observability")]
    pub json_output: bool,

    /// Start, end, logs and traces.
    #[command(flatten)]
    pub serving: ServingArgs,
}

/// The values of `--pooling`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pooling {
    /// The first token's vector.
    Cls,
    /// The mean of the tokens' vectors.
    Mean,
    /// Vocabulary weights.
    Splade,
    /// The last token's vector.
    LastToken,
}

impl From<Pooling> for Pool {
    fn from(pooling: Pooling) -> Pool {
        match pooling {
            Pooling::Cls => Pool::Cls,
            Pooling::Mean => Pool::Mean,
            Pooling::Splade => Pool::Splade,
            Pooling::LastToken => Pool::LastToken,
        }
    }
}

fn parse_object(text: &str) -> Result<Map<String, Value>, String> {
    let object: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))?;
    if object.contains_key("model") {
        return Err("\"model\" is given by --model-id".to_string());
    }
    Ok(object)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Args {
    /// The host to listen on.
    pub fn host(&self) -> String {
        let from_environment = || variable("HOSTNAME").filter(|name| name.parse::<IpAddr>().is_ok());
        self.hostname.clone().or_else(from_environment).unwrap_or_else(|| "0.0.0.0".to_string())
    }

    /// The port to listen on.
    pub fn port(&self) -> Result<u16, String> {
        match (self.port, variable("AIP_HTTP_PORT")) {
            (Some(port), _) => Ok(port),
            (None, Some(text)) => {
                text.parse().map_err(|_| format!("AIP_HTTP_PORT is {text:?}; it can be 0 to 65535"))
            }
            (None, None) => Ok(3000),
        }
    }

    /// Refuses the family's flags that would change results here, and tells in the log which ones have no meaning.
    pub fn check(&self) -> Result<(), String> {
        if let Some(path) = &self.dense_path {
            return Err(format!(
                "--dense-path is {path:?}; the dense modules are those of the model's modules.json: name the folder there, and \
                 leave the flag (or the variable DENSE_PATH) out"
            ));
        }
        if self.hf_api_token.is_some() {
            tracing::warn!("--hf-api-token is the old name of --hf-token");
        }
        if self.uds_path.is_some() {
            tracing::warn!("--uds-path has no meaning: the engine runs in this process, not behind a socket");
        }
        for (name, why) in [
            ("USE_FLASH_ATTENTION", "attention never pads here; the engine picks its kernel"),
            ("HF_HUB_USER_AGENT_ORIGIN", "the hub is told libbei's name and version only"),
        ] {
            if let Some(value) = variable(name) {
                tracing::info!("the variable {name}={value} has no meaning: {why}");
            }
        }
        Ok(())
    }

    /// The library's options.
    pub fn options(&self) -> Options {
        let mut options = Options::new(&self.model_id);
        for (key, value) in [
            ("revision", &self.revision),
            ("engine", &self.engine),
            ("dtype", &self.dtype),
            ("default_prompt_name", &self.default_prompt_name),
            ("default_prompt", &self.default_prompt),
        ] {
            if let Some(value) = value {
                options = options.with(key, json!(value));
            }
        }
        let token = self.hf_token.as_ref().or(self.hf_api_token.as_ref());
        let hub = [("token", token), ("cache", self.huggingface_hub_cache.as_ref())];
        let hub: Map<String, Value> =
            hub.iter().filter_map(|(key, value)| Some((key.to_string(), json!(value.as_ref()?)))).collect();
        if !hub.is_empty() {
            options = options.with("hub", hub);
        }
        if let Some(pooling) = self.pooling {
            options = options.with("pooling", Pool::from(pooling).option());
        }
        // The library stops a run that heeds it a little after the server has given it up, so that the slot comes back.
        options = options.with("run_timeout_ms", self.engine_timeout_ms.saturating_add(1000).min(86_400_000));
        options.merge(self.bei_options.clone().unwrap_or_default());
        options
    }

    /// The library's options for the second engine.
    pub fn spill_options(&self) -> Option<Options> {
        let engine = self.spill_engine.as_ref()?;
        let mut options = self.options().with("engine", engine.as_str());
        options.merge(self.spill_options.clone().unwrap_or_default());
        Some(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(flags: &[&str]) -> Args {
        Args::parse_from(["bei-router", "--model-id", "m"].iter().chain(flags))
    }

    #[test]
    fn lists_are_separated_by_commas() {
        assert_eq!(parsed(&["--api-key", "a,b"]).api_key, ["a", "b"]);
        assert_eq!(parsed(&["--cors-allow-origin", "http://a,http://b"]).cors_allow_origin.len(), 2);
        assert!(Args::try_parse_from(["bei-router", "--model-id", "m", "--api-key", ""]).is_err());
        assert!(Args::try_parse_from(["bei-router", "--model-id", "m", "--api-key", "a,"]).is_err());
    }

    #[test]
    fn flags_that_would_change_results_are_refused() {
        assert!(parsed(&["--dense-path", "2_Dense_512"]).check().unwrap_err().contains("modules.json"));
        parsed(&["--uds-path", "/tmp/socket", "--hf-api-token", "t"]).check().unwrap();
    }

    #[test]
    fn the_library_lets_go_of_a_run_after_the_server_has() {
        let options = serde_json::to_value(parsed(&["--engine-timeout-ms", "300"]).options()).unwrap();
        assert_eq!(options["run_timeout_ms"], 1300);
    }

    #[test]
    fn the_old_name_of_the_token_is_used() {
        let options = serde_json::to_value(parsed(&["--hf-api-token", "secret"]).options()).unwrap();
        assert_eq!(options["hub"]["token"], "secret");
    }
}
