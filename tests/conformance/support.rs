//! Feeds a row in every way there is, and says what came of it.

use crate::site::{Log, limits, site};
use loopwright::base::clock::StockFields;
use loopwright::proto::h1::answer::FieldBlock;
use loopwright::proto::h1::head::{self, HeadLimits};
use loopwright::proto::h1::server::{Bounds, Event, Extent, Server as Machine, Waits};
use loopwright::sim::{Answer, Asked, Faults, SimNet};
use loopwright::{Handle, Instant, Listen, Server, StatusCode};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// What arrives, and the outcome.
pub(crate) type Case = (&'static str, &'static str);

const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nhost: p\r\n\r\n";
/// Longer than anything here takes: past it a test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// `|` is a line's end, `¦` a `|`, everything else the byte of its number.
pub(crate) fn bytes(row: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for c in row.chars() {
        match c {
            '|' => bytes.extend(b"\r\n"),
            '¦' => bytes.push(b'|'),
            c => bytes.push(u8::try_from(u32::from(c)).expect("a byte")),
        }
    }
    bytes
}

/// Checks rows that all begin with `prefix`.
#[track_caller]
pub(crate) fn check(prefix: &str, rows: &[Case]) {
    check_between(prefix, rows, "");
}

/// The same, and all end with `suffix`. All that is wrong is told at once.
#[track_caller]
pub(crate) fn check_between(prefix: &str, rows: &[Case], suffix: &str) {
    let mut feeds = Feeds::new();
    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|(row, outcome)| {
            let row = format!("{prefix}{row}{suffix}");
            feeds.check(&row, outcome).err()
        })
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Checks a row that is not written out.
#[track_caller]
pub(crate) fn check_one(row: &str, outcome: &str) {
    if let Err(wrong) = Feeds::new().check(row, outcome) {
        panic!("\n{wrong}");
    }
}

/// Sends a row over TCP, for what its outcome does not tell.
pub(crate) fn run(row: &str) -> Run {
    Tcp::new().run(&bytes(row))
}

/// What everything is fed to.
pub(crate) struct Feeds {
    tcp: Tcp,
    by_bytes: World,
    by_pieces: World,
}

impl Feeds {
    pub(crate) fn new() -> Feeds {
        Feeds {
            tcp: Tcp::new(),
            by_bytes: World::new(1),
            by_pieces: World::new(40),
        }
    }

    pub(crate) fn check(&mut self, row: &str, outcome: &str) -> Result<(), String> {
        let bytes = bytes(row);
        let short: String = row.chars().take(160).collect();
        let is = |how: &str, got: String| match got == outcome {
            true => Ok(()),
            false => Err(format!("{short:?} {how}\n  want {outcome}\n  got  {got}")),
        };
        is("whole", self.tcp.run(&bytes).outcome())?;
        for (how, world) in [
            ("by bytes", &mut self.by_bytes),
            ("by pieces", &mut self.by_pieces),
        ] {
            for _ in 0..if how == "by bytes" { 1 } else { 3 } {
                let run = world.run(&bytes);
                match run.is_reset {
                    // A client that sends on behind `close` may lose its answer. Nothing was taken for a request.
                    true => is(how, format!("{}{}", status_part(outcome), run.seen_part()))?,
                    false => is(how, run.outcome())?,
                }
            }
        }
        let whole = split(&bytes, bytes.len());
        // Every place, but of long rows not all.
        for at in (1..bytes.len()).step_by(1 + bytes.len() / 400) {
            let halves = split(&bytes, at);
            if halves != whole {
                return Err(format!(
                    "{short:?} split at {at}\n  {halves:?}\n  {whole:?}"
                ));
            }
        }
        Ok(())
    }
}

fn status_part(outcome: &str) -> &str {
    outcome.split(" > ").next().unwrap_or_default()
}

/// What came of one feed.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) answers: Vec<Got>,
    pub(crate) seen: Vec<String>,
    /// The probe was not answered.
    closed: bool,
    is_reset: bool,
}

/// An answer, kept.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) closes: bool,
}

