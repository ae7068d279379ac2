//! Floor 1. When a request is asked again: the rules, and three things they need.
//!
//! - [`may_retry`] has the rules, as one table, read from the top: the first row that holds decides. docs/proxy.md
//!   prints it ([`table`]).
//! - [`Budget`] keeps retries a share of the traffic, so that servers in trouble are not given more of it.
//! - [`Quantile`] knows how long answers take, for asking a second server when the first is slower than most.
//! - [`Replay`] keeps the beginning of a request's body, for sending it again.
//!
//! ```text
//!  Replay:  Filling ──finish──► Whole
//!              └──push beyond the bound──► Gone
//! ```
//!
//! Invariants: what may have reached a server is asked again only if its method is idempotent, and nothing of an
//! answer but a chosen status has come; a Replay holds no more than its bound, in a number of parts that its size
//! bounds; a Budget has ten counts and a Quantile a fixed number of them, whatever the traffic.

use crate::base::clock::Instant;
use bytes::Bytes;
use std::time::Duration;

/// How much of a request has been written to the connection: more than that cannot have arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// Not a byte.
    Nothing,
    /// Its beginning.
    Partly,
    /// All of it.
    Whole,
}

/// Whether a request's body can be sent once more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// It has none.
    None,
    /// All of what was sent is there.
    Replayable,
    /// Some of what was sent is not.
    Gone,
}

/// What went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The server's name could not be resolved.
    Unresolved,
    /// It did not take the connection.
    Refused,
    /// The connection was not there in time.
    ConnectTimeout,
    /// The connection ended before anything of an answer came. `reused`: it had served others before, so the server
    /// may have closed it for being idle while the request was on its way.
    Reset {
        /// Not its first request.
        reused: bool,
    },
    /// The answer did not begin in time.
    FirstByteTimeout,
    /// The answer did not go on, or ended early.
    CutShort,
    /// There is an answer, and it has this status.
    Status(u16),
    /// What came is no HTTP.
    Garbage,
    /// The answer goes beyond a limit.
    Limit,
    /// Nobody had a connection for it: the pool's queue is full, or the wait in it too long.
    NoConnection,
    /// Who asked has gone.
    Abandoned,
}

/// A try that has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// [`http::Method::is_idempotent`] (RFC 9110, section 9.2.2), or known otherwise.
    pub idempotent: bool,
    /// Of the request.
    pub sent: Sent,
    /// Whether anything of an answer has come.
    pub answered: bool,
    /// The request's.
    pub body: Body,
    /// What went wrong.
    pub failure: Failure,
    /// How many tries there were, this one included.
    pub tries: u32,
    /// When all of it must be over.
    pub deadline: Option<Instant>,
}

/// What is chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// How many tries there may be, the first included.
    pub tries: u32,
    /// Answers with these statuses are not passed on while there are tries left.
    pub statuses: Vec<u16>,
    /// Whether a request is asked again when an answer does not begin in time.
    pub timeouts: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            tries: 2,
            statuses: Vec::new(),
            timeouts: false,
        }
    }
}

/// What the rules say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It may be asked again, if the budget has something left.
    Retry,
    /// It may be asked again, whatever the budget says: no server has had work of it.
    Free,
    /// It may not; why.
    No(&'static str),
}

/// A row of the table.
struct Row {
    when: &'static str,
    holds: Holds,
    again: Again,
    why: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    No,
    Paid,
    Free,
}

/// Whether a row holds.
type Holds = fn(&Attempt, &Rules, Instant) -> bool;

const fn no(when: &'static str, why: &'static str, holds: Holds) -> Row {
    Row {
        when,
        holds,
        again: Again::No,
        why,
    }
}

const fn yes(when: &'static str, why: &'static str, holds: Holds) -> Row {
    Row {
        again: Again::Paid,
        ..no(when, why, holds)
    }
}

const fn free(when: &'static str, why: &'static str, holds: Holds) -> Row {
    Row {
        again: Again::Free,
        ..no(when, why, holds)
    }
}

