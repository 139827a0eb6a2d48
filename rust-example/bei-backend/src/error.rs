use bei_sys as sys;

/// What went wrong, as a code: the `BEI_*` status codes of `bei.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// An argument, option or field is wrong; the message names it, its value and the limit.
    InvalidArgument,
    /// The model was shut down.
    InvalidHandle,
    /// The model, engine or build cannot do what was asked.
    Unsupported,
    /// No engine can be used here.
    NoBackend,
    /// The model or the engine could not be opened.
    Start,
    /// A weights file or tensor is missing.
    WeightsNotFound,
    /// A run failed.
    Inference,
    /// The engine or device is lost or hung.
    Unhealthy,
    /// The queue is full, or no slot came free in time.
    Overloaded,
    /// The timeout passed before the item was done.
    Timeout,
    /// The cancel token was triggered.
    Cancelled,
    /// The model was shut down while the call waited.
    ShutDown,
    /// Called in a forked child.
    Forked,
    /// A defect of the library.
    Internal,
    /// An output buffer is too small.
    BufferTooSmall,
    /// Item: no text, or no tokens where tokens are needed.
    Empty,
    /// Item: longer than the model takes, and truncation is off or impossible.
    TooLong,
    /// Item: the text is not UTF-8.
    InvalidUtf8,
    /// Item: a token id, type id or position id is outside its table.
    TokenOutOfRange,
    /// Item: the result held NaN or infinity and was withheld.
    NonFinite,
    /// Item: the tokenizer failed on the text.
    Tokenization,
    /// Item: the text holds a NUL byte.
    NulByte,
    /// A code that this crate does not know: the library is newer.
    Other(i32),
}

impl Status {
    /// The status of a `BEI_*` code, or `None` for `BEI_OK`.
    pub fn from_code(code: i32) -> Option<Status> {
        Some(match code {
            sys::BEI_OK => return None,
            sys::BEI_INVALID_ARGUMENT => Status::InvalidArgument,
            sys::BEI_INVALID_HANDLE => Status::InvalidHandle,
            sys::BEI_UNSUPPORTED => Status::Unsupported,
            sys::BEI_NO_BACKEND => Status::NoBackend,
            sys::BEI_START => Status::Start,
            sys::BEI_WEIGHTS_NOT_FOUND => Status::WeightsNotFound,
            sys::BEI_INFERENCE => Status::Inference,
            sys::BEI_UNHEALTHY => Status::Unhealthy,
            sys::BEI_OVERLOADED => Status::Overloaded,
            sys::BEI_TIMEOUT => Status::Timeout,
            sys::BEI_CANCELLED => Status::Cancelled,
            sys::BEI_SHUT_DOWN => Status::ShutDown,
            sys::BEI_FORKED => Status::Forked,
            sys::BEI_INTERNAL => Status::Internal,
            sys::BEI_BUFFER_TOO_SMALL => Status::BufferTooSmall,
            sys::BEI_EMPTY => Status::Empty,
            sys::BEI_TOO_LONG => Status::TooLong,
            sys::BEI_INVALID_UTF8 => Status::InvalidUtf8,
            sys::BEI_TOKEN_OUT_OF_RANGE => Status::TokenOutOfRange,
            sys::BEI_NON_FINITE => Status::NonFinite,
            sys::BEI_TOKENIZATION => Status::Tokenization,
            sys::BEI_NUL_BYTE => Status::NulByte,
            other => Status::Other(other),
        })
    }
}

/// An error of a call, or of one item of a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What went wrong, as a code.
    pub status: Status,
    /// What went wrong, in words: it names the field, the value and the limit.
    pub message: String,
}

impl Error {
    pub(crate) fn new(status: Status, message: impl Into<String>) -> Error {
        Error { status, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Error {
        Error::new(Status::InvalidArgument, message)
    }
}
