//! Floor 1. A request's head: found, parsed by httparse, and checked for every ambiguity.
//!
//! Nothing is copied: a [`Head`] is a view into the receive buffer.
//!
//! Stricter than httparse: every line ends in CRLF (RFC 9112 §2.2 allows, but does not ask, to
//! accept a lone LF, and smuggling lives on the difference).

use super::Error;
use crate::proto::http::{Fields, is_authority, list, percent_encoding_is_whole};
use http::Method;
use std::mem::MaybeUninit;

/// The most field lines any configuration may allow; the parser's table lives on the stack.
pub const MAX_FIELDS: usize = 128;
/// The longest head any configuration may allow, in bytes.
pub const MAX_HEAD: usize = 1 << 20;

/// Where httparse writes the field lines it finds; for [`read`].
pub struct Slots<'a> {
    pub(super) lines: [MaybeUninit<httparse::Header<'a>>; MAX_FIELDS],
    /// The same for [`parse_later_minor`], which has to bring its own; empty for every other head.
    pub(super) spare: Vec<httparse::Header<'a>>,
}

/// An empty table for [`read`].
pub const fn slots<'a>() -> Slots<'a> {
    Slots {
        lines: [const { MaybeUninit::uninit() }; MAX_FIELDS],
        spare: Vec::new(),
    }
}

/// What a head may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Request line and fields together, in bytes.
    pub head: usize,
    /// The request target alone, in bytes.
    pub target: usize,
    /// Field lines.
    pub fields: usize,
}

impl HeadLimits {
    /// For a head that has been let in before.
    pub const NONE: HeadLimits = HeadLimits {
        head: MAX_HEAD,
        target: MAX_HEAD,
        fields: MAX_FIELDS,
    };
}

/// How the body that follows is delimited (RFC 9112 §6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// No body.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// A request's head, checked. A view into the receive buffer.
#[derive(Clone, Debug)]
pub struct Head<'a> {
    /// The method, registered or not.
    pub method: Method,
    /// The path as sent, still percent-encoded; `*` for an asterisk-form target.
    pub path: &'a str,
    /// What follows the first `?`, as sent.
    pub query: Option<&'a str>,
    /// Host and port: from an absolute-form target, else from `Host`. ASCII; may be empty.
    pub authority: &'a [u8],
    /// The field lines.
    pub fields: Fields<'a>,
    /// How the body ends.
    pub framing: Framing,
    /// `Expect: 100-continue`, from a client that may be answered so.
    pub expects_continue: bool,
    /// Whether the client keeps the connection (RFC 9112 §9.3).
    pub keep_alive: bool,
    /// HTTP/1.0.
    pub http_10: bool,
    /// The head as it arrived.
    pub raw: &'a [u8],
}

/// Reads the head at the front of `input`; `None` until all of it is there. Fails as soon as what has
/// arrived can no longer become a head within `limits`.
///
/// A head that arrives whole, as nearly all do, is parsed at the first look. One that does not is
/// searched for its end from `*scanned` on, and parsed when that is found: so that a head that drips
/// in is not parsed again for every byte.
pub fn read<'a, 's>(
    input: &'a [u8],
    scanned: &mut usize,
    first_look: bool,
    slots: &'s mut Slots<'a>,
    limits: &HeadLimits,
) -> Result<Option<Head<'s>>, Error> {
    whole(
        input,
        scanned,
        first_look,
        limits.head,
        |head| parse(head, slots, limits),
        |line_start| too_long(input, line_start, limits),
    )
}

/// Reads a head, a request's or an answer's, when all of it is there: what [`read`] says of it. A head
/// over `limit` is what `too_long` says, told where its last line begins.
pub(super) fn whole<'a, T>(
    input: &'a [u8],
    scanned: &mut usize,
    first_look: bool,
    limit: usize,
    parse: impl FnOnce(&'a [u8]) -> Result<Option<T>, Error>,
    too_long: impl FnOnce(usize) -> Error,
) -> Result<Option<T>, Error> {
    if first_look {
        return match parse(input) {
            Ok(Some(head)) => Ok(Some(head)),
            // Less than a line says nothing yet: a version that is cut off is no other version.
            Err(why) if memchr::memchr(b'\n', input).is_some() => Err(why),
            Ok(None) | Err(_) => match find_end(input, scanned, limit, too_long)? {
                None => Ok(None),
                Some(_) => Err(Error::Malformed("first line")),
            },
        };
    }
    match find_end(input, scanned, limit, too_long)? {
        None => Ok(None),
        Some(end) => parse(&input[..end]),
    }
}

