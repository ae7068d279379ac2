//! Floor 1. Whether the servers of a group may be used, by what is asked of them (checks), by how they serve
//! (outliers), and by decree (drain).
//!
//! ```text
//!                 rise checks                 slow_start over
//!    ┌─► Down ──────────────────┐         ┌──────────────────► Up ──┐
//!    │                          ▼         │                         │
//!    │   Ejected ───────────► Starting ───┘   (Up, at once, if there is no slow start)
//!    │    ▲      until            │                                 │
//!    │    │                       │                                 │
//!    │    └── failures, or rate ──┼─────────────────────────────────┤
//!    └─────── fall checks ────────┴─────────────────────────────────┘
//!
//!   any ── drain ──► Draining ── undrain ──► what it would be otherwise (by way of Starting)
//! ```
//! Down, ejected and drained are three facts that may hold at once; the state is the first of Draining, Down, Ejected.
//!
//! *Panic*: while too few servers of a group are usable, what is known about the others is disregarded: it may be the
//! checks that are wrong, and if they are right, the few would fall next. A server that is drained is never used.
//!
//! Invariants: no more than [`Outliers::most`] of the group are ejected; a state changes in a call that returns the
//! [`Change`], and in no other way, so each can be logged once; only the share of a server that is starting
//! depends on the clock.

use crate::base::clock::Instant;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How the servers of a group are judged.
///
/// ```
/// use loopwright::upstream::health::Settings;
/// use std::time::Duration;
/// let settings = Settings::default();
/// assert_eq!(settings.checks, None);
/// assert_eq!((settings.panic, settings.slow_start), (0.5, Duration::ZERO));
/// assert_eq!((settings.outliers.failures, settings.outliers.most), (5, 0.5));
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Questions asked of each server, all the time. None by default.
    pub checks: Option<Checks>,
    /// What is concluded from how requests end.
    pub outliers: Outliers,
    /// With a smaller part of the group usable, all of it is used. 0.5 by default; 0 never.
    pub panic: f32,
    /// A server that comes back gets its whole share after so long. Zero by default: at once.
    pub slow_start: Duration,
    /// The part of its share that it begins with. 0.1 by default.
    pub slow_start_floor: f32,
    /// 1 by default: the share grows evenly. More: faster at first (the share is `passed^(1 / aggression)`).
    pub aggression: f32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            checks: None,
            outliers: Outliers::default(),
            panic: 0.5,
            slow_start: Duration::ZERO,
            slow_start_floor: 0.1,
            aggression: 1.0,
        }
    }
}

/// Active checks.
#[derive(Clone, PartialEq, Debug)]
pub struct Checks {
    /// From the beginning of one to the beginning of the next. 5 s by default.
    pub interval: Duration,
    /// Each interval is longer or shorter by up to this part of it, so that checks do not come in step. 0.1 by default.
    pub jitter: f32,
    /// How long a check may take; whoever runs it sees to that. 2 s by default.
    pub timeout: Duration,
    /// So many good ones in a row, and the server is up. 2 by default.
    pub rise: u32,
    /// So many bad ones in a row, and it is down; before any has been good, one is enough. 3 by default.
    pub fall: u32,
}

impl Default for Checks {
    fn default() -> Checks {
        Checks {
            interval: Duration::from_secs(5),
            jitter: 0.1,
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
        }
    }
}

/// Passive judgement: who serves worse than the others is ejected for a while.
#[derive(Clone, PartialEq, Debug)]
pub struct Outliers {
    /// So many failed requests in a row. 5 by default; 0 switches it off.
    pub failures: u32,
    /// The first ejection; the next are two, three times as long… 10 s by default. For each such span that a server is
    /// not ejected, one ejection is forgotten.
    pub ejection: Duration,
    /// The longest ejection. 5 min by default.
    pub longest: Duration,
    /// The part of the group that may be ejected; of two servers or more, one may. 0.5 by default.
    pub most: f32,
    /// Success rates are compared so often. 10 s by default; zero switches it off.
    pub interval: Duration,
    /// Of the servers with at least so many requests since. 100 by default.
    pub volume: u64,
    /// If there are so many such servers. 5 by default: among fewer, one cannot be far from the mean.
    pub servers: usize,
    /// Ejected is who succeeds less often than the mean less so many standard deviations. 1.9 by default, as in Envoy.
    pub deviations: f32,
    /// And by at least this part of all requests, for where the others never fail, any failure is many deviations away.
    /// 0.05 by default.
    pub margin: f32,
}

impl Default for Outliers {
    fn default() -> Outliers {
        Outliers {
            failures: 5,
            ejection: Duration::from_secs(10),
            longest: Duration::from_secs(300),
            most: 0.5,
            interval: Duration::from_secs(10),
            volume: 100,
            servers: 5,
            deviations: 1.9,
            margin: 0.05,
        }
    }
}

/// What a server is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// In use.
    Up,
    /// In use, and its share grows: it has come back at this moment.
    Starting(Instant),
    /// It has served badly, and is left alone until then.
    Ejected(Instant),
    /// Its checks fail.
    Down,
    /// Not to be used, by decree.
    Draining,
}

impl State {
    /// Whether requests may go there, panic aside.
    pub fn is_usable(self) -> bool {
        matches!(self, State::Up | State::Starting(_))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Up => "up",
            State::Starting(_) => "starting",
            State::Ejected(_) => "ejected",
            State::Down => "down",
            State::Draining => "draining",
        })
    }
}

