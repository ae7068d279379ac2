//! Floor 1. A `Net` without sockets: virtual time, and every freedom a network has, drawn from a seed.
//!
//! What the client sends arrives in pieces of any size, whenever; what the server writes goes into a
//! send buffer of a seeded size that the client empties whenever; readiness is edge-triggered, as
//! the real one is, so that an edge the loop forgets is a connection that hangs, here too. A socket
//! closed with unread input resets, and what the client had not yet taken is lost.
//!
//! ```text
//! client.send ─► on the way ─(some, some time)─► arrived ─► server reads
//! client.received ◄─(some, some time)─ send buffer ◄─ server writes
//! ```
//! Invariant: nothing here looks at a real clock, a map's order or another source of chance than the
//! one generator, so a seed repeats bit for bit.

use super::{Lookup, Net, Peer, Ready, Sock, Source, Target, Waker, Work};
use crate::base::clock::Instant;
use crate::base::lookup::{Answer, Failure, Question};
use fastrand::Rng;
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// What may go wrong by itself. Resets, half-closes and stalls are up to the test.
///
/// ```
/// use loopwright::sim::Faults;
/// // Nothing fails by itself, and all that is sent arrives at once.
/// let calm = Faults { accept_errors: 0, send_buffer: (1 << 20, 1 << 20), segment: 1 << 20 };
/// assert_ne!(calm, Faults::default());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// One accept in so many fails (0: none).
    pub accept_errors: u32,
    /// The smallest and largest send buffer of a connection, in bytes.
    pub send_buffer: (usize, usize),
    /// The largest piece that arrives at once, in bytes.
    pub segment: usize,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            accept_errors: 8,
            send_buffer: (1, 8192),
            segment: 2048,
        }
    }
}

/// One simulated connection, seen from its client.
///
/// ```
/// use loopwright::sim::{Faults, SimNet};
/// let mut net = SimNet::new(7, Faults::default());
/// let (one, other) = (net.connect(0), net.connect(0));
/// assert_ne!(one, other);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Client(u32);

impl Client {
    /// Its address, as the server sees it.
    pub(crate) fn peer(self) -> Peer {
        let port = 1024 + (self.0 % 60_000) as u16;
        Peer::Inet(([192, 0, 2, 1], port).into())
    }
}

#[derive(Default)]
struct Wire {
    token: Option<u64>,
    wants_write: bool,
    accepted: bool,
    /// Where the server means to go, if it has made it; and it is not there yet.
    target: Option<Target>,
    hangs: bool,
    /// Sent by the client, still on the way; then what the server may read.
    on_the_way: VecDeque<u8>,
    arrived: VecDeque<u8>,
    client_finished: bool,
    end_arrived: bool,
    reset: bool,
    /// Written by the server, not yet taken by the client; then what the client has.
    send_buffer: VecDeque<u8>,
    send_room: usize,
    received: Vec<u8>,
    stalled: bool,
    server_finished: bool,
    closed: Option<Instant>,
    readable_edge: bool,
    writable_edge: bool,
}

impl Wire {
    fn room(&self) -> usize {
        self.send_room.saturating_sub(self.send_buffer.len())
    }

    /// What a newly armed interest would report.
    fn has_input(&self) -> bool {
        !self.arrived.is_empty() || self.end_arrived || self.reset
    }

    fn is_moving(&self) -> bool {
        self.closed.is_none()
            && (!self.on_the_way.is_empty() || (self.client_finished && !self.end_arrived))
            || (!self.send_buffer.is_empty() && !self.stalled)
    }

    fn is_ready(&self) -> bool {
        self.token.is_some()
            && self.closed.is_none()
            && (self.readable_edge || (self.writable_edge && self.wants_write))
    }
}

