//! The WebSocket machine alone, as tables: what arrives, what is reported, what leaves.
//!
//! Every row is fed whole, byte by byte, and split in two at every place, and has to come out the same. The
//! app echoes what it gets. The groups are those of the Autobahn test suite.

use loopwright::proto::ws::Error;
use loopwright::proto::ws::frame::{self, Header, Opcode};
use loopwright::proto::ws::send::{Outbound, SendError};
use loopwright::proto::ws::session::{Event, Inbound, Kind, Session};

const LIMIT: usize = 100_000;
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A client's frame: its first byte as it stands on the wire, and its payload before masking.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = frame(first, payload);
    let head = out.len() - payload.len();
    out[1] |= 0x80;
    out.splice(head..head, KEY);
    frame::mask(&mut out[head + 4..], &mut { KEY });
    out
}

/// A server's frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        n @ 0..=125 => out.push(n as u8),
        n @ 126..=0xffff => {
            out.push(126);
            out.extend((n as u16).to_be_bytes());
        }
        n => {
            out.push(127);
            out.extend((n as u64).to_be_bytes());
        }
    }
    out.extend(payload);
    out
}

fn close(code: u16, reason: &str) -> Vec<u8> {
    masked(0x88, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

/// A session with its echo.
struct End {
    session: Session,
    inbound: Inbound,
    outbound: Outbound,
    kept: Vec<u8>,
    out: Vec<u8>,
    events: Vec<String>,
    /// How many bytes had arrived when it failed.
    failed: Option<(Error, usize)>,
    arrived: usize,
    echo: bool,
}

impl End {
    fn new(session: Session) -> End {
        End {
            session,
            inbound: Inbound::default(),
            outbound: Outbound::new(6, 0),
            kept: Vec::new(),
            out: Vec::new(),
            events: Vec::new(),
            failed: None,
            arrived: 0,
            echo: true,
        }
    }

    fn arrive(&mut self, bytes: &[u8]) {
        self.arrived += bytes.len();
        let mut kept = std::mem::take(&mut self.kept);
        kept.extend_from_slice(bytes);
        let mut input = &mut kept[..];
        loop {
            let (session, out) = (&mut self.session, &mut self.out);
            let event = session.poll_event(&mut input, &mut self.inbound, LIMIT);
            self.events.push(match event {
                Ok(None) => break,
                Err(error) => {
                    session.fail(error, out);
                    assert!(session.is_closed());
                    assert_eq!(self.failed, None, "it fails twice");
                    self.failed = Some((error, self.arrived));
                    continue;
                }
                Ok(Some(event)) => {
                    let echoed = match event {
                        _ if !self.echo || !session.is_open() => Ok(()),
                        Event::Text(text) => session.send_text(text, out, &mut self.outbound),
                        Event::Binary(data) => session.send_binary(data, out, &mut self.outbound),
                        Event::Piece {
                            kind, last, data, ..
                        } => session.send_fragment(kind, data, last, out, &mut self.outbound),
                        Event::Ping(data) => session.pong(data, out),
                        Event::Pong(_) | Event::Close { .. } => Ok(()),
                    };
                    echoed.expect("an open session sends");
                    if let Event::Close { .. } = event {
                        session.answer_close(out);
                        assert!(session.is_closed());
                    }
                    show(&event)
                }
            });
        }
        let most = frame::MAX_HEADER + frame::MAX_CONTROL;
        assert!(input.len() < most, "{} bytes are left", input.len());
        self.kept = input.to_vec();
    }

    fn fed(mut self, pieces: &[&[u8]]) -> End {
        pieces.iter().for_each(|piece| self.arrive(piece));
        self
    }
}

/// Long content by its length.
fn show(event: &Event<'_>) -> String {
    fn short(data: &[u8]) -> String {
        match data.len() {
            0..=64 => data.escape_ascii().to_string(),
            n => format!("[{n}]"),
        }
    }
    match event {
        Event::Text(text) => format!("text {}", short(text.as_bytes())),
        Event::Binary(data) => format!("binary {}", short(data)),
        Event::Piece { data, last, .. } => format!("piece {} {last}", short(data)),
        Event::Ping(data) => format!("ping {}", short(data)),
        Event::Pong(data) => format!("pong {}", short(data)),
        Event::Close { code, reason } => format!("close {} {reason}", code.unwrap_or(0)),
    }
}

/// What leaves, as frames.
fn sent(mut out: &[u8]) -> Vec<String> {
    let mut frames = Vec::new();
    while let Some((header, len)) = Header::decode(out, false).expect("our own frames") {
        let (payload, rest) = out[len..].split_at(header.len as usize);
        out = rest;
        frames.push(match header.opcode {
            Opcode::Close => match payload {
                [] => "close".to_string(),
                [a, b, reason @ ..] => {
                    assert!(reason.is_empty());
                    format!("close {}", u16::from_be_bytes([*a, *b]))
                }
                _ => panic!("a Close of one byte"),
            },
            Opcode::Ping => panic!("nobody pings"),
            Opcode::Pong => show(&Event::Pong(payload)),
            Opcode::Text => show(&Event::Text(std::str::from_utf8(payload).expect("text"))),
            Opcode::Binary => show(&Event::Binary(payload)),
            Opcode::Continuation => panic!("nobody fragments"),
        });
    }
    assert!(out.is_empty(), "a frame is cut off");
    frames
}

/// Whole, by the byte, and cut at every place (at some, if it is long).
fn every_way(wire: &[u8], mut check: impl FnMut(&[&[u8]])) {
    check(&[wire]);
    let bytes: Vec<_> = wire.chunks(1).collect();
    if wire.len() < 20_000 {
        check(&bytes);
    }
    let step = wire.len() / 300 + 1;
    for cut in (1..wire.len()).step_by(step) {
        check(&[&wire[..cut], &wire[cut..]]);
    }
}

/// Feeds a plain server; what it fails with ends the events.
fn row(name: &str, arrives: &[Vec<u8>], events: &[&str], leaves: &[&str]) {
    let wire = arrives.concat();
    every_way(&wire, |pieces| {
        let end = End::new(Session::server(None)).fed(pieces);
        let mut got = end.events.clone();
        if let Some((error, _)) = end.failed {
            got.push(format!("fails {}", error.close_code()));
        }
        assert_eq!(got, events, "{name}: {} pieces", pieces.len());
        assert_eq!(sent(&end.out), leaves, "{name}: {} pieces", pieces.len());
    });
}

#[test]
fn framing() {
    for n in [0, 1, 125, 126, 127, 128, 65535, 65536] {
        let text = "*".repeat(n);
        let want = show(&Event::Text(&text));
        row("1.1", &[masked(0x81, text.as_bytes())], &[&want], &[&want]);
        let want = show(&Event::Binary(&vec![0xfe; n]));
        row("1.2", &[masked(0x82, &vec![0xfe; n])], &[&want], &[&want]);
    }
    // Two in one segment: the second is not lost.
    let both = [masked(0x81, b"a"), masked(0x82, b"b")];
    row(
        "two",
        &both,
        &["text a", "binary b"],
        &["text a", "binary b"],
    );
}

#[test]
fn pings() {
    row("2.1", &[masked(0x89, b"")], &["ping "], &["pong "]);
    row(
        "2.2",
        &[masked(0x89, b"hello")],
        &["ping hello"],
        &["pong hello"],
    );
    row(
        "2.3",
        &[masked(0x89, b"\0\xff\xfe\r\n")],
        &[r"ping \x00\xff\xfe\r\n"],
        &[r"pong \x00\xff\xfe\r\n"],
    );
    row(
        "2.4",
        &[masked(0x89, &[0xfe; 125])],
        &["ping [125]"],
        &["pong [125]"],
    );
    row(
        "2.5",
        &[masked(0x89, &[0xfe; 126])],
        &["fails 1002"],
        &["close 1002"],
    );
    row("2.7", &[masked(0x8a, b"")], &["pong "], &[]);
    row(
        "2.9",
        &[masked(0x8a, b"unasked"), masked(0x89, b"x")],
        &["pong unasked", "ping x"],
        &["pong x"],
    );
    let ten: Vec<_> = (0..10)
        .map(|n| masked(0x89, format!("{n}").as_bytes()))
        .collect();
    let pings: Vec<_> = (0..10).map(|n| format!("ping {n}")).collect();
    let pongs: Vec<_> = (0..10).map(|n| format!("pong {n}")).collect();
    let borrowed = |all: &'static [String]| all.iter().map(String::as_str).collect::<Vec<_>>();
    row(
        "2.10",
        &ten,
        &borrowed(pings.leak()),
        &borrowed(pongs.leak()),
    );
}

#[test]
fn reserved_bits_and_opcodes() {
    for first in [
        0x91, 0xa1, 0xb1, 0xc1, 0xd1, 0xe1, 0xf1, 0xc9, 0xc8, 0xca, 0xc0,
    ] {
        row(
            "3",
            &[masked(first, b"x")],
            &["fails 1002"],
            &["close 1002"],
        );
        // What came before it is heard, what comes behind it is not.
        let rows = [masked(0x81, b"a"), masked(first, b"x"), masked(0x81, b"b")];
        row(
            "3",
            &rows,
            &["text a", "fails 1002"],
            &["text a", "close 1002"],
        );
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        row(
            "4",
            &[masked(0x80 | opcode, b"")],
            &["fails 1002"],
            &["close 1002"],
        );
    }
    row(
        "unmasked",
        &[frame(0x81, b"x")],
        &["fails 1002"],
        &["close 1002"],
    );
    row(
        "not minimal",
        &[vec![0x81, 0xfe, 0, 5]],
        &["fails 1002"],
        &["close 1002"],
    );
    row(
        "not minimal",
        &[vec![0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff]],
        &["fails 1002"],
        &["close 1002"],
    );
    row(
        "64 bits",
        &[vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0]],
        &["fails 1002"],
        &["close 1002"],
    );
}

#[test]
fn fragments() {
    row(
        "5.1",
        &[masked(0x09, b"a"), masked(0x80, b"b")],
        &["fails 1002"],
        &["close 1002"],
    );
    row(
        "5.3",
        &[masked(0x01, b"a"), masked(0x80, b"b")],
        &["text ab"],
        &["text ab"],
    );
    row(
        "5.6",
        &[masked(0x01, b"a"), masked(0x89, b"p"), masked(0x80, b"b")],
        &["ping p", "text ab"],
        &["pong p", "text ab"],
    );
    row(
        "5.9",
        &[masked(0x80, b"a"), masked(0x81, b"b")],
        &["fails 1002"],
        &["close 1002"],
    );
    row(
        "5.12",
        &[masked(0x00, b"a"), masked(0x81, b"b")],
        &["fails 1002"],
        &["close 1002"],
    );
    row(
        "5.15",
        &[masked(0x01, b"a"), masked(0x80, b"b"), masked(0x00, b"c")],
        &["text ab", "fails 1002"],
        &["text ab", "close 1002"],
    );
    row(
        "5.18",
        &[masked(0x01, b"a"), masked(0x81, b"b")],
        &["fails 1002"],
        &["close 1002"],
    );
    row(
        "5.19",
        &[
            masked(0x02, b"1"),
            masked(0x00, b"2"),
            masked(0x89, b"x"),
            masked(0x00, b""),
            masked(0x00, b"3"),
            masked(0x89, b"y"),
            masked(0x80, b"4"),
        ],
        &["ping x", "ping y", "binary 1234"],
        &["pong x", "pong y", "binary 1234"],
    );
    row(
        "6.1",
        &[masked(0x01, b""), masked(0x00, b""), masked(0x80, b"")],
        &["text "],
        &["text "],
    );
    row(
        "6.1",
        &[masked(0x01, b""), masked(0x00, b"m"), masked(0x80, b"")],
        &["text m"],
        &["text m"],
    );
    // The gathered message is handed out, not the one before it.
    row(
        "again",
        &[
            masked(0x01, b"a"),
            masked(0x80, b"b"),
            masked(0x02, b""),
            masked(0x80, b""),
        ],
        &["text ab", "binary "],
        &["text ab", "binary "],
    );
}

#[test]
fn utf8() {
    let good = "Hello-µ@ßöäüàá-UTF-8!!\u{10ffff}\u{ffff}\0";
    let shown = show(&Event::Text(good));
    row(
        "6.2",
        &[masked(0x81, good.as_bytes())],
        &[&shown],
        &[&shown],
    );
    for cut in 0..=good.len() {
        let halves = [
            masked(0x01, &good.as_bytes()[..cut]),
            masked(0x80, &good.as_bytes()[cut..]),
        ];
        row("6.2.2", &halves, &[&shown], &[&shown]);
    }
    let bytes: Vec<_> = (0..good.len())
        .map(|n| masked(if n == 0 { 0x01 } else { 0x00 }, &good.as_bytes()[n..=n]))
        .chain([masked(0x80, b"")])
        .collect();
    row("6.2.4", &bytes, &[&shown], &[&shown]);
    for bad in [
        &b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"[..],
        b"\xff",
        b"\xce",
        b"\xe1\xbd",
        b"\xf4\x90\x80\x80",
        b"\xc0\x80",
        b"\xed\xb0\x80",
        b"\xf8\x88\x80\x80\x80",
    ] {
        row(
            "6.3",
            &[masked(0x81, bad)],
            &["fails 1007"],
            &["close 1007"],
        );
        for cut in 0..bad.len() {
            let halves = [masked(0x01, &bad[..cut]), masked(0x80, &bad[cut..])];
            row("6.3.2", &halves, &["fails 1007"], &["close 1007"]);
        }
    }
    // A text may be anything but that; a binary may be that.
    row(
        "binary",
        &[masked(0x82, b"\xff")],
        &[r"binary \xff"],
        &[r"binary \xff"],
    );
}

/// 6.4: a text that can no longer be one fails the connection at that byte, within a frame and across two.
#[test]
fn utf8_fails_fast() {
    let (good, bad) = (
        &b"\xce\xba\xcf\x8c\xcf\x83\xce\xbc\xce\xb5"[..],
        &b"\xf4\x90"[..],
    );
    let text = [good, bad, b"\x80\x80more"].concat();
    for wire in [
        masked(0x81, &text),
        [masked(0x01, good), masked(0x80, &text[good.len()..])].concat(),
        [
            masked(0x01, &text[..good.len() + 1]),
            masked(0x80, &text[good.len() + 1..]),
        ]
        .concat(),
    ] {
        let end = End::new(Session::server(None)).fed(&wire.chunks(1).collect::<Vec<_>>());
        let (error, at) = end.failed.expect("it fails");
        let wrong = frame_bytes_until(&wire, good.len() + 2);
        assert_eq!((error, at), (Error::Utf8, wrong));
    }
}

/// How many bytes of the wire it takes to have `n` of the payloads.
fn frame_bytes_until(wire: &[u8], mut n: usize) -> usize {
    let mut at = 0;
    loop {
        let (header, len) = Header::decode(&wire[at..], true).unwrap().unwrap();
        at += len;
        if n <= header.len as usize {
            return at + n;
        }
        n -= header.len as usize;
        at += header.len as usize;
    }
}

#[test]
fn closing() {
    let long = "*".repeat(123);
    row(
        "7.1.1",
        &[masked(0x81, b"a"), close(1000, "")],
        &["text a", "close 1000 "],
        &["text a", "close 1000"],
    );
    row(
        "7.1.2",
        &[close(1000, ""), close(1000, "")],
        &["close 1000 "],
        &["close 1000"],
    );
    row(
        "7.1.3",
        &[close(1000, ""), masked(0x89, b"x")],
        &["close 1000 "],
        &["close 1000"],
    );
    row(
        "7.1.4",
        &[close(1000, ""), masked(0x81, b"x"), b"rubbish".to_vec()],
        &["close 1000 "],
        &["close 1000"],
    );
    row(
        "7.1.5",
        &[masked(0x01, b"a"), close(1000, ""), masked(0x80, b"b")],
        &["close 1000 "],
        &["close 1000"],
    );
    row("7.3.1", &[masked(0x88, b"")], &["close 0 "], &["close"]);
    row(
        "7.3.2",
        &[masked(0x88, b"x")],
        &["fails 1002"],
        &["close 1002"],
    );
    row(
        "7.3.4",
        &[close(1000, "Hello")],
        &["close 1000 Hello"],
        &["close 1000"],
    );
    row(
        "7.3.5",
        &[close(1000, &long)],
        &[&format!("close 1000 {long}")],
        &["close 1000"],
    );
    row(
        "7.3.6",
        &[close(1000, &"*".repeat(124))],
        &["fails 1002"],
        &["close 1002"],
    );
    row(
        "7.5.1",
        &[masked(0x88, b"\x03\xe8\xce\xba\xed\xa0\x80")],
        &["fails 1007"],
        &["close 1007"],
    );
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000,
        4999,
    ] {
        row(
            "7.7",
            &[close(code, "")],
            &[&format!("close {code} ")],
            &[&format!("close {code}")],
        );
    }
    for code in [
        0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535,
    ] {
        row("7.9", &[close(code, "")], &["fails 1002"], &["close 1002"]);
    }
}

