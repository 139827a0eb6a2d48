//! libbei.so in place of the text-embeddings-inference family's "python" backend process: the same command line, the same
//! protocol, the same sign of readiness.
#![deny(unsafe_code, clippy::unwrap_used, clippy::expect_used)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod log;
mod service;
mod socket;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bei_backend::{BeiBackend, ModelType, Pool, Status};
use bei_proto::embedding::v1::embedding_service_server::EmbeddingServiceServer;
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::args::Args;
use crate::log::{Level, log};
use crate::service::Service;
use crate::socket::Socket;

/// Most bytes of a request: more than a million tokens have.
const MAX_REQUEST: usize = 64 << 20;
/// Longest time that calls under way get after SIGTERM.
const DRAIN: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let args = Args::parse();
    let served = log::init(args.logger_level, args.json_output).and_then(|()| {
        let runtime =
            tokio::runtime::Runtime::new().map_err(|error| format!("cannot start threads: {error}"))?;
        let served = runtime.block_on(run(args));
        // Blocking threads may hang in a lost engine; nobody waits for their results any more.
        runtime.shutdown_background();
        served
    });
    log::flush();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The router shows it: it reads standard error of a process that has ended.
            eprintln!("bei-grpc-backend: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), String> {
    // Before the model is opened, so that a signal during a long start ends the program too.
    let mut stop = Stop::new().map_err(|error| format!("cannot catch signals: {error}"))?;
    if args.otlp_endpoint.is_some() {
        log(
            Level::Warning,
            "--otlp-endpoint: no traces are sent from here; the router's spans hold the time of each call",
        );
    }
    let uds_path = args.uds_path.clone();
    let opened = tokio::task::spawn_blocking(move || open(&args));
    let backend = tokio::select! {
        opened = opened => Arc::new(opened.map_err(|error| error.to_string())??),
        () = stop.wait() => return Ok(()),
    };

    let reflected = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(bei_proto::embedding::DESCRIPTORS)
    };
    let unreflected = |error| format!("descriptors: {error}");
    let service = EmbeddingServiceServer::new(Service::new(backend.clone()))
        .max_decoding_message_size(MAX_REQUEST)
        .max_encoding_message_size(usize::MAX);
    let server = Server::builder()
        .add_service(service)
        .add_service(reflected().build_v1().map_err(unreflected)?)
        .add_service(reflected().build_v1alpha().map_err(unreflected)?);

    let socket = Socket::bind(&uds_path)?;
    let listener = socket
        .listener()
        .and_then(tokio::net::UnixListener::from_std)
        .map_err(|error| format!("--uds-path {}: {error}", uds_path.display()))?;
    log(Level::Info, &format!("Server started at unix://{}", uds_path.display()));

    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let serving = server.serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
        stop.wait().await;
        stopping.send_replace(true);
    });
    let drained = async {
        let _ = stopped.wait_for(|stopping| *stopping).await;
        // Nobody connects any more; calls under way go on.
        drop(socket);
        log(Level::Info, "Signal received. Shutting down");
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served.map_err(|error| format!("{}: {error}", uds_path.display()))?,
        () = drained => return Err(format!("calls under way did not end in {} s", DRAIN.as_secs())),
    }
    let _ = backend.model().shutdown(Duration::from_secs(1));
    Ok(())
}

/// Opens the model with the router's pooling.
fn open(args: &Args) -> Result<BeiBackend, String> {
    let options = args.options()?;
    let pool = args.pool.0;
    let failed = |error: bei_backend::Error| format!("{}: {}", args.model_path.display(), error.message);
    let pooled = BeiBackend::open(&options.clone().with("pooling", pool.option()));
    let backend = match pooled {
        // Of a classifier the router says "cls", and the library that a classifier takes no pooling.
        Err(refused) if refused.status == Status::Unsupported && pool == Pool::Cls => {
            match BeiBackend::open(&options) {
                Ok(backend) if matches!(backend.model_type(), None | Some(ModelType::Classifier)) => backend,
                _ => return Err(failed(refused)),
            }
        }
        pooled => pooled.map_err(failed)?,
    };
    if backend.model_type().is_none() {
        return Err(format!(
            "{}: a token classifier, for which the protocol has no call; bei-router serves it",
            args.model_path.display()
        ));
    }
    Ok(backend)
}

/// SIGTERM and SIGINT.
struct Stop(Signal, Signal);

impl Stop {
    fn new() -> std::io::Result<Stop> {
        let stop = Stop(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
            bei_backend::run_on_signal_stack(kind.as_raw_value())?;
        }
        Ok(stop)
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}