/// A world of one server's sockets, made of a seed.
///
/// ```
/// use loopwright::sim::{Faults, SimNet};
/// use loopwright::{App, Server};
///
/// let mut app = App::new();
/// app.get("/", |_, _, res| res.text("Hello, World!"));
/// let mut server = Server::simulate(SimNet::new(7, Faults::default()), app, ()).unwrap();
/// let client = server.net_mut().connect(0);
/// server.net_mut().send(client, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
/// while !server.net_mut().received(client).ends_with(b"Hello, World!") {
///     server.turn().unwrap();
/// }
/// ```
pub struct SimNet {
    rng: Rng,
    now: Instant,
    faults: Faults,
    wires: Vec<Wire>,
    listeners: Vec<Option<VecDeque<Client>>>,
    listener_edges: Vec<bool>,
    dialled: VecDeque<(Client, Target)>,
    failing_connects: u32,
    /// Accepts that still fail for want of a descriptor.
    exhausted: u32,
    accept_error: Errno,
    work: Vec<(Instant, Work)>,
    clients_react: bool,
    empty_polls: usize,
    woken: Arc<AtomicBool>,
    quiet: bool,
    /// What look-ups are answered.
    names: Arc<Mutex<Table>>,
}

type Table = BTreeMap<Question, Result<Answer, Failure>>;

impl SimNet {
    /// A world with one listener.
    ///
    /// ```
    /// use loopwright::sim::{Faults, SimNet};
    /// let mut net = SimNet::new(7, Faults::default());
    /// assert_eq!(net.rng().u64(..), SimNet::new(7, Faults::default()).rng().u64(..));
    /// ```
    pub fn new(seed: u64, faults: Faults) -> SimNet {
        SimNet {
            rng: Rng::with_seed(seed),
            now: Instant::default(),
            faults,
            wires: Vec::new(),
            listeners: vec![Some(VecDeque::new())],
            listener_edges: vec![false],
            dialled: VecDeque::new(),
            failing_connects: 0,
            exhausted: 0,
            accept_error: Errno::MFILE,
            work: Vec::new(),
            clients_react: false,
            empty_polls: 0,
            woken: Arc::default(),
            quiet: false,
            names: Arc::default(),
        }
    }