#[test]
fn after_our_close() {
    let arrives = [
        masked(0x80, b"the end of a message that was on its way"),
        masked(0x81, b"\xff not even text"),
        masked(0x89, b"ping"),
        masked(0x82, &vec![0; 2 * LIMIT]),
        close(1001, "bye"),
        masked(0x81, b"x"),
    ]
    .concat();
    every_way(&arrives, |pieces| {
        let mut end = End::new(Session::server(None));
        end.arrive(&masked(0x01, b"begun"));
        let mut out = Vec::new();
        end.session.close(1001, "going", &mut out).unwrap();
        assert!(end.session.is_closing());
        let end = end.fed(pieces);
        assert_eq!(
            (end.failed, &end.events[..]),
            (None, &["close 1001 bye".to_string()][..])
        );
        assert_eq!(
            (end.out, out),
            (Vec::new(), b"\x88\x07\x03\xe9going".to_vec())
        );
        assert!(end.session.is_closed());
    });
}

#[test]
fn what_may_not_be_sent() {
    let (mut session, mut shared, mut out) =
        (Session::server(None), Outbound::default(), Vec::new());
    assert_eq!(session.ping(&[0; 126], &mut out), Err(SendError::TooLong));
    assert_eq!(
        session.close(1000, &"x".repeat(124), &mut out),
        Err(SendError::TooLong)
    );
    for code in [0, 999, 1005, 1006, 1015, 2000, 5000] {
        assert_eq!(session.close(code, "", &mut out), Err(SendError::Code));
    }
    assert!(out.is_empty() && session.is_open());
    session
        .send_fragment(Kind::Text, b"a", false, &mut out, &mut shared)
        .unwrap();
    assert_eq!(
        session.send_text("x", &mut out, &mut shared),
        Err(SendError::Fragmented)
    );
    let other = session.send_fragment(Kind::Binary, b"x", true, &mut out, &mut shared);
    assert_eq!(other, Err(SendError::Fragmented));
    session.ping(b"p", &mut out).unwrap();
    session
        .send_fragment(Kind::Text, b"b", true, &mut out, &mut shared)
        .unwrap();
    session.close(1000, &"x".repeat(123), &mut out).unwrap();
    let end = out.len();
    assert_eq!(out[..end - 127], *b"\x01\x01a\x89\x01p\x80\x01b");
    assert_eq!(
        session.send_text("x", &mut out, &mut shared),
        Err(SendError::Closed)
    );
    assert_eq!(session.pong(b"", &mut out), Err(SendError::Closed));
    assert_eq!(
        session.announce(Kind::Binary, 1, &mut out),
        Err(SendError::Closed)
    );
    assert_eq!(session.close(1000, "", &mut out), Err(SendError::Closed));
    session.answer_close(&mut out);
    session.fail(Error::Utf8, &mut out);
    assert_eq!(out.len(), end);
}

