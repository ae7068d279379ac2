//! Floor 3. One connection: its socket, its protocol, what it keeps, and how long it may wait.
//!
//! Pure data. An idle connection is this struct and one timer entry: no buffer of its own. `kept`
//! and `backlog` own memory only while there is something in them.
//!
//! ```text
//! accept ─► open ──────────────► closing (answers are out) ─► lingering ─► dead ─► reaped
//!             └──── broken, cut, refused by time ──────────────────────────▲
//! ```
//! A WebSocket begins as HTTP: `http` has then switched, and `role` names what speaks in its place. What a trusted
//! proxy opens begins as a preface, which says whose connection it is: `peer` is its source from then on.
//!
//! Invariants: a dead connection is out of everybody's reach, for its generation is taken from it
//! at once; `exchange` is there exactly while an answer is being waited for or streamed.

use crate::base::backlog::Backlog;
use crate::base::clock::Instant;
use crate::base::id::ConnId;
use crate::base::wheel::TimerId;
use crate::net::{Peer, Sock};
use crate::proto::h1::server::Server as Http1;
use slab::Slab;

pub(crate) struct Conn {
    pub(crate) sock: Sock,
    /// 0: dead.
    generation: u32,
    pub(crate) peer: Peer,
    pub(crate) http: Http1,
    /// Input that has arrived and could not be used yet.
    pub(crate) kept: Vec<u8>,
    /// Output that the socket refused.
    pub(crate) backlog: Backlog,
    /// Number of the exchange whose answer is still open.
    pub(crate) exchange: Option<u32>,
    pub(crate) role: Role,
    /// We have made it: it is nobody's client.
    pub(crate) ours: bool,
    timer: Option<(TimerId, Instant)>,
    pub(crate) deadline: Option<Instant>,
    /// The backlog last got shorter.
    pub(crate) progress: Instant,
    /// What the peer had taken then: the kernel asks for more only when there is much room.
    pub(crate) taken: u64,
    /// There was a backlog when it last ran.
    pub(crate) waits: bool,
    pub(crate) linger_until: Option<Instant>,
    /// In the runnable queue.
    pub(crate) queued: bool,
    /// The socket may have input: an edge came, and no short read since.
    pub(crate) readable: bool,
    /// The peer has closed its sending side; reading will come to it.
    pub(crate) read_closed: bool,
    /// Reading has come to the end.
    pub(crate) eof: bool,
    /// A write fell short, and no edge since.
    pub(crate) blocked: bool,
    /// A write has failed: what has come before may still be read, and then the error.
    pub(crate) broken: bool,
    /// Something was written since a request began on it.
    pub(crate) wrote: bool,
    pub(crate) registered: bool,
    pub(crate) wants_write: bool,
    /// The app does not take the body at present.
    pub(crate) held: bool,
    /// Cut in the middle of an answer that only a reset can tell from a whole one.
    pub(crate) reset: bool,
    /// Requests have arrived, and wait for room for their answers.
    pub(crate) wants_room: bool,
}

/// What speaks on a connection: with the number of its record, where it has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// A PROXY header comes first, and HTTP then: until it has come, nobody knows whose connection it is.
    Preface,
    /// We serve HTTP.
    Http,
    /// The WebSocket that it has become.
    Socket(u32),
    /// The link that it was made for.
    Link(u32),
    /// We ask, and an upstream answers.
    Upstream(u32),
    /// One of two that pass each other's bytes on.
    Tunnel(u32),
}

impl Conn {
    /// One that we make.
    pub(crate) fn ours(sock: Sock, peer: Peer, role: Role, now: Instant) -> Conn {
        let mut conn = Conn::new(sock, peer, now);
        conn.http.hand_over();
        Conn {
            role,
            ours: true,
            ..conn
        }
    }

    /// It is a client's, and is counted for that client's address.
    pub(crate) fn is_counted(&self) -> bool {
        !self.ours && self.role != Role::Preface
    }

    pub(crate) fn socket(&self) -> Option<u32> {
        match self.role {
            Role::Socket(key) => Some(key),
            _ => None,
        }
    }

    /// What it has sent is of use though it has broken since.
    pub(crate) fn is_read_to_the_end(&self) -> bool {
        matches!(self.role, Role::Upstream(_) | Role::Tunnel(_))
    }

