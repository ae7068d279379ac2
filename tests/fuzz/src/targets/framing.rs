//! Where messages begin and end, against a reader of RFC 9112 that is written here and nowhere else,
//! knows no httparse, and takes nothing that could be read in two ways.
//!
//! Input: what a client sends. What the machine takes for requests has to be what the reader reads.

use super::chunked::{Read, naive};
use super::machine::{Connection, WIDE, When};

pub(crate) fn run(data: &[u8]) {
    let mut connection = Connection::new(When::End, WIDE, u64::MAX);
    connection.arrive(data);
    let mut messages = read(data);
    for (n, heard) in connection.heard.iter().enumerate() {
        let Some(message) = messages.next() else {
            panic!(
                "request {n} is none: {:?}",
                String::from_utf8_lossy(&heard.raw)
            );
        };
        assert_eq!(
            String::from_utf8_lossy(message.head),
            String::from_utf8_lossy(&heard.raw),
            "head {n}"
        );
        assert_eq!(
            message.method,
            heard.method.as_str().as_bytes(),
            "method {n}"
        );
        match &heard.end {
            Some(_) => assert_eq!(message.body.as_ref(), Some(&heard.body), "body {n}"),
            None => assert_eq!(message.body, None, "body {n} is whole"),
        }
    }
    // Whatever waits for more must not have a request in it already.
    let goes_on = connection.refused.is_none() && !connection.machine.is_closed();
    let is_whole = connection
        .heard
        .last()
        .is_none_or(|heard| heard.end.is_some());
    if goes_on && is_whole {
        assert!(
            messages.next().is_none(),
            "it waits, with a request in its hands"
        );
    }
}

struct Message<'a> {
    head: &'a [u8],
    method: &'a [u8],
    /// `None`: not all of it is there, or it is none.
    body: Option<Vec<u8>>,
}

fn read(mut data: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut is_over = false;
    std::iter::from_fn(move || {
        for _ in 0..4 {
            data = data.strip_prefix(b"\r\n").unwrap_or(data);
        }
        let (message, rest) = message(data).filter(|_| !is_over)?;
        is_over = message.body.is_none();
        data = rest;
        Some(message)
    })
}

pub(crate) fn is_token(text: &[u8]) -> bool {
    let others = b"!#$%&'*+-.^_`|~";
    !text.is_empty()
        && text
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || others.contains(b))
}

/// The lines up to the empty one; each ends in CRLF, and has neither within.
pub(crate) fn lines(data: &[u8]) -> Option<(Vec<&[u8]>, usize)> {
    let end = data.windows(4).position(|four| four == b"\r\n\r\n")?;
    let mut lines = Vec::new();
    let mut rest = &data[..end + 2];
    while !rest.is_empty() {
        let n = rest.windows(2).position(|two| two == b"\r\n")?;
        if rest[..n].contains(&b'\r') || rest[..n].contains(&b'\n') {
            return None;
        }
        lines.push(&rest[..n]);
        rest = &rest[n + 2..];
    }
    Some((lines, end + 4))
}

fn message(data: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let (lines, len) = lines(data)?;
    let (head, rest) = data.split_at(len);
    let words: Vec<&[u8]> = lines[0].split(|&b| b == b' ').collect();
    let [method, target, version] = words[..] else {
        return None;
    };
    let is_old = version == b"HTTP/1.0";
    let is_fine = is_token(method) && !target.is_empty() && target.iter().all(u8::is_ascii_graphic);
    // A higher minor version is read as the highest there is (RFC 9110 §6.2).
    let is_1 = matches!(
        version,
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9']
    );
    if !is_fine || !is_1 {
        return None;
    }
    let (mut lengths, mut codings, mut hosts) = (Vec::new(), Vec::new(), 0);
    for line in &lines[1..] {
        let colon = line.iter().position(|&b| b == b':')?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if !is_token(name) || value.iter().any(|&b| (b < b' ' && b != b'\t') || b == 0x7f) {
            return None;
        }
        match name.to_ascii_lowercase().as_slice() {
            b"content-length" => lengths.push(value),
            b"transfer-encoding" => codings.push(value.to_ascii_lowercase()),
            b"host" => hosts += 1,
            _ => {}
        }
    }
    if hosts > 1 || (hosts == 0 && !is_old) {
        return None;
    }
    let (body, taken) = match (&lengths[..], &codings[..]) {
        ([], []) => (Some(Vec::new()), 0),
        (&[length], []) => {
            if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
                return None;
            }
            let n: u64 = std::str::from_utf8(length).ok()?.parse().ok()?;
            match usize::try_from(n).ok().and_then(|n| rest.get(..n)) {
                Some(body) => (Some(body.to_vec()), body.len()),
                None => (None, 0),
            }
        }
        ([], [coding]) if coding == b"chunked" && !is_old => match naive(rest) {
            Read::Whole { body, taken } if has_fair_trailers(&rest[..taken]) => (Some(body), taken),
            _ => (None, 0),
        },
        _ => return None,
    };
    let message = Message { head, method, body };
    Some((message, &rest[taken..]))
}

/// A body's trailers are fields, and none that says where a message ends. What is before them is right
/// already: they begin behind the last chunk, the last line of which begins with 0.
pub(crate) fn has_fair_trailers(body: &[u8]) -> bool {
    let mut at = 0;
    loop {
        let line = |at: usize| body[at..].windows(2).position(|two| two == b"\r\n");
        let Some(end) = line(at) else { return false };
        let digits: String = body[at..at + end]
            .iter()
            .map(|&b| char::from(b))
            .take_while(char::is_ascii_hexdigit)
            .collect();
        let Ok(size) = usize::from_str_radix(&digits, 16) else {
            return false;
        };
        at += end + 2;
        if size > 0 {
            at += size + 2;
            continue;
        }
        let mut left = 32i32;
        while let Some(end) = line(at).filter(|&end| end > 0) {
            left -= 1;
            let text = &body[at..at + end];
            let Some(colon) = text.iter().position(|&b| b == b':') else {
                return false;
            };
            let name = text[..colon].to_ascii_lowercase();
            let framing: [&[u8]; 4] =
                [b"content-length", b"transfer-encoding", b"host", b"trailer"];
            let is_value = |&b: &u8| b == b'\t' || (b >= b' ' && b != 0x7f);
            if left < 0
                || !is_token(&name)
                || framing.contains(&&name[..])
                || !text[colon..].iter().all(is_value)
            {
                return false;
            }
            at += end + 2;
        }
        return true;
    }
}