/// Something that is to be logged, once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A server is in another state.
    State {
        /// Which.
        server: usize,
        /// It was this.
        from: State,
        /// It is that.
        to: State,
        /// What has led to it.
        why: String,
    },
    /// The panic begins or ends.
    Panic {
        /// It begins.
        begins: bool,
        /// Servers that are usable.
        usable: usize,
        /// Servers that are not drained.
        of: usize,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::State { from, to, why, .. } => write!(f, "was {from}, is {to}: {why}"),
            Change::Panic { begins, usable, of } => {
                let what = match begins {
                    true => "what is known about the others is disregarded",
                    false => "only they are used again",
                };
                write!(f, "{usable} of {of} servers are usable, {what}")
            }
        }
    }
}

/// What is known about one server.
#[derive(Clone, Debug)]
struct Server {
    tier: u16,
    drained: bool,
    down: bool,
    ejected: Option<Instant>,
    starting: Option<Instant>,
    /// A panic would have it used.
    last_resort: bool,

    /// No check has been answered yet.
    unknown: bool,
    /// Checks in a row that say otherwise than `down`.
    against: u32,
    /// `None` while one is under way, or if there are none.
    next_check: Option<Instant>,
    check_began: Instant,
    /// What was wrong at the last bad check.
    why: String,

    /// Failed requests in a row.
    failures: u32,
    /// Requests in this interval, and the good ones among them.
    requests: u64,
    good: u64,
    /// Ejections that are not forgotten, and since when it is not ejected.
    ejections: u32,
    back: Instant,
}

impl Server {
    fn state(&self) -> State {
        match (self.drained, self.down, self.ejected, self.starting) {
            (true, ..) => State::Draining,
            (_, true, ..) => State::Down,
            (_, _, Some(until), _) => State::Ejected(until),
            (.., Some(since)) => State::Starting(since),
            _ => State::Up,
        }
    }
}

/// The health of a group. Servers are known by the numbers that the caller gives them.
///
/// ```
/// use loopwright::Instant;
/// use loopwright::upstream::health::{Change, Health, Settings, State};
/// let (now, mut rng) = (Instant::default(), fastrand::Rng::with_seed(1));
/// let mut health = Health::new(Settings::default());
/// for server in 0..3 {
///     health.join(server, 0, false, now, &mut rng);
/// }
/// for _ in 0..4 {
///     assert!(health.on_result(1, false, now).is_empty());
/// }
/// let changes = health.on_result(1, false, now);
/// assert_eq!(changes[0].to_string(), "was up, is ejected: 5 requests in a row have failed");
/// assert_eq!([0, 1, 2].map(|server| health.share(server, now)), [1.0, 0.0, 1.0]);
/// // Ten seconds later:
/// let until = health.next_deadline().unwrap();
/// assert_eq!(health.tick(until)[0].to_string(), "was ejected, is up: its ejection is over");
/// ```
#[derive(Clone, Debug)]
pub struct Health {
    settings: Settings,
    servers: Vec<Option<Server>>,
    panicking: bool,
    /// When success rates are compared next: none while there is nothing to compare.
    compare: Option<Instant>,
}

impl Health {
    /// Of a group without servers.
    pub fn new(settings: Settings) -> Health {
        Health {
            settings,
            servers: Vec::new(),
            panicking: false,
            compare: None,
        }
    }

