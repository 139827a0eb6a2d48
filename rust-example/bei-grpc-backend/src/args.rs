use std::path::PathBuf;

use bei_backend::{Options, Pool};
use clap::builder::PossibleValue;
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value, json};

use crate::log::Level;

const AFTER_HELP: &str = "\
A router of the family built with its \"python\" backend starts the program `python-text-embeddings-server` of its PATH. Put this
one there under that name:

  ln -s /path/to/dist/bei-grpc-backend /usr/local/bin/python-text-embeddings-server

The socket appears when the model is ready. SIGTERM and SIGINT let calls under way finish and remove it.";

/// Computes embeddings and class scores for a router of the text-embeddings-inference family: its backend protocol
/// (embedding.v1) on a Unix socket, with the command line of its Python server.
#[derive(Clone, Debug, Parser)]
#[command(name = "bei-grpc-backend", version, args_override_self = true, after_help = AFTER_HELP)]
pub struct Args {
    /// Folder of the model: config.json, model.safetensors and the files of sentence-transformers.
    pub model_path: PathBuf,

    /// Number format of the computation.
    #[arg(long, default_value = "float32", value_parser = ["float32", "float16", "bfloat16"])]
    pub dtype: String,

    /// Where the socket is made. A socket that nobody listens on any more is replaced; anything else there is an error.
    #[arg(long, default_value = "/tmp/text-embeddings-server")]
    pub uds_path: PathBuf,

    /// Least level of what is logged on standard output.
    #[arg(long, default_value = "INFO", ignore_case = true)]
    pub logger_level: Level,

    /// Writes logs as JSON, in the form of Python's loguru, which the router reads.
    #[arg(long, overrides_with = "no_json_output")]
    pub json_output: bool,

    /// Writes logs as text; the default.
    #[arg(long)]
    pub no_json_output: bool,

    /// How token vectors become one vector. A classifier takes the router's "cls" for it.
    #[arg(long, default_value = "cls")]
    pub pool: Pooling,

    /// Taken because the router passes it; no traces are sent from here. The router's own spans hold the time of each call.
    #[arg(long)]
    pub otlp_endpoint: Option<String>,

    /// Taken because the router passes it.
    #[arg(long, default_value = "text-embeddings-inference.server")]
    pub otlp_service_name: String,

    /// Engine of the library: auto, onnxruntime, tensorrt or mock; default: the library's choice.
    #[arg(long, env = "BEI_ENGINE")]
    pub engine: Option<String>,

    /// More options of the library, one JSON object laid upon those that the flags make. `bei info --schema` lists them.
    #[arg(long, env, value_parser = parse_object)]
    pub bei_options: Option<Map<String, Value>>,
}

/// The values of `--pool`: the family's poolings, as its router spells them here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pooling(pub Pool);

impl ValueEnum for Pooling {
    fn value_variants<'a>() -> &'a [Pooling] {
        &[Pooling(Pool::Cls), Pooling(Pool::Mean), Pooling(Pool::LastToken), Pooling(Pool::Splade)]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.option()))
    }
}

fn parse_object(text: &str) -> Result<Map<String, Value>, String> {
    let object: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))?;
    match ["model", "pooling"].into_iter().find(|key| object.contains_key(*key)) {
        Some(key) => Err(format!("{key:?} is given by the command line")),
        None => Ok(object),
    }
}

impl Args {
    /// The library's options but for the pooling.
    pub fn options(&self) -> Result<Options, String> {
        let Some(folder) = self.model_path.to_str() else {
            return Err(format!("the model's path {} is not UTF-8", self.model_path.display()));
        };
        let mut options = Options::new(folder)
            .with("dtype", json!(self.dtype))
            .with("log", json!({"level": self.logger_level.library()}));
        if let Some(engine) = &self.engine {
            options = options.with("engine", json!(engine));
        }
        options.merge(self.bei_options.clone().unwrap_or_default());
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_routers_command_line_is_read() {
        let args = Args::try_parse_from([
            "python-text-embeddings-server",
            "/models/a",
            "--dtype",
            "float16",
            "--uds-path",
            "/tmp/socket",
            "--logger-level",
            "INFO",
            "--json-output",
            "--pool",
            "lasttoken",
            "--otlp-endpoint",
            "http://localhost:4317",
            "--otlp-service-name",
            "name",
        ])
        .unwrap();
        assert_eq!(
            (args.pool, args.json_output, args.logger_level),
            (Pooling(Pool::LastToken), true, Level::Info)
        );
        let text = serde_json::to_value(args.options().unwrap()).unwrap();
        assert_eq!(text, json!({"model": "/models/a", "dtype": "float16", "log": {"level": "info"}}));
    }

    #[test]
    fn what_the_python_server_refuses_is_refused() {
        for (wrong, part) in [
            (vec![], "MODEL_PATH"),
            (vec!["m", "--pool", "max"], "--pool"),
            (vec!["m", "--dtype", "float8"], "--dtype"),
            (vec!["m", "--logger-level", "loud"], "--logger-level"),
            (vec!["m", "--bei-options", "[]"], "JSON object"),
            (vec!["m", "--bei-options", "{\"pooling\": \"cls\"}"], "command line"),
        ] {
            let args = std::iter::once("bei-grpc-backend").chain(wrong.iter().copied());
            let error = Args::try_parse_from(args).map(drop).unwrap_err().to_string();
            assert!(error.contains(part), "{wrong:?}: {error}");
        }
        let args = ["x", "m", "--json-output", "--no-json-output", "--logger-level", "warning"];
        let args = Args::try_parse_from(args).unwrap();
        assert_eq!((args.json_output, args.logger_level), (false, Level::Warning));
    }
}
