use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::{Body as HttpBody, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::app::App;
use crate::failure::{Failure, OpenAiFailure};

/// Bytes, and time, that are spent on reading the rest of a body that is too large. A reply before the client has sent
/// everything would be lost to most clients: they write, and find the connection closed.
const DISCARDED_BYTES: usize = 64 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest silence of a client in the middle of a body. Without it one that stalls would keep its memory for ever.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);

/// A JSON body. What is wrong with it is told in the shape of the routes' other errors: 400 for text that is no JSON, 422
/// for JSON of another shape, 408 for a client that stalls, 413 above the payload limit, 415 without the content type.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<Arc<App>> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Body<T>, Failure> {
        parse(app, text(request, app).await?).await.map(Body)
    }
}

/// The text of a JSON body.
pub async fn text(request: Request, app: &App) -> Result<Bytes, Failure> {
    if !is_json(request.headers()) {
        forget(request).await;
        let message = "expected a request with `Content-Type: application/json`";
        return Err(Failure::body(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    read(request, app.limits.payload_limit, app.limits.body_timeout).await
}

/// What a JSON body says.
pub async fn parse<T: DeserializeOwned + Send + 'static>(app: &App, text: Bytes) -> Result<T, Failure> {
    let length = text.len();
    let timed = move || {
        let start = Instant::now();
        (parsed(&text), start.elapsed())
    };
    let (parsed, took) = if length <= PARSED_AT_ONCE {
        timed()
    } else {
        let parsed = tokio::task::spawn_blocking(timed).await;
        parsed.map_err(|error| Failure::backend(format!("reading the body failed: {error}")))?
    };
    app.metrics.stages.parse.observe(took.as_secs_f64());
    parsed
}

/// Bytes of a body that is parsed at once. Megabytes take milliseconds, which must not be a connections' thread's.
const PARSED_AT_ONCE: usize = 256 << 10;

/// Only a body that is wrong is parsed a second time, which finds out where.
fn parsed<T: DeserializeOwned>(text: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(text).map_err(|error| match Json::<T>::from_bytes(text) {
        Err(rejection) => Failure::body(rejection.status(), rejection.body_text()),
        Ok(_) => Failure::body(StatusCode::BAD_REQUEST, error.to_string()),
    })
}

/// As [`Body`], for OpenAI's routes.
pub struct OpenAiBody<T>(pub T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<Arc<App>> for OpenAiBody<T> {
    type Rejection = OpenAiFailure;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<OpenAiBody<T>, OpenAiFailure> {
        let Body(value) = Body::from_request(request, app).await?;
        Ok(OpenAiBody(value))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

async fn read(request: Request, limit: usize, whole: Duration) -> Result<Bytes, Failure> {
    let (parts, mut body) = request.into_parts();
    let length = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let announced: Option<usize> = length.and_then(|length| length.parse().ok());
    let waits = parts.headers.contains_key(EXPECT);
    let too_large = || {
        let size = announced.map_or(String::new(), |size| format!(" of {size} bytes"));
        let message = format!("a body{size} is more than the limit of {limit} bytes (payload_limit)");
        Failure::body(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    if announced.is_some_and(|size| size > limit) {
        // A client that waits for leave to send has sent nothing yet.
        if !waits {
            discard(body).await;
        }
        return Err(too_large());
    }
    // Most bodies come in one piece, which needs no copy.
    let (mut first, mut text) = (Bytes::new(), Vec::new());
    let start = tokio::time::Instant::now(); // which the tests wind
    let next = async |body: &mut HttpBody| {
        let left = whole.saturating_sub(start.elapsed());
        timeout(SILENCE_TIMEOUT.min(left), body.frame()).await.map_err(|_| {
            let message = match left < SILENCE_TIMEOUT {
                true => format!("the body took longer than {whole:?} (body_timeout_ms)"),
                false => format!("nothing more of the body came for {SILENCE_TIMEOUT:?}"),
            };
            Failure::body(StatusCode::REQUEST_TIMEOUT, message)
        })
    };
    while let Some(frame) = next(&mut body).await? {
        let frame = frame.map_err(|error| {
            Failure::body(StatusCode::BAD_REQUEST, format!("the body could not be read: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limit - first.len().max(text.len()) {
            discard(body).await;
            return Err(too_large());
        }
        if first.is_empty() && text.is_empty() {
            first = data;
            continue;
        }
        if text.is_empty() {
            text.reserve(announced.unwrap_or_default().max(first.len() + data.len()));
            text.extend_from_slice(&first);
        }
        text.extend_from_slice(&data);
    }
    Ok(if text.is_empty() { first } else { text.into() })
}

/// Reads and forgets the body of a request that is refused without it: the connection serves the client's next request only when nothing of
/// this one is left in it. A client that waits for leave to send has sent nothing.
pub async fn forget(request: Request) {
    if !request.headers().contains_key(EXPECT) {
        discard(request.into_body()).await;
    }
}

/// Reads and forgets what a client still sends, within limits.
async fn discard(mut body: HttpBody) {
    let read = async {
        let mut rest = DISCARDED_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            match rest.checked_sub(frame.data_ref().map_or(0, |data| data.len())) {
                Some(left) => rest = left,
                None => break,
            }
        }
    };
    // Either way there is no more to do.
    let _ = timeout(DISCARD_TIMEOUT, read).await;
}

#[cfg(test)]
mod tests {
    use futures_util::stream::{self, StreamExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stalls_is_given_up() {
        let part = stream::iter([Ok::<_, std::io::Error>("{\"inputs\": ")]);
        let request = Request::new(HttpBody::from_stream(part.chain(stream::pending())));
        let failure = read(request, 1000, Duration::from_secs(120)).await.unwrap_err();
        assert_eq!((failure.status, failure.message.contains("30s")), (StatusCode::REQUEST_TIMEOUT, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_drips_is_given_up() {
        let byte = async |()| {
            tokio::time::sleep(Duration::from_secs(20)).await;
            Some((Ok::<_, std::io::Error>(" "), ()))
        };
        let request = Request::new(HttpBody::from_stream(stream::unfold((), byte)));
        let start = tokio::time::Instant::now();
        let failure = read(request, 1000, Duration::from_secs(120)).await.unwrap_err();
        assert_eq!((failure.status, failure.message.contains("120s")), (StatusCode::REQUEST_TIMEOUT, true));
        assert_eq!(start.elapsed(), Duration::from_secs(120));
    }
}
