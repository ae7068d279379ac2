//! Floor 1. One WebSocket connection behind its handshake, either end: bytes in, messages out. (What is sent
//! is in `send.rs`; it is the same machine.)
//!
//! ```text
//! rx   Header ──data──► Payload ──end of frame──► Header        tx   open ──close()──► closed
//!        │
//!        └── Close frame, or an error ──► Over
//! ```
//! Order of use: `poll_event` with whatever input there is, until it says `None`; read more, put it behind
//! what was left, and poll again. Left is at most an unfinished header or control frame, 139 bytes. After
//! `Event::Ping`, `pong`; after `Event::Close`, `answer_close`; after an error, `fail`. When `is_closed`, what is
//! written goes out and the connection closes: the server first (RFC 6455 §7.1.1).
//!
//! A message that lies whole in the input is unmasked and handed out there: nothing is copied. Any other is
//! gathered, checked as it arrives, up to its limit; or, on a `streamed` session, handed out piece by piece.
//!
//! Invariants: what belongs to a message belongs to the session only while there is one, so an idle one is
//! these few words; after `Over` nothing is read, whatever arrives; once our Close is sent nothing follows it.
//! What is in `Inbound` between two calls is of no meaning to any session.

use super::deflate::Contexts;
use super::error::{self, Error};
use super::extension::{Agreed, Direction};
use super::frame::{self, Header, Opcode};
pub use super::receive::Inbound;
use super::receive::{Found, Message, take};
use super::utf8::Utf8;

/// Which end this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Sends unmasked, and takes only what is masked.
    Server,
    /// The other way round.
    Client,
}

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Anything.
    Binary,
}

impl Kind {
    /// Of a message's first frame.
    pub fn opcode(self) -> Opcode {
        match self {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        }
    }
}

