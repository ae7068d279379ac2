//! Floor 1. The connections to the servers of one group: which there are, and who waits for one.
//!
//! The pool owns no socket and no clock. A connection is an id `C` of its user's; who waits is a `W`; a server
//! is a small number. Its user makes and closes connections, and says so.
//!
//! ```text
//!                   connected                     give_back: Kept
//!  checkout ─► making ─────► in use ◄──────────────────────────────► idle
//!  (Connect)     │             │ ▲ │        checkout: Reuse            │
//!                │             │ └─┘ give_back: Next(waiter)           │
//!                ▼             ▼                                       ▼
//!          connect_failed   closed, give_back: Close            closed, poll: Close
//!
//!  wait ─► waiting ─► give_back: Next, poll: Serve · poll: Expired · cancel
//! ```
//!
//! An idle connection is taken most recently used first: so the rest can grow old, and go. It is not taken once
//! it has been idle for `idle_for`, or is older than its lifetime; that one is drawn for each, so that those which
//! were made together do not end together.
//!
//! There is one queue of those who wait. Most would take a connection to any server, some only to one (`only`):
//! what becomes free is for the first of those who would take it. A newcomer overtakes nobody: while somebody waits
//! who would take a connection to a server, its `checkout` there is [`Checkout::Full`].
//!
//! Invariants:
//!
//! 1. Per server: idle + in use + making ≤ `most`, unless `most` was lowered since; idle ≤ `idle`.
//! 2. A server's `idle` holds exactly its idle connections, the longest idle first.
//! 3. Each idle connection has an entry in `deadlines`, which is not after its deadline. One in use may have an entry.
//! 4. A waiter is in `waiting`, and in exactly one of `any` and the `only` of a server that is not retired.
//! 5. `waiting` is in the order of coming, and so in that of expiry.
//! 6. After [`Pool::poll`] has said `None`, nobody waits for whom a usable server has room.
//!
//! What a request costs is a logarithm of how many connections there are and how many wait. Using a connection again
//! moves its deadline, a field; the entry stays where it is, and is placed anew when it comes up early. So a request
//! that need not wait allocates nothing. `poll` looks at every server while somebody waits, or connections are kept
//! warm. Everything shrinks with what it holds.

use crate::base::clock::Instant;
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

/// How much of anything there may be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bounds {
    /// Connections to a server: idle, in use and being made.
    pub most: usize,
    /// Idle connections to a server.
    pub idle: usize,
    /// Connections to a server that are made ahead of need; no more than may be idle.
    pub warm: usize,
    /// How long a connection may be idle; it should be less than the server's own patience.
    pub idle_for: Duration,
    /// How old a connection may be when it is used again.
    pub lifetime: Duration,
    /// By which share of it, at the most, a connection's lifetime is shorter: 0 to 1.
    pub jitter: f64,
    /// How long one may wait for a connection.
    pub queue_wait: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            most: 1024,
            idle: 64,
            warm: 0,
            idle_for: Duration::from_secs(50),
            lifetime: Duration::from_secs(3600),
            jitter: 0.1,
            queue_wait: Duration::from_secs(3),
        }
    }
}

impl Bounds {
    /// When a connection that is made now is too old.
    fn end_of_life(&self, now: Instant, rng: &mut Rng) -> Instant {
        let lifetime = u64::try_from(self.lifetime.as_micros()).unwrap_or(u64::MAX);
        // A cast from a float saturates, and makes 0 of NaN.
        let less = (lifetime as f64 * self.jitter.clamp(0.0, 1.0) * rng.f64()) as u64;
        now + Duration::from_micros(lifetime.saturating_sub(less))
    }
}

/// How often a server's connections are warmed up: `Bounds::warm` at the most in each such span, whatever becomes
/// of them. A server that takes connections and drops them is not asked at the speed of the loop.
const WARM_SPAN: Duration = Duration::from_secs(1);

/// What there is for whoever wants a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checkout<C> {
    /// This one, which was idle.
    Reuse(C),
    /// Room for another: make one. It counts; say [`Pool::connected`] or [`Pool::connect_failed`].
    Connect,
    /// Neither.
    Full,
}

/// What becomes of a connection that is given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Back<W> {
    /// It is idle.
    Kept,
    /// It is to be closed, and forgotten by the pool.
    Close(Why),
    /// It stays in use, by this waiter; for how long that one has waited.
    Next(W, Duration),
}

/// Why a connection is not kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Its server has left.
    Retired,
    /// It is older than its lifetime.
    Lifetime,
    /// There are more than there may be: `most` was lowered.
    Most,
    /// Enough are idle.
    Idle,
    /// The pool knows no such connection in use.
    Unknown,
}

impl Why {
    /// For logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Why::Retired => "its server has left",
            Why::Lifetime => "its lifetime is over",
            Why::Most => "there are too many",
            Why::Idle => "enough are idle",
            Why::Unknown => "it is not known",
        }
    }
}

/// What [`Pool::poll`] wants done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action<C, W> {
    /// Close this idle connection; the pool has forgotten it.
    Close(usize, C),
    /// Nobody had a connection for this waiter in time.
    Expired(W),
    /// Make a connection to this server, and give it back at once.
    Connect(usize),
    /// There is something for this waiter now at this server, never [`Checkout::Full`]; for how long it has waited.
    Serve(W, usize, Checkout<C>, Duration),
}

/// Names a waiter, for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Ticket(u64);

/// The queue is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueFull {
    /// How many wait.
    pub waiting: usize,
}

impl fmt::Display for QueueFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} wait for a connection", self.waiting)
    }
}

impl std::error::Error for QueueFull {}

/// The numbers of one server. `made` = idle + in use + `closed`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Connections now: idle and in use.
    pub open: usize,
    /// Connections being made now.
    pub making: usize,
    /// Idle now.
    pub idle: usize,
    /// In use now.
    pub in_use: usize,
    /// Who waits for this server and no other.
    pub waiting: usize,
    /// Connections made, ever.
    pub made: u64,
    /// Connections that could not be made, ever.
    pub failed: u64,
    /// Connections that have ended, ever.
    pub closed: u64,
    /// How often one was used again.
    pub reused: u64,
}

/// The numbers of the queue. Who came = `waiting` + `served` + `expired` + `cancelled`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueueCounters {
    /// Who waits now.
    pub waiting: usize,
    /// Who has got something, ever.
    pub served: u64,
    /// Who has not, in time.
    pub expired: u64,
    /// Who has given up.
    pub cancelled: u64,
    /// Who could not even wait.
    pub refused: u64,
    /// How long those who were served have waited, together.
    pub waited: Duration,
    /// The longest of them.
    pub longest: Duration,
}

#[derive(Debug)]
struct Server<C> {
    conns: BTreeMap<C, Conn>,
    /// With the number of their giving back, which counts up.
    idle: VecDeque<(u64, C)>,
    making: usize,
    /// Who takes a connection to this server only.
    only: BTreeSet<Ticket>,
    retired: bool,
    /// The span in which connections were last warmed up: its beginning, and how many.
    warmed: (Instant, usize),
    made: u64,
    failed: u64,
    closed: u64,
    reused: u64,
}

