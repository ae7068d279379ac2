//! Floor 1. One HTTP/1.1 connection, the server's half: what is due next, and until when.
//!
//! Two sides that take turns, exchange by exchange:
//!
//! ```text
//! rx   Head ──request──► Body ──end──► Ended        tx   Idle ──request──► Waiting
//!        ▲                 │             │                 ▲                  │ begin
//!        │          answer is out        │                 │                  ▼
//!        │                 ▼             │                 └────── end ──── Body(encoder)
//!        │              Discard ──end──► ┤
//!        └────── both sides done ────────┘        no more of this client: rx = Closed
//!                                                  it speaks another protocol: rx = Switched
//! ```
//! Order of use: `poll_event` with whatever input there is, until it says `NeedInput`, `Paused` or
//! `Closed`; after `Request`, `limit_body`, and one `begin_answer … end_answer`, now or later; then
//! `next_deadline`, and `expire` when it has passed.
//!
//! Invariants: a request is reported only when the answer to the one before is complete, so answers
//! leave in order; after `Closed` nothing more is read as a message, whatever arrives.

use super::answer::{self, Announce, FieldBlock, Persistence};
use super::body::{Decoder, Encoder, Piece, Trailers};
use super::error::Error;
use super::head::{self, Framing, Head, HeadLimits, Slots};
use crate::base::clock::{Instant, StockFields};
use http::{Method, StatusCode};
use std::time::Duration;

/// Waits of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// For a whole head, from its first byte (from the accept for a connection's first).
    pub head: Duration,
    /// Between two pieces of a body.
    pub body: Duration,
    /// The least rate of a body, in bytes per second; 0 for none.
    pub body_rate: u64,
    /// How long a body is given before its rate counts.
    pub body_grace: Duration,
    /// For the next request on a kept connection.
    pub idle: Duration,
}

/// Bounds that the machine itself applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// For heads.
    pub head: HeadLimits,
    /// How much of an unwanted body is read and dropped to keep the connection.
    pub discard: u64,
    /// Waits.
    pub waits: Waits,
}

