//! Floor 1. What HTTP/1.1 refuses. Each refusal knows its status and the setting that would allow
//! more, because the log line is all an operator sees of it. [`Error`] is of what a client sends us,
//! [`ClientError`] of what a server does whom we asked.

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
                    "body of {size} bytes or more, over limits.body (the route's, or the server's) = {limit}"
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

/// Where an answer was cut off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// Before a byte of it.
    BeforeHead,
    /// Within its head, or behind an interim answer.
    InHead,
    /// Within its body.
    InBody,
}

/// Why an answer was refused, or is not to be had. After any of these the connection closes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// The bytes are not HTTP/1.1, or could be read in two ways.
    Malformed(&'static str),
    /// Status line and fields are longer than the upstream's `limits.head`.
    HeadTooLarge {
        /// Bytes seen.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// More field lines than the upstream's `limits.fields`.
    TooManyFields {
        /// Lines allowed.
        limit: usize,
    },
    /// The body is longer than the upstream's `limits.body`.
    BodyTooLarge {
        /// Bytes announced, or seen so far.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// Not a version of HTTP that this is.
    Version,
    /// A transfer coding other than `chunked`.
    TransferCoding,
    /// A body's chunks or trailers are not what they should be.
    Chunks(&'static str),
    /// More than sixteen interim answers to one request.
    TooManyInterims,
    /// Something came that no request asked for.
    Unasked,
    /// 101, and no upgrade was asked for.
    UnaskedSwitch,
    /// Another protocol before the request was out.
    EarlySwitch,
    /// The server has closed before the answer was complete.
    Truncated(Cut),
    /// No answer began within the upstream's `timeouts.first_byte`.
    FirstByteTimeout {
        /// How long there was.
        limit: Duration,
    },
    /// An answer's head began, and was not complete within the upstream's `timeouts.read`.
    HeadTimeout {
        /// How long there was.
        limit: Duration,
    },
    /// An answer's body paused for longer than the upstream's `timeouts.read`.
    BodyTimeout {
        /// How long there was.
        limit: Duration,
    },
}

impl ClientError {
    /// What the decoder of a body refuses.
    pub(super) fn of_body(why: Error) -> ClientError {
        match why {
            Error::Malformed(why) => ClientError::Chunks(why),
            why => why.into(),
        }
    }

    /// The status a gateway answers with in place of the answer it did not get.
    pub fn status(self) -> StatusCode {
        match self {
            ClientError::FirstByteTimeout { .. }
            | ClientError::HeadTimeout { .. }
            | ClientError::BodyTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// Its name in a `Proxy-Status` field (RFC 9209 §2.3).
    pub fn proxy_status(self) -> &'static str {
        match self {
            ClientError::Malformed(_)
            | ClientError::Version
            | ClientError::TooManyInterims
            | ClientError::Unasked => "http_protocol_error",
            ClientError::HeadTooLarge { .. } | ClientError::TooManyFields { .. } => {
                "http_response_header_section_size"
            }
            ClientError::BodyTooLarge { .. } => "http_response_body_size",
            ClientError::TransferCoding | ClientError::Chunks(_) => "http_response_transfer_coding",
            ClientError::UnaskedSwitch | ClientError::EarlySwitch => "http_upgrade_failed",
            ClientError::Truncated(Cut::BeforeHead) => "connection_terminated",
            ClientError::Truncated(_) => "http_response_incomplete",
            ClientError::FirstByteTimeout { .. } | ClientError::HeadTimeout { .. } => {
                "http_response_timeout"
            }
            ClientError::BodyTimeout { .. } => "connection_read_timeout",
        }
    }
}

/// What the readers that both halves share refuse.
impl From<Error> for ClientError {
    fn from(why: Error) -> ClientError {
        match why {
            Error::Malformed(why) => ClientError::Malformed(why),
            Error::HeadTooLarge { size, limit } => ClientError::HeadTooLarge { size, limit },
            Error::TooManyFields { limit } => ClientError::TooManyFields { limit },
            Error::Version => ClientError::Version,
            Error::TransferCoding => ClientError::TransferCoding,
            Error::BodyTooLarge { size, limit } => ClientError::BodyTooLarge { size, limit },
            // Of requests alone: an answer has no target and no expectation, and its waits are its own.
            Error::TargetTooLong { .. }
            | Error::Expectation
            | Error::Misdirected
            | Error::HeadTimeout { .. }
            | Error::BodyTimeout { .. }
            | Error::BodyTooSlow { .. } => ClientError::Malformed("not an answer"),
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ClientError::Malformed(why) => write!(f, "malformed answer: {why}"),
            ClientError::HeadTooLarge { size, limit } => write!(
                f,
                "answer's head of {size} bytes or more, over the upstream's limits.head = {limit}"
            ),
            ClientError::TooManyFields { limit } => write!(
                f,
                "more field lines than the upstream's limits.fields = {limit}"
            ),
            ClientError::BodyTooLarge { size, limit } => write!(
                f,
                "answer's body of {size} bytes or more, over the upstream's limits.body = {limit}"
            ),
            ClientError::Version => write!(f, "the answer's HTTP version is not supported"),
            ClientError::TransferCoding => {
                write!(f, "the answer's transfer coding is not supported")
            }
            ClientError::Chunks(why) => write!(f, "malformed answer's body: {why}"),
            ClientError::TooManyInterims => write!(f, "more than sixteen interim answers"),
            ClientError::Unasked => write!(f, "the server sends what was not asked for"),
            ClientError::UnaskedSwitch => write!(f, "101, and no upgrade was asked for"),
            ClientError::EarlySwitch => {
                write!(f, "another protocol, before the request was out")
            }
            ClientError::Truncated(Cut::BeforeHead) => {
                write!(f, "the connection ended before the answer")
            }
            ClientError::Truncated(Cut::InHead) => {
                write!(f, "the connection ended before the answer's head was whole")
            }
            ClientError::Truncated(Cut::InBody) => {
                write!(f, "the connection ended in the middle of the answer's body")
            }
            ClientError::FirstByteTimeout { limit } => write!(
                f,
                "no answer within the upstream's timeouts.first_byte = {limit:?}"
            ),
            ClientError::HeadTimeout { limit } => write!(
                f,
                "the answer's head was not whole within the upstream's timeouts.read = {limit:?}"
            ),
            ClientError::BodyTimeout { limit } => write!(
                f,
                "the answer's body paused for longer than the upstream's timeouts.read = {limit:?}"
            ),
        }
    }
}

impl std::error::Error for ClientError {}
