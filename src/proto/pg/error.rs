//! Floor 1. What can go wrong with PostgreSQL: a question ([`QueryError`]), a value ([`ConvertError`], [`ParamError`]),
//! the session ([`Error`]). None of them says a password.

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;
use std::fmt;
use std::time::Duration;

/// What the server says is wrong, or, as a notice, worth to know.
///
/// ```
/// use loopwright::proto::pg::DbError;
/// let mut error = DbError::default();
/// error.code = "23505".into();
/// error.message = "duplicate key value violates unique constraint \"users_pkey\"".into();
/// assert_eq!(error.to_string(), format!("{} (23505)", error.message));
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct DbError {
    /// `ERROR`, `FATAL`, `PANIC`; of notices `WARNING`, `NOTICE`, `DEBUG`, `INFO`, `LOG`. Never translated.
    pub severity: String,
    /// The SQLSTATE: five digits or capital letters.
    pub code: String,
    /// One line, in the server's language.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Where in the query, in characters from 1.
    pub position: Option<u32>,
    /// Within what: the calls, or the parameter.
    pub context: Option<String>,
    /// The schema of what it is about.
    pub schema: Option<String>,
    /// The table.
    pub table: Option<String>,
    /// The column.
    pub column: Option<String>,
    /// The type.
    pub data_type: Option<String>,
    /// The constraint.
    pub constraint: Option<String>,
}

impl DbError {
    /// # Errors
    /// The fields have no end.
    pub(super) fn read(mut fields: ErrorFields<'_>) -> Result<DbError, Error> {
        let mut error = DbError::default();
        let malformed = |_| Error::Malformed("an error's fields");
        while let Some(field) = fields.next().map_err(malformed)? {
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                // Only servers before 9.6 leave the untranslated one out.
                b'S' if error.severity.is_empty() => error.severity = text,
                b'V' => error.severity = text,
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                b'P' => error.position = text.parse().ok(),
                b'W' => error.context = Some(text),
                b's' => error.schema = Some(text),
                b't' => error.table = Some(text),
                b'c' => error.column = Some(text),
                b'd' => error.data_type = Some(text),
                b'n' => error.constraint = Some(text),
                _ => {}
            }
        }
        Ok(error)
    }

    /// Whether the server ends the session with it.
    pub fn is_fatal(&self) -> bool {
        matches!(&self.severity[..], "FATAL" | "PANIC")
    }
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for DbError {}

/// A parameter that is not what the statement wants. Nothing was sent.
///
/// ```
/// use loopwright::proto::pg::ParamError;
/// let error = ParamError { position: 2, type_name: "int4".into(), why: "\"ten\" is no integer".into() };
/// assert_eq!(error.to_string(), "parameter $2 (int4): \"ten\" is no integer");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParamError {
    /// From 1.
    pub position: usize,
    /// What the statement wants there; empty if it has no such parameter.
    pub type_name: String,
    /// What does not fit.
    pub why: String,
}

impl fmt::Display for ParamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.type_name[..] {
            "" => write!(f, "parameter ${}: {}", self.position, self.why),
            name => write!(f, "parameter ${} ({name}): {}", self.position, self.why),
        }
    }
}

impl std::error::Error for ParamError {}

/// Why a question has no answer. The session goes on.
///
/// ```
/// use loopwright::proto::pg::QueryError;
/// let error = QueryError::ParamCount { want: 2, given: 1 };
/// assert_eq!(error.to_string(), "the statement has 2 parameters, 1 were given");
/// assert!(error.server().is_none());
/// ```
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum QueryError {
    /// The server says so.
    Server(Box<DbError>),
    /// A parameter does not fit, and the server was not asked.
    Param(ParamError),
    /// The statement wants another number of parameters, and the server was not asked.
    ParamCount {
        /// How many the statement has.
        want: usize,
        /// How many were given.
        given: usize,
    },
    /// The query is longer than [`Limits::message`](super::Limits::message) once its parameters are encoded.
    TooLong {
        /// Bytes allowed.
        limit: usize,
    },
    /// It is a `COPY … FROM STDIN`: those are begun by [`Session::copy_in`](super::Session::copy_in).
    CopyIn,
}

