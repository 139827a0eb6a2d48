//! Logs of the server and of the library, in one stream on standard error.

use std::io::IsTerminal;
use std::str::FromStr;

use bei_backend::LogLevel;
use opentelemetry::trace::TracerProvider;
use serde_json::{Map, Value};
use tracing_subscriber::filter::{FilterExt, LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::lifecycle::progress;
use crate::serving::ServingArgs;
use crate::spans::{self, Exporter};

/// What must live as long as the program; dropping it sends the last spans.
pub struct Logs {
    _exporter: Option<Exporter>,
}

/// Starts logging at the level of the variable LOG_LEVEL: `info`, or targets such as `info,libbei=debug`. The library's
/// lines have the target `libbei`, those of requests `access`. Traces are exported where the flags say so; that needs the runtime.
pub fn init(json: bool, serving: &ServingArgs) -> Result<Logs, String> {
    let level = std::env::var("LOG_LEVEL").unwrap_or_else(|_| "info".to_string());
    let targets =
        Targets::from_str(&level).map_err(|error| format!("LOG_LEVEL {level:?} is no log level: {error}"))?;
    let exporter = match &serving.otlp_endpoint {
        Some(endpoint) => Some(Exporter::new(endpoint, &serving.otlp_service_name)?),
        None => None,
    };
    let traces = exporter.as_ref().map(|exporter| {
        let spans = Targets::new().with_target(spans::TARGET, LevelFilter::INFO);
        tracing_opentelemetry::layer()
            .with_tracer(exporter.provider().tracer("bei-router"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(spans)
    });
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let layer = if json { layer.json().boxed() } else { layer.boxed() };
    let without_spans = serving.disable_spans;
    let shown = filter_fn(move |metadata| !(without_spans && metadata.is_span()));
    tracing_subscriber::registry()
        .with(traces)
        .with(layer.with_filter(targets.and(shown)))
        .try_init()
        .map_err(|error| error.to_string())?;
    bei_backend::set_log_handler(Some(library_line)).map_err(|error| error.to_string())?;
    Ok(Logs { _exporter: exporter })
}

/// Passes a line of the library on: its message, and what else it tells as JSON.
fn library_line(level: LogLevel, line: &str) {
    let text = match serde_json::from_str::<Map<String, Value>>(line) {
        Ok(mut fields) => {
            let message = fields.remove("msg").unwrap_or_default();
            note_progress(message.as_str().unwrap_or_default(), &fields);
            fields.retain(|key, _| key != "level" && key != "ts");
            let rest = if fields.is_empty() { String::new() } else { Value::Object(fields).to_string() };
            format!("{} {rest}", message.as_str().unwrap_or_default())
        }
        Err(_) => line.to_string(),
    };
    let text = text.trim();
    match level {
        LogLevel::Debug => tracing::debug!(target: "libbei", "{text}"),
        LogLevel::Info => tracing::info!(target: "libbei", "{text}"),
        LogLevel::Warn => tracing::warn!(target: "libbei", "{text}"),
        LogLevel::Error => tracing::error!(target: "libbei", "{text}"),
    }
}

/// What the library tells of a long start is what the start is doing: a fetch with its share, or the message.
fn note_progress(message: &str, fields: &Map<String, Value>) {
    let number = |key: &str| fields.get(key).and_then(Value::as_f64);
    match (number("bytes"), number("of_bytes")) {
        (Some(done), Some(all)) if all > 0.0 => {
            progress::note(format!("{message}: {:.0} % of {:.0} MB", 100.0 * done / all, all / 1e6));
        }
        _ => progress::note(message),
    }
}