/// What has arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// A message.
    Text(&'a str),
    /// A message.
    Binary(&'a [u8]),
    /// A piece of a message, on a streamed session. Pieces are as the network has them, not as the peer cut
    /// its frames; together those of a text are UTF-8, but one may end within a code point.
    Piece {
        /// Of the message.
        kind: Kind,
        /// The first piece of a message.
        first: bool,
        /// The last. It may be empty; no other is.
        last: bool,
        /// The piece.
        data: &'a [u8],
    },
    /// Answer it with a pong that says the same.
    Ping(&'a [u8]),
    /// Answers a ping, or nothing.
    Pong(&'a [u8]),
    /// The peer sends no more.
    Close {
        /// Why, if it said.
        code: Option<u16>,
        /// More about it.
        reason: &'a str,
    },
}

impl Event<'_> {
    /// Whether a message has come to its end.
    pub fn ends_message(&self) -> bool {
        match self {
            Event::Text(_) | Event::Binary(_) => true,
            Event::Piece { last, .. } => *last,
            Event::Ping(_) | Event::Pong(_) | Event::Close { .. } => false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rx {
    /// Before a frame.
    Header,
    /// Within a data frame.
    Payload,
    /// No more is read.
    Over,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Session {
    /// Payload of the present data frame that is still to come.
    pub(super) left: u64,
    pub(super) message: Option<Box<Message>>,
    pub(super) contexts: Option<Box<Contexts>>,
    /// A client's masking keys.
    pub(super) keys: fastrand::Rng,
    /// The present data frame's, turned to where its payload is.
    pub(super) mask: [u8; 4],
    pub(super) utf8: Utf8,
    /// What the peer's Close said, for its echo.
    peer_code: Option<u16>,
    rx: Rx,
    /// Of the message that has begun to arrive.
    pub(super) kind: Option<Kind>,
    /// The present data frame is its message's last.
    pub(super) fin: bool,
    pub(super) compressed: bool,
    /// No piece of the message was handed out, or kept.
    pub(super) first: bool,
    pub(super) streamed: bool,
    pub(super) role: Role,
    pub(super) sent_close: bool,
    /// A message that has begun to leave, and whether it is compressed.
    pub(super) sending: Option<(Kind, bool)>,
    pub(super) inflates: Option<Direction>,
    pub(super) deflates: Option<Direction>,
}

const _: () = assert!(size_of::<Session>() <= 64);

impl Session {
    /// A server's end of a connection whose handshake is done.
    pub fn server(deflate: Option<Agreed>) -> Session {
        Session::new(Role::Server, deflate, 0)
    }

    /// A client's end. Masking keys are drawn from `seed`, which nobody may guess (RFC 6455 §10.3).
    pub fn client(deflate: Option<Agreed>, seed: u64) -> Session {
        Session::new(Role::Client, deflate, seed)
    }

    fn new(role: Role, deflate: Option<Agreed>, seed: u64) -> Session {
        let (server, client) = deflate.map(|both| (both.server, both.client)).unzip();
        let (inflates, deflates) = match role {
            Role::Server => (client, server),
            Role::Client => (server, client),
        };
        Session {
            left: 0,
            message: None,
            contexts: None,
            keys: fastrand::Rng::with_seed(seed),
            mask: [0; 4],
            utf8: Utf8::default(),
            peer_code: None,
            rx: Rx::Header,
            kind: None,
            fin: false,
            compressed: false,
            first: false,
            streamed: false,
            role,
            sent_close: false,
            sending: None,
            inflates,
            deflates,
        }
    }

    /// Messages are handed out piece by piece, of any length. To be said before the first.
    pub fn set_streamed(&mut self, streamed: bool) {
        self.streamed = streamed;
    }

    // ---- what a caller may ask

    /// Messages may be sent.
    pub fn is_open(&self) -> bool {
        !self.sent_close && self.rx != Rx::Over
    }

    /// Our Close is sent, and the peer's has not come.
    pub fn is_closing(&self) -> bool {
        self.sent_close && self.rx != Rx::Over
    }

    /// Nothing more will be sent or read.
    pub fn is_closed(&self) -> bool {
        self.sent_close && self.rx == Rx::Over
    }

    /// A message has begun to arrive, and has not ended.
    pub fn is_receiving(&self) -> bool {
        self.kind.is_some()
    }

    /// The peer has closed its sending side. Says whether that came without a Close: 1006, to the app.
    pub fn handle_eof(&mut self) -> bool {
        self.release();
        std::mem::replace(&mut self.rx, Rx::Over) != Rx::Over
    }

    pub(super) fn peer_code(&self) -> Option<u16> {
        self.peer_code
    }

    // ---- input

    /// Takes the next event from the front of `input`, which is unmasked in place. `None`: read more. No
    /// whole message longer than `limit` is taken, nor its payload waited for.
    ///
    /// ```
    /// use loopwright::proto::ws::session::{Event, Inbound, Session};
    ///
    /// let (mut session, mut shared) = (Session::server(None), Inbound::default());
    /// let mut arrived = *b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    /// let mut input = &mut arrived[..];
    /// let event = session.poll_event(&mut input, &mut shared, 1 << 20)?;
    /// assert_eq!(event, Some(Event::Text("Hello")));
    /// assert!(input.is_empty());
    /// # Ok::<(), loopwright::proto::ws::Error>(())
    /// ```
    ///
    /// # Errors
    /// What the connection fails for: see [`Session::fail`].
    pub fn poll_event<'a, 's>(
        &mut self,
        input: &mut &'a mut [u8],
        shared: &'s mut Inbound,
        limit: usize,
    ) -> Result<Option<Event<'s>>, Error>
    where
        'a: 's,
    {
        let event = match self.advance(input, shared, limit) {
            Ok(None) => return Ok(None),
            Ok(Some(found)) => found.into_event(self.streamed, shared),
            Err(error) => Err(error),
        };
        if event.is_err() {
            self.rx = Rx::Over;
            self.release();
        }
        event.map(Some)
    }

    /// Gives up what belongs to a message, and to those that would have come.
    fn release(&mut self) {
        (self.message, self.kind) = (None, None);
        if let Some(contexts) = &mut self.contexts {
            contexts.inflater = None;
        }
    }

    fn advance<'a>(
        &mut self,
        input: &mut &'a mut [u8],
        shared: &mut Inbound,
        limit: usize,
    ) -> Result<Option<Found<'a>>, Error> {
        loop {
            let found = match self.rx {
                Rx::Over => {
                    *input = &mut [];
                    return Ok(None);
                }
                Rx::Header => {
                    let masked = self.role == Role::Server;
                    let Some((header, len)) = Header::decode(input, masked)? else {
                        return Ok(None);
                    };
                    self.check(&header, limit)?;
                    if !header.opcode.is_control() {
                        take(input, len);
                        self.begin(&header);
                        None
                    } else if input.len() - len < header.len as usize {
                        return Ok(None);
                    } else {
                        take(input, len);
                        let payload = take(input, header.len as usize);
                        self.on_control(&header, payload)?
                    }
                }
                Rx::Payload if self.sent_close => {
                    // Ours is sent: nobody wants what comes before theirs.
                    if !self.drop_payload(input) {
                        return Ok(None);
                    }
                    None
                }
                Rx::Payload if self.left > 0 && input.is_empty() => return Ok(None),
                Rx::Payload if self.compressed => self.inflate(input, shared, limit)?,
                Rx::Payload => self.take_plain(input, shared)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// What a header may not be here.
    fn check(&self, header: &Header, limit: usize) -> Result<(), Error> {
        let begins = matches!(header.opcode, Opcode::Text | Opcode::Binary);
        if header.rsv1 && !(begins && self.inflates.is_some()) {
            return Err(Error::Protocol("a reserved bit"));
        }
        match header.opcode {
            Opcode::Continuation if self.kind.is_none() => {
                return Err(Error::Protocol("a continuation of nothing"));
            }
            Opcode::Text | Opcode::Binary if self.kind.is_some() => {
                return Err(Error::Protocol("a message within another"));
            }
            _ => {}
        }
        let compressed = header.rsv1 || (!begins && self.compressed);
        if header.opcode.is_control() || compressed || self.streamed || self.sent_close {
            return Ok(());
        }
        let size = header.len.saturating_add(self.gathered() as u64);
        if size > limit as u64 {
            return Err(Error::TooLarge {
                size,
                limit: limit as u64,
            });
        }
        Ok(())
    }

    /// A data frame begins.
    fn begin(&mut self, header: &Header) {
        let kind = match header.opcode {
            Opcode::Text => Some(Kind::Text),
            Opcode::Binary => Some(Kind::Binary),
            _ => None,
        };
        if kind.is_some() {
            self.kind = kind;
            self.compressed = header.rsv1;
            self.first = true;
        }
        self.rx = Rx::Payload;
        self.left = header.len;
        self.fin = header.fin;
        self.mask = header.mask.unwrap_or_default();
    }

    /// The payload of the present frame has been taken; says whether the message ends with it.
    pub(super) fn end_frame(&mut self) -> bool {
        self.rx = Rx::Header;
        if self.fin {
            self.kind = None;
        }
        self.fin
    }

    fn drop_payload(&mut self, input: &mut &mut [u8]) -> bool {
        self.message = None;
        let n = self.at_hand(input);
        take(input, n);
        self.left -= n as u64;
        if self.left == 0 {
            self.end_frame();
        }
        self.left == 0
    }

    /// How much of the present frame's payload is in the input.
    pub(super) fn at_hand(&self, input: &[u8]) -> usize {
        usize::try_from(self.left).map_or(input.len(), |left| left.min(input.len()))
    }

    fn on_control<'a>(
        &mut self,
        header: &Header,
        payload: &'a mut [u8],
    ) -> Result<Option<Found<'a>>, Error> {
        if let Some(mut key) = header.mask {
            frame::mask(payload, &mut key);
        }
        let payload = &*payload;
        let event = match header.opcode {
            Opcode::Close => {
                let (code, reason) = match payload {
                    [] => (None, payload),
                    [_] => return Err(Error::Protocol("a Close of one byte")),
                    [a, b, reason @ ..] => (Some(u16::from_be_bytes([*a, *b])), reason),
                };
                if !code.is_none_or(error::is_close_code) {
                    return Err(Error::Protocol("a code that no Close may have"));
                }
                let reason = std::str::from_utf8(reason).map_err(|_| Error::Utf8)?;
                self.rx = Rx::Over;
                self.peer_code = code;
                self.release();
                Event::Close { code, reason }
            }
            _ if self.sent_close => return Ok(None),
            Opcode::Ping => Event::Ping(payload),
            _ => Event::Pong(payload),
        };
        Ok(Some(Found::Control(event)))
    }
}