impl QueryError {
    /// What the server says, if it was asked.
    pub fn server(&self) -> Option<&DbError> {
        match self {
            QueryError::Server(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueryError::Server(error) => error.fmt(f),
            QueryError::Param(error) => error.fmt(f),
            QueryError::ParamCount { want, given } => {
                write!(f, "the statement has {want} parameters, {given} were given")
            }
            QueryError::TooLong { limit } => write!(f, "a query of more than {limit} bytes"),
            QueryError::CopyIn => f.write_str("COPY FROM STDIN wants copy_in"),
        }
    }
}

impl std::error::Error for QueryError {}

/// Why a value is not what it was asked to be.
///
/// ```
/// use loopwright::proto::pg::ConvertError;
/// let error = ConvertError::NoSuchColumn("nmae".into());
/// assert_eq!(error.to_string(), "no column nmae");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ConvertError {
    /// None of that name or number.
    NoSuchColumn(String),
    /// Another type, NULL, or what is no value of its own type.
    Value {
        /// The column's name.
        column: String,
        /// What it has.
        type_name: String,
        /// What does not fit.
        why: String,
    },
    /// What serde says of the struct.
    Struct(String),
    /// A row, or all of them, is longer as JSON than it may be.
    TooLong {
        /// Bytes allowed.
        limit: usize,
    },
}

impl fmt::Display for ConvertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConvertError::NoSuchColumn(name) => write!(f, "no column {name}"),
            ConvertError::Value {
                column,
                type_name,
                why,
            } => write!(f, "column {column} ({type_name}): {why}"),
            ConvertError::Struct(why) => f.write_str(why),
            ConvertError::TooLong { limit } => {
                write!(f, "more than {limit} bytes of JSON")
            }
        }
    }
}

impl std::error::Error for ConvertError {}

/// Why the session is over.
///
/// ```
/// use loopwright::proto::pg::Error;
/// let error = Error::TooLong { size: 20_000_000, limit: 16_777_216 };
/// assert_eq!(error.to_string(), "a message of 20000000 bytes, over 16777216");
/// ```
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The server does not want us, or not with this password.
    Refused(Box<DbError>),
    /// The server ends the session: it shuts down, or an administrator has said so.
    Fatal(Box<DbError>),
    /// It wants a password, and there is none.
    NoPassword,
    /// It wants the password in clear text, which [`Settings::cleartext`](super::Settings::cleartext) does not allow.
    Cleartext,
    /// It wants a proof of who we are that is not known here.
    Unsupported(String),
    /// The proof went wrong: above all, the server has not proved that it knows the password.
    Proof(String),
    /// What came is not the protocol.
    Malformed(&'static str),
    /// What came is the protocol, but not now.
    Unexpected(&'static str),
    /// A message is longer than it may be.
    TooLong {
        /// Bytes announced.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A statement has more columns than it may have.
    TooManyColumns {
        /// Columns announced.
        count: usize,
        /// Columns allowed.
        limit: usize,
    },
    /// It was not ready, or owed an answer, for too long.
    Silent {
        /// How long it had.
        limit: Duration,
    },
    /// [`Session::close`](super::Session::close) was called.
    Closed,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused(error) => write!(f, "the server refuses the login: {error}"),
            Error::Fatal(error) => write!(f, "the server ends the session: {error}"),
            Error::NoPassword => f.write_str("the server wants a password, and there is none"),
            Error::Cleartext => f.write_str(
                "the server wants the password in clear text, which is not allowed (set cleartext to allow it)",
            ),
            Error::Unsupported(what) => write!(f, "the server wants {what}, which is not supported"),
            Error::Proof(why) => write!(f, "the proof of the password has failed: {why}"),
            Error::Malformed(what) => write!(f, "not PostgreSQL's protocol: {what}"),
            Error::Unexpected(what) => write!(f, "the server sends {what}"),
            Error::TooLong { size, limit } => write!(f, "a message of {size} bytes, over {limit}"),
            Error::TooManyColumns { count, limit } => write!(f, "{count} columns, over {limit}"),
            Error::Silent { limit } => write!(f, "the server has not answered within {limit:?}"),
            Error::Closed => f.write_str("the session was closed"),
        }
    }
}

impl std::error::Error for Error {}

/// Why something was not asked. The session goes on.
///
/// ```
/// use loopwright::proto::pg::Refusal;
/// assert_eq!(Refusal::Full.to_string(), "too much waits for the server");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// [`Event::Ready`](super::Event::Ready) has not come yet, or the session is over.
    NotReady,
    /// `Limits::pipeline` questions are open, or `Limits::output` bytes wait for the socket.
    Full,
    /// Longer than `Limits::message`.
    TooLong,
    /// SQL with a NUL in it.
    Nul,
    /// `COPY` is no query: see [`Session::copy_in`](super::Session::copy_in), [`Session::copy_out`](super::Session::copy_out).
    Copy,
    /// No such copy is open: [`Event::CopyIn`](super::Event::CopyIn) has not come, or it has ended.
    NoCopy,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::NotReady => "the connection is not ready",
            Refusal::Full => "too much waits for the server",
            Refusal::TooLong => "longer than a message may be",
            Refusal::Nul => "a NUL within SQL",
            Refusal::Copy => "COPY is no query: want copy_in or copy_out",
            Refusal::NoCopy => "no copy is open",
        })
    }
}

impl std::error::Error for Refusal {}
