//! Floor 1. One connection to a Redis server, the client's half: who we are, what we asked, what it says.
//!
//! ```text
//!           unknown command                   password    name        database
//!  Hello ────────────────────► (version 2) ──► Auth ──► SetName ──┬──► Select ──► Ready
//!    └─── a map: version 3 ───────────────────────────────────────┘
//! ```
//! Each step waits for its answer; steps with nothing to say are left out. When it is ready, whatever is asked
//! is queued into the output and remembered in `waiting`, and replies are matched to it in order.
//!
//! Invariants: `waiting` holds what the server owes, oldest first, and no more than `Settings::pipeline`. A
//! reply that nobody waits for ends the session, because every later one would be given to the wrong asker. A
//! command for each subscription: one that is denied does not take others along.
//!
//! In version 2 publications are arrays like any reply. They can be told from replies because a connection with
//! subscriptions takes no other commands ([`Refusal::Subscribed`]): with such a server, publish on another one.

use crate::base::clock::Instant;
pub use crate::proto::address::{Address, Secret};
use crate::proto::http::is_authority;
use crate::proto::resp::{self, Bounds, Decoder, Output, Value};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::str::FromStr;
use std::time::Duration;

/// As whom, and to which database.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Login {
    /// `None`: the server's `default`.
    pub user: Option<String>,
    /// `None`: no authentication.
    pub password: Option<Secret>,
    /// Publications are the same in all of them.
    pub database: u32,
}

/// `redis://[[user]:password@]host[:port][/db]` or `redis+unix://[[user]:password@]/path[?db=N]` (or `unix://`).
/// User, password and path may be percent-encoded.
///
/// ```
/// use loopwright::proto::redis::{Address, Url};
/// let url: Url = "redis://:s3cret@cache.example/2".parse().unwrap();
/// assert_eq!(url.address, Address::Tcp("cache.example".into(), 6379));
/// assert_eq!(url.login.database, 2);
/// assert!(!format!("{url:?}").contains("s3cret"));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Url {
    /// Where.
    pub address: Address,
    /// As whom.
    pub login: Login,
}

/// What is wrong with a URL. Says nothing of its text: there may be a password in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum UrlError {
    /// Another scheme, or none.
    Scheme,
    /// `rediss:`.
    Tls,
    /// A user without a password.
    User,
    /// Percent-encoding, or what is no UTF-8 once decoded.
    Encoding,
    /// Not a host.
    Host,
    /// Not a port.
    Port,
    /// Not an absolute path.
    Path,
    /// Not the number of a database.
    Database,
    /// A parameter other than `db` of a socket's URL, or a fragment.
    Parameter,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UrlError::Scheme => "want redis://host[:port][/db] or redis+unix:///path[?db=N]",
            UrlError::Tls => {
                "rediss:// wants TLS, which is not there yet; use redis:// through a tunnel (stunnel) or on a private network"
            }
            UrlError::User => "a user without a password: want user:password@, or :password@",
            UrlError::Encoding => "user, password and path are percent-encoded UTF-8",
            UrlError::Host => "want a host name or an address (IPv6 in brackets) behind redis://",
            UrlError::Port => "want a port from 1 to 65535",
            UrlError::Path => "want an absolute path behind redis+unix://",
            UrlError::Database => "the database is a number",
            UrlError::Parameter => "the only parameter is db, and only of redis+unix://",
        })
    }
}

impl std::error::Error for UrlError {}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Url, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let is_tcp = match scheme.to_ascii_lowercase().as_str() {
            "redis" => true,
            "redis+unix" | "unix" => false,
            "rediss" => return Err(UrlError::Tls),
            _ => return Err(UrlError::Scheme),
        };
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        if text.contains('#') {
            return Err(UrlError::Parameter);
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user_info, host) = match authority.rsplit_once('@') {
            Some((user_info, host)) => (Some(user_info), host),
            None => (None, authority),
        };
        let mut login = login(user_info)?;
        let address = if is_tcp {
            if query.is_some() {
                return Err(UrlError::Parameter);
            }
            let address = tcp(host)?;
            login.database = database(path.strip_prefix('/').filter(|db| !db.is_empty()))?;
            address
        } else {
            let db = query.map(|query| query.strip_prefix("db=").ok_or(UrlError::Parameter));
            login.database = database(db.transpose()?)?;
            let path: Vec<u8> = percent_decode_str(path).collect();
            if !host.is_empty() || path.len() < 2 || path.contains(&0) {
                return Err(UrlError::Path);
            }
            Address::Unix(OsString::from_vec(path).into())
        };
        Ok(Url { address, login })
    }
}

fn login(user_info: Option<&str>) -> Result<Login, UrlError> {
    let Some(user_info) = user_info else {
        return Ok(Login::default());
    };
    let (user, password) = user_info.split_once(':').ok_or(UrlError::User)?;
    let decoded = |text| percent_decode_str(text).decode_utf8().map(String::from);
    let user = decoded(user).map_err(|_| UrlError::Encoding)?;
    let password = decoded(password).map_err(|_| UrlError::Encoding)?;
    if password.is_empty() && !user.is_empty() {
        return Err(UrlError::User);
    }
    Ok(Login {
        user: Some(user).filter(|user| !user.is_empty()),
        password: Some(Secret::new(password)).filter(|secret| !secret.expose().is_empty()),
        database: 0,
    })
}

fn database(text: Option<&str>) -> Result<u32, UrlError> {
    match text {
        None => Ok(0),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().map_err(|_| UrlError::Database)
        }
        Some(_) => Err(UrlError::Database),
    }
}

