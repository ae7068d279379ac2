//! Floor 4. A schedule: who does what, and in which order. A value, drawn from a seed, printed a line a
//! step, read back from that, and still a schedule whatever steps are taken away: that is what
//! shrinking needs.
//!
//! ```text
//! 0 connect 1          a client connects, to a listener     server wait 20ms
//! 0 ask #3 id=0-1 n=7  asks, after what it asked before     server stop
//! 0 send 20            sends so many bytes of what it asked server reload
//! 0 await              until all of it is answered          server exhaust 3
//! ```
//! Steps of one actor follow each other; different actors do not wait for each other.

use super::request::{MALFORMED, Template};
use super::simulation::World;
use fastrand::Rng;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// One request, as its template and the numbers that its bytes follow from.
///
/// ```
/// use loopwright::sim::Ask;
/// let ask = Ask { template: 3, id: "0-1".into(), n: 7, body: 20, ..Ask::default() };
/// assert_eq!(ask.to_string(), "#3 id=0-1 n=7 body=20");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ask {
    /// Which template, in the order they were given.
    pub template: usize,
    /// What `{id}` is.
    pub id: String,
    /// What `{n}` is.
    pub n: usize,
    /// The length of its body.
    pub body: usize,
    /// It comes in chunks, split as this seed says.
    pub chunked: Option<u32>,
    /// HEAD instead of GET.
    pub by_head: bool,
    /// HTTP/1.0 instead of 1.1.
    pub http_10: bool,
    /// It says what becomes of the connection: `close` in 1.1, `keep-alive` in 1.0.
    pub says: bool,
    /// `expect: 100-continue`.
    pub expects: bool,
    /// The head is so long, filled up by a field, if it is shorter without.
    pub head: usize,
    /// It has so many fields, if it has less without.
    pub fields: usize,
}

/// What an actor does. The first ones are for clients, the last three for the server.
///
/// ```
/// use loopwright::sim::Operation;
/// assert_eq!(Operation::Send(20).to_string(), "send 20");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Connects to a listener. Whoever asks without has connected to the first.
    Connect(usize),
    /// Means to send this request.
    Ask(Ask),
    /// Means to send malformed request number so and so.
    Malformed(usize),
    /// Sends so many bytes of what it means to.
    Send(usize),
    /// Sends everything that it means to.
    SendAll,
    /// Sends up to the end of the last request's head.
    SendHead,
    /// Waits until each request sent whole has its answer.
    Await,
    /// Waits for leave to send a body, or for an answer instead; no longer than so long.
    AwaitLeave(Duration),
    /// Waits. For the server, too.
    Wait(Duration),
    /// Takes nothing of what it is sent.
    Stall,
    /// Takes it again.
    Resume,
    /// Closes its sending side.
    Finish,
    /// Breaks the connection.
    Reset,
    /// From now on sends whatever the server says: after `connection: close`, too.
    Deaf,
    /// The server is told to stop: to drain, the first time; to leave, the second.
    Stop,
    /// The server's App is replaced by another of the same kind.
    Reload,
    /// The next accepts fail for want of descriptors.
    Exhaust(u32),
}

/// An operation, and whose it is: a client's, or (`None`) the server's.
///
/// ```
/// use loopwright::sim::{Operation, Schedule, Step};
/// let stop = Step { client: None, operation: Operation::Stop };
/// assert_eq!(Schedule { steps: vec![stop] }.to_string(), "server stop\n");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The client.
    pub client: Option<usize>,
    /// What it does.
    pub operation: Operation,
}

/// What happens in a run.
///
/// ```
/// use loopwright::sim::Schedule;
/// let text = "0 ask #0 id=0-0 n=7\n0 send 20\n0 wait 1500us\n0 send\n0 await\nserver stop\n";
/// let schedule: Schedule = text.parse().unwrap();
/// assert_eq!(schedule.steps.len(), 6);
/// assert_eq!(schedule.to_string(), text);
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Schedule {
    /// In order; but only steps of one actor wait for each other.
    pub steps: Vec<Step>,
}

impl Schedule {
    /// Takes chances.
    pub(super) fn draw(rng: &mut Rng, world: &World, templates: &[Template]) -> Schedule {
        let mut steps = Vec::new();
        for client in 0..world.clients {
            let script = script(rng, client, world, templates);
            steps.extend(script.into_iter().map(|operation| Step {
                client: Some(client),
                operation,
            }));
        }
        let mut at: Vec<(u64, Operation)> = Vec::new();
        let stops = match rng.u32(..8) {
            0 => 1,
            1 => 2,
            _ => 0,
        };
        let reloads = rng.usize(..4);
        at.extend((0..stops).map(|_| (rng.u64(..200_000), Operation::Stop)));
        at.extend((0..reloads).map(|_| (rng.u64(..200_000), Operation::Reload)));
        if one_in(rng, 8) {
            at.push((rng.u64(..100_000), Operation::Exhaust(rng.u32(1..4))));
        }
        at.sort_by_key(|(at, _)| *at);
        let mut now = 0;
        for (at, operation) in at {
            let wait = Operation::Wait(Duration::from_micros(at - now));
            now = at;
            steps.extend([wait, operation].map(|operation| Step {
                client: None,
                operation,
            }));
        }
        Schedule { steps }
    }

