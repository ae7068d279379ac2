//! Floor 1. The machine of one connection: see [the module](super) for its states.
//!
//! ```text
//!  ask ──► queue ──► pump ─┬─ statement known ────► Bind Execute Sync ──────────────────► waiting: Query
//!                          ├─ not yet ────────────► Close… Parse Describe Sync ─► blocked, waiting: Prepare
//!                          ├─ simple ─────────────► Query ──────────────────────► blocked, waiting: Simple
//!                          └─ copy ───────────────► Parse Bind Execute Flush ───► blocked, waiting: Copy
//!  Z ──► the oldest of `waiting` is done ──► blocked no more ──► pump
//!
//!  greeting   who we are, and the proof of it       statement  what the server knows by a name
//!  ask        a question: queue → wire              copy       data, either way
//!  read       bytes → one message                   answer     a message → the oldest of `waiting`
//!  event      what the server has said              limits     how much, and how long
//! ```
//! Invariants: each entry of `waiting` is owed exactly one `Z`. While `blocked` nothing is written behind the last
//! entry. `open` counts the tickets that have had neither [`Event::Done`] nor [`Event::Failed`]. Once the session is
//! over it stays so, with the same error.

mod answer;
mod ask;
mod copy;
mod event;
mod greeting;
mod limits;
mod read;
mod statement;

pub use ask::Query;
pub use event::{Event, Notification, Status, Tag};
pub use greeting::cancel_request;
pub use limits::Limits;

use super::error::{DbError, Error, QueryError};
use crate::base::clock::Instant;
use answer::{Waiting, What};
use ask::Ask;
use bytes::{Buf, BytesMut};
use postgres_protocol::authentication::sasl;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::{backend, frontend};
use read::{Answer, Shelf};
use statement::Cached;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::rc::Rc;

enum Phase {
    /// The server is to say which proof it wants.
    Startup,
    Scram(sasl::ScramSha256),
    /// Our proof is out (and with SCRAM, the server's has come).
    Proved,
    Settling,
    Ready,
    Over(Error),
}

/// One connection, from its first byte on. Whoever asks calls [`Session::poll_event`] afterwards, too: a parameter that
/// does not fit is an event that the server has nothing to do with.
///
/// ```
/// use loopwright::Instant;
/// use loopwright::proto::pg::{Event, Limits, Query, Session, Settings};
/// let now = Instant::default();
/// let mut session = Session::new(&Settings::new("ada"), Limits::default(), now).unwrap();
/// assert!(session.output().starts_with(b"\0\0\0"));
/// session.sent(session.output().len());
/// let mut input = &b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I"[..];
/// assert_eq!(session.poll_event(&mut input, now).unwrap(), Some(Event::Ready));
/// let ticket = session.query(Query::new("select 1"), now).unwrap();
/// assert_eq!((ticket, session.owed()), (0, 1));
/// ```
pub struct Session {
    user: String,
    password: Option<crate::proto::address::Secret>,
    cleartext: bool,
    limits: Limits,
    phase: Phase,
    /// The begin of a message whose end has not come.
    input: Vec<u8>,
    shelf: Shelf,
    output: BytesMut,
    /// Questions that the server was not asked, because they do not fit: to be told.
    unfit: VecDeque<(u64, QueryError)>,
    queue: VecDeque<(u64, Ask)>,
    /// Bytes that the queue will be.
    queued: usize,
    waiting: VecDeque<Waiting>,
    blocked: bool,
    /// Questions without an answer.
    open: usize,
    /// The copy that takes data.
    copying: Option<u64>,
    next_ticket: u64,
    cache: HashMap<Rc<str>, Cached>,
    /// Names of statements that the server may forget.
    closing: Vec<String>,
    next_statement: u64,
    uses: u64,
    status: Status,
    /// Something of the session's state has been changed.
    is_changed: bool,
    cancel_key: Option<(i32, i32)>,
    started: Instant,
    /// When something of an answer came last.
    progress: Instant,
}

/// A message of more bytes than this gets a block of its own, which goes when it does.
const LARGE: usize = 64 * 1024;

impl Session {
    // ---- what a caller may look at

    /// What is to be written.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// The first `n` bytes of the output have been written.
    pub fn sent(&mut self, n: usize) {
        self.output.advance(n.min(self.output.len()));
        // A burst's memory does not stay.
        if self.output.is_empty() && self.output.capacity() > LARGE {
            self.output = BytesMut::new();
        }
    }

