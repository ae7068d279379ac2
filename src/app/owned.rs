//! Floor 2. Requests, answers and messages that outlive their callback: for futures, and for whoever keeps them.
//!
//! A head is copied once, in one piece, and looked at by offsets into it; it is no longer than `limits.head` (an
//! upstream's), its body no longer than the limit that it was collected under.

use super::fetch::{Fetched, Timings};
use super::request::Request;
use super::stream::Incoming;
use super::websocket::Message;
use crate::base::id::RequestId;
use crate::net::Peer;
use crate::proto::h1::head::{self, HeadLimits};
use crate::proto::http::Fields;
use bytes::Bytes;
use http::{Method, StatusCode};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::fmt;

/// A piece of a text: where it begins and ends.
#[derive(Clone, Copy, Default)]
struct Span(u32, u32);

/// A head's bytes, and behind them whatever else is kept in the same piece of memory.
struct Text(Vec<u8>);

impl Text {
    fn new(raw: &[u8], more: usize) -> Text {
        let mut text = Vec::with_capacity(raw.len() + more);
        text.extend_from_slice(raw);
        Text(text)
    }

    /// Where `part` is: within the copy of `raw`, if it is a part of that, else appended.
    fn place(&mut self, raw: &[u8], part: &[u8]) -> Span {
        let begin = (part.as_ptr() as usize).wrapping_sub(raw.as_ptr() as usize);
        match begin.checked_add(part.len()) {
            Some(end) if end <= raw.len() => Span(begin as u32, end as u32),
            _ => self.append(part),
        }
    }

    fn append(&mut self, part: &[u8]) -> Span {
        let begin = self.0.len() as u32;
        self.0.extend_from_slice(part);
        Span(begin, self.0.len() as u32)
    }
}

/// Field lines: name and value.
#[derive(Clone, Default)]
struct Lines(SmallVec<[(Span, Span); 12]>);

impl Lines {
    fn new(fields: Fields<'_>, raw: &[u8], text: &mut Text) -> Lines {
        let place = |(name, value): (&str, &[u8])| {
            (text.place(raw, name.as_bytes()), text.place(raw, value))
        };
        Lines(fields.iter().map(place).collect())
    }

    fn iter<'t>(&'t self, text: &'t Bytes) -> impl Iterator<Item = (&'t str, &'t [u8])> {
        let lines = self.0.iter();
        lines.map(|(name, value)| (str_at(text, *name), bytes_at(text, *value)))
    }

    fn get<'t>(&'t self, text: &'t Bytes, name: &str) -> Option<&'t str> {
        let (_, value) = self
            .iter(text)
            .find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok()
    }
}

fn bytes_at(text: &Bytes, Span(begin, end): Span) -> &[u8] {
    text.get(begin as usize..end as usize).unwrap_or_default()
}

fn str_at(text: &Bytes, span: Span) -> &str {
    std::str::from_utf8(bytes_at(text, span)).unwrap_or_default()
}

/// A request, copied: head, parameters and body in one piece of memory. From [`Request::to_owned`], and the argument of
/// [`crate::asynchronous`] handlers.
///
/// ```
/// use loopwright::{App, asynchronous};
/// let mut app: App = App::new();
/// app.post("/greet/{name}", asynchronous(|_, req, res| async move {
///     let agent = req.header("user-agent").unwrap_or("somebody");
///     let loud = req.query_param("loud").is_some();
///     res.text(format!("{} {agent} {loud} {}", req.param("name"), req.body().len()));
/// }));
/// ```
#[derive(Clone)]
pub struct OwnedRequest {
    text: Bytes,
    method: Method,
    head: Span,
    path: Span,
    query: Option<Span>,
    authority: Span,
    lines: Lines,
    params: SmallVec<[(Span, Span); 4]>,
    route: Span,
    body: Span,
    peer: Peer,
    id: RequestId,
}