/// Looks for the empty line, line by line.
fn find_end(
    input: &[u8],
    scanned: &mut usize,
    limit: usize,
    too_long: impl FnOnce(usize) -> Error,
) -> Result<Option<usize>, Error> {
    let mut line_start = *scanned;
    while let Some(at) = memchr::memchr(b'\n', &input[line_start..]) {
        let end = line_start + at;
        if end == 0 || input[end - 1] != b'\r' {
            return Err(Error::Malformed(LONE_LF));
        }
        if end >= limit {
            break;
        }
        if end - line_start == 1 {
            return Ok(Some(end + 1));
        }
        line_start = end + 1;
    }
    *scanned = line_start;
    if input.len() < limit {
        return Ok(None);
    }
    Err(too_long(line_start))
}

/// Which limit a head is over whose end is not in sight.
fn too_long(input: &[u8], line_start: usize, limits: &HeadLimits) -> Error {
    // Where no line has ended, what is behind the method is the target, or nearly so.
    let method = memchr::memchr(b' ', input).filter(|_| line_start == 0);
    let target = method.map_or(0, |end| input.len() - end - 1);
    if target > limits.target {
        Error::TargetTooLong {
            size: target,
            limit: limits.target,
        }
    } else {
        Error::HeadTooLarge {
            size: input.len(),
            limit: limits.head,
        }
    }
}

pub(super) const LONE_LF: &str = "a line ends without CR";

/// A head taken apart, and not yet checked.
struct Parsed<'a, 's> {
    raw: &'a [u8],
    method: &'a str,
    target: &'a str,
    http_10: bool,
    lines: &'s [httparse::Header<'a>],
}

/// Parses and checks a head; `None` if it is not all there.
fn parse<'a, 's>(
    input: &'a [u8],
    slots: &'s mut Slots<'a>,
    limits: &HeadLimits,
) -> Result<Option<Head<'s>>, Error> {
    let mut request = httparse::Request::new(&mut []);
    let most = limits.fields.min(MAX_FIELDS);
    let Slots { lines, spare } = slots;
    let Parsed {
        raw,
        method,
        target,
        http_10,
        lines,
    } = match request.parse_with_uninit_headers(input, &mut lines[..most]) {
        // It is complete, so all three are there; the fallbacks are refused below.
        Ok(httparse::Status::Complete(n)) => Parsed {
            raw: &input[..n],
            method: request.method.unwrap_or(""),
            target: request.path.unwrap_or(""),
            http_10: request.version == Some(0),
            lines: request.headers,
        },
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::Version) => {
            spare.clear();
            spare.resize(most, httparse::EMPTY_HEADER);
            match parse_later_minor(input, spare, limits)? {
                Some(parsed) => parsed,
                None => return Ok(None),
            }
        }
        Err(why) => return Err(refusal(why, limits)),
    };
    if target.len() > limits.target {
        return Err(Error::TargetTooLong {
            size: target.len(),
            limit: limits.target,
        });
    }
    if raw.len() > limits.head {
        return Err(Error::HeadTooLarge {
            size: raw.len(),
            limit: limits.head,
        });
    }
    if !lines_end_in_crlf(raw, lines) {
        return Err(Error::Malformed(LONE_LF));
    }
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Error::Malformed("method"))?;
    let fields = Fields::new(lines);
    let signals = Signals::read(&fields, http_10)?;
    let target = Target::read(target, &method)?;
    let keeps = !signals.close && (!http_10 || signals.keep_alive);
    Ok(Some(Head {
        method,
        path: target.path,
        query: target.query,
        authority: target.authority.unwrap_or(signals.host),
        fields,
        framing: signals.framing,
        expects_continue: signals.expects_continue && !http_10,
        keep_alive: keeps,
        http_10,
        raw,
    }))
}