const ROWS: [Row; 17] = [
    no(
        "whoever asked has gone",
        "nobody would read the answer",
        |a, _, _| a.failure == Failure::Abandoned,
    ),
    no(
        "all tries are made",
        "the number of tries is bounded",
        |a, rules, _| a.tries >= rules.tries,
    ),
    no(
        "the time for all tries is over",
        "there is no time left",
        |a, _, now| a.deadline.is_some_and(|deadline| deadline <= now),
    ),
    no(
        "there was no connection to be had",
        "whoever waits is already more than the servers can take",
        |a, _, _| a.failure == Failure::NoConnection,
    ),
    no(
        "the answer is not HTTP",
        "the server may have done anything",
        |a, _, _| a.failure == Failure::Garbage,
    ),
    no(
        "the answer goes beyond a limit",
        "the next would do so too",
        |a, _, _| a.failure == Failure::Limit,
    ),
    no(
        "the answer has a status that is not chosen",
        "it is the answer",
        |a, rules, _| matches!(a.failure, Failure::Status(status) if !rules.statuses.contains(&status)),
    ),
    no(
        "something of an answer has come, and no chosen status",
        "the request was received",
        |a, _, _| a.answered && !matches!(a.failure, Failure::Status(_)),
    ),
    no(
        "the body cannot be sent again",
        "it was larger than what is kept for that",
        |a, _, _| a.body == Body::Gone,
    ),
    free(
        "nothing of the request was sent",
        "no server knows of it, so any method is safe",
        |a, _, _| a.sent == Sent::Nothing,
    ),
    no(
        "the method is not idempotent",
        "it may have been done, and must not be done twice (RFC 9110, 9.2.2)",
        |a, _, _| !a.idempotent,
    ),
    free(
        "a reused connection ended before an answer",
        "the server had closed it for being idle (RFC 9112, 9.3.1)",
        |a, _, _| a.failure == Failure::Reset { reused: true },
    ),
    yes(
        "a fresh connection ended before an answer",
        "another server may do better",
        |a, _, _| a.failure == Failure::Reset { reused: false },
    ),
    no(
        "the answer did not begin in time, and `timeouts` is off",
        "a server that is slow is not given more to do",
        |a, rules, _| a.failure == Failure::FirstByteTimeout && !rules.timeouts,
    ),
    yes(
        "the answer did not begin in time",
        "another server may be faster",
        |a, _, _| a.failure == Failure::FirstByteTimeout,
    ),
    yes(
        "the answer has a chosen status",
        "another server may have a better answer",
        |a, _, _| matches!(a.failure, Failure::Status(_)),
    ),
    no("anything else", "nothing says that it may be", |_, _, _| {
        true
    }),
];

fn row(attempt: &Attempt, rules: &Rules, now: Instant) -> usize {
    let last = ROWS.len() - 1;
    let holds = |row: &Row| (row.holds)(attempt, rules, now);
    ROWS.iter().position(holds).unwrap_or(last)
}

/// Whether a request whose try has failed may be asked again. Whether there is anything left for that is for the
/// [`Budget`] to say.
///
/// ```
/// use loopwright::Instant;
/// use loopwright::upstream::retry::{Attempt, Body, Failure, Rules, Sent, Verdict, may_retry};
///
/// let post = Attempt {
///     idempotent: false,
///     sent: Sent::Nothing,
///     answered: false,
///     body: Body::Replayable,
///     failure: Failure::Refused,
///     tries: 1,
///     deadline: None,
/// };
/// let (rules, now) = (Rules::default(), Instant::default());
/// assert_eq!(may_retry(&post, &rules, now), Verdict::Free);
/// let failure = Failure::Reset { reused: true };
/// let sent = Attempt { sent: Sent::Partly, failure, ..post };
/// assert!(matches!(may_retry(&sent, &rules, now), Verdict::No(_)));
/// ```
pub fn may_retry(attempt: &Attempt, rules: &Rules, now: Instant) -> Verdict {
    let row = &ROWS[row(attempt, rules, now)];
    match row.again {
        Again::Paid => Verdict::Retry,
        Again::Free => Verdict::Free,
        Again::No => Verdict::No(row.why),
    }
}

/// The rules in Markdown, as docs/proxy.md has them.
///
/// ```
/// assert!(loopwright::upstream::retry::table().starts_with("| | when | asked again? | because |"));
/// ```
pub fn table() -> String {
    let rows = ROWS.iter().enumerate().map(|(at, row)| {
        let verdict = match row.again {
            Again::Paid => "**yes**",
            Again::Free => "**yes**, free",
            Again::No => "no",
        };
        format!("| {} | {} | {verdict} | {} |\n", at + 1, row.when, row.why)
    });
    let head = "| | when | asked again? | because |\n| --- | --- | --- | --- |\n";
    head.to_string() + &rows.collect::<String>()
}

