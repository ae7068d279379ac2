//! Floor 4. A strict reader of HTTP/1.1 answers, written from RFC 9112 alone: it shares nothing with
//! the server it judges. Whatever breaks the grammar is an error, and so a failure of the run.

use std::borrow::Cow;

/// What an answer's framing depends on besides itself.
///
/// ```
/// use loopwright::sim::Asked;
/// let asked = Asked { by_head: true, ..Asked::default() };
/// assert!(!asked.by_http_10);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// The request's method was HEAD.
    pub by_head: bool,
    /// The request's version was HTTP/1.0.
    pub by_http_10: bool,
}

/// An answer, or as much of it as has come.
///
/// ```
/// use loopwright::sim::{Answer, Asked};
/// let bytes = b"HTTP/1.1 200 OK\r\ndate: Fri, 15 Jan 2027 08:00:00 GMT\r\ncontent-length: 2\r\n\r\nhi";
/// let answer = Answer::read(bytes, Asked::default(), false).unwrap().unwrap();
/// assert_eq!((answer.status, &answer.body[..], answer.is_whole), (200, &b"hi"[..], true));
/// ```
#[derive(Debug)]
pub struct Answer<'a> {
    /// Its status.
    pub status: u16,
    /// Its fields, in order.
    pub fields: Vec<(&'a str, &'a str)>,
    /// Fields behind a chunked body.
    pub trailers: Vec<(&'a str, &'a str)>,
    /// Its content, as far as it has come.
    pub body: Cow<'a, [u8]>,
    /// All of it is here. An answer that ends with the connection is whole when that has ended.
    pub is_whole: bool,
    /// It is the last on its connection.
    pub closes: bool,
    /// Bytes it takes so far.
    pub len: usize,
}

/// What is wrong with an answer.
type Result<T> = std::result::Result<T, String>;

/// `Err` unless it holds.
fn must(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(what()) }
}

impl<'a> Answer<'a> {
    /// Reads the answer at the front of `input`; `ended` if nothing will follow. `None` while its
    /// head is not complete.
    ///
    /// # Errors
    /// What breaks the grammar.
    ///
    /// ```
    /// use loopwright::sim::{Answer, Asked};
    /// let read = |bytes| Answer::read(bytes, Asked::default(), false);
    /// assert!(read(b"HTTP/1.1 200 O").unwrap().is_none());
    /// assert!(read(b"HTTP/1.1 200 OK\n").is_err());
    /// ```
    pub fn read(input: &'a [u8], asked: Asked, ended: bool) -> Result<Option<Answer<'a>>> {
        let start = b"HTTP/1.1 ";
        let known = input.len().min(start.len());
        must(input[..known] == start[..known], || {
            format!("no answer begins like this: {}", excerpt(input))
        })?;
        let Some((lines, head_len)) = section(input)? else {
            return Ok(None);
        };
        let Some((status_line, lines)) = lines.split_first() else {
            return Err("an empty line where an answer should begin".to_string());
        };
        let status = status(status_line)?;
        let fields = lines
            .iter()
            .map(|line| field(line))
            .collect::<Result<Vec<_>>>()?;
        let answer = Answer {
            status,
            closes: connection(&fields, asked)?,
            fields,
            trailers: Vec::new(),
            body: Cow::Borrowed(b""),
            is_whole: true,
            len: head_len,
        };
        if answer.is_interim() {
            must(status == 100 && answer.fields.is_empty(), || {
                format!("an interim answer: {answer:?}")
            })?;
            return Ok(Some(answer));
        }
        let date = answer.one("date")?;
        must(
            date.is_some_and(|date| date.len() == 29 && date.ends_with(" GMT")),
            || format!("no date: {answer:?}"),
        )?;
        with_body(answer, &input[head_len..], asked, ended).map(Some)
    }

    /// The first field of this name.
    ///
    /// ```
    /// # use loopwright::sim::{Answer, Asked};
    /// let bytes = b"HTTP/1.1 204 No Content\r\ndate: Fri, 15 Jan 2027 08:00:00 GMT\r\nallow: GET\r\n\r\n";
    /// let answer = Answer::read(bytes, Asked::default(), false).unwrap().unwrap();
    /// assert_eq!(answer.field("Allow"), Some("GET"));
    /// ```
    pub fn field(&self, name: &str) -> Option<&'a str> {
        let mut all = self.fields.iter();
        all.find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|&(_, value)| value)
    }

    /// A status below 200: the final answer is still to come.
    ///
    /// ```
    /// # use loopwright::sim::{Answer, Asked};
    /// let answer = Answer::read(b"HTTP/1.1 100 Continue\r\n\r\n", Asked::default(), false);
    /// assert!(answer.unwrap().unwrap().is_interim());
    /// ```
    pub fn is_interim(&self) -> bool {
        self.status < 200
    }

    fn one(&self, name: &str) -> Result<Option<&'a str>> {
        value(&self.fields, name)
    }
}