    /// What a look-up of a name is answered from now on. Any other name does not exist: the machine is not asked.
    ///
    /// ```
    /// use loopwright::base::lookup::{Address, Answer};
    /// use loopwright::sim::{Faults, SimNet};
    /// let mut net = SimNet::new(7, Faults::default());
    /// let address = Address::new("app.internal", "10.0.0.1:8080".parse().unwrap());
    /// let answer = Answer { addresses: vec![address], ttl: None, missing: None };
    /// net.name("app.internal:8080".parse().unwrap(), Ok(answer));
    /// ```
    pub fn name(&mut self, question: Question, answer: Result<Answer, Failure>) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(question, answer);
    }

    /// So many listeners, instead of one.
    ///
    /// ```
    /// use loopwright::sim::{Faults, SimNet};
    /// let mut net = SimNet::new(7, Faults::default()).listeners(2);
    /// let client = net.connect(1);
    /// assert!(!net.was_reset(client));
    /// ```
    pub fn listeners(mut self, listeners: usize) -> SimNet {
        self.listeners = (0..listeners).map(|_| Some(VecDeque::new())).collect();
        self.listener_edges = vec![false; listeners];
        self
    }

    /// The generator behind everything, for the test's own choices.
    ///
    /// ```
    /// use loopwright::sim::{Faults, SimNet};
    /// let mut net = SimNet::new(7, Faults::default());
    /// assert!(net.rng().usize(1..=6) <= 6);
    /// ```
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// A client connects to a listener.
    ///
    /// ```
    /// use loopwright::sim::{Faults, SimNet};
    /// let mut net = SimNet::new(7, Faults::default());
    /// let client = net.connect(0);
    /// assert!(!net.was_reset(client));
    /// // Nobody listens there.
    /// let nowhere = net.connect(1);
    /// assert!(net.was_reset(nowhere));
    /// ```
    pub fn connect(&mut self, listener: usize) -> Client {
        let client = Client(self.wires.len() as u32);
        let (least, most) = self.faults.send_buffer;
        let send_room = self.rng.usize(least..=most.max(least));
        self.wires.push(Wire {
            send_room,
            ..Wire::default()
        });
        match self.listeners.get_mut(listener) {
            Some(Some(queue)) => {
                queue.push_back(client);
                self.listener_edges[listener] = true;
            }
            _ => self.wire(client).reset = true,
        }
        client
    }

    /// The other end of the next connection that the server has made; [`SimNet::reset`] refuses it.
    pub fn dialled(&mut self) -> Option<Client> {
        self.dialled_to().map(|(client, _)| client)
    }

    /// The same, with where the connection was made to.
    pub fn dialled_to(&mut self) -> Option<(Client, Target)> {
        self.dialled.pop_front()
    }

    /// Where the server has connected to, if this connection is one that it has made.
    pub fn target(&self, client: Client) -> Option<&Target> {
        self.wires.get(client.0 as usize)?.target.as_ref()
    }

    /// What the server has not read yet of what it was sent.
    pub fn unread(&self, client: Client) -> usize {
        let wire = self.wires.get(client.0 as usize);
        wire.map_or(0, |wire| wire.on_the_way.len() + wire.arrived.len())
    }

    /// So much of that is there for it to read; the rest is on the way.
    pub fn arrived(&self, client: Client) -> usize {
        let wire = self.wires.get(client.0 as usize);
        wire.map_or(0, |wire| wire.arrived.len())
    }

    /// A connection that the server makes is not made as long as it hangs; said before the next turn, from
    /// the first moment on.
    pub fn hang(&mut self, client: Client, hangs: bool) {
        let wire = self.wire(client);
        wire.writable_edge |= wire.hangs && !hangs;
        wire.hangs = hangs;
        wire.writable_edge &= !hangs;
    }

    /// The next `times` connections that the server means to make fail at once.
    pub fn fail_connects(&mut self, times: u32) {
        self.failing_connects = times;
    }

    /// How many of those have not been tried.
    pub fn connects_failing(&self) -> u32 {
        self.failing_connects
    }

    fn wire(&mut self, client: Client) -> &mut Wire {
        // A Client is only made by `connect`, and wires are never removed.
        &mut self.wires[client.0 as usize]
    }

    /// The next `times` accepts of a waiting connection fail: the process is out of descriptors
    /// (EMFILE). The connection stays in the queue.
    ///
    /// ```
    /// # use loopwright::sim::{Faults, SimNet};
    /// # let mut app = loopwright::App::new();
    /// # app.get("/", |_, _, res| res.text("hi"));
    /// # let net = SimNet::new(7, Faults { accept_errors: 0, ..Faults::default() });
    /// # let mut server = loopwright::Server::simulate(net, app, ()).unwrap();
    /// server.net_mut().exhaust(2);
    /// let client = server.net_mut().connect(0);
    /// server.net_mut().send(client, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    /// while server.net_mut().received(client).is_empty() {
    ///     server.turn().unwrap();
    /// }
    /// ```
    pub fn exhaust(&mut self, times: u32) {
        self.fail_accepts(times, Errno::MFILE);
    }

    /// The same with any error.
    #[doc(hidden)]
    pub fn fail_accepts(&mut self, times: u32, error: Errno) {
        (self.exhausted, self.accept_error) = (times, error);
    }

    /// The client sends.
    ///
    /// ```
    /// # use loopwright::sim::{Faults, SimNet};
    /// # let mut app = loopwright::App::new();
    /// # app.get("/", |_, _, res| res.text("hi"));
    /// # let net = SimNet::new(7, Faults { accept_errors: 0, ..Faults::default() });
    /// # let mut server = loopwright::Server::simulate(net, app, ()).unwrap();
    /// let client = server.net_mut().connect(0);
    /// server.net_mut().send(client, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    /// while !server.net_mut().received(client).ends_with(b"hi") {
    ///     server.turn().unwrap();
    /// }
    /// ```
    pub fn send(&mut self, client: Client, bytes: &[u8]) {
        self.wire(client).on_the_way.extend(bytes);
    }

    /// The client closes its sending side, behind what it has sent.
    ///
    /// ```
    /// # use loopwright::sim::{Faults, SimNet};
    /// # let mut app = loopwright::App::new();
    /// # app.get("/", |_, _, res| res.text("hi"));
    /// # let net = SimNet::new(7, Faults { accept_errors: 0, ..Faults::default() });
    /// # let mut server = loopwright::Server::simulate(net, app, ()).unwrap();
    /// let client = server.net_mut().connect(0);
    /// server.net_mut().send(client, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    /// server.net_mut().finish(client);
    /// while !server.net_mut().is_finished(client) {
    ///     server.turn().unwrap();
    /// }
    /// assert!(server.net_mut().received(client).ends_with(b"hi"));
    /// ```
    pub fn finish(&mut self, client: Client) {
        self.wire(client).client_finished = true;
    }

    /// The connection breaks: what is on the way in either direction is lost. What has arrived can still be read.
    ///
    /// ```
    /// use loopwright::sim::{Faults, SimNet};
    /// let mut net = SimNet::new(7, Faults::default());
    /// let client = net.connect(0);
    /// net.reset(client);
    /// assert!(net.was_reset(client) && net.is_finished(client));
    /// ```
    pub fn reset(&mut self, client: Client) {
        let wire = self.wire(client);
        wire.reset = true;
        wire.readable_edge = true;
        wire.writable_edge = true;
        wire.on_the_way.clear();
        wire.send_buffer.clear();
    }

    /// The client stops (or begins again) to take what the server sends.
    ///
    /// ```
    /// # use loopwright::sim::{Faults, SimNet};
    /// # let mut app = loopwright::App::new();
    /// # app.get("/", |_, _, res| res.text("hi"));
    /// # let net = SimNet::new(7, Faults { accept_errors: 0, ..Faults::default() });
    /// # let mut server = loopwright::Server::simulate(net, app, ()).unwrap();
    /// let client = server.net_mut().connect(0);
    /// server.net_mut().send(client, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    /// server.net_mut().stall(client, true);
    /// for _ in 0..100 {
    ///     server.turn_within(std::time::Duration::from_millis(1)).unwrap();
    /// }
    /// assert!(server.net_mut().received(client).is_empty());
    /// server.net_mut().stall(client, false);
    /// while !server.net_mut().received(client).ends_with(b"hi") {
    ///     server.turn().unwrap();
    /// }
    /// ```
    pub fn stall(&mut self, client: Client, stalled: bool) {
        self.wire(client).stalled = stalled;
    }

    /// What the client has taken so far.
    ///
    /// ```
    /// use loopwright::sim::{Faults, SimNet};
    /// let mut net = SimNet::new(7, Faults::default());
    /// let client = net.connect(0);
    /// assert!(net.received(client).is_empty());
    /// ```
    pub fn received(&mut self, client: Client) -> &[u8] {
        &self.wire(client).received
    }

    /// The client has seen the end: of the answer, or of the connection.
    ///
    /// ```
    /// use loopwright::sim::{Faults, SimNet};
    /// let mut net = SimNet::new(7, Faults::default());
    /// let client = net.connect(0);
    /// assert!(!net.is_finished(client));
    /// ```
    pub fn is_finished(&mut self, client: Client) -> bool {
        let wire = self.wire(client);
        wire.reset
            || ((wire.closed.is_some() || wire.server_finished) && wire.send_buffer.is_empty())
    }

    /// The connection broke, or the server closed it in the client's face.
    ///
    /// ```
    /// use loopwright::sim::{Faults, SimNet};
    /// let mut net = SimNet::new(7, Faults::default());
    /// let client = net.connect(0);
    /// net.reset(client);
    /// assert!(net.was_reset(client));
    /// ```
    pub fn was_reset(&mut self, client: Client) -> bool {
        self.wire(client).reset
    }

    /// The server holds no socket of this client any more (or has not accepted it yet).
    ///
    /// ```
    /// # use loopwright::sim::{Faults, SimNet};
    /// # let mut app = loopwright::App::new();
    /// # app.get("/", |_, _, res| res.text("hi"));
    /// # let net = SimNet::new(7, Faults { accept_errors: 0, ..Faults::default() });
    /// # let mut server = loopwright::Server::simulate(net, app, ()).unwrap();
    /// let client = server.net_mut().connect(0);
    /// server.net_mut().send(client, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    /// assert!(server.net_mut().is_released(client));
    /// while server.net_mut().received(client).is_empty() {
    ///     server.turn().unwrap();
    /// }
    /// assert!(!server.net_mut().is_released(client));
    /// ```
    pub fn is_released(&mut self, client: Client) -> bool {
        let wire = self.wire(client);
        wire.closed.is_some() || !wire.accepted
    }

    #[cfg(feature = "sim")]
    /// When the server closed this client's socket.
    pub(crate) fn closed_at(&mut self, client: Client) -> Option<Instant> {
        self.wire(client).closed
    }

    /// The time of this world.
    ///
    /// ```
    /// # use loopwright::sim::{Faults, SimNet};
    /// # let mut app = loopwright::App::new();
    /// # app.get("/", |_, _, res| res.text("hi"));
    /// # let net = SimNet::new(7, Faults { accept_errors: 0, ..Faults::default() });
    /// # let mut server = loopwright::Server::simulate(net, app, ()).unwrap();
    /// let begun = server.net_mut().now();
    /// server.turn().unwrap();
    /// assert!(server.net_mut().now() > begun);
    /// ```
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Lets the loop wait no longer than until `at`: a client means to do something then. Time goes
    /// by itself to the next timer when nothing moves, and would pass it by.
    ///
    /// ```
    /// # use loopwright::sim::{Faults, SimNet};
    /// # let mut app = loopwright::App::new();
    /// # app.get("/", |_, _, res| res.text("hi"));
    /// # let net = SimNet::new(7, Faults { accept_errors: 0, ..Faults::default() });
    /// # let mut server = loopwright::Server::simulate(net, app, ()).unwrap();
    /// let at = server.net_mut().now() + std::time::Duration::from_secs(60);
    /// server.net_mut().wake_at(at);
    /// server.turn().unwrap();
    /// assert!(server.net_mut().now() >= at);
    /// ```
    pub fn wake_at(&mut self, at: Instant) {
        let wake = self.waker();
        self.work.push((at, Box::new(move || wake())));
    }

    /// From now on the loop's wait ends whenever a client has taken something, so that the test can
    /// let it react. Without this, time may go on to the next timer first.
    ///
    /// ```
    /// # use loopwright::sim::{Faults, SimNet};
    /// # let mut app = loopwright::App::new();
    /// # app.get("/", |_, _, res| res.text("hi"));
    /// # let net = SimNet::new(7, Faults { accept_errors: 0, ..Faults::default() });
    /// # let mut server = loopwright::Server::simulate(net, app, ()).unwrap();
    /// server.net_mut().let_clients_react();
    /// let client = server.net_mut().connect(0);
    /// server.net_mut().send(client, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    /// while server.net_mut().received(client).is_empty() {
    ///     server.turn().unwrap();
    /// }
    /// ```
    pub fn let_clients_react(&mut self) {
        self.clients_react = true;
    }

    /// The last `poll` had nothing to wait for: no byte moves, no timer runs. What has not been
    /// answered by now never will be.
    ///
    /// ```
    /// # use loopwright::sim::{Faults, SimNet};
    /// # let mut app = loopwright::App::new();
    /// # app.get("/", |_, _, res| res.text("hi"));
    /// # let net = SimNet::new(7, Faults { accept_errors: 0, ..Faults::default() });
    /// # let mut server = loopwright::Server::simulate(net, app, ()).unwrap();
    /// server.turn().unwrap();
    /// assert!(server.net_mut().is_quiet());
    /// ```
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// No byte moves and nobody waits to be accepted, whatever timers run.
    ///
    /// ```
    /// use loopwright::sim::{Faults, SimNet};
    /// let mut net = SimNet::new(7, Faults::default());
    /// assert!(net.is_still());
    /// net.connect(0);
    /// assert!(!net.is_still());
    /// ```
    pub fn is_still(&self) -> bool {
        let mut queues = self.listeners.iter().flatten();
        !self.is_moving() && self.work.is_empty() && queues.all(VecDeque::is_empty)
    }

    /// How often in a row the loop has asked not to wait, when there was nothing to tell it. Few
    /// are work it had left; many are a loop that spins.
    ///
    /// ```
    /// # use loopwright::sim::{Faults, SimNet};
    /// # let mut app = loopwright::App::new();
    /// # app.get("/", |_, _, res| res.text("hi"));
    /// # let net = SimNet::new(7, Faults { accept_errors: 0, ..Faults::default() });
    /// # let mut server = loopwright::Server::simulate(net, app, ()).unwrap();
    /// server.turn().unwrap();
    /// assert_eq!(server.net_mut().empty_polls(), 0);
    /// ```
    pub fn empty_polls(&self) -> usize {
        self.empty_polls
    }

    /// Lets time pass for bytes on the way and clients that read.
    fn move_bytes(&mut self) {
        for wire in &mut self.wires {
            if self.rng.bool() {
                let most = wire.on_the_way.len().min(self.faults.segment.max(1));
                let n = if most == 0 {
                    0
                } else {
                    self.rng.usize(1..=most)
                };
                if n > 0 && wire.closed.is_some() {
                    // Data for a closed socket is answered with a reset.
                    wire.on_the_way.clear();
                    wire.send_buffer.clear();
                    wire.reset = true;
                } else if n > 0 {
                    wire.arrived.extend(wire.on_the_way.drain(..n));
                    wire.readable_edge = true;
                } else if wire.client_finished && !wire.end_arrived {
                    wire.end_arrived = true;
                    wire.readable_edge = true;
                }
            }
            if !wire.stalled && !wire.send_buffer.is_empty() && self.rng.bool() {
                let n = self.rng.usize(1..=wire.send_buffer.len());
                wire.received.extend(wire.send_buffer.drain(..n));
                wire.writable_edge = true;
                self.woken.fetch_or(self.clients_react, Ordering::Relaxed);
            }
        }
    }

    fn is_moving(&self) -> bool {
        self.wires.iter().any(Wire::is_moving)
    }

    fn run_due_work(&mut self) {
        while let Some(at) = self.work.iter().position(|(due, _)| *due <= self.now) {
            // The work reports its own panics, as on a thread.
            let _ = catch_unwind(AssertUnwindSafe(self.work.remove(at).1));
        }
    }

    fn collect(&mut self, ready: &mut Vec<Ready>) {
        if self.woken.swap(false, Ordering::Relaxed) {
            ready.push(blank(Source::Waker));
        }
        for (n, edge) in self.listener_edges.iter_mut().enumerate() {
            if std::mem::take(edge) && self.listeners[n].is_some() {
                ready.push(Ready {
                    readable: true,
                    ..blank(Source::Listener(n))
                });
            }
        }
        for wire in &mut self.wires {
            // An edge may be reported late; it may not be lost.
            if !wire.is_ready() || self.rng.u8(..4) == 0 {
                continue;
            }
            let Some(token) = wire.token else { continue };
            ready.push(Ready {
                source: Source::Conn(token),
                readable: std::mem::take(&mut wire.readable_edge),
                writable: std::mem::take(&mut wire.writable_edge),
                read_closed: wire.end_arrived || wire.reset,
                broken: wire.reset,
            });
        }
        self.rng.shuffle(ready);
    }
}

