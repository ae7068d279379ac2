//! Floor 1. RESP, the wire format of Redis: version 3, and version 2, whose replies are a subset of it.
//!
//! ```text
//!           ┌──────────── an element of an aggregate ◄───────────┐
//!           ▼                                                    │
//!  Decoder: Line ── $ ! = ──► Bulk(missing) ── all there ──► a value ── of the outermost ──► returned
//!           └── any other type, or the head of an aggregate ─────┘
//! ```
//! Invariants: every byte of the input is looked at once, wherever it is cut: an unfinished line and an
//! unfinished bulk are kept with what is missing, an unfinished aggregate on a stack of our own, so that
//! neither a dripping peer nor a deeply nesting one costs more than its bytes. What is announced is checked
//! against [`Bounds`] before memory is taken for it. After an error nothing is decoded any more: where a value
//! ends is in doubt.
//!
//! Our own, and not the `redis-protocol` crate (6.0): that one decodes by recursion without a bound (200,000 nested
//! arrays, 800 kB, overflow the stack, which ends the process), parses an aggregate that drips in anew with
//! every segment (1.1 MB took 3.3 s, twice as much four times as long), takes a version 2 null (`$-1`) for the begin
//! of a stream, and does not look at the end of a bulk. Streamed strings and aggregates (`$?`, `*?`), which no server
//! sends, are refused.

use bytes::Bytes;
use std::fmt;
use std::io::Write;

/// What a peer may make us keep. The defaults are ample for a client whose server is trusted with its data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// How deep aggregates nest; attributes count. At most [`Bounds::MAX_DEPTH`]: dropping a value recurses.
    pub depth: usize,
    /// Bytes of one bulk string.
    pub bulk: usize,
    /// Bytes of a line: a simple string, an error, a number.
    pub line: usize,
    /// Elements of one aggregate; a map has two for each entry.
    pub elements: usize,
    /// Bytes of memory of one value with everything in it.
    pub value: usize,
}

impl Bounds {
    /// Whatever `depth` says, no deeper.
    pub const MAX_DEPTH: usize = 128;
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            depth: 16,
            bulk: 16 * 1024 * 1024,
            line: 64 * 1024,
            elements: 1024 * 1024,
            value: 64 * 1024 * 1024,
        }
    }
}

/// Why no more can be decoded. The connection is to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// Not RESP.
    Malformed(&'static str),
    /// Aggregates nest deeper than [`Bounds::depth`].
    TooDeep {
        /// Levels allowed.
        limit: usize,
    },
    /// A bulk string is longer than [`Bounds::bulk`].
    BulkTooLong {
        /// Bytes announced.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A line is longer than [`Bounds::line`].
    LineTooLong {
        /// Bytes allowed.
        limit: usize,
    },
    /// An aggregate has more than [`Bounds::elements`].
    TooManyElements {
        /// Elements announced.
        count: usize,
        /// Elements allowed.
        limit: usize,
    },
    /// A value takes more than [`Bounds::value`].
    ValueTooLarge {
        /// Bytes allowed.
        limit: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::Malformed(why) => write!(f, "not RESP: {why}"),
            Error::TooDeep { limit } => write!(f, "a value nests deeper than {limit} levels"),
            Error::BulkTooLong { size, limit } => {
                write!(f, "a string of {size} bytes, over {limit}")
            }
            Error::LineTooLong { limit } => write!(f, "a line of more than {limit} bytes"),
            Error::TooManyElements { count, limit } => {
                write!(f, "an aggregate of {count} elements, over {limit}")
            }
            Error::ValueTooLarge { limit } => write!(f, "a value of more than {limit} bytes"),
        }
    }
}

impl std::error::Error for Error {}