impl Request<'_> {
    /// A copy that may be kept: made once, of all of it.
    pub fn to_owned(&self) -> OwnedRequest {
        let raw = self.head.raw;
        let others = self.route.len() + self.body.len();
        let params = self.params.iter();
        let params = params.map(|(name, value)| name.len() + value.len());
        let mut text = Text::new(raw, others + params.sum::<usize>());
        let head = Span(0, raw.len() as u32);
        let path = text.place(raw, self.head.path.as_bytes());
        let query = self.head.query;
        let query = query.map(|query| text.place(raw, query.as_bytes()));
        let authority = text.place(raw, self.head.authority);
        let lines = Lines::new(self.head.fields, raw, &mut text);
        let place = |(name, value): &(&str, Cow<'_, str>)| {
            (text.append(name.as_bytes()), text.append(value.as_bytes()))
        };
        let params = self.params.iter().map(place).collect();
        let route = text.append(self.route.as_bytes());
        let body = text.append(self.body);
        OwnedRequest {
            text: text.0.into(),
            method: self.head.method.clone(),
            head,
            path,
            query,
            authority,
            lines,
            params,
            route,
            body,
            peer: self.peer,
            id: self.id,
        }
    }
}

impl OwnedRequest {
    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The path as sent: see [`Request::path`].
    pub fn path(&self) -> &str {
        str_at(&self.text, self.path)
    }

    /// The pattern of the route that matched.
    pub fn route(&self) -> &str {
        str_at(&self.text, self.route)
    }

    /// What follows the `?`, as sent.
    pub fn query(&self) -> Option<&str> {
        self.query.map(|query| str_at(&self.text, query))
    }

    /// Name and value of each query parameter, decoded.
    pub fn query_pairs(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        form_urlencoded::parse(self.query().unwrap_or_default().as_bytes())
    }

    /// The first query parameter of this name.
    pub fn query_param(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut pairs = self.query_pairs();
        pairs.find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// A path parameter, percent-decoded once; empty if the pattern has none of this name.
    pub fn param(&self, name: &str) -> &str {
        let mut params = self.params.iter();
        params
            .find(|(key, _)| str_at(&self.text, *key) == name)
            .map_or("", |(_, value)| str_at(&self.text, *value))
    }

    /// The first field of this name (any case), if it is valid UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.lines.get(&self.text, name)
    }

    /// Every field line, as sent: name and value.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.lines.iter(&self.text)
    }

    /// The host (and port) the client wants; empty if it said none.
    pub fn host(&self) -> &str {
        str_at(&self.text, self.authority)
    }

    /// The whole body; empty in stream handlers, which take it as it comes.
    pub fn body(&self) -> &[u8] {
        bytes_at(&self.text, self.body)
    }

    /// The body, to be passed on without a copy.
    pub fn body_bytes(&self) -> Bytes {
        self.text.slice(self.body.0 as usize..self.body.1 as usize)
    }

    /// Who sent it: see [`Request::remote`].
    pub fn remote(&self) -> Peer {
        self.peer
    }

    /// The request's name in logs.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Calls `f` with the request as a handler has it, for what is not told here: forms, cookies, the client's address
    /// behind proxies. The head is parsed anew for it.
    ///
    /// ```
    /// use loopwright::{App, asynchronous};
    /// let mut app: App = App::new();
    /// app.post("/form", asynchronous(|_, req, res| async move {
    ///     let fields = req.view(|req| req.form().map(|fields| fields.count()));
    ///     res.text(fields?.to_string());
    ///     Ok::<_, loopwright::StatusError>(())
    /// }));
    /// ```
    pub fn view<R>(&self, f: impl FnOnce(&Request<'_>) -> R) -> R {
        let raw = bytes_at(&self.text, self.head);
        let mut slots = head::slots();
        let read = head::read(raw, &mut 0, true, &mut slots, &HeadLimits::NONE);
        let Ok(Some(head)) = read else {
            // It has been parsed before, from the same bytes.
            unreachable!("a head that was read cannot be read again");
        };
        let params = self.params.iter().map(|(name, value)| {
            let value = Cow::Borrowed(str_at(&self.text, *value));
            (str_at(&self.text, *name), value)
        });
        let params: SmallVec<[_; 4]> = params.collect();
        f(&Request {
            head: &head,
            params: &params,
            body: self.body(),
            peer: self.peer,
            id: self.id,
            route: self.route(),
        })
    }

    /// The body, read as JSON: see [`Request::json`].
    ///
    /// # Errors
    /// 415 if its type is not JSON, 400 if it cannot be read as a `T`.
    #[cfg(feature = "json")]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, super::failure::StatusError> {
        self.view(|req| req.json())
    }

    /// The value of a cookie.
    #[cfg(feature = "cookies")]
    pub fn cookie(&self, name: &str) -> Option<String> {
        self.view(|req| req.cookie(name))
    }
}