/// How many retries there may be: a share of the requests of the last ten seconds, and a few a second besides, for
/// when there are hardly any. After Finagle's `RetryBudget` (finagle.github.io/blog/2016/02/08/retry-budgets), which
/// linkerd and tower have too: no number of tries per request keeps servers in trouble from being asked several
/// times as much as when all was well.
///
/// ```
/// use loopwright::Instant;
/// use loopwright::upstream::retry::Budget;
///
/// let now = Instant::default();
/// let mut budget = Budget::new(0.2, 0);
/// (0..50).for_each(|_| budget.deposit(now)); // for each request's first try
/// let retries = (0..50).filter(|_| budget.withdraw(now)).count();
/// assert_eq!(retries, 10);
/// ```
#[derive(Clone, Debug)]
pub struct Budget {
    share: f64,
    floor: u32,
    /// Requests and retries of each second of the window.
    seconds: [(u32, u32); WINDOW],
    /// The last second there is in `seconds`.
    second: u64,
}

/// Seconds that a request counts for.
const WINDOW: usize = 10;

impl Budget {
    /// `share`: of 1. `floor`: retries a second that are always there, over the window: so many times ten at once.
    pub fn new(share: f64, floor: u32) -> Budget {
        Budget {
            share,
            floor,
            seconds: [(0, 0); WINDOW],
            second: 0,
        }
    }

    /// A request is tried for the first time.
    pub fn deposit(&mut self, now: Instant) {
        let (requests, _) = self.current(now);
        *requests = requests.saturating_add(1);
    }

    /// Takes a retry. `false`: there is none.
    pub fn withdraw(&mut self, now: Instant) -> bool {
        let may = self.left(now) >= 1.0;
        if may {
            let (_, retries) = self.current(now);
            *retries = retries.saturating_add(1);
        }
        may
    }

    /// How many retries are left.
    pub fn left(&mut self, now: Instant) -> f64 {
        self.current(now);
        let sum = |counts: (f64, f64), &(requests, retries): &(u32, u32)| {
            (
                counts.0 + f64::from(requests),
                counts.1 + f64::from(retries),
            )
        };
        let (requests, retries) = self.seconds.iter().fold((0.0, 0.0), sum);
        let reserve = f64::from(self.floor) * WINDOW as f64;
        // A hair more, so that ten times a tenth is one.
        requests * self.share + reserve - retries + 1e-9
    }

    /// This second's counts, after forgetting those whose time is over.
    fn current(&mut self, now: Instant) -> &mut (u32, u32) {
        let second = now.as_micros() / 1_000_000;
        let passed = second.saturating_sub(self.second);
        for gone in 0..passed.min(WINDOW as u64) {
            self.seconds[((second - gone) % WINDOW as u64) as usize] = (0, 0);
        }
        self.second = self.second.max(second);
        &mut self.seconds[(self.second % WINDOW as u64) as usize]
    }
}

/// The latency that all but a share of answers stay below, learnt from them as they come.
///
/// A histogram whose buckets are a sixteenth of their value wide (as in G. Tene's HdrHistogram), so what it says is
/// at most that much too long. When it has counted [`Quantile::MEMORY`] answers, all counts are halved: so it
/// forgets, and follows servers that become faster or slower. The P² algorithm (R. Jain, I. Chlamtac, 1985) needs five
/// numbers only, but never forgets.
///
/// ```
/// use loopwright::upstream::retry::Quantile;
/// use std::time::Duration;
///
/// let mut p95 = Quantile::new(0.95);
/// assert_eq!(p95.get(), None); // it has seen too little
/// (1..=500).for_each(|ms| p95.record(Duration::from_millis(ms)));
/// let Some(got) = p95.get() else { panic!() };
/// assert!(got >= Duration::from_millis(475) && got < Duration::from_millis(475 + 30));
/// ```
#[derive(Clone, Debug)]
pub struct Quantile {
    share: f64,
    /// An answer counts for [`ONE`] when it comes, and less and less.
    counts: Box<[u32]>,
    total: u32,
}

