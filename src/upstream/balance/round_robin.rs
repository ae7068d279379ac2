//! Floor 1. Smooth weighted round robin.
//!
//! Source: nginx, `ngx_http_upstream_get_peer` in `src/http/ngx_http_upstream_round_robin.c` (Maxim Dounin, 2012).
//! Each turn every server earns its weight, the richest is chosen and pays what all have earned. Weights 5, 1, 1
//! give `a a b a c a a`, where the plain algorithm gives `a a a a a b c`.
//!
//! Invariant: a turn leaves the sum of all credits as it was.

use super::Server;

/// The server whose turn it is, of those that `is_in` and are eligible.
pub(super) fn choose(servers: &mut [Server], is_in: impl Fn(&Server) -> bool) -> Option<usize> {
    let (mut earned, mut richest) = (0, None);
    for (ix, server) in servers.iter_mut().enumerate() {
        if server.units == 0 || !is_in(server) {
            continue;
        }
        server.credit += i64::from(server.units);
        earned += i64::from(server.units);
        if richest.is_none_or(|(_, credit)| server.credit > credit) {
            richest = Some((ix, server.credit));
        }
    }
    let (ix, _) = richest?;
    servers[ix].credit -= earned;
    Some(ix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_spread_and_not_in_a_row() {
        let mut servers: Vec<Server> = [("a", 5), ("b", 1), ("c", 1)]
            .map(|(name, weight)| Server::new(name, weight))
            .into();
        servers.iter_mut().for_each(|s| s.units = s.weight);
        let turns: String = (0..14)
            .filter_map(|_| choose(&mut servers, |_| true))
            .map(|ix| ["a", "b", "c"][ix])
            .collect();
        assert_eq!(turns, "aabacaaaabacaa");
        assert!(servers.iter().all(|s| s.credit == 0));
    }
}
