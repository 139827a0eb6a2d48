//! The server's program: flags, logs and exit codes around [`bei_router::run`].
#![deny(unsafe_code, clippy::unwrap_used, clippy::expect_used)]

use std::process::ExitCode;

use bei_router::{Args, Exit, exit_code, logging, run};
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("bei-router: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let entered = runtime.enter(); // the exporter of traces starts tasks
    let logs = match logging::init(args.json_output, &args.serving) {
        Ok(logs) => logs,
        Err(error) => {
            eprintln!("bei-router: {error}");
            return ExitCode::from(Exit::Flags(error).code());
        }
    };
    drop(entered);
    let code = match runtime.block_on(run(args)) {
        Ok(end) => exit_code(end),
        Err(error) => {
            tracing::error!("{error}");
            error.code()
        }
    };
    drop(logs); // sends the last spans
    // Blocking threads may hang in a lost engine; nobody waits for their results any more.
    runtime.shutdown_background();
    ExitCode::from(code)
}
