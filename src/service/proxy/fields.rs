//! Floor 4. Which field lines pass a proxy: a request's, on their way to a server, and an answer's, on their
//! way back. The table of RFC 9110 §7.6.1, and what has been learned since it was written.
//!
//! | field | request | answer | why |
//! | --- | --- | --- | --- |
//! | `Connection`, and what it names | dropped | dropped | §7.6.1; but see below |
//! | `Keep-Alive`, `Proxy-Connection`, `Transfer-Encoding` | dropped | dropped | §7.6.1: of this connection alone |
//! | `Upgrade`, `HTTP2-Settings` | dropped | dropped | §7.8; `Upgrade` is written anew for a tunnel. `h2c` is a way around a proxy |
//! | `TE` | `trailers` or nothing | dropped | §10.1.4, and announced in `Connection` as it asks |
//! | `Trailer` | kept if chunked | kept | §6.6.2: for the recipient of the trailers, which pass |
//! | `Proxy-Authenticate`, `-Authorization`, `-Authentication-Info` | dropped | dropped | §11.7: between a client and its own proxy |
//! | `Proxy` | dropped | kept | a CGI program's `HTTP_PROXY` (httpoxy) |
//! | `Content-Length` | written anew | dropped | the number that was parsed, or `chunked`: never what was sent |
//! | `Host` | written anew | kept | first; from the target if that was in absolute-form (RFC 9112 §3.2.2) |
//! | `Expect` | `100-continue` if asked for | kept | §10.1.1 |
//! | `Max-Forwards` | counted, for TRACE and OPTIONS | kept | §7.6.2 |
//! | `Via` | one added | one added | §7.6.3; one's own more than so often is a loop |
//! | `Forwarded`, `X-Forwarded-For`, `-Proto`, `-Host` | written anew | kept | what is in them is passed on if the peer is trusted |
//! | other `X-Forwarded-*`, `X-Real-IP` | kept if the peer is trusted | kept | who else could know? |
//! | any other | kept | kept | byte for byte, in its place |
//!
//! **What `Connection` cannot name away.** RFC 9110 lets it name any field, and forbids to name those that
//! are for every recipient. A client that does so all the same wants the server to miss what somebody else
//! relies on (`Connection: x-forwarded-for`, `authorization`): such an option is not heard. What is written
//! here is written when all this is over, and cannot be named away either.
//!
//! **Underscores.** To many servers (CGI and what comes from it) `X_Forwarded_For` and `X-Forwarded-For`
//! are one name. So a name with an underscore passes (nginx drops them all), unless with hyphens it would
//! be one of this table or of a rule: then it is dropped.
//!
//! Not touched: `Location`, `Set-Cookie`, `Alt-Svc` and whatever else of an answer names a host. `Server` and
//! `Date` are the server's if it has sent them.
//!
//! Invariants: one `Host` and one way to tell a body's end in each request; nothing a client says can end
//! a line. No memory is taken but that of the output. The costs are bounded: lines by `limits.fields`,
//! what `Connection` names by [`MAX_OPTIONS`].

use super::path::{Escapes, Rewrite};
use crate::proto::forwarded::{self, Client, Dialect, Trusted};
use crate::proto::h1::head::{Framing, Head};
use crate::proto::http::{Fields, is_token, is_value_byte, list, trim_ows};
use crate::{Method, RequestId};
use std::fmt;
use std::io::Write;
use std::net::IpAddr;

/// So many fields a message's `Connection` may name. Nobody needs one.
pub const MAX_OPTIONS: usize = 16;
/// How often a request may have come here before, by default.
pub const MAX_VISITS: usize = 8;

/// What `Host` says to the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostRule {
    /// What the client said.
    #[default]
    Keep,
    /// The server's own.
    Upstream,
    /// This.
    Named(String),
}

/// Which fields tell the server who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// `X-Forwarded-For`, `-Proto` and `-Host`.
    pub x_forwarded: bool,
    /// `Forwarded`.
    pub forwarded: bool,
}

impl Default for Announced {
    fn default() -> Self {
        Announced {
            x_forwarded: true,
            forwarded: false,
        }
    }
}

