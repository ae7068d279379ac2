//! Floor 2. Asking an upstream: a request of our own, and its answer in a later callback.
//!
//! ```text
//! Ctx::fetch ─► [queue] ─► connection ─► request ─► head of the answer ─► then(Ok(Fetched)) ─► its body
//!                  │           │            │                 (once)
//!                  └───────────┴────────────┴─ failed, and not tried again ─► then(Err(FetchError))
//! ```
//! A fetch is an exchange seen from the other side: its answer's body is an [`Incoming`] like a
//! request's, and a request's body may be sent on as it comes, both under back-pressure.

use super::ctx::{Core, Ctx, Job};
use super::group::{Group, Tried};
use super::named::NO_ADDRESS;
use super::outbox::{Command, Outbox};
use super::response::Responder;
use super::stream::{Aborted, Incoming, Open};
use crate::base::clock::Instant;
use crate::base::id::{FetchId, StreamRef};
use crate::base::wheel::TimerId as WheelId;
use crate::proto::h1::answer::FieldBlock;
use crate::proto::h1::error::{ClientError, Cut};
use crate::proto::h1::head::Framing;
use crate::proto::h1::response::{Asked, ResponseFraming, ResponseHead};
use crate::proto::http::{Fields, is_token, is_value_byte, trim_ows};
use crate::upstream::pool::Ticket;
use crate::upstream::retry::{self, Attempt, Failure, Replay, Sent};
use bytes::Bytes;
use http::{Method, StatusCode};
use slab::Slab;
use smallvec::SmallVec;
use std::collections::HashSet;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// A request to an upstream.
///
/// ```
/// use loopwright::{App, Fetch, Upstream};
///
/// let mut app: App = App::new();
/// app.upstream("weather", Upstream::new(["http://127.0.0.1:9000"]));
/// app.get("/today", |cx, _, res| {
///     let res = res.defer();
///     cx.fetch("weather", Fetch::get("/forecast?days=1").header("accept", "text/plain"), move |cx, answer| {
///         match answer {
///             Ok(answer) => answer.collect(cx, move |_, body| match body {
///                 Ok(body) => res.bytes(body),
///                 Err(why) => res.status(502).text(why.to_string()),
///             }),
///             Err(why) => res.status(why.status().as_u16()).text(why.to_string()),
///         }
///     });
/// });
/// ```
pub struct Fetch {
    pub(crate) method: Method,
    /// Request line and field lines.
    head: Vec<u8>,
    /// So much of it is the request line.
    line: usize,
    has_host: bool,
    /// The head has its end, and all that frames the message.
    ready: bool,
    pub(crate) framing: Framing,
    pub(crate) body: Outgoing,
    /// The answer that waits for it.
    pub(crate) answer: Option<StreamRef>,
    /// What servers are chosen by, where the upstream's `balance` is a hash.
    pub(crate) key: Option<u64>,
    /// The server that was chosen for this client before.
    pub(crate) sticky: Option<[u8; 8]>,
    /// It asks for another protocol (RFC 9110 §7.8).
    pub(crate) upgrades: bool,
    /// The body is sent when the upstream says so (RFC 9110 §10.1.1).
    pub(crate) expects_continue: bool,
    /// It ends when the client of its answer closes its sending side: that has left, most likely.
    pub(crate) aborts_on_close: bool,
    /// What follows a streamed body is sent on, too.
    pub(crate) sends_trailers: bool,
    pub(crate) peer: Option<crate::net::Peer>,
    pub(crate) fault: Option<&'static str>,
}

/// A request's body on its way to an upstream.
pub(crate) enum Outgoing {
    Nothing,
    Whole(Bytes),
    Stream(Incoming),
}

macro_rules! methods {
    ($($name:ident $method:ident)*) => {$(
        #[doc = concat!("A ", stringify!($method), " of a path and query, as they are sent.")]
        pub fn $name(target: impl AsRef<[u8]>) -> Fetch {
            Fetch::new(Method::$method, target)
        }
    )*};
}

impl Fetch {
    methods! { get GET head HEAD post POST put PUT patch PATCH delete DELETE }

