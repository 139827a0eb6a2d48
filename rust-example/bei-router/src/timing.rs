use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::spans;

/// What a request cost; told in the headers of its reply.
#[derive(Clone, Debug)]
pub struct Timing {
    pub start: Instant,
    pub characters: usize,
    pub tokens: usize,
    pub tokenization: Duration,
    /// Mean of the inputs.
    pub queue: Duration,
    /// Mean of the inputs.
    pub inference: Duration,
}

impl Timing {
    /// The family's headers; times in milliseconds.
    pub fn headers(&self, compute_type: &HeaderValue) -> HeaderMap {
        if spans::on() {
            spans::record(self);
        }
        let milliseconds = |duration: Duration| HeaderValue::from(duration.as_millis() as u64);
        let total = milliseconds(self.start.elapsed());
        let mut headers = HeaderMap::with_capacity(12);
        for (name, value) in [
            ("x-compute-type", compute_type.clone()),
            ("x-compute-time", total.clone()),
            ("x-compute-characters", HeaderValue::from(self.characters)),
            ("x-compute-tokens", HeaderValue::from(self.tokens)),
            ("x-total-time", total),
            ("x-tokenization-time", milliseconds(self.tokenization)),
            ("x-queue-time", milliseconds(self.queue)),
            ("x-inference-time", milliseconds(self.inference)),
        ] {
            headers.insert(HeaderName::from_static(name), value);
        }
        headers
    }

    /// What a request cost whose inputs went two ways at once.
    pub fn joined(a: Option<Timing>, b: Option<Timing>) -> Option<Timing> {
        match (a, b) {
            (Some(a), Some(b)) => Some(Timing {
                start: a.start.min(b.start),
                characters: a.characters.max(b.characters),
                tokens: a.tokens + b.tokens,
                tokenization: a.tokenization.max(b.tokenization),
                queue: a.queue.max(b.queue),
                inference: a.inference.max(b.inference),
            }),
            (one, other) => one.or(other),
        }
    }
}
