//! Floor 1. What names resolve to, over time. Looking them up blocks, and is done elsewhere; here is decided when, and
//! what follows from the answers.
//!
//! ```text
//!           due                    good                     after its TTL
//! New ───────────► asked ──────────────────► Known ────────────────────────┐
//!                   ▲  │                                                   │
//!                   │  └─ not found, failed ──► none, or what was known ───┤  after a pause
//!                   └──────────────────────────────────────────────────────┘
//! ```
//! Invariants: each name is asked for once at a time; what was known stays known while nobody can say otherwise, and for
//! [`Settings::hold`] when somebody does; the changes, added up, are what is known.

use crate::base::backoff::Backoff;
use crate::base::clock::Instant;
use crate::base::lookup::{Address, Answer, Failure, Question};
use std::collections::HashSet;
use std::time::Duration;

/// For how long answers hold.
///
/// ```
/// use loopwright::upstream::names::Settings;
/// use std::time::Duration;
/// let settings = Settings::default();
/// assert_eq!((settings.shortest, settings.longest), (Duration::from_secs(1), Duration::from_secs(300)));
/// assert_eq!((settings.unsaid, settings.negative), (Duration::from_secs(30), Duration::from_secs(5)));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The shortest time, whatever the answer says. 1 s by default.
    pub shortest: Duration,
    /// The longest. 5 min by default.
    pub longest: Duration,
    /// An answer that does not say. 30 s by default.
    pub unsaid: Duration,
    /// That there is no such name. 5 s by default.
    pub negative: Duration,
    /// A name that is not there any more keeps its addresses for so long: it may only be moving. 30 s by default.
    pub hold: Duration,
    /// After a failure it is tried again at a random moment of a span that doubles with each, up to this. 30 s by default.
    pub retry: Duration,
    /// So many addresses of one name are used, and no more. 256 by default.
    pub addresses: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            shortest: Duration::from_secs(1),
            longest: Duration::from_secs(300),
            unsaid: Duration::from_secs(30),
            negative: Duration::from_secs(5),
            hold: Duration::from_secs(30),
            retry: Duration::from_secs(30),
            addresses: 256,
        }
    }
}

/// What an answer has changed. Priorities are ranks: 0 is the first choice, 1 its backup…
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// Addresses that are new.
    pub added: Vec<Address>,
    /// Those that are gone.
    pub removed: Vec<Address>,
    /// Those with another priority or weight, as they are now.
    pub moved: Vec<Address>,
    /// Something to be logged.
    pub news: Option<News>,
}

impl Change {
    /// Nothing.
    pub fn is_empty(&self) -> bool {
        *self == Change::default()
    }
}

/// What is worth a line in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// Look-ups fail from now on, at first for this reason; so many addresses are kept meanwhile.
    Fails(Failure, usize),
    /// Look-ups succeed again.
    Resolves,
    /// There are more addresses than are used: so many.
    TooMany(usize),
}

#[derive(Clone, Debug)]
struct Name {
    question: Question,
    /// As it was said, sorted.
    said: Vec<Address>,
    /// The same, with ranks for priorities.
    known: Vec<Address>,
    /// When it is to be asked for. `None`: it is being asked for, or is an address itself.
    next: Option<Instant>,
    backoff: Backoff,
    failing: Option<Failure>,
    /// Since when there has been no such name.
    lost: Option<Instant>,
    too_many: bool,
    /// It has been answered, be it with a failure.
    heard: bool,
}