    /// Any method. `target` is what stands in the request line: a path with its query, percent-encoded.
    /// One that cannot stand there is told in the callback, as [`FetchError::Request`].
    pub fn new(method: Method, target: impl AsRef<[u8]>) -> Fetch {
        let target = target.as_ref();
        let is_printable = target.iter().all(|b| (0x21..0x7f).contains(b));
        let is_target = is_printable && matches!(target.first(), Some(b'/' | b'*'));
        let head = [method.as_str().as_bytes(), b" ", target, b" HTTP/1.1\r\n"].concat();
        let wants_body = [Method::POST, Method::PUT, Method::PATCH].contains(&method);
        Fetch {
            framing: match wants_body {
                true => Framing::Length(0),
                false => Framing::None,
            },
            fault: (!is_target).then_some("its target is no path"),
            ..Fetch::of(method, head)
        }
    }

    /// One whose head has been written, to its end; but for `host`, if the server's own is meant.
    pub(crate) fn ready(method: Method, head: Vec<u8>, framing: Framing, upgrades: bool) -> Fetch {
        let line = memchr::memchr(b'\n', &head).map_or(0, |at| at + 1);
        Fetch {
            has_host: head[line..].starts_with(b"host: "),
            line,
            ready: true,
            framing,
            upgrades,
            ..Fetch::of(method, head)
        }
    }

    fn of(method: Method, head: Vec<u8>) -> Fetch {
        Fetch {
            line: head.len(),
            framing: Framing::None,
            method,
            head,
            has_host: false,
            ready: false,
            body: Outgoing::Nothing,
            answer: None,
            key: None,
            sticky: None,
            upgrades: false,
            expects_continue: false,
            aborts_on_close: false,
            sends_trailers: true,
            peer: None,
            fault: None,
        }
    }

    /// Adds a field. `content-length`, `transfer-encoding` and `connection` are written by the loop; `host`
    /// is the server's own unless it is set here.
    pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Fetch {
        let (name, value) = (name.as_ref(), trim_ows(value.as_ref()));
        let frames = [
            "content-length",
            "transfer-encoding",
            "connection",
            "upgrade",
        ];
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        if !is_token(name) || !value.iter().all(|&b| is_value_byte(b)) {
            self.fault = Some("one of its fields is none");
        } else if frames.into_iter().any(is) {
            self.fault = Some("one of its fields is the loop's to write");
        } else {
            self.has_host |= is("host");
            self.put_field(name, value);
        }
        self
    }

    pub(crate) fn put_field(&mut self, name: &[u8], value: &[u8]) {
        for part in [name, b": ", value, b"\r\n"] {
            self.head.extend_from_slice(part);
        }
    }

