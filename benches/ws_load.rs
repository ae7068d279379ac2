//! The load that `scripts/ws` measures WebSocket servers with: on one thread, every byte that comes back
//! compared with what it has to be.
//!
//! `echo`: each connection has DEPTH messages under way. `cast`: one more connection publishes, and does so
//! again when all the others have what it said last.
//! It opens its connections and then obeys its standard input: at each line, a number of seconds, it makes
//! that much load, waits for what is under way, and says in JSON what was done. 0 is one message each. In
//! between, and until its input ends, the connections are open and idle.

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{Errno, read, write};
use rustix::time::Timespec;
use socket2::{Domain, SockAddr, Socket, Type};
use std::error::Error;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::process::exit;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: ws_load echo|cast PORT CONNECTIONS SIZE DEPTH";

/// RFC 6455's own example, and the answer to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// Most that is read at once.
const INPUT: usize = 256 * 1024;
/// One address runs out of ports, where thousands of connections have just ended.
const SOURCES: usize = 50;
/// An answer that takes longer does not come.
const PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// A port is chosen at connect, so one number serves many addresses: socket2 does not have it.
#[derive(Clone, Copy, Debug)]
struct BindAddressNoPort;
nix::setsockopt_impl!(
    BindAddressNoPort,
    libc::IPPROTO_IP,
    libc::IP_BIND_ADDRESS_NO_PORT,
    bool,
    nix::sys::socket::sockopt::SetBool
);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args[..] {
        [mode @ ("echo" | "cast"), port, connections, size, depth] => {
            run(mode == "cast", port, connections, size, depth)
        }
        // Cargo runs every benchmark with only options of its own: nothing to do then.
        _ if args.iter().all(|a| a.starts_with("--")) => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(USAGE.into()),
    };
    if let Err(e) = outcome {
        eprintln!("ws_load: {e}");
        exit(1)
    }
}

fn run(cast: bool, port: &str, connections: &str, size: &str, depth: &str) -> Outcome<()> {
    let (port, path) = (port.parse()?, if cast { "/topic" } else { "/" });
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut open = Vec::new();
    for number in 0..connections.parse::<usize>()? + usize::from(cast) {
        let connection =
            connect(port, path, number).map_err(|e| format!("connection {number}: {e}"))?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        let data = EventData::new_u64(number as u64);
        epoll::add(&epoll, &connection.socket, data, flags)?;
        open.push(connection);
    }
    let mut load = Load {
        publisher: if cast { open.pop() } else { None },
        connections: open,
        epoll,
        depth: depth.parse()?,
        payload: (0..size.parse()?)
            .map(|i: usize| (i * 31 % 251) as u8)
            .collect(),
        published: 0,
        input: vec![0; INPUT],
    };
    println!("{{}}");
    for line in std::io::stdin().lines() {
        let seconds: f64 = line?.trim().parse()?;
        let (begun, messages) = (Instant::now(), load.run(Duration::from_secs_f64(seconds))?);
        let took = begun.elapsed().as_secs_f64();
        println!("{{\"messages\":{messages},\"seconds\":{took}}}");
    }
    Ok(())
}

struct Connection {
    socket: OwnedFd,
    /// Messages that are still to come, and how much has come of the first.
    due: usize,
    come: usize,
    /// Bytes that are still to be written.
    owed: usize,
}

fn connect(port: u16, path: &str, number: usize) -> Outcome<Connection> {
    let mut socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    nix::sys::socket::setsockopt(&socket, BindAddressNoPort, &true)?;
    let source = Ipv4Addr::new(127, 0, 0, 2 + (number % SOURCES) as u8);
    socket.bind(&SockAddr::from(SocketAddrV4::new(source, 0)))?;
    socket.connect(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into())?;
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    // In one piece: some servers need it so.
    socket.write_all(request.as_bytes())?;
    let (mut answer, mut byte) = (Vec::new(), [0]);
    // One byte at a time: what comes behind it is a message's.
    while !answer.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    let answer = String::from_utf8(answer)?;
    let extended = answer.to_lowercase().contains("sec-websocket-extensions");
    if !answer.starts_with("HTTP/1.1 101") || !answer.contains(ACCEPT) || extended {
        return Err(format!("answered {answer}").into());
    }
    socket.set_nonblocking(true)?;
    Ok(Connection {
        socket: socket.into(),
        due: 0,
        come: 0,
        owed: 0,
    })
}

struct Load {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    publisher: Option<Connection>,
    depth: usize,
    payload: Vec<u8>,
    /// Each publication has a payload of its own, which begins with its number.
    published: u64,
    input: Vec<u8>,
}

impl Load {
    /// Says how many messages came.
    fn run(&mut self, time: Duration) -> Outcome<u64> {
        let (end, mut came) = (Instant::now() + time, 0);
        loop {
            came += match self.publisher {
                Some(_) => self.publish()?,
                None => self.echo(end)?,
            };
            if Instant::now() >= end {
                return Ok(came);
            }
        }
    }

