//! Floor 1. Which server of a group gets a request: policies as small functions of what is known of the servers.
//!
//! | policy | file | looks at | costs |
//! | --- | --- | --- | --- |
//! | round robin | `round_robin.rs` | weights | a pass over the servers |
//! | random | `random.rs` | weights | a pass |
//! | least connections | `least.rs` | requests in flight | two passes |
//! | two choices | `two_choices.rs` | requests in flight of two | the same for any number |
//! | latency | `latency.rs`, `two_choices.rs` | latency × requests in flight of two | the same |
//! | hash | `maglev.rs`, `hash.rs` | a key; requests in flight | the same |
//! | first | here | order | a pass |
//!
//! All of them leave out a server that has left, was tried for this request, or has a share of 0; give one with a
//! share between 0 and 1 (slow start) that much less; give by weight (but `first`, which knows only order); and use
//! backups when no primary is left. A cookie that names a server (`Pick::sticky`) goes before all of this but for
//! the first: it may name a backup too.
//!
//! Invariants: while any untried server has a share above 0, [`Balance::choose`] finds one; it allocates nothing
//! but after a change of the servers; the same calls with the same seed choose the same servers.

mod hash;
mod latency;
mod least;
mod maglev;
mod random;
mod round_robin;
mod two_choices;

use crate::base::clock::Instant;
use std::time::Duration;

pub use hash::key;
pub use latency::Ewma;
pub use maglev::MAX_SERVERS;

/// The heaviest a server may be.
pub const MAX_WEIGHT: u32 = 1000;
/// A share is counted in so many parts.
const PARTS: f32 = 256.0;
/// For how long a census of who is usable holds. Between two of them a server that was ejected is still passed by
/// at once, it is only the average load that is a little off.
const CENSUS_HOLDS: Duration = Duration::from_millis(10);

/// How a server is chosen.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Policy {
    /// In turns, smoothly by weight.
    #[default]
    RoundRobin,
    /// At random, by weight.
    Random,
    /// The fewest requests in flight for its weight.
    LeastConnections,
    /// The one of two drawn that has fewer requests in flight.
    TwoChoices,
    /// The one of two drawn that is expected to answer sooner.
    Latency {
        /// How long a latency is remembered; [`Policy::DECAY`].
        decay: Duration,
    },
    /// The first in order, until its share is 0.
    First,
    /// The same server for the same key.
    Hash {
        /// How many times its fair part of the requests in flight a server may have before a key goes to
        /// its next choice: above 1; [`Policy::LOAD`]; infinite for no bound.
        load: f64,
    },
}

impl Policy {
    /// What Finagle remembers latencies for.
    pub const DECAY: Duration = Duration::from_secs(10);
    /// What the paper's authors use.
    pub const LOAD: f64 = 1.25;

    /// Those that need nothing but their name.
    pub const NAMED: [(&str, Policy); 6] = [
        ("round_robin", Policy::RoundRobin),
        ("random", Policy::Random),
        ("least_connections", Policy::LeastConnections),
        ("two_choices", Policy::TwoChoices),
        (
            "latency",
            Policy::Latency {
                decay: Policy::DECAY,
            },
        ),
        ("first", Policy::First),
    ];

    /// The one of this name.
    ///
    /// ```
    /// use loopwright::Balance;
    /// assert_eq!(Balance::named("two_choices"), Some(Balance::TwoChoices));
    /// assert_eq!(Balance::named("hash"), None);
    /// ```
    pub fn named(name: &str) -> Option<Policy> {
        let mut known = Policy::NAMED.into_iter();
        known
            .find(|(known, _)| *known == name)
            .map(|(_, policy)| policy)
    }

    fn decay(self) -> Duration {
        match self {
            Policy::Latency { decay } => decay,
            _ => Policy::DECAY,
        }
    }

    fn draws(self) -> bool {
        use Policy::{Hash, Latency, TwoChoices};
        matches!(self, TwoChoices | Latency { .. } | Hash { .. })
    }
}

