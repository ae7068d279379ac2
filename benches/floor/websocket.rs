//! The floor of a WebSocket server: per readiness one `read`, the payload unmasked where it lies, the server's
//! header put over the end of the client's, and one `write` of it from there; for a broadcast one `write` for
//! each subscriber.
//!
//! Nothing is checked, no opcode, no limit, no UTF-8, and the answer to the handshake is a constant: that to
//! the key of RFC 6455's own example, which `benches/ws_load.rs` sends. A message that is longer than what
//! arrived of it is passed on piece by piece.

use super::{EVENTS, READ, data};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventFlags};
use rustix::io::{Errno, read, write};
use rustix::net::{SocketFlags, accept_with, sockopt::set_tcp_nodelay};
use std::os::fd::{AsRawFd, OwnedFd};

const ANSWER: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Room for what a socket holds of a few large messages.
const INPUT: usize = 256 * 1024;

struct Connection {
    socket: OwnedFd,
    /// The handshake is answered.
    open: bool,
    /// What it sends goes to all others at `/topic`, not back.
    topic: bool,
    /// What is to come of a message whose beginning has been passed on, and the mask for it.
    left: usize,
    mask: [u8; 4],
    /// The beginning of a header.
    head: Vec<u8>,
    /// What the socket did not take.
    unsent: Vec<u8>,
    /// It has come to wait for room once, so epoll tells of room from then on.
    wants_write: bool,
}

impl Connection {
    fn new(socket: OwnedFd) -> Connection {
        Connection {
            socket,
            open: false,
            topic: false,
            left: 0,
            mask: [0; 4],
            head: Vec::new(),
            unsent: Vec::new(),
            wants_write: false,
        }
    }

    fn send(&mut self, epoll: &OwnedFd, bytes: &[u8]) {
        let taken = match self.unsent.is_empty() {
            true => write(&self.socket, bytes).unwrap_or(0),
            false => 0,
        };
        if taken < bytes.len() {
            self.unsent.extend_from_slice(&bytes[taken..]);
            if !std::mem::replace(&mut self.wants_write, true) {
                let both = READ | EventFlags::OUT;
                // If it cannot, the next read ends it.
                let _ = epoll::modify(epoll, &self.socket, data(&self.socket), both);
            }
        }
    }
}

/// Listens for WebSockets until it is killed.
pub(super) fn run(listener: OwnedFd) -> Result<(), Errno> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, data(&listener), READ)?;
    let mut floor = Floor {
        epoll,
        connections: Vec::new(),
        subscribers: Vec::new(),
        output: Vec::new(),
    };
    let mut events = Vec::with_capacity(EVENTS);
    let mut input = vec![0; INPUT];
    loop {
        // A wait cut short by a signal leaves no events: the next round waits again.
        let _ = epoll::wait(&floor.epoll, spare_capacity(&mut events), None);
        for event in events.drain(..) {
            let fd = event.data.u64() as usize;
            if fd == listener.as_raw_fd() as usize {
                floor.accept(&listener);
            } else {
                floor.serve(fd, event.flags, &mut input);
            }
        }
    }
}

struct Floor {
    epoll: OwnedFd,
    /// Open connections, each at the index of its own descriptor.
    connections: Vec<Option<Connection>>,
    /// Those at `/topic`.
    subscribers: Vec<usize>,
    /// Frames that came together, on their way back.
    output: Vec<u8>,
}

impl Floor {
    fn accept(&mut self, listener: &OwnedFd) {
        while let Ok(socket) = accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            let fd = socket.as_raw_fd() as usize;
            // Subscribers say nothing, and acknowledge late: without this the kernel would wait for it.
            if set_tcp_nodelay(&socket, true).is_ok()
                && epoll::add(&self.epoll, &socket, data(&socket), READ).is_ok()
            {
                if self.connections.len() <= fd {
                    self.connections.resize_with(fd + 1, || None);
                }
                self.connections[fd] = Some(Connection::new(socket));
            }
        }
    }

    fn serve(&mut self, fd: usize, ready: EventFlags, input: &mut [u8]) {
        let Some(mut connection) = self.connections[fd].take() else {
            return;
        };
        if ready.contains(EventFlags::OUT) && !connection.unsent.is_empty() {
            let unsent = std::mem::take(&mut connection.unsent);
            connection.send(&self.epoll, &unsent);
        }
        if ready.contains(EventFlags::IN) && !self.take_input(&mut connection, fd, input) {
            self.subscribers.retain(|other| *other != fd);
        } else {
            self.connections[fd] = Some(connection);
        }
    }

    /// Edge-triggered: until a read falls short. False: the connection is done with.
    fn take_input(&mut self, connection: &mut Connection, fd: usize, input: &mut [u8]) -> bool {
        loop {
            let kept = connection.head.len();
            let n = match read(&connection.socket, &mut input[kept..]) {
                Ok(0) => return false,
                Ok(n) => kept + n,
                Err(e) => return e == Errno::AGAIN,
            };
            input[..kept].copy_from_slice(&connection.head);
            connection.head.clear();
            let arrived = &mut input[..n];
            if connection.open {
                self.pass_on(connection, arrived);
            } else if arrived.ends_with(b"\r\n\r\n") {
                connection.open = true;
                // An idle socket keeps nothing.
                connection.head = Vec::new();
                connection.topic = arrived.starts_with(b"GET /topic ");
                if connection.topic {
                    self.subscribers.push(fd);
                }
                connection.send(&self.epoll, ANSWER);
            } else {
                connection.head.extend_from_slice(arrived);
            }
            if n < input.len() {
                return true;
            }
        }
    }

    fn pass_on(&mut self, connection: &mut Connection, arrived: &mut [u8]) {
        let (piece, mut rest) = arrived.split_at_mut(connection.left.min(arrived.len()));
        if !piece.is_empty() {
            unmask(piece, &mut connection.mask);
            connection.left -= piece.len();
            connection.send(&self.epoll, piece);
        }
        while let Some((head, len, mut mask)) = parse(rest) {
            let here = len.min(rest.len() - head);
            let (frame, more) = rest.split_at_mut(head + here);
            unmask(&mut frame[head..], &mut mask);
            (connection.left, connection.mask) = (len - here, mask);
            // The server's header is the client's without the mask, and without the bit that says so.
            frame.copy_within(..head - 4, 4);
            frame[5] &= 0x7f;
            let frame = &frame[4..];
            if connection.topic {
                // Whoever sends is out of `connections` for now, so it does not get its own.
                for other in &self.subscribers {
                    if let Some(other) = &mut self.connections[*other] {
                        other.send(&self.epoll, frame);
                    }
                }
            } else if more.is_empty() && self.output.is_empty() {
                return connection.send(&self.epoll, frame);
            } else {
                self.output.extend_from_slice(frame);
            }
            rest = more;
        }
        connection.head.extend_from_slice(rest);
        if !self.output.is_empty() {
            connection.send(&self.epoll, &self.output);
            self.output.clear();
        }
    }
}

/// Length of the header, length of the payload and mask of a client's frame, if its header is whole.
fn parse(bytes: &[u8]) -> Option<(usize, usize, [u8; 4])> {
    let (at, len) = match *bytes.get(1)? & 0x7f {
        126 => (
            4,
            u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?).into(),
        ),
        127 => (
            10,
            u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize,
        ),
        short => (2, short.into()),
    };
    Some((at + 4, len, bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Leaves the mask as the next piece needs it.
fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let wide = u64::from(u32::from_ne_bytes(*mask)) * 0x1_0000_0001;
    let turn = bytes.len() % 4;
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    mask.rotate_left(turn);
}
