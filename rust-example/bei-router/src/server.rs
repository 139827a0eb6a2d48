use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tower_http::catch_panic::CatchPanicLayer;

use crate::app::App;
use crate::failure::Failure;
use crate::{auth, batcher, embed, openai, status, text};

/// Longest time from the order to stop until connections are cut.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves until `stop` is ready. Then it accepts no more, answers what is under way, and closes the model.
pub async fn serve(
    app: Arc<App>,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let batcher = tokio::spawn(batcher::run(app.clone()));
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
        served = server => served,
        () = too_slow => {
            tracing::warn!("connections are still open after {DRAIN_TIMEOUT:?}; cutting them");
            Ok(())
        }
    };
    app.queue.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, batcher).await.is_err() {
        tracing::warn!("batches are still running after {DRAIN_TIMEOUT:?}; giving them up");
    }
    let closing = move || app.backend.model().shutdown(Duration::from_secs(5));
    if let Ok(Err(error)) = tokio::task::spawn_blocking(closing).await {
        tracing::warn!("closing the model: {error}");
    }
    served
}

fn routes(app: Arc<App>) -> Router {
    let mut guarded = Router::new()
        .route("/embed", post(embed::embed))
        .route("/embed_all", post(embed::embed_all))
        .route("/v1/embeddings", post(openai::embeddings))
        .route("/embeddings", post(openai::embeddings))
        .route("/tokenize", post(text::tokenize))
        .route("/decode", post(text::decode))
        .route("/info", get(status::info));
    if let Some(key) = &app.api_key {
        guarded = guarded.route_layer(from_fn_with_state(key.clone(), auth::require));
    }
    Router::new()
        .route("/", get(status::health))
        .route("/health", get(status::health))
        .route("/ping", get(status::health))
        .route("/metrics", get(status::metrics))
        .merge(guarded)
        .layer(CatchPanicLayer::custom(|_| {
            use axum::response::IntoResponse;
            Failure::backend("a defect of the server; its log tells more").into_response()
        }))
        .with_state(app)
}