/// One value of the wire.
///
/// ```
/// use loopwright::proto::resp::{Bounds, Decoder, Value};
/// let mut decoder = Decoder::new(Bounds::default());
/// let mut input = &b"*2\r\n:7\r\n$5\r\nhel"[..];
/// assert_eq!(decoder.decode(&mut input), Ok(None)); // all taken, more is wanted
/// let mut input = &b"lo\r\n+OK\r\n"[..];
/// let value = decoder.decode(&mut input).unwrap().unwrap();
/// assert_eq!(value, Value::Array(vec![Value::Integer(7), Value::Bulk("hello".into())]));
/// assert_eq!(input, b"+OK\r\n");
/// ```
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// `_`, and version 2's `$-1` and `*-1`.
    Null,
    /// `+`: a line.
    Simple(Bytes),
    /// `-` or `!`: a code in capitals, and a text.
    Error(Bytes),
    /// `:`
    Integer(i64),
    /// `$`: any bytes.
    Bulk(Bytes),
    /// `,`
    Double(f64),
    /// `#`
    Boolean(bool),
    /// `(`: an integer of any size, in decimal.
    BigNumber(Bytes),
    /// `=`: a text for people.
    Verbatim {
        /// `txt`, `mkd`.
        format: [u8; 3],
        /// The text.
        text: Bytes,
    },
    /// `*`
    Array(Vec<Value>),
    /// `~`: what the server says is a set; nobody has looked for doubles.
    Set(Vec<Value>),
    /// `%`: entries in the order in which they came.
    Map(Vec<(Value, Value)>),
    /// `>`: what nobody has asked for. Only ever outermost.
    Push(Vec<Value>),
    /// `|`: a value, and what the server says beside it.
    Attributed {
        /// As of a map.
        attributes: Vec<(Value, Value)>,
        /// What they belong to.
        value: Box<Value>,
    },
}

