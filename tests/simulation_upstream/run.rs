//! One seed: a proxy, its clients, its upstreams, and what must have been true when it is over.

use crate::client::{Client, Habits};
use crate::record::Record;
use crate::upstream::{Manner, Upstream as Peer};
use fastrand::Rng;
use loopwright::service::proxy::{Key, Proxy};
use loopwright::sim::{Faults, SimNet};
use loopwright::upstream::health::{Checks, Outliers};
use loopwright::upstream::sticky::Sticky;
use loopwright::{
    App, Balance, CircuitLimits, HealthSettings, Limits, PoolLimits, Retries, Server, Target,
    Timeouts, Upstream, UpstreamTimeouts,
};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

const MOST_TURNS: usize = 60_000;
const MOST_EMPTY_POLLS: usize = 1000;
/// One read, the largest head, what is kept for another try, and room for framing.
const GULP: usize = 128 * 1024 + 64 * 1024 + 64 * 1024 + 4096;

/// What has come of a run, or of many.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Run {
    /// Of all that was sent and taken, and when.
    trace: u64,
    pub(crate) answered: usize,
    pub(crate) cut: usize,
    pub(crate) refused: usize,
    pub(crate) tunnels: usize,
    pub(crate) retried: usize,
    pub(crate) reused: usize,
    turns: usize,
}

impl std::ops::AddAssign for Run {
    fn add_assign(&mut self, other: Run) {
        self.trace ^= other.trace;
        self.answered += other.answered;
        self.cut += other.cut;
        self.refused += other.refused;
        self.tunnels += other.tunnels;
        self.retried += other.retried;
        self.reused += other.reused;
        self.turns += other.turns;
    }
}

struct World {
    server: Server<(), SimNet>,
    clients: Vec<Client>,
    peers: Vec<Peer>,
    record: Record,
    rng: Rng,
    manner: Manner,
    site: Site,
    /// The server that is out of use, by its number.
    drained: Option<usize>,
    /// How often all of it is configured anew.
    reloads: u8,
    pool: PoolLimits,
    pending: usize,
    high_water: usize,
    /// Servers are looked after, on connections of their own.
    checks: bool,
    trace: DefaultHasher,
    turns: usize,
    wakes: BTreeSet<loopwright::Instant>,
    news: u64,
}

/// What the server is made of.
struct Site {
    upstream: Upstream,
    limits: Limits,
    timeouts: Timeouts,
    spool: usize,
    aborts_on_close: bool,
    names: Vec<String>,
    is_well: bool,
    /// To rerun what has failed, by hand.
    told: String,
}

impl Site {
    fn app(&self) -> App {
        let mut app = App::new();
        app.upstream("app", self.upstream.clone());
        Proxy::to("app")
            .key(Key::Path)
            .spool_request(self.spool)
            .abort_on_close(self.aborts_on_close)
            .on(&mut app, "/{*rest}");
        app
    }

    fn builder(&self) -> loopwright::Builder {
        Server::builder()
            .limits(self.limits.clone())
            .timeouts(self.timeouts.clone())
    }
}

pub(crate) fn run(seed: u64, tell: bool) -> Run {
    let mut world = World::new(seed, tell);
    let (mut spent, begun) = (0, world.server.net_mut().now());
    while !world.clients.iter().all(Client::is_done) {
        world.step(seed);
        spent += 1;
        if world.server.net_mut().is_quiet() {
            world.fail(seed, "nothing moves any more");
        }
        let took = world.server.net_mut().now() - begun;
        if spent > MOST_TURNS || took > Duration::from_secs(900) {
            world.fail(seed, &format!("it goes on and on: {spent} turns, {took:?}"));
        }
    }
    world.end(seed)
}

fn millis(rng: &mut Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.u64(from..=to))
}

