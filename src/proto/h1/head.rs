//! Floor 1. A request's head: found, parsed by httparse, and checked for every ambiguity.
//!
//! Two steps, so that a head that drips in is not parsed again for each byte: [`find_end`] looks
//! for the empty line and remembers how far it has looked; [`parse`] runs once, on a whole head.
//! Nothing is copied: a [`Head`] is a view into the receive buffer.
//!
//! Stricter than httparse: every line ends in CRLF (RFC 9112 §2.2 allows, but does not ask, to
//! accept a lone LF, and smuggling lives on the difference).

use super::Error;
use crate::proto::http::{Fields, is_authority, list, percent_encoding_is_whole};
use http::Method;
use std::mem::MaybeUninit;

/// The most field lines any configuration may allow; the parser's table lives on the stack.
pub const MAX_FIELDS: usize = 256;
/// The longest head any configuration may allow, in bytes.
pub const MAX_HEAD: usize = 1 << 20;

/// Where httparse writes the field lines it finds.
pub type Slots<'a> = [MaybeUninit<httparse::Header<'a>>; MAX_FIELDS];

/// An empty table for [`parse`].
pub const fn slots<'a>() -> Slots<'a> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
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
    /// Host and port: from an absolute-form target, else from `Host`. May be empty.
    pub authority: &'a str,
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

/// Looks for the end of the head in `input`, from `*scanned` on. Returns the head's length.
/// Fails as soon as what has arrived can no longer become a head within `limits`.
pub fn find_end(
    input: &[u8],
    scanned: &mut usize,
    limits: &HeadLimits,
) -> Result<Option<usize>, Error> {
    let mut line_start = *scanned;
    while let Some(at) = memchr::memchr(b'\n', &input[line_start..]) {
        let end = line_start + at;
        if end == 0 || input[end - 1] != b'\r' {
            return Err(Error::Malformed("a line ends without CR"));
        }
        if end >= limits.head {
            break;
        }
        if end - line_start == 1 {
            return Ok(Some(end + 1));
        }
        line_start = end + 1;
    }
    *scanned = line_start;
    if input.len() < limits.head {
        return Ok(None);
    }
    // No line has ended: all of it is the request line, and nearly all of that the target.
    let size = input.len();
    Err(match line_start {
        0 => Error::TargetTooLong {
            size,
            limit: limits.target,
        },
        _ => Error::HeadTooLarge {
            size,
            limit: limits.head,
        },
    })
}

/// Parses and checks a whole head.
pub fn parse<'a, 's>(
    input: &'a [u8],
    slots: &'s mut Slots<'a>,
    limits: &HeadLimits,
) -> Result<Head<'s>, Error> {
    let mut request = httparse::Request::new(&mut []);
    let slots = &mut slots[..limits.fields.min(MAX_FIELDS)];
    match request.parse_with_uninit_headers(input, slots) {
        Ok(httparse::Status::Complete(n)) if n == input.len() => {}
        Ok(_) => return Err(Error::Malformed("the head ends early")),
        Err(why) => return Err(refusal(why, input, limits)),
    }
    // httparse has said Complete, so all three are there; the fallbacks are refused below.
    let (method, target) = (request.method.unwrap_or(""), request.path.unwrap_or(""));
    let http_10 = request.version == Some(0);
    if target.len() > limits.target {
        return Err(Error::TargetTooLong {
            size: target.len(),
            limit: limits.target,
        });
    }
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Error::Malformed("method"))?;
    let fields = Fields::new(request.headers);
    let signals = Signals::read(&fields, http_10)?;
    let target = Target::read(target, &method)?;
    Ok(Head {
        method,
        path: target.path,
        query: target.query,
        authority: target.authority.unwrap_or(signals.host),
        fields,
        framing: signals.framing,
        expects_continue: signals.expects_continue && !http_10,
        keep_alive: if http_10 {
            signals.keep_alive && !signals.close
        } else {
            !signals.close
        },
        http_10,
        raw: input,
    })
}

fn refusal(why: httparse::Error, input: &[u8], limits: &HeadLimits) -> Error {
    match why {
        httparse::Error::TooManyHeaders => Error::TooManyFields {
            limit: limits.fields,
        },
        httparse::Error::HeaderName => Error::Malformed("field name"),
        httparse::Error::HeaderValue => Error::Malformed("field value"),
        httparse::Error::NewLine => Error::Malformed("a bare CR"),
        httparse::Error::Token => Error::Malformed("request line"),
        // `HTTP/` DIGIT `.` DIGIT is another version; anything else is not HTTP.
        httparse::Error::Version => {
            let line = input.split(|&b| b == b'\r').next().unwrap_or_default();
            let version = line.rsplit(|&b| b == b' ').next().unwrap_or_default();
            match version {
                [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                    if major.is_ascii_digit() && minor.is_ascii_digit() =>
                {
                    Error::Version
                }
                _ => Error::Malformed("HTTP version"),
            }
        }
        _ => Error::Malformed("request line"),
    }
}

/// What the fields say about the connection and the body.
struct Signals<'a> {
    host: &'a str,
    framing: Framing,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
}

