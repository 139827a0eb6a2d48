//! Logs of the server and of the library, in one stream on standard error.

use std::io::IsTerminal;
use std::str::FromStr;

use bei_backend::LogLevel;
use serde_json::{Map, Value};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// Starts logging at the level of the variable LOG_LEVEL: `info`, or targets such as `info,libbei=debug`. The library's
/// lines have the target `libbei`.
pub fn init(json: bool) -> Result<(), String> {
    let level = std::env::var("LOG_LEVEL").unwrap_or_else(|_| "info".to_string());
    let targets =
        Targets::from_str(&level).map_err(|error| format!("LOG_LEVEL {level:?} is no log level: {error}"))?;
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let layer = if json { layer.json().boxed() } else { layer.boxed() };
    tracing_subscriber::registry()
        .with(layer.with_filter(targets))
        .try_init()
        .map_err(|error| error.to_string())?;
    bei_backend::set_log_handler(Some(library_line)).map_err(|error| error.to_string())
}

/// Passes a line of the library on: its message, and what else it tells as JSON.
fn library_line(level: LogLevel, line: &str) {
    let text = match serde_json::from_str::<Map<String, Value>>(line) {
        Ok(mut fields) => {
            let message = fields.remove("msg").unwrap_or_default();
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