impl World {
    fn new(seed: u64, tell: bool) -> World {
        let mut rng = Rng::with_seed(seed);
        // Some worlds are well: all must be answered then.
        let is_well = rng.u8(0..5) == 0;
        let faults = Faults {
            accept_errors: 0,
            send_buffer: *rng
                .choice(&[(20, 200), (100, 8192), (50_000, 80_000), (50_000, 200_000)])
                .expect("some"),
            segment: *rng.choice(&[30, 1000, 20_000, 100_000]).expect("some"),
        };
        // Small steps take long.
        let longest = match (faults.segment, faults.send_buffer.1) {
            (0..100, _) | (_, 0..1000) => 2000,
            (_, 0..10_000) | (0..10_000, _) => 20_000,
            _ => 200_000,
        };
        let high_water = *rng.choice(&[500, 4096, 65_536]).expect("some");
        let limits = Limits {
            high_water,
            commands_per_turn: *rng.choice(&[3, 50, 4096]).expect("some"),
            writes_per_turn: *rng.choice(&[1000, 256 * 1024]).expect("some"),
            reads_per_turn: *rng.choice(&[1, 4]).expect("some"),
            ..Limits::default()
        };
        let timeouts = Timeouts {
            write: Duration::from_secs(600),
            ..Timeouts::default()
        };
        let patience = millis(&mut rng, 500, 3000);
        let manner = Manner {
            bad: if is_well { 0 } else { rng.u32(5..60) },
            refused: if is_well { 0 } else { rng.u32(0..30) },
            longest,
            patience,
        };
        let pool = PoolLimits {
            most: if is_well { 3 } else { rng.usize(1..4) },
            idle: rng.usize(0..3),
            idle_for: millis(&mut rng, 100, 5000),
            lifetime: *rng
                .choice(&[Duration::from_millis(300), Duration::from_secs(3600)])
                .expect("some"),
            queue_wait: if is_well {
                Duration::from_secs(600)
            } else {
                millis(&mut rng, 100, 6000)
            },
            warm: if rng.u8(0..6) == 0 { 1 } else { 0 },
            ..PoolLimits::default()
        };
        let pending = if is_well { 1000 } else { rng.u32(0..6) };
        let warm = pool.warm.min(pool.idle);
        let pool = PoolLimits { warm, ..pool };
        let checks = !is_well && rng.u8(0..4) == 0;
        let health = HealthSettings {
            checks: checks.then(|| Checks {
                interval: millis(&mut rng, 500, 3000),
                timeout: Duration::from_millis(400),
                ..Checks::default()
            }),
            outliers: Outliers {
                failures: rng.u32(0..5),
                ejection: millis(&mut rng, 200, 3000),
                ..Outliers::default()
            },
            slow_start: *rng
                .choice(&[Duration::ZERO, Duration::from_secs(2)])
                .expect("some"),
            ..HealthSettings::default()
        };
        let retries = Retries {
            tries: rng.u32(1..4),
            statuses: if rng.bool() { vec![503] } else { Vec::new() },
            timeouts: rng.bool(),
            replay: *rng.choice(&[0, 1000, 65_536]).expect("some"),
            hedge: (rng.u8(0..4) == 0).then_some(0.5),
            ..Retries::default()
        };
        let balance = *rng
            .choice(&[
                Balance::RoundRobin,
                Balance::Random,
                Balance::LeastConnections,
                Balance::TwoChoices,
                Balance::Latency {
                    decay: Balance::DECAY,
                },
                Balance::First,
                Balance::Hash {
                    load: Balance::LOAD,
                },
            ])
            .expect("some");
        let many = rng.usize(1..4);
        let name = |n| match rng.u8(0..6) {
            0 => format!("unix:/run/{n}"),
            _ => format!("http://10.0.0.{n}:8080"),
        };
        let names: Vec<String> = (0..many).map(name).collect();
        let total = match !is_well && rng.u8(0..5) == 0 {
            true => millis(&mut rng, 500, 20_000),
            false => Duration::ZERO,
        };
        let mut upstream = Upstream::new(names.clone())
            .balance(balance)
            .pool(pool)
            .circuit(CircuitLimits {
                pending,
                ..CircuitLimits::default()
            })
            .health(health)
            .check("/check", loopwright::upstream::expect::Expect::default())
            .retries(retries)
            .timeouts(UpstreamTimeouts {
                connect: Duration::from_millis(800),
                first_byte: patience,
                read: patience,
                total,
                tunnel: Duration::from_secs(60),
                ..UpstreamTimeouts::default()
            });
        if rng.u8(0..3) == 0 {
            let sticky = Sticky::new("server", b"0123456789abcdef", Duration::from_secs(60));
            upstream = upstream.sticky(sticky.expect("a cookie"));
        }
        let spool = *rng.choice(&[0, 0, 1 << 20]).expect("some");
        let told = format!("{limits:?}\n{faults:?}\n{manner:?}\nspool {spool}\n{upstream:?}");
        if tell {
            println!("{told}");
        }
        let aborts_on_close = seed % 2 == 1;
        let site = Site {
            upstream,
            limits,
            timeouts,
            spool,
            aborts_on_close,
            names,
            is_well,
            told,
        };
        let net = SimNet::new(seed, faults);
        let server = site.builder().simulate(net, site.app(), ());
        let mut server = server.expect("a server");
        server.net_mut().let_clients_react();
        let habits = Habits {
            longest,
            bad: if is_well { 0 } else { rng.u32(0..60) },
            aborts_on_close,
        };
        let clients =
            (0..rng.usize(1..7)).map(|n| Client::connect(server.net_mut(), n, &habits, &mut rng));
        let clients = clients.collect();
        let reloads = if is_well { 0 } else { rng.u8(0..3) };
        World {
            server,
            clients,
            peers: Vec::new(),
            record: Record {
                may_be_full: !is_well,
                may_be_late: !total.is_zero(),
                ..Record::default()
            },
            rng,
            manner,
            site,
            drained: None,
            reloads,
            pool,
            pending: pending as usize,
            high_water,
            checks,
            trace: DefaultHasher::new(),
            turns: 0,
            wakes: BTreeSet::new(),
            news: 0,
        }
    }

