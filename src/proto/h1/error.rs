//! Floor 1. What HTTP/1.1 refuses. Each refusal knows its status and the setting that would allow
//! more, because the log line is all an operator sees of it.

use http::StatusCode;
use std::fmt;
use std::time::Duration;

/// Why a request was refused. After any of these the connection closes: where a message ends is in
/// doubt, or the client has been told to go away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not HTTP/1.1, or could be read in two ways. 400.
    Malformed(&'static str),
    /// The request target is longer than `limits.target`. 414.
    TargetTooLong {
        /// Bytes seen.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Request line and fields are longer than `limits.head`. 431.
    HeadTooLarge {
        /// Bytes seen.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// More field lines than `limits.fields`. 431.
    TooManyFields {
        /// Lines allowed.
        limit: usize,
    },
    /// The body is longer than the route's `body_limit`. 413.
    BodyTooLarge {
        /// Bytes announced, or seen so far.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// Not a version of HTTP that this is. 505.
    Version,
    /// A transfer coding other than `chunked`. 501.
    TransferCoding,
    /// An expectation other than `100-continue`. 417.
    Expectation,
    /// A target of `https`, on a connection that is not secured. 421.
    Misdirected,
    /// The head did not arrive within `timeouts.head`. 408.
    HeadTimeout {
        /// How long there was.
        limit: Duration,
    },
    /// The body paused for longer than `timeouts.body`. 408.
    BodyTimeout {
        /// How long there was.
        limit: Duration,
    },
    /// The body arrives slower than `timeouts.body_rate`. 408.
    BodyTooSlow {
        /// Bytes seen in this time.
        size: u64,
        /// The time.
        within: Duration,
        /// Bytes a second wanted.
        limit: u64,
    },
}

impl Error {
    /// The status to answer with.
    pub fn status(self) -> StatusCode {
        match self {
            Error::Malformed(_) => StatusCode::BAD_REQUEST,
            Error::TargetTooLong { .. } => StatusCode::URI_TOO_LONG,
            Error::HeadTooLarge { .. } | Error::TooManyFields { .. } => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Error::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Error::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Error::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Error::Expectation => StatusCode::EXPECTATION_FAILED,
            Error::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Error::HeadTimeout { .. } | Error::BodyTimeout { .. } | Error::BodyTooSlow { .. } => {
                StatusCode::REQUEST_TIMEOUT
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::Malformed(why) => write!(f, "malformed request: {why}"),
            Error::TargetTooLong { size, limit } => {
                write!(
                    f,
                    "request target of {size} bytes or more, over limits.target = {limit}"
                )
            }
            Error::HeadTooLarge { size, limit } => {
                write!(
                    f,
                    "request head of {size} bytes or more, over limits.head = {limit}"
                )
            }
            Error::TooManyFields { limit } => {
                write!(f, "more field lines than limits.fields = {limit}")
            }
            Error::BodyTooLarge { size, limit } => {
                write!(
                    f,
                    "body of {size} bytes or more, over body_limit (of the route, or limits.body) = {limit}"
                )
            }
            Error::Version => write!(f, "HTTP version not supported"),
            Error::TransferCoding => write!(f, "transfer coding not supported"),
            Error::Expectation => write!(f, "expectation not supported"),
            Error::Misdirected => write!(f, "an https target, and no TLS"),
            Error::HeadTimeout { limit } => {
                write!(
                    f,
                    "the head did not arrive within timeouts.head = {limit:?}"
                )
            }
            Error::BodyTimeout { limit } => {
                write!(
                    f,
                    "the body paused for longer than timeouts.body = {limit:?}"
                )
            }
            Error::BodyTooSlow {
                size,
                within,
                limit,
            } => write!(
                f,
                "the body arrives too slowly: {size} bytes in {within:?}, under timeouts.body_rate = {limit} a second"
            ),
        }
    }
}

impl std::error::Error for Error {}
