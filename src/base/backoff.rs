//! Floor 0. When to try again what has failed.

use crate::base::clock::Instant;
use std::time::Duration;

/// When to connect again: at a random moment of a span that doubles with each failure, so that those who lost
/// the same server do not all come back at once.
///
/// ```
/// use loopwright::Instant;
/// use loopwright::base::backoff::Backoff;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    #[test]
    fn spans_double_and_begin_anew_after_a_good_connection() {
        let mut rng = fastrand::Rng::with_seed(7);
        // The longest of many draws is near its span: (0, span] is what is drawn from.
        let mut spans = |events: &[Option<u64>]| {
            let mut longest = vec![Duration::ZERO; events.len()];
            for _ in 0..2000 {
                let (mut backoff, mut now) = (Backoff::default(), at(0));
                for (lasted, longest) in events.iter().zip(&mut longest) {
                    if let Some(lasted) = lasted {
                        backoff.connected(now);
                        now = now + Duration::from_millis(*lasted);
                    }
                    *longest = backoff.failed(now, &mut rng).max(*longest);
                }
            }
            longest
        };
        let close = |got: Vec<Duration>, want: &[u64]| {
            for (got, want) in got.into_iter().zip(want) {
                let want = Duration::from_millis(*want);
                assert!(got <= want && got > want * 98 / 100, "{got:?}, {want:?}");
            }
        };
        close(
            spans(&[None; 10]),
            &[100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000],
        );
        // Too short to be good, then good.
        close(
            spans(&[None, Some(9_999), Some(10_000), None]),
            &[100, 200, 100, 200],
        );
        // However often.
        let mut backoff = Backoff::default();
        let most = (0..100).map(|_| backoff.failed(at(0), &mut rng)).max();
        assert!(most.is_some_and(|most| most <= backoff.most));
    }
}
