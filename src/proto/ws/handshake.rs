//! Floor 1. The opening handshake (RFC 6455 §4): what a server says to a request for an upgrade, and the
//! client's half of it.
//!
//! Order of use, server: [`is_upgrade`] if the route serves plain requests, too; [`accept`]; then answer 101
//! with [`Accepted::fields`], or with the [`Refusal`]'s status and fields; then a `Session` over what follows.

use super::extension::{self, Agreed};
use crate::proto::h1::head::{Framing, Head};
use crate::proto::http::{Fields, is_token, list};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use sha1::{Digest, Sha1};

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a route for WebSocket agrees to.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Subprotocols, the one preferred first. The first of them that the client lists is chosen; if there is
    /// none, the connection has none, and the client decides whether that will do.
    pub protocols: Vec<String>,
    /// Origins whose pages may connect, as `https://example.org`; `None`: any. A request without `Origin` is
    /// not a page's, and is let in.
    pub origins: Option<Vec<String>>,
    /// Compression; `None`: never.
    pub deflate: Option<extension::Settings>,
}

/// A request that becomes a WebSocket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// The value of `Sec-WebSocket-Accept`.
    pub key: String,
    /// The subprotocol: its place in [`Settings::protocols`].
    pub protocol: Option<usize>,
    /// Compression, for the session.
    pub deflate: Option<Agreed>,
    extensions: Option<String>,
}

impl Accepted {
    /// The fields of the answer 101, `Connection` and `Upgrade` among them.
    pub fn fields<'a>(
        &'a self,
        settings: &'a Settings,
    ) -> impl Iterator<Item = (&'static str, &'a str)> {
        let protocol = self.protocol.and_then(|at| settings.protocols.get(at));
        [
            ("connection", Some("Upgrade")),
            ("upgrade", Some("websocket")),
            ("sec-websocket-accept", Some(&self.key[..])),
            ("sec-websocket-protocol", protocol.map(|name| &name[..])),
            ("sec-websocket-extensions", self.extensions.as_deref()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}

/// A request that does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// Not a GET. 405.
    Method,
    /// Nothing asks for an upgrade, and there is nothing else here. 426.
    NotAnUpgrade,
    /// The request asks for it in a way that is wrong. 400.
    Malformed(&'static str),
    /// Not version 13. 426.
    Version,
    /// A page of another origin. 403.
    Origin,
}

impl Refusal {
    /// The status to answer with.
    pub fn status(self) -> StatusCode {
        match self {
            Refusal::Method => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::NotAnUpgrade | Refusal::Version => StatusCode::UPGRADE_REQUIRED,
            Refusal::Malformed(_) => StatusCode::BAD_REQUEST,
            Refusal::Origin => StatusCode::FORBIDDEN,
        }
    }

    /// The fields that belong to it. `Connection: Upgrade` is due with `Upgrade` (RFC 9110 §7.8).
    pub fn fields(self) -> &'static [(&'static str, &'static str)] {
        const UPGRADE: (&str, &str) = ("upgrade", "websocket");
        match self {
            Refusal::Method => &[("allow", "GET")],
            Refusal::NotAnUpgrade => &[UPGRADE, ("connection", "Upgrade")],
            Refusal::Version => &[
                ("sec-websocket-version", "13"),
                UPGRADE,
                ("connection", "Upgrade"),
            ],
            Refusal::Malformed(_) | Refusal::Origin => &[],
        }
    }

    /// For the log, and the answer's body.
    pub fn reason(self) -> &'static str {
        match self {
            Refusal::Method => "a WebSocket begins with GET",
            Refusal::NotAnUpgrade => "this is a WebSocket: ask for an upgrade",
            Refusal::Malformed(why) => why,
            Refusal::Version => "version 13 of WebSocket is spoken here",
            Refusal::Origin => "not for pages of this origin",
        }
    }
}

fn names(fields: &Fields<'_>, field: &str, word: &str) -> bool {
    let mut members = fields.get_all(field).flat_map(list);
    members.any(|member| member.eq_ignore_ascii_case(word.as_bytes()))
}

/// Whether the request asks to become a WebSocket, rightly or not.
pub fn is_upgrade(head: &Head<'_>) -> bool {
    names(&head.fields, "upgrade", "websocket")
}

/// The value of a field that has to be there once.
fn only<'a>(fields: &Fields<'a>, name: &str) -> Option<&'a [u8]> {
    let mut lines = fields.get_all(name);
    lines.next().filter(|_| lines.next().is_none())
}

