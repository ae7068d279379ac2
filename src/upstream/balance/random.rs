//! Floor 1. Weighted random, in one pass and with no table.
//!
//! Source: M. T. Chao, "A general purpose unequal probability sampling plan", Biometrika 69 (1982), for a sample
//! of one: each server takes the place of the one chosen so far with the share its weight has in what was seen.

use super::Server;

/// One of the eligible, each as likely as it weighs.
pub(super) fn choose(servers: &[Server], rng: &mut fastrand::Rng) -> Option<usize> {
    let (mut seen, mut chosen) = (0, None);
    for (ix, server) in servers.iter().enumerate().filter(|(_, s)| s.units > 0) {
        seen += server.units;
        if rng.u32(..seen) < server.units {
            chosen = Some(ix);
        }
    }
    chosen
}