fn tcp(authority: &str) -> Result<Address, UrlError> {
    // Behind the brackets, if there are any, for an IPv6 address is full of colons.
    let behind = authority.rfind(']').map_or(0, |at| at + 1);
    let at = authority[behind..].find(':').map(|at| behind + at);
    let (host, port) = authority.split_at(at.unwrap_or(authority.len()));
    if host.is_empty() || host.contains('%') || !is_authority(host.as_bytes()) {
        return Err(UrlError::Host);
    }
    let port = match port.strip_prefix(':') {
        None => 6379,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or(UrlError::Port)?,
        Some(_) => return Err(UrlError::Port),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok(Address::Tcp(host.to_string(), port))
}

/// Of one session.
#[derive(Clone, Debug)]
pub struct Settings {
    /// As whom.
    pub login: Login,
    /// What the server's administrator sees of us in `CLIENT LIST`: no spaces, no control characters.
    pub name: Option<String>,
    /// What the server may send.
    pub bounds: Bounds,
    /// How long the server may be silent before it is asked whether it is there.
    pub idle: Duration,
    /// How long it may owe a reply.
    pub reply: Duration,
    /// How many replies it may owe.
    pub pipeline: usize,
    /// How many bytes may wait for the socket.
    pub output: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            login: Login::default(),
            name: None,
            bounds: Bounds::default(),
            idle: Duration::from_secs(15),
            reply: Duration::from_secs(10),
            pipeline: 16 * 1024,
            output: 4 * 1024 * 1024,
        }
    }
}

/// How subscriptions change. Also what the link between two workers says ([`crate::proto::bus::Link`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// To a channel.
    Subscribe,
    /// From a channel.
    Unsubscribe,
    /// To a pattern.
    PSubscribe,
    /// From a pattern.
    PUnsubscribe,
}

impl Verb {
    const ALL: [Verb; 4] = [
        Verb::Subscribe,
        Verb::Unsubscribe,
        Verb::PSubscribe,
        Verb::PUnsubscribe,
    ];

    /// The command.
    pub fn command(self) -> &'static str {
        match self {
            Verb::Subscribe => "SUBSCRIBE",
            Verb::Unsubscribe => "UNSUBSCRIBE",
            Verb::PSubscribe => "PSUBSCRIBE",
            Verb::PUnsubscribe => "PUNSUBSCRIBE",
        }
    }

    /// Which of them a command or a confirmation names, in any case.
    pub fn named(word: &[u8]) -> Option<Verb> {
        let is = |verb: &Verb| word.eq_ignore_ascii_case(verb.command().as_bytes());
        Verb::ALL.into_iter().find(is)
    }
}

/// What the server has said.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// Once: from now on it can be asked.
    Ready {
        /// 3, or 2.
        protocol: u8,
        /// Of the server; unknown in version 2.
        version: Option<String>,
    },
    /// A publication.
    Message {
        /// The pattern it came through; `None`: a subscription to its channel.
        pattern: Option<Bytes>,
        /// Where it was published.
        channel: Bytes,
        /// What.
        payload: Bytes,
    },
    /// The subscriptions have changed.
    Confirmed {
        /// How.
        verb: Verb,
        /// The channel or pattern.
        name: Bytes,
        /// How many there are now, of channels and patterns.
        count: i64,
    },
    /// They have not; the rest of them stands.
    Denied {
        /// What was asked.
        verb: Verb,
        /// The channel or pattern.
        name: Bytes,
        /// Why, as the server says it.
        error: Bytes,
    },
    /// The answer to a command, which may be a [`Value::Error`].
    Reply {
        /// What [`Session::command`] has returned.
        token: u64,
        /// What the server says.
        value: Value,
    },
    /// A push of another kind: of client tracking, for example.
    Push(Vec<Value>),
}

/// Why the session is over. Never says a password.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// What came is not RESP, or over the bounds.
    Protocol(resp::Error),
    /// The server does not want us.
    Refused {
        /// At which command.
        step: &'static str,
        /// What it says.
        said: String,
    },
    /// It is not a server that we understand.
    Unexpected(&'static str),
    /// It owed a reply for too long.
    Silent {
        /// How long it had, `Settings::reply`.
        limit: Duration,
    },
}

impl From<resp::Error> for Error {
    fn from(error: resp::Error) -> Error {
        Error::Protocol(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Protocol(error) => error.fmt(f),
            Error::Refused { step, said } => write!(f, "the server refuses {step}: {said}"),
            Error::Unexpected(what) => write!(f, "the server sends {what}"),
            Error::Silent { limit } => write!(f, "the server has not replied within {limit:?}"),
        }
    }
}

impl std::error::Error for Error {}

/// Why something was not asked. The session goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// [`Event::Ready`] has not come yet, or the session is over.
    NotReady,
    /// The server owes `Settings::pipeline` replies, or `Settings::output` bytes wait for the socket.
    Full,
    /// In version 2, a connection with subscriptions takes nothing else.
    Subscribed,
    /// Commands whose replies cannot be matched: subscriptions, and those that change the protocol.
    Unmatched,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::NotReady => "the connection is not ready",
            Refusal::Full => "too much waits for the server",
            Refusal::Subscribed => {
                "in RESP2, a connection with subscriptions takes no other commands"
            }
            Refusal::Unmatched => "not as a plain command: its replies cannot be matched",
        })
    }
}

impl std::error::Error for Refusal {}

#[derive(Clone, PartialEq, Debug)]
enum Phase {
    Hello,
    Auth,
    SetName,
    Select,
    Ready,
    Over(Error),
}