/// What an answer counts for: it can be halved ten times before it is nothing.
const ONE: u32 = 1 << 10;

/// Buckets in each power of two.
const WIDTH: u32 = 16;
/// Up to 2³² µs, which is more than an hour.
const BUCKETS: u32 = (32 - WIDTH.ilog2() + 1) * WIDTH;

/// So many answers must be known that are slower than what is said.
const BEYOND: f64 = 4.0;

impl Quantile {
    /// Answers after which each counts half.
    pub const MEMORY: u32 = 1000;

    /// `share`: of 1, say 0.95; from a half to 0.99, for beyond that it remembers too few answers.
    pub fn new(share: f64) -> Quantile {
        let counts = vec![0; BUCKETS as usize].into_boxed_slice();
        Quantile {
            share: share.clamp(0.5, 0.99),
            counts,
            total: 0,
        }
    }

    /// An answer took so long.
    pub fn record(&mut self, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.counts[bucket(micros)] += ONE;
        self.total += ONE;
        if self.total >= Quantile::MEMORY * ONE {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
    }

    /// What all but a share stay below. `None`: too few are known.
    pub fn get(&self) -> Option<Duration> {
        let beyond = f64::from(self.total) / f64::from(ONE) * (1.0 - self.share);
        // A hair less, so that 80 times 0.05 is four.
        (beyond >= BEYOND - 1e-6).then(|| self.estimate())
    }

    fn estimate(&self) -> Duration {
        let rank = f64::from(self.total) * self.share;
        let mut below = 0;
        let reaches = |&count: &u32| {
            below += count;
            f64::from(below) >= rank - 1e-6
        };
        let found = self.counts.iter().position(reaches);
        Duration::from_micros(most_in(found.unwrap_or(0) as u32))
    }
}

/// The bucket of a latency: up to twice [`WIDTH`] each its own; from there on, its highest digits.
fn bucket(micros: u32) -> usize {
    if micros < WIDTH {
        return micros as usize;
    }
    let power = micros.ilog2() - WIDTH.ilog2();
    (power * WIDTH + (micros >> power)) as usize
}

/// The longest latency in a bucket.
fn most_in(bucket: u32) -> u64 {
    let power = (bucket / WIDTH).saturating_sub(1);
    (u64::from(bucket - power * WIDTH + 1) << power) - 1
}

/// What was sent of a request's body, for sending it again: up to a bound.
///
/// ```
/// use loopwright::upstream::retry::{Body, Replay};
///
/// let mut kept = Replay::new(8);
/// assert!(kept.push(b"four"));
/// let second = kept.clone(); // shares what is in it
/// assert_eq!(second.at(2), "ur");
/// assert!(!kept.push(b"five!"));
/// assert_eq!((kept.body(), kept.len()), (Body::Gone, 0));
/// ```
#[derive(Clone, Debug)]
pub struct Replay {
    /// Of two neighbours one is not small.
    parts: Vec<Bytes>,
    len: usize,
    bound: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Filling,
    Whole,
    Gone,
}

/// Smaller parts are copied together: they would cost more than their bytes, and keep alive what they were cut from.
const SMALL: usize = 1024;

impl Replay {
    /// Keeps up to so many bytes.
    pub fn new(bound: usize) -> Replay {
        Replay {
            parts: Vec::new(),
            len: 0,
            bound,
            state: State::Filling,
        }
    }

    /// Keeps a copy of what comes next. `false`: it goes beyond the bound, none is made, and all is gone.
    pub fn push(&mut self, part: &[u8]) -> bool {
        if self.state == State::Gone {
            return false;
        }
        if part.len() > self.bound - self.len {
            self.give_up();
            return false;
        }
        self.len += part.len();
        let small = part.len() < SMALL;
        match self.parts.last_mut() {
            _ if part.is_empty() => {}
            Some(last) if small && last.len() < SMALL => {
                *last = [&last[..], part].concat().into();
            }
            _ => self.parts.push(Bytes::copy_from_slice(part)),
        }
        true
    }

    /// The body has ended: this is all of it.
    pub fn finish(&mut self) {
        if self.state == State::Filling {
            self.state = State::Whole;
        }
    }

    /// Keeps nothing any longer, for the answer has begun.
    pub fn give_up(&mut self) {
        *self = Replay {
            state: State::Gone,
            ..Replay::new(self.bound)
        };
    }