/// What happens to the fields on their way, as the config says.
///
/// ```
/// use loopwright::proto::forwarded::Trusted;
/// use loopwright::proto::h1::head::{read, slots, HeadLimits};
/// use loopwright::service::proxy::fields::{Incoming, Rules, Towards};
/// let mut rules = Rules::new("edge");
/// rules.request.set("x-request-id", "{request_id}").unwrap();
/// rules.request.remove("cookie").unwrap();
///
/// let head = b"GET /a?b HTTP/1.1\r\nHost: example.org\r\nCookie: a=b\r\nConnection: close\r\nAccept: */*\r\n\r\n";
/// let mut slots = slots();
/// let head = read(head, &mut 0, true, &mut slots, &HeadLimits::NONE).unwrap().unwrap();
/// let peer = Some("192.0.2.1".parse().unwrap());
/// let incoming = Incoming::of(&head, peer, &Trusted::default(), Default::default());
/// let mut out = Vec::new();
/// rules.request(&mut out, &incoming, &Towards::server("10.0.0.1:80", &head)).unwrap();
/// assert_eq!(
///     String::from_utf8(out).unwrap(),
///     "GET /a?b HTTP/1.1\r\nhost: example.org\r\nAccept: */*\r\nvia: 1.1 edge\r\nx-forwarded-for: 192.0.2.1\r\n\
///      x-forwarded-proto: http\r\nx-forwarded-host: example.org\r\nx-request-id: 0000000000000000\r\n\r\n"
/// );
/// ```
#[derive(Clone, Debug)]
pub struct Rules {
    /// Of the request's path.
    pub path: Rewrite,
    /// Of its host.
    pub host: HostRule,
    /// What the server is told of the client.
    pub announced: Announced,
    /// How often a request may have come here before.
    pub visits: usize,
    /// Of the request's fields.
    pub request: Edits,
    /// Of the answer's.
    pub response: Edits,
    pseudonym: String,
    /// What is added to `Via`, behind whoever speaks HTTP/1.0 and for any other.
    via: [String; 2],
}

impl Rules {
    /// Those that hold where nothing is said. `pseudonym` is our name in `Via`: a token, or a host.
    pub fn new(pseudonym: &str) -> Rules {
        let pseudonym = match pseudonym.bytes().all(|b| b.is_ascii_graphic() && b != b',') {
            true if !pseudonym.is_empty() => pseudonym,
            _ => "loopwright",
        };
        Rules {
            path: Rewrite::default(),
            host: HostRule::default(),
            announced: Announced::default(),
            visits: MAX_VISITS,
            request: Edits::default(),
            response: Edits::default(),
            via: ["1.0", "1.1"].map(|version| format!("{version} {pseudonym}")),
            pseudonym: pseudonym.to_string(),
        }
    }
}

/// What one direction adds, and leaves out.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    /// Names that do not pass, folded: to be removed, or to be set.
    dropped: Vec<Vec<u8>>,
    /// A bit for each length and first letter in `dropped`: rules out nearly every name.
    sieve: u64,
    written: Vec<(String, Template)>,
}

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleError {
    /// Not a field's name.
    Name(String),
    /// A field that is written by the proxy alone.
    Ours(String),
    /// A value that no field can have.
    Value(String),
    /// A placeholder that there is not.
    Placeholder(String),
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleError::Name(name) => write!(f, "{name:?} is no field name"),
            RuleError::Ours(name) => write!(f, "{name:?} is written by the proxy itself"),
            RuleError::Value(_) => f.write_str("a value that holds a control character"),
            RuleError::Placeholder(name) => write!(
                f,
                "no placeholder {{{name}}}: there are {{client_ip}}, {{host}}, {{proto}} and {{request_id}}; {{{{ is a brace"
            ),
        }
    }
}

impl std::error::Error for RuleError {}

