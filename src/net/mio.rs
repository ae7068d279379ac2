//! Floor 1. The real `Net`: epoll by way of mio, socket options by way of socket2, a few threads
//! for work that blocks. The only file that names mio.
//!
//! System calls are what a server costs, so they are counted here: accept4, then nothing (the
//! options are inherited from the listener), one epoll_ctl when a connection first has to wait, one
//! more when a write first falls short, and none ever again.

use super::resolve::resolve_by;
use super::{
    ACCEPT_QUEUE, Lookup, Net, Peer, Ready, Sock, Source, TURNED_AWAY, Target, Waker, Work,
};
use crate::base::clock::Instant;
use crate::base::lookup::Question;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use slab::Slab;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

#[cfg(not(target_pointer_width = "64"))]
compile_error!("a connection's slot and generation have to fit in mio's token: 64 bits");

// Tokens of connections have a generation of 1 or more in their upper half.
const WAKER: Token = Token(u32::MAX as usize);
const EVENTS_PER_POLL: usize = 1024;

/// Where to listen: `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080` (127.0.0.1),
/// `unix:/run/site.sock`. Port 0 takes a free one.
///
/// ```
/// use loopwright::Listen;
/// assert!(matches!("127.0.0.1:0".parse(), Ok(Listen::Tcp(_))));
/// assert!(matches!("unix:/run/site.sock".parse(), Ok(Listen::Unix(_))));
/// assert!("8080".parse::<Listen>().unwrap_err().to_string().contains("ip:port"));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listen {
    /// A TCP address, IPv4 or IPv6. An IPv6 listener takes no IPv4 connections.
    Tcp(SocketAddr),
    /// The path of a Unix socket. A socket left behind by a dead process is replaced.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Listen> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Listen::Unix(PathBuf::from(path)));
        }
        if let Some(addr) = text
            .strip_prefix("localhost:")
            .and_then(|port| port.parse().ok())
        {
            return Ok(Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], addr))));
        }
        text.parse().map(Listen::Tcp).map_err(|_| {
            let why = format!(
                "cannot listen on {text:?}: want \"ip:port\", \"[ipv6]:port\" or \"unix:/path\""
            );
            io::Error::new(io::ErrorKind::InvalidInput, why)
        })
    }
}

impl Listen {
    /// The address as something to open: `http://127.0.0.1:8080`.
    ///
    /// ```
    /// use loopwright::Listen;
    /// assert_eq!("[::1]:80".parse::<Listen>().unwrap().url(), "http://[::1]:80");
    /// ```
    pub fn url(&self) -> String {
        match self {
            Listen::Tcp(addr) => format!("http://{addr}"),
            Listen::Unix(_) => self.to_string(),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(addr) => addr.fmt(f),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An address as it was asked for, and what is open there.
struct Listener {
    asked: Listen,
    socket: Accepting,
}

enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
    Closed,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn source(&mut self) -> &mut dyn mio::event::Source {
        match self {
            Stream::Tcp(s) => s,
            Stream::Unix(s) => s,
        }
    }

    fn sock(&self) -> SockRef<'_> {
        match self {
            Stream::Tcp(s) => SockRef::from(s),
            Stream::Unix(s) => SockRef::from(s),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(s) => s.as_fd(),
            Stream::Unix(s) => s.as_fd(),
        }
    }
}

/// What of the bounds is ours: threads for work that blocks, and what the kernel may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Threads, started with the first work.
    pub threads: usize,
    /// Pieces of work that may wait.
    pub queue: usize,
    /// Bytes of one connection that wait in the kernel and are not on their way.
    pub unsent: u32,
    /// For a silent peer, until the kernel asks whether it is there; zero for never.
    pub keepalive: Duration,
}

/// Sockets of this machine.
pub struct MioNet {
    poll: Poll,
    events: Events,
    listeners: Vec<Listener>,
    streams: Slab<Stream>,
    epoch: std::time::Instant,
    /// The coarse clock then, in microseconds.
    coarse_epoch: u64,
    /// A descriptor to give up when there is no other: see [`MioNet::turn_away`].
    spare: Option<File>,
    waker: Arc<mio::Waker>,
    workers: Workers,
}

