//! Floor 1. Happy Eyeballs (RFC 8305): a host has several addresses, of two families, and some may lead nowhere. They are
//! tried one after the other, each with a head start, and the first that answers is used.
//!
//! ```text
//! next ─► Start ─► running ─┬─ failed ─► the next starts at once
//!                           ├─ won ────► the others are given up
//!                           └─ delay ──► the next starts beside it
//! ```
//! Invariants: each address is tried once; no two attempts start within the delay unless one has failed; no more than
//! [`Settings::parallel`] run at once.

use crate::base::clock::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// How attempts follow each other.
///
/// ```
/// use loopwright::upstream::eyeballs::Settings;
/// use std::time::Duration;
/// let settings = Settings::default();
/// assert_eq!((settings.delay, settings.parallel, settings.first_v4), (Duration::from_millis(250), 4, false));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The head start of each attempt. 250 ms by default, and at least 10 ms (RFC 8305 §8).
    pub delay: Duration,
    /// So many attempts at once. 4 by default.
    pub parallel: usize,
    /// IPv4 before IPv6. `false` by default.
    pub first_v4: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            delay: Duration::from_millis(250),
            parallel: 4,
            first_v4: false,
        }
    }
}

/// No shorter delay: the attempts would be one burst.
const SHORTEST: Duration = Duration::from_millis(10);

/// Addresses in the order in which they are to be tried (RFC 8305 §4): the one that was good the last time, then the two
/// families by turns, each in the order it came in, the preferred one first. Each address once.
///
/// ```
/// use loopwright::upstream::eyeballs::order;
/// let parse = |all: &[&str]| all.iter().map(|a| a.parse().unwrap()).collect::<Vec<std::net::SocketAddr>>();
/// let addresses = parse(&["10.0.0.1:80", "10.0.0.2:80", "[::1]:80", "[::2]:80"]);
/// let want = parse(&["[::1]:80", "10.0.0.1:80", "[::2]:80", "10.0.0.2:80"]);
/// assert_eq!(order(&addresses, false, None), want);
/// let want = parse(&["10.0.0.2:80", "[::1]:80", "10.0.0.1:80", "[::2]:80"]);
/// assert_eq!(order(&addresses, false, Some(addresses[1])), want);
/// ```
pub fn order(
    addresses: &[SocketAddr],
    first_v4: bool,
    last_good: Option<SocketAddr>,
) -> Vec<SocketAddr> {
    let mut ordered = Vec::with_capacity(addresses.len());
    let last_good = last_good.filter(|good| addresses.contains(good));
    ordered.extend(last_good);
    // Whose turn it is.
    let mut v4 = last_good.map_or(first_v4, |good| !good.is_ipv4());
    loop {
        let rest = || addresses.iter().filter(|a| !ordered.contains(a));
        let of_family = rest().find(|a| a.is_ipv4() == v4);
        let Some(next) = of_family.or_else(|| rest().next()).copied() else {
            return ordered;
        };
        ordered.push(next);
        v4 = !next.is_ipv4();
    }
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Begin to connect there; and ask again.
    Start(SocketAddr),
    /// Wait for what is running, but no longer than until then.
    WaitUntil(Instant),
    /// Wait for what is running; there is nothing else to start.
    Wait,
    /// All have failed.
    Exhausted,
}

/// One connection to a host, in the making.
///
/// ```
/// use loopwright::Instant;
/// use loopwright::upstream::eyeballs::{Eyeballs, Settings, Step};
/// let (now, settings) = (Instant::default(), Settings::default());
/// let (six, four) = ("[::1]:80".parse().unwrap(), "127.0.0.1:80".parse().unwrap());
/// let mut eyeballs = Eyeballs::new(&[four, six], None, settings);
/// assert_eq!(eyeballs.next(now), Step::Start(six));
/// assert_eq!(eyeballs.next(now), Step::WaitUntil(now + settings.delay));
/// assert_eq!(eyeballs.next(now + settings.delay), Step::Start(four));
/// assert_eq!(eyeballs.won(four), [six]); // to be given up
/// ```
#[derive(Clone, Debug)]
pub struct Eyeballs {
    settings: Settings,
    /// To be tried, the next one last.
    rest: Vec<SocketAddr>,
    running: Vec<SocketAddr>,
    /// The next is not to start before this.
    not_before: Option<Instant>,
}

