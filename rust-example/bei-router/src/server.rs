use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::app::App;
use crate::batcher;
use crate::routes::routes;

/// Longest time from the order to stop until what is under way is given up, and then until the model is closed. The sum is
/// less than the half minute that Kubernetes and others leave between SIGTERM and SIGKILL.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until `stop` is ready. Then it accepts no more, answers what is under way, and closes the model.
pub async fn serve(
    app: Arc<App>,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let mut batcher = tokio::spawn(batcher::run(app.clone()));
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let stop = async move {
        stop.await;
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
        served = drained(server, &app, &mut batcher) => served,
        () = too_slow => {
            tracing::warn!("requests are still under way after {DRAIN_TIMEOUT:?}; giving them up");
            app.queue.abandon();
            Ok(())
        }
    };
    let closing = move || app.model.shutdown(CLOSE_TIMEOUT);
    if let Ok(Err(error)) = tokio::task::spawn_blocking(closing).await {
        tracing::warn!("closing the model: {error}");
    }
    served
}

/// Runs the server to its end, then the batches that are left. A server without its batching task would let every request
/// wait for ever, so that one's end is the server's.
async fn drained(
    server: impl IntoFuture<Output = io::Result<()>>,
    app: &App,
    batcher: &mut JoinHandle<()>,
) -> io::Result<()> {
    tokio::select! {
        served = server.into_future() => served?,
        ended = &mut *batcher => return Err(io::Error::other(format!("the batching task ended: {ended:?}"))),
    }
    app.queue.close();
    batcher.await.map_err(io::Error::other)
}
