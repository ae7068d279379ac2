//! Floor 3. What connections keep in memory, for a simulation to hold against the limits after each turn.

use super::Reactor;
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