impl Eyeballs {
    /// To one of these addresses, in the [`order`] that they are to be tried in.
    pub fn new(
        addresses: &[SocketAddr],
        last_good: Option<SocketAddr>,
        settings: Settings,
    ) -> Eyeballs {
        let mut rest = order(addresses, settings.first_v4, last_good);
        rest.reverse();
        Eyeballs {
            settings,
            rest,
            running: Vec::new(),
            not_before: None,
        }
    }

    /// What to do now. To be asked again after `Start`, after [`failed`](Eyeballs::failed), and when a wait is over.
    pub fn next(&mut self, now: Instant) -> Step {
        if self.running.len() >= self.settings.parallel.max(1) {
            return Step::Wait;
        }
        match (self.rest.last(), self.not_before) {
            (None, _) if self.running.is_empty() => Step::Exhausted,
            (None, _) => Step::Wait,
            (Some(_), Some(at)) if at > now => Step::WaitUntil(at),
            (Some(next), _) => {
                let next = *next;
                self.rest.pop();
                self.running.push(next);
                self.not_before = Some(now + self.settings.delay.max(SHORTEST));
                Step::Start(next)
            }
        }
    }

    /// An attempt has failed: the next need not wait.
    pub fn failed(&mut self, addr: SocketAddr) {
        let before = self.running.len();
        self.running.retain(|running| *running != addr);
        if self.running.len() < before {
            self.not_before = None;
        }
    }

    /// An attempt has succeeded. Returns the others that are running: they are to be given up. Nothing else starts.
    pub fn won(&mut self, addr: SocketAddr) -> Vec<SocketAddr> {
        self.rest.clear();
        let mut others = std::mem::take(&mut self.running);
        others.retain(|running| *running != addr);
        others
    }