/// The names of a group, known by the numbers that [`add`](Names::add) gives them.
///
/// ```
/// use loopwright::Instant;
/// use loopwright::base::lookup::{Address, Answer};
/// use loopwright::upstream::names::{Names, Settings};
/// let (now, mut rng) = (Instant::default(), fastrand::Rng::with_seed(1));
/// let mut names = Names::new(Settings::default());
/// let (name, _) = names.add("app.internal:8080".parse().unwrap(), now);
/// let (asked, question) = names.due(now).remove(0);
/// assert_eq!((asked, question.to_string().as_str()), (name, "app.internal:8080"));
/// let addr = "10.0.0.1:8080".parse().unwrap();
/// let address = Address { addr, host: "app.internal".into(), priority: 0, weight: 1 };
/// let answer = Answer { addresses: vec![address], ttl: None, missing: None };
/// let change = names.answered(name, Ok(answer), now, &mut rng);
/// assert_eq!(change.added[0].addr, addr);
/// assert_eq!(names.next_deadline().unwrap() - now, Settings::default().unsaid);
/// ```
#[derive(Clone, Debug)]
pub struct Names {
    settings: Settings,
    names: Vec<Name>,
}

impl Names {
    /// None yet.
    pub fn new(settings: Settings) -> Names {
        Names {
            settings,
            names: Vec::new(),
        }
    }

    /// One more, due at once. An IP address is known at once, and for good.
    pub fn add(&mut self, question: Question, now: Instant) -> (usize, Change) {
        let known: Vec<_> = question.literal().into_iter().collect();
        let change = Change {
            added: known.clone(),
            ..Change::default()
        };
        self.names.push(Name {
            heard: !known.is_empty(),
            next: known.is_empty().then_some(now),
            question,
            said: known.clone(),
            known,
            backoff: backoff(&self.settings),
            failing: None,
            lost: None,
            too_many: false,
        });
        (self.names.len() - 1, change)
    }

    /// What is known of a name, by priorities.
    pub fn known(&self, name: usize) -> &[Address] {
        self.names.get(name).map_or(&[], |it| &it.known)
    }

    /// Why a name could not be looked up the last time.
    pub fn failing(&self, name: usize) -> Option<&Failure> {
        self.names.get(name)?.failing.as_ref()
    }

    /// Whether nothing has been heard of a name: neither an answer nor a failure.
    pub fn is_new(&self, name: usize) -> bool {
        self.names.get(name).is_some_and(|it| !it.heard)
    }

    /// Whether there is such a name.
    pub fn has_new(&self) -> bool {
        self.names.iter().any(|it| !it.heard)
    }

    /// What others know of the same name, for one that is new: it need not begin with nothing.
    pub fn adopt(&mut self, name: usize, from: &Names, now: Instant) -> Change {
        let Some(it) = self.names.get_mut(name).filter(|it| !it.heard) else {
            return Change::default();
        };
        let is_it = |other: &&Name| other.question == it.question && !other.known.is_empty();
        let Some(other) = from.names.iter().find(is_it) else {
            return Change::default();
        };
        *it = Name {
            // It may be under way there.
            next: other.next.or(Some(now)),
            ..other.clone()
        };
        Change {
            added: it.known.clone(),
            ..Change::default()
        }
    }

    /// Other settings from now on; what is known holds for as long as it was said to.
    pub fn set(&mut self, settings: Settings) {
        for it in &mut self.names {
            it.backoff = backoff(&settings);
        }
        self.settings = settings;
    }

    /// What is to be looked up now; each is to be [`answered`](Names::answered), be it with a failure.
    pub fn due(&mut self, now: Instant) -> Vec<(usize, Question)> {
        let mut due = Vec::new();
        for (name, it) in self.names.iter_mut().enumerate() {
            if it.next.is_some_and(|next| next <= now) {
                it.next = None;
                due.push((name, it.question.clone()));
            }
        }
        due
    }

