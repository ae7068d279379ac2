//! Floor 1. Bodies on the wire: Content-Length and chunked (RFC 9112 §7.1), in and out.
//!
//! ```text
//!            ┌───────────────── data, CRLF ────────────────┐
//!            ▼                                             │
//!  chunked: Size ── n > 0 ──► Data(n) ──► DataEnd ─────────┘
//!            └───── n = 0 ──► Trailers ──► Done
//! ```
//! Invariants: a size line and a trailer section are taken whole or not at all, within limits; a
//! lone LF, a sign, white space after the size and an overflowing size are errors, because two
//! servers that differ on them disagree about where the next request begins.

use super::Error;
use super::answer::FieldBlock;
use crate::proto::http::{Fields, is_token_byte, is_value_byte};
use std::io::Write;

/// The longest number: as many digits as 64 bits need.
const MAX_DIGITS: usize = 16;
/// The longest chunk-size line with its extensions, in bytes.
const MAX_SIZE_LINE: usize = 1024;
/// What all extensions of one body, and zeros before its sizes, may add up to, in bytes: they carry
/// nothing we use.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// The longest trailer section, in bytes.
const MAX_TRAILERS: usize = 8 * 1024;
const MAX_TRAILER_FIELDS: usize = 32;

/// What [`Decoder::poll`] found at the front of the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece {
    /// The first `n` bytes are body.
    Data(usize),
    /// The first `n` bytes are framing.
    Framing(usize),
    /// The first `n` bytes are the trailer section; the body is over.
    End(usize),
    /// What is there does not reach; keep it and come back with more.
    NeedInput,
}

impl Piece {
    /// How much of the input it is.
    pub(super) fn len(self) -> usize {
        match self {
            Piece::Data(n) | Piece::Framing(n) | Piece::End(n) => n,
            Piece::NeedInput => 0,
        }
    }
}

/// A body on its way in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decoder {
    /// No body, or all of it has been seen.
    Done,
    /// This many bytes are still to come.
    Length(u64),
    /// A chunked body.
    Chunked {
        /// Where in the coding we are.
        at: Chunk,
        /// Bytes of extensions so far.
        extensions: u32,
    },
}

/// A place in the chunked coding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chunk {
    /// Before a size line.
    Size,
    /// Within a chunk's data.
    Data(u64),
    /// Before the CRLF that ends a chunk's data.
    DataEnd,
    /// Before the trailer section.
    Trailers,
}

impl Decoder {
    /// How many bytes of body are announced and have not come: of the whole, or of this chunk.
    pub fn announced(&self) -> u64 {
        match *self {
            Decoder::Length(left) => left,
            Decoder::Chunked {
                at: Chunk::Data(left),
                ..
            } => left,
            _ => 0,
        }
    }

    /// A chunked body at its beginning.
    pub const CHUNKED: Decoder = Decoder::Chunked {
        at: Chunk::Size,
        extensions: 0,
    };

    /// Looks at the front of `input`; the caller takes away what the answer counts.
    pub fn poll(&mut self, input: &[u8]) -> Result<Piece, Error> {
        match self {
            Decoder::Done => Ok(Piece::End(0)),
            Decoder::Length(0) => {
                *self = Decoder::Done;
                Ok(Piece::End(0))
            }
            Decoder::Length(_) | Decoder::Chunked { .. } if input.is_empty() => {
                Ok(Piece::NeedInput)
            }
            Decoder::Length(left) => {
                let n = input
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= n as u64;
                Ok(Piece::Data(n))
            }
            Decoder::Chunked { at, extensions } => match at {
                Chunk::Size => {
                    let Some(line) = line(input, MAX_SIZE_LINE, "chunk size")? else {
                        return Ok(Piece::NeedInput);
                    };
                    let (size, extension) = chunk_size(line)?;
                    *extensions += extension as u32;
                    if *extensions as usize > MAX_EXTENSIONS {
                        return Err(Error::Malformed("chunk extensions"));
                    }
                    *at = if size == 0 {
                        Chunk::Trailers
                    } else {
                        Chunk::Data(size)
                    };
                    Ok(Piece::Framing(line.len() + 2))
                }
                Chunk::Data(left) => {
                    let n = input
                        .len()
                        .min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= n as u64;
                    if *left == 0 {
                        *at = Chunk::DataEnd;
                    }
                    Ok(Piece::Data(n))
                }
                Chunk::DataEnd => match input {
                    [b'\r', b'\n', ..] => {
                        *at = Chunk::Size;
                        Ok(Piece::Framing(2))
                    }
                    [b'\r'] => Ok(Piece::NeedInput),
                    _ => Err(Error::Malformed("chunk data")),
                },
                Chunk::Trailers => {
                    let Some(end) = trailers_end(input)? else {
                        return Ok(Piece::NeedInput);
                    };
                    *self = Decoder::Done;
                    Ok(Piece::End(end))
                }
            },
        }
    }
}

