//! The floor under every speed figure: an epoll server that makes the system calls and does
//! nothing else.
//!
//! One thread, edge-triggered epoll, one `read` and one `write` per readiness. The only look at
//! the input is a count of blank lines; the answer is that many copies of one constant response,
//! from memory. What a socket does not take at once is written when it has room again.
//! It is no web server: `scripts/bench` divides the cost of real servers by the cost of this one,
//! so that results from different machines can be compared. `floor/websocket.rs` is the same for WebSockets
//! and `scripts/ws`, `floor/relay.rs` for proxies and `scripts/bench proxy`, which has this one stand behind them.

#[path = "floor/relay.rs"]
mod relay;
#[path = "floor/websocket.rs"]
mod websocket;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::exit;

use memchr::memmem::Finder;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{Errno, read, write};
use rustix::net::{SocketFlags, accept_with};
use socket2::{Domain, Socket, Type};

const USAGE: &str = "\
usage: floor PORT const|close CONTENT-TYPE BODY   (BODY @FILE is what the file holds)
       floor PORT upload CONTENT-TYPE BODY LENGTH (answers a request when so many bytes behind its head are there)
       floor PORT relay UPSTREAM-PORT             (passes on whatever arrives)
       floor PORT websocket                       (an echo at /, to all others at /topic)";

/// Far more than a deep pipeline of small requests.
const INPUT: usize = 64 * 1024;
/// Readiness taken from one `epoll_wait`.
const EVENTS: usize = 1024;
/// Most responses in one write: what `INPUT` bytes of ordinary requests may ask for.
const MAX_COPIES: usize = 512;
/// Most bytes in one write, unless one response is longer.
const OUTPUT: usize = 1024 * 1024;

const READ: EventFlags = EventFlags::IN.union(EventFlags::ET);

/// TCP_DEFER_ACCEPT, in seconds: socket2 does not have it.
#[derive(Clone, Copy, Debug)]
struct DeferAccept;
nix::setsockopt_impl!(
    DeferAccept,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    usize,
    nix::sys::socket::sockopt::SetUsize
);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [port, mode @ ("const" | "close"), content_type, body] => {
            let close = mode == "close";
            let response = response(content_type, body, close)?;
            Floor::new(listener(port.parse()?, close)?, &response, close, 0)?.run()
        }
        [port, "upload", content_type, body, length] => {
            let response = response(content_type, body, false)?;
            let listener = listener(port.parse()?, false)?;
            Floor::new(listener, &response, false, length.parse()?)?.run()
        }
        [port, "relay", upstream] => {
            relay::run(listener(port.parse()?, false)?, upstream.parse()?)?
        }
        [port, "websocket"] => websocket::run(listener(port.parse()?, false)?)?,
        // Cargo runs every benchmark with only options of its own: nothing to do then.
        _ if args.iter().all(|a| a.starts_with("--")) => println!("{USAGE}"),
        _ => {
            eprintln!("{USAGE}");
            exit(2)
        }
    }
    Ok(())
}

fn response(content_type: &str, body: &str, close: bool) -> std::io::Result<Vec<u8>> {
    let body = match body.strip_prefix('@') {
        Some(file) => std::fs::read(file)?,
        None => body.into(),
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: floor\r\nDate: Sun, 22 Nov 2026 20:00:00 GMT\r\n\
         Content-Type: {content_type}\r\nContent-Length: {}\r\n{}\r\n",
        body.len(),
        if close { "Connection: close\r\n" } else { "" },
    );
    Ok([head.as_bytes(), &body].concat())
}

fn listener(port: u16, close: bool) -> Result<OwnedFd, Box<dyn std::error::Error>> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if close {
        // Saves a connection its wait for the request.
        nix::sys::socket::setsockopt(&socket, DeferAccept, &1)?;
    }
    socket.bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Each at the index of its own descriptor.
type Connected<T> = Vec<Option<T>>;

struct Connection {
    socket: OwnedFd,
    /// Bytes of its request's body that have not come yet.
    expected: usize,
    /// Bytes of its answers that are not written yet.
    owed: usize,
    /// It has come to wait for room once, so epoll tells of room from then on.
    wants_write: bool,
}

struct Floor {
    epoll: OwnedFd,
    listener: OwnedFd,
    connections: Connected<Connection>,
    /// Copies of the response, one after the other.
    responses: Vec<u8>,
    /// The length of one of them.
    one: usize,
    /// Close each connection after its first answer.
    close: bool,
    /// The length of each request's body.
    body: usize,
    end_of_head: Finder<'static>,
    input: Vec<u8>,
}