impl Edits {
    /// One line of this name, in place of those there are. `value` may hold `{client_ip}`, `{host}`,
    /// `{proto}` and `{request_id}`; `{{` and `}}` are braces.
    ///
    /// # Errors
    /// The name or the value cannot be, or is not for rules to write.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), RuleError> {
        self.add(name, value)?;
        self.drop(name);
        Ok(())
    }

    /// One more line.
    ///
    /// # Errors
    /// As for [`Edits::set`].
    pub fn add(&mut self, name: &str, value: &str) -> Result<(), RuleError> {
        check_name(name)?;
        let value = Template::parse(value)?;
        self.written.push((name.to_string(), value));
        Ok(())
    }

    /// No line of this name, as far as it is not set or added.
    ///
    /// # Errors
    /// The name cannot be, or is not for rules to remove.
    pub fn remove(&mut self, name: &str) -> Result<(), RuleError> {
        check_name(name)?;
        self.drop(name);
        Ok(())
    }

    fn drop(&mut self, name: &str) {
        let folded: Vec<u8> = name.bytes().map(|b| FOLD[usize::from(b)]).collect();
        self.sieve |= sieve(&folded);
        self.dropped.push(folded);
    }

    /// Whether something is said of the request.
    pub fn is_about_request(&self) -> bool {
        let is_text = |piece: &Piece| matches!(piece, Piece::Text(_));
        !self
            .written
            .iter()
            .all(|(_, template)| template.0.iter().all(is_text))
    }

    fn drops(&self, name: &[u8]) -> bool {
        self.sieve & sieve(name) != 0 && self.dropped.iter().any(|dropped| same(name, dropped))
    }
}

/// A token that is not for the proxy alone to write.
fn check_name(name: &str) -> Result<(), RuleError> {
    if !is_token(name.as_bytes()) {
        return Err(RuleError::Name(name.to_string()));
    }
    match kind(name.as_bytes()) {
        Kind::Other | Kind::Client(_) | Kind::ClientOther | Kind::Trailer => Ok(()),
        _ => Err(RuleError::Ours(name.to_string())),
    }
}

fn sieve(name: &[u8]) -> u64 {
    let first = name.first().map_or(0, |&b| FOLD[usize::from(b)]);
    1 << ((usize::from(first) ^ (name.len() * 5)) % 64)
}

/// A value, in pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    ClientIp,
    Host,
    Proto,
    RequestId,
}

impl Template {
    fn parse(text: &str) -> Result<Template, RuleError> {
        if !text.bytes().all(is_value_byte) {
            return Err(RuleError::Value(text.to_string()));
        }
        let (mut pieces, mut plain) = (Vec::new(), String::new());
        let mut rest = text.trim_matches([' ', '\t']);
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..];
            if brace.starts_with("{{") || brace.starts_with("}}") {
                plain.push_str(&brace[..1]);
                rest = &brace[2..];
                continue;
            }
            let inner = brace.strip_prefix('{').and_then(|b| b.split_once('}'));
            let (name, after) = inner.ok_or_else(|| RuleError::Placeholder(brace.to_string()))?;
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
            pieces.push(match name {
                "client_ip" => Piece::ClientIp,
                "host" => Piece::Host,
                "proto" => Piece::Proto,
                "request_id" => Piece::RequestId,
                _ => return Err(RuleError::Placeholder(name.to_string())),
            });
            rest = after;
        }
        plain.push_str(rest);
        pieces.push(Piece::Text(plain));
        Ok(Template(pieces))
    }

    fn write(&self, out: &mut Vec<u8>, incoming: &Incoming<'_>) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::ClientIp => address(out, incoming.client.address),
                Piece::Host => out.extend_from_slice(incoming.host()),
                Piece::Proto => out.extend_from_slice(incoming.proto().as_bytes()),
                // Writing to a Vec cannot fail.
                Piece::RequestId => _ = write!(out, "{}", incoming.id),
            }
        }
    }
}

/// A client on a Unix socket has none.
fn address(out: &mut Vec<u8>, ip: Option<IpAddr>) {
    // Writing to a Vec cannot fail.
    let _ = match ip.map(|ip| ip.to_canonical()) {
        // Digit by digit is faster than what formats with widths.
        Some(IpAddr::V4(ip)) => {
            let mut digits = itoa::Buffer::new();
            for (n, octet) in ip.octets().into_iter().enumerate() {
                if n > 0 {
                    out.push(b'.');
                }
                out.extend_from_slice(digits.format(octet).as_bytes());
            }
            Ok(())
        }
        Some(IpAddr::V6(ip)) => write!(out, "{ip}"),
        None => out.write_all(b"unknown"),
    };
}

