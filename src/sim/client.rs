//! Floor 4. A client: it acts between two turns, as its schedule says, and reads what it is answered.

use super::reader::{self, Answer};
use super::reason::{Kind, Reason};
use super::request::{Request, Template};
use super::schedule::Operation;
use super::trace::Trace;
use crate::base::clock::Instant;
use crate::net::Peer;
use crate::net::sim::{self, SimNet};
use memchr::memmem;
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What a client has sent and received, at the end of a run.
///
/// ```
/// # use loopwright::App;
/// # use loopwright::sim::{Simulation, Template};
/// # let simulation = Simulation::new(|| (), |_| {
/// #     let mut app: App = App::new();
/// #     app.get("/{id}", |_, _, res| res.text("hi"));
/// #     app
/// # });
/// let simulation = simulation.ask(Template::new("GET", "/{id}"));
/// let outcome = simulation.run(3).unwrap();
/// for seen in &outcome.clients {
///     assert!(seen.requests.len() <= 10 && seen.ended.len() <= seen.requests.len());
/// }
/// ```
pub struct Seen {
    /// What it meant to send, in order.
    pub requests: Vec<Request>,
    /// Bytes of its requests that it has sent.
    pub sent: usize,
    /// All that it was answered.
    pub received: Vec<u8>,
    /// Nothing will follow.
    pub has_ended: bool,
    /// It broke the connection.
    pub did_reset: bool,
    /// The connection was broken: by it, by the server, or by the network.
    pub was_reset: bool,
    /// It closed its sending side.
    pub did_finish: bool,
    /// It stopped taking answers for good.
    pub stalls: bool,
    /// The longest time for which it took nothing.
    pub stalled: Duration,
    /// Requests during which it was silent, or stalled, for as long as some timeout: the first that was
    /// not answered then, and the first that was not sent whole.
    pub slow: Vec<RangeInclusive<usize>>,
    /// What `after` was told of its requests, in order: the first of them is of the first request.
    pub ended: Vec<Ended>,
    /// When the server closed the connection.
    pub closed_at: Option<Instant>,
}

impl Seen {
    /// It was so slow that the server may have refused request `n`, or closed instead of answering it.
    ///
    /// ```
    /// # use loopwright::App;
    /// # use loopwright::sim::{Simulation, Template};
    /// # let simulation = Simulation::new(|| (), |_| {
    /// #     let mut app: App = App::new();
    /// #     app.get("/{id}", |_, _, res| res.text("hi"));
    /// #     app
    /// # });
    /// let simulation = simulation.ask(Template::new("GET", "/{id}"));
    /// let outcome = simulation.run(3).unwrap();
    /// for seen in &outcome.clients {
    ///     assert!(!seen.was_slow(seen.requests.len() + 1));
    /// }
    /// ```
    pub fn was_slow(&self, n: usize) -> bool {
        self.slow.iter().any(|requests| requests.contains(&n))
    }
}

/// What the server says of a request that it has dispatched.
///
/// ```
/// # use loopwright::App;
/// # use loopwright::sim::{Simulation, Template};
/// # let simulation = Simulation::new(|| (), |_| {
/// #     let mut app: App = App::new();
/// #     app.get("/{id}", |_, _, res| res.text("hi"));
/// #     app
/// # });
/// let simulation = simulation.ask(Template::new("GET", "/{id}"));
/// let outcome = simulation.run(3).unwrap();
/// let mut ended = outcome.clients.iter().flat_map(|seen| &seen.ended);
/// assert!(ended.all(|ended| ended.at <= outcome.end));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When it said so.
    pub at: Instant,
    /// Its answer was broken off, or never began. If not, its last byte was on its way.
    pub is_aborted: bool,
}

pub(super) struct Client {
    program: VecDeque<Operation>,
    n: usize,
    conn: Option<sim::Client>,
    /// It does nothing before.
    next: Instant,
    requests: Vec<Request>,
    /// The bytes of all requests, and how many of them are sent.
    bytes: Vec<u8>,
    sent: usize,
    /// Bytes of its answers that are read, and how many of them were final.
    read: usize,
    answers: usize,
    /// Of the next answer: bytes seen when it was last looked at, and how many it takes, if it says so.
    looked: usize,
    wants: Option<usize>,
    has_leave: bool,
    gives_up: Option<Instant>,
    /// An answer has said that it is the last.
    is_dismissed: bool,
    is_deaf: bool,
    did_reset: bool,
    did_finish: bool,
    stalled: Option<Instant>,
    /// It connected, or was last answered.
    since: Instant,
    stalled_for: Duration,
    slow: Vec<RangeInclusive<usize>>,
    /// The shortest timeout.
    quickest: Duration,
}

