//! Floor 1. What a session sends: messages whole, in fragments, or made once for many; pings, pongs, and
//! the Close.
//!
//! Everything is appended to a buffer of the caller's. A message is sent plain if it is shorter than the
//! threshold, and otherwise compressed if that was agreed on. A compressor is taken from the loop's pool for
//! one message at a time, unless it was agreed that messages may refer to those before.

use super::deflate::Deflater;
use super::error::{Error, is_close_code};
use super::frame::{self, Header, MAX_CONTROL, Opcode};
use super::session::{Kind, Role, Session};
use bytes::Bytes;
use std::cell::OnceCell;
use std::fmt;

/// What a loop's sessions share for sending.
#[derive(Debug)]
pub struct Outbound {
    deflaters: Vec<Deflater>,
    scratch: Vec<u8>,
    level: u8,
    threshold: usize,
}

/// Spare compressors that are kept.
const SPARES: usize = 4;
/// A spare buffer above this size is given back.
const SPARE_BUFFER: usize = 64 * 1024;

impl Default for Outbound {
    /// A quick level; nothing is compressed that fits into a packet with room to spare.
    fn default() -> Outbound {
        Outbound::new(1, 256)
    }
}

impl Outbound {
    /// Compresses with this level, 0 to 9. Messages shorter than `threshold` are sent plain, and those that
    /// compressing makes no shorter; with 0, all are compressed.
    pub fn new(level: u8, threshold: usize) -> Outbound {
        Outbound {
            deflaters: Vec::new(),
            scratch: Vec::new(),
            level,
            threshold,
        }
    }

    fn deflater(&mut self, window_bits: u8) -> Deflater {
        let fits = |spare: &Deflater| spare.window_bits() == window_bits;
        match self.deflaters.iter().position(fits) {
            Some(at) => self.deflaters.swap_remove(at),
            None => Deflater::new(self.level, window_bits),
        }
    }

    fn recycle(&mut self, mut deflater: Deflater) {
        if self.deflaters.len() < SPARES {
            deflater.reset();
            self.deflaters.push(deflater);
        }
    }

    fn is_worth_it(&self, plain: usize, compressed: usize) -> bool {
        compressed < plain || self.threshold == 0
    }

    fn trim(&mut self) {
        self.scratch.clear();
        if self.scratch.capacity() > SPARE_BUFFER {
            self.scratch = Vec::new();
        }
    }
}

/// What cannot be sent. Nothing was appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SendError {
    /// A Close has been sent: nothing may follow it.
    Closed,
    /// A message is being sent in fragments, and another cannot come between; or this one is of another kind.
    Fragmented,
    /// More than 125 bytes in a ping or pong, or 123 in a Close's reason.
    TooLong,
    /// A code that no Close may have.
    Code,
    /// Only a server sends what is not masked.
    Masked,
    /// The compressor failed.
    Deflate,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Closed => "the WebSocket is closed",
            SendError::Fragmented => "another message is being sent in fragments",
            SendError::TooLong => "too long for a control frame",
            SendError::Code => "not a code for a Close",
            SendError::Masked => "a client masks what it sends",
            SendError::Deflate => "the compressor failed",
        })
    }
}

impl std::error::Error for SendError {}

impl Session {
    /// Appends a text message.
    ///
    /// ```
    /// use loopwright::proto::ws::send::Outbound;
    /// use loopwright::proto::ws::session::Session;
    ///
    /// let (mut session, mut shared) = (Session::server(None), Outbound::default());
    /// let mut out = Vec::new();
    /// session.send_text("Hello", &mut out, &mut shared)?;
    /// assert_eq!(out, b"\x81\x05Hello");
    /// # Ok::<(), loopwright::proto::ws::send::SendError>(())
    /// ```
    ///
    /// # Errors
    /// What may not be sent now.
    pub fn send_text(
        &mut self,
        text: &str,
        out: &mut Vec<u8>,
        shared: &mut Outbound,
    ) -> Result<(), SendError> {
        self.send(Kind::Text, text.as_bytes(), out, shared)
    }

    /// Appends a binary message.
    ///
    /// # Errors
    /// What may not be sent now.
    pub fn send_binary(
        &mut self,
        data: &[u8],
        out: &mut Vec<u8>,
        shared: &mut Outbound,
    ) -> Result<(), SendError> {
        self.send(Kind::Binary, data, out, shared)
    }

    /// Appends a message. A text has to be UTF-8, which is the caller's to see to.
    ///
    /// # Errors
    /// What may not be sent now.
    pub fn send(
        &mut self,
        kind: Kind,
        payload: &[u8],
        out: &mut Vec<u8>,
        shared: &mut Outbound,
    ) -> Result<(), SendError> {
        self.may_send(None)?;
        if self.deflates.is_none() || payload.len() < shared.threshold {
            self.put(kind.opcode(), true, false, payload, out);
            return Ok(());
        }
        self.compress(payload, true, shared)?;
        // With a context of its own the compressor has seen it, so the peer has to see it as well.
        let compressed = self.deflates.is_some_and(|ours| ours.takeover)
            || shared.is_worth_it(payload.len(), shared.scratch.len());
        let wire = if compressed { &shared.scratch } else { payload };
        self.put(kind.opcode(), true, compressed, wire, out);
        shared.trim();
        Ok(())
    }