    /// What there is from this byte on, in one piece that may not be all of it. Empty: nothing yet, or nothing more.
    pub fn at(&self, mut byte: usize) -> Bytes {
        for part in &self.parts {
            if byte < part.len() {
                return part.slice(byte..);
            }
            byte -= part.len();
        }
        Bytes::new()
    }

    /// Bytes kept.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the body has ended, and all of it is here.
    pub fn is_whole(&self) -> bool {
        self.state == State::Whole
    }

    /// As [`may_retry`] asks.
    pub fn body(&self) -> Body {
        match self.state {
            State::Gone => Body::Gone,
            State::Whole if self.is_empty() => Body::None,
            State::Filling | State::Whole => Body::Replayable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;
    use http::Method;
    use proptest::prelude::*;

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1_000)
    }

    /// A GET that was sent and got no answer, on its first try.
    const TRIED: Attempt = Attempt {
        idempotent: true,
        sent: Sent::Whole,
        answered: false,
        body: Body::None,
        failure: Failure::FirstByteTimeout,
        tries: 1,
        deadline: None,
    };

    const FAILURES: [Failure; 13] = [
        Failure::Unresolved,
        Failure::Refused,
        Failure::ConnectTimeout,
        Failure::Reset { reused: true },
        Failure::Reset { reused: false },
        Failure::FirstByteTimeout,
        Failure::CutShort,
        Failure::Status(503),
        Failure::Status(500),
        Failure::Garbage,
        Failure::Limit,
        Failure::NoConnection,
        Failure::Abandoned,
    ];

    fn rules() -> Rules {
        Rules {
            statuses: vec![502, 503, 504],
            timeouts: true,
            ..Rules::default()
        }
    }

    #[test]
    fn each_row_decides_what_it_is_there_for() {
        let of = |failure| Attempt { failure, ..TRIED };
        let unsent = |failure| Attempt {
            sent: Sent::Nothing,
            idempotent: false,
            ..of(failure)
        };
        let answered = |failure| Attempt {
            answered: true,
            ..of(failure)
        };
        let partly = |failure| Attempt {
            sent: Sent::Partly,
            ..of(failure)
        };
        let posted = |attempt| Attempt {
            idempotent: false,
            ..attempt
        };
        let reused = Failure::Reset { reused: true };
        let fresh = Failure::Reset { reused: false };
        let late = Attempt {
            deadline: Some(at(5)),
            ..TRIED
        };
        let unkept = Attempt {
            body: Body::Gone,
            ..partly(fresh)
        };
        let again = Attempt { tries: 2, ..TRIED };
        let patient = Rules {
            timeouts: false,
            ..rules()
        };
        let default = Rules::default();
        let rules = rules();
        let table: &[(usize, Attempt, &Rules)] = &[
            (1, of(Failure::Abandoned), &rules),
            (2, again, &rules),
            (3, late, &rules),
            (4, unsent(Failure::NoConnection), &rules),
            (5, answered(Failure::Garbage), &rules),
            (6, answered(Failure::Limit), &rules),
            (7, answered(Failure::Status(500)), &rules),
            (7, answered(Failure::Status(503)), &default),
            (8, answered(Failure::CutShort), &rules),
            (9, unkept, &rules),
            (10, unsent(Failure::Unresolved), &rules),
            (10, unsent(Failure::Refused), &rules),
            (10, unsent(Failure::ConnectTimeout), &rules),
            (10, unsent(reused), &rules),
            (11, posted(partly(reused)), &rules),
            (11, posted(of(fresh)), &rules),
            (11, posted(answered(Failure::Status(503))), &rules),
            (12, partly(reused), &rules),
            (13, of(fresh), &rules),
            (14, TRIED, &patient),
            (15, TRIED, &rules),
            (16, answered(Failure::Status(503)), &rules),
            (17, of(Failure::Refused), &rules),
        ];
        for (number, attempt, rules) in table {
            let found = row(attempt, rules, at(5)) + 1;
            assert_eq!(found, *number, "{attempt:?}");
        }
        for number in 1..=ROWS.len() {
            let is_shown = table.iter().any(|(shown, ..)| *shown == number);
            assert!(is_shown, "row {number} has no example");
        }
        assert_eq!(may_retry(&late, &rules, at(4)), Verdict::Retry);
        let why = Verdict::No("nobody would read the answer");
        assert_eq!(may_retry(&of(Failure::Abandoned), &rules, at(0)), why);
    }

