//! Floor 2. A request, as a callback sees it: a view into the receive buffer.

use super::failure::StatusError;
use crate::base::id::RequestId;
use crate::net::Peer;
use crate::proto::forwarded::{self, Trusted};
use crate::proto::h1::head::{Framing, Head};
use crate::proto::http::Fields;
use crate::proto::ws::handshake;
use http::Method;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

/// Path parameters in the order of the pattern, percent-decoded.
pub(crate) type Params<'a> = SmallVec<[(&'a str, Cow<'a, str>); 4]>;

/// A read-only view of one request. It borrows from the receive buffer, so it ends with its
/// callback; copy what a later callback needs.
///
/// ```
/// use loopwright::App;
/// let mut app: App = App::new();
/// app.post("/greet/{name}", |_, req, res| {
///     let agent = req.header("user-agent").unwrap_or("somebody");
///     let loud = req.query_param("loud").is_some();
///     let body = req.body().len();
///     res.text(format!("{} {agent} {loud} {body} {}", req.param("name"), req.remote()));
/// });
/// ```
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub(crate) head: &'a Head<'a>,
    pub(crate) params: &'a [(&'a str, Cow<'a, str>)],
    pub(crate) body: &'a [u8],
    pub(crate) peer: Peer,
    pub(crate) id: RequestId,
    pub(crate) route: &'a str,
}

