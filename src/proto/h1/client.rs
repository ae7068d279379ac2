//! Floor 1. One HTTP/1.1 connection, the client's half: what is due next, and until when. The mirror of
//! [`super::server`]. One request at a time, no pipelining: no two answers can be taken for each other.
//!
//! ```text
//! rx   Idle ──begin_request──► Head ──head──► Body / UntilClose ──end──► Ended
//!       ▲                      ▲  │ 1xx                                    │
//!       │                      └──┘        101 or a tunnel: rx = Switched  │
//!       └────────── both sides done, and the connection stays ─────────────┘   else: rx = Closed
//! tx   Idle ──begin_request, with a body──► Body(encoder) ──end_request──► Idle
//! ```
//! Order of use: `begin_request` (the head's bytes are the caller's to write), then `frame_body …
//! end_request` if it has a body; all the while `poll_event` with whatever input there is, until it says
//! `NeedInput`, `Idle`, `Closed` or `Switched`; after `handle_eof`, `poll_event` once more;
//! `next_deadline`, and `expire` when it has passed. Every answer ends with `End`, one without a body too.
//!
//! Invariants: a request begins only when the answer to the one before is complete; what comes unasked is
//! an error, and never part of an answer; after an error, `Closed`, or the end of the server nothing more
//! is read as a message, and no request begins.

use super::body::{Decoder, Encoder, Piece, Trailers};
use super::error::{ClientError, Cut};
use super::head::{Framing, HeadLimits, Slots};
use super::response::{self, Asked, ResponseFraming, ResponseHead};
use crate::base::clock::Instant;
use http::StatusCode;
use std::time::Duration;

/// How many interim answers one request may have: more is a server that does not come to the point.
pub const MAX_INTERIMS: u8 = 16;

/// Waits for an answer. They run while the server is to move: from the moment the request is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientWaits {
    /// For the first byte of an answer, and after each interim answer for that of the next.
    pub first_byte: Duration,
    /// For the rest of a head from its first byte, and between two pieces of a body.
    pub read: Duration,
}

/// Bounds that the machine itself applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientBounds {
    /// For heads; there is no target.
    pub head: HeadLimits,
    /// For an answer's body, in bytes.
    pub body: u64,
}