impl Client {
    pub(super) fn new(n: usize, program: VecDeque<Operation>, quickest: Duration) -> Client {
        Client {
            program,
            n,
            conn: None,
            next: Instant::default(),
            requests: Vec::new(),
            bytes: Vec::new(),
            sent: 0,
            read: 0,
            answers: 0,
            looked: 0,
            wants: None,
            has_leave: false,
            gives_up: None,
            is_dismissed: false,
            is_deaf: false,
            did_reset: false,
            did_finish: false,
            stalled: None,
            since: Instant::default(),
            stalled_for: Duration::ZERO,
            slow: Vec::new(),
            quickest,
        }
    }

    /// Takes the steps that it can take now. Says whether there were any.
    pub(super) fn act(
        &mut self,
        net: &mut SimNet,
        templates: &[Template],
        trace: &mut Trace,
    ) -> Result<bool, Reason> {
        let mut has_acted = false;
        while self.next <= net.now() && !self.program.is_empty() {
            if !self.step(net, templates, trace)? {
                break;
            }
            has_acted = true;
        }
        Ok(has_acted)
    }

    fn connect(&mut self, listener: usize, net: &mut SimNet) -> sim::Client {
        *self.conn.get_or_insert_with(|| {
            self.since = net.now();
            net.connect(listener)
        })
    }

    /// Takes a step. `false`: it has to wait.
    fn step(
        &mut self,
        net: &mut SimNet,
        templates: &[Template],
        trace: &mut Trace,
    ) -> Result<bool, Reason> {
        let now = net.now();
        let Some(operation) = self.program.front() else {
            return Ok(false);
        };
        match operation {
            Operation::Wait(time) => {
                let time = *time;
                self.took(time);
                self.next = now + time;
                net.wake_at(self.next);
                self.program.pop_front();
                return Ok(true);
            }
            Operation::Connect(listener) => {
                let listener = *listener;
                self.connect(listener, net);
            }
            _ => {}
        }
        let conn = self.connect(0, net);
        if self.sent < self.bytes.len() {
            self.took(now - self.since);
        }
        self.listen(conn, net, trace)?;
        let is_over = net.is_finished(conn) || self.is_dismissed;
        if is_over && !self.is_deaf {
            trace.add(net, || format!("client {} is done with", self.n));
            self.rest(net);
            self.did_finish = true;
            net.finish(conn);
            return Ok(true);
        }
        let has_all = self.answers >= self.whole() || is_over;
        let Some(operation) = self.program.front() else {
            return Ok(false);
        };
        match operation {
            Operation::Await if !has_all => return Ok(false),
            Operation::AwaitLeave(most)
                if self.answers < self.requests.len() && !self.has_leave && !is_over =>
            {
                let is_first = self.gives_up.is_none();
                let until = *self.gives_up.get_or_insert(now + *most);
                if now < until {
                    if is_first {
                        net.wake_at(until);
                    }
                    return Ok(false);
                }
            }
            _ => {}
        }
        let Some(operation) = self.program.pop_front() else {
            return Ok(false);
        };
        trace.add(net, || format!("client {}: {operation}", self.n));
        match operation {
            Operation::Ask(ask) => {
                let template = templates.get(ask.template);
                let template = template.ok_or_else(|| {
                    Reason::new(Kind::Setup, format!("no template #{}", ask.template))
                })?;
                self.ask(template.request(&ask));
            }
            Operation::Malformed(n) => self.ask(Request::malformed(n)),
            Operation::Send(n) => self.send(n, conn, net),
            Operation::SendAll => self.send(usize::MAX, conn, net),
            Operation::SendHead => {
                let body = self
                    .requests
                    .last()
                    .map_or(0, |last| last.bytes.len() - last.head_len);
                self.send(
                    (self.bytes.len() - body).saturating_sub(self.sent),
                    conn,
                    net,
                );
            }
            Operation::AwaitLeave(_) => (self.has_leave, self.gives_up) = (false, None),
            Operation::Stall => {
                self.stalled.get_or_insert(now);
                net.stall(conn, true);
            }
            Operation::Resume => {
                self.take_again(now);
                net.stall(conn, false);
            }
            Operation::Finish => {
                self.did_finish = true;
                net.finish(conn);
            }
            Operation::Reset => {
                self.did_reset = true;
                net.reset(conn);
            }
            Operation::Deaf => self.is_deaf = true,
            _ => {}
        }
        Ok(true)
    }

    fn ask(&mut self, request: Request) {
        self.bytes.extend_from_slice(&request.bytes);
        self.requests.push(request);
    }

    fn send(&mut self, n: usize, conn: sim::Client, net: &mut SimNet) {
        // Whoever has closed its sending side has.
        let rest = if self.did_finish {
            &[]
        } else {
            &self.bytes[self.sent..]
        };
        let piece = &rest[..rest.len().min(n)];
        net.send(conn, piece);
        self.sent += piece.len();
        self.took(net.now() - self.since);
    }