    /// When [`due`](Names::due) will have something.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.names.iter().filter_map(|it| it.next).min()
    }

    /// How a look-up went.
    pub fn answered(
        &mut self,
        name: usize,
        result: Result<Answer, Failure>,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Change {
        let settings = &self.settings;
        let Some(it) = self.names.get_mut(name) else {
            return Change::default();
        };
        it.heard = true;
        // An answer without addresses is none.
        let result = result.and_then(|answer| match answer.addresses.is_empty() {
            true => Err(answer.missing.unwrap_or(Failure::NotFound)),
            false => Ok(answer),
        });
        let failure = match &result {
            Ok(answer) => answer.missing.clone(),
            Err(failure) => Some(failure.clone()),
        };
        let wait = match &failure {
            Some(Failure::NotFound) => settings.negative,
            Some(_) => it.backoff.failed(now, rng),
            None => {
                it.backoff.connected(now);
                let ttl = result.as_ref().ok().and_then(|answer| answer.ttl);
                ttl.unwrap_or(settings.unsaid).min(settings.longest)
            }
        };
        it.next = Some(now + wait.max(settings.shortest));

        let is_lost = matches!(result, Err(Failure::NotFound));
        it.lost = is_lost.then(|| it.lost.unwrap_or(now));
        let is_over = it.lost.is_some_and(|since| now - since >= settings.hold);
        let was_many = std::mem::take(&mut it.too_many);
        let mut many = None;
        match result {
            Ok(answer) => {
                let mut said = answer.addresses;
                if answer.missing.is_some() {
                    // What is not said to be there may be in the part that is missing.
                    let unsaid = |before: &&Address| !said.iter().any(|a| is_same(a, before));
                    said.extend(it.said.iter().filter(unsaid).cloned().collect::<Vec<_>>());
                }
                said.sort();
                let mut seen = HashSet::new();
                said.retain(|a| seen.insert((a.host.clone(), a.addr)));
                it.too_many = said.len() > settings.addresses;
                many = (it.too_many && !was_many).then_some(News::TooMany(said.len()));
                said.truncate(settings.addresses);
                it.said = said;
            }
            Err(_) if is_over => it.said.clear(),
            Err(_) => {}
        }
        let known = ranked(&it.said);
        let mut change = difference(&it.known, &known);
        it.known = known;
        let news = match (&failure, &it.failing) {
            (Some(failure), None) => Some(News::Fails(failure.clone(), it.known.len())),
            (None, Some(_)) => Some(News::Resolves),
            _ => None,
        };
        it.failing = failure;
        change.news = news.or(many);
        change
    }
}

/// A look-up that succeeds is a good one, however soon the next fails.
fn backoff(settings: &Settings) -> Backoff {
    Backoff::new(settings.shortest, settings.retry, Duration::ZERO)
}

/// With ranks for priorities: 10, 10, 20 is 0, 0, 1.
fn ranked(sorted: &[Address]) -> Vec<Address> {
    let (mut rank, mut before) = (0, None);
    let rank_one = |address: &Address| {
        rank += u16::from(before.is_some_and(|before| before != address.priority));
        before = Some(address.priority);
        Address {
            priority: rank,
            ..address.clone()
        }
    };
    sorted.iter().map(rank_one).collect()
}

fn is_same(a: &Address, b: &Address) -> bool {
    (&a.host, a.addr) == (&b.host, b.addr)
}

