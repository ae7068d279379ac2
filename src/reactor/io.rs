//! Floor 3. A connection's run: what it has read, through its protocol, to what it writes.
//!
//! ```text
//! run ── read ─► serve ── events ─► dispatch … ── NeedInput ─┐
//!         ▲                                                  │ (within the budget)
//!         └──────────────────────────────────────────────────┘
//!  └─ flush ─► socket, else backlog ─► conclude: close, linger, or wait with a deadline
//! ```

use super::Reactor;
use super::conn::{Conn, Role};
use super::socket::BROKEN;
use crate::app::fetch::FetchError;
use crate::app::link::LinkHandle;
use crate::base::backlog::{Output, Segment};
use crate::base::id::ConnId;
use crate::net::Net;
use crate::proto::h1::head;
use crate::proto::h1::server::Event;
use bytes::Bytes;
use std::io::{ErrorKind, IoSlice, Result};
use std::time::Duration;

/// Why serving a connection's input ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// All of it is used; more may be read.
    NeedInput,
    /// The rest has to wait: for an answer, for room, for the app, for the next turn.
    Wait,
    /// The rest is another protocol's.
    Switched,
    /// The connection is gone, or takes nothing more.
    Over,
}

enum Got {
    Bytes(usize),
    Nothing,
    End,
}

const SLICES: usize = 16;

