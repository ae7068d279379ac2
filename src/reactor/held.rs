//! Floor 3. What connections keep in memory, for a simulation to hold against the limits after each turn.

use super::Reactor;
use super::conn::{Conn, Role};
use super::exchange::Upload;
use super::upstream::Is;
use crate::net::Net;
use crate::upstream::pool::{Counters, QueueCounters};

/// What one connection keeps, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Input that could not be used yet.
    pub input: usize,
    /// The memory that is in.
    pub input_memory: usize,
    /// Output that the socket has not taken.
    pub output: usize,
    /// A body gathered for a handler that wants it whole, and its limit.
    pub body: (usize, u64),
}

/// How much is under way towards upstreams.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnderWay {
    /// Fetches.
    pub fetches: usize,
    /// Connections that are being made.
    pub dials: usize,
    /// Connections to upstreams: being made, in use and idle.
    pub dialled: usize,
    /// Tunnels.
    pub tunnels: usize,
    /// Of each upstream: who waits, and its servers' connections.
    pub pools: Vec<(QueueCounters, Vec<Counters>)>,
}

impl<N: Net, S: 'static> Reactor<N, S> {
    /// What is under way towards upstreams.
    #[doc(hidden)]
    pub fn under_way(&self) -> UnderWay {
        let upstreams = &self.core.upstreams;
        let groups = upstreams
            .numbers()
            .into_iter()
            .filter_map(|group| upstreams.get(group));
        let pools = groups.map(|group| {
            let servers = 0..group.servers.len();
            let counters = servers.map(|server| group.pool.counters(server));
            (group.pool.queue(), counters.collect())
        });
        UnderWay {
            fetches: self.core.fetches.len(),
            dials: self.dials.len(),
            dialled: self.dialled.len(),
            tunnels: self.tunnels.len(),
            pools: pools.collect(),
        }
    }

    /// What each living connection keeps.
    #[doc(hidden)]
    pub fn held(&self) -> impl Iterator<Item = Held> {
        self.conns.iter().map(|conn| {
            let exchange = conn
                .exchange
                .and_then(|key| self.exchanges.get(key as usize));
            let body = match exchange.map(|exchange| &exchange.upload) {
                Some(Upload::Collect(collect)) => collect.body.len(),
                _ => 0,
            };
            Held {
                input: conn.kept.len(),
                input_memory: conn.kept.capacity(),
                output: conn.backlog.bytes(),
                body: (body, conn.http.body_limit()),
            }
        })
    }

    /// Why connections that are not runnable should be: nobody will wake them for that.
    #[doc(hidden)]
    pub fn forgotten(&self) -> impl Iterator<Item = &'static str> {
        let asleep = self.conns.iter().filter(|conn| !conn.queued);
        asleep.filter_map(|conn| self.owes(conn))
    }

    fn owes(&self, conn: &Conn) -> Option<&'static str> {
        let (http, has_room) = (
            &conn.http,
            conn.backlog.bytes() <= self.limits.high_water / 2,
        );
        let may_read = conn.readable && !conn.eof;
        if conn.deadline.is_some() && !conn.has_timer() {
            return Some("its deadline has no timer");
        }
        if let Role::Upstream(key) = conn.role
            && let Some(dialled) = self.dialled.get(key as usize)
            && matches!(dialled.is, Is::Connecting(_))
        {
            return (!conn.blocked).then_some("it may be connected");
        }
        if let Role::Tunnel(key) = conn.role {
            let waits = self.tunnel_waits(key, conn);
            if conn.held && waits.is_some_and(|waits| waits <= self.limits.high_water / 2) {
                return Some("the other side of its tunnel has room");
            }
        }
        if conn.linger_until.is_some() {
            return may_read.then_some("there is more to drop");
        }
        let key = conn.exchange.unwrap_or(u32::MAX);
        let exchange = self.exchanges.get(key as usize);
        let is_waited_for = exchange.is_some_and(|exchange| {
            let is_fed = exchange.flow.is_some() && !exchange.feeders.is_empty();
            is_fed || !exchange.on_drain.is_empty()
        });
        let wants_input = match conn.role {
            Role::Upstream(_) | Role::Tunnel(_) => !conn.held,
            _ if http.is_answering() => http.has_body_to_come() && !conn.held,
            _ => !http.is_closed() && !conn.wants_room,
        };
        let reasons = [
            (conn.is_spent(), "only closing is left"),
            (
                !conn.backlog.is_empty() && !conn.blocked,
                "its socket takes what waits",
            ),
            (
                is_waited_for && has_room,
                "its producers wait for room, and there is",
            ),
            (
                conn.wants_room && has_room && exchange.is_none(),
                "it waits for room, and there is",
            ),
            (may_read && wants_input, "there is more to read"),
        ];
        let reason = reasons.into_iter().find(|(holds, _)| *holds);
        reason.map(|(_, what)| what)
    }

    /// Memory of the loop's own buffers.
    #[doc(hidden)]
    pub fn held_by_loop(&self) -> usize {
        self.inbox.capacity() + self.cork.capacity() + self.spare.capacity()
    }

    /// Somebody has something to do: the next turn may not wait.
    #[doc(hidden)]
    pub fn is_runnable(&self) -> bool {
        !self.runnable.is_empty()
    }
}