impl MioNet {
    /// Opens every listener. Fails on the first that cannot be, naming it.
    pub fn bind(addresses: &[Listen], bounds: Bounds) -> io::Result<MioNet> {
        let poll = Poll::new()?;
        let waker = Arc::new(mio::Waker::new(poll.registry(), WAKER)?);
        let mut net = MioNet {
            poll,
            events: Events::with_capacity(EVENTS_PER_POLL),
            listeners: Vec::with_capacity(addresses.len()),
            streams: Slab::new(),
            epoch: std::time::Instant::now(),
            coarse_epoch: coarse_micros(),
            spare: spare(),
            waker,
            workers: Workers::new(bounds),
        };
        net.listen_on(addresses, bounds)?;
        Ok(net)
    }

    /// Listens on these addresses: opens those that are not open, leaves alone those that are, and
    /// returns the listeners that are not wanted any more. Fails on the first that cannot be opened;
    /// then nothing has changed.
    pub fn listen_on(&mut self, addresses: &[Listen], bounds: Bounds) -> io::Result<Vec<usize>> {
        let is_open = |listener: &Listener| !matches!(listener.socket, Accepting::Closed);
        // Each open listener serves one wish: `0.0.0.0:0` twice is two ports.
        let mut unwanted: Vec<usize> = (0..self.listeners.len())
            .filter(|&n| is_open(&self.listeners[n]))
            .collect();
        let mut opened = Vec::new();
        for address in addresses {
            let same = |&n: &usize| self.listeners[n].asked == *address;
            match unwanted.iter().position(same) {
                Some(at) => drop(unwanted.remove(at)),
                None => match Listener::open(address) {
                    Ok(listener) => opened.push(listener),
                    Err(e) => {
                        opened.iter().for_each(Listener::remove_file);
                        return Err(e);
                    }
                },
            }
        }
        for mut listener in opened {
            let token = Token(self.listeners.len());
            let source: &mut dyn mio::event::Source = match &mut listener.socket {
                Accepting::Tcp(l) => l,
                Accepting::Unix(l, _) => l,
                Accepting::Closed => continue,
            };
            self.poll
                .registry()
                .register(source, token, Interest::READABLE)?;
            self.listeners.push(listener);
        }
        for listener in &self.listeners {
            if let Accepting::Tcp(l) = &listener.socket {
                bound_connections(l, bounds);
            }
        }
        self.workers.bounds = bounds;
        Ok(unwanted)
    }

    /// Where the listeners really are: port 0 has become a port.
    pub fn addresses(&self) -> Vec<Listen> {
        let address = |listener: &Listener| match &listener.socket {
            Accepting::Tcp(l) => l.local_addr().ok().map(Listen::Tcp),
            Accepting::Unix(_, path) => Some(Listen::Unix(path.clone())),
            Accepting::Closed => None,
        };
        self.listeners.iter().filter_map(address).collect()
    }

