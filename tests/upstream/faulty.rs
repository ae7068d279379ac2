//! An upstream of our own that does what its script says, step by step, and keeps every byte it gets.
//!
//! One thread for each connection, blocking. Everything is bounded: connections, what is kept of each, and each wait,
//! by `PATIENCE`. It ends, with its threads, when it is dropped.

use crate::message::{Kind, Message, Parsed, bytes, parse};
use crate::support::PATIENCE;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 4096;
const KEPT: usize = 4 << 20;

/// What it does with a connection, one after the other. Behind the last comes `Close`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// Reads a request to its end. What is none is answered with 400, and ends the connection.
    Request,
    /// Reads a request's head, and leaves the rest.
    Head,
    /// Sends a row (`message::bytes`).
    Send(&'static str),
    /// Sends so many times the same.
    Repeat(&'static str, usize),
    /// Sends a row byte by byte, with so long between them.
    Drip(&'static str, Duration),
    Wait(Duration),
    /// Says nothing until the other side ends the connection.
    Silence,
    /// Ends its side in order, and reads what still comes.
    Close,
    /// Ends the connection with a reset.
    Reset,
    /// Begins again with the first step.
    Again,
}

/// Healthy: answers every request.
pub(crate) const OK: &str = "HTTP/1.1 200 OK|content-length: 2||ok";
pub(crate) const HEALTHY: [Step; 3] = [Step::Request, Step::Send(OK), Step::Again];

/// The steps of the connection of this number.
type Script = Arc<dyn Fn(usize) -> Vec<Step> + Send + Sync>;

pub(crate) struct Faulty {
    pub(crate) address: SocketAddr,
    script: Script,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    ends: AtomicBool,
    connections: Mutex<Vec<Connection>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Connection {
    received: Vec<u8>,
    /// To end it from outside.
    socket: Option<TcpStream>,
}

impl Faulty {
    pub(crate) fn start(script: impl Fn(usize) -> Vec<Step> + Send + Sync + 'static) -> Faulty {
        let mut faulty = Faulty {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            script: Arc::new(script),
            shared: Arc::default(),
            listener: None,
        };
        faulty.start_again();
        faulty
    }

    pub(crate) fn healthy() -> Faulty {
        Faulty::start(|_| HEALTHY.to_vec())
    }

    /// The first connection does this, all others are healthy.
    pub(crate) fn first(steps: Vec<Step>) -> Faulty {
        Faulty::start(move |number| match number {
            0 => steps.clone(),
            _ => HEALTHY.to_vec(),
        })
    }

    /// Listens where it did before.
    pub(crate) fn start_again(&mut self) {
        assert!(self.listener.is_none(), "it runs");
        let listener = TcpListener::bind(self.address).expect("a port");
        self.address = listener.local_addr().expect("its address");
        self.shared.ends.store(false, Ordering::SeqCst);
        let (shared, script) = (self.shared.clone(), self.script.clone());
        let run = move || {
            for stream in listener.incoming() {
                let number = shared.connections.lock().expect("connections").len();
                if shared.ends.load(Ordering::SeqCst) || number >= CONNECTIONS {
                    return;
                }
                if let Ok(stream) = stream {
                    shared.serve(stream, number, script(number));
                }
            }
        };
        self.listener = Some(std::thread::spawn(run));
    }

    /// As when its process is killed: nobody listens any more, and every connection is ended.
    pub(crate) fn kill(&mut self) {
        let Some(listener) = self.listener.take() else {
            return;
        };
        self.shared.ends.store(true, Ordering::SeqCst);
        // Wakes it.
        let _ = TcpStream::connect(self.address);
        let _ = listener.join();
        for connection in &mut *self.shared.connections.lock().expect("connections") {
            if let Some(socket) = connection.socket.take() {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
        let threads = std::mem::take(&mut *self.shared.threads.lock().expect("threads"));
        for thread in threads {
            let _ = thread.join();
        }
    }

    /// What each connection received, byte for byte; those without a byte are left out.
    pub(crate) fn received(&self) -> Vec<Vec<u8>> {
        let connections = self.shared.connections.lock().expect("connections");
        let received = connections.iter().map(|c| c.received.clone());
        received.filter(|bytes| !bytes.is_empty()).collect()
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.lock().expect("connections").len()
    }

    /// Connections that have not ended.
    pub(crate) fn open(&self) -> usize {
        let connections = self.shared.connections.lock().expect("connections");
        connections.iter().filter(|c| c.socket.is_some()).count()
    }

    /// All whole requests, and what is left over on each connection: a part of one, or what is none.
    pub(crate) fn requests(&self) -> (Vec<Message>, Vec<Vec<u8>>) {
        let (mut whole, mut left) = (Vec::new(), Vec::new());
        for received in self.received() {
            let mut rest = &received[..];
            while let Parsed::Whole(request, used) = parse(rest, Kind::Request) {
                whole.push(request);
                rest = &rest[used..];
            }
            if !rest.is_empty() {
                left.push(rest.to_vec());
            }
        }
        (whole, left)
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Shared {
    fn serve(self: &Arc<Shared>, stream: TcpStream, number: usize, steps: Vec<Step>) {
        let _ = stream.set_nodelay(true);
        // The end of the server, and of a test's patience, is seen in time.
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.set_write_timeout(Some(PATIENCE));
        self.connections
            .lock()
            .expect("connections")
            .push(Connection {
                received: Vec::new(),
                socket: stream.try_clone().ok(),
            });
        let shared = self.clone();
        let player = Player {
            shared: shared.clone(),
            number,
            stream,
            pending: Vec::new(),
        };
        let thread = std::thread::spawn(move || {
            player.play(&steps);
            let connection = &mut shared.connections.lock().expect("connections")[number];
            connection.socket = None;
        });
        self.threads.lock().expect("threads").push(thread);
    }
}

/// The connection is over.
struct Over;

struct Player {
    shared: Arc<Shared>,
    number: usize,
    stream: TcpStream,
    /// Received, and no part of a request yet.
    pending: Vec<u8>,
}

impl Player {
    fn play(mut self, steps: &[Step]) {
        let mut at = 0;
        while let Some(step) = steps.get(at) {
            at += 1;
            if let Step::Again = step {
                at = 0;
            } else if self.step(step).is_err() {
                return;
            }
        }
        let _ = self.step(&Step::Close);
    }

    fn step(&mut self, step: &Step) -> Result<(), Over> {
        match *step {
            Step::Request => loop {
                match parse(&self.pending, Kind::Request) {
                    Parsed::Whole(_, used) => {
                        self.pending.drain(..used);
                        return Ok(());
                    }
                    Parsed::Partial => self.read()?,
                    Parsed::Wrong(_) => {
                        self.send(&bytes("HTTP/1.1 400 Bad|content-length: 0||"))?;
                        return self.step(&Step::Close);
                    }
                }
            },
            Step::Head => {
                while !self.pending.windows(4).any(|w| w == b"\r\n\r\n") {
                    self.read()?;
                }
                Ok(())
            }
            Step::Send(row) => self.send(&bytes(row)),
            Step::Repeat(row, times) => {
                let piece = bytes(row).repeat(64);
                (0..times.div_ceil(64)).try_for_each(|_| self.send(&piece))
            }
            Step::Drip(row, pause) => bytes(row).iter().try_for_each(|&byte| {
                self.send(&[byte])?;
                self.wait(pause)
            }),
            Step::Wait(pause) => self.wait(pause),
            Step::Silence => loop {
                self.read()?;
            },
            Step::Close => {
                let _ = self.stream.shutdown(Shutdown::Write);
                let _ = self
                    .stream
                    .set_read_timeout(Some(Duration::from_millis(500)));
                while self.read().is_ok() {}
                Err(Over)
            }
            Step::Reset => {
                let socket = Socket::from(self.stream.try_clone().map_err(|_| Over)?);
                let _ = socket.set_linger(Some(Duration::ZERO));
                // The last descriptor sends it.
                self.shared.connections.lock().expect("connections")[self.number].socket = None;
                Err(Over)
            }
            Step::Again => Ok(()),
        }
    }

    fn wait(&self, pause: Duration) -> Result<(), Over> {
        let start = Instant::now();
        while let Some(left) = pause.checked_sub(start.elapsed()) {
            if self.shared.ends.load(Ordering::SeqCst) {
                return Err(Over);
            }
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Over> {
        self.stream.write_all(bytes).map_err(|_| Over)
    }

    fn read(&mut self) -> Result<(), Over> {
        let mut piece = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(Over),
                Ok(n) => {
                    self.pending.extend_from_slice(&piece[..n]);
                    let mut connections = self.shared.connections.lock().expect("connections");
                    let received = &mut connections[self.number].received;
                    let room = KEPT.saturating_sub(received.len());
                    received.extend_from_slice(&piece[..n.min(room)]);
                    return Ok(());
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Over),
            }
        }
    }
}

/// A port that refuses every connection, for as long as this is kept.
pub(crate) struct Refusing(pub(crate) SocketAddr, pub(crate) Socket);

pub(crate) fn refusing() -> Refusing {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&SockAddr::from(any)).expect("a port");
    let address = socket.local_addr().expect("its address");
    Refusing(address.as_socket().expect("an address"), socket)
}

/// A port on which a connection is neither taken nor refused: its queue is full, and nobody empties it.
pub(crate) struct Hanging {
    pub(crate) address: SocketAddr,
    #[allow(dead_code)]
    sockets: Vec<Socket>,
}

pub(crate) fn hanging() -> Hanging {
    let new = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let Refusing(address, listener) = refusing();
    listener.listen(0).expect("a listener");
    let mut sockets = vec![listener];
    for _ in 0..8 {
        let client = new();
        let wait = Duration::from_millis(100);
        let is_full = client.connect_timeout(&address.into(), wait).is_err();
        sockets.push(client);
        if is_full {
            return Hanging { address, sockets };
        }
    }
    panic!("the queue of a listener does not fill");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::{End, exchange};

    const QUIET: Duration = Duration::from_millis(100);

    #[test]
    fn it_plays_its_script_and_keeps_what_it_got() {
        let upstream = Faulty::start(|number| match number {
            0 => HEALTHY.to_vec(),
            1 => vec![Step::Request, Step::Send("HTTP/1.1 2"), Step::Reset],
            2 => vec![Step::Head, Step::Drip("abc", Duration::from_millis(5))],
            _ => vec![Step::Silence],
        });
        let sent = bytes("GET / HTTP/1.1|host: a||POST / HTTP/1.1|content-length: 1||x");
        let got = exchange(upstream.address, &sent, QUIET);
        assert_eq!((got.bytes, got.end), (bytes(OK).repeat(2), End::Open));
        let got = exchange(upstream.address, &bytes("GET / HTTP/1.1||"), QUIET);
        assert_eq!(got.end, End::Reset);
        let got = exchange(
            upstream.address,
            &bytes("P / HTTP/1.1|content-length: 9||ab"),
            QUIET,
        );
        assert_eq!((&got.bytes[..], got.end), (&b"abc"[..], End::Closed));
        let got = exchange(upstream.address, b"x", QUIET);
        assert_eq!((got.bytes.len(), got.end), (0, End::Open));
        assert_eq!(upstream.received()[0], sent);
        let (whole, left) = upstream.requests();
        assert_eq!((whole.len(), left.len()), (3, 2), "{left:?}");
    }

    #[test]
    fn what_is_no_request_is_answered_and_ends_it() {
        let upstream = Faulty::healthy();
        let got = exchange(upstream.address, &bytes("GET / HTTP/1.1|a : b||"), QUIET);
        assert!(got.bytes.starts_with(b"HTTP/1.1 400"), "{got:?}");
        assert_eq!(got.end, End::Closed);
    }

    #[test]
    fn it_dies_and_comes_back() {
        let mut upstream = Faulty::healthy();
        let address = upstream.address;
        let open = TcpStream::connect(address).expect("a connection");
        upstream.kill();
        assert_eq!((&open).read(&mut [0; 9]).expect("its end"), 0);
        let refused = TcpStream::connect(address).expect_err("nobody listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        upstream.start_again();
        assert_eq!(upstream.address, address);
        let got = exchange(address, &bytes("GET / HTTP/1.1||"), QUIET);
        assert_eq!(got.bytes, bytes(OK));
    }

    #[test]
    fn ports_refuse_and_hang() {
        let Refusing(address, _kept) = refusing();
        let refused = TcpStream::connect(address).expect_err("refused");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let hanging = hanging();
        let waits = TcpStream::connect_timeout(&hanging.address, Duration::from_millis(300));
        assert_eq!(waits.expect_err("no answer").kind(), ErrorKind::TimedOut);
    }
}
