//! The floor of a reverse proxy: what arrives on one side is written to the other, whatever it is.
//!
//! One connection to the upstream for each of a client, opened with it and closed with it; one buffer for all, one
//! `read` and one `write` per readiness and direction. What a socket does not take at once waits in memory, and
//! the side that it came from is not read meanwhile. An end of one side is the end of both.

use super::{Connected, EVENTS, READ, data};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventFlags};
use rustix::io::{Errno, read, write};
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::net::{SocketFlags, accept_with};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

/// What a socket holds of an answer of 100 KiB.
const BUFFER: usize = 128 * 1024;

struct Side {
    socket: OwnedFd,
    /// The index of the other side.
    peer: usize,
    /// What the other side has sent and this socket did not take.
    unsent: Vec<u8>,
    /// There may be something to read, which waits for room at the other side.
    readable: bool,
    /// It has come to wait for room once, so epoll tells of room from then on.
    wants_write: bool,
}

/// Relays until it is killed.
pub(super) fn run(listener: OwnedFd, upstream: u16) -> Result<(), Errno> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, data(&listener), READ)?;
    let mut relay = Relay {
        epoll,
        upstream: SocketAddrV4::new(Ipv4Addr::LOCALHOST, upstream),
        sides: Vec::new(),
        buffer: vec![0; BUFFER],
    };
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        // A wait cut short by a signal leaves no events: the next round waits again.
        let _ = epoll::wait(&relay.epoll, spare_capacity(&mut events), None);
        for event in events.drain(..) {
            let fd = event.data.u64() as usize;
            if fd == listener.as_raw_fd() as usize {
                relay.accept(&listener);
            } else if relay.serve(fd, event.flags).is_none() {
                relay.close(fd);
            }
        }
    }
}

struct Relay {
    epoll: OwnedFd,
    upstream: SocketAddrV4,
    /// Open sockets, each at the index of its own descriptor.
    sides: Connected<Side>,
    buffer: Vec<u8>,
}

impl Relay {
    fn accept(&mut self, listener: &OwnedFd) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        while let Ok(client) = accept_with(listener, flags) {
            // Over loopback it does not wait.
            let Ok(upstream) = TcpStream::connect(self.upstream) else {
                continue;
            };
            if upstream.set_nonblocking(true).is_err() {
                continue;
            }
            let upstream = OwnedFd::from(upstream);
            let (a, b) = (client.as_raw_fd() as usize, upstream.as_raw_fd() as usize);
            for (socket, peer) in [(client, b), (upstream, a)] {
                // What does not succeed shows at the first read.
                let _ = set_tcp_nodelay(&socket, true);
                let _ = epoll::add(&self.epoll, &socket, data(&socket), READ);
                let fd = socket.as_raw_fd() as usize;
                if self.sides.len() <= fd {
                    self.sides.resize_with(fd + 1, || None);
                }
                self.sides[fd] = Some(Side {
                    socket,
                    peer,
                    unsent: Vec::new(),
                    readable: false,
                    wants_write: false,
                });
            }
        }
    }

    /// Nothing: the connection is done with.
    fn serve(&mut self, fd: usize, ready: EventFlags) -> Option<()> {
        // The other side may have ended it in the same round.
        let Some(side) = self.sides.get_mut(fd).and_then(Option::as_mut) else {
            return Some(());
        };
        if ready.contains(EventFlags::OUT) && !side.unsent.is_empty() {
            let taken = written(&side.socket, &side.unsent)?;
            side.unsent.drain(..taken);
            let peer = side.peer;
            if side.unsent.is_empty() && self.sides[peer].as_ref()?.readable {
                self.relay(peer)?;
            }
        }
        // Else the end of a side would wait for its data to be told.
        match ready.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            true => self.relay(fd),
            false => Some(()),
        }
    }

    /// Reads until the socket is empty or the other one full.
    fn relay(&mut self, fd: usize) -> Option<()> {
        loop {
            let peer = self.sides[fd].as_ref()?.peer;
            let full = !self.sides[peer].as_ref()?.unsent.is_empty();
            let from = self.sides[fd].as_mut()?;
            from.readable = full;
            if full {
                return Some(());
            }
            let n = match read(&from.socket, &mut self.buffer[..]) {
                Ok(0) => return None,
                Ok(n) => n,
                Err(Errno::AGAIN) => return Some(()),
                Err(_) => return None,
            };
            let to = self.sides[peer].as_mut()?;
            let taken = written(&to.socket, &self.buffer[..n])?;
            if taken < n {
                to.unsent.extend_from_slice(&self.buffer[taken..n]);
                if !std::mem::replace(&mut to.wants_write, true) {
                    let both = READ | EventFlags::OUT;
                    epoll::modify(&self.epoll, &to.socket, data(&to.socket), both).ok()?;
                }
            }
            // A short read has emptied the socket.
            if n < BUFFER {
                return Some(());
            }
        }
    }

    fn close(&mut self, fd: usize) {
        if let Some(side) = self.sides[fd].take() {
            self.sides[side.peer] = None;
        }
    }
}

/// Nothing: the socket takes nothing any more.
fn written(socket: &OwnedFd, bytes: &[u8]) -> Option<usize> {
    match write(socket, bytes) {
        Ok(n) => Some(n),
        Err(Errno::AGAIN) => Some(0),
        Err(_) => None,
    }
}
