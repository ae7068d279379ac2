//! Floor 1. Sockets and the clock behind one trait. [`mio`] is the real one, [`sim`] the seeded one;
//! nothing above can tell which it runs on.
//!
//! Readiness is edge-triggered: an edge is reported once, and whoever does not read until a short
//! read has to remember that there is more. A read shorter than its buffer has emptied the socket
//! (epoll(7)), so nobody asks again just to hear "would block".

#[cfg(feature = "dns")]
pub mod dns;
pub mod mio;
pub mod resolve;
pub mod sim;

use crate::base::clock::Instant;
use crate::base::lookup::{Answer, Failure, Question};
use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// Connections that may wait for `accept` on one listener; the kernel's own limit (somaxconn) may be
/// lower.
pub const ACCEPT_QUEUE: i32 = 4096;

/// What a client hears that cannot be served at all. Best effort: it fits in any socket's buffer.
pub(crate) const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n";

/// A socket, as its `Net` numbers them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Sock(pub u32);

/// What a readiness event is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The connection registered with this token.
    Conn(u64),
    /// The listener with this number has connections to accept.
    Listener(usize),
    /// Somebody called the [`Waker`].
    Waker,
}

/// One readiness event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    /// Who is ready.
    pub source: Source,
    /// There is something to read: bytes, the end, or an error.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The peer has closed its sending side.
    pub read_closed: bool,
    /// Both directions are closed, or the connection broke.
    pub broken: bool,
}

/// Where a connection comes from.
///
/// ```
/// use loopwright::Peer;
/// let peer = Peer::Inet("192.0.2.1:4711".parse().unwrap());
/// assert_eq!(peer.to_string(), "192.0.2.1:4711");
/// assert_eq!(peer.ip().unwrap().to_string(), "192.0.2.1");
/// assert_eq!(Peer::Unix.ip(), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// TCP, with the remote address.
    Inet(SocketAddr),
    /// A Unix socket; its clients have no address.
    Unix,
}

impl Peer {
    /// The remote IP address; `None` on a Unix socket.
    pub fn ip(&self) -> Option<std::net::IpAddr> {
        match self {
            Peer::Inet(addr) => Some(addr.ip()),
            Peer::Unix => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Inet(addr) => addr.fmt(f),
            Peer::Unix => f.write_str("unix"),
        }
    }
}

/// Where a connection of our own goes to.
///
/// ```
/// use loopwright::Target;
/// assert_eq!(Target::Unix("/run/redis.sock".into()).to_string(), "unix:/run/redis.sock");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// TCP.
    Inet(SocketAddr),
    /// A Unix socket, by its path.
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Inet(addr) => addr.fmt(f),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Ends a wait of [`Net::poll`] from any thread.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// Work for another thread. It says by its own means when it is done.
pub type Work = Box<dyn FnOnce() + Send>;

/// A look-up, for another thread.
pub type Lookup = Box<dyn FnOnce() -> Result<Answer, Failure> + Send>;

/// The world outside the loop.
pub trait Net {
    /// The monotonic clock, read anew.
    fn now(&self) -> Instant;
    /// The same clock, cheaper, and behind by a few milliseconds at most.
    fn coarse_now(&self) -> Instant {
        self.now()
    }
    /// The wall clock, for dates.
    fn wall_clock(&self) -> SystemTime;
    /// Waits until something is ready, until `until`, or not at all if that has passed.
    fn poll(&mut self, until: Option<Instant>, ready: &mut Vec<Ready>) -> io::Result<()>;
    /// Takes one connection from the queue of a listener.
    fn accept(&mut self, listener: usize) -> io::Result<(Sock, Peer)>;
    /// Tells a connection just accepted that there are too many, and closes it.
    fn refuse(&mut self, sock: Sock);
    /// Begins to connect; room to write tells that it is done, one way or the other.
    fn connect(&mut self, to: &Target) -> io::Result<(Sock, Peer)>;
    /// How connecting went: `WouldBlock` while it goes on.
    fn finish_connect(&mut self, sock: Sock) -> io::Result<()>;
    /// Takes over a connection that somebody else has made.
    fn adopt(&mut self, stream: UnixStream) -> io::Result<(Sock, Peer)>;
    /// How many listeners there are.
    fn listeners(&self) -> usize;
    /// Closes a listener for good.
    fn close_listener(&mut self, listener: usize);
    /// The address on our side of a connection, if it has one.
    fn local(&self, sock: Sock) -> Option<SocketAddr> {
        let _ = sock;
        None
    }
    /// From now on readability of `sock` is reported under `token`; what is there already, too.
    fn register(&mut self, sock: Sock, token: u64) -> io::Result<()>;
    /// From now on room to write is reported as well.
    fn want_write(&mut self, sock: Sock, token: u64) -> io::Result<()>;
    /// Reads; 0 is the end.
    fn read(&mut self, sock: Sock, into: &mut [u8]) -> io::Result<usize>;
    /// Writes what fits. `more`: something follows at once, so a partial packet can wait for it.
    fn write(&mut self, sock: Sock, bytes: &[u8], more: bool) -> io::Result<usize>;
    /// Writes what fits of several slices.
    fn write_vectored(&mut self, sock: Sock, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Sends a part of a file. 0: the file is shorter than that.
    fn send_file(&mut self, sock: Sock, file: &File, offset: u64, len: u64) -> io::Result<usize>;
    /// How much the peer has taken so far, as far as is known: a number that grows while it takes more.
    fn taken(&self, sock: Sock) -> u64;
    /// Closes the sending side: the peer reads what was sent, then the end.
    fn shutdown_write(&mut self, sock: Sock);
    /// Closes the socket; with a `reset`, so that the peer knows that something is missing.
    fn close(&mut self, sock: Sock, reset: bool);
    /// Something that ends `poll`'s wait.
    fn waker(&self) -> Waker;
    /// Runs `work` elsewhere. Refused (and dropped) when too much waits already.
    fn offload(&mut self, work: Work) -> bool;
    /// Work that looks a name up, and blocks meanwhile. If there are `servers`, they are asked in place of the
    /// machine's own.
    fn lookup(&self, question: Question, servers: &[SocketAddr]) -> Lookup;
}