    #[test]
    fn nothing_is_done_twice_that_must_not_be() {
        let mut retried = 0;
        for bits in 0..1 << 4 {
            let bit = |at: u32| bits >> at & 1 == 1;
            for failure in FAILURES {
                for sent in [Sent::Nothing, Sent::Partly, Sent::Whole] {
                    for body in [Body::None, Body::Replayable, Body::Gone] {
                        let attempt = Attempt {
                            idempotent: bit(0),
                            answered: bit(1),
                            sent,
                            body,
                            failure,
                            tries: 1 + u32::from(bit(2)),
                            deadline: bit(3).then(|| at(1)),
                        };
                        let verdict = may_retry(&attempt, &rules(), at(1));
                        if matches!(verdict, Verdict::No(_)) {
                            continue;
                        }
                        retried += 1;
                        // Only what no server has had work of costs nothing.
                        let is_stale = failure == Failure::Reset { reused: true };
                        let is_free = sent == Sent::Nothing || is_stale;
                        assert_eq!(verdict == Verdict::Free, is_free, "{attempt:?}");
                        assert!(attempt.idempotent || sent == Sent::Nothing);
                        assert!(!attempt.answered || failure == Failure::Status(503));
                        assert!(body != Body::Gone && attempt.tries == 1);
                        assert_eq!(attempt.deadline, None);
                    }
                }
            }
        }
        assert!(retried > 20);
    }

    #[test]
    fn the_manual_has_the_table() {
        let page = include_str!("../../docs/proxy.md");
        assert!(page.contains(&table()), "docs/proxy.md wants:\n{}", table());
    }

    #[test]
    fn idempotent_methods_are_those_of_the_standard() {
        let idempotent = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];
        let others = ["POST", "PATCH", "CONNECT", "LOCK", "get"];
        for (methods, expected) in [(&idempotent[..], true), (&others[..], false)] {
            for name in methods {
                let method = Method::from_bytes(name.as_bytes()).unwrap();
                assert_eq!(method.is_idempotent(), expected, "{name}");
            }
        }
    }

    #[test]
    fn a_budget_is_a_share_of_the_last_seconds_and_a_floor() {
        let mut budget = Budget::new(0.1, 2);
        let taken = |budget: &mut Budget, now| (0..1_000).filter(|_| budget.withdraw(now)).count();
        assert_eq!(taken(&mut budget, at(0)), 20);
        // They are forgotten in the second in which they were taken ten seconds ago.
        assert_eq!(taken(&mut budget, at(9_999)), 0);
        assert_eq!(taken(&mut budget, at(10_000)), 20);
        (0..100).for_each(|_| budget.deposit(at(11_000)));
        assert_eq!(taken(&mut budget, at(12_000)), 10);
        // A clock that stands still or goes back forgets nothing.
        assert_eq!(taken(&mut budget, at(0)), 0);
        assert_eq!(taken(&mut budget, at(12_000)), 0);
        assert_eq!(taken(&mut budget, at(u64::MAX / 1_000)), 20);
        let mut none = Budget::new(0.0, 0);
        none.deposit(at(0));
        assert_eq!(taken(&mut none, at(0)), 0);
    }

    #[test]
    fn buckets_are_next_to_each_other_and_a_sixteenth_wide() {
        assert_eq!(bucket(u32::MAX), BUCKETS as usize - 1);
        assert_eq!(most_in(BUCKETS - 1), u64::from(u32::MAX));
        for at in 0..BUCKETS - 1 {
            let most = u32::try_from(most_in(at)).unwrap();
            assert_eq!(bucket(most), at as usize);
            assert_eq!(bucket(most + 1), at as usize + 1);
        }
    }

    /// Latencies around a middle, some much slower.
    fn record(quantile: &mut Quantile, rng: &mut Rng, count: usize, millis: u64) {
        for _ in 0..count {
            let slow = if rng.u8(..10) == 0 { 3 } else { 1 };
            let micros = rng.u64(millis * 800..millis * 1_200) * slow;
            quantile.record(Duration::from_micros(micros));
        }
    }