/// What the policies know of a server.
#[derive(Clone, Debug)]
pub struct Server {
    /// From its name: the same in each worker and after a restart.
    id: u64,
    weight: u32,
    backup: bool,
    left: bool,
    in_flight: u32,
    latency: Ewma,
    /// What it has saved for its turn.
    credit: i64,
    /// Weight times share, as of the last look; 0: not eligible.
    units: u32,
}

impl Server {
    /// A server with its weight, from 1 to [`MAX_WEIGHT`]. The name decides which keys are its own.
    pub fn new(name: &str, weight: u32) -> Server {
        Server {
            id: hash::of(name.as_bytes()),
            weight: weight.clamp(1, MAX_WEIGHT),
            backup: false,
            left: false,
            in_flight: 0,
            latency: Ewma::default(),
            credit: 0,
            units: 0,
        }
    }

    /// The same, used only when no primary can be.
    pub fn backup(self) -> Server {
        let backup = true;
        Server { backup, ..self }
    }

    /// Its weight, from 1 to [`MAX_WEIGHT`].
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// Requests it has been given that have not ended.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// What is known of its latency.
    pub fn latency(&self) -> Ewma {
        self.latency
    }
}

/// For which request a server is to be chosen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pick<'a> {
    /// What the request is hashed by ([`key`]). Without, [`Policy::Hash`] draws one.
    pub key: Option<u64>,
    /// The server that the client's cookie names.
    pub sticky: Option<usize>,
    /// Those it has been sent to already.
    pub tried: &'a [usize],
    /// The clock.
    pub now: Instant,
}

/// The servers of a group and how one of them is chosen.
///
/// ```
/// use loopwright::Instant;
/// use loopwright::upstream::balance::{Balance, Pick, Policy, Server};
/// use std::time::Duration;
///
/// let mut balance = Balance::new(Policy::LeastConnections);
/// let big = balance.add(Server::new("10.0.0.1:80", 3)).unwrap();
/// let small = balance.add(Server::new("10.0.0.2:80", 1)).unwrap();
///
/// let mut rng = fastrand::Rng::with_seed(7);
/// for _ in 0..8 {
///     let server = balance.choose(&Pick::default(), |_| 1.0, &mut rng).unwrap();
///     balance.started(server);
/// }
/// assert_eq!(balance.server(big).unwrap().in_flight(), 6);
/// balance.ended(small, Some(Duration::from_millis(20)), Instant::default());
///
/// let healthy = |server| if server == big { 0.0 } else { 1.0 };
/// assert_eq!(balance.choose(&Pick::default(), healthy, &mut rng), Some(small));
/// ```
#[derive(Clone, Debug)]
pub struct Balance {
    policy: Policy,
    servers: Vec<Server>,
    /// To draw from: the primaries, the backups.
    tables: [Vec<u16>; 2],
    /// The tables are those of other servers or weights.
    stale: bool,
    census: Option<Census>,
}

/// Who was usable a moment ago; those have `units`.
#[derive(Clone, Debug)]
struct Census {
    at: Instant,
    /// It is backups that are used.
    backup: bool,
    units: u64,
    /// Theirs, kept up to date.
    in_flight: u64,
}

impl Balance {
    /// No servers yet.
    pub fn new(policy: Policy) -> Balance {
        Balance {
            policy,
            servers: Vec::new(),
            tables: [Vec::new(), Vec::new()],
            stale: false,
            census: None,
        }
    }

    /// One server more, and its number; None if there are [`MAX_SERVERS`] numbers.
    pub fn add(&mut self, server: Server) -> Option<usize> {
        if self.servers.len() == MAX_SERVERS {
            return None;
        }
        self.changed();
        self.servers.push(server);
        Some(self.servers.len() - 1)
    }

