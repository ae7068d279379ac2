//! Floor 4. What carries publications between processes, behind [`App::bus`](crate::App::bus): [`Redis`], through a
//! server, and [`Workers`], straight from each process of a parent to the others.
//!
//! ```text
//! Ctx::publish ─► Bus::publish ─► Redis: what waits ─► one connection ─► server ─► others' subscriptions
//!                              └► Workers: each link whose other side wants the topic
//! what comes in ─► Ctx::deliver ─► the subscribers of this process
//! ```
//! Between processes a publication arrives at most once: nothing is sent twice, and what finds no room, or is
//! on its way when a connection breaks, is gone. [`Stats`] counts it, and the log tells.

mod redis;
mod workers;

pub use crate::proto::redis::{Url, UrlError};
pub use redis::{Redis, RedisSettings};
pub use workers::Workers;

use crate::proto::bus::{Arrival, Arrivals, Kind, Pattern, Publication, Stamps, Wants};
use crate::{Ctx, Message};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// How much of anything a bus holds.
///
/// ```
/// use loopwright::service::bus::{BusLimits, Workers};
/// let bus = Workers::new(BusLimits { publication: 64 * 1024, ..BusLimits::default() });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusLimits {
    /// Bytes of one publication; a longer one stays in its process. Default 1 MiB.
    pub publication: usize,
    /// Publications that wait for a Redis that is away or slow; the oldest is lost first. Default 16,384.
    pub queue: usize,
    /// Bytes of publications that wait for Redis, or for each of the other workers. Default 4 MiB.
    pub queue_size: usize,
    /// Patterns that a worker names to another; if it has more, it asks for everything. Default 16,384.
    pub patterns: usize,
}

impl Default for BusLimits {
    fn default() -> BusLimits {
        BusLimits {
            publication: 1 << 20,
            queue: 16 * 1024,
            queue_size: 4 << 20,
            patterns: 16 * 1024,
        }
    }
}

/// Topics whose numbers are remembered, of each process; at most twice as many.
const REMEMBERED: usize = 4096;
/// How long losses are gathered for one line of the log, and patterns that nobody wants any more for one look
/// at what is remembered.
const GATHERED: Duration = Duration::from_secs(1);

/// What a bus has lost so far, and whether it is connected. A handle: it counts on.
///
/// ```
/// use loopwright::App;
/// use loopwright::service::bus::{Redis, RedisSettings};
/// let redis = Redis::new("redis://127.0.0.1".parse().unwrap(), RedisSettings::default());
/// let stats = redis.stats();
/// let mut app: App = App::new();
/// app.bus(redis);
/// app.get("/health/bus", move |_, _, res| {
///     res.text(format!("{} connections, {} lost, {} missed", stats.connections(), stats.lost(), stats.missed()))
/// });
/// ```
#[derive(Clone, Debug, Default)]
pub struct Stats(Rc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    connections: Cell<usize>,
    lost: Cell<u64>,
    unconfirmed: Cell<u64>,
    missed: Cell<u64>,
    /// What a line of the log is to come for.
    untold: Cell<(u64, u64)>,
    is_armed: Cell<bool>,
}

impl Stats {
    /// Connections that can be published to: to Redis, or to other workers.
    pub fn connections(&self) -> usize {
        self.0.connections.get()
    }

    /// Publications of this process that were not sent: too long, no room, refused.
    pub fn lost(&self) -> u64 {
        self.0.lost.get()
    }

    /// Publications of this process that were on their way when the connection to Redis broke. They may have arrived.
    pub fn unconfirmed(&self) -> u64 {
        self.0.unconfirmed.get()
    }

    /// Publications of others that did not arrive, as their numbers tell, or that found no room here.
    pub fn missed(&self) -> u64 {
        self.0.missed.get()
    }

    fn add_lost(&self, n: u64) {
        self.0.lost.set(self.lost() + n);
    }

    /// Counts, and sees to it that the log says so: one line for all of a second.
    fn tell<S: 'static>(&self, cx: &mut Ctx<'_, S>, bus: &'static str, lost: u64, missed: u64) {
        if lost + missed == 0 {
            return;
        }
        self.add_lost(lost);
        self.0.missed.set(self.missed() + missed);
        let (lost_before, missed_before) = self.0.untold.get();
        self.0
            .untold
            .set((lost_before + lost, missed_before + missed));
        if self.0.is_armed.replace(true) {
            return;
        }
        let stats = self.clone();
        cx.after(GATHERED, move |_| {
            stats.0.is_armed.set(false);
            let (lost, missed) = stats.0.untold.take();
            log::warn!(
                "{bus}: {lost} publications from here were lost, {missed} of others were missed"
            );
        });
    }
}

