//! Floor 1. The payload of data frames: unmasked, decompressed, checked, and gathered if it has to be.
//!
//! ```text
//! input ──unmask──► whole and plain ─────────────────────────────────────► handed out where it is
//!                   in parts ────────────────► gathered, up to the limit ─► handed out from `Inbound`
//!                   compressed ──► scratch ──► gathered, or whole at once ┘
//! ```
//! Invariants: what is gathered of a text is UTF-8 but for a code point that is not complete; the inflater
//! writes no more than the scratch space at a time, so a message's size is looked at before it is kept.

use super::deflate::{Inflater, TAIL};
use super::error::Error;
use super::frame;
use super::session::{Event, Kind, Role, Session};

/// What a loop's sessions share for receiving.
#[derive(Debug, Default)]
pub struct Inbound {
    /// Where a compressed message is made plain.
    scratch: Vec<u8>,
    /// The gathered message last handed out.
    delivered: Content,
    #[expect(clippy::vec_box, reason = "the boxes go to and fro")]
    messages: Vec<Box<Message>>,
    inflaters: Vec<Inflater>,
}

/// Spare messages and inflaters that are kept.
const SPARES: usize = 8;
/// A spare buffer above this size is given back.
const SPARE_BUFFER: usize = 64 * 1024;
const SCRATCH: usize = 16 * 1024;
/// So much is unmasked for the inflater at once: what it does not take is masked again.
const STRIDE: usize = 4 * 1024;

/// A message's content so far. A text is kept as one, or it would be checked twice.
#[derive(Debug)]
enum Content {
    Text(String),
    Binary(Vec<u8>),
}

impl Default for Content {
    fn default() -> Content {
        Content::Binary(Vec::new())
    }
}

impl Content {
    fn len(&self) -> usize {
        match self {
            Content::Text(text) => text.len(),
            Content::Binary(bytes) => bytes.len(),
        }
    }

    /// Empty, of this kind, with the memory it has, unless that is much.
    fn renew(&mut self, kind: Kind) {
        let mut bytes = match std::mem::take(self) {
            Content::Text(text) => text.into_bytes(),
            Content::Binary(bytes) => bytes,
        };
        bytes.clear();
        if bytes.capacity() > SPARE_BUFFER {
            bytes = Vec::new();
        }
        *self = match kind {
            // An empty one is UTF-8.
            Kind::Text => Content::Text(String::from_utf8(bytes).unwrap_or_default()),
            Kind::Binary => Content::Binary(bytes),
        };
    }
}

/// A message of which a part has come.
#[derive(Debug, Default)]
pub(super) struct Message {
    content: Content,
    /// Of a compressed one, if the connection has none of its own.
    inflater: Option<Inflater>,
    /// How much of what was cut off a compressed message has been put back.
    tail: u8,
}

/// Where a found piece of a message is.
pub(super) enum Place<'a> {
    Input(&'a [u8]),
    /// So much of `Inbound::scratch`.
    Scratch(usize),
    /// `Inbound::delivered`.
    Delivered,
}

pub(super) enum Found<'a> {
    Control(Event<'a>),
    Data {
        place: Place<'a>,
        kind: Kind,
        first: bool,
        last: bool,
    },
}

impl<'a> Found<'a> {
    /// As the caller sees it.
    pub(super) fn into_event(
        self,
        streamed: bool,
        shared: &'a Inbound,
    ) -> Result<Event<'a>, Error> {
        let (place, kind, first, last) = match self {
            Found::Control(event) => return Ok(event),
            Found::Data {
                place,
                kind,
                first,
                last,
            } => (place, kind, first, last),
        };
        let data = match place {
            Place::Input(data) => data,
            Place::Scratch(len) => &shared.scratch[..len],
            Place::Delivered => {
                return Ok(match &shared.delivered {
                    Content::Text(text) => Event::Text(text),
                    Content::Binary(bytes) => Event::Binary(bytes),
                });
            }
        };
        match kind {
            _ if streamed => Ok(Event::Piece {
                kind,
                first,
                last,
                data,
            }),
            Kind::Binary => Ok(Event::Binary(data)),
            Kind::Text => std::str::from_utf8(data)
                .map(Event::Text)
                .map_err(|_| Error::Utf8),
        }
    }
}

