//! Floor 3. What connections keep in memory, for a simulation to hold against the limits after each turn.

use super::Reactor;
use super::conn::Conn;
use super::exchange::Upload;
use crate::net::Net;

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

impl<N: Net, S: 'static> Reactor<N, S> {
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
        if conn.linger_until.is_some() {
            return may_read.then_some("there is more to drop");
        }
        let key = conn.exchange.unwrap_or(u32::MAX);
        let exchange = self.exchanges.get(key as usize);
        let is_waited_for = exchange.is_some_and(|exchange| {
            let is_fed = exchange.flow.is_some() && !exchange.feeders.is_empty();
            is_fed || !exchange.on_drain.is_empty()
        });
        let wants_input = match http.is_answering() {
            true => http.has_body_to_come() && !conn.held,
            false => !http.is_closed() && !conn.wants_room,
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