#[test]
fn limits() {
    let most = show(&Event::Binary(&vec![0; LIMIT]));
    row("9", &[masked(0x82, &vec![7; LIMIT])], &[&most], &[&most]);
    row(
        "9",
        &[masked(0x02, &vec![7; LIMIT - 1]), masked(0x80, b"x")],
        &[&most],
        &[&most],
    );
    row(
        "9",
        &[masked(0x02, &vec![7; LIMIT - 1]), masked(0x80, b"xy")],
        &["fails 1009"],
        &["close 1009"],
    );
    // The header is enough.
    let announced = |first: u8, len: u64| {
        let mut out = Vec::new();
        let (opcode, mask) = (Opcode::Binary, Some(KEY));
        Header {
            opcode,
            fin: true,
            rsv1: false,
            mask,
            len,
        }
        .encode(&mut out);
        out[0] = first;
        out
    };
    row(
        "9",
        &[announced(0x82, LIMIT as u64 + 1)],
        &["fails 1009"],
        &["close 1009"],
    );
    row(
        "9",
        &[announced(0x82, i64::MAX as u64)],
        &["fails 1009"],
        &["close 1009"],
    );
    row(
        "9",
        &[masked(0x01, b"a"), announced(0x80, LIMIT as u64)],
        &["fails 1009"],
        &["close 1009"],
    );
    // A code point that is not complete counts.
    row(
        "9",
        &[masked(0x01, b"\xc3"), announced(0x80, LIMIT as u64)],
        &["fails 1009"],
        &["close 1009"],
    );
}