/// What happened next on a connection.
#[derive(Debug)]
pub enum Event<'a> {
    /// An interim answer's head (1xx, but for 101): another follows.
    Interim(ResponseHead<'a>),
    /// The answer's head. If the request is not out yet, it is an early answer.
    Response(ResponseHead<'a>),
    /// A piece of its body.
    Data(&'a [u8]),
    /// The answer is complete.
    End(Trailers<'a>),
    /// All that came has been seen: read more.
    NeedInput,
    /// No answer is owed.
    Idle,
    /// The connection takes no more requests; input is worthless.
    Closed,
    /// Another protocol was agreed on, or a tunnel: what is left of the input is its.
    Switched,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rx {
    Idle,
    Head { scanned: u32, begun: bool },
    Body(Decoder),
    UntilClose,
    Ended,
    Closed,
    Switched,
}

impl Rx {
    const NEXT_HEAD: Rx = Rx::Head {
        scanned: 0,
        begun: false,
    };
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tx {
    Idle,
    Body(Encoder),
}

/// The client's half of one connection.
#[derive(Debug)]
pub struct Client {
    rx: Rx,
    tx: Tx,
    asked: Asked,
    exchange: u32,
    status: u16,
    interims: u8,
    /// Neither side has said that the connection ends.
    keep_alive: bool,
    /// No more exchanges after the present one.
    last: bool,
    /// The server has closed its sending side.
    eof: bool,
    /// Something of the present answer has come.
    seen: bool,
    /// Something came behind the last answer.
    unread: bool,
    /// The present wait for a head, or for the rest of one, began.
    since: Instant,
    /// Input last arrived, or the request was last in the way of it.
    last_input: Instant,
    received: u64,
    sent: u64,
}

/// There is one of these in every connection's slot.
const _: () = assert!(size_of::<Client>() <= 120);

impl Client {
    /// A connection made at `now`.
    pub fn new(now: Instant) -> Client {
        Client {
            rx: Rx::Idle,
            tx: Tx::Idle,
            asked: Asked::default(),
            exchange: 0,
            status: 0,
            interims: 0,
            keep_alive: true,
            last: false,
            eof: false,
            seen: false,
            unread: false,
            since: now,
            last_input: now,
            received: 0,
            sent: 0,
        }
    }

    // ---- what a caller may ask

    /// The number of the present (or last) exchange.
    pub fn exchange(&self) -> u32 {
        self.exchange
    }

    /// Between two requests.
    pub fn is_idle(&self) -> bool {
        self.rx == Rx::Idle
    }

    /// A request may begin: both sides of the one before are complete, and nothing is in doubt.
    pub fn is_reusable(&self) -> bool {
        self.is_idle() && self.keep_alive && !self.last && !self.eof && !self.unread
    }

    /// Nothing more will come from here.
    pub fn is_closed(&self) -> bool {
        self.rx == Rx::Closed
    }

    /// The rest of the present request is not sent, for its answer came early: the next wait is for the answer
    /// alone, and the connection is not used again.
    pub fn give_up_request(&mut self) {
        if self.is_sending() {
            (self.tx, self.last) = (Tx::Idle, true);
        }
    }

    /// The body of the present request is not complete.
    pub fn is_sending(&self) -> bool {
        self.tx != Tx::Idle
    }

    /// An answer is owed, and not one byte of it has come: the request may be safe to send elsewhere.
    pub fn nothing_seen(&self) -> bool {
        !self.seen && matches!(self.rx, Rx::Head { .. })
    }

    /// Something of the present (or last) answer has come, whatever has become of it since.
    pub fn has_seen(&self) -> bool {
        self.seen
    }

    /// The answer's head has come, its body not whole.
    pub fn has_body_to_come(&self) -> bool {
        match self.rx {
            Rx::Body(decoder) => !matches!(decoder, Decoder::Done | Decoder::Length(0)),
            Rx::UntilClose => true,
            _ => false,
        }
    }

    /// Whether no more than this is left of the present answer's body: a chunked one may be of any length.
    pub fn is_short(&self, limit: u64) -> bool {
        match self.rx {
            Rx::Body(Decoder::Length(left)) => left <= limit,
            Rx::Body(_) | Rx::UntilClose | Rx::Switched => false,
            _ => true,
        }
    }

    /// Status of the present (or last) answer; 0 before its head.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Body bytes of the present (or last) answer.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Body bytes of the present (or last) request.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    // ---- output

    /// A request begins; its head is the caller's to write, and announces a body as `framing` says. One
    /// without a body is complete with that. `false`: the connection takes no request now.
    #[must_use]
    pub fn begin_request(&mut self, asked: Asked, framing: Framing, now: Instant) -> bool {
        if !self.is_reusable() {
            return false;
        }
        self.rx = Rx::NEXT_HEAD;
        self.tx = match framing {
            Framing::None => Tx::Idle,
            Framing::Length(n) => Tx::Body(Encoder::Length(n)),
            Framing::Chunked => Tx::Body(Encoder::Chunked),
        };
        self.asked = asked;
        self.exchange = self.exchange.wrapping_add(1);
        (self.since, self.last_input) = (now, now);
        (self.status, self.interims, self.seen) = (0, 0, false);
        (self.received, self.sent) = (0, 0);
        true
    }

    /// Frames `len` bytes of the request's body: what goes before into `out`; how many of the bytes to
    /// send; what goes after.
    pub fn frame_body(&mut self, len: usize, out: &mut Vec<u8>) -> (usize, &'static [u8]) {
        let Tx::Body(encoder) = &mut self.tx else {
            return (0, b"");
        };
        let (n, after) = encoder.frame(len, out);
        self.sent += n as u64;
        (n, after)
    }

    /// The request is complete. `trailers` are field lines, sent only after a chunked body. `false`: it is
    /// shorter than was announced, which only closing can say: the connection is of no more use.
    pub fn end_request(&mut self, trailers: &[u8], out: &mut Vec<u8>, now: Instant) -> bool {
        let Tx::Body(encoder) = self.tx else {
            return true;
        };
        let is_whole = encoder.finish(trailers, out);
        self.keep_alive &= is_whole;
        self.tx = Tx::Idle;
        // Until now the server's silence was no fault of its.
        self.last_input = now;
        if self.rx == Rx::NEXT_HEAD {
            self.since = now;
        }
        self.await_next();
        is_whole
    }

    /// The present exchange is the last; an idle connection may close at once.
    pub fn drain(&mut self) {
        self.last = true;
        self.await_next();
    }

    /// No more of this server: the exchange is given up.
    pub fn abort(&mut self) {
        (self.rx, self.tx) = (Rx::Closed, Tx::Idle);
    }

    // ---- input

    /// Takes the next event from the front of `input`.
    ///
    /// # Errors
    /// The answer cannot be had, or what comes is no answer. Nothing more is read from here.
    pub fn poll_event<'a, 's>(
        &mut self,
        input: &mut &'a [u8],
        slots: &'s mut Slots<'a>,
        bounds: &ClientBounds,
        now: Instant,
    ) -> Result<Event<'s>, ClientError>
    where
        'a: 's,
    {
        if !input.is_empty() {
            self.last_input = now;
        }
        let event = match self.next_event(input, slots, bounds, now) {
            Ok(Event::NeedInput | Event::Idle) if self.eof => self.at_eof(),
            event => event,
        };
        if event.is_err() {
            self.abort();
        }
        event
    }

    fn next_event<'a, 's>(
        &mut self,
        input: &mut &'a [u8],
        slots: &'s mut Slots<'a>,
        bounds: &ClientBounds,
        now: Instant,
    ) -> Result<Event<'s>, ClientError>
    where
        'a: 's,
    {
        loop {
            match &mut self.rx {
                Rx::Closed => {
                    *input = &[];
                    return Ok(Event::Closed);
                }
                Rx::Switched => return Ok(Event::Switched),
                Rx::Idle | Rx::Ended if input.is_empty() => return Ok(Event::Idle),
                Rx::Idle | Rx::Ended => return Err(ClientError::Unasked),
                Rx::Head { .. } | Rx::UntilClose if input.is_empty() => {
                    return Ok(Event::NeedInput);
                }
                Rx::Head { scanned, begun } => {
                    self.seen = true;
                    let first_look = !std::mem::replace(begun, true);
                    if first_look {
                        self.since = now;
                    }
                    let mut from = *scanned as usize;
                    let limits = &bounds.head;
                    let head =
                        response::read(input, &mut from, first_look, slots, limits, self.asked)?;
                    *scanned = from as u32;
                    let Some(head) = head else {
                        return Ok(Event::NeedInput);
                    };
                    *input = &input[head.raw.len()..];
                    return self.on_head(head, bounds, now);
                }
                Rx::Body(decoder) => {
                    let piece = decoder.poll(input).map_err(ClientError::of_body)?;
                    let (taken, rest) = input.split_at(piece.len());
                    match piece {
                        Piece::NeedInput => return Ok(Event::NeedInput),
                        Piece::Framing(_) => {
                            // A chunk that is too large is refused before a byte of it is read.
                            let announced = decoder.announced();
                            self.check_size(announced, bounds)?;
                            *input = rest;
                        }
                        Piece::Data(n) => {
                            self.received += n as u64;
                            *input = rest;
                            return Ok(Event::Data(taken));
                        }
                        Piece::End(_) => {
                            *input = rest;
                            let trailers = Trailers::check(taken).map_err(ClientError::of_body)?;
                            self.on_end(!rest.is_empty());
                            return Ok(Event::End(trailers));
                        }
                    }
                }
                Rx::UntilClose => {
                    self.check_size(input.len() as u64, bounds)?;
                    self.received += input.len() as u64;
                    return Ok(Event::Data(std::mem::take(input)));
                }
            }
        }
    }

    /// Whether `more` bytes of a body still are within its bound.
    fn check_size(&self, more: u64, bounds: &ClientBounds) -> Result<(), ClientError> {
        let (size, limit) = (self.received.saturating_add(more), bounds.body);
        if size > limit {
            return Err(ClientError::BodyTooLarge { size, limit });
        }
        Ok(())
    }

    fn on_head<'s>(
        &mut self,
        head: ResponseHead<'s>,
        bounds: &ClientBounds,
        now: Instant,
    ) -> Result<Event<'s>, ClientError> {
        let is_switch = head.status == StatusCode::SWITCHING_PROTOCOLS;
        // Said by an interim answer it is said of the connection all the same.
        self.keep_alive &= head.keep_alive;
        if head.status.is_informational() && !is_switch {
            if self.interims == MAX_INTERIMS {
                return Err(ClientError::TooManyInterims);
            }
            self.interims += 1;
            self.rx = Rx::NEXT_HEAD;
            self.since = now;
            return Ok(Event::Interim(head));
        }
        // RFC 9110 §7.8: only what was asked for, and not in HTTP/1.0.
        if is_switch && (!self.asked.upgrade || head.http_10) {
            return Err(ClientError::UnaskedSwitch);
        }
        self.rx = match head.framing {
            _ if is_switch || (self.asked.connect && head.status.is_success()) => {
                // What we still owe of the request would be read as the other protocol's.
                if self.is_sending() {
                    return Err(ClientError::EarlySwitch);
                }
                Rx::Switched
            }
            ResponseFraming::None => Rx::Body(Decoder::Done),
            ResponseFraming::Length(n) => {
                self.check_size(n, bounds)?;
                Rx::Body(Decoder::Length(n))
            }
            ResponseFraming::Chunked => Rx::Body(Decoder::CHUNKED),
            ResponseFraming::UntilClose => Rx::UntilClose,
        };
        self.status = head.status.as_u16();
        Ok(Event::Response(head))
    }

    /// The answer is complete. What came behind it does not make it less so, but was not asked for.
    fn on_end(&mut self, unread: bool) {
        self.unread = unread;
        self.rx = Rx::Ended;
        self.await_next();
    }

    /// Both sides may be done.
    fn await_next(&mut self) {
        if matches!(self.rx, Rx::Ended | Rx::Idle) && self.tx == Tx::Idle {
            self.rx = if self.keep_alive && !self.last {
                Rx::Idle
            } else {
                Rx::Closed
            };
        }
    }

    /// All input has been seen, and there will be no more.
    fn at_eof<'s>(&mut self) -> Result<Event<'s>, ClientError> {
        match self.rx {
            Rx::Head { .. } if !self.seen => Err(ClientError::Truncated(Cut::BeforeHead)),
            Rx::Head { .. } => Err(ClientError::Truncated(Cut::InHead)),
            Rx::Body(_) => Err(ClientError::Truncated(Cut::InBody)),
            Rx::UntilClose => {
                self.on_end(false);
                Ok(Event::End(Trailers::default()))
            }
            Rx::Idle | Rx::Ended | Rx::Closed | Rx::Switched => {
                self.abort();
                Ok(Event::Closed)
            }
        }
    }

    /// The server has closed its sending side. What that means the next events tell, when the input is
    /// used up: the end of a body, an answer that is cut off, or nothing but the connection's end.
    pub fn handle_eof(&mut self) {
        self.eof = true;
    }

    /// Reading goes on, after it had stopped by our own choice: the pause does not count.
    pub fn resume_body(&mut self, now: Instant) {
        self.last_input = now;
    }

    // ---- time

    /// When the server's present silence becomes too long. `reading` is false while input is left alone
    /// by our own choice: then its silence is not the server's. Nor is it while the request is not out,
    /// but for a head that has begun: the server may wait for the rest.
    pub fn next_deadline(&self, waits: &ClientWaits, reading: bool) -> Option<Instant> {
        match self.rx {
            Rx::Head { begun: true, .. } => Some(self.since + waits.read),
            _ if self.is_sending() => None,
            Rx::Head { .. } => Some(self.since + waits.first_byte),
            Rx::Body(_) | Rx::UntilClose if reading => Some(self.last_input + waits.read),
            _ => None,
        }
    }

    /// The deadline has passed: what for. The exchange is given up.
    pub fn expire(&mut self, waits: &ClientWaits) -> ClientError {
        let error = match self.rx {
            Rx::Head { begun: true, .. } => ClientError::HeadTimeout { limit: waits.read },
            Rx::Body(_) | Rx::UntilClose => ClientError::BodyTimeout { limit: waits.read },
            _ => ClientError::FirstByteTimeout {
                limit: waits.first_byte,
            },
        };
        self.abort();
        error
    }
}