/// httparse takes a lone LF for a line's end. Where each line began it has told: before that, and
/// before the empty line, there has to be a CRLF.
pub(super) fn lines_end_in_crlf(raw: &[u8], fields: &[httparse::Header<'_>]) -> bool {
    let begins =
        |field: &httparse::Header<'_>| field.name.as_ptr() as usize - raw.as_ptr() as usize;
    let empty_line = raw.len().saturating_sub(2);
    let follows_crlf = |at: usize| at >= 2 && raw.get(at - 2..at) == Some(b"\r\n");
    fields
        .iter()
        .map(begins)
        .chain([empty_line, raw.len()])
        .all(follows_crlf)
}

/// RFC 9110 §6.2: a minor version above ours is answered as ours, for what it adds may be ignored.
/// httparse knows two versions and has stopped at this one; method and target have passed it.
#[cold]
fn parse_later_minor<'a, 's>(
    input: &'a [u8],
    spare: &'s mut [httparse::Header<'a>],
    limits: &HeadLimits,
) -> Result<Option<Parsed<'a, 's>>, Error> {
    let bad = Error::Malformed("request line");
    let Some(end) = memchr::memchr(b'\n', input) else {
        return Ok(None);
    };
    let line = input[..end]
        .strip_suffix(b"\r")
        .ok_or(Error::Malformed(LONE_LF))?;
    let line = std::str::from_utf8(line).map_err(|_| bad)?;
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad);
    };
    match version.as_bytes() {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => {}
        // `HTTP/` DIGIT `.` DIGIT is another version; anything else is not HTTP.
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            return Err(Error::Version);
        }
        _ => return Err(Error::Malformed("HTTP version")),
    }
    let (fields, lines) = match httparse::parse_headers(&input[end + 1..], spare) {
        Ok(httparse::Status::Complete(found)) => found,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(why) => return Err(refusal(why, limits)),
    };
    Ok(Some(Parsed {
        raw: &input[..end + 1 + fields],
        method,
        target,
        http_10: false,
        lines,
    }))
}

pub(super) fn refusal(why: httparse::Error, limits: &HeadLimits) -> Error {
    match why {
        httparse::Error::TooManyHeaders => Error::TooManyFields {
            limit: limits.fields,
        },
        httparse::Error::HeaderName => Error::Malformed("field name"),
        httparse::Error::HeaderValue => Error::Malformed("field value"),
        httparse::Error::NewLine => Error::Malformed("a bare CR"),
        _ => Error::Malformed("request line"),
    }
}

/// What the fields say about the connection and the body.
struct Signals<'a> {
    host: &'a [u8],
    framing: Framing,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
}

