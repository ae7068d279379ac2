//! Floor 1. While the other side is away: when to try again, and what waits until then.

use super::Publication;
use crate::base::clock::Instant;
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// When to connect again: at a random moment of a span that doubles with each failure, so that those who lost
/// the same server do not all come back at once.
///
/// ```
/// use loopwright::Instant;
/// use loopwright::proto::bus::Backoff;
/// let (now, mut rng) = (Instant::default(), fastrand::Rng::with_seed(1));
/// let mut backoff = Backoff::default();
/// let wait = backoff.failed(now, &mut rng);
/// assert!(wait <= backoff.first);
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backoff {
    /// The first span.
    pub first: Duration,
    /// The longest.
    pub most: Duration,
    /// A connection that has lasted so long was a good one: the next span is the first again.
    pub good: Duration,
    failures: u32,
    connected: Option<Instant>,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff::new(
            Duration::from_millis(100),
            Duration::from_secs(10),
            Duration::from_secs(10),
        )
    }
}

impl Backoff {
    /// No failure yet.
    pub fn new(first: Duration, most: Duration, good: Duration) -> Backoff {
        Backoff {
            first,
            most,
            good,
            failures: 0,
            connected: None,
        }
    }

    /// A connection is of use: made, greeted, ready.
    pub fn connected(&mut self, now: Instant) {
        self.connected = Some(now);
    }

    /// It is lost, or could not be made. Returns how long to wait.
    pub fn failed(&mut self, now: Instant, rng: &mut fastrand::Rng) -> Duration {
        if let Some(since) = self.connected.take()
            && now - since >= self.good
        {
            self.failures = 0;
        }
        let doubled = self
            .first
            .saturating_mul(2u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        let span = u64::try_from(doubled.min(self.most).as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(rng.u64(0..=span))
    }
}

/// What is published while nobody can take it. The oldest goes first when there is too much: what is newest is worth
/// most to who comes back.
///
/// ```
/// use loopwright::Instant;
/// use loopwright::proto::bus::{Kind, Outage, Publication};
/// let now = Instant::default();
/// let mut outage = Outage::new(1024 * 1024, 1);
/// for topic in ["a", "b"] {
///     let (topic, payload, kind) = (topic.into(), "x".into(), Kind::Text);
///     outage.push(Publication { topic, payload, kind, stamp: None }, now);
/// }
/// let (kept, summary) = outage.end(now).unwrap();
/// assert_eq!((kept[0].topic.as_str(), summary.lost), ("b", 1));
/// assert_eq!(outage.end(now), None);
/// ```
#[derive(Debug)]
pub struct Outage {
    limit_bytes: usize,
    limit_messages: usize,
    waiting: VecDeque<Publication>,
    bytes: usize,
    lost: u64,
    since: Option<Instant>,
}

/// An outage in one line, for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// From the first publication that could not be sent.
    pub lasted: Duration,
    /// Publications that waited.
    pub kept: usize,
    /// Publications that found no room.
    pub lost: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { lasted, kept, lost } = self;
        write!(
            f,
            "away for {lasted:.1?}: {kept} publications waited, {lost} were lost"
        )
    }
}

impl Outage {
    /// Nothing waits. A publication counts with its topic and its payload ([`Publication::size`]).
    pub fn new(limit_bytes: usize, limit_messages: usize) -> Outage {
        Outage {
            limit_bytes,
            limit_messages,
            waiting: VecDeque::new(),
            bytes: 0,
            lost: 0,
            since: None,
        }
    }

    /// Has one wait. One that would never fit is lost itself, and nothing else for its sake.
    pub fn push(&mut self, publication: Publication, now: Instant) {
        self.since.get_or_insert(now);
        let size = publication.size();
        if size > self.limit_bytes || self.limit_messages == 0 {
            self.lost += 1;
            return;
        }
        self.bytes += size;
        self.waiting.push_back(publication);
        while self.bytes > self.limit_bytes || self.waiting.len() > self.limit_messages {
            let Some(oldest) = self.waiting.pop_front() else {
                break;
            };
            self.bytes -= oldest.size();
            self.lost += 1;
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Publications lost since the last end.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The bus is back: what waited, oldest first, and what to log. `None`: nothing was published meanwhile.
    pub fn end(&mut self, now: Instant) -> Option<(VecDeque<Publication>, Summary)> {
        let since = self.since.take()?;
        let waiting = std::mem::take(&mut self.waiting);
        let summary = Summary {
            lasted: now - since,
            kept: waiting.len(),
            lost: std::mem::take(&mut self.lost),
        };
        self.bytes = 0;
        Some((waiting, summary))
    }
}
