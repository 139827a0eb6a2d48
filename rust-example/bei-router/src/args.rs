use std::net::IpAddr;

use bei_backend::{Options, Pool};
use clap::builder::NonEmptyStringValueParser;
use clap::{ArgAction, Parser, ValueEnum};
use serde_json::{Map, Value, json};

const AFTER_HELP: &str = "\
Example:
  bei-router --model-id sentence-transformers/all-MiniLM-L6-v2 --port 8080
  curl localhost:8080/embed -H 'Content-Type: application/json' -d '{\"inputs\": \"Hello\"}'

The variable LOG_LEVEL sets what is logged: error, warn, info (default), debug, or targets such as info,libbei=debug.
SIGINT and SIGTERM let the server finish what is under way; a second one ends it at once.";

/// Serves embeddings over HTTP with libbei.so. Flags and environment variables are those of text-embeddings-inference.
#[derive(Clone, Debug, Parser)]
#[command(name = "bei-router", version, args_override_self = true, after_help = AFTER_HELP)]
pub struct Args {
    /// Folder of the model (config.json, model.safetensors, tokenizer.json and the files of sentence-transformers), or, where
    /// there is no such folder, its id on the Hugging Face hub. The variables HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT and others
    /// of huggingface_hub count.
    #[arg(long, env)]
    pub model_id: String,

    /// Branch, tag or commit of a model of the hub; default: main.
    #[arg(long, env)]
    pub revision: Option<String>,

    /// Token for private and gated models of the hub; default: the variable HF_TOKEN, or the token file of a login.
    #[arg(long)]
    pub hf_token: Option<String>,

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

    /// Engine of the library: auto, onnxruntime, tensorrt or mock; default: the library's choice.
    #[arg(long, env = "BEI_ENGINE")]
    pub engine: Option<String>,

    /// More options of the library, one JSON object laid upon those that the flags make. `bei info --schema` lists them.
    #[arg(long, env, value_parser = parse_object)]
    pub bei_options: Option<Map<String, Value>>,

    /// Threads that tokenize; default: all processors but one.
    #[arg(long, env)]
    pub tokenization_workers: Option<usize>,

    /// Inputs under way at once; those above it are answered 429.
    #[arg(long, env, default_value_t = 512)]
    pub max_concurrent_requests: usize,

    /// Most tokens of a batch.
    #[arg(long, env, default_value_t = 16384)]
    pub max_batch_tokens: usize,

    /// Most inputs of a batch; default and upper limit: the engine's.
    #[arg(long, env)]
    pub max_batch_requests: Option<usize>,

    /// Most inputs of a request.
    #[arg(long, env, default_value_t = 32)]
    pub max_client_batch_size: usize,

    /// Whether inputs longer than the model takes are cut, where the request does not say.
    #[arg(long, env, action = ArgAction::Set, default_value_t = true, num_args = 0..=1, default_missing_value = "true")]
    pub auto_truncate: bool,

    /// Name of the model's prompt that is put before texts, where the request names none.
    #[arg(long, env, conflicts_with = "default_prompt")]
    pub default_prompt_name: Option<String>,

    /// Prompt that is put before texts, where the request names none.
    #[arg(long, env)]
    pub default_prompt: Option<String>,

    /// Address to listen on. The variable HOSTNAME counts only where it is an IP address, because shells and container
    /// runtimes set it to the machine's name. Default: 0.0.0.0.
    #[arg(long)]
    pub hostname: Option<String>,

    /// Port to listen on.
    #[arg(long, short, env, default_value_t = 3000)]
    pub port: u16,

    /// Most bytes of a request's body.
    #[arg(long, env, default_value_t = 2_000_000)]
    pub payload_limit: usize,

    /// Requests must carry `Authorization: Bearer KEY`, except to health and metrics.
    #[arg(long, env, hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub api_key: Option<String>,

    /// Writes logs as JSON.
    #[arg(long, env)]
    pub json_output: bool,
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

impl Args {
    /// The host to listen on.
    pub fn host(&self) -> String {
        let from_environment =
            || std::env::var("HOSTNAME").ok().filter(|name| name.parse::<IpAddr>().is_ok());
        self.hostname.clone().or_else(from_environment).unwrap_or_else(|| "0.0.0.0".to_string())
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
        let hub = [("token", &self.hf_token), ("cache", &self.huggingface_hub_cache)];
        let hub: Map<String, Value> =
            hub.iter().filter_map(|(key, value)| Some((key.to_string(), json!(value.as_ref()?)))).collect();
        if !hub.is_empty() {
            options = options.with("hub", hub);
        }
        if let Some(pooling) = self.pooling {
            options = options.with("pooling", Pool::from(pooling).option());
        }
        options.merge(self.bei_options.clone().unwrap_or_default());
        options
    }
}
