use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

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
    pub fn headers(&self, compute_type: &str) -> HeaderMap {
        let total = self.start.elapsed().as_millis().to_string();
        let mut headers = HeaderMap::with_capacity(8);
        for (name, value) in [
            ("x-compute-type", compute_type.to_string()),
            ("x-compute-time", total.clone()),
            ("x-compute-characters", self.characters.to_string()),
            ("x-compute-tokens", self.tokens.to_string()),
            ("x-total-time", total),
            ("x-tokenization-time", self.tokenization.as_millis().to_string()),
            ("x-queue-time", self.queue.as_millis().to_string()),
            ("x-inference-time", self.inference.as_millis().to_string()),
        ] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        headers
    }
}
