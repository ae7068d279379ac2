//! The client's half of a connection: the same answers, whole and in pieces, are the same heads, bodies and
//! errors; what is taken for an answer is one to a reader of RFC 9112 that is written here and nowhere
//! else, and takes nothing that could be read in two ways; a connection is used again only behind such
//! an answer, with nothing behind it.
//!
//! Input: settings, `n` lengths of pieces, then what the server sends: to each request what is before the
//! next two NULs.

use super::chunked::{Read, naive};
use super::framing::{has_fair_trailers, is_token, lines};
use super::{cut, take};
use loopwright::Instant;
use loopwright::proto::h1::ClientError;
use loopwright::proto::h1::client::{Client, ClientBounds, Event};
use loopwright::proto::h1::head::{self, Framing, HeadLimits};
use loopwright::proto::h1::response::Asked;

const TIGHT: ClientBounds = ClientBounds {
    head: HeadLimits {
        head: 256,
        target: 0,
        fields: 6,
    },
    body: 32,
};
const WIDE: ClientBounds = ClientBounds {
    head: HeadLimits::NONE,
    body: u64::MAX,
};

/// One exchange, as the one who asked heard of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Heard {
    /// The interim answers' heads, and the answer's.
    heads: Vec<Vec<u8>>,
    /// The last of them is the answer's.
    has_answer: bool,
    body: Vec<u8>,
    /// The body came whole; with these trailers.
    end: Option<Vec<(String, Vec<u8>)>>,
    /// What another protocol, or a tunnel, got.
    switched: Option<Vec<u8>>,
    error: Option<ClientError>,
    /// The next request may follow.
    is_reusable: bool,
}

/// How a conversation goes.
#[derive(Clone, Copy)]
struct Manner {
    bounds: ClientBounds,
    /// What the first two requests ask.
    asks: [Asked; 2],
    /// A request is complete only behind its answer.
    is_late: bool,
    /// The server closes in the end.
    closes: bool,
}

pub(crate) fn run(mut data: &[u8]) {
    let settings = take(&mut data);
    let ask = |bits: u8| Asked {
        head: bits & 3 == 1,
        connect: bits & 3 == 2,
        upgrade: bits & 3 == 3,
    };
    let manner = Manner {
        bounds: if settings & 0x80 == 0 { TIGHT } else { WIDE },
        asks: [ask(settings), ask(settings >> 2)],
        is_late: settings & 0x10 != 0,
        closes: settings & 0x20 != 0,
    };
    let count = usize::from(take(&mut data) % 16);
    let lengths: Vec<usize> = (0..count).map(|_| usize::from(take(&mut data))).collect();
    let answers = split(data);

    let whole = converse(manner, &answers, |answer| vec![answer]);
    let pieces = converse(manner, &answers, |answer| cut(answer, &lengths));
    for (n, heard) in whole.iter().chain(&pieces).enumerate() {
        let n = n % whole.len();
        let ends = manner.closes && n + 1 == answers.len();
        judge(heard, answers[n], manner.asks.get(n), ends);
    }
    assert_eq!(whole.len(), pieces.len(), "{whole:?} and {pieces:?}");
    for (whole, pieces) in whole.iter().zip(&pieces) {
        compare(whole, pieces);
    }
}

fn split(data: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut rest) = (Vec::new(), data);
    while let Some(n) = rest.windows(2).position(|two| two == b"\0\0") {
        parts.push(&rest[..n]);
        rest = &rest[n + 2..];
    }
    parts.push(rest);
    parts
}