    /// Appends the header alone of a message that a server sends as it is; the payload has to follow. `false`:
    /// not this one, and nothing was appended.
    pub(crate) fn plain_header(
        &self,
        kind: Kind,
        len: usize,
        out: &mut Vec<u8>,
        shared: &Outbound,
    ) -> bool {
        let is_plain = self.deflates.is_none() || len < shared.threshold;
        if self.may_send(None).is_err() || self.role == Role::Client || !is_plain {
            return false;
        }
        header(kind.opcode(), true, false, None, len as u64).encode(out);
        true
    }

    /// Appends a fragment of a message: the first begins it, `last` ends it. A text may be cut anywhere. The
    /// message is compressed if its first fragment is long enough to be.
    ///
    /// # Errors
    /// What may not be sent now.
    pub fn send_fragment(
        &mut self,
        kind: Kind,
        payload: &[u8],
        last: bool,
        out: &mut Vec<u8>,
        shared: &mut Outbound,
    ) -> Result<(), SendError> {
        self.may_send(Some(kind))?;
        let compressed = match self.sending {
            Some((_, compressed)) => compressed,
            None => self.deflates.is_some() && payload.len() >= shared.threshold,
        };
        let opcode = match self.sending {
            Some(_) => Opcode::Continuation,
            None => kind.opcode(),
        };
        if compressed {
            self.compress(payload, last, shared)?;
            let first = opcode != Opcode::Continuation;
            self.put(opcode, last, first, &shared.scratch, out);
            shared.trim();
        } else {
            self.put(opcode, last, false, payload, out);
        }
        self.sending = (!last).then_some((kind, compressed));
        Ok(())
    }

    /// Appends the front of a plain message of `len` bytes, which the caller sends behind it from where they
    /// are: for what is too large to be copied. Server only.
    ///
    /// # Errors
    /// What may not be sent now.
    pub fn announce(&mut self, kind: Kind, len: u64, out: &mut Vec<u8>) -> Result<(), SendError> {
        self.may_send(None)?;
        if self.role == Role::Client {
            return Err(SendError::Masked);
        }
        header(kind.opcode(), true, false, None, len).encode(out);
        Ok(())
    }

    /// A message that was made for many, as this session sends it: a handle, not a copy. Server only.
    ///
    /// # Errors
    /// What may not be sent now.
    pub fn prepared(
        &mut self,
        message: &Prepared,
        shared: &mut Outbound,
    ) -> Result<Bytes, SendError> {
        self.may_send(None)?;
        if self.role == Role::Client {
            return Err(SendError::Masked);
        }
        let fits = |bits: u8| bits >= 15 || message.payload.len() <= 1 << bits;
        let compressed = self
            .deflates
            .filter(|ours| fits(ours.window_bits))
            .and_then(|_| message.compressed(shared));
        match compressed {
            Some(compressed) => {
                // The peer's window moves on by a message that our own compressor has not seen: it begins anew.
                if let Some(contexts) = &mut self.contexts {
                    contexts.deflater = None;
                }
                Ok(compressed.clone())
            }
            None => Ok(message.plain.clone()),
        }
    }

    /// Appends a ping.
    ///
    /// # Errors
    /// What may not be sent now.
    pub fn ping(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), SendError> {
        self.control(Opcode::Ping, payload, out)
    }

    /// Appends a pong: the answer to a ping says what that said.
    ///
    /// # Errors
    /// What may not be sent now.
    pub fn pong(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), SendError> {
        self.control(Opcode::Pong, payload, out)
    }

    /// Appends a Close. What the peer sends from here on is dropped, until its own.
    ///
    /// # Errors
    /// What may not be sent now.
    pub fn close(&mut self, code: u16, reason: &str, out: &mut Vec<u8>) -> Result<(), SendError> {
        if !is_close_code(code) {
            return Err(SendError::Code);
        }
        self.close_with(Some(code), reason, out)
    }

    /// Appends the Close that answers the peer's: the same code, or none. Nothing if ours is sent.
    pub fn answer_close(&mut self, out: &mut Vec<u8>) {
        // Of the errors only `Closed` can be.
        let _ = self.close_with(self.peer_code(), "", out);
    }

    /// Appends the Close that says what the connection fails for. Nothing if ours is sent.
    pub fn fail(&mut self, error: Error, out: &mut Vec<u8>) {
        let _ = self.close_with(Some(error.close_code()), "", out);
    }

    fn close_with(
        &mut self,
        code: Option<u16>,
        reason: &str,
        out: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        let (mut payload, mut len) = ([0; MAX_CONTROL], 0);
        if let Some(code) = code {
            payload[..2].copy_from_slice(&code.to_be_bytes());
            len = 2 + reason.len();
            let place = payload.get_mut(2..len).ok_or(SendError::TooLong)?;
            place.copy_from_slice(reason.as_bytes());
        }
        self.control(Opcode::Close, &payload[..len], out)?;
        self.sent_close = true;
        self.sending = None;
        if let Some(contexts) = &mut self.contexts {
            contexts.deflater = None;
        }
        Ok(())
    }