/// From what was known to what is.
fn difference(was: &[Address], is: &[Address]) -> Change {
    let mut change = Change::default();
    for address in is {
        match was.iter().find(|before| is_same(before, address)) {
            None => change.added.push(address.clone()),
            Some(before) if before != address => change.moved.push(address.clone()),
            Some(_) => {}
        }
    }
    let is_gone = |before: &&Address| !is.iter().any(|address| is_same(before, address));
    change.removed = was.iter().filter(is_gone).cloned().collect();
    change
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    fn address(n: u8, priority: u16, weight: u16) -> Address {
        Address {
            priority,
            host: format!("host{n}"),
            addr: ([10, 0, 0, n], 80).into(),
            weight,
        }
    }

    fn answer(all: &[(u8, u16, u16)], ttl: Option<u64>) -> Answer {
        Answer {
            addresses: all.iter().map(|(n, p, w)| address(*n, *p, *w)).collect(),
            ttl: ttl.map(Duration::from_secs),
            missing: None,
        }
    }

    /// One name, looked up when it is due.
    struct One(Names, fastrand::Rng, Instant);

    impl One {
        fn new() -> One {
            let mut names = Names::new(Settings::default());
            let (name, change) = names.add("app:80".parse().unwrap(), at(0));
            assert_eq!((name, change), (0, Change::default()));
            One(names, fastrand::Rng::with_seed(5), at(0))
        }

        fn hear(&mut self, result: Result<Answer, Failure>) -> Change {
            let now = self
                .0
                .next_deadline()
                .expect("nothing is under way")
                .max(self.2);
            self.2 = now;
            assert_eq!(self.0.due(now).len(), 1);
            assert_eq!(
                (self.0.due(now), self.0.next_deadline()),
                (vec![], None),
                "once at a time"
            );
            self.0.answered(0, result, now, &mut self.1)
        }

        fn wait(&self) -> Duration {
            self.0.next_deadline().unwrap() - self.2
        }

        fn known(&self) -> Vec<u8> {
            let last = |a: &Address| match a.addr.ip() {
                std::net::IpAddr::V4(ip) => ip.octets()[3],
                std::net::IpAddr::V6(_) => 0,
            };
            self.0.known(0).iter().map(last).collect()
        }
    }

    #[test]
    fn answers_hold_for_their_ttl_within_bounds() {
        for (ttl, want) in [
            (Some(60), 60),
            (Some(0), 1),
            (Some(86_400), 300),
            (Some(u64::MAX), 300),
            (None, 30),
        ] {
            let mut one = One::new();
            assert_eq!(one.hear(Ok(answer(&[(1, 0, 1)], ttl))).added.len(), 1);
            assert_eq!(one.wait(), Duration::from_secs(want), "{ttl:?}");
        }
    }

    #[test]
    fn what_has_changed_is_told_and_nothing_else() {
        let mut one = One::new();
        let first = one.hear(Ok(answer(&[(2, 0, 1), (1, 0, 1), (2, 0, 1)], None)));
        assert_eq!(first.added, [address(1, 0, 1), address(2, 0, 1)]);
        assert!(
            one.hear(Ok(answer(&[(1, 0, 1), (2, 0, 1)], None)))
                .is_empty(),
            "in another order"
        );
        let change = one.hear(Ok(answer(&[(3, 0, 1), (2, 0, 7)], None)));
        assert_eq!(change.added, [address(3, 0, 1)]);
        assert_eq!(change.removed, [address(1, 0, 1)]);
        assert_eq!(change.moved, [address(2, 0, 7)]);
        assert_eq!(change.news, None);
    }

    #[test]
    fn priorities_become_ranks() {
        let mut one = One::new();
        let change = one.hear(Ok(answer(
            &[(1, 20, 5), (2, 10, 1), (3, 10, 2), (4, 65_535, 1)],
            None,
        )));
        assert_eq!(
            change.added,
            [
                address(2, 0, 1),
                address(3, 0, 2),
                address(1, 1, 5),
                address(4, 2, 1)
            ]
        );
        // The first choice is gone: its backup is the first choice now.
        let change = one.hear(Ok(answer(&[(1, 20, 5)], None)));
        assert_eq!(
            (change.moved, change.removed.len()),
            (vec![address(1, 0, 5)], 3)
        );
    }

    #[test]
    fn what_was_known_stays_while_nobody_can_say() {
        let mut one = One::new();
        one.hear(Ok(answer(&[(1, 0, 1)], Some(10))));
        let change = one.hear(Err(Failure::Timeout));
        assert_eq!(change.news, Some(News::Fails(Failure::Timeout, 1)));
        for _ in 0..50 {
            assert!(one.hear(Err(Failure::Refused("no".into()))).is_empty());
            assert!(one.wait() >= Duration::from_secs(1) && one.wait() <= Duration::from_secs(30));
            assert_eq!(one.known(), [1]);
        }
        assert_eq!(one.0.failing(0), Some(&Failure::Refused("no".into())));
        let change = one.hear(Ok(answer(&[(2, 0, 1)], Some(10))));
        assert_eq!((change.news, one.known()), (Some(News::Resolves), vec![2]));
        assert_eq!(
            (one.0.failing(0), one.wait()),
            (None, Duration::from_secs(10))
        );
    }

    #[test]
    fn pauses_grow_and_begin_anew() {
        let mut longest = [Duration::ZERO; 9];
        for seed in 0..400 {
            let mut one = One::new();
            one.1 = fastrand::Rng::with_seed(seed);
            for (n, longest) in longest.iter_mut().enumerate() {
                if n == 7 {
                    one.hear(Ok(answer(&[(1, 0, 1)], None)));
                }
                one.hear(Err(Failure::Timeout));
                *longest = one.wait().max(*longest);
            }
        }
        let seconds = longest.map(|d| d.as_secs_f32().ceil() as u32);
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30, 1, 2]);
    }

    #[test]
    fn a_name_that_is_gone_keeps_its_addresses_for_a_while() {
        let mut one = One::new();
        one.hear(Ok(answer(&[(1, 0, 1)], Some(5))));
        let change = one.hear(Err(Failure::NotFound));
        assert_eq!(
            (change.news, one.wait().as_secs()),
            (Some(News::Fails(Failure::NotFound, 1)), 5)
        );
        // A doubt in between: not in a row.
        one.hear(Err(Failure::Timeout));
        for _ in 0..6 {
            assert!(one.hear(Err(Failure::NotFound)).is_empty());
        }
        let change = one.hear(Err(Failure::NotFound));
        assert_eq!(
            (change.removed.len(), change.news, one.known()),
            (1, None, vec![])
        );
        // An answer that names nobody says the same.
        let mut one = One::new();
        let change = one.hear(Ok(answer(&[], Some(60))));
        assert_eq!(
            (change.news, one.wait().as_secs()),
            (Some(News::Fails(Failure::NotFound, 0)), 5)
        );
    }

    #[test]
    fn a_name_that_does_not_resolve_at_first_has_no_addresses_yet() {
        let mut one = One::new();
        let change = one.hear(Err(Failure::NotFound));
        assert_eq!((change.added, one.known()), (vec![], vec![]));
        let change = one.hear(Ok(answer(&[(1, 0, 1)], None)));
        assert_eq!((change.added.len(), change.news), (1, Some(News::Resolves)));
    }

    #[test]
    fn a_part_that_is_missing_takes_nothing_away() {
        let mut one = One::new();
        one.hear(Ok(answer(&[(1, 10, 1), (2, 20, 1)], None)));
        let partial = Answer {
            missing: Some(Failure::Timeout),
            ..answer(&[(3, 30, 1), (1, 10, 4)], Some(300))
        };
        let change = one.hear(Ok(partial));
        assert_eq!(
            (change.added, change.removed.len()),
            (vec![address(3, 2, 1)], 0)
        );
        assert_eq!(change.moved, [address(1, 0, 4)]);
        assert_eq!(change.news, Some(News::Fails(Failure::Timeout, 3)));
        assert!(one.wait() <= Duration::from_secs(2), "asked again soon");
        let change = one.hear(Ok(answer(&[(1, 10, 4)], None)));
        assert_eq!(
            (change.removed.len(), change.news),
            (2, Some(News::Resolves))
        );
    }

    #[test]
    fn what_others_know_is_taken_over_by_those_who_know_nothing() {
        let mut old = One::new();
        assert!(old.0.has_new() && old.0.is_new(0));
        let question: Question = "app:80".parse().unwrap();
        let adopt = |from: &Names, now| {
            let mut new = Names::new(Settings::default());
            let (name, _) = new.add(question.clone(), now);
            let change = new.adopt(name, from, now);
            (new, change)
        };
        let (new, change) = adopt(&old.0, at(5));
        assert!(change.is_empty() && new.is_new(0), "nothing is known there");

        old.hear(Ok(answer(&[(1, 0, 1)], Some(60))));
        let (mut new, change) = adopt(&old.0, at(5));
        assert_eq!(change.added, [address(1, 0, 1)]);
        assert!(!new.has_new());
        assert_eq!(new.next_deadline(), Some(at(60_000)));
        assert!(new.adopt(0, &old.0, at(6)).is_empty(), "it knows already");
        // One that is being asked for there is asked for here.
        assert_eq!(old.0.due(at(60_000)).len(), 1);
        assert_eq!(
            adopt(&old.0, at(60_001)).0.next_deadline(),
            Some(at(60_001))
        );
        // A failure is something that was heard.
        let mut rng = fastrand::Rng::with_seed(1);
        let (name, _) = new.add("other:80".parse().unwrap(), at(0));
        assert!(new.has_new() && !new.is_new(0));
        new.due(at(0));
        new.answered(name, Err(Failure::NotFound), at(0), &mut rng);
        assert!(!new.has_new());
    }

    #[test]
    fn addresses_need_no_looking_up() {
        let mut names = Names::new(Settings::default());
        let (name, change) = names.add("[::1]:80".parse().unwrap(), at(0));
        assert_eq!(change.added[0].addr, "[::1]:80".parse().unwrap());
        assert_eq!(names.known(name).len(), 1);
        assert_eq!(
            (names.due(at(u64::MAX / 2000)), names.next_deadline()),
            (vec![], None)
        );
    }

    #[test]
    fn no_more_addresses_than_the_limit() {
        let mut one = One::new();
        one.0.settings.addresses = 3;
        let all: Vec<_> = (1..=9).rev().map(|n| (n, u16::from(n), 1)).collect();
        let change = one.hear(Ok(answer(&all, None)));
        assert_eq!(
            (change.added.len(), change.news),
            (3, Some(News::TooMany(9)))
        );
        assert_eq!(one.known(), [1, 2, 3], "the first choices");
        assert!(one.hear(Ok(answer(&all, None))).is_empty(), "told once");
    }

    proptest! {
        /// The changes, added up, are what is known; whatever is heard, it is asked again.
        #[test]
        fn changes_add_up(
            heard in prop::collection::vec(
                (prop::collection::vec((1u8..9, 0u16..4, 1u16..3), 0..8), 0usize..5, prop::option::of(0u64..400)),
                1..60,
            ),
        ) {
            let mut one = One::new();
            let mut sum: Vec<Address> = Vec::new();
            for (all, kind, ttl) in heard {
                let result = match kind {
                    0 => Err(Failure::NotFound),
                    1 => Err(Failure::Timeout),
                    2 => Ok(Answer { missing: Some(Failure::Timeout), ..answer(&all, ttl) }),
                    _ => Ok(answer(&all, ttl)),
                };
                let is_whole = result.as_ref().is_ok_and(|a| a.missing.is_none() && !a.addresses.is_empty());
                let before = sum.clone();
                let change = one.hear(result);
                for gone in &change.removed {
                    let at = sum.iter().position(|a| a == gone);
                    prop_assert!(at.is_some());
                    sum.remove(at.unwrap());
                }
                for moved in &change.moved {
                    let it = sum.iter_mut().find(|a| is_same(a, moved));
                    prop_assert!(it.as_ref().is_some_and(|it| **it != *moved));
                    *it.unwrap() = moved.clone();
                }
                prop_assert!(change.added.iter().all(|new| !before.iter().any(|a| is_same(a, new))));
                sum.extend(change.added);
                sum.sort();
                prop_assert_eq!(&sum[..], one.0.known(0));
                prop_assert!(is_whole || change.removed.is_empty() || sum.is_empty());
                let wait = one.wait();
                prop_assert!(wait >= Duration::from_secs(1) && wait <= Duration::from_secs(300));
                // Ranks have no gaps.
                let ranks: Vec<_> = sum.iter().map(|a| a.priority).collect();
                prop_assert!(ranks.first().is_none_or(|first| *first == 0));
                prop_assert!(ranks.windows(2).all(|w| w[1] - w[0] <= 1));
            }
        }
    }
}
