//! Floor 3. A connection that speaks WebSocket: events to its [`Socket`], what is sent to its client.
//!
//! ```text
//! 101 ─► open ── message, ping, pong … ──► closing (ours is sent) ─► over: released
//!          │                                      │
//!          ├─ silence: a ping, then 1001          └─ timeouts.linger, or broken: cut
//!          └─ less of a message than timeouts.body_rate: 1008
//! ```
//! Invariant: a socket's `close` is called exactly once, when its record goes (`end_socket`); until then the
//! connection's number for it names the record.

use super::Reactor;
use super::conn::Role;
use super::io::Stop;
use crate::app::ctx::{Ctx, NewSocket};
use crate::app::failure::panic_text;
use crate::app::outbox::SocketAct;
use crate::app::publish::{Publication, Subscriber};
use crate::app::settings::Timeouts;
use crate::app::slow::{Sent, Slow};
use crate::app::websocket::{Closed, Fragment, Line, Message, Socket, WebSocket};
use crate::base::backlog::Output;
use crate::base::clock::Instant;
use crate::base::id::{ConnId, RequestId};
use crate::net::Net;
use crate::proto::ws::error::{Error, GOING_AWAY, INTERNAL_ERROR, POLICY_VIOLATION};
use crate::proto::ws::session::{Event, Kind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// What a connection that has become a WebSocket has besides.
pub(super) struct Attached<S> {
    socket: Box<dyn Socket<S>>,
    line: Line,
    request: RequestId,
    /// The client was last heard, or our Close was sent.
    since: Instant,
    /// It has been asked for a sign of life.
    asked: bool,
    /// A message has begun to arrive, and has not ended: since when, and how many bytes came since.
    arriving: Option<(Instant, u64)>,
}

/// How a connection ended that did not say so.
pub(super) const BROKEN: Closed<'static> = Closed {
    code: 1006,
    reason: "the connection broke",
};
/// How those end that are open when the server leaves.
pub(super) const LEAVING: Closed<'static> = Closed {
    code: GOING_AWAY,
    reason: "the server leaves",
};

/// What a socket's callback sends through: each field of the reactor on its own.
macro_rules! ws {
    ($self:ident, $id:expr, $conn:ident, $line:expr) => {
        WebSocket {
            high_water: $self.limits.high_water.min($line.settings.output),
            line: $line,
            peer: $conn.peer,
            out: Output {
                cork: &mut $self.cork,
                backlog: &mut $conn.backlog,
            },
            outbound: &mut $self.outbound,
            outbox: &$self.outbox,
            id: $id,
        }
    };
}

impl<S> Attached<S> {
    /// Something has come from the client.
    pub(super) fn hear(&mut self, bytes: usize, now: Instant) {
        if self.line.session.is_open() {
            (self.since, self.asked) = (now, false);
        }
        if let Some((_, so_far)) = &mut self.arriving {
            *so_far += bytes as u64;
        }
    }

    /// When less than the least rate will have come of the message that arrives, unless more comes.
    fn message_deadline(&self, timeouts: &Timeouts) -> Option<Instant> {
        let (since, bytes) = self.arriving?;
        let micros = bytes.checked_mul(1_000_000)?;
        let micros = micros.checked_div(timeouts.body_rate)?;
        Some(since + Duration::from_micros(micros).max(timeouts.body_grace))
    }
}