    #[test]
    fn a_quantile_follows_servers_that_become_slower_or_faster() {
        let (mut quantile, mut rng) = (Quantile::new(0.8), Rng::with_seed(7));
        for millis in [10, 100, 3] {
            record(&mut quantile, &mut rng, 3_000, millis);
            let got = quantile.get().unwrap().as_millis();
            let (least, most) = (u128::from(millis), u128::from(millis * 13 / 10));
            assert!((least..=most).contains(&got), "{got} of {millis}");
        }
        assert!(quantile.total < Quantile::MEMORY * ONE);
    }

    #[test]
    fn a_quantile_that_knows_too_little_says_nothing() {
        let mut quantile = Quantile::new(0.95);
        for _ in 0..79 {
            quantile.record(Duration::from_millis(3));
        }
        assert_eq!(quantile.get(), None);
        quantile.record(Duration::MAX);
        let got = quantile.get().unwrap();
        assert!(got >= Duration::from_millis(3) && got < Duration::from_micros(3_190));
        // Halving does not make it forget that it knew enough, even of the rarest.
        let mut p99 = Quantile::new(0.99);
        for nth in 0..20_000u64 {
            p99.record(Duration::from_micros(1 + nth));
            assert!(nth < 400 || p99.get().is_some(), "after {nth}");
        }
    }

    #[test]
    fn a_replay_is_what_was_sent_or_it_is_gone() {
        let mut replay = Replay::new(10_000);
        assert_eq!(replay.body(), Body::Replayable);
        // A part is copied, for what it was cut from may be large.
        let cut = Bytes::from(vec![b'c'; 1 << 20]).slice(..10);
        let mut alone = Replay::new(10);
        assert!(alone.push(&cut) && alone.at(0) == cut && alone.at(0).as_ptr() != cut.as_ptr());
        let large = Bytes::from(vec![b'l'; 2_000]);
        let mut sent = Vec::new();
        for _ in 0..3 {
            for part in [&b"small"[..], b"", b"and another"] {
                let part = Bytes::copy_from_slice(part);
                assert!(replay.push(&part));
                sent.extend_from_slice(&part);
            }
            assert!(replay.push(&large));
            sent.extend_from_slice(&large);
        }
        assert_eq!(replay.parts.len(), 6);
        let mut again = Vec::new();
        while !replay.at(again.len()).is_empty() {
            again.extend_from_slice(&replay.at(again.len()));
        }
        assert_eq!((again, replay.len()), (sent.clone(), sent.len()));
        // A clone shares the bytes.
        assert_eq!(replay.clone().at(16).as_ptr(), replay.at(16).as_ptr());
        assert!(!replay.is_whole());
        let fits = Bytes::from(vec![0; 10_000 - sent.len()]);
        assert!(replay.push(&fits));
        replay.finish();
        assert!(replay.is_whole() && replay.body() == Body::Replayable);
        assert!(!replay.push(&Bytes::from_static(b"x")));
        replay.finish();
        assert_eq!((replay.body(), replay.len()), (Body::Gone, 0));
        assert!(!replay.push(&Bytes::new()) && replay.parts.capacity() == 0);

        let mut none = Replay::new(0);
        none.finish();
        assert_eq!(none.body(), Body::None);
    }

    #[test]
    fn many_small_parts_become_few() {
        let mut replay = Replay::new(64 << 10);
        for _ in 0..64 << 10 {
            assert!(replay.push(&Bytes::from_static(b"x")));
        }
        assert_eq!((replay.len(), replay.parts.len()), (64 << 10, 64));
    }

    proptest! {
        #[test]
        fn a_quantile_is_that_of_the_sorted_latencies(
            latencies in prop::collection::vec(0u64..1 << 33, 1..900),
            share in prop_oneof![Just(0.5), Just(0.75), 0.5f64..0.99],
        ) {
            let mut quantile = Quantile::new(share);
            let mut sorted = latencies.clone();
            sorted.sort();
            latencies.into_iter().for_each(|micros| quantile.record(Duration::from_micros(micros)));
            let rank = (sorted.len() as f64 * share).ceil() as usize;
            let exact = sorted[rank - 1].min(u64::from(u32::MAX));
            let got = quantile.estimate().as_micros() as u64;
            prop_assert!(exact <= got && got <= exact + exact / 16, "{got} for {exact}");
        }
    }
}