/// A request as it came, and whom it comes from.
#[derive(Clone, Debug)]
pub struct Incoming<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path as sent.
    pub path: &'a str,
    /// The query as sent.
    pub query: Option<&'a str>,
    /// The host it wants.
    pub authority: &'a [u8],
    /// The field lines.
    pub fields: Fields<'a>,
    /// Whether the client speaks HTTP/1.0.
    pub http_10: bool,
    /// The other end of the connection; `None` for a Unix socket.
    pub peer: Option<IpAddr>,
    /// Whether that is trusted.
    pub trusted: bool,
    /// Who asks, as far as it is believed.
    pub client: Client<'a>,
    /// Its name in the logs.
    pub id: RequestId,
}

impl<'a> Incoming<'a> {
    /// Of a head.
    pub fn of(
        head: &'a Head<'a>,
        peer: Option<IpAddr>,
        trusted: &Trusted,
        id: RequestId,
    ) -> Incoming<'a> {
        Incoming {
            method: &head.method,
            path: head.path,
            query: head.query,
            authority: head.authority,
            fields: head.fields,
            http_10: head.http_10,
            peer,
            trusted: trusted.contains(peer),
            client: forwarded::client(peer, &head.fields, trusted),
            id,
        }
    }

    /// The host the client asked the first trusted proxy for.
    fn host(&self) -> &'a [u8] {
        self.client.host.unwrap_or(self.authority)
    }

    /// No listener of ours speaks TLS.
    fn proto(&self) -> &'a str {
        self.client.proto.unwrap_or("http")
    }
}

/// What an answer's rules may want to know of its request, when that is gone.
#[derive(Clone, Debug)]
pub struct Asker {
    method: Method,
    host: Vec<u8>,
    proto: String,
    client: Option<IpAddr>,
    id: RequestId,
}

impl Default for Asker {
    fn default() -> Asker {
        Asker {
            method: Method::GET,
            host: Vec::new(),
            proto: String::new(),
            client: None,
            id: RequestId::default(),
        }
    }
}

impl Asker {
    /// Of a request.
    pub fn of(incoming: &Incoming<'_>) -> Asker {
        Asker {
            method: incoming.method.clone(),
            host: incoming.host().to_vec(),
            proto: incoming.proto().to_string(),
            client: incoming.client.address,
            id: incoming.id,
        }
    }

    /// The same again, without its fields.
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming {
            method: &self.method,
            path: "",
            query: None,
            authority: &self.host,
            fields: Fields::default(),
            http_10: false,
            peer: None,
            trusted: false,
            client: Client {
                address: self.client,
                proto: Some(&self.proto),
                host: None,
                heard: None,
            },
            id: self.id,
        }
    }
}

/// The one protocol that a request asks to change to, if that may be passed on (RFC 9110 §7.8): not HTTP/2,
/// which would be a way around everything that is decided here, and TLS neither.
pub fn upgrade<'a>(head: &Head<'a>) -> Option<&'a str> {
    let asks = |name: &str, option: &str| {
        let mut lines = head.fields.get_all(name);
        lines.any(|line| list(line).any(|one| one.eq_ignore_ascii_case(option.as_bytes())))
    };
    let mut lines = head.fields.get_all("upgrade");
    let (protocol, None) = (std::str::from_utf8(lines.next()?).ok()?, lines.next()) else {
        return None;
    };
    let begins = |prefix: &str| {
        let its = protocol.get(..prefix.len()).unwrap_or_default();
        its.eq_ignore_ascii_case(prefix)
    };
    let is_known_harm = begins("h2") || begins("http") || begins("tls");
    let is_alone = head.framing == Framing::None && head.method == Method::GET && !head.http_10;
    let is_one = protocol
        .bytes()
        .all(|b| b == b'/' || crate::proto::http::is_token_byte(b));
    (is_alone && is_one && !is_known_harm && asks("connection", "upgrade")).then_some(protocol)
}

