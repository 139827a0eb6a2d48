//! Replies in JSON.

use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use bei_backend::Rows;

use crate::app::App;
use crate::failure::Failure;

/// Numbers that are written at once. Vectors of the tokens of 32 long inputs make some 40 MB of JSON and keep a thread busy for
/// half a second, which must not be one of those that serve connections.
const WRITTEN_AT_ONCE: usize = 1 << 15;

/// Bytes of a number with its comma: most floats take 12 to 13.
const NUMBER_BYTES: usize = 13;

/// Bytes of a reply that is not counted: the system's buffer of its connection takes it.
const UNCOUNTED: usize = 64 << 10;

/// The memory of replies, from before they are written until they are sent: a client that does not read keeps its own.
pub struct Replies {
    /// KiB that are left.
    room: Arc<Semaphore>,
    most: usize,
}

impl Replies {
    pub fn new(mib: usize) -> Replies {
        let most = mib.saturating_mul(1024).min(u32::MAX as usize);
        Replies { room: Arc::new(Semaphore::new(most)), most }
    }

    /// KiB that a reply takes; one of any size has room while there is no other.
    fn kib(&self, bytes: usize) -> usize {
        if bytes <= UNCOUNTED { 0 } else { (bytes >> 10).min(self.most) }
    }

    fn take(&self, kib: usize) -> Result<OwnedSemaphorePermit, Failure> {
        self.room.clone().try_acquire_many_owned(kib as u32).map_err(|_| Replies::full())
    }

    /// Whether there would be room for `numbers` numbers, which is asked before they are computed.
    pub fn check(&self, numbers: usize) -> Result<(), Failure> {
        let kib = self.kib(numbers.saturating_mul(NUMBER_BYTES));
        if self.room.available_permits() < kib { Err(Replies::full()) } else { Ok(()) }
    }

    fn full() -> Failure {
        Failure::overloaded("too many large replies are being sent").retry_after(1)
    }
}

/// A reply and its room, which it gives back when the connection has sent its last byte.
struct Counted {
    text: Vec<u8>,
    _room: OwnedSemaphorePermit,
    _sending: Arc<()>,
}

/// In the extensions of a large response: tells whether its last byte has been sent.
#[derive(Clone, Debug)]
pub struct Unsent(Weak<()>);

impl Unsent {
    /// `sending` is held until the last byte has been sent.
    pub fn of(sending: &Arc<()>) -> Unsent {
        Unsent(Arc::downgrade(sending))
    }

    pub fn is_sent(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

/// A reply that holds `numbers` numbers, more or less.
pub async fn json<T: Serialize + Send + 'static>(
    app: &App,
    headers: HeaderMap,
    reply: T,
    numbers: usize,
) -> Result<Response, Failure> {
    let failed = |error: String| Failure::backend(format!("writing the reply failed: {error}"));
    let room = take(app, app.replies.kib(numbers.saturating_mul(NUMBER_BYTES)))?;
    let write = move || (text(&reply, numbers), room);
    let (text, room) = if numbers <= WRITTEN_AT_ONCE {
        write()
    } else {
        let written = tokio::task::spawn_blocking(write).await;
        written.map_err(|error| failed(error.to_string()))?
    };
    let (text, took) = text.map_err(|error| failed(error.to_string()))?;
    app.metrics.stages.write.observe(took.as_secs_f64());
    sent(app, headers, text, room)
}

/// A reply whose text is written.
pub fn written(app: &App, text: Vec<u8>) -> Result<Response, Failure> {
    sent(app, HeaderMap::new(), text, take(app, 0)?)
}

fn take(app: &App, kib: usize) -> Result<OwnedSemaphorePermit, Failure> {
    app.replies.take(kib).inspect_err(|failure| app.metrics.failure(failure))
}

fn sent(
    app: &App,
    headers: HeaderMap,
    text: Vec<u8>,
    mut room: OwnedSemaphorePermit,
) -> Result<Response, Failure> {
    // The numbers were a guess, and texts that are given back are not among them.
    let (guess, kib) = (room.num_permits(), app.replies.kib(text.len()));
    drop(room.split(guess.saturating_sub(kib)));
    room.merge(take(app, kib.saturating_sub(guess))?);
    let mut response = Response::default();
    if room.num_permits() == 0 {
        *response.body_mut() = Body::from(text);
    } else {
        let sending = Arc::new(());
        response.extensions_mut().insert(Unsent::of(&sending));
        *response.body_mut() =
            Body::from(Bytes::from_owner(Counted { text, _room: room, _sending: sending }));
    }
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
