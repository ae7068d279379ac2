//! Floor 1. The head of an answer we asked for: found, parsed by httparse, and checked for every ambiguity.
//!
//! Nothing is copied: a [`ResponseHead`] is a view into the receive buffer. How a head is waited for,
//! the framing fields and the table of lines are those of [`super::head`].
//!
//! As strict as with requests, and stricter than a user agent has to be: whoever reads an answer's end
//! elsewhere than its sender gives the next client a stranger's answer. So what RFC 9112 lets a client
//! mend is refused: a lone LF (§2.2), a folded line (§5.2), the same Content-Length twice (§6.3),
//! Transfer-Encoding in HTTP/1.0 (§6.1), a coding before `chunked` (§7).

use super::Error;
use super::head::{self, Framing, HeadLimits, LONE_LF, MAX_FIELDS, Slots, once};
use crate::proto::http::{Fields, is_value_byte, list};
use http::{Method, StatusCode};

/// What an answer is read by: the request it answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Asked {
    /// It was a HEAD: the answer's fields speak of a body that does not come.
    pub head: bool,
    /// It was a CONNECT: a success makes a tunnel of the connection.
    pub connect: bool,
    /// It had an `Upgrade`: 101 is an answer to it.
    pub upgrade: bool,
}

impl Asked {
    /// By a request with this method, and with an `Upgrade` or without.
    pub fn with(method: &Method, upgrade: bool) -> Asked {
        Asked {
            head: *method == Method::HEAD,
            connect: *method == Method::CONNECT,
            upgrade,
        }
    }
}

/// How an answer's body is delimited (RFC 9112 §6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponseFraming {
    /// No body, whatever the fields say: 1xx, 204, 304, HEAD, a tunnel.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Until the connection closes.
    UntilClose,
}

/// An answer's head, checked. A view into the receive buffer.
#[derive(Clone, Debug)]
pub struct ResponseHead<'a> {
    /// 100 to 599.
    pub status: StatusCode,
    /// As sent; it means nothing, and may be empty.
    pub reason: &'a [u8],
    /// The field lines.
    pub fields: Fields<'a>,
    /// How the body ends.
    pub framing: ResponseFraming,
    /// Whether the connection may stay, as far as this head has a say (RFC 9112 §9.3).
    pub keep_alive: bool,
    /// HTTP/1.0.
    pub http_10: bool,
    /// The head as it arrived.
    pub raw: &'a [u8],
}

/// Reads the head at the front of `input`; `None` until all of it is there. As [`head::read`], but
/// that there is no target to bound.
pub fn read<'a, 's>(
    input: &'a [u8],
    scanned: &mut usize,
    first_look: bool,
    slots: &'s mut Slots<'a>,
    limits: &HeadLimits,
    asked: Asked,
) -> Result<Option<ResponseHead<'s>>, Error> {
    // Nothing else begins so: an empty line does not, nor does TLS, nor HTTP/0.9.
    let begins = b"HTTP/";
    let seen = begins.len().min(input.len());
    if input[..seen] != begins[..seen] {
        return Err(Error::Malformed("not HTTP/1"));
    }
    head::whole(
        input,
        scanned,
        first_look,
        limits.head,
        |head| parse(head, slots, limits, asked),
        |_| Error::HeadTooLarge {
            size: input.len(),
            limit: limits.head,
        },
    )
}

/// Parses and checks a head; `None` if it is not all there.
fn parse<'a, 's>(
    input: &'a [u8],
    slots: &'s mut Slots<'a>,
    limits: &HeadLimits,
    asked: Asked,
) -> Result<Option<ResponseHead<'s>>, Error> {
    let most = limits.fields.min(MAX_FIELDS);
    let Slots { lines, spare } = slots;
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        input,
        &mut lines[..most],
    );
    let (len, lines) = match parsed {
        Ok(httparse::Status::Complete(len)) => (len, &*response.headers),
        Ok(httparse::Status::Partial) => return Ok(None),
        // RFC 9110 §2.5: a later minor version is read as ours. httparse knows two, and has stopped at it.
        Err(httparse::Error::Version) => {
            let Some(line_end) = memchr::memchr(b'\n', input) else {
                return Ok(None);
            };
            StatusLine::read(&input[..=line_end])?;
            spare.clear();
            spare.resize(most, httparse::EMPTY_HEADER);
            match httparse::parse_headers(&input[line_end + 1..], spare) {
                Ok(httparse::Status::Complete((len, lines))) => (line_end + 1 + len, lines),
                Ok(httparse::Status::Partial) => return Ok(None),
                Err(why) => return Err(refusal(why, limits)),
            }
        }
        Err(why) => return Err(refusal(why, limits)),
    };
    let raw = &input[..len];
    if len > limits.head {
        return Err(Error::HeadTooLarge {
            size: len,
            limit: limits.head,
        });
    }
    if !head::lines_end_in_crlf(raw, lines) {
        return Err(Error::Malformed(LONE_LF));
    }
    let line_end = memchr::memchr(b'\n', raw).map_or(len, |at| at + 1);
    let line = StatusLine::read(&raw[..line_end])?;
    let fields = Fields::new(lines);
    let signals = Signals::read(&fields, line.http_10)?;
    let framing = signals.framing(line.status, asked)?;
    Ok(Some(ResponseHead {
        status: line.status,
        reason: line.reason,
        fields,
        framing,
        keep_alive: signals.keeps(line.http_10) && !signals.is_doubtful(line.status, framing),
        http_10: line.http_10,
        raw,
    }))
}