/// The line at the front of `input`, without its CRLF.
fn line<'a>(input: &'a [u8], limit: usize, what: &'static str) -> Result<Option<&'a [u8]>, Error> {
    match memchr::memchr(b'\n', &input[..input.len().min(limit)]) {
        Some(at) if at > 0 && input[at - 1] == b'\r' => Ok(Some(&input[..at - 1])),
        None if input.len() < limit => Ok(None),
        _ => Err(Error::Malformed(what)),
    }
}

/// `chunk-size [ chunk-ext ]`: the size, and how many bytes of the line say nothing about it.
fn chunk_size(line: &[u8]) -> Result<(u64, usize), Error> {
    let bad = Error::Malformed("chunk size");
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| bad)?;
    let size = u64::from_str_radix(text, 16).map_err(|_| bad)?;
    if !extensions_are_well_formed(&line[digits..]) {
        return Err(Error::Malformed("chunk extension"));
    }
    Ok((size, line.len() - digits.min(MAX_DIGITS)))
}

/// RFC 9112 §7.1.1: `*( BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ] )`.
fn extensions_are_well_formed(mut rest: &[u8]) -> bool {
    fn skip_space(rest: &[u8]) -> &[u8] {
        &rest[rest
            .iter()
            .take_while(|&&b| b == b' ' || b == b'\t')
            .count()..]
    }
    fn skip_token(rest: &[u8]) -> Option<&[u8]> {
        let n = rest.iter().take_while(|&&b| is_token_byte(b)).count();
        (n > 0).then(|| &rest[n..])
    }
    fn skip_quoted(rest: &[u8]) -> Option<&[u8]> {
        let mut at = 0;
        loop {
            match *rest.get(at)? {
                b'"' => return Some(&rest[at + 1..]),
                b'\\' if is_value_byte(*rest.get(at + 1)?) => at += 2,
                b if is_value_byte(b) && b != b'\\' => at += 1,
                _ => return None,
            }
        }
    }
    while !rest.is_empty() {
        let Some(after) = skip_space(rest).strip_prefix(b";") else {
            return false;
        };
        let Some(after_name) = skip_token(skip_space(after)) else {
            return false;
        };
        rest = after_name;
        if let Some(value) = skip_space(after_name).strip_prefix(b"=") {
            let value = skip_space(value);
            let after_value = match value.strip_prefix(b"\"") {
                Some(quoted) => skip_quoted(quoted),
                None => skip_token(value),
            };
            let Some(after_value) = after_value else {
                return false;
            };
            rest = after_value;
        }
    }
    true
}

/// The length of the trailer section with its empty line, once it is all there.
fn trailers_end(input: &[u8]) -> Result<Option<usize>, Error> {
    let mut start = 0;
    loop {
        let Some(line) = line(
            &input[start..],
            MAX_TRAILERS.saturating_sub(start),
            "trailer section",
        )?
        else {
            return Ok(None);
        };
        start += line.len() + 2;
        if line.is_empty() {
            return Ok(Some(start));
        }
    }
}

/// Field lines that came after a chunked body (RFC 9110 §6.5). Empty for any other body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trailers<'a> {
    section: &'a [u8],
}

impl<'a> Trailers<'a> {
    /// Checks a section found by [`Decoder::poll`]: field lines, and none that frames a message.
    pub(crate) fn check(section: &'a [u8]) -> Result<Self, Error> {
        let trailers = Trailers { section };
        let bad = Error::Malformed("trailer");
        if section.len() <= 2 {
            return Ok(Trailers::default());
        }
        let mut fine = true;
        let parsed = trailers.with(|fields| {
            let framing = ["content-length", "transfer-encoding", "host", "trailer"];
            fine = !framing.iter().any(|name| fields.get(name).is_some());
        });
        if parsed.is_none() || !fine {
            return Err(bad);
        }
        Ok(trailers)
    }

