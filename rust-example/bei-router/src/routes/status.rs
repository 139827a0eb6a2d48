//! GET /health and /metrics.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use bei_backend::CallOptions;

use crate::app::App;
use crate::failure::Failure;
use crate::routes::document::ErrorBody;

/// Longest time that a deep health check may take.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(30);

/// As the family: cheap while the last batch succeeded, otherwise one token goes through the engine.
#[utoipa::path(get, path = "/health", tag = "Server",
    responses((status = 200, description = "Empty"), (status = 503, description = "Not able to work", body = ErrorBody)))]
pub async fn health(State(app): State<Arc<App>>) -> Result<(), Failure> {
    if app.scheduler.health()? {
        return Ok(app.model.health(false, &CallOptions::default())?);
    }
    // One deep check at a time, however many ask: the others take its result.
    let _turn = app.health_turn.lock().await;
    if app.scheduler.health()? {
        return Ok(());
    }
    let checked = app.clone();
    let check = move || {
        let options = CallOptions { timeout: Some(HEALTH_TIMEOUT), ..CallOptions::default() };
        checked.model.health(true, &options)
    };
    let health = tokio::task::spawn_blocking(check).await;
    health.map_err(|error| Failure::unhealthy(format!("the health check failed: {error}")))?.map_err(
        |error| {
            // Whatever kept the check from an answer, the server is not able to work.
            Failure::unhealthy(error.message)
        },
    )?;
    app.scheduler.note_working();
    Ok(())
}

/// As /health.
#[utoipa::path(get, path = "/", tag = "Server",
    responses((status = 200, description = "Empty"), (status = 503, description = "Not able to work", body = ErrorBody)))]
pub async fn root(app: State<Arc<App>>) -> Result<(), Failure> {
    health(app).await
}

/// As /health.
#[utoipa::path(get, path = "/ping", tag = "Server",
    responses((status = 200, description = "Empty"), (status = 503, description = "Not able to work", body = ErrorBody)))]
pub async fn ping(app: State<Arc<App>>) -> Result<(), Failure> {
    health(app).await
}

/// The server's metrics, then the library's, in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "Server", responses((status = 200, description = "Metrics", body = String, content_type = "text/plain")))]
pub async fn metrics(State(app): State<Arc<App>>) -> Result<impl IntoResponse, Failure> {
    let failed = |error: String| Failure::backend(format!("metrics: {error}"));
    app.scheduler.measure();
    let mut text = app.metrics.text(app.scheduler.queued()).map_err(|error| failed(error.to_string()))?;
    text += &app.model.metrics().map_err(|error| failed(error.to_string()))?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}