impl<N: Net, S: 'static> Reactor<N, S> {
    pub(super) fn run_connection(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.queued = false;
        conn.wants_room = false;
        if conn.linger_until.is_some() {
            return self.linger_on(id);
        }
        let may_run = match conn.role {
            Role::Link(_) => self.is_linked(id),
            Role::Upstream(_) => self.is_connected(id),
            Role::Preface | Role::Http | Role::Socket(_) | Role::Tunnel(_) => true,
        };
        if !may_run {
            return;
        }
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        self.running = Some(id);
        let mut kept = std::mem::take(&mut conn.kept);
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut requests = self.limits.requests_per_turn;
        // What waits for a side of a tunnel goes out, whether or not it is asked for more.
        let mut stop = match conn.role {
            Role::Tunnel(_) if conn.held => Stop::Wait,
            _ => Stop::NeedInput,
        };
        let is_upstream = conn.upstream().is_some();
        let has_news = !kept.is_empty() || conn.http.has_body_to_come() || is_upstream;
        if let Some(key) = conn.link()
            && self.is_link_held(key)
        {
            stop = Stop::Wait;
        }
        if stop == Stop::NeedInput && has_news {
            // What is kept may have become useful: an answer is out, a hold is over. And the end of a
            // body of announced length needs no byte of its own.
            let used;
            (used, stop) = self.serve(id, &mut kept, &mut requests);
            kept.drain(..used);
        }
        let mut reads = self.limits.reads_per_turn;
        while stop == Stop::NeedInput {
            if reads == 0 {
                self.wake(id);
                break;
            }
            reads -= 1;
            match self.read(id, &mut inbox) {
                Got::Bytes(n) if kept.is_empty() => {
                    let used;
                    (used, stop) = self.serve(id, &mut inbox[..n], &mut requests);
                    kept.extend_from_slice(&inbox[used..n]);
                }
                Got::Bytes(n) => {
                    kept.extend_from_slice(&inbox[..n]);
                    let used;
                    (used, stop) = self.serve(id, &mut kept, &mut requests);
                    kept.drain(..used);
                }
                Got::Nothing => break,
                Got::End => {
                    self.on_eof(id);
                    break;
                }
            }
        }
        self.inbox = inbox;
        if let Some(conn) = self.conns.get_mut(id)
            && !kept.is_empty()
        {
            // A byte is not to keep the memory of a gulp.
            kept.shrink_to(2 * kept.len());
            conn.kept = kept;
        }
        // What drain callbacks write from here on waits for the next run.
        self.running = None;
        self.flush(id);
        self.conclude(id);
    }

    /// Takes what there is of the input, and says how much that was.
    fn serve(&mut self, id: ConnId, input: &mut [u8], budget: &mut usize) -> (usize, Stop) {
        let Some(conn) = self.conns.get(id) else {
            return (0, Stop::Over);
        };
        match conn.role {
            Role::Link(_) => return (input.len(), self.serve_link(id, input)),
            Role::Tunnel(key) => return (input.len(), self.serve_tunnel(id, key, input)),
            Role::Upstream(_) => {
                let mut rest = &*input;
                let stop = self.serve_upstream(id, &mut rest);
                return (input.len() - rest.len(), stop);
            }
            Role::Preface | Role::Http | Role::Socket(_) => {}
        }
        let mut used = 0;
        if conn.socket().is_none() {
            let mut rest = &*input;
            let stop = match self.serve_preface(id, &mut rest) {
                Some(stop) => stop,
                None => self.serve_http(id, &mut rest, budget),
            };
            used = input.len() - rest.len();
            if stop != Stop::Switched {
                return (used, stop);
            }
            // What it has become may be there in the next turn only.
            if self
                .conns
                .get(id)
                .is_none_or(|conn| conn.socket().is_none())
            {
                return (used, Stop::Wait);
            }
        }
        let (more, stop) = self.serve_socket(id, &mut input[used..], budget);
        (used + more, stop)
    }

    /// Takes events from the input until it is used up, or has to wait.
    fn serve_http(&mut self, id: ConnId, input: &mut &[u8], requests: &mut usize) -> Stop {
        loop {
            // What callbacks ask for from here on would wait in memory: the input waits instead.
            if self.commands_left == 0 {
                self.wake(id);
                return Stop::Wait;
            }
            let cork = self.cork.len();
            let Some(conn) = self.conns.get_mut(id) else {
                return Stop::Over;
            };
            if conn.held && conn.http.has_body_to_come() {
                return Stop::Wait;
            }
            if !conn.http.is_answering() {
                // Between exchanges is the place to stop: for a client that asks but does not take …
                if conn.backlog.bytes() + cork > self.limits.high_water {
                    return self.make_room(id);
                }
                // … and for one that asks more than its share of a turn.
                if *requests == 0 && !input.is_empty() {
                    self.wake(id);
                    return Stop::Wait;
                }
            }
            let mut slots = head::slots();
            match conn
                .http
                .poll_event(input, &mut slots, &self.bounds, self.now)
            {
                Ok(Event::Request(head)) => {
                    *requests = requests.saturating_sub(1);
                    self.on_request(id, &head, input);
                }
                Ok(Event::Data(bytes)) => self.on_data(id, bytes),
                Ok(Event::End(trailers)) => self.on_body_end(id, trailers),
                Ok(Event::NeedInput) => return Stop::NeedInput,
                Ok(Event::Paused) => return Stop::Wait,
                Ok(Event::Closed) => return Stop::Over,
                Ok(Event::Switched) => return Stop::Switched,
                Err(error) => {
                    self.refuse(id, error);
                    return Stop::Over;
                }
            }
            self.settle();
        }
    }

    /// Much has been answered: what the socket takes now need not wait, and need not be kept.
    pub(super) fn make_room(&mut self, id: ConnId) -> Stop {
        self.flush(id);
        let Some(conn) = self.conns.get_mut(id) else {
            return Stop::Over;
        };
        conn.wants_room = true;
        if conn.backlog.is_empty() {
            self.wake(id);
        }
        Stop::Wait
    }

    fn read(&mut self, id: ConnId, inbox: &mut [u8]) -> Got {
        let Some(conn) = self.conns.get_mut(id) else {
            return Got::Nothing;
        };
        if !conn.readable || conn.eof {
            return Got::Nothing;
        }
        match self.net.read(conn.sock, inbox) {
            Ok(0) => {
                conn.readable = false;
                conn.eof = true;
                Got::End
            }
            Ok(n) => {
                // A short read has emptied the socket; only an end that has been announced is left.
                conn.readable = n == inbox.len() || conn.read_closed;
                if let Some(key) = conn.socket()
                    && let Some(attached) = self.sockets.get_mut(key as usize)
                {
                    attached.hear(n, self.now);
                }
                Got::Bytes(n)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                conn.readable = false;
                Got::Nothing
            }
            Err(e) => {
                log::debug!("{}: read: {e}", conn.peer);
                self.cut(id, "the connection broke");
                Got::Nothing
            }
        }
    }

    fn on_eof(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if let Some(key) = conn.socket() {
            return self.on_socket_eof(id, key);
        }
        match conn.role {
            Role::Link(_) => return self.cut(id, LinkHandle::ENDED),
            Role::Upstream(_) => return self.on_upstream_eof(id),
            Role::Tunnel(key) => return self.on_tunnel_eof(id, key),
            // A look whether we listen, most likely.
            Role::Preface => return self.cut(id, "closed before its PROXY header"),
            Role::Http | Role::Socket(_) => {}
        }
        let cut_off = conn.http.handle_eof();
        if cut_off && conn.exchange.is_some() {
            // The body will never be whole, so there is nothing to answer.
            return self.give_up(id, "the client left in the middle of its request");
        }
        self.tell_gone(id);
    }

    /// Writes what has been answered; keeps what the socket does not take.
    pub(super) fn flush(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            self.cork.clear();
            return;
        };
        if !self.cork.is_empty() {
            if conn.backlog.is_empty() && !conn.blocked {
                match self.net.write(conn.sock, &self.cork, false) {
                    Ok(n) if n == self.cork.len() => {}
                    Ok(n) => keep(conn, &self.cork[n..]),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => keep(conn, &self.cork),
                    Err(e) => {
                        log::debug!("{}: write: {e}", conn.peer);
                        self.cork.clear();
                        return self.cut(id, "the connection broke");
                    }
                }
                self.cork.clear();
            } else {
                Output {
                    cork: &mut self.cork,
                    backlog: &mut conn.backlog,
                }
                .seal();
            }
        }
        self.drain_backlog(id);
    }

    pub(super) fn drain_backlog(&mut self, id: ConnId) {
        let now = self.now;
        let mut budget = self.limits.writes_per_turn;
        while let Some(conn) = self.conns.get_mut(id)
            && !conn.backlog.is_empty()
            && !conn.blocked
        {
            if budget == 0 {
                self.wake(id);
                break;
            }
            match write_some(&mut self.net, conn, budget) {
                Ok(0) => return self.cut(id, "a file became shorter while it was sent"),
                Ok(n) => {
                    conn.backlog.advance(n as u64);
                    conn.progress = now;
                    budget = budget.saturating_sub(n);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => conn.blocked = true,
                Err(e) => {
                    log::debug!("{}: write: {e}", conn.peer);
                    return self.cut(id, "the connection broke");
                }
            }
        }
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.blocked && !conn.wants_write {
            conn.wants_write = true;
            let sock = conn.sock;
            if !self.register(id) {
                return;
            }
            if let Err(e) = self.net.want_write(sock, id.token()) {
                log::error!("cannot wait for a connection: {e}");
                return self.cut(id, "it cannot be waited for");
            }
        }
        self.after_flush(id);
    }

    /// Has readiness reported, from the first time a connection has to wait. `false`: it is gone.
    pub(super) fn register(&mut self, id: ConnId) -> bool {
        let Some(conn) = self.conns.get_mut(id) else {
            return false;
        };
        if std::mem::replace(&mut conn.registered, true) {
            return true;
        }
        let registered = self.net.register(conn.sock, id.token());
        if let Err(e) = &registered {
            log::error!("cannot wait for a connection: {e}");
            self.cut(id, "it cannot be waited for");
        }
        registered.is_ok()
    }

    /// Tells producers what waits now; there may be room again.
    fn after_flush(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        let waits = conn.backlog.bytes();
        if let Some(key) = conn.socket() {
            if conn.wants_room && waits <= self.limits.high_water / 2 {
                self.wake(id);
            }
            return self.after_socket_flush(id, key, waits);
        }
        match conn.role {
            Role::Link(_) => return self.after_link_flush(id, waits),
            Role::Tunnel(key) => return self.after_tunnel_flush(id, key, waits),
            Role::Preface | Role::Http | Role::Socket(_) | Role::Upstream(_) => {}
        }
        let Some(key) = conn.exchange else {
            if conn.wants_room && waits <= self.limits.high_water / 2 {
                self.wake(id);
            }
            return;
        };
        let Some(exchange) = self.exchanges.get_mut(key as usize) else {
            return;
        };
        if let Some(flow) = &exchange.flow {
            flow.buffered.set(waits);
        }
        exchange.follows &= waits > 0;
        if waits > self.limits.high_water / 2 {
            return;
        }
        let calls = std::mem::take(&mut exchange.on_drain);
        let feeders = std::mem::take(&mut exchange.feeders);
        for from in feeders {
            self.resume(from);
        }
        for call in calls {
            self.call("a drain callback", call);
        }
        self.settle();
    }

    /// What is next for a connection that has run: the end, or a wait with a deadline.
    fn conclude(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.is_spent() {
            return self.release(id);
        }
        if conn.link().is_some() && conn.backlog.is_empty() && self.is_link_spent(id) {
            return self.cut(id, "closed");
        }
        if !self.register(id) {
            return;
        }
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let waits = !conn.backlog.is_empty();
        if waits && !conn.waits {
            conn.progress = self.now;
        }
        if !waits && conn.waits {
            conn.http.answer_taken(self.now);
        }
        conn.waits = waits;
        if waits && conn.progress == self.now {
            conn.taken = self.net.taken(conn.sock);
        }
        let reading = !(conn.held && conn.http.has_body_to_come());
        let (role, is_ours) = (conn.role, conn.ours);
        let (socket, progress, holds) =
            (conn.socket(), conn.progress, conn.http.has_body_to_come());
        let input = match socket {
            None => conn.http.next_deadline(&self.bounds.waits, reading),
            Some(key) => self.socket_deadline(key),
        };
        let output = (waits && !is_ours).then(|| progress + self.timeouts.write);
        // While its output waits, a client is not asked for more.
        let input = match role {
            Role::Upstream(_) => self.upstream_deadline(id),
            Role::Tunnel(key) => self.tunnel_deadline(key),
            _ => input,
        };
        let deadline = match output {
            Some(output) if !holds => Some(output),
            _ => input.into_iter().chain(output).min(),
        };
        let is_idle = self.conns.get(id).is_some_and(|conn| conn.http.is_idle());
        let deadline = if self.stopping.is_draining() && !waits && is_idle {
            Some(self.now + self.timeouts.drain_idle)
        } else {
            deadline
        };
        self.arm(id, deadline);
    }

    /// Closes a connection whose answers are out. One that may still be sending is only told so
    /// first, and closed when it has stopped: closing with unread input resets the connection, and
    /// the reset overtakes the answer (RFC 9112 §9.6).
    pub(super) fn release(&mut self, id: ConnId) {
        let linger = match self.stopping.is_draining() {
            true => self.timeouts.linger.min(self.timeouts.drain_idle),
            false => self.timeouts.linger,
        };
        self.release_within(id, linger);
    }

    pub(super) fn release_within(&mut self, id: ConnId, linger: Duration) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let may_send =
            !conn.eof && (conn.http.left_unread() || conn.readable || !conn.kept.is_empty());
        if !may_send || conn.linger_until.is_some() || linger.is_zero() {
            return self.conns.kill(id);
        }
        let until = self.now + linger;
        conn.linger_until = Some(until);
        conn.kept = Vec::new();
        self.net.shutdown_write(conn.sock);
        if !self.register(id) {
            return;
        }
        self.arm(id, Some(until));
        self.wake(id);
    }

    /// Reads and drops what a client still sends, until it stops.
    fn linger_on(&mut self, id: ConnId) {
        let mut inbox = std::mem::take(&mut self.inbox);
        for _ in 0..self.limits.reads_per_turn {
            match self.read(id, &mut inbox) {
                Got::Bytes(_) => {}
                Got::Nothing => break,
                Got::End => {
                    self.conns.kill(id);
                    break;
                }
            }
        }
        self.inbox = inbox;
        if let Some(conn) = self.conns.get(id) {
            let (until, is_readable) = (conn.linger_until, conn.readable);
            self.arm(id, until);
            if is_readable {
                self.wake(id);
            }
        }
    }

    /// Ends an exchange that cannot be completed. What was answered before it still goes out, and
    /// then the connection closes.
    pub(super) fn give_up(&mut self, id: ConnId, why: &str) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.http.ends_with_connection() {
            // Only a reset tells this client that it has a part, and not the whole.
            return self.cut(id, why);
        }
        log::debug!("{}: given up: {why}", conn.peer);
        conn.http.abort();
        self.abandon(id);
        self.wake(id);
    }

    /// Ends a connection at once, whatever is open on it. Whoever waits for it is told.
    pub(super) fn cut(&mut self, id: ConnId, why: &str) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        log::debug!("{}: cut: {why}", conn.peer);
        if conn.upstream().is_some() {
            return self.end_upstream(id, FetchError::Closed(why.into()));
        }
        conn.reset = conn.http.ends_with_connection();
        conn.backlog.clear();
        conn.http.abort();
        self.abandon(id);
        self.end_socket(id, BROKEN);
        self.end_link(id, why);
        self.end_tunnel(id);
        self.conns.kill(id);
    }
}

fn keep(conn: &mut Conn, rest: &[u8]) {
    conn.backlog.push(Bytes::copy_from_slice(rest));
    conn.blocked = true;
}

/// One system call's worth of the backlog. 0 means a file that has become too short.
fn write_some<N: Net>(net: &mut N, conn: &mut Conn, budget: usize) -> Result<usize> {
    match conn.backlog.front() {
        None => Ok(0),
        Some(Segment::File(slice)) => net.send_file(
            conn.sock,
            &slice.file,
            slice.offset,
            slice.len.min(budget as u64),
        ),
        Some(Segment::Bytes(_)) => {
            let mut slices = [IoSlice::new(b""); SLICES];
            let n = conn.backlog.gather(&mut slices, budget);
            let total: usize = slices[..n].iter().map(|slice| slice.len()).sum();
            let written = match slices[..n] {
                // A head before a file: the packet may wait for the file's first bytes.
                [one] => net.write(conn.sock, &one, conn.backlog.has_more())?,
                ref several => net.write_vectored(conn.sock, several)?,
            };
            if written < total {
                conn.blocked = true;
            }
            Ok(written)
        }
    }
}
