//! A strict reader of HTTP/1.1 answers, written from RFC 9112 alone: it shares nothing with the
//! server it judges. Whatever breaks the grammar is a panic, and so a failure of the row.

use std::borrow::Cow;

/// What an answer's framing depends on besides itself.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) by_head: bool,
    pub by_http_10: bool,
}

/// An answer, or as much of it as has come.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(&'a str, &'a str)>,
    pub(crate) trailers: Vec<(&'a str, &'a str)>,
    pub(crate) body: Cow<'a, [u8]>,
    /// All of it is here. An answer that ends with the connection is whole when that has ended.
    pub(crate) is_whole: bool,
    pub(crate) closes: bool,
    /// Bytes it takes so far.
    pub(crate) len: usize,
}

impl<'a> Answer<'a> {
    pub(crate) fn field(&self, name: &str) -> Option<&'a str> {
        value(&self.fields, name)
    }

    pub(crate) fn is_interim(&self) -> bool {
        self.status < 200
    }
}

fn value<'a>(fields: &[(&'a str, &'a str)], name: &str) -> Option<&'a str> {
    let mut values = fields
        .iter()
        .filter(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|&(_, value)| value);
    let first = values.next();
    assert!(values.next().is_none(), "{name} twice in {fields:?}");
    first
}

/// Reads the answer at the front of `input`; `ended` if nothing will follow. `None` while its head
/// is not complete.
pub(crate) fn read(input: &[u8], asked: Asked, ended: bool) -> Option<Answer<'_>> {
    let start = b"HTTP/1.1 ";
    let known = input.len().min(start.len());
    assert_eq!(
        &input[..known],
        &start[..known],
        "no answer begins like this: {}",
        excerpt(input)
    );
    let (lines, head_len) = section(input)?;
    let (status_line, lines) = lines.split_first().expect("a section has a first line");
    let status = status(status_line);
    let fields: Vec<_> = lines.iter().map(|line| field(line)).collect();
    let answer = Answer {
        status,
        closes: connection(&fields, asked),
        fields,
        trailers: Vec::new(),
        body: Cow::Borrowed(b""),
        is_whole: true,
        len: head_len,
    };
    if answer.is_interim() {
        assert!(status == 100 && answer.fields.is_empty(), "{answer:?}");
        return Some(answer);
    }
    assert!(
        answer
            .field("date")
            .is_some_and(|date| date.len() == 29 && date.ends_with(" GMT")),
        "{answer:?}"
    );
    assert_eq!(answer.field("server"), Some("loopwright"));
    Some(with_body(answer, &input[head_len..], asked, ended))
}

fn with_body<'a>(mut answer: Answer<'a>, rest: &'a [u8], asked: Asked, ended: bool) -> Answer<'a> {
    let length = answer.field("content-length").map(|text| {
        assert!(text.bytes().all(|b| b.is_ascii_digit()), "{text:?}");
        text.parse::<usize>().expect("a length")
    });
    let coding = answer.field("transfer-encoding");
    assert!(
        length.is_none() || coding.is_none(),
        "both lengths: {answer:?}"
    );
    if matches!(answer.status, 204 | 304) {
        // RFC 9110 §8.6 and RFC 9112 §6.1.
        assert!(
            coding.is_none() && (answer.status == 304 || length.is_none()),
            "{answer:?}"
        );
        return answer;
    }
    if asked.by_head {
        return answer;
    }
    match (length, coding) {
        (Some(length), _) => {
            answer.body = Cow::Borrowed(&rest[..rest.len().min(length)]);
            answer.is_whole = answer.body.len() == length;
            answer.len += answer.body.len();
        }
        (None, Some(coding)) => {
            assert!(coding == "chunked" && !asked.by_http_10, "{answer:?}");
            let chunked = chunked(rest);
            answer.body = Cow::Owned(chunked.body);
            answer.trailers = chunked.trailers;
            answer.is_whole = chunked.is_whole;
            answer.len += chunked.len;
        }
        (None, None) => {
            assert!(answer.closes, "neither a length nor a close: {answer:?}");
            answer.body = Cow::Borrowed(rest);
            answer.is_whole = ended;
            answer.len += rest.len();
        }
    }
    answer
}

