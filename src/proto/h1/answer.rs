//! Floor 1. An answer's head: status line, fields, framing → bytes.
//!
//! Invariant: nothing a callback says can end a line early. Names are tokens, values hold no CR, LF
//! or NUL (RFC 9110 §5.5), and the fields that delimit the message are written here alone; anything
//! else makes the block faulty, and a faulty block is answered with a 500 instead.

use crate::base::clock::StockFields;
use crate::proto::http::{is_token, is_value_byte, list, trim_ows};
use http::StatusCode;

/// Field lines on their way out, as bytes, with a note of those that matter to the framing.
#[derive(Clone, Debug, Default)]
pub struct FieldBlock {
    lines: Vec<u8>,
    content_type: bool,
    date: bool,
    server: bool,
    close: bool,
    fault: Option<&'static str>,
    /// What was there when middleware had passed: it stays, whatever becomes of the handler.
    mark: Option<Mark>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    len: usize,
    content_type: bool,
    date: bool,
    server: bool,
    close: bool,
}

impl FieldBlock {
    /// Adds a line. A line that must not be sent makes the block faulty.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        if !is_token(name) {
            self.fault = Some("a response header's name is not a token");
            return;
        }
        let value = trim_ows(value);
        // Without an early end, many bytes are looked at at once.
        if !value.iter().fold(true, |ok, &b| ok & is_value_byte(b)) {
            self.fault = Some("a response header's value holds a control character");
            return;
        }
        // The length first: it rules out nearly every name with one comparison.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"date") => self.date = true,
            6 if name.eq_ignore_ascii_case(b"server") => self.server = true,
            10 if name.eq_ignore_ascii_case(b"connection") => {
                // Whether the connection stays is decided with the framing; only `close` is heard.
                self.close |= list(value).any(|option| option.eq_ignore_ascii_case(b"close"));
                return;
            }
            10 if name.eq_ignore_ascii_case(b"keep-alive") => return,
            12 if name.eq_ignore_ascii_case(b"content-type") => self.content_type = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                self.fault = Some(
                    "content-length is written by the server: answer with a body, or stream_sized",
                );
                return;
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.fault = Some("transfer-encoding is written by the server");
                return;
            }
            _ => {}
        }
        self.put(name, value);
    }

    /// Makes room for so many bytes of lines at once.
    pub fn reserve(&mut self, bytes: usize) {
        self.lines.reserve(bytes);
    }

    fn put(&mut self, name: &[u8], value: &[u8]) {
        self.lines.reserve(name.len() + value.len() + 4);
        self.lines.extend_from_slice(name);
        self.lines.extend_from_slice(b": ");
        self.lines.extend_from_slice(value);
        self.lines.extend_from_slice(b"\r\n");
    }

    /// Sets the media type unless the callback has. `value` is one of ours, and well-formed.
    pub fn default_content_type(&mut self, value: &'static str) {
        if !self.content_type {
            self.content_type = true;
            self.put(b"content-type", value.as_bytes());
        }
    }

    /// The media type of nearly every answer that a callback writes: one copy.
    pub fn default_text(&mut self) {
        if !self.content_type {
            self.content_type = true;
            self.lines
                .extend_from_slice(b"content-type: text/plain; charset=utf-8\r\n");
        }
    }

    /// Whether there is a line of this name, which is lower-case.
    pub fn has(&self, name: &[u8]) -> bool {
        let mut lines = self.lines.split(|&b| b == b'\n');
        lines.any(|line| {
            let its = line.get(..name.len()).unwrap_or_default();
            its.eq_ignore_ascii_case(name) && line.get(name.len()) == Some(&b':')
        })
    }

    /// Ends the connection after this answer.
    pub fn close(&mut self) {
        self.close = true;
    }

    /// What is wrong with it, if anything.
    pub fn fault(&self) -> Option<&'static str> {
        self.fault
    }

    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.lines.clear();
        *self = FieldBlock {
            lines: std::mem::take(&mut self.lines),
            ..FieldBlock::default()
        };
    }

    /// Everything so far is middleware's.
    pub fn set_mark(&mut self) {
        self.mark = Some(Mark {
            len: self.lines.len(),
            content_type: self.content_type,
            date: self.date,
            server: self.server,
            close: self.close,
        });
    }

    /// Forgets what came after middleware; all of it, if middleware has not passed.
    pub fn reset_to_mark(&mut self) {
        let Some(mark) = self.mark else {
            return self.clear();
        };
        self.lines.truncate(mark.len);
        (self.content_type, self.date, self.server) = (mark.content_type, mark.date, mark.server);
        (self.close, self.fault) = (mark.close, None);
    }

    /// Whether the callback asked for the connection to be closed.
    pub fn wants_close(&self) -> bool {
        self.close
    }

    /// The lines as they will be sent.
    pub fn lines(&self) -> &[u8] {
        &self.lines
    }
}