impl Session {
    /// The next piece of a message that is not compressed.
    pub(super) fn take_plain<'a>(
        &mut self,
        input: &mut &'a mut [u8],
        shared: &mut Inbound,
    ) -> Result<Option<Found<'a>>, Error> {
        // There is a frame, so there is a kind.
        let kind = self.kind.unwrap_or(Kind::Binary);
        let n = self.at_hand(input);
        let piece = take(input, n);
        if self.role == Role::Server {
            frame::mask(piece, &mut self.mask);
        }
        let piece = &*piece;
        self.left -= n as u64;
        let last = self.left == 0 && self.end_frame();
        if self.streamed {
            return self.piece(kind, Place::Input(piece), piece, last);
        }
        if last && self.first {
            let (place, first) = (Place::Input(piece), true);
            return Ok(Some(Found::Data {
                place,
                kind,
                first,
                last,
            }));
        }
        self.gather(kind, piece, shared)?;
        if last {
            self.deliver(kind, shared)
        } else {
            Ok(None)
        }
    }

    /// The next piece of a compressed message: a stride of input, or as much as fills the scratch space.
    pub(super) fn inflate<'a>(
        &mut self,
        input: &mut &'a mut [u8],
        shared: &mut Inbound,
        limit: usize,
    ) -> Result<Option<Found<'a>>, Error> {
        let kind = self.kind.unwrap_or(Kind::Binary);
        let mut scratch = std::mem::take(&mut shared.scratch);
        scratch.resize(SCRATCH, 0);
        let mut inflater = self.take_inflater(shared);
        let mut filled = 0;
        // Until the scratch space is full, the message has ended, or the input has.
        let ended = loop {
            let at_hand = self.at_hand(input).min(STRIDE);
            if at_hand > 0 {
                let (used, written) = {
                    let stride = &mut input[..at_hand];
                    let mut key = self.mask;
                    if self.role == Role::Server {
                        frame::mask(stride, &mut key);
                    }
                    let done = inflater.inflate(stride, &mut scratch[filled..])?;
                    if self.role == Role::Server {
                        self.mask.rotate_left(done.0 % 4);
                        let mut key = self.mask;
                        frame::mask(&mut stride[done.0..], &mut key);
                    }
                    done
                };
                take(input, used);
                self.left -= used as u64;
                filled += written;
            } else if self.left > 0 || !self.fin {
                break false;
            } else {
                let message = self.message.get_or_insert_with(|| shared.message(kind));
                let rest = TAIL.get(usize::from(message.tail)..).unwrap_or_default();
                let (used, written) = inflater.inflate(rest, &mut scratch[filled..])?;
                message.tail += used as u8;
                filled += written;
                if filled < SCRATCH {
                    break true;
                }
            }
            if filled == SCRATCH {
                break false;
            }
        };
        let frame_ended = ended || (self.left == 0 && !self.fin && filled < SCRATCH);
        if frame_ended {
            self.end_frame();
        }
        let gathered = self.gathered();
        let found = if self.streamed {
            self.piece(kind, Place::Scratch(filled), &scratch[..filled], ended)
        } else if gathered + filled > limit {
            let (size, limit) = ((gathered + filled) as u64, limit as u64);
            Err(Error::TooLarge { size, limit })
        } else if ended && self.first {
            let (place, first) = (Place::Scratch(filled), true);
            Ok(Some(Found::Data {
                place,
                kind,
                first,
                last: true,
            }))
        } else {
            self.gather(kind, &scratch[..filled], shared).map(|()| None)
        };
        shared.scratch = scratch;
        self.put_inflater(inflater, ended, kind, shared);
        if ended && matches!(found, Ok(None)) {
            return self.deliver(kind, shared);
        }
        if ended && let Some(message) = self.message.take() {
            shared.recycle(message);
        }
        found
    }

    fn take_inflater(&mut self, shared: &mut Inbound) -> Inflater {
        let bits = self.inflates.map_or(15, |peer| peer.window_bits);
        let own = self
            .contexts
            .as_mut()
            .and_then(|contexts| contexts.inflater.take());
        if self.keeps_context() {
            return own.unwrap_or_else(|| Inflater::new(bits));
        }
        let begun = self
            .message
            .as_mut()
            .and_then(|message| message.inflater.take());
        // One of the pool serves every peer.
        let pooled = || shared.inflaters.pop().unwrap_or_else(|| Inflater::new(15));
        begun.unwrap_or_else(pooled)
    }

    fn put_inflater(
        &mut self,
        mut inflater: Inflater,
        ended: bool,
        kind: Kind,
        shared: &mut Inbound,
    ) {
        if self.keeps_context() {
            self.contexts.get_or_insert_default().inflater = Some(inflater);
        } else if !ended {
            let message = self.message.get_or_insert_with(|| shared.message(kind));
            message.inflater = Some(inflater);
        } else if shared.inflaters.len() < SPARES {
            inflater.reset();
            shared.inflaters.push(inflater);
        }
    }

    /// Bytes of the present message that were kept.
    pub(super) fn gathered(&self) -> usize {
        let content = self
            .message
            .as_ref()
            .map_or(0, |message| message.content.len());
        content + self.utf8.pending()
    }

    fn keeps_context(&self) -> bool {
        self.inflates.is_some_and(|peer| peer.takeover)
    }

    /// A piece on its way out of a streamed session.
    fn piece<'a>(
        &mut self,
        kind: Kind,
        place: Place<'a>,
        data: &[u8],
        last: bool,
    ) -> Result<Option<Found<'a>>, Error> {
        if kind == Kind::Text {
            self.utf8.feed(data, |_| ())?;
            if last {
                self.utf8.finish()?;
            }
        }
        if data.is_empty() && !last {
            return Ok(None);
        }
        let first = std::mem::replace(&mut self.first, false);
        Ok(Some(Found::Data {
            place,
            kind,
            first,
            last,
        }))
    }

    /// A piece of a message that has to wait for the rest.
    fn gather(&mut self, kind: Kind, piece: &[u8], shared: &mut Inbound) -> Result<(), Error> {
        if piece.is_empty() {
            return Ok(());
        }
        self.first = false;
        let message = self.message.get_or_insert_with(|| shared.message(kind));
        match &mut message.content {
            Content::Text(text) => self.utf8.feed(piece, |whole| text.push_str(whole))?,
            Content::Binary(bytes) => bytes.extend_from_slice(piece),
        }
        Ok(())
    }

    /// The gathered message is whole.
    fn deliver<'a>(
        &mut self,
        kind: Kind,
        shared: &mut Inbound,
    ) -> Result<Option<Found<'a>>, Error> {
        self.utf8.finish()?;
        if let Some(mut message) = self.message.take() {
            std::mem::swap(&mut shared.delivered, &mut message.content);
            shared.recycle(message);
        }
        let (place, first, last) = (Place::Delivered, true, true);
        Ok(Some(Found::Data {
            place,
            kind,
            first,
            last,
        }))
    }
}

impl Inbound {
    fn message(&mut self, kind: Kind) -> Box<Message> {
        let mut message = self.messages.pop().unwrap_or_default();
        message.content.renew(kind);
        message
    }

    fn recycle(&mut self, mut message: Box<Message>) {
        if self.messages.len() < SPARES {
            message.content.renew(Kind::Binary);
            (message.inflater, message.tail) = (None, 0);
            self.messages.push(message);
        }
    }
}

/// Takes `n` bytes, which are there, from the front.
pub(super) fn take<'a>(input: &mut &'a mut [u8], n: usize) -> &'a mut [u8] {
    let (taken, rest) = std::mem::take(input).split_at_mut(n);
    *input = rest;
    taken
}