fn blank(source: Source) -> Ready {
    Ready {
        source,
        readable: false,
        writable: false,
        read_closed: false,
        broken: false,
    }
}

impl Net for SimNet {
    fn now(&self) -> Instant {
        self.now
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
            + Duration::from_secs(1_800_000_000)
            + (self.now - Instant::default())
    }

    fn poll(&mut self, until: Option<Instant>, ready: &mut Vec<Ready>) -> io::Result<()> {
        self.quiet = false;
        let must_not_wait = until.is_some_and(|until| until <= self.now);
        let is_still = !self.is_moving();
        self.now = self.now + Duration::from_micros(self.rng.u64(1..500));
        loop {
            self.move_bytes();
            self.run_due_work();
            self.collect(ready);
            let is_due = until.is_some_and(|until| until <= self.now);
            if !ready.is_empty() || is_due {
                let is_empty = must_not_wait && is_still && ready.is_empty();
                self.empty_polls = if is_empty { self.empty_polls + 1 } else { 0 };
                return Ok(());
            }
            if self.is_moving() || self.wires.iter().any(Wire::is_ready) {
                self.now = self.now + Duration::from_micros(self.rng.u64(1..500));
                continue;
            }
            // Nothing moves: the next thing to happen is a timer of the loop's, or work that is done.
            let work = self.work.iter().map(|(due, _)| *due).min();
            match (until, work) {
                (None, None) => {
                    self.quiet = true;
                    return Ok(());
                }
                (until, work) => {
                    self.now = until
                        .into_iter()
                        .chain(work)
                        .min()
                        .unwrap_or(self.now)
                        .max(self.now)
                }
            }
        }
    }