    /// The attempts under way.
    pub fn running(&self) -> &[SocketAddr] {
        &self.running
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    /// `4a`: IPv4, the tenth.
    fn addr(name: &str) -> SocketAddr {
        let n = u8::from_str_radix(&name[1..], 16).unwrap();
        match name.starts_with('4') {
            true => ([10, 0, 0, n], 80).into(),
            false => ([0, 0, 0, 0, 0, 0, 0, u16::from(n)], 80).into(),
        }
    }

    fn all(names: &str) -> Vec<SocketAddr> {
        names.split_whitespace().map(addr).collect()
    }

    #[test]
    fn families_take_turns_and_the_last_good_is_first() {
        for (addresses, first_v4, last_good, want) in [
            ("41 42 61 62", false, "", "61 41 62 42"),
            ("41 42 61 62", true, "", "41 61 42 62"),
            ("61 62 63 41", false, "", "61 41 62 63"),
            ("41 42 43", false, "", "41 42 43"),
            ("61", true, "", "61"),
            ("", true, "", ""),
            ("41 42 61 62", false, "42", "42 61 41 62"),
            ("41 42 61 62", false, "62", "62 41 61 42"),
            ("41 42", false, "49", "41 42"),
            ("41 41 61 41 61", false, "41", "41 61"),
        ] {
            let last_good = all(last_good).first().copied();
            assert_eq!(
                order(&all(addresses), first_v4, last_good),
                all(want),
                "{addresses} {last_good:?}"
            );
        }
    }

    #[test]
    fn each_has_a_head_start_and_a_failure_ends_it() {
        let mut eyeballs = Eyeballs::new(&all("61 41 62 42"), None, Settings::default());
        assert_eq!(eyeballs.next(at(0)), Step::Start(addr("61")));
        assert_eq!(eyeballs.next(at(249)), Step::WaitUntil(at(250)));
        eyeballs.failed(addr("61"));
        assert_eq!(eyeballs.next(at(249)), Step::Start(addr("41")));
        assert_eq!(
            eyeballs.next(at(250)),
            Step::WaitUntil(at(499)),
            "counted from the last"
        );
        assert_eq!(eyeballs.next(at(600)), Step::Start(addr("62")));
        // One that is not running is nobody's failure.
        eyeballs.failed(addr("61"));
        assert_eq!(eyeballs.next(at(600)), Step::WaitUntil(at(850)));
        assert_eq!(eyeballs.next(at(850)), Step::Start(addr("42")));
        assert_eq!(eyeballs.next(at(9999)), Step::Wait);
        for name in ["62", "42"] {
            eyeballs.failed(addr(name));
            assert_eq!(eyeballs.next(at(9999)), Step::Wait);
        }
        eyeballs.failed(addr("41"));
        assert_eq!(eyeballs.next(at(9999)), Step::Exhausted);
        assert_eq!(
            Eyeballs::new(&[], None, Settings::default()).next(at(0)),
            Step::Exhausted
        );
    }

    #[test]
    fn one_wins_and_the_others_are_given_up() {
        let mut eyeballs = Eyeballs::new(&all("61 41 62 42"), None, Settings::default());
        for millis in [0, 250, 500] {
            assert!(matches!(eyeballs.next(at(millis)), Step::Start(_)));
        }
        assert_eq!(eyeballs.won(addr("41")), all("61 62"));
        assert!(eyeballs.running().is_empty());
        assert_eq!(eyeballs.next(at(9999)), Step::Exhausted);
    }

    #[test]
    fn so_many_at_once_and_never_a_burst() {
        let settings = Settings {
            delay: Duration::ZERO,
            parallel: 2,
            first_v4: false,
        };
        let mut eyeballs = Eyeballs::new(&all("61 62 63"), None, settings);
        assert_eq!(eyeballs.next(at(0)), Step::Start(addr("61")));
        assert_eq!(eyeballs.next(at(0)), Step::WaitUntil(at(10)));
        assert_eq!(eyeballs.next(at(10)), Step::Start(addr("62")));
        assert_eq!(eyeballs.next(at(20)), Step::Wait);
        eyeballs.failed(addr("62"));
        assert_eq!(eyeballs.next(at(20)), Step::Start(addr("63")));
    }

    proptest! {
        /// Whatever fails, and when: each is tried once, with its head start, in order, and the end is reached.
        #[test]
        fn all_are_tried_once(
            names in prop::collection::vec((any::<bool>(), 0u8..6), 0..12),
            lives in prop::collection::vec(0u64..1500, 12),
            parallel in 1usize..5,
            first_v4 in any::<bool>(),
        ) {
            let named = |(is_four, n): &(bool, u8)| addr(&format!("{}{n:x}", if *is_four { 4 } else { 6 }));
            let addresses: Vec<_> = names.iter().map(named).collect();
            let settings = Settings { parallel, first_v4, ..Settings::default() };
            let mut eyeballs = Eyeballs::new(&addresses, None, settings);
            let (mut now, mut tried, mut ends) = (at(0), Vec::new(), Vec::<(Instant, SocketAddr)>::new());
            let mut free_since = None;
            loop {
                match eyeballs.next(now) {
                    Step::Start(addr) => {
                        let head_start: Option<Instant> = free_since;
                        prop_assert!(head_start.is_none_or(|at| at <= now));
                        free_since = Some(now + settings.delay);
                        ends.push((now + Duration::from_millis(lives[tried.len()]), addr));
                        tried.push(addr);
                        prop_assert!(ends.len() <= parallel);
                        continue;
                    }
                    Step::Exhausted => break,
                    step => {
                        // What comes first: the end of an attempt, or of the wait.
                        ends.sort();
                        let (end, addr) = ends[0];
                        match step {
                            Step::WaitUntil(until) if until <= end => now = until,
                            _ => {
                                now = end;
                                ends.remove(0);
                                eyeballs.failed(addr);
                                free_since = None;
                            }
                        }
                    }
                }
            }
            prop_assert!(ends.is_empty());
            prop_assert_eq!(tried, order(&addresses, first_v4, None));
        }
    }
}