fn value<'a>(fields: &[(&'a str, &'a str)], name: &str) -> Result<Option<&'a str>> {
    let mut values = fields
        .iter()
        .filter(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|&(_, value)| value);
    let first = values.next();
    must(values.next().is_none(), || {
        format!("{name} twice in {fields:?}")
    })?;
    Ok(first)
}

fn with_body<'a>(
    mut answer: Answer<'a>,
    rest: &'a [u8],
    asked: Asked,
    ended: bool,
) -> Result<Answer<'a>> {
    let length = match answer.one("content-length")? {
        Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => Some(
            text.parse::<usize>()
                .map_err(|e| format!("content-length {text:?}: {e}"))?,
        ),
        Some(text) => return Err(format!("content-length {text:?}")),
        None => None,
    };
    let coding = answer.one("transfer-encoding")?;
    must(length.is_none() || coding.is_none(), || {
        format!("both lengths: {answer:?}")
    })?;
    if matches!(answer.status, 204 | 304) {
        // RFC 9110 §8.6 and RFC 9112 §6.1.
        let is_bare = coding.is_none() && (answer.status == 304 || length.is_none());
        must(is_bare, || format!("a length without a body: {answer:?}"))?;
        return Ok(answer);
    }
    if asked.by_head {
        return Ok(answer);
    }
    match (length, coding) {
        (Some(length), _) => {
            answer.body = Cow::Borrowed(&rest[..rest.len().min(length)]);
            answer.is_whole = answer.body.len() == length;
            answer.len += answer.body.len();
        }
        (None, Some(coding)) => {
            must(coding == "chunked" && !asked.by_http_10, || {
                format!("{answer:?}")
            })?;
            let chunked = chunked(rest)?;
            answer.body = Cow::Owned(chunked.body);
            answer.trailers = chunked.trailers;
            answer.is_whole = chunked.is_whole;
            answer.len += chunked.len;
        }
        (None, None) => {
            must(answer.closes, || {
                format!("neither a length nor a close: {answer:?}")
            })?;
            answer.body = Cow::Borrowed(rest);
            answer.is_whole = ended;
            answer.len += rest.len();
        }
    }
    Ok(answer)
}

struct Chunked<'a> {
    body: Vec<u8>,
    trailers: Vec<(&'a str, &'a str)>,
    is_whole: bool,
    len: usize,
}

fn chunked(input: &[u8]) -> Result<Chunked<'_>> {
    let mut all = Chunked {
        body: Vec::new(),
        trailers: Vec::new(),
        is_whole: false,
        len: input.len(),
    };
    let mut at = 0;
    loop {
        let Some((line, size_len)) = line(&input[at..])? else {
            return Ok(all);
        };
        must(
            !line.is_empty() && line.bytes().all(|b| b.is_ascii_hexdigit()),
            || format!("chunk size {line:?}"),
        )?;
        let size =
            usize::from_str_radix(line, 16).map_err(|e| format!("chunk size {line:?}: {e}"))?;
        if size == 0 {
            let Some((lines, len)) = section(&input[at + size_len..])? else {
                return Ok(all);
            };
            all.trailers = lines
                .iter()
                .map(|line| field(line))
                .collect::<Result<_>>()?;
            all.is_whole = true;
            all.len = at + size_len + len;
            return Ok(all);
        }
        let data = &input[at + size_len..];
        all.body.extend_from_slice(&data[..data.len().min(size)]);
        let end = &data[data.len().min(size)..data.len().min(size.saturating_add(2))];
        must(b"\r\n".starts_with(end), || {
            format!("a chunk of {size} is followed by {}", excerpt(end))
        })?;
        if end.len() < 2 {
            return Ok(all);
        }
        at += size_len + size + 2;
    }
}

