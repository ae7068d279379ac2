//! Floor 2. WebSockets as an embedder sees them: a [`Socket`] is told what arrives, a [`WebSocket`]
//! sends now, a [`SocketHandle`] later.
//!
//! ```text
//! accepted (handshake.rs) ─► open ─► message, fragment, pong, drained … ─► close (exactly once, however it ends)
//! ```
//! The same step from now to later as with answers: a `WebSocket` borrows the connection's output and
//! ends with its callback; a handle leaves commands, which the loop settles.

use super::ctx::Ctx;
use super::outbox::{Command, Flow, Outbox, SocketAct};
use super::slow::{Sent, Slow};
use crate::base::backlog::Output;
use crate::base::id::ConnId;
use crate::net::Peer;
use crate::proto::ws::error::is_close_code;
use crate::proto::ws::frame;
use crate::proto::ws::send::{Outbound, Prepared, SendError};
use crate::proto::ws::session::{Kind, Session};
use bytes::Bytes;
use std::collections::VecDeque;
use std::rc::Rc;

/// A message: text, which is UTF-8, or bytes.
///
/// ```
/// use loopwright::Message;
/// assert_eq!(Message::from("hello"), Message::Text("hello"));
/// assert_eq!(Message::from(&[1, 2][..]).as_bytes(), [1, 2]);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// Text.
    Text(&'a str),
    /// Bytes.
    Binary(&'a [u8]),
}

impl<'a> Message<'a> {
    /// The payload, whatever its kind.
    pub fn as_bytes(self) -> &'a [u8] {
        match self {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
        }
    }

    /// The text, if it is one.
    pub fn as_text(self) -> Option<&'a str> {
        match self {
            Message::Text(text) => Some(text),
            Message::Binary(_) => None,
        }
    }

    pub(crate) fn kind(self) -> Kind {
        match self {
            Message::Text(_) => Kind::Text,
            Message::Binary(_) => Kind::Binary,
        }
    }
}

impl<'a> From<&'a str> for Message<'a> {
    fn from(text: &'a str) -> Self {
        Message::Text(text)
    }
}

impl<'a> From<&'a String> for Message<'a> {
    fn from(text: &'a String) -> Self {
        Message::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Message<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Message::Binary(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Message<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Message::Binary(bytes)
    }
}

/// A part of a message, for a socket that takes them as they come ([`crate::Handshake::fragments`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment<'a> {
    /// Whether the message is text. Each fragment of one is valid UTF-8 up to a character that the
    /// next one completes.
    pub is_text: bool,
    /// Its bytes; the last may be empty.
    pub bytes: &'a [u8],
    /// It begins a message.
    pub is_first: bool,
    /// It ends one.
    pub is_last: bool,
}

/// How a socket ended (RFC 6455 §7.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closed<'a> {
    /// What the other side said: 1000 for a normal end, 1001 if it goes away, 1005 if it gave none; or
    /// ours, where we ended it: 1002, 1007 and 1009 for what it sent, 1001 for silence and for a
    /// server that leaves; 1006 if the connection broke.
    pub code: u16,
    /// What was said of it.
    pub reason: &'a str,
}

/// One client's WebSocket, from its handshake to its end: yours, with whatever data belongs to it.
///
/// ```
/// use loopwright::{App, Closed, Ctx, Message, Socket, WebSocket};
///
/// struct Guest { name: String }
///
/// impl Socket for Guest {
///     fn message(&mut self, _: &mut Ctx<'_>, ws: &mut WebSocket<'_>, message: Message<'_>) {
///         ws.send(&format!("{} said {} bytes", self.name, message.as_bytes().len()));
///     }
///     fn close(&mut self, _: &mut Ctx<'_>, closed: Closed<'_>) {
///         log::info!("{} left: {}", self.name, closed.code);
///     }
/// }
///
/// let mut app: App = App::new();
/// app.sockets("/guests/{name}", |_, req, _| Ok(Guest { name: req.param("name").to_string() }));
/// ```
pub trait Socket<S: 'static = ()>: 'static {
    /// The handshake is answered.
    fn open(&mut self, cx: &mut Ctx<'_, S>, ws: &mut WebSocket<'_>) {
        let _ = (cx, ws);
    }