    /// Gives the number of a server that has left to another. False, and nothing happens, if it has not left.
    /// Nothing may name the number any more: no request in flight, no connection, no cookie.
    pub fn replace(&mut self, ix: usize, server: Server) -> bool {
        let Some(old) = self.servers.get_mut(ix).filter(|old| old.left) else {
            return false;
        };
        *old = server;
        self.changed();
        true
    }

    /// The server leaves: it is chosen no more, its requests may end.
    pub fn remove(&mut self, ix: usize) {
        if let Some(server) = self.servers.get_mut(ix) {
            server.left = true;
            self.changed();
        }
    }

    /// Gives a server another weight.
    pub fn set_weight(&mut self, ix: usize, weight: u32) {
        if let Some(server) = self.servers.get_mut(ix) {
            server.weight = weight.clamp(1, MAX_WEIGHT);
            self.changed();
        }
    }

    /// Makes a server a backup, or a primary.
    pub fn set_backup(&mut self, ix: usize, backup: bool) {
        if let Some(server) = self.servers.get_mut(ix) {
            server.backup = backup;
            self.changed();
        }
    }

    /// Has round robin begin anywhere, so that of many workers not each begins with the same server.
    pub fn stagger(&mut self, rng: &mut fastrand::Rng) {
        for server in &mut self.servers {
            server.credit = rng.i64(0..=i64::from(units(server.weight, 1.0)));
        }
    }

    /// The server of this number.
    pub fn server(&self, ix: usize) -> Option<&Server> {
        self.servers.get(ix)
    }

    /// How long a server's answers take to come, as the average has decayed until `now`; None while nothing is known.
    pub fn latency(&self, ix: usize, now: Instant) -> Option<Duration> {
        self.server(ix)?.latency.get(now, self.policy.decay())
    }

    /// The server was given a request.
    pub fn started(&mut self, ix: usize) {
        self.count(ix, |in_flight| in_flight.saturating_add(1));
    }

    /// A request has ended, with the `latency` of its answer; None if there is none to learn from: it was refused,
    /// broken off, an error that came too fast to say anything.
    pub fn ended(&mut self, ix: usize, latency: Option<Duration>, now: Instant) {
        self.count(ix, |in_flight| in_flight.saturating_sub(1));
        if let (Some(server), Some(latency)) = (self.servers.get_mut(ix), latency) {
            server.latency.observe(latency, now, self.policy.decay());
        }
    }

    /// The server for a request, None if there is none. `share` says for a number how much of what is its due it
    /// may get now: 1.0 all, 0.0 nothing, between them slow start.
    pub fn choose(
        &mut self,
        pick: &Pick<'_>,
        share: impl Fn(usize) -> f32,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        if let Some(ix) = pick.sticky
            && self.is_there(ix, pick.tried)
            && share(ix) > 0.0
        {
            return Some(ix);
        }
        if self.policy.draws() {
            return self.draw(pick, &share, rng);
        }
        self.look(pick.tried, &share);
        match self.policy {
            Policy::RoundRobin => round_robin::choose(&mut self.servers, |_| true),
            Policy::Random => random::choose(&self.servers, rng),
            Policy::First => {
                let mut eligible = (0..self.servers.len()).filter(|&ix| self.servers[ix].units > 0);
                let first = eligible.next()?;
                let mut all = std::iter::once(first).chain(eligible);
                all.find(|&ix| is_in(share(ix), rng.f32())).or(Some(first))
            }
            _ => least::choose(&mut self.servers),
        }
    }

