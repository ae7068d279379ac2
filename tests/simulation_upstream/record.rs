//! What has really happened: noted by the clients and the upstreams of a run, for the judgement.

use std::collections::{BTreeMap, BTreeSet};

/// Names one request: sixteen bytes, of which its bodies consist.
pub(crate) type Token = String;

pub(crate) fn token(client: usize, n: usize) -> Token {
    format!("_c{client:04}r{n:04}_____")
}

/// A body of this length that belongs to a token.
pub(crate) fn body(token: &str, len: usize) -> Vec<u8> {
    token.bytes().cycle().take(len).collect()
}

/// Where a body is somebody else's.
pub(crate) fn stranger(token: &str, body: &[u8]) -> Option<usize> {
    let own = token.bytes().cycle();
    body.iter().zip(own).position(|(a, b)| *a != b)
}

#[derive(Default)]
pub(crate) struct Record {
    /// On how many connections each request has come.
    pub(crate) arrivals: BTreeMap<Token, usize>,
    /// What an upstream has done wrong while it had this request.
    pub(crate) faults: BTreeMap<Token, Vec<&'static str>>,
    /// Requests whose answer was followed by one that nobody has asked for: the next on that connection may get it.
    pub(crate) poisoned: BTreeSet<Token>,
    /// Wrong while nobody was served: refused, never connected, closed when idle.
    pub(crate) idle_faults: usize,
    /// There may be too many for the queue, or too few servers.
    pub(crate) may_be_full: bool,
    /// All tries together have a limit.
    pub(crate) may_be_late: bool,
    /// What the server has done wrong.
    pub(crate) errors: Vec<String>,
    pub(crate) tunnels: usize,
    pub(crate) retried: usize,
    pub(crate) reused: usize,
}

impl Record {
    pub(crate) fn fault(&mut self, token: &str, what: &'static str) {
        self.faults.entry(token.to_string()).or_default().push(what);
    }
}