    /// A message has arrived, whole.
    fn message(&mut self, cx: &mut Ctx<'_, S>, ws: &mut WebSocket<'_>, message: Message<'_>);

    /// A part of a message has arrived: instead of `message`, after [`crate::Handshake::fragments`].
    fn fragment(&mut self, cx: &mut Ctx<'_, S>, ws: &mut WebSocket<'_>, fragment: Fragment<'_>) {
        let _ = (cx, ws, fragment);
    }

    /// The answer to a ping, or one nobody asked for.
    fn pong(&mut self, cx: &mut Ctx<'_, S>, ws: &mut WebSocket<'_>, payload: &[u8]) {
        let _ = (cx, ws, payload);
    }

    /// After something was [`Sent::Full`] or [`Sent::Dropped`], there is room again: no more than half of
    /// `limits.high_water` waits, and what was dropped would fit.
    fn drained(&mut self, cx: &mut Ctx<'_, S>, ws: &mut WebSocket<'_>) {
        let _ = (cx, ws);
    }

    /// A message could not be sent, under [`Slow::Tell`].
    fn missed(&mut self, cx: &mut Ctx<'_, S>, ws: &mut WebSocket<'_>, message: Message<'_>) {
        let _ = (cx, ws, message);
    }

    /// It is over. Called exactly once, last.
    fn close(&mut self, cx: &mut Ctx<'_, S>, closed: Closed<'_>) {
        let _ = (cx, closed);
    }
}

/// The small case: one closure for all messages of a route.
pub(crate) struct OnMessage<F>(pub(crate) Rc<F>);

impl<S, F, R> Socket<S> for OnMessage<F>
where
    S: 'static,
    F: Fn(&mut Ctx<'_, S>, &mut WebSocket<'_>, Message<'_>) -> R + 'static,
{
    fn message(&mut self, cx: &mut Ctx<'_, S>, ws: &mut WebSocket<'_>, message: Message<'_>) {
        (self.0)(cx, ws, message);
    }
}

/// What holds for one socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketSettings {
    pub(crate) message: usize,
    pub(crate) output: usize,
    pub(crate) slow: Slow,
    pub(crate) fragments: bool,
}

/// What a socket sends through, for as long as it lives.
pub(crate) struct Line {
    pub(crate) session: Session,
    pub(crate) settings: SocketSettings,
    /// Nothing is read from the client: whoever takes its messages has enough of them.
    pub(crate) held: bool,
    /// Somebody is to be told when no more waits than this.
    pub(crate) awaits: Option<usize>,
    /// Known to handles, if there are any.
    pub(crate) flow: Option<Rc<Flow>>,
    /// Why we have closed it.
    pub(crate) ended: Option<Box<(u16, String)>>,
    behind: Option<Box<Behind>>,
}

/// Messages behind one that is being sent in fragments.
#[derive(Default)]
struct Behind {
    messages: VecDeque<(Kind, Bytes)>,
    bytes: usize,
}

impl Behind {
    /// An empty message has its place as well.
    fn cost(payload: &Bytes) -> usize {
        payload.len() + size_of::<(Kind, Bytes)>()
    }
}

impl Line {
    pub(crate) fn new(session: Session, settings: SocketSettings) -> Line {
        Line {
            session,
            settings,
            held: false,
            awaits: None,
            flow: None,
            ended: None,
            behind: None,
        }
    }

    /// Tells handles what waits: that much in the connection's output.
    pub(crate) fn tell_flow(&self, queued: usize) {
        if let Some(flow) = &self.flow {
            flow.buffered.set(queued + self.behind());
        }
    }

    fn behind(&self) -> usize {
        self.behind.as_ref().map_or(0, |behind| behind.bytes)
    }

    /// Nobody sends through it any more.
    pub(crate) fn hang_up(&self) {
        if let Some(flow) = &self.flow {
            flow.closed.set(true);
        }
    }
}

/// A WebSocket, within a callback of its own: what is sent leaves when the callback has returned, in one
/// write with all else that goes to this client.
///
/// ```
/// use loopwright::{App, Message};
/// let mut app: App = App::new();
/// app.ws("/", |_, ws, message| match message {
///     Message::Text("bye") => ws.close(1000, "as you wish"),
///     message => drop(ws.send(message)),
/// });
/// ```
pub struct WebSocket<'a> {
    pub(crate) line: &'a mut Line,
    pub(crate) out: Output<'a>,
    pub(crate) outbound: &'a mut Outbound,
    pub(crate) outbox: &'a Rc<Outbox>,
    pub(crate) high_water: usize,
    pub(crate) id: ConnId,
    pub(crate) peer: Peer,
}