impl fmt::Debug for OwnedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.method, self.path(), self.id)
    }
}

/// An upstream's answer, its head copied: what [`crate::Task::fetch`] is ready with. Its body waits at the upstream until
/// something is done with it; dropped, it is discarded.
///
/// ```
/// use loopwright::{App, Fetch, Upstream, asynchronous};
/// let mut app: App = App::new();
/// app.upstream("api", Upstream::new(["http://127.0.0.1:9000"]));
/// app.get("/big", asynchronous(|task, _, res| async move {
///     let answer = task.fetch("api", Fetch::get("/big")).await?;
///     let kind = answer.header("content-type").unwrap_or("text/plain").to_string();
///     answer.pipe(res.header("content-type", kind)); // as fast as the client takes it
///     Ok::<_, loopwright::FetchError>(())
/// }));
/// ```
pub struct OwnedFetched {
    text: Bytes,
    status: StatusCode,
    lines: Lines,
    length: Option<u64>,
    timings: Timings,
    body: Incoming,
}

impl Fetched<'_> {
    /// A copy of the head, with the body: both may be kept.
    pub fn into_owned(self) -> OwnedFetched {
        let raw = self.head.raw;
        let mut text = Text::new(raw, 0);
        OwnedFetched {
            status: self.status(),
            lines: Lines::new(self.headers(), raw, &mut text),
            length: self.length(),
            timings: self.timings.clone(),
            text: text.0.into(),
            body: self.body,
        }
    }
}

impl OwnedFetched {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The first field of this name (any case), if it is valid UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.lines.get(&self.text, name)
    }

    /// Every field line, as sent: name and value.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.lines.iter(&self.text)
    }

    /// How long the body is, where the head says so.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// How it went so far.
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// The body, to be taken as it comes: [`crate::Task::chunks`].
    pub fn into_body(self) -> Incoming {
        self.body
    }

    /// Sends the body on to a client, read only as fast as it is taken; status and fields are `res`'s.
    pub fn pipe(self, res: super::response::Responder) {
        let to = res.begin(self.length, 0);
        self.body.pipe(to);
    }
}

impl fmt::Debug for OwnedFetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.status, self.timings.server)
    }
}

/// A message of a WebSocket that may be kept.
///
/// ```
/// use loopwright::{Message, OwnedMessage};
/// let message: OwnedMessage = Message::Text("hello").into();
/// assert_eq!(message.as_text(), Some("hello"));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OwnedMessage {
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
}

impl OwnedMessage {
    /// The payload, whatever its kind.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            OwnedMessage::Text(text) => text.as_bytes(),
            OwnedMessage::Binary(bytes) => bytes,
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            OwnedMessage::Text(text) => Some(text),
            OwnedMessage::Binary(_) => None,
        }
    }
}

impl From<Message<'_>> for OwnedMessage {
    fn from(message: Message<'_>) -> OwnedMessage {
        match message {
            Message::Text(text) => OwnedMessage::Text(text.to_string()),
            Message::Binary(bytes) => OwnedMessage::Binary(bytes.to_vec()),
        }
    }
}

impl<'a> From<&'a OwnedMessage> for Message<'a> {
    fn from(message: &'a OwnedMessage) -> Message<'a> {
        match message {
            OwnedMessage::Text(text) => Message::Text(text),
            OwnedMessage::Binary(bytes) => Message::Binary(bytes),
        }
    }
}