    /// Sends this body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Fetch {
        let body = body.into();
        self.set_framing(Framing::Length(body.len() as u64));
        self.body = Outgoing::Whole(body);
        self
    }

    /// Sends a body on as it arrives, only as fast as the upstream takes it; `length`, if it is known.
    ///
    /// ```
    /// use loopwright::{App, Fetch, Upstream};
    /// let mut app: App = App::new();
    /// app.upstream("store", Upstream::new(["http://127.0.0.1:9000"]));
    /// app.stream("PUT", "/photos/{name}", |cx, req, res, body| {
    ///     let length = req.content_length();
    ///     let put = Fetch::put(req.path()).stream(body, length);
    ///     let res = res.defer();
    ///     cx.fetch("store", put.answering(&res), move |_, answer| match answer {
    ///         Ok(answer) => res.status(answer.status().as_u16()).empty(),
    ///         Err(why) => res.status(why.status().as_u16()).text(why.to_string()),
    ///     });
    /// });
    /// ```
    pub fn stream(mut self, body: Incoming, length: Option<u64>) -> Fetch {
        self.set_framing(length.map_or(Framing::Chunked, Framing::Length));
        self.body = Outgoing::Stream(body);
        self
    }

    /// A head that is ready has said so already.
    fn set_framing(&mut self, framing: Framing) {
        if !self.ready {
            self.framing = framing;
        }
    }

    pub(crate) fn asked(&self) -> Asked {
        Asked::with(&self.method, self.upgrades)
    }

    /// Writes its head, to a server that is called `host`.
    pub(crate) fn write_head(&self, host: &[u8], out: &mut Vec<u8>) {
        let (line, fields) = self.head.split_at(self.line);
        out.extend_from_slice(line);
        if !self.has_host {
            for part in [b"host: ", host, b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
        out.extend_from_slice(fields);
        if self.ready {
            return;
        }
        match self.framing {
            Framing::None => {}
            Framing::Length(length) => {
                out.extend_from_slice(b"content-length: ");
                out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Nobody else waits for it than this answer: it is cancelled when that is over, and how it went is
    /// in that request's log line ([`crate::Done::upstream`]).
    pub fn answering(mut self, answer: &impl Open) -> Fetch {
        self.answer = Some(answer.exchange());
        self
    }

    /// What the server is chosen by, where the upstream chooses by a hash.
    pub fn key(mut self, key: &[u8]) -> Fetch {
        self.key = Some(crate::upstream::balance::key(key));
        self
    }
}

/// Told once: an answer's head, or why there is none.
pub(crate) type Then<S> = Box<dyn for<'a> FnOnce(&mut Ctx<'_, S>, Result<Fetched<'a>, FetchError>)>;

/// Where a fetch is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// On its way to the loop.
    Asked,
    /// Nothing has been heard yet, since then, of the names of its servers; something must be by then.
    Resolving { since: Instant, by: Instant },
    /// Every server has as many connections as it may.
    Queued(Ticket),
    /// A server is asked, or two.
    Trying,
    /// The head of its answer has been told.
    Answered(StreamRef),
}

/// One try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Try {
    /// A connection is being made for it: the number of the dial.
    Dialling(u32),
    /// On this connection.
    Sent(StreamRef),
}

/// How far a try has come that has failed.
#[derive(Clone, Copy)]
pub(crate) struct Reached {
    /// So much of the request was written.
    pub(crate) sent: Sent,
    /// Something of an answer has come.
    pub(crate) seen: bool,
    /// The connection had served before.
    pub(crate) reused: bool,
}

impl Reached {
    /// Not even a connection.
    pub(crate) const NOTHING: Reached = Reached {
        sent: Sent::Nothing,
        seen: false,
        reused: false,
    };
}

/// A fetch under way.
pub(crate) struct Fetching<S> {
    generation: u32,
    /// The upstream's number, once it is known.
    pub(crate) group: usize,
    pub(crate) name: Rc<str>,
    pub(crate) fetch: Fetch,
    pub(crate) then: Option<Then<S>>,
    pub(crate) stage: Stage,
    /// Under way. Two, if it is hedged.
    pub(crate) tries: SmallVec<[Try; 2]>,
    /// It has been.
    pub(crate) hedged: bool,
    /// Tries that came to no connection.
    pub(crate) unmade: u32,
    /// When a second server is asked.
    pub(crate) hedge_at: Option<Instant>,
    /// When its body is sent, whether or not the server has said that it wants it.
    pub(crate) body_at: Option<Instant>,
    /// When there must be an answer.
    pub(crate) deadline: Option<Instant>,
    pub(crate) timer: Option<WheelId>,
    pub(crate) timings: Timings,
    /// It was asked for.
    pub(crate) begun: Instant,
    /// Not to be tried again.
    pub(crate) tried: Tried,
    /// A connection that had been idle turned out to be closed: the next try is on one that is new.
    pub(crate) was_stale: bool,
    /// What has come of a streamed body, for another try.
    pub(crate) replay: Replay,
    /// The request whose body is sent on, until all of it has come.
    pub(crate) upload: Option<StreamRef>,
    /// What follows it.
    pub(crate) trailers: FieldBlock,
    /// The answer's are for us alone.
    pub(crate) drops_trailers: bool,
    /// No other server will do: a look at its health.
    pub(crate) only: Option<usize>,
    /// It counts among its upstream's requests, until it is over.
    pub(crate) entered: bool,
    /// And among those that were sent more than once.
    pub(crate) again: bool,
}

impl<S> Fetching<S> {
    /// What the rules of trying again want to know.
    pub(crate) fn attempt(&self, failure: Failure, sent: Sent, answered: bool) -> Attempt {
        Attempt {
            idempotent: self.fetch.method.is_idempotent() && !self.fetch.upgrades,
            sent,
            answered,
            body: match &self.fetch.body {
                Outgoing::Nothing => retry::Body::None,
                Outgoing::Whole(_) => retry::Body::Replayable,
                Outgoing::Stream(_) => self.replay.body(),
            },
            failure,
            tries: (self.timings.tries + self.unmade).max(1),
            deadline: self.deadline,
        }
    }

    /// Whom it asks, or who has answered, on a connection that has served before or not.
    pub(crate) fn tell_server(&mut self, upstream: &Group, server: usize, reused: bool) {
        let number = self.fetch.sticky.and_then(|tag| upstream.numbered(tag));
        self.timings.kept_to = number == Some(server);
        self.timings.server = upstream.name_of(server);
        self.timings.reused = reused;
    }

    /// Asking two servers does no harm, and its body is at hand.
    pub(crate) fn may_be_hedged(&self) -> bool {
        let is_at_hand = !matches!(self.fetch.body, Outgoing::Stream(_));
        is_at_hand && !self.fetch.upgrades && self.fetch.method.is_idempotent()
    }

    /// Where its body goes.
    pub(crate) fn sent_on(&self) -> Option<StreamRef> {
        let sent = |attempt: &Try| match attempt {
            Try::Sent(stream) => Some(*stream),
            Try::Dialling(_) => None,
        };
        self.tries.iter().find_map(sent)
    }
}

/// The fetches under way.
pub(crate) struct Fetches<S> {
    slab: Slab<Fetching<S>>,
    generations: u32,
    /// The name of a server that is not known yet: of none is memory taken for each fetch.
    nobody: Rc<str>,
}

impl<S> Fetches<S> {
    pub(crate) fn new() -> Fetches<S> {
        Fetches {
            slab: Slab::new(),
            generations: 0,
            nobody: "".into(),
        }
    }

    /// The groups that they are of.
    pub(crate) fn groups(&self) -> HashSet<usize> {
        self.slab
            .iter()
            .map(|(_, fetching)| fetching.group)
            .collect()
    }

    /// Those that wait for a connection.
    pub(crate) fn queued(&self) -> Vec<FetchId> {
        let queued = |fetching: &Fetching<S>| matches!(fetching.stage, Stage::Queued(_));
        let all = self.slab.iter().filter(|(_, fetching)| queued(fetching));
        all.map(|(slot, fetching)| FetchId {
            slot: slot as u32,
            generation: fetching.generation,
        })
        .collect()
    }

    pub(crate) fn insert(
        &mut self,
        name: Rc<str>,
        fetch: Fetch,
        only: Option<(usize, usize)>,
        then: Then<S>,
        now: Instant,
    ) -> FetchId {
        self.generations = self.generations.checked_add(1).unwrap_or(1);
        let generation = self.generations;
        let slot = self.slab.insert(Fetching {
            generation,
            group: only.map_or(0, |(group, _)| group),
            name,
            fetch,
            then: Some(then),
            stage: Stage::Asked,
            tries: SmallVec::new(),
            hedged: false,
            unmade: 0,
            hedge_at: None,
            body_at: None,
            deadline: None,
            timer: None,
            timings: Timings::of(&self.nobody),
            begun: now,
            tried: Tried::default(),
            was_stale: false,
            replay: Replay::new(0),
            upload: None,
            trailers: FieldBlock::default(),
            drops_trailers: false,
            only: only.map(|(_, server)| server),
            entered: false,
            again: false,
        });
        let slot = slot as u32;
        FetchId { slot, generation }
    }

    pub(crate) fn get_mut(&mut self, id: FetchId) -> Option<&mut Fetching<S>> {
        self.slab
            .get_mut(id.slot as usize)
            .filter(|fetching| fetching.generation == id.generation)
    }

    pub(crate) fn remove(&mut self, id: FetchId) -> Option<Fetching<S>> {
        self.get_mut(id)?;
        self.slab.try_remove(id.slot as usize)
    }

    /// How many are under way.
    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }
}

/// An upstream's answer: its head, and its body on the way.
pub struct Fetched<'a> {
    pub(crate) head: &'a ResponseHead<'a>,
    pub(crate) body: Incoming,
    pub(crate) timings: &'a Timings,
}

