//! Floor 1. What a WebSocket peer can do wrong, and the code the connection is closed with
//! (RFC 6455 §7.4).

use std::fmt;

/// The peer has sent what it says.
pub const NORMAL: u16 = 1000;
/// An endpoint goes away: a server that stops.
pub const GOING_AWAY: u16 = 1001;
/// The peer broke the protocol.
pub const PROTOCOL_ERROR: u16 = 1002;
/// A message's content is not what its kind promises.
pub const INVALID_DATA: u16 = 1007;
/// Something that is allowed, and is not put up with.
pub const POLICY_VIOLATION: u16 = 1008;
/// A message is larger than what is taken.
pub const TOO_LARGE: u16 = 1009;
/// A server has met something it did not expect.
pub const INTERNAL_ERROR: u16 = 1011;

/// Whether `code` may stand in a Close frame: those of RFC 6455 §7.4.1 and the registry, without the ones
/// that only say that there was no such frame, and those for libraries and applications.
pub const fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Why a connection fails. Nothing that follows on it is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// Not the protocol. 1002.
    Protocol(&'static str),
    /// A text message, or the reason of a Close, is not UTF-8. 1007.
    Utf8,
    /// A compressed message is not DEFLATE. 1007.
    Deflate,
    /// A message is longer than the limit. 1009.
    TooLarge {
        /// Bytes announced, or seen so far.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
}

impl Error {
    /// What the Close frame says.
    pub fn close_code(self) -> u16 {
        match self {
            Error::Protocol(_) => PROTOCOL_ERROR,
            Error::Utf8 | Error::Deflate => INVALID_DATA,
            Error::TooLarge { .. } => TOO_LARGE,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::Protocol(why) => write!(f, "not WebSocket: {why}"),
            Error::Utf8 => write!(f, "text that is not UTF-8"),
            Error::Deflate => write!(f, "a compressed message is not DEFLATE"),
            Error::TooLarge { size, limit } => {
                write!(
                    f,
                    "a message of {size} bytes or more, over its limit of {limit}"
                )
            }
        }
    }
}

impl std::error::Error for Error {}
