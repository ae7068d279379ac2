//! Ten servers in virtual time, each with four threads and a queue; server 0 may be in trouble. Requests come as
//! a Poisson process, as many as keep ten healthy servers busy for three quarters of the time.

use loopwright::Instant;
use loopwright::upstream::balance::{Balance, Pick, Policy, Server, key};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

const SERVERS: usize = 10;
const THREADS: usize = 4;
const LOAD: f64 = 0.75;
/// Seconds, as all times here.
const SERVICE: f64 = 0.01;
const LENGTH: f64 = 300.0;
/// Nobody waits longer for a server to begin, or to be done.
const TIMEOUT: f64 = 5.0;
/// Trouble that comes and goes begins so often.
const EVERY: f64 = 10.0;
const CLIENTS: usize = 10_000;
/// So many failures in a row, and a worker sends nothing for so long.
const FAILURES: u32 = 5;
const EJECTED: f64 = 4.0;

pub(crate) struct Day {
    pub(crate) name: &'static str,
    pub(crate) trouble: Trouble,
    pub(crate) heavy_tailed: bool,
    pub(crate) ejection: bool,
}

impl Day {
    pub(crate) const fn new(name: &'static str) -> Day {
        Day {
            name,
            trouble: Trouble::None,
            heavy_tailed: false,
            ejection: false,
        }
    }
}

/// What is wrong with server 0.
#[derive(PartialEq)]
pub(crate) enum Trouble {
    None,
    /// Whatever it does takes five times as long.
    Slow,
    /// It stands still for a second of each ten.
    Pauses,
    /// It answers with an error after a millisecond, five seconds of each ten.
    Refuses,
}

pub(crate) struct Results {
    /// In seconds, sorted; of all requests that were not refused.
    latencies: Vec<f64>,
    /// The part of all requests that the busiest server got.
    pub(crate) busiest: f64,
    /// The part of requests that went where their client's last one had gone.
    pub(crate) returned: f64,
    /// The part of requests that were refused or given up.
    pub(crate) errors: f64,
}

impl Results {
    pub(crate) fn latency(&self, part: f64) -> Duration {
        let at = (self.latencies.len() as f64 * part) as usize;
        Duration::from_secs_f64(self.latencies[at])
    }
}

/// What a worker knows.
struct Worker {
    balance: Balance,
    failures: [u32; SERVERS],
    ejected_until: [f64; SERVERS],
}

/// A request that is under way.
#[derive(PartialEq)]
struct Ending {
    at: f64,
    worker: usize,
    server: usize,
    /// None: it fails.
    latency: Option<f64>,
}

pub(crate) fn simulate(day: &Day, policy: Policy, workers: usize, seed: u64) -> Results {
    // What comes is the same for every policy.
    let (mut world, mut chance) = (
        fastrand::Rng::with_seed(seed),
        fastrand::Rng::with_seed(seed),
    );
    let mut workers: Vec<Worker> = (0..workers)
        .map(|_| Worker::new(policy, &mut chance))
        .collect();
    // When each thread will be free.
    let mut threads = [[0.0f64; THREADS]; SERVERS];
    let mut endings = BinaryHeap::new();
    let (mut latencies, mut counts, mut errors) = (Vec::new(), [0u32; SERVERS], 0);
    let (mut last, mut returned) = (vec![SERVERS; CLIENTS], 0);

    let rate = LOAD * (SERVERS * THREADS) as f64 / SERVICE;
    let mut now = 0.0;
    while now < LENGTH {
        now += exponential(&mut world) / rate;
        let service = day.service(&mut world);
        let (worker, client) = (world.usize(..workers.len()), client(&mut world));
        while endings
            .peek()
            .is_some_and(|Reverse(e): &Reverse<Ending>| e.at <= now)
        {
            if let Some(Reverse(ending)) = endings.pop() {
                workers[ending.worker].ended(&ending, day.ejection);
            }
        }

        let server = workers[worker].choose(client, now, &mut chance);
        counts[server] += 1;
        let before = std::mem::replace(&mut last[client], server);
        returned += u32::from(before == server);
        let ending = |at, latency| Ending {
            at,
            worker,
            server,
            latency,
        };
        let is_odd = server == 0;
        if is_odd && day.trouble == Trouble::Refuses && now % EVERY < 5.0 {
            errors += 1;
            endings.push(Reverse(ending(now + 0.001, None)));
            continue;
        }
        let first = (0..THREADS).min_by(|a, b| threads[server][*a].total_cmp(&threads[server][*b]));
        let thread = &mut threads[server][first.unwrap_or(0)];
        let begin = thread.max(now);
        let mut end = begin
            + service
                * if is_odd && day.trouble == Trouble::Slow {
                    5.0
                } else {
                    1.0
                };
        if is_odd && day.trouble == Trouble::Pauses {
            end = with_pauses(begin, service);
        }
        // Whom nobody waits for any more when a thread is free is not served.
        if begin < now + TIMEOUT {
            *thread = end;
        }
        let took = (end - now).min(TIMEOUT);
        errors += u32::from(took == TIMEOUT);
        latencies.push(took);
        let learned = (took < TIMEOUT).then_some(took);
        endings.push(Reverse(ending(now + took, learned)));
    }

    let all = f64::from(counts.iter().sum::<u32>());
    latencies.sort_by(f64::total_cmp);
    Results {
        latencies,
        busiest: f64::from(counts.into_iter().max().unwrap_or(0)) / all,
        returned: f64::from(returned) / all,
        errors: f64::from(errors) / all,
    }
}