impl<'a> Signals<'a> {
    fn read(fields: &Fields<'a>, http_10: bool) -> Result<Self, Error> {
        let (mut host, mut length, mut coding) = (None, None, None);
        let mut signals = Signals {
            host: b"",
            framing: Framing::None,
            close: false,
            keep_alive: false,
            expects_continue: false,
        };
        for (name, value) in fields.iter() {
            // The length first: it rules out nearly every field with one comparison.
            match name.len() {
                4 if name.eq_ignore_ascii_case("host") => {
                    once(&mut host, value, "more than one Host")?;
                }
                6 if name.eq_ignore_ascii_case("expect") => {
                    for expectation in list(value) {
                        if !expectation.eq_ignore_ascii_case(b"100-continue") {
                            return Err(Error::Expectation);
                        }
                        signals.expects_continue = true;
                    }
                }
                10 if name.eq_ignore_ascii_case("connection") => {
                    for option in list(value) {
                        signals.close |= option.eq_ignore_ascii_case(b"close");
                        signals.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                14 if name.eq_ignore_ascii_case("content-length") => {
                    once(
                        &mut length,
                        content_length(value)?,
                        "more than one Content-Length",
                    )?;
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    once(&mut coding, value, "more than one Transfer-Encoding")?;
                }
                _ => {}
            }
        }
        signals.host = match host {
            Some(value) if is_authority(value) => value,
            Some(_) => return Err(Error::Malformed("Host")),
            None if http_10 => b"",
            None => return Err(Error::Malformed("no Host")),
        };
        signals.framing = match announced(coding, length, http_10)? {
            None | Some(Framing::Length(0)) => Framing::None,
            Some(framing) => framing,
        };
        Ok(signals)
    }
}

/// What Transfer-Encoding and Content-Length say together; `None` if neither is there.
pub(super) fn announced(
    coding: Option<&[u8]>,
    length: Option<u64>,
    http_10: bool,
) -> Result<Option<Framing>, Error> {
    match (coding, length) {
        (None, length) => Ok(length.map(Framing::Length)),
        (Some(_), Some(_)) => Err(Error::Malformed(
            "both Content-Length and Transfer-Encoding",
        )),
        (Some(_), None) if http_10 => Err(Error::Malformed("Transfer-Encoding in HTTP/1.0")),
        (Some(value), None) => transfer_coding(value).map(Some),
    }
}

/// Fields of which there may be one, for two could differ.
pub(super) fn once<T>(slot: &mut Option<T>, value: T, why: &'static str) -> Result<(), Error> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::Malformed(why)),
    }
}

/// Digits alone: no sign, no list, no white space, no overflow.
pub(super) fn content_length(value: &[u8]) -> Result<u64, Error> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = if digits {
        std::str::from_utf8(value).ok()
    } else {
        None
    };
    text.and_then(|t| t.parse().ok())
        .ok_or(Error::Malformed("Content-Length"))
}

/// `chunked` and nothing else. A list that ends in it is a coding we lack (501); any other is a
/// message without an end (400), RFC 9112 §6.1 and §6.3.
fn transfer_coding(value: &[u8]) -> Result<Framing, Error> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(Framing::Chunked);
    }
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let codings = list(value);
    let chunked = list(value).filter(|coding| is_chunked(coding)).count();
    match codings.last() {
        Some(last) if is_chunked(last) && chunked == 1 && list(value).count() > 1 => {
            Err(Error::TransferCoding)
        }
        _ => Err(Error::Malformed("Transfer-Encoding")),
    }
}

/// The four forms of RFC 9112 §3.2.
struct Target<'a> {
    authority: Option<&'a [u8]>,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Target<'a> {
    fn read(text: &'a str, method: &Method) -> Result<Self, Error> {
        // origin-form, nearly always.
        if text.starts_with('/') && *method != Method::CONNECT {
            return Target::origin_form(None, text);
        }
        if *method == Method::CONNECT {
            // authority-form: host and port, both required. An address in brackets ends with the bracket.
            let has_port = text.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && !port.is_empty() && !port.ends_with(']')
            });
            if !has_port || !is_authority(text.as_bytes()) {
                return Err(Error::Malformed("CONNECT target"));
            }
            return Ok(Target {
                authority: Some(text.as_bytes()),
                path: "",
                query: None,
            });
        }
        if text == "*" {
            if *method != Method::OPTIONS {
                return Err(Error::Malformed("asterisk-form is for OPTIONS alone"));
            }
            return Ok(Target {
                authority: None,
                path: "*",
                query: None,
            });
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or(Error::Malformed("request target"))?;
        let is_https = scheme.eq_ignore_ascii_case("https");
        if !is_https && !scheme.eq_ignore_ascii_case("http") {
            return Err(Error::Malformed("request target's scheme"));
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        if authority.is_empty() || !is_authority(authority.as_bytes()) {
            return Err(Error::Malformed("request target's host"));
        }
        // RFC 9110 §7.4: nothing here is secured, and no gateway is known to be trusted.
        if is_https {
            return Err(Error::Misdirected);
        }
        // RFC 9112 §3.2.4: a proxy has made this of `*`, or forgotten to make `*` of it.
        if rest.is_empty() && *method == Method::OPTIONS {
            return Ok(Target {
                authority: Some(authority.as_bytes()),
                path: "*",
                query: None,
            });
        }
        Target::origin_form(Some(authority.as_bytes()), rest)
    }

    fn origin_form(authority: Option<&'a [u8]>, text: &'a str) -> Result<Self, Error> {
        // One look at each byte tells whether there is anything to look at.
        let seen = text
            .bytes()
            .fold(0, |seen, b| seen | TARGET_BYTES[b as usize]);
        // httparse lets pass what no URI has (RFC 3986 §2).
        if seen & FORBIDDEN != 0 {
            return Err(Error::Malformed("request target"));
        }
        let split = if seen & QUERY != 0 {
            text.split_once('?')
        } else {
            None
        };
        let (path, query) = split.map_or((text, None), |(path, query)| (path, Some(query)));
        if seen & QUERY_ONLY != 0 && path.bytes().any(|b| TARGET_BYTES[b as usize] == QUERY_ONLY) {
            return Err(Error::Malformed("request target"));
        }
        if seen & PERCENT != 0 && !percent_encoding_is_whole(path.as_bytes()) {
            return Err(Error::Malformed("percent-encoding"));
        }
        // RFC 9112 §3.2.2: `http://host` and `http://host?q` mean the path `/`.
        let path = if path.is_empty() { "/" } else { path };
        Ok(Target {
            authority,
            path,
            query,
        })
    }
}

