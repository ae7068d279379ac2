//! A client: what it means to do, what it sends, and what it makes of what comes.

use fastrand::Rng;
use loopwright::proto::ws::extension::{Agreed, Direction};
use loopwright::proto::ws::send::Outbound;
use loopwright::proto::ws::session::{Event, Inbound, Kind, Session};
use loopwright::sim::{self, SimNet};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// A message, in so many fragments, perhaps with pings between.
    Say(String, usize),
    Bytes(Vec<u8>),
    Stall,
    GoOn,
    /// Comes to nothing: no more is sent or taken.
    Vanish,
    Reset,
    /// Closes its sending side, in the middle of a frame or not.
    Finish,
    /// What is no frame.
    Garbage(Vec<u8>),
    Close,
}

const NAMES: [&str; 5] = ["a", "b", "a/1", "a/2", "b/1/x"];
const PATTERNS: [&str; 8] = ["a", "b", "a/1", "a/*", "*", "b/**", "**", "*/1/*"];

/// Draws what a client does. The last step of one that is well is its Close, said by the run.
pub(crate) fn script(rng: &mut Rng, n: usize, longest: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    let length = rng.usize(5..60);
    let pad = |rng: &mut Rng| {
        let most = *rng.choice(&[10, 100, longest]).unwrap_or(&10);
        let letter = char::from(rng.u8(b'a'..=b'z'));
        String::from(letter).repeat(rng.usize(0..most))
    };
    for serial in 0..length {
        let text = match rng.u32(0..20) {
            0..3 => format!("+|{}", rng.choice(&PATTERNS).unwrap_or(&"a")),
            3 => format!("-|{}", rng.choice(&PATTERNS).unwrap_or(&"a")),
            4..8 => format!("P|{}|{}", rng.choice(&NAMES).unwrap_or(&"a"), pad(rng)),
            8..10 => format!("F|{}|{}", rng.choice(&NAMES).unwrap_or(&"a"), pad(rng)),
            10 => format!("G|{n}.{serial}|{}", pad(rng)),
            11 => format!("T|{}|{n}.{serial}", "x".repeat(rng.usize(0..50))),
            12 => {
                steps.push(Step::Bytes(pad(rng).into_bytes()));
                continue;
            }
            13 => {
                steps.push(Step::Stall);
                continue;
            }
            14 => {
                steps.push(Step::GoOn);
                continue;
            }
            _ => format!("E|{n}.{serial}|{}", pad(rng)),
        };
        steps.push(Step::Say(text, rng.usize(1..4)));
    }
    // Some come to an end of another kind.
    let end = match rng.u32(0..12) {
        0 => Step::Vanish,
        1 => Step::Reset,
        2 => Step::Finish,
        3 => Step::Garbage((0..rng.usize(1..40)).map(|_| rng.u8(..)).collect()),
        4 => Step::Say("close|enough".into(), 1),
        5 => Step::Say("panic".into(), 1),
        _ => return steps,
    };
    steps.push(end);
    steps
}

pub(crate) struct Client {
    pub(crate) n: usize,
    pub(crate) wire: sim::Client,
    pub(crate) policy: &'static str,
    session: Session,
    inbound: Inbound,
    outbound: Outbound,
    /// How much of what has come is looked at; the rest, which is.
    seen: usize,
    rest: Vec<u8>,
    pub(crate) is_open: bool,
    pub(crate) texts: Vec<String>,
    pub(crate) bytes: Vec<Vec<u8>>,
    pub(crate) closed: Option<u16>,
    pub(crate) steps: Vec<Step>,
    pub(crate) next: usize,
    /// What it has said that is to come back.
    pub(crate) said: Vec<String>,
    pub(crate) said_bytes: Vec<Vec<u8>>,
    pub(crate) said_parts: Vec<String>,
    /// It does nothing that could cost it a message.
    pub(crate) is_well: bool,
    is_gone: bool,
}

