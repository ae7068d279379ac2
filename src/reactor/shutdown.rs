//! Floor 3. Stopping without losing anybody's answer.
//!
//! ```text
//! running ─ stop ─► draining: what waits in the accept queues is accepted, listeners close, every
//!    │                 │       answer says `connection: close`; idle connections get a grace
//!    │                 ├─ all connections gone ─► stopped
//!    └─ stop, now ─────┴─ second stop, or the deadline ─► the rest is cut ─► stopped
//! ```

use super::Reactor;
use super::conn::Role;
use super::socket::LEAVING;
use crate::app::ctx::Timer;
use crate::net::Net;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Stopping {
    #[default]
    No,
    Draining,
    Stopped,
}

impl Stopping {
    pub(super) fn is_draining(self) -> bool {
        self != Stopping::No
    }
}

impl<N: Net, S: 'static> Reactor<N, S> {
    pub(super) fn stop(&mut self, now: bool) {
        if now || self.stopping.is_draining() {
            return self.cut_all();
        }
        for listener in 0..self.acceptable.len() {
            self.take_queue(listener);
        }
        self.stopping = Stopping::Draining;
        for listener in 0..self.net.listeners() {
            self.net.close_listener(listener);
        }
        for id in self.conns.ids() {
            if let Some(conn) = self.conns.get_mut(id) {
                conn.http.drain();
                if conn.socket().is_some() {
                    self.close_socket(id, LEAVING);
                }
            }
        }
        let now = self.now;
        self.core.timers.insert(
            now + self.timeouts.drain_idle.min(self.timeouts.drain),
            Timer::DrainIdle,
        );
        self.core
            .timers
            .insert(now + self.timeouts.drain, Timer::Drain);
        log::info!("draining {} connections", self.clients());
    }

    /// Closing a listener resets the connections in its queue, so they are accepted first.
    pub(super) fn take_queue(&mut self, listener: usize) {
        self.acceptable[listener] = true;
        // As many as fit in a listener's queue, so that a failing accept cannot hold us here.
        for _ in 0..crate::net::ACCEPT_QUEUE {
            if self.acceptable[listener] && self.can_accept() {
                self.accept_one(listener);
            }
        }
    }

    /// The grace of a drain is over: whoever has not asked for anything by now will not.
    pub(super) fn close_idle(&mut self) {
        for id in self.conns.ids() {
            if let Some(conn) = self.conns.get_mut(id)
                && conn.http.is_idle()
                && conn.backlog.is_empty()
                && conn.linger_until.is_none()
            {
                conn.http.abort();
                self.release_within(id, self.timeouts.drain_idle);
            }
        }
    }

    /// Ends what is still open. Exchanges and answers that are cut are counted.
    pub(super) fn cut_all(&mut self) {
        self.stopping = Stopping::Draining;
        for listener in 0..self.net.listeners() {
            self.net.close_listener(listener);
        }
        for id in self.conns.ids() {
            let Some(conn) = self.conns.get(id) else {
                continue;
            };
            let is_tunnel = matches!(conn.role, Role::Tunnel(_)) && !conn.ours;
            if conn.http.is_answering() || !conn.backlog.is_empty() || is_tunnel {
                self.cut_answers += 1;
            }
            self.end_socket(id, LEAVING);
            self.cut(id, "the server leaves");
        }
        self.stopping = Stopping::Stopped;
    }

    pub(super) fn is_stopped(&self) -> bool {
        match self.stopping {
            Stopping::No => false,
            // Links are ours: nobody waits for them.
            Stopping::Draining => self.clients() == 0,
            Stopping::Stopped => true,
        }
    }

    /// How many connections were cut in the middle of an answer because the drain's deadline had
    /// passed, or because the server was told to leave at once.
    pub fn cut_connections(&self) -> usize {
        self.cut_answers
    }
}