/// Whether the connection ends after this answer.
fn connection(fields: &[(&str, &str)], asked: Asked) -> Result<bool> {
    match value(fields, "connection")? {
        None => Ok(asked.by_http_10),
        Some("close") => Ok(true),
        Some("keep-alive") if asked.by_http_10 => Ok(false),
        Some(other) => Err(format!("connection: {other}")),
    }
}

fn status(line: &str) -> Result<u16> {
    let code = line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.split_once(' '));
    code.map(|(code, _reason)| code)
        .filter(|code| code.len() == 3 && code.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| format!("no status line: {line:?}"))
}

fn field(line: &str) -> Result<(&str, &str)> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    line.split_once(": ")
        .filter(|(name, _)| !name.is_empty() && name.bytes().all(is_token))
        .filter(|(_, value)| value.bytes().all(|b| (b' '..0x7f).contains(&b)))
        .ok_or_else(|| format!("no field: {line:?}"))
}

/// A line that ends in CRLF, and how long it is with that.
fn line(input: &[u8]) -> Result<Option<(&str, usize)>> {
    let Some(end) = input.iter().position(|&b| b == b'\n') else {
        return Ok(None);
    };
    let line = input[..end]
        .strip_suffix(b"\r")
        .filter(|line| !line.contains(&b'\r'));
    let line = line.ok_or_else(|| format!("a bare CR or LF in {}", excerpt(input)))?;
    let line = std::str::from_utf8(line).map_err(|e| format!("{}: {e}", excerpt(line)))?;
    Ok(Some((line, end + 1)))
}

type Section<'a> = (Vec<&'a str>, usize);

/// Lines up to an empty one; perhaps none.
fn section(input: &[u8]) -> Result<Option<Section<'_>>> {
    let (mut lines, mut at) = (Vec::new(), 0);
    while let Some((line, len)) = line(&input[at..])? {
        at += len;
        if line.is_empty() {
            return Ok(Some((lines, at)));
        }
        lines.push(line);
    }
    Ok(None)
}

/// The first bytes, for a message.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    let end = bytes.len().min(120);
    format!(
        "{:?} ({} bytes)",
        String::from_utf8_lossy(&bytes[..end]),
        bytes.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The judge is judged, too.
    #[test]
    fn the_reader_reads() {
        let head =
            "HTTP/1.1 200 OK\r\ndate: Fri, 15 Jan 2027 08:00:00 GMT\r\nserver: loopwright\r\n";
        let get = Asked {
            by_head: false,
            by_http_10: false,
        };
        let whole = |rest: &str, asked| {
            let text = format!("{head}{rest}");
            let answer = Answer::read(text.as_bytes(), asked, true).unwrap()?;
            Some((
                answer.is_whole,
                text.len() - answer.len,
                String::from_utf8_lossy(&answer.body).into_owned(),
            ))
        };
        assert_eq!(
            whole("content-length: 3\r\n\r\nabcHTTP", get),
            Some((true, 4, "abc".into()))
        );
        assert_eq!(
            whole("content-length: 3\r\n\r\nab", get),
            Some((false, 0, "ab".into()))
        );
        assert_eq!(
            whole(
                "content-length: 3\r\n\r\nHTTP",
                Asked {
                    by_head: true,
                    ..get
                }
            ),
            Some((true, 4, "".into()))
        );
        assert_eq!(whole("content-length: 3\r\n", get), None);
        let chunked = "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n";
        assert_eq!(
            whole(&format!("{chunked}\r\nH"), get),
            Some((true, 1, "abcd".into()))
        );
        assert_eq!(
            whole(&format!("{chunked}a: b\r\n\r\n"), get),
            Some((true, 0, "abcd".into()))
        );
        assert_eq!(whole(chunked, get), Some((false, 0, "abcd".into())));
        assert_eq!(
            whole("connection: close\r\n\r\nabc", get),
            Some((true, 0, "abc".into()))
        );
        for bad in [
            "content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
            "content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
            "content-length: +3\r\n\r\nabc",
            "transfer-encoding: chunked\r\n\r\n3\r\nabcX",
            "transfer-encoding: chunked\r\n\r\n\r\n",
            "x:y\r\n\r\n",
            "x: y\n\r\n",
            "connection: upgrade\r\n\r\n",
            "\r\nuntil when?",
        ] {
            let read =
                Answer::read(&[head.as_bytes(), bad.as_bytes()].concat(), get, true).map(drop);
            assert!(read.is_err(), "{bad:?}");
        }
    }
}