#[test]
fn a_streamed_message_has_no_limit_and_leaves_as_it_comes() {
    let text = "héllo ".repeat(LIMIT / 3);
    let (a, b) = text.as_bytes().split_at(LIMIT + 1);
    let wire = [
        masked(0x01, a),
        masked(0x89, b"p"),
        masked(0x00, b""),
        masked(0x80, b),
    ]
    .concat();
    let mut whole = None;
    for step in [usize::MAX, 65536, 1000, 7] {
        let mut session = Session::server(None);
        session.set_streamed(true);
        let mut end = End::new(session);
        for piece in wire.chunks(step.min(wire.len())) {
            end.arrive(piece);
        }
        assert_eq!(end.failed, None);
        let mut client = End::new(Session::client(None, 1));
        (client.echo, client.inbound) = (false, end.inbound);
        let mut input = &mut end.out[..];
        let mut shared = Inbound::default();
        let mut got = Vec::new();
        while let Some(event) = client
            .session
            .poll_event(&mut input, &mut shared, usize::MAX)
            .unwrap()
        {
            got.push(match event {
                Event::Text(text) => text.to_string(),
                event => show(&event),
            });
        }
        let got = (got, input.len());
        assert_eq!(got.0.last().unwrap(), &text);
        assert_eq!(*whole.get_or_insert(got.clone()), got);
    }
    let mut session = Session::server(None);
    session.set_streamed(true);
    let end = End::new(session).fed(&[&masked(0x01, b"\xc3"), &masked(0x80, b"")]);
    assert_eq!(end.failed.unwrap().0, Error::Utf8);
    assert_eq!(end.events, [r"piece \xc3 false"]);
}

