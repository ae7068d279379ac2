//! Floor 1. The machine of one connection: see [the module](super) for its states.
//!
//! ```text
//!  ask ──► queue ──► pump ─┬─ statement known ────► Bind Execute Sync ──────────────────► waiting: Query
//!                          ├─ not yet ────────────► Close… Parse Describe Sync ─► blocked, waiting: Prepare
//!                          ├─ simple ─────────────► Query ──────────────────────► blocked, waiting: Simple
//!                          └─ copy ───────────────► Parse Bind Execute Flush ───► blocked, waiting: Copy
//!  Z ──► the oldest of `waiting` is done ──► blocked no more ──► pump
//! ```
//! Invariants: each entry of `waiting` is owed exactly one `Z`. While `blocked` nothing is written behind the last
//! entry: a server that wants the data of a copy would take everything behind it for its data. A copy has one `Sync`,
//! which is written when nothing more goes into it, because the server passes over those that it finds among the data.

use super::error::{DbError, Error, ParamError, QueryError, Refusal};
use super::param::{self, Params, Wanted};
use super::row::{Column, Columns, Row};
use super::url::Settings;
use crate::base::clock::Instant;
use bytes::{Buf, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::{self, sasl};
use postgres_protocol::message::backend::{Header, Message};
use postgres_protocol::message::{backend, frontend};
use smallvec::SmallVec;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// How much, and how long.
///
/// ```
/// use loopwright::proto::pg::Limits;
/// let limits = Limits { pipeline: 16, ..Limits::default() };
/// assert_eq!(limits.statements, 256);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of one message, either way: a row, a query with its parameters.
    pub message: usize,
    /// Questions without an answer.
    pub pipeline: usize,
    /// Prepared statements that the server keeps for us; at least 1.
    pub statements: usize,
    /// Columns of one answer.
    pub columns: usize,
    /// Bytes that wait for the socket, above which nothing more is asked.
    pub output: usize,
    /// Bytes of one row as JSON.
    pub json: usize,
    /// Rounds of hashing that the server may want of us for SCRAM: 4096 are usual. The loop does nothing else meanwhile.
    pub iterations: u32,
    /// How long it may take until the session is ready.
    pub startup: Duration,
    /// How long the oldest question may be without a sign of its answer.
    pub reply: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message: 16 * 1024 * 1024,
            pipeline: 128,
            statements: 256,
            columns: 1664,
            output: 4 * 1024 * 1024,
            json: 64 * 1024 * 1024,
            iterations: 32 * 1024,
            startup: Duration::from_secs(10),
            reply: Duration::from_secs(60),
        }
    }
}

/// SQL with parameters: one statement.
///
/// ```
/// use loopwright::proto::pg::{Params, Query};
/// let query = Query::new("select name from users where id = $1").with(Params::new().with(7));
/// assert_eq!(query.params.len(), 1);
/// ```
#[derive(Debug)]
pub struct Query {
    /// Prepared once for each connection: the same text should come again.
    pub sql: Rc<str>,
    /// Its parameters.
    pub params: Params,
    /// Whether it does not mind to run behind what was asked after it, and begins no transaction. If a change of the
    /// schema has made the prepared statement useless, such a query is asked again.
    pub independent: bool,
}

impl Query {
    /// Without parameters, independent.
    pub fn new(sql: impl Into<Rc<str>>) -> Query {
        Query {
            sql: sql.into(),
            params: Params::new(),
            independent: true,
        }
    }

    /// With parameters.
    pub fn with(self, params: impl Into<Params>) -> Query {
        let params = params.into();
        Query { params, ..self }
    }

    /// One whose place among the others matters: of a transaction.
    pub fn in_order(self) -> Query {
        let independent = false;
        Query {
            independent,
            ..self
        }
    }
}

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
    /// What the rows that follow have. Once for a query; with [`Session::simple`], for each that has rows.
    Columns(u64, Rc<Columns>),
    /// A row.
    Row(u64, Row),
    /// One of the statements of [`Session::simple`] is done.
    Completed(u64, Tag),
    /// All is. The last of this question.
    Done(u64, Tag),
    /// It is not, and nothing of it has happened, unless it was several. The last of this question.
    Failed(u64, QueryError),
    /// The server waits for [`Session::copy_data`] and [`Session::copy_done`].
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

/// What to send on a connection of its own, and then close it, to have what a session's server does now cancelled:
/// whichever of its questions that is.
///
/// ```
/// let bytes = loopwright::proto::pg::cancel_request(1, 2);
/// assert_eq!(bytes, [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2]);
/// ```
pub fn cancel_request(process: i32, key: i32) -> [u8; 16] {
    let mut bytes = [0; 16];
    let words = [16, 80_877_102, process, key];
    for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

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

/// A statement that the server knows by a name.
#[derive(Debug)]
struct Statement {
    name: String,
    params: Vec<Wanted>,
    columns: Option<Rc<Columns>>,
}

#[derive(Debug)]
struct Cached {
    statement: Rc<Statement>,
    /// The number of its last use.
    used: u64,
}

/// What is to be asked.
#[derive(Debug)]
enum Ask {
    Query { query: Query, again: bool },
    Simple(Rc<str>),
    Copy { sql: Rc<str>, inwards: bool },
}

impl Ask {
    fn size(&self) -> usize {
        match self {
            // The text of a prepared statement is not sent.
            Ask::Query { query, .. } => query.params.size() + 64,
            Ask::Simple(sql) | Ask::Copy { sql, .. } => sql.len() + 64,
        }
    }
}

/// How far the answer to a query has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Asked,
    /// `1`, of a copy.
    Parsed,
    /// `2`: rows may come.
    Bound,
    /// `G`: data may go.
    CopyIn,
    /// `H`: data may come.
    CopyOut,
    /// `c`
    Copied,
    /// `C` or `I`.
    Complete,
}