    /// How it judges.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A server is one of the group from now on. It is taken for up until it is known not to be; its first check is due
    /// at once. `tier` 0 is the first choice, higher ones are backups; `slowly` has it begin with a small share, as one
    /// that comes back does.
    pub fn join(
        &mut self,
        server: usize,
        tier: u16,
        slowly: bool,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Vec<Change> {
        if self.servers.len() <= server {
            self.servers.resize(server + 1, None);
        }
        let slowly = slowly && !self.settings.slow_start.is_zero();
        let checks = self.settings.checks.as_ref();
        self.servers[server] = Some(Server {
            tier,
            drained: false,
            down: false,
            ejected: None,
            starting: slowly.then_some(now),
            last_resort: true,
            unknown: true,
            against: 0,
            // Many workers, and many servers, begin at the same moment.
            next_check: checks.map(|c| now + c.interval.mul_f32(part(c.jitter) * rng.f32())),
            check_began: now,
            why: String::new(),
            failures: 0,
            requests: 0,
            good: 0,
            ejections: 0,
            back: now,
        });
        self.judge_panic().into_iter().collect()
    }

    /// A server is none of the group any more. What is still reported about it is ignored.
    pub fn leave(&mut self, server: usize) -> Vec<Change> {
        if let Some(slot) = self.servers.get_mut(server) {
            *slot = None;
        }
        self.judge_panic().into_iter().collect()
    }

    /// It is another choice from now on: see [`join`](Health::join).
    pub fn set_tier(&mut self, server: usize, tier: u16) -> Vec<Change> {
        if let Some(Some(it)) = self.servers.get_mut(server) {
            it.tier = tier;
        }
        self.judge_panic().into_iter().collect()
    }

    /// What a server is at; `None`: it is not of the group.
    pub fn state(&self, server: usize) -> Option<State> {
        Some(self.get(server)?.state())
    }

    /// What was wrong when its last check failed; empty if none has.
    pub fn reason(&self, server: usize) -> &str {
        self.get(server).map_or("", |it| &it.why)
    }

    /// What of its weight a server is to be used with: 0 is not at all.
    pub fn share(&self, server: usize, now: Instant) -> f32 {
        let Some(it) = self.get(server) else {
            return 0.0;
        };
        if self.panicking {
            return if it.last_resort { 1.0 } else { 0.0 };
        }
        match it.state() {
            State::Up => 1.0,
            State::Starting(since) => self.settings.starting(now - since),
            State::Ejected(_) | State::Down | State::Draining => 0.0,
        }
    }

    /// The shares of all servers, by their numbers.
    pub fn shares(&self, now: Instant, shares: &mut Vec<f32>) {
        shares.clear();
        shares.extend((0..self.servers.len()).map(|server| self.share(server, now)));
    }

    /// Whether what is known about the servers is disregarded, as too few would be left.
    pub fn is_panicking(&self) -> bool {
        self.panicking
    }

    /// The servers whose check is due: it counts as begun, and is to be answered with [`on_check`](Health::on_check).
    pub fn due(&mut self, now: Instant) -> Vec<usize> {
        let mut due = Vec::new();
        for (server, it) in self.servers.iter_mut().enumerate() {
            if let Some(it) = it
                && it.next_check.is_some_and(|at| at <= now)
            {
                it.next_check = None;
                it.check_began = now;
                due.push(server);
            }
        }
        due
    }

    /// How a check went; what was wrong with it in words.
    pub fn on_check(
        &mut self,
        server: usize,
        result: Result<(), String>,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Vec<Change> {
        let Some(checks) = self.settings.checks.clone() else {
            return Vec::new();
        };
        self.change(server, now, |it| {
            let wait = checks
                .interval
                .mul_f32(1.0 + part(checks.jitter) * (2.0 * rng.f32() - 1.0));
            it.next_check = Some((it.check_began + wait).max(now));
            let is_good = result.is_ok();
            if let Err(why) = result {
                it.why = why;
            }
            let first = std::mem::take(&mut it.unknown);
            if it.down != is_good {
                it.against = 0;
                return None;
            }
            it.against += 1;
            let (enough, what) = match is_good {
                true => (checks.rise, "good"),
                false if first => (1, "bad"),
                false => (checks.fall, "bad"),
            };
            if it.against < enough {
                return None;
            }
            it.down = !is_good;
            let against = std::mem::take(&mut it.against);
            if is_good {
                it.failures = 0;
            }
            Some(match (against, is_good) {
                (1, true) => "its check was good".to_owned(),
                (1, false) => it.why.clone(),
                (_, true) => format!("{against} {what} checks in a row"),
                (_, false) => format!("{against} {what} checks in a row, the last: {}", it.why),
            })
        })
    }

    /// How a request went. A failure is what the server is to blame for: no connection, none of an answer, a 5xx;
    /// not an answer that the client did not wait for.
    pub fn on_result(&mut self, server: usize, is_good: bool, now: Instant) -> Vec<Change> {
        let outliers = &self.settings.outliers;
        let (most, interval) = (outliers.failures, outliers.interval);
        let Some(it) = self.servers.get_mut(server).and_then(Option::as_mut) else {
            return Vec::new();
        };
        it.requests += 1;
        if !interval.is_zero() && self.compare.is_none() {
            self.compare = Some(now + interval);
        }
        if is_good {
            it.good += 1;
            it.failures = 0;
            return Vec::new();
        }
        // What is reported of one that is ejected began earlier, or in a panic.
        it.failures += u32::from(it.ejected.is_none());
        let failures = it.failures;
        if most == 0 || failures < most {
            return Vec::new();
        }
        self.eject(server, now, || {
            format!("{failures} requests in a row have failed")
        })
    }

    /// No requests are to go there any more. Checks go on.
    pub fn drain(&mut self, server: usize, now: Instant) -> Vec<Change> {
        self.change(server, now, |it| {
            it.drained = true;
            Some("it is drained".to_owned())
        })
    }

    /// The end of that.
    pub fn undrain(&mut self, server: usize, now: Instant) -> Vec<Change> {
        self.change(server, now, |it| {
            it.drained = false;
            Some("it is drained no more".to_owned())
        })
    }

    /// What the time alone changes: ejections and slow starts end, success rates are compared. To be called at
    /// [`next_deadline`](Health::next_deadline).
    pub fn tick(&mut self, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        let slow_start = self.settings.slow_start;
        for server in 0..self.servers.len() {
            let Some(it) = self.get(server) else { continue };
            if it.ejected.is_some_and(|until| until <= now) {
                changes.extend(self.change(server, now, |it| {
                    it.ejected = None;
                    it.back = now;
                    Some("its ejection is over".to_owned())
                }));
            } else if it.starting.is_some_and(|since| now - since >= slow_start) {
                changes.extend(self.change(server, now, |it| {
                    it.starting = None;
                    Some("its slow start is over".to_owned())
                }));
            }
        }
        if self.compare.is_some_and(|at| at <= now) {
            self.compare = None;
            changes.extend(self.compare_rates(now));
        }
        changes
    }

    /// When [`due`](Health::due) or [`tick`](Health::tick) will have something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let slow_start = self.settings.slow_start;
        let of_one = |it: &Server| {
            let started = it.starting.map(|since| since + slow_start);
            [it.next_check, it.ejected, started]
        };
        let servers = self.servers.iter().flatten().flat_map(of_one);
        servers.chain([self.compare]).flatten().min()
    }

    fn get(&self, server: usize) -> Option<&Server> {
        self.servers.get(server)?.as_ref()
    }

    /// The one place where a state changes. `act` does it, and says why if it has.
    fn change(
        &mut self,
        server: usize,
        now: Instant,
        act: impl FnOnce(&mut Server) -> Option<String>,
    ) -> Vec<Change> {
        let Some(it) = self.servers.get_mut(server).and_then(Option::as_mut) else {
            return Vec::new();
        };
        let from = it.state();
        let Some(why) = act(it) else {
            return Vec::new();
        };
        if !it.state().is_usable() {
            it.starting = None;
        } else if !from.is_usable() && !self.settings.slow_start.is_zero() {
            it.starting = Some(now);
        }
        let to = it.state();
        if from == to {
            return Vec::new();
        }
        let change = Change::State {
            server,
            from,
            to,
            why,
        };
        [Some(change), self.judge_panic()]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Ejects a server, if it is not yet, and if not too many are.
    fn eject(&mut self, server: usize, now: Instant, why: impl FnOnce() -> String) -> Vec<Change> {
        let in_use = || self.servers.iter().flatten().filter(|it| !it.drained);
        let (all, out) = (
            in_use().count(),
            in_use().filter(|it| it.ejected.is_some()).count(),
        );
        let Outliers {
            ejection,
            longest,
            most,
            ..
        } = self.settings.outliers;
        // Rounded down: to "at most".
        let may = ((all as f32 * part(most)) as usize).max(usize::from(all > 1 && most > 0.0));
        if out >= may {
            return Vec::new();
        }
        self.change(server, now, |it| {
            if it.ejected.is_some() {
                return None;
            }
            let forgotten = (now - it.back).as_micros() / ejection.as_micros().max(1);
            let forgotten = u32::try_from(forgotten).unwrap_or(u32::MAX);
            // Those beyond the longest ejection would only have to be forgotten again.
            let enough = longest.as_micros().div_ceil(ejection.as_micros().max(1));
            let enough = u32::try_from(enough).unwrap_or(u32::MAX);
            let remembered = it.ejections.saturating_sub(forgotten);
            it.ejections = remembered.saturating_add(1).min(enough.max(1));
            it.ejected = Some(now + ejection.saturating_mul(it.ejections).min(longest));
            it.failures = 0;
            Some(why())
        })
    }

    /// Envoy's success rate outliers: who succeeds less often than others do, by far.
    fn compare_rates(&mut self, now: Instant) -> Vec<Change> {
        let outliers = self.settings.outliers.clone();
        let mut rates = Vec::new();
        for (server, it) in self.servers.iter_mut().enumerate() {
            let Some(it) = it else { continue };
            let (good, requests) = (it.good, it.requests);
            (it.good, it.requests) = (0, 0);
            let counts = !it.drained && it.ejected.is_none() && requests >= outliers.volume;
            if counts && requests > 0 {
                rates.push((server, good as f64 / requests as f64));
            }
        }
        if rates.len() < outliers.servers || rates.is_empty() {
            return Vec::new();
        }
        let mean_of = |of: &dyn Fn(f64) -> f64| {
            rates.iter().map(|(_, rate)| of(*rate)).sum::<f64>() / rates.len() as f64
        };
        let mean = mean_of(&|rate| rate);
        let deviation = mean_of(&|rate| (rate - mean).powi(2)).sqrt();
        let distance = (deviation * f64::from(outliers.deviations)).max(f64::from(outliers.margin));
        // The worst first, as not all of them may be allowed to go. The margin for rounding keeps equals together.
        rates.retain(|(_, rate)| *rate < mean - distance - 1e-9);
        rates.sort_by(|a, b| a.1.total_cmp(&b.1));
        let percent = |part: f64| part * 100.0;
        let eject = |(server, rate)| {
            self.eject(server, now, || {
                let (rate, mean) = (percent(rate), percent(mean));
                format!("{rate:.1} % of its requests have succeeded, {mean:.1} % on average")
            })
        };
        rates.into_iter().flat_map(eject).collect()
    }

    /// Whether too few are usable. A tier with enough of them is enough; a tier without any is of no help in a panic, but
    /// if none has any.
    fn judge_panic(&mut self) -> Option<Change> {
        let mut tiers: BTreeMap<u16, (usize, usize)> = BTreeMap::new();
        for it in self.servers.iter().flatten().filter(|it| !it.drained) {
            let (usable, of) = tiers.entry(it.tier).or_default();
            *usable += usize::from(it.state().is_usable());
            *of += 1;
        }
        let few = |(usable, of): &(usize, usize)| {
            (*usable as f32) < *of as f32 * part(self.settings.panic)
        };
        let panics = !tiers.is_empty() && tiers.values().all(few);
        let (usable, of) = tiers
            .values()
            .fold((0, 0), |sum, tier| (sum.0 + tier.0, sum.1 + tier.1));
        for it in self.servers.iter_mut().flatten() {
            let of_tier = tiers.get(&it.tier).map_or(0, |tier| tier.0);
            it.last_resort = !it.drained && (of_tier > 0 || usable == 0);
        }
        let was = std::mem::replace(&mut self.panicking, panics);
        (was != panics).then_some(Change::Panic {
            begins: panics,
            usable,
            of,
        })
    }
}

impl Settings {
    /// The share of a server that has been back for so long.
    fn starting(&self, passed: Duration) -> f32 {
        if passed >= self.slow_start {
            return 1.0;
        }
        let part_passed = passed.as_secs_f32() / self.slow_start.as_secs_f32();
        // Not below one: the slower kinds of growth end in a jump.
        let grown = part_passed.powf(1.0 / self.aggression.max(1.0));
        grown.clamp(part(self.slow_start_floor).max(f32::MIN_POSITIVE), 1.0)
    }
}

/// What is said to be a part of something, made one.
fn part(part: f32) -> f32 {
    if part.is_nan() {
        0.0
    } else {
        part.clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// A group of servers, by their tiers, and without jitter.
    struct Group(Health, fastrand::Rng);

    impl Group {
        fn new(mut settings: Settings, tiers: &[u16]) -> Group {
            if let Some(checks) = &mut settings.checks {
                checks.jitter = 0.0;
            }
            let mut group = Group(Health::new(settings), fastrand::Rng::with_seed(1));
            for (server, tier) in tiers.iter().enumerate() {
                assert_eq!(group.0.join(server, *tier, false, at(0), &mut group.1), []);
            }
            group
        }

        fn check(&mut self, server: usize, is_good: bool, millis: u64) -> Vec<String> {
            let result = if is_good {
                Ok(())
            } else {
                Err("refused".to_owned())
            };
            said(self.0.on_check(server, result, at(millis), &mut self.1))
        }

        /// The server's requests fail, one after the other.
        fn fail(&mut self, server: usize, times: usize, millis: u64) -> Vec<String> {
            let all = (0..times).flat_map(|_| self.0.on_result(server, false, at(millis)));
            said(all.collect())
        }

        fn shares(&self, millis: u64) -> Vec<f32> {
            let mut shares = Vec::new();
            self.0.shares(at(millis), &mut shares);
            shares
        }
    }

    fn said(changes: Vec<Change>) -> Vec<String> {
        changes.iter().map(Change::to_string).collect()
    }

    fn checked() -> Settings {
        Settings {
            checks: Some(Checks::default()),
            ..Settings::default()
        }
    }

    #[test]
    fn so_many_checks_in_a_row_decide() {
        let mut group = Group::new(checked(), &[0, 0, 0]);
        assert_eq!(group.check(0, true, 0), [""; 0]);
        // Two bad ones are not three, and three have to be in a row.
        for is_good in [false, false, true, false, false] {
            assert_eq!(group.check(0, is_good, 0), [""; 0]);
        }
        let down = "was up, is down: 3 bad checks in a row, the last: refused";
        assert_eq!(group.check(0, false, 0), [down]);
        assert_eq!(
            (group.shares(0), group.0.reason(0)),
            (vec![0.0, 1.0, 1.0], "refused")
        );
        for is_good in [true, false, true] {
            assert_eq!(group.check(0, is_good, 0), [""; 0]);
        }
        assert_eq!(
            group.check(0, true, 0),
            ["was down, is up: 2 good checks in a row"]
        );
        assert_eq!(group.shares(0), [1.0, 1.0, 1.0]);
    }

    #[test]
    fn a_server_that_has_never_been_good_is_down_with_its_first_bad_check() {
        let mut group = Group::new(checked(), &[0, 0, 0]);
        assert_eq!(group.check(2, false, 0), ["was up, is down: refused"]);
        assert_eq!(group.check(2, true, 0), [""; 0]);
        assert_eq!(
            group.check(2, true, 0),
            ["was down, is up: 2 good checks in a row"]
        );
        assert_eq!(group.check(2, false, 0), [""; 0]);
    }

    #[test]
    fn checks_come_one_at_a_time_and_once_an_interval() {
        let mut group = Group::new(checked(), &[0]);
        assert_eq!(group.0.next_deadline(), Some(at(0)));
        assert_eq!(
            (group.0.due(at(10)), group.0.due(at(99_000))),
            (vec![0], vec![])
        );
        assert_eq!(group.0.next_deadline(), None, "one is under way");
        // From the beginning of the one to the beginning of the next.
        group.check(0, true, 1500);
        assert_eq!(group.0.next_deadline(), Some(at(5010)));
        assert_eq!(
            (group.0.due(at(5009)), group.0.due(at(5010))),
            (vec![], vec![0])
        );
        // One that took longer than that.
        group.check(0, true, 12_000);
        assert_eq!(group.0.due(at(12_000)), [0]);
        // Without checks none is due.
        let group = Group::new(Settings::default(), &[0]);
        assert_eq!(
            (group.0.clone().due(at(99_000)), group.0.next_deadline()),
            (vec![], None)
        );
    }

    #[test]
    fn checks_do_not_come_in_step() {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut health = Health::new(checked());
        let mut firsts = Vec::new();
        let mut waits = Vec::new();
        for server in 0..2000 {
            health.join(server, 0, false, at(0), &mut rng);
        }
        while firsts.len() < 2000 {
            let now = health.next_deadline().unwrap();
            for server in health.due(now) {
                firsts.push(now - at(0));
                health.on_check(server, Ok(()), now, &mut rng);
                waits.push(health.get(server).unwrap().next_check.unwrap() - now);
            }
        }
        let span = |all: &[Duration]| {
            let millis = |d: Option<&Duration>| d.unwrap().as_millis() as f64 / 100.0;
            (
                millis(all.iter().min()).round(),
                millis(all.iter().max()).round(),
            )
        };
        assert_eq!((span(&firsts), span(&waits)), ((0.0, 5.0), (45.0, 55.0)));
    }

    #[test]
    fn failures_in_a_row_eject_and_ejections_grow_and_are_forgotten() {
        let mut group = Group::new(Settings::default(), &[0, 0, 0]);
        group.fail(0, 4, 0);
        group.0.on_result(0, true, at(0));
        assert_eq!(group.fail(0, 4, 0), [""; 0], "not in a row");
        let ejected = "was up, is ejected: 5 requests in a row have failed";
        assert_eq!(group.fail(0, 1, 0), [ejected]);
        assert_eq!(group.0.state(0), Some(State::Ejected(at(10_000))));
        assert_eq!(group.fail(0, 100, 0), [""; 0], "they began before");
        let over = ["was ejected, is up: its ejection is over"];
        assert_eq!(
            (
                said(group.0.tick(at(9_999))),
                group.0.tick(at(10_000)).len()
            ),
            (vec![], 1)
        );
        // The second is twice as long; each span of ten seconds forgets one.
        for (millis, until) in [
            (10_000, 30_000),
            (39_999, 69_999),
            (89_998, 119_998),
            (209_998, 219_998),
        ] {
            group.0.tick(at(millis));
            assert_eq!(group.fail(0, 5, millis).last().unwrap(), ejected);
            assert_eq!(
                group.0.state(0),
                Some(State::Ejected(at(until))),
                "{millis}"
            );
            assert_eq!(said(group.0.tick(at(until))).last().unwrap(), over[0]);
        }
        // Never longer than that, and it is not remembered longer either.
        let mut now = 1_000_000;
        for _ in 0..200 {
            group.fail(0, 5, now);
            let Some(State::Ejected(until)) = group.0.state(0) else {
                panic!("it is ejected")
            };
            assert!(until - at(now) <= secs(300));
            now = until.as_micros() / 1000;
            group.0.tick(until);
        }
        group.fail(0, 5, now + 290_000);
        assert_eq!(
            group.0.state(0),
            Some(State::Ejected(at(now + 290_000 + 20_000)))
        );
    }

    #[test]
    fn no_more_than_a_part_of_the_group_is_ejected() {
        for (servers, most, want) in [
            (1, 0.5, 0),
            (2, 0.5, 1),
            (3, 0.5, 1),
            (4, 0.5, 2),
            (10, 0.1, 1),
            (4, 1.0, 4),
            (4, 0.0, 0),
            (2, 0.1, 1),
        ] {
            let mut settings = Settings::default();
            settings.outliers.most = most;
            let mut group = Group::new(settings, &vec![0; servers]);
            for server in 0..servers {
                group.fail(server, 50, 0);
            }
            let out = (0..servers)
                .filter(|server| matches!(group.0.state(*server), Some(State::Ejected(_))));
            assert_eq!(out.count(), want, "{most} of {servers}");
        }
    }

    #[test]
    fn who_succeeds_less_often_than_others_do_is_ejected() {
        let rates = |most: f32, volume: u64, good: &[u64]| {
            let mut settings = Settings::default();
            settings.outliers.most = most;
            let mut group = Group::new(settings, &vec![0; good.len()]);
            for (server, good) in good.iter().enumerate() {
                // Not so many failures in a row.
                let mut owed = 0;
                for _ in 0..volume {
                    owed += good;
                    let is_good = owed >= volume;
                    owed -= if is_good { volume } else { 0 };
                    assert_eq!(group.0.on_result(server, is_good, at(0)), []);
                }
            }
            assert_eq!(group.0.next_deadline(), Some(at(10_000)));
            assert_eq!(said(group.0.tick(at(9_999))), [""; 0]);
            let said = said(group.0.tick(at(10_000)));
            (said, group.shares(10_000))
        };
        let (ejected, shares) = rates(0.5, 100, &[100, 100, 70, 100, 100]);
        assert_eq!(
            ejected,
            ["was up, is ejected: 70.0 % of its requests have succeeded, 94.0 % on average"]
        );
        assert_eq!(shares, [1.0, 1.0, 0.0, 1.0, 1.0]);
        for (volume, good, why) in [
            (99, &[99, 99, 20, 99, 99][..], "too few requests"),
            (100, &[100, 100, 20, 100], "too few servers"),
            (100, &[100, 100, 96, 100, 100], "not by the margin"),
            (100, &[50, 50, 50, 50, 50], "all alike"),
            (
                300,
                &[100, 100, 100, 100, 100, 100, 100],
                "all alike, but for rounding",
            ),
            (100, &[30, 90, 60, 80, 40], "none is far from the mean"),
        ] {
            assert_eq!(rates(0.5, volume, good).0, [""; 0], "{why}");
        }
        // The worst first, as not all of them may go.
        let mut good = [1000; 12];
        good[7..9].copy_from_slice(&[500, 400]);
        assert_eq!(rates(0.5, 1000, &good).1[7..9], [0.0, 0.0]);
        assert_eq!(rates(0.1, 1000, &good).1[7..9], [1.0, 0.0]);
    }

    #[test]
    fn rates_are_of_one_interval_and_an_idle_group_sleeps() {
        let mut group = Group::new(Settings::default(), &[0; 5]);
        assert_eq!(group.0.next_deadline(), None);
        for server in 0..5 {
            for n in 0..99 {
                group.0.on_result(server, server > 0 || n % 2 == 0, at(0));
            }
        }
        assert_eq!(
            (group.0.tick(at(10_000)), group.0.next_deadline()),
            (vec![], None)
        );
        group.0.on_result(0, false, at(50_000));
        assert_eq!(group.0.next_deadline(), Some(at(60_000)));
        assert_eq!(
            group.0.tick(at(60_000)),
            [],
            "those of the interval before are forgotten"
        );
    }

    #[test]
    fn a_server_that_comes_back_begins_slowly() {
        let settings = Settings {
            slow_start: secs(10),
            ..Settings::default()
        };
        let mut group = Group::new(settings.clone(), &[0, 0, 0]);
        assert_eq!(
            group.shares(0),
            [1.0; 3],
            "all at once: nobody has to be spared"
        );
        group.fail(1, 5, 0);
        assert_eq!(
            said(group.0.tick(at(10_000))),
            ["was ejected, is starting: its ejection is over"]
        );
        for (millis, want) in [
            (10_000, 0.1),
            (10_500, 0.1),
            (12_000, 0.2),
            (15_000, 0.5),
            (20_000, 1.0),
            (99_000, 1.0),
        ] {
            assert!((group.shares(millis)[1] - want).abs() < 1e-6, "{millis}");
        }
        assert_eq!(
            group.0.next_deadline(),
            Some(at(10_000)).max(Some(at(20_000)))
        );
        assert_eq!(
            said(group.0.tick(at(20_000))),
            ["was starting, is up: its slow start is over"]
        );
        // One that is new to a group that is at work, if it is said so.
        group.0.join(3, 0, true, at(30_000), &mut group.1);
        assert_eq!(group.shares(35_000)[3], 0.5);
        // Faster at first.
        let aggressive = Settings {
            aggression: 2.0,
            ..settings
        };
        for (passed, want) in [(0, 0.1), (1, 0.316), (4, 0.632), (9, 0.949), (10, 1.0)] {
            assert!(
                (aggressive.starting(secs(passed)) - want).abs() < 1e-3,
                "{passed}"
            );
        }
        // One that fails again while it starts.
        group.fail(3, 5, 36_000);
        assert_eq!(group.shares(36_000)[3], 0.0);
    }

    #[test]
    fn drained_by_decree_whatever_else_is_known() {
        let mut group = Group::new(checked(), &[0, 0, 0]);
        group.check(0, true, 0);
        let drained = said(group.0.drain(0, at(0)));
        assert_eq!(drained, ["was up, is draining: it is drained"]);
        assert_eq!(group.0.drain(0, at(0)), [], "it is, already");
        assert_eq!(group.shares(0), [0.0, 1.0, 1.0]);
        for _ in 0..3 {
            assert_eq!(group.check(0, false, 0), [""; 0], "nothing to tell");
        }
        assert_eq!(
            said(group.0.undrain(0, at(0))),
            ["was draining, is down: it is drained no more"]
        );
        // Not in a panic either.
        group.0.drain(1, at(0));
        group.check(2, false, 0);
        assert!(group.0.is_panicking());
        assert_eq!(group.shares(0), [1.0, 0.0, 1.0]);
        for server in 0..3 {
            group.0.drain(server, at(0));
        }
        assert_eq!(
            (group.shares(0), group.0.is_panicking()),
            (vec![0.0; 3], false)
        );
    }

    #[test]
    fn with_too_few_left_all_are_used() {
        let mut group = Group::new(checked(), &[0; 5]);
        group.check(0, false, 0);
        group.check(1, false, 0);
        assert_eq!(group.shares(0), [0.0, 0.0, 1.0, 1.0, 1.0]);
        assert_eq!(
            group.check(2, false, 0)[1],
            "2 of 5 servers are usable, what is known about the others is disregarded"
        );
        assert_eq!(group.shares(0), [1.0; 5]);
        group.check(1, true, 0);
        assert_eq!(
            group.check(1, true, 0)[1],
            "3 of 5 servers are usable, only they are used again"
        );
        assert_eq!(group.shares(0), [0.0, 1.0, 0.0, 1.0, 1.0]);
        // Switched off.
        let mut group = Group::new(
            Settings {
                panic: 0.0,
                ..checked()
            },
            &[0; 2],
        );
        group.check(0, false, 0);
        group.check(1, false, 0);
        assert_eq!(group.shares(0), [0.0; 2]);
    }

    #[test]
    fn backups_are_there_before_a_panic_is() {
        let shares = |tiers: &[u16], down: &[usize]| {
            let mut group = Group::new(checked(), tiers);
            for server in down {
                group.check(*server, false, 0);
            }
            group.shares(0)
        };
        // Of the one tier too few are left, of the other none is missing.
        assert_eq!(shares(&[0, 0, 1], &[0, 1]), [0.0, 0.0, 1.0]);
        assert_eq!(shares(&[0, 0, 0, 1], &[0, 1]), [0.0, 0.0, 1.0, 1.0]);
        // A tier without any is of no help, if there is another with one.
        assert_eq!(shares(&[0, 1, 1, 1], &[0, 1, 2]), [0.0, 1.0, 1.0, 1.0]);
        assert_eq!(shares(&[0, 1, 1, 1], &[0, 1, 2, 3]), [1.0; 4]);
    }

    #[test]
    fn who_has_left_is_not_talked_of() {
        let mut group = Group::new(checked(), &[0, 0]);
        assert_eq!(group.0.due(at(600)), [0, 1]);
        group.0.leave(1);
        assert_eq!(
            (group.check(1, false, 700), group.fail(1, 50, 700)),
            (vec![], vec![])
        );
        assert_eq!(
            (group.0.state(1), group.shares(700)),
            (None, vec![1.0, 0.0])
        );
        assert_eq!((group.0.state(9), group.0.share(9, at(0))), (None, 0.0));
        // The others may be too few, now.
        group.0.join(1, 0, false, at(0), &mut group.1);
        group.check(0, false, 700);
        assert_eq!(said(group.0.leave(1)).len(), 1);
        assert_eq!(group.shares(700), [1.0, 0.0]);
    }

    /// Something that happens to a server.
    #[derive(Clone, Debug)]
    enum Step {
        Check(bool),
        Results(u32, bool),
        Drain(bool),
        Leave,
        Join(u16),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = (usize, Step)> {
        let step = prop_oneof![
            any::<bool>().prop_map(Step::Check),
            (1u32..120, any::<bool>()).prop_map(|(n, is_good)| Step::Results(n, is_good)),
            any::<bool>().prop_map(Step::Drain),
            Just(Step::Leave),
            (0u16..3).prop_map(Step::Join),
            (0u64..20_000).prop_map(Step::Pass),
        ];
        (0usize..7, step)
    }

    proptest! {
        /// What is told is all there is: shares, states and the panic follow from it, and time is never called for in vain.
        #[test]
        fn whatever_happens_is_told_once(
            steps in prop::collection::vec(step(), 0..150),
            most in 0.0f32..=1.0,
            panic in 0.0f32..=1.0,
            slow_start in prop_oneof![Just(0u64), 1u64..30],
        ) {
            let mut settings = Settings { panic, slow_start: secs(slow_start), ..checked() };
            settings.outliers.most = most;
            let mut group = Group::new(settings, &[0, 0, 0, 0, 1, 1]);
            let mut told: Vec<Option<State>> = vec![Some(State::Up); 6];
            told.resize(7, None);
            let (mut panicking, mut now) = (false, at(0));
            for (server, step) in steps {
                let Group(health, rng) = &mut group;
                let out = |health: &Health| {
                    health.servers.iter().flatten().filter(|it| !it.drained && it.ejected.is_some()).count()
                };
                let out_before = out(health);
                let mut changes = match step.clone() {
                    Step::Check(is_good) => {
                        let result = if is_good { Ok(()) } else { Err("bad".to_owned()) };
                        health.on_check(server, result, now, rng)
                    }
                    Step::Results(n, is_good) => (0..n).flat_map(|_| health.on_result(server, is_good, now)).collect(),
                    Step::Drain(true) => health.drain(server, now),
                    Step::Drain(false) => health.undrain(server, now),
                    Step::Leave => {
                        told[server] = None;
                        health.leave(server)
                    }
                    Step::Join(tier) => {
                        told[server] = None;
                        let changes = health.join(server, tier, false, now, rng);
                        told[server] = health.state(server);
                        changes
                    }
                    Step::Pass(millis) => {
                        now = now + Duration::from_millis(millis);
                        Vec::new()
                    }
                };
                changes.extend(health.tick(now));
                health.due(now);
                prop_assert!(health.next_deadline().is_none_or(|next| next > now));
                for change in changes {
                    match change {
                        Change::State { server, from, to, why } => {
                            prop_assert_eq!(told[server], Some(from));
                            prop_assert!(from != to && !why.is_empty());
                            told[server] = Some(to);
                        }
                        Change::Panic { begins, .. } => {
                            prop_assert_eq!(panicking, !begins);
                            panicking = begins;
                        }
                    }
                }
                prop_assert_eq!(panicking, health.is_panicking());
                for (server, told) in told.iter().enumerate() {
                    prop_assert_eq!(health.state(server), *told);
                    let share = health.share(server, now);
                    prop_assert!((0.0..=1.0).contains(&share));
                    if let Some(state) = told {
                        let may_be = state.is_usable() || panicking && *state != State::Draining;
                        prop_assert!(may_be || share == 0.0);
                        prop_assert!(share > 0.0 || !state.is_usable());
                    }
                }
                // Whoever leaves or is drained may leave too many; nobody is ejected on top of that.
                let all = health.servers.iter().flatten().filter(|it| !it.drained).count();
                let may = ((all as f32 * most) as usize).max(usize::from(all > 1 && most > 0.0));
                let undrained = matches!(step, Step::Drain(false));
                prop_assert!(out(health) <= may.max(out_before) || undrained);
            }
        }
    }
}