    /// One more than the highest number of a client.
    pub(super) fn clients(&self) -> usize {
        let clients = self.steps.iter().filter_map(|step| step.client);
        clients.max().map_or(0, |last| last + 1)
    }
}

fn one_in(rng: &mut Rng, n: u32) -> bool {
    rng.u32(..n) == 0
}

/// What one client does, from its first request to its end.
fn script(rng: &mut Rng, client: usize, world: &World, templates: &[Template]) -> Vec<Operation> {
    use Operation::*;
    let mut steps = vec![
        Wait(Duration::from_micros(rng.u64(..50_000))),
        Connect(rng.usize(..world.listeners.max(1))),
    ];
    if one_in(rng, 5) {
        steps.push(Deaf);
    }
    requests(rng, client, world, templates, &mut steps);
    if one_in(rng, 4) {
        let at = rng.usize(2..=steps.len());
        // Whoever waits for an answer takes it.
        let is_send = |step: &&Operation| !matches!(step, Await | AwaitLeave(_) | Connect(_));
        let sends = steps[2..at].iter().rev().take_while(is_send).count();
        steps.insert(at, Resume);
        steps.insert(at, Wait(Duration::from_millis(rng.u64(1..40))));
        steps.insert(at - rng.usize(..=sends), Stall);
    }
    if one_in(rng, 10) {
        // Minutes: every timeout has its chance.
        let pause = Wait(Duration::from_secs(rng.u64(1..200)));
        steps.insert(rng.usize(..=steps.len()), pause);
    }
    match rng.u32(..100) {
        0..50 => steps.extend([Await, Finish]),
        50..65 => steps.extend([Finish, Await]),
        65..75 => steps.push(Await),
        75..83 => {
            cut(rng, &mut steps);
            steps.push(Reset);
        }
        83..92 => {
            cut(rng, &mut steps);
            if rng.bool() {
                steps.push(Finish);
            }
        }
        _ => {
            steps.retain(|step| !matches!(step, Await | AwaitLeave(_) | Resume));
            steps.insert(rng.usize(2..=steps.len()), Stall);
        }
    }
    steps
}

/// Some requests at once, some one by one; those that expect leave always alone.
fn requests(
    rng: &mut Rng,
    client: usize,
    world: &World,
    templates: &[Template],
    steps: &mut Vec<Operation>,
) {
    use Operation::*;
    let count = if templates.is_empty() {
        0
    } else {
        rng.usize(1..=6)
    };
    let waits = rng.u32(1..5);
    for n in 0..count {
        let template = rng.usize(..templates.len());
        let id = format!("{client}-{n}");
        let ask = templates[template].draw(rng, template, id, world);
        if ask.expects {
            let patience = if one_in(rng, 3) {
                Duration::from_millis(15)
            } else {
                FOREVER
            };
            steps.extend([SendAll, Await, Ask(ask), SendHead, AwaitLeave(patience)]);
            send(rng, steps);
            continue;
        }
        steps.push(Ask(ask));
        if one_in(rng, waits) {
            send(rng, steps);
            steps.push(Await);
        }
    }
    if one_in(rng, 12) {
        steps.push(Malformed(rng.usize(..MALFORMED)));
    }
    send(rng, steps);
}

/// Longer than any timeout.
const FOREVER: Duration = Duration::from_secs(3600);

/// What is meant to be sent, in pieces.
fn send(rng: &mut Rng, steps: &mut Vec<Operation>) {
    for _ in 0..rng.usize(..5) {
        let most = if rng.bool() { 100 } else { 3000 };
        steps.push(Operation::Send(rng.usize(1..=most)));
        let micros = match rng.u32(..10) {
            0 => rng.u64(..20_000),
            1..5 => rng.u64(..1000),
            _ => continue,
        };
        steps.push(Operation::Wait(Duration::from_micros(micros)));
    }
    steps.push(Operation::SendAll);
}

