//! Floor 2. Names of servers: how they are looked up, and which look-ups wait for their turn.
//!
//! A look-up blocks a thread of [`crate::Ctx::offload`], which files and others share: so only a few are made at once.
//! Invariant: what was `begun` is `ended` once, whatever came of it; each name of a group is in here once at most.

use super::mistake::{Mistake, Place};
use crate::base::lookup::Question;
use crate::upstream::{eyeballs, names};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// How names of upstreams' servers are looked up, and their addresses tried.
///
/// ```
/// use loopwright::{App, Lookups, Server, Upstream};
/// use std::time::Duration;
/// let mut app: App = App::new();
/// app.upstream("api", Upstream::new(["dns:api.internal:8080"]));
/// let lookups = Lookups { longest: Duration::from_secs(10), ..Lookups::default() };
/// let server = Server::builder().listen("127.0.0.1:0").lookups(lookups).build(app, ());
/// # drop(server);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookups {
    /// The name servers that are asked. Default none: those of `/etc/resolv.conf`. With the feature `dns` only.
    pub servers: Vec<SocketAddr>,
    /// An answer holds for no shorter time, whatever it says itself. Default 1 s.
    pub shortest: Duration,
    /// Nor for longer. Default 5 min.
    pub longest: Duration,
    /// For how long, if it does not say. Default 30 s.
    pub unsaid: Duration,
    /// That there is no such name holds for so long. Default 5 s.
    pub negative: Duration,
    /// A name that is gone keeps its addresses for so long. Default 30 s.
    pub hold: Duration,
    /// The longest pause before a look-up that has failed is made again. Default 30 s.
    pub retry: Duration,
    /// So many addresses of one name are used. Default 256.
    pub addresses: usize,
    /// So many look-ups are made at once; each takes one of `limits.offload_threads`. Default 2.
    pub at_once: usize,
    /// An address of a name has so much of a head start before the next is tried beside it (RFC 8305). Default
    /// 250 ms.
    pub delay: Duration,
    /// Whether a name's IPv4 addresses are tried before the others. Default no.
    pub prefer_v4: bool,
}

impl Default for Lookups {
    fn default() -> Lookups {
        let (names, eyeballs) = (names::Settings::default(), eyeballs::Settings::default());
        Lookups {
            servers: Vec::new(),
            shortest: names.shortest,
            longest: names.longest,
            unsaid: names.unsaid,
            negative: names.negative,
            hold: names.hold,
            retry: names.retry,
            addresses: names.addresses,
            at_once: 2,
            delay: eyeballs.delay,
            prefer_v4: eyeballs.first_v4,
        }
    }
}

impl Lookups {
    pub(crate) fn names(&self) -> names::Settings {
        names::Settings {
            shortest: self.shortest,
            longest: self.longest,
            unsaid: self.unsaid,
            negative: self.negative,
            hold: self.hold,
            retry: self.retry,
            addresses: self.addresses,
        }
    }

    pub(crate) fn eyeballs(&self) -> eyeballs::Settings {
        eyeballs::Settings {
            delay: self.delay,
            first_v4: self.prefer_v4,
            ..eyeballs::Settings::default()
        }
    }

    /// What cannot be, in words.
    pub(crate) fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut refuse = |key: &str, text: String| {
            let place = Place::Setting(format!("names.{key}"));
            mistakes.push(Mistake::new(place, format!("names.{key}{text}")));
        };
        if self.shortest.is_zero() {
            refuse(
                "shortest",
                " = 0: want more: names would be looked up without end".into(),
            );
        }
        for (key, wait) in [("longest", self.longest), ("retry", self.retry)] {
            if wait < self.shortest {
                refuse(
                    key,
                    format!(" = {wait:?}: want no less than names.shortest"),
                );
            }
        }
        for (key, count) in [("addresses", self.addresses), ("at_once", self.at_once)] {
            if count == 0 {
                refuse(key, " = 0: want 1 or more".into());
            }
        }
        if !cfg!(feature = "dns") && !self.servers.is_empty() {
            refuse("servers", ": only with the feature `dns`".into());
        }
        mistakes
    }
}

/// A name of a group that is to be looked up.
pub(crate) struct Due {
    pub(crate) group: usize,
    pub(crate) name: usize,
    pub(crate) question: Question,
}

/// The look-ups that are to be made, of all groups.
#[derive(Default)]
pub(crate) struct Turns {
    waiting: VecDeque<Due>,
    under_way: usize,
}

impl Turns {
    pub(crate) fn add(&mut self, due: Due) {
        self.waiting.push_back(due);
    }

    /// The next one whose turn it is, with so many at once.
    pub(crate) fn begin(&mut self, at_once: usize) -> Option<Due> {
        if self.under_way >= at_once {
            return None;
        }
        let due = self.waiting.pop_front()?;
        self.under_way += 1;
        Some(due)
    }

    pub(crate) fn end(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_the_others_in_order() {
        let mut turns = Turns::default();
        for name in 0..3 {
            let question = "app:80".parse().unwrap();
            turns.add(Due {
                group: 0,
                name,
                question,
            });
        }
        let begin = |turns: &mut Turns| turns.begin(2).map(|due| due.name);
        assert_eq!(
            (begin(&mut turns), begin(&mut turns), begin(&mut turns)),
            (Some(0), Some(1), None)
        );
        turns.end();
        assert_eq!((begin(&mut turns), begin(&mut turns)), (Some(2), None));
        turns.end();
        turns.end();
        assert_eq!(begin(&mut turns), None);
    }

    #[test]
    fn what_cannot_be_is_said() {
        assert_eq!(Lookups::default().mistakes(), []);
        let said = |lookups: Lookups| {
            lookups
                .mistakes()
                .iter()
                .map(Mistake::to_string)
                .collect::<Vec<_>>()
                .join("\n")
        };
        let zero = Duration::ZERO;
        for (lookups, want) in [
            (
                Lookups {
                    shortest: zero,
                    ..Lookups::default()
                },
                "names.shortest = 0: want more",
            ),
            (
                Lookups {
                    longest: zero,
                    ..Lookups::default()
                },
                "names.longest = 0ns: want no less than names.shortest",
            ),
            (
                Lookups {
                    retry: zero,
                    ..Lookups::default()
                },
                "names.retry = 0ns: want no less",
            ),
            (
                Lookups {
                    addresses: 0,
                    ..Lookups::default()
                },
                "names.addresses = 0: want 1",
            ),
            (
                Lookups {
                    at_once: 0,
                    ..Lookups::default()
                },
                "names.at_once = 0: want 1",
            ),
        ] {
            let text = said(lookups);
            assert!(text.contains(want) && !text.contains('\n'), "{text}");
        }
    }
}
