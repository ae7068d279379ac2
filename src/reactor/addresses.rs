//! Floor 3. How many connections each client address has open, where that is limited.
//!
//! Counted only while the limit is below that of all connections: else nobody could reach it.

use crate::net::Peer;
use std::collections::HashMap;
use std::net::IpAddr;

#[derive(Default)]
pub(super) struct Addresses {
    open: HashMap<IpAddr, u32>,
    limit: Option<usize>,
}

impl Addresses {
    /// `limit` holds from now on; `peers` are those that are open.
    pub(super) fn new(limit: usize, all: usize, peers: impl Iterator<Item = Peer>) -> Addresses {
        let mut addresses = Addresses {
            open: HashMap::new(),
            limit: (limit < all).then_some(limit),
        };
        peers.for_each(|peer| addresses.enter(&peer));
        addresses
    }

    /// Whether another one from there would be too many.
    pub(super) fn is_full(&self, peer: &Peer) -> bool {
        match (self.limit, key(peer)) {
            (Some(limit), Some(key)) => self
                .open
                .get(&key)
                .is_some_and(|&open| open as usize >= limit),
            _ => false,
        }
    }

    pub(super) fn enter(&mut self, peer: &Peer) {
        if let (Some(_), Some(key)) = (self.limit, key(peer)) {
            *self.open.entry(key).or_default() += 1;
        }
    }

    pub(super) fn leave(&mut self, peer: &Peer) {
        let (Some(_), Some(key)) = (self.limit, key(peer)) else {
            return;
        };
        if let Some(open) = self.open.get_mut(&key) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(&key);
            }
        }
    }
}

/// Whom connections are counted for: an IPv4 address, or an IPv6 /64, which is what one customer gets.
fn key(peer: &Peer) -> Option<IpAddr> {
    Some(match peer.ip()?.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
        v4 => v4,
    })
}