    fn control(
        &mut self,
        opcode: Opcode,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        if self.sent_close {
            return Err(SendError::Closed);
        }
        if payload.len() > MAX_CONTROL {
            return Err(SendError::TooLong);
        }
        self.put(opcode, true, false, payload, out);
        Ok(())
    }

    /// `fragment`: of a message of this kind.
    fn may_send(&self, fragment: Option<Kind>) -> Result<(), SendError> {
        match self.sending {
            _ if self.sent_close => Err(SendError::Closed),
            Some((kind, _)) if fragment != Some(kind) => Err(SendError::Fragmented),
            _ => Ok(()),
        }
    }

    fn put(&mut self, opcode: Opcode, fin: bool, rsv1: bool, payload: &[u8], out: &mut Vec<u8>) {
        let mut key = (self.role == Role::Client).then(|| self.keys.u32(..).to_ne_bytes());
        out.reserve(frame::MAX_HEADER + payload.len());
        header(opcode, fin, rsv1, key, payload.len() as u64).encode(out);
        let from = out.len();
        out.extend_from_slice(payload);
        if let Some(key) = &mut key {
            frame::mask(&mut out[from..], key);
        }
    }

    /// Leaves `payload` compressed in the scratch space.
    fn compress(
        &mut self,
        payload: &[u8],
        last: bool,
        shared: &mut Outbound,
    ) -> Result<(), SendError> {
        let (takeover, bits) = self
            .deflates
            .map_or((false, 15), |ours| (ours.takeover, ours.window_bits));
        let own = self
            .contexts
            .as_mut()
            .and_then(|contexts| contexts.deflater.take());
        let mut deflater = own.unwrap_or_else(|| shared.deflater(bits));
        shared.scratch.clear();
        if deflater
            .deflate(payload, last, &mut shared.scratch)
            .is_err()
        {
            return Err(SendError::Deflate);
        }
        if takeover || !last {
            self.contexts.get_or_insert_default().deflater = Some(deflater);
        } else {
            shared.recycle(deflater);
            // Empty, unless something else of the connection's is in it.
            self.contexts
                .take_if(|contexts| contexts.inflater.is_none());
        }
        Ok(())
    }
}

fn header(opcode: Opcode, fin: bool, rsv1: bool, mask: Option<[u8; 4]>, len: u64) -> Header {
    Header {
        opcode,
        fin,
        rsv1,
        mask,
        len,
    }
}

/// A server's message to many: framed once, compressed once, shared by all. Each session picks the form that
/// was agreed on ([`Session::prepared`]).
#[derive(Clone, Debug)]
pub struct Prepared {
    kind: Kind,
    payload: Bytes,
    plain: Bytes,
    /// Made when the first asks for it; `None` if it is not worth it.
    compressed: OnceCell<Option<Bytes>>,
}

impl Prepared {
    /// A message. It is compressed if somebody can use that, it is as long as their [`Outbound`] asks for, and
    /// that makes it shorter.
    ///
    /// ```
    /// use loopwright::proto::ws::send::{Outbound, Prepared};
    /// use loopwright::proto::ws::session::{Kind, Session};
    ///
    /// let message = Prepared::new(Kind::Text, b"Hello");
    /// let sent = Session::server(None).prepared(&message, &mut Outbound::default())?;
    /// assert_eq!(&sent[..], b"\x81\x05Hello");
    /// # Ok::<(), loopwright::proto::ws::send::SendError>(())
    /// ```
    pub fn new(kind: Kind, payload: &[u8]) -> Prepared {
        let plain = framed(kind, false, payload);
        // The payload is the end of its own frame.
        let payload = plain.slice(plain.len() - payload.len()..);
        Prepared {
            kind,
            payload,
            plain,
            compressed: OnceCell::new(),
        }
    }

    /// What kind of message it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What it says.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    fn compressed(&self, shared: &mut Outbound) -> Option<&Bytes> {
        let compress = || {
            if !cfg!(feature = "deflate") || self.payload.len() < shared.threshold {
                return None;
            }
            let mut deflater = shared.deflater(15);
            shared.scratch.clear();
            let done = deflater.deflate(&self.payload, true, &mut shared.scratch);
            let is_worth_it =
                done.is_ok() && shared.is_worth_it(self.payload.len(), shared.scratch.len());
            let compressed = is_worth_it.then(|| framed(self.kind, true, &shared.scratch));
            if done.is_ok() {
                shared.recycle(deflater);
            }
            shared.trim();
            compressed
        };
        self.compressed.get_or_init(compress).as_ref()
    }
}

fn framed(kind: Kind, rsv1: bool, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(frame::MAX_HEADER + payload.len());
    header(kind.opcode(), true, rsv1, None, payload.len() as u64).encode(&mut out);
    out.extend_from_slice(payload);
    Bytes::from(out)
}