impl<'a> Fetched<'a> {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// The first field of this name (any case), if it is valid UTF-8.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let value = self.head.fields.get(name)?;
        std::str::from_utf8(value).ok()
    }

    /// Every field line, as sent.
    pub fn headers(&self) -> Fields<'a> {
        self.head.fields
    }

    /// How long the body is, where the head says so. For an answer to `HEAD`: how long it would be.
    pub fn length(&self) -> Option<u64> {
        match self.head.framing {
            ResponseFraming::Length(length) => Some(length),
            ResponseFraming::None => {
                let digits = self.header("content-length")?;
                digits.parse().ok()
            }
            ResponseFraming::Chunked | ResponseFraming::UntilClose => None,
        }
    }

    /// How it went so far.
    pub fn timings(&self) -> &Timings {
        self.timings
    }

    /// The body, to be taken as it comes.
    pub fn into_body(self) -> Incoming {
        self.body
    }

    /// Collects the whole body, up to the upstream's `limits.collect`, and calls `then`.
    pub fn collect<S: 'static>(
        self,
        cx: &mut Ctx<'_, S>,
        then: impl FnOnce(&mut Ctx<'_, S>, Result<Vec<u8>, Aborted>) + 'static,
    ) {
        self.body.collect(cx, then);
    }

    /// Sends the body on to a client, read only as fast as it is taken; status and fields are `res`'s.
    pub fn pipe(self, res: Responder) {
        self.pipe_ahead(res, 0);
    }

    /// The same, but so much of it is taken ahead of a slow client, in bytes, within `limits.output`: the server is
    /// free sooner. 0 is `limits.high_water`.
    pub fn pipe_ahead(self, res: Responder, ahead: usize) {
        let to = res.begin(self.length(), ahead);
        self.body.pipe(to);
    }

    /// After status 101: both connections pass each other's bytes on from here, until both sides have closed.
    /// `res` is answered 101 with its fields.
    pub fn tunnel(self, res: Responder) {
        let mut body = self.body;
        let (from, (to, fields)) = (body.take_source(), res.into_parts());
        body.outbox().push(Command::Tunnel { from, to, fields });
    }
}

