//! Logs of the server and of the library, in one stream on standard error.

use std::str::FromStr;

use bei_backend::LogLevel;
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
    let layer = fmt::layer().with_writer(std::io::stderr);
    let layer = if json { layer.json().boxed() } else { layer.with_target(false).boxed() };
    tracing_subscriber::registry()
        .with(layer.with_filter(targets))
        .try_init()
        .map_err(|error| error.to_string())?;
    bei_backend::set_log_handler(Some(library_line)).map_err(|error| error.to_string())
}

fn library_line(level: LogLevel, line: &str) {
    match level {
        LogLevel::Debug => tracing::debug!(target: "libbei", "{line}"),
        LogLevel::Info => tracing::info!(target: "libbei", "{line}"),
        LogLevel::Warn => tracing::warn!(target: "libbei", "{line}"),
        LogLevel::Error => tracing::error!(target: "libbei", "{line}"),
    }
}