struct Chunked<'a> {
    body: Vec<u8>,
    trailers: Vec<(&'a str, &'a str)>,
    is_whole: bool,
    len: usize,
}

fn chunked(input: &[u8]) -> Chunked<'_> {
    let mut all = Chunked {
        body: Vec::new(),
        trailers: Vec::new(),
        is_whole: false,
        len: input.len(),
    };
    let mut at = 0;
    loop {
        let Some((line, size_len)) = line(&input[at..]) else {
            return all;
        };
        assert!(
            !line.is_empty() && line.bytes().all(|b| b.is_ascii_hexdigit()),
            "chunk size {line:?}"
        );
        let size = usize::from_str_radix(line, 16).expect("a chunk size");
        if size == 0 {
            let Some((lines, len)) = trailer_section(&input[at + size_len..]) else {
                return all;
            };
            all.trailers = lines.iter().map(|line| field(line)).collect();
            all.is_whole = true;
            all.len = at + size_len + len;
            return all;
        }
        let data = &input[at + size_len..];
        all.body.extend_from_slice(&data[..data.len().min(size)]);
        let end = &data[data.len().min(size)..data.len().min(size + 2)];
        assert!(
            b"\r\n".starts_with(end),
            "a chunk of {size} is followed by {}",
            excerpt(end)
        );
        if end.len() < 2 {
            return all;
        }
        at += size_len + size + 2;
    }
}

/// Whether the connection ends after this answer.
fn connection(fields: &[(&str, &str)], asked: Asked) -> bool {
    match value(fields, "connection") {
        None => asked.by_http_10,
        Some("close") => true,
        Some("keep-alive") => {
            assert!(
                asked.by_http_10,
                "keep-alive to a client that takes it for granted"
            );
            false
        }
        Some(other) => panic!("connection: {other}"),
    }
}

fn status(line: &str) -> u16 {
    let (code, _reason) = line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.split_once(' '))
        .expect("a status line");
    assert!(
        code.len() == 3 && code.bytes().all(|b| b.is_ascii_digit()),
        "{line:?}"
    );
    code.parse().expect("a status")
}

fn field(line: &str) -> (&str, &str) {
    let (name, value) = line
        .split_once(": ")
        .unwrap_or_else(|| panic!("no field: {line:?}"));
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    assert!(
        !name.is_empty() && name.bytes().all(is_token),
        "field name {name:?}"
    );
    assert!(
        value.bytes().all(|b| (b' '..0x7f).contains(&b)),
        "field value {value:?}"
    );
    (name, value)
}

/// A line that ends in CRLF, and how long it is with that.
fn line(input: &[u8]) -> Option<(&str, usize)> {
    let end = input.iter().position(|&b| b == b'\n')?;
    let line = input[..end]
        .strip_suffix(b"\r")
        .unwrap_or_else(|| panic!("a bare LF in {}", excerpt(input)));
    assert!(!line.contains(&b'\r'), "a bare CR in {}", excerpt(line));
    Some((std::str::from_utf8(line).expect("ASCII"), end + 1))
}

/// Lines up to an empty one; at least one.
fn section(input: &[u8]) -> Option<(Vec<&str>, usize)> {
    let (lines, len) = trailer_section(input)?;
    assert!(
        !lines.is_empty(),
        "an empty line where an answer should begin"
    );
    Some((lines, len))
}

/// Lines up to an empty one; perhaps none.
fn trailer_section(input: &[u8]) -> Option<(Vec<&str>, usize)> {
    let (mut lines, mut at) = (Vec::new(), 0);
    loop {
        let (line, len) = line(&input[at..])?;
        at += len;
        if line.is_empty() {
            return Some((lines, at));
        }
        lines.push(line);
    }
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

/// The judge is judged, too.
#[test]
fn the_reader_reads() {
    let head = "HTTP/1.1 200 OK\r\ndate: Fri, 15 Jan 2027 08:00:00 GMT\r\nserver: loopwright\r\n";
    let get = Asked {
        by_head: false,
        by_http_10: false,
    };
    let whole = |rest: &str, asked| {
        let text = format!("{head}{rest}");
        let answer = read(text.as_bytes(), asked, true)?;
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
        let read = std::panic::catch_unwind(|| whole(bad, get));
        assert!(read.is_err(), "{bad:?}");
    }
}