#[cfg(feature = "deflate")]
mod deflate {
    use super::*;
    use loopwright::proto::ws::extension::{Agreed, Direction};
    use loopwright::proto::ws::send::Prepared;
    use proptest::prelude::*;

    fn agreed(takeover: bool, window_bits: u8) -> Agreed {
        let both = Direction {
            takeover,
            window_bits,
        };
        Agreed {
            server: both,
            client: both,
        }
    }

    fn events(session: impl Fn() -> Session, arrives: &[Vec<u8>]) -> Vec<String> {
        let wire = arrives.concat();
        let mut first = None;
        every_way(&wire, |pieces| {
            let end = End::new(session()).fed(pieces);
            let mut got = end.events;
            got.extend(
                end.failed
                    .map(|(error, _)| format!("fails {}", error.close_code())),
            );
            assert_eq!(
                *first.get_or_insert(got.clone()),
                got,
                "{} pieces",
                pieces.len()
            );
        });
        first.unwrap()
    }

    /// The examples of RFC 7692 §7.2.3.
    #[test]
    fn examples_of_the_rfc() {
        let server = || Session::server(Some(agreed(true, 15)));
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        for (arrives, want) in [
            (vec![masked(0xc1, &hello)], vec!["text Hello"]),
            (
                vec![masked(0x41, &hello[..3]), masked(0x80, &hello[3..])],
                vec!["text Hello"],
            ),
            (
                vec![
                    masked(0x41, &hello[..3]),
                    masked(0x89, b"p"),
                    masked(0x00, b""),
                    masked(0x80, &hello[3..]),
                ],
                vec!["ping p", "text Hello"],
            ),
            // The second refers to the first.
            (
                vec![
                    masked(0xc1, &hello),
                    masked(0xc1, &[0xf2, 0x00, 0x11, 0x00, 0x00]),
                ],
                vec!["text Hello", "text Hello"],
            ),
            (
                vec![masked(0xc1, b"\x00\x05\x00\xfa\xffHello\x00")],
                vec!["text Hello"],
            ),
            (
                vec![masked(
                    0xc1,
                    &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
                )],
                vec!["text Hello"],
            ),
            (
                vec![masked(
                    0xc1,
                    &[
                        0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07,
                        0x00,
                    ],
                )],
                vec!["text Hello"],
            ),
            (vec![masked(0xc1, &[0])], vec!["text "]),
            (
                vec![masked(0x81, b"plain"), masked(0xc1, &hello)],
                vec!["text plain", "text Hello"],
            ),
        ] {
            assert_eq!(events(server, &arrives), want);
        }
    }