/// Stops anywhere, in the middle of a request most likely.
fn cut(rng: &mut Rng, steps: &mut Vec<Operation>) {
    steps.truncate(rng.usize(2..=steps.len()));
    let last = steps
        .iter_mut()
        .rev()
        .find(|step| **step == Operation::SendAll);
    if let Some(last) = last {
        *last = Operation::Send(rng.usize(1..500));
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::Connect(listener) => write!(f, "connect {listener}"),
            Operation::Ask(ask) => write!(f, "ask {ask}"),
            Operation::Malformed(n) => write!(f, "malformed {n}"),
            Operation::Send(bytes) => write!(f, "send {bytes}"),
            Operation::SendAll => f.write_str("send"),
            Operation::SendHead => f.write_str("send-head"),
            Operation::Await => f.write_str("await"),
            Operation::AwaitLeave(most) => write!(f, "await-leave {}us", most.as_micros()),
            Operation::Wait(time) => write!(f, "wait {}us", time.as_micros()),
            Operation::Stall => f.write_str("stall"),
            Operation::Resume => f.write_str("resume"),
            Operation::Finish => f.write_str("finish"),
            Operation::Reset => f.write_str("reset"),
            Operation::Deaf => f.write_str("deaf"),
            Operation::Stop => f.write_str("stop"),
            Operation::Reload => f.write_str("reload"),
            Operation::Exhaust(times) => write!(f, "exhaust {times}"),
        }
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} id={} n={}", self.template, self.id, self.n)?;
        if self.body > 0 {
            write!(f, " body={}", self.body)?;
        }
        if let Some(seed) = self.chunked {
            write!(f, " chunked={seed}")?;
        }
        if self.head > 0 {
            write!(f, " head={}", self.head)?;
        }
        if self.fields > 0 {
            write!(f, " fields={}", self.fields)?;
        }
        let flags = [
            (self.by_head, " head"),
            (self.http_10, " http/1.0"),
            (self.says, " says"),
            (self.expects, " expects"),
        ];
        let mut set = flags.iter().filter(|(is_set, _)| *is_set);
        set.try_for_each(|(_, name)| f.write_str(name))
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Step { client, operation } in &self.steps {
            match client {
                Some(client) => writeln!(f, "{client} {operation}")?,
                None => writeln!(f, "server {operation}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Schedule {
    type Err = String;

    /// Reads what `Display` writes; empty lines and what follows a `;` are nothing.
    fn from_str(text: &str) -> Result<Schedule, String> {
        let mut steps = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.split(';').next().unwrap_or("").trim();
            if !line.is_empty() {
                let step = step(line).ok_or_else(|| format!("line {}: {line:?}", n + 1))?;
                steps.push(step);
            }
        }
        Ok(Schedule { steps })
    }
}

fn step(line: &str) -> Option<Step> {
    let mut words = line.split_whitespace();
    let client = match words.next()? {
        "server" => None,
        number => Some(number.parse().ok()?),
    };
    let (verb, words) = (words.next()?, words.collect::<Vec<_>>());
    let time = |text: &str| {
        let micros = text.strip_suffix("us")?.parse().ok()?;
        Some(Duration::from_micros(micros))
    };
    let operation = match (verb, &words[..]) {
        ("connect", [listener]) => Operation::Connect(listener.parse().ok()?),
        ("ask", words) => Operation::Ask(ask(words)?),
        ("malformed", [n]) => Operation::Malformed(n.parse().ok()?),
        ("send", [bytes]) => Operation::Send(bytes.parse().ok()?),
        ("send", []) => Operation::SendAll,
        ("send-head", []) => Operation::SendHead,
        ("await", []) => Operation::Await,
        ("await-leave", [most]) => Operation::AwaitLeave(time(most)?),
        ("wait", [most]) => Operation::Wait(time(most)?),
        ("stall", []) => Operation::Stall,
        ("resume", []) => Operation::Resume,
        ("finish", []) => Operation::Finish,
        ("reset", []) => Operation::Reset,
        ("deaf", []) => Operation::Deaf,
        ("stop", []) => Operation::Stop,
        ("reload", []) => Operation::Reload,
        ("exhaust", [times]) => Operation::Exhaust(times.parse().ok()?),
        _ => return None,
    };
    Some(Step { client, operation })
}

fn ask(words: &[&str]) -> Option<Ask> {
    let mut ask = Ask::default();
    for word in words {
        match word.split_once('=') {
            Some(("id", id)) => ask.id = id.to_string(),
            Some(("n", n)) => ask.n = n.parse().ok()?,
            Some(("body", bytes)) => ask.body = bytes.parse().ok()?,
            Some(("head", bytes)) => ask.head = bytes.parse().ok()?,
            Some(("fields", fields)) => ask.fields = fields.parse().ok()?,
            Some(("chunked", seed)) => ask.chunked = Some(seed.parse().ok()?),
            Some(_) => return None,
            None => match *word {
                "head" => ask.by_head = true,
                "http/1.0" => ask.http_10 = true,
                "says" => ask.says = true,
                "expects" => ask.expects = true,
                word => ask.template = word.strip_prefix('#')?.parse().ok()?,
            },
        }
    }
    Some(ask)
}