const QUERY: u8 = 1;
const PERCENT: u8 = 2;
const FORBIDDEN: u8 = 4;
const QUERY_ONLY: u8 = 8;

/// What a byte of a target calls for. No URI has any that is not plain or encoded (RFC 3986 §2); but
/// browsers leave `|`, `[` and `]` as they are in a path, and more of them in a query.
const TARGET_BYTES: [u8; 256] = {
    let mut table = [0; 256];
    table[b'?' as usize] = QUERY;
    table[b'%' as usize] = PERCENT;
    let (never, in_queries) = (b"#\"<>", b"\\^`{}");
    let mut n = 0;
    while n < never.len() {
        table[never[n] as usize] = FORBIDDEN;
        n += 1;
    }
    n = 0;
    while n < in_queries.len() {
        table[in_queries[n] as usize] = QUERY_ONLY;
        n += 1;
    }
    let mut b = 128;
    while b < 256 {
        table[b] = FORBIDDEN;
        b += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        head: 256,
        target: 64,
        fields: 4,
    };

    /// What arrives, and the essence of what it is read as: whole, and by drops.
    fn read(text: &str) -> Result<String, u16> {
        let whole = essence(super::read(
            text.as_bytes(),
            &mut 0,
            true,
            &mut slots(),
            &LIMITS,
        ));
        let mut scanned = 0;
        let mut dripped = Ok("more".into());
        for n in 1..=text.len() {
            dripped = essence(super::read(
                &text.as_bytes()[..n],
                &mut scanned,
                n == 1,
                &mut slots(),
                &LIMITS,
            ));
            if dripped != Ok("more".into()) {
                break;
            }
        }
        assert_eq!(whole, dripped, "{text:?}");
        whole
    }

    fn essence(read: Result<Option<Head<'_>>, Error>) -> Result<String, u16> {
        let Some(head) = read.map_err(|e| e.status().as_u16())? else {
            return Ok("more".into());
        };
        Ok(format!(
            "{} {}{} @{} {:?}{}{}",
            head.method,
            head.path,
            head.query.map(|q| format!(" ?{q}")).unwrap_or_default(),
            std::str::from_utf8(head.authority).unwrap(),
            head.framing,
            if head.keep_alive { " keep" } else { " close" },
            if head.expects_continue { " 100" } else { "" },
        ))
    }

    #[test]
    fn heads() {
        let h = "host: a\r\n";
        for (what, want) in [
            (format!("GET / HTTP/1.1\r\n{h}\r\n"), "GET / @a None keep"),
            (
                format!("GET /a%20b?x=1?y HTTP/1.1\r\n{h}\r\n"),
                "GET /a%20b ?x=1?y @a None keep",
            ),
            (
                "GET / HTTP/1.1\r\nHost:\t a:80 \t\r\n\r\n".into(),
                "GET / @a:80 None keep",
            ),
            (
                format!("GET http://b:8/x?q HTTP/1.1\r\n{h}\r\n"),
                "GET /x ?q @b:8 None keep",
            ),
            (
                format!("GET HTTP://b HTTP/1.1\r\n{h}\r\n"),
                "GET / @b None keep",
            ),
            (
                format!("GET http://b?q HTTP/1.1\r\n{h}\r\n"),
                "GET / ?q @b None keep",
            ),
            (
                format!("OPTIONS * HTTP/1.1\r\n{h}\r\n"),
                "OPTIONS * @a None keep",
            ),
            (
                format!("CONNECT b:443 HTTP/1.1\r\n{h}\r\n"),
                "CONNECT  @b:443 None keep",
            ),
            (
                format!("OPTIONS http://b HTTP/1.1\r\n{h}\r\n"),
                "OPTIONS * @b None keep",
            ),
            (
                format!("POST /x?q HTTP/1.2\r\n{h}content-length: 7\r\n\r\n"),
                "POST /x ?q @a Length(7) keep",
            ),
            ("GET / HTTP/1.0\r\n\r\n".into(), "GET / @ None close"),
            (
                "GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n".into(),
                "GET / @ None keep",
            ),
            (
                format!("GET / HTTP/1.1\r\n{h}connection: foo, CLOSE\r\n\r\n"),
                "GET / @a None close",
            ),
            (
                format!("POST / HTTP/1.1\r\n{h}content-length: 7\r\n\r\n"),
                "POST / @a Length(7) keep",
            ),
            (
                format!("POST / HTTP/1.1\r\n{h}content-length: 0\r\n\r\n"),
                "POST / @a None keep",
            ),
            (
                format!("POST / HTTP/1.1\r\n{h}transfer-encoding: Chunked\r\n\r\n"),
                "POST / @a Chunked keep",
            ),
            (
                format!("POST / HTTP/1.1\r\n{h}expect: 100-Continue\r\ncontent-length: 7\r\n\r\n"),
                "POST / @a Length(7) keep 100",
            ),
            ("GET / HTTP/1.1\r\nhost: a\r\n".into(), "more"),
            ("GET".into(), "more"),
        ] {
            assert_eq!(read(&what).as_deref(), Ok(want), "{what:?}");
        }
    }

    #[test]
    fn refusals() {
        let h = "host: a\r\n";
        for (what, status) in [
            ("GET / HTTP/1.1\r\n\r\n".into(), 400),
            (format!("GET / HTTP/1.1\r\n{h}{h}\r\n"), 400),
            ("GET / HTTP/1.1\r\nhost: a, b\r\n\r\n".into(), 400),
            ("GET / HTTP/1.1\r\nhost: u@a\r\n\r\n".into(), 400),
            (format!("GET / HTTP/1.1\n{h}\r\n"), 400),
            (format!("GET / HTTP/1.1\r\n{h}\n"), 400),
            (format!("GET / HTTP/1.1\r\n{h}a: b\rc\r\n\r\n"), 400),
            (format!("GET / HTTP/1.1\r\n{h}a : b\r\n\r\n"), 400),
            (format!("GET / HTTP/1.1\r\n{h}: b\r\n\r\n"), 400),
            (format!("GET / HTTP/1.1\r\n{h}a: b\r\n c\r\n\r\n"), 400),
            (format!("GET / HTTP/1.1\r\n {h}\r\n"), 400),
            (format!("GET / HTTP/1.1\r\n{h}a: b\0c\r\n\r\n"), 400),
            (format!("GET / HTTP/1.1\r\n{h}nocolon\r\n\r\n"), 400),
            (format!("G(T / HTTP/1.1\r\n{h}\r\n"), 400),
            (format!("GET  / HTTP/1.1\r\n{h}\r\n"), 400),
            (format!("GET / HTTP/1.1 \r\n{h}\r\n"), 400),
            (format!("GET / http/1.1\r\n{h}\r\n"), 400),
            (format!("GET /\r\n{h}\r\n"), 400),
            (format!("GET / HTTP/2.0\r\n{h}\r\n"), 505),
            (format!("GET / a HTTP/1.1\r\n{h}\r\n"), 400),
            (format!("GET / HTTP/1.2\n{h}\r\n"), 400),
            (format!("GET x HTTP/1.1\r\n{h}\r\n"), 400),
            (format!("GET * HTTP/1.1\r\n{h}\r\n"), 400),
            (format!("GET ftp://a/ HTTP/1.1\r\n{h}\r\n"), 400),
            (format!("GET http:///x HTTP/1.1\r\n{h}\r\n"), 400),
            (format!("GET /#f HTTP/1.1\r\n{h}\r\n"), 400),
            (format!("GET /é HTTP/1.1\r\n{h}\r\n"), 400),
            (format!("GET /%4 HTTP/1.1\r\n{h}\r\n"), 400),
            (format!("CONNECT /x HTTP/1.1\r\n{h}\r\n"), 400),
            (format!("GET /{} HTTP/1.1\r\n{h}\r\n", "x".repeat(64)), 414),
            (format!("GET /{}", "x".repeat(300)), 414),
            (format!("GET / HTTP/1.1\r\n{h}a: {}", "x".repeat(300)), 431),
            (
                format!("GET / HTTP/1.1\r\n{h}a: {}\r\n\r\n", "x".repeat(300)),
                431,
            ),
            (
                format!("GET / HTTP/1.1\r\n{h}a: 1\r\nb: 1\r\nc: 1\r\nd: 1\r\n\r\n"),
                431,
            ),
            (format!("GET / HTTP/1.1\r\n{h}expect: 200-ok\r\n\r\n"), 417),
        ] {
            assert_eq!(read(&what), Err(status), "{what:?}");
        }
        for framing in [
            "content-length: +7",
            "content-length: 7, 7",
            "content-length: 7 7",
            "content-length: -1",
            "content-length: 0x7",
            "content-length: ",
            "content-length: 18446744073709551616",
            "content-length: 7\r\ncontent-length: 7",
            "content-length: 7\r\ntransfer-encoding: chunked",
            "transfer-encoding: gzip",
            "transfer-encoding: chunked, gzip",
            "transfer-encoding: chunked, chunked",
            "transfer-encoding: ",
            "transfer-encoding: xchunked",
            "transfer-encoding: chunked;x",
            "transfer-encoding: identity",
            "transfer-encoding:\u{b}chunked",
            "content-length : 7",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        ] {
            let what = format!("POST / HTTP/1.1\r\n{h}{framing}\r\n\r\n");
            assert_eq!(read(&what), Err(400), "{framing}");
        }
        let gzip = format!("POST / HTTP/1.1\r\n{h}transfer-encoding: gzip, chunked\r\n\r\n");
        assert_eq!(read(&gzip), Err(501));
        assert_eq!(
            read("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n"),
            Err(400)
        );
    }

    #[test]
    fn the_limits_hold_on_both_sides_of_their_edges() {
        let head = |len: usize| {
            let (start, end) = ("GET / HTTP/1.1\r\nhost: a\r\nx: ", "\r\n\r\n");
            format!("{start}{}{end}", "y".repeat(len - start.len() - end.len()))
        };
        assert!(read(&head(256)).is_ok());
        assert_eq!(read(&head(257)), Err(431));
        let target =
            |len: usize| format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(len - 1));
        assert!(read(&target(64)).is_ok());
        assert_eq!(read(&target(65)), Err(414));
        let fields = |n: usize| {
            format!(
                "GET / HTTP/1.1\r\nhost: a\r\n{}\r\n",
                "x: y\r\n".repeat(n - 1)
            )
        };
        assert!(read(&fields(4)).is_ok());
        assert_eq!(read(&fields(5)), Err(431));
    }
}