impl Got {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let found = self
            .fields
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

impl Run {
    fn new(bytes: &[u8], received: &[u8], mut seen: Vec<String>, is_reset: bool) -> Run {
        let mut answers = answers(bytes, received, true);
        let probe = |got: &Got| got.body == b"probe";
        let closed = !answers.last().is_some_and(probe);
        if !closed {
            answers.pop();
            assert_eq!(seen.pop().as_deref(), Some("GET /probe"));
        }
        let asks = String::from_utf8_lossy(bytes).to_ascii_lowercase();
        for (n, got) in answers.iter().enumerate() {
            // RFC 9112 §9.6: `close` is the last word.
            let is_last = n + 1 == answers.len();
            assert!(!got.closes || (is_last && closed), "{asks:?}: {got:?}");
            assert!(
                got.status != 100 || asks.contains("100-continue"),
                "{asks:?}"
            );
            assert!(got.status != 405 || got.field("allow").is_some(), "{got:?}");
        }
        Run {
            answers,
            seen,
            closed,
            is_reset,
        }
    }

    /// Leave to continue depends on how the body comes, so it is looked at elsewhere.
    pub(crate) fn outcome(&self) -> String {
        let statuses: Vec<String> = self
            .answers
            .iter()
            .filter(|got| got.status != 100)
            .map(|got| got.status.to_string())
            .collect();
        let announced = self.answers.last().is_some_and(|got| got.closes);
        let end = match (self.closed, announced) {
            (false, _) => "",
            (true, true) => "x",
            (true, false) => "!",
        };
        format!("{}{end}{}", statuses.join(" "), self.seen_part())
    }

    fn seen_part(&self) -> String {
        match self.seen.is_empty() {
            true => String::new(),
            false => format!(" > {}", self.seen.join("; ")),
        }
    }
}

/// Reads what has come. The first answer is read as what the first request's method and version ask for.
fn answers(asked: &[u8], mut received: &[u8], ended: bool) -> Vec<Got> {
    let first_line = asked.split(|&b| b == b'\r').find(|line| line.len() > 1);
    let first_line = first_line.unwrap_or_default();
    let mut answers: Vec<Got> = Vec::new();
    while !received.is_empty() {
        let is_first = answers.iter().all(|got| got.status == 100);
        let asked = Asked {
            by_head: is_first && asked.trim_ascii_start().starts_with(b"HEAD "),
            by_http_10: is_first && first_line.ends_with(b"HTTP/1.0"),
        };
        let read = Answer::read(received, asked, ended).unwrap_or_else(|why| panic!("{why}"));
        let Some(answer) = read else {
            break;
        };
        if !answer.is_interim() {
            let servers = answer.fields.iter();
            let servers = servers.filter(|(name, _)| name.eq_ignore_ascii_case("server"));
            let servers: Vec<&str> = servers.map(|&(_, value)| value).collect();
            assert_eq!(servers, ["loopwright"]);
        }
        if !answer.is_whole {
            break;
        }
        let own = |fields: &[(&str, &str)]| -> Vec<(String, String)> {
            let pairs = fields.iter().map(|(n, v)| (n.to_string(), v.to_string()));
            pairs.collect()
        };
        answers.push(Got {
            status: answer.status,
            fields: [own(&answer.fields), own(&answer.trailers)].concat(),
            body: answer.body.to_vec(),
            closes: answer.closes && !answer.is_interim(),
        });
        received = &received[answer.len..];
    }
    answers
}

fn probe_is_answered(received: &[u8]) -> bool {
    received.ends_with(b"\r\n\r\nprobe")
}

// ---- over TCP

pub(crate) struct Tcp {
    address: SocketAddr,
    log: Log,
    handle: Handle<()>,
    thread: Option<JoinHandle<()>>,
}

impl Tcp {
    pub(crate) fn new() -> Tcp {
        let log = Log::default();
        let (tell, told) = mpsc::channel();
        let seen = log.clone();
        let thread = std::thread::spawn(move || {
            let builder = Server::builder().listen("127.0.0.1:0").limits(limits());
            let mut server = builder.build(site(seen), ()).expect("a server");
            let _ = tell.send((server.addresses(), server.handle()));
            server.run().expect("the loop");
        });
        let (addresses, handle) = told.recv().expect("a server");
        let Listen::Tcp(address) = addresses[0] else {
            panic!("not TCP");
        };
        Tcp {
            address,
            log,
            handle,
            thread: Some(thread),
        }
    }

