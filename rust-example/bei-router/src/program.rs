//! The program's life: it listens, opens the model, serves until it is told to stop, and ends.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::app::App;
use crate::args::Args;
use crate::exit::Exit;
use crate::lifecycle::Lifecycle;
use crate::memory;
use crate::scheduler::End;
use crate::server::{Server, serve_metrics};
use crate::signals::stop_signal;

/// Runs the program to its end. The listener is open at once: until the model works, requests are answered 503, and so are those for
/// health, with what the start is doing.
pub async fn run(args: Args) -> Result<End, Exit> {
    // Before the model is opened, so that a signal during a long start ends the program too.
    let stop = stop_signal()?;
    let (listener, address) = listen(&args.host(), args.port().map_err(Exit::Flags)?, "--port").await?;
    let lifecycle = Lifecycle::new();
    let idle = Duration::from_millis(args.idle_timeout_ms);
    if let Some(port) = args.serving.prometheus_port {
        let (metrics, address) = listen(&args.host(), port, "--prometheus-port").await?;
        tracing::info!("metrics on {address}");
        tokio::spawn(serve_metrics(metrics, lifecycle.clone(), idle));
    }
    let (ending, access_log) = (args.serving.ending(), args.serving.access_log);
    let server = Server::listen(listener, lifecycle.clone(), access_log, idle);
    tracing::info!("listening on {address}; not ready before the model is open, warm and verified");
    let app = tokio::select! {
        app = App::start(args) => app?,
        () = lifecycle.log_progress() => return Ok(End::Stopped), // it has no end
        () = stop.clone().wait() => return Ok(End::Stopped),
    };
    server.ready(&app);
    announce(&app, address); // whoever reads it may ask at once
    tokio::spawn(memory::watch());
    let end = server.run(app, ending, stop.wait()).await?;
    tracing::info!("stopped");
    Ok(end)
}

async fn listen(host: &str, port: u16, flag: &'static str) -> Result<(TcpListener, SocketAddr), Exit> {
    let failed = |error| Exit::Listen { host: host.to_string(), port, flag, error };
    let listener = TcpListener::bind((host, port)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

fn announce(app: &Arc<App>, address: SocketAddr) {
    let mut reachable = address;
    if address.ip().is_unspecified() {
        reachable.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let key = if app.has_api_key() { " -H 'Authorization: Bearer KEY'" } else { "" };
    tracing::info!(
        "ready on {address}; try: curl {reachable}/embed{key} -H 'Content-Type: application/json' -d '{{\"inputs\": \"Hello\"}}'"
    );
}
