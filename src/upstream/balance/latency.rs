//! Floor 1. Peak EWMA: what a server's latency is expected to be, sensitive to peaks.
//!
//! Source: Finagle, `com.twitter.finagle.loadbalancer.PeakEwma` (Marius Eriksen, Ruben Oanta), and Linkerd after it.
//! A latency above the average becomes the average at once; one below it pulls it down with the time that has
//! passed, so recovery is cautious. What is not heard of for a while decays towards 0: it is tried again.
//! One difference: to look at the average does not change it. In Finagle each look is an observation of 0, so a
//! server that is looked at often is forgiven sooner.

use crate::base::clock::Instant;
use std::time::Duration;

/// An exponentially weighted moving average of latencies.
///
/// ```
/// use loopwright::{Instant, upstream::balance::Ewma};
/// use std::time::Duration;
///
/// let (decay, start) = (Duration::from_secs(10), Instant::default());
/// let mut latency = Ewma::default();
/// assert_eq!(latency.get(start, decay), None);
/// latency.observe(Duration::from_millis(80), start, decay);
/// assert_eq!(latency.get(start, decay), Some(Duration::from_millis(80)));
/// let later = latency.get(start + decay, decay).unwrap();
/// assert_eq!(later.as_millis(), 29); // 80 / e
/// ```
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Ewma {
    /// Microseconds; 0 while nothing is known.
    average: f64,
    at: Instant,
}

/// The cost of a server that has requests in flight and has never answered one: more than any that has. So one
/// request finds out what a new server is like, not a hundred.
const UNKNOWN: f64 = 1e12;

impl Ewma {
    /// An answer that took `latency` has come.
    pub fn observe(&mut self, latency: Duration, now: Instant, decay: Duration) {
        // What took less than the clock's tick is known all the same.
        let latency = (latency.as_micros() as f64).max(1.0);
        let kept = kept(now - self.at, decay);
        self.average = match latency > self.average {
            true => latency,
            false => self.average * kept + latency * (1.0 - kept),
        };
        self.at = now;
    }

    /// The average, as it has decayed until `now`; None while nothing is known.
    pub fn get(&self, now: Instant, decay: Duration) -> Option<Duration> {
        let micros = self.average * kept(now - self.at, decay);
        (self.average > 0.0).then(|| Duration::from_micros(micros as u64))
    }

    /// What one more request is expected to cost, with so many `in_flight` before it.
    pub(super) fn cost(&self, in_flight: u32, now: Instant, decay: Duration) -> f64 {
        match self.average > 0.0 {
            true => self.average * kept(now - self.at, decay) * (f64::from(in_flight) + 1.0),
            false if in_flight == 0 => 0.0,
            false => UNKNOWN + f64::from(in_flight),
        }
    }
}

/// How much of an average is left when so much time has `passed`.
fn kept(passed: Duration, decay: Duration) -> f64 {
    (-passed.as_secs_f64() / decay.as_secs_f64().max(1e-6)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECAY: Duration = Duration::from_secs(10);

    #[test]
    fn a_peak_counts_at_once_and_is_forgiven_slowly() {
        let (ms, mut now) = (Duration::from_millis, Instant::default());
        let mut latency = Ewma::default();
        latency.observe(ms(10), now, DECAY);
        latency.observe(ms(500), now, DECAY);
        assert_eq!(latency.get(now, DECAY), Some(ms(500)));
        for _ in 0..10 {
            now = now + ms(1000);
            latency.observe(ms(10), now, DECAY);
        }
        // 10 + 490 / e after the decay time.
        assert_eq!(latency.get(now, DECAY).unwrap().as_millis(), 190);
    }

    #[test]
    fn to_look_changes_nothing() {
        let ms = Duration::from_millis;
        let (mut seen, mut unseen) = (Ewma::default(), Ewma::default());
        for at in 0..1000 {
            let now = Instant::default() + ms(at);
            if at % 100 == 0 {
                seen.observe(ms(10 + at % 70), now, DECAY);
                unseen.observe(ms(10 + at % 70), now, DECAY);
            }
            seen.cost(3, now, DECAY);
        }
        assert_eq!(seen, unseen);
    }

    #[test]
    fn who_has_never_answered_gets_one_request_and_no_second() {
        let now = Instant::default();
        let (unknown, mut known) = (Ewma::default(), Ewma::default());
        known.observe(Duration::from_secs(60), now, DECAY);
        assert!(unknown.cost(0, now, DECAY) < known.cost(0, now, DECAY));
        assert!(unknown.cost(1, now, DECAY) > known.cost(1000, now, DECAY));
    }
}