#[derive(Debug)]
enum What {
    /// For the head of the queue.
    Prepare {
        sql: Rc<str>,
        statement: Statement,
        /// `3`s that come first.
        closes: usize,
        /// `1`, `t`, `T` or `n`.
        step: u8,
    },
    Query {
        query: Query,
        /// It has been, or shall not be asked again.
        again: bool,
        statement: Rc<Statement>,
    },
    /// A query of a transaction that does not fit, why, and an error of the server's in its place.
    Unfit(QueryError),
    Simple {
        columns: Option<Rc<Columns>>,
    },
    Copy {
        inwards: bool,
        /// The one `Sync` is out.
        synced: bool,
    },
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    what: What,
    step: Step,
    since: Instant,
    tag: Tag,
    failed: Option<QueryError>,
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
    /// The begin of a message whose end has not come; and, behind rows that are still held, room for the next.
    input: BytesMut,
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

/// How much is made room for at once: rows are slices of such blocks.
const BLOCK: usize = 16 * 1024;
/// A message of more bytes than this gets a block of its own, which goes when it does.
const LARGE: usize = 64 * 1024;
/// What no statement is called; whoever reads the server's log finds it there.
const UNFIT: &str = "a query whose parameters did not fit";
/// The longest description of a statement: 65,535 parameters, or 1664 columns with names of 63 bytes, and twice that.
const DESCRIPTION: usize = 300_000;
/// The longest message of the kinds that are always short, and of any before the session is ready.
const SHORT: usize = 30_000;

impl Session {
    /// On a connection that has just been made. The output has the greeting.
    ///
    /// # Errors
    /// The settings have a NUL in them.
    pub fn new(settings: &Settings, limits: Limits, now: Instant) -> Result<Session, Refusal> {
        let mut output = BytesMut::new();
        let database = settings.database.as_deref();
        let ours = [
            ("user", Some(&settings.user[..])),
            ("database", database),
            ("client_encoding", Some("UTF8")),
            ("DateStyle", Some("ISO")),
        ];
        let ours = ours
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)));
        let theirs = settings
            .parameters
            .iter()
            .map(|(key, value)| (&key[..], &value[..]));
        let theirs = theirs.filter(|(key, _)| !is_ours(key));
        frontend::startup_message(ours.chain(theirs), &mut output).map_err(|_| Refusal::Nul)?;
        Ok(Session {
            user: settings.user.clone(),
            password: settings.password.clone(),
            cleartext: settings.cleartext,
            limits,
            phase: Phase::Startup,
            input: BytesMut::new(),
            output,
            unfit: VecDeque::new(),
            queue: VecDeque::new(),
            queued: 0,
            waiting: VecDeque::new(),
            blocked: false,
            open: 0,
            copying: None,
            next_ticket: 0,
            cache: HashMap::new(),
            closing: Vec::new(),
            next_statement: 0,
            uses: 0,
            status: Status::Idle,
            is_changed: false,
            cancel_key: None,
            started: now,
            progress: now,
        })
    }

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

    /// Whether one more question would not be [`Refusal::Full`].
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

    // ---- questions

    /// Asks. [`Event::Columns`] (if it has rows), [`Event::Row`]s and [`Event::Done`] follow, or
    /// [`Event::Failed`].
    ///
    /// # Errors
    /// It was not asked.
    pub fn query(&mut self, query: Query, now: Instant) -> Result<u64, Refusal> {
        if is_copy(&query.sql) {
            return Err(Refusal::Copy);
        }
        self.check_sql(&query.sql, query.params.size())?;
        let again = false;
        Ok(self.ask(Ask::Query { query, again }, now))
    }

    /// Asks several statements at once, without parameters; their values come as text. Nothing else is
    /// under way with the server meanwhile. [`Event::Completed`] follows for each, [`Event::Done`] for all.
    ///
    /// # Errors
    /// It was not asked.
    pub fn simple(&mut self, sql: impl Into<Rc<str>>, now: Instant) -> Result<u64, Refusal> {
        let sql = sql.into();
        self.check_sql(&sql, 0)?;
        Ok(self.ask(Ask::Simple(sql), now))
    }

    /// `COPY … FROM STDIN`: [`Event::CopyIn`] follows, then it is the caller's turn.
    ///
    /// # Errors
    /// It was not asked.
    pub fn copy_in(&mut self, sql: impl Into<Rc<str>>, now: Instant) -> Result<u64, Refusal> {
        self.copy(sql.into(), true, now)
    }

    /// `COPY … TO STDOUT`: [`Event::CopyOut`]s follow.
    ///
    /// # Errors
    /// It was not asked.
    pub fn copy_out(&mut self, sql: impl Into<Rc<str>>, now: Instant) -> Result<u64, Refusal> {
        self.copy(sql.into(), false, now)
    }

    fn copy(&mut self, sql: Rc<str>, inwards: bool, now: Instant) -> Result<u64, Refusal> {
        if !is_copy(&sql) {
            return Err(Refusal::Copy);
        }
        self.check_sql(&sql, 0)?;
        Ok(self.ask(Ask::Copy { sql, inwards }, now))
    }

    /// A piece of what is copied in, cut anywhere.
    ///
    /// # Errors
    /// [`Refusal::NoCopy`]: the copy has ended, maybe for an error that the next events tell;
    /// [`Refusal::Full`]: again, when there is less output.
    pub fn copy_data(&mut self, ticket: u64, data: &[u8]) -> Result<(), Refusal> {
        self.check_copy(ticket)?;
        if data.len() > self.limits.message {
            return Err(Refusal::TooLong);
        }
        if self.output.len() >= self.limits.output {
            return Err(Refusal::Full);
        }
        let message = frontend::CopyData::new(data).map_err(|_| Refusal::TooLong)?;
        message.write(&mut self.output);
        Ok(())
    }

    /// That was all.
    ///
    /// # Errors
    /// [`Refusal::NoCopy`], as before.
    pub fn copy_done(&mut self, ticket: u64, now: Instant) -> Result<(), Refusal> {
        self.check_copy(ticket)?;
        frontend::copy_done(&mut self.output);
        self.end_copy(now);
        Ok(())
    }

    /// Nothing of it shall be: the copy fails with this message.
    ///
    /// # Errors
    /// [`Refusal::NoCopy`], as before; a NUL in `why`.
    pub fn copy_fail(&mut self, ticket: u64, why: &str, now: Instant) -> Result<(), Refusal> {
        self.check_copy(ticket)?;
        if why.contains('\0') {
            return Err(Refusal::Nul);
        }
        self.write(|out| frontend::copy_fail(why, out));
        self.end_copy(now);
        Ok(())
    }

    fn check_copy(&self, ticket: u64) -> Result<(), Refusal> {
        match (&self.phase, self.copying) {
            (Phase::Ready, Some(open)) if open == ticket => Ok(()),
            _ => Err(Refusal::NoCopy),
        }
    }

    /// No more data: the server's turn again.
    fn end_copy(&mut self, now: Instant) {
        self.copying = None;
        self.progress = now;
        if let Some(Waiting {
            what: What::Copy { synced, .. },
            ..
        }) = self.waiting.front_mut()
            && !*synced
        {
            *synced = true;
            frontend::sync(&mut self.output);
        }
    }

    /// Says good-bye: what has no answer will have none.
    pub fn close(&mut self) {
        if self.is_ready() {
            frontend::terminate(&mut self.output);
        }
        if !matches!(self.phase, Phase::Over(_)) {
            self.phase = Phase::Over(Error::Closed);
        }
    }

    fn check_sql(&self, sql: &str, params: usize) -> Result<(), Refusal> {
        if !self.is_ready() {
            return Err(Refusal::NotReady);
        }
        if sql.contains('\0') {
            return Err(Refusal::Nul);
        }
        if sql.len().saturating_add(params) > self.limits.message {
            return Err(Refusal::TooLong);
        }
        match self.has_room() {
            true => Ok(()),
            false => Err(Refusal::Full),
        }
    }

    fn ask(&mut self, ask: Ask, now: Instant) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.open += 1;
        self.queued += ask.size();
        self.queue.push_back((ticket, ask));
        self.pump(now);
        ticket
    }

    /// Writes what may be written.
    fn pump(&mut self, now: Instant) {
        while !self.blocked
            && let Some((ticket, ask)) = self.queue.pop_front()
        {
            self.queued -= ask.size();
            match ask {
                Ask::Query { query, again } => match self.cached(&query.sql) {
                    Some(statement) => self.execute(ticket, query, again, statement, now),
                    None => {
                        self.prepare(ticket, query.sql.clone(), now);
                        let ask = Ask::Query { query, again };
                        self.queued += ask.size();
                        self.queue.push_front((ticket, ask));
                    }
                },
                Ask::Simple(sql) => {
                    self.write(|out| frontend::query(&sql, out));
                    self.wait(ticket, What::Simple { columns: None }, now);
                    self.blocked = true;
                }
                Ask::Copy { sql, inwards } => {
                    self.write(|out| frontend::parse("", &sql, [], out));
                    let bound = param::bind(
                        "",
                        &[],
                        &Params::new(),
                        std::iter::empty(),
                        &mut self.output,
                    );
                    debug_assert!(bound.is_ok());
                    self.write(|out| frontend::execute("", 0, out));
                    frontend::flush(&mut self.output);
                    let synced = false;
                    self.wait(ticket, What::Copy { inwards, synced }, now);
                    self.blocked = true;
                }
            }
        }
    }

    /// What is written so has no NUL in its texts, and is no longer than a message may be: both were looked at. So it does
    /// not fail; if it did, the server would have half a message, and so the half is taken back.
    fn write(&mut self, message: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) {
        let begin = self.output.len();
        if message(&mut self.output).is_err() {
            debug_assert!(false);
            self.output.truncate(begin);
        }
    }

    fn wait(&mut self, ticket: u64, what: What, now: Instant) {
        if self.waiting.is_empty() {
            self.progress = now;
        }
        self.waiting.push_back(Waiting {
            ticket,
            what,
            step: Step::Asked,
            since: now,
            tag: Tag::default(),
            failed: None,
        });
    }

    fn cached(&mut self, sql: &str) -> Option<Rc<Statement>> {
        let cached = self.cache.get_mut(sql)?;
        self.uses += 1;
        cached.used = self.uses;
        Some(cached.statement.clone())
    }

    fn prepare(&mut self, ticket: u64, sql: Rc<str>, now: Instant) {
        while self.cache.len() >= self.limits.statements.max(1) {
            let oldest = self.cache.iter().min_by_key(|(_, cached)| cached.used);
            let Some(sql) = oldest.map(|(sql, _)| sql.clone()) else {
                break;
            };
            if let Some(cached) = self.cache.remove(&sql) {
                self.closing.push(cached.statement.name.clone());
            }
        }
        let closing = std::mem::take(&mut self.closing);
        for name in &closing {
            self.write(|out| frontend::close(b'S', name, out));
        }
        let name = format!("s{}", self.next_statement);
        self.next_statement += 1;
        self.write(|out| frontend::parse(&name, &sql, [], out));
        self.write(|out| frontend::describe(b'S', &name, out));
        frontend::sync(&mut self.output);
        let what = What::Prepare {
            sql,
            statement: Statement {
                name,
                params: Vec::new(),
                columns: None,
            },
            closes: closing.len(),
            step: b'1',
        };
        self.wait(ticket, what, now);
        self.blocked = true;
    }

    fn execute(
        &mut self,
        ticket: u64,
        mut query: Query,
        again: bool,
        statement: Rc<Statement>,
        now: Instant,
    ) {
        let begin = self.output.len();
        let (want, given) = (statement.params.len(), query.params.len());
        let written = if want == given {
            let columns = statement.columns.iter().flat_map(|columns| columns.iter());
            let formats = columns.map(|column| i16::from(column.binary));
            let (name, out) = (&statement.name, &mut self.output);
            param::bind(name, &statement.params, &query.params, formats, out)
                .map_err(|wrong| QueryError::Param(wrong.unwrap_or_else(too_large)))
        } else {
            Err(QueryError::ParamCount { want, given })
        };
        let limit = self.limits.message;
        let written = written.and_then(|()| match self.output.len() - begin {
            size if size > limit => Err(QueryError::TooLong { limit }),
            _ => Ok(()),
        });
        if let Err(error) = written {
            self.output.truncate(begin);
            if self.status == Status::Idle {
                self.unfit.push_back((ticket, error));
                return;
            }
            // Its transaction fails, as it does when the server refuses: by a statement that there is none of.
            let nothing = (&[], &Params::new(), std::iter::empty());
            let bound = param::bind(UNFIT, nothing.0, nothing.1, nothing.2, &mut self.output);
            debug_assert!(bound.is_ok());
            frontend::sync(&mut self.output);
            return self.wait(ticket, What::Unfit(error), now);
        }
        self.write(|out| frontend::execute("", 0, out));
        frontend::sync(&mut self.output);
        // What is large is not kept to be asked again.
        let is_large = query.params.size() > LARGE;
        if is_large {
            query.params = Params::new();
        }
        let what = What::Query {
            query,
            again: again || is_large,
            statement,
        };
        self.wait(ticket, what, now);
    }

    // ---- answers

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

    fn end(&mut self, error: Error) {
        self.phase = Phase::Over(error);
        self.input = BytesMut::new();
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
            if let Some(event) = self.on_message(message, now)? {
                return Ok(Some(event));
            }
        }
    }

    /// One message, when all of it is there.
    fn read(&mut self, input: &mut &[u8]) -> Result<Option<Message>, Error> {
        const HEAD: usize = 5;
        if self.input.len() < HEAD {
            if input.is_empty() {
                return Ok(None);
            }
            if self.input.capacity() < HEAD {
                self.input.reserve(BLOCK);
            }
            self.take(input, HEAD);
        }
        let header = Header::parse(&self.input).map_err(|_| Error::Malformed("a length"))?;
        let Some(header) = header else {
            return Ok(None);
        };
        let size = usize::try_from(header.len()).unwrap_or(usize::MAX);
        let limit = self.longest(header.tag())?;
        if size > limit {
            return Err(Error::TooLong { size, limit });
        }
        let whole = size.saturating_add(1);
        if whole > self.input.capacity() {
            // As its bytes come, not as they are announced.
            let missing = whole - self.input.len();
            let room = if whole > LARGE {
                missing.min(input.len().max(self.input.len()).max(BLOCK))
            } else {
                missing.max(BLOCK)
            };
            self.input.reserve(room);
        }
        self.take(input, whole);
        if self.input.len() < whole {
            return Ok(None);
        }
        let message = Message::parse(&mut self.input).map_err(|_| Error::Malformed("a message"))?;
        if whole > LARGE {
            self.input = BytesMut::new();
        }
        Ok(message)
    }

    /// Up to `whole` bytes of a message.
    fn take(&mut self, input: &mut &[u8], whole: usize) {
        let missing = whole.saturating_sub(self.input.len());
        let (now, rest) = input.split_at(missing.min(input.len()));
        self.input.extend_from_slice(now);
        *input = rest;
    }

    /// How long a message may be, before anything of it is kept.
    fn longest(&self, tag: u8) -> Result<usize, Error> {
        let is_long = matches!(
            tag,
            backend::DATA_ROW_TAG
                | backend::COPY_DATA_TAG
                | backend::ERROR_RESPONSE_TAG
                | backend::NOTICE_RESPONSE_TAG
                | backend::NOTIFICATION_RESPONSE_TAG
        );
        let is_short = matches!(
            tag,
            b'1' | b'2'
                | b'3'
                | b'c'
                | b'C'
                | b'G'
                | b'H'
                | b'I'
                | b'K'
                | b'n'
                | b'R'
                | b'S'
                | b't'
                | b'T'
                | b'Z'
        );
        // These are kept as long as their statement.
        let is_description = matches!(
            tag,
            backend::ROW_DESCRIPTION_TAG | backend::PARAMETER_DESCRIPTION_TAG
        );
        if is_description && self.is_ready() {
            return Ok(DESCRIPTION.min(self.limits.message));
        }
        match is_long && self.is_ready() {
            true => Ok(self.limits.message),
            false if is_long || is_short => Ok(SHORT.min(self.limits.message)),
            false => Err(Error::Malformed("an unknown kind of message")),
        }
    }

    fn on_message(&mut self, message: Message, now: Instant) -> Result<Option<Event>, Error> {
        // At any time.
        match message {
            Message::NoticeResponse(body) => {
                let notice = Box::new(DbError::read(body.fields())?);
                return Ok(Some(Event::Notice(notice)));
            }
            Message::ParameterStatus(body) => return self.on_parameter(&body).map(Some),
            Message::NotificationResponse(body) => {
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
            Phase::Ready => self.on_answer(message, now),
            _ => self.on_login(message, now),
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

    fn on_login(&mut self, message: Message, now: Instant) -> Result<Option<Event>, Error> {
        match (&mut self.phase, message) {
            (_, Message::ErrorResponse(body)) => {
                Err(Error::Refused(Box::new(DbError::read(body.fields())?)))
            }
            (Phase::Startup | Phase::Proved, Message::AuthenticationOk) => {
                self.phase = Phase::Settling;
                Ok(None)
            }
            (Phase::Startup, Message::AuthenticationCleartextPassword) => {
                if !self.cleartext {
                    return Err(Error::Cleartext);
                }
                let secret = self.password.take().ok_or(Error::NoPassword)?;
                self.prove(|out| frontend::password_message(secret.expose().as_bytes(), out))
            }
            (Phase::Startup, Message::AuthenticationMd5Password(body)) => {
                let secret = self.password.take().ok_or(Error::NoPassword)?;
                let (user, password) = (self.user.as_bytes(), secret.expose().as_bytes());
                let hash = authentication::md5_hash(user, password, body.salt());
                self.prove(|out| frontend::password_message(hash.as_bytes(), out))
            }
            (Phase::Startup, Message::AuthenticationSasl(body)) => {
                let mut names = body.mechanisms();
                let mut offered = Vec::new();
                while let Some(name) = names.next().map_err(|_| Error::Malformed("a greeting"))? {
                    offered.push(name);
                }
                if !offered.contains(&sasl::SCRAM_SHA_256) {
                    return Err(Error::Unsupported(offered.join(", ")));
                }
                let secret = self.password.take().ok_or(Error::NoPassword)?;
                let password = secret.expose().as_bytes();
                let scram = sasl::ScramSha256::new(password, sasl::ChannelBinding::unsupported());
                let name = sasl::SCRAM_SHA_256;
                let written =
                    frontend::sasl_initial_response(name, scram.message(), &mut self.output);
                written.map_err(proof)?;
                self.phase = Phase::Scram(scram);
                Ok(None)
            }
            (Phase::Scram(scram), Message::AuthenticationSaslContinue(body)) => {
                let rounds = rounds(body.data()).ok_or(Error::Malformed("a proof"))?;
                if rounds > self.limits.iterations {
                    let limit = self.limits.iterations;
                    let why = format!("the server wants {rounds} rounds of hashing, over {limit}");
                    return Err(Error::Proof(why));
                }
                scram.update(body.data()).map_err(proof)?;
                frontend::sasl_response(scram.message(), &mut self.output).map_err(proof)?;
                Ok(None)
            }
            (Phase::Scram(scram), Message::AuthenticationSaslFinal(body)) => {
                scram.finish(body.data()).map_err(proof)?;
                self.phase = Phase::Proved;
                Ok(None)
            }
            (Phase::Scram(_), Message::AuthenticationOk) => {
                let why = "the server has not proved that it knows the password";
                Err(Error::Proof(why.into()))
            }
            (Phase::Startup, other) => match other {
                Message::AuthenticationGss => Err(Error::Unsupported("GSSAPI".into())),
                Message::AuthenticationSspi => Err(Error::Unsupported("SSPI".into())),
                Message::AuthenticationKerberosV5 => Err(Error::Unsupported("Kerberos".into())),
                _ => Err(Error::Unexpected("a strange answer to the greeting")),
            },
            (Phase::Settling, Message::BackendKeyData(body)) => {
                self.cancel_key = Some((body.process_id(), body.secret_key()));
                Ok(None)
            }
            (Phase::Settling, Message::ReadyForQuery(body)) => {
                self.status = status(body.status())?;
                self.phase = Phase::Ready;
                self.progress = now;
                Ok(Some(Event::Ready))
            }
            _ => Err(Error::Unexpected("a strange answer to the greeting")),
        }
    }

    fn refuse_copy(&mut self) {
        self.write(|out| frontend::copy_fail("want copy_in for COPY FROM STDIN", out));
    }

    fn prove(
        &mut self,
        message: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<Option<Event>, Error> {
        message(&mut self.output).map_err(proof)?;
        self.phase = Phase::Proved;
        Ok(None)
    }

    fn on_answer(&mut self, message: Message, now: Instant) -> Result<Option<Event>, Error> {
        self.progress = now;
        let Some(waiting) = self.waiting.front_mut() else {
            return match message {
                // That it shuts down, for example.
                Message::ErrorResponse(body) => {
                    Err(Error::Fatal(Box::new(DbError::read(body.fields())?)))
                }
                _ => Err(Error::Unexpected("an answer nobody waits for")),
            };
        };
        match message {
            Message::ReadyForQuery(body) => {
                let status = status(body.status())?;
                self.on_ready(status, now)
            }
            _ if waiting.failed.is_some() => Err(Error::Unexpected("an answer behind an error")),
            Message::ErrorResponse(body) => {
                let error = Box::new(DbError::read(body.fields())?);
                if error.is_fatal() {
                    return Err(Error::Fatal(error));
                }
                waiting.failed = Some(match &waiting.what {
                    What::Unfit(why) => why.clone(),
                    _ => QueryError::Server(error),
                });
                if matches!(waiting.what, What::Copy { .. }) {
                    self.end_copy(now);
                }
                Ok(None)
            }
            message => match waiting.what {
                What::Prepare { .. } => on_prepare(waiting, &message, &self.limits),
                What::Query { .. } => on_query(waiting, message),
                What::Unfit(_) => Err(Error::Unexpected("a strange answer to what is none")),
                What::Simple { .. } => {
                    let is_quiet = !matches!(waiting.step, Step::CopyIn | Step::CopyOut);
                    if is_quiet && matches!(message, Message::CopyInResponse(_)) {
                        // Nobody has said that there would be data.
                        waiting.step = Step::CopyIn;
                        self.refuse_copy();
                        return Ok(None);
                    }
                    let has_rows = matches!(waiting.what, What::Simple { columns: Some(_) });
                    let event = on_simple(waiting, &message, &self.limits)?;
                    if let Some(Event::Completed(_, tag)) = &event {
                        note(tag, has_rows, &mut self.is_changed, &mut self.cache);
                    }
                    Ok(event)
                }
                What::Copy { .. } => self.on_copy(&message, now),
            },
        }
    }

    fn on_copy(&mut self, message: &Message, now: Instant) -> Result<Option<Event>, Error> {
        let Some(waiting) = self.waiting.front_mut() else {
            return Ok(None);
        };
        let What::Copy { inwards, .. } = waiting.what else {
            return Ok(None);
        };
        let ticket = waiting.ticket;
        let (step, event) = match (waiting.step, message) {
            (Step::Asked, Message::ParseComplete) => (Step::Parsed, None),
            (Step::Parsed, Message::BindComplete) => (Step::Bound, None),
            (Step::Bound, Message::CopyInResponse(_)) if inwards => {
                self.copying = Some(ticket);
                (Step::CopyIn, Some(Event::CopyIn(ticket)))
            }
            (Step::Bound, Message::CopyInResponse(_)) => {
                self.refuse_copy();
                self.end_copy(now);
                return Ok(None);
            }
            (Step::Bound, Message::CopyOutResponse(_)) => (Step::CopyOut, None),
            (Step::CopyOut, Message::CopyData(body)) => {
                let data = Bytes::copy_from_slice(body.data());
                return Ok(Some(Event::CopyOut(ticket, data)));
            }
            (Step::CopyOut, Message::CopyDone) => (Step::Copied, None),
            (Step::Bound | Step::CopyIn | Step::Copied, Message::CommandComplete(body)) => {
                waiting.tag = tag(body)?;
                waiting.step = Step::Complete;
                self.end_copy(now);
                return Ok(None);
            }
            _ => return Err(Error::Unexpected("a strange answer to a copy")),
        };
        waiting.step = step;
        Ok(event)
    }

    /// `Z`: the oldest question is done.
    fn on_ready(&mut self, status: Status, now: Instant) -> Result<Option<Event>, Error> {
        // Whose answer breaks off stays among those without one.
        let is_over = |oldest: &Waiting| oldest.failed.is_some() || oldest.step == Step::Complete;
        let unfinished = Error::Unexpected("the end of an answer before all of it");
        if !self.waiting.front().is_some_and(is_over) {
            return Err(unfinished);
        }
        let mut waiting = self.waiting.pop_front().ok_or(unfinished)?;
        let before = std::mem::replace(&mut self.status, status);
        let ticket = waiting.ticket;
        let failed = waiting.failed.take();
        if !matches!(waiting.what, What::Query { .. } | What::Unfit(_)) {
            self.blocked = false;
        }
        let event = match (waiting.what, failed) {
            (What::Prepare { sql, statement, .. }, None) => {
                self.uses += 1;
                let (used, statement) = (self.uses, Rc::new(statement));
                self.cache.insert(sql, Cached { statement, used });
                None
            }
            (What::Prepare { .. }, Some(error)) => {
                // Of the question that it was for.
                let asker = self.queue.iter().position(|(asker, _)| *asker == ticket);
                if let Some((_, ask)) = asker.and_then(|at| self.queue.remove(at)) {
                    self.queued -= ask.size();
                }
                Some(Event::Failed(ticket, error))
            }
            (
                What::Query {
                    query,
                    again,
                    statement,
                },
                Some(error),
            ) => {
                let is_stale = waiting.step == Step::Asked && is_stale(&error);
                if is_stale {
                    self.forget(&query.sql, &statement);
                }
                let is_idle = before == Status::Idle && status == Status::Idle;
                if is_stale && is_idle && !again && self.may_be_later(&query) {
                    let ask = Ask::Query { query, again: true };
                    self.queued += ask.size();
                    // Behind others that are asked again, so that these stay in order.
                    let later = self.queue.iter().position(|(other, _)| *other > ticket);
                    let at = later.unwrap_or(self.queue.len());
                    self.queue.insert(at, (ticket, ask));
                    None
                } else {
                    // A lock of the session outlives the failure of what has taken it.
                    self.is_changed |= is_idle && !query.independent;
                    Some(Event::Failed(ticket, error))
                }
            }
            (what, Some(error)) => {
                // A lock of the session outlives the failure of what has taken it.
                self.is_changed |= matches!(what, What::Simple { .. }) && before == Status::Idle;
                Some(Event::Failed(ticket, error))
            }
            (What::Query { statement, .. }, None) => {
                let has_rows = statement.columns.is_some();
                note(
                    &waiting.tag,
                    has_rows,
                    &mut self.is_changed,
                    &mut self.cache,
                );
                Some(Event::Done(ticket, waiting.tag))
            }
            // The tags of several were looked at as they came; a copy changes nothing.
            (_, None) => Some(Event::Done(ticket, waiting.tag)),
        };
        if event.is_some() {
            self.open -= 1;
        }
        self.pump(now);
        Ok(event)
    }

    fn forget(&mut self, sql: &str, statement: &Rc<Statement>) {
        let is_it = |cached: &Cached| Rc::ptr_eq(&cached.statement, statement);
        if self.cache.get(sql).is_some_and(is_it) {
            self.cache.remove(sql);
            self.closing.push(statement.name.clone());
        }
    }

    /// Whether all that was asked behind it are independent queries, so that it may go behind them.
    fn may_be_later(&self, query: &Query) -> bool {
        let waiting = self.waiting.iter().all(|waiting| match &waiting.what {
            What::Query { query, .. } => query.independent,
            What::Prepare { .. } => true,
            What::Unfit(_) | What::Simple { .. } | What::Copy { .. } => false,
        });
        let mut queue = self.queue.iter();
        let queue =
            queue.all(|(_, ask)| matches!(ask, Ask::Query { query, .. } if query.independent));
        let is_last = self.waiting.is_empty() && self.queue.is_empty();
        is_last || (query.independent && waiting && queue)
    }

    // ---- time

    /// When [`Session::expire`] wants to be called; it moves with what comes and what is asked. Who does not read does
    /// not count the time: then the server is not to blame.
    pub fn next_deadline(&self) -> Option<Instant> {
        match (&self.phase, self.waiting.front()) {
            (Phase::Over(_), _) => None,
            (Phase::Ready, Some(oldest)) if self.copying.is_none() => {
                Some(self.progress.max(oldest.since) + self.limits.reply)
            }
            (Phase::Ready, _) => None,
            _ => Some(self.started + self.limits.startup),
        }
    }

    /// At the deadline: the session is over.
    ///
    /// # Errors
    /// It is.
    pub fn expire(&mut self, now: Instant) -> Result<(), Error> {
        if let Phase::Over(error) = &self.phase {
            return Err(error.clone());
        }
        if self.next_deadline().is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        let limit = match self.phase {
            Phase::Ready => self.limits.reply,
            _ => self.limits.startup,
        };
        let error = Error::Silent { limit };
        self.end(error.clone());
        Err(error)
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

fn is_ours(key: &str) -> bool {
    let ours = ["user", "database", "client_encoding", "DateStyle"];
    // An empty name would be the end of the message.
    key.is_empty() || ours.iter().any(|name| key.eq_ignore_ascii_case(name))
}

fn too_large() -> ParamError {
    ParamError {
        position: 0,
        type_name: String::new(),
        why: "longer than the protocol can say".into(),
    }
}

fn proof(error: std::io::Error) -> Error {
    Error::Proof(error.to_string())
}

/// The rounds of hashing in a SCRAM server's first message.
fn rounds(message: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(message).ok()?;
    text.split(',')
        .find_map(|part| part.strip_prefix("i="))?
        .parse()
        .ok()
}

fn status(byte: u8) -> Result<Status, Error> {
    match byte {
        b'I' => Ok(Status::Idle),
        b'T' => Ok(Status::InTransaction),
        b'E' => Ok(Status::Failed),
        _ => Err(Error::Malformed("a transaction's state")),
    }
}

fn tag(body: &backend::CommandCompleteBody) -> Result<Tag, Error> {
    let text = body.tag().map_err(|_| Error::Malformed("a tag"))?;
    Ok(Tag::new(text))
}

/// What a tag says about the session's state. `has_rows`: the statement is of those that have.
fn note(tag: &Tag, has_rows: bool, is_changed: &mut bool, cache: &mut HashMap<Rc<str>, Cached>) {
    // Those that leave it as it is. `DO` and `CALL` may do anything, and what is created may be temporary: `SELECT` is
    // said of `CREATE TABLE AS` and `SELECT INTO`, too.
    const HARMLESS: [&str; 22] = [
        "INSERT",
        "UPDATE",
        "DELETE",
        "MERGE",
        "BEGIN",
        "START",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT",
        "RELEASE",
        "COPY",
        "SHOW",
        "EXPLAIN",
        "FETCH",
        "MOVE",
        "CLOSE",
        "NOTIFY",
        "TRUNCATE",
        "LOCK",
        "DROP",
        "VACUUM",
        "ANALYZE",
    ];
    let text = tag.as_str();
    match text.split(' ').next().unwrap_or_default() {
        "SELECT" if has_rows => {}
        "DISCARD" if text == "DISCARD ALL" => {
            cache.clear();
            *is_changed = false;
        }
        "DEALLOCATE" => {
            if text == "DEALLOCATE ALL" {
                cache.clear();
            }
        }
        "" => {}
        word => *is_changed |= !HARMLESS.contains(&word),
    }
}

/// The statement is not what it was when it was prepared, or not there.
fn is_stale(error: &QueryError) -> bool {
    let code = error.server().map(|error| &error.code[..]);
    matches!(code, Some("0A000" | "26000"))
}

/// Whether the first word is `COPY`.
fn is_copy(sql: &str) -> bool {
    let mut rest = sql;
    loop {
        rest =
            rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\u{b}' || c == ';');
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment
                .split_once(['\n', '\r'])
                .map_or("", |(_, rest)| rest);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = behind_comment(comment);
        } else {
            let word = rest
                .get(..4)
                .is_some_and(|word| word.eq_ignore_ascii_case("copy"));
            let next = rest.as_bytes().get(4);
            return word && !next.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
        }
    }
}

/// Comments nest.
fn behind_comment(text: &str) -> &str {
    let (mut depth, mut rest) = (1, text);
    while depth > 0 {
        let Some(at) = rest.find(['*', '/']) else {
            return "";
        };
        rest = &rest[at..];
        let (step, len) = match rest.as_bytes() {
            [b'*', b'/', ..] => (-1, 2),
            [b'/', b'*', ..] => (1, 2),
            _ => (0, 1),
        };
        depth += step;
        rest = &rest[len..];
    }
    rest
}

/// `binary`: of the simple protocol, which says it; a statement's description does not know it yet.
fn columns(
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

fn row(body: &backend::DataRowBody, columns: &Rc<Columns>) -> Result<Row, Error> {
    let count = body.ranges().size_hint().0;
    let row = Row::new(body.buffer_bytes().clone(), columns.clone());
    row.filter(|row| row.len() == count)
        .ok_or(Error::Malformed("a row"))
}

fn on_prepare(
    waiting: &mut Waiting,
    message: &Message,
    limits: &Limits,
) -> Result<Option<Event>, Error> {
    let What::Prepare {
        statement,
        closes,
        step,
        ..
    } = &mut waiting.what
    else {
        return Ok(None);
    };
    match (message, *step) {
        (Message::CloseComplete, b'1') if *closes > 0 => *closes -= 1,
        (Message::ParseComplete, b'1') if *closes == 0 => *step = b't',
        (Message::ParameterDescription(body), b't') => {
            let malformed = |_| Error::Malformed("a description of parameters");
            let mut oids = body.parameters();
            while let Some(oid) = oids.next().map_err(malformed)? {
                statement.params.push(Wanted::new(oid));
            }
            *step = b'T';
        }
        (Message::RowDescription(body), b'T') => {
            statement.columns = Some(columns(body, None, limits)?);
            waiting.step = Step::Complete;
            *step = b'Z';
        }
        (Message::NoData, b'T') => {
            waiting.step = Step::Complete;
            *step = b'Z';
        }
        _ => return Err(Error::Unexpected("a strange answer to a statement")),
    }
    Ok(None)
}

fn on_query(waiting: &mut Waiting, message: Message) -> Result<Option<Event>, Error> {
    let What::Query { statement, .. } = &waiting.what else {
        return Ok(None);
    };
    match (waiting.step, message) {
        (Step::Asked, Message::BindComplete) => {
            waiting.step = Step::Bound;
            let columns = statement.columns.clone();
            Ok(columns.map(|columns| Event::Columns(waiting.ticket, columns)))
        }
        (Step::Bound, Message::DataRow(body)) => {
            let columns = statement.columns.as_ref();
            let columns = columns.ok_or(Error::Unexpected("a row without columns"))?;
            Ok(Some(Event::Row(waiting.ticket, row(&body, columns)?)))
        }
        (Step::Bound, Message::CommandComplete(body)) => {
            waiting.tag = tag(&body)?;
            waiting.step = Step::Complete;
            Ok(None)
        }
        (Step::Bound, Message::EmptyQueryResponse) => {
            waiting.step = Step::Complete;
            Ok(None)
        }
        _ => Err(Error::Unexpected("a strange answer to a query")),
    }
}

fn on_simple(
    waiting: &mut Waiting,
    message: &Message,
    limits: &Limits,
) -> Result<Option<Event>, Error> {
    let ticket = waiting.ticket;
    let What::Simple { columns: present } = &mut waiting.what else {
        return Ok(None);
    };
    let event = match (waiting.step, message) {
        (Step::CopyOut, Message::CopyData(body)) => {
            Event::CopyOut(ticket, Bytes::copy_from_slice(body.data()))
        }
        (Step::CopyOut, Message::CopyDone) => {
            waiting.step = Step::Asked;
            return Ok(None);
        }
        (Step::CopyOut | Step::CopyIn, _) => {
            return Err(Error::Unexpected("a strange answer to a copy"));
        }
        (_, Message::CopyOutResponse(_)) => {
            waiting.step = Step::CopyOut;
            return Ok(None);
        }
        (_, Message::RowDescription(body)) => {
            let columns = columns(body, Some(false), limits)?;
            *present = Some(columns.clone());
            Event::Columns(ticket, columns)
        }
        (_, Message::DataRow(body)) => {
            let columns = present
                .as_ref()
                .ok_or(Error::Unexpected("a row without columns"))?;
            Event::Row(ticket, row(body, columns)?)
        }
        (_, Message::CommandComplete(body)) => {
            waiting.tag = tag(body)?;
            waiting.step = Step::Complete;
            *present = None;
            Event::Completed(ticket, waiting.tag.clone())
        }
        (_, Message::EmptyQueryResponse) => {
            waiting.step = Step::Complete;
            return Ok(None);
        }
        _ => return Err(Error::Unexpected("a strange answer to a query")),
    };
    Ok(Some(event))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::address::Secret;
    use crate::proto::resp::cuts;
    use base64::{Engine, engine::general_purpose::STANDARD};
    use std::fmt::Write;

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut message = vec![tag];
        message.extend_from_slice(&u32::try_from(body.len() + 4).expect("short").to_be_bytes());
        message.extend_from_slice(body);
        message
    }

    /// What a server sends: words of a message's letter, and what is in it behind a colon, `_` for spaces.
    fn wire(script: &str) -> Vec<u8> {
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
    fn said(session: &mut Session) -> String {
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

    fn feed(session: &mut Session, pieces: &[&[u8]]) -> Result<Vec<String>, Error> {
        let mut events = Vec::new();
        for mut piece in pieces.iter().copied() {
            while let Some(event) = session.poll_event(&mut piece, at(0))? {
                events.push(shown(event));
            }
            assert!(piece.is_empty());
        }
        Ok(events)
    }

    fn ready(limits: Limits) -> Session {
        let mut session = Session::new(&Settings::new("ada"), limits, at(0)).expect("a session");
        let events = feed(&mut session, &[&wire("R:0 S:TimeZone=UTC K Z:I")]);
        assert_eq!(events.expect("ready"), ["TimeZone=UTC", "ready"]);
        assert_eq!(session.cancel_key(), Some((1, 2)));
        session.sent(session.output().len());
        session
    }

    /// Asks in words: `q` a query (with an `int4` if there is a number), `o` one that is to stay in order, `s` the simple protocol,
    /// `i` and `x` copies in and out.
    fn ask(session: &mut Session, what: &str) {
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

    /// What is asked, what the server says to it, what happens, and what we say meanwhile.
    #[test]
    fn answers() {
        for (asked, server, events, says) in [
            (
                &["q select 1"][..],
                "1 t: T:n=23 Z:I 2 D:7 D:- C:SELECT_2 Z:I",
                &[
                    "0 columns n",
                    "0 {\"n\":7}",
                    "0 {\"n\":null}",
                    "0 done SELECT 2",
                ][..],
                "P:s0.select_1... D:Ss0 S B:s0.........\u{1} E S",
            ),
            // The same statement again is not prepared again, and not waited for.
            (
                &["q select $1|7", "q select $1|8"],
                "1 t:23 T:n=23 Z:I 2 D:7 C:SELECT_1 Z:I 2 D:8 C:SELECT_1 Z:I",
                &[
                    "0 columns n",
                    "0 {\"n\":7}",
                    "0 done SELECT 1",
                    "1 columns n",
                    "1 {\"n\":8}",
                    "1 done SELECT 1",
                ],
                "P:s0.select_$1 D:Ss0 S B:s0 E S B:s0 E S",
            ),
            // An error ends with the query that has made it: in the statement, in the parameters, in the middle.
            (
                &["q selec", "q select 1", "q select 1"],
                "E:42601 Z:I 1 t: T:n=23 Z:I 2 D:7 E:22012 Z:I 2 D:8 C:SELECT_1 Z:I",
                &[
                    "0 failed no (42601)",
                    "1 columns n",
                    "1 {\"n\":7}",
                    "1 failed no (22012)",
                    "2 columns n",
                    "2 {\"n\":8}",
                    "2 done SELECT 1",
                ],
                "P:s0.selec D:Ss0 S P:s1.select_1 D:Ss1 S B:s1 E S B:s1 E S",
            ),
            (
                &["q select $1", "q select $1|1"],
                "1 t:16 n Z:I",
                &[
                    "0 failed the statement has 1 parameters, 0 were given",
                    "1 failed parameter $1 (bool): an integer does not fit",
                ],
                "P:s0.select_$1 D:Ss0 S",
            ),
            // What is found at the end of the implicit transaction.
            (
                &["q insert"],
                "1 t: n Z:I 2 C:INSERT_0_1 E:23505 Z:I",
                &["0 failed no (23505)"],
                "P:s0.insert D:Ss0 S B:s0 E S",
            ),
            (
                &["q ;"],
                "1 t: n Z:I 2 I Z:I",
                &["0 done "],
                "P:s0.; D:Ss0 S B:s0 E S",
            ),
            // In between.
            (
                &["q select 1"],
                "1 N:00000 t: A:c=hi T:n=23 Z:I 2 S:TimeZone=UTC D:7 C:SELECT_1 N:00001 Z:T",
                &[
                    "notice 00000",
                    "hi on c by 7",
                    "0 columns n",
                    "TimeZone=UTC",
                    "0 {\"n\":7}",
                    "notice 00001",
                    "0 done SELECT 1",
                ],
                "P:s0.select_1 D:Ss0 S B:s0 E S",
            ),
            // Several at once are alone: what is behind waits.
            (
                &["s select 1; begin", "q select 2"],
                "T:a=23 D:x C:SELECT_1 C:BEGIN Z:T 1 t: n Z:T 2 C:X Z:T",
                &[
                    "0 columns a",
                    "0 column a (int4): no integer",
                    "0 completed SELECT 1",
                    "0 completed BEGIN",
                    "0 done BEGIN",
                    "1 done X",
                ],
                "Q:select_1;_begin P:s0.select_2 D:Ss0 S B:s0 E S",
            ),
            (
                &["s copy c from stdin", "s select"],
                "G E:57014 Z:I I Z:I",
                &["0 failed no (57014)", "1 done "],
                "Q:copy_c_from_stdin f:want_copy_in_for_COPY_FROM_STDIN Q:select",
            ),
            // Copies.
            (
                &["x copy c to stdout", "s select"],
                "1 2 H d:one d:two c C:COPY_2 Z:I I Z:I",
                &[
                    "0 copy out one",
                    "0 copy out two",
                    "0 done COPY 2",
                    "1 done ",
                ],
                "P:copy_c_to_stdout B E H S Q:select",
            ),
            (
                &["i copy c from stdin", "s select"],
                "1 2 G E:22P02 Z:I I Z:I",
                &["0 copy in", "0 failed no (22P02)", "1 done "],
                "P:copy_c_from_stdin B E H S Q:select",
            ),
            (
                &["i copy c from stdin"],
                "E:42P01 Z:I",
                &["0 failed no (42P01)"],
                "P:copy_c_from_stdin B E H S",
            ),
            (
                &["i copy c from '/file'"],
                "1 2 C:COPY_3 Z:I",
                &["0 done COPY 3"],
                "P:copy_c_from_'/file' B E H S",
            ),
            (
                &["x copy c from stdin"],
                "1 2 G E:57014 Z:I",
                &["0 failed no (57014)"],
                "P:copy_c_from_stdin B E H f:want_copy_in_for_COPY_FROM_STDIN S",
            ),
            // Stale: asked again, in order, behind what was written meanwhile. The old one is closed.
            (
                &["q select 1", "q select 1", "q select 2"],
                "1 t: n Z:I E:0A000 Z:I E:0A000 Z:I 1 t: n Z:I \
                 3 1 t: T:n=23 Z:I 2 C:A Z:I 2 C:B Z:I 2 C:C Z:I",
                &[
                    "0 columns n",
                    "0 done A",
                    "1 columns n",
                    "1 done B",
                    "2 done C",
                ],
                "P:s0.select_1 D:Ss0 S B:s0 E S B:s0 E S P:s1.select_2 D:Ss1 S C:Ss0 P:s2.select_1 D:Ss2 S \
                 B:s2 E S B:s2 E S B:s1 E S",
            ),
            // The second statement fails while the first waits to be asked again.
            (
                &["q select 1", "q selec"],
                "1 t: n Z:I E:26000 Z:I E:42601 Z:I 3 1 t: n Z:I E:26000 Z:I",
                &["1 failed no (42601)", "0 failed no (26000)"],
                "P:s0.select_1 D:Ss0 S B:s0 E S P:s1.selec D:Ss1 S C:Ss0 P:s2.select_1 D:Ss2 S B:s2 E S",
            ),
            // But not where the order matters, nor in a transaction.
            (
                &["q select 1", "o begin"],
                "1 t: n Z:I E:26000 Z:I 1 t: n Z:I 2 C:BEGIN Z:T",
                &["0 failed no (26000)", "1 done BEGIN"],
                "P:s0.select_1 D:Ss0 S B:s0 E S P:s1.begin D:Ss1 S B:s1 E S",
            ),
            (
                &["q select 1"],
                "1 t: n Z:T E:26000 Z:E",
                &["0 failed no (26000)"],
                "P:s0.select_1 D:Ss0 S B:s0 E S",
            ),
            // No more than two are kept.
            (
                &["q a", "q b", "q a", "q c", "q a"],
                "1 t: n Z:I 2 C:X Z:I 1 t: n Z:I 2 C:X Z:I 2 C:X Z:I 3 1 t: n Z:I 2 C:X Z:I 2 C:X Z:I",
                &["0 done X", "1 done X", "2 done X", "3 done X", "4 done X"],
                "P:s0.a D:Ss0 S B:s0 E S P:s1.b D:Ss1 S B:s1 E S B:s0 E S C:Ss1 P:s2.c D:Ss2 S B:s2 E S B:s0 E S",
            ),
        ] {
            let input = wire(server);
            for pieces in cuts(&input) {
                let limits = Limits {
                    statements: 2,
                    ..Limits::default()
                };
                let mut session = ready(limits);
                for what in asked {
                    ask(&mut session, what);
                }
                assert_eq!(session.owed(), asked.len());
                let got = feed(&mut session, &pieces).unwrap_or_else(|e| panic!("{asked:?}: {e}"));
                assert_eq!(got, events, "{asked:?}");
                assert_eq!(plain(&said(&mut session)), plain(says), "{asked:?}");
                assert_eq!((session.owed(), session.unanswered().count()), (0, 0));
                assert_eq!(session.next_deadline(), None);
            }
        }
    }

    /// Without what is binary: names of statements and texts are left.
    fn plain(said: &str) -> String {
        let words = said
            .split_whitespace()
            .map(|word| match word.split_once(':') {
                Some(("B", rest)) => match rest.split(['.', '\u{1}']).next() {
                    Some(name) if name.starts_with('s') => format!("B:{name}"),
                    _ => "B".into(),
                },
                Some(("E", _)) => "E".into(),
                _ => word.trim_end_matches('.').to_string(),
            });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn copied_in() {
        for (ends_with, server, says, last) in [
            ("done", "C:COPY_2 Z:I", "d:one d:two c S", "0 done COPY 2"),
            (
                "fail",
                "E:57014 Z:I",
                "d:one d:two f:enough S",
                "0 failed no (57014)",
            ),
            ("", "E:22P02 Z:I", "d:one d:two S", "0 failed no (22P02)"),
            // The error and our end meet on their way: no second Sync.
            (
                "done",
                "E:22P02 Z:I",
                "d:one d:two c S",
                "0 failed no (22P02)",
            ),
        ] {
            let mut session = ready(Limits::default());
            ask(&mut session, "i copy c from stdin");
            assert_eq!(session.copy_data(0, b"one"), Err(Refusal::NoCopy));
            assert_eq!(
                feed(&mut session, &[&wire("1 2 G")]),
                Ok(vec!["0 copy in".to_string()])
            );
            said(&mut session);
            assert_eq!(
                (session.copy_data(0, b"one"), session.copy_data(0, b"two")),
                (Ok(()), Ok(()))
            );
            assert_eq!(session.copy_data(1, b"one"), Err(Refusal::NoCopy));
            match ends_with {
                "done" => assert_eq!(session.copy_done(0, at(0)), Ok(())),
                "fail" => assert_eq!(session.copy_fail(0, "enough", at(0)), Ok(())),
                _ => {}
            }
            assert_eq!(
                feed(&mut session, &[&wire(server)]),
                Ok(vec![last.to_string()])
            );
            assert_eq!(said(&mut session), says);
            assert_eq!(session.copy_data(0, b"one"), Err(Refusal::NoCopy));
        }
    }

    #[test]
    fn what_a_server_may_not_say() {
        for (asked, server, why) in [
            ("", "Z:I", "the server sends an answer nobody waits for"),
            ("", "D:7", "the server sends an answer nobody waits for"),
            ("", "E:57P01", "the server ends the session: no (57P01)"),
            ("", "F:57P01", "the server ends the session: no (57P01)"),
            (
                "",
                "x",
                "not PostgreSQL's protocol: an unknown kind of message",
            ),
            (
                "",
                "W:abc",
                "not PostgreSQL's protocol: an unknown kind of message",
            ),
            (
                "",
                "S:client_encoding=LATIN1",
                "the server sends another client_encoding than UTF8",
            ),
            (
                "",
                "S:integer_datetimes=off",
                "the server sends times as floats",
            ),
            ("", "R:0", "the server sends an answer nobody waits for"),
            (
                "q select 1",
                "F:57P01",
                "the server ends the session: no (57P01)",
            ),
            (
                "q select 1",
                "Z:I",
                "the server sends the end of an answer before all of it",
            ),
            (
                "q select 1",
                "1 t: T:n=23,m=23 Z:I 2 D:7",
                "not PostgreSQL's protocol: a row",
            ),
            (
                "q select 1",
                "1 t: n Z:I 2 D:7",
                "the server sends a row without columns",
            ),
            (
                "q select 1",
                "t:",
                "the server sends a strange answer to a statement",
            ),
            (
                "q select 1",
                "3",
                "the server sends a strange answer to a statement",
            ),
            ("q select 1", "1 t: T:a=23,b=23,c=23", "3 columns, over 2"),
            (
                "q select 1",
                "1 t: T:n=23 Z:x",
                "not PostgreSQL's protocol: a transaction's state",
            ),
            (
                "q select 1",
                "1 t: T:n=23 Z:I D:7",
                "the server sends a strange answer to a query",
            ),
            (
                "q select 1",
                "1 t: T:n=23 Z:I 2 G",
                "the server sends a strange answer to a query",
            ),
            (
                "q select 1",
                "1 t: T:n=23 Z:I 2 Z:I",
                "the server sends the end of an answer before all of it",
            ),
            (
                "q select 1",
                "1 t: T:n=23 Z:I 2 C:A C:A",
                "the server sends a strange answer to a query",
            ),
            (
                "q select 1",
                "1 t: T:n=23 Z:I 2 E:22012 D:7",
                "the server sends an answer behind an error",
            ),
            (
                "q select 1",
                "1 t: T:n=23 Z:I 2 E:22012 E:22012",
                "the server sends an answer behind an error",
            ),
            (
                "s select 1",
                "D:7",
                "the server sends a row without columns",
            ),
            (
                "s select 1",
                "2",
                "the server sends a strange answer to a query",
            ),
            (
                "s select 1",
                "H D:7",
                "the server sends a strange answer to a copy",
            ),
            (
                "s select 1",
                "d:x",
                "the server sends a strange answer to a query",
            ),
            (
                "i copy c from stdin",
                "2",
                "the server sends a strange answer to a copy",
            ),
            (
                "i copy c from stdin",
                "1 2 G G",
                "the server sends a strange answer to a copy",
            ),
            (
                "x copy c to stdout",
                "1 2 H c d:x",
                "the server sends a strange answer to a copy",
            ),
        ] {
            let input = wire(server);
            for pieces in cuts(&input) {
                let limits = Limits {
                    columns: 2,
                    ..Limits::default()
                };
                let mut session = ready(limits);
                if !asked.is_empty() {
                    ask(&mut session, asked);
                }
                let error = feed(&mut session, &pieces).expect_err(server);
                assert_eq!(error.to_string(), why, "{asked} {server}");
                // And it stays over.
                assert_eq!(session.expire(at(1000)), Err(error.clone()));
                assert_eq!(session.poll_event(&mut &wire("Z:I")[..], at(0)), Err(error));
                assert_eq!(
                    session.query(Query::new("select 1"), at(0)),
                    Err(Refusal::NotReady)
                );
                assert_eq!(session.copy_data(0, b""), Err(Refusal::NoCopy));
                assert_eq!(session.unanswered().count(), usize::from(!asked.is_empty()));
            }
        }
    }

    /// Nothing is kept of what is too long, or of lengths that are none.
    #[test]
    fn lengths() {
        let limits = Limits {
            message: 100_000,
            ..Limits::default()
        };
        let head = |tag: u8, len: u32| [&[tag][..], &len.to_be_bytes()].concat();
        let malformed = Error::Malformed("a length");
        let too_long = |size, limit| Error::TooLong { size, limit };
        for (input, error) in [
            (head(b'D', 3), malformed.clone()),
            (head(b'D', 0), malformed.clone()),
            (head(b'D', u32::MAX), malformed),
            (
                head(b'D', i32::MAX.unsigned_abs()),
                too_long(i32::MAX.unsigned_abs() as usize, 100_000),
            ),
            (head(b'D', 100_001), too_long(100_001, 100_000)),
            (head(b'Z', 30_001), too_long(30_001, 30_000)),
            (head(b'T', 100_001), too_long(100_001, 100_000)),
        ] {
            for pieces in cuts(&input) {
                let mut session = ready(limits);
                assert_eq!(feed(&mut session, &pieces), Err(error.clone()));
                assert_eq!(session.input.capacity(), 0);
            }
        }
        // Before the session is ready, everything is short.
        let mut session = Session::new(&Settings::new("ada"), limits, at(0)).expect("a session");
        assert_eq!(
            feed(&mut session, &[&head(b'E', 30_001)]),
            Err(too_long(30_001, 30_000))
        );
        // What is announced is not yet made room for.
        let mut session = ready(Limits::default());
        let announced = head(b'N', 16 * 1024 * 1024);
        assert_eq!(feed(&mut session, &[&announced]), Ok(vec![]));
        assert!(session.input.capacity() <= 64 * 1024);
        for _ in 0..100 {
            assert_eq!(feed(&mut session, &[&[b'x'; 1000]]), Ok(vec![]));
        }
        assert!(
            session.input.capacity() <= 400_000,
            "{}",
            session.input.capacity()
        );
    }

    /// The server's half of SCRAM-SHA-256, with a password that it takes to be `password`.
    fn scram(session: &mut Session, password: &str, wrong_end: bool) -> Result<Vec<String>, Error> {
        use hmac::{Hmac, KeyInit, Mac};
        use sha2::{Digest, Sha256};
        let hash = |key: &[u8], text: &[u8]| -> Vec<u8> {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
            mac.update(text);
            mac.finalize().into_bytes().to_vec()
        };
        session.sent(session.output().len());
        feed(session, &[&wire("R:10,SCRAM-SHA-256-PLUS|SCRAM-SHA-256||")])?;
        let text = |session: &mut Session, from| {
            let text = String::from_utf8(session.output()[from..].to_vec()).expect("text");
            session.sent(session.output().len());
            text
        };
        let first = text(session, 5 + "SCRAM-SHA-256".len() + 1 + 4);
        let bare = first
            .strip_prefix("n,,")
            .expect("no channel binding")
            .to_string();
        let nonce = format!("{}more", bare.strip_prefix("n=,r=").expect("a nonce"));
        let salt = b"salt";
        let challenge = format!("r={nonce},s={},i=2", STANDARD.encode(salt));
        feed(
            session,
            &[&message(
                b'R',
                &[&[0, 0, 0, 11], challenge.as_bytes()].concat(),
            )],
        )?;
        let last = text(session, 5);
        let (without_proof, proof) = last.rsplit_once(",p=").expect("a proof");
        let one = hash(password.as_bytes(), &[salt, &[0, 0, 0, 1][..]].concat());
        let two = hash(password.as_bytes(), &one);
        let salted: Vec<u8> = one.iter().zip(&two).map(|(a, b)| a ^ b).collect();
        let all = format!("{bare},{challenge},{without_proof}");
        let client_key = hash(&salted, b"Client Key");
        let signature = hash(&Sha256::digest(&client_key), all.as_bytes());
        let want: Vec<u8> = client_key
            .iter()
            .zip(&signature)
            .map(|(a, b)| a ^ b)
            .collect();
        if proof != STANDARD.encode(want) {
            return feed(session, &[&wire("F:28P01")]);
        }
        let mut end = hash(&hash(&salted, b"Server Key"), all.as_bytes());
        end[0] ^= u8::from(wrong_end);
        let end = format!("v={}", STANDARD.encode(end));
        feed(
            session,
            &[&message(b'R', &[&[0, 0, 0, 12], end.as_bytes()].concat())],
        )?;
        feed(session, &[&wire("R:0 K Z:I")])
    }

    fn login(password: Option<&str>, cleartext: bool) -> Session {
        let mut settings = Settings::new("ada");
        settings.password = password.map(|text| Secret::new(text.into()));
        settings.cleartext = cleartext;
        settings.parameters = vec![
            ("application_name".into(), "x".into()),
            ("DateStyle".into(), "German".into()),
        ];
        let session = Session::new(&settings, Limits::default(), at(0)).expect("a session");
        let greeting =
            b"\0\x03\0\0user\0ada\0client_encoding\0UTF8\0DateStyle\0ISO\0application_name\0x\0\0";
        assert_eq!(session.output()[4..], greeting[..]);
        session
    }

    #[test]
    fn logins() {
        let ready = Ok(vec!["ready".to_string()]);
        assert_eq!(scram(&mut login(Some("pw"), false), "pw", false), ready);
        let error = scram(&mut login(Some("pw"), false), "other", false).expect_err("wrong");
        assert_eq!(
            error.to_string(),
            "the server refuses the login: no (28P01)"
        );
        // Somebody who does not know the password is no server of ours.
        let error = scram(&mut login(Some("pw"), false), "pw", true).expect_err("wrong");
        assert_eq!(
            error.to_string(),
            "the proof of the password has failed: SCRAM verification error"
        );
        for (password, cleartext, server, says, want) in [
            (Some("pw"), false, "R:0 Z:I", "", Ok("ready")),
            (Some("pw"), true, "R:3 R:0 Z:I", "p:pw", Ok("ready")),
            (Some("pw"), false, "R:3", "", Err("clear text")),
            (None, true, "R:3", "", Err("there is none")),
            // md5(md5(pw ada) salt), as of the server's own documentation.
            (Some("pw"), false, "R:5,salt R:0 Z:I", "p:md5", Ok("ready")),
            (None, false, "R:5,salt", "", Err("there is none")),
            (
                None,
                false,
                "R:10,SCRAM-SHA-256||",
                "",
                Err("there is none"),
            ),
            (
                Some("pw"),
                false,
                "R:10,SCRAM-SHA-512|X||",
                "",
                Err("SCRAM-SHA-512, X, which is not supported"),
            ),
            (
                Some("pw"),
                false,
                "R:10,SCRAM-SHA-256|| R:0",
                "",
                Err("has not proved"),
            ),
            (
                Some("pw"),
                false,
                "R:10,SCRAM-SHA-256|| R:11,r=x,s=c2FsdA==,i=2",
                "",
                Err("invalid nonce"),
            ),
            (
                Some("pw"),
                false,
                "R:10,SCRAM-SHA-256|| R:11,r=x,s=c2FsdA==,i=99999",
                "",
                Err("99999 rounds"),
            ),
            (
                Some("pw"),
                false,
                "R:10,SCRAM-SHA-256|| R:11,r=x",
                "",
                Err("a proof"),
            ),
            (
                Some("pw"),
                false,
                "R:10,SCRAM-SHA-256|| R:12,v=x",
                "",
                Err("has failed"),
            ),
            (Some("pw"), false, "R:11,r=x", "", Err("strange")),
            (Some("pw"), true, "R:3 R:3", "p:pw", Err("strange")),
            (Some("pw"), true, "R:7", "", Err("GSSAPI")),
            (None, false, "R:4", "", Err("a message")),
            (None, false, "Z:I", "", Err("strange")),
            (None, false, "R:0 D:7", "", Err("strange")),
            (
                None,
                false,
                "F:3D000",
                "",
                Err("refuses the login: no (3D000)"),
            ),
            (
                None,
                false,
                "R:0 F:53300",
                "",
                Err("refuses the login: no (53300)"),
            ),
        ] {
            for pieces in cuts(&wire(server)) {
                let mut session = login(password, cleartext);
                session.sent(session.output().len());
                let got = feed(&mut session, &pieces).map(|events| events.join(" "));
                match (got, want) {
                    (Ok(got), Ok(want)) => {
                        assert_eq!(got, want);
                        assert!(said(&mut session).starts_with(says), "{server}");
                    }
                    (Err(error), Err(want)) => {
                        assert!(error.to_string().contains(want), "{server}: {error}");
                        assert!(!session.is_ready());
                    }
                    (got, want) => panic!("{server}: {got:?} instead of {want:?}"),
                }
                assert!(!format!("{session:?}").contains("pw"));
            }
        }
    }

    #[test]
    fn what_is_not_asked() {
        let limits = Limits {
            pipeline: 2,
            message: 100,
            ..Limits::default()
        };
        let mut session = Session::new(&Settings::new("ada"), limits, at(0)).expect("a session");
        assert_eq!(session.simple("select", at(0)), Err(Refusal::NotReady));
        let mut session = ready(limits);
        let query = |sql: &str| Query::new(sql);
        assert_eq!(session.query(query("a\0b"), at(0)), Err(Refusal::Nul));
        assert_eq!(
            session.query(query(&"x".repeat(101)), at(0)),
            Err(Refusal::TooLong)
        );
        for sql in [
            "copy",
            " \n;COPY c",
            "-- a\ncopy c",
            "/* /* */ */copy c",
            "--\r/**/Copy(select 1)",
        ] {
            assert_eq!(
                session.query(query(sql), at(0)),
                Err(Refusal::Copy),
                "{sql}"
            );
        }
        for sql in [
            "copyist",
            "copy_x",
            "-- copy",
            "/* copy",
            "(copy c",
            "cop",
            "é",
            "/**/x copy",
            "",
        ] {
            assert_eq!(session.copy_in(sql, at(0)), Err(Refusal::Copy), "{sql}");
        }
        assert_eq!(session.query(query("a"), at(0)), Ok(0));
        assert_eq!(session.query(query("a"), at(0)), Ok(1));
        assert_eq!(session.query(query("a"), at(0)), Err(Refusal::Full));
        let limits = Limits {
            output: 100,
            ..Limits::default()
        };
        let mut session = ready(limits);
        assert_eq!(session.simple("x".repeat(200), at(0)), Ok(0));
        assert_eq!(session.simple("x", at(0)), Err(Refusal::Full));
        session.sent(1000);
        // What waits behind it counts, too.
        assert_eq!(session.simple("x".repeat(200), at(0)), Ok(1));
        assert_eq!(session.simple("x", at(0)), Err(Refusal::Full));
        session.close();
        assert_eq!(said(&mut session), "X");
        assert_eq!(
            session.poll_event(&mut &wire("Z:I")[..], at(0)),
            Err(Error::Closed)
        );
        assert_eq!(session.unanswered().collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn silence() {
        let limits = Limits::default();
        let mut session = Session::new(&Settings::new("ada"), limits, at(5)).expect("a session");
        assert_eq!(session.next_deadline(), Some(at(15)));
        assert_eq!(session.expire(at(14)), Ok(()));
        let limit = limits.startup;
        assert_eq!(session.expire(at(15)), Err(Error::Silent { limit }));
        assert_eq!(session.next_deadline(), None);

        let mut session = ready(limits);
        assert_eq!(session.next_deadline(), None);
        assert_eq!(session.query(Query::new("a"), at(10)), Ok(0));
        assert_eq!(session.next_deadline(), Some(at(70)));
        // What comes of its answer moves the deadline; a notice does not.
        assert!(
            session
                .poll_event(&mut &wire("1 t: n Z:I 2")[..], at(20))
                .is_ok()
        );
        assert_eq!(session.next_deadline(), Some(at(80)));
        assert!(
            session
                .poll_event(&mut &wire("N:00000")[..], at(30))
                .is_ok()
        );
        assert_eq!(session.next_deadline(), Some(at(80)));
        let limit = limits.reply;
        assert_eq!(session.expire(at(80)), Err(Error::Silent { limit }));
    }

    #[test]
    fn clean() {
        let mut session = ready(Limits::default());
        assert!(session.is_clean());
        for (tag, state, clean) in [
            ("UPDATE_1", "I", true),
            ("BEGIN", "T", false),
            ("COMMIT", "I", true),
            ("LISTEN", "I", false),
            ("DISCARD_ALL", "I", true),
            ("SET", "I", false),
            ("SELECT_1", "I", false),
            ("DISCARD_ALL", "E", false),
            ("ROLLBACK", "I", true),
            // Without rows: CREATE TABLE AS, SELECT INTO.
            ("SELECT_1", "I", false),
            ("DISCARD_ALL", "I", true),
            ("DO", "I", false),
            ("DISCARD_ALL", "I", true),
        ] {
            ask(&mut session, "s x");
            assert!(!session.is_clean());
            feed(&mut session, &[&wire(&format!("C:{tag} Z:{state}"))]).expect("done");
            assert_eq!(session.is_clean(), clean, "{tag}");
        }
        for (script, clean) in [
            ("T:a=23 C:SELECT_1 Z:I", true),
            // Said when all is done.
            ("T:a=23 C:SELECT_1 S:TimeZone=UTC Z:I", false),
            ("C:DISCARD_ALL S:TimeZone=UTC Z:I", true),
            ("E:22012 Z:I", false),
        ] {
            ask(&mut session, "s x");
            feed(&mut session, &[&wire(script)]).expect("done");
            assert_eq!(session.is_clean(), clean, "{script}");
        }
    }
}