#[derive(Clone, Copy, Debug)]
struct Conn {
    /// The end of its lifetime.
    ends: Instant,
    idle: Option<Idle>,
    /// Its entry in `deadlines`.
    timer: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Idle {
    order: u64,
    since: Instant,
    /// When it is to be closed.
    until: Instant,
}

impl<C> Server<C> {
    /// Connections there are or will be.
    fn taken(&self) -> usize {
        self.conns.len() + self.making
    }

    fn in_use(&self) -> usize {
        self.conns.len() - self.idle.len()
    }
}

#[derive(Debug)]
struct Waiter<W> {
    who: W,
    only: Option<usize>,
    since: Instant,
}

/// The connections to the servers of one group. The file's head has its states.
///
/// ```
/// use loopwright::upstream::pool::{Action, Back, Bounds, Checkout, Pool};
/// use loopwright::Instant;
///
/// let (now, mut rng) = (Instant::default(), fastrand::Rng::with_seed(1));
/// let mut pool = Pool::new(Bounds { most: 1, ..Bounds::default() });
/// let server = pool.add_server();
/// assert_eq!(pool.checkout(server, now), Checkout::Connect);
/// pool.connected(server, "first", now, &mut rng);
///
/// // Somebody else comes, and waits.
/// assert_eq!(pool.checkout(server, now), Checkout::Full);
/// pool.wait("ada", None, now).unwrap();
/// assert!(matches!(pool.give_back(server, "first", true, now), Back::Next("ada", _)));
/// assert_eq!(pool.give_back(server, "first", true, now), Back::Kept);
/// assert_eq!(pool.checkout(server, now), Checkout::Reuse("first"));
///
/// // One that ends by itself leaves room.
/// pool.wait("grace", None, now).unwrap();
/// pool.closed(server, "first");
/// let served = pool.poll(now, |_| true);
/// assert!(matches!(served, Some(Action::Serve("grace", 0, Checkout::Connect, _))));
/// assert_eq!(pool.poll(now, |_| true), None);
/// ```
#[derive(Debug)]
pub struct Pool<C, W> {
    bounds: Bounds,
    servers: Vec<Server<C>>,
    /// When to look whether a connection has been idle too long.
    deadlines: BTreeSet<(Instant, usize, C)>,
    waiting: BTreeMap<Ticket, Waiter<W>>,
    /// Those who take a connection to any server.
    any: BTreeSet<Ticket>,
    next_ticket: u64,
    next_order: u64,
    /// `waiting` is not counted in here.
    queue: QueueCounters,
    /// Connections there may be over all servers.
    total: usize,
    /// Who may wait, over all servers.
    room: usize,
}

impl<C: Copy + Ord, W> Pool<C, W> {
    /// A pool without servers.
    pub fn new(bounds: Bounds) -> Pool<C, W> {
        Pool {
            bounds,
            total: usize::MAX,
            room: usize::MAX,
            servers: Vec::new(),
            deadlines: BTreeSet::new(),
            waiting: BTreeMap::new(),
            any: BTreeSet::new(),
            next_ticket: 0,
            next_order: 0,
            queue: QueueCounters::default(),
        }
    }

    /// The same, with no more than so many connections over all servers, and so many who wait.
    pub fn of_at_most(self, total: usize, room: usize) -> Pool<C, W> {
        Pool {
            total,
            room,
            ..self
        }
    }

    /// The bounds in force.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Other bounds from now on. What there is too much of goes as it becomes idle; what is idle already, with the
    /// next [`Pool::poll`]. A connection keeps the lifetime it was made with.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
        self.deadlines.clear();
        for (server, of) in self.servers.iter_mut().enumerate() {
            let room = bounds.most.saturating_sub(of.in_use() + of.making);
            let excess = of.idle.len().saturating_sub(bounds.idle.min(room));
            // The longest idle go: those given back before this one.
            let stay = of.idle.get(excess).map_or(u64::MAX, |&(order, _)| order);
            for (&c, conn) in &mut of.conns {
                if let Some(idle) = &mut conn.idle {
                    idle.until = match idle.order < stay {
                        true => Instant::default(),
                        false => conn.ends.min(idle.since + bounds.idle_for),
                    };
                    self.deadlines.insert((idle.until, server, c));
                }
                conn.timer = conn.idle.map(|idle| idle.until);
            }
        }
    }

    /// Another server. Numbers count up from 0 and are not used again.
    pub fn add_server(&mut self) -> usize {
        self.servers.push(Server {
            conns: BTreeMap::new(),
            idle: VecDeque::new(),
            making: 0,
            only: BTreeSet::new(),
            retired: false,
            warmed: (Instant::default(), 0),
            made: 0,
            failed: 0,
            closed: 0,
            reused: 0,
        });
        self.servers.len() - 1
    }

    /// A server leaves: nothing is made or used again there. Answers with its idle connections, which are to be
    /// closed; those in use are when they are given back. Who waited for it alone takes any other.
    pub fn retire_server(&mut self, server: usize) -> Vec<C> {
        let of = &mut self.servers[server];
        of.retired = true;
        let idle: Vec<C> = of.idle.iter().map(|&(_, c)| c).collect();
        for ticket in std::mem::take(&mut of.only) {
            if let Some(waiter) = self.waiting.get_mut(&ticket) {
                waiter.only = None;
            }
            self.any.insert(ticket);
        }
        for &c in &idle {
            self.closed(server, c);
        }
        idle
    }

    /// The idle connections of a server are not used again: [`Pool::poll`] has them closed.
    pub fn drain_idle(&mut self, server: usize) {
        let at_once = Instant::default();
        for (&c, conn) in &mut self.servers[server].conns {
            let Some(idle) = &mut conn.idle else {
                continue;
            };
            idle.until = at_once;
            if let Some(timer) = conn.timer.replace(at_once) {
                self.deadlines.remove(&(timer, server, c));
            }
            self.deadlines.insert((at_once, server, c));
        }
    }

    /// A connection to this server for somebody who has just come. `Full` while somebody waits who would take it.
    pub fn checkout(&mut self, server: usize, now: Instant) -> Checkout<C> {
        match self.first_in_line(server) {
            Some(_) => Checkout::Full,
            None => self.take(server, now),
        }
    }

    /// In place of a connection that was checked out and turned out to have ended, another. The place was taken
    /// already, so this overtakes whoever waits; it is `Full` only if the server has left or bounds were lowered.
    pub fn replace(&mut self, server: usize, c: C, now: Instant) -> Checkout<C> {
        self.closed(server, c);
        self.take(server, now)
    }

    /// The same, but what is idle is not taken: the place is for a connection that is new.
    pub fn renew(&mut self, server: usize, c: C) -> Checkout<C> {
        self.closed(server, c);
        self.grow(server)
    }

