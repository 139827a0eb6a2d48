use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What the clients of the platform send.
const CUSTOMER_ID: HeaderName = HeaderName::from_static("x-baseten-customer-request-id");
/// Longer ones are not taken: they end up in every line of the log.
const MOST: usize = 128;

/// The id of a request: the client's, or one made here.
#[derive(Debug)]
pub struct RequestId {
    value: HeaderValue,
    customer: Option<HeaderValue>,
}

impl RequestId {
    /// Takes x-request-id, or else x-baseten-customer-request-id, where it is printable and short, or makes an id.
    pub fn of(headers: &HeaderMap) -> RequestId {
        let taken = |name| {
            let value: &HeaderValue = headers.get(name)?;
            let printable = |text: &str| {
                (1..=MOST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
            };
            value.to_str().is_ok_and(printable).then(|| value.clone())
        };
        let customer = taken(CUSTOMER_ID);
        RequestId { value: taken(REQUEST_ID).or_else(|| customer.clone()).unwrap_or_else(made), customer }
    }

    /// As logs and spans have it.
    pub fn text(&self) -> &str {
        self.value.to_str().unwrap_or_default()
    }

    /// Puts the id into a reply, under the names that the request had.
    pub fn echo(self, headers: &mut HeaderMap) {
        headers.insert(REQUEST_ID, self.value);
        if let Some(customer) = self.customer {
            headers.insert(CUSTOMER_ID, customer);
        }
    }
}

/// A number that no other process has, and one that no other request of this process has.
fn made() -> HeaderValue {
    static PROCESS: OnceLock<u64> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let process = PROCESS.get_or_init(|| RandomState::new().hash_one(std::process::id()));
    let text = format!("{process:016x}{:016x}", NEXT.fetch_add(1, Ordering::Relaxed));
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(headers: &[(&'static str, &str)]) -> (String, HeaderMap) {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect();
        let id = RequestId::of(&headers);
        let (text, mut reply) = (id.text().to_string(), HeaderMap::new());
        id.echo(&mut reply);
        assert_eq!(reply["x-request-id"], text.as_str());
        (text, reply)
    }

    #[test]
    fn ids_are_taken_and_echoed() {
        assert_eq!(id(&[("x-request-id", "abc-1")]).0, "abc-1");
        let (text, reply) = id(&[("x-baseten-customer-request-id", "c")]);
        assert_eq!(
            (text.as_str(), &reply["x-baseten-customer-request-id"]),
            ("c", &HeaderValue::from_static("c"))
        );
        let (text, reply) = id(&[("x-request-id", "a"), ("x-baseten-customer-request-id", "c")]);
        assert_eq!(
            (text.as_str(), &reply["x-baseten-customer-request-id"]),
            ("a", &HeaderValue::from_static("c"))
        );
    }

    #[test]
    fn what_does_not_suit_a_log_is_replaced() {
        let long = "x".repeat(MOST + 1);
        for bad in ["", "a b", "a\tb", long.as_str()] {
            let (text, _) = id(&[("x-request-id", bad)]);
            assert_eq!(text.len(), 32, "{bad:?}");
        }
        assert_ne!(id(&[]).0, id(&[]).0);
    }
}