fn refusal(why: httparse::Error, limits: &HeadLimits) -> Error {
    match why {
        httparse::Error::Status => Error::Malformed("status line"),
        why => head::refusal(why, limits),
    }
}

/// RFC 9112 §4: `HTTP-version SP status-code SP [ reason-phrase ]`. The second space may be missing
/// where the reason is: senders that leave both away are many, and nothing else is meant by it.
struct StatusLine<'a> {
    http_10: bool,
    status: StatusCode,
    reason: &'a [u8],
}

impl<'a> StatusLine<'a> {
    /// `line` is the first of a head, with its end.
    fn read(line: &'a [u8]) -> Result<Self, Error> {
        let bad = Error::Malformed("status line");
        let line = line
            .strip_suffix(b"\r\n")
            .ok_or(Error::Malformed(LONE_LF))?;
        let (version, rest) = line.split_at_checked(8).ok_or(bad)?;
        let http_10 = match version {
            [
                b'H',
                b'T',
                b'T',
                b'P',
                b'/',
                b'1',
                b'.',
                minor @ b'0'..=b'9',
            ] => *minor == b'0',
            // `HTTP/` DIGIT `.` DIGIT is another version; anything else is not HTTP.
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
                return Err(Error::Version);
            }
            _ => return Err(Error::Malformed("HTTP version")),
        };
        let (code, reason) = match rest {
            [b' ', a, b, c] => ([*a, *b, *c], &[][..]),
            [b' ', a, b, c, b' ', reason @ ..] => ([*a, *b, *c], reason),
            _ => return Err(bad),
        };
        // RFC 9110 §15: what is outside of this range is invalid.
        if !matches!(code, [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9']) {
            return Err(Error::Malformed("status code"));
        }
        let status = StatusCode::from_bytes(&code).map_err(|_| bad)?;
        if !reason.iter().all(|&b| is_value_byte(b)) {
            return Err(bad);
        }
        Ok(StatusLine {
            http_10,
            status,
            reason,
        })
    }
}

/// What the fields say about the connection and the body.
struct Signals {
    announced: Option<Framing>,
    close: bool,
    keep_alive: bool,
}

impl Signals {
    fn read(fields: &Fields<'_>, http_10: bool) -> Result<Signals, Error> {
        let (mut length, mut coding) = (None, None);
        let (mut close, mut keep_alive) = (false, false);
        for (name, value) in fields.iter() {
            match name.len() {
                10 if name.eq_ignore_ascii_case("connection") => {
                    for option in list(value) {
                        close |= option.eq_ignore_ascii_case(b"close");
                        keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                14 if name.eq_ignore_ascii_case("content-length") => {
                    let n = head::content_length(value)?;
                    once(&mut length, n, "more than one Content-Length")?;
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    once(&mut coding, value, "more than one Transfer-Encoding")?;
                }
                _ => {}
            }
        }
        Ok(Signals {
            announced: head::announced(coding, length, http_10)?,
            close,
            keep_alive,
        })
    }

    /// RFC 9112 §6.3, in its order.
    fn framing(&self, status: StatusCode, asked: Asked) -> Result<ResponseFraming, Error> {
        // RFC 9110 §9.3.6: what a tunnel's answer says of a body is ignored.
        if asked.connect && status.is_success() {
            return Ok(ResponseFraming::None);
        }
        let is_interim = status.is_informational();
        let is_bodiless = is_interim
            || asked.head
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        match self.announced {
            // RFC 9112 §6.1: never there. Whoever sends it may send chunks as well.
            Some(Framing::Chunked) if is_interim || status == StatusCode::NO_CONTENT => Err(
                Error::Malformed("Transfer-Encoding in an answer without a body"),
            ),
            // An answer follows: where it begins is in doubt.
            Some(Framing::Length(1..)) if is_interim => {
                Err(Error::Malformed("Content-Length in an interim answer"))
            }
            _ if is_bodiless => Ok(ResponseFraming::None),
            Some(Framing::Length(n)) => Ok(ResponseFraming::Length(n)),
            Some(Framing::Chunked) => Ok(ResponseFraming::Chunked),
            Some(Framing::None) | None => Ok(ResponseFraming::UntilClose),
        }
    }

    /// RFC 9112 §9.3.
    fn keeps(&self, http_10: bool) -> bool {
        !self.close && (!http_10 || self.keep_alive)
    }

    /// Where the next answer begins is not said, or said in a way that may be meant otherwise: 204 with
    /// a length has no body, but its sender may not know (RFC 9110 §8.6).
    fn is_doubtful(&self, status: StatusCode, framing: ResponseFraming) -> bool {
        let is_long = matches!(self.announced, Some(Framing::Length(1..)));
        framing == ResponseFraming::UntilClose || (status == StatusCode::NO_CONTENT && is_long)
    }
}
