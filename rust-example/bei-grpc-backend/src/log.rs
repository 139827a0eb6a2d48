//! Lines on standard output, as the family's router reads them from its Python server: standard error is a pipe that it
//! reads only once the process has ended, so that much text there would block it.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bei_backend::LogLevel;
use clap::ValueEnum;
use serde_json::{Map, Value, json};

/// Lines that wait for a slow reader; those above it are dropped, so that no call waits for one.
const WAITING: usize = 1024;

/// The levels of Python's loguru.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum Level {
    /// 5.
    Trace,
    /// 10.
    Debug,
    /// 20.
    Info,
    /// 25.
    Success,
    /// 30.
    Warning,
    /// 40.
    Error,
    /// 50.
    Critical,
}

impl Level {
    /// The least level of the library's lines.
    pub fn library(self) -> &'static str {
        match self {
            Level::Trace | Level::Debug => "debug",
            Level::Info => "info",
            Level::Success | Level::Warning => "warn",
            Level::Error => "error",
            Level::Critical => "off",
        }
    }

    fn name_and_number(self) -> (&'static str, u32) {
        match self {
            Level::Trace => ("TRACE", 5),
            Level::Debug => ("DEBUG", 10),
            Level::Info => ("INFO", 20),
            Level::Success => ("SUCCESS", 25),
            Level::Warning => ("WARNING", 30),
            Level::Error => ("ERROR", 40),
            Level::Critical => ("CRITICAL", 50),
        }
    }
}

struct Log {
    lines: SyncSender<Entry>,
    least: Level,
    json: bool,
}

enum Entry {
    Line(String),
    /// Answered when all lines before it are written.
    Flush(std::sync::mpsc::Sender<()>),
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Starts logging, also of the library's lines. Once in a process.
pub fn init(least: Level, json: bool) -> Result<(), String> {
    let (lines, waiting) = sync_channel(WAITING);
    std::thread::Builder::new()
        .name("log".to_string())
        .spawn(move || write_lines(&waiting))
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    LOG.set(Log { lines, least, json }).map_err(|_| "logging has been started already".to_string())?;
    bei_backend::set_log_handler(Some(library_line)).map_err(|error| error.to_string())
}

/// Logs one line.
pub fn log(level: Level, text: &str) {
    write(level, "bei-grpc-backend", text);
}

/// Waits until what was logged is written, though not for a reader that sleeps.
pub fn flush() {
    let (done, written) = channel();
    if let Some(log) = LOG.get()
        && log.lines.try_send(Entry::Flush(done)).is_ok()
    {
        let _ = written.recv_timeout(Duration::from_secs(1));
    }
}

fn write_lines(waiting: &Receiver<Entry>) {
    let mut out = std::io::stdout();
    for entry in waiting {
        match entry {
            // A reader that has gone is no reason to stop.
            Entry::Line(line) => drop(out.write_all(line.as_bytes()).and_then(|()| out.flush())),
            Entry::Flush(done) => drop(done.send(())),
        }
    }
}

fn write(level: Level, name: &str, text: &str) {
    let Some(log) = LOG.get().filter(|log| level >= log.least) else { return };
    let line = if log.json { as_json(level, name, text) } else { text.to_string() };
    let _ = log.lines.try_send(Entry::Line(line + "\n"));
}

/// What the router reads of loguru's records, and the rest that tells something.
fn as_json(level: Level, name: &str, text: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (level, number) = level.name_and_number();
    let record = json!({
        "level": {"name": level, "no": number},
        "message": text,
        "name": name,
        "process": {"id": std::process::id(), "name": "bei-grpc-backend"},
        "time": {"timestamp": now.as_secs_f64()},
    });
    json!({"text": text, "record": record}).to_string()
}

/// Passes a line of the library on: its message, and what else it tells as JSON.
fn library_line(level: LogLevel, line: &str) {
    let level = match level {
        LogLevel::Debug => Level::Debug,
        LogLevel::Info => Level::Info,
        LogLevel::Warn => Level::Warning,
        LogLevel::Error => Level::Error,
    };
    let Ok(mut fields) = serde_json::from_str::<Map<String, Value>>(line) else {
        return write(level, "libbei", line);
    };
    let message = fields.remove("msg").unwrap_or_default();
    fields.retain(|key, _| key != "level" && key != "ts");
    let rest = if fields.is_empty() { String::new() } else { Value::Object(fields).to_string() };
    write(level, "libbei", format!("{} {rest}", message.as_str().unwrap_or_default()).trim());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_are_what_the_router_reads() {
        let line: Value = serde_json::from_str(&as_json(Level::Warning, "libbei", "a \"b\"\n")).unwrap();
        assert_eq!(
            (&line["text"], &line["record"]["level"]["name"]),
            (&json!("a \"b\"\n"), &json!("WARNING"))
        );
        assert!(line["record"]["time"]["timestamp"].as_f64().unwrap() > 1e9);
    }
}
