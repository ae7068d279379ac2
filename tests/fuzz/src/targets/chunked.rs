//! The chunked decoder against a naive one, in pieces of any size.
//!
//! Input: the length of the pieces, then a body.

use super::take;
use loopwright::proto::h1::body::{Decoder, Piece};

/// What a body comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Read {
    /// The body, and what is left behind it.
    Whole {
        body: Vec<u8>,
        taken: usize,
    },
    /// What there is of it so far.
    Part {
        body: Vec<u8>,
    },
    Refused,
}

pub(crate) fn run(mut data: &[u8]) {
    let step = usize::from(take(&mut data)).max(1);
    let want = naive(data);
    for step in [step, usize::MAX] {
        let got = decoded(data, step);
        assert_eq!(got, want, "by {step}");
    }
}

fn decoded(data: &[u8], step: usize) -> Read {
    let mut decoder = Decoder::CHUNKED;
    let (mut body, mut taken, mut arrived) = (Vec::new(), 0, 0);
    loop {
        let input = &data[taken..arrived];
        match decoder.poll(input) {
            Err(_) => return Read::Refused,
            Ok(Piece::Data(n)) => {
                assert!(n > 0, "an empty piece");
                body.extend_from_slice(&input[..n]);
                taken += n;
            }
            Ok(Piece::Framing(n)) => {
                assert!(n > 0 && n <= input.len(), "it goes round in circles");
                taken += n;
            }
            Ok(Piece::End(n)) => {
                assert!(n <= input.len(), "more than there was");
                taken += n;
                return Read::Whole { body, taken };
            }
            Ok(Piece::NeedInput) if arrived == data.len() => return Read::Part { body },
            Ok(Piece::NeedInput) => arrived = arrived.saturating_add(step).min(data.len()),
        }
    }
}

/// RFC 9112 §7.1 with the limits of `src/proto/h1/body.rs`, written down once more: over text that is
/// all there, line by line.
pub(crate) fn naive(data: &[u8]) -> Read {
    let (mut body, mut at, mut extensions) = (Vec::new(), 0, 0);
    loop {
        let line = match line(&data[at..], 1024) {
            Line::Whole(line) => line,
            Line::Part => return Read::Part { body },
            Line::Bad => return Read::Refused,
        };
        at += line.len() + 2;
        let text: String = line.iter().map(|&b| char::from(b)).collect();
        let digits: String = text.chars().take_while(char::is_ascii_hexdigit).collect();
        let Ok(size) = u64::from_str_radix(&digits, 16) else {
            return Read::Refused;
        };
        if !is_extension(&text[digits.len()..]) {
            return Read::Refused;
        }
        // Zeros before what a size can have of digits count as well.
        extensions += line.len() - digits.len().min(16);
        if extensions > 16 * 1024 {
            return Read::Refused;
        }
        if size == 0 {
            break;
        }
        let rest = &data[at..];
        if (rest.len() as u64) < size {
            body.extend_from_slice(rest);
            return Read::Part { body };
        }
        let size = size as usize;
        body.extend_from_slice(&rest[..size]);
        match rest[size..] {
            [] | [b'\r'] => return Read::Part { body },
            [b'\r', b'\n', ..] => at += size + 2,
            _ => return Read::Refused,
        }
    }
    let trailers = at;
    loop {
        match line(&data[at..], (8 * 1024usize).saturating_sub(at - trailers)) {
            Line::Whole(line) => {
                at += line.len() + 2;
                if line.is_empty() {
                    return Read::Whole { body, taken: at };
                }
            }
            Line::Part => return Read::Part { body },
            Line::Bad => return Read::Refused,
        }
    }
}

enum Line<'a> {
    Whole(&'a [u8]),
    Part,
    Bad,
}

/// Up to CRLF, which belongs to the `limit`; a lone LF is none.
fn line(data: &[u8], limit: usize) -> Line<'_> {
    for (at, &b) in data.iter().take(limit).enumerate() {
        if b == b'\n' {
            return match data[..at].strip_suffix(b"\r") {
                Some(line) => Line::Whole(line),
                None => Line::Bad,
            };
        }
    }
    if data.len() < limit {
        Line::Part
    } else {
        Line::Bad
    }
}

/// `*( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )`, as a machine of characters.
fn is_extension(text: &str) -> bool {
    #[derive(Clone, Copy, PartialEq)]
    enum At {
        /// Before `;`.
        Start,
        /// Behind white space, before `;`.
        Space,
        /// Behind `;`.
        BeforeName,
        Name,
        /// Behind white space behind a name: `=` or `;`.
        AfterName,
        BeforeValue,
        Value,
        Quoted,
        Escaped,
        AfterValue,
    }
    let mut at = At::Start;
    for c in text.chars() {
        let is_space = c == ' ' || c == '\t';
        let is_token = c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let is_text = c == '\t' || (c >= ' ' && c != '\u{7f}');
        at = match at {
            At::Start | At::Space | At::AfterValue if c == ';' => At::BeforeName,
            At::Start | At::Space | At::AfterValue if is_space => At::Space,
            At::BeforeName if is_space => At::BeforeName,
            At::BeforeName | At::Name if is_token => At::Name,
            At::Name | At::AfterName if c == '=' => At::BeforeValue,
            At::Name | At::AfterName if c == ';' => At::BeforeName,
            At::Name | At::AfterName if is_space => At::AfterName,
            At::BeforeValue if is_space => At::BeforeValue,
            At::BeforeValue if c == '"' => At::Quoted,
            At::BeforeValue | At::Value if is_token => At::Value,
            At::Value if c == ';' => At::BeforeName,
            At::Value if is_space => At::Space,
            At::Quoted if c == '"' => At::AfterValue,
            At::Quoted if c == '\\' => At::Escaped,
            At::Quoted | At::Escaped if is_text => At::Quoted,
            _ => return false,
        };
    }
    [At::Start, At::Name, At::Value, At::AfterValue].contains(&at)
}
