//! Floor 0. Names for things that may be gone by the time somebody uses the name.
//!
//! A slot of the connection slab is reused; its generation is not. Whoever holds a [`ConnId`] of a
//! connection that has closed finds another generation in the slot, and is ignored. That is how a
//! stale readiness event, a late timer and a late answer all end: in one comparison.

use std::fmt;

/// One connection, for as long as it lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    /// Index into the reactor's slab.
    pub slot: u32,
    /// Raised each time the slot is given out; never 0.
    pub generation: u32,
}

impl ConnId {
    /// The 64 bits the operating system echoes back with each readiness event.
    pub const fn token(self) -> u64 {
        (self.generation as u64) << 32 | self.slot as u64
    }

    /// The inverse of [`ConnId::token`].
    pub const fn from_token(token: u64) -> ConnId {
        ConnId {
            slot: token as u32,
            generation: (token >> 32) as u32,
        }
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

/// One exchange (a request and its answer) on one connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamRef {
    /// The connection.
    pub conn: ConnId,
    /// The number of the exchange on it: 1, 2, 3 …
    pub stream: u32,
}

impl fmt::Debug for StreamRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}#{}", self.conn, self.stream)
    }
}

/// One request to an upstream, with all its tries, for as long as it is under way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct FetchId {
    /// Index into the reactor's slab.
    pub slot: u32,
    /// Raised each time the slot is given out; never 0.
    pub generation: u32,
}

/// One task, for as long as it runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct TaskId {
    /// Index into the loop's slab of tasks.
    pub slot: u32,
    /// Raised each time a slot is given out; never 0.
    pub generation: u32,
}

/// Names one request in logs: unique in this server's life, and unlikely to repeat in another's.
///
/// ```
/// use loopwright::App;
/// let mut app: App = App::new();
/// app.get("/id", |_, req, res| res.text(req.id().to_string())); // 16 hexadecimal digits
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct RequestId(pub(crate) u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
