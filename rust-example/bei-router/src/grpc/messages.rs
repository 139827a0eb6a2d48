//! What all calls have in common: contexts out of metadata, statuses out of failures, the cost of a call.

use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderValue};
use bei_proto::tei::v1;
use tonic::metadata::MetadataMap;
use tonic::{Code, Extensions, Request, Response, Status};

use crate::app::App;
use crate::failure::{ErrorType, Failure};
use crate::inputs::{Input, Inputs};
use crate::timing::Timing;
use crate::tokenizer::{EncodeOptions, TruncationDirection};
use crate::work::Context;

/// The context of a call: as of an HTTP request, and the deadline that gRPC itself has.
pub fn context<T>(request: &Request<T>) -> Result<Context, Status> {
    let headers = request.metadata().as_ref();
    let mut context = Context::from_headers(headers).map_err(status)?;
    if let Some(value) = headers.get("grpc-timeout") {
        let Some(timeout) = grpc_timeout(value) else {
            return Err(status(Failure::validation(format!(
                "the metadata grpc-timeout is {value:?}; it must be as 100m or 5S"
            ))));
        };
        let deadline = context.arrival.checked_add(timeout);
        context.deadline = [context.deadline, deadline].into_iter().flatten().min();
    }
    Ok(context)
}

/// At most eight digits and a unit: H, M, S, m, u or n.
fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// A failure as a status, with the family's codes.
pub fn status(failure: Failure) -> Status {
    let code = match failure.error_type {
        ErrorType::Unhealthy => Code::Unavailable,
        ErrorType::Backend | ErrorType::Tokenizer => Code::FailedPrecondition,
        ErrorType::Overloaded => Code::ResourceExhausted,
        ErrorType::Validation | ErrorType::Empty => Code::InvalidArgument,
        ErrorType::Unauthorized => Code::Unauthenticated,
    };
    let mut headers = HeaderMap::new();
    if let Some(seconds) = failure.retry_after {
        headers.insert("retry-after", seconds.into());
    }
    Status::with_metadata(code, failure.message, MetadataMap::from_headers(headers))
}

/// As [`status`], but what the deadline of the call ended has gRPC's code for that.
pub fn status_by(deadline: Option<Instant>) -> impl Fn(Failure) -> Status {
    move |failure| match deadline {
        Some(deadline) if failure.error_type == ErrorType::Overloaded && Instant::now() >= deadline => {
            Status::deadline_exceeded(failure.message)
        }
        _ => status(failure),
    }
}

/// One input, which errors call `inputs`.
pub fn one(input: Input) -> Inputs {
    Inputs { items: vec![input], single: true }
}

/// The only answer of a call with one input.
pub fn only<T>(mut answers: Vec<T>) -> Result<T, Status> {
    answers.pop().ok_or_else(|| Status::internal("a defect of the server: no answer"))
}

pub fn options(
    app: &App,
    truncate: bool,
    direction: i32,
    prompt_name: Option<String>,
) -> Result<EncodeOptions, Status> {
    let direction = match v1::TruncationDirection::try_from(direction) {
        Ok(v1::TruncationDirection::Right) => TruncationDirection::Right,
        Ok(v1::TruncationDirection::Left) => TruncationDirection::Left,
        Err(_) => {
            return Err(Status::invalid_argument(format!(
                "truncation_direction is {direction}; it can be 0 (right) or 1 (left)"
            )));
        }
    };
    Ok(app.encode_options(Some(truncate), direction, prompt_name))
}

pub fn metadata(timing: &Timing) -> Option<v1::Metadata> {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    Some(v1::Metadata {
        compute_chars: count(timing.characters),
        compute_tokens: count(timing.tokens),
        total_time_ns: nanoseconds(timing.start.elapsed()),
        tokenization_time_ns: nanoseconds(timing.tokenization),
        queue_time_ns: nanoseconds(timing.queue),
        inference_time_ns: nanoseconds(timing.inference),
    })
}

/// A reply with the headers that the HTTP routes have too.
pub fn response<T>(app: &App, message: T, timing: &Timing) -> Response<T> {
    let headers = MetadataMap::from_headers(timing.headers(&app.compute_type));
    Response::from_parts(headers, message, Extensions::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_from_metadata() {
        let parsed = |text: &str| grpc_timeout(&HeaderValue::from_str(text).unwrap());
        for (text, milliseconds) in [
            ("1H", 3_600_000),
            ("2M", 120_000),
            ("3S", 3000),
            ("40m", 40),
            ("5000u", 5),
            ("6000000n", 6),
            ("0S", 0),
        ] {
            assert_eq!(parsed(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for wrong in ["", "S", "1", "1s", "-1S", "123456789S", "1.5S", "1 S", "é"] {
            assert_eq!(
                HeaderValue::from_bytes(wrong.as_bytes()).ok().and_then(|v| grpc_timeout(&v)),
                None,
                "{wrong}"
            );
        }
        let mut request = Request::new(());
        request.metadata_mut().insert("grpc-timeout", "90S".parse().unwrap());
        request.metadata_mut().insert("request-timeout-ms", "1000".parse().unwrap());
        let context = context(&request).unwrap();
        assert_eq!(context.deadline.unwrap() - context.arrival, Duration::from_secs(1));
    }

    #[test]
    fn failures_have_the_familys_codes() {
        for (failure, code) in [
            (Failure::unhealthy(""), Code::Unavailable),
            (Failure::backend(""), Code::FailedPrecondition),
            (Failure::model_type(""), Code::FailedPrecondition),
            (Failure::overloaded(""), Code::ResourceExhausted),
            (Failure::validation(""), Code::InvalidArgument),
            (Failure::empty(""), Code::InvalidArgument),
            (Failure::batch_size(3, 2), Code::InvalidArgument),
        ] {
            assert_eq!(status(failure).code(), code);
        }
        let busy = status(Failure::overloaded("busy").retry_after(7));
        assert_eq!(busy.metadata().get("retry-after").unwrap(), "7");
        let past = Instant::now();
        assert_eq!(status_by(Some(past))(Failure::overloaded("")).code(), Code::DeadlineExceeded);
        assert_eq!(status_by(Some(past))(Failure::validation("")).code(), Code::InvalidArgument);
    }
}