impl<'a> Request<'a> {
    /// The method.
    pub fn method(&self) -> &'a Method {
        &self.head.method
    }

    /// The path as sent, percent-encoded; `*` for `OPTIONS *`. Routes match on it segment by
    /// segment, so compare with [`Request::route`] or a parameter where security depends on it.
    pub fn path(&self) -> &'a str {
        self.head.path
    }

    /// The pattern of the route that matched, as registered; empty if none did.
    pub fn route(&self) -> &'a str {
        self.route
    }

    /// What follows the `?`, as sent.
    pub fn query(&self) -> Option<&'a str> {
        self.head.query
    }

    /// Name and value of each query parameter, decoded as `application/x-www-form-urlencoded`.
    pub fn query_pairs(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> + use<'a> {
        form_urlencoded::parse(self.head.query.unwrap_or("").as_bytes())
    }

    /// The first query parameter of this name.
    pub fn query_param(&self, name: &str) -> Option<Cow<'a, str>> {
        self.query_pairs()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }

    /// A path parameter, percent-decoded once; empty if the pattern has none of this name.
    pub fn param(&self, name: &str) -> &'a str {
        self.params
            .iter()
            .find(|(key, _)| *key == name)
            .map_or("", |(_, value)| value)
    }

    /// The first field of this name (any case), if it is valid UTF-8.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.head
            .fields
            .get(name)
            .and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The id of the last event that a client of server-sent events has got, when it comes back:
    /// `Last-Event-ID`. See [`crate::Replay`].
    pub fn last_event_id(&self) -> Option<&'a str> {
        self.header("last-event-id").filter(|id| !id.is_empty())
    }

    /// Every field line, as sent.
    pub fn headers(&self) -> Fields<'a> {
        self.head.fields
    }

    /// The host (and port) the client wants, from `Host` or an absolute target. Empty if it said none.
    pub fn host(&self) -> &'a str {
        // The head's check has let only ASCII pass.
        std::str::from_utf8(self.head.authority).unwrap_or("")
    }

    /// The whole body. Empty in middleware and stream handlers, which run before it has arrived.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Who sent it: the other end of the connection, or whom the PROXY protocol has named
    /// ([`crate::Builder::proxy_protocol`]).
    pub fn remote(&self) -> Peer {
        self.peer
    }

    /// The client's address, as proxies in front have told it in `Forwarded` or `X-Forwarded-For`: read from the
    /// right, for as long as those are `trusted` who say it; nobody else can choose what it is. `None` is a Unix
    /// socket. Without proxies it is that of [`Request::remote`].
    ///
    /// ```
    /// use loopwright::{App, Trusted};
    /// let trusted = Trusted::parse(["10.0.0.0/8", "unix"]).unwrap();
    /// let mut app: App = App::new();
    /// app.get("/whoami", move |_, req, res| match req.client_ip(&trusted) {
    ///     Some(ip) => res.text(ip.to_string()),
    ///     None => res.text("somebody on this machine"),
    /// });
    /// ```
    pub fn client_ip(&self, trusted: &Trusted) -> Option<IpAddr> {
        forwarded::client(self.peer.ip(), &self.head.fields, trusted).address
    }

    /// The request's name in logs.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Whether it asks to go on as a WebSocket (RFC 6455 §4.1), rightly or not.
    pub fn wants_websocket(&self) -> bool {
        handshake::is_upgrade(self.head)
    }

    /// How long the body is, if its head says so: not of one that comes in chunks. 0 if there is none.
    pub fn content_length(&self) -> Option<u64> {
        match self.head.framing {
            Framing::None => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        }
    }

    /// The media type of the body, lower-cased, without parameters; empty if there is none.
    pub fn content_type(&self) -> String {
        let value = self.header("content-type").unwrap_or("");
        value
            .split(';')
            .next()
            .unwrap_or("")
            .trim()
            .to_ascii_lowercase()
    }

    /// Name and value of each field of an HTML form (`application/x-www-form-urlencoded`).
    ///
    /// # Errors
    /// 415 if the body is of another type.
    ///
    /// ```
    /// use loopwright::{App, StatusError};
    /// let mut app: App = App::new();
    /// app.post("/form", |_, req, res| -> Result<(), StatusError> {
    ///     let names: Vec<_> = req.form()?.map(|(name, _)| name.into_owned()).collect();
    ///     res.text(names.join(","));
    ///     Ok(())
    /// });
    /// ```
    pub fn form(
        &self,
    ) -> Result<impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> + use<'a>, StatusError> {
        match self.content_type().as_str() {
            "application/x-www-form-urlencoded" => Ok(form_urlencoded::parse(self.body)),
            other => Err(StatusError::new(415, format!("want a form, not {other:?}"))),
        }
    }

    /// The body, read as JSON.
    ///
    /// # Errors
    /// 415 if its type is not JSON, 400 with line and column if it cannot be read as a `T`.
    ///
    /// ```
    /// use loopwright::{App, StatusError};
    /// #[derive(serde::Deserialize, serde::Serialize)]
    /// struct Point { x: i32, y: i32 }
    /// let mut app: App = App::new();
    /// app.post("/mirror", |_, req, res| -> Result<(), StatusError> {
    ///     let Point { x, y } = req.json()?;
    ///     res.json(&Point { x: y, y: x });
    ///     Ok(())
    /// });
    /// ```
    #[cfg(feature = "json")]
    pub fn json<T: serde::Deserialize<'a>>(&self) -> Result<T, StatusError> {
        let kind = self.content_type();
        if kind != "application/json" && !kind.ends_with("+json") {
            return Err(StatusError::new(
                415,
                format!("want application/json, not {kind:?}"),
            ));
        }
        serde_json::from_slice(self.body).map_err(|e| StatusError::new(400, format!("JSON: {e}")))
    }

    /// Every cookie the client sent, percent-decoded. What is no cookie is left out.
    #[cfg(feature = "cookies")]
    pub fn cookies(&self) -> impl Iterator<Item = cookie::Cookie<'a>> + use<'a> {
        self.head
            .fields
            .get_all("cookie")
            .filter_map(|line| std::str::from_utf8(line).ok())
            .flat_map(cookie::Cookie::split_parse_encoded)
            .filter_map(Result::ok)
    }

    /// The value of a cookie.
    ///
    /// ```
    /// use loopwright::App;
    /// let mut app: App = App::new();
    /// app.get("/", |_, req, res| res.text(req.cookie("theme").unwrap_or_default()));
    /// ```
    #[cfg(feature = "cookies")]
    pub fn cookie(&self, name: &str) -> Option<String> {
        self.cookies()
            .find(|cookie| cookie.name() == name)
            .map(|cookie| cookie.value().to_string())
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.head.method, self.head.path, self.id)
    }
}