impl WebSocket<'_> {
    /// The client.
    pub fn remote(&self) -> Peer {
        self.peer
    }

    /// Sends a message: text from what is a `str`, binary from bytes. One that is sent while another is
    /// on its way in fragments comes behind that.
    pub fn send<'m>(&mut self, message: impl Into<Message<'m>>) -> Sent {
        let message = message.into();
        self.transmit(message.kind(), message.as_bytes())
    }

    /// Sends bytes as a binary message, whatever they are.
    pub fn send_binary(&mut self, bytes: impl AsRef<[u8]>) -> Sent {
        self.transmit(Kind::Binary, bytes.as_ref())
    }

    /// Sends a part of a message: the first begins it, `is_last` ends it. For what is too large to be
    /// made at once: after [`Sent::Full`], go on in [`Socket::drained`]; after [`Sent::Dropped`], with the same
    /// part. A text may be cut anywhere.
    ///
    /// ```
    /// use loopwright::{App, Ctx, Message, Sent, Socket, WebSocket};
    /// /// A gigabyte, in one message, as fast as the client takes it.
    /// struct Gigabyte(u32);
    /// impl Socket for Gigabyte {
    ///     fn message(&mut self, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>, _: Message<'_>) {
    ///         self.0 = 65_536;
    ///         self.drained(cx, ws);
    ///     }
    ///     fn drained(&mut self, _: &mut Ctx<'_>, ws: &mut WebSocket<'_>) {
    ///         while self.0 > 0 {
    ///             self.0 -= 1;
    ///             let part = [b'x'; 16 * 1024];
    ///             if ws.send_fragment(Message::Binary(&part), self.0 == 0) != Sent::Taken { break }
    ///         }
    ///     }
    /// }
    /// let mut app: App = App::new();
    /// app.sockets("/gigabyte", |_, _, _| Ok(Gigabyte(0)));
    /// ```
    pub fn send_fragment(&mut self, part: Message<'_>, is_last: bool) -> Sent {
        let (kind, bytes) = (part.kind(), part.as_bytes());
        if let Some(refused) = self.refused(bytes.len(), true) {
            return refused;
        }
        let (session, cork) = (&mut self.line.session, &mut *self.out.cork);
        if let Err(e) = session.send_fragment(kind, bytes, is_last, cork, self.outbound) {
            return self.failed(e);
        }
        let mut sent = self.count();
        if is_last && let Some(behind) = self.line.behind.take() {
            for (kind, bytes) in behind.messages {
                sent = self.put(kind, &bytes);
            }
        }
        sent
    }

    /// Asks for a sign of life; the answer comes to [`Socket::pong`]. At most 125 bytes, more are cut off.
    /// The loop does so by itself after `timeouts.socket_idle`.
    pub fn ping(&mut self, payload: impl AsRef<[u8]>) {
        let payload = payload.as_ref();
        let payload = &payload[..payload.len().min(125)];
        // Whoever takes nothing has nothing to answer.
        if self.queued() <= self.line.settings.output {
            let _ = self.line.session.ping(payload, self.out.cork);
        }
    }

    /// Closes it: 1000 for a normal end, 3000 to 4999 for what you make of them (RFC 6455 §7.4). A code
    /// that may not be sent becomes 1011, and a reason is cut at 123 bytes. [`Socket::close`] follows.
    pub fn close(&mut self, code: u16, reason: &str) {
        let code = if is_close_code(code) { code } else { 1011 };
        let mut end = reason.len().min(123);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let (line, cork) = (&mut *self.line, &mut *self.out.cork);
        if line.session.close(code, &reason[..end], cork).is_ok() {
            line.ended = Some(Box::new((code, reason[..end].to_string())));
        }
    }

    /// How many bytes wait for this client.
    pub fn buffered(&self) -> usize {
        self.queued() + self.line.behind()
    }

    fn queued(&self) -> usize {
        self.out.cork.len() + self.out.backlog.bytes()
    }

    /// It can be sent to: neither side has said that it ends.
    pub fn is_open(&self) -> bool {
        self.line.session.is_open()
    }

    /// Nothing more is read from the client until [`SocketHandle::resume`].
    pub(crate) fn hold(&mut self) {
        self.line.held = true;
    }

    /// To send from other callbacks: a timer's, another socket's, a request's.
    pub fn handle(&mut self) -> SocketHandle {
        let flow = self
            .line
            .flow
            .get_or_insert_with(|| Flow::new(self.high_water));
        SocketHandle {
            to: self.id,
            outbox: self.outbox.clone(),
            flow: flow.clone(),
        }
    }

    pub(crate) fn transmit(&mut self, kind: Kind, payload: &[u8]) -> Sent {
        match self.refused(payload.len(), false) {
            Some(refused) => refused,
            None => self.put(kind, payload),
        }
    }

    fn put(&mut self, kind: Kind, payload: &[u8]) -> Sent {
        let cork = &mut *self.out.cork;
        match self.line.session.send(kind, payload, cork, self.outbound) {
            Ok(()) => self.count(),
            Err(SendError::Fragmented) => self.put_behind(kind, Bytes::copy_from_slice(payload)),
            Err(e) => self.failed(e),
        }
    }

    /// Sends a message that is made for many.
    pub(crate) fn transmit_prepared(&mut self, message: &Prepared) -> Sent {
        if let Some(refused) = self.refused(message.payload().len(), false) {
            return refused;
        }
        match self.line.session.prepared(message, self.outbound) {
            Ok(frame) => {
                self.out.seal();
                self.out.backlog.push(frame);
                self.count()
            }
            Err(SendError::Fragmented) => {
                self.put_behind(message.kind(), message.payload().clone())
            }
            Err(e) => self.failed(e),
        }
    }

    /// Would too much wait, with so much more? Then the policy says what happens. What is behind a message does
    /// not hold up its own parts: they go on until it is sent.
    fn refused(&mut self, more: usize, is_part: bool) -> Option<Sent> {
        // With their places: many small messages cost more than their bytes.
        let counted = |ws: &Self| {
            let bytes = if is_part { ws.queued() } else { ws.buffered() };
            bytes + ws.out.backlog.places()
        };
        if !self.line.session.is_open() {
            return Some(Sent::Closed);
        }
        let limit = self.line.settings.output;
        let waits = counted(self);
        // One message may be longer than the limit: then it waits alone.
        if waits == 0 || waits + more <= limit {
            return None;
        }
        match self.line.settings.slow {
            Slow::DropNewest | Slow::Tell => {}
            Slow::DropOldest => {
                self.out.seal();
                while counted(self) + more > limit && self.drop_oldest(is_part) {}
                if counted(self) + more <= limit {
                    return None;
                }
            }
            Slow::Close => {
                log::info!(
                    "{}: WebSocket closed: {waits} bytes wait, over its limit of {limit} (limits.socket_output)",
                    self.peer
                );
                self.out.seal();
                while self.out.backlog.drop_behind(|_| true) {}
                self.line.behind = None;
                self.close(1008, "too slow");
                return Some(Sent::Closed);
            }
        }
        // What would fit right away, were it not for what is behind, is not waited for.
        let mut room = (self.high_water / 2).min(limit.saturating_sub(more));
        if self.queued() + self.out.backlog.places() + more > limit {
            room = room.min(self.queued() / 2);
        }
        if self.queued() > room {
            self.await_room(room);
        }
        Some(Sent::Dropped)
    }

    /// Only whole messages go: the parts of one belong together, and what is no message is asked for.
    fn drop_oldest(&mut self, is_part: bool) -> bool {
        if self.out.backlog.drop_behind(frame::begins_with_message) {
            return true;
        }
        let Some(behind) = self.line.behind.as_mut().filter(|_| !is_part) else {
            return false;
        };
        let oldest = behind.messages.pop_front();
        behind.bytes -= oldest.as_ref().map_or(0, |(_, bytes)| Behind::cost(bytes));
        oldest.is_some()
    }

    fn put_behind(&mut self, kind: Kind, payload: Bytes) -> Sent {
        let behind = self.line.behind.get_or_insert_default();
        behind.bytes += Behind::cost(&payload);
        behind.messages.push_back((kind, payload));
        self.full_past(self.buffered())
    }

    fn failed(&mut self, why: SendError) -> Sent {
        log::error!("a WebSocket's message cannot be sent: {why}");
        Sent::Dropped
    }

    fn count(&mut self) -> Sent {
        let queued = self.queued();
        // What may be dropped is not to have anything else for company.
        if self.line.settings.slow == Slow::DropOldest
            && (queued > self.high_water || !self.out.backlog.is_empty())
        {
            self.out.seal();
        }
        self.full_past(queued)
    }

    fn full_past(&mut self, waits: usize) -> Sent {
        self.line.tell_flow(self.queued());
        if waits <= self.high_water {
            return Sent::Taken;
        }
        self.await_room(self.high_water / 2);
        Sent::Full
    }

    fn await_room(&mut self, room: usize) {
        let awaits = self.line.awaits.get_or_insert(room);
        *awaits = room.min(*awaits);
    }
}

