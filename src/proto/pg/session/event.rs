//! Floor 1. What the server has said, in the words of a caller; and how those parts of its messages are read that more
//! than one kind of question is answered with.
//!
//! Invariants: a [`Row`] has as many values as its columns say, and no answer has more columns than
//! [`Limits::columns`].

use super::Limits;
use crate::proto::pg::row::{Column, Columns, Row};
use crate::proto::pg::{DbError, Error, QueryError};
use bytes::Bytes;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend;
use smallvec::SmallVec;
use std::fmt;
use std::rc::Rc;

/// Whether a transaction is open, as of the last answer.
///
/// ```
/// use loopwright::Instant;
/// use loopwright::proto::pg::{Limits, Session, Settings, Status};
/// let session = Session::new(&Settings::new("ada"), Limits::default(), Instant::default()).unwrap();
/// assert_eq!(session.status(), Status::Idle);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// None is.
    Idle,
    /// One is.
    InTransaction,
    /// One is, and takes nothing but its end.
    Failed,
}

/// What has been done: `SELECT 3`, `INSERT 0 1`, `BEGIN`.
///
/// ```
/// use loopwright::proto::pg::Tag;
/// let tag = Tag::new("INSERT 0 3");
/// assert_eq!((tag.as_str(), tag.rows()), ("INSERT 0 3", 3));
/// assert_eq!(Tag::new("BEGIN").rows(), 0);
/// ```
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Tag(SmallVec<[u8; 24]>);

impl Tag {
    /// As the server says it.
    pub fn new(text: &str) -> Tag {
        Tag(SmallVec::from_slice(text.as_bytes()))
    }

    /// As the server says it; empty for an empty query.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// How many rows were selected, inserted, changed, deleted or copied.
    pub fn rows(&self) -> u64 {
        let number = self.as_str().rsplit(' ').next();
        number.and_then(|n| n.parse().ok()).unwrap_or(0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// What somebody has said by `NOTIFY`.
///
/// ```
/// use loopwright::Instant;
/// use loopwright::proto::pg::{Event, Limits, Session, Settings};
/// let now = Instant::default();
/// let mut session = Session::new(&Settings::new("ada"), Limits::default(), now).unwrap();
/// let mut input = &b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05IA\0\0\0\x10\0\0\0\x07news\0hi\0"[..];
/// assert_eq!(session.poll_event(&mut input, now), Ok(Some(Event::Ready)));
/// let Ok(Some(Event::Notification(said))) = session.poll_event(&mut input, now) else {
///     unreachable!();
/// };
/// assert_eq!((&said.channel[..], &said.payload[..], said.process), ("news", "hi", 7));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notification {
    /// Where.
    pub channel: String,
    /// What.
    pub payload: String,
    /// The server's process that served who said it.
    pub process: i32,
}

/// What the server has said. The number is that of the question, as it was asked. [`Row`] and [`Notification`] have
/// examples.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// Once: from now on it can be asked.
    Ready,
    /// What the rows that follow have. Once for a query; with [`Session::simple`](super::Session::simple), for each that has rows.
    Columns(u64, Rc<Columns>),
    /// A row.
    Row(u64, Row),
    /// One of the statements of [`Session::simple`](super::Session::simple) is done.
    Completed(u64, Tag),
    /// All is. The last of this question.
    Done(u64, Tag),
    /// It is not, and nothing of it has happened, unless it was several. The last of this question.
    Failed(u64, QueryError),
    /// The server waits for [`Session::copy_data`](super::Session::copy_data) and
    /// [`Session::copy_done`](super::Session::copy_done).
    CopyIn(u64),
    /// A piece of what is copied out: a row, mostly.
    CopyOut(u64, Bytes),
    /// Worth to know, says the server.
    Notice(Box<DbError>),
    /// Somebody has said something on a channel listened to.
    Notification(Notification),
    /// A parameter of the session, at its begin and when it changes.
    ParameterStatus(String, String),
}

/// `binary`: of the simple protocol, which says it; a statement's description does not know it yet.
pub(super) fn columns(
    body: &backend::RowDescriptionBody,
    binary: Option<bool>,
    limits: &Limits,
) -> Result<Rc<Columns>, Error> {
    let malformed = |_| Error::Malformed("a description of rows");
    let mut fields = body.fields();
    let (count, limit) = (fields.size_hint().0, limits.columns);
    if count > limit {
        return Err(Error::TooManyColumns { count, limit });
    }
    let mut columns = Vec::new();
    while let Some(field) = fields.next().map_err(malformed)? {
        columns.push(Column::new(field.name(), field.type_oid(), binary));
    }
    Ok(Rc::new(Columns::new(columns, limits.json)))
}