    /// Calls `f` with the field lines.
    pub fn with<R>(&self, f: impl FnOnce(Fields<'_>) -> R) -> Option<R> {
        let mut slots = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
        match httparse::parse_headers(self.section, &mut slots) {
            Ok(httparse::Status::Complete((_, lines))) => Some(f(Fields::new(lines))),
            _ => None,
        }
    }

    /// Those that may be passed on behind a body: see [`may_follow`].
    pub(crate) fn passing(&self) -> FieldBlock {
        let mut passing = FieldBlock::default();
        self.with(|fields| {
            for (name, value) in fields.iter().filter(|(name, _)| may_follow(name)) {
                passing.push(name.as_bytes(), value);
            }
        });
        passing
    }

    /// The value of the first trailer with this name.
    ///
    /// ```
    /// # use loopwright::Trailers;
    /// assert_eq!(Trailers::default().get("digest"), None);
    /// ```
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.with(|fields| fields.get(name).map(<[u8]>::to_vec))
            .flatten()
    }
}

/// Whether a field may follow a body (RFC 9110 §6.5.1): not one that frames or routes the message, authorizes it, changes
/// what is asked, says who asks, or is of one connection. Who reads a trailer may put it among the fields in front, and
/// take an underscore for a hyphen.
pub(crate) fn may_follow(name: &str) -> bool {
    const NEVER: [&str; 39] = [
        "age",
        "authentication-info",
        "authorization",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-location",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expect",
        "expires",
        "forwarded",
        "host",
        "http2-settings",
        "keep-alive",
        "location",
        "max-forwards",
        "origin",
        "pragma",
        "proxy",
        "range",
        "referer",
        "retry-after",
        "set-cookie",
        "status",
        "strict-transport-security",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "vary",
        "via",
        "warning",
        "www-authenticate",
        "x-http-method-override",
        "x-real-ip",
    ];
    const FAMILIES: [&str; 4] = ["if-", "proxy-", "sec-", "x-forwarded-"];
    let fold = |b: u8| {
        if b == b'_' {
            b'-'
        } else {
            b.to_ascii_lowercase()
        }
    };
    let begins = |start: &str| {
        let its = name.bytes().map(fold);
        name.len() >= start.len() && its.zip(start.bytes()).all(|(a, b)| a == b)
    };
    let is = |other: &str| name.len() == other.len() && begins(other);
    !NEVER.into_iter().any(is) && !FAMILIES.into_iter().any(begins)
}

/// A body on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoder {
    /// The answer has no body on the wire (HEAD, 204, 304): what is written goes nowhere.
    Suppressed,
    /// Content-Length was announced; this much is still owed.
    Length(u64),
    /// Chunked.
    Chunked,
    /// Until the connection closes (HTTP/1.0).
    UntilClose,
}

impl Encoder {
    /// What goes before `len` bytes of data. `None`: the data itself must not be sent.
    /// More than was announced is cut to what was: the next answer must begin where it should.
    fn before(&mut self, len: usize, out: &mut Vec<u8>) -> Option<usize> {
        match self {
            Encoder::Suppressed => None,
            Encoder::UntilClose => Some(len),
            Encoder::Length(left) => {
                let n = len.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= n as u64;
                (n > 0).then_some(n)
            }
            Encoder::Chunked if len == 0 => None,
            Encoder::Chunked => {
                // Writing to a Vec cannot fail.
                let _ = write!(out, "{len:x}\r\n");
                Some(len)
            }
        }
    }