/// Where a fetch's time went, and where it went to. What has not happened took no time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// The upstream's name.
    pub upstream: Rc<str>,
    /// The server of the last try, as it was given; empty if none was chosen.
    pub server: Rc<str>,
    /// Waited for a free connection.
    pub queue: Duration,
    /// Waited for the names of its servers, of which nothing had been heard. They are looked up ahead of time, so this
    /// is nothing but in the first moments.
    pub resolve: Duration,
    /// Made the connection.
    pub connect: Duration,
    /// From the request's first byte to the answer's head.
    pub first_byte: Duration,
    /// All of it, up to the end of the answer.
    pub total: Duration,
    /// The connection had served before.
    pub reused: bool,
    /// It is the server that the client's cookie named.
    pub kept_to: bool,
    /// How many times it was sent.
    pub tries: u32,
    /// The status the upstream answered; 0 if it did not.
    pub status: u16,
    /// Why it failed.
    pub error: Option<FetchError>,
}

impl Timings {
    /// Nothing has happened yet, and nobody is asked.
    fn of(nobody: &Rc<str>) -> Timings {
        Timings {
            upstream: nobody.clone(),
            server: nobody.clone(),
            queue: Duration::ZERO,
            resolve: Duration::ZERO,
            connect: Duration::ZERO,
            first_byte: Duration::ZERO,
            total: Duration::ZERO,
            reused: false,
            kept_to: false,
            tries: 0,
            status: 0,
            error: None,
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchError {
    /// There is no upstream of this name.
    Unknown(Box<str>),
    /// The request cannot be sent as it is.
    Request(&'static str),
    /// None of the servers may be used: why.
    NoServer(&'static str),
    /// A limit of the upstream: which setting, and its value.
    Full {
        /// As `limits.pending`.
        setting: &'static str,
        /// Its value.
        limit: usize,
    },
    /// No connection became free within `pool.queue_wait`.
    QueueTimeout(Duration),
    /// The connection was refused, or could not be made.
    Connect(Box<str>),
    /// Not connected within `timeouts.connect`.
    ConnectTimeout(Duration),
    /// The server closed the connection, or it broke, before the answer's head was there.
    Closed(Box<str>),
    /// No head of an answer within `timeouts.first_byte`.
    FirstByteTimeout(Duration),
    /// It does not take the request: nothing of it for `timeouts.read`.
    WriteTimeout(Duration),
    /// Not answered within `timeouts.total`.
    Deadline(Duration),
    /// What came is not an answer that can be passed on.
    Protocol(ClientError),
}

impl FetchError {
    /// What a gateway answers its client (RFC 9110 §15.6.3 to §15.6.5): 502, 503 or 504.
    pub fn status(&self) -> StatusCode {
        match self {
            FetchError::Unknown(_) | FetchError::Request(_) => StatusCode::INTERNAL_SERVER_ERROR,
            FetchError::NoServer(_) | FetchError::Full { .. } | FetchError::QueueTimeout(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            FetchError::ConnectTimeout(_)
            | FetchError::FirstByteTimeout(_)
            | FetchError::WriteTimeout(_)
            | FetchError::Deadline(_) => StatusCode::GATEWAY_TIMEOUT,
            FetchError::Protocol(error) => error.status(),
            FetchError::Connect(_) | FetchError::Closed(_) => StatusCode::BAD_GATEWAY,
        }
    }

    /// What it is to the rules of trying again.
    pub(crate) fn kind(&self, reused: bool) -> Failure {
        match self {
            FetchError::Unknown(_) | FetchError::Request(_) => Failure::Limit,
            FetchError::NoServer(_) => Failure::Unresolved,
            FetchError::Full { .. } | FetchError::QueueTimeout(_) => Failure::NoConnection,
            FetchError::Connect(_) => Failure::Refused,
            FetchError::ConnectTimeout(_) => Failure::ConnectTimeout,
            FetchError::Closed(_)
            | FetchError::Protocol(ClientError::Truncated(Cut::BeforeHead)) => {
                Failure::Reset { reused }
            }
            FetchError::FirstByteTimeout(_) => Failure::FirstByteTimeout,
            FetchError::WriteTimeout(_) | FetchError::Protocol(ClientError::Truncated(_)) => {
                Failure::CutShort
            }
            FetchError::Deadline(_) => Failure::Abandoned,
            FetchError::Protocol(
                ClientError::HeadTooLarge { .. } | ClientError::TooManyFields { .. },
            ) => Failure::Limit,
            FetchError::Protocol(_) => Failure::Garbage,
        }
    }

    /// Its name in `Proxy-Status` (RFC 9209 §2.3).
    pub fn token(&self) -> &'static str {
        match self {
            FetchError::Unknown(_) | FetchError::Request(_) => "proxy_internal_error",
            FetchError::NoServer(NO_ADDRESS) => "dns_error",
            FetchError::NoServer(_) => "destination_unavailable",
            FetchError::Full { .. } | FetchError::QueueTimeout(_) => "connection_limit_reached",
            FetchError::Connect(_) => "connection_refused",
            FetchError::ConnectTimeout(_) => "connection_timeout",
            FetchError::Closed(_) => "connection_terminated",
            FetchError::FirstByteTimeout(_) | FetchError::Deadline(_) => "http_response_timeout",
            FetchError::WriteTimeout(_) => "connection_write_timeout",
            FetchError::Protocol(error) => error.proxy_status(),
        }
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FetchError::Unknown(name) => write!(f, "there is no upstream {name:?}"),
            FetchError::Request(why) => write!(f, "the request cannot be sent: {why}"),
            FetchError::NoServer(why) => write!(f, "no server may be used: {why}"),
            FetchError::Full { setting, limit } => write!(f, "{setting} = {limit} is reached"),
            FetchError::QueueTimeout(limit) => {
                write!(f, "no connection free within pool.queue_wait = {limit:?}")
            }
            FetchError::Connect(why) => write!(f, "cannot connect: {why}"),
            FetchError::ConnectTimeout(limit) => {
                write!(f, "not connected within timeouts.connect = {limit:?}")
            }
            FetchError::Closed(why) => f.write_str(why),
            FetchError::FirstByteTimeout(limit) => {
                write!(f, "no answer within timeouts.first_byte = {limit:?}")
            }
            FetchError::WriteTimeout(limit) => write!(
                f,
                "it takes nothing of the request within timeouts.read = {limit:?}"
            ),
            FetchError::Deadline(limit) => {
                write!(f, "not answered within timeouts.total = {limit:?}")
            }
            FetchError::Protocol(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FetchError {}

/// A fetch under way, to cancel. Once it is over, it names nothing, and is harmless.
#[derive(Clone)]
pub struct FetchHandle {
    id: FetchId,
    outbox: Rc<Outbox>,
}

impl FetchHandle {
    /// Nobody wants the answer any more: the connection it would come on is closed, and the callback, if it
    /// has not been called, never is.
    pub fn cancel(&self) {
        self.outbox.push(Command::Cancel { fetch: self.id });
    }
}

impl<S: 'static> Ctx<'_, S> {
    /// Sends a request to one of the servers of an upstream (see [`crate::App::upstream`]), and calls `then`
    /// once, with the head of its answer or the reason why there is none. Tries again on another server
    /// where that is safe, as the upstream's `retries` say.
    ///
    /// See [`Fetch`] for an example.
    pub fn fetch(
        &mut self,
        upstream: &str,
        fetch: Fetch,
        then: impl for<'a> FnOnce(&mut Ctx<'_, S>, Result<Fetched<'a>, FetchError>) + 'static,
    ) -> FetchHandle {
        self.ask(upstream, fetch, None, Box::new(then))
    }

    /// The cookie by which an upstream's clients stay with their server.
    #[cfg(feature = "sticky")]
    pub(crate) fn sticky(
        &self,
        upstream: &str,
    ) -> Option<std::sync::Arc<crate::upstream::sticky::Sticky>> {
        let upstreams = &self.core.upstreams;
        let group = upstreams.get(upstreams.find(upstream)?)?;
        group.settings.sticky.clone()
    }

    /// The same, of one server only if it is a look at its health.
    pub(crate) fn ask(
        &mut self,
        upstream: &str,
        fetch: Fetch,
        only: Option<(usize, usize)>,
        then: Then<S>,
    ) -> FetchHandle {
        let now = self.core.now;
        let upstreams = &self.core.upstreams;
        let group = upstreams.find(upstream).and_then(|n| upstreams.get(n));
        let name = group.map_or_else(|| upstream.into(), |group| group.name());
        let id = self.core.fetches.insert(name, fetch, only, then, now);
        self.core.jobs.push_back(Job::Fetch(id));
        let outbox = self.core.outbox.clone();
        FetchHandle { id, outbox }
    }
}

impl<S> Core<S> {
    /// Takes the record of a fetch that is over.
    pub(crate) fn end_fetch(&mut self, id: FetchId) -> Option<Fetching<S>> {
        let fetching = self.fetches.remove(id)?;
        if let Some(timer) = fetching.timer {
            self.timers.cancel(timer);
        }
        if let Some(upstream) = self.upstreams.get_mut(fetching.group) {
            if let Stage::Resolving { .. } = fetching.stage {
                upstream.leave_names(id);
            }
            if fetching.entered {
                upstream.over(fetching.again);
            }
        }
        Some(fetching)
    }

    /// Another configuration may have another upstream of this name: the fetch is that one's from now on, if it has
    /// room for it.
    pub(crate) fn regroup_fetch(&mut self, id: FetchId) -> Result<(), FetchError> {
        let Some(fetching) = self.fetches.get_mut(id) else {
            return Ok(());
        };
        let before = fetching.group;
        // A look at a server's health is about that server.
        let is_retired = fetching.only.is_none()
            && (self.upstreams.get(before)).is_some_and(|group| group.is_retired());
        if !is_retired {
            return Ok(());
        }
        let Some(group) = self.upstreams.find(&fetching.name) else {
            return Ok(());
        };
        (fetching.group, fetching.tried) = (group, Tried::new());
        if std::mem::take(&mut fetching.entered)
            && let Some(upstream) = self.upstreams.get_mut(before)
        {
            upstream.over(std::mem::take(&mut fetching.again));
        }
        if let Some(upstream) = self.upstreams.get_mut(group) {
            upstream.enter()?;
            fetching.entered = true;
        }
        Ok(())
    }
}