/// The value of a cookie, as sent.
pub fn cookie<'a>(fields: &Fields<'a>, name: &str) -> Option<&'a [u8]> {
    let lines = fields.get_all("cookie");
    let mut pairs = lines.flat_map(|line| line.split(|&b| b == b';'));
    pairs.find_map(|pair| {
        let rest = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=")
    })
}

/// To whom a request goes, and how its body is sent there.
#[derive(Clone, Copy, Debug)]
pub struct Towards<'a> {
    /// The server's own host and port.
    pub authority: &'a str,
    /// How the body's end is told.
    pub framing: Framing,
    /// Whether the server is asked to say that it wants the body.
    pub expects_continue: bool,
    /// The protocol to change to, for a tunnel.
    pub upgrade: Option<&'a str>,
    /// Whether the connection ends with the answer.
    pub close: bool,
}

impl<'a> Towards<'a> {
    /// To this server, with the body as it comes.
    pub fn server(authority: &'a str, head: &Head<'_>) -> Towards<'a> {
        Towards {
            authority,
            framing: head.framing,
            expects_continue: head.expects_continue,
            upgrade: None,
            close: false,
        }
    }
}

/// Why a request does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `Max-Forwards` is zero: it is ours to answer (RFC 9110 §7.6.2), as the last recipient.
    Last,
    /// It has come here too often.
    Loop,
    /// Its path leads out of what it was asked for under.
    Path,
    /// Its `Connection` names more than [`MAX_OPTIONS`] fields.
    Options,
    /// `Max-Forwards` is no number.
    MaxForwards,
}

impl Stop {
    /// The status to answer with. A loop is 508, which names the mistake, and is nobody else's answer; RFC 9209
    /// recommends 502. What is [`Stop::Last`] is answered as a request to ourselves.
    pub fn status(self) -> u16 {
        match self {
            Stop::Last => 200,
            Stop::Loop => 508,
            Stop::Path | Stop::Options | Stop::MaxForwards => 400,
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Last => f.write_str("Max-Forwards is 0"),
            Stop::Loop => f.write_str("the request has come here too often (Via)"),
            Stop::Path => Escapes.fmt(f),
            Stop::Options => write!(f, "Connection names more than {MAX_OPTIONS} fields"),
            Stop::MaxForwards => f.write_str("Max-Forwards is no number"),
        }
    }
}

impl std::error::Error for Stop {}

/// What a field is to a proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Nothing in particular: it passes.
    Other,
    /// Of one connection, or between others: dropped.
    Hop,
    /// Dropped from requests.
    Httpoxy,
    Connection,
    Host,
    Te,
    Trailer,
    Expect,
    Via,
    MaxForwards,
    /// Who asks.
    Client(Says),
    /// The same, in names that are not ours to write.
    ClientOther,
    /// With hyphens for underscores it would be one of the above.
    Twin,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Says {
    Forwarded,
    For,
    Proto,
    Host,
}

/// Letters in lower case, underscores as hyphens.
const FOLD: [u8; 256] = {
    let mut table = [0; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = match b as u8 {
            b'_' => b'-',
            byte => byte.to_ascii_lowercase(),
        };
        b += 1;
    }
    table
};

/// Whether a name is `folded`, which is.
fn same(name: &[u8], folded: &[u8]) -> bool {
    name.len() == folded.len()
        && name
            .iter()
            .zip(folded)
            .all(|(&b, &its)| FOLD[usize::from(b)] == its)
}