    fn accept_from(&self, listener: usize) -> io::Result<(Stream, Peer)> {
        match self.listeners.get(listener).map(|l| &l.socket) {
            Some(Accepting::Tcp(l)) => {
                retry(|| l.accept()).map(|(s, addr)| (Stream::Tcp(s), Peer::Inet(addr)))
            }
            Some(Accepting::Unix(l, _)) => {
                retry(|| l.accept()).map(|(s, _)| (Stream::Unix(s), Peer::Unix))
            }
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Out of descriptors: the spare one is given up to tell one client so. The others wait in the queue
    /// until accepting goes on.
    #[cold]
    fn turn_away(&mut self, listener: usize, why: &io::Error) {
        let is_out = [Errno::MFILE, Errno::NFILE]
            .iter()
            .any(|errno| why.raw_os_error() == Some(errno.raw_os_error()));
        if is_out
            && self.spare.take().is_some()
            && let Ok((stream, _)) = self.accept_from(listener)
        {
            let _ = stream.sock().send(TURNED_AWAY);
        }
        if self.spare.is_none() {
            self.spare = spare();
        }
    }

    fn stream(&mut self, sock: Sock) -> io::Result<&mut Stream> {
        self.streams
            .get_mut(sock.0 as usize)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

fn coarse_micros() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

impl Listener {
    /// A Unix socket's name goes with it.
    fn remove_file(&self) {
        if let Accepting::Unix(_, path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }

    fn open(asked: &Listen) -> io::Result<Listener> {
        let socket = match asked {
            Listen::Tcp(addr) => listen_tcp(*addr).map(Accepting::Tcp),
            Listen::Unix(path) => listen_unix(path).map(|l| Accepting::Unix(l, path.clone())),
        };
        let explain =
            |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {asked}: {e}"));
        Ok(Listener {
            asked: asked.clone(),
            socket: socket.map_err(explain)?,
        })
    }
}

/// An address that is bound, and not listened on: it holds a port for processes that will listen there.
#[derive(Debug)]
pub struct Reservation {
    address: Listen,
    _socket: Socket,
}

impl Reservation {
    /// Binds a TCP address. Port 0 becomes a port.
    pub fn of(asked: &Listen) -> io::Result<Reservation> {
        let explain =
            |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {asked}: {e}"));
        let Listen::Tcp(address) = asked else {
            let why = "several processes cannot share a Unix socket";
            return Err(explain(io::Error::new(io::ErrorKind::Unsupported, why)));
        };
        let socket = bind_tcp(*address).map_err(explain)?;
        let real = socket.local_addr()?.as_socket().unwrap_or(*address);
        Ok(Reservation {
            address: Listen::Tcp(real),
            _socket: socket,
        })
    }

    /// Where it really is.
    pub fn address(&self) -> Listen {
        self.address.clone()
    }
}

/// Whether somebody listens there: a bind that does not want to share tells.
pub fn is_taken(address: &Listen) -> bool {
    let Listen::Tcp(addr) = address else {
        return false;
    };
    let probe = || -> io::Result<()> {
        let socket = Socket::new(
            Domain::for_address(*addr),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket
            .set_only_v6(addr.is_ipv6())
            .or_else(|e| match addr.is_ipv6() {
                true => Err(e),
                false => Ok(()),
            })?;
        socket.set_reuse_address(true)?;
        socket.bind(&SockAddr::from(*addr))
    };
    probe().is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse)
}

fn bind_tcp(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(addr),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    // N processes of ours share a port; the kernel spreads new connections over them.
    socket.set_reuse_port(true)?;
    socket.bind(&SockAddr::from(addr))?;
    Ok(socket)
}

fn listen_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = bind_tcp(addr)?;
    // Accepted sockets inherit it: no call per connection.
    socket.set_tcp_nodelay(true)?;
    // Accept a connection when its first bytes are there, so that the read after it succeeds.
    #[cfg(target_os = "linux")]
    if let Err(e) = nix::sys::socket::setsockopt(&socket, DeferAccept, &1) {
        log::debug!("TCP_DEFER_ACCEPT on {addr}: {e}");
    }
    socket.listen(ACCEPT_QUEUE)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// A client that hardly reads would have the kernel hold megabytes for it, and one that has vanished would
/// hold its connection for as long as nothing is sent to it. Connections accepted from now on inherit both.
fn bound_connections(listener: &TcpListener, bounds: Bounds) {
    let socket = SockRef::from(listener);
    #[cfg(target_os = "linux")]
    if let Err(e) = socket.set_tcp_notsent_lowat(bounds.unsent) {
        log::debug!("TCP_NOTSENT_LOWAT: {e}");
    }
    let asks = TcpKeepalive::new()
        .with_time(bounds.keepalive)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    let set = match bounds.keepalive.is_zero() {
        true => socket.set_keepalive(false),
        false => socket.set_tcp_keepalive(&asks),
    };
    if let Err(e) = set {
        log::debug!("SO_KEEPALIVE: {e}");
    }
}

/// How often, and how many times, a peer is asked that does not answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    // A socket whose process has died refuses connections; a living one must not be taken over.
    let left_behind = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
    if left_behind {
        std::fs::remove_file(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(ACCEPT_QUEUE)?;
    Ok(UnixListener::from_std(socket.into()))
}

/// TCP_DEFER_ACCEPT, in seconds: the one socket option here that socket2 does not have.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy, Debug)]
struct DeferAccept;
#[cfg(target_os = "linux")]
nix::setsockopt_impl!(
    DeferAccept,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    usize,
    nix::sys::socket::sockopt::SetUsize
);

/// The front of the kernel's `struct tcp_info` (linux/tcp.h), which libc has without what is wanted here.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Acknowledged {
    _before: [u64; 15],
    /// Since the connection began (RFC 4898, tcpEStatsAppHCThruOctetsAcked).
    bytes_acked: u64,
}
#[cfg(target_os = "linux")]
#[derive(Clone, Copy, Debug)]
struct TcpInfo;
#[cfg(target_os = "linux")]
nix::getsockopt_impl!(
    TcpInfo,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    Acknowledged,
    nix::sys::socket::sockopt::GetStruct<Acknowledged>
);

/// Interrupted calls are made again here, so that nobody above hears of signals.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

impl Net for MioNet {
    fn now(&self) -> Instant {
        Instant::from_micros(u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    #[cfg(target_os = "linux")]
    fn coarse_now(&self) -> Instant {
        Instant::from_micros(coarse_micros().saturating_sub(self.coarse_epoch))
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::now()
    }

    fn poll(&mut self, until: Option<Instant>, ready: &mut Vec<Ready>) -> io::Result<()> {
        let wait = match until {
            Some(until) if until == Instant::default() => Some(Duration::ZERO),
            Some(until) => Some(until - self.now()),
            None => None,
        };
        match self.poll.poll(&mut self.events, wait) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        ready.extend(self.events.iter().map(|event| Ready {
            source: match event.token() {
                WAKER => Source::Waker,
                Token(n) if n < WAKER.0 => Source::Listener(n),
                Token(n) => Source::Conn(n as u64),
            },
            readable: event.is_readable(),
            writable: event.is_writable() || event.is_write_closed(),
            read_closed: event.is_read_closed(),
            broken: event.is_error(),
        }));
        Ok(())
    }

    fn accept(&mut self, listener: usize) -> io::Result<(Sock, Peer)> {
        match self.accept_from(listener) {
            Ok((stream, peer)) => Ok((Sock(self.streams.insert(stream) as u32), peer)),
            Err(e) => {
                self.turn_away(listener, &e);
                Err(e)
            }
        }
    }

    fn refuse(&mut self, sock: Sock) {
        if let Some(stream) = self.streams.try_remove(sock.0 as usize) {
            let _ = stream.sock().send(TURNED_AWAY);
        }
    }

    fn local(&self, sock: Sock) -> Option<SocketAddr> {
        let stream = self.streams.get(sock.0 as usize)?;
        stream.sock().local_addr().ok()?.as_socket()
    }

    fn connect(&mut self, to: &Target) -> io::Result<(Sock, Peer)> {
        let (stream, peer) = match to {
            Target::Inet(addr) => {
                let stream = TcpStream::connect(*addr)?;
                stream.set_nodelay(true)?;
                (Stream::Tcp(stream), Peer::Inet(*addr))
            }
            Target::Unix(path) => (Stream::Unix(UnixStream::connect(path)?), Peer::Unix),
        };
        Ok((Sock(self.streams.insert(stream) as u32), peer))
    }

    fn finish_connect(&mut self, sock: Sock) -> io::Result<()> {
        let stream = self.stream(sock)?;
        if let Some(e) = stream.sock().take_error()? {
            return Err(e);
        }
        match stream.sock().peer_addr() {
            Err(e) if e.kind() == io::ErrorKind::NotConnected => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            other => other.map(drop),
        }
    }

    fn adopt(&mut self, stream: std::os::unix::net::UnixStream) -> io::Result<(Sock, Peer)> {
        stream.set_nonblocking(true)?;
        let stream = Stream::Unix(UnixStream::from_std(stream));
        Ok((Sock(self.streams.insert(stream) as u32), Peer::Unix))
    }

    fn listeners(&self) -> usize {
        self.listeners.len()
    }

    fn close_listener(&mut self, listener: usize) {
        let Some(slot) = self.listeners.get_mut(listener) else {
            return;
        };
        slot.remove_file();
        slot.socket = Accepting::Closed;
    }

    fn register(&mut self, sock: Sock, token: u64) -> io::Result<()> {
        let Some(stream) = self.streams.get_mut(sock.0 as usize) else {
            return Ok(());
        };
        self.poll
            .registry()
            .register(stream.source(), Token(token as usize), Interest::READABLE)
    }

    fn want_write(&mut self, sock: Sock, token: u64) -> io::Result<()> {
        let Some(stream) = self.streams.get_mut(sock.0 as usize) else {
            return Ok(());
        };
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .reregister(stream.source(), Token(token as usize), both)
    }

    fn read(&mut self, sock: Sock, into: &mut [u8]) -> io::Result<usize> {
        let stream = self.stream(sock)?;
        retry(|| match stream {
            Stream::Tcp(s) => s.read(into),
            Stream::Unix(s) => s.read(into),
        })
    }

    fn write(&mut self, sock: Sock, bytes: &[u8], more: bool) -> io::Result<usize> {
        let stream = self.stream(sock)?;
        retry(|| match stream {
            #[cfg(target_os = "linux")]
            Stream::Tcp(s) if more => SockRef::from(&*s).send_with_flags(bytes, MSG_MORE),
            Stream::Tcp(s) => s.write(bytes),
            Stream::Unix(s) => s.write(bytes),
        })
    }

    fn write_vectored(&mut self, sock: Sock, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let stream = self.stream(sock)?;
        retry(|| match stream {
            Stream::Tcp(s) => s.write_vectored(slices),
            Stream::Unix(s) => s.write_vectored(slices),
        })
    }

    fn send_file(&mut self, sock: Sock, file: &File, offset: u64, len: u64) -> io::Result<usize> {
        let stream = self.stream(sock)?;
        let (mut offset, len) = (offset, usize::try_from(len).unwrap_or(usize::MAX));
        retry(|| {
            Ok(rustix::fs::sendfile(
                stream.fd(),
                file,
                Some(&mut offset),
                len,
            )?)
        })
    }

    #[cfg(target_os = "linux")]
    fn taken(&self, sock: Sock) -> u64 {
        match self.streams.get(sock.0 as usize) {
            Some(Stream::Tcp(s)) => nix::sys::socket::getsockopt(s, TcpInfo)
                .map(|info| info.bytes_acked)
                .unwrap_or(0),
            _ => 0,
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn taken(&self, _: Sock) -> u64 {
        0
    }

    fn shutdown_write(&mut self, sock: Sock) {
        if let Some(stream) = self.streams.get(sock.0 as usize) {
            let _ = stream.sock().shutdown(std::net::Shutdown::Write);
        }
    }

    fn close(&mut self, sock: Sock, reset: bool) {
        if let Some(stream) = self.streams.try_remove(sock.0 as usize)
            && reset
        {
            let _ = stream.sock().set_linger(Some(Duration::ZERO));
        }
    }

    fn waker(&self) -> Waker {
        let waker = self.waker.clone();
        Arc::new(move || {
            if let Err(e) = waker.wake() {
                log::error!("cannot wake the loop: {e}");
            }
        })
    }

    fn offload(&mut self, work: Work) -> bool {
        self.workers.submit(work)
    }

    fn lookup(&self, question: Question, servers: &[SocketAddr]) -> Lookup {
        let servers = servers.to_vec();
        Box::new(move || resolve_by(&question, &servers))
    }
}

#[cfg(target_os = "linux")]
const MSG_MORE: i32 = libc::MSG_MORE;

impl Drop for MioNet {
    fn drop(&mut self) {
        for listener in 0..self.listeners.len() {
            self.close_listener(listener);
        }
    }
}

/// Threads that take work from one bounded queue. Started when first needed; they end with the
/// loop, each after the work it is at.
struct Workers {
    bounds: Bounds,
    started: usize,
    queue: Arc<WorkQueue>,
}

#[derive(Default)]
struct WorkQueue {
    state: Mutex<WorkState>,
    changed: Condvar,
}

#[derive(Default)]
struct WorkState {
    waiting: VecDeque<Work>,
    idle: usize,
    closed: bool,
}

impl Workers {
    fn new(bounds: Bounds) -> Workers {
        Workers {
            bounds,
            started: 0,
            queue: Arc::default(),
        }
    }

    fn submit(&mut self, work: Work) -> bool {
        let mut state = self
            .queue
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if state.waiting.len() >= self.bounds.queue {
            return false;
        }
        let short = state.waiting.len() >= state.idle && self.started < self.bounds.threads.max(1);
        if short && let Err(e) = self.queue.start_thread(self.started) {
            if self.started == 0 {
                log::error!("cannot start a thread for offloaded work: {e}");
                return false;
            }
        } else if short {
            self.started += 1;
        }
        state.waiting.push_back(work);
        self.queue.changed.notify_one();
        true
    }
}

impl WorkQueue {
    fn start_thread(self: &Arc<Self>, number: usize) -> io::Result<()> {
        let queue = self.clone();
        let run = move || {
            while let Some(work) = queue.next() {
                // The work reports its own panics; a thread outlives them.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            }
        };
        std::thread::Builder::new()
            .name(format!("loopwright-offload-{number}"))
            .spawn(run)
            .map(drop)
    }

    fn next(&self) -> Option<Work> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.closed {
                return None;
            }
            if let Some(work) = state.waiting.pop_front() {
                return Some(work);
            }
            state.idle += 1;
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        self.queue.changed.notify_all();
    }
}