/// Stamps what is published here.
fn stamped(stamps: &mut Stamps, publication: &crate::Publication) -> Publication {
    let kind = match publication.message() {
        Message::Text(_) => Kind::Text,
        Message::Binary(_) => Kind::Binary,
    };
    Publication {
        topic: publication.topic().to_string(),
        payload: publication.bytes(),
        kind,
        stamp: Some(stamps.next(publication.topic())),
    }
}

/// To the subscribers here. `false`: there was no room, or its topic is none.
fn deliver<S: 'static>(cx: &mut Ctx<'_, S>, publication: &Publication) -> bool {
    let message = match (publication.kind, std::str::from_utf8(&publication.payload)) {
        (Kind::Text, Ok(text)) => Message::Text(text),
        _ => Message::Binary(&publication.payload),
    };
    match cx.deliver(&publication.topic, message) {
        Ok(()) => true,
        Err(e) => {
            log::debug!("bus: {:?}: {e}", publication.topic);
            false
        }
    }
}

/// A pattern of this process, for the other side. Every one that can be subscribed to is one.
fn pattern(text: &str) -> Option<Pattern> {
    let parsed = text.parse();
    if let Err(e) = &parsed {
        log::error!("bus: the pattern {text:?} is {e}");
    }
    parsed.ok()
}

/// Looks at the numbers of what comes in. What passed while nobody here wanted it was not missed.
struct Hearing {
    arrivals: Arrivals,
    /// Patterns that were given up lately, whose topics are still in `arrivals`.
    dropped: Wants,
    is_armed: bool,
}

impl Hearing {
    fn new(own: u64) -> Hearing {
        Hearing {
            arrivals: Arrivals::new(own, REMEMBERED),
            dropped: Wants::default(),
            is_armed: false,
        }
    }

    /// Whether it is to be delivered, and how many were missed before it.
    fn see(&mut self, publication: &Publication) -> (bool, u64) {
        match self.arrivals.see(&publication.topic, publication.stamp) {
            Arrival::Own | Arrival::Again => (false, 0),
            Arrival::InOrder => (true, 0),
            Arrival::AfterLoss(_) if self.dropped.wants(&publication.topic) => (true, 0),
            Arrival::AfterLoss(n) => (true, n),
        }
    }

    /// A pattern is given up. Says whether [`Hearing::forget`] is to be called after [`GATHERED`].
    fn unwant(&mut self, pattern: &Pattern) -> bool {
        self.dropped.insert(pattern);
        !std::mem::replace(&mut self.is_armed, true)
    }

    fn forget(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        self.arrivals.retain(|topic| !dropped.wants(topic));
        self.is_armed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::bus::Stamp;

    #[test]
    fn what_passed_while_nobody_listened_is_not_missed() {
        let mut hearing = Hearing::new(1);
        let news: Pattern = "news/*".parse().expect("a pattern");
        let see = |hearing: &mut Hearing, origin, seq| {
            let (topic, payload, kind) = ("news/a".to_string(), "x".into(), Kind::Text);
            let stamp = Some(Stamp { origin, seq });
            hearing.see(&Publication {
                topic,
                payload,
                kind,
                stamp,
            })
        };
        assert_eq!(see(&mut hearing, 1, 1), (false, 0), "our own");
        assert_eq!(see(&mut hearing, 2, 1), (true, 0));
        assert_eq!(see(&mut hearing, 2, 4), (true, 2));
        assert_eq!(
            see(&mut hearing, 2, 4),
            (false, 0),
            "through another pattern"
        );
        assert!(hearing.unwant(&news) && !hearing.unwant(&news));
        assert_eq!(see(&mut hearing, 2, 9), (true, 0), "wanted again, at once");
        hearing.forget();
        assert_eq!(see(&mut hearing, 2, 20), (true, 0), "and after a while");
        assert_eq!(see(&mut hearing, 2, 22), (true, 1));
    }
}