/// What happened next on a connection.
#[derive(Debug)]
pub enum Event<'a> {
    /// A request's head. Answer it, now or later.
    Request(Head<'a>),
    /// A piece of its body.
    Data(&'a [u8]),
    /// The body is complete.
    End(Trailers<'a>),
    /// All that came has been seen: read more.
    NeedInput,
    /// The answer is not complete: what is left of the input belongs to the next request.
    Paused,
    /// The connection takes no more requests; input is worthless.
    Closed,
    /// Another protocol was agreed on: what is left of the input is its.
    Switched,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rx {
    Head {
        scanned: u32,
        begun: bool,
        blank_lines: u8,
    },
    Body(Decoder),
    Discard {
        decoder: Decoder,
        left: u64,
    },
    Ended,
    Closed,
    Switched,
}

impl Rx {
    const NEXT_HEAD: Rx = Rx::Head {
        scanned: 0,
        begun: false,
        blank_lines: 0,
    };
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tx {
    Idle,
    Waiting,
    Body(Encoder),
}

/// How long the body of an answer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// All of it follows at once.
    Whole(u64),
    /// It is streamed, and its length is known.
    Sized(u64),
    /// It is streamed, and ends when it ends.
    Open,
}

/// What has to be done about a deadline that passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expired {
    /// Answer with this error's status and close.
    Refuse(Error),
    /// Just close: the client has sent nothing that could be answered.
    Close,
}

/// The server's half of one connection.
#[derive(Debug)]
pub struct Server {
    rx: Rx,
    tx: Tx,
    exchange: u32,
    status: u16,
    keep_alive: bool,
    http_10: bool,
    is_head: bool,
    is_connect: bool,
    expects_continue: bool,
    /// The client expects to go on after this exchange.
    client_keeps: bool,
    /// The first request has not begun.
    fresh: bool,
    /// No more exchanges after the present one.
    last: bool,
    /// Closed while the client may still be sending.
    unread: bool,
    /// The present wait of `rx` began.
    since: Instant,
    /// Input last arrived.
    last_input: Instant,
    /// Bytes of the body since `since`, for its rate.
    rate_bytes: u64,
    /// We last stopped reading.
    held_at: Instant,
    received: u64,
    body_limit: u64,
    sent: u64,
}

impl Server {
    /// A connection accepted at `now`.
    pub fn new(now: Instant) -> Server {
        Server {
            rx: Rx::NEXT_HEAD,
            tx: Tx::Idle,
            exchange: 0,
            status: 0,
            keep_alive: true,
            http_10: false,
            is_head: false,
            is_connect: false,
            expects_continue: false,
            client_keeps: true,
            fresh: true,
            last: false,
            unread: false,
            since: now,
            last_input: now,
            rate_bytes: 0,
            held_at: now,
            received: 0,
            body_limit: u64::MAX,
            sent: 0,
        }
    }

    /// Nothing of this connection is HTTP.
    pub fn hand_over(&mut self) {
        (self.rx, self.tx) = (Rx::Switched, Tx::Idle);
    }

    // ---- what a caller may ask

    /// The number of the present (or last) exchange.
    pub fn exchange(&self) -> u32 {
        self.exchange
    }

    /// A request has been reported and its answer is not complete.
    pub fn is_answering(&self) -> bool {
        self.tx != Tx::Idle
    }

    /// A request has been reported and its answer has not begun.
    pub fn is_waiting(&self) -> bool {
        self.tx == Tx::Waiting
    }

    /// The present request is a `HEAD`: its answer has no body.
    pub fn is_head(&self) -> bool {
        self.is_head
    }

    /// The present answer's body is being streamed.
    pub fn is_streaming(&self) -> bool {
        matches!(self.tx, Tx::Body(_))
    }

    /// Only the end of the connection ends the present answer.
    pub fn ends_with_connection(&self) -> bool {
        self.tx == Tx::Body(Encoder::UntilClose)
    }

    /// No more requests will come from here.
    pub fn is_closed(&self) -> bool {
        self.rx == Rx::Closed
    }

    /// Closed while the client may still be sending: its socket must not be closed in its face.
    pub fn left_unread(&self) -> bool {
        self.unread
    }

    /// Part of a body that nobody wants is still on its way.
    pub fn is_discarding(&self) -> bool {
        matches!(self.rx, Rx::Discard { .. })
    }

    /// The request's body has not arrived whole.
    pub fn has_body_to_come(&self) -> bool {
        matches!(self.rx, Rx::Body(_))
    }

    /// Between two requests, and not one byte of the next has come.
    pub fn is_idle(&self) -> bool {
        self.tx == Tx::Idle && matches!(self.rx, Rx::Head { begun: false, .. })
    }

    /// The bound of the present (or last) request's body.
    pub fn body_limit(&self) -> u64 {
        self.body_limit
    }

    /// Status of the present (or last) answer.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Body bytes of the present (or last) answer.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    // ---- input

    /// Takes the next event from the front of `input`.
    pub fn poll_event<'a, 's>(
        &mut self,
        input: &mut &'a [u8],
        slots: &'s mut Slots<'a>,
        bounds: &Bounds,
        now: Instant,
    ) -> Result<Event<'s>, Error>
    where
        'a: 's,
    {
        if !input.is_empty() {
            self.last_input = now;
        }
        loop {
            match &mut self.rx {
                Rx::Closed => {
                    *input = &[];
                    return Ok(Event::Closed);
                }
                Rx::Ended => return Ok(Event::Paused),
                Rx::Switched => return Ok(Event::Switched),
                Rx::Head {
                    scanned,
                    begun,
                    blank_lines,
                } => {
                    // RFC 9112 §2.2: a robust server ignores an empty line before a request.
                    while let Some(rest) = input.strip_prefix(b"\r\n").filter(|_| *blank_lines < 4)
                    {
                        *blank_lines += 1;
                        *input = rest;
                    }
                    // A refusal is answered as the method asks, too.
                    self.is_head = input.starts_with(b"HEAD ");
                    match **input {
                        [] => return Ok(Event::NeedInput),
                        // Not the beginning of a request, but perhaps of another empty line.
                        [b'\r'] if *blank_lines < 4 => return Ok(Event::NeedInput),
                        [b'\r' | b'\n', ..] => return Err(Error::Malformed("empty lines")),
                        // RFC 8446 §5.1: the first bytes of a handshake.
                        [0x16, 0x03, ..] => {
                            return Err(Error::Malformed("TLS, on a port that speaks none"));
                        }
                        _ => {}
                    }
                    let first_look = !std::mem::replace(begun, true);
                    if first_look && !self.fresh {
                        self.since = now;
                    }
                    let mut from = *scanned as usize;
                    let head = head::read(input, &mut from, first_look, slots, &bounds.head)?;
                    *scanned = from as u32;
                    let Some(head) = head else {
                        return Ok(Event::NeedInput);
                    };
                    *input = &input[head.raw.len()..];
                    self.on_head(&head, now);
                    return Ok(Event::Request(head));
                }
                Rx::Body(decoder) => {
                    let piece = decoder.poll(input)?;
                    let (taken, rest) = input.split_at(piece.len());
                    match piece {
                        Piece::NeedInput => return Ok(Event::NeedInput),
                        Piece::Framing(_) => {
                            // A chunk that is too large is refused before a byte of it is read.
                            let size = self.received.saturating_add(decoder.announced());
                            if size > self.body_limit {
                                return Err(Error::BodyTooLarge {
                                    size,
                                    limit: self.body_limit,
                                });
                            }
                            *input = rest;
                        }
                        Piece::Data(n) => {
                            self.received += n as u64;
                            self.rate_bytes += n as u64;
                            *input = rest;
                            self.expects_continue = false;
                            return Ok(Event::Data(taken));
                        }
                        Piece::End(_) => {
                            *input = rest;
                            self.rx = Rx::Ended;
                            return Trailers::check(taken).map(Event::End);
                        }
                    }
                }
                Rx::Discard { decoder, left } => {
                    let Ok(piece) = decoder.poll(input) else {
                        // The answer is out: there is nothing left to say to it.
                        self.close_unread();
                        continue;
                    };
                    let (taken, rest) = input.split_at(piece.len());
                    *input = rest;
                    match piece {
                        Piece::NeedInput => return Ok(Event::NeedInput),
                        Piece::Framing(n) | Piece::Data(n) if *left < n as u64 => {
                            self.close_unread()
                        }
                        Piece::Framing(n) | Piece::Data(n) => {
                            *left -= n as u64;
                            self.rate_bytes += n as u64;
                        }
                        // As strict as if somebody wanted it: it says where the next request begins.
                        Piece::End(_) if Trailers::check(taken).is_err() => self.close_unread(),
                        Piece::End(_) => self.await_next(now),
                    }
                }
            }
        }
    }

    fn on_head(&mut self, head: &Head<'_>, now: Instant) {
        self.exchange = self.exchange.wrapping_add(1);
        self.rx = match head.framing {
            Framing::None => Rx::Ended,
            Framing::Length(n) => Rx::Body(Decoder::Length(n)),
            Framing::Chunked => Rx::Body(Decoder::CHUNKED),
        };
        self.tx = Tx::Waiting;
        self.is_connect = head.method == Method::CONNECT;
        // What follows a CONNECT may be meant for the tunnel that there is not: no request is read from it.
        self.keep_alive = head.keep_alive && !self.is_connect;
        self.client_keeps = head.keep_alive;
        self.http_10 = head.http_10;
        self.is_head = head.method == Method::HEAD;
        self.expects_continue = head.expects_continue;
        self.fresh = false;
        self.since = now;
        (self.rate_bytes, self.received, self.sent, self.status) = (0, 0, 0, 0);
    }

    /// Bounds the body of the request just reported. An announced length over it is refused here,
    /// before a byte of the body is read.
    pub fn limit_body(&mut self, limit: u64) -> Result<(), Error> {
        self.body_limit = limit;
        match self.rx {
            Rx::Body(Decoder::Length(size)) if size > limit => {
                Err(Error::BodyTooLarge { size, limit })
            }
            _ => Ok(()),
        }
    }

    /// Takes the body as one slice, if its length was announced and all of it has arrived.
    /// A request without a body has the empty one.
    pub fn take_whole_body<'a>(&mut self, input: &mut &'a [u8]) -> Option<&'a [u8]> {
        let n = match self.rx {
            Rx::Ended => 0,
            Rx::Body(Decoder::Length(n)) => {
                usize::try_from(n).ok().filter(|&n| n <= input.len())?
            }
            _ => return None,
        };
        let (body, rest) = input.split_at(n);
        *input = rest;
        self.received = n as u64;
        self.rx = Rx::Ended;
        self.expects_continue = false;
        Some(body)
    }

    /// The body is wanted: tells a client that waits for leave to send it (RFC 9110 §10.1.1).
    pub fn want_body(&mut self, out: &mut Vec<u8>) {
        if self.expects_continue && self.tx == Tx::Waiting && self.has_body_to_come() {
            out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.expects_continue = false;
    }

    /// Sends an interim answer (RFC 9110 §15.2), if the answer has not begun and the client can be sent one.
    pub fn inform(&mut self, out: &mut Vec<u8>, status: StatusCode, fields: &FieldBlock) {
        if self.tx == Tx::Waiting && !self.http_10 && fields.fault().is_none() {
            answer::status_line(out, status);
            out.extend_from_slice(fields.lines());
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Reading stops, by our own choice.
    pub fn hold_body(&mut self, now: Instant) {
        self.held_at = now;
    }

    /// Reading goes on. The pause does not count; what the client's rate was before does, or one byte
    /// for each pause would be enough.
    pub fn resume_body(&mut self, now: Instant) {
        self.since = self.since + (now - self.held_at);
        self.last_input = now;
    }

    /// The client has closed its sending side. Says whether a request was cut off by it.
    pub fn handle_eof(&mut self) -> bool {
        let cut = matches!(self.rx, Rx::Body(_) | Rx::Head { begun: true, .. });
        self.last = true;
        self.client_keeps = false;
        if !matches!(self.rx, Rx::Ended | Rx::Switched) {
            self.rx = Rx::Closed;
        }
        cut
    }

    /// The client has taken all of its answers: the wait for the next request begins.
    pub fn answer_taken(&mut self, now: Instant) {
        if self.is_idle() {
            self.since = now;
        }
    }

    /// The present exchange is the last; an idle connection may close at once.
    pub fn drain(&mut self) {
        self.last = true;
    }

    // ---- output

    /// Writes the head of the answer. The body, if it is `Some`, follows through the encoder.
    pub fn begin_answer(
        &mut self,
        out: &mut Vec<u8>,
        status: StatusCode,
        fields: &FieldBlock,
        stock: &StockFields,
        extent: Extent,
        discard: u64,
    ) {
        let is_bodiless = status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
            // RFC 9110 §9.3.6: what would follow is the tunnel.
            || (self.is_connect && status.is_success());
        let (announce, encoder) = match extent {
            _ if is_bodiless => (Announce::Nothing, Encoder::Suppressed),
            // RFC 9110 §15.3.6: no content, and it has to say so.
            _ if status == StatusCode::RESET_CONTENT => (Announce::Length(0), Encoder::Suppressed),
            Extent::Whole(n) | Extent::Sized(n) => (Announce::Length(n), Encoder::Length(n)),
            Extent::Open if self.http_10 => (Announce::Nothing, Encoder::UntilClose),
            Extent::Open => (Announce::Chunked, Encoder::Chunked),
        };
        let whole = encoder == Encoder::Suppressed || matches!(extent, Extent::Whole(_));
        self.keep_alive &= !self.last && !fields.wants_close() && encoder != Encoder::UntilClose;
        // A client that was not told to go on will not be any more, however long the answer takes.
        if (whole || self.expects_continue) && !self.can_discard(discard) {
            self.keep_alive = false;
        }
        let persistence = match (self.keep_alive, self.http_10) {
            (false, _) => Persistence::Close,
            (true, false) => Persistence::Implied,
            (true, true) => Persistence::KeepAlive,
        };
        answer::encode(out, status, fields, stock, announce, persistence);
        self.status = status.as_u16();
        self.tx = Tx::Body(if self.is_head {
            Encoder::Suppressed
        } else {
            encoder
        });
    }

    /// Answers 101: what follows on this connection, both ways, is another protocol's (RFC 9110 §7.8).
    /// `fields` name it. Only for a request without a body, whose answer has not begun.
    pub fn switch_protocols(
        &mut self,
        out: &mut Vec<u8>,
        fields: &FieldBlock,
        stock: &StockFields,
    ) {
        let status = StatusCode::SWITCHING_PROTOCOLS;
        let (nothing, switch) = (Announce::Nothing, Persistence::Switch);
        answer::encode(out, status, fields, stock, nothing, switch);
        self.status = status.as_u16();
        (self.rx, self.tx) = (Rx::Switched, Tx::Idle);
    }

    /// Whether the rest of the request's body is short enough to be read and dropped. A client
    /// that still waits for `100 Continue` may send it or not: there is no telling what comes next.
    fn can_discard(&self, discard: u64) -> bool {
        match self.rx {
            Rx::Body(_) if self.expects_continue => false,
            Rx::Body(Decoder::Length(left)) => left <= discard,
            _ => true,
        }
    }

    /// Frames `len` bytes of the answer's body: what goes before into `out`; how many of the bytes
    /// to send; what goes after.
    pub fn frame_body(&mut self, len: usize, out: &mut Vec<u8>) -> (usize, &'static [u8]) {
        let Tx::Body(encoder) = &mut self.tx else {
            return (0, b"");
        };
        let (n, after) = encoder.frame(len, out);
        self.sent += n as u64;
        (n, after)
    }

    /// Whether the body of the present answer goes on the wire at all.
    pub fn sends_body(&self) -> bool {
        matches!(self.tx, Tx::Body(encoder) if encoder != Encoder::Suppressed)
    }

    /// Counts `len` bytes of a file that goes out behind the head. Returns how many to send.
    pub fn frame_file(&mut self, len: u64) -> u64 {
        match &mut self.tx {
            Tx::Body(Encoder::Length(left)) => {
                let n = len.min(*left);
                *left -= n;
                self.sent += n;
                n
            }
            _ => 0,
        }
    }

    /// The answer is complete. `trailers` are field lines, sent only after a chunked body. `false`: it
    /// is shorter than was announced, and the connection closes to say so.
    pub fn end_answer(
        &mut self,
        trailers: &[u8],
        out: &mut Vec<u8>,
        discard: u64,
        now: Instant,
    ) -> bool {
        let Tx::Body(encoder) = self.tx else {
            return false;
        };
        let is_whole = encoder.finish(trailers, out);
        self.keep_alive &= is_whole;
        self.tx = Tx::Idle;
        let goes_on = self.keep_alive && !self.last;
        match self.rx {
            Rx::Body(decoder) if goes_on && self.can_discard(discard) => {
                (self.since, self.last_input, self.rate_bytes) = (now, now, 0);
                self.rx = Rx::Discard {
                    decoder,
                    left: discard,
                };
            }
            Rx::Body(_) => self.close_unread(),
            _ if goes_on => self.await_next(now),
            _ => self.close_unread(),
        }
        is_whole
    }

    /// No more of this client: the answer cannot be completed, or there is nothing more to say.
    pub fn abort(&mut self) {
        self.tx = Tx::Idle;
        if self.rx != Rx::Closed {
            self.close_unread();
        }
    }

    fn close_unread(&mut self) {
        // A client that has not asked for the end may have sent its next request already.
        self.unread = self.rx != Rx::Ended || self.client_keeps;
        self.rx = Rx::Closed;
    }

    fn await_next(&mut self, now: Instant) {
        if self.last {
            return self.close_unread();
        }
        self.rx = Rx::NEXT_HEAD;
        self.since = now;
    }

    /// Answers a refusal, if an answer can still be given, and takes no more requests.
    pub fn refuse(&mut self, error: Error, out: &mut Vec<u8>, stock: &StockFields) {
        if !self.is_streaming() {
            let mut fields = FieldBlock::default();
            fields.close();
            fields.default_text();
            let status = error.status();
            let text = status.canonical_reason().unwrap_or("");
            self.tx = Tx::Waiting;
            self.begin_answer(
                out,
                status,
                &fields,
                stock,
                Extent::Whole(text.len() as u64),
                0,
            );
            if self.frame_body(text.len(), out).0 > 0 {
                out.extend_from_slice(text.as_bytes());
            }
        }
        self.abort();
        self.unread = true;
    }

    // ---- time

    /// When the client's present silence becomes too long. `reading` is false while input is left
    /// alone by our own choice: then its silence is not the client's.
    pub fn next_deadline(&self, waits: &Waits, reading: bool) -> Option<Instant> {
        match self.rx {
            Rx::Head { begun: false, .. } if !self.fresh => Some(self.since + waits.idle),
            Rx::Head { .. } => Some(self.since + waits.head),
            Rx::Body(_) if reading => Some(self.body_deadline(waits)),
            Rx::Discard { .. } => Some(self.body_deadline(waits)),
            Rx::Body(_) | Rx::Ended | Rx::Closed | Rx::Switched => None,
        }
    }

    fn body_deadline(&self, waits: &Waits) -> Instant {
        let silence = self.last_input + waits.body;
        match self
            .rate_bytes
            .checked_mul(1_000_000)
            .map(|micros| micros.checked_div(waits.body_rate))
        {
            // At this moment what has come is less than the rate asks for, unless more comes.
            Some(Some(micros)) => {
                silence.min(self.since + Duration::from_micros(micros).max(waits.body_grace))
            }
            _ => silence,
        }
    }

    /// The deadline has passed.
    pub fn expire(&self, waits: &Waits, now: Instant) -> Expired {
        match self.rx {
            Rx::Head { begun: true, .. } => {
                Expired::Refuse(Error::HeadTimeout { limit: waits.head })
            }
            Rx::Body(_) if now >= self.last_input + waits.body => {
                Expired::Refuse(Error::BodyTimeout { limit: waits.body })
            }
            Rx::Body(_) => Expired::Refuse(Error::BodyTooSlow {
                size: self.rate_bytes,
                within: now - self.since,
                limit: waits.body_rate,
            }),
            _ => Expired::Close,
        }
    }
}