impl Phase {
    fn command(&self) -> &'static str {
        match self {
            Phase::Hello => "HELLO",
            Phase::Auth => "AUTH",
            Phase::SetName => "CLIENT SETNAME",
            Phase::Select => "SELECT",
            Phase::Ready | Phase::Over(_) => "",
        }
    }
}

#[derive(PartialEq, Debug)]
enum Waiting {
    /// For the answer to the current phase's command.
    Step,
    Pong,
    Command(u64),
    Change(Verb, Bytes),
}

/// One connection, from its first byte on.
///
/// ```
/// use loopwright::Instant;
/// use loopwright::proto::redis::{Event, Session, Settings};
/// let now = Instant::default();
/// let mut session = Session::new(Settings::default(), now);
/// assert_eq!(session.output(), b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n");
/// session.sent(22);
/// let mut input = &b"%1\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n"[..];
/// let event = session.poll_event(&mut input, now).unwrap();
/// assert_eq!(event, Some(Event::Ready { protocol: 3, version: Some("7.0.0".into()) }));
/// ```
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    decoder: Decoder,
    output: Output,
    phase: Phase,
    protocol: u8,
    version: Option<String>,
    /// What the server owes, and since when.
    waiting: VecDeque<(Waiting, Instant)>,
    next_token: u64,
    /// Subscriptions, as the server counts them.
    subscriptions: i64,
    /// Changes of subscriptions among `waiting`.
    changing: usize,
    /// When the last byte came.
    heard: Instant,
    /// When the last reply came. Pushes do not count: a server can push and never reply.
    replied: Instant,
}

/// Commands that are no question with one answer.
const UNMATCHED: [&str; 9] = [
    "HELLO",
    "RESET",
    "QUIT",
    "MONITOR",
    "SYNC",
    "PSYNC",
    // `REPLCONF ACK` has none.
    "REPLCONF",
    "SSUBSCRIBE",
    "SUNSUBSCRIBE",
];

impl Session {
    /// On a connection that has just been made. The output has the greeting.
    pub fn new(settings: Settings, now: Instant) -> Session {
        let mut session = Session {
            decoder: Decoder::new(settings.bounds),
            output: Output::new(settings.output),
            settings,
            phase: Phase::Hello,
            protocol: 3,
            version: None,
            waiting: VecDeque::new(),
            next_token: 0,
            subscriptions: 0,
            changing: 0,
            heard: now,
            replied: now,
        };
        session.say_hello(now);
        session
    }

    /// What is to be written.
    pub fn output(&self) -> &[u8] {
        self.output.waiting()
    }

    /// The first `n` bytes of the output have been written.
    pub fn sent(&mut self, n: usize) {
        self.output.sent(n);
    }

    /// Whether it can be asked: [`Event::Ready`] has come, and the session is not over.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Whether [`Session::command`] and [`Session::publish`] are refused for the sake of subscriptions.
    pub fn is_subscriber_only(&self) -> bool {
        self.protocol == 2 && (self.subscriptions > 0 || self.changing > 0)
    }

    /// From now on the server may owe a reply for so long: once it is ready, for commands that wait for something to
    /// happen.
    pub fn set_reply(&mut self, limit: Duration) {
        self.settings.reply = limit;
    }

    /// How many replies the server owes.
    pub fn owed(&self) -> usize {
        self.waiting.len()
    }