    /// Whether it can be asked: [`Event::Ready`] has come, and the session is not over.
    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready)
    }

    /// How many questions have no answer yet.
    pub fn owed(&self) -> usize {
        self.open
    }

    /// Whether a transaction is open.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Whether somebody else may go on with it: idle, nothing owed, and nothing of the session's state was changed as
    /// far as tags tell (`SET`, `LISTEN`, `PREPARE`, `DECLARE`, `CREATE`, which may be of something temporary, `DO`, …), and
    /// parameters that the server reports. A `SELECT` that calls `pg_advisory_lock`, or `set_config` for another parameter,
    /// is not seen. `DISCARD ALL` makes it clean again.
    pub fn is_clean(&self) -> bool {
        self.is_ready() && self.open == 0 && self.status == Status::Idle && !self.is_changed
    }

    /// Whether one more question would not be [`Refusal::Full`](super::Refusal::Full).
    pub fn has_room(&self) -> bool {
        let bytes = self.output.len().saturating_add(self.queued);
        self.open < self.limits.pipeline && bytes < self.limits.output
    }

    /// Whether something of the session's state was changed, as far as is known.
    pub fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// The process and the key that [`cancel_request`] wants.
    pub fn cancel_key(&self) -> Option<(i32, i32)> {
        self.cancel_key
    }

    /// The questions that have no answer, in the order in which they will have one. The first is what the server is
    /// about; when the connection has ended, all are for their askers to know.
    pub fn unanswered(&self) -> impl Iterator<Item = u64> + '_ {
        let waiting = self
            .waiting
            .iter()
            .filter(|w| !matches!(w.what, What::Prepare { .. }));
        waiting
            .map(|w| w.ticket)
            .chain(self.queue.iter().map(|(ticket, _)| *ticket))
            .chain(self.unfit.iter().map(|(ticket, _)| *ticket))
    }

    // ---- what it goes through

    /// Says good-bye: what has no answer will have none.
    pub fn close(&mut self) {
        if self.is_ready() {
            frontend::terminate(&mut self.output);
        }
        if !matches!(self.phase, Phase::Over(_)) {
            self.phase = Phase::Over(Error::Closed);
        }
    }

    /// Takes what the server has sent from the front of `input`, up to the next event. `None`: all of it was taken.
    ///
    /// # Errors
    /// The session is over; the same from then on.
    pub fn poll_event(&mut self, input: &mut &[u8], now: Instant) -> Result<Option<Event>, Error> {
        if let Phase::Over(error) = &self.phase {
            return Err(error.clone());
        }
        let event = self.next_event(input, now);
        if let Err(error) = &event {
            self.end(error.clone());
        }
        event
    }

    pub(super) fn end(&mut self, error: Error) {
        self.phase = Phase::Over(error);
        self.input = Vec::new();
        self.copying = None;
    }

    fn next_event(&mut self, input: &mut &[u8], now: Instant) -> Result<Option<Event>, Error> {
        loop {
            if let Some((ticket, error)) = self.unfit.pop_front() {
                self.open -= 1;
                return Ok(Some(Event::Failed(ticket, error)));
            }
            let Some(message) = self.read(input)? else {
                return Ok(None);
            };
            if let Some(event) = self.on_message(Answer::read(&message)?, now)? {
                return Ok(Some(event));
            }
        }
    }

    fn on_message(&mut self, answer: Answer<'_>, now: Instant) -> Result<Option<Event>, Error> {
        // At any time.
        match answer {
            Answer::Other(Message::NoticeResponse(body)) => {
                let notice = Box::new(DbError::read(body.fields())?);
                return Ok(Some(Event::Notice(notice)));
            }
            Answer::Other(Message::ParameterStatus(body)) => {
                return self.on_parameter(&body).map(Some);
            }
            Answer::Other(Message::NotificationResponse(body)) => {
                let text = |text: std::io::Result<&str>| {
                    text.map(String::from)
                        .map_err(|_| Error::Malformed("a notification"))
                };
                return Ok(Some(Event::Notification(Notification {
                    channel: text(body.channel())?,
                    payload: text(body.message())?,
                    process: body.process_id(),
                })));
            }
            _ => {}
        }
        match &self.phase {
            Phase::Ready => self.on_answer(answer, now),
            _ => self.on_login(answer, now),
        }
    }

    fn on_parameter(&mut self, body: &backend::ParameterStatusBody) -> Result<Event, Error> {
        let malformed = |_| Error::Malformed("a parameter");
        let (name, value) = (
            body.name().map_err(malformed)?,
            body.value().map_err(malformed)?,
        );
        match (name, value) {
            ("client_encoding", "UTF8") | ("integer_datetimes", "on") => {}
            // All texts from here on would be something else.
            ("client_encoding", _) => {
                return Err(Error::Unexpected("another client_encoding than UTF8"));
            }
            ("integer_datetimes", _) => return Err(Error::Unexpected("times as floats")),
            _ => {}
        }
        // By whatever was asked; but not by what takes all of that back.
        let last = self.waiting.front();
        let is_reset = last.is_some_and(|last| last.tag.as_str() == "DISCARD ALL");
        self.is_changed |= self.is_ready() && !is_reset;
        Ok(Event::ParameterStatus(name.into(), value.into()))
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match &self.phase {
            Phase::Startup => "Startup",
            Phase::Scram(_) => "Scram",
            Phase::Proved => "Proved",
            Phase::Settling => "Settling",
            Phase::Ready => "Ready",
            Phase::Over(_) => "Over",
        };
        f.debug_struct("Session")
            .field("phase", &phase)
            .field("user", &self.user)
            .field("open", &self.open)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// What the tests of all parts speak in.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::pg::{Params, Row, Settings};
    use std::fmt::Write;

    pub(super) fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    pub(super) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut message = vec![tag];
        message.extend_from_slice(&u32::try_from(body.len() + 4).expect("short").to_be_bytes());
        message.extend_from_slice(body);
        message
    }

    /// What a server sends: words of a message's letter, and what is in it behind a colon, `_` for spaces.
    pub(super) fn wire(script: &str) -> Vec<u8> {
        let mut out = Vec::new();
        for word in script.split_whitespace() {
            let (tag, text) = word.split_once(':').unwrap_or((word, ""));
            let text = match tag {
                "S" => text.to_string(),
                _ => text.replace('_', " "),
            };
            let list = || text.split(',').filter(|item| !item.is_empty());
            let mut body = Vec::new();
            match tag {
                "E" | "F" | "N" => {
                    let severity = if tag == "F" { "FATAL" } else { "ERROR" };
                    let _ = write!(string(&mut body), "V{severity}\0C{text}\0Mno\0\0");
                }
                "A" => {
                    body.extend_from_slice(&7i32.to_be_bytes());
                    body.extend_from_slice(text.replace('=', "\0").as_bytes());
                    body.push(0);
                }
                "K" => body.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2]),
                "S" => {
                    body.extend_from_slice(text.replace('=', "\0").as_bytes());
                    body.push(0);
                }
                "G" | "H" => body.extend_from_slice(&[0, 0, 0]),
                "C" => {
                    body.extend_from_slice(text.as_bytes());
                    body.push(0);
                }
                "t" => {
                    body.extend_from_slice(
                        &u16::try_from(list().count()).expect("few").to_be_bytes(),
                    );
                    for oid in list() {
                        let oid: u32 = oid.parse().expect("a type");
                        body.extend_from_slice(&oid.to_be_bytes());
                    }
                }
                "T" => {
                    body.extend_from_slice(
                        &u16::try_from(list().count()).expect("few").to_be_bytes(),
                    );
                    for column in list() {
                        let (name, oid) = column.split_once('=').expect("name=type");
                        body.extend_from_slice(name.as_bytes());
                        body.extend_from_slice(&[0; 7]);
                        let oid: u32 = oid.parse().expect("a type");
                        body.extend_from_slice(&oid.to_be_bytes());
                        body.extend_from_slice(&[0; 8]);
                    }
                }
                "D" => {
                    body.extend_from_slice(
                        &u16::try_from(list().count()).expect("few").to_be_bytes(),
                    );
                    for value in list() {
                        let number = value.parse::<i32>().map(i32::to_be_bytes);
                        let bytes: &[u8] = match &number {
                            Ok(number) => number,
                            Err(_) => value.as_bytes(),
                        };
                        match value {
                            "-" => body.extend_from_slice(&[255; 4]),
                            _ => {
                                let len = i32::try_from(bytes.len()).expect("short");
                                body.extend_from_slice(&len.to_be_bytes());
                                body.extend_from_slice(bytes);
                            }
                        }
                    }
                }
                "R" => {
                    let (kind, text) = text.split_once(',').unwrap_or((&text, ""));
                    let kind: u32 = kind.parse().expect("a number");
                    body.extend_from_slice(&kind.to_be_bytes());
                    body.extend_from_slice(text.replace('|', "\0").as_bytes());
                }
                _ => body.extend_from_slice(text.as_bytes()),
            }
            let tag = match tag {
                "F" => b'E',
                tag => tag.as_bytes()[0],
            };
            out.extend(message(tag, &body));
        }
        out
    }

    /// Writes text into bytes.
    fn string(bytes: &mut Vec<u8>) -> impl Write + '_ {
        struct Text<'a>(&'a mut Vec<u8>);
        impl Write for Text<'_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.extend_from_slice(text.as_bytes());
                Ok(())
            }
        }
        Text(bytes)
    }

    /// The messages in the output, which are taken out of it: letters, and the texts that are in them.
    pub(super) fn said(session: &mut Session) -> String {
        let (mut out, mut said) = (session.output().to_vec(), Vec::new());
        session.sent(out.len());
        while !out.is_empty() {
            let len = u32::from_be_bytes(out[1..5].try_into().expect("a length"));
            let message: Vec<u8> = out
                .drain(..1 + usize::try_from(len).expect("short"))
                .collect();
            let is_text = |b: &u8| b.is_ascii_graphic() || *b == b' ';
            let body: Vec<u8> = message[5..]
                .iter()
                .map(|b| if is_text(b) { *b } else { b'.' })
                .collect();
            let text = String::from_utf8(body)
                .expect("text")
                .trim_matches('.')
                .to_string();
            let colon = if text.is_empty() { "" } else { ":" };
            said.push(format!(
                "{}{colon}{}",
                char::from(message[0]),
                text.replace(' ', "_")
            ));
        }
        said.join(" ")
    }

    fn shown(event: Event) -> String {
        let json = |row: &Row| {
            let mut out = Vec::new();
            match row.json(&mut out) {
                Ok(()) => String::from_utf8(out).expect("UTF-8"),
                Err(error) => error.to_string(),
            }
        };
        match event {
            Event::Columns(t, columns) => {
                let names: Vec<&str> = columns.iter().map(|column| &column.name[..]).collect();
                format!("{t} columns {}", names.join(","))
            }
            Event::Row(t, row) => format!("{t} {}", json(&row)),
            Event::Completed(t, tag) => format!("{t} completed {}", tag.as_str()),
            Event::Done(t, tag) => format!("{t} done {}", tag.as_str()),
            Event::Failed(t, error) => format!("{t} failed {error}"),
            Event::CopyIn(t) => format!("{t} copy in"),
            Event::CopyOut(t, data) => format!("{t} copy out {}", String::from_utf8_lossy(&data)),
            Event::Notice(notice) => format!("notice {}", notice.code),
            Event::Notification(n) => format!("{} on {} by {}", n.payload, n.channel, n.process),
            Event::ParameterStatus(name, value) => format!("{name}={value}"),
            Event::Ready => "ready".into(),
        }
    }

    pub(super) fn feed(session: &mut Session, pieces: &[&[u8]]) -> Result<Vec<String>, Error> {
        let mut events = Vec::new();
        for mut piece in pieces.iter().copied() {
            while let Some(event) = session.poll_event(&mut piece, at(0))? {
                events.push(shown(event));
            }
            assert!(piece.is_empty());
        }
        Ok(events)
    }

    pub(super) fn ready(limits: Limits) -> Session {
        let mut session = Session::new(&Settings::new("ada"), limits, at(0)).expect("a session");
        let events = feed(&mut session, &[&wire("R:0 S:TimeZone=UTC K Z:I")]);
        assert_eq!(events.expect("ready"), ["TimeZone=UTC", "ready"]);
        assert_eq!(session.cancel_key(), Some((1, 2)));
        session.sent(session.output().len());
        session
    }

    /// Asks in words: `q` a query (with an `int4` if there is a number), `o` one that is to stay in order, `s` the simple protocol,
    /// `i` and `x` copies in and out.
    pub(super) fn ask(session: &mut Session, what: &'static str) {
        let (kind, sql) = what.split_once(' ').expect("a kind and SQL");
        let (sql, params) = match sql.split_once('|') {
            Some((sql, n)) => (sql, Params::new().with(n.parse::<i32>().expect("a number"))),
            None => (sql, Params::new()),
        };
        let query = Query::new(sql).with(params);
        let asked = match kind {
            "q" => session.query(query, at(0)),
            "o" => session.query(query.in_order(), at(0)),
            "s" => session.simple(sql, at(0)),
            "i" => session.copy_in(sql, at(0)),
            _ => session.copy_out(sql, at(0)),
        };
        asked.expect("asked");
    }
}
