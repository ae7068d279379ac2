//! Floor 2. An upstream at work: its servers, their connections, who may be used, what was spent.
//!
//! Puts together what `crate::upstream` decides by; the loop asks it, and does what it says.
//! Servers that names stand for come and go: `named.rs`.
//! Invariants: a server has the same number in `servers`, pool, balance and health, from when it joins until it
//! leaves, and long enough after that; every request that was `started` is `ended` once, every one that has `entered`
//! is `over` once.

use super::fetch::FetchError;
use super::lookups::{Due, Lookups, Turns};
use super::named::Source;
use super::status::{ServerStatus, UpstreamStatus};
use super::upstream::{
    Backend, Introduction, Origin, Retries, Settings, Upstream, UpstreamTimeouts,
};
use crate::base::clock::Instant;
use crate::base::id::{ConnId, FetchId};
use crate::base::lookup::Address;
use crate::base::wheel::TimerId;
use crate::net::{Peer, Target};
use crate::proto::h1::client::ClientBounds;
use crate::proto::h1::head::HeadLimits;
use crate::proto::proxy_protocol::{Endpoints, write_v1, write_v2};
use crate::upstream::balance::{self, Balance, Pick};
use crate::upstream::circuit::{Counts, Kind};
use crate::upstream::health::{Change, Health, State};
use crate::upstream::names::Names;
use crate::upstream::pool::{Action, Pool, QueueFull, Ticket};
use crate::upstream::retry::{Attempt, Budget, Quantile, Rules, Verdict, may_retry};
use http::StatusCode;
use smallvec::SmallVec;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

/// Every upstream of a server, by number; a number is never given anew. One that a configuration has not any more goes
/// at the next configuration that finds it without anything under way.
pub(crate) struct Upstreams {
    groups: Vec<Option<Box<Group>>>,
    pub(crate) rng: fastrand::Rng,
    lookups: Lookups,
    turns: Turns,
}

impl Upstreams {
    pub(crate) fn new(seed: u64) -> Upstreams {
        Upstreams {
            groups: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
            lookups: Lookups::default(),
            turns: Turns::default(),
        }
    }

    /// How names are looked up.
    pub(crate) fn lookups(&self) -> &Lookups {
        &self.lookups
    }

    /// Other settings from now on.
    pub(crate) fn set_lookups(&mut self, lookups: Lookups) {
        for group in self.groups.iter_mut().flatten() {
            group.names.set(lookups.names());
        }
        self.lookups = lookups;
    }

    /// Lines up what is to be looked up for a group.
    pub(crate) fn queue_lookups(&mut self, group: usize, now: Instant) {
        if let Some(Some(found)) = self.groups.get_mut(group) {
            for (name, question) in found.names.due(now) {
                self.turns.add(Due {
                    group,
                    name,
                    question,
                });
            }
        }
    }

    /// The next name whose turn it is. What comes of it is to be told to its group, and [`Upstreams::end_lookup`].
    pub(crate) fn begin_lookup(&mut self) -> Option<Due> {
        self.turns.begin(self.lookups.at_once)
    }

    pub(crate) fn end_lookup(&mut self) {
        self.turns.end();
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        let is_it = |group: &Option<Box<Group>>| {
            group
                .as_ref()
                .is_some_and(|group| !group.retired && &*group.name == name)
        };
        self.groups.iter().position(is_it)
    }

    pub(crate) fn get(&self, group: usize) -> Option<&Group> {
        self.groups.get(group)?.as_deref()
    }

    pub(crate) fn get_mut(&mut self, group: usize) -> Option<&mut Group> {
        self.groups.get_mut(group)?.as_deref_mut()
    }

    /// With the source of chance, which is another field.
    pub(crate) fn with<R>(
        &mut self,
        group: usize,
        f: impl FnOnce(&mut Group, &mut fastrand::Rng) -> R,
    ) -> Option<R> {
        let found = self.groups.get_mut(group)?.as_mut()?;
        Some(f(found, &mut self.rng))
    }

