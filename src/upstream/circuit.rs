//! Floor 1. Circuit limits: how much of a group of servers may be in use at once. What is over a limit is refused at once,
//! with the name of the limit, rather than piled up in front of servers that are slow already.
//!
//! A group counts what is in use (`app/group.rs`): connections and who waits are its pool's, requests and retries its
//! fetches'. Here are the limits, and what is said of one that is reached.

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Connections to servers, idle ones and those being made included.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests under way, those that wait included.
    Requests,
    /// Those of them that were sent more than once.
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

/// A number of each kind: the limits, or what is in use.
///
/// ```
/// use loopwright::upstream::circuit::Counts;
/// let limits = Counts::default();
/// assert_eq!((limits.connections, limits.pending, limits.requests, limits.retries), (4096, 1024, 4096, 64));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Connections to servers, idle ones and those being made included: past it, requests wait.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Requests under way, those that wait included.
    pub requests: u32,
    /// Those of them that were sent more than once: past it, they fail as they would without retries.
    pub retries: u32,
}

impl Counts {
    /// The number of one kind.
    pub fn of(&self, kind: Kind) -> u32 {
        match kind {
            Kind::Connections => self.connections,
            Kind::Pending => self.pending,
            Kind::Requests => self.requests,
            Kind::Retries => self.retries,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_limit_and_a_key_of_its_own() {
        let limits = Counts {
            connections: 1,
            pending: 2,
            requests: 3,
            retries: 0,
        };
        for (kind, limit, setting) in [
            (Kind::Connections, 1, "limits.connections"),
            (Kind::Pending, 2, "limits.pending"),
            (Kind::Requests, 3, "limits.requests"),
            (Kind::Retries, 0, "limits.retries"),
        ] {
            assert_eq!((limits.of(kind), kind.setting()), (limit, setting));
        }
    }
}