    /// The same, on their way out.
    #[test]
    fn what_is_sent_is_as_in_the_rfc() {
        let (mut shared, mut out) = (Outbound::new(6, 0), Vec::new());
        let mut server = Session::server(Some(agreed(true, 15)));
        for text in ["Hello", "Hello", ""] {
            server.send_text(text, &mut out, &mut shared).unwrap();
        }
        let hello = frame(0xc1, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
        let again = frame(0xc1, &[0xf2, 0x00, 0x11, 0x00, 0x00]);
        assert_eq!(out, [hello, again, frame(0xc1, &[0])].concat());
        // A threshold is one, and nothing is made longer.
        let mut server = Session::server(Some(agreed(false, 15)));
        let mut shared = Outbound::new(6, 3);
        for (text, first) in [("aa", 0x81), ("abc", 0x81), ("aaaaaaaaaaaa", 0xc1)] {
            out.clear();
            server.send_text(text, &mut out, &mut shared).unwrap();
            assert_eq!(out[0], first, "{text}");
        }
    }

    #[test]
    fn the_reserved_bit() {
        let server = || Session::server(Some(agreed(false, 15)));
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        for arrives in [
            vec![masked(0xc9, b"")],
            vec![masked(0xc8, b"")],
            vec![masked(0x41, &hello[..3]), masked(0xc0, &hello[3..])],
            vec![masked(0x01, b"a"), masked(0xc0, b"b")],
            vec![masked(0xd1, &hello)],
        ] {
            assert_eq!(events(server, &arrives), ["fails 1002"]);
        }
        assert_eq!(
            events(|| Session::server(None), &[masked(0xc1, &hello)]),
            ["fails 1002"]
        );
        // Without context takeover there is nothing that the second could refer to.
        let second = masked(0xc1, &[0xf2, 0x00, 0x11, 0x00, 0x00]);
        assert_eq!(
            events(server, &[masked(0xc1, &hello), second]),
            ["text Hello", "fails 1007"]
        );
        assert_eq!(events(server, &[masked(0xc1, &[0xff; 9])]), ["fails 1007"]);
    }

    #[test]
    fn text_is_checked_and_size_is_bounded_once_it_is_plain() {
        let server = || Session::server(Some(agreed(false, 15)));
        let compressed = |kind: Kind, payload: &[u8]| {
            let (mut client, mut out) = (Session::client(Some(agreed(false, 15)), 3), Vec::new());
            client
                .send(kind, payload, &mut out, &mut Outbound::new(9, 0))
                .unwrap();
            out
        };
        assert_eq!(
            events(server, &[compressed(Kind::Text, b"caf\xc3")]),
            ["fails 1007"]
        );
        // Half a code point is all there is of it, in a stored block.
        let half = masked(0xc1, b"\x00\x01\x00\xfe\xff\xc3\x00");
        assert_eq!(events(server, &[half]), ["fails 1007"]);
        let bad = [&b"x".repeat(50_000)[..], b"\xff", &b"x".repeat(9)].concat();
        assert_eq!(
            events(server, &[compressed(Kind::Text, &bad)]),
            ["fails 1007"]
        );
        assert_eq!(
            events(
                server,
                &[compressed(Kind::Text, "é".repeat(40_000).as_bytes())]
            ),
            ["text [80000]"]
        );
        for size in [16_383, 16_384, 16_385, 32_768, 65_536] {
            let filled = compressed(Kind::Binary, &vec![0; size]);
            assert_eq!(events(server, &[filled]), [format!("binary [{size}]")]);
        }
        let most = compressed(Kind::Binary, &vec![0; LIMIT]);
        assert_eq!(events(server, &[most]), ["binary [100000]"]);
        // A bomb: some kilobytes for more than there may be.
        for size in [LIMIT + 1, 50 * LIMIT] {
            let bomb = compressed(Kind::Binary, &vec![0; size]);
            assert!(bomb.len() < size / 500);
            assert_eq!(events(server, &[bomb]), ["fails 1009"]);
        }
        // Streamed, it leaves in pieces that have a bound.
        let bomb = compressed(Kind::Binary, &vec![0; 50 * LIMIT]);
        for step in [1, 1000, bomb.len()] {
            let mut session = server();
            session.set_streamed(true);
            let (mut inbound, mut total, mut ends) = (Inbound::default(), 0, 0);
            let mut bomb = bomb.clone();
            let (mut from, mut to) = (0, 0);
            while to < bomb.len() {
                to = (to + step).min(bomb.len());
                let mut input = &mut bomb[from..to];
                while let Some(event) = session.poll_event(&mut input, &mut inbound, LIMIT).unwrap()
                {
                    let Event::Piece {
                        data, last, first, ..
                    } = event
                    else {
                        panic!("{event:?}")
                    };
                    assert!(data.len() <= 16 * 1024 && data.iter().all(|&b| b == 0));
                    assert_eq!(first, total == 0);
                    total += data.len();
                    ends += usize::from(last);
                }
                from = to - input.len();
            }
            assert_eq!((total, ends), (50 * LIMIT, 1));
        }
    }

    #[test]
    fn made_once_for_many() {
        let (own, many) = (
            "you alone, you alone",
            "the same to all of you, the same to all of you",
        );
        let mut shared = Outbound::new(6, 0);
        let message = Prepared::new(Kind::Text, many.as_bytes());
        for (deflate, compressed) in [
            (None, false),
            (Some(agreed(false, 15)), true),
            (Some(agreed(true, 15)), true),
            // Nothing in it lies further back than such a window reaches.
            (Some(agreed(true, 9)), true),
        ] {
            let (mut server, mut client) = (
                Session::server(deflate),
                End::new(Session::client(deflate, 1)),
            );
            client.echo = false;
            let mut out = Vec::new();
            // Between messages of its own.
            for _ in 0..2 {
                server.send_text(own, &mut out, &mut shared).unwrap();
                let bytes = server.prepared(&message, &mut shared).unwrap();
                assert_eq!(bytes[0] & 0x40 != 0, compressed);
                out.extend_from_slice(&bytes);
            }
            client.arrive(&out);
            let both = [format!("text {own}"), format!("text {many}")];
            assert_eq!(
                (client.failed, client.events),
                (None, [both.clone(), both].concat())
            );
        }
        let long: Vec<u8> = (0..2000u32).flat_map(|n| (n % 700).to_be_bytes()).collect();
        let message = Prepared::new(Kind::Binary, &long);
        let small = Session::server(Some(agreed(false, 9)))
            .prepared(&message, &mut shared)
            .unwrap();
        assert!(small.ends_with(&long), "sent plain");
    }

    /// Both ends, whatever is agreed on: what one sends the other gets, cut anywhere.
    #[derive(Clone, Debug)]
    struct Talk {
        deflate: Option<Agreed>,
        threshold: usize,
        messages: Vec<(Vec<u8>, usize)>,
        step: usize,
        streamed: bool,
    }

    fn talk() -> impl Strategy<Value = Talk> {
        let message = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..300),
            (0..40_000usize, 1..50u8)
                .prop_map(|(n, m)| (0..n).map(|n| (n % 251) as u8 / m).collect()),
        ];
        let deflate =
            proptest::option::of((any::<bool>(), 9..=15u8).prop_map(|(t, b)| agreed(t, b)));
        let messages = proptest::collection::vec((message, 1..4usize), 1..6);
        let talks = (deflate, 0..300usize, messages, 1..5000usize, any::<bool>());
        talks.prop_map(|(deflate, threshold, messages, step, streamed)| Talk {
            deflate,
            threshold,
            messages,
            step,
            streamed,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn what_one_end_sends_the_other_gets(talk in talk()) {
            for (mut from, mut to) in [
                (Session::server(talk.deflate), Session::client(talk.deflate, 5)),
                (Session::client(talk.deflate, 6), Session::server(talk.deflate)),
            ] {
                to.set_streamed(talk.streamed);
                let (mut shared, mut wire) = (Outbound::new(6, talk.threshold), Vec::new());
                for (message, fragments) in &talk.messages {
                    if *fragments == 1 {
                        from.send(Kind::Binary, message, &mut wire, &mut shared).unwrap();
                        continue;
                    }
                    let size = message.len() / fragments + 1;
                    for n in 0..*fragments {
                        let piece = message.chunks(size).nth(n).unwrap_or_default();
                        from.send_fragment(Kind::Binary, piece, n + 1 == *fragments, &mut wire, &mut shared).unwrap();
                    }
                }
                let (mut inbound, mut got, mut current) = (Inbound::default(), Vec::new(), Vec::new());
                let mut kept = Vec::new();
                for piece in wire.chunks(talk.step) {
                    kept.extend_from_slice(piece);
                    let mut input = &mut kept[..];
                    while let Some(event) = to.poll_event(&mut input, &mut inbound, LIMIT).unwrap() {
                        match event {
                            Event::Binary(data) => got.push(data.to_vec()),
                            Event::Piece { data, last, first, .. } => {
                                prop_assert_eq!(first, current.is_empty());
                                current.extend_from_slice(data);
                                if last {
                                    got.push(std::mem::take(&mut current));
                                }
                            }
                            event => panic!("{event:?}"),
                        }
                    }
                    kept = input.to_vec();
                }
                let want: Vec<_> = talk.messages.iter().map(|(message, _)| message.clone()).collect();
                prop_assert!(got == want);
                prop_assert!(kept.is_empty() && !to.is_receiving());
            }
        }
    }
}

#[test]
fn an_end_without_a_close() {
    let mut session = Session::server(None);
    assert!(session.handle_eof());
    let mut end = End::new(Session::server(None));
    end.arrive(&close(1000, ""));
    assert!(!end.session.handle_eof());
}
