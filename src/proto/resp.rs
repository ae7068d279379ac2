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
    let arguments = arguments.into_iter();
    length(b'*', arguments.len(), out);
    for argument in arguments {
        bulk(b'$', argument.as_ref(), out);
    }
}

/// Appends a push of bulk strings.
pub fn push<I>(strings: I, out: &mut Vec<u8>)
where
    I: IntoIterator<Item: AsRef<[u8]>, IntoIter: ExactSizeIterator>,
{
    let strings = strings.into_iter();
    length(b'>', strings.len(), out);
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
