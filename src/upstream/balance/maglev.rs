//! Floor 1. Maglev's table: a key's place in it names its server, and stays when others come and go.
//!
//! Source: D. Eisenbud and others, "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4.
//! Each server has a permutation of the places, from its name; in turns, each takes the first of its places that
//! is free. Weights as in Envoy's `maglev_lb.cc`: a lighter server sits out some of the turns.
//!
//! Invariants: a table is full, or empty if there are no servers; it depends on names, weights and backups, not
//! on numbers or the order in which servers came, so all workers have the same.

use super::hash;
use smallvec::SmallVec;

/// Places of the tables, primes. The paper advises hundred for each server or more; there are few sizes,
/// because with another size nearly every key moves.
const SIZES: [usize; 3] = [4_099, 16_411, 65_537];
/// Servers that a table may name.
pub const MAX_SERVERS: usize = 655;

const FREE: u16 = u16::MAX;

/// One who takes places.
pub(super) struct Claim {
    pub(super) server: u16,
    pub(super) id: u64,
    pub(super) weight: u32,
}

/// Fills `table` anew.
pub(super) fn fill(table: &mut Vec<u16>, claims: impl Iterator<Item = Claim>) {
    let mut claims: SmallVec<[Claim; 16]> = claims.collect();
    claims.sort_unstable_by_key(|claim| (claim.id, claim.server));
    table.clear();
    let Some(heaviest) = claims.iter().map(|claim| claim.weight).max() else {
        return;
    };
    let fits = |size: &usize| *size >= 100 * claims.len();
    let size = SIZES.into_iter().find(fits).unwrap_or(SIZES[2]);
    table.resize(size, FREE);

    let place = |hash: u64, places: usize| (hash % places as u64) as usize;
    // Where each is in its permutation, its step, and what it has saved for its next turn.
    let mut turns: SmallVec<[(usize, usize, u32); 16]> = claims
        .iter()
        .map(|claim| {
            let step = place(hash::mix(claim.id), size - 1) + 1;
            (place(claim.id, size), step, heaviest - claim.weight)
        })
        .collect();
    let mut free = size;
    while free > 0 {
        for (claim, (at, step, saved)) in claims.iter().zip(&mut turns) {
            *saved += claim.weight;
            if *saved < heaviest || free == 0 {
                continue;
            }
            *saved -= heaviest;
            while table[*at] != FREE {
                *at = (*at + *step) % size;
            }
            table[*at] = claim.server;
            free -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(servers: &[(u16, u32)]) -> Vec<u16> {
        let mut table = Vec::new();
        let claim = |&(server, weight): &(u16, u32)| Claim {
            server,
            id: hash::of(format!("10.0.0.{server}:80").as_bytes()),
            weight,
        };
        fill(&mut table, servers.iter().map(claim));
        table
    }

    fn equal(servers: u16) -> Vec<(u16, u32)> {
        (0..servers).map(|server| (server, 1)).collect()
    }

    fn places(table: &[u16], server: u16) -> f64 {
        table.iter().filter(|&&s| s == server).count() as f64
    }

    #[test]
    fn sizes_are_primes_and_large_enough() {
        for size in SIZES {
            assert!(
                (2..size)
                    .take_while(|d| d * d <= size)
                    .all(|d| size % d > 0)
            );
        }
        assert!(SIZES[2] >= 100 * MAX_SERVERS);
        assert!(MAX_SERVERS < usize::from(FREE));
        assert_eq!(table(&equal(40)).len(), 4_099);
        assert_eq!(table(&equal(41)).len(), 16_411);
        assert_eq!(table(&equal(655)).len(), 65_537);
        assert!(table(&[]).is_empty());
    }

    #[test]
    fn every_server_has_its_share_to_one_place() {
        for servers in [1, 2, 3, 10, 40, 200, 655] {
            let table = table(&equal(servers));
            let fair = table.len() as f64 / f64::from(servers);
            for server in 0..servers {
                assert!((places(&table, server) - fair).abs() <= 1.0);
            }
        }
    }

    #[test]
    fn places_are_as_weights() {
        let table = table(&[(0, 1), (1, 2), (2, 3), (3, 100)]);
        let unit = table.len() as f64 / 106.0;
        for (server, weight) in [(0, 1.0), (1, 2.0), (2, 3.0), (3, 100.0)] {
            let off = (places(&table, server) - unit * weight).abs();
            assert!(off <= 2.0, "{server}: {off}");
        }
    }

    #[test]
    fn the_lightest_has_a_place_among_the_heaviest() {
        let mut servers: Vec<_> = (0..10).map(|server| (server, 1000)).collect();
        servers.push((10, 1));
        assert_eq!(places(&table(&servers), 10), 1.0);
    }

    #[test]
    fn the_order_of_the_servers_does_not_matter() {
        let mut servers = equal(10);
        let before = table(&servers);
        servers.reverse();
        assert_eq!(before, table(&servers));
    }

    /// The least that must move is the share of the one that leaves. Of the others' places the paper loses a few.
    #[test]
    fn little_moves_when_a_server_leaves() {
        for servers in [3, 10, 40, 100] {
            let before = table(&equal(servers));
            let (mut moved, mut needless) = (0.0, 0.0f64);
            for left in 0..servers {
                let mut rest = equal(servers);
                rest.remove(usize::from(left));
                let after = table(&rest);
                let changed = before.iter().zip(&after).filter(|(b, a)| b != a);
                moved += changed.clone().count() as f64 / before.len() as f64;
                let kept = changed.filter(|(b, _)| **b != left).count() as f64;
                needless = needless.max(kept / before.len() as f64);
            }
            let mean = moved / f64::from(servers);
            println!(
                "{servers} servers: {:.2} % of {} places move when one leaves, {:.2} % at the least; {:.2} % needlessly at worst",
                mean * 100.0,
                before.len(),
                100.0 / f64::from(servers),
                needless * 100.0
            );
            assert!(needless < 0.05, "{servers}: {needless}");
        }
    }
}