impl Client {
    pub(crate) fn connect(
        net: &mut SimNet,
        n: usize,
        policy: &'static str,
        longest: usize,
    ) -> Client {
        let mut rng = net.rng().fork();
        let compression = *rng.choice(&["off", "on", "context"]).unwrap_or(&"off");
        let wire = net.connect(0);
        let offer = match compression {
            "off" => "",
            _ => "sec-websocket-extensions: permessage-deflate\r\n",
        };
        let request = format!(
            "GET /ws/{n}/{policy}/{compression} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n"
        );
        net.send(wire, request.as_bytes());
        let both = Direction {
            // What may be dropped is not referred to.
            takeover: compression == "context" && policy != "oldest",
            window_bits: 15,
        };
        let agreed = Agreed {
            server: both,
            client: both,
        };
        Client {
            n,
            wire,
            policy,
            session: Session::client((compression != "off").then_some(agreed), 1),
            inbound: Inbound::default(),
            outbound: Outbound::new(1, 64),
            seen: 0,
            rest: Vec::new(),
            is_open: false,
            texts: Vec::new(),
            bytes: Vec::new(),
            closed: None,
            steps: script(&mut rng, n, longest),
            next: 0,
            said: Vec::new(),
            said_bytes: Vec::new(),
            said_parts: Vec::new(),
            is_well: true,
            is_gone: false,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.next == self.steps.len() || self.is_gone
    }

    /// Looks at what has come, and answers what asks for an answer.
    pub(crate) fn react(&mut self, net: &mut SimNet) {
        let received = net.received(self.wire);
        self.rest.extend_from_slice(&received[self.seen..]);
        self.seen = received.len();
        if !self.is_open {
            let Some(end) = self.rest.windows(4).position(|four| four == b"\r\n\r\n") else {
                return;
            };
            let head: Vec<u8> = self.rest.drain(..end + 4).collect();
            if !head.starts_with(b"HTTP/1.1 101 ") {
                (self.is_gone, self.is_well) = (true, false);
                return;
            }
            self.is_open = true;
        }
        let mut out = Vec::new();
        let mut input = &mut self.rest[..];
        loop {
            let event = self
                .session
                .poll_event(&mut input, &mut self.inbound, 1 << 20);
            match event.expect("the server's frames are well made") {
                None => break,
                Some(Event::Text(text)) => self.texts.push(text.into()),
                Some(Event::Binary(bytes)) => self.bytes.push(bytes.into()),
                Some(Event::Ping(payload)) => {
                    let payload = payload.to_vec();
                    let _ = self.session.pong(&payload, &mut out);
                }
                Some(Event::Pong(_)) => {}
                Some(Event::Close { code, .. }) => {
                    self.closed = Some(code.unwrap_or(1005));
                    self.session.answer_close(&mut out);
                }
                Some(other) => panic!("{other:?}"),
            }
        }
        let left = input.len();
        let used = self.rest.len() - left;
        self.rest.drain(..used);
        if !self.is_gone {
            net.send(self.wire, &out);
        }
    }

    pub(crate) fn act(&mut self, net: &mut SimNet) {
        if !self.is_open || self.is_done() {
            return;
        }
        let step = self.steps[self.next].clone();
        self.next += 1;
        let mut out = Vec::new();
        match step {
            // Nothing may be said any more.
            Step::Say(..) | Step::Bytes(_) if !self.session.is_open() => {}
            Step::Say(text, parts) => {
                match text.split('|').next() {
                    Some("E") => self.said.push(text.clone()),
                    Some("G") => self.said_parts.push(text.clone()),
                    Some("close" | "panic") => self.is_well = false,
                    _ => {}
                }
                let size = text.len().div_ceil(parts).max(1);
                let mut pieces = text.as_bytes().chunks(size).peekable();
                while let Some(piece) = pieces.next() {
                    let is_last = pieces.peek().is_none();
                    let (session, outbound) = (&mut self.session, &mut self.outbound);
                    session
                        .send_fragment(Kind::Text, piece, is_last, &mut out, outbound)
                        .expect("it may be sent");
                    if !is_last && net.rng().bool() {
                        session.ping(b"between", &mut out).expect("it may be sent");
                    }
                }
            }
            Step::Bytes(bytes) => {
                let (session, outbound) = (&mut self.session, &mut self.outbound);
                session
                    .send_binary(&bytes, &mut out, outbound)
                    .expect("it may be sent");
                self.said_bytes.push(bytes);
            }
            Step::Stall => net.stall(self.wire, true),
            Step::GoOn => net.stall(self.wire, false),
            Step::Vanish => {
                net.stall(self.wire, true);
                (self.is_gone, self.is_well) = (true, false);
            }
            Step::Reset => {
                net.reset(self.wire);
                (self.is_gone, self.is_well) = (true, false);
            }
            Step::Finish => {
                if net.rng().bool() {
                    out.extend_from_slice(b"\x81\xff\x00");
                }
                net.send(self.wire, &out);
                net.finish(self.wire);
                (self.is_gone, self.is_well) = (true, false);
                return;
            }
            Step::Garbage(bytes) => {
                out = bytes;
                self.is_well = false;
                self.is_gone = true;
            }
            Step::Close => {
                net.stall(self.wire, false);
                let _ = self.session.close(1000, "", &mut out);
            }
        }
        net.send(self.wire, &out);
    }

    pub(crate) fn has_left(&self) -> bool {
        self.is_gone
    }

    /// It has been told goodbye, and has nothing more to say.
    pub(crate) fn leave(&mut self, net: &mut SimNet) {
        if self.session.is_closed() || net.is_finished(self.wire) {
            net.finish(self.wire);
        }
    }
}