/// A WebSocket, for other callbacks than its own. Once it is gone, nothing happens. `!Send`, as it belongs
/// to its loop: other threads go through [`crate::Handle::post`].
///
/// ```
/// use loopwright::{App, Ctx, Message, Socket, SocketHandle, WebSocket};
/// use std::time::Duration;
/// struct Clock;
/// impl Socket for Clock {
///     fn open(&mut self, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>) { tick(cx, ws.handle(), 0) }
///     fn message(&mut self, _: &mut Ctx<'_>, _: &mut WebSocket<'_>, _: Message<'_>) {}
/// }
/// fn tick(cx: &mut Ctx<'_>, ws: SocketHandle, n: u32) {
///     if ws.is_closed() { return }
///     ws.send(&n.to_string());
///     cx.after(Duration::from_secs(1), move |cx| tick(cx, ws, n + 1));
/// }
/// let mut app: App = App::new();
/// app.sockets("/clock", |_, _, _| Ok(Clock));
/// ```
#[derive(Clone)]
pub struct SocketHandle {
    pub(crate) to: ConnId,
    outbox: Rc<Outbox>,
    flow: Rc<Flow>,
}

impl SocketHandle {
    /// Sends a message. What is for a slow client, its [`Slow`] policy decides. `false`: it is gone.
    pub fn send<'m>(&self, message: impl Into<Message<'m>>) -> bool {
        let message = message.into();
        let bytes = Bytes::copy_from_slice(message.as_bytes());
        let buffered = self.flow.buffered.get() + bytes.len();
        self.flow.buffered.set(buffered);
        self.act(SocketAct::Send(message.kind(), bytes))
    }

    /// Sends a message to many. It is there once for all of them, also while it waits.
    ///
    /// ```
    /// use loopwright::SocketHandle;
    /// fn announce(guests: &mut Vec<SocketHandle>, text: &str) {
    ///     guests.retain(|guest| !guest.is_closed());
    ///     SocketHandle::send_all(&*guests, text);
    /// }
    /// # announce(&mut vec![], "hello");
    /// ```
    pub fn send_all<'h, 'm>(
        handles: impl IntoIterator<Item = &'h SocketHandle>,
        message: impl Into<Message<'m>>,
    ) {
        let message = message.into();
        let prepared = Rc::new(Prepared::new(message.kind(), message.as_bytes()));
        for handle in handles {
            let buffered = handle.flow.buffered.get() + prepared.payload().len();
            handle.flow.buffered.set(buffered);
            handle.act(SocketAct::SendPrepared(prepared.clone()));
        }
    }

    /// Asks for a sign of life; at most 125 bytes.
    pub fn ping(&self, payload: &[u8]) -> bool {
        self.act(SocketAct::Ping(Bytes::copy_from_slice(payload)))
    }

    /// Closes it, as [`WebSocket::close`].
    pub fn close(&self, code: u16, reason: &str) -> bool {
        self.act(SocketAct::Close(code, reason.to_string()))
    }

    /// How many bytes wait for this client.
    pub fn buffered(&self) -> usize {
        self.flow.buffered.get()
    }

    /// Whether more than `limits.high_water` waits.
    pub fn is_full(&self) -> bool {
        self.flow.is_full()
    }

    /// It is gone.
    pub fn is_closed(&self) -> bool {
        self.flow.closed.get()
    }

    /// Messages are taken again, after [`WebSocket::hold`].
    pub(crate) fn resume(&self) {
        self.act(SocketAct::Resume);
    }

    pub(crate) fn act(&self, act: SocketAct) -> bool {
        if self.flow.closed.get() {
            return false;
        }
        self.outbox.push(Command::Socket { to: self.to, act });
        true
    }
}