impl Floor {
    fn new(listener: OwnedFd, response: &[u8], close: bool, body: usize) -> Result<Self, Errno> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, data(&listener), READ)?;
        let copies = (OUTPUT / response.len()).clamp(1, MAX_COPIES);
        Ok(Self {
            epoll,
            listener,
            connections: Vec::new(),
            responses: response.repeat(copies),
            one: response.len(),
            close,
            body,
            end_of_head: Finder::new(b"\r\n\r\n"),
            // One read takes all of a request.
            input: vec![0; INPUT + body],
        })
    }

    fn run(mut self) {
        let listener = self.listener.as_raw_fd() as usize;
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            // A wait cut short by a signal leaves no events: the next round waits again.
            let _ = epoll::wait(&self.epoll, spare_capacity(&mut events), None);
            for event in events.drain(..) {
                let fd = event.data.u64() as usize;
                if fd == listener {
                    self.accept();
                } else if let Some(mut connection) = self.connections[fd].take()
                    && self.serve(&mut connection, event.flags)
                    && self.wait_for_room(&mut connection)
                {
                    self.connections[fd] = Some(connection);
                }
            }
        }
    }

    /// Edge-triggered: takes all the connections there are.
    fn accept(&mut self) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        while let Ok(socket) = accept_with(&self.listener, flags) {
            let mut connection = Connection {
                socket,
                expected: 0,
                owed: 0,
                wants_write: false,
            };
            // A connection for one request has usually sent it by now, and needs no epoll.
            if self.close && !self.serve(&mut connection, EventFlags::IN) {
                continue;
            }
            let socket = &connection.socket;
            let fd = socket.as_raw_fd() as usize;
            if epoll::add(&self.epoll, socket, data(socket), READ).is_ok()
                && self.wait_for_room(&mut connection)
            {
                if self.connections.len() <= fd {
                    self.connections.resize_with(fd + 1, || None);
                }
                self.connections[fd] = Some(connection);
            }
        }
    }

    /// Reads once, if there is something, and writes what is owed until all of it is written or the
    /// socket is full. False: the connection is done with.
    fn serve(&mut self, connection: &mut Connection, ready: EventFlags) -> bool {
        if ready.contains(EventFlags::IN) {
            match read(&connection.socket, &mut self.input[..]) {
                Ok(0) => return false,
                Ok(n) => {
                    let requests = match self.body {
                        0 => self.end_of_head.find_iter(&self.input[..n]).count(),
                        _ => self.uploaded(&mut connection.expected, n),
                    };
                    connection.owed += self.one * requests;
                }
                Err(Errno::AGAIN) => {}
                Err(_) => return false,
            }
        }
        if connection.owed == 0 {
            return true;
        }
        while connection.owed > 0 {
            // All answers are the same, so what is left of them says where to go on.
            let start = (self.one - connection.owed % self.one) % self.one;
            let rest = &self.responses[start..];
            let rest = &rest[..connection.owed.min(rest.len())];
            match write(&connection.socket, rest) {
                Ok(n) => {
                    connection.owed -= n;
                    if n < rest.len() {
                        return true;
                    }
                }
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        !self.close
    }

    /// Requests that are complete with the first `n` bytes of the input. No head comes in two pieces.
    fn uploaded(&self, expected: &mut usize, n: usize) -> usize {
        let (mut requests, mut rest) = (0, &self.input[..n]);
        loop {
            let come = rest.len().min(*expected);
            rest = &rest[come..];
            if *expected > 0 {
                *expected -= come;
                requests += usize::from(*expected == 0);
            }
            let Some(end) = self.end_of_head.find(rest) else {
                return requests;
            };
            rest = &rest[end + 4..];
            *expected = self.body;
        }
    }

    /// Has epoll tell of room, from the first time a write falls short. False: it cannot.
    fn wait_for_room(&self, connection: &mut Connection) -> bool {
        if connection.owed == 0 || connection.wants_write {
            return true;
        }
        connection.wants_write = true;
        let (socket, both) = (&connection.socket, READ | EventFlags::OUT);
        epoll::modify(&self.epoll, socket, data(socket), both).is_ok()
    }
}

/// What an event of a descriptor is known by: its number.
fn data(fd: &OwnedFd) -> EventData {
    EventData::new_u64(fd.as_raw_fd() as u64)
}