impl<N: Net, S: 'static> Reactor<N, S> {
    /// A handshake is answered.
    pub(super) fn open_socket(&mut self, new: NewSocket<S>) {
        let NewSocket {
            to,
            mut socket,
            line,
            request,
        } = new;
        let since = self.now;
        let Some(conn) = self.conns.get_mut(to) else {
            // Gone in the meantime; whoever accepted it wants to know.
            let mut cx = cx!(self);
            self.watch.guarded(&self.net, "the end of a WebSocket", || {
                socket.close(&mut cx, BROKEN)
            });
            return;
        };
        let attached = Attached {
            socket,
            line,
            request,
            since,
            asked: false,
            arriving: None,
        };
        let (key, has_left) = (self.sockets.insert(attached) as u32, conn.eof);
        conn.role = Role::Socket(key);
        self.with_socket(to, |socket, cx, ws| socket.open(cx, ws));
        // It may have been long in coming.
        if has_left {
            self.on_socket_eof(to, key);
        } else if self.stopping.is_draining() {
            self.close_socket(to, LEAVING);
        }
    }

    /// Takes events from the input until it is used up, or has to wait. Says how much is used.
    pub(super) fn serve_socket(
        &mut self,
        id: ConnId,
        input: &mut [u8],
        budget: &mut usize,
    ) -> (usize, Stop) {
        let mut used = 0;
        loop {
            if self.commands_left == 0 {
                self.wake(id);
                return (used, Stop::Wait);
            }
            let corked = self.cork.len();
            let Some(conn) = self.conns.get_mut(id) else {
                return (used, Stop::Over);
            };
            let Some(key) = conn.socket() else {
                return (input.len(), Stop::Over);
            };
            // A client that sends but does not take is not read from …
            if conn.backlog.bytes() + corked > self.limits.high_water {
                // Nor is the rest of its message then late by its own fault.
                if let Some(attached) = self.sockets.get_mut(key as usize) {
                    attached.arriving = None;
                }
                return (used, self.make_room(id));
            }
            // … and one that sends more than its share of a turn waits for the next.
            if *budget == 0 && used < input.len() {
                self.wake(id);
                return (used, Stop::Wait);
            }
            let Some(attached) = self.sockets.get_mut(key as usize) else {
                return (used, Stop::Over);
            };
            // One that only closes is read on, to see the end.
            if attached.line.held && attached.line.session.is_open() {
                attached.arriving = None;
                return (used, Stop::Wait);
            }
            let Attached {
                socket,
                line,
                request,
                arriving,
                ..
            } = attached;
            let mut rest = &mut input[used..];
            let total = rest.len();
            let limit = line.settings.message;
            let polled = line.session.poll_event(&mut rest, &mut self.inbound, limit);
            used += total - rest.len();
            let event = match polled {
                Ok(Some(event)) => event,
                Ok(None) => {
                    let is_receiving = line.session.is_receiving() && line.session.is_open();
                    *arriving = is_receiving.then(|| arriving.unwrap_or((self.now, 0)));
                    return (used, Stop::NeedInput);
                }
                Err(error) => {
                    log::info!(
                        "{}: WebSocket closed with {}: {error}{}",
                        conn.peer,
                        error.close_code(),
                        setting(&error, limit == self.limits.message)
                    );
                    line.session.fail(error, &mut self.cork);
                    let closed = Closed {
                        code: error.close_code(),
                        reason: &error.to_string(),
                    };
                    self.end_socket(id, closed);
                    return (input.len(), Stop::Over);
                }
            };
            *budget = budget.saturating_sub(1);
            if event.ends_message() {
                *arriving = None;
            }
            let begun = self.net.coarse_now();
            let mut cx = cx!(self);
            let mut ws = ws!(self, id, conn, line);
            let returned = match event {
                Event::Ping(payload) => {
                    let _ = ws.line.session.pong(payload, ws.out.cork);
                    continue;
                }
                Event::Close { code, reason } => {
                    ws.line.session.answer_close(ws.out.cork);
                    let (code, reason) = (code.unwrap_or(1005), reason.to_string());
                    self.end_socket(
                        id,
                        Closed {
                            code,
                            reason: &reason,
                        },
                    );
                    return (input.len(), Stop::Over);
                }
                Event::Pong(payload) => guard(|| socket.pong(&mut cx, &mut ws, payload)),
                Event::Text(text) => {
                    guard(|| socket.message(&mut cx, &mut ws, Message::Text(text)))
                }
                Event::Binary(bytes) => {
                    guard(|| socket.message(&mut cx, &mut ws, Message::Binary(bytes)))
                }
                Event::Piece {
                    kind,
                    first,
                    last,
                    data,
                } => {
                    let fragment = Fragment {
                        is_text: kind == Kind::Text,
                        bytes: data,
                        is_first: first,
                        is_last: last,
                    };
                    guard(|| socket.fragment(&mut cx, &mut ws, fragment))
                }
            };
            self.watch.over(&self.net, begun, || {
                format!("the WebSocket of request {request}")
            });
            if let Err(why) = returned {
                log::error!("{request}: its WebSocket panicked: {why}");
                ws!(self, id, conn, line).close(INTERNAL_ERROR, "");
            }
            self.settle();
        }
    }

    /// Calls a socket outside its connection's run, or within, and sees to what it sends.
    fn with_socket(
        &mut self,
        id: ConnId,
        call: impl FnOnce(&mut dyn Socket<S>, &mut Ctx<'_, S>, &mut WebSocket<'_>),
    ) {
        let own = self.address(id);
        if !own {
            std::mem::swap(&mut self.cork, &mut self.spare);
        }
        if let Some(conn) = self.conns.get_mut(id)
            && let Some(attached) = conn
                .socket()
                .and_then(|key| self.sockets.get_mut(key as usize))
        {
            let Attached {
                socket,
                line,
                request,
                since,
                ..
            } = attached;
            let was_open = line.session.is_open();
            let mut cx = cx!(self);
            let mut ws = ws!(self, id, conn, line);
            let returned = self.watch.guarded(&self.net, "a WebSocket's callback", || {
                call(&mut **socket, &mut cx, &mut ws)
            });
            if returned.is_none() {
                log::error!("{request}: its WebSocket is closed");
                ws!(self, id, conn, line).close(INTERNAL_ERROR, "");
            }
            if was_open && !line.session.is_open() {
                *since = self.now;
            }
        }
        if !own {
            std::mem::swap(&mut self.cork, &mut self.spare);
        }
        self.addressed(id);
        self.settle();
    }

    /// What a handle asks for.
    pub(super) fn settle_socket(&mut self, to: ConnId, act: SocketAct) {
        self.with_socket(to, |socket, cx, ws| match act {
            SocketAct::Send(kind, bytes) => {
                if ws.transmit(kind, &bytes) == Sent::Dropped && ws.line.settings.slow == Slow::Tell
                {
                    missed(socket, cx, ws, kind, &bytes);
                }
            }
            SocketAct::SendThen(kind, bytes, told) => told(ws.transmit(kind, &bytes)),
            SocketAct::Resume => ws.line.held = false,
            SocketAct::SendPrepared(message) => {
                let sent = ws.transmit_prepared(&message);
                if sent == Sent::Dropped && ws.line.settings.slow == Slow::Tell {
                    missed(socket, cx, ws, message.kind(), message.payload());
                }
            }
            SocketAct::Ping(payload) => ws.ping(payload),
            SocketAct::Close(code, reason) => ws.close(code, &reason),
        });
    }

    /// What is published to a topic of its. Between runs of connections: the cork is free.
    pub(super) fn deliver_to_socket(&mut self, id: ConnId, publication: &Publication) {
        if !publication.is_for(id) {
            return;
        }
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let Some(attached) = conn
            .socket()
            .and_then(|key| self.sockets.get_mut(key as usize))
        else {
            return;
        };
        let line = &mut attached.line;
        let was_open = line.session.is_open();
        let mut ws = ws!(self, id, conn, line);
        let sent = ws.transmit_prepared(&publication.message);
        ws.out.seal();
        match (sent, line.settings.slow) {
            (Sent::Dropped, Slow::Tell) => {
                self.with_socket(id, |socket, cx, ws| {
                    socket.missed(cx, ws, publication.message());
                });
            }
            _ if was_open && !line.session.is_open() => attached.since = self.now,
            _ => {}
        }
        self.wake(id);
    }

    /// Its output has got shorter: `waits` is what is left of it.
    pub(super) fn after_socket_flush(&mut self, id: ConnId, key: u32, waits: usize) {
        let Some(attached) = self.sockets.get_mut(key as usize) else {
            return;
        };
        let line = &mut attached.line;
        line.tell_flow(waits);
        if line.awaits.take_if(|room| waits <= *room).is_some() && line.session.is_open() {
            self.with_socket(id, |socket, cx, ws| socket.drained(cx, ws));
        }
    }

    /// Until when its silence is no reason to do anything.
    pub(super) fn socket_deadline(&self, key: u32) -> Option<Instant> {
        let attached = self.sockets.get(key as usize)?;
        let timeouts = &self.timeouts;
        Some(match attached.line.session.is_open() {
            true => {
                let pong = Some(timeouts.pong).filter(|_| attached.asked);
                let silence = attached.since + timeouts.socket_idle + pong.unwrap_or_default();
                let message = attached.message_deadline(timeouts);
                message.map_or(silence, |message| message.min(silence))
            }
            // It has `linger` to say its part of the end.
            false => attached.since + timeouts.linger,
        })
    }

    /// That moment has come.
    pub(super) fn on_socket_deadline(&mut self, id: ConnId, key: u32) {
        let (now, idle, pong) = (self.now, self.timeouts.socket_idle, self.timeouts.pong);
        let Some(peer) = self.conns.get(id).map(|conn| conn.peer) else {
            return;
        };
        let Some(attached) = self.sockets.get_mut(key as usize) else {
            return;
        };
        if !attached.line.session.is_open() {
            return self.cut(
                id,
                "its end of the WebSocket did not come within timeouts.linger",
            );
        }
        if attached
            .message_deadline(&self.timeouts)
            .is_some_and(|at| at <= now)
        {
            log::info!(
                "{peer}: WebSocket closed: less of a message has come than timeouts.body_rate = {} a second",
                self.timeouts.body_rate
            );
            let (code, reason) = (POLICY_VIOLATION, "too slow");
            return self.close_socket(id, Closed { code, reason });
        }
        if attached.line.held {
            // What it has said is not read yet.
            (attached.since, attached.asked) = (now, false);
        }
        if now < attached.since + idle {
            return self.wake(id);
        }
        if !std::mem::replace(&mut attached.asked, true) {
            return self.with_socket(id, |_, _, ws| ws.ping(b""));
        }
        log::info!(
            "{peer}: WebSocket closed: no sign of life within timeouts.socket_idle = {idle:?} and timeouts.pong = {pong:?}"
        );
        self.close_socket(
            id,
            Closed {
                code: GOING_AWAY,
                reason: "no sign of life",
            },
        );
    }

    /// Ends it from our side: what is sent goes out, then our Close.
    pub(super) fn close_socket(&mut self, id: ConnId, closed: Closed<'_>) {
        self.with_socket(id, |_, _, ws| ws.close(closed.code, closed.reason));
    }

    /// The client has closed its sending side: without a Close of its own, it is gone.
    pub(super) fn on_socket_eof(&mut self, id: ConnId, key: u32) {
        if let Some(attached) = self.sockets.get_mut(key as usize) {
            attached.line.session.handle_eof();
        }
        self.end_socket(id, BROKEN);
    }

    /// Its record goes, and its socket is told; what was written may still go out.
    pub(super) fn end_socket(&mut self, id: ConnId, closed: Closed<'_>) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let Some(key) = conn.socket() else {
            return;
        };
        conn.role = Role::Http;
        conn.http.abort();
        let Some(mut attached) = self.sockets.try_remove(key as usize) else {
            return;
        };
        attached.line.hang_up();
        self.core.unsubscribe_all(Subscriber::Socket(id));
        let ours = attached.line.ended.take();
        let closed = ours.as_deref().map_or(closed, |(code, reason)| Closed {
            code: *code,
            reason,
        });
        let mut cx = cx!(self);
        self.watch.guarded(&self.net, "the end of a WebSocket", || {
            attached.socket.close(&mut cx, closed)
        });
        self.wake(id);
        self.settle();
    }
}

fn guard(call: impl FnOnce()) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(panic_text)
}

/// Which setting allows more, if one does.
fn setting(error: &Error, is_everybodys: bool) -> &'static str {
    match error {
        Error::TooLarge { .. } if is_everybodys => " (limits.message)",
        Error::TooLarge { .. } => " (its own: Handshake::message_limit, or a channel's message)",
        _ => "",
    }
}

/// Tells a socket that asked for it what its client does not get.
fn missed<S: 'static>(
    socket: &mut dyn Socket<S>,
    cx: &mut Ctx<'_, S>,
    ws: &mut WebSocket<'_>,
    kind: Kind,
    bytes: &[u8],
) {
    match (kind, std::str::from_utf8(bytes)) {
        (Kind::Text, Ok(text)) => socket.missed(cx, ws, Message::Text(text)),
        _ => socket.missed(cx, ws, Message::Binary(bytes)),
    }
}
