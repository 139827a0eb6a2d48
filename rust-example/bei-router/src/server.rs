use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::app::App;
use crate::connections;
use crate::front::Front;
use crate::lifecycle::{Lifecycle, NotReady};
use crate::routes::{routes, status};
use crate::scheduler::End;
use crate::serving::Ending;

/// Longest time that the closing of the model may take after the last answer. With the default of --shutdown-timeout-ms the sum is less
/// than the half minute that Kubernetes and others leave between SIGTERM and SIGKILL.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// An open listener and what answers on it, from before the model is open.
pub struct Server {
    lifecycle: Arc<Lifecycle>,
    task: JoinHandle<()>,
    close: oneshot::Sender<()>,
}

impl Server {
    /// Answers requests from now on: with 503, until [`Server::run`] has the model.
    pub fn listen(
        listener: TcpListener,
        lifecycle: Arc<Lifecycle>,
        access_log: bool,
        idle: Duration,
    ) -> Server {
        let (close, closed) = oneshot::channel();
        let front = Front::new(lifecycle.clone(), access_log);
        let task = tokio::spawn(connections::serve(listener, front, idle, async move {
            // An error says that the start failed, which ends the server too.
            let _ = closed.await;
        }));
        Server { lifecycle, task, close }
    }

    /// The model works: its routes answer from now on.
    pub fn ready(&self, app: &Arc<App>) {
        self.lifecycle.ready(app.clone(), routes(app.clone()));
    }

    /// Serves the model until `stop` is ready, or until the engine has been unhealthy for the limit of the flags. Then the server is not
    /// ready any more, after a delay accepts no more, answers what is under way, and closes the model.
    pub async fn run(self, app: Arc<App>, ending: Ending, stop: impl Future<Output = ()>) -> io::Result<End> {
        let Server { lifecycle, mut task, close } = self;
        let watched = app.clone();
        // It watches during the drain, too.
        let (tell, told) = oneshot::channel();
        let watchdog = tokio::spawn(async move { watched.scheduler.watch(tell).await });
        let end = tokio::select! {
            () = stop => Ok(End::Stopped),
            // An error says that the watchdog panicked, which its log line tells.
            end = told => Ok(end.unwrap_or(End::Hung)),
            ended = &mut task => Err(io::Error::other(format!("the listener ended: {ended:?}"))),
        };
        lifecycle.stop();
        app.stopping.send_replace(true); // gRPC's health
        let ended = match end {
            Ok(end) => {
                if end == End::Stopped {
                    tokio::time::sleep(ending.delay).await;
                } else {
                    tracing::error!("the engine has not recovered; ending");
                    if !app.scheduler.serves() {
                        app.scheduler.abandon();
                    }
                }
                drained(close, &mut task, &app, ending.timeout).await.map(|()| end)
            }
            Err(error) => Err(error),
        };
        watchdog.abort();
        let models: Vec<_> =
            [Some(app.model.clone()), app.spill_model.clone()].into_iter().flatten().collect();
        for model in models {
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || model.shutdown(CLOSE_TIMEOUT)).await {
                tracing::warn!("closing the model: {error}");
            }
        }
        ended
    }
}

/// Closes the listener and waits for the answers under way and the batches that are left, up to a limit.
async fn drained(
    close: oneshot::Sender<()>,
    server: &mut JoinHandle<()>,
    app: &App,
    limit: Duration,
) -> io::Result<()> {
    let _ = close.send(()); // an error says that the server has ended
    let drain = async {
        server.await.map_err(io::Error::other)?;
        app.scheduler.drain().await;
        Ok(())
    };
    tokio::time::timeout(limit, drain).await.unwrap_or_else(|_| {
        tracing::warn!("requests are still under way after {limit:?}; giving them up");
        app.scheduler.abandon();
        Ok(())
    })
}

/// Serves an open model until `stop` is ready, as [`Server::run`] does.
pub async fn serve(
    app: Arc<App>,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<End> {
    let lifecycle = Lifecycle::new();
    lifecycle.ready(app.clone(), routes(app.clone())); // before the first connection is accepted
    Server::listen(listener, lifecycle, false, app.limits.idle_timeout)
        .run(app, Ending::default(), stop)
        .await
}

/// Answers GET /metrics on a listener of its own, to the process' end.
pub async fn serve_metrics(listener: TcpListener, lifecycle: Arc<Lifecycle>, idle: Duration) {
    let metrics = async move |State(lifecycle): State<Arc<Lifecycle>>| match lifecycle.app() {
        Some(app) => status::metrics(State(app.clone())).await.into_response(),
        None => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(lifecycle.refusal(NotReady::Starting))).into_response()
        }
    };
    let router = Router::new().route("/metrics", get(metrics)).with_state(lifecycle);
    connections::serve(listener, router, idle, std::future::pending()).await;
}
