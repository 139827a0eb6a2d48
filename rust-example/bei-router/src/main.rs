//! The server's program: flags, logs, start-up, and a graceful end.
#![deny(unsafe_code, clippy::unwrap_used, clippy::expect_used)]

use std::net::Ipv4Addr;
use std::process::ExitCode;

use bei_router::{App, Args, End, logging, serve, stop_signal};
use clap::Parser;
use tokio::net::TcpListener;

/// What the program exits with when every engine or device was lost (EX_UNAVAILABLE of sysexits.h), and when no call of any engine
/// came back (EX_TEMPFAIL).
const EXIT_LOST: u8 = 69;
const EXIT_HUNG: u8 = 75;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = logging::init(args.json_output) {
        eprintln!("bei-router: {error}");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let served = runtime.block_on(run(args));
    // Blocking threads may hang in a lost engine; nobody waits for their results any more.
    runtime.shutdown_background();
    match served {
        Ok(End::Stopped) => ExitCode::SUCCESS,
        Ok(End::Lost) => ExitCode::from(EXIT_LOST),
        Ok(End::Hung) => ExitCode::from(EXIT_HUNG),
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<End, Box<dyn std::error::Error>> {
    // Before the model is opened, so that a signal during a long start ends the program too.
    let stop = stop_signal()?;
    let address = (args.host(), args.port()?);
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|error| format!("cannot listen on {}:{}: {error}", address.0, address.1))?;
    let app = tokio::select! {
        app = App::start(args) => app?,
        () = stop.clone().wait() => return Ok(End::Stopped),
    };
    let address = listener.local_addr()?;
    let mut reachable = address;
    if address.ip().is_unspecified() {
        reachable.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let key = if app.has_api_key() { " -H 'Authorization: Bearer KEY'" } else { "" };
    tracing::info!(
        "ready on {address}; try: curl {reachable}/embed{key} -H 'Content-Type: application/json' -d '{{\"inputs\": \"Hello\"}}'"
    );
    let end = serve(app, listener, stop.wait()).await?;
    tracing::info!("stopped");
    Ok(end)
}
