//! HTTP/1.1 messages read to the letter, requests and answers: what a party that takes nothing for granted makes of the
//! bytes it got.

/// One message. Bytes are characters up to U+00FF, so that a row of a table can show them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Message {
    pub(crate) first: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: String,
    pub(crate) trailers: Vec<(String, String)>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Parsed {
    /// A message, and how many bytes it is.
    Whole(Message, usize),
    /// It lacks something.
    Partial,
    Wrong(String),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Request,
    Answer {
        /// To HEAD: it has no body, whatever its fields say.
        to_head: bool,
        /// Nothing comes behind these bytes.
        ended: bool,
    },
}

/// The fields that a proxy may add, or change, without asking.
const OWN: [&str; 10] = [
    "via",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-request-id",
    "x-real-ip",
    "connection",
    "keep-alive",
];

/// The bytes of a row: `|` is CR LF, `¦` is a bar, any other character up to U+00FF the byte of that number.
pub(crate) fn bytes(row: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for c in row.chars() {
        match c {
            '|' => bytes.extend(b"\r\n"),
            '¦' => bytes.push(b'|'),
            c => bytes.push(u8::try_from(u32::from(c)).expect("a byte")),
        }
    }
    bytes
}

pub(crate) fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| char::from(b)).collect()
}

impl Message {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn status(&self) -> u16 {
        let code = self.first.split(' ').nth(1).unwrap_or_default();
        code.parse().unwrap_or(0)
    }

    /// As a row of a table has it: `GET / HTTP/1.1|host: a||`, fields in the order of their names, without those
    /// that are a proxy's own.
    pub(crate) fn row(&self) -> String {
        // What a proxy says of itself, it says in front.
        let list = |fields: &[(String, String)], own: &[&str]| -> String {
            let others = fields
                .iter()
                .filter(|(name, _)| !own.contains(&name.as_str()));
            let mut lines: Vec<String> = others
                .map(|(name, value)| format!("{name}: {value}|"))
                .collect();
            lines.sort();
            lines.concat()
        };
        let body = self.body.replace('|', "¦").replace("\r\n", "|");
        let trailers = match list(&self.trailers, &[]) {
            none if none.is_empty() => none,
            some => format!("+{some}"),
        };
        format!(
            "{}|{}|{body}{trailers}",
            self.first,
            list(&self.fields, &OWN)
        )
    }
}

/// The first message of these bytes.
pub(crate) fn parse(bytes: &[u8], kind: Kind) -> Parsed {
    match message(bytes, kind) {
        Ok(Some((message, used))) => Parsed::Whole(message, used),
        Ok(None) => Parsed::Partial,
        Err(why) => Parsed::Wrong(why),
    }
}