    /// A connection that was to be made is there, and in use by whoever asked for it.
    pub fn connected(&mut self, server: usize, c: C, now: Instant, rng: &mut Rng) {
        let ends = self.bounds.end_of_life(now, rng);
        let of = &mut self.servers[server];
        of.making = of.making.saturating_sub(1);
        of.made += 1;
        let (idle, timer) = (None, None);
        of.conns.insert(c, Conn { ends, idle, timer });
    }

    /// It is not, and will not be. Also for whoever has changed his mind.
    pub fn connect_failed(&mut self, server: usize) {
        let of = &mut self.servers[server];
        of.making = of.making.saturating_sub(1);
        of.failed += 1;
    }

    /// Waits for a connection to any server, or only to one.
    ///
    /// # Errors
    /// As many wait as may.
    pub fn wait(&mut self, who: W, only: Option<usize>, now: Instant) -> Result<Ticket, QueueFull> {
        if self.waiting.len() >= self.room {
            self.queue.refused += 1;
            return Err(QueueFull {
                waiting: self.waiting.len(),
            });
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let only = only.filter(|&server| !self.servers[server].retired);
        self.line(only).insert(ticket);
        let since = now;
        self.waiting.insert(ticket, Waiter { who, only, since });
        Ok(ticket)
    }

    /// Whoever this is waits no longer. `None`: it did not.
    pub fn cancel(&mut self, ticket: Ticket) -> Option<W> {
        let waiter = self.leave(ticket)?;
        self.queue.cancelled += 1;
        Some(waiter.who)
    }

    /// A connection is free to be used again. If its server is `usable`, the first of those who would take it has it.
    pub fn give_back(&mut self, server: usize, c: C, usable: bool, now: Instant) -> Back<W> {
        let of = &self.servers[server];
        let Some(&Conn {
            ends, idle: None, ..
        }) = of.conns.get(&c)
        else {
            return Back::Close(Why::Unknown);
        };
        let why = if of.retired {
            Some(Why::Retired)
        } else if ends <= now {
            Some(Why::Lifetime)
        } else if of.taken() > self.bounds.most {
            Some(Why::Most)
        } else {
            None
        };
        if let Some(why) = why {
            self.closed(server, c);
            return Back::Close(why);
        }
        if usable
            && let Some(ticket) = self.first_in_line(server)
            && let Some((who, waited)) = self.serve(ticket, now)
        {
            self.servers[server].reused += 1;
            return Back::Next(who, waited);
        }
        let of = &mut self.servers[server];
        if of.idle.len() >= self.bounds.idle || self.bounds.idle_for.is_zero() {
            self.closed(server, c);
            return Back::Close(Why::Idle);
        }
        let order = self.next_order;
        self.next_order += 1;
        let until = ends.min(now + self.bounds.idle_for);
        of.idle.push_back((order, c));
        if let Some(conn) = of.conns.get_mut(&c) {
            let since = now;
            conn.idle = Some(Idle {
                order,
                since,
                until,
            });
            // An entry it has is not after `until`: deadlines of a connection only grow.
            if conn.timer.is_none() {
                conn.timer = Some(until);
                self.deadlines.insert((until, server, c));
            }
        }
        Back::Kept
    }

    /// A connection has ended, idle or in use. Whoever waits may have its place: ask [`Pool::poll`].
    pub fn closed(&mut self, server: usize, c: C) {
        let of = &mut self.servers[server];
        let Some(conn) = of.conns.remove(&c) else {
            return;
        };
        of.closed += 1;
        if let Some(timer) = conn.timer {
            self.deadlines.remove(&(timer, server, c));
        }
        if let Some(idle) = conn.idle
            && let Ok(place) = of
                .idle
                .binary_search_by_key(&idle.order, |&(order, _)| order)
        {
            of.idle.remove(place);
        }
        // The memory of a burst goes with its connections.
        if of.conns.len() < of.idle.capacity() / 4 {
            of.idle.shrink_to(of.conns.len() * 2);
        }
    }

    /// What is to be done, one thing at a time; to be asked until there is nothing, in each turn in which the pool
    /// was told something, what is usable has changed, or [`Pool::next_deadline`] has come. Who can be served is,
    /// even at the moment when its time is up.
    pub fn poll(&mut self, now: Instant, usable: impl Fn(usize) -> bool) -> Option<Action<C, W>> {
        if let Some((server, c)) = self.too_long_idle(now) {
            self.closed(server, c);
            return Some(Action::Close(server, c));
        }
        if let Some((ticket, server)) = self.match_waiter(&usable, now) {
            let by = self.take(server, now);
            // By the match there is something to take, and the ticket waits.
            let (who, waited) = self.serve(ticket, now)?;
            return Some(Action::Serve(who, server, by, waited));
        }
        if let Some((&ticket, waiter)) = self.waiting.first_key_value()
            && waiter.since + self.bounds.queue_wait <= now
        {
            self.queue.expired += 1;
            return self.leave(ticket).map(|waiter| Action::Expired(waiter.who));
        }
        self.warm_up(now, &usable).map(Action::Connect)
    }

    /// When to [`Pool::poll`] although nothing has happened. There may be nothing to do yet.
    pub fn next_deadline(&self) -> Option<Instant> {
        let idle = self.deadlines.first().map(|&(timer, ..)| timer);
        let first = self.waiting.first_key_value();
        let expiry = first.map(|(_, waiter)| waiter.since + self.bounds.queue_wait);
        let warm = self.warm();
        let cold = |of: &&Server<C>| !of.retired && of.taken() < warm;
        let warm_up = self
            .servers
            .iter()
            .take(if warm == 0 { 0 } else { usize::MAX })
            .filter(cold)
            .map(|of| match of.warmed {
                (_, made) if made < warm => Instant::default(),
                (from, _) => from + WARM_SPAN,
            })
            .min();
        idle.into_iter().chain(expiry).chain(warm_up).min()
    }

    /// The numbers of a server.
    pub fn counters(&self, server: usize) -> Counters {
        let of = &self.servers[server];
        Counters {
            open: of.conns.len(),
            making: of.making,
            idle: of.idle.len(),
            in_use: of.in_use(),
            waiting: of.only.len(),
            made: of.made,
            failed: of.failed,
            closed: of.closed,
            reused: of.reused,
        }
    }

    /// The numbers of the queue.
    pub fn queue(&self) -> QueueCounters {
        QueueCounters {
            waiting: self.waiting.len(),
            ..self.queue
        }
    }

    /// The line of those who take any server, or only this one.
    fn line(&mut self, only: Option<usize>) -> &mut BTreeSet<Ticket> {
        match only {
            Some(server) => &mut self.servers[server].only,
            None => &mut self.any,
        }
    }

    /// The first of those who would take a connection to this server.
    fn first_in_line(&self, server: usize) -> Option<Ticket> {
        let lines = [&self.servers[server].only, &self.any];
        lines.iter().filter_map(|line| line.first()).min().copied()
    }

    fn leave(&mut self, ticket: Ticket) -> Option<Waiter<W>> {
        let waiter = self.waiting.remove(&ticket)?;
        self.line(waiter.only).remove(&ticket);
        Some(waiter)
    }

    fn serve(&mut self, ticket: Ticket, now: Instant) -> Option<(W, Duration)> {
        let waiter = self.leave(ticket)?;
        let waited = now - waiter.since;
        self.queue.served += 1;
        self.queue.waited = self.queue.waited.saturating_add(waited);
        self.queue.longest = self.queue.longest.max(waited);
        Some((waiter.who, waited))
    }

    /// An idle connection that is to be closed. Entries that have come up early are placed anew.
    fn too_long_idle(&mut self, now: Instant) -> Option<(usize, C)> {
        while let Some(&(timer, server, c)) = self.deadlines.first()
            && timer <= now
        {
            self.deadlines.pop_first();
            let Some(conn) = self.servers[server].conns.get_mut(&c) else {
                continue;
            };
            conn.timer = None;
            match conn.idle {
                Some(idle) if idle.until <= now => return Some((server, c)),
                Some(idle) => {
                    conn.timer = Some(idle.until);
                    self.deadlines.insert((idle.until, server, c));
                }
                // It gets another when it is given back.
                None => {}
            }
        }
        None
    }

    /// The place in `idle` of the most recently used that may be used. Whatever `poll` was not yet asked to close is
    /// passed over.
    fn freshest(&self, server: usize, now: Instant) -> Option<usize> {
        let of = &self.servers[server];
        let may_be_used = |(_, c): &(u64, C)| {
            let idle = of.conns.get(c).and_then(|conn| conn.idle);
            idle.is_some_and(|idle| now < idle.until)
        };
        of.idle.iter().rposition(may_be_used)
    }

    /// Connections there are or will be, over all servers.
    pub fn taken(&self) -> usize {
        self.servers.iter().map(Server::taken).sum()
    }

    /// Whether another connection may be made to this server, if there is room for one at all.
    fn may_grow(&self, server: usize) -> bool {
        let of = &self.servers[server];
        !of.retired && of.taken() < self.bounds.most
    }

    /// Takes an idle connection, or room for another.
    fn take(&mut self, server: usize, now: Instant) -> Checkout<C> {
        let found = self.freshest(server, now);
        let of = &mut self.servers[server];
        let Some((_, c)) = found.and_then(|place| of.idle.remove(place)) else {
            return self.grow(server);
        };
        if let Some(conn) = of.conns.get_mut(&c) {
            conn.idle = None;
        }
        of.reused += 1;
        Checkout::Reuse(c)
    }

    /// Takes room for another connection.
    fn grow(&mut self, server: usize) -> Checkout<C> {
        let may_grow = self.may_grow(server) && self.taken() < self.total;
        self.servers[server].making += usize::from(may_grow);
        match may_grow {
            true => Checkout::Connect,
            false => Checkout::Full,
        }
    }

    /// The first waiter for whom there is room; of several servers, the one least in use.
    fn match_waiter(
        &self,
        usable: impl Fn(usize) -> bool,
        now: Instant,
    ) -> Option<(Ticket, usize)> {
        if self.waiting.is_empty() {
            return None;
        }
        let has_place = self.taken() < self.total;
        let has_room =
            |server| has_place && self.may_grow(server) || self.freshest(server, now).is_some();
        (0..self.servers.len())
            .filter(|&server| has_room(server) && usable(server))
            .filter_map(|server| Some((self.first_in_line(server)?, server)))
            .min_by_key(|&(ticket, server)| {
                let of = &self.servers[server];
                (ticket, of.in_use() + of.making, server)
            })
    }

    /// To how many connections a server is warmed up: one that could not be kept would be made again and again.
    fn warm(&self) -> usize {
        self.bounds.warm.min(self.bounds.idle).min(self.bounds.most)
    }

    fn warm_up(&mut self, now: Instant, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let warm = self.warm();
        if warm == 0 || self.taken() >= self.total {
            return None;
        }
        for (server, of) in self.servers.iter_mut().enumerate() {
            if of.retired || of.taken() >= warm {
                continue;
            }
            let (from, made) = &mut of.warmed;
            if now - *from >= WARM_SPAN {
                (*from, *made) = (now, 0);
            }
            if *made >= warm {
                continue;
            }
            if !usable(server) {
                // Looked at again when the span is over.
                (*from, *made) = (now, warm);
                continue;
            }
            *made += 1;
            of.making += 1;
            return Some(server);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1_000)
    }

    fn rng() -> Rng {
        Rng::with_seed(7)
    }

    /// One server with `n` connections in use, made at 0.
    fn busy(bounds: Bounds, n: u32) -> Pool<u32, &'static str> {
        let mut pool = Pool::new(bounds);
        pool.add_server();
        for c in 0..n {
            assert_eq!(pool.checkout(0, at(0)), Checkout::Connect);
            pool.connected(0, c, at(0), &mut rng());
        }
        pool
    }

