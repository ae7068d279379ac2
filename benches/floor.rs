//! The floor under every speed figure: an epoll server that makes the system calls and does
//! nothing else.
//!
//! One thread, edge-triggered epoll, one `read` and one `write` per readiness. The only look at
//! the input is a count of blank lines; the answer is that many copies of one constant response.
//! It is no web server: `scripts/bench` divides the cost of real servers by the cost of this one,
//! so that results from different machines can be compared.

use std::io::stdin;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::exit;

use memchr::memmem::Finder;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{Errno, read, write};
use rustix::net::{SocketFlags, accept_with};
use socket2::{Domain, Socket, Type};

const USAGE: &str = "\
usage: floor PORT const|close CONTENT-TYPE BODY   (PORT - takes a listening socket as standard input)";

/// Far more than a deep pipeline of small requests.
const INPUT: usize = 64 * 1024;
/// Readiness taken from one `epoll_wait`.
const EVENTS: usize = 1024;
/// Most responses in one write: what `INPUT` bytes of ordinary requests may ask for.
const MAX_COPIES: usize = 512;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [port, mode @ ("const" | "close"), content_type, body] => {
            let close = mode == "close";
            let response = response(content_type, body, close);
            Floor::new(listener(port)?, &response, close)?.run()
        }
        // Cargo runs every benchmark with only options of its own: nothing to do then.
        _ if args.iter().all(|a| a.starts_with("--")) => println!("{USAGE}"),
        _ => {
            eprintln!("{USAGE}");
            exit(2)
        }
    }
    Ok(())
}

fn response(content_type: &str, body: &str, close: bool) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nServer: floor\r\nDate: Sun, 22 Nov 2026 20:00:00 GMT\r\n\
         Content-Type: {content_type}\r\nContent-Length: {}\r\n{}\r\n{body}",
        body.len(),
        if close { "Connection: close\r\n" } else { "" },
    )
}

/// A listening socket on PORT, or the one given as standard input: TCP_DEFER_ACCEPT, which saves
/// a connection its wait for the request, can only be set with `unsafe` from Rust, so whoever
/// starts us sets it.
fn listener(port: &str) -> Result<OwnedFd, Box<dyn std::error::Error>> {
    let socket = if port == "-" {
        Socket::from(stdin().as_fd().try_clone_to_owned()?)
    } else {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, port.parse()?).into())?;
        socket.listen(4096)?;
        socket
    };
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

struct Floor {
    epoll: OwnedFd,
    listener: OwnedFd,
    /// Open connections, each at the index of its own descriptor.
    connections: Vec<Option<OwnedFd>>,
    /// `MAX_COPIES` responses, one after the other.
    responses: Vec<u8>,
    /// The length of one of them.
    one: usize,
    /// Close each connection after its first answer.
    close: bool,
    end_of_head: Finder<'static>,
    input: Vec<u8>,
}

impl Floor {
    fn new(listener: OwnedFd, response: &str, close: bool) -> Result<Self, Errno> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let data = EventData::new_u64(listener.as_raw_fd() as u64);
        epoll::add(&epoll, &listener, data, EventFlags::IN | EventFlags::ET)?;
        Ok(Self {
            epoll,
            listener,
            connections: Vec::new(),
            responses: response.as_bytes().repeat(MAX_COPIES),
            one: response.len(),
            close,
            end_of_head: Finder::new(b"\r\n\r\n"),
            input: vec![0; INPUT],
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
                } else if let Some(connection) = self.connections[fd].take()
                    && self.answer(&connection)
                {
                    self.connections[fd] = Some(connection);
                }
            }
        }
    }

    /// Edge-triggered: takes all the connections there are.
    fn accept(&mut self) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        while let Ok(connection) = accept_with(&self.listener, flags) {
            // A connection for one request has usually sent it by now, and needs no epoll.
            if self.close && !self.answer(&connection) {
                continue;
            }
            let fd = connection.as_raw_fd() as usize;
            let data = EventData::new_u64(fd as u64);
            let interest = EventFlags::IN | EventFlags::ET;
            if epoll::add(&self.epoll, &connection, data, interest).is_ok() {
                if self.connections.len() <= fd {
                    self.connections.resize_with(fd + 1, || None);
                }
                self.connections[fd] = Some(connection);
            }
        }
    }

    /// Reads once and answers all that is there. False: the connection is done with.
    fn answer(&mut self, connection: &OwnedFd) -> bool {
        let requests = match read(connection, &mut self.input[..]) {
            Ok(0) => return false,
            Ok(n) => self.end_of_head.find_iter(&self.input[..n]).count(),
            Err(Errno::AGAIN) => return true,
            Err(_) => return false,
        };
        if requests == 0 {
            return true;
        }
        let len = self.one * requests.min(MAX_COPIES);
        write(connection, &self.responses[..len]) == Ok(len) && !self.close
    }
}
