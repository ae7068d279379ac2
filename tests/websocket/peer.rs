//! The client, a socket that tells the test what it is told, and the log.

use crate::support::{Answer, PATIENCE, TestServer};
use log::{Log, Metadata, Record};
use loopwright::{
    App, Closed, Ctx, Fragment, Handshake, Message, Socket, SocketHandle, StatusError, WebSocket,
};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
pub(crate) const FIN: u8 = 0x80;

/// What is added to make a request a handshake, of the example in RFC 6455 §1.3.
pub(crate) const FIELDS: &str = "host: test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

pub(crate) fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\n{FIELDS}\r\n")
}

/// A client's end.
pub(crate) struct Ws {
    pub(crate) stream: TcpStream,
    pub(crate) head: Answer,
    arrived: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq, Clone)]
pub(crate) struct Frame {
    pub(crate) fin: bool,
    pub(crate) rsv1: bool,
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

/// A masked frame: its first byte, its payload.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x37, 0xfa, 0x21, 0x3d];
    let mut out = vec![first];
    match payload.len() {
        n @ 0..126 => out.push(0x80 | n as u8),
        n @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&key);
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k));
    out
}

pub(crate) fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}

impl Ws {
    /// The handshake, which has to succeed.
    pub(crate) fn open<S: 'static>(server: &TestServer<S>, path: &str) -> Ws {
        Ws::ask(server.tcp(), request(path))
    }

    /// Takes little until it reads: a client that is slow on purpose.
    pub(crate) fn small<S: 'static>(server: &TestServer<S>, path: &str) -> Ws {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        socket
            .connect(&server.tcp().into())
            .expect("cannot connect");
        Ws::over(socket.into(), request(path).as_bytes())
    }

    /// Sends bytes that begin with a handshake.
    pub(crate) fn ask(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Ws {
        Ws::over(
            TcpStream::connect(address).expect("cannot connect"),
            bytes.as_ref(),
        )
    }

    pub(crate) fn over(stream: TcpStream, bytes: &[u8]) -> Ws {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("nodelay");
        let mut ws = Ws {
            stream,
            head: Answer::default(),
            arrived: Vec::new(),
        };
        ws.raw(bytes);
        let end = loop {
            if let Some(end) = ws.arrived.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            assert!(
                ws.more(),
                "the head ends in {:?}",
                String::from_utf8_lossy(&ws.arrived)
            );
        };
        let head: Vec<u8> = ws.arrived.drain(..end + 4).collect();
        ws.head = Answer::parse_head(std::str::from_utf8(&head[..end]).expect("a head"));
        assert_eq!(ws.head.status, 101, "{}", String::from_utf8_lossy(&head));
        ws
    }

    pub(crate) fn raw(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("cannot send");
    }

    pub(crate) fn send(&mut self, first: u8, payload: impl AsRef<[u8]>) {
        self.raw(frame(first, payload.as_ref()));
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.send(FIN | TEXT, text);
    }

    pub(crate) fn close(&mut self, code: u16, reason: &str) {
        self.send(FIN | CLOSE, close_payload(code, reason));
    }

    /// Reads once; `false` at the end. A reset is an end, too.
    fn more(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                self.arrived.extend_from_slice(&buffer[..n]);
                true
            }
            Err(e) if e.kind() == ErrorKind::ConnectionReset => false,
            Err(e) => panic!("cannot read: {e}"),
        }
    }

    /// The next frame; `None` at the end.
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take() {
                return Some(frame);
            }
            if !self.more() {
                let rest = self.arrived.len();
                assert_eq!(rest, 0, "the connection ends within a frame");
                return None;
            }
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let (&first, &second) = (self.arrived.first()?, self.arrived.get(1)?);
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let (from, len) = match second {
            126 => (
                4,
                u16::from_be_bytes(self.arrived.get(2..4)?.try_into().unwrap()) as usize,
            ),
            127 => (
                10,
                u64::from_be_bytes(self.arrived.get(2..10)?.try_into().unwrap()) as usize,
            ),
            n => (2, n as usize),
        };
        let payload = self.arrived.get(from..from + len)?.to_vec();
        self.arrived.drain(..from + len);
        assert_eq!(first & 0x30, 0, "reserved bits");
        Some(Frame {
            fin: first & 0x80 != 0,
            rsv1: first & 0x40 != 0,
            opcode: first & 15,
            payload,
        })
    }

    /// The next frame, which is a message: its opcode, its payload.
    pub(crate) fn message(&mut self) -> (u8, Vec<u8>) {
        let frame = self.frame().expect("a message, not the end");
        assert!(frame.fin && !frame.rsv1, "{frame:?}");
        (frame.opcode, frame.payload)
    }

    /// The next message, which is text.
    pub(crate) fn says(&mut self) -> String {
        let (opcode, payload) = self.message();
        assert_eq!(opcode, TEXT, "{payload:?}");
        String::from_utf8(payload).expect("UTF-8")
    }

    /// The next frame, which is a Close.
    pub(crate) fn closed(&mut self) -> (u16, String) {
        let (opcode, payload) = self.message();
        assert_eq!(opcode, CLOSE, "{:?}", String::from_utf8_lossy(&payload));
        match payload[..] {
            [] => (1005, String::new()),
            [a, b, ref reason @ ..] => (
                u16::from_be_bytes([a, b]),
                String::from_utf8(reason.to_vec()).expect("UTF-8"),
            ),
            [_] => panic!("a Close of one byte"),
        }
    }

    /// Nothing has arrived that was not looked at.
    pub(crate) fn is_empty(&self) -> bool {
        self.arrived.is_empty()
    }

    pub(crate) fn ends(&mut self) {
        assert_eq!(self.frame(), None);
    }

    /// Nothing comes for a while.
    pub(crate) fn is_silent(&mut self, wait: Duration) {
        assert_eq!(self.take(), None);
        self.stream.set_read_timeout(Some(wait)).expect("a timeout");
        let got = self.stream.read(&mut [0; 16]).map_err(|e| e.kind());
        assert!(
            matches!(got, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)),
            "{got:?}"
        );
        self.stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout");
    }

    /// Breaks the connection.
    pub(crate) fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("linger");
    }

    /// What the log says of this client.
    pub(crate) fn address(&self) -> String {
        self.stream.local_addr().expect("an address").to_string()
    }
}

