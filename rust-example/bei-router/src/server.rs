use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;

use crate::app::App;
use crate::routes::routes;
use crate::scheduler::End;

/// Longest time from the order to stop until what is under way is given up, and then until the model is closed. The sum is
/// less than the half minute that Kubernetes and others leave between SIGTERM and SIGKILL.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until `stop` is ready, or until no engine has worked for the limit of the flags. Then it accepts no more, answers what is under
/// way, and closes the model.
pub async fn serve(
    app: Arc<App>,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<End> {
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let end = Arc::new(OnceLock::new());
    let (ended, watched) = (end.clone(), app.clone());
    let watchdog = tokio::spawn(async move { watched.scheduler.watch().await });
    let abort = watchdog.abort_handle();
    let gone = app.clone();
    let stop = async move {
        let end = tokio::select! {
            () = stop => End::Stopped,
            // An error says that the watchdog panicked, which its log line tells.
            end = watchdog => end.unwrap_or(End::Hung),
        };
        if end != End::Stopped {
            tracing::error!("no engine works any more; ending");
            gone.scheduler.abandon();
        }
        let _ = ended.set(end);
        gone.stopping.send_replace(true);
        let _ = stopping.send(());
    };
    // Replies are small: waiting to fill a packet would only delay them.
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!("TCP_NODELAY: {error}");
        }
    });
    let server = axum::serve(listener, routes(app.clone())).with_graceful_shutdown(stop);
    let too_slow = async {
        // An error says that the server ended without being told to.
        let _ = stopped.await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    let served = tokio::select! {
        served = drained(server, &app) => served,
        () = too_slow => {
            tracing::warn!("requests are still under way after {DRAIN_TIMEOUT:?}; giving them up");
            app.scheduler.abandon();
            Ok(())
        }
    };
    abort.abort();
    let models: Vec<_> = [Some(app.model.clone()), app.spill_model.clone()].into_iter().flatten().collect();
    for model in models {
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || model.shutdown(CLOSE_TIMEOUT)).await {
            tracing::warn!("closing the model: {error}");
        }
    }
    served.map(|()| end.get().copied().unwrap_or(End::Stopped))
}

/// Runs the server to its end, then the batches that are left.
async fn drained(server: impl IntoFuture<Output = io::Result<()>>, app: &App) -> io::Result<()> {
    server.into_future().await?;
    app.scheduler.drain().await;
    Ok(())
}