    #[test]
    fn the_most_recently_used_is_taken_and_the_rest_grow_old() {
        let mut pool = busy(Bounds::default(), 2);
        assert_eq!(pool.give_back(0, 0, true, at(1_000)), Back::Kept);
        assert_eq!(pool.give_back(0, 1, true, at(2_000)), Back::Kept);
        for beat in 0..24 {
            let now = at(3_000 + beat * 2_000);
            assert_eq!(pool.poll(now, |_| true), None);
            assert_eq!(pool.checkout(0, now), Checkout::Reuse(1));
            assert_eq!(pool.give_back(0, 1, true, now), Back::Kept);
        }
        assert_eq!(pool.next_deadline(), Some(at(51_000)));
        assert_eq!(pool.poll(at(50_999), |_| true), None);
        let closed = pool.poll(at(51_000), |_| true);
        assert_eq!(closed, Some(Action::Close(0, 0)));
        assert_eq!(pool.poll(at(51_000), |_| true), None);
    }

    #[test]
    fn one_that_was_idle_too_long_is_not_taken_though_nobody_has_closed_it() {
        let mut pool = busy(Bounds::default(), 1);
        assert_eq!(pool.give_back(0, 0, true, at(0)), Back::Kept);
        assert_eq!(pool.checkout(0, at(50_000)), Checkout::Connect);
        assert_eq!(pool.checkout(0, at(49_999)), Checkout::Reuse(0));
    }

    #[test]
    fn lifetimes_end_apart_and_never_late() {
        let bounds = Bounds {
            jitter: 0.25,
            lifetime: 100 * SECOND,
            ..Bounds::default()
        };
        let mut rng = rng();
        let ends: BTreeSet<u64> = (0..100)
            .map(|_| bounds.end_of_life(at(0), &mut rng).as_micros())
            .collect();
        assert!(ends.len() > 95);
        assert!(*ends.first().unwrap() >= 75_000_000 && *ends.last().unwrap() <= 100_000_000);
        assert!(*ends.last().unwrap() - *ends.first().unwrap() > 20_000_000);
        for jitter in [f64::NAN, -1.0, 7.0, f64::INFINITY] {
            let odd = Bounds {
                jitter,
                lifetime: Duration::MAX,
                ..bounds
            };
            assert!(odd.end_of_life(at(5), &mut rng) >= at(5));
        }
    }