    /// A server is taken out of use, or used again; or all is configured anew.
    fn configure(&mut self) {
        let names = &self.site.names;
        let (n, many) = (self.rng.usize(0..names.len()), names.len());
        match self.rng.u32(0..600) {
            // Where nothing else is wrong, there must be one that may be used.
            0..3 if many > 1 || !self.site.is_well => {
                let undrained = self.drained.replace(n).map(|n| names[n].clone());
                let name = names[n].clone();
                let posted = self.server.handle().post(move |cx| {
                    if let Some(name) = undrained {
                        assert!(cx.undrain_server("app", &name));
                    }
                    assert!(cx.drain_server("app", &name));
                });
                posted.expect("a loop that reads");
            }
            3..6 => {
                if let Some(n) = self.drained.take() {
                    let name = names[n].clone();
                    let posted = self.server.handle().post(move |cx| {
                        assert!(cx.undrain_server("app", &name));
                    });
                    posted.expect("a loop that reads");
                }
            }
            6..8 if self.reloads > 0 => {
                self.reloads -= 1;
                self.drained = None;
                let lifetime = self.pool.lifetime + Duration::from_millis(1);
                self.pool = PoolLimits {
                    lifetime,
                    ..self.pool
                };
                self.site.upstream = self.site.upstream.clone().pool(self.pool);
                let reloaded = self.server.reload(self.site.builder(), self.site.app());
                reloaded.expect("a site as before");
            }
            _ => {}
        }
    }

    /// One turn, and whoever is there does something.
    fn step(&mut self, seed: u64) {
        if !self.clients.iter().all(Client::is_done) {
            self.configure();
        }
        self.wait();
        self.turns += 1;
        if let Err(e) = self.server.turn() {
            self.fail(seed, &format!("{e}"));
        }
        self.look(seed);
        let World {
            server,
            clients,
            peers,
            record,
            rng,
            ..
        } = self;
        let net = server.net_mut();
        while let Some(wire) = net.dialled() {
            let number = match net.target(wire) {
                Some(Target::Inet(address)) => match address.ip() {
                    std::net::IpAddr::V4(ip) => usize::from(ip.octets()[3]),
                    ip => panic!("{ip}"),
                },
                Some(Target::Unix(path)) => {
                    let name = path.file_name().and_then(|name| name.to_str());
                    name.and_then(|name| name.parse().ok()).expect("a number")
                }
                None => panic!("no target"),
            };
            peers.push(Peer::accept(net, wire, number, self.manner, rng, record));
        }
        for peer in &mut *peers {
            peer.act(net, rng, record);
        }
        let mut wrong = None;
        for (n, client) in clients.iter_mut().enumerate() {
            if let Err(why) = client.act(net, rng, record) {
                wrong.get_or_insert(format!("client {n}: {why}"));
            }
        }
        let wrong = wrong.or(self.record.errors.first().cloned());
        if let Some(why) = wrong {
            self.fail(seed, &why);
        }
    }

    /// The loop may sleep, but not past what somebody means to do.
    fn wait(&mut self) {
        let net = self.server.net_mut();
        let now = net.now();
        let is_busy =
            self.clients.iter().any(Client::is_busy) || self.peers.iter().any(Peer::is_busy);
        let wakes = self.clients.iter().filter_map(Client::wakes);
        let wakes = wakes.chain(self.peers.iter().filter_map(Peer::wakes)).min();
        // Who has news may have something to do with it.
        let mut news = DefaultHasher::new();
        let wires = self.clients.iter().map(|client| client.wire);
        for wire in wires.chain(self.peers.iter().map(|peer| peer.wire)) {
            (
                net.received(wire).len(),
                net.is_finished(wire),
                net.is_released(wire),
            )
                .hash(&mut news);
        }
        let has_news = std::mem::replace(&mut self.news, news.finish()) != self.news;
        let soon = is_busy || has_news || wakes.is_some_and(|at| at <= now);
        let at = if soon {
            Some(now + Duration::from_millis(1))
        } else {
            wakes
        };
        self.wakes = self.wakes.split_off(&now);
        if let Some(at) = at
            && self.wakes.insert(at)
        {
            net.wake_at(at);
        }
    }

