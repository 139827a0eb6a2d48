//! Replies in JSON.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};

use bei_backend::Rows;

use crate::failure::Failure;
use crate::metrics::Metrics;

/// Numbers that are written at once. Vectors of the tokens of 32 long inputs make some 40 MB of JSON and keep a thread busy for
/// half a second, which must not be one of those that serve connections.
const WRITTEN_AT_ONCE: usize = 1 << 15;

/// Bytes of a number with its comma: most floats take 12 to 13.
const NUMBER_BYTES: usize = 13;

/// A reply that holds `numbers` numbers, more or less.
pub async fn json<T: Serialize + Send + 'static>(
    metrics: &Metrics,
    headers: HeaderMap,
    reply: T,
    numbers: usize,
) -> Result<Response, Failure> {
    let failed = |error: String| Failure::backend(format!("writing the reply failed: {error}"));
    let text = if numbers <= WRITTEN_AT_ONCE {
        text(&reply, numbers)
    } else {
        let written = tokio::task::spawn_blocking(move || text(&reply, numbers)).await;
        written.map_err(|error| failed(error.to_string()))?
    };
    let (text, took) = text.map_err(|error| failed(error.to_string()))?;
    metrics.stages.write.observe(took.as_secs_f64());
    let mut response = Response::new(Body::from(text));
    *response.headers_mut() = headers;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The text, and what writing it took.
fn text<T: Serialize>(reply: &T, numbers: usize) -> serde_json::Result<(Vec<u8>, Duration)> {
    let start = Instant::now();
    let mut text = Vec::with_capacity(256 + numbers * NUMBER_BYTES);
    serde_json::to_writer(&mut text, reply)?;
    Ok((text, start.elapsed()))
}

/// Rows as a list of lists.
pub struct RowLists(pub Rows);

impl Serialize for RowLists {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut lists = serializer.serialize_seq(Some(self.0.len()))?;
        for row in self.0.iter() {
            lists.serialize_element(row)?;
        }
        lists.end()
    }
}