/// RFC 6455 §4.2: the server's decision.
///
/// # Errors
/// Why not, with the status to say so.
pub fn accept(head: &Head<'_>, settings: &Settings) -> Result<Accepted, Refusal> {
    let fields = &head.fields;
    if head.method != Method::GET {
        return Err(Refusal::Method);
    }
    let (upgrade, connection) = (is_upgrade(head), names(fields, "connection", "upgrade"));
    if !upgrade && !connection && fields.get("upgrade").is_none() {
        return Err(Refusal::NotAnUpgrade);
    }
    if !upgrade {
        return Err(Refusal::Malformed("Upgrade does not name websocket"));
    }
    if !connection {
        return Err(Refusal::Malformed("Connection does not name upgrade"));
    }
    if head.http_10 {
        return Err(Refusal::Malformed("a WebSocket takes HTTP/1.1"));
    }
    if !matches!(head.framing, Framing::None | Framing::Length(0)) {
        return Err(Refusal::Malformed("a handshake has no body"));
    }
    if only(fields, "sec-websocket-version") != Some(b"13") {
        return Err(Refusal::Version);
    }
    let key = only(fields, "sec-websocket-key").filter(|key| is_key(key));
    let key = key.ok_or(Refusal::Malformed(
        "Sec-WebSocket-Key is not 16 bytes of base64",
    ))?;
    if let Some(origins) = &settings.origins
        && fields.get("origin").is_some()
    {
        let origin = only(fields, "origin").unwrap_or_default();
        let is_allowed = |allowed: &String| origin.eq_ignore_ascii_case(allowed.as_bytes());
        if !origins.iter().any(is_allowed) {
            return Err(Refusal::Origin);
        }
    }
    let offered = || fields.get_all("sec-websocket-protocol").flat_map(list);
    if !offered().all(is_token) {
        return Err(Refusal::Malformed("Sec-WebSocket-Protocol"));
    }
    let is_offered = |ours: &String| offered().any(|theirs| theirs == ours.as_bytes());
    let deflate = extension::accept(fields, settings.deflate.as_ref())
        .map_err(|extension::Malformed| Refusal::Malformed("Sec-WebSocket-Extensions"))?;
    let (deflate, extensions) = deflate.unzip();
    Ok(Accepted {
        key: accept_key(key),
        protocol: settings.protocols.iter().position(is_offered),
        deflate,
        extensions,
    })
}

/// 16 bytes of base64 are 24 characters, the last two of them padding.
fn is_key(key: &[u8]) -> bool {
    STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

/// What the server makes of the client's key (RFC 6455 §4.2.2).
///
/// ```
/// use loopwright::proto::ws::handshake::accept_key;
///
/// assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
/// ```
pub fn accept_key(key: &[u8]) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// The client's half.
#[derive(Clone, Debug)]
pub struct Client {
    key: String,
    protocols: Vec<String>,
    deflate: Option<extension::Settings>,
}

/// What a client has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connected {
    /// The subprotocol: its place in what was offered.
    pub protocol: Option<usize>,
    /// Compression, for the session.
    pub deflate: Option<Agreed>,
}

impl Client {
    /// `nonce` is drawn at random, for this connection alone.
    pub fn new(
        nonce: [u8; 16],
        protocols: Vec<String>,
        deflate: Option<extension::Settings>,
    ) -> Client {
        Client {
            key: STANDARD.encode(nonce),
            protocols,
            deflate: deflate.filter(|_| cfg!(feature = "deflate")),
        }
    }

    /// Appends the request. `target` and `host` are the caller's to get right.
    pub fn request(&self, target: &str, host: &str, out: &mut Vec<u8>) {
        let mut line = |parts: &[&str]| {
            parts
                .iter()
                .for_each(|part| out.extend_from_slice(part.as_bytes()));
            out.extend_from_slice(b"\r\n");
        };
        line(&["GET ", target, " HTTP/1.1"]);
        line(&["host: ", host]);
        line(&["connection: Upgrade"]);
        line(&["upgrade: websocket"]);
        line(&["sec-websocket-version: 13"]);
        line(&["sec-websocket-key: ", &self.key]);
        if !self.protocols.is_empty() {
            line(&["sec-websocket-protocol: ", &self.protocols.join(", ")]);
        }
        if let Some(settings) = &self.deflate {
            line(&["sec-websocket-extensions: ", &extension::offer(settings)]);
        }
        line(&[]);
    }

    /// RFC 6455 §4.1: whether the answer makes a WebSocket of it.
    ///
    /// # Errors
    /// Why not.
    pub fn check(
        &self,
        status: StatusCode,
        fields: &Fields<'_>,
    ) -> Result<Connected, &'static str> {
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return Err("the server does not switch protocols");
        }
        if !names(fields, "upgrade", "websocket") || !names(fields, "connection", "upgrade") {
            return Err("Upgrade or Connection is missing");
        }
        if only(fields, "sec-websocket-accept") != Some(accept_key(self.key.as_bytes()).as_bytes())
        {
            return Err("Sec-WebSocket-Accept is not made from our key");
        }
        let protocol = match fields.get("sec-websocket-protocol") {
            None => None,
            Some(_) => {
                let chosen = only(fields, "sec-websocket-protocol").unwrap_or_default();
                let place = self
                    .protocols
                    .iter()
                    .position(|name| name.as_bytes() == chosen);
                Some(place.ok_or("a subprotocol that was not offered")?)
            }
        };
        let deflate = extension::check_answer(fields, self.deflate.as_ref())?;
        Ok(Connected { protocol, deflate })
    }
}