    /// As many as there is time for; at least one message each.
    fn echo(&mut self, end: Instant) -> Outcome<u64> {
        let (sent, expected) = (masked(&self.payload), answer(&self.payload));
        let many = sent.repeat(self.depth);
        for connection in &mut self.connections {
            connection.due = self.depth;
            connection.owed = many.len();
            connection.write(&many, sent.len())?;
        }
        let (mut came, mut under_way) = (0, self.connections.len() * self.depth);
        let mut events = Vec::with_capacity(1024);
        while under_way > 0 {
            self.wait(&mut events, under_way)?;
            let over = Instant::now() >= end;
            for event in events.drain(..) {
                let connection = &mut self.connections[event.data.u64() as usize];
                let flags = event.flags;
                let got = match flags.contains(EventFlags::IN) {
                    true => connection.read(&mut self.input, &expected)?,
                    false => 0,
                };
                came += got as u64;
                if over {
                    under_way -= got;
                } else {
                    connection.due += got;
                    connection.owed += got * sent.len();
                }
                connection.write(&many, sent.len())?;
            }
        }
        Ok(came)
    }

    /// One message to all.
    fn publish(&mut self) -> Outcome<u64> {
        self.published += 1;
        let number = self.published.to_le_bytes();
        let size = self.payload.len().min(number.len());
        self.payload[..size].copy_from_slice(&number[..size]);
        let (sent, expected) = (masked(&self.payload), answer(&self.payload));
        let all = self.connections.len();
        for connection in &mut self.connections {
            connection.due = 1;
        }
        let publisher = self.publisher.as_ref().ok_or("nobody publishes")?;
        if write(&publisher.socket, &sent)? < sent.len() {
            return Err("the publisher's message is too long".into());
        }
        let (mut under_way, mut events) = (all, Vec::with_capacity(4096));
        while under_way > 0 {
            self.wait(&mut events, under_way)?;
            for event in events.drain(..) {
                let flags = event.flags;
                if !flags.contains(EventFlags::IN) {
                    continue;
                }
                match self.connections.get_mut(event.data.u64() as usize) {
                    Some(c) => under_way -= c.read(&mut self.input, &expected)?,
                    // The publisher: its own message, where it comes back to it.
                    None => publisher.read_away(&mut self.input),
                }
            }
        }
        Ok(all as u64)
    }

    fn wait(&self, events: &mut Vec<epoll::Event>, under_way: usize) -> Outcome<()> {
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&PATIENCE)) {
            Ok(0) => Err(format!("{under_way} messages do not come").into()),
            Ok(_) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

impl Connection {
    /// Takes all there is, and says how many messages are whole by now.
    fn read(&mut self, input: &mut [u8], expected: &[u8]) -> Outcome<usize> {
        let mut whole = 0;
        loop {
            let n = match read(&self.socket, &mut *input) {
                Ok(0) => return Err("the server closed a connection".into()),
                Ok(n) => n,
                Err(Errno::AGAIN) => return Ok(whole),
                Err(e) => return Err(e.into()),
            };
            let mut rest = &input[..n];
            while !rest.is_empty() {
                let wanted = &expected[self.come..];
                let (piece, more) = rest.split_at(rest.len().min(wanted.len()));
                if self.due == 0 || piece != &wanted[..piece.len()] {
                    return Err(format!(
                        "not what was to come: {:02x?}",
                        &piece[..piece.len().min(16)]
                    )
                    .into());
                }
                self.come += piece.len();
                if self.come == expected.len() {
                    (self.come, self.due, whole) = (0, self.due - 1, whole + 1);
                }
                rest = more;
            }
            if n < input.len() {
                return Ok(whole);
            }
        }
    }

    /// Takes all there is, whatever it is.
    fn read_away(&self, input: &mut [u8]) {
        while read(&self.socket, &mut *input).is_ok_and(|n| n > 0) {}
    }

    /// What is owed: from `many` copies of one message of `one` bytes.
    fn write(&mut self, many: &[u8], one: usize) -> Outcome<()> {
        while self.owed > 0 {
            let start = (one - self.owed % one) % one;
            let rest = &many[start..];
            match write(&self.socket, &rest[..self.owed.min(rest.len())]) {
                Ok(n) => self.owed -= n,
                Err(Errno::AGAIN) => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

/// A frame as a client sends it: binary and masked.
fn masked(payload: &[u8]) -> Vec<u8> {
    let mut frame = header(payload.len(), 0x80);
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m));
    frame
}

/// The same as a server sends it.
fn answer(payload: &[u8]) -> Vec<u8> {
    [&header(payload.len(), 0), payload].concat()
}

fn header(len: usize, masked: u8) -> Vec<u8> {
    let mut header = vec![0x82];
    match len {
        0..126 => header.push(masked | len as u8),
        126..65536 => {
            header.push(masked | 126);
            header.extend((len as u16).to_be_bytes());
        }
        _ => {
            header.push(masked | 127);
            header.extend((len as u64).to_be_bytes());
        }
    }
    header
}