    /// The policies with a table. If it gives nobody, because most are out, all are looked at.
    fn draw(
        &mut self,
        pick: &Pick<'_>,
        share: &impl Fn(usize) -> f32,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        self.fill_tables();
        let census = self.take_census(pick.now, share);
        let (table, servers) = (&self.tables[usize::from(census.backup)], &self.servers);
        let take = |ix: usize, part: f32| self.is_there(ix, pick.tried) && is_in(share(ix), part);
        let drawn = match self.policy {
            Policy::Hash { load } => {
                let key = pick.key.unwrap_or_else(|| rng.u64(..));
                let fair = load.max(1.0) * (census.in_flight + 1) as f64 / census.units as f64;
                let has_room = |server: &Server| {
                    f64::from(server.in_flight) + 1.0 <= (fair * f64::from(server.units)).ceil()
                };
                hash::choose(table, key, |ix, part| {
                    take(ix, part) && has_room(&servers[ix])
                })
            }
            policy => {
                let cost = |ix: usize| {
                    let server = &servers[ix];
                    let cost = match policy {
                        Policy::Latency { decay } => {
                            server.latency.cost(server.in_flight, pick.now, decay)
                        }
                        _ => f64::from(server.in_flight),
                    };
                    cost / f64::from(server.weight)
                };
                two_choices::choose(table, rng, |ix, rng| take(ix, rng.f32()), cost)
            }
        };
        drawn.or_else(|| {
            self.look(pick.tried, share);
            least::choose(&mut self.servers)
        })
    }

    fn is_there(&self, ix: usize, tried: &[usize]) -> bool {
        let server = self.servers.get(ix);
        server.is_some_and(|server| !server.left) && !tried.contains(&ix)
    }

    /// Sets the units of all: who is eligible, and for how much.
    fn look(&mut self, tried: &[usize], share: &impl Fn(usize) -> f32) {
        self.census = None;
        let mut has_primary = false;
        for ix in 0..self.servers.len() {
            let is_there = self.is_there(ix, tried);
            let server = &mut self.servers[ix];
            server.units = match is_there {
                true => units(server.weight, share(ix)),
                false => 0,
            };
            has_primary |= server.units > 0 && !server.backup;
        }
        let idle = self.servers.iter_mut().filter(|s| has_primary && s.backup);
        idle.for_each(|server| server.units = 0);
    }

    /// Who is usable, and how much they have to do. Not anew for each request: it would be a pass over all.
    fn take_census(&mut self, now: Instant, share: &impl Fn(usize) -> f32) -> Census {
        // While it is backups that are used, a primary may be back at any time.
        let holds = |census: &&Census| now - census.at < CENSUS_HOLDS && !census.backup;
        if let Some(census) = self.census.as_ref().filter(holds) {
            return census.clone();
        }
        self.look(&[], share);
        let usable = || self.servers.iter().filter(|server| server.units > 0);
        let census = Census {
            at: now,
            backup: usable().any(|server| server.backup),
            units: usable().map(|server| u64::from(server.units)).sum(),
            in_flight: usable().map(|server| u64::from(server.in_flight)).sum(),
        };
        self.census = Some(census.clone());
        census
    }

    fn count(&mut self, ix: usize, counted: impl Fn(u32) -> u32) {
        let Some(server) = self.servers.get_mut(ix) else {
            return;
        };
        let (before, after) = (server.in_flight, counted(server.in_flight));
        server.in_flight = after;
        if let Some(census) = self.census.as_mut().filter(|_| server.units > 0) {
            census.in_flight = census.in_flight + u64::from(after) - u64::from(before);
        }
    }

    fn changed(&mut self) {
        self.stale = true;
        self.census = None;
    }

    fn fill_tables(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        for (table, backup) in self.tables.iter_mut().zip([false, true]) {
            let servers = self.servers.iter().enumerate();
            let claims = servers
                .filter(|(_, server)| !server.left && server.backup == backup)
                .map(|(ix, server)| maglev::Claim {
                    server: ix as u16,
                    id: server.id,
                    weight: server.weight,
                });
            maglev::fill(table, claims);
        }
    }
}

/// Weight times share. Who has a share at all has at least one unit.
fn units(weight: u32, share: f32) -> u32 {
    match share > 0.0 {
        true => ((weight as f32 * share.min(1.0) * PARTS) as u32).max(1),
        false => 0,
    }
}

/// Whether a server with this `share` is taken, by a number from 0 to 1 that was drawn.
fn is_in(share: f32, drawn: f32) -> bool {
    drawn < share
}