    /// What is configured from now on. An upstream that has not changed goes on as it is; one that has gone
    /// ends with its last fetch.
    /// Connections that nobody will use any more come back. `in_use`: groups that fetches name.
    pub(crate) fn replace(
        &mut self,
        upstreams: &[(String, Upstream)],
        in_use: &HashSet<usize>,
        now: Instant,
    ) -> Vec<ConnId> {
        for (number, group) in self.groups.iter_mut().enumerate() {
            group.take_if(|group| group.is_over() && !in_use.contains(&number));
        }
        let mut idle = Vec::new();
        for group in self.groups.iter_mut().flatten() {
            let same = upstreams
                .iter()
                .any(|(name, upstream)| **name == *group.name && group.is(upstream));
            if !same && !std::mem::replace(&mut group.retired, true) {
                for server in 0..group.servers.len() {
                    idle.extend(group.pool.retire_server(server));
                    group.health.leave(server);
                }
            }
        }
        for (name, upstream) in upstreams {
            if self.find(name).is_none() {
                let known: Vec<&Names> = self.groups.iter().flatten().map(|it| &it.names).collect();
                let names = Names::new(self.lookups.names());
                let group = Group::new(name, upstream, names, &known, now, &mut self.rng);
                self.groups.push(Some(Box::new(group)));
            }
        }
        // Nobody asks for them any more; until here, others could begin with what was known.
        let retired = self
            .groups
            .iter_mut()
            .flatten()
            .filter(|group| group.retired);
        for group in retired {
            group.names = Names::new(self.lookups.names());
            group.sources.clear();
        }
        idle
    }

    /// How those stand that may be asked.
    pub(crate) fn status(&self, now: Instant) -> Vec<UpstreamStatus> {
        let groups = self.groups.iter().flatten();
        groups.filter_map(|group| group.status(now)).collect()
    }

    pub(crate) fn numbers(&self) -> Vec<usize> {
        let there = self.groups.iter().enumerate();
        there
            .filter_map(|(n, group)| group.is_some().then_some(n))
            .collect()
    }
}

/// One server of a group.
pub(crate) struct Server {
    pub(crate) name: Rc<str>,
    /// What `host` says, where nobody says otherwise.
    host: Box<[u8]>,
    /// Where it is: a name has many addresses, or none yet.
    pub(super) targets: Vec<Target>,
    /// Which choice it is: 0 is the first.
    pub(super) tier: u16,
    /// The one it is of many that a name stands for: name, host, address.
    pub(super) address: Option<(usize, String, SocketAddr)>,
    /// Since when it is none of the group any more.
    pub(super) left: Option<Instant>,
    /// Where the last connection was made to.
    last_good: Option<SocketAddr>,
    /// What the sticky cookie calls it.
    pub(super) tag: Option<[u8; 8]>,
}

/// A server that joins.
pub(super) struct Newcomer<'a> {
    pub(super) name: &'a str,
    pub(super) host: String,
    pub(super) weight: u32,
    pub(super) tier: u16,
    pub(super) targets: Vec<Target>,
    pub(super) address: Option<(usize, &'a Address)>,
}

/// One upstream.
pub(crate) struct Group {
    name: Rc<str>,
    pub(crate) settings: Settings,
    bounds: ClientBounds,
    /// As they were written.
    backends: Vec<Backend>,
    pub(crate) servers: Vec<Server>,
    pub(super) names: Names,
    pub(super) sources: Vec<Source>,
    /// Who has come before anything was heard of its names.
    pub(super) awaiting: Vec<FetchId>,
    pub(crate) pool: Pool<ConnId, FetchId>,
    pub(crate) balance: Balance,
    pub(crate) health: Health,
    rules: Rules,
    budget: Budget,
    /// How long answers take, where requests are hedged.
    latencies: Option<Quantile>,
    /// The timer that fires for it, and when.
    pub(crate) timer: Option<(TimerId, Instant)>,
    /// A new configuration has it not: it ends with its last fetch.
    retired: bool,
    /// Somebody has said that something may be due in it.
    pub(crate) is_due: bool,
    /// Fetches under way, looks at its servers' health aside.
    requests: u32,
    /// Those of them that were sent more than once.
    again: u32,
    /// How often one was, ever.
    retried: u64,
}