/// What the head says about the body that follows (RFC 9112 §6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Announce {
    /// Nothing: 1xx, 204, 304, or the end of the connection ends the body.
    Nothing,
    /// `content-length`.
    Length(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
}

/// What the head says about the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persistence {
    /// Nothing: it stays, as HTTP/1.1 connections do.
    Implied,
    /// `connection: keep-alive`, for a client that speaks HTTP/1.0 and asked.
    KeepAlive,
    /// `connection: close`.
    Close,
    /// `connection: upgrade`: it stays, and speaks another protocol from here on (RFC 9110 §7.8).
    Switch,
}

/// Appends a response head to `out`.
pub fn encode(
    out: &mut Vec<u8>,
    status: StatusCode,
    fields: &FieldBlock,
    stock: &StockFields,
    announce: Announce,
    persistence: Persistence,
) {
    let stock_lines = match (fields.date, fields.server) {
        (false, false) if status == StatusCode::OK => stock.ok_head(),
        (date, server) => {
            status_line(out, status);
            match (date, server) {
                (false, false) => stock.lines(),
                (false, true) => stock.date_line(),
                (true, false) => stock.server_line(),
                (true, true) => b"",
            }
        }
    };
    out.extend_from_slice(stock_lines);
    out.extend_from_slice(&fields.lines);
    match (announce, persistence) {
        // Nearly every answer.
        (Announce::Length(n), Persistence::Implied) => return content_length(out, n, b"\r\n\r\n"),
        (Announce::Length(n), _) => content_length(out, n, b"\r\n"),
        (Announce::Chunked, _) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        (Announce::Nothing, _) => {}
    }
    out.extend_from_slice(match persistence {
        Persistence::Implied => b"\r\n",
        Persistence::KeepAlive => b"connection: keep-alive\r\n\r\n",
        Persistence::Close => b"connection: close\r\n\r\n",
        Persistence::Switch => b"connection: upgrade\r\n\r\n",
    });
}

/// Put together on the stack: one copy instead of three.
fn content_length(out: &mut Vec<u8>, n: u64, end: &[u8]) {
    const NAME: &[u8; 16] = b"content-length: ";
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(n).as_bytes();
    let mut line = [0; 16 + 20 + 4];
    let (digits_end, line_end) = (16 + digits.len(), 16 + digits.len() + end.len());
    line[..16].copy_from_slice(NAME);
    line[16..digits_end].copy_from_slice(digits);
    line[digits_end..line_end].copy_from_slice(end);
    out.extend_from_slice(&line[..line_end]);
}

pub(super) fn status_line(out: &mut Vec<u8>, status: StatusCode) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("").as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Instant;
    use std::time::SystemTime;

    fn head(fields: &FieldBlock, announce: Announce, persistence: Persistence) -> String {
        let mut stock = StockFields::new(Some("loopwright".into()));
        stock.refresh(Instant::default(), || SystemTime::UNIX_EPOCH);
        let mut out = Vec::new();
        encode(
            &mut out,
            StatusCode::OK,
            fields,
            &stock,
            announce,
            persistence,
        );
        String::from_utf8(out)
            .unwrap()
            .replace("date: Thu, 01 Jan 1970 00:00:00 GMT", "DATE")
            .replace("\r\n", "|")
    }

    #[test]
    fn heads() {
        let mut fields = FieldBlock::default();
        fields.push(b"X-A", b" 1 ");
        fields.default_content_type("text/plain");
        fields.default_content_type("text/html");
        assert_eq!(
            head(&fields, Announce::Length(13), Persistence::Implied),
            "HTTP/1.1 200 OK|DATE|server: loopwright|X-A: 1|content-type: text/plain|content-length: 13||"
        );
        fields.clear();
        fields.push(b"Server", b"mine");
        fields.push(b"connection", b"x, Close");
        assert!(fields.wants_close());
        assert_eq!(
            head(&fields, Announce::Chunked, Persistence::Close),
            "HTTP/1.1 200 OK|DATE|Server: mine|transfer-encoding: chunked|connection: close||"
        );
        fields.clear();
        fields.push(b"date", b"today");
        assert_eq!(
            head(&fields, Announce::Nothing, Persistence::KeepAlive),
            "HTTP/1.1 200 OK|server: loopwright|date: today|connection: keep-alive||"
        );
    }

    #[test]
    fn faults() {
        for (name, value) in [
            ("x", "a\r\nb: c"),
            ("x", "a\nb"),
            ("x", "a\r\n"),
            ("x", "\na"),
            ("x", "a\0"),
            ("x y", "1"),
            ("x:", "1"),
            ("", "1"),
            ("x\r\n", "1"),
            ("Content-Length", "5"),
            ("transfer-encoding", "chunked"),
        ] {
            let mut fields = FieldBlock::default();
            fields.push(name.as_bytes(), value.as_bytes());
            assert!(
                fields.fault().is_some() && fields.lines().is_empty(),
                "{name:?} {value:?}"
            );
        }
    }
}