/// Length and first letter rule out nearly every name but one, which is compared.
fn kind(name: &[u8]) -> Kind {
    let Some(&first) = name.first() else {
        return Kind::Other;
    };
    let (known, kind): (&[u8], Kind) = match (name.len(), first | 0x20) {
        (2, b't') => (b"te", Kind::Te),
        (3, b'v') => (b"via", Kind::Via),
        (4, b'h') => (b"host", Kind::Host),
        (5, b'p') => (b"proxy", Kind::Httpoxy),
        (6, b'e') => (b"expect", Kind::Expect),
        (7, b'u') => (b"upgrade", Kind::Hop),
        (7, b't') => (b"trailer", Kind::Trailer),
        (9, b'f') => (b"forwarded", Kind::Client(Says::Forwarded)),
        (9, b'x') => (b"x-real-ip", Kind::ClientOther),
        (10, b'c') => (b"connection", Kind::Connection),
        (10, b'k') => (b"keep-alive", Kind::Hop),
        (12, b'm') => (b"max-forwards", Kind::MaxForwards),
        (14, b'c') => (b"content-length", Kind::Hop),
        (14, b'h') => (b"http2-settings", Kind::Hop),
        (15, b'x') => (b"x-forwarded-for", Kind::Client(Says::For)),
        (16, b'x') => (b"x-forwarded-host", Kind::Client(Says::Host)),
        (16, b'p') => (b"proxy-connection", Kind::Hop),
        (17, b't') => (b"transfer-encoding", Kind::Hop),
        (17, b'x') => (b"x-forwarded-proto", Kind::Client(Says::Proto)),
        (18, b'p') => (b"proxy-authenticate", Kind::Hop),
        (19, b'p') => (b"proxy-authorization", Kind::Hop),
        (25, b'p') => (b"proxy-authentication-info", Kind::Hop),
        (12.., b'x') => (b"", Kind::Other),
        _ => return Kind::Other,
    };
    const FAMILY: &[u8] = b"x-forwarded-";
    let kind = match same(name, known) {
        true => kind,
        false if name.len() >= FAMILY.len() && same(&name[..FAMILY.len()], FAMILY) => {
            Kind::ClientOther
        }
        false => return Kind::Other,
    };
    match memchr::memchr(b'_', name) {
        Some(_) => Kind::Twin,
        None => kind,
    }
}

/// What a message's `Connection` names: fields that do not pass.
struct Options<'a> {
    named: [&'a [u8]; MAX_OPTIONS],
    count: usize,
}

