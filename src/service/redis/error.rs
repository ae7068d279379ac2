//! Floor 4. Why a command has no reply, and what a gateway says then.

use super::super::dial::no_answer;
use crate::StatusError;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// Why there is no reply, or none that says what was asked.
///
/// ```
/// use loopwright::App;
/// let mut app: App = App::new();
/// app.get("/hits", |cx, _, res| {
///     let res = res.defer();
///     cx.redis("cache").command(["INCR", "hits"], move |_, hits| match hits {
///         Ok(hits) => res.text(format!("{hits:?}")),
///         Err(error) => res.status(error.status()).text(error.to_string()),
///     });
/// });
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RedisError {
    /// No Redis of this name was given to the App.
    Unknown(Rc<str>),
    /// The server says so: `WRONGTYPE`, `Operation against a key …`.
    Server {
        /// The first word: `ERR`, `WRONGTYPE`, `NOPERM`, …
        code: String,
        /// The rest.
        message: String,
    },
    /// As much waits for a connection as may.
    QueueFull {
        /// How much that is: commands, or bytes.
        limit: usize,
        /// The setting that says so: `queue` or `queue_size`.
        setting: &'static str,
    },
    /// There was no connection in time (`queue_wait`, or `timeout` if that is shorter), or the server takes none like ours.
    NoConnection {
        /// How long it was waited for.
        waited: Duration,
        /// What was wrong with the last attempt; empty: all are busy.
        why: Rc<str>,
    },
    /// It has taken too long. Whether it was done is not known.
    Deadline {
        /// How long it had.
        limit: Duration,
        /// The setting that says so: `timeout` or `block`.
        setting: &'static str,
    },
    /// Nobody waits for the reply any more. Whether it was done is not known.
    Gone,
    /// The connection has ended before the reply came. Whether it was done is not known.
    Lost(Rc<str>),
    /// It was not asked, and why.
    Refused(&'static str),
    /// The command or its reply is longer than may be. In the second case, the connection has ended, and it was done.
    TooLarge {
        /// How much is allowed.
        limit: usize,
        /// The setting that says so: `request`, `pipeline`, or one of [`Bounds`](super::Bounds).
        setting: &'static str,
    },
    /// What was watched has changed each time.
    Conflict {
        /// How often it was tried.
        attempts: u32,
    },
}

impl RedisError {
    /// What the server says: `-CODE message`.
    pub(super) fn server(said: &[u8]) -> RedisError {
        let said = String::from_utf8_lossy(said);
        let (code, message) = said.split_once(' ').unwrap_or((&said, ""));
        let (code, message) = (code.to_string(), message.to_string());
        RedisError::Server { code, message }
    }

    /// The first word of what the server says.
    pub fn code(&self) -> Option<&str> {
        match self {
            RedisError::Server { code, .. } => Some(code),
            _ => None,
        }
    }

    /// What a gateway would answer: 503 if there was no connection, 504 if it took too long, else 500.
    pub fn status(&self) -> u16 {
        match self {
            RedisError::QueueFull { .. }
            | RedisError::NoConnection { .. }
            | RedisError::Lost(_) => 503,
            RedisError::Deadline { .. } => 504,
            // It begins, is full, or has lost its master.
            RedisError::Server { code, .. }
                if ["LOADING", "OOM", "MASTERDOWN", "BUSY", "TRYAGAIN"].contains(&&code[..]) =>
            {
                503
            }
            _ => 500,
        }
    }
}

impl fmt::Display for RedisError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RedisError::Unknown(name) => write!(f, "there is no redis {name:?}"),
            RedisError::Server { code, message } => write!(f, "redis says {code} {message}"),
            RedisError::QueueFull { limit, setting } => {
                write!(f, "too much waits for redis: {limit} ({setting})")
            }
            RedisError::NoConnection { waited, why } if why.is_empty() => {
                write!(
                    f,
                    "all connections to redis are busy for {waited:?} (queue_wait or timeout)"
                )
            }
            RedisError::NoConnection { waited, why } => {
                write!(
                    f,
                    "no connection to redis within {waited:?} (queue_wait or timeout): {why}"
                )
            }
            RedisError::Deadline { limit, setting } => {
                write!(f, "no reply of redis within {limit:?} ({setting})")
            }
            RedisError::Gone => f.write_str("given up, as nobody waits for it"),
            RedisError::Lost(why) => write!(f, "the connection to redis is lost: {why}"),
            RedisError::Refused(why) => write!(f, "not asked of redis: {why}"),
            RedisError::TooLarge { limit, setting } => {
                write!(f, "too large for redis, over {limit} ({setting})")
            }
            RedisError::Conflict { attempts } => {
                write!(f, "what was watched has changed, {attempts} times")
            }
        }
    }
}

impl std::error::Error for RedisError {}

/// With the status of a gateway, and a text that says nothing of the server.
impl From<RedisError> for StatusError {
    fn from(error: RedisError) -> StatusError {
        no_answer("store", error.status(), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says() {
        let error = RedisError::server(b"WRONGTYPE Operation against a key");
        assert_eq!((error.code(), error.status()), (Some("WRONGTYPE"), 500));
        assert_eq!(
            error.to_string(),
            "redis says WRONGTYPE Operation against a key"
        );
        assert_eq!(RedisError::server(b"LOADING").status(), 503);
        assert_eq!(RedisError::Gone.code(), None);
    }
}