fn converse<'a>(
    manner: Manner,
    answers: &[&'a [u8]],
    cut: impl Fn(&'a [u8]) -> Vec<&'a [u8]>,
) -> Vec<Heard> {
    let now = Instant::default();
    let mut machine = Client::new(now);
    let mut exchanges = Vec::new();
    for (n, answer) in answers.iter().enumerate() {
        let asked = manner.asks.get(n).copied().unwrap_or_default();
        let framing = match manner.is_late {
            true => Framing::Chunked,
            false => Framing::None,
        };
        if !machine.begin_request(asked, framing, now) {
            break;
        }
        assert!(machine.nothing_seen() && !machine.is_reusable());
        let (mut heard, mut kept) = (Heard::default(), Vec::new());
        for piece in cut(answer) {
            kept.extend_from_slice(piece);
            hear(&mut machine, &manner.bounds, &mut kept, &mut heard);
        }
        let is_silent = heard.error.is_none();
        assert_eq!(machine.nothing_seen(), answer.is_empty() && is_silent);
        if manner.closes && n + 1 == answers.len() {
            machine.handle_eof();
            hear(&mut machine, &manner.bounds, &mut kept, &mut heard);
        }
        assert!(machine.end_request(b"", &mut Vec::new(), now));
        heard.is_reusable = machine.is_reusable();
        let is_switched = heard.switched.is_some();
        assert!(!is_switched || !manner.is_late, "a switch in a request");
        let is_whole = heard.end.is_some();
        assert!(is_whole || !heard.is_reusable, "nothing has ended");
        exchanges.push(heard);
    }
    if machine.is_closed() {
        let mut after = Heard::default();
        let mut evil = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec();
        hear(&mut machine, &manner.bounds, &mut evil, &mut after);
        assert_eq!(after, Heard::default(), "an answer after the end");
    }
    exchanges
}

fn hear(machine: &mut Client, bounds: &ClientBounds, kept: &mut Vec<u8>, heard: &mut Heard) {
    let mut input = &kept[..];
    loop {
        let mut slots = head::slots();
        match machine.poll_event(&mut input, &mut slots, bounds, Instant::default()) {
            Ok(Event::Interim(head)) => heard.heads.push(head.raw.to_vec()),
            Ok(Event::Response(head)) => {
                assert!(!heard.has_answer, "a second answer");
                heard.has_answer = true;
                heard.heads.push(head.raw.to_vec());
            }
            Ok(Event::Data(bytes)) => {
                assert!(!bytes.is_empty(), "an empty piece");
                heard.body.extend_from_slice(bytes);
            }
            Ok(Event::End(trailers)) => {
                assert!(heard.has_answer && heard.end.is_none(), "an end of nothing");
                let mut all = Vec::new();
                trailers.with(|fields| {
                    all.extend(fields.iter().map(|(n, v)| (n.to_string(), v.to_vec())));
                });
                heard.end = Some(all);
                let is_clean = input.is_empty();
                assert!(is_clean || !machine.is_reusable(), "not all is read");
            }
            Ok(Event::Switched) => {
                heard.switched = Some(input.to_vec());
                break;
            }
            Ok(Event::NeedInput | Event::Idle | Event::Closed) => break,
            Err(error) => {
                assert!(heard.error.is_none(), "an error after an error");
                assert!(machine.is_closed());
                heard.error = Some(error);
            }
        }
    }
    *kept = input.to_vec();
}

fn compare(whole: &Heard, pieces: &Heard) {
    let (mut whole, mut pieces) = (whole.clone(), pieces.clone());
    // A head that drips in is looked at when it is all there, or too long: until then the one that came
    // whole may be refused already, and which of two faults is told depends on what was seen.
    match (whole.error, pieces.error) {
        (Some(a), b) if a != b.unwrap_or(a) || b.is_none() => {
            let is_of_head = |why: ClientError| {
                let name = why.proxy_status();
                ![ClientError::Unasked, ClientError::TooManyInterims].contains(&why)
                    && (name.starts_with("http_response_header") || name == "http_protocol_error")
                    || why == ClientError::TransferCoding
            };
            let is_short = b.is_none_or(|why| why.proxy_status() == "http_response_incomplete");
            let is_late = is_of_head(a) && (is_short || b.is_some_and(is_of_head));
            let is_size = |why: ClientError| why.proxy_status() == "http_response_body_size";
            assert!(
                is_late || (is_size(a) && b.is_some_and(is_size)),
                "refused with {a:?} and with {b:?}"
            );
        }
        (None, Some(why)) => panic!("refused only in pieces: {why}"),
        _ => {}
    }
    // Of a body over its bound what came before the bound may have been told.
    if let Some(ClientError::BodyTooLarge { .. }) = whole.error {
        whole.body.clear();
        pieces.body.clear();
    }
    (whole.error, pieces.error) = (None, None);
    assert_eq!(whole, pieces);
}

/// Against the reader: every head that was reported is one, and what ended ends there.
fn judge(heard: &Heard, answer: &[u8], asked: Option<&Asked>, ends: bool) {
    let asked = asked.copied().unwrap_or_default();
    let (mut rest, mut stays) = (answer, true);
    assert!(heard.heads.len() <= 17, "more than sixteen interim answers");
    let mut last = None;
    for (n, raw) in heard.heads.iter().enumerate() {
        let text = String::from_utf8_lossy(raw);
        let Some((head, after)) = read_head(rest, asked) else {
            panic!("head {n} is none: {text:?}");
        };
        assert_eq!(&rest[..rest.len() - after.len()], &raw[..], "head {n}");
        let is_interim = (100..200).contains(&head.status) && head.status != 101;
        let is_answer = heard.has_answer && n + 1 == heard.heads.len();
        assert_eq!(is_interim, !is_answer, "head {n}: {text:?}");
        stays &= head.stays;
        rest = after;
        last = Some(head);
    }
    let Some(head) = last.filter(|_| heard.has_answer) else {
        assert!(heard.end.is_none() && heard.body.is_empty());
        return;
    };
    let is_switch = head.status == 101 || (asked.connect && (200..300).contains(&head.status));
    assert!(head.status != 101 || asked.upgrade, "an unasked switch");
    assert_eq!(heard.switched.is_some(), is_switch, "a switch");
    if let Some(got) = &heard.switched {
        assert_eq!(got, rest, "what is behind the switch");
        return;
    }
    let (body, taken) = match head.body {
        Body::None => (Some(Vec::new()), 0),
        Body::Length(n) => match usize::try_from(n).ok().and_then(|n| rest.get(..n)) {
            Some(body) => (Some(body.to_vec()), body.len()),
            None => (None, 0),
        },
        Body::Chunked => match naive(rest) {
            Read::Whole { body, taken } if has_fair_trailers(&rest[..taken]) => (Some(body), taken),
            _ => (None, 0),
        },
        Body::UntilClose => (ends.then(|| rest.to_vec()), rest.len()),
    };
    if heard.end.is_some() {
        assert_eq!(Some(&heard.body), body.as_ref(), "body");
    } else if heard.error.is_none() {
        assert_eq!(body, None, "it waits, with an answer in its hands");
    }
    if heard.is_reusable {
        assert!(stays, "it stays, though it does not");
        assert_eq!(taken, rest.len(), "there is something behind the answer");
        assert!(heard.error.is_none() && !ends);
    }
}

enum Body {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

struct Head {
    status: u16,
    body: Body,
    /// The connection may.
    stays: bool,
}

/// RFC 9112 §4 to §6.3 and §9.3, once more.
fn read_head(data: &[u8], asked: Asked) -> Option<(Head, &[u8])> {
    let (lines, len) = lines(data)?;
    let is_text = |text: &[u8]| text.iter().all(|&b| b == b'\t' || (b >= b' ' && b != 0x7f));
    let line = lines[0];
    let minor = *line.strip_prefix(b"HTTP/1.")?.first()?;
    let code = line.get(8..12)?.strip_prefix(b" ")?;
    let reason = &line[12..];
    let is_fine = minor.is_ascii_digit()
        && code.iter().all(u8::is_ascii_digit)
        && (reason.is_empty() || reason[0] == b' ')
        && is_text(reason);
    let status: u16 = std::str::from_utf8(code).ok()?.parse().ok()?;
    // HTTP/1.0 knows no other protocol.
    if !is_fine || !(100..600).contains(&status) || (status == 101 && minor == b'0') {
        return None;
    }
    let (mut lengths, mut codings, mut options) = (Vec::new(), Vec::new(), Vec::new());
    for line in &lines[1..] {
        let colon = line.iter().position(|&b| b == b':')?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if !is_token(name) || !is_text(value) {
            return None;
        }
        let lower = value.to_ascii_lowercase();
        match name.to_ascii_lowercase().as_slice() {
            b"content-length" => lengths.push(value),
            b"transfer-encoding" => codings.push(lower),
            b"connection" => {
                let all = lower.split(|&b| b == b',');
                options.extend(all.map(|option| option.trim_ascii().to_vec()));
            }
            _ => {}
        }
    }
    let announced = match (&lengths[..], &codings[..]) {
        ([], []) => Body::UntilClose,
        (&[length], []) => {
            if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
                return None;
            }
            Body::Length(std::str::from_utf8(length).ok()?.parse().ok()?)
        }
        ([], [coding]) if coding == b"chunked" && minor != b'0' => Body::Chunked,
        _ => return None,
    };
    let is_tunnel = asked.connect && (200..300).contains(&status);
    let is_interim = status < 200;
    let is_never_chunked = !is_tunnel && (is_interim || status == 204);
    match announced {
        Body::Chunked if is_never_chunked => return None,
        Body::Length(1..) if is_interim => return None,
        _ => {}
    }
    let has = |option: &[u8]| options.iter().any(|its| its == option);
    let mut stays = !has(b"close") && (minor != b'0' || has(b"keep-alive"));
    let body = if is_tunnel || is_interim || asked.head || status == 204 || status == 304 {
        stays &= status != 204 || !matches!(announced, Body::Length(1..));
        Body::None
    } else {
        stays &= !matches!(announced, Body::UntilClose);
        announced
    };
    let head = Head {
        status,
        body,
        stays,
    };
    Some((head, &data[len..]))
}