fn message(bytes: &[u8], kind: Kind) -> Result<Option<(Message, usize)>, String> {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let mut lines = text(&bytes[..end])
        .split("\r\n")
        .map(String::from)
        .collect::<Vec<_>>()
        .into_iter();
    let first = lines.next().unwrap_or_default();
    if first.bytes().any(|b| b < b' ') {
        return Err(format!("the first line {first:?}"));
    }
    let lines: Vec<String> = lines.collect();
    let mut message = Message {
        first,
        fields: fields(lines.iter().map(String::as_str))?,
        body: String::new(),
        trailers: Vec::new(),
    };
    let rest = &bytes[end + 4..];
    let values = |name: &str| -> Vec<&str> {
        let fields = message.fields.iter().filter(|(known, _)| known == name);
        fields.map(|(_, value)| value.as_str()).collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    let bodiless = match kind {
        Kind::Request => lengths.is_empty() && codings.is_empty(),
        Kind::Answer { to_head, .. } => {
            let status = message.status();
            to_head || status / 100 == 1 || matches!(status, 204 | 304)
        }
    };
    let used = match (&lengths[..], &codings[..]) {
        _ if bodiless => 0,
        ([], []) => match kind {
            Kind::Answer { ended: true, .. } => {
                message.body = text(rest);
                rest.len()
            }
            _ => return Ok(None),
        },
        ([length], []) if length.bytes().all(|b| b.is_ascii_digit()) && !length.is_empty() => {
            let length: usize = length.parse().map_err(|_| "its length".to_string())?;
            if rest.len() < length {
                return Ok(None);
            }
            message.body = text(&rest[..length]);
            length
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => match chunked(rest)? {
            Some((body, trailers, used)) => {
                (message.body, message.trailers) = (body, trailers);
                used
            }
            None => return Ok(None),
        },
        framing => return Err(format!("framed by {framing:?}")),
    };
    Ok(Some((message, end + 4 + used)))
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<(String, String)>, String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    lines
        .map(|line| match line.split_once(':') {
            Some((name, value))
                if !name.is_empty()
                    && name.bytes().all(token)
                    && !value.bytes().any(|b| (b < b' ' && b != b'\t') || b == 0x7f) =>
            {
                let value = value.trim_matches([' ', '\t']);
                Ok((name.to_ascii_lowercase(), value.to_string()))
            }
            _ => Err(format!("the line {line:?}")),
        })
        .collect()
}

type Chunked = (String, Vec<(String, String)>, usize);

/// The body, its trailers, its length on the wire. Extensions are refused: nobody has to pass them on.
fn chunked(bytes: &[u8]) -> Result<Option<Chunked>, String> {
    let (mut body, mut at) = (String::new(), 0);
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else {
            return Ok(None);
        };
        let line = text(&bytes[at..at + end]);
        if line.is_empty() || line.len() > 15 || !line.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("the chunk's size {line:?}"));
        }
        let size = usize::from_str_radix(&line, 16).map_err(|e| e.to_string())?;
        at += end + 2;
        if size == 0 {
            break;
        }
        let Some(chunk) = bytes.get(at..at + size + 2) else {
            return Ok(None);
        };
        if &chunk[size..] != b"\r\n" {
            return Err("what is behind a chunk".into());
        }
        body += &text(&chunk[..size]);
        at += size + 2;
    }
    let rest = &bytes[at..];
    if rest.starts_with(b"\r\n") {
        return Ok(Some((body, Vec::new(), at + 2)));
    }
    let Some(end) = find(rest, b"\r\n\r\n") else {
        return Ok(None);
    };
    let lines = text(&rest[..end]);
    Ok(Some((body, fields(lines.split("\r\n"))?, at + end + 4)))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[test]
fn messages_are_read_to_the_letter() {
    let row = |row: &str, kind| match parse(&bytes(row), kind) {
        Parsed::Whole(message, used) => format!("{} {used}", message.row()),
        Parsed::Partial => "partial".into(),
        Parsed::Wrong(_) => "wrong".into(),
    };
    let request = |text: &str| row(text, Kind::Request);
    assert_eq!(
        request("GET / HTTP/1.1|B: c|Host: a|Via: x||rest"),
        "GET / HTTP/1.1|b: c|host: a|| 41"
    );
    assert_eq!(
        request("POST / HTTP/1.1|content-length: 4||a|bGET"),
        "POST / HTTP/1.1|content-length: 4||a|b 42"
    );
    assert_eq!(
        request("P / HTTP/1.1|transfer-encoding: chunked||3|abc|0|x: y||"),
        "P / HTTP/1.1|transfer-encoding: chunked||abc+x: y| 63"
    );
    for partial in [
        "GET / HTTP/1.1|",
        "P / HTTP/1.1|content-length: 4||abc",
        "P / HTTP/1.1|transfer-encoding: chunked||3|ab",
        "P / HTTP/1.1|transfer-encoding: chunked||0|",
    ] {
        assert_eq!(request(partial), "partial", "{partial}");
    }
    for wrong in [
        "GET / HTTP/1.1|host : a||",
        "GET / HTTP/1.1| host: a||",
        "GET / HTTP/1.1|host: a\nb: c||",
        "P / HTTP/1.1|content-length: 3|content-length: 3||abc",
        "P / HTTP/1.1|content-length: +3||abc",
        "P / HTTP/1.1|content-length: 3|transfer-encoding: chunked||0||",
        "P / HTTP/1.1|transfer-encoding: chunked, chunked||0||",
        "P / HTTP/1.1|transfer-encoding: chunked||3;a|abc|0||",
        "P / HTTP/1.1|transfer-encoding: chunked||3|abcd|0||",
    ] {
        assert_eq!(request(wrong), "wrong", "{wrong}");
    }
    let answer = |text: &str, to_head, ended| row(text, Kind::Answer { to_head, ended });
    let sized = "HTTP/1.1 200 OK|content-length: 2||ok";
    assert!(answer(sized, false, false).ends_with("||ok 40"));
    assert!(answer(sized, true, false).ends_with("|| 38"));
    assert_eq!(answer("HTTP/1.1 200 OK||ok", false, false), "partial");
    assert!(answer("HTTP/1.1 200 OK||ok", false, true).ends_with("||ok 21"));
    assert!(answer("HTTP/1.1 304 N|content-length: 9||", false, true).ends_with("|| 37"));
}