impl<'a> Signals<'a> {
    fn read(fields: &Fields<'a>, http_10: bool) -> Result<Self, Error> {
        let (mut host, mut length, mut coding) = (None, None, None);
        let mut signals = Signals {
            host: "",
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
                    if !value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(Error::Expectation);
                    }
                    signals.expects_continue = true;
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
            // is_authority has let only ASCII pass.
            Some(value) if is_authority(value) => std::str::from_utf8(value).unwrap_or(""),
            Some(_) => return Err(Error::Malformed("Host")),
            None if http_10 => "",
            None => return Err(Error::Malformed("no Host")),
        };
        signals.framing = match (coding, length) {
            (None, None) | (None, Some(0)) => Framing::None,
            (None, Some(n)) => Framing::Length(n),
            (Some(_), Some(_)) => {
                return Err(Error::Malformed(
                    "both Content-Length and Transfer-Encoding",
                ));
            }
            (Some(_), None) if http_10 => {
                return Err(Error::Malformed("Transfer-Encoding in HTTP/1.0"));
            }
            (Some(value), None) => transfer_coding(value)?,
        };
        Ok(signals)
    }
}

/// Fields of which there may be one, for two could differ.
fn once<T>(slot: &mut Option<T>, value: T, why: &'static str) -> Result<(), Error> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::Malformed(why)),
    }
}

/// Digits alone: no sign, no list, no white space, no overflow.
fn content_length(value: &[u8]) -> Result<u64, Error> {
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
    authority: Option<&'a str>,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Target<'a> {
    fn read(text: &'a str, method: &Method) -> Result<Self, Error> {
        if *method == Method::CONNECT {
            // authority-form: host and port, both required.
            let has_port = text
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && !port.is_empty());
            if !has_port || !is_authority(text.as_bytes()) {
                return Err(Error::Malformed("CONNECT target"));
            }
            return Ok(Target {
                authority: Some(text),
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
        let (authority, rest) = if text.starts_with('/') {
            (None, text)
        } else {
            let (scheme, rest) = text
                .split_once("://")
                .ok_or(Error::Malformed("request target"))?;
            if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
                return Err(Error::Malformed("request target's scheme"));
            }
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, rest) = rest.split_at(end);
            if authority.is_empty() || !is_authority(authority.as_bytes()) {
                return Err(Error::Malformed("request target's host"));
            }
            (Some(authority), rest)
        };
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        // RFC 9112 §3.2.2: `http://host` and `http://host?q` mean the path `/`.
        let path = if path.is_empty() { "/" } else { path };
        // httparse lets a fragment and raw non-ASCII bytes pass; a URI has neither (RFC 3986 §2).
        if !rest.is_ascii() || rest.contains('#') {
            return Err(Error::Malformed("request target"));
        }
        if !percent_encoding_is_whole(path.as_bytes()) {
            return Err(Error::Malformed("percent-encoding"));
        }
        Ok(Target {
            authority,
            path,
            query,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        head: 256,
        target: 64,
        fields: 4,
    };

    /// What arrives, and the essence of what it is read as.
    fn read(text: &str) -> Result<String, u16> {
        let mut scanned = 0;
        let end = match find_end(text.as_bytes(), &mut scanned, &LIMITS) {
            Ok(Some(end)) => end,
            Ok(None) => return Ok("more".into()),
            Err(e) => return Err(e.status().as_u16()),
        };
        let mut slots = slots();
        let head =
            parse(&text.as_bytes()[..end], &mut slots, &LIMITS).map_err(|e| e.status().as_u16())?;
        Ok(format!(
            "{} {}{} @{} {:?}{}{}",
            head.method,
            head.path,
            head.query.map(|q| format!(" ?{q}")).unwrap_or_default(),
            head.authority,
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
    fn a_dripping_head_is_found_at_its_last_byte_and_not_before() {
        let text = b"GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n\r\n";
        let mut scanned = 0;
        for n in 0..text.len() {
            assert_eq!(find_end(&text[..n], &mut scanned, &LIMITS), Ok(None), "{n}");
        }
        assert_eq!(find_end(text, &mut scanned, &LIMITS), Ok(Some(text.len())));
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