    pub(crate) fn link(&self) -> Option<u32> {
        match self.role {
            Role::Link(key) => Some(key),
            _ => None,
        }
    }

    pub(crate) fn upstream(&self) -> Option<u32> {
        match self.role {
            Role::Upstream(key) => Some(key),
            _ => None,
        }
    }

    pub(crate) fn new(sock: Sock, peer: Peer, now: Instant) -> Conn {
        Conn {
            sock,
            generation: 0,
            peer,
            http: Http1::new(now),
            kept: Vec::new(),
            backlog: Backlog::default(),
            exchange: None,
            role: Role::Http,
            ours: false,
            timer: None,
            deadline: None,
            progress: now,
            taken: 0,
            waits: false,
            linger_until: None,
            queued: false,
            // Accepted with its first bytes, most likely: read before asking.
            readable: true,
            read_closed: false,
            eof: false,
            blocked: false,
            broken: false,
            wrote: false,
            registered: false,
            wants_write: false,
            held: false,
            reset: false,
            wants_room: false,
        }
    }

    /// The timer in the wheel, and when it fires.
    pub(crate) fn timer(&mut self) -> &mut Option<(TimerId, Instant)> {
        &mut self.timer
    }

    pub(crate) fn has_timer(&self) -> bool {
        self.timer.is_some()
    }

    /// Answers are out, input is worthless: only closing is left.
    pub(crate) fn is_spent(&self) -> bool {
        self.http.is_closed() && !self.http.is_answering() && self.backlog.is_empty()
    }
}

/// The slab of connections. Reaching one takes its generation, too.
#[derive(Default)]
pub(crate) struct Conns {
    slab: Slab<Conn>,
    last_generation: u32,
    dead: Vec<u32>,
    /// How many of them we have made.
    ours: usize,
}

impl Conns {
    pub(crate) fn insert(&mut self, mut conn: Conn) -> ConnId {
        // Skips 0, which is nobody's. A number comes again after 2^32 connections.
        self.last_generation = self.last_generation.checked_add(1).unwrap_or(1);
        conn.generation = self.last_generation;
        let generation = conn.generation;
        self.ours += usize::from(conn.ours);
        ConnId {
            slot: self.slab.insert(conn) as u32,
            generation,
        }
    }

    pub(crate) fn get(&self, id: ConnId) -> Option<&Conn> {
        self.slab
            .get(id.slot as usize)
            .filter(|conn| conn.generation == id.generation)
    }

    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.slab
            .get_mut(id.slot as usize)
            .filter(|conn| conn.generation == id.generation)
    }

    /// Takes it out of everybody's reach; the slot stays taken until the turn ends.
    pub(crate) fn kill(&mut self, id: ConnId) {
        if let Some(conn) = self.get_mut(id) {
            conn.generation = 0;
            self.dead.push(id.slot);
        }
    }

    /// The dead, slot by slot, at the end of a turn.
    pub(crate) fn reap(&mut self) -> Option<Conn> {
        let slot = self.dead.pop()?;
        let conn = self.slab.try_remove(slot as usize)?;
        self.ours -= usize::from(conn.ours);
        Some(conn)
    }

    /// How many we have made, those of the dead included.
    pub(crate) fn ours(&self) -> usize {
        self.ours
    }

    /// Slots in use, those of the dead included.
    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// The living.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Conn> {
        let all = self.slab.iter().map(|(_, conn)| conn);
        all.filter(|conn| conn.generation != 0)
    }

    /// Whose the clients' are that are counted, those of the dead included.
    pub(crate) fn peers(&self) -> impl Iterator<Item = Peer> {
        let clients = self.slab.iter().filter(|(_, conn)| conn.is_counted());
        clients.map(|(_, conn)| conn.peer)
    }

    /// The living, in the order of their slots.
    pub(crate) fn ids(&self) -> Vec<ConnId> {
        let id = |(slot, conn): (usize, &Conn)| ConnId {
            slot: slot as u32,
            generation: conn.generation,
        };
        self.slab
            .iter()
            .map(id)
            .filter(|id| id.generation != 0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There are as many of these as clients.
    #[test]
    fn an_idle_connection_is_small() {
        assert_eq!(size_of::<Role>(), 8);
        let size = size_of::<Conn>();
        assert!(size <= 320, "{size} bytes");
    }
}