    #[test]
    fn the_memory_of_a_burst_goes_with_it() {
        let bounds = Bounds {
            idle: 1_000,
            ..Bounds::default()
        };
        let mut pool = busy(bounds, 1_000);
        (0..1_000).for_each(|c| assert_eq!(pool.give_back(0, c, true, at(0)), Back::Kept));
        (0..1_000).for_each(|_| assert_ne!(pool.checkout(0, at(0)), Checkout::Full));
        assert!(pool.servers[0].idle.capacity() >= 1_000);
        (0..990).for_each(|c| pool.closed(0, c));
        assert!(pool.servers[0].idle.capacity() <= 64);
        assert_eq!(pool.deadlines.len(), 10);
    }

    #[test]
    fn what_cannot_be_kept_says_why() {
        let bounds = Bounds {
            idle: 1,
            jitter: 0.0,
            lifetime: 10 * SECOND,
            ..Bounds::default()
        };
        let mut pool = busy(bounds, 5);
        assert_eq!(pool.give_back(0, 0, true, at(1)), Back::Kept);
        let again = pool.give_back(0, 0, true, at(1));
        assert_eq!(again, Back::Close(Why::Unknown));
        assert_eq!(pool.give_back(0, 1, true, at(1)), Back::Close(Why::Idle));
        let late = pool.give_back(0, 2, true, at(10_000));
        assert_eq!(late, Back::Close(Why::Lifetime));
        pool.set_bounds(Bounds { most: 1, ..bounds });
        assert_eq!(pool.poll(at(2), |_| true), Some(Action::Close(0, 0)));
        assert_eq!(pool.give_back(0, 3, true, at(2)), Back::Close(Why::Most));
        assert!(pool.retire_server(0).is_empty());
        assert_eq!(pool.give_back(0, 4, true, at(2)), Back::Close(Why::Retired));
        let counters = pool.counters(0);
        assert_eq!((counters.made, counters.closed, counters.open), (5, 5, 0));
    }

    #[test]
    fn a_newcomer_overtakes_nobody_but_a_place_that_was_given_is_kept() {
        let one = Bounds {
            most: 1,
            ..Bounds::default()
        };
        let mut pool = busy(one, 1);
        assert_eq!(pool.give_back(0, 0, true, at(0)), Back::Kept);
        assert_eq!(pool.checkout(0, at(1)), Checkout::Reuse(0));
        pool.wait("ada", None, at(1)).unwrap();
        assert_eq!(pool.replace(0, 0, at(1)), Checkout::Connect);
        assert_eq!(pool.poll(at(1), |_| true), None);
        pool.connect_failed(0);
        assert_eq!(pool.checkout(0, at(2)), Checkout::Full);
        let waited = Duration::from_millis(1);
        let served = Action::Serve("ada", 0, Checkout::Connect, waited);
        assert_eq!(pool.poll(at(2), |_| true), Some(served));
    }

    #[test]
    fn all_servers_together_have_a_bound_and_a_place_goes_to_whoever_waits() {
        let mut pool: Pool<u32, &str> = Pool::new(Bounds::default()).of_at_most(2, usize::MAX);
        (0..2).for_each(|_| _ = pool.add_server());
        assert_eq!(pool.checkout(0, at(0)), Checkout::Connect);
        assert_eq!(pool.checkout(1, at(0)), Checkout::Connect);
        assert_eq!(pool.checkout(1, at(0)), Checkout::Full);
        pool.wait("ada", None, at(0)).unwrap();
        assert_eq!(pool.poll(at(0), |_| true), None);
        pool.connect_failed(0);
        let served = Action::Serve("ada", 0, Checkout::Connect, Duration::ZERO);
        assert_eq!(pool.poll(at(0), |_| true), Some(served));
        // What is idle may be used, though nothing may be made.
        pool.connected(1, 7, at(0), &mut rng());
        assert_eq!(pool.give_back(1, 7, true, at(0)), Back::Kept);
        assert_eq!(pool.checkout(0, at(0)), Checkout::Full);
        assert_eq!(pool.checkout(1, at(0)), Checkout::Reuse(7));
        assert_eq!(pool.taken(), 2);
    }

    #[test]
    fn what_is_idle_at_a_server_that_is_drained_is_closed_and_not_used() {
        let mut pool = busy(Bounds::default(), 3);
        for c in [0, 1] {
            assert_eq!(pool.give_back(0, c, true, at(0)), Back::Kept);
        }
        pool.drain_idle(0);
        assert_eq!(pool.next_deadline(), Some(Instant::default()));
        assert_eq!(pool.checkout(0, at(1)), Checkout::Connect);
        let mut closed = Vec::new();
        while let Some(Action::Close(0, c)) = pool.poll(at(1), |_| true) {
            closed.push(c);
        }
        assert_eq!(closed, [0, 1]);
        assert_eq!((pool.counters(0).idle, pool.deadlines.len()), (0, 0));
        assert_eq!(pool.give_back(0, 2, true, at(2)), Back::Kept);
    }

    #[test]
    fn one_that_is_not_trusted_makes_room_for_a_new_one() {
        let mut pool = busy(
            Bounds {
                most: 2,
                ..Bounds::default()
            },
            2,
        );
        assert_eq!(pool.give_back(0, 0, true, at(0)), Back::Kept);
        assert_eq!(pool.give_back(0, 1, true, at(0)), Back::Kept);
        assert_eq!(pool.checkout(0, at(1)), Checkout::Reuse(1));
        // Not the other one that is idle.
        assert_eq!(pool.renew(0, 1), Checkout::Connect);
        let counters = pool.counters(0);
        assert_eq!((counters.idle, counters.making, counters.open), (1, 1, 1));
    }

    #[test]
    fn the_queue_is_bounded_and_so_is_the_wait() {
        let bounds = Bounds {
            most: 0,
            ..Bounds::default()
        };
        let mut pool = busy(bounds, 0).of_at_most(usize::MAX, 1);
        let ticket = pool.wait("ada", Some(0), at(0)).unwrap();
        let full = pool.wait("grace", None, at(0)).unwrap_err();
        assert_eq!(full.to_string(), "1 wait for a connection");
        assert_eq!(pool.next_deadline(), Some(at(3_000)));
        assert_eq!(pool.poll(at(2_999), |_| true), None);
        let expired = pool.poll(at(3_000), |_| true);
        assert_eq!(expired, Some(Action::Expired("ada")));
        assert_eq!(pool.cancel(ticket), None);
        let queue = pool.queue();
        assert_eq!((queue.waiting, queue.expired, queue.refused), (0, 1, 1));
    }