    fn accept(&mut self, listener: usize) -> io::Result<(Sock, Peer)> {
        let errors = self.faults.accept_errors;
        let Some(Some(queue)) = self.listeners.get_mut(listener) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let Some(client) = queue.pop_front() else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        if self.exhausted > 0 {
            self.exhausted -= 1;
            queue.push_front(client);
            return Err(self.accept_error.into());
        }
        if errors > 0 && self.rng.u32(..errors) == 0 {
            self.reset(client);
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.wire(client).accepted = true;
        Ok((Sock(client.0), client.peer()))
    }

    fn refuse(&mut self, sock: Sock) {
        self.close(sock, false);
    }

    fn connect(&mut self, to: &Target) -> io::Result<(Sock, Peer)> {
        if self.failing_connects > 0 {
            self.failing_connects -= 1;
            return Err(Errno::NETUNREACH.into());
        }
        let (least, most) = self.faults.send_buffer;
        let wire = Wire {
            send_room: self.rng.usize(least..=most.max(least)),
            accepted: true,
            target: Some(to.clone()),
            ..Wire::default()
        };
        let client = Client(self.wires.len() as u32);
        self.wires.push(wire);
        self.dialled.push_back((client, to.clone()));
        let peer = match to {
            Target::Inet(address) => Peer::Inet(*address),
            Target::Unix(_) => Peer::Unix,
        };
        Ok((Sock(client.0), peer))
    }

    fn finish_connect(&mut self, sock: Sock) -> io::Result<()> {
        let wire = self.wire(Client(sock.0));
        match (wire.reset, wire.hangs) {
            (true, _) => Err(io::ErrorKind::ConnectionRefused.into()),
            (false, true) => Err(io::ErrorKind::WouldBlock.into()),
            (false, false) => Ok(()),
        }
    }

    fn adopt(&mut self, _: UnixStream) -> io::Result<(Sock, Peer)> {
        // A real socket has no place in this world.
        Err(io::ErrorKind::Unsupported.into())
    }

    fn listeners(&self) -> usize {
        self.listeners.len()
    }

    fn close_listener(&mut self, listener: usize) {
        let queue = self.listeners.get_mut(listener).and_then(Option::take);
        for client in queue.into_iter().flatten() {
            self.reset(client);
        }
    }

    fn register(&mut self, sock: Sock, token: u64) -> io::Result<()> {
        let wire = self.wire(Client(sock.0));
        wire.token = Some(token);
        wire.readable_edge = wire.has_input();
        wire.writable_edge = wire.reset;
        Ok(())
    }

    fn want_write(&mut self, sock: Sock, _token: u64) -> io::Result<()> {
        let wire = self.wire(Client(sock.0));
        wire.wants_write = true;
        wire.writable_edge |= wire.room() > 0 && !wire.hangs;
        wire.readable_edge |= wire.has_input();
        Ok(())
    }

    fn read(&mut self, sock: Sock, into: &mut [u8]) -> io::Result<usize> {
        let wire = self.wire(Client(sock.0));
        if wire.reset && wire.arrived.is_empty() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if wire.arrived.is_empty() && !wire.end_arrived {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = wire.arrived.len().min(into.len());
        for (slot, byte) in into.iter_mut().zip(wire.arrived.drain(..n)) {
            *slot = byte;
        }
        Ok(n)
    }

    fn write(&mut self, sock: Sock, bytes: &[u8], _more: bool) -> io::Result<usize> {
        let wire = self.wire(Client(sock.0));
        if wire.reset || wire.server_finished {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = bytes.len().min(wire.room());
        if n == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        wire.send_buffer.extend(&bytes[..n]);
        Ok(n)
    }

    fn write_vectored(&mut self, sock: Sock, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes: Vec<u8> = slices
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect();
        self.write(sock, &bytes, false)
    }

    fn send_file(&mut self, sock: Sock, file: &File, offset: u64, len: u64) -> io::Result<usize> {
        let room = self.wire(Client(sock.0)).room().max(1);
        let mut bytes = vec![0; room.min(usize::try_from(len).unwrap_or(usize::MAX))];
        let n = file.read_at(&mut bytes, offset)?;
        if n == 0 {
            Ok(0)
        } else {
            self.write(sock, &bytes[..n], false)
        }
    }

    fn taken(&self, sock: Sock) -> u64 {
        self.wires
            .get(sock.0 as usize)
            .map_or(0, |wire| wire.received.len() as u64)
    }

    fn shutdown_write(&mut self, sock: Sock) {
        self.wire(Client(sock.0)).server_finished = true;
    }

    fn close(&mut self, sock: Sock, reset: bool) {
        let now = self.now;
        let wire = self.wire(Client(sock.0));
        wire.closed = Some(now);
        wire.token = None;
        if reset || !wire.arrived.is_empty() {
            wire.send_buffer.clear();
            wire.reset = true;
        }
    }

    fn waker(&self) -> Waker {
        let woken = self.woken.clone();
        Arc::new(move || woken.store(true, Ordering::Relaxed))
    }

    fn offload(&mut self, work: Work) -> bool {
        let due = self.now + Duration::from_micros(self.rng.u64(0..50_000));
        self.work.push((due, work));
        true
    }

    fn lookup(&self, question: Question, _: &[SocketAddr]) -> Lookup {
        let names = self.names.clone();
        Box::new(move || {
            if let Some(address) = question.literal() {
                let addresses = vec![address];
                let (ttl, missing) = (None, None);
                return Ok(Answer {
                    addresses,
                    ttl,
                    missing,
                });
            }
            let names = names.lock().unwrap_or_else(PoisonError::into_inner);
            names
                .get(&question)
                .cloned()
                .unwrap_or(Err(Failure::NotFound))
        })
    }
}