impl Group {
    pub(crate) fn new(
        name: &str,
        upstream: &Upstream,
        names: Names,
        known: &[&Names],
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Group {
        let settings = upstream.settings.clone();
        let mut group = Group {
            name: name.into(),
            bounds: bounds(&settings),
            backends: upstream.servers.clone(),
            servers: Vec::new(),
            names,
            sources: Vec::new(),
            awaiting: Vec::new(),
            pool: Pool::new(settings.pool).of_at_most(
                settings.circuit.connections as usize,
                settings.circuit.pending as usize,
            ),
            balance: Balance::new(settings.balance),
            health: Health::new(settings.health.clone()),
            rules: settings.retries.rules(),
            budget: Budget::new(settings.retries.budget, settings.retries.floor),
            latencies: settings.retries.hedge.map(Quantile::new),
            timer: None,
            retired: false,
            is_due: false,
            requests: 0,
            again: 0,
            retried: 0,
            settings,
        };
        for backend in &upstream.servers {
            group.add(backend, known, now, rng);
        }
        group.balance.stagger(rng);
        group
    }

    /// A server as it was written, or a name that stands for some.
    fn add(&mut self, backend: &Backend, known: &[&Names], now: Instant, rng: &mut fastrand::Rng) {
        // It was read before.
        let Ok(origin) = backend.to.parse::<Origin>() else {
            return;
        };
        if let Some(question) = origin.question() {
            return self.add_name(backend, origin, question, known, now, rng);
        }
        let host = origin.host();
        let newcomer = Newcomer {
            name: &backend.to,
            host,
            weight: backend.weight,
            tier: u16::from(backend.backup),
            targets: match origin {
                Origin::Known(target) => vec![target],
                _ => Vec::new(),
            },
            address: None,
        };
        self.join(newcomer, false, now, rng);
    }

    /// A server comes; one that comes late may be given its part slowly. None: there are too many.
    pub(super) fn join(
        &mut self,
        new: Newcomer<'_>,
        slowly: bool,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        let in_balance = balance::Server::new(new.name, new.weight);
        let in_balance = match new.tier {
            0 => in_balance,
            _ => in_balance.backup(),
        };
        let number = match self.free_number(now) {
            Some(number) => self.balance.replace(number, in_balance).then_some(number),
            None => self.balance.add(in_balance).inspect(|_| {
                self.pool.add_server();
            }),
        }?;
        if !new.targets.is_empty() {
            let changes = self.health.join(number, new.tier, slowly, now, rng);
            self.tell(&changes);
        }
        let server = Server {
            name: new.name.into(),
            host: new.host.into_bytes().into(),
            targets: new.targets,
            tier: new.tier,
            address: new
                .address
                .map(|(name, it)| (name, it.host.clone(), it.addr)),
            left: None,
            last_good: None,
            tag: self.tag(new.name),
        };
        match self.servers.get_mut(number) {
            Some(place) => *place = server,
            None => self.servers.push(server),
        }
        Some(number)
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired
    }

    /// Retired, with nothing left: no connection, nobody who waits.
    fn is_over(&self) -> bool {
        let nobody = self.awaiting.is_empty() && self.pool.queue().waiting == 0;
        self.retired && self.requests == 0 && self.pool.taken() == 0 && nobody
    }

    fn is(&self, upstream: &Upstream) -> bool {
        self.settings == upstream.settings && self.backends == upstream.servers
    }

    /// Each change of a server's state is logged once.
    pub(crate) fn tell(&self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::State { server, .. } => {
                    log::warn!("upstream {}: {} {change}", self.name, self.name_of(*server));
                }
                Change::Panic { .. } => log::warn!("upstream {}: {change}", self.name),
            }
        }
    }

    pub(crate) fn check_timeout(&self) -> Duration {
        let checks = &self.settings.health.checks;
        checks
            .as_ref()
            .map_or(Duration::ZERO, |checks| checks.timeout)
    }

    pub(crate) fn name(&self) -> Rc<str> {
        self.name.clone()
    }

    pub(crate) fn name_of(&self, server: usize) -> Rc<str> {
        self.servers
            .get(server)
            .map_or_else(|| "".into(), |server| server.name.clone())
    }

    pub(crate) fn host(&self, server: usize) -> &[u8] {
        self.servers.get(server).map_or(b"", |server| &server.host)
    }

    pub(crate) fn targets(&self, server: usize) -> &[Target] {
        self.servers
            .get(server)
            .map_or(&[], |server| &server.targets)
    }

    pub(crate) fn last_good(&self, server: usize) -> Option<SocketAddr> {
        self.servers.get(server)?.last_good
    }

    pub(crate) fn timeouts(&self) -> UpstreamTimeouts {
        self.settings.timeouts
    }

    pub(crate) fn bounds(&self) -> &ClientBounds {
        &self.bounds
    }

    pub(crate) fn collect_limit(&self) -> usize {
        self.settings.limits.collect
    }

    pub(crate) fn retries(&self) -> &Retries {
        &self.settings.retries
    }

    pub(crate) fn queue_wait(&self) -> Duration {
        self.settings.pool.queue_wait
    }

    /// Whether a connection may serve one client after the other.
    pub(crate) fn shares_connections(&self) -> bool {
        self.settings.introduction == Introduction::None
    }

    /// What a server is told first on a new connection: whose it is, and where to that client had connected, if
    /// that is known. Without a client it is our own.
    pub(crate) fn introduce(
        &self,
        client: Option<Peer>,
        local: Option<SocketAddr>,
        out: &mut Vec<u8>,
    ) {
        let endpoints = match client {
            None => Endpoints::Local,
            Some(Peer::Unix) => Endpoints::Unknown,
            Some(Peer::Inet(source)) => {
                let nowhere: IpAddr = match source.is_ipv4() {
                    true => Ipv4Addr::UNSPECIFIED.into(),
                    false => Ipv6Addr::UNSPECIFIED.into(),
                };
                Endpoints::Inet {
                    source,
                    destination: local.unwrap_or(SocketAddr::new(nowhere, 0)),
                }
            }
        };
        match self.settings.introduction {
            Introduction::None => {}
            Introduction::V1 => write_v1(out, endpoints),
            Introduction::V2 => write_v2(out, endpoints),
        }
    }

    /// A server for a request, leaving out those in `passed`.
    pub(crate) fn choose(
        &mut self,
        key: Option<u64>,
        sticky: Option<usize>,
        passed: &[usize],
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        let pick = Pick {
            key,
            sticky,
            tried: passed,
            now,
        };
        let Group {
            balance, health, ..
        } = self;
        balance.choose(&pick, |server| health.share(server, now), rng)
    }

    /// A server that is ejected, for a request that all others have failed.
    pub(crate) fn choose_ejected(
        &mut self,
        key: Option<u64>,
        passed: &[usize],
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        let pick = Pick {
            key,
            sticky: None,
            tried: passed,
            now,
        };
        let Group {
            balance, health, ..
        } = self;
        let share = |server| f32::from(matches!(health.state(server), Some(State::Ejected(_))));
        balance.choose(&pick, share, rng)
    }

    /// The number of the server of this name, for a cookie that says it.
    pub(crate) fn numbered(&self, tag: [u8; 8]) -> Option<usize> {
        self.servers
            .iter()
            .position(|server| server.tag == Some(tag))
    }

    fn tag(&self, name: &str) -> Option<[u8; 8]> {
        #[cfg(feature = "sticky")]
        return Some(self.settings.sticky.as_ref()?.name(name).0);
        #[cfg(not(feature = "sticky"))]
        return Some([0; 8]).filter(|_| name.is_empty());
    }

    /// A place in the queue.
    pub(crate) fn wait(
        &mut self,
        fetch: FetchId,
        only: Option<usize>,
        now: Instant,
    ) -> Result<Ticket, FetchError> {
        let limit = self.settings.circuit.pending as usize;
        let full = |_: QueueFull| FetchError::Full {
            setting: Kind::Pending.setting(),
            limit,
        };
        self.pool.wait(fetch, only, now).map_err(full)
    }

    pub(crate) fn connected(
        &mut self,
        server: usize,
        conn: ConnId,
        peer: Peer,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) {
        if let (Peer::Inet(address), Some(server)) = (peer, self.servers.get_mut(server)) {
            server.last_good = Some(address);
        }
        self.pool.connected(server, conn, now, rng);
    }

    /// A request goes to this server.
    pub(crate) fn started(&mut self, server: usize) {
        self.balance.started(server);
    }

    /// It is over; how long its answer took to come, if it came.
    pub(crate) fn ended(&mut self, server: usize, latency: Option<Duration>, now: Instant) {
        self.balance.ended(server, latency, now);
    }

    /// What was seen of a server: 502, 503 and 504 say that it, too, has failed.
    pub(crate) fn answered(
        &mut self,
        server: usize,
        status: StatusCode,
        latency: Duration,
        now: Instant,
    ) -> Vec<Change> {
        if let Some(latencies) = &mut self.latencies {
            latencies.record(latency);
        }
        let is_good = !matches!(status.as_u16(), 502..=504);
        self.health.on_result(server, is_good, now)
    }

    /// Whether it may be tried again; `again` as for [`Group::may_spend`].
    pub(crate) fn verdict(&mut self, attempt: &Attempt, again: &mut bool, now: Instant) -> Verdict {
        match may_retry(attempt, &self.rules, now) {
            Verdict::Retry => match self.may_spend(again, now) {
                Ok(()) => Verdict::Retry,
                Err(why) => Verdict::No(why),
            },
            Verdict::Free => {
                self.retried += 1;
                Verdict::Free
            }
            verdict => verdict,
        }
    }

    /// How long to wait for an answer before another server is asked, too.
    pub(crate) fn hedge_after(&self) -> Option<Duration> {
        self.latencies.as_ref()?.get()
    }

    /// Whether there is something left for another try. `again` says that the request counts as one that was sent more
    /// than once, and is set if it does from here on.
    pub(crate) fn may_spend(&mut self, again: &mut bool, now: Instant) -> Result<(), &'static str> {
        if !*again && self.room_for(Kind::Retries).is_err() {
            return Err("limits.retries is reached");
        }
        if !self.budget.withdraw(now) {
            return Err("the retry budget is spent");
        }
        self.retried += 1;
        self.again += u32::from(!std::mem::replace(again, true));
        Ok(())
    }

    /// One request more, until it is [`Group::over`].
    pub(crate) fn enter(&mut self) -> Result<(), FetchError> {
        self.room_for(Kind::Requests)?;
        self.requests += 1;
        Ok(())
    }

    /// A request that has entered is over; whether it was sent `again`.
    pub(crate) fn over(&mut self, again: bool) {
        debug_assert!(self.requests > 0, "who leaves has entered");
        self.requests = self.requests.saturating_sub(1);
        self.again = self.again.saturating_sub(u32::from(again));
    }

    pub(super) fn room_for(&self, kind: Kind) -> Result<(), FetchError> {
        let limit = self.settings.circuit.of(kind);
        match self.used(kind) < limit {
            true => Ok(()),
            false => Err(FetchError::Full {
                setting: kind.setting(),
                limit: limit as usize,
            }),
        }
    }

    fn used(&self, kind: Kind) -> u32 {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        match kind {
            Kind::Connections => count(self.pool.taken()),
            Kind::Pending => count(self.pool.queue().waiting + self.awaiting.len()),
            Kind::Requests => self.requests,
            Kind::Retries => self.again,
        }
    }

    /// A new request, of which a share may be tried again.
    pub(crate) fn deposit(&mut self, now: Instant) {
        self.budget.deposit(now);
    }

    pub(crate) fn poll_pool(&mut self, now: Instant) -> Option<Action<ConnId, FetchId>> {
        let health = &self.health;
        self.pool
            .poll(now, |server| health.share(server, now) > 0.0)
    }

    /// No requests go to the servers of this name any more, or again. `false`: there is none.
    pub(crate) fn set_drained(&mut self, name: &str, drained: bool, now: Instant) -> bool {
        let mut found = false;
        for server in 0..self.servers.len() {
            if *self.servers[server].name != *name || self.health.state(server).is_none() {
                continue;
            }
            found = true;
            let changes = match drained {
                true => {
                    self.pool.drain_idle(server);
                    self.health.drain(server, now)
                }
                false => self.health.undrain(server, now),
            };
            self.tell(&changes);
        }
        found
    }

    /// Whether its connections are closed when they are given back.
    pub(crate) fn is_drained(&self, server: usize) -> bool {
        self.health.state(server) == Some(State::Draining)
    }

    /// How it stands; `None` if it is there for its last fetches only.
    pub(crate) fn status(&self, now: Instant) -> Option<UpstreamStatus> {
        if self.retired {
            return None;
        }
        let server = |(number, server): (usize, &Server)| {
            Some(ServerStatus {
                name: (*server.name).into(),
                state: self.health.state(number)?,
                why: self.health.reason(number).into(),
                share: self.health.share(number, now),
                in_flight: self.balance.server(number)?.in_flight(),
                connections: self.pool.counters(number),
                latency: self.balance.latency(number, now),
                weight: self.balance.server(number)?.weight(),
                backup: server.tier > 0,
            })
        };
        let servers = self.servers.iter().enumerate();
        Some(UpstreamStatus {
            name: (*self.name).into(),
            servers: servers.filter_map(server).collect(),
            queue: self.pool.queue(),
            used: Counts {
                connections: self.used(Kind::Connections),
                pending: self.used(Kind::Pending),
                requests: self.used(Kind::Requests),
                retries: self.used(Kind::Retries),
            },
            limits: self.settings.circuit,
            retries: self.retried,
            retries_left: self.budget.clone().left(now) as u32,
            panicking: self.health.is_panicking(),
        })
    }

    /// When something is due.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let (health, names) = (self.health.next_deadline(), self.names.next_deadline());
        let pool = self.pool.next_deadline();
        [pool, health, names].into_iter().flatten().min()
    }
}

fn bounds(settings: &Settings) -> ClientBounds {
    ClientBounds {
        head: HeadLimits {
            head: settings.limits.head,
            target: settings.limits.head,
            fields: settings.limits.fields,
        },
        body: match settings.limits.body {
            0 => u64::MAX,
            most => most,
        },
    }
}

/// Servers that a fetch does not go to (again).
pub(crate) type Tried = SmallVec<[usize; 4]>;
