//! Floor 3. Two connections that pass each other's bytes on: a client's and an upstream's, after 101.
//!
//! ```text
//! client ── bytes ─► upstream       each way on its own: open ─► its sender has closed ─► the rest is out,
//!        ◄── bytes ──                                             the receiver is told ─► both ways: dead
//! ```
//! Invariants: a side is held exactly while more than `limits.high_water` waits for the other; an end is
//! passed on behind the last byte, not before it; the server's side has its place in the pool until both are closed.

use super::Reactor;
use super::conn::{Conn, Role};
use super::io::Stop;
use super::upstream::Dialled;
use crate::app::response::Tx;
use crate::base::backlog::LARGE;
use crate::base::clock::Instant;
use crate::base::id::{ConnId, StreamRef};
use crate::net::Net;
use crate::proto::h1::answer::FieldBlock;
use std::time::Duration;

pub(super) struct Tunnel {
    /// The client's, and the server's.
    sides: [Side; 2],
    /// What the server's connection was, and counts as.
    dialled: Dialled,
    /// Either side last sent something.
    active: Instant,
    /// How long both may be silent.
    limit: Duration,
}

#[derive(Clone, Copy)]
struct Side {
    id: ConnId,
    /// It sends no more.
    ended: bool,
    /// The other has been told.
    told: bool,
}

impl<N: Net, S: 'static> Reactor<N, S> {
    /// An upstream has switched protocols, and a client is told so.
    pub(super) fn join_tunnel(&mut self, from: StreamRef, to: StreamRef, fields: &FieldBlock) {
        let is_waiting = self.is_waiting(to) && self.conns.get(to.conn).is_some();
        let group = self.dialled(from.conn).map(|dialled| dialled.group);
        let limit = group
            .and_then(|group| self.core.upstreams.get(group))
            .map(|group| group.timeouts().tunnel);
        let (true, Some(limit)) = (is_waiting && self.exchange_of(from).is_some(), limit) else {
            if self.is_asked(from) {
                self.let_go(from.conn);
            }
            return self.abort_answer(to);
        };
        let Some(dialled) = self.take_dialled(from.conn) else {
            return;
        };
        self.close_exchange(from.conn);
        self.end_answered(&dialled, from.conn, None);
        let side = |id| Side {
            id,
            ended: false,
            told: false,
        };
        let tunnel = Tunnel {
            sides: [side(to.conn), side(from.conn)],
            dialled,
            active: self.now,
            limit,
        };
        let key = self.tunnels.insert(tunnel) as u32;
        self.with_tx(to.conn, |tx| {
            let Tx {
                protocol,
                out,
                stock,
                ..
            } = tx;
            protocol.switch_protocols(out.cork, fields, stock);
        });
        self.complete(to.conn, false);
        for id in [to.conn, from.conn] {
            if let Some(conn) = self.conns.get_mut(id) {
                conn.role = Role::Tunnel(key);
                conn.held = false;
            }
            // What has come already is the other's.
            self.wake(id);
        }
    }

    fn side(&mut self, key: u32, id: ConnId) -> Option<(&mut Tunnel, usize)> {
        let tunnel = self.tunnels.get_mut(key as usize)?;
        let own = usize::from(tunnel.sides[0].id != id);
        Some((tunnel, own))
    }

    /// Passes bytes on.
    pub(super) fn serve_tunnel(&mut self, id: ConnId, key: u32, input: &[u8]) -> Stop {
        let now = self.now;
        let Some((tunnel, own)) = self.side(key, id) else {
            return Stop::Over;
        };
        tunnel.active = now;
        let other = tunnel.sides[1 - own].id;
        if !input.is_empty() && self.conns.get(other).is_some() {
            self.address(other);
            match input.len() >= LARGE {
                true => self.write_through(other, input),
                false => self.spare.extend_from_slice(input),
            }
            self.addressed(other);
        }
        let begins_to_wait = |conn: &Conn| !conn.waits && !conn.backlog.is_empty();
        if self.conns.get(other).is_some_and(begins_to_wait) {
            // To be given a deadline.
            self.wake(other);
        }
        match self.output_of(other) > self.limits.high_water {
            true => {
                if let Some(conn) = self.conns.get_mut(id) {
                    conn.held = true;
                }
                Stop::Wait
            }
            false => Stop::NeedInput,
        }
    }

    pub(super) fn on_tunnel_eof(&mut self, id: ConnId, key: u32) {
        if let Some((tunnel, own)) = self.side(key, id) {
            tunnel.sides[own].ended = true;
            let other = tunnel.sides[1 - own].id;
            let waits = self.output_of(other);
            self.after_tunnel_flush(other, key, waits);
        }
    }

    /// So much waits for this side now.
    pub(super) fn after_tunnel_flush(&mut self, id: ConnId, key: u32, waits: usize) {
        let half = self.limits.high_water / 2;
        let Some((tunnel, own)) = self.side(key, id) else {
            return;
        };
        let sender = &mut tunnel.sides[1 - own];
        let from = sender.id;
        let tell = waits == 0 && sender.ended && !std::mem::replace(&mut sender.told, true);
        let is_over = tunnel.sides.iter().all(|side| side.told);
        if tell && let Some(conn) = self.conns.get(id) {
            self.net.shutdown_write(conn.sock);
        }
        if is_over {
            return self.cut(id, "both sides have closed");
        }
        if waits <= half
            && let Some(conn) = self.conns.get_mut(from)
            && std::mem::take(&mut conn.held)
        {
            self.wake(from);
        }
    }

    /// What waits for the other side than this one.
    pub(super) fn tunnel_waits(&self, key: u32, own: &Conn) -> Option<usize> {
        let tunnel = self.tunnels.get(key as usize)?;
        let mut sides = tunnel
            .sides
            .iter()
            .filter_map(|side| self.conns.get(side.id));
        let other = sides.find(|conn| conn.sock != own.sock)?;
        Some(other.backlog.bytes())
    }

    /// Both are silent for too long, or this one takes nothing.
    pub(super) fn tunnel_deadline(&self, id: ConnId, key: u32) -> Option<Instant> {
        let (tunnel, conn) = (self.tunnels.get(key as usize)?, self.conns.get(id)?);
        let silence = tunnel.active + tunnel.limit;
        match conn.backlog.is_empty() {
            true => Some(silence),
            false => Some(silence.min(conn.progress + self.timeouts.write)),
        }
    }

    pub(super) fn on_tunnel_deadline(&mut self, id: ConnId, key: u32) {
        match self.tunnel_deadline(id, key) {
            Some(deadline) if deadline > self.now => self.arm(id, Some(deadline)),
            _ => self.cut(id, "nothing has come within timeouts.tunnel"),
        }
    }

    /// One side is cut: the other is closed.
    pub(super) fn end_tunnel(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let Role::Tunnel(key) = conn.role else { return };
        conn.role = Role::Http;
        if let Some(tunnel) = self.tunnels.try_remove(key as usize) {
            let Tunnel { sides, dialled, .. } = tunnel;
            let [client, server] = sides.map(|side| side.id);
            self.leave_group(&dialled, server);
            if id == client {
                // Its place is free from here on.
                self.cut(server, "the other side of its tunnel is gone");
            } else {
                // What waits for the client goes out yet: the last words, or an answer to a request before.
                if let Some(conn) = self.conns.get_mut(client) {
                    conn.role = Role::Http;
                    conn.http.abort();
                }
                self.wake(client);
            }
            self.run_group_soon(dialled.group);
        }
    }
}