impl Day {
    /// How long a thread will work for a request: ten milliseconds in the mean.
    fn service(&self, rng: &mut fastrand::Rng) -> f64 {
        match self.heavy_tailed {
            false => SERVICE * exponential(rng),
            // Pareto, α = 1.5: one in a thousand takes more than a third of a second. At most two seconds.
            true => (SERVICE / 3.0 * (1.0 - rng.f64()).powf(-1.0 / 1.5)).min(2.0),
        }
    }
}

impl Worker {
    fn new(policy: Policy, rng: &mut fastrand::Rng) -> Worker {
        let mut balance = Balance::new(policy);
        for server in 0..SERVERS {
            balance.add(Server::new(&format!("10.0.0.{server}:80"), 1));
        }
        balance.stagger(rng);
        Worker {
            balance,
            failures: [0; SERVERS],
            ejected_until: [0.0; SERVERS],
        }
    }

    fn choose(&mut self, client: usize, now: f64, rng: &mut fastrand::Rng) -> usize {
        let pick = Pick {
            key: Some(key(&client.to_le_bytes())),
            now: instant(now),
            ..Pick::default()
        };
        let share = |server: usize| {
            if self.ejected_until[server] > now {
                0.0
            } else {
                1.0
            }
        };
        let chosen = self.balance.choose(&pick, share, rng);
        // If all are ejected, none is.
        let server = chosen
            .or_else(|| self.balance.choose(&pick, |_| 1.0, rng))
            .unwrap_or(0);
        self.balance.started(server);
        server
    }

    fn ended(&mut self, ending: &Ending, ejection: bool) {
        let latency = ending.latency.map(Duration::from_secs_f64);
        self.balance
            .ended(ending.server, latency, instant(ending.at));
        let failures = &mut self.failures[ending.server];
        *failures = if latency.is_some() { 0 } else { *failures + 1 };
        if ejection && *failures >= FAILURES {
            self.ejected_until[ending.server] = ending.at + EJECTED;
        }
    }
}

/// When work that begins now is done, if the server stands still for the first second of every ten.
fn with_pauses(mut begin: f64, work: f64) -> f64 {
    if begin % EVERY < 1.0 {
        begin += 1.0 - begin % EVERY;
    }
    let until_next = EVERY - begin % EVERY;
    begin + work + if work > until_next { 1.0 } else { 0.0 }
}

fn instant(seconds: f64) -> Instant {
    Instant::from_micros((seconds * 1e6) as u64)
}

/// With a mean of 1.
fn exponential(rng: &mut fastrand::Rng) -> f64 {
    -(1.0 - rng.f64()).ln()
}

/// Some clients ask often: the one of rank r as often as 1/r (Zipf).
fn client(rng: &mut fastrand::Rng) -> usize {
    (CLIENTS as f64).powf(rng.f64()) as usize
}

impl Eq for Ending {}

impl PartialOrd for Ending {
    fn partial_cmp(&self, other: &Ending) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ending {
    fn cmp(&self, other: &Ending) -> std::cmp::Ordering {
        self.at.total_cmp(&other.at)
    }
}
