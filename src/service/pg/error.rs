//! Floor 4. Why a question to a database has no answer, and what a gateway says then.

use super::super::dial::no_answer;
use crate::StatusError;
use crate::proto::pg::{ConvertError, DbError, QueryError, Refusal};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// What has gone wrong.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum PgErrorKind {
    /// No database of this name was given to the App.
    Unknown,
    /// As many wait for a connection as may (`queue`).
    QueueFull {
        /// How many that is.
        limit: usize,
    },
    /// There was no connection in time (`queue_wait`), or the server takes none like ours.
    NoConnection {
        /// How long it was waited for.
        waited: Duration,
        /// What was wrong with the last attempt; empty: all were in use.
        why: Rc<str>,
    },
    /// It has taken too long.
    Deadline {
        /// How long it had.
        limit: Duration,
        /// The setting that says so.
        setting: &'static str,
    },
    /// Nobody waits for the answer any more: its client has gone, or it was cancelled.
    Gone,
    /// The connection has ended before the answer came. Whether it was done is not known.
    Lost(Rc<str>),
    /// The server says so, or a parameter does not fit.
    Query(QueryError),
    /// It was not asked.
    Refused(Refusal),
    /// The answer is longer than `result`: take its rows one by one ([`Pg::each`](super::Pg::each)).
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// More rows than [`Pg::rows`](super::Pg::rows) allows; the rest was not waited for.
    TooManyRows {
        /// How many that is.
        limit: usize,
    },
    /// More than one row, where one was wanted.
    ManyRows,
    /// The transaction is over: committed, rolled back, too long, or its connection is lost.
    Over,
    /// What was to be committed was rolled back, for one of its queries had failed.
    RolledBack,
    /// A value is not what it was asked to be.
    Convert(ConvertError),
}

/// Why a question has no answer: of which database, and what.
///
/// ```
/// use loopwright::{App, StatusError};
/// let mut app: App = App::new();
/// app.get("/now", |cx, _, res| {
///     let res = res.defer();
///     cx.pg("main").one("select now()::text", (), move |_, row| match row {
///         Ok(row) => res.text(row.and_then(|row| row.get(0).ok()).unwrap_or_else(String::new)),
///         Err(error) => res.status(error.status()).text(error.to_string()),
///     });
/// });
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct PgError {
    database: Rc<str>,
    kind: PgErrorKind,
}

impl PgError {
    pub(super) fn new(database: &Rc<str>, kind: PgErrorKind) -> PgError {
        let database = database.clone();
        PgError { database, kind }
    }

    /// The name that the database has in the App.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// What has gone wrong.
    pub fn kind(&self) -> &PgErrorKind {
        &self.kind
    }

    /// What the server says: message, detail, position, constraint, …
    pub fn server(&self) -> Option<&DbError> {
        match &self.kind {
            PgErrorKind::Query(error) => error.server(),
            _ => None,
        }
    }

    /// The server's SQLSTATE: `23505` for what is there already.
    pub fn code(&self) -> Option<&str> {
        self.server().map(|error| &error.code[..])
    }

    /// What a gateway would answer: 503 if there was no connection or it was lost, if the server is short of something, or if
    /// it was in the way of others and may be asked again; 504 if it took too long; else 500.
    pub fn status(&self) -> u16 {
        match &self.kind {
            PgErrorKind::QueueFull { .. }
            | PgErrorKind::NoConnection { .. }
            | PgErrorKind::Lost(_)
            | PgErrorKind::Refused(Refusal::Full) => 503,
            PgErrorKind::Deadline { .. } => 504,
            PgErrorKind::Query(_) => match self.code().unwrap_or_default() {
                // statement_timeout, most likely; a transaction that was idle for too long.
                "57014" | "25P03" => 504,
                // Serialization, deadlock, a lock that was not to be had; the server is being stopped.
                "40001" | "40P01" | "55P03" | "57P01" | "57P02" | "57P03" => 503,
                // Its resources.
                code if code.starts_with("53") => 503,
                _ => 500,
            },
            _ => 500,
        }
    }
}

impl fmt::Display for PgError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "database {}: ", self.database)?;
        match &self.kind {
            PgErrorKind::Unknown => f.write_str("there is none of this name"),
            PgErrorKind::QueueFull { limit } => {
                write!(f, "{limit} wait for a connection already (queue)")
            }
            PgErrorKind::NoConnection { waited, why } if why.is_empty() => {
                write!(
                    f,
                    "all connections are in use for {waited:?} (queue_wait, connections)"
                )
            }
            PgErrorKind::NoConnection { waited, why } => {
                write!(
                    f,
                    "no connection, after {waited:?} (up to queue_wait): {why}"
                )
            }
            PgErrorKind::Deadline { limit, setting } => {
                write!(f, "no answer within {limit:?} ({setting})")
            }
            PgErrorKind::Gone => f.write_str("given up, as nobody waits for it"),
            PgErrorKind::Lost(why) => write!(f, "the connection is lost: {why}"),
            PgErrorKind::Query(error) => error.fmt(f),
            PgErrorKind::Refused(refusal) => refusal.fmt(f),
            PgErrorKind::TooLarge { limit } => {
                write!(f, "an answer of more than {limit} bytes (result)")
            }
            PgErrorKind::TooManyRows { limit } => {
                write!(f, "more rows than the {limit} that are allowed (rows)")
            }
            PgErrorKind::ManyRows => f.write_str("more than one row, where one was wanted"),
            PgErrorKind::Over => f.write_str("the transaction is over"),
            PgErrorKind::RolledBack => {
                f.write_str("rolled back, not committed: one of its queries had failed")
            }
            PgErrorKind::Convert(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PgError {}

/// With the status of a gateway, and a text that says nothing of the database.
impl From<PgError> for StatusError {
    fn from(error: PgError) -> StatusError {
        no_answer("database", error.status(), error)
    }
}

/// What came is not what the handler takes it for: 500, and the log says what it is.
///
/// ```no_run
/// use loopwright::{App, StatusError, asynchronous};
/// let mut app: App = App::new();
/// app.get("/first", asynchronous(|task, _, res| async move {
///     let row = task.pg("main").one("select name from users limit 1", ()).await?;
///     match row {
///         Some(row) => res.text(row.get::<String>("name")?),
///         None => res.status(404).text("there is nobody"),
///     }
///     Ok::<_, StatusError>(())
/// }));
/// ```
impl From<ConvertError> for StatusError {
    fn from(error: ConvertError) -> StatusError {
        no_answer("database", 500, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let status = |kind| PgError::new(&"main".into(), kind).status();
        for (code, is) in [
            ("22012", 500),
            ("42601", 500),
            ("40001", 503),
            ("53300", 503),
            ("57P01", 503),
            ("57014", 504),
        ] {
            let error = DbError {
                code: code.into(),
                ..DbError::default()
            };
            let error = QueryError::Server(Box::new(error));
            assert_eq!(status(PgErrorKind::Query(error)), is, "{code}");
        }
        assert_eq!(status(PgErrorKind::Lost("broken".into())), 503);
        assert_eq!(status(PgErrorKind::Refused(Refusal::Full)), 503);
        assert_eq!(status(PgErrorKind::Refused(Refusal::Nul)), 500);
    }
}