    #[test]
    fn whoever_waits_for_a_server_that_leaves_takes_another() {
        let one = Bounds {
            most: 1,
            ..Bounds::default()
        };
        let mut pool = busy(one, 1);
        pool.wait("ada", Some(0), at(0)).unwrap();
        assert_eq!(pool.add_server(), 1);
        pool.wait("grace", None, at(0)).unwrap();
        let served = |who, server| Action::Serve(who, server, Checkout::Connect, Duration::ZERO);
        assert_eq!(pool.poll(at(0), |_| true), Some(served("grace", 1)));
        assert_eq!(pool.poll(at(0), |_| true), None);
        pool.retire_server(0);
        pool.connect_failed(1);
        assert_eq!(pool.poll(at(0), |_| true), Some(served("ada", 1)));
        assert_eq!(pool.checkout(0, at(0)), Checkout::Full);
    }

    #[test]
    fn a_server_that_drops_what_is_warmed_up_is_not_asked_in_a_loop() {
        let bounds = Bounds {
            warm: 2,
            ..Bounds::default()
        };
        let mut pool = busy(bounds, 0);
        let (mut made, mut turns, mut now) = (0, 0, at(0));
        while now < at(10_000) {
            while let Some(action) = pool.poll(now, |_| true) {
                assert_eq!(action, Action::Connect(0));
                pool.connected(0, made, now, &mut rng());
                assert_eq!(pool.give_back(0, made, true, now), Back::Kept);
                pool.closed(0, made);
                made += 1;
            }
            now = pool.next_deadline().unwrap();
            turns += 1;
        }
        // Nor does the loop spin for it, nor for one that may not be used.
        assert_eq!((made, turns), (20, 10));
        assert_eq!(pool.poll(now, |_| false), None);
        assert_eq!(pool.next_deadline(), Some(at(11_000)));
    }

    /// Everything in lists, everything found by looking at all of it.
    #[derive(Default)]
    struct Model {
        bounds: Bounds,
        retired: Vec<bool>,
        making: Vec<usize>,
        conns: Vec<ModelConn>,
        /// In the order of coming: who, which server only, since when.
        waiters: Vec<(u32, Option<usize>, Instant)>,
        backs: u64,
        reused: u64,
        /// How long each has waited.
        waits: Vec<Duration>,
    }

    #[derive(Clone, Copy)]
    struct ModelConn {
        c: u32,
        server: usize,
        ends: Instant,
        /// The how manieth to be given back, and when.
        idle: Option<(u64, Instant)>,
        /// Too many, since the bounds were lowered.
        excess: bool,
    }

    impl Model {
        fn until(&self, conn: &ModelConn) -> Option<Instant> {
            let (_, since) = conn.idle?;
            Some(match conn.excess {
                true => at(0),
                false => conn.ends.min(since + self.bounds.idle_for),
            })
        }

        fn count(&self, server: usize, which: impl Fn(&ModelConn) -> bool) -> usize {
            let here = |conn: &&ModelConn| conn.server == server && which(conn);
            self.conns.iter().filter(here).count()
        }

        fn taken(&self, server: usize) -> usize {
            self.count(server, |_| true) + self.making[server]
        }

        fn used(&self, server: usize) -> usize {
            self.count(server, |conn| conn.idle.is_none()) + self.making[server]
        }

        fn first_in_line(&self, server: usize) -> Option<usize> {
            let accepts = |only: Option<usize>| only.is_none_or(|only| only == server);
            self.waiters.iter().position(|&(_, only, _)| accepts(only))
        }

        fn available(&self, server: usize, now: Instant) -> Checkout<u32> {
            let fresh = |conn: &&ModelConn| {
                conn.server == server && self.until(conn).is_some_and(|until| now < until)
            };
            let latest = self.conns.iter().filter(fresh).max_by_key(|conn| conn.idle);
            match latest {
                Some(conn) => Checkout::Reuse(conn.c),
                None if !self.retired[server] && self.taken(server) < self.bounds.most => {
                    Checkout::Connect
                }
                None => Checkout::Full,
            }
        }

        fn take(&mut self, server: usize, now: Instant) -> Checkout<u32> {
            let what = self.available(server, now);
            match what {
                Checkout::Reuse(c) => {
                    self.conn(c).idle = None;
                    self.reused += 1;
                }
                Checkout::Connect => self.making[server] += 1,
                Checkout::Full => {}
            }
            what
        }

        fn conn(&mut self, c: u32) -> &mut ModelConn {
            self.conns.iter_mut().find(|conn| conn.c == c).unwrap()
        }

        fn closed(&mut self, c: u32) {
            self.conns.retain(|conn| conn.c != c);
        }

        fn give_back(&mut self, c: u32, usable: bool, now: Instant) -> Back<u32> {
            let conn = *self.conn(c);
            let server = conn.server;
            let why = if self.retired[server] {
                Why::Retired
            } else if conn.ends <= now {
                Why::Lifetime
            } else if self.taken(server) > self.bounds.most {
                Why::Most
            } else if let Some(first) = self.first_in_line(server).filter(|_| usable) {
                let (who, _, since) = self.waiters.remove(first);
                self.waits.push(now - since);
                self.reused += 1;
                return Back::Next(who, now - since);
            } else if self.count(server, |conn| conn.idle.is_some()) >= self.bounds.idle
                || self.bounds.idle_for.is_zero()
            {
                Why::Idle
            } else {
                self.backs += 1;
                self.conn(c).idle = Some((self.backs, now));
                return Back::Kept;
            };
            self.closed(c);
            Back::Close(why)
        }

        fn set_bounds(&mut self, bounds: Bounds) {
            self.bounds = bounds;
            for server in 0..self.retired.len() {
                let mut idle: Vec<ModelConn> = self.conns.clone();
                idle.retain(|conn| conn.server == server && conn.idle.is_some());
                idle.sort_by_key(|conn| conn.idle);
                let mut left = idle.len();
                for conn in idle {
                    let fits = left <= bounds.idle && left + self.used(server) <= bounds.most;
                    self.conn(conn.c).excess = !fits;
                    left -= usize::from(!fits);
                }
            }
        }

        /// But for connections that are warmed up.
        fn poll(&mut self, now: Instant, usable: &[bool]) -> Option<Action<u32, u32>> {
            let until = |conn: &ModelConn| Some((self.until(conn)?, conn.server, conn.c));
            let due = self.conns.iter().filter_map(until).min();
            if let Some((_, server, c)) = due.filter(|&(until, ..)| until <= now) {
                self.closed(c);
                return Some(Action::Close(server, c));
            }
            for at in 0..self.waiters.len() {
                let (who, only, since) = self.waiters[at];
                let servers = (0..usable.len())
                    .filter(|&server| usable[server] && only.is_none_or(|only| only == server))
                    .filter(|&server| self.available(server, now) != Checkout::Full);
                if let Some(server) = servers.min_by_key(|&server| self.used(server)) {
                    self.waiters.remove(at);
                    self.waits.push(now - since);
                    let by = self.take(server, now);
                    return Some(Action::Serve(who, server, by, now - since));
                }
            }
            let (who, _, since) = *self.waiters.first()?;
            if now < since + self.bounds.queue_wait {
                return None;
            }
            self.waiters.remove(0);
            Some(Action::Expired(who))
        }