impl Value {
    /// The bytes of a string of any kind; not of an error.
    pub fn bytes(&self) -> Option<&Bytes> {
        match self {
            Value::Simple(text) | Value::Bulk(text) | Value::Verbatim { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The value without its attributes.
    pub fn plain(self) -> Value {
        match self {
            // Not a recursion: an attributed value may be attributed, as deep as values may nest.
            Value::Attributed { value, .. } => value.plain(),
            other => other,
        }
    }

    /// Appends the value as a server of version 3 would send it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => out.extend_from_slice(b"_\r\n"),
            Value::Simple(text) => line(b'+', text, out),
            // An error with an end of line in it cannot be a line.
            Value::Error(text) if text.iter().any(|b| b"\r\n".contains(b)) => bulk(b'!', text, out),
            Value::Error(text) => line(b'-', text, out),
            Value::Integer(n) => {
                out.push(b':');
                out.extend_from_slice(itoa::Buffer::new().format(*n).as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            Value::Bulk(text) => bulk(b'$', text, out),
            Value::Double(n) => double(*n, out),
            Value::Boolean(true) => out.extend_from_slice(b"#t\r\n"),
            Value::Boolean(false) => out.extend_from_slice(b"#f\r\n"),
            Value::BigNumber(digits) => line(b'(', digits, out),
            Value::Verbatim { format, text } => {
                length(b'=', text.len() + 4, out);
                out.extend_from_slice(format);
                out.push(b':');
                out.extend_from_slice(text);
                out.extend_from_slice(b"\r\n");
            }
            Value::Array(elements) => aggregate(b'*', elements, out),
            Value::Set(elements) => aggregate(b'~', elements, out),
            Value::Push(elements) => aggregate(b'>', elements, out),
            Value::Map(entries) => map(b'%', entries, out),
            Value::Attributed { attributes, value } => {
                map(b'|', attributes, out);
                value.encode(out);
            }
        }
    }
}

/// Appends a command: an array of bulk strings.
///
/// ```
/// let mut out = Vec::new();
/// loopwright::proto::resp::command(["GET", "a"], &mut out);
/// assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n");
/// ```
pub fn command<I>(arguments: I, out: &mut Vec<u8>)
where
    I: IntoIterator<Item: AsRef<[u8]>, IntoIter: ExactSizeIterator>,
{
    bulks(b'*', arguments.into_iter(), out);
}

/// Appends a push of bulk strings.
pub fn push<I>(strings: I, out: &mut Vec<u8>)
where
    I: IntoIterator<Item: AsRef<[u8]>, IntoIter: ExactSizeIterator>,
{
    bulks(b'>', strings.into_iter(), out);
}

fn bulks(kind: u8, strings: impl ExactSizeIterator<Item: AsRef<[u8]>>, out: &mut Vec<u8>) {
    length(kind, strings.len(), out);
    for string in strings {
        bulk(b'$', string.as_ref(), out);
    }
}

fn length(kind: u8, n: usize, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn bulk(kind: u8, text: &[u8], out: &mut Vec<u8>) {
    length(kind, text.len(), out);
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

/// Ends of lines within would be another value to the peer: they become spaces.
fn line(kind: u8, text: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    let is_end = |b: &u8| b"\r\n".contains(b);
    out.extend(text.iter().map(|b| if is_end(b) { b' ' } else { *b }));
    out.extend_from_slice(b"\r\n");
}

fn double(n: f64, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail. `{}` says NaN, inf and -inf; the digits are those that lead back to `n`.
    let _ = if n.is_nan() {
        write!(out, ",nan\r\n")
    } else {
        write!(out, ",{n}\r\n")
    };
}

fn aggregate(kind: u8, elements: &[Value], out: &mut Vec<u8>) {
    length(kind, elements.len(), out);
    for element in elements {
        element.encode(out);
    }
}

fn map(kind: u8, entries: &[(Value, Value)], out: &mut Vec<u8>) {
    length(kind, entries.len(), out);
    for (key, value) in entries {
        key.encode(out);
        value.encode(out);
    }
}

/// What an unfinished aggregate will be.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Array,
    Set,
    Map,
    Push,
    Attributes,
}

#[derive(Debug)]
enum Open {
    Aggregate {
        kind: Kind,
        elements: Vec<Value>,
        /// Elements to come.
        missing: usize,
    },
    /// The value that these belong to comes next.
    Attributed(Vec<(Value, Value)>),
}

#[derive(Debug)]
struct Bulk {
    kind: u8,
    text: Vec<u8>,
    len: usize,
}

/// Bytes to values, wherever the bytes are cut.
#[derive(Debug)]
pub struct Decoder {
    bounds: Bounds,
    /// The begin of a line whose end has not come.
    line: Vec<u8>,
    bulk: Option<Bulk>,
    open: Vec<Open>,
    /// Bytes of memory of the value that is not finished.
    size: usize,
    broken: Option<Error>,
}

/// The longest line that has nothing but a length.
const MAX_LENGTH_LINE: usize = 24;
/// How many elements are made room for before they come.
const FEW_ELEMENTS: usize = 16;
/// How much of a bulk is made room for before it comes.
const FEW_BYTES: usize = 16 * 1024;

impl Decoder {
    /// Nothing has come yet.
    pub fn new(bounds: Bounds) -> Decoder {
        let depth = bounds.depth.min(Bounds::MAX_DEPTH);
        Decoder {
            bounds: Bounds { depth, ..bounds },
            line: Vec::new(),
            bulk: None,
            open: Vec::new(),
            size: 0,
            broken: None,
        }
    }

    /// Whether the input has ended between two values.
    pub fn is_between_values(&self) -> bool {
        self.line.is_empty() && self.bulk.is_none() && self.open.is_empty()
    }

    /// Takes a value from the front of `input`. `None`: all of it was taken, and the value goes on.
    ///
    /// # Errors
    /// What is not RESP or over [`Bounds`]; the same from then on.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Value>, Error> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let decoded = self.advance(input);
        if let Err(error) = decoded {
            // What was kept is of no use any more.
            *self = Decoder::new(self.bounds);
            self.broken = Some(error);
        }
        decoded
    }

    fn advance(&mut self, input: &mut &[u8]) -> Result<Option<Value>, Error> {
        loop {
            let element = match self.bulk.take() {
                Some(bulk) => self.read_bulk(bulk, input)?,
                None if input.is_empty() => return Ok(None),
                None => self.read_line(input)?,
            };
            match element {
                Read::NeedInput => return Ok(None),
                Read::Head => {}
                Read::Value(value) => {
                    if let Some(value) = self.close(value) {
                        self.size = 0;
                        return Ok(Some(value));
                    }
                }
            }
        }
    }

    fn read_line(&mut self, input: &mut &[u8]) -> Result<Read, Error> {
        let kind = *self.line.first().or(input.first()).unwrap_or(&0);
        let limit = match kind {
            b'+' | b'-' | b':' | b',' | b'#' | b'(' | b'_' => self.bounds.line,
            b'$' | b'!' | b'=' | b'*' | b'~' | b'%' | b'>' | b'|' => MAX_LENGTH_LINE,
            _ => return Err(Error::Malformed("an unknown type")),
        };
        // The type, the line and its CRLF.
        let room = limit.saturating_add(3).saturating_sub(self.line.len());
        let seen = &input[..input.len().min(room)];
        let Some(at) = memchr::memchr(b'\n', seen) else {
            if seen.len() == room {
                return Err(Error::LineTooLong { limit });
            }
            self.line.extend_from_slice(input);
            *input = &[];
            return Ok(Read::NeedInput);
        };
        let (end, rest) = input.split_at(at + 1);
        *input = rest;
        if self.line.is_empty() {
            return self.read(end);
        }
        let mut whole = std::mem::take(&mut self.line);
        whole.extend_from_slice(end);
        let read = self.read(&whole);
        // Room for the next cut, but not for ever as much as the longest line wanted.
        if whole.capacity() <= 1024 {
            whole.clear();
            self.line = whole;
        }
        read
    }

    /// A line with its end.
    fn read(&mut self, line: &[u8]) -> Result<Read, Error> {
        let Some((&kind, text)) = line
            .strip_suffix(b"\r\n")
            .and_then(<[u8]>::split_first)
            .filter(|(_, text)| memchr::memchr(b'\r', text).is_none())
        else {
            return Err(Error::Malformed("the end of a line"));
        };
        let value = match kind {
            b'+' => Value::Simple(self.text(text)?),
            b'-' => Value::Error(self.text(text)?),
            b':' => Value::Integer(number(text).ok_or(Error::Malformed("an integer"))?),
            b',' => Value::Double(float(text).ok_or(Error::Malformed("a double"))?),
            b'(' if is_integer(text) => Value::BigNumber(self.text(text)?),
            b'(' => return Err(Error::Malformed("a big number")),
            b'#' if text == b"t" => Value::Boolean(true),
            b'#' if text == b"f" => Value::Boolean(false),
            b'#' => return Err(Error::Malformed("a boolean")),
            b'_' if text.is_empty() => Value::Null,
            b'_' => return Err(Error::Malformed("a null")),
            b'$' | b'*' if text == b"-1" => Value::Null,
            b'$' | b'!' | b'=' => return self.open_bulk(kind, text),
            b'*' => return self.open_aggregate(Kind::Array, text),
            b'~' => return self.open_aggregate(Kind::Set, text),
            b'%' => return self.open_aggregate(Kind::Map, text),
            b'>' => return self.open_aggregate(Kind::Push, text),
            _ => return self.open_aggregate(Kind::Attributes, text),
        };
        Ok(Read::Value(value))
    }

    fn text(&mut self, text: &[u8]) -> Result<Bytes, Error> {
        self.charge(text.len())?;
        Ok(Bytes::copy_from_slice(text))
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Error> {
        self.size = self.size.saturating_add(bytes);
        let limit = self.bounds.value;
        if self.size > limit {
            return Err(Error::ValueTooLarge { limit });
        }
        Ok(())
    }

    fn open_bulk(&mut self, kind: u8, text: &[u8]) -> Result<Read, Error> {
        let len = announced(text)?;
        let limit = self.bounds.bulk;
        if len > limit {
            return Err(Error::BulkTooLong { size: len, limit });
        }
        if kind == b'=' && len < 4 {
            return Err(Error::Malformed("a verbatim string without a format"));
        }
        self.charge(len)?;
        let text = Vec::new();
        self.bulk = Some(Bulk { kind, text, len });
        Ok(Read::Head)
    }

    fn read_bulk(&mut self, mut bulk: Bulk, input: &mut &[u8]) -> Result<Read, Error> {
        // With its CRLF. Cannot overflow: `len` is within bounds that memory has to hold.
        let whole = bulk.len.saturating_add(2);
        let missing = whole - bulk.text.len();
        let (now, rest) = input.split_at(missing.min(input.len()));
        *input = rest;
        let text = if bulk.text.is_empty() && now.len() == whole {
            let (text, end) = now.split_at(bulk.len);
            check_end(end)?;
            Bytes::copy_from_slice(text)
        } else {
            if bulk.text.capacity() == 0 {
                bulk.text.reserve(whole.min(FEW_BYTES));
            }
            bulk.text.extend_from_slice(now);
            check_end(bulk.text.get(bulk.len..).unwrap_or_default())?;
            if bulk.text.len() < whole {
                self.bulk = Some(bulk);
                return Ok(Read::NeedInput);
            }
            bulk.text.truncate(bulk.len);
            Bytes::from(bulk.text)
        };
        Ok(Read::Value(match bulk.kind {
            b'$' => Value::Bulk(text),
            b'!' => Value::Error(text),
            _ => match text[..] {
                [a, b, c, b':', ..] => Value::Verbatim {
                    format: [a, b, c],
                    text: text.slice(4..),
                },
                _ => return Err(Error::Malformed("the format of a verbatim string")),
            },
        }))
    }

    fn open_aggregate(&mut self, kind: Kind, text: &[u8]) -> Result<Read, Error> {
        let pairs = matches!(kind, Kind::Map | Kind::Attributes);
        let count = announced(text)?.saturating_mul(if pairs { 2 } else { 1 });
        let limit = self.bounds.elements;
        if count > limit {
            return Err(Error::TooManyElements { count, limit });
        }
        if kind == Kind::Push && !self.open.is_empty() {
            return Err(Error::Malformed("a push within a value"));
        }
        let limit = self.bounds.depth;
        if self.open.len() >= limit {
            return Err(Error::TooDeep { limit });
        }
        self.charge(count.saturating_add(1).saturating_mul(size_of::<Value>()))?;
        self.open.push(Open::Aggregate {
            kind,
            elements: Vec::with_capacity(count.min(FEW_ELEMENTS)),
            missing: count,
        });
        Ok(match count {
            0 => self.finish(),
            _ => Read::Head,
        })
    }

    /// Puts a value where it belongs. `Some`: it is the outermost.
    fn close(&mut self, mut value: Value) -> Option<Value> {
        loop {
            match self.open.last_mut() {
                None => return Some(value),
                Some(Open::Attributed(attributes)) => {
                    let (attributes, plain) = (std::mem::take(attributes), Box::new(value));
                    self.open.pop();
                    value = Value::Attributed {
                        attributes,
                        value: plain,
                    };
                }
                Some(Open::Aggregate {
                    elements, missing, ..
                }) => {
                    elements.push(value);
                    *missing -= 1;
                    if *missing > 0 {
                        return None;
                    }
                    match self.finish() {
                        Read::Value(whole) => value = whole,
                        Read::Head | Read::NeedInput => return None,
                    }
                }
            }
        }
    }

    /// The innermost aggregate has all its elements.
    fn finish(&mut self) -> Read {
        let Some(Open::Aggregate { kind, elements, .. }) = self.open.pop() else {
            return Read::Head;
        };
        Read::Value(match kind {
            Kind::Array => Value::Array(elements),
            Kind::Set => Value::Set(elements),
            Kind::Push => Value::Push(elements),
            Kind::Map => Value::Map(entries(elements)),
            Kind::Attributes => {
                self.open.push(Open::Attributed(entries(elements)));
                return Read::Head;
            }
        })
    }
}

enum Read {
    Value(Value),
    /// There is more to the value.
    Head,
    NeedInput,
}

fn entries(elements: Vec<Value>) -> Vec<(Value, Value)> {
    let mut elements = elements.into_iter();
    let entry = || Some((elements.next()?, elements.next()?));
    std::iter::from_fn(entry).collect()
}

/// As much of the end of a bulk as has come.
fn check_end(end: &[u8]) -> Result<(), Error> {
    if b"\r\n".starts_with(end) {
        Ok(())
    } else {
        Err(Error::Malformed("the end of a string"))
    }
}

/// A length or a count: digits, without a sign.
fn announced(text: &[u8]) -> Result<usize, Error> {
    let digits = text.iter().all(u8::is_ascii_digit) && !text.is_empty();
    let text = std::str::from_utf8(text).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok())
        .ok_or(Error::Malformed("a length"))
}

fn is_integer(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").or(text.strip_prefix(b"+"));
    let digits = digits.unwrap_or(text);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn float(text: &[u8]) -> Option<f64> {
    match text {
        b"inf" | b"+inf" => Some(f64::INFINITY),
        b"-inf" => Some(f64::NEG_INFINITY),
        // Some versions of the C library say the sign of what is no number.
        b"nan" | b"-nan" => Some(f64::NAN),
        // Rust would take "Infinity", too.
        _ if text.iter().any(|b| !b"0123456789+-.eE".contains(b)) => None,
        _ => std::str::from_utf8(text).ok()?.parse().ok(),
    }
}

/// What waits for a socket, within a limit.
///
/// ```
/// use loopwright::proto::resp::Output;
/// let mut output = Output::new(16);
/// output.bytes_mut().extend_from_slice(b"+PONG\r\n");
/// output.sent(3);
/// assert_eq!((output.waiting(), output.room()), (&b"NG\r\n"[..], 12));
/// ```
#[derive(Debug)]
pub struct Output {
    bytes: Vec<u8>,
    sent: usize,
    limit: usize,
}

impl Output {
    /// Of at most `limit` bytes, if those who write ask for [`Output::room`] first.
    pub fn new(limit: usize) -> Output {
        Output {
            bytes: Vec::new(),
            sent: 0,
            limit,
        }
    }

    /// To append to.
    pub fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What is to be written next.
    pub fn waiting(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// Bytes left under the limit.
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.waiting().len())
    }

    /// The first `n` bytes of what waits have been written.
    pub fn sent(&mut self, n: usize) {
        self.sent = self.sent.saturating_add(n).min(self.bytes.len());
        // Moved when at least as much goes as is moved: each byte pays for one other.
        if self.sent * 2 >= self.bytes.len() {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        // A burst's memory does not stay.
        if self.bytes.is_empty() && self.bytes.capacity() > 64 * 1024 {
            self.bytes = Vec::new();
        }
    }
}

/// Every way to cut `bytes` that the tests of this floor look at: whole, by the byte, at every place.
#[cfg(test)]
pub(crate) fn cuts(bytes: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let by_the_byte = bytes.chunks(1).collect();
    let in_two = (1..bytes.len()).map(|at| vec![&bytes[..at], &bytes[at..]]);
    [vec![bytes], by_the_byte].into_iter().chain(in_two)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode<'a>(
        bounds: Bounds,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<Value>, Option<Error>) {
        let (mut decoder, mut values) = (Decoder::new(bounds), Vec::new());
        for mut piece in pieces {
            loop {
                match decoder.decode(&mut piece) {
                    Ok(Some(value)) => values.push(value),
                    Ok(None) => {
                        assert!(piece.is_empty(), "more is wanted, with some left");
                        break;
                    }
                    Err(error) => {
                        assert_eq!(decoder.decode(&mut &b"+OK\r\n"[..]), Err(error));
                        return (values, Some(error));
                    }
                }
            }
        }
        (values, None)
    }

    #[track_caller]
    fn check(bounds: Bounds, input: &[u8], values: &[Value], error: Option<Error>) {
        for pieces in cuts(input) {
            let got = decode(bounds, pieces.iter().copied());
            let want = (values.to_vec(), error);
            // NaN is not equal to itself, but looks like itself.
            assert_eq!(
                format!("{got:?}"),
                format!("{want:?}"),
                "in {}",
                pieces.len()
            );
        }
    }

    fn bulk(text: &str) -> Value {
        Value::Bulk(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn values() {
        use Value::*;
        let entry = || (bulk("k"), Integer(1));
        for (input, value) in [
            ("+OK\r\n", Simple("OK".into())),
            ("+\r\n", Simple("".into())),
            ("-ERR no\r\n", Error("ERR no".into())),
            ("!6\r\nERR\r\nx\r\n", Error("ERR\r\nx".into())),
            (":-7\r\n", Integer(-7)),
            (":+7\r\n", Integer(7)),
            (":9223372036854775807\r\n", Integer(i64::MAX)),
            ("$5\r\nhello\r\n", bulk("hello")),
            ("$0\r\n\r\n", bulk("")),
            ("$2\r\n\r\n\r\n", bulk("\r\n")),
            ("$-1\r\n", Null),
            ("*-1\r\n", Null),
            ("_\r\n", Null),
            (",1.5\r\n", Double(1.5)),
            (",-1e-3\r\n", Double(-0.001)),
            (",inf\r\n", Double(f64::INFINITY)),
            (",-inf\r\n", Double(f64::NEG_INFINITY)),
            (",nan\r\n", Double(f64::NAN)),
            ("#t\r\n", Boolean(true)),
            ("#f\r\n", Boolean(false)),
            ("(-123456789012345678901234567890\r\n", {
                BigNumber("-123456789012345678901234567890".into())
            }),
            ("=7\r\ntxt:a\r\n\r\n", {
                let text = "a\r\n".into();
                let format = *b"txt";
                Verbatim { format, text }
            }),
            ("*0\r\n", Array(vec![])),
            ("*2\r\n*1\r\n:1\r\n*0\r\n", {
                Array(vec![Array(vec![Integer(1)]), Array(vec![])])
            }),
            ("~2\r\n:1\r\n:1\r\n", Set(vec![Integer(1), Integer(1)])),
            ("%1\r\n$1\r\nk\r\n:1\r\n", Map(vec![entry()])),
            ("%0\r\n", Map(vec![])),
            (">2\r\n+a\r\n_\r\n", Push(vec![Simple("a".into()), Null])),
            ("|1\r\n$1\r\nk\r\n:1\r\n+OK\r\n", {
                let value = Box::new(Simple("OK".into()));
                let attributes = vec![entry()];
                Attributed { attributes, value }
            }),
            ("*1\r\n|0\r\n*1\r\n_\r\n", {
                let value = Box::new(Array(vec![Null]));
                let attributes = vec![];
                Array(vec![Attributed { attributes, value }])
            }),
        ] {
            check(
                Bounds::default(),
                input.as_bytes(),
                std::slice::from_ref(&value),
                None,
            );
            // And what follows is not touched.
            let twice = format!("{input}{input}+");
            check(
                Bounds::default(),
                twice.as_bytes(),
                &[value.clone(), value.clone()],
                None,
            );
            let mut out = Vec::new();
            value.encode(&mut out);
            check(Bounds::default(), &out, &[value], None);
        }
    }

    #[test]
    fn what_is_not_resp() {
        for (input, why) in [
            ("HTTP/1.1 400 Bad Request\r\n", "an unknown type"),
            ("\r\n", "an unknown type"),
            ("+a\n", "the end of a line"),
            ("+a\rb\r\n", "the end of a line"),
            (":\r\n", "an integer"),
            (":1.0\r\n", "an integer"),
            (":9223372036854775808\r\n", "an integer"),
            ("$+1\r\n", "a length"),
            ("$-2\r\n", "a length"),
            ("$\r\n", "a length"),
            ("$?\r\n", "a length"),
            ("*?\r\n", "a length"),
            ("%-1\r\n", "a length"),
            ("!-1\r\n", "a length"),
            ("$99999999999999999999\r\n", "a length"),
            ("$1\r\nab", "the end of a string"),
            ("$1\r\na\r\r", "the end of a string"),
            ("=3\r\ntxt\r\n", "a verbatim string without a format"),
            ("=4\r\ntxt.\r\n", "the format of a verbatim string"),
            (",1,5\r\n", "a double"),
            (",infinity\r\n", "a double"),
            (",\r\n", "a double"),
            ("#y\r\n", "a boolean"),
            ("_0\r\n", "a null"),
            ("(\r\n", "a big number"),
            ("(1a\r\n", "a big number"),
            ("*1\r\n>0\r\n", "a push within a value"),
            ("|0\r\n>0\r\n", "a push within a value"),
        ] {
            let error = Error::Malformed(why);
            check(Bounds::default(), input.as_bytes(), &[], Some(error));
            let behind = format!("*1\r\n:1\r\n{input}");
            let first = Value::Array(vec![Value::Integer(1)]);
            check(Bounds::default(), behind.as_bytes(), &[first], Some(error));
        }
    }

    #[test]
    fn bounds() {
        let bounds = Bounds {
            depth: 2,
            bulk: 3,
            line: 4,
            elements: 4,
            value: 6 * size_of::<Value>(),
        };
        let size = size_of::<Value>();
        for (input, error) in [
            ("*1\r\n*1\r\n:1\r\n", None),
            ("*1\r\n*1\r\n*1\r\n", Some(Error::TooDeep { limit: 2 })),
            ("|0\r\n|0\r\n|0\r\n", Some(Error::TooDeep { limit: 2 })),
            ("$3\r\nabc\r\n", None),
            ("$4\r\n", Some(Error::BulkTooLong { size: 4, limit: 3 })),
            ("+abcd\r\n", None),
            ("+abcde\r\n", Some(Error::LineTooLong { limit: 4 })),
            ("+abcdefgh", Some(Error::LineTooLong { limit: 4 })),
            ("*4\r\n:1\r\n:2\r\n:3\r\n:4\r\n", None),
            (
                "*5\r\n",
                Some(Error::TooManyElements { count: 5, limit: 4 }),
            ),
            (
                "%3\r\n",
                Some(Error::TooManyElements { count: 6, limit: 4 }),
            ),
            (
                "$1000000000000000000000000\r\n",
                Some(Error::LineTooLong { limit: 24 }),
            ),
            // Two heads and their elements: 2 + 5.
            (
                "*1\r\n*4\r\n",
                Some(Error::ValueTooLarge { limit: 6 * size }),
            ),
        ] {
            for pieces in cuts(input.as_bytes()) {
                let (values, got) = decode(bounds, pieces);
                assert_eq!(
                    (got, values.len()),
                    (error, usize::from(error.is_none())),
                    "{input}"
                );
            }
        }
        // However many values, each has all of it.
        let (values, error) = decode(bounds, ["+abcd\r\n".repeat(1000).as_bytes()]);
        assert_eq!((values.len(), error), (1000, None));
    }

    /// A stack of our own: nesting ends the value, and not the process, and what may nest can be dropped.
    #[test]
    fn nesting() {
        let deep = "*1\r\n".repeat(200_000);
        let none = Bounds {
            depth: usize::MAX,
            value: usize::MAX,
            ..Bounds::default()
        };
        let limit = Bounds::MAX_DEPTH;
        let too_deep = Some(Error::TooDeep { limit });
        assert_eq!(decode(none, [deep.as_bytes()]), (vec![], too_deep));
        let deepest = format!("{}:1\r\n", "*1\r\n".repeat(limit));
        let (values, error) = decode(none, [deepest.as_bytes()]);
        assert_eq!((values.len(), error), (1, None));
    }

    /// Between two segments no more is kept unread than a line's begin, so there is nothing to look at again.
    #[test]
    fn what_drips_in_is_looked_at_once() {
        let mut data = b"*20000\r\n".to_vec();
        for n in 0..20_000 {
            data.extend_from_slice(format!("$5\r\n{n:05}\r\n").as_bytes());
        }
        for step in [1, 7, 64] {
            let (mut decoder, mut values) = (Decoder::new(Bounds::default()), 0);
            for mut piece in data.chunks(step) {
                values += usize::from(decoder.decode(&mut piece).expect("an array").is_some());
                assert!(piece.is_empty() && decoder.line.len() <= "*20000\r".len());
            }
            assert_eq!(values, 1);
        }
        // One long bulk, byte by byte.
        let data = [&b"$300000\r\n"[..], &[b'x'; 300_000], b"\r\n"].concat();
        let (values, error) = decode(Bounds::default(), data.chunks(1));
        assert_eq!(
            (values, error),
            (vec![Value::Bulk(vec![b'x'; 300_000].into())], None)
        );
    }

    /// What is announced and does not come takes no memory.
    #[test]
    fn announcements_reserve_little() {
        let mut decoder = Decoder::new(Bounds::default());
        assert_eq!(
            decoder.decode(&mut &b"*1000000\r\n$16000000\r\nx"[..]),
            Ok(None)
        );
        assert!(
            decoder
                .bulk
                .as_ref()
                .is_some_and(|bulk| bulk.text.capacity() <= FEW_BYTES)
        );
        let Some(Open::Aggregate { elements, .. }) = decoder.open.last() else {
            panic!("no array is open");
        };
        assert!(elements.capacity() <= FEW_ELEMENTS);
        assert!(!decoder.is_between_values());
    }

    #[test]
    fn commands_and_output() {
        let mut output = Output::new(100);
        command([&b"PUBLISH"[..], b"a\r\n", b""], output.bytes_mut());
        let want = b"*3\r\n$7\r\nPUBLISH\r\n$3\r\na\r\n\r\n$0\r\n\r\n";
        assert_eq!(output.waiting(), want);
        for n in 0..want.len() {
            assert_eq!(
                (output.waiting(), output.room()),
                (&want[n..], 100 - want.len() + n)
            );
            output.sent(1);
        }
        assert!(output.waiting().is_empty());
        output.sent(1);
        assert_eq!(output.room(), 100);
        // An error with a line's end in it does not end early.
        let mut out = Vec::new();
        Value::Error("a\r\n+OK".into()).encode(&mut out);
        assert_eq!(out, b"!6\r\na\r\n+OK\r\n");
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
        let line = || "[ -~]{0,20}".prop_map(|text| Bytes::from(text.into_bytes()));
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Boolean),
            any::<i64>().prop_map(Value::Integer),
            any::<f64>()
                .prop_filter("equal to itself", |n| !n.is_nan())
                .prop_map(Value::Double),
            line().prop_map(Value::Simple),
            bytes().prop_map(Value::Error),
            bytes().prop_map(Value::Bulk),
            "-?[0-9]{1,40}".prop_map(|text| Value::BigNumber(text.into_bytes().into())),
            (any::<[u8; 3]>(), bytes()).prop_map(|(format, text)| Value::Verbatim { format, text }),
        ];
        let nested = leaf.prop_recursive(4, 40, 6, |inner| {
            let many = proptest::collection::vec(inner.clone(), 0..6);
            let pairs = proptest::collection::vec((inner.clone(), inner.clone()), 0..4);
            prop_oneof![
                many.clone().prop_map(Value::Array),
                many.prop_map(Value::Set),
                pairs.clone().prop_map(Value::Map),
                (pairs, inner).prop_map(|(attributes, value)| {
                    let value = Box::new(value);
                    Value::Attributed { attributes, value }
                }),
            ]
        });
        let pushed = proptest::collection::vec(nested.clone(), 0..6).prop_map(Value::Push);
        prop_oneof![9 => nested, 1 => pushed]
    }

    proptest! {
        #[test]
        fn round_trips(values in proptest::collection::vec(any_value(), 0..5), step in 1usize..50) {
            let mut out = Vec::new();
            values.iter().for_each(|value| value.encode(&mut out));
            let (got, error) = decode(Bounds::default(), out.chunks(step));
            prop_assert_eq!((got, error), (values, None));
        }

        #[test]
        fn any_bytes_whole_and_cut(
            bytes in proptest::collection::vec(
                proptest::sample::select(&b"+-:$*~%>|#_(,!=0123ft?\r\nab"[..]), 0..60),
            step in 1usize..10,
        ) {
            let bounds = Bounds { line: 8, bulk: 20, elements: 9, depth: 3, value: 500 };
            let whole = decode(bounds, [&bytes[..]]);
            let cut = decode(bounds, bytes.chunks(step));
            prop_assert_eq!(format!("{whole:?}"), format!("{cut:?}"));
        }
    }
}
