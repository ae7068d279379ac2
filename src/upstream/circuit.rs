//! Floor 1. Circuit limits: how much of a group of servers may be in use at once. What is over a limit is refused at once,
//! with the name of the limit, rather than piled up in front of servers that are slow already.
//!
//! Invariant: of each kind no more than its limit have entered and not left.

use std::fmt;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Connections to servers, idle ones included.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests on a connection.
    Requests,
    /// Those of them that are another try.
    Retries,
}

impl Kind {
    /// The key of its limit, below `[upstreams.NAME]`.
    pub fn setting(self) -> &'static str {
        match self {
            Kind::Connections => "limits.connections",
            Kind::Pending => "limits.pending",
            Kind::Requests => "limits.requests",
            Kind::Retries => "limits.retries",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Connections => "connections",
            Kind::Pending => "requests that wait",
            Kind::Requests => "requests",
            Kind::Retries => "retries",
        })
    }
}

/// A number of each kind: the limits, or what is in use.
///
/// ```
/// use loopwright::upstream::circuit::Counts;
/// let limits = Counts::default();
/// assert_eq!((limits.connections, limits.pending, limits.requests, limits.retries), (4096, 1024, 4096, 64));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Of [`Kind::Connections`].
    pub connections: u32,
    /// Of [`Kind::Pending`].
    pub pending: u32,
    /// Of [`Kind::Requests`].
    pub requests: u32,
    /// Of [`Kind::Retries`].
    pub retries: u32,
}

impl Counts {
    /// None of anything.
    pub const NONE: Counts = Counts {
        connections: 0,
        pending: 0,
        requests: 0,
        retries: 0,
    };

    /// The number of one kind.
    pub fn of(&self, kind: Kind) -> u32 {
        match kind {
            Kind::Connections => self.connections,
            Kind::Pending => self.pending,
            Kind::Requests => self.requests,
            Kind::Retries => self.retries,
        }
    }

    fn of_mut(&mut self, kind: Kind) -> &mut u32 {
        match kind {
            Kind::Connections => &mut self.connections,
            Kind::Pending => &mut self.pending,
            Kind::Requests => &mut self.requests,
            Kind::Retries => &mut self.retries,
        }
    }
}

impl Default for Counts {
    /// The default limits.
    fn default() -> Counts {
        Counts {
            connections: 4096,
            pending: 1024,
            requests: 4096,
            retries: 64,
        }
    }
}

/// A limit is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full {
    /// Which.
    pub which: Kind,
    /// How many there may be.
    pub limit: u32,
    /// The key that says so, below `[upstreams.NAME]`.
    pub setting: &'static str,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Full {
            which,
            limit,
            setting,
        } = self;
        write!(f, "all {limit} {which} are in use (`{setting}`)")
    }
}

impl std::error::Error for Full {}

/// What of a group is in use, and how much may be.
///
/// ```
/// use loopwright::upstream::circuit::{Circuit, Counts, Kind};
/// let mut circuit = Circuit::new(Counts { pending: 1, ..Counts::default() });
/// assert!(circuit.enter(Kind::Pending).is_ok());
/// let full = circuit.enter(Kind::Pending).unwrap_err();
/// assert_eq!(full.to_string(), "all 1 requests that wait are in use (`limits.pending`)");
/// circuit.leave(Kind::Pending);
/// assert!(circuit.enter(Kind::Pending).is_ok());
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Circuit {
    /// They may change while things are in use: what is over a new limit stays until it leaves.
    pub limits: Counts,
    used: Counts,
}

impl Circuit {
    /// Nothing is in use.
    pub fn new(limits: Counts) -> Circuit {
        Circuit {
            limits,
            used: Counts::NONE,
        }
    }

    /// One more; [`leave`](Circuit::leave) gives it back.
    pub fn enter(&mut self, kind: Kind) -> Result<(), Full> {
        let limit = self.limits.of(kind);
        let used = self.used.of_mut(kind);
        if *used >= limit {
            return Err(Full {
                which: kind,
                limit,
                setting: kind.setting(),
            });
        }
        *used += 1;
        Ok(())
    }

    /// One less.
    pub fn leave(&mut self, kind: Kind) {
        let used = self.used.of_mut(kind);
        debug_assert!(*used > 0, "{kind}: who leaves has entered");
        *used = used.saturating_sub(1);
    }

    /// What is in use.
    pub fn used(&self) -> &Counts {
        &self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: [Kind; 4] = [
        Kind::Connections,
        Kind::Pending,
        Kind::Requests,
        Kind::Retries,
    ];

    #[test]
    fn each_kind_has_a_limit_and_a_key_of_its_own() {
        let limits = Counts {
            connections: 1,
            pending: 2,
            requests: 3,
            retries: 0,
        };
        let mut circuit = Circuit::new(limits);
        for (kind, limit, setting) in [
            (Kind::Connections, 1, "limits.connections"),
            (Kind::Pending, 2, "limits.pending"),
            (Kind::Requests, 3, "limits.requests"),
            (Kind::Retries, 0, "limits.retries"),
        ] {
            for _ in 0..limit {
                assert_eq!(circuit.enter(kind), Ok(()));
            }
            let full = circuit.enter(kind).unwrap_err();
            assert_eq!(
                (full.which, full.limit, full.setting),
                (kind, limit, setting)
            );
        }
        assert_eq!(*circuit.used(), limits);
    }

    #[test]
    fn a_limit_that_is_lowered_holds_for_who_comes() {
        let mut circuit = Circuit::new(Counts::default());
        for _ in 0..3 {
            circuit.enter(Kind::Requests).unwrap();
        }
        circuit.limits.requests = 2;
        circuit.leave(Kind::Requests);
        assert!(circuit.enter(Kind::Requests).is_err());
        circuit.leave(Kind::Requests);
        assert!(circuit.enter(Kind::Requests).is_ok());
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit(limit in 0u32..5, steps in prop::collection::vec((0usize..4, any::<bool>()), 0..200)) {
            let mut circuit = Circuit::new(Counts { connections: limit, pending: limit, requests: limit, retries: limit });
            let mut used = [0u32; 4];
            for (at, enters) in steps {
                let kind = KINDS[at];
                if enters {
                    prop_assert_eq!(circuit.enter(kind).is_ok(), used[at] < limit);
                    used[at] = (used[at] + 1).min(limit);
                } else if used[at] > 0 {
                    circuit.leave(kind);
                    used[at] -= 1;
                }
                prop_assert_eq!(KINDS.map(|kind| circuit.used().of(kind)), used);
            }
        }
    }
}
