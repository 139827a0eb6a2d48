//! Replies in JSON.

use std::io;
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
    let mut text = Text(Vec::with_capacity(256 + numbers * NUMBER_BYTES));
    serde_json::to_writer(&mut text, reply)?;
    Ok((text.0, start.elapsed()))
}

/// Text that mostly grows by numbers, whose digits it takes as two words that overlap: a copy of any length is a call of the C library
/// for each of them, which takes as long as finding the digits.
struct Text(Vec<u8>);

impl io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match (bytes, bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
            ([byte], ..) => self.0.push(*byte),
            (_, Some(first), Some(last)) if bytes.len() <= 16 => {
                let end = self.0.len() + bytes.len();
                self.0.extend_from_slice(first);
                self.0.truncate(end - last.len());
                self.0.extend_from_slice(last);
            }
            _ => self.0.extend_from_slice(bytes),
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn text_is_what_was_written_whatever_its_length() {
        let all: Vec<u8> = (b' '..=b'~').collect();
        let mut text = Text(Vec::new());
        let mut expected = Vec::new();
        for n in (0..all.len()).chain([1, 7, 8, 9, 15, 16, 17]) {
            text.write_all(&all[..n]).unwrap();
            expected.extend_from_slice(&all[..n]);
        }
        assert_eq!(text.0, expected);
    }

    #[test]
    fn numbers_are_written_as_serde_json_writes_them() {
        let numbers = [
            0.0,
            -0.0,
            1.0,
            0.1,
            -0.033_333_335,
            1e-7,
            f32::MIN,
            f32::MAX,
            f32::MIN_POSITIVE,
            1e-45,
            f32::NAN,
        ];
        let (written, _) = super::text(&numbers, 1).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), serde_json::to_string(&numbers).unwrap());
    }
}
