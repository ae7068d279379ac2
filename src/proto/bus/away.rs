//! Floor 1. While the other side is away: what waits until it is back.

use super::Publication;
use crate::base::clock::Instant;
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

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
/// assert_eq!(outage.end(now), None); // one waits
/// assert_eq!(outage.pop().unwrap().topic, "b");
/// assert_eq!(outage.end(now).unwrap().lost, 1);
/// ```
#[derive(Debug)]
pub struct Outage {
    limit_bytes: usize,
    limit_messages: usize,
    waiting: VecDeque<Publication>,
    bytes: usize,
    kept: u64,
    lost: u64,
    since: Option<Instant>,
}

/// An outage in one line, for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// From the first publication that could not be sent.
    pub lasted: Duration,
    /// Publications that waited and were sent.
    pub kept: u64,
    /// Publications that found no room.
    pub lost: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { lasted, kept, lost } = self;
        write!(
            f,
            "away for {lasted:.1?}: {kept} publications have waited, {lost} were lost"
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
            kept: 0,
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

    /// The oldest that waits. While any does, what is published anew is to be pushed behind it.
    pub fn pop(&mut self) -> Option<Publication> {
        let oldest = self.waiting.pop_front()?;
        self.bytes -= oldest.size();
        self.kept += 1;
        Some(oldest)
    }

    /// The bus is back, and all that waited has been sent: what to log. `None`: something waits still, or nothing
    /// was published meanwhile.
    pub fn end(&mut self, now: Instant) -> Option<Summary> {
        if !self.waiting.is_empty() {
            return None;
        }
        let since = self.since.take()?;
        Some(Summary {
            lasted: now - since,
            kept: std::mem::take(&mut self.kept),
            lost: std::mem::take(&mut self.lost),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::bus::Kind;

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    fn publication(topic: &str, bytes: usize) -> Publication {
        Publication {
            topic: topic.into(),
            payload: vec![b'x'; bytes].into(),
            kind: Kind::Text,
            stamp: None,
        }
    }

    #[test]
    fn the_oldest_goes_first() {
        let size = publication("a", 100).size();
        for (bytes, messages, kept, lost) in [
            (usize::MAX, 3, &["c", "d", "e"][..], 2),
            (size * 2, 10, &["d", "e"], 3),
            (size * 2 - 1, 10, &["e"], 4),
            (size - 1, 10, &[], 5),
            (usize::MAX, 0, &[], 5),
            (usize::MAX, 5, &["a", "b", "c", "d", "e"], 0),
        ] {
            let mut outage = Outage::new(bytes, messages);
            assert_eq!(outage.end(at(0)), None, "there was none");
            for (n, topic) in ["a", "b", "c", "d", "e"].iter().enumerate() {
                outage.push(publication(topic, 100), at(100 * n as u64));
            }
            assert_eq!((outage.len(), outage.lost()), (kept.len(), lost));
            if !outage.is_empty() {
                assert_eq!(outage.end(at(0)), None, "some wait");
            }
            let popped: Vec<_> = std::iter::from_fn(|| outage.pop()).collect();
            let topics: Vec<_> = popped.iter().map(|p| p.topic.as_str()).collect();
            assert_eq!(topics, kept);
            let summary = outage.end(at(2500)).expect("an outage");
            let want = Summary {
                lasted: Duration::from_millis(2500),
                kept: kept.len() as u64,
                lost,
            };
            assert_eq!(summary, want);
            assert_eq!(
                (outage.bytes, outage.lost(), outage.end(at(0))),
                (0, 0, None)
            );
        }
        // One that never fits takes nothing along.
        let mut outage = Outage::new(size * 2, 10);
        outage.push(publication("a", 100), at(0));
        outage.push(publication("b", 10_000), at(0));
        assert_eq!((outage.len(), outage.lost()), (1, 1));
        outage.pop();
        let summary = outage.end(at(3210)).expect("an outage").to_string();
        assert_eq!(
            summary,
            "away for 3.2s: 1 publications have waited, 1 were lost"
        );
    }
}