    /// What must be true after each turn.
    fn look(&mut self, seed: u64) {
        let mut wrong = self.server.forgotten().next().map(str::to_string);
        let most = 2 * self.high_water + GULP;
        for held in self.server.held() {
            if held.output > most || held.input > GULP || held.input_memory > 4 * GULP {
                wrong.get_or_insert(format!("a connection keeps {held:?}"));
            }
        }
        let under_way = self.server.under_way();
        let groups = under_way.pools.len();
        for (queue, servers) in &under_way.pools {
            if queue.waiting > self.pending {
                wrong.get_or_insert(format!("{} wait", queue.waiting));
            }
            for (server, counters) in servers.iter().enumerate() {
                if counters.open + counters.making > self.pool.most {
                    wrong.get_or_insert(format!("server {server}: {counters:?}"));
                }
            }
            let net = self.server.net_mut();
            for server in 0..servers.len() {
                let open = self
                    .peers
                    .iter()
                    .filter(|peer| peer.server == server && !peer.is_apart);
                let open = open.filter(|peer| peer.is_open(net)).count();
                // A check is one whose request has not come yet.
                if open > groups * (self.pool.most + usize::from(self.checks)) {
                    wrong.get_or_insert(format!("server {server} has {open} connections"));
                }
            }
        }
        let net = self.server.net_mut();
        if net.empty_polls() > MOST_EMPTY_POLLS {
            wrong.get_or_insert("the loop spins".to_string());
        }
        net.now().hash(&mut self.trace);
        for client in &self.clients {
            net.received(client.wire).len().hash(&mut self.trace);
        }
        for peer in &self.peers {
            net.received(peer.wire).len().hash(&mut self.trace);
        }
        if let Some(why) = wrong {
            self.fail(seed, &why);
        }
    }

    /// All clients are gone: nothing may be left when the last wait is over.
    fn end(mut self, seed: u64) -> Run {
        let until = self.server.net_mut().now() + Duration::from_secs(200);
        let mut left = self.left();
        let mut turns = 0;
        while left.is_some() {
            let now = self.server.net_mut().now();
            if now > until || turns > MOST_TURNS {
                self.fail(
                    seed,
                    &format!("left at the end: {}", left.unwrap_or_default()),
                );
            }
            turns += 1;
            self.step(seed);
            left = self.left();
        }
        for client in &self.clients {
            self.server
                .net_mut()
                .received(client.wire)
                .hash(&mut self.trace);
        }
        for peer in &self.peers {
            self.server
                .net_mut()
                .received(peer.wire)
                .hash(&mut self.trace);
        }
        let sum = |n: usize| self.clients.iter().map(|client| client.stats[n]).sum();
        Run {
            trace: self.trace.finish(),
            answered: sum(0),
            cut: sum(1),
            refused: sum(2),
            tunnels: self.record.tunnels,
            retried: self.record.retried,
            reused: self.record.reused,
            turns: self.turns,
        }
    }

    fn left(&mut self) -> Option<String> {
        let (connections, exchanges, timers) = (
            self.server.connections(),
            self.server.open_exchanges(),
            self.server.timers(),
        );
        let under_way = self.server.under_way();
        // The upstream's own, and the end of a check.
        let own = (1 + if self.checks { 3 } else { 0 }) * under_way.pools.len();
        let warm = self.pool.warm.min(self.pool.idle) * self.site.names.len();
        let is_over = connections <= warm
            && exchanges == 0
            && timers <= own + warm
            && (under_way.fetches, under_way.dials, under_way.tunnels) == (0, 0, 0)
            && under_way.dialled <= warm
            && under_way.pools.iter().all(|(queue, _)| queue.waiting == 0);
        (!is_over).then(|| {
            format!(
                "{connections} connections, {exchanges} exchanges, {timers} timers, {under_way:?}"
            )
        })
    }

    fn fail(&mut self, seed: u64, why: &str) -> ! {
        let mut told = String::new();
        for (n, client) in self.clients.iter().enumerate() {
            told.push_str(&format!("client {n}: {}\n", client.describe()));
        }
        for peer in &self.peers {
            if let Some(said) = peer.describe(self.server.net_mut()) {
                told.push_str(&format!("{said}\n"));
            }
        }
        told.push_str(&format!("{}\n", self.site.told));
        told.push_str(&format!(
            "faults: {:?}\n{:?}",
            self.record.faults,
            self.server.under_way()
        ));
        let (runnable, timers) = (self.server.is_runnable(), self.server.timers());
        let net = self.server.net_mut();
        told.push_str(&format!(
            "\nrunnable {runnable}, {timers} timers, still {}, {} empty polls",
            net.is_still(),
            net.empty_polls()
        ));
        panic!(
            "seed {seed}, turn {}, {:?}: {why}\n{told}",
            self.turns,
            self.server.net_mut().now()
        );
    }
}