    /// It takes what it is sent again.
    fn take_again(&mut self, now: Instant) {
        if let Some(since) = self.stalled.take() {
            self.stalled_for = self.stalled_for.max(now - since);
            self.took(now - since);
        }
    }

    /// It has let so much time pass: enough for some timeout?
    fn took(&mut self, time: Duration) {
        if time >= self.quickest {
            self.slow.push(self.answers..=self.whole());
        }
    }

    /// How many requests are sent whole.
    fn whole(&self) -> usize {
        let ends = self.requests.iter().scan(0, |end, request| {
            *end += request.bytes.len();
            Some(*end)
        });
        ends.take_while(|end| *end <= self.sent).count()
    }

    /// Does nothing more but take what comes, if it ever would.
    pub(super) fn rest(&mut self, net: &mut SimNet) {
        let stalls = self
            .program
            .iter()
            .rev()
            .find_map(|operation| match operation {
                Operation::Stall => Some(true),
                Operation::Resume => Some(false),
                _ => None,
            });
        self.program.clear();
        let stalls = stalls.unwrap_or(self.stalled.is_some());
        if let Some(conn) = self.conn {
            net.stall(conn, stalls);
            self.take_again(net.now());
            self.stalled = stalls.then(|| net.now());
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.program.is_empty()
    }

    /// Reads the answers that are whole by now.
    fn listen(
        &mut self,
        conn: sim::Client,
        net: &mut SimNet,
        trace: &mut Trace,
    ) -> Result<(), Reason> {
        let (has_ended, now) = (net.is_finished(conn), net.now());
        while let Some(request) = self
            .requests
            .get(self.answers)
            .filter(|_| !self.is_dismissed)
        {
            let rest = &net.received(conn)[self.read..];
            if rest.is_empty() || !(has_ended || self.is_news(rest)) {
                break;
            }
            let at = |why| {
                let place = format!("client {}, {}: ", self.n, request.line());
                Reason::new(Kind::Grammar, why).at(place)
            };
            let answer = Answer::read(rest, request.asked(), has_ended).map_err(at)?;
            let answer = match answer {
                Some(answer) if answer.is_whole => answer,
                part => {
                    self.looked = rest.len();
                    let length = part.and_then(|answer| {
                        let length: usize = answer.field("content-length")?.parse().ok()?;
                        Some((answer.len - answer.body.len()).saturating_add(length))
                    });
                    self.wants = length;
                    break;
                }
            };
            self.read += answer.len;
            (self.looked, self.wants) = (0, None);
            if answer.is_interim() {
                self.has_leave = true;
                continue;
            }
            self.answers += 1;
            // Answered in the middle of its body, it owes the rest: its silence goes on.
            if self.whole() >= self.answers {
                self.since = now;
            }
            self.is_dismissed = answer.closes;
            let (status, body) = (answer.status, reader::excerpt(&answer.body));
            trace.add(net, || {
                format!("client {} is answered {status}, {body}", self.n)
            });
        }
        Ok(())
    }

    /// Whether an answer that was a part when it was last looked at may be whole now: its length is
    /// here, or the empty line that ends a head and a chunked body. Long answers come in many pieces.
    fn is_news(&self, rest: &[u8]) -> bool {
        match self.wants {
            Some(length) => rest.len() >= length,
            None => memmem::find(&rest[self.looked.saturating_sub(3)..], b"\r\n\r\n").is_some(),
        }
    }

    /// Breaks the connection, if there still is one: the world ends.
    pub(super) fn leave(&mut self, net: &mut SimNet) {
        if let Some(conn) = self.conn.filter(|&conn| !net.is_released(conn)) {
            net.reset(conn);
        }
    }

    pub(super) fn seen(&self, net: &mut SimNet, all: &[(Peer, Ended)]) -> Seen {
        let peer = self.conn.map(sim::Client::peer);
        let own = all.iter().filter(|(of, _)| Some(*of) == peer);
        Seen {
            requests: self.requests.clone(),
            sent: self.sent,
            received: self
                .conn
                .map(|conn| net.received(conn).to_vec())
                .unwrap_or_default(),
            has_ended: self.conn.is_none_or(|conn| net.is_finished(conn)),
            did_reset: self.did_reset,
            was_reset: self.conn.is_some_and(|conn| net.was_reset(conn)),
            did_finish: self.did_finish,
            stalls: self.stalled.is_some(),
            stalled: self.stalled_for,
            slow: self.slow.clone(),
            ended: own.map(|(_, ended)| *ended).collect(),
            closed_at: self.conn.and_then(|conn| net.closed_at(conn)),
        }
    }
}