        fn next_deadline(&self) -> Option<Instant> {
            let idle = self.conns.iter().filter_map(|conn| self.until(conn));
            let waits = self.waiters.iter();
            idle.chain(waits.map(|&(_, _, since)| since + self.bounds.queue_wait))
                .min()
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        AddServer,
        Retire(prop::sample::Index),
        /// Comes, asks, and waits if there is nothing: for that server only, or for any.
        Come(prop::sample::Index, bool),
        Connected(prop::sample::Index),
        Failed(prop::sample::Index),
        GiveBack(prop::sample::Index),
        /// Ends, in use or idle.
        Closed(prop::sample::Index),
        /// Turns out to have ended, and is replaced.
        Replace(prop::sample::Index),
        Cancel(prop::sample::Index),
        Usable(prop::sample::Index, bool),
        Bounds(Bounds),
        Sleep(u64),
        /// Sleeps until the next deadline.
        Wait,
        Poll,
    }

    const ROOM: usize = 3;

    fn bounds() -> impl Strategy<Value = Bounds> {
        (
            0usize..5,
            0usize..4,
            0usize..3,
            0u64..40,
            0u64..90,
            1u64..30,
        )
            .prop_map(
                |(most, idle, warm, idle_for, lifetime, queue_wait)| Bounds {
                    most,
                    idle,
                    warm,
                    idle_for: Duration::from_millis(idle_for * 100),
                    lifetime: Duration::from_millis(lifetime * 100),
                    queue_wait: Duration::from_millis(queue_wait * 100),
                    jitter: 0.0,
                },
            )
    }

    fn step() -> impl Strategy<Value = Step> {
        let index = any::<prop::sample::Index>;
        prop_oneof![
            1 => Just(Step::AddServer),
            1 => index().prop_map(Step::Retire),
            12 => (index(), any::<bool>()).prop_map(|(i, only)| Step::Come(i, only)),
            8 => index().prop_map(Step::Connected),
            2 => index().prop_map(Step::Failed),
            8 => index().prop_map(Step::GiveBack),
            2 => index().prop_map(Step::Closed),
            1 => index().prop_map(Step::Replace),
            1 => index().prop_map(Step::Cancel),
            2 => (index(), any::<bool>()).prop_map(|(i, is)| Step::Usable(i, is)),
            1 => bounds().prop_map(Step::Bounds),
            3 => (0u64..3_000).prop_map(Step::Sleep),
            2 => Just(Step::Wait),
            6 => Just(Step::Poll),
        ]
    }

    /// The pool and the model, side by side.
    struct Pair {
        pool: Pool<u32, u32>,
        model: Model,
        usable: Vec<bool>,
        now: Instant,
        next: u32,
        /// Who came to wait, and what became of them.
        tickets: Vec<Ticket>,
        gone: BTreeSet<u32>,
        warmed: Vec<(usize, Instant)>,
        /// Of all bounds there were.
        most: usize,
    }

    impl Pair {
        fn new(bounds: Bounds) -> Pair {
            let model = Model {
                bounds,

                ..Model::default()
            };
            let mut pair = Pair {
                pool: Pool::new(bounds).of_at_most(usize::MAX, ROOM),
                model,
                usable: Vec::new(),
                now: at(0),
                next: 0,
                tickets: Vec::new(),
                gone: BTreeSet::new(),
                warmed: Vec::new(),
                most: bounds.most,
            };
            pair.run(Step::AddServer);
            pair.run(Step::AddServer);
            pair
        }

        fn server(&self, index: prop::sample::Index) -> usize {
            index.index(self.usable.len())
        }

        fn pick(
            &self,
            index: prop::sample::Index,
            which: impl Fn(&ModelConn) -> bool,
        ) -> Option<ModelConn> {
            let all: Vec<ModelConn> = self.model.conns.clone();
            let all: Vec<ModelConn> = all.into_iter().filter(which).collect();
            (!all.is_empty()).then(|| all[index.index(all.len())])
        }

        fn making(&self, index: prop::sample::Index) -> Option<usize> {
            let servers = (0..self.usable.len()).filter(|&s| self.model.making[s] > 0);
            let servers: Vec<usize> = servers.collect();
            (!servers.is_empty()).then(|| servers[index.index(servers.len())])
        }

        fn done(&mut self, who: u32) {
            assert!(self.gone.insert(who), "{who} was told twice");
        }

        fn poll(&mut self) -> bool {
            let usable = self.usable.clone();
            let action = self.pool.poll(self.now, |server| usable[server]);
            if let Some(Action::Connect(server)) = action {
                let warm = self.model.bounds.warm.min(self.model.bounds.idle);
                assert!(usable[server] && !self.model.retired[server]);
                assert!(self.model.taken(server) < warm.min(self.model.bounds.most));
                // Whatever else there was to do has come first.
                assert_eq!(self.model.poll(self.now, &usable), None);
                self.model.making[server] += 1;
                let recent = |&&(s, then): &&(usize, Instant)| {
                    s == server && self.now - then < WARM_SPAN && self.now >= then
                };
                assert!(self.warmed.iter().filter(recent).count() < 2 * 3);
                self.warmed.push((server, self.now));
                return true;
            }
            if let Some(Action::Close(server, c)) = action {
                // Of those that are due, in any order.
                let conn = *self.model.conn(c);
                assert_eq!(conn.server, server);
                assert!(self.model.until(&conn).unwrap() <= self.now, "too early");
                self.model.closed(c);
                return true;
            }
            assert_eq!(action, self.model.poll(self.now, &usable));
            if let Some(Action::Expired(who) | Action::Serve(who, ..)) = action {
                self.done(who);
            }
            action.is_some()
        }

        fn drain(&mut self) {
            while self.poll() {}
            for server in (0..self.usable.len()).filter(|&server| self.usable[server]) {
                let waits = self.model.first_in_line(server).is_some();
                let room = self.model.available(server, self.now) != Checkout::Full;
                assert!(!(waits && room), "somebody waits for nothing");
            }
            let next = self.pool.next_deadline();
            assert!(next.is_none_or(|next| next > self.now), "it would spin");
        }