    /// What goes after a piece of data.
    fn after(&self) -> &'static [u8] {
        if *self == Encoder::Chunked {
            b"\r\n"
        } else {
            b""
        }
    }

    /// Frames `len` bytes: what goes before them into `out`; how many of them to send; what goes after.
    pub fn frame(&mut self, len: usize, out: &mut Vec<u8>) -> (usize, &'static [u8]) {
        match self.before(len, out) {
            Some(n) => (n, self.after()),
            None => (0, b""),
        }
    }

    /// The end. `false`: less was written than announced, and only closing tells the client so.
    pub fn finish(&self, trailers: &[u8], out: &mut Vec<u8>) -> bool {
        if *self == Encoder::Chunked {
            out.extend_from_slice(b"0\r\n");
            out.extend_from_slice(trailers);
            out.extend_from_slice(b"\r\n");
        }
        !matches!(self, Encoder::Length(left) if *left > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces of `step` bytes, keeping what is not taken.
    fn feed(
        mut decoder: Decoder,
        text: &[u8],
        step: usize,
    ) -> Result<(Vec<u8>, Vec<u8>, usize), Error> {
        let (mut body, mut kept, mut taken) = (Vec::new(), Vec::new(), 0);
        for piece in text.chunks(step) {
            kept.extend_from_slice(piece);
            loop {
                let n = match decoder.poll(&kept)? {
                    Piece::Data(n) => {
                        body.extend_from_slice(&kept[..n]);
                        n
                    }
                    Piece::Framing(n) => n,
                    Piece::End(n) => {
                        Trailers::check(&kept[..n])?;
                        return Ok((body, kept[..n].to_vec(), taken + n));
                    }
                    Piece::NeedInput => break,
                };
                kept.drain(..n);
                taken += n;
            }
        }
        Ok((body, b"more".to_vec(), taken))
    }

    #[test]
    fn bodies() {
        let long = format!("10;{}\r\n0123456789abcdef\r\n0\r\n\r\n", "x".repeat(900));
        for (text, body, end) in [
            ("0\r\n\r\n", "", "\r\n"),
            ("5\r\nhello\r\n0\r\n\r\nGET", "hello", "\r\n"),
            ("5;a\r\nhello\r\n0\r\n\r\n", "hello", "\r\n"),
            (
                "5;a=b;c=\"d;\\\" e\"\r\nhello\r\n0;z\r\n\r\n",
                "hello",
                "\r\n",
            ),
            ("5 ; a = b\r\nhello\r\n0\r\n\r\n", "hello", "\r\n"),
            ("00000005\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", "hello!", "\r\n"),
            (
                "A\r\n0123456789\r\n0\r\nX: y\r\nz:\r\n\r\n",
                "0123456789",
                "X: y\r\nz:\r\n\r\n",
            ),
            (&long, "0123456789abcdef", "\r\n"),
            ("5\r\nhel", "hel", "more"),
        ] {
            for step in 1..=text.len() {
                let (got, rest, taken) = feed(Decoder::CHUNKED, text.as_bytes(), step).unwrap();
                assert_eq!(
                    (&got[..], &rest[..]),
                    (body.as_bytes(), end.as_bytes()),
                    "{text:?} by {step}"
                );
                assert!(
                    end == "more" || !text[taken..].starts_with('\r'),
                    "{text:?}"
                );
            }
        }
        for step in 1..6 {
            assert_eq!(
                feed(Decoder::Length(3), b"abcdef", step).unwrap(),
                (b"abc".to_vec(), vec![], 3)
            );
        }
    }

    #[test]
    fn refusals() {
        let long = format!("5;{}\r\n", "x".repeat(1100));
        let many =
            "1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n"
                .repeat(300);
        let trailers = format!("0\r\nx: {}\r\n\r\n", "y".repeat(9000));
        for text in [
            "\r\n",
            "g\r\n",
            "5\nhello",
            "5 \r\nhello",
            " 5\r\nhello",
            "+5\r\n",
            "-1\r\n",
            "0x5\r\n",
            "5;\r\n",
            "5;a=\r\n",
            "5;a=\"b\r\n",
            "5;a\0b\r\n",
            "5;a\rb\r\n",
            "5,6\r\n",
            "10000000000000000\r\n",
            "5\r\nhelloX",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello\rX",
            "0\r\n\n",
            "0\r\nnocolon\r\n\r\n",
            "0\r\n: x\r\n\r\n",
            "0\r\na: b\n\r\n",
            "0\r\na : b\r\n\r\n",
            "0\r\ncontent-length: 5\r\n\r\n",
            "0\r\na: \0\r\n\r\n",
            "0\r\ntransfer-encoding: chunked\r\n\r\n",
            &long,
            &many,
            &trailers,
        ] {
            for step in [1, 2, 3, text.len()] {
                let got = feed(Decoder::CHUNKED, text.as_bytes(), step);
                assert!(
                    matches!(got, Err(Error::Malformed(_))),
                    "{text:?} by {step}: {got:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let mut out = Vec::new();
        let mut encoder = Encoder::Chunked;
        for piece in [&b"hello"[..], b"", b"0123456789abcdef"] {
            if let Some(n) = encoder.before(piece.len(), &mut out) {
                out.extend_from_slice(&piece[..n]);
                out.extend_from_slice(encoder.after());
            }
        }
        assert!(encoder.finish(b"sum: 1\r\n", &mut out));
        let (body, trailers, _) = feed(Decoder::CHUNKED, &out, 1).unwrap();
        assert_eq!(body, b"hello0123456789abcdef");
        assert_eq!(
            Trailers::check(&trailers).unwrap().get("Sum").unwrap(),
            b"1"
        );
    }

    #[test]
    fn an_announced_length_is_kept() {
        let mut out = Vec::new();
        let mut encoder = Encoder::Length(5);
        assert_eq!(encoder.before(3, &mut out), Some(3));
        assert!(!encoder.finish(b"", &mut out));
        assert_eq!(encoder.before(3, &mut out), Some(2));
        assert_eq!(encoder.before(3, &mut out), None);
        assert!(encoder.finish(b"", &mut out) && out.is_empty());
    }
}