    /// All of it at once, the probe behind it.
    pub(crate) fn run(&self, bytes: &[u8]) -> Run {
        let mut stream = self.connect();
        // Whoever is refused may find the connection closed already.
        let _ = stream.write_all(&[bytes, PROBE].concat());
        let mut received = Vec::new();
        while !probe_is_answered(&received) {
            let mut piece = [0; 16 * 1024];
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => received.extend_from_slice(&piece[..n]),
                Err(e) => {
                    let (asked, got) = (bytes.escape_ascii(), received.escape_ascii());
                    panic!(
                        "{asked}: {e} after {got}; the app saw {:?}",
                        self.log.take()
                    );
                }
            }
        }
        Run::new(bytes, &received, self.log.take(), false)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.handle.stop();
        self.handle.stop(); // nobody is waited for
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_none_or(|end| end.is_ok()));
    }
}

// ---- in the simulator

/// A world whose segments are no longer than so much.
struct World {
    server: Server<(), SimNet>,
    log: Log,
}

impl World {
    fn new(segment: usize) -> World {
        let faults = Faults {
            accept_errors: 0,
            send_buffer: (64, 4096),
            segment,
        };
        let log = Log::default();
        let net = SimNet::new(segment as u64, faults);
        let builder = Server::builder().limits(limits());
        let server = builder.simulate(net, site(log.clone()), ());
        World {
            server: server.expect("a world"),
            log,
        }
    }

    fn run(&mut self, bytes: &[u8]) -> Run {
        let client = self.server.net_mut().connect(0);
        self.server.net_mut().send(client, &[bytes, PROBE].concat());
        let start = self.server.net_mut().now();
        loop {
            self.server
                .turn_within(Duration::from_millis(1))
                .expect("a turn");
            let net = self.server.net_mut();
            if net.is_finished(client) || probe_is_answered(net.received(client)) {
                break;
            }
            let waited = net.now() - start;
            assert!(waited < PATIENCE, "{}: no end", bytes.escape_ascii());
        }
        let net = self.server.net_mut();
        net.finish(client);
        let received = net.received(client).to_vec();
        let is_reset = net.was_reset(client);
        Run::new(bytes, &received, self.log.take(), is_reset)
    }
}

// ---- the machine alone

/// Feeds `bytes` in two pieces; what the machine reports, and what leaves.
fn split(bytes: &[u8], at: usize) -> (Vec<String>, Vec<u8>) {
    let now = Instant::default();
    let mut stock = StockFields::new(None);
    stock.refresh(now, || SystemTime::UNIX_EPOCH);
    let (mut machine, mut events, mut out) = (Machine::new(now), Vec::new(), Vec::new());
    let mut kept = Vec::new();
    for piece in [&bytes[..at], &bytes[at..]] {
        kept.extend_from_slice(piece);
        let whole = std::mem::take(&mut kept);
        let mut input = &whole[..];
        loop {
            let mut slots = head::slots();
            let answer = match machine.poll_event(&mut input, &mut slots, &bounds(), now) {
                Ok(Event::Request(head)) => {
                    let fields: Vec<_> = head.fields.iter().collect();
                    events.push(format!(
                        "{} {} {:?} {fields:?} {:?} {} {}",
                        head.method,
                        head.path,
                        head.query,
                        head.framing,
                        head.keep_alive,
                        head.http_10
                    ));
                    events.push(String::new());
                    false
                }
                Ok(Event::Data(bytes)) => {
                    let text = bytes.escape_ascii().to_string();
                    events.last_mut().expect("a request").push_str(&text);
                    false
                }
                Ok(Event::End(trailers)) => {
                    let text =
                        trailers.with(|fields| format!("{:?}", fields.iter().collect::<Vec<_>>()));
                    events.push(format!("end {text:?}"));
                    false
                }
                Ok(Event::Paused) => machine.is_answering(),
                Ok(Event::NeedInput | Event::Closed | Event::Switched) => break,
                Err(error) => {
                    events.push(format!("refused {}", error.status()));
                    machine.refuse(error, &mut out, &stock);
                    false
                }
            };
            if answer {
                let fields = FieldBlock::default();
                machine.begin_answer(
                    &mut out,
                    StatusCode::OK,
                    &fields,
                    &stock,
                    Extent::Whole(0),
                    64,
                );
                machine.end_answer(b"", &mut out, 64, now);
            }
        }
        kept = input.to_vec();
    }
    (events, out)
}

fn bounds() -> Bounds {
    let limits = limits();
    Bounds {
        head: HeadLimits {
            head: limits.head,
            target: limits.target,
            fields: limits.fields,
        },
        discard: limits.discard,
        waits: Waits {
            head: PATIENCE,
            body: PATIENCE,
            body_rate: 0,
            body_grace: PATIENCE,
            idle: PATIENCE,
        },
    }
}