impl<'a> Options<'a> {
    /// `None` if there are too many.
    fn read(fields: &Fields<'a>) -> Option<Options<'a>> {
        let mut options = Options {
            named: [b""; MAX_OPTIONS],
            count: 0,
        };
        for (name, value) in fields.iter() {
            if name.len() == 10 && name.eq_ignore_ascii_case("connection") {
                // As nearly all say.
                if value.eq_ignore_ascii_case(b"keep-alive") || value == b"close" {
                    continue;
                }
                for option in list(value).map(trim_ows).filter(|option| passes(option)) {
                    *options.named.get_mut(options.count)? = option;
                    options.count += 1;
                }
            }
        }
        Some(options)
    }

    fn name(&self, name: &[u8]) -> bool {
        let named = &self.named[..self.count];
        named.iter().any(|option| option.eq_ignore_ascii_case(name))
    }
}

/// Whether a field of this name would pass, and may be named away. Those for every recipient may not:
/// what the message is about, who sends it, and what may be done with it.
fn passes(option: &[u8]) -> bool {
    const FOR_ALL: [&[u8]; 12] = [
        b"authorization",
        b"cache-control",
        b"close",
        b"cookie",
        b"cookie2",
        b"date",
        b"etag",
        b"location",
        b"origin",
        b"range",
        b"set-cookie",
        b"www-authenticate",
    ];
    let begins = |start: &[u8]| option.len() >= start.len() && same(&option[..start.len()], start);
    kind(option) == Kind::Other
        && !begins(b"content-")
        && !begins(b"if-")
        && !begins(b"sec-")
        && !FOR_ALL.iter().any(|name| same(option, name))
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

impl Rules {
    /// Writes a request's head for a server. Nothing is written if it does not go on.
    ///
    /// # Errors
    /// Why it does not.
    pub fn request(
        &self,
        out: &mut Vec<u8>,
        incoming: &Incoming<'_>,
        to: &Towards<'_>,
    ) -> Result<(), Stop> {
        let start = out.len();
        let written = self.write_request(out, incoming, to);
        if written.is_err() {
            out.truncate(start);
        }
        written
    }

    fn write_request(
        &self,
        out: &mut Vec<u8>,
        incoming: &Incoming<'_>,
        to: &Towards<'_>,
    ) -> Result<(), Stop> {
        let options = Options::read(&incoming.fields).ok_or(Stop::Options)?;
        out.extend_from_slice(incoming.method.as_str().as_bytes());
        out.push(b' ');
        self.path
            .write(out, incoming.path, incoming.query)
            .map_err(|Escapes| Stop::Path)?;
        out.extend_from_slice(b" HTTP/1.1\r\n");
        let host = match &self.host {
            HostRule::Keep if !incoming.authority.is_empty() => incoming.authority,
            HostRule::Named(name) => name.as_bytes(),
            // HTTP/1.0 has none, or an empty one, which is nobody's.
            HostRule::Keep | HostRule::Upstream => to.authority.as_bytes(),
        };
        // Written by whoever knows the server, when that is chosen.
        if !host.is_empty() {
            line(out, b"host", host);
        }
        let (mut visits, mut trailers) = (0, false);
        for (name, value) in incoming.fields.iter() {
            let name = name.as_bytes();
            let passes = match kind(name) {
                Kind::Other => true,
                Kind::ClientOther => incoming.trusted,
                Kind::Trailer => to.framing == Framing::Chunked,
                Kind::Via => {
                    visits += self.visits_in(value);
                    true
                }
                Kind::MaxForwards => match *incoming.method {
                    Method::OPTIONS | Method::TRACE => {
                        max_forwards(out, value)?;
                        false
                    }
                    _ => true,
                },
                Kind::Te => {
                    trailers |= list(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
                    false
                }
                _ => false,
            };
            let dropped = !passes
                || (options.count > 0 && options.name(name))
                || (self.request.sieve != 0 && self.request.drops(name));
            if !dropped {
                line(out, name, value);
            }
        }
        if visits > self.visits {
            return Err(Stop::Loop);
        }
        let via = &self.via[usize::from(!incoming.http_10)];
        line(out, b"via", via.as_bytes());
        self.announce(out, incoming);
        for (name, value) in &self.request.written {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            value.write(out, incoming);
            out.extend_from_slice(b"\r\n");
        }
        finish(out, incoming.method, to, trailers);
        Ok(())
    }

    /// How many members of a `Via` are ours.
    fn visits_in(&self, value: &[u8]) -> usize {
        let ours = |member: &&[u8]| {
            let mut words = member.split(u8::is_ascii_whitespace);
            let by = words.by_ref().skip(1).find(|word| !word.is_empty());
            by.is_some_and(|by| by.eq_ignore_ascii_case(self.pseudonym.as_bytes()))
        };
        list(value).filter(ours).count()
    }

    /// Tells the server who asks. What was said before by somebody trusted goes on in front.
    fn announce(&self, out: &mut Vec<u8>, incoming: &Incoming<'_>) {
        let writes = |name: &[u8]| self.request.sieve == 0 || !self.request.drops(name);
        let before = |out: &mut Vec<u8>, name: &str, dialect: Dialect| {
            let lines = || incoming.fields.get_all(name);
            let whole = dialect == Dialect::XForwarded || lines().all(forwarded::is_whole);
            if incoming.client.heard != Some(dialect) || !whole {
                return false;
            }
            let mut any = false;
            for value in lines().filter(|value| !value.is_empty()) {
                out.extend_from_slice(value);
                out.extend_from_slice(b", ");
                any = true;
            }
            any
        };
        // Told by a trusted peer in the other dialect, or in a line that cannot be passed on.
        let peer = incoming.peer.map(|ip| ip.to_canonical());
        let other = Some(incoming.client.address).filter(|ip| ip.is_some() && *ip != peer);
        if self.announced.forwarded && writes(b"forwarded") {
            out.extend_from_slice(b"forwarded: ");
            if !before(out, "forwarded", Dialect::Forwarded)
                && let Some(client) = other
            {
                forwarded::write(out, client, incoming.host(), incoming.proto());
                out.extend_from_slice(b", ");
            }
            forwarded::write(out, incoming.peer, incoming.authority, "http");
            out.extend_from_slice(b"\r\n");
        }
        if !self.announced.x_forwarded {
            return;
        }
        if writes(b"x-forwarded-for") {
            out.extend_from_slice(b"x-forwarded-for: ");
            if !before(out, "x-forwarded-for", Dialect::XForwarded)
                && let Some(client) = other
            {
                address(out, client);
                out.extend_from_slice(b", ");
            }
            address(out, incoming.peer);
            out.extend_from_slice(b"\r\n");
        }
        if writes(b"x-forwarded-proto") {
            line(out, b"x-forwarded-proto", incoming.proto().as_bytes());
        }
        if writes(b"x-forwarded-host") && !incoming.host().is_empty() {
            line(out, b"x-forwarded-host", incoming.host());
        }
    }

    /// Hands each field line of an answer on its way back to `push`: those that pass, ours behind them.
    /// `minor` is the server's minor version of HTTP/1; `tunnel` keeps the `Upgrade` of an answer that changes protocols.
    /// `scratch` is for values that have to be put together; what is in it is not kept.
    ///
    /// `Content-Length` and `Transfer-Encoding` are not among them: whoever sends the body says how it ends.
    ///
    /// # Errors
    /// `Connection` names more than [`MAX_OPTIONS`] fields: not an answer to pass on.
    pub fn response(
        &self,
        fields: &Fields<'_>,
        minor: u8,
        tunnel: bool,
        incoming: &Incoming<'_>,
        scratch: &mut Vec<u8>,
        mut push: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Stop> {
        let options = Options::read(fields).ok_or(Stop::Options)?;
        for (name, value) in fields.iter() {
            let name = name.as_bytes();
            let passes = match kind(name) {
                Kind::Hop => tunnel && name.eq_ignore_ascii_case(b"upgrade"),
                Kind::Connection | Kind::Te => false,
                // A server is believed about itself, in whichever spelling; but for what frames its answer.
                Kind::Twin => false,
                _ => true,
            };
            let dropped = !passes
                || (options.count > 0 && options.name(name))
                || (self.response.sieve != 0 && self.response.drops(name));
            if !dropped {
                push(name, value);
            }
        }
        push(b"via", self.via[usize::from(minor != 0)].as_bytes());
        for (name, value) in &self.response.written {
            scratch.clear();
            value.write(scratch, incoming);
            push(name.as_bytes(), scratch);
        }
        Ok(())
    }
}

/// RFC 9110 §7.6.2: one less; at zero it goes no further.
fn max_forwards(out: &mut Vec<u8>, value: &[u8]) -> Result<(), Stop> {
    let digits = std::str::from_utf8(value).ok();
    let digits = digits.filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let left: u64 = digits
        .and_then(|text| text.parse().ok())
        .ok_or(Stop::MaxForwards)?;
    let left = left.checked_sub(1).ok_or(Stop::Last)?;
    line(
        out,
        b"max-forwards",
        itoa::Buffer::new().format(left).as_bytes(),
    );
    Ok(())
}

/// What is of this connection, and the end of the head.
fn finish(out: &mut Vec<u8>, method: &Method, to: &Towards<'_>, trailers: bool) {
    match to.framing {
        Framing::Length(n) => line(
            out,
            b"content-length",
            itoa::Buffer::new().format(n).as_bytes(),
        ),
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        // RFC 9110 §8.6: a method of which a body is expected says that there is none.
        Framing::None if matches!(*method, Method::POST | Method::PUT | Method::PATCH) => {
            out.extend_from_slice(b"content-length: 0\r\n");
        }
        Framing::None => {}
    }
    if to.expects_continue && to.framing != Framing::None {
        out.extend_from_slice(b"expect: 100-continue\r\n");
    }
    match to.upgrade {
        Some(protocol) => {
            line(out, b"upgrade", protocol.as_bytes());
            out.extend_from_slice(b"connection: upgrade\r\n");
        }
        None => out.extend_from_slice(match (trailers, to.close) {
            (false, false) => b"".as_slice(),
            (false, true) => b"connection: close\r\n",
            (true, false) => b"te: trailers\r\nconnection: te\r\n",
            (true, true) => b"te: trailers\r\nconnection: te, close\r\n",
        }),
    }
    out.extend_from_slice(b"\r\n");
}