        fn run(&mut self, step: Step) {
            let now = self.now;
            match step {
                Step::AddServer => {
                    assert_eq!(self.pool.add_server(), self.usable.len());
                    self.usable.push(true);
                    self.model.retired.push(false);
                    self.model.making.push(0);
                }
                Step::Retire(index) => {
                    let server = self.server(index);
                    let mut closed = self.pool.retire_server(server);
                    closed.sort();
                    let here = |conn: &&ModelConn| conn.server == server && conn.idle.is_some();
                    let idle = self.model.conns.iter().filter(here).map(|conn| conn.c);
                    assert_eq!(closed, idle.collect::<Vec<_>>());
                    closed.into_iter().for_each(|c| self.model.closed(c));
                    self.model.retired[server] = true;
                    for (_, only, _) in &mut self.model.waiters {
                        *only = only.filter(|&only| only != server);
                    }
                }
                Step::Come(index, sticky) => {
                    let server = self.server(index);
                    let expected = match self.model.first_in_line(server) {
                        Some(_) => Checkout::Full,
                        None => self.model.take(server, now),
                    };
                    assert_eq!(self.pool.checkout(server, now), expected);
                    if expected != Checkout::Full {
                        return;
                    }
                    let only = sticky.then_some(server);
                    let who = self.tickets.len() as u32;
                    match self.pool.wait(who, only, now) {
                        Ok(ticket) => {
                            let only = only.filter(|&server| !self.model.retired[server]);
                            self.tickets.push(ticket);
                            self.model.waiters.push((who, only, now));
                            assert!(self.model.waiters.len() <= ROOM);
                        }
                        Err(full) => {
                            assert_eq!(full.waiting, self.model.waiters.len());
                            assert!(full.waiting >= ROOM);
                        }
                    }
                }
                Step::Connected(index) => {
                    let Some(server) = self.making(index) else {
                        return;
                    };
                    self.model.making[server] -= 1;
                    self.model.conns.push(ModelConn {
                        c: self.next,
                        server,
                        ends: now + self.model.bounds.lifetime,
                        idle: None,
                        excess: false,
                    });
                    self.pool.connected(server, self.next, now, &mut rng());
                    self.next += 1;
                }
                Step::Failed(index) => {
                    if let Some(server) = self.making(index) {
                        self.model.making[server] -= 1;
                        self.pool.connect_failed(server);
                    }
                }
                Step::GiveBack(index) => {
                    if let Some(conn) = self.pick(index, |conn| conn.idle.is_none()) {
                        let usable = self.usable[conn.server];
                        let back = self.pool.give_back(conn.server, conn.c, usable, now);
                        assert_eq!(back, self.model.give_back(conn.c, usable, now));
                        if let Back::Next(who, _) = back {
                            self.done(who);
                        }
                    }
                }
                Step::Closed(index) => {
                    if let Some(conn) = self.pick(index, |_| true) {
                        self.pool.closed(conn.server, conn.c);
                        self.model.closed(conn.c);
                    }
                }
                Step::Replace(index) => {
                    if let Some(conn) = self.pick(index, |conn| conn.idle.is_none()) {
                        self.model.closed(conn.c);
                        let expected = self.model.take(conn.server, now);
                        let other = self.pool.replace(conn.server, conn.c, now);
                        assert_eq!(other, expected);
                    }
                }
                Step::Cancel(index) => {
                    if !self.tickets.is_empty() {
                        let who = index.index(self.tickets.len());
                        let cancelled = self.pool.cancel(self.tickets[who]);
                        let who = who as u32;
                        let waits = self.model.waiters.iter().any(|waiter| waiter.0 == who);
                        assert_eq!(cancelled, waits.then_some(who));
                        self.model.waiters.retain(|waiter| waiter.0 != who);
                        cancelled.into_iter().for_each(|who| self.done(who));
                    }
                }
                Step::Usable(index, is) => {
                    let server = self.server(index);
                    self.usable[server] = is;
                }
                Step::Bounds(bounds) => {
                    self.most = self.most.max(bounds.most);
                    self.pool.set_bounds(bounds);
                    self.model.set_bounds(bounds);
                }
                Step::Sleep(millis) => self.now = now + Duration::from_millis(millis),
                Step::Wait => {
                    self.now = self.pool.next_deadline().unwrap_or(now).max(now);
                    self.drain();
                }
                Step::Poll => self.drain(),
            }
        }

        fn check(&self) {
            let (mut idle, mut sticky, mut reused) = (0, 0, 0);
            for server in 0..self.usable.len() {
                let counters = self.pool.counters(server);
                let parked = self.model.count(server, |conn| conn.idle.is_some());
                assert_eq!(counters.idle, parked);
                assert_eq!(counters.making, self.model.making[server]);
                assert_eq!(counters.in_use + counters.making, self.model.used(server));
                assert_eq!(counters.open, counters.idle + counters.in_use);
                assert_eq!(counters.made, counters.open as u64 + counters.closed);
                assert!(self.model.taken(server) <= self.most, "over the limit");
                idle += counters.idle;
                sticky += counters.waiting;
                reused += counters.reused;
            }
            let queue = self.pool.queue();
            assert_eq!(queue.waiting, self.model.waiters.len());
            assert_eq!(queue.waiting, sticky + self.pool.any.len());
            assert_eq!(reused, self.model.reused);
            assert_eq!(queue.served, self.model.waits.len() as u64);
            assert_eq!(queue.waited, self.model.waits.iter().sum::<Duration>());
            assert_eq!(
                queue.longest,
                self.model.waits.iter().max().copied().unwrap_or_default()
            );
            let told = queue.served + queue.expired + queue.cancelled;
            assert_eq!(told, self.gone.len() as u64);
            assert_eq!(self.tickets.len(), self.gone.len() + queue.waiting);
            let conns = self.pool.servers.iter().enumerate();
            let conns = conns.flat_map(|(at, of)| of.conns.iter().map(move |conn| (at, conn)));
            let mut timers = 0;
            for (server, (&c, conn)) in conns {
                if let Some(timer) = conn.timer {
                    assert!(self.pool.deadlines.contains(&(timer, server, c)));
                    timers += 1;
                }
                if let Some(idle_conn) = conn.idle {
                    assert!(conn.timer.is_some_and(|timer| timer <= idle_conn.until));
                    idle -= 1;
                }
            }
            assert_eq!((idle, timers), (0, self.pool.deadlines.len()));
            // Never after something is due, nor for ever.
            let (next, expected) = (self.pool.next_deadline(), self.model.next_deadline());
            assert!(expected.is_none() || next.is_some_and(|next| next <= expected.unwrap()));
        }
    }

    proptest! {
        #[test]
        fn the_pool_is_the_model(first in bounds(), steps in prop::collection::vec(step(), 0..200)) {
            let mut pair = Pair::new(first);
            for step in steps {
                pair.run(step);
                pair.check();
            }
            // Left alone, everybody is told, every idle connection goes, and all memory with them.
            pair.run(Step::Bounds(Bounds { warm: 0, ..pair.model.bounds }));
            while let Some(next) = pair.pool.next_deadline() {
                pair.now = pair.now.max(next);
                pair.drain();
                pair.check();
            }
            prop_assert_eq!(pair.tickets.len(), pair.gone.len());
            prop_assert!(pair.pool.deadlines.is_empty() && pair.pool.waiting.is_empty());
            prop_assert!(pair.pool.servers.iter().all(|of| of.idle.is_empty() && of.only.is_empty()));
        }
    }
}
