use axum::Json;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use bei_backend::{Error, Status};
use serde::Serialize;
use utoipa::ToSchema;

use crate::routes::document::{ErrorBody, OpenAiErrorBody};

/// The kinds of errors that the family's replies name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub enum ErrorType {
    /// The engine or device is lost.
    Unhealthy,
    /// The model failed, or cannot do this.
    Backend,
    /// Too much is under way.
    Overloaded,
    /// The request is wrong.
    Validation,
    /// The text cannot be tokenized.
    Tokenizer,
    /// There is nothing in it.
    Empty,
    /// There is no key, or a wrong one.
    Unauthorized,
}

/// An error reply.
#[derive(Clone, Debug)]
pub struct Failure {
    pub status: StatusCode,
    pub error_type: ErrorType,
    pub message: String,
    /// The label of te_request_failure.
    pub cause: &'static str,
    /// The header Retry-After, in whole seconds.
    pub retry_after: Option<u64>,
}

/// Most bytes of a message. Messages quote what the client sent, and gRPC's clients refuse headers of more than 8 or 16 KiB, which a
/// message of letters beyond ASCII reaches three times as soon.
const MOST_MESSAGE: usize = 2000;

/// A message, cut where it is too long.
fn bounded(mut message: String) -> String {
    if message.len() > MOST_MESSAGE {
        let end = (0..=MOST_MESSAGE - '…'.len_utf8()).rev().find(|&end| message.is_char_boundary(end));
        message.truncate(end.unwrap_or(0));
        message.push('…');
    }
    message
}

impl Failure {
    fn new(
        status: StatusCode,
        error_type: ErrorType,
        cause: &'static str,
        message: impl Into<String>,
    ) -> Failure {
        Failure { status, error_type, message: bounded(message.into()), cause, retry_after: None }
    }

    pub fn validation(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorType::Validation, "validation", message)
    }

    /// A request that was refused before its meaning was looked at.
    pub fn body(status: StatusCode, message: impl Into<String>) -> Failure {
        Failure::new(status, ErrorType::Validation, "validation", message)
    }

    pub fn unauthorized() -> Failure {
        let message =
            "no key, or a wrong one; expected `Authorization: Bearer KEY` with a key of this server";
        Failure::new(StatusCode::UNAUTHORIZED, ErrorType::Unauthorized, "validation", message)
    }

    pub fn batch_size(size: usize, limit: usize) -> Failure {
        let message = format!("batch size {size} > maximum allowed batch size {limit}");
        Failure { cause: "batch_size", ..Failure::validation(message) }
    }

    pub fn empty(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, ErrorType::Empty, "validation", message)
    }

    pub fn overloaded(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::TOO_MANY_REQUESTS, ErrorType::Overloaded, "overloaded", message)
    }

    pub fn backend(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::FAILED_DEPENDENCY, ErrorType::Backend, "inference", message)
    }

    pub fn model_type(message: impl Into<String>) -> Failure {
        Failure { cause: "model_type", ..Failure::backend(message) }
    }

    pub fn unhealthy(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, ErrorType::Unhealthy, "inference", message)
    }

    /// The error with the advice to come again when so many seconds have passed.
    pub fn retry_after(mut self, seconds: u64) -> Failure {
        self.retry_after = Some(seconds.max(1));
        self
    }

    /// The error with the field that it is about before it.
    pub fn of(mut self, field: &str) -> Failure {
        self.message = bounded(format!("{field}: {}", self.message));
        self
    }
}

impl From<Error> for Failure {
    fn from(Error { status, message }: Error) -> Failure {
        match status {
            Status::Empty => Failure::empty(message),
            Status::InvalidArgument | Status::TooLong | Status::TokenOutOfRange => {
                Failure::validation(message)
            }
            Status::InvalidUtf8 | Status::NulByte | Status::Tokenization => {
                Failure::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorType::Tokenizer, "tokenization", message)
            }
            Status::Overloaded | Status::Timeout => Failure::overloaded(message),
            Status::Unhealthy | Status::ShutDown | Status::InvalidHandle | Status::Forked => {
                Failure::unhealthy(message)
            }
            _ => Failure::backend(message),
        }
    }
}

/// The message of a reply that is a failure of the server or the model, not of the client, for the log.
#[derive(Clone, Debug)]
pub struct Told(pub String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = ErrorBody { error: self.message.clone(), error_type: self.error_type };
        respond(self, body)
    }
}

/// An error reply in the shape of OpenAI's routes.
#[derive(Clone, Debug)]
pub struct OpenAiFailure(pub Failure);

impl From<Failure> for OpenAiFailure {
    fn from(failure: Failure) -> OpenAiFailure {
        OpenAiFailure(failure)
    }
}

impl IntoResponse for OpenAiFailure {
    fn into_response(self) -> Response {
        let Failure { status, error_type, message, .. } = &self.0;
        let body = OpenAiErrorBody { message: message.clone(), code: status.as_u16(), r#type: *error_type };
        respond(self.0, body)
    }
}

fn respond(failure: Failure, body: impl Serialize) -> Response {
    let Failure { status, retry_after, cause, message, .. } = failure;
    let mut response = (status, Json(body)).into_response();
    // Another task than the model's is the client's mistake.
    if status.is_server_error() || (status == StatusCode::FAILED_DEPENDENCY && cause != "model_type") {
        response.extensions_mut().insert(Told(message));
    }
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_bounded_at_a_character() {
        assert_eq!(Failure::validation("é".repeat(1000)).message, "é".repeat(1000));
        for start in ["", "a"] {
            let Failure { message, .. } =
                Failure::validation(format!("{start}{}", "é".repeat(1001))).of("inputs[7]");
            assert!(message.len() <= MOST_MESSAGE && message.len() > MOST_MESSAGE - 4, "{}", message.len());
            assert!(message.starts_with(&format!("inputs[7]: {start}é")) && message.ends_with("é…"));
        }
    }
}
