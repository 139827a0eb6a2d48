use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HeaderMap};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::{Choice, ConstantTimeEq};

use crate::body;
use crate::failure::{Failure, OpenAiFailure};

/// The keys of which requests must carry one.
#[derive(Debug)]
pub struct Keys(Vec<String>);

impl Keys {
    /// `None` where requests need no key.
    pub fn new(keys: &[String]) -> Option<Arc<Keys>> {
        (!keys.is_empty()).then(|| Arc::new(Keys(keys.to_vec())))
    }

    /// Whether the headers carry `Authorization: Bearer KEY`. The time it takes tells nothing but lengths, so that a key cannot
    /// be guessed piece by piece.
    pub fn allow(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let Some((scheme, token)) = given.and_then(|value| value.split_at_checked(7)) else { return false };
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return false;
        }
        let equal = self.0.iter().map(|key| key.as_bytes().ct_eq(token));
        equal.fold(Choice::from(0), |any, one| any | one).into()
    }
}

/// Lets requests with a key through, and answers others 401, as the family does: with nothing in it. Routes that the family has not answer
/// what their clients read: Cohere's wants JSON.
pub async fn require(State(keys): State<Arc<Keys>>, request: Request, next: Next) -> Response {
    if keys.allow(request.headers()) {
        return next.run(request).await;
    }
    let response = match request.uri().path() {
        "/v1/rerank" | "/v2/rerank" => OpenAiFailure(Failure::unauthorized()).into_response(),
        _ => StatusCode::UNAUTHORIZED.into_response(),
    };
    body::forget(request).await;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_the_keys_is_taken_and_nothing_else() {
        let keys = Keys::new(&["one".to_string(), "two".to_string()]).unwrap();
        for (given, allowed) in [
            ("Bearer one", true),
            ("bearer two", true),
            ("Bearer on", false),
            ("Bearer onee", false),
            ("Bearer one,two", false),
            ("Bearer ", false),
            ("Bearer", false),
            ("Basic one", false),
            ("one", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(given));
            assert_eq!(keys.allow(&headers), allowed, "{given:?}");
        }
        assert!(!keys.allow(&HeaderMap::new()));
        assert!(Keys::new(&[]).is_none());
    }
}