/// What a [`Probe`] was told, in words: `open`, `text:…`, `close:1000:…`.
pub(crate) struct Ear(Receiver<String>);

impl Ear {
    pub(crate) fn next(&self) -> String {
        self.0.recv_timeout(PATIENCE).expect("it is told nothing")
    }

    pub(crate) fn try_next(&self) -> Option<String> {
        self.0.recv_timeout(Duration::from_millis(1)).ok()
    }

    pub(crate) fn hears(&self, expected: &str) {
        assert_eq!(self.next(), expected);
    }

    /// All that is left once the server is gone, and with it whoever could tell more.
    pub(crate) fn rest(&self) -> Vec<String> {
        let begun = Instant::now();
        let mut rest = Vec::new();
        while let Ok(told) = self
            .0
            .recv_timeout(PATIENCE.saturating_sub(begun.elapsed()))
        {
            rest.push(told);
        }
        rest
    }
}

/// Tells, and does what it is told by `act`.
pub(crate) struct Probe {
    pub(crate) tell: Sender<String>,
    pub(crate) act: fn(&mut Probe, &mut Ctx<'_>, &mut WebSocket<'_>, &str),
    pub(crate) left: u32,
    pub(crate) handle: Option<SocketHandle>,
}

pub(crate) fn ear() -> (Sender<String>, Ear) {
    let (tell, told) = channel();
    (tell, Ear(told))
}

impl Probe {
    pub(crate) fn new(
        tell: &Sender<String>,
        act: fn(&mut Probe, &mut Ctx<'_>, &mut WebSocket<'_>, &str),
    ) -> Probe {
        Probe {
            tell: tell.clone(),
            act,
            left: 0,
            handle: None,
        }
    }

    pub(crate) fn say(&self, what: impl Into<String>) {
        let _ = self.tell.send(what.into());
    }
}

fn words(message: Message<'_>) -> String {
    match message {
        Message::Text(text) => format!("text:{text}"),
        Message::Binary(bytes) => format!("binary:{}", bytes.len()),
    }
}

impl Socket for Probe {
    fn open(&mut self, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>) {
        self.say("open");
        self.handle = Some(ws.handle());
        (self.act)(self, cx, ws, "open");
    }
    fn message(&mut self, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>, message: Message<'_>) {
        self.say(words(message));
        let text = message.as_text().unwrap_or("binary").to_string();
        (self.act)(self, cx, ws, &text);
    }
    fn fragment(&mut self, _: &mut Ctx<'_>, _: &mut WebSocket<'_>, part: Fragment<'_>) {
        let Fragment {
            is_text,
            bytes,
            is_first,
            is_last,
        } = part;
        self.say(format!(
            "part:{is_text}:{is_first}:{is_last}:{}",
            String::from_utf8_lossy(bytes)
        ));
    }
    fn pong(&mut self, _: &mut Ctx<'_>, _: &mut WebSocket<'_>, payload: &[u8]) {
        self.say(format!("pong:{}", String::from_utf8_lossy(payload)));
    }
    fn drained(&mut self, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>) {
        self.say("drained");
        (self.act)(self, cx, ws, "drained");
    }
    fn missed(&mut self, cx: &mut Ctx<'_>, ws: &mut WebSocket<'_>, message: Message<'_>) {
        self.say(format!("missed:{}", words(message)));
        (self.act)(self, cx, ws, "missed");
    }
    fn close(&mut self, cx: &mut Ctx<'_>, closed: Closed<'_>) {
        let _ = cx;
        self.say(format!("close:{}:{}", closed.code, closed.reason));
    }
}

/// Of `Probe`s on one route, with what the handshake says.
pub(crate) fn probes(
    app: &mut App,
    path: &str,
    tell: Sender<String>,
    set: impl Fn(&mut Handshake<'_>) -> Result<(), StatusError> + 'static,
    act: fn(&mut Probe, &mut Ctx<'_>, &mut WebSocket<'_>, &str),
) {
    app.sockets(path, move |_, _, handshake| {
        set(handshake)?;
        Ok(Probe::new(&tell, act))
    });
}

pub(crate) fn echo(_: &mut Probe, _: &mut Ctx<'_>, ws: &mut WebSocket<'_>, text: &str) {
    if !["open", "drained", "missed"].contains(&text) {
        ws.send(text);
    }
}

// ---- the log

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Collect;

impl Log for Collect {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        LINES
            .lock()
            .expect("the lines")
            .push(record.args().to_string());
    }
    fn flush(&self) {}
}

/// From now on lines are kept. All tests share them: look for what only yours can have said.
pub(crate) fn collect_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Collect).expect("no other logger");
        log::set_max_level(log::LevelFilter::Info);
    });
}

pub(crate) fn logged(parts: &[&str]) -> usize {
    let lines = LINES.lock().expect("the lines");
    let has_all = |line: &&String| parts.iter().all(|part| line.contains(part));
    lines.iter().filter(has_all).count()
}