    /// The commands that have had no reply, oldest first: for their askers, when the connection has ended.
    pub fn unanswered(&self) -> impl Iterator<Item = u64> + '_ {
        self.waiting
            .iter()
            .filter_map(|(waiting, _)| match waiting {
                Waiting::Command(token) => Some(*token),
                _ => None,
            })
    }

    /// Changes the subscriptions; [`Event::Confirmed`] or [`Event::Denied`] follows.
    ///
    /// # Errors
    /// It was not asked.
    pub fn subscription(&mut self, verb: Verb, name: Bytes, now: Instant) -> Result<(), Refusal> {
        self.check_room(name.len())?;
        self.say(&[verb.command().as_bytes(), &name]);
        self.wait(Waiting::Change(verb, name), now);
        self.changing += 1;
        Ok(())
    }

    /// Publishes; the reply says how many clients of that server have been given it.
    ///
    /// # Errors
    /// It was not.
    pub fn publish(
        &mut self,
        channel: &[u8],
        payload: &[u8],
        now: Instant,
    ) -> Result<u64, Refusal> {
        self.command(&[b"PUBLISH", channel, payload], now)
    }

    /// Asks for anything that has exactly one reply. (`CLIENT REPLY` takes the replies away: the session would
    /// end for [`Error::Silent`].)
    ///
    /// # Errors
    /// It was not asked.
    pub fn command(&mut self, arguments: &[&[u8]], now: Instant) -> Result<u64, Refusal> {
        let name = arguments.first().copied().unwrap_or_default();
        let is_unmatched = UNMATCHED
            .iter()
            .any(|other| name.eq_ignore_ascii_case(other.as_bytes()));
        // The server does not reply to a command without a name.
        if name.is_empty() || is_unmatched || Verb::named(name).is_some() {
            return Err(Refusal::Unmatched);
        }
        if self.is_ready() && self.is_subscriber_only() {
            return Err(Refusal::Subscribed);
        }
        self.check_room(arguments.iter().map(|argument| argument.len() + 16).sum())?;
        self.say(arguments);
        let token = self.next_token;
        self.next_token += 1;
        self.wait(Waiting::Command(token), now);
        Ok(token)
    }

    fn check_room(&self, bytes: usize) -> Result<(), Refusal> {
        if self.phase != Phase::Ready {
            return Err(Refusal::NotReady);
        }
        let framing = 64;
        if self.waiting.len() >= self.settings.pipeline
            || self.output.room() < bytes.saturating_add(framing)
        {
            return Err(Refusal::Full);
        }
        Ok(())
    }

    fn say(&mut self, arguments: &[&[u8]]) {
        resp::command(arguments, self.output.bytes_mut());
    }

    fn wait(&mut self, what: Waiting, now: Instant) {
        self.waiting.push_back((what, now));
    }

    /// Takes what the server has sent from the front of `input`, up to the next event. `None`: all of it.
    ///
    /// # Errors
    /// The session is over; the same from then on.
    pub fn poll_event(&mut self, input: &mut &[u8], now: Instant) -> Result<Option<Event>, Error> {
        if let Phase::Over(error) = &self.phase {
            return Err(error.clone());
        }
        if !input.is_empty() {
            self.heard = now;
        }
        let event = self.next_event(input, now);
        if let Err(error) = &event {
            self.phase = Phase::Over(error.clone());
        }
        event
    }

    fn next_event(&mut self, input: &mut &[u8], now: Instant) -> Result<Option<Event>, Error> {
        while let Some(value) = self.decoder.decode(input)? {
            let event = match value {
                Value::Push(elements) => Some(self.on_push(elements)?),
                Value::Array(elements) if self.is_pushed(&elements) => {
                    Some(self.on_push(elements)?)
                }
                value => self.on_reply(value, now)?,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// Version 2: whether an array is no reply. The command that a reply would be for was asked before the first
    /// subscription, and is answered before its confirmation.
    fn is_pushed(&self, elements: &[Value]) -> bool {
        let is_reply = matches!(
            self.waiting.front(),
            Some((Waiting::Command(_) | Waiting::Step, _))
        );
        let word = elements.first().and_then(Value::bytes);
        self.is_subscriber_only() && !is_reply && word.is_none_or(|word| word != "pong")
    }

    fn on_push(&mut self, elements: Vec<Value>) -> Result<Event, Error> {
        let text = |at: usize| elements.get(at).and_then(Value::bytes);
        let word = text(0).map(|word| &word[..]).unwrap_or_default();
        match (word, text(1), text(2), text(3)) {
            (b"message", Some(channel), Some(payload), None) => Ok(Event::Message {
                pattern: None,
                channel: channel.clone(),
                payload: payload.clone(),
            }),
            (b"pmessage", Some(pattern), Some(channel), Some(payload)) => Ok(Event::Message {
                pattern: Some(pattern.clone()),
                channel: channel.clone(),
                payload: payload.clone(),
            }),
            (b"message" | b"pmessage", ..) => Err(Error::Unexpected("half a publication")),
            _ => match (Verb::named(word), text(1), elements.get(2)) {
                (Some(verb), Some(name), Some(Value::Integer(count))) => {
                    let asked = Waiting::Change(verb, name.clone());
                    match self.waiting.pop_front() {
                        Some((waiting, _)) if waiting == asked => self.replied = self.heard,
                        _ => return Err(Error::Unexpected("a confirmation nobody waits for")),
                    }
                    self.changing -= 1;
                    self.subscriptions = *count;
                    Ok(Event::Confirmed {
                        verb,
                        name: name.clone(),
                        count: *count,
                    })
                }
                (Some(_), ..) => Err(Error::Unexpected("half a confirmation")),
                (None, ..) if self.protocol == 2 => {
                    Err(Error::Unexpected("a reply to a subscriber"))
                }
                (None, ..) => Ok(Event::Push(elements)),
            },
        }
    }

    fn on_reply(&mut self, value: Value, now: Instant) -> Result<Option<Event>, Error> {
        let Some((waiting, _)) = self.waiting.pop_front() else {
            return Err(Error::Unexpected("a reply nobody waits for"));
        };
        self.replied = now;
        match waiting {
            Waiting::Step => self.on_step(value.plain(), now),
            // Even an error is a sign of life.
            Waiting::Pong => Ok(None),
            Waiting::Command(token) => Ok(Some(Event::Reply { token, value })),
            Waiting::Change(verb, name) => match value.plain() {
                Value::Error(error) => {
                    self.changing -= 1;
                    Ok(Some(Event::Denied { verb, name, error }))
                }
                _ => Err(Error::Unexpected("a reply instead of a confirmation")),
            },
        }
    }

    fn say_hello(&mut self, now: Instant) {
        let login = &self.settings.login;
        let mut arguments: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if let Some(secret) = &login.password {
            let password = secret.expose();
            let user = login.user.as_deref().unwrap_or("default");
            arguments.extend([b"AUTH", user.as_bytes(), password.as_bytes()]);
        }
        if let Some(name) = &self.settings.name {
            arguments.extend([b"SETNAME", name.as_bytes()]);
        }
        resp::command(arguments, self.output.bytes_mut());
        self.wait(Waiting::Step, now);
    }

    /// The answer to the current phase's command.
    fn on_step(&mut self, value: Value, now: Instant) -> Result<Option<Event>, Error> {
        match (&self.phase, value) {
            (Phase::Hello, Value::Map(entries)) => {
                let version = entries
                    .iter()
                    .find(|(key, _)| key.bytes().is_some_and(|key| key == "version"))
                    .and_then(|(_, version)| version.bytes());
                self.version = version.map(|text| String::from_utf8_lossy(text).into_owned());
                Ok(self.go_on(Phase::Select, now))
            }
            // Before version 6, or renamed away.
            (Phase::Hello, Value::Error(said))
                if said.starts_with(b"ERR unknown command") || said.starts_with(b"NOPROTO") =>
            {
                self.protocol = 2;
                Ok(self.go_on(Phase::Auth, now))
            }
            (Phase::Auth, Value::Simple(_)) => Ok(self.go_on(Phase::SetName, now)),
            // A name is a courtesy.
            (Phase::SetName, _) => Ok(self.go_on(Phase::Select, now)),
            (Phase::Select, Value::Simple(_)) => Ok(self.go_on(Phase::Ready, now)),
            (phase, Value::Error(said)) => Err(Error::Refused {
                step: phase.command(),
                said: self.without_secrets(&said),
            }),
            _ => Err(Error::Unexpected("a strange answer to the greeting")),
        }
    }

    /// To `phase`, or to the first one from there on that has something to say.
    fn go_on(&mut self, phase: Phase, now: Instant) -> Option<Event> {
        let login = &self.settings.login;
        let out = self.output.bytes_mut();
        let next = match phase {
            Phase::Hello | Phase::Auth => match &login.password {
                Some(secret) => {
                    let password = secret.expose();
                    let user = login.user.as_deref();
                    let words: Vec<&str> = [Some("AUTH"), user, Some(password)]
                        .into_iter()
                        .flatten()
                        .collect();
                    resp::command(words, out);
                    Phase::Auth
                }
                None => return self.go_on(Phase::SetName, now),
            },
            Phase::SetName => match &self.settings.name {
                Some(name) => {
                    resp::command(["CLIENT", "SETNAME", name], out);
                    Phase::SetName
                }
                None => return self.go_on(Phase::Select, now),
            },
            Phase::Select if login.database != 0 => {
                let database = login.database.to_string();
                resp::command(["SELECT", &database], out);
                Phase::Select
            }
            Phase::Select | Phase::Ready | Phase::Over(_) => {
                self.phase = Phase::Ready;
                return Some(Event::Ready {
                    protocol: self.protocol,
                    version: self.version.take(),
                });
            }
        };
        self.phase = next;
        self.wait(Waiting::Step, now);
        None
    }

    /// An error's text for the log. A server may repeat our arguments in it, cut off anywhere.
    fn without_secrets(&self, said: &[u8]) -> String {
        let text = String::from_utf8_lossy(said);
        let text = text.split(", with args").next().unwrap_or_default();
        let text = match &self.settings.login.password {
            Some(secret) if !secret.expose().is_empty() => {
                text.replace(secret.expose(), "[secret]")
            }
            _ => text.to_string(),
        };
        let visible = |c: char| if c.is_control() { ' ' } else { c };
        text.chars().take(200).map(visible).collect()
    }

    /// When [`Session::expire`] wants to be called; it moves with what comes and what is asked.
    pub fn next_deadline(&self) -> Instant {
        match self.waiting.front() {
            Some((_, since)) => self.replied.max(*since) + self.settings.reply,
            None => self.heard + self.settings.idle,
        }
    }

    /// At the deadline: asks a silent server whether it is there, or gives it up.
    ///
    /// # Errors
    /// It is over.
    pub fn expire(&mut self, now: Instant) -> Result<(), Error> {
        if let Phase::Over(error) = &self.phase {
            return Err(error.clone());
        }
        if now < self.next_deadline() {
            return Ok(());
        }
        if !self.waiting.is_empty() {
            let limit = self.settings.reply;
            let error = Error::Silent { limit };
            self.phase = Phase::Over(error.clone());
            return Err(error);
        }
        self.say(&[b"PING"]);
        self.wait(Waiting::Pong, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::resp::cuts;

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    /// With `~` for the ends of lines.
    fn wire(text: &str) -> Vec<u8> {
        text.replace('~', "\r\n").into_bytes()
    }

    /// The words of the commands in the output, which are taken out of it.
    fn said(session: &mut Session) -> Vec<String> {
        let (mut decoder, mut said) = (Decoder::new(Bounds::default()), Vec::new());
        let mut output = session.output();
        while let Some(Value::Array(words)) = decoder.decode(&mut output).expect("commands") {
            let words = words.iter().filter_map(Value::bytes);
            let words = words.map(|word| String::from_utf8_lossy(word).into_owned());
            said.push(words.collect::<Vec<_>>().join(" "));
        }
        assert!(decoder.is_between_values());
        session.sent(session.output().len());
        said
    }

    fn feed(session: &mut Session, pieces: &[&[u8]]) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        for mut piece in pieces.iter().copied() {
            while let Some(event) = session.poll_event(&mut piece, at(0))? {
                events.push(event);
            }
        }
        Ok(events)
    }

    fn settings(login: Option<&str>, name: Option<&str>) -> Settings {
        let url: Url = login.unwrap_or("redis://host").parse().expect("a URL");
        Settings {
            login: url.login,
            name: name.map(String::from),
            ..Settings::default()
        }
    }

    fn ready(protocol: u8) -> Session {
        let mut session = Session::new(Settings::default(), at(0));
        let answer = match protocol {
            3 => "%0~",
            _ => "-ERR unknown command `HELLO`, with args beginning with: `3`, ~",
        };
        let events = feed(&mut session, &[&wire(answer)]).expect("a greeting");
        let version = None;
        assert_eq!(events, [Event::Ready { protocol, version }]);
        said(&mut session);
        session
    }

    /// What we say, what the server answers to it, and so on.
    #[test]
    fn greetings() {
        let unknown = "-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'pa~";
        let ready = |protocol| Ok(format!("ready {protocol}"));
        let refused = |step: &str, said: &str| Err(format!("the server refuses {step}: {said}"));
        type Greeting<'a> = (
            Option<&'a str>,
            Option<&'a str>,
            &'a [(&'a str, &'a str)],
            Result<String, String>,
        );
        let table: [Greeting<'_>; 12] = [
            (None, None, &[("HELLO 3", "%1~+proto~:3~")], ready(3)),
            (
                Some("redis://:pass@h/2"),
                Some("me"),
                &[
                    ("HELLO 3 AUTH default pass SETNAME me", "%0~"),
                    ("SELECT 2", "+OK~"),
                ],
                ready(3),
            ),
            (
                Some("redis://ada:pass@h"),
                None,
                &[("HELLO 3 AUTH ada pass", "%0~")],
                ready(3),
            ),
            (None, None, &[("HELLO 3", unknown)], ready(2)),
            (
                None,
                None,
                &[("HELLO 3", "-NOPROTO unsupported protocol version~")],
                ready(2),
            ),
            (
                Some("redis://:pass@h/2"),
                Some("me"),
                &[
                    ("HELLO 3 AUTH default pass SETNAME me", unknown),
                    ("AUTH pass", "+OK~"),
                    ("CLIENT SETNAME me", "-ERR unknown command~"),
                    ("SELECT 2", "+OK~"),
                ],
                ready(2),
            ),
            (
                Some("redis://ada:pass@h"),
                None,
                &[
                    ("HELLO 3 AUTH ada pass", unknown),
                    ("AUTH ada pass", "-ERR no pass here~"),
                ],
                refused("AUTH", "ERR no [secret] here"),
            ),
            (
                Some("redis://:pass@h"),
                None,
                &[
                    ("HELLO 3 AUTH default pass", unknown),
                    (
                        "AUTH pass",
                        "-ERR unknown command 'AUTH', with args beginning with: 'pa~",
                    ),
                ],
                refused("AUTH", "ERR unknown command 'AUTH'"),
            ),
            (
                None,
                None,
                &[(
                    "HELLO 3",
                    "-NOAUTH HELLO must be called with the client already authenticated~",
                )],
                refused(
                    "HELLO",
                    "NOAUTH HELLO must be called with the client already authenticated",
                ),
            ),
            (
                Some("redis://h/99"),
                None,
                &[
                    ("HELLO 3", "%0~"),
                    ("SELECT 99", "-ERR DB index is out of range~"),
                ],
                refused("SELECT", "ERR DB index is out of range"),
            ),
            (
                None,
                None,
                &[("HELLO 3", "+OK~")],
                Err("the server sends a strange answer to the greeting".into()),
            ),
            (
                None,
                None,
                &[("HELLO 3", "HTTP/1.1 400 Bad Request~")],
                Err("not RESP: an unknown type".into()),
            ),
        ];
        for (login, name, steps, want) in table {
            for cut in 0..=1 {
                let mut session = Session::new(settings(login, name), at(0));
                let mut outcome = Err("nothing".to_string());
                for (says, answer) in steps {
                    assert!(!session.is_ready());
                    assert_eq!(said(&mut session), [*says]);
                    let answer = wire(answer);
                    let pieces = cuts(&answer).nth(cut).expect("a cut");
                    match feed(&mut session, &pieces) {
                        Err(error) => outcome = Err(error.to_string()),
                        Ok(events) => {
                            if let [Event::Ready { protocol, .. }] = events[..] {
                                outcome = Ok(format!("ready {protocol}"));
                            }
                        }
                    }
                }
                assert_eq!(outcome, want, "{steps:?}");
                assert_eq!(session.is_ready(), want.is_ok());
                assert!(said(&mut session).is_empty());
                assert!(!format!("{session:?}").contains("pass\""), "{session:?}");
            }
        }
    }

    fn message(pattern: Option<&'static str>, channel: &'static str) -> Event {
        Event::Message {
            pattern: pattern.map(Bytes::from),
            channel: channel.into(),
            payload: "hi".into(),
        }
    }

    fn confirmed(verb: Verb, name: &'static str, count: i64) -> Event {
        let name = name.into();
        Event::Confirmed { verb, name, count }
    }

    /// Both versions say the same; one as pushes, one as arrays.
    #[test]
    fn subscriptions() {
        let text = "X3~$9~subscribe~$1~a~:1~X3~$7~message~$1~a~$2~hi~-NOPERM no~X3~$10~psubscribe~$2~b*~:2~\
            X4~$8~pmessage~$2~b*~$2~bc~$2~hi~X3~$11~unsubscribe~$1~a~:1~X3~$12~punsubscribe~$2~b*~:0~";
        for (protocol, push) in [(3, ">"), (2, "*")] {
            let input = wire(&text.replace('X', push));
            for pieces in cuts(&input) {
                let mut session = ready(protocol);
                for (verb, name) in [
                    (Verb::Subscribe, "a"),
                    (Verb::Subscribe, "secret"),
                    (Verb::PSubscribe, "b*"),
                    (Verb::Unsubscribe, "a"),
                    (Verb::PUnsubscribe, "b*"),
                ] {
                    let asked = session.subscription(verb, name.into(), at(0));
                    assert_eq!(asked, Ok(()));
                }
                let want = [
                    "SUBSCRIBE a",
                    "SUBSCRIBE secret",
                    "PSUBSCRIBE b*",
                    "UNSUBSCRIBE a",
                    "PUNSUBSCRIBE b*",
                ];
                assert_eq!(said(&mut session), want);
                assert_eq!(session.is_subscriber_only(), protocol == 2);
                let events = feed(&mut session, &pieces).expect("events");
                let denied = Event::Denied {
                    verb: Verb::Subscribe,
                    name: "secret".into(),
                    error: "NOPERM no".into(),
                };
                let want = [
                    confirmed(Verb::Subscribe, "a", 1),
                    message(None, "a"),
                    denied,
                    confirmed(Verb::PSubscribe, "b*", 2),
                    message(Some("b*"), "bc"),
                    confirmed(Verb::Unsubscribe, "a", 1),
                    confirmed(Verb::PUnsubscribe, "b*", 0),
                ];
                assert_eq!(events, want);
                assert_eq!((session.owed(), session.is_subscriber_only()), (0, false));
            }
        }
    }

    #[test]
    fn replies_in_order() {
        let input =
            wire(":1~|1~+ttl~:5~$1~v~>2~$10~invalidate~*1~$1~k~-ERR no~*3~$7~message~$1~a~$2~hi~");
        for pieces in cuts(&input) {
            let mut session = ready(3);
            let mut tokens = vec![session.publish(b"a", b"hi", at(0))];
            for key in ["k", "l", "m"] {
                tokens.push(session.command(&[b"get", key.as_bytes()], at(0)));
            }
            assert_eq!(tokens, [Ok(0), Ok(1), Ok(2), Ok(3)]);
            assert_eq!(session.unanswered().collect::<Vec<_>>(), [0, 1, 2, 3]);
            assert_eq!(
                said(&mut session),
                ["PUBLISH a hi", "get k", "get l", "get m"]
            );
            let events = feed(&mut session, &pieces).expect("events");
            let reply = |token, value| Event::Reply { token, value };
            let text = |text: &'static str| Value::Bulk(text.into());
            let attributed = Value::Attributed {
                attributes: vec![(Value::Simple("ttl".into()), Value::Integer(5))],
                value: Box::new(text("v")),
            };
            let want = [
                reply(0, Value::Integer(1)),
                reply(1, attributed),
                Event::Push(vec![text("invalidate"), Value::Array(vec![text("k")])]),
                reply(2, Value::Error("ERR no".into())),
                // A list that looks like a publication is a list.
                reply(
                    3,
                    Value::Array(vec![text("message"), text("a"), text("hi")]),
                ),
            ];
            assert_eq!(events, want);
            assert_eq!(session.unanswered().count(), 0);
        }
    }

    /// In version 2, the command before the subscription is answered before its confirmation.
    #[test]
    fn a_list_before_the_first_subscription() {
        let mut session = ready(2);
        assert_eq!(
            session.command(&[b"LRANGE", b"l", b"0", b"2"], at(0)),
            Ok(0)
        );
        assert_eq!(
            session.subscription(Verb::Subscribe, "a".into(), at(0)),
            Ok(())
        );
        assert_eq!(
            session.publish(b"a", b"hi", at(0)),
            Err(Refusal::Subscribed)
        );
        let input =
            wire("*3~$7~message~$1~a~$2~hi~*3~$9~subscribe~$1~a~:1~*3~$7~message~$1~a~$2~hi~");
        let events = feed(&mut session, &[&input]).expect("events");
        assert!(matches!(events[0], Event::Reply { token: 0, .. }));
        assert_eq!(
            events[1..],
            [confirmed(Verb::Subscribe, "a", 1), message(None, "a")]
        );
        assert_eq!(
            session.publish(b"a", b"hi", at(0)),
            Err(Refusal::Subscribed)
        );
    }

    #[test]
    fn what_is_not_asked() {
        let mut session = Session::new(Settings::default(), at(0));
        assert_eq!(session.publish(b"a", b"", at(0)), Err(Refusal::NotReady));
        let mut session = ready(3);
        for words in [
            &["subscribe", "a"][..],
            &["Hello", "2"],
            &["monitor"],
            &[""],
            &[],
        ] {
            let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
            assert_eq!(
                session.command(&words, at(0)),
                Err(Refusal::Unmatched),
                "{words:?}"
            );
        }
        let big = vec![0; session.settings.output];
        assert_eq!(session.publish(b"a", &big, at(0)), Err(Refusal::Full));
        session.settings.pipeline = 2;
        assert_eq!(session.publish(b"a", b"", at(0)), Ok(0));
        assert_eq!(session.publish(b"a", b"", at(0)), Ok(1));
        assert_eq!(session.publish(b"a", b"", at(0)), Err(Refusal::Full));
    }

    #[test]
    fn what_a_server_may_not_say() {
        for (protocol, asks, input, why) in [
            (3, None, "+OK~", "a reply nobody waits for"),
            (
                3,
                None,
                ">3~+subscribe~+a~:1~",
                "a confirmation nobody waits for",
            ),
            (
                3,
                Some("a"),
                ">3~+subscribe~+b~:1~",
                "a confirmation nobody waits for",
            ),
            (
                3,
                Some("a"),
                ">3~+unsubscribe~+a~:1~",
                "a confirmation nobody waits for",
            ),
            (3, Some("a"), ">2~+subscribe~+a~", "half a confirmation"),
            (3, None, ">2~+message~+a~", "half a publication"),
            (3, None, ">4~+message~+a~+b~+c~", "half a publication"),
            (3, Some("a"), "+OK~", "a reply instead of a confirmation"),
            (2, Some("a"), "*1~+x~", "a reply to a subscriber"),
            (2, Some("a"), "*0~", "a reply to a subscriber"),
        ] {
            let input = wire(input);
            for pieces in cuts(&input) {
                let mut session = ready(protocol);
                if let Some(name) = asks {
                    let asked = session.subscription(Verb::Subscribe, name.into(), at(0));
                    assert_eq!(asked, Ok(()));
                }
                let error = Error::Unexpected(why);
                assert_eq!(feed(&mut session, &pieces), Err(error.clone()));
                // And it stays over.
                assert_eq!(session.expire(at(1000)), Err(error.clone()));
                assert_eq!(feed(&mut session, &[]), Ok(vec![]));
                assert_eq!(session.poll_event(&mut &b"+OK\r\n"[..], at(0)), Err(error));
                assert_eq!(session.publish(b"a", b"", at(0)), Err(Refusal::NotReady));
            }
        }
    }

    #[test]
    fn silence() {
        let silent = Err(Error::Silent {
            limit: Duration::from_secs(10),
        });
        // The greeting.
        let mut session = Session::new(Settings::default(), at(5));
        assert_eq!(session.next_deadline(), at(15));
        assert_eq!(
            (session.expire(at(14)), session.expire(at(15))),
            (Ok(()), silent.clone())
        );

        for (protocol, pong) in [(3, "+PONG~"), (2, "*2~$4~pong~$0~~")] {
            let mut session = ready(protocol);
            let asked = session.subscription(Verb::Subscribe, "a".into(), at(0));
            assert_eq!(asked, Ok(()));
            let push = if protocol == 3 { ">" } else { "*" };
            let confirmation = wire(&format!("{push}3~$9~subscribe~$1~a~:1~"));
            feed(&mut session, &[&confirmation]).expect("a confirmation");
            said(&mut session);
            // What comes moves the deadline.
            assert_eq!(session.next_deadline(), at(15));
            let publication = wire(&format!("{push}3~$7~message~$1~a~$2~hi~"));
            let got = session.poll_event(&mut &publication[..], at(10));
            assert_eq!(got, Ok(Some(message(None, "a"))));
            assert_eq!(
                (session.next_deadline(), session.expire(at(24))),
                (at(25), Ok(()))
            );
            assert!(said(&mut session).is_empty());
            assert_eq!(session.expire(at(25)), Ok(()));
            assert_eq!(said(&mut session), ["PING"]);
            // Publications do not count for a reply.
            let got = session.poll_event(&mut &publication[..], at(30));
            assert_eq!(got, Ok(Some(message(None, "a"))));
            assert_eq!(session.next_deadline(), at(35));
            assert_eq!(session.poll_event(&mut &wire(pong)[..], at(34)), Ok(None));
            assert_eq!(session.next_deadline(), at(49));
            assert_eq!(session.expire(at(49)), Ok(()));
            assert_eq!(session.expire(at(59)), silent);
        }
        // Of many, each has its time from the reply before it.
        let mut session = ready(3);
        for _ in 0..2 {
            assert!(session.command(&[b"GET", b"k"], at(1)).is_ok());
        }
        assert_eq!(session.next_deadline(), at(11));
        assert!(session.poll_event(&mut &b"_\r\n"[..], at(9)).is_ok());
        assert_eq!(session.next_deadline(), at(19));
    }

    #[test]
    fn urls() {
        let tcp = |host: &str, port| Address::Tcp(host.into(), port);
        let unix = |path: &str| Address::Unix(path.into());
        for (text, address, user, password, database) in [
            ("redis://h", tcp("h", 6379), None, None, 0),
            ("REDIS://h/", tcp("h", 6379), None, None, 0),
            ("redis://127.0.0.1:7/3", tcp("127.0.0.1", 7), None, None, 3),
            ("redis://[::1]:7", tcp("::1", 7), None, None, 0),
            ("redis://:p@h", tcp("h", 6379), None, Some("p"), 0),
            (
                "redis://u:p%40%3a@h",
                tcp("h", 6379),
                Some("u"),
                Some("p@:"),
                0,
            ),
            ("redis://u:a@b@h", tcp("h", 6379), Some("u"), Some("a@b"), 0),
            ("redis://:@h", tcp("h", 6379), None, None, 0),
            (
                "redis+unix:///run/r.sock",
                unix("/run/r.sock"),
                None,
                None,
                0,
            ),
            (
                "unix://u:p@/a%20b?db=4",
                unix("/a b"),
                Some("u"),
                Some("p"),
                4,
            ),
        ] {
            let url: Url = text.parse().expect(text);
            let login = Login {
                user: user.map(String::from),
                password: password.map(|text: &str| Secret::new(text.into())),
                database,
            };
            assert_eq!(url, Url { address, login }, "{text}");
        }
        for (text, error) in [
            ("", UrlError::Scheme),
            ("localhost:6379", UrlError::Scheme),
            ("http://s3cret@h", UrlError::Scheme),
            ("rediss://h", UrlError::Tls),
            ("redis://s3cret@h", UrlError::User),
            ("redis://s3cret:@h", UrlError::User),
            ("redis://:%ff@h", UrlError::Encoding),
            ("redis://", UrlError::Host),
            ("redis:///1", UrlError::Host),
            ("redis://:7", UrlError::Host),
            ("redis://::1", UrlError::Host),
            ("redis://[::1", UrlError::Host),
            ("redis://a b", UrlError::Host),
            ("redis://:s3cret/x@h", UrlError::Host),
            ("redis://h:0", UrlError::Port),
            ("redis://h:", UrlError::Port),
            ("redis://h/x", UrlError::Database),
            ("redis://h/+1", UrlError::Database),
            ("redis://h/99999999999", UrlError::Database),
            ("redis://h?db=1", UrlError::Parameter),
            ("redis://h#s3cret", UrlError::Parameter),
            ("unix://", UrlError::Path),
            ("unix:///", UrlError::Path),
            ("unix://run/r.sock", UrlError::Path),
            ("unix:///a%00b", UrlError::Path),
            ("unix:///a?db=", UrlError::Database),
            ("unix:///a?x=s3cret", UrlError::Parameter),
        ] {
            assert_eq!(text.parse::<Url>(), Err(error), "{text}");
            assert!(!format!("{error} {error:?}").contains("s3cret"));
        }
    }
}
